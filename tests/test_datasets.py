"""Tests of fastnn.datasets: what is read, and what every error message names."""

from __future__ import annotations

import doctest
import gzip
import hashlib
import http.server
import os
import re
import struct
import subprocess
import sys
import threading
import tracemalloc
import types
from pathlib import Path

import numpy as np
import pytest

from fastnn import datasets

IDX_CODES = {
    "uint8": 0x08,
    "int8": 0x09,
    "int16": 0x0B,
    "int32": 0x0C,
    "float32": 0x0D,
    "float64": 0x0E,
}
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
REAL_DATA = os.environ.get("FASTNN_DATA")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch, tmp_path):
    """Neither the user's data nor the user's cache may decide what a test sees."""
    monkeypatch.delenv("FASTNN_DATA", raising=False)
    monkeypatch.setenv("FASTNN_CACHE", str(tmp_path / "empty-cache"))


def idx_header(shape, code=0x08):
    return struct.pack(f">4B{len(shape)}I", 0, 0, code, len(shape), *shape)


def idx_bytes(values):
    values = np.asarray(values)
    big_endian = values.astype(values.dtype.newbyteorder(">"))
    return idx_header(values.shape, IDX_CODES[values.dtype.name]) + big_endian.tobytes()


def fake_mnist(image_shape=(28, 28), n_train=5, n_test=3, seed=0):
    """Contents of the four files, by name, and the arrays they hold."""
    rng = np.random.default_rng(seed)
    arrays = []
    for n in (n_train, n_test):
        arrays.append(rng.integers(0, 256, (n, *image_shape), dtype=np.uint8))
        arrays.append(rng.integers(0, 10, n, dtype=np.uint8))
    return dict(zip(FILES, arrays, strict=True))


def write_files(directory, arrays, compress=()):
    directory.mkdir(parents=True, exist_ok=True)
    for name, values in arrays.items():
        if name in compress:
            (directory / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(values)))
        else:
            (directory / name).write_bytes(idx_bytes(values))
    return directory


def assert_holds(split, arrays):
    (X_train, y_train), (X_test, y_test) = split
    for X, y, images, labels in (
        (X_train, y_train, arrays[FILES[0]], arrays[FILES[1]]),
        (X_test, y_test, arrays[FILES[2]], arrays[FILES[3]]),
    ):
        assert X.dtype == np.uint8 and y.dtype == np.int64
        np.testing.assert_array_equal(X, images.reshape(len(images), -1))
        np.testing.assert_array_equal(y, labels)


def raises(kind, *parts):
    """Expect an error whose message has every part, in this order."""
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(str(part)) for part in parts))


def test_examples_of_the_docstrings_run():
    result = doctest.testmod(datasets)
    assert result.attempted > 0 and result.failed == 0


def test_import_loads_no_optional_package():
    code = "import sys, fastnn.datasets; print({'pooch', 'requests', 'sklearn'} & set(sys.modules))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


# ---- load_digits -------------------------------------------------------------------------------


def test_digits_shapes_values_and_balance():
    (X_train, y_train), (X_test, y_test) = datasets.load_digits()
    assert X_train.shape == (1437, 64) and X_test.shape == (360, 64)
    assert y_train.shape == (1437,) and y_test.shape == (360,)
    assert X_train.dtype == X_test.dtype == np.uint8
    assert y_train.dtype == y_test.dtype == np.int64
    assert X_train.min() == 0 and X_train.max() == 16
    np.testing.assert_array_equal(np.bincount(y_test), [36] * 10)
    assert np.bincount(y_train).min() >= 138


def test_digits_split_never_changes():
    digest = hashlib.sha256()
    for X, y in datasets.load_digits():
        digest.update(X.tobytes())
        digest.update(y.astype("<i8").tobytes())
    expected = "c5f5910c38903f83b943e0a316868b93a9d2623c9083bd57ff4718fb67de8283"
    assert digest.hexdigest() == expected


def test_digits_are_shuffled():
    for _, y in datasets.load_digits():
        for part in (y[:100], y[-100:]):
            assert set(part) == set(range(10))


def test_digits_calls_share_no_memory():
    (first, _), _ = datasets.load_digits()
    first[:] = 0
    (second, _), _ = datasets.load_digits()
    assert second.any()


