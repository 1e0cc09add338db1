"""NVIDIA GPUs: what the driver sees, what torch can use, and whether torch was built for them.

The driver is asked through nvidia-ml-py (setup.cfg, extra `gpu`), which needs no CUDA.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import Any

from primed.node.doctor.context import Context
from primed.node.doctor.results import gib, ok, skip, warn
from primed.node.local_views import CheckView

_ARCH = re.compile(r"(sm|compute)_(\d+)(\d)[a-z]?")


def check(context: Context) -> Iterator[CheckView]:
    driver, devices, why_not = seen_by_driver()
    usable = context.probe.get("devices", [])
    if not devices and not usable:
        yield skip("gpu", f"no NVIDIA GPU seen ({why_not}): everything runs on the CPU")
        return
    text = "; ".join(devices or [device["name"] for device in usable])
    text += f", driver {driver}" if driver else ""
    if not usable:
        remedy = "install torch for CUDA (make setup), and a driver as new as it asks for"
        yield warn("gpu", f"{text}; torch cannot use it", remedy)
        return
    yield ok("gpu", text)
    for device in usable:
        yield fits(device, context.probe.get("archs", []))


def seen_by_driver() -> tuple[str, list[str], str]:
    """(driver's version, each GPU in words, why there are none)."""
    try:
        pynvml = importlib.import_module("pynvml")
    except ImportError:
        return "", [], "nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return "", [], str(error)
    try:
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        found = [_in_words(pynvml, handle) for handle in handles]
        return str(pynvml.nvmlSystemGetDriverVersion()), found, "the driver lists none"
    finally:
        pynvml.nvmlShutdown()


def _in_words(pynvml: Any, handle: Any) -> str:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    name = pynvml.nvmlDeviceGetName(handle)
    return f"{name} with {gib(memory.free)} of {gib(memory.total)} free"


def fits(device: dict[str, Any], archs: list[str]) -> CheckView:
    """Whether torch has code for a device: made for it, for an older one of the same generation, or
    as intermediate code for any older one (CUDA programming guide, "Compute Capability")."""
    major, minor = device["capability"]
    text = f"{device['name']} has compute capability {major}.{minor}, torch is built for "
    text += ", ".join(archs) or "nothing"
    built = [_parsed(arch) for arch in archs]
    is_fit = any(
        (kind == "sm" and at[0] == major and at[1] <= minor)
        or (kind == "compute" and at <= (major, minor))
        for kind, at in built
    )
    if is_fit:
        return ok("compute-capability", text)
    return warn("compute-capability", text, "install a torch built for this GPU")


def _parsed(arch: str) -> tuple[str, tuple[int, int]]:
    match = _ARCH.fullmatch(arch)
    return (match[1], (int(match[2]), int(match[3]))) if match else ("", (99, 99))
