"""How a check says what it found."""

from __future__ import annotations

from primed.node.local_views import CheckView


def ok(id_: str, evidence: str) -> CheckView:
    return CheckView(id=id_, result="ok", evidence=evidence)


def warn(id_: str, evidence: str, remedy: str) -> CheckView:
    return CheckView(id=id_, result="warn", evidence=evidence, remedy=remedy)


def fail(id_: str, evidence: str, remedy: str) -> CheckView:
    return CheckView(id=id_, result="fail", evidence=evidence, remedy=remedy)


def skip(id_: str, why: str) -> CheckView:
    return CheckView(id=id_, result="skip", evidence=why)


def gib(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
