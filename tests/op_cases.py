"""Cases of every op, and the checks that its compiled kernels must pass.

Everything comes from the registries: operands from an op's signature, attributes from its
definition's keywords, formulas, providers and levels from their tables. What cannot be derived, a
sensible number for an attribute or a parameter without default, is chosen by name in ``ATTRIBUTES``
and ``PARAMETERS``; nothing here names an op.

A check takes ``(kernels, case)`` and raises an AssertionError. ``test_ops.py`` runs all checks over
all ops; ``test_planted_errors.py`` plants wrong kernels and expects the same checks to fail.
"""

from __future__ import annotations

import inspect
import itertools
import math
import random
import typing
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fastnn.compiler import Node, Tensor
from fastnn.compiler.fuse import LARGEST_FUSED_BATCH
from fastnn.kernels import aot, provider
from fastnn.kernels.aot import executor
from fastnn.kernels.formula import FORMULAS, Formula
from fastnn.kernels.op import BATCH, OPS, Binding, Op, Operand, count
from fastnn.kernels.provider import Provider
from fastnn.kernels.ref import Step
from fastnn.runtime import NativeRunner

DTYPES = ("float32", "float64")

#: Values of the ops' attributes, by name.
ATTRIBUTES: dict[str, tuple[Any, ...]] = {
    "scale": (1.0, -0.75, 1 / 255),
    "offset": (0.0, 0.375),
    "rate": (0.5, 0.2, 0.0, 0.9),
    "stream": (1, 2**32 - 2),
    "floor": (1e-7, 0.25),
    "factor": (0.5, 0.01),
    "decay": (((0.25, 0.0), (0.0, 0.0)), ((0.0, 0.5), (0.125, 0.0)), ((0.01, 0.1), (0.01, 0.1))),
    "warm_up": (0, 3),
    "weight_decay": (0.0, 0.25),
    "mean": (True, False),
    "divergence": (False, True),
    "squared": (False, True),
    "margin": (1.0, 0.25),
    "epsilon": (1e-5, 0.1),
    "momentum": (0.9, 0.0, 0.5),
    "most_scale": (1.5, 3.0),
    "most_shift": (0.25, 5.0),
    "deviation": (0.5, 0.0, 2.0),
    "target": (0.05, 0.01),
    "limit": (0.25, 1.0, 100.0),
    "decay_rate": (0.9, 0.0),
    "least": (0.0, 1.0),
    "most": (1.0, 2.5, math.inf),
    "image": ((5, 7, 1), (4, 4, 3), (1, 1, 1)),
    "ranges": ((0.5, 0.1, 0.2, 0.25, 0.3, 0.5, 0.5), (0.0,) * 7, (3.0, 0.9, 0.0, 0.5, 1.0, 0, 1)),
    "fill": (0.0, 0.5),
    "alpha": (2.0, 8.0),
    "sigma": (1.0, 4.0),
    "brightness": (0.5, 0.0),
    "contrast": (0.5, 0.0),
    "rectangle": ((0.5, 0.1, 0.4, 3.0), (1.0, 0.5, 1.0, 1.0), (0.0, 0.1, 0.2, 2.0)),
    "concentration": (0.2, 1.0),
}

#: Values of the formulas' parameters that have no default, by name; else half above their limit.
PARAMETERS = {
    "threshold": 0.5,
    "mu": 0.9,
    "rho": 0.9,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "final_rate": 0.01,
    "decay_steps": 20.0,
    "every": 7.0,
    "period": 9.0,
    "growth": 2.0,
    "total_steps": 40.0,
    "p": 1.5,
}

#: Numbers of threads that must not change a bit.
THREADS = (2, 3, 5)

#: Tolerance in units of eps * sqrt(length of the reduction) * magnitude of the result.
TOLERANCE = 8.0


# ------------------------------------------------------------------ kernels under test


@dataclass(frozen=True)
class Kernels:
    """The compiled kernels of one provider, level and number type."""

    provider: Provider
    dtype: str

    @property
    def vector(self) -> int:
        """Numbers in a vector register (of the widest there is, if the provider does not say)."""
        width = getattr(self.provider.core, "VECTOR_BYTES", 64)
        return width // np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.provider.name}-{self.dtype}"


def _all_kernels() -> list[Kernels]:
    """Every function of ``provider`` that makes a Provider, at every level it takes."""
    found = []
    for make in vars(provider).values():
        if not inspect.isfunction(make) or make.__module__ != provider.__name__:
            continue
        if typing.get_type_hints(make).get("return") is not Provider:
            continue
        levels = aot.AVAILABLE if "isa" in inspect.signature(make).parameters else ("",)
        for level, dtype in itertools.product(levels, DTYPES):
            try:
                made = make(dtype, level) if level else make(dtype)
            except ImportError:  # of an optional package
                continue
            found.append(Kernels(made, dtype))
    return found


