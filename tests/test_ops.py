"""Every op, on every provider, level and number type, against its NumPy definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import op_cases
import pytest
from op_cases import (
    CHECKS,
    Case,
    differentiable,
    each_formula,
    each_kernels,
    each_op,
    has_gradient_op,
    named,
)

from fastnn.benchmarks import calls
from fastnn.kernels.aot import executor
from fastnn.kernels.formula import FORMULAS
from fastnn.kernels.op import OPS, Binding
from fastnn.kernels.ref import REFERENCE
from fastnn.kernels.ref.update import PENALTY_BLOCK
from fastnn.layers.images import MOST_PIXELS
from fastnn.runtime import aligned

# ------------------------------------------------------------------ the registries agree


@each_kernels
def test_every_op_has_a_kernel_and_every_kernel_an_op(kernels):
    assert set(kernels.provider.kernels) == set(OPS)
    assert all(kernels.provider.kernels.values())


@each_kernels
def test_every_formula_is_compiled(kernels):
    formulas = {(kind, name): f for kind, found in FORMULAS.items() for name, f in found.items()}
    assert set(kernels.provider.formulas) == set(formulas)
    for key, (loop, companion) in kernels.provider.formulas.items():
        has_companion = key[0] == "optimizer" or "derivative" in formulas[key].companions
        assert loop and bool(companion) == has_companion, key


def test_every_formula_has_a_definition_and_a_docstring():
    assert {k: set(v) for k, v in REFERENCE.items()} == {k: set(v) for k, v in FORMULAS.items()}
    for formula in (f for found in FORMULAS.values() for f in found.values()):
        assert formula.doc and formula.source, formula.name


@each_op
def test_calls_have_room_for_every_op(op):
    for case in op_cases.cases(op, op_cases.KERNELS[0]):
        for name, used in {
            "buffers": op.operands,
            "sizes": op.sizes(case.dims, case.attrs, Binding()),
            "constants": op.constants(case.attrs),
        }.items():
            assert len(used) <= executor.CALL[name].shape[0], f"{case}: {name}"


@pytest.mark.parametrize("op", [o for o in OPS.values() if o.columns == 1], ids=lambda o: o.name)
def test_columns_are_made_of_the_same_columns(op):
    """So that threads can have columns of their own. (More than 1: what is drawn depends on the
    columns' numbers in the whole, which only kernels know; networks with dropout test that.)"""
    compared = 0
    for case in op_cases.cases(op, op_cases.kernels_of("float64"), large=False):
        data = op_cases.make_data(case)
        whole = op_cases.define(case, data)
        columns = next(iter(data.blocks.values())).shape[-1]
        for part in (slice(0, columns // 3), slice(columns // 3, columns)):
            own = {name: block[..., part] for name, block in data.blocks.items()}
            found = op_cases.define(case, replace(data, blocks=own))
            for operand in case.written:
                expected = whole.blocks[operand.name][..., part]
                np.testing.assert_allclose(found.blocks[operand.name], expected, rtol=1e-12)
                compared += expected.size
    assert compared


def test_definitions_and_kernels_agree_on_the_parts_of_a_penalty():
    assert PENALTY_BLOCK == executor.PENALTY_BLOCK


def test_scratch_holds_what_kernels_other_than_products_put_there():
    """The fields of an elastic distortion: two that are smoothed, and one on the way."""
    for dtype in ("float32", "float64"):
        for kernels in calls.providers(dtype):
            needed = 3 * MOST_PIXELS * np.dtype(dtype).itemsize
            assert kernels.scratch_bytes >= needed, kernels.name


@each_kernels
@each_op
def test_the_cases_cover_the_op(kernels, op):
    """Every formula with every choice of optional operands, and batches of no row and of one."""
    found = op_cases.cases(op, kernels)
    wanted = {(attrs.get("function"), absent) for attrs, absent in op_cases.variants(op)}
    assert wanted and wanted == {(c.attrs.get("function"), c.absent) for c in found}
    if "B" in found[0].dims:
        assert {0, 1, kernels.vector + 1, 17} <= {c.dims["B"] for c in found}


# ------------------------------------------------------------------ the kernels


@each_kernels
@each_op
@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__.removeprefix("check_"))
def test_op(kernels, op, check):
    for case in op_cases.cases(op, kernels):
        with named(kernels, case):
            check(kernels, case)


# ------------------------------------------------------------------ NaN and infinity


def _every_other(n: int, start: int) -> np.ndarray:
    return np.arange(n) % 2 == start


@each_kernels
@each_formula("activation")
@pytest.mark.parametrize("start", [0, 1])
def test_nan_passes_through_activations(kernels, formula, start):
    n = 2 * kernels.vector + 3  # whole vectors and a tail
    bad = _every_other(n, start)
    x = np.where(bad, np.nan, np.linspace(-3, 3, n))
    given = op_cases.parameters(formula)
    case = op_cases.pointwise_case(kernels, "activation", n, formula.name, given)
    got, _ = op_cases.apply(kernels, case, x=x)
    assert np.array_equal(np.isnan(got["y"]), bad)


@each_kernels
@each_formula("activation", where=has_gradient_op)
def test_a_nan_gradient_passes_through_activations(kernels, formula):
    n = 2 * kernels.vector + 3
    bad = _every_other(n, 1)
    reads = [name for name in ("x", "y") if formula.derivative_reads(name)]
    given = op_cases.parameters(formula)
    case = op_cases.pointwise_case(kernels, "activation_grad", n, formula.name, given, *reads)
    got, _ = op_cases.apply(kernels, case, dy=np.where(bad, np.nan, 1))
    assert np.array_equal(np.isnan(got["dx"]), bad)


@each_kernels
@each_formula("loss", where=differentiable)
@pytest.mark.parametrize("operand", ["y", "targets"])
@pytest.mark.parametrize("columns", [1, 5])
def test_nan_arrives_in_losses(kernels, formula, operand, columns):
    rows = 2 * kernels.vector + 3
    given = op_cases.parameters(formula)
    case = op_cases.pointwise_case(
        kernels, "pointwise_loss", rows, formula.name, given, "targets", "dy"
    )
    case.dims["O"] = columns
    bad = np.zeros((rows, columns), bool)
    bad[::2, -1] = True
    got, _ = op_cases.apply(kernels, case, **{operand: np.where(bad, np.nan, 0.25)})
    assert np.array_equal(np.isnan(got["rows"]), bad.any(axis=1))
    assert np.array_equal(np.isnan(got["dy"]), bad)


@each_kernels
@each_formula("activation")
def test_activations_of_infinity_are_their_limits(kernels, formula):
    x = np.tile([np.inf, -np.inf], kernels.vector + 1)
    given = op_cases.parameters(formula)
    case = op_cases.pointwise_case(kernels, "activation", len(x), formula.name, given)
    got, want = op_cases.apply(kernels, case, x=x)
    np.testing.assert_allclose(got["y"], want["y"], rtol=4 * np.finfo(kernels.dtype).eps)


# ------------------------------------------------------------------ extreme values

EXTREME = (0.0, 1e-30, 1e-6, 20.0, 50.0, 88.0, 100.0, 710.0, 1000.0, 1e30)


@each_kernels
@each_formula("activation")
def test_activations_of_extreme_values(kernels, formula):
    x = np.array([*EXTREME, *(-v for v in EXTREME)], kernels.dtype)
    given = op_cases.parameters(formula)
    case = op_cases.pointwise_case(kernels, "activation", len(x), formula.name, given)
    got, _ = op_cases.apply(kernels, case, x=x)
    exact = np.empty(len(x))
    with np.errstate(all="ignore"):
        REFERENCE["activation"][formula.name][0](x.astype(float), exact, *given)
    assert np.isfinite(exact).all()
    limits = np.finfo(kernels.dtype)
    np.testing.assert_allclose(got["y"], exact, rtol=8 * limits.eps, atol=limits.tiny)


def _loss_case(kernels, name: str, rows: int, columns: int, *present: str, **attrs) -> Case:
    op = OPS[name]
    absent = frozenset(o.name for o in op.operands if o.optional and o.name not in present)
    # A seed that three divides: the whole batch has just these rows.
    return Case(op, kernels.dtype, {"B": rows, "C": columns}, attrs, absent, seed=6)


LOGITS = np.array([[1000.0, -1000.0], [-1000.0, 1000.0], [1000.0, 1000.0], [-1000.0, -1000.0]])
PROBABILITIES = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5]])


