"""The command `fastbp train` on tables: an ensemble by a recipe, its folds, the importance of columns, predictions."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from test_cli import LAUNCH
from test_tables_cli import QUICK, people, run, table

from fastbp import recipes
from fastbp.cli import recipe
from fastbp.importance import permutation_importance
from fastbp.preprocessing import read, split
from fastbp.recipes import Recipe, TableModel
from fastbp.scores import calibration_error, log_loss

__all__ = ["people"]  # a fixture


@pytest.fixture
def numbers(tmp_path):
    """Make a CSV file of a smooth function of two of three features, far from the scale of a network."""
    X = np.random.default_rng(0).uniform(-2, 2, (120, 3))
    path = tmp_path / "numbers.csv"
    y = 1e5 + 1e3 * (X[:, 0] + np.sin(2 * X[:, 1]))
    np.savetxt(path, np.column_stack([X, y]), delimiter=",", header="a,b,c,y", comments="")
    return path


def error_lines(*arguments):
    """Run a command that must fail; return its lines of error."""
    result = run(*arguments, exit_code=2)
    lines = result.stderr.splitlines()
    assert lines and all(line.startswith("error: ") for line in lines), result.output
    return [line.removeprefix("error: ") for line in lines]


def trained(path, rows=None, **changes):
    """Train by the recipe of QUICK, as the command should; return the model and the samples."""
    samples = read(str(path))
    quick = Recipe.of_size("small", **{"hidden": (8,), "n_networks": 2, "epochs": 6, **changes})
    if rows is None:
        rows = split(samples.y, 0.2, samples.classes is not None)[0]
    return recipes.train(quick, samples, rows, backend="numpy"), samples


@pytest.fixture
def recipe_of(monkeypatch):
    """Return a function that gives the recipe, and the other arguments, that a command trains by."""

    def found(*arguments):
        calls = []

        def train(recipe, samples, rows, **options):
            calls.append((recipe, options))
            raise ValueError("trained")

        monkeypatch.setattr(recipes, "train", train)
        assert run("train", *arguments, exit_code=2).stderr.endswith("error: trained\n")
        return calls[0]

    return found


# ------------------------------------------------------------------ what is trained


def test_a_table_is_trained_by_the_recipe_and_scored_on_rows_that_no_network_saw(people, tmp_path):
    out = tmp_path / "m.npz"
    text = run("train", people, *QUICK, "--out", out).stdout
    expected, samples = trained(people)
    model = TableModel.load(out, backend="numpy")
    np.testing.assert_array_equal(model.population.parameters, expected.population.parameters)
    assert model.preprocessor.metadata() == expected.preprocessor.metadata()
    assert model.preprocessor.encoding is not None
    _, test = split(samples.y, 0.2, True)
    P, y = model.outputs(samples.X[test]), samples.y[test]
    right = int((P.argmax(axis=1) == y).sum())
    assert f"\ntest accuracy {right / 40:.2%} ({right} of 40)\n" in text
    assert (
        f"\ntest log loss {log_loss(P, y):.4g}, expected calibration error {calibration_error(P, y):.2%}\n true" in text
    )
    assert "people.csv: 198 samples of 12 features, 2 classes; 158 to train, 40 held out to test\n2 networks " in text
    assert f"saved; now try: fastbp predict {out} {people}\n" in text


def test_the_table_of_epochs(people, monkeypatch):
    monkeypatch.setattr(recipe, "N_EPOCH_LINES", 3)
    text = run("train", people, *QUICK).stdout
    model, _ = trained(people)
    lines = [line for line in text.splitlines() if re.match(r" +(epoch|\d+) ", line) and "of" not in line[:20]]
    assert lines[0].split() == ["epoch", "loss", "held-out", "loss", "networks"]
    history = model.history
    for line, epoch in zip(lines[1:5], (1, 2, 4, 6), strict=True):
        losses = [f"{values[epoch - 1].mean():.4g}" for values in (history.loss, history.validation_loss)]
        assert line.split() == [str(epoch), *losses, "2", "of", "2"]


def test_networks_that_have_stopped_are_counted(people):
    text = run("train", people, *QUICK[:-2], "--epochs", 200, "--lr", 0.1).stdout
    counts = [int(line.split()[-3]) for line in text.splitlines() if re.search(r" \d of 2$", line)]
    assert counts[0] == 2 and counts[-1] == 0 and counts == sorted(counts, reverse=True)
    n_epochs = int(re.search(r"^trained (\d+) epochs", text, re.MULTILINE)[1])
    model, _ = trained(people, epochs=200, lr=0.1)
    best = np.nanmin(model.history.validation_loss, axis=0)
    last = [line.split() for line in text.splitlines() if line.endswith(" 0 of 2")][-1]
    assert last[2] == f"{best.mean():.4g}"
    assert n_epochs < 200 and re.search(rf"^ +{n_epochs} .* 0 of 2$", text, re.MULTILINE)


def test_numbers_are_reported_in_their_own_units(numbers, tmp_path):
    out = tmp_path / "m.npz"
    options = ("--ensemble", 2, "--hidden", 24, "--epochs", 60, "--lr", 0.03)
    text = run("train", numbers, *options, "--out", out).stdout
    rmse, r2 = map(float, re.search(r"^test RMSE ([\d.]+), R2 ([\d.]+)$", text, re.MULTILINE).groups())
    assert r2 > 0.8 and "log loss" not in text
    result = run("predict", out, numbers)
    guess, y = np.array(table(result.stdout)["prediction"], float), np.loadtxt(numbers, delimiter=",", skiprows=1)[:, 3]
    _, test = split(y, 0.2, False)
    assert np.sqrt(np.mean((guess - y)[test] ** 2)) == pytest.approx(rmse, rel=1e-3)
    assert f"RMSE {np.sqrt(np.mean((guess - y) ** 2)):.4g}," in result.stderr


def test_predict_uses_the_temperature_of_a_model_of_an_earlier_version(people, tmp_path):
    out = tmp_path / "m.npz"
    model, samples = trained(people)
    model = TableModel(model.population, replace(model.preprocessor, temperature=2.0))
    model.save(out)
    result = run("predict", out, people, "--proba")
    columns = table(result.stdout)
    known = [i for i, line in enumerate(people.read_text().splitlines()[1:]) if not line.endswith(",")]
    P = model.outputs(samples.X)
    for k, name in enumerate(samples.classes):
        np.testing.assert_allclose(np.array(columns[f"probability {name}"], float)[known], P[:, k], atol=1e-5)
    assert f"{people} log loss {log_loss(P, samples.y):.4g}, expected calibration error " in result.stderr


def test_arrays_are_trained_by_the_recipe_too(tmp_path):
    X = np.random.default_rng(0).uniform(-1, 1, (60, 3))
    np.savez(tmp_path / "d.npz", X=X, y=np.column_stack([100 + 10 * X[:, 0], X[:, 1]]))
    text = run("train", tmp_path / "d.npz", *QUICK, "--importance", "--out", tmp_path / "m.npz").stdout
    assert re.search(r"^2 networks \d+-8-2, ", text, re.M) and "test RMSE of output 1" in text
    assert re.search(r"^  '0' +\d", text, re.M)
    assert list(table(run("predict", tmp_path / "m.npz", tmp_path / "d.npz").stdout)) == [
        "prediction 0",
        "prediction 1",
    ]


def test_images_digits_and_xor_are_trained_by_the_textbook_network_unless_asked(tmp_path, recipe_of):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 4), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", X=pixels, y=np.arange(40) % 2)
    for data, sizes in (("digits", "64-30-10"), ("xor", "2-30-2"), (tmp_path / "images.npz", "4-30-2")):
        assert f"\nnetwork {sizes}, sigmoid, " in run("train", data, "--epochs", 1).stdout
        found, _ = recipe_of(data, "--recipe")
        assert found == Recipe()


def test_a_table_is_trained_by_the_textbook_network_if_asked(people):
    assert "\nnetwork 12-30-2, sigmoid, softmax" in run("train", people, "--simple", "--epochs", 1).stdout


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ((), {}),
        (("--recipe",), {}),
        (("--size", "medium"), {}),
        (("--size", "small"), {"hidden": (64, 64), "n_networks": 2}),
        (("--hidden", "30,20"), {"hidden": (30, 20)}),
        (("--hidden", "0"), {"hidden": ()}),
        (("--activation", "tanh"), {"activation": "tanh"}),
        (("--loss", "focal"), {"loss": "focal"}),
        (("--epochs", 7), {"epochs": 7}),
        (("--lr", 0.5), {"lr": 0.5}),
        (("--batch-size", 5), {"batch_size": 5}),
        (("--ensemble", 3), {"n_networks": 3}),
        (("--ensemble", 1), {"n_networks": 1}),
    ],
)
def test_each_option_changes_one_thing_of_the_recipe(people, recipe_of, options, changes):
    found, _ = recipe_of(people, *options)
    assert found == Recipe.of_size("medium", **changes)


def test_the_other_options_reach_the_training(people, recipe_of):
    _, options = recipe_of(people, "--seed", 4, "--dtype", "float64")
    assert (options["seed"], options["dtype"], options["backend"]) == (4, "float64", "numpy")


def test_it_needs_no_library_of_an_extra(people, tmp_path, monkeypatch):
    for name in ("sklearn", "pandas", "polars", "narwhals", "scipy", "safetensors"):
        monkeypatch.setitem(sys.modules, name, None)
    run("train", people, *QUICK, "--folds", 2, "--importance", "--out", tmp_path / "m.npz")
    assert len(table(run("predict", tmp_path / "m.npz", people).stdout)["prediction"]) == 200


def test_few_rows_are_all_trained_on(tmp_path):
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{i % 5},{'ab'[i % 2]}\n" for i in range(9)))
    result = run("train", tmp_path / "t.csv", *QUICK)
    assert result.stderr == "nothing is held out to test: 9 samples are fewer than 20\n"
    lines = result.stdout.splitlines()
    assert any(line.split() == ["epoch", "loss", "networks"] for line in lines)
    assert any(line.startswith("training accuracy ") for line in lines)


@pytest.mark.parametrize("trained_on", ["upper.csv", "t.jsonl"])
def test_truth_values_mean_the_same_in_any_file(tmp_path, trained_on):
    pairs = [(i % 3 == 0, i, i % 3 == 0) for i in range(60)]
    for name, form in (("upper.csv", str.upper), ("lower.csv", str.lower), ("t.csv", str)):
        rows = "".join(f"{form(str(b))},{n}.5,{form(str(y))}\n" for b, n, y in pairs)
        (tmp_path / name).write_text("b,n,y\n" + rows)
    rows = [f'{{"b": {str(b).lower()}, "n": {n}.5, "y": {str(y).lower()}}}\n' for b, n, y in pairs]
    (tmp_path / "t.jsonl").write_text("".join(rows))
    run("train", tmp_path / trained_on, *QUICK, "--out", tmp_path / "m.npz")
    files = ("upper.csv", "lower.csv", "t.csv", "t.jsonl")
    found = [run("predict", tmp_path / "m.npz", tmp_path / name) for name in files]
    assert {result.stdout for result in found} == {found[0].stdout}
    assert set(table(found[0].stdout)["prediction"]) <= {"False", "True"}
    assert all(" of 60); flatters" in result.stderr for result in found)


# ------------------------------------------------------------------ folds


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_each_fold_is_scored_by_a_model_of_the_others(people, numbers, kind):
    path = people if kind == "classes" else numbers
    text = run("train", path, *QUICK, "--folds", 3).stdout
    samples = read(str(path))
    rows, _ = split(samples.y, 0.2, kind == "classes")
    rank = np.argsort(np.argsort(samples.y[rows], kind="stable"), kind="stable")
    scores = []
    for fold in range(3):
        aside = rows[rank % 3 == fold]
        model, _ = trained(path, rows[rank % 3 != fold])
        A, y = model.outputs(samples.X[aside]), samples.y[aside]
        if kind == "classes":
            scores.append(((A.argmax(axis=1) == y).mean(), log_loss(A, y)))
            words = f"accuracy {scores[-1][0]:.2%}, log loss {scores[-1][1]:.4g}"
        else:
            error = np.mean((model.predict(samples.X[aside]) - y) ** 2)
            scores.append((np.sqrt(error), 1 - error / y.var()))
            words = f"RMSE {scores[-1][0]:.4g}, R2 {scores[-1][1]:.4g}"
        assert f"\nfold {fold + 1} of 3: {words}\n" in text
    (first, second), (of_first, of_second) = np.mean(scores, axis=0), np.std(scores, axis=0)
    if kind == "classes":
        expected = f"accuracy {first:.2%} +- {of_first:.2%}, log loss {second:.4g} +- {of_second:.2g}"
    else:
        expected = f"RMSE {first:.4g} +- {of_first:.2g}, R2 {second:.4g} +- {of_second:.2g}"
    assert f"\nmean of the folds: {expected}\n" in text
    assert text.count("\n2 networks ") == 2 and text.index("\n2 networks ") < text.index("\nfold 1 of 3")
    assert text.count("\nbest epochs ") == (text[text.index("mean of the folds") :].count("\nbest epochs "))
    of_all = text[text.rindex("2 networks ") :]  # the model is trained on all training rows
    without = run("train", path, *QUICK).stdout
    assert re.sub(r"in [\d.]+ s", "", of_all) == re.sub(r"in [\d.]+ s", "", without[without.index("2 networks ") :])


def test_folds_of_one_row_have_no_r2(tmp_path):
    (tmp_path / "t.csv").write_text("x,y\n0.5,1.25\n1.5,2.25\n2.5,0.25\n")
    lines = run("train", tmp_path / "t.csv", *QUICK, "--folds", 3).stdout.splitlines()
    scores = [line for line in lines if line.startswith(("fold ", "mean of the folds: "))]
    assert len(scores) == 4 and all(re.fullmatch(r".*: RMSE [\d.]+( \+- [\d.]+)?", line) for line in scores)
    assert ": 3 samples of 1 feature, numbers; " in "\n".join(lines)


# ------------------------------------------------------------------ importance


def test_the_importance_of_columns_is_sorted(people):
    options = (*QUICK[:-2], "--epochs", 40, "--lr", 0.02)
    text = run("train", people, *options, "--importance").stdout
    model, samples = trained(people, epochs=40, lr=0.02)
    _, test = split(samples.y, 0.2, True)
    found = permutation_importance(
        lambda X: model.outputs(X).argmax(axis=1), samples.X[test], samples.y[test], samples.columns, are_classes=True
    )
    title = "importance: what is lost of test accuracy when a column is shuffled"
    lines = text[text.index(title) :].splitlines()[1:]
    order = np.argsort(-found.mean, kind="stable")
    assert [line.split() for line in lines] == [
        [repr(found.columns[i]), f"{found.mean[i]:.2%}", "+-", f"{found.std[i]:.2%}"] for i in order
    ]
    assert [found.columns[i] for i in order][-1] == "joined" and found.mean[order[0]] > 0.05


def test_the_importance_for_numbers_and_for_the_textbook_network(numbers):
    text = run("train", numbers, "--simple", "--epochs", 60, "--activation", "tanh", "--importance").stdout
    lines = text[text.index("what is lost of test R2") :].splitlines()[1:]
    losses = {line.split()[0]: float(line.split()[1]) for line in lines}
    assert set(losses) == {"'a'", "'b'", "'c'"} and losses["'c'"] < 0.1 < 0.2 < min(losses["'a'"], losses["'b'"])


def test_no_importance_where_all_targets_are_equal(tmp_path):
    lines = [f"{i}.5,{7.5 if i else 9.5}" for i in range(60)]
    (tmp_path / "t.csv").write_text("x,y\n" + "\n".join(lines) + "\n")
    result = run("train", tmp_path / "t.csv", *QUICK, "--importance", "--task", "numbers")
    assert result.stderr == "no importance: the targets of the test rows are all equal\n"


# ------------------------------------------------------------------ time and Ctrl-C


def test_the_time_is_told_once(people, monkeypatch):
    monkeypatch.setattr(recipe, "MEASURED_SECONDS", 1e-9)
    text = run("train", people, *QUICK).stdout
    assert len(re.findall(r"^[\d.e-]+ s an epoch: \d+ s more at most$", text, re.MULTILINE)) == 1
    text = run("train", people, *QUICK, "--folds", 2).stdout
    assert len(re.findall(r"^[\d.e-]+ s an epoch: \d+ s more at most for 3 trainings$", text, re.MULTILINE)) == 1
    assert text.count("an epoch") == 1
    assert "an epoch" not in run("train", people, *QUICK, "--epochs", 1).stdout  # of which most may be compilation


def test_durations():
    assert [recipe._duration(seconds) for seconds in (0.2, 99, 100, 600, 9000)] == [
        "0 s",
        "99 s",
        "2 min",
        "10 min",
        "2.5 h",
    ]


def interrupt(monkeypatch, epoch):
    """Interrupt training as by Ctrl-C in this epoch."""
    tell_time = recipe._Epochs._tell_time

    def interrupted(self, n):
        if n == epoch:
            raise KeyboardInterrupt
        tell_time(self, n)

    monkeypatch.setattr(recipe._Epochs, "_tell_time", interrupted)


def test_ctrl_c_keeps_the_best_so_far(people, tmp_path, monkeypatch):
    interrupt(monkeypatch, 4)
    out = tmp_path / "m.npz"
    result = run("train", people, *QUICK, "--out", out, "--importance", exit_code=130)
    assert result.stderr == "stopped by Ctrl-C after 4 epochs; the model is saved as it is\n"
    assert re.search(r"^best epochs [1-4], [1-4] of 4;", result.stdout, re.MULTILINE)
    assert "\ntest accuracy " in result.stdout
    assert len(table(run("predict", out, people).stdout)["prediction"]) == 200
    result = run("train", people, *QUICK, exit_code=130)
    assert result.stderr == "stopped by Ctrl-C after 4 epochs; not saved, as there was no --out\n"


def test_ctrl_c_in_a_fold_saves_nothing(people, tmp_path, monkeypatch):
    interrupt(monkeypatch, 2)
    result = run("train", people, *QUICK, "--folds", 2, "--out", tmp_path / "m.npz", exit_code=130)
    assert result.stderr == "stopped by Ctrl-C in fold 1 of 2; nothing is saved\n" and not (tmp_path / "m.npz").exists()


def test_ctrl_c_in_a_later_fold_keeps_the_scores(people, monkeypatch):
    trainings = []
    begin, tell_time = recipe._Epochs.on_train_begin, recipe._Epochs._tell_time

    def counted(self, trainer, history):
        trainings.append(self)
        begin(self, trainer, history)

    def interrupted(self, n):
        if len(trainings) == 3:
            raise KeyboardInterrupt
        tell_time(self, n)

    monkeypatch.setattr(recipe._Epochs, "on_train_begin", counted)
    monkeypatch.setattr(recipe._Epochs, "_tell_time", interrupted)
    result = run("train", people, *QUICK, "--folds", 4, exit_code=130)
    assert re.search(r"^mean of 2 of 4 folds: accuracy [\d.]+% \+- ", result.stdout, re.MULTILINE)
    warning = "the other folds are left out\nstopped by Ctrl-C in fold 3 of 4; nothing is saved\n"
    assert result.stderr == warning


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process")
def test_ctrl_c_in_a_real_process(people, tmp_path):
    options = [*QUICK[:-1], 10**6, "--lr", 1e-5, "--backend", "numpy", "--out", tmp_path / "m.npz"]
    command = [*LAUNCH, "train", str(people), *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as process:
        while not process.stdout.readline().lstrip().startswith("1 "):  # the first epoch is shown
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped by Ctrl-C after" in error and "Traceback" not in error
    assert "test accuracy" in output and len(TableModel.load(tmp_path / "m.npz").population) == 2


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["{people}", "--momentum", 0.9], ["--momentum goes with --simple, but {people} is trained by --recipe"]),
        (
            ["digits", "--recipe", "--momentum", 0.9],
            ["--momentum goes with --simple, but digits is trained by --recipe"],
        ),
        (
            ["no.csv", "--folds", 3, "--momentum", 0.9],  # before it is read
            ["--momentum goes with --simple, but --folds with --recipe"],
        ),
        (["digits", "--folds", 3], ["--folds goes with --recipe, but digits is trained by --simple"]),
        (
            ["{people}", "--simple", "--size", "small", "--folds", 3],
            [
                "--size goes with --recipe, but {people} is trained by --simple",
                "--folds goes with --recipe, but {people} is trained by --simple",
            ],
        ),
        (["{people}", "--simple", "--ensemble", 1], ["--ensemble takes 2 networks or more with --simple, got 1"]),
        (["{people}", "--size", "huge"], ["size 'huge' is unknown (known: small, medium, large)"]),
        (["{people}", "--folds", 500], ["--folds must be at most the number of samples to train on, 158, got 500"]),
        (["{people}", "--hidden", "8,x"], ["--hidden takes sizes such as 30 or 64,32, not '8,x'"]),
        (["{people}", "--lr", -1], ["lr must be above 0, got -1.0"]),
        (["{people}", "--batch-size", 0], ["batch_size must be"]),
        (["{people}", "--loss", "nothing"], ["loss 'nothing' is unknown"]),
        (["{people}", "--activation", "sigmod"], ["activation"]),
        (
            ["{people}", "--target", "age", "--loss", "hinge"],
            ["loss hinge is for classes, but the targets are numbers"],
        ),
        (["{people}", "--lr", 1e30, "--epochs", 3], ["the loss became infinite: try a smaller --lr than 1e+30"]),
        (["{people}", "--test-fraction", 0.9], ["the test fraction must be between 0 and 0.5, not 0.9"]),
        (["{people}", "--out", "{people}"], ["cannot save to {people}: it is read, and would be lost"]),
    ],
)
def test_errors_are_one_line_a_problem_and_save_nothing(people, tmp_path, arguments, lines):
    out = [] if "--out" in arguments else ["--out", tmp_path / "m.npz"]
    found = error_lines("train", *(str(each).format(people=people) for each in arguments), *out)
    assert len(found) == len(lines)
    for line, expected in zip(found, lines, strict=True):
        assert line.startswith(expected.format(people=people)), line
    assert not (tmp_path / "m.npz").exists()


@pytest.mark.parametrize("option", [["--ensemble", "0"], ["--folds", "1"], ["--epochs", "0"]])
def test_numbers_that_are_too_small_are_usage_errors(people, option):
    assert option[0] in run("train", people, *option, exit_code=2).stderr


def test_one_of_several_networks_may_diverge(people, monkeypatch):
    train = recipes.train

    def diverging(*arguments, **options):
        model = train(*arguments, **options)
        model.history.nonfinite[1] = True
        return model

    monkeypatch.setattr(recipes, "train", diverging)
    result = run("train", people, *QUICK)
    assert result.stderr == f"the loss of 1 of 2 networks became infinite: try a smaller --lr than {Recipe().lr:g}\n"
    assert "test accuracy" in result.stdout
