"""The backend numba: kernels for a model's sizes, their cache, and the choice among kernels."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import pickle
import subprocess
import sys
import threading
import time

import numpy as np
import op_cases
import pytest

pytest.importorskip("numba")

import fastnn as fnn
from fastnn import runtime, tuning
from fastnn.benchmarks import calls
from fastnn.kernels import jit, provider
from fastnn.kernels.aot import executor
from fastnn.kernels.formula import FORMULAS
from fastnn.kernels.jit import compiled, vectors
from fastnn.kernels.op import OPS
from fastnn.layers import BatchNormalization, Dense, Dropout

# ------------------------------------------------------------------ kernels made for sizes

PRODUCTS = [name for name in OPS if name.startswith("dense")]
#: Ops whose kernels go over blocks of columns.
BY_COLUMNS = [
    name for name in OPS
    if "columns" in name or name.startswith(("affine", "prelu")) or name == "constrain_norm"
]  # fmt: skip


def address_of_special(
    kernels: op_cases.Kernels, case: op_cases.Case, threads: int = 1
) -> int | None:
    """The kernel that is made for a case and so many threads, if there is one."""
    given = {o.name for o in case.present(case.op.operands)}
    attrs = {"weight_decay": 0.0, "decay": ((0.0, 0.0), (0.0, 0.0))} | dict(case.attrs)
    dims = {name: size for name, size in case.dims.items() if isinstance(size, int)}
    return jit.special_kernel(case.op.name, kernels.dtype, {"B": 1} | dims, attrs, given, threads)


def has_special(kernels: op_cases.Kernels, case: op_cases.Case) -> bool:
    """Whether there is one, without compiling it."""
    try:
        with compiled.loading_only():
            return address_of_special(kernels, case) is not None
    except compiled.NotCompiled:
        return True


def special(
    kernels: op_cases.Kernels, case: op_cases.Case, threads: int = 1
) -> op_cases.Kernels | None:
    """The kernels with that in them which is made for a case, if there is one."""
    made = address_of_special(kernels, case, threads)
    if made is None:
        return None
    replaced = {**dict.fromkeys(OPS, 0), case.op.name: made}
    for name in ("prepare_update", "schedule"):  # what comes first in a step
        replaced[name] = kernels.provider.kernels[name]
    return dataclasses.replace(
        kernels, provider=dataclasses.replace(kernels.provider, kernels=replaced)
    )


@pytest.mark.parametrize("dtype", op_cases.DTYPES)
@pytest.mark.parametrize("name", OPS)
def test_kernels_made_for_sizes_compute_the_op(name, dtype):
    kernels = op_cases.Kernels(provider.numba(dtype), dtype)
    cases = [c for c in op_cases.cases(OPS[name], kernels) if has_special(kernels, c)]
    if name in (*PRODUCTS, "gather", "softmax_cross_entropy", "standardize_columns"):
        assert len(cases) > 3
    for case in [*cases[:: max(1, len(cases) // 6)], *cases[-3:]]:
        made = special(kernels, case)
        assert made is not None
        for check in (op_cases.check_definition, op_cases.check_nan, op_cases.check_threads,
                      op_cases.check_in_place):  # fmt: skip
            check(made, case)


#: Sizes at which a product changes its ways: packed panels, several of them, long sums, few units,
#: weights that go by parts.
SIZES = [
    (64, 40, 1), (33, 50, 15), (5, 1100, 64), (37, 70, 129), (70, 130, 1100), (19, 600, 300),
    (20, 30, 23), (5, 2, 12288), (3, 1, 40000), (3, 5000, 2), (600, 20, 300), (6, 1050, 1088),
    (40, 790, 130), (40, 400, 130), (37, 600, 300), (45, 1050, 1088),
]  # fmt: skip


@pytest.mark.parametrize("dtype", op_cases.DTYPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_all_shapes(name, sizes, dtype):
    kernels = op_cases.Kernels(provider.numba(dtype), dtype)
    found = op_cases.cases(OPS[name], kernels)
    has_mask = any(operand.name == "mask" for operand in OPS[name].inputs)
    masked = [case for case in found if has_mask and "mask" not in case.absent]
    check_sizes(found[0], sizes, kernels)
    if masked and masked[0] is not found[0] and sizes in (*SIZES[::3], SIZES[-1]):
        check_sizes(masked[0], sizes, kernels)


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("dtype", op_cases.DTYPES)
@pytest.mark.parametrize("rows", [21, 40])
@pytest.mark.parametrize("name", ["dense", "dense_dropout", "dense_dx"])
def test_products_whose_columns_are_divided(name, rows, dtype, threads):
    """Made for so many threads, they run on any number of them, and give what others give."""
    kernels = op_cases.Kernels(provider.numba(dtype), dtype)
    inputs = 512 if dtype == "float32" and name != "dense_dx" else 256
    check_sizes(op_cases.cases(OPS[name], kernels)[0], (rows, inputs, 256), kernels, threads)


def test_each_thread_makes_its_own_columns():
    rng, kernels = np.random.default_rng(0), provider.numba("float32")
    x, w = (rng.normal(size=s).astype("float32") for s in ((21, 256), (256, 256)))
    y, attrs = np.full((21, 256), np.nan, "float32"), {"function": "identity", "parameters": ()}
    call = calls.bind(kernels, "dense", (x, w, None, y), **attrs)
    dims = {"B": 21, "I": 256, "O": 256}
    call["kernel"] = jit.special_kernel("dense", "float32", dims, attrs, {"x", "w", "y"}, 2)
    step = np.zeros(1, executor.STEP)
    call["step"] = step.ctypes.data
    executor.call_kernel(call, 1, 2)
    assert np.isnan(y[:, :128]).all()
    np.testing.assert_allclose(y[:, 128:], (x @ w)[:, 128:], rtol=1e-4, atol=1e-4)


def check_sizes(
    like: op_cases.Case, sizes: tuple[int, ...], kernels: op_cases.Kernels, threads: int = 1
) -> None:
    dims = {**like.dims, **dict(zip("BIO", sizes, strict=True))}
    if "P" in dims:
        dims["P"] = sizes[1] * sizes[2] + sizes[2] * ("b" not in like.absent)
    case = dataclasses.replace(like, dims=dims)
    made = special(kernels, case, threads)
    assert made is not None
    for check in (op_cases.check_definition, op_cases.check_threads):
        check(made, case)
    if threads > 1:
        # With a function, or an even seed, numbers are such that sums are exact in any order.
        attrs = {**case.attrs, "function": "identity", "parameters": ()}
        case = dataclasses.replace(case, attrs=attrs, seed=case.seed | 1)
        made, alone = special(kernels, case, threads), special(kernels, case)
        assert made is not None and alone is not None
        data = op_cases.make_data(case)
        of_one = op_cases.Run(alone, case, data)
        op_cases.Run(made, case, data).check_same(of_one, f"being made for {threads} threads")


#: What is taken from a processor that has any of it, and the bytes of a register that are left.
NARROWER = {
    level: (without, width)
    for level, without, width in (
        ("avx2", ("avx512",), 32),
        ("sse", ("avx", "fma", "f16c", "vaes", "vpclmulqdq", "xop"), 16),
    )
    if any(f"+{name}" in compiled.processor()[1] for name in without)
}

NARROWED = """
import sys
sys.path.insert(0, "tests")
import op_cases, test_numba_backend as t, test_sparse
from fastnn.kernels import provider
from fastnn.kernels.op import OPS
assert provider.numba("float32").core.VECTOR_BYTES == int(sys.argv[1])
ran = 0
for dtype in op_cases.DTYPES:
    kernels = op_cases.Kernels(provider.numba(dtype), dtype)
    for name in (*t.PRODUCTS, *t.BY_COLUMNS, "softmax_cross_entropy", "gather"):
        for case in op_cases.cases(OPS[name], kernels)[1::9]:
            for made in (kernels, t.special(kernels, case)):
                if made is not None:
                    op_cases.check_definition(made, case)
                    op_cases.check_threads(made, case)
                    ran += 1
    for sizes in t.SIZES:
        if sizes[1] >= 400 and sizes[2] <= 300:  # weights by parts, packed, or neither
            for name in ("dense", "dense_update"):
                t.check_sizes(op_cases.cases(OPS[name], kernels)[0], sizes, kernels)
    for sizes in test_sparse.SIZES[5:6]:
        for name, factor in (("dense", "x"), ("dense_dx", "dz"), ("dense_update", "dz")):
            test_sparse.check(OPS[name], kernels, sizes, factor)
