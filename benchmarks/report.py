"""What the benchmarks share: statistics, tables, the machine's fingerprint, JSON and comparison.

A benchmark's JSON file is ``{"benchmark": name, "fingerprint": {...}, "settings": {...}, "rows":
[...], ...}``. Every row has a ``"key"`` (a list of strings and numbers, unique in the file), a
``"unit"`` and ``"samples"``, one number for each round, where less is better. ``compare`` needs
no more than that, so it serves every benchmark.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = (
    "fastnn",
    "numpy",
    "numba",
    "cython",
    "torch",
    "jax",
    "jaxlib",
    "scikit-learn",
    "scipy",
    "onnxruntime",
)

# The x86-64 psABI levels, by the flags that each adds and that tell it from the one below.
X86_LEVELS = (
    ("x86-64-v4", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
    ("x86-64-v3", {"avx2", "bmi1", "bmi2", "fma", "f16c", "movbe"}),
    ("x86-64-v2", {"cx16", "popcnt", "sse4_1", "sse4_2", "ssse3"}),
)


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """The first quartile, the median and the third."""
    low, middle, high = np.percentile(samples, (25, 50, 75))
    return float(low), float(middle), float(high)


def spread(samples: Sequence[float]) -> str:
    """The distance between the quartiles in percent of the median."""
    low, middle, high = quartiles(samples)
    return f"{100 * (high - low) / middle:.0f}%"


def number(value: float | None, digits: int = 3) -> str:
    """``value`` with three significant digits, but no exponent and never less than the integer."""
    if value is None:
        return "-"
    magnitude = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:,.{max(0, digits - magnitude)}f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose source is aligned: the first column left, the others right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *others]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(line(cells) for cells in (header, rule, *rows))


def fma_peak(threads: Iterable[int], dtype: str = "float32") -> dict[int, float]:
    """The rate of fused multiply-adds in GFLOP/s for each number of threads, measured now."""
    from fastnn import machine

    return {n: machine.Machine({}, {}).fma(dtype, n) for n in threads}


def fingerprint() -> dict[str, Any]:
    """What a number was measured on and with."""
    model, flags = _cpu()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": model,
        "level": next((level for level, needs in X86_LEVELS if needs <= flags), None),
        "extensions": sorted(flag for flag in flags if flag.startswith(("avx512", "amx"))),
        "architecture": platform.machine(),
        "cores": len(cores()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": _versions(),
        "commit": _commit(),
        "load_before": load,
    }


def describe(mark: dict[str, Any]) -> str:
    """The fingerprint in two lines."""
    versions = ", ".join(f"{name} {version}" for name, version in mark["packages"].items())
    level = mark["level"] or mark["architecture"]
    load = f", load {mark['load_before']:.1f} before" if mark["load_before"] is not None else ""
    commit = f", commit {mark['commit']}" if mark["commit"] else ""
    return (
        f"{mark['date']}: {mark['cpu']}, {level}, {mark['cores']} cores{load}{commit}\n"
        f"Python {mark['python']}, {versions}"
    )


def cores() -> list[int]:
    """One logical CPU for each physical core that this process may use."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    first: dict[str, int] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        first.setdefault(siblings.read_text() if siblings.exists() else str(cpu), cpu)
    return list(first.values())


def _cpu() -> tuple[str, set[str]]:
    """The processor's name and its feature flags, as far as the system tells them."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine(), set()
    fields: dict[str, str] = {}
    for line in info.read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = fields.get("flags", fields.get("Features", ""))
    return fields.get("model name", platform.machine()), set(flags.split())


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> str | None:
    """The commit of this source, "+" where the tree has changes; None outside its repository."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # An installed copy may lie inside somebody else's repository, which does not track it.
        git("ls-files", "--error-unmatch", here.name)
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def parse(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    *,
    rounds: int,
    seconds: float | None,
) -> argparse.Namespace:
    """The options of a benchmark, with those that all of them have and their defaults.

    ``--compare`` is served here, and ends the process.

    ``seconds`` is None where a turn takes as long as it takes.
    """
    parser.add_argument("--rounds", type=int, default=rounds, help=f"turns of each ({rounds})")
    if seconds is not None:
        parser.add_argument(
            "--seconds", type=float, default=seconds, help=f"length of a turn ({seconds})"
        )
    parser.add_argument("--json", metavar="FILE", help="write everything there")
    parser.add_argument(
        "--html", metavar="FILE", help="write a page with tables and plots there (needs matplotlib)"
    )
    parser.add_argument(
        "--compare", nargs=2, metavar=("BEFORE", "AFTER"), help="compare two JSON files and stop"
    )
    options = parser.parse_args(argv)
    if options.compare:
        parser.exit(print_comparison(*options.compare))
    if options.html and importlib.util.find_spec("matplotlib") is None:
        parser.error("--html needs Matplotlib: pip install 'fastnn[plots]'")
    if options.rounds < 1 or (seconds is not None and options.seconds <= 0):
        parser.error("--rounds and --seconds must be positive")
    return options


def names_of(table: Iterable[str]) -> Callable[[str], list[str]]:
    """The type of an option that takes some names, with commas between them."""
    known = list(table)

    def convert(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(
                f"expected some of {', '.join(known)}, got {unknown[0]!r}"
            )
        return list(dict.fromkeys(chosen))

    return convert


def in_turns(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run in every round, forth and back in turn."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name in list(runs)[:: 1 if turn % 2 == 0 else -1]:
            progress(f"round {turn + 1}: {name}")
            start = time.perf_counter()
            runs[name]()
            found[name].append(time.perf_counter() - start)
    progress("")
    return found


def write(options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Write what was measured to the files that were asked for."""
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    if options.html:
        from fastnn.benchmarks import page

        page.write(options.html, [result])


def compare(before: str | Path, after: str | Path) -> str:
    """A table of what became faster or slower from one JSON file to another.

    A row is inconclusive when the ranges between the quartiles overlap.
    """
    old, new = (json.loads(Path(file).read_text()) for file in (before, after))
    if old["benchmark"] != new["benchmark"]:
        raise ValueError(f"{before} is of {old['benchmark']}, {after} of {new['benchmark']}")
    lines = [f"before: {describe(old['fingerprint'])}", f"after:  {describe(new['fingerprint'])}"]
    for name in ("cpu", "cores"):
        if old["fingerprint"][name] != new["fingerprint"][name]:
            lines.append(f"These are different machines: the {name} differs.")
    old_rows, new_rows = ({tuple(row["key"]): row for row in file["rows"]} for file in (old, new))
    rows = [
        [" ".join(map(str, key)), *_verdict(old_rows[key], new_rows[key])]
        for key in old_rows
        if key in new_rows
    ]
    lines += ["", table(["", "before", "after", "unit", "before/after", ""], rows)]
    for title, one, other in (("Gone", old_rows, new_rows), ("New", new_rows, old_rows)):
        if names := [" ".join(map(str, key)) for key in one if key not in other]:
            lines += ["", f"{title}: {', '.join(names)}"]
    return "\n".join(lines)


def print_comparison(before: str | Path, after: str | Path) -> int:
    """Print the comparison of two files; the exit status."""
    try:
        print(compare(before, after))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def progress(text: str) -> None:
    """A line on standard error that the next one overwrites, where that is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


def _verdict(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    low, middle, high = quartiles(old["samples"])
    new_low, new_middle, new_high = quartiles(new["samples"])
    verdict = "faster" if new_high < low else "slower" if new_low > high else "inconclusive"
    ratio = f"{middle / new_middle:.2f}"
    return [number(middle), number(new_middle), new["unit"], ratio, verdict]
