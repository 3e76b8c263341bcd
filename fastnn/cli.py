"""The command ``fastnn``: train on bundled or own data, describe the machine, run the benchmark."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from time import perf_counter, sleep
from typing import NoReturn

import numpy as np

from . import __version__, checks, layers, machine, optimizers, tabular
from .compiler import Program, available_threads
from .model import DTYPES, Sequential
from .runtime import BACKENDS
from .tabular import Task
from .training import NonFiniteLoss

#: What bad input and a training that fails raise; anything else is a mistake of ours.
ERRORS = (
    ValueError, TypeError, OSError, RuntimeError, ImportError, MemoryError, ArithmeticError,
)  # fmt: skip

FAILED, INTERRUPTED = 2, 130

TRAIN = """\
Train a network and test it on rows that it has not seen.

Without --data it learns the 1,797 handwritten digits that come with fastnn. A directory holds four
IDX files named like MNIST's (plain or .gz); their bytes are divided by 255. A CSV file has a header
and numeric features, which are standardised by the rows trained on; a target of text or whole
numbers is classified (unless --regress says otherwise), one with decimal points is regressed.
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are printed like all others."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _layer_sizes(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected numbers of units separated by commas, such as 128,64, got {text!r}"
        ) from None


def _parser() -> argparse.ArgumentParser:
    what = "Train neural networks with compiled kernels."
    parser = _Parser(prog="fastnn", allow_abbrev=False, description=what)
    parser.add_argument("--version", action="version", version=f"fastnn {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")
    train = commands.add_parser(
        "train", allow_abbrev=False, help="train on the bundled digits, IDX files or a CSV file",
        description=TRAIN, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    _add_train_options(train)
    info = commands.add_parser("info", help="versions, processor, threads, optional packages")
    info.set_defaults(run=_info)
    # Never parsed here, because its options are the benchmark's: main() passes them on.
    commands.add_parser(
        "bench",
        help=f"measure against other libraries: {', '.join(BENCHMARKS)} (bench train --help)",
    )
    return parser


def _add_train_options(train: argparse.ArgumentParser) -> None:
    train.set_defaults(run=_train)
    add = train.add_argument_group("data").add_argument
    add("--data", metavar="PATH", help="directory of IDX files, or CSV file (default: the digits)")
    add("--target", metavar="COLUMN", help="of the CSV file (default: the last)")
    add("--regress", action="store_true",
        help="take a target of whole numbers for quantities, not for classes")  # fmt: skip
    add("--test-fraction", type=float, metavar="F",
        help="share of the CSV file's rows held out to test on (default: 0.2)")  # fmt: skip
    add = train.add_argument_group("network").add_argument
    add("--layers", type=_layer_sizes, default=[128], metavar="N,N,...",
        help="units of the hidden layers (default: 128)")  # fmt: skip
    add("--activation", default="relu", metavar="NAME", help="of the hidden layers (default: relu)")
    # Of no use to the digits, and the NumPy backend draws masks slowly, which would flatter ours.
    add("--dropout", type=float, default=0.0, metavar="RATE",
        help="share of each hidden layer's units dropped in training (default: 0)")  # fmt: skip
    add = train.add_argument_group("training").add_argument
    add("--optimizer", default="adam", metavar="NAME",
        help=f"{', '.join(optimizers.OPTIMIZERS)} (default: adam)")  # fmt: skip
    add("--learning-rate", type=float, metavar="RATE", help="(default: the optimizer's)")
    add("--batch-size", type=int, metavar="N", help="(default: 32, or the rows if they are fewer)")
    add("--epochs", type=int, metavar="N",
        help=f"(default: {tabular.DIGITS_EPOCHS} for the digits, {tabular.IDX_EPOCHS} for IDX "
             f"files, {tabular.CSV_EPOCHS} for a CSV file)")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N",
        help="of the split, the initial weights, shuffling and dropout (default: 0)")  # fmt: skip
    add = train.add_argument_group("execution").add_argument
    add("--backend", default="auto", metavar="NAME", help=f"{', '.join(BACKENDS)} (default: auto)")
    add("--threads", type=int, metavar="N", help="(default: as many as are estimated to help)")
    add("--dtype", default="float32", choices=DTYPES, help="(default: float32)")
    output = train.add_argument_group("output").add_mutually_exclusive_group()
    output.add_argument(
        "--verbose",
        action="store_true",
        help="tables of layers and kernel calls, and a line for each epoch",
    )
    output.add_argument("--quiet", action="store_true", help="print the results only")


def _info(options: argparse.Namespace) -> int:
    _print_aligned(machine.info())
    return 0


#: What ``fastnn bench`` can run: the modules, by what a user calls them.
BENCHMARKS = {
    "train": "train_step", "gemm": "gemm", "ops": "formulas", "latency": "latency",
    "pixels": "pixels", "many": "many", "scaling": "scaling", "startup": "startup",
    "memory": "memory", "page": "page",
}  # fmt: skip


