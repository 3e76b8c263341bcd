"""Several models that answer together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from . import checks
from .model import Model
from .validation import as_rows, new_models


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
                chain, _ = model._need()
            except RuntimeError as error:
                raise RuntimeError(f"models[{i}]: {error}") from None
            shapes.append((chain.input_shape, chain.output_shape))
            if shapes[i] != shapes[0]:
                raise ValueError(
                    f"models[{i}]: expected inputs {shapes[0][0]} and outputs {shapes[0][1]} as "
                    f"those of models[0], got {shapes[i][0]} and {shapes[i][1]}"
                )

    def predict(self, X: Any, *, batch_size: int | None = None) -> np.ndarray:
        """Mean of the members' outputs, (n, outputs).

        Parameters
        ----------
        X, batch_size
            As for ``Model.predict``.
        """
        total: Any = 0.0
        for model in self.models:
            outputs = model.predict(X, batch_size=batch_size)
            total = total + outputs.astype(np.float64)
        return (total / len(self.models)).astype(outputs.dtype)

    def __repr__(self) -> str:
        return f"<Ensemble of {len(self.models)} models>"


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
    data = as_rows(X, y, sample_weight)
    n = len(data)
    seeds = [int(raw) for raw in np.random.PCG64(seed).random_raw(members)]
    models = []
    for own_seed, model in zip(seeds, new_models(make_model, [(s,) for s in seeds]), strict=True):
        drawn = np.random.PCG64(own_seed).random_raw(n) % np.uint64(n)
        sample = data.take(drawn.astype(np.int64))
        model.fit(sample.x, sample.y, sample_weight=sample.w, **fit_options)
        models.append(model)
    return Ensemble(models)
