"""Build time: ``kernels/scalars.py`` becomes ``scalars.pxi``, compiled loops round every formula.

Each formula turns into an inline function of ``real`` numbers and a loop over it; the C compiler
inlines and vectorises. Update rules turn into functions of whole vectors. The rewrite is small on
purpose:

* a literal ``1.0`` becomes ``<real>1.0``: in C it is a double and would carry every float32
  expression over to float64, at half the speed and with other results;
* ``exp(x)`` becomes ``r_exp(x)``, our own from ``elementary.h``;
* locals are declared, and the values an update rule returns are written through pointers.

Schedules and per-step constants are computed once a step, in double precision, with the C library.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import textwrap
import types
from collections.abc import Iterable
from pathlib import Path

KERNELS = Path(__file__).resolve().parent.parent
HEADER = "# Generated from kernels/scalars.py by kernels/aot/translate.py. Do not edit.\n"


def load_formulas() -> dict:
    """Formulas of ``scalars.py``, loaded without importing an installed or half-built fastnn."""
    package = types.ModuleType("_fastnn_build_kernels")
    package.__path__ = [str(KERNELS)]
    sys.modules[package.__name__] = package
    importlib.import_module(f"{package.__name__}.scalars")
    return importlib.import_module(f"{package.__name__}.formula").FORMULAS


#: Prefix of the functions that a formula may call, by its numeric type.
_FUNCTIONS = {"real": "r_", "vreal": "v_", "double": "libc_"}


class _Rewrite(ast.NodeTransformer):
    """Literals and function names of one numeric type."""

    def __init__(self, type_: str) -> None:
        self.type = type_

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if not isinstance(node.value, (int, float)) or isinstance(node.value, bool):
            raise ValueError(f"formulas hold numbers only, not {node.value!r}")
        if self.type == "vreal":
            return ast.Name(f"v_all(<real>{float(node.value)!r})")
        return ast.Name(f"(<{self.type}>{float(node.value)!r})")

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        if self.type != "vreal":
            return node
        test = node.test
        if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], (ast.Lt, ast.Gt)):
            raise ValueError(f"update rules compare by < and > only, not {ast.unparse(test)!r}")
        sides = [test.left, test.comparators[0]]
        if isinstance(test.ops[0], ast.Gt):
            sides.reverse()
        return ast.Call(ast.Name("v_if_less"), [*sides, node.body, node.orelse], [])

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        node.func = ast.Name(_FUNCTIONS[self.type] + ast.unparse(node.func))
        return node


def _function(name: str, function, type_: str, outputs: Iterable[str] = ()) -> str:
    """One inline function; with ``outputs``, results are written through pointers instead."""
    definition = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(definition, ast.FunctionDef)
    rewrite = _Rewrite(type_)
    arguments = [argument.arg for argument in definition.args.args]
    outputs = list(outputs)
    lines = []
    for statement in definition.body:
        if isinstance(statement, ast.Expr):  # the docstring
            continue
        if isinstance(statement, ast.Assign):
            (target,) = statement.targets
            lines.append(f"cdef {type_} {ast.unparse(target)} = ")
            lines[-1] += ast.unparse(rewrite.visit(statement.value))
        elif isinstance(statement, ast.Return):
            value = statement.value
            assert value is not None
            if not outputs:
                lines.append(f"return {ast.unparse(rewrite.visit(value))}")
                continue
            values = value.elts if isinstance(value, ast.Tuple) else [value]
            # All are computed before any is stored: a rule may read what another output replaces.
            for output, expression in zip(outputs, values, strict=True):
                lines.append(
                    f"cdef {type_} new_{output} = {ast.unparse(rewrite.visit(expression))}"
                )
            lines += [f"{output}[0] = new_{output}" for output in outputs]
        else:
            raise ValueError(f"{name}: formulas cannot use {ast.unparse(statement)!r}")
    signature = [f"{type_} {a}" for a in arguments] + [f"{type_}* {o}" for o in outputs]
    result = "void" if outputs else type_
    body = textwrap.indent("\n".join(lines), "    ")
    return f"cdef inline {result} {name}({', '.join(signature)}) noexcept nogil:\n{body}\n"


def _parameters(formula, type_: str = "real", first: int = 0) -> tuple[str, list[str]]:
    """Declarations that read the parameters from the array ``p``, and their names."""
    names = [f"p_{name}" for name in formula.parameters]
    lines = [f"    cdef {type_} {n} = <{type_}>p[{first + i}]\n" for i, n in enumerate(names)]
    return "".join(lines), names


def _call(name: str, *arguments: str) -> str:
    return f"{name}({', '.join(arguments)})"


def _activation(formula) -> str:
    name = f"activation_{formula.name}"
    derivative = formula.companions["derivative"]
    declare, names = _parameters(formula)
    x = "x[i]" if formula.derivative_reads("x") else "<real>0"
    y = "y[i]" if formula.derivative_reads("y") else "<real>0"
    return (
        _function(f"f_{name}", formula.function, "real")
        + _function(f"d_{name}", derivative, "real")
        + f"cdef void {name}(real* y, int64_t n, const double* p) noexcept nogil:\n"
        + f"    cdef int64_t i\n{declare}    for i in range(n):\n"
        + f"        y[i] = {_call('f_' + name, 'y[i]', *names)}\n"
        + f"cdef void {name}_grad(real* d, const real* x, const real* y, int64_t n,\n"
        + "                      const double* p) noexcept nogil:\n"
        + f"    cdef int64_t i\n{declare}    for i in range(n):\n"
        + f"        d[i] = d[i] * {_call('d_' + name, x, y, *names)}\n"
    )


def _loss(formula) -> str:
    name = f"loss_{formula.name}"
    declare, names = _parameters(formula)
    text = (
        _function(f"f_{name}", formula.function, "real")
        + f"cdef void {name}(const real* y, const real* t, real* out, int64_t n,\n"
        + "                 const double* p) noexcept nogil:\n"
        + f"    cdef int64_t i\n{declare}    for i in range(n):\n"
        + f"        out[i] = {_call('f_' + name, 'y[i]', 't[i]', *names)}\n"
    )
    if "derivative" in formula.companions:
        text += (
            _function(f"d_{name}", formula.companions["derivative"], "real")
            + f"cdef void {name}_grad(const real* y, const real* t, real* out, int64_t n,\n"
            + "                      const double* p) noexcept nogil:\n"
            + f"    cdef int64_t i\n{declare}    for i in range(n):\n"
            + f"        out[i] = {_call('d_' + name, 'y[i]', 't[i]', *names)}\n"
        )
    return text


def _optimizer(formula) -> str:
    """The rule's loop reads ``p`` as rate, parameters, per-step constants.

    It goes by explicit vectors: what a rule costs is its root and its quotient, and only vectors
    have the faster root.
    """
    name = f"optimizer_{formula.name}"
    arrays = ["w", *(f"s_{slot}" for slot in formula.state)]
    numbers = ["rate", *formula.parameters, *formula.constants]
    constants = [f"p_{n}" for n in numbers]

    def block(load: str, store: str, rest: str) -> str:
        operands = [f"{load}({a} + i{rest})" for a in ("w", "g", *arrays[1:])]
        targets = [f"&new_{a}" for a in arrays]
        lines = [_call(f"f_{name}", *operands, *constants, *targets)]
        lines += [f"{store}({a} + i, new_{a}{rest})" for a in arrays]
        return "".join(f"        {line}\n" for line in lines)

    text = (
        _function(f"f_{name}", formula.function, "vreal", [f"out_{a}" for a in arrays])
        + f"cdef void {name}(real* w, const real* g, real** state, int64_t n,\n"
        + "                 const double* p) noexcept nogil:\n    cdef int64_t block, i\n"
        + "".join(f"    cdef real* {a} = state[{i}]\n" for i, a in enumerate(arrays[1:]))
        + "".join(f"    cdef vreal {c} = v_all(<real>p[{i}])\n" for i, c in enumerate(constants))
        + f"    cdef vreal {', '.join(f'new_{a}' for a in arrays)}\n"
        + "    for block in range(n // VLEN):\n        i = block * VLEN\n"
        + block("v_load", "v_store", "")
        + "    i = n // VLEN * VLEN\n    if i < n:\n"
        + block("v_load_n", "v_store_n", ", <int>(n - i)")
    )
    first = 1 + len(formula.parameters)
    text += f"cdef void {name}_per_step(int64_t step, double* p) noexcept nogil:\n"
    if not formula.constants:
        return text + "    pass\n"
    outputs = [f"out_{c}" for c in formula.constants]
    arguments = ["<double>step", *(f"p[{i}]" for i in range(1, first))]
    targets = [f"p + {first + i}" for i in range(len(outputs))]
    step = _function(f"f_{name}_per_step", formula.companions["per_step"], "double", outputs)
    return step + text + f"    {_call(f'f_{name}_per_step', *arguments, *targets)}\n"


def _schedule(formula) -> str:
    name = f"schedule_{formula.name}"
    declare, names = _parameters(formula, "double", first=1)
    call = _call("f_" + name, "<double>step", "p[0]", *names)
    return (
        _function(f"f_{name}", formula.function, "double")
        + f"cdef double {name}(int64_t step, const double* p) noexcept nogil:\n"
        + f"{declare}    return {call}\n"
    )


def _penalty(formula) -> str:
    name = f"penalty_{formula.name}"
    declare, names = _parameters(formula)
    text = ""
    for suffix, prefix, function in (
        ("", "f_", formula.function),
        ("_grad", "d_", formula.companions["derivative"]),
    ):
        text += (
            _function(prefix + name, function, "real")
            + f"cdef void {name}{suffix}(const real* w, real* out, int64_t n,\n"
            + "                  const double* p) noexcept nogil:\n"
            + f"    cdef int64_t i\n{declare}    for i in range(n):\n"
            + f"        out[i] = {_call(prefix + name, 'w[i]', *names)}\n"
        )
    return text


def _merge(formula) -> str:
    name = f"merge_{formula.name}"
    derivative = formula.companions["derivative"]
    declare, names = _parameters(formula)
    return (
        _function(f"f_{name}", formula.function, "real")
        + _function(f"d_{name}", derivative, "real", ["da", "db"])
        + f"cdef void {name}(const real* a, const real* b, real* out, int64_t n,\n"
        + "                 const double* p) noexcept nogil:\n"
        + f"    cdef int64_t i\n{declare}    for i in range(n):\n"
        + f"        out[i] = {_call('f_' + name, 'a[i]', 'b[i]', *names)}\n"
        + f"cdef void {name}_grad(const real* a, const real* b, real* da, real* db, int64_t n,\n"
        + "                      const double* p) noexcept nogil:\n"
        + f"    cdef int64_t i\n{declare}    for i in range(n):\n"
        + f"        {_call('d_' + name, 'a[i]', 'b[i]', *names, 'da + i', 'db + i')}\n"
    )


_TRANSLATORS = {
    "activation": _activation,
    "loss": _loss,
    "optimizer": _optimizer,
    "schedule": _schedule,
    "penalty": _penalty,
    "merge": _merge,
}
#: The companion loop that goes with a formula's own, by kind.
_COMPANIONS = {
    "activation": "_grad",
    "loss": "_grad",
    "optimizer": "_per_step",
    "schedule": None,
    "penalty": "_grad",
    "merge": "_grad",
}


def translate() -> str:
    """The text of ``scalars.pxi``."""
    formulas = load_formulas()
    parts = [HEADER]
    table = ["\ncdef dict formula_table():\n    return {\n"]
    for kind, members in formulas.items():
        for formula in members.values():
            name = f"{kind}_{formula.name}"
            parts.append(_TRANSLATORS[kind](formula))
            companion = _COMPANIONS[kind]
            if kind == "loss" and "derivative" not in formula.companions:
                companion = None
            second = f"<uintptr_t>{name}{companion}" if companion else "0"
            table.append(f"        ({kind!r}, {formula.name!r}): (<uintptr_t>{name}, {second}),\n")
    return "\n".join(parts) + "".join(table) + "    }\n"


def write(path: Path | None = None) -> None:
    """Write ``scalars.pxi``, leaving it alone when nothing changed so that builds stay warm."""
    path = path or KERNELS / "aot" / "scalars.pxi"
    text = translate()
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


if __name__ == "__main__":
    write()
