"""Weights and shares of classes, cross-validation, ensembles, and batches that a user makes."""

from __future__ import annotations

import doctest
import importlib
import itertools
import re

import numpy as np
import pytest

import fastnn as fnn
from fastnn import ensembles, validation
from fastnn.data import stratified_split

L = fnn.layers
SGD = fnn.optimizers.SGD


def rare(counts=(60, 9, 31), features=4, seed=0):
    """Separable classes of these sizes in random order: X (n, features) float32, labels (n,)."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    centres = rng.normal(scale=2, size=(len(counts), features))
    return (centres[y] + rng.normal(size=(len(y), features))).astype("float32"), y


def classifier(*, classes=3, seed=0, layers=(), **options):
    model = fnn.Sequential([*layers, L.Dense(8, "tanh"), L.Dense(classes, "softmax")], seed=seed)
    model.compile(**({"loss": "cross_entropy", "optimizer": SGD(0.1)} | options))
    return model


def yes_or_no(**options):
    model = fnn.Sequential([L.Dense(8, "tanh"), L.Dense(1, "sigmoid")])
    model.compile("binary_cross_entropy", SGD(0.1), **options)
    return model


def regressor(seed=0, units=16, rate=0.02, **options):
    model = fnn.Sequential([L.Dense(units, "tanh"), L.Dense(1)], seed=seed)
    model.compile("mean_squared_error", fnn.optimizers.Adam(rate), **options)
    return model


def same(a, b):
    np.testing.assert_array_equal(a, b)


class Recorder(fnn.callbacks.Callback):
    """Writes down what is called; ``stop`` is an epoch to stop at, asked for at its beginning."""

    def __init__(self, stop=None):
        self.calls, self.logs, self.stop = [], [], stop

    def on_train_begin(self, model):
        self.calls.append("train_begin")

    def on_epoch_begin(self, model, epoch):
        self.calls.append(f"epoch_begin {epoch}")
        if epoch == self.stop:
            model.stop_training = True

    def on_epoch_end(self, model, epoch, logs):
        self.calls.append(f"epoch_end {epoch}")
        self.logs.append(dict(logs))

    def on_train_end(self, model):
        self.calls.append("train_end")


@pytest.mark.parametrize("name", ["data", "model", "validation", "ensembles"])
def test_examples_of_the_docstrings_run(name):
    module = importlib.import_module(f"fastnn.{name}")
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0 and result.failed == 0


# ---- weights of classes -------------------------------------------------------------------------


def balanced_by_hand(y):
    """n / (number of classes * rows of the class), for each row."""
    rows = dict(zip(*np.unique(y, return_counts=True), strict=True))
    return np.array([len(y) / (len(rows) * rows[label]) for label in y])


@pytest.mark.parametrize("one_hot", [False, True])
def test_balanced_weights_are_those_by_hand(one_hot):
    X, y = rare()
    w = balanced_by_hand(y)
    assert w[y == 1] == pytest.approx(100 / 27) and w.sum() == pytest.approx(100)
    targets = np.eye(3)[y] if one_hot else y
    a, b = classifier(), classifier()
    a.fit(X, targets, class_weight="balanced", verbose=0)
    b.fit(X, targets, sample_weight=w, verbose=0)
    same(a.parameters, b.parameters)


@pytest.mark.parametrize("column", [False, True])
def test_balanced_weights_of_a_yes_or_no_question(column):
    X, y = rare((80, 20))
    a, b = yes_or_no(), yes_or_no()
    a.fit(X, y[:, None] / 1 if column else y, class_weight="balanced", verbose=0)
    b.fit(X, y, sample_weight=np.where(y == 1, 2.5, 0.625), verbose=0)
    same(a.parameters, b.parameters)


def test_balanced_weights_count_only_the_classes_that_are_there():
    X, y = rare((30, 0, 10))
    a, b = classifier(), classifier()
    a.fit(X, y, class_weight="balanced", verbose=0)
    b.fit(X, y, sample_weight=np.where(y == 0, 40 / 60, 2.0), verbose=0)
    same(a.parameters, b.parameters)


def test_balanced_weights_multiply_the_sample_weights():
    X, y = rare()
    w = np.linspace(0.5, 1.5, 100).astype("float32")
    a, b = classifier(), classifier()
    a.fit(X, y, class_weight="balanced", sample_weight=w, verbose=0)
    b.fit(X, y, sample_weight=w * balanced_by_hand(y).astype("float32"), verbose=0)
    same(a.parameters, b.parameters)


@pytest.mark.parametrize("counts", [(60, 9, 31), (1, 2, 97), (30, 0, 10), (10, 10, 10)])
def test_balanced_weights_are_those_of_scikit_learn(counts):
    compute = pytest.importorskip("sklearn.utils.class_weight").compute_sample_weight
    X, y = rare(counts)
    a, b = classifier(), classifier()
    a.fit(X, y, class_weight="balanced", verbose=0)
    b.fit(X, y, sample_weight=compute("balanced", y), verbose=0)
    same(a.parameters, b.parameters)


@pytest.mark.parametrize("weights", ["balanced", {0: 0.5, 1: 4.0}])
def test_weights_of_classes_are_for_the_rows_that_are_trained_on(weights):
    """Counted over these rows, and held-out rows have none, however they are held out."""
    X, y = rare()
    a, b = classifier(), classifier()
    split = a.fit(X, y, validation_split=0.4, class_weight=weights, verbose=0)
    w = balanced_by_hand(y[:60]) if weights == "balanced" else np.array([0.5, 4, 1])[y[:60]]
    given = b.fit(X[:60], y[:60], sample_weight=w, validation_data=(X[60:], y[60:]), verbose=0)
    same(a.parameters, b.parameters)
    assert split.history == given.history


# ---- shares of classes in what is held out ------------------------------------------------------


def split_by_class(y, split, seed=0):
    """Row numbers to train on and to hold out."""
    return stratified_split(np.asarray(y), round(split * len(y)), seed)


@pytest.mark.parametrize("split", [0.1, 0.2, 0.5, 0.77])
@pytest.mark.parametrize("counts", [(60, 10, 31), (80, 21), (3, 0, 98)])
def test_a_stratified_split_holds_out_the_same_share_of_each_class(counts, split):
    _, y = rare(counts)
    train, held = split_by_class(y, split)
    same(np.sort(np.concatenate([train, held])), np.arange(101))
    assert len(held) == round(split * 101)
    assert np.abs(np.bincount(y[held], minlength=len(counts)) - split * np.array(counts)).max() < 1


@pytest.mark.parametrize("kind", ["labels", "one-hot", "yes or no"])
def test_a_stratified_split_is_what_fit_evaluates_and_trains_on_in_its_order(kind):
    X, y = rare((80, 20) if kind == "yes or no" else (60, 9, 31))
    targets = np.eye(3)[y] if kind == "one-hot" else y
    make = yes_or_no if kind == "yes or no" else classifier
    w = np.linspace(1, 2, 100)
    train, held = split_by_class(y, 0.2)
    options = {"epochs": 2, "batch_size": 16, "shuffle": False, "verbose": 0}
    a, b = make(), make()
    history = a.fit(X, targets, validation_split=0.2, stratify=True, sample_weight=w, **options)
    other = b.fit(
        X[train], targets[train], sample_weight=w[train],
        validation_data=(X[held], targets[held], w[held]), **options,
    )  # fmt: skip
    same(a.parameters, b.parameters)
    assert history.history == other.history


def test_a_stratified_split_is_drawn_from_the_models_seed():
    X, y = rare()
    for seed in (3, 4):
        train, held = split_by_class(y, 0.2, seed)
        a, b = classifier(seed=seed), classifier(seed=seed)
        history = a.fit(X, y, validation_split=0.2, stratify=True, verbose=0)
        other = b.fit(X[train], y[train], validation_data=(X[held], y[held]), verbose=0)
        assert history.history == other.history
    assert not np.array_equal(held, split_by_class(y, 0.2, 3)[1])
    assert not np.array_equal(held, np.arange(80, 100))


def test_each_class_keeps_a_row_to_train_on():
    _, y = rare((40, 1, 2))
    train, held = split_by_class(y, 0.9)
    same(np.bincount(y[train]), [2, 1, 1])
    same(np.bincount(y[held]), [38, 0, 1])


# ---- folds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, folds", [(10, 5), (11, 5), (14, 5), (7, 7), (100, 3)])
@pytest.mark.parametrize("how", ["in order", "shuffled", "stratified", "stratified, in order"])
def test_folds_partition_the_rows(n, folds, how):
    options = {"shuffle": "in order" not in how}
    if "stratified" in how:
        options["y"] = np.arange(n) >= n // 2 if folds < n // 2 else np.zeros(n)
    parts = list(validation.k_fold(n, folds, **options))
    assert len(parts) == folds
    for train, test in parts:
        same(np.sort(np.concatenate([train, test])), np.arange(n))
        assert len(test) in (n // folds, -(-n // folds))
        assert (np.diff(train) > 0).all() and (np.diff(test) > 0).all()
    same(np.sort(np.concatenate([test for _, test in parts])), np.arange(n))


def test_folds_in_order_are_neighbours():
    tests = [test.tolist() for _, test in validation.k_fold(7, 3, shuffle=False)]
    assert tests == [[0, 1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("encode", [np.asarray, lambda y: y[:, None], lambda y: np.eye(3)[y]])
@pytest.mark.parametrize("shuffle", [False, True])
def test_stratified_folds_have_the_same_share_of_each_class(encode, shuffle):
    _, y = rare((60, 9, 31))
    for _, test in validation.k_fold(100, 7, y=encode(y), shuffle=shuffle):
        counts = np.bincount(y[test], minlength=3)
        assert (counts - np.array([60, 9, 31]) // 7 <= 1).all()
        assert (counts >= np.array([60, 9, 31]) // 7).all()


def test_labels_of_folds_may_be_any_numbers():
    y = np.array([-3.5, 7.0] * 10)
    for _, test in validation.k_fold(20, 5, y=y):
        same(np.sort(y[test]), [-3.5, -3.5, 7, 7])


@pytest.mark.parametrize("y", [None, np.arange(40) % 3])
def test_the_same_seed_draws_the_same_folds(y):
    draws = [list(validation.k_fold(40, y=y, seed=s)) for s in (1, 1, 2)]
    for (_, a), (_, b) in zip(draws[0], draws[1], strict=True):
        same(a, b)
    assert any(not np.array_equal(a, b) for (_, a), (_, b) in zip(draws[0], draws[2], strict=True))


def test_a_draw_of_folds_never_changes():
    """Results with a seed stay what they were, whatever the version."""
    tests = [test.tolist() for _, test in validation.k_fold(10, 3, seed=0)]
    assert tests == [[1, 2, 3, 8], [0, 6, 7], [4, 5, 9]]


# ---- cross-validation ---------------------------------------------------------------------------


@pytest.mark.parametrize("stratify", [False, True])
def test_cross_validation_is_fit_and_evaluate_on_each_fold(stratify):
    X, y = rare()
    w = np.linspace(1, 2, 100)
    options = {"epochs": 3, "batch_size": 16, "verbose": 0}

    def make():
        return classifier(metrics=["accuracy"])

    result = validation.cross_validate(
        make, X, y, folds=4, stratify=stratify, seed=5, sample_weight=w, **options
    )
    scores, histories = [], []
    for train, test in validation.k_fold(100, 4, y=y if stratify else None, seed=5):
        model = make()
        history = model.fit(X[train], y[train], sample_weight=w[train], **options)
        histories.append(history.history)
        scores.append(model.evaluate(X[test], y[test], sample_weight=w[test]))
    assert list(result.scores) == scores
    assert [h.history for h in result.histories] == histories
    for name in ("loss", "accuracy"):
        values = np.array([score[name] for score in scores])
        assert result.mean[name] == pytest.approx(values.sum() / 4, rel=1e-12)
        deviation = np.sqrt(((values - values.mean()) ** 2).sum() / 3)
        assert result.std[name] == pytest.approx(deviation, rel=1e-12)
    assert set(result.mean) == set(result.std) == {"loss", "accuracy"}
    assert "4 folds: loss" in repr(result) and f"{result.mean['accuracy']:.4g} +- " in repr(result)


def test_cross_validation_takes_lists():
    X, y = rare()
    a, b = (
        validation.cross_validate(classifier, *data, folds=3, verbose=0)
        for data in ((X, y), (X.tolist(), y.tolist()))
    )
    assert a.mean == pytest.approx(b.mean, rel=1e-6)


# ---- rows of each class equally often -----------------------------------------------------------


@pytest.mark.parametrize("counts", [(60, 9, 31), (5, 1), (4, 4)])
def test_balanced_indices_draw_each_class_equally_often(counts):
    _, y = rare(counts)
    index = validation.balanced_indices(y)
    same(np.bincount(y[index]), [max(counts)] * len(counts))
    times = np.bincount(index, minlength=len(y))
    for label, count in enumerate(counts):
        often = times[y == label]
        assert often.min() == max(counts) // count and often.max() == -(-max(counts) // count)
    same(index, validation.balanced_indices(np.eye(len(counts))[y]))


def test_balanced_indices_are_in_random_order_and_reproducible():
    _, y = rare()
    a, b, c = (validation.balanced_indices(y, seed=s) for s in (1, 1, 2))
    same(a, b)
    assert not np.array_equal(a, c)
    rows = [np.unique(index[y[index] == 2], return_counts=True)[1] for index in (a, c)]
    assert not np.array_equal(*rows)  # which rows of a class come once more is drawn, too
    first = np.bincount(y[a[:90]], minlength=3)
    assert first.min() > 15


def test_a_draw_of_balanced_indices_never_changes():
    index = validation.balanced_indices([0, 0, 0, 0, 1, 2, 2], seed=0)
    same(index, [4, 4, 6, 5, 6, 2, 3, 4, 0, 4, 5, 1])


def test_balanced_weights_have_the_gradient_of_balanced_indices():
    X, y = rare((60, 10, 30))
    model = classifier(layers=[fnn.Input(4)], dtype="float64")
    index = validation.balanced_indices(y)
    loss, gradients = model.loss_and_gradients(X[index], y[index])
    weighted, expected = model.loss_and_gradients(X, y, balanced_by_hand(y))
    assert loss == pytest.approx(weighted, rel=1e-12)
    for mine, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


def test_balanced_batches_draw_each_class_equally_often_and_anew_in_each_epoch():
    X, y = rare()
    X[:, 0] = np.arange(100)  # tells the rows apart
    batches = validation.BalancedBatches(X, y, batch_size=50, seed=3)
    epochs = []
    for _ in range(3):
        parts = list(batches)
        assert [len(labels) for _, labels in parts] == [50, 50, 50, 30] and len(batches) == 4
        rows = np.concatenate([examples[:, 0] for examples, _ in parts]).astype(int)
        labels = np.concatenate([labels for _, labels in parts])
        same(labels, y[rows])
        same(np.bincount(labels), [60, 60, 60])
        epochs.append(rows)
    same(epochs[0], validation.balanced_indices(y, seed=3))
    assert not any(np.array_equal(np.sort(a), np.sort(b)) for a, b in itertools.pairwise(epochs))
    again = validation.BalancedBatches(X, y, batch_size=50, seed=3)
    for rows in epochs:
        same(np.concatenate([examples[:, 0] for examples, _ in again]), rows)


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_balanced_batches_train_as_fit_does_on_the_same_rows(one_hot, weighted):
    X, y = rare()
    targets = np.eye(3)[y] if one_hot else y
    w = np.linspace(0.5, 1.5, 100) if weighted else None
    index = validation.balanced_indices(y, seed=1)
    model, expected = classifier(), classifier()
    batches = validation.BalancedBatches(X, targets, sample_weight=w, seed=1)
    history = model.fit_batches(batches, verbose=0)
    expected.fit(
        X[index], targets[index], sample_weight=None if w is None else w[index], shuffle=False,
        verbose=0,
    )  # fmt: skip
    same(model.parameters, expected.parameters)
    assert history.history["loss"] == pytest.approx(expected.history.history["loss"], rel=1e-6)


# ---- ensembles ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_ensemble_averages(dtype):
    X, _ = rare()
    models = [classifier(seed=s, layers=[fnn.Input(4)], dtype=dtype) for s in range(3)]
    ensemble = ensembles.Ensemble(models)
    assert ensemble.models == tuple(models)
    predicted = ensemble.predict(X, batch_size=7)
    assert predicted.shape == (100, 3) and predicted.dtype == dtype
    expected = np.mean([m.predict(X).astype("f8") for m in models], axis=0)
    np.testing.assert_allclose(predicted, expected, rtol=1e-6 if dtype == "float32" else 1e-13)
    np.testing.assert_allclose(predicted.sum(axis=1), 1, rtol=1e-6)
    assert "3 models" in repr(ensemble)


def test_an_ensemble_of_a_generator_of_models():
    models = [regressor(seed=s) for s in range(2)]
    for model in models:
        model.build(4)
    assert len(ensembles.Ensemble(m for m in models).models) == 2


def wave(seed, n=20):
    """A sine with noise."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-3, 3, (n, 1))
    return X, np.sin(X) + rng.normal(0, 0.4, X.shape)


