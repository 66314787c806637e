"""scikit-learn's `MLPClassifier` and `MLPRegressor`, drop in: change the import, and nothing else.

Parameters, fitted attributes and numbers are those of `sklearn.neural_network`, the training runs in this library's
kernels, and keywords of their own offer what is refused there.  `MLPEnsembleClassifier`, `MLPEnsembleRegressor` and
`PopulationSearchCV` train many networks at once; `TabularClassifier` and `TabularRegressor` take a table as it is.
Needs scikit-learn: ``pip install 'fastbp[sklearn]'``.
"""

try:
    import sklearn as _sklearn  # noqa: F401
except ImportError:
    raise ImportError("fastbp.estimators needs scikit-learn: pip install 'fastbp[sklearn]'") from None

from .ensemble import MLPEnsembleClassifier, MLPEnsembleRegressor
from .mlp import MLPClassifier, MLPRegressor
from .search import PopulationSearchCV, cross_val_predict
from .tabular import TabularClassifier, TabularRegressor

__all__ = [
    "MLPClassifier",
    "MLPEnsembleClassifier",
    "MLPEnsembleRegressor",
    "MLPRegressor",
    "PopulationSearchCV",
    "TabularClassifier",
    "TabularRegressor",
    "cross_val_predict",
]
