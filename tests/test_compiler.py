"""The compiler: graph, differentiation, fusing, plan and program, on a handful of networks."""

from __future__ import annotations

import importlib
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest

import fastnn as fnn
from fastnn import compiler
from fastnn.compiler import (
    Graph,
    Head,
    Node,
    Program,
    Purpose,
    Tensor,
    build_graph,
    compile_program,
)
from fastnn.compiler.fuse import LARGEST_FUSED_BATCH, PASSES, fuse, fuse_update
from fastnn.compiler.plan import ALIGNMENT, Plan, lifetimes, plan, tensor_bytes
from fastnn.kernels.aot import executor
from fastnn.kernels.formula import FORMULAS
from fastnn.kernels.op import BATCH, OPS, Op, op
from fastnn.layers import Activation, BatchNormalization, Dense, Dropout, Flatten, Rescaling
from fastnn.losses import LOSSES
from fastnn.network import Network, chain
from fastnn.runtime import BACKENDS, NativeRunner, NumpyRunner, State, make_runner

ROWS, FEATURES = 7, 5
#: What a network emits: its outputs and its parameters.
Emitted = tuple[list[Tensor], list[Tensor]]
ENGINES = [name for name in BACKENDS if name != "auto"]
PURPOSES = ("train", "gradients", "evaluate", "predict")


# ------------------------------------------------------------------ networks


@dataclass(frozen=True)
class Example:
    """A network with a loss and what it is trained on."""

    layers: Callable[[], list]
    loss: Any
    outputs: int
    labels: bool = False
    weighted: bool = False
    metrics: tuple = ()
    optimizer: Any = "adam"

    def network(self) -> Network:
        return chain(self.layers(), (FEATURES,))

    def purpose(self, kind: str) -> Purpose:
        metrics = tuple(map(fnn.metrics.get, self.metrics)) if kind != "gradients" else ()
        return Purpose(
            kind,
            (Head(fnn.losses.get(self.loss), self.labels, metrics),),
            weighted=self.weighted and kind != "predict",
            optimizer=fnn.optimizers.get(self.optimizer) if kind == "train" else None,
        )

    def data(self, dtype: str = "float64") -> dict[str, np.ndarray]:
        """Examples, targets that suit any loss, weights, and room for predictions."""
        rng = np.random.default_rng(3)
        classes = rng.integers(0, self.outputs, ROWS)
        feeds = {"x": rng.uniform(-1, 1, (ROWS, FEATURES)).astype(dtype)}
        one_hot = np.eye(self.outputs)[classes]
        single = rng.integers(0, 2, (ROWS, 1))
        targets = one_hot if self.outputs > 1 else single
        feeds["y"] = classes.astype(np.int32) if self.labels else targets.astype(dtype)
        feeds["w"] = rng.uniform(0, 2, (ROWS, 1)).astype(dtype)
        feeds["out"] = np.full((ROWS, self.outputs), np.nan, dtype)
        return feeds


L2 = {"kernel_regularizer": 0.1, "bias_regularizer": 0.05}

EXAMPLES = {
    "regression": Example(lambda: [Dense(6, "tanh"), Dense(3)], "mean_squared_error", 3),
    "classes": Example(
        lambda: [Rescaling(0.5, 0.1), Dense(9, "relu"), Dropout(0.3), Dense(4, "softmax")],
        "cross_entropy", 4, labels=True, metrics=("accuracy",),
    ),
    "one-hot-weighted": Example(
        lambda: [Dense(4, "elu", **L2), Dense(3, "softmax", kernel_regularizer=0.2)],
        "cross_entropy", 3, weighted=True, metrics=("accuracy", "mean_squared_error"),
        optimizer="momentum",
    ),
    "yes-or-no": Example(
        lambda: [Dense(5, "sigmoid", use_bias=False), Dense(1, "sigmoid")],
        "binary_cross_entropy", 1, metrics=("accuracy", "mean_absolute_error"), optimizer="sgd",
    ),
    "logits": Example(
        lambda: [Dense(8, "leaky_relu"), Dense(3)],
        fnn.losses.CrossEntropy(from_logits=True), 3, labels=True, weighted=True,
    ),
    "apart": Example(  # layers that do not fuse, and a softmax that is no probability
        lambda: [
            *(Activation("elu"), Dense(6), Activation("softmax"), Rescaling(2.0, -1.0)),
            *(Dropout(0.5), Flatten(), Activation("tanh"), Dense(2, use_bias=False)),
        ],
        "mean_absolute_error", 2, optimizer="nesterov",
    ),
    "probabilities": Example(  # a softmax that the loss does not see
        lambda: [Dense(3, "softmax"), Rescaling(0.9, 0.01)],
        "cross_entropy", 3, labels=True, metrics=("accuracy",), optimizer="rmsprop",
    ),
}  # fmt: skip

each_example = pytest.mark.parametrize("example", EXAMPLES.values(), ids=list(EXAMPLES))
each_engine = pytest.mark.parametrize("engine", ENGINES)
each_purpose = pytest.mark.parametrize("kind", PURPOSES)


def make_state(program: Program, seed: int = 5) -> State:
    rng = np.random.default_rng(seed)
    values = rng.uniform(-0.8, 0.8, program.parameters).astype(program.dtype)
    slots = [np.full_like(values, 0.25) for _ in range(program.states)]
    return State(values, slots, seed=11, updates=3)


def compiled(network: Any, purpose: Purpose, dtype: str = "float64", **options: Any) -> Program:
    options = {"batch": ROWS, "threads": 1} | options
    return compile_program(network, purpose, dtype=dtype, **options)


