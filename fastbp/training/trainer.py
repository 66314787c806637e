"""Training: what happens to a network over epochs, and the record of it."""

import json
import os
import sys
import threading
import time
import warnings
from functools import wraps
from importlib.metadata import version

import numpy as np

from .. import arguments, checkpoints, checks, interrupts, optimizers, reference
from ..attributes import Checked, Fixed
from ..backends import kernels_of
from ..callbacks import Callbacks
from ..checkpoints import CheckpointError
from ..files import warn_if_nonfinite
from ..losses import row_of
from ..metrics import Measures, named
from ..network import Network
from ..update import State, Update
from .history import History
from .progress import _progress_bar
from .run import _Plateau, _Run, _StreamRun
from .streams import Stream

PREDICTED_NUMBERS = 1 << 30  # multiply-adds of one call that evaluates: Ctrl-C waits until it returns
NUMBERS_OF_A_NEURON = 256  # as many as its activation costs, and its loss, at the most
DIAGNOSED_NUMBERS = 1 << 24  # numbers kept at once while looking for the first that is not finite
MAX_HISTORIES = 10_000  # of calls of fit, kept one by one
BAD_LABEL = "a label that is no class"


def _exclusive(method):
    """Let one call at a time change a Trainer: another, by a callback or another thread, is refused."""

    @wraps(method)
    def call(self, *arguments, **options):
        mine, callers = (os.getpid(), threading.get_ident()), self._callers
        try:
            # One indivisible step, which Ctrl-C cannot cut in two, unlike taking a lock and noting that it was taken.
            caller = callers.setdefault("at work", mine)
            if caller is not mine:
                if caller[0] != mine[0]:  # that call runs in the process that this one was forked from
                    callers["at work"] = mine
                elif caller[1] != mine[1] or self._watchers is not None:  # on_train_end may
                    raise RuntimeError(
                        f"{method.__name__} was called while fit of the same trainer runs: callbacks "
                        "may train another trainer"
                    )
            return method(self, *arguments, **options)
        finally:
            if callers.get("at work") is mine:
                del callers["at work"]

    return call


class _Setting(Checked):
    """An attribute that `Trainer._update` reads."""

    def __set__(self, trainer, value):
        super().__set__(trainer, value)
        trainer._last_update = None


def _setting(check):
    """Return an attribute that ``check(name, value)`` checks."""
    return _Setting(lambda trainer, name, value: check(name, value))


def _or_none(name, value):
    return None if value is None else arguments.integer(name, value)


def _at_least_0(name, value):
    return arguments.number(name, value, at_least=0)


def _optimizer(trainer, name, value):
    """Check an optimizer, and that it can go on with the state of the one before."""
    checks.optimizer(value, optimizers.OPTIMIZERS)
    before = vars(trainer).get(name)
    if before is not None and not optimizers.share_state(before, value):
        raise ValueError(
            f"optimizer {value!r} remembers other numbers of each parameter than {before!r}, whose state "
            "this trainer has: make a new Trainer"
        )
    return value


