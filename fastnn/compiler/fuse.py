"""Rewrites from graph to graph that let one kernel call do the work of several ops.

Each pass is a function Graph -> Graph that leaves the values of the remaining tensors unchanged.
``stabilise`` comes before differentiation, so that the gradient is that of the stable form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..kernels.op import OPS
from .graph import Graph, Node, Tensor


def _only_consumer(graph: Graph, tensor: Tensor | None) -> Node | None:
    consumers = graph.consumers(tensor)
    return consumers[0] if len(consumers) == 1 and tensor not in graph.roots else None


def _without(graph: Graph, old: Node, new: Node, removed: Node) -> Graph:
    """``new`` in the place of ``old``, and ``removed`` gone."""
    return graph.with_nodes(new if n is old else n for n in graph.nodes if n is not removed)


def _logit(p: float) -> float:
    return math.log(p / (1 - p)) if 0 < p < 1 else math.copysign(math.inf, p - 0.5)


def stabilise(graph: Graph) -> Graph:
    """Cross-entropy of a softmax or sigmoid becomes one op on the logits; the perceptron's rule,
    which has no derivative of its step, is defined on them.

    exp and log cancel there, so nothing overflows and no precision is lost, and the gradient is
    prediction - target. Accuracy does not need the probabilities either: both functions keep order.
    """

    def rewrite(node: Node) -> Node:
        producer = graph.producer(node.inputs[0]) if node.inputs else None
        if producer is None:
            return node
        logits = (producer.inputs[0], *node.inputs[1:])
        softmax = producer.op.name == "softmax"
        log_softmax = producer.op.name == "log_softmax"
        activation = producer.attrs["function"] if producer.op.name == "activation" else None
        sigmoid = activation == "sigmoid"
        function = node.attrs.get("function")
        if softmax and node.op.name == "cross_entropy":
            attrs = {"divergence": False}
            return replace(node, op=OPS["softmax_cross_entropy"], inputs=logits, attrs=attrs)
        if softmax and function == "kl_divergence" and not node.attrs["mean"]:
            attrs = {"divergence": True}
            return replace(node, op=OPS["softmax_cross_entropy"], inputs=logits, attrs=attrs)
        if log_softmax and node.op.name == "negative_log_likelihood":
            attrs = {"divergence": False}
            return replace(node, op=OPS["softmax_cross_entropy"], inputs=logits, attrs=attrs)
        if (softmax or log_softmax) and node.op.name == "accuracy":
            return replace(node, inputs=logits)
        if sigmoid and node.op.name == "pointwise_loss" and function == "binary_cross_entropy":
            attrs = node.attrs | {"function": "sigmoid_cross_entropy"}
            return replace(node, inputs=logits, attrs=attrs)
        if activation == "heaviside" and function == "perceptron":
            return replace(node, inputs=logits)
        if sigmoid and node.op.name == "pointwise_loss" and function == "binary_match":
            (threshold,) = node.attrs["parameters"]
            return replace(
                node, inputs=logits, attrs=node.attrs | {"parameters": (_logit(threshold),)}
            )
        return node

    return graph.with_nodes(rewrite(n) for n in graph.nodes)


def fold_rescaling(graph: Graph) -> Graph:
    """A rescaling of the input happens while rows are gathered."""
    for gather in graph.nodes:
        if gather.op.name != "gather":
            continue
        rescale = _only_consumer(graph, gather.outputs[0])
        if rescale is None or rescale.op.name != "rescale":
            continue
        scale, offset = rescale.attrs["scale"], rescale.attrs["offset"]
        attrs = {
            "scale": gather.attrs["scale"] * scale,
            "offset": gather.attrs["offset"] * scale + offset,
        }
        fused = replace(gather, outputs=rescale.outputs, attrs=attrs)
        return fold_rescaling(_without(graph, gather, fused, rescale))
    return graph


#: Ops that apply a function to their first output.
ENDING = ("dense", "standardize_columns")


def fuse_activation(graph: Graph) -> Graph:
    """What ends with a function, then an activation: the function is applied to each block while it
    is in the cache.

    Where the derivative reads the activation's input, that input has a second consumer, and the
    two ops stay apart.
    """
    for first in graph.nodes:
        if first.op.name not in ENDING or first.attrs["function"] != "identity":
            continue
        activation = _only_consumer(graph, first.outputs[0])
        if activation is None or activation.op.name != "activation":
            continue
        outputs, attrs = (*activation.outputs, *first.outputs[1:]), first.attrs | activation.attrs
        fused = replace(first, outputs=outputs, attrs=attrs)
        return fuse_activation(_without(graph, first, fused, activation))
    return graph


def fuse_dropout(graph: Graph) -> Graph:
    """dense, then dropout: the mask multiplies each block while it is in the cache.

    What comes before the mask is kept, for an activation's derivative reads it.
    """
    for dropout in graph.nodes:
        if dropout.op.name != "dropout":
            continue
        x, (y, mask) = dropout.inputs[0], dropout.outputs
        dense = graph.producer(x)
        if dense is None or dense.op.name != "dense":
            continue
        assert x is not None and y is not None and mask is not None
        draw = Node(OPS["dropout_mask"], (), (mask,), dropout.attrs, dropout.phase)
        op = OPS["dense_dropout"]
        fused = replace(dense, op=op, inputs=(*dense.inputs, mask), outputs=(x, y))
        nodes = []
        for node in graph.nodes:
            if node is not dropout:
                nodes += [draw, fused] if node is dense else [node]
        return fuse_dropout(graph.with_nodes(nodes))
    return graph


def fuse_mask(graph: Graph) -> Graph:
    """A mask of dropout multiplies each block of dz w^T while it is in the cache."""
    for product in graph.nodes:
        if product.op.name != "merge" or product.attrs["function"] != "multiply":
            continue
        dy, mask = product.inputs
        drawn, dense_dx = graph.producer(mask), graph.producer(dy)
        if (
            drawn is None
            or drawn.op.name not in ("dropout", "dropout_mask")
            or dense_dx is None
            or dense_dx.op.name != "dense_dx"
            or any(t is not None for t in dense_dx.inputs[2:])
            or _only_consumer(graph, dy) is not product
        ):
            continue
        inputs = (*dense_dx.inputs[:3], mask)
        fused = replace(dense_dx, inputs=inputs, outputs=product.outputs)
        return fuse_mask(_without(graph, dense_dx, fused, product))
    return graph


def fuse_derivative(graph: Graph) -> Graph:
    """An activation's derivative multiplies each block of dz w^T while it is in the cache."""
    for gradient in graph.nodes:
        if gradient.op.name != "activation_grad":
            continue
        dy, x, y = gradient.inputs
        dense_dx = graph.producer(dy)
        if (
            x is not None
            or y is None
            or dense_dx is None
            or dense_dx.op.name != "dense_dx"
            or dense_dx.inputs[2] is not None
            or _only_consumer(graph, dy) is not gradient
        ):
            continue
        fused = replace(
            dense_dx,
            inputs=(*dense_dx.inputs[:2], y, dense_dx.inputs[3]),
            outputs=gradient.outputs,
            attrs=gradient.attrs,
        )
        return fuse_derivative(_without(graph, dense_dx, fused, gradient))
    return graph