def test_digits_are_those_of_scikit_learn():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    theirs = sklearn_datasets.load_digits()
    (X_train, y_train), (X_test, y_test) = datasets.load_digits()
    ours = np.column_stack([np.vstack([X_train, X_test]), np.concatenate([y_train, y_test])])
    expected = np.column_stack([theirs.data, theirs.target]).astype(np.int64)
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, expected.tolist()))


# ---- read_idx ----------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (2, 3, 4), (1, 2, 1, 2, 3), (1,) * 32])
@pytest.mark.parametrize("dtype", IDX_CODES)
def test_idx_round_trip(tmp_path, dtype, shape, compress):
    rng = np.random.default_rng(1)
    values = (rng.standard_normal(shape) * 100).astype(np.int64).astype(dtype)
    if dtype.startswith("float"):
        values = (values + 0.25).astype(dtype)
        values.flat[0] = -np.inf
    elif dtype == "int32":
        values.flat[0] = -(2**31)
    data = idx_bytes(values)
    # The suffix says the opposite of the content: only the content counts.
    path = tmp_path / ("values" if compress else "values.gz")
    path.write_bytes(gzip.compress(data) if compress else data)
    read = datasets.read_idx(path)
    assert read.dtype == np.dtype(dtype) and read.dtype.isnative
    assert read.flags.c_contiguous and read.flags.writeable
    np.testing.assert_array_equal(read, values)
    np.testing.assert_array_equal(datasets.read_idx(str(path)), values)


@pytest.mark.parametrize("shape", [(0,), (0, 28, 28), (3, 0)])
def test_idx_without_values(tmp_path, shape):
    path = tmp_path / "empty"
    path.write_bytes(idx_header(shape, 0x0D))
    read = datasets.read_idx(path)
    assert read.shape == shape and read.dtype == np.float32


def test_idx_larger_than_one_chunk(tmp_path):
    values = np.arange(700_000, dtype=np.int32)
    for name, data in (("a", idx_bytes(values)), ("b", gzip.compress(idx_bytes(values), 1))):
        path = tmp_path / name
        path.write_bytes(data)
        np.testing.assert_array_equal(datasets.read_idx(path), values)


def test_idx_gzip_of_several_members(tmp_path):
    data = idx_bytes(np.arange(10, dtype=np.uint8))
    path = tmp_path / "members"
    path.write_bytes(gzip.compress(data[:9]) + gzip.compress(data[9:]))
    np.testing.assert_array_equal(datasets.read_idx(path), np.arange(10))


def test_idx_missing_file(tmp_path):
    with raises(FileNotFoundError, tmp_path / "nothing"):
        datasets.read_idx(tmp_path / "nothing")


def test_idx_path_of_wrong_type():
    with pytest.raises(TypeError):
        datasets.read_idx(0)


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (b"", ["not an IDX file", "it is empty"]),
        (b"\0\0\x08", ["not an IDX file", "00 00 08"]),
        (b"\x89PNG\r\n\x1a\n", ["not an IDX file", "two zero bytes", "89 50 4e 47"]),
        (b"\0\1\x08\1\0\0\0\0", ["not an IDX file", "00 01 08 01"]),
        (b"\0\0\x0a\1\0\0\0\0", ["dtype code 0x0a", "0x08 (uint8)", "0x0e (float64)"]),
        (b"\0\0\x08\0", ["rank 0", "1 to 32"]),
        (b"\0\0\x08\x21" + b"\0\0\0\1" * 33 + b"\0", ["rank 33", "1 to 32"]),
        (b"\0\0\x08\3\0\0\0\1\0", ["truncated IDX header", "12 bytes for 3 sizes", "found 5"]),
        (idx_header((2, 3), 0x0C) + b"x" * 23, ["truncated", "(2, 3) of int32, 24 bytes", "23"]),
        (idx_header((4,)) + b"12345", ["extra bytes", "(4,) of uint8, 4 bytes"]),
        (idx_header((0, 4)) + b"1", ["extra bytes", "(0, 4) of uint8, 0 bytes"]),
        (idx_header((2**32 - 1,) * 2) + b"1", ["(4294967295, 4294967295)", "no array"]),
        (idx_header((0, *(2**32 - 1,) * 3)), ["(0, 4294967295,", "no array"]),
        (idx_header((2**31, 2**20), 0x0E), ["(2147483648, 1048576)", "18014398509481984 bytes"]),
    ],
)
@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
def test_idx_malformed(tmp_path, data, parts, compress):
    path = tmp_path / "malformed"
    path.write_bytes(gzip.compress(data) if compress else data)
    with raises(ValueError, path, *parts):
        datasets.read_idx(path)


