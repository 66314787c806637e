"""Samples that do not fit into memory: sources read piece by piece into a few buffers that are used again and again."""

import mmap
import os
import threading
import warnings
from itertools import count, cycle
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np

from .. import arguments, checks, interrupts
from ..losses import row_of

BUFFER_BYTES = 32 << 20  # of samples, targets and their order in one buffer
BLOCK_BYTES = 1 << 20  # read at one place: long enough for a disk, and some thirty places mix in one buffer
PATIENCE = 0.1  # seconds that Ctrl-C, or the end of a stream, waits for a source
_END = object()


class StreamError(RuntimeError):
    """The user's own source of chunks failed; its error is the cause of this one."""


def stream(X, Y=None, *, target=-1, task="auto", header=None, buffer_rows=None):
    """Return a stream of samples and targets, to be trained on in bounded memory.

    Parameters
    ----------
    X : array, path, iterable or function
        - An array (n_samples, n_in), such as a mapped one (``np.load("X.npy", mmap_mode="r")``), or anything with a
          shape whose rows are read by ``X[start:stop]``.
        - The path of a ``.npy`` file, which is mapped, or of an IDX file (the format of MNIST), which is mapped or, if
          gzipped, read from the start in each epoch.
        - The path of a CSV file, gzipped or not, read as `fastbp.datasets.read_csv` does.  The file is looked through
          once, for classes, categories and whatever is wrong in it, then read from the start in each epoch.
        - A function without arguments that returns an iterable of chunks (X, Y) of any lengths, such as
          a generator function; or such an iterable.  A generator can be iterated once and gives one epoch.
    Y : array or path, optional
        Targets of an X that is an array or the path of one: class labels (n_samples,) or (n_samples, n_out).  For an
        IDX file of images the default is the file of the labels beside it.
    target, task, header
        Of a CSV file, as in `fastbp.datasets.read_csv`.
    buffer_rows : int, optional
        Rows of a buffer, rounded down to whole batches, at least one.  By default a buffer takes about 32 MB.  With
        shuffling, the buffer is what the order of the samples is drawn in.

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
        None where the source does not tell.
    n_epochs : int or None
        How many times the source can be gone through: 1, or None for any number.
    classes, columns
        Of a CSV file, as in `fastbp.datasets.Dataset`; otherwise None.
    buffer_rows : int or None
        As given.
    """

    def __init__(self, source, buffer_rows=None):
        self._source, self.buffer_rows = source, buffer_rows
        self._left = None  # the thread that an earlier call left in the source
        self.n_samples = source.n_samples
        self.classes, self.columns = source.classes, source.columns

    @property
    def n_epochs(self):
        """How many times the source can be gone through from now on, None for any number."""
        return self._source.n_epochs

    def check_epochs(self, epochs):
        """Raise ValueError unless the source can be gone through `epochs` times, RuntimeError where it is in use."""
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

    def buffers(self, net, rng, shuffle, batch_size, *, as_order=False, in_place=False):
        """Go through the source once, and yield buffers of samples and targets.

        While one buffer is in use, a thread reads the next one.  Rows are shuffled within a buffer; an array is read in
        blocks of about 1 MB, and their order is shuffled too, so that a buffer mixes blocks of all places.

        Parameters
        ----------
        net : Network
            Samples and targets are checked as `Trainer.fit` checks them, each chunk when it is read.
        rng : numpy.random.Generator
            Its state decides the order.  With `shuffle` 128 bits are drawn from it at the start, whatever the source;
            without, none.
        shuffle : bool
        batch_size : int
            Every buffer but the last is a multiple of it.
        as_order : bool
            Leave the rows of a buffer where they are, and yield their order too: int64 (n,).
        in_place : bool
            With `as_order`, yield arrays that the kernels can read, in memory or mapped, as they are: a buffer is then
            n places in them.  Nothing is copied, but Y is not that of the buffer alone.

        Yields
        ------
        X : ndarray (n, n_in)
            C-contiguous; uint8 where the first chunk is, otherwise of the dtype of the network; in place as it is.
        Y : ndarray (n, n_out) of the dtype of the network, or class labels, int64 (n,)
            Both are written over when the next buffer is asked for.

        Raises
        ------
        ValueError, TypeError
            Where a chunk does not fit; the message names it, by its number, its rows or its lines.
        StreamError
            From the error of the user's own source of chunks.
        """
        self.check_epochs(1)
        order = np.random.Generator(np.random.PCG64(rng.integers(0, 2**32, 4, np.uint32))) if shuffle else None
        closed = threading.Event()
        whole = self._source.in_place(net) if as_order and in_place else None
        if whole is None:
            buffers = self._filled(net, order, batch_size, closed, as_order)
        else:
            buffers = self._picked(*whole, net, order, batch_size, closed)
        reader = _Reader(buffers)
        try:
            reader.ask()
            while (buffer := reader.answer()) is not _END:
                reader.ask()
                yield buffer
        finally:
            closed.set()
            self._left = reader.end()

    def _filled(self, net, order, batch_size, closed, as_order):
        """Yield buffers by turns: one is in use while the next one is filled."""
        moves = order is not None and not as_order  # the rows themselves, from one buffer to another
        filled = rows = 0
        for label, X, Y in self._source.blocks(order):
            if closed.is_set():
                return
            X = checks.samples(X, net.sizes[0], net.dtype, f"{label}: X")
            Y = checks.targets(Y, len(X), net.sizes[-1], net.loss_name, net.dtype, False, f"{label}: Y")
            if not rows:
                dtype = X.dtype if X.dtype == np.uint8 else net.dtype
                row_bytes = dtype.itemsize * X.shape[1] + Y[:1].nbytes + 8
                rows = self._rows(row_bytes, batch_size)
                pairs = [
                    (np.empty((rows, X.shape[1]), dtype), np.empty((rows, *Y.shape[1:]), Y.dtype))
                    for _ in range(3 if moves else 2)
                ]
                turns = cycle(pairs[-2:])
                gathered = pairs[0] if moves else next(turns)
            if not np.can_cast(X.dtype, dtype, "same_kind") or Y.ndim != gathered[1].ndim:
                raise ValueError(
                    f"{label}: X is {X.dtype} and Y {Y.ndim}-D, but the chunks before it have "
                    f"{dtype} and {gathered[1].ndim}-D"
                )
            start = 0
            while start < len(X):
                if filled == rows:
                    yield _shuffled(gathered, filled, order, turns, as_order)
                    gathered, filled = gathered if moves else next(turns), 0
                n = min(len(X) - start, rows - filled)
                for buffer, array in zip(gathered, (X, Y), strict=True):
                    buffer[filled : filled + n] = array[start : start + n]
                start, filled = start + n, filled + n
        if not filled:
            raise ValueError("the stream gave no samples")
        yield _shuffled(gathered, filled, order, turns, as_order)

    def _picked(self, X, Y, net, order, batch_size, closed):
        """Yield places in whole arrays; the pages of one buffer are let go when the next but one is looked at."""
        if not len(X):
            raise ValueError("the stream gave no samples")
        rows = self._rows(X[:1].nbytes + Y[:1].nbytes + 8, batch_size)
        places, n, before, seen = [], 0, [], []
        for start, stop in self._source.places(order):
            if closed.is_set():
                return
            piece, label = self._source.X[start:stop], f"rows {start} to {stop - 1}"
            checks.samples(piece, net.sizes[0], net.dtype, f"{label}: X")
            checks.targets(
                self._source.Y[start:stop], stop - start, net.sizes[-1], net.loss_name, net.dtype, False, f"{label}: Y"
            )
            seen.append(piece)
            places.append(np.arange(start, stop, dtype=np.int64))
            n += stop - start
            while n >= rows:
                ready = np.concatenate(places)
                yield X, Y, ready[:rows] if order is None else ready[_places(rows, order)]
                places, n = [ready[rows:]], n - rows
                for piece in before:
                    _let_go(piece)
                before, seen = seen, []
        if n:
            ready = np.concatenate(places)
            yield X, Y, ready if order is None else ready[_places(n, order)]
        for piece in before + seen:
            _let_go(piece)

    def _rows(self, row_bytes, batch_size):
        """Return the rows of a buffer, whole batches."""
        return max(1, (self.buffer_rows or BUFFER_BYTES // row_bytes) // batch_size) * batch_size

    def __repr__(self):
        """Return the source and what is known of its length."""
        n = "an unknown number of" if self.n_samples is None else self.n_samples
        return f"Stream({n} samples from {self._source})"


class _Reader:
    """A thread that takes one item after the other from an iterator, each when it is asked for.

    It is a daemon: a source may wait for ever, and neither Ctrl-C nor the end of the program waits with it.
    """

    def __init__(self, items):
        self._questions, self._answers = SimpleQueue(), SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(items,), daemon=True, name="fastbp-stream")
        self._thread.start()

    def _run(self, items):
        while self._questions.get():
            try:
                self._answers.put((next(items, _END), None))
            except BaseException as error:  # for whoever asked
                self._answers.put((_END, error))
        items.close()

    def ask(self):
        """Have the next item taken."""
        self._questions.put(True)

    def answer(self):
        """Wait for it; `_END` where there is none.  Raise what the iterator raised."""
        while True:
            try:
                item, error = self._answers.get(timeout=PATIENCE)
            except Empty:
                interrupts.check()
                continue
            if error is not None:
                raise error
            return item

    def end(self):
        """End the thread after the item it is at; return it where it stays there."""
        self._questions.put(False)
        self._thread.join(PATIENCE)
        return self._thread if self._thread.is_alive() else None


def _places(n, order):
    """Return 0 .. n - 1, in a random order where there is a generator; int64 on every system, as kernels read it."""
    places = np.arange(n, dtype=np.int64)
    if order is not None:
        order.shuffle(places)
    return places


def _shuffled(gathered, n, order, turns, as_order):
    """Return the first n rows in a new order, in the next of the buffers, or with that order; or as they are."""
    rows = _places(n, order)
    if order is None or as_order:
        return (*(array[:n] for array in gathered), rows)[: 3 if as_order else 2]
    # mode="clip": with "raise" NumPy gathers in a buffer of its own before it writes to `out`.
    return tuple(np.take(array, rows, 0, out[:n], "clip") for array, out in zip(gathered, next(turns), strict=True))


# ------------------------------------------------------------------ sources: blocks(order) yields (label, X, Y)


class _Source:
    """What is the same for most sources."""

    n_epochs = n_samples = classes = columns = None

    def in_place(self, net):
        """Return X and Y as the kernels can read them where they are, or None."""
        return None


class _Arrays(_Source):
    """A pair of arrays, mapped or not, or of gzipped IDX files."""

    def __init__(self, X, Y):
        if not X.shape or not Y.shape or X.shape[0] != Y.shape[0]:
            raise ValueError(f"X and Y must have as many rows each, got shapes {tuple(X.shape)} and {tuple(Y.shape)}")
        self.X, self.Y, self.n_samples = X, Y, X.shape[0]

    def blocks(self, order):
        if any(hasattr(array, "pieces") for array in (self.X, self.Y)):  # can only be read from the start
            order = None
        places = list(self.places(order))
        for (start, stop), X, Y in zip(places, _pieces(self.X, places), _pieces(self.Y, places), strict=True):
            yield f"rows {start} to {stop - 1}", X, Y

    def places(self, order):
        """Yield (first row, row after the last) of every block."""
        n_rows = max(1, BLOCK_BYTES // max(1, _row_bytes(self.X), _row_bytes(self.Y)))
        starts = np.arange(0, self.n_samples, n_rows)
        if order is not None:
            order.shuffle(starts)
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
            return None  # whoever reads them says what is wrong
        if Y.dtype != dtype or not checks.is_plain(Y):
            if Y.size * dtype.itemsize > BUFFER_BYTES:
                return None
            with np.errstate(over="ignore"):  # infinities are found piece by piece
                Y = np.array(Y, dtype, order="C")
        return np.asarray(X), np.asarray(Y)

    def __repr__(self):
        return f"arrays {tuple(self.X.shape)} and {tuple(self.Y.shape)}"


def _row_bytes(array):
    try:
        dtype = np.dtype(getattr(array, "dtype", float))  # a table of several types has none
    except TypeError:
        dtype = np.dtype(float)
    return dtype.itemsize * int(np.prod(array.shape[1:]))


def _pieces(array, places):
    if hasattr(array, "pieces"):
        yield from array.pieces(places[0][1] - places[0][0])
        return
    for start, stop in places:
        piece = array[start:stop]
        yield piece
        _let_go(piece)


def _let_go(piece):
    """Take the pages of a mapped file out of the resident memory; the system keeps or drops its own copy of them."""
    mapped = getattr(piece, "_mmap", None)  # of np.memmap and its views
    if mapped is None or piece.mode == "c" or not piece.flags.c_contiguous or not hasattr(mmap, "MADV_DONTNEED"):
        return  # what was written into a map of mode "c" is nowhere but in these pages
    start = piece.ctypes.data - np.frombuffer(mapped, np.uint8).ctypes.data
    first = start // mmap.PAGESIZE * mmap.PAGESIZE
    mapped.madvise(mmap.MADV_DONTNEED, first, start + piece.nbytes - first)


class _Csv(_Source):
    """A CSV file."""

    def __init__(self, path, target, task, header):
        from ..datasets.tables import CsvChunks

        self._csv = CsvChunks(path, target, task=task, header=header)
        for remark in self._csv.remarks:
            warnings.warn(remark, stacklevel=3)  # where `stream` is called
        self.n_samples, self.classes, self.columns = self._csv.n_samples, self._csv.classes, self._csv.columns

    def blocks(self, order):
        for first, last, X, y in self._csv.pieces():
            yield f"{self._csv.path}, lines {first} to {last}", X, y

    def __repr__(self):
        return f"{os.fspath(self._csv.path)!r}"


class _Chunks(_Source):
    """Chunks (X, Y) of the user's own."""

    def __init__(self, chunks):
        self._is_function = callable(chunks) and not hasattr(type(chunks), "__iter__")
        if not self._is_function and (isinstance(chunks, dict) or not hasattr(chunks, "__iter__")):
            raise TypeError(
                "X must be an array, a path, an iterable of chunks (X, Y) or a function that returns one, "
                f"got {type(chunks).__name__}"
            )
        self._chunks = chunks
        self.n_epochs = 1 if hasattr(chunks, "__next__") else None

    def blocks(self, order):
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

    def __repr__(self):
        return f"{self._chunks!r}"


# ------------------------------------------------------------------ files


def _kind(path):
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


def _array(argument, value):
    """Return an array or a path as something with a shape, whose rows are read piece by piece."""
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