def run(program: Program, engine: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One step, on parameters at random: everything that it computes."""
    state = make_state(program)
    runner = make_runner(program, state, engine)
    totals = np.zeros((1, len(program.sums)))
    runner.run(feeds, totals, rows=ROWS, batch=ROWS, last=1)
    return {
        "totals": totals[0],
        "parameters": state.parameters,
        "slots": np.array(state.slots),
        "gradients": runner.gradients() if program.purpose == "gradients" else np.zeros(0),
        "out": feeds["out"].copy() if program.purpose == "predict" else np.zeros(0),
    }


def with_graph(program: Program, graph: Graph) -> Program:
    """The program of another graph for the same network."""
    return replace(
        program,
        nodes=tuple(graph.nodes),
        sums=tuple(graph.sums),
        tables=graph.tables,
        plan=plan(graph.nodes, ROWS, ROWS, program.dtype),
    )


def assert_same(got: dict, want: dict, rtol: float = 1e-10) -> None:
    for name, values in want.items():
        assert np.isfinite(values).all(), name
        np.testing.assert_allclose(got[name], values, rtol=rtol, atol=1e-12, err_msg=name)


def names(graph: Graph | Program) -> list[str]:
    return [node.op.name for node in graph.nodes]


def the(graph: Graph | Program, name: str) -> Node:
    (node,) = (n for n in graph.nodes if n.op.name == name)
    return node


# ------------------------------------------------------------------ fusing keeps results


@each_engine
@each_purpose
@each_example
def test_every_pass_keeps_the_results(example, kind, engine):
    """All passes, one after the other, and each program runs: also those that are half fused."""
    network, purpose, feeds = example.network(), example.purpose(kind), example.data()
    base = compiled(network, purpose)
    graph = build_graph(network, purpose)
    want = run(with_graph(base, graph), engine, feeds)
    for rewrite in (*PASSES, partial(fuse_update, batch=ROWS)):
        graph = rewrite(graph)
        program = with_graph(base, graph)
        program.verify()
        assert_same(run(program, engine, feeds), want)
    assert names(graph) == names(base), "these are all the passes there are"


@each_engine
@each_example
@pytest.mark.parametrize("kind", ["train", "gradients", "evaluate"])
def test_stabilising_keeps_the_results(example, kind, engine, monkeypatch):
    network, purpose, feeds = example.network(), example.purpose(kind), example.data()
    base = compiled(network, purpose)
    stable = build_graph(network, purpose)
    monkeypatch.setattr(compiler, "stabilise", lambda graph: graph)
    plain = build_graph(network, purpose)
    want = run(with_graph(base, plain), engine, feeds)
    assert_same(run(with_graph(base, stable), engine, feeds), want, rtol=1e-7)


@each_example
def test_backends_agree_on_every_purpose(example):
    for kind in PURPOSES:
        program = compiled(example.network(), example.purpose(kind))
        results = [run(program, engine, example.data()) for engine in ENGINES]
        for other in results[1:]:
            assert_same(other, results[0])


# ------------------------------------------------------------------ what is fused


def _train(*layers: Any, loss: str = "mean_squared_error", **more: Any) -> Program:
    example = Example(lambda: list(layers), loss, layers[-1].units, **more)
    return compiled(example.network(), example.purpose("train"))


@pytest.mark.parametrize("formula", FORMULAS["activation"].values(), ids=lambda f: f.name)
def test_activations_become_part_of_products(formula):
    program = _train(Dense(4, formula.name), Dense(3))
    first = next(n for n in program.nodes if n.op.name == "dense")
    dx = the(program, "dense_dx")
    reads = {name for name in "xy" if formula.derivative_reads(name)}
    if formula.name == "identity":
        assert not {"activation", "activation_grad"} & set(names(program))
        return
    # Where the derivative needs the activation's input, that must be kept, and so stay apart.
    assert ("activation" in names(program)) == ("x" in reads)
    assert (first.attrs["function"] == formula.name) == ("x" not in reads)
    assert ("activation_grad" in names(program)) == (reads != {"y"})
    assert (dx.attrs["function"] == formula.name) == (reads == {"y"})
    predict = compiled(chain([Dense(4, formula.name)], (FEATURES,)), Purpose("predict"))
    assert names(predict) == ["gather", "dense", "store"]


@pytest.mark.parametrize("formula", FORMULAS["activation"].values(), ids=lambda f: f.name)
def test_activations_become_part_of_batch_normalization(formula):
    program = _train(Dense(4), BatchNormalization(), Activation(formula.name), Dense(3))
    normalized = the(program, "standardize_columns")
    assert not {"affine", "affine_dw"} & set(names(program)), "scale and shift are a part of it too"
    apart = formula.derivative_reads("x")
    assert normalized.attrs["function"] == ("identity" if apart else formula.name)
    assert ("activation" in names(program)) == apart
    # Without scale and shift, the gradient reads what is standardized, and so it must be kept.
    plain = _train(
        Dense(4), BatchNormalization(scale=False, center=False), Activation("relu"), Dense(3)
    )
    assert the(plain, "standardize_columns").attrs["function"] == "identity"
    # Of the first layer, no gradient by the inputs is made.
    first = the(_train(BatchNormalization(), Dense(3)), "standardize_columns_grad")
    assert [t is None for t in first.outputs] == [True, False, False]


@pytest.mark.parametrize("backend", [name for name in ENGINES if name != "blas"])
@pytest.mark.parametrize("function", ["relu", "tanh", "silu"])
def test_batch_normalization_with_an_activation_trains_as_without(monkeypatch, backend, function):
    def trained(**options):
        layers = [
            Dense(20), BatchNormalization(**options), Activation(function), Dense(9),
            BatchNormalization(), Activation("elu"), Dense(2),
        ]  # fmt: skip
        model = fnn.Sequential([fnn.Input(FEATURES), *layers], seed=3)
        model.compile("mean_squared_error", "sgd", backend=backend, dtype="float64")
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(90, FEATURES)), rng.normal(size=(90, 2))
        model.fit(x, y, batch_size=30, epochs=3, verbose=0)
        return model.parameters

    for options in ({}, {"scale": False}, {"center": False}, {"scale": False, "center": False}):
        monkeypatch.undo()
        together = trained(**options)
        monkeypatch.setattr(importlib.import_module("fastnn.compiler.fuse"), "ENDING", ())
        np.testing.assert_allclose(together, trained(**options), rtol=1e-10, atol=1e-12)


def test_masks_of_dropout_become_part_of_products():
    program = _train(Dense(4, "tanh"), Dropout(0.5), Dense(5), Dropout(0.2), Dense(3))
    assert names(program).count("dense_dropout") == names(program).count("dropout_mask") == 2
    assert not {"dropout", "merge", "activation_grad"} & set(names(program))
    masked = [n.inputs[3] is not None for n in program.nodes if n.op.name == "dense_dx"]
    assert masked == [True, True]
    rates = [n.attrs["rate"] for n in program.nodes if n.op.name == "dropout_mask"]
    assert rates == [0.5, 0.2]
    # Of what is no product's result, the mask is drawn and applied at once.
    apart = _train(Dropout(0.5), Dense(4), Dense(3))
    assert "dropout" in names(apart) and "dropout_mask" not in names(apart)


def test_products_with_masks_train_as_those_without(monkeypatch):
    def trained(backend):
        layers = [Dense(20, "tanh"), Dropout(0.4), Dense(9), Dropout(0.1), Dense(2)]
        model = fnn.Sequential([fnn.Input(7), *layers], seed=3)
        model.compile(loss="mean_squared_error", optimizer="adam", backend=backend, threads=1)
        rng = np.random.default_rng(0)
        X, y = rng.normal(size=(96, 7)), rng.normal(size=(96, 2))
        model.fit(X, y, batch_size=32, epochs=3, verbose=0)
        return model.get_weights()

    fused = {backend: trained(backend) for backend in ("numpy", "cython")}
    kept = [p for p in PASSES if p.__name__ not in ("fuse_dropout", "fuse_mask")]
    assert len(kept) == len(PASSES) - 2
    monkeypatch.setattr(importlib.import_module("fastnn.compiler.fuse"), "PASSES", kept)
    for backend, weights in fused.items():
        for one, other in zip(weights, trained(backend), strict=True):
            np.testing.assert_array_equal(one, other)


def test_an_activation_with_two_readers_stays_apart():
    class Residual(TwoLayers):
        def join(self, graph: Graph, z: Tensor) -> Tensor:
            (y,) = graph.emit("activation", z, function="tanh", parameters=())
            return graph.emit("add", y, z)[0]

    program = compiled(Residual(), Purpose("gradients", (Head(fnn.losses.MeanSquaredError()),)))
    assert "activation" in names(program)


def test_rescaling_happens_while_rows_are_gathered():
    program = _train(Rescaling(2.0, 1.0), Rescaling(0.5, -3.0), Dense(3))
    assert "rescale" not in names(program)
    gathers = [n.attrs for n in program.nodes if n.op.name == "gather"]
    assert {"scale": 1.0, "offset": -2.5} in gathers
    later = _train(Dense(4), Rescaling(2.0, 1.0), Dense(3))
    assert names(later).count("rescale") == 2, "forward and backward"


def test_cross_entropy_takes_logits_from_softmax():
    program = _train(Dense(3, "softmax"), loss="cross_entropy", labels=True, metrics=("accuracy",))
    assert "softmax_cross_entropy" in names(program)
    assert not {"softmax", "softmax_grad", "cross_entropy"} & set(names(program))
    example = EXAMPLES["probabilities"]
    apart = compiled(example.network(), example.purpose("train"))
    assert {"softmax", "softmax_grad", "cross_entropy"} <= set(names(apart))


def test_binary_cross_entropy_takes_logits_from_sigmoid():
    program = _train(Dense(1, "sigmoid"), loss="binary_cross_entropy", metrics=("accuracy",))
    losses = [n.attrs for n in program.nodes if n.op.name == "pointwise_loss"]
    assert [a["function"] for a in losses] == ["sigmoid_cross_entropy", "binary_match"]
    assert losses[1]["parameters"] == (0.0,), "the threshold of logits"
    assert the(program, "dense").attrs["function"] == "identity"
    other = _train(Dense(1, "tanh"), loss="binary_cross_entropy")
    assert the(other, "pointwise_loss").attrs["function"] == "binary_cross_entropy"


def test_penalties_are_added_in_the_update():
    example = Example(lambda: [Dense(4, **L2), Dense(3)], "mean_squared_error", 3)
    assert "penalty_gradient" in names(compiled(example.network(), example.purpose("gradients")))
    graph = fuse(build_graph(example.network(), example.purpose("train")))
    assert "penalty_gradient" not in names(graph)
    table = graph.tables[the(graph, "update").inputs[2]]
    kernel, bias = FEATURES * 4, 4
    end = kernel + bias + 4 * 3 + 3
    expected = [
        [0, kernel, 0.1, 0],
        [kernel, kernel + bias, 0.05, 0],
        [kernel + bias, end, 0, 0],
    ]
    assert table.tolist() == expected
    decays = [
        n.attrs["decay"] for n in fuse_update(graph, ROWS).nodes if n.op.name == "dense_update"
    ]
    # Backward: the last layer comes first.
    assert decays == [((0, 0), (0, 0)), ((0.1, 0), (0.05, 0))]


def test_evaluation_computes_no_gradients():
    for example in EXAMPLES.values():
        program = compiled(example.network(), example.purpose("evaluate"))
        assert {n.phase for n in program.nodes} == {"gather", "forward"}
        for node in program.nodes:
            optional = [t for t, o in zip(node.outputs, node.op.outputs, strict=True) if o.optional]
            assert optional == [None] * len(optional)
        assert program.gradients == 0 and "dropout" not in names(program)


def test_the_update_is_part_of_the_weight_gradient():
    example = EXAMPLES["one-hot-weighted"]
    network, purpose = example.network(), example.purpose("train")
    fused = compiled(network, purpose)
    assert names(fused).count("dense_update") == 2
    assert not {"dense_dw", "update"} & set(names(fused))
    assert fused.gradients == 0 and fused.peak_bytes["gradients"] == 0
    big = compiled(network, purpose, batch=LARGEST_FUSED_BATCH + 1)
    assert {"dense_dw", "update"} <= set(names(big)) and big.gradients == network.size
    shards = compiled(network, purpose, threads=2, forced=True)
    assert shards.split.mode == "shard" and {"dense_dw", "update"} <= set(names(shards))


@each_example
def test_nothing_dead_is_left(example):
    """Every output of every call is read, summed, stored or a gradient of a parameter."""
    for kind in PURPOSES:
        program = compiled(example.network(), example.purpose(kind))
        wanted = {t for n in program.nodes for t in n.inputs} | {s.tensor for s in program.sums}
        for node in program.nodes:
            useful = [t in wanted or t.region in ("gradients", "feed") for t in node.outputs if t]
            assert any(useful) or node.op.writes or not node.op.outputs, node.op.name


# ------------------------------------------------------------------ verify


@each_purpose
@each_example
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("any_threads", [False, True])
def test_programs_verify(example, kind, threads, any_threads):
    for labels, weighted in itertools.product((False, True), repeat=2):
        if labels and not example.labels:
            continue
        chosen = replace(example, labels=labels, weighted=weighted)
        program = compiled(
            chosen.network(), chosen.purpose(kind), threads=threads, forced=True,
            any_threads=any_threads,
        )  # fmt: skip
        program.verify()
        program.unsharded().verify()
        assert not any_threads or program.split.mode != "shard"


@pytest.fixture
def program() -> Program:
    """With stored gradients, so that there is something to plant in every phase."""
    example = EXAMPLES["classes"]
    network, purpose = example.network(), example.purpose("train")
    return with_graph(compiled(network, purpose), fuse(build_graph(network, purpose)))


def _refused(program: Program, words: str, **changes: Any) -> None:
    with pytest.raises(ValueError, match=words):
        replace(program, **changes).verify()


def test_verify_finds_overlapping_memory(program):
    program.verify()
    offsets = dict.fromkeys(program.plan.offsets, 0)
    _refused(program, "are alive at once in the same memory", plan=replace(
        program.plan, offsets=offsets
    ))  # fmt: skip


def test_verify_finds_any_two_live_tensors_in_one_place(program):
    """Every tensor, moved to where another one lives at the same time."""
    life, found = program.plan.life, 0
    for a, b in itertools.permutations(life, 2):
        together = life[a][0] < life[b][1] and life[b][0] < life[a][1]
        if together:
            moved = {**program.plan.offsets, a: program.plan.offsets[b]}
            room = program.plan.arena_bytes + tensor_bytes(a, ROWS, "float64")
            changed = replace(program.plan, offsets=moved, arena_bytes=room)
            _refused(program, "are alive at once in the same memory", plan=changed)
            found += 1
    assert found >= 4


def test_verify_finds_what_leaves_the_arena(program):
    small = replace(program.plan, arena_bytes=program.plan.arena_bytes - ALIGNMENT)
    _refused(program, "leaves the arena", plan=small)


def test_verify_finds_a_read_before_the_write(program):
    for i, node in enumerate(program.nodes):
        if any(t is not None and t.region == "arena" for t in node.outputs):
            without = program.nodes[:i] + program.nodes[i + 1 :]
            _refused(program, "is read before it is written", nodes=without)


def test_verify_finds_calls_in_the_wrong_order(program):
    first, *rest = program.nodes
    _refused(program, "phase gather follows update", nodes=(*rest, first))


def test_verify_finds_wrong_shapes(program):
    for i, node in enumerate(program.nodes):
        for j, tensor in enumerate(node.inputs):
            if tensor is None or tensor.region != "parameters" or len(tensor.shape) != 2:
                continue
            wrong = replace(tensor, shape=tensor.shape[::-1])
            inputs = (*node.inputs[:j], wrong, *node.inputs[j + 1 :])
            nodes = (*program.nodes[:i], replace(node, inputs=inputs), *program.nodes[i + 1 :])
            _refused(program, f"{node.op.name}: .* has shape", nodes=nodes)
    missing = replace(program.nodes[-1], inputs=(None, *program.nodes[-1].inputs[1:]))
    _refused(program, "operand .* is missing", nodes=(*program.nodes[:-1], missing))


def test_verify_finds_missing_gradients(program):
    (*_, dw) = (n for n in program.nodes if n.op.name == "dense_dw")
    for changed in (replace(dw, outputs=(dw.outputs[0], None)), None):
        nodes = [changed if n is dw else n for n in program.nodes]
        _refused(
            program, "do not cover the parameters", nodes=tuple(n for n in nodes if n is not None)
        )


def test_verify_finds_a_gradient_in_the_place_of_another():
    """As many numbers as there are parameters are written, but not one for each."""
    example = Example(
        lambda: [Dense(FEATURES, use_bias=False), Dense(FEATURES, use_bias=False)],
        "mean_squared_error", FEATURES,
    )  # fmt: skip
    program = compiled(example.network(), example.purpose("gradients"))
    one, other = (n.outputs[0] for n in program.nodes if n.op.name == "dense_dw")
    moved = replace(other, offset=one.offset)
    graph = Graph(list(program.nodes)).substitute({other: moved})
    _refused(program, "do not cover the parameters", nodes=tuple(graph.nodes))


def test_verify_finds_what_leaves_the_flat_vectors(program):
    for region in ("parameters", "gradients"):
        for i, node in enumerate(program.nodes):
            moved = {
                t: replace(t, offset=t.offset + program.parameters)
                for t in node.operands
                if t is not None and t.region == region
            }
            if moved:
                swap = Graph([node]).substitute(moved).nodes
                nodes = (*program.nodes[:i], *swap, *program.nodes[i + 1 :])
                _refused(program, f"leaves the flat {region}", nodes=nodes)


def test_verify_finds_sums_of_nothing(program):
    _refused(program, "is read before|summed but never written", nodes=tuple(
        n for n in program.nodes if n.op.name != "accuracy"
    ))  # fmt: skip


def test_verify_finds_a_weight_that_is_read_after_its_update():
    example = EXAMPLES["regression"]
    program = compiled(example.network(), example.purpose("train"))
    reader = the(program, "dense_dx")
    nodes = [n for n in program.nodes if n is not reader]
    first = next(i for i, n in enumerate(nodes) if n.op.name == "dense_update")
    nodes.insert(first + 1, reader)
    _refused(program, "is already updated", nodes=tuple(nodes))


# ------------------------------------------------------------------ plan


class RandomNetwork:
    """Layers, branches and joins at random; every tensor may have many readers."""

    features, buffers = (FEATURES,), 0

    def __init__(self, seed: int) -> None:
        self.seed = seed
        graph = Graph()
        self.emit(graph, [Tensor("x", (BATCH, FEATURES))], True)
        self.size = self._size

    def emit(self, graph: Graph, xs: Sequence[Tensor], training: bool) -> Emitted:
        (x,) = xs
        rng = random.Random(self.seed)
        made, parameters, offset = [x], [], 0
        for i in range(rng.randint(3, 14)):
            source = rng.choice(made[-4:])
            kind = rng.choice(["dense", "activation", "add", "softmax", "rescale", "dropout"])
            if kind == "dense":
                shape = (source.shape[1], rng.choice([3, 5, 8, 33]))
                w = graph.parameter(f"w{i}", shape, offset)
                offset += math.prod(shape)
                parameters.append(w)
                new = graph.emit("dense", source, w, None, function="identity", parameters=())
            elif kind == "activation":
                new = graph.emit("activation", source, function="tanh", parameters=())
            elif kind == "add":
                alike = [t for t in made if t.shape == source.shape]
                new = graph.emit("add", source, rng.choice(alike))
            elif kind == "softmax":
                new = graph.emit("softmax", source)
            elif kind == "rescale":
                new = graph.emit("rescale", source, scale=0.5, offset=0.25)
            else:
                new = graph.emit("dropout", source, rate=0.25, stream=graph.new_stream())
            made += new
        # What was left aside is joined, so that every parameter matters.
        loose = [t for t in made if t is made[-1] or not graph.consumers(t)]
        heads = []
        for i, tensor in enumerate(loose):
            w = graph.parameter(f"head{i}", (tensor.shape[1], 2), offset)
            offset += math.prod(w.shape)
            parameters.append(w)
            heads += graph.emit("dense", tensor, w, None, function="identity", parameters=())
        while len(heads) > 1:
            heads += graph.emit("add", heads.pop(0), heads.pop(0))
        self._size = offset
        return heads[:1], parameters

    def emit_penalties(self, graph: Graph, parameters: list[Tensor]) -> list[Tensor]:
        return [fnn.regularizers.L2(0.1).emit(graph, parameters[0])]


TARGETS = Example(lambda: [], "mean_squared_error", 2)


def _overlap(found: Plan, dtype: str, nodes: tuple[Node, ...]) -> str | None:
    """The first two tensors alive in the same bytes, found byte by byte."""
    life = lifetimes(nodes, "arena")
    for i, node in enumerate(nodes):
        owner: dict[int, Tensor] = {}
        allowed = {
            frozenset((node.operands[a], node.operands[b]))
            for out, source in node.op.in_place.items()
            for a, b in [[_place(node.op, out), _place(node.op, source)]]
            if life.get(node.operands[b], (0, 0))[1] == i
        }
        for tensor, (first, last) in life.items():
            if not first <= i <= last:
                continue
            start = found.offsets[tensor]
            for byte in range(start, start + tensor_bytes(tensor, found.rows, dtype)):
                other = owner.setdefault(byte, tensor)
                if other is not tensor and frozenset((other, tensor)) not in allowed:
                    return f"{other} and {tensor} at call {i} ({node.op.name})"
    return None


def _place(op: Op, name: str) -> int:
    return [o.name for o in op.operands].index(name)


@pytest.mark.parametrize("seed", range(40))
def test_plans_never_overlap_live_tensors(seed):
    network = RandomNetwork(seed)
    for kind in ("gradients", "predict"):
        program = compiled(network, TARGETS.purpose(kind), dtype="float32")
        program.verify()
        found = program.plan
        assert _overlap(found, "float32", program.nodes) is None
        assert all(offset % ALIGNMENT == 0 for offset in found.offsets.values())
        ends = [o + tensor_bytes(t, ROWS, "float32") for t, o in found.offsets.items()
                if t.region == "arena"]  # fmt: skip
        assert max(ends) <= found.arena_bytes
        # Never more than everything side by side, never less than what one call touches.
        sizes = {t: -(-tensor_bytes(t, ROWS, "float32") // 64) * 64 for t in found.life}
        assert found.arena_bytes <= sum(sizes.values())
        for node in program.nodes:
            at_once = {found.offsets[t]: sizes[t] for t in node.operands if t in sizes}
            assert found.arena_bytes >= sum(at_once.values())


@each_engine
@pytest.mark.parametrize("seed", range(40))
def test_planned_memory_gives_what_memory_of_its_own_gives(seed, engine):
    network, feeds = RandomNetwork(seed), TARGETS.data()
    for kind in ("gradients", "predict"):
        program = compiled(network, TARGETS.purpose(kind))
        offsets, at = {}, 0
        for tensor in program.plan.offsets:
            offsets[tensor] = at
            at += tensor_bytes(tensor, ROWS, "float64") + ALIGNMENT
            at -= at % ALIGNMENT
        roomy = replace(program.plan, offsets=offsets, arena_bytes=at, rows_bytes=at)
        want = run(replace(program, plan=roomy), engine, feeds)
        got = run(program, engine, feeds)
        for name, values in want.items():
            assert np.array_equal(got[name], values), name


def test_memory_is_reused():
    deep = Example(lambda: [Dense(32, "relu") for _ in range(12)], "mean_squared_error", 32)
    program = compiled(deep.network(), deep.purpose("predict"))
    one = tensor_bytes(Tensor("y", (BATCH, 32)), ROWS, "float64")
    assert program.plan.arena_bytes <= 2 * one + 2 * ALIGNMENT + ROWS * FEATURES * 8


# ------------------------------------------------------------------ dead memory


def _poison(program: Program, arena: np.ndarray, index: int) -> None:
    """Fill with NaN what no call after this one reads."""
    dead = np.ones(len(arena), bool)
    for tensor, (first, last) in program.plan.life.items():
        if first <= index < last:
            start = program.plan.offsets[tensor]
            dead[start : start + tensor_bytes(tensor, ROWS, program.dtype)] = False
    arena[dead] = 0xFF


class PoisoningRunner(NumpyRunner):
    """Poisons dead memory after every call."""

    def execute(self, node: Node, *arguments: Any) -> None:
        super().execute(node, *arguments)
        _poison(self.program, self._arena, self.program.nodes.index(node))


@each_purpose
@each_example
def test_dead_memory_does_not_matter_to_numpy(example, kind):
    program, feeds = compiled(example.network(), example.purpose(kind)), example.data()
    want = run(program, "numpy", feeds)
    state = make_state(program)
    runner = PoisoningRunner(program, state)
    runner._arena[:] = runner._results[:] = 0xFF
    runner._gradients[:] = np.nan
    totals = np.zeros((1, len(program.sums)))
    runner.run(feeds, totals, rows=ROWS, batch=ROWS, last=1)
    assert np.array_equal(totals[0], want["totals"])
    assert np.array_equal(state.parameters, want["parameters"])
    if kind == "gradients":
        assert np.array_equal(runner.gradients(), want["gradients"])
    if kind == "predict":
        assert np.array_equal(feeds["out"], want["out"])


@each_purpose
@each_example
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dead_memory_does_not_matter_to_kernels(example, kind, dtype):
    """Call by call, as the executor makes them."""
    program = compiled(example.network(), example.purpose(kind), dtype=dtype)
    feeds = example.data(dtype)
    want = run(program, "cython", feeds)
    state = make_state(program)
    runner = make_runner(program, state, "cython")
    assert isinstance(runner, NativeRunner)
    runner._arenas[0][:] = runner._results[0][:] = runner._scratch[0][:] = 0xFF
    runner._gradients[:] = np.nan
    step = runner._steps
    step["step"], step["rows"], step["first"], step["seed"] = state.updates, ROWS, 0, state.seed
    table = runner.table(ROWS)
    runner._feed(table, feeds)
    for i in range(len(program.nodes)):
        executor.call_kernel(table[0, i : i + 1])
        _poison(program, runner._arenas[0], i)
        runner._scratch[0][:] = 0xFF
    if kind == "gradients":
        assert np.array_equal(runner.gradients(), want["gradients"])
    if kind == "predict":
        assert np.array_equal(feeds["out"], want["out"])
    assert np.array_equal(state.parameters, want["parameters"])
    assert np.array_equal(np.array(state.slots), want["slots"])


# ------------------------------------------------------------------ gradients of networks


def check_gradients(
    loss: Callable[[], float], parameters: np.ndarray, gradients: np.ndarray, picks: int = 60
) -> None:
    """Against central differences in float64; at a kink between its one-sided slopes."""
    rng = np.random.default_rng(0)
    middle = loss()
    chosen = rng.choice(len(parameters), min(picks, len(parameters)), replace=False)
    kinks = 0
    for i in chosen:
        kept, h = parameters[i], 1e-5
        parameters[i] = kept + h
        above = loss()
        parameters[i] = kept - h
        below = loss()
        parameters[i] = kept
        left, right = (middle - below) / h, (above - middle) / h
        if abs(left - right) > 1e-3 * (1 + abs(left)):
            kinks += 1
            continue
        assert gradients[i] == pytest.approx((above - below) / (2 * h), rel=1e-6, abs=1e-8), i
    assert kinks <= len(chosen) // 10


def check_model(model: fnn.Sequential, X: np.ndarray, y: np.ndarray, weights: Any = None) -> None:
    _, arrays = model.loss_and_gradients(X, y, weights)
    flat = np.concatenate([a.ravel() for a in arrays])
    assert flat.shape == model.parameters.shape and np.abs(flat).max() < 1e3

    def loss() -> float:
        return model.loss_and_gradients(X, y, weights)[0]

    check_gradients(loss, model.parameters, flat)


def _model(layers: list, loss: Any, engine: str) -> fnn.Sequential:
    model = fnn.Sequential([fnn.Input(FEATURES), *layers], seed=2)
    model.compile(loss, backend=engine, dtype="float64")
    rng = np.random.default_rng(9)  # biases of zero would leave parts of the formulas out
    model.parameters[:] = rng.uniform(-0.9, 0.9, model.parameters.size)
    return model


@each_engine
@pytest.mark.parametrize("name", fnn.activations.names())
def test_gradients_of_every_activation(name, engine):
    """Inside and at the end, in a layer of its own and in a dense layer."""
    layers = [Dense(6, name), Dense(5), Activation(name), Dense(3, name), Dense(2)]
    feeds = EXAMPLES["apart"].data()
    check_model(_model(layers, "mean_squared_error", engine), feeds["x"], feeds["y"])


@each_engine
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("last", [None, "sigmoid", "softmax"])
def test_gradients_of_every_loss(loss, weighted, last, engine):
    """On the outputs that it fuses with and on those that it does not; with sample weights."""
    if last is None and loss in ("cross_entropy", "binary_cross_entropy"):
        loss = LOSSES[loss](from_logits=True)
    elif last is None and loss in FORMULAS["loss"] and FORMULAS["loss"][loss].domain[0] == 0:
        last = "softplus" if loss == "poisson" else "sigmoid"  # what the loss is meant for
    feeds = EXAMPLES["one-hot-weighted"].data()
    weights = feeds["w"][:, 0] if weighted else None
    model = _model([Dense(6, "tanh"), Dense(3, last)], loss, engine)
    check_model(model, feeds["x"], feeds["y"], weights)


@each_engine
@each_example
def test_gradients_of_networks(example, engine):
    """With penalties, labels, weights and dropout, whose masks the counter fixes."""
    feeds = example.data()
    model = _model(example.layers(), example.loss, engine)
    check_model(model, feeds["x"], feeds["y"], feeds["w"][:, 0] if example.weighted else None)


@each_engine
def test_dropout_is_active_in_gradients_and_fixed(engine):
    feeds = EXAMPLES["regression"].data()
    model = _model([Dense(50, "tanh"), Dropout(0.5), Dense(3)], "mean_squared_error", engine)
    first, again = (model.loss_and_gradients(feeds["x"], feeds["y"])[0] for _ in range(2))
    assert first == again != model.evaluate(feeds["x"], feeds["y"])["loss"]


# ------------------------------------------------------------------ branches


class TwoLayers:
    """Two dense layers with something between: what a chain of layers cannot say."""

    features, hidden, outputs, buffers = (FEATURES,), 4, 2, 0
    size = FEATURES * 4 + 4 + 4 * 2

    def emit(self, graph: Graph, xs: Sequence[Tensor], training: bool) -> Emitted:
        (x,) = xs
        w1 = graph.parameter("w1", (FEATURES, 4), 0)
        b1 = graph.parameter("b1", (4,), FEATURES * 4)
        w2 = graph.parameter("w2", (4, 2), FEATURES * 4 + 4)
        (z,) = graph.emit("dense", x, w1, b1, function="identity", parameters=())
        y = self.join(graph, z)
        (out,) = graph.emit("dense", y, w2, None, function="identity", parameters=())
        return [out], [w1, b1, w2]

    def join(self, graph: Graph, z: Tensor) -> Tensor:
        return z

    def emit_penalties(self, graph: Graph, parameters: list[Tensor]) -> list[Tensor]:
        return []


def _tanh(graph: Graph, x: Tensor) -> Tensor:
    return graph.emit("activation", x, function="tanh", parameters=())[0]


class Residual(TwoLayers):
    """tanh(z) + z: the gradient of z is a sum."""

    def join(self, graph: Graph, z: Tensor) -> Tensor:
        return graph.emit("add", _tanh(graph, z), z)[0]


class Doubled(TwoLayers):
    """z + z: one op reads a tensor twice."""

    def join(self, graph: Graph, z: Tensor) -> Tensor:
        return graph.emit("add", z, z)[0]


class Fan(TwoLayers):
    """Three readers, and readers of readers."""

    def join(self, graph: Graph, z: Tensor) -> Tensor:
        (softmax,) = graph.emit("softmax", z)
        (scaled,) = graph.emit("rescale", z, scale=0.5, offset=1.0)
        (sum_,) = graph.emit("add", softmax, scaled)
        (more,) = graph.emit("add", sum_, _tanh(graph, z))
        return graph.emit("add", more, softmax)[0]


class Shared(TwoLayers):
    """The second layer's weights again, transposed in use: two layers with the same array."""

    size = FEATURES * FEATURES + FEATURES

    def emit(self, graph: Graph, xs: Sequence[Tensor], training: bool) -> Emitted:
        (x,) = xs
        w = graph.parameter("w", (FEATURES, FEATURES), 0)
        b = graph.parameter("b", (FEATURES,), FEATURES * FEATURES)
        for _ in range(3):
            (z,) = graph.emit("dense", x, w, b, function="identity", parameters=())
            x = _tanh(graph, z)
        return [x], [w, b]


class Summed(TwoLayers):
    """The sum of two parameters, which then have the same gradient."""

    size = 2 * FEATURES * 2

    def emit(self, graph: Graph, xs: Sequence[Tensor], training: bool) -> Emitted:
        (x,) = xs
        one = graph.parameter("one", (FEATURES, 2), 0)
        other = graph.parameter("other", (FEATURES, 2), FEATURES * 2)
        (w,) = graph.emit("add", one, other)
        (y,) = graph.emit("dense", x, w, None, function="identity", parameters=())
        return [y], [one, other]


class Penalised(Shared):
    """Shared weights with a penalty."""

    def emit_penalties(self, graph: Graph, parameters: list[Tensor]) -> list[Tensor]:
        return [fnn.regularizers.L2(0.3).emit(graph, p) for p in parameters]


BRANCHES = [Residual, Doubled, Fan, Shared, Summed, Penalised]
each_branch = pytest.mark.parametrize("branch", BRANCHES, ids=lambda c: c.__name__.lower())


def _branch_purpose(kind: str) -> Purpose:
    optimizer = fnn.optimizers.Momentum(0.1) if kind == "train" else None
    return Purpose(kind, (Head(fnn.losses.MeanSquaredError()),), optimizer=optimizer)


def _branch_data(program: Program) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    y = next(t for n in program.nodes for t in n.inputs if t is not None and t.name == "y")
    return {
        "x": rng.uniform(-1, 1, (ROWS, FEATURES)),
        "y": rng.uniform(-1, 1, (ROWS, y.shape[1])),
        "out": np.zeros((ROWS, y.shape[1])),
    }


@each_engine
@each_branch
def test_gradients_add_where_a_tensor_branches(branch, engine):
    program = compiled(branch(), _branch_purpose("gradients"))
    program.verify()
    assert "add" in [n.op.name for n in program.nodes if n.phase == "backward"] or branch is Summed
    state, feeds = make_state(program), _branch_data(program)
    runner = make_runner(program, state, engine)

    def loss() -> float:
        totals = np.zeros((1, len(program.sums)))
        runner.run(feeds, totals, rows=ROWS, batch=ROWS, last=1)
        return float(totals.sum()) / ROWS

    loss()
    check_gradients(loss, state.parameters, runner.gradients().copy())


@each_engine
@each_branch
def test_updates_use_the_whole_gradient(branch, engine):
    """Also where the update is fused into the products of a parameter that has several."""
    network = branch()
    gradients = compiled(network, _branch_purpose("gradients"))
    feeds = _branch_data(gradients)
    gradient = run(gradients, engine, feeds)["gradients"]
    program = compiled(network, _branch_purpose("train"))
    program.verify()
    state = make_state(program)
    expected = state.parameters - 0.1 * gradient + 0.9 * state.slots[0]
    runner = make_runner(program, state, engine)
    runner.run(feeds, np.zeros((1, len(program.sums))), rows=ROWS, batch=ROWS, last=1)
    np.testing.assert_allclose(state.parameters, expected, rtol=1e-12)


@each_branch
def test_fusing_keeps_the_results_of_branches(branch):
    network, purpose = branch(), _branch_purpose("gradients")
    base = compiled(network, purpose)
    graph, feeds = build_graph(network, purpose), _branch_data(base)
    want = run(with_graph(base, graph), "numpy", feeds)
    for rewrite in PASSES:
        graph = rewrite(graph)
        assert_same(run(with_graph(base, graph), "numpy", feeds), want)


def test_the_identity_as_an_op_of_its_own():
    """No layer emits it; where a graph has it, its gradient needs a formula like any other."""

    class Identity(TwoLayers):
        def join(self, graph: Graph, z: Tensor) -> Tensor:
            (y,) = graph.emit("activation", z, function="identity", parameters=())
            return graph.emit("add", y, z)[0]

    program = compiled(Identity(), _branch_purpose("gradients"))
    runner = make_runner(program, make_state(program), "cython")
    assert isinstance(runner, NativeRunner)
    assert "activation_grad" in names(program)
    gradients = []
    for backend in ("numpy", "cython"):
        runner = make_runner(program, make_state(program), backend)
        runner.run(_branch_data(program), np.zeros((1, 1)), rows=ROWS, batch=ROWS, last=1)
        gradients.append(runner.gradients().copy())
    np.testing.assert_allclose(*gradients, rtol=1e-12)


def test_a_parameter_without_influence_is_refused():
    class Idle(TwoLayers):
        def emit(self, graph: Graph, xs: Sequence[Tensor], training: bool) -> Emitted:
            y, parameters = super().emit(graph, xs, training)
            return y, [*parameters, graph.parameter("idle", (3,), self.size)]

    with pytest.raises(ValueError, match="idle does not influence the loss"):
        compiled(Idle(), _branch_purpose("gradients"))


def test_an_op_without_gradient_on_the_way_is_refused():
    class Stuck(TwoLayers):
        def join(self, graph: Graph, z: Tensor) -> Tensor:
            return graph.emit("softmax_grad", z, z)[0]

    with pytest.raises(ValueError, match="op 'softmax_grad' has no gradient"):
        compiled(Stuck(), _branch_purpose("gradients"))


def test_no_gradient_is_computed_for_the_examples():
    program = compiled(TwoLayers(), _branch_purpose("gradients"))
    assert names(program).count("dense_dx") == 1, "of the second layer only"


# ------------------------------------------------------------------ ops


@pytest.mark.parametrize(
    ("name", "shapes", "words"),
    [
        ("dense", [(2, 3), None, (4,)], "dense: operand 'w' is missing"),
        ("dense", [(2, 3), (5, 4), None], r"dense: w has shape \(5, 4\), but I is 3"),
        ("dense", [(2, 3), (3, 4), (5,)], r"dense: b has shape \(5,\), but O is 4"),
        ("dense", [(2, 3, 1), (3, 4), None], "dense: x has shape .* expected"),
        ("add", [(2, 3), (3, 2)], r"add: b has shape \(3, 2\), but ... is \(2, 3\)"),
        ("cross_entropy", [(2, 3), (2,), None, (2, 2)], r"weights has shape \(2, 2\), but 1 is 1"),
        ("penalty", [(5000,), (1,)], "penalty: P is 1, expected 2"),
        ("update", [(9,), (8,), (1, 3), None, None, None, None], "gradients .* but P is 9"),
    ],
)
def test_wrong_shapes_are_named(name, shapes, words):
    with pytest.raises(ValueError, match=words):
        OPS[name].dims(shapes)


def test_dims_and_output_shapes():
    assert OPS["dense"].dims([(2, 3), (3, 4), None]) == {"B": 2, "I": 3, "O": 4}
    assert OPS["dense"].output_shapes([(BATCH, 3), (3, 4), (4,)]) == [(BATCH, 4)]
    assert OPS["add"].output_shapes([(2, 3, 4), (2, 3, 4)]) == [(2, 3, 4)]
    assert OPS["penalty"].output_shapes([(100, 100)]) == [(3,)]


def test_an_op_is_declared_once_and_in_the_right_grammar():
    def dense(x, y):
        """A name that is taken."""

    def fresh(x, y):
        """A signature that is none."""

    with pytest.raises(ValueError, match="op 'dense' is defined twice"):
        op("x[B] -> y[B]", sizes=lambda d, attrs, binding: ())(dense)
    with pytest.raises(ValueError, match=r"operand 'x\(B\)' is not name"):
        op("x(B) -> y[B]", sizes=lambda d, attrs, binding: ())(fresh)
    assert "fresh" not in OPS


@pytest.mark.parametrize("name", OPS)
def test_costs_are_counted(name):
    """FLOPs are a number for any dimensions; a product's are twice its multiplications."""
    dims = dict.fromkeys("BIOCNFPST", 6) | {"...": (2, 3)}
    assert OPS[name].flops(dims) >= 0
    if {"B", "I", "O"} <= {d for o in OPS[name].operands for d in o.dims}:
        assert OPS[name].flops(dims) >= 2 * 6**3
