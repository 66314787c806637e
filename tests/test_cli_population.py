"""The commands of many networks: `fastbp train --ensemble` and `fastbp search`."""

import re
from dataclasses import fields

import numpy as np
import pytest
from test_cli import accuracy, error_line, run

import fastbp
from fastbp.cli import samples, textbook
from fastbp.cli.options import TrainingOptions
from fastbp.preprocessing import Preprocessor, read, split


@pytest.fixture
def table(tmp_path):
    """Make a CSV file of three classes, one of them the inside of a ring."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(240, 2))
    radius = np.hypot(*X.T)
    kinds = np.where(radius < 0.8, "inner", np.where(X[:, 0] > 0, "right", "left"))
    path = tmp_path / "ring.csv"
    path.write_text("a,b,kind\n" + "".join(f"{a:.6f},{b:.6f},{kind}\n" for (a, b), kind in zip(X, kinds, strict=True)))
    return path


@pytest.fixture
def numbers(tmp_path):
    """Make a CSV file of a function of two features, far from the scale of a network."""
    X = np.random.default_rng(0).uniform(-2, 2, (200, 2))
    path = tmp_path / "numbers.csv"
    np.savetxt(path, np.column_stack([X, 1e5 + 1e3 * (X[:, 0] + np.sin(2 * X[:, 1]))]), delimiter=",")
    return path


def ranked(text):
    """Return the cells of the table of a search, a list for each row."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.split()[:2] == ["rank", "hidden"])
    rows = [line.split() for line in lines[first + 1 :]]
    return [row for row in rows if row and row[0].isdecimal() and len(row) >= 7]


# ------------------------------------------------------------------ fastbp train --ensemble


def test_an_ensemble_is_trained_saved_and_predicts(table, tmp_path):
    model = tmp_path / "model.npz"
    output = run("train", table, "--ensemble", 4, "--epochs", 12, "--hidden", 6, "--seed", 3, "--out", model).stdout
    assert "4 networks 2-6-3, sigmoid, softmax; cross_entropy; 39 parameters each, float32" in output
    assert "trained 12 epochs" in output and f"fastbp predict {model}" in output
    pop = fastbp.load(model)
    assert isinstance(pop, fastbp.Population) and len(pop) == 4 and np.ptp(pop.parameters, axis=0).max() > 0.1
    samples = read(str(table))
    rows, test = split(samples.y, 0.2, True)
    preprocessor = Preprocessor.from_metadata(pop.metadata, sizes=pop.sizes, path=model)
    X = preprocessor.inputs(samples.X, pop.dtype)
    labels = pop.predict(X[test]).argmax(axis=2)
    scores = (labels == samples.y[test]).mean(axis=1)
    assert f"mean {scores.mean():.2%}, {scores.min():.2%} to {scores.max():.2%}" in output
    of_mean = (pop.mean(X[test]).argmax(axis=1) == samples.y[test]).mean()
    assert accuracy(output) == pytest.approx(100 * of_mean, abs=0.01)

    result = run("predict", model, table)
    assert accuracy(result.stderr, str(table)) == pytest.approx(
        100 * (pop.mean(X).argmax(axis=1) == samples.y).mean(), abs=0.01
    )
    names, probabilities = zip(*(line.split(",") for line in result.stdout.splitlines()[1:]), strict=True)
    assert list(names) == [samples.classes[k] for k in pop.mean(X).argmax(axis=1)]
    np.testing.assert_allclose(np.array(probabilities, float), pop.mean(X).max(axis=1), rtol=1e-5)

    # each member is trained as the population of Python
    again = fastbp.Population([2, 6, 3], 4, ["sigmoid", "softmax"], loss="cross_entropy", seed=3, backend="numpy")
    y = preprocessor.targets(samples.y, again.loss_name)
    fastbp.Trainer(again, fastbp.SGD(0.2, 0.9), batch_size=20, seed=3).fit(X[rows], y[rows], epochs=12, progress=False)
    np.testing.assert_array_equal(again.parameters, pop.parameters)


def test_epochs_of_an_ensemble_show_means(table):
    output = run("train", table, "--ensemble", 3, "--epochs", 2, "--hidden", 4).stdout
    assert "means over the networks" in output
    line = next(line for line in output.splitlines() if line.split()[:1] == ["2"])
    shown = float(line.split()[1])
    losses = []
    samples = read(str(table))
    rows, _ = split(samples.y, 0.2, True)
    preprocessor = Preprocessor.of(samples, rows)
    for seed in np.random.SeedSequence(0).spawn(3):
        net = fastbp.Network([2, 4, 3], ["sigmoid", "softmax"], loss="cross_entropy", seed=seed, backend="numpy")
        X, y = preprocessor.inputs(samples.X, net.dtype), preprocessor.targets(samples.y, net.loss_name)
        trainer = fastbp.Trainer(net, fastbp.SGD(0.2, 0.9), batch_size=20, seed=0)
        losses.append(trainer.fit(X[rows], y[rows], epochs=2).loss[-1])
    assert shown == pytest.approx(np.mean(losses), rel=1e-3)


