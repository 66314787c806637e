"""Many networks at once: their parameters in one array for each architecture, trained and evaluated together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import arguments, backends, checks, losses
from .activations import Activation
from .attributes import fixed
from .backends import Config, check_backend
from .custom import CustomFunction
from .initializers import Initializer, draw
from .losses import Loss, Parameterized
from .network import Network, _bytes
from .reference.layout import layer_views
from .update import aligned_zeros

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

PREDICTED_BYTES = 1 << 26  # outputs of all members that `mean` and `spread` hold at a time


class Group:
    """The members of a population that have one architecture.

    Attributes
    ----------
    config : fastbp.backends.Config
    members : int64 ndarray (n,)
        Their indices in the population, ascending.
    parameters : ndarray (n, n_parameters)
        A row for each of them; each row starts on a cache line.
    """

    config: Config = fixed("make a new Population")
    members: np.ndarray = fixed("make a new Population")
    parameters: np.ndarray = fixed("write into it, group.parameters[:] = values")

    def __init__(self, config: Config, members: np.ndarray, backend: str) -> None:
        n_parameters = sum((n_in + 1) * n_out for n_in, n_out in zip(config.sizes[:-1], config.sizes[1:], strict=True))
        self.config, self.members, self._backend_name = config, members, backend
        self.parameters = _aligned_rows(len(members), n_parameters, config.dtype)
        self._backend: Any = None

    @property
    def backend(self) -> Any:
        """The backend of its networks; see `fastbp.reference.population.PopulationBackend`."""
        if self._backend is None:
            self._backend = backends.make_population_backend(self._backend_name, self.config)  # type: ignore[attr-defined]
        return self._backend

    @property
    def nbytes(self) -> int:
        """Bytes of the parameters, with the gaps between their rows."""
        return self.parameters.strides[0] * len(self.parameters)


class Population:
    """Many networks of the same inputs, outputs and loss.

    Parameters
    ----------
    sizes : sequence of int, or sequence of such sequences
        As for `Network`; several are several architectures.
    n_networks : int or sequence of int
        How many networks of each architecture, the same or one number for each.  The members are those of the first
        architecture, then those of the second, and so on.
    activations : as for `Network`
        Of several architectures also a sequence with an item for each, of which at least one is a sequence.
    loss, init, reduction, dtype, backend, input_scale : as for `Network`
    seed : None, int, SeedSequence, or sequence of n_networks seeds
        Member i starts as ``Network(..., seed=numpy.random.SeedSequence(seed).spawn(n_networks)[i])``, or as
        ``Network(..., seed=seed[i])``.
    init_scale : float or sequence of n_networks float
        Factor of the first weights, not of the biases.

    Attributes
    ----------
    groups : tuple of Group
        The members by architecture, in the order in which these occur.
    losses : float64 ndarray (n_networks,)
        Validation loss, without validation data training loss, of each member in the last `fit`; NaN where there is
        none, or where the member has been replaced since.
    history : PopulationHistory or None
        Of the last `fit`.
    metadata : dict of str
        Any texts; `save` keeps them.

    Raises
    ------
    ValueError, TypeError
        From every method, before anything is changed, if an argument does not fit.
    """

    groups: tuple[Group, ...] = fixed("make a new Population")
    losses: np.ndarray
    history: Any
    metadata: dict[str, str]

    def __init__(
        self,
        sizes: Sequence[int] | Sequence[Sequence[int]],
        n_networks: int | Sequence[int] = 1,
        activations: str | Activation | Sequence[Any] = "sigmoid",
        loss: str | Parameterized | Loss = "squared_error",
        init: str | Initializer | Sequence[tuple[ArrayLike, ArrayLike]] = "glorot_uniform",
        reduction: str = "mean",
        dtype: DTypeLike = "float32",
        seed: arguments.Seed | Sequence[Any] = None,
        backend: str = "numba",
        input_scale: float = 1.0,
        init_scale: ArrayLike = 1.0,
    ) -> None:
        check_backend(backend)
        configs = [
            Config(of_one, functions, loss, reduction, dtype, input_scale)  # type: ignore[arg-type]
            for of_one, functions in _architectures(sizes, activations)
        ]
        configs = [_checked(config, f"architecture {j}: " * (len(configs) > 1)) for j, config in enumerate(configs)]
        for j, config in enumerate(configs):
            _check_same(config, configs[0], f"sizes[{j}]", "sizes[0]")
        counts = _counts(n_networks, len(configs))
        n = sum(counts)
        seeds, scales = _seeds(seed, n), _for_each("init_scale", init_scale, n)
        self._build([configs[j] for j in np.repeat(np.arange(len(configs)), counts)], backend)
        for i in range(n):
            group, row = self._place(i)
            layers = draw(init, group.config.sizes, seeds[i], group.config.dtype)
            with np.errstate(over="ignore"):
                for W, b, (first_W, first_b) in zip(*layer_views(row, group.config.sizes), layers, strict=True):
                    W[:], b[:] = scales[i] * first_W, first_b
            checks.finite(f"init_scale[{i}] times the first weights of network {i}", row, group.config.dtype)

    def _build(self, configs: Sequence[Config], backend: str) -> None:
        """Make the groups of members with these architectures, all parameters 0."""
        self._backend_name = backend
        members: dict[Config, list[int]] = {}
        for i, config in enumerate(configs):
            members.setdefault(config, []).append(i)
        for config in members:
            for item in (*config.activations, config.loss):
                if isinstance(item, CustomFunction):
                    item.compile(config.dtype)
        self.groups = tuple(Group(config, np.array(of_one), backend) for config, of_one in members.items())
        self._group_of, self._row_of = np.empty((2, len(configs)), np.int64)
        for g, group in enumerate(self.groups):
            self._group_of[group.members], self._row_of[group.members] = g, np.arange(len(group.members))
        self.metadata = {}
        self.losses = np.full(len(configs), np.nan)
        self.history = None
        # What `select` chooses by: predictions (n_networks, n_samples, n_out) and targets of the last `fit`.
        self._kept_validation: tuple[np.ndarray, np.ndarray] | None = None
        self._weights: np.ndarray | None = None

    @classmethod
    def of(cls, networks: Sequence[Network]) -> Population:
        """Return a population of copies of networks.

        Parameters
        ----------
        networks : sequence of Network
            Of any hidden layers and activations; inputs, outputs, loss, reduction, dtype and input_scale are the same.
            The backend is that of the first one.
        """
        networks = list(networks) if isinstance(networks, Sequence) else networks
        if not isinstance(networks, list) or not networks or not all(isinstance(net, Network) for net in networks):
            raise TypeError(f"networks must be a sequence of one or more fastbp.Network, got {networks!r}")
        for i, net in enumerate(networks):
            _check_same(net._config, networks[0]._config, f"networks[{i}]", "networks[0]")
        pop = cls.__new__(cls)
        pop._build([net._config for net in networks], networks[0].backend)
        for i, net in enumerate(networks):
            pop._place(i)[1][:] = net.parameters
        return pop

    def __len__(self) -> int:
        """Return the number of networks."""
        return len(self._group_of)

    @property
    def n_networks(self) -> int:
        """Number of networks."""
        return len(self)

    @property
    def _config(self) -> Config:
        """What all members have in common, besides the architecture of the first one."""
        return self.groups[0].config

    @property
    def sizes(self) -> tuple[int, ...] | list[tuple[int, ...]]:
        """Layer sizes, a tuple; of several architectures a list of tuples, one for each member."""
        return self._of_each("sizes")

    @property
    def activations(self) -> tuple[Any, ...] | list[tuple[Any, ...]]:
        """Activation of each layer, a tuple; of several architectures a list of tuples, one for each member."""
        return self._of_each("activations")

    def _of_each(self, field: str) -> Any:
        values = [getattr(group.config, field) for group in self.groups]
        return values[0] if len(values) == 1 else [values[g] for g in self._group_of]

    @property
    def loss_name(self) -> str:
        """Name of the loss (`loss` is the method that computes it)."""
        return losses.name_of(self._config.loss)

    @property
    def loss_settings(self) -> dict[str, float]:
        """Parameters of the loss by name, as of `Network`."""
        return losses.settings_of(self._config.loss)

    @property
    def reduction(self) -> str:
        """Reduction over samples, "mean" or "sum"."""
        return self._config.reduction

    @property
    def dtype(self) -> np.dtype:
        """Type of the parameters and of all arithmetic."""
        return self._config.dtype

    @property
    def input_scale(self) -> float:
        """Factor of the inputs."""
        return self._config.input_scale

    @property
    def backend(self) -> str:
        """Name of the backend, "numba" or "numpy"."""
        return self._backend_name

    @property
    def parameters(self) -> np.ndarray | list[np.ndarray]:
        """Every parameter, (n_networks, n_parameters), to be written in place; a list of them, one for each group."""
        arrays = [group.parameters for group in self.groups]
        return arrays[0] if len(arrays) == 1 else arrays

    @parameters.setter
    def parameters(self, value: Any) -> None:
        if value is not self.groups[0].parameters:  # `pop.parameters -= step` has already written in place
            raise AttributeError("parameters cannot be replaced; write into them: pop.parameters[:] = values")

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it holds: parameters, and predictions that `select` needs."""
        kept = 0 if self._kept_validation is None else self._kept_validation[0].nbytes
        return sum(group.nbytes for group in self.groups) + kept

    def network(self, i: int) -> Network:
        """Return a copy of a member, a `Network`; negative numbers count from the end."""
        group, row = self._place(self._index("i", i))
        return Network._restore(group.config, self.backend, row, self.metadata)

    def __getitem__(self, i: int) -> Network:
        """Return a copy of a member."""
        return self.network(i)

    def __iter__(self) -> Iterator[Network]:
        """Yield copies of all members."""
        return map(self.network, range(len(self)))

    def _place(self, i: int) -> tuple[Group, np.ndarray]:
        """Return the group of a member and its row of parameters, a view."""
        group = self.groups[self._group_of[i]]
        return group, group.parameters[self._row_of[i]]

    def _index(self, argument: str, value: Any) -> int:
        """Check the number of a member."""
        try:
            i = arguments.integer(argument, value, at_least=-len(self))
        except ValueError:
            i = len(self)
        if i >= len(self):
            raise IndexError(f"{argument} must be {-len(self)} to {len(self) - 1}, got {value}")
        return i % len(self)

    def _indices(self, argument: str, value: Any, is_distinct: bool = True) -> np.ndarray:
        """Check indices of members, or a mask of them; None are all."""
        n = len(self)
        if value is None:
            return np.arange(n)
        array = _array(argument, value)
        if array.dtype == bool:
            if array.shape != (n,):
                raise ValueError(f"{argument} is a mask of shape {array.shape}, expected ({n},)")
            array = np.flatnonzero(array)
        if array.size == 0:
            raise ValueError(f"{argument} is empty: at least one network must be named")
        if array.dtype.kind not in "ui":
            raise TypeError(f"{argument} must be integers or a mask, got dtype {array.dtype}")
        if array.ndim != 1:
            raise ValueError(f"{argument} must be 1-D, got shape {array.shape}")
        return self._within(argument, array, is_distinct)

    def _within(self, argument: str, array: np.ndarray, is_distinct: bool = False) -> np.ndarray:
        """Check that indices of any shape are those of members; negative ones count from the end."""
        n = len(self)
        wrong = np.argwhere((array < -n) | (array >= n))
        if len(wrong):
            place = tuple(wrong[0].tolist())
            raise IndexError(
                f"{argument}[{', '.join(map(str, place))}] is {array[place]}: networks are {-n} to {n - 1}"
            )
        array = array.astype(np.int64) % n
        if is_distinct and len(np.unique(array)) < len(array):
            repeated = int(np.flatnonzero(np.bincount(array) > 1)[0])
            raise ValueError(f"{argument} names network {repeated} more than once")
        return array

    def subset(self, indices: ArrayLike) -> Population:
        """Return a population of copies of some members.

        Parameters
        ----------
        indices : sequence of int, or mask (n_networks,)
            In the order in which they are to be; they may occur more than once.

        Returns
        -------
        Population
            With their `losses` and what `select` needs, but no `history` and no weights.
        """
        return self._taken(self._indices("indices", indices, is_distinct=False), self.backend)

    def _taken(self, indices: np.ndarray, backend: str) -> Population:
        pop = type(self).__new__(type(self))
        pop._build([self.groups[g].config for g in self._group_of[indices]], backend)
        for group in pop.groups:
            first = indices[group.members]
            group.parameters[:] = self.groups[self._group_of[first[0]]].parameters[self._row_of[first]]
        pop.metadata.update(self.metadata)
        pop.losses[:] = self.losses[indices]
        if self._kept_validation is not None:
            A, Y = self._kept_validation
            pop._kept_validation = A[indices], Y
        return pop

    def copy(self) -> Population:
        """Return an independent population of the same networks."""
        return self.with_backend(self.backend)

    def with_backend(self, backend: str) -> Population:
        """Return an independent population of the same networks on the backend "numba" or "numpy"."""
        pop = self._taken(np.arange(len(self)), check_backend(backend))
        pop.history = self.history
        pop._weights = None if self._weights is None else self._weights.copy()
        return pop

    def replace(self, i: int, network: Network | ArrayLike) -> None:
        """Put another network in the place of a member, whose entry in `losses` becomes NaN.

        Parameters
        ----------
        i : int
        network : Network or array_like (n_parameters,)
            Of the architecture of this member, or its parameters.
        """
        i = self._index("i", i)
        group, row = self._place(i)
        if isinstance(network, Network):
            if network._config != group.config:
                raise ValueError(
                    f"network must have the architecture of network {i}, {_words(group.config)}, "
                    f"got {_words(network._config)}"
                )
            values = network.parameters
        else:
            values = _array("network", network)
            if values.shape != row.shape:
                raise ValueError(
                    f"network must be a Network or parameters of shape {row.shape}, got shape {values.shape}"
                )
            with np.errstate(over="ignore"):
                converted = values.astype(row.dtype)
            checks.finite("network", converted, row.dtype, values)
        row[:] = values
        self._forget(np.array([i]))

    def _forget(self, members: np.ndarray) -> None:
        """Drop what the last `fit` told of members that have changed."""
        self.losses = self.losses.copy()  # the history may have the array
        self.losses[members] = np.nan
        if self._kept_validation is not None:
            A, Y = self._kept_validation
            A = A.copy()
            A[members] = np.nan
            self._kept_validation = None if np.isnan(A[:, 0, 0]).all() else (A, Y)

    @property
    def weights(self) -> np.ndarray | None:
        """Weight of each member in `mean` and `spread`, (n_networks,), or None: all the same; may be set."""
        return self._weights

    @weights.setter
    def weights(self, value: ArrayLike | None) -> None:
        if value is not None:
            value = _for_each("weights", _array("weights", value), len(self))
            if not value.any():
                raise ValueError("weights must not all be 0")
        self._weights = value

    def __reduce__(self) -> tuple[Callable[..., Population], tuple[Any, ...]]:
        """Pickle as architectures and parameters; the backends are built again."""
        groups = [(tuple(group.config), group.members, np.array(group.parameters)) for group in self.groups]
        names = ("metadata", "losses", "history", "_kept_validation", "_weights")
        return type(self)._restore, (groups, self.backend, {name: getattr(self, name) for name in names})

    @classmethod
    def _restore(cls, groups: Sequence[Any], backend: str, attributes: Mapping[str, Any]) -> Population:
        pop = cls.__new__(cls)
        configs: list[Any] = [None] * sum(len(members) for _, members, _ in groups)
        for config, members, _ in groups:
            for i in members:
                configs[i] = Config(*config)
        pop._build(configs, backend)
        for group, (_, _, parameters) in zip(pop.groups, groups, strict=True):
            group.parameters[:] = parameters
        vars(pop).update(attributes)
        return pop

    def __repr__(self) -> str:
        """Return the call that makes such a population, and what memory it takes."""
        config, n = self._config, [len(group.members) for group in self.groups]
        sizes = [list(group.config.sizes) for group in self.groups]
        functions = [list(group.config.activations) for group in self.groups]
        one = len(self.groups) == 1
        return (
            f"Population({sizes[0] if one else sizes}, n_networks={n[0] if one else n}, "
            f"activations={functions[0] if one else functions}, loss={config.loss!r}, reduction={self.reduction!r}, "
            f"dtype={self.dtype.name!r}, backend={self.backend!r}"
            + (f", input_scale={self.input_scale!r})" if self.input_scale != 1 else ")")
            + f"  # {_bytes(self.nbytes)}"
        )