print(ran)
"""


@pytest.mark.parametrize("level", NARROWER)
def test_narrower_registers(level):
    """What is emitted for this processor is tested above; here for those with less."""
    without, width = NARROWER[level]
    _, features = compiled.processor()
    narrowed = ",".join(
        f"-{f[1:]}" if f[1:].startswith(without) else f for f in features.split(",")
    )
    process = subprocess.run(
        [sys.executable, "-c", NARROWED, str(width)], text=True, capture_output=True,
        env={**os.environ, "NUMBA_CPU_FEATURES": narrowed, "FASTNN_JIT_CACHE": ""},
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) > 50


def test_every_formula_of_ours_runs_on_registers():
    """None falls back on one number at a time."""
    for kind, part in (("activation", "function"), ("activation", "derivative"),
                       ("optimizer", "function")):  # fmt: skip
        for formula in FORMULAS[kind].values():
            assert vectors.fits(formula, part, "float32"), formula.name


def test_a_formula_with_library_functions_runs_over_rows():
    @fnn.custom.activation
    def wavy(x):
        return x + 0.1 * np.sin(x)

    @wavy.derivative
    def _(x, y):
        return 1 + 0.1 * np.cos(x)

    assert not vectors.fits(FORMULAS["activation"]["wavy"], "function", "float32")
    losses = [
        train([Dense(9, activation="wavy"), Dense(2)], backend=backend)[0]
        for backend in ("numba", "numpy")
    ]
    fnn.custom.forget("wavy")
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_truth_values_are_numbers_in_formulas():
    """Comparisons may be multiplied, added and returned, on every backend."""

    @fnn.custom.activation
    def gated(x):
        return (x > 0) * x + 0.1 * x * (x < 0) + 0.01 * ((0.5 * (x > -1) + (x > 1)) > 1.2)

    @gated.derivative
    def _(x, y):
        return (y > 0) + 0.1 * (y < 0)

    @fnn.custom.optimizer
    def by_sign(w, g, rate):
        return w - rate * ((g > 0) - 1.0 * (g < 0))

    options = {"optimizer": by_sign(0.01)}
    layers = [Dense(40, activation="gated"), Dense(2)]
    got, want = (train(layers, backend=backend, **options) for backend in ("numba", "numpy"))
    for name in ("gated", "by_sign"):
        fnn.custom.forget(name)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-4)


def test_rules_that_take_one_number_at_a_time():
    """They run over parts of the gradient: of wide layers too."""

    @fnn.custom.optimizer
    def stepwise(w, g, rate):
        step = rate * g
        if step > 0.01:
            step = 0.01
        return w - step

    assert not vectors.fits(FORMULAS["optimizer"]["stepwise"], "function", "float32")
    for units in (300, 5000):
        layers = [Dense(units, activation="tanh"), Dense(2)]
        options = {"optimizer": stepwise(0.01), "epochs": 2}
        got, want = (train(layers, backend=backend, **options) for backend in ("numba", "cython"))
        np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
        np.testing.assert_allclose(got[1][0], want[1][0], atol=1e-6)
    fnn.custom.forget("stepwise")


# ------------------------------------------------------------------ whole models

NETWORKS = {
    "one unit": [Dense(32, activation="relu"), Dense(1)],
    "classes": [Dense(20, activation="tanh"), Dense(3, activation="softmax")],
    "normalized": [Dense(17, use_bias=False), BatchNormalization(), Dropout(0.3), Dense(4)],
    "wide": [Dense(300, activation="gelu"), Dense(150, activation="selu"), Dense(2)],
}


def data(units: int, rows: int = 70) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(rows, 12)).astype(np.float32)
    return X, (X[:, :units] * 0.5 + 0.1).astype(np.float32)


def train(layers, epochs=3, fit=None, **options):
    """Losses and weights of a model of these layers after some epochs."""
    X, y = data(layers[-1].units)
    model = fnn.Sequential([fnn.Input((12,)), *layers], seed=3)
    loss = "mean_squared_error"
    if options.pop("classes", False):
        loss, y = "cross_entropy", (np.abs(X[:, 0] * 9) % layers[-1].units).astype(int)
    model.compile(loss, options.pop("optimizer", "adam"), **options)
    history = model.fit(X, y, batch_size=32, epochs=epochs, verbose=0, **(fit or {}))
    return history.history["loss"], model.get_weights(), model


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", op_cases.DTYPES)
@pytest.mark.parametrize("network", NETWORKS)
def test_trains_like_the_definition(network, dtype, threads):
    options = {"dtype": dtype, "classes": network == "classes"}
    got = train(NETWORKS[network], backend="numba", threads=threads, **options)
    want = train(NETWORKS[network], backend="numpy", **options)
    tolerance = 1e-4 if dtype == "float32" else 1e-10
    np.testing.assert_allclose(got[0], want[0], rtol=tolerance)
    for a, b in zip(got[1], want[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=100 * tolerance, atol=tolerance)


def test_runs_are_the_same_bit_for_bit():
    first, second = (train(NETWORKS["wide"], backend="numba", threads=2) for _ in range(2))
    assert first[0] == second[0]
    assert all(np.array_equal(a, b) for a, b in zip(first[1], second[1], strict=True))


def test_any_threads_gives_the_same_bits():
    options = {"backend": "numba", "deterministic": "any-threads"}
    one, two = (train(NETWORKS["wide"], threads=n, **options) for n in (1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one[1], two[1], strict=True))


@pytest.mark.parametrize("optimizer", [
    fnn.optimizers.SGD(0.01, weight_decay=0.1), fnn.optimizers.RMSProp(0.01), "adamw",
], ids=str)  # fmt: skip
def test_decay_and_penalties(optimizer):
    l1, l2 = fnn.regularizers.L1(0.01), fnn.regularizers.L2(0.02)
    layers = [
        Dense(16, activation="relu", kernel_regularizer=l1),
        Dense(2, kernel_regularizer=l2, bias_regularizer=l1),
    ]
    got, want = (train(layers, optimizer=optimizer, backend=b) for b in ("numba", "numpy"))
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)


# ------------------------------------------------------------------ what is missing


def test_a_missing_numba_is_named(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(ImportError, match=r"needs Numba 0\.60 or newer: pip install 'fastnn"):
        fnn.Sequential([fnn.Input((2,)), Dense(1)]).compile("mse", backend="numba")


def test_an_old_numba_is_named(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.57.1")
    with pytest.raises(ImportError, match=r"0\.60 or newer; 0\.57\.1 is installed"):
        fnn.Sequential([fnn.Input((2,)), Dense(1)]).compile("mse", backend="numba")


def test_disabled_compilation_is_refused(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    with pytest.raises(RuntimeError, match="NUMBA_DISABLE_JIT=1 turns it off"):
        fnn.Sequential([fnn.Input((2,)), Dense(1)]).compile("mse", backend="numba")


# ------------------------------------------------------------------ the cache

PROGRAM = """
import json, sys
import numpy as np, fastnn as fnn
from fastnn.kernels.jit import compiled
heard = []
model = fnn.Sequential([fnn.Input((6,)), fnn.layers.Dense(9, activation="tanh"),
                        fnn.layers.Dense(2)], seed=0)
