"""The Numba provider: what is compiled on the machine at hand, when it is first needed.

A family of ops is a module with a function ``kernels(t)``: Python functions of a call, written with
the names ``t`` of one number type. ``dense`` can also make kernels for the sizes of one layer.
Importing this package loads no Numba, nor does running what is compiled already (see ``compiled``).
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Set
from functools import cache
from typing import Any

from .. import source
from ..formula import FORMULAS, Formula
from ..op import OPS

OLDEST = (0, 60)

#: Numbers of working memory that a thread needs for the largest kernel.
SCRATCH = 5 << 17

#: Ops that BLAS can compute.
BLAS_OPS = ("dense", "dense_dx", "dense_dw")

#: Rows of a product beyond which the shape of its tiles no longer depends on them, and up to which
#: each number has a kernel of its own; between the two they go by steps.
MANY_ROWS, FEW_ROWS, STEP = 256, 32, 32

#: Rows up to which the gradient by a wide layer's output is packed.
PACKED_ROWS = 512


class Unavailable(ImportError, RuntimeError):
    """Numba cannot compile here; the message says what to do."""


def require(what: str) -> None:
    """Raise unless Numba can compile.

    Raises
    ------
    Unavailable
        Numba is missing, too old, or told by ``NUMBA_DISABLE_JIT`` not to compile.
    """
    import importlib.metadata  # here, because it takes as long as all of NumPy's linear algebra

    needed = f"{what} needs Numba {'.'.join(map(str, OLDEST))} or newer"
    try:
        version = importlib.metadata.version("numba")
    except importlib.metadata.PackageNotFoundError:
        raise Unavailable(f"{needed}: pip install 'fastnn[numba]'") from None
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise Unavailable(f"{needed}; {version} is installed: pip install -U numba")
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise Unavailable(
            f"{what} needs Numba's compiler, but NUMBA_DISABLE_JIT="
            f"{os.environ['NUMBA_DISABLE_JIT']} turns it off; unset it"
        )


def _address(name: str, compile: Callable[[], Any]) -> int:
    from . import compiled

    return compiled.function(name, compile)


# ------------------------------------------------------------------ formulas


def _name(formula: Formula) -> str:
    """A formula by its meaning: a user may write another one of the same name."""
    import hashlib

    parts = ("function", *sorted(formula.companions))
    content = repr((formula.state, formula.constants, [_content(formula, p) for p in parts]))
    return f"{formula.kind} {formula.name} {hashlib.sha256(content.encode()).hexdigest()[:16]}"


def _content(formula: Formula, part: str) -> tuple[Any, ...]:
    return source.of(formula, part).content


def formula_loops(formula: Formula, dtype: str) -> tuple[int, int]:
    """Addresses of a formula's loop and of its companion's, compiled on first use."""
    require(f"the {formula.kind} {formula.name!r}")
    name = f"{dtype} {_name(formula)}"

    def loop() -> Any:
        from . import loops

        return loops.loop(formula, dtype)

    def companion() -> Any:
        from . import loops

        return loops.companion(formula, dtype)

    has_companion = bool(formula.companions) or formula.kind == "optimizer"
    return _address(name, loop), _address(f"{name} companion", companion) if has_companion else 0


class FormulaLoops(Mapping[tuple[str, str], tuple[int, int]]):
    """(kind, name) -> addresses of the loops of our formulas, compiled when asked for."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    def __getitem__(self, key: tuple[str, str]) -> tuple[int, int]:
        kind, name = key
        if key not in set(self):
            raise KeyError(key)
        return formula_loops(FORMULAS[kind][name], self.dtype)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((kind, name) for kind, found in FORMULAS.items() for name in found)

    def __len__(self) -> int:
        return sum(map(len, FORMULAS.values()))


# ------------------------------------------------------------------ kernels


@cache
def _functions(dtype: str) -> dict[str, Callable]:
    """Every kernel as a Python function."""
    from . import names

    t = names.of(dtype)
    found: dict[str, Callable] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        if hasattr(module, "kernels"):
            found |= module.kernels(t)
    return found


def _compiled(function: Callable) -> Any:
    import numba

    from . import names

    return numba.cfunc(names.KERNEL, **names.OPTIONS)(function)


