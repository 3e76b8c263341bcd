"""Time whole training steps of fastnn and of other libraries, after checking that they agree.

    python benchmarks/train_step.py --networks tiny,digits --json steps.json
    python benchmarks/train_step.py --compare before.json after.json

README.md states the protocol and the settings of every peer.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastnn import machine
from fastnn.benchmarks import peers, report
from fastnn.benchmarks.networks import NETWORKS, Network, problem
from fastnn.benchmarks.peers import peers_of

# Two epochs, so that an optimizer that starts afresh in the second is noticed. Few steps, because
# what rounding does grows with each: a float32 input of a relu just above zero that is just below
# it in float64 changes a gradient by much more than rounding, and Adam carries that on.
CHECK_STEPS, CHECK_EPOCHS = 3, 2
# Variables with these prefixes set pools, affinity and waiting; a worker sees only our own.
SCRUBBED = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "VECLIB_", "XLA_", "TORCH_")


@dataclass
class Reference:
    """What a network's training gives in float64, for both forms of Adam's epsilon."""

    losses: list[float]  # of the short epochs that the check compares weights after
    weights: list[np.ndarray]
    first_loss: float  # of the first whole epoch


@dataclass
class Outcome:
    """What became of one peer at one number of threads on one network."""

    peer: str
    threads: int
    status: str = "ok"  # or "absent" (the peer cannot do it), "missing", "wrong" or "error"
    reason: str = ""
    deviations: dict[str, float] = field(default_factory=dict)
    samples: list[float] = field(default_factory=list)  # microseconds per step, one a round
    meetings: list[float] = field(default_factory=list)  # microseconds of two threads, before each
    loss: float | None = None  # of the last epoch

    @property
    def median(self) -> float:
        return report.quartiles(self.samples)[1]


class WorkerProcess:
    """A process that holds one peer, stopped whenever it is not asked something."""

    def __init__(self, peer: str, threads: int, network: str, dtype: str) -> None:
        command = [sys.executable, peers.__file__, peer, network, str(threads), dtype]
        options: dict[str, Any] = {}
        if os.name == "posix":
            # In a group of its own, a stopped worker is hung up when this process dies.
            options["process_group"] = 0
        pinned = report.cores()[:threads]
        allowed = _affinity()
        # Libraries size their pools by affinity when they are loaded, so it must be set before
        # the process starts; it inherits ours.
        _set_affinity(pinned)
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment(threads),
                **options,
            )
        finally:
            _set_affinity(allowed)

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Let the worker run until it has answered; nothing else runs meanwhile."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.signal("SIGCONT")
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self.process.stdout.readline()
        if not answer:
            return {"error": f"the worker ended with exit status {self.process.wait()}"}
        # Stopped, the threads of its pools cannot go on spinning while another peer is timed, and
        # every library keeps the waiting policy that its authors chose.
        self.signal("SIGSTOP")
        return json.loads(answer)

    def signal(self, name: str) -> None:
        if hasattr(signal, name):
            self.process.send_signal(getattr(signal, name))

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def environment(threads: int) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(SCRUBBED)}
    pools = ("OMP", "MKL", "OPENBLAS", "BLIS", "VECLIB_MAXIMUM")
    kept |= {f"{pool}_NUM_THREADS": str(threads) for pool in pools[:-1]}
    kept |= {"VECLIB_MAXIMUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu"}
    if threads == 1:
        kept["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    return kept


def _affinity() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _set_affinity(cpus: Sequence[int]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def reference(network: Network, epsilon_hat: bool) -> Reference:
    def train(steps: int | None, epochs: int) -> tuple[list[float], list[np.ndarray]]:
        data = problem(network, steps)
        baseline: Any = peers_of(network)["numpy"]
        peer = baseline(
            network, *data, 1, network.learning_rate, dtype=np.float64, epsilon_hat=epsilon_hat
        )
        return [peer.epoch() for _ in range(epochs)], peer.weights()

    losses, weights = train(CHECK_STEPS, CHECK_EPOCHS)
    return Reference(losses, weights, train(None, 1)[0][0])


def tolerances(network: Network, dtype: str) -> dict[str, float]:
    """What a number type can be held to; README.md says what was observed, and what exceeds it.

    A sum of n products has a relative error of about eps * sqrt(n), and the updates add theirs up.
    Weights have two more: storing them costs up to eps * weight an update, where an update is a
    learning rate; and an input of a relu within rounding of zero puts a whole sample on the other
    side of its kink, hence the greater factor.
    """
    eps = float(np.finfo(dtype).eps)
    rounding = eps * float(np.sqrt(max(network.sizes))) * CHECK_STEPS * CHECK_EPOCHS
    greatest = float(np.sqrt(6 / min(network.sizes[:-1])))  # the bound of He-uniform
    return {
        "loss": 4 * rounding,
        "weights": 32 * rounding + eps * greatest / network.learning_rate,
        "first epoch": 3e-4 * eps / float(np.finfo(np.float32).eps),
    }


def deviations(
    losses: list[float],
    weights: list[np.ndarray],
    first_loss: float,
    true: Reference,
    learning_rate: float,
) -> dict[str, float]:
    """The greatest deviations from the reference.

    Losses: relative. Weights: the mean deviation in an array, in units of the way that Adam can go
    in that many updates (each moves a weight by about the learning rate); the greatest over the
    arrays. A mean, because where a gradient is nothing but rounding, Adam still makes a full step
    of it in either direction.
    """
    way = learning_rate * CHECK_STEPS * CHECK_EPOCHS
    by_loss = [abs(a - b) / abs(b) for a, b in zip(losses, true.losses, strict=True)]
    by_array = [
        float(np.mean(np.abs(mine - right))) / way if mine.shape == right.shape else np.inf
        for mine, right in zip(weights, true.weights, strict=True)
    ]
    first = abs(first_loss - true.first_loss) / abs(true.first_loss)
    return {"loss": max(by_loss), "weights": max(by_array), "first epoch": first}


def check(
    worker: WorkerProcess, outcome: Outcome, network: Network, true: Reference, dtype: str
) -> None:
    """Train a little and compare; sets the outcome's status. Leaves the worker ready for turns."""
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "weights.npz"))
        short = worker.ask("check", steps=CHECK_STEPS, epochs=CHECK_EPOCHS, file=file)
        full = short if "losses" not in short else worker.ask("start")
        for status in ("missing", "error"):
            if status in full:
                outcome.status, outcome.reason = status, full[status]
                return
        with np.load(file) as arrays:
            weights = list(arrays.values())
    found = deviations(short["losses"], weights, full["loss"], true, network.learning_rate)
    outcome.deviations = found
    # "not <=" and not ">": a NaN must not pass.
    limits = tolerances(network, dtype)
    wrong = [name for name, limit in limits.items() if not found[name] <= limit]
    if wrong:
        outcome.status, outcome.reason = "wrong", f"{' and '.join(wrong)} out of tolerance"


