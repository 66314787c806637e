"""The content and the metadata of a wheel, and the modules that importing the package loads."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from importlib.metadata import version
from pathlib import Path

import pytest

import fastbp

ROOT = Path(__file__).parent.parent
OPTIONAL = [
    "rich",
    "typer",
    "sklearn",
    "scipy",
    "torch",
    "jax",
    "matplotlib",
    "safetensors",
    "pandas",
    "onnx",
    "mpi4py",
    "tensorboardX",
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the checkout, built from a copy of what setuptools needs."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("fastbp", "kernels"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    has_setuptools = importlib.util.find_spec("setuptools") and int(version("setuptools").split(".")[0]) >= 77
    isolation = ["--no-isolation"] if has_setuptools else []
    command = [sys.executable, "-m", "build", "--wheel", *isolation, "--outdir", str(out), "."]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return message_from_string(wheel.read(name).decode())


def test_wheel_holds_every_source_file_and_nothing_else(wheel):
    """A package that is missing in pyproject.toml is missing in the wheel."""
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "fastbp").rglob("*.py")}
    sources |= {f"fastbp/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "kernels").rglob("*.py")}
    data = {f"fastbp/datasets/{path.name}" for path in (ROOT / "fastbp" / "datasets").glob("digits.*")}
    assert len(data) == 2
    metadata = f"fastbp-{fastbp.__version__}.dist-info/"
    in_wheel = {name for name in wheel.namelist() if not name.startswith(metadata)}
    assert in_wheel == sources | data | {"fastbp/py.typed"}


def test_wheel_holds_the_license(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith("LICENSE")]
    assert name.startswith(f"fastbp-{fastbp.__version__}.dist-info/")
    text = wheel.read(name).decode()
    assert text == (ROOT / "fastbp" / "LICENSE").read_text()
    assert "MIT License" in text and "2026 The fastbp developers" in text


def test_metadata(metadata):
    assert metadata["Name"] == "fastbp"
    assert metadata["Version"] == fastbp.__version__ == version("fastbp")
    assert metadata["License-Expression"] == "MIT" and metadata.get_all("License-File") == ["fastbp/LICENSE"]
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert metadata["Requires-Python"] == ">=3.10"
    always = [r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r]
    assert sorted(re.match(r"[\w.-]+", requirement).group() for requirement in always) == ["numba", "numpy"]
    assert {"cli", "files", "sklearn", "test", "dev", "all"} <= set(metadata.get_all("Provides-Extra"))


def test_entry_point(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]
    assert "fastbp = fastbp.cli:main" in wheel.read(name).decode()


def test_wheel_trains_by_itself(wheel, tmp_path):
    """Unpacked and alone on the path, it is what Python imports, and it works without the optional packages."""
    wheel.extractall(tmp_path)
    code = f"""
import sys
import fastbp
brought = [name for name in {OPTIONAL} if name in sys.modules]
assert not brought, f"import fastbp imports {{brought}}"
for name in {OPTIONAL}:
    sys.modules[name] = None                      # as if not installed
from fastbp import kernels
assert fastbp.__file__.startswith({str(tmp_path)!r}) and kernels.__file__.startswith({str(tmp_path)!r})
from fastbp.datasets import load_digits
data = load_digits()
net = fastbp.Network([2, 2, 1], seed=0, backend="numpy")
X, Y = [[0, 0], [0, 1], [1, 0], [1, 1]], [[0], [1], [1], [0]]
history = fastbp.Trainer(net, fastbp.SGD(0.5), batch_size=4).fit(X, Y, epochs=3)
assert len(history.loss) == 3
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr[-3000:]


def test_importing_the_command_line_is_not_part_of_importing_the_package():
    code = "import sys, fastbp; print([name for name in ('fastbp.cli', 'rich', 'typer') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and result.stdout == "[]\n"


def test_a_checkout_works_without_being_installed(tmp_path):
    code = (
        "import fastbp; assert fastbp.kernels.sigmoid.__module__ == 'fastbp.kernels.elementwise'; "
        "print(fastbp.__file__)"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [
            sys.executable,
            "-S",
            "-c",
            "import site, sys; sys.path[:0] = [sys.argv[1], *sys.argv[2:]]\n" + code,
            str(root),
            *(p for p in sys.path if p.endswith("site-packages")),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent.parent == root
