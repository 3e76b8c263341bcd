"""Time every pointwise formula of the registry, after checking it against its NumPy definition.

    python benchmarks/formulas.py --json formulas.json
    python benchmarks/formulas.py --compare before.json after.json

One thread; each formula over operands that stay in the L2 cache, and over operands that are far
larger than the last cache. README.md states the protocol.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastnn.benchmarks import calls, report
from fastnn.benchmarks.formula_calls import (
    Measure,
    NativeCalls,
    Operands,
    definition,
    pytorch,
)
from fastnn.benchmarks.formula_cases import UNIT, Case, Kind, kinds
from fastnn.kernels.provider import Provider
from fastnn.runtime import aligned

#: A formula below this share of the best of its kind needs a reason.
ENOUGH = 0.5
#: Share of the bandwidth that a formula should reach whose arithmetic takes under half as long.
AT_BANDWIDTH = 0.8
#: Factor over arithmetic plus traffic from which on a formula waits for memory needlessly.
LATE = 1.1
PEERS = ("numpy", "pytorch")

#: Why formulas are below half of the best of their kind: what each of their numbers costs. Only
#: what the formula itself asks for: an operation that could be left out is no reason.
_EXP = "an exponential per number"
_EXP_QUOTIENT = "an exponential and a quotient per number"
_ROOT = "a root and a quotient per number, which share one slow unit"
_POWER = "a power per number: a logarithm and an exponential"
REASONS: dict[str, dict[str, str]] = {
    "activation": {
        "sigmoid": _EXP_QUOTIENT,
        "tanh": _EXP_QUOTIENT,
        "elu": _EXP,
        "selu": _EXP,
        "softplus": "an exponential and a logarithm per number",
        "gelu": "erf: two polynomials, an exponential and a quotient per number",
        "gelu_tanh": _EXP_QUOTIENT,
        "silu": _EXP_QUOTIENT,
        "mish": _EXP_QUOTIENT,
    },
    "activation_grad": {
        "softplus": _EXP,
        "gelu": "erf and the density: two polynomials, two exponentials and a quotient per number",
        "gelu_tanh": _EXP_QUOTIENT,
        "silu": _EXP_QUOTIENT,
        "mish": "an exponential and two quotients per number",
    },
    "pointwise_loss": {
        "binary_cross_entropy": "two logarithms, and a quotient in the gradient, per number",
        "sigmoid_cross_entropy": "an exponential and a logarithm, and in the gradient an "
        "exponential and a quotient, per number",
        "log_cosh": "three exponentials, two logarithms and a quotient, and in the gradient an "
        "exponential and a quotient, per number",
        "kl_divergence": "a logarithm and a quotient, and a quotient in the gradient, per number",
        "poisson": "a logarithm, and a quotient in the gradient, per number",
        "log_poisson": "an exponential, and another in the gradient, per number",
        "focal": "two logarithms and two exponentials, and in the gradient these and four "
        "quotients, per number",
    },
    "activity_penalty": {"lp": "two powers per number, each a logarithm and an exponential"},
    "penalty": {"lp": _POWER},
    "penalty_gradient": {"lp": _POWER},
    "update": {
        "adagrad": _ROOT,
        "rmsprop": _ROOT,
        "centered_rmsprop": _ROOT,
        "adadelta": "two roots and a quotient per number, which share one slow unit",
        "adam": _ROOT,
        "amsgrad": _ROOT,
        "nadam": _ROOT,
    },
}


@dataclass(frozen=True)
class Size:
    """Where the operands of a call lie, and how many bytes they have at most."""

    name: str
    bytes: int


def cache_sizes() -> list[int]:
    """Bytes of the data caches of a core from the first level on; empty where nothing tells."""
    found = {}
    for place in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        if (place / "type").read_text().strip() != "Instruction":
            size = (place / "size").read_text().strip()  # 2048K
            found[int((place / "level").read_text())] = int(size.removesuffix("K")) << 10
    return [found[level] for level in sorted(found)]


def sizes(options: argparse.Namespace) -> tuple[Size, Size]:
    """Half of the L2 cache, and four times the last cache, as far as a quarter of the memory goes.

    Half, because the array that numbers are restored from, tables and stack need room, and pages
    do not fall evenly on the sets of a cache.
    """
    caches = cache_sizes() or [0]
    level2 = caches[1] if len(caches) > 1 else 1 << 20
    last = max(caches[-1], 32 << 20)
    memory = (
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    )
    small = int(options.small * 2**20) if options.small else level2 // 2
    large = int(options.large * 2**20) if options.large else min(4 * last, memory // 4 or 1 << 30)
    return Size("L2", small), Size("memory", max(small, large))


# ------------------------------------------------------------------ all formulas of a kind


@dataclass
class Row:
    """One formula as one library computes it, at one size."""

    who: str
    case: Case
    size: str
    samples: list[float] = field(default_factory=list)  # nanoseconds per number, one a round
    status: str = "ok"  # or "wrong", or "nothing" where there is nothing to compute
    reason: str = ""

    @property
    def key(self) -> list[str]:
        return [self.who, self.case.kind.name, self.case.formula.name, self.size]

    @property
    def per_number(self) -> float:
        """Bytes that are read and written for each number."""
        return self.case.bytes / self.case.numbers

    @property
    def nanoseconds(self) -> float:
        return report.quartiles(self.samples)[1]

    @property
    def rates(self) -> list[float]:
        """GB/s, round by round."""
        return [self.per_number / ns for ns in self.samples]

    @property
    def rate(self) -> float:
        return self.per_number / self.nanoseconds


def share(rates: Sequence[float], others: Sequence[float]) -> float:
    """The median of the ratios of each round: what disturbs the machine disturbs both."""
    return report.quartiles([a / b for a, b in zip(rates, others, strict=True)])[1]


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a formula at one size."""

    row: Row
    of_copy: float
    of_best: float
    low: bool

    @property
    def why(self) -> str:
        """The reason why it is low; empty if nobody has written one."""
        return REASONS.get(self.row.case.op.name, {}).get(self.row.case.formula.name, "")


