"""The steps of one call of `PopulationTrainer.fit`: many networks, epoch by epoch, in native calls of about 50 ms."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import interrupts
from ..update import PopulationData, PopulationState, Update
from .population_data import data_of_group
from .population_orders import Rows, Streams, draw_words, permutations
from .run import CHUNK_SECONDS, COPY_BYTES_PER_SECOND, MAX_GROWTH, MIN_SNAPSHOT_SECONDS, SNAPSHOT_FRACTION, Watch

FIRST_STEP_SECONDS = 2e-5  # of one network, guessed for the first call, and
FIRST_RATE = 1e9  # multiply-adds a second, besides
NETWORKS_TOGETHER = 256  # at least, in a call that does part of an epoch, unless one step takes too long
STATE_SECONDS = 5e-6  # for a copy of the state of a random generator


class Job:
    """Networks that one call of a backend trains: of one architecture, batch size, number of rows and update rule.

    Attributes
    ----------
    group : fastbp.population.Group
    state : fastbp.update.PopulationState
        Of all networks of the group.
    members : int64 ndarray
        Their indices in the population.
    rows : int64 ndarray
        Their rows in the arrays of the group.
    batch_size, n, n_batches : int
        Rows of a batch and of an epoch, batches of an epoch.
    shuffles, skips : bool
    chunk : int
        Steps, of all networks together, that one call is to make.
    """

    def __init__(
        self, group: Any, state: PopulationState, members: np.ndarray, batch_size: int, n: int, update: Update
    ) -> None:
        self.group, self.state, self.members = group, state, members
        self.rows = np.searchsorted(group.members, members)
        self.batch_size, self.n, self.n_batches = batch_size, n, -(-n // batch_size)
        self.skips = update.skips
        self.train: Any = None
        self.active = np.ones(len(members), bool)  # of its members
        self.positions = np.arange(len(members))  # of those that are active, among its members
        self.sources: list[tuple[int, int]] = []  # streams, or -1, and sets of rows that its orders come from
        self.orders = np.empty((0, 0, n), np.int64)  # one for each source
        self.order_of = np.zeros(len(members), np.int64)
        work = 3 * group.backend.n_parameters * batch_size
        self.chunk = max(1, int(CHUNK_SECONDS / (FIRST_STEP_SECONDS + work / FIRST_RATE)))

    @property
    def key(self) -> tuple[int, int, int]:
        """What the length of its calls is kept by, for later calls of `fit`."""
        return int(self.group.members[0]), self.batch_size, self.n_batches

    def ends_of_calls(self) -> list[int]:
        """Return where calls within an epoch end at the latest: one that skips does batches of one length."""
        return [self.n_batches - 1, self.n_batches] if self.skips and self.n % self.batch_size else [self.n_batches]


class Call(NamedTuple):
    """A native call that was made, so that it can be made again for one network."""

    job: Job
    members: np.ndarray
    orders: np.ndarray
    order_of: np.ndarray
    first_batch: int
    last_batch: int

    def steps(self) -> int:
        """Return the number of steps of each network."""
        return self.orders.shape[1] * self.last_batch - self.first_batch


class PopulationRun:
    """The steps of a call of `fit`.

    All calls since the last snapshot are recorded, so that a network that has become non-finite can go back to its last
    finite step, alone, whatever the borders of the calls were.

    Parameters
    ----------
    pop : Population
    states : list of PopulationState
        One for each group.
    streams : Streams
        Split already, so that networks of one stream have as many rows, and all or none of them are shuffled.
    batch_sizes : int64 ndarray (n_networks,)
        At most the number of rows.
    shuffles : bool ndarray (n_networks,)
    rows : Rows
    data : PopulationData
        Of the whole population.
    watch : Watch
        Whether networks are evaluated after each epoch; whether callbacks run there that may change parameters or
        settings, so that earlier steps cannot be done again.
    chunks : dict
        Lengths of calls by `Job.key`, in and out.
    """

    def __init__(
        self,
        pop: Any,
        states: list[PopulationState],
        streams: Streams,
        batch_sizes: np.ndarray,
        shuffles: np.ndarray,
        rows: Rows,
        data: PopulationData,
        watch: Watch,
        chunks: dict[tuple[int, int, int], int],
    ) -> None:
        self._pop, self._states, self.streams, self._rows = pop, states, streams, rows
        self._batch_sizes, self._shuffles, self._chunks = batch_sizes, shuffles, chunks
        self._is_watched, self._may_change = watch.epochs, watch.may_change
        self._data = [data_of_group(data, group.members, len(pop)) for group in pop.groups]
        self._group_of = np.empty(len(pop), np.int64)
        for g, group in enumerate(pop.groups):
            self._group_of[group.members] = g
        self._updates: Sequence[Update] | None = None
        self._threads: int | None = None
        self._jobs: list[Job] = []
        self.active = np.ones(len(pop), bool)
        self.epochs_done = 0
        self.n_batches = -(-rows.counts // batch_sizes)
        self._is_mean = pop.reduction == "mean"
        self._first_steps = self._steps()
        self._calls: list[Call] = []
        self._rng_states: dict[int, Any] = {}
        self._is_arranged = False
        self._copies: list[tuple[np.ndarray, ...]] = [
            tuple(map(np.empty_like, map(np.ascontiguousarray, arrays)))
            for arrays in map(self._arrays, range(len(states)))
        ]
        n_bytes = sum(array.nbytes for arrays in self._copies for array in arrays)
        seconds = n_bytes / COPY_BYTES_PER_SECOND + STATE_SECONDS * len(streams.generators)
        self._snapshot_seconds = max(MIN_SNAPSHOT_SECONDS, SNAPSHOT_FRACTION * seconds)
        self._snapshot_epoch, self._snapshot_time = 0, -np.inf
        self.ended: list[tuple[int, int]] = []  # networks that became non-finite, and the epochs that each has done

    def _arrays(self, g: int) -> tuple[np.ndarray, ...]:
        """Return what a snapshot holds of a group; the axis of its networks is the first but one, or the only one."""
        state = self._states[g]
        return self._pop.groups[g].parameters, *state.buffers, state.running_products, state.step, state.skipped

    def _steps(self) -> np.ndarray:
        """Return the steps that each network has made."""
        steps = np.empty(len(self._pop), np.int64)
        for group, state in zip(self._pop.groups, self._states, strict=True):
            steps[group.members] = state.step
        return steps

    def prepare(self, updates: Sequence[Update], threads: int | None) -> None:
        """Train with these settings from now on."""
        if updates is self._updates and threads == self._threads:
            return
        self._updates, self._threads = updates, threads
        kinds: dict[tuple[str, str, bool], int] = {}
        of_object: dict[int, int] = {}  # most networks share one object
        kind_of = np.empty(len(updates), np.int64)
        for i, update in enumerate(updates):
            if id(update) not in of_object:
                kind = update.rule, update.schedule, update.skips
                of_object[id(update)] = kinds.setdefault(kind, len(kinds))
            kind_of[i] = of_object[id(update)]
        keys = np.stack([self._group_of, self._batch_sizes, self._rows.counts, kind_of], axis=1)
        _, firsts, of = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        self._jobs, self._is_arranged, trains = [], False, {}
        for j, first in enumerate(firsts.tolist()):
            g, batch_size, n = keys[first, :3].tolist()
            members = np.flatnonzero(of.reshape(-1) == j)
            job = Job(self._pop.groups[g], self._states[g], members, batch_size, n, updates[first])
            if (g, batch_size) not in trains:
                of_group = [updates[i] for i in job.group.members.tolist()]
                trains[g, batch_size] = job.group.backend.training(
                    job.group.parameters, job.state, updates=of_group, batch_size=batch_size, threads=threads or 0
                )
            job.train = trains[g, batch_size]
            job.chunk = self._chunks.get(job.key, job.chunk)
            self._jobs.append(job)

    def stop(self, members: np.ndarray) -> None:
        """Train these networks no more."""
        self.active[members] = False
        self.streams.leave(members, np.flatnonzero(self.active))
        self._is_arranged = False

    # ------------------------------------------------------------------ epochs

    def advance(self, max_epochs: int) -> tuple[np.ndarray, np.ndarray]:
        """Train whole epochs for about `CHUNK_SECONDS`, at least one and at most so many.

        Networks that become non-finite are stopped, back at their last finite step, and listed in `ended`.  Ctrl-C is
        heard between native calls, and leaves what they did.

        Returns
        -------
        losses : float64 ndarray (n_epochs, n_networks)
            By the reduction; NaN where a network did not train.
        skipped : int64 ndarray (n_networks,)
            Steps that were skipped.
        """
        if self._may_change or time.perf_counter() - self._snapshot_time > self._snapshot_seconds:
            with interrupts.deferred():
                self._take_snapshot()
        if not self._is_arranged:
            self._arrange()
        n_epochs = self._epochs_of_calls(max_epochs)
        with interrupts.deferred():
            self._draw_orders(n_epochs)
        sums = np.zeros((len(self._pop), n_epochs))  # in the order in which kernels write them
        skipped, n_skipped = np.zeros((2, len(self._pop)), np.int64)  # steps, and the rows of their batches
        failed: list[np.ndarray] = []
        for job in self._jobs:
            for members, first, last in self._calls_of(job, n_epochs):
                with interrupts.deferred():
                    failed += self._call(job, members, n_epochs, first, last, sums, skipped, n_skipped)
        with interrupts.deferred():
            self.epochs_done += n_epochs
            self._finish(np.concatenate(failed) if failed else np.empty(0, np.int64))
        n = self._rows.counts - n_skipped if self._is_mean else np.where(n_skipped < self._rows.counts, 1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            losses = np.divide(sums, n[:, None], out=sums)
        done = np.where(self.active, self.epochs_done, 0)
        for network, epochs in self.ended:
            done[network] = epochs
        (late,) = np.nonzero(done < self.epochs_done)
        if len(late):
            is_after = np.arange(self.epochs_done - n_epochs, self.epochs_done) >= done[late, None]
            losses[late] = np.where(is_after, np.nan, losses[late])
        return losses.T, skipped

    def _arrange(self) -> None:
        """Find out which networks train, and where their orders come from."""
        self._draws: list[tuple[int, list[int]]] = []  # numbers of rows, and the streams from which they are shuffled
        shuffled = np.flatnonzero(self.active & self._shuffles)
        streams, firsts = np.unique(self.streams.of[shuffled], return_index=True)
        counts = self._rows.counts[shuffled[firsts]]
        for n in np.unique(counts).tolist():
            self._draws.append((n, streams[counts == n].tolist()))
        for job in self._jobs:
            job.active = self.active[job.members]
            job.positions = np.flatnonzero(job.active)
            members = job.members[job.positions]
            of_members = np.where(self._shuffles[members], self.streams.of[members], -1), self._rows.of[members]
            sources, of = np.unique(np.stack(of_members, axis=1), axis=0, return_inverse=True)
            job.sources = [(stream, row_set) for stream, row_set in sources.tolist()]
            job.order_of[job.positions] = of.reshape(-1)
        self._is_arranged = True

    def _epochs_of_calls(self, max_epochs: int) -> int:
        """Return how many epochs of all networks take `CHUNK_SECONDS`, at least 1."""
        chunks = sum(len(job.positions) * job.n_batches / job.chunk for job in self._jobs)
        if any(job.skips for job in self._jobs):
            return 1
        return max(1, min(max_epochs, int(1 / chunks)))

    def _draw_orders(self, n_epochs: int) -> None:
        """Draw the orders of so many epochs for all networks that train."""
        drawn: dict[int, np.ndarray] = {}  # by stream
        for n, streams in self._draws:
            words = [draw_words(self.streams.generators[stream], n_epochs, n) for stream in streams]
            with interrupts.allowed():  # of many rows it may take long
                orders = permutations(np.concatenate(words), self._pop.backend).reshape(len(streams), n_epochs, n)
            drawn.update(zip(streams, orders, strict=True))
        for job in self._jobs:
            job.orders = np.empty((len(job.sources), n_epochs, job.n), np.int64)
            for out, (stream, row_set) in zip(job.orders, job.sources, strict=True):
                rows = self._rows.sets[row_set]
                order = np.arange(job.n) if stream < 0 else drawn[stream]
                out[:] = order if rows is None else rows[order]

    def _calls_of(self, job: Job, n_epochs: int) -> Iterator[tuple[np.ndarray, int, int]]:
        """Yield the native calls of some epochs of a job: (positions in the job, first batch, last batch)."""
        if n_epochs > 1 or not len(job.positions):
            yield job.positions, 0, job.n_batches
            return
        for part in np.array_split(job.positions, -(-len(job.positions) // self._networks_of_calls(job))):
            first = 0
            for end in job.ends_of_calls():
                while first < end:
                    n_steps = max(1, min(job.chunk // len(part), end - first))
                    yield part, first, first + n_steps
                    first += n_steps

    def _networks_of_calls(self, job: Job) -> int:
        """Return how many networks train together within an epoch: few, if they fill a call, for they stay in cache."""
        return min(job.chunk, max(NETWORKS_TOGETHER, job.chunk // job.n_batches), max(1, len(job.positions)))

    def _call(
        self,
        job: Job,
        positions: np.ndarray,
        n_epochs: int,
        first: int,
        last: int,
        sums: np.ndarray,
        skipped: np.ndarray,
        n_skipped: np.ndarray,
    ) -> list[np.ndarray]:
        """Make a native call; return the networks whose next loss is not finite."""
        if not job.active.all():  # some have failed
            positions = positions[job.active[positions]]
        if not len(positions):
            return []
        members, rows, order_of = job.members[positions], job.rows[positions], job.order_of[positions]
        orders = job.orders
        losses = sums[members]
        before = job.state.skipped[rows] if job.skips else rows
        self._calls.append(Call(job, members, orders, order_of, first, last))
        start = time.perf_counter()
        data = self._data[int(self._group_of[members[0]])]
        done = job.train(rows, data, orders, order_of, first, last, losses)
        self._choose_chunk(job, len(positions) * self._calls[-1].steps(), time.perf_counter() - start)
        sums[members] = losses
        if job.skips:
            n_left_out = job.state.skipped[rows] - before
            skipped[members] += n_left_out
            n_skipped[members] += n_left_out * min(job.batch_size, job.n - (last - 1) * job.batch_size)
            return []
        has_failed = done < self._calls[-1].steps()
        if not has_failed.any():
            return []
        job.active[positions[has_failed]] = False
        return [members[has_failed]]

    def _choose_chunk(self, job: Job, n_steps: int, seconds: float) -> None:
        """Choose the length of the next call from that of the last one."""
        chunk = int(n_steps * CHUNK_SECONDS / max(seconds, 1e-9))
        job.chunk = self._chunks[job.key] = max(1, min(chunk, max(job.chunk, MAX_GROWTH * n_steps)))

    # ------------------------------------------------------------------ networks that become non-finite

    def _finish(self, failed: np.ndarray) -> None:
        """Stop networks whose next loss is not finite, and, where the epoch is evaluated, those with such numbers."""
        if self._is_watched or len(failed):
            failed = np.union1d(failed, self._nonfinite())
        self._end(failed)

    def settle(self) -> None:
        """Stop all networks in which a number is not finite, back at their last finite step."""
        self._end(self._nonfinite())

    def _nonfinite(self) -> np.ndarray:
        """Return the networks that train and have a parameter, or a number of the update rule, that is not finite."""
        found = [np.empty(0, np.int64)]
        for g, group in enumerate(self._pop.groups):
            for array in (group.parameters, *self._states[g].buffers):
                if not np.isfinite(array).all():
                    found.append(group.members[~np.isfinite(array).all(axis=1)])
        members = np.unique(np.concatenate(found))
        return members[self.active[members]]

    def _end(self, members: np.ndarray) -> None:
        """Stop these networks at their last finite step, and put their streams where those of their trainers are."""
        if not len(members):
            return
        streams = self.streams.of[members].tolist()
        for i in members.tolist():
            self._seek_finite(i)
        epochs = (self._steps()[members] - self._first_steps[members]) // self.n_batches[members]
        self.ended += zip(members.tolist(), epochs.tolist(), strict=True)
        self.stop(members)
        for i, stream, n_epochs in zip(members.tolist(), streams, epochs.tolist(), strict=True):
            if stream in self._rng_states and self._shuffles[i]:
                # Words were drawn for as many epochs as the calls were to do, which depends on the time.
                generator = copy.deepcopy(self.streams.generators[stream])
                generator.bit_generator.state = self._rng_states[stream]
                draw_words(generator, n_epochs + 1 - self._snapshot_epoch, int(self._rows.counts[i]))
                self.streams.set(np.array([i]), generator)

    def _place(self, i: int) -> tuple[int, int]:
        """Return the group of a network, and its row there."""
        g = int(self._group_of[i])
        return g, int(np.searchsorted(self._pop.groups[g].members, i))

    def _seek_finite(self, i: int) -> None:
        """Go back to the last step of a network after which all is finite."""
        g, row = self._place(i)
        floats = [self._pop.groups[g].parameters[row], *(buffer[row] for buffer in self._states[g].buffers)]

        def is_finite() -> bool:
            return all(np.isfinite(array).all() for array in floats)

        if is_finite():
            return
        finite, nonfinite = 0, self._states[g].step.item(row) - self._copies[g][-2].item(row)
        while nonfinite - finite > 1:
            middle = (finite + nonfinite) // 2
            self._redo(i, middle)
            finite, nonfinite = (middle, nonfinite) if is_finite() else (finite, middle)
        self._redo(i, finite)

    def _redo(self, i: int, n_steps: int) -> None:
        """Make so many steps of a network from the snapshot again."""
        g, row = self._place(i)
        for array, kept in zip(self._arrays(g), self._copies[g], strict=True):
            array[row] = kept[row]
        for call in self._calls:
            (at,) = np.flatnonzero(call.members == i)[:1].tolist() or (None,)
            if at is None or n_steps == 0:
                continue
            n = min(n_steps, call.steps())
            order = call.order_of[at]
            n_epochs, rest = divmod(call.first_batch + n, call.last_batch) if call.orders.shape[1] > 1 else (0, n)
            if n_epochs:
                self._train_one(call.job, row, call.orders[order, :n_epochs], 0, call.last_batch)
            if rest:
                first = 0 if n_epochs else call.first_batch
                self._train_one(call.job, row, call.orders[order, n_epochs : n_epochs + 1], first, first + rest)
            n_steps -= n

    def _train_one(self, job: Job, row: int, orders: np.ndarray, first: int, last: int) -> None:
        g = int(self._group_of[job.members[0]])
        losses, order_of = np.zeros((1, len(orders))), np.zeros(1, np.int64)
        job.train(np.array([row]), self._data[g], np.ascontiguousarray(orders[None]), order_of, first, last, losses)

    def _take_snapshot(self) -> None:
        """Keep what the networks that train are, all of which must be finite."""
        if self._calls:
            self.settle()
        for g, group in enumerate(self._pop.groups):
            active = self.active[group.members]
            rows: Any = slice(None) if active.all() else np.flatnonzero(active)
            for array, kept in zip(self._arrays(g), self._copies[g], strict=True):
                kept[rows] = array[rows]
        shuffled = self.active & self._shuffles
        self._rng_states = {
            stream: self.streams.generators[stream].bit_generator.state
            for stream in np.unique(self.streams.of[shuffled]).tolist()
        }
        self._calls, self._snapshot_epoch, self._snapshot_time = [], self.epochs_done, time.perf_counter()
