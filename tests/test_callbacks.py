"""A learning rate that is reduced where a quantity stops improving."""

from __future__ import annotations

import doctest
import math
import re
from types import SimpleNamespace

import numpy as np
import op_cases
import pytest
from op_cases import each_formula

import fastnn as fnn

L, S = fnn.layers, fnn.schedules
SGD = fnn.optimizers.SGD
ReduceLROnPlateau = fnn.callbacks.ReduceLROnPlateau


def rates_for(callback, values, rate=0.1):
    """The rate after each epoch when the monitored values are these."""
    model = SimpleNamespace(optimizer=SGD(rate), stop_training=False)
    callback.on_train_begin(model)
    rates = []
    for epoch, value in enumerate(values):
        callback.on_epoch_end(model, epoch, {callback.monitor: value})
        rates.append(model.optimizer.learning_rate.rate)
    callback.on_train_end(model)
    return rates


def test_examples_of_the_docstrings_run():
    result = doctest.testmod(fnn.callbacks)
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize(
    "options, values, reduced",
    [
        ({"patience": 0}, [3, 2, 1], []),
        ({"patience": 0}, [3, 3, 2, 2, 2], [1, 3, 4]),
        ({"patience": 2}, [3, 4, 4, 4, 4, 4, 4], [3, 6]),
        ({"patience": 2}, [3, 4, 4, 2, 4, 4, 4], [6]),
        ({"patience": 0, "min_delta": 0.5}, [3, 2.75, 2.25, 2], [1, 3]),
        ({"patience": 1, "cooldown": 2}, [3] * 10, [2, 6]),
        ({"patience": 0, "cooldown": 1}, [3, 3, 1, 1, 1, 1], [1, 3, 5]),
        ({"patience": 0, "mode": "max"}, [1, 2, 2, 3], [2]),
        ({"patience": 0, "monitor": "val_accuracy"}, [0.1, 0.2, 0.1], [2]),
        ({"patience": 0, "monitor": "val_accuracy", "mode": "min"}, [0.1, 0.2, 0.05], [1]),
        ({"patience": 0}, [math.nan, 1.0, math.nan], [0, 2]),
    ],
)
def test_when_the_rate_is_reduced(options, values, reduced):
    callback = ReduceLROnPlateau(factor=0.5, **options)
    assert rates_for(callback, values) == [
        0.1 * 0.5 ** sum(at <= epoch for at in reduced) for epoch in range(len(values))
    ]
    assert callback.reduced_epochs == reduced


def test_the_best_value_is_kept():
    callback = ReduceLROnPlateau("loss")
    rates_for(callback, [3, 2, 1.5, 1.6, 4])
    assert (callback.best, callback.best_epoch) == (1.5, 2)


def test_by_itself_it_waits_ten_epochs_and_takes_a_tenth():
    callback = ReduceLROnPlateau()
    rates = rates_for(callback, [1.0, *[0.99995] * 11])
    assert callback.reduced_epochs == [11] and rates[-1] == pytest.approx(0.01)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("patience, cooldown", [(0, 0), (2, 0), (0, 3), (3, 2)])
@pytest.mark.parametrize("factor, least", [(0.5, 0.0), (0.3, 0.004)])
def test_agreement_with_torch(mode, patience, cooldown, factor, least):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(patience)
    fall = np.maximum(2 - 0.05 * np.arange(60), 0.6) * (-1 if mode == "max" else 1)
    values = fall + rng.normal(0, 0.2, 60)
    values[40] = math.nan
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        theirs, mode, factor, patience, threshold=0.01, threshold_mode="abs", cooldown=cooldown,
        min_lr=least, eps=0,
    )  # fmt: skip
    expected = []
    for value in values:
        scheduler.step(value)
        expected.append(theirs.param_groups[0]["lr"])
    assert expected[-1] < expected[0]
    found = rates_for(
        ReduceLROnPlateau(
            "loss", factor, patience, min_delta=0.01, cooldown=cooldown, min_learning_rate=least,
            mode=mode,
        ),
        values,
    )  # fmt: skip
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_rate_stays_at_the_least_one():
    callback = ReduceLROnPlateau(patience=0, min_learning_rate=0.002)
    rates = rates_for(callback, [1] * 6)
    assert rates == pytest.approx([0.1, 0.01] + [0.002] * 4, rel=1e-12)
    assert callback.reduced_epochs == [1, 2]
    assert rates_for(callback, [1] * 6, rate=0.001) == [0.001] * 6  # never raised to it
    assert callback.reduced_epochs == []


def test_a_rate_that_cannot_become_smaller_stays_above_zero():
    rates = rates_for(ReduceLROnPlateau(patience=0), [1] * 400)
    assert 0 < rates[-1] < 1e-300


# ---- in training --------------------------------------------------------------------------------


class Weight(fnn.callbacks.Callback):
    """Writes down the first weight before the first epoch and after each."""

    def on_train_begin(self, model):
        self.seen = [model.parameters[0]]

    def on_epoch_end(self, model, epoch, logs):
        self.seen.append(model.parameters[0])


