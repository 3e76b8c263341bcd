"""The products of dense layers by the BLAS that SciPy brings: a candidate where it is the fastest.

BLAS does not promise the same bits for a row wherever it lies, so threads do not divide a product:
the first does all of it. Nor does a product with an update stand to gain: there is none here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vectors import I32


def _gemm(t: Any) -> Any:
    """``gemm((a_transposed, b_transposed, m, n, k, a, b, c))``: C = A B, all by rows."""
    routine = "fastnn_sgemm" if t.BYTES == 4 else "fastnn_dgemm"

    @intrinsic
    def gemm(typing_context, values):
        def build(context, builder, signature, arguments):
            of_a, of_b, m, n, k, a, b, c = cgutils.unpack_tuple(builder, arguments[0])
            number = a.type.pointee
            octet = ir.IntType(8)

            def kept(value):
                return cgutils.alloca_once_value(builder, value)

            def size(value):
                return kept(builder.trunc(value, I32))

            def letter(transposed):
                made = builder.select(transposed, octet(ord("T")), octet(ord("N")))
                return kept(made)

            # BLAS goes by columns: to it our matrices are transposed, and C^T = B^T A^T.
            one, zero = kept(ir.Constant(number, 1.0)), kept(ir.Constant(number, 0.0))
            line_a, line_b = builder.select(of_a, m, k), builder.select(of_b, k, n)
            given = [
                letter(of_b), letter(of_a), size(n), size(m), size(k), one, b, size(line_b), a,
                size(line_a), zero, c, size(n),
            ]  # fmt: skip
            function = ir.FunctionType(ir.VoidType(), [value.type for value in given])
            builder.call(cgutils.get_or_insert_function(builder.module, function, routine), given)
            return context.get_dummy_value()

        return types.void(values), build

    return gemm


def kernels_of(t: Any) -> dict[str, Callable]:
    """Name -> kernel, of the number type that the names ``t`` are of."""
    gemm = _gemm(t)
    R, at, constants, formula, given, reals, sizes = (
        t.R, t.at, t.constants, t.formula, t.given, t.reals, t.sizes
    )  # fmt: skip
    run_activation, run_activation_grad = t.run_activation, t.run_activation_grad

    def dense(call, thread, threads):
        """y[B, O] = f(x[B, I] w[I, O] + b[O])"""
        rows, inputs, units = sizes(call)[0], sizes(call)[1], sizes(call)[2]
        if thread != 0 or rows == 0:
            return
        bias, y = reals(call, 2), reals(call, 3)
        gemm((False, False, rows, units, inputs, reals(call, 0), reals(call, 1), y))
        for r in range(rows):
            row = at(y, r * units)
            if given(call, 2):
                for j in range(units):
                    row[j] += bias[j]
            if formula(call, 0) != 0:
                run_activation(formula(call, 0), (row, units, constants(call)))

    def dense_dx(call, thread, threads):
        """dx[B, I] = (dz[B, O] w[I, O]^T) mask f'(y[B, I])"""
        rows, inputs, units = sizes(call)[0], sizes(call)[1], sizes(call)[2]
        if thread != 0 or rows == 0:
            return
        y, mask, dx = reals(call, 2), reals(call, 3), reals(call, 4)
        gemm((False, True, rows, inputs, units, reals(call, 0), reals(call, 1), dx))
        if given(call, 3):
            for i in range(rows * inputs):
                dx[i] *= mask[i]
        if formula(call, 1) != 0 and given(call, 2):
            for r in range(rows):
                run_activation_grad(
                    formula(call, 1),
                    (at(dx, r * inputs), dx, at(y, r * inputs), inputs, constants(call)),
                )

    def dense_dw(call, thread, threads):
        """dw[I, O] = x[B, I]^T dz[B, O]; db[O] = sum of dz over the batch"""
        rows, inputs, units = sizes(call)[0], sizes(call)[1], sizes(call)[2]
        if thread != 0:
            return
        dz, db = reals(call, 1), reals(call, 3)
        gemm((True, False, inputs, units, rows, reals(call, 0), dz, reals(call, 2)))
        if given(call, 3):
            for j in range(units):
                db[j] = R(0.0)
            for r in range(rows):
                for j in range(units):
                    db[j] += dz[r * units + j]

    return {f.__name__: f for f in (dense, dense_dx, dense_dw)}
