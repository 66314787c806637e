"""`PopulationSearchCV`, whose candidates are trained together on all folds, and `cross_val_predict`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from joblib import parallel_config
from joblib.parallel import ParallelBackendBase, get_active_backend
from sklearn import model_selection
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import ParameterGrid, ParameterSampler
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils._param_validation import Interval

from .base import BaseMLP
from .together import Member, train

N_SAMPLED = 10  # candidates drawn by default, as in RandomizedSearchCV
MAX_BYTES = 1 << 30  # of the networks that are trained together
OF_FOLDS = ("_fit_and_score", "_fit_and_predict")  # functions of scikit-learn that fit an estimator to one fold


class PopulationSearchCV(BaseSearchCV):
    """Search for the best parameters by cross-validation; networks of one shape are trained together.

    In place of `GridSearchCV` and `RandomizedSearchCV` of scikit-learn, with their attributes and the scores that they
    give for the same estimator.  The last step of a pipeline, or the estimator itself, should be an `MLPClassifier` or
    `MLPRegressor` of this library: then all candidates and folds whose networks have the same sizes, activations,
    loss, batch size and number of samples are trained in the same native calls, on all cores.  Whatever cannot be
    (solver "lbfgs", sparse samples, `warm_start`, callbacks, other estimators) is fitted one by one.

    Parameters
    ----------
    estimator : estimator
    param_grid : dict of str -> sequence, or list of such dicts, optional
        Every combination is a candidate.
    param_distributions : dict of str -> sequence or distribution, or list of such dicts, optional
        Instead of `param_grid`: candidates are drawn, `n_iter` of them.
    n_iter : int, optional
        Number of candidates that are drawn, also from `param_grid`; by default 10 of `param_distributions`, and all of
        `param_grid`.
    scoring, cv, refit, verbose, error_score, return_train_score
        As of `GridSearchCV`.
    random_state : int, RandomState or None
        Of the candidates that are drawn.

    Attributes
    ----------
    cv_results_, best_estimator_, best_score_, best_params_, best_index_, scorer_, n_splits_, refit_time_, multimetric_
        As of `GridSearchCV`.  The time of a fit is its share of the training, and what came before it.
    classes_, n_features_in_, feature_names_in_
        Of `best_estimator_`.

    Notes
    -----
    As everywhere in this library, training uses several threads where they pay, and one in joblib's workers.
    With ``random_state=None`` the estimators draw from NumPy's global generator in another order than one by one.

    Examples
    --------
    >>> from fastbp.estimators import MLPClassifier, PopulationSearchCV
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> grid = {"learning_rate_init": [1e-3, 1e-2], "alpha": [1e-4, 1e-2]}
    >>> search = PopulationSearchCV(MLPClassifier((8,), max_iter=500, random_state=0), grid).fit(X, y)
    >>> search.best_params_["learning_rate_init"]
    0.01
    """

    _parameter_constraints: ClassVar[dict] = {
        **BaseSearchCV._parameter_constraints,
        "param_grid": [dict, list, None],
        "param_distributions": [dict, list, tuple, None],
        "n_iter": [Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator: Any,
        param_grid: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        *,
        param_distributions: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        n_iter: int | None = None,
        scoring: Any = None,
        refit: bool | str | Callable[..., int] = True,
        cv: Any = None,
        verbose: int = 0,
        random_state: int | np.random.RandomState | None = None,
        error_score: float | str = np.nan,
        return_train_score: bool = False,
    ) -> None:
        super().__init__(
            estimator=estimator,
            scoring=scoring,
            refit=refit,
            cv=cv,
            verbose=verbose,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.param_grid = param_grid
        self.param_distributions = param_distributions
        self.n_iter = n_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, **params: Any) -> PopulationSearchCV:
        """Train all candidates on all folds, and the best of them on all samples.

        Parameters
        ----------
        X : array-like (n_samples, n_features)
        y : array-like (n_samples,) or (n_samples, n_outputs), optional
        **params
            Of the `fit` of the estimator, such as sample_weight, and of the splitter, such as groups.

        Returns
        -------
        self
        """
        if (self.param_grid is None) == (self.param_distributions is None):
            raise ValueError(
                "give either param_grid or param_distributions, got "
                f"{self.param_grid!r} and {self.param_distributions!r}"
            )
        collecting = parallel_config(backend=_Collecting())
        self._end_collecting = collecting.unregister
        try:
            return super().fit(X, y, **params)
        finally:
            collecting.unregister()
            del self._end_collecting

    def _run_search(self, evaluate_candidates):
        self._end_collecting()  # by now the calls of the folds are bound to it; those within them, and refit, are not
        evaluate_candidates(self._candidates())

    def _candidates(self):
        if self.param_grid is not None and self.n_iter is None:
            return ParameterGrid(self.param_grid)
        source = self.param_distributions if self.param_grid is None else self.param_grid
        n_iter = N_SAMPLED if self.n_iter is None else self.n_iter
        return ParameterSampler(source, n_iter, random_state=self.random_state)


def cross_val_predict(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    groups: Any = None,
    cv: Any = None,
    params: Mapping[str, Any] | None = None,
    method: str = "predict",
) -> np.ndarray:
    """Return what is predicted for each sample by a network that did not train on it; all folds train together.

    Parameters
    ----------
    estimator, X, y, groups, cv, params, method
        As of `sklearn.model_selection.cross_val_predict`.

    Returns
    -------
    ndarray (n_samples,) or (n_samples, n_outputs or n_classes)
        With the numbers of scikit-learn's function.
    """
    with parallel_config(backend=_Collecting()):
        return model_selection.cross_val_predict(estimator, X, y, groups=groups, cv=cv, params=params, method=method)


class _Collecting(ParallelBackendBase):
    """Backend of joblib that waits for all calls of a `Parallel`, and makes those that train networks together.

    scikit-learn's searches make a call for each candidate and fold; so all of their own code stays in use.
    """

    supports_sharedmem = uses_threads = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"nesting_level": 0, **options})
        self._outer = get_active_backend()
        self._waiting: list[_Call] = []

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return more than there are calls, so that joblib hands over all of them before it waits for the first."""
        return 400_000

    def submit(self, func: Any, callback: Any = None) -> _Batch:
        """Take some calls."""
        items = getattr(func, "items", None) or [(func, (), {})]
        batch = _Batch(self, [_Call(*item) for item in items], callback)
        self._waiting += batch.calls
        return batch

    apply_async = submit  # joblib before 1.5

    def run(self) -> None:
        """Make the calls that wait."""
        waiting, self._waiting = self._waiting, []
        sources = _Sources()
        begun: list[_Call] = []
        backend, n_jobs = self._outer
        with parallel_config(backend=backend, n_jobs=n_jobs):
            for call in waiting:
                call.begin(sources)
                begun.append(call)
                if sum(of_begun.nbytes for of_begun in begun) > MAX_BYTES or call is waiting[-1]:
                    train([of_begun.member for of_begun in begun if of_begun.member is not None])
                    while begun:
                        begun.pop(0).end()


