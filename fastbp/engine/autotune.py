"""The choice of the number of threads, by trials."""

import math

from . import limits


class Autotuner:
    """How long an update takes on one thread and on several: tried now and then, for other work comes and goes.

    Threads wait for each other some times in every update.  Where another process takes a core away, such waits make
    several threads slower than one.  A short trial may miss that; so what follows a trial is timed too.
    """

    def __init__(self, most, work):
        self._work, self._most = work, most
        self._trial = {}  # threads -> seconds of an update in each piece of the trial
        self._calls = 0
        self.seconds = {}  # threads -> seconds of an update, as far as is known

    def note(self, threads, seconds, is_trial):
        """Take in how long updates took: the best of a trial; after it a geometric mean that forgets."""
        if is_trial:
            times = self._trial.setdefault(threads, [])
            times.append(seconds)
            self.seconds[threads] = min(times)
        elif threads in self.seconds:
            self.seconds[threads] = math.sqrt(seconds * self.seconds[threads])

    def pieces(self, epochs, first, last):
        """Cut a call into (threads, epochs, first batch, last batch): trials, if it is time, and the rest.

        A trial is some batches of the first epoch, or some epochs where one is too short; None threads means the best.
        """
        self._calls += 1
        if self.seconds and self._calls % limits.CALLS_BETWEEN_TRIALS:
            return [(None, epochs, first, last)]
        numbers = [1, self._most] * limits.TRIALS
        n = self._trial_size((last - first) // (2 * len(numbers)), self._work)
        n_epochs = self._trial_size(epochs.stop // (2 * len(numbers)), self._work * last)
        if not n and not n_epochs:
            return [(None, epochs, first, last)]
        self._trial = {}
        if n:
            cuts = [first + i * n for i in range(len(numbers) + 1)]
            one, rest = slice(0, 1), slice(1, epochs.stop)
            pieces = [(number, one, *cuts[i : i + 2]) for i, number in enumerate(numbers)]
            pieces.append((None, one, cuts[-1], last))
            return [*pieces, (None, rest, 0, last)] if epochs.stop > 1 else pieces
        cuts = [i * n_epochs for i in range(len(numbers) + 1)]
        pieces = [(number, slice(*cuts[i : i + 2]), 0, last) for i, number in enumerate(numbers)]
        return [*pieces, (None, slice(cuts[-1], epochs.stop), 0, last)]

    def turn(self):
        """Return the threads of an evaluation, and whether it is one of a trial: some calls in a row, now and then."""
        call, self._calls = self._calls % limits.EVALUATIONS_BETWEEN_TRIALS, self._calls + 1
        if call == 0:
            self._trial = {}
        if call < 2 * limits.TRIALS:
            return (self._most, 1)[call % 2], True
        return self.best, False

    @staticmethod
    def _trial_size(most, work):
        """Return how many units of work make a trial; 0 where `most` are not enough."""
        n = min(most, -(-limits.TRIAL_WORK // work))
        return n if n * work >= limits.MIN_TRIAL_WORK else 0

    @property
    def best(self):
        """The faster number of threads; where none was tried yet, several for large updates."""
        if self.seconds:
            return min(self.seconds, key=self.seconds.get)
        return self._most if self._work >= limits.LARGE_WORK * self._most else 1
