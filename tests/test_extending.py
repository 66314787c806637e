"""The recipes of .github/CONTRIBUTING.md: one of each kind is added to a copy of the package and passes shared checks.

Each is added twice: as it should be, and with one sign of its kernel changed, which the checks must find.  One process
trains with the copy; it runs `main` below.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import fastbp.kernels
import kernel_table
import numpy as np
import pytest
import test_readme
import test_sweep as sweep
from fastbp.kernels.tables import RULES
from shared import HIDDEN, copy_package

import fastbp

HERE = Path(__file__).parent
RECIPES = HERE.parent / ".github" / "CONTRIBUTING.md"
WRONG = "_wrong"  # suffix of the name of what has a fault


class Edit(NamedTuple):
    """Text that is put into a file of the library, before or after some other text; at its end without one."""

    file: str
    text: str
    before: str = ""
    after: str = ""
    once: bool = False  # not again for a second part, such as an import

    def apply(self, package, **words):
        """Edit the file in a copy of the package; NAME and other words in capitals stand for those of the part."""
        path = package / self.file.removeprefix("fastbp/")
        old, new = path.read_text(), self.text
        for word, meaning in words.items():
            new = new.replace(word, meaning)
        if self.once and new in old:
            return
        place = self.before + self.after
        if place:
            assert old.count(place) == 1, f"{self.file} holds {place!r} {old.count(place)} times"
            path.write_text(old.replace(place, new + place if self.before else place + new))
        else:
            path.write_text(f"{old}\n\n{new}")


class Part(NamedTuple):
    """What is added: its name, the signs that make it right and wrong, its edits, and the most files they may touch."""

    name: str
    signs: tuple
    edits: tuple
    most_files: int


def exported(file, *names):
    """Export these names."""
    return Edit(file, "".join(f'    "{name}",\n' for name in names), after="__all__ = [\n")


ACTIVATION = Part(
    "bent",
    ("+", "-"),
    (
        Edit(
            "fastbp/activations.py",
            '    "NAME": Row("(sqrt(Z^2 + 1) - 1) / 2 + Z"),\n',
            before='    "identity": Row("Z"),\n',
        ),
        exported("fastbp/reference/elementwise.py", "NAME", "NAME_derivative"),
        Edit(
            "fastbp/reference/elementwise.py",
            '''def NAME(Z: np.ndarray, out: np.ndarray) -> None:
    """Bent identity, (sqrt(Z^2 + 1) - 1) / 2 + Z."""
    out[...] = (np.sqrt(Z**2 + 1) - 1) / 2 + Z


def NAME_derivative(Z: np.ndarray, A: np.ndarray, out: np.ndarray) -> None:
    """Z / (2 sqrt(Z^2 + 1)) + 1."""
    out[...] = Z / (2 * np.sqrt(Z**2 + 1)) + 1
''',
        ),
        Edit("kernels/elementwise.py", "    sqrt,\n", before="    store,\n", once=True),
        Edit(
            "kernels/elementwise.py",
            """@inline
def _NAME(z):
    return (sqrt(z * z + 1.0) - 1.0) * 0.5 + z


@inline
def _NAME_derivative(z, a):
    return z * 0.5 / sqrt(z * z + 1.0) SIGN 1.0


""",
            before="# The functions of activations whose name is not",
        ),
        Edit("kernels/tables.py", '    "NAME": Activation(needs_z=True),\n', before='    "softmax": Activation('),
        Edit(
            "kernels/elementwise.py",
            '''@kernel
def NAME(Z, out):
    """(sqrt(Z**2 + 1) - 1) / 2 + Z."""
    map_array(_NAME, pointer(Z, 0), pointer(out, 0), out.size)


@kernel
def NAME_derivative(Z, A, out):
    """Write f'(Z)."""
    map_pair(_NAME_derivative, pointer(Z, 0), pointer(A, 0), pointer(out, 0), out.size)
''',
        ),
    ),
    most_files=4,
)
LOSS = Part(
    "pseudo_huber",
    ("a - y", "y - a"),
    (
        Edit(
            "fastbp/losses.py",
            '''@dataclass(frozen=True)
class CLASS(Parameterized):
    """Half the squared error near the target, a straight line far from it, and smooth between (Charbonnier 1997)."""

    width: float = 1.0

    name, bounds = "NAME", {"above": 0}