#: Penalties that the update pass can add to a gradient: (l2, l1) from the factor and parameters.
DECAYS: dict[str, Callable[..., tuple[float, float]]] = {
    "l1": lambda factor: (0.0, factor),
    "l2": lambda factor: (factor, 0.0),
    "elastic_net": lambda factor, share: (factor * (1 - share), factor * share),
}


def _changes_gradients(graph: Graph) -> bool:
    """Whether gradients, with all that is in them, are clipped before the update."""
    return any(
        t is not None and t.region == "gradients"
        for node in graph.nodes
        if node.phase == "update"
        for t in node.outputs
    )


def fuse_penalty(graph: Graph) -> Graph:
    """The gradient of a simple penalty is added in the pass that updates the parameters."""
    update = next((n for n in graph.nodes if n.op.name == "update"), None)
    if update is None or _changes_gradients(graph):
        return graph
    segments = update.inputs[2]
    assert segments is not None
    table = graph.tables[segments].tolist()
    swap: dict[Tensor, Tensor] = {}
    nodes = []
    for node in graph.nodes:
        out = node.outputs[0] if node.outputs else None
        decay = DECAYS.get(node.attrs.get("function", ""))
        penalises = node.op.name == "penalty_gradient" and decay is not None
        if not penalises or out is None or out.region != "gradients":
            nodes.append(node)
            continue
        gradient, weight = node.inputs
        assert gradient is not None and weight is not None and decay is not None
        swap[gradient] = out
        table = _insert(table, weight, decay(node.attrs["factor"], *node.attrs["parameters"]))
    fused = graph.with_nodes(nodes).substitute(swap)
    new = Tensor(segments.name, (len(table), 4), type="double", region="table")
    fused.tables = {**graph.tables, new: np.array(table)}
    return fused.substitute({segments: new})


