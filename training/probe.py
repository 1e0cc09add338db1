"""What this machine can compute with, as one JSON line: `python -m primed.training.probe`.

Run by the doctor in a process of its own: torch takes seconds to load, and a broken driver may take
the process with it.
"""

from __future__ import annotations

import json
from typing import Any

from primed import native


def probe() -> dict[str, Any]:
    """torch: version or ""; error: why it does not load; cuda: the version it was built for or "";
    archs: what it was built for; devices: name, capability and memory of each GPU it can use."""
    found: dict[str, Any] = {
        "native": native.backend(),
        "torch": "",
        "error": "",
        "cuda": "",
        "archs": [],
        "devices": [],
    }
    try:
        import torch
    except (ImportError, OSError) as error:
        return found | {"error": f"{type(error).__name__}: {error}"[:500]}
    found |= {"torch": torch.__version__, "cuda": torch.version.cuda or ""}
    if torch.cuda.is_available():
        found["archs"] = torch.cuda.get_arch_list()
        found["devices"] = [_device(number) for number in range(torch.cuda.device_count())]
    return found


def _device(number: int) -> dict[str, Any]:
    import torch

    about = torch.cuda.get_device_properties(number)
    return {
        "name": about.name,
        "capability": [about.major, about.minor],
        "memory_bytes": about.total_memory,
    }


if __name__ == "__main__":
    print(json.dumps(probe()))
