"""The annotations as a user's `mypy --strict` sees them: right calls pass, wrong ones are found, results have types."""

import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Numba has no annotations, so a user of it needs the second and third line.
CONFIGURATION = """[mypy]
strict = true
ignore_missing_imports = true
disallow_untyped_decorators = false
follow_imports = silent
mypy_path = {packages}
cache_dir = {cache}
"""

NAMES = """import numpy as np
import numpy.typing as npt
from collections.abc import Iterator
import fastbp
from fastbp import callbacks, datasets, losses, schedules
"""

# The functions of the README's examples, and with the annotations that --strict asks for.
ARRAY, PAIR = "npt.NDArray[np.float32]", "tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]"
VECTOR, HAND = "npt.NDArray[np.float64]", ("W1", "b1", "w2", "b2", "x")
SIGNATURES = {
    "def bent(z):": "def bent(z: float) -> float:",
    "def bent_derivative(z, a):": "def bent_derivative(z: float, a: float) -> float:",
    "def layer(A_prev, W, b):": f"def layer(A_prev: {ARRAY}, W: {ARRAY}, b: {ARRAY}) -> {ARRAY}:",
    "def by_hand(W1, b1, w2, b2, x):": f"def by_hand({', '.join(f'{a}: {VECTOR}' for a in HAND)}) -> object:",
    "def track(m, x, n_steps):": f"def track(m: jit.Model, x: {VECTOR}, n_steps: int) -> float:",
    "def from_each(m, starts, n_steps):": f"def from_each(m: jit.Model, starts: {VECTOR}, n_steps: int) -> {VECTOR}:",
    "def chunks():": f"def chunks() -> Iterator[{PAIR}]:",
}
MEASURED = f"def measured(day: int) -> {PAIR}:\n    raise NotImplementedError\n"

# For the right and wrong calls below.
OBJECTS = """X, Y = np.zeros((4, 2)), np.zeros((4, 1))
net = fastbp.Network([2, 3, 1], activations=["tanh", "sigmoid"], loss="squared_error", seed=0)
sgd = fastbp.SGD(lr=0.1, momentum=0.9)
pop = fastbp.Population([2, 3, 1], n_networks=4, activations=["tanh", "sigmoid"], seed=0, init_scale=[1.0, 2.0, 3, 4])
several = fastbp.Population([[2, 3, 1], [2, 1]], n_networks=[1, 1], activations=[["tanh"] * 2, ["tanh"]], seed=[1, 2])
pop.fit(X, Y, 2, 2, fastbp.SGD(lr=[0.1, 0.2, 0.3, 0.4]), validation_data=(X, Y), patience=1, l2=[0.0, 0.1, 0.2, 0.3])
pop.fit(X, Y, optimizer=[sgd] * 4, batch_size=[1, 2, 3, 4], folds=2, seed=[1, 2, 3, 4])
pop.parameters[:] = np.zeros((4, 13))
pop.weights = [1, 2, 3, 4]
pop.mutate([0.1, 0.2], rate=0.5, members=[0, 1], seed=0)
pop.replace(0, pop[1])
pop.replace(1, np.zeros(13))
trainer = fastbp.Trainer(net, sgd, batch_size=2, seed=0)
history = trainer.fit(X, Y, epochs=2, metrics=["mae"], callbacks=[callbacks.EarlyStopping()])
"""

