"""PyTorch and JAX behind the calls of a `fastbp.jit` model, so that the loops of the examples run with them unchanged.

Compiled functions cannot call them: the loops run as plain Python then, as they would have to be written with either.
"""

import time
from itertools import pairwise

import numpy as np


def layers_of(net, functions):
    """Return of each layer the place of W in the flat parameters, its sizes, and the function of its activation."""
    layers, at = [], 0
    for (n_in, n_out), activation in zip(pairwise(net.sizes), net.activations, strict=True):
        layers.append((at, n_in, n_out, functions[str(activation)]))
        at += (n_in + 1) * n_out
    return layers


class TorchModel:
    """A network of PyTorch, with squared error and its own Adam or SGD.

    Parameters
    ----------
    net : fastbp.Network
        Whose sizes, activations (relu, tanh or identity) and parameters it takes.
    optimizer : fastbp.SGD or fastbp.Adam
    """

    def __init__(self, net, optimizer):
        import torch

        self._torch, self._arguments = torch, (net, optimizer)
        self.parameters = net.parameters.copy()
        self._flat = torch.from_numpy(self.parameters).requires_grad_()
        self._flat.grad = torch.zeros_like(self._flat)
        functions = {"relu": torch.relu, "tanh": torch.tanh, "identity": lambda z: z}
        self._layers = layers_of(net, functions)
        kind = torch.optim.Adam if type(optimizer).__name__ == "Adam" else torch.optim.SGD
        self._optimizer = kind([self._flat], lr=optimizer.lr)

    def clone(self):
        """Return another one with the same parameters."""
        other = TorchModel(*self._arguments)
        other.parameters[:] = self.parameters
        return other

    def _forward(self, x):
        for at, n_in, n_out, function in self._layers:
            b = at + n_in * n_out
            x = function(x @ self._flat[at:b].view(n_in, n_out) + self._flat[b : b + n_out])
        return x

    def predict(self, x, out):
        """Write the outputs."""
        with self._torch.no_grad():
            out[...] = self._forward(self._torch.from_numpy(x)).numpy()

    def predict1(self, x):
        """Return the one output."""
        with self._torch.no_grad():
            return self._forward(self._torch.from_numpy(x)).item()

    def train_step(self, x, y):
        """Update once; return the loss."""
        x, y = np.atleast_2d(x), np.atleast_2d(y)
        self._optimizer.zero_grad(set_to_none=False)
        loss = 0.5 * ((self._forward(self._torch.from_numpy(x)) - self._torch.from_numpy(y)) ** 2).sum() / len(x)
        loss.backward()
        self._optimizer.step()
        return loss.item()

    def backpropagate(self, x, d_out, dx):
        """Accumulate the gradient for one of the outputs; write that of the inputs."""
        x = self._torch.from_numpy(x).requires_grad_()
        self._forward(x).backward(self._torch.from_numpy(d_out))
        dx[...] = x.grad.numpy()

    def apply_accumulated(self):
        """Update by what was accumulated."""
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=False)


class JaxModel:
    """A network of JAX with its steps compiled by `jax.jit`, with squared error and Adam or SGD of optax.

    Parameters
    ----------
    net : fastbp.Network
        Whose sizes, activations (relu, tanh or identity) and parameters it takes.
    optimizer : fastbp.SGD or fastbp.Adam
    """

    def __init__(self, net, optimizer):
        import jax
        import jax.numpy as jnp
        import optax

        self._arguments = net, optimizer
        functions = {"relu": jax.nn.relu, "tanh": jnp.tanh, "identity": lambda z: z}
        layers = layers_of(net, functions)
        rule = (optax.adam if type(optimizer).__name__ == "Adam" else optax.sgd)(optimizer.lr)

        def forward(parameters, x):
            for at, n_in, n_out, function in layers:
                b = at + n_in * n_out
                x = function(x @ parameters[at:b].reshape(n_in, n_out) + parameters[b : b + n_out])
            return x

        def loss(parameters, x, y):
            return 0.5 * ((forward(parameters, x) - y) ** 2).sum() / len(x)

        def apply(parameters, state, gradient):
            updates, state = rule.update(gradient, state)
            return parameters + updates, state

        def train_step(parameters, state, x, y):
            value, gradient = jax.value_and_grad(loss)(parameters, x, y)
            return *apply(parameters, state, gradient), value

        self.parameters = jnp.array(net.parameters)
        self._state, self._gradient = rule.init(self.parameters), jnp.zeros_like(self.parameters)
        self._forward, self._apply, self._train_step = jax.jit(forward), jax.jit(apply), jax.jit(train_step)
        self._backpropagate = jax.jit(lambda p, x, d_out: jax.vjp(forward, p, x)[1](d_out))

    def clone(self):
        """Return another one with the same parameters."""
        other = JaxModel(*self._arguments)
        other.parameters = self.parameters
        return other

    def predict(self, x, out):
        """Write the outputs."""
        out[...] = self._forward(self.parameters, x)

    def predict1(self, x):
        """Return the one output."""
        return float(self._forward(self.parameters, x)[0])

    def train_step(self, x, y):
        """Update once; return the loss."""
        x, y = np.atleast_2d(x), np.atleast_2d(y)
        self.parameters, self._state, loss = self._train_step(self.parameters, self._state, x, y)
        return float(loss)

    def backpropagate(self, x, d_out, dx):
        """Accumulate the gradient for one of the outputs; write that of the inputs."""
        gradient, dx[...] = self._backpropagate(self.parameters, x, d_out)
        self._gradient = self._gradient + gradient

    def apply_accumulated(self):
        """Update by what was accumulated."""
        self.parameters, self._state = self._apply(self.parameters, self._state, self._gradient)
        self._gradient = 0 * self._gradient


def ratios(net, optimizer, run_compiled, run):
    """Print the time of a step of a loop, compiled with fastbp, and as plain Python with each library.

    Parameters
    ----------
    net : fastbp.Network
    optimizer : fastbp.SGD or fastbp.Adam
    run_compiled : function () -> number of steps
    run : function (model) -> number of steps
    """
    own = _seconds_of_step(run_compiled)
    print(f"compiled, fastbp: {1e6 * own:.2f} us a step")
    for name, kind in (("PyTorch", TorchModel), ("JAX", JaxModel)):
        try:
            model = kind(net, optimizer)
        except ImportError as error:
            print(f"{name}: not installed ({error})")
            continue
        seconds = _seconds_of_step(lambda model=model: run(model))
        print(f"Python, {name}: {1e6 * seconds:.0f} us a step, {seconds / own:.0f} times as long")


def _seconds_of_step(run):
    run()  # compiles
    times = []
    for _ in range(3):
        start = time.perf_counter()
        steps = run()
        times.append((time.perf_counter() - start) / steps)
    return min(times)
