"""Layers that change images at random while training, in the native loop, batch by batch.

Every example of every step is changed anew, by numbers that are a function of the model's seed, the
layer, the step and the row: the same on every backend and for any number of threads. In evaluation
and prediction nothing happens. They stand before the first layer with weights: there is no
derivative through them.

>>> import fastnn as fnn
>>> model = fnn.Sequential([
...     fnn.Input((8, 8)),
...     fnn.layers.RandomAffine(rotation=10, shift=0.1),
...     fnn.layers.Flatten(),
...     fnn.layers.Dense(10, "softmax"),
... ])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from typing import Any

from .. import checks
from ..compiler import Graph, Tensor
from .base import Layer, Shape, Symbol

#: Pixels of the largest image that an elastic distortion takes: its fields are in the scratch
#: memory of the kernels.
MOST_PIXELS = 1 << 14

#: Standard deviation of the widest filter.
_WIDEST = 20.0


class ImageLayer(Layer):
    """Base: images (height, width) or (height, width, channels), changed while training."""

    def __call__(self, *inputs: Any) -> Symbol:
        # A copy keeps the shape of these images: the layer may be called on others as well.
        return super(ImageLayer, copy(self)).__call__(*inputs)

    def output_shape(self, input_shape: Shape) -> Shape:
        if len(input_shape) not in (2, 3):
            raise ValueError(
                f"{type(self).__name__}: expected images (height, width) or (height, width, "
                f"channels), got {input_shape}"
            )
        self._image = (*input_shape, 1)[:3]
        return input_shape

    def emit(self, graph: Graph, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        stream = graph.new_stream()
        if not training:
            return x
        if graph.needs_gradient(x):
            raise ValueError(
                f"{type(self).__name__}: comes after a layer with trained weights, but there is no "
                "derivative through it; put it before the first of them"
            )
        return self.change(graph, x, stream)

    def change(self, graph: Graph, x: Tensor, stream: int) -> Tensor:
        """Emit the op that changes the images."""
        raise TypeError(f"{type(self).__name__} does not define change()")


def _two(name: str, value: Any, low: float, high: float) -> tuple[float, float]:
    """One number for both directions, or two: (down, right)."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name}: expected a number or a pair (down, right), got {value!r}")
    return checks.number(name, pair[0], low, high), checks.number(name, pair[1], low, high)


class RandomAffine(ImageLayer):
    """Rotate, shear, scale, flip and shift each image at random, about its middle.

    Values between pixels are interpolated bilinearly; all in one pass, so that nothing is
    interpolated twice.

    Parameters
    ----------
    rotation
        Degrees, >= 0: by an angle from [-rotation, rotation].
    shift
        Share of the size, in [0, 1]: by up to that, down and right; or a pair (down, right).
    zoom
        In [0, 1): a scale from [1 - zoom, 1 + zoom].
    shear
        >= 0: a slope from [-shear, shear], along the rows.
    flip
        Probability of a flip left-right, or a pair (up-down, left-right).
    fill
        Value outside the image.

    Source: Simard, Steinkraus & Platt, Best practices for convolutional neural networks applied to
    visual document analysis, ICDAR 2003.
    """

    def __init__(
        self,
        rotation: float = 0.0,
        shift: Any = 0.0,
        zoom: float = 0.0,
        shear: float = 0.0,
        flip: Any = 0.0,
        fill: float = 0.0,
    ) -> None:
        self.rotation = checks.number("rotation", rotation, 0, 180)
        self.shift = _two("shift", shift, 0, 1)
        self.zoom = checks.number("zoom", zoom, 0, 1, open_high=True)
        self.shear = checks.number("shear", shear, 0)
        self.flip = (0.0, checks.number("flip", flip, 0, 1)) if _is_number(flip) else _two(
            "flip", flip, 0, 1
        )  # fmt: skip
        self.fill = checks.number("fill", fill)

    def change(self, graph: Graph, x: Tensor, stream: int) -> Tensor:
        ranges = (math.radians(self.rotation), *self.shift, self.zoom, self.shear, *self.flip)
        return graph.emit(
            "warp", x, image=self._image, ranges=ranges, fill=self.fill, stream=stream
        )[0]

    def __repr__(self) -> str:
        return (
            f"RandomAffine(rotation={self.rotation:g}, shift={self.shift}, zoom={self.zoom:g}, "
            f"shear={self.shear:g}, flip={self.flip})"
        )


