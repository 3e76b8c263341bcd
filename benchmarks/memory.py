"""Measure the memory that training takes, and training from a file that is mapped into memory.

    python benchmarks/memory.py --gigabytes 4 --json memory.json

Each peer of `train_step.py` trains the network `wide` in a process of its own, which then says how
much memory it had at most. After that fastnn trains on float32 images in a file, mapped and read
whole, in turns; the file is in the system's cache. README.md states the settings.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastnn.benchmarks import report
from fastnn.benchmarks.peers import PEERS

NETWORK = "wide"
COLUMNS = 784

SAY = """
def said(name):
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields[name].split()[0]) / 1024
"""

#: Trains a peer; says the most memory that the process ever had, in MiB.
TRAIN = (
    SAY
    + """
import sys
name, network, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
from fastnn.benchmarks.networks import NETWORKS, problem
network = NETWORKS[network]
data = problem(network)
if name != "data":
    from fastnn.benchmarks.peers import PEERS
    peer = PEERS[name](network, *data, threads, network.learning_rate)
    assert all(peer.epoch() > 0 for _ in range(2))
print(said("VmHWM"))
"""
)

#: Trains for an epoch that warms up and one that counts: microseconds a row; and memory in MiB, of
#: its own and of the file's pages, after each of them.
MAPPED = (
    SAY
    + """
import json, sys, time
import numpy as np, fastnn as fnn
file, rows, mapped = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "mapped"
X = np.memmap(file, np.float32, "r", shape=(rows, 784))
if not mapped:
    X = np.array(X)
y = np.arange(rows) % 10
model = fnn.Sequential([fnn.layers.Dense(128, "relu"), fnn.layers.Dense(10, "softmax")], seed=0)
model.compile("cross_entropy", "adam")
most = [0.0, 0.0]
def look():
    most[0] = max(most[0], said("RssAnon"))
    most[1] = max(most[1], said("RssFile"))
model.fit(X, y, batch_size=64, verbose=0)
look()
start = time.perf_counter()
losses = model.fit(X, y, batch_size=64, verbose=0).history["loss"]
spent = time.perf_counter() - start
look()
print(json.dumps({"us": 1e6 * spent / rows, "own": most[0], "file": most[1], "loss": losses[0]}))
"""
)


def ask(program: str, *arguments: Any) -> str:
    """What a process of its own printed.

    Raises
    ------
    ModuleNotFoundError
        A library is missing.
    RuntimeError
        The process failed.
    """
    command = [sys.executable, "-c", program, *map(str, arguments)]
    ran = subprocess.run(command, text=True, capture_output=True)
    if ran.returncode:
        last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModuleNotFoundError(last) if "ModuleNotFound" in last else RuntimeError(last)
    return ran.stdout


def write_file(file: Path, rows: int) -> None:
    """Images of noise, a part at a time."""
    rng = np.random.default_rng(0)
    part = rng.standard_normal((10_000, COLUMNS), dtype=np.float32)
    with file.open("wb") as to:
        for start in range(0, rows, len(part)):
            to.write(part[: min(len(part), rows - start)].tobytes())


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ["data", *(name for name, peer in PEERS.items() if peer.by_default)]
    parser.add_argument(
        "--peers", type=report.names_of(["data", *PEERS]), default=default,
        help=f"some of data,{','.join(PEERS)}",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="of each process (1)")
    parser.add_argument("--gigabytes", type=float, default=0.5, help="of the file (%(default)s)")
    parser.add_argument("--folder", help="where the file is to be, for the time of the benchmark")
    return report.parse(parser, argv, rounds=3, seconds=None)


def processes(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each peer: MiB at most, of every round."""
    rows: list[dict[str, Any]] = []
    for name in options.peers:
        row: dict[str, Any] = {"key": ["process", name], "unit": "MiB", "samples": []}
        rows.append(row)
        for turn in range(options.rounds):
            report.progress(f"round {turn + 1}: {name}")
            try:
                row["samples"].append(float(ask(TRAIN, name, NETWORK, options.threads)))
            except (ModuleNotFoundError, RuntimeError) as error:
                row["status"] = "missing" if isinstance(error, ModuleNotFoundError) else "error"
                row["reason"] = str(error)
                break
    report.progress("")
    return rows


def from_file(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows for training from a mapped file and from memory: microseconds a row of the data."""
    rows = int(options.gigabytes * 1e9 / (4 * COLUMNS))
    found: dict[str, list[dict[str, float]]] = {"mapped": [], "in memory": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        file = Path(folder, "images.f32")
        write_file(file, rows)
        for turn in range(options.rounds):
            for way in list(found)[:: 1 if turn % 2 == 0 else -1]:
                report.progress(f"round {turn + 1}: {way}")
                found[way].append(json.loads(ask(MAPPED, file, rows, way)))
    report.progress("")
    return [
        {
            "key": ["file", way],
            "unit": "us",
            "samples": [answer["us"] for answer in answers],
            "own": max(answer["own"] for answer in answers),
            "file": max(answer["file"] for answer in answers),
            "loss": answers[0]["loss"],
        }
        for way, answers in found.items()
    ]


def run(argv: Sequence[str] | None = None) -> int:
    """The benchmark as a command; 1 when a process failed, or a mapped file trains otherwise."""
    options = parse(argv)
    if not Path("/proc/self/status").exists():
        print("memory: needs /proc/self/status, as Linux has it", file=sys.stderr)
        return 2
    mark = report.fingerprint()
    print(report.describe(mark), flush=True)
    rows = processes(options)
    good = [row for row in rows if "status" not in row]
    middle = {row["key"][1]: report.quartiles(row["samples"])[1] for row in good}
    ours = middle.get("fastnn")
    cells = [
        [name, report.number(mib), f"{mib / ours:.2f}" if ours else "-"]
        for name, mib in middle.items()
    ]
    print(f"\n## A process that trains {NETWORK}\n")
    print(report.table(["process", "MiB", "/fastnn"], cells), flush=True)
    for row in rows:
        if "status" in row:
            print(f"- {row['status'].upper()}: {row['key'][1]}: {row['reason']}")
    files = from_file(options)
    mapped, whole = files
    print(f"\n## Training from a file of {options.gigabytes:g} GB\n")
    cells = [
        [row["key"][1], report.number(report.quartiles(row["samples"])[1]),
         report.spread(row["samples"]), report.number(row["own"]), report.number(row["file"])]
        for row in files
    ]  # fmt: skip
    print(report.table(["", "us a row", "spread", "own MiB", "MiB of files"], cells))
    share = float(np.median(np.divide(whole["samples"], mapped["samples"])))
    print(f"\nmapped: {share:.2f} of the throughput in memory")
    if wrong := mapped["loss"] != whole["loss"]:
        print(f"WRONG: losses {mapped['loss']} and {whole['loss']}")
    report.write(
        options,
        {
            "benchmark": "memory",
            "fingerprint": mark,
            "settings": {"rounds": options.rounds, "gigabytes": options.gigabytes},
            "key_names": ["", "peer"],
            "rows": [*good, *files],
            "without_numbers": [row for row in rows if "status" in row],
        },
    )
    return int(wrong or any(row.get("status") == "error" for row in rows))


if __name__ == "__main__":
    sys.exit(run())
