"""Initial values of weights.

Fan-in n and fan-out m are the numbers of inputs and units of a weight array of shape (n, m).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Zeros(Initializer):
    """All zeros; right for biases. Equal weights stay equal, so not for weights."""

    def sample(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return np.zeros(shape)


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
    """Uniform in +- sqrt(6 / (n + m)). Glorot & Bengio, AISTATS 2010, equation 16."""

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 2 / (fan_in + fan_out)


@dataclass(frozen=True)
class GlorotNormal(GlorotUniform):
    """Normal with variance 2 / (n + m). Glorot & Bengio, AISTATS 2010, equation 12."""


@dataclass(frozen=True)
class HeUniform(_VarianceScaling):
    """Uniform in +- sqrt(6 / n). He et al., Delving deep into rectifiers, ICCV 2015."""

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 2 / fan_in


@dataclass(frozen=True)
class HeNormal(HeUniform):
    """Normal with variance 2 / n. He et al., ICCV 2015, equation 10."""


@dataclass(frozen=True)
class LeCunNormal(_VarianceScaling):
    """Normal with variance 1 / n. LeCun et al., Efficient BackProp (1998), equation 16."""

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 1 / fan_in


#: Name -> class, of everything a user can name.
INITIALIZERS = {
    ("lecun_normal" if c is LeCunNormal else snake_case(c.__name__)): c
    for c in (
        Zeros, Constant, Normal, Uniform,
        GlorotUniform, GlorotNormal, HeUniform, HeNormal, LeCunNormal,
    )
}  # fmt: skip


def get(argument: str, value: str | Initializer | type) -> Initializer:
    """The initializer that a name or object stands for."""
    return resolve(argument, value, INITIALIZERS, Initializer)  # type: ignore[type-abstract]
