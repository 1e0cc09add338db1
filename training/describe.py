"""What a RunSpec says of a model and its environments that a machine can find out: the weights
digest of a checkpoint that fits the model, and the digests of installed environments.

    python -m primed.training.describe --weights FILE --model JSON --environment NAME ...

Prints one JSON object; a file that does not fit is one line on standard error and exit code 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from primed.training import environments, models, weights
from primed.training.errors import BadConfig, BadInput
from primed.verify.runspec import ModelSpec


def describe(path: Path, model: dict[str, object], names: list[str]) -> dict[str, object]:
    """Raises BadInput or BadConfig."""
    digest = weights.digest_of_file(path)
    spec = ModelSpec(
        architecture="llama",
        config=model["config"],  # type: ignore[arg-type]  # checked by models.build
        tokenizer=str(model["tokenizer"]),
        weights=digest,
    )
    models.load(spec, path)
    found = {name: environments.load(name).digest.hex() for name in names}
    return {"weights": digest.hex(), "environments": found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--model", type=json.loads, required=True)
    parser.add_argument("--environment", action="append", default=[])
    arguments = parser.parse_args()
    try:
        found = describe(arguments.weights, arguments.model, arguments.environment)
    except (BadInput, BadConfig, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
