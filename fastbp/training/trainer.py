"""The `Trainer`: its settings, its checkpoints, and the loop over the epochs of a call of `fit`."""

from __future__ import annotations

import inspect
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from .. import arguments, checkpoints, checks, interrupts, optimizers
from ..attributes import Checked, Fixed
from ..backends import kernels_of
from ..callbacks import Callbacks
from ..checkpoints import CheckpointError
from ..files import warn_if_nonfinite
from ..losses import row_of
from ..metrics import Measures, named
from ..network import Network
from ..optimizers import FullBatchMethod, Optimizer
from ..reference.schedules import learning_rate, rate_at
from ..update import Setting, State, Update, UpdateSettings, at_least_0, settings_of
from . import fullbatch  # noqa: F401 (registers the loops of the full-batch methods)
from .exclusive import Callers, exclusive, is_another_at_work
from .history import History
from .holdout import check as check_fraction
from .holdout import hold_out
from .progress import is_silent, progress_bar
from .run import BAD_LABEL, UNWATCHED, Run, Steps, StreamRun, Watch, nonfinite_origin, take_arrays_of
from .streams import Stream

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

PREDICTED_NUMBERS = 1 << 30  # multiply-adds of one call that evaluates: Ctrl-C waits until it returns
NUMBERS_OF_A_NEURON = 256  # upper limit of what its activation and its loss cost, in multiply-adds
MAX_HISTORIES = 10_000  # of calls of fit, kept one by one
EPOCHS_WITHOUT_FALL = 10  # of the loss, by more than tol; n_iter_no_change of scikit-learn

_STATE_HINT = "make a new Trainer, or write into state.buffers and state.running_products"


class _Step(NamedTuple):
    """What the calls of `Trainer.step` share while no setting and no number of samples changes."""

    update: Update
    n_samples: int
    training: Any  # what the backend's `training` returns
    take_arrays: Callable[..., int | None] | None
    divisor: int  # of the sum of their losses


def _attribute(attribute: Checked, in_checkpoint: bool = False) -> dict[str, Any]:
    """Return the metadata of a field whose values a descriptor checks.

    Parameters
    ----------
    attribute : Checked
    in_checkpoint : bool
        Whether the trainer that loads a checkpoint must have the same value.
    """
    return {"attribute": attribute, "in_checkpoint": in_checkpoint}


def _network(trainer: Any, name: str, value: Any) -> Network:
    if not isinstance(value, Network):
        raise TypeError(f"net must be a fastbp.Network, got {value!r}")
    return value


def _optimizer(trainer: Any, name: str, value: Any) -> Optimizer | FullBatchMethod:
    """Check an optimizer, and that it can use the state of the one before."""
    checks.optimizer(value, optimizers.OPTIMIZERS)
    before = vars(trainer).get(name)
    if before is not None and not optimizers.share_state(before, value):
        raise ValueError(
            f"optimizer {value!r} remembers other numbers of each parameter than {before!r}, whose state "
            "this trainer has: make a new Trainer"
        )
    if isinstance(value, Optimizer):
        value.check_sizes(trainer.net.sizes)
    return value


def _positive_or_none(trainer: Any, name: str, value: Any) -> int | None:
    return None if value is None else arguments.integer(name, value)


def _flag(trainer: Any, name: str, value: Any) -> bool:
    return arguments.flag(name, value)


def _on_nonfinite(trainer: Any, name: str, value: Any) -> str:
    return arguments.name(name, value, ("stop", "raise", "skip"))


def _generator(trainer: Any, name: str, value: Any) -> np.random.Generator:
    return arguments.generator(name, value)


def _key(trainer: Any, name: str, value: Any) -> int:
    return arguments.integer(name, value, at_least=0)


@dataclass(eq=False, repr=False)
class _LoopSettings:
    """The settings that stand before those of `UpdateSettings` in the constructor of `Trainer`."""

    net: Network = field(metadata=_attribute(Fixed("make a new Trainer", _network)))
    optimizer: Optimizer | FullBatchMethod = field(metadata=_attribute(Setting(_optimizer)))
    batch_size: int | None = field(default=32, metadata=_attribute(Setting(_positive_or_none), in_checkpoint=True))
    shuffle: bool = field(default=True, metadata=_attribute(Setting(_flag), in_checkpoint=True))
    seed: InitVar[arguments.Seed] = None
    threads: int | None = field(default=None, metadata=_attribute(Setting(_positive_or_none)))


