"""Which rows each network of a population is trained on, and the random orders in which it sees them."""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import numpy as np

from .. import arguments
from ..backends import REFERENCE, kernels_of

# From so many orders on NumPy shuffles all together faster than Python does one by one, or, for each place, a kernel.
MANY_ORDERS, MANY_ORDERS_A_PLACE = 32, 8


class Rows:
    """Rows of the data for each network.

    Attributes
    ----------
    sets : list of int64 ndarray, or None for all rows
        The different sets of rows.
    of : int64 ndarray (n_networks,)
        Which of them each network has.
    counts : int64 ndarray (n_networks,)
        How many rows.
    """

    def __init__(self, sets: list[np.ndarray | None], of: np.ndarray, n_samples: int) -> None:
        self.sets, self.of = sets, of
        self.counts = np.array([n_samples if rows is None else len(rows) for rows in sets], np.int64)[of]

    @property
    def are_all(self) -> bool:
        """Whether every network has all rows in their order."""
        return self.sets == [None]

    @classmethod
    def all(cls, n_networks: int, n_samples: int) -> Rows:
        """Return all rows, for every network."""
        return cls([None], np.zeros(n_networks, np.int64), n_samples)


def checked_rows(argument: str, value: Any, n_networks: int, n_samples: int) -> Rows:
    """Check rows for each network: None, index arrays, a matrix of indices, or a mask."""
    if value is None:
        return Rows.all(n_networks, n_samples)
    if isinstance(value, str) or not hasattr(value, "__len__"):
        raise TypeError(
            f"{argument} must be {n_networks} arrays of row numbers, one for each network, or a mask "
            f"({n_networks}, {n_samples}), got {value!r}"
        )
    if len(value) != n_networks:
        raise ValueError(f"{argument} must have rows for each of the {n_networks} networks, got {len(value)}")
    known: dict[Any, int] = {}  # by the object, then by its content
    sets: list[np.ndarray | None] = []
    of = np.empty(n_networks, np.int64)
    for i, given in enumerate(value):
        at = known.get(id(given)) if not isinstance(value, np.ndarray) else None
        if at is None:
            rows = _checked_set(f"{argument}[{i}]", given, n_samples)
            at = known.setdefault(rows.tobytes(), len(sets))
            if at == len(sets):
                sets.append(rows)
            if not isinstance(value, np.ndarray):  # whose rows are new objects, each in the place of the last one
                known[id(given)] = at
        of[i] = at
    return Rows(sets, of, n_samples)


def _checked_set(argument: str, value: Any, n_samples: int) -> np.ndarray:
    rows = np.asarray(value)
    if rows.ndim != 1:
        raise ValueError(f"{argument} must be 1-D, row numbers or a mask, got shape {rows.shape}")
    if rows.dtype == bool:
        if len(rows) != n_samples:
            raise ValueError(f"{argument} is a mask of {len(rows)}, but there are {n_samples} rows")
        rows = np.flatnonzero(rows)
    if len(rows) == 0:
        raise ValueError(f"{argument} is empty: a network needs at least one row")
    if rows.dtype.kind not in "iu":
        raise TypeError(f"{argument} must be integers or a mask, got dtype {rows.dtype}")
    if rows.min() < -n_samples or rows.max() >= n_samples:
        worst = rows.min() if rows.min() < -n_samples else rows.max()
        raise ValueError(f"{argument} holds {worst}, but there are {n_samples} rows")
    return np.ascontiguousarray(rows % n_samples, np.int64)


class Streams:
    """The streams of random words from which orders come: networks of one stream see their rows in the same orders.

    Each stream is that of a `Trainer` with this seed.

    Attributes
    ----------
    generators : list of numpy.random.Generator
    of : int64 ndarray (n_networks,)
        Which of them each network follows.
    """

    def __init__(self, generators: list[np.random.Generator], of: np.ndarray) -> None:
        self.generators, self.of = generators, of

    def split(self, kinds: np.ndarray) -> None:
        """Give networks of one stream but of different kinds (n_networks,) streams of their own, copies of it."""
        pairs = np.stack([self.of, kinds], axis=1)
        _, firsts, of = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
        taken: set[int] = set()
        generators = []
        for stream in self.of[firsts].tolist():
            generators.append(copy.deepcopy(self.generators[stream]) if stream in taken else self.generators[stream])
            taken.add(stream)
        self.generators, self.of = generators, of.reshape(-1).astype(np.int64)

    def leave(self, leaving: np.ndarray, staying: np.ndarray) -> None:
        """Let some networks keep their place in their streams, in which others go on."""
        for stream in np.intersect1d(self.of[leaving], self.of[staying]).tolist():
            self.set(leaving[self.of[leaving] == stream], copy.deepcopy(self.generators[stream]))

    def set(self, members: np.ndarray, generator: np.random.Generator) -> None:
        """Give some networks a stream of their own."""
        self.of[members] = len(self.generators)
        self.generators.append(generator)

    def repeated(self, k: int) -> Streams:
        """Return copies for a population with k copies of each network, one after the other."""
        return Streams(copy.deepcopy(self.generators), np.repeat(self.of, k))


