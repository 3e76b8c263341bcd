"""What the benchmark of formulas runs: the elementwise ops of the registry, with their operands.

Everything comes from `OPS` and `FORMULAS`; nothing here names a formula.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fastnn.kernels.formula import FORMULAS, Formula
from fastnn.kernels.op import OPS, Op, Operand
from fastnn.kernels.ref import REFERENCE, Step

SEED = 0
RATE = 1e-3
#: Values of parameters without default, by name; others are 0.5.
PARAMETERS = {
    "mu": 0.9,
    "rho": 0.9,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "weight_decay": 0.01,
    "p": 1.5,
}
#: Values of the ops' other attributes, by name; others are 0.
ATTRIBUTES = {"factor": 0.01, "mean": True}
#: Numbers are counted in units of this: whole rows, whole partial sums.
UNIT = 4096
#: Columns of ops over rows. Such a kernel may have a loop of its own for rows of one number; the
#: other length is that of the blocks that longer rows are cut into.
COLUMNS = (1024, 1)


@dataclass(frozen=True)
class Kind:
    """What is timed of the formulas of one kind: an op on flat arrays, or on rows of columns."""

    op: Op
    columns: int | None = None

    @property
    def name(self) -> str:
        rows = {None: "", 1: ", rows of one number"}
        return self.op.name + rows.get(self.columns, f", rows of {self.columns} numbers")

    @property
    def formulas(self) -> dict[str, Formula]:
        return FORMULAS[self.op.formula or ""]

    def shape(self, numbers: int) -> tuple[int, ...]:
        return (numbers,) if self.columns is None else (numbers // self.columns, self.columns)


def kinds() -> Iterator[Kind]:
    """Every op that applies a formula to each number: its operands have one shape.

    Schedules and what else is computed once a step have no operands; products have several shapes.
    """
    for op in OPS.values():
        shapes = {o.dims for o in op.operands if o.type == "real" and not o.optional}
        if op.formula is None or len(shapes) != 1:
            continue
        for columns in COLUMNS if len(next(iter(shapes))) == 2 else (None,):
            yield Kind(op, columns)


def attributes(op: Op, formula: Formula) -> dict[str, Any]:
    """Everything that an op's definition takes beside its operands."""
    attrs: dict[str, Any] = {}
    for name, parameter in inspect.signature(op.define).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and name != "step":
            attrs[name] = ATTRIBUTES.get(name, 0)
    values = formula.defaults
    given = tuple(values.get(n, PARAMETERS.get(n, 0.5)) for n in formula.parameters)
    return attrs | {"function": formula.name, "parameters": given}


