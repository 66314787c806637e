"""`MLPEnsembleClassifier` and `MLPEnsembleRegressor`: many networks, trained together, that predict together."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from ..activations import Activation
from ..losses import Loss, Parameterized
from ..population import Population
from .base import BaseMLP
from .data import Data, chunks, dense
from .mlp import MLPClassifier, MLPRegressor
from .together import Member, train

OF_ONE_NETWORK = ("warm_start", "coefs_init", "intercepts_init", "callbacks")  # parameters that an ensemble has not
OF_CHECKS = ("classes_", "_label_binarizer", "n_features_in_", "feature_names_in_")  # attributes, the same for all
NOT_RECORDED = ("network_", "coefs_", "intercepts_", "trainer_", "_optimizer", "_random_state", "_best_parameters")

_PARAMETERS = """n_estimators : int, default=16
        Number of networks.
    bootstrap : bool, default=False
        Train each network on as many samples as there are, drawn with replacement (bagging).  Otherwise all train on
        all samples, and differ by their seeds.
    random_state : int, RandomState or None, default=None
        Of the seeds of the networks.
    hidden_layer_sizes, activation, solver, ...
        As of `{}`, for all networks."""

_ATTRIBUTES = """population_ : fastbp.Population
        The networks.
    estimators_ : list of {}
        The networks as estimators, made when it is read.
    seeds_ : int64 ndarray (n_estimators,)
        Network i is that of ``{}(random_state=seeds_[i], ...)``, but for a bootstrap.
    loss_curves_, validation_scores_ : list of list of float
        `loss_curve_` and `validation_scores_` of each network; the latter None without early stopping.
    n_iter_ : int64 ndarray (n_estimators,)
        Epochs of each network.
    n_layers_, n_outputs_, n_features_in_ : int
    feature_names_in_ : ndarray
    out_activation_ : str"""


def _documented(cls):
    if cls.__doc__:  # not under python -OO
        name = cls._member_class.__name__
        cls.__doc__ = cls.__doc__.replace("_PARAMETERS", _PARAMETERS.format(name))
        cls.__doc__ = cls.__doc__.replace("_ATTRIBUTES", _ATTRIBUTES.format(name, name))
    return cls


def _constraints(cls: type[BaseMLP]) -> dict:
    """Return those of the parameters that an ensemble shares with its members, and of its own."""
    shared = {name: rule for name, rule in cls._parameter_constraints.items() if name not in OF_ONE_NETWORK}
    return {**shared, "n_estimators": [Interval(Integral, 1, None, closed="left")], "bootstrap": ["boolean"]}


class BaseEnsemble(BaseEstimator):
    """Base class of `MLPEnsembleClassifier` and `MLPEnsembleRegressor`."""

    _member_class: ClassVar[Any]
    _checked_samples = BaseMLP._checked_samples
    n_estimators: int
    bootstrap: bool
    random_state: Any
    dtype: str

    population_: Population

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> BaseEnsemble:
        """Train all networks on samples X and targets y.

        With `early_stopping` each network sets its own samples aside, and draws its bootstrap from the others.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)
            With sparse samples, and with solver "lbfgs", the networks are trained one after the other.
        y : array-like (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like (n_samples,), optional

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            Where an argument does not fit, or the training of a network diverged.  The estimator is then as it was.
        """
        checked = self._make_member(0)
        _, data, _ = checked._begin_fit(X, y, sample_weight, None, is_partial=False)
        seeds = check_random_state(self.random_state).randint(np.iinfo(np.int32).max, size=self.n_estimators)
        estimators = [self._begin_member(seed, checked, data) for seed in seeds.tolist()]
        if self._get_solver() == "lbfgs" or data.is_sparse:
            for estimator, seed in zip(estimators, seeds.tolist(), strict=True):
                self._train_alone(estimator, seed, data)
        else:
            self._train_together(estimators, seeds, data)
        records = [
            {name: value for name, value in vars(estimator).items() if name not in NOT_RECORDED}
            for estimator in estimators
        ]
        self._take(checked, estimators, seeds, records)
        return self

    def _get_solver(self):
        return self.get_params(deep=False)["solver"]

    def _make_member(self, seed):
        """Return an estimator of one network, not fitted."""
        own = ("n_estimators", "bootstrap")
        shared = {name: value for name, value in self.get_params(deep=False).items() if name not in own}
        return self._member_class(**{**shared, "random_state": seed})

    def _begin_member(self, seed, checked, data):
        """Return an estimator that takes over the checks of another, with a network of its own."""
        estimator = self._make_member(seed)
        vars(estimator).update({name: value for name, value in vars(checked).items() if name in OF_CHECKS})
        estimator._random_state = check_random_state(seed)
        estimator._initialize(list(checked.network_.sizes), checked.network_.dtype)
        return estimator

    def _drawn(self, seed: int, rows: np.ndarray) -> np.ndarray:
        """Return the rows that a network is trained on, of those that it may."""
        if not self.bootstrap:
            return rows
        return rows[np.random.default_rng((seed, 1)).integers(len(rows), size=len(rows))]

    def _train_together(self, estimators, seeds, data):
        members = [Member(estimator, data, None) for estimator in estimators]
        for member, seed in zip(members, seeds.tolist(), strict=True):
            member.epochs.order = self._drawn(seed, member.epochs.order)
        try:
            train(members)
        except KeyboardInterrupt:
            for member in members:
                member.end()
            warnings.warn("Training interrupted by user. The estimator is usable.", stacklevel=4)
        errors = [member.error for member in members if member.error is not None]
        if errors:
            raise ValueError(f"{len(errors)} of {len(members)} networks: {errors[0]}") from errors[0]
        n = sum(member.reached_limit for member in members)
        if n:
            warnings.warn(
                f"{n} of {len(members)} networks: {estimators[0]._not_converged()}", ConvergenceWarning, stacklevel=4
            )

    def _train_alone(self, estimator: Any, seed: int, data: Data) -> None:
        objective = estimator._objective()
        if estimator.solver == "lbfgs":
            data = data.rows(self._drawn(seed, np.arange(len(data.Y))))
            estimator._fit_lbfgs(objective, data, None)
        else:
            epochs, validation = estimator._begin_epochs(objective, data, None, False, False)
            epochs.order = self._drawn(seed, epochs.order)
            estimator._run_epochs(epochs, objective, validation, False)
            estimator._end_epochs(epochs, False)
        estimator._check_converged_to_numbers()

    def _take(self, checked, estimators, seeds, records):
        """Become fitted."""
        self.__dict__.pop("feature_names_in_", None)
        names = (*OF_CHECKS, "n_layers_", "n_outputs_", "out_activation_")
        self.__dict__.update({name: value for name, value in vars(checked).items() if name in names})
        self.population_ = Population.of([estimator.network_ for estimator in estimators])
        self.seeds_, self._records = seeds, records
        self.n_iter_ = np.array([estimator.n_iter_ for estimator in estimators])

    @property
    def loss_curves_(self) -> list[list[float]]:
        """Training loss of each epoch, of each network."""
        return self._recorded("loss_curve_")

    @property
    def validation_scores_(self) -> list[list[float]] | None:
        """Validation score of each epoch, of each network, or None."""
        scores = self._recorded("validation_scores_")
        return scores if scores[0] is not None else None

    def _recorded(self, name):
        check_is_fitted(self)
        if name not in self._records[0]:
            raise AttributeError(f"there is no {name} with solver={self._get_solver()!r}")
        return [record[name] for record in self._records]

    @property
    def estimators_(self) -> list[Any]:
        """Each network as a fitted estimator, with a copy of its parameters."""
        check_is_fitted(self)
        result = []
        for net, record in zip(self.population_, self._records, strict=True):
            estimator = self._member_class()
            vars(estimator).update(record)
            estimator._adopt(net)
            estimator._best_parameters = net.parameters.copy()
            result.append(estimator)
        return result

    def _reduced(self, X, reduce):
        """Return what a function makes of the outputs of all networks, for samples that may be sparse."""
        check_is_fitted(self)
        X = self._checked_samples(X, reset=False)
        if isinstance(X, np.ndarray):
            return reduce(X)
        return np.concatenate([reduce(dense(X[rows])) for rows in chunks(X)])

    def __sklearn_tags__(self):
        """Say that samples may be sparse."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


@_documented
class MLPEnsembleClassifier(ClassifierMixin, BaseEnsemble):
    """Classifier by the mean of the probabilities of many networks, which are trained together.

    Parameters
    ----------
    _PARAMETERS

    Attributes
    ----------
    classes_ : ndarray (n_classes,)
    _ATTRIBUTES

    Examples
    --------
    >>> from fastbp.estimators import MLPEnsembleClassifier
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> ensemble = MLPEnsembleClassifier((16,), n_estimators=8, learning_rate_init=0.01, random_state=0).fit(X, y)
    >>> ensemble.predict_proba(X[:1]).shape, len(ensemble.population_)
    ((1, 3), 8)
    """

    _member_class = MLPClassifier
    _parameter_constraints: ClassVar[dict] = _constraints(MLPClassifier)

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] | np.ndarray = (100,),
        activation: str | Activation | Sequence[str | Activation] = "relu",
        *,
        n_estimators: int = 16,
        bootstrap: bool = False,
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
        dtype: str = "auto",
        threads: int | None = None,
    ) -> None:
        self.__dict__.update({name: value for name, value in locals().items() if name in self._get_param_names()})

    _classes_of = MLPClassifier._classes_of

    def predict(self, X: Any) -> np.ndarray:
        """Return the classes (n_samples,) of samples, or their labels (n_samples, n_classes)."""
        return self._classes_of(self._mean(X))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the mean of the probabilities (n_samples, n_classes) of all networks, in the order of `classes_`."""
        A = self._mean(X)
        return np.hstack([1 - A, A]) if A.shape[1] == 1 else A

    predict_log_proba = MLPClassifier.predict_log_proba

    def _mean(self, X):
        return self._reduced(X, lambda some: self.population_.mean(some))

    def __sklearn_tags__(self):
        """Say that a sample may have several labels."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


