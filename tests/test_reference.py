"""The reference page is what the registries say now, and its mathematics is what the code does."""

from __future__ import annotations

import doctest
import importlib
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import op_cases
import pytest
from op_cases import differentiable, each_formula

import fastnn as fnn
from fastnn.kernels.aot import executor
from fastnn.kernels.formula import FORMULAS
from fastnn.kernels.op import OPS

TOOLS = Path(__file__).parents[1] / "tools"

#: Classes that nobody has to be named for: bases beside the ones that say so, and what is plain.
WITHOUT_SOURCE = {
    "callbacks.History",
    "initializers.Constant",
    "initializers.Normal",
    "initializers.Ones",
    "initializers.Uniform",
    "initializers.Zeros",
    "layers.Activation",
    "layers.Flatten",
    "layers.Input",
    "layers.Rescaling",
    "layers.Symbol",
    "layers.Weight",
    "losses.PointwiseLoss",
    "metrics.Accuracy",
    "metrics.MeanAbsoluteError",
    "metrics.MeanSquaredError",
    "regularizers.Penalty",
}


@pytest.fixture(scope="module")
def tools():
    """The modules of the tool."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        names = ("reference", "equations", "describe", "mathtext")
        return SimpleNamespace(**{name: importlib.import_module(name) for name in names})


@pytest.fixture(scope="module")
def page(tools):
    """The page as the tool makes it now."""
    try:
        return tools.reference.page()
    except ImportError as missing:  # of a provider
        pytest.skip(f"the page needs all providers: {missing}")


# ---- the page -----------------------------------------------------------------------------------


def test_the_page_is_up_to_date(tools, page):
    committed = tools.reference.PAGE.read_text(encoding="utf-8")
    if committed != page:
        old, new = committed.splitlines(), page.splitlines()
        at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), -1)
        first = f"line {at + 1} should be {new[at]!r}" if at >= 0 else "its length differs"
        pytest.fail(
            f"docs/reference.md is not what the registries say now ({first}). "
            "Write it again with: python tools/reference.py"
        )


def test_the_page_does_not_depend_on_the_machine_or_the_run(page, tmp_path):
    code = "import sys, reference; sys.stdout.buffer.write(reference.page().encode())"
    paths = [str(TOOLS), *filter(None, [os.environ.get("PYTHONPATH")])]
    other = {
        "FASTNN_ISA": executor.ISA_LEVELS[0],
        "PYTHONHASHSEED": "3",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | other,
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == page
    assert " at 0x" not in page
    assert not re.findall("|".join(executor.ISA_LEVELS), page)


def test_every_registered_name_is_on_the_page(tools, page):
    names = {*OPS, *(name for members in FORMULAS.values() for name in members)}
    names |= {*fnn.activations.names(), *fnn.activations.ALIASES}
    for module in (*tools.reference.KINDS.values(), *tools.reference.modules()):
        names |= set(tools.reference.registry(module))
    assert len(names) > 80
    written = set(re.findall(r'`"?(\w+)"?`', page))
    assert sorted(names - written) == []


def test_every_public_class_is_on_the_page(tools, page):
    assert len(tools.reference.modules()) >= 8
    for module in tools.reference.modules():
        found = tools.reference.public_classes(module)
        assert found
        for kind in found:
            assert f"`{kind.__name__}(" in page
            assert tools.describe.summary(kind.__doc__), f"{kind.__name__} has no docstring"


@pytest.mark.parametrize(
    "page_with_link, target",
    [("README.md", "docs/reference.md"), ("docs/architecture.md", "reference.md")],
)
def test_the_page_can_be_found(page_with_link, target):
    assert f"({target})" in (TOOLS.parent / page_with_link).read_text(encoding="utf-8")


# ---- sources ------------------------------------------------------------------------------------


@each_formula(*FORMULAS)
def test_every_formula_has_a_source_and_a_formula(formula):
    assert formula.source.strip() and formula.doc


def test_every_public_class_has_a_source(tools):
    classes = {
        f"{module.__name__.rpartition('.')[2]}.{kind.__name__}": kind
        for module in tools.reference.modules()
        for kind in tools.reference.public_classes(module)
    }
    missing = {
        name
        for name, kind in classes.items()
        if not tools.describe.source(kind.__doc__) and not tools.reference.is_base(kind)
    }
    assert sorted(missing - WITHOUT_SOURCE) == [], "give them a 'Source: ...'"
    assert sorted(WITHOUT_SOURCE - set(classes)) == [], "no such classes"


# ---- the mathematics ----------------------------------------------------------------------------


def _sign(x):
    return (x > 0) - (x < 0)


FUNCTIONS = {name: getattr(math, name) for name in dir(math)} | {
    "clip": lambda x, low, high: min(max(x, low), high),
    "sign": _sign,
}


def evaluate(text, values):
    """The value of a formula as it stands on the page."""
    text = re.sub(r"\|([^|]*)\|", r"abs(\1)", text).replace(", else ", " else ")
    text = re.sub(r" (if|else|and) ", r"~\1~", text)
    text = re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", text).replace("^", "**").replace("~", " ")
    return eval(text, FUNCTIONS | {"max": max, "min": min, "abs": abs}, values)


#: Kinks and what is between them; nothing for which an exponential overflows.
POINTS = (-30.0, -7.5, -3.0, -1.0, -0.3, -1e-3, 0.0, 1e-3, 0.3, 1.0, 2.5, 3.0, 6.0, 7.5, 30.0)


def _operands(formula):
    """Values of what comes before the parameters."""
    low, high = formula.domain
    points = POINTS
    if math.isfinite(low):
        points = [low + (high - low) * i / 16 for i in range(17)]
    if formula.kind in ("activation", "penalty"):
        return [(point,) for point in points]
    return [(point, other) for point in points for other in (-1.0, 0.0, 0.3, 1.0)]


@each_formula(*FORMULAS, where=differentiable)
def test_derivatives_say_what_the_code_does(tools, formula):
    given = op_cases.parameters(formula)
    slopes, local = tools.equations.derivative(formula)
    names = re.match(r"\w+\((.*?)\)", formula.doc)[1].split(", ")
    assert slopes
    for operands in _operands(formula):
        values = dict(zip([*formula.parameters, *names], [*given, *operands], strict=True))
        arguments = list(operands)
        if formula.kind == "activation":
            values["y"] = formula.function(*operands, *given)
            arguments.append(values["y"])
        for name, text in local.items():
            values[name] = evaluate(text, values)
        want = formula.companions["derivative"](*arguments, *given)
        found = [evaluate(slope.partition(" = ")[2], values) for slope in slopes]
        wanted = list(want) if isinstance(want, tuple) else [want]
        assert found == pytest.approx(wanted, rel=1e-5, abs=1e-6), f"at {operands}"


@each_formula("optimizer")
def test_update_rules_say_what_the_code_does(tools, formula):
    given = op_cases.parameters(formula)
    letters = tools.equations.state_letters(formula)
    for t, gradient in ((1.0, -0.7), (3.0, 0.4), (40.0, 1e-3)):
        state = [0.3 + 0.2 * i for i in range(len(formula.state))]
        if "mean_square" in formula.state:  # which is at least the square of a mean
            state[formula.state.index("mean_square")] = 0.9
        per_step = formula.companions.get("per_step", lambda *_: ())
        arguments = [2.0, gradient, *state, 0.1, *given, *per_step(t, *given)]
        want = formula.function(*arguments)
        values = dict(zip(formula.parameters, given, strict=True))
        values |= {"w": 2.0, "g": gradient, "t": t, "rate": 0.1}
        names = [letters.get(slot, slot) for slot in formula.state]
        values |= zip(names, state, strict=True)
        for line in tools.equations.computed(formula):
            name, _, text = re.sub(" <- ", " = ", line, count=1).partition(" = ")
            values[name] = evaluate(text, values)
        found = [values[name] for name in ("w", *names)]
        assert found == pytest.approx(list(want) if isinstance(want, tuple) else [want], rel=1e-6)


@each_formula("schedule")
def test_schedules_say_what_the_code_does(tools, formula):
    given = op_cases.parameters(formula)
    for step in (0.0, 3.0, 10.0, 25.0, 60.0):
        values = dict(zip(formula.parameters, given, strict=True)) | {"k": step, "rate": 0.1}
        for line in tools.equations.computed(formula):
            name, _, text = line.partition(" = ")
            values[name] = evaluate(text, values)
        assert values["rate(k)"] == pytest.approx(formula.function(step, 0.1, *given), rel=1e-5)


def test_examples_of_the_tool_run(tools):
    result = doctest.testmod(tools.mathtext)
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize(
    "source, text",
    [
        ("a * (b + c) / (d * e)", "a (b + c) / (d e)"),
        ("a / b / c * d", "a d / (b c)"),
        ("a - (b - c)", "a - (b - c)"),
        ("a + -b * c", "a - b c"),
        ("-(a - b)", "b - a"),
        ("(a * b) ** 2", "(a b)^2"),
        ("a ** (b + 1.0)", "a^(b + 1)"),
        ("(-a) ** 2", "(-a)^2"),
        ("2.0 * 3.0 * a * a", "6 a^2"),
        ("1e-8 * a", "1e-8 a"),
        ("exp(a * log(b))", "b^a"),
        ("exp(a * log(b) / c)", "exp(a log(b) / c)"),
        ("a if b > 0.0 else -a if b < 0.0 else c", "a if b > 0, else -a if b < 0, else c"),
        ("(a if b < c else d) * e", "(a if b < c, else d) e"),
        ("1.0 if a > b else (-1.0 if a < b else a - b)", "sign(a - b)"),
        ("a if b > a else b", "min(a, b)"),
        ("0.0 if a < 0.0 else (1.0 if a > 1.0 else a)", "clip(a, 0, 1)"),
        ("(a if b < 1.0 else c) if b > 0.0 else c", "a if 0 < b < 1, else c"),
        ("3.141592653589793 * a", "pi a"),
    ],
)
def test_text_of_expressions(tools, source, text):
    m = tools.mathtext
    assert m.text(m.simplify(m.expression(source))) == text
