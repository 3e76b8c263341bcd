"""Matrices that are mostly zeros, of which products leave the zeros out."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import op_cases
import pytest
from op_cases import OPS, Case, Run, each_kernels, make_data

import fastnn as fnn

#: Rows, inputs and units: parts of vectors, masks, panels and blocks; weights that are read as they
#: are, by parts of the inputs, or packed; rows of weights half a page apart, of x too.
SIZES = [
    (64, 200, 40), (16, 128, 32), (1, 300, 64), (130, 784, 33), (70, 700, 160), (100, 784, 128),
    (17, 1025, 130), (300, 150, 252), (512, 130, 1536), (40, 190, 512), (33, 129, 30),
    (3, 40_000, 30), (600, 140, 36), (70, 1024, 160),
]  # fmt: skip
#: Every product of a dense layer, with the factor that has zeros.
PRODUCTS = [
    (op, o.name)
    for op in OPS.values()
    if op.name.startswith("dense")
    for o in op.inputs
    if o.name in ("x", "dz")
]
each_product = pytest.mark.parametrize(
    ("op", "factor"), PRODUCTS, ids=[f"{op.name}-{factor}" for op, factor in PRODUCTS]
)
#: How many of a factor's numbers are not zero: of pixels, and of what leaves a layer of relu.
DENSITY = {"x": 1 / 6, "dz": 0.45}
#: Numbers next to which those of tests are not changed by any of these, though none is zero.
TINY = {"float32": 1e-30, "float64": 1e-200}
#: Kernels made for sizes take a while to compile: for those some must do.
each_kernels_and_size = pytest.mark.parametrize(
    ("kernels", "sizes"),
    [
        pytest.param(kernels, sizes, id=f"{kernels}-{'-'.join(map(str, sizes))}")
        for kernels in op_cases.KERNELS
        for sizes in SIZES[:: 4 if kernels.provider.name == "numba" else 1]
    ],
)


def case_of(op: op_cases.Op, kernels: op_cases.Kernels, sizes: tuple[int, ...]) -> Case:
    """A case of the op: which of its variants, follows from the sizes."""
    sample = op_cases.cases(op, kernels, large=False)
    case = sample[sum(sizes) % len(sample)]
    dims = case.dims | dict(zip("BIO", sizes, strict=True))
    for name, rule in op.infer.items():
        dims[name] = rule(dims)
    case = replace(case, dims=dims)
    if own := [o for o in case.present(op.inputs) if o in op_cases._parameters(op)]:
        dims["P"] = sum(math.prod(case.shape(o)) for o in own)
    return case


def made_for(kernels: op_cases.Kernels, case: Case, threads: int = 1) -> op_cases.Kernels:
    """Kernels for the case's sizes, where they are made: others do not leave zeros out."""
    if kernels.provider.name != "numba":
        return kernels
    from test_numba_backend import special

    return special(kernels, case, threads) or kernels


def mostly_zeros(case: Case, factor: str) -> op_cases.Data:
    """The case's data, but that a factor has few numbers that are not zero."""
    data = make_data(case)
    block = data.blocks[factor]
    kept = np.random.default_rng(case.seed).random(block.shape) < DENSITY[factor]
    rows, columns = np.indices(block.shape)
    if len(block) > 1 or {"x", "dz"} <= data.blocks.keys():
        kept[(rows - columns) % min(block.shape) == 0] = True  # one of each row and column
    block *= kept
    return data


def odd(data: op_cases.Data, seed: int) -> op_cases.Data:
    """The data with odd mantissas: of their products no sum is exact, and none lies halfway between
    two numbers."""
    rng = np.random.default_rng(seed)
    for name in sorted({"x", "dz", "w"} & data.blocks.keys()):
        block = data.blocks[name]
        block *= rng.uniform(0.5, 1, block.shape)
        block.view(f"i{block.itemsize}")[block != 0] |= 1
    return data


def results(kernels: op_cases.Kernels, case: Case, data: op_cases.Data, threads: int) -> dict:
    run = Run(kernels, case, data, threads=threads)
    return {o.name: run.result(o).copy() for o in case.written}


def check(op: op_cases.Op, kernels: op_cases.Kernels, sizes: tuple[int, ...], factor: str) -> None:
    """The op gives what its definition gives, and the same bits on any number of threads."""
    case = case_of(op, kernels, sizes)
    kernels = made_for(kernels, case)
    with pytest.MonkeyPatch.context() as patch, op_cases.named(kernels, case):
        patch.setattr(op_cases, "make_data", partial(mostly_zeros, factor=factor))
        op_cases.check_definition(kernels, case)
        patch.setattr(op_cases, "make_data", lambda case: odd(mostly_zeros(case, factor), 1))
        op_cases.check_threads(kernels, case)


@each_kernels_and_size
@each_product
def test_definition(kernels, op, factor, sizes):
    check(op, kernels, sizes, factor)


@each_kernels_and_size
@each_product
def test_leaving_zeros_out_changes_no_number(kernels, op, factor, sizes):
    """Where zeros are tiny numbers instead, all are summed: to the same."""
    case = case_of(op, kernels, sizes)
    # Tiny numbers show in sums that are zero, and in those that lie halfway between two numbers.
    zeros = odd(mostly_zeros(case, factor), case.seed)
    none = zeros.copy()
    block = none.blocks[factor]
    block[block == 0] = TINY[kernels.dtype]
    for threads in (1, 2):
        made = made_for(kernels, case, threads)
        found, want = (results(made, case, data, threads) for data in (zeros, none))
        for name in found:
            np.testing.assert_allclose(
                found[name], want[name], 0, 1e-20, err_msg=f"{name}, {threads} threads"
            )


