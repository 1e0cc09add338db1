"""Real daemons: what is killed comes back, and the rest goes on meanwhile.

A package, so that its shared swarm is stopped after its last test.
"""
