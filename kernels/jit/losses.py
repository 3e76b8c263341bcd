"""Losses write one double per row of the batch, so that their sum does not depend on the threads,
and the gradient by the prediction, already divided by the rows of the whole batch. Metrics write
rows only. In evaluation the gradient's buffer is absent.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np


def kernels(t: Any) -> dict[str, Callable]:
    """Name -> kernel, of the number type that the names ``t`` are of."""
    own = _helpers(t)
    return {
        **_by_number(t, own),
        **_by_class(t, own),
        "accuracy": _accuracy(t, own),
        "cosine_proximity": _cosine_proximity(t, own),
    }


def _helpers(t: Any) -> Any:
    R = t.R
    batch_rows, row_weight = t.batch_rows, t.row_weight

    @t.inline
    def gradient_scale(call, r):
        """The factor of row r's gradient."""
        return R(row_weight(call, r) / np.float64(batch_rows(call)))

    @t.inline
    def first_largest(p, n):
        best = 0
        for i in range(1, n):
            if p[i] > p[best]:
                best = i
        return best

    return SimpleNamespace(gradient_scale=gradient_scale, first_largest=first_largest)


def _by_number(t: Any, own: Any) -> dict[str, Callable]:
    """Losses with an elementary function of each number: it is computed over as many whole rows as
    stay in the cache, or over parts of one.
    """
    R, VLEN, CHUNK = t.R, t.VLEN, t.CHUNK
    at, batch_rows, constants, copy, double_sum, doubles, formula, given, labels_of, local = (
        t.at, t.batch_rows, t.constants, t.copy, t.double_sum, t.doubles, t.formula, t.given,
        t.labels, t.local,
    )  # fmt: skip
    log, reals, row_sum = t.log, t.reals, t.row_sum
    row_weight, run_loss, share, sizes = t.row_weight, t.run_loss, t.share, t.sizes
    gradient_scale, rows_at_once = own.gradient_scale, t.rows_at_once

    @t.inline
    def one_hot(labels, n, columns, first, width, to):
        """Numbers ``first`` to ``first + width`` of n rows with a 1 at their label."""
        for i in range(width):
            to[i] = R(0.0)
        for k in range(n):
            i = k * columns + labels[k] - first
            if 0 <= i < width:
                to[i] = R(1.0)

    def cross_entropy(call, thread, threads):
        """rows = -weight sum t log p with p clipped from below; dp = -weight / B t / p"""
        columns, floor = sizes(call)[1], R(constants(call)[0])
        start = share(sizes(call)[0], VLEN, thread, threads)
        stop = share(sizes(call)[0], VLEN, thread + 1, threads)
        together = rows_at_once(columns)
        target, terms = local(CHUNK), local(CHUNK)
        for r in range(start, stop, together):
            n = min(together, stop - r)
            p, rows = at(reals(call, 0), r * columns), at(doubles(call, 4), r)
            labels, distribution = at(labels_of(call, 1), r), at(reals(call, 2), r * columns)
            dp = at(reals(call, 5), r * columns)
            for k in range(n):
                rows[k] = 0.0
            for first in range(0, n * columns, CHUNK):
                width = min(n * columns - first, CHUNK)
                if given(call, 1):
                    one_hot(labels, n, columns, first, width, target)
                else:
                    copy(at(distribution, first), target, width)
                for i in range(width):
                    value = p[first + i]
                    terms[i] = target[i] * log(floor if value < floor else value)
                for k in range(n):
                    rows[k] -= double_sum(at(terms, k * columns), min(columns, width))
                if given(call, 5):
                    for i in range(width):
                        value = p[first + i]
                        dp[first + i] = -target[i] / (floor if value < floor else value)
            for k in range(n):
                rows[k] *= row_weight(call, r + k)
                if given(call, 5):
                    scale = gradient_scale(call, r + k)
                    for i in range(k * columns, (k + 1) * columns):
                        dp[i] *= scale

    def pointwise_loss(call, thread, threads):
        """rows = weight / O sum over outputs of l(y, t); dy = weight / (B O) l'(y, t), or
        both without O
        """
        columns, part = sizes(call)[1], 1.0 / np.float64(sizes(call)[2])
        scale = R(part / np.float64(max(batch_rows(call), 1)))
        start = share(sizes(call)[0], VLEN, thread, threads)
        stop = share(sizes(call)[0], VLEN, thread + 1, threads)
        weights, weighted = reals(call, 3), given(call, 3)
        together = rows_at_once(columns)
        values = local(CHUNK)
        for r in range(start, stop, together):
            n = min(together, stop - r)
            y, target = at(reals(call, 0), r * columns), at(reals(call, 2), r * columns)
            rows, dy = at(doubles(call, 4), r), at(reals(call, 5), r * columns)
            for first in range(0, n * columns, CHUNK):
                width = min(n * columns - first, CHUNK)
                run_loss(
                    formula(call, 0),
                    (at(y, first), at(target, first), values, width, constants(call)),
                )
                if columns == 1:
                    for k in range(n):
                        rows[k] = np.float64(values[k])
                else:
                    for k in range(n):
                        sum_ = row_sum(at(values, k * columns), min(columns, width))
                        rows[k] = np.float64(sum_) + (rows[k] if first > 0 else 0.0)
            for k in range(n):
                rows[k] *= part * np.float64(weights[r + k]) if weighted else part
            if given(call, 5):
                run_loss(formula(call, 1), (y, target, dy, n * columns, constants(call)))
                if not weighted:
                    for i in range(n * columns):
                        dy[i] *= scale
                elif columns == 1:
                    for i in range(n):
                        dy[i] *= scale * weights[r + i]
                else:
                    for k in range(n):
                        for i in range(k * columns, (k + 1) * columns):
                            dy[i] *= scale * weights[r + k]

    return {f.__name__: f for f in (cross_entropy, pointwise_loss)}