KERNELS = _all_kernels()

each_kernels = pytest.mark.parametrize("kernels", KERNELS, ids=str)
each_op = pytest.mark.parametrize("op", OPS.values(), ids=list(OPS))


def differentiable(formula: Formula) -> bool:
    """Whether there is a derivative: a metric has none."""
    return "derivative" in formula.companions


def has_gradient_op(formula: Formula) -> bool:
    """Whether an activation emits a gradient; the identity stands for no formula at all."""
    return formula.name != "identity"


def kernels_of(dtype: str) -> Kernels:
    """The best of the kernels of a number type: for tests that need only one."""
    return [k for k in KERNELS if k.dtype == dtype][-1]


def each_formula(*kinds: str, where: Callable[[Formula], bool] = bool) -> Any:
    """Parametrize over the formulas of some kinds, or over those of them that meet a condition."""
    formulas = [f for kind in kinds for f in FORMULAS[kind].values() if where(f)]
    return pytest.mark.parametrize("formula", formulas, ids=lambda f: f"{f.kind}-{f.name}")


# ------------------------------------------------------------------ cases


@dataclass(frozen=True)
class Case:
    """One call of an op: dimensions, attributes, which optional operands are absent, and data."""

    op: Op
    dtype: str
    dims: dict[str, Any]
    attrs: Mapping[str, Any]
    absent: frozenset[str]
    seed: int
    layout: str = "C"
    feed: str = ""
    copies: int = 1

    def shape(self, operand: Operand) -> tuple[int, ...]:
        if operand.dims == ("...",):
            return self.dims["..."]
        return tuple(int(d) if d.isdigit() else self.dims[d] for d in operand.dims)

    def present(self, operands: tuple[Operand, ...]) -> list[Operand]:
        return [o for o in operands if o.name not in self.absent]

    @property
    def written(self) -> list[Operand]:
        """The operands that a kernel changes."""
        return self.present(self.op.outputs) + [
            o for o in self.present(self.op.inputs) if o.name in self.op.writes
        ]

    def __str__(self) -> str:
        given = {"layout": self.layout, "feed": self.feed} if self.feed else {}
        given |= {"copies": self.copies} if self.copies > 1 else {}
        given |= {"without": sorted(self.absent)} if self.absent else {}
        text = ", ".join(f"{k}={v}" for k, v in {**self.dims, **self.attrs, **given}.items())
        return f"{self.op.name}({text}, seed={self.seed}) in {self.dtype}"


def parameters(formula: Formula) -> tuple[float, ...]:
    """Values of all parameters of a formula: the default, or one that makes sense."""
    return tuple(
        PARAMETERS.get(name, formula.defaults.get(name, 0.5)) for name in formula.parameters
    )


def keywords(op: Op) -> list[str]:
    """Names of the attributes that an op's definition takes."""
    names = inspect.signature(op.define).parameters.values()
    return [p.name for p in names if p.kind is p.KEYWORD_ONLY and p.name != "step"]


def _plain_attributes(op: Op, rng: random.Random) -> dict[str, float]:
    """A value of each attribute but the formula, chosen anew for each case."""
    names = [n for n in keywords(op) if n not in ("function", "parameters")]
    for name in names:
        assert name in ATTRIBUTES, f"op_cases.ATTRIBUTES has no values of {op.name}'s {name!r}"
    return {name: rng.choice(ATTRIBUTES[name]) for name in names}


def _formulas(op: Op) -> list[Formula | None]:
    return [None] if op.formula is None else list(FORMULAS[op.formula].values())


def _fits(op: Op, formula: Formula | None, given: set[str]) -> bool:
    """Whether optional operands may be given together, and with this formula."""
    names = {o.name for o in op.operands}
    if {"labels", "targets"} <= names and ("labels" in given) == ("targets" in given):
        return False
    if formula is None:
        return True
    if formula.kind == "loss":
        wanted = op.loss_gradient in given
        return "labels" not in given and (differentiable(formula) or not wanted)
    if formula.kind == "optimizer":
        states = {f"s{i}" for i in range(len(formula.state))}
        return {g for g in given if g[0] == "s" and g[1:].isdigit()} == states
    optional = [o.name for o in op.inputs if o.optional]
    if formula.kind != "activation" or not {"x", "y"} & set(optional):
        return True
    if not has_gradient_op(formula) and given.isdisjoint("xy"):
        return "x" not in optional  # only in an op whose own work remains
    if "x" not in optional and not given & {"y"}:
        return False  # without y there is no derivative, and so no function but the identity
    return all((n in given) == formula.derivative_reads(n) for n in ("x", "y"))


