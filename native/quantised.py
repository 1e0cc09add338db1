"""Block quantisation and averages of weights (twins/quantise.py, twins/average.py)."""

from __future__ import annotations
