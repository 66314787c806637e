"""The choice of the number of threads, by trials."""

from __future__ import annotations

import math

from . import limits

Part = tuple[int | None, slice, int, int]  # threads, epochs, first batch, last batch


class Autotuner:
    """Chooses between one thread and several for one size of update, by timing both.

    Trials are repeated periodically, since the load on the machine changes.  Threads synchronize several times in
    every update: where another process takes a core away, several threads are slower than one.  A short trial may miss
    that, so the updates between trials are timed too.

    Parameters
    ----------
    threads : int
        Number of threads to compare with one.
    work : int
        Multiply-adds of one update.

    Attributes
    ----------
    seconds : dict
        Number of threads -> seconds of an update, as far as it was measured.
    """

    def __init__(self, threads: int, work: int) -> None:
        self._threads, self._work = threads, work
        self._trial: dict[int, list[float]] = {}  # threads -> seconds of an update in each part of the trial
        self._calls = 0
        self.seconds: dict[int, float] = {}

    def record(self, threads: int, seconds: float, is_trial: bool) -> None:
        """Record the seconds of an update: the minimum over a trial, after it a geometric moving average."""
        if is_trial:
            times = self._trial.setdefault(threads, [])
            times.append(seconds)
            self.seconds[threads] = min(times)
        elif threads in self.seconds:
            self.seconds[threads] = math.sqrt(seconds * self.seconds[threads])

    def split(self, epochs: int, first: int, last: int) -> list[Part]:
        """Split a call of training into trials, if they are due, and the rest, which takes the `best` threads (None).

        A trial is some batches of the first epoch, or some epochs where one epoch is too short, or whole calls.

        Parameters
        ----------
        epochs : int
            Number of epochs.
        first, last : int
            First batch and end of the batches; several epochs are whole ones.

        Returns
        -------
        list of (threads, slice of epochs, first batch, end of the batches)
        """
        order = [1, self._threads] * limits.TRIALS
        n = self._trial_size((last - first) // (2 * len(order)), self._work)
        n_epochs = self._trial_size(epochs // (2 * len(order)), self._work * last)
        if not (n or n_epochs):
            threads, is_trial = self.choose()
            return [(threads if is_trial else None, slice(0, epochs), first, last)]
        self._calls += 1
        if self.seconds and self._calls % limits.CALLS_BETWEEN_TRIALS:
            return [(None, slice(0, epochs), first, last)]
        self._trial = {}
        if not n:
            trials: list[Part] = [(t, slice(i * n_epochs, (i + 1) * n_epochs), 0, last) for i, t in enumerate(order)]
            return [*trials, (None, slice(n_epochs * len(order), epochs), 0, last)]
        one, end = slice(0, 1), first + n * len(order)
        trials = [(t, one, first + i * n, first + (i + 1) * n) for i, t in enumerate(order)]
        rest: list[Part] = [(None, slice(1, epochs), 0, last)] if epochs > 1 else []
        return [*trials, (None, one, end, last), *rest]

    def choose(self) -> tuple[int, bool]:
        """Return the threads of a short call, and whether it belongs to a trial, which is a few calls in a row."""
        call, self._calls = self._calls % limits.SHORT_CALLS_BETWEEN_TRIALS, self._calls + 1
        if call == 0:
            self._trial = {}
        if call < 2 * limits.TRIALS:
            return (self._threads, 1)[call % 2], True
        return self.best, False

    @staticmethod
    def _trial_size(available: int, work: int) -> int:
        """Return how many units of work make a trial; 0 where the available ones are too few."""
        n = min(available, -(-limits.TRIAL_WORK // work))
        return n if n * work >= limits.MIN_TRIAL_WORK else 0

    @property
    def best(self) -> int:
        """The faster number of threads; before the first trial several threads for large updates."""
        if self.seconds:
            return min(self.seconds, key=self.seconds.__getitem__)
        return self._threads if self._work >= limits.LARGE_WORK * self._threads else 1
