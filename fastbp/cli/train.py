"""The command `fastbp train`: read a file, train a network, show its progress and its score, save it."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from .options import TrainingOptions, check_can_save, with_training_options
from .samples import describe_samples, read_samples, split_samples, warn_of_untested
from .screen import Screen, show_score
from .textbook import ACTIVATION, BATCH_SIZE, HIDDEN, MOMENTUM, TYPICAL_UPDATES, Textbook


@with_training_options
def train(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="digits, xor, a table (CSV, Excel, Parquet ...; - for standard input), npz, or IDX: images,labels.",
        ),
    ],
    hidden: Annotated[
        list[str] | None,
        typer.Option(
            help="Neurons of each hidden layer: 30, or 64,32; 0 for none.", show_default=",".join(map(str, HIDDEN))
        ),
    ] = None,
    activation: Annotated[
        str | None, typer.Option(help="Of the hidden layers: sigmoid, tanh, relu, gelu ...", show_default=ACTIVATION)
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="cross_entropy, squared_error, huber ...",
            show_default="cross_entropy for classes, squared_error for numbers",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, show_default=f"{TYPICAL_UPDATES} updates, but 30 to 2000 epochs")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples of one update.", show_default=str(BATCH_SIZE))] = None,
    lr: Annotated[
        float | None, typer.Option(help="Step size.", show_default="0.2 for classes by sigmoid, else 0.02")
    ] = None,
    momentum: Annotated[
        float | None,
        typer.Option(help="Fraction of the last step that is added to the next.", show_default=str(MOMENTUM)),
    ] = None,
    ensemble: Annotated[
        int | None,
        typer.Option(min=2, help="Train so many networks together; the model is their mean.", show_default="one"),
    ] = None,
    *,
    options: TrainingOptions,
) -> None:
    """Train a network; show loss and accuracy during training, then the score on the samples held out."""
    check_can_save(options.out, data)
    out = options.out
    screen = Screen(survives_broken_pipe=out is not None)
    samples = read_samples(screen, data, options)
    rows, test = split_samples(samples, options.test_fraction)
    layers = _hidden_sizes(hidden)
    model = Textbook(samples, rows, options, layers, activation, loss, epochs, batch_size, lr, momentum, ensemble)
    describe_samples(screen, data, samples, rows, test)
    model.describe(screen)
    warn_of_untested(screen, samples, test, options.test_fraction)
    model.train(screen, test)
    if out is not None:
        model.save(out)
    shown, name = (test, "test") if len(test) else (rows, "training")
    show_score(screen.out, model.preprocessor, samples.y[shown], model.outputs(samples.X[shown]), name)
    if ensemble is not None:
        screen.say(model.of_single_networks(shown, name))
    if out is not None:
        screen.say(f"saved; now try: {shlex.join(['fastbp', 'predict', str(out), data])}")
    if model.interrupted:
        kept = "the model is saved as it is" if out is not None else "not saved, as there was no --out"
        screen.warn(f"stopped by Ctrl-C after {model.epochs} epochs; {kept}")
        raise typer.Exit(130)


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
