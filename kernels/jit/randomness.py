"""Ops that draw random numbers. ``y`` may be ``x`` itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import philox

WORDS = philox.BLOCK  # random words made at a time
PAIRS = WORDS // 2
PLACE = philox.PLACE


def _over_words(t: Any, of_a_number: int, work: Callable) -> Callable:
    """A kernel that makes so many random words for each number, and runs
    ``work(call, at, words, n)`` over n numbers from position ``at`` on."""
    blocks_of, local_words, seed, share, sizes, step_number, at = (
        t.blocks_of, t.local_words, t.seed, t.share, t.sizes, t.step_number, t.at
    )  # fmt: skip
    start, next_block = philox.start, philox.next_block

    def kernel(call, thread, threads):
        first = share(sizes(call)[0], 1, thread, threads)
        row = sizes(call)[1] * of_a_number
        here, stop = first * row, share(sizes(call)[0], 1, thread + 1, threads) * row
        counters, before = max(blocks_of(row, 4), 1), sizes(call)[4] * of_a_number // 4
        place, words = local_words(PLACE), local_words(WORDS)
        start(place, sizes(call)[2] + first, counters)
        # Where nothing is between rows, they are as one.
        length = row if row % 4 != 0 else stop - here
        used, column = WORDS, 0
        while here < stop:
            if used == WORDS:
                next_block(
                    place, counters, before, step_number(call), sizes(call)[3], seed(call), words
                )
                used = 0
            n = min(WORDS - used, length - column)
            work(call, here // of_a_number, at(words, used), n // of_a_number)
            here += n
            used += n
            column += n
            if column == length:
                column = 0
                used += -used & 3  # a row begins with a counter of its own

    return kernel


def _dropout(t: Any) -> tuple[Callable, Callable]:
    R = t.R
    at, constants, copy, given, local, reals = (
        t.at, t.constants, t.copy, t.given, t.local, t.reals
    )  # fmt: skip

    @t.in_place_too
    def multiply(x, y, kept, n):
        for i in range(n):
            y[i] = x[i] * kept[i]  # NaN stays NaN

    @t.inline
    def keep(call, words, n, kept):
        """1 / (1 - rate) where a random word is at least rate, else 0"""
        rate = constants(call)[0]
        threshold = np.uint32(rate * 4294967296.0)
        scale = R(1.0 / (1.0 - rate))
        for i in range(n):
            kept[i] = scale if words[i] >= threshold else R(0.0)

    @t.inline
    def dropout(call, start, words, n):
        kept = local(WORDS)
        keep(call, words, n, kept)
        multiply(at(reals(call, 0), start), at(reals(call, 1), start), kept, n)
        if given(call, 2):
            copy(kept, at(reals(call, 2), start), n)

    @t.inline
    def dropout_mask(call, start, words, n):
        keep(call, words, n, at(reals(call, 0), start))

    return dropout, dropout_mask


def _cos_turns(t: Any) -> Callable:
    """cos(2 pi x) for 0 <= x <= 1: the sine of the way to the nearest root, a Taylor series."""
    R = t.R
    if R is np.float64:

        @t.inline
        def highest_powers(square):
            p = R(1.9572941063391263e-20)  # 1 / 21!
            p = p * square - R(8.22063524662433e-18)
            p = p * square + R(2.8114572543455206e-15)
            p = p * square - R(7.647163731819816e-13)
            p = p * square + R(1.6059043836821613e-10)
            return p * square - R(2.505210838544172e-8)
    else:

        @t.inline
        def highest_powers(square):
            return R(1.6059043836821613e-10) * square - R(2.505210838544172e-8)  # from 1 / 13!

    @t.inline
    def cos_turns(x):
        way = R(0.25) - x if x - R(0.5) < R(0.0) else x - R(0.75)
        a = R(6.283185307179586) * way
        square = a * a
        p = highest_powers(square)
        p = p * square + R(2.7557319223985893e-6)
        p = p * square - R(1.984126984126984e-4)
        p = p * square + R(8.333333333333333e-3)
        p = p * square - R(1.6666666666666666e-1)
        return a + a * square * p

    return cos_turns


def _normal(t: Any) -> Callable:
    R, log, sqrt, cos_turns = t.R, t.log, t.sqrt, _cos_turns(t)
    to_length, to_angle = R(1.0 / 8388608.0), R(1.0 / 16777216.0)
    unused_by_length, unused_by_angle = np.uint32(9), np.uint32(8)

    @t.inline
    def normal(length, angle):
        """A normal number of 23 bits for the length, 24 for the angle (Box & Muller, 1958): as many
        as float32 holds exactly."""
        u = (R(np.int32(length >> unused_by_length)) + R(0.5)) * to_length
        turns = R(np.int32(angle >> unused_by_angle)) * to_angle
        return sqrt(R(-2.0) * log(u)) * cos_turns(turns)

    return normal


def _gaussian(t: Any, multiply: bool) -> Callable:
    """The first of a number's two words gives the length, the second the angle."""
    R, normal = t.R, _normal(t)
    at, constants, local, reals = t.at, t.constants, t.local, t.reals

    @t.in_place_too
    def apply(x, y, noise, n):
        if multiply:
            for i in range(n):
                y[i] = x[i] * (R(1.0) + noise[i])
        else:
            for i in range(n):
                y[i] = x[i] + noise[i]

    @t.inline
    def gaussian(call, start, words, n):
        deviation = R(constants(call)[0])
        noise = local(PAIRS)
        for i in range(n):
            noise[i] = deviation * normal(words[2 * i], words[2 * i + 1])
        apply(at(reals(call, 0), start), at(reals(call, 1), start), noise, n)

    return gaussian


def kernels(t: Any) -> dict[str, Callable]:
    """Name -> kernel, of the number type that the names ``t`` are of.

    ``gaussian_noise`` is y = x + n with n from N(0, deviation^2), ``gaussian_dropout`` is y = x n
    with n from N(1, deviation^2).
    """
    dropout, dropout_mask = _dropout(t)
    return {
        "dropout": _over_words(t, 1, dropout),
        "dropout_mask": _over_words(t, 1, dropout_mask),
        "gaussian_noise": _over_words(t, 2, _gaussian(t, multiply=False)),
        "gaussian_dropout": _over_words(t, 2, _gaussian(t, multiply=True)),
    }
