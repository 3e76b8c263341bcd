"""The model: what a user compiles, fits, evaluates and asks for predictions."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from . import callbacks as callback_module
from . import checks, losses, optimizers
from .batches import Batches
from .compiler import Head, Program, Purpose, available_threads, compile_program, feed_name
from .data import (
    Data,
    Examples,
    Targets,
    class_labels,
    mix_rows,
    prepare,
    stratified_split,
    take_apart,
    weigh_classes,
)
from .kernels import jit
from .layers import Input, Layer, Symbol
from .lookup import near_matches
from .metrics import get as resolve_metric
from .network import Network, chain
from .pace import Pace
from .report import Table, describe_layers, describe_program, profile_program, said
from .runtime import (
    BACKENDS,
    NativeRunner,
    Runner,
    State,
    aligned,
    make_runner,
    most_threads,
)
from .training import History, Loop, NonFiniteLoss, Progress, summarise, training

DTYPES = ("float32", "float64")

#: Rows that evaluation and prediction take at a time, unless asked otherwise.
EVALUATION_BATCH = 512

#: Steps that a native call is taken to have, where it is not of a single one: an epoch's.
CALL_STEPS = 50


class Model:
    """A graph of layers, from inputs to outputs.

    Layers are called on `Input` objects and on what other layers make of them. A layer that is
    called several times has its weights once; their gradients are added.

    Parameters
    ----------
    inputs
        An `Input` or several. With several, X is a list of arrays, or a dict by their names.
    outputs
        What is predicted: the result of a layer, a list of them, or a dict of names. With several,
        ``y`` and predictions are lists, or dicts if names were given, and logs have
        ``NAME_loss`` beside the total; without names they are ``output_0``, ``output_1``, ...
    seed
        Of everything random: initial weights, shuffling, dropout. The same seed gives the same
        result, bit for bit, on the same number of threads.

    Attributes
    ----------
    history
        The `History` of the last ``fit``, also when it was interrupted.
    stop_training
        Set to True by a callback to end training after the epoch.

    Raises
    ------
    TypeError
        Not inputs, or not what layers make of them.
    ValueError
        An input that leads to no output, an output that does not come from the inputs, or layers
        that do not fit.

    Examples
    --------
    >>> import fastnn as fnn
    >>> x = fnn.Input(16)
    >>> hidden = fnn.layers.Dense(16, "relu")(x)
    >>> hidden = hidden + fnn.layers.Dense(16, "relu")(hidden)  # a skip connection
    >>> model = fnn.Model(x, fnn.layers.Dense(3, "softmax")(hidden))
    >>> model.count_parameters()
    595

    Source: He et al., Deep residual learning for image recognition, CVPR 2016 (skip connections).
    """

    _input: Input | None = None

    def __init__(self, inputs: Any, outputs: Any, *, seed: int = 0) -> None:
        self._begin(seed)
        ins = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        for i, symbol in enumerate(ins):
            if not isinstance(symbol, Input):
                raise TypeError(f"inputs: expected Input objects, got {symbol!r} at {i}")
            if symbol in ins[:i]:
                raise ValueError(f"inputs: {symbol!r} is there twice")
        if not ins:
            raise ValueError("inputs: expected at least one Input, got none")
        outs = outputs if isinstance(outputs, Mapping) else _numbered(outputs)
        for name, symbol in outs.items():
            if not isinstance(symbol, Symbol):
                raise TypeError(
                    f"outputs: expected what a layer makes of the inputs, got {symbol!r} for {name}"
                )
            if not isinstance(name, str) or not name or f"{name}_".startswith("val_"):
                raise ValueError(
                    "outputs: expected names that are not empty, and not 'val' or 'val_...', which "
                    f"logs have of validation, got {name!r}"
                )
        if not outs:
            raise ValueError("outputs: expected at least one, got none")
        self._output_names = list(outs)
        self._named_outputs = isinstance(outputs, Mapping)
        network = Network(ins, list(outs.values()))
        if len(set(network.input_names)) < len(ins):
            raise ValueError(f"inputs: expected different names, got {network.input_names}")
        self._set_network(network)

    @property
    def layers(self) -> list[Layer]:
        """The layers, each once, in an order in which they can be computed."""
        chain, _ = self._need(compiled=False)
        return list(dict.fromkeys(chain.layers))

    def __repr__(self) -> str:
        layers = ", ".join(type(layer).__name__ for layer in self.layers)
        ins, outs = ", ".join(self._need(compiled=False)[0].input_names), self._output_names
        return f"<Model of {ins} -> {', '.join(outs)}: {layers}>"

    def _begin(self, seed: int) -> None:
        """What every model has before it has layers."""
        self.seed = checks.positive_int("seed", seed, least=0)
        if self.seed >= 1 << 64:
            raise ValueError(f"seed: expected less than 2**64, got {seed}")
        self.history = History()
        self.stop_training = False
        self._output_names = ["output_0"]
        self._named_outputs = False
        self._chain: Network | None = None
        self._state: State | None = None
        self._compiled = False
        self.asked_backend = "auto"
        self._choices: Mapping[str, str] = {}
        self._says = False
        self._dtype = "float32"
        self._runners: dict[Any, Runner] = {}
        self._direct: dict[int, Callable[[Any, Any], Any]] = {}
        self._paces: dict[Any, Pace] = {}
        self._making = threading.RLock()  # of weights and runners: several threads may use a model

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: without what points to native memory and is made on demand, and
        without what was measured on this machine."""
        kept = self.__dict__ | {"_runners": {}, "_direct": {}, "_paces": {}, "_choices": {}}
        del kept["_making"]
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._making = threading.RLock()

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
        chain = self._chain or self._set_network(self._make_network(shape))
        if chain.input_shapes != [shape]:
            built = ", ".join(map(str, chain.input_shapes))
            raise ValueError(f"input_shape: the model is built for {built}, got {shape}")

    def _set_network(self, network: Network) -> Network:
        """Take a network, once it has its weights; of several threads' the first one's."""
        with self._making:
            if self._chain is None:
                self._make_state(network)
                self._chain = network
            return self._chain

    def _make_network(self, shape: tuple[int, ...]) -> Network:
        raise TypeError(f"{type(self).__name__} does not say how its layers are joined")

    def _make_state(self, chain: Network) -> None:
        """Weights, those that there are or initial ones, and the state of an optimizer's start."""
        parameters = aligned(chain.size, self._dtype)
        buffers = aligned(chain.buffers, self._dtype)
        old = self._state if self._chain is not None else None
        parameters[:], buffers[:] = (
            chain.initial(self.seed, self._dtype) if old is None else (old.parameters, old.buffers)
        )
        slots = len(self.optimizer.slots) if self._compiled else 0
        made = [aligned(chain.size, self._dtype) for _ in range(slots)]
        self._state = State(parameters, made, self.seed, buffers=buffers)
        self._forget_runners()

    def compile(
        self,
        loss: Any,
        optimizer: Any = "adam",
        metrics: Any = (),
        *,
        loss_weights: Any = None,
        backend: str = "auto",
        threads: int | None = None,
        dtype: str = "float32",
        deterministic: str | None = None,
        verbose: int = 0,
    ) -> None:
        """Choose what to minimise, how, and on what.

        Weights stay; the optimizer's state starts afresh.

        Parameters
        ----------
        loss, optimizer
            Names or objects of ``fnn.losses`` and ``fnn.optimizers``. A model of several outputs
            takes one loss for all, or a list or a dict with one for each.
        metrics
            One or several names or objects of ``fnn.metrics``; for several outputs also a dict.
        loss_weights
            Weight of each output's loss in the sum that is minimised, > 0: a list or a dict. 1 by
            default.
        backend
            ``"cython"`` (kernels that are compiled already), ``"numba"`` (compiled for this
            processor and this model's sizes when they are first needed, and kept on disk),
            ``"numpy"`` (readable, the baseline), or ``"auto"``: ``"cython"``, and after `fnn.tune`
            for each call what was measured to be fastest.
        threads
            Threads to use. None lets the compiler choose how many divide a step, and ``explain``
            says what it chose. While they train it is measured whether they gain anything just now:
            if not (a busy machine, cores far apart), one does the work of all, to the same bits.
        dtype
            ``"float32"`` or ``"float64"``.
        deterministic
            Results are the same, bit for bit, from run to run at a fixed number of threads (of a
            tuned model: once all its kernels are compiled).
            ``"any-threads"`` makes them the same for every number of threads: threads then share
            each op and never divide a step in another way, which is slower for small layers.
        verbose
            1 prints which kernels are compiled and how long that took: when the model first runs,
            for only then the size of a batch is known.

        Raises
        ------
        ValueError, TypeError
            An unknown name (the message has the near matches) or an impossible choice.
        ImportError
            The backend needs a package that is missing or too old.
        """
        heads = self._make_heads(loss, metrics, loss_weights)
        new_optimizer = optimizers.get(optimizer)
        if backend not in BACKENDS:
            raise ValueError(
                f"backend: unknown name {backend!r}.{near_matches(str(backend), list(BACKENDS))}"
                f" Known names: {', '.join(BACKENDS)}"
            )
        name = "cython" if backend == "auto" else backend
        if name == "numba":
            jit.require("the backend 'numba'")
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
        self.heads, self.optimizer = heads, new_optimizer
        self.backend, self.threads, self.deterministic = name, threads, deterministic
        self.asked_backend = backend
        self._choices = {}
        self._says = bool(verbose)
        self._dtype = dtype
        self._compiled = True
        if self._chain is not None:
            self._make_state(self._chain)

    def _make_heads(self, loss: Any, metrics: Any, weights: Any) -> tuple[Head, ...]:
        """The loss and the metrics of each output."""
        names = self._output_names
        chosen = [losses.get(one) for one in _for_each("loss", loss, names)]
        if isinstance(metrics, Mapping):  # outputs left out have none
            if not set(metrics) <= set(names):
                raise ValueError(f"metrics: expected names among {names}, got {list(metrics)}")
            listed = [metrics.get(name, ()) for name in names]
        else:
            listed = [metrics] * len(names)
        factors = _for_each("loss_weights", 1.0 if weights is None else weights, names)
        return tuple(
            Head(
                loss=one,
                metrics=tuple(resolve_metric(m) for m in (some if _is_sequence(some) else [some])),
                name=name if len(names) > 1 else "",
                weight=checks.number("loss_weights", factor, 0, open_low=True),
            )
            for name, one, some, factor in zip(names, chosen, listed, factors, strict=True)
        )

    @property
    def loss(self) -> losses.Loss:
        """The loss in use; of several outputs, that of the first."""
        return self.heads[0].loss

    @property
    def metrics(self) -> tuple[Any, ...]:
        """The metrics in use; of several outputs, those of the first."""
        return self.heads[0].metrics

    def _need(self, compiled: bool = True) -> tuple[Network, State]:
        if compiled and not self._compiled:
            raise RuntimeError("the model is not compiled: call compile(loss=..., optimizer=...)")
        if self._chain is None and self._input is not None:
            self.build(self._input.shape)
        if self._chain is None or self._state is None:
            raise RuntimeError(
                "the model is not built: start with an Input layer, call build(shape), or fit"
            )
        return self._chain, self._state

    def _runner(
        self,
        kind: str,
        data: Data | None,
        batch: int,
        single: bool = False,
    ) -> Runner:
        """The runner of a purpose, compiled on first use.

        A runner serves batches up to the size it was compiled for; sizes rarely vary, so each has
        its own. ``single`` steps, each a native call, are not worth copying weights to threads for.
        """
        labels = data.labels if data is not None else ()
        weighted = data is not None and data.w is not None
        mixup = data.mixup if data is not None and kind == "train" else 0.0
        optimizer = self.optimizer if kind == "train" else None
        way = (optimizer.learning_rate, optimizer.options) if optimizer is not None else ()
        key = (kind, labels, weighted, mixup, batch, way, single)
        with self._making:
            if key not in self._runners:
                with_metrics = kind in ("train", "evaluate")
                heads = tuple(
                    replace(head, labels=is_label, metrics=head.metrics if with_metrics else ())
                    for head, is_label in zip(self.heads, labels, strict=bool(labels))
                )
                purpose = Purpose(kind, heads, weighted, optimizer, mixup)
                if len(self._runners) >= 16:  # sizes that keep changing must not fill the memory
                    self._runners.pop(next(iter(self._runners)))  # not used for the longest time
                self._runners[key] = self._make_runner(purpose, batch, single)
            self._runners[key] = runner = self._runners.pop(key)
            return runner

    def _forget_runners(self) -> None:
        self._runners.clear()
        self._direct.clear()
        self._paces.clear()

    def _make_runner(self, purpose: Purpose, batch: int, single: bool = False) -> Runner:
        chain, state = self._need()
        program = compile_program(
            chain,
            purpose,
            batch=batch,
            dtype=self._dtype,
            threads=self._most_threads(),
            steps=1 if single else CALL_STEPS,
            forced=self.threads is not None,
            any_threads=self.deterministic == "any-threads",
        )
        with said("numba", self._says and bool(self.backend == "numba" or self._choices)):
            pace = self._pace(program, purpose, single)
            return make_runner(program, state, self.backend, self._choices, pace)

    def _pace(self, program: Program, purpose: Purpose, single: bool) -> Pace | None:
        """What has been measured of programs that differ from this one in the optimizer's numbers
        only, if their threads are left to us."""
        if self.threads is not None or purpose.kind != "train" or program.split.threads == 1:
            return None
        if len(self._paces) >= 16:  # as with the runners
            self._paces.pop(next(iter(self._paces)))
        key = program.batch, program.split, purpose.weighted, purpose.mixup, single
        return self._paces.setdefault(key, Pace(program.split.threads))

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
            network, _ = self._need()
        else:
            array = checks.numeric(names[0], x)
            if array.ndim < 2 or array.size == 0:
                raise ValueError(
                    f"{names[0]}: expected examples in rows, shape (n, ...) with n > 0, got "
                    f"{array.shape}{', which is empty' if array.ndim > 1 else ''}"
                )
            network = self._make_network(array.shape[1:])
        data = prepare(
            self._examples(names[0], x, network),
            self._targets(names[1], y, network),
            sample_weight, names[2], self._dtype, self._most_threads(),
        )  # fmt: skip
        if self._chain is None:
            self._set_network(network)
        return data

    def _examples(self, name: str, x: Any, network: Network) -> dict[str, Examples]:
        """The arrays of each input, by what they are called in messages."""
        shapes = network.input_shapes
        by_name = isinstance(x, Mapping) and network.inputs[0].name is not None
        if len(shapes) == 1 and not by_name:
            return {name: Examples(x, shapes[0])}
        arrays = _apart(name, x, network.input_names)
        return {
            key: Examples(array, shape)
            for (key, array), shape in zip(arrays.items(), shapes, strict=True)
        }

    def _targets(self, name: str, y: Any, network: Network) -> dict[str, Targets]:
        """The targets of each output, by what they are called in messages."""
        shapes = network.output_shapes
        if len(shapes) == 1 and not (isinstance(y, Mapping) and self._named_outputs):
            return {name: Targets(y, shapes[0], self.loss)}
        arrays = _apart(name, y, self._output_names)
        return {
            key: Targets(array, shape, head.loss)
            for (key, array), shape, head in zip(arrays.items(), shapes, self.heads, strict=True)
        }

    # ------------------------------------------------------------------ training

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        batch_size: int | None = None,
        epochs: int = 1,
        optimizer: Any = None,
        validation_data: tuple | None = None,
        validation_split: float = 0.0,
        stratify: bool = False,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | str | None = None,
        mixup: float = 0.0,
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
        optimizer
            Train on all rows at once, by ``"lbfgs"``, ``"cg"``, ``"newton_cg"`` or an object of
            ``fnn.full_batch``, instead of by the optimizer of ``compile``, whose state stays as it
            is. An epoch is one iteration of the method; where it has converged there are fewer, and
            none at an optimum. The history has loss and metrics after each iteration. Not together
            with ``batch_size``; ``shuffle`` is ignored, and weights that a callback sets before the
            end are overwritten. Needs SciPy.
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
        mixup
            Above 0, train on mixtures s a + (1 - s) b of two rows of the batch and of their
            targets, with one s a step from the beta distribution of parameters (mixup, mixup); 0,
            or in [0.01, 4], and 0.1 to 0.4 are usual. Labels become one-hot rows for it (Zhang et
            al., mixup: beyond empirical risk minimization, ICLR 2018).
        shuffle
            Draw a new order of the rows for each epoch. (If one batch has all of them, order
            changes nothing but rounding; then they keep theirs, unless there is ``mixup``.)
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
        method = None
        if optimizer is not None:
            from . import full_batch  # which imports this module

            method = full_batch.get(optimizer)
            if batch_size is not None:
                raise ValueError(
                    "batch_size: expected None together with optimizer, for which all rows are one "
                    f"batch, got {batch_size}"
                )
        mixup = checks.number("mixup", mixup, 0, 4)
        if mixup and optimizer is not None:
            raise ValueError("mixup: not together with optimizer, which sees all rows at once")
        listed = callback_module.check(callbacks)
        data = self._prepare(X, y, sample_weight)
        data, held_out = self._hold_out(data, split, stratify)
        if validation_data is not None:
            held_out = self._prepare(*take_apart("validation_data", validation_data))
        if class_weight is not None:
            units = math.prod(self._need()[0].output_shapes[0])
            data = weigh_classes(data, class_weight, loss=self.loss, units=units, dtype=self._dtype)
        if method is not None:
            return full_batch.train(
                method, self, data, range(initial_epoch, epochs), listed,
                self._validator(held_out), verbose,
            )  # fmt: skip
        if mixup:
            shapes = self._need()[0].output_shapes
            data = mix_rows(data, mixup, [math.prod(s) for s in shapes], self._dtype)
        batch = self._batch(batch_size, len(data))
        steps = -(-len(data) // batch) * (epochs - initial_epoch)
        return self._loop(
            data, held_out, batch, range(initial_epoch, epochs), shuffle, listed,
            partial(Progress, verbose, steps, epochs),
        ).run()  # fmt: skip

    def _loop(
        self,
        data: Data,
        held_out: Data | None,
        batch: int,
        epochs: range,
        shuffle: bool,
        listed: list[callback_module.Callback],
        progress: Callable[[], Progress],
    ) -> Loop:
        """A call of ``fit``, ready to run."""
        renewed = partial(self._runner, "train", data, batch)
        runner = renewed()  # what it says of compiling comes before the progress bar
        validate = self._validator(held_out)
        self.history = History()
        return Loop(
            self, runner, renewed, data, batch, epochs.stop, epochs.start, bool(shuffle), listed,
            validate, progress(), self.history,
        )  # fmt: skip

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

    def _validator(self, held_out: Data | None) -> Callable[..., dict[str, float]] | None:
        """What evaluates held-out data; its program is compiled at once, not within an epoch."""
        if held_out is None:
            return None
        batch = min(EVALUATION_BATCH, len(held_out))
        self._runner("evaluate", held_out, batch)
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

        def renewed() -> Runner:
            runner = self._runner("train", data, len(data))
            if runner.program.by_units:
                return self._runner("train", data, len(data), single=True)
            return runner

        loop = Loop(
            self, renewed(), renewed, data, len(data), 1, 0, False, [], None, Progress(0, 1, 1),
            History(), keep_snapshot=False,
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
        self.history = History()
        with training(self, listed, progress):
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
            The arrays are copies, shaped and ordered as in ``get_weights``; those that are not
            trained have a gradient of zero.
        """
        data = self._prepare(X, y, sample_weight)
        chain, _ = self._need()
        runner = self._runner("gradients", data, len(data))
        totals = np.zeros((1, len(runner.program.sums)))
        with runner.lock:
            runner.run(data.feeds, totals, rows=len(data), batch=len(data), last=1)
            flat = runner.gradients().copy()
        gradients = chain.views(flat, np.zeros(chain.buffers, flat.dtype))
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

    def _evaluate(
        self, data: Data, batch_size: int | None, workers: int | None = None
    ) -> dict[str, float]:
        batch = min(batch_size or EVALUATION_BATCH, len(data))
        runner = self._runner("evaluate", data, batch)
        totals = np.zeros((1, len(runner.program.sums)))
        runner.run_all(data.feeds, totals, rows=len(data), batch=batch, workers=workers)
        return summarise(runner, totals[0], len(data))

    def predict(self, X: Any, *, batch_size: int | None = None) -> Any:
        """Outputs for all rows, (n, outputs), of the model's number type.

        For several outputs, a list of such arrays, or a dict if the outputs have names.

        Parameters
        ----------
        X
            Examples (n, ...).
        batch_size
            Rows taken at a time.
        """
        if batch_size is not None:
            checks.positive_int("batch_size", batch_size)
        network, _ = self._need()
        data = prepare(
            self._examples("X", X, network), {}, None, "", self._dtype, self._most_threads()
        )
        batch = min(batch_size or EVALUATION_BATCH, len(data))
        made = self._stored(self._runner("predict", None, batch), data, batch)
        found = self._shaped(made, network.output_shapes)
        if self._named_outputs:
            return dict(zip(self._output_names, found, strict=True))
        return found if len(found) > 1 else found[0]

    def predict_into(self, X: Any, out: Any) -> Any:
        """Outputs for all rows, written to an array: for few rows at a time, again and again.

        Where ``predict`` checks and converts, this reads X and writes ``out`` as they lie. On one
        thread and for at most 512 rows nothing is allocated after the first call with so many rows
        (of 16 numbers of rows; others take their places). Numbers are not looked at: NaN in X
        gives NaN in ``out``.

        Parameters
        ----------
        X
            Examples (n, ...), uint8, float32 or float64. Of two dimensions, with any strides; of
            more, without gaps within an example.
        out
            Where to write: an array of the shape that ``predict`` returns, of the model's number
            type, without gaps within a row.

        Returns
        -------
        array
            ``out``.

        Raises
        ------
        ValueError
            An array does not fit, or the model has several inputs or outputs.

        Examples
        --------
        >>> import numpy as np, fastnn as fnn
        >>> model = fnn.Sequential([fnn.Input(4), fnn.layers.Dense(3, "softmax")])
        >>> model.compile("cross_entropy")
        >>> x, out = np.ones((1, 4), "float32"), np.empty((1, 3), "float32")
        >>> bool(np.all(model.predict_into(x, out) == model.predict(x)))
        True
        """
        try:
            direct = self._direct[len(X)]
        except (KeyError, TypeError):
            with self._making:
                direct = self._make_direct(X, out)
        return direct(X, out)

    def _make_direct(self, X: Any, out: Any) -> Callable[[Any, Any], Any]:
        network, _ = self._need()
        if len(network.inputs) > 1 or len(network.output_shapes) > 1:
            raise ValueError(
                f"X: expected a model of one input and one output, got {len(network.inputs)} and "
                f"{len(network.output_shapes)}; use predict"
            )
        self._refuse(X, out)
        rows = len(X)
        runner = self._runner("predict", None, min(rows, EVALUATION_BATCH))
        direct = None
        if isinstance(runner, NativeRunner) and rows <= EVALUATION_BATCH:
            if runner.is_waiting:
                return self._predict_by_runner
            own = self._make_runner(Purpose("predict"), rows)
            assert isinstance(own, NativeRunner)
            (example,), (output,) = network.input_shapes, network.output_shapes
            direct = own.direct(rows, example, output, self._refuse)
        if len(self._direct) >= 16:  # as with the runners
            self._direct.pop(next(iter(self._direct)))
        self._direct[rows] = direct or self._predict_by_runner
        return self._direct[rows]

    def _refuse(self, X: Any, out: Any) -> None:
        """Raise for arrays that ``predict_into`` cannot read and write as they lie."""
        network, _ = self._need()
        (example,), (output,) = network.input_shapes, network.output_shapes
        for name, array in (("X", X), ("out", out)):
            if not isinstance(array, np.ndarray):
                raise ValueError(f"{name}: expected a NumPy array, got a {type(array).__name__}")
        types = ("uint8", "float32", "float64")
        checks.rows_as_they_lie("X", X, types, (None, *example), gaps=True)
        checks.rows_as_they_lie("out", out, (self._dtype,), (len(X), *output))
        if not out.flags.writeable:
            raise ValueError("out: expected an array that can be written to, got a read-only one")

    def _predict_by_runner(self, X: Any, out: Any) -> Any:
        """``predict_into`` where threads divide the work, in batches, or in NumPy."""
        self._refuse(X, out)
        batch = min(EVALUATION_BATCH, len(X))
        runner = self._runner("predict", None, batch)
        feeds = {feed_name("x", 0): checks.flat(X), feed_name("out", 0): checks.flat(out)}
        runner.run_all(feeds, np.zeros((1, 0)), rows=len(X), batch=batch)
        return out

    def input_gradients(self, X: Any, y: Any = None, *, sample_weight: Any = None) -> Any:
        """Derivatives by the numbers of X, as the model predicts (nothing is dropped).

        Parameters
        ----------
        X
            Examples (n, ...), as for ``fit``.
        y
            None: each row has the gradient of the sum of the outputs for it. Targets: the gradient
            of the loss of all rows as one batch, without penalties.
        sample_weight
            As for ``fit``, with targets.

        Returns
        -------
        array, or a list of arrays
            Of the shape of X, one for each input.

        Examples
        --------
        >>> import fastnn as fnn
        >>> x, y, z = fnn.Input(1), fnn.Input(1), fnn.Input(1)
        >>> model = fnn.Model([x, y, z], (x + y) * z)
        >>> model.compile("mean_squared_error")
        >>> [g.item() for g in model.input_gradients([[[1]], [[-3]], [[4]]])]
        [4.0, 4.0, -2.0]

        Source: Simonyan, Vedaldi & Zisserman, Deep inside convolutional networks (2013).
        """
        network, _ = self._need()
        if y is None:
            if sample_weight is not None:
                raise ValueError("sample_weight: needs targets beside it, got y=None")
            data = prepare(
                self._examples("X", X, network), {}, None, "", self._dtype, self._most_threads()
            )
            units = [math.prod(shape) for shape in network.output_shapes]
            ones = tuple(np.ones((len(data), n), self._dtype) for n in units)
            data = Data(data.xs, ones, None)
            runner = self._runner("inputs", None, len(data))
        else:
            data = self._prepare(X, y, sample_weight)
            runner = self._runner("inputs", data, len(data))
        found = self._shaped(self._stored(runner, data, len(data)), network.input_shapes)
        return found if len(found) > 1 else found[0]

    def _stored(self, runner: Runner, data: Data, batch: int) -> list[np.ndarray]:
        """What a program writes for all rows."""
        made = {
            name: np.empty((len(data), numbers), self._dtype)
            for name, numbers in runner.program.stored.items()
        }
        totals = np.zeros((1, len(runner.program.sums)))
        runner.run_all(data.feeds | made, totals, rows=len(data), batch=batch)
        return [made[feed_name("out", i)] for i in range(len(made))]

    @staticmethod
    def _shaped(made: list[np.ndarray], shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
        return [a.reshape(len(a), *shape) for a, shape in zip(made, shapes, strict=True)]

    # ------------------------------------------------------------------ weights

    @property
    def parameters(self) -> np.ndarray:
        """All trainable weights as one flat, writable vector; writing changes the model."""
        _, state = self._need(compiled=False)
        return state.parameters

    def get_weights(self) -> list[np.ndarray]:
        """The weight arrays ``[W, b, W, b, ...]`` in layer order; writing changes the model.

        They are views: of ``parameters``, or of what layers keep beside them.
        """
        chain, state = self._need(compiled=False)
        return chain.views(state.parameters, state.buffers)

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

    def averaged_weights(self) -> list[np.ndarray]:
        """The weights, with the optimizer's average in the place of each that is trained.

        Copies, shaped and ordered as in ``get_weights``; before the first update, the weights.

        Raises
        ------
        RuntimeError
            The optimizer keeps no average: give it ``ema``.

        Examples
        --------
        >>> import numpy as np, fastnn as fnn
        >>> model = fnn.Sequential([fnn.Input(2), fnn.layers.Dense(1)])
        >>> model.compile("mean_squared_error", fnn.optimizers.SGD(0.1, ema=0.9))
        >>> history = model.fit(np.ones((8, 2)), np.ones(8), epochs=50, verbose=0)
        >>> model.set_weights(model.averaged_weights())
        """
        chain, state = self._need()
        if "average" not in self.optimizer.slots:
            raise RuntimeError(
                f"the optimizer keeps no average of the weights: give ema to {self.optimizer!r}"
            )
        flat = state.slots[-1] if state.updates else state.parameters
        return chain.views(flat.copy(), state.buffers.copy())

    def count_parameters(self) -> int:
        """Number of trainable weights."""
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

        Trains on copies: the model does not change. Of several threads, the times are the first
        one's; where they share calls, the wait for what others still do of earlier calls belongs to
        the call that needs it. FLOPs are counted as if no number were zero: a layer that leaves out
        the zeros of its input may show more than the peak.

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
        on_copy = make_runner(runner.program, state.copy(), self.backend, self._choices)
        return profile_program(on_copy, data, batch, seconds)

    def candidates(self, batch_size: int, backends: Sequence[str]) -> dict[str, Any]:
        """The training program on copies, by backend: for measuring."""
        program = self._runner("train", self._example(batch_size), batch_size).program
        _, state = self._need()
        return {name: make_runner(program, state.copy(), name) for name in backends}

    def choose(self, choices: Mapping[str, str]) -> None:
        """Take kernels of other providers for some calls, by their signatures."""
        self._choices = dict(choices)
        self._forget_runners()

    def _example(self, n: int) -> Data:
        """Data of the right shapes, for a program whose data are not here yet."""
        chain, _ = self._need()
        xs = [np.zeros((n, numbers), self._dtype) for numbers in chain.features]
        ys = [
            np.zeros(n, np.int32)
            if head.loss.takes_labels
            else np.zeros((n, math.prod(shape)), self._dtype)
            for head, shape in zip(self.heads, chain.output_shapes, strict=True)
        ]
        return Data(tuple(xs), tuple(ys), None)


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

    def __init__(self, layers: Sequence[Layer | Input] = (), *, seed: int = 0) -> None:
        self._begin(seed)
        self._layers: list[Layer] = []
        if not isinstance(layers, Iterable):
            raise TypeError(f"layers: expected a list of Layer objects, got {layers!r}")
        for layer in layers:
            self.add(layer)

    def _make_network(self, shape: tuple[int, ...]) -> Network:
        if not self._layers:
            raise ValueError("layers: the model has no layers")
        return chain(self._layers, shape)

    def add(self, layer: Layer | Input) -> None:
        """Append a layer.

        Raises
        ------
        TypeError
            Not a layer.
        ValueError
            The model has been built, or an `Input` does not come first.
        """
        if isinstance(layer, Input):
            if self._layers or self._input is not None:
                raise ValueError("layers: an Input can only be the first layer")
            self._input = layer
            return
        if not isinstance(layer, Layer):
            raise TypeError(f"layers: expected Layer objects, got {layer!r}")
        if self._chain is not None:
            raise ValueError("layers: the model has been built; layers cannot be added any more")
        self._layers.append(layer)

    @property
    def layers(self) -> list[Layer]:
        """The layers, in order."""
        return list(self._layers)

    def __repr__(self) -> str:
        return f"Sequential([{', '.join(map(repr, self._layers))}])"


def _numbered(outputs: Any) -> dict[str, Any]:
    """Outputs by the names that they have where a user gives none."""
    listed = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return {f"output_{i}": symbol for i, symbol in enumerate(listed)}


def _for_each(argument: str, value: Any, names: list[str]) -> list[Any]:
    """One value for each output, from a list, a dict, or one for all."""
    if isinstance(value, Mapping):
        _expect_names(argument, value, names)
        return [value[name] for name in names]
    if not isinstance(value, (list, tuple)):
        return [value] * len(names)
    if len(value) != len(names):
        raise ValueError(f"{argument}: expected {len(names)}, one per output, got {len(value)}")
    return list(value)


def _expect_names(argument: str, value: Mapping, names: list[str]) -> None:
    if set(value) != set(names):
        raise ValueError(f"{argument}: expected the names {names}, got {list(value)}")


def _apart(argument: str, value: Any, names: list[str]) -> dict[str, Any]:
    """Several arrays, by what they are called in messages."""
    if isinstance(value, Mapping):
        _expect_names(argument, value, names)
        return {f"{argument}[{name!r}]": value[name] for name in names}
    if not isinstance(value, (list, tuple)) or len(value) != len(names):
        came = f"{len(value)}" if isinstance(value, (list, tuple)) else f"a {type(value).__name__}"
        raise ValueError(f"{argument}: expected a list of {len(names)} arrays, got {came}")
    return {f"{argument}[{i}]": array for i, array in enumerate(value)}


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
