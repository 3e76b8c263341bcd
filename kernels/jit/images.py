"""Random changes of images, and mixtures of rows: new for each row of each step.

A row's numbers are a function of (seed, stream, step, row), as all that is random.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from . import philox

WORDS = philox.BLOCK
PLACE = philox.PLACE
MOST_TAPS = 127  # of the filter that smoothes a field
TRIES = 1000  # more than a few are never needed


def kernels(t: Any) -> dict[str, Callable]:
    """Name -> kernel, of the number type that the names ``t`` are of."""
    draw = _draw(t)
    found = [_warp(t, draw), _elastic(t, draw), _erase(t, draw), *_of_rows(t, draw)]
    return {f.__name__: f for f in found}


def _draw(t: Any) -> Any:
    """``unit`` of a word, and ``draw``: the words of a row."""
    row_words = philox.row_words
    seed, sizes, step_number = t.seed, t.sizes, t.step_number
    unused = np.uint32(8)

    @t.inline
    def whole(word):
        return np.float64(np.int64(word >> unused))

    @t.inline
    def unit(word):
        """A number in [0, 1) of 24 bits."""
        return whole(word) / 16777216.0

    @t.inline
    def draw(call, row, n, words):
        """The first n words of a row of the batch, a multiple of four."""
        stream = sizes(call)[3]
        row_words(sizes(call)[2] + row, step_number(call), stream, seed(call), n, words)

    return SimpleNamespace(whole=whole, unit=unit, draw=draw)


def _sample(t: Any) -> Callable:
    R = t.R

    @t.inline
    def sample(x, height, width, channels, fill, down, right, y):
        """All channels at a place between pixels, with the fill around the image."""
        # Beyond this the fill is all there is, and casts of larger numbers are undefined.
        if down > -2.0 and down < height + 1.0 and right > -2.0 and right < width + 1.0:
            r, c = int(down + 2.0) - 2, int(right + 2.0) - 2  # the floor
            below, beside = R(down - float(r)), R(right - float(c))
            above, before = R(1.0) - below, R(1.0) - beside
            top, bottom = r >= 0 and r < height, r + 1 >= 0 and r + 1 < height
            left, end = c >= 0 and c < width, c + 1 >= 0 and c + 1 < width
            first = (r * width + c) * channels
            second = first + width * channels
            for k in range(channels):
                y[k] = (
                    above * before * (x[first + k] if top and left else fill)
                    + above * beside * (x[first + channels + k] if top and end else fill)
                    + below * before * (x[second + k] if bottom and left else fill)
                    + below * beside * (x[second + channels + k] if bottom and end else fill)
                )
        else:
            for k in range(channels):
                y[k] = fill

    return sample


def _warp(t: Any, random: Any) -> Callable:
    R, sin, cos, sample = t.R, math.sin, math.cos, _sample(t)
    at, constants, local_words, reals, share, sizes = (
        t.at, t.constants, t.local_words, t.reals, t.share, t.sizes
    )  # fmt: skip
    draw, unit = random.draw, random.unit

    def warp(call, thread, threads):
        """Images, rotated, sheared, scaled, flipped and shifted at random"""
        rows, n = sizes(call)[0], sizes(call)[1]
        height, width, channels = sizes(call)[4], sizes(call)[5], sizes(call)[6]
        p, words = constants(call), local_words(8)
        fill = R(p[7])
        middle_r, middle_c = float(height - 1) / 2.0, float(width - 1) / 2.0
        for row in range(share(rows, 1, thread, threads), share(rows, 1, thread + 1, threads)):
            x, y = at(reals(call, 0), row * n), at(reals(call, 1), row * n)
            draw(call, row, 8, words)
            angle = p[0] * (2.0 * unit(words[0]) - 1.0)
            sine, cosine = sin(angle), cos(angle)
            slope = p[4] * (2.0 * unit(words[1]) - 1.0)
            size = 1.0 + p[3] * (2.0 * unit(words[2]) - 1.0)
            up = (-1.0 if unit(words[5]) < p[5] else 1.0) / size
            left = (-1.0 if unit(words[6]) < p[6] else 1.0) / size
            # Rotation times shear times flips and scale.
            a, b = (cosine - sine * slope) * up, -sine * left
            c, d = (sine + cosine * slope) * up, cosine * left
            down = middle_r - p[1] * (2.0 * unit(words[3]) - 1.0) * float(height)
            right = middle_c - p[2] * (2.0 * unit(words[4]) - 1.0) * float(width)
            for i in range(height):
                dr = float(i) - middle_r
                for j in range(width):
                    dc = float(j) - middle_c
                    sample(
                        x, height, width, channels, fill, a * dr + b * dc + down,
                        c * dr + d * dc + right, at(y, (i * width + j) * channels),
                    )  # fmt: skip

    return warp


def _elastic(t: Any, random: Any) -> Callable:
    R, exp, sample = t.R, math.exp, _sample(t)
    at, blocks_of, constants, local, local_words, reals = (
        t.at, t.blocks_of, t.constants, t.local, t.local_words, t.reals
    )  # fmt: skip
    scratch, seed, share, sizes, step_number = t.scratch, t.seed, t.share, t.sizes, t.step_number
    start, next_block, unit = philox.start, philox.next_block, random.unit

    @t.inline
    def make_taps(sigma, radius, taps):
        total = 0.0
        for k in range(-radius, radius + 1):
            total += exp(-0.5 * (float(k) / sigma) * (float(k) / sigma))
        for k in range(-radius, radius + 1):
            taps[k + radius] = R(exp(-0.5 * (float(k) / sigma) * (float(k) / sigma)) / total)

    @t.inline
    def make_fields(call, row, n, fields):
        """Random numbers in [-1, 1)."""
        place, words = local_words(PLACE), local_words(WORDS)
        counters = blocks_of(n, 4)
        start(place, sizes(call)[2] + row, counters)
        for k in range(blocks_of(n, WORDS)):
            next_block(place, counters, 0, step_number(call), sizes(call)[3], seed(call), words)
            for i in range(min(n - k * WORDS, WORDS)):
                fields[k * WORDS + i] = R(2.0 * unit(words[i]) - 1.0)

    @t.inline
    def smooth_lines(field, to, lines, n, line, step, taps, radius):
        """Filter ``lines`` lines of n numbers that are ``step`` apart, with zeros around them."""
        for which in range(lines):
            for i in range(n):
                total = R(0.0)
                for k in range(max(-radius, -i), min(radius, n - 1 - i) + 1):
                    total += taps[k + radius] * field[which * line + (i + k) * step]
                to[which * line + i * step] = total

    def elastic(call, thread, threads):
        """Images, each pixel taken from alpha times a smooth random field away"""
        rows, n = sizes(call)[0], sizes(call)[1]
        height, width, channels = sizes(call)[4], sizes(call)[5], sizes(call)[6]
        alpha, sigma, fill = constants(call)[0], constants(call)[1], R(constants(call)[2])
        radius = math.ceil(3.0 * sigma)
        taps = local(MOST_TAPS)
        make_taps(sigma, radius, taps)
        pixels = height * width
        down = scratch(call)
        right, other = at(down, pixels), at(down, 2 * pixels)  # and room to filter
        for row in range(share(rows, 1, thread, threads), share(rows, 1, thread + 1, threads)):
            x, y = at(reals(call, 0), row * n), at(reals(call, 1), row * n)
            make_fields(call, row, 2 * pixels, down)
            for k in range(2):
                field = at(down, k * pixels)
                smooth_lines(field, other, width, height, 1, width, taps, radius)
                smooth_lines(other, field, height, width, width, 1, taps, radius)
            for i in range(height):
                for j in range(width):
                    here = i * width + j
                    sample(
                        x, height, width, channels, fill, float(i) + alpha * float(down[here]),
                        float(j) + alpha * float(right[here]), at(y, here * channels),
                    )  # fmt: skip

    return elastic


def _erase(t: Any, random: Any) -> Callable:
    R, sqrt, power = t.R, math.sqrt, math.pow
    at, constants, copy, local_words, reals, share, sizes = (
        t.at, t.constants, t.copy, t.local_words, t.reals, t.share, t.sizes
    )  # fmt: skip
    draw, unit = random.draw, random.unit

    @t.inline
    def side(square, most):
        return min(max(int(sqrt(square) + 0.5), 1), most)

    def erase(call, thread, threads):
        """Images, a rectangle of some of them replaced by the fill"""
        rows, n = sizes(call)[0], sizes(call)[1]
        height, width, channels = sizes(call)[4], sizes(call)[5], sizes(call)[6]
        p, words = constants(call), local_words(8)
        fill = R(p[4])
        for row in range(share(rows, 1, thread, threads), share(rows, 1, thread + 1, threads)):
            y = at(reals(call, 1), row * n)
            copy(at(reals(call, 0), row * n), y, n)
            draw(call, row, 8, words)
            if unit(words[0]) < p[0]:
                area = (p[1] + (p[2] - p[1]) * unit(words[1])) * float(height * width)
                ratio = power(p[3], 2.0 * unit(words[2]) - 1.0)
                tall, wide = side(area * ratio, height), side(area / ratio, width)
                top = int(unit(words[3]) * float(height - tall + 1))
                left = int(unit(words[4]) * float(width - wide + 1))
                for i in range(top, top + tall):
                    line = at(y, (i * width + left) * channels)
                    for j in range(wide * channels):
                        line[j] = fill

    return erase


def _of_rows(t: Any, random: Any) -> tuple[Callable, ...]:
    R, exp, log = t.R, math.exp, math.log
    at, constants, local_words, reals, row_sum, seed, share, sizes, step_number = (
        t.at, t.constants, t.local_words, t.reals, t.row_sum, t.seed, t.share, t.sizes,
        t.step_number,
    )  # fmt: skip
    draw, unit, whole, row_words = random.draw, random.unit, random.whole, philox.row_words

    @t.in_place_too
    def move_row(x, y, n, scale, shift):
        for i in range(n):
            y[i] = scale * x[i] + shift

    def recolor(call, thread, threads):
        """y = mean + c (x - mean) + b, with b and c at random"""
        rows, n = sizes(call)[0], sizes(call)[1]
        brightness, contrast = constants(call)[0], constants(call)[1]
        words = local_words(4)
        for row in range(share(rows, 1, thread, threads), share(rows, 1, thread + 1, threads)):
            x, y = at(reals(call, 0), row * n), at(reals(call, 1), row * n)
            draw(call, row, 4, words)
            scale = R(1.0 + contrast * (2.0 * unit(words[0]) - 1.0))
            mean = row_sum(x, n) / R(n)
            move_row(
                x, y, n, scale,
                (mean - scale * mean) + R(brightness * (2.0 * unit(words[1]) - 1.0)),
            )  # fmt: skip

    @t.inline
    def inside(word):
        """A number in (0, 1)."""
        return (whole(word) + 0.5) / 16777216.0

    def mix(call, thread, threads):
        """y = s x + (1 - s) x of another row, with s from a beta distribution, one for a batch"""
        rows, n = sizes(call)[0], sizes(call)[1]
        concentration, stream = constants(call)[0], sizes(call)[2]
        words = local_words(4)
        a, b, k = 1.0, 0.0, 0
        while k < TRIES:  # Joehnk's method
            row_words(k, step_number(call), stream, seed(call), 4, words)
            a = exp(log(inside(words[0])) / concentration)
            b = exp(log(inside(words[1])) / concentration)
            k = TRIES if a + b > 0.0 and a + b <= 1.0 else k + 1
        mine, theirs = R(a / (a + b)), R(1.0 - a / (a + b))
        ahead = 1 + int(inside(words[2]) * float(rows - 1)) if rows > 1 else 0
        for row in range(share(rows, 1, thread, threads), share(rows, 1, thread + 1, threads)):
            x, other = at(reals(call, 0), row * n), at(reals(call, 0), (row + ahead) % rows * n)
            y = at(reals(call, 1), row * n)
            for i in range(n):
                y[i] = mine * x[i] + theirs * other[i]

    @t.in_place_too
    def center_row(x, y, n, mean):
        for i in range(n):
            y[i] = x[i] - mean

    def center_rows(call, thread, threads):
        """y = x - mean of the row"""
        rows, n = sizes(call)[0], sizes(call)[1]
        for row in range(share(rows, 1, thread, threads), share(rows, 1, thread + 1, threads)):
            x, y = at(reals(call, 0), row * n), at(reals(call, 1), row * n)
            center_row(x, y, n, row_sum(x, n) / R(n))

    return recolor, mix, center_rows