@each_kernels
@pytest.mark.parametrize("present", [("labels",), ("targets",)], ids=lambda p: p[0])
@pytest.mark.parametrize("padding", [0, 45])
@pytest.mark.parametrize("gradient", [(), ("dz",)], ids=["rows", "rows-dz"])
def test_cross_entropy_of_extreme_logits(kernels, present, padding, gradient):
    """By hand: rows -log softmax(z) of the first class, gradient (softmax - one-hot) / rows."""
    z = np.pad(LOGITS, ((0, 0), (0, padding)), constant_values=-2000.0)
    one_hot = np.zeros(z.shape)
    one_hot[:, 0] = 1
    values = {"labels": np.zeros(len(z)), "targets": one_hot}
    case = _loss_case(
        kernels, "softmax_cross_entropy", *z.shape, *present, *gradient, divergence=False
    )
    got, _ = op_cases.apply(kernels, case, z=z, **{present[0]: values[present[0]]})
    eps = np.finfo(kernels.dtype).eps
    rows = [0, 2000, np.log(2), np.log(2)]
    # The targets' sum multiplies the largest logit and is subtracted again: 1000 * eps are lost.
    np.testing.assert_allclose(got["rows"], rows, rtol=4 * eps, atol=1000 * eps)
    if gradient:
        p = np.pad(PROBABILITIES, ((0, 0), (0, padding)))
        np.testing.assert_allclose(got["dz"], (p - one_hot) / len(z), rtol=4 * eps, atol=eps)


@each_kernels
def test_softmax_of_extreme_logits(kernels):
    case = Case(OPS["softmax"], kernels.dtype, {"B": 4, "C": 2}, {}, frozenset(), seed=6)
    got, _ = op_cases.apply(kernels, case, x=LOGITS)
    np.testing.assert_allclose(got["y"], PROBABILITIES, rtol=4 * np.finfo(kernels.dtype).eps)


