"""Training: what happens to a network over epochs, and the record of it."""

import sys
import time
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np

from . import checks
from .network import Network, aligned_zeros
from .optimizers import OPTIMIZERS
from .update import MEMORY

CHUNK_SECONDS = 0.05  # one native call: Ctrl-C waits until it returns
MAX_GROWTH = 10  # of the chunk from one call to the next, while its speed is being learnt
SNAPSHOT_SHARE = 50  # copying the parameters takes at most 1/50 of the time
LEAST_SNAPSHOT_SECONDS = 0.005  # between two snapshots of however few parameters
COPY_BYTES_PER_SECOND = 2e9  # of that estimate; low on purpose
PREDICTED_NUMBERS = 1 << 26  # multiply-adds of one call that predicts for a metric
SILENT_SECONDS = 2.0  # a progress bar of its own accord appears only on longer work


@dataclass(repr=False)
class History:
    """What one call of `Trainer.fit` did, epoch by epoch.

    Attributes
    ----------
    first_epoch : int
        Number of the first epoch; calls of `fit` count on from each other.
    loss : list of float
        Loss of each epoch, by the network's reduction, each batch taken before its own update.
    validation_loss : list of float
        Loss on the validation data after each epoch; empty without such data.
    metrics : dict of list of float
        After each epoch: by name on the training data, and by "validation_" + name.
    seconds : list of float
        Time of each epoch.
    interrupted : bool
        Whether Ctrl-C ended it; the epoch it fell into is not recorded.
    nonfinite : bool
        Whether a loss that was not finite ended it.
    stopped : str or None
        Of a method of the full batch that ended early: "converged", or "stalled" where no step lowers the loss.
    """

    first_epoch: int = 1
    validation_loss: list = field(default_factory=list)
    metrics: dict = field(default_factory=dict)
    interrupted: bool = False
    nonfinite: bool = False
    stopped: str | None = None
    _loss: list = field(default_factory=list)
    _seconds: list = field(default_factory=list)
    _calls: list = field(default_factory=list)  # (losses, seconds) of calls not yet in the two lists above
    _n_epochs: int = 0

    @property
    def loss(self):
        """Loss of each epoch."""
        self._write_up()
        return self._loss

    @property
    def seconds(self):
        """Time of each epoch."""
        self._write_up()
        return self._seconds

    @property
    def epochs(self):
        """Numbers of the recorded epochs."""
        return list(range(self.first_epoch, self.first_epoch + len(self)))

    def _add(self, losses, seconds):
        self._calls.append((losses, seconds))
        self._n_epochs += len(losses)

    def _write_up(self):
        """Fill the lists when somebody looks: a million tiny epochs are trained in a fraction of the time it takes."""
        for losses, seconds in self._calls:
            self._loss.extend(losses.tolist())
            self._seconds.extend([seconds / len(losses)] * len(losses))
        self._calls.clear()

    def _keep(self, n_epochs):
        for values in (self.loss, self.validation_loss, self.seconds, *self.metrics.values()):
            del values[n_epochs:]
        self._n_epochs = n_epochs

    def __len__(self):
        """Return the number of recorded epochs."""
        return self._n_epochs

    def __repr__(self):
        """Return the first and last value of everything recorded."""
        if not len(self):
            return "History(no epochs)"
        named = {"loss": self.loss, "validation_loss": self.validation_loss, **self.metrics}
        course = ", ".join(f"{name} {values[0]:.4g} -> {values[-1]:.4g}" for name, values in named.items() if values)
        last = self.first_epoch + len(self) - 1
        return f"History(epochs {self.first_epoch} to {last}: {course}; {sum(self.seconds):.3g} s)"