model.compile("mean_squared_error", backend="numba", threads=1)
X = np.linspace(-1, 1, 240).reshape(40, 6)
with compiled.heard(lambda name, seconds, found: heard.append(found)):
    loss = model.fit(X, X[:, :2], epochs=2, verbose=0).history["loss"]
print(json.dumps({"loss": loss, "compiled": heard.count(False), "loaded": heard.count(True),
                  "numba": "numba" in sys.modules}))
"""


def start(cache, **environment):
    environment = {**os.environ, "FASTNN_JIT_CACHE": str(cache), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def result(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache that two processes have filled at once, and what they said."""
    cache = tmp_path_factory.mktemp("cache")
    return cache, [result(p) for p in [start(cache), start(cache)]]


def test_processes_fill_the_cache_at_once(filled):
    cache, (first, second) = filled
    assert first["loss"] == second["loss"]
    assert first["compiled"] > 5
    (folder,) = cache.iterdir()
    assert all(file.suffix == ".o" for file in folder.iterdir())  # nothing half-written


def test_the_next_process_compiles_nothing_and_loads_no_numba(filled):
    cache, (first, _) = filled
    again = result(start(cache))
    assert again == {
        "loss": first["loss"], "compiled": 0, "numba": False,
        "loaded": first["compiled"] + first["loaded"],
    }  # fmt: skip


