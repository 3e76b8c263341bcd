"""Scalar functions as syntax trees: what of a formula is the same for every target.

A target is a number type of a compiler, arrays of NumPy, symbols of SymPy. Each rewrites the
function's tree and runs it in a namespace of its own; lines keep their numbers, so that whatever a
target has to say about a function names the line of its author.

A function may use its arguments and locals, numbers of its module, the functions in `MATH` (bare,
or as ``math.exp`` and ``np.exp``), and other plain functions of the same sort.
"""

from __future__ import annotations

import ast
import builtins
import copy
import inspect
import linecache
import math
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial, reduce
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .formula import Formula

#: Functions that a formula may call, and further names of theirs.
MATH = {
    "abs": ("fabs", "absolute"), "acos": ("arccos",), "asin": ("arcsin",), "atan": ("arctan",),
    "cos": (), "cosh": (), "erf": (), "exp": (), "expm1": (), "floor": (), "log": (), "log10": (),
    "log1p": (), "log2": (), "max": ("maximum", "fmax"), "min": ("minimum", "fmin"),
    "pow": ("power",), "sign": (), "sin": (), "sinh": (), "sqrt": (), "tan": (), "tanh": (),
}  # fmt: skip
_CANONICAL = {alias: name for name, aliases in MATH.items() for alias in (name, *aliases)}
#: Builtins that mean what they do in Python.
_PLAIN = {"range", "int", "float", "bool", "True", "False"}


@dataclass(frozen=True)
class Source:
    """A function's text with all that it needs; equal texts are equal, and it can be pickled.

    ``file`` and ``line`` say where it stands; ``constants`` are the numbers, and ``helpers`` the
    functions, that it takes from around it.
    """

    name: str
    text: str
    file: str
    line: int
    constants: tuple[tuple[str, float], ...] = ()
    helpers: tuple[tuple[str, Source], ...] = ()

    @property
    def tree(self) -> ast.FunctionDef:
        """Its definition without decorators, annotations and defaults, with its line numbers."""
        definition = ast.parse(self.text).body[0]
        assert isinstance(definition, ast.FunctionDef)
        ast.increment_lineno(definition, self.line - 1)
        definition.decorator_list = []
        definition.returns = None
        definition.args.defaults = []
        for argument in definition.args.args:
            argument.annotation = None
        return definition

    @property
    def defaults(self) -> dict[str, Any]:
        """Default values of its arguments; expressions of numbers only."""
        definition = ast.parse(self.text).body[0]
        assert isinstance(definition, ast.FunctionDef)
        names = [a.arg for a in definition.args.args]
        values = definition.args.defaults
        return {
            name: eval(compile(ast.Expression(value), self.file, "eval"), dict(self.constants))
            for name, value in zip(names[len(names) - len(values) :], values, strict=True)
        }

    @property
    def content(self) -> tuple[Any, ...]:
        """All that its meaning depends on: not where it stands."""
        helpers = tuple((name, helper.content) for name, helper in self.helpers)
        return self.name, self.text, self.constants, helpers

    def plain(self) -> Callable:
        """The function itself, on Python's numbers."""
        names = {name: getattr(math, name) for name in MATH if hasattr(math, name)}
        return run(self, Target(), names | {"abs": abs, "min": min, "max": max, "sign": _sign})


def _sign(x: float) -> float:
    return 1.0 if x > 0 else -1.0 if x < 0 else x


def read(function: Callable) -> Source:
    """The source of a function that was written with ``def``.

    Raises
    ------
    TypeError
        It is no such function.
    ValueError
        Its source cannot be read, or it uses what a formula cannot.
    """
    if not inspect.isfunction(function) or function.__name__ == "<lambda>":
        raise TypeError(f"expected a function written with def, got {function!r}")
    try:
        lines, line = inspect.getsourcelines(function)
    except OSError:
        raise ValueError(
            f"{function.__name__}: its source cannot be read; define it in a file or a notebook"
        ) from None
    text = textwrap.dedent("".join(lines))
    file = inspect.getsourcefile(function) or "<unknown>"
    bare = Source(function.__name__, text, file, max(line, 1))
    definition = ast.parse(text).body[0]
    ast.increment_lineno(definition, bare.line - 1)
    if not isinstance(definition, ast.FunctionDef):
        raise TypeError(f"{function.__name__}: expected a function written with def")
    _check_arguments(bare, definition)
    constants, helpers = {}, {}
    around = inspect.getclosurevars(function)
    known = {**around.globals, **around.nonlocals}
    for name, node in _free_names(definition):
        value = known.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            constants[name] = float(value) if isinstance(value, float) else value
        elif inspect.isfunction(value):
            if value is function:
                raise ValueError(f"{_where(bare, node.lineno)}: {name} calls itself")
            helpers[name] = read(value)
        elif isinstance(value, ModuleType) or _CANONICAL.get(name) or name in _PLAIN:
            pass  # its attributes are looked at when it is rewritten
        else:
            raise ValueError(
                f"{_where(bare, node.lineno)}: {name!r} is neither an argument nor a number nor a "
                f"function that a formula may call: {', '.join(sorted(MATH))}"
            )
    return Source(
        bare.name, text, file, bare.line, tuple(constants.items()), tuple(helpers.items())
    )


def of(formula: Formula, part: str) -> Source:
    """The source of a formula's ``function``, or of a companion by its name."""
    function = formula.function if part == "function" else formula.companions[part]
    return getattr(function, "source", None) or _read_once(function)