def accuracy(A, Y):
    """Share of the samples whose class is right.

    The class is the largest output; with one output it is whether the output is above 1/2.

    Parameters
    ----------
    A : ndarray (n_samples, n_out)
    Y : ndarray (n_samples, n_out), or class labels (n_samples,)
    """
    if A.shape[1] == 1 and Y.ndim == 2:
        return float(np.mean((A > 0.5) == (Y > 0.5)))
    return float(np.mean(A.argmax(axis=1) == (Y if Y.ndim == 1 else Y.argmax(axis=1))))


METRICS = {"accuracy": accuracy}


class Trainer:
    """Trains a network by gradient descent.

    Parameters
    ----------
    net : Network
        Changed in place.
    optimizer : SGD, LBFGS or LevenbergMarquardt
    batch_size : int or None
        Samples of one update: 1 is online, k is mini-batch; None, or no fewer than there are samples, is full
        batch.  The last, shorter batch of an epoch is trained too.  LBFGS and LevenbergMarquardt take all samples.
    shuffle : bool
        Draw a new order of the samples for each epoch.  In full batch the order has no meaning and none is drawn.
    seed : None, int, SeedSequence or Generator
        Source of the orders; a seed gives the same orders on both backends.
    threads : int or None
        Threads of the kernels; None leaves it to them.  The result is the same bits for every number.

    Attributes
    ----------
    epochs : int
        Epochs done by all calls so far.
    velocity : ndarray (n_parameters,) or None
        Running sum of the gradients; None without momentum.

    Notes
    -----
    Nothing but the arguments decides the result: not the speed of the machine, and not how epochs are divided
    among calls of `fit`.
    """

    def __init__(self, net, optimizer, batch_size=32, shuffle=True, seed=None, threads=None):
        if not isinstance(net, Network):
            raise TypeError(f"net must be a fastbp.Network, got {net!r}")
        if not isinstance(optimizer, OPTIMIZERS):
            raise TypeError(f"optimizer must be one such as fastbp.SGD(lr=0.1), got {optimizer!r}")
        self.net, self.optimizer = net, optimizer
        self.batch_size = None if batch_size is None else checks.integer("batch_size", batch_size)
        self.shuffle = checks.flag("shuffle", shuffle)
        self.threads = None if threads is None else checks.integer("threads", threads)
        self.rng = checks.generator("seed", seed)
        self.epochs = 0
        self.velocity = aligned_zeros(net.parameters.size, net.dtype) if getattr(optimizer, "momentum", 0) else None
        self.memory = np.ones(MEMORY)  # of a method of the full batch
        self._chunk = 1  # steps of one native call; grows until a call takes CHUNK_SECONDS

    def fit(self, X, Y, epochs=1, validation_data=None, metrics=(), progress=None):
        """Train for some epochs, going on from where training is.

        Parameters
        ----------
        X : array_like (n_samples, n_in)
            float32, float64 and uint8 are read where they are; what else holds numbers is converted once.
        Y : array_like (n_samples, n_out); with cross_entropy also class labels (n_samples,)
        epochs : int
        validation_data : (Xv, Yv), optional
        metrics : sequence of str or function
            Names of `METRICS`, or functions ``(A, Y) -> float`` of the output activations and the targets.
        progress : bool or None
            Whether to show a progress bar (rich).  None: in a terminal, if rich is there and it takes long.

        Returns
        -------
        History
            Ctrl-C returns it too, with what was done so far, within a quarter of a second (or one update).

        Warns
        -----
        RuntimeWarning
            The loss was not finite, or training was interrupted.  The network keeps the last finite parameters.

        Raises
        ------
        ValueError, TypeError
            Where an argument does not fit; nothing is changed then.
        """
        X, Y = self._data(X, Y)
        epochs = checks.integer("epochs", epochs)
        sets = [("", X, Y)]
        if validation_data is not None:
            if not isinstance(validation_data, list | tuple) or len(validation_data) != 2:
                raise TypeError(f"validation_data must be a pair (X, Y), got {type(validation_data).__name__}")
            sets.append(("validation_", *self._data(*validation_data, "validation_data: X", "validation_data: Y")))
        metrics = _metrics(metrics)
        bar = _progress_bar(progress, epochs)
        history = History(self.epochs + 1, metrics={prefix + name: [] for prefix, *_ in sets for name in metrics})
        every_epoch = bool(metrics) or len(sets) > 1
        run = _Run(self, X, Y, epochs)
        try:
            with bar as show:
                if hasattr(self.optimizer, "minimise"):
                    self._minimise(X, Y, epochs, history, sets, metrics, show)
                    return history
                while len(history) < epochs and not history.nonfinite:
                    n_done = len(history)
                    run.advance(history, one_epoch=every_epoch)
                    if every_epoch and len(history) > n_done:
                        self._evaluate(history, sets, metrics)
                    show(history)
                self._stop_if_nonfinite(run, history)
        except KeyboardInterrupt:
            history.interrupted = True
            message = f"training was interrupted after {len(history)} of {epochs} epochs; the network is usable"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        finally:
            self.epochs += len(history)
        return history

    def partial_fit(self, X, Y):
        """Train one pass over these rows, going on from where training is.

        Returns
        -------
        History
            Of this one epoch.
        """
        return self.fit(X, Y, progress=False)

    def step(self, X, Y):
        """Update once, on exactly these rows.

        Returns
        -------
        float
            The loss before the update.  Where it is not finite there is a RuntimeWarning and no update.
        """
        if hasattr(self.optimizer, "minimise"):
            raise TypeError(f"{type(self.optimizer).__name__} makes no single steps: use fit")
        X, Y = self._data(X, Y)
        losses = np.zeros(1)
        if not self._train(X, Y, len(X), np.arange(len(X)), None, 0, 1, losses):
            warnings.warn(f"the loss of this step is {losses[0]}: no update was made", RuntimeWarning, stacklevel=2)
        return float(losses[0] / (len(X) if self.net.reduction == "mean" else 1))

    def _data(self, X, Y, *names):
        net = self.net
        X = checks.samples(X, net.sizes[0], net.dtype, *names[:1])
        return X, checks.targets(Y, len(X), net.sizes[-1], net.loss_name, net.dtype, False, *names[1:])

    def _train(self, X, Y, batch_size, order, words, first_batch, last_batch, losses):
        """Train batches in one native call; see `NumpyBackend.train`."""
        from .update import State, Update
        optimizer = self.optimizer
        state = State(0, self.net.parameters.size, self.net.dtype)
        rule = "sgd"
        if self.velocity is not None:
            state.buffers, rule = self.velocity[None], "nesterov" if optimizer.nesterov else "momentum"
        update = Update(rule, (float(optimizer.momentum),), "constant", (float(optimizer.lr),))
        return self.net._backend.train(
            self.net.parameters, state, X, Y, weights=None, batch_size=batch_size, words=words, order=order,
            first_batch=first_batch, last_batch=last_batch, update=update, losses=losses, threads=self.threads or 0)

    def _minimise(self, X, Y, epochs, history, sets, metrics, show):
        """Train by a method of the full batch, whose iterations are the epochs."""
        start = time.perf_counter()

        def after(loss):
            nonlocal start
            history._add(np.array([loss]), time.perf_counter() - start)
            self._evaluate(history, sets, metrics)
            show(history)
            start = time.perf_counter()

        history.stopped = self.optimizer.minimise(self.net, X, Y, epochs, after, memory=self.memory)
        if history.stopped == "nonfinite":
            history.nonfinite = True
            warnings.warn("the loss is not finite at the parameters that training starts from: nothing was changed",
                          RuntimeWarning, stacklevel=3)

    def _evaluate(self, history, sets, metrics):
        """Losses and metrics of the epoch just done."""
        net = self.net
        for prefix, X, Y in sets:
            rows = max(1, PREDICTED_NUMBERS // net.parameters.size)
            pieces = [slice(start, start + rows) for start in range(0, len(X), rows)]
            if prefix:
                losses = [net._backend.losses(net.parameters, X[piece], Y[piece]) for piece in pieces]
                history.validation_loss.append(net._reduced(np.concatenate(losses)))
            if metrics:
                A = np.concatenate([net._backend.predict(net.parameters, X[piece]) for piece in pieces])
            for name, metric in metrics.items():
                history.metrics[prefix + name].append(float(metric(A, Y)))

    def _stop_if_nonfinite(self, run, history):
        if not (history.nonfinite or run.not_finite()):
            return
        history.nonfinite = True
        steps = run.back_to_finite()
        history._keep(steps // run.n_batches)
        epoch, batch = divmod(steps, run.n_batches)
        warnings.warn(
            f"the loss became non-finite in epoch {history.first_epoch + epoch} (batch {batch + 1} of "
            f"{run.n_batches}): training stopped, and the network keeps the last finite parameters; a smaller lr "
            "may help",
            RuntimeWarning, stacklevel=3)


class _Run:
    """The steps of one call of `fit`: which are done, which come next, and how to do the last ones again.

    A step is counted from the start of the call.  One native call does either batches of one epoch or whole
    epochs.  Since the last snapshot of the parameters every call is noted, so that a training that left the
    finite numbers can be led back to its last finite step, wherever the borders of the calls fell.
    """

    def __init__(self, trainer, X, Y, epochs):
        self.trainer, self.X, self.Y = trainer, X, Y
        n_samples = len(X)
        self.batch_size = min(trainer.batch_size or n_samples, n_samples)
        self.n_batches = -(-n_samples // self.batch_size)
        self.shuffle = trainer.shuffle and self.n_batches > 1
        self.n_steps = epochs * self.n_batches
        self.done = 0
        self.order = np.arange(n_samples)
        self.epoch_loss = self.epoch_seconds = 0.0  # of the epoch under way
        self._kept = [self.order, trainer.net.parameters, *([] if trainer.velocity is None else [trainer.velocity])]
        self._copies = [array.copy() for array in self._kept]
        bytes_kept = sum(array.nbytes for array in self._kept)
        self._snapshot_seconds = max(LEAST_SNAPSHOT_SECONDS, SNAPSHOT_SHARE * bytes_kept / COPY_BYTES_PER_SECOND)
        self._snapshot_step, self._snapshot_time, self._calls = 0, time.perf_counter(), []

    def advance(self, history, one_epoch):
        """Train for about CHUNK_SECONDS, at most to the end of the epoch if `one_epoch`."""
        trainer, start = self.trainer, time.perf_counter()
        if start - self._snapshot_time > self._snapshot_seconds:
            self._snapshot(history)
            if history.nonfinite:
                return
        epoch, first_batch = divmod(self.done, self.n_batches)
        n_epochs = min(trainer._chunk, self.n_steps - self.done) // self.n_batches  # if that many fit into the call
        if one_epoch or first_batch or n_epochs < 1:
            n_epochs = 1
        steps = min(trainer._chunk, self.n_batches - first_batch) if n_epochs == 1 else n_epochs * self.n_batches
        words = None
        if self.shuffle and first_batch == 0:
            words = trainer.rng.integers(0, 2**32, (n_epochs, len(self.X)), dtype=np.uint32)
        losses = np.zeros(n_epochs)
        losses[0] = self.epoch_loss
        self._calls.append((self.done, self.done + steps, words))
        done = self._train(self.done, self.done + steps, words, losses)
        self.done += done
        history.nonfinite = done < steps
        seconds = time.perf_counter() - start
        trainer._chunk = max(1, min(int(steps * CHUNK_SECONDS / seconds), max(trainer._chunk, MAX_GROWTH * steps)))
        n_whole = self.done // self.n_batches - epoch
        if n_whole:
            share = len(self.X) if trainer.net.reduction == "mean" else 1
            history._add(losses[:n_whole] / share, self.epoch_seconds + seconds)
            self.epoch_loss = self.epoch_seconds = 0.0
        else:
            self.epoch_loss, self.epoch_seconds = losses[0], self.epoch_seconds + seconds

    def not_finite(self):
        """Whether a parameter (or its velocity) is not finite."""
        return not all(map(checks.is_finite, self._kept[1:]))

    def back_to_finite(self):
        """Lead the parameters back to the last step after which they were finite; return how many steps that is."""
        if not self.not_finite():
            return self.done
        finite, nonfinite = self._snapshot_step, self.done
        while nonfinite - finite > 1:
            middle = (finite + nonfinite) // 2
            self._again(middle)
            finite, nonfinite = (finite, middle) if self.not_finite() else (middle, nonfinite)
        self._again(finite)
        self.done = finite
        return finite

    def _snapshot(self, history):
        if self.not_finite():
            history.nonfinite = True
            return
        for copy, array in zip(self._copies, self._kept, strict=True):
            copy[...] = array
        self._snapshot_step, self._snapshot_time, self._calls = self.done, time.perf_counter(), []

    def _again(self, step):
        """Do the steps from the snapshot up to `step` again."""
        for copy, array in zip(self._copies, self._kept, strict=True):
            array[...] = copy
        for first, last, words in self._calls:
            last = min(last, step)
            whole = first + (last - first) // self.n_batches * self.n_batches if first % self.n_batches == 0 else first
            if whole > first:
                self._train(first, whole, words)
            if last > whole:
                n_epochs = (whole - first) // self.n_batches
                self._train(whole, last, None if words is None else words[n_epochs:])

    def _train(self, first, last, words, losses=None):
        """Do the steps from `first` up to `last`: batches of one epoch, or whole epochs."""
        first_batch, n_epochs = first % self.n_batches, -(-(last - first) // self.n_batches)
        last_batch = (last - 1) % self.n_batches + 1
        losses = np.zeros(n_epochs) if losses is None else losses
        words = None if words is None else words[:n_epochs]
        return self.trainer._train(self.X, self.Y, self.batch_size, self.order, words, first_batch, last_batch, losses)


def _metrics(metrics):
    """Return the functions by name."""
    if isinstance(metrics, str) or callable(metrics):
        metrics = (metrics,)
    if not isinstance(metrics, list | tuple):
        raise TypeError(f"metrics must be a sequence of names or functions (A, Y) -> float, got {metrics!r}")
    named = [(getattr(metric, "__name__", repr(metric)), metric) if callable(metric) else
             (checks.name("metrics", metric, METRICS), METRICS[metric]) for metric in metrics]
    if len(dict(named)) < len(named):
        raise ValueError(f"metrics must have different names, got {[name for name, _ in named]}")
    return dict(named)


# ------------------------------------------------------------------ the progress bar


def _progress_bar(progress, epochs):
    """Return a context whose value shows a history; it does nothing where there is to be no bar."""
    if progress is not None:
        checks.flag("progress", progress)
    if progress and find_spec("rich") is None:
        raise ImportError("progress=True needs the package rich: pip install 'fastbp[cli]'")
    if progress or (progress is None and sys.stdout is not None and sys.stdout.isatty()):
        return _rich_bar(epochs, 0.0 if progress else SILENT_SECONDS)
    return nullcontext(lambda history: None)


@contextmanager
def _rich_bar(epochs, silent_seconds):
    bar, task, show_from = None, None, time.perf_counter() + silent_seconds

    def show(history):
        nonlocal bar, task, show_from
        if bar is None:
            if time.perf_counter() < show_from:
                return
            try:
                from rich.progress import Progress
            except ImportError:
                show_from = float("inf")
                return
            bar = Progress()
            task = bar.add_task("training", total=epochs)
            bar.start()
        loss = f"loss {history.loss[-1]:.4g}" if len(history) else "training"
        bar.update(task, completed=len(history), description=loss)

    try:
        yield show
    finally:
        if bar is not None:
            bar.stop()