WRONG = [
    'fastbp.Network("3")',
    "fastbp.Network(3)",
    "fastbp.Network([2, 1], activations=1)",
    "fastbp.Network([2, 1], loss=3)",
    'fastbp.Network([2, 1], seed="zero")',
    "fastbp.Network([2, 1], init=[1])",
    "fastbp.Network([2, 1], reduction=1)",
    "fastbp.Network([2, 1], backend=None)",
    'fastbp.Network([2, 1], input_scale="1 / 255")',
    "fastbp.Network([2, 1], scale=0.5)",
    "fastbp.Netwrok([2, 1])",
    "net.predict()",
    "net.predcit(X)",
    "net.loss(X)",
    "net.gradients(X)",
    "net.backpropagate(X)",
    "net.with_backend(1)",
    "net.save(3)",
    'net.save("m.npz", metadata=["text"])',
    "net.sizes.append(3)",
    'net.layers["first"]',
    "fastbp.load(3)",
    'fastbp.load("m.npz", backend=1)',
    "fastbp.Population(3)",
    "fastbp.Population([2, 1], n_networks=1.5)",
    'fastbp.Population([2, 1], seed="zero")',
    "fastbp.Population([2, 1], loss=3)",
    "fastbp.Population([2, 1], backend=None)",
    "fastbp.Population([2, 1], networks=3)",
    "fastbp.Population.of(net)",
    "fastbp.Population.of([3])",
    "pop.predict()",
    "pop.predcit(X)",
    "pop.loss(X)",
    "pop.fit()",
    'pop.fit(X, Y, epochs="3")',
    'pop.fit(X, Y, batch_size="10")',
    'pop.fit(X, Y, optimizer="adam")',
    "pop.fit(X, Y, metrics=1)",
    'pop.fit(X, Y, patience="10")',
    'pop.best("3")',
    "pop.select()",
    "pop.select(2, mode=1)",
    "pop.subset()",
    'pop.network("first")',
    "pop.replace(0)",
    'pop.mutate(0.1, rate="half")',
    "pop.crossover()",
    "pop.save(3)",
    "pop.with_backend(1)",
    'fastbp.Activation("tanh")',
    'losses.Quantile(q="0.9")',
    'fastbp.SGD(lr="x")',
    "fastbp.SGD()",
    "fastbp.SGD(lr=lambda: 0.1)",
    'fastbp.Adam(lr=lambda step: "0.1")',
    'fastbp.AdamW(decay_biases="no")',
    "schedules.CosLog4(0.1)",
    'fastbp.SGD(lr=0.1, momentum="0.9")',
    'fastbp.Adam(beta1="0.9")',
    "fastbp.Adam(learning_rate=0.1)",
    'fastbp.Rprop(min_step="x")',
    "fastbp.Rprop(least=1e-6)",
    'fastbp.LBFGS(memory="10")',
    'schedules.Cosine("0.1", period=10)',
    "schedules.Cosine(0.1)",
    "schedules.Cosine(0.1, period=10, least=0.01)",
    'schedules.OneCycle(0.1, steps=100, pct_start="half")',
    'fastbp.Trainer(net, "sgd")',
    'fastbp.Trainer("net", sgd)',
    "fastbp.Trainer(net, fastbp.SGD)",
    'fastbp.Trainer(net, sgd, batch_size="10")',
    "fastbp.Trainer(net, sgd, bath_size=10)",
    'fastbp.Trainer(net, sgd, l2="1e-4")',
    'fastbp.Trainer(net, sgd, dropout="0.1")',
    "fastbp.Trainer(net, sgd, on_nonfinite=True)",
    "trainer.fit()",
    'trainer.fit(X, Y, epochs="3")',
    "trainer.fit(X, Y, validation_data=3)",
    'trainer.fit(X, Y, tol="small")',
    'trainer.fit(X, Y, validation_fraction="0.2")',
    "trainer.fit(X, Y, metrics=1)",
    "trainer.fit(X, Y, callbacks=3)",
    'trainer.fit(X, Y, class_weight=["balanced"])',
    "trainer.step(X)",
    "trainer.save_checkpoint(1)",
    "trainer.load_checkpoint()",
    'callbacks.EarlyStopping(patience="10")',
    "callbacks.ModelCheckpoint()",
    "callbacks.TimeLimit()",
    "datasets.read_csv(3)",
    'datasets.read_csv("t.csv", header="no")',
    'datasets.read_csv("t.csv", taget="price")',
    "datasets.read_npz()",
    'fastbp.set_num_threads("2")',
    'fastbp.stream("t.csv", header="no")',
    'fastbp.stream("t.csv", taget="price")',
    "fastbp.checkpoints.latest(1)",
    "history.losses",
]

