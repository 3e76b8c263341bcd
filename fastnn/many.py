"""Many models trained side by side, all on the same arrays."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import callbacks as callback_module
from . import checks
from .callbacks import Callback, History
from .compiler import available_threads
from .data import Data, take_apart
from .model import Model
from .training import SLICE, Loop, NonFiniteLoss, Progress

if TYPE_CHECKING:
    from concurrent.futures import Future

#: What becomes of a model whose loss is lost.
LOST = ("raise", "keep")


def fit_many(
    models: Iterable[Model],
    X: Any,
    y: Any,
    *,
    batch_size: int | Sequence[int | None] | None = None,
    epochs: int | Sequence[int] = 1,
    validation_data: tuple | None = None,
    sample_weight: Any = None,
    shuffle: bool = True,
    callbacks: Callable[[Model], Any] | None = None,
    lost: str = "raise",
    threads: int | None = None,
    verbose: int | str = "auto",
) -> list[History]:
    """Train many models at once on the same data: of any architectures, seeds and hyperparameters.

    Each model ends as ``model.fit`` alone would have left it, to the last bit. A model runs on one
    thread while enough others run beside it: this does the work of all the threads that the model
    would have alone, and waits for nobody. The data are checked and converted once and shared.

    Parameters
    ----------
    models
        Different compiled models.
    X, y, validation_data, sample_weight, shuffle
        As for `Model.fit`, the same for all.
    batch_size, epochs
        As for `Model.fit`: for all, or a list with one for each model.
    callbacks
        A function of a model that returns its list of callbacks: each model needs its own. They
        are called from the thread that trains the model.
    lost
        Of a model whose loss becomes NaN or infinite, which keeps the weights of its last finite
        loss: ``"raise"`` trains the others to their end and then raises; ``"keep"`` returns the
        epochs that it finished, fewer than it was asked for.
    threads
        Threads that train, each a model at a time; the processors there are by default. Of fewer
        models each has several.
    verbose
        1 a progress bar over all steps, 2 a line for each model that ends, 0 nothing; ``"auto"`` is
        1 on a terminal.

    Returns
    -------
    list of History
        One for each model, in order.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        What does not fit, with the model's place in the list; nothing is trained then.
    NonFiniteLoss
        A loss was lost, and ``lost`` is ``"raise"``.

    Examples
    --------
    >>> import numpy as np, fastnn as fnn
    >>> X = np.linspace(-1, 1, 64)[:, None]
    >>> def make(rate):
    ...     model = fnn.Sequential([fnn.layers.Dense(16, "tanh"), fnn.layers.Dense(1)])
    ...     model.compile("mean_squared_error", fnn.optimizers.Adam(rate))
    ...     return model
    >>> models = [make(rate) for rate in (1e-4, 1e-3, 1e-2)]
    >>> histories = fnn.fit_many(models, X, X**2, epochs=100, verbose=0)
    >>> losses = [history.history["loss"][-1] for history in histories]
    >>> losses.index(min(losses))
    2
    """
    listed = _listed(models)
    if lost not in LOST:
        raise ValueError(f"lost: expected 'raise' or 'keep', got {lost!r}")
    if callbacks is not None and not callable(callbacks):
        raise TypeError(
            "callbacks: expected a function of a model that returns its callbacks, got "
            f"{callbacks!r}; callbacks keep what they watch, so that models cannot share them"
        )
    at_once = available_threads() if threads is None else checks.positive_int("threads", threads)
    share = _Shared()
    jobs = []
    sizes = _for_each("batch_size", batch_size, len(listed))
    counts = _for_each("epochs", epochs, len(listed))
    for i, (model, size, count) in enumerate(zip(listed, sizes, counts, strict=True)):
        with _named(i):
            count = checks.positive_int("epochs", count)
            data = share.prepared(model, X, y, sample_weight, ("X", "y", "sample_weight"))
            held_out = None
            if validation_data is not None:
                held_out = share.prepared(model, *take_apart("validation_data", validation_data))
            chosen = callback_module.check(None if callbacks is None else callbacks(model))
            batch = model._batch(size, len(data))
            jobs.append(_Job(i, model, data, held_out, batch, count, chosen))
    _refuse_shared(jobs)
    progress = _Together(verbose, sum(job.steps for job in jobs), len(jobs))
    try:
        for job in jobs:
            with _named(job.number):
                job.prepare(shuffle, progress)
        _run(jobs, at_once, progress)
    finally:
        progress.end()
    failed = [job for job in jobs if job.error is not None]
    if failed and lost == "raise":
        first = failed[0].error
        assert first is not None
        numbers = ", ".join(f"models[{job.number}]" for job in failed)
        first.add_note(f"The loss was lost by {numbers} of {len(jobs)}; the others are trained.")
        raise first
    return [job.model.history for job in jobs]


@dataclass
class _Job:
    """One model to be trained, and what became of it."""

    number: int
    model: Model
    data: Data
    held_out: Data | None
    batch: int
    epochs: int
    callbacks: list[Callback]
    loop: Loop | None = None
    error: NonFiniteLoss | None = None
    is_done: bool = False

    @property
    def steps(self) -> int:
        return self.epochs * -(-len(self.data) // self.batch)

    @property
    def work(self) -> float:
        """About in proportion to how long it takes: rows times parameters."""
        network, _ = self.model._need()
        return float(self.epochs) * len(self.data) * network.size

    def prepare(self, shuffle: bool, progress: _Together) -> None:
        """Compile everything that training needs."""
        self.loop = self.model._loop(
            self.data, self.held_out, self.batch, range(self.epochs), shuffle, self.callbacks,
            lambda: progress,
        )  # fmt: skip

    def train(self, progress: _Together) -> None:
        assert self.loop is not None
        try:
            self.loop.run()
        except NonFiniteLoss as error:
            self.error = error
        self.is_done = True
        progress.ended(self)


class _Shared:
    """Arrays that are checked and converted once for all models that read them alike."""

    def __init__(self) -> None:
        self._known: dict[Any, Data] = {}

    def prepared(
        self, model: Model, X: Any, y: Any, sample_weight: Any, names: tuple[str, str, str]
    ) -> Data:
        has_shape = model._chain is not None or model._input is not None
        key = (names, self._reading(model)) if has_shape else None
        if key not in self._known:  # what has no shape yet takes that of the data
            made = model._prepare(X, y, sample_weight, names)
            key = (names, self._reading(model))
            self._known.setdefault(key, made)
        return self._known[key]

    @staticmethod
    def _reading(model: Model) -> Any:
        """What the form of a model's data depends on."""
        network, _ = model._need()
        losses = tuple((type(head.loss), repr(vars(head.loss))) for head in model.heads)
        inputs = tuple(zip(network.input_names, network.input_shapes, strict=True))
        outputs = tuple(zip(model._output_names, network.output_shapes, strict=True))
        return model._dtype, inputs, outputs, losses


