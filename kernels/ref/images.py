"""Random changes of images, and mixtures of rows: new for each row of each step."""

from __future__ import annotations

import math

import numpy as np

from ..op import count, op
from .random import words


def _sizes(d, attrs, binding):
    height, width, channels = attrs["image"]
    return d["B"], d["N"], binding.first_row, attrs["stream"], height, width, channels


def uniform(step, stream, rows, n):
    """Numbers in [0, 1), n for each row, of 24 bits."""
    return (words(step.seed, stream, step.step, np.arange(rows), n) >> np.uint32(8)) / 2**24


def _images(x, image):
    return x.reshape(len(x), *image)


def _sample(images, down, right, fill, to):
    """Values of images (n, h, w, c) at places (n, h, w) between pixels; ``fill`` is around them."""
    n, height, width, _ = images.shape
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=fill)
    top, left = np.floor(down), np.floor(right)
    below, beside = (down - top).astype(images.dtype), (right - left).astype(images.dtype)
    rows = [np.clip(top + k, -1, height).astype(int) + 1 for k in (0, 1)]
    columns = [np.clip(left + k, -1, width).astype(int) + 1 for k in (0, 1)]
    image = np.arange(n)[:, None, None]
    to[...] = 0
    for row, share_down in zip(rows, (1 - below, below), strict=True):
        for column, share_right in zip(columns, (1 - beside, beside), strict=True):
            to += (share_down * share_right)[..., None] * padded[image, row, column]


def transformations(
    u, image, rotation, shift_down, shift_right, zoom, shear, flip_down, flip_right
):
    """From a pixel's place to where its value comes from, both from the middle: matrices (n, 2, 2)
    and shifts (n, 2), from eight numbers (n, 8) each."""
    v = 2 * u - 1
    angle, slope, size = rotation * v[:, 0], shear * v[:, 1], 1 + zoom * v[:, 2]
    sine, cosine = np.sin(angle), np.cos(angle)
    turn = np.stack([cosine, -sine, sine, cosine], axis=1).reshape(-1, 2, 2)
    lean = np.zeros_like(turn)
    lean[:, 0, 0] = lean[:, 1, 1] = 1
    lean[:, 1, 0] = slope
    flips = np.where(u[:, 5:7] < (flip_down, flip_right), -1.0, 1.0) / size[:, None]
    away = v[:, 3:5] * (shift_down, shift_right) * image[:2]
    return turn @ lean * flips[:, None, :], away


_IMAGES = {"sizes": _sizes, "uses_step": True}


@op(
    "x[B,N] -> y[B,N]",
    constants=lambda attrs: (
        *attrs["ranges"],
        attrs["fill"],
    ),
    flops=lambda d: 12.0 * count(d, "B", "N"),
    **_IMAGES,
)
def warp(x, y, *, image, ranges, fill, stream, step):
    """Images (h, w, c), rotated, sheared, scaled, flipped and shifted at random, between pixels by
    bilinear interpolation; ranges are rotation, shift down and right, zoom, shear, and the
    probabilities of flips up-down and left-right"""
    height, width, _ = image
    random = uniform(step, stream, len(x), 8)
    middle = np.array([(height - 1) / 2, (width - 1) / 2])
    place = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1)
    matrices, away = transformations(random, image, *ranges)
    at = np.einsum("nij,hwj->nhwi", matrices, place - middle) + (middle - away)[:, None, None]
    _sample(_images(x, image), at[..., 0], at[..., 1], fill, _images(y, image))


def smooth(field, sigma):
    """Fields (..., h, w), averaged with the weights of a normal distribution up to 3 sigma."""
    radius = math.ceil(3 * sigma)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    for axis in (-2, -1):
        lines = np.moveaxis(field, axis, 0)
        n = len(lines)
        around = np.zeros((radius, *lines.shape[1:]))
        padded = np.concatenate([around, lines, around])
        field = np.moveaxis(sum(t * padded[k : k + n] for k, t in enumerate(taps)), 0, axis)
    return field


@op(
    "x[B,N] -> y[B,N]",
    constants=lambda attrs: (attrs["alpha"], attrs["sigma"], attrs["fill"]),
    flops=lambda d: 100.0 * count(d, "B", "N"),
    **_IMAGES,
)
def elastic(x, y, *, image, alpha, sigma, fill, stream, step):
    """Images (h, w, c), each pixel taken from alpha times a smooth random field away"""
    height, width, _ = image
    random = 2 * uniform(step, stream, len(x), 2 * height * width) - 1
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    moves = alpha * smooth(random.reshape(len(x), 2, height, width), sigma)
    down, right = rows + moves[:, 0], columns + moves[:, 1]
    _sample(_images(x, image), down, right, fill, _images(y, image))