def measure(network: Network, options: argparse.Namespace) -> list[Outcome]:
    """Check every peer at every number of threads, then time those that passed in turn."""
    true = {hat: reference(network, hat) for hat in (False, True)}
    ready: list[tuple[Outcome, WorkerProcess]] = []
    outcomes = []
    with ExitStack() as stack:
        for peer in options.peers:
            if peer not in peers_of(network):
                reason = f"{network.name} is not written for it"
                outcomes.append(Outcome(peer, options.threads[0], "absent", reason))
                continue
            for threads in options.threads:
                report.progress(f"{network.name}: checking {peer} with {threads} threads")
                outcome = Outcome(peer, threads)
                outcomes.append(outcome)
                worker = WorkerProcess(peer, threads, network.name, options.dtype)
                stack.callback(worker.close)
                hat = peers_of(network)[peer].epsilon_hat
                check(worker, outcome, network, true[hat], options.dtype)
                if outcome.status == "ok":
                    ready.append((outcome, worker))
                else:
                    worker.close()
        for turn in range(options.rounds):
            report.progress(f"{network.name}: round {turn + 1} of {options.rounds}")
            # There and back: what drifts within a round falls on every peer alike.
            for outcome, worker in ready if turn % 2 == 0 else reversed(ready):
                take_turn(worker, outcome, options.seconds)
    return outcomes


def meeting() -> float:
    """Microseconds in which two threads meet, on the cores that workers are pinned to."""
    allowed = _affinity()
    _set_affinity(report.cores()[:2])
    try:
        return machine.meeting(2) * 1e6
    finally:
        _set_affinity(allowed)


def take_turn(worker: WorkerProcess, outcome: Outcome, seconds: float) -> None:
    if outcome.status != "ok":
        return
    met = meeting() if outcome.threads > 1 else None
    answer = worker.ask("turn", seconds=seconds)
    outcome.loss = answer.get("loss")
    if outcome.loss is None or not np.isfinite(outcome.loss):
        reason = answer.get("error", f"the loss became {outcome.loss} while it was timed")
        outcome.status, outcome.reason = "error", reason
        return
    outcome.samples.append(answer["us_per_step"])
    if met is not None:
        outcome.meetings.append(met)