def test_idx_cut_anywhere_is_an_error(tmp_path):
    values = np.arange(12, dtype=np.int16).reshape(3, 4)
    path = tmp_path / "cut"
    for data in (idx_bytes(values), gzip.compress(idx_bytes(values))):
        for length in range(len(data)):
            path.write_bytes(data[:length])
            with raises(ValueError, path):
                datasets.read_idx(path)


def test_idx_corrupt_gzip(tmp_path):
    data = gzip.compress(idx_bytes(np.arange(200, dtype=np.int32)), mtime=0)
    path = tmp_path / "corrupt"
    flipped_checksum = data[:-8] + bytes([data[-8] ^ 1]) + data[-7:]
    bad_method = data[:2] + b"\x07" + data[3:]
    for corrupt in (flipped_checksum, bad_method, data + b"garbage", data[:2]):
        path.write_bytes(corrupt)
        with raises(ValueError, path, "gzip"):
            datasets.read_idx(path)


def test_idx_changed_bytes_never_escape_as_another_error(tmp_path):
    rng = np.random.default_rng(2)
    path = tmp_path / "changed"
    for data in (idx_bytes(np.ones((2, 3), np.float32)), gzip.compress(bytes(9), mtime=0)):
        for at in range(len(data)):
            changed = bytearray(data)
            changed[at] ^= int(rng.integers(1, 256))
            path.write_bytes(changed)
            try:
                datasets.read_idx(path)
            except ValueError as error:
                assert str(path) in str(error)


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
def test_idx_header_alone_allocates_nothing(tmp_path, compress):
    data = idx_header((2**30, 2**10)) + b"few"
    path = tmp_path / "boast"
    path.write_bytes(gzip.compress(data) if compress else data)
    tracemalloc.start()
    try:
        with raises(ValueError, path, "truncated", "only 3 follow"):
            datasets.read_idx(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20


# ---- load_idx_directory ------------------------------------------------------------------------


@pytest.mark.parametrize("image_shape", [(4, 6), (28, 28), (3, 3, 3), (7,)])
@pytest.mark.parametrize("compress", [(), FILES, FILES[1:3]], ids=["plain", "gzip", "mixed"])
def test_directory_of_any_image_size(tmp_path, image_shape, compress):
    arrays = fake_mnist(image_shape)
    write_files(tmp_path, arrays, compress)
    assert_holds(datasets.load_idx_directory(tmp_path), arrays)
    assert_holds(datasets.load_idx_directory(str(tmp_path)), arrays)


def test_directory_prefers_the_plain_file(tmp_path):
    arrays = fake_mnist((2, 2))
    write_files(tmp_path, fake_mnist((2, 2), seed=1), FILES)
    write_files(tmp_path, arrays)
    assert_holds(datasets.load_idx_directory(tmp_path), arrays)


def test_directory_with_wider_labels(tmp_path):
    arrays = fake_mnist((2, 2))
    arrays[FILES[1]] = np.array([0, 300, -1, 7, 2**31 - 1], dtype=np.int32)
    write_files(tmp_path, arrays)
    assert_holds(datasets.load_idx_directory(tmp_path), arrays)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("load", [datasets.load_idx_directory, datasets.load_mnist])
def test_directory_lacks_a_file(tmp_path, load, name):
    write_files(tmp_path, fake_mnist(), FILES)
    (tmp_path / f"{name}.gz").unlink()
    with raises(FileNotFoundError, tmp_path, f"missing {name};", "with or without .gz"):
        load(tmp_path)


@pytest.mark.parametrize("load", [datasets.load_idx_directory, datasets.load_mnist])
def test_directory_does_not_exist(tmp_path, load):
    with raises(FileNotFoundError, tmp_path / "none", "no such directory", *FILES):
        load(tmp_path / "none")


def test_directory_reports_the_bad_file(tmp_path):
    write_files(tmp_path, fake_mnist())
    (tmp_path / FILES[2]).write_bytes(b"<html>404</html>")
    with raises(ValueError, tmp_path / FILES[2], "not an IDX file"):
        datasets.load_idx_directory(tmp_path)


@pytest.mark.parametrize(
    ("name", "values", "parts"),
    [
        (FILES[0], np.zeros(5, np.uint8), [FILES[0], "uint8 of shape (5,)", "(n, height, width)"]),
        (FILES[0], np.zeros((5, 2, 2), np.float32), [FILES[0], "float32", "uint8"]),
        (FILES[0], np.zeros((0, 2, 2), np.uint8), [FILES[1], "5 labels", "0", FILES[0]]),
        (FILES[1], np.zeros((5, 1), np.uint8), [FILES[1], "shape (5, 1)", "(n,)"]),
        (FILES[1], np.zeros(5, np.float64), [FILES[1], "float64", "integer labels"]),
        (FILES[1], np.zeros(4, np.uint8), [FILES[1], "4 labels", "expected 5", FILES[0]]),
        (FILES[3], np.zeros(9, np.uint8), [FILES[3], "9 labels", "expected 3", FILES[2]]),
        (FILES[2], np.zeros((3, 2, 3), np.uint8), [FILES[2], "6 pixels", "expected 4", FILES[0]]),
    ],
)
def test_directory_of_inconsistent_files(tmp_path, name, values, parts):
    write_files(tmp_path, {**fake_mnist((2, 2)), name: values})
    with raises(ValueError, *parts):
        datasets.load_idx_directory(tmp_path)


@pytest.mark.parametrize("empty", [{"n_train": 0}, {"n_test": 0}, {"image_shape": (0, 28)}])
def test_directory_without_a_single_image(tmp_path, empty):
    write_files(tmp_path, fake_mnist(**empty))
    with raises(ValueError, "images-idx3-ubyte", "at least one image"):
        datasets.load_idx_directory(tmp_path)


# ---- load_mnist --------------------------------------------------------------------------------


def fake_pooch(monkeypatch, cache=None, retrieve=None):
    """Stand in for the package pooch; a download that is not expected fails the test."""

    def unexpected(*args, **kwargs):
        pytest.fail("a download was started")

    module = types.ModuleType("pooch")
    module.os_cache = lambda project: Path(cache) / project
    module.retrieve = retrieve or unexpected
    monkeypatch.setitem(sys.modules, "pooch", module)


def no_pooch(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)


@pytest.fixture
def real_mnist(monkeypatch):
    if not REAL_DATA:
        pytest.skip("FASTNN_DATA is not set")
    directory = Path(REAL_DATA).expanduser()
    if not all(
        (directory / name).is_file() or (directory / f"{name}.gz").is_file() for name in FILES
    ):
        pytest.skip("FASTNN_DATA does not hold the four files of MNIST")
    monkeypatch.setenv("FASTNN_DATA", REAL_DATA)


def test_real_mnist(real_mnist):
    (X_train, y_train), (X_test, y_test) = datasets.load_mnist()
    assert X_train.shape == (60000, 784) and X_test.shape == (10000, 784)
    assert X_train.dtype == X_test.dtype == np.uint8
    assert y_train.dtype == y_test.dtype == np.int64
    assert y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(y_test).tolist() == counts
    # The published mean of the training pixels, scaled to 1.
    assert X_train.mean() / 255 == pytest.approx(0.1307, abs=5e-5)


def test_mnist_from_the_argument_alone(tmp_path, monkeypatch):
    arrays = fake_mnist()
    write_files(tmp_path / "mine", arrays)
    write_files(tmp_path / "environment", fake_mnist(seed=1))
    monkeypatch.setenv("FASTNN_DATA", str(tmp_path / "environment"))
    fake_pooch(monkeypatch)
    assert_holds(datasets.load_mnist(tmp_path / "mine"), arrays)
    (tmp_path / "mine" / FILES[3]).unlink()
    with raises(FileNotFoundError, tmp_path / "mine", f"missing {FILES[3]};"):
        datasets.load_mnist(tmp_path / "mine")


def test_mnist_from_the_environment(tmp_path, monkeypatch):
    arrays = fake_mnist()
    write_files(tmp_path / "environment", arrays, FILES)
    write_files(tmp_path / "cache", fake_mnist(seed=1))
    monkeypatch.setenv("FASTNN_DATA", str(tmp_path / "environment"))
    monkeypatch.setenv("FASTNN_CACHE", str(tmp_path / "cache"))
    fake_pooch(monkeypatch)
    assert_holds(datasets.load_mnist(), arrays)


def test_mnist_environment_expands_the_home_directory(tmp_path, monkeypatch):
    arrays = fake_mnist()
    write_files(tmp_path / "digits", arrays)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("FASTNN_DATA", os.path.join("~", "digits"))
    assert_holds(datasets.load_mnist(), arrays)


@pytest.mark.parametrize("exists", [True, False])
def test_mnist_environment_never_falls_back(tmp_path, monkeypatch, exists):
    place = tmp_path / "environment"
    if exists:
        write_files(place, fake_mnist())
        (place / FILES[0]).unlink()
    write_files(tmp_path / "cache", fake_mnist())
    monkeypatch.setenv("FASTNN_DATA", str(place))
    monkeypatch.setenv("FASTNN_CACHE", str(tmp_path / "cache"))
    fake_pooch(monkeypatch)
    what = f"missing {FILES[0]};" if exists else "no such directory"
    with raises(FileNotFoundError, "FASTNN_DATA", place, what):
        datasets.load_mnist()


@pytest.mark.parametrize("pooch_is_there", [True, False])
def test_mnist_from_the_named_cache(tmp_path, monkeypatch, pooch_is_there):
    arrays = fake_mnist()
    write_files(tmp_path / "cache", arrays, FILES[:2])
    monkeypatch.setenv("FASTNN_DATA", "")
    monkeypatch.setenv("FASTNN_CACHE", str(tmp_path / "cache"))
    if pooch_is_there:
        fake_pooch(monkeypatch, cache=tmp_path / "elsewhere")
    else:
        no_pooch(monkeypatch)
    assert_holds(datasets.load_mnist(), arrays)


def test_mnist_from_the_cache_of_the_system(tmp_path, monkeypatch):
    arrays = fake_mnist()
    write_files(tmp_path / "fastnn", arrays)
    monkeypatch.delenv("FASTNN_CACHE")
    fake_pooch(monkeypatch, cache=tmp_path)
    assert_holds(datasets.load_mnist(), arrays)


@pytest.mark.parametrize("cache_is_named", [True, False])
def test_mnist_without_pooch_says_what_to_do(tmp_path, monkeypatch, cache_is_named):
    no_pooch(monkeypatch)
    place = tmp_path / "cache"
    monkeypatch.setenv("FASTNN_CACHE", str(place))
    if not cache_is_named:
        monkeypatch.delenv("FASTNN_CACHE")
        place = "a directory named by FASTNN_CACHE"
    parts = ['pip install "fastnn[download]"', *FILES, "load_mnist(directory)", "FASTNN_DATA"]
    with raises(ImportError, *parts, place):
        datasets.load_mnist()


@pytest.mark.parametrize("kind", [OSError, ConnectionError, TimeoutError, PermissionError])
def test_mnist_without_network_says_what_to_do(tmp_path, monkeypatch, kind):
    def retrieve(*args, **kwargs):
        raise kind("the cable is cut")

    fake_pooch(monkeypatch, retrieve=retrieve)
    monkeypatch.setenv("FASTNN_CACHE", str(tmp_path / "cache"))
    parts = [f"{FILES[0]}.gz", "the cable is cut", *FILES, "load_mnist(directory)", "FASTNN_DATA"]
    with raises(OSError, *parts, tmp_path / "cache") as caught:
        datasets.load_mnist()
    assert isinstance(caught.value.__cause__, kind)


def test_mnist_downloads_only_what_the_cache_lacks(tmp_path, monkeypatch):
    arrays = fake_mnist()
    cache = write_files(tmp_path / "cache", {name: arrays[name] for name in FILES[:2]}, FILES[1:2])
    monkeypatch.setenv("FASTNN_CACHE", str(cache))
    asked = []

    def retrieve(url, known_hash, fname, path):
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", known_hash)
        assert url == f"https://ossci-datasets.s3.amazonaws.com/mnist/{fname}"
        asked.append(fname)
        target = Path(path) / fname
        target.write_bytes(gzip.compress(idx_bytes(arrays[fname.removesuffix(".gz")])))
        return str(target)

    fake_pooch(monkeypatch, retrieve=retrieve)
    assert_holds(datasets.load_mnist(), arrays)
    assert asked == [f"{name}.gz" for name in FILES[2:]]
    fake_pooch(monkeypatch)
    assert_holds(datasets.load_mnist(), arrays)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server on this machine with fake files, whose checksums the module is told to expect."""
    arrays = fake_mnist()
    root = write_files(tmp_path / "served", arrays, FILES)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(root))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(datasets, "_MNIST_URL", f"http://127.0.0.1:{running.server_port}/")
        checksums = {
            name: hashlib.sha256((root / f"{name}.gz").read_bytes()).hexdigest() for name in FILES
        }
        monkeypatch.setattr(datasets, "_MNIST_SHA256", checksums)
        yield root, arrays
        running.shutdown()
        thread.join()


def test_mnist_download_with_the_real_pooch(tmp_path, monkeypatch, server):
    pytest.importorskip("pooch")
    root, arrays = server
    cache = tmp_path / "new" / "cache"
    monkeypatch.setenv("FASTNN_CACHE", str(cache))
    assert_holds(datasets.load_mnist(), arrays)
    assert sorted(path.name for path in cache.iterdir()) == sorted(f"{name}.gz" for name in FILES)
    for path in root.iterdir():
        path.unlink()
    assert_holds(datasets.load_mnist(), arrays)


def test_mnist_download_with_another_checksum(tmp_path, monkeypatch, server):
    pytest.importorskip("pooch")
    root, _ = server
    (root / f"{FILES[1]}.gz").write_bytes(gzip.compress(idx_bytes(np.zeros(5, np.uint8))))
    monkeypatch.setenv("FASTNN_CACHE", str(tmp_path / "cache"))
    with raises(OSError, f"{FILES[1]}.gz", "SHA256", "does not match", "load_mnist(directory)"):
        datasets.load_mnist()
    # What failed the check must not be taken for a cached file next time.
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{FILES[0]}.gz"]


def test_mnist_download_of_a_missing_file(tmp_path, monkeypatch, server):
    pytest.importorskip("pooch")
    root, _ = server
    (root / f"{FILES[0]}.gz").unlink()
    monkeypatch.setenv("FASTNN_CACHE", str(tmp_path / "cache"))
    with raises(OSError, f"{FILES[0]}.gz", "404", "FASTNN_DATA"):
        datasets.load_mnist()


@pytest.mark.parametrize("image_shape", [(27, 28), (784,), (28, 28, 1)])
def test_mnist_images_are_28_by_28(tmp_path, image_shape):
    write_files(tmp_path, fake_mnist(image_shape))
    with raises(ValueError, tmp_path / FILES[0], image_shape, "expected (28, 28)"):
        datasets.load_mnist(tmp_path)


def test_mnist_has_as_many_labels_as_images(tmp_path):
    write_files(tmp_path, {**fake_mnist(), FILES[3]: np.zeros(4, np.uint8)})
    with raises(ValueError, tmp_path / FILES[3], "4 labels", "expected 3"):
        datasets.load_mnist(tmp_path)


# ---- read_csv ----------------------------------------------------------------------------------


@pytest.fixture
def csv_file(tmp_path):
    def write(content):
        path = tmp_path / "table.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_csv_text_target_classifies(csv_file):
    table = datasets.read_csv(csv_file("a,b,kind\n1,2.5,dog\n-3,1e2,cat\n.5,+4,dog\n"))
    assert isinstance(table, datasets.Table)
    assert table.X.dtype == np.float64
    np.testing.assert_array_equal(table.X, [[1, 2.5], [-3, 100], [0.5, 4]])
    assert table.y.dtype == np.int64 and table.y.tolist() == [1, 0, 1]
    assert table.classes.tolist() == ["cat", "dog"]
    assert table.feature_names == ["a", "b"] and table.target_name == "kind"


def test_csv_integer_target_classifies(csv_file):
    table = datasets.read_csv(csv_file("a,y\n1,10\n2,-3\n3,9\n4,+10\n5,009\n"))
    assert table.y.dtype == np.int64 and table.y.tolist() == [2, 0, 1, 2, 1]
    assert table.classes.dtype == np.int64 and table.classes.tolist() == [-3, 9, 10]


@pytest.mark.parametrize("cell", ["1.5", "2.0", "1e3", ".5", "3."])
def test_csv_float_target_regresses(csv_file, cell):
    table = datasets.read_csv(csv_file(f"a,y\n1,7\n2,{cell}\n3,7\n"))
    assert table.y.dtype == np.float64 and table.y.tolist() == [7, float(cell), 7]
    assert table.classes is None


def test_csv_integers_and_text_are_classes(csv_file):
    table = datasets.read_csv(csv_file("a,y\n1,4\n2,V8\n3,10\n4,1_0\n"))
    assert table.classes.tolist() == ["10", "1_0", "4", "V8"]
    assert table.y.tolist() == [2, 3, 0, 1]


def test_csv_text_and_fractions_are_an_error(csv_file):
    path = csv_file("a,price\n1,2\n2,1.5\n3,1.5x\n")
    with raises(ValueError, path, "line 4", "'price'", "'1.5x'", "1.5 (line 3)"):
        datasets.read_csv(path)


@pytest.mark.parametrize(
    ("target", "X", "y"),
    [
        ("a", [[2, 3], [5, 6]], [1.5, 4.5]),
        ("b", [[1.5, 3], [4.5, 6]], [0, 1]),
        ("c", [[1.5, 2], [4.5, 5]], [0, 1]),
        (None, [[1.5, 2], [4.5, 5]], [0, 1]),
    ],
)
def test_csv_target_is_named_or_last(csv_file, target, X, y):
    table = datasets.read_csv(csv_file("a,b,c\n1.5,2,3\n4.5,5,6\n"), target)
    np.testing.assert_array_equal(table.X, X)
    assert table.y.tolist() == y
    assert table.target_name == (target or "c")
    assert table.feature_names == [name for name in "abc" if name != (target or "c")]


@pytest.mark.parametrize(
    "content",
    [
        "a,b c,y\n1,2,x\n3,4,z\n",
        "a,b c,y\n1,2,x\n3,4,z",
        "\ufeffa,b c,y\n1,2,x\n3,4,z\n",
        "a,b c,y\r\n1,2,x\r\n3,4,z\r\n",
        "a,b c,y\r1,2,x\r3,4,z\r",
        '"a","b c","y"\n"1","2","x"\n"3","4","z"\n',
        ' a , "b c",y \n 1 , 2 , "x"\n3,\t4,z \n',
        "a,b c,y\n1,2,x\n3,4,z\n\n  \n\n",
        "\n\na,b c,y\n\n1,2,x\n\n3,4,z\n",
    ],
    ids=["lf", "no-end", "bom", "crlf", "cr", "quoted", "blanks", "trailing", "blank-lines"],
)
def test_csv_ways_to_write_one_table(csv_file, content):
    table = datasets.read_csv(csv_file(content))
    np.testing.assert_array_equal(table.X, [[1, 2], [3, 4]])
    assert table.feature_names == ["a", "b c"] and table.target_name == "y"
    assert table.classes.tolist() == ["x", "z"] and table.y.tolist() == [0, 1]


def test_csv_quoted_separators_and_other_scripts(csv_file):
    content = 'größe,"x, y",art\n1,2,"a ""b"", c"\n3,4,猫\n5,6,"two\nlines"\n'
    table = datasets.read_csv(csv_file(content))
    assert table.feature_names == ["größe", "x, y"]
    assert table.classes.tolist() == ['a "b", c', "two\nlines", "猫"]


def test_csv_line_numbers_count_lines_inside_quotes(csv_file):
    path = csv_file('a,y\n1,"two\nlines"\n\nbad,x\n')
    with raises(ValueError, path, "line 5", "'a'", "'bad'"):
        datasets.read_csv(path)


def test_csv_result_is_frozen(csv_file):
    table = datasets.read_csv(csv_file("a,y\n1,2\n"))
    with pytest.raises(AttributeError):
        table.X = None
    table.X[0, 0] = 5  # the arrays themselves are the caller's


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("a,b,y\n1,2,0\n1,,0\n", ["line 3, column 'b'", "missing value"]),
        ("a,b,y\n1,2,0\n1,  ,0\n", ["line 3, column 'b'", "missing value"]),
        ('a,b,y\n1,"",0\n', ["line 2, column 'b'", "missing value"]),
        ("a,b,y\n1,2,\n", ["line 2, column 'y'", "missing value"]),
        ("a,b,y\n,,\n", ["line 2, column 'y'", "missing value"]),
        ("a,b,y\n1,2,0\n1,2\n", ["line 3", "expected 3 cells", "found 2"]),
        ("a,b,y\n1,2,0,4\n", ["line 2", "expected 3 cells", "found 4"]),
        ("a,b,y\n1,x7,0\n", ["line 2, column 'b'", "expected a number", "'x7'"]),
        ("a,b,y\n1,1_000,0\n", ["line 2, column 'b'", "expected a number", "'1_000'"]),
        ("a,b,y\n1,0x10,0\n", ["line 2, column 'b'", "expected a number", "'0x10'"]),
        ("a,b,y\n1," + "w" * 500 + ",0\n", ["line 2, column 'b'", "w" * 57 + "...'"]),
        ("a,b,y\n1,nan,0\n", ["line 2, column 'b'", "finite number", "'nan'"]),
        ("a,b,y\n1,-Inf,0\n", ["line 2, column 'b'", "finite number", "'-Inf'"]),
        ("a,b,y\n1,1e999,0\n", ["line 2, column 'b'", "finite number", "'1e999'"]),
        ("a,b,y\n1,2,0\n3,4,NaN\n", ["line 3, column 'y'", "finite number", "'NaN'"]),
        ("a,b,y\n1,2,infinity\n", ["line 2, column 'y'", "finite number", "'infinity'"]),
        (f"a,y\n1,0\n1,{2**63}\n", ["line 3, column 'y'", "64 bits", 2**63]),
        ("a,b,a\n1,2,3\n", ["line 1", "more than once: 'a'"]),
        ("b, a,a ,b\n1,2,3,4\n", ["line 1", "more than once: 'a', 'b'"]),
        ("a,,y\n1,2,3\n", ["line 1", "column 2 has no name"]),
        ("5.1,3.5,0\n4.9,3.0,0\n", ["line 1", "expected a header", "5.1, 3.5, 0"]),
        ("y\n1\n", ["line 1", "only one column, 'y'"]),
        ("a;b;y\n1;2;3\n", ["line 1", "only one column, 'a;b;y'", "commas"]),
        ("a,b\n", ["no rows"]),
        ("a,b\n\n  \n", ["no rows"]),
        ("", ["empty", "header"]),
        ("\n\n", ["empty", "header"]),
        ("\ufeff", ["empty", "header"]),
        ('a,y\n1,"open\n', ["line 2", "not a valid CSV row"]),
        ('a,y\n1,"x" \n', ["line 2", "not a valid CSV row"]),
        ('a,y\n1,"x"z\n', ["line 2", "not a valid CSV row"]),
        ("a,y\n1," + "w" * 200_000 + "\n", ["line 2", "not a valid CSV row", "field"]),
        (b"a,y\n1,2\n3,\xff\n", ["line 3", "UTF-8", "0xff"]),
        (b"a,y\n1,caf\xe9\n", ["line 2", "UTF-8", "0xe9"]),
        ("a,y\n1,2\n".encode("utf-16"), ["line 1", "UTF-8", "0xf"]),
        (gzip.compress(b"a,y\n1,2\n", mtime=0), ["line 1", "UTF-8", "0x8b"]),
    ],
)
def test_csv_malformed(csv_file, content, parts):
    path = csv_file(content)
    with raises(ValueError, path, *parts):
        datasets.read_csv(path)


def test_csv_undecodable_far_into_the_file(csv_file):
    path = csv_file(b"a,y\n" + b"1,2\n" * 50_000 + b"1,\xe9\n" + b"1,2\n" * 50_000)
    with raises(ValueError, path, "line 50002", "0xe9"):
        datasets.read_csv(path)


def test_csv_unknown_target_lists_columns_and_near_matches(csv_file):
    path = csv_file("rooms,price\n3,1.5\n")
    with raises(ValueError, path, "'pirce'", "did you mean 'price'?", "'rooms', 'price'"):
        datasets.read_csv(path, target="pirce")
    with raises(ValueError, path, "no target column 'zzz'. The columns are 'rooms', 'price'"):
        datasets.read_csv(path, target="zzz")


def test_csv_target_of_wrong_type(csv_file):
    with raises(TypeError, "target", "str", "int"):
        datasets.read_csv(csv_file("a,y\n1,2\n"), target=1)


def test_csv_missing_file(tmp_path):
    with raises(FileNotFoundError, tmp_path / "nothing.csv"):
        datasets.read_csv(tmp_path / "nothing.csv")


def test_csv_changed_bytes_never_escape_as_another_error(csv_file):
    data = '\ufeffa,"b, c",y\r\n1,2.5,"x"\r\n3,-4e2,ü\r\n'.encode()
    rng = np.random.default_rng(3)
    for at in range(len(data)):
        for _ in range(8):
            changed = bytearray(data)
            changed[at] = int(rng.integers(256))
            path = csv_file(bytes(changed))
            try:
                table = datasets.read_csv(path)
            except ValueError as error:
                assert str(path) in str(error)
            else:
                assert np.isfinite(table.X).all() and len(table.X) == len(table.y) > 0
