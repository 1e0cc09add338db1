"""What `primed.native` raises for bytes that came from elsewhere. Wrong arguments of our own are
plain ValueErrors."""

from __future__ import annotations


class MalformedBytes(ValueError):
    """The bytes are not something that the matching encoder writes; the message says why."""
