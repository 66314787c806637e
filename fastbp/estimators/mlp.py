"""`MLPClassifier` and `MLPRegressor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin, _fit_context
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels

from .. import checks
from ..activations import Activation
from ..losses import Loss, Parameterized
from . import functions
from .base import BaseMLP, _is_stochastic
from .data import accuracy, r2
from .exchange import from_sklearn, to_sklearn
from .rollback import rolled_back

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_PARAMETERS = """hidden_layer_sizes : array-like of int, default=(100,)
        Neurons of each hidden layer.
    activation : str or fastbp.Activation, or a list with one for each hidden layer, default="relu"
        scikit-learn's names ("identity", "logistic", "tanh", "relu") and those of `fastbp.activations.ACTIVATIONS`,
        such as "leaky_relu", "elu" and "mish".
    solver : "adam", "sgd" or "lbfgs", default="adam"
    alpha : float, default=0.0001
        Penalty alpha / 2 * sum W**2, divided by the number of samples of a batch, or the sum of their weights.
    batch_size : int or "auto", default="auto"
        "auto" is 200, or the number of samples.  Of sgd and adam.
    learning_rate : "constant", "invscaling" or "adaptive", default="constant"
        Of sgd: the same always; divided by (samples seen + 1)**power_t after each epoch; or divided by 5 where there is
        no improvement any more, down to 1e-6.
    learning_rate_init : float, default=0.001
    power_t : float, default=0.5
    max_iter : int, default=200
        Most epochs, or iterations of lbfgs.
    shuffle : bool, default=True
        Draw a new order of the samples for each epoch.
    random_state : int, RandomState or None, default=None
        Of initial weights, orders, samples set aside and dropout; the draws are scikit-learn's.
    tol : float, default=1e-4
        An improvement is a loss, or a validation score, better by more than this.  With lbfgs the largest element of
        the gradient at which it ends.
    verbose : bool or int, default=False
    warm_start : bool or "exact", default=False
        Begin with the weights of the last call of `fit`.  "exact", of sgd and adam: go on where it ended, with the
        state of optimizer, learning rate and random numbers, so that several calls make the steps of one with more
        epochs.
    momentum : float, default=0.9
    nesterovs_momentum : bool, default=True
    early_stopping : bool, default=False
        Set samples aside, and end where their score does not improve any more, with the weights of the best epoch.
    validation_fraction : float, default=0.1
        Of the samples that are set aside.
    beta_1, beta_2, epsilon : float, default=0.9, 0.999, 1e-8
        Of adam.
    n_iter_no_change : int, default=10
        Epochs in a row without improvement that do not yet end the training.
    max_fun : int, default=15000
        Most evaluations of lbfgs.
    dropout : float or list of float, default=0.0
        Fraction of the outputs of the hidden layers that are dropped in training; one for each of them.
    coefs_init, intercepts_init : list of array, default=None
        Initial weights and biases; a list, or an array of it, that is None is drawn.
    dtype : "auto", "float32" or "float64", default="auto"
        Of all arithmetic; "auto" is that of X if this is one of the two, else float64.
    threads : int or None, default=None
        Most threads of the training; None: those of `fastbp.get_num_threads`, and one in joblib's workers.
    callbacks : list of fastbp.callbacks.Callback or None, default=()"""

_ATTRIBUTES = """coefs_, intercepts_ : list of ndarray
        Weights (n_in, n_out) and biases (n_out,) of each layer, views of ``network_.parameters``.
    network_ : fastbp.Network
        The network itself: verify, trace, save.
    trainer_ : fastbp.Trainer
        Its trainer, with optimizer and state.
    loss_, best_loss_, loss_curve_ : float, float or None, list of float
        With the penalty, as scikit-learn computes them.
    validation_scores_, best_validation_score_ : list of float, float or None
        With early stopping.
    best_coefs_, best_intercepts_ : list of ndarray
        Weights and biases of the best validation score; `partial_fit` leaves `coefs_` as they are after the last call.
    validation_loss_curve_ : list of float
        Without the penalty; of the samples set aside or `validation_data`.
    n_iter_, t_ : int
        Epochs of the last call, and samples seen by all calls.
    n_layers_, n_outputs_, n_features_in_ : int
    feature_names_in_ : ndarray
    out_activation_ : str"""


def _documented(cls):
    if cls.__doc__:  # not under python -OO
        cls.__doc__ = cls.__doc__.replace("_PARAMETERS", _PARAMETERS).replace("_ATTRIBUTES", _ATTRIBUTES)
    return cls


@_documented
class MLPClassifier(ClassifierMixin, BaseMLP):
    """Classifier by a feed-forward network, with the interface of scikit-learn's `MLPClassifier`.

    Parameters
    ----------
    _PARAMETERS
    class_weight : dict, "balanced" or None, default=None
        Factors of the losses by class.

    Attributes
    ----------
    classes_ : ndarray (n_classes,)
    _ATTRIBUTES
    """

    _parameter_constraints: ClassVar[dict] = {
        **BaseMLP._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }
    loss = "log_loss"

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] | np.ndarray = (100,),
        activation: str | Activation | Sequence[str | Activation] = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool | str = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        class_weight: Mapping[Any, float] | str | Sequence[Mapping[Any, float]] | None = None,
        dropout: float | Sequence[float] = 0.0,
        coefs_init: Sequence[ArrayLike] | None = None,
        intercepts_init: Sequence[ArrayLike] | None = None,
        dtype: str = "auto",
        threads: int | None = None,
        callbacks: Sequence[Any] = (),
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.class_weight = class_weight
        self.dropout = dropout
        self.coefs_init = coefs_init
        self.intercepts_init = intercepts_init
        self.dtype = dtype
        self.threads = threads
        self.callbacks = callbacks

    @available_if(_is_stochastic)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None, *, validation_data: Any = None
    ) -> MLPClassifier:
        """Train one epoch on these samples, going on from where training is.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)
        y : array-like (n_samples,) or (n_samples, n_classes)
        sample_weight : array-like (n_samples,), optional
        classes : array-like (n_classes,), optional
            All classes; needed in the first call, but for rows of labels.
        validation_data : (X, y), optional
            As in `fit`.  With `early_stopping` they are needed: their scores are recorded, and the weights stay those
            of the last call.

        Returns
        -------
        self
        """
        with rolled_back(self):
            is_multilabel = type_of_target(y).startswith("multilabel")
            if is_multilabel and classes is None and not hasattr(self, "classes_"):
                self._label_binarizer = LabelBinarizer().fit(y)
            elif _check_partial_fit_first_call(self, classes):
                self._label_binarizer = LabelBinarizer().fit(y if is_multilabel else classes)
            return self._fit(X, y, sample_weight, validation_data, is_partial=True)

    def predict(self, X: Any) -> np.ndarray:
        """Return the classes (n_samples,) of samples, or their labels (n_samples, n_classes)."""
        return self._classes_of(self._network_outputs(X))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of the classes (n_samples, n_classes), in the order of `classes_`."""
        A = self._network_outputs(X)
        return np.hstack([1 - A, A]) if A.shape[1] == 1 else A

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithms of `predict_proba`."""
        A = self.predict_proba(X)
        with np.errstate(divide="ignore"):
            return np.log(A, out=A)

    def _classes_of(self, A):
        kind = self._label_binarizer.y_type_
        if kind == "multiclass":
            return self.classes_.take(A.argmax(axis=1))
        if kind == "binary" and len(self.classes_) == 2:
            return self.classes_.take(A[:, 0] > 0.5)
        return self._label_binarizer.inverse_transform(A[:, 0] if A.shape[1] == 1 else A)

    def _validate_input(self, X, y, is_partial, reset):
        X, y = self._checked_samples(X, y=y, multi_output=True, reset=reset)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if not hasattr(self, "classes_") or not (self.warm_start or is_partial):
            if not (is_partial and hasattr(self, "_label_binarizer")):
                self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            classes = unique_labels(y)
            if self.warm_start and not is_partial and set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                    f"Previously got {self.classes_}, `y` has {classes}"
                )
            self._check_classes(classes)
        return X, y

    def _check_classes(self, classes):
        if np.setdiff1d(classes, self.classes_, assume_unique=True).size:
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. `y` has {classes}."
            )

    def _validate_validation(self, X, y):
        X, y = self._checked_samples(X, y=y, multi_output=True, reset=False)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        self._check_classes(unique_labels(y))
        return X, y

    def _targets(self, y, dtype):
        """Return class numbers, or rows of 0 and 1: one column for two classes."""
        kind = self._label_binarizer.y_type_
        if kind == "multilabel-indicator" or len(self.classes_) < 2:
            return np.ascontiguousarray(self._label_binarizer.transform(y), dtype)
        if y.ndim == 2:
            raise ValueError("The object was not fitted with multilabel input.")
        labels = np.searchsorted(self.classes_, y)
        return labels.astype(np.int64) if kind == "multiclass" else labels.astype(dtype)[:, None]

    def _n_outputs(self, data):
        return len(self.classes_) if data.Y.ndim == 1 else data.Y.shape[1]

    def _output_and_loss(self):
        is_multiclass = self._label_binarizer.y_type_ == "multiclass"
        return ("softmax", "cross_entropy") if is_multiclass else ("logistic", "binary_cross_entropy")

    def _score_outputs(self, A, data):
        return accuracy(A, data) if len(self.classes_) > 1 else 1.0  # `predict` knows only the one class

    def _strata(self, Y):
        return Y > 0.5 if Y.ndim == 2 and Y.shape[1] == 1 else None

    @classmethod
    def from_sklearn(cls, fitted: Any) -> MLPClassifier:
        """Return an estimator with the parameters, weights and record of a fitted one of scikit-learn."""
        from sklearn.neural_network import MLPClassifier as Source

        return from_sklearn(cls, fitted, Source)

    def to_sklearn(self) -> Any:
        """Return a fitted `sklearn.neural_network.MLPClassifier` with the same predictions."""
        from sklearn.neural_network import MLPClassifier as Target

        return to_sklearn(self, Target)

    def __sklearn_tags__(self):
        """Say that a sample may have several labels."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


