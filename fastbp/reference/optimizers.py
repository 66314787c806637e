"""Update rules, and the penalties and limits of gradients and weights; all in place.

The arguments of a rule are gradient, lr, its hyperparameters, running_products if it has some, its states, parameters.
"""

from math import sqrt

import numpy as np

__all__ = [
    "adagrad",
    "adam",
    "adam_eps_hat",
    "adamw",
    "classical_momentum",
    "clip_norm",
    "clip_value",
    "lion",
    "max_norm",
    "nadam",
    "penalize",
    "rmsprop",
    "rprop",
    "sgd",
    "sgd_momentum",
]


def sgd(gradient: np.ndarray, lr: float, parameters: np.ndarray) -> None:
    """Gradient descent, in place: parameters -= lr * gradient."""
    parameters -= lr * gradient


def sgd_momentum(
    gradient: np.ndarray, lr: float, momentum: float, nesterov: bool, velocity: np.ndarray, parameters: np.ndarray
) -> None:
    """Gradient descent with momentum, in place, in PyTorch's form (Sutskever et al., 2013)."""
    velocity[...] = momentum * velocity + gradient
    parameters -= lr * (gradient + momentum * velocity if nesterov else velocity)


def momentum(gradient: np.ndarray, lr: float, momentum: float, velocity: np.ndarray, parameters: np.ndarray) -> None:
    """Update rule "momentum": see `sgd_momentum`."""
    sgd_momentum(gradient, lr, momentum, False, velocity, parameters)


def nesterov(gradient: np.ndarray, lr: float, momentum: float, velocity: np.ndarray, parameters: np.ndarray) -> None:
    """Update rule "nesterov": see `sgd_momentum`."""
    sgd_momentum(gradient, lr, momentum, True, velocity, parameters)


def classical_momentum(
    gradient: np.ndarray, lr: float, momentum: float, nesterov: float, velocity: np.ndarray, parameters: np.ndarray
) -> None:
    """Gradient descent whose velocity holds steps (Sutskever et al., 2013), in place; `nesterov` is 0 or 1."""
    velocity[...] = momentum * velocity - lr * gradient
    parameters += momentum * velocity - lr * gradient if nesterov else velocity


def rmsprop(
    gradient: np.ndarray, lr: float, rho: float, eps: float, square: np.ndarray, parameters: np.ndarray
) -> None:
    """RMSprop (Tieleman and Hinton, 2012), in place."""
    square[...] = rho * square + (1 - rho) * gradient**2
    parameters -= lr * gradient / (np.sqrt(square) + eps)


def adagrad(gradient: np.ndarray, lr: float, eps: float, total: np.ndarray, parameters: np.ndarray) -> None:
    """Adagrad (Duchi, Hazan and Singer, 2011), in place."""
    total += gradient**2
    parameters -= lr * gradient / (np.sqrt(total) + eps)


def adam(
    gradient: np.ndarray,
    lr: float | np.ndarray,
    beta1: float,
    beta2: float,
    eps: float,
    running_products: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    parameters: np.ndarray,
) -> None:
    """Adam (Kingma and Ba, 2015), in place; running_products holds beta1**t and beta2**t, 1 before the first step."""
    running_products[:2] *= beta1, beta2
    m[...] = beta1 * m + (1 - beta1) * gradient
    v[...] = beta2 * v + (1 - beta2) * gradient**2
    power1, power2 = running_products[:2].tolist()
    parameters -= lr / (1 - power1) * m / (np.sqrt(v) / sqrt(1 - power2) + eps)


def adam_eps_hat(
    gradient: np.ndarray,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    running_products: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    parameters: np.ndarray,
) -> None:
    """Adam with eps added before the correction of v (Kingma and Ba, 2015, end of section 2), in place."""
    running_products[:2] *= beta1, beta2
    m[...] = beta1 * m + (1 - beta1) * gradient
    v[...] = beta2 * v + (1 - beta2) * gradient**2
    power1, power2 = running_products[:2].tolist()
    parameters -= lr * sqrt(1 - power2) / (1 - power1) * m / (np.sqrt(v) + eps)


def adamw(
    gradient: np.ndarray,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    running_products: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    parameters: np.ndarray,
) -> None:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), in place."""
    parameters *= 1 - lr * weight_decay
    adam(gradient, lr, beta1, beta2, eps, running_products, m, v, parameters)


def nadam(
    gradient: np.ndarray,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    decay: float,
    running_products: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    parameters: np.ndarray,
) -> None:
    """Adam with Nesterov's momentum (Dozat, 2016), in place.

    running_products holds mu[1] * ... * mu[t], beta2**t and decay**t, 1 before the first step.
    """
    running_products[1:3] *= beta2, decay
    mu, next_mu = (float(beta1 * (1 - 0.5 * power)) for power in (running_products[2], running_products[2] * decay))
    running_products[0] *= mu
    product, power2, _ = running_products[:3].tolist()
    m[...] = beta1 * m + (1 - beta1) * gradient
    v[...] = beta2 * v + (1 - beta2) * gradient**2
    lookahead = next_mu / (1 - product * next_mu) * m + (1 - mu) / (1 - product) * gradient
    parameters -= lr * lookahead / (np.sqrt(v) / sqrt(1 - power2) + eps)


def lion(
    gradient: np.ndarray,
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    m: np.ndarray,
    parameters: np.ndarray,
) -> None:
    """Lion (Chen et al., 2023), in place."""
    parameters *= 1 - lr * weight_decay
    parameters -= lr * np.sign(beta1 * m + (1 - beta1) * gradient)
    m[...] = beta2 * m + (1 - beta2) * gradient


def rprop(
    gradient: np.ndarray,
    lr: float,
    eta_minus: float,
    eta_plus: float,
    min_step: float,
    max_step: float,
    last: np.ndarray,
    step: np.ndarray,
    parameters: np.ndarray,
) -> None:
    """Resilient propagation (iRprop-: Igel and Hüsken, 2000), in place; a step of 0 is not set yet and becomes lr."""
    agreement = np.sign(gradient) * np.sign(last)
    step[step == 0] = lr
    step *= np.where(agreement > 0, eta_plus, np.where(agreement < 0, eta_minus, 1))
    np.clip(step, min_step, max_step, out=step)
    last[...] = np.where(agreement < 0, 0, gradient)
    parameters -= np.sign(last) * step


def penalize(parameters: np.ndarray, l1: float, l2: float, gradient: np.ndarray) -> None:
    """Add the gradient of l1 * sum |parameters| + l2 / 2 * sum parameters**2, in place."""
    gradient += l2 * parameters + l1 * np.sign(parameters)


def clip_value(limit: float, gradient: np.ndarray) -> None:
    """Clip every element to [-limit, limit], in place."""
    np.clip(gradient, -limit, limit, out=gradient)


def clip_norm(limit: float, gradient: np.ndarray) -> None:
    """Scale the gradient to a Euclidean norm of at most `limit` (Pascanu, Mikolov and Bengio, 2013), in place."""
    norm = float(np.linalg.norm(gradient.astype(np.float64)))
    if norm > limit:
        gradient *= limit / norm


def max_norm(limit: float, W: np.ndarray) -> None:
    """Scale columns so that the norm of each is at most `limit` (Srebro and Shraibman, 2005), in place."""
    norms = np.linalg.norm(W, axis=0)
    W *= np.where(norms > limit, limit / np.maximum(norms, limit), 1)
