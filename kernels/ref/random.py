"""Philox 4x32-10 in NumPy (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011)."""

from __future__ import annotations

import numpy as np

SHUFFLE = 0xFFFFFFFF  # the stream of row orders
MIXTURE = 0xFFFFFFFE  # the stream of mixtures of rows

WORDS = 4  # of a counter


def words(seed: int, stream: int, step: int, rows: np.ndarray, n: int) -> np.ndarray:
    """Random uint32 words of shape (len(rows), n), a function of the arguments alone.

    Counter j of a row gives the words 4 j to 4 j + 3.
    """
    counters = -(-n // 4)
    low = np.uint64(0xFFFFFFFF)
    a = np.broadcast_to(np.arange(counters, dtype=np.uint64), (len(rows), counters))
    b = np.broadcast_to(np.asarray(rows, np.uint64)[:, None], a.shape)
    c = np.full(a.shape, step & 0xFFFFFFFF, np.uint64)
    d = np.full(a.shape, stream, np.uint64)
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p, q = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b, c, d = (
            (q >> np.uint64(32)) ^ b ^ np.uint64(k0),
            q & low,
            (p >> np.uint64(32)) ^ d ^ np.uint64(k1),
            p & low,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    made = np.stack([a, b, c, d], axis=-1).astype(np.uint32)
    return made.reshape(len(rows), 4 * counters)[:, :n]


def shuffled(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of n rows in one epoch: rows sorted by a random key each, ties by row number."""
    keys = words(seed, SHUFFLE, epoch, np.zeros(1, np.uint64), n)[0]
    return np.argsort(keys, kind="stable").astype(np.int64)