def variants(op: Op) -> Iterator[tuple[dict[str, Any], frozenset[str]]]:
    """Formula attributes and absent operands, in all the combinations that make sense."""
    optional = [o.name for o in op.operands if o.optional]
    for formula in _formulas(op):
        attrs: dict[str, Any] = {}
        if formula is not None:
            rate = (0.1,) if formula.kind == "schedule" else ()
            attrs = {"function": formula.name, "parameters": rate + parameters(formula)}
        for chosen in itertools.product((True, False), repeat=len(optional)):
            given = set(itertools.compress(optional, chosen))
            if _fits(op, formula, given):
                yield attrs, frozenset(optional) - given


def _parameters(op: Op) -> list[Operand]:
    """The inputs that an op changes and that have shapes of their own, beside flat vectors [P]."""
    return [o for o in op.inputs if o.name in op.writes and o.dims != ("P",)]


def _names(op: Op) -> list[str]:
    """The free dimensions of an op."""
    found = dict.fromkeys(d for o in op.operands for d in o.dims if not d.isdigit())
    derived = {*op.infer, *(("P",) if _parameters(op) else ())}
    return [d for d in found if d not in derived]


def _small(name: str, vector: int) -> list[Any]:
    """Edge sizes of one dimension: one, odd, and a vector's width more or less one."""
    rows = [0, 1, 2, 3, vector - 1 or 7, vector, vector + 1, 17]
    columns = [1, 2, 3, 5, vector - 1 or 7, vector, vector + 1, 2 * vector + 1, 3 * vector, 33]
    if name == "...":
        both = zip(itertools.cycle(rows), columns, strict=False)
        return [(0,), *((c,) for c in columns), *((r, c) for r, c in both)]
    return rows if name == "B" else columns


#: Sizes that cross the blocks of the kernels, by the number of free dimensions.
_LARGE: dict[int, list[tuple[int, ...]]] = {
    0: [()],
    1: [(1023,), (1025,), (4096,), (9001,)],
    2: [(2100, 1), (1, 2100), (3, 1030), (1030, 3), (260, 33), (33, 260)],
    3: [
        *[(40, 270, 530), (270, 530, 40), (530, 40, 270), (530, 260, 270), (260, 270, 530)],
        *[
            (260, 520, 270),
            (17, 520, 70),
            (3, 1030, 1),
            (1, 5, 1030),
            (40, 790, 130),
            (40, 400, 130),
            (120, 100, 512),
            (20, 200, 512),
            (100, 50, 40),
            (20, 1030, 2100),
            (33, 50, 513),
            (64, 100, 128),
            (40, 9, 140),
            *[(rows, 70, 300) for rows in (1, 2, 3, 4, 5, 11)],
            (7, 1030, 2100),
            (29, 1024, 40),
            (40, 1024, 300),
        ],
    ],
    4: [(40, 530, 270, 2), (270, 1030, 33, 5), (3, 40, 530, 3)],
}


def small_shapes(op: Op, vector: int, rng: random.Random) -> list[dict[str, Any]]:
    """Edge sizes of all dimensions, paired at random so that each occurs."""
    pools = {name: _small(name, vector) for name in _names(op)}
    length = max((len(pool) for pool in pools.values()), default=1)
    shuffled = []
    for pool in pools.values():
        order = list(itertools.islice(itertools.cycle(rng.sample(pool, len(pool))), length))
        shuffled.append(order)
    return [dict(zip(pools, sizes, strict=True)) for sizes in zip(*shuffled, strict=True)] or [{}]


def large_shapes(op: Op) -> list[dict[str, Any]]:
    names = _names(op)
    most = {n: 1025 for o in op.operands for n in o.dims if o.dims.count(n) > 1}
    most |= {o.dims[0]: 5 for o in op.operands if len(o.dims) > 2}  # of matrices, a few
    found = []
    for sizes in _LARGE[len(names)]:
        # Square operands of 9001 rows would take minutes and cross no more blocks than of 1025.
        shape = {
            n: (s,) if n == "..." else min(s, most.get(n, s))
            for n, s in zip(names, sizes, strict=True)
        }
        if shape not in found:
            found.append(shape)
    return found


