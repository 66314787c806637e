"""What the classifier and the regressor share: parameters, the networks they build, training, and their state."""

from __future__ import annotations

import functools
import math
import operator
import time
import warnings
from multiprocessing import current_process
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
from joblib.parallel import get_active_backend
from sklearn.base import BaseEstimator, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from .. import checks
from ..activations import Activation
from ..callbacks import Callbacks
from ..network import Network
from ..optimizers import LBFGS, AdamEpsHat, ClassicalSGD
from ..reference.layout import layer_views
from ..training.history import History
from ..training.trainer import Trainer
from . import functions
from .data import Data, Objective, loss_limit, outputs
from .rollback import rolled_back
from .solvers import Epochs, LearningRate, minimize, moved

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands for scikit-learn's own."""


STOCHASTIC_SOLVERS = ("sgd", "adam")
AUTO_BATCH_SIZE = 200
MIN_VALIDATION_SAMPLES = 2
FLOATS = (np.float64, np.float32)


def _is_stochastic(estimator: Any) -> bool:
    if estimator.solver not in STOCHASTIC_SOLVERS:
        raise AttributeError(
            f"partial_fit is only available for stochastic optimizers. {estimator.solver} is not stochastic."
        )
    return True


def _is_in_worker() -> bool:
    """Whether joblib runs this in one of its workers; a process that it started then computes on one thread."""
    if not get_active_backend()[0].nesting_level:
        return False
    if current_process().name != "MainProcess":
        from ..engine.threads import get_num_threads, set_num_threads  # which the first training would import

        if get_num_threads() > 1:
            set_num_threads(1)
    return True


class Validation(NamedTuple):
    """Data that are evaluated after each epoch, and whether they decide when to stop."""

    data: Data
    decides: bool


