"""fastnn: neural networks trained at the speed of the machine's arithmetic.

>>> import fastnn as fnn
>>> (X, y), (X_test, y_test) = fnn.datasets.load_digits()
>>> model = fnn.Sequential([
...     fnn.layers.Rescaling(1 / 16),
...     fnn.layers.Dense(64, activation="relu"),
...     fnn.layers.Dense(10, activation="softmax"),
... ], seed=0)
>>> model.compile(loss="cross_entropy", optimizer="adam", metrics=["accuracy"])
>>> history = model.fit(X, y, epochs=30, verbose=0)
>>> model.evaluate(X_test, y_test)["accuracy"] > 0.95
True
"""

from . import (
    activations,
    callbacks,
    constraints,
    custom,
    datasets,
    ensembles,
    full_batch,
    initializers,
    inspection,
    layers,
    losses,
    metrics,
    optimizers,
    plots,
    regularizers,
    schedules,
    validation,
)
from ._version import __version__
from .callbacks import History
from .checking import check_gradients
from .layers import Input
from .layers.merging import average, concatenate, maximum, minimum
from .many import fit_many
from .model import Model, Sequential
from .scaling import lsuv
from .training import NonFiniteLoss
from .tuning import tune

__all__ = [
    "History",
    "Input",
    "Model",
    "NonFiniteLoss",
    "Sequential",
    "__version__",
    "activations",
    "average",
    "callbacks",
    "check_gradients",
    "concatenate",
    "constraints",
    "custom",
    "datasets",
    "ensembles",
    "fit_many",
    "full_batch",
    "initializers",
    "inspection",
    "layers",
    "losses",
    "lsuv",
    "maximum",
    "metrics",
    "minimum",
    "optimizers",
    "plots",
    "regularizers",
    "schedules",
    "tune",
    "validation",
]
