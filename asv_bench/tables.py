#!/usr/bin/env python3
"""How well fastbp's recipes do on tables, beside gradient-boosted trees and other networks, and what they cost.

    pip install scikit-learn pytabkit torch     # without pytabkit, RealMLP is left out
    python tables.py                            # the tables of scikit-learn, three splits
    python tables.py --splits 5 --json results.jsonl abalone.csv titanic.csv:survived
    python tables.py --half choose --recipe "medium,n_networks=8" --relative-to "fastbp medium"

Each split holds out another fifth of the rows.  Contestants train one after the other, after a training on a small
table that is not timed.  Seconds are those of training and of predicting the rows held out, on all cores; on one core
for RealMLP, which a second one saved a fifth of the time, and for trees of fewer than 10,000 rows, which it saved none.

A table belongs to one of two halves: choose recipes by the first, and look at the other once.  CSV files, whose target
is the last column or the one after the colon, belong to a half by a checksum of their names.

HistGradientBoosting gets missing numbers and categories as they are, RealMLP categories, a flag for missing numbers and
their mean, the others one-hot numbers.
"""

import argparse
import ast
import json
import logging
import time
import warnings
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from sklearn import datasets as made
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss, r2_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import fastbp
from fastbp import recipes
from fastbp.datasets import Dataset, read_csv

TEST_FRACTION = 0.2
SHIFT = 0.01  # added to errors and losses before their ratio is taken: one of nothing would count for everything
N_BINS = 15  # of confidence, for the calibration error
HALVES = "choose", "confirm"
MANY_ROWS = 10_000  # with fewer, a second thread does not make trees faster, and spins for seconds if its core is taken
TREES = "HistGradientBoosting"


class Table(NamedTuple):
    half: str
    load: Callable[[], tuple]  # X, y
    classifies: bool = True


TABLES = {
    "iris": Table("choose", lambda: made.load_iris(return_X_y=True)),
    "digits": Table("choose", lambda: made.load_digits(return_X_y=True)),
    "moons": Table("choose", lambda: made.make_moons(2000, noise=0.3, random_state=0)),
    "quantiles": Table(
        "choose", lambda: made.make_gaussian_quantiles(n_samples=8000, n_features=6, n_classes=4, random_state=0)
    ),
    "clusters": Table(
        "choose",
        lambda: made.make_classification(
            2000, 20, n_informative=6, n_redundant=4, n_clusters_per_class=4, flip_y=0.03, random_state=0
        ),
    ),
    "rare": Table(
        "choose", lambda: made.make_classification(4000, 12, n_informative=5, weights=[0.92], random_state=0)
    ),
    "diabetes": Table("choose", lambda: made.load_diabetes(return_X_y=True), False),
    "friedman1": Table("choose", lambda: made.make_friedman1(1000, noise=1.0, random_state=0), False),
    "friedman3": Table("choose", lambda: made.make_friedman3(2000, noise=0.1, random_state=0), False),
    "swiss_roll": Table("choose", lambda: made.make_swiss_roll(4000, noise=0.7, random_state=0), False),
    "wine": Table("confirm", lambda: made.load_wine(return_X_y=True)),
    "breast_cancer": Table("confirm", lambda: made.load_breast_cancer(return_X_y=True)),
    "circles": Table("confirm", lambda: made.make_circles(1000, noise=0.2, factor=0.5, random_state=0)),
    "hastie": Table("confirm", lambda: made.make_hastie_10_2(8000, random_state=0)),
    "few": Table(
        "confirm",
        lambda: made.make_classification(500, 40, n_informative=8, n_classes=3, class_sep=1.5, random_state=0),
    ),
    "five_classes": Table(
        "confirm", lambda: made.make_classification(4000, 30, n_informative=10, n_classes=5, random_state=0)
    ),
    "friedman1_long": Table("confirm", lambda: made.make_friedman1(8000, 20, noise=1.0, random_state=0), False),
    "friedman2": Table("confirm", lambda: made.make_friedman2(2000, noise=100.0, random_state=0), False),
    "linear": Table("confirm", lambda: made.make_regression(1000, 20, noise=50.0, random_state=0), False),
    "uncorrelated": Table("confirm", lambda: made.make_sparse_uncorrelated(1000, 10, random_state=0), False),
    # Only by its name, for the time that it takes.
    "long": Table("time", lambda: made.make_classification(100_000, 20, n_informative=10, n_classes=3, random_state=0)),
}


