"""Tests of the command: what it trains on, what it prints, and how it fails."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fastnn
from fastnn import cli, machine, tabular
from fastnn.kernels.aot import executor

FIGURES = (
    "test accuracy",
    "samples per second",
    "GFLOP/s",
    "share of FMA peak",
    "against NumPy",
)


@pytest.fixture
def short_turns(monkeypatch):
    """Speeds that mean nothing, but take no time to measure."""
    monkeypatch.setattr(cli, "TURN", 0.005)
    monkeypatch.setattr(cli, "TURNS", 1)
    monkeypatch.setattr(cli, "PAUSE", 0)


@pytest.fixture
def run(capsys, monkeypatch, tmp_path, short_turns):
    """Run the command in this process, in ``tmp_path``: (status, output, errors)."""
    monkeypatch.chdir(tmp_path)

    def call(command):
        status = cli.main(shlex.split(command))
        output, errors = capsys.readouterr()
        return status, output, errors

    return call


@pytest.fixture
def trains(run):
    """Run the command, which must succeed: what it prints, by the names on the left."""

    def call(command):
        status, output, errors = run(command)
        assert status == 0, errors
        lines = (re.split(r"\s{2,}", line, maxsplit=1) for line in output.splitlines())
        return {line[0]: line[1] for line in lines if len(line) == 2}

    return call


@pytest.fixture
def fails(run):
    """Run the command, which must print one line of error: the message."""

    def call(command):
        status, _, errors = run(command)
        assert status == 2
        (line,) = errors.splitlines()
        assert line.startswith("fastnn: error: ")
        return line.removeprefix("fastnn: error: ")

    return call


def run_process(*arguments, cwd):
    command = [sys.executable, "-m", "fastnn", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def percent(figure):
    return float(figure.split("%")[0])


# ---- data --------------------------------------------------------------------------------------


def write_csv(file, header, columns):
    rows = zip(*columns, strict=True)
    lines = [",".join(header), *(",".join(map(str, row)) for row in rows)]
    file.write_text("\n".join(lines) + "\n")


def features(n=200):
    """Two that matter, of very different units, and one that is constant."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=n), 1e6 * rng.normal(size=n) + 5e6, np.full(n, 0.1)]


def is_large(columns):
    return columns[0] + (columns[1] - 5e6) / 1e6 > 0


@pytest.fixture
def tables(tmp_path):
    """text.csv and integer.csv to classify, float.csv to regress; made of the same features."""
    a, b, c = columns = features()
    large = is_large(columns)
    names = np.where(large, "large", "small")
    write_csv(tmp_path / "text.csv", ("a", "b", "c", "size"), (a, b, c, names))
    write_csv(tmp_path / "integer.csv", ("size", "a", "b", "c"), (7 * large - 3, a, b, c))
    price = 3 * a - (b - 5e6) / 1e6 + 100
    write_csv(tmp_path / "float.csv", ("a", "b", "c", "price"), (a, b, c, price))
    whole = np.rint(100 * price).astype(int)
    write_csv(tmp_path / "whole.csv", ("a", "b", "c", "price"), (a, b, c, whole))
    return tmp_path


def idx_bytes(values):
    header = struct.pack(f">4B{values.ndim}I", 0, 0, 0x08, values.ndim, *values.shape)
    return header + values.astype(np.uint8).tobytes()