@cache
def _read_once(function: Callable) -> Source:
    """Of a registered function, which does not change any more."""
    return read(function)


def from_text(name: str, text: str) -> Source:
    """A source that was made rather than read; its lines can be shown like a file's."""
    file = f"<fastnn {name} {abs(hash(text)):x}>"
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    return Source(name, text, file, 1)


class Refused(ValueError):
    """A formula holds what it cannot; ``line`` counts within its file."""

    def __init__(self, node: ast.AST, message: str) -> None:
        super().__init__(message)
        self.line: int = getattr(node, "lineno", 0)


def _where(source: Source, line: int) -> str:
    """Name, file and line of a function, and the line itself."""
    lines = source.text.splitlines()
    shown = lines[line - source.line].strip() if 0 <= line - source.line < len(lines) else ""
    return f"{source.name} ({source.file}, line {line}: {shown!r})"


def _check_arguments(source: Source, definition: ast.FunctionDef) -> None:
    args = definition.args
    if args.vararg or args.kwarg or args.kwonlyargs or args.posonlyargs:
        raise ValueError(f"{source.name}: expected plain arguments, without *, / and **")


def _bound_names(definition: ast.FunctionDef) -> set[str]:
    """Arguments and locals."""
    names = (n for n in ast.walk(definition) if isinstance(n, ast.Name))
    stored = {n.id for n in names if isinstance(n.ctx, ast.Store)}
    return stored | {a.arg for a in definition.args.args}


def _free_names(definition: ast.FunctionDef) -> Iterator[tuple[str, ast.Name]]:
    """Names that come from around the function, each once, with where it is first used."""
    body = ast.Module([*definition.body, *map(ast.Expr, definition.args.defaults)], [])
    bound = _bound_names(definition)
    found: dict[str, ast.Name] = {}
    for name in (n for n in ast.walk(body) if isinstance(n, ast.Name)):
        if name.id not in bound and not (hasattr(builtins, name.id) and name.id in _PLAIN):
            found.setdefault(name.id, name)
    yield from found.items()


class Target(ast.NodeTransformer):
    """Rewrites a function for one target: names of `MATH` become the canonical ones.

    ``own`` are the names that mean something else in the function at hand.
    """

    own: frozenset[str] = frozenset()

    def compile(self, function: Callable) -> Callable:
        """What the target does with the finished Python function."""
        return function

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        # math.exp and np.exp are exp, math.pi is a number; nothing else has attributes.
        name = _CANONICAL.get(node.attr)
        if name:
            return ast.copy_location(ast.Name(name, node.ctx), node)
        value = getattr(math, node.attr, None)
        if isinstance(value, float):
            return self.visit(ast.copy_location(ast.Constant(value), node))
        raise Refused(node, f"a formula cannot use {ast.unparse(node)!r}")

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in _CANONICAL and node.id not in self.own:
            return ast.copy_location(ast.Name(_CANONICAL[node.id], node.ctx), node)
        return node


def _call(name: str, *arguments: ast.expr) -> ast.expr:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])


class Functional(Target):
    """Choices and logic become calls, for values that are no plain numbers.

    The namespace has ``_choose(test, a, b)``, ``_and(a, b)``, ``_or(a, b)`` and ``_not(a)``.
    """

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        return ast.copy_location(_call("_choose", node.test, node.body, node.orelse), node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        name = "_and" if isinstance(node.op, ast.And) else "_or"
        return ast.copy_location(reduce(partial(_call, name), node.values), node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        made = _call("_not", node.operand) if isinstance(node.op, ast.Not) else node
        return ast.copy_location(made, node)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        sides = [node.left, *node.comparators]
        pairs: list[ast.expr] = [
            ast.Compare(sides[i], [op], [sides[i + 1]]) for i, op in enumerate(node.ops)
        ]
        return ast.copy_location(reduce(partial(_call, "_and"), pairs), node)


def run(source: Source, target: Target, namespace: dict[str, Any]) -> Callable:
    """The function for a target, whose functions of `MATH` are in ``namespace``."""
    scope: dict[str, Any] = dict(namespace)
    scope |= {name: run(helper, target, namespace) for name, helper in source.helpers}
    tree = source.tree
    for statement in tree.body:
        _bind_constants(statement, dict(source.constants))
    mine = copy.copy(target)
    mine.own = frozenset(_bound_names(tree)) | {name for name, _ in source.helpers}
    try:
        tree = mine.visit(tree)
    except Refused as error:
        raise ValueError(f"{_where(source, error.line)}: {error}") from None
    module = ast.fix_missing_locations(ast.Module([tree], []))
    exec(compile(module, source.file, "exec"), scope)
    return target.compile(scope[tree.name])


def _bind_constants(statement: ast.stmt, constants: dict[str, float]) -> None:
    """Numbers from around the function are written into it."""

    class Bind(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            if isinstance(node.ctx, ast.Load) and node.id in constants:
                return ast.copy_location(ast.Constant(constants[node.id]), node)
            return node

    Bind().visit(statement)


def is_expression(source: Source) -> bool:
    """Whether it consists of assignments and a return, so that arrays can go through it."""
    return all(isinstance(s, (ast.Assign, ast.Return, ast.Expr)) for s in source.tree.body) and all(
        is_expression(helper) for _, helper in source.helpers
    )
