"""The command `fastbp search`: cross-validation of many networks at once, ranked."""

from __future__ import annotations

import itertools
import warnings
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from rich.table import Table

from ..preprocessing import Preprocessor, as_columns
from ..scores import regression_errors
from .options import TrainingOptions, check_can_save, with_training_options
from .samples import describe_samples, fold_pairs, read_samples, split_samples
from .screen import Screen, plain, show_score
from .textbook import MOMENTUM, TYPICAL_UPDATES, architecture, default_epochs

Values = list[str] | None


class Candidate(NamedTuple):
    """What the networks to compare differ by."""

    hidden: tuple[int, ...]
    activation: str
    lr: float
    batch_size: int
    l2: float

    def cells(self) -> list[str]:
        """Return the texts of a row of the table."""
        hidden = "x".join(map(str, self.hidden)) or "none"
        return [hidden, self.activation, f"{self.lr:g}", str(self.batch_size), f"{self.l2:g}"]


class Scores(NamedTuple):
    """How well a candidate did, over the folds: accuracy or RMSE, and loss."""

    mean: float
    std: float
    loss: float


@with_training_options
def search(
    data: Annotated[str, typer.Argument(metavar="DATA", help="As for train.")],
    hidden: Annotated[
        Values,
        typer.Option(help="Neurons to compare: 16,32,64x32 (two layers); 0 for none.", show_default="10,30,100"),
    ] = None,
    lr: Annotated[Values, typer.Option(help="Step sizes to compare.", show_default="0.02,0.2")] = None,
    activation: Annotated[
        Values, typer.Option(help="Of the hidden layers, to compare.", show_default="sigmoid")
    ] = None,
    batch_size: Annotated[Values, typer.Option(help="To compare.", show_default="20")] = None,
    l2: Annotated[Values, typer.Option(help="Penalties of the weights to compare.", show_default="0")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Of the cross-validation.")] = 5,
    loss: Annotated[
        str | None, typer.Option(show_default="cross_entropy for classes, squared_error for numbers")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, show_default=f"{TYPICAL_UPDATES} updates, but 30 to 2000 epochs")
    ] = None,
    momentum: Annotated[float, typer.Option(help="Fraction of the last step that is added to the next.")] = MOMENTUM,
    top: Annotated[int, typer.Option(min=1, help="Rows of the table.")] = 20,
    *,
    options: TrainingOptions,
) -> None:
    """Compare networks by cross-validation, all trained together; train the best, and test it on samples held out."""
    from ..network import Network
    from ..optimizers import SGD
    from ..training.trainer import Trainer

    candidates = _candidates(hidden, activation, lr, batch_size, l2)
    check_can_save(options.out, data)
    screen = Screen(survives_broken_pipe=options.out is not None)
    samples = read_samples(screen, data, options)
    y = samples.y
    rows, test = split_samples(samples, options.test_fraction)
    if len(rows) < folds:
        raise ValueError(f"--folds must be at most the number of samples to train on, {len(rows)}, got {folds}")
    preprocessor = Preprocessor.of(samples, rows)
    epochs = epochs or max(default_epochs(candidate.batch_size, len(rows)) for candidate in candidates)
    architectures = [
        architecture(preprocessor, samples, list(candidate.hidden), candidate.activation, loss)
        for candidate in candidates
    ]
    of_net: dict[str, Any] = {"loss": architectures[0][2], "dtype": options.dtype, "seed": options.seed}
    nets = [Network(sizes, activations, backend=options.backend, **of_net) for sizes, activations, _ in architectures]

    describe_samples(screen, data, samples, rows, test)
    screen.say(f"{len(candidates):,} candidates, {folds} folds, {epochs:,} epochs")
    screen.announce_compilation(nets[0])
    X, Y = preprocessor.inputs(samples.X, nets[0].dtype), preprocessor.targets(y, nets[0].loss_name)
    pairs = fold_pairs(y[rows], folds)
    outputs, losses = _cross_validate(screen, nets, candidates, X[rows], Y[rows], pairs, epochs, momentum, options.seed)
    scores = [
        _score(preprocessor, y[rows], of_one, of_folds, pairs) for of_one, of_folds in zip(outputs, losses, strict=True)
    ]
    ranking = _ranking(scores, bool(preprocessor.classes))
    table = _table(candidates, scores, ranking[:top], bool(preprocessor.classes))
    screen.out.print(table)
    if len(ranking) > top:
        screen.say(f"and {len(ranking) - top:,} more; --top shows more of them")
    if not np.isfinite(scores[ranking[0]].mean):
        raise ValueError(f"the loss of every candidate became infinite: try a smaller --lr than {candidates[0].lr:g}")

    best, net = candidates[ranking[0]], nets[ranking[0]]
    trainer = Trainer(net, SGD(best.lr, momentum), batch_size=best.batch_size, l2=best.l2, seed=options.seed)
    history = trainer.fit(X[rows], Y[rows], epochs=epochs)
    if history.interrupted:
        raise typer.Exit(130)
    if options.out is not None:
        net.save(options.out, metadata=preprocessor.metadata())
    shown = test if len(test) else rows
    screen.say("the best one, trained on the samples of all folds:")
    show_score(screen.out, preprocessor, y[shown], net.predict(X[shown]), "test" if len(test) else "training")
    if options.out is not None:
        screen.say(f"saved to {options.out}")


