"""Providers: who supplies the compiled kernel of an op and the compiled loops of a formula.

A provider turns names into addresses of functions of ``aot/abi.h``'s types. The executor takes the
addresses and neither knows nor cares where they came from, so providers can be mixed op by op.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from . import aot, jit
from .formula import Formula


@dataclass(frozen=True)
class Provider:
    """Addresses of kernels and formula loops for one number type.

    ``formulas`` are the loops of our own; those of a user's formulas are compiled when they are
    first asked for. ``core`` has the width of a vector, ``VECTOR_BYTES``.
    """

    name: str
    dtype: str
    kernels: Mapping[str, int]
    formulas: Mapping[tuple[str, str], tuple[int, int]]
    scratch_bytes: int
    core: Any
    makes_special: bool = False
    by_blas: bool = False

    def kernel(
        self, op: str, dims: Mapping[str, int], attrs: Mapping[str, Any], given: Set[str],
        threads: int,
    ) -> int:  # fmt: skip
        """Address of the kernel for calls that usually have these dimensions and operands."""
        made = jit.blas_kernel(op, self.dtype) if self.by_blas else None
        if made is None and self.makes_special:
            made = jit.special_kernel(op, self.dtype, dims, attrs, given, threads)
        return made if made is not None else self.kernels[op]

    def for_sizes(self) -> Provider:
        """The same, with kernels made for the sizes of a model where that pays."""
        return replace(self, makes_special=self.name == "numba")

    def loops(self, formula: Formula) -> tuple[int, int]:
        """Addresses of a formula's loop and of its companion's, 0 where it has none."""
        found = self.formulas.get((formula.kind, formula.name))
        return found if found is not None else jit.formula_loops(formula, self.dtype)


def cython(dtype: str, isa: str | None = None) -> Provider:
    """The ahead-of-time kernels, for the level in use unless another is named."""
    isa = isa or aot.choose_isa()
    core = aot.core(dtype, isa)
    return Provider(f"cython/{isa}", dtype, core.kernels, core.formulas, core.SCRATCH_BYTES, core)


def numba(dtype: str) -> Provider:
    """The kernels that Numba compiles for this processor, each when it is first asked for.

    Raises
    ------
    ImportError
        Numba is missing or cannot compile.
    """
    jit.require("the backend 'numba'")
    from .jit import compiled

    core = SimpleNamespace(VECTOR_BYTES=compiled.vector_bytes())
    scratch = jit.SCRATCH * {"float32": 4, "float64": 8}[dtype]
    return Provider("numba", dtype, jit.Kernels(dtype), jit.FormulaLoops(dtype), scratch, core)


#: Makers of providers for a model, by name. Products by BLAS are a candidate of `fnn.tune` only.
BY_NAME = {
    "cython": cython,
    "numba": lambda dtype: numba(dtype).for_sizes(),
    "blas": lambda dtype: replace(numba(dtype), name="blas", by_blas=True),
}