def test_a_damaged_file_is_compiled_anew(filled):
    cache, (first, _) = filled
    (folder,) = cache.iterdir()
    files = sorted(folder.iterdir())
    files[0].write_bytes(files[0].read_bytes()[:-100])
    files[1].write_bytes(b"")
    again = result(start(cache))
    assert again["loss"] == first["loss"] and again["compiled"] == 2
    assert result(start(cache))["compiled"] == 0


LOADED = """
import sys
sys.path.insert(0, "tests")
import op_cases
from fastnn.kernels import provider
from fastnn.kernels.op import OPS
for dtype in op_cases.DTYPES:
    kernels = op_cases.Kernels(provider.numba(dtype), dtype)
    for op in OPS.values():
        cases = op_cases.cases(op, kernels)
        for case in cases[:: max(1, len(cases) // 4)]:
            print(f"{case} in {dtype}", flush=True)
            op_cases.check_definition(kernels, case)
            op_cases.check_in_place(kernels, case)
print("numba" in sys.modules)
"""


def test_kernels_work_in_a_process_that_only_loads_them():
    """There, nothing but the names of the C library and of Python is there to be called."""
    if compiled.home() is None:
        pytest.skip("FASTNN_JIT_CACHE keeps nothing")
    for dtype in op_cases.DTYPES:
        kernels = provider.numba(dtype)
        assert all(kernels.kernels.values()) and all(kernels.formulas.values())
    ran = subprocess.run([sys.executable, "-c", LOADED], text=True, capture_output=True)
    last = ran.stdout.splitlines()[-1] if ran.stdout else ""
    assert ran.returncode == 0 and last == "False", f"{last}: {ran.stderr[-2000:]}"