def _bench(arguments: Sequence[str]) -> int:
    name = "train"
    if arguments and not arguments[0].startswith("-"):
        name, *arguments = arguments
    if name not in BENCHMARKS:
        raise ValueError(f"bench: expected one of {', '.join(BENCHMARKS)}, got {name!r}")
    module = import_module(f".benchmarks.{BENCHMARKS[name]}", __package__)
    status: int = module.run(arguments)
    return status


def _load(options: argparse.Namespace) -> Task:
    path = Path(options.data) if options.data is not None else None
    if path is None or path.is_dir():
        given = {
            "target": options.target is not None,
            "regress": options.regress,
            "test-fraction": options.test_fraction is not None,
        }
        for name, is_given in given.items():
            if is_given:
                raise ValueError(f"--{name}: only for a CSV file, named by --data")
        return tabular.digits() if path is None else tabular.idx_directory(path)
    fraction = 0.2 if options.test_fraction is None else options.test_fraction
    return tabular.csv_table(
        path, options.target, fraction, options.seed, options.dtype, options.regress
    )


def _network(options: argparse.Namespace, task: Task, backend: str) -> Sequential:
    """The network that the options describe, compiled and with its initial weights."""
    optimizer = optimizers.get(options.optimizer)
    if options.learning_rate is not None:
        optimizer.learning_rate = options.learning_rate  # type: ignore[assignment]
    dropout = checks.number("dropout", options.dropout, 0, 1, open_high=True)
    model = Sequential(seed=options.seed)
    if task.scale != 1:
        model.add(layers.Rescaling(task.scale))
    for units in options.layers:
        model.add(layers.Dense(units, options.activation))
        if dropout:
            model.add(layers.Dropout(dropout))
    regresses = task.classes is None
    model.add(layers.Dense(task.outputs, None if regresses else "softmax"))
    model.compile(
        "mean_squared_error" if regresses else "cross_entropy",
        optimizer,
        () if regresses else "accuracy",
        backend=backend,
        threads=options.threads if backend == options.backend else None,
        dtype=options.dtype,
    )
    model.build(task.X.shape[1])
    return model


def _train(options: argparse.Namespace) -> int:
    task = _load(options)
    epochs = task.epochs if options.epochs is None else options.epochs
    model = _network(options, task, options.backend)
    batch = model._batch(options.batch_size, len(task.X))
    program = _program(model, batch)  # compiled here, so that its time is not counted below
    if not options.quiet:
        _print_aligned(_description(options, task, model, batch, epochs))
    if options.verbose:
        print(f"\n{model.summary()}\n\n{model.explain(batch)}\n")
    sys.stdout.flush()  # the progress bar goes to the other stream
    _warm_up_progress_bar()
    start = perf_counter()
    try:
        verbose = 0 if options.quiet else 2 if options.verbose else 1
        model.fit(task.X, task.y, batch_size=batch, epochs=epochs, verbose=verbose)
    except KeyboardInterrupt:
        print(f"fastnn: interrupted after {_progress(model, epochs)}", file=sys.stderr)
        return INTERRUPTED
    seconds = perf_counter() - start
    results = _test(model, task) | _speed(model, program, len(task.X), epochs, seconds)
    _print_aligned(results)
    sys.stdout.flush()  # what follows takes a second or two
    if model.backend == "numpy":
        versus = "this is the NumPy backend, the baseline"
    else:
        versus = _compare(options, task, batch, epochs)
    _print_aligned({"against NumPy": versus}, max(map(len, results)))
    return 0


def _warm_up_progress_bar() -> None:
    """Load tqdm and let its first bar make its locks: together 20 ms that are not training."""
    from tqdm import tqdm

    tqdm(disable=True)


def _print_aligned(values: dict[str, str], width: int = 0) -> None:
    width = max(width, *map(len, values))
    for name, value in values.items():
        print(f"{name:<{width}}  {value}")


def _progress(model: Sequential, epochs: int) -> str:
    """How far an unfinished training came, and the figures of its last whole epoch."""
    values = [f"{name} {found[-1]:.4g}" for name, found in model.history.history.items()]
    last = f": {', '.join(values)}" if values else ""
    return f"{len(model.history.epoch)} of {epochs} epochs{last}"


def _program(model: Sequential, batch: int) -> Program:
    return model._runner("train", model._example(batch), batch).program


def _description(
    options: argparse.Namespace, task: Task, model: Sequential, batch: int, epochs: int
) -> dict[str, str]:
    runner = model._runner("train", model._example(batch), batch)
    hidden = [f"{units} {options.activation}" for units in options.layers]
    last = f"{task.outputs} {'linear' if task.classes is None else 'softmax'}"
    dropout = f", dropout {options.dropout:g}" if options.dropout else ""
    threads = runner.program.split.why if model.backend != "numpy" else "threads as its BLAS has"
    return {
        "data": str(task),
        "network": f"{' - '.join([str(task.X.shape[1]), *hidden, last])}{dropout}, "
        f"{model.count_parameters():,} parameters",
        "training": f"{model.loss.name}, {model.optimizer!r}, {epochs} epochs in batches of "
        f"{batch}, seed {options.seed}",
        "kernels": f"{runner.name}, {options.dtype}; {threads}",
    }