def cases(op: Op, kernels: Kernels, large: bool = True) -> list[Case]:
    """A sample in which every variant meets several shapes, and every shape several variants."""
    rng = random.Random(f"{op.name} {kernels.vector}")
    options = list(variants(op))
    pairs = []
    for _ in range(2):
        shapes = small_shapes(op, kernels.vector, rng)
        n = max(len(shapes), len(options))
        some = rng.sample(options, len(options))
        # Steps through both lists differ, so that rounds do not repeat the same pairs.
        pairs += [(some[i % len(some)], shapes[i % len(shapes)]) for i in range(n)]
    if large:
        some = itertools.cycle(rng.sample(options, len(options)))
        pairs += list(zip(some, large_shapes(op), strict=False))
    feed = next((o for o in op.operands if o.type == "feed"), None)
    found = []
    for i, ((attrs, absent), sizes) in enumerate(pairs):
        dims = dict(sizes)
        if _parameters(op) and "B" in dims:
            # The compiler emits such an op for batches up to this size only.
            dims["B"] = min(dims["B"], LARGEST_FUSED_BATCH)
        for name, rule in op.infer.items():
            dims[name] = rule(dims)
        plain = _plain_attributes(op, rng)
        if "image" in plain:  # rows are images
            dims["N"] = math.prod(plain["image"])
        case = Case(
            op, kernels.dtype, dims, attrs | plain, absent,
            seed=zlib.crc32(f"{op.name} {i}".encode()),
        )  # fmt: skip
        # States have as many numbers as the parameters that they belong to.
        if own := [o for o in case.present(op.inputs) if o in _parameters(op)]:
            case.dims["P"] = sum(math.prod(case.shape(o)) for o in own)
        if feed is not None:
            layouts, types = _feed_choices(op, feed, kernels.dtype)
            case = replace(case, layout=layouts[i % len(layouts)], feed=types[i % len(types)])
        if _depends_on(case, Binding(copies=2)):
            case = replace(case, copies=1 + i % 3)
        found.append(case)
    return found


def _feed_choices(op: Op, feed: Operand, dtype: str) -> tuple[list[str], list[str]]:
    """Layouts and number types of the user's array: what the model's border lets through."""
    if feed in op.outputs:  # a result, which the model allocates itself
        return ["C"], [dtype]
    (other,) = op.outputs
    if other.type != "real":
        return list(LAYOUTS), [other.type]
    return list(LAYOUTS), ["uint8", "float32", "float64"]


def _depends_on(case: Case, binding: Binding) -> bool:
    """Whether a part of the binding matters to this op's kernel."""
    sizes = [case.op.sizes(case.dims, case.attrs, b) for b in (binding, Binding())]
    return sizes[0] != sizes[1]


@contextmanager
def named(kernels: Kernels, case: Case) -> Iterator[None]:
    """Add to an error which case it was."""
    try:
        yield
    except Exception as error:
        error.add_note(f"{kernels}: {case}")
        raise


# ------------------------------------------------------------------ operands


#: How a user's array may lie in memory: shape of the whole block, and the part that is the array.
LAYOUTS: dict[str, tuple[Callable, Callable]] = {
    "C": (lambda shape: shape, lambda block: block),
    "F": (lambda shape: shape[::-1], lambda block: block.T),
    "strided": (lambda shape: (*shape[:-1], 2 * shape[-1]), lambda block: block[..., ::2]),
    "reversed": (lambda shape: shape, lambda block: block[::-1]),
}


@dataclass
class Data:
    """The operands of a case, as whole blocks of memory, and its step."""

    blocks: dict[str, np.ndarray]
    step: Step
    views: dict[str, Callable] = field(default_factory=dict)

    def view(self, name: str) -> np.ndarray | None:
        """An operand as the op sees it; None if it is absent."""
        if name not in self.blocks:
            return None
        return self.views.get(name, lambda block: block)(self.blocks[name])

    def copy(self) -> Data:
        blocks = {name: block.copy() for name, block in self.blocks.items()}
        return Data(blocks, replace(self.step), self.views)


def _draw(rng: Any, shape: tuple[int, ...], low: float, high: float, exact: bool) -> np.ndarray:
    """Numbers inside (low, high): on a grid of eighths for (-2, 2) if ``exact``.

    Products of such numbers, and sums of thousands of products, are exact in float32, so that a
    function with a step or a kink at zero is on the same side of it in every order of summation.
    """
    if exact:
        return low + (high - low) * rng.integers(1, 32, shape) / 32
    margin = (high - low) / 32
    return rng.uniform(low + margin, high - margin, shape)