def _with_attributes(cls: type[Trainer]) -> type[Trainer]:
    """Have the descriptors of its fields check its attributes, and name all settings in its documentation."""
    for row in fields(cls):
        attribute = row.metadata["attribute"]
        attribute.__set_name__(cls, row.name)
        setattr(cls, row.name, attribute)
    delattr(_LoopSettings, "seed")  # a keyword, not an attribute
    signature = inspect.signature(cls.__init__)
    names = list(signature.parameters.values())[1:]
    cls.__signature__ = signature.replace(parameters=names)  # type: ignore[attr-defined] # not that of `__new__`
    if cls.__doc__ and UpdateSettings.__doc__:  # not under python -OO
        documentation = UpdateSettings.__doc__.split("----------\n")[1].rstrip()
        cls.__doc__ = cls.__doc__.replace("    UpdateSettings", documentation)
    return cls


@_with_attributes
@dataclass(eq=False, repr=False)
class Trainer(UpdateSettings, _LoopSettings):
    """Trains a network.

    Parameters
    ----------
    net : Network
        Changed in place.  For a `Population` this makes a `fastbp.training.population.PopulationTrainer`.
    optimizer : one of `fastbp.optimizers.OPTIMIZERS`
    batch_size : int or None
        Samples of one update: 1 is online, k is mini-batch; None, or no fewer than there are samples, is full
        batch.  The last, shorter batch of an epoch is trained too.
    shuffle : bool
        Draw a new order of the samples for each epoch.  In full batch the order has no meaning and none is drawn.
    seed : None, int, SeedSequence or Generator
        Source of the orders; a seed gives the same orders on both backends.
    threads : int or None
        Largest number of threads of the kernels; None: that of `get_num_threads`.  The result has the same bits for
        every number.
    UpdateSettings
    on_nonfinite : "stop", "raise" or "skip"
        What to do where the loss is not finite.  "stop" warns and ends the training; "raise" raises a
        FloatingPointError; both leave the network with its last finite parameters.  "skip" goes on without that
        update, as long as the parameters are finite.

    Attributes
    ----------
    epochs : int
        Epochs done by all calls so far.
    state : fastbp.update.State
        What the update rule remembers, and the number of steps.
    velocity : ndarray (n_parameters,) or None
        First buffer of the state, such as the running sum of the gradients; None where the rule has none.
    lr : float
        Step size of the next update.
    lr_scale : float
        Factor of the learning rate; may be set.
    rng : numpy.random.Generator
        Source of the orders; may be set.
    key : int
        Seed of dropout, noise and held-out rows; may be set.
    history : dict of list of float
        All that was recorded, by name, over all calls of `fit`.
    stop_training : bool
        Callbacks may set it to end the training.

    Notes
    -----
    Nothing but the arguments decides the result: not the speed of the machine, and not how epochs are divided
    among calls of `fit`.

    Every argument but `net` and `seed` is an attribute that may be set, and is checked then; the optimizer to one of
    the same class.  `net` and `state` cannot be replaced.
    """

    on_nonfinite: str = field(default="stop", metadata=_attribute(Setting(_on_nonfinite), in_checkpoint=True))
    lr_scale: float = field(init=False, metadata=_attribute(Setting(at_least_0)))
    rng: np.random.Generator = field(init=False, metadata=_attribute(Setting(_generator)))
    key: int = field(init=False, metadata=_attribute(Setting(_key)))
    state: State = field(init=False, metadata=_attribute(Fixed(_STATE_HINT)))

    def __new__(cls, net: Any = None, *arguments: Any, **options: Any) -> Any:
        """Return the trainer of a `Population` where that is to be trained."""
        trainer_class = getattr(net, "trainer_class", None)
        return object.__new__(cls) if trainer_class is None else trainer_class(net, *arguments, **options)

    def __post_init__(self, seed: arguments.Seed) -> None:
        """Begin with no steps done."""
        self.lr_scale = 1.0
        self.rng = arguments.generator("seed", seed)
        # A stream of its own, so that dropout and noise change nothing in the orders; they may be set later.
        self.key = int(self.rng.spawn(1)[0].integers(2**64, dtype=np.uint64))
        n_states, n_vectors = self.optimizer.n_states, self.optimizer.n_vectors
        self.state = State(n_states, self.net.parameters.size, self.net.dtype, n_vectors)
        self.epochs = 0
        self.stop_training = False
        self._past: dict[str, list[float]] = {}  # what was recorded, but for the calls of fit in the next list
        self._histories: list[History] = []
        self._resumed: dict[str, Any] | None = None  # what a call of fit knew, from a checkpoint
        self._begin_at_rest()

    def _begin_at_rest(self) -> None:
        """Set what is neither copied nor pickled."""
        self._callers: Callers = {}
        self._fit: _Fit | History | None = None  # the call of fit under way, or its history where it has no more
        self._last_run: Run | None = None  # at rest, for the next call of fit
        self._last_update: Update | None = None  # while no setting changes
        self._last_step: _Step | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to a call of `fit`."""
        transient = ("_callers", "_fit", "_last_run", "_last_update", "_last_step")
        return {name: value for name, value in vars(self).items() if name not in transient}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        """Take up a pickle; settings that its version did not have are off, others had other names."""
        kept = {"lr_scale" if name == "_lr_scale" else name: value for name, value in kept.items()}
        for name in ("_watchers", "_chunk"):  # version 0.1
            kept.pop(name, None)
        vars(self).update({row.name: row.metadata["off"] for row in fields(UpdateSettings)} | kept)
        self._begin_at_rest()

    @property
    def _is_full_batch(self) -> bool:
        """Whether the optimizer takes all samples at once and makes no single steps."""
        return isinstance(self.optimizer, FullBatchMethod)

    @property
    def velocity(self) -> np.ndarray | None:
        """First buffer of the update rule, or None."""
        return self.state.buffers[0] if len(self.state.buffers) else None

    @property
    def history(self) -> dict[str, list[float]]:
        """All that was recorded, a dict of lists by name, over all calls of `fit`; NaN where a call recorded none."""
        n = len(self._past.get("loss", []))
        result = {name: list(values) for name, values in self._past.items()}
        for history in self._histories:
            for name, values in history.recorded.items():
                result.setdefault(name, [np.nan] * n).extend(values)
            n += len(history)
            for values in result.values():
                values.extend([np.nan] * (n - len(values)))
        return result

    @property
    def lr(self) -> float:
        """Step size of the next update; methods of the full batch have none."""
        if isinstance(self.optimizer, FullBatchMethod):
            raise TypeError(f"{type(self.optimizer).__name__} has no learning rate")
        kind, rates = optimizers.schedule_of(self.optimizer.lr)
        if callable(rates):
            return rate_at(rates, self.state.step) * self.lr_scale
        out = np.empty(1)
        learning_rate(kind, rates, np.array([self.state.step]), out)
        return float(out[0]) * self.lr_scale

    @exclusive
    def fit(
        self,
        X: ArrayLike | Stream,
        Y: ArrayLike | None = None,
        epochs: int = 1,
        validation_data: Sequence[ArrayLike] | None = None,
        sample_weight: ArrayLike | None = None,
        class_weight: Mapping[Any, float] | str | None = None,
        metrics: str | Callable[..., float] | Sequence[str | Callable[..., float]] = (),
        callbacks: Sequence[Any] = (),
        tol: float | None = None,
        progress: bool | None = None,
        validation_fraction: float | None = None,
    ) -> History:
        """Train for some epochs, going on from where training is.

        Parameters
        ----------
        X : array_like (n_samples, n_in), or a `fastbp.stream`, which brings its targets
            float32, float64 and uint8 are read in place; other numeric data, such as a data frame, is converted once.
        Y : array_like (n_samples, n_out); with cross_entropy also class labels (n_samples,)
        epochs : int
        validation_data : (Xv, Yv), optional
            Without weights of their samples.
        sample_weight : array_like (n_samples,), optional
            Factors, at least 0, of the losses of the samples; a mean is still divided by the number of samples.
        class_weight : dict of class -> float, or "balanced", optional
            Factors of the losses by class, for labels, one-hot rows, or one output of 0 and 1, where True is 1 and
            False 0; classes left out have 1.  "balanced" is n_samples / (n_classes * n_samples of the class), over the
            classes that occur.
        metrics : sequence of str or function
            Names of `fastbp.metrics.METRICS`, any top_k, or functions ``(A, Y) -> float`` of the output activations and
            the targets.  Those of classes need targets that name classes: see `fastbp.metrics`.  Metrics and validation
            loss are without weights.
        callbacks : sequence of objects
            See `fastbp.callbacks.Callback`.
        tol : float, optional
            Stop when the loss of more than 10 epochs in a row is not below the least one before by more than this,
            as in scikit-learn.
        progress : bool or None
            Whether to show a progress bar (rich).  None: in a terminal, if rich is there and it takes long.
        validation_fraction : float, optional
            Hold out this fraction of the rows, in (0, 1), as `validation_data`: drawn at random, of each class alike;
            `key` decides, so all calls of `fit` on the same targets hold out the same rows, also where training is
            resumed.  With ``callbacks=[EarlyStopping(patience=10)]`` the network keeps the parameters of the epoch with
            the least validation loss.

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
        RuntimeError
            Called by a callback of this trainer, or by another thread, while it runs (as `step` and `load_checkpoint`
            are not to be, either).
        FloatingPointError
            With ``on_nonfinite="raise"``, instead of the warning.
        """
        history = History(self.epochs + 1)
        is_plain = validation_data is validation_fraction is class_weight is tol is None
        is_plain = is_plain and type(epochs) is int and epochs == 1
        try:
            if not (
                is_plain
                and _is_left_out(metrics)
                and _is_left_out(callbacks)
                and is_silent(progress)
                and self._fit_arrays(X, Y, sample_weight, history)
            ):
                _Fit(
                    self,
                    history,
                    X,
                    Y,
                    epochs=epochs,
                    validation_data=validation_data,
                    sample_weight=sample_weight,
                    class_weight=class_weight,
                    metrics=metrics,
                    callbacks=callbacks,
                    tol=tol,
                    progress=progress,
                    validation_fraction=validation_fraction,
                ).run()
        except KeyboardInterrupt:  # before training began, or after it ended
            history.interrupted, history.stopped = True, "interrupted"
        if history.interrupted:
            message = f"training was interrupted after {len(history)} of {epochs} epochs; the network is usable"
            warnings.warn(message, RuntimeWarning, stacklevel=3)
        return history

    def _fit_arrays(self, X: Any, Y: Any, sample_weight: Any, history: History) -> bool:
        """Train one epoch on arrays as they are, in one native call, like the last call of `fit`.

        Returns
        -------
        bool
            False where the call must go the longer way; then nothing was changed.
        """
        run = self._last_run
        if run is None or self._resumed is not None or type(X) is not np.ndarray or X.ndim != 2:
            return False
        if not run.is_for(self.net, self.state, self.batch_size, self.shuffle, len(X)):
            return False
        with interrupts.deferred():
            self._fit = history
            try:
                if not run.take_arrays(X, Y, sample_weight, history, self._update(), self.threads, self.rng):
                    return False
                self._keep(history)
                self.epochs, self.stop_training = self.epochs + 1, False
            finally:
                self._fit = None
        return True

    def partial_fit(self, X: ArrayLike | Stream, Y: ArrayLike | None = None) -> History:
        """Train one pass over these rows, going on from where training is.

        Returns
        -------
        History
            Of this one epoch.
        """
        return self.fit(X, Y, progress=False)

    @exclusive
    def step(self, X: ArrayLike, Y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Update once, on exactly these rows.

        Parameters
        ----------
        X, Y, sample_weight
            As for `fit`.

        Returns
        -------
        float
            The loss before the update.  Where it is not finite there is no update, and a RuntimeWarning, or, with
            ``on_nonfinite="raise"``, a FloatingPointError.
        """
        net, state, step = self.net, self.state, self._last_step
        if step is not None and step.update is self._last_update:
            if step.take_arrays is not None and step.take_arrays(X, Y, sample_weight) == 1:
                return step.training.loss_sum.item() / step.divisor
        elif step is None and self._is_full_batch:
            raise TypeError(f"{type(self.optimizer).__name__} makes no single steps: use fit")
        _check_writable(net, state)
        X, Y = _checked_data(net, X, Y)
        weights = checks.weights(sample_weight, None, Y, net.sizes[-1], net.dtype)
        if step is None or step.n_samples != len(X) or step.update is not self._last_update:
            step = self._prepare_step(len(X))
        losses, skipped = np.zeros(1), state.skipped
        n_steps = step.training(X, Y, weights, None, 0, 1, losses)
        if not n_steps or state.skipped > skipped:
            message = f"the loss of this step is not finite, first in {nonfinite_origin(net, X, Y)}: no update was made"
            if self.on_nonfinite == "raise":
                raise FloatingPointError(message)
            warnings.warn(message, RuntimeWarning, stacklevel=3)
            return float(losses[0]) if not np.isfinite(losses[0]) else float("nan")
        return losses.item() / step.divisor

    def _prepare_step(self, n_samples: int) -> _Step:
        """Return what steps on so many samples share, kept for the next one."""
        order = np.arange(n_samples, dtype=np.int64)
        update, threads = self._update(), self.threads or 0
        training = self.net._backend.training(
            self.net.parameters, self.state, batch_size=n_samples, order=order, update=update, threads=threads
        )
        divisor = n_samples if self.net.reduction == "mean" else 1
        self._last_step = step = _Step(update, n_samples, training, take_arrays_of(training), divisor)
        return step

    def save_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Write all that is needed to resume exactly here, completely or not at all; see `fastbp.checkpoints`.

        Parameters, the rule's state, the step of the schedule, the state of the generator, the history, and the
        versions it was made with; called by a callback, also what `tol` and the other callbacks count.  Meant for the
        end of an epoch, as in `callbacks.Checkpoint`.

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
        from importlib.metadata import version

        warn_if_nonfinite(self.net, path)
        arrays = self._arrays()
        info = {
            **self._config(),
            "step": self.state.step,
            "epochs": self.epochs,
            "key": self.key,
            "lr_scale": self.lr_scale,
            "rng": checkpoints.generator_state(self.rng),
            "history": self.history,
            "skipped": self.state.skipped,
            "versions": {"fastbp": version("fastbp"), "numpy": np.__version__},
        }
        fit = self._fit.state() if isinstance(self._fit, _Fit) and self._fit.has_begun else self._resumed
        if fit is not None:
            states, arrays_of_states = checkpoints.split_states(fit["callbacks"])
            arrays |= arrays_of_states
            info["fit"] = {"callbacks": states, "plateau": fit["plateau"], "stopped": fit["stopped"]}
        checkpoints.write(path, arrays, info)

    @exclusive
    def load_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Go on where `save_checkpoint` was called: with the same data, to the same bits.

        What was saved by a callback was within a call of `fit`: the next one goes on there, with `tol` and callbacks
        of the same classes counting on, and ends at once if they had ended it.

        Parameters
        ----------
        path : str or Path

        Raises
        ------
        CheckpointError
            A ValueError: the file is damaged, and the message names the newest sound one before it; or it holds what no
            training writes.  Nothing is changed then.  The next `fit` says so of the states of callbacks.
        ValueError
            Where the network or the trainer is not like the one that was saved.  Nothing is changed then.

        Warns
        -----
        RuntimeWarning
            Where parameters are NaN or infinite.
        """
        _check_writable(self.net, self.state)
        arrays, info = checkpoints.read(path)
        self._check_config(info, path)
        expected = self._arrays()
        try:
            checkpoints.check_training(info)
            rng, fit = checkpoints.restore_generator(info.get("rng")), checkpoints.resumed_fit(info.get("fit"), arrays)
            if "vectors" in expected:
                arrays.setdefault("vectors", np.zeros_like(expected["vectors"]))  # version 0.1 had none
            checkpoints.check_arrays(arrays, expected)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"checkpoint {os.fspath(path)!r} holds what no training writes: {error}") from None
        for name, array in expected.items():
            array[...] = arrays[name]
        self.rng, self.epochs, self.key, self.lr_scale = rng, info["epochs"], info["key"], info["lr_scale"]
        self.state.step, self.state.skipped = info["step"], info["skipped"]
        self._past, self._histories = info["history"], []
        self._resumed = None if fit is None else {**fit, "path": os.fspath(path)}
        warn_if_nonfinite(self.net, path, stacklevel=4)

    def _arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of a checkpoint, by name, but for those of callbacks."""
        arrays = {
            "parameters": self.net.parameters,
            "buffers": self.state.buffers,
            "memory": self.state.running_products,
        }
        return {**arrays, "vectors": self.state.vectors} if len(self.state.vectors) else arrays

    def _config(self) -> dict[str, Any]:
        """Return what two trainers must have in common for one to load a checkpoint of the other, as JSON has it."""
        net = self.net
        network = {
            "sizes": net.sizes,
            "activations": list(map(str, net.activations)),
            "loss": net.loss_name,
            "loss_settings": net.loss_settings,
            "reduction": net.reduction,
            "dtype": net.dtype.name,
            "scale": net.input_scale,
        }
        names = [row.name for row in fields(self) if row.metadata.get("in_checkpoint", True)]
        config = {
            "network": network,
            "optimizer": optimizers.described(self.optimizer),
            **{name: getattr(self, name) for name in names},
        }
        return json.loads(json.dumps(config))  # tuples become lists, as in the file

    def _check_config(self, info: dict[str, Any], path: str | os.PathLike[str]) -> None:
        """Refuse the checkpoint of another kind of trainer; settings that its version did not have are off."""
        info = {row.name: json.loads(json.dumps(row.metadata["off"])) for row in fields(UpdateSettings)} | info
        if isinstance(info.get("optimizer"), str):
            info["optimizer"] = optimizers.described_today(info["optimizer"])
        for key, here in self._config().items():
            if info.get(key) != here:
                raise ValueError(
                    f"checkpoint {os.fspath(path)!r} is of another training: {key} "
                    f"{checkpoints.short(info.get(key))}, here {here}"
                )

    def _update(self) -> Update:
        """Return the settings of every step for the backend; the same object while no setting changes."""
        if self._last_update is None:
            rule: dict[str, Any] = {}
            if not isinstance(self.optimizer, FullBatchMethod):
                schedule, rates = optimizers.schedule_of(self.optimizer.lr)
                rule = {"rule": self.optimizer.rule, "hyperparameters": self.optimizer.hyperparameters}
                rule |= {"schedule": schedule, "rates": rates}
            skips = self.on_nonfinite == "skip"
            self._last_update = Update(**settings_of(self), **rule, key=self.key, skips=skips, rate_scale=self.lr_scale)
        return self._last_update

    def _run(self, n_samples: int) -> Run:
        """Return a run over arrays: the last one, if that was like this one."""
        run, self._last_run = self._last_run, None
        if run is not None and run.is_for(self.net, self.state, self.batch_size, self.shuffle, n_samples):
            return run
        return Run(self.net, self.state, self.batch_size, np.arange(n_samples, dtype=np.int64), self.shuffle, run)

    def _keep(self, history: History) -> None:
        """Keep a history for `history`; many short ones together."""
        if len(self._histories) == MAX_HISTORIES:
            self._past, self._histories = self.history, []
        self._histories.append(history)

    def _forget(self, history: History) -> None:
        self._histories = [other for other in self._histories if other is not history]


