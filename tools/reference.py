"""Write docs/reference.md: everything the registries hold, so that nothing can be forgotten.

    python tools/reference.py

What a user can name, the formulas with their derivatives, the ops, and the public classes. All of
it is asked of the registries and of the classes themselves; no name is listed here.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import equations
from describe import (
    REQUIRED,
    Argument,
    arguments,
    call,
    limits,
    parameters,
    some_values,
    source,
    summary,
)

import fastnn as fnn
from fastnn.compiler import Graph, Target, Tensor
from fastnn.kernels import provider
from fastnn.kernels.formula import FORMULAS, Formula
from fastnn.kernels.op import BATCH, OPS, Op, Operand
from fastnn.kernels.provider import Provider
from fastnn.kernels.ref import REFERENCE
from fastnn.lookup import camel_case

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"

#: Kind of formula -> the module in which users find it; other kinds are in layers of their names.
KINDS = {
    "activation": fnn.activations,
    "loss": fnn.losses,
    "penalty": fnn.regularizers,
    "optimizer": fnn.optimizers,
    "schedule": fnn.schedules,
}

HEAD = """\
# Reference

Made by `python tools/reference.py` from the registries; a change here is lost.

Formulas are as in their docstrings. A derivative is what the kernels compute, without what is there
for rounding and NaN; `y` in that of an activation is f(x). `a b` is a product, `|a|` an absolute
value, `clip(x, a, b)` is x between a and b. In an update rule `w` is a weight, `g` its gradient and
`t` = 1, 2, ... the number of the update; in a schedule `k` = 0, 1, ... is that of the step. Numbers
are rounded to six digits. What a parameter may be is what its constructor says when it refuses a
value, the others being at their defaults. `fnn` is `fastnn`.
"""

OPS_NOTE = """\
`B` is the number of rows of a batch, another letter one size, `...` any one shape. `?` marks an
operand that may be absent. Numbers are of the model's own type but for `:double` and `:int32`;
`:feed` is an array of the user's.
"""

_TARGETS = {
    "numbers": "any numbers",
    "counts": "at least 0",
    "shares": "in [0, 1]",
    "signs": "-1 and 1",
}


@dataclass
class Entry:
    """One heading of the page: mathematics, then a list of facts."""

    title: str
    math: list[str] = field(default_factory=list)
    about: str = ""
    computed: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """Markdown."""
        yield from (f"### `{self.title}`", "")
        if self.about:
            yield from (prose(self.about), "")
        if self.math:
            yield from ("```text", *self.math, "```", "")
        if self.computed:
            yield from ("As computed:", "", "```text", *self.computed, "```", "")
        yield from (f"- {name}: {text}" for name, text in self.facts.items() if text)
        yield ""


def prose(text: str) -> str:
    """A docstring's text as Markdown: code stays, and nothing else has a meaning there."""
    parts = re.split(r"(`+[^`]+`+)", text)
    special = re.compile(r"(\*|<(?=[\w/!?])|\b_(?!\w)|(?<!\w)_)")
    return "".join(
        f"`{part.strip('`')}`" if i % 2 else special.sub(r"\\\1", part)
        for i, part in enumerate(parts)
    )


# ---------------------------------------------------------------------------- backends


@cache
def providers() -> dict[str, list[Provider]]:
    """Every function of ``provider`` that makes a Provider: name -> one for each number type.

    Raises
    ------
    ImportError
        A provider stands on an optional package that is missing here.
    """
    found = {}
    for name, make in vars(provider).items():
        own = inspect.isfunction(make) and make.__module__ == provider.__name__
        if own and typing.get_type_hints(make).get("return") is Provider:
            found[name] = [make(dtype) for dtype in ("float32", "float64")]
    return found


def _formula_backends(formula: Formula) -> list[str]:
    key = formula.kind, formula.name
    found = [n for n, made in providers().items() if all(key in p.formulas for p in made)]
    return found + ["numpy"] * (formula.name in REFERENCE[formula.kind])


