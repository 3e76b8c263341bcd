"""What can be said about a class from the class itself: its call, allowed values, docstring."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mathtext import number

REQUIRED = inspect.Parameter.empty

#: Values that no parameter takes: a constructor that refuses one says what it takes instead.
_REFUSED = (math.nan, -(2**31))

_EXPECTED = re.compile(r"(?P<name>\w+): expected (?P<what>.*), got ", re.DOTALL)


@dataclass(frozen=True)
class Argument:
    """An argument of a constructor as users give it."""

    name: str
    default: Any = REQUIRED
    keyword_only: bool = False
    numeric: bool = True

    def __str__(self) -> str:
        return self.name if self.default is REQUIRED else f"{self.name}={value(self.default)}"


def value(given: Any) -> str:
    """A default value as users write it."""
    is_number = isinstance(given, (int, float)) and not isinstance(given, bool)
    return number(given) if is_number else repr(given)


def arguments(make: Callable[..., Any], more: Iterable[Argument] = ()) -> list[Argument]:
    """The arguments of a constructor; ``more`` stand for its ``**given``, if it has that.

    ``**options`` are those of its base, which has an entry of its own.
    """
    found = []
    for p in inspect.signature(make).parameters.values():
        if p.kind is p.VAR_KEYWORD:
            found += [a for a in more if p.name in ("given", "parameters")]
        elif p.kind is not p.VAR_POSITIONAL:
            numeric = re.search(r"\b(int|float)\b", str(p.annotation)) is not None
            found.append(Argument(p.name, p.default, p.kind is p.KEYWORD_ONLY, numeric))
    return found


def call(name: str, given: Iterable[Argument]) -> str:
    """``Dense(units, activation=None, *, use_bias=True)``"""
    words: list[str] = []
    for argument in given:
        # Behind one with a default, what is required has to be named.
        named = argument.keyword_only or (argument.default is REQUIRED and "=" in "".join(words))
        if named and "*" not in words:
            words.append("*")
        words.append(str(argument))
    return f"{name}({', '.join(words)})"


def some_values(given: Iterable[Argument]) -> dict[str, float] | None:
    """Values of the required arguments, all 1; None where one of them is no number."""
    required = [a for a in given if a.default is REQUIRED]
    return {a.name: 1 for a in required} if all(a.numeric for a in required) else None


def allowed(make: Callable[..., Any], given: list[Argument], argument: Argument) -> str:
    """What an argument may be, in the words of the error that another value raises; or nothing."""
    others = some_values(a for a in given if a is not argument)
    if others is None:
        return ""
    for wrong in _REFUSED:
        try:
            make(**others, **{argument.name: wrong})
        except (TypeError, ValueError) as error:
            match = _EXPECTED.match(str(error))
            if match is None or (match["name"] != argument.name and len(given) > 1):
                continue
            what = match["what"].removeprefix("a number ")
            if what != "an integer":
                return what.replace("at least", "a whole number, at least")
    return ""


def parameters(make: Callable[..., Any], given: list[Argument]) -> str:
    """Each argument, its default, what it may be: `` `rho` = 0.9, in [0, 1) ``; no options."""
    parts = []
    for argument in given:
        if isinstance(argument.default, bool):
            continue
        default = "" if argument.default is REQUIRED else f" = {value(argument.default)}"
        what = allowed(make, given, argument)
        parts.append(f"`{argument.name}`{default}{what and ', '}{what}")
    return "; ".join(parts)


def limits(make: Callable[..., Any], given: list[Argument]) -> str:
    """What arguments may be, those that are not free: `` `rate`: in [0, 1) ``."""
    found = {a.name: allowed(make, given, a) for a in given}
    return "; ".join(f"`{n}`: {w}" for n, w in found.items() if w and w != "in (-inf, inf)")


def _paragraphs(doc: str | None) -> list[str]:
    return [" ".join(p.split()) for p in inspect.cleandoc(doc or "").split("\n\n")]


def summary(doc: str | None) -> str:
    """The first paragraph of a docstring, without the list of arguments that may stand first."""
    text = "\n\n".join(_paragraphs(doc))
    return re.sub(r"^\([\w, ]*\)(: |\n\n)", "", text).split("\n\n")[0]


def source(doc: str | None) -> str:
    """What a docstring says behind ``Source:``; nothing where it names none."""
    found = [p.removeprefix("Source: ") for p in _paragraphs(doc) if p.startswith("Source: ")]
    return found[0].removesuffix(".") if found else ""