@each_kernels
def test_sigmoid_cross_entropy_of_extreme_logits(kernels):
    z, t = np.array([1000.0, 1000, -1000, -1000, 0]), np.array([1.0, 0, 1, 0, 1])
    case = op_cases.pointwise_case(
        kernels, "pointwise_loss", len(z), "sigmoid_cross_entropy", (), "targets", "dy"
    )
    case = replace(case, seed=6)
    got, _ = op_cases.apply(kernels, case, y=z[:, None], targets=t[:, None])
    rtol = 4 * np.finfo(kernels.dtype).eps
    np.testing.assert_allclose(got["rows"], [0, 1000, 1000, 0, np.log(2)], rtol=rtol)
    np.testing.assert_allclose(got["dy"][:, 0] * len(z), [0, 1, -1, 0, -0.5], rtol=rtol)


@each_kernels
def test_binary_cross_entropy_of_certain_predictions(kernels):
    """Clipped to [1e-7, 1 - 1e-7], in the kernel's own number type."""
    p, t = np.array([0.0, 0, 1, 1]), np.array([0.0, 1, 0, 1])
    case = op_cases.pointwise_case(
        kernels, "pointwise_loss", len(p), "binary_cross_entropy", (), "targets", "dy"
    )
    got, _ = op_cases.apply(kernels, case, y=p[:, None], targets=t[:, None])
    type_ = np.dtype(kernels.dtype).type
    low, high = type_(1e-7), type_(1) - type_(1e-7)
    want = [-np.log(type_(1) - low), -np.log(low), -np.log(type_(1) - high), -np.log(high)]
    np.testing.assert_allclose(got["rows"], want, rtol=1e-6, atol=1e-13)
    assert np.isfinite(got["dy"]).all()


@each_kernels
def test_cross_entropy_of_impossible_predictions(kernels):
    case = _loss_case(kernels, "cross_entropy", 2, 3, "labels", "dp", floor=1e-7)
    got, _ = op_cases.apply(
        kernels, case, p=[[0.0, 0.5, 0.5], [0.0, 0.5, 0.5]], labels=np.array([0, 1])
    )
    np.testing.assert_allclose(got["rows"], -np.log([1e-7, 0.5]), rtol=1e-6)
    np.testing.assert_allclose(got["dp"], [[-0.5e7, 0, 0], [0, -1, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    "kernels", [k for k in op_cases.KERNELS if k.provider.name.startswith("cython")], ids=str
)
@pytest.mark.parametrize(
    "sizes", [(5, 1, 20), (33, 10, 37), (70, 30, 64), (9, 700, 150), (1, 30, 150)]
)
def test_relu_in_a_product_is_the_formula_to_the_bit(kernels, sizes):
    """Also of NaN, infinities and zeros with a sign, in whole and partial tiles."""
    rows, inputs, units = sizes
    rng, dtype = np.random.default_rng(0), kernels.provider.dtype
    x, w = rng.normal(size=(rows, inputs)).astype(dtype), rng.normal(size=(inputs, units))
    w, bias = (-np.abs(w)).astype(dtype), np.full(units, -0.0, dtype)
    x[0], x[rows // 2, 0], x[-1, -1] = 0, np.nan, np.inf
    if rows == 1:
        x[0, 1:] = rng.normal(size=inputs - 1)
    z, y = np.empty((2, rows, units), dtype)
    run_call(kernels, "dense", (x, w, bias, z), function="identity", parameters=())
    run_call(kernels, "dense", (x, w, bias, y), function="relu", parameters=())
    assert np.isnan(z).any()
    if rows > 1 and inputs <= 512:  # of several blocks of k the sum is +0
        assert (np.signbit(z[0]) & (z[0] == 0)).all()
    assert y.tobytes() == np.where(z < 0, z.dtype.type(0), z).tobytes()

    plain, dx = np.empty((2, rows, inputs), dtype)
    of = rng.normal(size=(rows, inputs)).astype(dtype)
    of.flat[::7] = np.nan
    run_call(kernels, "dense_dx", (z, w, None, None, plain), function="identity", parameters=())
    run_call(kernels, "dense_dx", (z, w, of, None, dx), function="relu", parameters=())
    with np.errstate(invalid="ignore"):
        expected = plain * np.where(of > 0, dx.dtype.type(1), dx.dtype.type(0))
    assert np.array_equal(np.isnan(dx), np.isnan(expected))
    numbers = ~np.isnan(dx)
    assert dx[numbers].tobytes() == expected[numbers].tobytes()


def run_call(kernels, op, operands, **attrs):
    """One call of a kernel on one thread."""
    scratch = aligned(kernels.provider.scratch_bytes)
    step = np.zeros(1, executor.STEP)
    step["scratch"], step["rows"] = scratch.ctypes.data, len(operands[0])
    call = calls.bind(kernels.provider, op, operands, **attrs)
    call["step"] = step.ctypes.data
    executor.time_kernel(call, 0.0)
