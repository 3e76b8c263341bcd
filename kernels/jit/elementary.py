"""Elementary functions of one number type for Numba, without branches, so that loops vectorise.

The algorithms, constants and errors are those of ``aot/elementary.h``. LLVM has none of its own: it
would call the C library for one number at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numba
import numpy as np
from numba.extending import intrinsic

#: Multiplications and additions may be fused, as in the Cython core; NaN and infinity stay.
OPTIONS: dict[str, Any] = {"fastmath": {"contract"}, "error_model": "numpy"}
#: Of a function that kernels alone call: what Python or C would call it by is not made, which is a
#: fifth of the time to compile a kernel.
INLINED: dict[str, Any] = {
    "forceinline": True,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}

LARGEST_POWER = 16  # that is written out as multiplications

#: Functions of the C library, or one instruction (``sqrt``, ``floor``).
LIBRARY = ("acos", "asin", "atan", "cos", "cosh", "floor", "pow", "sin", "sinh", "sqrt", "tan")


def jit(function: Callable) -> Callable:
    """A function that disappears into those that call it."""
    return numba.njit(**OPTIONS, **INLINED)(function)


def _reinterpreted(source: type, to: type) -> Any:
    """The bits of a number of one type as a number of another."""
    expected, result = (numba.from_dtype(np.dtype(t)) for t in (source, to))

    @intrinsic
    def reinterpreted(typing_context, x):
        def build(context, builder, signature, arguments):
            return builder.bitcast(arguments[0], context.get_value_type(result))

        return (result(expected), build) if x == expected else None

    return reinterpreted


def _polynomial(R: type, jit: Callable, *coefficients: float) -> Callable:
    """Of the highest power first, by Horner's rule."""
    terms = [f"c{i}" for i in range(len(coefficients))]
    body = terms[0]
    for term in terms[1:]:
        body = f"({body}) * x + {term}"
    scope = dict(zip(terms, map(R, coefficients), strict=True))
    exec(f"def polynomial(x):\n    return {body}", scope)
    return jit(scope["polynomial"])


