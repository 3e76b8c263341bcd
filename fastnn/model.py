"""The model: what a user compiles, fits, evaluates and asks for predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from . import callbacks as callback_module
from . import checks, losses, optimizers
from .batches import Batches
from .compiler import Purpose, available_threads, compile_program
from .data import Data, class_labels, prepare, stratified_split, take_apart, weigh_classes
from .layers import Input, Layer
from .lookup import near_matches
from .metrics import get as resolve_metric
from .network import Chain
from .report import Table, describe_layers, describe_program, profile_program
from .runtime import BACKENDS, Runner, State, aligned, make_runner, most_threads
from .training import History, Loop, NonFiniteLoss, Progress, summarise

DTYPES = ("float32", "float64")

#: Rows that evaluation and prediction take at a time, unless asked otherwise.
EVALUATION_BATCH = 512


class Model:
    """Base of all models: everything but how layers are joined.

    Attributes
    ----------
    history
        The `History` of the last ``fit``, also when it was interrupted.
    stop_training
        Set to True by a callback to end training after the epoch.
    """

    _input: Input | None = None

    def __init__(self, layers: Sequence[Layer], seed: int) -> None:
        self._layers = list(layers)
        self.seed = checks.positive_int("seed", seed, least=0)
        if self.seed >= 1 << 64:
            raise ValueError(f"seed: expected less than 2**64, got {seed}")
        self.history = History()
        self.stop_training = False
        self._chain: Chain | None = None
        self._state: State | None = None
        self._compiled = False
        self._dtype = "float32"
        self._runners: dict[Any, Runner] = {}

    # ------------------------------------------------------------------ building and compiling

    def build(self, input_shape: int | Sequence[int]) -> None:
        """Fix the shape of one example and make the initial weights.

        Called by ``fit`` with the shape of the data, and at once where the first layer is an
        `Input`.

        Parameters
        ----------
        input_shape
            Shape of one example, without the batch.

        Raises
        ------
        ValueError
            The model is built for another shape, has no layers, or they do not fit.
        """
        shape = Input(input_shape).shape
        if self._chain is not None:
            if self._chain.input_shape != shape:
                raise ValueError(
                    f"input_shape: the model is built for {self._chain.input_shape}, got {shape}"
                )
            return
        self._chain = self._make_chain(shape)
        try:
            self._make_state()
        except ValueError:  # an initializer that does not suit the shape of its weights
            self._chain = None
            raise

    def _make_chain(self, shape: tuple[int, ...]) -> Chain:
        if not self._layers:
            raise ValueError("layers: the model has no layers")
        return Chain(self._layers, shape)

    def _make_state(self) -> None:
        assert self._chain is not None
        old = self._state
        parameters = aligned(self._chain.size, self._dtype)
        parameters[:] = (
            self._chain.initial(self.seed, self._dtype) if old is None else old.parameters
        )
        slots = len(self.optimizer.state) if self._compiled else 0
        made = [aligned(self._chain.size, self._dtype) for _ in range(slots)]
        self._state = State(parameters, made, self.seed)
        self._runners.clear()

    def compile(
        self,
        loss: Any,
        optimizer: Any = "adam",
        metrics: Any = (),
        *,
        backend: str = "auto",
        threads: int | None = None,
        dtype: str = "float32",
        deterministic: str | None = None,
    ) -> None:
        """Choose what to minimise, how, and on what.

        Weights stay; the optimizer's state starts afresh.

        Parameters
        ----------
        loss, optimizer
            Names or objects of ``fnn.losses`` and ``fnn.optimizers``.
        metrics
            One or several names or objects of ``fnn.metrics``.
        backend
            ``"cython"`` (compiled kernels), ``"numpy"`` (readable, the baseline), or ``"auto"``,
            which is ``"cython"``.
        threads
            Threads to use; None lets the compiler choose, and ``explain`` says what it chose.
        dtype
            ``"float32"`` or ``"float64"``.
        deterministic
            Results are the same, bit for bit, from run to run at a fixed number of threads.
            ``"any-threads"`` makes them the same for every number of threads: threads then share
            each op and never divide the rows of a batch, which is slower for small layers.

        Raises
        ------
        ValueError, TypeError
            An unknown name (the message has the near matches) or an impossible choice.
        """
        new_loss, new_optimizer = losses.get(loss), optimizers.get(optimizer)
        listed = [metrics] if isinstance(metrics, str) or not _is_sequence(metrics) else metrics
        if backend not in BACKENDS:
            raise ValueError(
                f"backend: unknown name {backend!r}.{near_matches(str(backend), list(BACKENDS))}"
                f" Known names: {', '.join(BACKENDS)}"
            )
        name = "cython" if backend == "auto" else backend
        if threads is not None:
            most = most_threads(name)
            if checks.positive_int("threads", threads) > most:
                raise ValueError(
                    f"threads: the backend {name!r} takes at most {most} here, got {threads}"
                )
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
        if deterministic not in (None, "any-threads"):
            raise ValueError(
                f"deterministic: expected None or 'any-threads', got {deterministic!r}"
            )
        self.metrics = tuple(resolve_metric(m) for m in listed)
        self.loss, self.optimizer = new_loss, new_optimizer
        self.backend, self.threads, self.deterministic = name, threads, deterministic
        self._dtype = dtype
        self._compiled = True
        if self._chain is not None:
            self._make_state()

    def _need(self, compiled: bool = True) -> tuple[Chain, State]:
        if compiled and not self._compiled:
            raise RuntimeError("the model is not compiled: call compile(loss=..., optimizer=...)")
        if self._chain is None and self._input is not None:
            self.build(self._input.shape)
        if self._chain is None or self._state is None:
            raise RuntimeError(
                "the model is not built: start with an Input layer, call build(shape), or fit"
            )
        return self._chain, self._state

    def _runner(self, kind: str, data: Data | None, batch: int) -> Runner:
        """The runner of a purpose, compiled on first use.

        A runner serves batches up to the size it was compiled for; sizes rarely vary, so each has
        its own.
        """
        chain, state = self._need()
        purpose = Purpose(
            kind,
            labels=data is not None and data.labels,
            weighted=data is not None and data.w is not None,
            loss=self.loss,
            metrics=self.metrics if kind in ("train", "evaluate") else (),
            optimizer=self.optimizer if kind == "train" else None,
        )
        rate = self.optimizer.learning_rate if kind == "train" else None
        key = (
            kind, purpose.labels, purpose.weighted, batch, rate,
            self.optimizer.parameters if kind == "train" else (),
        )  # fmt: skip
        if key not in self._runners:
            program = compile_program(
                chain,
                purpose,
                batch=batch,
                dtype=self._dtype,
                threads=self._most_threads(),
                forced=self.threads is not None,
                any_threads=self.deterministic == "any-threads",
            )
            if len(self._runners) >= 16:  # sizes that keep changing must not fill the memory
                self._runners.pop(next(iter(self._runners)))
            self._runners[key] = make_runner(program, state, self.backend)
        return self._runners[key]

    def _most_threads(self) -> int:
        return self.threads or min(available_threads(), most_threads(self.backend))

    def _prepare(
        self,
        x: Any,
        y: Any,
        sample_weight: Any,
        names: tuple[str, str, str] = ("X", "y", "sample_weight"),
    ) -> Data:
        """Check data against the model; the first data that pass decide the shape of a model."""
        if not self._compiled or self._chain is not None or self._input is not None:
            chain, _ = self._need()
        else:
            array = checks.numeric(names[0], x)
            if array.ndim < 2 or array.size == 0:
                raise ValueError(
                    f"{names[0]}: expected examples in rows, shape (n, ...) with n > 0, got "
                    f"{array.shape}{', which is empty' if array.ndim > 1 else ''}"
                )
            chain = self._make_chain(array.shape[1:])
        data = prepare(
            x, y, sample_weight, shape=chain.input_shape, units=chain.output_shape[-1],
            loss=self.loss, dtype=self._dtype, names=names, threads=self._most_threads(),
        )  # fmt: skip
        self.build(chain.input_shape)
        return data

    # ------------------------------------------------------------------ training

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        batch_size: int | None = None,
        epochs: int = 1,
        validation_data: tuple | None = None,
        validation_split: float = 0.0,
        stratify: bool = False,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | str | None = None,
        shuffle: bool = True,
        callbacks: Any = None,
        initial_epoch: int = 0,
        verbose: int | str = "auto",
    ) -> History:
        """Train for a number of epochs.

        Parameters
        ----------
        X
            Examples (n, ...): anything array-like, with any strides, memory-mapped, or pandas.
            uint8, float32 and float64 are read as they lie; other types are converted first.
        y
            Targets (n,) or (n, outputs), as the loss asks.
        batch_size
            Rows of a batch, 1 to n; 32 (or n, if that is less) by default. The last, smaller batch
            counts.
        epochs, initial_epoch
            Train from epoch ``initial_epoch`` up to, not including, ``epochs``.
        validation_data
            ``(X, y)`` or ``(X, y, sample_weight)``, evaluated after each epoch.
        validation_split
            Share of the rows, in [0, 1), that are held out for the same purpose: the last ones.
        stratify
            Hold out the same share of each class instead, as nearly as whole rows allow, drawn at
            random from the model's seed; at least one row of each class is kept to train on. What
            is trained on keeps its order, as a copy.
        sample_weight
            Weight of each row (n,), at least 0.
        class_weight
            Label -> weight; multiplies the weights of the rows that are trained on. Labels left
            out have 1. ``"balanced"`` gives every class the same total weight: n / (number of
            classes present * rows of the class) for each of its rows (King & Zeng, Logistic
            regression in rare events data, 2001).
        shuffle
            Draw a new order of the rows for each epoch.
        callbacks
            `fastnn.callbacks.Callback` objects.
        verbose
            1 a progress bar, 2 a line per epoch, 0 nothing; ``"auto"`` is 1 on a terminal.

        Returns
        -------
        History
            Loss and metrics of each epoch, over the batches as they were trained on.

        Raises
        ------
        ValueError, TypeError
            Data or options that do not fit; the message names the argument.
        RuntimeError
            The model is not compiled.
        NonFiniteLoss
            The loss became NaN or infinite; the weights are those of the last finite loss.

        Examples
        --------
        >>> import numpy as np, fastnn as fnn
        >>> X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "float32")
        >>> y = np.array([0, 1, 1, 0])
        >>> model = fnn.Sequential([fnn.layers.Dense(8, "tanh"), fnn.layers.Dense(2, "softmax")])
        >>> model.compile("cross_entropy", fnn.optimizers.Adam(0.05), metrics="accuracy")
        >>> history = model.fit(X, y, epochs=200, verbose=0)
        >>> history.history["accuracy"][-1]
        1.0
        """
        epochs = checks.positive_int("epochs", epochs)
        initial_epoch = checks.positive_int("initial_epoch", initial_epoch, least=0)
        if initial_epoch >= epochs:
            raise ValueError(
                f"initial_epoch: expected less than epochs ({epochs}), got {initial_epoch}"
            )
        split = checks.number("validation_split", validation_split, 0, 1, open_high=True)
        if split and validation_data is not None:
            raise ValueError("validation_split: not together with validation_data")
        if stratify and not split:
            raise ValueError(
                "stratify: expected a validation_split above 0 beside it, got validation_split=0"
            )
        if batch_size is not None:
            checks.positive_int("batch_size", batch_size)
        listed = callback_module.check(callbacks)
        data = self._prepare(X, y, sample_weight)
        data, held_out = self._hold_out(data, split, stratify)
        if validation_data is not None:
            held_out = self._prepare(*take_apart("validation_data", validation_data))
        if class_weight is not None:
            units = self._need()[0].output_shape[-1]
            data = weigh_classes(data, class_weight, loss=self.loss, units=units, dtype=self._dtype)
        batch = self._batch(batch_size, len(data))
        runner = self._runner("train", data, batch)
        validate = self._validator(held_out)
        steps = -(-len(data) // batch) * (epochs - initial_epoch)
        self.history = History()
        loop = Loop(
            self, runner, data, batch, epochs, initial_epoch, bool(shuffle), listed, validate,
            Progress(verbose, steps, epochs), self.history,
        )  # fmt: skip
        return loop.run()

    def _hold_out(self, data: Data, split: float, stratify: bool) -> tuple[Data, Data | None]:
        if not split:
            return data, None
        held = round(split * len(data))
        kept = len(data) - held
        if not 0 < kept < len(data):
            raise ValueError(
                f"validation_split: {split:g} of {len(data)} rows leaves {kept} to train on and "
                f"{held} to validate with"
            )
        if not stratify:
            return data.rows(0, kept), data.rows(kept, len(data))
        train, held_out = stratified_split(
            class_labels("stratify", data, self.loss), held, self.seed
        )
        return data.take(train), data.take(held_out)

    def _validator(self, held_out: Data | None) -> Callable[[], dict[str, float]] | None:
        """What evaluates held-out data; its program is compiled at once, not within an epoch."""
        if held_out is None:
            return None
        self._runner("evaluate", held_out, min(EVALUATION_BATCH, len(held_out)))
        return partial(self._evaluate, held_out, None)

    @staticmethod
    def _batch(batch_size: int | None, n: int) -> int:
        if batch_size is None:
            return min(32, n)
        size = checks.positive_int("batch_size", batch_size)
        if size > n:
            raise ValueError(f"batch_size: expected at most the {n} rows there are, got {size}")
        return size

    def train_on_batch(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """One update with all rows as one batch; returns the loss before it.

        Raises
        ------
        ValueError, TypeError, RuntimeError
            As ``fit``.
        NonFiniteLoss
            The loss is not finite; nothing was updated.
        """
        return self._train_step(self._prepare(X, y, sample_weight))["loss"]

    def _train_step(self, data: Data) -> dict[str, float]:
        """One update with all rows as one batch; loss and metrics before it."""
        runner = self._runner("train", data, len(data))
        loop = Loop(
            self, runner, data, len(data), 1, 0, False, [], None, Progress(0, 1, 1), History(),
            keep_snapshot=False,
        )  # fmt: skip
        stopping = self.stop_training  # what a callback of fit_batches has asked for
        history = loop.run().history
        self.stop_training = stopping
        return {name: values[0] for name, values in history.items()}

    def fit_batches(
        self,
        batches: Any,
        *,
        epochs: int = 1,
        steps_per_epoch: int | None = None,
        validation_data: tuple | None = None,
        callbacks: Any = None,
        verbose: int | str = "auto",
    ) -> History:
        """Train on batches as they come: from a generator, a file, or anything made on the fly.

        Each batch is checked and trained on by a native call of its own, as ``train_on_batch``
        does; ``fit`` runs whole epochs in one and is faster for data that are in memory or in a
        memory-mapped file. Every new batch size is compiled for, so sizes should not vary much.

        Parameters
        ----------
        batches
            Yields ``(X, y)`` or ``(X, y, sample_weight)``, as for ``fit``; each is one update. An
            iterable, or an object with ``len`` and indices, is gone through anew in each epoch.
            An iterator, such as a generator, is gone through once: it needs ``steps_per_epoch``
            for more than one epoch.
        epochs
            Number of epochs.
        steps_per_epoch
            Batches of an epoch. None: until they end.
        validation_data, callbacks, verbose
            As for ``fit``.

        Returns
        -------
        History
            Loss and metrics of each epoch, as means over the rows as they were trained on.

        Raises
        ------
        ValueError, TypeError
            Options or a batch that do not fit, or batches that end too early. What was trained
            until then stays.
        RuntimeError
            The model is not compiled.
        NonFiniteLoss
            The loss of a batch became NaN or infinite; that batch updated nothing.

        Examples
        --------
        >>> import numpy as np, fastnn as fnn
        >>> def noisy_line(rng=np.random.default_rng(0)):
        ...     while True:
        ...         x = rng.uniform(-1, 1, (32, 1))
        ...         yield x, 2 * x + rng.normal(0, 0.1, x.shape)
        >>> model = fnn.Sequential([fnn.layers.Dense(1)])
        >>> model.compile("mean_squared_error", fnn.optimizers.SGD(0.1))
        >>> history = model.fit_batches(noisy_line(), epochs=3, steps_per_epoch=100, verbose=0)
        >>> round(float(model.get_weights()[0][0, 0]), 1)
        2.0
        """
        source = Batches(batches, checks.positive_int("epochs", epochs), steps_per_epoch)
        listed = callback_module.check(callbacks)
        held_out = None
        if validation_data is not None:
            held_out = self._prepare(*take_apart("validation_data", validation_data))
        validate = self._validator(held_out)
        progress = Progress(verbose, source.total, epochs)
        self.history, self.stop_training = History(), False
        for callback in listed:
            callback.on_train_begin(self)
        try:
            for epoch in range(epochs):
                for callback in listed:
                    callback.on_epoch_begin(self, epoch)
                logs = self._train_epoch(source, epoch, progress)
                if validate is not None:
                    logs |= {f"val_{name}": value for name, value in validate().items()}
                self.history.append(epoch, logs)
                progress.epoch(epoch, logs)
                for callback in listed:
                    callback.on_epoch_end(self, epoch, logs)
                if self.stop_training:
                    break
        finally:
            progress.close()
            for callback in listed:
                callback.on_train_end(self)
        return self.history

    def _train_epoch(self, source: Batches, epoch: int, progress: Progress) -> dict[str, float]:
        totals: dict[str, float] = {}
        rows = 0
        for name, batch in source.epoch(epoch):
            data = self._prepare(*take_apart(name, batch))
            try:
                logs = self._train_step(data)
            except NonFiniteLoss as error:
                raise NonFiniteLoss(source.step, epoch, error.op) from None
            for quantity, value in logs.items():
                totals[quantity] = totals.get(quantity, 0.0) + value * len(data)
            rows += len(data)
            progress.advance(1)
        return {quantity: total / rows for quantity, total in totals.items()}

    def loss_and_gradients(
        self, X: Any, y: Any, sample_weight: Any = None
    ) -> tuple[float, list[np.ndarray]]:
        """Loss of all rows as one batch, and its gradient by each weight array.

        Nothing is updated. Dropout is active, with the masks of the coming update.

        Returns
        -------
        (float, list of arrays)
            The arrays are copies, shaped and ordered as in ``get_weights``.
        """
        data = self._prepare(X, y, sample_weight)
        chain, _ = self._need()
        runner = self._runner("gradients", data, len(data))
        totals = np.zeros((1, len(runner.program.sums)))
        runner.run(data.feeds, totals, rows=len(data), batch=len(data), last=1)
        gradients = [g.copy() for g in chain.views(runner.gradients())]
        return summarise(runner, totals[0], len(data))["loss"], gradients

    # ------------------------------------------------------------------ using

    def evaluate(
        self, X: Any, y: Any, *, batch_size: int | None = None, sample_weight: Any = None
    ) -> dict[str, float]:
        """Loss and metrics over all rows: ``{"loss": ..., "accuracy": ...}``.

        Parameters
        ----------
        X, y, sample_weight
            As for ``fit``.
        batch_size
            Rows taken at a time; the result does not depend on it but for rounding.
        """
        if batch_size is not None:
            checks.positive_int("batch_size", batch_size)
        return self._evaluate(self._prepare(X, y, sample_weight), batch_size)

    def _evaluate(self, data: Data, batch_size: int | None) -> dict[str, float]:
        batch = min(batch_size or EVALUATION_BATCH, len(data))
        runner = self._runner("evaluate", data, batch)
        totals = np.zeros((1, len(runner.program.sums)))
        runner.run_all(data.feeds, totals, rows=len(data), batch=batch)
        return summarise(runner, totals[0], len(data))

    def predict(self, X: Any, *, batch_size: int | None = None) -> np.ndarray:
        """Outputs for all rows, (n, outputs), of the model's number type.

        Parameters
        ----------
        X
            Examples (n, ...).
        batch_size
            Rows taken at a time.
        """
        if batch_size is not None:
            checks.positive_int("batch_size", batch_size)
        chain, _ = self._need()
        x = checks.features("X", X, chain.input_shape, self._dtype, self._most_threads())
        batch = min(batch_size or EVALUATION_BATCH, len(x))
        runner = self._runner("predict", None, batch)
        out = np.empty((len(x), runner.program.outputs), self._dtype)
        runner.run_all({"x": x, "out": out}, np.zeros((1, 0)), rows=len(x), batch=batch)
        return out.reshape(len(x), *chain.output_shape)

    # ------------------------------------------------------------------ weights

    @property
    def parameters(self) -> np.ndarray:
        """All weights as one flat, writable vector; writing changes the model."""
        _, state = self._need(compiled=False)
        return state.parameters

    def get_weights(self) -> list[np.ndarray]:
        """The weight arrays ``[W, b, W, b, ...]`` in layer order, as views of ``parameters``."""
        chain, state = self._need(compiled=False)
        return chain.views(state.parameters)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Copy arrays, shaped and ordered as in ``get_weights``, into the model.

        Raises
        ------
        ValueError
            A wrong number of arrays, a wrong shape, or NaN; nothing is changed then.
        """
        own = self.get_weights()
        chain, _ = self._need(compiled=False)
        if not isinstance(weights, Iterable):
            raise TypeError(f"weights: expected a list of arrays, got {weights!r}")
        new = [checks.numeric(f"weights[{i}]", w) for i, w in enumerate(weights)]
        if len(new) != len(own):
            raise ValueError(f"weights: expected {len(own)} arrays, got {len(new)}")
        for i, (mine, array, placed) in enumerate(zip(own, new, chain.weights, strict=True)):
            if mine.shape != array.shape:
                raise ValueError(
                    f"weights[{i}]: expected shape {mine.shape} ({placed.name}), got {array.shape}"
                )
            checks.finite(f"weights[{i}]", array, self._dtype)
        for mine, array in zip(own, new, strict=True):
            mine[...] = array

    def count_parameters(self) -> int:
        """Number of weights."""
        chain, _ = self._need(compiled=False)
        return chain.size

    # ------------------------------------------------------------------ looking inside

    def summary(self) -> Table:
        """A table of the layers, their output shapes and numbers of weights."""
        chain, _ = self._need(compiled=False)
        return describe_layers(chain)

    def explain(self, batch_size: int = 32) -> Table:
        """The training program: each call with its shape, FLOPs, bytes and kernel.

        Below the table: memory by what it is for, and how threads divide a step.
        """
        size = checks.positive_int("batch_size", batch_size)
        return describe_program(self._runner("train", self._example(size), size))

    def profile(
        self, X: Any, y: Any, *, batch_size: int | None = None, seconds: float = 1.0
    ) -> Table:
        """``explain`` with measured time, GFLOP/s, and the share of the machine's peak.

        Trains on copies: the model does not change.

        Parameters
        ----------
        X, y
            Data as for ``fit``.
        batch_size
            Rows of a batch, as for ``fit``.
        seconds
            How long to measure, > 0.
        """
        seconds = checks.number("seconds", seconds, 0, open_low=True)
        data = self._prepare(X, y, None)
        batch = self._batch(batch_size, len(data))
        runner = self._runner("train", data, batch)
        _, state = self._need()
        copy = State(
            state.parameters.copy(), [s.copy() for s in state.slots], state.seed, state.updates
        )
        on_copy = make_runner(runner.program, copy, self.backend)
        return profile_program(on_copy, data, batch, seconds)

    def _example(self, n: int) -> Data:
        """Data of the right shapes, for a program whose data are not here yet."""
        chain, _ = self._need()
        classes = self.loss.name == "cross_entropy"
        units = chain.output_shape[-1]
        y = np.zeros(n, np.int32) if classes else np.zeros((n, units), self._dtype)
        return Data(np.zeros((n, chain.features), self._dtype), y, None)


