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
    takes_labels = False  # class numbers are welcome as targets
    of_classes = False  # the largest output is the answer

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
            mean=True,
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


def _expect_probabilities(graph: Graph, prediction: Tensor, loss: Loss, **advice: str) -> None:
    """Raise a ValueError where an output is made by an op that makes none: training would go on,
    without a sign of it, to losses that mean nothing."""
    node = graph.producer(prediction)
    if node is None or node.attrs.get("function", "identity") != "identity":
        return
    if node.op.name in advice:
        made = "without an activation" if node.op.name == "dense" else f"of {node.op.name}"
        raise ValueError(
            f"loss: {loss.name} expects probabilities, the model's output is {made}; "
            f"{advice[node.op.name]}"
        )


#: What to do about outputs that are no probabilities of classes.
_INSTEAD = {
    "dense": "make it 'softmax', or take CrossEntropy(from_logits=True)",
    "log_softmax": "take 'negative_log_likelihood'",
}


class CrossEntropy(Loss):
    """-sum t log p over the classes; integer labels (n,) or one-hot (or soft) targets (n, classes).

    With a softmax output the two become one op on the logits, log(sum exp z) - z_label, which
    neither overflows nor loses precision; its gradient by the logits is p - t.

    Parameters
    ----------
    from_logits
        The model's output is the logits z: apply the softmax in the loss.
    label_smoothing
        Share s in [0, 1) of each target that goes to all classes alike: t (1 - s) + s / classes.
        Integer labels become rows of numbers for it.

    Source: Bishop, Pattern Recognition and Machine Learning, equation 4.108; Szegedy et al.,
    Rethinking the Inception architecture, CVPR 2016, section 7 (smoothing).
    """

    name = "cross_entropy"
    takes_labels = of_classes = True

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0) -> None:
        self.from_logits = bool(from_logits)
        self.label_smoothing = checks.number(
            "label_smoothing", label_smoothing, 0, 1, open_high=True
        )
        self.takes_labels = not self.label_smoothing

    def targets(self, y: np.ndarray, units: int, dtype: str) -> np.ndarray:
        targets = self._class_targets(y, units, dtype)
        share = self.label_smoothing
        if not share:
            return targets
        if targets.ndim == 1:
            targets = np.eye(units, dtype=dtype)[targets]
        return targets * targets.dtype.type(1 - share) + targets.dtype.type(share / units)

    def _class_targets(self, y: np.ndarray, units: int, dtype: str) -> np.ndarray:
        if units < 2:
            raise ValueError(
                f"loss: {self.name} needs at least 2 outputs, the model has {units}; for one "
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
            return graph.emit("softmax_cross_entropy", *operands, divergence=False)[0]
        _expect_probabilities(graph, prediction, self, **_INSTEAD)
        # Probabilities of zero are taken for the smallest that float32 tells from it near one.
        return graph.emit("cross_entropy", *operands, floor=1e-7)[0]

    def __repr__(self) -> str:
        smoothing = f", label_smoothing={self.label_smoothing:g}" if self.label_smoothing else ""
        return f"CrossEntropy(from_logits={self.from_logits}{smoothing})"


class _OfClasses(CrossEntropy):
    """What losses of classes share: labels or one-hot rows as targets, and no options."""

    def __init__(self) -> None:
        super().__init__()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class NegativeLogLikelihood(_OfClasses):
    """-sum t l over the classes, for outputs l that are log-probabilities: those of log_softmax.

    With a ``log_softmax`` output the two become one op on the logits, the same as the softmax and
    `CrossEntropy` become.

    Source: Bishop, Pattern Recognition and Machine Learning, equation 4.108.
    """

    name = "negative_log_likelihood"

    def emit(
        self, graph: Graph, prediction: Tensor, target: Target, weights: Tensor | None
    ) -> Tensor:
        operands = prediction, target.labels, target.targets, weights
        return graph.emit("negative_log_likelihood", *operands)[0]


class KLDivergence(_OfClasses):
    """sum t log(t / p) over the classes: what an observer who expects p learns from t.

    Its gradient is that of `CrossEntropy`, from which it differs by the entropy of the targets; for
    integer labels that is 0. With a softmax output the two become one op on the logits.

    Source: Kullback & Leibler, On information and sufficiency (1951).
    """

    name = "kl_divergence"
    functions = ("kl_divergence",)

    def emit(
        self, graph: Graph, prediction: Tensor, target: Target, weights: Tensor | None
    ) -> Tensor:
        if target.labels is not None:
            return super().emit(graph, prediction, target, weights)
        _expect_probabilities(graph, prediction, self, **_INSTEAD)
        return graph.emit(
            "pointwise_loss", prediction, None, target.targets, weights,
            function="kl_divergence", parameters=(), mean=False,
        )[0]  # fmt: skip


class MulticlassHinge(_OfClasses):
    """sum over the wrong classes of max(0, margin + z - z_right), of outputs z that are scores.

    All wrong classes that are too close count (Weston & Watkins), not only the closest (Crammer &
    Singer; Keras's categorical hinge). PyTorch divides the sum by the number of classes.

    Parameters
    ----------
    margin
        By how much the right class is to lead, > 0.

    Source: Weston & Watkins, Support vector machines for multi-class pattern recognition (1999).
    """

    name = "multiclass_hinge"
    squared = False

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = checks.number("margin", margin, 0, open_low=True)

    def emit(
        self, graph: Graph, prediction: Tensor, target: Target, weights: Tensor | None
    ) -> Tensor:
        operands = prediction, target.labels, target.targets, weights
        return graph.emit("multiclass_hinge", *operands, margin=self.margin, squared=self.squared)[
            0
        ]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(margin={self.margin:g})"


class SquaredMulticlassHinge(MulticlassHinge):
    """sum over the wrong classes of max(0, margin + z - z_right)^2, of outputs z that are scores.

    Parameters
    ----------
    margin
        By how much the right class is to lead, > 0.

    Source: Tang, Deep learning using linear support vector machines (2013).
    """

    name = "squared_multiclass_hinge"
    squared = True


class CosineProximity(Loss):
    """Minus the cosine of the angle between the outputs and the targets, both (n, outputs).

    It is between -1 (the same direction) and 1. Lengths do not matter; those below 1e-7 count as
    1e-7.

    Source: Singhal, Modern information retrieval: a brief overview (2001).
    """

    name = "cosine_proximity"

    def emit(
        self, graph: Graph, prediction: Tensor, target: Target, weights: Tensor | None
    ) -> Tensor:
        return graph.emit("cosine_proximity", prediction, None, target.targets, weights)[0]


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

    def emit(
        self, graph: Graph, prediction: Tensor, target: Target, weights: Tensor | None
    ) -> Tensor:
        if not self.from_logits:
            advice = "make it 'sigmoid', or take BinaryCrossEntropy(from_logits=True)"
            _expect_probabilities(graph, prediction, self, dense=advice)
        return super().emit(graph, prediction, target, weights)

    def __repr__(self) -> str:
        return f"BinaryCrossEntropy(from_logits={self.from_logits})"


def class_of(formula: Formula, name: str) -> type[PointwiseLoss]:
    """The loss class of a formula that needs nothing but its parameters."""

    def __init__(self: PointwiseLoss, *values: float, **given: float) -> None:
        self.parameters = formulas.parameters(formula, formulas.named(formula, values, given))

    contents = {
        "__init__": __init__,
        "__signature__": formulas.signature(formula),
        "__doc__": f"Mean over the outputs of {formulas.documentation(formula)}",
        "__module__": __name__,
        "functions": (formula.name,),
        "name": name,
    }
    return type(camel_case(name), (PointwiseLoss,), contents)


_WRITTEN: tuple[type[Loss], ...] = (
    MeanSquaredError,
    MeanAbsoluteError,
    CrossEntropy,
    BinaryCrossEntropy,
    NegativeLogLikelihood,
    KLDivergence,
    MulticlassHinge,
    SquaredMulticlassHinge,
    CosineProximity,
)
_COVERED = {name for c in _WRITTEN for name in c.functions}

#: Name -> class, of everything a user can name; a class for each formula that has none above.
LOSSES: dict[str, type[Loss]] = {c.name: c for c in _WRITTEN} | {
    name: class_of(formula, name)
    for name, formula in FORMULAS["loss"].items()
    if name not in _COVERED and "derivative" in formula.companions
}
globals().update({c.__name__: c for c in LOSSES.values()})


#: Other names that the field uses. Labels or one-hot rows: the targets show which they are.
ALIASES = {
    "categorical_cross_entropy": "cross_entropy",
    "sparse_categorical_cross_entropy": "cross_entropy",
    "categorical_crossentropy": "cross_entropy",
    "sparse_categorical_crossentropy": "cross_entropy",
    "binary_crossentropy": "binary_cross_entropy",
    "mse": "mean_squared_error",
    "mae": "mean_absolute_error",
    "kullback_leibler_divergence": "kl_divergence",
    "nll": "negative_log_likelihood",
}


def get(value: Any) -> Loss:
    """The loss that a name or object stands for."""
    if isinstance(value, str):
        value = ALIASES.get(value, value)
    return resolve("loss", value, LOSSES, Loss)


if TYPE_CHECKING:  # classes made above

    def __getattr__(name: str) -> type[PointwiseLoss]: ...
