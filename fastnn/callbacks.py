"""Callbacks: what happens between epochs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from . import checks
from .lookup import near_matches

if TYPE_CHECKING:
    from .model import Model


class Callback:
    """Base of all callbacks; set ``model.stop_training = True`` to end after the epoch.

    ``logs`` holds the epoch's ``loss``, its metrics, and the same with ``val_`` in front for the
    validation data.
    """

    def on_train_begin(self, model: Model) -> None:
        """Called once, before the first epoch."""

    def on_epoch_begin(self, model: Model, epoch: int) -> None:
        """Called before each epoch; ``epoch`` counts from 0."""

    def on_epoch_end(self, model: Model, epoch: int, logs: dict[str, float]) -> None:
        """Called after each epoch and its validation."""

    def on_train_end(self, model: Model) -> None:
        """Called once, after the last epoch, also when training was interrupted."""


class _Watcher(Callback):
    """What callbacks share that watch a quantity: whether it is better than it ever was."""

    def __init__(self, monitor: str, min_delta: float, patience: int, mode: str) -> None:
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode: expected 'auto', 'min' or 'max', got {mode!r}")
        if not isinstance(monitor, str):
            raise TypeError(f"monitor: expected the name of a quantity, got {monitor!r}")
        self.monitor = monitor
        self.min_delta = checks.number("min_delta", min_delta, 0)
        self.patience = checks.positive_int("patience", patience, least=0)
        rising = mode == "max" or (mode == "auto" and monitor.endswith("accuracy"))
        self._sign = -1.0 if rising else 1.0

    def on_train_begin(self, model: Model) -> None:
        self.best = self._sign * float("inf")
        self.best_epoch: int | None = None
        self._waited = 0  # epochs without improvement

    def _improved(self, epoch: int, logs: dict[str, float]) -> bool:
        """Whether the epoch's value is the best so far, which is then written down."""
        if self.monitor not in logs:
            raise ValueError(
                f"monitor: {self.monitor!r} is not among {', '.join(logs)}."
                f"{near_matches(self.monitor, list(logs))}"
                + (" (val_ needs validation data)" if self.monitor.startswith("val_") else "")
            )
        value = logs[self.monitor]
        if self._sign * (self.best - value) > self.min_delta:
            self.best, self.best_epoch, self._waited = value, epoch, 0
            return True
        self._waited += 1
        return False