class _Plateau:
    """Whether the loss does not fall any more, as scikit-learn's MLPs decide it."""

    def __init__(self, tol: float | None) -> None:
        self.tol, self.best, self.count = tol, np.inf, 0

    def is_reached(self, loss: float) -> bool:
        """Take the loss of an epoch."""
        if self.tol is None:
            return False
        self.count = self.count + 1 if loss > self.best - self.tol else 0
        self.best = min(self.best, loss)
        return self.count > EPOCHS_WITHOUT_FALL


class _Fit:
    """One call of `Trainer.fit`: its arguments, checked when it is made, and its epochs.

    Attributes
    ----------
    has_begun : bool
        Whether the callbacks know of it, and have their states from a checkpoint.
    """

    def __init__(
        self,
        trainer: Trainer,
        history: History,
        X: Any,
        Y: Any,
        *,
        epochs: Any,
        validation_data: Any,
        sample_weight: Any,
        class_weight: Any,
        metrics: Any,
        callbacks: Any,
        tol: Any,
        progress: Any,
        validation_fraction: Any,
    ) -> None:
        net = trainer.net
        self._trainer, self._history, self.has_begun = trainer, history, False
        _check_writable(net, trainer.state)
        self._epochs = arguments.integer("epochs", epochs)
        self._sets: list[tuple[str, np.ndarray, np.ndarray]] = []  # (prefix, X, Y) of what is evaluated
        self._weights = None
        is_stream = isinstance(X, Stream)
        check_fraction(validation_fraction, validation_data, is_stream)
        if is_stream:
            _check_stream(trainer, X, Y, self._epochs, sample_weight, class_weight, metrics, validation_data)
        else:
            X, Y = _checked_data(net, X, Y)
            self._weights = checks.weights(sample_weight, class_weight, Y, net.sizes[-1], net.dtype)
            if validation_fraction is not None:
                rows, held_out = hold_out(Y, validation_fraction, trainer.key)
                validation_data = X[held_out], Y[held_out]
                X, Y, self._weights = X[rows], Y[rows], None if self._weights is None else self._weights[rows]
            self._sets.append(("", X, Y))
        self._plateau = _Plateau(None if tol is None else arguments.number("tol", tol, at_least=0))
        if validation_data is not None:
            Xv, Yv = checks.validation_pair(validation_data)
            self._sets.append(("validation_", *_checked_data(net, Xv, Yv, "validation_data: X", "validation_data: Y")))
        metrics = {} if _is_left_out(metrics) else named(metrics)
        self._measures = self._measures_of(metrics) if metrics else None
        self._callbacks = _NO_CALLBACKS if _is_left_out(callbacks) else Callbacks(callbacks)
        self._bar = progress_bar(progress, self._epochs)
        sees_epochs, sees_batches = self._callbacks.sees_epochs, self._callbacks.sees_batches
        is_watched = sees_epochs or bool(metrics) or validation_data is not None or tol is not None
        self._watch = (
            Watch(is_watched, sees_batches, sees_batches or sees_epochs) if is_watched or sees_batches else UNWATCHED
        )
        self._steps: Steps | None = None
        if isinstance(trainer.optimizer, FullBatchMethod):
            trainer.optimizer.check(net, trainer._update())
        elif is_stream:
            batch_size = cast(int, trainer.batch_size)  # `_check_stream` refuses None
            self._steps = StreamRun(
                net, trainer.state, batch_size, X, trainer.shuffle, class_weight, self._watch, trainer._last_run
            )
        else:
            run = trainer._run(len(X))
            run.begin(X, Y, self._weights, self._epochs, self._watch, trainer.rng)
            self._steps = run
        if metrics or validation_data is not None:
            names = [prefix + name for prefix, *_ in self._sets for name in metrics]
            history.record(names, validation_data is not None)

    def _measures_of(self, metrics: dict[str, Any]) -> Measures:
        net, targets = self._trainer.net, [Y for _, _, Y in self._sets]
        takes_signs = row_of(net.loss_name).takes_signs
        return Measures(metrics, net.sizes[-1], targets, kernels_of(net.backend), takes_signs)

    def run(self) -> None:
        """Train; whatever ends it, trainer and history tell what was done."""
        trainer, history, callbacks = self._trainer, self._history, self._callbacks
        trainer._keep(history)
        trainer.stop_training = False
        resumed = trainer._resumed
        before = None if resumed is None else trainer.net.parameters.copy()
        try:
            trainer._fit = self
            callbacks.call("on_train_begin", trainer, history)
            if resumed is not None:
                self._resume(resumed)
            self.has_begun = True
            with self._bar as self._show:
                if self._steps is None:
                    self._minimize()
                else:
                    self._train(self._steps)
            if trainer.stop_training and history.stopped is None:
                history.stopped = "stop_training"
        except KeyboardInterrupt:
            history.interrupted, history.stopped = True, "interrupted"
        except BaseException:
            if not len(history):
                trainer._forget(history)
            raise
        finally:
            trainer.epochs = history.first_epoch - 1 + len(history)
            if self._steps is not None:
                trainer._last_run = self._steps.close()
            trainer._fit = None
            callbacks.call("on_train_end", trainer, history)
            if trainer._resumed is not None:  # it never began: the next call goes on
                trainer.net.parameters[:] = before

    def _resume(self, resumed: dict[str, Any]) -> None:
        """Go on within the call of `fit` that a checkpoint was written in."""
        trainer, plateau = self._trainer, self._plateau
        self._callbacks.load_states(resumed["callbacks"], resumed["path"])
        plateau.best, plateau.count = resumed["plateau"]
        stopped = resumed["stopped"]
        if stopped in self._callbacks.final or (stopped == "tol" and plateau.tol is not None):
            trainer.stop_training, self._history.stopped = True, stopped
        trainer._resumed = None

    def state(self) -> dict[str, Any]:
        """Return the part of a checkpoint from which another call resumes this one."""
        return {
            "callbacks": self._callbacks.states(),
            "plateau": (self._plateau.best, self._plateau.count),
            "stopped": self._history.stopped if self._trainer.stop_training else None,
        }

    def _train(self, steps: Steps) -> None:
        """Train step by step."""
        trainer, history, callbacks, watch = self._trainer, self._history, self._callbacks, self._watch
        while len(history) < self._epochs and not trainer.stop_training:
            if steps.is_between_epochs():
                callbacks.call("on_epoch_begin", trainer, history)
                if trainer.stop_training:
                    break
            n_done = len(history)
            with interrupts.deferred():
                steps.advance(history, trainer._update(), trainer.threads, trainer.rng)
            if history.nonfinite:
                break
            trainer.epochs += len(history) - n_done
            if watch.batches:
                callbacks.call("on_batch_end", trainer, history, trainer.state.step, steps.batch_loss)
            if watch.epochs and len(history) > n_done:
                if steps.is_nonfinite():
                    break
                self._end_epoch()
            else:
                self._show(history)
        if history.nonfinite or steps.is_nonfinite():
            with interrupts.deferred():
                self._end_nonfinite(steps)

    def _minimize(self) -> None:
        """Train by a method of the full batch, whose iterations are the epochs."""
        trainer, history, callbacks = self._trainer, self._history, self._callbacks
        ((_, X, Y),) = self._sets[:1]
        start = time.perf_counter()

        def after(loss: float) -> bool:
            nonlocal start
            history.add(np.array([loss]), 1, time.perf_counter() - start)
            trainer.epochs += 1
            self._end_epoch()
            if not trainer.stop_training and len(history) < self._epochs:
                callbacks.call("on_epoch_begin", trainer, history)
            start = time.perf_counter()
            return trainer.stop_training

        callbacks.call("on_epoch_begin", trainer, history)
        if trainer.stop_training:
            return
        state, update = trainer.state, trainer._update()
        stopped = cast(FullBatchMethod, trainer.optimizer).minimize(
            trainer.net,
            X,
            Y,
            self._epochs,
            after,
            update=update,
            weights=self._weights,
            running_products=state.running_products,
            vectors=state.vectors,
        )
        history.stopped = history.stopped or stopped
        if history.stopped == "nonfinite":
            history.nonfinite, history.stopped = True, "non-finite"
            message = "the loss is not finite at the parameters that training starts from: nothing was changed"
            if trainer.on_nonfinite == "raise":
                raise FloatingPointError(message)
            warnings.warn(message, RuntimeWarning, stacklevel=5)

    def _end_epoch(self) -> None:
        """Record losses and metrics of the epoch just done, and let `tol` and callbacks decide what follows."""
        trainer, history = self._trainer, self._history
        _evaluate(trainer.net, history, self._sets, self._measures)
        if self._plateau.is_reached(history.loss[-1]):
            trainer.stop_training, history.stopped = True, "tol"
        self._callbacks.call("on_epoch_end", trainer, history)
        self._show(history)

    def _end_nonfinite(self, steps: Steps) -> None:
        """Go back to the last finite step, and say where the first number that is not finite arose."""
        trainer, history = self._trainer, self._history
        history.nonfinite, history.stopped = True, "non-finite"
        epoch, batch = steps.seek_finite()
        history.truncate(epoch)
        origin = nonfinite_origin(trainer.net, *steps.next_data())
        advice = "a smaller lr may help"
        if origin == BAD_LABEL:
            advice = "Y was changed while it trained"
        elif trainer.state.step == 0 and origin != "the update":
            advice = "no update came before it: the cause is the scale of the data or the initial parameters, not lr"
        message = (
            f"training became non-finite in epoch {history.first_epoch + epoch} (batch {batch + 1}"
            f"{steps.of_batches}), step {trainer.state.step + 1}, first in {origin}: it ends, and the network keeps "
            f"the last finite parameters; {advice}"
        )
        if trainer.on_nonfinite == "raise":
            raise FloatingPointError(message)
        warnings.warn(message, RuntimeWarning, stacklevel=6)


