"""The command `fastbp`: what it prints, writes and returns."""

import contextlib
import csv
import gzip
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numba
import numpy as np
import pytest
from typer.testing import CliRunner

import fastbp
from fastbp import cli, preprocessing
from fastbp.cli import app, samples, screen, textbook, verify
from fastbp.datasets.dataset import Dataset
from fastbp.preprocessing import METADATA_KEY, Preprocessor, read, split

LAUNCH = [sys.executable, "-c", "import sys; sys.argv[0] = 'fastbp'; from fastbp.cli import main; main()"]


def run(*arguments, exit_code=0):
    """Run the command in this process, in NumPy if it trains or predicts; return what it printed.

    The network of the textbooks is trained, unless --recipe is given.
    """
    arguments = [str(argument) for argument in arguments]
    if arguments[:1] == ["train"] and arguments[1:2] not in (["digits"], ["xor"]) and "--recipe" not in arguments:
        arguments += ["--simple"]
    if arguments[:1] in (["train"], ["predict"]) and "--backend" not in arguments:
        arguments += ["--backend", "numpy"]
    result = CliRunner().invoke(app.make_app(), arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == exit_code, result.output
    return result


def error_line(*arguments):
    """Run a command that must fail; return its one line of error."""
    result = run(*arguments, exit_code=2)
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and "Traceback" not in result.output
    return lines[0]


def accuracy(text, which="test"):
    """Accuracy in percent, from a line such as `test accuracy 97.77% (351 of 359)`."""
    return float(re.search(rf"^{which} accuracy ([\d.]+)%", text, re.MULTILINE)[1])


@pytest.fixture
def flowers(tmp_path):
    """Make a CSV file of two kinds of flowers, that differ in size, but not in color."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 100)
    size = rng.normal(1e6, 1e5, 100) + np.where(kind, 4e5, -4e5)
    path = tmp_path / "flowers.csv"
    rows = [
        f"{s:.3f},{'red' if i % 3 else 'blue'},{'rose' if k else 'lily'}"
        for i, (s, k) in enumerate(zip(size, kind, strict=True))
    ]
    path.write_text("size,color,kind\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def curve(tmp_path):
    """Make a CSV file of a smooth function of two features, far from the scale of a network."""
    X = np.random.default_rng(0).uniform(-2, 2, (300, 2))
    path = tmp_path / "curve.csv"
    np.savetxt(path, np.column_stack([X, 1e5 + 1e3 * (X[:, 0] + np.sin(X[:, 1]))]), delimiter=",")
    return path


# ------------------------------------------------------------------ help


def test_plain_fastbp_explains_itself():
    text = run().stdout
    assert all(word in text for word in ("train", "predict", "verify", "trace", "fastbp train digits"))


def test_help_and_version():
    text = run("train", "--help").stdout
    assert all(word in text for word in ("--hidden", "--lr", "--target", "digits"))
    assert fastbp.__version__ in run("--version").stdout


def test_usage_errors_have_exit_code_2():
    for arguments in (["train"], ["train", "digits", "--nonsense"], ["train", "digits", "--epochs", "0"], ["nonsense"]):
        run(*arguments, exit_code=2)


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_missing_extra_is_one_line(tmp_path, package):
    (tmp_path / f"{package}.py").write_text(f"raise ImportError('not here', name='{package}')")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    result = subprocess.run(LAUNCH, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert result.returncode == 1 and not result.stdout
    assert result.stderr == f'The fastbp command needs {package}: pip install "fastbp[cli]"\n'


def test_the_package_can_be_run():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "fastbp.cli", "--version"]
    assert subprocess.check_output(command, text=True, env=environment) == f"fastbp {fastbp.__version__}\n"


# ------------------------------------------------------------------ train


def test_train_digits_reaches_97_percent_by_default():
    text = run("train", "digits", "--backend", "numba").stdout
    assert accuracy(text) >= 97
    assert "1,797 samples of 64 features, 10 classes; 1,438 to train, 359 held out" in text
    epochs = [line.split() for line in text.splitlines() if re.match(r" +\d+  .*%.*%$", line)]
    assert [int(cells[0]) for cells in epochs] == list(range(1, 31))
    assert float(epochs[-1][1]) < 0.1 * float(epochs[0][1])
    assert accuracy(text) == float(epochs[-1][4][:-1])
    confusion = np.array(
        [
            [0 if cell == "." else int(cell) for cell in line.split()[1:]]
            for line in text.splitlines()
            if re.match(r" \d +[\d.]", line)
        ]
    )
    assert confusion.shape == (10, 10) and confusion.sum() == 359
    assert f"({np.trace(confusion)} of 359)" in text
    assert confusion.sum(axis=1).tolist() == np.bincount(_digits_test_labels()).tolist()


def _digits_test_labels():
    y = fastbp.datasets.load_digits().y
    return y[split(y, 0.2, True)[1]]


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.exhaustive) for seed in range(2, 6))])
def test_train_digits_reaches_97_percent_for_several_seeds(seed):
    assert accuracy(run("train", "digits", "--seed", seed).stdout) >= 97


def test_the_same_command_prints_the_same():
    arguments = ["train", "digits", "--epochs", 3]
    first, again, other = (_without_time(run(*arguments, *more).stdout) for more in ([], [], ["--seed", 1]))
    assert first == again != other


def _without_time(text):
    return re.sub(r"in [\d.]+ s", "", text)


def test_train_xor_learns_all_four_rows():
    assert accuracy(run("train", "xor").stdout, "training") == 100


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "squared_error", "huber", "hinge", "focal"])
def test_losses_for_classes(flowers, loss):
    text = run("train", flowers, "--loss", loss, "--epochs", 30).stdout
    assert accuracy(text) >= 90 and loss in text


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber"])
def test_numbers_are_reported_in_their_own_units(curve, loss):
    text = run("train", curve, "--loss", loss, "--epochs", 100).stdout
    rmse, r2 = map(float, re.search(r"^test RMSE ([\d.]+), R2 ([\d.]+)$", text, re.MULTILINE).groups())
    deviation = np.loadtxt(curve, delimiter=",")[:, 2].std()
    assert r2 > 0.95 and rmse == pytest.approx(np.sqrt(1 - r2) * deviation, rel=0.15)


@pytest.mark.parametrize(
    ("hidden", "sizes"),
    [
        (["--hidden", "8"], "2-8-1"),
        (["--hidden", "8,5"], "2-8-5-1"),
        (["--hidden", "8", "--hidden", "5"], "2-8-5-1"),
        (["--hidden", "0"], "2-1"),
        ([], "2-30-1"),
    ],
)
def test_hidden_layers(curve, hidden, sizes):
    assert f"network {sizes}," in run("train", curve, "--epochs", 1, *hidden).stdout


def test_every_option_reaches_the_network(flowers, tmp_path):
    out = tmp_path / "m.npz"
    options = ["--hidden", 4, "--activation", "tanh", "--loss", "squared_error", "--dtype", "float64", "--out", out]
    run("train", flowers, "--epochs", 2, *options)
    net = fastbp.load(out)
    assert (net.sizes, net.activations) == ((3, 4, 2), ("tanh", "sigmoid"))
    assert (net.loss_name, net.dtype) == ("squared_error", "f8")
    results = [
        _without_time(run("train", flowers, "--epochs", 2, *more).stdout)
        for more in ([], ["--lr", 0.01], ["--momentum", 0], ["--batch-size", 7], ["--seed", 5])
    ]
    assert len(set(results)) == 5


def test_the_seed_gives_the_first_weights(curve, tmp_path):
    run("train", curve, "--epochs", 1, "--lr", 1e-30, "--seed", 5, "--out", tmp_path / "m.npz")
    net = fastbp.Network([2, 30, 1], ["sigmoid", "identity"], seed=5)
    np.testing.assert_allclose(fastbp.load(tmp_path / "m.npz").parameters, net.parameters, rtol=0, atol=1e-20)


def test_test_fraction(curve):
    assert "225 to train, 75 held out" in run("train", curve, "--epochs", 1, "--test-fraction", 0.25).stdout
    text = run("train", curve, "--epochs", 1, "--test-fraction", 0).stdout
    assert "300 to train, 0 held out" in text and "training RMSE" in text and "test loss" not in text


def test_target_and_task(flowers, curve):
    assert "numbers" in run("train", flowers, "--target", "size", "--epochs", 1).stdout
    assert "numbers" in run("train", flowers, "--target", 0, "--epochs", 1).stdout
    flowers.write_text("a,b\n" + "".join(f"{i},{i % 2}\n" for i in range(40)))
    assert "2 classes" in run("train", flowers, "--epochs", 1).stdout
    assert "numbers" in run("train", flowers, "--task", "numbers", "--epochs", 1).stdout


def test_many_classes_list_the_commonest_confusions(tmp_path):
    y = np.repeat(np.arange(20), 10)
    np.savez(tmp_path / "d.npz", X=np.column_stack([y // 2, y // 2]), y=y)  # pairs that look the same
    text = run("train", tmp_path / "d.npz", "--epochs", 200).stdout
    errors = [int(n) for n in re.findall(r"^  \d+ taken for \d+: (\d+)$", text, re.MULTILINE)]
    assert errors and errors == sorted(errors, reverse=True)
    right, total = map(int, re.search(r"\((\d+) of (\d+)\)", text).groups())
    assert sum(errors) == total - right and "rarer" not in text
    np.savez(tmp_path / "d.npz", X=np.ones((400, 1)), y=np.arange(400) % 20)  # all look the same
    text = run("train", tmp_path / "d.npz", "--epochs", 1).stdout
    assert text.count("taken for") == 12
    assert text.endswith("  and 28 errors of rarer kinds\n"), text  # of 80 samples 4 of each class, 4 of them right


def test_columns_of_long_names_have_numbers(tmp_path, monkeypatch):
    names = [f"a rather long name of class {'abcdefgh'[i]}" for i in range(8)]
    path = tmp_path / "long.csv"
    path.write_text("x,kind\n" + "".join(f"{i % 8 * 3},{names[i % 8]}\n" for i in range(160)))
    monkeypatch.setenv("COLUMNS", "80")
    text = run("train", path, "--epochs", 1).stdout
    lines = text[text.index("true \\ predicted") :].splitlines()
    assert lines[0].split()[-8:] == list("01234567") and len(lines) == 9
    for i, line in enumerate(lines[1:]):
        assert line.split()[: 1 + len(names[i].split())] == [str(i), *names[i].split()] and len(line) <= 80
    monkeypatch.setenv("COLUMNS", "400")
    text = run("train", path, "--epochs", 1).stdout
    assert re.search(rf"predicted +{' +'.join(names)}\s", text)


def test_the_compilation_is_announced(monkeypatch, flowers):
    from fastbp.engine.backend import NumbaBackend

    for compiled in (False, True):
        monkeypatch.setattr(NumbaBackend, "is_compiled", lambda self, compiled=compiled: compiled)
        result = run("train", flowers, "--epochs", 1, "--backend", "numba")
        assert ("compiling kernels for this machine (once)" in result.stderr) != compiled


# ------------------------------------------------------------------ model files and predict


def predictions(*arguments):
    """Columns of the CSV file that predict prints."""
    rows = list(csv.reader(io.StringIO(run("predict", *arguments).stdout)))
    return dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))


def test_classes_survive_the_round_trip(flowers, tmp_path):
    out = tmp_path / "m.npz"
    shown = accuracy(run("train", flowers, "--epochs", 30, "--out", out).stdout)
    columns = predictions(out, flowers)
    true = [line.split(",")[2] for line in flowers.read_text().split()[1:]]
    right = np.array(columns["prediction"]) == true
    test = split(np.array([kind == "rose" for kind in true]).astype(int), 0.2, True)[1]
    assert right[test].mean() == pytest.approx(shown / 100, abs=1e-4)
    assert all(0.5 <= float(p) <= 1 for p in columns["probability"])
    assert f"accuracy {right.mean():.2%} ({right.sum()} of 100)" in run("predict", out, flowers).stderr

    lines = [line.split(",") for line in flowers.read_text().split()]
    other = tmp_path / "other.csv"  # other columns, in another order, without the target
    other.write_text("\n".join(f"{color},7,{size}" for size, color, _ in lines).replace("7", "id", 1))
    assert predictions(out, other) == columns
    assert run("predict", out, other).stderr == f"no score: {other} has no targets in a column 'kind'\n"
    written = tmp_path / "p.csv"
    assert "100 predictions" in run("predict", out, other, "--out", written).stderr
    assert written.read_text() == run("predict", out, other).stdout


def test_numbers_survive_the_round_trip(curve, tmp_path):
    out = tmp_path / "m.npz"
    text = run("train", curve, "--epochs", 100, "--out", out).stdout
    y = np.loadtxt(curve, delimiter=",")[:, 2]
    guess = np.array(predictions(out, curve)["prediction"], float)
    test = split(y, 0.2, False)[1]
    assert f"test RMSE {np.sqrt(np.mean((guess - y)[test] ** 2)):.4g}," in text
    assert f"RMSE {np.sqrt(np.mean((guess - y) ** 2)):.4g}," in run("predict", out, curve).stderr


def test_several_numbers_at_once(tmp_path):
    X = np.random.default_rng(0).uniform(-1, 1, (200, 3))
    Y = np.column_stack([100 + 10 * X[:, 0], X[:, 1] - X[:, 2]])
    np.savez(tmp_path / "d.npz", X=X, y=Y)
    text = run("train", tmp_path / "d.npz", "--epochs", 100, "--out", tmp_path / "m.npz").stdout
    assert "test RMSE of output 0" in text and "test RMSE of output 1" in text
    columns = predictions(tmp_path / "m.npz", tmp_path / "d.npz")
    guess = np.column_stack([np.array(columns[f"prediction {j}"], float) for j in range(2)])
    assert np.abs(guess - Y).max(axis=0) == pytest.approx([0, 0], abs=3) and np.abs(guess - Y)[:, 1].max() < 0.5


def test_targets_of_another_kind_are_not_compared(tmp_path):
    np.savez(tmp_path / "d.npz", X=np.random.default_rng(0).random((30, 64)), y=np.linspace(0, 1, 30))
    run("train", tmp_path / "d.npz", "--epochs", 1, "--out", tmp_path / "m.npz")
    assert run("predict", tmp_path / "m.npz", "digits").stderr == (
        "no score: the targets of digits are classes, but the model predicts numbers\n"
    )


def test_a_model_made_in_python_gives_plain_outputs(tmp_path):
    net = fastbp.Network([2, 3, 2], seed=0, backend="numpy")
    net.save(tmp_path / "m.npz")
    columns = predictions(tmp_path / "m.npz", "xor")
    outputs = np.column_stack([np.array(columns[f"output {j}"], float) for j in range(2)])
    np.testing.assert_allclose(outputs, net.predict(fastbp.datasets.load_xor().X), rtol=1e-7)


@pytest.mark.parametrize("pair", ["{images}", "{images},{labels}", "{images}:{labels}"])
def test_idx_files(tmp_path, pair):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120).astype(np.uint8)
    pixels = (rng.integers(0, 40, (120, 4, 4)) + 60 * labels[:, None, None]).astype(np.uint8)
    paths = {}
    for kind, array in (("images", pixels), ("labels", labels)):
        paths[kind] = tmp_path / f"t-{kind}-idx{array.ndim}-ubyte.gz"
        shape = b"".join(n.to_bytes(4, "big") for n in array.shape)
        paths[kind].write_bytes(gzip.compress(bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()))
    out = tmp_path / "m.npz"
    assert accuracy(run("train", pair.format(**paths), "--out", out).stdout) >= 95
    assert len(predictions(out, paths["images"])["prediction"]) == 120
    paths["labels"].unlink()
    assert run("predict", out, paths["images"]).stderr == f"no score: {paths['images']} has no targets\n"
    assert "no targets" in error_line("train", paths["images"])


# ------------------------------------------------------------------ damaged models

GOOD = {  # of version 0.1.0, for a table of sizes, colors and kinds
    "mean": [5.0, 0.25, 0.75],
    "scale": [2.0, 1.0, 0.5],
    "classes": ["lily", "rose"],
    "target_mean": [0.0],
    "target_scale": [1.0],
    "columns": [["size", None], ["color", ["blue", "red"]]],
    "target": "kind",
}
NUMBERS = {**GOOD, "classes": None, "target_mean": [10.0, -1.0], "target_scale": [3.0, 0.5]}
DEEP = 100_000


def save_model(path, text):
    """Save a network of 3 inputs and 2 outputs with this text or these fields as its metadata."""
    net = fastbp.Network([3, 4, 2], ["tanh", "identity"], dtype="float64", seed=0, backend="numpy")
    net.save(path, metadata={METADATA_KEY: text if isinstance(text, str) else json.dumps(text)})
    return net


def without(name):
    return {key: value for key, value in GOOD.items() if key != name}


DAMAGED = [
    # not JSON of an object
    ("", "Expecting value"),
    ("size", "Expecting value"),
    ("{", "Expecting"),
    ("{'mean': [0]}", "Expecting"),
    ("\ufeff{}", "UTF-8 BOM"),
    (json.dumps(GOOD)[:-20], "line 1"),
    (json.dumps(GOOD) + "x", "Extra data"),
    ("[" * DEEP + "]" * DEEP, "too deeply"),
    ('{"mean": ' * DEEP + "0" + "}" * DEEP, "too deeply"),
    ("null", "an object, got None"),
    ("true", "an object, got True"),
    ("7", "an object, got 7"),
    ('"text"', "an object, got 'text'"),
    ("[]", "an object, got []"),
    (json.dumps([GOOD]), "an object, got [{"),
    # fields
    ("{}", "'classes' is missing"),
    *((without(name), f"{name!r} is missing") for name in GOOD),
    ({**GOOD, "version": 2}, "'version' is unknown"),
    ({**GOOD, "": 0}, "'' is unknown"),
    ({**GOOD, "Mean": [0.0]}, "'Mean' is unknown"),
    ({**GOOD, "a" * 10**6: 0}, "is unknown"),
    ({**GOOD, "\x1b[2J": 0}, "'\\x1b[2J' is unknown"),
    (json.dumps(GOOD)[:-1] + ', "mean": [0, 0, 0]}', "'mean' is there twice"),
    # mean and scale
    ({**GOOD, "mean": None}, "mean must be a list"),
    ({**GOOD, "mean": 0.0}, "mean must be a list"),
    ({**GOOD, "mean": "123"}, "mean must be a list"),
    ({**GOOD, "mean": {"0": 1.0}}, "mean must be a list"),
    ({**GOOD, "mean": []}, "mean must be a list"),
    ({**GOOD, "mean": [[0.0, 0, 0]]}, "mean[0] must be a finite number"),
    ({**GOOD, "mean": [[0.0]] * 3}, "mean[0] must be a finite number"),
    ({**GOOD, "mean": [0.0, None, 0]}, "mean[1]"),
    ({**GOOD, "mean": [0.0, 0, True]}, "mean[2] must be a finite number, got True"),
    ({**GOOD, "mean": [0.0, "0", 0]}, "mean[1] must be a finite number, got '0'"),
    ({**GOOD, "mean": [0.0, math.nan, 0]}, "mean[1]"),
    ({**GOOD, "mean": [0.0, 0, -math.inf]}, "mean[2]"),
    ({**GOOD, "mean": [10**400, 0, 0]}, "mean[0] must be a finite number, got inf"),
    (json.dumps(GOOD).replace("5.0", "9" * 5000), "mean[0] must be a finite number, got inf"),
    ({**GOOD, "mean": [0.0] * 3, "scale": [1.0] * 2}, "scale must be a list of 3"),
    ({**GOOD, "mean": [0.0] * 2, "scale": [1.0] * 2}, "mean must be a list of 3"),
    ({**GOOD, "mean": [0.0] * 4, "scale": [1.0] * 4}, "mean must be a list of 3"),
    ({**GOOD, "scale": [1.0]}, "scale must be a list of 3"),
    ({**GOOD, "scale": 1.0}, "scale must be a list"),
    ({**GOOD, "scale": "abc"}, "scale must be a list"),
    *(
        ({**GOOD, "scale": [1.0, bad, 1]}, "scale[1] must be a finite number above 0")
        for bad in (0, -0.0, -1, math.nan, math.inf, True, "1", None, [1.0], {}, 1e-400)
    ),
    # classes
    ({**GOOD, "classes": {"lily": 0, "rose": 1}}, "classes must be a list"),
    ({**GOOD, "classes": 2}, "classes must be a list"),
    ({**GOOD, "classes": "ab"}, "classes must be a list"),
    ({**GOOD, "classes": True}, "classes must be a list"),
    ({**GOOD, "classes": []}, "classes must be a list"),
    ({**GOOD, "classes": None}, "target_mean must be a list of 2"),
    ({**GOOD, "classes": ["lily"]}, "classes must be a list of two or more"),
    ({**GOOD, "classes": ["lily", "rose", "oak"]}, "classes must be a list of 2"),
    ({**GOOD, "classes": ["rose", "rose"]}, "classes[1] must be different"),
    ({**GOOD, "classes": [0, 1]}, "classes[0] must be text"),
    ({**GOOD, "classes": ["a", None]}, "classes[1] must be text"),
    ({**GOOD, "classes": ["a", ["b"]]}, "classes[1] must be text"),
    ({**GOOD, "classes": ["a", "a\0"]}, "classes[1] must be a text without NUL"),
    ({**GOOD, "classes": ["a", "\ud800"]}, "classes[1] must be a text without NUL and lone surrogates"),
    ({**GOOD, "classes": ["a", "b" * 200_000]}, "classes[1] must be a text of at most"),
    # numbers
    ({**NUMBERS, "target_mean": [0.0]}, "target_scale must be a list of 1"),
    ({**NUMBERS, "target_mean": [0.0], "target_scale": [1.0]}, "target_mean must be a list of 2"),
    ({**NUMBERS, "target_mean": [0.0] * 3, "target_scale": [1.0] * 3}, "target_mean must be a list of 2"),
    ({**NUMBERS, "target_mean": [[0.0, 1], [0, 1]]}, "target_mean[0]"),
    ({**NUMBERS, "target_mean": None}, "target_mean"),
    ({**NUMBERS, "target_mean": [0.0, math.nan]}, "target_mean[1]"),
    ({**GOOD, "target_mean": "0"}, "target_mean"),
    *(
        ({**NUMBERS, "target_scale": [1.0, bad]}, "target_scale[1] must be a finite number above 0")
        for bad in (0, -2, math.nan, math.inf, False, "1")
    ),
    # columns
    ({**GOOD, "columns": {}}, "columns must be a list"),
    ({**GOOD, "columns": "size"}, "columns must be a list"),
    ({**GOOD, "columns": 3}, "columns must be a list"),
    ({**GOOD, "columns": []}, "columns must be a list"),
    ({**GOOD, "columns": ["size", "color"]}, "columns[0] must be a list"),
    ({**GOOD, "columns": ["ab"]}, "columns[0] must be a list"),
    ({**GOOD, "columns": [None]}, "columns[0] must be"),
    ({**GOOD, "columns": [["size"], ["color", ["blue", "red"]]]}, "columns[0] must be a list"),
    ({**GOOD, "columns": [["size", None, 1], ["color", ["blue", "red"]]]}, "columns[0] must be a list"),
    ({**GOOD, "columns": [[1, None], ["color", ["blue", "red"]]]}, "columns[0] must be text, got 1"),
    ({**GOOD, "columns": [[None, None], ["color", ["blue", "red"]]]}, "columns[0] must be text"),
    ({**GOOD, "columns": [["a", None], ["b", None], ["a", None]]}, "columns[2] must be different"),
    ({**GOOD, "columns": [["a\0", None], ["color", ["blue", "red"]]]}, "columns[0] must be a text without NUL"),
    ({**GOOD, "columns": [["size", None], ["color", "blue"]]}, "columns[1].categories must be a list"),
    ({**GOOD, "columns": [["size", None], ["color", 2]]}, "columns[1].categories must be a list"),
    ({**GOOD, "columns": [["size", None], ["color", {"blue": 1, "red": 2}]]}, "columns[1].categories must be a list"),
    ({**GOOD, "columns": [["size", False], ["color", ["blue", "red"]]]}, "columns[0].categories must be a list"),
    ({**GOOD, "columns": [["size", None], ["color", [1, 2]]]}, "columns[1].categories[0] must be text"),
    ({**GOOD, "columns": [["size", None], ["color", ["red", "red"]]]}, "columns[1].categories[1] must be different"),
    ({**GOOD, "columns": [["size", None], ["color", ["red", "red\0"]]]}, "columns[1].categories[1]"),
    ({**GOOD, "columns": [["size", None], ["color", []]]}, "mean must be a list of 1, one for each input"),  # left out
    ({**GOOD, "columns": [["size", []], ["color", []]]}, "mean must be a list of 0"),
    ({**GOOD, "has_names": 1}, "has_names must be true, false or null"),
    ({**GOOD, "columns": [["size", None], ["color", ["red"]]]}, "mean must be a list of 2, one for each input"),
    ({**GOOD, "columns": [["a", None]] + [["b", ["r", "g", "b"]]]}, "mean must be a list of 4, one for each input"),
    ({**GOOD, "mean": [0.0], "scale": [1.0], "columns": [["a", None]]}, "columns make 1 inputs, but the network has 3"),
    ({**GOOD, "columns": [["c", [str(i) for i in range(999)] + ["x" * 100_000]]]}, "columns[0].categories must be"),
    # target
    ({**GOOD, "target": 2}, "target must be text, got 2"),
    ({**GOOD, "target": ["kind"]}, "target must be text"),
    ({**GOOD, "target": True}, "target must be text"),
    ({**GOOD, "target": "size"}, "target must be none of the columns"),
    ({**GOOD, "target": "\ud800"}, "target must be a text without NUL"),
]


@pytest.mark.parametrize(("text", "words"), DAMAGED, ids=[words for _, words in DAMAGED])
def test_damaged_metadata_are_refused_when_read(tmp_path, flowers, text, words):
    net = save_model(tmp_path / "m.npz", text)
    metadata = fastbp.load(tmp_path / "m.npz", backend="numpy").metadata
    with pytest.raises(ValueError) as error:
        Preprocessor.from_metadata(metadata, net.sizes, "m.npz")
    message, path = str(error.value), tmp_path / "m.npz"
    assert message.startswith("m.npz, metadata 'recipe': ") and words in message and len(message) < 300
    assert error_line("predict", path, flowers) == f"error: {message}".replace("m.npz", str(path))


@pytest.mark.parametrize("length", [1, 3])
def test_saved_models_predict_the_same(tmp_path, length):
    X = np.array([[3.5, 1, 0], [9, 0, 1]])
    (tmp_path / "t.csv").write_text("size,color,kind\n3.5,blue,lily\n9,red,rose\n")
    for fields in (GOOD, NUMBERS):
        fields = {**fields, "mean": fields["mean"][:length], "scale": fields["scale"][:length]}
        net = save_model(tmp_path / "m.npz", fields)
        A = net.predict((X - fields["mean"]) / fields["scale"])
        columns = predictions(tmp_path / "m.npz", tmp_path / "t.csv")
        if fields["classes"]:
            assert columns["prediction"] == tuple(fields["classes"][c] for c in A.argmax(axis=1))
            np.testing.assert_allclose(np.array(columns["output"], float), A.max(axis=1), rtol=1e-5)
        else:
            shown = np.column_stack([np.array(columns[f"prediction {j}"], float) for j in range(2)])
            np.testing.assert_allclose(shown, A * [3, 0.5] + [10, -1], rtol=1e-8)


def test_a_preprocessor_that_cannot_be_read_back_is_not_made():
    data = Dataset(np.ones((4, 1)), np.array([0, 1, 0, 1]), ("a", "a\0"))
    with pytest.raises(ValueError, match=r"classes\[1\] must be a text without NUL"):
        Preprocessor.of(data, np.arange(4))


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1e-60), (0.0, 1e60), (-1e60, 1.0)])
def test_inputs_of_float32_are_standardized_by_numbers_that_it_does_not_hold(mean, scale):
    X = np.array([[1.0], [2.0]], np.float32)
    expected = (X.astype(float) - mean) / scale
    np.testing.assert_allclose(Preprocessor([mean], [scale]).inputs(X, np.dtype("f8")), expected, rtol=1e-15)


@pytest.mark.filterwarnings("ignore:NaN or infinity in b2")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_refused(tmp_path, flowers, bad):
    net = save_model(tmp_path / "m.npz", GOOD)
    net.biases[1][:] = [bad, 0]
    net.save(tmp_path / "m.npz", metadata={METADATA_KEY: json.dumps(GOOD)})
    model = tmp_path / "m.npz"
    assert f"the outputs of {model} are not finite for row 0 of {flowers}" in error_line("predict", model, flowers)


def test_predictions_that_overflow_are_refused(tmp_path):
    save_model(tmp_path / "m.npz", {**NUMBERS, "target_mean": [1.7e308] * 2, "target_scale": [1.7e308] * 2})
    (tmp_path / "t.csv").write_text("size,color\n1,red\n9,blue\n")
    assert "m.npz are not finite for row " in error_line("predict", tmp_path / "m.npz", tmp_path / "t.csv")
    net = fastbp.Network([3, 2], "identity", seed=0, backend="numpy")
    net.save(tmp_path / "m.npz", {METADATA_KEY: json.dumps(NUMBERS)})
    (tmp_path / "t.csv").write_text("size,color\n1,red\n1e300,blue\n")  # infinite in float32
    line = error_line("predict", tmp_path / "m.npz", tmp_path / "t.csv")
    assert f"the standardized inputs are not finite for row 1 of {tmp_path}/t.csv" in line


# ------------------------------------------------------------------ the score


def score_lines(tmp_path, fields, lines):
    """Predict lines of a table by a model; return its predictions and its messages on the score."""
    save_model(tmp_path / "m.npz", fields)
    (tmp_path / "t.csv").write_text("\n".join(["size,color,kind", *lines]) + "\n")
    result = run("predict", tmp_path / "m.npz", tmp_path / "t.csv")
    rows = list(csv.reader(io.StringIO(result.stdout)))[1:]
    return [row[0] for row in rows], result.stderr.replace(f"{tmp_path}/", "").splitlines()


UNKNOWN = "that the model does not know"


@pytest.mark.parametrize(
    ("classes", "targets", "n_left", "remark"),
    [
        ("lily rose", ["lily", "rose", "lily"], 3, None),
        ("lily rose", ["lily", "", "rose", "NA"], 2, "2 of 4 rows left out of the score: 2 without a target"),
        ("lily rose", ["oak", "lily", "rose"], 2, f"1 of 3 rows left out of the score: 1 of a class {UNKNOWN} ('oak')"),
        (
            "lily rose",
            ["lily", "oak", "?", "elm", "oak"],
            1,
            f"4 of 5 rows left out of the score: 1 without a target, 3 of 2 classes {UNKNOWN} ('elm', 'oak')",
        ),
        ("lily rose", ["1", "2", "lily"], 1, f"2 of 3 rows left out of the score: 2 of 2 classes {UNKNOWN} ('1', '2')"),
        (
            "lily rose",
            ["\x1b[2J", "lily"],
            1,
            rf"1 of 2 rows left out of the score: 1 of a class {UNKNOWN} ('\x1b[2J')",
        ),
        ("0 1", ["0", "1", "1.0", "x"], 3, f"1 of 4 rows left out of the score: 1 of a class {UNKNOWN} ('x')"),
        ("0 1", ["0", "", "nan", "1"], 2, "2 of 4 rows left out of the score: 2 without a target"),
        ("0 1", ["0", "7", "inf"], 1, f"2 of 3 rows left out of the score: 2 of 2 classes {UNKNOWN} ('7', 'inf')"),
        ("01 x", ["01", "x", "x", "1"], 3, f"1 of 4 rows left out of the score: 1 of a class {UNKNOWN} ('1')"),
    ],
)
def test_the_score_leaves_out_only_targets_that_the_model_does_not_know(tmp_path, classes, targets, n_left, remark):
    lines = [f"{i},{'red' if i % 2 else 'blue'},{target}" for i, target in enumerate(targets)]
    predicted, messages = score_lines(tmp_path, {**GOOD, "classes": classes.split()}, lines)
    names = [{"1.0": "1"}.get(target, target) for target in targets]
    right = sum(name == guess for name, guess in zip(names, predicted, strict=True))
    assert messages[: 1 + (remark is not None)] == [
        *([] if remark is None else [remark]),
        f"t.csv accuracy {right / n_left:.2%} ({right} of {n_left}); flatters if trained on these rows",
    ]


@pytest.mark.parametrize(
    ("targets", "why"),
    [
        (["", "?"], "t.csv has no targets in a column 'kind'"),
        (["oak"] * 3, f"none of 3 rows has a target that the model knows: 3 of a class {UNKNOWN} ('oak')"),
        (
            ["oak", "NA"],
            f"none of 2 rows has a target that the model knows: 1 without a target, 1 of a class {UNKNOWN} ('oak')",
        ),
        (
            [f"k{i}" for i in range(40)],
            f"none of 40 rows has a target that the model knows: 40 of 40 classes {UNKNOWN} "
            "('k0', 'k1', 'k10', 'k11', 'k12' and 35 more)",
        ),
    ],
)
def test_the_reason_for_no_score_of_classes(tmp_path, targets, why):
    _, messages = score_lines(tmp_path, GOOD, [f"{i},red,{target}" for i, target in enumerate(targets)])
    assert messages == [f"no score: {why}"]


ONE_NUMBER = {**GOOD, "classes": None, "target_mean": [10.0], "target_scale": [3.0]}


@pytest.mark.parametrize(
    ("targets", "remark"),
    [
        (["1", "2.5", "4"], None),
        (["1", "?", "abc", "inf", "3"], "3 of 5 rows left out of the score: 3 without a number as the target"),
        (["a", "b", "3", "1"], "2 of 4 rows left out of the score: 2 without a number as the target"),
    ],
)
def test_the_score_leaves_out_targets_that_are_no_numbers(tmp_path, targets, remark):
    net = fastbp.Network([1, 1], "identity", seed=0, backend="numpy")
    net.save(
        tmp_path / "m.npz",
        {METADATA_KEY: json.dumps({**ONE_NUMBER, "mean": [0.0], "scale": [1.0], "columns": [["size", None]]})},
    )
    (tmp_path / "t.csv").write_text("size,kind\n" + "".join(f"{i},{text}\n" for i, text in enumerate(targets)))
    result = run("predict", tmp_path / "m.npz", tmp_path / "t.csv")
    guess = np.array(result.stdout.split()[1:], float)
    rows = [i for i, text in enumerate(targets) if re.fullmatch(r"[\d.]+", text)]
    y = np.array([float(targets[i]) for i in rows])
    error = np.mean((guess[rows] - y) ** 2)
    assert result.stderr.splitlines() == [
        *([] if remark is None else [remark]),
        f"{tmp_path}/t.csv RMSE {np.sqrt(error):.4g}, R2 {1 - error / y.var():.4f}; flatters if trained on these rows",
    ]


@pytest.mark.parametrize(
    ("fields", "y", "lines"),
    [
        (
            GOOD,
            ["lily", "oak", "rose", "lily"],
            [f"1 of 4 rows left out of the score: 1 of a class {UNKNOWN} ('oak')", "{data} accuracy "],
        ),
        (
            GOOD,
            [1.0, 2, 3, 3],
            [f"no score: none of 4 rows has a target that the model knows: 4 of 3 classes {UNKNOWN} ('1', '2', '3')"],
        ),
        (
            {**GOOD, "classes": ["0", "1"]},
            [0, 1, np.nan, np.inf],
            ["2 of 4 rows left out of the score: 2 without a target", "{data} accuracy "],
        ),
        (GOOD, [[1.0, 2]] * 4, ["no score: the targets of {data} are numbers, but the model predicts classes"]),
        (GOOD, [["lily", "rose"]] * 4, ["no score: {data} has 2 targets a row, but the model predicts 1"]),
        (
            NUMBERS,
            [[1.0, 2], [np.nan, 3], [5, 6], [7, np.inf]],
            [
                "2 of 4 rows left out of the score: 2 without a number as the target",
                "{data} RMSE of output 0 ",
                "{data} RMSE of output 1 ",
            ],
        ),
        (
            NUMBERS,
            [[np.nan] * 2] * 4,
            ["no score: none of 4 rows has a target that the model knows: 4 without a number as the target"],
        ),
        (
            NUMBERS,
            ["a", "b", "a", "b"],
            ["no score: the targets of {data} are classes, but the model predicts numbers"],
        ),
        (NUMBERS, [1.0, 2, 3, 4], ["no score: {data} has 1 targets a row, but the model predicts 2"]),
    ],
)
def test_targets_of_arrays_that_the_model_does_not_know(tmp_path, fields, y, lines):
    save_model(tmp_path / "m.npz", {**fields, "columns": None, "target": None})
    data = tmp_path / "d.npz"
    np.savez(data, X=np.eye(4, 3), y=np.array(y))
    result = run("predict", tmp_path / "m.npz", data)
    assert len(result.stdout.splitlines()) == 5
    messages = [line for line in result.stderr.splitlines() if not line.startswith(" ")]
    assert len(messages) == len(lines)
    assert all(line.startswith(start.format(data=data)) for line, start in zip(messages, lines, strict=True)), messages


def test_a_model_without_a_preprocessor_is_not_scored(tmp_path):
    fastbp.Network([2, 3, 2], seed=0, backend="numpy").save(tmp_path / "m.npz")
    assert run("predict", tmp_path / "m.npz", "xor").stderr == (
        "no score: the model does not say what its outputs mean, so the targets of xor are not compared\n"
    )
    (tmp_path / "t.csv").write_text("1,2\n3,4\n")
    assert run("predict", tmp_path / "m.npz", tmp_path / "t.csv").stderr.endswith("t.csv has no targets\n")
    (tmp_path / "t.csv").write_text("a,b,t\n1,2,7\n3,4,?\n")  # targets that no model could be trained on
    assert len(run("predict", tmp_path / "m.npz", tmp_path / "t.csv").stdout.splitlines()) == 3


@pytest.mark.parametrize("targets", [[7.5], [7.5, 7.5], [0.1] * 3])
def test_r2_of_equal_targets_is_undefined(tmp_path, targets):
    save_model(tmp_path / "m.npz", {**NUMBERS, "columns": None, "target": None})
    np.savez(tmp_path / "d.npz", X=np.eye(3)[: len(targets)], y=np.column_stack([targets, np.arange(len(targets))]))
    first = run("predict", tmp_path / "m.npz", tmp_path / "d.npz").stderr.splitlines()[0]
    assert re.search(
        r"RMSE of output 0 [\d.]+, R2 undefined, as the targets are all equal; flatters if trained on these rows$",
        first,
    )


@pytest.mark.parametrize(
    ("targets", "options", "remark"),
    [
        ("ab" * 5, [], "nothing is held out to test: 10 samples are fewer than 20"),
        (
            "ab" * 15,
            ["--test-fraction", 0.01],
            "nothing is held out to test: 30 samples are too few for a fraction of 0.01",
        ),
        ("a" * 39 + "b", [], "1 of the 2 classes have no sample held out to test: 'b'"),
        ("ab" * 19 + "cd", [], "2 of the 4 classes have no sample held out to test: 'c', 'd'"),
        ("ab" * 15, [], None),
        ("ab" * 15, ["--test-fraction", 0], None),
        ("ab" * 5, ["--test-fraction", 0], None),
    ],
)
def test_warnings_of_missing_test_samples(tmp_path, targets, options, remark):
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{i * 7 % 5},{name}\n" for i, name in enumerate(targets)))
    error = run("train", tmp_path / "t.csv", "--epochs", 1, *options).stderr
    assert error == ("" if remark is None else f"{remark}\n")


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("digits", ["--target", "price"], "target ('price') does not apply to digits"),
        ("xor", ["--task", "numbers"], "task ('numbers') does not apply to xor"),
        ("digits", ["--no-header"], "header (False) does not apply to digits"),
        ("{npz}", ["--target", "y"], "target ('y') does not apply to the npz file"),
        ("{npz}", ["--header"], "header (True) does not apply to the npz file"),
        ("{idx}", ["--task", "numbers"], "task ('numbers') does not apply to the IDX file"),
        ("{idx}", ["--target", "0"], "target ('0') does not apply to the IDX file"),
    ],
)
def test_options_that_do_not_apply_are_refused(tmp_path, source, options, words):
    files = {"npz": tmp_path / "d.npz", "idx": tmp_path / "images"}
    np.savez(files["npz"], X=np.eye(3), y=[0, 1, 1])
    files["idx"].write_bytes(b"\0\0\x08\x02" + (2).to_bytes(4, "big") * 2 + bytes(4))
    assert f"the option {words}" in error_line("train", source.format(**files), *options)


# ------------------------------------------------------------------ control characters

HOSTILE = "\x1b]title\x07\x1b[2J\x7f\x9b31m\u202eabc\u2066\u2028[red]x :cat: \\"
ESCAPED = r"\x1b]title\x07\x1b[2J\x7f\x9b31m\u202eabc\u2066\u2028[red]x :cat: " + "\\"


def is_harmless(text):
    """Whether a terminal displays every character of a text, instead of obeying it."""
    return not set(text) & {
        *map(chr, (*range(10), *range(11, 32), *range(127, 160), *range(0x2028, 0x202F), *range(0x2066, 0x206A)))
    }


def test_everything_that_rich_prints_is_escaped():
    sources = "".join(path.read_text() for path in Path(cli.__file__).parent.glob("*.py"))
    printed = re.findall(r"(?:out|err|console)\.print\((\w+)", sources)
    assert len(printed) > 8 and set(printed) == {"plain", "Text", "table"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HOSTILE, ESCAPED),
        ("a\tb\r\nc\0", r"a\tb\r\nc\x00"),
        ("\ud800\u061c\u200f", r"\ud800\u061c\u200f"),
        *[("caf\xe9 \u4e2d\u6587 \U0001f33b \u0645\u06cc\u200c\u062e",) * 2],
        ("a" * 4001, "a" * 3997 + "..."),
        ("a" * 4000, "a" * 4000),
    ],
)
def test_printable(text, expected):
    assert screen.printable(text) == expected


@pytest.fixture
def hostile(tmp_path):
    """Make a CSV file with control characters in its name, columns and classes."""
    path = tmp_path / f"{HOSTILE}.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(
            [
                ["size", f"c{HOSTILE}", f"t{HOSTILE}"],
                *([i % 3, "a" + HOSTILE * (i % 2), f"{i % 3}{HOSTILE}"] for i in range(60)),
            ]
        )
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="no such file names")
def test_control_characters_in_names_are_escaped(hostile, tmp_path):
    out, written = tmp_path / "\x1b[3m.npz", tmp_path / "\x1b[3m.csv"
    results = [run("train", hostile, "--epochs", 20, "--out", out), run("predict", out, hostile, "--out", written)]
    assert all(is_harmless(result.output) for result in results)
    for result in results:
        assert re.search(rf"^ 1 1{re.escape(ESCAPED[:50])}.* \. +\d+ +\. $", result.output, re.MULTILINE)
    assert "\\x1b[3m.npz" in results[0].stdout and "predictions written to" in results[1].stderr
    with written.open(newline="", encoding="utf-8") as stream:
        assert [row[0] for row in csv.reader(stream)] == ["prediction", *(f"{i % 3}{HOSTILE}" for i in range(60))]
    assert HOSTILE in run("predict", out, hostile).stdout


def test_control_characters_in_many_classes_are_escaped(tmp_path):
    names = [f"{HOSTILE}{i}" for i in range(20)]
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([i // 40, names[i // 20]] for i in range(400))
    text = run("train", tmp_path / "t.csv", "--epochs", 1).stdout
    assert f"  {ESCAPED[:50]}" in text and is_harmless(text)


def test_long_names_are_cut(tmp_path):
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{i % 2},{'ab'[i % 2] * 5000}\n" for i in range(40)))
    assert max(map(len, run("train", tmp_path / "t.csv", "--epochs", 1).stdout.splitlines())) < 400


@pytest.mark.skipif(sys.platform == "win32", reason="no such file names")
@pytest.mark.parametrize(
    "arguments",
    [
        ["train", HOSTILE],
        ["train", "{path}", "--target", HOSTILE],
        ["train", "{path}", "--loss", HOSTILE],
        ["train", "{path}", "--hidden", HOSTILE],
        ["train", "{path}", "--out", f"{HOSTILE}/m"],
        ["train", "{bad}"],
        ["predict", HOSTILE, "digits"],
        ["predict", "{path}", "digits"],
        ["predict", "{model}", "{bad}"],
        ["predict", "{model}", "{path}"],
        ["trace", HOSTILE],
        [HOSTILE],
        ["train", f"--{HOSTILE}"],
    ],
)
def test_control_characters_in_errors_are_escaped(hostile, tmp_path, arguments):
    save_model(tmp_path / f"{HOSTILE[:8]}.npz", {**GOOD, HOSTILE: 0} if "{path}" in arguments else GOOD)
    bad = tmp_path / f"{HOSTILE}.bad.csv"
    bad.write_text(f"size,color,kind\n1,{HOSTILE},lily\n2,red,lily\n3,red\n", encoding="utf-8")
    names = {"path": hostile, "bad": bad, "model": tmp_path / f"{HOSTILE[:8]}.npz"}
    error = run(*(argument.format(**names) for argument in arguments), exit_code=2).stderr
    assert is_harmless(error) and "\\x1b]title" in error


@pytest.mark.filterwarnings("always")
def test_warnings_are_one_escaped_line(monkeypatch):
    def read(*arguments, **options):
        warnings.warn(f"two\nlines {HOSTILE}", stacklevel=1)
        raise ValueError("the end")

    monkeypatch.setattr(samples, "read", read)
    warning, error = run("train", "digits", exit_code=2).stderr.splitlines()
    assert warning.startswith(r"warning: two lines \x1b]title") and error == "error: the end"
    assert is_harmless(warning)


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals, and no such file names")
def test_predictions_on_a_terminal_are_escaped(hostile, tmp_path):
    run("train", hostile, "--epochs", 20, "--out", tmp_path / "m.npz")
    reader, terminal = os.openpty()
    command = [*LAUNCH, "predict", str(tmp_path / "m.npz"), str(hostile), "--backend", "numpy"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=terminal, stderr=subprocess.DEVNULL, env=environment) as process:
        os.close(terminal)
        text = ""
        with contextlib.suppress(OSError), open(reader, encoding="utf-8", newline="") as stream:
            while character := stream.read(1):
                text += character
    assert process.returncode == 0
    lines = text.splitlines()
    assert is_harmless(text.replace("\r\n", "\n")) and len(lines) == 61 and lines[1].startswith(f"0{ESCAPED},")


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "nowhere.csv"], ["no file 'nowhere.csv'", "digits, xor"]),
        (["train", "digit"], ["did you mean 'digits'?"]),
        (["train", "{curve}", "--activation", "sigmod"], ["'sigmod'", "sigmoid"]),
        (["train", "{curve}", "--loss", "square_error"], ["squared_error"]),
        (["train", "{curve}", "--loss", "cross_entropy"], ["numbers"]),
        (["train", "{curve}", "--loss", "hinge"], ["numbers"]),
        (["train", "{curve}", "--loss", "poisson"], ["counts"]),
        (["train", "{curve}", "--hidden", "3,x"], ["--hidden", "3,x"]),
        (["train", "{curve}", "--hidden", "-3"], ["--hidden"]),
        (["train", "{curve}", "--lr", "-1"], ["lr", "-1"]),
        (["train", "{curve}", "--batch-size", "0"], ["batch_size"]),
        (["train", "{curve}", "--momentum", "2"], ["momentum"]),
        (["train", "{curve}", "--dtype", "float16"], ["float16"]),
        (["train", "{curve}", "--backend", "torch"], ["torch"]),
        (["train", "{curve}", "--test-fraction", "0.9"], ["fraction", "0.9"]),
        (["train", "{curve}", "--target", "price"], ["no column 'price'"]),
        (["train", "{curve}", "--task", "class"], ["task", "'class'"]),
        (["train", "{curve}", "--out", "no/such/folder/m.npz"], ["no/such/folder"]),
        (["train", "{curve}", "--lr", "1e30"], ["infinite", "--lr", "1e+30"]),
        (["train", "{curve}", "--loss", ""], ["loss '' is unknown"]),
        (["train", "{curve}", "--hidden", str(10**13)], ["Unable to allocate"]),
        (["train", "{curve},{curve}"], ["not an IDX file"]),
        (["predict", "nowhere.npz", "digits"], ["no file 'nowhere.npz'"]),
        (["predict", "{curve}", "digits"], ["curve.csv"]),
        (["predict", "{model}", "digits"], ["64 features", "takes 2"]),
        (["predict", "{model}", "{curve}", "--out", "no/such/folder/p.csv"], ["no/such/folder"]),
        (["trace", "digits"], ["only xor"]),
    ],
)
def test_errors_are_one_line(curve, tmp_path, arguments, words):
    model = tmp_path / "m.npz"
    if "{model}" in arguments:
        run("train", curve, "--epochs", 1, "--out", model)
    line = error_line(*(argument.format(curve=curve, model=model) for argument in arguments))
    assert all(word in line for word in words), line


def test_missing_safetensors_is_reported_before_the_training(monkeypatch, tmp_path, curve):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    monkeypatch.setattr(textbook, "_train", None)
    assert "pip install 'fastbp[files]'" in error_line("train", curve, "--out", tmp_path / "m.safetensors")


def test_a_single_class_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "1,x\n2,x\n" * 5)
    assert "one class 'x'" in error_line("train", path)


# ------------------------------------------------------------------ Ctrl-C


def interrupt_after(monkeypatch, epochs):
    """Interrupt training as by Ctrl-C after this number of epochs."""
    fit = fastbp.Trainer.fit

    def interrupted_fit(self, *args, **kwargs):
        history = fit(self, *args, **kwargs)
        history.interrupted = self.epochs >= epochs
        return history

    monkeypatch.setattr(fastbp.Trainer, "fit", interrupted_fit)


def test_ctrl_c_saves_what_was_learned(monkeypatch, tmp_path):
    interrupt_after(monkeypatch, 4)
    out = tmp_path / "m.npz"
    result = run("train", "digits", "--out", out, exit_code=130)
    assert "Ctrl-C after 4 epochs" in result.stderr and "saved" in result.stderr
    assert accuracy(result.stdout) > 90
    assert accuracy(run("predict", out, "digits").stderr, "digits") > 90
    assert "no --out" in run("train", "digits", exit_code=130).stderr


def test_ctrl_c_between_the_calls(monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(textbook, "_epoch_line", interrupt)
    assert "Ctrl-C after 1 epochs" in run("train", "digits", exit_code=130).stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process")
def test_ctrl_c_in_a_real_process(tmp_path):
    out = tmp_path / "m.npz"
    command = [*LAUNCH, "train", "digits", "--epochs", "100000000", "--out", str(out), "--backend", "numpy"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as process:
        while not process.stdout.readline().lstrip().startswith("1 "):  # the first epoch is shown
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "Ctrl-C" in error and "Traceback" not in error
    assert fastbp.load(out).sizes == (64, 30, 10)


# ------------------------------------------------------------------ verify, trace


def test_verify():
    text = run("verify").stdout
    assert text.count("everything agrees") == len(verify.VERIFIED) + 1 and "WRONG" not in text


def test_verify_notices_a_wrong_derivative(monkeypatch):
    double = fastbp.Activation(numba.njit(lambda z: 2 * z), numba.njit(lambda z, a: 2.02))
    monkeypatch.setattr(verify, "VERIFIED", [([2, 3, 1], [double, "sigmoid"], "squared_error")])
    assert "WRONG" in run("verify", exit_code=1).stdout


def test_trace():
    text = run("trace", "xor").stdout
    net = fastbp.Network([2, 2, 1], dtype="float64", seed=0, backend="numpy")
    assert text == f"{net.trace(*fastbp.datasets.load_xor())}\n" and "delta1" in text
    assert run("trace").stdout == text != run("trace", "--seed", 1).stdout


# ------------------------------------------------------------------ preprocessor


@pytest.mark.parametrize("n_samples", [20, 97, 1000])
def test_split_is_stratified(n_samples):
    y = np.random.default_rng(0).choice(4, n_samples, p=[0.6, 0.2, 0.15, 0.05])
    train, test = split(y, 0.2, True)
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(n_samples))
    assert abs(len(test) - 0.2 * n_samples) <= 1
    assert (np.abs(np.bincount(y[test], minlength=4) - 0.2 * np.bincount(y, minlength=4)) <= 1).all()


def test_split_keeps_the_only_row_of_a_class_for_training():
    y = np.array([0] * 10 + [1] + [2] * 10)
    for fraction in np.linspace(0, 0.5, 20):
        train, _ = split(y, fraction, True)
        assert set(y[train]) == {0, 1, 2}


def test_preprocessor_standardizes_by_the_training_rows_alone():
    rng = np.random.default_rng(0)
    X, y = rng.normal([5, -3, 7], [2, 1e-3, 0], (50, 3)), rng.normal(1e4, 50, 50)
    X[40:] += 100
    made = Preprocessor.of(Dataset(X, y), np.arange(40))
    Z = made.inputs(X, np.dtype("f8"))
    np.testing.assert_allclose(Z[:40].mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(Z[:40].std(axis=0), [1, 1, 0], atol=1e-9)
    np.testing.assert_allclose(Z[:, :2], (X - X[:40].mean(axis=0))[:, :2] / X[:40].std(axis=0)[:2])
    T = made.targets(y, "squared_error")
    assert T.shape == (50, 1) and T[:40].std() == pytest.approx(1)
    np.testing.assert_allclose(made.predictions(T)[:, 0], y)


def test_preprocessor_gives_pixels_one_scale():
    X = np.random.default_rng(0).integers(0, 256, (30, 4)).astype(np.uint8)
    X[:, 0] = 9
    Z = Preprocessor.of(Dataset(X, np.arange(30) % 2, ("a", "b"), pixels=True), np.arange(30)).inputs(X, np.dtype("f4"))
    assert Z.dtype == np.float32 and (Z.mean(), Z.std()) == pytest.approx((0, 1), abs=1e-5)
    assert len(np.unique(Z[:, 0])) == 1 and np.ptp(Z) == pytest.approx(np.ptp(X) / X.std(), rel=1e-5)


def test_preprocessor_survives_json(flowers):
    data = read(str(flowers))
    made = Preprocessor.of(data, np.arange(50))
    again = Preprocessor.from_metadata(made.metadata())
    assert set(made.metadata()) == {METADATA_KEY} and tuple(again.columns) == data.columns
    assert tuple(again.classes) == ("lily", "rose") and (again.mean, again.scale) == (made.mean, made.scale)
    assert Preprocessor.from_metadata({"other": "text"}) is None and preprocessing.BUNDLED == ("digits", "xor")


def test_the_model_is_saved_when_the_output_is_closed(flowers, tmp_path):
    command = [*LAUNCH, "train", str(flowers), "--epochs", "60", "--out", str(tmp_path / "m.npz"), "--backend", "numpy"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0, process.stderr.read()
    assert fastbp.load(tmp_path / "m.npz").sizes[-1] == 2


def test_files_that_are_read_are_not_written_over(flowers, tmp_path):
    before = flowers.read_bytes()
    assert "it is read, and would be lost" in error_line("train", flowers, "--out", flowers)
    assert "it is a folder" in error_line("train", flowers, "--out", tmp_path)
    run("train", flowers, "--epochs", 2, "--out", tmp_path / "m.npz")
    model = (tmp_path / "m.npz").read_bytes()
    for out in (flowers, tmp_path / "m.npz"):
        assert "would be lost" in error_line("predict", tmp_path / "m.npz", flowers, "--out", out)
    assert flowers.read_bytes() == before and (tmp_path / "m.npz").read_bytes() == model


def test_a_model_without_a_preprocessor_reads_features_alone_or_with_a_target(tmp_path):
    fastbp.Network([3, 3, 1], seed=0).save(tmp_path / "m.npz")
    results = []
    names = "".join(f"1,2,3,name {i % 40}\n" for i in range(99))  # texts that could not be a feature
    for text in ("a,b,c\n1,2,3\n4,5,6\n", "a,b,c,t\n1,2,3,0\n4,5,6,1\n", "a,b,c,t\n" + names):
        (tmp_path / "t.csv").write_text(text)
        results.append(run("predict", tmp_path / "m.npz", tmp_path / "t.csv").stdout)
    assert results[0] == results[1] and [len(result.splitlines()) for result in results] == [3, 3, 100]


def test_targets_of_another_shape_are_not_compared(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "two.npz", X=rng.random((30, 3)), y=rng.random((30, 2)))
    np.savez(tmp_path / "one.npz", X=rng.random((4, 3)), y=rng.random(4))
    run("train", tmp_path / "two.npz", "--epochs", 2, "--out", tmp_path / "m.npz")
    result = run("predict", tmp_path / "m.npz", tmp_path / "one.npz")
    assert len(result.stdout.splitlines()) == 5
    assert result.stderr == f"no score: {tmp_path}/one.npz has 1 targets a row, but the model predicts 2\n"


@pytest.mark.parametrize("offset, width", [(1.7e18, 1e9), (0.0, 1e200), (0.0, 1e-290), (5.0, 1.0)])
def test_columns_of_any_size_are_standardized(offset, width):
    column = offset + width * np.random.default_rng(0).random(500)
    samples = fastbp.datasets.dataset.Dataset(np.column_stack([column, np.full(500, 7.7)]), column)
    preprocessor = Preprocessor.of(samples, np.arange(500))
    X = preprocessor.inputs(samples.X, np.dtype(np.float64))
    np.testing.assert_allclose([X[:, 0].mean(), X[:, 0].std()], [0, 1], atol=1e-6)
    assert np.abs(X[:, 1]).max() < 1e-9
    np.testing.assert_allclose(
        preprocessor.predictions(preprocessor.targets(column, "squared_error").astype(np.float32))[:, 0],
        column,
        rtol=1e-5,
        atol=1e-5 * width,
    )


def test_the_header_option(tmp_path):
    (tmp_path / "t.csv").write_text("\n".join(f"{i + 100},{i % 7},{i % 3 / 2}" for i in range(40)))
    assert "40 samples" in run("train", tmp_path / "t.csv", "--epochs", 1).stdout
    assert "39 samples" in run("train", tmp_path / "t.csv", "--epochs", 1, "--header").stdout


# ------------------------------------------------------------------ tables to train on and to predict


def trained_on(tmp_path, text, forget=()):
    """Train on this table; return the model, without some fields of its preprocessor, and the lines on its columns."""
    (tmp_path / "train.csv").write_text(text)
    lines = run("train", tmp_path / "train.csv", "--epochs", 200, "--out", tmp_path / "m.npz").stdout.splitlines()
    messages = [line for line in lines if line.startswith("  '")]
    net = fastbp.load(tmp_path / "m.npz")
    fields = json.loads(net.metadata[METADATA_KEY])
    assert {"has_names", "columns", "target"} <= set(fields)
    kept = {name: value for name, value in fields.items() if name not in forget}
    net.save(tmp_path / "m.npz", metadata={METADATA_KEY: json.dumps(kept)})
    return tmp_path / "m.npz", messages


def given(tmp_path, text):
    (tmp_path / "new.csv").write_text(text)
    return tmp_path / "new.csv"


NAMELESS = "1,10,a\n2,20,a\n8,80,b\n9,90,b\n1,10,a\n9,90,b\n"


@pytest.mark.parametrize("forget", [[], ["has_names"]])  # missing in models of earlier versions
def test_a_table_without_names_is_predicted_by_its_width(tmp_path, forget):
    model, _ = trained_on(tmp_path, NAMELESS, forget)
    assert "4 columns" in error_line("predict", model, given(tmp_path, "501,1,10,a\n502,9,90,b\n"))
    for text in ("1,10,a\n9,90,b\n", "1,10,a\n9,90,\n", "1,10\n9,90\n", "u,v,w\n1,10,a\n9,90,b\n"):
        assert predictions(model, given(tmp_path, text))["prediction"] == ("a", "b")


def test_a_table_of_texts_is_predicted_from_its_first_row_on(tmp_path):
    model, _ = trained_on(tmp_path, "red,s\nblue,m\n" * 4)
    assert predictions(model, given(tmp_path, "red,s\nblue,m\n"))["prediction"] == ("s", "m")
    model, _ = trained_on(tmp_path, "c,k\n" + "red,s\nblue,m\n" * 4)
    assert predictions(model, given(tmp_path, "k,c\ns,red\nm,blue\n"))["prediction"] == ("s", "m")
    assert predictions(model, given(tmp_path, "red\nblue\n"))["prediction"] == ("s", "m")


def test_names_that_are_numbers_are_found_again(tmp_path):
    model, _ = trained_on(tmp_path, "0,1,2,3\n" + "5,1,2,.5\n7,2,1,1.5\n" * 3)
    samples = "5,1,2\n7,2,1\n"
    assert predictions(model, given(tmp_path, "0,1,2\n" + samples)) == predictions(model, given(tmp_path, samples))
    assert len(predictions(model, given(tmp_path, samples))["prediction"]) == 2


def test_columns_that_are_not_features_are_left_out(tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"{i},n{i},{x:.3f},{x > 0:d}" for i, x in enumerate(rng.standard_normal(60))]
    model, messages = trained_on(tmp_path, "id,name,x,y\n" + "\n".join(rows))
    path = tmp_path / "train.csv"
    assert messages == [
        "  'id'    left out: it numbers the rows",
        "  'name'  left out: its text differs in nearly every row",
        "  'x'     numbers",
    ]
    assert fastbp.load(model).sizes[0] == 1
    expected = predictions(model, path)
    for columns in ([2], [3, 2], [0, 2, 3], [2, 1]):
        names = ["id", "name", "x", "y"]
        text = "\n".join(",".join(cells[j] for j in columns) for cells in [names, *(row.split(",") for row in rows)])
        assert predictions(model, given(tmp_path, text)) == expected
    assert "no column 'x'" in error_line("predict", model, given(tmp_path, "id,name,y\n1,n1,0\n"))


def test_a_model_without_a_preprocessor_is_given_every_column(tmp_path):
    net = fastbp.Network([2, 1], "identity", seed=0)
    net.save(tmp_path / "m.npz")
    for text in ("id,x\n1,5\n2,6\n", "id,x,y\n1,5,.5\n2,6,1.5\n"):
        outputs = np.array(predictions(tmp_path / "m.npz", given(tmp_path, text))["output"], float)
        np.testing.assert_allclose(outputs, net.predict([[1, 5], [2, 6]])[:, 0], rtol=1e-6)


def test_another_value_of_a_column_that_was_constant_in_training_has_no_effect(tmp_path):
    model, _ = trained_on(tmp_path, "x,k,y\n" + "1,7.7,.5\n2,7.7,1.5\n4,7.7,3\n" * 5)
    same, other = (predictions(model, given(tmp_path, f"x,k\n1,{k}\n3,{k}\n")) for k in (7.7, -2000))
    assert same == other
