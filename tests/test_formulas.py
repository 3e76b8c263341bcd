"""Every formula three times: as Python on floats, as NumPy, and compiled; and its derivative."""

from __future__ import annotations

import ast
import inspect
import io
import itertools
import math
import tokenize

import numpy as np
import op_cases
import pytest
from op_cases import Run, differentiable, each_formula, each_kernels, has_gradient_op

from fastnn.kernels.aot import translate
from fastnn.kernels.formula import FORMULAS, Formula
from fastnn.kernels.op import OPS
from fastnn.kernels.ref import REFERENCE

# ------------------------------------------------------------------ activations and losses


def _first_arguments(formula: Formula) -> np.ndarray:
    """Points of the first argument: on a grid through the kinks at zero, and close to zero."""
    low, high = formula.domain
    if math.isfinite(low):
        return low + (high - low) * np.linspace(0.001, 0.999, 401)
    small = np.logspace(-8, 1, 60)
    return np.concatenate([np.linspace(-30, 30, 601), small, -small])


def _points(formula: Formula, dtype: str) -> list[np.ndarray]:
    """The arguments of a formula, as arrays of this type."""
    x = _first_arguments(formula)
    if formula.kind in ("activation", "penalty"):
        return [x.astype(dtype)]
    low, high = formula.domain
    targets = [low, (low + high) / 2, high] if math.isfinite(low) else [0.0, 0.3, 1.0, -2.5]
    # Predictions that meet their targets exactly are where losses have their kinks.
    y, t = np.meshgrid(np.concatenate([x, targets[1:2]]), targets)
    return [y.ravel().astype(dtype), t.ravel().astype(dtype)]


def _scalar(function, *arrays: np.ndarray, given: tuple[float, ...]) -> np.ndarray:
    """A formula's Python function, number by number, in double precision."""
    return np.array(
        [float(function(*map(float, row), *given)) for row in zip(*arrays, strict=True)]
    )