def _op_backends(*ops: Op) -> list[str]:
    """Those that have all of these ops; NumPy has any, or it is none."""
    made = providers().items()
    found = [n for n, each in made if all(op.name in p.kernels for p in each for op in ops)]
    return [*found, "numpy"]


# ---------------------------------------------------------------------------- what users name


def _title(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def registry(module: ModuleType) -> dict[str, type]:
    """Name -> class, a constant of the module; empty where users name functions, or nothing."""
    for name, value in vars(module).items():
        classes = isinstance(value, dict) and value and all(map(inspect.isclass, value.values()))
        if classes and name.isupper():
            return dict(value)
    return {}


def _aliases(module: ModuleType, name: str) -> list[str]:
    """Other names for the same."""
    named: dict[str, str] = getattr(module, "ALIASES", {})
    classes = registry(module)
    same = [n for n in classes if n != name and classes[n] is classes.get(name)]
    return [*same, *(alias for alias, of in named.items() if of == name)]


def _takes(module: ModuleType, name: str) -> bool:
    """Whether users can write the name as a string and nothing else."""
    if not hasattr(module, "get"):
        return False
    given = inspect.signature(module.get).parameters.values()
    before = ["argument"] * (sum(p.default is p.empty for p in given) - 1)
    try:
        module.get(*before, name)
    except (TypeError, ValueError):
        return False
    return True


def strings(module: ModuleType, name: str) -> list[str]:
    """The strings that stand for what is registered under this name."""
    return [f'`"{n}"`' for n in (name, *_aliases(module, name)) if _takes(module, n)]


@dataclass(frozen=True)
class Choice:
    """Something that users can choose: the call that makes it, and the formula it stands for."""

    module: ModuleType
    name: str
    make: Callable[..., Any]
    given: list[Argument]
    function: str | None
    options: Mapping[str, bool] = field(default_factory=dict)  # that lead to this formula

    @property
    def written(self) -> str:
        """How users write it: the name, other names, the call."""
        found = [] if self.options else strings(self.module, self.name)
        given = [replace(a, default=self.options.get(a.name, a.default)) for a in self.given]
        text = call(f"fnn.{_title(self.module)}.{self.make.__name__}", given)
        return ", ".join([*found, f"`{text}`"])


def _formula_arguments(formula: Formula | None) -> list[Argument]:
    """A formula's parameters as arguments."""
    if formula is None:
        return []
    return [Argument(n, formula.defaults.get(n, REQUIRED)) for n in formula.parameters]


def _flags(given: list[Argument]) -> list[dict[str, bool]]:
    """Each option alone, switched on."""
    return [{a.name: True} for a in given if a.default is False]


def _functions(kind: type, given: list[Argument]) -> Iterator[tuple[Any, dict[str, bool]]]:
    """The formulas that objects of a class stand for, and the options that lead to them."""
    values = some_values(given)
    if values is None:
        yield getattr(kind, "function", None), {}
        return
    seen = []
    for options in ({}, *_flags(given)):
        function = getattr(kind(**values, **options), "function", None)
        if function not in seen:
            seen.append(function)
            yield function, options


def choices(kind: str) -> Iterator[Choice]:
    """Everything that can be chosen; a class once for each formula that it may stand for."""
    formulas = FORMULAS[kind]
    if kind not in KINDS:
        for name, formula in formulas.items():
            if made := getattr(fnn.layers, camel_case(name), None):
                given = arguments(made, _formula_arguments(formula))
                yield Choice(fnn.layers, name, made, given, name)
        return
    module, classes = KINDS[kind], registry(KINDS[kind])
    first = {c: n for n, c in reversed(classes.items())}
    for name in classes or module.names():
        more = _formula_arguments(formulas.get(name))
        if not classes:
            function = name if name in formulas else None
            yield Choice(module, name, getattr(module, name), more, function)
        elif first[classes[name]] == name:
            given = arguments(classes[name], more)
            for function, options in _functions(classes[name], given):
                yield Choice(module, name, classes[name], given, function, options)


# ---------------------------------------------------------------------------- formulas


def formula_entry(formula: Formula, choice: Choice | None) -> Entry:
    """What is known about one formula."""
    rule = formula.kind == "optimizer"
    name = choice.name if choice and not choice.options else formula.name
    entry = Entry(name, formula.doc.split("; ") if rule else [formula.doc])
    if "derivative" in formula.companions:
        slopes, local = equations.derivative(formula)
        texts = [f"{n} = {text}" for n, text in local.items()]
        entry.math += [
            *slopes,
            *(f"    {'     ' if i else 'with '}{t}" for i, t in enumerate(texts)),
        ]
    if not equations.is_stated(formula) and (lines := equations.computed(formula)) != entry.math:
        entry.computed = lines
    entry.facts["Formula"] = f"`{formula.name}`" if name != formula.name else ""
    if choice:
        entry.facts["Written"] = choice.written
        entry.facts["Parameters"] = parameters(choice.make, choice.given)
    else:
        entry.facts["Written"] = "not by users"
        entry.facts["Parameters"] = ", ".join(f"`{n}`" for n in formula.parameters)
    if formula.kind == "loss":
        entry.facts["Targets"] = _TARGETS.get(formula.targets, formula.targets)
    if rule:
        letters = equations.state_letters(formula)
        state = {s: f", called {letters[s]} above" if s in letters else "" for s in formula.state}
        entry.facts["State"] = "; ".join(f"`{slot}`{text}" for slot, text in state.items())
    entry.facts["Source"] = prose(formula.source)
    entry.facts["Backends"] = ", ".join(_formula_backends(formula))
    return entry


def _emitted(choice: Choice) -> list[Op]:
    """The ops of what stands for no formula, with every option, and those of their gradients."""
    graph = Graph()
    x, targets = graph.parameter("x", (BATCH, 2), 0), Tensor("targets", (BATCH, 2))
    for options in ({}, *_flags(choice.given)):
        made = choice.make(**options)
        if isinstance(made, fnn.losses.Loss):
            made.emit(graph, x, Target(None, targets), None)
        else:
            made.emit(graph, x)
    for node in list(graph.nodes):
        if node.op.gradient:
            node.op.gradient(graph, node, *node.outputs)
    return list({node.op.name: node.op for node in graph.nodes}.values())


def op_choice_entry(choice: Choice) -> Entry:
    """What is known about a choice that is an op of its own."""
    ops = _emitted(choice)
    doc = choice.make.__doc__
    entry = Entry(choice.name, [f"{op.name}: {summary(op.define.__doc__)}" for op in ops])
    entry.about = summary(doc)
    entry.facts["Written"] = choice.written
    entry.facts["Parameters"] = parameters(choice.make, choice.given)
    entry.facts["Source"] = prose(source(doc))
    entry.facts["Backends"] = ", ".join(_op_backends(*ops))
    return entry


def kind_entries(kind: str) -> Iterator[Entry]:
    """All formulas of a kind, then what else users can name."""
    found = list(choices(kind))
    by_formula = {c.function: c for c in reversed(found)}
    for formula in FORMULAS[kind].values():
        yield formula_entry(formula, by_formula.get(formula.name))
    yield from (op_choice_entry(c) for c in found if c.function is None)


# ---------------------------------------------------------------------------- ops


def _operand(operand: Operand) -> str:
    type_ = "" if operand.type == "real" else f":{operand.type}"
    return f"{operand.name}{'?' * operand.optional}[{','.join(operand.dims)}]{type_}"


def signature(op: Op) -> str:
    """Operands and shapes: ``x[B,I] w[I,O] b?[O] -> y[B,O]``."""
    if not op.operands:
        return "no operands"
    sides = [" ".join(_operand(o) for o in side) for side in (op.inputs, op.outputs)]
    return f"{sides[0]} -> {sides[1]}".strip()


def _gradient(op: Op) -> str:
    if op.loss_gradient:
        return f"yes, its own output `{op.loss_gradient}`"
    if op.penalty_gradient:
        return f"yes, by `{op.penalty_gradient}`"
    return "yes" if op.gradient else "no"


def op_entry(op: Op) -> Entry:
    """What is known about an op."""
    entry = Entry(op.name, [signature(op), "", summary(op.define.__doc__)])
    names = inspect.signature(op.define).parameters.values()
    keywords = [p.name for p in names if p.kind is p.KEYWORD_ONLY and p.name != "step"]
    entry.facts["Formula"] = f"any {op.formula}" if op.formula else ""
    entry.facts["Attributes"] = ", ".join(f"`{n}`" for n in keywords)
    entry.facts["Gradient"] = _gradient(op)
    entry.facts["Changes"] = ", ".join(f"`{n}`" for n in op.writes)
    entry.facts["In place"] = ", ".join(f"`{out}` in `{of}`" for out, of in op.in_place.items())
    entry.facts["Backends"] = ", ".join(_op_backends(op))
    return entry


# ---------------------------------------------------------------------------- classes


def public_classes(module: ModuleType) -> dict[type, list[str]]:
    """The classes that a module (or package) defines for users, each with its names there."""
    found: dict[type, list[str]] = {}
    for name, kind in vars(module).items():
        own = isinstance(kind, type) and f"{kind.__module__}.".startswith(f"{module.__name__}.")
        if own and not name.startswith("_"):
            found.setdefault(kind, []).append(name)
    return found


def is_base(kind: type) -> bool:
    """Whether a class is there for others to build on; its docstring says so."""
    return (kind.__doc__ or "").startswith("Base")


def modules() -> list[ModuleType]:
    """The modules in which users find, or to which they add, classes of one kind."""
    found = [getattr(fnn, name) for name in fnn.__all__]
    return [m for m in found if isinstance(m, ModuleType) and any(map(is_base, public_classes(m)))]


def class_formula(kind: type) -> Formula | None:
    """The formula whose parameters are those of a class."""
    names = [*getattr(kind, "functions", ()), getattr(kind, "function", None)]
    for formulas, module in KINDS.items():
        if kind.__module__ == module.__name__:
            return next((FORMULAS[formulas][n] for n in names if isinstance(n, str)), None)
    return None


def class_lines(module: ModuleType) -> Iterator[str]:
    """A list of the classes of a module."""
    classes = registry(module)
    for kind, names in public_classes(module).items():
        formula = class_formula(kind)
        given = arguments(kind, _formula_arguments(formula))
        words = [n for n, c in classes.items() if c is kind and _takes(module, n)]
        others = [n for n in names if n != kind.__name__]
        first = [call(kind.__name__, given), *others, *(f'"{w}"' for w in words)]
        yield "- " + ", ".join(f"`{word}`" for word in first)
        yield f"  <br>{prose(summary(kind.__doc__))}"
        if not formula and (text := limits(kind, given)):  # else they are with the formula
            yield f"  <br>Allowed: {text}"
        if found := source(kind.__doc__):
            yield f"  <br>Source: {prose(found)}"
    yield ""


# ---------------------------------------------------------------------------- the page


def page() -> str:
    """The whole page."""
    sections: dict[str, tuple[str, list[Entry]]] = {}
    for kind in sorted(FORMULAS, key=[*KINDS, *FORMULAS].index):
        title = _title(KINDS[kind]).capitalize() if kind in KINDS else f"{kind.capitalize()}s"
        note = prose(summary(KINDS[kind].__doc__)) if kind in KINDS else ""
        sections[title] = note, list(kind_entries(kind))
    sections["Ops"] = OPS_NOTE.rstrip("\n"), [op_entry(op) for op in OPS.values()]
    lines = [HEAD]
    for title, (_, entries) in sections.items():
        names = ", ".join(f"`{e.title}`" for e in entries)
        lines.append(f"- [{title}](#{title.lower()}): {names}")
    lines += ["- [Classes](#classes)", ""]
    for title, (note, entries) in sections.items():
        lines += [f"## {title}", "", *([note, ""] if note else [])]
        for entry in entries:
            lines += entry.lines()
    lines += ["## Classes", ""]
    for module in modules():
        lines += [f"### `fnn.{_title(module)}`", "", prose(summary(module.__doc__)), ""]
        lines += class_lines(module)
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.name}")
