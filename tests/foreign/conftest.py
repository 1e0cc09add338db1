"""Installs js-libp2p, or skips all tests here, before any of them starts a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from .client import installed


@pytest.fixture(scope="session", autouse=True)
def packages() -> Path:
    return installed()