class _Batch:
    """Some calls, whose results joblib asks for."""

    def __init__(self, backend: _Collecting, calls: list[_Call], callback: Any) -> None:
        self._backend, self.calls, self._callback = backend, calls, callback

    def get(self, timeout: float | None = None) -> list[Any]:
        """Return the results."""
        self._backend.run()
        if self._callback is not None:
            self._callback(self)  # without which joblib waits for more calls
        return [call.result for call in self.calls]


class _Left(BaseException):
    """Leaves `fit` with its arguments; not an Exception, as scikit-learn takes those for failed fits."""

    def __init__(self, arguments: tuple) -> None:
        super().__init__()
        self.arguments = arguments


def _leave(*arguments: Any, is_partial: bool) -> None:
    """Stand for the `_fit` of an estimator."""
    raise _Left((*arguments, is_partial))


class _Call:
    """One call of a function, in two parts if it fits a network to a fold and then scores it, or predicts with it."""

    result: Any

    def __init__(self, function: Callable[..., Any], args: tuple, kwargs: dict) -> None:
        self._function, self._args, self._kwargs = function, args, kwargs
        self._estimator: Any = None  # where the call has a second part
        self._error: Exception | None = None
        self._seconds = 0.0
        self.member: Member | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the network that it keeps."""
        return 0 if self.member is None else self.member.nbytes

    def begin(self, sources: _Sources) -> None:
        """Do all up to the training of the network, or all where there is none that can be trained with others."""
        if getattr(self._function, "__name__", "") not in OF_FOLDS:
            self.result = self._function(*self._args, **self._kwargs)
            return
        estimator = self._args[0]
        if self._kwargs.get("parameters"):
            estimator = estimator.set_params(**clone(self._kwargs["parameters"], safe=False))
        network, start = _network_of(estimator), time.perf_counter()
        if network is None:
            self.result = self._function(*self._args, **self._kwargs)
            return
        arguments = sources.arguments(self) if estimator is network else None
        try:
            if arguments is None:
                with _replaced(network, _fit=_leave), _replaced(estimator, set_params=lambda **_: estimator):
                    self.result = self._function(*self._args, **self._kwargs)
                return  # fit has failed before that of the network
        except _Left as left:
            arguments = left.arguments
        self._estimator = estimator
        try:
            self._begin_network(network, arguments, sources)
        except Exception as error:  # of which scikit-learn makes the result of the call
            self._error = error
        self._seconds = time.perf_counter() - start

    def _begin_network(self, network: BaseMLP, arguments: tuple, sources: _Sources) -> None:
        """Do what `_fit` does up to the training, or all of it where there are sparse samples."""
        is_untransformed = self._estimator is network
        if is_untransformed:
            sources.keep_arguments(self, arguments)
            network._validate_params()
            with _replaced(network, _validate_input=sources.validation(network)):
                _, data, validation = network._begin_fit(*arguments)
        else:
            _, data, validation = network._begin_fit(*arguments)
        if data.is_sparse:
            network._fit(*arguments)
        else:
            self.member = Member(network, data, validation)
            sources.share(self.member, is_untransformed, self._args[1], self.train)

    @property
    def fit_params(self) -> Any:
        """Arguments of `fit` besides samples and targets."""
        return self._kwargs.get("fit_params")

    @property
    def train(self) -> Any:
        """Which samples are those of the training."""
        return self._kwargs["train"] if "train" in self._kwargs else self._args[3]

    def end(self) -> None:
        """Do what stands after the training, and let go of the network."""
        estimator, error = self._estimator, self._error
        if estimator is None:
            return
        if self.member is not None:
            error, self._seconds = error or self.member.error, self._seconds + self.member.seconds
        member = self.member

        def fit(*_: Any, **__: Any) -> Any:
            if error is not None:
                raise error
            if member is not None and member.reached_limit:
                warnings.warn(member.estimator._not_converged(), ConvergenceWarning, stacklevel=2)
            return estimator

        with _replaced(estimator, fit=fit, set_params=lambda **_: estimator):
            self.result = self._function(*self._args, **self._kwargs)
        if "fit_time" in self.result:
            self.result["fit_time"] += self._seconds
        self.member = self._estimator = None
        self._args = ()


def _network_of(estimator: Any) -> BaseMLP | None:
    """Return the estimator whose network is the last that is trained, where it can be trained with others."""
    while isinstance(estimator, Pipeline):
        estimator = estimator.steps[-1][1]
    if not isinstance(estimator, BaseMLP) or type(estimator)._fit is not BaseMLP._fit:
        return None
    is_alone = estimator.solver == "lbfgs" or estimator.warm_start or estimator.callbacks
    return None if is_alone or hasattr(estimator, "_skl_callbacks") else estimator


@contextmanager
def _replaced(target: Any, **methods: Callable[..., Any]) -> Iterator[None]:
    """Replace methods of one object."""
    vars(target).update(methods)
    try:
        yield
    finally:
        for name in methods:
            vars(target).pop(name, None)


class _Sources:
    """What calls have in common: the arrays that hold the samples of members, and those of a fold once validated."""

    def __init__(self) -> None:
        self._arguments: dict[tuple[int, int], tuple[Any, tuple]] = {}  # with what has the ids, so that it stays alive
        self._validated: dict[tuple, tuple[tuple, Any, dict]] = {}
        self._whole: dict[Any, np.ndarray | None] = {}  # the samples of all folds
        self._folds: dict[int, tuple[Any, list[np.ndarray]]] = {}  # those of one fold, made by transformers
        self._positions: dict[int, tuple[Any, np.ndarray]] = {}  # with what has the id

    def arguments(self, call: _Call) -> tuple | None:
        """Return the arguments of `_fit` that a call with the same fold has led to."""
        kept = self._arguments.get((id(call.train), id(call.fit_params)))
        return None if kept is None else kept[1]

    def keep_arguments(self, call: _Call, arguments: tuple) -> None:
        """Keep the arguments of `_fit` for the other calls with this fold."""
        kept = call.train, call.fit_params
        self._arguments[id(kept[0]), id(kept[1])] = kept, arguments

    def validation(self, network: BaseMLP) -> Callable[..., Any]:
        """Return a function in place of `_validate_input` that works once for the same samples and targets."""

        def validate(X: Any, y: Any, is_partial: bool, reset: bool) -> Any:
            key = type(network), network.dtype, id(X), id(y)
            if key not in self._validated:
                before = set(vars(network))
                result = type(network)._validate_input(network, X, y, is_partial, reset)
                learned = {name: value for name, value in vars(network).items() if name not in before}
                self._validated[key] = (X, y), result, learned
            _, result, learned = self._validated[key]
            network.__dict__.update(learned)
            return result

        return validate

    def share(self, member: Member, is_untransformed: bool, X: Any, train: Any) -> None:
        """Let a member share its samples, which are ``X[train]`` or were made of them, with others."""
        own = member.data.X
        if is_untransformed:
            whole, positions = self._whole_of(X, own.dtype), self._positions_of(train)
            if whole is not None and whole.shape[1:] == own.shape[1:] and np.array_equal(whole[positions], own):
                member.share(whole, positions)
                return
        _, of_fold = self._folds.setdefault(id(train), (train, []))
        for source in of_fold:
            if source.dtype == own.dtype and np.array_equal(source, own):
                member.share(source, None)
                return
        of_fold.append(own)

    def _whole_of(self, X: Any, dtype: np.dtype) -> np.ndarray | None:
        key = id(X), dtype
        if key not in self._whole:
            try:
                self._whole[key] = np.ascontiguousarray(X, dtype)
            except (ValueError, TypeError):
                self._whole[key] = None
        return self._whole[key]

    def _positions_of(self, train: Any) -> np.ndarray:
        if id(train) not in self._positions:
            rows = np.asarray(train)
            self._positions[id(train)] = train, np.flatnonzero(rows) if rows.dtype == bool else rows
        return self._positions[id(train)][1]
