"""Normalization: over the rows of a batch, over the numbers of a row, and of weights."""

from __future__ import annotations

import numpy as np

from ..op import count, op
from .formulas import apply


def _matrix(d, attrs, binding):
    return d["B"], d["F"]


def _passes(n):
    return lambda d: float(n * count(d, "B", "F"))


# ------------------------------------------------------------------ y = scale x + shift, by columns


def _affine_gradient(graph, node, dy):
    x, scale, shift = node.inputs
    dx = dy
    if scale is not None and graph.needs_gradient(x):
        (dx,) = graph.emit("affine", dy, scale, None)
    wanted = tuple(t is not None and graph.needs_gradient(t) for t in (scale, shift))
    if not any(wanted):
        return dx, None, None
    return dx, *graph.emit("affine_dw", x, dy, outputs=wanted)


@op(
    "x[B,F] scale?[F] shift?[F] -> y[B,F]",
    sizes=_matrix,
    flops=_passes(2),
    gradient=_affine_gradient,
    in_place={"y": "x"},
    columns=1,
)
def affine(x, scale, shift, y):
    """y = scale x + shift, one number of each for a column"""
    if scale is None:
        y[...] = x
    else:
        np.multiply(x, scale, out=y)
    if shift is not None:
        y += shift


@op(
    "x[B,F] dy[B,F] -> dscale?[F] dshift?[F]",
    sizes=_matrix,
    flops=_passes(3),
    columns=1,
)
def affine_dw(x, dy, dscale, dshift):
    """dscale = sum over the rows of dy x, dshift = sum of dy"""
    if dscale is not None:
        np.einsum("ij,ij->j", dy, x, out=dscale)
    if dshift is not None:
        np.sum(dy, axis=0, out=dshift)


# ------------------------------------------------------------------ over the rows of a batch


def _columns_gradient(graph, node, dy, dmean, dvariance, dstandard):
    (_, scale, _), (y, _, variance, standard) = node.inputs, node.outputs
    wanted = tuple(t is not None and graph.needs_gradient(t) for t in node.inputs)
    return graph.emit(
        "standardize_columns_grad", dy, standard or y, variance, scale, outputs=wanted,
        epsilon=node.attrs["epsilon"],
    )  # fmt: skip


_POSITIVE = (0.0, float("inf"))
_EPSILON = {
    "sizes": _matrix,
    "constants": lambda attrs: (attrs["epsilon"], *attrs.get("parameters", ())),
    "domain": {"variance": _POSITIVE},
}


@op(
    "x[B,F] scale?[F] shift?[F] -> y[B,F] mean[F] variance[F] standard?[B,F]",
    formula="activation",
    flops=_passes(8),
    gradient=_columns_gradient,
    without_gradient=("mean", "variance", "standard"),
    in_place={"standard": "x"},
    whole=True,
    columns=1,
    **_EPSILON,
)
def standardize_columns(
    x, scale, shift, y, mean, variance, standard, *, epsilon, function, parameters
):
    """y = f(scale standard + shift), standard = (x - mean) / sqrt(variance + epsilon), with the
    mean and variance of each column

    The gradient needs ``standard``, unless it is y.
    """
    rows = max(len(x), 1)
    exact = x.sum(axis=0, dtype=np.float64) / rows
    mean[...] = exact
    np.subtract(x, exact, out=y, casting="same_kind")
    variance[...] = np.einsum("ij,ij->j", y, y, dtype=np.float64) / rows
    y /= np.sqrt(variance + x.dtype.type(epsilon))
    if standard is not None:
        standard[...] = y
    affine.define(y, scale, shift, y)
    apply(y, function, parameters)


@op(
    "dy[B,F] standard[B,F] variance[F] scale?[F] -> dx?[B,F] dscale?[F] dshift?[F]",
    flops=_passes(8),
    in_place={"dx": "dy"},
    whole=True,
    columns=1,
    **_EPSILON,
)
def standardize_columns_grad(dy, standard, variance, scale, dx, dscale, dshift, *, epsilon):
    """dx = scale (dy - mean of dy - s mean of dy s) / sqrt(variance + epsilon), by columns, dscale
    = sum over the rows of dy s, dshift = sum of dy, with s for ``standard``"""
    rows = max(len(dy), 1)
    slope, middle = np.einsum("ij,ij->j", dy, standard), dy.sum(axis=0)
    if dscale is not None:
        dscale[...] = slope
    if dshift is not None:
        dshift[...] = middle
    if dx is None:
        return
    np.subtract(dy, middle / rows, out=dx)
    dx -= standard * (slope / rows)
    factor = 1 / np.sqrt(variance + dy.dtype.type(epsilon))
    dx *= factor if scale is None else factor * scale


def _standardize_gradient(graph, node, dy):
    (dx,) = graph.emit("standardize", dy, None, node.inputs[2], **node.attrs)
    return dx, None, None


@op(
    "x[B,F] mean?[F] variance[F] -> y[B,F]",
    flops=_passes(2),
    gradient=_standardize_gradient,
    in_place={"y": "x"},
    columns=1,
    **_EPSILON,
)
def standardize(x, mean, variance, y, *, epsilon):
    """y = (x - mean) / sqrt(variance + epsilon), one mean and variance for a column"""
    deviation = np.sqrt(variance + x.dtype.type(epsilon))
    if mean is None:
        np.divide(x, deviation, out=y)
        return
    np.subtract(x, mean, out=y)
    y /= deviation


