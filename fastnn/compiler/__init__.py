"""From a network to a program: layers -> graph -> autodiff -> fuse -> plan -> program.

``compile_program`` is the whole pipeline; each module is one of its steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..kernels.op import BATCH
from ..kernels.ref.random import MIXTURE
from .autodiff import append_backward, differentiate
from .fuse import fuse, fuse_update, stabilise
from .graph import PHASES, Graph, Node, Sum, Tensor
from .parts import divide_inputs
from .plan import item_size, plan, tensor_bytes
from .program import Cost, Program
from .split import Split, Units, available_threads, choose
from .units import MOST_BYTES, divide_units

__all__ = [
    "PENALTY",
    "Cost",
    "Graph",
    "Head",
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
    "feed_name",
]


@dataclass(frozen=True)
class Target:
    """What a prediction is compared with: class labels (B,), or numbers (B, outputs)."""

    labels: Tensor | None
    targets: Tensor | None


class Network(Protocol):
    """What the compiler asks of a model."""

    @property
    def features(self) -> Sequence[int]:
        """Numbers of an example of each input."""
        ...

    @property
    def size(self) -> int:
        """Numbers of all parameters."""
        ...

    @property
    def buffers(self) -> int:
        """Numbers of what layers keep beside their parameters."""
        ...

    def emit(
        self, graph: Graph, xs: Sequence[Tensor], training: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Emit the forward ops; the outputs and the parameters."""
        ...

    def emit_penalties(self, graph: Graph, parameters: list[Tensor]) -> list[Tensor]:
        """Emit what regularizers add to the loss."""
        ...


@dataclass(frozen=True)
class Head:
    """What becomes of one output: its loss, with its weight among several, and metrics.

    ``labels`` says whether targets are class numbers; ``name`` is empty for an only output.
    """

    loss: Any
    labels: bool = False
    metrics: tuple[Any, ...] = ()
    name: str = ""
    weight: float = 1.0

    def title(self, quantity: str) -> str:
        """What a quantity of this output is called in logs."""
        return f"{self.name}_{quantity}" if self.name else quantity


@dataclass(frozen=True)
class Purpose:
    """What a program is for, and so which parts it has.

    ``train`` runs everything, ``gradients`` leaves the parameters alone, ``evaluate`` computes loss
    and metrics, ``predict`` stores outputs. ``inputs`` stores gradients by the inputs: of the loss,
    or, where there are no heads, of the outputs times given cotangents. ``mixup`` above 0 trains on
    mixtures of rows.
    """

    kind: str
    heads: tuple[Head, ...] = ()
    weighted: bool = False
    optimizer: Any = None
    mixup: float = 0.0

    @property
    def states(self) -> int:
        """How many vectors like the parameters the optimizer keeps."""
        return len(self.optimizer.slots) if self.kind == "train" else 0


#: Name of the sums that penalties add to the loss.
PENALTY = "penalty"


def feed_name(name: str, i: int) -> str:
    """Name of the user's array number i: ``x``, ``x1``, ``x2``, ..."""
    return f"{name}{i or ''}"


def _gather(graph: Graph, name: str, i: int, numbers: int) -> Tensor:
    """The rows of a batch from one of the user's arrays."""
    source = Tensor(feed_name(name, i), (BATCH, numbers), region="feed")
    with graph.during("gather"):
        return graph.emit("gather", source, scale=1.0, offset=0.0)[0]


def _mixed(graph: Graph, x: Tensor | None, purpose: Purpose) -> Tensor:
    """Mixtures of rows, the same ones for examples and targets."""
    assert x is not None
    with graph.during("gather"):
        return graph.emit("mix", x, concentration=purpose.mixup, stream=MIXTURE)[0]


def _store(graph: Graph, name: str, results: Sequence[Tensor]) -> Graph:
    """Write results to the user's arrays."""
    swap = {}
    for i, result in enumerate(results):
        (made,) = graph.emit("store", result)
        swap[made] = Tensor(feed_name(name, i), result.shape, region="feed")
    return graph.substitute(swap)