def best_by_peer(outcomes: Sequence[Outcome]) -> dict[str, Outcome]:
    """Each peer at the number of threads that suits it best, the fastest peer first."""
    best: dict[str, Outcome] = {}
    for outcome in sorted((o for o in outcomes if o.status == "ok"), key=lambda o: o.median):
        best.setdefault(outcome.peer, outcome)
    return best


def base_of(best: dict[str, Outcome]) -> str | None:
    """The peer that ratios are taken against: without fastnn NumPy, without both the fastest."""
    return next((name for name in ("fastnn", "numpy", *best) if name in best), None)


def ratios(outcome: Outcome, base: Outcome) -> list[float]:
    """How many times as long as the base's the peer's step is, round by round.

    Two turns of one round are seconds apart, so what slows the machine for longer cancels.
    """
    return [mine / its for mine, its in zip(outcome.samples, base.samples, strict=True)]


def network_table(network: Network, outcomes: list[Outcome], peak: dict[int, float]) -> str:
    best = best_by_peer(outcomes)
    base = base_of(best)
    counts = sorted({outcome.threads for outcome in outcomes})
    header = ["peer", *(f"us, {n} thr" for n in counts), "best thr", "us/step", "spread"]
    header += ["samples/s", "GFLOP/s", "of peak", f"/{base}", "spread"]
    rows = []
    for name, outcome in best.items():
        by_threads = {o.threads: o.median for o in outcomes if o.peer == name and o.status == "ok"}
        us = outcome.median
        rate = network.flops / us / 1e3
        top = peak.get(outcome.threads)
        row = [name, *(report.number(by_threads.get(n)) for n in counts), str(outcome.threads)]
        row += [report.number(us), report.spread(outcome.samples)]
        row += [report.number(network.batch / us * 1e6), report.number(rate)]
        row += [f"{100 * rate / top:.0f}%" if top else "-"]
        row += ratio_cells(outcome, best[base]) if base else ["-", "-"]
        rows.append(row)
    lines = [f"## {network}", "", report.table(header, rows)] if rows else [f"## {network}"]
    return "\n".join([*lines, *distance(outcomes), *troubles(outcomes)])