def draw_words(generator: np.random.Generator, n_epochs: int, n: int) -> np.ndarray:
    """Draw the random words that decide the orders of so many epochs, as `Trainer` does."""
    return generator.integers(0, 2**32, (n_epochs, n), dtype=np.uint32)


def permutations(random_words: np.ndarray, backend: str) -> np.ndarray:
    """Return the orders (n_orders, n) that `shuffle` makes of the rows of `random_words` (n_orders, n)."""
    n_orders, n = random_words.shape
    if n_orders >= (MANY_ORDERS if backend == REFERENCE else MANY_ORDERS_A_PLACE * n):
        return _shuffled_together(random_words)
    return _shuffled_each(random_words, kernels_of(backend))


def _shuffled_each(random_words: np.ndarray, kernels: ModuleType) -> np.ndarray:
    orders, shuffle = np.empty(random_words.shape, np.int64), kernels.shuffle
    for words, order in zip(random_words, orders, strict=True):
        shuffle(words, order)
    return orders


def _shuffled_together(random_words: np.ndarray) -> np.ndarray:
    """As `fastbp.reference.shuffle`, for all rows at once."""
    n_orders, n = random_words.shape
    orders = np.repeat(np.arange(n)[:, None], n_orders, axis=1)
    all_orders = np.arange(n_orders)
    for i in range(n - 1, 0, -1):
        j = (random_words[:, i].astype(np.uint64) * np.uint64(i + 1) >> np.uint64(32)).astype(np.int64)
        last = orders[i].copy()
        orders[i] = orders[j, all_orders]
        orders[j, all_orders] = last
    return np.ascontiguousarray(orders.T)


def first_streams(seed: Any, order: str, n_networks: int) -> tuple[Streams, np.ndarray]:
    """Return the streams of a new trainer, and the keys of dropout and noise, uint64 (n_networks,).

    Parameters
    ----------
    seed : as for `PopulationTrainer`
    order : "shared" or "own"
    n_networks : int
    """
    if order == "shared":
        generators, of = [arguments.generator("seed", _copied(seed))], np.zeros(n_networks, np.int64)
    else:
        seeds = list(seed) if is_sequence(seed) else spawned(seed, n_networks)
        generators = [arguments.generator(f"seed[{i}]", _copied(one)) for i, one in enumerate(seeds)]
        of = np.arange(n_networks)
    keys = [generator.spawn(1)[0].integers(2**64, dtype=np.uint64) for generator in generators]
    return Streams(generators, of), np.array(keys, np.uint64)[of]


def is_sequence(seed: Any) -> bool:
    """Whether it is a sequence of seeds."""
    return isinstance(seed, list | tuple | np.ndarray)


def _copied(seed: Any) -> Any:
    """Return the seed itself; of a SeedSequence a copy, because spawning changes what it gives next."""
    return copy.deepcopy(seed) if isinstance(seed, np.random.SeedSequence) else seed


def copied(seed: Any) -> Any:
    """Return a copy of a seed, or of a sequence of seeds, that gives the same numbers and the same further seeds.

    NumPy before 2.0 copies a generator without the seed sequence that it spawns from.
    """
    if is_sequence(seed):
        return [copied(one) for one in seed]
    if isinstance(seed, np.random.Generator):
        return np.random.Generator(copied(seed.bit_generator))
    if isinstance(seed, np.random.BitGenerator):
        result = type(seed)(copy.deepcopy(seed.seed_seq))  # type: ignore[arg-type]
        result.state = seed.state
        return result
    return copy.deepcopy(seed)


def spawned(seed: Any, n: int) -> list[np.random.SeedSequence]:
    """Return n seeds from one."""
    if isinstance(seed, np.random.SeedSequence):
        return copy.deepcopy(seed).spawn(n)
    return np.random.SeedSequence(seed).spawn(n)


def check_seed(seed: Any, n_networks: int) -> Any:
    """Check a seed, or a sequence of one for each network."""
    if not is_sequence(seed):
        arguments.generator("seed", _copied(seed))
        return seed
    if len(seed) != n_networks:
        raise ValueError(f"seed must be one, or {n_networks}, one for each network, got {len(seed)}")
    for i, one in enumerate(seed):
        arguments.generator(f"seed[{i}]", _copied(one))
    return seed


def check_order(order: Any, seed: Any, before: str | None) -> str:
    """Check the argument `order` of `fit`; None is as before, or what the seed allows."""
    if order is not None:
        order = arguments.name("order", order, ("shared", "own"))
    if before is not None:
        if order not in (None, before):
            raise ValueError(f"order is {order!r}, but this trainer has begun with {before!r}: make a new Trainer")
        return before
    if order is None:
        return "own" if is_sequence(seed) else "shared"
    if order == "shared" and is_sequence(seed):
        raise ValueError("order is 'shared', but seed has one for each network: leave order out, or give one seed")
    if order == "own" and isinstance(seed, np.random.Generator | np.random.BitGenerator):
        raise TypeError(f"order='own' needs a seed that is None, an int, a SeedSequence or a sequence, got {seed!r}")
    return order
