"""Weights that stay with the thread that updates them."""

from __future__ import annotations

import math
from dataclasses import replace

from ..kernels.op import OPS
from .graph import Graph, Node, Tensor

#: Bytes of weights that take longer to move between caches than threads to meet once more, and of
#: those that stay, with their state, in the second caches of two threads or more.
MOVED_BYTES, KEPT_BYTES = 1 << 16, 1 << 19
#: Inputs of a thread's part.
LEAST_PART = 64


def divide_inputs(graph: Graph, batch: int, terms: int, item: int) -> Graph:
    """Of a wide input, each thread multiplies its part by the weights that it updates.

    Those then stay in its own cache from one step to the next. All threads add up their terms
    afterwards, which is less to move as long as there are many more inputs than rows. For weights
    that do not stay in the caches it gains nothing.
    """
    updated = {w.offset for n in graph.nodes if n.op.name == "dense_update" and (w := n.inputs[2])}

    def is_divided(node: Node) -> bool:
        w = node.inputs[1] if node.op.name == "dense" else None
        if w is None or w.offset not in updated:
            return False
        wide = w.shape[0] >= max(4 * batch, LEAST_PART * terms)
        return wide and MOVED_BYTES <= math.prod(w.shape) * item <= KEPT_BYTES

    nodes: list[Node] = []
    for node in graph.nodes:
        if is_divided(node):
            x, w, b = node.inputs
            (y,) = node.outputs
            assert y is not None
            parts = Tensor(f"{y.name}_parts", (terms, *y.shape))
            nodes.append(Node(OPS["dense_parts"], (x, w), (parts,), {}, node.phase))
            nodes.append(replace(node, op=OPS["sum_parts"], inputs=(parts, b)))
        else:
            nodes.append(node)
    return graph.with_nodes(nodes)
