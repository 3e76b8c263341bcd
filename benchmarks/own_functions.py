"""What a function of a user's own costs against the library's: the same formula, both ways.

    python benchmarks/own_functions.py --threads 1 --json own.json

An activation (tanh) and an optimizer (Adam), written as a user would, and ours. Both models train
the same epochs first and have to end with the same weights; then they are timed in turn.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import sqrt, tanh
from typing import Any

import numpy as np

import fastnn as fnn
from fastnn.benchmarks import report
from fastnn.benchmarks.networks import NETWORKS, Network, problem

NAMES = ("tiny", "digits", "mnist", "wide")


Choice = tuple[Any, Callable]  # an activation, and an optimizer for a rate


def pairs() -> dict[str, tuple[Choice, Choice]]:
    """What is compared: the user's and ours. Defines what the user has written."""

    @fnn.custom.activation
    def own_tanh(x):
        return tanh(x)

    @own_tanh.derivative
    def _(x, y):
        return 1 - y * y

    @fnn.custom.optimizer(state=("m", "v"), constants=("pace", "floor"))
    def own_adam(w, g, m, v, rate, beta1=0.9, beta2=0.999, epsilon=1e-7, pace=1.0, floor=0.0):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        return w - rate * pace * m / (sqrt(v) + floor), m, v

    @own_adam.per_step
    def _(step, beta1, beta2, epsilon):
        root = sqrt(1 - beta2**step)
        return root / (1 - beta1**step), epsilon * root

    sgd = fnn.optimizers.SGD
    return {
        "tanh": ((own_tanh, sgd), ("tanh", sgd)),
        "Adam": (
            ("relu", own_adam),
            ("relu", lambda rate: fnn.optimizers.Adam(rate, epsilon=1e-7)),
        ),
    }


def build(network: Network, choice: Choice, **options: Any) -> fnn.Sequential:
    activation, optimizer = choice
    layers: list[Any] = [fnn.Input(network.sizes[0])]
    layers += [fnn.layers.Dense(units, activation) for units in network.sizes[1:-1]]
    layers.append(fnn.layers.Dense(network.sizes[-1]))
    loss: Any = network.loss
    if network.classifies:
        loss = fnn.losses.CrossEntropy(from_logits=True)
    model = fnn.Sequential(layers, seed=0)
    model.compile(loss=loss, optimizer=optimizer(network.learning_rate), **options)
    return model


def train(model: fnn.Sequential, data: Sequence[np.ndarray], batch: int, epochs: int) -> None:
    X, y = data
    model.fit(X, y, batch_size=batch, epochs=epochs, shuffle=False, verbose=0)


def check(network: Network, pair: Sequence[Choice], threads: int) -> float:
    """Mean deviation of the weights after two short epochs in float64, in learning rates."""
    *data, _ = problem(network, steps=3)
    found = []
    for choice in pair:
        model = build(network, choice, threads=threads, dtype="float64")
        train(model, data, network.batch, 2)
        found.append(model.parameters.copy())
    return float(np.abs(found[0] - found[1]).mean()) / network.learning_rate


def measure(
    network: Network, pair: Sequence[Choice], options: argparse.Namespace
) -> tuple[list[float], list[float]]:
    """Microseconds per step of the user's and of ours, one of each a round."""
    *data, _ = problem(network)
    models = [build(network, choice, threads=options.threads) for choice in pair]
    for model in models:
        train(model, data, network.batch, 2)
    start = time.perf_counter()
    train(models[1], data, network.batch, 2)
    epochs = max(1, round(2 * options.seconds / (time.perf_counter() - start)))
    runs = {
        side: partial(train, model, data, network.batch, epochs)
        for side, model in zip(("own", "library"), models, strict=True)
    }
    found = report.in_turns(runs, options.rounds)
    own, ours = ([1e6 * s / (epochs * network.steps) for s in found[side]] for side in runs)
    return own, ours


def run(argv: Sequence[str] | None = None) -> int:
    """The benchmark as a command; 1 when the two models end with different weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    options = report.parse(parser, argv, rounds=11, seconds=0.1)
    mark = report.fingerprint()
    print(report.describe(mark), flush=True)
    compared = pairs()
    cells, rows, wrong = [], [], 0
    for what, pair in compared.items():
        for name in NAMES:
            deviation = check(NETWORKS[name], pair, options.threads)
            if not deviation < 1e-6:
                wrong += 1
                print(f"WRONG: {what}, {name}: weights differ by {deviation:.1e} learning rates")
            own, ours = measure(NETWORKS[name], pair, options)
            speed = np.divide(ours, own)
            key = [what, name, options.threads]
            rows += [
                {"key": [*key, side], "unit": "us/step", "samples": samples}
                for side, samples in (("own", own), ("library", ours))
            ]
            middle = [report.number(report.quartiles(s)[1]) for s in (own, ours)]
            cells.append(
                [f"{what}, {name}", *middle, f"{np.median(speed):.2f}", report.spread(list(speed))]
            )
    for name in ("own_tanh", "own_adam"):
        fnn.custom.forget(name)
    header = ["", "own, us/step", "library, us/step", "speed of own", "spread"]
    print(report.table(header, cells))
    settings = {"rounds": options.rounds, "seconds": options.seconds}
    result = {"benchmark": "own_functions", "fingerprint": mark, "settings": settings}
    report.write(options, {**result, "rows": rows})
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(run())