@cache
def functions(dtype: str, jit: Callable[[Callable], Callable] = jit) -> dict[str, Any]:
    """Name -> function for ``float32`` or ``float64``; R is the type itself.

    ``jit`` makes of each what its callers call.
    """
    R: Any = np.dtype(dtype).type
    wide = dtype == "float64"
    I: Any = np.int64 if wide else np.int32  # noqa: E741
    mantissa, bias = I(52 if wide else 23), I(1023 if wide else 127)
    one = I(1)
    rounder = R(6755399441055744.0 if wide else 12582912.0)  # adding it rounds to an integer
    rounder_bits = I(rounder.view(I))
    ln2_high = R(6.93145751953125e-1 if wide else 0.693359375)
    ln2_low = R(1.42860682030941723212e-6 if wide else -2.12194440e-4)
    lowest, highest = R(-746.0 if wide else -105.0), R(710.0 if wide else 89.0)
    smallest_normal, largest = R(np.finfo(R).tiny), R(np.finfo(R).max)
    subnormal_scale = R(18014398509481984.0 if wide else 33554432.0)
    subnormal_shift = I(54 if wide else 25)
    root_half_bits = I(R(0.70710678118654752440).view(I))
    log2_e, infinity, nan = R(1.44269504088896340736), R(np.inf), R(np.nan)
    half_lowest = R(lowest / 2)

    bits_of, real_of = _reinterpreted(R, I), _reinterpreted(I, R)
    polynomial = partial(_polynomial, R, jit)

    @jit
    def power_of_two(n):
        return real_of(I((n + bias) << mantissa))

    if wide:
        expm1_p = polynomial(
            1.26177193074810590878e-4, 3.02994407707441961300e-2, 9.99999999999999999910e-1
        )
        expm1_q = polynomial(
            3.00198505138664455042e-6, 2.52448340349684104192e-3, 2.27265548208155028766e-1,
            2.00000000000000000005e0,
        )  # fmt: skip
        log_p = polynomial(
            1.01875663804580931796e-4, 4.97494994976747001425e-1, 4.70579119878881725854e0,
            1.44989225341610930846e1, 1.79368678507819816313e1, 7.70838733755885391666e0,
        )  # fmt: skip
        log_q = polynomial(
            1.0, 1.12873587189167450590e1, 4.52279145837532221105e1, 8.29875266912776603211e1,
            7.11544750618563894466e1, 2.31251620126765340583e1,
        )  # fmt: skip
        erf_p = polynomial(
            9.60497373987051638749e0, 9.00260197203842689217e1, 2.23200534594684319226e3,
            7.00332514112805075473e3, 5.55923013010394962768e4,
        )  # fmt: skip
        erf_q = polynomial(
            1.0, 3.35617141647503099647e1, 5.21357949780152679795e2, 4.59432382970980127987e3,
            2.26290000613890934246e4, 4.92673942608635921086e4,
        )  # fmt: skip
        tail_p = polynomial(
            2.46196981473530512524e-10, 5.64189564831068821977e-1, 7.46321056442269912687e0,
            4.86371970985681366614e1, 1.96520832956077098242e2, 5.26445194995477358631e2,
            9.34528527171957607540e2, 1.02755188689515710272e3, 5.57535335369399327526e2,
        )  # fmt: skip
        tail_q = polynomial(
            1.0, 1.32281951154744992508e1, 8.67072140885989742329e1, 3.54937778887819891062e2,
            9.75708501743205489753e2, 1.82390916687909736289e3, 2.24633760818710981792e3,
            1.65666309194161350182e3, 5.57535340817727675546e2,
        )  # fmt: skip

        @jit
        def expm1_reduced(r):
            rr = r * r
            p = r * expm1_p(rr)
            return R(2.0) * p / (expm1_q(rr) - p)

        @jit
        def log_reduced(m, e):
            mm = m * m
            y = m * (mm * log_p(m) / log_q(m))
            y = y - e * R(2.121944400546905827679e-4)
            y = y - R(0.5) * mm
            return (m + y) + e * R(0.693359375)
    else:
        expm1_p = polynomial(
            1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
            5.0000001201e-1,
        )  # fmt: skip
        log_p = polynomial(
            7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1,
            1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
        )  # fmt: skip
        erf_p = polynomial(
            7.853861353153693e-5, -8.010193625184903e-4, 5.188327685732524e-3,
            -2.685381193529856e-2, 1.128358514861418e-1, -3.761262582423300e-1,
            1.128379165726710e0,
        )  # fmt: skip
        tail_p = polynomial(
            2.326819970068386e-2, -1.387039388740657e-1, 3.687424674597105e-1,
            -5.824733027278666e-1, 6.210004621745983e-1, -4.944515323274145e-1,
            3.404879937665872e-1, -2.741127028184656e-1, 5.638259427386472e-1,
        )  # fmt: skip

        @jit
        def expm1_reduced(r):
            return expm1_p(r) * (r * r) + r

        @jit
        def log_reduced(m, e):
            mm = m * m
            y = m * mm * log_p(m)
            y = y + ln2_low * e
            y = y - R(0.5) * mm
            return (m + y) + e * ln2_high

    @jit
    def times_log2_e(x):
        return x * log2_e + rounder

    @jit
    def remainder(x, shifted):
        whole = shifted - rounder
        return (x - whole * ln2_high) - whole * ln2_low

    @jit
    def exponent(shifted):
        return I(bits_of(shifted) - rounder_bits)

    @jit
    def exp(x):
        x = lowest if x < lowest else x
        x = highest if x > highest else x
        shifted = times_log2_e(x)
        n = exponent(shifted)
        half = I(n >> one)  # two factors: the result may be no number where 2^n is none
        r = remainder(x, shifted)
        return (R(1.0) + expm1_reduced(r)) * power_of_two(half) * power_of_two(I(n - half))

    @jit
    def expm1(x):
        x = half_lowest if x < half_lowest else x
        x = highest if x > highest else x
        shifted = times_log2_e(x)
        n = exponent(shifted)
        half = I(n >> one)
        scale = power_of_two(half)
        r = remainder(x, shifted)
        part = scale * expm1_reduced(r) + (scale - power_of_two(I(half - n)))
        return part * power_of_two(I(n - half))

    @jit
    def exponent_of(x):
        return I(I(bits_of(x) - root_half_bits) >> mantissa)

    @jit
    def log(x):
        small = x < smallest_normal
        scaled = x * subnormal_scale if small else x
        e = exponent_of(scaled)
        m = real_of(I(bits_of(scaled) - I(e << mantissa))) - R(1.0)
        e = I(e - subnormal_shift) if small else e
        result = log_reduced(m, R(e))
        result = x if x > largest else result
        result = -infinity if x == R(0.0) else result
        result = nan if x < R(0.0) else result
        return result if x == x else x

    @jit
    def log1p(x):
        huge = x > R(1e30)
        scaled = x * R(2.3283064365386963e-10) if huge else x
        e = exponent_of(R(1.0) + scaled)
        scale = power_of_two(I(-e))
        m = scaled * scale + (scale - R(1.0))
        result = log_reduced(m, R(I(e + I(32)) if huge else e))
        result = x if x > largest else result
        result = -infinity if x == R(-1.0) else result
        result = nan if x < R(-1.0) else result
        return result if x == x else x

    @jit
    def tanh(x):
        z = R(-2.0) * (-x if x < R(0.0) else x)
        clipped = R(-40.0) if z < R(-40.0) else z
        shifted = times_log2_e(clipped)
        scale = power_of_two(exponent(shifted))
        e = scale * expm1_reduced(remainder(clipped, shifted)) + (scale - R(1.0))
        t = -e / (e + R(2.0))
        return -t if x < R(0.0) else t

    if wide:

        @jit
        def erf_far(size):
            far = R(6.0) if size > R(6.0) else size
            return exp(-far * far) * tail_p(far) / tail_q(far)

        @jit
        def erf_near(x):
            square = x * x
            return x * erf_p(square) / erf_q(square)
    else:

        @jit
        def erf_far(size):
            far = R(4.0) if size > R(4.0) else (R(1.0) if size < R(1.0) else size)
            inverse = R(1.0) / far
            return exp(-far * far) * inverse * tail_p(inverse * inverse)

        @jit
        def erf_near(x):
            return x * erf_p(x * x)

    @jit
    def erf(x):
        size = -x if x < R(0.0) else x
        tail = erf_far(size)
        far = tail - R(1.0) if x < R(0.0) else R(1.0) - tail
        return far if size > R(1.0) else erf_near(x)

    @jit
    def absolute(x):
        return -x if x < R(0.0) else x + R(0.0)

    # A NaN in either argument comes through.
    @jit
    def largest_of(a, b):
        return a if a > b or a != a else b

    @jit
    def smallest_of(a, b):
        return a if a < b or a != a else b

    @jit
    def sign(x):
        return R(1.0) if x > R(0.0) else (R(-1.0) if x < R(0.0) else x)

    @jit
    def log2(x):
        return log(x) * log2_e

    @jit
    def log10(x):
        return log(x) * R(0.43429448190325182765)

    ours = {
        "exp": exp, "expm1": expm1, "log": log, "log1p": log1p, "tanh": tanh, "erf": erf,
        "abs": absolute, "max": largest_of, "min": smallest_of, "sign": sign, "log2": log2,
        "log10": log10,
    }  # fmt: skip
    return {**_library(R, jit), **_powers(R, jit), **ours, "R": R}


