"""Functions of your own, at full speed inside the native loop.

Each decorator takes a plain function of numbers and gives what the library's own functions are:
something that is used by name or as an object wherever they are, on every backend. Numba compiles
it when a model first needs it; the backend ``numpy`` runs it on arrays.

>>> import fastnn as fnn
>>> from math import sin
>>> @fnn.custom.activation
... def snake(x, frequency=1.0):
...     return x + sin(frequency * x) ** 2 / frequency
>>> @snake.derivative
... def _(x, y, frequency):
...     return 1 + sin(2 * frequency * x)
>>> fnn.layers.Dense(16, activation="snake")
Dense(16, activation=snake(frequency=1))
>>> fnn.layers.Dense(16, activation=snake(frequency=2.0))
Dense(16, activation=snake(frequency=2))

A function may use its arguments, numbers of the module around it, the functions of ``math``
(``exp``, ``log``, ``sqrt``, ``sin``, ``tanh``, ``erf``, ``min``, ``max``, ``abs``, ...), and other
such functions. Numbers around it are taken as they are when it is defined. The arguments behind the
fixed ones are its parameters.

A derivative that is not given is found by SymPy (``pip install 'fastnn[custom]'``). One that is
given is compared with central differences, and refused where it is wrong; ``check=False`` turns
that off. ``forget`` removes what was defined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np

from . import activations, checks, losses, metrics, optimizers, regularizers, schedules
from .kernels import source
from .kernels.formula import EVERYTHING, FORMULAS, Formula, Range
from .kernels.ref import REFERENCE
from .kernels.ref.vectorized import on_arrays
from .kernels.source import Source

__all__ = ["activation", "forget", "loss", "metric", "optimizer", "regularizer", "schedule"]

#: What a call has room for, beside the operands.
_MOST = {"activation": 8, "loss": 8, "metric": 8, "regularizer": 7, "schedule": 7, "optimizer": 7}
_MOST_STATE = 4
_MOST_NUMBERS = 14  # of an optimizer: parameters, and what it computes once a step
_TARGETS = ("numbers", "counts", "shares", "signs")


@dataclass(frozen=True)
class Definition:
    """All that a function of a user's consists of: it can be pickled, and set up elsewhere."""

    noun: str  # the decorator
    function: Source
    derivative: Source | None = None
    per_step: Source | None = None
    state: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    domain: Range = EVERYTHING
    targets: str = "numbers"
    check: bool = True

    @property
    def kind(self) -> str:
        """Kind of its formula."""
        return {"metric": "loss", "regularizer": "penalty"}.get(self.noun, self.noun)

    @property
    def name(self) -> str:
        return self.function.name


class OwnFormula(Formula):
    """A formula that a user has written."""

    definition: Definition
    made: Any  # what its decorator gave

    def prepare(self) -> None:
        """Find the derivative, if it needs one that was not given."""
        if self.definition.noun in _DIFFERENTIATED and self.definition.derivative is None:
            _complete(self, derivative=_differentiated(self))


#: Nouns with a derivative: by the formula's first argument, called as these arguments say.
_DIFFERENTIATED = {"activation": ("x", "y"), "loss": ("y", "t"), "regularizer": ("w",)}


def activation(function: Callable | None = None, *, check: bool = True) -> Any:
    """Define an activation ``f(x, *parameters)`` (decorator).

    ``derivative`` of the result registers ``f'(x, y, *parameters)`` with y = f(x); use y alone
    where you can, then x need not be kept.

    Raises
    ------
    TypeError, ValueError
        It is no plain function, uses what a formula cannot, or has the name of one of ours; at the
        derivative: it differs from the function's slope. At the first use: Numba cannot compile it.

    Examples
    --------
    >>> import fastnn as fnn
    >>> @fnn.custom.activation
    ... def bent(x):
    ...     return ((x * x + 1) ** 0.5 - 1) / 2 + x
    >>> fnn.layers.Dense(3, activation=bent)
    Dense(3, activation=bent)
    """
    return _define("activation", function, check=check)


