"""Choices by name: "adam" or Adam(...) or the class itself, with near matches when it is none."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def near_matches(name: str, known: list[str]) -> str:
    """`` Did you mean 'adam'?`` or nothing."""
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def resolve(argument: str, value: Any, known: Mapping[str, type[T]], base: type[T]) -> T:
    """The object that ``value`` stands for: a name in ``known``, an instance, or a class.

    Raises
    ------
    ValueError
        No such name; the message lists the names and the near matches.
    TypeError
        ``value`` is neither a name nor an object of the right kind.
    """
    if isinstance(value, base):
        return value
    if isinstance(value, type) and issubclass(value, base):
        return value()
    if not isinstance(value, str):
        raise TypeError(
            f"{argument}: expected a name or {base.__name__} object, got {type(value).__name__}"
        )
    if value not in known:
        names = sorted(known)
        raise ValueError(
            f"{argument}: unknown name {value!r}.{near_matches(value, names)}"
            f" Known names: {', '.join(names)}"
        )
    return known[value]()


def snake_case(name: str) -> str:
    """``LeakyReLU`` -> ``leaky_relu``: the name that users write for a class."""
    out = ""
    for i, letter in enumerate(name):
        before = name[i - 1] if i else ""
        after = name[i + 1] if i + 1 < len(name) else ""
        if letter.isupper() and (before.islower() or (before.isupper() and after.islower())):
            out += "_"
        out += letter.lower()
    return out


def camel_case(name: str) -> str:
    """``log_cosh`` -> ``LogCosh``: the class of a name."""
    return "".join(part.capitalize() for part in name.split("_"))
