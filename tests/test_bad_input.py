"""Bad input: what raises, what the message names, and that the model is none the worse for it."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest

import fastnn as fnn

L = fnn.layers
N, FEATURES, CLASSES = 20, 4, 3
NAN, INF = float("nan"), float("inf")


def rows(n=N, features=FEATURES):
    return np.random.default_rng(0).normal(size=(n, features)).astype("float32")


def classes(n=N):
    return np.arange(n) % CLASSES


def numbers(n=N, outputs=1):
    return np.random.default_rng(1).normal(size=(n, outputs))


def chain(*layers, loss, **options):
    model = fnn.Sequential([fnn.Input(FEATURES), L.Dense(5, "tanh"), *layers])
    model.compile(loss, **options)
    return model


def classifier():
    return chain(L.Dense(CLASSES, "softmax"), loss="cross_entropy", metrics=["accuracy"])


def regressor():
    return chain(L.Dense(1), loss="mean_squared_error")


def yes_or_no():
    return chain(L.Dense(1, "sigmoid"), loss="binary_cross_entropy")


def questions():
    return chain(L.Dense(CLASSES, "sigmoid"), loss="binary_cross_entropy")


#: name -> (a fresh model, data it can be trained on)
MODELS = {
    "classifier": (classifier, lambda: (rows(), classes())),
    "regressor": (regressor, lambda: (rows(), numbers())),
    "yes_or_no": (yes_or_no, lambda: (rows(), classes() > 0)),
    "questions": (questions, lambda: (rows(), np.eye(CLASSES)[classes()])),
}


def spoiled(array, value, at=(3, 0)):
    """The array with one bad value in it."""
    array = np.array(array, dtype=np.result_type(array, "float32"))
    array[at[: array.ndim]] = value
    return array


def raises(kind, *parts, start=""):
    """An error of exactly this kind whose message has every part, in any order."""
    ends = [r"(?!\d)" if part[-1].isdigit() else "" for part in parts]  # 1 is not 10
    looks = "".join(f"(?=.*{re.escape(p)}{end})" for p, end in zip(parts, ends, strict=True))
    return pytest.raises(
        kind, match=f"(?s)^{looks}{re.escape(start)}", check=lambda error: type(error) is kind
    )


def fit(*, X=None, y=None, **options):
    """A call of fit on the model's own data, but for what is given."""

    def call(model, data):
        model.fit(
            data[0] if X is None else X, data[1] if y is None else y, **({"verbose": 0} | options)
        )

    return call


def with_call(name, *, X=None, y=None, **options):
    """The same for another method."""

    def call(model, data):
        arguments = [data[0] if X is None else X]
        if name != "predict":
            arguments.append(data[1] if y is None else y)
        getattr(model, name)(*arguments, **options)

    return call


def compiled(loss="cross_entropy", **options):
    return lambda model, data: model.compile(loss, **options)


def weights(change):
    return lambda model, data: model.set_weights(change([w.copy() for w in model.get_weights()]))


def monitoring(**options):
    return fit(callbacks=[fnn.callbacks.EarlyStopping(**options)])


