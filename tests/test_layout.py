"""Who may import what: each table is an order, and a file imports only what stands before it."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_LINES = 950
KERNELS = """
    cores cache layout tables plan methods library public parallel_compile
    simd atomics microkernel compiler native jit
    elementwise losses schedules noise optimizers metrics dense interleaved
    threads backprop updates custom online lanes training members population arrays model callers delimited
    __init__
""".split()
FASTBP = """
    attributes interrupts arguments custom backends
    activations losses checks initializers
    reference/elementwise reference/losses reference/schedules reference/noise reference/optimizers reference/metrics
    reference/dense reference/layout reference/custom reference/backprop reference/training
    reference/population
    reference/__init__
    schedules optimizers update
    engine/__init__ engine/limits engine/autotune engine/threads engine/workspace engine/backend
    engine/population
    engine/model engine/model_type
    files trace verify network metrics
    datasets/dataset datasets/arrays datasets/bundled datasets/cells datasets/dates datasets/columns datasets/form
    datasets/reader datasets/table datasets/features datasets/layout datasets/tables datasets/frames datasets/__init__
    scores encodings preprocessing
    checkpoints callbacks
    training/__init__ training/exclusive training/history training/progress training/streams training/fullbatch
    training/holdout
    training/run training/trainer training/population_history training/population_orders training/population_data
    training/population_run training/population_fit training/population
    jit population_checks population recipes importance moved __init__
    estimators/functions estimators/data estimators/solvers estimators/rollback estimators/base estimators/exchange
    estimators/mlp estimators/together estimators/ensemble estimators/search estimators/tabular
    estimators/__init__
    examples/__init__ examples/options examples/peers examples/cartpole examples/drift examples/neural_ode
    cli/options cli/screen cli/samples cli/textbook cli/recipe cli/train cli/search
    cli/predict cli/trace cli/verify cli/app cli/__init__ cli/__main__
""".split()
TABLES = {"kernels": KERNELS, "fastbp": FASTBP}


def files_of(folder):
    """Return the Python files of a package by name, such as "engine/backend"."""
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path.read_text() for path in sorted(folder.rglob("*.py"))
    }


def packages(root=ROOT):
    return {package: files_of(root / package) for package in TABLES}


@cache
def nodes(text):
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]


def imports_of(importer, text, known):
    """Return the files that a file imports, also within functions, and its absolute imports of this project.

    `importer` is such as "fastbp/engine/backend"; `known` are all of them.  The import of a file of another package
    runs the __init__ of that package too, but for fastbp's, which runs before everything.
    """
    found, absolute = set(), set()
    for node in nodes(text):
        if isinstance(node, ast.Import):
            absolute |= {alias.name for alias in node.names if alias.name.split(".")[0] in TABLES}
        if not isinstance(node, ast.ImportFrom):
            continue
        if not node.level:
            absolute |= {node.module} if node.module.split(".")[0] in TABLES else set()
            continue
        place = importer.replace("kernels/", "fastbp/kernels/").split("/")  # where the package is installed
        base = place[: -node.level] + (node.module.split(".") if node.module else [])
        base = base[1:] if base[:2] == ["fastbp", "kernels"] else base
        for alias in node.names:
            target = "/".join([*base, alias.name])
            target = target if target in known else f"{target}/__init__"
            if target not in known:
                target = "/".join(base) if "/".join(base) in known else "/".join([*base, "__init__"])
            assert target in known, f"{importer} imports {target}, which is no file"
            found.add(target)
            package = target.rpartition("/")[0]
            if package not in TABLES and package != importer.rpartition("/")[0]:
                found.add(f"{package}/__init__")
    return found, absolute


def violations(packages):
    """Return what breaks the rules, one sentence each."""
    place = {f"{package}/{name}": i for package, table in TABLES.items() for i, name in enumerate(table)}
    known = {f"{package}/{name}" for package, files in packages.items() for name in files}
    wrong = [f"{name} has no place in the table" for name in sorted(known - place.keys())]
    wrong += [f"{name} is in the table, but not a file" for name in sorted(place.keys() - known)]
    for package, files in packages.items():
        for name, text in files.items():
            importer = f"{package}/{name}"
            imported, absolute = imports_of(importer, text, known)
            if name.startswith("examples/"):
                absolute.discard("fastbp")  # as a user's program does
            wrong += [f"{importer} imports {full} by its full name" for full in sorted(absolute)]
            for target in sorted(imported):
                same = target.split("/")[0] == package
                if same and target != importer and place.get(target, -1) >= place.get(importer, len(place)):
                    wrong.append(f"{importer} imports {target}")
                if package == "kernels" and not same:
                    wrong.append(f"{importer} imports {target}")
    return wrong


def test_every_file_imports_only_what_stands_before_it():
    assert violations(packages()) == []


@pytest.mark.parametrize(
    "package, name, line",
    [
        ("fastbp", "losses", "from . import checks"),
        ("fastbp", "losses", "def f():\n    from .checks import finite"),
        ("fastbp", "schedules", "from .training import trainer"),
        ("fastbp", "schedules", "from .training.trainer import Trainer"),
        ("fastbp", "arguments", "from . import reference"),
        ("fastbp", "engine/limits", "from ..network import Network"),
        ("fastbp", "engine/limits", "from .backend import NumbaBackend"),
        ("fastbp", "network", "import fastbp.losses"),
        ("fastbp", "reference/losses", "from ..schedules import Schedule"),
        ("kernels", "simd", "from . import dense"),
        ("kernels", "dense", "from .backprop import forward"),
        ("kernels", "dense", "from ..losses import LOSSES"),
        ("kernels", "dense", "from fastbp import losses"),
    ],
)
def test_an_import_against_the_order_is_found(package, name, line):
    files = packages()
    files[package][name] += f"\n{line}\n"
    assert any(sentence.startswith(f"{package}/{name} imports") for sentence in violations(files))


def test_a_file_without_a_place_is_found():
    files = packages()
    files["kernels"]["new"] = files["fastbp"]["training/new"] = ""
    assert {f"{name} has no place in the table" for name in ("kernels/new", "fastbp/training/new")} <= set(
        violations(files)
    )


def test_the_reference_mirrors_the_kernels():
    assert files_of(ROOT / "fastbp/reference").keys() <= files_of(ROOT / "kernels").keys()


def test_no_file_is_long():
    lengths = {
        f"{package}/{name}": text.count("\n") for package, files in packages().items() for name, text in files.items()
    }
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


def test_importing_the_package_imports_no_more_than_it_needs():
    code = (
        "import sys, numpy; before = {*sys.modules}; import fastbp\n"  # some versions of NumPy import all of theirs
        "print(*{'numba', 'numpy.random', 'numpy.typing', 'fastbp.verify'} & {*sys.modules} - before)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
