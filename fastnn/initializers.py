"""Initial values of weights.

Fan-in n and fan-out m are the numbers of inputs and units of a weight array of shape (n, m).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, is_dataclass

import numpy as np

from . import checks
from .lookup import resolve, snake_case


class Initializer:
    """Base: configuration of how an array is filled; ``sample`` fills one."""

    def sample(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """An array of float64 with this shape."""
        raise TypeError(f"{type(self).__name__} does not define sample()")


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[0], shape[-1]) if len(shape) > 1 else (shape[0], shape[0])


def _matrix(initializer: Initializer, shape: tuple[int, ...]) -> tuple[int, int]:
    """The shape (n, m) for what makes no sense for a vector, such as a bias."""
    if len(shape) != 2:
        name = type(initializer).__name__
        raise ValueError(f"{name}: expected weights of shape (inputs, units), got {shape}")
    return shape


@dataclass(frozen=True)
class Zeros(Initializer):
    """All zeros; right for biases. Equal weights stay equal, so not for weights."""

    def sample(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return np.zeros(shape)


@dataclass(frozen=True)
class Ones(Initializer):
    """All ones; for scales. Equal weights stay equal, so not for kernels."""

    def sample(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return np.ones(shape)


@dataclass(frozen=True)
class Constant(Initializer):
    """All equal to ``value``; a small positive bias keeps rectifiers active at the start."""

    value: float = 0.0

    def __post_init__(self) -> None:
        checks.number("value", self.value)

    def sample(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return np.full(shape, float(self.value))


@dataclass(frozen=True)
class Normal(Initializer):
    """Normal distribution with the given mean and standard deviation."""

    mean: float = 0.0
    stddev: float = 0.05

    def __post_init__(self) -> None:
        checks.number("mean", self.mean)
        checks.number("stddev", self.stddev, 0)

    def sample(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return rng.normal(self.mean, self.stddev, shape)


@dataclass(frozen=True)
class Uniform(Initializer):
    """Uniform distribution between ``low`` and ``high``."""

    low: float = -0.05
    high: float = 0.05

    def __post_init__(self) -> None:
        checks.number("high", self.high, checks.number("low", self.low))

    def sample(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(self.low, self.high, shape)


@dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """Normal distribution without its tails: values further from the mean are drawn again.

    With a = ``limit``, density phi and distribution function Phi of the standard normal, the
    standard deviation of what is left is ::

        stddev * sqrt(1 - 2 a phi(a) / (2 Phi(a) - 1))

    which is less than ``stddev``: 0.88 of it for a = 2, 0.54 for a = 1, 0.99 for a = 3.

    Parameters
    ----------
    mean, stddev
        Of the normal distribution before the tails are cut off; ``stddev`` >= 0.
    limit
        Greatest distance from the mean, in units of ``stddev``; >= 0.1. With less than that it
        would be a `Uniform`, and nearly every value would have to be drawn again.

    Source: Johnson, Kotz & Balakrishnan, Continuous Univariate Distributions 1 (1994), chapter 13.
    """

    mean: float = 0.0
    stddev: float = 0.05
    limit: float = 2.0

    def __post_init__(self) -> None:
        checks.number("mean", self.mean)
        checks.number("stddev", self.stddev, 0)
        checks.number("limit", self.limit, 0.1)

    def sample(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        z = rng.standard_normal(shape)
        while (far := np.abs(z) > self.limit).any():
            z[far] = rng.standard_normal(np.count_nonzero(far))
        return self.mean + self.stddev * z


class _VarianceScaling(Initializer):
    """A variance that depends on the fans, as a normal or a uniform distribution."""

    def variance(self, fan_in: int, fan_out: int) -> float:
        raise TypeError(f"{type(self).__name__} does not define variance()")

    def sample(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        variance = self.variance(*_fans(shape))
        if type(self).__name__.endswith("Uniform"):
            limit = math.sqrt(3 * variance)
            return rng.uniform(-limit, limit, shape)
        return rng.normal(0.0, math.sqrt(variance), shape)


@dataclass(frozen=True)
class GlorotUniform(_VarianceScaling):
    """Uniform in +- sqrt(6 / (n + m)).

    Source: Glorot & Bengio, AISTATS 2010, equation 16.
    """

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 2 / (fan_in + fan_out)


@dataclass(frozen=True)
class GlorotNormal(GlorotUniform):
    """Normal with variance 2 / (n + m).

    Source: Glorot & Bengio, AISTATS 2010, equation 12.
    """


@dataclass(frozen=True)
class HeUniform(_VarianceScaling):
    """Uniform in +- sqrt(6 / n).

    Source: He et al., Delving deep into rectifiers, ICCV 2015.
    """

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 2 / fan_in


@dataclass(frozen=True)
class HeNormal(HeUniform):
    """Normal with variance 2 / n.

    Source: He et al., ICCV 2015, equation 10.
    """


@dataclass(frozen=True)
class LeCunUniform(_VarianceScaling):
    """Uniform in +- sqrt(3 / n).

    Source: LeCun et al., Efficient BackProp (1998), equation 16.
    """

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 1 / fan_in


@dataclass(frozen=True)
class LeCunNormal(LeCunUniform):
    """Normal with variance 1 / n: the scaled normal, N(0, 1) / sqrt(n).

    Source: LeCun et al., Efficient BackProp (1998), equation 16.
    """


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """Orthonormal columns, or rows where there are more columns, times ``gain``.

    W^T W = gain^2 I for n >= m, and W W^T = gain^2 I for n <= m: with as many units as inputs, a
    layer keeps the length of every vector. Among all such matrices, W is uniformly distributed
    (Haar measure): the Q of a normal matrix's QR decomposition, with the signs that make the
    diagonal of R positive.

    Parameters
    ----------
    gain
        >= 0; sqrt(2) makes up for what ReLU cuts off.

    Examples
    --------
    >>> import numpy as np, fastnn as fnn
    >>> W = fnn.initializers.Orthogonal().sample((5, 2), np.random.default_rng(0))
    >>> np.allclose(W.T @ W, np.eye(2))
    True

    Source: Saxe, McClelland & Ganguli, Exact solutions to the nonlinear dynamics of learning in
    deep linear neural networks, ICLR 2014; Mezzadri, How to generate random matrices from the
    classical compact groups, Notices of the AMS 54 (2007).
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        checks.number("gain", self.gain, 0)

    def sample(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        n, m = _matrix(self, shape)
        q, r = np.linalg.qr(rng.standard_normal((max(n, m), min(n, m))))
        # The signs that LAPACK chooses depend on its algorithm and would not be random.
        q *= self.gain * np.copysign(1.0, r.diagonal())
        return q if n >= m else q.T


@dataclass(frozen=True)
class Sparse(Initializer):
    """Each unit gets ``connections`` weights from N(0, stddev^2), at random inputs; others are 0.

    How large a unit's sum becomes does not depend on the number of inputs then, and units differ
    more from each other.

    Parameters
    ----------
    connections
        Weights of each unit that are not zero, at least 1 and at most the number of inputs.
    stddev
        Standard deviation of these, > 0.

    Source: Martens, Deep learning via Hessian-free optimization, ICML 2010, section 5.
    """

    connections: int = 15
    stddev: float = 1.0

    def __post_init__(self) -> None:
        checks.positive_int("connections", self.connections)
        checks.number("stddev", self.stddev, 0, open_low=True)

    def sample(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        n, m = _matrix(self, shape)
        if self.connections > n:
            raise ValueError(
                f"connections: expected at most the number of inputs, {n}, got {self.connections}"
            )
        weights = np.zeros(shape)
        weights[: self.connections] = rng.normal(0.0, self.stddev, (self.connections, m))
        return rng.permuted(weights, axis=0)  # each column in an order of its own


@dataclass(frozen=True)
class Identity(Initializer):
    """``gain`` where input and unit have the same number, else 0: at first a layer copies.

    Units beyond the number of inputs start at 0, and inputs beyond the number of units are unused.

    Parameters
    ----------
    gain
        Any finite number.

    Source: Le, Jaitly & Hinton, A simple way to initialize recurrent networks of rectified linear
    units (2015).
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        checks.number("gain", self.gain)

    def sample(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return self.gain * np.eye(*_matrix(self, shape))


#: Name -> class, of everything a user can name: all dataclasses above. LeCun is one word.
INITIALIZERS: dict[str, type[Initializer]] = {
    snake_case(kind.__name__.replace("LeCun", "Lecun")): kind
    for kind in list(globals().values())
    if isinstance(kind, type) and issubclass(kind, Initializer) and is_dataclass(kind)
}


def get(argument: str, value: str | Initializer | type) -> Initializer:
    """The initializer that a name or object stands for."""
    return resolve(argument, value, INITIALIZERS, Initializer)  # type: ignore[type-abstract]
