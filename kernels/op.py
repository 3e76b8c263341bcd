"""The contract of an operation, and the registry of all of them.

An op is declared beside its NumPy definition in ``ref``. Its signature, such as ::

    x[B,I] w[I,O] b?[O] -> y[B,O]

names the operands and their shapes; one grammar serves the shape rule, the compiler, the tests and
the documentation. ``?`` marks an operand that may be absent, ``:int32`` or ``:double`` a type other
than the model's own number type, ``:feed`` an array of the user's, and ``[...]`` any one shape,
the same for all operands that have it. ``B`` is the number of rows of a batch, unknown (``BATCH``)
until a program is bound to data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]
Dims = Mapping[str, Any]

#: The symbolic number of rows of a batch.
BATCH = -1

_OPERAND = re.compile(r"(?P<name>\w+)(?P<optional>\?)?\[(?P<dims>[^\]]*)\](:(?P<type>\w+))?$")


@dataclass(frozen=True)
class Operand:
    """One input or output: its name, symbolic dimensions and number type."""

    name: str
    dims: tuple[str, ...]
    type: str
    optional: bool


@dataclass(frozen=True)
class Binding:
    """What a compiled kernel's sizes depend on beside its shapes.

    ``first_row`` is the number within the batch of the first row of this thread. ``layout`` holds,
    for a user's array, its type code and its strides in bytes: (code, row stride, column stride).
    ``copies`` gradients of the flat size lie one behind the other, one per thread. ``part`` is the
    number of this thread's part of the columns.
    """

    first_row: int = 0
    layout: tuple[int, int, int] = (0, 0, 0)
    copies: int = 1
    part: int = 0


@dataclass(frozen=True)
class Op:
    """An operation: what it reads and writes, what it costs, how it is differentiated.

    Attributes
    ----------
    define
        The NumPy definition ``define(*inputs, *outputs, **attributes)``: writes the outputs.
        Absent operands are None. With ``uses_step`` it also takes ``step`` (see ``ref.Step``).
    sizes, constants
        What the compiled kernel finds in its call, from the dimensions and the attributes.
    formula
        Kind of the scalar formula that the attribute ``function`` names, if the op has one.
    gradient
        ``gradient(graph, node, *output gradients) -> input gradients``, emitting ops on the graph;
        None for an op that ends the chain (a gradient, a metric, a loss that is differentiated by
        ``loss_gradient``, the name of the output that holds the gradient by the first input).
    penalty_gradient
        Of an op whose result is added to the loss: the op that adds its gradient by the one input,
        ``(gradient, input) -> gradient``.
    in_place
        Output name -> input name whose memory it may take over.
    writes
        Names of inputs that are modified.
    shared
        In a batch divided by rows, threads divide this op's own work instead: it has no rows.
    whole
        A batch with this op cannot be divided by rows: its result is not a sum over them, or it
        would be added by each thread.
    columns
        Above 0, where each column of what it writes is made of the same columns of what it reads
        (operands are matrices, or one number for each column): threads can have columns of their
        own, equal parts that are multiples of this.
    without_gradient
        Names of outputs that are constants to what reads them.
    copies
        Whether, with these attributes, the only output is nothing but rows of the only input, a
        user's array. Where they are taken in order, its readers may read the array itself.
    flops
        Floating-point operations from the dimensions; transcendental functions count as one.
    """

    name: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    define: Callable[..., None]
    sizes: Callable[[Dims, Mapping[str, Any], Binding], Sequence[int]]
    constants: Callable[[Mapping[str, Any]], Sequence[float]]
    flops: Callable[[Dims], float]
    formula: str | None = None
    gradient: Callable[..., Sequence[Any]] | None = None
    loss_gradient: str | None = None
    penalty_gradient: str | None = None
    in_place: Mapping[str, str] = field(default_factory=dict)
    writes: tuple[str, ...] = ()
    infer: Mapping[str, Callable[[Dims], int]] = field(default_factory=dict)
    domain: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    uses_step: bool = False
    shared: bool = False
    whole: bool = False
    columns: int = 0
    without_gradient: tuple[str, ...] = ()
    copies: Callable[[Mapping[str, Any]], bool] = lambda attrs: False

    @property
    def operands(self) -> tuple[Operand, ...]:
        """Inputs, then outputs: the order of a call's buffers."""
        return self.inputs + self.outputs

    def dims(self, shapes: Sequence[Shape | None], **given: int) -> dict[str, Any]:
        """Dimensions by name, from the shapes of the inputs (or of all operands).

        Those that only outputs have may be ``given``.

        Raises
        ------
        ValueError
            A required operand is absent, or shapes disagree.
        """
        found: dict[str, Any] = dict(given)
        for operand, shape in zip(self.operands, shapes, strict=False):
            if shape is None:
                if not operand.optional:
                    raise ValueError(f"{self.name}: operand {operand.name!r} is missing")
                continue
            if operand.dims == ("...",):
                pairs: list[tuple[str, Any]] = [("...", tuple(shape))]
            elif len(operand.dims) != len(shape):
                raise ValueError(
                    f"{self.name}: {operand.name} has shape {shape}, expected [{operand.dims}]"
                )
            else:
                pairs = list(zip(operand.dims, shape, strict=True))
            for name, size in pairs:
                known = int(name) if name.isdigit() else found.setdefault(name, size)
                if known != size:
                    raise ValueError(
                        f"{self.name}: {operand.name} has shape {shape}, but {name} is {known}"
                    )
        for name, rule in self.infer.items():
            if found.setdefault(name, rule(found)) != rule(found):
                raise ValueError(f"{self.name}: {name} is {found[name]}, expected {rule(found)}")
        return found

    def output_shapes(self, shapes: Sequence[Shape | None], **given: int) -> list[Shape]:
        """Shapes of the outputs, from those of the inputs, and dimensions that only they have."""
        dims = self.dims(shapes, **given)
        return [
            dims["..."]
            if operand.dims == ("...",)
            else tuple(int(d) if d.isdigit() else dims[d] for d in operand.dims)
            for operand in self.outputs
        ]


#: Name -> op, in the order of definition.
OPS: dict[str, Op] = {}


def _operands(text: str) -> tuple[Operand, ...]:
    found = []
    for word in text.split():
        match = _OPERAND.match(word)
        if match is None:
            raise ValueError(f"operand {word!r} is not name?[dims]:type")
        dims = tuple(d for d in match["dims"].split(",") if d)
        found.append(Operand(match["name"], dims, match["type"] or "real", bool(match["optional"])))
    return tuple(found)


def count(dims: Dims, *names: str) -> int:
    """Product of the named dimensions; ``...`` is a whole shape."""
    return math.prod(math.prod(dims[n]) if n == "..." else dims[n] for n in names)


def op(signature: str, **contract: Any) -> Callable[[Callable[..., None]], Op]:
    """Declare an op by its signature and contract (decorator of its NumPy definition)."""
    inputs, outputs = (_operands(side) for side in signature.split("->"))
    contract.setdefault("constants", lambda attrs: attrs.get("parameters", ()))
    contract.setdefault("flops", lambda dims: 0.0)

    def declare(define: Callable[..., None]) -> Op:
        name = define.__name__
        if name in OPS:
            raise ValueError(f"op {name!r} is defined twice")
        OPS[name] = Op(name, inputs, outputs, define, **contract)
        return OPS[name]

    return declare