def _target(graph: Graph, head: Head, i: int, units: int) -> Target:
    if not head.labels:
        return Target(None, _gather(graph, "y", i, units))
    source = Tensor(feed_name("y", i), (BATCH,), type="int32", region="feed")
    with graph.during("gather"):
        return Target(graph.emit("gather_labels", source)[0], None)


def _emit_losses(graph: Graph, purpose: Purpose, outputs: Sequence[Tensor]) -> None:
    """The loss and the metrics of each output."""
    targets = [
        _target(graph, head, i, output.shape[1])
        for i, (head, output) in enumerate(zip(purpose.heads, outputs, strict=True))
    ]
    if purpose.mixup:
        targets = [Target(None, _mixed(graph, t.targets, purpose)) for t in targets]
    weights = _gather(graph, "w", 0, 1) if purpose.weighted else None
    for head, output, target in zip(purpose.heads, outputs, targets, strict=True):
        rows = head.loss.emit(graph, output, target, weights)
        graph.sums.append(Sum(head.title("loss"), rows, True, True, head.weight))
        for metric in head.metrics:
            rows = metric.emit(graph, output, target, head.loss)
            graph.sums.append(Sum(head.title(metric.name), rows, per_row=True, is_loss=False))


def build_graph(network: Network, purpose: Purpose) -> Graph:
    """The graph of one step, differentiated but not yet fused."""
    graph = Graph()
    xs = [_gather(graph, "x", i, numbers) for i, numbers in enumerate(network.features)]
    if purpose.mixup:
        xs = [_mixed(graph, x, purpose) for x in xs]
    if purpose.kind == "inputs":
        for x in xs:
            graph.follow(x)
    outputs, parameters = network.emit(graph, xs, purpose.kind in ("train", "gradients"))
    if purpose.kind == "predict":
        return _in_phases(_store(graph, "out", outputs))
    given: dict[Tensor, Tensor] = {}
    if purpose.heads:
        _emit_losses(graph, purpose, outputs)
    else:
        for i, output in enumerate(outputs):
            cotangent = _gather(graph, "y", i, output.shape[1])
            if output in given:  # several outputs are the same
                with graph.during("backward"):
                    (cotangent,) = graph.emit("add", given[output], cotangent)
            given[output] = cotangent
    if purpose.kind != "inputs":
        for parts in network.emit_penalties(graph, parameters):
            graph.sums.append(Sum(PENALTY, parts, per_row=False, is_loss=True))
    graph = stabilise(_in_phases(graph))
    if purpose.kind == "inputs":
        gradients = append_backward(graph, given)
        with graph.during("update"):
            graph = _store(graph, "out", [gradients[x] for x in xs])
    elif purpose.kind != "evaluate":
        graph = differentiate(graph, parameters)
    if purpose.kind == "train":
        _emit_update(graph, parameters, network.size, purpose.optimizer)
    else:
        graph = graph.with_nodes(n for n in graph.nodes if not n.op.writes)
    return _in_phases(graph)


def _in_phases(graph: Graph) -> Graph:
    """The nodes in the order of their phases, and as they were emitted within each."""
    return graph.with_nodes(sorted(graph.nodes, key=lambda node: PHASES.index(node.phase)))


def _emit_update(graph: Graph, parameters: Sequence[Tensor], size: int, optimizer: Any) -> None:
    rate = optimizer.learning_rate
    with graph.during("gather"):  # before anything is updated
        graph.emit(
            "schedule", function=rate.function, parameters=rate.parameters, warm_up=rate.warm_up
        )
        rule = {
            "function": optimizer.function,
            "parameters": optimizer.parameters,
            "weight_decay": optimizer.decoupled_decay,
        }
        graph.emit("prepare_update", **rule)
    graph.nodes[:] = [*graph.nodes[-2:], *graph.nodes[:-2]]
    flat = Tensor("parameters", (size,), region="parameters")
    gradients = Tensor("gradients", (size,), region="gradients")
    with graph.during("update"):
        _emit_clipping(graph, parameters, gradients, optimizer)
        segments = Tensor("segments", (1, 4), type="double", region="table")
        graph.tables[segments] = np.array([[0.0, size, optimizer.coupled_decay, 0.0]])
        states: list[Tensor | None] = [
            Tensor(name, (size,), region="state", slot=i) for i, name in enumerate(optimizer.state)
        ]
        states += [None] * (4 - len(states))
        graph.emit("update", flat, gradients, segments, *states, **rule)
    if optimizer.ema is not None:
        slot = len(optimizer.state)
        average = Tensor("average", (size,), region="state", slot=slot)
        with graph.during("constrain"):
            graph.emit("average_weights", flat, average, decay_rate=optimizer.ema)