def distance(outcomes: list[Outcome]) -> list[str]:
    """How far from each other two cores were, which several threads depend on."""
    found = sorted(us for outcome in outcomes for us in outcome.meetings)
    if not found:
        return []
    least, middle, most = (report.number(found[i]) for i in (0, len(found) // 2, -1))
    return ["", f"Two threads met in {middle} us in the median, {least} to {most}."]


def ratio_cells(outcome: Outcome, base: Outcome) -> list[str]:
    values = ratios(outcome, base)
    return [f"{report.quartiles(values)[1]:.2f}", report.spread(values)]


#: What is said of peers without numbers, by status.
_WORDS = {"absent": "absent", "missing": "missing", "error": "FAILED", "wrong": "WRONG"}


def troubles(outcomes: list[Outcome]) -> list[str]:
    """A line for each peer that has no numbers, and why."""
    lines = []
    for status, words in _WORDS.items():
        found: dict[tuple[str, str], list[int]] = {}
        for outcome in outcomes:
            if outcome.status == status:
                found.setdefault((outcome.peer, outcome.reason), []).append(outcome.threads)
        for (peer, reason), threads in found.items():
            lines.append(f"- {words}: {peer} ({', '.join(map(str, threads))} thr): {reason}")
    return ["", *lines] if lines else []


def check_table(measured: dict[Network, list[Outcome]], dtype: str) -> str:
    """The greatest deviation of each peer over its numbers of threads, next to the tolerance."""
    header = ["network", "peer", *(f"{n}, allowed" for n in ("loss", "weights", "first epoch"))]
    rows = []
    for network, outcomes in measured.items():
        limits = tolerances(network, dtype)
        for peer in dict.fromkeys(o.peer for o in outcomes if o.deviations):
            mine = [o.deviations for o in outcomes if o.peer == peer and o.deviations]
            cells = [f"{max(d[k] for d in mine):.1e}, {limits[k]:.0e}" for k in limits]
            rows.append([network.name, peer, *cells])
    return report.table(header, rows) if rows else ""


def summary_table(measured: dict[Network, list[Outcome]]) -> str:
    """Networks down, peers across: the median ratio, and the spread of the rounds."""
    best = {network.name: best_by_peer(outcomes) for network, outcomes in measured.items()}
    there = dict.fromkeys(peer for network in measured for peer in peers_of(network))
    columns = [peer for peer in there if any(peer in found for found in best.values())]
    rows = []
    for name, found in best.items():
        base = base_of(found)
        if base is None:
            continue
        cells = [
            " ±".join(ratio_cells(found[peer], found[base])) if peer in found else "-"
            for peer in columns
        ]
        rows.append([name, base, *cells])
    return report.table(["network", "time relative to", *columns], rows) if rows else ""


def as_result(
    measured: dict[Network, list[Outcome]],
    options: argparse.Namespace,
    peak: dict[int, float],
    mark,
) -> dict[str, Any]:
    rows, failed = [], []
    for network, outcomes in measured.items():
        best = best_by_peer(outcomes)
        base = base_of(best)
        for outcome in outcomes:
            row: dict[str, Any] = {"key": [network.name, outcome.peer, outcome.threads]}
            if outcome.status != "ok" or base is None:
                # As text, because JSON has no NaN.
                found = {what: f"{value:.3g}" for what, value in outcome.deviations.items()}
                row |= {"status": outcome.status, "reason": outcome.reason, "deviations": found}
                failed.append(row)
                continue
            row |= {"unit": "us/step", "samples": outcome.samples, "loss": outcome.loss}
            row |= {"quartiles": report.quartiles(outcome.samples), "flops": network.flops}
            row |= {"meetings": outcome.meetings}
            row |= {"best": best[outcome.peer] is outcome, "deviations": outcome.deviations}
            row |= {"relative_to": base, "ratios": ratios(outcome, best[base])}
            rows.append(row)
    settings = {key: getattr(options, key) for key in ("rounds", "seconds", "dtype", "threads")}
    return {
        "benchmark": options.benchmark,
        "fingerprint": mark,
        "settings": settings,
        "fma_gflops": peak,
        "key_names": ["network", "peer", "threads"],
        "tolerances": {network.name: tolerances(network, options.dtype) for network in measured},
        "rows": rows,
        "without_numbers": failed,
    }


def parse(
    argv: Sequence[str] | None, benchmark: str, networks: dict[str, Network], description: str
) -> argparse.Namespace:
    available = len(report.cores())

    def counts(text: str) -> list[int]:
        chosen = sorted({int(part) for part in text.split(",")})
        if chosen[0] < 1 or chosen[-1] > available:
            raise argparse.ArgumentTypeError(f"from 1 to {available}, the cores there are")
        return chosen

    there = peers_of(next(iter(networks.values())))
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--networks",
        type=report.names_of(networks),
        default=list(networks),
        help=f"of {', '.join(networks)}",
    )
    parser.add_argument(
        "--peers",
        type=report.names_of(there),
        help=f"of {', '.join(there)}; those that take long run only when named, and a missing one "
        "is an error only when named",
    )
    parser.add_argument(
        "--threads", type=counts, default=sorted({1, available}), help="1 and all cores by default"
    )
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    options = report.parse(parser, argv, rounds=7, seconds=0.3)
    options.bad = {"wrong", "error", "missing"} if options.peers else {"wrong", "error"}
    options.peers = options.peers or [name for name, peer in there.items() if peer.by_default]
    options.benchmark, options.networks = benchmark, [networks[name] for name in options.networks]
    return options


def run(
    argv: Sequence[str] | None = None,
    benchmark: str = "train_step",
    networks: dict[str, Network] = NETWORKS,
    description: str = "Time whole training steps of fastnn and of other libraries.",
    more: Callable[[dict[Network, list[Outcome]]], str] | None = None,
) -> int:
    """The benchmark as a command; 1 when a peer was wrong, failed, or was named and is missing.

    ``more`` makes a last section of what was measured.
    """
    options = parse(argv, benchmark, networks, description)
    mark = report.fingerprint()
    print(report.describe(mark), flush=True)
    peak = report.fma_peak(options.threads, options.dtype)
    measured: dict[Network, list[Outcome]] = {}
    for network in options.networks:
        measured[network] = measure(network, options)
        # A virtual machine's processors may share one core for a while: the highest counts.
        again = report.fma_peak(options.threads, options.dtype)
        peak = {n: max(rate, again[n]) for n, rate in peak.items()}
        report.progress("")
        print("\n" + network_table(network, measured[network], peak), flush=True)
    print("\n## Summary\n\n" + summary_table(measured))
    print("\n## Deviations from float64\n\n" + check_table(measured, options.dtype))
    if more is not None:
        print("\n## Curves\n\n" + more(measured))
    report.write(options, as_result(measured, options, peak, mark))
    everything = [outcome for outcomes in measured.values() for outcome in outcomes]
    return int(any(outcome.status in options.bad for outcome in everything))


if __name__ == "__main__":
    sys.exit(run())