#: id: (model, call, type of the error, parts of its message: the argument, what came, what was
#: expected)
CASES = {
    # ---- X
    "too many features": ("classifier", fit(X=rows(features=5)), ValueError,
                          ("X", "(20, 5)", "(n, 4)")),
    "too few features": ("classifier", fit(X=rows(features=3)), ValueError,
                         ("X", "(20, 3)", "(n, 4)")),
    "one-dimensional X": ("classifier", fit(X=rows()[:, 0]), ValueError, ("X", "(20,)", "(n, 4)")),
    "one example": ("classifier", fit(X=rows()[0], y=[1]), ValueError,
                    ("X", "(4,)", "(n, 4)", "X[None]")),
    "X of rank 3": ("classifier", fit(X=rows()[:, None]), ValueError,
                    ("X", "(20, 1, 4)", "(n, 4)")),
    "X a number": ("classifier", fit(X=3.0), ValueError, ("X", "()", "(n, 4)")),
    "X empty": ("classifier", fit(X=rows(0), y=classes(0)), ValueError, ("X", "empty", "(0, 4)")),
    "X strings": ("classifier", fit(X=rows().astype(str)), TypeError, ("X", "numbers", "<U")),
    "X a string": ("classifier", fit(X="data.csv"), TypeError, ("X", "numbers", "data.csv")),
    "X objects": ("classifier", fit(X=rows().astype(object)), TypeError,
                  ("X", "numbers", "object")),
    "X with None": ("classifier", fit(X=[[1, 2, 3, None]], y=[1]), TypeError,
                    ("X", "numbers", "object")),
    "X dates": ("classifier", fit(X=np.zeros((N, 4), "M8[s]")), TypeError,
                ("X", "numbers", "datetime64")),
    "X complex": ("classifier", fit(X=rows() + 1j), TypeError, ("X", "numbers", "complex")),
    "X ragged": ("classifier", fit(X=[[1, 2, 3, 4], [1, 2]], y=[0, 1]), ValueError,
                 ("X", "rectangular")),
    "X a dict": ("classifier", fit(X={"a": [1, 2]}), TypeError, ("X", "numbers", "object")),
    "NaN in X": ("classifier", fit(X=spoiled(rows(), NAN, (3, 2))), ValueError,
                 ("X", "nan", "[3, 2]", "finite")),
    "Inf in X": ("classifier", fit(X=spoiled(rows(), INF)), ValueError,
                 ("X", "inf", "[3, 0]", "finite")),
    "-Inf in float64 X": ("classifier", fit(X=spoiled(rows().astype("f8"), -INF)), ValueError,
                          ("X", "-inf", "[3, 0]", "finite")),
    "NaN in float16 X": ("classifier", fit(X=spoiled(rows(), NAN).astype("f2")), ValueError,
                         ("X", "nan", "[3, 0]", "finite")),
    "NaN in strided X": (
        "classifier", fit(X=np.repeat(spoiled(rows(), NAN, (3, 2)), 2, axis=0)[::2]), ValueError,
        ("X", "nan", "[3, 2]", "finite")),
    "X beyond float32": (
        "classifier", fit(X=spoiled(rows().astype("f8"), 1e300)), ValueError,
        ("X", "1e+300", "[3, 0]", "float32")),
    "predict: features": ("classifier", with_call("predict", X=rows(features=5)), ValueError,
                          ("X", "(20, 5)", "(n, 4)")),
    "predict: NaN": ("classifier", with_call("predict", X=spoiled(rows(), NAN)), ValueError,
                     ("X", "nan", "[3, 0]", "finite")),
    "predict: empty": ("classifier", with_call("predict", X=rows(0)), ValueError,
                       ("X", "empty", "(0, 4)")),
    "evaluate: NaN": ("classifier", with_call("evaluate", X=spoiled(rows(), NAN)), ValueError,
                      ("X", "nan", "[3, 0]", "finite")),
    "train_on_batch: NaN": (
        "classifier", with_call("train_on_batch", X=spoiled(rows(), NAN)), ValueError,
        ("X", "nan", "[3, 0]", "finite")),
    "train_on_batch: empty": (
        "classifier", with_call("train_on_batch", X=rows(0), y=classes(0)), ValueError,
        ("X", "empty", "(0, 4)")),
    "loss_and_gradients: NaN": (
        "classifier", with_call("loss_and_gradients", X=spoiled(rows(), NAN)), ValueError,
        ("X", "nan", "[3, 0]", "finite")),
    "profile: NaN": ("classifier", with_call("profile", X=spoiled(rows(), NAN)), ValueError,
                     ("X", "nan", "[3, 0]", "finite")),
    # ---- y
    "y shorter": ("classifier", fit(y=classes(19)), ValueError, ("y", "19", "X", "20")),
    "y longer": ("regressor", fit(y=numbers(21)), ValueError, ("y", "21", "X", "20")),
    "y empty": ("classifier", fit(y=classes(0)), ValueError, ("y", "0", "X", "20")),
    "y a number": ("regressor", fit(y=1.0), ValueError, ("y", "single number", "per row")),
    "y None": ("classifier", lambda m, d: m.fit(d[0], None), TypeError, ("y", "None", "targets")),
    "label too large": ("classifier", fit(y=np.full(N, 3)), ValueError,
                        ("y", "label 3", "3 outputs", "0 to 2")),
    "label negative": ("classifier", fit(y=classes() - 1), ValueError,
                       ("y", "label -1", "0 to 2")),
    "label huge": ("classifier", fit(y=classes().astype("u8") + 2**63), ValueError,
                   ("y", "9223372036854775810", "0 to 2")),
    "float labels": ("classifier", fit(y=classes().astype(float)), TypeError,
                     ("y", "float64", "integer class labels", "one-hot")),
    "a column of float labels": ("classifier", fit(y=classes()[:, None] / 1), TypeError,
                                 ("y", "float64", "integer class labels")),
    "one-hot of other classes": ("classifier", fit(y=np.eye(4)[classes()]), ValueError,
                                 ("y", "(20, 4)", "(n, 3)")),
    "one-hot that sums to 2": ("classifier", fit(y=2 * np.eye(3)[classes()]), ValueError,
                               ("y", "sums to 2", "sum to 1", "row 0")),
    "one-hot of zeros": ("classifier", fit(y=spoiled(np.eye(3)[classes()], 0, (3, 0))), ValueError,
                         ("y", "sums to 0", "sum to 1", "row 3")),
    "negative one-hot": ("classifier", fit(y=np.tile([2.0, -1.0, 0.0], (N, 1))), ValueError,
                         ("y", "-1", "at least 0")),
    "y of rank 3": ("classifier", fit(y=np.eye(3)[classes()][:, None]), ValueError,
                    ("y", "(20, 1, 3)", "(n, 3)")),
    "y strings": ("classifier", fit(y=["cat"] * N), TypeError, ("y", "numbers", "<U3")),
    "y objects": ("regressor", fit(y=numbers().astype(object)), TypeError,
                  ("y", "numbers", "object")),
    "NaN in y": ("regressor", fit(y=spoiled(numbers(), NAN)), ValueError,
                 ("y", "nan", "[3, 0]", "finite")),
    "Inf in a vector y": ("regressor", fit(y=spoiled(numbers()[:, 0], INF)), ValueError,
                          ("y", "inf", "[3]", "finite")),
    "NaN in one-hot y": ("classifier", fit(y=spoiled(np.eye(3)[classes()], NAN)), ValueError,
                         ("y", "nan", "[3, 0]", "finite")),
    "y beyond float32": ("regressor", fit(y=spoiled(numbers().astype("f8"), 1e300)), ValueError,
                         ("y", "1e+300", "float32")),
    "y of too many outputs": ("regressor", fit(y=numbers(outputs=2)), ValueError,
                              ("y", "(20, 2)", "(n, 1)")),
    "y of too few outputs": ("questions", fit(y=classes() > 0), ValueError,
                             ("y", "(20, 1)", "(n, 3)")),
    "yes and no beyond 1": ("yes_or_no", fit(y=classes()), ValueError, ("y", "2", "[0, 1]")),
    "yes and no as -1 and 1": ("yes_or_no", fit(y=np.sign(numbers())), ValueError,
                               ("y", "-1", "[0, 1]")),
    # ---- weights of rows and classes
    "weights of another length": ("classifier", fit(sample_weight=np.ones(19)), ValueError,
                                  ("sample_weight", "19", "20")),
    "negative weights": ("classifier", fit(sample_weight=spoiled(np.ones(N), -0.5)), ValueError,
                         ("sample_weight", "-0.5", "at least 0")),
    "NaN in weights": ("classifier", fit(sample_weight=spoiled(np.ones(N), NAN)), ValueError,
                       ("sample_weight", "nan", "[3]", "finite")),
    "weights per output": ("classifier", fit(sample_weight=np.ones((N, 3))), ValueError,
                           ("sample_weight", "(20, 3)", "(n,)")),
    "one weight": ("classifier", fit(sample_weight=2.0), ValueError,
                   ("sample_weight", "()", "(n,)")),
    "weights as strings": ("classifier", fit(sample_weight=["1"] * N), TypeError,
                           ("sample_weight", "numbers", "<U1")),
    "weights beyond float32": ("classifier", fit(sample_weight=np.full(N, 1e300)), ValueError,
                               ("sample_weight", "1e+300", "float32")),
    "class_weight a list": ("classifier", fit(class_weight=[1, 2, 3]), TypeError,
                            ("class_weight", "list", "dict")),
    "class_weight of no class": ("classifier", fit(class_weight={3: 1.0}), ValueError,
                                 ("class_weight", "3", "0 to 2")),
    "class_weight of a name": ("classifier", fit(class_weight={"cat": 1.0}), TypeError,
                               ("class_weight", "got 'cat'", "integer")),
    "negative class_weight": ("classifier", fit(class_weight={1: -1.0}), ValueError,
                              ("class_weight[1]", "got -1", "[0")),
    "NaN class_weight": ("classifier", fit(class_weight={1: NAN}), ValueError,
                         ("class_weight[1]", "got nan", "number")),
    "class_weight of a regression": ("regressor", fit(class_weight={0: 1.0}), ValueError,
                                     ("class_weight", "mean_squared_error", "no classes")),
    # ---- options of fit
    "batch_size 0": ("classifier", fit(batch_size=0), ValueError,
                     ("batch_size", "got 0", "least 1")),
    "batch_size -3": ("classifier", fit(batch_size=-3), ValueError,
                      ("batch_size", "got -3", "least 1")),
    "batch_size 8.0": ("classifier", fit(batch_size=8.0), TypeError,
                       ("batch_size", "got 8.0", "integer")),
    "batch_size '8'": ("classifier", fit(batch_size="8"), TypeError,
                       ("batch_size", "got '8'", "integer")),
    "batch_size beyond the data": ("classifier", fit(batch_size=21), ValueError,
                                   ("batch_size", "21", "20 rows")),
    "batch_size beyond what the split leaves": (
        "classifier", fit(batch_size=20, validation_split=0.5), ValueError,
        ("batch_size", "20", "10 rows")),
    "predict: batch_size 0": ("classifier", with_call("predict", batch_size=0), ValueError,
                              ("batch_size", "got 0", "least 1")),
    "evaluate: batch_size 1.5": ("classifier", with_call("evaluate", batch_size=1.5), TypeError,
                                 ("batch_size", "got 1.5", "integer")),
    "explain: batch_size 0": ("classifier", lambda m, d: m.explain(0), ValueError,
                              ("batch_size", "got 0", "least 1")),
    "profile: seconds 0": ("classifier", with_call("profile", seconds=0), ValueError,
                           ("seconds", "got 0", "(0")),
    "epochs 0": ("classifier", fit(epochs=0), ValueError, ("epochs", "got 0", "least 1")),
    "epochs -1": ("classifier", fit(epochs=-1), ValueError, ("epochs", "got -1", "least 1")),
    "epochs 2.5": ("classifier", fit(epochs=2.5), TypeError, ("epochs", "got 2.5", "integer")),
    "epochs None": ("classifier", fit(epochs=None), TypeError, ("epochs", "got None", "integer")),
    "initial_epoch -1": ("classifier", fit(initial_epoch=-1), ValueError,
                         ("initial_epoch", "got -1", "least 0")),
    "initial_epoch past the end": ("classifier", fit(epochs=2, initial_epoch=2), ValueError,
                                   ("initial_epoch", "got 2", "less than epochs")),
    "validation_split 1": ("classifier", fit(validation_split=1.0), ValueError,
                           ("validation_split", "got 1.0", "[0, 1)")),
    "validation_split -0.1": ("classifier", fit(validation_split=-0.1), ValueError,
                              ("validation_split", "got -0.1", "[0, 1)")),
    "validation_split '20%'": ("classifier", fit(validation_split="20%"), TypeError,
                               ("validation_split", "got '20%'", "number")),
    "validation_split of no row": ("classifier", fit(validation_split=0.01), ValueError,
                                   ("validation_split", "0.01", "20 rows")),
    "validation_split of all rows": ("classifier", fit(validation_split=0.99), ValueError,
                                     ("validation_split", "0.99", "20 rows")),
    "two kinds of validation": (
        "classifier", fit(validation_split=0.5, validation_data=(rows(), classes())), ValueError,
        ("validation_split", "validation_data")),
    "validation_data without y": ("classifier", fit(validation_data=rows()), ValueError,
                                  ("validation_data", "ndarray", "(X, y)")),
    "validation_data of 1": ("classifier", fit(validation_data=(rows(),)), ValueError,
                             ("validation_data", "1", "(X, y)")),
    "validation_data of 4": ("classifier", fit(validation_data=(rows(),) * 4), ValueError,
                             ("validation_data", "4", "(X, y)")),
    "validation X of other features": (
        "classifier", fit(validation_data=(rows(features=5), classes())), ValueError,
        ("validation_data[0]", "(20, 5)", "(n, 4)")),
    "NaN in validation X": (
        "classifier", fit(validation_data=(spoiled(rows(), NAN), classes())), ValueError,
        ("validation_data[0]", "nan", "[3, 0]")),
    "validation y of another length": (
        "classifier", fit(validation_data=(rows(), classes(19))), ValueError,
        ("validation_data[1]", "19", "validation_data[0]", "20")),
    "validation labels": ("classifier", fit(validation_data=(rows(), classes() + 1)), ValueError,
                          ("validation_data[1]", "label 3", "0 to 2")),
    "float validation labels": (
        "classifier", fit(validation_data=(rows(), classes() / 1)), TypeError,
        ("validation_data[1]", "float64", "integer class labels")),
    "validation weights": (
        "classifier", fit(validation_data=(rows(), classes(), np.ones(7))), ValueError,
        ("validation_data[2]", "7", "validation_data[0]", "20")),
    "verbose 3": ("classifier", fit(verbose=3), ValueError, ("verbose", "got 3", "0, 1, 2")),
    "verbose loud": ("classifier", fit(verbose="loud"), ValueError, ("verbose", "'loud'", "auto")),
    "a callback by name": ("classifier", fit(callbacks=["early_stopping"]), TypeError,
                           ("callbacks", "'early_stopping'", "Callback")),
    "a callback's class": ("classifier", fit(callbacks=[fnn.callbacks.EarlyStopping]), TypeError,
                           ("callbacks", "EarlyStopping", "Callback")),
    "callbacks a number": ("classifier", fit(callbacks=5), TypeError,
                           ("callbacks", "5", "Callback")),
    # ---- compile
    "loss: near match": ("classifier", compiled("cross_entrpy"), ValueError,
                         ("loss", "'cross_entrpy'", "Did you mean 'cross_entropy'")),
    "loss: no match": ("classifier", compiled("zzz"), ValueError,
                       ("loss", "'zzz'", "mean_squared_error", "binary_cross_entropy")),
    "loss: a number": ("classifier", compiled(5), TypeError, ("loss", "int", "name")),
    "loss: None": ("classifier", compiled(None), TypeError, ("loss", "NoneType", "name")),
    "optimizer: near match": ("classifier", compiled(optimizer="adamm"), ValueError,
                              ("optimizer", "'adamm'", "Did you mean 'adam'")),
    "optimizer: another case": ("classifier", compiled(optimizer="RMSprop"), ValueError,
                                ("optimizer", "'RMSprop'", "'rmsprop'")),
    "optimizer: a loss": (
        "classifier", compiled(optimizer=fnn.losses.CrossEntropy()), TypeError,
        ("optimizer", "CrossEntropy", "Optimizer")),
    "metric: near match": ("classifier", compiled(metrics=["acuracy"]), ValueError,
                           ("metrics", "'acuracy'", "Did you mean 'accuracy'")),
    "metric: a number": ("classifier", compiled(metrics=[3]), TypeError,
                         ("metrics", "int", "Metric")),
    "backend: near match": ("classifier", compiled(backend="cyton"), ValueError,
                            ("backend", "'cyton'", "Did you mean 'cython'")),
    "backend: no match": ("classifier", compiled(backend="tpu"), ValueError,
                          ("backend", "'tpu'", "auto, cython, numba, numpy")),
    "backend: None": ("classifier", compiled(backend=None), ValueError,
                      ("backend", "None", "auto, cython, numba, numpy")),
    "threads 0": ("classifier", compiled(threads=0), ValueError, ("threads", "got 0", "least 1")),
    "threads -2": ("classifier", compiled(threads=-2), ValueError,
                   ("threads", "got -2", "least 1")),
    "threads 1.5": ("classifier", compiled(threads=1.5), TypeError,
                    ("threads", "got 1.5", "integer")),
    "threads too many": ("classifier", compiled(threads=100_000), ValueError,
                         ("threads", "got 100000", "at most")),
    "threads of numpy": ("classifier", compiled(threads=2, backend="numpy"), ValueError,
                         ("threads", "got 2", "at most 1", "numpy")),
    "dtype: near match": ("classifier", compiled(dtype="float23"), ValueError,
                          ("dtype", "'float23'", "float32, float64")),
    "dtype: half": ("classifier", compiled(dtype="float16"), ValueError,
                    ("dtype", "'float16'", "float32, float64")),
    "deterministic": ("classifier", compiled(deterministic="always"), ValueError,
                      ("deterministic", "'always'", "any-threads")),
    # ---- weights
    "too few weights": ("classifier", weights(lambda w: w[:-1]), ValueError,
                        ("weights", "3", "4 arrays")),
    "too many weights": ("classifier", weights(lambda w: [*w, w[0]]), ValueError,
                         ("weights", "5", "4 arrays")),
    "no weights": ("classifier", weights(lambda w: []), ValueError, ("weights", "0", "4 arrays")),
    "weights None": ("classifier", weights(lambda w: None), TypeError, ("weights", "None")),
    "weights transposed": ("classifier", weights(lambda w: [x.T for x in w]), ValueError,
                           ("weights[0]", "(5, 4)", "(4, 5)", "kernel")),
    "a bias as a row": ("classifier", weights(lambda w: [w[0], w[1][None], *w[2:]]), ValueError,
                        ("weights[1]", "(1, 5)", "(5,)", "bias")),
    "NaN in weights to set": (
        "classifier", weights(lambda w: [*w[:3], spoiled(w[3], NAN, (1,))]), ValueError,
        ("weights[3]", "nan", "finite")),
    "Inf in weights to set": (
        "classifier", weights(lambda w: [spoiled(w[0], INF), *w[1:]]), ValueError,
        ("weights[0]", "inf", "finite")),
    "strings as weights": (
        "classifier", weights(lambda w: [w[0].astype(str), *w[1:]]), TypeError,
        ("weights[0]", "numbers", "<U")),
    "weights to set beyond float32": (
        "classifier", weights(lambda w: [w[0], np.full(5, 1e300), *w[2:]]), ValueError,
        ("weights[1]", "1e+300", "float32")),
    # ---- the model itself
    "a layer after building": ("classifier", lambda m, d: m.add(L.Dense(2)), ValueError,
                               ("layers", "built")),
    "an Input after building": ("classifier", lambda m, d: m.add(fnn.Input(3)), ValueError,
                                ("layers", "Input", "first")),
    "build for another shape": ("classifier", lambda m, d: m.build(5), ValueError,
                                ("input_shape", "(5,)", "(4,)")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_and_leaves_the_model_as_it_was(name):
    kind, call, error, parts = CASES[name]
    make, data = MODELS[kind]
    model, untouched = make(), make()
    X, y = data()
    for m in (model, untouched):
        m.fit(X, y, epochs=2, verbose=0)
    before = model.parameters.copy()
    argument, *rest = parts
    with raises(error, *rest, start=f"{argument}:"):
        call(model, (X, y))
    np.testing.assert_array_equal(model.parameters, before)
    for m in (model, untouched):  # the optimizer's state and the counters are the same too
        m.fit(X, y, verbose=0)
    np.testing.assert_array_equal(model.parameters, untouched.parameters)


#: id: (what is called, type of the error, parts of its message)
CONSTRUCTORS = {
    "units 0": (lambda: L.Dense(0), ValueError, ("units", "got 0", "least 1")),
    "units -1": (lambda: L.Dense(-1), ValueError, ("units", "got -1", "least 1")),
    "units 2.5": (lambda: L.Dense(2.5), TypeError, ("units", "got 2.5", "integer")),
    "units '8'": (lambda: L.Dense("8"), TypeError, ("units", "got '8'", "integer")),
    "activation: near match": (lambda: L.Dense(2, "rely"), ValueError,
                               ("activation", "'rely'", "Did you mean 'relu'")),
    "activation: no match": (lambda: L.Activation("zzz"), ValueError,
                             ("activation", "'zzz'", "softmax, softplus, tanh")),
    "activation: a number": (lambda: L.Dense(2, 5), TypeError, ("activation", "5", "name")),
    "activation: any function": (lambda: L.Dense(2, np.tanh), TypeError,
                                 ("activation", "tanh", "name")),
    "activation: no such parameter": (lambda: fnn.activations.elu(slope=1), TypeError,
                                      ("elu", "'slope'", "alpha")),
    "activation: bad parameter": (lambda: fnn.activations.leaky_relu(slope=-1), ValueError,
                                  ("slope", "got -1", "[0")),
    "activation: NaN parameter": (lambda: fnn.activations.elu(alpha=NAN), ValueError,
                                  ("alpha", "got nan", "number")),
    "initializer: near match": (
        lambda: L.Dense(2, kernel_initializer="glorot_unifrom"), ValueError,
        ("kernel_initializer", "'glorot_unifrom'", "Did you mean 'glorot_uniform'")),
    "initializer: bias": (lambda: L.Dense(2, bias_initializer="none"), ValueError,
                          ("bias_initializer", "'none'", "zeros")),
    "initializer: an array": (lambda: L.Dense(2, kernel_initializer=np.ones(2)), TypeError,
                              ("kernel_initializer", "ndarray", "Initializer")),
    "initializer: stddev": (lambda: fnn.initializers.Normal(0, -1), ValueError,
                            ("stddev", "got -1", "[0")),
    "initializer: mean": (lambda: fnn.initializers.Normal("a"), TypeError,
                          ("mean", "got 'a'", "number")),
    "initializer: limits": (lambda: fnn.initializers.Uniform(1, 0), ValueError,
                            ("high", "got 0", "[1")),
    "initializer: value": (lambda: fnn.initializers.Constant("a"), TypeError,
                           ("value", "got 'a'", "number")),
    "initializer: NaN value": (lambda: fnn.initializers.Constant(NAN), ValueError,
                               ("value", "got nan", "number")),
    "regularizer: name": (lambda: L.Dense(2, kernel_regularizer="l3"), ValueError,
                          ("kernel_regularizer", "'l3'", "'l2'")),
    "regularizer: factor": (lambda: fnn.regularizers.L2(-0.1), ValueError,
                            ("factor", "got -0.1", "[0")),
    "regularizer: NaN": (lambda: L.Dense(2, bias_regularizer=NAN), ValueError,
                         ("factor", "got nan", "number")),
    "dropout 1": (lambda: L.Dropout(1), ValueError, ("rate", "got 1", "[0, 1)")),
    "dropout -0.1": (lambda: L.Dropout(-0.1), ValueError, ("rate", "got -0.1", "[0, 1)")),
    "dropout NaN": (lambda: L.Dropout(NAN), ValueError, ("rate", "got nan", "[0, 1)")),
    "dropout 'half'": (lambda: L.Dropout("half"), TypeError, ("rate", "got 'half'", "number")),
    "noise -0.1": (lambda: L.GaussianNoise(-0.1), ValueError, ("stddev", "got -0.1", "[0")),
    "noise NaN": (lambda: L.GaussianNoise(NAN), ValueError, ("stddev", "got nan", "[0")),
    "noise None": (lambda: L.GaussianNoise(None), TypeError, ("stddev", "got None", "number")),
    "gaussian dropout 1": (lambda: L.GaussianDropout(1), ValueError,
                           ("rate", "got 1", "[0, 1)")),
    "gaussian dropout -0.1": (lambda: L.GaussianDropout(-0.1), ValueError,
                              ("rate", "got -0.1", "[0, 1)")),
    "sparsity target 0": (lambda: L.SparsityRegularization(0), ValueError,
                          ("target", "got 0", "(0, 1)")),
    "sparsity target 1": (lambda: L.SparsityRegularization(1.0), ValueError,
                          ("target", "got 1.0", "(0, 1)")),
    "sparsity factor -1": (lambda: L.SparsityRegularization(0.1, -1), ValueError,
                           ("factor", "got -1", "[0")),
    "activity of no penalty": (lambda: L.ActivityRegularization(None), TypeError,
                               ("penalty", "None", "L1 or L2")),
    "activity of a matrix": (lambda: L.ActivityRegularization("orthogonality"), TypeError,
                             ("penalty", "'orthogonality'", "L1 or L2")),
    "activity of a near match": (lambda: L.ActivityRegularization("l22"), ValueError,
                                 ("penalty", "'l22'", "'l2'")),
    "activity factor -1": (lambda: L.ActivityRegularization(-1), ValueError,
                           ("factor", "got -1", "[0")),
    "batch normalization: momentum 1": (lambda: L.BatchNormalization(1), ValueError,
                                        ("momentum", "got 1", "[0, 1)")),
    "batch normalization: momentum -0.1": (lambda: L.BatchNormalization(-0.1), ValueError,
                                           ("momentum", "got -0.1", "[0, 1)")),
    "batch normalization: epsilon 0": (lambda: L.BatchNormalization(epsilon=0), ValueError,
                                       ("epsilon", "got 0", "(0")),
    "batch normalization: r below 1": (lambda: L.BatchNormalization(most_scale=0.9), ValueError,
                                       ("most_scale", "got 0.9", "[1")),
    "batch normalization: d below 0": (lambda: L.BatchNormalization(most_shift=-1), ValueError,
                                       ("most_shift", "got -1", "[0")),
    "batch normalization: a matrix's penalty": (
        lambda: L.BatchNormalization(gamma_regularizer="orthogonality"), ValueError,
        ("gamma_regularizer", "Orthogonality(0.01)", "2 dimensions", "one of 1")),
    "layer normalization: epsilon 0": (lambda: L.LayerNormalization(0), ValueError,
                                       ("epsilon", "got 0", "(0")),
    "layer normalization: penalty": (
        lambda: L.LayerNormalization(gamma_regularizer=-0.1), ValueError,
        ("factor", "got -0.1", "[0")),
    "gain 0": (lambda: L.WeightNormDense(3, gain=0), ValueError, ("gain", "got 0", "(0")),
    "gain -1": (lambda: L.CosineDense(3, gain=-1), ValueError, ("gain", "got -1", "(0")),
    "weight normalization: units": (lambda: L.WeightNormDense(0), ValueError,
                                    ("units", "got 0", "least 1")),
    "cosines with a bias": (lambda: L.CosineDense(3, use_bias=True), TypeError,
                            ("use_bias", "CosineDense", "no bias")),
    "cosines with a penalty on the bias": (
        lambda: L.CosineDense(3, bias_regularizer=0.1), TypeError,
        ("bias_regularizer", "CosineDense", "no bias")),
    "slope NaN": (lambda: L.PReLU(NAN), ValueError, ("slope", "got nan", "number")),
    "slope 'x'": (lambda: L.PReLU("x"), TypeError, ("slope", "got 'x'", "number")),
    "pieces 1": (lambda: L.Maxout(3, 1), ValueError, ("pieces", "got 1", "least 2")),
    "pieces 2.5": (lambda: L.Maxout(3, 2.5), TypeError, ("pieces", "got 2.5", "integer")),
    "maxout with an activation": (lambda: L.Maxout(3, activation="relu"), TypeError,
                                  ("activation", "Maxout", "none")),
    "max norm 0": (lambda: fnn.constraints.MaxNorm(0), ValueError, ("limit", "got 0", "(0")),
    "max norm -1": (lambda: fnn.constraints.MaxNorm(-1), ValueError, ("limit", "got -1", "(0")),
    "max norm 'x'": (lambda: fnn.constraints.MaxNorm("x"), TypeError,
                     ("limit", "got 'x'", "number")),
    "constraint: near match": (
        lambda: L.Dense(2, kernel_constraint="maxnorm"), ValueError,
        ("kernel_constraint", "'maxnorm'", "Did you mean 'max_norm'")),
    "constraint: a number": (lambda: L.Dense(2, kernel_constraint=3.0), TypeError,
                             ("kernel_constraint", "float", "Constraint")),
    "constraint: a penalty": (
        lambda: L.Dense(2, bias_constraint=fnn.regularizers.L2()), TypeError,
        ("bias_constraint", "L2", "Constraint")),
    "max norm of a bias": (
        lambda: L.Dense(2, bias_constraint=fnn.constraints.MaxNorm(2)), ValueError,
        ("bias_constraint", "MaxNorm(2)", "2 dimensions", "one of 1")),
    "unit norm of a bias": (lambda: L.Maxout(2, bias_constraint="unit_norm"), ValueError,
                            ("bias_constraint", "UnitNorm()", "2 dimensions", "one of 1")),
    "orthogonality of a bias": (
        lambda: L.Dense(2, bias_regularizer="orthogonality"), ValueError,
        ("bias_regularizer", "Orthogonality(0.01)", "2 dimensions", "one of 1")),
    "orthogonality: factor": (lambda: fnn.regularizers.Orthogonality(-1), ValueError,
                              ("factor", "got -1", "[0")),
    "label smoothing 1": (lambda: fnn.losses.CrossEntropy(label_smoothing=1), ValueError,
                          ("label_smoothing", "got 1", "[0, 1)")),
    "label smoothing -0.1": (lambda: fnn.losses.CrossEntropy(label_smoothing=-0.1), ValueError,
                             ("label_smoothing", "got -0.1", "[0, 1)")),
    "margin 0": (lambda: fnn.losses.MulticlassHinge(0), ValueError, ("margin", "got 0", "(0")),
    "margin -1": (lambda: fnn.losses.SquaredMulticlassHinge(margin=-1), ValueError,
                  ("margin", "got -1", "(0")),
    "scale inf": (lambda: L.Rescaling(INF), ValueError, ("scale", "got inf", "number")),
    "offset None": (lambda: L.Rescaling(1.0, None), TypeError, ("offset", "got None", "number")),
    "shape ()": (lambda: fnn.Input(()), ValueError, ("shape", "()", "at least one dimension")),
    "shape 0": (lambda: fnn.Input(0), ValueError, ("shape", "got 0", "least 1")),
    "shape (3, -1)": (lambda: fnn.Input((3, -1)), ValueError, ("shape", "got -1", "least 1")),
    "shape 3.5": (lambda: fnn.Input(3.5), TypeError, ("shape", "got 3.5", "integer")),
    "shape None": (lambda: fnn.Input(None), TypeError, ("shape", "got None", "integer")),
    "shape (None, 3)": (lambda: fnn.Input((None, 3)), TypeError, ("shape", "got None", "integer")),
    "learning_rate 0": (lambda: fnn.optimizers.SGD(0), ValueError,
                        ("learning_rate", "got 0", "(0")),
    "learning_rate -1": (lambda: fnn.optimizers.Adam(-1), ValueError,
                         ("learning_rate", "got -1", "(0")),
    "learning_rate inf": (lambda: fnn.optimizers.Adam(INF), ValueError,
                          ("learning_rate", "got inf", "number")),
    "learning_rate 'fast'": (lambda: fnn.optimizers.Adam("fast"), TypeError,
                             ("learning_rate", "got 'fast'", "number")),
    "learning_rate assigned": (
        lambda: setattr(fnn.optimizers.SGD(), "learning_rate", -0.5), ValueError,
        ("learning_rate", "got -0.5", "(0")),
    "mu 1": (lambda: fnn.optimizers.Momentum(mu=1), ValueError, ("mu", "got 1", "[0, 1)")),
    "mu -0.1": (lambda: fnn.optimizers.Nesterov(mu=-0.1), ValueError, ("mu", "got -0.1", "[0, 1)")),
    "rho 1": (lambda: fnn.optimizers.RMSProp(rho=1), ValueError, ("rho", "got 1", "[0, 1)")),
    "beta1 1": (lambda: fnn.optimizers.Adam(beta1=1.0), ValueError, ("beta1", "got 1.0", "[0, 1)")),
    "beta2 -1": (lambda: fnn.optimizers.Adam(beta2=-1), ValueError, ("beta2", "got -1", "[0, 1)")),
    "epsilon 0 of Adam": (lambda: fnn.optimizers.Adam(epsilon=0), ValueError,
                          ("epsilon", "got 0", "(0")),
    "epsilon -1 of RMSProp": (lambda: fnn.optimizers.RMSProp(epsilon=-1), ValueError,
                              ("epsilon", "got -1", "(0")),
    "epsilon NaN of AdaGrad": (lambda: fnn.optimizers.AdaGrad(epsilon=NAN), ValueError,
                               ("epsilon", "got nan", "number")),
    "weight_decay -1": (lambda: fnn.optimizers.SGD(weight_decay=-1), ValueError,
                        ("weight_decay", "got -1", "[0")),
    "weight_decay None": (lambda: fnn.optimizers.AdamW(weight_decay=None), TypeError,
                          ("weight_decay", "got None", "number")),
    "clip_value 0": (lambda: fnn.optimizers.SGD(clip_value=0), ValueError,
                     ("clip_value", "got 0", "(0")),
    "clip_norm -1": (lambda: fnn.optimizers.Adam(clip_norm=-1), ValueError,
                     ("clip_norm", "got -1", "(0")),
    "clip_global_norm NaN": (lambda: fnn.optimizers.Lion(clip_global_norm=NAN), ValueError,
                             ("clip_global_norm", "got nan", "(0")),
    "clip_norm True": (lambda: fnn.optimizers.SGD(clip_norm=True), TypeError,
                       ("clip_norm", "got True", "number")),
    "ema 1": (lambda: fnn.optimizers.SGD(ema=1), ValueError, ("ema", "got 1", "[0, 1)")),
    "ema -0.1": (lambda: fnn.optimizers.SGD(ema=-0.1), ValueError, ("ema", "got -0.1", "[0, 1)")),
    "optimizer option: near match": (
        lambda: fnn.optimizers.SGD(0.1, clipnorm=1.0), TypeError,
        ("SGD", "'clipnorm'", "Did you mean 'clip_norm'", "learning_rate, weight_decay")),
    "optimizer option: another's": (
        lambda: fnn.optimizers.Momentum(0.1, beta1=0.9), TypeError,
        ("Momentum", "'beta1'", "learning_rate, mu, weight_decay")),
    "L2 by its own name": (lambda: fnn.regularizers.L2(l2=0.1), TypeError,
                           ("l2", "'factor'")),
    "a rate by another name": (lambda: fnn.schedules.CosineDecay(learning_rate=0.1), TypeError,
                               ("cosine_decay", "'learning_rate'", "'rate'")),
    "no rate": (lambda: fnn.schedules.CosineDecay(), TypeError, ("cosine_decay", "'rate'")),
    "too many numbers": (lambda: fnn.losses.Huber(1, 2), TypeError, ("huber", "takes 1", "got 2")),
    "a number twice": (lambda: fnn.losses.Huber(1, delta=2), TypeError, ("huber", "'delta' twice")),
    "too many for leaky_relu": (lambda: fnn.activations.leaky_relu(0.1, 2), TypeError,
                                ("leaky_relu", "takes 1", "got 2")),
    "numbers for softmax": (lambda: fnn.activations.softmax(1), TypeError,
                            ("softmax", "takes 0", "got 1")),
    "constant rate 0": (lambda: fnn.schedules.Constant(0), ValueError,
                        ("learning_rate", "got 0", "(0")),
    "rate of a decay": (lambda: fnn.schedules.LinearDecay(0, 0, 5), ValueError,
                        ("rate", "got 0", "(0")),
    "final_rate of a decay": (lambda: fnn.schedules.LinearDecay(1, -1, 5), ValueError,
                              ("final_rate", "got -1", "[0")),
    "decay_steps 0": (lambda: fnn.schedules.LinearDecay(1, 0, 0), ValueError,
                      ("decay_steps", "got 0", "least 1")),
    "decay_steps 1.5": (lambda: fnn.schedules.LinearDecay(1, 0, 1.5), TypeError,
                        ("decay_steps", "got 1.5", "integer")),
    "mode": (lambda: fnn.callbacks.EarlyStopping(mode="lowest"), ValueError,
             ("mode", "'lowest'", "'min'")),
    "patience -1": (lambda: fnn.callbacks.EarlyStopping(patience=-1), ValueError,
                    ("patience", "got -1", "least 0")),
    "patience 1.5": (lambda: fnn.callbacks.EarlyStopping(patience=1.5), TypeError,
                     ("patience", "got 1.5", "integer")),
    "min_delta -1": (lambda: fnn.callbacks.EarlyStopping(min_delta=-1), ValueError,
                     ("min_delta", "got -1", "[0")),
    "monitor 3": (lambda: fnn.callbacks.EarlyStopping(monitor=3), TypeError, ("monitor", "3")),
    "seed -1": (lambda: fnn.Sequential(seed=-1), ValueError, ("seed", "got -1", "least 0")),
    "seed 0.5": (lambda: fnn.Sequential(seed=0.5), TypeError, ("seed", "got 0.5", "integer")),
    "seed 2^64": (lambda: fnn.Sequential(seed=2**64), ValueError, ("seed", str(2**64))),
    "a layer by name": (lambda: fnn.Sequential(["dense"]), TypeError,
                        ("layers", "'dense'", "Layer")),
    "a layer's class": (lambda: fnn.Sequential([L.Dense]), TypeError, ("layers", "Dense", "Layer")),
    "layers a number": (lambda: fnn.Sequential(5), TypeError, ("layers", "5", "Layer")),
    "an Input that is not first": (lambda: fnn.Sequential([L.Dense(2), fnn.Input(3)]), ValueError,
                                   ("layers", "Input", "first")),
    "two Inputs": (lambda: fnn.Sequential([fnn.Input(3), fnn.Input(3)]), ValueError,
                   ("layers", "Input", "first")),
}  # fmt: skip


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_bad_choices_are_refused_where_they_are_made(name):
    call, error, (argument, *parts) = CONSTRUCTORS[name]
    with raises(error, *parts, start=f"{argument}:"):
        call()


@pytest.mark.parametrize("size", [np.int64(4), np.uint8(4)])
def test_integers_of_numpy_are_integers(size):
    """Sizes often come out of arrays."""
    model = fnn.Sequential([fnn.Input(size), L.Dense(size)])
    model.compile("mean_squared_error", threads=np.int32(1))
    model.fit(rows(), numbers(outputs=4), batch_size=np.int16(5), epochs=np.int64(2), verbose=0)
    assert model.predict(rows()).shape == (N, 4)


@pytest.mark.parametrize("dtype", [np.dtype("float32"), np.float64])
def test_dtypes_of_numpy_are_refused_or_work(dtype):
    """An object that equals a name must not be let in and then fail later."""
    model = fnn.Sequential([fnn.Input(4), L.Dense(1)])
    try:
        model.compile("mean_squared_error", dtype=dtype)
    except (TypeError, ValueError) as error:
        assert "dtype" in str(error) and "float32" in str(error)
    else:
        model.fit(rows(), numbers(), verbose=0)
        assert model.predict(rows()).dtype == dtype


# ---- the wrong order ----------------------------------------------------------------------------


@pytest.mark.parametrize("first", [[fnn.Input(FEATURES)], []], ids=["input", "no input"])
@pytest.mark.parametrize(
    "method", ["fit", "evaluate", "train_on_batch", "loss_and_gradients", "profile"]
)
def test_training_before_compile(first, method):
    model = fnn.Sequential([*first, L.Dense(CLASSES, "softmax")])
    with raises(RuntimeError, "not compiled", "compile(loss="):
        getattr(model, method)(rows(), classes())
    model.compile("cross_entropy")
    model.fit(rows(), classes(), verbose=0)


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.predict(rows()),
        lambda m: m.summary(),
        lambda m: m.explain(),
        lambda m: m.parameters,
        lambda m: m.get_weights(),
        lambda m: m.set_weights([]),
        lambda m: m.count_parameters(),
    ],
)
def test_looking_before_building(call):
    model = fnn.Sequential([L.Dense(CLASSES, "softmax")])
    model.compile("cross_entropy")
    with raises(RuntimeError, "not built", "build(shape)"):
        call(model)
    model.fit(rows(), classes(), verbose=0)
    call_works = SimpleNamespace(shape=model.predict(rows()).shape)
    assert call_works.shape == (N, CLASSES)