@op(
    "x[B,N] -> y[B,N]",
    sizes=lambda d, attrs, binding: (d["B"], d["N"], binding.first_row, attrs["stream"]),
    constants=lambda attrs: (attrs["brightness"], attrs["contrast"]),
    flops=lambda d: 4.0 * count(d, "B", "N"),
    in_place={"y": "x"},
    uses_step=True,
)
def recolor(x, y, *, brightness, contrast, stream, step):
    """y = mean + c (x - mean) + b with b from [-brightness, brightness] and c from
    [1 - contrast, 1 + contrast], each the same for a row"""
    u = 2 * uniform(step, stream, len(x), 2) - 1
    mean = x.mean(axis=1, dtype=np.float64)[:, None]
    scale = 1 + contrast * u[:, :1]
    y[...] = scale * (x - mean) + mean + brightness * u[:, 1:]


def erased(u, image, least, most, aspect):
    """The part of an image that is erased: first and last row, first and last column."""
    height, width, _ = image
    area = (least + (most - least) * u[1]) * height * width
    ratio = aspect ** (2 * u[2] - 1)
    tall = min(max(int(math.sqrt(area * ratio) + 0.5), 1), height)
    wide = min(max(int(math.sqrt(area / ratio) + 0.5), 1), width)
    top, left = int(u[3] * (height - tall + 1)), int(u[4] * (width - wide + 1))
    return top, top + tall, left, left + wide


@op(
    "x[B,N] -> y[B,N]",
    constants=lambda attrs: (*attrs["rectangle"], attrs["fill"]),
    flops=lambda d: float(count(d, "B", "N")),
    in_place={"y": "x"},
    **_IMAGES,
)
def erase(x, y, *, image, rectangle, fill, stream, step):
    """Images (h, w, c), a rectangle of some of them replaced by ``fill``; rectangle is the
    probability, the least and the largest share of the area, and the largest ratio of sides"""
    probability, *shape = rectangle
    y[...] = x
    for u, target in zip(uniform(step, stream, len(x), 8), _images(y, image), strict=True):
        if u[0] < probability:
            top, bottom, left, right = erased(u, image, *shape)
            target[top:bottom, left:right] = fill


def mixture(step, stream, rows, alpha):
    """Share of a row in its mixture, and by how many rows its partner follows it."""
    for k in range(0, 1000, 50):  # Jöhnk's method: few tries are needed, or some 70 for alpha = 4
        tries = words(step.seed, stream, step.step, np.arange(k, k + 50), 4) >> np.uint32(8)
        u = (tries + 0.5) / 2**24
        powers = np.exp(np.log(u[:, :2]) / alpha)
        total = powers.sum(axis=1)
        if (good := np.flatnonzero((total > 0) & (total <= 1))).size:
            break
    i = good[0] if good.size else -1
    share = float(powers[i, 0] / total[i])
    return share, 1 + int(u[i, 2] * (rows - 1)) if rows > 1 else 0


@op(
    "x[B,N] -> y[B,N]",
    sizes=lambda d, attrs, binding: (d["B"], d["N"], attrs["stream"]),
    constants=lambda attrs: (attrs["concentration"],),
    flops=lambda d: 3.0 * count(d, "B", "N"),
    uses_step=True,
    whole=True,
)
def mix(x, y, *, concentration, stream, step):
    """y = s x + (1 - s) x of another row, with s from a beta distribution, the same for a batch"""
    if not len(x):
        return
    share, ahead = mixture(step, stream, len(x), concentration)
    np.multiply(x, x.dtype.type(share), out=y)
    y += x.dtype.type(1 - share) * np.roll(x, -ahead, axis=0)


@op(
    "x[B,F] -> y[B,F]",
    sizes=lambda d, attrs, binding: (d["B"], d["F"]),
    flops=lambda d: 2.0 * count(d, "B", "F"),
    gradient=lambda graph, node, dy: graph.emit("center_rows", dy),
    in_place={"y": "x"},
)
def center_rows(x, y):
    """y = x - mean of the row"""
    np.subtract(x, x.mean(axis=1, dtype=np.float64)[:, None], out=y, casting="same_kind")