class Trainer:
    """Trains a network.

    Parameters
    ----------
    net : Network
        Changed in place.
    optimizer : one of `fastbp.optimizers.OPTIMIZERS`
    batch_size : int or None
        Samples of one update: 1 is online, k is mini-batch; None, or no fewer than there are samples, is full
        batch.  The last, shorter batch of an epoch is trained too.
    shuffle : bool
        Draw a new order of the samples for each epoch.  In full batch the order has no meaning and none is drawn.
    seed : None, int, SeedSequence or Generator
        Source of the orders; a seed gives the same orders on both backends.
    threads : int or None
        Most threads of the kernels; None: as many as `get_num_threads` says.  The result has the same bits for every
        number.
    l1, l2 : float
        Penalties l1 * sum |W| + l2 / 2 * sum W**2 (biases have none), of which only the gradients are added, once for
        each update; the loss is without them.
    dropout : float or sequence of float
        Share of the outputs of a layer that is dropped at random in training, in [0, 1); one number for every layer
        but the last, or one for each of these.  The others are divided by 1 - dropout (inverted dropout).
    clip_norm, clip_value : float or None
        Largest Euclidean norm of the whole gradient, largest absolute value of each of its elements; values first.
    max_norm : float or None
        Largest Euclidean norm of the weights into each neuron; larger ones are scaled down after the update.
    label_smoothing : float
        Share of the targets that is spread evenly over the classes, in [0, 1); for losses of classes.  With
        binary_cross_entropy these are yes and no, for each output.
    input_noise : float
        Standard deviation of the normal noise added to the inputs in training.
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

    net = Fixed("make a new Trainer")
    state = Fixed("make a new Trainer, or write into state.buffers and state.running_products")
    optimizer = _Setting(_optimizer)
    batch_size = _setting(_or_none)
    shuffle = _setting(arguments.flag)
    threads = _setting(_or_none)
    l1, l2 = _setting(_at_least_0), _setting(_at_least_0)
    dropout = _Setting(lambda trainer, name, value: checks.dropout(value, len(trainer.net.shapes)))
    clip_norm, clip_value, max_norm = _setting(arguments.limit), _setting(arguments.limit), _setting(arguments.limit)
    label_smoothing = _Setting(lambda trainer, name, value: checks.label_smoothing(value, trainer.net.loss_name))
    input_noise, lr_scale = _setting(_at_least_0), _setting(_at_least_0)
    on_nonfinite = _setting(lambda name, value: arguments.name(name, value, ("stop", "raise", "skip")))
    rng = _setting(arguments.generator)
    key = _setting(lambda name, value: arguments.integer(name, value, at_least=0))

    def __init__(
        self,
        net,
        optimizer,
        batch_size=32,
        shuffle=True,
        seed=None,
        threads=None,
        l1=0.0,
        l2=0.0,
        dropout=0.0,
        clip_norm=None,
        clip_value=None,
        max_norm=None,
        label_smoothing=0.0,
        input_noise=0.0,
        on_nonfinite="stop",
    ):
        if not isinstance(net, Network):
            raise TypeError(f"net must be a fastbp.Network, got {net!r}")
        vars(self)["net"] = net
        self.optimizer, self.batch_size, self.shuffle, self.threads = optimizer, batch_size, shuffle, threads
        self.l1, self.l2, self.dropout = l1, l2, dropout
        self.clip_norm, self.clip_value, self.max_norm = clip_norm, clip_value, max_norm
        self.label_smoothing, self.input_noise, self.on_nonfinite = label_smoothing, input_noise, on_nonfinite
        self.lr_scale = 1.0
        self.rng = arguments.generator("seed", seed)
        # A stream of its own, so that dropout and noise change nothing in the orders; they may be set later.
        self.key = int(self.rng.spawn(1)[0].integers(2**64, dtype=np.uint64))
        self.epochs = 0
        vars(self)["state"] = State(optimizer.n_states, net.parameters.size, net.dtype, optimizer.n_vectors)
        self.stop_training = False
        self._watchers = None  # while fit runs: its Callbacks and its _Plateau, or () before they begin
        self._callers = {}  # process and thread of who is "at work", if anybody
        self._resumed = None  # from a checkpoint: what they knew
        self._last_run = None  # at rest, for the next call of fit
        self._past: dict[str, list] = {}  # what was recorded, but for the calls of fit in the next list
        self._histories: list[History] = []
        self._chunk = 1  # steps of one native call; grows until a call takes CHUNK_SECONDS

    def __getstate__(self):
        """Leave behind what belongs to a call of `fit`."""
        return {**self.__dict__, "_watchers": None, "_last_run": None, "_callers": {}}

    def __setstate__(self, kept):
        """Take it up; version 0.1 kept `lr_scale` under another name."""
        vars(self).update({"_callers": {}, **kept, "_last_update": None})
        if "_lr_scale" in kept:
            vars(self)["lr_scale"] = vars(self).pop("_lr_scale")

    @property
    def _is_full_batch(self):
        """Whether the optimizer takes all samples at once and makes no single steps."""
        return hasattr(self.optimizer, "minimise")

    @property
    def velocity(self):
        """First buffer of the update rule, or None."""
        return self.state.buffers[0] if len(self.state.buffers) else None

    @property
    def history(self):
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
    def lr(self):
        """Step size of the next update; methods of the full batch have none."""
        if self._is_full_batch:
            raise TypeError(f"{type(self.optimizer).__name__} has no learning rate")
        kind, rates = optimizers.schedule_of(self.optimizer.lr)
        out = np.empty(1)
        reference.learning_rate(kind, rates, np.array([self.state.step]), out)
        return float(out[0]) * self.lr_scale

    @_exclusive
    def fit(
        self,
        X,
        Y=None,
        epochs=1,
        validation_data=None,
        sample_weight=None,
        class_weight=None,
        metrics=(),
        callbacks=(),
        tol=None,
        progress=None,
    ):
        """Train for some epochs, going on from where training is.

        Parameters
        ----------
        X : array_like (n_samples, n_in), or a `fastbp.stream`, which brings its targets
            float32, float64 and uint8 are read where they are; what else holds numbers, such as a data frame, is
            converted once.
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
        try:
            self._fit(
                history, X, Y, epochs, validation_data, sample_weight, class_weight, metrics, callbacks, tol, progress
            )
        except KeyboardInterrupt:  # before training began, or after it ended
            history.interrupted, history.stopped = True, "interrupted"
        if history.interrupted:
            message = f"training was interrupted after {len(history)} of {epochs} epochs; the network is usable"
            warnings.warn(message, RuntimeWarning, stacklevel=3)
        return history

    def _fit(
        self, history, X, Y, epochs, validation_data, sample_weight, class_weight, metrics, callbacks, tol, progress
    ):
        """Check the arguments of `fit`, train, and write what was done into `history`."""
        net = self.net
        self._check_arrays()
        epochs = arguments.integer("epochs", epochs)
        is_stream = isinstance(X, Stream)
        if is_stream:
            self._check_stream(X, Y, epochs, sample_weight, class_weight, metrics, validation_data)
            sets = []
        else:
            X, Y = self._data(X, Y)
            weights, sets = checks.weights(sample_weight, class_weight, Y, net.sizes[-1], net.dtype), [("", X, Y)]
        tol = None if tol is None else arguments.number("tol", tol, at_least=0)
        if validation_data is not None:
            pair = checks.validation_pair(validation_data)
            sets.append(("validation_", *self._data(*pair, "validation_data: X", "validation_data: Y")))
        metrics = {} if _is_left_out(metrics) else named(metrics)
        measures = (
            Measures(
                metrics,
                net.sizes[-1],
                [Y for _, _, Y in sets],
                kernels_of(net.backend),
                row_of(net.loss_name).takes_signs,
            )
            if metrics
            else None
        )
        callbacks = _NO_CALLBACKS if _is_left_out(callbacks) else Callbacks(callbacks)
        bar = _progress_bar(progress, epochs)
        update = self._update()
        if self._is_full_batch:
            self.optimizer.check(net, update)
        run = _StreamRun(self, X, class_weight) if is_stream else self._run(X, Y, weights, epochs)
        history.metrics = {prefix + name: [] for prefix, *_ in sets for name in metrics}
        history._has_validation = validation_data is not None
        self._remember(history)
        one_batch = callbacks.has("on_batch_end")
        has_events = callbacks.has("on_epoch_begin", "on_epoch_end")
        watched = bool(metrics) or validation_data is not None or tol is not None or has_events
        plateau = _Plateau(tol)
        self.stop_training = False

        def evaluate():
            self._evaluate(history, sets, measures)
            if tol is not None and plateau.is_reached(history.loss[-1]):
                self.stop_training, history.stopped = True, "tol"
            callbacks.call("on_epoch_end", self, history)
            show(history)

        resumed = self._resumed
        before = None if resumed is None else self.net.parameters.copy()
        try:
            self._watchers = ()
            callbacks.call("on_train_begin", self, history)
            if resumed is not None:
                callbacks.load_states(resumed["callbacks"], resumed["path"])
                plateau.best, plateau.count = resumed["plateau"]
                if resumed["stopped"] in callbacks.final or (resumed["stopped"] == "tol" and tol is not None):
                    self.stop_training, history.stopped = True, resumed["stopped"]
                self._resumed = None
            self._watchers = callbacks, plateau
            with bar as show:
                if self._is_full_batch:
                    self._minimize(X, Y, weights, epochs, history, callbacks, evaluate)
                    epochs = len(history)
                while len(history) < epochs and not (self.stop_training or history.nonfinite):
                    if run.is_between_epochs():
                        callbacks.call("on_epoch_begin", self, history)
                        if self.stop_training:
                            break
                    n_done = len(history)
                    with interrupts.deferred():
                        run.advance(history, watched or self.on_nonfinite == "skip", one_batch, one_batch or has_events)
                    if history.nonfinite:
                        break
                    self.epochs += len(history) - n_done
                    if one_batch:
                        callbacks.call("on_batch_end", self, history, self.state.step, run.batch_loss)
                    if watched and len(history) > n_done:
                        if run.not_finite():
                            break
                        evaluate()
                    else:
                        show(history)
                if not self._is_full_batch and (history.nonfinite or run.not_finite()):
                    with interrupts.deferred():
                        self._end(run, history)
            if self.stop_training and history.stopped is None:
                history.stopped = "stop_training"
        except KeyboardInterrupt:
            history.interrupted, history.stopped = True, "interrupted"
        except BaseException:
            if not len(history):
                self._histories = [other for other in self._histories if other is not history]
            raise
        finally:
            self.epochs = history.first_epoch - 1 + len(history)
            run.close()
            self._watchers = None
            callbacks.call("on_train_end", self, history)
            if self._resumed is not None:  # it never began: the next call goes on
                self.net.parameters[:] = before

    def partial_fit(self, X, Y=None):
        """Train one pass over these rows, going on from where training is.

        Returns
        -------
        History
            Of this one epoch.
        """
        return self.fit(X, Y, progress=False)

    @_exclusive
    def step(self, X, Y):
        """Update once, on exactly these rows.

        Returns
        -------
        float
            The loss before the update.  Where it is not finite there is no update, and a RuntimeWarning, or, with
            ``on_nonfinite="raise"``, a FloatingPointError.
        """
        if self._is_full_batch:
            raise TypeError(f"{type(self.optimizer).__name__} makes no single steps: use fit")
        self._check_arrays()
        X, Y = self._data(X, Y)
        losses = np.zeros(1)
        training = self._training(len(X), np.arange(len(X), dtype=np.int64))
        with interrupts.deferred():
            n_made = self._made(training, X, Y, None, None, 0, 1, losses)
        if not n_made:
            message = f"the loss of this step is not finite, first in {self._origin(X, Y)}: no update was made"
            if self.on_nonfinite == "raise":
                raise FloatingPointError(message)
            warnings.warn(message, RuntimeWarning, stacklevel=3)
            return float(losses[0]) if not np.isfinite(losses[0]) else float("nan")
        return float(losses[0] / (len(X) if self.net.reduction == "mean" else 1))

    def save_checkpoint(self, path):
        """Write all that is needed to go on exactly here, at once or not at all; see `fastbp.checkpoints`.

        Parameters, the rule's state, the place in the schedule, the state of the generator, the history, and the
        versions it was made with; called by a callback, also what `tol` and the other callbacks count.  Meant for the
        border of an epoch, as in `callbacks.Checkpoint`.

        Parameters
        ----------
        path : str or Path

        Warns
        -----
        RuntimeWarning
            Where parameters are NaN or infinite.
        """
        caller = self._callers.get("at work")
        if caller is not None and caller[0] == os.getpid() and caller[1] != threading.get_ident():
            raise RuntimeError("save_checkpoint was called while another thread trains: call it in a callback")
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
        fit = self._resumed
        if self._watchers:
            callbacks, plateau = self._watchers
            stopped = self._histories[-1].stopped if self.stop_training else None
            fit = {"callbacks": callbacks.states(), "plateau": (plateau.best, plateau.count), "stopped": stopped}
        if fit is not None:
            states = []
            for i, (name, state) in enumerate(fit["callbacks"]):
                of_state = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
                arrays |= {f"callback {i} {key}": value for key, value in of_state.items()}
                try:
                    rest = checkpoints._as_json({key: value for key, value in state.items() if key not in of_state})
                    json.dumps(rest)
                except TypeError as error:
                    raise TypeError(f"state_dict of {name} must hold arrays and what JSON can hold: {error}") from None
                states.append((name, rest))
            info["fit"] = {"callbacks": states, "plateau": fit["plateau"], "stopped": fit["stopped"]}
        checkpoints.write(path, arrays, info)

    @_exclusive
    def load_checkpoint(self, path):
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
        self._check_arrays()
        arrays, info = checkpoints.read(path)
        for key, here in self._config().items():
            if info.get(key) != here:
                raise ValueError(
                    f"checkpoint {os.fspath(path)!r} is of another training: {key} "
                    f"{checkpoints._short(info.get(key))}, here {here}"
                )
        try:
            _check_info(info)
            rng, resumed = checkpoints.restore_generator(info.get("rng")), _resumed_fit(info.get("fit"), arrays)
            ours = self._arrays()
            if "vectors" in ours:
                arrays.setdefault("vectors", np.zeros_like(ours["vectors"]))  # version 0.1 kept none
            if set(arrays) != set(ours):
                raise CheckpointError(f"its arrays must be {', '.join(ours)}, found {checkpoints._short(list(arrays))}")
            for name, array in ours.items():
                if arrays[name].shape != array.shape or arrays[name].dtype != array.dtype:
                    raise CheckpointError(
                        f"array {name!r} must be {array.dtype} {array.shape}, found "
                        f"{arrays[name].dtype} {arrays[name].shape}"
                    )
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"checkpoint {os.fspath(path)!r} holds what no training writes: {error}") from None
        for name, array in ours.items():
            array[...] = arrays[name]
        state = self.state
        self.rng, self.epochs, self.key, self.lr_scale = rng, info["epochs"], info["key"], info["lr_scale"]
        state.step, state.skipped, self._past, self._histories = info["step"], info["skipped"], info["history"], []
        self._resumed = None if resumed is None else {**resumed, "path": os.fspath(path)}
        warn_if_nonfinite(self.net, path, stacklevel=4)

    def _arrays(self):
        """Return the arrays of a checkpoint, by name, but for those of callbacks."""
        arrays = {
            "parameters": self.net.parameters,
            "buffers": self.state.buffers,
            "memory": self.state.running_products,
        }
        return {**arrays, "vectors": self.state.vectors} if len(self.state.vectors) else arrays

    def _remember(self, history):
        """Keep a history for `history`; many short ones together."""
        if len(self._histories) == MAX_HISTORIES:
            self._past, self._histories = self.history, []
        self._histories.append(history)

    def _config(self):
        """Return what two trainers must have in common for one to go on where the other was."""
        net = self.net
        config = {
            "network": {
                "sizes": net.sizes,
                "activations": list(map(str, net.activations)),
                "loss": net.loss_name,
                "loss_settings": net.loss_settings,
                "reduction": net.reduction,
                "dtype": net.dtype.name,
                "scale": net.input_scale,
            },
            "optimizer": optimizers.described(self.optimizer),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "l1": self.l1,
            "l2": self.l2,
            "dropout": self.dropout,
            "clip_norm": self.clip_norm,
            "clip_value": self.clip_value,
            "max_norm": self.max_norm,
            "label_smoothing": self.label_smoothing,
            "input_noise": self.input_noise,
            "on_nonfinite": self.on_nonfinite,
        }
        return json.loads(json.dumps(config))  # tuples become lists, as in the file

    def _check_stream(self, stream, Y, epochs, sample_weight, class_weight, metrics, validation_data):
        if Y is not None:
            raise TypeError("Y must be left out with a stream, which gives samples and targets")
        if self.batch_size is None:
            raise ValueError("batch_size=None is full batch, which takes all samples at once: a stream needs a number")
        if sample_weight is not None or class_weight == "balanced":
            raise ValueError(
                "sample_weight and class_weight='balanced' need all samples at once; with a stream, give "
                "class_weight as a dict"
            )
        if metrics and validation_data is None:
            raise ValueError("with a stream, metrics are taken on the validation data: give validation_data")
        if self._is_full_batch:
            raise ValueError(f"{type(self.optimizer).__name__} takes all samples at once: give arrays, not a stream")
        stream.check_epochs(epochs)

    def _check_arrays(self):
        """Refuse to train where an array that is written to cannot be: kernels would write all the same."""
        parameters, state = self.net.parameters, self.state
        if (
            parameters.flags.writeable
            and state.buffers.flags.writeable
            and state.running_products.flags.writeable
            and state.vectors.flags.writeable
        ):
            return
        name = next(
            name
            for name, array in (
                ("net.parameters", parameters),
                ("state.buffers", state.buffers),
                ("state.running_products", state.running_products),
                ("state.vectors", state.vectors),
            )
            if not array.flags.writeable
        )
        raise ValueError(
            f"{name} is read-only, but training writes to it: set {name}.flags.writeable = True, or make a new one"
        )

    def _data(self, X, Y, *names):
        net = self.net
        X = checks.samples(X, net.sizes[0], net.dtype, *names[:1])
        return X, checks.targets(Y, len(X), net.sizes[-1], net.loss_name, net.dtype, False, *names[1:])

    def _update(self):
        """Put together what the backend is told of every step; the same object while nothing changes."""
        if self._last_update is not None:
            return self._last_update
        rule, hyperparameters, schedule = "sgd", (), ("constant", (0.0,))
        if not self._is_full_batch:
            rule, hyperparameters = self.optimizer.rule, self.optimizer.hyperparameters
            schedule = optimizers.schedule_of(self.optimizer.lr)
        self._last_update = Update(
            rule,
            hyperparameters,
            *schedule,
            self.l1,
            self.l2,
            self.clip_value,
            self.clip_norm,
            self.max_norm,
            self.dropout,
            self.label_smoothing,
            self.input_noise,
            self.key,
            self.on_nonfinite == "skip",
            self.lr_scale,
        )
        return self._last_update

    def _training(self, batch_size, order):
        """Return the backend's function that trains; see `NumpyBackend.training`."""
        net = self.net
        return net._backend.training(
            net.parameters,
            self.state,
            batch_size=batch_size,
            order=order,
            update=self._update(),
            threads=self.threads or 0,
        )

    def _made(self, training, *call):
        """Train; return the steps made, without skipped ones."""
        skipped = self.state.skipped
        return training(*call) - (self.state.skipped - skipped)

    def _run(self, X, Y, weights, epochs, order=None):
        """Return a `_Run` that is ready to begin: the last one, if it was like this one."""
        run, self._last_run = self._last_run, None
        if order is not None:
            run = _Run(self, order, None, run)
        elif run is None or not run.is_for(self, len(X)):
            run = _Run(self, np.arange(len(X), dtype=np.int64), self.shuffle, run)
        run.begin(self, X, Y, weights, epochs)
        return run

    def _minimize(self, X, Y, weights, epochs, history, callbacks, evaluate):
        """Train by a method of the full batch, whose iterations are the epochs."""
        start = time.perf_counter()

        def after(loss):
            nonlocal start
            history._add(np.array([loss]), 1, time.perf_counter() - start)
            self.epochs += 1
            evaluate()
            if not self.stop_training and len(history) < epochs:
                callbacks.call("on_epoch_begin", self, history)
            start = time.perf_counter()
            return self.stop_training

        callbacks.call("on_epoch_begin", self, history)
        if not self.stop_training:
            stopped = self.optimizer.minimize(
                self.net,
                X,
                Y,
                epochs,
                after,
                update=self._update(),
                weights=weights,
                running_products=self.state.running_products,
                vectors=self.state.vectors,
            )
            history.stopped = history.stopped or stopped
        if history.stopped == "nonfinite":
            history.nonfinite, history.stopped = True, "non-finite"
            message = "the loss is not finite at the parameters that training starts from: nothing was changed"
            if self.on_nonfinite == "raise":
                raise FloatingPointError(message)
            warnings.warn(message, RuntimeWarning, stacklevel=5)

    def _evaluate(self, history, sets, measures):
        """Losses and metrics of the epoch just done, in one pass over each set."""
        backend, parameters = self.net._backend, self.net.parameters
        for prefix, X, Y in sets:
            rows = max(1, PREDICTED_NUMBERS // (parameters.size + NUMBERS_OF_A_NEURON * sum(self.net.sizes)))
            pieces = [(X[start : start + rows], Y[start : start + rows]) for start in range(0, len(X), rows)]
            losses = []
            if measures:
                for name, value in measures.of(self._outputs(pieces, losses if prefix else None), Y).items():
                    history.metrics[prefix + name].append(value)
            elif prefix:
                losses = [backend.losses(parameters, *piece) for piece in pieces]
            if prefix:
                history.validation_loss.append(self.net._reduced(np.concatenate(losses)))

    def _outputs(self, pieces, losses):
        """Yield the outputs and targets of pieces of data; where `losses` is a list, those of the samples go there."""
        backend, parameters = self.net._backend, self.net.parameters
        for X, Y in pieces:
            if losses is None:
                A = backend.predict(parameters, X)
            else:
                A, of_samples = backend.outputs_and_losses(parameters, X, Y)
                losses.append(of_samples)
            yield A, Y

    def _end(self, run, history):
        """End a training that is not finite: lead it back, and say where that began."""
        history.nonfinite, history.stopped = True, "non-finite"
        epoch, batch = run.back_to_finite()
        history._keep(epoch)
        origin = self._origin(*run.data_of_next())
        advice = "a smaller lr may help"
        if origin == BAD_LABEL:
            advice = "Y was changed while it trained"
        elif self.state.step == 0 and origin != "the update":
            advice = "no update came before it: the cause is the scale of the data or the initial parameters, not lr"
        message = (
            f"training became non-finite in epoch {history.first_epoch + epoch} (batch {batch + 1}"
            f"{run.of_batches}), step {self.state.step + 1}, first in {origin}: it ends, and the network keeps "
            f"the last finite parameters; {advice}"
        )
        if self.on_nonfinite == "raise":
            raise FloatingPointError(message)
        warnings.warn(message, RuntimeWarning, stacklevel=5)

    def _origin(self, X, Y):
        """Name where the first number that is not finite arises when these samples pass through the network."""
        net = self.net
        places = []
        rows = max(1, DIAGNOSED_NUMBERS // sum(net.sizes))
        with np.errstate(all="ignore"):
            for piece in (slice(start, start + rows) for start in range(0, len(X), rows)):
                record = net._backend.record(net.parameters, X[piece])
                arrays = [array for pair in zip(record.Z, record.A[1:], strict=True) for array in pair]
                places += [i for i, array in enumerate(arrays) if not checks.is_finite(array)][:1]
            if places:
                return f"{'ZA'[min(places) % 2]} of layer {min(places) // 2 + 1}"
            if Y.ndim == 1 and not ((Y >= 0) & (Y < net.sizes[-1])).all():
                return BAD_LABEL
            losses, gradient = net._backend.gradient(net.parameters, X, Y)
            if not np.isfinite(losses.sum()):
                return "the loss, of finite outputs"
        return "the update" if checks.is_finite(gradient) else "the gradient"


def _check_info(info):
    """Check the fields of a checkpoint that `Trainer._config` does not compare; ValueError."""
    for name, below in (("step", 1 << 62), ("epochs", 1 << 62), ("skipped", 1 << 62), ("key", 1 << 64)):
        checkpoints.check_number(name, info.get(name), is_integer=True, at_least=0, below=below)
    checkpoints.check_number("lr_scale", info.get("lr_scale"), at_least=0, below=sys.float_info.max)
    history = info.get("history")
    if not isinstance(history, dict) or not all(isinstance(values, list) for values in history.values()):
        raise CheckpointError(f"history must be an object of lists, got {checkpoints._short(history)}")
    if len({*map(len, history.values())}) > 1 or (history and "loss" not in history):
        raise CheckpointError("history must have a loss, and all its lists must be of one length")
    for name, values in history.items():
        for value in values:
            checkpoints.check_number(f"history {name!r}", value)


def _resumed_fit(fit, arrays):
    """Return what a call of `fit` knew, its arrays taken from those of the checkpoint, or None; ValueError."""
    if fit is None:
        return None
    if not isinstance(fit, dict) or set(fit) != {"callbacks", "plateau", "stopped"}:
        raise CheckpointError(f"fit must have callbacks, plateau and stopped, got {checkpoints._short(fit)}")
    plateau, stopped, states = fit["plateau"], fit["stopped"], fit["callbacks"]
    if not isinstance(plateau, list) or len(plateau) != 2:
        raise CheckpointError(f"plateau must be a loss and a count, got {checkpoints._short(plateau)}")
    checkpoints.check_number("best loss", plateau[0])
    checkpoints.check_number("plateau", plateau[1], is_integer=True, at_least=0, below=1 << 62)
    if not isinstance(stopped, str | None):
        raise CheckpointError(f"stopped must be a text or null, got {checkpoints._short(stopped)}")
    if not isinstance(states, list) or not all(
        isinstance(pair, list) and list(map(type, pair)) == [str, dict] for pair in states
    ):
        raise CheckpointError(f"callbacks must be pairs of a name and an object, got {checkpoints._short(states)}")
    callbacks = []
    for i, (name, state) in enumerate(states):
        start = f"callback {i} "
        keys = [key for key in arrays if key.startswith(start)]
        of_state = {key[len(start) :]: arrays.pop(key) for key in keys}
        state = checkpoints._from_json(state)
        if not isinstance(state, dict):
            raise CheckpointError(f"the state of {checkpoints._short(name)} must be an object")
        callbacks.append((name, state | of_state))
    return {**fit, "callbacks": callbacks}


# ------------------------------------------------------------------ the progress bar


_NO_CALLBACKS = Callbacks(())


def _is_left_out(value):
    """Whether it is the empty tuple of the defaults."""
    return isinstance(value, tuple) and not value
