"""The command `fastbp train`: read a file, train a model, show its progress and its score, save it."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import numpy as np
import typer

from ..datasets import Dataset
from ..datasets.columns import shortened
from ..datasets.dataset import first_few
from ..datasets.form import TableError
from ..importance import permutation_importance
from ..preprocessing import BUNDLED
from ..recipes import Recipe
from .options import TRAINING, TrainingOptions, check_can_save, with_training_options
from .recipe import SIZE, RecipeModel
from .samples import describe_samples, read_samples, split_samples, warn_of_untested
from .screen import Screen
from .textbook import ACTIVATION, BATCH_SIZE, HIDDEN, MOMENTUM, TYPICAL_UPDATES, Textbook

Model = RecipeModel | Textbook
MAX_COLUMNS = 40  # whose importance is shown


@with_training_options
def train(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A table (CSV, Excel, Parquet ...; - for standard input), npz, IDX: images,labels, digits or xor.",
        ),
    ],
    size: Annotated[
        str | None, typer.Option(help="Of the ensemble: small, medium or large.", show_default=SIZE)
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Cross-validate the training by so many folds, before it.", show_default="no"),
    ] = None,
    importance: Annotated[
        bool, typer.Option("--importance", help="Show how much the model needs each column of the table.")
    ] = False,
    simple: Annotated[
        bool | None,
        typer.Option(
            "--simple/--recipe",
            help="Train the network of the textbooks by SGD, or an ensemble by the recipe for tables.",
            show_default="the recipe, but --simple for images, digits and xor",
        ),
    ] = None,
    hidden: Annotated[
        list[str] | None,
        typer.Option(
            help="Neurons of each hidden layer: 30, or 64,32; 0 for none.",
            show_default=f"by size; {first_few(HIDDEN)} if simple",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option(
            help="Of the hidden layers: sigmoid, tanh, relu, gelu ...",
            show_default=f"{Recipe.activation}; {ACTIVATION} if simple",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="cross_entropy, squared_error, huber ...",
            show_default="cross_entropy for classes, squared_error for numbers",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="At most; with the recipe each network keeps its best.",
            show_default=f"by the size of the table; {TYPICAL_UPDATES} updates, but 30 to 2000 epochs, if simple",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Samples of one update.",
            show_default=f"{Recipe.batch_size}; {BATCH_SIZE} if simple",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Step size.",
            show_default=f"{Recipe.lr}; if simple, 0.2 for classes by sigmoid, else 0.02",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    momentum: Annotated[
        float | None,
        typer.Option(
            help="With --simple: fraction of the last step that is added to the next.",
            show_default=str(MOMENTUM),
            rich_help_panel=TRAINING,
        ),
    ] = None,
    ensemble: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Train so many networks together; the model is their mean.",
            show_default="by size; one if simple",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    *,
    options: TrainingOptions,
) -> None:
    """Train a model of a table, or of images; show its progress, then its score on samples held out.

    A table gets a recipe: an ensemble of networks, each of which stops where it does best on rows that it holds out.
    """
    given = {"size": size, "folds": folds, "momentum": momentum, "ensemble": ensemble}
    changes: dict[str, Any] = {
        "activation": activation,
        "loss": loss,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
    }
    changes["hidden"] = _hidden_sizes(hidden)
    out = options.out
    check_can_save(out, data)
    if simple is None and data in BUNDLED:
        simple = True
    if simple is not None:
        _check_options_fit(simple, given, data)
    elif momentum is not None and (size is not None or folds is not None):
        raise ValueError(f"--momentum goes with --simple, but --{'folds' if size is None else 'size'} with --recipe")
    screen = Screen(survives_broken_pipe=out is not None)
    samples = read_samples(screen, data, options)
    if simple is None:
        simple = samples.pixels
        _check_options_fit(simple, given, data)
    rows, test = split_samples(samples, options.test_fraction)
    if simple:
        model: Model = Textbook(samples, rows, options, momentum=momentum, ensemble=ensemble, **changes)
    else:
        model = RecipeModel(samples, rows, options, size, n_networks=ensemble, **changes)
    describe_samples(screen, data, samples, rows, test)
    warn_of_untested(screen, samples, test, options.test_fraction)
    if folds is not None and isinstance(model, RecipeModel):
        model.cross_validate(screen, folds)
    model.train(screen, test)
    if out is not None:
        model.save(out)
    shown, name = (test, "test") if len(test) else (rows, "training")
    model.show_score(screen, shown, name)
    if importance and not model.interrupted:
        _show_importance(screen, model, samples, shown, name, options.seed)
    if out is not None:
        screen.say(f"saved; now try: {shlex.join(['fastbp', 'predict', str(out), data])}")
    if model.interrupted:
        kept = "the model is saved as it is" if out is not None else "not saved, as there was no --out"
        screen.warn(f"stopped by Ctrl-C after {model.epochs} epochs; {kept}")
        raise typer.Exit(130)


def _check_options_fit(simple: bool, given: dict[str, Any], data: str) -> None:
    """Refuse options of the other way to train."""
    way, other, names = (
        ("--simple", "--recipe", ("size", "folds")) if simple else ("--recipe", "--simple", ("momentum",))
    )
    problems = [
        f"--{name} goes with {other}, but {data} is trained by {way}" for name in names if given[name] is not None
    ]
    if simple and given["ensemble"] == 1:
        problems.append("--ensemble takes 2 networks or more with --simple, got 1")
    if problems:
        raise TableError(problems)


def _hidden_sizes(hidden: list[str] | None) -> list[int] | None:
    """Sizes of the hidden layers, from "30", "64,32", or several such."""
    if hidden is None:
        return None
    words = ",".join(hidden).split(",")
    if words == ["0"]:
        return []
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise ValueError(f"--hidden takes sizes such as 30 or 64,32, not {','.join(words)!r}")
    return [int(word) for word in words]


def _show_importance(screen: Screen, model: Model, samples: Dataset, rows: np.ndarray, name: str, seed: int) -> None:
    """Print how much worse the model predicts these rows when a column is shuffled, most needed columns first."""
    X, y = samples.X[rows], samples.y[rows]
    if len(y) < 2 or samples.classes is None and (y == y[0]).all():
        screen.warn(f"no importance: the targets of the {name} rows are all equal")
        return
    found = permutation_importance(
        lambda X: model.preprocessor.predictions(model.outputs(X)),
        X,
        y,
        samples.columns,
        are_classes=samples.classes is not None,
        seed=seed,
    )
    screen.say(f"importance: what is lost of {name} {found.metric} when a column is shuffled", "bold")
    form = "{:>7.2%} +- {:.2%}" if samples.classes else "{:>7.4f} +- {:.4f}"
    order = np.argsort(-found.mean, kind="stable")
    shown = [shortened(found.columns[i]) for i in order[:MAX_COLUMNS]]
    width = max(map(len, shown))
    for i, column in zip(order, shown, strict=False):
        screen.say(f"  {column:<{width}}  {form.format(found.mean[i], found.std[i])}")
    if len(order) > MAX_COLUMNS:
        screen.say(f"  and {len(order) - MAX_COLUMNS} more columns")