def loss(
    function: Callable | None = None,
    *,
    check: bool = True,
    domain: Range = EVERYTHING,
    targets: str = "numbers",
) -> Any:
    """Define a loss ``l(y, t, *parameters)`` of an output and its target (decorator).

    The loss of a row is the mean over its outputs, times the row's weight. ``derivative`` of the
    result registers ``l'(y, t, *parameters)``, the derivative by y.

    Parameters
    ----------
    check
        Compare a derivative that is given with central differences.
    domain
        Range of the outputs that it is meant for.
    targets
        What it compares with: "numbers", "counts" (at least 0), "shares" (in [0, 1]) or "signs"
        (-1 and 1; 0 and 1 are converted).

    Raises
    ------
    TypeError, ValueError
        As `activation`.

    Examples
    --------
    >>> import fastnn as fnn
    >>> @fnn.custom.loss
    ... def asymmetric(y, t, steep=3.0):
    ...     return steep * (y - t) ** 2 if y < t else (y - t) ** 2
    >>> asymmetric(steep=2.0)
    Asymmetric(steep=2)
    """
    if targets not in _TARGETS:
        raise ValueError(f"targets: expected one of {', '.join(_TARGETS)}, got {targets!r}")
    low, high = domain
    if not low < high:
        raise ValueError(f"domain: expected two numbers (low, high), low < high, got {domain!r}")
    return _define("loss", function, check=check, domain=(low, high), targets=targets)


def metric(function: Callable | None = None) -> Any:
    """Define a metric ``m(y, t, *parameters)``, averaged over outputs and rows (decorator).

    Examples
    --------
    >>> import fastnn as fnn
    >>> @fnn.custom.metric
    ... def within(y, t, distance=0.1):
    ...     return 1.0 if abs(y - t) < distance else 0.0
    >>> within(distance=0.5)
    Within(distance=0.5)
    """
    return _define("metric", function)


def regularizer(function: Callable | None = None, *, check: bool = True) -> Any:
    """Define a penalty ``f(w, *parameters)``, summed over an array of weights (decorator).

    What it gives is called with the factor first. ``derivative`` of it registers
    ``f'(w, *parameters)``.

    Examples
    --------
    >>> import fastnn as fnn
    >>> from math import log
    >>> @fnn.custom.regularizer
    ... def student(w, scale=1.0):
    ...     return log(1 + (w / scale) ** 2)
    >>> student(0.01, scale=2.0)
    Student(0.01, scale=2)
    """
    return _define("regularizer", function, check=check)


def schedule(function: Callable | None = None) -> Any:
    """Define a learning rate ``f(step, rate, *parameters)`` at step 0, 1, 2, ... (decorator).

    What it gives is called with the rate first.

    Examples
    --------
    >>> import fastnn as fnn
    >>> @fnn.custom.schedule
    ... def sawtooth(step, rate, period):
    ...     return rate * (1 - step % period / period)
    >>> fnn.optimizers.SGD(sawtooth(0.1, 100))
    SGD(learning_rate=Sawtooth(0.1, 100))
    """
    return _define("schedule", function)


def optimizer(
    function: Callable | None = None,
    *,
    state: Iterable[str] = (),
    constants: Iterable[str] = (),
) -> Any:
    """Define an update rule of one weight (decorator).

    ``rule(w, g, *state, rate, *parameters, *constants)`` returns the new weight, followed by the
    new state where it has one. What it gives is called with the learning rate first, then the
    parameters by name, and has the options of all optimizers.

    Parameters
    ----------
    state
        Names of the numbers that are kept for each weight, at most 4; they start at 0.
    constants
        Names of numbers that are the same for all weights of a step. ``per_step`` of the result
        registers what computes them: ``f(step, *parameters)`` with step = 1, 2, ...

    Examples
    --------
    >>> import fastnn as fnn
    >>> @fnn.custom.optimizer(state=("v",))
    ... def heavy_ball(w, g, v, rate, mu=0.9):
    ...     new = mu * v - rate * g
    ...     return w + new, new
    >>> heavy_ball(0.01, mu=0.8)
    HeavyBall(learning_rate=0.01, mu=0.8)
    """
    return _define("optimizer", function, state=tuple(state), constants=tuple(constants))


def forget(name: str) -> None:
    """Remove what a user has defined under a name; models that use it keep it.

    Raises
    ------
    ValueError
        Nothing was defined under this name.
    """
    found = [n for n in _made if n[1] == name]
    if not found:
        known = ", ".join(sorted({n for _, n in _made})) or "none"
        raise ValueError(f"forget: nothing of that name was defined: {name!r}; there is {known}")
    for key in found:
        _registry(key[0]).pop(name, None)
        del _made[key]


# ------------------------------------------------------------------ definitions

#: (noun, name) -> the formula that the name stands for now.
_made: dict[tuple[str, str], OwnFormula] = {}
#: Every formula that was made, by its definition.
_known: dict[Definition, OwnFormula] = {}


