"""Philox 4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011).

Random numbers are a function of (seed, stream, step, row, column), so a mask is the same on every
backend, for any number of threads, and need not be stored. Words 4j .. 4j + 3 of a row are the
result of counter j; the next row begins with a counter of its own.
"""

from __future__ import annotations

import numpy as np

from .elementary import jit as inline

BLOCK = 256  # words made at a time
COUNTERS = BLOCK // 4  # of a block
PLACE = 2 * COUNTERS  # words that say which block is next

LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
M0, M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
W0, W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


@inline
def four_words(counter, row, step, stream, seed):
    """The words of one counter, each the lower half of 64 bits: products need no conversion."""
    a, b = np.uint64(counter) & LOW, np.uint64(row) & LOW
    c, d = np.uint64(step) & LOW, np.uint64(stream) & LOW
    k0, k1 = seed & LOW, seed >> HALF
    for _ in range(10):
        x, y = a * M0, c * M1
        a, b, c, d = (y >> HALF) ^ b ^ k0, y & LOW, (x >> HALF) ^ d ^ k1, x & LOW
        k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
    return a, b, c, d


@inline
def start(at, row, counters):
    """The first COUNTERS counters of rows that follow each other: their numbers, then the rows."""
    counter = 0
    for i in range(COUNTERS):
        at[i], at[COUNTERS + i] = np.uint32(counter), np.uint32(row)
        last = counter + 1 == counters
        row, counter = row + 1 if last else row, 0 if last else counter + 1


@inline
def next_block(at, counters, first, step, stream, seed, to):
    """Write the words of the counters that ``at`` holds, and go on to those that follow them; of a
    row they are counted from the ``first`` that is wanted."""
    rows, ahead = np.uint32(COUNTERS // counters), np.uint32(COUNTERS % counters)
    for i in range(COUNTERS):
        a, b, c, d = four_words(first + at[i], at[COUNTERS + i], step, stream, seed)
        to[4 * i], to[4 * i + 1] = np.uint32(a), np.uint32(b)
        to[4 * i + 2], to[4 * i + 3] = np.uint32(c), np.uint32(d)
    for i in range(COUNTERS):
        counter = np.uint32(at[i] + ahead)
        beyond = counter >= np.uint32(counters)
        at[i] = np.uint32(counter - np.uint32(counters)) if beyond else counter
        at[COUNTERS + i] += rows + np.uint32(1) if beyond else rows


@inline
def row_words(row, step, stream, seed, n, to):
    """The first n words of a row, in whole counters: n is a multiple of four."""
    for i in range(n // 4):
        a, b, c, d = four_words(i, row, step, stream, seed)
        to[4 * i], to[4 * i + 1] = np.uint32(a), np.uint32(b)
        to[4 * i + 2], to[4 * i + 3] = np.uint32(c), np.uint32(d)
