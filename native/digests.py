"""Digests of weights and Merkle leaves (twins/digest.py)."""

from __future__ import annotations