def _registry(noun: str) -> dict[str, Any]:
    registries: dict[str, dict[str, Any]] = {
        "activation": activations.ALIASES,
        "loss": losses.LOSSES,
        "metric": metrics.METRICS,
        "optimizer": optimizers.OPTIMIZERS,
        "regularizer": regularizers.REGULARIZERS,
        "schedule": schedules.SCHEDULES,
    }
    return registries[noun]


def _define(noun: str, function: Callable | None, **options: Any) -> Any:
    if function is None:  # called with options: the decorator comes next
        return lambda function: _define(noun, function, **options)
    definition = Definition(noun, source.read(function), **options)
    name = definition.name
    ours = name in _registry(noun) or name in FORMULAS[definition.kind]
    if ours and (noun, name) not in _made:
        raise ValueError(f"{noun}: {name!r} is one of fastnn's own names")
    formula = _install(definition)
    made = formula.made
    _name(formula)
    if noun == "optimizer":
        made.per_step = _attach(formula, "per_step")
    elif noun in _DIFFERENTIATED:
        made.derivative = _attach(formula, "derivative")
    return made


def _install(definition: Definition) -> OwnFormula:
    """Make the formula of a definition, and what its decorator gives; it has no name yet."""
    name, kind = definition.name, definition.kind
    _check_room(definition)
    # What was made of an earlier function of this name keeps it.
    unique, number = name, 1
    while unique in FORMULAS[kind].own:
        number += 1
        unique = f"{name}#{number}"
    formula = OwnFormula(
        kind,
        unique,
        _with_source(definition.function),
        "a user's own",
        state=definition.state,
        constants=definition.constants,
        domain=definition.domain,
        targets=definition.targets,
    )
    formula.definition = definition
    _check_runs(formula)
    FORMULAS[kind].own[unique] = formula
    _complete(formula)
    formula.made = _class_of(formula)
    return formula


def _name(formula: OwnFormula) -> None:
    """From now on its name stands for it."""
    noun, name = formula.definition.noun, formula.definition.name
    _made[noun, name] = formula
    _registry(noun)[name] = formula.name if noun == "activation" else formula.made


def _complete(formula: OwnFormula, **parts: Any) -> None:
    """Add companions to a formula, and write its definition on arrays."""
    definition = formula.definition = replace(formula.definition, **parts)
    for part in ("derivative", "per_step"):
        companion = getattr(definition, part)
        if companion is not None:
            formula.companions[part] = _with_source(companion)
    REFERENCE[formula.kind].own[formula.name] = _on_arrays(formula)
    _known[definition] = formula


def _attach(formula: OwnFormula, part: str) -> Callable:
    """The decorator that gives a formula one of its companions."""

    def attach(function: Callable) -> Callable:
        given = source.read(function)
        if part == "derivative":
            _check_signature(formula, given, _DIFFERENTIATED[formula.definition.noun])
            if formula.definition.check:
                _check_derivative(formula, given)
        else:
            _check_signature(formula, given, ("step",))
        _complete(formula, **{part: given})
        return function

    return attach


def _with_source(code: Source) -> Callable:
    function = code.plain()
    function.__defaults__ = tuple(code.defaults.values()) or None
    function.source = code  # type: ignore[attr-defined]
    return function


def _on_arrays(formula: OwnFormula) -> tuple[Callable, ...]:
    """The definition that the backend numpy runs, in the form of ``kernels/ref/formulas.py``."""
    definition = formula.definition
    if definition.noun == "schedule":
        return (definition.function.plain(),)
    if definition.noun == "optimizer":
        return (_rule(formula),)
    value = on_arrays(definition.function)
    derivative: tuple[Callable, ...] = ()
    if definition.derivative is not None:
        derivative = (on_arrays(definition.derivative),)
    if definition.noun == "activation":
        return (lambda x, out, *p: np.copyto(out, value(x, *p)), *derivative)
    return (value, *derivative)


def _rule(formula: OwnFormula) -> Callable:
    """An update rule that changes its arrays in place."""
    definition = formula.definition
    rule = on_arrays(definition.function, results=1 + len(formula.state))
    per_step = definition.per_step.plain() if definition.per_step is not None else None
    count = len(formula.state)

    def update(step: int, w: np.ndarray, g: np.ndarray, *rest: Any) -> None:
        state, (rate, *parameters) = rest[:count], rest[count:]
        constants: Any = per_step(step, *parameters) if per_step is not None else ()
        constants = constants if isinstance(constants, tuple) else (constants,)
        made = rule(w, g, *state, rate, *parameters, *constants)
        for array, new in zip((w, *state), made if count else (made,), strict=True):
            array[...] = new

    return update


