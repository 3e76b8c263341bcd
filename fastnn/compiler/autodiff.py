"""Reverse-mode differentiation: one gradient rule per op, gradients added where a tensor branches.

Reference: Griewank & Walther, Evaluating Derivatives, 2nd ed. (2008), chapter 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .graph import Graph, Tensor


def differentiate(graph: Graph, parameters: Sequence[Tensor]) -> Graph:
    """Append the backward ops, with the gradient of each parameter in the flat gradients.

    Raises
    ------
    ValueError
        An op on the way from a parameter to a loss cannot be differentiated, or a parameter does
        not influence any loss.
    """
    gradients = append_backward(graph, {})
    placed: dict[Tensor, Tensor] = {}
    for parameter in parameters:
        if parameter not in gradients:
            raise ValueError(f"{parameter.name} does not influence the loss")
        gradient = gradients[parameter]
        if gradient in placed:  # two parameters share it: each has a place of its own
            with graph.during("backward"):
                (gradient,) = graph.emit("rescale", gradient, scale=1.0, offset=0.0)
        placed[gradient] = Tensor(
            f"d{parameter.name}", parameter.shape, region="gradients", offset=parameter.offset
        )
    graph.roots += list(placed)
    return graph.substitute(placed)


def append_backward(graph: Graph, given: Mapping[Tensor, Tensor]) -> dict[Tensor, Tensor]:
    """Append the backward ops to the graph; the gradient by each tensor that it follows.

    Every loss node is a start: it computes its own gradient by the prediction. Others may be
    ``given``: gradients by tensors. Penalties add theirs at the end, to the gradient that the data
    gives.
    """
    gradients: dict[Tensor, Tensor] = dict(given)
    factors = {s.tensor: s.factor for s in graph.sums if s.is_loss}

    def accumulate(tensor: Tensor | None, gradient: Tensor | None) -> None:
        if tensor is None or gradient is None or not graph.needs_gradient(tensor):
            return
        if tensor in gradients:
            (gradient,) = graph.emit("add", gradients[tensor], gradient)
        gradients[tensor] = gradient

    forward = [node for node in graph.nodes if node.phase != "gather"]
    with graph.during("backward"):
        for node in reversed(forward):
            op = node.op
            if op.loss_gradient is not None:
                names = [operand.name for operand in op.outputs]
                gradient = node.outputs[names.index(op.loss_gradient)]
                prediction = node.inputs[0]
                factor = factors.get(next(t for t in node.outputs if t is not None), 1.0)
                if factor != 1 and prediction is not None and graph.needs_gradient(prediction):
                    (gradient,) = graph.emit("rescale", gradient, scale=factor, offset=0.0)
                accumulate(prediction, gradient)
                continue
            upstream = [gradients.get(t) if t is not None else None for t in node.outputs]
            if all(g is None for g in upstream):
                continue
            if op.gradient is None:
                raise ValueError(f"op {op.name!r} has no gradient")
            for tensor, gradient in zip(
                node.inputs, op.gradient(graph, node, *upstream), strict=True
            ):
                accumulate(tensor, gradient)
        for node in forward:
            if node.op.penalty_gradient is not None:
                (weight,) = node.inputs
                assert weight is not None
                (gradients[weight],) = graph.emit(
                    node.op.penalty_gradient, gradients[weight], weight, **node.attrs
                )
    return gradients