def _aligned_rows(n: int, length: int, dtype: np.dtype) -> np.ndarray:
    """Return zeros (n, length) whose rows start on cache lines."""
    stride = -(-length // 16) * 16
    return aligned_zeros(n * stride, dtype).reshape(n, stride)[:, :length]


def _array(argument: str, value: Any) -> np.ndarray:
    """Check for an array of real numbers."""
    checks.unmasked(argument, value)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise TypeError(f"{argument} must be numbers, got {value!r}") from error
    if array.dtype.kind not in "buif" and array.size:
        raise TypeError(f"{argument} must be numbers, got {value!r}")
    return array


def _for_each(argument: str, value: Any, n: int) -> np.ndarray:
    """Check a number at least 0, or one for each of n networks; return float64 (n,)."""
    array = _array(argument, value)
    if array.shape not in ((), (n,)):
        raise ValueError(f"{argument} has shape {array.shape}, expected one number, or ({n},): one for each network")
    for i, item in enumerate(np.atleast_1d(array).tolist()):
        arguments.number(f"{argument}[{i}]" if array.ndim else argument, item, at_least=0)
    return np.broadcast_to(array.astype(np.float64), (n,)).copy()


def _is_sequence(value: Any) -> bool:
    return not isinstance(value, str) and hasattr(value, "__len__")


def _architectures(sizes: Any, activations: Any) -> list[tuple[Any, Any]]:
    """Return sizes and activations of each architecture."""
    several = _is_sequence(sizes) and any(map(_is_sequence, sizes))
    if not several:
        return [(sizes, activations)]
    if not (_is_sequence(activations) and any(map(_is_sequence, activations))):
        activations = [activations] * len(sizes)
    if len(activations) != len(sizes):
        raise ValueError(
            f"activations must be those of all architectures, or one item for each of the {len(sizes)}, "
            f"got {activations!r}"
        )
    return list(zip(sizes, activations, strict=True))


def _checked(config: Config, prefix: str) -> Config:
    try:
        config = checks.config(config)
        checks.widths(config.sizes, config.activations, config.loss)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{prefix}{error}") from None
    return config


def _check_same(config: Config, first: Config, name: str, first_name: str) -> None:
    """Check that two networks may be members of one population."""
    for what, value, expected in [
        ("inputs", config.sizes[0], first.sizes[0]),
        ("outputs", config.sizes[-1], first.sizes[-1]),
        *((field, getattr(config, field), getattr(first, field)) for field in Config._fields[2:]),
    ]:
        if value != expected:
            raise ValueError(f"{name} has {what} {value}, but {first_name} has {expected}: they must be the same")


def _counts(value: Any, n_architectures: int) -> list[int]:
    """Check the number of networks of each architecture."""
    if not _is_sequence(value):
        return [arguments.integer("n_networks", value)] * n_architectures
    if len(value) != n_architectures:
        raise ValueError(f"n_networks must be one number or {n_architectures} (one per architecture), got {value!r}")
    return [arguments.integer(f"n_networks[{j}]", count) for j, count in enumerate(value)]


def _seeds(seed: Any, n: int) -> list[Any]:
    """Return a seed for each of n networks."""
    if isinstance(seed, np.random.SeedSequence):  # a copy: spawning would change what it gives next
        seed = np.random.SeedSequence(
            seed.entropy,
            spawn_key=seed.spawn_key,
            pool_size=seed.pool_size,
            n_children_spawned=seed.n_children_spawned,
        )
        return seed.spawn(n)
    if _is_sequence(seed):
        if len(seed) != n:
            raise ValueError(f"seed must be one, or {n} (one for each network), got {len(seed)}")
        return [arguments.generator(f"seed[{i}]", item) for i, item in enumerate(seed)]
    if seed is not None:
        try:
            seed = arguments.integer("seed", seed, at_least=0)
        except (TypeError, ValueError) as error:
            expected = f"None, an int >= 0, a SeedSequence or a sequence of {n} seeds"
            raise type(error)(f"seed must be {expected}, got {seed!r}") from None
    return np.random.SeedSequence(seed).spawn(n)


def _words(config: Config) -> str:
    return f"{list(config.sizes)} {list(map(str, config.activations))} ({losses.name_of(config.loss)}, {config.dtype})"
