"""Time answers from Python: a few rows at a time, each call by itself, and large batches.

    python benchmarks/latency.py --json latency.json

Every library first gives the same outputs as NumPy in float64. README.md states the settings.
"""

from __future__ import annotations

import argparse
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from fastnn.benchmarks import report
from fastnn.benchmarks.networks import NETWORKS, Network, initial_weights

#: Networks for answers to a few rows, and for large batches.
FEW, LARGE = ("digits", "mnist", "wide"), ("wide", "big")
LARGE_ROWS = 2048
#: Deviation of float32 probabilities from those in float64.
TOLERANCE = 1e-5


class Answers(ABC):
    """One library with one network: softmax probabilities of rows that lie in NumPy's memory."""

    name: ClassVar[str]

    @abstractmethod
    def __init__(self, network: Network, weights: list[np.ndarray], threads: int) -> None: ...

    @abstractmethod
    def call(self, x: np.ndarray) -> Callable[[], Any]:
        """A function that answers for x, which returns an array or something that is like one."""


class FastnnInto(Answers):
    name = "fastnn"
    backend: ClassVar[str] = "cython"

    def __init__(self, network, weights, threads) -> None:
        from fastnn import Input, Sequential, layers

        hidden = [layers.Dense(units, network.activation) for units in network.sizes[1:-1]]
        last = layers.Dense(network.sizes[-1], "softmax")
        self.model = Sequential([Input(network.sizes[0]), *hidden, last])
        self.model.compile("cross_entropy", backend=self.backend, threads=threads)
        self.model.set_weights(weights)

    def call(self, x) -> Callable[[], Any]:
        predict_into = self.model.predict_into
        out = np.empty((len(x), self.model.predict(x[:1]).shape[1]), np.float32)
        return lambda: predict_into(x, out)


class FastnnNumbaInto(FastnnInto):
    name = "fastnn-numba"
    backend = "numba"


class FastnnPredict(FastnnInto):
    """``predict``, which checks its argument and makes a new array."""

    name = "fastnn-predict"

    def call(self, x) -> Callable[[], Any]:
        return lambda: self.model.predict(x)


class Numpy(Answers):
    """On as many threads as its BLAS takes: it has no setting for that."""

    name = "numpy"

    def __init__(self, network, weights, threads) -> None:
        self.weights = weights

    def call(self, x) -> Callable[[], Any]:
        return lambda: probabilities(self.weights, x)


class PyTorch(Answers):
    """Eager, in inference mode, on a tensor that is there already."""

    name = "pytorch"

    def __init__(self, network, weights, threads) -> None:
        import torch
        from torch import nn

        torch.set_num_threads(threads)
        modules: list[nn.Module] = []
        for i, (W, b) in enumerate(zip(weights[0::2], weights[1::2], strict=True)):
            linear = nn.Linear(*W.shape)
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(W).T)
                linear.bias.copy_(torch.from_numpy(b))
            modules += [*([nn.ReLU()] if i else []), linear]
        self.model = nn.Sequential(*modules, nn.Softmax(dim=1)).eval()
        self.torch = torch

    def call(self, x) -> Callable[[], Any]:
        tensor = self.torch.from_numpy(x)
        inference_mode, model = self.torch.inference_mode, self.model

        def answer() -> Any:
            with inference_mode():
                return model(tensor)

        return answer


class OnnxRuntime(Answers):
    """A session of its own, ``run`` with an array; Gemm, Relu and Softmax nodes."""

    name = "onnxruntime"

    def __init__(self, network, weights, threads) -> None:
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper

        nodes, arrays, last = [], [], "x"
        for i, (W, b) in enumerate(zip(weights[0::2], weights[1::2], strict=True)):
            if i:
                nodes.append(helper.make_node("Relu", [last], [f"h{i}"]))
                last = f"h{i}"
            arrays += [numpy_helper.from_array(W, f"W{i}"), numpy_helper.from_array(b, f"b{i}")]
            nodes.append(helper.make_node("Gemm", [last, f"W{i}", f"b{i}"], [f"z{i}"]))
            last = f"z{i}"
        nodes.append(helper.make_node("Softmax", [last], ["p"], axis=1))
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
            for name, size in (("x", network.sizes[0]), ("p", network.sizes[-1]))
        ]
        graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], arrays)
        opset = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=9)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def call(self, x) -> Callable[[], Any]:
        run, feeds = self.session.run, {"x": x}
        return lambda: run(None, feeds)[0]


class OnnxRuntimeBound(OnnxRuntime):
    """The same with input and output bound to NumPy's memory beforehand."""

    name = "onnxruntime-bound"

    def call(self, x) -> Callable[[], Any]:
        out = self.session.run(None, {"x": x})[0].copy()
        bound = self.session.io_binding()
        bound.bind_input("x", "cpu", 0, x.dtype, x.shape, x.ctypes.data)
        bound.bind_output("p", "cpu", 0, out.dtype, out.shape, out.ctypes.data)
        out[...] = 0
        run = self.session.run_with_iobinding

        def answer() -> Any:
            run(bound)
            return out

        return answer


LIBRARIES = {
    library.name: library
    for library in (
        FastnnInto,
        FastnnNumbaInto,
        FastnnPredict,
        Numpy,
        PyTorch,
        OnnxRuntime,
        OnnxRuntimeBound,
    )
}