def test_an_ensemble_for_numbers(numbers, tmp_path):
    model = tmp_path / "model.npz"
    arguments = ("--epochs", 60, "--hidden", 8, "--activation", "tanh")
    output = run("train", numbers, "--ensemble", 5, *arguments, "--out", model).stdout
    found = re.search(r"^test RMSE ([\d.e+]+), R2 ([\d.]+)$", output, re.MULTILINE)
    single = re.search(
        r"^test RMSE of single networks: mean ([\d.e+]+), ([\d.e+]+) to ([\d.e+]+)$", output, re.MULTILINE
    )
    assert float(found[2]) > 0.9 and float(found[1]) < float(single[1]) <= float(single[3])
    predictions = [float(line) for line in run("predict", model, numbers).stdout.splitlines()[1:]]
    data = np.loadtxt(numbers, delimiter=",")
    assert np.corrcoef(predictions, data[:, 2])[0, 1] > 0.95


def test_refused_ensembles(table, numbers):
    for n in ("0", "1", "many"):
        assert "--ensemble" in run("train", table, "--ensemble", n, exit_code=2).stderr
    arguments = ("--activation", "relu", "--lr", "1e30", "--epochs", 30)
    error = error_line("train", numbers, "--ensemble", 2, *arguments)
    assert "the loss became infinite in epoch" in error and "try a smaller --lr than 1e+30" in error


def test_a_population_of_several_architectures_predicts(table, tmp_path):
    pop = fastbp.Population([[2, 4, 3], [2, 5, 3]], 2, "sigmoid", loss="squared_error", seed=0)
    pop.save(tmp_path / "several.npz")
    result = run("predict", tmp_path / "several.npz", table)
    assert "the model does not say what its outputs mean" in result.stderr
    samples = read(str(table))
    found = np.array([line.split(",") for line in result.stdout.splitlines()[1:]], float)
    np.testing.assert_allclose(found, pop.mean(samples.X), rtol=1e-5)


# ------------------------------------------------------------------ fastbp search


def searched(*arguments, exit_code=0):
    return run("search", *arguments, "--backend", "numpy", exit_code=exit_code)


def test_search_ranks_and_saves_the_best(table, tmp_path):
    model = tmp_path / "best.npz"
    arguments = ("--hidden", "0,3,8x4", "--lr", "0.003,0.2", "--folds", 3, "--epochs", 15, "--seed", 1)
    output = searched(table, *arguments, "--save", model).stdout
    assert "6 candidates, 3 folds, 15 epochs" in output
    rows = ranked(output)
    assert [row[0] for row in rows] == list("123456")
    assert {(row[1], row[3]) for row in rows} == {(h, lr) for h in ("none", "3", "8x4") for lr in ("0.003", "0.2")}
    scores = [float(row[6].rstrip("%")) for row in rows]
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[-1] + 10

    # the scores are those of networks trained one by one
    samples = read(str(table))
    rows_of_training, test = split(samples.y, 0.2, True)
    preprocessor = Preprocessor.of(samples, rows_of_training)
    X = preprocessor.inputs(samples.X, np.dtype("float32"))[rows_of_training]
    y = preprocessor.targets(samples.y, "cross_entropy")[rows_of_training]
    best = rows[0]
    hidden = [] if best[1] == "none" else [int(n) for n in best[1].split("x")]

    def trained(X, y):
        activations = ["sigmoid"] * len(hidden) + ["softmax"]
        net = fastbp.Network([2, *hidden, 3], activations, loss="cross_entropy", seed=1, backend="numpy")
        fastbp.Trainer(net, fastbp.SGD(float(best[3]), 0.9), batch_size=20, seed=1).fit(X, y, epochs=15)
        return net

    of_folds = []
    for fold in range(3):
        rank = np.argsort(np.argsort(y, kind="stable"), kind="stable")
        inside = rank % 3 == fold
        of_folds.append((trained(X[~inside], y[~inside]).predict(X[inside]).argmax(axis=1) == y[inside]).mean())
    assert best[6:9] == [f"{np.mean(of_folds):.2%}", "+-", f"{np.std(of_folds):.2%}"]
    net = fastbp.load(model)
    np.testing.assert_array_equal(net.parameters, trained(X, y).parameters)
    X_test = preprocessor.inputs(samples.X, np.dtype("float32"))[test]
    assert accuracy(output) == pytest.approx(
        100 * (net.predict(X_test).argmax(axis=1) == samples.y[test]).mean(), abs=0.01
    )
    assert accuracy(run("predict", model, table).stderr, str(table)) > 50