def _domain(case: Case, operand: Operand) -> tuple[float, float]:
    """The range of an operand's numbers: (-2, 2), or what lies within the op's or formula's."""
    low, high = case.op.domain.get(operand.name, (-math.inf, math.inf))
    formula = FORMULAS.get(case.op.formula or "", {}).get(case.attrs.get("function", ""))
    if formula is not None and formula.kind == "loss" and operand.name in ("y", "targets"):
        low, high = formula.domain
    elif operand.name == "targets":
        low, high = 0, 1
    elif operand.name == "weights":
        low = 0
    elif operand.name in case.op.writes[1:]:
        low = 0.25  # averages of squares: what is divided by less magnifies the rounding of sums
        if operand.name in ("s1", "s2", "s3"):
            high = 0.5  # of a mean and a mean square, the square of the first is below the second
    return max(low, -2.0), min(high, 2.0)


def _labels(case: Case, rng: Any) -> np.ndarray:
    """Class numbers: below the number of columns of the first operand."""
    rows, columns = case.shape(case.op.inputs[0])
    return rng.integers(0, columns, rows).astype(np.int32)


def _segments(case: Case, rng: Any) -> np.ndarray:
    """Runs (start, stop, l2, l1) from the first to the last parameter, with gaps, some empty."""
    edges = np.sort(rng.integers(0, case.dims["P"] + 1, 2 * case.dims["S"]))
    edges[[0, -1]] = 0, case.dims["P"]
    factors = rng.integers(0, 3, (case.dims["S"], 2)) / 8
    return np.concatenate([edges.reshape(-1, 2), factors], axis=1)


#: Operands whose contents are more than numbers, by name.
CONTENTS: dict[str, Callable] = {"labels": _labels, "segments": _segments}


def make_data(case: Case) -> Data:
    """Operands at random; outputs are blocks of whatever."""
    rng = np.random.default_rng(case.seed)
    rows = case.dims.get("B", 1)
    extra = int(rng.integers(0, 4))  # rows of the user's arrays beyond those of the batch
    first = int(rng.integers(0, 3))
    step = Step(
        step=int(rng.integers(0, 50)) + (case.seed % 5 == 0) * 2**32,
        rows=max(rows, 1) + case.seed % 3,
        first=first,
        seed=int(rng.integers(0, 2**63)) * 2 + 1,
        rate=0.125,
    )
    # What an op of the forward or backward pass computes at a kink must not depend on rounding.
    exact = case.op.formula == "activation" and case.attrs["function"] != "identity"
    data = Data({}, step)
    for operand in case.present(case.op.operands):
        shape, dtype = case.shape(operand), _dtype(case, operand)
        if operand.type == "feed":
            shape = (rows + first + extra, *shape[1:])
            block_shape, data.views[operand.name] = LAYOUTS[case.layout]
            shape = block_shape(shape)
            if operand in case.op.inputs:
                step.order = rng.permutation(rows + first + extra) if case.seed % 2 else None
        if operand.name == "gradients":
            shape = (case.copies, *shape)
        if operand.name in CONTENTS and operand in case.op.inputs:
            values = CONTENTS[operand.name](case, rng)
        elif dtype.kind in "iu":
            values = rng.integers(0, 200, shape)
        elif operand in case.op.inputs:
            values = _draw(rng, shape, *_domain(case, operand), exact or case.seed % 2 == 0)
        else:
            values = np.full(shape, np.nan)
        data.blocks[operand.name] = np.ascontiguousarray(values, dtype)
    return data


def _dtype(case: Case, operand: Operand) -> np.dtype:
    types = {"real": case.dtype, "double": "float64", "feed": case.feed}
    return np.dtype(types.get(operand.type, operand.type))


# ------------------------------------------------------------------ the definition


def define(case: Case, data: Data) -> Data:
    """What the NumPy definition makes of the operands."""
    result = data.copy()
    operands = []
    for operand in case.op.operands:
        view = result.view(operand.name)
        if view is not None and operand.name == "gradients":
            view = view.sum(axis=0)
        operands.append(view)
    extra = {"step": result.step} if case.op.uses_step else {}
    with np.errstate(all="ignore"):
        case.op.define(*operands, **case.attrs, **extra)
    return result


def _magnitude(case: Case, data: Data) -> Data:
    """The definition on the operands' magnitudes: how large the terms of each result are."""
    positive = data.copy()
    for operand in case.present(case.op.inputs):
        block = positive.blocks[operand.name]
        if operand.type == "real":
            np.abs(block, out=block)
    return define(case, positive)


def reduction(case: Case, operand: Operand) -> int:
    """How many numbers are summed for one of an operand's, or along its rows."""
    if operand.dims == ("...",):
        return 1
    read = [o for o in case.op.inputs if o.name not in case.op.writes]
    other = {d for o in read for d in o.dims} - set(operand.dims)
    sizes = [count(case.dims, d) for d in other if not d.isdigit()]
    return max(sizes or [case.shape(operand)[-1], 1])