@pytest.mark.parametrize(
    "X, y",
    [
        (rows(features=3), classes(5)),
        (rows(features=3), classes() + 7),
        (rows(features=3), ["cat"] * N),
        (spoiled(rows(features=3), NAN), classes()),
        (rows(features=3), None),
    ],
    ids=["length", "labels", "strings", "NaN", "no y"],
)
def test_data_that_are_refused_do_not_decide_the_shape_of_a_model(X, y):
    """A model without Input takes its shape from the first data that are good."""
    model = fnn.Sequential([L.Dense(CLASSES, "softmax")])
    model.compile("cross_entropy")
    with pytest.raises((ValueError, TypeError), match=r"^(X|y):"):
        model.fit(X, y, verbose=0)
    model.fit(rows(), classes(), verbose=0)
    assert model.predict(rows()).shape == (N, CLASSES)


@pytest.mark.parametrize(
    "X, kind, parts",
    [
        (rows()[:, 0], ValueError, ("X", "(20,)", "(n, ...)")),
        (rows(0), ValueError, ("X", "empty", "(0, 4)")),
        (rows(features=0), ValueError, ("X", "empty", "(20, 0)")),
        (rows().astype(str), TypeError, ("X", "numbers", "<U")),
        (3.0, ValueError, ("X", "()", "(n, ...)")),
    ],
    ids=["1-D", "no rows", "no features", "strings", "number"],
)
def test_bad_first_data_of_a_model_without_input(X, kind, parts):
    model = fnn.Sequential([L.Dense(CLASSES, "softmax")])
    model.compile("cross_entropy")
    with raises(kind, *parts):
        model.fit(X, classes(len(X) if np.ndim(X) else 1), verbose=0)
    model.fit(rows(), classes(), verbose=0)


