"""What a node does in a run, one role a module.

A role is a trio task over its run's `Participation`: it looks at the state (cases, lineages,
ledger), asks its child process for work, and states what came of it as signed events. Roles never
call each other; `Changes` wakes them.
"""
