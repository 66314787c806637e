"""From a table to a good small model: `train` makes an ensemble of small networks by a `Recipe`.

A `TableModel` is what comes out: networks and preprocessing, which predict together and are saved in one file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from . import arguments, schedules
from .datasets.dataset import Dataset
from .encodings import PiecewiseLinearEncoding
from .losses import name_of
from .network import Network
from .optimizers import AdamW, has_room_for_scales
from .population import Population, load
from .preprocessing import Preprocessor, as_columns, encoded, output_activation
from .scores import best_temperature
from .training.holdout import hold_out
from .training.population_history import PopulationHistory

SIZES: dict[str, dict[str, Any]] = {  # fields of a recipe that are not the default ones
    "small": {"hidden": (64, 64), "n_networks": 2},
    "medium": {},
    "large": {"n_networks": 16, "batch_size": 32, "lr": 2e-3, "patience": 40},  # wider: no better
}
SCHEDULES = ("cosine", "coslog4", "constant")
MIN_VALIDATED = 10  # rows; with fewer, no networks hold out any
DECAYED_ROWS = 1000  # with more, weights decay less in a step
INPUT_SCALE_LR, MAX_SCALE_STEP = 40.0, 0.16
N_BINS = 8  # of a column
MAX_ENCODED = 128  # features, of more none are encoded
TYPICAL_UPDATES = 6000  # of the parameters, from which the number of epochs follows
EPOCHS = (30, 200)


@dataclass(frozen=True)
class Recipe:
    """How networks for a table are built and trained.  None stands for what follows from the table.

    Parameters
    ----------
    hidden : sequence of int
        Neurons of each hidden layer.
    activation : str or fastbp.Activation
        Of the hidden layers.
    loss : str, loss or None
        None: cross_entropy for classes, squared_error for numbers, which are standardized.
    n_networks : int
        Networks of the ensemble; their outputs are averaged.  An even number keeps two threads busy.
    lr : float
        Highest step size of AdamW.
    weight_decay : float or None
        None: 1, and with more than 1,000 rows 1,000 / rows, so that an epoch decays weights by the same.
    decay_biases : bool
        Whether biases are decayed too.
    input_scale_lr : float or None
        Step size of the learned scales of the inputs, as a multiple of `lr`, as in `fastbp.AdamW`; 0: none, nor for
        networks of less than 3 parameters for each input.  None: 40, but less where `lr` is above 0.004, so that steps
        are at most 0.16.
    schedule : "cosine", "coslog4" or "constant"
        Of the step size.
    warmup : float
        Fraction of the updates in which the step size rises, with "cosine".
    batch_size : int
    epochs : int or None
        Largest number.  None: as many as make 6,000 updates, but 30 to 200.
    dropout : float
        Rate at which outputs of hidden neurons are dropped in training.
    n_bins : int or None
        Bins of `fastbp.encodings.PiecewiseLinearEncoding`, whose scale is ``n_bins ** -0.5``, 0 for none.  None: 8,
        and 0 for images and more than 128 features.
    validation_fraction : float or None
        Fraction of the rows that each network holds out, others for each.  0: none; training does not stop early then.
        None: 0.2, and 0 with fewer than 10 rows.
    patience : int
        Epochs without an improvement on the rows held out after which a network stops; it keeps its best epoch.
    calibrates : bool
        Whether probabilities of each network get the temperature that is best for the rows that it holds out, and its
        best epoch is that of least log loss with that; only with cross_entropy.  Sample weights count for the
        temperature, but not for the choice of the epoch.

    Raises
    ------
    ValueError, TypeError
        If a field is not valid; the message names it.

    Examples
    --------
    >>> Recipe.of_size("small", dropout=0.1).hidden
    (64, 64)
    """

    hidden: Sequence[int] = (128, 128)
    activation: Any = "relu"
    loss: Any = None
    n_networks: int = 4
    lr: float = 4e-3
    weight_decay: float | None = None
    decay_biases: bool = True
    input_scale_lr: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.05
    batch_size: int = 64
    epochs: int | None = None
    dropout: float = 0.0
    n_bins: int | None = None
    validation_fraction: float | None = None
    patience: int = 20
    calibrates: bool = True

    def __post_init__(self) -> None:
        """Validate."""
        if isinstance(self.hidden, int | str) or not isinstance(self.hidden, Sequence | np.ndarray):
            raise TypeError(f"hidden must be a sequence of numbers of neurons, got {self.hidden!r}")
        hidden = tuple(arguments.integer(f"hidden[{i}]", n) for i, n in enumerate(self.hidden))
        object.__setattr__(self, "hidden", hidden)
        for name in ("n_networks", "batch_size", "patience"):
            arguments.integer(name, getattr(self, name))
        arguments.number("lr", self.lr, above=0)
        if self.weight_decay is not None:
            arguments.number("weight_decay", self.weight_decay, at_least=0)
        arguments.number("warmup", self.warmup, at_least=0, below=1)
        arguments.name("schedule", self.schedule, SCHEDULES)
        arguments.flag("decay_biases", self.decay_biases)
        if self.input_scale_lr is not None:
            arguments.number("input_scale_lr", self.input_scale_lr, at_least=0)
        arguments.flag("calibrates", self.calibrates)
        if self.epochs is not None:
            arguments.integer("epochs", self.epochs)
        if self.n_bins is not None:
            arguments.integer("n_bins", self.n_bins, at_least=0)
        arguments.number("dropout", self.dropout, at_least=0, below=1)
        if self.validation_fraction is not None:
            arguments.number("validation_fraction", self.validation_fraction, at_least=0, below=1)

    @classmethod
    def of_size(cls, size: str, **changes: Any) -> Recipe:
        """Return the recipe of a size, "small", "medium" or "large", with other values of some fields."""
        values = {**SIZES[arguments.name("size", size, SIZES)], **changes}
        known = {field.name for field in fields(cls)}
        for name in values:
            if name not in known:
                raise TypeError(f"Recipe has no field {name!r}{arguments.did_you_mean(name, known)}")
        return cls(**values)

    def for_table(self, task: str, n_samples: int, n_features: int, pixels: bool = False) -> Recipe:
        """Return the recipe for a table: None is left in no field.

        Parameters
        ----------
        task : "classes" or "numbers"
        n_samples : int
            Rows to train on, with those that networks hold out.
        n_features : int
        pixels : bool
            Whether the features have all the same meaning and scale.
        """
        are_classes = arguments.name("task", task, ("classes", "numbers")) == "classes"
        fraction = self.validation_fraction
        if fraction is None:
            fraction = 0.2 if n_samples >= MIN_VALIDATED else 0.0
        n_updates = -(-(n_samples - round(fraction * n_samples)) // self.batch_size)  # of an epoch
        low, high = EPOCHS
        encodes = not pixels and n_features <= MAX_ENCODED
        of_table: dict[str, Any] = {
            "loss": "cross_entropy" if are_classes else "squared_error",
            "epochs": min(high, max(low, -(-TYPICAL_UPDATES // max(1, n_updates)))),
            "weight_decay": min(1.0, DECAYED_ROWS / n_samples),
            "input_scale_lr": min(INPUT_SCALE_LR, MAX_SCALE_STEP / self.lr),
            "n_bins": N_BINS if encodes else 0,
            "validation_fraction": fraction,
        }
        return replace(self, **{name: value for name, value in of_table.items() if getattr(self, name) is None})

    def describe(self, sizes: Sequence[int], n_samples: int) -> list[str]:
        """Return what is trained, in lines; of the recipe for a table (`for_table`).

        Parameters
        ----------
        sizes : sequence of int
            Of a network, with inputs and outputs.
        n_samples : int
            As for `for_table`.
        """
        assert self.epochs is not None and self.validation_fraction is not None
        n_trained = n_samples - round(self.validation_fraction * n_samples)
        n_products = 3 * sum(n_in * n_out for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True))
        n_products *= self.n_networks * self.epochs * n_trained
        encoding = f"; each number also in {self.n_bins} bins" if self.n_bins else ""
        scales = f", scales of inputs learned (lr x {self.input_scale_lr:g})" if self.input_scale_lr else ""
        dropout = f", dropout {self.dropout:g}" if self.dropout else ""
        held_out = (
            f"each holds out its own {self.validation_fraction:.0%} of the rows and keeps its best epoch "
            f"(patience {self.patience})"
            if self.validation_fraction
            else "none holds out rows"
        )
        return [
            f"{self.n_networks} network{'s' * (self.n_networks > 1)} {'-'.join(map(str, sizes))}, {self.activation}; "
            f"{name_of(self.loss)}{encoding}",
            f"AdamW, lr {self.lr:g} ({self.schedule}), weight decay {self.weight_decay:g}{scales}{dropout}; "
            f"batches of {self.batch_size}, at most {self.epochs} epochs",
            f"{held_out}; at most {n_products:.1e} multiply-adds",
        ]

    def _optimizer(self, n_batches: int, sizes: Sequence[int]) -> AdamW:
        """Return the optimizer for epochs of so many batches, of networks of these sizes."""
        assert self.epochs is not None and self.weight_decay is not None
        n_steps = self.epochs * n_batches
        lr: Any = self.lr
        if self.schedule == "cosine":
            warmup = round(self.warmup * n_steps)
            lr = schedules.Cosine(self.lr, max(1, n_steps - warmup), warmup=warmup)
        elif self.schedule == "coslog4":
            lr = schedules.CosLog4(self.lr, n_steps)
        optimizer = AdamW(lr, weight_decay=self.weight_decay, decay_biases=self.decay_biases)
        return replace(optimizer, input_scale_lr=self.input_scale_lr or 0.0 if has_room_for_scales(sizes) else 0.0)


class TableModel:
    """Networks for a table, and what samples are to them: it predicts alone, and is saved as one file.

    Parameters
    ----------
    population : Population
    preprocessor : Preprocessor
    history : PopulationHistory, optional
        Of the training.
    recipe : Recipe, optional
        For the table that it was trained on, without None.

    Attributes
    ----------
    population, preprocessor, history, recipe
        As given.
    """

    def __init__(
        self,
        population: Population,
        preprocessor: Preprocessor,
        history: PopulationHistory | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        self.population, self.preprocessor, self.history, self.recipe = population, preprocessor, history, recipe

    @property
    def task(self) -> str:
        """Kind of the targets: "classes" or "numbers"."""
        return self.preprocessor.task

    @property
    def classes(self) -> Sequence[str] | None:
        """Name of each class; None for numbers."""
        return self.preprocessor.classes

    def inputs(self, X: Any) -> np.ndarray:
        """Return the inputs of the networks.

        Parameters
        ----------
        X : ndarray (n_samples, n_features), data frame or list of rows
            Of an array, the features as in the training data, NaN where they are missing; of a data frame, or of rows
            with text, the columns of the table that the model was trained on.
        """
        matrix = X if isinstance(X, np.ndarray) and X.dtype.kind in "fiub" else self._encoded(X)
        n_features = self.preprocessor.n_features(self._sizes[0])
        if matrix.ndim != 2 or matrix.shape[1] != n_features:
            raise ValueError(f"X must have {n_features} features, (n_samples, {n_features}), got shape {matrix.shape}")
        return self.preprocessor.inputs(matrix, self.population.dtype)

    def _encoded(self, X: Any) -> np.ndarray:
        columns = self.preprocessor.columns
        if columns is None:
            return np.asarray(X, np.float64)
        return encoded(X, tuple(columns), bool(self.preprocessor.has_names)).X

    @property
    def _sizes(self) -> tuple[int, ...]:
        return self.population[0].sizes

    def outputs(self, X: Any) -> np.ndarray:
        """Return the mean of the outputs of the networks, (n_samples, n_out): probabilities of classes.

        Parameters
        ----------
        X : as for `inputs`
        """
        return self.preprocessor.calibrated(self.population.mean(self.inputs(X)))

    def predict(self, X: Any) -> np.ndarray:
        """Return the name of the class (n_samples,), or the number, (n_samples,) or (n_samples, n_targets)."""
        predicted = self.preprocessor.predictions(self.outputs(X))
        return _one_column(predicted) if self.classes is None else np.array(self.classes)[predicted]

    def spread(self, X: Any) -> np.ndarray:
        """Return how far the networks disagree: the standard deviation of their numbers, in the shape of `predict`."""
        if self.classes is not None:
            raise ValueError("spread is of numbers, but this model predicts classes")
        return _one_column(self.population.spread(self.inputs(X)) * np.array(self.preprocessor.target_scale))

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
        """Save to one file, as `Population.save` does; `load` and `fastbp predict` read it."""
        self.population.save(path, metadata={**(metadata or {}), **self.preprocessor.metadata()})

    @classmethod
    def load(cls, path: str | os.PathLike[str], backend: str = "numba") -> TableModel:
        """Load a model that `save`, or `fastbp train`, wrote; without its history and recipe.

        Raises
        ------
        ValueError
            If the file is damaged, or says nothing of the data of the networks.
        """
        loaded = load(path, backend)
        population = Population.of([loaded]) if isinstance(loaded, Network) else loaded
        preprocessor = Preprocessor.from_metadata(loaded.metadata, population[0].sizes, path)
        if preprocessor is None:
            raise ValueError(f"{os.fspath(path)} does not say what samples and outputs mean: it is no model of a table")
        return cls(population, preprocessor)

    def __repr__(self) -> str:
        """Return the networks in short."""
        pop = self.population
        return f"TableModel({len(pop)} networks {'-'.join(map(str, self._sizes))}, {self.task})"


def _one_column(A: np.ndarray) -> np.ndarray:
    """Return numbers (n_samples,) where there is one for each sample."""
    return A[:, 0] if A.shape[1] == 1 else A


def train(
    recipe: Recipe,
    data: Dataset,
    rows: np.ndarray | None = None,
    *,
    seed: arguments.Seed = 0,
    dtype: str = "float32",
    threads: int | None = None,
    backend: str = "numba",
    sample_weight: np.ndarray | None = None,
    callbacks: Sequence[Any] = (),
    progress: bool | None = False,
    show: Callable[[str], Any] | None = None,
) -> TableModel:
    """Train a model of a table.

    Parameters
    ----------
    recipe : Recipe
    data : Dataset
    rows : ndarray of int, or mask, optional
        The rows to train on, of which each network holds out some.  None: all.
    seed : None, int, SeedSequence or Generator
        Of all that is random.  The same seed gives the same bits, on any number of threads.
    dtype, backend : str
        As for `fastbp.Population`.
    threads : int, optional
        Largest number of threads.
    sample_weight : ndarray (n_samples,), optional
        Weight of each sample of `data`; rows of weight 0 are left out.
    callbacks, progress
        As for `fastbp.training.population.PopulationTrainer.fit`.
    show : function (str), optional
        Called with lines that say what is trained, before the training, and what came of it.

    Returns
    -------
    TableModel
        After Ctrl-C as well, with the best epochs so far.

    Raises
    ------
    ValueError, TypeError
        Where an argument does not fit, or there is nothing to learn from.
    """
    if data.y is None:
        raise ValueError("data must have targets to train on, got y=None")
    rows = np.arange(len(data.X)) if rows is None else np.asarray(rows)
    rows = np.flatnonzero(rows) if rows.dtype == bool else rows
    weights = None
    if sample_weight is not None:
        sample_weight = np.asarray(sample_weight, np.float64)
        if sample_weight.shape != (len(data.X),):
            raise ValueError(f"sample_weight must have shape ({len(data.X)},), got {sample_weight.shape}")
        if not sample_weight[rows].any():
            raise ValueError("sample_weight must have at least one non-zero weight, got none")
        rows = rows[sample_weight[rows] != 0]
        weights = sample_weight[rows]
    if not len(rows):
        raise ValueError("rows must be one or more rows to train on, got none")
    samples, y = data.X[rows], data.y[rows]
    if np.isinf(samples).any():
        i, j = (int(places[0]) for places in np.nonzero(np.isinf(samples)))
        raise ValueError(f"X[{rows[i]}, {j}] is {samples[i, j]}: numbers must be finite, or NaN where they are missing")
    task = "numbers" if data.classes is None else "classes"
    recipe = recipe.for_table(task, len(rows), data.X.shape[1], data.pixels)
    assert recipe.validation_fraction is not None and recipe.epochs is not None
    encoding = PiecewiseLinearEncoding(recipe.n_bins, scale=recipe.n_bins**-0.5) if recipe.n_bins else None
    preprocessor = Preprocessor.of(data, rows, encoding)
    X, Y = preprocessor.inputs(samples, np.dtype(dtype)), preprocessor.targets(y, name_of(recipe.loss))
    rng = arguments.generator("seed", seed)
    seed_of_networks, seed_of_training, *keys = rng.integers(2**63, size=2 + recipe.n_networks).tolist()
    n_out = as_columns(Y).shape[1] if data.classes is None else len(data.classes)
    sizes = [X.shape[1], *recipe.hidden, n_out]
    hidden_init = "glorot_normal" if recipe.activation in ("sigmoid", "tanh") else "he_normal"
    population = Population(
        sizes,
        recipe.n_networks,
        [recipe.activation] * len(recipe.hidden) + [output_activation(recipe.loss, task)],
        recipe.loss,
        init=[hidden_init] * len(recipe.hidden) + ["zeros" if task == "numbers" else hidden_init],
        dtype=dtype,
        seed=seed_of_networks,
        backend=backend,
    )
    strata = y if task == "classes" else as_columns(y)
    drawn = _held_out(strata, recipe.validation_fraction, keys) if recipe.validation_fraction else None
    trained = [np.arange(len(rows))] * recipe.n_networks if drawn is None else [of_one for of_one, _ in drawn]
    calibrates = recipe.calibrates and drawn is not None and name_of(recipe.loss) == "cross_entropy"
    for line in recipe.describe(sizes, len(rows)) if show is not None else ():
        show(line)  # type: ignore[misc]
    history = population.fit(
        X,
        Y,
        recipe.epochs,
        recipe.batch_size,
        recipe._optimizer(-(-len(trained[0]) // recipe.batch_size), sizes),
        train_rows=trained,
        validation_rows=None if drawn is None else [of_one for _, of_one in drawn],
        patience=None if drawn is None else recipe.patience,
        validation_loss=_calibrated_loss if calibrates else None,
        sample_weight=weights,
        order="own",
        seed=seed_of_training,
        dropout=recipe.dropout,
        threads=threads,
        callbacks=callbacks,
        progress=progress,
        keep_predictions=False,
    )
    temperatures = []
    if calibrates and drawn is not None:
        temperatures = _calibrate(population, X, y, [of_one for _, of_one in drawn], weights)
    model = TableModel(population, preprocessor, history, recipe)
    for line in _outcome(model, temperatures) if show is not None else ():
        show(line)  # type: ignore[misc]
    return model


def _held_out(y: np.ndarray, fraction: float, keys: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Return of each network the rows that it is trained on, and those that it holds out; None if none can be."""
    try:
        return [hold_out(y, fraction, key) for key in keys]
    except ValueError:  # the classes have a row each
        return None