@dataclass(frozen=True)
class Case:
    """One formula on so many numbers."""

    kind: Kind
    formula: Formula
    numbers: int
    dtype: str

    @property
    def op(self) -> Op:
        return self.kind.op

    @cached_property
    def attrs(self) -> dict[str, Any]:
        return attributes(self.op, self.formula)

    def present(self, operands: Sequence[Operand]) -> list[Operand]:
        """Those that the formula has a use for."""
        return [o for o in operands if not o.optional or self._given(o)]

    def _given(self, operand: Operand) -> bool:
        name = operand.name
        if operand in self.op.outputs:  # a metric has no gradient
            return name != self.op.loss_gradient or "derivative" in self.formula.companions
        if name[0] == "s" and name[1:].isdigit():
            return int(name[1:]) < len(self.formula.state)
        if name in ("labels", "weights"):
            return False
        return name == "targets" or self.formula.derivative_reads(name)

    @property
    def written(self) -> list[Operand]:
        """The operands that the op changes."""
        changed = [o for o in self.op.inputs if o.name in self.op.writes]
        return self.present([*self.op.outputs, *changed])

    @property
    def overwritten(self) -> list[Operand]:
        """The inputs that are lost: changed, or replaced by an output that takes their memory."""
        places = [self.op.in_place.get(o.name, o.name) for o in self.present(self.op.outputs)]
        lost = {*places, *self.op.writes}
        return [o for o in self.present(self.op.inputs) if o.name in lost]

    @property
    def _apart(self) -> list[Operand]:
        """The outputs that do not take over an input's memory."""
        return [o for o in self.present(self.op.outputs) if o.name not in self.op.in_place]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all operands that are present."""
        flat = self.kind.shape(self.numbers)
        inputs = {
            o.name: (1, 4) if o.name == "segments" else flat for o in self.present(self.op.inputs)
        }
        results = self.op.output_shapes([inputs.get(o.name) for o in self.op.inputs])
        outputs = dict(zip((o.name for o in self.op.outputs), results, strict=True))
        return inputs | {o.name: outputs[o.name] for o in self.present(self.op.outputs)}

    def type(self, operand: Operand) -> np.dtype:
        return np.dtype("float64" if operand.type == "double" else self.dtype)

    @property
    def memory(self) -> int:
        """Bytes of the operands, outputs in place of inputs not counted again."""
        return self._size([*self.present(self.op.inputs), *self._apart])

    @property
    def moved(self) -> int:
        """Bytes that memory moves: the lines of a new result are read before they are written."""
        return self.bytes + self._size(self._apart)

    @property
    def lost(self) -> int:
        """Bytes of the inputs that are overwritten."""
        return self._size(self.overwritten)

    @property
    def bytes(self) -> int:
        """Bytes that one call reads and writes: each operand once, a changed one twice."""
        return self._size([*self.present(self.op.inputs), *self.written])

    def _size(self, operands: Sequence[Operand]) -> int:
        shapes = self.shapes()
        return sum(math.prod(shapes[o.name]) * self.type(o).itemsize for o in operands)

    def draw(self) -> dict[str, np.ndarray]:
        """Inputs at random, within the formula's domain.

        The gradient of an activation gets x and y = f(x), whichever it reads.
        """
        rng = np.random.default_rng(SEED)
        shapes = self.shapes()
        found = {}
        for operand in self.present(self.op.inputs):
            if operand.name == "segments":  # all parameters, without penalty
                values = np.array([[0, self.numbers, 0, 0]])
            elif operand.name == "targets":
                values = self._targets(rng, shapes[operand.name])
            else:
                low, high = self._range(operand)
                margin = (high - low) / 32
                values = rng.uniform(low + margin, high - margin, shapes[operand.name])
            found[operand.name] = values.astype(self.type(operand))
        if {"x", "y"} <= {o.name for o in self.op.inputs}:
            x = rng.uniform(-3, 3, self.kind.shape(self.numbers)).astype(self.dtype)
            found |= {"x": x, "y": np.empty_like(x)}
            value, _ = REFERENCE["activation"][self.formula.name]
            value(x, found["y"], *self.attrs["parameters"])
        return found

    def _range(self, operand: Operand) -> tuple[float, float]:
        if self.op.formula == "loss":
            return max(-3.0, self.formula.domain[0]), min(3.0, self.formula.domain[1])
        if operand.name in self.op.writes[1:]:
            return 0.2, 0.4  # a state: averages of squares stay above those of averages
        return -3.0, 3.0

    def _targets(self, rng: Any, shape: tuple[int, ...]) -> np.ndarray:
        match self.formula.targets:
            case "counts":
                return rng.integers(0, 5, shape)
            case "shares":
                return rng.uniform(0, 1, shape)
            case "signs":
                return rng.choice((-1, 1), shape)
        return rng.uniform(-3, 3, shape)

    def define(self, inputs: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
        """What the NumPy definition makes of inputs in float64, in a batch of so many rows."""
        arrays = {name: values.astype(np.float64) for name, values in inputs.items()}
        arrays |= {n: np.empty(s) for n, s in self.shapes().items() if n not in arrays}
        self.call_definition(arrays, rows)
        return {o.name: arrays[o.name] for o in self.written}

    def call_definition(self, arrays: dict[str, np.ndarray], rows: int) -> None:
        """Run the NumPy definition on operands by name."""
        step = {"step": Step(rows=rows, rate=RATE)} if self.op.uses_step else {}
        self.op.define(*(arrays.get(o.name) for o in self.op.operands), **self.attrs, **step)
