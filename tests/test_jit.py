"""Every formula of ours, compiled by Numba: the checks of the ops that it stands in."""

from __future__ import annotations

import dataclasses

import numpy as np
import op_cases
import pytest

pytest.importorskip("numba")

from fastnn.kernels import provider
from fastnn.kernels.op import OPS


@pytest.fixture(scope="module", params=["float32", "float64"])
def kernels(request):
    """The kernels of Cython with Numba's formulas in them."""
    ours = provider.cython(request.param)
    mixed = dataclasses.replace(ours, name="mixed", formulas={})
    return op_cases.Kernels(mixed, request.param)


@pytest.mark.parametrize("check", [op_cases.check_definition, op_cases.check_nan])
@pytest.mark.parametrize("name", [op.name for op in OPS.values() if op.formula is not None])
def test_formulas_of_numba(kernels, name, check):
    for case in op_cases.cases(OPS[name], kernels, large=False):
        check(kernels, case)


def test_literals_do_not_change_the_type():
    """A literal 1.0 would carry a float32 formula over to float64, and give other bits."""
    import numba

    from fastnn.kernels import source
    from fastnn.kernels.jit import loops

    def formula(x):
        return (x + 1.0) * 0.1 + 2 * x

    made = loops.scalar(source.read(formula), "float32", 1)
    (signature,) = made.signatures
    assert str(made.overloads[signature].signature.return_type) == "float32"

    @numba.njit
    def kernel(x):  # only compiled code can call it
        return made(x)

    assert kernel(np.float32(0.3)) == pytest.approx(formula(0.3), rel=1e-6)
