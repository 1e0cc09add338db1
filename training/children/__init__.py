"""What a child process does, by kind: engine, learner or verifier.

Each module has `configure(Configure) -> Server` (see primed.training.child). What they have in
common is in `children.room`.
"""
