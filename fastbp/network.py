"""The network: what defines the function, its parameters, and everything that can be asked of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from . import arguments, checks, files, losses
from .activations import Activation
from .attributes import Fixed
from .backends import Config, check_backend, kernels_of, make_backend
from .custom import CustomFunction
from .initializers import Init, draw
from .losses import Loss, Parameterized
from .reference.custom import evaluated, twin_of
from .reference.layout import layer_views
from .update import aligned_zeros

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from .trace import Trace
    from .verify import Report


class Gradients(NamedTuple):
    """Loss, and d loss / d W and d loss / d b of every layer, with the shapes of `weights` and `biases`."""

    loss: float | None
    weights: list[np.ndarray]
    biases: list[np.ndarray]


class Views(Sequence[np.ndarray]):
    """The arrays of every layer, views into one flat buffer; assigning to one writes into the buffer."""

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self._arrays = arrays

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self._arrays)

    @overload
    def __getitem__(self, layer: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, layer: slice) -> list[np.ndarray]: ...

    def __getitem__(self, layer: int | slice) -> np.ndarray | list[np.ndarray]:
        """Return the view of a layer."""
        return self._arrays[layer]

    def __setitem__(self, layer: int, values: ArrayLike) -> None:
        """Write into the view of a layer."""
        checks.unmasked(f"values of layer {layer + 1}", values)
        self._arrays[layer][...] = values

    def __repr__(self) -> str:
        """Return the representation of the list of arrays."""
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
    `forward` keeps its input and returns A without a copy: `backward` is wrong if either was written to since.
    W, b, A_prev, Z and A cannot be replaced, because kernels rely on the shapes of the first ones.
    The `input_scale` of a network is not part of its layers.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit.
    """

    W: np.ndarray = Fixed("write into it, layer.W[:] = values")  # type: ignore[assignment]
    b: np.ndarray = Fixed("write into it, layer.b[:] = values")  # type: ignore[assignment]
    A_prev: np.ndarray | None = Fixed("call forward")  # type: ignore[assignment]
    Z: np.ndarray | None = Fixed("call forward")  # type: ignore[assignment]
    A: np.ndarray | None = Fixed("call forward")  # type: ignore[assignment]
    dW: np.ndarray | None
    db: np.ndarray | None

    def __init__(
        self, W: np.ndarray, b: np.ndarray, activation: str | Activation = "sigmoid", backend: str = "numba"
    ) -> None:
        W, b = checks.layer(W, b)
        (self.activation,) = checks.activations(activation, 1)
        checks.widths(W.shape, (self.activation,))
        self.backend = check_backend(backend)
        vars(self).update(W=W, b=b, A_prev=None, Z=None, A=None)
        self.dW = self.db = None

    def forward(self, A_prev: ArrayLike) -> np.ndarray:
        """Output A (n_samples, n_out) for the input A_prev (n_samples, n_in); a 1-D A_prev is one sample."""
        A_prev, single = checks.inputs(A_prev, len(self.W), self.W.dtype, "A_prev")
        A_prev = A_prev.astype(self.W.dtype, copy=False)
        Z = self._run("affine_forward", A_prev, self.W, self.b, shape=(len(A_prev), len(self.b)))
        A = self._run(self.activation, Z, shape=Z.shape)
        vars(self).update(A_prev=A_prev, Z=Z, A=A)
        return A[0] if single else A

    def backward(self, dA: ArrayLike) -> np.ndarray:
        """Input gradient dA_prev (n_samples, n_in) for the output gradient dA of the last `forward`.

        delta = dA * f'(Z), dW = A_prev.T @ delta, db = column sums of delta, dA_prev = delta @ W.T.
        """
        if self.A is None:
            raise ValueError("backward needs a forward before it: the layer has no input yet")
        assert self.Z is not None and self.A_prev is not None
        single = np.ndim(dA) == 1
        dA = checks.output_gradient(dA, len(self.A), len(self.b), self.A.dtype, single)
        if self.activation == "softmax":
            delta = self._run("softmax_backward", self.A, dA, shape=dA.shape)
        else:
            delta = dA * self._run(self.activation, self.Z, self.A, shape=dA.shape, suffix="_derivative")
        self.dW = self._run("weight_gradient", self.A_prev, delta, shape=self.W.shape)
        self.db = self._run("bias_gradient", delta, shape=self.b.shape)
        ones = np.ones_like(self.A_prev)
        dA_prev = self._run("propagate_delta", delta, self.W, ones, shape=self.A_prev.shape)
        return dA_prev[0] if single else dA_prev

    def _run(self, function: Any, *arguments: np.ndarray, shape: tuple[int, ...], suffix: str = "") -> np.ndarray:
        if isinstance(function, CustomFunction):
            kernel = twin_of(function, suffix)
        else:
            kernel = getattr(kernels_of(self.backend), function + suffix)
        return evaluated(kernel, *arguments, shape=shape)

    def __repr__(self) -> str:
        """Return shape and activation."""
        n_in, n_out = self.W.shape
        return f"Layer({n_in} -> {n_out}, {self.activation})"


