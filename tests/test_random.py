"""Randomness from counters: known answers, the same on every backend, and random enough."""

from __future__ import annotations

import itertools

import numpy as np
import op_cases
import pytest
from op_cases import each_kernels

from fastnn.kernels.aot import executor
from fastnn.kernels.op import OPS
from fastnn.kernels.ref import random as reference
from fastnn.runtime import Order

WORD = 2**32 - 1


def philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Philox 4x32-10 in plain Python, in the words of the paper (Salmon et al., SC 2011)."""
    (a, b, c, d), (k0, k1) = counter, key
    for _ in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (q >> 32) ^ b ^ k0, q & WORD, (p >> 32) ^ d ^ k1, p & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return a, b, c, d


def expected_words(seed: int, stream: int, step: int, row: int, n: int) -> list[int]:
    """The words of one row: counter j gives 4 j to 4 j + 3."""
    key = seed & WORD, seed >> 32
    counters = [(j, row, step & WORD, stream) for j in range(-(-n // 4))]
    blocks = [philox(counter, key) for counter in counters]
    return list(itertools.chain.from_iterable(blocks))[:n]


#: kat_vectors of Random123 1.14 for philox4x32 with 10 rounds: counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_known_answers(counter, key, result, monkeypatch):
    assert philox(_numbers(counter), _numbers(key)) == _numbers(result)
    # The definition counts its first word from 0: let it begin at the known one.
    (first, row, step, stream), (k0, k1) = _numbers(counter), _numbers(key)
    arange = np.arange
    monkeypatch.setattr(reference.np, "arange", lambda n, dtype: first + arange(n, dtype=dtype))
    found = reference.words(k0 | k1 << 32, stream, step, np.array([row], np.uint64), 4)
    monkeypatch.undo()
    assert tuple(found[0]) == _numbers(result)


ARGUMENTS = [  # seed, stream, step, rows
    (0, 1, 0, [0]),
    (1, 2, 3, [0, 1, 2]),
    (2**64 - 1, WORD, WORD, [WORD, 0]),
    (0x0123456789ABCDEF, 7, 2**32 + 5, [12345]),  # steps count beyond 32 bits and start again
]


@pytest.mark.parametrize(("seed", "stream", "step", "rows"), ARGUMENTS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 13, 257])
def test_words_of_the_definition(seed, stream, step, rows, n):
    found = reference.words(seed, stream, step, np.array(rows), n)
    assert found.dtype == np.uint32 and found.shape == (len(rows), n)
    for row, values in zip(rows, found, strict=True):
        assert values.tolist() == expected_words(seed, stream, step, row, n)


@pytest.mark.parametrize("n", [0, 1, 7])
def test_words_of_no_rows(n):
    assert reference.words(0, 1, 0, np.arange(0), n).shape == (0, n)


# ------------------------------------------------------------------ dropout


def dropped(kernels, rows: int, columns: int, rate: float, seed: int, step: int, stream: int):
    """What the compiled kernel and the definition make of ones."""
    attrs = {"rate": rate, "stream": stream}
    dims = {"B": rows, "N": columns}
    case = op_cases.Case(OPS["dropout"], kernels.dtype, dims, attrs, frozenset(), seed=1)
    data = op_cases.make_data(case)
    data.blocks["x"][...] = 1
    data.step.seed, data.step.step = seed, step
    run, want = op_cases.Run(kernels, case, data), op_cases.define(case, data)
    return run.blocks["y"], want.blocks["y"]


@each_kernels
@pytest.mark.parametrize(("seed", "stream", "step", "rows"), ARGUMENTS)
@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 1 - 2**-10])
def test_dropout_masks_are_those_of_the_words(kernels, seed, stream, step, rows, rate):
    """Exactly: against plain Python, and between the backends; for odd and for long rows."""
    for columns in (1, 2, 5, 33, 300):
        got, want = dropped(kernels, len(rows), columns, rate, seed, step, stream)
        words = [expected_words(seed, stream, step, r, columns) for r in range(len(rows))]
        kept = np.array(words) >= int(rate * 2**32)
        assert np.array_equal(got != 0, kept)
        assert np.array_equal(got, want)
        if kept.any():
            np.testing.assert_allclose(got[kept], 1 / (1 - rate), rtol=np.finfo(got.dtype).eps)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_right_share(rate):
    kernels = op_cases.kernels_of("float64")
    y, _ = dropped(kernels, 300, 301, rate, seed=5, step=9, stream=3)
    kept = y != 0
    deviation = np.sqrt(rate * (1 - rate) / kept.size)
    assert abs(kept.mean() - (1 - rate)) < 5 * deviation
    assert abs(y.mean() - 1) < 5 * deviation / (1 - rate)
    # Neither rows nor columns have a share of their own.
    for axis in (0, 1):
        spread = kept.mean(axis=axis).std() / np.sqrt(rate * (1 - rate) / kept.shape[axis])
        assert 0.7 < spread < 1.3
    # Neighbours, and the four words of one counter, are independent.
    centred = kept - (1 - rate)
    for lag in (1, 2, -(-301 // 4), 2 * -(-301 // 4)):
        correlation = (centred[:, lag:] * centred[:, :-lag]).mean() / (rate * (1 - rate))
        assert abs(correlation) < 5 / np.sqrt(kept.size / 2), lag
    correlation = (centred[1:] * centred[:-1]).mean() / (rate * (1 - rate))
    assert abs(correlation) < 5 / np.sqrt(kept.size)


def test_dropout_masks_differ_by_seed_step_and_stream():
    kernels = op_cases.kernels_of("float32")
    arguments = {"seed": 1, "step": 1, "stream": 1}
    base, _ = dropped(kernels, 50, 80, 0.5, **arguments)
    for name in arguments:
        other, _ = dropped(kernels, 50, 80, 0.5, **{**arguments, name: 2})
        agree = ((base != 0) == (other != 0)).mean()
        assert abs(agree - 0.5) < 5 * 0.5 / np.sqrt(base.size), name
    high, _ = dropped(kernels, 50, 80, 0.5, **{**arguments, "seed": 1 + 2**32})
    assert not np.array_equal(base, high), "the upper half of the seed matters"


# ------------------------------------------------------------------ shuffling

SIZES = [0, 1, 2, 3, 5, 1000, 1023, 1025, 100003, 1000003]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (2**64 - 1, WORD), (2**33 + 1, 17)])
def test_shuffled_is_a_permutation_and_the_same_everywhere(n, seed, epoch):
    order = executor.shuffled(seed, epoch, n)
    assert order.dtype == np.int64 and order.shape == (n,)
    assert np.array_equal(np.sort(order), np.arange(n))
    assert np.array_equal(order, reference.shuffled(seed, epoch, n))


@pytest.mark.parametrize("n", [1, 2, 5, 1001])
def test_shuffled_sorts_by_the_words_of_its_stream(n):
    keys = expected_words(3, reference.SHUFFLE, 4, 0, n)
    want = sorted(range(n), key=lambda i: (keys[i], i))
    assert executor.shuffled(3, 4, n).tolist() == want


def test_more_rows_than_can_be_numbered_are_refused():
    with pytest.raises(
        ValueError, match=r"fewer than 2\*\*32 rows can be shuffled, got 4294967296"
    ):
        Order(2**32)


def test_rows_with_equal_keys_keep_their_order():
    """The definition, on keys with many ties; 2^32 keys hardly ever have one."""
    keys = np.random.default_rng(0).integers(0, 5, 200).astype(np.uint32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "words", lambda *_: keys[None])
        order = reference.shuffled(0, 0, len(keys))
    assert order.tolist() == sorted(range(len(keys)), key=lambda i: (keys[i], i))


def test_orders_differ_by_seed_and_epoch():
    orders = [executor.shuffled(s, e, 50).tolist() for s in (0, 1, 2**32) for e in range(5)]
    assert len({tuple(order) for order in orders}) == len(orders)
    assert executor.shuffled(0, 0, 50).tolist() == orders[0]


def test_shuffling_is_uniform():
    """Each row at each place equally often: chi-squared with 49 degrees of freedom."""
    n, epochs = 8, 4000
    counts = np.zeros((n, n))
    for epoch in range(epochs):
        counts[np.arange(n), executor.shuffled(7, epoch, n)] += 1
    chi_squared = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
    freedom = (n - 1) ** 2
    assert abs(chi_squared - freedom) < 5 * np.sqrt(2 * freedom)
    orders = {tuple(executor.shuffled(7, epoch, 3)) for epoch in range(200)}
    assert len(orders) == 6, "all orders of three rows occur"