@pytest.fixture
def images(tmp_path):
    """A directory of images of 4 x 4, whose bright row tells their label: 1, 2 or 5."""
    directory = tmp_path / "images"
    directory.mkdir()
    rng = np.random.default_rng(0)
    for part, n in (("train", 120), ("t10k", 30)):
        row = rng.integers(3, size=n)
        pixels = rng.integers(100, size=(n, 4, 4))
        pixels[np.arange(n), row] += 150
        labels = np.array([1, 2, 5])[row]
        (directory / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(pixels))
        (directory / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return directory


# ---- training ----------------------------------------------------------------------------------


def test_train_without_arguments(tmp_path):
    done = run_process("train", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("data ")
    figures = {name: line for line in lines for name in FIGURES if line.startswith(f"{name}  ")}
    assert list(figures) == list(FIGURES)
    assert percent(figures["test accuracy"].split()[2]) >= 96
    for name in FIGURES[1:4]:
        number = figures[name].removeprefix(name).split()[0]
        assert float(number.replace(",", "").rstrip("%")) > 0
    assert re.search(r" [0-9.]+ times as fast .* samples per second", figures["against NumPy"])
    assert "200/200: 100%" in done.stderr  # the progress bar


@pytest.mark.parametrize("command", ["--data text.csv", "--data integer.csv --target size"])
def test_classify_a_table(trains, tables, command):
    found = trains(f"train {command} --epochs 30 --quiet")
    assert list(found) == list(FIGURES)
    assert found["test accuracy"].endswith("of 40 rows")
    assert percent(found["test accuracy"]) >= 90


def test_regress_a_table(trains, tables):
    found = trains("train --data float.csv --epochs 100 --quiet")
    assert list(found) == ["test RMSE", "test R^2", *FIGURES[1:]]
    assert float(found["test RMSE"].split(",")[0]) < 1  # the target's deviation is 3.2
    assert float(found["test R^2"]) > 0.95


def test_regress_whole_numbers(trains, tables):
    found = trains("train --data whole.csv --regress --epochs 100")
    assert "regression of 'price'" in found["data"]
    assert float(found["test R^2"]) > 0.95
    classified = trains("train --data whole.csv --epochs 1")
    assert "classes of 'price'" in classified["data"]


def test_description(trains, tables):
    found = trains("train --data text.csv --epochs 2 --layers 8,4 --activation tanh")
    assert "160 rows to train on, 40 to test on, 3 features, 2 classes of 'size'" in found["data"]
    assert found["network"] == "3 - 8 tanh - 4 tanh - 2 softmax, 78 parameters"
    assert "Adam(learning_rate=0.001" in found["training"]
    assert "2 epochs in batches of 32, seed 0" in found["training"]
    assert "cython/" in found["kernels"] and "thread" in found["kernels"]


def test_images(trains, images):
    found = trains("train --data images --epochs 60")
    assert "16 features, 3 classes" in found["data"]
    assert percent(found["test accuracy"]) >= 95


def test_every_option(trains, tables):
    threads = min(2, executor.most_threads)
    found = trains(
        "train --data text.csv --target size --layers 16,8 --activation tanh --optimizer rmsprop "
        "--learning-rate 2e-3 --batch-size 64 --epochs 3 --dropout 0.2 --backend cython "
        f"--threads {threads} --seed 3 --dtype float64 --test-fraction 0.25 --verbose"
    )
    assert "150 rows to train on, 50 to test on" in found["data"]
    assert "dropout 0.2" in found["network"]
    assert "RMSProp(learning_rate=0.002" in found["training"]
    assert "3 epochs in batches of 64, seed 3" in found["training"]
    assert "float64" in found["kernels"] and f"{threads} thread" in found["kernels"]
    assert "measured for float64" in found["share of FMA peak"]


def test_verbose_shows_layers_calls_and_epochs(run):
    _, output, errors = run("train --epochs 2 --verbose")
    for text in ("Dense(128, activation=relu)", "update[adam]", "epoch 2/2  loss"):
        assert text in output
    assert not errors  # no bar


def test_quiet_prints_the_results_only(run):
    _, output, errors = run("train --epochs 2 --quiet")
    assert len(output.splitlines()) == len(FIGURES)
    assert not errors


def test_the_numpy_backend_is_the_baseline(trains):
    found = trains("train --epochs 2 --backend numpy")
    assert found["kernels"].startswith("numpy")
    assert "baseline" in found["against NumPy"]


def test_the_same_seed_gives_the_same_result(trains, tables):
    first, again, other = (
        trains(f"train --data float.csv --epochs 3 --quiet --seed {seed}")["test RMSE"]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_comparison_whose_loss_is_lost_does_not_fail(trains, monkeypatch):
    fit = fastnn.Sequential.fit

    def lose(model, *arguments, **options):
        if model.backend == "numpy":
            raise fastnn.NonFiniteLoss(0, 0, "dense")
        return fit(model, *arguments, **options)

    monkeypatch.setattr(fastnn.Sequential, "fit", lose)
    assert trains("train --epochs 2 --quiet")["against NumPy"].startswith("not measured: the loss")


def test_speeds_are_worked_out_from_time_and_work(trains, monkeypatch):
    """With a clock that fit alone moves: 10 us a row with NumPy, 1 us with the other."""
    now = [0.0]
    work = []
    fit = fastnn.Sequential.fit

    def timed(model, X, y, **options):
        history = fit(model, X, y, **options)
        now[0] += len(X) * options["epochs"] * (1e-5 if model.backend == "numpy" else 1e-6)
        work.append((model.backend, len(X), options["epochs"]))
        return history

    monkeypatch.setattr(fastnn.Sequential, "fit", timed)
    monkeypatch.setattr(cli, "perf_counter", lambda: now[0])
    monkeypatch.setattr(machine.Machine, "fma", lambda *_: 200.0)
    monkeypatch.setattr(cli, "TURN", 128e-5)
    found = trains("train --epochs 20 --batch-size 64 --layers 512")
    assert found["samples per second"] == "1,000,000 (28,740 in 0.0287 s)"
    products = 2 * (2 * 64 * 512 + 3 * 512 * 10)  # of a row; no gradient of the inputs
    rate = float(found["GFLOP/s"])
    assert products / 1e3 < rate < 1.2 * products / 1e3  # the rest is the update
    assert percent(found["share of FMA peak"]) == pytest.approx(rate / 2, abs=0.1)
    assert found["against NumPy"].startswith("10.0 times as fast (10.0 to 10.0 in 1 ")
    assert found["against NumPy"].endswith("medians 1,000,000 and 100,000 samples per second)")
    # A turn's time is two of NumPy's batches: those rows once, and ten times.
    assert work[-2:] == [("cython", 128, 10), ("numpy", 128, 1)]


# ---- tabular -----------------------------------------------------------------------------------


def test_standardise_uses_the_rows_it_was_made_from():
    rng = np.random.default_rng(1)
    rows = rng.normal(3, 5, size=(50, 4))
    scale = tabular.Standardiser.of(rows[:30], list("abcd"))
    z = scale.apply(rows, "float64")
    np.testing.assert_allclose(z[:30].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(z[:30].std(axis=0), 1)
    np.testing.assert_allclose(scale.undo(z), rows)
    assert scale.apply(rows, "float32").dtype == np.float32


def test_a_constant_column_stays_zero():
    rows = np.full((3, 1), 0.1)
    assert rows.std() > 0  # by rounding: what the test is about
    scale = tabular.Standardiser.of(rows, ["a"])
    assert not scale.apply(np.array([[0.1], [7.0]]), "float32").any()
    np.testing.assert_allclose(scale.undo(np.array([[2.0]])), 0.1)


def test_numbers_that_overflow_are_named():
    rows = np.array([[0.0, 1e300], [1.0, -1e300]])
    with pytest.raises(ValueError, match=r"column 'b': numbers up to 1e\+300 are too large"):
        tabular.Standardiser.of(rows, ["a", "b"])


@pytest.mark.parametrize("n", [2, 3, 10, 1001])
@pytest.mark.parametrize("fraction", [0.001, 0.2, 0.999])
def test_split_leaves_rows_on_both_sides(n, fraction):
    train, test = tabular.split_rows(n, fraction, seed=5)
    assert sorted([*train, *test]) == list(range(n))
    assert len(test) == min(max(round(fraction * n), 1), n - 1)


def test_split_is_the_same_for_ever():
    assert tabular.split_rows(8, 0.3, seed=0)[1].tolist() == [2, 3]
    assert tabular.split_rows(8, 0.3, seed=1)[1].tolist() != [2, 3]


def test_a_table_is_standardised_by_its_training_part(tables):
    task = tabular.csv_table(tables / "float.csv", None, 0.25, 0, "float64")
    table = fastnn.datasets.read_csv(tables / "float.csv")
    train, test = tabular.split_rows(200, 0.25, 0)
    for z in (task.X[:, :2], task.y):
        np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(z.std(axis=0), 1)
    assert np.abs(task.X_test[:, :2].mean(axis=0)).min() > 1e-3
    np.testing.assert_array_equal(task.y_test, table.y[test])  # in their own units
    np.testing.assert_allclose(task.target.undo(task.y)[:, 0], table.y[train])


def test_images_are_scaled_and_labels_numbered(images):
    task = tabular.idx_directory(images)
    (_, y), (X_test, y_test) = fastnn.datasets.load_idx_directory(images)
    assert task.scale == 1 / 255 and task.X.dtype == np.uint8
    assert task.classes.tolist() == [1, 2, 5]
    np.testing.assert_array_equal(task.classes[task.y], y)
    np.testing.assert_array_equal(task.classes[task.y_test], y_test)
    np.testing.assert_array_equal(task.X_test, X_test)


def test_a_constant_target_is_predicted_and_has_no_r2(trains, tmp_path):
    columns = features(20)
    write_csv(tmp_path / "flat.csv", ("a", "b", "c", "y"), (*columns, ["2.5"] * 20))
    found = trains("train --data flat.csv --epochs 2 --quiet")
    assert found["test RMSE"].startswith("0, ")
    assert "undefined" in found["test R^2"]


def test_examples():
    found = doctest.testmod(tabular)
    assert found.attempted and not found.failed


# ---- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--data nowhere.csv", "nowhere.csv: no such file or directory"),
        ("--data empty", "missing train-images-idx3-ubyte"),
        ("--target a", "--target: only for a CSV file"),
        ("--regress", "--regress: only for a CSV file"),
        ("--data text.csv --regress", "column 'size': expected numbers to regress, found 'large'"),
        ("--data images --test-fraction 0.5", "--test-fraction: only for a CSV file"),
        ("--data text.csv --target siez", "no target column 'siez'; did you mean 'size'?"),
        ("--data text.csv --target size --test-fraction 1", "expected a number in (0, 1), got 1.0"),
        ("--activation rleu", "unknown name 'rleu'. Did you mean 'relu'"),
        ("--optimizer mometum", "unknown name 'mometum'. Did you mean 'momentum'?"),
        ("--backend cyton", "unknown name 'cyton'. Did you mean 'cython'?"),
        ("--layers 8,,8", "expected numbers of units separated by commas, such as 128,64"),
        ("--layers ''", "expected numbers of units separated by commas"),
        ("--layers 0", "units: expected at least 1, got 0"),
        ("--layers 9999999,9999999", "Unable to allocate"),
        ("--dropout 1", "dropout: expected a number in [0, 1), got 1.0"),
        ("--dropout -0.1", "dropout: expected a number in [0, 1), got -0.1"),
        ("--learning-rate 0", "learning_rate: expected a number"),
        ("--batch-size 0", "batch_size: expected at least 1, got 0"),
        ("--batch-size 5000", "batch_size: expected at most the 1437 rows there are, got 5000"),
        ("--epochs 0 --quiet", "epochs: expected at least 1, got 0"),
        ("--epochs many", "argument --epochs: invalid int value: 'many'"),
        ("--threads 0", "threads: expected at least 1, got 0"),
        ("--seed -1", "seed: expected at least 0, got -1"),
        ("--dtype float16", "invalid choice: 'float16'"),
        ("--layer 8", "unrecognized arguments: --layer 8 (see fastnn --help)"),
        ("--quiet --verbose", "not allowed with argument"),
    ],
)
def test_bad_options(fails, tables, images, options, message):
    (tables / "empty").mkdir()
    assert message in fails(f"train {options}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,y\n1,2.5\n,3.5\n", "line 3, column 'a': missing value"),
        ("a,y\n1,2.5\ntall,3.5\n", "line 3, column 'a': expected a number, found 'tall'"),
        ("a,y\n1,yes\n2,\n", "line 3, column 'y': missing value"),
        ("a,y\n1,yes\n2,yes\n", "column 'y': expected at least two classes, found only 'yes'"),
        ("a,y\n1,3\n2,3\n", "column 'y': expected at least two classes, found only 3"),
        ("a,y\n1,2.5\n", "expected at least 2 rows"),
        ("a,y\n1e300,2.5\n-1e300,2.5\n3,4\n", "column 'a': numbers up to 1e+300 are too large"),
        ("", "the file is empty"),
    ],
)
def test_bad_tables(fails, tmp_path, text, message):
    (tmp_path / "bad.csv").write_text(text)
    assert message in fails("train --data bad.csv")


