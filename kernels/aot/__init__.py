"""The Cython provider: kernels compiled ahead of time for several instruction sets.

The level is chosen at import from the processor's features; the environment variable
``FASTNN_ISA`` (``baseline``, ``avx2`` or ``avx512``) forces a lower one.
"""

from __future__ import annotations

import importlib
import os
from functools import cache
from types import ModuleType

from . import _executor as executor

#: Compiled levels that this processor can run, lowest first.
AVAILABLE: tuple[str, ...] = executor.ISA_LEVELS[: executor.ISA_LEVELS.index(executor.cpu_isa) + 1]


def choose_isa() -> str:
    """The level in use: the best there is, or the lower one that ``FASTNN_ISA`` names.

    Raises
    ------
    ValueError
        ``FASTNN_ISA`` names no level, or one that this processor lacks.
    """
    wanted = os.environ.get("FASTNN_ISA")
    if not wanted:
        return AVAILABLE[-1]
    if wanted not in AVAILABLE:
        raise ValueError(
            f"FASTNN_ISA is {wanted!r}; this processor runs the levels {', '.join(AVAILABLE)}"
        )
    return wanted


@cache
def core(dtype: str, isa: str) -> ModuleType:
    """The compiled kernels for a number type (``float32``, ``float64``) and a level."""
    suffix = {"float32": "f32", "float64": "f64"}[dtype]
    return importlib.import_module(f"{__name__}._{isa}_{suffix}")
