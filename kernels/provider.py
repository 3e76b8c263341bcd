"""Providers: who supplies the compiled kernel of an op and the compiled loops of a formula.

A provider turns names into addresses of functions of ``aot/abi.h``'s types. The executor takes the
addresses and neither knows nor cares where they came from, so providers can be mixed op by op.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import aot, jit
from .formula import Formula


@dataclass(frozen=True)
class Provider:
    """Addresses of kernels and formula loops for one number type.

    ``formulas`` are the loops that are there already; those of a user's own formulas are compiled
    when they are first asked for.
    """

    name: str
    dtype: str
    kernels: dict[str, int]
    formulas: dict[tuple[str, str], tuple[int, int]]
    scratch_bytes: int
    core: Any

    def loops(self, formula: Formula) -> tuple[int, int]:
        """Addresses of a formula's loop and of its companion's, 0 where it has none."""
        found = self.formulas.get((formula.kind, formula.name))
        return found if found is not None else jit.formula_loops(formula, self.dtype)


def cython(dtype: str, isa: str | None = None) -> Provider:
    """The ahead-of-time kernels, for the level in use unless another is named."""
    isa = isa or aot.choose_isa()
    core = aot.core(dtype, isa)
    return Provider(f"cython/{isa}", dtype, core.kernels, core.formulas, core.SCRATCH_BYTES, core)