@arguments.renamed(scale="input_scale")
class Network:
    """A feed-forward network: for every layer Z = A_prev @ W + b, A = f(Z).

    Parameters
    ----------
    sizes : sequence of int
        Numbers of inputs, of neurons of each hidden layer, and of outputs.
    activations : str or fastbp.Activation, or a sequence of them
        One for all layers, or one per layer after the input: a name of `fastbp.activations.ACTIVATIONS`, or a custom
        one.
    loss : str, Huber, Quantile, Focal (of `fastbp.losses`) or fastbp.Loss
        A name of `fastbp.losses.LOSSES`, a loss with another parameter than its default, or a custom one.  The loss of
        a sample is summed over the outputs.
    init : str, initializer, or sequence of str, initializers or (W, b)
        How the parameters start: a name of `fastbp.initializers.INITIALIZERS` or an initializer such as
        ``fastbp.initializers.Uniform(eps=0.5)`` for all layers; or a list of one item per layer, each of these or a
        pair of arrays (W, b): with ``init=["he_normal", "he_normal", "zeros"]`` the first outputs are f(0).
    reduction : "mean" or "sum"
        Loss of a batch from the losses of its samples.
    dtype : "float32" or "float64"
    seed : None, int, SeedSequence or Generator
        Source of the first parameters; a seed gives the same draws for both dtypes.
    backend : "numba" or "numpy"
        Compiled kernels, or the plain NumPy of `fastbp.reference`.
    input_scale : float
        Factor of the inputs, applied when they are read: A0 = input_scale * X.  With 1 / 255 images stay uint8.

    Attributes
    ----------
    parameters : ndarray (n_parameters,)
        Every parameter, [W1, b1, W2, b2, ...], in one aligned buffer.  Write into it, ``net.parameters[:] = p``.
    weights, biases : sequences of ndarray
        Views into `parameters`, (n_in, n_out) and (n_out,) of each layer.
    layers : list of Layer
        Each layer alone, on the same parameters.
    metadata : dict of str
        Any texts; `save` keeps them.

    Raises
    ------
    ValueError, TypeError
        From every method, before anything is changed, if an argument does not fit.
    """

    metadata: dict[str, str]

    def __init__(
        self,
        sizes: Sequence[int],
        activations: str | Activation | Sequence[str | Activation] = "sigmoid",
        loss: str | Parameterized | Loss = "squared_error",
        init: Init = "glorot_uniform",
        reduction: str = "mean",
        dtype: DTypeLike = "float32",
        seed: arguments.Seed = None,
        backend: str = "numba",
        input_scale: float = 1.0,
    ) -> None:
        config = checks.config(Config(sizes, activations, loss, reduction, dtype, input_scale))  # type: ignore[arg-type]
        self._build(config, check_backend(backend))
        for layer, (W, b) in enumerate(draw(init, config.sizes, seed, config.dtype)):
            self.weights[layer], self.biases[layer] = W, b

    def _build(self, config: Config, backend: str) -> None:
        checks.widths(config.sizes, config.activations, config.loss)
        for item in (*config.activations, config.loss):
            if isinstance(item, CustomFunction):
                item.compile(config.dtype)
        self._config, self._backend_name = config, backend
        self._backend = make_backend(backend, config)
        self._parameters = aligned_zeros(sum((n_in + 1) * n_out for n_in, n_out in self.shapes), config.dtype)
        self._weights, self._biases = map(Views, layer_views(self._parameters, config.sizes))
        self.metadata = {}

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of inputs, neurons and outputs, a tuple."""
        return self._config.sizes

    @property
    def activations(self) -> tuple[str | Activation, ...]:
        """Activation of each layer, a tuple of names and custom `fastbp.Activation`."""
        return self._config.activations

    @property
    def loss_name(self) -> str:
        """Name of the loss (`loss` is the method that computes it)."""
        return losses.name_of(self._config.loss)

    @property
    def loss_settings(self) -> dict[str, float]:
        """Parameters of the loss by name, such as {"threshold": 1.0}; most have none."""
        return losses.settings_of(self._config.loss)

    @property
    def reduction(self) -> str:
        """Reduction over samples, "mean" or "sum"."""
        return self._config.reduction

    @property
    def dtype(self) -> np.dtype:
        """Type of the parameters and of all arithmetic."""
        return self._config.dtype

    @property
    def input_scale(self) -> float:
        """Factor of the inputs."""
        return self._config.input_scale

    @property
    def backend(self) -> str:
        """Name of the backend, "numba" or "numpy"."""
        return self._backend_name

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Shape (n_in, n_out) of W of each layer, a list."""
        return list(zip(self.sizes[:-1], self.sizes[1:], strict=True))

    @property
    def parameters(self) -> np.ndarray:
        """Every parameter, a flat array."""
        return self._parameters

    @parameters.setter
    def parameters(self, value: np.ndarray) -> None:
        if value is not self._parameters:  # `net.parameters -= step` has already written in place
            raise AttributeError("parameters cannot be replaced; write into them: net.parameters[:] = values")

    @property
    def weights(self) -> Views:
        """W of each layer, views into `parameters`."""
        return self._weights

    @property
    def biases(self) -> Views:
        """The bias b of each layer, views into `parameters`."""
        return self._biases

    @property
    def layers(self) -> list[Layer]:
        """Each layer alone, on the parameters of the network."""
        if "_layers" not in self.__dict__:
            rows = zip(self.weights, self.biases, self.activations, strict=True)
            self._layers = [Layer(W, b, activation, self.backend) for W, b, activation in rows]
        return self._layers

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Output activations.

        Parameters
        ----------
        X : array_like (n_samples, n_in) or (n_in,)

        Returns
        -------
        ndarray (n_samples, n_out), or (n_out,) for a 1-D X, which is one sample
        """
        A = self._backend.predict_array(self._parameters, X)
        if A is not None:
            return A
        config = self._config
        X, single = checks.inputs(X, config.sizes[0], config.dtype, is_trusted=True)  # the backend checks
        A = self._backend.predict(self._parameters, X)
        return A[0] if single else A

    def loss(self, X: ArrayLike, Y: ArrayLike) -> float:
        """Loss of the samples, reduced as `reduction` says.

        Parameters
        ----------
        X : array_like (n_samples, n_in)
        Y : array_like (n_samples, n_out); with cross_entropy also class labels (n_samples,)
        """
        values = self._backend.losses_of_arrays(self._parameters, X, Y)
        if values is None:
            X, Y, _ = self._data(X, Y)
            values = self._backend.losses(self._parameters, X, Y)
        return self._reduced(values)

    def gradients(self, X: ArrayLike, Y: ArrayLike) -> Gradients:
        """Loss and its gradients with respect to the weights and biases, as `Gradients`."""
        result = self._backend.gradient_of_arrays(self._parameters, X, Y)
        if result is None:
            X, Y, _ = self._data(X, Y)
            result = self._backend.gradient(self._parameters, X, Y)
        values, gradient = result
        return Gradients(self._reduced(values), *layer_views(gradient, self.sizes))

    def input_gradient(self, X: ArrayLike, Y: ArrayLike) -> np.ndarray:
        """Gradient of the loss with respect to X, of the shape of X."""
        X, Y, single = self._data(X, Y)
        dX = self._backend.input_gradient(self._parameters, X, Y)
        return dX[0] if single else dX

    def activations_of(self, X: ArrayLike) -> list[np.ndarray]:
        """Activations of every layer: [A0 = input_scale * X, A1, ..., AL]."""
        X, single = self._inputs(X)
        A = self._backend.record(self._parameters, X).A
        return [a[0] for a in A] if single else list(A)

    def backpropagate(self, X: ArrayLike, dA: ArrayLike) -> Gradients:
        """Gradients for a given output gradient.

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

    def trace(self, X: ArrayLike, Y: ArrayLike) -> Trace:
        """Every Z, A, delta, dW and db of one backpropagation, layer by layer; prints as a table.

        Returns
        -------
        fastbp.trace.Trace
        """
        from .trace import trace

        return trace(self, *self._data(X, Y)[:2])

    def verify(self, X: ArrayLike, Y: ArrayLike) -> Report:
        """Compare Numba with NumPy and with central differences; prints as a table, and `.ok` sums it up.

        Each quantity agrees, is WRONG, or is not checkable here, because rounding or kinks would hide a fault.  `.ok`
        is True if nothing is wrong and some gradient was checked.

        Returns
        -------
        fastbp.verify.Report
        """
        from .verify import verify

        return verify(self, *self._data(X, Y)[:2])

    def _inputs(self, X: ArrayLike) -> tuple[np.ndarray, bool]:
        return checks.inputs(X, self.sizes[0], self.dtype)

    def _data(self, X: ArrayLike, Y: ArrayLike) -> tuple[np.ndarray, np.ndarray, bool]:
        sizes, dtype = self._config.sizes, self._config.dtype
        X, single = checks.inputs(X, sizes[0], dtype)
        return X, checks.targets(Y, len(X), sizes[-1], self.loss_name, dtype, single), single

    def _reduced(self, losses: np.ndarray) -> float:
        n = len(losses)
        if n == 1:
            return losses.item()
        with np.errstate(over="ignore"):
            return float(losses.sum()) / (n if self.reduction == "mean" else 1)  # as losses.mean(), which takes longer

    def copy(self) -> Network:
        """Return an independent network with the same parameters."""
        return self.with_backend(self.backend)

    def with_backend(self, backend: str) -> Network:
        """Return an independent network with the same parameters on the backend "numba" or "numpy"."""
        check_backend(backend)
        return type(self)._restore(self._config, backend, self._parameters, self.metadata)

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
        """Save to one file, completely or not at all: it is written beside `path`, then renamed.

        Parameters
        ----------
        path : str or Path
            ``.safetensors`` writes that format (needs the extra ``fastbp[files]``), any other suffix NumPy's npz.
        metadata : dict of str, optional
            Texts to save besides those in ``net.metadata``.

        Warns
        -----
        RuntimeWarning
            If parameters are NaN or infinite.
        """
        kept = checks.metadata(self.metadata)
        files.save(self, path, {**kept, **({} if metadata is None else checks.metadata(metadata))})

    @classmethod
    def _restore(
        cls, config: Sequence[Any], backend: str, parameters: np.ndarray, metadata: Mapping[str, str]
    ) -> Network:
        net = cls.__new__(cls)
        net._build(Config(*config), backend)
        net._parameters[:] = parameters
        net.metadata.update(metadata)
        return net

    def __reduce__(self) -> tuple[Callable[..., Network], tuple[Any, ...]]:
        """Pickle as configuration and parameters; the backend is built again."""
        state = tuple(self._config), self.backend, np.array(self._parameters), dict(self.metadata)
        return type(self)._restore, state

    def __repr__(self) -> str:
        """Return the call that makes such a network."""
        return (
            f"Network({list(self.sizes)}, activations={list(self.activations)}, loss={self._config.loss!r}, "
            f"reduction={self.reduction!r}, dtype={self.dtype.name!r}, backend={self.backend!r}"
            + (f", input_scale={self.input_scale!r})" if self.input_scale != 1 else ")")
        )

    def summary(self) -> str:
        """Table of the layers, shapes, parameters and memory."""
        rows = [("layer", "shape of W", "activation", "parameters", "memory")]
        for layer, (W, b, activation) in enumerate(zip(self.weights, self.biases, self.activations, strict=True), 1):
            shape, count = f"{W.shape[0]} x {W.shape[1]}", W.size + b.size
            rows.append((str(layer), shape, str(activation), f"{count:,}", _bytes(W.nbytes + b.nbytes)))
        rows.append(("total", "", "", f"{self.parameters.size:,}", _bytes(self.parameters.nbytes)))
        lines = [f"{a:<6} {b:>14}  {c:<12} {d:>12} {e:>10}" for a, b, c, d, e in rows]
        lines.insert(1, "-" * len(lines[0]))
        lines.append(f"loss {self._config.loss} ({self.reduction}), {self.dtype.name}, {self.backend} backend")
        return "\n".join(lines)


def load(path: str | os.PathLike[str], backend: str = "numba") -> Network:
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
        If the file cannot be read; FileNotFoundError if there is none.
    ValueError
        If the file is damaged or is not such a file.
    ImportError
        For a safetensors file, if the extra ``fastbp[files]`` is not installed.

    Warns
    -----
    RuntimeWarning
        If parameters are NaN or infinite.
    """
    check_backend(backend)
    config, parameters, metadata = files.read(path)
    net = Network._restore(config, backend, parameters, metadata)
    files.warn_if_nonfinite(net, path)
    return net


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} GB"
