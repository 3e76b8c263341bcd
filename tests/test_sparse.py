"""Inputs that are mostly zeros, of which products leave the zeros out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import op_cases
import pytest
from op_cases import OPS, Case, Run, each_kernels, make_data

import fastnn as fnn

#: Rows, inputs and units: parts of vectors, masks, panels and blocks; weights that are read as they
#: are, by parts of the inputs, or packed; rows of weights half a page apart.
SIZES = [
    (64, 200, 40), (16, 128, 16), (1, 300, 64), (130, 784, 33), (70, 700, 160), (100, 784, 128),
    (17, 1025, 130), (300, 150, 252), (512, 130, 1536), (40, 190, 512), (33, 129, 7),
    (3, 40_000, 20), (600, 140, 36),
]  # fmt: skip
PRODUCTS = [op for op in OPS.values() if op.name.startswith("dense") and op.inputs[0].name == "x"]
each_product = pytest.mark.parametrize("op", PRODUCTS, ids=[op.name for op in PRODUCTS])
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


def mostly_zeros(case: Case) -> op_cases.Data:
    """The case's data, but that one of six numbers of x is not zero."""
    data = make_data(case)
    x = data.blocks["x"]
    x *= np.random.default_rng(case.seed).random(x.shape) < 1 / 6
    return data


def results(kernels: op_cases.Kernels, case: Case, data: op_cases.Data, threads: int) -> dict:
    run = Run(kernels, case, data, threads=threads)
    return {o.name: run.result(o).copy() for o in case.written}


def check(op: op_cases.Op, kernels: op_cases.Kernels, sizes: tuple[int, ...]) -> None:
    """The op gives what its definition gives, and the same bits on any number of threads."""
    case = case_of(op, kernels, sizes)
    kernels = made_for(kernels, case)
    with pytest.MonkeyPatch.context() as patch, op_cases.named(kernels, case):
        patch.setattr(op_cases, "make_data", mostly_zeros)
        op_cases.check_definition(kernels, case)
        op_cases.check_threads(kernels, case)


@each_kernels_and_size
@each_product
def test_definition(kernels, op, sizes):
    check(op, kernels, sizes)


@each_kernels_and_size
@each_product
def test_leaving_zeros_out_changes_no_number(kernels, op, sizes):
    """In a batch most of whose rows have no zeros all numbers are summed: the rows that have them
    get the same results, and where only they have a gradient, so do the weights."""
    case = case_of(op, kernels, sizes)
    few = mostly_zeros(case)
    rows = np.arange(sizes[0])
    full = rows % 10 != min(7, sizes[0] - 1)
    if "dz" in few.blocks:
        few.blocks["dz"][full] = 0
    many = few.copy()
    x = many.blocks["x"]
    x[full] = np.random.default_rng(1).uniform(1, 2, x.shape)[full]
    for threads in (1, 2):
        made = made_for(kernels, case, threads)
        found = [results(made, case, data, threads) for data in (few, many)]
        for name, got, want in ((name, found[0][name], found[1][name]) for name in found[0]):
            if "dz" not in few.blocks:  # the batch is the last but one of the dimensions
                got, want = (np.delete(a, rows[full], axis=-2) for a in (got, want))
            np.testing.assert_array_equal(got, want, err_msg=f"{name}, {threads} threads")


@each_kernels_and_size
@each_product
def test_each_thread_decides_for_itself(kernels, op, sizes):
    """Zeros in half of the rows, or for a gradient by the weights of the columns: of two threads
    one leaves them out, where one alone does not."""
    case = case_of(op, kernels, sizes)
    data = make_data(case)
    x = data.blocks["x"]
    half = x[:, : sizes[1] // 2] if "dz" in data.blocks else x[: (sizes[0] + 1) // 2]
    half *= np.random.default_rng(1).random(half.shape) < 1 / 6
    made = made_for(kernels, case)
    alone = results(made, case, data, 1)
    for threads in (2, 3):
        for name, got in results(made, case, data, threads).items():
            np.testing.assert_array_equal(got, alone[name], err_msg=f"{name}, {threads} threads")


@each_kernels
@pytest.mark.parametrize("threads", [1, 2])
def test_what_meets_only_zeros_is_not_looked_at(kernels, threads):
    """Which shows, for zero times NaN would be NaN."""
    for sizes in ((64, 200, 64), (1, 784, 64)):
        case = case_of(OPS["dense"], kernels, sizes)
        made = made_for(kernels, case, threads)
        data = mostly_zeros(case)
        data.blocks["x"][:, 130:140] = 0
        data.blocks["w"][130:140] = np.nan
        for result in results(made, case, data, threads).values():
            assert np.isfinite(result).all()
        data.blocks["x"][...] = 1
        for result in results(made, case, data, threads).values():
            assert np.isnan(result).any()
    for name in ("dense_dw", "dense_update"):
        case = case_of(OPS[name], kernels, (64, 200, 64))
        made = made_for(kernels, case, threads)
        data = mostly_zeros(case)
        data.blocks["x"][:, 130:140] = 0
        data.blocks["dz"][3] = np.nan
        of_weights = case.written[0]
        got = results(made, case, data, threads)[of_weights.name]
        assert np.isfinite(got[130:140]).all() and np.isnan(got).any()
        data.blocks["x"][...] = 1
        assert np.isnan(results(made, case, data, threads)[of_weights.name]).all()


@pytest.mark.parametrize("backend", ["cython", "numba"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", op_cases.DTYPES)
@pytest.mark.parametrize(
    "sizes", [(64, 784, 128), (100, 300, 500)],
    ids=lambda s: "-".join(map(str, s)),
)  # fmt: skip
def test_models_leave_zeros_out(backend, threads, dtype, sizes):
    """Rows of weight zero, which are full, keep zeros from being left out, and change nothing."""
    if backend == "numba":
        pytest.importorskip("numba")
    rows, inputs, units = sizes
    rng = np.random.default_rng(0)
    few = (rng.normal(size=(rows, inputs)) * (rng.random((rows, inputs)) < 1 / 6)).astype(dtype)
    full = np.arange(rows) % 10 != 7
    many = np.where(full[:, None], rng.uniform(1, 2, few.shape), few).astype(dtype)
    y, weight = rng.integers(0, 10, rows), (~full).astype(dtype)

    def train(X: np.ndarray, weight: np.ndarray, optimizer: str, backend: str = backend) -> list:
        model = fnn.Sequential(
            [fnn.Input(inputs), fnn.layers.Dense(units, "relu"), fnn.layers.Dense(10, "softmax")],
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
        model.fit(X, y, batch_size=rows, epochs=3, sample_weight=weight, shuffle=False, verbose=0)
        return [predicted, *model.get_weights()]

    left_out, all_summed = (train(X, weight, "adam") for X in (few, many))
    for got, want in zip(left_out[1:], all_summed[1:], strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(left_out[0][~full], all_summed[0][~full])
    # A batch all of which counts, against NumPy; Adam would make much of rounding where a gradient
    # is all but zero.
    rtol = 1e-3 if dtype == "float32" else 1e-9
    both = (train(few, weight + 1, "momentum", name) for name in (backend, "numpy"))
    for got, want in zip(*both, strict=True):
        np.testing.assert_allclose(got, want, rtol, rtol / 10)
