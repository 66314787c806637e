"""Samples that do not fit into memory: sources read chunk by chunk into a few buffers that are reused."""

from __future__ import annotations

import mmap
import os
import threading
import warnings
from collections.abc import Iterable, Iterator
from itertools import count, cycle
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, cast

import numpy as np

from .. import arguments, checks, interrupts
from ..losses import row_of
from ..network import Network

BUFFER_BYTES = 32 << 20  # of samples, targets and their order in one buffer
CHUNK_BYTES = 1 << 20  # of an array, read at once: long enough for a disk, and a buffer mixes some thirty chunks
WAIT_SECONDS = 0.1  # that Ctrl-C, or the end of a stream, waits for a source
_END = object()


class StreamError(RuntimeError):
    """The user's source of chunks failed; its error is the cause of this one."""


def stream(
    X: Any,
    Y: Any = None,
    *,
    target: int | str = -1,
    task: str = "auto",
    header: bool | None = None,
    buffer_rows: int | None = None,
) -> Stream:
    """Return a stream of samples and targets, to be trained on in bounded memory.

    Parameters
    ----------
    X : array, path, iterable or function
        - An array (n_samples, n_in), such as a mapped one (``np.load("X.npy", mmap_mode="r")``), or anything with a
          shape whose rows are read by ``X[start:stop]``.
        - The path of a ``.npy`` file, which is mapped, or of an IDX file (the format of MNIST), which is mapped or, if
          gzipped, read from the start in each epoch.
        - The path of a CSV file, gzipped or not, read as `fastbp.datasets.read_csv` does.  The file is scanned
          once, for classes, categories and errors, then read from the start in each epoch.
        - A function without arguments that returns an iterable of chunks (X, Y) of any lengths, such as
          a generator function; or such an iterable.  A generator can be iterated once and gives one epoch.
    Y : array or path, optional
        Targets of an X that is an array or the path of one: class labels (n_samples,) or (n_samples, n_out).  For an
        IDX file of images the default is the file of the labels beside it.
    target, task, header
        Of a CSV file, as in `fastbp.datasets.read_csv`.
    buffer_rows : int, optional
        Rows of a buffer, rounded down to whole batches, at least one.  By default a buffer takes about 32 MB.  With
        shuffling, the order of the samples is drawn within each buffer.

    Returns
    -------
    Stream

    Raises
    ------
    ValueError, TypeError
        Where a file or an argument is none of these, or X and Y do not fit together.
    """
    if buffer_rows is not None:
        buffer_rows = arguments.integer("buffer_rows", buffer_rows)
    if isinstance(X, str | os.PathLike) and _kind(X) == "csv":
        if Y is not None:
            raise ValueError(
                f"{X} is read as a CSV file, which holds its targets: name their column by `target`, and leave out Y"
            )
        return Stream(_Csv(X, target, task, header), buffer_rows)
    if Y is None and isinstance(X, str | os.PathLike):
        from ..datasets.arrays import labels_beside

        Y = labels_beside(Path(X))
    if Y is None and (isinstance(X, str | os.PathLike) or hasattr(X, "shape")):
        raise TypeError("Y is missing: the targets of X, an array or the path of a .npy or IDX file")
    if Y is None:
        return Stream(_Chunks(X), buffer_rows)
    return Stream(_Arrays(_array("X", X), _array("Y", Y)), buffer_rows)


