"""A run file: what an originator writes (TOML) to publish a run, and how it becomes a RunSpec.

The same names as the RunSpec, without what a machine can find out: the originator, digests of
environments and of the base checkpoint. Those come from `primed.training.describe` in a process of
its own, since the daemon never loads tensors.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from primed.p2p import peerid
from primed.p2p.errors import UserError
from primed.verify.runspec import (
    Admission,
    EnvironmentSpec,
    Listed,
    ModelSpec,
    Name,
    Parameters,
    Prices,
    ProofSpec,
    Role,
    RunSpec,
    Sampling,
    Training,
)

DESCRIBE_S = 300.0


class ModelFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    architecture: Literal["llama"] = "llama"
    config: dict[str, int | float | bool]
    tokenizer: Name
    weights: str  # path of a safetensors file (bf16), relative to the run file


class EnvironmentFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name
    weight: Annotated[int, Meta(ge=1)] = 1


class ListedFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    peer: str  # base58
    role: Role
    weight: Annotated[int, Meta(ge=1)] = 1


class AdmissionFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    worker: str = "open"
    verifier: str = "listed"
    listed: tuple[ListedFile, ...] = ()


class RunFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name
    model: ModelFile
    environments: tuple[EnvironmentFile, ...]
    proof: ProofSpec
    sampling: Sampling = Sampling()
    training: Training = Training()
    parameters: Parameters = Parameters()
    admission: AdmissionFile = AdmissionFile()
    prices: Prices = Prices()
    toy: bool = False


def read_run_file(path: Path) -> RunFile:
    """Raises UserError that names the offending field."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), RunFile)
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}", "give the path of a run file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise UserError(f"{path}: {error}", "see docs/originator.md for the fields") from error


def weights_path(path: Path, file: RunFile) -> Path:
    return (path.parent / file.model.weights).resolve()


def build_spec(path: Path, file: RunFile, originator: bytes, unix_ms: int) -> RunSpec:
    """Blocking (starts a process): call it in a thread. Raises UserError."""
    found = _describe(weights_path(path, file), file)
    try:
        return msgspec.convert(
            RunSpec(
                name=file.name,
                originator=originator,
                created_unix_ms=unix_ms,
                model=ModelSpec(
                    architecture=file.model.architecture,
                    config=file.model.config,
                    tokenizer=file.model.tokenizer,
                    weights=bytes.fromhex(found["weights"]),
                ),
                environments=tuple(
                    EnvironmentSpec(
                        name=entry.name,
                        digest=bytes.fromhex(found["environments"][entry.name]),
                        weight=entry.weight,
                    )
                    for entry in file.environments
                ),
                sampling=file.sampling,
                proof=file.proof,
                training=file.training,
                parameters=file.parameters,
                admission=_admission(file.admission),
                prices=file.prices,
                toy=file.toy,
            ),
            RunSpec,
        )
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}", "see docs/originator.md for the fields") from error


def _admission(file: AdmissionFile) -> Admission:
    try:
        listed = tuple(
            Listed(peer=peerid.from_text(entry.peer), role=entry.role, weight=entry.weight)
            for entry in file.listed
        )
    except ValueError as error:
        raise UserError(
            f"admission.listed: {error}", "peers are named as `primed id` prints"
        ) from error
    plain: Any = {"worker": file.worker, "verifier": file.verifier}
    return msgspec.structs.replace(msgspec.convert(plain, Admission), listed=listed)


def _describe(weights: Path, file: RunFile) -> dict[str, Any]:
    command = [sys.executable, "-m", "primed.training.describe", "--weights", str(weights)]
    command += [
        "--model",
        json.dumps({"config": file.model.config, "tokenizer": file.model.tokenizer}),
    ]
    for entry in file.environments:
        command += ["--environment", entry.name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DESCRIBE_S, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise UserError(f"the run file does not describe a model: {reason[0]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
