"""What can be wrong with what a child is asked to do: typed, so that the daemon can say it.

BadConfig: the run or this machine cannot be served at all (Failed kind `bad_config`).
BadInput: a file or a request is not what it claims to be (Failed kind `bad_input`); nothing of it
has been loaded. Everything else that a child raises is a bug of ours, or the machine's memory.
"""

from __future__ import annotations


class BadConfig(ValueError):
    """The RunSpec cannot be served here; the message says why and, if possible, what to do."""


class BadInput(ValueError):
    """A file or request was refused before anything of it was used; the message says why."""
