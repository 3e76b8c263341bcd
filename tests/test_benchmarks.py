"""The benchmarks run, on little and for a moment, check what they time, and write it down."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os

import numpy as np
import pytest

from fastnn.benchmarks import (
    calls,
    formula_cases,
    formulas,
    latency,
    memory,
    networks,
    own_functions,
    page,
    peers,
    regularized,
    report,
    scaling,
    startup,
    train_step,
)
from fastnn.kernels import provider
from fastnn.kernels.formula import FORMULAS
from fastnn.kernels.op import OPS
from fastnn.runtime import most_threads

pytestmark = pytest.mark.filterwarnings("default")  # those of PyTorch's import are its own


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Status, text and JSON of a run."""
    file = tmp_path_factory.mktemp("benchmark") / "formulas.json"
    quick = ["--rounds", "2", "--seconds", "0.0002", "--small", "0.05", "--large", "0.2"]
    with contextlib.redirect_stdout(io.StringIO()) as text:
        status = formulas.run([*quick, "--json", str(file)])
    return status, text.getvalue(), json.loads(file.read_text())


def _keys(rows):
    return {tuple(row["key"]) for row in rows}


def test_every_formula_is_in_the_output(result):
    status, text, found = result
    assert status in (0, 1)  # 1: a formula seemed slow, in so short a time
    assert "WRONG" not in text
    assert {row["status"] for row in found["without_numbers"]} <= {"nothing"}
    keys = _keys(found["rows"] + found["without_numbers"])
    kinds = list(formula_cases.kinds())
    assert {kind.op.formula for kind in kinds} == set(FORMULAS) - {"schedule"}
    for kernels in calls.providers("float32"):
        for kind in kinds:
            for name in FORMULAS[kind.op.formula]:
                assert name in text
                for size in ("L2", "memory"):
                    assert (kernels.name, kind.name, name, size) in keys


def test_every_row_is_complete(result):
    _, _, found = result
    for row in found["rows"]:
        assert len(row["samples"]) == found["settings"]["rounds"]
        assert min(row["samples"]) > 0 and row["unit"] == "ns/number"
        assert row["bytes_per_number"] > 0 and row["of_copy"] > 0 and row["of_best"] > 0
    assert ("numpy", "activation", "tanh", "L2") in _keys(found["rows"])


@pytest.mark.parametrize(
    ("script", "quick", "rows"),
    [
        (regularized, ["--networks", "tiny", "--threads", "1"], 4),
        (own_functions, [], 2 * 2 * len(own_functions.NAMES)),
    ],
)
def test_benchmarks_of_whole_models(script, quick, rows, tmp_path):
    """They check that both sides train alike before they time them."""
    file = tmp_path / "result.json"
    with contextlib.redirect_stdout(io.StringIO()) as text:
        status = script.run([*quick, "--rounds", "2", "--seconds", "0.001", "--json", str(file)])
    assert status == 0 and "WRONG" not in text.getvalue()
    found = json.loads(file.read_text())["rows"]
    assert len(found) == rows == len(_keys(found))
    assert all(min(row["samples"]) > 0 for row in found)


def test_reasons_are_of_formulas_that_exist():
    for op, reasons in formulas.REASONS.items():
        assert set(reasons) <= set(FORMULAS[OPS[op].formula])


def test_bytes_are_counted_from_the_operands():
    def per_number(op, formula):
        kind = next(kind for kind in formula_cases.kinds() if kind.op.name == op)
        case = formula_cases.Case(kind, FORMULAS[kind.op.formula][formula], 1 << 20, "float32")
        return case.bytes / case.numbers

    assert per_number("activation", "tanh") == 8
    assert per_number("activation_grad", "relu") == 12  # dy and y, and dx in place of dy
    assert per_number("update", "adam") == pytest.approx(
        28, rel=1e-4
    )  # g once; w and two states twice


def test_a_wrong_kernel_is_not_timed(monkeypatch):
    right = provider.cython("float32")
    kernels = right.formulas | {("activation", "tanh"): right.formulas["activation", "sigmoid"]}
    wrong = provider.Provider(
        "wrong", right.dtype, right.kernels, kernels, right.scratch_bytes, right.core
    )
    monkeypatch.setattr(formulas, "pytorch", lambda operands: None)
    kind = next(kind for kind in formula_cases.kinds() if kind.op.name == "activation")
    memory, tile = np.zeros(1 << 20, np.uint8), formula_cases.UNIT
    group = formulas.Group(kind, formulas.Size("L2", 1 << 16))
    turns = list(formulas.participants(group, [wrong], tile, tile, memory, "float32"))
    assert [row.key[2] for row in group.rows if row.status == "wrong"] == ["tanh"]
    assert ("wrong", "tanh") not in [(row.who, row.case.formula.name) for row, *_ in turns]


