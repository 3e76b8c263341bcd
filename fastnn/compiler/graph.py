"""The graph: ops on symbolic tensors, in the order in which they will run.

Layers, losses and optimizers only emit nodes here. Passes (`autodiff`, `fuse`) read a graph and
return another; nothing is computed and no memory exists yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from ..kernels.op import OPS, Op, Shape

#: Phases of a step, in order.
PHASES = ("gather", "forward", "backward", "update", "constrain")


@dataclass(eq=False)
class Tensor:
    """A symbolic array. ``region`` says whose memory it lives in:

    ``arena`` (planned, reused), ``parameters``, ``gradients``, ``buffers`` and ``state`` (flat
    vectors, at ``offset`` numbers from their start; ``buffers`` are what layers keep beside their
    parameters, ``slot`` tells the optimizer's states apart), ``rows``
    (results that the executor sums), ``feed`` (the user's array ``name``), ``table`` (constants),
    ``exchange`` (what threads write for each other, one behind the other).
    """

    name: str
    shape: Shape
    type: str = "real"
    region: str = "arena"
    offset: int = 0
    slot: int = 0

    def __repr__(self) -> str:
        shape = "x".join("B" if n < 0 else str(n) for n in self.shape)
        return f"{self.name}[{shape}]"


@dataclass(eq=False)
class Node:
    """One op applied to tensors; an absent operand is None."""

    op: Op
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor | None, ...]
    attrs: dict[str, Any]
    phase: str

    @property
    def operands(self) -> tuple[Tensor | None, ...]:
        return self.inputs + self.outputs


@dataclass(frozen=True)
class Sum:
    """A result that the executor sums: per row of the batch, or once a step (a penalty).

    What is minimised is the sum of all that are a loss, each times its factor.
    """

    name: str
    tensor: Tensor
    per_row: bool
    is_loss: bool
    factor: float = 1.0


@dataclass
class Graph:
    """Nodes in running order, what is summed, and which tensors depend on a parameter."""

    nodes: list[Node] = field(default_factory=list)
    sums: list[Sum] = field(default_factory=list)
    roots: list[Tensor] = field(default_factory=list)
    tables: dict[Tensor, Any] = field(default_factory=dict)
    phase: str = "forward"
    _differentiable: set[Tensor] = field(default_factory=set)
    _streams: int = 0

    def parameter(self, name: str, shape: Shape, offset: int) -> Tensor:
        """A view into the flat parameters."""
        return self.follow(Tensor(name, shape, region="parameters", offset=offset))

    def buffer(self, name: str, shape: Shape, offset: int) -> Tensor:
        """A view into the flat buffers, which have no gradient."""
        return Tensor(name, shape, region="buffers", offset=offset)

    def follow(self, tensor: Tensor) -> Tensor:
        """Ask for the gradient by this tensor."""
        self._differentiable.add(tensor)
        return tensor

    def new_stream(self) -> int:
        """A number of its own for an op that draws random numbers."""
        self._streams += 1
        return self._streams

    def needs_gradient(self, tensor: Tensor) -> bool:
        """Whether the tensor is, or depends on, one whose gradient is asked for."""
        return tensor in self._differentiable

    def emit(
        self,
        name: str,
        *inputs: Tensor | None,
        outputs: tuple[bool, ...] | None = None,
        dims: Mapping[str, int] | None = None,
        **attrs: Any,
    ) -> tuple[Any, ...]:
        """Append an op and return its outputs.

        ``outputs`` says which are wanted (all), ``dims`` the dimensions that only outputs have.
        """
        op = OPS[name]
        given = [t.shape if t is not None else None for t in inputs]
        shapes = op.output_shapes(given, **(dims or {}))
        made = tuple(
            Tensor(
                f"{operand.name}{len(self.nodes)}",
                shape,
                type=operand.type,
                region="rows" if operand.type == "double" else "arena",
            )
            if wanted
            else None
            for operand, shape, wanted in zip(
                op.outputs, shapes, outputs or (True,) * len(op.outputs), strict=True
            )
        )
        self.nodes.append(Node(op, inputs, made, attrs, self.phase))
        if any(t in self._differentiable for t in inputs):
            self._differentiable.update(
                t
                for t, operand in zip(made, op.outputs, strict=True)
                if t is not None and operand.name not in op.without_gradient
            )
        return made

    def emit_in_place(
        self, name: str, tensor: Tensor, *inputs: Tensor | None, **attrs: Any
    ) -> None:
        """Append an op that replaces its first input, outside the arena, by its only output."""
        (made,) = self.emit(name, tensor, *inputs, **attrs)
        made.region, made.offset, made.slot = tensor.region, tensor.offset, tensor.slot

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Ops emitted inside belong to this phase."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def producer(self, tensor: Tensor | None) -> Node | None:
        """The node that writes a tensor, or None for one from outside."""
        found = (n for n in self.nodes if tensor is not None and tensor in n.outputs)
        return next(found, None)

    def consumers(self, tensor: Tensor | None) -> list[Node]:
        """The nodes that read a tensor."""
        return [n for n in self.nodes if tensor is not None and tensor in n.inputs]

    def with_nodes(self, nodes: Iterable[Node]) -> Graph:
        """The same graph with other nodes."""
        return replace(self, nodes=list(nodes))

    def substitute(self, new: Mapping[Tensor, Tensor]) -> Graph:
        """The same graph with tensors exchanged, wherever they occur."""

        def swap(tensors: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
            return tuple(new.get(t, t) if t is not None else None for t in tensors)

        return replace(
            self,
            nodes=[replace(n, inputs=swap(n.inputs), outputs=swap(n.outputs)) for n in self.nodes],
            sums=[replace(s, tensor=new.get(s.tensor, s.tensor)) for s in self.sums],
            roots=[new.get(t, t) for t in self.roots],
        )
