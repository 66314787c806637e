"""The steps of one call of `Trainer.fit`, call by call of the backend."""

import time

import numpy as np

from .. import checks, reference
from .history import History

CHUNK_SECONDS = 0.05  # one native call: Ctrl-C waits until it returns


MAX_GROWTH = 10  # of the chunk from one call to the next, while its speed is being learnt


SNAPSHOT_SHARE = 50  # copying the parameters takes at most 1/50 of the time


MIN_SNAPSHOT_SECONDS = 0.005  # between two snapshots of however few parameters


COPY_BYTES_PER_SECOND = 2e9  # of that estimate; low on purpose


EPOCHS_WITHOUT_FALL = 10  # of the loss, by more than tol; n_iter_no_change of scikit-learn


class _Plateau:
    """Whether the loss does not fall any more, as scikit-learn's MLPs tell it."""

    def __init__(self, tol):
        self.tol, self.best, self.count = tol, np.inf, 0

    def is_reached(self, loss):
        """Take the loss of an epoch."""
        self.count = self.count + 1 if loss > self.best - self.tol else 0
        self.best = min(self.best, loss)
        return self.count > EPOCHS_WITHOUT_FALL


class _Run:
    """The steps of a call of `fit`: which are done, which come next, and how to do the last ones again.

    Between calls it is at rest, without the data, and what it has made ready serves the next one that is like it.

    A step is counted from the start of the call.  One native call does either batches of one epoch or whole
    epochs.  Since the last snapshot of the parameters every call is noted, so that a training that left the
    finite numbers can be led back to its last finite step, wherever the borders of the calls fell.
    """

    def __init__(self, trainer, order, shuffle, last):
        net, state, batch_size = self._owner = trainer.net, trainer.state, trainer.batch_size
        self.order, self.n_samples, self._may_shuffle = order, len(order), shuffle  # None: the order is not its own
        self.batch_size = min(batch_size or self.n_samples, self.n_samples)
        self.n_batches = -(-self.n_samples // self.batch_size)
        self.shuffle = bool(shuffle) and self.n_batches > 1
        self._settings = self._training = None
        self._floats = [net.parameters, *state.buffers]
        self._kept = [state.running_products, *self._floats]
        if self.shuffle:
            self._kept.append(self.order)
        self._copies = [] if last is None else last._copies  # new memory would cost more than the copying
        copies, kept = ([(array.shape, array.dtype) for array in arrays] for arrays in (self._copies, self._kept))
        if copies != kept:
            self._copies = [np.empty_like(array) for array in self._kept]
        bytes_kept = sum([array.nbytes for array in self._kept])
        self._snapshot_seconds = max(MIN_SNAPSHOT_SECONDS, SNAPSHOT_SHARE * bytes_kept / COPY_BYTES_PER_SECOND)

    def is_for(self, trainer, n_samples):
        """Whether it can serve a call of `fit` over so many samples, in an order of its own."""
        mine, theirs = self._owner, (trainer.net, trainer.state, trainer.batch_size)
        return (
            self.n_samples == n_samples
            and self._may_shuffle is trainer.shuffle
            and mine[0] is theirs[0]
            and mine[1] is theirs[1]
            and mine[2] == theirs[2]
        )

    def begin(self, trainer, X, Y, weights, epochs):
        """Begin a call of `fit`."""
        self.trainer, self.X, self.Y, self.weights = trainer, X, Y, weights
        self.n_steps = epochs * self.n_batches
        self.done = 0
        self.epoch_loss = self.epoch_seconds = 0.0  # of the epoch under way
        self.batch_loss = 0.0  # of the last step, where a call makes one
        self.skipped = 0  # samples of the epoch under way
        self._first_step = trainer.state.step
        self._copy()
        self._snapshot_step, self._snapshot_time, self._calls = 0, time.perf_counter(), []

    def advance(self, history, one_epoch, one_batch=False, is_watched=False):
        """Train for about CHUNK_SECONDS, at most to the end of the epoch if `one_epoch`, or a single batch.

        `is_watched`: before each epoch, or batch, callbacks may have changed anything: no step before it can be done
        again.
        """
        trainer, start = self.trainer, time.perf_counter()
        is_changed = is_watched and self.done and (one_batch or self.is_between_epochs())
        if is_changed or start - self._snapshot_time > self._snapshot_seconds:
            self._snapshot(history)
            if history.nonfinite:
                return
        epoch, first_batch = divmod(self.done, self.n_batches)
        n_epochs = min(trainer._chunk, self.n_steps - self.done) // self.n_batches  # if that many fit into the call
        if one_epoch or first_batch or n_epochs < 1:
            n_epochs = 1
        steps = min(trainer._chunk, self.n_batches - first_batch) if n_epochs == 1 else n_epochs * self.n_batches
        if trainer.on_nonfinite == "skip" and self.n_samples % self.batch_size:  # a call skips batches of one length
            steps = min(steps, max(1, self.n_batches - 1 - first_batch))
        if one_batch:
            n_epochs = steps = 1
        words = None
        if self.shuffle and first_batch == 0:
            words = self._words(n_epochs)
        losses = np.zeros(n_epochs)
        losses[0] = self.epoch_loss
        self._calls.append((self.done, self.done + steps, words))
        done = self._train(self.done, self.done + steps, words, losses)
        share = float(self.n_samples) if trainer.net.reduction == "mean" else 1.0
        if one_batch:
            rows = min(self.batch_size, self.n_samples - first_batch * self.batch_size)
            self.batch_loss = float(losses[0] - self.epoch_loss) / min(rows, share) if done else float("nan")
        if trainer.on_nonfinite == "skip":  # all were tried
            rows = min(self.batch_size, self.n_samples - first_batch * self.batch_size)
            self.skipped += (steps - done) * rows
            history.skipped += steps - done
            done = steps
        self.done += done
        history.nonfinite = done < steps
        seconds = time.perf_counter() - start
        trainer._chunk = max(1, min(int(steps * CHUNK_SECONDS / seconds), max(trainer._chunk, MAX_GROWTH * steps)))
        n_whole = self.done // self.n_batches - epoch
        if n_whole:
            if self.skipped:  # then it is one epoch
                share = (share - self.skipped if trainer.net.reduction == "mean" else 1.0) if self.n_made else np.nan
            history._add(losses[:n_whole], share, self.epoch_seconds + seconds)
            self.last_made, self.skipped = self.n_made, 0
            self.epoch_loss = self.epoch_seconds = 0.0
        else:
            self.epoch_loss, self.epoch_seconds = losses[0], self.epoch_seconds + seconds

    @property
    def n_made(self):
        """Samples of the epoch under way but those of steps left out."""
        return self.n_samples - self.skipped

    def not_finite(self):
        """Whether a parameter, or what the update rule remembers of it, is not finite."""
        return not all(map(checks.is_finite, self._floats))

    def back_to_finite(self):
        """Lead the parameters back to the last step after which they were finite; return how many steps that is."""
        if self.not_finite():
            finite, nonfinite = self._snapshot_step, self.done
            try:
                while nonfinite - finite > 1:
                    middle = (finite + nonfinite) // 2
                    self._again(middle)
                    finite, nonfinite = (finite, middle) if self.not_finite() else (middle, nonfinite)
                self._again(finite)
            except KeyboardInterrupt:
                self._again(self._snapshot_step)
                raise
            self.done = finite
        self.trainer.state.step = self._first_step + self.done
        epoch, batch = divmod(self.done, self.n_batches)
        if self.shuffle:  # words were drawn for as many epochs as a call was to do, which depends on the time
            self.trainer.rng.bit_generator.state = self._rng_state
            for _ in range(-(-self._snapshot_step // self.n_batches), epoch + 1):
                self._words(1)
        return epoch, batch

    def _words(self, n_epochs):
        """Draw what decides the orders of so many epochs."""
        return self.trainer.rng.integers(0, 2**32, (n_epochs, self.n_samples), dtype=np.uint32)

    @property
    def of_batches(self):
        """How a message says how many batches an epoch has."""
        return f" of {self.n_batches}"

    def is_between_epochs(self):
        """Whether the next step is the first of an epoch."""
        return self.done % self.n_batches == 0

    def data_of_next(self):
        """Return samples and targets of the next batch, which a call has tried already."""
        rows = self.rows_of_next()
        return self.X[rows], self.Y[rows]

    def close(self):
        """Be at rest: without the data, for the next call of `fit`."""
        trainer, self.trainer, self.X, self.Y, self.weights = self.trainer, None, None, None, None
        self._calls = []
        if trainer is not None:
            trainer._last_run = self

    def rows_of_next(self):
        """Return the samples of the next batch, which a call has tried already."""
        order = self.order
        for first, last, words in self._calls:
            if words is not None and first <= self.done < last and self.done % self.n_batches == 0:
                order = np.empty_like(order)
                reference.shuffle(words[(self.done - first) // self.n_batches], order)
        start = self.done % self.n_batches * self.batch_size
        return order[start : start + self.batch_size]

    def _snapshot(self, history):
        if self.not_finite():
            history.nonfinite = True
            return
        self._copy()
        self._snapshot_step, self._snapshot_time, self._calls = self.done, time.perf_counter(), []

    def _copy(self):
        self._rng_state = self.trainer.rng.bit_generator.state if self.shuffle else None
        for copy, array in zip(self._copies, self._kept, strict=True):
            copy[...] = array

    def _again(self, step):
        """Do the steps from the snapshot up to `step` again."""
        for copy, array in zip(self._copies, self._kept, strict=True):
            array[...] = copy
        self.trainer.state.step = self._first_step + self._snapshot_step
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

    def _train(self, first, last, words, losses=None):
        """Do the steps from `first` up to `last`: batches of one epoch, or whole epochs."""
        trainer, first_batch, n_epochs = self.trainer, first % self.n_batches, -(-(last - first) // self.n_batches)
        settings = trainer._update(), trainer.threads
        if settings != self._settings:
            self._settings = settings
            self._training = trainer._training(self.batch_size, self.order)
        losses = np.zeros(n_epochs) if losses is None else losses
        words = None if words is None else words[:n_epochs]
        return trainer._made(
            self._training, self.X, self.Y, self.weights, words, first_batch, (last - 1) % self.n_batches + 1, losses
        )


class _StreamRun:
    """The steps of one call of `fit` over a stream: for each buffer the one epoch of a `_Run`."""

    of_batches = ""

    def __init__(self, trainer, stream, class_weight):
        self.trainer, self.stream, self.class_weight = trainer, stream, class_weight
        self.buffers = self.run = self.part = None  # of the epoch under way
        self.batch_loss = 0.0

    def advance(self, history, one_epoch, one_batch=False, is_watched=False):
        """Train for about CHUNK_SECONDS, at most to the end of a buffer, or a single batch."""
        trainer = self.trainer
        if self.buffers is None:
            self.start, self.loss, self.share, self.steps = time.perf_counter(), 0.0, 0, 0
            self.buffers = self.stream.buffers(
                trainer.net,
                trainer.rng,
                trainer.shuffle,
                trainer.batch_size,
                as_order=True,
                in_place=self.class_weight is None,
            )
            self._take_buffer()
        self.epoch, skipped = len(history), self.part.skipped
        self.run.advance(self.part, True, one_batch, is_watched)
        self.batch_loss, history.skipped = self.run.batch_loss, history.skipped + self.part.skipped - skipped
        history.nonfinite = self.part.nonfinite or (len(self.part) > 0 and self.run.not_finite())
        if history.nonfinite or not len(self.part):
            return
        if np.isfinite(self.part.loss[0]):  # not every batch of it was skipped
            share = self.run.last_made if trainer.net.reduction == "mean" else 1
            self.loss += self.part.loss[0] * share
            self.share = self.share + share if trainer.net.reduction == "mean" else 1
        self.steps += self.run.n_batches
        if not self._take_buffer():
            self.buffers = None
            history._add(np.array([self.loss]), self.share or np.nan, time.perf_counter() - self.start)

    def _take_buffer(self):
        buffer = next(self.buffers, None)
        if buffer is not None:
            trainer, (X, Y, order) = self.trainer, buffer
            if self.run is not None:
                self.run.close()
            weights = checks.weights(None, self.class_weight, Y, trainer.net.sizes[-1], trainer.net.dtype)
            self.run, self.part = trainer._run(X, Y, weights, 1, order), History()
        return buffer is not None

    def is_between_epochs(self):
        """Whether the next step is the first of an epoch."""
        return self.buffers is None

    def not_finite(self):
        """Whether a step left a parameter, or what the update rule remembers of it, that is not finite."""
        return self.run is not None and self.run.not_finite()

    def back_to_finite(self):
        """Lead the parameters back to the last step after which they were finite; return its epoch and batch."""
        return self.epoch, self.steps + self.run.back_to_finite()[1]

    def data_of_next(self):
        """Return samples and targets of the next batch, which a call has tried already."""
        return self.run.data_of_next()

    def close(self):
        """End the thread that reads ahead, and the part under way."""
        if self.run is not None:
            self.run.close()
        if self.buffers is not None:
            self.buffers.close()
