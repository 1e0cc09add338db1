"""Models, engines, environments, learning: torch code that runs in child processes.

No trio and no network here: the daemon starts a child, sends it typed messages
(`primed.training.messages`) and hands over files by path.
"""
