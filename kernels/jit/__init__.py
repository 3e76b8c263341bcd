"""The Numba provider: what is compiled on the machine at hand, when it is first needed.

Importing this package loads no Numba; its modules do.
"""

from __future__ import annotations

import importlib.metadata
import os
import threading
from typing import Any

from ..formula import Formula

OLDEST = (0, 60)

_lock = threading.Lock()
_loops: dict[tuple[Any, ...], tuple[Any, Any]] = {}


def require(what: str) -> None:
    """Raise unless Numba can compile.

    Raises
    ------
    RuntimeError
        Numba is missing, too old, or told by ``NUMBA_DISABLE_JIT`` not to compile.
    """
    needed = f"{what} needs Numba {'.'.join(map(str, OLDEST))} or newer"
    try:
        version = importlib.metadata.version("numba")
    except importlib.metadata.PackageNotFoundError:
        raise RuntimeError(f"{needed}: pip install 'fastnn[numba]'") from None
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise RuntimeError(f"{needed}; {version} is installed: pip install -U numba")
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise RuntimeError(
            f"{what} needs Numba's compiler, but NUMBA_DISABLE_JIT="
            f"{os.environ['NUMBA_DISABLE_JIT']} turns it off; unset it"
        )


def formula_loops(formula: Formula, dtype: str) -> tuple[int, int]:
    """Addresses of a formula's loop and of its companion's, compiled on first use."""
    require(f"the {formula.kind} {formula.name!r}")
    from . import loops

    with _lock:
        key = (formula.kind, formula.function, *formula.companions.values(), dtype)
        if key not in _loops:
            _loops[key] = loops.make(formula, dtype)
        loop, companion = _loops[key]
    return loop.address, companion.address if companion is not None else 0