@op(
    "mean[F] variance[F] running_mean[F] running_variance[F] ->",
    sizes=lambda d, attrs, binding: (d["F"],),
    constants=lambda attrs: (attrs["momentum"],),
    flops=lambda d: 6.0 * d["F"],
    writes=("running_mean", "running_variance"),
    uses_step=True,
    whole=True,
    columns=1,
)
def running_statistics(mean, variance, running_mean, running_variance, *, momentum, step):
    """running = momentum running + (1 - momentum) new, with the variance of n - 1 degrees"""
    keep = mean.dtype.type(momentum)
    unbiased = mean.dtype.type(step.rows / max(step.rows - 1, 1))
    running_mean += (1 - keep) * (mean - running_mean)
    running_variance += (1 - keep) * (unbiased * variance - running_variance)


@op(
    "mean[F] variance[F] running_mean[F] running_variance[F] -> scale[F] shift[F]",
    sizes=lambda d, attrs, binding: (d["F"],),
    constants=lambda attrs: (attrs["epsilon"], attrs["most_scale"], attrs["most_shift"]),
    flops=lambda d: 8.0 * d["F"],
    without_gradient=("scale", "shift"),
    domain={"variance": _POSITIVE, "running_variance": _POSITIVE},
    whole=True,
    columns=1,
)
def renormalization(
    mean, variance, running_mean, running_variance, scale, shift, *, epsilon, most_scale, most_shift
):
    """scale = deviation / running deviation, shift = (mean - running mean) / running deviation,
    clipped to [1 / most_scale, most_scale] and [-most_shift, most_shift]"""
    one = mean.dtype.type(1)
    deviation = np.sqrt(running_variance + one * epsilon)
    np.divide(np.sqrt(variance + one * epsilon), deviation, out=scale)
    np.clip(scale, one / most_scale, one * most_scale, out=scale)
    np.subtract(mean, running_mean, out=shift)
    shift /= deviation
    np.clip(shift, -most_shift, most_shift, out=shift)


# ------------------------------------------------------------------ over the numbers of a row


def _rows_gradient(graph, node, dy, dinverse):
    return graph.emit("standardize_rows_grad", dy, *node.outputs)


@op(
    "x[B,F] -> y[B,F] inverse[B]",
    flops=_passes(6),
    gradient=_rows_gradient,
    without_gradient=("inverse",),
    **_EPSILON,
)
def standardize_rows(x, y, inverse, *, epsilon):
    """y = (x - mean) inverse, inverse = 1 / sqrt(variance + epsilon), with those of each row"""
    np.subtract(x, x.mean(axis=1, dtype=np.float64)[:, None], out=y, casting="same_kind")
    variance = np.einsum("ij,ij->i", y, y) / x.shape[1]
    np.divide(1, np.sqrt(variance + x.dtype.type(epsilon)), out=inverse)
    y *= inverse[:, None]


@op(
    "dy[B,F] y[B,F] inverse[B] -> dx[B,F]",
    sizes=_matrix,
    flops=_passes(7),
    in_place={"dx": "dy"},
)
def standardize_rows_grad(dy, y, inverse, dx):
    """dx = (dy - mean of dy - y mean of dy y) inverse, by rows"""
    slope = np.einsum("ij,ij->i", dy, y) / y.shape[1]
    middle = dy.mean(axis=1)
    np.subtract(dy, middle[:, None], out=dx)
    dx -= y * slope[:, None]
    dx *= inverse[:, None]


# ------------------------------------------------------------------ to length one

_SHORTEST = 1e-12  # vectors below this length are divided by it


@op(
    "x[B,F] -> y[B,F] inverse[B]",
    sizes=_matrix,
    flops=_passes(3),
    gradient=lambda graph, node, dy, dinverse: graph.emit("unit_rows_grad", dy, *node.outputs),
    without_gradient=("inverse",),
)
def unit_rows(x, y, inverse):
    """y = x inverse, inverse = 1 / length of the row"""
    np.divide(1, np.maximum(np.sqrt(np.einsum("ij,ij->i", x, x)), _SHORTEST), out=inverse)
    np.multiply(x, inverse[:, None], out=y)


@op(
    "dy[B,F] y[B,F] inverse[B] -> dx[B,F]",
    sizes=_matrix,
    flops=_passes(5),
    in_place={"dx": "dy"},
)
def unit_rows_grad(dy, y, inverse, dx):
    """dx = (dy - y sum of dy y) inverse, by rows"""
    slope = np.einsum("ij,ij->i", dy, y)
    np.subtract(dy, y * slope[:, None], out=dx)
    dx *= inverse[:, None]


def _kernel(d, attrs, binding):
    return d["I"], d["O"]


@op(
    "w[I,O] -> u[I,O] inverse[O]",
    sizes=_kernel,
    flops=lambda d: 3.0 * count(d, "I", "O"),
    gradient=lambda graph, node, du, dinverse: graph.emit("unit_columns_grad", du, *node.outputs),
    without_gradient=("inverse",),
)
def unit_columns(w, u, inverse):
    """u = w inverse, inverse = 1 / length of the column"""
    np.divide(1, np.maximum(np.sqrt(np.einsum("ij,ij->j", w, w)), _SHORTEST), out=inverse)
    np.multiply(w, inverse, out=u)


@op(
    "du[I,O] u[I,O] inverse[O] -> dw[I,O]",
    sizes=_kernel,
    flops=lambda d: 5.0 * count(d, "I", "O"),
    in_place={"dw": "du"},
)
def unit_columns_grad(du, u, inverse, dw):
    """dw = (du - u sum of du u) inverse, by columns"""
    slope = np.einsum("ij,ij->j", du, u)
    np.subtract(du, u * slope, out=dw)
    dw *= inverse
