"""Layers that act in training only: noise on values, and penalties on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .. import checks, regularizers
from ..compiler import PENALTY, Graph, Sum, Tensor
from .base import Layer


class GaussianNoise(Layer):
    """In training, y = x + n with n from a normal distribution of mean 0.

    The numbers come from a counter, as those of `Dropout`.

    Parameters
    ----------
    stddev
        Standard deviation of n, >= 0.

    Source: Bishop, Training with noise is equivalent to Tikhonov regularization (1995).
    """

    def __init__(self, stddev: float) -> None:
        self.stddev = checks.number("stddev", stddev, 0)

    def emit(self, graph: Graph, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        stream = graph.new_stream()
        if not training or self.stddev == 0:
            return x
        return graph.emit("gaussian_noise", x, deviation=self.stddev, stream=stream)[0]

    def __repr__(self) -> str:
        return f"GaussianNoise({self.stddev:g})"


class GaussianDropout(Layer):
    """In training, y = x n, with normal n of mean 1 and variance rate / (1 - rate).

    The mean and the variance of x n are those that `Dropout` of the same rate gives.

    Parameters
    ----------
    rate
        In [0, 1).

    Source: Srivastava et al., Dropout, JMLR 15 (2014), section 10.
    """

    def __init__(self, rate: float) -> None:
        self.rate = checks.number("rate", rate, 0, 1, open_high=True)

    def emit(self, graph: Graph, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        stream = graph.new_stream()
        if not training or self.rate == 0:
            return x
        deviation = math.sqrt(self.rate / (1 - self.rate))
        return graph.emit("gaussian_dropout", x, deviation=deviation, stream=stream)[0]

    def __repr__(self) -> str:
        return f"GaussianDropout({self.rate:g})"


class ActivityRegularization(Layer):
    """y = x, with a penalty on x in the training loss: the mean over the batch of the rows' sums.

    Parameters
    ----------
    penalty
        A penalty of ``fnn.regularizers``, such as ``L1(1e-4)``, or its name.

    Source: Goodfellow, Bengio & Courville, Deep Learning, section 7.10.
    """

    def __init__(self, penalty: Any) -> None:
        chosen = regularizers.get("penalty", penalty)
        if not isinstance(chosen, regularizers.Penalty):
            raise TypeError(
                f"penalty: expected a sum over values such as L1 or L2, got {penalty!r}"
            )
        self.penalty = chosen

    def emit(self, graph: Graph, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        if training:
            rows, _ = graph.emit("activity_penalty", x, **self.penalty.attributes)
            graph.sums.append(Sum(PENALTY, rows, per_row=True, is_loss=True))
        return x

    def __repr__(self) -> str:
        return f"ActivityRegularization({self.penalty!r})"


class SparsityRegularization(Layer):
    """y = x, with the penalty factor sum over units of KL(target || mean of x over the batch).

    KL(q || p) = q log(q / p) + (1 - q) log((1 - q) / (1 - p)): units are drawn to be active in a
    share q of the examples. x is in (0, 1), as that of a sigmoid.

    Parameters
    ----------
    target
        q in (0, 1), such as 0.05.
    factor
        >= 0.

    Source: Lee, Ekanadham & Ng, Sparse deep belief net model for visual area V2, NIPS 2007; Ng,
    Sparse autoencoder, CS294A lecture notes (2011).
    """

    def __init__(self, target: float = 0.05, factor: float = 1.0) -> None:
        self.target = checks.number("target", target, 0, 1, open_low=True, open_high=True)
        self.factor = checks.number("factor", factor, 0)

    def emit(self, graph: Graph, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        if training:
            parts, _ = graph.emit("sparsity_penalty", x, factor=self.factor, target=self.target)
            graph.sums.append(Sum(PENALTY, parts, per_row=False, is_loss=True))
        return x

    def __repr__(self) -> str:
        return f"SparsityRegularization({self.target:g}, {self.factor:g})"