@pytest.mark.parametrize("first", [[fnn.Input((2, 2))], []], ids=["input", "no input"])
def test_dense_on_images_asks_for_flatten(first):
    model = fnn.Sequential([*first, L.Dense(CLASSES, "softmax")])
    model.compile("cross_entropy")
    with raises(ValueError, "layer 0", "Dense", "(2, 2)", "(inputs,)", "Flatten()"):
        model.fit(rows().reshape(N, 2, 2), classes(), verbose=0)
    if not first:
        model.fit(rows(), classes(), verbose=0)


def test_a_model_without_layers():
    model = fnn.Sequential()
    model.compile("mean_squared_error")
    with raises(ValueError, "layers", "no layers"):
        model.fit(rows(), numbers(), verbose=0)
    model.add(L.Dense(1))
    model.fit(rows(), numbers(), verbose=0)


@pytest.mark.parametrize("y", [np.zeros(N, int), np.ones((N, 1))], ids=["labels", "numbers"])
def test_cross_entropy_of_one_output_points_to_the_binary_one(y):
    model = chain(L.Dense(1, "softmax"), loss="cross_entropy")
    with raises(ValueError, "loss", "cross_entropy", "at least 2 outputs", "has 1",
                "binary_cross_entropy"):  # fmt: skip
        model.fit(rows(), y, verbose=0)


