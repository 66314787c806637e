"""Readers of array files: NumPy's npz and the IDX format of the MNIST files."""

from __future__ import annotations

import errno
import math
import os
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..files import check_members, read_member
from .dataset import Dataset, GzipReader, encode_target, first_few, open_maybe_gzipped, targets_to_compare

MAX_CLASSES = 1_000_000
NPZ_NAMES = (
    ("X", "y"),
    ("X", "Y"),
    ("x", "y"),
    ("x_train", "y_train"),
    ("X_train", "y_train"),
    ("data", "target"),
    ("images", "labels"),
)

READ_BYTES = 1 << 20  # read at a time, so that a damaged header allocates no more
MAX_AXES = 32  # the limit of NumPy 1.26
MAX_BYTES = 1 << 62
IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_npz(path: str | os.PathLike[str], *, task: str = "auto", complete: bool = True) -> Dataset:
    """Read samples and targets from a NumPy ``.npz`` file.

    Parameters
    ----------
    path : str or path-like
        The arrays are found by their names: X and y, x_train and y_train (as in Keras), data and target,
        or images and labels. The targets may be missing.
    task : {"auto", "classes", "numbers"}
        Kind of the targets. "auto": text, integers with few distinct values, and one-hot rows are classes; all
        others are numbers.
    complete : bool
        As in `read_csv`.

    Returns
    -------
    Dataset
        X (n_samples, n_in) in the dtype of the file, further axes flattened into features; y as in `Dataset`.

    Raises
    ------
    ValueError
        If the file is not an npz file, is damaged, has no arrays of these names, or their shapes do not fit
        together. Other arrays of the file are not read.
    OSError
        If it cannot be read; FileNotFoundError if it does not exist.
    """
    with Path(path).open("rb") as stream:
        if not zipfile.is_zipfile(stream):
            raise ValueError(f"{path} is not an npz file")
        archive = _readable(path, zipfile.ZipFile, stream)
        _readable(path, check_members, archive)
        found = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        names = _names_of_samples_and_targets(found, path)
        X, *rest = [_readable(path, read_member, archive, found[name]) for name in names]
    y = rest[0] if rest else None
    _check_samples(X, path)
    X = X.reshape(len(X), -1)
    pixels = X.dtype == np.uint8
    if y is None:
        return Dataset(X, pixels=pixels)
    if y.ndim == 0 or len(y) != len(X):
        raise ValueError(f"{path}: {len(X)} samples, but targets of shape {y.shape}")
    y = _one_column(y, task)
    y, classes = (encode_target if complete else targets_to_compare)(y, task, f"{path}, targets")
    return Dataset(X, y, classes, pixels=pixels)


def read_idx(images: str | os.PathLike[str], labels: str | os.PathLike[str] | None = None) -> Dataset:
    """Read samples and labels from a pair of IDX files, the format of MNIST, gzipped or not.

    Parameters
    ----------
    images : str or path-like
        IDX file of any dtype; its first axis counts samples, the others are flattened into features.
    labels : str or path-like, optional
        IDX file of integers, one per sample. By default the file in the folder of `images` with the same name
        but "labels" for "images" and "idx1" for "idx3", if there is one.

    Returns
    -------
    Dataset
        X (n_samples, n_in) in the dtype of the file (uint8 0..255 for MNIST); y int64 (n_samples,) or None.

    Raises
    ------
    ValueError
        If a file is not an IDX file, is truncated, or the two do not fit together.
    """
    X = read_idx_array(images)
    _check_samples(X, images)
    X = X.reshape(len(X), -1)
    labels = labels or labels_beside(Path(images))
    if labels is None:
        return Dataset(X, pixels=True)
    y = read_idx_array(labels)
    if y.dtype.kind not in "iu" or y.shape != (len(X),) or y.min() < 0:
        raise ValueError(f"{labels}: expected {len(X)} labels 0, 1 ..., found {y.dtype} of shape {y.shape}")
    if y.max() >= MAX_CLASSES:
        raise ValueError(f"{labels}: the label {y.max()} is too large; at most {MAX_CLASSES:,} classes are read")
    return Dataset(X, y.astype(np.int64), classes=tuple(map(str, range(int(y.max()) + 1))), pixels=True)


def read_idx_array(path: str | os.PathLike[str]) -> np.ndarray:
    """Read one IDX file, gzipped or not, into an array of the same shape, in native byte order.

    The format (Y. LeCun, the MNIST database): two zero bytes, a dtype code, the number of axes, the length
    of each axis as a big-endian 32-bit integer, then the elements, big-endian, the last axis fastest.
    """
    with open_maybe_gzipped(path) as stream:
        dtype, shape = idx_header(stream, path)
        data = _read(stream, dtype.itemsize * math.prod(shape) + 1)
    _check_length(path, dtype, shape, len(data))
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def idx_header(stream: IO[bytes], path: str | os.PathLike[str]) -> tuple[np.dtype, tuple[int, ...]]:
    """Read the header of an IDX file: dtype (big-endian) and shape of the elements that follow."""
    head = stream.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in IDX_DTYPES:
        raise ValueError(f"{path} is not an IDX file: it starts with {head.hex(' ') or 'nothing'}")
    lengths = stream.read(4 * head[3])
    if len(lengths) < 4 * head[3]:
        raise ValueError(f"{path}: the IDX header is truncated")
    dtype, shape = np.dtype(IDX_DTYPES[head[2]]), tuple(np.frombuffer(lengths, ">u4").tolist())
    if len(shape) > MAX_AXES or dtype.itemsize * math.prod(n or 1 for n in shape) > MAX_BYTES:
        raise ValueError(f"{path}: an array of shape {shape} is too large")
    return dtype, shape


