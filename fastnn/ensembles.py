"""Several models that answer together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import numpy as np

from . import checks
from .model import Model
from .validation import arguments, as_rows, new_models


class Ensemble:
    """Models whose predictions are averaged.

    The squared error of the average is at most the average of the members' squared errors, and the
    less the more they disagree; so is the cross-entropy of averaged probabilities.

    Parameters
    ----------
    models
        Built and compiled models, with inputs and outputs of the same shapes.

    Attributes
    ----------
    models
        The members, in order.

    Raises
    ------
    TypeError, ValueError
        No models, or they differ in their inputs or outputs.
    RuntimeError
        A model is not compiled or not built.

    Source: Hansen & Salamon, Neural network ensembles (1990); Krogh & Vedelsby, Neural network
    ensembles, cross validation, and active learning, NIPS 1994.

    Examples
    --------
    >>> import numpy as np, fastnn as fnn
    >>> members = [fnn.Sequential([fnn.Input(3), fnn.layers.Dense(2)], seed=s) for s in (0, 1)]
    >>> for model in members:
    ...     model.compile("mean_squared_error")
    >>> Ensemble(members).predict(np.ones((5, 3))).shape
    (5, 2)
    """

    def __init__(self, models: Iterable[Model]) -> None:
        if not isinstance(models, Iterable):
            raise TypeError(f"models: expected a list of Model objects, got {models!r}")
        self.models = tuple(models)
        if not self.models:
            raise ValueError("models: expected at least one Model, got none")
        shapes = []
        for i, model in enumerate(self.models):
            if not isinstance(model, Model):
                raise TypeError(f"models[{i}]: expected a Model, got {model!r}")
            try:
                shapes.append(_shapes(model))
            except RuntimeError as error:
                raise RuntimeError(f"models[{i}]: {error}") from None
            if shapes[i] != shapes[0]:
                raise ValueError(
                    f"models[{i}]: expected inputs {shapes[0][0]} and outputs {shapes[0][1]} as "
                    f"those of models[0], got {shapes[i][0]} and {shapes[i][1]}"
                )

    def predict(self, X: Any, *, batch_size: int | None = None) -> Any:
        """Mean of the members' outputs, (n, outputs), or of each of several.

        Parameters
        ----------
        X, batch_size
            As for ``Model.predict``.
        """
        totals: dict[Any, Any] = {}
        for model in self.models:
            made = model.predict(X, batch_size=batch_size)
            outputs = dict(enumerate(made)) if isinstance(made, list) else made
            outputs = outputs if isinstance(outputs, dict) else {0: outputs}
            for name, output in outputs.items():
                totals[name] = totals.get(name, 0.0) + output.astype(np.float64)
        count = len(self.models)
        means = {name: (t / count).astype(outputs[name].dtype) for name, t in totals.items()}
        if isinstance(made, dict):
            return means
        return list(means.values()) if isinstance(made, list) else means[0]

    def __repr__(self) -> str:
        return f"<Ensemble of {len(self.models)} models>"


def _shapes(model: Model) -> tuple[str, str]:
    """What goes in and what comes out, for comparisons and messages."""
    network, _ = model._need()
    outputs = map(str, network.output_shapes)
    if model._named_outputs:
        outputs = map(" ".join, zip(model._output_names, outputs, strict=True))
    return ", ".join(map(str, network.input_shapes)), ", ".join(outputs)


def bagging(
    make_model: Callable[[int], Model],
    X: Any,
    y: Any,
    *,
    members: int = 10,
    seed: int = 0,
    sample_weight: Any = None,
    **fit_options: Any,
) -> Ensemble:
    """Train each member of an ensemble on a bootstrap sample: n rows drawn with replacement.

    Averaging takes away most of what a model owes to the rows that it happened to be given, so it
    helps those most that change much with their data.

    Parameters
    ----------
    make_model
        Takes a seed, for ``Sequential(..., seed=seed)``, and returns a new compiled model at each
        call.
    X, y, sample_weight
        Data as for ``fit``.
    members
        Number of models.
    seed
        Of the members' seeds, which the bootstrap samples are drawn from too.
    **fit_options
        Passed on to ``fit``; instead of ``validation_split`` use ``validation_data``.

    Raises
    ------
    ValueError, TypeError
        Data or options that do not fit, or a ``make_model`` that does not make new models.

    Source: Breiman, Bagging predictors, Machine Learning 24 (1996).

    Examples
    --------
    >>> import numpy as np, fastnn as fnn
    >>> def make(seed):
    ...     model = fnn.Sequential(
    ...         [fnn.layers.Dense(16, "tanh"), fnn.layers.Dense(1)], seed=seed
    ...     )
    ...     model.compile("mean_squared_error", fnn.optimizers.Adam(0.01))
    ...     return model
    >>> X = np.linspace(-1, 1, 50)[:, None]
    >>> y = X**2 + np.random.default_rng(0).normal(0, 0.1, X.shape)
    >>> ensemble = bagging(make, X, y, members=5, epochs=200, verbose=0)
    >>> bool(np.abs(ensemble.predict(X) - X**2).mean() < 0.1)
    True
    """
    checks.positive_int("members", members)
    checks.positive_int("seed", seed, least=0)
    if fit_options.get("validation_split"):
        raise ValueError(
            "validation_split: a bootstrap sample repeats rows, which would be on both sides; "
            f"expected validation_data, got {fit_options['validation_split']!r}"
        )
    seeds = [int(raw) for raw in np.random.PCG64(seed).random_raw(members)]
    made = new_models(make_model, [(s,) for s in seeds])
    first = next(made)
    data = as_rows(X, y, sample_weight, first)
    n = len(data)
    models = []
    for own_seed, model in zip(seeds, chain([first], made), strict=True):
        drawn = np.random.PCG64(own_seed).random_raw(n) % np.uint64(n)
        model.fit(**arguments(data.take(drawn.astype(np.int64))), **fit_options)
        models.append(model)
    return Ensemble(models)