def _emit_clipping(
    graph: Graph, parameters: Sequence[Tensor], gradients: Tensor, optimizer: Any
) -> None:
    """Clip gradients before the update: each number, each array's length, or that of all."""
    if optimizer.clip_value is not None:
        graph.emit_in_place("clip_value", gradients, limit=optimizer.clip_value)
    arrays = []
    if optimizer.clip_norm is not None:
        arrays = [
            Tensor(f"d{p.name}", p.shape, region="gradients", offset=p.offset) for p in parameters
        ]
    for gradient in arrays:
        (parts,) = graph.emit("squared_norm", gradient)
        graph.emit_in_place("clip_norm", gradient, parts, limit=optimizer.clip_norm)
    if optimizer.clip_global_norm is not None:
        (parts,) = graph.emit("squared_norm", gradients)
        graph.emit_in_place("clip_norm", gradients, parts, limit=optimizer.clip_global_norm)


def compile_program(
    network: Network,
    purpose: Purpose,
    *,
    batch: int,
    dtype: str,
    threads: int,
    steps: int = 1,
    forced: bool = False,
    any_threads: bool = False,
) -> Program:
    """Compile a network for one purpose and batches of up to ``batch`` rows.

    ``threads`` is the most that may be used, or, when ``forced``, the number to use; ``steps`` are
    expected of a native call.
    ``any_threads`` asks for results that do not depend on the number of threads, which rules out
    giving each thread its own rows.
    """
    graph = fuse(build_graph(network, purpose))
    updated, item = fuse_update(graph, batch), item_size("real", dtype)
    one = Split("one", 1, "one thread")
    outline = _program(graph, network, purpose, batch, dtype, one)
    divided = units = None
    small = network.size * (1 + purpose.states) * item <= MOST_BYTES
    if purpose.kind == "train" and small and not any_threads:
        divided = divide_units(updated, threads)
    if divided is not None:
        share = _flops(outline, divided.graph) / _flops(outline, updated)
        vectors = divided.size("parameters") * (1 + purpose.states) + divided.size("buffers")
        copied = 4 * vectors * item  # read and written, before the first step and after the last
        units = Units(share, divided.meetings, divided.moved * batch * item, copied)
    split = choose(
        _flops(outline, graph),
        network.size if purpose.kind == "train" else 0,
        outline.compute,
        batch,
        item,
        threads,
        # Without an update pass nothing would sum the threads' gradients.
        can_shard=purpose.kind != "gradients"
        and not any_threads
        and not any(n.op.whole for n in graph.nodes),
        units=units,
        moved=sum(tensor_bytes(t, batch, dtype) for t in outline.plan.life),
        steps=steps,
        forced=forced,
    )
    if split.mode == "units":
        assert divided is not None
        whole = _program(updated, network, purpose, batch, dtype, one)
        own = _program(divided.graph, network, purpose, batch, dtype, split)
        return replace(
            own,
            parameters=divided.size("parameters"),
            buffers=divided.size("buffers"),
            parts=divided.parts,
            repeated=divided.repeated,
            whole=whole,
        )
    if split.mode != "shard":
        graph = updated
    if split.mode == "split" and not any_threads:
        graph = divide_inputs(graph, batch, split.threads, item)
    return _program(graph, network, purpose, batch, dtype, split)


def _flops(outline: Program, graph: Graph) -> float:
    """Operations of forward and backward."""
    return sum(outline.cost(n, outline.batch).flops for n in graph.nodes if n.phase != "update")


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
        states=purpose.states,
        buffers=network.buffers,
    )