class Kernels(Mapping[str, int]):
    """Op name -> address of its kernel for any sizes, each compiled when it is asked for."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    def __getitem__(self, name: str) -> int:
        if name not in OPS:
            raise KeyError(name)
        require("the backend 'numba'")
        return _address(f"{self.dtype} {name}", lambda: _compiled(_functions(self.dtype)[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(OPS)

    def __len__(self) -> int:
        return len(OPS)


def blas_kernel(name: str, dtype: str) -> int | None:
    """Address of the kernel that calls SciPy's BLAS; None for ops that are no products.

    Raises
    ------
    ImportError
        SciPy is missing.
    """
    if name not in BLAS_OPS:
        return None
    from . import compiled

    compiled.provide_blas()

    def compile() -> Any:
        from . import blas, names

        return _compiled(blas.kernels_of(names.of(dtype))[name])

    return _address(f"{dtype} {name} by BLAS", compile)


def special_kernel(
    name: str,
    dtype: str,
    dims: Mapping[str, int],
    attrs: Mapping[str, Any],
    given: Set[str],
    threads: int,
) -> int | None:
    """Address of the kernel made for the sizes or formula of a layer; None where there is none.

    ``dims`` are those of a usual call, ``given`` the names of its operands, ``threads`` how many
    divide it.
    """
    require("the backend 'numba'")
    if name.startswith("dense"):
        return _dense(name, dtype, dims, attrs, "mask" in given, threads)
    if name == "standardize_columns":
        return _standardize(dtype, attrs["function"])
    if name == "softmax_cross_entropy" and "labels" in given:
        return _few_classes(dtype, dims["C"], "weights" in given, "dz" in given)
    if name == "gather":
        return _gather(dtype, dims["F"])
    return None


def _gather(dtype: str, columns: int) -> int:
    def compile() -> Any:
        from . import names, rows

        return _compiled(rows.gather(names.of(dtype), columns))

    return _address(f"{dtype} gather of {columns} columns", compile)


def _few_classes(dtype: str, classes: int, weighted: bool, gradient: bool) -> int | None:
    from . import compiled

    if classes * {"float32": 4, "float64": 8}[dtype] > 2 * compiled.vector_bytes():
        return None

    def compile() -> Any:
        from . import few_classes, names

        return _compiled(few_classes.cross_entropy(names.of(dtype), classes, weighted, gradient))

    return _address(f"{dtype} cross-entropy of {classes} {weighted} {gradient}", compile)


def _standardize(dtype: str, function: str) -> int | None:
    if function == "identity":
        return None
    formula = FORMULAS["activation"][function]

    def compile() -> Any:
        from . import batches, names, vectors

        inside = formula if vectors.fits(formula, "function", dtype) else None
        return _compiled(batches.forward(names.of(dtype), inside))

    return _address(f"{dtype} standardize_columns {_name(formula)}", compile)


def _usual_rows(name: str, rows: int) -> int:
    """Rows that a kernel is made for: a few kernels serve all batches."""
    if name in ("dense_dw", "dense_update"):  # only whether the batch can be packed matters
        return PACKED_ROWS + (rows > PACKED_ROWS)
    if rows <= FEW_ROWS:
        return rows
    return min(-(-rows // STEP) * STEP, MANY_ROWS)


def _dense(
    name: str,
    dtype: str,
    dims: Mapping[str, int],
    attrs: Mapping[str, Any],
    masked: bool,
    threads: int,
) -> int:
    rows, inputs, units = (dims[d] for d in "BIO")
    update = name == "dense_update"
    rows = _usual_rows(name, rows)
    kind = OPS[name].formula
    function = attrs.get("function", "identity")
    formula = FORMULAS[kind][function] if kind and function != "identity" else None
    decays = update and bool(attrs["weight_decay"] or any(map(any, attrs["decay"])))
    shape = f"{rows}x{inputs}x{units} by {threads}"
    called = f"{dtype} {name} {shape} {_name(formula) if formula else ''} {decays} {masked}"

    def compile() -> Any:
        from . import dense, names, vectors

        part = "derivative" if name == "dense_dx" else "function"
        inside = formula if formula and vectors.fits(formula, part, dtype) else None
        # The mask comes after an activation, and before a derivative.
        masks = masked and (part == "derivative" or (inside is formula and units > 1))
        rest = inside is not formula or masks != masked
        known = dense.Known(rows, inputs, units, inside, decays, masks, threads, rest)
        return _compiled(dense.kernels(names.of(dtype), known)[name])

    return _address(called, compile)