def _calibrated_loss(A: np.ndarray, y: np.ndarray) -> float:
    return best_temperature(A, y)[1]


def _calibrate(
    population: Population, X: np.ndarray, y: np.ndarray, held_out: list[np.ndarray], weights: np.ndarray | None
) -> list[float]:
    """Divide each network's last W and b by the temperature that is best for the rows that it held out."""
    temperatures = []
    n_in, n_out = population[0].shapes[-1]
    for i, rows in enumerate(held_out):
        (A,) = population.predict(X[rows], members=[i])
        temperature, _ = best_temperature(A, y[rows], None if weights is None else weights[rows])
        population.parameters[i, -(n_in + 1) * n_out :] /= temperature
        temperatures.append(temperature)
    return temperatures


def _outcome(model: TableModel, temperatures: Sequence[float]) -> list[str]:
    """Return what came of a training, in lines."""
    history = model.history
    assert history is not None
    lines = []
    if history.has_validation:
        best, losses = ", ".join(map(str, history.best_epoch.tolist())), model.population.losses
        loss = losses[~np.isnan(losses)].mean() if not np.isnan(losses).all() else np.nan
        lines.append(f"best epochs {best} of {len(history)}; loss on the rows held out {loss:.4g}")
    if temperatures:
        lines.append(f"temperatures of the probabilities {', '.join(f'{t:.2g}' for t in temperatures)}")
    return lines
