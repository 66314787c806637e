"""The `PopulationTrainer`: settings of each network, and its checkpoints."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import arguments, checkpoints, checks, optimizers
from ..attributes import Checked, Fixed
from ..checkpoints import CheckpointError
from ..files import warn_if_members_nonfinite
from ..optimizers import FullBatchMethod, Optimizer
from ..reference.schedules import learning_rate, rate_at
from ..update import PopulationState, Update, UpdateSettings
from .exclusive import Callers, exclusive, is_another_at_work
from .population_data import check_memory
from .population_fit import PopulationFit, check_writable, fit_folds, named_networks
from .population_history import PopulationHistory
from .population_orders import Streams, check_seed, copied, first_streams

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

SETTINGS = {row.name: row for row in fields(UpdateSettings)}
MAX_HISTORIES = 10_000  # of calls of fit, kept one by one
ALL_ROWS = np.iinfo(np.int64).max  # of batch_size=None, as a number


class MemberSetting(Checked):
    """An attribute of a `PopulationTrainer`: one value, or one for each network, on which its `Update`s depend."""

    def __set__(self, trainer: Any, value: Any) -> None:
        """Check and keep the value; the next steps make new `Update`s."""
        super().__set__(trainer, value)
        trainer._last_updates = None


def _of_networks(trainer: Any, name: str, value: Any, check: Callable[[Any, str, Any], Any]) -> Any:
    """Check one value, or one for each network; `check` is that of a `Trainer`, called once for each distinct value.

    Returns
    -------
    the value as backends take it, or a read-only array, or a tuple where they are no numbers
    """
    is_sequence = isinstance(value, np.ndarray) and value.ndim > 0 or isinstance(value, list | tuple)
    if name == "dropout" and isinstance(value, list | tuple):
        is_sequence = False  # one rate for each layer
    pop = trainer.pop
    lone_trainers = _lone_trainers(pop)
    if not is_sequence:
        value = value.item() if isinstance(value, np.ndarray) else value
        of_groups = [check(lone, name, value) for lone in lone_trainers]
        if all(checked == of_groups[0] for checked in of_groups):
            trainer._columns[name] = of_groups[:1]
            return of_groups[0]
        trainer._columns[name] = [of_groups[g] for g in pop._group_of.tolist()]  # rates of dropout for each layer
        return value
    if len(value) != len(pop):
        got = f"shape {value.shape}" if isinstance(value, np.ndarray) else str(len(value))
        raise ValueError(f"{name} must be one value, or one for each of the {len(pop)} networks, got {got}")
    values = value.tolist() if isinstance(value, np.ndarray) else value
    if name == "dropout":
        values = [tuple(rates) if isinstance(rates, list) else rates for rates in values]
    known: dict[Any, Any] = {}
    column = []
    for i, (one, g) in enumerate(zip(values, pop._group_of.tolist(), strict=True)):
        try:
            if isinstance(one, list | np.ndarray):
                check(lone_trainers[g], name, one)  # raises
            key = type(one), one, g
            if key not in known:
                known[key] = check(lone_trainers[g], name, one)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error} (network {i})") from None
        column.append(known[key])
    trainer._columns[name] = column
    if any(item is None or isinstance(item, tuple) for item in column):
        return tuple(column)
    array = np.array(column)
    array.flags.writeable = False
    return array


def _lone_trainers(pop: Any) -> list[Any]:
    """Return for each architecture what checks of settings need of a `Trainer`."""
    return [
        SimpleNamespace(net=SimpleNamespace(shapes=group.config.sizes[1:], loss_name=pop.loss_name))
        for group in pop.groups
    ]


def _member_setting(check: Callable[[Any, str, Any], Any]) -> Any:
    return MemberSetting(lambda trainer, name, value: _of_networks(trainer, name, value, check))


def _batch_size(trainer: Any, name: str, value: Any) -> int | None:
    return None if value is None else arguments.integer(name, value)


def _at_least_0(trainer: Any, name: str, value: Any) -> float:
    return arguments.number(name, value, at_least=0)


def _optimizer(trainer: Any, name: str, value: Any) -> Any:
    """Check an optimizer, or one for each network, and that they can use the states of those before."""
    members = _optimizers(value, len(trainer.pop))
    before = vars(trainer).get("_optimizers")
    for i, (old, new) in enumerate(zip(before or (), members, strict=False)):
        if old is not new and not optimizers.share_state(old, new):
            raise ValueError(
                f"optimizer {new!r} of network {i} remembers other numbers of each parameter than {old!r}, whose state "
                "this trainer has: make a new Trainer"
            )
    for i, member in enumerate(members):
        try:
            member.check_sizes(trainer.pop.groups[trainer.pop._group_of[i]].config.sizes)
        except ValueError as error:
            raise ValueError(f"{error} (network {i})") from None
    trainer._optimizers = members
    return tuple(value) if isinstance(value, list) else value


def _optimizers(value: Any, n: int) -> list[Optimizer]:
    """Return the optimizer of each of n networks."""
    if isinstance(value, list | tuple):
        if len(value) != n:
            raise ValueError(f"optimizer must be one, or one for each of the {n} networks, got {len(value)}")
        for i, one in enumerate(value):
            try:
                _check_class(checks.optimizer(one, optimizers.OPTIMIZERS))
            except (TypeError, ValueError) as error:
                raise type(error)(f"{error} (network {i})") from None
        return list(value)
    n_networks = getattr(value, "n_networks", None) if isinstance(value, optimizers.OPTIMIZERS) else None
    if n_networks is None:
        checks.optimizer(value, optimizers.OPTIMIZERS)
    elif n_networks != n:
        raise ValueError(f"optimizer has settings for each of {n_networks} networks, but the population has {n}")
    _check_class(value)
    return value.of_networks(n)


def _check_class(optimizer: Any) -> None:
    if isinstance(optimizer, FullBatchMethod):
        raise TypeError(
            f"{type(optimizer).__name__} takes all samples of one network at once: a Population needs an optimizer "
            "that updates batch by batch, or a Trainer for each network"
        )


def _keys(trainer: Any, name: str, value: Any) -> np.ndarray:
    """Check keys: one number, or one for each network."""
    n = len(trainer.pop)
    given = list(value) if isinstance(value, list | tuple | np.ndarray) else [value] * n
    if len(given) != n:
        raise ValueError(f"{name} must be one integer, or one for each of the {n} networks, got {len(given)}")
    return np.array([arguments.integer(name, key, at_least=0) for key in given], np.uint64)


class PopulationTrainer:
    """Trains the networks of a population together: each as a `Trainer` of its own would, to the same numbers.

    ``fastbp.Trainer(pop, ...)`` makes one.

    Parameters
    ----------
    pop : Population
        Changed in place.
    optimizer : one of `fastbp.optimizers.OPTIMIZERS` that update batch by batch, or a sequence of n_networks of them
        Every setting of an optimizer may be a sequence of n_networks values, `lr` also one of schedules.
    batch_size : int or None, or a sequence of n_networks
    shuffle : bool
    seed : None, int, SeedSequence or Generator, or a sequence of n_networks of them
        Source of the orders of rows, and of dropout and noise; see `order` in `fit`.
    threads : int or None
        Largest number of threads.  The result has the same bits for every number.
    on_nonfinite : "stop", "raise" or "skip"
        What to do where the loss of a network is not finite.  "stop" stops this network, and warns at the end;
        "raise" raises a FloatingPointError; both leave it with its last finite parameters.  "skip" goes on without that
        update, as long as the parameters are finite.
    **settings
        Those of `Trainer` (l1, l2, dropout, clip_norm, clip_value, max_norm, label_smoothing, input_noise).  Each may
        be an array of n_networks values.  Rates of dropout for each layer are a tuple, or an array
        (n_networks, n_layers - 1).

    Attributes
    ----------
    epochs : int
        Epochs done by all calls so far.
    states : list of fastbp.update.PopulationState
        What the update rules remember, and the numbers of steps; one for each of ``pop.groups``.
    lr : float64 ndarray (n_networks,)
        Step size of the next update of each network.
    lr_scale : float or ndarray (n_networks,)
        Factor of the learning rates; may be set.
    key : uint64 ndarray (n_networks,) or None
        Seeds of dropout and noise; may be set.  None before the first `fit`, which draws them.
    history : dict of ndarray (n_epochs, n_networks)
        All that was recorded, by name, over all calls of `fit`.
    stopped : bool ndarray (n_networks,)
        Which networks have ended their training in this call of `fit`; callbacks may set ``trainer.stopped[i] = True``.
    stop_training : bool
        Callbacks may set it to end the training of all.

    Notes
    -----
    Every argument but `pop` and `seed` is an attribute that may be set, also by callbacks, and is checked then.
    """

    pop: Any = Fixed("make a new Trainer")
    optimizer: Any = MemberSetting(_optimizer)
    batch_size: Any = _member_setting(_batch_size)
    shuffle: bool = MemberSetting(lambda trainer, name, value: arguments.flag(name, value))  # type: ignore[assignment]
    threads: int | None = MemberSetting(_batch_size)  # type: ignore[assignment]
    on_nonfinite: str = MemberSetting(  # type: ignore[assignment]
        lambda trainer, name, value: arguments.name(name, value, ("stop", "raise", "skip"))
    )
    lr_scale: Any = _member_setting(_at_least_0)
    key: Any = MemberSetting(_keys)
    states: list[PopulationState] = Fixed("write into them")  # type: ignore[assignment]
    _optimizers: list[Optimizer]
    _order: str | None

    def __init__(
        self,
        pop: Any,
        optimizer: Optimizer | Sequence[Optimizer],
        batch_size: int | Sequence[int | None] | np.ndarray | None = 32,
        shuffle: bool = True,
        seed: arguments.Seed | Sequence[Any] = None,
        threads: int | None = None,
        *,
        on_nonfinite: str = "stop",
        **settings: Any,
    ) -> None:
        self._columns: dict[str, list] = {}  # of settings: the checked values, n_networks of them or one for all
        self.pop = pop
        self.optimizer, self.batch_size, self.shuffle, self.threads = optimizer, batch_size, shuffle, threads
        self.on_nonfinite, self.lr_scale = on_nonfinite, 1.0
        for name in settings:
            if name not in SETTINGS:
                hint = arguments.did_you_mean(name, SETTINGS)
                raise TypeError(f"Trainer got an unexpected keyword argument {name!r}{hint}")
        for name, row in SETTINGS.items():
            setattr(self, name, settings.get(name, row.default))
        self._seed, self._order = check_seed(seed, len(pop)), None
        self._streams: Streams | None = None
        n_states = np.array([one.n_states for one in self._optimizers])
        of_groups = [n_states[group.members] for group in pop.groups]
        needs = [
            int(n.max()) * group.parameters.strides[0] * len(n) for n, group in zip(of_groups, pop.groups, strict=True)
        ]
        check_memory({"the states of the optimizer": sum(needs)}, "take fewer networks")
        self.states = [
            PopulationState(n.tolist(), group.parameters.shape[1], pop.dtype)
            for n, group in zip(of_groups, pop.groups, strict=True)
        ]
        vars(self)["key"] = None
        self.epochs = 0
        self.stop_training = False
        self.stopped = np.zeros(len(pop), bool)
        self._past: dict[str, np.ndarray] = {}  # what was recorded, but for the calls of fit in the next list
        self._histories: list[PopulationHistory] = []
        self._resumed: dict[str, Any] | None = None  # what a call of fit knew, from a checkpoint
        self._is_of_folds = False
        self._begin_at_rest()

    def _begin_at_rest(self) -> None:
        """Set what is neither copied nor pickled."""
        self._callers: Callers = {}
        self._fit: PopulationFit | None = None  # the call of fit under way
        self._last_updates: list[Update] | None = None  # while no setting changes
        self._chunks: dict[tuple[int, int, int], int] = {}  # lengths of native calls

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to a call of `fit`."""
        transient = ("_callers", "_fit", "_last_updates", "_chunks")
        return {name: value for name, value in vars(self).items() if name not in transient}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        """Take up a pickle."""
        vars(self).update(kept)
        self._begin_at_rest()

    @property
    def n_networks(self) -> int:
        """Number of networks."""
        return len(self.pop)

    @property
    def history(self) -> dict[str, np.ndarray]:
        """All that was recorded over all calls of `fit`, by name, (n_epochs, n_networks); NaN where a call did not."""
        parts: list[Mapping[str, np.ndarray]] = [self._past, *(history.recorded for history in self._histories)]
        names = dict.fromkeys(name for part in parts for name in part)
        missing = [np.full((len(part["loss"]) if part else 0, len(self.pop)), np.nan) for part in parts]
        return {
            name: np.concatenate([part.get(name, rows) for part, rows in zip(parts, missing, strict=True)])
            for name in names
        }

    def _keep(self, history: PopulationHistory) -> None:
        """Keep a history for `history`; many short ones together."""
        if len(self._histories) == MAX_HISTORIES:
            self._past, self._histories = self.history, []
        self._histories.append(history)

    @property
    def lr(self) -> np.ndarray:
        """Step size of the next update of each network."""
        out = np.empty(len(self.pop))
        for i, (optimizer, step) in enumerate(zip(self._optimizers, self._steps().tolist(), strict=True)):
            kind, rates = optimizers.schedule_of(optimizer.lr)
            if callable(rates):
                out[i] = rate_at(rates, step)
            else:
                learning_rate(kind, rates, np.array([step]), out[i : i + 1])
        return out * self.lr_scale

    @property
    def _key(self) -> np.ndarray | None:
        return vars(self)["key"]

    def _steps(self) -> np.ndarray:
        steps = np.empty(len(self.pop), np.int64)
        for group, state in zip(self.pop.groups, self.states, strict=True):
            steps[group.members] = state.step
        return steps

    @exclusive
    def fit(
        self,
        X: ArrayLike,
        Y: ArrayLike,
        epochs: int = 1,
        validation_data: Sequence[ArrayLike] | None = None,
        sample_weight: ArrayLike | None = None,
        class_weight: Mapping[Any, float] | str | None = None,
        metrics: str | Callable[..., float] | Sequence[str | Callable[..., float]] = (),
        callbacks: Sequence[Any] = (),
        progress: bool | None = None,
        *,
        order: str | None = None,
        train_rows: Any = None,
        validation_rows: Any = None,
        folds: int | Iterable[tuple[ArrayLike, ArrayLike]] | Any = None,
        halving: int | None = None,
        patience: int | None = None,
        min_delta: float = 0.0,
        restore_best: bool = True,
        validation_loss: Callable[[np.ndarray, np.ndarray], float] | None = None,
        keep_predictions: bool = True,
        _stacklevel: int = 0,
    ) -> PopulationHistory:
        """Train for some epochs, going on from where training is.

        Parameters
        ----------
        X : array_like (n_samples, n_in), or (n_networks, n_samples, n_in) where each network has its own
        Y : array_like (n_samples, n_out), class labels (n_samples,), or either with an axis of networks in front
        epochs : int
        validation_data : (Xv, Yv), optional
            Of the same shapes.
        sample_weight : array_like (n_samples,) or (n_networks, n_samples), optional
        class_weight, metrics : as in `Trainer.fit`
        callbacks : sequence of objects
            As in `Trainer.fit`; they are given this trainer and a `PopulationHistory`, and see epochs, not batches.
            Those of `fastbp.callbacks` that follow one network are refused.
        progress : bool or None
            Whether to show a progress bar, with the best and the median loss.
        order : "shared" or "own", optional
            "shared": network i sees its rows in the orders of ``Trainer(pop.network(i), seed=seed)``, so that all with
            as many rows see them in the same orders.  "own": in those of a Trainer with
            ``seed=SeedSequence(seed).spawn(n_networks)[i]``, or with ``seed[i]`` of a sequence of seeds.  None: as in
            the call before; in the first one "own" if `seed` is a sequence, else "shared".
        train_rows : n_networks index arrays, (n_networks, m) array, or mask (n_networks, n_samples), optional
            Rows that each network is trained on: it is trained as alone on ``X[rows]``, ``Y[rows]``.  Rows may repeat.
        validation_rows : likewise, optional
            Rows of `validation_data`, or of X without it, on which each network is evaluated.
        folds : int, splitter of scikit-learn, or pairs (train, test) of rows, optional
            Cross-validation: a copy of each network for each fold is trained on the one and evaluated on the other.
            The networks themselves keep their parameters, and this trainer its state.  A number k is k folds of
            successive rows.  Callbacks see the trainer and the history of the copies; `halving` ends all copies of a
            network together, by the mean of their losses.
        halving : int, optional
            After 1, halving, halving**2, ... epochs, the best ceil(n / halving) of the n networks that still train go
            on, and the others stop: by their validation loss, or training loss without validation data.
        patience, min_delta, restore_best : int, float, bool, optional
            A network stops after so many epochs in a row without a validation loss that is better by more than
            `min_delta`.  Then, with `restore_best`, each has the parameters of its best epoch in the end, however its
            training ended: as with `callbacks.EarlyStopping`.
        validation_loss : function (A, Y) -> float, optional
            Takes the place of the networks' loss on validation data, wherever that is recorded or decides.  Called with
            the outputs of one network, (n_rows, n_out), and its targets, of this shape or labels (n_rows,).  Less is
            better, and NaN never is.
        keep_predictions : bool
            Whether predictions for validation data that all networks share, or those out of fold, are kept for
            `Population.select`.

        Returns
        -------
        PopulationHistory
            Ctrl-C returns it too, with what was done so far.

        Warns
        -----
        RuntimeWarning
            Networks became non-finite, or training was interrupted.

        Raises
        ------
        ValueError, TypeError
            Where an argument does not fit; nothing is changed then.
        MemoryError
            Where it would take more memory than is available; nothing is changed then.
        RuntimeError
            Called by a callback of this trainer, or by another thread, while it runs.
        FloatingPointError
            With ``on_nonfinite="raise"``.
        """
        options: dict[str, Any] = {
            "epochs": epochs,
            "sample_weight": sample_weight,
            "class_weight": class_weight,
            "metrics": metrics,
            "callbacks": callbacks,
            "progress": progress,
            "order": order,
            "halving": halving,
            "patience": patience,
            "min_delta": min_delta,
            "restore_best": restore_best,
            "validation_loss": validation_loss,
            "keep_predictions": keep_predictions,
        }
        if folds is not None:
            given = {"validation_data": validation_data, "train_rows": train_rows, "validation_rows": validation_rows}
            for name, value in given.items():
                if value is not None:
                    raise ValueError(f"{name} must be left out with folds, which say what networks are evaluated on")
            history = fit_folds(self, X, Y, folds, options)
        else:
            fit = PopulationFit(
                self,
                X,
                Y,
                validation_data=validation_data,
                train_rows=train_rows,
                validation_rows=validation_rows,
                **options,
            )
            history = fit.run()
        if history.interrupted:
            message = f"training was interrupted after {len(history)} of {epochs} epochs; the networks are usable"
            warnings.warn(message, RuntimeWarning, stacklevel=3 + _stacklevel)
        _warn_of_nonfinite(history.fold_history or history, stacklevel=4 + _stacklevel)
        return history

    def partial_fit(self, X: ArrayLike, Y: ArrayLike) -> PopulationHistory:
        """Train one pass over these rows, going on from where training is."""
        return self.fit(X, Y, progress=False)

    # ------------------------------------------------------------------ what steps are told

    def _begin_streams(self, order: str) -> Streams:
        """Return the streams of orders; the first call makes them, and the keys."""
        if self._streams is None:
            self._streams, keys = first_streams(self._seed, order, len(self.pop))
            self._order = order
            if self._key is None:
                self.key = keys
        return self._streams

    def _batch_sizes(self) -> np.ndarray:
        """Return the batch size of each network, int64."""
        sizes = [ALL_ROWS if size is None else size for size in self._columns["batch_size"]]
        return np.broadcast_to(np.array(sizes, np.int64), len(self.pop))

    def _updates(self) -> list[Update]:
        """Return the settings of the steps of each network; the same list while none changes.

        Networks with the same settings have the same object.
        """
        if self._last_updates is None:
            columns = {name: self._columns[name] for name in SETTINGS}
            has_noise = any(map(any, columns["dropout"])) or any(columns["input_noise"])
            columns["rate_scale"] = self._columns["lr_scale"]
            columns["key"] = np.unique(self.key).tolist() if has_noise else [0]
            if len(columns["key"]) > 1:
                columns["key"] = self.key.tolist()
            self._last_updates = _updates_of(self._optimizers, columns, self.on_nonfinite == "skip")
        return self._last_updates

    # ------------------------------------------------------------------ checkpoints

    def save_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Write all that is needed to resume exactly here, completely or not at all; see `Trainer.save_checkpoint`.

        Called by a callback, also which networks have stopped, their best parameters, and what other callbacks count.
        Meant for the end of an epoch, as in `callbacks.Checkpoint`.

        Parameters
        ----------
        path : str or Path

        Warns
        -----
        RuntimeWarning
            Where parameters are NaN or infinite.
        """
        if is_another_at_work(self._callers):
            raise RuntimeError("save_checkpoint was called while another thread trains: call it in a callback")
        if self._is_of_folds:
            raise RuntimeError("a training with folds cannot be resumed: save_checkpoint is not to be called in it")
        from importlib.metadata import version

        warn_if_members_nonfinite(self.pop, path)
        arrays = self._arrays()
        arrays |= {f"history {name}": values for name, values in self.history.items()}
        info = {
            **self._config(),
            "epochs": self.epochs,
            "lr_scale": self._columns["lr_scale"],
            "order": self._order,
            "rng": [],
            "versions": {"fastbp": version("fastbp"), "numpy": np.__version__},
        }
        if self._key is not None:
            arrays["key"] = self._key
        if self._streams is not None:
            used, of = np.unique(self._streams.of, return_inverse=True)
            arrays["stream_of"] = of.reshape(-1).astype(np.int64)
            info["rng"] = [checkpoints.generator_state(self._streams.generators[stream]) for stream in used.tolist()]
        fit = self._fit.state() if self._fit is not None and self._fit.has_begun else self._resumed
        if fit is not None:
            states, arrays_of_states = checkpoints.split_states(fit["callbacks"])
            arrays |= arrays_of_states
            arrays |= {f"fit {name}": fit[name] for name in ("best", "best_epoch", "last")}
            arrays |= {f"fit best_parameters {g}": kept for g, kept in enumerate(fit["best_parameters"])}
            info["fit"] = {"callbacks": states, **{name: fit[name] for name in ("epochs", "stopped", "ended")}}
        checkpoints.write(path, arrays, info)

    @exclusive
    def load_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Go on where `save_checkpoint` was called: with the same data, to the same bits.

        What was saved by a callback was within a call of `fit`: the next one goes on there, without the networks that
        had stopped.

        Parameters
        ----------
        path : str or Path

        Raises
        ------
        CheckpointError
            A ValueError: the file is damaged, or holds what no training writes.  Nothing is changed then.
        ValueError
            Where the population or the trainer is not like the one that was saved.  Nothing is changed then.

        Warns
        -----
        RuntimeWarning
            Where parameters are NaN or infinite.
        """
        pop, n = self.pop, len(self.pop)
        check_writable(pop, self.states)
        arrays, info = checkpoints.read(path)
        for name, here in self._config().items():
            if info.get(name) != here:
                raise ValueError(
                    f"checkpoint {os.fspath(path)!r} is of another training: {name} "
                    f"{checkpoints.short(info.get(name))}, here {checkpoints.short(here)}"
                )
        expected = self._arrays()
        try:
            history = checkpoints.check_population(info, arrays, n)
            generators = [checkpoints.restore_generator(state) for state in info["rng"]]
            fit = checkpoints.resumed_population_fit(info.get("fit"), arrays, n)
            best = {name: arrays.pop(name) for name in list(arrays) if name.startswith("fit best_parameters ")}
            if best:
                kept = {f"fit best_parameters {g}": group.parameters for g, group in enumerate(pop.groups)}
                checkpoints.check_arrays(best, kept)
            optional = {"key": np.zeros(n, np.uint64)} if "key" in arrays else {}
            if generators:
                optional |= {"key": np.zeros(n, np.uint64), "stream_of": np.zeros(n, np.int64)}
            checkpoints.check_arrays(arrays, expected | optional)
            checkpoints.check_population_arrays(arrays, len(generators))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"checkpoint {os.fspath(path)!r} holds what no training writes: {error}") from None
        for name, array in expected.items():
            array[...] = arrays[name]
        scales = info["lr_scale"]
        self.lr_scale = scales[0] if len(scales) == 1 else scales
        vars(self)["key"] = arrays.get("key")
        self._last_updates = None
        self._order, self.epochs = info["order"], info["epochs"]
        self._streams = Streams(generators, arrays["stream_of"]) if generators else None
        self._past, self._histories = history, []
        self._resumed = None
        if fit is not None:
            parameters = [best[f"fit best_parameters {g}"] for g in range(len(best))]
            self._resumed = {**fit, "best_parameters": parameters, "path": os.fspath(path)}
        warn_if_members_nonfinite(pop, path, stacklevel=4)

    def _arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of a checkpoint, by name, that each has."""
        arrays = {}
        for g, (group, state) in enumerate(zip(self.pop.groups, self.states, strict=True)):
            arrays[f"parameters {g}"] = group.parameters
            for name in ("buffers", "running_products", "step", "skipped"):
                arrays[f"{name} {g}"] = getattr(state, name)
        return arrays

    def _config(self) -> dict[str, Any]:
        """Return what two trainers must have in common for one to load a checkpoint of the other, as JSON has it."""
        pop = self.pop
        population = {
            "n_networks": len(pop),
            "sizes": [group.config.sizes for group in pop.groups],
            "activations": [list(map(str, group.config.activations)) for group in pop.groups],
            "architecture_of": pop._group_of.tolist(),
            "loss": pop.loss_name,
            "loss_settings": pop.loss_settings,
            "reduction": pop.reduction,
            "dtype": pop.dtype.name,
            "scale": pop.input_scale,
        }
        described = {id(optimizer): optimizers.described(optimizer) for optimizer in self._optimizers}
        of_each = [described[id(optimizer)] for optimizer in self._optimizers]
        config = {
            "population": population,
            "optimizer": of_each if len(set(of_each)) > 1 else of_each[0],
            "shuffle": self.shuffle,
            "on_nonfinite": self.on_nonfinite,
            **{name: self._columns[name] for name in ("batch_size", *SETTINGS)},
        }
        return json.loads(json.dumps(config))  # tuples become lists, as in the file

    def _repeated(self, k: int, order: str) -> PopulationTrainer:
        """Return a trainer of k copies of each network, one after the other, as far as this one has come."""
        n = len(self.pop)
        copies = copy.copy(self)
        vars(copies).update(
            pop=self.pop._taken(np.repeat(np.arange(n), k), self.pop.backend),
            _columns={name: list(np.repeat(_objects(c), k)) if len(c) > 1 else c for name, c in self._columns.items()},
            _optimizers=[optimizer for optimizer in self._optimizers for _ in range(k)],
            _past={},
            _histories=[],
            _resumed=None,
            _order=order,
            _is_of_folds=True,
        )
        for name, value in vars(self).items():
            if name in SETTINGS and isinstance(value, np.ndarray | tuple) and len(self._columns[name]) > 1:
                vars(copies)[name] = np.repeat(value, k) if isinstance(value, np.ndarray) else copies._columns[name]
        streams, key = self._streams, self._key
        if streams is None:
            streams, keys = first_streams(copied(self._seed), order, n)
            key = keys if key is None else key
        assert key is not None
        vars(copies).update(_streams=streams.repeated(k), key=np.repeat(key, k))
        vars(copies)["states"] = [state.repeated(k) for state in self.states]
        copies._begin_at_rest()
        return copies


for _name, _row in SETTINGS.items():
    _descriptor = _member_setting(_row.metadata["attribute"]._check)
    _descriptor.__set_name__(PopulationTrainer, _name)
    setattr(PopulationTrainer, _name, _descriptor)


def _updates_of(members: list[Optimizer], columns: dict[str, list], skips: bool) -> list[Update]:
    """Return an `Update` for each network, from columns of n_networks values, or of one for all."""
    n = len(members)
    rules: dict[int, dict[str, Any]] = {}  # by the object, of which many networks have the same
    for optimizer in members:
        if id(optimizer) not in rules:
            schedule, rates = optimizers.schedule_of(optimizer.lr)
            rules[id(optimizer)] = {
                "rule": optimizer.rule,
                "hyperparameters": optimizer.hyperparameters,
                "schedule": schedule,
                "rates": rates,
            }
    first = Update(**{name: column[0] for name, column in columns.items()}, **rules[id(members[0])], skips=skips)
    differing = {name: column for name, column in columns.items() if len(column) > 1}
    made: dict[tuple, Update] = {}
    result = []
    for optimizer, *values in zip(members, *differing.values(), strict=True):
        key = id(optimizer), *values
        if key not in made:
            # A copy: a dataclass of that many fields takes much longer to make.
            made[key] = update = Update.__new__(Update)
            vars(update).update(vars(first), **rules[id(optimizer)], **dict(zip(differing, values, strict=True)))
        result.append(made[key])
    assert len(result) == n
    return result


def _objects(values: list) -> np.ndarray:
    """Return an array of objects, also where these are tuples."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _warn_of_nonfinite(history: PopulationHistory, stacklevel: int) -> None:
    networks = np.flatnonzero(history.nonfinite).tolist()
    if networks:
        warnings.warn(
            f"training became non-finite in {named_networks(networks)} of {history.n_networks}: they stopped with "
            "their last finite parameters; a smaller lr may help",
            RuntimeWarning,
            stacklevel=stacklevel,
        )
