"""Tables for people: layers, programs, profiles."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .compiler import Node, Program, Tensor
from .data import Data
from .kernels.aot import executor
from .layers import Symbol
from .network import Network
from .runtime import FINISHED, NOT_FINITE, NativeRunner, Runner
from .training import NonFiniteLoss, culprit, order_of

if TYPE_CHECKING:
    from .machine import Machine


@dataclass(frozen=True)
class Table:
    """Rows under headings, with notes below; ``print`` shows it, ``rows`` holds the values."""

    headings: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        cells = [self.headings, *(tuple(_cell(v) for v in row) for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.headings))]
        numeric = [
            all(isinstance(row[i], (int, float)) or row[i] is None for row in self.rows)
            for i in range(len(widths))
        ]
        lines = [
            "  ".join(
                c.rjust(w) if right else c.ljust(w)
                for c, w, right in zip(row, widths, numeric, strict=True)
            ).rstrip()
            for row in cells
        ]
        lines.insert(1, "  ".join("-" * w for w in widths))
        return "\n".join([*lines, *self.notes])

    __repr__ = __str__


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def describe_layers(chain: Network) -> Table:
    """The layers with their output shapes and numbers of weights; in a graph, with their inputs."""
    names: dict[Symbol, str] = dict(zip(chain.inputs, chain.input_names, strict=True))
    rows: list[tuple[Any, ...]] = []
    branches = len(chain.inputs) > 1
    for i, call in enumerate(chain.calls):
        branches |= call.symbol.inputs != (list(names)[-1],)
        name = names[call.symbol] = f"{call.layer.kind}_{i}"
        shared = "" if call.first == i else f", shared with {call.layer.kind}_{call.first}"
        size = sum(p.size for p in chain.weights if p.layer == i)
        sources = ", ".join(names[source] for source in call.symbol.inputs)
        rows.append((name, f"{call.layer!r}{shared}", sources, call.symbol.shape, size))
    headings: tuple[str, ...] = ("name", "layer", "applied to", "output shape", "parameters")
    if not branches:
        headings, *rows = (row[:2] + row[3:] for row in (headings, *rows))
    inputs = ", ".join(map(str, chain.input_shapes))
    word = "input" if len(chain.inputs) == 1 else "inputs"
    return Table(headings, rows, [f"{word} {inputs}, {chain.size:,} parameters"])


def _shape(tensor: Tensor) -> str:
    return "x".join("B" if n < 0 else str(n) for n in tensor.shape)


def operand_shapes(node: Node) -> str:
    """Shapes of what a call reads and writes, for people."""

    def side(tensors: Sequence[Tensor | None]) -> str:
        return " ".join(_shape(t) for t in tensors if t is not None)

    return f"{side(node.inputs)} -> {side(node.outputs)}".strip()


def call_title(node: Node) -> str:
    """The op of a call, with its formula."""
    function = node.attrs.get("function", "identity")
    return node.op.name if function == "identity" else f"{node.op.name}[{function}]"


def _notes(program: Program) -> list[str]:
    memory = program.peak_bytes
    parts = ", ".join(f"{name} {size:,}" for name, size in memory.items() if size)
    return [
        f"batch of {program.batch} rows, {program.flops():,.0f} FLOPs a step, {program.dtype}",
        f"peak memory {sum(memory.values()):,} bytes: {parts}",
        f"threads: {program.split.mode}; {program.split.why}",
    ]


def describe_program(runner: Runner) -> Table:
    """Each call with its shape, FLOPs, bytes and kernel."""
    program = runner.program
    rows = []
    for i, (node, kernel) in enumerate(zip(program.nodes, runner.providers, strict=True)):
        cost = program.cost(node, program.batch)
        sizes = int(cost.flops), cost.bytes
        rows.append((i, node.phase, call_title(node), operand_shapes(node), *sizes, kernel))
    headings = ("#", "phase", "call", "shape", "FLOPs", "bytes", "kernel")
    return Table(headings, rows, _notes(program))


def profile_program(runner: Runner, data: Data, batch: int, seconds: float) -> Table:
    """Run steps for a while and say where the time goes."""
    from .machine import measure

    program = runner.program
    machine = measure()
    per_epoch = -(-len(data) // batch)
    order = order_of(data, batch)
    times = np.zeros(len(program.nodes))
    steps, wall, epochs = 0, 0.0, 1
    while wall < seconds:
        totals = np.zeros((epochs, len(program.sums)))
        if steps == 0:  # the first epoch warms up
            runner.run(data.feeds, totals, rows=len(data), batch=batch, last=per_epoch, order=order)
        start = time.perf_counter()
        status, done = runner.run(
            data.feeds, totals, rows=len(data), batch=batch, last=epochs * per_epoch, order=order,
            times=times, seconds=max(seconds - wall, 0.001),
        )  # fmt: skip
        wall += time.perf_counter() - start
        steps += done
        if status == NOT_FINITE:
            raise NonFiniteLoss(done, done // per_epoch, culprit(runner, data, batch, done, order))
        epochs = min(2 * epochs, 1 << 16) if status == FINISHED else epochs
    look = executor.seconds_of_a_look() if isinstance(runner, NativeRunner) else 0.0
    left_out = times == 0  # what they would copy is read where it lies
    looks = np.where(left_out, 0.0, 1.0)
    if program.split.threads > 1:
        np.add.at(looks, [program.compute - 1, len(looks) - 1], 1)
    wall = wall / steps - (executor.LOOKS + looks.sum()) * look
    times = np.where(left_out, 0, np.maximum(times / steps - looks * look, 1e-10))
    return _profile_table(runner, machine, times, wall, steps)


def _profile_table(
    runner: Runner, machine: Machine, times: np.ndarray, wall: float, steps: int
) -> Table:
    program = runner.program
    threads = program.split.threads
    peak = machine.fma(program.dtype, threads)
    bandwidth = machine.bandwidth(threads)
    rows: list[tuple[Any, ...]] = []
    for i, (node, spent) in enumerate(zip(program.nodes, times, strict=True)):
        cost = program.cost(node, program.batch)
        who = i, node.phase, call_title(node), operand_shapes(node)
        if spent == 0:
            rows.append((*who, 0.0, 0.0, None, None, None, None))
            continue
        rate, traffic = cost.flops / spent / 1e9, cost.bytes / spent / 1e9
        rows.append(
            (*who, spent * 1e6, 100 * spent / wall, rate, 100 * rate / peak, traffic,
             100 * traffic / bandwidth)
        )  # fmt: skip
    rest = wall - times.sum()
    rows.append(
        (None, "", "between calls", "", rest * 1e6, 100 * rest / wall, None, None, None, None)
    )
    total = program.flops() / wall / 1e9
    headings = (
        "#", "phase", "call", "shape", "us", "% of step", "GFLOP/s", "% of FMA", "GB/s",
        "% of memory",
    )  # fmt: skip
    notes = [
        f"{wall * 1e6:,.2f} us a step over {steps:,} steps, {total:,.1f} GFLOP/s, "
        f"{100 * total / peak:.0f}% of the measured FMA peak of {peak:,.0f} GFLOP/s; "
        f"memory copies at {bandwidth:.1f} GB/s, above which a call works in the caches; "
        f"{threads} threads, kernels {runner.name}",
        *_notes(program),
    ]
    return Table(headings, rows, notes)


@contextmanager
def said(who: str, wanted: bool) -> Iterator[None]:
    """Print what is compiled within it, and how long that took."""
    if not wanted:
        yield
        return
    from .kernels.jit import compiled

    made: list[float] = []
    loaded: list[float] = []

    def hear(name: str, seconds: float, found: bool) -> None:
        (loaded if found else made).append(seconds)
        if not found:
            print(f"{who}: {name} compiled in {seconds:.2f} s", flush=True)

    with compiled.heard(hear):
        yield
    print(
        f"{who}: {len(made)} kernels compiled in {sum(made):.2f} s, "
        f"{len(loaded)} loaded in {sum(loaded):.2f} s",
        flush=True,
    )
