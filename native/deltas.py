"""Lossless deltas between two versions of bf16 weights (twins/delta.py)."""

from __future__ import annotations
