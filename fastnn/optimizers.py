"""Optimizers: hyperparameters of the update rules in ``kernels/scalars.py``.

The rule itself runs as one compiled pass over the flat parameters. Every class takes a number or a
schedule as ``learning_rate``.
"""

from __future__ import annotations

from typing import Any

from . import checks, schedules
from .kernels.formula import FORMULAS
from .lookup import resolve
from .schedules import Schedule


class Optimizer:
    """Base: ``function`` names the update rule; its parameters are attributes of that name."""

    function: str

    def __init__(self, learning_rate: float | Schedule) -> None:
        self.learning_rate = learning_rate

    @property
    def learning_rate(self) -> Schedule:
        """The schedule in use; assigning a number or a schedule takes effect at the next step."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float | Schedule) -> None:
        self._learning_rate = schedules.get(value)

    @property
    def state(self) -> tuple[str, ...]:
        """Names of the flat state vectors that the rule keeps."""
        return FORMULAS["optimizer"][self.function].state

    @property
    def parameters(self) -> tuple[float, ...]:
        """Values of the rule's parameters, in the formula's order."""
        names = FORMULAS["optimizer"][self.function].parameters
        return tuple(float(getattr(self, name)) for name in names)

    def __repr__(self) -> str:
        rate: Any = self.learning_rate
        if isinstance(rate, schedules.Constant):
            (rate,) = rate.parameters
        names = FORMULAS["optimizer"][self.function].parameters
        values = [f"learning_rate={rate}", *(f"{n}={getattr(self, n)!r}" for n in names)]
        return f"{type(self).__name__}({', '.join(values)})"


class SGD(Optimizer):
    """w <- w - rate g

    With mini-batches, single examples or the whole set, as ``fit``'s ``batch_size`` says.

    Parameters
    ----------
    learning_rate
        A number > 0 or a schedule; 0.01 by default, as in Keras (PyTorch has 0.001).

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.optimizers.SGD(0.1)
    SGD(learning_rate=0.1)

    Source: Robbins & Monro, A stochastic approximation method (1951).
    """

    function = "sgd"

    def __init__(self, learning_rate: float | Schedule = 0.01) -> None:
        super().__init__(learning_rate)


class Momentum(Optimizer):
    """v <- mu v - rate g; w <- w + v

    The same as v <- mu v + rate g, w <- w - v. The form v <- mu v + g, w <- w - rate v (PyTorch's)
    gives the same steps while the rate is constant, and other ones when it changes; the averaged
    form v <- mu v + (1 - mu) g corresponds to a rate larger by 1 / (1 - mu).

    Parameters
    ----------
    learning_rate
        A number > 0 or a schedule.
    mu
        Share of the last step that is kept, in [0, 1).

    Source: Polyak, Some methods of speeding up the convergence of iteration methods (1964).
    """

    function = "momentum"

    def __init__(self, learning_rate: float | Schedule = 0.01, mu: float = 0.9) -> None:
        super().__init__(learning_rate)
        self.mu = checks.number("mu", mu, 0, 1, open_high=True)


class Nesterov(Momentum):
    """v <- mu v - rate g; w <- w + mu v - rate g

    The gradient acts as if taken where the momentum leads, written for the parameters at which it
    is taken (Keras and PyTorch have this form too).

    Parameters
    ----------
    learning_rate, mu
        As for `Momentum`.

    Source: Nesterov (1983); Sutskever et al., On the importance of initialization and momentum,
    ICML 2013, section 2.
    """

    function = "nesterov"


class AdaGrad(Optimizer):
    """r <- r + g^2; w <- w - rate g / (sqrt(r) + epsilon)

    Parameters
    ----------
    learning_rate
        A number > 0 or a schedule; 0.01 as in PyTorch (Keras has 0.001).
    epsilon
        Added outside the root, > 0. r starts at 0 (Keras: 0.1).

    Source: Duchi, Hazan & Singer, JMLR 12 (2011).
    """

    function = "adagrad"

    def __init__(self, learning_rate: float | Schedule = 0.01, epsilon: float = 1e-10) -> None:
        super().__init__(learning_rate)
        self.epsilon = checks.number("epsilon", epsilon, 0, open_low=True)


class RMSProp(Optimizer):
    """r <- rho r + (1 - rho) g^2; w <- w - rate g / (sqrt(r) + epsilon)

    epsilon stands outside the root, as in PyTorch; Goodfellow et al. (Deep Learning, algorithm 8.5)
    and Keras have it inside.

    Parameters
    ----------
    learning_rate
        A number > 0 or a schedule.
    rho
        Decay of the average, in [0, 1).
    epsilon
        > 0.
    centered
        Subtract the square of an average of g from r: divide by a standard deviation.

    Source: Tieleman & Hinton, Coursera, Neural networks for machine learning, lecture 6.5 (2012);
    centered: Graves, Generating sequences with recurrent neural networks (2013).
    """

    function = "rmsprop"

    def __init__(
        self,
        learning_rate: float | Schedule = 0.001,
        rho: float = 0.9,
        epsilon: float = 1e-8,
        centered: bool = False,
    ) -> None:
        super().__init__(learning_rate)
        if centered:
            self.function = "centered_rmsprop"
        self.rho = checks.number("rho", rho, 0, 1, open_high=True)
        self.epsilon = checks.number("epsilon", epsilon, 0, open_low=True)


class Adam(Optimizer):
    """m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2; w <- w - rate m^ / (sqrt(v^) + epsilon)

    with m^ = m / (1 - b1^t) and v^ = v / (1 - b2^t) at update t = 1, 2, ...

    Parameters
    ----------
    learning_rate
        A number > 0 or a schedule.
    beta1, beta2
        Decays of the averages of g and g^2, in [0, 1).
    epsilon
        1e-8 as in the paper and in PyTorch (Keras: 1e-7), > 0.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.optimizers.Adam(learning_rate=3e-4)
    Adam(learning_rate=0.0003, beta1=0.9, beta2=0.999, epsilon=1e-08)

    Source: Kingma & Ba, Adam: a method for stochastic optimization, ICLR 2015, algorithm 1.
    """

    function = "adam"

    def __init__(
        self,
        learning_rate: float | Schedule = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(learning_rate)
        self.beta1 = checks.number("beta1", beta1, 0, 1, open_high=True)
        self.beta2 = checks.number("beta2", beta2, 0, 1, open_high=True)
        self.epsilon = checks.number("epsilon", epsilon, 0, open_low=True)


class AMSGrad(Adam):
    """m, v as in Adam; u <- max(u, v); w <- w - rate m^ / (sqrt(u^) + epsilon), u^ = u / (1 - b2^t)

    The divisor never shrinks. As in PyTorch the maximum is of the uncorrected v.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon
        As for `Adam`.

    Source: Reddi, Kale & Kumar, On the convergence of Adam and beyond, ICLR 2018, algorithm 2.
    """

    function = "amsgrad"


class AdaMax(Adam):
    """m <- b1 m + (1 - b1) g; u <- max(b2 u, |g| + epsilon); w <- w - rate m^ / u

    The paper has no epsilon; with it, as in PyTorch, a gradient of 0 is no division by 0.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon
        As for `Adam`; 0.002 is the paper's rate.

    Source: Kingma & Ba, Adam, ICLR 2015, algorithm 2.
    """

    function = "adamax"

    def __init__(
        self,
        learning_rate: float | Schedule = 0.002,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(learning_rate, beta1, beta2, epsilon)


class Nadam(AdaMax):
    """m, v as in Adam; w <- w - rate n / (sqrt(v^) + epsilon) with

    n = b1 m / (1 - b1^(t + 1)) + (1 - b1) g / (1 - b1^t): the momentum of the next step already.

    This is the form with a constant b1. PyTorch and Keras let it rise during the first steps.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon
        As for `Adam`; 0.002 is the paper's rate.

    Source: Dozat, Incorporating Nesterov momentum into Adam, ICLR 2016 workshop.
    """

    function = "nadam"


class AdamW(Adam):
    """m, v as in Adam; w <- w - rate (m^ / (sqrt(v^) + epsilon) + weight_decay w)

    Decoupled: the decay does not pass through the averages, as that of an L2 penalty does. It acts
    on all parameters, biases too.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon
        As for `Adam`.
    weight_decay
        >= 0; 0.01 as in PyTorch.

    Source: Loshchilov & Hutter, Decoupled weight decay regularization, ICLR 2019, algorithm 2.
    """

    function = "adamw"

    def __init__(
        self,
        learning_rate: float | Schedule = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(learning_rate, beta1, beta2, epsilon)
        self.weight_decay = checks.number("weight_decay", weight_decay, 0)


class Lion(Optimizer):
    """c = b1 m + (1 - b1) g; w <- w - rate (sign(c) + weight_decay w); m <- b2 m + (1 - b2) g

    Every step has the same length in every parameter: rates are 3 to 10 times smaller than Adam's.

    Parameters
    ----------
    learning_rate
        A number > 0 or a schedule.
    beta1, beta2
        Weights of the average in the step and in itself, in [0, 1).
    weight_decay
        >= 0.

    Source: Chen et al., Symbolic discovery of optimization algorithms, NeurIPS 2023.
    """

    function = "lion"

    def __init__(
        self,
        learning_rate: float | Schedule = 0.0001,
        beta1: float = 0.9,
        beta2: float = 0.99,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate)
        self.beta1 = checks.number("beta1", beta1, 0, 1, open_high=True)
        self.beta2 = checks.number("beta2", beta2, 0, 1, open_high=True)
        self.weight_decay = checks.number("weight_decay", weight_decay, 0)


class Adadelta(Optimizer):
    """r <- rho r + (1 - rho) g^2; d = g sqrt(s + epsilon) / sqrt(r + epsilon); w <- w - rate d;
    s <- rho s + (1 - rho) d^2

    Steps have the units of the parameters, so the paper needs no rate: it is 1.

    Parameters
    ----------
    learning_rate
        A number > 0 or a schedule; 1 as in the paper and in PyTorch (Keras: 0.001).
    rho
        Decay of both averages, in [0, 1).
    epsilon
        > 0; sets the length of the first steps.

    Source: Zeiler, Adadelta: an adaptive learning rate method (2012), algorithm 1.
    """

    function = "adadelta"

    def __init__(
        self, learning_rate: float | Schedule = 1.0, rho: float = 0.9, epsilon: float = 1e-6
    ) -> None:
        super().__init__(learning_rate)
        self.rho = checks.number("rho", rho, 0, 1, open_high=True)
        self.epsilon = checks.number("epsilon", epsilon, 0, open_low=True)


#: Name -> class, of everything a user can name.
OPTIMIZERS: dict[str, type[Optimizer]] = {
    c.function: c
    for c in vars().copy().values()
    if isinstance(c, type) and issubclass(c, Optimizer) and c is not Optimizer
}


def get(value: str | Optimizer | type) -> Optimizer:
    """The optimizer that a name or object stands for."""
    return resolve("optimizer", value, OPTIMIZERS, Optimizer)
