"""Measuring which kernels suit a model on this machine."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import checks
from .compiler import Program
from .kernels import jit
from .kernels.aot import executor
from .report import Table, call_title, operand_shapes
from .runtime import NativeRunner, blas_threads, signature

if TYPE_CHECKING:
    from .model import Model

#: What is measured in turn: the first is what runs without tuning.
CANDIDATES = ("cython", "numba", "blas")
#: Turns of each candidate, and seconds of a turn.
ROUNDS, SECONDS = 7, 0.002
#: Seconds that all the measuring takes at most.
MOST_SECONDS = 6.0
#: Share of the time that another kernel must save to be taken.
LEAST_GAIN = 0.03


def tune(model: Model, batch_size: int = 32, *, again: bool = False) -> Table:
    """Measure, for each call of a model's training step, whose kernel is the fastest here.

    Candidates are the kernels of Cython and of Numba, and for products on one thread SciPy's BLAS,
    if SciPy and threadpoolctl are installed.

    From then on the model runs with these kernels, until it is compiled again; ``explain`` shows
    them. The choice is kept on disk, for this processor and these versions, and is taken from there
    the next time. Models that are not tuned run on the Cython kernels alone, so their results do
    not depend on what was measured: other kernels round otherwise. Copies and pickles of a tuned
    model are not tuned.

    A batch of another size uses the same choice. Kernels that would have to be compiled for it are
    compiled while training goes on with Cython's, and are taken as soon as they are there: in that
    run, the last bits of a result depend on when that was. Where threads divide a step of
    ``train_on_batch`` in another way than one of ``fit``, it keeps Cython's kernels.

    Parameters
    ----------
    model
        A built and compiled model of the backend ``"auto"``.
    batch_size
        Rows of a batch, as for ``fit``.
    again
        Measure also what is known.

    Returns
    -------
    Table
        For each call, microseconds by provider, and the choice. Empty times are of what was known.

    Raises
    ------
    ValueError
        The model was compiled for one backend, or with ``deterministic="any-threads"``.
    ImportError
        Numba is missing or too old.

    Examples
    --------
    >>> import fastnn as fnn
    >>> model = fnn.Sequential([fnn.Input((8,)), fnn.layers.Dense(1)])
    >>> model.compile("mse")
    >>> table = fnn.tune(model, batch_size=64)  # doctest: +SKIP
    """
    size = checks.positive_int("batch_size", batch_size)
    model.explain(size)  # raises unless it is built and compiled
    if model.asked_backend != "auto":
        raise ValueError(
            f"model: expected one compiled with backend='auto', got {model.asked_backend!r}"
        )
    if model.deterministic == "any-threads":
        raise ValueError(
            "model: other kernels round otherwise, and which are chosen depends on the threads; "
            "expected one compiled without deterministic='any-threads'"
        )
    jit.require("fnn.tune")
    program = model.candidates(size, CANDIDATES[:1])[CANDIDATES[0]].program
    usable = [name for name in CANDIDATES if name != "blas" or _blas_fits(program)]
    runners = model.candidates(size, usable)
    stored = {} if again else load()
    known = {name: choice for name, choice in stored.items() if choice in usable}
    names = [signature(node, program) for node in program.nodes]
    wanted = [i for i, name in enumerate(names) if name not in known]
    times = _measure(runners, size, wanted)
    for i, measured in times.items():
        known[names[i]] = _best(measured)
    save(known)
    model.choose({name: known[name] for name in names})
    return _table(program, names, known, times)


def _blas_fits(program: Program) -> bool:
    """Whether BLAS is there to be limited to one thread, which is all that the program has."""
    found = all(importlib.util.find_spec(name) for name in ("scipy", "threadpoolctl"))
    return found and program.split.threads == 1


def _best(times: Mapping[str, float]) -> str:
    fastest = min(times, key=lambda name: times[name])
    first = CANDIDATES[0]
    return fastest if times[fastest] < (1 - LEAST_GAIN) * times[first] else first


def _measure(
    runners: Mapping[str, NativeRunner], batch: int, calls: list[int]
) -> dict[int, dict[str, float]]:
    """Seconds of each call by provider: the least of some turns."""
    tables = {name: runner.ready_table(batch) for name, runner in runners.items()}
    found: dict[int, dict[str, float]] = {}
    program = runners[CANDIDATES[0]].program
    end = time.perf_counter() + MOST_SECONDS
    rounds = ROUNDS
    with blas_threads("blas" in runners):
        for i in calls:
            if time.perf_counter() > end:
                rounds = 2
            turns: dict[str, list[float]] = {name: [] for name in tables}
            for _ in range(rounds):
                for name, table in tables.items():
                    if name != "blas" or program.nodes[i].op.name in jit.BLAS_OPS:
                        turns[name].append(executor.time_kernel(table[0, i : i + 1], SECONDS))
            found[i] = {name: min(seconds) for name, seconds in turns.items() if seconds}
    return found


def _table(
    program: Program, names: list[str], known: Mapping[str, str], times: Mapping[int, Any]
) -> Table:
    rows = []
    for i, node in enumerate(program.nodes):
        found = times.get(i, {})
        measured = [found[c] * 1e6 if c in found else None for c in CANDIDATES]
        rows.append((i, call_title(node), operand_shapes(node), *measured, known[names[i]]))
    headings = ("#", "call", "shape", *(f"{name}, us" for name in CANDIDATES), "choice")
    return Table(headings, rows)


# ------------------------------------------------------------------ on disk


def _file() -> Path | None:
    from .kernels.jit import compiled

    home = compiled.home()
    return home / compiled.fingerprint() / "choices.json" if home is not None else None


def load() -> dict[str, str]:
    """Choices made on this machine; none where there is no file, or none that can be read."""
    file = _file()
    try:
        found = json.loads(file.read_text()) if file is not None else {}
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in found.items() if v in CANDIDATES} if isinstance(found, dict) else {}


def save(choices: Mapping[str, str]) -> None:
    """Keep choices, whole or not at all; where nothing can be written they are not kept."""
    from .kernels.jit import compiled

    file = _file()
    if file is None:
        return
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        # Another process may have kept some meanwhile.
        kept = json.dumps(load() | dict(choices), indent=1, sort_keys=True)
        compiled.write_whole(file, kept.encode())