def _by_class(t: Any, own: Any) -> dict[str, Callable]:
    R, CHUNK = t.R, t.CHUNK
    at, constants, double_sum, doubles, given, labels_of, local, reals, row_dot, row_weight = (
        t.at, t.constants, t.double_sum, t.doubles, t.given, t.labels, t.local, t.reals, t.row_dot,
        t.row_weight,
    )  # fmt: skip
    share, sizes = t.share, t.sizes
    first_largest, gradient_scale = own.first_largest, own.gradient_scale

    def negative_log_likelihood(call, thread, threads):
        """rows = -weight sum t l; dl = -weight t / B"""
        n, columns = sizes(call)[0], sizes(call)[1]
        labels, rows = labels_of(call, 1), doubles(call, 4)
        for r in range(share(n, 1, thread, threads), share(n, 1, thread + 1, threads)):
            logs, target = at(reals(call, 0), r * columns), at(reals(call, 2), r * columns)
            dl = at(reals(call, 5), r * columns)
            log = logs[labels[r]] if given(call, 1) else row_dot(target, logs, columns)
            rows[r] = -np.float64(log) * row_weight(call, r)
            if given(call, 5):
                scale = gradient_scale(call, r)
                if given(call, 1):
                    for i in range(columns):
                        dl[i] = R(0.0) * scale
                    dl[labels[r]] = -scale
                else:
                    for i in range(columns):
                        dl[i] = -scale * target[i]

    def multiclass_hinge(call, thread, threads):
        """rows = weight times the sum over the wrong classes of max(0, margin + z - z of the right
        one), or of its square
        """
        n, columns, squared = sizes(call)[0], sizes(call)[1], sizes(call)[2] != 0
        labels, rows = labels_of(call, 1), doubles(call, 4)
        terms, slopes = local(CHUNK), local(CHUNK)
        for r in range(share(n, 1, thread, threads), share(n, 1, thread + 1, threads)):
            z, dz = at(reals(call, 0), r * columns), at(reals(call, 5), r * columns)
            if given(call, 1):
                right = np.int64(labels[r])
            else:
                right = first_largest(at(reals(call, 2), r * columns), columns)
            scale, base = gradient_scale(call, r), R(constants(call)[0]) - z[right]
            # NaN even where it is alone.
            loss, pull = np.float64(z[right]) if z[right] != z[right] else 0.0, 0.0
            for first in range(0, columns, CHUNK):
                width = min(columns - first, CHUNK)
                for i in range(width):
                    excess = z[first + i] + base
                    excess = R(0.0) if excess < R(0.0) else excess
                    above = R(1.0) if excess > R(0.0) else R(0.0)
                    terms[i] = excess * excess if squared else excess
                    slopes[i] = R(2.0) * excess if squared else above
                if first <= right < first + width:
                    terms[right - first] = slopes[right - first] = R(0.0)
                loss += double_sum(terms, width)
                pull += double_sum(slopes, width)
                if given(call, 5):
                    for i in range(width):
                        dz[first + i] = slopes[i] * scale
            if given(call, 5):
                dz[right] = -R(pull) * scale
            rows[r] = loss * row_weight(call, r)

    return {f.__name__: f for f in (negative_log_likelihood, multiclass_hinge)}