def test_without_a_place_for_it_everything_is_compiled(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for cache in (file, ""):  # no directory; and switched off
        found = result(start(cache))
        assert found["compiled"] > 5 and found["loaded"] == 0


@pytest.mark.parametrize("part", ["_sources", "_versions", "processor"])
def test_code_is_never_stale(part, monkeypatch, tmp_path):
    """Other sources, packages or processors have another place."""
    monkeypatch.setenv("FASTNN_JIT_CACHE", str(tmp_path))
    before = compiled.fingerprint()
    value = getattr(compiled, part)()
    other = f"{value}!" if isinstance(value, str) else (*value[:-1], f"{value[-1]}!")
    monkeypatch.setattr(compiled, part, lambda: other)
    assert compiled.fingerprint() != before


def test_sources_are_all_that_code_is_made_of(tmp_path):
    """The digest changes with every file of the provider."""
    root = os.path.dirname(os.path.dirname(compiled.__file__))
    text = compiled.source_files()
    names = {os.path.relpath(file, root) for file in text}
    assert {"scalars.py", "source.py", "jit/dense.py", "jit/names.py"} <= names


def test_settings_of_numba_have_a_place_of_their_own(monkeypatch):
    before = compiled.fingerprint()
    monkeypatch.setenv("NUMBA_OPT", "1")
    assert compiled.fingerprint() != before


def test_old_versions_make_room(tmp_path, monkeypatch):
    (tmp_path / "somebody's").mkdir()
    (tmp_path / "somebody's" / "file").write_text("")
    names = [f"{i:020x}" for i in range(compiled.KEPT + 4)]
    for i, name in enumerate(names[:-1]):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (i, i))
    compiled._write(tmp_path / names[-1] / "entry.o", "symbol", b"code")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"somebody's", *names[-compiled.KEPT :]}  # what is not ours stays
    assert (tmp_path / "somebody's" / "file").exists()


# ------------------------------------------------------------------ threads and processes


