"""Where threads that share calls have to wait for each other."""

from __future__ import annotations

import math
from collections.abc import Collection

from .graph import Node, Tensor
from .plan import concrete, tensor_bytes
from .program import Program

#: A run of one piece of memory: which, and where it starts and ends there.
Run = tuple[tuple[str, int | str], int, int]


def waits(program: Program, without: Collection[int] = ()) -> list[bool]:
    """Of each call, whether threads meet before it; ``without`` are calls that are left out.

    Where they share calls, they do if it touches memory that a call since they last met has
    written, or writes what one has touched: each thread may have done another part of that call.
    They also meet before the loss is looked at, and at the end of a step.
    """
    if program.by_units:  # where each needs the terms of all
        return [any(t and t.region == "exchange" for t in n.inputs) for n in program.nodes]
    if program.split.mode != "split":
        return [False] * len(program.nodes)
    found, compute = [], program.compute
    since: list[tuple[Run, bool]] = []
    for i, node in enumerate(program.nodes):
        touched = [] if i in without else _touched(program, node)
        if i == compute:  # they have just met
            since = []
        found.append(any(_conflict(a, b) for a in touched for b in since))
        since = touched if found[-1] else since + touched
    return found


def _touched(program: Program, node: Node) -> list[tuple[Run, bool]]:
    """The memory that a call touches, and whether it writes there."""
    written = {o.name for o in node.op.outputs}.union(node.op.writes)
    return [
        (_run(program, tensor), operand.name in written)
        for operand, tensor in zip(node.op.operands, node.operands, strict=True)
        if tensor is not None
    ]


def _run(program: Program, tensor: Tensor) -> Run:
    if tensor.region in ("arena", "rows"):
        start = program.plan.offsets[tensor]
        end = start + tensor_bytes(tensor, program.batch, program.dtype)
        return (tensor.region, 0), start, end
    if tensor.region in ("feed", "table"):  # whole arrays
        return (tensor.region, tensor.name), 0, 1
    size = math.prod(concrete(tensor.shape, program.batch))
    return (tensor.region, tensor.slot), tensor.offset, tensor.offset + size


def _conflict(a: tuple[Run, bool], b: tuple[Run, bool]) -> bool:
    ((mine, start, end), writes), ((other, low, high), wrote) = a, b
    return (writes or wrote) and mine == other and start < high and low < end
