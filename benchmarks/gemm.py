"""Matrix products of training steps: our kernels against NumPy's BLAS and PyTorch's.

``python benchmarks/gemm.py`` checks each product against float64, then times all libraries in turn
on one thread, and prints GFLOP/s, the share of the measured FMA peak, and our ratio to the better
of the others. ``fastnn`` are the Cython kernels, ``numba`` those that Numba makes for the sizes at
hand. Shapes are those of the networks in `networks.py` (all three forms) and some more.

Ours is called from its native loop, as in training; NumPy's and PyTorch's from Python, as in
training with them, so for the smallest products their times hold the cost of a call.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastnn import machine
from fastnn.benchmarks import calls, report
from fastnn.benchmarks.networks import NETWORKS
from fastnn.kernels import provider
from fastnn.kernels.aot import executor
from fastnn.kernels.provider import Provider
from fastnn.runtime import aligned

#: The three forms, by the op that computes them: result, and operands as (rows, columns).
FORMS = {"dense": "NN", "dense_dx": "NT", "dense_dw": "TN"}
#: The largest size of a small product.
SMALL = 128
#: Further shapes: batch, inputs, units.
MORE = ((32, 4, 32), (128, 784, 128), *((n, n, n) for n in (32, 64, 256, 512, 1024)))


@dataclass
class Product:
    """One product with its operands, and what was measured."""

    op: str
    batch: int
    inputs: int
    units: int
    times: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        self.x = _fill(rng, self.batch, self.inputs)
        self.w = _fill(rng, self.inputs, self.units)
        self.dz = _fill(rng, self.batch, self.units)
        self.left, self.right, shape = {
            "dense": (self.x, self.w, (self.batch, self.units)),
            "dense_dx": (self.dz, self.w.T, (self.batch, self.inputs)),
            "dense_dw": (self.x.T, self.dz, (self.inputs, self.units)),
        }[self.op]
        self.out = aligned(math.prod(shape), "float32").reshape(shape)

    @property
    def name(self) -> str:
        m, n = self.out.shape
        return f"{FORMS[self.op]} {m}x{self.left.shape[1]}x{n}"

    @property
    def flops(self) -> float:
        return 2.0 * self.batch * self.inputs * self.units

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What was measured, for each library."""
        known = {
            "flops": self.flops,
            "bytes": 4 * (self.left.size + self.right.size + self.out.size),
        }
        return [
            {"key": [self.name, name], "unit": "us", "samples": [1e6 * t for t in times], **known}
            for name, times in self.times.items()
        ]

    def ours(self, kernels: Provider, scratch: np.ndarray) -> Callable[[float], float]:
        """Our kernel as a function of how long to run it, returning seconds per product."""
        step = np.zeros(1, executor.STEP)
        step["scratch"], step["rows"] = scratch.ctypes.data, self.batch
        operands = {
            "dense": (self.x, self.w, None, self.out),
            "dense_dx": (self.dz, self.w, None, None, self.out),
            "dense_dw": (self.x, self.dz, self.out, None),
        }[self.op]
        call = calls.bind(kernels, self.op, operands)
        call["step"] = step.ctypes.data
        keep = (step, call)
        return lambda seconds: executor.time_kernel(keep[1], seconds)

    def error(self) -> float:
        """Largest deviation of the result from float64, in units of eps times terms."""
        exact = self.left.astype(np.float64) @ self.right.astype(np.float64)
        scale = np.finfo(np.float32).eps * max(self.left.shape[1], 16)
        return float(np.abs(self.out - exact).max() / scale)


def _fill(rng: np.random.Generator, *shape: int) -> np.ndarray:
    array = aligned(math.prod(shape), "float32").reshape(shape)
    array[...] = rng.normal(size=shape)
    return array


def libraries(product: Product, scratch: np.ndarray) -> dict[str, Callable[[float], float]]:
    """Ours of both providers, NumPy and PyTorch, as far as they are installed, all writing the
    product's result."""
    left, right, out = product.left, product.right, product.out
    found = {"fastnn": product.ours(provider.cython("float32"), scratch)}
    with contextlib.suppress(ImportError):
        found["numba"] = product.ours(provider.numba("float32").for_sizes(), scratch)
    found["numpy"] = calls.repeat(lambda: np.matmul(left, right, out=out))
    try:
        import torch
    except ImportError:
        return found
    torch.set_num_threads(1)
    a, b, c = (torch.from_numpy(array) for array in (left, right, out))
    found["pytorch"] = calls.repeat(lambda: torch.mm(a, b, out=c))
    return found


