"""Softmax cross-entropy of a few classes, made for their number.

A block of rows is transposed in registers: number i of each register belongs to row i. So nothing
goes across a register, and the labels are comparisons.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from . import products
from .calls import Call, emitted_kernel
from .flow import Size
from .vectors import I32, Emitter, Vector, choose, on_registers


def cross_entropy(t: Any, classes: int, weighted: bool, gradient: bool) -> Callable:
    """The kernel of ``softmax_cross_entropy`` with labels, for a number of classes."""

    def softmax_cross_entropy(e: Emitter, call: Call) -> None:
        """rows = -weight log softmax(z) at the label; dz = weight / B (softmax(z) - 1 there)"""
        n = e.lanes
        z, labels, weights = call.operand(0), call.integers(1), call.operand(3)
        losses, dz, batch = call.doubles(4), call.operand(5), call.batch_rows()
        first, last = call.share(call.size(0), n)
        double = ir.VectorType(ir.DoubleType(), n)
        functions = on_registers(e)

        def block(start: ir.Value) -> None:
            count = e.least(e.sub(last, start), n)
            columns = _columns(e, z, start, last, classes)
            largest = columns[0]
            for column in columns[1:]:
                largest = choose(column > largest, column, largest)
            powers = [functions["exp"](column - largest) for column in columns]
            total = powers[0]
            for power in powers[1:]:
                total = total + power
            label = _labels(e, labels, start, count)
            right = [Vector(e, e.builder.icmp_signed("==", label, _whole(e, c)))
                     for c in range(classes)]  # fmt: skip
            own = columns[0]
            for is_right, column in zip(right[1:], columns[1:], strict=True):
                own = choose(is_right, column, own)
            loss = _widened(e, functions["log"](total), double)
            loss = e.builder.fadd(loss, _widened(e, largest, double))
            loss = e.builder.fsub(loss, _widened(e, own, double))
            weight = ir.Constant(double, [1.0] * n)
            if weighted:
                given = e.load(e.at(weights, start), e.mask(count))
                weight = _widened(e, Vector(e, given), double)
                loss = e.builder.fmul(loss, weight)
            _store_doubles(e, loss, e.at(losses, start), count)
            if gradient:
                scale = Vector(e, e.narrowed(e.builder.fdiv(weight, e.splat(batch))))
                factor = scale / total
                lines = [
                    power * factor - choose(is_right, scale, 0.0)
                    for power, is_right in zip(powers, right, strict=True)
                ]
                _store_rows(e, [line.value for line in lines], dz, start, count)

        e.each(first, last, n, block)

    return emitted_kernel(t, softmax_cross_entropy)


def _columns(e: Emitter, z: ir.Value, start: ir.Value, last: Size, classes: int) -> list[Vector]:
    """A block of rows by columns; rows that are not there repeat the last one."""
    n = e.lanes
    end = e.sub(last, 1)
    rows = [e.least(e.add(start, i), end) for i in range(n)]
    starts = [e.at(z, e.mul(row, classes)) for row in rows]
    found: list[ir.Value] = []
    for c in range(0, classes, n):
        mask = e.mask(classes - c) if classes - c < n else None
        found += products.turned(e, [e.load(e.at(row, c), mask) for row in starts])
    return [Vector(e, column) for column in found[:classes]]


def _store_rows(
    e: Emitter, lines: list[ir.Value], to: ir.Value, start: ir.Value, count: Size
) -> None:
    """The inverse, for the first ``count`` rows."""
    n, classes = e.lanes, len(lines)
    lines = lines + [e.zero] * (-classes % n)
    for c in range(0, classes, n):
        mask = e.mask(classes - c) if classes - c < n else None
        for i, line in enumerate(products.turned(e, lines[c : c + n])):
            row = e.mul(e.add(start, i), classes)
            with e.builder.if_then(e.less(i, count)):
                e.store(line, e.at(to, e.add(row, c)), mask)


def _whole(e: Emitter, number: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(I32, e.lanes), [number] * e.lanes)


def _labels(e: Emitter, labels: ir.Value, start: ir.Value, count: Size) -> ir.Value:
    """The labels of a block of rows; 0 for those that are not there."""
    of = ir.VectorType(I32, e.lanes)
    to = e.builder.bitcast(e.at(labels, start), of.as_pointer())
    mask = e.mask(count)
    type_ = ir.FunctionType(of, [to.type, I32, mask.type, of])
    function = e.function(f"llvm.masked.load.v{e.lanes}i32.p0", type_)
    return e.builder.call(function, [to, ir.Constant(I32, 4), mask, _whole(e, 0)])


def _widened(e: Emitter, x: Vector, double: ir.VectorType) -> ir.Value:
    return x.value if e.dtype.itemsize == 8 else e.builder.fpext(x.value, double)


def _store_doubles(e: Emitter, x: ir.Value, to: ir.Value, count: Size) -> None:
    mask = e.mask(count)
    at = e.builder.bitcast(to, x.type.as_pointer())
    type_ = ir.FunctionType(ir.VoidType(), [x.type, at.type, I32, mask.type])
    function = e.function(f"llvm.masked.store.v{e.lanes}f64.p0", type_)
    e.builder.call(function, [x, at, ir.Constant(I32, 8), mask])
