"""Hidden units divided among threads, each of which keeps their weights to itself.

This is tensor parallelism (Shoeybi et al., Megatron-LM: Training multi-billion parameter language
models using model parallelism, 2019): the weights of one layer are divided by columns and those of
the next by rows. There it is for weights beyond one processor's memory, here for its caches.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..kernels.op import OPS
from .graph import Graph, Node, Tensor

#: Units of a thread: fewer do not fill the registers of a product.
LEAST_UNITS = 16

#: Bytes of weights and state up to which they are copied to threads.
MOST_BYTES = 1 << 24

#: Memory of the model's own, which threads would change for each other. Gradients lie as the
#: parameters do, and so does each slot of the optimizer's state.
LASTING = {"parameters": "parameters", "gradients": "parameters", "state": "parameters",
           "buffers": "buffers"}  # fmt: skip

#: A layer's product with what is fused into it, and what reads units that are divided.
LAYERS = ("dense", "dense_dropout")
READERS = (*LAYERS, "dense_dx", "dense_dw", "dense_update")

_PLAIN: dict[str, Any] = {"function": "identity", "parameters": ()}
_PRODUCT: dict[str, Any] = {"function": "multiply", "parameters": ()}


@dataclass(frozen=True)
class Part:
    """A parameter or buffer, of which each thread has a part; without an ``axis`` each has it all.

    ``whole`` lies in the model's flat vector, ``own`` in that of one thread.
    """

    whole: Tensor
    own: Tensor
    axis: int | None

    def place(self, thread: int) -> tuple[int, int, int, int]:
        """A thread's part in the model's vector: where it starts, how many runs of numbers it has,
        how long each is, and how far from one to the next."""
        columns = self.axis == 1
        runs = self.own.shape[0] if columns else 1
        length = math.prod(self.own.shape) // runs
        start = self.whole.offset + (thread * length if self.axis is not None else 0)
        return start, runs, length, self.whole.shape[1] if columns else length


@dataclass(frozen=True)
class Divided:
    """The step of one of some threads, and what it has of the model's vectors.

    ``repeated`` are the calls that each thread does in full, ``meetings`` the sums for which
    threads meet, and ``moved`` the numbers for each row that a thread reads beside its part of all:
    the rest of the inputs, and the others' terms of those sums.
    """

    graph: Graph
    parts: tuple[Part, ...]
    repeated: frozenset[int]
    meetings: int
    moved: int

    def size(self, region: str) -> int:
        """Numbers of one thread's own parameters, or buffers."""
        return sum(math.prod(p.own.shape) for p in self.parts if p.own.region == region)


def divide_units(graph: Graph, threads: int) -> Divided | None:
    """The step of a thread that has its part of the units of every other hidden layer.

    All that is done unit by unit stays with the thread, and so do the weights before the units and
    those behind them. The next layer's product is a sum over the units, whose terms threads
    exchange; what follows from it each computes for itself, until the next layer that is divided.
    The same happens on the way back, where a gradient by whole inputs is a sum over the units.
    With one hidden layer threads meet once a step; with eight in a chain, seven times.

    None where no layer can be divided into equal parts, or where weights are changed by anything
    but updates of each number by itself.
    """
    first = _first_layers(graph, threads) if threads > 1 else []
    if not first:
        return None
    try:
        return _Division(graph, threads, first).result()
    except _Indivisible:
        return None


def _first_layers(graph: Graph, threads: int) -> list[Node]:
    """Layers whose units can be divided, no two of which follow each other."""
    readers: dict[Tensor, list[Node]] = defaultdict(list)
    needed_whole: set[tuple[str, int]] = set()  # weights that something else reads: a penalty, say
    for node in graph.nodes:
        for t in _present(node.inputs):
            readers[t].append(node)
            if (
                t.region in LASTING
                and node.op.name not in (*READERS, "update")
                and not node.op.columns
            ):
                needed_whole.add(_place(t))
    layers = {
        node
        for node in graph.nodes
        if node.op.name in LAYERS
        and all(
            t.region in LASTING and _place(t) not in needed_whole
            for t in _present(node.inputs[1:3])
        )
    }
    found: list[Node] = []
    divided: set[Tensor] = set()
    for node in graph.nodes:
        if node not in layers or node.inputs[0] in divided:
            continue
        masks, made = _present(node.inputs[3:]), _present(node.outputs)
        units, rest = divmod(made[0].shape[1], threads)
        if rest or units < LEAST_UNITS or (masks and units % OPS["dropout_mask"].columns):
            continue
        if own := _made_of([*masks, *made], units, readers, layers):
            found.append(node)
            divided |= own
    return found