# ------------------------------------------------------------------ what users hold


def _class_of(formula: OwnFormula) -> Any:
    """What the decorator gives: it makes the objects that models are made of."""
    noun = formula.definition.noun
    if noun == "activation":

        def make(**parameters: float) -> activations.ActivationFunction:
            return activations.make(formula.name, **parameters)

        make.__name__ = make.__qualname__ = formula.definition.name
        make.__module__ = activations.__name__
        make.__doc__ = formula.doc
        return make
    module = {"loss": losses, "metric": metrics, "optimizer": optimizers,
              "regularizer": regularizers, "schedule": schedules}[noun]  # fmt: skip
    made = module.class_of(formula, formula.definition.name)
    made.__reduce__ = lambda self: (_restored, (formula.definition, dict(vars(self))))
    return made


def _formula_of(definition: Definition) -> OwnFormula:
    """The formula of a definition that comes with a copy or a pickle.

    It takes its name only where nothing has it: what a user has defined since stays.
    """
    formula = _known.get(definition) or _install(definition)
    if (definition.noun, definition.name) not in _made:
        _name(formula)
    return formula


def _restored(definition: Definition, attributes: dict[str, Any]) -> Any:
    """An object of a class that a user has defined, perhaps in another process."""
    restored = object.__new__(_formula_of(definition).made)
    restored.__dict__.update(attributes)
    return restored


def restored_activation(definition: Definition, parameters: tuple[float, ...]) -> Any:
    """An activation function that a user has defined, perhaps in another process."""
    return activations.ActivationFunction(_formula_of(definition).name, parameters)


# ------------------------------------------------------------------ checks


def _check_room(definition: Definition) -> None:
    arguments = [a.arg for a in definition.function.tree.args.args]
    fixed = {
        "activation": ["x"], "loss": ["y", "t"], "metric": ["y", "t"], "regularizer": ["w"],
        "schedule": ["step", "rate"],
        "optimizer": ["w", "g", *definition.state, "rate"],
    }[definition.noun]  # fmt: skip
    name = definition.name
    wanted = f"({', '.join([*fixed, '...', *definition.constants])})"
    ends = arguments[len(arguments) - len(definition.constants) :] == list(definition.constants)
    if definition.noun == "optimizer":
        if arguments[: len(fixed)] != fixed or not ends:
            raise ValueError(f"{name}: expected the arguments {wanted}, got {arguments}")
        if len(definition.state) > _MOST_STATE:
            raise ValueError(
                f"state: expected at most {_MOST_STATE} names, got {len(definition.state)}"
            )
    elif len(arguments) < len(fixed):
        raise ValueError(f"{name}: expected the arguments {wanted}, got {arguments}")
    given = len(arguments) - len(fixed) - len(definition.constants)
    most = _MOST[definition.noun]
    if given > most or given + len(definition.constants) > _MOST_NUMBERS:
        raise ValueError(f"{name}: expected at most {most} parameters, got {given}")
    clash = set(_DIFFERENTIATED.get(definition.noun, ())) & set(arguments[len(fixed) :])
    if clash:
        raise ValueError(f"{name}: a parameter cannot be called {clash.pop()!r}")
    for parameter, value in definition.function.defaults.items():
        checks.number(f"{name}: {parameter}", value)


def _check_signature(formula: OwnFormula, given: Source, operands: tuple[str, ...]) -> None:
    arguments = [a.arg for a in given.tree.args.args]
    count = len(operands) + len(formula.parameters)
    if len(arguments) != count:
        wanted = ", ".join([*operands, *formula.parameters])
        raise ValueError(
            f"{formula.definition.name}: expected a companion with the {count} arguments "
            f"({wanted}), got {arguments}"
        )
    if formula.definition.noun == "activation" and arguments[:2] != ["x", "y"]:
        raise ValueError(
            f"{formula.definition.name}: the derivative's first arguments are x and y, by name: "
            f"which of them it reads decides what is kept, got {arguments[:2]}"
        )


def _example(formula: OwnFormula) -> list[float]:
    """Values of the parameters to try it with."""
    return [formula.defaults.get(name, 0.5) for name in formula.parameters]