def tolerance(case: Case, operand: Operand, want: np.ndarray, magnitude: np.ndarray) -> float:
    """Largest error allowed in an operand: from the number type and the reduction's length."""
    if operand.type not in ("real", "double") or not want.size:
        return 0.0
    root = math.sqrt(max(reduction(case, operand), 1))
    scale = max(np.abs(want).max(), np.abs(magnitude).max() / root)
    # Where everything cancels (a softmax of one class), there is the inputs' magnitude, up to 2.
    scale = scale or 2.0
    return TOLERANCE * float(np.finfo(case.dtype).eps) * root * float(scale)


def _compare(case: Case, operand: Operand, got: np.ndarray, want: np.ndarray, most: float) -> None:
    if operand.type == "feed":  # a copy: and nothing outside the batch's rows has changed
        assert got.tobytes() == want.tobytes(), f"{operand.name}: not the same bytes"
        return
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(got - want) <= most)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{operand.name}{list(at)} is {got[at]!r}, expected {want[at]!r} within {most:.3g}; "
            f"{wrong.sum()} of {wrong.size} numbers are wrong"
        )


# ------------------------------------------------------------------ the kernel


#: Bytes before and after a buffer that a kernel must leave alone.
GUARD = 512

#: What they hold, and what outputs hold before the call: NaN, or a large negative number. The first
#: shows in results if it is read, the second changes if an elementwise loop runs too far.
PATTERNS = (0xFF, 0xDA)


class Guarded:
    """Room for blocks one behind the other, with a pattern round them, ``shift`` bytes off 64."""

    def __init__(self, *blocks: np.ndarray, pattern: int, shift: int = 0) -> None:
        size = sum(block.nbytes for block in blocks)
        self.pattern = pattern
        self.raw = np.full(size + 2 * GUARD + 128, pattern, np.uint8)
        start = at = GUARD + -(self.raw.ctypes.data + GUARD) % 64 + shift
        self.blocks, self.addresses = [], []
        for block in blocks:
            self.addresses.append(self.raw.ctypes.data + at)  # an empty view would not know it
            part = self.raw[at : at + block.nbytes]
            self.blocks.append(part.view(block.dtype).reshape(block.shape))
            at += block.nbytes
        self.start, self.stop = start, at

    def check(self, name: str) -> None:
        for where, part in (("before", self.raw[: self.start]), ("after", self.raw[self.stop :])):
            changed = np.flatnonzero(part != self.pattern)
            assert not len(changed), f"{name}: {len(changed)} bytes {where} the buffer have changed"


class _Bench(NativeRunner):
    """A runner of one node over given memory, which binds the call just as the real one does."""

    def __init__(self, kernels: Kernels, node: Node, addresses: dict, copies: int) -> None:
        self.provider, self._shards, self._addresses = kernels.provider, copies, addresses
        self.program = typing.cast(Any, SimpleNamespace(nodes=[node], by_units=False))

    def _address(self, tensor: Tensor, shard: int, first_row: int) -> int:
        return self._addresses[tensor]

    def bind(self, rows: int, first: int, feeds: dict[str, np.ndarray]) -> np.ndarray:
        table = np.zeros((1, 1), executor.CALL)
        (node,) = self.program.nodes
        table["kernel"] = self.provider.kernels[node.op.name]
        self._bind(table[0, 0], node, 0, first, rows)
        self._feed(table, feeds)
        return table[0]


