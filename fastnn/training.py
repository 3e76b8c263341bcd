"""The training loop around the native loop: slices, callbacks, interruption, lost losses.

Native calls last at most ``SLICE`` seconds; a call goes on over as many epochs as it can unless
something happens between epochs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .callbacks import Callback, History
from .compiler import PENALTY
from .data import Data
from .kernels.aot import executor
from .runtime import NOT_FINITE, SLICE, NumpyRunner, Order, Runner, State

if TYPE_CHECKING:
    from .model import Model

SNAPSHOT_EVERY = 1.0  # seconds between copies of good weights
LARGE = 1 << 22  # bytes of an array from which to start a thread takes less than it saves


class NonFiniteLoss(FloatingPointError):
    """The loss became NaN or infinite. The model keeps the weights of the last finite loss.

    Attributes
    ----------
    step
        The step that failed, from 0 at the start of this ``fit``.
    op
        Name of the first op whose result was not finite.
    """

    def __init__(self, step: int, epoch: int, op: str) -> None:
        super().__init__(
            f"the loss is not finite at step {step} (epoch {epoch}); the first op with a NaN or an "
            f"infinity in its result is {op}. The model keeps the weights of the last finite loss. "
            "A smaller learning rate, or inputs scaled to about 1, usually help"
        )
        self.step = step
        self.op = op


@dataclass
class _Snapshot:
    """A copy of what training changes, from a step whose loss was finite.

    Its memory belongs to the state, which keeps it from one call of ``fit`` to the next.
    """

    state: State
    runner: Runner
    step: int = 0
    taken: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.arrays = self.state.spare or [np.empty_like(a) for a in self.state.arrays]
        self.state.spare = []
        self.take(self.step, self.runner)

    def give_back(self) -> None:
        self.state.spare = self.arrays

    def take(self, step: int, runner: Runner) -> None:
        for mine, theirs in zip(self.arrays, self.state.arrays, strict=True):
            threads = runner.program.split.threads if mine.nbytes > LARGE else 1
            executor.put_aside(theirs, mine, threads)
        self.step, self.runner, self.taken = step, runner, time.monotonic()

    def restore(self) -> None:
        for mine, theirs in zip(self.arrays, self.state.arrays, strict=True):
            np.copyto(theirs, mine)


class Progress:
    """A progress bar (tqdm) over the steps, a line per epoch, or silence."""

    def __init__(self, verbose: int | str, steps: int, epochs: int) -> None:
        if verbose not in (0, 1, 2, "auto"):
            raise ValueError(f"verbose: expected 0, 1, 2 or 'auto', got {verbose!r}")
        if verbose == "auto":
            verbose = int(sys.stderr.isatty())
        self.epochs, self.lines, self.bar = epochs, verbose == 2, None
        if verbose == 1:
            from tqdm import tqdm

            self.bar = tqdm(total=steps, unit="step", leave=True, dynamic_ncols=True)

    def advance(self, steps: int) -> None:
        if self.bar is not None:
            self.bar.update(steps)

    def epoch(self, epoch: int, logs: dict[str, float]) -> None:
        if self.bar is not None:
            self.bar.set_description(f"epoch {epoch + 1}/{self.epochs}", refresh=False)
            self.bar.set_postfix({k: f"{v:.4g}" for k, v in logs.items()}, refresh=False)
        if self.lines:
            values = "  ".join(f"{name} {value:.4f}" for name, value in logs.items())
            print(f"epoch {epoch + 1}/{self.epochs}  {values}")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


@contextmanager
def training(model: Model, callbacks: Sequence[Callback], progress: Progress) -> Iterator[None]:
    """Tell callbacks that training begins and, however it ends, those that know of it that it ends.

    The progress bar is closed before that. Each is told, whatever another raises.
    """
    model.stop_training = False
    told: list[Callback] = []
    try:
        for callback in callbacks:
            callback.on_train_begin(model)
            told.append(callback)
        yield
    finally:
        progress.close()
        with ExitStack() as ends:
            for callback in reversed(told):  # a stack: the first comes out first
                ends.callback(callback.on_train_end, model)


def summarise(runner: Runner, totals: np.ndarray, rows: int) -> dict[str, float]:
    """Loss (with penalties), losses of several outputs, and metrics from sums over rows."""
    logs: dict[str, float] = {"loss": 0.0}
    for result, total in zip(runner.program.sums, totals, strict=True):
        mean = float(total) / rows
        if result.is_loss:
            logs["loss"] += result.factor * mean
        if result.name not in ("loss", PENALTY):
            logs[result.name] = mean
    return logs


def culprit(runner: Runner, data: Data, batch: int, step: int, order: Order | None) -> str:
    """The first op of a step whose result is not finite, found with the NumPy definitions."""
    finder = NumpyRunner(runner.program.unsharded(), runner.state)
    return finder.first_not_finite(data.feeds, rows=len(data), batch=batch, step=step, order=order)


def order_of(data: Data, batch: int) -> Order | None:
    """What shuffling needs; None where one batch has all rows, unless it mixes them."""
    return Order(len(data)) if len(data) > batch or data.mixup else None


@dataclass
class Loop:
    """One call of ``fit``: from data, a runner and callbacks to a history."""

    model: Model
    runner: Runner
    renewed: Callable[[], Runner]
    data: Data
    batch: int
    epochs: int
    initial_epoch: int
    shuffle: bool
    callbacks: list[Callback]
    validate: Callable[..., dict[str, float]] | None
    progress: Progress
    history: History
    workers: int | None = None  # of its native calls; may change at any time
    keep_snapshot: bool = True

    def __post_init__(self) -> None:
        self.state = self.runner.state
        self.per_epoch = -(-len(self.data) // self.batch)
        self.total = self.per_epoch * (self.epochs - self.initial_epoch)
        self.order = order_of(self.data, self.batch) if self.shuffle else None
        self.totals = np.zeros((self.epochs - self.initial_epoch, len(self.runner.program.sums)))
        self.step = 0
        self.counted = 0  # steps that the model's counters know of
        self.snapshot: _Snapshot | None = None

    def run(self) -> History:
        """Train, and leave model and history in a sound state however it ends."""
        with training(self.model, self.callbacks, self.progress):
            self.runner.progress[0] = 0  # it serves many calls, some of them perhaps just now
            try:
                while self.step < self.total and not self.model.stop_training:
                    self._slice()
            finally:
                # An interrupt may come up right after the native call, or between two epochs of it.
                self._count()
                self._record_finished()
                if self.snapshot is not None:
                    self.snapshot.give_back()
        return self.history

    def _count(self) -> None:
        """Bring the model's counters to the steps that are done: callbacks may copy the model."""
        self.step = int(self.runner.progress[0])
        self.state.updates += self.step - self.counted
        self.state.epochs += self.step // self.per_epoch - self.counted // self.per_epoch
        self.counted = self.step

    @contextmanager
    def _counters_of_the_start(self) -> Iterator[None]:
        """The model's counters without the steps of this loop, from which runners count these."""
        kept = self.state.updates, self.state.epochs
        try:
            self.state.updates -= self.counted
            self.state.epochs -= self.counted // self.per_epoch
            yield
        finally:
            self.state.updates, self.state.epochs = kept

    def _slice(self) -> None:
        epoch = self.step // self.per_epoch
        if self.callbacks and self.step == epoch * self.per_epoch:
            self._tell("on_epoch_begin", epoch + self.initial_epoch)
        if self.callbacks:  # one of them may have set another learning rate
            runner = self.renewed()
            if runner.state is not self.state:
                raise RuntimeError("callbacks: one of them compiled the model while it trains")
            runner.progress[0] = self.step
            self.runner = runner
        between = self.callbacks or self.validate is not None
        last = (epoch + 1) * self.per_epoch if between else self.total
        self._take_snapshot()
        before = self.step
        status, _ = self._run(before, last, self.totals)
        self._count()
        if status == NOT_FINITE:
            self._record_finished()
            self._fail()
        self.progress.advance(self.step - before)
        for done in range(before // self.per_epoch, self.step // self.per_epoch):
            self._end_epoch(done)

    def _run(self, first: int, last: int, totals: np.ndarray, **options: Any) -> tuple[int, int]:
        with self._counters_of_the_start():
            return self.runner.run(
                self.data.feeds,
                totals,
                rows=len(self.data),
                batch=self.batch,
                first=first,
                last=last,
                order=self.order,
                workers=self.workers,
                **({"seconds": SLICE} | options),
            )

    def _take_snapshot(self) -> None:
        """Now and then, copy the weights once it is known that their loss is finite.

        At the start of every epoch where there are callbacks: what they change cannot be repeated.
        """
        if self.keep_snapshot and self.snapshot is None:
            self.snapshot = _Snapshot(self.state, self.runner)
        if self.snapshot is None or self.step == self.snapshot.step:
            return
        often = self.callbacks and self.step % self.per_epoch == 0
        if not often and time.monotonic() - self.snapshot.taken < SNAPSHOT_EVERY:
            return
        scratch = np.zeros_like(self.totals)
        status, _ = self._run(self.step, self.step + 1, scratch, update=False)
        if status != NOT_FINITE:
            self.snapshot.take(self.step, self.runner)

    def _fail(self) -> None:
        """Go back to the weights of the last finite loss, and say what happened."""
        failed = self.step
        with self._counters_of_the_start():
            op = culprit(self.runner, self.data, self.batch, failed, self.order)
        if self.snapshot is not None:
            self.snapshot.restore()
            # The same steps again: all that is random comes from counters.
            first, self.runner = self.snapshot.step, self.snapshot.runner
            self._run(first, max(first, failed - 1), np.zeros_like(self.totals), seconds=1e9)
        raise NonFiniteLoss(failed, failed // self.per_epoch + self.initial_epoch, op)

    def _record_finished(self) -> None:
        """Write down the epochs that ended and are not yet in the history."""
        for done in range(len(self.history.epoch), self.step // self.per_epoch):
            self._record(done)

    def _record(self, index: int, **more: float) -> dict[str, float]:
        logs = summarise(self.runner, self.totals[index], len(self.data)) | more
        self.history.append(index + self.initial_epoch, logs)
        return logs

    def _end_epoch(self, index: int) -> None:
        held_out = self.validate(self.workers) if self.validate is not None else {}
        logs = self._record(index, **{f"val_{name}": value for name, value in held_out.items()})
        epoch = index + self.initial_epoch
        self.progress.epoch(epoch, logs)
        self._tell("on_epoch_end", epoch, logs)

    def _tell(self, event: str, *about: Any) -> None:
        try:
            for callback in self.callbacks:
                getattr(callback, event)(self.model, *about)
        finally:
            self.runner.progress[0] = self.step  # one may have trained the model with this runner