class Stream:
    """Samples and targets in bounded memory; made by `fastbp.stream`.

    Attributes
    ----------
    n_samples : int or None
        None where the source does not say.
    n_epochs : int or None
        How many more times the source can be read: 0, 1, or None for any number.
    classes, columns
        Of a CSV file, as in `fastbp.datasets.Dataset`; otherwise None.
    buffer_rows : int or None
        As given.
    """

    def __init__(self, source: _Source, buffer_rows: int | None = None) -> None:
        self._source, self.buffer_rows = source, buffer_rows
        self._left: threading.Thread | None = None  # the thread that an earlier call left in the source
        self.n_samples = source.n_samples
        self.classes, self.columns = source.classes, source.columns

    @property
    def n_epochs(self) -> int | None:
        """How many more times the source can be read, None for any number."""
        return self._source.n_epochs

    def check_epochs(self, epochs: int) -> None:
        """Raise ValueError unless the source can be read `epochs` times, RuntimeError where it is in use."""
        if self._left is not None and self._left.is_alive():
            raise RuntimeError(
                "the source of this stream is still busy: an earlier call was ended while it waited for "
                "the next chunk, which has not come yet"
            )
        if self.n_epochs is not None and epochs > self.n_epochs:
            state = "is used up" if self.n_epochs == 0 else f"gives one epoch, not {epochs}"
            raise ValueError(
                f"a stream of an iterator {state}: pass a function that returns a new one, such as "
                "fastbp.stream(chunks) for a generator function chunks"
            )

    def buffers(
        self,
        net: Network,
        rng: np.random.Generator | None,
        shuffle: bool,
        batch_size: int,
        *,
        as_order: bool = False,
        in_place: bool = False,
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """Read the source once, and yield buffers of samples and targets.

        While one buffer is in use, a thread reads the next one.  Rows are shuffled within a buffer; an array is read in
        chunks of about 1 MB, and their order is shuffled too, so that a buffer mixes chunks of all parts of it.

        Parameters
        ----------
        net : Network
            Samples and targets are checked as `Trainer.fit` checks them, each chunk when it is read.
        rng : numpy.random.Generator
            Its state decides the order.  With `shuffle` 128 bits are drawn from it at the start, whatever the source;
            without, none, and it may be None.
        shuffle : bool
        batch_size : int
            Every buffer but the last is a multiple of it.
        as_order : bool
            Leave the rows of a buffer where they are, and yield their order too: int64 (n,).
        in_place : bool
            With `as_order`, yield arrays that the kernels can read, in memory or mapped, as they are: the order is then
            that of n rows of them.  Nothing is copied, but X and Y have all rows.

        Yields
        ------
        X : ndarray (n, n_in)
            C-contiguous; uint8 where the first chunk is, otherwise of the dtype of the network; in place as it is.
        Y : ndarray (n, n_out) of the dtype of the network, or class labels, int64 (n,)
            Both are overwritten when the next buffer is requested.

        Raises
        ------
        ValueError, TypeError
            Where a chunk does not fit; the message names it, by its number, its rows or its lines.
        StreamError
            From the error of the user's source of chunks.
        """
        self.check_epochs(1)
        order_rng = None
        if shuffle:
            assert rng is not None
            order_rng = np.random.Generator(np.random.PCG64(rng.integers(0, 2**32, 4, np.uint32)))
        closed = threading.Event()
        whole = self._source.in_place(net) if as_order and in_place else None
        if whole is None:
            buffers = self._filled(net, order_rng, batch_size, closed, as_order)
        else:
            buffers = self._in_place(*whole, net, order_rng, batch_size, closed)
        reader = _Reader(buffers)
        try:
            reader.request()
            while (buffer := reader.receive()) is not _END:
                reader.request()
                yield buffer
        finally:
            closed.set()
            self._left = reader.end()

    def _filled(
        self,
        net: Network,
        rng: np.random.Generator | None,
        batch_size: int,
        closed: threading.Event,
        as_order: bool,
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield buffers in turn: one is in use while the next one is filled."""
        moves = rng is not None and not as_order  # the rows themselves, from one buffer to another
        filled = n_rows = 0
        for label, X, Y in self._source.chunks(rng):
            if closed.is_set():
                return
            X = checks.samples(X, net.sizes[0], net.dtype, f"{label}: X")
            Y = checks.targets(Y, len(X), net.sizes[-1], net.loss_name, net.dtype, False, f"{label}: Y")
            if not n_rows:
                dtype = X.dtype if X.dtype == np.uint8 else net.dtype
                n_rows = self._rows(dtype.itemsize * X.shape[1] + Y[:1].nbytes + 8, batch_size)
                buffers = [
                    (np.empty((n_rows, X.shape[1]), dtype), np.empty((n_rows, *Y.shape[1:]), Y.dtype))
                    for _ in range(3 if moves else 2)
                ]
                outputs = cycle(buffers[-2:])
                buffer = buffers[0] if moves else next(outputs)
            if not np.can_cast(X.dtype, dtype, "same_kind") or Y.ndim != buffer[1].ndim:
                raise ValueError(
                    f"{label}: X is {X.dtype} and Y {Y.ndim}-D, but the chunks before it have "
                    f"{dtype} and {buffer[1].ndim}-D"
                )
            start = 0
            while start < len(X):
                if filled == n_rows:
                    yield _shuffled(buffer, filled, rng, outputs, as_order)
                    buffer, filled = buffer if moves else next(outputs), 0
                n = min(len(X) - start, n_rows - filled)
                for target, array in zip(buffer, (X, Y), strict=True):
                    target[filled : filled + n] = array[start : start + n]
                start, filled = start + n, filled + n
        if not filled:
            raise ValueError("the stream gave no samples")
        yield _shuffled(buffer, filled, rng, outputs, as_order)

    def _in_place(
        self,
        X: np.ndarray,
        Y: np.ndarray,
        net: Network,
        rng: np.random.Generator | None,
        batch_size: int,
        closed: threading.Event,
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield whole arrays and orders of their rows; the pages of a buffer are released once the next one is read."""
        if not len(X):
            raise ValueError("the stream gave no samples")
        n_rows = self._rows(X[:1].nbytes + Y[:1].nbytes + 8, batch_size)
        orders: list[np.ndarray] = []
        last: list[np.ndarray] = []  # chunks of the last buffer
        current: list[np.ndarray] = []  # and of this one
        n = 0  # rows in `orders`
        source = cast(_Arrays, self._source)
        for start, stop in source.ranges(rng):
            if closed.is_set():
                return
            chunk, label = source.X[start:stop], f"rows {start} to {stop - 1}"
            checks.samples(chunk, net.sizes[0], net.dtype, f"{label}: X")
            checks.targets(
                source.Y[start:stop], stop - start, net.sizes[-1], net.loss_name, net.dtype, False, f"{label}: Y"
            )
            current.append(chunk)
            orders.append(np.arange(start, stop, dtype=np.int64))
            n += stop - start
            while n >= n_rows:
                order = np.concatenate(orders)
                yield X, Y, order[:n_rows] if rng is None else order[_order(n_rows, rng)]
                orders, n = [order[n_rows:]], n - n_rows
                _release(last)
                last, current = current, []
        if n:
            order = np.concatenate(orders)
            yield X, Y, order if rng is None else order[_order(n, rng)]
        _release(last + current)

    def _rows(self, row_bytes: int, batch_size: int) -> int:
        """Return the rows of a buffer, whole batches."""
        return max(1, (self.buffer_rows or BUFFER_BYTES // row_bytes) // batch_size) * batch_size

    def __repr__(self) -> str:
        """Return the source and what is known of its length."""
        n = "an unknown number of" if self.n_samples is None else self.n_samples
        return f"Stream({n} samples from {self._source})"


class _Reader:
    """A thread that takes the next item of an iterator at each request.

    It is a daemon: a source may block for ever, and neither Ctrl-C nor the end of the program waits for it.
    """

    def __init__(self, items: Iterator) -> None:
        self._requests: SimpleQueue = SimpleQueue()
        self._replies: SimpleQueue = SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(items,), daemon=True, name="fastbp-stream")
        self._thread.start()

    def _run(self, items: Any) -> None:
        while self._requests.get():
            try:
                self._replies.put((next(items, _END), None))
            except BaseException as error:  # raised by `receive`
                self._replies.put((_END, error))
        items.close()

    def request(self) -> None:
        """Request the next item."""
        self._requests.put(True)

    def receive(self) -> Any:
        """Wait for it; `_END` where there is none.  Raise what the iterator raised."""
        while True:
            try:
                item, error = self._replies.get(timeout=WAIT_SECONDS)
            except Empty:
                interrupts.check()
                continue
            if error is not None:
                raise error
            return item

    def end(self) -> threading.Thread | None:
        """End the thread after the item under way; return it where that blocks."""
        self._requests.put(False)
        self._thread.join(WAIT_SECONDS)
        return self._thread if self._thread.is_alive() else None


def _order(n: int, rng: np.random.Generator | None) -> np.ndarray:
    """Return 0 .. n - 1, shuffled if there is a generator; int64 on every system, as kernels read it."""
    order = np.arange(n, dtype=np.int64)
    if rng is not None:
        rng.shuffle(order)
    return order


def _shuffled(
    buffer: tuple, n: int, rng: np.random.Generator | None, outputs: Iterator[tuple], as_order: bool
) -> tuple[np.ndarray, ...]:
    """Return the first n rows in a new order, in the next of `outputs`, or with that order; or as they are."""
    order = _order(n, rng)
    if as_order:
        return (*(array[:n] for array in buffer), order)
    if rng is None:
        return tuple(array[:n] for array in buffer)
    # mode="clip": with "raise" NumPy copies into a buffer of its own before it writes to `out`.
    return tuple(np.take(array, order, 0, out[:n], "clip") for array, out in zip(buffer, next(outputs), strict=True))


# ------------------------------------------------------------------ sources


class _Source:
    """Base class of the sources."""

    n_epochs: int | None = None
    n_samples: int | None = None
    classes: Any = None
    columns: Any = None

    def chunks(self, rng: np.random.Generator | None) -> Iterator[tuple[str, Any, Any]]:
        """Yield (label, X, Y), in an order drawn from `rng` if there is one and the source can be read in any order."""
        raise NotImplementedError

    def in_place(self, net: Network) -> tuple[np.ndarray, np.ndarray] | None:
        """Return X and Y as the kernels can read them without a copy, or None."""
        return None


class _Arrays(_Source):
    """A pair of arrays, mapped or not, or of gzipped IDX files."""

    n_samples: int

    def __init__(self, X, Y):
        if not X.shape or not Y.shape or X.shape[0] != Y.shape[0]:
            raise ValueError(f"X and Y must have as many rows each, got shapes {tuple(X.shape)} and {tuple(Y.shape)}")
        self.X, self.Y, self.n_samples = X, Y, X.shape[0]

    def chunks(self, rng):
        if any(hasattr(array, "read_in_chunks") for array in (self.X, self.Y)):  # can only be read from the start
            rng = None
        ranges = list(self.ranges(rng))
        for (start, stop), X, Y in zip(ranges, _chunks_of(self.X, ranges), _chunks_of(self.Y, ranges), strict=True):
            yield f"rows {start} to {stop - 1}", X, Y

    def ranges(self, rng: np.random.Generator | None) -> Iterator[tuple[int, int]]:
        """Yield (first row, row after the last) of every chunk."""
        n_rows = max(1, CHUNK_BYTES // max(1, _row_bytes(self.X), _row_bytes(self.Y)))
        starts = np.arange(0, self.n_samples, n_rows)
        if rng is not None:
            rng.shuffle(starts)
        for start in starts.tolist():
            yield start, min(start + n_rows, self.n_samples)

    def in_place(self, net):
        """Return them; Y is converted where it is small."""
        X, Y = self.X, self.Y
        if not (isinstance(X, np.ndarray) and isinstance(Y, np.ndarray) and X.ndim == 2 and checks.is_kept(X)):
            return None
        kinds, dtype = "biuf", net.dtype
        if Y.ndim == 1 and row_of(net.loss_name).takes_labels:
            kinds, dtype = "iu", np.dtype(np.int64)
        elif Y.ndim == 1:
            Y = Y.reshape(-1, 1)
        if Y.ndim > 2 or Y.dtype.kind not in kinds:
            return None  # the checks of each chunk say what is wrong
        if Y.dtype != dtype or not checks.is_plain(Y):
            if Y.size * dtype.itemsize > BUFFER_BYTES:
                return None
            with np.errstate(over="ignore"):  # the checks of each chunk find infinities
                Y = np.array(Y, dtype, order="C")
        return np.asarray(X), np.asarray(Y)

    def __repr__(self) -> str:
        return f"arrays {tuple(self.X.shape)} and {tuple(self.Y.shape)}"


def _row_bytes(array: Any) -> int:
    try:
        dtype = np.dtype(getattr(array, "dtype", float))  # a table of several types has none
    except TypeError:
        dtype = np.dtype(float)
    return dtype.itemsize * int(np.prod(array.shape[1:]))


def _chunks_of(array: Any, ranges: list[tuple[int, int]]) -> Iterator[Any]:
    if hasattr(array, "read_in_chunks"):
        yield from array.read_in_chunks(ranges[0][1] - ranges[0][0])
        return
    for start, stop in ranges:
        chunk = array[start:stop]
        yield chunk
        _release([chunk])


def _release(chunks: Iterable[Any]) -> None:
    """Remove the pages of mapped files from the resident memory; the system keeps or drops its own copy of them."""
    for chunk in chunks:
        _release_pages(chunk)


def _release_pages(chunk: Any) -> None:
    mapped = getattr(chunk, "_mmap", None)  # of np.memmap and its views
    if mapped is None or chunk.mode == "c" or not chunk.flags.c_contiguous or not hasattr(mmap, "MADV_DONTNEED"):
        return  # what was written into a map of mode "c" is nowhere but in these pages
    start = chunk.ctypes.data - np.frombuffer(mapped, np.uint8).ctypes.data
    first = start // mmap.PAGESIZE * mmap.PAGESIZE
    mapped.madvise(mmap.MADV_DONTNEED, first, start + chunk.nbytes - first)


class _Csv(_Source):
    """A CSV file."""

    def __init__(self, path, target, task, header):
        from ..datasets.tables import CsvChunks

        self._csv = CsvChunks(path, target, task=task, header=header)
        for remark in self._csv.remarks:
            warnings.warn(remark, stacklevel=3)  # where `stream` is called
        self.n_samples, self.classes, self.columns = self._csv.n_samples, self._csv.classes, self._csv.columns

    def chunks(self, rng):
        for first, last, X, y in self._csv.chunks():
            yield f"{self._csv.path}, lines {first} to {last}", X, y

    def __repr__(self) -> str:
        return f"{os.fspath(self._csv.path)!r}"


class _Chunks(_Source):
    """Chunks (X, Y) from a user's iterable or function."""

    def __init__(self, chunks):
        self._is_function = callable(chunks) and not hasattr(type(chunks), "__iter__")
        if not self._is_function and (isinstance(chunks, dict) or not hasattr(chunks, "__iter__")):
            raise TypeError(
                "X must be an array, a path, an iterable of chunks (X, Y) or a function that returns one, "
                f"got {type(chunks).__name__}"
            )
        self._chunks = chunks
        self.n_epochs = 1 if hasattr(chunks, "__next__") else None

    def chunks(self, rng):
        if self.n_epochs is not None:
            self.n_epochs = 0
        for number in count(1):
            try:
                if number == 1:
                    given = self._chunks() if self._is_function else self._chunks
                    if not hasattr(given, "__iter__"):
                        raise TypeError(f"the function must return an iterable of chunks (X, Y), got {given!r}")
                    chunks = iter(given)
                chunk = next(chunks)
            except StopIteration:
                return
            except Exception as error:
                raise StreamError(f"chunk {number} of the stream failed: {type(error).__name__}: {error}") from error
            if not isinstance(chunk, list | tuple) or len(chunk) != 2:
                raise TypeError(
                    f"chunk {number} must be a pair (X, Y), got {type(chunk).__name__}"
                    + (f" of {len(chunk)}" if isinstance(chunk, list | tuple) else "")
                )
            if np.shape(chunk[0])[:1] != (0,):
                yield f"chunk {number}", *chunk

    def __repr__(self) -> str:
        return f"{self._chunks!r}"


# ------------------------------------------------------------------ files


def _kind(path: str | os.PathLike[str]) -> str:
    """Return "npy", "idx" or "csv", by what the file starts with."""
    from ..datasets.arrays import IDX_DTYPES
    from ..datasets.dataset import open_maybe_gzipped

    with open_maybe_gzipped(path) as file:
        head = file.read(4)
    if head[:2] == b"PK":
        raise ValueError(
            f"{path} is a zip file, such as .npz, which cannot be mapped: read it by "
            "fastbp.datasets.read_npz, or save X and Y as .npy files"
        )
    if head[:4] == b"\x93NUM":
        return "npy"
    return "idx" if head[:2] == b"\0\0" and head[2:3] and head[2] in IDX_DTYPES else "csv"


def _array(argument: str, value: Any) -> Any:
    """Return an array or a path as something with a shape, whose rows are read in chunks."""
    if not isinstance(value, str | os.PathLike):
        checks.unmasked(argument, value)
        return value if hasattr(value, "shape") else np.asarray(value)
    kind = _kind(value)
    if kind == "npy":
        try:
            return np.load(value, mmap_mode="r", allow_pickle=False)
        except OSError:
            raise
        except Exception as error:  # NumPy has a dozen kinds for damaged headers
            raise ValueError(f"{argument}: {value} cannot be mapped: {error}") from None
    if kind == "csv":
        raise ValueError(f"{argument}: {value} is neither a .npy nor an IDX file")
    from ..datasets.arrays import map_idx

    return map_idx(value)
