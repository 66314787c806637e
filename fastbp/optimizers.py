"""The table of optimizers: the settings of each update rule, validated once."""

from dataclasses import dataclass, fields, replace

import numpy as np

from . import arguments
from .schedules import Constant, Schedule
from .training.fullbatch import LBFGS, LevenbergMarquardt


def schedule_of(lr):
    """Return the kind of a learning rate and its settings, as the kernels take them; a number is constant.

    Parameters
    ----------
    lr : float or Schedule

    Returns
    -------
    kind : str
    hyperparameters : tuple of float
    """
    schedule = lr if isinstance(lr, Schedule) else Constant(lr)
    return schedule.kind, schedule.hyperparameters


def described(optimizer):
    """Return the call that makes an optimizer; a number is the same whether it is Python's or NumPy's."""
    values = {field.name: getattr(optimizer, field.name) for field in fields(optimizer)}
    return repr(replace(optimizer, **{name: v.item() for name, v in values.items() if isinstance(v, np.generic)}))


def _check_lr(lr):
    if isinstance(lr, Schedule):
        return
    if callable(lr):
        raise TypeError(f"lr must be a number or one of fastbp.schedules, got {lr!r}")
    arguments.number("lr", lr, above=0)


def _check_decay(**rates):
    for name, value in rates.items():
        arguments.number(name, value, at_least=0, below=1)


