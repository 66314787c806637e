"""Training of many estimators at once: networks of one architecture and batch size in the same native calls."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..backends import COMPILED, make_population_backend
from ..engine import limits
from ..training.history import History
from ..update import PopulationData, PopulationState, Update, aligned_rows
from .data import Data

MAX_EPOCHS_OF_CALL = 8  # of members that cannot stop before: calls from Python take as long as epochs of small tables
MIN_MEMBERS_OF_CALL = 16  # of one call, even if it is long: enough for the threads


class Member:
    """One estimator that is trained with others, as its own `fit` would train it.

    Parameters
    ----------
    estimator : BaseMLP
        On which `_begin_fit` was called.
    data : Data
        Which `_begin_fit` returned.
    validation : Validation or None
        Likewise.

    Attributes
    ----------
    source : ndarray (n, n_in), positions : int64 ndarray or None
        ``source[positions]`` are the samples of the data, `source` itself where it is None.  Members with one source
        share its memory.
    error : Exception or None
        What ended the training, as `fit` would raise it.
    reached_limit : bool
        Whether it ended at the largest number of epochs.
    seconds : float
        Its share of the time of the training.
    """

    def __init__(self, estimator: Any, data: Data, validation: Any) -> None:
        self.estimator, self.data = estimator, data
        self.objective = estimator._objective()
        self.epochs, self.validation = estimator._begin_epochs(self.objective, data, validation, False, False)
        self.source: np.ndarray = data.X
        self.positions: np.ndarray | None = None
        self.history = History()
        self.history.record([], self.validation is not None)
        self.error: Exception | None = None
        self.reached_limit = False
        self.seconds = 0.0
        estimator.n_iter_ = 0

    def share(self, source: np.ndarray, positions: np.ndarray | None) -> None:
        """Take samples from an array that others use too, and let go of the own ones."""
        self.source, self.positions = source, positions
        self.data = self.epochs.data = self.data._replace(X=source[:0])

    @property
    def nbytes(self) -> int:
        """Bytes that its parameters take in training, with gradients and what the optimizer remembers, both copies."""
        trainer = self.estimator.trainer_
        return 2 * (2 + len(trainer.state.buffers)) * trainer.net.parameters.nbytes + trainer.net.sizes[0]

    @property
    def group(self) -> tuple:
        """What members must have in common to be trained in the same calls."""
        classes = tuple(map(str, vars(self.estimator).get("classes_", ())))  # by which targets are numbered
        has_weights = self.data.weights is not None
        return self.estimator.network_._config, self.epochs.batch_size, len(self.epochs.order), classes, has_weights

    @property
    def n_epochs(self) -> int:
        """How many epochs to train before looking whether training ends: a power of 2, so that many agree."""
        estimator = self.estimator
        if self.validation is not None or (estimator.solver == "sgd" and estimator.learning_rate == "invscaling"):
            return 1
        patience = estimator.n_iter_no_change - estimator._no_improvement_count + 1
        return 1 << int(math.log2(min(patience, estimator.max_iter - estimator.n_iter_, MAX_EPOCHS_OF_CALL)))

    def orders(self, n_epochs: int) -> np.ndarray:
        """Draw the orders of the next epochs, rows of its data."""
        result = np.empty((n_epochs, len(self.epochs.order)), np.int64)
        for order in result:
            if self.estimator.shuffle:
                self.epochs.shuffle(self.estimator._random_state)
            order[:] = self.epochs.order
        return result

    def record(self, losses: Sequence[float], orders: np.ndarray) -> bool:
        """Record the losses of some epochs, whose sums these are, in these orders; return whether training ends."""
        estimator, n = self.estimator, len(self.epochs.order)
        for loss, order in zip(losses, orders, strict=True):
            estimator.loss_ = self.epochs.mean_loss(loss, order)
            estimator.trainer_.epochs += 1
            try:
                if estimator._ends_epoch(n, self.objective, self.validation, self.history, False):
                    return True
            except ValueError as error:  # training diverged
                self.error = error
                return True
            if estimator.n_iter_ >= estimator.max_iter:
                self.reached_limit = True
                return True
        return False

    def end(self) -> None:
        """Do what `fit` does in the end."""
        if self.error is None:
            self.estimator._end_epochs(self.epochs, False)
            try:
                self.estimator._check_converged_to_numbers()
            except ValueError as error:
                self.error = error


def train(members: Iterable[Member]) -> None:
    """Train all, those with the same architecture, batch size and number of samples in the same calls.

    A `Member` whose training fails has an `error` then; Ctrl-C ends the training and leaves the others usable.
    """
    groups: dict[tuple, list[Member]] = {}
    for member in members:
        groups.setdefault(member.group, []).append(member)
    for group in groups.values():
        _Training(group).run()


class _Training:
    """The training of members of one group."""

    def __init__(self, members: list[Member]) -> None:
        self._members = members
        first = members[0]
        self._net, self._batch_size = first.estimator.network_, first.epochs.batch_size
        self._n_batches = -(-len(first.epochs.order) // self._batch_size)
        self._parameters = aligned_rows((len(members), self._net.parameters.size), self._net.dtype)
        n_states = [len(member.estimator.trainer_.state.buffers) for member in members]
        self._states = PopulationState(n_states, self._net.parameters.size, self._net.dtype)
        for row, member in zip(self._parameters, members, strict=True):
            row[:] = member.estimator.network_.parameters
        self._work = 3 * self._net.parameters.size * len(first.epochs.order)  # multiply-adds of an epoch of one member
        at_once = max(1, limits.INTERRUPTIBLE_WORK // (MIN_MEMBERS_OF_CALL * self._work))
        self._max_epochs = 1 << int(math.log2(min(at_once, MAX_EPOCHS_OF_CALL)))
        self._data = self._shared_data()
        self._backend = make_population_backend(COMPILED, self._net._config)
        self._updates: list[Update | None] = [None] * len(members)
        self._train: Any = None

    def _shared_data(self) -> PopulationData:
        """Put the samples of all members into one array, and the rows of their data that are in it into `_rows`."""
        sources: dict[int, tuple[int, np.ndarray]] = {}  # by identity: the first row, and the samples
        n = 0
        for member in self._members:
            if id(member.source) not in sources:
                sources[id(member.source)] = n, member.source
                n += len(member.source)
        arrays = [source for _, source in sources.values()]
        X = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        first = self._members[0].data
        Y = np.zeros((n, *first.Y.shape[1:]), first.Y.dtype)
        weights = None if first.weights is None else np.zeros((len(self._members), n), first.weights.dtype)
        rows: dict[tuple[int, int], np.ndarray] = {}
        self._rows = []  # of each member
        for i, member in enumerate(self._members):
            start, data = sources[id(member.source)][0], member.data
            key = start, id(member.positions)
            if key not in rows:
                rows[key] = start + (np.arange(len(data.Y)) if member.positions is None else member.positions)
                Y[rows[key]] = data.Y
            self._rows.append(rows[key])
            if weights is not None:
                weights[i, rows[key]] = data.weights
        return PopulationData(X, Y, weights)

    def run(self) -> None:
        """Train until each has ended."""
        active = list(range(len(self._members)))
        try:
            while active:
                self._prepare(active)
                by_epochs: dict[int, list[int]] = {}
                for i in active:
                    by_epochs.setdefault(min(self._members[i].n_epochs, self._max_epochs), []).append(i)
                ended: set[int] = set()
                for n_epochs, of_call in by_epochs.items():
                    for some in self._slices(of_call, n_epochs):
                        ended.update(self._advance(np.array(some), n_epochs))
                active = [i for i in active if i not in ended]
        finally:
            for i in range(len(self._members)):
                self._hand_back(i)
        for member in self._members:
            member.end()

    def _prepare(self, active: list[int]) -> None:
        """Get the function that trains, anew where a learning rate has changed."""
        updates = list(self._updates)
        for i in active:
            member = self._members[i]
            updates[i] = member.epochs.update(member.estimator._optimizer.learning_rate)
        if any(map(operator.is_not, updates, self._updates)):
            self._updates = updates
            threads = self._members[0].estimator.trainer_.threads or 0
            self._train = self._backend.training(
                self._parameters, self._states, updates=updates, batch_size=self._batch_size, threads=threads
            )

    def _slices(self, members: list[int], n_epochs: int) -> Iterable[list[int]]:
        """Divide members among calls that end so soon that Ctrl-C is heard."""
        n = max(MIN_MEMBERS_OF_CALL, limits.INTERRUPTIBLE_WORK // (self._work * n_epochs))
        for start in range(0, len(members), n):
            yield members[start : start + n]

    def _advance(self, members: np.ndarray, n_epochs: int) -> list[int]:
        """Train some epochs of these members; return those whose training ends."""
        start = time.perf_counter()
        local = [self._members[i].orders(n_epochs) for i in members]
        orders, order_of = self._distinct(members, local)
        losses = self._call(members, orders, order_of)
        ended = []
        for i, of_member, own in zip(members.tolist(), losses.tolist(), local, strict=True):
            member = self._members[i]
            if member.validation is not None:
                member.estimator.network_.parameters[:] = self._parameters[i]
            if member.record(of_member, own):
                ended.append(i)
        share = (time.perf_counter() - start) / len(members)
        for i in members:
            self._members[i].seconds += share
        return ended

    def _distinct(self, members: np.ndarray, local: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return the orders, rows of the shared data, each once, and the number of that of each member.

        Members with the same samples and the same seed share what they read.
        """
        numbers: dict[tuple, int] = {}
        orders: list[np.ndarray] = []
        order_of = np.empty(len(members), np.int64)
        for at, (i, of_member) in enumerate(zip(members.tolist(), local, strict=True)):
            rows = self._rows[i]
            key = id(rows), of_member.tobytes()
            if key not in numbers:
                numbers[key] = len(orders)
                orders.append(rows[of_member])
            order_of[at] = numbers[key]
        return np.stack(orders), order_of

    def _call(self, members: np.ndarray, orders: np.ndarray, order_of: np.ndarray) -> np.ndarray:
        """Train in these orders, in parts where this takes long; return the sums of the losses of the epochs.

        Of an epoch in which training diverged, and those after it, the sum is NaN.
        """
        n_epochs, n_batches = orders.shape[1], self._n_batches
        losses, done = np.zeros((len(members), n_epochs)), np.zeros(len(members), np.int64)
        at_once = n_batches
        if n_epochs == 1:
            at_once = max(1, min(n_batches, limits.INTERRUPTIBLE_WORK * n_batches // (self._work * len(members))))
        for first in range(0, n_batches, at_once):
            last = min(first + at_once, n_batches)
            going = np.flatnonzero(done == first)  # the others have diverged
            part = losses[going]
            done[going] += self._train(members[going], self._data, orders, order_of[going], first, last, part)
            losses[going] = part
        losses[np.arange(n_epochs) >= (done // n_batches)[:, None]] = np.nan
        return losses

    def _hand_back(self, i: int) -> None:
        """Give an estimator its parameters, and what its optimizer remembers."""
        estimator, state = self._members[i].estimator, self._states.member(i)
        estimator.network_.parameters[:] = self._parameters[i]
        own = estimator.trainer_.state
        own.buffers[:], own.running_products[:] = state.buffers, state.running_products
        own.step, own.skipped = state.step, state.skipped
