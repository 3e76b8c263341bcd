"""Data to train on: digits shipped with the package, MNIST, IDX files and CSV tables.

`load_digits` needs nothing but this package; `load_mnist` finds or downloads MNIST;
`load_idx_directory` and `read_csv` read data of one's own, also for the command line. Every reader
treats its file as untrusted: sizes come from what was read, never from a header alone, and an error
names the file, what was found and what was expected.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import importlib
import io
import math
import os
import re
import struct
import sys
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TextIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["Table", "load_digits", "load_idx_directory", "load_mnist", "read_csv", "read_idx"]

PathLike = str | os.PathLike[str]
Samples = tuple[NDArray[np.uint8], NDArray[np.int64]]
Split = tuple[Samples, Samples]


# ---- digits ------------------------------------------------------------------------------------

_DIGITS_TEST_PER_CLASS = 36


def load_digits() -> Split:
    """Load 1,797 real handwritten digits of 8 x 8 pixels; no download, no other package.

    The split is fixed: 36 samples of every digit are for testing, all others for training, both in
    a fixed shuffled order that does not depend on the NumPy version. The shuffle matters, because
    the original rows are grouped by writer: a split at the end of that order (its last 360 rows)
    would test on other writers than it trains on, which is a different, harder task.

    Returns
    -------
    (X_train, y_train), (X_test, y_test)
        `X_train` uint8 (1437, 64) and `X_test` uint8 (360, 64): pixels row by row, 0 (blank) to 16
        (full), to be scaled by ``layers.Rescaling(1 / 16)``; `y_train` int64 (1437,) and `y_test`
        int64 (360,): the digit, 0 to 9.

    Source
    ------
    E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
    Repository, 1998, https://doi.org/10.24432/C50P49 (test set; CC BY 4.0).

    Examples
    --------
    >>> from fastnn import datasets
    >>> (X_train, y_train), (X_test, y_test) = datasets.load_digits()
    >>> X_train.shape, X_test.shape
    ((1437, 64), (360, 64))
    """
    from importlib import resources  # here, because it takes long to load

    path = resources.files("fastnn").joinpath("data", "digits.npz")
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        images = arrays["images"]
        labels = arrays["labels"].astype(np.int64)
    # NumPy promises the raw output of a bit generator for ever, but not what Generator.permutation
    # makes of it (NEP 19), so the shuffles sort by raw numbers. Drawing and ordering need one each:
    # in the order of the draw, the first training rows would be of the digits that filled up first.
    bits = np.random.PCG64(0)
    draw = np.argsort(bits.random_raw(len(labels)), kind="stable")
    order = np.argsort(bits.random_raw(len(labels)), kind="stable")
    is_test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        is_test[draw[labels[draw] == digit][:_DIGITS_TEST_PER_CLASS]] = True
    train, test = order[~is_test[order]], order[is_test[order]]
    return (images[train], labels[train]), (images[test], labels[test])


# ---- IDX files ---------------------------------------------------------------------------------

_IDX_DTYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
_IDX_MAX_RANK = 32  # of an array in NumPy 1; NumPy 2 allows 64
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20


def read_idx(path: PathLike) -> NDArray[Any]:
    """Read one IDX file, the format of MNIST, plain or compressed with gzip.

    An IDX file is two zero bytes, a dtype code, the rank, one big-endian uint32 per dimension, and
    the values in C order, big-endian. Whether it is compressed is seen from its first two bytes;
    its name does not matter.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    ndarray
        The array in native byte order, of rank 1 to 32 and dtype uint8, int8, int16, int32, float32
        or float64 (codes 0x08, 0x09, 0x0B, 0x0C, 0x0D, 0x0E).

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is not an IDX file, it is shorter or longer than its header says, or its gzip stream is
        corrupt.

    Source
    ------
    Y. LeCun, C. Cortes and C. J. C. Burges, "The MNIST database of handwritten digits",
    http://yann.lecun.com/exdb/mnist/, "the IDX file format".

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from fastnn import datasets
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = pathlib.Path(directory, "labels-idx1-ubyte")
    ...     _ = path.write_bytes(bytes([0, 0, 0x08, 1]) + bytes([0, 0, 0, 3]) + bytes([7, 2, 1]))
    ...     datasets.read_idx(path)
    array([7, 2, 1], dtype=uint8)
    """
    file = Path(path)
    with open(file, "rb") as raw:
        stream: io.BufferedIOBase = raw
        if raw.peek(2)[:2] == _GZIP_MAGIC:
            stream = gzip.GzipFile(fileobj=raw)
        try:
            return _parse_idx(stream, file)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{file}: corrupt or truncated gzip file: {error}") from error


def _parse_idx(stream: io.BufferedIOBase, file: Path) -> NDArray[Any]:
    magic = _read_up_to(stream, 4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        found = f"it starts with the bytes {magic.hex(' ')}" if magic else "it is empty"
        raise ValueError(
            f"{file}: not an IDX file: expected two zero bytes, a dtype code and a rank; {found}"
        )
    code, rank = magic[2], magic[3]
    if code not in _IDX_DTYPES:
        known = ", ".join(f"0x{known:02x} ({t.name})" for known, t in _IDX_DTYPES.items())
        raise ValueError(f"{file}: unknown IDX dtype code 0x{code:02x}; expected one of {known}")
    if not 1 <= rank <= _IDX_MAX_RANK:
        raise ValueError(f"{file}: IDX rank {rank}; expected 1 to {_IDX_MAX_RANK}")
    header = _read_up_to(stream, 4 * rank)
    if len(header) < 4 * rank:
        raise ValueError(
            f"{file}: truncated IDX header: expected {4 * rank} bytes for {rank} sizes, "
            f"found {len(header)}"
        )
    dtype = _IDX_DTYPES[code]
    shape = struct.unpack(f">{rank}I", header)
    expected = math.prod(shape) * dtype.itemsize
    announced = f"the header says shape {shape} of {dtype.name}, {expected} bytes"
    # A size of 0 makes the product 0, but NumPy refuses the other sizes all the same.
    if math.prod(size for size in shape if size) * dtype.itemsize > sys.maxsize:
        raise ValueError(f"{file}: {announced}; no array can be that large")
    data = _read_up_to(stream, expected + 1)
    if len(data) < expected:
        raise ValueError(f"{file}: truncated: {announced} of values, but only {len(data)} follow")
    if len(data) > expected:
        raise ValueError(f"{file}: extra bytes at the end: {announced} of values, but more follow")
    values: NDArray[Any] = np.ndarray(shape, dtype, buffer=data)
    return values.astype(dtype.newbyteorder("="), copy=False)


def _read_up_to(stream: io.BufferedIOBase, size: int) -> bytearray:
    """Read `size` bytes, or all there are if fewer; memory grows with what is really there."""
    data = bytearray()
    while len(data) < size:
        chunk = stream.read(min(_CHUNK, size - len(data)))
        if not chunk:
            break
        data += chunk
    return data


# ---- MNIST and data laid out like it -----------------------------------------------------------

_IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MNIST_SHA256 = {  # of the compressed files as first published
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}


def load_idx_directory(directory: PathLike) -> Split:
    """Load a directory laid out like MNIST, with images of any size.

    It holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
    `t10k-labels-idx1-ubyte`, each plain or with the suffix `.gz` (where both are there, the plain
    one is read). MNIST, Fashion-MNIST, KMNIST and EMNIST come, or can be renamed, this way.

    Parameters
    ----------
    directory : str or path-like
        The directory.

    Returns
    -------
    (X_train, y_train), (X_test, y_test)
        `X_train` uint8 (n, features) and `X_test` uint8 (m, features): the pixels of an image in
        C order; `y_train` int64 (n,) and `y_test` int64 (m,): labels.

    Raises
    ------
    FileNotFoundError
        The directory or one of the four files is missing; the message says which.
    ValueError
        A file is not a valid IDX file, images are not uint8 of rank 2 or more, labels are not
        integers of rank 1, images and labels differ in number or are none, or the images for
        training and testing differ in size.

    Examples
    --------
    >>> import pathlib, struct, tempfile
    >>> from fastnn import datasets
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     for name in ("train", "t10k"):
    ...         images = struct.pack(">4B3I", 0, 0, 0x08, 3, 2, 4, 4) + bytes(2 * 4 * 4)
    ...         _ = pathlib.Path(directory, f"{name}-images-idx3-ubyte").write_bytes(images)
    ...         labels = struct.pack(">4BI", 0, 0, 0x08, 1, 2) + bytes([1, 0])
    ...         _ = pathlib.Path(directory, f"{name}-labels-idx1-ubyte").write_bytes(labels)
    ...     (X_train, y_train), (X_test, y_test) = datasets.load_idx_directory(directory)
    >>> X_train.shape, y_train
    ((2, 16), array([1, 0]))
    """
    return _load_four_files(Path(directory))


def load_mnist(directory: PathLike | None = None) -> Split:
    """Load MNIST: 70,000 handwritten digits of 28 x 28 pixels.

    The four IDX files (see `load_idx_directory` for their names) are taken from the first of these
    that applies; a place that is named but lacks a file is an error, and the next is not tried:

    1. `directory`;
    2. the directory that the environment variable ``FASTNN_DATA`` names;
    3. the cache: the directory that ``FASTNN_CACHE`` names, or the operating system's cache
       directory for fastnn. What it lacks is downloaded into it, and its SHA-256 checked. This
       needs the package pooch: ``pip install "fastnn[download]"``.

    An environment variable that is empty counts as not set.

    Parameters
    ----------
    directory : str or path-like, optional
        Where the four files are.

    Returns
    -------
    (X_train, y_train), (X_test, y_test)
        `X_train` uint8 (60000, 784) and `X_test` uint8 (10000, 784): pixels row by row, 0 (blank)
        to 255, to be scaled by ``layers.Rescaling(1 / 255)``; `y_train` int64 (60000,) and `y_test`
        int64 (10000,): the digit, 0 to 9.

    Raises
    ------
    FileNotFoundError
        `directory` or ``FASTNN_DATA`` lacks one of the four files; the message says which.
    ImportError
        A download is needed, and pooch cannot be imported.
    OSError
        The download failed, or what came has another SHA-256.
    ValueError
        A file is not valid, the images are not 28 x 28, or images and labels differ in number.

    Source
    ------
    Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document
    recognition", Proceedings of the IEEE 86(11), 1998, https://doi.org/10.1109/5.726791.

    Examples
    --------
    >>> from fastnn import datasets
    >>> (X_train, y_train), (X_test, y_test) = datasets.load_mnist()  # doctest: +SKIP
    >>> X_train.shape  # doctest: +SKIP
    (60000, 784)
    """
    image_shape = (28, 28)
    if directory is not None:
        return _load_four_files(Path(directory), image_shape)
    if named := os.environ.get("FASTNN_DATA"):
        place = Path(os.path.expanduser(named))
        return _load_four_files(place, image_shape, origin="the environment variable FASTNN_DATA: ")
    return _load_four_files(_filled_cache(), image_shape)


def _find(directory: Path, name: str) -> Path | None:
    """The file of this name, plain or compressed, or None."""
    candidates = (directory / name, directory / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _load_four_files(
    directory: Path, image_shape: tuple[int, ...] | None = None, origin: str = ""
) -> Split:
    found = {name: _find(directory, name) for name in _IDX_FILES}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        what = f"missing {' and '.join(missing)}" if directory.is_dir() else "no such directory"
        raise FileNotFoundError(
            f"{origin}{directory}: {what}; expected the four files {', '.join(_IDX_FILES)}, "
            "each with or without .gz"
        )
    train_images, train_labels, test_images, test_labels = (p for p in found.values() if p)
    train = _load_samples(train_images, train_labels, image_shape)
    test = _load_samples(test_images, test_labels, image_shape)
    if train[0].shape[1] != test[0].shape[1]:
        raise ValueError(
            f"{test_images}: {test[0].shape[1]} pixels an image; expected "
            f"{train[0].shape[1]} as in {train_images}"
        )
    return train, test


def _load_samples(
    images_file: Path, labels_file: Path, image_shape: tuple[int, ...] | None
) -> Samples:
    images, labels = read_idx(images_file), read_idx(labels_file)
    if images.dtype != np.uint8 or images.ndim < 2:
        raise ValueError(
            f"{images_file}: found {images.dtype} of shape {images.shape}; expected images as "
            "uint8 of shape (n, height, width)"
        )
    if image_shape is not None and images.shape[1:] != image_shape:
        raise ValueError(
            f"{images_file}: found images of shape {images.shape[1:]}; expected {image_shape}"
        )
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise ValueError(
            f"{labels_file}: found {labels.dtype} of shape {labels.shape}; expected integer "
            "labels of shape (n,)"
        )
    if len(images) != len(labels):
        raise ValueError(
            f"{labels_file}: found {len(labels)} labels; expected {len(images)}, the number of "
            f"images in {images_file}"
        )
    if images.size == 0:
        raise ValueError(f"{images_file}: found shape {images.shape}; expected at least one image")
    return images.reshape(len(images), -1), labels.astype(np.int64)


def _filled_cache() -> Path:
    """The cache directory, after downloading what it lacks."""
    no_pooch: ImportError | None = None
    pooch: Any = None
    try:
        pooch = importlib.import_module("pooch")
    except ImportError as error:
        no_pooch = error
    cache: Path | None = None
    if named := os.environ.get("FASTNN_CACHE"):
        cache = Path(os.path.expanduser(named))
    elif pooch is not None:
        cache = Path(pooch.os_cache("fastnn"))
    missing = [name for name in _IDX_FILES if cache is None or _find(cache, name) is None]
    if cache is None or (missing and pooch is None):
        raise ImportError(
            f"load_mnist: a download needs the package pooch, which cannot be imported "
            f'({no_pooch}): pip install "fastnn[download]". {_own_copy(cache)}'
        ) from no_pooch
    for name in missing:
        url = f"{_MNIST_URL}{name}.gz"
        try:
            pooch.retrieve(url, f"sha256:{_MNIST_SHA256[name]}", fname=f"{name}.gz", path=cache)
        except (OSError, ValueError) as error:  # no network or no room; another checksum
            raise OSError(
                f"load_mnist: cannot download {url}: {error}. {_own_copy(cache)}"
            ) from error
    return cache


def _own_copy(cache: Path | None) -> str:
    place = "a directory named by FASTNN_CACHE" if cache is None else f"the cache directory {cache}"
    return (
        f"Or put the four files {', '.join(_IDX_FILES)} (each with or without .gz) into a "
        "directory of yours and name it as load_mnist(directory) or in the environment variable "
        f"FASTNN_DATA, or put them into {place}."
    )


# ---- CSV files ---------------------------------------------------------------------------------

_INTEGER = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True, eq=False)
class Table:
    """What `read_csv` found in a file.

    Attributes
    ----------
    X : ndarray, float64 (n, features)
        The feature columns, in the order of the file.
    y : ndarray, int64 (n,) or float64 (n,)
        The target: indices into `classes` to classify, or the values themselves to regress.
    feature_names : list of str
        One name per column of `X`.
    target_name : str
        The name of the target column.
    classes : ndarray (n_classes,) or None
        The distinct target values, sorted: int64 or str; None where the target is to be regressed.
    """

    X: NDArray[np.float64]
    y: NDArray[Any]
    feature_names: list[str]
    target_name: str
    classes: NDArray[Any] | None


def read_csv(path: PathLike, target: str | None = None) -> Table:
    """Read a table of numbers with a header, and one target column, from a CSV file.

    The file is UTF-8 text, with or without a byte order mark; cells are separated by commas and
    may be quoted. Blanks around names and cells (but none after a closing quote), and blank lines,
    are dropped. Every column but the target must hold finite numbers. What the target holds decides
    the task: text, or integers only (``3``, but not ``3.0``), is to be classified; numbers of which
    any is not written as an integer (``1.5``, ``2.0``, ``1e3``) are to be regressed. To regress
    whole numbers, write at least one of them with a point.

    Parameters
    ----------
    path : str or path-like
        The file.
    target : str, optional
        The name of the target column; the last column by default.

    Returns
    -------
    Table
        Features `X` (n, features), target `y` (n,), the names of the columns, and the classes.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    TypeError
        `target` is not a string.
    ValueError
        There is no header, no row or only one column; column names are empty or occur twice; there
        is no column `target`; a row has another number of cells than the header; a cell is empty,
        not a number, NaN or infinite; the target mixes text with numbers that are not integers; or
        the file is not UTF-8 text or its quotes do not match. The message names the file, the line
        (from 1, the header included) and the column.

    Source
    ------
    Y. Shafranovich, "Common Format and MIME Type for Comma-Separated Values (CSV) Files",
    RFC 4180, 2005.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from fastnn import datasets
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = pathlib.Path(directory, "pets.csv")
    ...     _ = path.write_text("kg,cm,kind\\n4.1,46,cat\\n30,110,dog\\n3.9,45,cat\\n")
    ...     table = datasets.read_csv(path, target="kind")
    >>> table.X.shape, table.feature_names, table.y, table.classes
    ((3, 2), ['kg', 'cm'], array([0, 1, 0]), array(['cat', 'dog'], dtype='<U3'))
    """
    if target is not None and not isinstance(target, str):
        raise TypeError(f"target: expected a column name as str, got {type(target).__name__}")
    file = Path(path)
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            return _parse_csv(stream, file, target)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file}, line {_first_undecodable_line(file)}: expected UTF-8 text, found the byte "
            f"0x{error.object[error.start]:02x} ({error.reason})"
        ) from error


def _parse_csv(stream: TextIO, file: Path, target: str | None) -> Table:
    rows = _csv_rows(stream, file)
    line, header = next(rows, (0, []))
    if not header:
        raise ValueError(f"{file}: the file is empty; expected a header with column names")
    _check_header(header, f"{file}, line {line}")
    if target is None:
        target = header[-1]
    if target not in header:
        near = difflib.get_close_matches(target, header)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        raise ValueError(
            f"{file}, line {line}: no target column {target!r}{hint} "
            f"The columns are {', '.join(map(repr, header))}"
        )
    target_at = header.index(target)
    names = header[:target_at] + header[target_at + 1 :]
    features = array("d")
    # Distinct cells are few where the target is a class, so each is kept and converted once.
    codes = array("q")
    distinct: dict[str, int] = {}
    first_lines: list[int] = []
    for line, cells in rows:
        if len(cells) != len(header):
            raise ValueError(
                f"{file}, line {line}: expected {len(header)} cells as in the header, "
                f"found {len(cells)}"
            )
        cell = cells.pop(target_at)
        if cell not in distinct:
            _check_cell(cell, _to_number(cell), file, line, target)
            distinct[cell] = len(distinct)
            first_lines.append(line)
        codes.append(distinct[cell])
        for name, cell in zip(names, cells, strict=True):
            number = _to_number(cell)
            if number is None or not math.isfinite(number):
                _check_cell(cell, number, file, line, name)
                _bad_cell(file, line, name, f"expected a number, found {_shorten(cell)}")
            features.append(number)
    if not codes:
        raise ValueError(f"{file}: no rows after the header; expected at least one")
    X = np.frombuffer(features, dtype=np.float64).reshape(len(codes), len(names))
    values, classes = _convert_target(list(distinct), first_lines, file, target)
    y = values[np.frombuffer(codes, dtype=np.int64)]
    return Table(X, y, names, target, classes)


def _csv_rows(stream: TextIO, file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not blank and the line it starts on; a quoted cell may span lines."""
    reader = csv.reader(stream, strict=True, skipinitialspace=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{file}, line {line}: not a valid CSV row: {error}") from error
        cells = [cell.strip() for cell in row]
        if len(cells) > 1 or any(cells):
            yield line, cells


def _check_header(header: list[str], where: str) -> None:
    if all(_to_number(name) is not None for name in header):
        raise ValueError(
            f"{where}: expected a header with column names, found only numbers "
            f"({_shorten(', '.join(header))})"
        )
    if len(header) == 1:
        raise ValueError(
            f"{where}: only one column, {_shorten(header[0])}; expected at least one feature and "
            "the target, separated by commas"
        )
    if "" in header:
        raise ValueError(f"{where}: column {header.index('') + 1} has no name; expected one")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(
            f"{where}: column names must differ; found more than once: "
            f"{', '.join(map(repr, twice))}"
        )


def _to_number(cell: str) -> float | None:
    """The number a cell holds, or None if it holds text; ``1_000`` is a number to Python only."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _check_cell(cell: str, number: float | None, file: Path, line: int, column: str) -> None:
    if not cell:
        _bad_cell(file, line, column, "missing value; expected a value in every cell")
    if number is not None and not math.isfinite(number):
        _bad_cell(file, line, column, f"expected a finite number, found {_shorten(cell)}")


def _bad_cell(file: Path, line: int, column: str, what: str) -> NoReturn:
    raise ValueError(f"{file}, line {line}, column {column!r}: {what}")


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _convert_target(
    cells: list[str], lines: list[int], file: Path, column: str
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Convert the distinct target cells to class indices and classes, or to numbers and None."""
    numbers = [_to_number(cell) for cell in cells]
    texts = [i for i, number in enumerate(numbers) if number is None]
    fractions = [
        i for i, cell in enumerate(cells) if numbers[i] is not None and not _INTEGER.fullmatch(cell)
    ]
    if texts and fractions:
        # Far more often a slip in a column of numbers than thousands of classes.
        text, fraction = texts[0], fractions[0]
        _bad_cell(
            file,
            lines[text],
            column,
            f"found the text {_shorten(cells[text])} in a target that also holds numbers such as "
            f"{cells[fraction]} (line {lines[fraction]}); expected only numbers or only classes",
        )
    if fractions:
        return np.array(numbers, dtype=np.float64), None
    keys: list[Any] = cells if texts else [int(cell) for cell in cells]
    if not texts:
        for key, line in zip(keys, lines, strict=True):
            if not -(2**63) <= key < 2**63:
                _bad_cell(file, line, column, f"expected an integer of 64 bits, found {key}")
    ordered = sorted(set(keys))
    index = {key: i for i, key in enumerate(ordered)}
    values = np.array([index[key] for key in keys], dtype=np.int64)
    return values, np.array(ordered, dtype=None if texts else np.int64)


def _first_undecodable_line(file: Path) -> int:
    """The number of the first line that is not UTF-8, whose sequences never span a line end."""
    with open(file, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1
