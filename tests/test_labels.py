"""Class labels that are no class, because they changed after they were checked: nothing but the loss may tell."""

import warnings

import numpy as np
import pytest

import fastbp
from fastbp import kernels, reference

N_OUT = 3
NO_CLASSES = [-1, N_OUT, 10**9, -(10**9), 2**63 - 1, -(2**63)]
each_no_class = pytest.mark.parametrize("label", NO_CLASSES)
each_twin = pytest.mark.parametrize("twin", [kernels, reference], ids=["kernels", "reference"])
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def data(n=24):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 4)), rng.integers(0, N_OUT, n)


def network(backend, output="softmax", hidden=5, dtype="float32"):
    return fastbp.Network([4, hidden, N_OUT], ["tanh", output], "cross_entropy", seed=0, backend=backend, dtype=dtype)


class Rewrite(fastbp.callbacks.Callback):
    """Write into the labels after an epoch."""

    def __init__(self, Y, rows, label, epoch=2):
        self.Y, self.rows, self.label, self.epoch = Y, rows, label, epoch

    def on_epoch_end(self, trainer, history):
        if len(history) == self.epoch:
            self.Y[self.rows] = self.label


# ------------------------------------------------------------------ training


@each_no_class
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    "output, hidden, batch_size",
    [("softmax", 5, 1), ("softmax", 5, 7), ("softmax", 200, 24), ("sigmoid", 5, 1), ("sigmoid", 5, None)],
)
def test_training_stops_where_a_callback_rewrites_the_labels(
    no_thread_limits, backend, output, hidden, batch_size, smoothing, label
):
    X, Y = data()
    kept, net = Y.copy(), network(backend, output, hidden)
    trainer = fastbp.Trainer(
        net, fastbp.SGD(0.1), batch_size, seed=0, shuffle=False, threads=2, label_smoothing=smoothing
    )
    with pytest.warns(RuntimeWarning, match=r"in epoch 3 \(batch 1.* a label that is no class.*; Y was changed"):
        history = trainer.fit(X, Y, epochs=5, callbacks=[Rewrite(Y, slice(None), label)])
    assert history.nonfinite and len(history) == 2 and np.isfinite(history.loss).all()
    twin = network(backend, output, hidden)  # parameters are those before
    fastbp.Trainer(twin, fastbp.SGD(0.1), batch_size, seed=0, shuffle=False, label_smoothing=smoothing).fit(
        X, kept, epochs=2
    )
    np.testing.assert_array_equal(net.parameters, twin.parameters)


@each_no_class
def test_steps_with_such_labels_are_left_out_where_that_is_asked_for(backend, label):
    X, Y = data()
    net = network(backend)
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1), 6, seed=0, shuffle=False, on_nonfinite="skip")
    history = trainer.fit(X, Y, epochs=3, callbacks=[Rewrite(Y, 7, label, epoch=1)])
    assert history.skipped == 2 and np.isfinite(history.loss).all() and np.isfinite(net.parameters).all()


@each_no_class
def test_validation_labels_that_are_rewritten(backend, label):
    X, Y = data()
    X_valid, Y_valid = data(9)
    history = fastbp.Trainer(network(backend), fastbp.SGD(0.1), 6, seed=0).fit(
        X, Y, epochs=3, validation_data=(X_valid, Y_valid), callbacks=[Rewrite(Y_valid, 4, label, epoch=1)]
    )
    assert np.isnan(history.validation_loss).tolist() == [False, True, True] and np.isfinite(history.loss).all()
    Y_valid[4] = 0
    with pytest.raises(ValueError, match="label that is no class"):
        fastbp.Trainer(network(backend), fastbp.SGD(0.1), 6, seed=0).fit(
            X,
            Y,
            epochs=3,
            validation_data=(X_valid, Y_valid),
            metrics=["accuracy"],
            callbacks=[Rewrite(Y_valid, 4, label, epoch=1)],
        )