def _present(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    return [t for t in tensors if t is not None]


def _made_of(
    own: list[Tensor], units: int, readers: dict[Tensor, list[Node]], layers: set[Node]
) -> set[Tensor]:
    """A layer's units, and what is made of them unit by unit until other layers sum over them.

    Nothing where something needs all units at once, or could not have so few.
    """
    found, left = set(own), list(own)
    while left:
        for node in readers[left.pop()]:
            if node.op.columns and units % node.op.columns == 0:
                made = [t for t in _present(node.outputs) if t not in found]
                found.update(made)
                left += made
            elif node.op.name not in READERS or (node.op.name in LAYERS and node not in layers):
                return set()
    return found


class _Indivisible(Exception):
    """Something needs all units, or changes weights that threads have parts of."""


class _Division:
    """The way through a graph, from call to call: what is divided, and what one thread does."""

    def __init__(self, graph: Graph, threads: int, first: list[Node]) -> None:
        self.graph, self.threads, self.first = graph, threads, first
        #: Masks are drawn before the product that is multiplied by them.
        self.divided = {t for node in first for t in _present(node.inputs[3:])}
        #: Each parameter and buffer by region and offset, and along which axis it is divided.
        self.axes: dict[tuple[str, int], tuple[Tensor, int | None]] = {}
        self.nodes: list[Node] = []
        self.repeated: set[int] = set()
        self.exchanges: list[Tensor] = []

    def result(self) -> Divided:
        for node in self.graph.nodes:
            self._visit(node)
        parts = self._parts()
        swap = {t: self._narrowed(t) for t in self.divided}
        for node in self.nodes:
            swap |= {t: _own(t, parts) for t in _present(node.operands) if t.region in LASTING}
        graph = self.graph.with_nodes(self.nodes)
        tables = {t: self._own_runs(t, parts) for n in self.nodes for t in _segments(n)}
        for table, runs in tables.items():
            swap[table] = replace(table, shape=runs.shape)
            graph.tables = {**graph.tables, swap[table]: runs}
        gathers = (n for n in self.graph.nodes if n.op.name == "gather")
        gathered = sum(t.shape[1] for n in gathers for t in _present(n.outputs))
        moved = gathered * (self.threads - 1) // self.threads
        moved += sum(terms.shape[-1] * (self.threads - 1) for terms in self.exchanges)
        meetings = len(self.exchanges)
        repeated = frozenset(self.repeated)
        return Divided(graph.substitute(swap), parts, repeated, meetings, moved)

    # ------------------------------------------------------------------ calls

    def _visit(self, node: Node) -> None:
        match node.op.name:
            case "dense" | "dense_dropout":
                self._dense(node)
            case "dense_dx":
                self._dense_dx(node)
            case "dense_dw":
                self._weights(node, *node.inputs, *node.outputs)
            case "dense_update":
                self._weights(node, *node.inputs[:4])
            case "update":
                self._keep(node)
            case _ if node.op.columns:
                self._unit_by_unit(node)
            case _:
                self._in_full(node)

    def _dense(self, node: Node) -> None:
        (x, w, b, *mask), (y, *dropped) = node.inputs, node.outputs
        assert y is not None
        if node in self.first:
            self._divide(w, 1)
            self._divide(b, 0)
            self.divided.update(_present(node.outputs))
            self._keep(node)
            return
        summed = x in self.divided
        self._divide(w, 0 if summed else None)
        self._divide(b, None)
        if not summed:
            self._keep(node, repeated=True)
            return
        term, terms = self._exchange(y)
        self._keep(Node(OPS["dense"], (x, w, None), (term,), _PLAIN, node.phase))
        self._keep(Node(OPS["sum_parts"], (terms, b), (y,), node.attrs, node.phase), repeated=True)
        if mask:
            product = Node(OPS["merge"], (y, *mask), tuple(dropped), _PRODUCT, node.phase)
            self._keep(product, repeated=True)

    def _dense_dx(self, node: Node) -> None:
        (dz, w, y, mask), (dx,) = node.inputs, node.outputs
        assert w is not None and dx is not None
        axis = self.axes[_place(w)][1] if w.region in LASTING else None
        divided = dz in self.divided
        # The derivative and the mask are divided as dx is.
        factors = _present((y, mask))
        if divided != (axis == 1) or any((t in self.divided) != (axis == 0) for t in factors):
            raise _Indivisible
        if not divided:
            if axis == 0:
                self.divided.add(dx)
            self._keep(node, repeated=axis is None)
            return
        term, terms = self._exchange(dx)
        self._keep(Node(node.op, (dz, w, None, None), (term,), _PLAIN, node.phase))
        calls: list[tuple[str, tuple[Tensor | None, ...], dict[str, Any]]] = [
            ("sum_parts", (terms, None), _PLAIN)
        ]
        if mask is not None:
            calls.append(("merge", (mask,), _PRODUCT))
        if y is not None:
            calls.append(("activation_grad", (None, y), node.attrs))
        made: tuple[Tensor, ...] = ()
        for i, (name, others, attrs) in enumerate(calls, 1):
            last = i == len(calls)
            result = dx if last else replace(dx, name=f"{dx.name}_{name}")
            self._keep(
                Node(OPS[name], (*made, *others), (result,), attrs, node.phase), repeated=True
            )
            made = (result,)

    def _weights(
        self, node: Node, x: Tensor | None, dz: Tensor | None, w: Tensor | None, b: Tensor | None
    ) -> None:
        """A layer's gradient, or update: its inputs are divided, or its units."""
        rows, columns = x in self.divided, dz in self.divided
        if rows and columns:
            raise _Indivisible
        self._divide(w, 0 if rows else 1 if columns else None)
        self._divide(b, 0 if columns else None)
        self._keep(node, repeated=not (rows or columns))

    def _unit_by_unit(self, node: Node) -> None:
        inputs = [t for t in _present(node.inputs) if t.region not in LASTING]
        # (Of what only draws numbers, a mask, it was known before.)
        which = {t in self.divided for t in inputs or node.outputs}
        if len(which) != 1:
            raise _Indivisible
        (divided,) = which
        for t in _present(node.operands):
            if t.region in LASTING:
                self._divide(t, 0 if divided else None)
            elif divided and t.shape[-1] // self.threads % node.op.columns:
                raise _Indivisible
        if divided:
            self.divided.update(t for t in _present(node.outputs) if t.region not in LASTING)
        self._keep(node, repeated=not divided)

    def _in_full(self, node: Node) -> None:
        """What each thread does for itself: nothing of it may be divided."""
        if node.op.writes or any(t in self.divided for t in node.operands):
            raise _Indivisible
        for t in _present(node.operands):
            if t.region in LASTING:
                self._divide(t, None)
        self._keep(node, repeated=True)

    def _keep(self, node: Node, repeated: bool = False) -> None:
        if repeated:
            self.repeated.add(len(self.nodes))
        self.nodes.append(node)

    def _exchange(self, total: Tensor) -> tuple[Tensor, Tensor]:
        """A thread's term of a sum, and the terms of all."""
        shape = (self.threads, *total.shape)
        terms = Tensor(f"{total.name}_terms", shape, region="exchange", slot=len(self.exchanges))
        self.exchanges.append(terms)
        return replace(terms, name=f"{total.name}_term", shape=total.shape), terms

    # ------------------------------------------------------------------ tensors

    def _divide(self, t: Tensor | None, axis: int | None) -> None:
        """Note along which axis a parameter or buffer is divided: everywhere the same."""
        if t is None or (t.region not in LASTING and axis is None and t not in self.divided):
            return
        if t.region not in LASTING:
            raise _Indivisible  # made of parameters, as a whole
        whole, known = self.axes.setdefault(_place(t), (t, axis))
        if known != axis or whole.shape != t.shape:
            raise _Indivisible

    def _narrowed(self, t: Tensor, axis: int = -1) -> Tensor:
        shape = list(t.shape)
        shape[axis] //= self.threads
        return replace(t, shape=tuple(shape))

    def _parts(self) -> tuple[Part, ...]:
        """What a thread has, one behind the other as in the model's vectors."""
        parts = []
        ends: dict[str, int] = defaultdict(int)
        for (region, _), (whole, axis) in sorted(self.axes.items(), key=lambda item: item[0]):
            own = whole if axis is None else self._narrowed(whole, axis)
            own = replace(own, region=region, offset=ends[region])
            parts.append(Part(whole, own, axis))
            ends[region] += math.prod(own.shape)
        return tuple(parts)

    def _own_runs(self, table: Tensor, parts: tuple[Part, ...]) -> np.ndarray:
        """The runs of the update pass (start, stop, l2, l1), among one thread's own parameters."""
        runs = []
        for start, stop, *decay in self.graph.tables[table].tolist():
            run = Tensor("run", (round(stop - start),), region="parameters", offset=round(start))
            own = _own(run, parts)
            runs.append([own.offset, own.offset + own.shape[0], *decay])
        return np.array(runs, float)


def _place(t: Tensor) -> tuple[str, int]:
    return LASTING[t.region], t.offset


def _segments(node: Node) -> list[Tensor]:
    tables = [t for t in _present(node.inputs) if t.region == "table"]
    return tables if node.op.name == "update" else []


def _own(t: Tensor, parts: tuple[Part, ...]) -> Tensor:
    """A view of the model's vectors, one parameter or a run of them, among a thread's own."""
    stop = t.offset + math.prod(t.shape)
    within = [
        p for p in parts if p.own.region == LASTING[t.region] and t.offset <= p.whole.offset < stop
    ]
    if not within:
        raise _Indivisible
    if len(t.shape) > 1:
        return replace(t, shape=within[0].own.shape, offset=within[0].own.offset)
    size = sum(math.prod(p.own.shape) for p in within)
    return replace(t, shape=(size,), offset=within[0].own.offset)