@dataclass
class Group:
    """The formulas of one kind at one size, with the copies that were timed between them."""

    kind: Kind
    size: Size
    rows: list[Row] = field(default_factory=list)
    copies: list[float] = field(default_factory=list)  # GB/s

    def of(self, who: str) -> list[Row]:
        return [row for row in self.rows if row.who == who and row.status == "ok"]

    def best(self, row: Row) -> Row:
        """The fastest of the same provider's formulas of this kind."""
        return max(self.of(row.who), key=lambda other: other.rate)

    def verdict(self, row: Row) -> Verdict:
        best = self.best(row)
        of_copy, of_best = share(row.rates, self.copies), share(row.rates, best.rates)
        # What disturbs can only slow down: a formula is low if its fastest round is so too.
        low = max(of_best, max(row.rates) / max(best.rates)) < ENOUGH
        return Verdict(row, of_copy, of_best, low)


def numbers(kind: Kind, size: Size, dtype: str, restored: bool) -> int:
    """How many numbers the kind's largest formula can have, and what restores them if counted."""
    cases = [Case(kind, formula, UNIT, dtype) for formula in kind.formulas.values()]
    most = max(case.memory + restored * case.lost for case in cases)
    return max(size.bytes // most, 1) * UNIT


def time_copies(memory: np.ndarray) -> Measure:
    """Copies from one half of a block of memory to the other, as GB/s read and written."""
    half = len(memory) // 2
    measure = calls.repeat(lambda: np.copyto(memory[:half], memory[half : 2 * half]))
    return lambda seconds: 2 * half / measure(seconds) / 1e9


def participants(
    group: Group,
    providers: Sequence[Provider],
    tile: int,
    count: int,
    memory: np.ndarray,
    dtype: str,
) -> Iterator[tuple[Row, Operands, Measure]]:
    """Everything that is timed in turn, each checked."""
    for formula in group.kind.formulas.values():
        case = Case(group.kind, formula, count, dtype)
        operands = Operands(case, Case(group.kind, formula, tile, dtype), memory)
        found: list[tuple[str, Measure]] = []
        for kernels in providers:
            native = NativeCalls(kernels, operands)
            if native.nothing:
                group.rows.append(Row(kernels.name, case, group.size.name, status="nothing"))
                continue
            found.append((kernels.name, native))
        if found and count == tile:  # where arithmetic counts; memory is the same for all
            found.append(("numpy", definition(operands)))
            torch = pytorch(operands)
            found += [("pytorch", torch)] if torch else []
        for who, measure in found:
            row = Row(who, case, group.size.name)
            group.rows.append(row)
            operands.clear()
            measure(0)
            # Some constants of PyTorch's have the precision of float32 in float64 too.
            if wrong := operands.wrong("float32" if who == "pytorch" else dtype):
                row.status, row.reason = "wrong", wrong
                continue
            yield row, operands, measure


def measure_kind(
    kind: Kind, size: Size, providers: Sequence[Provider], memory: np.ndarray, tile: int,
    options: argparse.Namespace,
) -> Group:  # fmt: skip
    """Check all formulas of a kind, then time them and the copies in turn."""
    group = Group(kind, size)
    cached = size.name == "L2"
    count = tile if cached else max(numbers(kind, size, options.dtype, False) // tile, 1) * tile
    report.progress(f"{kind.name}, {size.name}")
    turns = list(participants(group, providers, tile, count, memory, options.dtype))
    copy = time_copies(memory[: size.bytes])
    for turn in range(options.rounds):
        group.copies.append(copy(options.seconds))
        # There and back: what drifts within a round falls on all alike.
        for row, operands, measure in turns if turn % 2 == 0 else reversed(turns):
            operands.load()  # all of them lie in the same memory
            row.samples.append(measure(options.seconds) / row.case.numbers * 1e9)
    return group


# ------------------------------------------------------------------ what is printed


def verdicts(groups: Sequence[Group], who: str) -> dict[tuple[str, str], Verdict]:
    """By formula and size."""
    return {
        (row.case.formula.name, group.size.name): group.verdict(row)
        for group in groups
        for row in group.of(who)
    }


def kind_table(groups: Sequence[Group], who: str) -> str:
    """All formulas of a kind: a line each, at both sizes."""
    found = verdicts(groups, who)
    names = [group.size.name for group in groups]
    header = [groups[0].kind.name, "bytes"]
    for name in names:
        header += [f"ns, {name}", "spread", "GB/s", "of copy", "of best"]
    header += PEERS
    rows = []
    for formula in groups[0].kind.formulas:
        mine = [found.get((formula, name)) for name in names]
        known = [verdict for verdict in mine if verdict]
        flag = " *" if any(verdict.low for verdict in known) else ""
        row = [formula + flag, f"{known[0].row.per_number:.3g}" if known else "-"]
        for verdict in mine:
            row += _cells(verdict)
        rows.append([*row, *_ratios(groups[0], formula, mine[0])])
    copies = ", ".join(
        f"{report.number(report.quartiles(group.copies)[1])} GB/s in {group.size.name} "
        f"(spread {report.spread(group.copies)})"
        for group in groups
    )
    counts = ", ".join(
        f"{count:,} numbers in {group.size.name}"
        for group in groups
        for count in sorted({row.case.numbers for row in group.rows})
    )
    return f"{report.table(header, rows)}\n\ncopies: {copies}; {counts}"


def _cells(verdict: Verdict | None) -> list[str]:
    if verdict is None:
        return ["-"] * 5
    row = verdict.row
    return [
        f"{row.nanoseconds:.3f}",
        report.spread(row.samples),
        report.number(row.rate),
        f"{100 * verdict.of_copy:.0f}%",
        f"{100 * verdict.of_best:.0f}%",
    ]


def _ratios(group: Group, formula: str, verdict: Verdict | None) -> list[str]:
    """How many times as long as ours NumPy and PyTorch take."""
    cells = []
    for peer in PEERS:
        theirs = [row for row in group.of(peer) if row.case.formula.name == formula]
        ratio = share(theirs[0].samples, verdict.row.samples) if theirs and verdict else None
        cells.append(report.number(ratio))
    return cells


def remarks(groups: Sequence[Group], who: str) -> tuple[list[str], bool]:
    """Lines below the table, and whether one of them is an error."""
    lines, bad = [], False
    found = verdicts(groups, who)
    low: dict[str, list[Verdict]] = {}
    for (formula, _), verdict in found.items():
        if verdict.low:
            low.setdefault(formula, []).append(verdict)
    for formula, those in low.items():
        where = " and ".join(f"{100 * v.of_best:.0f}% in {v.row.size}" for v in those)
        bad |= not those[0].why
        lines.append(f"- * {formula}, {where}: {those[0].why or 'NO REASON IS GIVEN'}")
    for row in (row for group in groups for row in group.rows if row.who in (who, *PEERS)):
        if row.status == "wrong":
            bad = True
            lines.append(f"- WRONG: {' '.join(row.key)}: {row.reason}")
    if none := {row.case.formula.name for row in groups[0].rows if row.status == "nothing"}:
        lines.append(f"- no call, because nothing is to be computed: {', '.join(none)}")
    return [*lines, *_against_peers(groups[0], who), *_in_memory(groups, who)], bad


def _against_peers(group: Group, who: str) -> list[str]:
    """Where somebody else is faster."""
    mine = {row.case.formula.name: row for row in group.of(who)}
    slower = [
        f"{row.case.formula.name} ({row.who} {ratio:.2f})"
        for row in group.rows
        if row.who in PEERS and row.status == "ok" and row.case.formula.name in mine
        if (ratio := share(row.samples, mine[row.case.formula.name].samples)) < 0.95
    ]
    return [f"- slower than others, in {group.size.name}: {', '.join(slower)}"] if slower else []


def _in_memory(groups: Sequence[Group], who: str) -> list[str]:
    """Which formulas reach less of the memory than they could.

    What memory moves includes the lines of results, which are read before they are written.
    """
    cached, large = groups
    copies = report.quartiles(large.copies)[1]
    arithmetic = {row.case.formula.name: row.nanoseconds for row in cached.of(who)}
    below, late = [], []
    for row in large.of(who):
        moved = row.case.moved / row.case.numbers
        traffic, alone = moved / copies, arithmetic.get(row.case.formula.name, np.inf)
        name = row.case.formula.name
        if 2 * alone < traffic and traffic < AT_BANDWIDTH * row.nanoseconds:
            below.append(f"{name} ({100 * traffic / row.nanoseconds:.0f}%)")
        if row.nanoseconds > LATE * (alone + traffic):
            late.append(f"{name} ({row.nanoseconds / (alone + traffic):.2f})")
    titles = {
        "cheap enough for the bandwidth of memory, but below it": below,
        "in memory longer than arithmetic and traffic one after the other": late,
    }
    return [f"- {title}: {', '.join(names)}" for title, names in titles.items() if names]


def as_result(
    measured: Sequence[Sequence[Group]], options: argparse.Namespace, mark: dict[str, Any]
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    copies = []
    for groups in measured:
        for group in groups:
            key = [group.kind.name, group.size.name]
            copies.append({"key": key, "gbytes": group.copies, "bytes": group.size.bytes})
            for row in group.rows:
                entry: dict[str, Any] = {"key": row.key, "numbers": row.case.numbers}
                if row.status != "ok":
                    failed.append(entry | {"status": row.status, "reason": row.reason})
                    continue
                verdict = group.verdict(row)
                entry |= {"unit": "ns/number", "samples": row.samples}
                entry |= {"bytes_per_number": row.per_number, "gbytes": row.rate}
                entry |= {"of_copy": verdict.of_copy, "of_best": verdict.of_best}
                rows.append(entry | {"reason": verdict.why if verdict.low else ""})
    settings = {name: getattr(options, name) for name in ("rounds", "seconds", "dtype")}
    return {
        "benchmark": "formulas",
        "fingerprint": mark,
        "settings": settings,
        "copies": copies,
        "rows": rows,
        "without_numbers": failed,
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time every pointwise formula of the registry.")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument(
        "--small", type=float, metavar="MIB", help="operands in the cache (half of the L2 cache)"
    )
    parser.add_argument(
        "--large", type=float, metavar="MIB", help="operands beyond it (four times the last cache)"
    )
    options = report.parse(parser, argv, rounds=7, seconds=0.02)
    if min(options.small or 1, options.large or 1) < 0.05:
        parser.error("--small and --large must be at least 0.05")
    return options


def run(argv: Sequence[str] | None = None) -> int:
    """The benchmark as a command; 1 when a result is wrong or a slow formula has no reason."""
    options = parse(argv)
    mark = report.fingerprint()
    print(report.describe(mark), flush=True)
    both = sizes(options)
    providers = calls.providers(options.dtype)
    blocks = [aligned(size.bytes + (1 << 17)) for size in both]
    measured, failed = [], False
    for kind in kinds():
        tile = numbers(kind, both[0], options.dtype, True)
        with np.errstate(all="ignore"):  # as where the definitions run as a backend
            groups = [
                measure_kind(kind, size, providers, memory, tile, options)
                for size, memory in zip(both, blocks, strict=True)
            ]
        report.progress("")
        measured.append(groups)
        for kernels in providers:
            lines, bad = remarks(groups, kernels.name)
            failed |= bad
            print(f"\n## {kernels.name}, {options.dtype}: {kind.name}\n")
            print("\n".join([kind_table(groups, kernels.name), "", *lines]), flush=True)
    report.write(options, as_result(measured, options, mark))
    return int(failed)


if __name__ == "__main__":
    sys.exit(run())