class BaseMLP(CallbackSupportMixin, BaseEstimator):
    """Base class of `MLPClassifier` and `MLPRegressor`."""

    trainer_: Trainer

    _parameter_constraints: ClassVar[dict] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(functions.HIDDEN), Activation, list, tuple],
        "solver": [StrOptions({"lbfgs", *STOCHASTIC_SOLVERS})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean", StrOptions({"exact"})],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left"), "array-like"],
        "coefs_init": [list, tuple, None],
        "intercepts_init": [list, tuple, None],
        "dtype": [StrOptions({"auto", "float32", "float64"})],
        "threads": [Interval(Integral, 1, None, closed="left"), None],
        "callbacks": [list, tuple, None],
    }

    @classmethod
    @functools.cache
    def _get_param_names(cls):
        """Return the names of the parameters, which take scikit-learn a third of a millisecond each time."""
        return super()._get_param_names()

    # ------------------------------------------------------------------------------------------ training

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None) -> BaseMLP:
        """Train on samples X and targets y.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)
            Sparse samples are made dense a batch at a time.
        y : array-like (n_samples,) or (n_samples, n_outputs)
            Class labels, rows of labels that are 0 or 1, or numbers.
        sample_weight : array-like (n_samples,), optional
        validation_data : (X, y), optional
            Evaluated after each epoch: `validation_loss_curve_`.  With `early_stopping` they decide, and nothing is set
            aside of the training samples.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            Where an argument does not fit, or training diverged.  The estimator is then as it was before.
        """
        with rolled_back(self):
            return self._fit(X, y, sample_weight, validation_data, is_partial=False)

    def _fit(self, X, y, sample_weight, validation_data, is_partial):
        goes_on, data, validation = self._begin_fit(X, y, sample_weight, validation_data, is_partial)
        objective = self._objective()
        context = self._begin_callbacks()
        if self.solver == "lbfgs":
            self._fit_lbfgs(objective, data, validation)
        else:
            epochs, validation = self._begin_epochs(objective, data, validation, is_partial, goes_on)
            self._run_epochs(epochs, objective, validation, is_partial)
            self._end_epochs(epochs, is_partial)
        if context is not None:
            context.call_on_fit_task_end(estimator=self, reconstruction_attributes=self._reconstruction_attributes)
        self._check_converged_to_numbers()
        return self

    def _begin_fit(self, X, y, sample_weight, validation_data, is_partial):
        """Check the arguments and build a new network where one is needed.

        Returns
        -------
        goes_on : bool
            Whether training goes on exactly where the last call ended.
        data : Data
        validation : Validation or None
        """
        hidden = functions.hidden_sizes(self.hidden_layer_sizes)
        is_new = not hasattr(self, "coefs_") or not (self.warm_start or is_partial)
        goes_on = not is_new and self.warm_start == "exact"
        if not is_new:
            sizes = self._current_network(is_training=True).sizes
            if hidden != list(sizes[1:-1]):
                raise ValueError(f"hidden_layer_sizes is {hidden}, but {list(sizes[1:-1])} were fitted before")
        X, y = self._validate_input(X, y, is_partial, reset=is_new)
        dtype = X.dtype if is_new or not hasattr(self, "network_") else self.network_.dtype
        data = self._data(X, y, self._weights(X, y, sample_weight, is_partial), dtype)
        if not (goes_on and hasattr(self, "_random_state")):
            self._random_state = check_random_state(self.random_state)
        if is_new:
            self._initialize([X.shape[1], *hidden, self._n_outputs(data)], dtype)
        self._check_sizes(data)
        return goes_on, data, self._given_validation(validation_data, dtype)

    def _objective(self):
        net = self.network_
        scale = functions.loss_scale(net._config.loss, net.sizes[-1])
        return Objective(net, scale, loss_limit(net._config.loss, net.sizes[-1], net.dtype))

    def _check_converged_to_numbers(self):
        if not np.isfinite(self.network_.parameters).all():
            raise ValueError(self._divergence())

    def _initialize(self, sizes, dtype):
        """Build the network, with new weights, and begin the record of the training."""
        activations = functions.hidden_activations(self.activation, len(sizes) - 2)
        drawn = functions.initial_weights(self._random_state, sizes, activations)
        init = functions.given_weights(drawn, self.coefs_init, self.intercepts_init, np.dtype(dtype))
        output, loss = self._output_and_loss()
        self.out_activation_ = output
        activations = [*activations, functions.NAMES.get(output, output)]
        self._adopt(Network(sizes, activations, loss=loss, init=init, dtype=dtype))
        self.n_layers_, self.n_outputs_ = len(sizes), sizes[-1]
        self.n_iter_ = self.t_ = 0
        for name in ("trainer_", "_optimizer", "_split", "_order", "_last_parameters"):
            self.__dict__.pop(name, None)
        self.validation_loss_curve_ = []
        if self.solver in STOCHASTIC_SOLVERS:
            self._begin_record()

    def _begin_record(self):
        """Begin the record of what training improved."""
        stops_early = self.early_stopping
        self.loss_curve_, self._no_improvement_count = [], 0
        self._best_parameters = self.network_.parameters.copy()
        self.validation_scores_: list[float] | None = [] if stops_early else None
        self.best_validation_score_ = -np.inf if stops_early else None
        self.best_loss_ = None if stops_early else np.inf

    def _adopt(self, net):
        """Take a network; `coefs_` and `intercepts_` are views of its parameters."""
        self.network_ = net
        self.coefs_, self.intercepts_ = list(net.weights), list(net.biases)

    def _current_network(self, is_training=False):
        """Return the network, with what the user may have set since: parameters, or arrays in `coefs_`, `intercepts_`.

        Only training changes the dtype, as the weights may lose digits.
        """
        net: Any = self.__dict__.get("network_")
        has_views = net is not None and self._has_views(net)
        shapes = net.shapes if has_views else functions.shapes_of(self.coefs_, self.intercepts_)
        sizes = (shapes[0][0], *[n_out for _, n_out in shapes])
        output, loss = self._output_and_loss()
        activations = (
            *functions.hidden_activations(self.activation, len(shapes) - 1),
            functions.NAMES.get(output, output),
        )
        dtype = net.dtype if net is not None else functions.dtype_of(self.coefs_[0])
        if is_training and self.dtype != "auto":
            dtype = np.dtype(self.dtype)
        is_same = net is not None and net._config[:3] + (net.dtype,) == (sizes, activations, loss, dtype)
        if has_views and is_same:
            return net
        current = net if is_same else Network(sizes, activations, loss=loss, dtype=dtype, seed=0)
        for layer, (W, b) in enumerate(zip(self.coefs_, self.intercepts_, strict=True)):
            current.weights[layer], current.biases[layer] = W, b
        if not is_same:
            self._replace_network(net, current)
            self.out_activation_ = output
        self._adopt(current)
        return current

    def _replace_network(self, before, net):
        """Have training go on with another network, where its weights have the shapes of those before."""
        if before is not None and before.sizes == net.sizes:
            if hasattr(self, "trainer_"):
                self.trainer_ = moved(self.trainer_, net)
            if hasattr(self, "_best_parameters"):
                self._best_parameters = self._best_parameters.astype(net.dtype)
            return
        for name in ("trainer_", "_last_parameters"):
            self.__dict__.pop(name, None)
        self.validation_loss_curve_, self._best_parameters = [], net.parameters.copy()
        self.n_layers_, self.n_outputs_ = len(net.sizes), net.sizes[-1]

    @property
    def best_coefs_(self) -> list[np.ndarray]:
        """Weights of the best validation score, or the first ones where there is none yet."""
        return list(layer_views(self._best_parameters, self.network_.sizes)[0])

    @property
    def best_intercepts_(self) -> list[np.ndarray]:
        """Biases of the best validation score, or the first ones where there is none yet."""
        return list(layer_views(self._best_parameters, self.network_.sizes)[1])

    def _has_views(self, net):
        """Whether `coefs_` and `intercepts_` still hold the views of this network."""
        mine, views = [*self.coefs_, *self.intercepts_], [*net.weights[:], *net.biases[:]]
        return len(mine) == len(views) and all(map(operator.is_, mine, views))

    def _begin_optimizer(self, batch_size=AUTO_BATCH_SIZE):
        """Begin with an optimizer that remembers nothing."""
        self.trainer_, self._optimizer = self._make_trainer(batch_size), self._make_learning_rate()

    def _make_learning_rate(self):
        mode = self.learning_rate if self.solver == "sgd" else "constant"
        return LearningRate(mode, self.learning_rate_init, self.power_t)

    def _make_optimizer(self):
        if self.solver == "sgd":
            return ClassicalSGD(self.learning_rate_init, self.momentum, bool(self.nesterovs_momentum))
        if self.solver == "adam":
            return AdamEpsHat(self.learning_rate_init, self.beta_1, self.beta_2, self.epsilon)
        return LBFGS()

    def _make_trainer(self, batch_size):
        """Return a new trainer; while batches have this size, its l2 is the penalty of the estimator."""
        optimizer = self._make_optimizer()
        trainer = Trainer(self.network_, optimizer, batch_size, bool(self.shuffle), 0)
        self._take_settings(trainer)
        if isinstance(optimizer, LBFGS):
            optimizer.check(self.network_, trainer._update())
        return trainer

    def _take_settings(self, trainer):
        """Give a trainer the parameters that a call may set anew."""
        had_dropout = bool(trainer.dropout)
        trainer.threads = 1 if _is_in_worker() and self.threads is None else self.threads
        trainer.dropout = list(self.dropout) if np.ndim(self.dropout) else self.dropout
        if trainer.dropout and not had_dropout:
            trainer.key = int(self._random_state.randint(2**31))

    def _go_on(self, is_exact):
        """Take up the optimizer of the last call; where it goes on exactly, with the parameters set since."""
        self._take_settings(self.trainer_)
        learning_rate = self._make_learning_rate()
        if is_exact and not learning_rate.is_like(self._optimizer):
            self._optimizer = learning_rate
            learning_rate.end_epoch(self.t_)
        if is_exact:
            self.trainer_.optimizer = self._make_optimizer()

    def _fit_lbfgs(self, objective, data, validation):
        callbacks, history = Callbacks(self.callbacks or ()), History()
        self.trainer_ = trainer = self._make_trainer(None)
        trainer.l2 = self.alpha / len(data.Y)
        history.record([], validation is not None)
        callbacks.call("on_train_begin", trainer, history)

        def after(iteration, loss):
            history.add(np.array([loss]), 1, 0.0)
            trainer.epochs += 1
            if validation is not None:
                history.validation_loss.append(objective.value_and_outputs(validation.data)[0])
                self.validation_loss_curve_.append(history.validation_loss[-1])
            if self.verbose:
                print(f"Iteration {iteration}, loss = {loss:.8f}")
            callbacks.call("on_epoch_end", trainer, history)
            if self._ends_task() or trainer.stop_training:
                raise StopIteration

        settings = {"max_iter": self.max_iter, "max_fun": self.max_fun, "tol": self.tol}
        try:
            result = minimize(objective, data, self.alpha, **settings, after=after)
        finally:
            callbacks.call("on_train_end", trainer, history)
        self.n_iter_, self.loss_ = int(min(result.nit, self.max_iter)), float(result.fun)
        if result.status != 0 and not trainer.stop_training:
            warnings.warn(
                f"lbfgs failed to converge after {self.n_iter_} iteration(s) (status={result.status}):\n"
                f"{result.message}\nRaise max_iter or max_fun, or scale the data.",
                ConvergenceWarning,
                stacklevel=5,
            )

    def _begin_epochs(self, objective, data, validation, is_partial, goes_on):
        """Prepare the training by epochs; return their `Epochs` and what they are validated by, or None."""
        stops_early = bool(self.early_stopping)
        if stops_early and is_partial and validation is None:
            raise ValueError(
                "partial_fit does not support early_stopping=True where it would set samples aside: give "
                "validation_data"
            )
        rows = np.arange(len(data.Y))
        if stops_early and validation is None:
            rows, validation = self._split_rows(data, goes_on)
        batch_size = self._batch_size(len(rows))
        if not hasattr(self, "loss_curve_"):  # it was fitted with lbfgs before
            self._begin_record()
        if (is_partial or goes_on) and self._has_optimizer():
            self._go_on(goes_on)
        else:
            self._begin_optimizer(batch_size)
        trainer = self.trainer_
        trainer.batch_size, trainer.l2 = batch_size, self.alpha / batch_size
        if goes_on:
            rows = self._resumed_order(rows)
        return Epochs(trainer, data, rows, batch_size, self.alpha, objective), validation

    def _end_epochs(self, epochs, is_partial):
        """Keep what a later call goes on from; with early stopping the best weights become those of the network."""
        if self.warm_start == "exact":
            self._order, self._last_parameters = epochs.order, self.network_.parameters.copy()
        if self.early_stopping and not is_partial:
            self.network_.parameters[:] = self._best_parameters

    def _has_optimizer(self):
        """Whether there is an optimizer of this solver, which remembers past steps."""
        if not (hasattr(self, "trainer_") and hasattr(self, "_optimizer")):
            return False
        return type(self.trainer_.optimizer) is type(self._make_optimizer())

    def _resumed_order(self, rows):
        """Go on with the order and the weights that the last call of `fit` ended with, but for weights set since."""
        last, parameters = self.__dict__.get("_last_parameters"), self.network_.parameters
        if last is not None and self.early_stopping and np.array_equal(parameters, self._best_parameters):
            parameters[:] = last
        order = self.__dict__.get("_order", rows)
        return order.copy() if np.array_equal(np.sort(order), np.sort(rows)) else rows  # it may be of other data

    def _run_epochs(self, epochs, objective, validation, is_partial):
        """Train epoch by epoch until the loss, the score or a callback ends it."""
        trainer, callbacks = self.trainer_, Callbacks(self.callbacks or ())
        history = History(trainer.epochs + 1)
        history.record([], validation is not None)
        after_batch = None
        if callbacks.sees_batches:

            def after_batch(loss):
                callbacks.call("on_batch_end", trainer, history, trainer.state.step, loss)
                return trainer.stop_training

        trainer.stop_training, self.n_iter_ = False, 0
        callbacks.call("on_train_begin", trainer, history)
        try:
            while self.n_iter_ < self.max_iter and not trainer.stop_training:
                callbacks.call("on_epoch_begin", trainer, history)
                if self.shuffle:
                    epochs.shuffle(self._random_state)
                start = time.perf_counter()
                self.loss_ = epochs.train(self._optimizer.learning_rate, after_batch)
                if self.callbacks:
                    history.add(np.array([self.loss_]), 1, time.perf_counter() - start)
                trainer.epochs += 1
                if self._ends_epoch(len(epochs.order), objective, validation, history, is_partial):
                    break
                callbacks.call("on_epoch_end", trainer, history)
                if self._ends_task() or is_partial:
                    break
            else:
                if not trainer.stop_training:
                    warnings.warn(self._not_converged(), ConvergenceWarning, stacklevel=5)
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user. The estimator is usable.", stacklevel=5)
        finally:
            callbacks.call("on_train_end", trainer, history)

    def _not_converged(self):
        return f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached, and training has not converged"

    def _ends_epoch(self, n_samples, objective, validation, history, is_partial):
        """Record an epoch; return whether training ends with it."""
        self.n_iter_ += 1
        self.t_ += n_samples
        self.loss_curve_.append(self.loss_)
        decides = validation is not None and validation.decides
        if not math.isfinite(self.loss_):
            self._end_diverged(decides)
            return True
        if self.verbose:
            print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
        score = None
        if validation is not None:
            loss, A = objective.value_and_outputs(validation.data)
            self.validation_loss_curve_.append(loss)
            history.validation_loss.append(loss)
            score = self._score_outputs(A, validation.data) if decides else None
        self._count_improvement(score)
        self._optimizer.end_epoch(self.t_)
        if self._no_improvement_count <= self.n_iter_no_change:
            return False
        what = "Training loss" if score is None else "Validation score"
        message = f"{what} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} consecutive epochs."
        if self._optimizer.is_exhausted():
            if self.verbose:
                print(f"{message} Stopping.")
            return True
        self._no_improvement_count = 0
        if self.verbose:
            print(f"{message} Setting learning rate to {self._optimizer.learning_rate:f}")
        return False

    def _count_improvement(self, score):
        """Count the epochs in a row without a better loss, or a better validation score where there is one."""
        if score is None:
            if self.best_loss_ is None:  # it was fitted with early stopping before
                self.best_loss_ = np.inf
            is_better_enough = self.loss_ <= self.best_loss_ - self.tol
            self.best_loss_ = min(self.best_loss_, self.loss_)
        else:
            if self.validation_scores_ is None:  # or without
                self.validation_scores_, self.best_validation_score_ = [], -np.inf
            self.validation_scores_.append(score)
            if self.verbose:
                print(f"Validation score: {score:f}")
            is_better_enough = not score < self.best_validation_score_ + self.tol
            if score > self.best_validation_score_:
                self.best_validation_score_ = score
                self._best_parameters = self.network_.parameters.copy()
        self._no_improvement_count = 0 if is_better_enough else self._no_improvement_count + 1

    def _divergence(self):
        return (
            "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
            f"preprocessed. (Training diverged in iteration {self.n_iter_}: a smaller learning_rate_init may help.)"
        )

    def _end_diverged(self, has_best):
        """Say that the loss is not finite any more; where scores decide, go on with the best weights."""
        if not has_best:
            raise ValueError(self._divergence())
        if self.validation_scores_ is None:
            self.validation_scores_ = []
        self.validation_scores_.append(float("nan"))
        warnings.warn(
            f"training diverged in iteration {self.n_iter_}: the best weights so far are kept; a smaller "
            "learning_rate_init may help",
            ConvergenceWarning,
            stacklevel=7,
        )

    # ------------------------------------------------------------------------------------------ input

    def _checked_samples(self, X, **options):
        """Validate samples; without `y` they are returned alone."""
        wanted = FLOATS if self.dtype == "auto" else np.dtype(self.dtype)
        options = {"accept_sparse": ["csr", "csc"], "dtype": wanted, "order": "C", **options}
        if "y" in options:
            return validate_data(self, X, **options)
        X = validate_data(self, X, **{**options, "dtype": "numeric"})  # as scikit-learn, which refuses text here
        if wanted is FLOATS:
            wanted = X.dtype if X.dtype in FLOATS else np.dtype(FLOATS[0])
        return X.astype(wanted, copy=False)

    def _weights(self, X, y, sample_weight, is_partial):
        """Return the product of the weights of samples and classes, or None."""
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X)
        class_weight = self.__dict__.get("class_weight")
        if class_weight is None:
            return sample_weight
        if is_partial and class_weight == "balanced":
            raise ValueError("class_weight='balanced' needs all samples at once: for partial_fit give a dict")
        if isinstance(class_weight, dict) and y.ndim == 1:
            of_classes = self._factors(class_weight)[np.searchsorted(self.classes_, y)]
        else:
            of_classes = compute_sample_weight(class_weight, y)
        weights = of_classes if sample_weight is None else sample_weight * of_classes
        if not (np.isfinite(of_classes).all() and of_classes.min() >= 0 and (is_partial or weights.any())):
            raise ValueError(
                f"class_weight must be finite, at least 0, and leave samples with a weight, got {class_weight!r}"
            )
        return weights

    def _factors(self, class_weight):
        """Return the factor of every class, 1 where the dict has none; a batch need not have all of them."""
        unknown = class_weight.keys() - set(self.classes_.tolist())
        if unknown:
            raise ValueError(f"class_weight names the classes {list(unknown)}, but there are only {self.classes_}")
        return np.array([class_weight.get(name, 1.0) for name in self.classes_.tolist()], np.float64)

    def _data(self, X, y, weights, dtype):
        """Return validated samples, targets and weights in the form that kernels take."""
        if weights is not None:
            weights = np.ascontiguousarray(weights, dtype)
        X = np.ascontiguousarray(X, dtype) if isinstance(X, np.ndarray) else X.tocsr().astype(dtype, copy=False)
        return Data(X, self._targets(y, dtype), weights)

    def _check_sizes(self, data, argument=""):
        """Refuse data that the network does not fit, which kernels take unchecked."""
        n_in, *_, n_out = self.network_.sizes
        if data.X.shape[1] != n_in:
            raise ValueError(f"{argument}X has {data.X.shape[1]} features, but coefs_[0] takes {n_in}")
        if self._n_outputs(data) != n_out:
            raise ValueError(f"{argument}y has {self._n_outputs(data)} outputs, but {n_out} were fitted before")

    def _given_validation(self, validation_data, dtype):
        """Return the validation data that the user gives, checked, or None."""
        if validation_data is None:
            return None
        X, y = self._validate_validation(*checks.validation_pair(validation_data))
        data = self._data(X, y, None, dtype)
        self._check_sizes(data, "validation_data: ")
        return Validation(data, bool(self.early_stopping) and self.solver != "lbfgs")

    def _split_rows(self, data, goes_on):
        """Set samples aside; return the rows to train on, and the others."""
        split = self.__dict__.get("_split") if goes_on else None
        if split is None or sum(map(len, split)) != len(data.Y):
            from sklearn.model_selection import train_test_split

            split = train_test_split(
                np.arange(len(data.Y)),
                random_state=self._random_state,
                test_size=self.validation_fraction,
                stratify=self._strata(data.Y),
            )
        training, aside = split
        if len(aside) < MIN_VALIDATION_SAMPLES:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction', or give more samples, or "
                "validation_data."
            )
        if self.warm_start == "exact":
            self._split = split
        return training.copy(), Validation(data.rows(aside), True)

    def _strata(self, Y):
        """Return what the samples that are set aside are stratified by, or None."""
        return None

    def _batch_size(self, n_samples):
        if self.batch_size == "auto":
            return min(AUTO_BATCH_SIZE, n_samples)
        if self.batch_size > n_samples:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped, from "
                f"{self.batch_size} to {n_samples}.",
                stacklevel=6,
            )
        return int(min(self.batch_size, n_samples))

    # ------------------------------------------------------------------------------------------ evaluation

    def _network_outputs(self, X):
        check_is_fitted(self)
        if current_process().name != "MainProcess":
            _is_in_worker()
        net = self._current_network()
        n_features = self.__dict__.get("n_features_in_", 0)
        if hasattr(self, "feature_names_in_") or not (
            checks.is_ready(X, n_features, net.dtype) and checks.is_finite(X)
        ):
            X = self._checked_samples(X, reset=False)  # ten times as long as the two checks of an array that is ready
        return outputs(net, X if isinstance(X, np.ndarray) else X.tocsr())

    def activations_of(self, X: Any) -> list[np.ndarray]:
        """Return the activations of every layer.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)

        Returns
        -------
        list of ndarray
            The samples themselves, (n_samples, n_features), then (n_samples, n_neurons) of each layer.
        """
        check_is_fitted(self)
        X = self._checked_samples(X, reset=False)
        return self._current_network().activations_of(X if isinstance(X, np.ndarray) else X.toarray())

    def input_gradient(self, X: Any, y: Any) -> np.ndarray:
        """Return the gradient of the loss of each sample with respect to its inputs.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)
        y : array-like (n_samples,) or (n_samples, n_outputs)

        Returns
        -------
        ndarray (n_samples, n_features)
            Of the loss as `loss_curve_` has it, without the penalty, sample weights and the 1/n of a mean.
        """
        check_is_fitted(self)
        net = self._current_network()
        X, Y = self._validate_validation(X, y)
        X = np.ascontiguousarray(X if isinstance(X, np.ndarray) else X.toarray())
        scale = functions.loss_scale(net._config.loss, net.sizes[-1])
        return net.input_gradient(X, self._targets(Y, net.dtype)) * (len(X) * scale)

    # ------------------------------------------------------------------------------------------ callbacks

    def _begin_callbacks(self):
        """Begin the task of a call of `fit` for scikit-learn's callbacks; return its context, or None."""
        if not hasattr(self, "_init_callback_context"):
            return None
        context = self._init_callback_context(max_subtasks=self.max_iter)
        return context.call_on_fit_task_begin(estimator=self)

    def _ends_task(self):
        """Tell scikit-learn's callbacks of an epoch; return whether one ends the training."""
        context = self.__dict__.get("_callback_fit_ctx")
        if context is None or not getattr(context, "_callbacks", True):
            return False
        task = context.subcontext(task_name="epoch").call_on_fit_task_begin(estimator=self)
        return task.call_on_fit_task_end(estimator=self, reconstruction_attributes=self._reconstruction_attributes)

    def _reconstruction_attributes(self):
        """Return what turns a copy of the estimator into one that is fitted as it is now."""
        net = self.network_.copy()
        return {"network_": net, "coefs_": list(net.weights), "intercepts_": list(net.biases)}

    # ------------------------------------------------------------------------------------------ state

    def __getstate__(self):
        """Leave out the views of the network's parameters, which are made again."""
        state = super().__getstate__()
        if "network_" in state and self._has_views(state["network_"]):
            state = {name: value for name, value in state.items() if name not in ("coefs_", "intercepts_")}
        return state

    def __setstate__(self, state):
        """Take up a pickle."""
        super().__setstate__(state)
        if "network_" in self.__dict__ and "coefs_" not in self.__dict__:
            self._adopt(self.network_)

    def __sklearn_tags__(self):
        """Say that samples may be sparse."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