@_documented
class MLPRegressor(RegressorMixin, BaseMLP):
    """Regressor by a feed-forward network, with the interface of scikit-learn's `MLPRegressor`.

    Parameters
    ----------
    loss : str or a loss of fastbp, default="squared_error"
        scikit-learn's "squared_error" and "poisson", and "absolute_error", "huber", "quantile" (0.5) and "log_cosh";
        other parameters by ``fastbp.losses.Huber(threshold)`` and ``fastbp.losses.Quantile(q)``, others by
        ``fastbp.Loss``.
    _PARAMETERS

    Attributes
    ----------
    _ATTRIBUTES
    """

    _parameter_constraints: ClassVar[dict] = {
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions(functions.REGRESSION_LOSSES), Parameterized, Loss],
    }

    def __init__(
        self,
        loss: str | Parameterized | Loss = "squared_error",
        hidden_layer_sizes: int | Sequence[int] | np.ndarray = (100,),
        activation: str | Activation | Sequence[str | Activation] = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool | str = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dropout: float | Sequence[float] = 0.0,
        coefs_init: Sequence[ArrayLike] | None = None,
        intercepts_init: Sequence[ArrayLike] | None = None,
        dtype: str = "auto",
        threads: int | None = None,
        callbacks: Sequence[Any] = (),
    ) -> None:
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.dropout = dropout
        self.coefs_init = coefs_init
        self.intercepts_init = intercepts_init
        self.dtype = dtype
        self.threads = threads
        self.callbacks = callbacks

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None) -> MLPRegressor:
        """Train one epoch on these samples, or max_iter iterations of lbfgs, going on from where training is.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)
        y : array-like (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like (n_samples,), optional
        validation_data : (X, y), optional
            As in `fit`.  With `early_stopping` they are needed: their scores are recorded, and the weights stay those
            of the last call.

        Returns
        -------
        self
        """
        with rolled_back(self):
            return self._fit(X, y, sample_weight, validation_data, is_partial=True)

    def predict(self, X: Any) -> np.ndarray:
        """Return the outputs (n_samples,), or (n_samples, n_outputs) where there are several."""
        A = self._network_outputs(X)
        return A.ravel() if A.shape[1] == 1 else A

    def _validate_input(self, X, y, is_partial, reset):
        return self._numbers(X, y, reset)

    def _validate_validation(self, X, y):
        return self._numbers(X, y, False)

    def _numbers(self, X, y, reset):
        X, y = self._checked_samples(X, y=y, multi_output=True, y_numeric=True, reset=reset)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return X, y

    def _targets(self, y, dtype):
        Y = np.ascontiguousarray(y, dtype).reshape(len(y), -1)
        return checks.targets(Y, len(Y), Y.shape[1], self.loss, np.dtype(dtype), argument="y")

    def _n_outputs(self, data):
        return data.Y.shape[1]

    def _score_outputs(self, A, data):
        return r2(A, data)

    def _output_and_loss(self):
        return functions.output_activation(self.loss), self.loss

    @classmethod
    def from_sklearn(cls, fitted: Any) -> MLPRegressor:
        """Return an estimator with the parameters, weights and record of a fitted one of scikit-learn."""
        from sklearn.neural_network import MLPRegressor as Source

        return from_sklearn(cls, fitted, Source)

    def to_sklearn(self) -> Any:
        """Return a fitted `sklearn.neural_network.MLPRegressor` with the same predictions."""
        from sklearn.neural_network import MLPRegressor as Target

        return to_sklearn(self, Target)
