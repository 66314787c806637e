"""Write files of version 0.1, which every later version reads: run it with that version alone.

In that version `input_scale` is called `scale`.
"""

from pathlib import Path

import numpy as np

import fastbp
from fastbp.callbacks import Checkpoint, EarlyStopping, ReduceLROnPlateau

FOLDER = Path(__file__).parent
X = np.sin(np.arange(360.0) ** 1.5).reshape(60, 6)
Y = (X[:, :3] + 0.3 * X[:, 3:]).argmax(axis=1)


def model():
    """Return a network with nothing at its default, of which two kinds of files are written."""
    net = fastbp.Network(
        [3, 5, 2],
        ["relu", "sigmoid"],
        fastbp.losses.Focal(gamma=1.5),
        reduction="sum",
        dtype="float64",
        backend="numpy",
        input_scale=0.25,
    )
    net.parameters[:] = np.sin(np.arange(net.parameters.size))
    net.metadata["classes"] = "ja,nein"
    return net


def trainer(backend="numpy"):
    """Return a trainer with momentum and dropout."""
    net = fastbp.Network([6, 8, 3], ["tanh", "softmax"], "cross_entropy", dtype="float64", backend=backend)
    net.parameters[:] = np.sin(np.arange(net.parameters.size)) / 2
    return fastbp.Trainer(net, fastbp.SGD(lr=0.1, momentum=0.9), batch_size=16, seed=3, dropout=0.2)


def fit(trainer, epochs, *more):
    """Train with a validation loss, tol and callbacks that count."""
    callbacks = [EarlyStopping(patience=9), ReduceLROnPlateau("loss", patience=1, min_delta=0.1), *more]
    trainer.fit(
        X[:40], Y[:40], epochs, validation_data=(X[40:], Y[40:]), metrics=["accuracy"], tol=0.01, callbacks=callbacks
    )


if __name__ == "__main__":
    model().save(FOLDER / "version_0_1.npz")
    model().save(FOLDER / "version_0_1.safetensors")
    run = trainer()
    fit(run, 4, Checkpoint(FOLDER / "version_0_1.ckpt"))
    for epoch in (2, 3):
        (FOLDER / f"version_0_1-{epoch}.ckpt").unlink()
    whole = trainer()
    fit(whole, 9)
    np.savez(
        FOLDER / "version_0_1_end.npz",
        parameters=whole.net.parameters,
        lr_scale=whole.lr_scale,
        loss=whole.history["loss"],
        validation_loss=whole.history["validation_loss"],
    )
    print(whole.history, whole.lr_scale)
