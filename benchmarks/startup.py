"""Time a fresh process from its start to a trained network, and the import of each library.

    python benchmarks/startup.py --json startup.json

Each process imports one library, makes the network 64-64-10 for the handwritten digits that come
with fastnn, and trains it for five epochs: batches of 32, Adam, a new order of the rows in every
epoch. It ends with the accuracy on the rows that were held out, which has to be that of a trained
network. README.md states the settings.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastnn.benchmarks import report

EPOCHS, BATCH, LEAST_ACCURACY = 5, 32, 0.85

LOAD = """
import sys
import numpy as np
data = np.load(sys.argv[1])
X, y, X_test, y_test = (data[name] for name in ("X", "y", "X_test", "y_test"))
rng = np.random.default_rng(0)
"""

#: What each process runs; X is float32 in [0, 1], y int64.
PROGRAMS = {
    "numpy-import": "import numpy\nprint(1.0)",
    "fastnn-import": "import fastnn\nprint(1.0)",
    "fastnn": LOAD
    + """
import fastnn as fnn
model = fnn.Sequential([fnn.layers.Dense(64, "relu"), fnn.layers.Dense(10, "softmax")])
model.compile("cross_entropy", "adam", metrics="accuracy")
model.fit(X, y, batch_size=32, epochs=5, verbose=0)
print(model.evaluate(X_test, y_test)["accuracy"])
""",
    "pytorch": LOAD
    + """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), fused=True)
X, y, X_test, y_test = map(torch.from_numpy, (X, y, X_test, y_test))
for _ in range(5):
    for rows in torch.randperm(len(X)).split(32):
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(X[rows]), y[rows]).backward()
        optimizer.step()
with torch.inference_mode():
    print((model(X_test).argmax(1) == y_test).float().mean().item())
""",
    "jax": LOAD
    + """
import jax
import jax.numpy as jnp

def make(inputs, units):
    limit = np.sqrt(6 / (inputs + units))
    return rng.uniform(-limit, limit, (inputs, units)).astype(np.float32), np.zeros(units, "f4")

def scores(weights, x):
    (W, b), (V, c) = weights
    return jax.nn.relu(x @ W + b) @ V + c

def loss(weights, x, y):
    return -jnp.take_along_axis(jax.nn.log_softmax(scores(weights, x)), y[:, None], 1).mean()

def step(state, batch):
    weights, m, v, t = state
    g = jax.grad(loss)(weights, *batch)
    t = t + 1
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
    rate = 1e-3 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    weights = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + 1e-8), weights, m, v)
    return (weights, m, v, t), None

@jax.jit
def epoch(state, X, y):
    return jax.lax.scan(step, state, (X.reshape(-1, 32, 64), y.reshape(-1, 32)))[0]

weights = [make(64, 64), make(64, 10)]
zeros = jax.tree.map(np.zeros_like, weights)
state = (weights, zeros, zeros, np.float32(0))
whole = len(X) // 32 * 32
for _ in range(5):
    order = rng.permutation(len(X))[:whole]
    state = epoch(state, X[order], y[order])
print(float((scores(state[0], X_test).argmax(1) == y_test).mean()))
""",
    "scikit-learn": LOAD
    + """
import warnings
from sklearn.neural_network import MLPClassifier
warnings.simplefilter("ignore")
model = MLPClassifier((64,), batch_size=32, max_iter=5, alpha=0, random_state=0).fit(X, y)
print(model.score(X_test, y_test))
""",
}

#: Programs that train nothing.
IMPORTS = ("numpy-import", "fastnn-import")


def milliseconds(program: str, data: str, threads: int) -> float:
    """From the start of a process to its end.

    Raises
    ------
    ModuleNotFoundError
        A library is missing.
    RuntimeError
        The process failed, or did not learn.
    """
    pools = ("OMP", "MKL", "OPENBLAS", "BLIS")
    environment = os.environ | {f"{pool}_NUM_THREADS": str(threads) for pool in pools}
    environment |= {"JAX_PLATFORMS": "cpu"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed library has its bytecode
    command = [sys.executable, "-c", PROGRAMS[program], data]
    start = time.perf_counter()
    ran = subprocess.run(command, env=environment, text=True, capture_output=True)
    spent = 1e3 * (time.perf_counter() - start)
    if ran.returncode:
        last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModuleNotFoundError(last) if "ModuleNotFound" in last else RuntimeError(last)
    if not float(ran.stdout) >= LEAST_ACCURACY:
        raise RuntimeError(f"accuracy {ran.stdout.strip()}, expected at least {LEAST_ACCURACY}")
    return spent


def write_data(file: Path) -> None:
    """The digits as arrays, so that no library has to read them in a way of its own."""
    import fastnn

    (X, y), (X_test, y_test) = fastnn.datasets.load_digits()
    scale = np.float32(1 / 16)
    np.savez(file, X=X * scale, X_test=X_test * scale, y=y, y_test=y_test)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--programs", type=report.names_of(PROGRAMS), default=list(PROGRAMS),
        help=f"some of {','.join(PROGRAMS)}",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="of BLAS and OpenMP (1)")
    return report.parse(parser, argv, rounds=7, seconds=None)


def run(argv: Sequence[str] | None = None) -> int:
    """The benchmark as a command; 1 when a process failed or did not learn."""
    options = parse(argv)
    mark = report.fingerprint()
    print(report.describe(mark), flush=True)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "digits.npz")
        write_data(data)
        for name in options.programs:  # files come into the system's cache; what is missing shows
            try:
                milliseconds(name, str(data), options.threads)
                found[name] = {"status": "ok", "samples": []}
            except ModuleNotFoundError as error:
                found[name] = {"status": "missing", "reason": str(error)}
            except RuntimeError as error:
                found[name] = {"status": "error", "reason": str(error)}
        ready = [name for name, row in found.items() if row["status"] == "ok"]
        for turn in range(options.rounds):
            for name in ready[:: 1 if turn % 2 == 0 else -1]:
                report.progress(f"round {turn + 1}: {name}")
                row = found[name]
                try:
                    row["samples"].append(milliseconds(name, str(data), options.threads))
                except RuntimeError as error:
                    row |= {"status": "error", "reason": str(error)}
            ready = [name for name in ready if found[name]["status"] == "ok"]
    report.progress("")
    rows = [{"key": [name], "unit": "ms", **row} for name, row in found.items()]
    base = found.get("fastnn", {}).get("samples")
    cells = [
        [
            name,
            report.number(report.quartiles(found[name]["samples"])[1]),
            report.spread(found[name]["samples"]),
            f"{np.median(np.divide(found[name]['samples'], base)):.2f}" if base else "-",
        ]
        for name in ready
    ]
    print("\n" + report.table(["process", "ms", "spread", "/fastnn"], cells))
    if set(IMPORTS) <= set(ready):
        more = np.subtract(*(found[name]["samples"] for name in reversed(IMPORTS)))
        print(f"\nimport fastnn beyond NumPy's own import: {np.median(more):.0f} ms")
    for name, row in found.items():
        if row["status"] != "ok":
            print(f"- {row['status'].upper()}: {name}: {row['reason']}")
    report.write(
        options,
        {
            "benchmark": "startup",
            "fingerprint": mark,
            "settings": {"rounds": options.rounds, "threads": options.threads},
            "key_names": ["peer"],
            "rows": [row for row in rows if row["status"] == "ok"],
            "without_numbers": [row for row in rows if row["status"] != "ok"],
        },
    )
    return int(any(row["status"] == "error" for row in rows))


if __name__ == "__main__":
    sys.exit(run())