class EarlyStopping(_Watcher):
    """Stop when a quantity has not improved for ``patience`` epochs.

    Parameters
    ----------
    monitor
        A key of the history: ``"val_loss"``, ``"loss"``, ``"val_accuracy"``, ...
    min_delta
        The least change that counts as an improvement, >= 0.
    patience
        Epochs in a row without improvement after which training stops, >= 0; 0 is as 1.
    mode
        ``"min"``, ``"max"``, or ``"auto"``: max for accuracies, min for the rest.
    restore_best_weights
        At the end, go back to the weights of the best epoch.

    Attributes
    ----------
    best, best_epoch, stopped_epoch
        The best value, its epoch (from 0), and the epoch that training stopped after (or None).

    Raises
    ------
    ValueError
        A monitored quantity that is not in the logs, at the end of the first epoch.

    Source: Prechelt, Early stopping - but when? (1998); Goodfellow et al., Deep Learning, 7.8.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        mode: str = "auto",
        restore_best_weights: bool = False,
    ) -> None:
        super().__init__(monitor, min_delta, patience, mode)
        self.restore_best_weights = bool(restore_best_weights)

    def on_train_begin(self, model: Model) -> None:
        super().on_train_begin(model)
        self.stopped_epoch: int | None = None
        self._weights: list[np.ndarray] | None = None

    def on_epoch_end(self, model: Model, epoch: int, logs: dict[str, float]) -> None:
        if self._improved(epoch, logs):
            if self.restore_best_weights:
                self._weights = [w.copy() for w in model.get_weights()]
        elif self._waited >= max(self.patience, 1):
            self.stopped_epoch = epoch
            model.stop_training = True

    def on_train_end(self, model: Model) -> None:
        if self._weights is not None:
            model.set_weights(self._weights)
            self._weights = None


class ReduceLROnPlateau(_Watcher):
    """Multiply the learning rate by ``factor`` when a quantity has stopped improving.

    A schedule keeps its course: the rates of all its steps are multiplied. The optimizer keeps the
    reduced rate after training.

    Parameters
    ----------
    monitor, min_delta, mode
        As for `EarlyStopping`.
    factor
        In (0, 1).
    patience
        Epochs without improvement that are waited for, >= 0; one more reduces the rate, as in
        PyTorch.
    cooldown
        Epochs after a reduction that do not count as epochs without improvement, >= 0.
    min_learning_rate
        The rate is not reduced below it, >= 0; of a schedule, its first argument is not.

    Attributes
    ----------
    best, best_epoch
        The best value and its epoch (from 0).
    reduced_epochs
        The epochs that the rate was reduced after.

    Raises
    ------
    ValueError
        A monitored quantity that is not in the logs, at the end of the first epoch.

    Examples
    --------
    >>> import numpy as np, fastnn as fnn
    >>> model = fnn.Sequential([fnn.layers.Dense(1)])
    >>> model.compile("mean_squared_error", fnn.optimizers.SGD(0.1))
    >>> reduce = ReduceLROnPlateau("loss", patience=5)
    >>> history = model.fit(np.eye(4), np.zeros(4), epochs=200, callbacks=reduce, verbose=0)
    >>> len(reduce.reduced_epochs) > 0 and model.optimizer.learning_rate.parameters[0] < 0.1
    True

    Source: He et al., Deep residual learning for image recognition, CVPR 2016, section 3.4.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_learning_rate: float = 0.0,
        mode: str = "auto",
    ) -> None:
        super().__init__(monitor, min_delta, patience, mode)
        self.factor = checks.number("factor", factor, 0, 1, open_low=True, open_high=True)
        self.cooldown = checks.positive_int("cooldown", cooldown, least=0)
        self.min_learning_rate = checks.number("min_learning_rate", min_learning_rate, 0)

    def on_train_begin(self, model: Model) -> None:
        super().on_train_begin(model)
        self.reduced_epochs: list[int] = []
        self._cooling = 0

    def on_epoch_end(self, model: Model, epoch: int, logs: dict[str, float]) -> None:
        self._improved(epoch, logs)
        if self._cooling > 0:
            self._cooling -= 1
            self._waited = 0
        if self._waited > self.patience:
            self._waited, self._cooling = 0, self.cooldown
            schedule = model.optimizer.learning_rate
            rate = max(self.factor * schedule.rate, self.min_learning_rate)
            if 0 < rate < schedule.rate:  # 0 where a tiny rate can be halved no more
                model.optimizer.learning_rate = schedule.with_rate(rate)
                self.reduced_epochs.append(epoch)


class History:
    """What ``fit`` returns.

    Attributes
    ----------
    history
        Name -> values, one per epoch: ``loss``, the metrics, and ``val_`` of both.
    epoch
        Numbers of the epochs, from 0 (or ``initial_epoch``).
    """

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}

    def append(self, epoch: int, logs: dict[str, float]) -> None:
        """Add one epoch. What it lacks, because it was interrupted, or what earlier ones lacked is
        NaN: every list has a value for every epoch."""
        nan = float("nan")
        for name in logs:
            self.history.setdefault(name, [nan] * len(self.epoch))
        for name, values in self.history.items():
            values.append(logs.get(name, nan))
        self.epoch.append(epoch)

    def __repr__(self) -> str:
        last = {name: round(values[-1], 4) for name, values in self.history.items()}
        return f"<History of {len(self.epoch)} epochs, last {last}>"


def check(callbacks: Any) -> list[Callback]:
    """A list of callbacks from one, several or none."""
    if callbacks is None or isinstance(callbacks, Callback):
        found = [] if callbacks is None else [callbacks]
    elif isinstance(callbacks, Iterable):
        found = list(callbacks)
    else:
        raise TypeError(f"callbacks: expected Callback objects, got {callbacks!r}")
    for callback in found:
        if not isinstance(callback, Callback):
            raise TypeError(f"callbacks: expected Callback objects, got {callback!r}")
    return found
