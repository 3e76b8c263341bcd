"""Metrics: reported beside the loss, averaged over the rows, never weighted."""

from __future__ import annotations

from typing import Any

from . import formulas
from .compiler import Graph, Target, Tensor
from .kernels.formula import FORMULAS, Formula
from .lookup import camel_case, resolve


class Metric:
    """Base: ``emit`` puts the op that computes one number per row on the graph."""

    name: str

    def emit(self, graph: Graph, prediction: Tensor, target: Target, loss: Any) -> Tensor:
        """Emit the metric of each row."""
        raise TypeError(f"{type(self).__name__} does not define emit()")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Accuracy(Metric):
    """Share of right answers.

    With cross-entropy a row is right when its largest output is that of its class. With one output
    or with binary cross-entropy an output is right when it is on the target's side of 1/2 (of 0
    for logits), and a row counts by its share of right outputs.
    """

    name = "accuracy"

    def emit(self, graph: Graph, prediction: Tensor, target: Target, loss: Any) -> Tensor:
        if target.labels is not None or loss.of_classes:
            (rows,) = graph.emit("accuracy", prediction, target.labels, target.targets)
            return rows
        return _pointwise(graph, "binary_match", prediction, target, (loss.threshold,))


class _Pointwise(Metric):
    function: str
    parameters: tuple[float, ...] = ()

    def emit(self, graph: Graph, prediction: Tensor, target: Target, loss: Any) -> Tensor:
        if target.targets is None:
            raise ValueError(
                f"metrics: {self.name!r} compares numbers, but the targets are class labels; "
                "give one-hot targets, or leave it out"
            )
        return _pointwise(graph, self.function, prediction, target, self.parameters)

    def __repr__(self) -> str:
        formula = FORMULAS["loss"][self.function]
        return f"{type(self).__name__}({formulas.describe(formula, self.parameters)})"


def _pointwise(
    graph: Graph, function: str, prediction: Tensor, target: Target, parameters: tuple
) -> Tensor:
    rows, _ = graph.emit(
        "pointwise_loss",
        prediction,
        None,
        target.targets,
        None,
        outputs=(True, False),
        function=function,
        parameters=parameters,
        mean=True,
    )
    return rows


class MeanSquaredError(_Pointwise):
    """Mean over the outputs of (y - t)^2."""

    name = "mean_squared_error"
    function = "squared_error"


class MeanAbsoluteError(_Pointwise):
    """Mean over the outputs of |y - t|."""

    name = "mean_absolute_error"
    function = "absolute_error"


def class_of(formula: Formula, name: str) -> type[Metric]:
    """The metric class of a formula."""

    def __init__(self: _Pointwise, *values: float, **given: float) -> None:
        self.parameters = formulas.parameters(formula, formulas.named(formula, values, given))

    contents = {
        "__init__": __init__,
        "__signature__": formulas.signature(formula),
        "__doc__": f"Mean over the outputs of {formulas.documentation(formula)}",
        "__module__": __name__,
        "function": formula.name,
        "name": name,
    }
    return type(camel_case(name), (_Pointwise,), contents)


#: Name -> class, of everything a user can name.
METRICS: dict[str, type[Metric]] = {
    c.name: c for c in (Accuracy, MeanSquaredError, MeanAbsoluteError)
}

#: Other names that the field uses.
ALIASES = {"acc": "accuracy", "mse": "mean_squared_error", "mae": "mean_absolute_error"}


def get(value: Any) -> Metric:
    """The metric that a name or object stands for."""
    if isinstance(value, str):
        value = ALIASES.get(value, value)
    return resolve("metrics", value, METRICS, Metric)