def _candidates(hidden: Values, activation: Values, lr: Values, batch_size: Values, l2: Values) -> list[Candidate]:
    """Return every combination."""
    axes: list[list[Any]] = [
        [_layers(word) for word in _words("--hidden", hidden, "10,30,100")],
        _words("--activation", activation, "sigmoid"),
        [_number("--lr", word, 0.0) for word in _words("--lr", lr, "0.02,0.2")],
        [_size("--batch-size", word) for word in _words("--batch-size", batch_size, "20")],
        [_number("--l2", word, 0.0) for word in _words("--l2", l2, "0")],
    ]
    return [Candidate(*values) for values in itertools.product(*axes)]


def _words(option: str, given: Values, default: str) -> list[str]:
    words = [word.strip() for word in ",".join(given or [default]).split(",")]
    repeated = {word for word in words if words.count(word) > 1}
    if "" in words or repeated:
        raise ValueError(f"{option} takes different values with commas between them, not {','.join(words)!r}")
    return words


def _layers(word: str) -> tuple[int, ...]:
    return () if word == "0" else tuple(_size("--hidden", size) for size in word.split("x"))


def _size(option: str, word: str) -> int:
    if not (word.isdecimal() and int(word) > 0):
        example = " such as 30, 64x32 or 0," if option == "--hidden" else ""
        raise ValueError(f"{option} takes whole numbers{example} above 0, not {word!r}")
    return int(word)


def _number(option: str, word: str, at_least: float) -> float:
    try:
        value = float(word)
    except ValueError:
        value = np.nan
    if not (np.isfinite(value) and value >= at_least):
        raise ValueError(f"{option} takes numbers from {at_least:g}, not {word!r}")
    return value


def _cross_validate(
    screen: Screen,
    nets: list[Any],
    candidates: list[Candidate],
    X: np.ndarray,
    Y: np.ndarray,
    pairs: list[tuple[np.ndarray, np.ndarray]],
    epochs: int,
    momentum: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the outputs for each sample of the networks that did not train on it, and the losses of the folds."""
    from ..optimizers import SGD
    from ..population import Population
    from ..training.trainer import Trainer

    columns = Candidate(*zip(*candidates, strict=True))  # type: ignore[arg-type]
    trainer: Any = Trainer(
        Population.of(nets),  # type: ignore[arg-type]
        SGD(np.array(columns.lr), momentum),  # type: ignore[arg-type]
        batch_size=np.array(columns.batch_size),  # type: ignore[arg-type]
        l2=np.array(columns.l2),  # type: ignore[arg-type]
        seed=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of networks that diverge: the table says so
        history = trainer.fit(X, Y, epochs=epochs, folds=pairs)
    if history.interrupted:
        screen.warn("stopped by Ctrl-C; nothing is ranked")
        raise typer.Exit(130)
    return history.out_of_fold, np.where(history.nonfinite[:, None], np.nan, history.fold_losses)


def _score(
    preprocessor: Preprocessor,
    y: np.ndarray,
    outputs: np.ndarray,
    losses: np.ndarray,
    pairs: list[tuple[np.ndarray, np.ndarray]],
) -> Scores:
    """Score what one candidate predicts for each fold; NaN where a network diverged."""
    if not (np.isfinite(outputs).all() and np.isfinite(losses).all()):
        return Scores(np.nan, np.nan, np.nan)
    predicted = preprocessor.predictions(outputs)
    of_folds = []
    for _, aside in pairs:
        if preprocessor.classes is not None:
            of_folds.append(float((predicted[aside] == y[aside]).mean()))
        else:
            of_outputs = regression_errors(as_columns(y)[aside], predicted[aside])
            of_folds.append(float(np.mean([rmse for rmse, _ in of_outputs])))
    return Scores(float(np.mean(of_folds)), float(np.std(of_folds)), float(losses.mean()))


def _ranking(scores: list[Scores], are_classes: bool) -> list[int]:
    """Return the candidates, best first: by accuracy or RMSE, equal ones by loss; those that diverged at the end."""
    sign = -1.0 if are_classes else 1.0

    def key(i: int) -> tuple[bool, float, float]:
        return not np.isfinite(scores[i].mean), sign * scores[i].mean, scores[i].loss

    return sorted(range(len(scores)), key=key)


def _table(candidates: list[Candidate], scores: list[Scores], ranking: list[int], are_classes: bool) -> Table:
    table = Table(box=None, header_style="bold")
    titles = ["rank", "hidden", "activation", "lr", "batch", "l2", "accuracy" if are_classes else "RMSE", "loss"]
    for title in titles:
        table.add_column(title, justify="left" if title == "activation" else "right", no_wrap=True)
    for rank, i in enumerate(ranking, start=1):
        mean, std, loss = scores[i]
        score = f"{mean:.2%} +- {std:.2%}" if are_classes else f"{mean:.4g} +- {std:.2g}"
        last = [score, f"{loss:.4g}"] if np.isfinite(mean) else ["diverged", ""]
        table.add_row(*map(plain, [str(rank), *candidates[i].cells(), *last]), style="green" if rank == 1 else "")
    return table
