"""The README: its examples run unchanged, one after the other; it names every table row, and only files that exist."""

import gzip
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import fastbp
from fastbp.activations import ACTIVATIONS
from fastbp.cli.app import make_app
from fastbp.losses import LOSSES
from fastbp.metrics import METRICS
from fastbp.optimizers import OPTIMIZERS
from fastbp.schedules import Constant, Schedule

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FEATURES = [
    "load_digits",
    "verify",
    "Activation(",
    "Quantile",
    "@njit",
    "LBFGS",
    "min_lr=",
    "dropout=",
    "EarlyStopping",
    "load_checkpoint",
    "fastbp.estimators",
    "fastbp.stream(chunks)",
    'fastbp.stream("table.csv"',
    "idx3-ubyte",
    "fastbp.Population(",
    ".select(",
    "PopulationSearchCV",
    'init=["',
]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def write_idx(name, array):
    """Write bytes in MNIST's format, gzipped and not."""
    content = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()
    Path(name).write_bytes(content)
    Path(name + ".gz").write_bytes(gzip.compress(content))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Digits in every form that the README reads."""
    monkeypatch.chdir(tmp_path)
    X, y = fastbp.datasets.load_digits()
    X, y = X[:400].astype(np.float32), y[:400]
    np.save("X.npy", X)
    np.save("Y.npy", y)
    write_idx("train-images-idx3-ubyte", (X * 255).astype(np.uint8).reshape(-1, 8, 8))
    write_idx("train-labels-idx1-ubyte", y.astype(np.uint8))
    columns = [f"pixel{i}" for i in range(64)]
    lines = [",".join(map("{:g}".format, row)) for row in X]
    Path("new.csv").write_text("\n".join([",".join(columns), *lines[:9]]) + "\n")
    people = [f"{i},p{i},{i % 60 or ''},{'Oslo' if i % 3 else 'Rome'},20{i % 9 + 10}-01-02" for i in range(90)]
    people = [f"{line},{'yes' if i % 60 > 25 else 'no'}" for i, line in enumerate(people)]
    Path("people.csv").write_text("\n".join(["id,name,age,city,joined,member", *people]) + "\n")
    rows = [f"{line},{label}" for line, label in zip(lines, y, strict=True)]
    Path("table.csv").write_text("\n".join([",".join([*columns, "price"]), *rows]) + "\n")
    return X, y


def subclasses(base):
    return {name for c in base.__subclasses__() for name in {c.__name__, *subclasses(c)}}


@pytest.mark.parametrize(
    "names",
    [
        ACTIVATIONS,
        LOSSES,
        METRICS,
        {optimizer.__name__ for optimizer in OPTIMIZERS},
        subclasses(Schedule) - {Constant.__name__},
    ],
    ids=["activations", "losses", "metrics", "optimizers", "schedules"],
)
def test_every_name_of_a_table_is_in_the_reference(names):
    words = set(re.findall(r"\w+", README.split("## Reference")[1]))
    assert names and not set(names) - words


def test_the_way_to_the_reference_is_short():
    assert len(README.split("## Reference")[0].split()) <= 1000


@pytest.mark.parametrize("document", ["README.md", ".github/CONTRIBUTING.md", "asv_bench/README.md"])
def test_the_files_it_names_exist(document):
    text = (ROOT / document).read_text()
    names = set(re.findall(r"[\w/]+(?:\.py\b|\.toml\b|/(?=[\s`]))", text))
    places = [path for folder in ("fastbp", "kernels", "tests", "asv_bench") for path in (ROOT / folder).rglob("*")]
    files = [f"/{path.relative_to(ROOT).as_posix()}" for path in places] + ["/pyproject.toml", "/fastbp", "/kernels"]
    assert len(names) > 3
    assert not [name for name in names if not any(file.endswith(f"/{name.rstrip('/')}") for file in files)]
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert not [link for link in links if not (ROOT / document).parent.joinpath(link).is_file()]


def test_every_feature_has_an_example():
    text = "".join(blocks("python"))
    assert not [feature for feature in FEATURES if feature not in text]


def test_python_examples(files, capsys):
    X, y = files
    names = {"measured": lambda day: (X[day : day + 5], y[day : day + 5])}
    for i, block in enumerate(blocks("python")):
        if "fastbp.estimators" in block and not find_spec("sklearn"):
            continue
        exec(compile(block, f"example {i + 1} of README.md", "exec"), names)  # noqa: S102
    assert names["net"].predict(names["X"]).argmax(axis=1).tolist().count(0) > 50
    assert np.mean(names["net"].predict(names["X"][:1000]).argmax(axis=1) == names["y"][:1000]) > 0.9


def test_commands(files):
    runner = CliRunner()
    app = make_app()
    commands = [
        line[2:].split("#")[0]
        for block in blocks("console")
        for line in block.splitlines()
        if line.startswith("$ fastbp")
    ]
    assert [command.split()[1] for command in commands] == [
        *("train", "predict", "train", "train", "train", "search", "verify", "trace")
    ]
    for command in commands:
        result = runner.invoke(app, shlex.split(command)[1:])
        assert result.exit_code == 0 and result.output, (command, result.output, result.exception)
    assert Path("model.npz").exists() and Path("mnist.npz").exists()
