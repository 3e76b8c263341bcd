"""The program: a frozen table of kernel calls over memory that is already laid out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from .graph import PHASES, Node, Sum, Tensor
from .plan import Plan, concrete, item_size, plan, tensor_bytes
from .split import Split
from .units import Part

#: Regions that are flat vectors, and the attribute of `Program` that has their size.
FLAT = {
    "parameters": "parameters",
    "gradients": "parameters",
    "state": "parameters",
    "buffers": "buffers",
}


@dataclass(frozen=True)
class Cost:
    """What one call does at a number of rows: floating-point operations, and bytes touched."""

    flops: float
    bytes: int


@dataclass(frozen=True)
class Program:
    """Calls in order, with the plan of their memory.

    Attributes
    ----------
    nodes
        The calls. The first ``compute`` come before the loss is looked at, the rest update.
    batch
        The largest number of rows of a step.
    parameters, states, buffers
        Size of the flat vector of parameters; number of vectors like it that the optimizer keeps;
        size of the flat vector of what layers keep beside their parameters.
    scratch
        Bytes that the runner's kernels work in beside what is planned.
    parts, repeated, whole
        Where threads divide the hidden units: what each has of the model's parameters and buffers
        (so ``parameters`` and ``buffers`` are those of one thread), the numbers of the calls that
        each does in full, and the same step for one thread.
    """

    purpose: str
    nodes: tuple[Node, ...]
    sums: tuple[Sum, ...]
    tables: Mapping[Tensor, Any]
    plan: Plan
    split: Split
    batch: int
    dtype: str
    parameters: int
    states: int
    buffers: int = 0
    scratch: int = 0
    parts: tuple[Part, ...] = ()
    repeated: frozenset[int] = frozenset()
    whole: Program | None = None

    @property
    def compute(self) -> int:
        """Number of calls before the first that changes anything: there the loss is checked."""
        changes = (i for i, node in enumerate(self.nodes) if node.op.writes)
        return next(changes, len(self.nodes))

    @property
    def gradients(self) -> int:
        """Size of the flat gradients: none where every one is used up as soon as it is known."""
        stored = any(t is not None and t.region == "gradients" for t in self._operands)
        return self.parameters if stored else 0

    @property
    def by_units(self) -> bool:
        """Whether each thread has its own hidden units, and knows all results by itself."""
        return self.whole is not None

    @property
    def copies(self) -> int:
        """How many arenas there are: one for each thread that runs every call by itself."""
        return self.split.threads if self.split.mode in ("shard", "units") else 1

    @property
    def exchanged(self) -> int:
        """Bytes that threads which divide the units write for each other, between two meetings."""
        found = (t for t in self._operands if t is not None and t.region == "exchange")
        return max((tensor_bytes(t, self.batch, self.dtype) for t in found), default=0)

    def is_repeated(self, node: Node) -> bool:
        """Whether each of the threads that divide the units does all of this call."""
        return node in self._repeated

    @cached_property
    def _repeated(self) -> set[Node]:
        return {self.nodes[i] for i in self.repeated}

    @cached_property
    def common(self) -> frozenset[Tensor]:
        """What all threads that divide the units make, each for itself, with the same numbers."""
        made = (t for node in self._repeated for t in node.outputs if t is not None)
        return frozenset(t for t in made if t.region in ("arena", "rows"))

    @property
    def _operands(self) -> Iterator[Tensor | None]:
        return (t for node in self.nodes for t in node.operands)

    @property
    def stored(self) -> dict[str, int]:
        """Numbers per row of each array of the user's that the program writes to."""
        return {
            t.name: t.shape[1]
            for node in self.nodes
            for t in node.outputs
            if t is not None and t.region == "feed"
        }

    def unsharded(self) -> Program:
        """The same step for one thread and whole batches."""
        if self.whole is not None:
            return self.whole
        whole = plan(self.nodes, self.batch, self.batch, self.dtype)
        return replace(self, plan=whole, split=Split("one", 1, "one thread"))

    def cost(self, node: Node, rows: int) -> Cost:
        """Operations and bytes of one call for a batch of ``rows`` rows."""
        shapes = [concrete(t.shape, rows) if t is not None else None for t in node.operands]
        written = len(node.op.writes)
        touched = sum(tensor_bytes(t, rows, self.dtype) for t in node.operands if t is not None)
        if written:
            names = {o.name: t for o, t in zip(node.op.operands, node.operands, strict=True)}
            written_tensors = [names[w] for w in node.op.writes]
            touched += sum(
                tensor_bytes(t, rows, self.dtype) for t in written_tensors if t is not None
            )
        # Where units are divided, calls are those of each thread; what all repeat counts once.
        times = self.split.threads if self.by_units else 1
        once = self.is_repeated(node)
        return Cost(node.op.flops(node.op.dims(shapes)) * (1 if once else times), touched * times)

    def flops(self, rows: int | None = None) -> float:
        """Operations of one step."""
        return sum(self.cost(n, rows or self.batch).flops for n in self.nodes)

    @property
    def peak_bytes(self) -> dict[str, int]:
        """Memory by what it is for; known before the first step."""
        size = item_size("real", self.dtype)
        whole = self.whole or self
        parameters, buffers = whole.parameters, whole.buffers
        kept = parameters * (1 + self.states) + buffers
        own = (self.parameters * (1 + self.states) + self.buffers) * self.split.threads
        return {
            "parameters": parameters * size,
            "gradients": self.gradients * size * self.copies,
            "buffers": buffers * size,
            "optimizer state": parameters * size * self.states,
            "last good weights": kept * size * (self.purpose == "train"),
            "threads' own weights and state": own * size * self.by_units,
            "arena": self.plan.arena_bytes * self.copies,
            "exchanged": 2 * self.exchanged,
            "results": self.plan.rows_bytes * (self.copies if self.by_units else 1),
            "scratch": self.scratch,
        }

    def verify(self) -> None:
        """Check what no kernel checks.

        Raises
        ------
        ValueError
            Shapes disagree, a tensor is read before it is written, live buffers overlap, a view
            leaves its region, or phases are out of order.
        """
        written: set[Tensor] = set()
        for i, node in enumerate(self.nodes):
            where = f"call {i} ({node.op.name})"
            if i and PHASES.index(node.phase) < PHASES.index(self.nodes[i - 1].phase):
                raise ValueError(f"{where}: phase {node.phase} follows {self.nodes[i - 1].phase}")
            node.op.dims([t.shape if t is not None else None for t in node.operands])
            for tensor in node.inputs:
                planned = tensor is not None and tensor.region in ("arena", "rows")
                if planned and tensor not in written:
                    raise ValueError(f"{where}: {tensor} is read before it is written")
            written.update(t for t in node.outputs if t is not None)
            for tensor in node.operands:
                if tensor is None or tensor.region not in FLAT:
                    continue
                if tensor.offset + math.prod(tensor.shape) > getattr(self, FLAT[tensor.region]):
                    raise ValueError(f"{where}: {tensor} leaves the flat {tensor.region}")
        self._verify_updates()
        for result in self.sums:
            if result.tensor not in written:
                raise ValueError(f"{result.name} is summed but never written")
        self._verify_memory()
        if self.by_units:
            self._verify_meeting()

    def _verify_meeting(self) -> None:
        """Threads with units of their own meet before they read what others wrote, and two pieces
        of memory take turns: so nothing is written until what was there before has been read. What
        all make alike is not changed by one, for another may read the same copy after it."""
        for i, node in enumerate(self.nodes):
            names = {o.name: t for o, t in zip(node.op.operands, node.operands, strict=True)}
            changed = {names[name] for name in (*node.op.writes, *node.op.in_place.values())}
            if i not in self.repeated and changed & self.common:
                raise ValueError(f"call {i} ({node.op.name}): changes what all threads make alike")
        turns = [
            (t.slot, t in node.inputs)
            for node in self.nodes
            for t in node.operands
            if t is not None and t.region == "exchange"
        ]
        last = turns[-1][0] if turns else 0
        if turns != [(i, read) for i in range(last + 1) for read in (False, True)]:
            raise ValueError(f"expected exchanges to be written and read in turn, got {turns}")

    def _verify_updates(self) -> None:
        """Every parameter has one gradient, and none is read once it has been updated."""
        made = (n for n in self.nodes if n.phase == "backward")
        spans = [_span(t) for n in made for t in n.outputs if t and t.region == "gradients"]
        changed: list[tuple[int, int]] = []
        for i, node in enumerate(self.nodes):
            if node.phase in ("update", "constrain"):  # passes over what is left
                continue
            for operand, tensor in zip(node.op.operands, node.operands, strict=True):
                if tensor is None or tensor.region != "parameters":
                    continue
                start, stop = _span(tensor)
                if any(start < high and low < stop for low, high in changed):
                    raise ValueError(f"call {i} ({node.op.name}): {tensor} is already updated")
                if operand.name in node.op.writes:
                    changed.append((start, stop))
        if self.purpose not in ("train", "gradients"):
            return
        end = 0
        for start, stop in sorted(spans + changed):
            if start != end:
                break
            end = stop
        if end != self.parameters:
            raise ValueError("the gradients written do not cover the parameters")

    def _verify_memory(self) -> None:
        life, offsets = self.plan.life, self.plan.offsets
        spans = {
            t: (offsets[t], offsets[t] + tensor_bytes(t, self.plan.rows, self.dtype)) for t in life
        }
        tensors = list(life)
        for a_index, a in enumerate(tensors):
            if spans[a][1] > self.plan.arena_bytes:
                raise ValueError(f"{a} leaves the arena")
            for b in tensors[a_index + 1 :]:
                if spans[a][0] >= spans[b][1] or spans[b][0] >= spans[a][1]:
                    continue
                first, second = sorted((a, b), key=lambda t: life[t][0])
                if life[first][1] < life[second][0] or self._in_place(first, second):
                    continue
                raise ValueError(f"{first} and {second} are alive at once in the same memory")

    def _in_place(self, old: Tensor, new: Tensor) -> bool:
        """Whether ``new`` is allowed to replace ``old`` in the call where one ends."""
        index = self.plan.life[new][0]
        node = self.nodes[index]
        names = {o.name: t for o, t in zip(node.op.operands, node.operands, strict=True)}
        return (
            self.plan.life[old][1] == index
            and self.plan.offsets[old] == self.plan.offsets[new]
            and any(names[a] is new and names[b] is old for a, b in node.op.in_place.items())
        )


def _span(tensor: Tensor) -> tuple[int, int]:
    return tensor.offset, tensor.offset + math.prod(tensor.shape)