def test_a_slow_formula_needs_a_reason(monkeypatch):
    kind = next(kind for kind in formula_cases.kinds() if kind.op.name == "activation")
    groups = []
    for size in (formulas.Size("L2", 1), formulas.Size("memory", 2)):
        group = formulas.Group(kind, size, copies=[50.0])
        for name, ns in (("relu", 0.1), ("tanh", 0.5)):
            case = formula_cases.Case(kind, kind.formulas[name], 4096, "float32")
            group.rows.append(formulas.Row("ours", case, size.name, [ns]))
        groups.append(group)
    lines, bad = formulas.remarks(groups, "ours")
    assert not bad and any("tanh, 20% in L2" in line and "exponential" in line for line in lines)
    monkeypatch.setattr(formulas, "REASONS", {})
    lines, bad = formulas.remarks(groups, "ours")
    assert bad and any("NO REASON" in line for line in lines)


# ------------------------------------------------------------------ answers, start, memory


def _run(script, options, file):
    with contextlib.redirect_stdout(io.StringIO()) as text:
        status = script.run([*options.split(), "--json", str(file)])
    return status, text.getvalue(), json.loads(file.read_text())


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    file = tmp_path_factory.mktemp("latency") / "latency.json"
    options = "--libraries fastnn,fastnn-predict,numpy --no-large --rounds 2 --seconds 0.001"
    return _run(latency, options, file)


def test_latency_of_answers(answers):
    status, text, found = answers
    assert status == 0 and "mnist: 784-128-10, 1 rows, threads 1" in text
    keys = {tuple(row["key"]) for row in found["rows"]}
    assert ("digits", 16, 1, "fastnn-predict") in keys and len(keys) == 3 * 2 * 3
    for row in found["rows"]:
        assert len(row["samples"]) == 2 and 0 < min(row["samples"]) <= row["p99"]
        assert row["count"] >= 10


def test_a_wrong_answer_is_not_timed(monkeypatch, tmp_path):
    class Wrong(latency.Numpy):
        name = "wrong"

        def call(self, x):
            return lambda: latency.probabilities(self.weights, 1.01 * x)

    monkeypatch.setitem(latency.LIBRARIES, "wrong", Wrong)
    options = "--libraries numpy,wrong --no-large --rows 1 --rounds 1 --seconds 0.001"
    status, text, found = _run(latency, options, tmp_path / "found.json")
    assert status == 1 and "WRONG: wrong: off by" in text
    assert {row["key"][3] for row in found["rows"]} == {"numpy"}
    assert {row["key"][3] for row in found["without_numbers"]} == {"wrong"}


def test_start_of_processes(tmp_path, monkeypatch):
    monkeypatch.setitem(startup.PROGRAMS, "lazy", "print(0.5)")
    monkeypatch.setitem(startup.PROGRAMS, "absent", "import a_module_that_is_not_there")
    names = "numpy-import,fastnn-import,fastnn,lazy,absent"
    options = f"--programs {names} --rounds 1"
    status, text, found = _run(startup, options, tmp_path / "found.json")
    assert status == 1, "one of them did not learn"
    assert "import fastnn beyond NumPy's own import" in text
    assert [row["key"] for row in found["rows"]] == [
        ["numpy-import"],
        ["fastnn-import"],
        ["fastnn"],
    ]
    status = {row["key"][0]: row["status"] for row in found["without_numbers"]}
    assert status == {"lazy": "error", "absent": "missing"}


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")
def test_memory_of_processes(tmp_path):
    options = f"--peers data,fastnn --rounds 1 --gigabytes 0.02 --folder {tmp_path}"
    status, text, found = _run(memory, options, tmp_path / "found.json")
    assert status == 0 and "of the throughput in memory" in text
    rows = {tuple(row["key"]): row for row in found["rows"]}
    assert 20 < rows["process", "data"]["samples"][0] < rows["process", "fastnn"]["samples"][0]
    mapped, whole = rows["file", "mapped"], rows["file", "in memory"]
    assert mapped["own"] < whole["own"] - 15, "what is mapped is not the process's own"
    assert mapped["loss"] == whole["loss"]