def map_idx(path: str | os.PathLike[str]) -> np.memmap | IdxChunks:
    """Map an IDX file into memory, axes after the second flattened; a gzipped one can only be read in chunks."""
    stream = open_maybe_gzipped(path)
    with stream:
        if isinstance(getattr(stream, "raw", None), GzipReader):
            return IdxChunks(path)
        dtype, shape = idx_header(stream, path)
        start = stream.tell()
    _check_length(path, dtype, shape, Path(path).stat().st_size - start)
    _check_not_empty(path, shape)
    return np.memmap(path, dtype, "r", start, _flat(shape))


class IdxChunks:
    """A gzipped IDX file, read in chunks from the start.

    Attributes
    ----------
    shape : tuple of int
        (n_samples,) or (n_samples, n_in): axes after the second are flattened.
    dtype : dtype
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        with open_maybe_gzipped(path) as stream:
            self.dtype, self._shape = idx_header(stream, path)
        _check_not_empty(path, self._shape)
        self.shape = _flat(self._shape)

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.shape[0]

    def read_in_chunks(self, n_rows: int) -> Iterator[np.ndarray]:
        """Yield `n_rows` samples at a time, in native byte order; the last chunk may be shorter."""
        size = self.dtype.itemsize * math.prod(self.shape[1:])
        with open_maybe_gzipped(self.path) as stream:
            idx_header(stream, self.path)
            for start in range(0, len(self), n_rows):
                n = min(n_rows, len(self) - start)
                data = _read(stream, n * size)
                if len(data) < n * size:
                    _check_length(self.path, self.dtype, self._shape, start * size + len(data))
                yield np.frombuffer(data, self.dtype).reshape(n, *self.shape[1:]).astype(self.dtype.newbyteorder("="))
            _check_length(self.path, self.dtype, self._shape, len(self) * size + len(stream.read(1)))


def _read(stream: IO[bytes], n: int) -> bytearray:
    """Read at most n bytes. Memory grows with the bytes read, not with the number that a damaged header claims."""
    data = bytearray()
    while chunk := stream.read(min(READ_BYTES, n - len(data))):
        data += chunk
    return data


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if len(shape) < 3 else (shape[0], math.prod(shape[1:]))


def _check_length(path: str | os.PathLike[str], dtype: np.dtype, shape: tuple[int, ...], length: int) -> None:
    expected, header = dtype.itemsize * math.prod(shape), 4 + 4 * len(shape)
    if length != expected:
        raise ValueError(f"{path}: shape {shape} takes {header + expected} bytes, but the file has {header + length}")


def _check_not_empty(path: str | os.PathLike[str], shape: tuple[int, ...]) -> None:
    if math.prod(shape) == 0 or not shape:
        raise ValueError(f"{path}: expected samples, found shape {shape}")


def _readable(path: str | os.PathLike[str], function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that reads from a zip file; damaged bytes raise a dozen kinds of errors, here a ValueError."""
    try:
        return function(*arguments)
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # from the disk, not a decompressor
            raise
        raise ValueError(f"{path} is not a readable npz file: {error or type(error).__name__}") from None


def _names_of_samples_and_targets(found: Collection[str], path: str | os.PathLike[str]) -> tuple[str, ...]:
    for X, y in NPZ_NAMES:
        if X in found and y in found:
            return X, y
    for X, _ in NPZ_NAMES:
        if X in found:
            return (X,)
    raise ValueError(f"{path}: expected arrays named X and y, found {first_few(list(found)) or 'none'}")


def _check_samples(X: np.ndarray, path: str | os.PathLike[str]) -> None:
    if X.ndim < 2 or X.size == 0:
        raise ValueError(f"{path}: expected samples of shape (n_samples, n_in), found {X.shape}")
    if X.dtype.kind not in "biuf":
        raise ValueError(f"{path}: expected numbers as samples, found {X.dtype}")
    if X.dtype.kind == "f" and not np.isfinite(X).all():
        bad = np.flatnonzero(~np.isfinite(X.reshape(len(X), -1)).all(axis=1))
        raise ValueError(f"{path}: NaN or infinity in sample {first_few(bad.tolist())}")


def _one_column(y: np.ndarray, task: str) -> np.ndarray:
    """Flatten targets (n, 1), and turn one-hot rows into class indices unless numbers are asked for."""
    y = y.reshape(len(y), -1)
    if y.shape[1] == 1:
        return y.ravel()
    one_hot = y.dtype.kind in "biuf" and np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()
    return y.argmax(axis=1) if one_hot and task != "numbers" else y


def labels_beside(images: Path) -> Path | None:
    """Find the file of the labels in the folder of the images; None if there is none."""
    name = images.name.replace("images", "labels").replace("idx3", "idx1")
    stem = name.removesuffix(".gz")
    beside = [images.with_name(n) for n in (name, stem, stem + ".gz") if n != images.name]
    return next((p for p in beside if "labels" in p.name and p.exists()), None)
