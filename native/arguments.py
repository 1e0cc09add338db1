"""Checks of arguments that every face of `primed.native` shares. Wrong ones are ValueErrors."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)
_CPU = 1  # kDLCPU


def check_array(name: str, array: object, dtype: type[np.generic], dimensions: int) -> None:
    """`array` is a NumPy array of this type with so many dimensions."""
    fits = isinstance(array, np.ndarray) and array.dtype == dtype and array.ndim == dimensions
    if not fits:
        found = f"{getattr(array, 'dtype', type(array).__name__)}{getattr(array, 'shape', '')}"
        wanted = f"{np.dtype(dtype)} with {dimensions} dimensions"
        raise ValueError(f"{name} is {found}, not an array of {wanted}")


def check_range(name: str, value: int, lowest: int, highest: int) -> None:
    """`value` is in [lowest, highest]."""
    if not lowest <= value <= highest:
        raise ValueError(f"{name} = {value} is not in [{lowest}, {highest}]")


def as_numpy(array: Any) -> Any:
    """A CPU array that speaks DLPack (a torch tensor; bf16 viewed as uint16) as a NumPy view of the
    same memory; anything else as it is, for check_array to judge. ValueError if it refuses."""
    if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack_device__"):
        return array
    if array.__dlpack_device__()[0] != _CPU:
        raise ValueError("the array is not in CPU memory")
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError) as error:
        raise ValueError(f"the array cannot be shared: {error}") from error


def plain(array: NDArray[Scalar]) -> NDArray[Scalar]:
    """The array, or a copy if it is not contiguous and aligned: kernels take pointers. A view into a
    mapped file may be neither."""
    made: NDArray[Any] = np.require(array, requirements=["C", "A"])
    return made