class _Together(Progress):
    """Progress over the steps of all models, told from any thread."""

    def __init__(self, verbose: int | str, steps: int, models: int) -> None:
        super().__init__(verbose, steps, 1)
        self._lock, self._models, self._ended = threading.Lock(), models, 0

    def advance(self, steps: int) -> None:
        with self._lock:
            super().advance(steps)

    def epoch(self, epoch: int, logs: dict[str, float]) -> None:
        """Epochs of models that run at once would be a mess on the screen."""

    def ended(self, job: _Job) -> None:
        """A model is trained, or its loss is lost."""
        with self._lock:
            self._ended += 1
            if self.bar is not None:
                self.bar.set_description(f"model {self._ended}/{self._models}", refresh=False)
            if self.lines:
                found = job.model.history.history
                values = "  ".join(f"{name} {values[-1]:.4f}" for name, values in found.items())
                lost = "" if job.error is None else "  loss not finite"
                print(f"models[{job.number}]  {values}{lost}")

    def close(self) -> None:
        """One model's end is not that of all."""

    def end(self) -> None:
        super().close()


def _listed(models: Iterable[Model]) -> list[Model]:
    if not isinstance(models, Iterable):
        raise TypeError(f"models: expected a list of Model objects, got {models!r}")
    listed = list(models)
    if not listed:
        raise ValueError("models: expected at least one Model, got none")
    for i, model in enumerate(listed):
        if not isinstance(model, Model):
            raise TypeError(f"models[{i}]: expected a Model, got {model!r}")
        first = next(j for j, other in enumerate(listed) if other is model)
        if first < i:
            raise ValueError(f"models[{i}]: is models[{first}]; expected different models")
    return listed


def _for_each(argument: str, value: Any, models: int) -> list[Any]:
    if not isinstance(value, Sequence):
        return [value] * models
    if len(value) != models:
        raise ValueError(f"{argument}: expected {models}, one for each model, got {len(value)}")
    return list(value)


def _refuse_shared(jobs: Sequence[_Job]) -> None:
    """What callbacks watch or change must be one model's own."""
    watchers = [callback for job in jobs for callback in job.callbacks]
    if len({id(callback) for callback in watchers}) < len(watchers):
        raise ValueError("callbacks: expected new callbacks for each model, got one of them twice")
    seen: dict[int, int] = {}
    for job in jobs if watchers else ():
        first = seen.setdefault(id(job.model.optimizer), job.number)
        if first != job.number:
            raise ValueError(
                f"models[{job.number}]: has the optimizer of models[{first}], which callbacks may "
                "change; expected an object of its own"
            )


@contextmanager
def _named(number: int) -> Iterator[None]:
    """Errors with a model's place in the list."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError) as error:
        error.args = (f"models[{number}]: {error}", *error.args[1:])
        raise


def _run(jobs: Sequence[_Job], threads: int, progress: _Together) -> None:
    """Train all: the longest first, so that none is left over at the end."""
    # Here, because it brings logging along, which takes long to load.
    from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

    order = sorted(jobs, key=lambda job: -job.work)
    at_once = min(threads, len(jobs))
    places = iter(range(0, threads, threads // at_once))
    lock = threading.Lock()

    def share() -> None:
        """Give models that are left equal shares of the threads, for their next native calls."""
        with lock:
            left = [job for job in jobs if not job.is_done]
            for job in left:
                assert job.loop is not None
                job.loop.workers = max(1, threads // len(left))

    share()
    futures: list[Future[None]] = []
    with ThreadPoolExecutor(
        at_once, thread_name_prefix="fit_many", initializer=lambda: _spread(next(places))
    ) as pool:
        try:
            for job in order:
                futures.append(pool.submit(job.train, progress))
                futures[-1].add_done_callback(lambda _: share())
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            _stop(futures, jobs)
    for future in futures:
        if not future.cancelled():
            future.result()


def _spread(place: int) -> None:
    """Move this thread to a processor of its own, and leave it free to move again.

    Linux starts a thread where its parent runs, and may take long to move it from there.
    """
    if hasattr(os, "sched_setaffinity"):
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {sorted(allowed)[place % len(allowed)]})
        os.sched_setaffinity(0, allowed)


def _stop(futures: Sequence[Future[None]], jobs: Sequence[_Job]) -> None:
    """After an interrupt or an error: begin no more, and end those that run after their slice."""
    from concurrent.futures import wait

    for future in futures:
        future.cancel()
    while not all(future.done() for future in futures):
        for job in jobs:
            job.model.stop_training = True
        wait(futures, timeout=SLICE)


__all__ = ["fit_many"]
