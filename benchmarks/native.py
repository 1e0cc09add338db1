"""`make bench NAME=native`: figures of the compiled kernels. ARGS=proofs or ARGS=deltas for a part."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from benchmarks import native_deltas, native_proofs
from benchmarks.figures import Figure, show

# Goals of what native_deltas measures, by the start of a figure's name: the value's goal, or the
# baseline beside it and the goal of the ratio.
VALUE_GOALS = {
    "delta_encode_rate": 500e6,
    "delta_decode_rate": 500e6,
    "quantise_rate": 1e9,
    "delta_size_vs_gap_zstd": 1.0,
}
RATIO_GOALS = {
    "delta_size_ratio": ("design_codec", 1.0),  # on the same steps: other steps have other sizes
    "rne_rate": ("memory_read", 0.5),
    "average_rate": ("memory_read", 0.5),
    "digest_rate": ("blake3", 0.95),
}


def _figure(measured: native_deltas.Figure) -> Figure:
    name, value, unit, about = measured
    for start, goal in VALUE_GOALS.items():
        if name.startswith(start):
            return Figure(name, value, unit, "higher", about.get("memory_read"), goal, about=about)
    for start, (beside, goal) in RATIO_GOALS.items():
        if name.startswith(start):
            return Figure(name, value, unit, "higher", about[beside], goal, "ratio", about)
    return Figure(name, value, unit, "higher", about=about)


def _deltas() -> Iterator[Figure]:
    return map(_figure, native_deltas.figures())


PARTS = {"proofs": native_proofs.figures, "deltas": _deltas}


def main() -> None:
    parser = argparse.ArgumentParser(description="figures of primed.native")
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all without")
    for part in parser.parse_args().parts or PARTS:
        for figure in PARTS[part]():
            show(figure)


if __name__ == "__main__":
    main()