def _points(formula: OwnFormula) -> np.ndarray:
    """Numbers to try it at: near and far from 0, or within its domain."""
    rng = np.random.default_rng(0)
    low, high = formula.domain
    if np.isfinite(low) and np.isfinite(high):
        return rng.uniform(low, high, 200)
    if np.isfinite(low) or np.isfinite(high):
        distance = rng.exponential(2.0, 200) + 1e-3
        return low + distance if np.isfinite(low) else high - distance
    return np.concatenate([rng.normal(0, 1, 100), rng.normal(0, 5, 100)])


def _others(formula: OwnFormula, count: int) -> list[np.ndarray]:
    """Numbers for the operands behind the first one that is differentiated by: targets."""
    if formula.definition.kind != "loss":
        return []
    rng = np.random.default_rng(1)
    return [
        {
            "numbers": lambda: rng.normal(0, 2, count),
            "counts": lambda: rng.integers(0, 8, count).astype(float),
            "shares": lambda: rng.uniform(0, 1, count),
            "signs": lambda: rng.choice([-1.0, 1.0], count),
        }[formula.targets]()
    ]


def _check_runs(formula: OwnFormula) -> None:
    """Run it once on numbers, so that what is wrong with it is said where it is defined."""
    definition, name = formula.definition, formula.definition.name
    with np.errstate(all="ignore"):
        if definition.noun == "schedule":
            results: Any = [definition.function.plain()(0.0, 0.1, *_example(formula))]
        elif definition.noun == "optimizer":
            numbers = [0.5] * (3 + len(definition.state) + len(definition.constants))
            example = _example(formula)
            values = [*numbers[: 3 + len(definition.state)], *example, *definition.constants]
            values = [0.5 if isinstance(v, str) else v for v in values]
            made = definition.function.plain()(*values)
            results = made if isinstance(made, tuple) else (made,)
            if len(results) != 1 + len(definition.state):
                raise ValueError(
                    f"{name}: expected {1 + len(definition.state)} results, the new weight and "
                    f"then {list(definition.state)}, got {len(results)}"
                )
        else:
            points = _points(formula)
            arguments = [points, *_others(formula, len(points)), *_example(formula)]
            results = on_arrays(definition.function)(*arguments)
            if not np.isfinite(results).any():
                raise ValueError(f"{name}: gives no finite number anywhere in {formula.domain}")
            return
    for value in results:
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
            raise TypeError(f"{name}: expected numbers to be returned, got {value!r}")


def _check_derivative(formula: OwnFormula, given: Source) -> None:
    """Compare with central differences, away from kinks: where slopes to both sides agree."""
    value, slope = on_arrays(formula.definition.function), on_arrays(given)
    x = _points(formula)
    others, example = _others(formula, len(x)), _example(formula)
    h = 1e-6 * np.maximum(1.0, np.abs(x))
    with np.errstate(all="ignore"):
        middle = value(x, *others, *example)
        right = (value(x + h, *others, *example) - middle) / h
        left = (middle - value(x - h, *others, *example)) / h
        operands = (x, middle) if formula.kind == "activation" else (x, *others)
        found = slope(*operands, *example)
    expected = (left + right) / 2
    scale = np.maximum(1.0, np.abs(expected))
    smooth = np.isfinite(expected) & (np.abs(left - right) < 1e-3 * scale)
    rounding = 1e-9 * np.maximum(1.0, np.abs(middle)) / h  # of the differences
    wrong = smooth & ~(np.abs(found - expected) <= 1e-4 * scale + rounding)
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        names = _DIFFERENTIATED[formula.definition.noun]
        at = f"{names[0]} = {x[i]:.6g}"
        if others:
            at += f", {names[1]} = {others[0][i]:.6g}"
        parameters = zip(formula.parameters, example, strict=True)
        at += "".join(f", {n} = {v:g}" for n, v in parameters)
        raise ValueError(
            f"{formula.definition.name}: its derivative at {at} is {expected[i]:.6g} by central "
            f"differences, the function given says {found[i]:.6g} "
            f"({given.file}, line {given.line}); check=False turns this off"
        )


def _differentiated(formula: OwnFormula) -> Source:
    """The derivative by the first argument, by SymPy."""
    name = formula.definition.name
    try:
        symbolic = import_module(f"{__package__}.symbolic")
    except ImportError:
        raise ImportError(
            f"{name}: has no derivative. Give one, @{name}.derivative, or install SymPy, which "
            "finds it: pip install 'fastnn[custom]'"
        ) from None
    operands = _DIFFERENTIATED[formula.definition.noun]
    found = symbolic.derivative(formula.definition.function, operands, formula.parameters)
    _check_derivative(formula, found)
    return found