def products() -> list[Product]:
    """Every product of the networks' training steps, then the rest."""
    shapes = []
    for network in NETWORKS.values():
        for layer, (inputs, units) in enumerate(
            zip(network.sizes, network.sizes[1:], strict=False)
        ):
            for op in FORMS:
                if op != "dense_dx" or layer > 0:
                    shapes.append((op, network.batch, inputs, units))
    shapes += [("dense", *shape) for shape in MORE]
    return [Product(*shape) for shape in dict.fromkeys(shapes)]


def run(argv: Sequence[str] | None = None) -> int:
    """The benchmark as a command; 1 when a result was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options = report.parse(parser, argv, rounds=7, seconds=0.02)
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":  # read when NumPy is loaded: start afresh
        pools = dict.fromkeys(("OPENBLAS", "MKL", "OMP", "BLIS"), "1")
        environment = os.environ | {f"{pool}_NUM_THREADS": n for pool, n in pools.items()}
        arguments = sys.argv[1:] if argv is None else argv
        command = [sys.executable, "-m", "fastnn.benchmarks.gemm", *arguments]
        return subprocess.run(command, env=environment).returncode
    mark = report.fingerprint()
    print(report.describe(mark), flush=True)
    peak = report.fma_peak([1])[1]
    print(f"measured FMA peak of one thread: {peak:.0f} GFLOP/s\n")
    scratch = aligned(max(k.scratch_bytes for k in calls.providers("float32")))
    rows, ratios, measured, wrong = [], [], [], 0
    for product in products():
        measures = libraries(product, scratch)
        for name, measure in measures.items():
            product.out.fill(np.nan)
            measure(0)
            if not product.error() < 4:
                print(f"WRONG: {name} {product.name}: error {product.error():.1f}")
                wrong = 1
            product.times[name] = []
        for _ in range(options.rounds):
            for name, measure in measures.items():
                product.times[name].append(measure(options.seconds))
        row, ratio = _summary(product, peak)
        rows.append(row)
        ratios.append(ratio)
        measured.append(product)
    headings = ["product", "FLOPs", *measures, "of peak", "ours / best other"]
    headings += ["numba / cython"] * ("numba" in measures)
    print(report.table(headings, rows))
    print(f"\nours / best other: {_summed_up(ratios)}")
    if "numba" in measures:
        against = [float(np.median(np.divide(p.times["fastnn"], p.times["numba"])))
                   for p in measured]  # fmt: skip
        small = [r for r, p in zip(against, measured, strict=True)
                 if max(p.batch, p.inputs, p.units) <= SMALL]  # fmt: skip
        print(f"numba / cython: {_summed_up(against)}")
        print(f"numba / cython, all sizes up to {SMALL}: {_summed_up(small)}")
    report.write(
        options,
        {
            "benchmark": "gemm",
            "fingerprint": mark,
            "settings": {"rounds": options.rounds, "seconds": options.seconds},
            "fma_gflops": {1: peak},
            "memory_gbytes": machine.measure().bandwidth(1),
            "key_names": ["product", "peer"],
            "rows": [row for product in measured for row in product.rows],
        },
    )
    return wrong


def _summed_up(ratios: Sequence[float]) -> str:
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return f"geometric mean {mean:.2f}, least {min(ratios):.2f}, over {len(ratios)} products"


def _summary(product: Product, peak: float) -> tuple[list[str], float]:
    rates = {
        name: product.flops / float(np.median(times)) / 1e9 for name, times in product.times.items()
    }
    others = [name for name in product.times if name not in ("fastnn", "numba")]
    # A ratio per round, so that what disturbs the machine disturbs both sides of it.
    per_round = [
        min(product.times[name][i] for name in others) / ours
        for i, ours in enumerate(product.times["fastnn"])
    ]
    ratio = float(np.median(per_round))
    spread = f"{ratio:.2f} ({min(per_round):.2f}-{max(per_round):.2f})"
    row = [
        product.name,
        f"{product.flops:,.0f}",
        *(f"{rate:.1f}" for rate in rates.values()),
        f"{100 * rates['fastnn'] / peak:.0f}%",
        spread,
    ]
    if "numba" in product.times:
        against = np.divide(product.times["fastnn"], product.times["numba"])
        row.append(f"{np.median(against):.2f} ({against.min():.2f}-{against.max():.2f})")
    return row, ratio


if __name__ == "__main__":
    sys.exit(run())
