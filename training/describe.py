"""What a RunSpec must say of things on this machine: digests of weights and environments.

`python -m primed.training.describe --weights FILE --model JSON --environment NAME …` prints one
JSON object {weights, environments: {name: digest}}, after it has made sure that the file fills the
model. A process of its own, since the daemon and the CLI load no tensors. On failure it prints one
line on stderr and exits with 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from primed.training import environments, models, tokenizers, weights
from primed.training.errors import BadConfig, BadInput
from primed.verify.runspec import ModelSpec, Name


class _Model(Struct, frozen=True, forbid_unknown_fields=True):
    config: dict[Name, int | float | bool]
    tokenizer: Name


def describe(weights_path: Path, model_json: str, names: list[str]) -> dict[str, object]:
    """Raises BadConfig, BadInput, OSError."""
    try:
        given = msgspec.json.decode(model_json, type=_Model)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadConfig(f"model: {error}") from error
    tokenizers.load(given.tokenizer)
    spec = ModelSpec(
        architecture="llama", config=given.config, tokenizer=given.tokenizer, weights=bytes(32)
    )
    tensors = weights.load(weights_path, models.shapes_of(models.build(spec)))
    return {
        "weights": weights.digest_of(tensors).hex(),
        "environments": {name: environments.load(name).digest.hex() for name in names},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="primed.training.describe")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--environment", action="append", default=[])
    arguments = parser.parse_args()
    try:
        found = describe(arguments.weights, arguments.model, arguments.environment)
    except (BadConfig, BadInput, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
