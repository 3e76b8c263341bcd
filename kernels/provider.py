"""Providers: who supplies the compiled kernel of an op and the compiled loops of a formula.

A provider turns names into addresses of functions of ``aot/abi.h``'s types. The executor takes the
addresses and neither knows nor cares where they came from, so providers can be mixed op by op.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import aot


@dataclass(frozen=True)
class Provider:
    """Addresses of kernels and formula loops for one number type."""

    name: str
    kernels: dict[str, int]
    formulas: dict[tuple[str, str], tuple[int, int]]
    scratch_bytes: int
    core: Any


def cython(dtype: str, isa: str | None = None) -> Provider:
    """The ahead-of-time kernels, for the level in use unless another is named."""
    isa = isa or aot.choose_isa()
    core = aot.core(dtype, isa)
    return Provider(f"cython/{isa}", core.kernels, core.formulas, core.SCRATCH_BYTES, core)
