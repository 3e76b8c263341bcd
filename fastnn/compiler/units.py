"""Hidden units divided among threads, each of which keeps their weights to itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..kernels.op import BATCH, OPS
from .graph import Graph, Node, Tensor

#: Units of a thread: fewer do not fill the registers of a product.
LEAST_UNITS = 16

#: Bytes of weights and state up to which it pays: they are copied whenever a native call begins and
#: ends, and those of larger networks are shared as well (784-128-10 takes as long either way).
MOST_BYTES = 1 << 17

#: Memory of the model's own, which threads would change for each other.
LASTING = {"parameters", "gradients", "state", "buffers"}


@dataclass(frozen=True)
class Part:
    """A parameter, of which each thread has a part; without an ``axis`` each has all of it.

    ``whole`` lies among the model's parameters, ``own`` among those of one thread.
    """

    whole: Tensor
    own: Tensor
    axis: int | None

    def place(self, thread: int) -> tuple[int, int, int, int]:
        """A thread's part among the model's parameters: where it starts, how many runs of numbers
        it has, how long each is, and how far from one to the next."""
        columns = self.axis == 1
        runs = self.own.shape[0] if columns else 1
        length = math.prod(self.own.shape) // runs
        start = self.whole.offset + (thread * length if self.axis is not None else 0)
        return start, runs, length, self.whole.shape[1] if columns else length


@dataclass(frozen=True)
class Divided:
    """The step of one of some threads, and what parameters it has.

    ``moved`` are the numbers for each row that a thread reads beside its part of all: the rest of
    the inputs, and the terms of the output.
    """

    graph: Graph
    parts: tuple[Part, ...]
    moved: int

    @property
    def size(self) -> int:
        """Numbers of the parameters of one thread."""
        return sum(math.prod(part.own.shape) for part in self.parts)


def divide_units(graph: Graph, threads: int) -> Divided | None:
    """The step of a network with one hidden layer, for a thread that has its part of the units.

    A unit's weights, those before it and those behind it, are then read and updated by one thread
    only. Threads exchange nothing but the terms of the output, which is a sum over the units. What
    follows from the output each computes for itself, and what else it updates comes out the same.

    None where the network is another, where its units cannot be divided into equal parts, or where
    its weights are changed by anything but updates of each number by itself.
    """
    layers = _two_layers(graph)
    if threads < 2 or layers is None:
        return None
    first, second, *inside = layers
    (x, w, b), (_, v, c), (output,) = first.inputs, second.inputs, second.outputs
    assert x is not None and w is not None and v is not None and output is not None
    units = w.shape[1] // threads
    if units * threads != w.shape[1] or units < LEAST_UNITS:
        return None
    swap: dict[Tensor, Tensor] = {h: replace(h, shape=(BATCH, units)) for h in inside}
    parts: list[Part] = []
    start = 0
    for whole, axis in ((w, 1), (b, 0), (v, 0), (c, None)):
        if whole is not None:
            shape = tuple(units if i == axis else n for i, n in enumerate(whole.shape))
            parts.append(Part(whole, replace(whole, shape=shape, offset=start), axis))
            start += math.prod(shape)
    own = {part.whole.offset: part.own for part in parts}
    for node in graph.nodes:
        if node.op.name == "dense_update":  # its state is that of its weights and then its bias
            weights = [own[t.offset] for t in node.inputs[2:4] if t is not None]
            size = sum(math.prod(t.shape) for t in weights)
            for state in node.inputs[4:]:
                if state is not None:
                    swap[state] = replace(state, shape=(size,), offset=weights[0].offset)
        for t in node.operands:
            if t is not None and t.region == "parameters":
                swap[t] = own[t.offset]
    terms = Tensor(f"{output.name}_terms", (threads, *output.shape), region="exchange")
    term = replace(terms, name=f"{output.name}_term", shape=output.shape)
    plain = {"function": "identity", "parameters": ()}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node is second:
            hidden = second.inputs[0]
            nodes.append(Node(OPS["dense"], (hidden, v, None), (term,), plain, node.phase))
            node = replace(node, op=OPS["sum_parts"], inputs=(terms, c))
        nodes.append(node)
    numbers = x.shape[1] * (threads - 1) // threads + threads * output.shape[1]
    return Divided(graph.with_nodes(nodes).substitute(swap), tuple(parts), numbers)


def _two_layers(graph: Graph) -> tuple[Node, Node, Tensor, Tensor] | None:
    """The layers before and behind hidden units, the units' activations, and their gradients.

    None where anything else touches these, or what lasts from step to step.
    """
    named: dict[str, list[Node]] = {"dense": [], "dense_dx": [], "dense_update": []}
    for node in graph.nodes:
        if node.op.name in named:
            named[node.op.name].append(node)
        elif any(t is not None and t.region in LASTING for t in node.operands):
            return None
    if [len(nodes) for nodes in named.values()] != [2, 1, 2]:
        return None
    (first, second), (back,) = named["dense"], named["dense_dx"]
    (h,), (dh,) = first.outputs, back.outputs
    w, b, v, c = (*first.inputs[1:], *second.inputs[1:])
    assert h is not None and dh is not None and w is not None and v is not None
    if any(t is not None and t.region != "parameters" for t in (w, b, v, c)):
        return None

    def places(*tensors: Tensor | None) -> tuple[int | None, ...]:
        return tuple(t.offset if t is not None else None for t in tensors)

    updated = {(n.inputs[0], n.inputs[1], *places(*n.inputs[2:4])) for n in named["dense_update"]}
    fits = (
        second.inputs[0] is h
        and w.offset != v.offset
        and places(back.inputs[1]) == places(v)
        and back.inputs[3] is None
        and updated == {(first.inputs[0], dh, *places(w, b)), (h, back.inputs[0], *places(v, c))}
    )
    readers = {id(node) for nodes in named.values() for node in nodes}
    touched = any(t in (h, dh) for n in graph.nodes if id(n) not in readers for t in n.operands)
    return (first, second, h, dh) if fits and not touched else None
