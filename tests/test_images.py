"""Random changes of images, seen through what a model trains on, and mixtures of rows."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest

import fastnn as fnn
from fastnn.kernels.ref import Step
from fastnn.kernels.ref.images import mixture, transformations, uniform
from fastnn.kernels.ref.random import shuffled
from fastnn.layers import images as module
from fastnn.runtime import most_threads

L = fnn.layers
SGD = fnn.optimizers.SGD
BACKENDS = ("numpy", "cython")

ndimage = pytest.importorskip("scipy.ndimage")
stats = pytest.importorskip("scipy.stats")

#: One of each kind, with everything that it can do.
LAYERS = {
    "affine": lambda **fill: L.RandomAffine(25, (0.2, 0.1), 0.3, 0.4, (0.5, 0.5), **fill),
    "elastic": lambda **fill: L.RandomElastic(6, 1.5, **fill),
    "contrast": lambda **fill: L.RandomContrast(0.5, 0.25),
    "erasing": lambda **fill: L.RandomErasing(0.75, (0.1, 0.4), 2, **fill),
}
each_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=list(LAYERS))
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def pictures(n=16, shape=(7, 9), seed=0):
    return np.random.default_rng(seed).normal(size=(n, *shape))


def looking(layers, shape, n, seed=0, **options):
    """A model whose gradient shows the n images that it trains on: all its weights are 0."""
    layers = layers if isinstance(layers, list) else [layers]
    unit = L.Dense(n, use_bias=False, kernel_initializer="zeros")
    model = fnn.Sequential([fnn.Input(shape), *layers, L.Flatten(), unit], seed=seed)
    model.compile("mean_squared_error", SGD(0.1), **({"dtype": "float64"} | options))
    return model


def seen(model, images):
    """The images that the coming update would train on.

    The loss is the mean of (z - t)^2 over rows and units, with z = 0: unit i, whose target is not 0
    for row i only, has the gradient -2 t / n^2 times that row: exactly, for n a power of two.
    """
    n = len(images)
    _, gradients = model.loss_and_gradients(images, -n * n / 2 * np.eye(n))
    return gradients[-1].T.reshape(images.shape)


def changed(layers, images, **options):
    return seen(looking(layers, images.shape[1:], len(images), **options), images)


def numbers(n, count=8, seed=0, step=0, stream=1):
    """What is drawn for each of n rows, from [0, 1)."""
    return uniform(Step(seed=seed, step=step), stream, n, count)


def centres(images):
    """The centre of each image's mass, from the image's middle: down and right."""
    _, height, width = images.shape
    rows, columns = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    mass = images.sum(axis=(1, 2))
    down, right = images.sum(axis=2) @ rows / mass, images.sum(axis=1) @ columns / mass
    return np.stack([down, right], axis=1)


def blobs(n, down, right, size=31, width=1.5):
    """n images of a smooth spot, this far from the middle."""
    place = np.arange(size) - (size - 1) / 2
    spot = np.exp(
        -((place[:, None] - down) ** 2 + (place[None] - right) ** 2) / (2 * width**2)
    )  # fmt: skip
    return np.repeat(spot[None], n, axis=0)


def expect_uniform(values, low, high, slack=0.0):
    """Measured values are of a uniform distribution, each to about ``slack``."""
    assert low - slack <= values.min() and values.max() <= high + slack
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 0.01


def test_examples_of_the_docstrings_run():
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0


# ---- geometry -----------------------------------------------------------------------------------

RANGES = {
    "rotation": {"rotation": 40},
    "shift": {"shift": (0.3, 0.1)},
    "zoom": {"zoom": 0.4},
    "shear": {"shear": 0.5},
    "flips": {"flip": (0.5, 0.5)},
    "all": {"rotation": 30, "shift": 0.2, "zoom": 0.3, "shear": 0.4, "flip": (0.5, 0.5)},
}


def matrices(options, n, shape):
    """Where values come from, for each of n rows: x[matrix @ place + offset]."""
    layer = L.RandomAffine(**options)
    ranges = (math.radians(layer.rotation), *layer.shift, layer.zoom, layer.shear, *layer.flip)
    turns, away = transformations(numbers(n), shape, *ranges)
    middle = (np.array(shape[:2]) - 1) / 2
    return [(turn, middle - a - turn @ middle) for turn, a in zip(turns, away, strict=True)]


@pytest.mark.parametrize("fill", [0.0, -2.5])
@pytest.mark.parametrize("options", RANGES.values(), ids=list(RANGES))
@each_backend
def test_affine_is_scipys_affine_transform(backend, options, fill):
    x = pictures()
    found = changed(L.RandomAffine(**options, fill=fill), x, backend=backend)
    rows, columns = np.indices(x.shape[1:])
    inside = 0
    for image, y, (turn, offset) in zip(
        x, found, matrices(options, len(x), x.shape[1:]), strict=True
    ):
        # "constant" is the fill at once outside the image, "grid-constant" goes over to it.
        want = ndimage.affine_transform(image, turn, offset, order=1, mode="constant", cval=fill)
        at = np.einsum("ij,jhw->ihw", turn, np.stack([rows, columns])) + offset[:, None, None]
        edge = np.array(x.shape[1:])[:, None, None] - 1.000001
        within = ((at > 1e-6) & (at < edge)).all(axis=0)
        inside += within.sum()
        np.testing.assert_allclose(y[within], want[within], rtol=0, atol=1e-12)
        want = ndimage.affine_transform(
            image, turn, offset, order=1, mode="grid-constant", cval=fill
        )
        np.testing.assert_allclose(y, want, rtol=0, atol=1e-12)
    assert inside > 0.4 * x.size


@pytest.mark.parametrize("options", RANGES.values(), ids=list(RANGES))
def test_affine_is_scikit_images_warp(options):
    transform = pytest.importorskip("skimage.transform")
    x = pictures()
    found = changed(L.RandomAffine(**options, fill=0.5), x)
    for image, y, ((a, b), (c, d), (down, right)) in zip(
        x, found,
        [(*turn, offset) for turn, offset in matrices(options, len(x), x.shape[1:])],
        strict=True,
    ):  # fmt: skip
        places = np.array([[d, c, right], [b, a, down], [0, 0, 1]])  # column before row
        want = transform.warp(image, places, order=1, mode="constant", cval=0.5)
        # Where a place is on the line of the outermost pixels, rounding decides whether fill is in.
        np.testing.assert_allclose(y, want, rtol=0, atol=1e-9)


@each_backend
def test_shift_moves_down_and_right_by_a_share_of_the_size(backend):
    x = blobs(300, 3, -2)
    u = numbers(len(x))
    away = (2 * u[:, 3:5] - 1) * (0.2 * 31, 0.1 * 31)
    found = centres(changed(L.RandomAffine(shift=(0.2, 0.1)), x, backend=backend))
    np.testing.assert_allclose(found - (3, -2), away, atol=0.01)
    expect_uniform(found[:, 0] - 3, -6.2, 6.2, slack=0.01)
    expect_uniform(found[:, 1] + 2, -3.1, 3.1, slack=0.01)
    assert abs(np.corrcoef(found.T)[0, 1]) < 0.2


def test_shift_by_whole_pixels_is_exact():
    x = np.arange(1, 13.0).reshape(1, 3, 4)
    # A shift of up to 1 / |2 u - 1| pixels is one by a pixel, for this row.
    down, right = 1 / np.abs(2 * numbers(1)[0, 3:5] - 1) / (3, 4)
    signs = np.sign(2 * numbers(1)[0, 3:5] - 1).astype(int)
    pairs = [p for p in ((down, 0.0), (0.0, right)) if max(p) <= 1]
    assert pairs
    for pair in pairs:
        (found,) = changed(L.RandomAffine(shift=pair, fill=-1), x)
        by = [int(s) if p else 0 for s, p in zip(signs, pair, strict=True)]
        padded = np.pad(x[0], 1, constant_values=-1.0)
        want = np.roll(padded, by, axis=(0, 1))[1:-1, 1:-1]
        np.testing.assert_allclose(found, want, atol=1e-12)


@each_backend
def test_flip_left_right_and_up_down(backend):
    x = pictures(64, (3, 4))

    def flipped(flip):
        return changed(L.RandomAffine(flip=flip), x, backend=backend)

    np.testing.assert_array_equal(flipped(1.0), x[:, :, ::-1])
    np.testing.assert_array_equal(flipped((1, 0)), x[:, ::-1])
    np.testing.assert_array_equal(flipped((1, 1)), x[:, ::-1, ::-1])
    np.testing.assert_array_equal(flipped(0), x)


def test_flips_have_their_probabilities_and_do_not_depend_on_each_other():
    x = pictures(512, (3, 4))
    found = changed(L.RandomAffine(flip=(0.25, 0.5)), x)
    kinds = {(0, 0): x, (1, 0): x[:, ::-1], (0, 1): x[:, :, ::-1], (1, 1): x[:, ::-1, ::-1]}
    counts = [(found == kind).all(axis=(1, 2)).sum() for kind in kinds.values()]
    assert sum(counts) == 512
    expected = [512 * q for q in (0.75 * 0.5, 0.25 * 0.5, 0.75 * 0.5, 0.25 * 0.5)]
    assert stats.chisquare(counts, expected).pvalue > 0.01


@each_backend
def test_rotation_is_clockwise_for_positive_angles_and_uniform(backend):
    x = blobs(300, 0, 9)  # to the right of the middle
    angles = math.radians(50) * (2 * numbers(len(x))[:, 0] - 1)
    found = centres(changed(L.RandomAffine(rotation=50), x, backend=backend))
    want = 9 * np.stack([np.sin(angles), np.cos(angles)], axis=1)  # down: as the hands of a clock
    np.testing.assert_allclose(found, want, atol=0.05)
    turned = np.degrees(np.arctan2(found[:, 0], found[:, 1]))
    expect_uniform(turned, -50, 50, slack=0.5)
    assert turned.min() < -45 and turned.max() > 45


@each_backend
def test_zoom_makes_larger_above_one(backend):
    x = blobs(300, 6, -4, size=61, width=3)
    sizes = 1 + 0.3 * (2 * numbers(len(x))[:, 2] - 1)
    found = changed(L.RandomAffine(zoom=0.3), x, backend=backend)
    np.testing.assert_allclose(centres(found), sizes[:, None] * (6, -4), atol=0.05)
    larger = found.sum(axis=(1, 2)) / x.sum(axis=(1, 2))
    np.testing.assert_allclose(larger, sizes**2, rtol=0.01)
    expect_uniform(np.sqrt(larger), 0.7, 1.3, slack=0.005)


@each_backend
def test_shear_moves_rows_sideways_in_proportion_to_their_distance(backend):
    slopes = 0.6 * (2 * numbers(200)[:, 1] - 1)
    for down in (-8, 0, 8):
        found = centres(
            changed(L.RandomAffine(shear=0.6), blobs(200, down, 1), backend=backend)
        )  # fmt: skip
        np.testing.assert_allclose(found[:, 0], down, atol=0.05)
        np.testing.assert_allclose(found[:, 1], 1 - slopes * down, atol=0.05)
    expect_uniform((1 - found[:, 1]) / 8, -0.6, 0.6, slack=0.01)


def test_shift_comes_before_rotation_about_the_middle():
    x = blobs(100, 5, 0)
    u = 2 * numbers(len(x)) - 1
    found = centres(changed(L.RandomAffine(rotation=90, shift=0.1), x))
    r, c = 5 + 3.1 * u[:, 3], 3.1 * u[:, 4]
    sine, cosine = np.sin(np.pi / 2 * u[:, 0]), np.cos(np.pi / 2 * u[:, 0])
    want = np.stack([cosine * r + sine * c, cosine * c - sine * r], axis=1)
    np.testing.assert_allclose(found, want, atol=0.06)


@each_backend
def test_the_fill_is_around_the_image(backend):
    x = pictures(64, (4, 4))
    found = changed(L.RandomAffine(shift=1.0, fill=7), x, backend=backend)
    away = 4 * (2 * numbers(64)[:, 3:5] - 1)
    source = np.arange(4)[:, None, None] - away  # by place, image and direction
    outside = (source <= -1) | (source >= 4)
    outside = outside[:, None, :, 0] | outside[None, :, :, 1]
    np.testing.assert_array_equal(found == 7, np.moveaxis(outside, 2, 0))
    assert 0.3 < outside.mean() < 0.8


# ---- elastic distortion -------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "sigma"), [(3.0, 1.0), (34.0, 4.0), (5.0, 1.3), (2.0, 0.4)])
@each_backend
def test_elastic_is_scipys_filter_and_interpolation(backend, alpha, sigma):
    x = pictures(8, (9, 12))
    found = changed(L.RandomElastic(alpha, sigma, fill=0.5), x, backend=backend)
    fields = 2 * numbers(8, 2 * 9 * 12).reshape(8, 2, 9, 12) - 1
    whole = sigma == int(sigma)  # else SciPy rounds the radius where this one is the next integer
    options = {"truncate": 3} if whole else {"radius": math.ceil(3 * sigma)}
    moved = 0
    for image, pair, y in zip(x, fields, found, strict=True):
        smooth = [ndimage.gaussian_filter(f, sigma, mode="constant", **options) for f in pair]
        at = np.indices(image.shape) + alpha * np.array(smooth)
        want = ndimage.map_coordinates(image, at, order=1, mode="grid-constant", cval=0.5)
        np.testing.assert_allclose(y, want, rtol=0, atol=1e-11)
        within = ((at >= 0) & (at <= np.array([8, 11])[:, None, None])).all(axis=0)
        want = ndimage.map_coordinates(image, at, order=1, mode="constant", cval=0.5)
        np.testing.assert_allclose(y[within], want[within], rtol=0, atol=1e-11)
        moved += within.sum()
    assert moved > x.size / 3


def test_wider_averages_move_neighbours_alike_and_less_far():
    ramp = np.repeat(np.arange(40.0)[None, :, None] * np.ones(40), 16, axis=0)

    def moves(sigma):
        """How far down each place is from where its value was, away from the edges."""
        inner = np.s_[:, 12:-12, 12:-12]
        return (changed(L.RandomElastic(8, sigma), ramp) - ramp)[inner]

    rough, smooth = moves(1.0), moves(3.0)
    assert smooth.std() < 0.5 * rough.std()

    def roughness(field):
        return np.diff(field, axis=2).std() / field.std()

    assert roughness(smooth) < 0.5 * roughness(rough)


def test_elastic_of_no_length_changes_nothing():
    x = pictures()
    np.testing.assert_array_equal(changed(L.RandomElastic(0.0, 2.0), x), x)


def test_elastic_takes_large_images_and_no_larger():
    x = pictures(2, (128, 128))
    both = [changed(L.RandomElastic(34, 20), x, backend=backend) for backend in BACKENDS]
    np.testing.assert_allclose(*both, atol=1e-11)
    with pytest.raises(ValueError, match=r"RandomElastic.*16384 pixels.*\(128, 129\)"):
        L.RandomElastic()(fnn.Input((128, 129)))


# ---- contrast and erasing -----------------------------------------------------------------------


@each_backend
def test_contrast_and_brightness_are_drawn_evenly_and_apart(backend):
    x = pictures(400, (4, 5, 3)) + 3
    found = changed(L.RandomContrast(0.5, 0.25), x, backend=backend).reshape(400, -1)
    flat = x.reshape(400, -1)
    mean = flat.mean(axis=1, keepdims=True)
    centred = flat - mean
    c = (centred * found).sum(axis=1) / (centred**2).sum(axis=1)
    b = found.mean(axis=1) - mean[:, 0]
    np.testing.assert_allclose(found, mean + c[:, None] * centred + b[:, None], atol=1e-12)
    expect_uniform(c, 0.5, 1.5, slack=1e-12)
    expect_uniform(b, -0.25, 0.25, slack=1e-12)
    assert abs(np.corrcoef(c, b)[0, 1]) < 0.15


def test_contrast_alone_keeps_the_mean_and_brightness_alone_the_differences():
    x = pictures(50)
    found = changed(L.RandomContrast(contrast=0.9), x)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), x.mean(axis=(1, 2)), atol=1e-12)
    assert np.abs(found - x).max() > 1
    found = changed(L.RandomContrast(brightness=2), x)
    np.testing.assert_allclose(np.diff(found), np.diff(x), atol=1e-12)
    assert np.abs(found - x).max() > 1


def rectangles(layer, n, shape, **options):
    """First row, last row, first column, last column of what was erased, where something was."""
    x = pictures(n, shape)
    found = changed(layer, x, **options)
    assert layer.fill == 99
    gone = found == 99
    np.testing.assert_array_equal(found[~gone], x[~gone])
    if len(shape) == 3:  # all channels alike
        assert (gone == gone[..., :1]).all()
        gone = gone[..., 0]
    made = []
    for mask in gone[gone.any(axis=(1, 2))]:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        assert mask[top:bottom, left:right].all() and mask.sum() == (bottom - top) * (right - left)
        made.append((top, bottom, left, right))
    return np.array(made).reshape(-1, 4)


@each_backend
def test_erased_rectangles_have_the_areas_and_sides_asked_for(backend):
    layer = L.RandomErasing(1.0, (0.05, 0.2), 2.5, fill=99)
    found = np.concatenate(
        [rectangles(layer, 256, (40, 40), seed=seed, backend=backend) for seed in range(4)]
    )
    assert len(found) == 1024
    tall, wide = found[:, 1] - found[:, 0], found[:, 3] - found[:, 2]
    # Half a pixel of rounding in each side.
    areas, slack = tall * wide / 1600, (tall + wide) / 2 / 1600 + 1e-3
    assert (areas >= 0.05 - slack).all() and (areas <= 0.2 + slack).all()
    expect_uniform(areas, 0.05, 0.2, slack=0.015)
    assert areas.min() < 0.06 and areas.max() > 0.19
    ratios = np.log(tall / wide)
    assert np.abs(ratios).max() <= np.log(2.5) + 0.15
    expect_uniform(ratios, -np.log(2.5), np.log(2.5), slack=0.15)


@each_backend
def test_erased_rectangles_are_anywhere_in_the_image(backend):
    layer = L.RandomErasing(1.0, (0.1, 0.1), 1, fill=99)
    top, bottom, left, right = rectangles(layer, 512, (11, 14, 2), backend=backend).T
    assert (bottom - top == 4).all() and (right - left == 4).all()
    assert stats.chisquare(np.bincount(top, minlength=8)).pvalue > 0.01
    assert stats.chisquare(np.bincount(left, minlength=11)).pvalue > 0.01
    assert bottom.max() == 11 and right.max() == 14


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_erasing_has_its_probability(probability):
    found = rectangles(L.RandomErasing(probability, fill=99), 512, (6, 6))
    assert stats.binomtest(len(found), 512, probability).pvalue > 0.01


def test_erased_sides_are_cut_where_the_image_ends():
    found = rectangles(L.RandomErasing(1.0, (0.5, 0.5), 1, fill=99), 16, (4, 50))
    assert (found[:, 1] - found[:, 0] == 4).all() and (found[:, 3] - found[:, 2] == 10).all()
    found = rectangles(L.RandomErasing(1.0, (1.0, 1.0), 1, fill=99), 16, (5, 5))
    assert (found == (0, 5, 0, 5)).all()


# ---- what all have in common --------------------------------------------------------------------


@pytest.mark.parametrize("make", [LAYERS[k] for k in ("affine", "elastic", "erasing")])
@each_backend
def test_channels_are_treated_alike(backend, make):
    x = pictures(12, (6, 7, 3))
    found = changed(make(fill=0.25), x, backend=backend)
    for channel in range(3):
        alone = changed(make(fill=0.25), x[..., channel], backend=backend)
        np.testing.assert_allclose(found[..., channel], alone, atol=1e-13)


@each_layer
def test_one_channel_is_none(make):
    x = pictures()
    same = changed(make(), x[..., None])[..., 0]
    np.testing.assert_array_equal(same, changed(make(), x))


@each_layer
def test_the_same_seed_gives_the_same_images_and_another_others(make):
    x = pictures()
    first = changed(make(), x, seed=1)
    np.testing.assert_array_equal(first, changed(make(), x, seed=1))
    other = changed(make(), x, seed=2)
    differ = (first != other).any(axis=(1, 2))
    assert differ.mean() > 0.8
    assert (first != x).any(axis=(1, 2)).mean() > 0.5


@each_layer
def test_rows_with_the_same_image_are_changed_differently(make):
    x = np.repeat(pictures(1), 12, axis=0)
    found = changed(make(), x).reshape(12, -1)
    assert len(np.unique(found, axis=0)) > 8


@each_layer
def test_layers_of_the_same_kind_do_not_draw_the_same(make):
    x = pictures()
    once = changed(make(), x)
    plain = changed([L.RandomAffine(), make()], x)  # the first changes nothing
    assert (once != plain).any(axis=(1, 2)).mean() > 0.8


@each_layer
@each_backend
def test_every_step_and_epoch_has_other_images(backend, make):
    x = pictures(6)
    model = looking(make(), x.shape[1:], 6, backend=backend)
    found = [seen(model, x)]
    for _ in range(3):
        model.train_on_batch(x, np.zeros((6, 6)))  # weights stay 0
        found.append(seen(model, x))
    model.fit(x, np.zeros((6, 6)), epochs=2, batch_size=2, shuffle=False, verbose=0)
    found.append(seen(model, x))
    for i, one in enumerate(found):
        for other in found[:i]:
            assert (one != other).any(axis=(1, 2)).mean() > 0.6


@each_layer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_takes_new_images_in_each_step_of_an_epoch(make, dtype):
    """A linear model by hand, on the images of each step, against ``fit``."""
    x, y = pictures(10, (4, 5)).astype(dtype), np.linspace(-1, 1, 10)
    tolerance = {"float32": 1e-4, "float64": 1e-11}[dtype]
    w = np.zeros(20)
    step = 0
    for epoch in range(3):
        order = shuffled(7, epoch, 10)
        for rows in (order[:4], order[4:8], order[8:]):
            watch = looking(make(), (4, 5), len(rows), seed=7)
            for _ in range(step):
                watch.train_on_batch(x[rows], np.zeros((len(rows), len(rows))))
            images = seen(watch, x[rows]).reshape(len(rows), -1)
            w -= 0.05 * 2 / len(rows) * images.T @ (images @ w - y[rows])
            step += 1
    for backend in BACKENDS:
        linear = L.Dense(1, use_bias=False, kernel_initializer="zeros")
        model = fnn.Sequential([fnn.Input((4, 5)), make(), L.Flatten(), linear], seed=7)
        model.compile("mean_squared_error", SGD(0.05), backend=backend, dtype=dtype)
        model.fit(x, y, epochs=3, batch_size=4, verbose=0)
        np.testing.assert_allclose(model.get_weights()[0][:, 0], w, atol=tolerance)


@each_layer
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-12)])
def test_backends_agree(make, dtype, tolerance):
    for shape in ((7, 9), (5, 4, 3), (1, 6)):
        x = pictures(40, shape)
        both = [changed(make(fill=0.5), x, backend=b, dtype=dtype) for b in BACKENDS]
        np.testing.assert_allclose(*both, atol=tolerance)


def trained(layers, x, y, *, classes=10, epochs=3, seed=0, rate=0.01, mixup=0.0, **options):
    model = fnn.Sequential(
        [fnn.Input(x.shape[1:]), *layers, L.Flatten(), L.Dense(32, "relu"),
         L.Dense(classes, "softmax")], seed=seed,
    )  # fmt: skip
    model.compile("cross_entropy", fnn.optimizers.Adam(rate), metrics="accuracy", **options)
    model.fit(x, y, epochs=epochs, mixup=mixup, verbose=0)
    return model


@pytest.mark.skipif(most_threads("cython") < 2, reason="one thread only")
@each_layer
def test_threads_do_not_change_a_bit(make):
    x, y = pictures(96, (8, 8)), np.arange(96) % 10
    one, two = (
        trained([make()], x, y, threads=n, deterministic="any-threads").parameters for n in (1, 2)
    )
    np.testing.assert_array_equal(one, two)
    shards = trained([make()], x, y, threads=2, dtype="float64").parameters
    alone = trained([make()], x, y, threads=1, dtype="float64").parameters
    np.testing.assert_allclose(shards, alone, atol=1e-10)


@each_layer
@each_backend
def test_evaluation_and_prediction_do_not_change_images(backend, make):
    x, y = pictures(20, (8, 8)), np.arange(20) % 10
    model = trained([make()], x, y, backend=backend, dtype="float64")
    plain = trained([], x, y, backend=backend, dtype="float64")
    plain.set_weights(model.get_weights())
    np.testing.assert_array_equal(model.predict(x), plain.predict(x))
    assert model.evaluate(x, y) == plain.evaluate(x, y)
    np.testing.assert_array_equal(model.input_gradients(x, y), plain.input_gradients(x, y))
    model.fit(x, y, validation_data=(x, y), verbose=0)
    plain.set_weights(model.get_weights())
    assert model.history.history["val_loss"][-1] == plain.evaluate(x, y)["loss"]


def test_bytes_are_taken_as_they_are():
    x = np.random.default_rng(0).integers(0, 256, (12, 6, 6), np.uint8)
    for make in LAYERS.values():
        layers = [L.Rescaling(1 / 255), make()]
        both = [changed(layers, images) for images in (x, x.astype("float64"))]
        np.testing.assert_array_equal(*both)
        assert both[0].max() < 2


@each_backend
def test_a_layer_can_be_used_for_images_of_several_shapes(backend):
    """Each use is with the images that it was applied to, also when it is compiled later."""
    layer = L.RandomErasing(1.0, (0.25, 0.25), 1, fill=99)
    wide, tall, large = (pictures(4, shape) for shape in ((4, 16), (16, 4), (20, 20)))
    models = [looking(layer, x.shape[1:], 4, backend=backend) for x in (wide, tall, large)]
    for model, x in zip(models, (wide, tall, large), strict=True):
        model.build(x.shape[1:])
    for model, x, sides in zip(
        models, (wide, tall, large), ((4, 4), (4, 4), (10, 10)), strict=True
    ):
        for image in seen(model, x) == 99:
            assert (image.any(axis=1).sum(), image.any(axis=0).sum()) == sides


def test_shifts_help_with_shifted_digits():
    (x, y), (x_test, y_test) = fnn.datasets.load_digits()
    x, x_test = (a.reshape(-1, 8, 8) / 16 for a in (x, x_test))
    moved = np.concatenate(
        [np.roll(x_test, by, axis=(1, 2)) for by in ((0, 1), (0, -1), (1, 0), (-1, 0))]
    )
    for seed in (0, 1):
        accuracy = [
            trained(layers, x[:800], y[:800], epochs=60, seed=seed).evaluate(
                moved, np.tile(y_test, 4)
            )["accuracy"]
            for layers in ([], [L.RandomAffine(shift=0.15)])
        ]  # fmt: skip
        assert accuracy[1] > accuracy[0] + 0.1


@each_layer
@each_backend
def test_behind_trained_weights_is_an_error_that_says_what_to_do(backend, make):
    layer = make()
    kind = type(layer).__name__
    x = fnn.Input((4, 4))
    model = fnn.Model(x, L.Dense(1)(L.Flatten()(layer(L.BatchNormalization()(x)))))
    model.compile("mean_squared_error", backend=backend)
    message = f"{kind}: comes after a layer with trained weights.*put it before"
    with pytest.raises(ValueError, match=message):
        model.fit(np.ones((4, 4, 4)), np.ones(4), verbose=0)
    assert model.predict(np.ones((4, 4, 4))).shape == (4, 1)


def test_behind_fitted_layers_is_fine():
    x = pictures(20)
    layers = [L.Standardization().adapt(x), L.ExampleCentering(), L.RandomAffine(flip=1.0)]
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    want = (standard - standard.mean(axis=(1, 2), keepdims=True))[:, :, ::-1]
    np.testing.assert_allclose(changed(layers, x), want, atol=1e-12)


@each_layer
@pytest.mark.parametrize("shape", [(16,), (2, 2, 2, 2)])
def test_only_images_are_taken(make, shape):
    kind = type(make()).__name__
    with pytest.raises(ValueError, match=rf"{kind}: expected images \(height, width\)"):
        make()(fnn.Input(shape))


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        ("RandomAffine", "rotation", [-1, 181, math.nan, "10", None]),
        ("RandomAffine", "shift", [-0.1, 1.5, (0.1, 2), (0.1, 0.1, 0.1), "0.1"]),
        ("RandomAffine", "zoom", [-0.1, 1, math.inf]),
        ("RandomAffine", "shear", [-0.1, math.inf]),
        ("RandomAffine", "flip", [-0.1, 1.1, (0.5, 2), (0.5,), True]),
        ("RandomAffine", "fill", [math.nan, "0"]),
        ("RandomElastic", "alpha", [-1, math.inf]),
        ("RandomElastic", "sigma", [0, -1, 20.5]),
        ("RandomElastic", "fill", [math.inf]),
        ("RandomContrast", "contrast", [-0.1, math.nan]),
        ("RandomContrast", "brightness", [-0.1, "a"]),
        ("RandomErasing", "probability", [-0.1, 1.1]),
        ("RandomErasing", "area", [(0, 0.5), (0.5, 0.2), (0.1, 1.1), (0.1,), 2]),
        ("RandomErasing", "aspect", [0.5, math.inf]),
        ("RandomErasing", "fill", [None]),
    ],
)
def test_errors_name_the_argument(kind, name, values):
    for value in values:
        with pytest.raises((ValueError, TypeError), match=rf"^{name}: "):
            getattr(L, kind)(**{name: value})


# ---- mixtures of rows ---------------------------------------------------------------------------


@pytest.mark.parametrize("concentration", [0.2, 1.0, 4.0])
@each_backend
def test_shares_have_a_beta_distribution(backend, concentration):
    """Two rows with the targets 0 and 1 and outputs of 0: the loss is (s^2 + (1 - s)^2) / 2."""
    model = fnn.Sequential([fnn.Input(1), L.Dense(1)], seed=3)
    model.compile("mean_squared_error", SGD(1e-30), backend=backend, dtype="float64")
    history = model.fit(np.zeros((2, 1)), [0.0, 1.0], epochs=1500, mixup=concentration, verbose=0)
    product = (1 - 2 * np.array(history.history["loss"])) / 2  # s (1 - s)
    less = 2 * product / (1 + np.sqrt(np.maximum(1 - 4 * product, 0)))  # the lesser of s and 1 - s
    beta = stats.beta(concentration, concentration)
    assert stats.kstest(less, lambda s: 2 * beta.cdf(s)).pvalue > 0.01


@pytest.mark.parametrize("concentration", [0.01, 0.2, 1.0])
def test_shares_of_the_definition_are_not_folded(concentration):
    drawn = np.array([mixture(Step(seed=5, step=i), 9, 64, concentration) for i in range(3000)])
    beta = stats.beta(concentration, concentration)
    # Shares closer to 1 than rounding are equal to 1.
    shares = np.minimum(drawn[:, 0], 1 - 1e-12)
    shares = np.where(shares < 1e-12, 1e-12, shares)

    def cdf(s):
        return np.where(s <= 1e-12, beta.cdf(1e-12), np.where(s >= 1 - 1e-12, 1.0, beta.cdf(s)))

    if concentration >= 0.2:
        assert stats.kstest(drawn[:, 0], beta.cdf).pvalue > 0.01
    for edge in (0.01, 0.3, 0.5, 0.7, 0.99):
        count = int((shares < edge).sum())
        assert stats.binomtest(count, 3000, float(cdf(edge))).pvalue > 0.005
    assert stats.chisquare(np.bincount(drawn[:, 1].astype(int), minlength=64)[1:]).pvalue > 0.01


def mixing(n, seed, step, concentration):
    """The matrix that mixes the rows of a batch, by the definition of the op."""
    share, ahead = mixture(Step(seed=seed, step=step), 0xFFFFFFFE, n, concentration)
    return share * np.eye(n) + (1 - share) * np.roll(np.eye(n), -ahead, axis=0)


@each_backend
def test_partners_are_other_rows_each_once(backend):
    """From X = Y = I and weights of 0, one step of descent makes the weights M^T M."""
    n = 9
    gaps = []
    for seed in range(40):
        unit = L.Dense(n, use_bias=False, kernel_initializer="zeros")
        model = fnn.Sequential([fnn.Input(n), unit], seed=seed)
        model.compile("mean_squared_error", SGD(n * n / 2), backend=backend, dtype="float64")
        model.fit(np.eye(n), np.eye(n), batch_size=n, mixup=1.0, shuffle=False, verbose=0)
        (found,) = model.get_weights()
        diagonal, off = np.diag(found), found - np.diag(np.diag(found))
        np.testing.assert_allclose(diagonal, diagonal[0])  # s^2 + (1 - s)^2
        product = (1 - diagonal[0]) / 2  # s (1 - s)
        linked = np.abs(off) > 1e-12
        assert (linked.sum(axis=0) == 2).all() and (linked.sum(axis=1) == 2).all()
        np.testing.assert_allclose(off[linked], product)
        gaps.append(int(np.flatnonzero(linked[0])[0]))
        matrix = mixing(n, seed, 0, 1.0)
        np.testing.assert_allclose(found, matrix.T @ matrix, atol=1e-12)
    assert set(gaps) == {1, 2, 3, 4}


def one_hot(y, classes):
    return np.eye(classes)[y]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("targets", ["labels", "one-hot", "numbers"])
def test_losses_and_steps_are_those_of_mixed_examples_and_targets(targets, dtype):
    rng = np.random.default_rng(2)
    n, batch, seed, rate, concentration = 17, 5, 11, 0.3, 0.4
    x = rng.normal(size=(n, 6)).astype(dtype)
    labels = rng.integers(0, 3, n)
    y = rng.normal(size=(n, 3)) if targets == "numbers" else one_hot(labels, 3)
    w, losses, step = np.zeros((6, 3)), [], 0
    for epoch in range(3):
        order, total = shuffled(seed, epoch, n), 0.0
        for start in range(0, n, batch):
            rows = order[start : start + batch]
            m = mixing(len(rows), seed, step, concentration)
            xs, ts = m @ x[rows], m @ y[rows]
            z = xs @ w
            if targets == "numbers":
                total += ((z - ts) ** 2).mean(axis=1).sum()
                dz = 2 * (z - ts) / 3
            else:
                logs = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
                total -= (ts * logs).sum()
                dz = np.exp(logs) - ts
            w -= rate * xs.T @ dz / len(rows)
            step += 1
        losses.append(total / n)
    loss, function = ("mean_squared_error", None) if targets == "numbers" else (
        "cross_entropy", "softmax"
    )  # fmt: skip
    tolerance = {"float32": 1e-5, "float64": 1e-12}[dtype]
    for backend in BACKENDS:
        unit = L.Dense(3, function, use_bias=False, kernel_initializer="zeros")
        model = fnn.Sequential([fnn.Input(6), unit], seed=seed)
        model.compile(loss, SGD(rate), backend=backend, dtype=dtype)
        given = labels if targets == "labels" else y
        options = {"batch_size": batch, "epochs": 3, "mixup": concentration}
        history = model.fit(x, given, **options, verbose=0)
        np.testing.assert_allclose(history.history["loss"], losses, rtol=tolerance)
        np.testing.assert_allclose(model.get_weights()[0], w, atol=tolerance)


def test_several_inputs_and_outputs_are_mixed_alike():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, 2)), rng.normal(size=(6, 3))
    ya, yb = rng.normal(size=(6, 2)), rng.integers(0, 2, 6)
    one, two = fnn.Input(2), fnn.Input(3)
    join = L.Concatenate()([one, two])
    options = {"use_bias": False, "kernel_initializer": "zeros"}
    outs = [L.Dense(2, **options)(join), L.Dense(2, "softmax", **options)(join)]
    model = fnn.Model([one, two], outs, seed=4)
    model.compile(["mean_squared_error", "cross_entropy"], SGD(1.0), dtype="float64")
    model.fit([a, b], [ya, yb], mixup=1.0, shuffle=False, verbose=0)
    m = mixing(6, 4, 0, 1.0)
    x = m @ np.hstack([a, b])
    first, second = model.get_weights()
    np.testing.assert_allclose(first, x.T @ (m @ ya) / 6, atol=1e-12)
    np.testing.assert_allclose(second, x.T @ (m @ one_hot(yb, 2) - 0.5) / 6, atol=1e-12)


def test_mixtures_with_images_and_threads():
    x, y = pictures(64, (8, 8)), np.arange(64) % 10
    both = [
        trained([LAYERS["affine"]()], x, y, mixup=0.2, backend=b, dtype="float64").parameters
        for b in BACKENDS
    ]
    np.testing.assert_allclose(*both, atol=1e-9)
    if most_threads("cython") > 1:
        one, two = (
            trained([], x, y, mixup=0.2, threads=n, deterministic="any-threads").parameters
            for n in (1, 2)
        )
        np.testing.assert_array_equal(one, two)


def test_without_mixtures_all_is_as_before():
    x, y = pictures(40, (8, 8)), np.arange(40) % 10
    other = trained([], x, y, epochs=1)
    other.fit(x, y, epochs=1, mixup=0.5, verbose=0)
    again = trained([], x, y, epochs=1)
    again.fit(x, y, epochs=1, mixup=0.0, verbose=0)
    plain = trained([], x, y, epochs=1)
    plain.fit(x, y, epochs=1, verbose=0)
    np.testing.assert_array_equal(again.parameters, plain.parameters)
    assert (other.parameters != plain.parameters).any()


def test_evaluation_is_not_of_mixtures():
    x, y = pictures(40, (8, 8)), np.arange(40) % 10
    model = trained([], x, y, mixup=1.0)
    found = model.evaluate(x, y)["loss"]
    np.testing.assert_allclose(found, -np.log(model.predict(x)[np.arange(40), y]).mean(), rtol=1e-5)


def test_batches_of_one_row_stay_as_they_are():
    x, y = pictures(6, (8, 8)), np.arange(6)
    for backend in BACKENDS:
        models = [trained([], x, y, epochs=1, backend=backend, dtype="float64") for _ in range(2)]
        for model, share in zip(models, (0.0, 0.5), strict=True):
            model.fit(x, y, batch_size=1, mixup=share, verbose=0)
        first, second = (m.parameters for m in models)
        np.testing.assert_allclose(first, second, atol=1e-10)


@pytest.mark.parametrize("value", [-0.1, 4.5, math.nan, math.inf, 1e-6, 0.009, "0.2", None, True])
def test_impossible_mixtures(value):
    model = fnn.Sequential([L.Dense(2, "softmax")])
    model.compile("cross_entropy")
    with pytest.raises((ValueError, TypeError), match=r"^mixup: expected "):
        model.fit(np.ones((4, 2)), [0, 1, 0, 1], mixup=value, verbose=0)


@pytest.mark.parametrize("least", [0.01, 0.02])
@each_backend
def test_the_least_mixtures_train(backend, least):
    x, y = pictures(40, (8, 8)), np.arange(40) % 10
    model = trained([], x, y, mixup=least, epochs=100, backend=backend)
    assert np.isfinite(model.parameters).all()
    assert model.evaluate(x, y)["accuracy"] == 1


def test_mixtures_have_no_weights():
    model = fnn.Sequential([L.Dense(2, "softmax")])
    model.compile("cross_entropy")
    x, y = np.ones((4, 2)), [0, 1, 0, 1]
    for options in ({"sample_weight": np.ones(4)}, {"class_weight": {0: 2.0}}):
        with pytest.raises(ValueError, match="mixup: not together with sample_weight"):
            model.fit(x, y, mixup=0.2, **options, verbose=0)


def test_mixtures_are_of_batches():
    model = fnn.Sequential([L.Dense(2, "softmax")])
    model.compile("cross_entropy")
    x, y = np.ones((4, 2)), [0, 1, 0, 1]
    with pytest.raises(ValueError, match="mixup: not together with optimizer"):
        model.fit(x, y, mixup=0.2, optimizer="lbfgs", verbose=0)
    with pytest.raises(ValueError, match=r"mixup: expected a number in \[0, 4\], got 9"):
        model.fit(x, y, mixup=9, optimizer="lbfgs", verbose=0)