def probabilities(weights: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    """The network's answer as a textbook writes it."""
    for i in range(0, len(weights), 2):
        x = (np.maximum(x, 0) if i else x) @ weights[i] + weights[i + 1]
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def flops(network: Network, rows: int) -> float:
    return 2.0 * rows * sum(a * b for a, b in pairwise(network.sizes))


def measure(
    network: Network, rows: int, threads: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each library: the median of every round, in microseconds, and of all calls the
    99th percentile."""
    rng = np.random.default_rng(0)
    weights = initial_weights(network.sizes)
    x = rng.standard_normal((rows, network.sizes[0]), dtype=np.float32)
    right = probabilities([w.astype(np.float64) for w in weights], x.astype(np.float64))
    calls, found = {}, []
    for name in options.libraries:
        row: dict[str, Any] = {"key": [network.name, rows, threads, name], "unit": "us"}
        try:
            call = LIBRARIES[name](network, weights, threads).call(x)
        except ImportError as error:
            found.append(row | {"status": "missing", "reason": str(error)})
            continue
        deviation = float(np.abs(np.asarray(call()) - right).max())
        if not deviation <= TOLERANCE:
            found.append(row | {"status": "wrong", "reason": f"off by {deviation:.1e}"})
            continue
        calls[name] = call
        found.append(row | {"status": "ok", "samples": [], "calls": []})
    for turn in range(options.rounds):
        for row in found[:: 1 if turn % 2 == 0 else -1]:
            if row["status"] == "ok":
                report.progress(f"{network.name}, {rows} rows: round {turn + 1}: {row['key'][3]}")
                taken = times(calls[row["key"][3]], options)
                row["samples"].append(float(np.median(taken)))
                row["calls"].append(taken)
    report.progress("")
    base = next((row for row in found if row["key"][3] == "fastnn" and row["status"] == "ok"), None)
    for row in found:
        if row["status"] == "ok":
            every = np.concatenate(row.pop("calls"))
            row["p99"], row["count"] = float(np.percentile(every, 99)), len(every)
            row["gflops"] = flops(network, rows) / float(np.median(row["samples"])) / 1e3
            if base is not None:
                row["ratio"] = float(np.median(np.divide(row["samples"], base["samples"])))
    return found


def times(call: Callable[[], Any], options: argparse.Namespace) -> np.ndarray:
    """Microseconds of each of many calls, after some that are not counted."""
    clock = time.perf_counter_ns
    for _ in range(3):
        call()
    start = clock()
    call()
    count = int(min(options.calls, max(5, options.seconds * 1e9 / max(clock() - start, 1))))
    taken = np.empty(count)
    for i in range(count):
        start = clock()
        call()
        taken[i] = clock() - start
    return taken / 1e3


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--libraries", type=report.names_of(LIBRARIES), default=list(LIBRARIES),
        help=f"some of {','.join(LIBRARIES)}",
    )  # fmt: skip
    parser.add_argument("--rows", default="1,16", help="rows of a call (%(default)s)")
    parser.add_argument("--calls", type=int, default=15000, help="calls of a turn (%(default)s)")
    parser.add_argument("--no-large", action="store_true", help="leave out the large batches")
    options = report.parse(parser, argv, rounds=7, seconds=0.5)
    options.rows = [int(rows) for rows in options.rows.split(",")]
    return options


def run(argv: Sequence[str] | None = None) -> int:
    """The benchmark as a command; 1 when an answer was wrong."""
    options = parse(argv)
    mark = report.fingerprint()
    print(report.describe(mark), flush=True)
    cores = len(report.cores())
    cases = [(NETWORKS[name], rows, 1) for name in FEW for rows in options.rows]
    if not options.no_large:
        cases += [(NETWORKS[name], LARGE_ROWS, n) for name in LARGE for n in sorted({1, cores})]
    peak = report.fma_peak(sorted({1, cores}))
    rows = []
    for network, count, threads in cases:
        found = measure(network, count, threads, options)
        sizes = "-".join(map(str, network.sizes))
        print(f"\n## {network.name}: {sizes}, {count} rows, threads {threads}\n")
        cells = [
            [
                row["key"][3],
                report.number(report.quartiles(row["samples"])[1]),
                report.spread(row["samples"]),
                report.number(row["p99"]),
                f"{row['p99'] / report.quartiles(row['samples'])[1]:.1f}",
                f"{row['count']:,}",
                report.number(row["gflops"]),
                f"{100 * row['gflops'] / peak[threads]:.0f}%",
                f"{row['ratio']:.2f}" if "ratio" in row else "-",
            ]
            for row in found
            if row["status"] == "ok"
        ]
        header = ["", "us", "spread", "p99", "p99 / us", "calls", "GFLOP/s", "of peak", "/fastnn"]
        print(report.table(header, cells), flush=True)
        for row in found:
            if row["status"] != "ok":
                print(f"- {row['status'].upper()}: {row['key'][3]}: {row['reason']}")
        rows += found
    settings = {name: getattr(options, name) for name in ("rounds", "seconds", "calls")}
    report.write(
        options,
        {
            "benchmark": "latency",
            "fingerprint": mark,
            "settings": settings,
            "fma_gflops": peak,
            "key_names": ["network", "rows", "threads", "peer"],
            "rows": [row for row in rows if row["status"] == "ok"],
            "without_numbers": [row for row in rows if row["status"] != "ok"],
        },
    )
    return int(any(row["status"] == "wrong" for row in rows))


if __name__ == "__main__":
    sys.exit(run())
