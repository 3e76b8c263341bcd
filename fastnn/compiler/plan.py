"""Memory: when each tensor is alive, and one arena in which they share space.

Offsets are chosen once, for the largest number of rows that a thread will have; a smaller batch
uses the same offsets. Nothing is allocated while a program runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .graph import Node, Tensor

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register

_SIZES = {"int32": 4, "double": 8}


def item_size(type_: str, dtype: str) -> int:
    """Bytes of one number."""
    return _SIZES.get(type_) or (8 if dtype == "float64" else 4)


def concrete(shape: Sequence[int], rows: int) -> tuple[int, ...]:
    """A shape with the symbolic number of rows filled in."""
    return tuple(rows if n < 0 else n for n in shape)


def tensor_bytes(tensor: Tensor, rows: int, dtype: str) -> int:
    """Bytes of a tensor at this number of rows."""
    return math.prod(concrete(tensor.shape, rows)) * item_size(tensor.type, dtype)


@dataclass(frozen=True)
class Plan:
    """Byte offsets of tensors in the arena and in the rows region, and the sizes of both."""

    rows: int
    offsets: dict[Tensor, int]
    arena_bytes: int
    rows_bytes: int
    life: dict[Tensor, tuple[int, int]]


def lifetimes(nodes: Sequence[Node], region: str) -> dict[Tensor, tuple[int, int]]:
    """First and last index of the nodes that touch each tensor of a region."""
    life: dict[Tensor, tuple[int, int]] = {}
    for i, node in enumerate(nodes):
        for tensor in node.operands:
            if tensor is not None and tensor.region == region:
                first, _ = life.get(tensor, (i, i))
                life[tensor] = (first, i)
    return life


def _taken_over(node: Node, life: dict[Tensor, tuple[int, int]], index: int) -> dict:
    """Output -> input whose memory it can take over, because nothing reads the input later."""
    names = {o.name: t for o, t in zip(node.op.operands, node.operands, strict=True)}
    pairs = {}
    for output, source in node.op.in_place.items():
        new, old = names[output], names[source]
        if new in life and old in life and life[old][1] == index and life[new][0] == index:
            pairs[new] = old
    return pairs


def _aligned(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


def plan(nodes: Sequence[Node], rows: int, batch: int, dtype: str) -> Plan:
    """Lay out all tensors for threads of up to ``rows`` rows of batches of up to ``batch``.

    First fit in the order in which tensors appear: good for the chains that networks are, where
    few tensors are alive at once.
    """
    life = lifetimes(nodes, "arena")
    offsets: dict[Tensor, int] = {}
    arena = 0
    for i, node in enumerate(nodes):
        taken = _taken_over(node, life, i)
        for tensor in node.operands:
            if tensor is None or tensor.region != "arena" or tensor in offsets:
                continue
            if tensor in taken:
                offsets[tensor] = offsets[taken[tensor]]
                continue
            size = _aligned(tensor_bytes(tensor, rows, dtype))
            blocks = sorted(
                (offsets[t], offsets[t] + _aligned(tensor_bytes(t, rows, dtype)))
                for t in offsets
                if life[t][1] >= i
            )
            at = 0
            for start, stop in blocks:
                if start - at >= size:
                    break
                at = max(at, stop)
            offsets[tensor] = at
            arena = max(arena, at + size)
    results = 0
    for tensor in lifetimes(nodes, "rows"):
        offsets[tensor] = results
        results += _aligned(tensor_bytes(tensor, batch, dtype))
    return Plan(rows, offsets, arena, results, life)