class Optimizer:
    """What all optimizers have.

    Attributes
    ----------
    lr : float or Schedule
    rule : str
        Name of the update rule (`fastbp.kernels.optimizers.RULES`).
    hyperparameters : tuple of float
        Its settings, in the order documented there.
    n_states : int
        Numbers that it remembers of each parameter.
    n_vectors : int
        Those of methods of the full batch, in float64.
    """

    n_vectors = 0

    @property
    def hyperparameters(self):
        """The settings, as the kernels take them."""
        return tuple(float(getattr(self, field.name)) for field in fields(self) if field.name != "lr")


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent, optionally with momentum.

    ``v = momentum * v + g``, then ``parameters -= lr * v``; with `nesterov`
    ``parameters -= lr * (g + momentum * v)``.  The form is that of Sutskever et al., "On the importance of
    initialization and momentum in deep learning" (2013), as PyTorch writes it.

    Parameters
    ----------
    lr : float or Schedule
        Step size, above 0.
    momentum : float
        In [0, 1); 0 is plain gradient descent.
    nesterov : bool
        Look ahead along the velocity; needs a momentum above 0.

    Raises
    ------
    ValueError, TypeError
        Where a setting is out of its range or not a number.
    """

    lr: float | Schedule
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self):
        """Validate."""
        _check_lr(self.lr)
        arguments.number("momentum", self.momentum, at_least=0, below=1)
        arguments.flag("nesterov", self.nesterov)
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=True needs a momentum above 0, got momentum=0.0")

    @property
    def rule(self):
        """Name of the update rule."""
        return "nesterov" if self.nesterov else "momentum" if self.momentum else "sgd"

    @property
    def hyperparameters(self):
        """The settings, as the kernels take them."""
        return (float(self.momentum),) if self.momentum else ()

    @property
    def n_states(self):
        """Numbers remembered of each parameter."""
        return 1 if self.momentum else 0


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """Gradient by the root of the running mean of its square.

    ``s = rho * s + (1 - rho) * g**2``, then ``parameters -= lr * g / (sqrt(s) + eps)``: Tieleman and Hinton,
    "Neural networks for machine learning", lecture 6.5 (2012), as PyTorch writes it (whose alpha is rho).

    Parameters
    ----------
    lr : float or Schedule
        Step size, above 0.
    rho : float
        Decay of the mean, in [0, 1).
    eps : float
        Above 0.

    Raises
    ------
    ValueError, TypeError
        Where a setting is out of its range or not a number.
    """

    lr: float | Schedule = 0.01
    rho: float = 0.99
    eps: float = 1e-8
    rule = "rmsprop"
    n_states = 1

    def __post_init__(self):
        """Validate."""
        _check_lr(self.lr)
        _check_decay(rho=self.rho)
        arguments.number("eps", self.eps, above=0)


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """Gradient by the root of the sum of all its squares so far.

    ``s += g**2``, then ``parameters -= lr * g / (sqrt(s) + eps)``: Duchi, Hazan and Singer, "Adaptive subgradient
    methods for online learning and stochastic optimization" (2011), as PyTorch writes it.

    Parameters
    ----------
    lr : float or Schedule
        Step size, above 0.
    eps : float
        Above 0.

    Raises
    ------
    ValueError, TypeError
        Where a setting is out of its range or not a number.
    """

    lr: float | Schedule = 0.01
    eps: float = 1e-10
    rule = "adagrad"
    n_states = 1

    def __post_init__(self):
        """Validate."""
        _check_lr(self.lr)
        arguments.number("eps", self.eps, above=0)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Running means of the gradient and its square, both corrected for their start at 0.

    ``m = beta1 * m + (1 - beta1) * g``, ``v = beta2 * v + (1 - beta2) * g**2``, then in step t = 1, 2, ...
    ``parameters -= lr / (1 - beta1**t) * m / (sqrt(v / (1 - beta2**t)) + eps)``: Kingma and Ba, "Adam: a method for
    stochastic optimization" (2015), algorithm 1.

    Parameters
    ----------
    lr : float or Schedule
        Step size, above 0.
    beta1, beta2 : float
        Decay of the means, in [0, 1).
    eps : float
        Above 0.

    Raises
    ------
    ValueError, TypeError
        Where a setting is out of its range or not a number.
    """

    lr: float | Schedule = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    rule = "adam"
    n_states = 2

    def __post_init__(self):
        """Validate."""
        _check_lr(self.lr)
        _check_decay(beta1=self.beta1, beta2=self.beta2)
        arguments.number("eps", self.eps, above=0)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay.

    ``parameters *= 1 - lr * weight_decay``, biases too, then as `Adam`: Loshchilov and Hutter, "Decoupled weight
    decay regularization" (2019), algorithm 2, as PyTorch writes it.

    Parameters
    ----------
    lr : float or Schedule
        Step size, above 0.
    beta1, beta2 : float
        Decay of the means, in [0, 1).
    eps : float
        Above 0.
    weight_decay : float
        At least 0.

    Raises
    ------
    ValueError, TypeError
        Where a setting is out of its range or not a number.
    """

    weight_decay: float = 0.01
    rule = "adamw"

    def __post_init__(self):
        """Validate."""
        super().__post_init__()
        arguments.number("weight_decay", self.weight_decay, at_least=0)


@dataclass(frozen=True)
class Nadam(Adam):
    """Adam with Nesterov's momentum.

    With m and v of `Adam` and ``mu[t] = beta1 * (1 - 0.96**(t * momentum_decay) / 2)``, in step t = 1, 2, ...
    ``parameters -= lr * (mu[t+1] * m / (1 - mu[1] ... mu[t+1]) + (1 - mu[t]) * g / (1 - mu[1] ... mu[t]))
    / (sqrt(v / (1 - beta2**t)) + eps)``: Dozat, "Incorporating Nesterov momentum into Adam" (2016), as PyTorch
    writes it.

    Parameters
    ----------
    lr : float or Schedule
        Step size, above 0.
    beta1, beta2 : float
        Decay of the means, in [0, 1).
    eps : float
        Above 0.
    momentum_decay : float
        How fast the momentum rises to beta1, at least 0.

    Raises
    ------
    ValueError, TypeError
        Where a setting is out of its range or not a number.
    """

    lr: float | Schedule = 2e-3
    momentum_decay: float = 4e-3
    rule = "nadam"

    def __post_init__(self):
        """Validate."""
        super().__post_init__()
        arguments.number("momentum_decay", self.momentum_decay, at_least=0)

    @property
    def hyperparameters(self):
        """The settings, as the kernels take them."""
        *hyperparameters, momentum_decay = super().hyperparameters
        return *hyperparameters, 0.96**momentum_decay


@dataclass(frozen=True)
class Lion(Optimizer):
    """Sign of an interpolation between gradient and momentum, with decoupled weight decay.

    ``parameters -= lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * parameters)``, then
    ``m = beta2 * m + (1 - beta2) * g``: Chen et al., "Symbolic discovery of optimization algorithms" (2023),
    algorithm 2.

    Parameters
    ----------
    lr : float or Schedule
        Step size, above 0; the paper takes a tenth to a third of Adam's.
    beta1, beta2 : float
        In [0, 1).
    weight_decay : float
        At least 0; of biases too.

    Raises
    ------
    ValueError, TypeError
        Where a setting is out of its range or not a number.
    """

    lr: float | Schedule = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0
    rule = "lion"
    n_states = 1

    def __post_init__(self):
        """Validate."""
        _check_lr(self.lr)
        _check_decay(beta1=self.beta1, beta2=self.beta2)
        arguments.number("weight_decay", self.weight_decay, at_least=0)


@dataclass(frozen=True)
class Rprop(Optimizer):
    """Resilient propagation: a step size of each parameter's own, by the signs of its gradient alone.

    The step grows by eta_plus where the gradient keeps its sign and shrinks by eta_minus where it changes; there the
    parameter rests once: Igel and Hüsken, "Improving the Rprop learning algorithm" (2000), iRprop-, as PyTorch
    writes it.  Made for full batches.

    Parameters
    ----------
    lr : float or Schedule
        First step of each parameter, above 0; of a schedule only the first rate counts.
    eta_minus, eta_plus : float
        In (0, 1), and above 1.
    least, most : float
        Limits of the steps, 0 < least <= most.

    Raises
    ------
    ValueError, TypeError
        Where a setting is out of its range or not a number.
    """

    lr: float | Schedule = 0.01
    eta_minus: float = 0.5
    eta_plus: float = 1.2
    least: float = 1e-6
    most: float = 50.0
    rule = "rprop"
    n_states = 2

    def __post_init__(self):
        """Validate."""
        _check_lr(self.lr)
        arguments.number("eta_minus", self.eta_minus, above=0, below=1)
        arguments.number("eta_plus", self.eta_plus, above=1)
        arguments.number("least", self.least, above=0)
        arguments.number("most", self.most, at_least=self.least)


OPTIMIZERS = (SGD, RMSprop, Adagrad, Adam, AdamW, Nadam, Lion, Rprop, LBFGS, LevenbergMarquardt)


def share_state(one, other):
    """Whether two optimizers remember the same of each parameter, so that one can go on where the other was."""
    kinds = {type(one), type(other)}
    sizes = [(optimizer.n_states, optimizer.n_vectors) for optimizer in (one, other)]
    return sizes[0] == sizes[1] and (len(kinds) == 1 or kinds == {Adam, AdamW})
