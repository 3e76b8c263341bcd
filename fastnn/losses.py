"""Losses. The loss of a batch is the sum over its rows of weight times loss, divided by the rows.

A row's weight is 1, or its sample weight, or the weight of its class. Dividing by the number of
rows and not by the sum of the weights is what Keras does (``sum_over_batch_size``); PyTorch divides
by the sum of the class weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import checks, formulas
from .compiler import Graph, Target, Tensor
from .kernels.formula import FORMULAS, Formula
from .lookup import camel_case, resolve


class Loss:
    """Base: ``targets`` checks and converts what the user compares with; ``emit`` the ops."""

    name: str
    functions: tuple[str, ...] = ()  # the scalar formulas that it stands for

    @property
    def threshold(self) -> float:
        """Outputs above it mean yes, where targets are yes or no."""
        return 0.5

    def targets(self, y: np.ndarray, units: int, dtype: str) -> np.ndarray:
        """Targets for ``units`` outputs: labels int32 (n,), or numbers (n, units)."""
        return checks.numbers("y", y, units, dtype)

    def class_labels(self, targets: np.ndarray) -> np.ndarray:
        """The class of each row, for class weights."""
        raise ValueError(f"class_weight: the loss {self.name!r} has no classes")

    def emit(
        self, graph: Graph, prediction: Tensor, target: Target, weights: Tensor | None
    ) -> Tensor:
        """Emit the loss of each row."""
        raise TypeError(f"{type(self).__name__} does not define emit()")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class PointwiseLoss(Loss):
    """A loss that is the mean over the outputs of a scalar formula l(y, t)."""

    name: str
    parameters: tuple[float, ...] = ()

    @property
    def function(self) -> str:
        """Name of the formula in use."""
        return self.functions[0]

    @property
    def formula(self) -> Formula:
        """The scalar formula."""
        return FORMULAS["loss"][self.function]

    @property
    def threshold(self) -> float:
        """Outputs above it mean yes, where targets are yes or no."""
        on_scores = self.formula.targets in ("shares", "signs") and self.formula.domain[0] < 0
        return 0.0 if on_scores else 0.5

    def targets(self, y: np.ndarray, units: int, dtype: str) -> np.ndarray:
        targets = checks.numbers("y", y, units, dtype)
        kind = self.formula.targets
        low, high = targets.min(), targets.max()
        if kind == "counts" and low < 0:
            raise ValueError(f"y: targets of {self.name} are at least 0, got {low}")
        if kind == "shares" and (low < 0 or high > 1):
            wrong = low if low < 0 else high
            raise ValueError(f"y: targets of {self.name} are in [0, 1], got {wrong}")
        if kind == "signs":
            wrong = targets[~np.isin(targets, (-1, 0, 1))]
            if wrong.size or (low < 0 and not targets.all()):
                raise ValueError(
                    f"y: targets of {self.name} are -1 and 1, or 0 and 1, got "
                    f"{wrong[0] if wrong.size else '-1 and 0'}"
                )
            if low >= 0:
                targets = 2 * targets - 1
        return targets

    def class_labels(self, targets: np.ndarray) -> np.ndarray:
        if self.formula.targets not in ("shares", "signs") or targets.shape[1] != 1:
            return super().class_labels(targets)
        middle = 0.5 if self.formula.targets == "shares" else 0.0
        return (targets[:, 0] > middle).astype(np.int32)

    def emit(
        self, graph: Graph, prediction: Tensor, target: Target, weights: Tensor | None
    ) -> Tensor:
        rows, _ = graph.emit(
            "pointwise_loss",
            prediction,
            None,
            target.targets,
            weights,
            function=self.function,
            parameters=self.parameters,
        )
        return rows

    def __repr__(self) -> str:
        return f"{type(self).__name__}({formulas.describe(self.formula, self.parameters)})"


class MeanSquaredError(PointwiseLoss):
    """Mean over the outputs of (y - t)^2; y and t of shape (n, outputs).

    The textbook's E = 1/2 sum (y - t)^2 is outputs / 2 times this.

    Source: Bishop, Pattern Recognition and Machine Learning, section 3.1.1.
    """

    functions = ("squared_error",)
    name = "mean_squared_error"


class MeanAbsoluteError(PointwiseLoss):
    """Mean over the outputs of |y - t|; y and t of shape (n, outputs).

    Source: Bishop, Pattern Recognition and Machine Learning, section 1.5.5.
    """

    functions = ("absolute_error",)
    name = "mean_absolute_error"


class CrossEntropy(Loss):
    """-sum t log p over the classes; integer labels (n,) or one-hot (or soft) targets (n, classes).

    With a softmax output the two become one op on the logits, log(sum exp z) - z_label, which
    neither overflows nor loses precision; its gradient by the logits is p - t.

    Parameters
    ----------
    from_logits
        The model's output is the logits z: apply the softmax in the loss.

    Source: Bishop, Pattern Recognition and Machine Learning, equation 4.108.
    """

    name = "cross_entropy"

    def __init__(self, from_logits: bool = False) -> None:
        self.from_logits = bool(from_logits)

    def targets(self, y: np.ndarray, units: int, dtype: str) -> np.ndarray:
        if units < 2:
            raise ValueError(
                f"loss: cross_entropy needs at least 2 outputs, the model has {units}; for one "
                "output of a yes-or-no question use 'binary_cross_entropy'"
            )
        if y.ndim == 1 or (y.ndim == 2 and y.shape[1] == 1):
            return checks.labels("y", y, units)
        targets = checks.numbers("y", y, units, dtype)
        if targets.min() < 0:
            raise ValueError(f"y: one-hot targets are at least 0, got {targets.min()}")
        sums = targets.sum(axis=1)
        if not np.allclose(sums, 1, atol=1e-3):
            row = int(np.abs(sums - 1).argmax())
            raise ValueError(f"y: one-hot rows sum to 1, row {row} sums to {sums[row]:g}")
        return targets

    def class_labels(self, targets: np.ndarray) -> np.ndarray:
        return targets if targets.ndim == 1 else targets.argmax(axis=1)

    def emit(
        self, graph: Graph, prediction: Tensor, target: Target, weights: Tensor | None
    ) -> Tensor:
        operands = prediction, target.labels, target.targets, weights
        if self.from_logits:
            return graph.emit("softmax_cross_entropy", *operands)[0]
        # Probabilities of zero are taken for the smallest that float32 tells from it near one.
        return graph.emit("cross_entropy", *operands, floor=1e-7)[0]

    def __repr__(self) -> str:
        return f"CrossEntropy(from_logits={self.from_logits})"


class BinaryCrossEntropy(PointwiseLoss):
    """Mean over the outputs of -t log p - (1 - t) log(1 - p); t in [0, 1], (n,) or (n, outputs).

    With a sigmoid output the two become one op on the logits z, max(z, 0) - z t + log(1 + e^-|z|);
    its gradient by the logits is p - t. Several outputs are several yes-or-no questions.

    Parameters
    ----------
    from_logits
        The model's output is the logits z: apply the sigmoid in the loss.

    Source: Bishop, Pattern Recognition and Machine Learning, equation 4.90.
    """

    name = "binary_cross_entropy"
    functions = ("binary_cross_entropy", "sigmoid_cross_entropy")

    def __init__(self, from_logits: bool = False) -> None:
        self.from_logits = bool(from_logits)

    @property
    def function(self) -> str:
        return self.functions[self.from_logits]

    def __repr__(self) -> str:
        return f"BinaryCrossEntropy(from_logits={self.from_logits})"


def _class_of(formula: Formula) -> type[PointwiseLoss]:
    """The loss class of a formula that needs nothing but its parameters."""

    def __init__(self: PointwiseLoss, **given: float) -> None:
        self.parameters = formulas.parameters(formula, given)

    name = camel_case(formula.name)
    contents = {
        "__init__": __init__,
        "__doc__": f"Mean over the outputs of {formulas.documentation(formula)}",
        "__module__": __name__,
        "functions": (formula.name,),
        "name": formula.name,
    }
    return type(name, (PointwiseLoss,), contents)


_WRITTEN: tuple[type[Loss], ...] = (
    MeanSquaredError,
    MeanAbsoluteError,
    CrossEntropy,
    BinaryCrossEntropy,
)
_COVERED = {name for c in _WRITTEN for name in c.functions}

#: Name -> class, of everything a user can name; a class for each formula that has none above.
LOSSES: dict[str, type[Loss]] = {c.name: c for c in _WRITTEN} | {
    name: _class_of(formula)
    for name, formula in FORMULAS["loss"].items()
    if name not in _COVERED and "derivative" in formula.companions
}
globals().update({c.__name__: c for c in LOSSES.values()})


def get(value: Any) -> Loss:
    """The loss that a name or object stands for."""
    return resolve("loss", value, LOSSES, Loss)


if TYPE_CHECKING:  # classes made above

    def __getattr__(name: str) -> type[PointwiseLoss]: ...