class Sequential(Model):
    """A chain of layers.

    Parameters
    ----------
    layers
        `fastnn.layers` objects in order. With an `Input` first the model is built at once, else by
        the first data it sees.
    seed
        Of everything random: initial weights, shuffling, dropout. The same seed gives the same
        result, bit for bit, on the same number of threads.

    Examples
    --------
    >>> import fastnn as fnn
    >>> model = fnn.Sequential([
    ...     fnn.Input(784),
    ...     fnn.layers.Dense(128, activation="relu"),
    ...     fnn.layers.Dense(10, activation="softmax"),
    ... ])
    >>> model.count_parameters()
    101770
    """

    def __init__(self, layers: Sequence[Layer] = (), *, seed: int = 0) -> None:
        super().__init__((), seed)
        if not isinstance(layers, Iterable):
            raise TypeError(f"layers: expected a list of Layer objects, got {layers!r}")
        for layer in layers:
            self.add(layer)

    def add(self, layer: Layer) -> None:
        """Append a layer.

        Raises
        ------
        TypeError
            Not a layer.
        ValueError
            The model has been built, or an `Input` does not come first.
        """
        if not isinstance(layer, Layer):
            raise TypeError(f"layers: expected Layer objects, got {layer!r}")
        if isinstance(layer, Input):
            if self._layers or self._input is not None:
                raise ValueError("layers: an Input can only be the first layer")
            self._input = layer
            return
        if self._chain is not None:
            raise ValueError("layers: the model has been built; layers cannot be added any more")
        self._layers.append(layer)

    @property
    def layers(self) -> list[Layer]:
        """The layers, in order."""
        return list(self._layers)

    def __repr__(self) -> str:
        return f"Sequential([{', '.join(map(repr, self._layers))}])"


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