class Run:
    """One run of a kernel over guarded memory.

    ``in_place`` maps outputs to the inputs whose memory they share. ``shards`` runs the batch in as
    many pieces of consecutive rows, as threads with their own rows do.
    """

    def __init__(
        self, kernels: Kernels, case: Case, data: Data, *, threads: int = 1, shards: int = 1,
        in_place: Mapping[str, str] | None = None, pattern: int = PATTERNS[0],
    ) -> None:  # fmt: skip
        self.kernels, self.case, self.data = kernels, case, data
        self.memory: dict[str, Guarded] = {}
        self.blocks: dict[str, np.ndarray] = {}
        self.addresses: dict[str, int] = {}
        shared = dict(in_place or {})
        self._lay_out(shared, pattern)
        scratch = Guarded(np.zeros(kernels.provider.scratch_bytes, np.uint8), pattern=pattern)
        self.memory["scratch"] = scratch
        self.step = self._make_step(scratch)
        self._call(threads, shards)
        self._check_bystanders(shared)

    def _lay_out(self, shared: dict[str, str], pattern: int) -> None:
        """Memory for each operand; a layer's parameters are neighbours in the flat vector."""
        case = self.case
        present = case.present(case.op.operands)
        own = [[o] for o in present if o not in _parameters(case.op) and o.name not in shared]
        for group in [*own, [o for o in present if o in _parameters(case.op)]]:
            blocks = [self.data.blocks[o.name] for o in group]
            if not group:
                continue
            # Kernels promise to work off alignment.
            shift = (case.seed >> 3) % 4 * blocks[0].itemsize
            memory = Guarded(*blocks, pattern=pattern, shift=shift)
            self.memory[" and ".join(o.name for o in group)] = memory
            self.addresses |= zip((o.name for o in group), memory.addresses, strict=True)
            for operand, block, source in zip(group, memory.blocks, blocks, strict=True):
                self.blocks[operand.name] = block
                # A result holds the pattern; a user's holds what it held, where it is not written.
                if operand in case.op.inputs or operand.type == "feed":
                    block[...] = source
        for name, source in shared.items():
            self.blocks[name], self.addresses[name] = self.blocks[source], self.addresses[source]

    def _make_step(self, scratch: Guarded) -> np.ndarray:
        given = self.data.step
        step = np.zeros(1, executor.STEP)
        for name in ("step", "rows", "first", "seed", "rate"):
            step[name] = getattr(given, name)
        if given.order is not None:
            self._order = np.ascontiguousarray(given.order, np.int64)
            step["order"] = self._order.ctypes.data
        step["scratch"] = scratch.addresses[0]
        self._prepare(step)
        return step

    def _prepare(self, step: np.ndarray) -> None:
        """Run what comes first in a step: ops of the same kind of formula without operands."""
        case = self.case
        for op in OPS.values():
            if op is case.op or op.operands or op.formula is None or op.formula != case.op.formula:
                continue
            node = Node(op, (), (), {n: case.attrs[n] for n in keywords(op)}, "gather")
            call = _Bench(self.kernels, node, {}, 1).bind(1, 0, {})
            call["step"] = step.ctypes.data
            executor.call_kernel(call)

    def _call(self, threads: int, shards: int) -> None:
        case, rows = self.case, self.case.dims.get("B", 1)
        tensors, feeds = {}, {}
        for operand in case.present(case.op.operands):
            shape = tuple(
                BATCH if d == "B" else s
                for d, s in zip(operand.dims, case.shape(operand), strict=False)
            )
            if operand.dims == ("...",):
                shape = case.shape(operand)
            region = "feed" if operand.type == "feed" else "arena"
            tensors[operand.name] = Tensor(operand.name, shape, operand.type, region)
            if operand.type == "feed":
                feeds[operand.name] = self.data.views[operand.name](self.blocks[operand.name])
        node = Node(
            case.op,
            tuple(tensors.get(o.name) for o in case.op.inputs),
            tuple(tensors.get(o.name) for o in case.op.outputs),
            dict(case.attrs),
            "forward",
        )
        before = self.step.copy()
        for shard in range(shards):
            first = rows * shard // shards
            span = rows * (shard + 1) // shards - first
            addresses = {t: self._address(name, first) for name, t in tensors.items()}
            bench = _Bench(self.kernels, node, addresses, case.copies)
            call = bench.bind(span, first, feeds)
            call["step"] = self.step.ctypes.data
            for thread in range(threads):
                executor.call_kernel(call, thread, threads)
        for name in executor.STEP.names:
            # An op without operands is there to set up the step, but not what it is about.
            mine = not case.op.operands and name not in ("step", "rows", "first", "order", "seed")
            same = before[name].tobytes() == self.step[name].tobytes()
            assert same or (mine and name != "scratch"), f"the step's {name} has changed"

    def _address(self, name: str, first: int) -> int:
        block = self.blocks[name]
        (operand,) = (o for o in self.case.op.operands if o.name == name)
        start = self.addresses[name]
        return start + (first * block.strides[0] if operand.dims[:1] == ("B",) else 0)

    def _check_bystanders(self, shared: Mapping[str, str]) -> None:
        """Nothing has changed but what may change."""
        for name, memory in self.memory.items():
            memory.check(name)
        for operand in self.case.present(self.case.op.inputs):
            if operand in self.case.written or operand.name in shared.values():
                continue
            same = self.blocks[operand.name].tobytes() == self.data.blocks[operand.name].tobytes()
            assert same, f"the input {operand.name} has changed"

    def result(self, operand: Operand) -> np.ndarray:
        return self.blocks[operand.name]

    def check_same(self, other: Run, what: str) -> None:
        """Bit-identical results."""
        for operand in self.case.written:
            mine, theirs = self.result(operand), other.result(operand)
            if mine.tobytes() != theirs.tobytes():
                differ = (mine != theirs) & ~((mine != mine) & (theirs != theirs))
                raise AssertionError(f"{operand.name}: {what} changes {differ.sum()} numbers")
        assert self.step["rate"] == other.step["rate"], f"the rate: {what} changes it"