def test_bagging_is_reproducible_and_every_member_has_its_own_seed():
    X, y = wave(0)
    seeds = []

    def make(seed):
        seeds.append(seed)
        return regressor(seed)

    options = {"members": 4, "epochs": 5, "verbose": 0}
    a, b, c = (ensembles.bagging(make, X, y, seed=s, **options) for s in (1, 1, 2))
    assert seeds[:4] == seeds[4:8] and len(set(seeds[:4] + seeds[8:])) == 8
    same(a.predict(X), b.predict(X))
    assert not np.array_equal(a.predict(X), c.predict(X))


def test_members_are_trained_on_bootstrap_samples():
    """With X = identity, a member has moved the weights of the rows that it was given."""
    n, members = 200, 5

    def make(seed):
        model = fnn.Sequential([L.Dense(1, kernel_initializer="zeros", use_bias=False)], seed=seed)
        model.compile("mean_absolute_error", SGD(1.0), dtype="float64")
        return model

    options = {"batch_size": 1, "verbose": 0, "members": members}
    ensemble = ensembles.bagging(make, np.eye(n), np.full(n, 1e6), **options)
    times = np.array([model.parameters for model in ensemble.models])
    same(times.sum(axis=1), np.full(members, float(n)))  # n rows each,
    seen = (times > 0).mean(axis=1)
    assert (np.abs(seen - (1 - np.exp(-1))) < 0.1).all()  # drawn with replacement,
    assert len({tuple(t) for t in times}) == members  # and each time others
    weighted = ensembles.bagging(
        make, np.eye(n), np.full(n, 1e6), sample_weight=np.arange(n) / 1, **options
    )
    for model, count in zip(weighted.models, times, strict=True):
        same(model.parameters, count * np.arange(n))