def load(name: str) -> Dataset:
    """Return a table of scikit-learn."""
    table = TABLES[name]
    X, y = table.load()
    if not table.classifies:
        return Dataset(X, y)
    values, indices = np.unique(y, return_inverse=True)
    return Dataset(X, indices, tuple(str(value) for value in values))


def load_csv(argument: str) -> Dataset:
    """Return the table in FILE or FILE:TARGET."""
    path, _, target = argument.partition(":")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of columns left out
        return read_csv(path, int(target) if target.isdecimal() else target or -1)


def half_of(name: str) -> str:
    """Return the half that a table belongs to."""
    return TABLES[name].half if name in TABLES else HALVES[zlib.crc32(Path(name).stem.encode()) % 2]


def as_categories(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return one column of X for each that was one-hot, NaN where a number is missing, and which are categories."""
    if data.columns is None:
        return data.X, np.zeros(data.X.shape[1], bool)
    columns, are_categories, first = [], [], 0
    for column in data.columns:
        if column.is_left_out:
            continue
        block = data.X[:, first : first + column.n_features].copy()
        first += column.n_features
        if column.categories is not None:
            block = block.argmax(axis=1)[:, None].astype(float)
        elif column.flag:
            block[block[:, -1] == 1] = np.nan
            block = block[:, :-1]
        columns.append(block)
        are_categories += [column.categories is not None] * block.shape[1]
    return np.hstack(columns), np.array(are_categories)


# Each contestant trains on some rows of a table and returns its predictions for others: probabilities of the classes,
# or numbers.


def with_recipe(recipe):
    def contestant(data, rows, test, seed):
        model = recipes.train(recipe, data, rows, seed=seed)
        outputs = model.outputs(data.X[test])
        return outputs if data.classes else model.preprocessor.predictions(outputs)[:, 0]

    return contestant


def _fitted(model, X, data, rows, test):
    """Fit an estimator of scikit-learn's kind and predict."""
    take = X.iloc if hasattr(X, "iloc") else X
    model.fit(take[rows], data.y[rows])
    if not data.classes:
        return model.predict(take[test])
    probabilities = np.zeros((len(test), len(data.classes)))
    probabilities[:, np.asarray(model.classes_, int)] = model.predict_proba(take[test])
    return probabilities


def with_trees(data, rows, test, seed):
    X, are_categories = as_categories(data)
    kind = HistGradientBoostingClassifier if data.classes else HistGradientBoostingRegressor
    model = kind(categorical_features=are_categories, random_state=seed)
    with threadpool_limits(1 if len(rows) < MANY_ROWS else None, "openmp"):
        return _fitted(model, X, data, rows, test)


def with_sklearn_mlp(data, rows, test, seed):
    X = StandardScaler().fit(data.X[rows]).transform(data.X)
    return _fitted((MLPClassifier if data.classes else MLPRegressor)(random_state=seed), X, data, rows, test)


def with_textbook_network(data, rows, test, seed):
    """What `fastbp train` did before it had recipes: sigmoid neurons, plain momentum."""
    X = StandardScaler().fit(data.X[rows]).transform(data.X).astype(np.float32)
    mean, scale = (0, 1) if data.classes else (data.y[rows].mean(), data.y[rows].std())
    net = fastbp.Network(
        [X.shape[1], 30, len(data.classes or "1")],
        ["sigmoid", "softmax" if data.classes else "identity"],
        loss="cross_entropy" if data.classes else "squared_error",
        seed=seed,
    )
    optimizer = fastbp.SGD(0.2 if data.classes else 0.02, momentum=0.9)
    trainer = fastbp.Trainer(net, optimizer, batch_size=20, seed=seed)
    y = data.y[rows] if data.classes else (data.y[rows] - mean) / scale
    trainer.fit(X[rows], y, epochs=min(2000, max(30, -(-2000 * 20 // len(rows)))), progress=False)
    A = net.predict(X[test])
    return A if data.classes else A[:, 0].astype(np.float64) * scale + mean


def with_realmlp(size):
    def contestant(data, rows, test, seed):
        import pandas as pd
        import pytabkit

        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        X, are_categories = as_categories(data)
        missing = np.isnan(X)
        flags = missing[:, missing.any(axis=0)]
        X = np.hstack([np.where(missing, np.nanmean(X[rows], axis=0), X), flags])
        are_categories = np.append(are_categories, np.zeros(flags.shape[1], bool))
        X = pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])])
        for name in X.columns[are_categories]:
            X[name] = X[name].astype(int).astype("category")
        kind = getattr(pytabkit, f"RealMLP_{size}_{'Classifier' if data.classes else 'Regressor'}")
        return _fitted(kind(device="cpu", n_threads=1, random_state=seed, verbosity=0), X, data, rows, test)

    return contestant


def all_contestants(of_recipes):
    """Return every contestant by name, and a line for each that is missing here."""
    contestants = {f"fastbp {size}": with_recipe(recipes.Recipe.of_size(size)) for size in recipes.SIZES}
    contestants |= {name: with_recipe(recipe) for name, recipe in of_recipes.items()}
    contestants[TREES] = with_trees
    contestants["MLP of scikit-learn"] = with_sklearn_mlp
    contestants["textbook network"] = with_textbook_network
    if find_spec("pytabkit") is None:
        return contestants, ["pytabkit is not installed: without RealMLP"]
    return contestants | {"RealMLP-TD-S": with_realmlp("TD_S"), "RealMLP-TD": with_realmlp("TD")}, []


def recipe_of(argument):
    """Return the name and the recipe that "medium,n_networks=8,hidden=(64, 64)" describes."""
    call = ast.parse(f"f({argument})", mode="eval").body
    (size,) = call.args
    return argument, recipes.Recipe.of_size(size.id, **{k.arg: ast.literal_eval(k.value) for k in call.keywords})


def calibration_error(probabilities, y):
    """Expected calibration error: how far confidence and accuracy differ in bins of confidence, weighted by rows."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == y
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    differences = np.bincount(bins, right - confidence, N_BINS)
    return float(np.abs(differences).sum() / len(y))


def split_of(data, seed):
    """Return rows to train on, and rows held out."""
    stratified = data.y if data.classes and np.bincount(data.y).min() > 1 else None
    return train_test_split(np.arange(len(data.y)), test_size=TEST_FRACTION, random_state=seed, stratify=stratified)


def run(contestant, data, rows, test, seed):
    """Return scores and times of a contestant."""
    wall, cpu = time.perf_counter(), time.process_time()
    predicted = contestant(data, rows, test, seed)
    result = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    y, predicted = data.y[test], np.asarray(predicted, np.float64)
    if not data.classes:
        return result | {"error": float(np.sqrt(1 - r2_score(y, predicted)))}
    predicted /= predicted.sum(axis=1, keepdims=True)
    return result | {
        "error": float((predicted.argmax(axis=1) != y).mean()),
        "log_loss": float(log_loss(y, predicted, labels=range(len(data.classes)))),
        "calibration_error": calibration_error(predicted, y),
    }


def warm_up(name, contestant, are_warm):
    """Compile and import what a contestant needs."""
    for of_table in ("iris", "diabetes"):
        if (name, of_table) not in are_warm:
            data = load(of_table)
            contestant(data, np.arange(0, len(data.y), 5), np.arange(10), 0)
            are_warm.add((name, of_table))


def measure(chosen, contestants, n_splits, path):
    """Run each contestant on each split of each table, but for results that the file has; return all of them."""
    results = [json.loads(line) for line in path.read_text().splitlines()] if path and path.exists() else []
    are_done = {(of_one["table"], of_one["split"], of_one["contestant"]) for of_one in results}
    are_warm = set()
    for split in range(n_splits):
        for table, loader in chosen.items():
            missing = [name for name in contestants if (table, split, name) not in are_done]
            if not missing:
                continue
            data = loader()
            rows, test = split_of(data, split)
            shape = {"rows": len(data.y), "features": data.X.shape[1], "classes": len(data.classes or ())}
            for name in missing:
                warm_up(name, contestants[name], are_warm)
                scores = run(contestants[name], data, rows, test, split)
                results.append({"table": table, "split": split, "contestant": name, **shape, **scores})
                if path:
                    with path.open("a") as stream:
                        stream.write(json.dumps(results[-1]) + "\n")
    return [
        of_one
        for of_one in results
        if of_one["table"] in chosen and of_one["contestant"] in contestants and of_one["split"] < n_splits
    ]


def by_table(results, contestant, key):
    """Return the values of a contestant: a dict of split to value for each table."""
    values = {}
    for of_one in results:
        if of_one["contestant"] == contestant and key in of_one:
            values.setdefault(of_one["table"], {})[of_one["split"]] = of_one[key]
    return values


def log_ratio(results, contestant, base, key, tables=None):
    """Return the mean over tables of the logarithm of a ratio to another contestant, and its standard error.

    The standard error is that over other splits of the same tables, from the mean of their variances.
    """
    ours, theirs = by_table(results, contestant, key), by_table(results, base, key)
    logs = [
        [np.log((ours[table][split] + SHIFT) / (theirs[table][split] + SHIFT)) for split in sorted(common)]
        for table in ours
        if (tables is None or table in tables) and (common := ours[table].keys() & theirs.get(table, {}).keys())
    ]
    variances = [np.var(of_one, ddof=1) for of_one in logs if len(of_one) > 1]
    mean = np.mean([np.mean(of_one) for of_one in logs]) if logs else np.nan
    error = np.sqrt(np.mean(variances) * sum(1 / len(of_one) for of_one in logs)) / len(logs) if variances else np.nan
    return mean, error


def _ratio(results, contestant, base, key, tables=None):
    mean, error = log_ratio(results, contestant, base, key, tables)
    ratio = np.exp(mean)
    return "" if np.isnan(mean) else f"{ratio:.3f}" + ("" if np.isnan(error) else f" ± {ratio * error:.3f}")


def _median_ratio(results, contestant, base, key):
    """Compare the least times of the splits, those that other work on the machine disturbed least."""
    ours, theirs = by_table(results, contestant, key), by_table(results, base, key)
    ratios = [
        min(ours[table][s] for s in common) / min(theirs[table][s] for s in common)
        for table in ours
        if (common := ours[table].keys() & theirs.get(table, {}).keys())
    ]
    return f"{median(ratios):.2f} (to {max(ratios):.1f})" if ratios else ""


def _wins(results, contestant, base):
    ours, theirs = by_table(results, contestant, "error"), by_table(results, base, "error")
    differences = [
        np.mean([ours[table][s] - theirs[table][s] for s in common])
        for table in ours
        if (common := ours[table].keys() & theirs.get(table, {}).keys())
    ]
    n_ties = sum(abs(difference) < 1e-12 for difference in differences)
    return f"{sum(d <= -1e-12 for d in differences)}{f' (+ {n_ties} ties)' * bool(n_ties)} of {len(differences)}"


def print_contestants(results, contestants, base):
    """Print a line for each contestant, relative to one of them."""
    classify = {of_one["table"] for of_one in results if of_one["classes"]}
    others = {of_one["table"] for of_one in results} - classify
    print(f"\nRelative to {base}; ± one standard error over splits.")
    print("Times: the least of the splits, median over tables (to the largest).\n")
    print("| | error | classes | numbers | log loss | calibration error | wall time | CPU time | wins |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name in contestants:
        calibration = by_table(results, name, "calibration_error").values()
        cells = [
            _ratio(results, name, base, "error"),
            _ratio(results, name, base, "error", classify),
            _ratio(results, name, base, "error", others),
            _ratio(results, name, base, "log_loss"),
            f"{np.mean([np.mean(list(of_one.values())) for of_one in calibration]):.3f}" if calibration else "",
            _median_ratio(results, name, base, "wall"),
            _median_ratio(results, name, base, "cpu"),
            _wins(results, name, base) if name != base else "",
        ]
        print(f"| {name} |", " | ".join(cells), "|")


def print_tables(results, contestants):
    """Print a line for each table: the error of each contestant, and the fewest and most seconds of its splits."""
    print("\nError (1 - accuracy, or the square root of 1 - R2): mean ± standard error over splits.\n")
    print("| table | rows x features | targets |", " | ".join(contestants), "|")
    print("|---|---:|---|", "---:|" * len(contestants), sep="")
    errors = {name: by_table(results, name, "error") for name in contestants}
    for table in dict.fromkeys(of_one["table"] for of_one in results):
        of_one = next(of_one for of_one in results if of_one["table"] == table)
        cells = []
        for name in contestants:
            values = list(errors[name].get(table, {}).values())
            error = f" ± {np.std(values, ddof=1) / np.sqrt(len(values)):.3f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.3f}{error}" if values else "")
        targets = f"{of_one['classes']} classes" if of_one["classes"] else "numbers"
        print(f"| {table} | {of_one['rows']} x {of_one['features']} | {targets} |", " | ".join(cells), "|")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", nargs="*", metavar="FILE[:TARGET]", help="CSV files besides the tables of scikit-learn")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--half", choices=[*HALVES, "both"], default="both")
    parser.add_argument("--tables", help="comma-separated names, instead of all")
    parser.add_argument("--contestants", help="comma-separated names, instead of all")
    parser.add_argument(
        "--recipe", action="append", default=[], type=recipe_of, help='"medium,n_networks=8"; repeatable'
    )
    parser.add_argument("--relative-to", default=TREES, metavar="CONTESTANT")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a line for each result; runs go on from it")
    chosen = parser.parse_args(arguments)
    contestants, remarks = all_contestants(dict(chosen.recipe))
    for remark in remarks:
        print(remark)
    if chosen.contestants:
        names = [*chosen.contestants.split(","), *dict(chosen.recipe)]
        if unknown := [name for name in names if name not in contestants]:
            parser.error(f"--contestants {', '.join(unknown)}: choose from {', '.join(contestants)}")
        contestants = {name: contestants[name] for name in names}
    tables = {name: lambda name=name: load(name) for name, table in TABLES.items() if table.half in HALVES}
    if chosen.tables is not None:
        if unknown := [name for name in chosen.tables.split(",") if name and name not in TABLES]:
            parser.error(f"--tables {', '.join(unknown)}: choose from {', '.join(TABLES)}")
        tables = {name: lambda name=name: load(name) for name in chosen.tables.split(",") if name}
    tables |= {Path(one.partition(":")[0]).name: lambda one=one: load_csv(one) for one in chosen.csv}
    if chosen.half != "both":
        tables = {name: loader for name, loader in tables.items() if half_of(name) == chosen.half}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # scikit-learn's MLP has 200 epochs by default
        warnings.filterwarnings("ignore", module="pytorch_lightning|pytabkit")
        results = measure(tables, contestants, chosen.splits, chosen.json)
    print_contestants(results, contestants, chosen.relative_to)
    print_tables(results, contestants)


if __name__ == "__main__":
    main()