def test_two_threads_compile_and_train_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTNN_JIT_CACHE", str(tmp_path))
    found = {}

    def run(units):
        found[units] = train([Dense(units, activation="tanh"), Dense(2)], backend="numba")[0]

    threads = [threading.Thread(target=run, args=(units,)) for units in (21, 22)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for units in (21, 22):
        want = train([Dense(units, activation="tanh"), Dense(2)], backend="numpy")[0]
        assert found[units] == pytest.approx(want, rel=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_trains_on_and_compiles():
    model = train(NETWORKS["one unit"], backend="numba", threads=2)[2]
    child = os.fork()
    if child == 0:  # no cleanup of pytest's in here
        try:
            X, y = data(1)
            model.fit(X, y, batch_size=32, verbose=0)
            train([Dense(23), Dense(1)], backend="numba", threads=2)
            os._exit(0)
        except BaseException:
            os._exit(1)
    deadline = time.monotonic() + 120
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    if ended[0] == 0:
        os.kill(child, 9)
    assert ended == (child, 0)


# ------------------------------------------------------------------ what is said


def test_verbose_says_what_is_compiled(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FASTNN_JIT_CACHE", str(tmp_path))
    train([Dense(27, activation="relu"), Dense(2)], backend="numba", verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("numba: float32 dense 32x12x27") for line in lines)
    assert "kernels compiled in" in lines[-1] and "loaded in" in lines[-1]


def test_explain_names_the_provider():
    model = train(NETWORKS["one unit"], backend="numba")[2]
    assert {row[-1] for row in model.explain(32).rows} == {"numba"}


# ------------------------------------------------------------------ the choice of kernels


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Measurements in which Numba wins all products, and a cache of their own."""
    monkeypatch.setenv("FASTNN_JIT_CACHE", str(tmp_path))
    calls = []

    def measure(runners, batch, wanted):
        calls.append(list(wanted))
        nodes = runners["cython"].program.nodes
        return {
            i: {"cython": 2e-6, "numba": 1e-6 if "dense" in nodes[i].op.name else 3e-6}
            for i in wanted
        }

    monkeypatch.setattr(tuning, "_measure", measure)
    return calls


def built(**options):
    model = fnn.Sequential([fnn.Input((12,)), Dense(8, activation="relu"), Dense(2)], seed=3)
    model.compile("mean_squared_error", threads=1, **options)
    return model


def test_tune_takes_the_faster_kernels_and_keeps_the_choice(measured):
    model = built()
    table = fnn.tune(model, 32)
    chosen = {row[1].split("[")[0]: row[-1] for row in table.rows}
    assert chosen["dense"] == chosen["dense_update"] == "numba" and chosen["gather"] == "cython"
    assert {row[-1].split("/")[0] for row in model.explain(32).rows} == {"numba", "cython"}
    again = built()
    table = fnn.tune(again, 32)
    assert measured[1] == []  # nothing was measured a second time
    assert {row[1].split("[")[0]: row[-1] for row in table.rows} == chosen
    fnn.tune(built(), 32, again=True)
    assert len(measured[2]) == len(table.rows)


def test_only_a_tuned_model_runs_on_other_kernels(measured):
    fnn.tune(built(), 32)
    other = built()
    assert {row[-1].split("/")[0] for row in other.explain(32).rows} == {"cython"}
    tuned = built()
    fnn.tune(tuned, 32)
    tuned.compile("mean_squared_error", threads=1)
    assert {row[-1].split("/")[0] for row in tuned.explain(32).rows} == {"cython"}


def test_a_tuned_model_gives_the_same_result_to_rounding(measured):
    X, y = data(2)
    plain, tuned = built(), built()
    fnn.tune(tuned, 32)
    losses = [m.fit(X, y, epochs=5, verbose=0).history["loss"] for m in (plain, tuned)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_training_starts_on_cython_while_kernels_are_compiled(measured, tmp_path, monkeypatch):
    X, y = data(2, rows=2000)
    plain, tuned = built(), built()
    fnn.tune(tuned, 32)
    monkeypatch.setattr(compiled, "_addresses", {})  # as in a new process
    monkeypatch.setenv("FASTNN_JIT_CACHE", str(tmp_path / "empty"))
    runner = tuned._runner("train", tuned._example(48), 48)
    assert {name.split("/")[0] for name in runner.providers} == {"cython"}
    losses, deadline = [], time.monotonic() + 120
    while "numba" not in runner.providers and time.monotonic() < deadline:
        losses += tuned.fit(X, y, batch_size=48, verbose=0).history["loss"]
    assert "numba" in runner.providers
    losses += tuned.fit(X, y, batch_size=48, epochs=3, verbose=0).history["loss"]
    want = plain.fit(X, y, batch_size=48, epochs=len(losses), verbose=0).history["loss"]
    assert losses[:50] == pytest.approx(want[:50], rel=1e-3)
    assert losses[-1] == pytest.approx(want[-1], rel=0.05)


def test_a_copy_of_a_tuned_model_is_not_tuned(measured):
    model = built()
    fnn.tune(model, 32)
    copied = pickle.loads(pickle.dumps(model))
    assert {row[-1].split("/")[0] for row in copied.explain(32).rows} == {"cython"}


def test_a_failed_compilation_is_a_warning(measured, monkeypatch):
    X, y = data(2)
    model = built()
    fnn.tune(model, 32)
    runner = model._runner("train", model._example(32), 32)

    whole, other = runner._kernel, next(i for i in runner._others if i != 4)

    def broken(node, kernels):
        if node is runner.program.nodes[4]:
            raise ValueError("broken")
        return whole(node, kernels)

    monkeypatch.setattr(runner, "_kernel", broken)
    for i in (4, other):
        runner._chosen[i] = whole(runner.program.nodes[i], runner.provider), runner.provider.name
    runner._others |= {4: runner._others[other]}
    with pytest.warns(UserWarning, match="cannot be compiled: broken"):
        runner._compile([4, other])
    model.fit(X, y, batch_size=32, verbose=0)
    assert runner.providers[other] == "numba"  # the others come all the same
    assert runner.providers[4] == runner.provider.name and not runner.is_waiting


def test_blas_gets_its_threads_back():
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def threads():
        return [lib["num_threads"] for lib in threadpoolctl.threadpool_info()
                if lib["user_api"] == "blas"]  # fmt: skip

    before = threads()
    first, second = runtime.blas_threads(True), runtime.blas_threads(True)
    first.__enter__()
    second.__enter__()
    assert set(threads()) == {1}
    first.__exit__(None, None, None)  # they overlap
    assert set(threads()) == {1}
    second.__exit__(None, None, None)
    assert threads() == before


def test_choices_that_cannot_be_read_are_measured_again(measured):
    fnn.tune(built(), 32)
    tuning._file().write_text("{")
    fnn.tune(built(), 32)
    assert measured[1]
    tuning._file().write_text(json.dumps({"dense": "abacus"}))
    assert tuning.load() == {}


def test_tune_measures_for_real(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTNN_JIT_CACHE", str(tmp_path))
    table = fnn.tune(built(), 32)
    for _, call, _, cython, numba, blas, choice in table.rows:
        assert 0 < cython < 1e5 and 0 < numba < 1e5
        assert (blas is not None) == (call.split("[")[0] in jit.BLAS_OPS)
        assert choice == "cython" or {"numba": numba, "blas": blas}[choice] < cython


@pytest.mark.parametrize("dtype", op_cases.DTYPES)
@pytest.mark.parametrize("name", jit.BLAS_OPS)
def test_products_by_blas_compute_the_op(name, dtype):
    pytest.importorskip("scipy")
    numba = provider.numba(dtype)
    kernels = {**dict.fromkeys(OPS, 0), name: jit.blas_kernel(name, dtype)}
    made = op_cases.Kernels(dataclasses.replace(numba, kernels=kernels), dtype)
    for case in op_cases.cases(OPS[name], made):
        op_cases.check_definition(made, case)


def test_a_model_runs_on_blas_where_that_was_chosen(measured, monkeypatch):
    pytest.importorskip("threadpoolctl")
    X, y = data(2)
    plain, tuned = built(), built()
    monkeypatch.setattr(
        tuning, "_best", lambda times: "blas" if times["numba"] < 2e-6 else "cython"
    )
    fnn.tune(tuned, 32)
    providers = tuned._runner("train", tuned._example(32), 32).providers
    assert "blas" in providers
    losses = [m.fit(X, y, epochs=5, verbose=0).history["loss"] for m in (plain, tuned)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_tune_wants_a_model_of_backend_auto():
    with pytest.raises(ValueError, match="model: expected one compiled with backend='auto', got"):
        fnn.tune(built(backend="cython"))
    with pytest.raises(ValueError, match="deterministic='any-threads'"):
        fnn.tune(built(deterministic="any-threads"))
    with pytest.raises(RuntimeError, match="not compiled"):
        fnn.tune(fnn.Sequential([fnn.Input((2,)), Dense(1)]))
