"""From a network to a program: layers -> graph -> autodiff -> fuse -> plan -> program.

``compile_program`` is the whole pipeline; each module is one of its steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..kernels.op import BATCH
from .autodiff import differentiate
from .fuse import fuse, fuse_update, stabilise
from .graph import Graph, Node, Sum, Tensor
from .plan import item_size, plan
from .program import Cost, Program
from .split import Split, available_threads, choose

__all__ = [
    "Cost",
    "Graph",
    "Node",
    "Program",
    "Purpose",
    "Split",
    "Sum",
    "Target",
    "Tensor",
    "available_threads",
    "build_graph",
    "compile_program",
]


@dataclass(frozen=True)
class Target:
    """What a prediction is compared with: class labels (B,), or numbers (B, outputs)."""

    labels: Tensor | None
    targets: Tensor | None


class Network(Protocol):
    """What the compiler asks of a model."""

    features: int
    size: int

    def emit(self, graph: Graph, x: Tensor, training: bool) -> tuple[Tensor, list[Tensor]]:
        """Emit the forward ops; the prediction and the parameters."""
        ...

    def emit_penalties(self, graph: Graph, parameters: list[Tensor]) -> list[Tensor]:
        """Emit what regularizers add to the loss."""
        ...


@dataclass(frozen=True)
class Purpose:
    """What a program is for, and so which parts it has.

    ``train`` runs everything, ``gradients`` leaves the parameters alone, ``evaluate`` computes loss
    and metrics, ``predict`` stores predictions. ``labels`` says whether targets are class numbers.
    """

    kind: str
    labels: bool = False
    weighted: bool = False
    loss: Any = None
    metrics: tuple[Any, ...] = ()
    optimizer: Any = None


def _emit_target(graph: Graph, purpose: Purpose, units: int) -> Target:
    if purpose.labels:
        source = Tensor("y", (BATCH,), type="int32", region="feed")
        return Target(graph.emit("gather_labels", source)[0], None)
    source = Tensor("y", (BATCH, units), region="feed")
    return Target(None, graph.emit("gather", source, scale=1.0, offset=0.0)[0])


def build_graph(network: Network, purpose: Purpose) -> Graph:
    """The graph of one step, differentiated but not yet fused."""
    graph = Graph()
    training = purpose.kind in ("train", "gradients")
    with graph.during("gather"):
        source = Tensor("x", (BATCH, network.features), region="feed")
        (x,) = graph.emit("gather", source, scale=1.0, offset=0.0)
    prediction, parameters = network.emit(graph, x, training)
    if purpose.kind == "predict":
        (made,) = graph.emit("store", prediction)
        return graph.substitute({made: Tensor("out", prediction.shape, region="feed")})
    with graph.during("gather"):
        target = _emit_target(graph, purpose, prediction.shape[1])
        weights = None
        if purpose.weighted:
            feed = Tensor("w", (BATCH, 1), region="feed")
            (weights,) = graph.emit("gather", feed, scale=1.0, offset=0.0)
    rows = purpose.loss.emit(graph, prediction, target, weights)
    graph.sums.append(Sum("loss", rows, per_row=True, is_loss=True))
    for metric in purpose.metrics:
        rows = metric.emit(graph, prediction, target, purpose.loss)
        graph.sums.append(Sum(metric.name, rows, per_row=True, is_loss=False))
    for parts in network.emit_penalties(graph, parameters):
        graph.sums.append(Sum("penalty", parts, per_row=False, is_loss=True))
    graph = graph.with_nodes(sorted(graph.nodes, key=lambda node: node.phase != "gather"))
    graph = stabilise(graph)
    if training:
        graph = differentiate(graph, parameters)
    if purpose.kind == "train":
        _emit_update(graph, network.size, purpose.optimizer)
    return graph


def _emit_update(graph: Graph, size: int, optimizer: Any) -> None:
    rate = optimizer.learning_rate
    with graph.during("gather"):  # before anything is updated
        graph.emit(
            "schedule", function=rate.function, parameters=rate.parameters, warm_up=rate.warm_up
        )
        rule = {"function": optimizer.function, "parameters": optimizer.parameters}
        graph.emit("prepare_update", **rule)
    graph.nodes[:] = [*graph.nodes[-2:], *graph.nodes[:-2]]
    with graph.during("update"):
        flat = Tensor("parameters", (size,), region="parameters")
        gradients = Tensor("gradients", (size,), region="gradients")
        segments = Tensor("segments", (1, 4), type="double", region="table")
        graph.tables[segments] = np.array([[0.0, size, 0.0, 0.0]])
        states: list[Tensor | None] = [
            Tensor(name, (size,), region="state", slot=i) for i, name in enumerate(optimizer.state)
        ]
        states += [None] * (4 - len(states))
        graph.emit(
            "update",
            flat,
            gradients,
            segments,
            *states,
            **rule,
        )


def compile_program(
    network: Network,
    purpose: Purpose,
    *,
    batch: int,
    dtype: str,
    threads: int,
    forced: bool = False,
    any_threads: bool = False,
) -> Program:
    """Compile a network for one purpose and batches of up to ``batch`` rows.

    ``threads`` is the most that may be used, or, when ``forced``, the number to use.
    ``any_threads`` asks for results that do not depend on the number of threads, which rules out
    giving each thread its own rows.
    """
    graph = fuse(build_graph(network, purpose))
    outline = _program(graph, network, purpose, batch, dtype, Split("one", 1, "one thread"))
    split = choose(
        sum(outline.cost(n, batch).flops for n in graph.nodes if n.phase != "update"),
        network.size if purpose.kind == "train" else 0,
        outline.compute,
        batch,
        item_size("real", dtype),
        threads,
        # Without an update pass nothing would sum the threads' gradients, and a penalty that is not
        # part of that pass would be added by each.
        can_shard=purpose.kind != "gradients"
        and not any_threads
        and all(n.op.name != "penalty_gradient" for n in graph.nodes),
        forced=forced,
    )
    if split.mode != "shard":
        graph = fuse_update(graph, batch)
    return _program(graph, network, purpose, batch, dtype, split)


def _program(
    graph: Graph, network: Network, purpose: Purpose, batch: int, dtype: str, split: Split
) -> Program:
    shards = split.threads if split.mode == "shard" else 1
    return Program(
        purpose=purpose.kind,
        nodes=tuple(graph.nodes),
        sums=tuple(graph.sums),
        tables=graph.tables,
        plan=plan(graph.nodes, -(-batch // shards), batch, dtype),
        split=split,
        batch=batch,
        dtype=dtype,
        parameters=network.size,
        states=len(purpose.optimizer.state) if purpose.kind == "train" else 0,
    )
