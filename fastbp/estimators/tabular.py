"""`TabularClassifier` and `TabularRegressor`: a table as it is in, a good small model out; see `fastbp.recipes`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, _check_y, check_is_fitted, validate_data

from ..activations import Activation
from ..datasets.dataset import Dataset, class_names
from ..datasets.frames import is_frame
from ..losses import Loss, Parameterized
from ..population import Population
from ..preprocessing import TableEncoder, encoded
from ..recipes import Recipe, TableModel, train
from .base import _is_in_worker
from .rollback import rolled_back

METADATA_KEY = "estimator"  # of the dtype of `classes_` in the metadata of a model file

_PARAMETERS = """size : "small", "medium" or "large", default="medium"
        Of the networks, and how many there are: see `fastbp.recipes.Recipe.of_size`.
    hidden, activation, n_networks, lr, weight_decay, decay_biases, input_scale_lr, schedule, batch_size, epochs, \
dropout, n_bins, validation_fraction, patience : default=None
        Other values than those of the size, or those that follow from the table: see `fastbp.recipes.Recipe`.
    random_state : int, RandomState or None, default=None
        Of all that is random.  The same number gives the same bits, on any number of threads.
    dtype : "float32" or "float64", default="float32"
        Of all arithmetic.
    threads : int or None, default=None
        Most threads of the training; None: those of `fastbp.get_num_threads`, and one in joblib's workers.
    ignore : sequence of str, default=()
        Columns that are not used.
    features : sequence of str or None, default=None
        The only columns that are used."""

_ATTRIBUTES = """model_ : fastbp.recipes.TableModel
        What predicts: networks, preprocessing and the record of the training.
    population_ : fastbp.Population
        The networks.
    report_ : tuple of str
        What each column became, and what should not go unnoticed, in lines.
    n_features_in_ : int
        Columns of the table.
    feature_names_in_ : ndarray
        Their names."""


def _documented(cls):
    if cls.__doc__:  # not under python -OO
        cls.__doc__ = cls.__doc__.replace("_PARAMETERS", _PARAMETERS).replace("_ATTRIBUTES", _ATTRIBUTES)
    return cls


class BaseTabular(BaseEstimator):
    """Base class of `TabularClassifier` and `TabularRegressor`."""

    size: str
    random_state: Any
    dtype: str
    threads: int | None
    ignore: Sequence[str | int]
    features: Sequence[str | int] | None

    model_: TableModel
    report_: tuple[str, ...]

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> BaseTabular:
        """Train on a table and its targets.

        Parameters
        ----------
        X : data frame, array-like (n_samples, n_features) or list of rows
            Numbers, texts, dates, truth values; cells may be missing.
        y : array-like (n_samples,), for numbers also (n_samples, n_outputs)
        sample_weight : array-like (n_samples,), optional

        Returns
        -------
        self

        Warns
        -----
        UserWarning
            Where columns are left out as they are no features, or values are not what others of their column are.

        Raises
        ------
        ValueError, TypeError
            Where an argument does not fit.  The estimator is then as it was.
        """
        with rolled_back(self):
            X = self._table(X, y)
            y = self._checked_targets(y)
            check_consistent_length(X, y)
            if sample_weight is not None:
                sample_weight = _check_sample_weight(sample_weight, np.empty((len(y), 0)), ensure_non_negative=True)
            encoder = TableEncoder(self.ignore, self.features, leave_out=is_frame(X))
            matrix = encoder.fit_transform(X, fill=False)
            data = self._data(matrix, y, encoder)
            seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
            threads = 1 if self.threads is None and _is_in_worker() else self.threads
            self.report_ = encoder.report
            self.model_ = train(
                self._recipe(), data, seed=int(seed), dtype=self.dtype, threads=threads, sample_weight=sample_weight
            )
        for remark in encoder.remarks:
            warnings.warn(remark, UserWarning, stacklevel=2)
        return self

    def _recipe(self) -> Recipe:
        own = ("size", "random_state", "dtype", "threads", "ignore", "features")
        values = {name: value for name, value in self.get_params(deep=False).items() if name not in own}
        return Recipe.of_size(self.size, **{name: value for name, value in values.items() if value is not None})

    def _table(self, X: Any, y: Any = "no_validation") -> Any:
        """Check a table, its names and the number of its columns: in `fit`, which gives y, they become those to be."""
        if not is_frame(X):
            X = np.array(X, object) if isinstance(X, list | tuple) and not _are_numbers(X) else X
            X = check_array(X, dtype=None, ensure_all_finite="allow-nan", estimator=self, input_name="X")
        validate_data(self, X, y, reset=not isinstance(y, str), skip_check_array=True)
        return X

    def _outputs(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return self.model_.outputs(self._matrix(X))

    def _matrix(self, X: Any) -> np.ndarray:
        """Return the features of a table."""
        X = self._table(X)
        preprocessor = self.model_.preprocessor
        assert preprocessor.columns is not None
        return encoded(X, tuple(preprocessor.columns), bool(preprocessor.has_names)).X

    def _checked_targets(self, y: Any) -> np.ndarray:
        """Check targets."""
        raise NotImplementedError

    def _data(self, matrix: np.ndarray, y: np.ndarray, encoder: TableEncoder) -> Dataset:
        """Return samples and targets as `train` takes them."""
        raise NotImplementedError

    @property
    def population_(self) -> Population:
        """The networks."""
        check_is_fitted(self)
        return self.model_.population

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the model to one file, which `load`, `fastbp.load` and `fastbp predict` read."""
        check_is_fitted(self)
        self.model_.save(path, {METADATA_KEY: self._kind()})

    def _kind(self) -> str:
        return ""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Any:
        """Return a fitted estimator, of a model that `save`, or `fastbp train`, wrote.

        Its parameters are the default ones.  Without them, `classes_` of another kind than numbers and truth values are
        texts.

        Raises
        ------
        ValueError
            If the file is damaged, or its model is of other targets.
        """
        model = TableModel.load(path)
        task = "classes" if issubclass(cls, ClassifierMixin) else "numbers"
        if model.task != task:
            raise ValueError(f"{os.fspath(path)} predicts {model.task}, but {cls.__name__} {task}")
        if model.preprocessor.columns is None:
            raise ValueError(
                f"{os.fspath(path)} was trained on arrays without columns: fastbp.recipes.TableModel loads it"
            )
        estimator = cls()
        estimator.model_, estimator.report_ = model, ()
        estimator.n_features_in_ = len(model.preprocessor.columns)
        if model.preprocessor.has_names:
            names = [column.name for column in model.preprocessor.columns]
            estimator.feature_names_in_ = np.array(names, object)
        estimator._take(model.population.metadata.get(METADATA_KEY, ""))
        return estimator

    def _take(self, kind: str) -> None:
        """Take up what `_kind` returned of an estimator that was saved."""

    def __sklearn_tags__(self):
        """Say that cells may be missing, and texts."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        return tags


def _are_numbers(rows: Any) -> bool:
    """Whether a list of rows is an array of numbers."""
    try:
        return np.array(rows).dtype.kind in "biuf"
    except ValueError:  # rows of different lengths
        return True  # of which `check_array` says so


@_documented
class TabularClassifier(ClassifierMixin, BaseTabular):
    """Classifier for tables: an ensemble of small networks, trained together.

    Parameters
    ----------
    _PARAMETERS

    Attributes
    ----------
    classes_ : ndarray (n_classes,)
    _ATTRIBUTES

    Examples
    --------
    >>> from fastbp.estimators import TabularClassifier
    >>> rows = [["red", 1.0], ["blue", None], ["red", 3.0], ["blue", 4.0]] * 20
    >>> model = TabularClassifier("small", epochs=5, random_state=0).fit(rows, ["yes", "no", "yes", "no"] * 20)
    >>> model.predict([["red", 2.0], ["blue", 2.0]])
    array(['yes', 'no'], dtype='<U3')
    """

    classes_: np.ndarray

    def __init__(
        self,
        size: str = "medium",
        *,
        hidden: Sequence[int] | None = None,
        activation: str | Activation | None = None,
        n_networks: int | None = None,
        lr: float | None = None,
        weight_decay: float | None = None,
        decay_biases: bool | None = None,
        input_scale_lr: float | None = None,
        schedule: str | None = None,
        batch_size: int | None = None,
        epochs: int | None = None,
        dropout: float | None = None,
        n_bins: int | None = None,
        validation_fraction: float | None = None,
        patience: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        dtype: str = "float32",
        threads: int | None = None,
        ignore: Sequence[str | int] = (),
        features: Sequence[str | int] | None = None,
    ) -> None:
        self.__dict__.update({name: value for name, value in locals().items() if name in self._get_param_names()})

    def predict(self, X: Any) -> np.ndarray:
        """Return the classes (n_samples,) of the rows of a table."""
        A = self._outputs(X)
        return self.classes_.take(A.argmax(axis=1))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return probabilities (n_samples, n_classes), means over the networks, in the order of `classes_`."""
        return self._outputs(X)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithms of `predict_proba`."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def _checked_targets(self, y: Any) -> np.ndarray:
        check_classification_targets(y)
        y = _check_y(column_or_1d(y, warn=True), estimator=self)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must have two or more classes, got the one class {self.classes_.tolist()[0]!r}")
        return labels.astype(np.int64)

    def _data(self, matrix, y, encoder):
        names = class_names(self.classes_)
        return Dataset(matrix, y, names, encoder.columns, has_names=encoder.has_names)

    def _kind(self) -> str:
        return self.classes_.dtype.str if self.classes_.dtype.kind in "biuf" else ""

    def _take(self, kind: str) -> None:
        texts = np.array(self.model_.classes)
        is_truth = kind == np.dtype(bool).str
        self.classes_ = texts == "True" if is_truth else texts.astype(kind) if kind else texts