@pytest.mark.parametrize("metric", ["mean_squared_error", "mean_absolute_error"])
def test_errors_of_class_labels_are_no_metric(metric):
    model = chain(L.Dense(CLASSES, "softmax"), loss="cross_entropy", metrics=[metric])
    with raises(ValueError, "metrics", metric, "labels"):
        model.fit(rows(), classes(), verbose=0)
    model.fit(rows(), np.eye(CLASSES)[classes()], verbose=0)


@pytest.mark.parametrize(
    "monitor, parts",
    [
        ("val_loss", ("monitor", "'val_loss'", "loss, accuracy", "validation data")),
        ("acuracy", ("monitor", "'acuracy'", "Did you mean 'accuracy'")),
    ],
)
def test_a_quantity_that_is_not_there_cannot_be_monitored(monitor, parts):
    model = classifier()
    with raises(ValueError, *parts):
        monitoring(monitor=monitor)(model, (rows(), classes()))
    assert model.history.epoch == [0]  # found out at the end of the first epoch
    assert np.isfinite(model.parameters).all()
    model.fit(rows(), classes(), verbose=0)


def test_an_activation_that_does_not_exist_is_no_attribute():
    with pytest.raises(AttributeError, match="rely"):
        _ = fnn.activations.rely


@pytest.mark.parametrize(
    "options, parts",
    [
        ({"constraint": fnn.constraints.MaxNorm(2)}, ("MaxNorm", "(inputs, units)", "(4,)")),
        ({"regularizer": fnn.regularizers.Orthogonality()}, ("Orthogonality", "(4,)")),
    ],
    ids=["constraint", "penalty"],
)
def test_what_cannot_be_asked_of_a_weight_of_a_layer_of_ones_own(options, parts):
    class Scale(L.Layer):
        def weights(self, input_shape):
            return [L.Weight("scale", input_shape, fnn.initializers.Ones(), **options)]

        def emit(self, graph, x, weights, training):
            return graph.emit("affine", x, weights[0], None)[0]

    model = fnn.Sequential([fnn.Input(FEATURES), Scale(), L.Dense(1)])
    model.compile("mean_squared_error")
    with raises(ValueError, *parts, "scale"):
        model.fit(rows(), numbers(), verbose=0)


def test_base_classes_say_what_is_missing():
    with raises(TypeError, "Mine", "emit()"):
        chain(L.Dense(1), loss=type("Mine", (fnn.losses.Loss,), {"name": "mine"})()).fit(
            rows(), numbers(), verbose=0
        )
