"""The network: what defines the function, its parameters, and everything that can be asked of it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from . import arguments, checks, files, losses
from .attributes import Fixed
from .backends import check_backend, kernels_of, make_backend
from .custom import CustomFunction
from .initializers import draw
from .reference.custom import evaluated, twin_of
from .reference.layout import layer_views
from .update import aligned_zeros


class Gradients(NamedTuple):
    """Loss, and d loss / d W and d loss / d b of every layer, with the shapes of `weights` and `biases`."""

    loss: float | None
    weights: list
    biases: list


class Views(Sequence):
    """The arrays of every layer, views into one flat buffer; assigning to one writes into the buffer."""

    def __init__(self, arrays):
        self._arrays = arrays

    def __len__(self):
        """Return the number of layers."""
        return len(self._arrays)

    def __getitem__(self, layer):
        """Return the view of a layer."""
        return self._arrays[layer]

    def __setitem__(self, layer, values):
        """Write into the view of a layer."""
        checks.unmasked(f"values of layer {layer + 1}", values)
        self._arrays[layer][...] = values

    def __repr__(self):
        """Print as the list of arrays."""
        return repr(self._arrays)


class Layer:
    """One layer alone: forward turns A_prev into A, backward turns dA into dA_prev.

    Parameters
    ----------
    W : ndarray (n_in, n_out)
    b : ndarray (n_out,)
        Used as they are, not copied: the layers of a network share its parameters.  C-contiguous, both float32 or both
        float64.
    activation : str or fastbp.Activation
    backend : "numba" or "numpy"

    Attributes
    ----------
    A_prev, Z, A : ndarray or None
        Of the last `forward`.
    dW, db : ndarray or None
        Of the last `backward`, with the shapes of W and b.

    Notes
    -----
    `forward` keeps what it is given and hands out its own A: `backward` is wrong where either was written to since.
    W, b, A_prev, Z and A cannot be replaced: kernels read and write as far as the shapes of the first ones say.
    The scale of a network's inputs is not part of its layers.

    Raises
    ------
    ValueError, TypeError
        Where an argument does not fit.
    """

    W, b = Fixed("write into it, layer.W[:] = values"), Fixed("write into it, layer.b[:] = values")
    A_prev, Z, A = Fixed("call forward"), Fixed("call forward"), Fixed("call forward")

    def __init__(self, W, b, activation="sigmoid", backend="numba"):
        W, b = checks.layer(W, b)
        (self.activation,) = checks.activations(activation, 1)
        checks.widths(W.shape, (self.activation,))
        self.backend = check_backend(backend)
        vars(self).update(W=W, b=b, A_prev=None, Z=None, A=None)
        self.dW = self.db = None

    def forward(self, A_prev):
        """Output A (n_samples, n_out) for the input A_prev (n_samples, n_in); a 1-D A_prev is one sample."""
        A_prev, single = checks.inputs(A_prev, len(self.W), self.W.dtype, "A_prev")
        A_prev = A_prev.astype(self.W.dtype, copy=False)
        Z = self._run("affine_forward", A_prev, self.W, self.b, shape=(len(A_prev), len(self.b)))
        A = self._run(self.activation, Z, shape=Z.shape)
        vars(self).update(A_prev=A_prev, Z=Z, A=A)
        return A[0] if single else A

    def backward(self, dA):
        """Input gradient dA_prev (n_samples, n_in) for the output gradient dA of the last `forward`.

        delta = dA * f'(Z), dW = A_prev.T @ delta, db = column sums of delta, dA_prev = delta @ W.T.
        """
        if self.A is None:
            raise ValueError("backward needs a forward before it: the layer has no input yet")
        single = np.ndim(dA) == 1
        dA = checks.output_gradient(dA, *self.A.shape, self.A.dtype, single)
        if self.activation == "softmax":
            delta = self._run("softmax_backward", self.A, dA, shape=dA.shape)
        else:
            delta = dA * self._run(self.activation, self.Z, self.A, shape=dA.shape, suffix="_derivative")
        self.dW = self._run("weight_gradient", self.A_prev, delta, shape=self.W.shape)
        self.db = self._run("bias_gradient", delta, shape=self.b.shape)
        ones = np.ones_like(self.A_prev)
        dA_prev = self._run("propagate_delta", delta, self.W, ones, shape=self.A_prev.shape)
        return dA_prev[0] if single else dA_prev

    def _run(self, function, *arguments, shape, suffix=""):
        if isinstance(function, CustomFunction):
            kernel = twin_of(function, suffix)
        else:
            kernel = getattr(kernels_of(self.backend), function + suffix)
        return evaluated(kernel, *arguments, shape=shape)

    def __repr__(self):
        """Return shape and activation."""
        n_in, n_out = self.W.shape
        return f"Layer({n_in} -> {n_out}, {self.activation})"


class Network:
    """A feed-forward network: for every layer Z = A_prev @ W + b, A = f(Z).

    Parameters
    ----------
    sizes : sequence of int
        Numbers of inputs, of neurons of each hidden layer, and of outputs.
    activations : str or fastbp.Activation, or a sequence of them
        One for all layers, or one per layer after the input: a name of `fastbp.activations.ACTIVATIONS`, or one's own.
    loss : str, Huber, Quantile, Focal (of `fastbp.losses`) or fastbp.Loss
        A name of `fastbp.losses.LOSSES`, such a loss with a number other than its default, or one's own.  The loss of a
        sample is summed over the outputs.
    init : str, initialiser, or sequence of (W, b)
        How the parameters start: a name of `fastbp.initializers.INITIALIZERS`, an initialiser such as
        ``fastbp.initializers.Uniform(eps=0.5)``, or arrays of one's own, one pair (W, b) per layer.
    reduction : "mean" or "sum"
        Loss of a batch from the losses of its samples.
    dtype : "float32" or "float64"
    seed : None, int, SeedSequence or Generator
        Source of the first parameters; a seed gives both dtypes the same draws.
    backend : "numba" or "numpy"
        Compiled kernels, or the plain NumPy of `fastbp.reference`.
    scale : float
        Factor of the inputs, applied as they are read: A0 = scale * X.  With 1 / 255 images stay uint8 in memory.

    Attributes
    ----------
    parameters : ndarray (n_parameters,)
        Every parameter, [W1, b1, W2, b2, ...], in one aligned buffer.  Write into it, ``net.parameters[:] = p``.
    weights, biases : sequences of ndarray
        Views into `parameters`, (n_in, n_out) and (n_out,) of each layer.
    layers : list of Layer
        Each layer alone, on the same parameters.
    metadata : dict of str
        Texts of one's own, kept by `save`.

    Raises
    ------
    ValueError, TypeError
        From every method, before anything is changed, where an argument does not fit.
    """

    def __init__(
        self,
        sizes,
        activations="sigmoid",
        loss="squared_error",
        init="glorot_uniform",
        reduction="mean",
        dtype="float32",
        seed=None,
        backend="numba",
        scale=1.0,
    ):
        sizes = checks.sizes(sizes)
        activations = checks.activations(activations, len(sizes) - 1)
        loss = checks.loss(loss, activations[-1])
        reduction = arguments.name("reduction", reduction, ("mean", "sum"))
        dtype = checks.dtype(dtype)
        check_backend(backend)
        scale = checks.scale(scale, dtype)
        self._build(sizes, activations, loss, reduction, dtype, scale, backend)
        for layer, (W, b) in enumerate(draw(init, sizes, seed, dtype)):
            self.weights[layer], self.biases[layer] = W, b

    def _build(self, sizes, activations, loss, reduction, dtype, scale, backend):
        checks.widths(sizes, activations, loss)
        for item in (*activations, loss):
            if isinstance(item, CustomFunction):
                item.compile(dtype)
        self._config = sizes, activations, loss, reduction, dtype, scale
        self._backend_name = backend
        self._backend = make_backend(backend, *self._config)
        self._parameters = aligned_zeros(sum((n_in + 1) * n_out for n_in, n_out in self.shapes), dtype)
        self._weights, self._biases = map(Views, layer_views(self._parameters, sizes))
        self.metadata = {}

    # -------------------------------------------------------------- what it is made of

    @property
    def sizes(self):
        """Numbers of inputs, neurons and outputs, a tuple."""
        return self._config[0]

    @property
    def activations(self):
        """Activation of each layer, a tuple of names (and of `fastbp.Activation` for those of one's own)."""
        return self._config[1]

    @property
    def loss_name(self):
        """Name of the loss (`loss` is the method that computes it)."""
        return losses.name_of(self._config[2])

    @property
    def loss_settings(self):
        """Numbers of the loss by name, such as {"threshold": 1.0}; most have none."""
        return losses.settings_of(self._config[2])

    @property
    def reduction(self):
        """Reduction over samples, "mean" or "sum"."""
        return self._config[3]

    @property
    def dtype(self):
        """Type of the parameters and of all arithmetic."""
        return self._config[4]

    @property
    def scale(self):
        """Factor of the inputs, a float."""
        return self._config[5]

    @property
    def backend(self):
        """Name of the backend, "numba" or "numpy"."""
        return self._backend_name

    @property
    def shapes(self):
        """Shape (n_in, n_out) of W of each layer, a list."""
        return list(zip(self.sizes[:-1], self.sizes[1:], strict=True))

    @property
    def parameters(self):
        """Every parameter, a flat array."""
        return self._parameters

    @parameters.setter
    def parameters(self, value):
        if value is not self._parameters:  # `net.parameters -= step` has already written in place
            raise AttributeError("parameters cannot be replaced; write into them: net.parameters[:] = values")

    @property
    def weights(self):
        """W of each layer, views into `parameters`."""
        return self._weights

    @property
    def biases(self):
        """The bias b of each layer, views into `parameters`."""
        return self._biases

    @property
    def layers(self):
        """Each layer alone, on the parameters of the network; made anew by each network once."""
        if "_layers" not in self.__dict__:
            rows = zip(self.weights, self.biases, self.activations, strict=True)
            self._layers = [Layer(W, b, activation, self.backend) for W, b, activation in rows]
        return self._layers

    # -------------------------------------------------------------- what can be asked of it

    def predict(self, X):
        """Output activations.

        Parameters
        ----------
        X : array_like (n_samples, n_in) or (n_in,)

        Returns
        -------
        ndarray (n_samples, n_out), or (n_out,) for a 1-D X, which is one sample
        """
        X, single = checks.inputs(X, self.sizes[0], self.dtype, is_trusted=True)  # the backend looks
        A = self._backend.predict(self._parameters, X)
        return A[0] if single else A

    def loss(self, X, Y):
        """Loss of the samples, by `reduction`, a float.

        Parameters
        ----------
        X : array_like (n_samples, n_in)
        Y : array_like (n_samples, n_out); with cross_entropy also class labels (n_samples,)
        """
        X, Y, _ = self._data(X, Y)
        return self._reduced(self._backend.losses(self._parameters, X, Y))

    def gradients(self, X, Y):
        """Loss and its gradients with respect to the weights and biases, as `Gradients`."""
        X, Y, _ = self._data(X, Y)
        values, gradient = self._backend.gradient(self._parameters, X, Y)
        return Gradients(self._reduced(values), *layer_views(gradient, self.sizes))

    def input_gradient(self, X, Y):
        """Gradient of the loss with respect to X, of the shape of X."""
        X, Y, single = self._data(X, Y)
        dX = self._backend.input_gradient(self._parameters, X, Y)
        return dX[0] if single else dX

    def activations_of(self, X):
        """Activations of every layer: [A0 = scale * X, A1, ..., AL]."""
        X, single = self._inputs(X)
        A = self._backend.record(self._parameters, X).A
        return [a[0] for a in A] if single else list(A)

    def backpropagate(self, X, dA):
        """Gradients for an output gradient of one's own.

        Parameters
        ----------
        X : array_like (n_samples, n_in)
        dA : array_like (n_samples, n_out)
            d loss / d output activations, used as it is: no division by the number of samples.

        Returns
        -------
        Gradients
            Its loss is None.
        """
        X, single = self._inputs(X)
        dA = checks.output_gradient(dA, len(X), self.sizes[-1], self.dtype, single)
        gradient = self._backend.gradient_from(self._parameters, X, dA)
        return Gradients(None, *layer_views(gradient, self.sizes))

    def trace(self, X, Y):
        """Every Z, A, delta, dW and db of one backpropagation, layer by layer; prints as a table.

        Returns
        -------
        fastbp.trace.Trace
        """
        from .trace import trace

        return trace(self, *self._data(X, Y)[:2])

    def verify(self, X, Y):
        """Compare Numba with NumPy and with central differences; prints as a table, and `.ok` sums it up.

        Each quantity agrees, is WRONG, or is not checkable here, where rounding or kinks would hide a fault.  `.ok` is
        True where nothing is wrong and some gradient was checked.

        Returns
        -------
        fastbp.verify.Report
        """
        from .verify import verify

        return verify(self, *self._data(X, Y)[:2])

    def _inputs(self, X):
        return checks.inputs(X, self.sizes[0], self.dtype)

    def _data(self, X, Y):
        X, single = self._inputs(X)
        return X, checks.targets(Y, len(X), self.sizes[-1], self.loss_name, self.dtype, single), single

    def _reduced(self, losses):
        with np.errstate(over="ignore"):
            return float(losses.mean() if self.reduction == "mean" else losses.sum())

    # -------------------------------------------------------------- copies and files

    def copy(self):
        """Return an independent network with the same parameters."""
        return self.with_backend(self.backend)

    def with_backend(self, backend):
        """Return an independent network with the same parameters on the backend "numba" or "numpy"."""
        check_backend(backend)
        return type(self)._restore(self._config, backend, self._parameters, self.metadata)

    def save(self, path, metadata=None):
        """Save to one file, at once or not at all: it is written beside `path`, then renamed.

        Parameters
        ----------
        path : str or Path
            ``.safetensors`` writes that format (needs the extra ``fastbp[files]``), all else writes NumPy's npz.
        metadata : dict of str, optional
            Texts to keep in the file, besides those in ``net.metadata``.

        Warns
        -----
        RuntimeWarning
            Where parameters are NaN or infinite.
        """
        kept = checks.metadata(self.metadata)
        files.save(self, path, {**kept, **({} if metadata is None else checks.metadata(metadata))})

    @classmethod
    def _restore(cls, config, backend, parameters, metadata):
        net = cls.__new__(cls)
        net._build(*config, backend)
        net._parameters[:] = parameters
        net.metadata.update(metadata)
        return net

    def __reduce__(self):
        """Pickle as configuration and numbers; the backend is made anew."""
        return type(self)._restore, (self._config, self.backend, np.array(self._parameters), dict(self.metadata))

    # -------------------------------------------------------------- how it prints

    def __repr__(self):
        """Return the call that makes such a network."""
        return (
            f"Network({list(self.sizes)}, activations={list(self.activations)}, loss={self._config[2]!r}, "
            f"reduction={self.reduction!r}, dtype={self.dtype.name!r}, backend={self.backend!r}"
            + (f", scale={self.scale!r})" if self.scale != 1 else ")")
        )

    def summary(self):
        """Table of the layers, shapes, parameters and memory, a str."""
        rows = [("layer", "shape of W", "activation", "parameters", "memory")]
        for layer, (W, b, activation) in enumerate(zip(self.weights, self.biases, self.activations, strict=True), 1):
            shape, count = f"{W.shape[0]} x {W.shape[1]}", W.size + b.size
            rows.append((str(layer), shape, str(activation), f"{count:,}", _bytes(W.nbytes + b.nbytes)))
        rows.append(("total", "", "", f"{self.parameters.size:,}", _bytes(self.parameters.nbytes)))
        lines = [f"{a:<6} {b:>14}  {c:<12} {d:>12} {e:>10}" for a, b, c, d, e in rows]
        lines.insert(1, "-" * len(lines[0]))
        lines.append(f"loss {self._config[2]} ({self.reduction}), {self.dtype.name}, {self.backend} backend")
        return "\n".join(lines)


def load(path, backend="numba"):
    """Load a network that `Network.save` wrote.

    Parameters
    ----------
    path : str or Path
    backend : "numba" or "numpy"

    Returns
    -------
    Network

    Raises
    ------
    OSError
        Where the file cannot be read; FileNotFoundError where there is none.
    ValueError
        Where the file is damaged or is not such a file.
    ImportError
        For a safetensors file, where the extra ``fastbp[files]`` is not installed.

    Warns
    -----
    RuntimeWarning
        Where parameters are NaN or infinite.
    """
    check_backend(backend)
    config, parameters, metadata = files.read(path)
    net = Network._restore(config, backend, parameters, metadata)
    files.warn_if_nonfinite(net, path)
    return net


def _bytes(n):
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} GB"