@_documented
class TabularRegressor(RegressorMixin, BaseTabular):
    """Regressor for tables: an ensemble of small networks, trained together.

    Parameters
    ----------
    _PARAMETERS
    loss : str or a loss of fastbp, default=None
        None: "squared_error".  Others are "absolute_error", "huber", "log_cosh" and "quantile"; numbers are
        standardized.

    Attributes
    ----------
    _ATTRIBUTES

    Examples
    --------
    >>> from fastbp.estimators import TabularRegressor
    >>> X = np.linspace(-1, 1, 100).reshape(-1, 1)
    >>> mean, std = TabularRegressor("small", random_state=0).fit(X, X[:, 0] ** 2).predict(X[:3], return_std=True)
    >>> mean.shape, std.shape
    ((3,), (3,))
    """

    def __init__(
        self,
        size: str = "medium",
        *,
        hidden: Sequence[int] | None = None,
        activation: str | Activation | None = None,
        loss: str | Parameterized | Loss | None = None,
        n_networks: int | None = None,
        lr: float | None = None,
        weight_decay: float | None = None,
        decay_biases: bool | None = None,
        input_scale_lr: float | None = None,
        schedule: str | None = None,
        batch_size: int | None = None,
        epochs: int | None = None,
        dropout: float | None = None,
        n_bins: int | None = None,
        validation_fraction: float | None = None,
        patience: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        dtype: str = "float32",
        threads: int | None = None,
        ignore: Sequence[str | int] = (),
        features: Sequence[str | int] | None = None,
    ) -> None:
        self.__dict__.update({name: value for name, value in locals().items() if name in self._get_param_names()})

    def predict(self, X: Any, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Return the numbers that are predicted for the rows of a table.

        Parameters
        ----------
        X : as for `fit`
        return_std : bool, default=False
            Also return their standard deviation over the networks: how far they disagree.

        Returns
        -------
        mean : ndarray (n_samples,), or (n_samples, n_outputs) where there are several
        std : ndarray of the same shape
            With `return_std` only.
        """
        check_is_fitted(self)
        matrix = self._matrix(X)
        mean = self.model_.predict(matrix)
        return (mean, self.model_.spread(matrix)) if return_std else mean

    def _checked_targets(self, y: Any) -> np.ndarray:
        y = _check_y(y, multi_output=True, y_numeric=True, estimator=self)
        return column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _data(self, matrix, y, encoder):
        return Dataset(matrix, y, columns=encoder.columns, has_names=encoder.has_names)

    def __sklearn_tags__(self):
        """Say that a sample may have several targets."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