def test_bagging_lowers_the_variance():
    """Predictions change less from one noisy sample of the data to the next, and err less.

    The ratios are 0.4 to 0.6, whatever the seeds.
    """

    def make(seed):
        return regressor(seed, units=64, rate=0.03)

    grid = np.linspace(-2.5, 2.5, 40)[:, None]
    options = {"epochs": 3000, "batch_size": 20, "verbose": 0}
    alone, bagged = [], []
    for sample in range(6):
        X, y = wave(sample)
        model = make(sample)
        model.fit(X, y, **options)
        alone.append(model.predict(grid))
        bagged.append(ensembles.bagging(make, X, y, seed=sample, **options).predict(grid))
    assert np.var(bagged, axis=0).mean() < 0.75 * np.var(alone, axis=0).mean()
    errors = [((np.array(p) - np.sin(grid)) ** 2).mean() for p in (bagged, alone)]
    assert errors[0] < 0.75 * errors[1]


# ---- batches of one's own -----------------------------------------------------------------------


def in_batches(X, y, size=32, weights=None):
    arrays = (X, y) if weights is None else (X, y, weights)
    return [tuple(a[i : i + size] for a in arrays) for i in range(0, len(X), size)]


class Indexed:
    """Batches with a length and indices, that know no end."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, i):
        return self.batches[i % len(self.batches)]


def endless(batches):
    yield from itertools.cycle(batches)


@pytest.mark.parametrize("backend", ["numpy", "cython"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
def test_batches_in_order_train_as_fit_does(backend, dtype, weighted):
    X, y = rare()
    w = np.linspace(0.5, 1.5, 100) if weighted else None
    options = {"layers": [L.Dropout(0.3)], "optimizer": "adam", "metrics": ["accuracy"]}
    options |= {"backend": backend, "dtype": dtype, "threads": 1}
    batches = in_batches(X, y, weights=w)
    expected = classifier(**options)
    history = expected.fit(X, y, epochs=3, batch_size=32, shuffle=False, sample_weight=w, verbose=0)
    ways = [
        (batches, {}),
        (Indexed(batches), {}),
        (endless(batches), {"steps_per_epoch": 4}),
        (iter(batches * 3), {"steps_per_epoch": 4}),
    ]
    for source, more in ways:
        model = classifier(**options)
        result = model.fit_batches(source, epochs=3, verbose=0, **more)
        same(model.parameters, expected.parameters)
        assert result is model.history and result.epoch == [0, 1, 2]
        for name in ("loss", "accuracy"):
            assert result.history[name] == pytest.approx(history.history[name], rel=1e-6)


def test_a_generator_may_end_the_only_epoch():
    X, y = rare()
    model, expected = classifier(), classifier()
    model.fit_batches((batch for batch in in_batches(X, y, 25)), verbose=0)
    expected.fit(X, y, batch_size=25, shuffle=False, verbose=0)
    same(model.parameters, expected.parameters)


def test_steps_per_epoch_take_the_first_batches_of_an_iterable_and_the_next_of_a_generator():
    X, y = rare()
    batches = in_batches(X, y, 25)
    for source, rows in ((batches, [0, 1, 0, 1]), (iter(batches), [0, 1, 2, 3])):
        model, expected = classifier(), classifier()
        model.fit_batches(source, epochs=2, steps_per_epoch=2, verbose=0)
        for i in rows:
            expected.train_on_batch(*batches[i])
        same(model.parameters, expected.parameters)


def test_a_generator_is_asked_for_no_more_batches_than_are_trained_on():
    X, y = rare()
    source = iter(in_batches(X, y, 10))
    classifier().fit_batches(source, epochs=2, steps_per_epoch=3, verbose=0)
    assert len(list(source)) == 4


def test_the_history_of_batches_is_weighted_by_their_rows():
    X, y = rare()
    still = classifier(optimizer=SGD(1e-30), metrics=["accuracy"], dtype="float64")
    batches = [(X[:7], y[:7]), (X[7:100], y[7:100])]
    history = still.fit_batches(batches, verbose=0).history
    for name, value in still.evaluate(X, y).items():
        assert history[name] == [pytest.approx(value, rel=1e-12)]


def test_batches_with_validation_and_callbacks():
    X, y = rare()
    model, recorder = classifier(), Recorder()
    history = model.fit_batches(
        in_batches(X[:75], y[:75], 25), epochs=2, validation_data=(X[75:], y[75:]),
        callbacks=recorder, verbose=0,
    )  # fmt: skip
    assert recorder.calls == [
        "train_begin", "epoch_begin 0", "epoch_end 0", "epoch_begin 1", "epoch_end 1", "train_end"
    ]  # fmt: skip
    assert list(history.history) == ["loss", "val_loss"]
    assert [logs["val_loss"] for logs in recorder.logs] == history.history["val_loss"]
    assert history.history["val_loss"][-1] == model.evaluate(X[75:], y[75:])["loss"]


def test_a_callback_stops_batches_after_its_epoch():
    X, y = rare()
    model, recorder = classifier(), Recorder(stop=1)
    model.fit_batches(in_batches(X, y), epochs=5, callbacks=[recorder], verbose=0)
    assert model.history.epoch == [0, 1] and recorder.calls[-1] == "train_end"
    assert model.fit_batches(in_batches(X, y), epochs=2, verbose=0).epoch == [0, 1]


def test_batches_report_their_progress(capsys):
    X, y = rare()
    classifier().fit_batches(in_batches(X, y, 25), epochs=2, verbose=2)
    assert [line[:9] for line in capsys.readouterr().out.splitlines()] == ["epoch 1/2", "epoch 2/2"]
    classifier().fit_batches(Indexed(in_batches(X, y, 25)), epochs=2, verbose=1)
    assert "8/8" in capsys.readouterr().err
    classifier().fit_batches(endless(in_batches(X, y, 25)), steps_per_epoch=3, verbose=1)
    assert "3/3" in capsys.readouterr().err


def test_a_lost_loss_names_its_step_and_updates_nothing():
    X, y = wave(0)
    model = fnn.Sequential([L.Dense(1)])
    model.compile("mean_squared_error", SGD(0.01))
    batches = [(X, y), (X, y), (X, np.full_like(y, 1e30))]
    model.fit_batches(batches[:2], verbose=0)
    recorder = Recorder()
    kept = fnn.Sequential([L.Dense(1)])
    kept.compile("mean_squared_error", SGD(0.01))
    source = iter([*batches[:2], *batches])
    with pytest.raises(fnn.NonFiniteLoss, match=r"step 4 \(epoch 1\)") as caught:
        kept.fit_batches(source, epochs=2, steps_per_epoch=3, callbacks=recorder, verbose=0)
    assert caught.value.step == 4
    assert recorder.calls[-1] == "train_end" and kept.history.epoch == [0]


# ---- bad input ----------------------------------------------------------------------------------


def fit(*, make=classifier, counts=(60, 9, 31), **options):
    X, y = rare(counts)
    return lambda: make().fit(X, y, verbose=0, **options)


def fit_batches(batches=None, **options):
    batches = in_batches(*rare(), 25) if batches is None else batches
    return lambda: classifier().fit_batches(batches, verbose=0, **options)


def folds(n=20, *arguments, **options):
    return lambda: validation.k_fold(n, *arguments, **options)


def cross(make=classifier, X=None, y=None, **options):
    own = rare()
    X, y = own[0] if X is None else X, own[1] if y is None else y
    return lambda: validation.cross_validate(make, X, y, verbose=0, **options)


def bag(make=classifier, X=None, y=None, **options):
    own = rare()
    X, y = own[0] if X is None else X, own[1] if y is None else y
    return lambda: ensembles.bagging(make, X, y, verbose=0, **options)


def by_seed(seed):
    return classifier(seed=seed)


def members(*models):
    return lambda: ensembles.Ensemble(models)


def built(shape=4, **options):
    return classifier(layers=[fnn.Input(shape)], **options)


ONE = classifier()
X20, Y20 = rare((10, 10))


def balanced(y=Y20, **options):
    return lambda: validation.BalancedBatches(X20, y, **options)


#: id: (call, type of the error, parts of its message: the argument, what came, what was expected)
CASES = {
    # ---- weights of classes
    "class_weight: a name": (fit(class_weight="balance"), ValueError,
                             ("class_weight", "'balance'", "'balanced'", "label -> weight")),
    "class_weight: a list": (fit(class_weight=[1, 2, 3]), TypeError,
                             ("class_weight", "list", "'balanced'", "label -> weight")),
    "class_weight: no classes": (
        fit(make=regressor, class_weight="balanced"), ValueError,
        ("class_weight", "mean_squared_error", "no classes")),
    # ---- stratified split
    "stratify: no classes": (
        fit(make=regressor, validation_split=0.2, stratify=True), ValueError,
        ("stratify", "mean_squared_error", "no classes")),
    "stratify: no split": (fit(stratify=True), ValueError,
                           ("stratify", "validation_split above 0", "validation_split=0")),
    "stratify: validation_data": (
        fit(stratify=True, validation_data=rare()), ValueError,
        ("stratify", "validation_split above 0", "validation_split=0")),
    "stratify: a class that would be gone": (
        fit(counts=(1, 1, 7), validation_split=0.8, stratify=True), ValueError,
        ("stratify", "7 of 9 rows", "none of class 0", "1", "at most 6")),
    "stratify: a larger class that would be gone": (
        fit(counts=(9, 0, 2), validation_split=0.95, stratify=True), ValueError,
        ("stratify", "10 of 11 rows", "none of class 0", "9", "at most 9")),
    "stratify: of no row": (fit(validation_split=0.001, stratify=True), ValueError,
                            ("validation_split", "0.001", "100 rows")),
    # ---- folds
    "folds 1": (folds(20, 1), ValueError, ("folds", "got 1", "least 2")),
    "folds 2.5": (folds(20, 2.5), TypeError, ("folds", "got 2.5", "integer")),
    "folds beyond the rows": (folds(4), ValueError, ("folds", "got 5", "4 rows")),
    "no rows": (folds(0), ValueError, ("n", "got 0", "least 1")),
    "folds: seed -1": (folds(seed=-1), ValueError, ("seed", "got -1", "least 0")),
    "folds: y of another length": (folds(y=np.zeros(19)), ValueError, ("y", "got 19", "20 labels")),
    "folds: y empty": (folds(y=[]), ValueError, ("y", "(0,)", "labels (n,)")),
    "folds: rows that are not one-hot": (
        folds(y=np.ones((20, 3))), ValueError, ("y", "(20, 3)", "(n, classes)", "sum to 1")),
    "folds: y of rank 3": (folds(y=np.ones((20, 1, 1))), ValueError, ("y", "(20, 1, 1)", "(n,)")),
    "folds: y with NaN": (folds(y=np.full(20, np.nan)), ValueError, ("y", "nan", "finite")),
    "folds: strings": (folds(y=["a"] * 20), TypeError, ("y", "numbers", "<U1")),
    "folds: a class of few rows": (
        folds(y=np.arange(20) // 8), ValueError,
        ("y", "at least 5 rows", "got 4 of class 2")),
    # ---- rows of each class equally often
    "balanced_indices: rows": (
        lambda: validation.balanced_indices(np.ones((5, 2))), ValueError,
        ("y", "(5, 2)", "sum to 1")),
    "balanced_indices: seed": (
        lambda: validation.balanced_indices([0, 1], seed=0.5), TypeError,
        ("seed", "got 0.5", "integer")),
    "balanced batches: batch_size": (balanced(batch_size=0), ValueError,
                                     ("batch_size", "got 0", "least 1")),
    "balanced batches: seed": (balanced(seed=-1), ValueError, ("seed", "got -1", "least 0")),
    "balanced batches: y of another length": (balanced(y=[0, 1]), ValueError,
                                              ("y", "2 rows", "X has 20")),
    "balanced batches: no classes": (balanced(y=np.ones((20, 2))), ValueError,
                                     ("y", "(20, 2)", "sum to 1")),
    # ---- cross-validation
    "cross: the same model": (cross(lambda: ONE), ValueError,
                              ("make_model", "before", "new model at each call")),
    "cross: no model": (cross(lambda: None), TypeError, ("make_model", "None", "returns a Model")),
    "cross: a model": (cross(ONE), TypeError, ("make_model", "Sequential", "no arguments")),
    "cross: folds": (cross(folds=101), ValueError, ("folds", "got 101", "100 rows")),
    "cross: y of another length": (cross(y=np.zeros(99, int)), ValueError,
                                   ("y", "99 rows", "X has 100")),
    "cross: weights of another length": (
        cross(sample_weight=np.ones(99)), ValueError, ("sample_weight", "99 rows", "X has 100")),
    "cross: X a number": (cross(X=1.0), ValueError, ("X", "single number", "per row")),
    "cross: y of numbers": (cross(y=np.linspace(0, 1, 100), stratify=True), ValueError,
                            ("y", "at least 5 rows of each class", "got 1 of class 0.0")),
    "cross: option of fit": (cross(epochs=0), ValueError, ("epochs", "got 0", "least 1")),
    # ---- ensembles
    "no members": (members(), ValueError, ("models", "none", "at least one")),
    "members a model": (lambda: ensembles.Ensemble(ONE), TypeError,
                        ("models", "Sequential", "list of Model")),
    "a member that is no model": (members(built(), "b"), TypeError,
                                  ("models[1]", "'b'", "Model")),
    "a member that is not built": (members(built(), classifier()), RuntimeError,
                                   ("models[1]", "not built", "build(shape)")),
    "a member that is not compiled": (
        members(built(), fnn.Sequential([fnn.Input(4), L.Dense(3)])), RuntimeError,
        ("models[1]", "not compiled", "compile(")),
    "members of other outputs": (members(built(), built(), built(classes=2)), ValueError,
                                 ("models[2]", "got (4,) and (2,)", "(3,)", "models[0]")),
    "members of other inputs": (members(built(), built(5)), ValueError,
                                ("models[1]", "got (5,) and (3,)", "(4,)", "models[0]")),
    # ---- bagging
    "members 0": (bag(by_seed, members=0), ValueError, ("members", "got 0", "least 1")),
    "bagging: seed": (bag(by_seed, seed=-1), ValueError, ("seed", "got -1", "least 0")),
    "bagging: no seed taken": (bag(lambda: classifier()), TypeError,
                               ("make_model", "lambda", "one argument, a seed")),
    "bagging: the same model": (bag(lambda seed: ONE), ValueError,
                                ("make_model", "before", "new model at each call")),
    "bagging: no model": (bag(lambda seed: seed), TypeError, ("make_model", "returns a Model")),
    "bagging: a model": (bag(ONE), TypeError, ("make_model", "Sequential", "function")),
    "bagging: y of another length": (bag(by_seed, y=np.zeros(99, int)), ValueError,
                                     ("y", "99 rows", "X has 100")),
    "bagging: a split": (bag(by_seed, validation_split=0.2), ValueError,
                         ("validation_split", "got 0.2", "validation_data")),
    # ---- batches
    "batches a number": (fit_batches(5), TypeError, ("batches", "got 5", "(X, y)")),
    "batches of arrays": (fit_batches(X20[None, :2]), ValueError,
                          ("batches[0]", "ndarray", "(X, y) or (X, y, sample_weight)")),
    "batches of 4": (fit_batches([(X20, Y20), (X20,) * 4]), ValueError,
                     ("batches[1]", "tuple of 4", "(X, y) or (X, y, sample_weight)")),
    "a batch of other features": (fit_batches([(X20, Y20), (X20[:, :3], Y20)]), ValueError,
                                  ("batches[1][0]", "(20, 3)", "(n, 4)")),
    "a batch of wrong labels": (fit_batches([(X20, Y20 + 5)]), ValueError,
                                ("batches[0][1]", "label 6", "0 to 2")),
    "a batch of wrong weights": (fit_batches([(X20, Y20, -np.ones(20))]), ValueError,
                                 ("batches[0][2]", "-1", "at least 0")),
    "no batches": (fit_batches([]), ValueError, ("batches", "expected 1", "after 0")),
    "batches that end": (fit_batches(steps_per_epoch=5), ValueError,
                         ("batches", "expected 5", "epoch 0", "after 4")),
    "a generator that ends": (
        fit_batches(iter([(X20, Y20)] * 3), epochs=2, steps_per_epoch=2), ValueError,
        ("batches", "expected 2", "epoch 1", "after 1")),
    "a generator for two epochs": (
        fit_batches(iter([(X20, Y20)]), epochs=2), ValueError,
        ("steps_per_epoch", "2 epochs", "got None", "number of batches")),
    "steps_per_epoch 0": (fit_batches(steps_per_epoch=0), ValueError,
                          ("steps_per_epoch", "got 0", "least 1")),
    "batches: epochs 0": (fit_batches(epochs=0), ValueError, ("epochs", "got 0", "least 1")),
    "batches: callbacks": (fit_batches(callbacks=5), TypeError, ("callbacks", "5", "Callback")),
    "batches: verbose": (lambda: classifier().fit_batches([], verbose=3), ValueError,
                         ("verbose", "got 3", "0, 1, 2")),
    "batches: validation_data": (fit_batches(validation_data=X20[:2]), ValueError,
                                 ("validation_data", "ndarray", "(X, y)")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused(name):
    call, error, (argument, *parts) = CASES[name]
    with pytest.raises(error, match=f"^{re.escape(argument)}: ") as caught:
        call()
    assert type(caught.value) is error
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("batches", [[(X20, Y20)], [(X20, Y20), (X20, Y20 + 5)]])
def test_batches_before_compile_or_after_a_bad_one_leave_the_model_usable(batches):
    model = fnn.Sequential([L.Dense(3, "softmax")])
    with pytest.raises(RuntimeError, match="not compiled"):
        model.fit_batches(batches, verbose=0)
    model.compile("cross_entropy")
    expected = fnn.Sequential([L.Dense(3, "softmax")])
    expected.compile("cross_entropy")
    expected.train_on_batch(X20, Y20)
    if len(batches) > 1:
        recorder = Recorder()
        with pytest.raises(ValueError, match="label 6"):
            model.fit_batches(batches, callbacks=recorder, verbose=0)
        assert recorder.calls == ["train_begin", "epoch_begin 0", "train_end"]
    else:
        model.fit_batches(batches, verbose=0)
    same(model.parameters, expected.parameters)