def _is_number(value: Any) -> bool:
    return not isinstance(value, (tuple, list))


class RandomElastic(ImageLayer):
    """Move each pixel by a smooth random field: a distortion as of handwriting.

    The field is uniform in [-1, 1] at every pixel, down and right, then averaged with the weights
    of a normal distribution, and multiplied by alpha.

    Parameters
    ----------
    alpha
        Length of the moves in pixels, before the averaging, >= 0.
    sigma
        Standard deviation of the averaging in pixels, in (0, 20].
    fill
        Value outside the image.

    Source: Simard, Steinkraus & Platt, ICDAR 2003; for images of 29 x 29 they use alpha 34 and
    sigma 4.
    """

    def __init__(self, alpha: float = 34.0, sigma: float = 4.0, fill: float = 0.0) -> None:
        self.alpha = checks.number("alpha", alpha, 0)
        self.sigma = checks.number("sigma", sigma, 0, _WIDEST, open_low=True)
        self.fill = checks.number("fill", fill)

    def output_shape(self, input_shape: Shape) -> Shape:
        shape = super().output_shape(input_shape)
        if math.prod(self._image[:2]) > MOST_PIXELS:
            raise ValueError(
                f"RandomElastic: expected images of at most {MOST_PIXELS} pixels, got {input_shape}"
            )
        return shape

    def change(self, graph: Graph, x: Tensor, stream: int) -> Tensor:
        return graph.emit(
            "elastic", x, image=self._image, alpha=self.alpha, sigma=self.sigma, fill=self.fill,
            stream=stream,
        )[0]  # fmt: skip

    def __repr__(self) -> str:
        return f"RandomElastic({self.alpha:g}, {self.sigma:g})"


class RandomContrast(ImageLayer):
    """Change brightness and contrast: y = mean + c (x - mean) + b, with the image's own mean.

    Parameters
    ----------
    contrast
        >= 0: c is from [1 - contrast, 1 + contrast].
    brightness
        >= 0: b is from [-brightness, brightness], in the units of x.

    Source: Krizhevsky, Sutskever & Hinton, ImageNet classification with deep convolutional neural
    networks, NIPS 2012, section 4.1 (changes of intensity).
    """

    def __init__(self, contrast: float = 0.0, brightness: float = 0.0) -> None:
        self.contrast = checks.number("contrast", contrast, 0)
        self.brightness = checks.number("brightness", brightness, 0)

    def change(self, graph: Graph, x: Tensor, stream: int) -> Tensor:
        return graph.emit(
            "recolor", x, brightness=self.brightness, contrast=self.contrast, stream=stream
        )[0]

    def __repr__(self) -> str:
        return f"RandomContrast({self.contrast:g}, {self.brightness:g})"


class RandomErasing(ImageLayer):
    """Replace a random rectangle of some images.

    Parameters
    ----------
    probability
        Of an image to lose a rectangle, in [0, 1].
    area
        Least and largest share of the image's area, within (0, 1].
    aspect
        Largest ratio of the sides, >= 1; it is drawn evenly on a logarithmic scale. Sides are whole
        pixels, and one that would be longer than the image's is as long as that.
    fill
        Value of the rectangle.

    Source: Zhong et al., Random erasing data augmentation, AAAI 2020.
    """

    def __init__(
        self,
        probability: float = 0.5,
        area: tuple[float, float] = (0.02, 0.33),
        aspect: float = 3.3,
        fill: float = 0.0,
    ) -> None:
        self.probability = checks.number("probability", probability, 0, 1)
        least, most = _two("area", area, 0, 1)
        if not 0 < least <= most:
            raise ValueError(f"area: expected (least, most) with 0 < least <= most, got {area!r}")
        self.area = least, most
        self.aspect = checks.number("aspect", aspect, 1)
        self.fill = checks.number("fill", fill)

    def change(self, graph: Graph, x: Tensor, stream: int) -> Tensor:
        rectangle = (self.probability, *self.area, self.aspect)
        return graph.emit(
            "erase", x, image=self._image, rectangle=rectangle, fill=self.fill, stream=stream
        )[0]

    def __repr__(self) -> str:
        return f"RandomErasing({self.probability:g}, {self.area}, {self.aspect:g})"