def _test(model: Sequential, task: Task) -> dict[str, str]:
    """What the trained model makes of the test part."""
    if task.target is None:
        accuracy = model.evaluate(task.X_test, task.y_test)["accuracy"]
        return {"test accuracy": f"{100 * accuracy:.2f}% of {len(task.X_test):,} rows"}
    errors = task.target.undo(model.predict(task.X_test).astype(np.float64))[:, 0] - task.y_test
    squares = float(np.sum(errors**2))
    total = float(np.sum((task.y_test - task.y_test.mean()) ** 2))
    return {
        "test RMSE": f"{np.sqrt(squares / len(errors)):.4g}, in units of {task.target_name!r}",
        "test R^2": f"{1 - squares / total:.4f}" if total else "undefined: all targets are equal",
    }


def _speed(
    model: Sequential, program: Program, rows: int, epochs: int, seconds: float
) -> dict[str, str]:
    """What a training of so many seconds amounts to."""
    whole, rest = divmod(rows, program.batch)
    flops = epochs * (whole * program.flops() + (program.flops(rest) if rest else 0))
    rate = flops / seconds / 1e9
    # NumPy's BLAS takes what threads it likes.
    threads = program.split.threads if model.backend != "numpy" else available_threads()
    peak = machine.measure().fma(program.dtype, threads)
    samples = rows * epochs
    return {
        "samples per second": f"{samples / seconds:,.0f} ({samples:,} in {seconds:.3g} s)",
        "GFLOP/s": f"{rate:.1f}",
        "share of FMA peak": f"{100 * rate / peak:.1f}% of the {peak:,.0f} GFLOP/s measured for "
        f"{program.dtype} on {threads} thread{'s' * (threads > 1)}",
    }


#: Turns of each backend in a comparison, and seconds that a turn aims at.
TURNS, TURN = 5, 0.15
#: Seconds before a turn. The threads of NumPy's BLAS spin for 0.1 s after their last product, which
#: was seen to double the time of a turn of ours on two threads.
PAUSE = 0.15


def _compare(options: argparse.Namespace, task: Task, batch: int, epochs: int) -> str:
    """How many times faster than NumPy's the chosen backend trains the same network.

    Both train it afresh in turns, on the same rows and for at most the epochs that were asked for,
    but each only for about a turn's time: rates are compared.
    """

    def rate(backend: str, rows: int, epochs: int) -> float:
        model = _network(options, task, backend)
        _program(model, batch)
        sleep(0 if backend == "numpy" else PAUSE)
        start = perf_counter()
        model.fit(task.X[:rows], task.y[:rows], batch_size=batch, epochs=epochs, verbose=0)
        return rows * epochs / (perf_counter() - start)

    def turns() -> list[dict[str, float]]:
        few = min(2 * batch, len(task.X))
        rate("numpy", few, 1)  # the first is slower
        batches = max(1, round(rate("numpy", few, 1) * TURN / batch))
        rows = min(batches * batch, len(task.X))
        share = {
            name: min(epochs, max(1, round(rate(name, rows, 1) * TURN / rows)))
            for name in (options.backend, "numpy")
        }
        return [{name: rate(name, rows, n) for name, n in share.items()} for _ in range(TURNS)]

    try:
        rounds = turns()
    except NonFiniteLoss as error:  # on part of the rows training may go another way
        return f"not measured: {error}"
    ratios = [found[options.backend] / found["numpy"] for found in rounds]
    ours, theirs = (np.median([r[name] for r in rounds]) for name in rounds[0])
    return (
        f"{np.median(ratios):.1f} times as fast ({min(ratios):.1f} to {max(ratios):.1f} in {TURNS} "
        f"alternating turns; medians {ours:,.0f} and {theirs:,.0f} samples per second)"
    )


def _message(error: BaseException) -> str:
    """An error on one line."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}"
    return " ".join(str(error).split()) or type(error).__name__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv
        Arguments after the command's name; those of the process by default.

    Returns
    -------
    int
        Exit status: 0, 2 after an error, 130 when interrupted by Ctrl-C, and for ``bench`` what
        the benchmark says. Errors are printed on one line; Python's development mode (``python -X
        dev -m fastnn``) shows where they come from.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        if arguments[:1] == ["bench"]:
            return _bench(arguments[1:])
        parser = _parser()
        options = parser.parse_args(arguments)
        if "run" not in options:
            parser.print_help()
            return 0
        status: int = options.run(options)
        sys.stdout.flush()  # here, where a reader that has gone can be dealt with
        return status
    except SystemExit as stop:  # after --help and --version, and from the benchmark's parser
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        print("fastnn: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python would flush once more when it ends, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except ERRORS as error:
        if sys.flags.dev_mode:
            raise
        print(f"fastnn: error: {_message(error)}", file=sys.stderr)
        return FAILED
