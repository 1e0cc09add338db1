"""NVIDIA GPUs: what the driver sees, what torch can use, and whether torch was built for both.

The driver is asked through nvidia-ml-py, which needs no CUDA.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pynvml  # type: ignore[import-untyped]

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
    text += f", {driver}" if driver.version else ""
    if not usable:
        why, remedy = unusable(driver, context.probe)
        yield warn("gpu", f"{text}; torch cannot use it: {why}", remedy)
        return
    yield ok("gpu", text)
    for device in usable:
        yield fits(device, context.probe.get("archs", []))


class Driver(NamedTuple):
    """Its version, and the newest CUDA that it runs, as (major, minor)."""

    version: str = ""
    cuda: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        return f"driver {self.version} for CUDA up to {self.cuda[0]}.{self.cuda[1]}"


def seen_by_driver() -> tuple[Driver, list[str], str]:
    """(driver, each GPU in words, why there are none)."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Driver(), [], str(error)
    try:
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        found = [_in_words(handle) for handle in handles]
        cuda = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())  # 13010 is 13.1
        driver = Driver(str(pynvml.nvmlSystemGetDriverVersion()), (cuda // 1000, cuda % 1000 // 10))
        return driver, found, "the driver lists none"
    finally:
        pynvml.nvmlShutdown()


def _in_words(handle: Any) -> str:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    name = pynvml.nvmlDeviceGetName(handle)
    return f"{name} with {gib(memory.free)} of {gib(memory.total)} free"


def unusable(driver: Driver, probe: dict[str, Any]) -> tuple[str, str]:
    """Why torch sees no GPU where the driver does, and what to do. A driver runs what was built for
    its own major version of CUDA and older ones ("CUDA Compatibility", minor version compatibility)."""
    if not probe.get("torch"):
        return "it does not load", "see the check `torch`"
    if not (built_for := probe["cuda"]):
        return "it is built for the CPU", "install a torch for CUDA: make setup"
    if driver.cuda[0] < int(built_for.partition(".")[0]):
        remedy = f"install a newer driver, or a torch built for CUDA {driver.cuda[0]}"
        return f"it is built for CUDA {built_for}, which needs a newer driver", remedy
    remedy = "give this process the device: docker --gpus all, CUDA_VISIBLE_DEVICES, rights on /dev"
    return f"it is built for CUDA {built_for}, which this driver runs", remedy


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
