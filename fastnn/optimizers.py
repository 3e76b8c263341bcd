"""Optimizers: hyperparameters of the update rules in ``kernels/scalars.py``.

The rule itself runs as one compiled pass over the flat parameters. Every class takes a number or a
schedule as ``learning_rate``.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

from . import checks, formulas, schedules
from .kernels.formula import FORMULAS, Formula
from .lookup import camel_case, near_matches, resolve
from .schedules import Schedule


class Optimizer:
    """Base of all optimizers, and the options that each of them takes beside its own.

    Gradients are those of the loss with its penalties. They are clipped in the order of the
    options; then the rule sees them.

    Parameters
    ----------
    learning_rate
        A number > 0 or a schedule.
    weight_decay
        >= 0, of all weights, biases too. 0 by default.
    decoupled
        Decay by w <- (1 - rate weight_decay) w before the rule, beside its averages (Loshchilov &
        Hutter; Keras). Otherwise coupled: weight_decay w is added to the clipped gradient, as
        PyTorch does but for AdamW. For `SGD` they are the same.
    clip_value
        Clip every number of the gradient to [-clip_value, clip_value].
    clip_norm
        Scale the gradient of each weight array that is longer than this down to this length.
    clip_global_norm
        Scale all gradients together where their common length is above this (Pascanu et al.).
    ema
        Decay in [0, 1) of an average of the weights that is kept beside them,
        average <- ema average + (1 - ema) w after each update; the first update starts it.
        ``model.averaged_weights()`` has it.

    Source: Loshchilov & Hutter, Decoupled weight decay regularization, ICLR 2019; Pascanu, Mikolov
    & Bengio, On the difficulty of training recurrent neural networks, ICML 2013; Polyak & Juditsky,
    Acceleration of stochastic approximation by averaging (1992).
    """

    name: str
    function: str  # the update rule; its parameters are attributes of that name

    def __init__(
        self,
        learning_rate: float | Schedule,
        *,
        weight_decay: float = 0.0,
        decoupled: bool = True,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        clip_global_norm: float | None = None,
        ema: float | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            name = next(iter(unknown))
            known = list(dict.fromkeys(_parameters(type(self)) + _parameters(Optimizer)))
            raise TypeError(
                f"{type(self).__name__}: has no option {name!r}.{near_matches(name, known)}"
                f" Options: {', '.join(known)}"
            )
        self.learning_rate = learning_rate
        self.weight_decay = checks.number("weight_decay", weight_decay, 0)
        self.decoupled = bool(decoupled)
        self.clip_value = _limit("clip_value", clip_value)
        self.clip_norm = _limit("clip_norm", clip_norm)
        self.clip_global_norm = _limit("clip_global_norm", clip_global_norm)
        self.ema = None if ema is None else checks.number("ema", ema, 0, 1, open_high=True)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.name = cls.__dict__.get("name", cls.__dict__.get("function", ""))

    @property
    def decoupled_decay(self) -> float:
        """Share of the rate by which weights decay beside the rule."""
        return self.weight_decay if self.decoupled else 0.0

    @property
    def coupled_decay(self) -> float:
        """Times the weights, added to the gradient."""
        return 0.0 if self.decoupled else self.weight_decay

    @property
    def options(self) -> tuple[Any, ...]:
        """What a compiled program depends on beside the rule and the rate."""
        return (
            self.parameters, self.weight_decay, self.decoupled, self.clip_value, self.clip_norm,
            self.clip_global_norm, self.ema,
        )  # fmt: skip

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of all flat vectors that are kept beside the parameters."""
        return (*self.state, *(("average",) if self.ema is not None else ()))

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
        names = list(FORMULAS["optimizer"][self.function].parameters)
        flags = (n for n in _parameters(type(self)) if n not in (*names, "decoupled"))
        names += [n for n in flags if getattr(self, n, None) is True]
        if self.weight_decay:
            names += ["weight_decay", *([] if self.decoupled else ["decoupled"])]
        limits = ("clip_value", "clip_norm", "clip_global_norm", "ema")
        names += [n for n in limits if getattr(self, n) is not None]
        values = [f"learning_rate={rate}", *(f"{n}={getattr(self, n)!r}" for n in names)]
        return f"{type(self).__name__}({', '.join(values)})"


def _parameters(kind: type) -> list[str]:
    """Names of what a class is made from."""
    return [p.name for p in signature(kind).parameters.values() if p.kind != p.VAR_KEYWORD]


def _limit(name: str, value: float | None) -> float | None:
    return None if value is None else checks.number(name, value, 0, open_low=True)


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

    def __init__(self, learning_rate: float | Schedule = 0.01, **options: Any) -> None:
        super().__init__(learning_rate, **options)


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

    def __init__(
        self, learning_rate: float | Schedule = 0.01, mu: float = 0.9, **options: Any
    ) -> None:
        super().__init__(learning_rate, **options)
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

    def __init__(
        self, learning_rate: float | Schedule = 0.01, epsilon: float = 1e-10, **options: Any
    ) -> None:
        super().__init__(learning_rate, **options)
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
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self.centered = bool(centered)
        if centered:
            self.function = "centered_rmsprop"
        self.rho = checks.number("rho", rho, 0, 1, open_high=True)
        self.epsilon = checks.number("epsilon", epsilon, 0, open_low=True)