def test_search_of_numbers_and_of_every_setting(numbers):
    arguments = (
        "--hidden",
        "4",
        "--lr",
        "0.02",
        "--activation",
        "tanh,sigmoid",
        "--batch-size",
        "10,40",
        "--l2",
        "0,1",
    )
    output = searched(numbers, *arguments, "--folds", 2, "--epochs", 20).stdout
    rows = ranked(output)
    assert len(rows) == 8 and len({tuple(row[2:6]) for row in rows}) == 8
    errors = [float(row[6]) for row in rows]
    assert errors == sorted(errors) and "RMSE" in output and errors[-1] > 1.5 * errors[0]
    assert rows[0][5] == "0" and {row[5] for row in rows[:3]} == {"0"}  # so strong a penalty does harm
    assert "test RMSE" in output


def test_top(table):
    output = searched(table, "--hidden", "2,3,4", "--lr", "0.1,0.2", "--folds", 2, "--epochs", 1, "--top", 2).stdout
    assert len(ranked(output)) == 2 and "and 4 more" in output


def test_candidates_that_diverge(numbers):
    arguments = ("--hidden", "3", "--activation", "relu", "--folds", 2, "--epochs", 10)
    output = searched(numbers, *arguments, "--lr", "1e30,0.01").stdout
    assert [row[3] for row in ranked(output)] == ["0.01", "1e+30"] and "diverged" in output
    result = searched(numbers, *arguments, "--lr", "1e30,1e31", exit_code=2)
    assert "the loss of every candidate became infinite" in result.stderr


WRONG = [
    (("--hidden", "3,-1"), "--hidden takes whole numbers such as 30, 64x32 or 0, above 0, not '-1'"),
    (("--hidden", "3,,4"), "--hidden takes different values with commas between them"),
    (("--lr", "0.1,0.1"), "--lr takes different values"),
    (("--lr", "fast"), "--lr takes numbers from 0, not 'fast'"),
    (("--lr", "nan"), "--lr takes numbers from 0, not 'nan'"),
    (("--l2", "-1"), "--l2 takes numbers from 0, not '-1'"),
    (("--batch-size", "2.5"), "--batch-size takes whole numbers above 0, not '2.5'"),
    (("--folds", "500"), "--folds must be at most the number of samples to train on, 192, got 500"),
    (("--activation", "relu,magic"), "activation"),
    (("--out", "/nowhere/x.npz"), "there is no folder"),
]


@pytest.mark.parametrize("arguments, message", WRONG, ids=lambda value: value[0] if isinstance(value, tuple) else "")
def test_wrong_arguments(table, arguments, message):
    result = searched(table, *arguments, exit_code=2)
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert "candidates" not in result.stdout


def test_ctrl_c(table, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(fastbp.reference.population.PopulationBackend, "_train", interrupted)
    result = searched(table, "--hidden", "3", "--lr", "0.1", "--folds", 2, "--epochs", 3, exit_code=130)
    assert "stopped by Ctrl-C" in result.stderr and "rank" not in result.stdout


def test_folds_are_balanced():
    y = np.array([0] * 10 + [1] * 20 + [2] * 5)[np.random.default_rng(0).permutation(35)]
    pairs = samples.fold_pairs(y, 5)
    assert sorted(np.concatenate([aside for _, aside in pairs]).tolist()) == list(range(35))
    for training, aside in pairs:
        assert np.bincount(y[aside]).tolist() == [2, 4, 1] and not set(training) & set(aside)
        assert len(training) + len(aside) == 35
    of_numbers = samples.fold_pairs(np.random.default_rng(0).normal(size=(40, 2)), 4)
    assert [len(aside) for _, aside in of_numbers] == [10] * 4


@pytest.mark.parametrize("command", ["train", "search"])
def test_both_commands_have_the_options_of_training(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    text = run(command, "--help").stdout
    names = [f"--{field.name.replace('_', '-')}" for field in fields(TrainingOptions)]
    assert len(names) > 10 and not [name for name in names if name not in text]


def test_both_commands_are_in_the_help():
    text = run("--help").stdout
    assert "search" in text and "train" in text
    assert "--ensemble" in run("train", "--help").stdout and textbook.default_epochs(20, 1000) == 40