def _evaluate(
    net: Network, history: History, sets: Iterable[tuple[str, np.ndarray, np.ndarray]], measures: Measures | None
) -> None:
    """Record metrics, and of validation data the loss too, in one pass over each set."""
    n_rows = max(1, PREDICTED_NUMBERS // (net.parameters.size + NUMBERS_OF_A_NEURON * sum(net.sizes)))
    for prefix, X, Y in sets:
        chunks = [(X[start : start + n_rows], Y[start : start + n_rows]) for start in range(0, len(X), n_rows)]
        losses: list[np.ndarray] = []
        if measures:
            for name, value in measures.of(_outputs(net, chunks, losses if prefix else None), Y).items():
                history.metrics[prefix + name].append(value)
        elif prefix:
            losses = [net._backend.losses(net.parameters, *chunk) for chunk in chunks]
        if prefix:
            history.validation_loss.append(net._reduced(np.concatenate(losses)))


def _outputs(net: Network, chunks: Iterable[tuple], losses: list[np.ndarray] | None) -> Iterator[tuple]:
    """Yield the outputs and targets of chunks of data; where `losses` is a list, the sample losses are added to it."""
    for X, Y in chunks:
        if losses is None:
            A = net._backend.predict(net.parameters, X)
        else:
            A, sample_losses = net._backend.outputs_and_losses(net.parameters, X, Y)
            losses.append(sample_losses)
        yield A, Y


def _checked_data(net: Network, X: Any, Y: Any, x_name: str = "X", y_name: str = "Y") -> tuple[np.ndarray, np.ndarray]:
    config = net._config
    sizes, dtype = config.sizes, config.dtype
    X = checks.samples(X, sizes[0], dtype, x_name)
    return X, checks.targets(Y, len(X), sizes[-1], net.loss_name, dtype, False, y_name)


def _check_stream(
    trainer: Trainer,
    stream: Stream,
    Y: Any,
    epochs: int,
    sample_weight: Any,
    class_weight: Any,
    metrics: Any,
    validation_data: Any,
) -> None:
    """Refuse arguments of `fit` that need all samples at once."""
    if Y is not None:
        raise TypeError("Y must be left out with a stream, which gives samples and targets")
    if trainer.batch_size is None:
        raise ValueError("batch_size=None is full batch, which takes all samples at once: a stream needs a number")
    if sample_weight is not None or class_weight == "balanced":
        raise ValueError(
            "sample_weight and class_weight='balanced' need all samples at once; with a stream, give "
            "class_weight as a dict"
        )
    if metrics and validation_data is None:
        raise ValueError("with a stream, metrics are taken on the validation data: give validation_data")
    if trainer._is_full_batch:
        raise ValueError(f"{type(trainer.optimizer).__name__} takes all samples at once: give arrays, not a stream")
    stream.check_epochs(epochs)


def _check_writable(net: Network, state: State) -> None:
    """Refuse to train where an array that is written to is read-only: kernels would write all the same."""
    parameters = net.parameters
    if (
        parameters.flags.writeable
        and state.buffers.flags.writeable
        and state.running_products.flags.writeable
        and state.vectors.flags.writeable
    ):
        return
    arrays = {
        "net.parameters": parameters,
        "state.buffers": state.buffers,
        "state.running_products": state.running_products,
        "state.vectors": state.vectors,
    }
    name = next(name for name, array in arrays.items() if not array.flags.writeable)
    raise ValueError(
        f"{name} is read-only, but training writes to it: set {name}.flags.writeable = True, or make a new one"
    )


_NO_CALLBACKS = Callbacks(())


def _is_left_out(value: Any) -> bool:
    """Whether it is the empty tuple of the defaults."""
    return isinstance(value, tuple) and not value
