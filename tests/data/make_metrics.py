"""Write metrics.json: targets, outputs and what scikit-learn says of them.

Needs scikit-learn; run with `python tests/data/make_metrics.py` when a metric is added.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import sklearn
from sklearn import metrics as sk


def classes(predicted, Y, average):
    options = dict(average=average, zero_division=0) if average else {}
    return {
        name: float(getattr(sk, f"{name}_score")(Y, predicted, **(options if name != "accuracy" else {})))
        for name in ("accuracy", "precision", "recall", "f1")
    }


def one_class(A, labels, *ks):
    top = {f"top_{k}": float(sk.top_k_accuracy_score(labels, A, k=k, labels=range(A.shape[1]))) for k in ks}
    return classes(A.argmax(axis=1), labels, "macro") | top


def numbers(A, Y):
    names = dict(
        mae=sk.mean_absolute_error,
        rmse=sk.root_mean_squared_error,
        r2=sk.r2_score,
        explained_variance=sk.explained_variance_score,
    )
    return {name: float(function(Y, A)) for name, function in names.items()}


def rounded(values):
    """To what float32 holds exactly, and few enough values for some to be equal."""
    return np.round(values * 16) / 16


rng = np.random.default_rng(0)
cases = {}


def case(name, A, Y, expected):
    cases[name] = dict(A=A.tolist(), Y=Y.tolist(), expected=expected)


labels = rng.choice([0, 1, 2, 5], 60)  # classes 3 and 4 do not occur; 4 is predicted, 3 is not
A = rounded(rng.random((60, 6)) + np.eye(6)[labels] * 0.4)
A[:, 3] = 0
case("labels", A, labels, one_class(A, labels, 1, 2, 3, 5))
case("one-hot rows", A, np.eye(6)[labels], one_class(A, labels, 2, 3))
case(
    "equal outputs",
    np.full((7, 3), 0.5),
    np.array([0, 1, 2, 0, 1, 2, 2]),
    one_class(np.full((7, 3), 0.5), np.array([0, 1, 2, 0, 1, 2, 2]), 1, 2),
)
Y = rng.integers(0, 2, (50, 1)).astype(float)
A = rounded(np.clip(rng.normal(0.3 + 0.3 * Y, 0.3), 0, 1))
case("one output", A, Y, classes(A > 0.5, Y, "binary"))
case("one output, never yes", 0.25 * A, Y, classes(0.25 * A > 0.5, Y, "binary"))
case("one output, all true", A, np.ones_like(Y), classes(A > 0.5, np.ones_like(Y), "binary"))
case("one output of -1 and 1", 2 * A - 0.75, 2 * Y - 1, classes(2 * A - 0.75 > 0, Y, "binary"))
Y = (rng.random((40, 4)) < [0.1, 0.5, 0.8, 0]).astype(float)
A = rounded(np.clip(rng.normal(0.2 + 0.6 * Y, 0.25), 0, 1)) * [1, 1, 1, 0.25]
case("multi-label", A, Y, classes(A > 0.5, Y, "macro"))
for name, columns, offset in (("number", 1, 0), ("numbers", 3, 0), ("numbers far from 0", 3, 4096)):
    Y = rounded(rng.normal(size=(45, columns))) + offset
    A = Y + rounded(rng.normal(0.25, 0.5, Y.shape))
    case(name, A, Y, numbers(A, Y))
Y = np.column_stack([np.full(9, 0.5), np.full(9, 2.0), np.arange(9.0)])
A = Y + [[0, 0.5, 0.25]]
case("constant targets", A, Y, numbers(A, Y))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    case("one sample", A[:1], Y[:1], numbers(A[:1], Y[:1]))

text = json.dumps(dict(scikit_learn=sklearn.__version__, cases=cases))
Path(__file__).with_name("metrics.json").write_text(text.replace('}, "', '},\n"') + "\n")