@_documented
class MLPEnsembleRegressor(RegressorMixin, BaseEnsemble):
    """Regressor by the mean of the outputs of many networks, which are trained together.

    Parameters
    ----------
    _PARAMETERS

    Attributes
    ----------
    _ATTRIBUTES

    Examples
    --------
    >>> from fastbp.estimators import MLPEnsembleRegressor
    >>> from sklearn.datasets import make_regression
    >>> X, y = make_regression(100, 4, random_state=0)
    >>> ensemble = MLPEnsembleRegressor(hidden_layer_sizes=16, max_iter=500, bootstrap=True, random_state=0).fit(X, y)
    >>> mean, std = ensemble.predict(X[:2], return_std=True)
    >>> mean.shape, std.shape
    ((2,), (2,))
    """

    _member_class = MLPRegressor
    _parameter_constraints: ClassVar[dict] = _constraints(MLPRegressor)

    def __init__(
        self,
        loss: str | Parameterized | Loss = "squared_error",
        hidden_layer_sizes: int | Sequence[int] | np.ndarray = (100,),
        activation: str | Activation | Sequence[str | Activation] = "relu",
        *,
        n_estimators: int = 16,
        bootstrap: bool = False,
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
        dtype: str = "auto",
        threads: int | None = None,
    ) -> None:
        self.__dict__.update({name: value for name, value in locals().items() if name in self._get_param_names()})

    def predict(self, X: Any, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Return the mean of the outputs of all networks.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)
        return_std : bool, default=False
            Also return their standard deviation over the networks: how far they disagree.

        Returns
        -------
        mean : ndarray (n_samples,), or (n_samples, n_outputs) where there are several
        std : ndarray of the same shape
            With `return_std` only.
        """
        mean = self._numbers(self._reduced(X, lambda some: self.population_.mean(some)))
        if not return_std:
            return mean
        return mean, self._numbers(self._reduced(X, lambda some: self.population_.spread(some)))

    @staticmethod
    def _numbers(A):
        return A.ravel() if A.shape[1] == 1 else A