def test_many_networks_start_and_learn_apart():
    """Peers of many networks train each from its own weights at its own rate."""
    network = dataclasses.replace(networks.MANY["many"], copies=3, sizes=(4, 5, 1), batch=8)
    data = networks.problem(network, steps=2)
    found = {}
    for name in ("fastnn", "numpy"):
        peer = peers.PEERS_OF_MANY[name](network, *data, 2, network.learning_rate)
        losses = [peer.epoch() for _ in range(3)]
        assert losses[-1] < losses[0]
        found[name] = peer.weights()
    ways = []
    for i, (ours, theirs) in enumerate(zip(found["fastnn"], found["numpy"], strict=True)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        if i % 4 == 0:
            start = networks.initial_weights(network.sizes, i // 4)[0]
            ways.append(np.abs(ours - start).mean())
    assert len(found["numpy"]) == 3 * 4 and ways[0] < ways[1] < ways[2]


@pytest.mark.parametrize("peer", ["fastnn", "fastnn-numpy", "pytorch", "jax"])
def test_networks_with_batch_normalization_are_trained_right(peer):
    """As NumPy in float64, which the benchmark's own check is against too."""
    pytest.importorskip({"pytorch": "torch", "jax": "jax"}.get(peer, "numpy"))
    deep = networks.NETWORKS["deep"]
    network = dataclasses.replace(deep, sizes=(9, 12, 11, 3), batch=16, steps=3)
    X, y, weights = networks.problem(network)
    assert [array.shape for array in weights[:4]] == [(9, 12), (12,), (12,), (12, 11)]
    assert network.parameters == sum(array.size for array in weights)
    X, weights = X.astype("float64"), [array.astype("float64") for array in weights]
    there = peers.peers_of(network)
    assert "scikit-learn" not in there
    expected, found = (
        there[name](network, X, y, weights, 1, network.learning_rate) for name in ("numpy", peer)
    )
    for _ in range(2):
        assert found.epoch() == pytest.approx(expected.epoch(), rel=1e-9)
    for one, other in zip(found.weights(), expected.weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)
    assert not np.allclose(found.weights()[0], weights[0], atol=1e-4)  # it has learnt


class Still:
    """A worker that always answers the same."""

    def __init__(self, answer):
        self.answer = answer

    def ask(self, do, **arguments):
        return self.answer


@pytest.mark.skipif(most_threads("cython") < 2, reason="one thread only")
def test_the_distance_between_cores_is_measured_before_each_turn_of_several_threads():
    allowed = train_step._affinity()
    alone, both, lost = (train_step.Outcome("fastnn", threads) for threads in (1, 2, 2))
    for _ in range(3):
        for outcome in (alone, both):
            train_step.take_turn(Still({"us_per_step": 5.0, "loss": 0.1}), outcome, 0.0)
    train_step.take_turn(Still({"loss": float("nan")}), lost, 0.0)
    assert alone.meetings == lost.meetings == [] and lost.status == "error"
    assert len(both.meetings) == len(both.samples) == 3
    assert min(both.meetings) > 0
    assert train_step._affinity() == allowed
    assert train_step.distance([alone]) == []
    both.meetings = [0.25, 0.05, 0.07]
    assert "0.070 us in the median, 0.050 to 0.250" in train_step.distance([alone, both])[-1]


def test_a_peak_that_was_measured_in_a_bad_moment_is_replaced(monkeypatch, capsys):
    """As long as a virtual machine's processors share one core, two threads reach the half."""
    peaks = iter([{1: 1.0}, {1: 1e6}, {1: 1.0}])
    monkeypatch.setattr(report, "fma_peak", lambda threads, dtype: next(peaks))
    monkeypatch.setattr(train_step, "measure", lambda network, options: [
        train_step.Outcome("fastnn", 1, samples=[1.0] * 3)
    ])  # fmt: skip
    train_step.run(["--networks", "tiny,digits", "--threads", "1"])
    lines = capsys.readouterr().out.splitlines()
    header = next(line for line in lines if line.startswith("| peer ")).split("|")
    column = next(i for i, title in enumerate(header) if "of peak" in title)
    shares = [line.split("|")[column].strip() for line in lines if line.startswith("| fastnn ")]
    assert shares == ["0%", "0%"]  # of 1e6 GFLOP/s


def test_curves_say_where_a_peer_is_faster():
    def outcome(peer, threads, micros):
        return train_step.Outcome(peer, threads, samples=[micros] * 3)

    def outcomes(ours, theirs):
        return [
            outcome("fastnn", 1, ours),
            outcome("fastnn", 2, ours / 2),
            outcome("jax", 1, theirs),
        ]

    named = {name: networks.SCALING[name] for name in ("width-8", "width-16", "depth-4")}
    measured = dict(
        zip(named.values(), [outcomes(10, 20), outcomes(10, 4), outcomes(6, 9)], strict=True)
    )
    text = scaling.curves(measured)
    width, depth = text.split("### depth")
    assert "jax is faster at 16 (1.25x)" in width and "jax is faster at none" in depth
    assert "2.00" in width  # what two threads gain


def test_what_grows_covers_all_sizes():
    sizes = {}
    for name in networks.SCALING:
        sweep, _, size = name.partition("-")
        sizes.setdefault(sweep, []).append(int(size))
    ends = {sweep: (found[0], found[-1]) for sweep, found in sizes.items()}
    assert ends == {"width": (8, 4096), "depth": (1, 32), "batch": (1, 65536)}
    assert networks.SCALING["depth-32"].sizes == (64, *[64] * 32, 10)
    assert networks.SCALING["batch-4"].batch == 4


def test_a_page_has_a_plot_for_each_sweep(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [
        {"key": [f"width-{n}", peer, 1], "unit": "us/step", "samples": [n, n], "flops": n}
        for n in (1, 2, 4)
        for peer in ("fastnn", "jax")
    ]
    mark = report.fingerprint()
    result = {"benchmark": "scaling", "fingerprint": mark, "rows": rows}
    page.write(tmp_path / "page.html", [result | {"key_names": ["network", "peer", "threads"]}])
    assert "Time against width, both logarithmic." in (tmp_path / "page.html").read_text()


def test_two_files_are_compared(answers, tmp_path, capsys):
    *_, found = answers
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_text(json.dumps(found))
    slower = [{**row, "samples": [100 * s for s in row["samples"]]} for row in found["rows"]]
    after.write_text(json.dumps({**found, "rows": slower}))
    with pytest.raises(SystemExit) as stop:
        latency.run(["--compare", str(before), str(after)])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and text.count(" slower |") == len(found["rows"])
    with pytest.raises(SystemExit) as stop:
        latency.run(["--compare", str(before), str(tmp_path / "absent.json")])
    assert stop.value.code == 2 and "absent.json" in capsys.readouterr().err


def test_names_that_are_not_known_are_refused(capsys):
    for script, option in ((latency, "libraries"), (startup, "programs"), (memory, "peers")):
        with pytest.raises(SystemExit) as stop:
            script.run([f"--{option}", "fastnn,abacus"])
        assert stop.value.code == 2
        assert f"--{option}: expected some of" in capsys.readouterr().err


# ------------------------------------------------------------------ pages


def test_a_page_holds_everything(answers, tmp_path):
    pytest.importorskip("matplotlib")
    *_, found = answers
    one = tmp_path / "one.json"
    one.write_text(json.dumps(found))
    assert page.run([str(one), str(one), "--html", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    assert text.count("<svg") == text.count("</svg>") == 2
    for row in found["rows"]:
        assert f"<td class='key'>{row['key'][3]}</td>" in text
    assert "<script" not in text and 'src="' not in text and "url(http" not in text


def test_a_roofline_needs_work_and_bytes(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [
        {"key": [f"{n}", peer], "unit": "us", "samples": [n, n + 1], "flops": 1e4 * n, "bytes": n}
        for n in (1, 2, 3)
        for peer in ("fastnn", "<b>other</b>")
    ]
    result = {
        "benchmark": "made up", "fingerprint": report.fingerprint(), "key_names": ["n", "peer"],
        "rows": rows, "fma_gflops": {"1": 100.0}, "memory_gbytes": 10.0,
        "without_numbers": [{"key": ["x"], "reason": "a & b"}],
    }  # fmt: skip
    page.write(tmp_path / "page.html", [result])
    text = (tmp_path / "page.html").read_text()
    assert text.count("<svg") == 3 and "a &amp; b" in text and "<b>other" not in text
    for row in rows:
        del row["bytes"]
    page.write(tmp_path / "page.html", [result])
    assert (tmp_path / "page.html").read_text().count("<svg") == 2


def test_files_that_are_no_results(tmp_path, capsys):
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}")
    for file in (wrong, tmp_path / "absent.json"):
        assert page.run([str(file), "--html", str(tmp_path / "page.html")]) == 2
        assert "page: " in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_networks_on_pixels_get_images_and_their_labels(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (200, 28, 28), np.uint8)
    labels = np.arange(200) % 10
    monkeypatch.setattr(networks, "load_mnist", lambda: ((images, labels), (images, labels)))
    network = networks.PIXELS["mnist-pixels"]
    X, y, weights = networks.problem(network, steps=2)
    assert X.dtype == np.float32 and X.shape == (2 * network.batch, 784)
    np.testing.assert_allclose(X[5], images[5].ravel() / 255, rtol=1e-6)
    np.testing.assert_array_equal(y, labels[: 2 * network.batch])
    plain = networks.problem(networks.NETWORKS["mnist"], steps=2)[2]
    assert all(np.array_equal(a, b) for a, b in zip(weights, plain, strict=True))
