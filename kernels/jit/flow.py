"""Instructions on sizes and indices, loops and branches: the frame of what is emitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from llvmlite import ir

I64 = ir.IntType(64)

#: A size or an index: a number where it is known when the code is made, else a 64-bit integer.
Size: TypeAlias = "int | ir.Value"


def constant(n: int) -> ir.Constant:
    return ir.Constant(I64, n)


def value(n: Size) -> ir.Value:
    return constant(n) if isinstance(n, int) else n


def known_size(n: Size) -> int | None:
    """The number, where it is known."""
    n = n.constant if isinstance(n, ir.Constant) else n
    return n if isinstance(n, int) else None


def _not_unrolled(module: ir.Module) -> ir.MDValue:
    """What tells LLVM not to unroll a loop: a node that begins with itself."""
    name = ir.MetaDataString(module, f"loop {len(module.metadata)}")
    node = module.add_metadata([name])
    what = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
    node.operands = (node, what)
    return node


class Flow:
    """Sizes, loops and branches. What is known is reckoned at once.

    An offset may be negative, but nothing that is divided.
    """

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    # ---------------------------------------------------------------- sizes

    def _size(self, a: Size, b: Size, known: Callable[[int, int], int], how: str) -> Size:
        x, y = known_size(a), known_size(b)
        if x is not None and y is not None:
            return known(x, y)
        return getattr(self.builder, how)(value(a), value(b))

    def add(self, a: Size, b: Size) -> Size:
        if 0 in (known_size(a), known_size(b)):
            return b if known_size(a) == 0 else a
        return self._size(a, b, int.__add__, "add")

    def sub(self, a: Size, b: Size) -> Size:
        return a if known_size(b) == 0 else self._size(a, b, int.__sub__, "sub")

    def mul(self, a: Size, b: Size) -> Size:
        if 1 in (known_size(a), known_size(b)):
            return b if known_size(a) == 1 else a
        if 0 in (known_size(a), known_size(b)):
            return 0
        return self._size(a, b, int.__mul__, "mul")

    def div(self, a: Size, b: Size) -> Size:
        """How often a size holds another one."""
        return a if known_size(b) == 1 else self._size(a, b, int.__floordiv__, "udiv")

    def rem(self, a: Size, b: Size) -> Size:
        return 0 if known_size(b) == 1 else self._size(a, b, int.__mod__, "urem")

    def rounded(self, a: Size, b: Size) -> Size:
        """A size, rounded down to a multiple of another one."""
        return self.mul(self.div(a, b), b)

    def least(self, a: Size, b: Size) -> Size:
        """The smaller of two sizes."""
        x, y = known_size(a), known_size(b)
        if x is not None and y is not None:
            return min(x, y)
        return self.select(self.less(a, b), a, b)

    def most(self, a: Size, b: Size) -> Size:
        """The larger of two sizes."""
        x, y = known_size(a), known_size(b)
        if x is not None and y is not None:
            return max(x, y)
        return self.select(self.less(a, b), b, a)

    def select(self, test: ir.Value, a: Size, b: Size) -> ir.Value:
        """a where the test holds, else b."""
        return self.builder.select(test, value(a), value(b))

    def less(self, a: Size, b: Size) -> ir.Value:
        """Whether a < b."""
        return self.builder.icmp_signed("<", value(a), value(b))

    def same(self, a: Size, b: Size) -> ir.Value:
        """Whether a = b."""
        return self.builder.icmp_signed("==", value(a), value(b))

    def at(self, p: ir.Value, n: Size) -> ir.Value:
        """The pointer n numbers further."""
        return p if known_size(n) == 0 else self.builder.gep(p, [value(n)])

    def local(self, type_: ir.Type, n: int) -> ir.Value:
        """So many values of the kernel's own."""
        with self.builder.goto_entry_block():
            made = self.builder.alloca(type_, constant(n))
        made.align = 64
        return made

    # ---------------------------------------------------------------- flow

    def loop(
        self,
        start: Size,
        stop: Size,
        step: Size,
        carried: Sequence[ir.Value],
        body: Callable[[ir.Value, list[ir.Value]], Sequence[ir.Value]],
        rare: bool = False,
    ) -> list[ir.Value]:
        """``for i in range(start, stop, step)``; the body takes and returns the carried values.

        LLVM does not unroll a loop that is ``rare``: its code is a part of what takes long to make.
        """
        low, high, by = known_size(start), known_size(stop), known_size(step)
        if low is not None and high is not None and by is not None and high <= low + by:
            # One turn at most: no loop.
            return list(body(value(start), list(carried)) if low < high else carried)
        builder = self.builder
        before = builder.block
        head, inside, after = (builder.append_basic_block() for _ in range(3))
        builder.branch(head)
        builder.position_at_end(head)
        i = builder.phi(I64)
        i.add_incoming(value(start), before)
        values = []
        for number in carried:
            values.append(builder.phi(number.type))
            values[-1].add_incoming(number, before)
        builder.cbranch(self.less(i, stop), inside, after)
        builder.position_at_end(inside)
        new = body(i, list(values))
        i.add_incoming(value(self.add(i, step)), builder.block)
        for phi, number in zip(values, new, strict=True):
            phi.add_incoming(number, builder.block)
        again = builder.branch(head)
        if rare:
            again.set_metadata("llvm.loop", _not_unrolled(builder.module))
        builder.position_at_end(after)
        return list(values)

    def each(self, start: Size, stop: Size, step: Size, body: Callable[[ir.Value], None]) -> None:
        """``for i in range(start, stop, step)``, with nothing carried."""

        def nothing(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            body(i)
            return []

        self.loop(start, stop, step, [], nothing)

    def one_of(
        self,
        test: ir.Value,
        yes: Callable[[], Sequence[Size]],
        no: Callable[[], Sequence[Size]],
    ) -> list[ir.Value]:
        """The sizes that one of two branches gives."""
        found = []
        with self.builder.if_else(test) as branches:
            for branch, made in zip(branches, (yes, no), strict=True):
                with branch:
                    found.append(([value(n) for n in made()], self.builder.block))
        merged = []
        for pair in zip(*(values for values, _ in found), strict=True):
            merged.append(self.builder.phi(I64))
            for number, (_, block) in zip(pair, found, strict=True):
                merged[-1].add_incoming(number, block)
        return merged