@each_kernels_and_size
@each_product
def test_each_thread_decides_for_itself(kernels, op, factor, sizes):
    """Zeros in half of the rows, or for a gradient by the weights of x's columns: of two threads
    one leaves them out, where one alone does not, or leaves out those of dz."""
    case = case_of(op, kernels, sizes)
    data = odd(make_data(case), 1)
    x, dz = data.blocks.get("x"), data.blocks.get("dz")
    rng = np.random.default_rng(1)
    if x is not None and dz is not None:
        half, density = x[:, : x.shape[1] // 2], 0.35 if factor == "x" else 1 / 6
        if factor == "dz":
            dz *= rng.random(dz.shape) < DENSITY["dz"]
    else:
        half, density = data.blocks[factor][: (sizes[0] + 1) // 2], 0.5
    half *= rng.random(half.shape) < density
    made = made_for(kernels, case)
    alone = results(made, case, data, 1)
    for threads in (2, 3):
        for name, got in results(made, case, data, threads).items():
            np.testing.assert_array_equal(got, alone[name], err_msg=f"{name}, {threads} threads")


#: Sizes, where a factor has zeros, what of the other they meet, and the result that has only them.
MEET = [
    ("dense", (64, 200, 64), "x", np.s_[:, 130:140], "w", np.s_[130:140], ...),
    ("dense", (1, 784, 64), "x", np.s_[:, 130:140], "w", np.s_[130:140], ...),
    ("dense_dx", (64, 160, 200), "dz", np.s_[:, 130:140], "w", np.s_[:, 130:140], ...),
    ("dense_dw", (64, 200, 64), "x", np.s_[:, 130:140], "dz", 3, np.s_[130:140]),
    ("dense_update", (64, 200, 64), "x", np.s_[:, 130:140], "dz", 3, np.s_[130:140]),
    ("dense_dw", (64, 200, 72), "dz", np.s_[:, 30:40], "x", 3, np.s_[:, 30:40]),
    ("dense_update", (64, 200, 72), "dz", np.s_[:, 30:40], "x", 3, np.s_[:, 30:40]),
]


@each_kernels
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("name", "sizes", "factor", "zeros", "other", "lost", "finite"),
    MEET,
    ids=[f"{m[0]}-{m[1][0]}-{m[2]}" for m in MEET],
)
def test_what_meets_only_zeros_is_not_looked_at(
    kernels, threads, name, sizes, factor, zeros, other, lost, finite
):
    """Which shows, for zero times NaN would be NaN."""
    case = case_of(OPS[name], kernels, sizes)
    made = made_for(kernels, case, threads)
    data = mostly_zeros(case, factor)
    data.blocks[factor][zeros] = 0
    data.blocks[other][lost] = np.nan
    result = case.written[0].name
    got = results(made, case, data, threads)[result]
    assert np.isfinite(got[finite]).all()
    assert finite is ... or np.isnan(got).any()
    data.blocks[factor][...] = 1
    assert np.isnan(results(made, case, data, threads)[result][finite]).any()


@pytest.mark.parametrize("backend", ["cython", "numba"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", op_cases.DTYPES)
@pytest.mark.parametrize(
    "sizes", [(64, 784, 128), (100, 300, 500)],
    ids=lambda s: "-".join(map(str, s)),
)  # fmt: skip
def test_models_leave_zeros_out(backend, threads, dtype, sizes):
    if backend == "numba":
        pytest.importorskip("numba")
    rows, inputs, units = sizes
    rng = np.random.default_rng(0)
    few = (rng.normal(size=(rows, inputs)) * (rng.random((rows, inputs)) < 1 / 6)).astype(dtype)
    many = np.where(few == 0, TINY[dtype], few).astype(dtype)
    y = rng.integers(0, 10, rows)

    def train(X: np.ndarray, optimizer: str, backend: str = backend) -> list:
        hidden = [fnn.layers.Dense(n, "relu") for n in (units, 140)]
        model = fnn.Sequential(
            [fnn.Input(inputs), *hidden, fnn.layers.Dense(10, "softmax")],
            seed=3,
        )
        model.compile(
            loss="cross_entropy",
            optimizer=optimizer,
            backend=backend,
            threads=threads if backend != "numpy" else 1,
            dtype=dtype,
        )
        predicted = model.predict(X, batch_size=rows)
        model.fit(X, y, batch_size=rows, epochs=3, shuffle=False, verbose=0)
        return [predicted, *model.get_weights()]

    for got, want in zip(train(few, "adam"), train(many, "adam"), strict=True):
        np.testing.assert_array_equal(got, want)
    # Against NumPy; Adam would make much of rounding where a gradient is all but zero.
    rtol = 1e-3 if dtype == "float32" else 1e-9
    both = (train(few, "momentum", name) for name in (backend, "numpy"))
    for got, want in zip(*both, strict=True):
        np.testing.assert_allclose(got, want, rtol, rtol / 10)