# The types of results, by the names that mypy reveals without the modules.
ARRAY_TYPE = r"ndarray\[.*\]"
RESULTS = {
    "net.predict(X)": ARRAY_TYPE,
    "net.loss(X, Y)": "float",
    "net.gradients(X, Y).loss": r"float \| None",
    "net.gradients(X, Y).weights": rf"list\[{ARRAY_TYPE}\]",
    "net.input_gradient(X, Y)": ARRAY_TYPE,
    "net.activations_of(X)": rf"list\[{ARRAY_TYPE}\]",
    "net.backpropagate(X, Y)": "Gradients.*|tuple.*Gradients.*",
    "net.layers[0].forward(X)": ARRAY_TYPE,
    "net.verify(X, Y).ok": "bool",
    "net.parameters": ARRAY_TYPE,
    "net.weights[0]": ARRAY_TYPE,
    "net.sizes": r"tuple\[int, \.\.\.\]",
    "net.loss_name": "str",
    "net.metadata": r"dict\[str, str\]",
    "net.copy()": "Network",
    'net.with_backend("numpy")': "Network",
    'fastbp.load("m.npz")': "Any",  # a Network or a Population
    "pop.predict(X)": ARRAY_TYPE,
    "pop.mean(X)": ARRAY_TYPE,
    "pop.spread(X)": ARRAY_TYPE,
    "pop.loss(X, Y)": ARRAY_TYPE,
    "pop.losses": ARRAY_TYPE,
    "pop.parameters": "Any",  # an array, or a list of them
    "pop.n_networks": "int",
    "pop.network(0)": "Network",
    "pop[0]": "Network",
    "next(iter(pop))": "Network",
    "pop.subset([0, 1])": "Population",
    "pop.fit(X, Y)": "PopulationHistory",
    "pop.history": r"PopulationHistory \| None",
    "pop.best(2)": "Population",
    "pop.select(2)": "Population",
    "pop.copy()": "Population",
    "pop.weights": rf"{ARRAY_TYPE} \| None",
    "pop.crossover([[0, 1]])": ARRAY_TYPE,
    "trainer.fit(X, Y)": "History",
    "trainer.partial_fit(X, Y)": "History",
    "trainer.step(X, Y)": "float",
    "trainer.lr": "float",
    "history.loss": r"list\[float\]",
    "history.validation_loss": r"list\[float\]",
    "history.metrics": r"dict\[str, list\[float\]\]",
    "history.seconds": r"list\[float\]",
    "history.stopped": r"str \| None",
    "history.interrupted": "bool",
    "datasets.load_digits()": ".*Dataset.*",
    "datasets.load_digits().X": ARRAY_TYPE,
    'datasets.read_csv("t.csv").classes': r"tuple\[str, \.\.\.\] \| None",
    "fastbp.get_num_threads()": "int",
    "fastbp.__version__": "str",
}


def typed_readme():
    """The README's examples as one file, their functions annotated."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = "\n".join(blocks).splitlines()
    defined = [line.split("#")[0].rstrip() for line in lines if line.lstrip().startswith("def ")]
    assert set(defined) == set(SIGNATURES)
    return NAMES + MEASURED + "\n".join(SIGNATURES.get(line.split("#")[0].rstrip(), line) for line in lines) + "\n"


FIRST_LINE = (NAMES + OBJECTS).count("\n") + 1  # of the calls below
FILES = {
    "readme": typed_readme,
    "right": lambda: NAMES + OBJECTS,
    "wrong": lambda: NAMES + OBJECTS + "\n".join(WRONG) + "\n",
    "results": lambda: NAMES + OBJECTS + "\n".join(f"reveal_type({expression})" for expression in RESULTS) + "\n",
}


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    """What mypy says, by file and line, of code that uses the package as it is installed."""
    folder = tmp_path_factory.mktemp("user")
    package = folder / "packages" / "fastbp"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fastbp", package, ignore=ignore)
    shutil.copytree(ROOT / "kernels", package / "kernels", ignore=ignore)
    (folder / "mypy.ini").write_text(CONFIGURATION.format(packages=package.parent, cache=folder / "cache"))
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text())
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--no-pretty", "--no-error-summary"]
    done = subprocess.run([*command, *(f"{name}.py" for name in FILES)], cwd=folder, capture_output=True, text=True)
    assert not done.stderr
    found = defaultdict(list)
    for line in done.stdout.splitlines():
        file, number, message = re.fullmatch(r"(\w+)\.py:(\d+): (.*)", line).groups()
        found[file, int(number)].append(message)
    assert found
    return found


@pytest.mark.parametrize("file", ["readme", "right"])
def test_right_code_passes(messages, file):
    lines = FILES[file]().splitlines()
    assert not [(lines[line - 1], found) for (name, line), found in messages.items() if name == file]


@pytest.mark.parametrize("code", WRONG)
def test_wrong_calls_are_found(messages, code):
    found = messages["wrong", FIRST_LINE + WRONG.index(code)]
    kinds = {re.search(r"\[([\w-]+)\]$", message)[1] for message in found if message.startswith("error: ")}
    assert kinds and not kinds & {"syntax", "name-defined", "import-not-found", "no-untyped-call"}, found


@pytest.mark.parametrize("expression", RESULTS)
def test_results_have_types(messages, expression):
    (message,) = messages["results", FIRST_LINE + list(RESULTS).index(expression)]
    revealed = re.fullmatch('note: Revealed type is "(.*)"', message)[1]
    revealed = re.sub(r"Union\[(.*), None\]", r"\1 | None", revealed)  # of earlier versions of mypy
    assert re.fullmatch(RESULTS[expression], re.sub(r"\b(?:\w+\.)+(?=\w)", "", revealed)), revealed
