"""The steps of one call of `Trainer.fit`: over arrays, or over the buffers of a stream."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import checks
from ..network import Network
from ..reference.training import shuffle
from ..update import State, Update
from .history import History
from .streams import Stream

CHUNK_SECONDS = 0.05  # duration of one native call: Ctrl-C waits until it returns
MAX_GROWTH = 10  # of the chunk from one call to the next, until its speed is known
SNAPSHOT_FRACTION = 50  # copying the parameters takes at most 1/50 of the time
MIN_SNAPSHOT_SECONDS = 0.005  # between two snapshots of however few parameters
COPY_BYTES_PER_SECOND = 2e9  # for that estimate; low on purpose
DIAGNOSED_NUMBERS = 1 << 24  # numbers kept at once while looking for the first that is not finite
BAD_LABEL = "a label that is no class"


class Watch(NamedTuple):
    """Where training returns to Python.

    Attributes
    ----------
    epochs, batches : bool
        After each epoch; after each batch.
    may_change : bool
        Callbacks run there that may change parameters or settings: earlier steps cannot be done again.
    """

    epochs: bool = False
    batches: bool = False
    may_change: bool = False


UNWATCHED = Watch()


class Steps(ABC):
    """What the loop of `Trainer.fit` needs of the steps that it makes.

    Attributes
    ----------
    batch_loss : float
        Loss of the last step, where a call makes one.
    of_batches : str
        How a message says the number of batches of an epoch.
    """

    batch_loss = 0.0
    of_batches = ""

    @abstractmethod
    def advance(self, history: History, update: Update, threads: int | None, rng: np.random.Generator) -> None:
        """Train for about `CHUNK_SECONDS`, at most up to where the call is watched; add whole epochs to the history.

        ``history.nonfinite`` is set where the next step, or what the last ones left, is not finite.
        """

    @abstractmethod
    def is_between_epochs(self) -> bool:
        """Whether the next step is the first of an epoch."""

    @abstractmethod
    def is_nonfinite(self) -> bool:
        """Whether a parameter, or what the update rule remembers of it, is not finite."""

    @abstractmethod
    def seek_finite(self) -> tuple[int, int]:
        """Go back to the last step after which all is finite; return the epoch and batch of the next one, from 0."""

    @abstractmethod
    def next_data(self) -> tuple[np.ndarray, np.ndarray]:
        """Return samples and targets of the next batch, which a call has tried already."""

    @abstractmethod
    def close(self) -> Run | None:
        """Let go of the data; return a run at rest, which may serve the next call of `fit`."""


class Run(Steps):
    """The steps of a call of `fit` over arrays.

    Between calls of `fit` it is at rest, without the data, and serves the next call if that is like it (`is_for`).

    Steps are counted from the start of the call of `fit`.  One native call does either batches of one epoch or whole
    epochs.  All calls since the last snapshot of the parameters are recorded, so that a training that has become
    non-finite can go back to its last finite step, whatever the borders of the calls were.

    Parameters
    ----------
    net, state, batch_size
        Of the trainer.
    order : int64 ndarray (n_samples,)
        In and out: shuffled in place.
    shuffle : bool or None
        None: the order is not that of all samples but given, as for a buffer of a stream.
    last : Run, optional
        Its memory and the length of its calls are taken over.
    """

    def __init__(
        self,
        net: Network,
        state: State,
        batch_size: int | None,
        order: np.ndarray,
        shuffle: bool | None,
        last: Run | None = None,
    ) -> None:
        self._key = batch_size, shuffle, len(order)
        self._net, self._state, self._order, self._n_samples = net, state, order, len(order)
        self._batch_size = min(batch_size or self._n_samples, self._n_samples)
        self.n_batches = -(-self._n_samples // self._batch_size)
        self._shuffles = bool(shuffle) and self.n_batches > 1
        self._is_mean = net.reduction == "mean"
        self._chunk: int = 1 if last is None else last._chunk  # steps of one call; grows until it takes CHUNK_SECONDS
        self._update: Update | None = None
        self._threads: int | None = None
        self._calls: list[tuple[int, int, np.ndarray | None]] = []  # first step, last step + 1, random words
        self._floats = [net.parameters, *state.buffers]
        self._arrays = [state.running_products, *self._floats]
        if self._shuffles:
            self._arrays.append(order)
        self._copies = self._memory_for_copies(last)
        n_bytes = sum([array.nbytes for array in self._arrays])
        self._snapshot_seconds = max(MIN_SNAPSHOT_SECONDS, SNAPSHOT_FRACTION * n_bytes / COPY_BYTES_PER_SECOND)

    def _memory_for_copies(self, last: Run | None) -> list[np.ndarray]:
        """Return memory for a snapshot: that of the last run where it fits, for new pages cost more than the copy."""
        copies = [] if last is None else last._copies
        kinds = ([(array.shape, array.dtype) for array in arrays] for arrays in (copies, self._arrays))
        return copies if next(kinds) == next(kinds) else [np.empty_like(array) for array in self._arrays]

    def is_for(self, net: Network, state: State, batch_size: int | None, shuffle: bool, n_samples: int) -> bool:
        """Whether it serves a call of `fit` with these."""
        return self._net is net and self._state is state and self._key == (batch_size, shuffle, n_samples)

    def begin(
        self,
        X: np.ndarray,
        Y: np.ndarray,
        weights: np.ndarray | None,
        epochs: int,
        watch: Watch,
        rng: np.random.Generator,
    ) -> None:
        """Begin a call of `fit`."""
        self._X, self._Y, self._weights = X, Y, weights
        self._watch, self._rng = watch, rng
        self._n_steps, self._done = epochs * self.n_batches, 0
        self._epoch_loss = self._epoch_seconds = 0.0  # sums of the epoch under way
        self._skipped = 0  # samples of the epoch under way in steps that were skipped
        self._first_step = self._state.step
        self._copy()

    def take_arrays(
        self,
        X: np.ndarray,
        Y: Any,
        weights: Any,
        history: History,
        update: Update,
        threads: int | None,
        rng: np.random.Generator,
    ) -> bool:
        """Do the one epoch of a call of `fit`, on arrays that are not checked yet, in one native call.

        Returns
        -------
        bool
            False where the call must go the longer way; then nothing was changed.
        """
        start = time.perf_counter()
        if update is not self._update or threads != self._threads:
            self._prepare(update, threads)
        if self._take_arrays is None or self._chunk < self.n_batches or X.dtype != self._net.dtype:
            return False
        self._rng, self._first_step, self._done = rng, self._state.step, 0
        self._copy()
        words = self._draw_words(1) if self._shuffles else None
        done = None
        try:
            done = self._take_arrays(X, Y, weights, words)
            if done is not None and (done < self.n_batches or self.is_nonfinite()):
                self._redo(0)
                done = None
        finally:  # Ctrl-C is heard while it compiles
            if done is None and words is not None:
                rng.bit_generator.state = self._rng_state
        if done is None:
            return False
        seconds = time.perf_counter() - start
        self._choose_chunk(done, seconds)
        history.add(self._training.loss_sum.copy(), float(self._n_samples if self._is_mean else 1), seconds)
        return True

    def advance(self, history: History, update: Update, threads: int | None, rng: np.random.Generator) -> None:
        """Train for about `CHUNK_SECONDS`, at most up to where the call is watched; add whole epochs to the history."""
        start = time.perf_counter()
        self._rng = rng
        if start - self._snapshot_time > self._snapshot_seconds or self._watch.may_change and self._may_be_changed():
            if self.is_nonfinite():
                history.nonfinite = True
                return
            self._copy()
        if update is not self._update or threads != self._threads:
            self._prepare(update, threads)
        first = self._done
        epoch, first_batch = divmod(first, self.n_batches)
        n_epochs, n_steps = self._next_call(first_batch, update.skips)
        words = self._draw_words(n_epochs) if self._shuffles and first_batch == 0 else None
        losses = np.zeros(n_epochs)
        losses[0] = self._epoch_loss
        self._calls.append((first, first + n_steps, words))
        done = self._train(first, first + n_steps, words, losses)
        if self._watch.batches:
            self.batch_loss = self._loss_of_batch(losses[0] - self._epoch_loss) if done else float("nan")
        if update.skips:  # all were tried
            self._skipped += (n_steps - done) * self._rows_of_batch()
            history.skipped += n_steps - done
            done = n_steps
        self._done += done
        history.nonfinite = done < n_steps
        seconds = time.perf_counter() - start
        self._choose_chunk(n_steps, seconds)
        n_whole = self._done // self.n_batches - epoch
        if n_whole:
            self._record(history, losses[:n_whole], seconds)
        else:
            self._epoch_loss, self._epoch_seconds = losses[0], self._epoch_seconds + seconds

    def _choose_chunk(self, n_steps: int, seconds: float) -> None:
        """Choose the length of the next call from that of the last one."""
        self._chunk = max(1, min(int(n_steps * CHUNK_SECONDS / seconds), max(self._chunk, MAX_GROWTH * n_steps)))

    def _may_be_changed(self) -> bool:
        """Whether callbacks ran after the last step, so that the steps before cannot be done again."""
        return self._done > 0 and (self._watch.batches or self.is_between_epochs())

    def _next_call(self, first_batch: int, skips: bool) -> tuple[int, int]:
        """Return the number of epochs, whole or in part, and of steps of the next call."""
        n_epochs = min(self._chunk, self._n_steps - self._done) // self.n_batches  # if so many fit into the call
        if self._watch.epochs or skips or first_batch or n_epochs < 1:
            n_epochs = 1
        n_steps = min(self._chunk, self.n_batches - first_batch) if n_epochs == 1 else n_epochs * self.n_batches
        if skips and self._n_samples % self._batch_size:  # a call skips batches of one length
            n_steps = min(n_steps, max(1, self.n_batches - 1 - first_batch))
        if self._watch.batches:
            n_epochs = n_steps = 1
        return n_epochs, n_steps

    def _record(self, history: History, losses: np.ndarray, seconds: float) -> None:
        """Add the whole epochs of a call to the history."""
        n_samples = self._n_samples - self._skipped  # skipping calls end with their epoch
        self.n_samples_of_loss = n_samples if self._is_mean else 1
        divisor = float(self.n_samples_of_loss) if n_samples else np.nan
        history.add(losses, divisor, self._epoch_seconds + seconds)
        self._epoch_loss = self._epoch_seconds = 0.0
        self._skipped = 0

    def _rows_of_batch(self) -> int:
        """Return the number of samples of the next batch."""
        return min(self._batch_size, self._n_samples - self._done % self.n_batches * self._batch_size)

    def _loss_of_batch(self, total: float) -> float:
        return float(total) / (self._rows_of_batch() if self._is_mean else 1.0)

    def is_between_epochs(self) -> bool:
        """Whether the next step is the first of an epoch."""
        return self._done % self.n_batches == 0

    def is_nonfinite(self) -> bool:
        """Whether a parameter, or what the update rule remembers of it, is not finite."""
        for array in self._floats:
            if not math.isfinite(np.vdot(array, array)) and not checks.is_finite(array):
                return True
        return False

    def seek_finite(self) -> tuple[int, int]:
        """Go back to the last step after which all is finite; return the epoch and batch of the next one, from 0."""
        if self.is_nonfinite():
            finite, nonfinite = self._snapshot_step, self._done
            try:
                while nonfinite - finite > 1:
                    middle = (finite + nonfinite) // 2
                    self._redo(middle)
                    finite, nonfinite = (finite, middle) if self.is_nonfinite() else (middle, nonfinite)
                self._redo(finite)
            except KeyboardInterrupt:
                self._redo(self._snapshot_step)
                raise
            self._done = finite
        self._state.step = self._first_step + self._done
        epoch, batch = divmod(self._done, self.n_batches)
        if self._shuffles:  # words were drawn for as many epochs as a call was to do, which depends on the time
            self._rng.bit_generator.state = self._rng_state
            for _ in range(-(-self._snapshot_step // self.n_batches), epoch + 1):
                self._draw_words(1)
        return epoch, batch

    def next_data(self) -> tuple[np.ndarray, np.ndarray]:
        """Return samples and targets of the next batch, which a call has tried already."""
        order = self._order
        for first, last, words in self._calls:
            if words is not None and first <= self._done < last and self.is_between_epochs():
                order = np.empty_like(order)
                shuffle(words[(self._done - first) // self.n_batches], order)
        start = self._done % self.n_batches * self._batch_size
        rows = order[start : start + self._batch_size]
        return self._X[rows], self._Y[rows]

    @property
    def of_batches(self) -> str:  # type: ignore[override]
        """How a message says the number of batches of an epoch."""
        return f" of {self.n_batches}"

    def close(self) -> Run:
        """Let go of the data; return the run itself."""
        del self._X, self._Y, self._weights
        self._calls = []
        return self

    def _draw_words(self, n_epochs: int) -> np.ndarray:
        """Draw the random words that decide the orders of so many epochs."""
        return self._rng.integers(0, 2**32, (n_epochs, self._n_samples), dtype=np.uint32)

    def _copy(self) -> None:
        """Take a snapshot."""
        self._rng_state = self._rng.bit_generator.state if self._shuffles else {}
        for copy, array in zip(self._copies, self._arrays, strict=True):
            copy[...] = array
        self._snapshot_step, self._snapshot_time = self._done, time.perf_counter()
        self._calls = []

    def _redo(self, step: int) -> None:
        """Do the steps from the snapshot up to `step` again."""
        for copy, array in zip(self._copies, self._arrays, strict=True):
            array[...] = copy
        self._state.step = self._first_step + self._snapshot_step
        for first, last, words in self._calls:
            if first >= step:
                break
            last = min(last, step)
            whole = first + (last - first) // self.n_batches * self.n_batches if first % self.n_batches == 0 else first
            if whole > first:
                self._train(first, whole, words)
            if last > whole:
                n_epochs = (whole - first) // self.n_batches
                self._train(whole, last, None if words is None else words[n_epochs:])

    def _prepare(self, update: Update, threads: int | None) -> None:
        """Get the function of the backend that trains with these settings; see `NumpyBackend.training`."""
        self._update, self._threads = update, threads
        self._training = self._net._backend.training(
            self._net.parameters,
            self._state,
            batch_size=self._batch_size,
            order=self._order,
            update=update,
            threads=threads or 0,
        )
        self._take_arrays = take_arrays_of(self._training)

    def _train(self, first: int, last: int, words: np.ndarray | None, losses: np.ndarray | None = None) -> int:
        """Do steps `first` up to `last`, batches of one epoch or whole epochs; return the number of updates."""
        n_epochs = -(-(last - first) // self.n_batches)
        if losses is None:
            losses = np.zeros(n_epochs)
        if words is not None:
            words = words[:n_epochs]
        first_batch, last_batch = first % self.n_batches, (last - 1) % self.n_batches + 1
        skipped = self._state.skipped
        n_steps = self._training(self._X, self._Y, self._weights, words, first_batch, last_batch, losses)
        return n_steps - (self._state.skipped - skipped)


class StreamRun(Steps):
    """The steps of a call of `fit` over a stream: for each buffer the one epoch of a `Run`."""

    def __init__(
        self,
        net: Network,
        state: State,
        batch_size: int,
        stream: Stream,
        shuffle: bool,
        class_weight: dict | None,
        watch: Watch,
        last: Run | None,
    ) -> None:
        self._net, self._state, self._batch_size = net, state, batch_size
        self._stream, self._shuffle, self._class_weight, self._watch = stream, shuffle, class_weight, watch
        self._is_mean = net.reduction == "mean"
        self._run: Run | None = None
        self._last = last
        self._buffers: Iterator | None = None  # of the epoch under way
        self._part = History()  # of the buffer under way
        self._n_samples = self._steps = 0  # of the epoch: samples that the loss is of, steps of the buffers done

    def advance(self, history: History, update: Update, threads: int | None, rng: np.random.Generator) -> None:
        """Train for about `CHUNK_SECONDS`, at most to the end of a buffer."""
        if self._buffers is None:
            self._begin_epoch(rng)
        assert self._run is not None
        part, n_skipped, self._epoch = self._part, self._part.skipped, len(history)
        self._run.advance(part, update, threads, rng)
        self.batch_loss, history.skipped = self._run.batch_loss, history.skipped + part.skipped - n_skipped
        history.nonfinite = part.nonfinite or (len(part) > 0 and self._run.is_nonfinite())
        if history.nonfinite or not len(part):
            return
        if np.isfinite(part.loss[0]):  # not every batch of it was skipped
            n_samples = self._run.n_samples_of_loss
            self._loss += part.loss[0] * n_samples
            self._n_samples = self._n_samples + n_samples if self._is_mean else 1
        self._steps += self._run.n_batches
        if not self._begin_buffer(rng):
            self._buffers = None
            history.add(np.array([self._loss]), self._n_samples or np.nan, time.perf_counter() - self._start)

    def _begin_epoch(self, rng: np.random.Generator) -> None:
        self._start, self._loss = time.perf_counter(), 0.0
        self._n_samples = self._steps = 0
        self._buffers = self._stream.buffers(
            self._net, rng, self._shuffle, self._batch_size, as_order=True, in_place=self._class_weight is None
        )
        self._begin_buffer(rng)

    def _begin_buffer(self, rng: np.random.Generator) -> bool:
        """Begin the next buffer of the epoch; return whether there is one."""
        assert self._buffers is not None
        buffer = next(self._buffers, None)
        if buffer is None:
            return False
        X, Y, order = buffer
        weights = checks.weights(None, self._class_weight, Y, self._net.sizes[-1], self._net.dtype)
        self._run = Run(self._net, self._state, self._batch_size, order, None, self._run or self._last)
        self._run.begin(X, Y, weights, 1, self._watch._replace(epochs=True), rng)
        self._part = History()
        return True

    def is_between_epochs(self) -> bool:
        """Whether the next step is the first of an epoch."""
        return self._buffers is None

    def is_nonfinite(self) -> bool:
        """Whether a parameter, or what the update rule remembers of it, is not finite."""
        return self._run is not None and self._run.is_nonfinite()

    def seek_finite(self) -> tuple[int, int]:
        """Go back to the last step after which all is finite; return the epoch and batch of the next one, from 0."""
        assert self._run is not None
        return self._epoch, self._steps + self._run.seek_finite()[1]

    def next_data(self) -> tuple[np.ndarray, np.ndarray]:
        """Return samples and targets of the next batch, which a call has tried already."""
        assert self._run is not None
        return self._run.next_data()

    def close(self) -> Run | None:
        """End the thread that reads ahead; return the run of the last buffer."""
        if self._buffers is not None:
            self._buffers.close()  # type: ignore[attr-defined]
        return self._last if self._run is None else self._run.close()


def take_arrays_of(training: Callable[..., int]) -> Callable[..., int | None] | None:
    """Return the function for arrays as they are of what a backend's `training` returned; None where it has none."""
    return getattr(training, "take_arrays", None)


def nonfinite_origin(net: Network, X: np.ndarray, Y: np.ndarray) -> str:
    """Name where the first number that is not finite arises when these samples pass through the network."""
    found = []
    n_rows = max(1, DIAGNOSED_NUMBERS // sum(net.sizes))
    with np.errstate(all="ignore"):
        for start in range(0, len(X), n_rows):
            record = net._backend.record(net.parameters, X[start : start + n_rows])
            arrays = [array for pair in zip(record.Z, record.A[1:], strict=True) for array in pair]
            found += [i for i, array in enumerate(arrays) if not checks.is_finite(array)][:1]
        if found:
            return f"{'ZA'[min(found) % 2]} of layer {min(found) // 2 + 1}"
        if Y.ndim == 1 and not ((Y >= 0) & (Y < net.sizes[-1])).all():
            return BAD_LABEL
        losses, gradient = net._backend.gradient(net.parameters, X, Y)
        if not np.isfinite(losses.sum()):
            return "the loss, of finite outputs"
    return "the update" if checks.is_finite(gradient) else "the gradient"