''',
            before="class Row(NamedTuple):\n",
        ),
        Edit(
            "fastbp/losses.py",
            '    "NAME": Row("width^2 (sqrt(1 + ((A - Y) / width)^2) - 1)", settings=CLASS),\n',
            before='    "log_cosh": Row(',
        ),
        exported("fastbp/reference/losses.py", "NAME", "NAME_derivative"),
        Edit(
            "fastbp/reference/losses.py",
            '''def NAME(A: np.ndarray, Y: np.ndarray, width: float, out: np.ndarray) -> None:
    """Sum of width^2 (sqrt(1 + ((A - Y) / width)^2) - 1) over the outputs."""
    out[...] = (width**2 * (np.sqrt(1 + ((A - Y) / width) ** 2) - 1)).sum(axis=1)


def NAME_derivative(A: np.ndarray, Y: np.ndarray, width: float, out: np.ndarray) -> None:
    """(A - Y) / sqrt(1 + ((A - Y) / width)^2)."""
    out[...] = (A - Y) / np.sqrt(1 + ((A - Y) / width) ** 2)
''',
        ),
        Edit("kernels/losses.py", "    sqrt,\n", before="    store,\n", once=True),
        Edit(
            "kernels/losses.py",
            """@inline
def _NAME(a, y, width):
    d = (a - y) / width
    return (sqrt(d * d + 1.0) - 1.0) * width * width


@inline
def _NAME_derivative(a, y, width):
    d = (a - y) / width
    return (SIGN) / sqrt(d * d + 1.0)


""",
            before=f"# {'-' * 90} loops over rows",
        ),
        Edit("kernels/tables.py", '    "NAME": "width",\n', before='    "quantile": "q",\n'),
        Edit(
            "kernels/losses.py",
            '''@kernel
def NAME(A, Y, width, out):
    """Sum of width**2 (sqrt(1 + ((A - Y) / width)**2) - 1) of each sample."""
    losses_of(_NAME, width, A, Y, out)


@kernel
def NAME_derivative(A, Y, width, out):
    """Its derivative by A, for each sample (no 1/n)."""
    derivatives_of(_NAME_derivative, width, A, Y, out)
''',
        ),
    ),
    most_files=4,
)
OPTIMIZER = Part(
    "averaged",
    ("-", "+"),
    (
        exported("fastbp/optimizers.py", "CLASS"),
        Edit(
            "fastbp/optimizers.py",
            '''@dataclass(frozen=True)
class CLASS(Optimizer):
    """Running mean of the gradient, corrected for its start at 0.

    ``m = beta * m + (1 - beta) * g``, then in step t = 1, 2, ... ``parameters -= lr / (1 - beta**t) * m``.

    Parameters
    ----------
    lr : float or Schedule
        Step size, above 0.
    beta : float
        Decay of the mean, in [0, 1).
    """

    lr: float | Schedule = 0.01
    beta: float = 0.9
    rule: ClassVar[str] = "NAME"
    n_states: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Validate."""
        _check_lr(self.lr)
        _check_decay(beta=self.beta)


''',
            before="class FullBatchMethod:\n",
        ),
        Edit("fastbp/optimizers.py", "CLASS, ", after="\nOPTIMIZERS = ("),
        exported("fastbp/reference/optimizers.py", "NAME"),
        Edit(
            "fastbp/reference/optimizers.py",
            '''def NAME(
    gradient: np.ndarray,
    lr: float,
    beta: float,
    running_products: np.ndarray,
    m: np.ndarray,
    parameters: np.ndarray,
) -> None:
    """Gradient averaged over the steps, in place; running_products[0] holds beta**t, 1 before the first step."""
    running_products[0] *= beta
    m[...] = beta * m + (1 - beta) * gradient
    parameters -= lr / (1 - float(running_products[0])) * m
''',
        ),
        Edit(
            "kernels/optimizers.py",
            """@inline
def _NAME(factors, g, p, m, unused):
    rate, beta, rest, _, _, _, _, _ = factors
    m = fma(beta, m, rest * g)
    return fma(-rate, m, p), m, unused


@inline
def _NAME_factors(hyperparameters, lr, running_products, factors):
    beta = peek(hyperparameters, 0)
    poke(running_products, 0, peek(running_products, 0) * beta)
    poke(factors, 0, lr / (1.0 SIGN peek(running_products, 0)))
    poke(factors, 1, beta)
    poke(factors, 2, 1.0 - beta)