def _values(formula: Formula, points: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """The formula and its derivative by its Python functions."""
    given = op_cases.parameters(formula)
    value = _scalar(formula.function, *points, given=given)
    if not differentiable(formula):
        return value, None
    arguments = [points[0], value] if formula.kind == "activation" else points
    return value, _scalar(formula.companions["derivative"], *arguments, given=given)


def _assert_close(got, want, dtype: str, *terms: np.ndarray) -> None:
    """Within a few ulp of the result, and of the terms that may cancel in it."""
    eps = np.finfo(dtype).eps
    size = 1 + sum((np.abs(t.astype(float)) for t in terms), start=np.zeros(np.shape(want)))
    wrong = ~(np.abs(np.asarray(got, float) - want) <= 16 * eps * np.abs(want) + 4 * eps * size)
    at = np.flatnonzero(wrong)[:5]
    assert not wrong.any(), f"{[t[at] for t in terms]}: {np.ravel(got)[at]}, expected {want[at]}"


@each_formula("activation", "loss", "penalty")
def test_the_scalar_function_is_the_definition(formula):
    points = _points(formula, "float64")
    value, derivative = _values(formula, points)
    given = op_cases.parameters(formula)
    definition = REFERENCE[formula.kind][formula.name]
    with np.errstate(all="ignore"):
        if formula.kind == "activation":
            found = np.empty_like(points[0])
            definition[0](points[0], found, *given)
            slopes = definition[1](points[0], found, *given)
        else:
            found = definition[0](*points, *given)
            slopes = definition[1](*points, *given) if derivative is not None else None
    _assert_close(found, value, "float64", *points)
    if derivative is not None:
        _assert_close(slopes, derivative, "float64", *points)


@each_kernels
@each_formula("activation")
def test_compiled_activations(kernels, formula):
    (x,) = _points(formula, kernels.dtype)
    value, derivative = _values(formula, [x])
    given = op_cases.parameters(formula)
    case = op_cases.pointwise_case(kernels, "activation", len(x), formula.name, given)
    got, _ = op_cases.apply(kernels, case, x=x)
    _assert_close(got["y"], value, kernels.dtype, x)
    if not has_gradient_op(formula):
        return
    reads = [name for name in ("x", "y") if formula.derivative_reads(name)]
    case = op_cases.pointwise_case(kernels, "activation_grad", len(x), formula.name, given, *reads)
    operands = {name: {"x": x, "y": value}[name] for name in reads}
    got, _ = op_cases.apply(kernels, case, dy=1.0, **operands)
    _assert_close(got["dx"], derivative, kernels.dtype, x)


@each_kernels
@each_formula("loss")
def test_compiled_losses(kernels, formula):
    y, t = _points(formula, kernels.dtype)
    value, derivative = _values(formula, [y, t])
    present = ["targets"] + (["dy"] if derivative is not None else [])
    case = op_cases.pointwise_case(
        kernels, "pointwise_loss", len(y), formula.name, op_cases.parameters(formula), *present
    )
    data = op_cases.make_data(case)
    data.blocks["y"][:, 0], data.blocks["targets"][:, 0], data.step.rows = y, t, 1
    run = Run(kernels, case, data)
    _assert_close(run.blocks["rows"], value, kernels.dtype, y, t)
    if derivative is not None:
        _assert_close(run.blocks["dy"][:, 0], derivative, kernels.dtype, y, t)


@each_formula("activation", "loss", "penalty", where=differentiable)
def test_the_derivative_is_that_of_the_function(formula):
    """Against central differences, wherever those from left and right agree."""
    x, *rest = _points(formula, "float64")
    given = op_cases.parameters(formula)
    low, high = formula.domain
    h = 6e-6 * np.clip(np.abs(x), 0.1, 1)
    inside = (x - h > low) & (x + h < high)
    x, h, rest = x[inside], h[inside], [r[inside] for r in rest]
    below, value, above = (
        _scalar(formula.function, x + shift, *rest, given=given) for shift in (-h, 0, h)
    )
    left, right = (value - below) / h, (above - value) / h
    smooth = np.abs(left - right) <= 1e-3 * (1 + np.abs(left) + np.abs(right))
    assert smooth.mean() > 0.9, "nearly all points must be away from kinks"
    _, derivative = _values(formula, [x, *rest])
    central = (above - below) / (2 * h)
    # One-sided quotients differ by h times the second derivative, which may have a kink here.
    rounding = 4 * np.finfo(float).eps * (1 + np.abs(above) + np.abs(below)) / h
    error = np.abs(derivative - central) - np.abs(left - right) - rounding
    worst = int(np.argmax(np.where(smooth, error, -np.inf)))
    assert error[worst] <= 0, f"at {x[worst]}: {derivative[worst]}, by differences {central[worst]}"


@each_formula("activation")
def test_derivatives_read_only_what_they_say(formula):
    """What `derivative_reads` denies is not kept in training, and NULL in a kernel."""
    (x,) = _points(formula, "float64")
    value, derivative = _values(formula, [x])
    given = op_cases.parameters(formula)
    arguments = [
        array if formula.derivative_reads(name) else np.full(len(x), np.nan)
        for name, array in (("x", x), ("y", value))
    ]
    found = _scalar(formula.companions["derivative"], *arguments, given=given)
    assert np.array_equal(found, derivative)


def _is_arithmetic(formula: Formula) -> bool:
    """Whether a formula calls nothing, so that its result is exact in every step."""
    tree = ast.parse(inspect.getsource(formula.function))
    body = tree.body[0].body
    return not any(isinstance(node, ast.Call) for part in body for node in ast.walk(part))


@each_kernels
@each_formula("activation", where=_is_arithmetic)
def test_arithmetic_stays_in_the_number_type(kernels, formula):
    """Parameters are rounded to it, and so is every step: the same bits as NumPy's scalars give."""
    (x,) = _points(formula, kernels.dtype)
    given = op_cases.parameters(formula)
    case = op_cases.pointwise_case(kernels, "activation", len(x), formula.name, given)
    got, _ = op_cases.apply(kernels, case, x=x)
    want = [formula.function(v, *map(x.dtype.type, given)) for v in x]
    assert np.array_equal(got["y"], np.array(want, x.dtype))


# ------------------------------------------------------------------ optimizers and schedules

STEPS = 12


def _gradients(n: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    return rng.uniform(-2, 2, (STEPS, n)) * np.logspace(-3, 1, n)


def _by_hand(
    formula: Formula, w: np.ndarray, gradients: np.ndarray, rate: float, dtype: str = "float64"
) -> list[np.ndarray]:
    """Weights and states after each step, by the scalar rule on Python floats.

    The compiled rule rounds the parameters to its number type; constants of the step are double.
    """
    given = op_cases.parameters(formula)
    rounded = [float(np.dtype(dtype).type(p)) for p in given]
    columns = [[float(v), *(0.0 for _ in formula.state)] for v in w]
    history = []
    for step, g in enumerate(gradients, 1):
        per_step = formula.companions.get("per_step")
        constants = per_step(float(step), *given) if per_step else ()
        for column, value in zip(columns, g, strict=True):
            new = formula.function(column[0], float(value), *column[1:], rate, *rounded, *constants)
            column[:] = new if isinstance(new, tuple) else [new]
        history.append(np.array(columns).T)
    return history


@each_formula("optimizer")
def test_the_scalar_rule_is_the_definition(formula):
    w, gradients = np.linspace(-1, 1, 9), _gradients(9)
    expected = _by_hand(formula, w, gradients, rate=0.05)
    state = [np.zeros(9) for _ in formula.state]
    given = op_cases.parameters(formula)
    (rule,) = REFERENCE["optimizer"][formula.name]
    for step, g in enumerate(gradients, 1):
        before = g.copy()
        rule(step, w, g, *state, 0.05, *given)
        assert np.array_equal(g, before), "the rule changes the gradient"
        np.testing.assert_allclose(
            np.array([w, *state]), expected[step - 1], rtol=1e-12, atol=1e-15
        )


@each_kernels
@each_formula("optimizer")
def test_compiled_rules_over_several_steps(kernels, formula):
    op, n = OPS["update"], 2 * kernels.vector + 3
    states = {f"s{i}" for i in range(len(formula.state))}
    absent = frozenset(o.name for o in op.inputs if o.optional and o.name not in states)
    attrs = {"function": formula.name, "parameters": op_cases.parameters(formula)}
    attrs |= {"weight_decay": 0.0}
    case = op_cases.Case(op, kernels.dtype, {"P": n, "S": 1}, attrs, absent, seed=1)
    data = op_cases.make_data(case)
    data.blocks["segments"][...] = [0, n, 0, 0]
    data.blocks["parameters"][...] = np.linspace(-1, 1, n)
    for name in states:
        data.blocks[name][...] = 0
    gradients = _gradients(n).astype(kernels.dtype)
    w, data.step.rate = data.blocks["parameters"].copy(), 0.0625
    expected = _by_hand(formula, w, gradients, data.step.rate, kernels.dtype)
    eps = np.finfo(kernels.dtype).eps
    for step, g in enumerate(gradients):
        data.step.step, data.blocks["gradients"][...] = step, g
        run = Run(kernels, case, data)
        for name, want in zip(["parameters", *sorted(states)], expected[step], strict=True):
            scale = 8 * eps * (step + 1)
            np.testing.assert_allclose(run.blocks[name], want, rtol=scale, atol=scale)
            data.blocks[name][...] = run.blocks[name]


@each_formula("optimizer")
def test_optimizers_stay_where_the_gradient_is_zero(formula):
    """But for a decay of the weights that is part of the rule."""
    (w,), gradients = np.ones((1, 1)), np.zeros((STEPS, 1))
    given = dict(zip(formula.parameters, op_cases.parameters(formula), strict=True))
    left = (1 - 0.1 * given.get("weight_decay", 0)) ** STEPS
    assert _by_hand(formula, w, gradients, rate=0.1)[-1][0] == pytest.approx(left, rel=1e-13)


@each_formula("optimizer")
def test_optimizers_minimise(formula):
    """w^2 / 2 from w = 1, whose gradient is w."""
    rate = 5.0 if formula.name == "adadelta" else 0.02  # Adadelta's first steps are short
    given = op_cases.parameters(formula)
    column, per_step = [1.0, *(0.0 for _ in formula.state)], formula.companions.get("per_step")
    for step in range(1, 301):
        constants = per_step(float(step), *given) if per_step else ()
        new = formula.function(column[0], column[0], *column[1:], rate, *given, *constants)
        column = list(new) if isinstance(new, tuple) else [new]
    assert abs(column[0]) < 0.6


@each_kernels
@each_formula("schedule")
@pytest.mark.parametrize("warm_up", [0, 4])
def test_schedules(kernels, formula, warm_up):
    given = op_cases.parameters(formula)
    attrs = {"function": formula.name, "parameters": (0.1, *given), "warm_up": warm_up}
    case = op_cases.Case(OPS["schedule"], kernels.dtype, {}, attrs, frozenset(), seed=1)
    data = op_cases.make_data(case)
    (definition,) = REFERENCE["schedule"][formula.name]
    for step in [*range(45), 10**6, 2**40]:
        want = formula.function(float(step), 0.1, *given)
        assert definition(step, 0.1, *given) == pytest.approx(want, rel=1e-12, abs=1e-15)
        # An exponential has no more digits than its number of half-lives leaves it.
        assert want > 0 or step > 1000
        data.step.step = step + warm_up
        found = Run(kernels, case, data).step["rate"][0]
        assert found == pytest.approx(want, rel=1e-12, abs=1e-15)
    for step in range(warm_up):
        data.step.step = step
        want = formula.function(0.0, 0.1, *given) * (step + 1) / (warm_up + 1)
        assert Run(kernels, case, data).step["rate"][0] == pytest.approx(want, rel=1e-14)


# ------------------------------------------------------------------ the build's translation


@pytest.fixture(scope="module")
def translated():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("", ".formula", ".scalars"):  # not to be left behind
            patch.delitem(translate.sys.modules, f"_fastnn_build_kernels{name}", raising=False)
        yield translate.translate()


def test_translated_literals_have_the_number_type(translated):
    """A bare 1.0 is a double in C, and would carry float32 expressions over to double."""
    tokens = list(tokenize.generate_tokens(io.StringIO(translated).readline))
    literals = [
        (before, token)
        for before, token in itertools.pairwise(tokens)
        if token.type == tokenize.NUMBER and not token.string.isdigit()
    ]
    assert len(literals) > 20
    for before, token in literals:
        assert before.string == ">" and token.line[: token.start[1]].endswith(
            ("<real>", "<double>")
        ), token.line


@each_formula("activation", "loss", "optimizer")
def test_translated_formulas_know_no_double(translated, formula):
    """But where parameters come in, and in what is computed once a step."""
    start = translated.index(f"f_{formula.kind}_{formula.name}(")
    stop = translated.index("\n\n", start)
    for line in translated[start:stop].splitlines():
        if "per_step" in line or "constants" in line:
            break
        assert "double" not in line.replace("const double* p", ""), line


def test_translation_covers_every_formula(translated):
    for kind, members in FORMULAS.items():
        for name in members:
            assert f"({kind!r}, {name!r}):" in translated


def _loop(x):
    for _ in range(3):
        x = x * x
    return x


def _branch(x):
    if x > 0.0:
        return x
    return 0.0


def _augmented(x):
    y = x
    y += 1.0
    return y


def _two_targets(x):
    y = z = x
    return y + z


def _word(x):
    return "word"


def _truth(x):
    return True


@pytest.mark.parametrize("function", [_loop, _branch, _augmented, _two_targets, _word, _truth])
def test_untranslatable_formulas_are_refused(function):
    with pytest.raises(ValueError):
        translate._function("f", function, "real")


def test_the_refusal_names_the_formula_and_the_statement():
    with pytest.raises(ValueError, match=r"f_swish: formulas cannot use 'y \+= 1.0'"):
        translate._function("f_swish", _augmented, "real")


# ------------------------------------------------------------------ elementary functions

#: Largest errors that elementary.h and simd.h state, in ulp.
ULP = {"exp": 2.0, "log": 2.0, "sqrt": 0.5, "v_sqrt": 1.0}
OTHERS = 5.0


def _calls(formula: Formula) -> set[str]:
    """Names of the functions that a formula and its derivative call."""
    sources = [formula.function, *formula.companions.values()]
    nodes = [n for f in sources for n in ast.walk(ast.parse(inspect.getsource(f)).body[0])]
    called = {n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    return {name for name in called if hasattr(math, name)}


def _elementary_names() -> list[str]:
    """What pointwise formulas call, and the root that update rules have for whole vectors."""
    kinds = ("activation", "loss")
    found = {name for kind in kinds for f in FORMULAS[kind].values() for name in _calls(f)}
    return [*sorted(found), "sqrt", "v_sqrt"]


def _all_exponents(dtype: str, each: int) -> np.ndarray:
    """Numbers of both signs with every exponent: subnormal, normal, infinite, NaN."""
    unsigned, mantissa, exponents = {
        "float32": (np.uint32, 23, 256),
        "float64": (np.uint64, 52, 2048),
    }[dtype]
    rng = np.random.default_rng(11)
    bits = rng.integers(0, 2**mantissa, (2 * exponents, each), dtype=np.uint64)
    bits[:, 0], bits[:, 1] = 0, 2**mantissa - 1
    bits |= np.arange(2 * exponents, dtype=np.uint64)[:, None] << np.uint64(mantissa)
    return bits.astype(unsigned).view(dtype).ravel()


def _interesting(dtype: str) -> np.ndarray:
    """All exponents, the range in which results are neither 0 nor 1 nor infinite, and edges."""
    rng = np.random.default_rng(12)
    limit = np.finfo(dtype)
    edges = np.array(
        [0.0, 1.0, 2.0, 0.5, np.log(limit.max), np.log(limit.tiny), np.sqrt(0.5), np.log(2) / 2]
    ).astype(dtype)
    near = np.concatenate([edges, -edges])
    for _ in range(3):
        near = np.concatenate([near, np.nextafter(near, -np.inf), np.nextafter(near, np.inf)])
    parts = [
        _all_exponents(dtype, 150 if dtype == "float32" else 24),
        rng.uniform(-1, 1, 20000),
        rng.uniform(-12, 12, 20000),
        rng.uniform(2 * np.log(limit.tiny), 1.1 * np.log(limit.max), 20000),
        np.array([np.inf, -np.inf, np.nan, limit.smallest_subnormal, -limit.smallest_subnormal]),
        near,
    ]
    with np.errstate(over="ignore"):
        return np.concatenate([p.astype(dtype) for p in parts])


def _exact(name: str, x: np.ndarray) -> np.ndarray:
    """NumPy's function, or the C library's in double precision where it has none."""
    if hasattr(np, name):
        return getattr(np, name)(x)
    return np.array([getattr(math, name)(float(v)) for v in x], x.dtype)


each_core = pytest.mark.parametrize(
    "kernels", [k for k in op_cases.KERNELS if hasattr(k.provider.core, "elementary")], ids=str
)


@each_core
@pytest.mark.parametrize("name", _elementary_names())
def test_elementary_functions_are_as_exact_as_stated(kernels, name):
    """Over the whole range, against a wider number type."""
    dtype = np.dtype(kernels.dtype)
    wide = np.float64 if dtype == np.float32 else np.longdouble
    if np.finfo(wide).nmant < dtype.itemsize * 8:
        wide = np.longdouble
    if np.finfo(wide).nmant <= np.finfo(dtype).nmant:
        pytest.skip("no wider number type on this system")
    x = _interesting(kernels.dtype)
    got = np.full_like(x, 7)
    kernels.provider.core.elementary(name, x, got)
    with np.errstate(all="ignore"):
        exact = _exact(name.removeprefix("v_"), x.astype(wide))
        rounded = exact.astype(dtype)
        error = np.abs(got.astype(wide) - exact) / np.spacing(np.abs(rounded)).astype(wide)
    special = ~np.isfinite(rounded)
    assert np.array_equal(got[special], rounded[special], equal_nan=True), x[special][
        got[special] != rounded[special]
    ][:5]
    worst = int(np.argmax(np.where(special, 0, error)))
    assert error[worst] <= ULP.get(name, OTHERS), (
        f"{name}({x[worst]!r}) is {got[worst]!r}, off by {float(error[worst]):.2f} ulp"
    )


@each_core
def test_elementary_functions_by_name(kernels):
    with pytest.raises(ValueError, match="no elementary function 'sinc'"):
        kernels.provider.core.elementary("sinc", *np.zeros((2, 3), kernels.dtype))