# ------------------------------------------------------------------ the checks


def _check_results(run: Run) -> None:
    case, data = run.case, run.data
    want, magnitude = define(case, data), _magnitude(case, data)
    for operand in case.written:
        expected = want.blocks[operand.name]
        if operand.type == "feed":  # the rows that the batch does not touch keep the block's bytes
            _compare(case, operand, run.result(operand), expected, 0.0)
            continue
        most = tolerance(case, operand, expected, magnitude.blocks[operand.name])
        _compare(case, operand, run.result(operand), expected, most)
    rate = float(run.step["rate"][0])
    assert math.isclose(rate, want.step.rate, rel_tol=1e-14), f"the rate is {rate}"


def check_definition(kernels: Kernels, case: Case) -> None:
    """The kernel gives what the NumPy definition gives, and touches nothing else."""
    _check_results(Run(kernels, case, make_data(case)))


def check_threads(kernels: Kernels, case: Case) -> None:
    """Any number of threads gives the same bits."""
    data = make_data(case)
    alone = Run(kernels, case, data, pattern=PATTERNS[1])
    for threads in THREADS:
        shared = Run(kernels, case, data, threads=threads, pattern=PATTERNS[1])
        shared.check_same(alone, f"dividing the work by {threads}")


def check_in_place(kernels: Kernels, case: Case) -> None:
    """An output may lie where an input is, if the op says so."""
    pairs = {
        out: source for out, source in case.op.in_place.items() if not {out, source} & case.absent
    }
    if not pairs:
        return
    data = make_data(case)
    apart = Run(kernels, case, data)
    for threads in (1, THREADS[0]):
        Run(kernels, case, data, in_place=pairs, threads=threads, pattern=PATTERNS[1]).check_same(
            apart, "working in place"
        )


def check_shards(kernels: Kernels, case: Case) -> None:
    """Where a row's number matters, pieces of a batch give what the whole batch gives."""
    if "B" not in case.dims or not _depends_on(case, Binding(first_row=1)):
        return
    data = make_data(case)
    for shards in THREADS:
        _check_results(Run(kernels, case, data, shards=shards))


def check_nan(kernels: Kernels, case: Case) -> None:
    """A NaN in any input arrives wherever the definition says, and nowhere else."""
    data = make_data(case)
    rng = np.random.default_rng(case.seed)
    for operand in case.present(case.op.inputs):
        block = data.blocks[operand.name]
        if operand.type == "double" or block.dtype.kind != "f" or not block.size:
            continue
        bad = data.copy()
        bad.blocks[operand.name].flat[rng.integers(0, block.size, 2)] = np.nan
        run, want = Run(kernels, case, bad, pattern=PATTERNS[1]), define(case, bad)
        # Where parameters are lost, their state does not matter.
        for result in case.present(case.op.outputs) or case.written[:1]:
            got, expected = (np.isnan(a) for a in (run.result(result), want.blocks[result.name]))
            lost, spread = (expected & ~got).sum(), (got & ~expected).sum()
            assert not lost, f"{lost} NaN of {operand.name} do not arrive in {result.name}"
            assert not spread, f"NaN in {operand.name} spread to {spread} more of {result.name}"


#: Every property of a kernel that is checked, for every op.
CHECKS = (check_definition, check_threads, check_in_place, check_shards, check_nan)


def apply(
    kernels: Kernels, case: Case, **operands: Any
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What the kernel, and what the definition, make of given contents of some operands."""
    data = make_data(case)
    for name, values in operands.items():
        data.blocks[name][...] = values
    run, want = Run(kernels, case, data), define(case, data)
    return (
        {o.name: run.result(o).copy() for o in case.written},
        {o.name: want.blocks[o.name] for o in case.written},
    )


def pointwise_case(
    kernels: Kernels, name: str, n: int, function: str, given: tuple[float, ...], *present: str
) -> Case:
    """A case of an op with a formula on n numbers in a row, with these optional operands."""
    op = OPS[name]
    dims = {d: (n,) if d == "..." else n if d == "B" else 1 for d in _names(op)}
    absent = frozenset(o.name for o in op.operands if o.optional and o.name not in present)
    attrs: dict[str, Any] = {"function": function, "parameters": given}
    attrs |= {n: ATTRIBUTES[n][0] for n in keywords(op) if n not in attrs}
    return Case(op, kernels.dtype, dims, attrs, absent, seed=2)