def steps_taken(rate, callback, epochs, *, batches=False, optimizer=SGD, **options):
    """Steps of a weight whose gradient is always -1 while the loss stays (nearly) as it is."""
    model = fnn.Sequential([fnn.Input(1), L.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile("mean_absolute_error", optimizer(rate), dtype="float64", **options)
    X, y = np.ones((1, 1)), np.full(1, 1e9)
    weight = Weight()
    options = {"epochs": epochs, "callbacks": [callback, weight], "verbose": 0}
    if batches:
        model.fit_batches([(X, y)], **options)
    else:
        model.fit(X, y, **options)
    return np.diff(weight.seen), model


WHENEVER = {"monitor": "loss", "patience": 1, "min_delta": 1e4}  # the loss moves by far less


@pytest.mark.parametrize("backend", ["numpy", "cython"])
@pytest.mark.parametrize("batches", [False, True])
def test_training_goes_on_at_the_reduced_rate(backend, batches):
    callback = ReduceLROnPlateau(factor=0.5, **WHENEVER)
    steps, model = steps_taken(0.5, callback, 8, batches=batches, backend=backend)
    assert callback.reduced_epochs == [2, 4, 6]
    np.testing.assert_allclose(steps, 0.5 * 0.5 ** np.array([0, 0, 0, 1, 1, 2, 2, 3]))
    assert repr(model.optimizer) == "SGD(learning_rate=0.0625)"  # and keeps it


def test_a_second_training_starts_to_count_afresh():
    callback = ReduceLROnPlateau(factor=0.5, **WHENEVER)
    for _ in range(2):
        steps, _ = steps_taken(0.5, callback, 4)
        assert callback.reduced_epochs == [2]
        np.testing.assert_allclose(steps, [0.5, 0.5, 0.5, 0.25])


SCHEDULES = [
    S.LinearDecay(0.5, 0.1, decay_steps=8),
    S.CosineRestarts(0.5, 0.1, period=3),
    S.StepDecay(0.5, 0.3, every=2),
    S.WarmUp(S.OneCycle(0.5, total_steps=8), steps=2),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_schedule_keeps_its_course(schedule):
    asis, _ = steps_taken(schedule, fnn.callbacks.Callback(), 8)
    callback = ReduceLROnPlateau(factor=0.5, **WHENEVER)
    steps, _ = steps_taken(schedule, callback, 8)
    assert callback.reduced_epochs == [2, 4, 6]
    np.testing.assert_allclose(steps, asis * 0.5 ** np.array([0, 0, 0, 1, 1, 2, 2, 3]), rtol=1e-6)


@each_formula("schedule")
def test_every_schedule_is_proportional_to_its_rate(formula):
    """What with_rate promises; a rate among the parameters must have a name that says so."""
    given = op_cases.parameters(formula)
    counted = [int(v) if n in formula.counts else v
               for n, v in zip(formula.parameters, given, strict=True)]  # fmt: skip
    schedule = S.SCHEDULES[formula.name](0.1, *counted)
    changed = schedule.with_rate(0.04)
    assert type(changed) is type(schedule) and changed.rate == 0.04 and schedule.rate == 0.1
    for step in (0.0, 3.0, 10.0, 25.0, 60.0):
        before, after = (formula.function(step, *s.parameters) for s in (schedule, changed))
        assert after == pytest.approx(0.4 * before, rel=1e-12)


def test_it_helps_where_a_constant_rate_only_hovers():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 10))
    y = X @ rng.normal(size=10) + rng.normal(size=500)
    losses = {}
    for name, callbacks in (("constant", []), ("reduced", [ReduceLROnPlateau("loss", 0.3, 3)])):
        model = fnn.Sequential([L.Dense(1)])
        model.compile("mean_squared_error", SGD(0.05))
        model.fit(X, y, batch_size=5, epochs=40, callbacks=callbacks, verbose=0)
        losses[name] = model.evaluate(X, y)["loss"]
    best = np.linalg.lstsq(np.c_[X, np.ones(500)], y, rcond=None)[0]
    least = np.mean((np.c_[X, np.ones(500)] @ best - y) ** 2)
    assert losses["reduced"] - least < (losses["constant"] - least) / 10


# ---- bad input ----------------------------------------------------------------------------------


def trained(**options):
    return lambda: steps_taken(0.1, ReduceLROnPlateau(**options), 2)


#: id: (call, type of the error, parts of its message: the argument, what came, what was expected)
CASES = {
    "factor 0": (trained(factor=0), ValueError, ("factor", "got 0", "(0, 1)")),
    "factor 1": (trained(factor=1.0), ValueError, ("factor", "got 1", "(0, 1)")),
    "factor a string": (trained(factor="0.1"), TypeError, ("factor", "'0.1'", "number")),
    "patience -1": (trained(patience=-1), ValueError, ("patience", "got -1", "least 0")),
    "patience 1.5": (trained(patience=1.5), TypeError, ("patience", "got 1.5", "integer")),
    "cooldown -1": (trained(cooldown=-1), ValueError, ("cooldown", "got -1", "least 0")),
    "cooldown 0.5": (trained(cooldown=0.5), TypeError, ("cooldown", "got 0.5", "integer")),
    "min_delta -1": (trained(min_delta=-1), ValueError, ("min_delta", "got -1", "[0")),
    "min_learning_rate -1": (trained(min_learning_rate=-1), ValueError,
                             ("min_learning_rate", "got -1", "[0")),
    "mode": (trained(mode="lowest"), ValueError, ("mode", "'lowest'", "'min'")),
    "monitor 3": (trained(monitor=3), TypeError, ("monitor", "3", "name")),
    "monitor of nothing": (trained(monitor="los"), ValueError, ("monitor", "'los'", "loss")),
    "monitor without validation": (trained(), ValueError,
                                   ("monitor", "'val_loss'", "validation data")),
    "rate 0": (lambda: S.LinearDecay(0.1, 0.0, 5).with_rate(0), ValueError,
               ("rate", "got 0", "(0")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused(name):
    call, error, (argument, *parts) = CASES[name]
    with pytest.raises(error, match=f"^{re.escape(argument)}: ") as caught:
        call()
    for part in parts:
        assert part in str(caught.value)
