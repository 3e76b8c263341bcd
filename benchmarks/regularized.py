"""What batch normalization and dropout leave of the throughput of training without them.

    python benchmarks/regularized.py --networks digits,mnist --threads 1 --json regularized.json

The networks are those of `networks.py` and a deep one. After each hidden product the model has
nothing more (plain), batch normalization, dropout, or both. Each variant first trains one epoch on
both backends, which have to agree, and is then timed in turn with the others, in whole epochs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

import fastnn as fnn
from fastnn.benchmarks import report
from fastnn.benchmarks.networks import CROSS_ENTROPY, NETWORKS, Network, problem

DEEP = Network("deep", (64, *[128] * 8, 10), CROSS_ENTROPY, batch=64, steps=50)
VARIANTS = {"plain": (), "batch norm": ("norm",), "dropout": ("drop",), "both": ("norm", "drop")}
#: Relative deviation of a float32 epoch's mean loss from the float64 definition's: that of
#: ``train_step.py`` for a first epoch.
TOLERANCE = 3e-4


def build(network: Network, extras: Sequence[str], **options: Any) -> fnn.Sequential:
    """The network with these layers after each hidden product, compiled."""
    layers: list[Any] = [fnn.Input(network.sizes[0])]
    for units in network.sizes[1:-1]:
        layers.append(fnn.layers.Dense(units, use_bias="norm" not in extras))
        if "norm" in extras:
            layers.append(fnn.layers.BatchNormalization())
        layers.append(fnn.layers.Activation(network.activation))
        if "drop" in extras:
            layers.append(fnn.layers.Dropout(0.5))
    layers.append(fnn.layers.Dense(network.sizes[-1]))
    model = fnn.Sequential(layers, seed=0)
    loss: Any = network.loss
    if network.classifies:
        loss = fnn.losses.CrossEntropy(from_logits=True)
    optimizer = fnn.optimizers.Adam(network.learning_rate)
    model.compile(loss=loss, optimizer=optimizer, **options)
    return model


def epochs(model: fnn.Sequential, data: Sequence[np.ndarray], batch: int, count: int = 1) -> float:
    """Train; the last epoch's mean loss."""
    X, y = data
    history = model.fit(X, y, batch_size=batch, epochs=count, shuffle=False, verbose=0)
    return history.history["loss"][-1]


def check(network: Network, extras: Sequence[str], threads: int | None) -> float:
    """Relative deviation of the first losses from those of the definitions in float64."""
    *data, _ = problem(network, steps=3)
    ours = build(network, extras, threads=threads)
    definition = build(network, extras, backend="numpy", dtype="float64")
    definition.set_weights(ours.get_weights())
    true = epochs(definition, data, network.batch)
    return abs(epochs(ours, data, network.batch) - true) / abs(true)


def measure(
    network: Network, threads: int | None, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each variant: microseconds per step of every round."""
    *data, _ = problem(network)
    models = {name: build(network, extras, threads=threads) for name, extras in VARIANTS.items()}
    runs, steps = {}, {}
    for name, model in models.items():
        epochs(model, data, network.batch)
        start = time.perf_counter()
        epochs(model, data, network.batch)
        count = max(1, round(options.seconds / (time.perf_counter() - start)))
        runs[name] = partial(epochs, model, data, network.batch, count)
        steps[name] = count * network.steps
    found = report.in_turns(runs, options.rounds)
    samples = {name: [1e6 * s / steps[name] for s in found[name]] for name in models}
    return [
        {
            "key": [network.name, str(threads or "auto"), name],
            "unit": "us/step",
            "samples": taken,
            "of_plain": float(np.median(np.divide(samples["plain"], taken))),
        }
        for name, taken in samples.items()
    ]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    networks = NETWORKS | {DEEP.name: DEEP}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--networks", type=report.names_of(networks), default=list(networks),
        help=f"some of {','.join(networks)}",
    )  # fmt: skip
    parser.add_argument("--threads", default="1,auto", help="auto: as the compiler chooses")
    options = report.parse(parser, argv, rounds=7, seconds=0.2)
    options.networks = [networks[name] for name in options.networks]
    options.threads = [None if n == "auto" else int(n) for n in options.threads.split(",")]
    return options


def run(argv: Sequence[str] | None = None) -> int:
    """The benchmark as a command; 1 when a variant trains to another loss than its definition."""
    options = parse(argv)
    mark = report.fingerprint()
    print(report.describe(mark), flush=True)
    rows, wrong = [], 0
    for network in options.networks:
        print(f"\n## {network}\n")
        found = []
        for threads in options.threads:
            for name, extras in VARIANTS.items():
                deviation = check(network, extras, threads)
                if not deviation <= TOLERANCE:
                    wrong += 1
                    print(f"WRONG: {name}, threads {threads}: loss off by {deviation:.1e}")
            found += measure(network, threads, options)
        cells = [
            [
                row["key"][2],
                row["key"][1],
                report.number(report.quartiles(row["samples"])[1]),
                report.spread(row["samples"]),
                f"{row['of_plain']:.2f}",
            ]
            for row in found
        ]
        print(report.table(["", "threads", "us/step", "spread", "of plain"], cells), flush=True)
        rows += found
    settings = {"rounds": options.rounds, "seconds": options.seconds}
    result = {"benchmark": "regularized", "fingerprint": mark, "settings": settings}
    report.write(options, {**result, "rows": rows})
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(run())