def _accuracy(t: Any, own: Any) -> Callable:
    at, doubles, given, labels_of, reals, share, sizes = (
        t.at, t.doubles, t.given, t.labels, t.reals, t.share, t.sizes
    )  # fmt: skip
    first_largest = own.first_largest

    def accuracy(call, thread, threads):
        """rows = 1 where the largest prediction is at the target's place, else 0"""
        n, columns = sizes(call)[0], sizes(call)[1]
        labels, rows = labels_of(call, 1), doubles(call, 3)
        for r in range(share(n, 1, thread, threads), share(n, 1, thread + 1, threads)):
            if given(call, 1):
                truth = np.int64(labels[r])
            else:
                truth = first_largest(at(reals(call, 2), r * columns), columns)
            found = first_largest(at(reals(call, 0), r * columns), columns)
            rows[r] = 1.0 if found == truth else 0.0

    return accuracy


def _cosine_proximity(t: Any, own: Any) -> Callable:
    R = t.R
    at, doubles, given, labels_of, reals, row_dot, row_weight, share, sizes, sqrt = (
        t.at, t.doubles, t.given, t.labels, t.reals, t.row_dot, t.row_weight, t.share, t.sizes,
        t.sqrt,
    )  # fmt: skip
    gradient_scale = own.gradient_scale
    floor = R(1e-7)

    @t.inline
    def length(x, n):
        length = sqrt(row_dot(x, x, n))
        return floor if length < floor else length

    def cosine_proximity(call, thread, threads):
        """rows = -weight times the cosine of the angle between y and t"""
        n, columns, labelled = sizes(call)[0], sizes(call)[1], given(call, 1)
        labels, rows = labels_of(call, 1), doubles(call, 4)
        for r in range(share(n, 1, thread, threads), share(n, 1, thread + 1, threads)):
            y, target = at(reals(call, 0), r * columns), at(reals(call, 2), r * columns)
            dy = at(reals(call, 5), r * columns)
            own, other = length(y, columns), R(1.0)
            if labelled:
                dot = y[labels[r]]
            else:
                other, dot = length(target, columns), row_dot(y, target, columns)
            cosine = dot / (own * other)
            rows[r] = -np.float64(cosine) * row_weight(call, r)
            if given(call, 5):
                scale = gradient_scale(call, r) / own
                along = R(0.0) if own <= floor else cosine
                for i in range(columns):  # in this order y of one number gives an exact 0
                    dy[i] = y[i] * along / own
                if labelled:
                    dy[labels[r]] -= R(1.0)
                else:
                    for i in range(columns):
                        dy[i] -= target[i] / other
                for i in range(columns):
                    dy[i] *= scale

    return cosine_proximity