def _library(R: type, jit: Callable) -> dict[str, Any]:
    """Functions of the C library, one number at a time, and those that are one instruction."""
    made = {}
    for name in LIBRARY:
        x = "x, y" if name == "pow" else "x"
        values = ", ".join(f"R({argument})" for argument in x.split(", "))
        scope = {"function": getattr(math, name), "R": R}
        exec(f"def {name}({x}):\n    return R(function({values}))", scope)
        made[name] = jit(scope[name])
    return made


def _powers(R: type, jit: Callable) -> dict[str, Any]:
    """``power_3(x)`` is x x x, ``inverse_3(x)`` one over it."""
    made = {}
    for n in range(1, LARGEST_POWER + 1):
        product = " * ".join(["x"] * n)
        for name, value in ((f"power_{n}", product), (f"inverse_{n}", f"R(1.0) / ({product})")):
            scope: dict[str, Any] = {"R": R}
            exec(f"def {name}(x):\n    return {value}", scope)
            made[name] = jit(scope[name])
    return made


def double() -> dict[str, Any]:
    """The functions for what is computed once a step: the C library's, in double precision."""
    return {**functions("float64"), **_exact()}


@cache
def _exact() -> dict[str, Any]:
    made = {}
    for name in ("exp", "expm1", "log", "log1p", "tanh", "erf", "log2", "log10"):
        scope: dict[str, Any] = {"function": getattr(math, name)}
        exec(f"def {name}(x):\n    return function(x)", scope)
        made[name] = jit(scope[name])
    return made
