"""From a table to what a network takes, and back: what `fastbp train` does to data, kept with the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from . import datasets
from .datasets import Column, Dataset
from .datasets.dataset import opened
from .datasets.tables import n_columns
from .losses import row_of

BUNDLED = ("digits", "xor")
METADATA_KEY = "recipe"


@dataclass(frozen=True)
class Recipe:
    """How samples become inputs, and outputs become classes or numbers.

    Attributes
    ----------
    mean, scale : list of float
        Inputs are (X - mean) / scale; one number each for all features, or one per feature.
    classes : sequence of str or None
        The class of each output; None if the targets are numbers.
    target_mean, target_scale : list of float
        Numbers are outputs * target_scale + target_mean.
    columns : sequence of Column or None
        The columns to be read from a table, text encoded one-hot.
    target : str or None
        The target column of a table.
    """

    mean: list[float]
    scale: list[float]
    classes: Sequence[str] | None = None
    target_mean: Sequence[float] = (0.0,)
    target_scale: Sequence[float] = (1.0,)
    columns: Sequence[Column] | None = None
    target: str | None = None

    @classmethod
    def of(cls, data: Dataset, rows: np.ndarray) -> Recipe:
        """Standardise by mean and standard deviation over `rows`, those of the training."""
        X = data.X[rows].reshape(-1, 1) if data.pixels else data.X[rows]
        mean, scale = _standard(X)
        if data.classes is not None:
            return cls(mean, scale, data.classes, columns=data.columns, target=data.target)
        return cls(mean, scale, None, *_standard(as_columns(data.y)[rows]), data.columns, data.target)

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> Recipe | None:
        """Read back what `metadata` wrote; None if there is nothing."""
        if METADATA_KEY not in metadata:
            return None
        fields = json.loads(metadata[METADATA_KEY])
        if fields["columns"] is not None:
            fields["columns"] = tuple(Column(name, categories and tuple(categories))
                                      for name, categories in fields["columns"])
        return cls(**fields)

    def metadata(self) -> dict[str, str]:
        """Write itself as text for `Network.save`."""
        return {METADATA_KEY: json.dumps(asdict(self))}

    @property
    def task(self) -> str:
        """What the targets are: "classes" or "numbers"."""
        return "numbers" if self.classes is None else "classes"

    def inputs(self, X: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Standardise samples: in float32 if that holds their values, else in float64; then as `dtype`."""
        exact = np.result_type(X, np.float32)
        return ((X - np.array(self.mean, exact)) / np.array(self.scale, exact)).astype(dtype, copy=False)

    def targets(self, y: np.ndarray, loss: str) -> np.ndarray:
        """Encode targets: class indices, one-hot rows, or rows of -1 and 1, as the loss takes; numbers standardised."""
        if self.classes is None:
            return (as_columns(y) - self.target_mean) / self.target_scale
        row = row_of(loss)
        if row.takes_labels:
            return y
        one_hot = np.eye(len(self.classes))[y]
        return 2 * one_hot - 1 if row.takes_signs else one_hot

    def predictions(self, A: np.ndarray) -> np.ndarray:
        """Decode outputs: class indices (n_samples,), or numbers (n_samples, n_out) in their own units."""
        return A.astype(np.float64) * self.target_scale + self.target_mean if self.classes is None else A.argmax(axis=1)


def read(source: str, *, target: str | None = None, task: str = "auto",
         recipe: Recipe | None = None, n_features: int | None = None, header: bool | None = None) -> Dataset:
    """Read bundled data by name, or a CSV, npz or IDX file (told apart by their first bytes).

    Parameters
    ----------
    source : str
        A name of `BUNDLED`, a file, or two IDX files "images,labels" (or "images:labels").
    target, task
        As in `fastbp.datasets.read_csv`.
    recipe : Recipe, optional
        Read what this one asks for.
    n_features : int, optional
        A CSV file of so many columns has no target.
    header : bool, optional
        As in `fastbp.datasets.read_csv`.
    """
    if recipe is not None:
        target, task = recipe.target, recipe.task
    if source == "digits":
        return datasets.load_digits()
    if source == "xor":
        X, Y = datasets.load_xor()
        return Dataset(X, Y.ravel().astype(np.int64), classes=("0", "1"))
    files = _files(source)
    with opened(files[0]) as stream:
        magic = stream.read(4)
    if magic[:2] == b"\0\0":
        return datasets.read_idx(*files)
    if len(files) == 2:
        raise ValueError(f"{files[0]} is not an IDX file, and only those come in pairs")
    if magic == b"PK\3\4":
        return datasets.read_npz(files[0], task=task)
    if recipe is not None and recipe.columns is not None:
        return datasets.read_csv(files[0], target, task=task, header=header, columns=recipe.columns)
    if target is None and n_columns(files[0]) != n_features:
        return datasets.read_csv(files[0], -1, task=task, header=header)
    return datasets.read_csv(files[0], target, task=task, header=header)


def split(y: np.ndarray, fraction: float, classes: bool) -> tuple[np.ndarray, np.ndarray]:
    """Divide the rows into training and test rows: in the order of their targets, every k-th is for the test.

    So every class, and every range of numbers, has its share in both, whatever the seed of the training. The
    only row of a class stays in the training.
    """
    if not 0 <= fraction <= 0.5:
        raise ValueError(f"the test fraction must be between 0 and 0.5, not {fraction:g}")
    n_test = round(fraction * len(y))
    order = np.argsort(as_columns(y)[:, 0], kind="stable")
    test = order[((np.arange(n_test) + 0.5) * len(y) / max(1, n_test)).astype(int)]
    if classes:
        test = test[np.bincount(y)[y[test]] > 1]
    return np.setdiff1d(np.arange(len(y)), test), np.sort(test)


def as_columns(y: np.ndarray) -> np.ndarray:
    """Give numbers (n_samples,) a second axis."""
    return y.reshape(len(y), -1)


def _standard(X: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of every column, 1 for one that is constant but for the rounding of its numbers."""
    X = X.astype(np.float64)
    low, high = X.min(axis=0), X.max(axis=0)
    middle = low / 2 + high / 2                               # so that no square leaves the range of the numbers
    size = np.maximum(high / 2 - low / 2, np.finfo(np.float64).tiny)
    scaled = (X - middle) / size
    mean, scale = middle + size * scaled.mean(axis=0), size * scaled.std(axis=0)
    return mean.tolist(), np.where(scale > 8 * np.finfo(np.float64).eps * np.abs(mean), scale, 1.0).tolist()


def _files(source: str) -> list[str]:
    for files in ([source], source.split(","), source.split(":")):
        if len(files) < 3 and all(Path(file).is_file() for file in files):
            return files
    hint = get_close_matches(source, BUNDLED, 1)
    raise FileNotFoundError(f"no file {source!r}" + (f"; did you mean {hint[0]!r}?" if hint else
                                                     f" (bundled data: {', '.join(BUNDLED)})"))
