"""Alarms of a run that comes apart: rising entropy, clipping or gradient norm.

The learner keeps a Trend with its state, so that a resumed learner raises the same alarms. An
alarm is a sentence with its figure; it stops nothing (algorithms.md section 1, "Alarms").
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

CLIP_FRACTION_MAX = 0.3
ENTROPY_RISE_MAX = 2.0  # times the trend
ENTROPY_FLOOR = 0.1  # nats: below it a rise means nothing
GRADIENT_RISE_MAX = 10.0
SETTLE_STEPS = 10  # a young trend judges nobody
_MEMORY = 0.9


class Trend(Struct, frozen=True):
    """Exponential means over the steps so far."""

    steps: int = 0
    entropy: float = 0.0
    grad_norm: float = 0.0


def observe(trend: Trend, metrics: Mapping[str, float]) -> tuple[Trend, str]:
    """The trend with this step in it, and "" or why the run is unstable."""
    alarm = _alarm_of(trend, metrics) if trend.steps >= SETTLE_STEPS else ""
    keep = _MEMORY if trend.steps else 0.0
    return (
        Trend(
            trend.steps + 1,
            keep * trend.entropy + (1 - keep) * metrics["entropy"],
            keep * trend.grad_norm + (1 - keep) * metrics["grad_norm"],
        ),
        alarm,
    )


def _alarm_of(trend: Trend, metrics: Mapping[str, float]) -> str:
    clip, entropy, norm = metrics["clip_fraction"], metrics["entropy"], metrics["grad_norm"]
    if clip > CLIP_FRACTION_MAX:
        return f"unstable: {clip:.0%} of tokens clipped (alarm above {CLIP_FRACTION_MAX:.0%})"
    if entropy > ENTROPY_RISE_MAX * max(trend.entropy, ENTROPY_FLOOR):
        return f"unstable: entropy rose to {entropy:.2f} from {trend.entropy:.2f} nats"
    if norm > GRADIENT_RISE_MAX * trend.grad_norm > 0:
        return f"unstable: gradient norm {norm:.2f}, {norm / trend.grad_norm:.0f} times the trend"
    return ""
