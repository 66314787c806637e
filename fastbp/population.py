"""Many networks at once: their parameters in one array for each architecture, trained and evaluated together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import arguments, backends, checks, files, losses, metrics, population_checks
from .activations import Activation
from .attributes import fixed
from .backends import Config, check_backend, kernels_of
from .custom import CustomFunction
from .initializers import Init, draw
from .losses import Loss, Parameterized
from .network import Network, _bytes
from .optimizers import Adam, Optimizer
from .reference.custom import evaluated, twin_of
from .reference.layout import layer_views
from .training.population import PopulationTrainer
from .training.population_data import check_memory
from .training.population_history import PopulationHistory
from .update import aligned_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

ADAM = Adam()  # what `fit` takes unless it is told
PREDICTED_BYTES = 1 << 26  # outputs of all members that `mean` and `spread` hold at a time
DRAWN_NUMBERS = 1 << 20  # random numbers that `mutate` holds at a time; another value draws others for rate < 1


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
        self.config, self.members, self._backend_name = config, members, backend
        self.parameters = aligned_rows((len(members), population_checks.n_parameters(config)), config.dtype)
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
    MemoryError
        If the parameters take more memory than there is.
    """

    trainer_class: ClassVar[type] = PopulationTrainer  # of `fastbp.Trainer(pop, ...)`
    groups: tuple[Group, ...] = fixed("make a new Population")
    losses: np.ndarray
    history: PopulationHistory | None
    metadata: dict[str, str]

    def __init__(
        self,
        sizes: Sequence[int] | Sequence[Sequence[int]],
        n_networks: int | Sequence[int] = 1,
        activations: str | Activation | Sequence[Any] = "sigmoid",
        loss: str | Parameterized | Loss = "squared_error",
        init: Init = "glorot_uniform",
        reduction: str = "mean",
        dtype: DTypeLike = "float32",
        seed: arguments.Seed | Sequence[arguments.Seed] | np.ndarray = None,
        backend: str = "numba",
        input_scale: float = 1.0,
        init_scale: ArrayLike = 1.0,
    ) -> None:
        check_backend(backend)
        configs = [
            Config(of_one, functions, loss, reduction, dtype, input_scale)  # type: ignore[arg-type]
            for of_one, functions in population_checks.architectures(sizes, activations)
        ]
        configs = [
            population_checks.checked(config, f"architecture {j}: " * (len(configs) > 1))
            for j, config in enumerate(configs)
        ]
        for j, config in enumerate(configs):
            population_checks.check_same(config, configs[0], f"sizes[{j}]", "sizes[0]")
        counts = population_checks.counts(n_networks, len(configs))
        n = sum(counts)
        needs = sum(count * population_checks.row_length(config) for count, config in zip(counts, configs, strict=True))
        check_memory(
            {f"the parameters of {n} networks": needs * configs[0].dtype.itemsize}, "take fewer or smaller ones"
        )
        seeds, scales = population_checks.seeds(seed, n), population_checks.for_each("init_scale", init_scale, n)
        self._build([configs[j] for j in np.repeat(np.arange(len(configs)), counts)], backend)
        for i in range(n):
            group, row = self._place(i)
            layers = draw(init, group.config.sizes, seeds[i], group.config.dtype)
            for W, b, (first_W, first_b) in zip(*layer_views(row, group.config.sizes), layers, strict=True):
                W[:], b[:] = first_W, first_b
                if scales[i] != 1:
                    first_W = scales[i] * first_W
                    checks.finite(f"init_scale[{i}] times the first weights", first_W, group.config.dtype)
                    W[:] = first_W

    def _build(self, configs: Sequence[Config], backend: str) -> None:
        """Make the groups of members with these architectures, all parameters 0."""
        self._backend_name = backend
        members: dict[Config, tuple[Config, list[int]]] = {}
        for i, config in enumerate(configs):
            members.setdefault(population_checks.plain(config), (config, []))[1].append(i)
        for config, _ in members.values():
            for item in (*config.activations, config.loss):
                if isinstance(item, CustomFunction):
                    item.compile(config.dtype)
        self.groups = tuple(Group(config, np.array(of_one), backend) for config, of_one in members.values())
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
            population_checks.check_same(net._config, networks[0]._config, f"networks[{i}]", "networks[0]")
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
    def parameters(self) -> Any:
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
        array = population_checks.numbers(argument, value)
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

    def predict(self, X: ArrayLike, members: ArrayLike | None = None) -> np.ndarray:
        """Output activations of each member.

        Parameters
        ----------
        X : array_like (n_samples, n_in) or (n_in,), or of each member its own, (n_members, n_samples, n_in)
        members : sequence of int, or mask (n_networks,), optional
            Some members only.

        Returns
        -------
        ndarray (n_members, n_samples, n_out), or (n_members, n_out) for a 1-D X, which is one sample
        """
        indices = self._indices("members", members)
        X, single = self._inputs(X, len(indices))
        A = self._outputs(X, indices)
        return A[:, 0] if single else A

    def mean(self, X: ArrayLike, members: ArrayLike | None = None) -> np.ndarray:
        """Give the mean over the members of their outputs, weighted by `weights`; X and members are as for `predict`.

        Returns
        -------
        ndarray (n_samples, n_out), or (n_out,) for a 1-D X
        """
        return self._moments(X, members)[0]

    def spread(self, X: ArrayLike, members: ArrayLike | None = None) -> np.ndarray:
        """Give the standard deviation over the members of their outputs, weighted by `weights`; as `mean`.

        The sum of squared distances from the mean is divided by the number of members (or their weight), not by one
        less.
        """
        return self._moments(X, members, is_spread=True)[1]

    def _moments(self, X: Any, members: Any, is_spread: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of the outputs; the latter is 0 unless it is asked for.

        All sums are in float64, and go from member to member: so they do not depend on the number of samples.
        """
        indices = self._indices("members", members)
        X, single = self._inputs(X, len(indices))
        weights = np.ones(len(indices)) if self._weights is None else self._weights[indices]
        total = weights.sum()
        if not total > 0:
            raise ValueError("members must not all have weight 0")
        n_samples, n_out = X.shape[-2], self._config.sizes[-1]
        mean, variance = np.zeros((2, n_samples, n_out))
        n_rows = max(1, PREDICTED_BYTES // (len(indices) * n_out * self.dtype.itemsize))
        with np.errstate(all="ignore"):  # of networks that have diverged
            for start in range(0, n_samples, n_rows):
                rows = slice(start, start + n_rows)
                A = self._outputs(np.ascontiguousarray(X[..., rows, :]), indices)
                for weight, a in zip(weights, A, strict=True):
                    mean[rows] += weight * a.astype(np.float64)
                mean[rows] /= total
                for weight, a in zip(weights, A if is_spread else (), strict=False):
                    variance[rows] += weight * (a - mean[rows]) ** 2
            result = mean.astype(self.dtype), np.sqrt(variance / total).astype(self.dtype)
        return (result[0][0], result[1][0]) if single else result

    def loss(self, X: ArrayLike, Y: ArrayLike, members: ArrayLike | None = None) -> np.ndarray:
        """Loss of each member, reduced over the samples as `reduction` says.

        Parameters
        ----------
        X : as for `predict`
        Y : array_like (n_samples, n_out); with cross_entropy also class labels (n_samples,)
            With an X of each member its own too: one more axis in front.
        members : sequence of int, or mask (n_networks,), optional

        Returns
        -------
        float64 ndarray (n_members,)
        """
        indices = self._indices("members", members)
        X, single = self._inputs(X, len(indices))
        Y = self._targets(Y, X, single)
        result = np.empty(len(indices))
        for where, sums in self._each("losses", indices, X, Y):
            result[where] = sums
        return result / X.shape[-2] if self.reduction == "mean" else result

    def _inputs(self, X: Any, n_members: int) -> tuple[np.ndarray, bool]:
        """Check samples as `checks.inputs` does; those of each member have one more axis in front."""
        n_in = self._config.sizes[0]
        try:
            is_own = np.ndim(X) == 3
        except ValueError:  # rows of different lengths
            is_own = False
        if not is_own:
            return checks.inputs(X, n_in, self.dtype)
        if len(X) != n_members:
            raise ValueError(f"X is 3-D, samples of each network, and has {len(X)} of these, expected {n_members}")
        if type(X) is np.ndarray and checks.is_kept(X) and X.shape[2] == n_in and X.size:
            if X.dtype.kind != "f" or checks.is_finite(X, self.dtype):
                return X, False
        return np.stack([checks.inputs(x, n_in, self.dtype, f"X[{i}]")[0] for i, x in enumerate(X)]), False

    def _targets(self, Y: Any, X: np.ndarray, single: bool) -> np.ndarray:
        """Check targets of the samples X that `_inputs` returned."""
        n_samples, n_out = X.shape[-2], self._config.sizes[-1]
        if X.ndim == 2:
            return checks.targets(Y, n_samples, n_out, self.loss_name, self.dtype, single)
        if not population_checks.is_sequence(Y) or len(Y) != len(X):
            raise ValueError(f"Y must hold the targets of each of {len(X)} networks, as X holds their samples")
        rows = [
            checks.targets(y, n_samples, n_out, self.loss_name, self.dtype, argument=f"Y[{i}]") for i, y in enumerate(Y)
        ]
        if len({y.ndim for y in rows}) > 1:
            raise ValueError("Y must hold labels, or rows of targets, for all networks")
        return np.stack(rows)

    def _outputs(self, X: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Return outputs of samples that are checked, (len(indices), n_samples, n_out)."""
        if len(self.groups) == 1:
            return next(self._each("predict", indices, X))[1]
        A = np.empty((len(indices), X.shape[-2], self._config.sizes[-1]), self.dtype)
        for where, outputs in self._each("predict", indices, X):
            A[where] = outputs
        return A

    def _each(self, method: str, indices: np.ndarray, *data: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Call a method of the backend of each group that has some of these members; yield which, and its result."""
        for g, group in enumerate(self.groups):
            where = np.flatnonzero(self._group_of[indices] == g)
            if len(where):
                rows, parameters = self._row_of[indices[where]], group.parameters
                if data[0].ndim == 3:  # data of each: as many rows of parameters as there are of data
                    data_of_group = [array[where] for array in data]
                    parameters = aligned_rows((len(rows), parameters.shape[1]), self.dtype)
                    parameters[:] = group.parameters[rows]
                    rows = np.arange(len(rows))
                else:
                    data_of_group = list(data)
                yield where, getattr(group.backend, method)(parameters, rows, *data_of_group)

    def fit(
        self,
        X: ArrayLike,
        Y: ArrayLike,
        epochs: int = 1,
        batch_size: int | Sequence[int | None] | np.ndarray | None = 32,
        optimizer: Optimizer | Sequence[Optimizer] = ADAM,
        *,
        validation_data: Sequence[ArrayLike] | None = None,
        folds: Any = None,
        halving: int | None = None,
        metrics: str | Callable[..., float] | Sequence[str | Callable[..., float]] = (),
        callbacks: Sequence[Any] = (),
        patience: int | None = None,
        min_delta: float = 0.0,
        restore_best: bool = True,
        validation_loss: Callable[[np.ndarray, np.ndarray], float] | None = None,
        order: str | None = None,
        train_rows: Any = None,
        validation_rows: Any = None,
        sample_weight: ArrayLike | None = None,
        class_weight: Mapping[Any, float] | str | None = None,
        keep_predictions: bool = True,
        progress: bool | None = None,
        seed: arguments.Seed | Sequence[arguments.Seed] = None,
        **settings: Any,
    ) -> PopulationHistory:
        """Train all members together, each as a `Trainer` of its own would train it.

        It is short for ``fastbp.Trainer(pop, optimizer, batch_size, seed=seed, **settings).fit(X, Y, epochs, ...)``;
        such a trainer can go on, while here what the optimizer remembers ends with the call.  It sets `losses`,
        `history`, and what `select` needs.

        Parameters
        ----------
        X, Y, epochs
            As in `fastbp.training.population.PopulationTrainer.fit`, which explains what follows, too.
        batch_size, optimizer, seed
            As in `fastbp.training.population.PopulationTrainer`: one for all, or a sequence with one for each network.
        validation_data, metrics, callbacks, sample_weight, class_weight, progress
            As in `Trainer.fit`.
        folds
            Train and evaluate a copy of each network for each fold; the members keep their parameters.
        halving, patience, min_delta, restore_best, validation_loss
            Which networks stop early, and what decides.
        order, train_rows, validation_rows
            In which order, and on which rows, each network is trained and evaluated.
        keep_predictions
            Whether predictions are kept for `select`.
        **settings
            `shuffle`, `threads`, `l1`, `l2`, `dropout`, `clip_norm`, `clip_value`, `max_norm`, `label_smoothing`,
            `input_noise`, `on_nonfinite`, as in `Trainer`; the numbers may be sequences with one for each network.

        Returns
        -------
        PopulationHistory

        Raises
        ------
        ValueError, TypeError, MemoryError
            Where an argument does not fit, or more memory is needed than there is; nothing is changed then.
        """
        trainer = PopulationTrainer(self, optimizer, batch_size, seed=seed, **settings)
        return trainer.fit(
            X,
            Y,
            epochs,
            validation_data,
            sample_weight,
            class_weight,
            metrics,
            callbacks,
            progress,
            order=order,
            train_rows=train_rows,
            validation_rows=validation_rows,
            folds=folds,
            halving=halving,
            patience=patience,
            min_delta=min_delta,
            restore_best=restore_best,
            validation_loss=validation_loss,
            keep_predictions=keep_predictions,
            _stacklevel=1,
        )

    def best(self, k: int = 1) -> Population:
        """Return a population of the k members of least `losses`, the best one first.

        Those whose loss is not a number come last.
        """
        k = arguments.integer("k", k)
        if k > len(self):
            raise ValueError(f"k must be at most {len(self)}, the number of networks, got {k}")
        if np.isnan(self.losses).all():
            raise ValueError("best needs the losses of a fit, and no network has one: call fit first")
        return self.subset(np.argsort(self.losses, kind="stable")[:k])

    def select(self, k: int, metric: Any = None, mode: str | None = None) -> Population:
        """Return the members, with `weights`, whose mean is best on the validation data of the last `fit`.

        Greedy selection with replacement: k times, the member is added whose addition makes the mean of all that were
        added best; a member may be added again (Caruana, Niculescu-Mizil, Crew and Ksikes, "Ensemble selection from
        libraries of models", 2004).

        Parameters
        ----------
        k : int
        metric : str or function (A, Y) -> float, optional
            What is best: a name of `fastbp.metrics.METRICS`, any top_k, or a function of outputs and targets.  None:
            the loss.
        mode : "min", "max" or None
            Whether smaller or larger is better; None tells it from the name.

        Returns
        -------
        Population
            The distinct members, in their order here, with ``weights``: how often each was added, divided by k.
        """
        k = arguments.integer("k", k)
        if self._kept_validation is None:
            raise ValueError("select needs the validation predictions of a fit: call fit with validation_data or folds")
        A, Y = self._kept_validation
        score = self._score(metric, mode, Y)
        candidates = np.flatnonzero(np.isfinite(A).all(axis=(1, 2)))
        if not len(candidates):
            raise ValueError("select needs finite validation predictions, and no network has them")
        total, counts = np.zeros(A.shape[1:]), np.zeros(len(self), np.int64)
        for n in range(1, k + 1):
            scores = np.array([score(((total + A[i]) / n).astype(A.dtype)) for i in candidates])
            if np.isnan(scores).all():
                raise ValueError(f"metric is NaN for every choice of {n} networks")
            i = candidates[np.nanargmin(scores)]
            total += A[i]
            counts[i] += 1
        pop = self.subset(np.flatnonzero(counts))
        pop.weights = counts[counts > 0] / k
        return pop

    def _score(self, metric: Any, mode: str | None, Y: np.ndarray) -> Callable[[np.ndarray], float]:
        """Return a function of outputs that is smallest where they are best."""
        if mode is not None:
            arguments.name("mode", mode, ("min", "max"))
        kernels, loss = kernels_of(self.backend), self._config.loss
        if metric is None:
            if mode is not None:
                raise ValueError(f"mode must be None, as the loss is to be least, got {mode!r}")
            kernel = twin_of(loss) if isinstance(loss, CustomFunction) else getattr(kernels, self.loss_name)
            parameter = self.loss_settings.values()
            return lambda A: evaluated(kernel, A, Y, *parameter, shape=len(A)).sum(dtype=np.float64)
        if not isinstance(metric, str) and not callable(metric):
            raise TypeError(f"metric must be None, a name or a function (A, Y) -> float, got {metric!r}")
        ((name, function),) = metrics.named(metric).items()
        if mode is not None:
            is_min = mode == "min"
        else:
            is_min = function.falls if isinstance(function, metrics.Metric) else metrics.falls(name)
        has_signs = losses.row_of(loss).takes_signs
        measures = metrics.Measures({name: function}, self._config.sizes[-1], [Y], kernels, has_signs)
        sign = 1 if is_min else -1
        return lambda A: sign * measures.of([(A, Y)], Y)[name]

    def mutate(
        self,
        scale: ArrayLike,
        rate: float = 1.0,
        members: ArrayLike | None = None,
        seed: arguments.Seed = None,
    ) -> None:
        """Add normal noise to a fraction of the parameters, in place; the members' `losses` become NaN.

        Parameters
        ----------
        scale : float or sequence of n_members float
            Standard deviation of the noise.
        rate : float
            Probability that a parameter is changed, 0 to 1.
        members : sequence of int, or mask (n_networks,), optional
            Only these are changed.
        seed : None, int, SeedSequence or Generator
            A seed gives the same draws for both dtypes.
        """
        indices = self._indices("members", members)
        scales = population_checks.for_each("scale", scale, len(indices))
        rate = arguments.number("rate", rate, at_least=0, at_most=1)
        rng = arguments.generator("seed", seed)
        for g, group in enumerate(self.groups):
            where = np.flatnonzero(self._group_of[indices] == g)
            n_rows = max(1, DRAWN_NUMBERS // group.parameters.shape[1])
            for some in np.split(where, range(n_rows, len(where), n_rows)):
                rows = self._row_of[indices[some]]
                changed = group.parameters[rows]
                noise = scales[some, None] * rng.standard_normal(changed.shape)
                is_changed = rng.random(changed.shape) < rate if rate < 1 else True
                with np.errstate(over="ignore"):
                    np.add(changed, noise, out=changed, where=is_changed, casting="same_kind")
                group.parameters[rows] = changed
        self._forget(indices)

    def crossover(self, parents: ArrayLike, rate: float = 0.5, seed: arguments.Seed = None) -> np.ndarray:
        """Return parameters of children, each of which is from one of two parents (uniform crossover).

        Parameters
        ----------
        parents : array_like of int (n, 2)
            Two members for each child; all of one architecture.
        rate : float
            Probability that a parameter is that of the second parent, 0 to 1.
        seed : None, int, SeedSequence or Generator

        Returns
        -------
        ndarray (n, n_parameters)
            The population is not changed; write them into it, ``pop.parameters[:] = children``.
        """
        pairs = population_checks.numbers("parents", parents)
        if pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs):
            raise ValueError(f"parents must be pairs, (n, 2), got shape {pairs.shape}")
        if pairs.dtype.kind not in "ui":
            raise TypeError(f"parents must be integers, got dtype {pairs.dtype}")
        pairs = self._within("parents", pairs)
        rate = arguments.number("rate", rate, at_least=0, at_most=1)
        rng = arguments.generator("seed", seed)
        groups = np.unique(self._group_of[pairs])
        if len(groups) > 1:
            raise ValueError(f"parents must be of one architecture, got members of {len(groups)}")
        parameters = self.groups[groups[0]].parameters
        first, second = parameters[self._row_of[pairs[:, 0]]], parameters[self._row_of[pairs[:, 1]]]
        return np.where(rng.random(first.shape) < rate, second, first)

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
        """Save to one file, as `Network.save` does; `fastbp.load` gives it back.

        The file holds parameters, losses, weights and metadata, but no history, nor what `select` needs.

        Parameters
        ----------
        path : str or Path
            ``.safetensors`` writes that format (needs the extra ``fastbp[files]``), any other suffix NumPy's npz.
        metadata : dict of str, optional
            Texts to save besides those in ``pop.metadata``.

        Warns
        -----
        RuntimeWarning
            If parameters are NaN or infinite.
        """
        kept = checks.metadata(self.metadata)
        files.save_population(self, path, {**kept, **({} if metadata is None else checks.metadata(metadata))})

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
            if population_checks.plain(network._config) != population_checks.plain(group.config):
                raise ValueError(
                    f"network must have the architecture of network {i}, {population_checks.words(group.config)}, "
                    f"got {population_checks.words(network._config)}"
                )
            values = network.parameters
        else:
            values = population_checks.numbers("network", network)
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
            value = population_checks.for_each("weights", population_checks.numbers("weights", value), len(self))
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
        copies = {name: value.copy() for name, value in attributes.items() if isinstance(value, np.ndarray | dict)}
        vars(pop).update({**attributes, **copies})
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


def load(path: str | os.PathLike[str], backend: str = "numba") -> Any:
    """Load a network that `Network.save` wrote, or a population that `Population.save` wrote.

    Parameters
    ----------
    path : str or Path
    backend : "numba" or "numpy"

    Returns
    -------
    Network or Population
        As the file says.

    Raises
    ------
    OSError
        If the file cannot be read; FileNotFoundError if there is none.
    ValueError
        If the file is damaged or is not such a file.
    ImportError
        For a safetensors file, if the extra ``fastbp[files]`` is not installed.

    Warns
    -----
    RuntimeWarning
        If parameters are NaN or infinite.
    """
    check_backend(backend)
    saved = files.read_any(path)
    if not isinstance(saved, files.SavedPopulation):
        config, parameters, metadata = saved
        net = Network._restore(config, backend, parameters, metadata)
        files.warn_if_nonfinite(net, path)
        return net
    kept = {"metadata": saved.metadata, "losses": saved.losses, "_weights": saved.weights}
    pop = Population._restore(list(zip(saved.configs, saved.members, saved.parameters, strict=True)), backend, kept)
    files.warn_if_members_nonfinite(pop, path)
    return pop