def _insert(
    table: list[list[float]], weight: Tensor, decay: tuple[float, float]
) -> list[list[float]]:
    """Give one parameter its penalty in the table of runs (start, stop, l2, l1)."""
    start, stop = float(weight.offset), float(weight.offset + math.prod(weight.shape))
    result: list[list[float]] = []
    for low, high, *old in table:
        a, b = max(low, start), min(high, stop)
        if a >= b:
            result.append([low, high, *old])
            continue
        both = [x + y for x, y in zip(old, decay, strict=True)]
        pieces = [[low, a, *old], [a, b, *both], [b, high, *old]]
        result += [piece for piece in pieces if piece[0] < piece[1]]
    return result


#: Rows of a batch up to which a weight gradient is finished in one pass over them.
LARGEST_FUSED_BATCH = 512


def fuse_update(graph: Graph, batch: int) -> Graph:
    """A dense layer's parameters are updated as soon as their gradients are known.

    Block by block, while the block is in the cache: the gradients are never stored. Not for shards,
    whose gradients must be summed first. Weights change before the step is over, so this relies on
    the order that differentiation gives: a layer's input gradient, which reads them, comes first.
    """
    update = next((n for n in graph.nodes if n.op.name == "update"), None)
    if update is None or batch > LARGEST_FUSED_BATCH or _changes_gradients(graph):
        return graph
    segments, states = update.inputs[2], update.inputs[3:]
    assert segments is not None
    table = graph.tables[segments].tolist()
    nodes: list[Node] = []
    for node in graph.nodes:
        dw, db = node.outputs if node.op.name == "dense_dw" else (None, None)
        # A gradient that something else reads must be stored, and may not yet be the parameter's.
        if dw is None or any(
            t and (t.region != "gradients" or graph.consumers(t)) for t in (dw, db)
        ):
            nodes.append(node)
            continue
        w = Tensor("w", dw.shape, region="parameters", offset=dw.offset)
        b = db and Tensor("b", db.shape, region="parameters", offset=db.offset)
        size = math.prod(dw.shape) + (math.prod(db.shape) if db else 0)
        own = [
            s and Tensor(s.name, (size,), region="state", offset=dw.offset, slot=s.slot)
            for s in states
        ]
        decay = tuple(_decay(table, t.offset) if t else (0.0, 0.0) for t in (dw, db))
        table = _remove(table, dw.offset, dw.offset + size)
        op = OPS["dense_update"]
        attrs = update.attrs | {"decay": decay}
        nodes.append(Node(op, (*node.inputs, w, b, *own), (), attrs, node.phase))
    if not table:
        return graph.with_nodes(n for n in nodes if n is not update)
    new = Tensor(segments.name, (len(table), 4), type="double", region="table")
    fused = graph.with_nodes(nodes)
    fused.tables = {**graph.tables, new: np.array(table)}
    return fused.substitute({segments: new})


def _decay(table: list[list[float]], offset: int) -> tuple[float, ...]:
    return next(tuple(decay) for start, stop, *decay in table if start <= offset < stop)


def _remove(table: list[list[float]], start: int, stop: int) -> list[list[float]]:
    """The runs of a table without the parameters from start to stop."""
    rest = []
    for low, high, *decay in table:
        pieces = [[low, min(high, start), *decay], [max(low, stop), high, *decay]]
        rest += [piece for piece in pieces if piece[0] < piece[1]]
    return rest


def eliminate_dead(graph: Graph) -> Graph:
    """Drop what nothing reads: outputs, and then the ops that have none left."""
    needed = set(graph.roots) | {s.tensor for s in graph.sums}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        acts = bool(node.op.writes) or not node.op.outputs
        wanted = tuple(
            t if t in needed or (t is not None and t.region in ("feed", "gradients")) else None
            for t in node.outputs
        )
        if not acts and all(t is None for t in wanted):
            continue
        # An op that cannot leave an output out writes it all the same.
        outputs = tuple(
            w if operand.optional else t
            for w, t, operand in zip(wanted, node.outputs, node.op.outputs, strict=True)
        )
        needed.update(t for t in node.inputs if t is not None)
        kept.append(replace(node, outputs=outputs))
    return graph.with_nodes(reversed(kept))


#: The passes that follow differentiation, in order.
PASSES = (
    fold_rescaling,
    fuse_activation,
    fuse_dropout,
    fuse_mask,
    fuse_derivative,
    fuse_penalty,
    eliminate_dead,
)


def fuse(graph: Graph) -> Graph:
    """Apply all passes."""
    for rewrite in PASSES:
        graph = rewrite(graph)
    return graph