def test_truncated_images(fails, images):
    file = images / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    assert f"images{os.sep}t10k-images-idx3-ubyte: truncated" in fails("train --data images")


def test_images_of_one_label(fails, images):
    for part, n in (("train", 120), ("t10k", 30)):
        (images / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(np.full(n, 4)))
    assert "expected at least two classes, found only 4" in fails("train --data images")


def test_a_lost_loss(fails, tables):
    message = fails("train --data float.csv --optimizer sgd --learning-rate 1e30 --quiet")
    assert "the loss is not finite at step" in message


def test_unknown_command(fails):
    assert "invalid choice: 'trian'" in fails("trian")


def test_errors_of_a_process_have_no_traceback(tmp_path):
    done = run_process("train", "--data", "nowhere.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "fastnn: error: nowhere.csv: no such file or directory\n"
    assert not done.stdout


def test_mistakes_of_ours_are_not_hidden(run, monkeypatch):
    def wrong(options):
        raise KeyError("kernel")

    monkeypatch.setattr(cli, "_load", wrong)
    with pytest.raises(KeyError):
        run("train")


@pytest.mark.skipif(os.name != "posix", reason="SIGINT is sent to a process as POSIX has it")
def test_ctrl_c_tells_how_far_it_came(tmp_path):
    command = [sys.executable, "-m", "fastnn", "train", "--epochs", "10000000", "--layers", "8"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        seen = b""
        deadline = time.monotonic() + 60
        while b"epoch" not in seen and time.monotonic() < deadline:
            seen += process.stderr.read1()
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1].decode()
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "Traceback" not in errors
    last = errors.splitlines()[-1]
    assert re.fullmatch(
        r"fastnn: interrupted after [1-9][0-9]* of 10000000 epochs: "
        r"loss [0-9.e+-]+, accuracy [0-9.]+",
        last,
    )


def test_ctrl_c_elsewhere(run, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_load", interrupt)
    assert run("train") == (130, "", "fastnn: interrupted\n")


def test_a_reader_that_goes_away(tmp_path):
    command = f"{shlex.quote(sys.executable)} -m fastnn info | :"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, timeout=60)
    assert not done.stderr


# ---- the other commands ------------------------------------------------------------------------


def test_info(trains):
    found = trains("info")
    assert found == machine.info()
    assert found["fastnn"] == fastnn.__version__
    assert found["isa"].split()[0] in executor.ISA_LEVELS


def test_info_shows_the_processor_features(monkeypatch, tmp_path):
    text = "processor : 0\nmodel name : A\nflags : fpu sse2 fma hypervisor avx2\n"
    opened = []

    def fake_open(file, *arguments):
        opened.append(file)
        (tmp_path / "cpuinfo").write_text(text)
        return open(tmp_path / "cpuinfo", *arguments)

    monkeypatch.setattr(machine, "open", fake_open, raising=False)
    assert machine.cpu_features() == ["sse2", "fma", "avx2"]
    assert opened == ["/proc/cpuinfo"]
    text = "processor : 0\nFeatures : fp asimd sve\n"
    assert machine.cpu_features() == ["asimd", "sve"]
    text = "processor : 0\n"
    assert machine.cpu_features() == []


def test_info_of_a_process(tmp_path):
    done = run_process("info", cwd=tmp_path)
    assert done.returncode == 0 and not done.stderr
    starts = {len(line) - len(line.split("  ", 1)[1].lstrip()) for line in done.stdout.splitlines()}
    assert len(starts) == 1  # aligned


def test_version_and_help(run):
    assert run("--version") == (0, f"fastnn {fastnn.__version__}\n", "")
    status, output, _ = run("")
    assert status == 0 and all(name in output for name in ("train", "info", "bench"))
    status, output, _ = run("train --help")
    assert status == 0 and "--learning-rate" in output


@pytest.mark.parametrize("prefix", ["bench", "bench train"])
def test_bench_passes_its_options_on(run, monkeypatch, prefix):
    from fastnn.benchmarks import train_step

    given = []
    monkeypatch.setattr(train_step, "run", lambda arguments: given.append(arguments) or 1)
    assert run(f"{prefix} --networks tiny --rounds 1")[0] == 1
    assert given == [["--networks", "tiny", "--rounds", "1"]]


def test_bench_knows_its_benchmarks(run, monkeypatch):
    from importlib import import_module

    for name, module in cli.BENCHMARKS.items():
        given = []
        found = import_module(f"fastnn.benchmarks.{module}")
        monkeypatch.setattr(found, "run", lambda arguments, given=given: given.append(arguments))
        run(f"bench {name} --rounds 1")
        assert given == [["--rounds", "1"]]
    status, _, error = run("bench everything")
    assert status == 2 and "bench: expected one of train, gemm, ops, latency" in error


def test_bench_help(run):
    status, output, _ = run("bench --help")
    assert status == 0 and "--networks" in output


# ---- the README --------------------------------------------------------------------------------


@pytest.fixture
def readme():
    file = Path(__file__).parents[1] / "README.md"
    if not file.exists():
        pytest.skip("the tests are not in a checkout")
    return file.read_text(encoding="utf-8")


def test_the_example_of_the_readme_runs(readme, capsys):
    (example,) = re.findall(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    exec(example, {})
    accuracy = re.search(r"'accuracy': ([0-9.]+)", capsys.readouterr().out)
    assert float(accuracy[1]) > 0.95


def test_the_commands_of_the_readme_are_understood(readme):
    commands = re.findall(r"^    (?:.* && )?fastnn (train.*)$", readme, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        cli._parser().parse_args(shlex.split(command))