@each_no_class
def test_a_mapped_file_that_is_rewritten_during_a_stream(tmp_path, backend, label):
    X, Y = data(600)
    np.save(tmp_path / "X.npy", X.astype(np.float32))
    np.save(tmp_path / "Y.npy", Y)
    mapped = np.load(tmp_path / "Y.npy", mmap_mode="r+")

    class RewriteSoon(fastbp.callbacks.Callback):  # after the labels were checked, before they are read
        def on_batch_end(self, trainer, history, step, loss):
            if step == 65:
                mapped[:] = label

    for callback, expected in (
        (RewriteSoon(), pytest.warns(RuntimeWarning, match="epoch 2 .*label that is no class")),
        (Rewrite(mapped, 5, label), pytest.raises(ValueError, match="holds the label")),
    ):
        mapped[:] = Y
        net = network(backend)
        with expected:
            fastbp.Trainer(net, fastbp.SGD(0.1), 10, seed=0).fit(
                fastbp.stream(tmp_path / "X.npy", tmp_path / "Y.npy"), epochs=5, callbacks=[callback]
            )
        assert np.isfinite(net.parameters).all()


def test_rows_of_targets_that_are_rewritten(backend):
    """NaN in rows of targets is seen by the first loss too, whatever the logits."""
    X, Y = data()
    rows, net = np.eye(N_OUT, dtype=np.float32)[Y], network(backend)
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1), 6, seed=0, shuffle=False)
    with pytest.warns(RuntimeWarning, match=r"non-finite in epoch 3 \(batch 2.* the loss, of finite outputs"):
        trainer.fit(X, rows, epochs=5, callbacks=[Rewrite(rows, 9, np.nan)])
    assert np.isfinite(net.parameters).all()


# ------------------------------------------------------------------ one pass, and the kernels


@each_no_class
@each_dtype
@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_losses_and_gradients(backend, output, dtype, label):
    X, Y = data()
    net = network(backend, output, dtype=dtype)
    X = X.astype(dtype)
    expected = net._backend.losses(net.parameters, X, Y)
    Y[[3, 20]] = label
    for losses in (
        net._backend.losses(net.parameters, X, Y),
        net._backend.outputs_and_losses(net.parameters, X, Y)[1],
        net._backend.record(net.parameters, X, Y).losses,
    ):
        assert np.flatnonzero(np.isnan(losses)).tolist() == [3, 20]
        np.testing.assert_array_equal(np.delete(losses, [3, 20]), np.delete(expected, [3, 20]))
    assert np.isnan(net._backend.gradient(net.parameters, X, Y)[1]).any()
    dX = net._backend.input_gradient(net.parameters, X, Y)
    assert np.flatnonzero(np.isnan(dX).any(axis=1)).tolist() == [3, 20]


@each_no_class
@each_dtype
@each_twin
@pytest.mark.parametrize("name", ["cross_entropy", "cross_entropy_derivative", "cross_entropy_logits"])
def test_the_kernels_give_nan(twin, name, dtype, label):
    rng = np.random.default_rng(0)
    A, Y = rng.uniform(0.1, 0.9, (5, N_OUT)).astype(dtype), rng.integers(0, N_OUT, 5)
    whole, out = (np.zeros((5, N_OUT) if name.endswith("derivative") else 5, dtype) for _ in range(2))
    getattr(twin, name)(A, Y, whole)
    Y[2] = label
    getattr(twin, name)(A, Y, out)
    assert np.isnan(out[2]).all()
    np.testing.assert_array_equal(np.delete(out, 2, 0), np.delete(whole, 2, 0))


@each_no_class
@each_twin
@pytest.mark.parametrize("name", ["class_counts", "top_counts"])
def test_counts_refuse_them(twin, name, label):
    A, Y = np.eye(N_OUT), np.array([0, 1, label])
    memory = np.full(2000, 7)  # counts of another's on both sides
    counts = memory[1000 : 1000 + 3 * N_OUT].reshape(3, N_OUT)
    arguments = (counts,) if name == "class_counts" else (2, counts[0, :1])
    with pytest.raises(ValueError, match="Y holds a label that is no class"):
        getattr(twin, name)(A, Y, *arguments)
    assert (memory[:1000] == 7).all() and (memory[1000 + 3 * N_OUT :] == 7).all()


def test_nothing_is_said_of_the_arithmetic(backend):
    X, Y = data()
    Y[0] = 10**9
    net = network(backend)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(net._backend.losses(net.parameters, X.astype(np.float32), Y)[0])