""",
            before="# The functions of rules that share them.\n",
        ),
        Edit("kernels/tables.py", '    "NAME": Rule(1, advances=True),\n', after="\nRULES = {\n"),
        Edit(
            "kernels/tables.py",
            '    "NAME": ("optimizers", "gradient:f* lr:w beta:w running_products:w1 m:f* parameters:f*"),\n',
            after="\nPUBLIC = {\n",
        ),
        Edit(
            "kernels/optimizers.py",
            '''@kernel
def NAME(gradient, lr, beta, running_products, m, parameters):
    """Gradient averaged over the steps, in place."""
    hyperparameters = (np.float64(beta),)
    _one_step(_NAME, _NAME_factors, 1, hyperparameters, lr, pointer(running_products, 0), gradient, m, m, parameters)
''',
        ),
    ),
    most_files=4,
)
METRIC = Part(
    "bias",
    ("-", ""),
    (
        Edit("fastbp/metrics.py", '"NAME", ', after="__all__ = ["),
        Edit(
            "fastbp/metrics.py",
            """def _NAME(errors: _Errors) -> float:
    return float(SIGNerrors.totals[3].mean())


NAME = Metric("NAME", _Errors, _NAME, _check_rows)
""",
            before="METRICS = {\n",
        ),
        Edit("fastbp/metrics.py", "NAME, ", after="for metric in ("),
    ),
    most_files=1,
)
SETTING = Part(
    "shrink",
    ("-", "+"),
    (
        Edit(
            "fastbp/update.py",
            "    NAME : float\n        Fraction by which the gradient of the loss is made smaller.\n",
            after="Standard deviation of the normal noise added to the inputs in training.\n",
        ),
        Edit(
            "fastbp/update.py",
            "    NAME: float = setting(0.0, at_least_0)\n",
            after='    input_noise: float = setting(0.0, at_least_0, kernels=("online",))\n',
        ),
        Edit("kernels/layout.py", "    NAME: float\n", after="    input_noise: float\n"),
        Edit(
            "kernels/training.py",
            "        scale = scale * as_float(1.0 SIGN args.NAME, p)\n",
            before="        before, is_skipped = total, False\n",
        ),
        Edit(
            "fastbp/reference/training.py",
            "            delta = delta * (1 - update.NAME)\n",
            after="            losses, delta = self.losses_and_delta(Z, A, Y, weights)\n",
        ),
    ),
    most_files=4,
)
PARTS = {
    "an activation": ACTIVATION,
    "a loss": LOSS,
    "an optimizer": OPTIMIZER,
    "a metric": METRIC,
    "a trainer setting": SETTING,
}
each_kind = pytest.mark.parametrize("kind", PARTS)


def recipe(kind):
    """The steps of CONTRIBUTING.md that add one of this kind."""
    return RECIPES.read_text().split(f"## Add {kind}\n")[1].split("\n## ")[0]


@each_kind
def test_only_files_of_the_recipe_are_edited(kind):
    part = PARTS[kind]
    files = {edit.file for edit in part.edits}
    assert len(files) <= part.most_files
    assert files <= set(re.findall(r"`((?:fastbp|kernels)/[\w/]+\.py)`", recipe(kind)))


@each_kind
def test_a_recipe_is_short(kind):
    assert len(recipe(kind).strip().splitlines()) <= 10


# ------------------------------------------------------------------ what the process does, with a copy of the package


def class_of(name):
    """The name of the class of a loss or optimizer."""
    return name.title().replace("_", "")


def activation_checks(name, paths):
    optimizer = fastbp.SGD(0.05)
    return {
        "training": lambda: [
            sweep.train_on_both(path, optimizer, sweep.activations_of(path, name, "sigmoid")) for path in paths
        ],
        "gradients": lambda: verify(activations=[name, "sigmoid"]),
        "kernel": lambda: compare(f"{name}_derivative"),
        "threads": lambda: threads(optimizer, activations=[name, name, "sigmoid"]),
        "resume": lambda: resume(optimizer, {"activations": [name, "sigmoid"]}),
        "tables": lambda: in_tables(name, HIDDEN, tables_of_readme()),
    }


def loss_checks(name, paths):
    optimizer, loss = fastbp.SGD(0.05), getattr(fastbp.losses, class_of(name))(width=0.4)
    of_sweep = {loss for _, loss in values(sweep.test_every_output_with_every_loss, "output, loss")}
    return {
        "training": lambda: [
            sweep.train_on_both(path, optimizer, loss=each) for path in paths for each in (name, loss)
        ],
        "gradients": lambda: verify(loss=loss),
        "kernel": lambda: compare(f"{name}_derivative"),
        "threads": lambda: threads(optimizer, loss=loss),
        "resume": lambda: resume(optimizer, {"loss": loss}),
        "parameter": lambda: differ(optimizer, {"loss": loss}, {"loss": name}),
        "tables": lambda: in_tables(name, of_sweep, tables_of_readme()),
    }


def optimizer_checks(name, paths):
    kind = getattr(fastbp, class_of(name))
    of_sweep = {optimizer.__name__ for optimizer in sweep.OPTIMIZERS}
    schedule = fastbp.schedules.Exponential(0.02, 0.9)
    return {
        "training": lambda: [sweep.train_on_both(path, kind(lr)) for path in paths for lr in (0.02, schedule)],
        "kernel": lambda: compare(name),
        "threads": lambda: threads(kind(0.02)),
        "resume": lambda: resume(kind(0.02)),
        "row": lambda: forget_advances(name, kind(0.02), paths[0]),
        "tables": lambda: in_tables(class_of(name), of_sweep, tables_of_readme(), fastbp.__all__),
    }


def metric_checks(name, paths):
    (X, Y), optimizer = data(), fastbp.SGD(0.05)

    def recorded():
        for backend in ("numpy", "numba"):
            net = network(backend=backend)
            history = fastbp.Trainer(net, optimizer).fit(X, Y, epochs=2, metrics=[name], progress=False)
            np.testing.assert_allclose(history.metrics[name][-1], np.mean(net.predict(X) - Y), 1e-9)

    def refused():
        net = network(activations=["sigmoid", "softmax"], loss="cross_entropy")
        before = net.parameters.copy()
        with pytest.raises(ValueError, match="need rows of targets"):
            fastbp.Trainer(net, optimizer).fit(X, Y.argmax(axis=1), epochs=1, metrics=[name])
        assert (net.parameters == before).all()

    return {
        "training": recorded,
        "call": lambda: np.testing.assert_allclose(getattr(fastbp.metrics, name)(Y + [1, 3], Y), 2),
        "refusal": refused,
        "tables": lambda: in_tables(name, tables_of_readme()),
    }


def setting_checks(name, paths):
    optimizer, settings = fastbp.SGD(0.1), {name: 0.4}

    def refused():
        with pytest.raises(ValueError, match=f"{name} must be at least 0"):
            fastbp.Trainer(network(), optimizer, **{name: -1})
        trainer = fastbp.Trainer(network(loss="squared_error"), fastbp.LBFGS(), batch_size=None, **settings)
        with pytest.raises(ValueError, match=f"{name} must be 0 with LBFGS"):
            trainer.fit(*data(), epochs=1)

    return {
        "training": lambda: [sweep.train_on_both(path, optimizer, **settings) for path in paths],
        "threads": lambda: threads(optimizer, **settings),
        "resume": lambda: resume(optimizer, **settings),
        "effect": lambda: differ(optimizer, settings, {}),
        "refusal": refused,
        "tables": lambda: in_tables(name, values(sweep.test_every_setting_of_a_trainer, "name")),
    }


CHECKS = dict(
    zip(PARTS, (activation_checks, loss_checks, optimizer_checks, metric_checks, setting_checks), strict=True)
)
FINDERS = ("training", "gradients", "kernel", "call")  # checks that must find a wrong sign


def data():
    rng = np.random.default_rng(1)
    return rng.normal(size=(23, 3)), rng.random((23, 2))


def network(activations=("sigmoid", "sigmoid"), loss="binary_cross_entropy", backend="numba"):
    return fastbp.Network([3, 4, 2], list(activations), loss=loss, dtype="float64", seed=2, backend=backend)


def verify(**options):
    """Compare the gradients of a network with central differences."""
    assert network(**options).verify(*data()).ok


def compare(name):
    """Compare a public kernel with its twin."""
    (row,) = (row for row in kernel_table.TABLE if row.name == name)
    arguments = row.arguments(np.random.default_rng(0), np.float64, 5, 7)
    results = kernel_table.expected(row, arguments)
    getattr(fastbp.kernels, name)(*arguments)
    kernel_table.assert_results(row, (5, 7), arguments, results)


def threads(optimizer, **options):
    """Train to the same bits with one and with two threads."""
    path = sweep.PATHS["two threads"]
    one, two = (sweep.train("numba", path._replace(threads=n), optimizer, **options) for n in (1, 2))
    assert one[0].tobytes() == two[0].tobytes() and one[1].tobytes() == two[1].tobytes()


def resume(optimizer, of_network=None, **settings):
    """Go on from a checkpoint to the same bits; refuse it with other settings."""

    def trainer(**others):
        options = {"batch_size": 16, "seed": 3, **settings, **others}
        return fastbp.Trainer(network(**(of_network or {})), optimizer, **options)

    X, Y = data()
    whole, first, second = (trainer() for _ in range(3))
    whole.fit(X, Y, epochs=4, progress=False)
    first.fit(X, Y, epochs=2, progress=False)
    first.save_checkpoint("training.ckpt")
    second.load_checkpoint("training.ckpt")
    second.fit(X, Y, epochs=2, progress=False)
    assert second.net.parameters.tobytes() == whole.net.parameters.tobytes()
    assert second.state.buffers.tobytes() == whole.state.buffers.tobytes()
    assert second.state.running_products.tobytes() == whole.state.running_products.tobytes()
    second.net.save("network.npz")
    assert (fastbp.load("network.npz").predict(X) == second.net.predict(X)).all()
    for name in settings:
        with pytest.raises(ValueError, match="another training"):
            trainer(**{name: 0}).load_checkpoint("training.ckpt")


def differ(optimizer, options, others):
    """Train to other parameters with other options."""
    path = sweep.PATHS["one block"]
    assert sweep.is_changed(sweep.train("numba", path, optimizer, **options)[0], path, optimizer, **others)


def forget_advances(rule, optimizer, path):
    """Find a row which does not say that the factors change from step to step."""
    with mock.patch.dict(RULES, {rule: RULES[rule]._replace(advances=False)}), pytest.raises(AssertionError):
        sweep.train_on_both(path, optimizer)


def values(test, names):
    """Return the values of parameters of a test."""
    return next(mark.args[1] for mark in test.pytestmark if mark.args[0] == names)


def tables_of_readme():
    """Return all names that the README must hold."""
    return set().union(*values(test_readme.test_every_name_of_a_table_is_in_the_reference, "names"))


def in_tables(name, *tables):
    """Shared tests take their cases from these."""
    assert all(name in table for table in tables)


def message_of(check):
    """Return the error of a check, or ""."""
    try:
        check()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(*path_names):
    """Print what the checks of each part say, for training on these engine paths."""
    paths, messages = [sweep.PATHS[name] for name in path_names], {}
    for kind, part in PARTS.items():
        right, wrong = (CHECKS[kind](name, paths) for name in (part.name, part.name + WRONG))
        messages[kind] = {
            "right": {label: message_of(check) for label, check in right.items()},
            "wrong": {label: message_of(check) for label, check in wrong.items() if label in FINDERS},
        }
    print(json.dumps(messages))


# ------------------------------------------------------------------ the tests


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a copy of the package that has all parts, right and wrong."""
    folder = tmp_path_factory.mktemp("extended")
    package = copy_package(folder)
    for part in PARTS.values():
        for suffix, sign in zip(("", WRONG), part.signs, strict=True):
            name = part.name + suffix
            for edit in part.edits:
                edit.apply(package, NAME=name, CLASS=class_of(name), SIGN=sign)
    return folder


@pytest.fixture(scope="module")
def results(request, folder):
    """What the checks say after training on these engine paths."""
    code = f"import test_extending; test_extending.main(*{request.param!r})"
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(folder), str(HERE)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "NUMBA_OPT": "1",  # compiles in half the time
        },
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


@each_kind
@pytest.mark.parametrize(
    "results",
    [
        pytest.param(("one block",), id="one path"),
        pytest.param(
            ("few lanes", "many lanes", "online", "several blocks", "two threads"),
            id="other paths",
            marks=pytest.mark.exhaustive,
        ),
    ],
    indirect=True,
)
def test_shared_checks(kind, results):
    """They pass with what was added, and find what has a wrong sign."""
    right, wrong = results[kind]["right"], results[kind]["wrong"]
    assert {label: message for label, message in right.items() if message} == {}
    assert wrong and all(message.startswith("AssertionError") for message in wrong.values()), wrong
