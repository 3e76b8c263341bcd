"""The benchmark of formulas runs, on few numbers and for a moment, and covers the registry."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest

from fastnn.benchmarks import calls, formula_cases, formulas, own_functions, regularized
from fastnn.kernels import provider
from fastnn.kernels.formula import FORMULAS
from fastnn.kernels.op import OPS

pytestmark = pytest.mark.filterwarnings("default")  # those of PyTorch's import are its own


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Status, text and JSON of a run."""
    file = tmp_path_factory.mktemp("benchmark") / "formulas.json"
    quick = ["--rounds", "2", "--seconds", "0.0002", "--small", "0.05", "--large", "0.2"]
    with contextlib.redirect_stdout(io.StringIO()) as text:
        status = formulas.run([*quick, "--json", str(file)])
    return status, text.getvalue(), json.loads(file.read_text())


def _keys(rows):
    return {tuple(row["key"]) for row in rows}


def test_every_formula_is_in_the_output(result):
    status, text, found = result
    assert status in (0, 1)  # 1: a formula seemed slow, in so short a time
    assert "WRONG" not in text
    assert {row["status"] for row in found["without_numbers"]} <= {"nothing"}
    keys = _keys(found["rows"] + found["without_numbers"])
    kinds = list(formula_cases.kinds())
    assert {kind.op.formula for kind in kinds} == set(FORMULAS) - {"schedule"}
    for kernels in calls.providers("float32"):
        for kind in kinds:
            for name in FORMULAS[kind.op.formula]:
                assert name in text
                for size in ("L2", "memory"):
                    assert (kernels.name, kind.name, name, size) in keys


def test_every_row_is_complete(result):
    _, _, found = result
    for row in found["rows"]:
        assert len(row["samples"]) == found["settings"]["rounds"]
        assert min(row["samples"]) > 0 and row["unit"] == "ns/number"
        assert row["bytes_per_number"] > 0 and row["of_copy"] > 0 and row["of_best"] > 0
    assert ("numpy", "activation", "tanh", "L2") in _keys(found["rows"])


@pytest.mark.parametrize(
    ("script", "quick", "rows"),
    [
        (regularized, ["--networks", "tiny", "--threads", "1"], 4),
        (own_functions, [], 2 * 2 * len(own_functions.NAMES)),
    ],
)
def test_benchmarks_of_whole_models(script, quick, rows, tmp_path):
    """They check that both sides train alike before they time them."""
    file = tmp_path / "result.json"
    with contextlib.redirect_stdout(io.StringIO()) as text:
        status = script.run([*quick, "--rounds", "2", "--seconds", "0.001", "--json", str(file)])
    assert status == 0 and "WRONG" not in text.getvalue()
    found = json.loads(file.read_text())["rows"]
    assert len(found) == rows == len(_keys(found))
    assert all(min(row["samples"]) > 0 for row in found)


def test_reasons_are_of_formulas_that_exist():
    for op, reasons in formulas.REASONS.items():
        assert set(reasons) <= set(FORMULAS[OPS[op].formula])


def test_bytes_are_counted_from_the_operands():
    def per_number(op, formula):
        kind = next(kind for kind in formula_cases.kinds() if kind.op.name == op)
        case = formula_cases.Case(kind, FORMULAS[kind.op.formula][formula], 1 << 20, "float32")
        return case.bytes / case.numbers

    assert per_number("activation", "tanh") == 8
    assert per_number("activation_grad", "relu") == 12  # dy and y, and dx in place of dy
    assert per_number("update", "adam") == pytest.approx(
        28, rel=1e-4
    )  # g once; w and two states twice


def test_a_wrong_kernel_is_not_timed(monkeypatch):
    right = provider.cython("float32")
    kernels = right.formulas | {("activation", "tanh"): right.formulas["activation", "sigmoid"]}
    wrong = provider.Provider(
        "wrong", right.dtype, right.kernels, kernels, right.scratch_bytes, right.core
    )
    monkeypatch.setattr(formulas, "pytorch", lambda operands: None)
    kind = next(kind for kind in formula_cases.kinds() if kind.op.name == "activation")
    memory, tile = np.zeros(1 << 20, np.uint8), formula_cases.UNIT
    group = formulas.Group(kind, formulas.Size("L2", 1 << 16))
    turns = list(formulas.participants(group, [wrong], tile, tile, memory, "float32"))
    assert [row.key[2] for row in group.rows if row.status == "wrong"] == ["tanh"]
    assert ("wrong", "tanh") not in [(row.who, row.case.formula.name) for row, *_ in turns]


def test_a_slow_formula_needs_a_reason(monkeypatch):
    kind = next(kind for kind in formula_cases.kinds() if kind.op.name == "activation")
    groups = []
    for size in (formulas.Size("L2", 1), formulas.Size("memory", 2)):
        group = formulas.Group(kind, size, copies=[50.0])
        for name, ns in (("relu", 0.1), ("tanh", 0.5)):
            case = formula_cases.Case(kind, kind.formulas[name], 4096, "float32")
            group.rows.append(formulas.Row("ours", case, size.name, [ns]))
        groups.append(group)
    lines, bad = formulas.remarks(groups, "ours")
    assert not bad and any("tanh, 20% in L2" in line and "exponential" in line for line in lines)
    monkeypatch.setattr(formulas, "REASONS", {})
    lines, bad = formulas.remarks(groups, "ours")
    assert bad and any("NO REASON" in line for line in lines)