class Adam(Optimizer):
    """w <- w - rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon) at update t

    t is 1, 2, ..., with averages m <- beta1 m + (1 - beta1) g and v <- beta2 v + (1 - beta2) g^2.

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
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self.beta1 = checks.number("beta1", beta1, 0, 1, open_high=True)
        self.beta2 = checks.number("beta2", beta2, 0, 1, open_high=True)
        self.epsilon = checks.number("epsilon", epsilon, 0, open_low=True)


class AMSGrad(Adam):
    """Adam with u <- max(u, v) in the place of v: the divisor never shrinks.

    As in PyTorch the maximum is of the uncorrected v.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon
        As for `Adam`.

    Source: Reddi, Kale & Kumar, On the convergence of Adam and beyond, ICLR 2018, algorithm 2.
    """

    function = "amsgrad"


class AdaMax(Adam):
    """w <- w - rate (m / (1 - beta1^t)) / u with u <- max(beta2 u, |g| + epsilon), m as in Adam.

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
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, beta1, beta2, epsilon, **options)


class Nadam(AdaMax):
    """Adam with the momentum of the next step: beta1 m / (1 - beta1^(t + 1)) + (1 - beta1) g /
    (1 - beta1^t) in the place of m / (1 - beta1^t).

    This is the form with a constant beta1. PyTorch and Keras let it rise during the first steps.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon
        As for `Adam`; 0.002 is the paper's rate.

    Source: Dozat, Incorporating Nesterov momentum into Adam, ICLR 2016 workshop.
    """

    function = "nadam"


class AdamW(Adam):
    """Adam with decoupled weight decay: w <- (1 - rate weight_decay) w, then Adam's step.

    The decay does not pass through the averages, as that of an L2 penalty does. It acts on all
    parameters, biases too.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon
        As for `Adam`.
    weight_decay
        >= 0; 0.01 as in PyTorch.

    Source: Loshchilov & Hutter, Decoupled weight decay regularization, ICLR 2019, algorithm 2.
    """

    name = "adamw"

    def __init__(
        self,
        learning_rate: float | Schedule = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, beta1, beta2, epsilon, weight_decay=weight_decay, **options)


class Lion(Optimizer):
    """w <- w - rate sign(beta1 m + (1 - beta1) g); m <- beta2 m + (1 - beta2) g

    Every step has the same length in every parameter: rates are 3 to 10 times smaller than Adam's,
    and a weight decay 3 to 10 times larger.

    Parameters
    ----------
    learning_rate
        A number > 0 or a schedule.
    beta1, beta2
        Weights of the average in the step and in itself, in [0, 1).

    Source: Chen et al., Symbolic discovery of optimization algorithms, NeurIPS 2023.
    """

    function = "lion"

    def __init__(
        self,
        learning_rate: float | Schedule = 0.0001,
        beta1: float = 0.9,
        beta2: float = 0.99,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self.beta1 = checks.number("beta1", beta1, 0, 1, open_high=True)
        self.beta2 = checks.number("beta2", beta2, 0, 1, open_high=True)


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
        self,
        learning_rate: float | Schedule = 1.0,
        rho: float = 0.9,
        epsilon: float = 1e-6,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self.rho = checks.number("rho", rho, 0, 1, open_high=True)
        self.epsilon = checks.number("epsilon", epsilon, 0, open_low=True)


def class_of(formula: Formula, name: str) -> type[Optimizer]:
    """The optimizer class of a formula: its parameters, then the options of all optimizers."""

    def __init__(self: Optimizer, learning_rate: float | Schedule = 0.01, **given: Any) -> None:
        own = {n: given.pop(n) for n in formula.parameters if n in given}
        Optimizer.__init__(self, learning_rate, **given)
        values = formulas.parameters(formula, own)
        vars(self).update(zip(formula.parameters, values, strict=True))

    contents = {
        "__init__": __init__,
        "__doc__": formulas.documentation(formula),
        "__module__": __name__,
        "function": formula.name,
        "name": name,
    }
    return type(camel_case(name), (Optimizer,), contents)


#: Name -> class, of everything a user can name.
OPTIMIZERS: dict[str, type[Optimizer]] = {
    c.name: c
    for c in vars().copy().values()
    if isinstance(c, type) and issubclass(c, Optimizer) and c is not Optimizer
}


def get(value: str | Optimizer | type) -> Optimizer:
    """The optimizer that a name or object stands for."""
    return resolve("optimizer", value, OPTIMIZERS, Optimizer)
