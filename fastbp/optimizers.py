"""The table of optimizers: the settings of each update rule, validated once.

A new one is a class here, listed in `__all__` and `OPTIMIZERS`, whose `rule` names a kernel and its twin.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import singledispatch, wraps
from itertools import pairwise
from typing import Any, ClassVar, TypeAlias, cast

import numpy as np

from . import arguments
from .reference.schedules import rate_at
from .schedules import Constant, Schedule

# fastbp itself offers these.
__all__ = [
    "Adagrad",
    "Adam",
    "AdamEpsHat",
    "AdamW",
    "ClassicalSGD",
    "LBFGS",
    "LevenbergMarquardt",
    "Lion",
    "Nadam",
    "RMSprop",
    "Rprop",
    "SGD",
]

N_RUNNING_PRODUCTS = 8  # numbers that an optimizer may carry from step to step, such as beta**t

# A setting is one value, or, for a `Population`, a sequence of one value for each network.
Number: TypeAlias = float | Sequence[float] | np.ndarray
Flag: TypeAlias = bool | Sequence[bool] | np.ndarray
RateFunction: TypeAlias = Callable[[int], float]
LearningRate: TypeAlias = float | Schedule | RateFunction | Sequence[float | Schedule | RateFunction] | np.ndarray

MAX_PARAMETERS = 10_000  # of Levenberg-Marquardt: a matrix of their square takes 0.8 GB, and two or three are held


def schedule_of(lr: float | Schedule | RateFunction) -> tuple[str, tuple[float, ...] | RateFunction]:
    """Return the kind of a learning rate and its settings, as the kernels take them; a number is constant.

    Parameters
    ----------
    lr : float, Schedule or function of the step

    Returns
    -------
    kind : str
    hyperparameters : tuple of float
        Of the kind "table" the function itself, which is called for the steps of each native call.
    """
    if callable(lr) and not isinstance(lr, Schedule):
        return "table", lr
    return (lr.kind, lr.hyperparameters) if isinstance(lr, Schedule) else (Constant.kind, (float(lr),))


def described(optimizer: Optimizer | FullBatchMethod) -> str:
    """Return the call that makes an optimizer; a number is the same whether it is Python's or NumPy's.

    A function, such as a learning rate, has its name, not where it lies in memory.
    """
    settings = cast(Any, optimizer)  # each class is a dataclass
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    text = repr(replace(settings, **{name: v.item() for name, v in values.items() if isinstance(v, np.generic)}))
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", text)


def described_today(text: str) -> str:
    """Return what `described` says today of an optimizer that a checkpoint of version 0.1 describes."""
    text = re.sub(r"(Cosine\([^()]*)\bleast=", r"\1min_lr=", text)
    for old, new in (("least", "min_step"), ("most", "max_step"), ("rise", "pct_start")):
        text = re.sub(rf"\b{old}=", f"{new}=", text)
    for name, value in (("decay_biases", True), ("input_scale_lr", 0.0)):
        text = re.sub(rf"^(AdamW\((?!.*\b{name}=).*)\)$", rf"\1, {name}={value})", text)
    return text


def _check_lr(lr: Any) -> None:
    if isinstance(lr, Schedule):
        return
    if isinstance(lr, type):
        raise TypeError(f"lr must be a number, one of fastbp.schedules or a function of the step, got {lr!r}")
    if callable(lr):
        rate_at(lr, 0)
    else:
        arguments.number("lr", lr, above=0)


def _check_decay(**rates: Any) -> None:
    for name, value in rates.items():
        arguments.number(name, value, at_least=0, below=1)


def _n_parameters(sizes: Sequence[int]) -> int:
    return sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))


def has_room_for_scales(sizes: Sequence[int]) -> bool:
    """Whether a state of as many numbers as a network has parameters can hold 3 for each of its inputs."""
    return _n_parameters(sizes) >= 3 * sizes[0]


class Optimizer:
    """Base class of the optimizers that update batch by batch.

    For a `Population` every setting may be a sequence of one value for each network.

    A learning rate that is a function, ``lr=lambda step: 0.1 / (1 + step)``, takes the number of updates made before,
    and returns a number of at least 0.  It is called in Python for the steps of each native call, before that, so it
    must depend on the step alone: steps may be asked for twice, and a resumed training asks from its step on.
    Checkpoints hold its name only.

    Attributes
    ----------
    lr : float, Schedule or function of the step, or a tuple of them
    rule : str
        Name of the update rule (`fastbp.kernels.optimizers.RULES`).
    hyperparameters : tuple of float
        Its settings, in the order documented there.
    n_states : int
        Numbers that it remembers of each parameter.
    n_vectors : int
        The same in float64, for methods of the full batch.
    state_of : str or None
        Name of another class that keeps the same state, so that one can go on where the other was.
    """

    lr: Any
    rule: ClassVar[str]
    n_states: ClassVar[int]
    n_vectors: ClassVar[int] = 0
    state_of: ClassVar[str | None] = None

    @property
    def hyperparameters(self) -> tuple[float, ...]:
        """The settings, as the kernels take them."""
        names = [field.name for field in fields(cast(Any, self)) if field.name != "lr"]
        return tuple(float(getattr(self, name)) for name in names)

    def __init_subclass__(cls) -> None:
        """Let settings be sequences, whose values ``__post_init__`` checks network by network."""
        validate = cast(Any, cls).__post_init__

        @wraps(validate)
        def __post_init__(self: Any) -> None:
            sequences = {name: _values(name, value) for name, value in vars(self).items() if _is_sequence(value)}
            if not sequences:
                return validate(self)
            for name, values in sequences.items():
                object.__setattr__(self, name, values)
            object.__setattr__(self, "_members", self._made(_common_length(sequences)))

        setattr(cls, "__post_init__", __post_init__)  # noqa: B010

    def __post_init__(self) -> None:
        """Validate."""

    def check_sizes(self, sizes: Sequence[int]) -> None:
        """Refuse a network of these sizes if it cannot be trained; of the settings of one network."""

    @property
    def n_networks(self) -> int | None:
        """Number of networks that its settings are of; None where none of them is a sequence."""
        values = (getattr(self, field.name) for field in fields(cast(Any, self)))
        return next((len(value) for value in values if isinstance(value, tuple)), None)

    def of_networks(self, n: int) -> list[Any]:
        """Return the optimizer of each of n networks; one object where the settings are the same."""
        return [self] * n if self.n_networks is None else list(cast(Any, self)._members)

    def _made(self, n: int) -> list[Any]:
        names = [field.name for field in fields(cast(Any, self))]
        columns = [value if isinstance(value, tuple) else (value,) * n for value in map(self.__getattribute__, names)]
        made: dict[tuple, Any] = {}
        result = []
        for i, row in enumerate(zip(*columns, strict=True)):
            try:
                if row not in made:
                    made[row] = type(self)(*row)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{error} (network {i})") from None
            result.append(made[row])
        return result


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | tuple) or isinstance(value, np.ndarray) and value.ndim > 0


def _values(name: str, sequence: Any) -> tuple:
    """Return the values of a setting as a tuple: one for each network."""
    values = sequence.tolist() if isinstance(sequence, np.ndarray) else list(sequence)
    if values and not any(map(_is_sequence, values)):
        return tuple(value.item() if isinstance(value, np.generic) else value for value in values)
    raise ValueError(f"{name} must be one value, or a sequence of one for each network, got shape {_shape(sequence)}")


def _shape(sequence: Any) -> Any:
    return sequence.shape if isinstance(sequence, np.ndarray) else f"({len(sequence)}, ...)" if sequence else (0,)


def _common_length(sequences: dict[str, tuple]) -> int:
    lengths = {name: len(values) for name, values in sequences.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {n}" for name, n in lengths.items())
        raise ValueError(f"settings that are sequences must have one value for each network, got different: {found}")
    return next(iter(lengths.values()))


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent, optionally with momentum.

    ``v = momentum * v + g``, then ``parameters -= lr * v``; with `nesterov`
    ``parameters -= lr * (g + momentum * v)``.  The form is that of Sutskever et al., "On the importance of
    initialization and momentum in deep learning" (2013), as PyTorch writes it.

    Parameters
    ----------
    lr : float, Schedule or function
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

    lr: LearningRate
    momentum: Number = 0.0
    nesterov: Flag = False

    def __post_init__(self) -> None:
        """Validate."""
        _check_lr(self.lr)
        arguments.number("momentum", self.momentum, at_least=0, below=1)
        arguments.flag("nesterov", self.nesterov)
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=True needs a momentum above 0, got momentum=0.0")

    @property
    def rule(self) -> str:  # type: ignore[override]
        """Name of the update rule."""
        return "nesterov" if self.nesterov else "momentum" if self.momentum else "sgd"

    @property
    def hyperparameters(self) -> tuple[float, ...]:
        """The settings, as the kernels take them."""
        return (float(cast(float, self.momentum)),) if self.momentum else ()

    @property
    def n_states(self) -> int:  # type: ignore[override]
        """Numbers remembered of each parameter."""
        return 1 if self.momentum else 0


@dataclass(frozen=True)
class ClassicalSGD(Optimizer):
    """Stochastic gradient descent with momentum whose velocity holds steps, as in scikit-learn.

    ``v = momentum * v - lr * g``, then ``parameters += v``; with `nesterov` ``parameters += momentum * v - lr * g``:
    Sutskever et al., "On the importance of initialization and momentum in deep learning" (2013), equations 1 to 4.
    While `lr` does not change it makes the steps of `SGD`; where it falls, the velocity still holds the longer steps.

    Parameters
    ----------
    lr : float, Schedule or function
        Step size, above 0.
    momentum : float
        In [0, 1].
    nesterov : bool
        Look ahead along the velocity.

    Raises
    ------
    ValueError, TypeError
        Where a setting is out of its range or not a number.
    """

    lr: LearningRate = 1e-3
    momentum: Number = 0.0
    nesterov: Flag = False
    rule: ClassVar[str] = "classical_momentum"
    n_states: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Validate."""
        _check_lr(self.lr)
        arguments.number("momentum", self.momentum, at_least=0, at_most=1)
        arguments.flag("nesterov", self.nesterov)


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """Gradient by the root of the running mean of its square.

    ``s = rho * s + (1 - rho) * g**2``, then ``parameters -= lr * g / (sqrt(s) + eps)``: Tieleman and Hinton,
    "Neural networks for machine learning", lecture 6.5 (2012), as PyTorch writes it (whose alpha is rho).

    Parameters
    ----------
    lr : float, Schedule or function
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

    lr: LearningRate = 0.01
    rho: Number = 0.99
    eps: Number = 1e-8
    rule: ClassVar[str] = "rmsprop"
    n_states: ClassVar[int] = 1

    def __post_init__(self) -> None:
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
    lr : float, Schedule or function
        Step size, above 0.
    eps : float
        Above 0.

    Raises
    ------
    ValueError, TypeError
        Where a setting is out of its range or not a number.
    """

    lr: LearningRate = 0.01
    eps: Number = 1e-10
    rule: ClassVar[str] = "adagrad"
    n_states: ClassVar[int] = 1

    def __post_init__(self) -> None:
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
    lr : float, Schedule or function
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

    lr: LearningRate = 1e-3
    beta1: Number = 0.9
    beta2: Number = 0.999
    eps: Number = 1e-8
    rule: ClassVar[str] = "adam"
    n_states: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """Validate."""
        _check_lr(self.lr)
        _check_decay(beta1=self.beta1, beta2=self.beta2)
        arguments.number("eps", self.eps, above=0)


@dataclass(frozen=True)
class AdamEpsHat(Adam):
    """Adam with `eps` added before the second moment is corrected, as in scikit-learn and Keras.

    With m and v of `Adam`, in step t = 1, 2, ...
    ``parameters -= lr * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + eps)``: Kingma and Ba, "Adam: a method for
    stochastic optimization" (2015), the efficient order at the end of section 2, where eps is written with a hat.

    Parameters
    ----------
    lr : float, Schedule or function
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

    rule: ClassVar[str] = "adam_eps_hat"


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay.

    ``parameters *= 1 - lr * weight_decay``, then as `Adam`: Loshchilov and Hutter, "Decoupled weight decay
    regularization" (2019), algorithm 2, as PyTorch writes it.

    Parameters
    ----------
    lr : float, Schedule or function
        Step size, above 0.
    beta1, beta2 : float
        Decay of the means, in [0, 1).
    eps : float
        Above 0.
    weight_decay : float
        At least 0.
    decay_biases : bool
        Whether biases are decayed too, as in PyTorch; otherwise weights alone are.
    input_scale_lr : float
        Above 0, each input has a learned scale exp(u): the first layer's W is exp(u) V, row by row, and steps are made
        of V, and of u with a learning rate that is so many times as large, instead of W.  So the weights of inputs that
        help soon outgrow those of others, which is better on tables with many columns that say nothing (Holzmüller,
        Grinsztajn and Steinwart, "Better by default: strong pre-tuned MLPs and boosted trees on tabular data", 2024,
        section 3, where a layer of its own holds the scales).  The network has no more parameters; it must have at
        least 3 * n_in.

    Raises
    ------
    ValueError, TypeError
        Where a setting is out of its range or not a number.
    """

    weight_decay: Number = 0.01
    decay_biases: Flag = True
    input_scale_lr: Number = 0.0
    state_of: ClassVar[str | None] = "Adam"

    def __post_init__(self) -> None:
        """Validate."""
        super().__post_init__()
        arguments.number("weight_decay", self.weight_decay, at_least=0)
        arguments.flag("decay_biases", self.decay_biases)
        arguments.number("input_scale_lr", self.input_scale_lr, at_least=0)

    @property
    def rule(self) -> str:  # type: ignore[override]
        """Name of the update rule."""
        return "adamw_scaled" if self.input_scale_lr else "adamw" if self.decay_biases else "adamw_weights"

    @property
    def hyperparameters(self) -> tuple[float, ...]:
        """The settings, as the kernels take them."""
        *settings, decays_biases, input_scale_lr = super().hyperparameters
        return (*settings, input_scale_lr, settings[-1] * decays_biases) if input_scale_lr else tuple(settings)

    def check_sizes(self, sizes: Sequence[int]) -> None:
        """Refuse a network that has less than 3 parameters for each input, where inputs have scales."""
        if self.input_scale_lr and not has_room_for_scales(sizes):
            raise ValueError(
                f"input_scale_lr needs a network of at least 3 * {sizes[0]} parameters, 3 for each input, but "
                f"{'-'.join(map(str, sizes))} has {_n_parameters(sizes)}: take more hidden neurons"
            )

    @property
    def n_states(self) -> int:  # type: ignore[override]
        """Numbers remembered of each parameter; the last one holds the scales and their moments."""
        return 3 if self.input_scale_lr else 2


@dataclass(frozen=True)
class Nadam(Adam):
    """Adam with Nesterov's momentum.

    With m and v of `Adam` and ``mu[t] = beta1 * (1 - 0.96**(t * momentum_decay) / 2)``, in step t = 1, 2, ...
    ``parameters -= lr * (mu[t+1] * m / (1 - mu[1] ... mu[t+1]) + (1 - mu[t]) * g / (1 - mu[1] ... mu[t]))
    / (sqrt(v / (1 - beta2**t)) + eps)``: Dozat, "Incorporating Nesterov momentum into Adam" (2016), as PyTorch
    writes it.

    Parameters
    ----------
    lr : float, Schedule or function
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

    lr: LearningRate = 2e-3
    momentum_decay: Number = 4e-3
    rule: ClassVar[str] = "nadam"

    def __post_init__(self) -> None:
        """Validate."""
        super().__post_init__()
        arguments.number("momentum_decay", self.momentum_decay, at_least=0)

    @property
    def hyperparameters(self) -> tuple[float, ...]:
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
    lr : float, Schedule or function
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

    lr: LearningRate = 1e-4
    beta1: Number = 0.9
    beta2: Number = 0.99
    weight_decay: Number = 0.0
    rule: ClassVar[str] = "lion"
    n_states: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Validate."""
        _check_lr(self.lr)
        _check_decay(beta1=self.beta1, beta2=self.beta2)
        arguments.number("weight_decay", self.weight_decay, at_least=0)


@arguments.renamed(least="min_step", most="max_step")
@dataclass(frozen=True)
class Rprop(Optimizer):
    """Resilient propagation: one step size per parameter, from the signs of its gradient alone.

    The step grows by eta_plus where the gradient keeps its sign and shrinks by eta_minus where it changes; there the
    parameter is not updated in that step: Igel and Hüsken, "Improving the Rprop learning algorithm" (2000), iRprop-,
    as PyTorch writes it.  Made for full batches.

    Parameters
    ----------
    lr : float, Schedule or function
        First step of each parameter, above 0; of a schedule only the first rate is used.
    eta_minus, eta_plus : float
        Factors of a step, in (0, 1) and above 1.
    min_step, max_step : float
        Limits of the steps, 0 < min_step <= max_step.

    Raises
    ------
    ValueError, TypeError
        Where a setting is out of its range or not a number.
    """

    lr: LearningRate = 0.01
    eta_minus: Number = 0.5
    eta_plus: Number = 1.2
    min_step: Number = 1e-6
    max_step: Number = 50.0
    rule: ClassVar[str] = "rprop"
    n_states: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """Validate."""
        _check_lr(self.lr)
        arguments.number("eta_minus", self.eta_minus, above=0, below=1)
        arguments.number("eta_plus", self.eta_plus, above=1)
        arguments.number("min_step", self.min_step, above=0)
        arguments.number("max_step", self.max_step, at_least=cast(float, self.min_step))


class FullBatchMethod:
    """Base class of the optimizers that see all samples before each step; one iteration is one epoch of `Trainer.fit`.

    Attributes
    ----------
    n_states : int
        0: they have no buffers in the dtype of the network.
    n_vectors : int
        Numbers that they remember of each parameter, in float64.
    """

    n_states: ClassVar[int] = 0
    n_vectors: ClassVar[int]
    state_of: ClassVar[str | None] = None

    def check(self, net: Any, update: Any) -> None:
        """Refuse a network, or settings of an `Update`, that the method does not support.

        Raises
        ------
        ValueError
            Names the setting.
        """
        for row in () if update is None else fields(update):
            if not row.metadata.get("full_batch", True) and np.any(getattr(update, row.name)):
                raise ValueError(
                    f"{row.name} must be 0 with {type(self).__name__}, which minimizes one smooth function, "
                    f"the loss with the penalty of l2, got {getattr(update, row.name)!r}"
                )

    def minimize(
        self,
        net: Any,
        X: np.ndarray,
        Y: np.ndarray,
        epochs: int,
        after: Callable[[float], bool],
        *,
        update: Any = None,
        weights: np.ndarray | None = None,
        running_products: np.ndarray | None = None,
        vectors: np.ndarray | None = None,
    ) -> str | None:
        """Iterate, leaving the last iterate in `net.parameters` however it ends, by Ctrl-C too.

        Parameters
        ----------
        net : Network
        X, Y : ndarray
            Validated samples and targets.
        epochs : int
            Most iterations.
        after : function (float) -> bool
            Called after each iteration with the loss, without the penalty; the network holds the iterate.  True ends.
        update : Update, optional
            Of its settings `l2`; others that are not 0 are refused.
        weights : ndarray (n_samples,), optional
            Sample weights: E = 1/n sum of w_i E_i, or without 1/n for reduction="sum".
        running_products, vectors : float64 ndarrays (N_RUNNING_PRODUCTS,) and (n_vectors, n_parameters), optional
            Those of a `State`, in and out: what the method keeps from one call to the next.

        Returns
        -------
        str or None
            "converged"; "stalled", where no step found lowers the loss, as where float32 has no more digits;
            "nonfinite", where the first loss is not finite; None, where `epochs` or `after` ended it.
        """
        self.check(net, update)
        if vectors is None or running_products is None or len(vectors) != self.n_vectors:  # a trainer of version 0.1
            running_products, vectors = np.ones(N_RUNNING_PRODUCTS), np.zeros((self.n_vectors, net.parameters.size))
        return minimize(self, net, X, Y, epochs, after, update, weights, running_products, vectors)


@singledispatch
def minimize(method: FullBatchMethod, *arguments: Any) -> str | None:
    """Iterate as `FullBatchMethod.minimize` says; the loops register themselves in `fastbp.training.fullbatch`."""
    raise NotImplementedError(f"{type(method).__name__} has no loop in fastbp.training.fullbatch")


@arguments.renamed(minimise="minimize")
@dataclass(frozen=True)
class LBFGS(FullBatchMethod):
    """Quasi-Newton steps from the last few gradients of all samples (L-BFGS).

    Nocedal and Wright, "Numerical optimization" (2006): the two-loop recursion, algorithm 7.4, with the scaling of
    equation 7.20, and a line search for the strong Wolfe conditions, algorithms 3.5 and 3.6.  The pairs of steps and
    gradient differences are kept in the trainer's state: training goes on with them in the next call of `fit`, and from
    a checkpoint, to the same bits.  The loss recorded is that after the iteration.

    Parameters
    ----------
    history : int
        Pairs of steps and gradient differences that approximate the Hessian.
    max_line_search : int
        Largest number of evaluations along one direction.
    gtol : float
        Converged where the next step, at the slope of the loss along it, would lower the loss by no more than the
        fraction gtol**2 of it.
    ftol : float
        Converged where each of the last three iterations lowered the loss by no more than this fraction of it, or
        than its rounding.

    Raises
    ------
    ValueError, TypeError
        Where a setting is out of its range or not a number.

    Notes
    -----
    The loss in `gtol` and `ftol` is that with the penalty; neither depends on its unit.  Before training ends as
    converged or stalled, a step along the gradient is tried, and one along that of each layer alone, whose units may
    differ: training goes on if one of them lowers the loss by more than these fractions.  Targets of size 1 are learned
    in far fewer iterations than targets of size 1000.
    """

    history: int = 10
    max_line_search: int = 20
    gtol: float = 1e-5
    ftol: float = 2.2e-9

    def __post_init__(self) -> None:
        """Validate."""
        arguments.integer("history", self.history)
        arguments.integer("max_line_search", self.max_line_search)
        arguments.number("gtol", self.gtol, at_least=0)
        arguments.number("ftol", self.ftol, at_least=0)

    @property
    def n_vectors(self) -> int:  # type: ignore[override]
        """Float64 numbers kept of each parameter: the steps, then the gradient differences."""
        return 2 * self.history


@arguments.renamed(minimise="minimize")
@dataclass(frozen=True)
class LevenbergMarquardt(FullBatchMethod):
    """Damped Gauss-Newton steps for squared_error and small networks.

    Each iteration solves (J^T J + damping D) step = -J^T r, J being the Jacobian of the residuals r = A - Y by
    backpropagation, both sides divided by the number of samples where the reduction is the mean, and D the diagonal of
    J^T J, of which each element is the largest so far: no unit of inputs or targets matters.  A step that lowers the
    loss is taken and the damping divided by `factor`; otherwise the damping is multiplied by it and the step computed
    anew (Marquardt 1963; More, "The Levenberg-Marquardt algorithm: implementation and theory", 1978; Hagan and Menhaj,
    "Training feedforward networks with the Marquardt algorithm", 1994).  The loss recorded is that after the iteration.

    Parameters
    ----------
    damping : float
        Damping of the first iteration.
    factor : float
        Above 1; the damping is multiplied or divided by it.
    max_damping : float
        Above `damping`; training ends as "stalled" where no step up to it lowers the loss.
    gtol : float
        Converged where the cosine of the angle between the residuals and every column of the Jacobian is at most this,
        or, where the step could lower the loss by no more than its rounding, at most the root of the rounding.

    Raises
    ------
    ValueError, TypeError
        Where a setting is out of its range or not a number.

    Notes
    -----
    J is summed up over chunks of samples, so the memory is that of two or three float64 matrices of n_parameters
    squared; networks of more than `MAX_PARAMETERS` are refused.  J^T J and its solution are NumPy's, whose last bits
    may depend on the processor and the threads of its BLAS.
    """

    damping: float = 1e-3
    factor: float = 10.0
    max_damping: float = 1e10
    gtol: float = 1e-10

    n_vectors: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Validate."""
        arguments.number("damping", self.damping, above=0)
        arguments.number("factor", self.factor, above=1)
        arguments.number("max_damping", self.max_damping, above=self.damping)
        arguments.number("gtol", self.gtol, at_least=0)

    def check(self, net: Any, update: Any) -> None:
        """Refuse a network, or settings of an `Update`, that the method does not support."""
        super().check(net, update)
        n_parameters = net.parameters.size
        if net.loss_name != "squared_error":
            raise ValueError(
                f"LevenbergMarquardt minimizes sums of squares: the loss of the network must be "
                f"'squared_error', got {net.loss_name!r}"
            )
        if n_parameters > MAX_PARAMETERS:
            raise ValueError(
                f"LevenbergMarquardt solves for all parameters at once and takes at most "
                f"{MAX_PARAMETERS:,}, but the network has {n_parameters:,}; LBFGS takes any number"
            )


OPTIMIZERS = (
    SGD,
    ClassicalSGD,
    RMSprop,
    Adagrad,
    Adam,
    AdamEpsHat,
    AdamW,
    Nadam,
    Lion,
    Rprop,
    LBFGS,
    LevenbergMarquardt,
)


def share_state(one: Optimizer | FullBatchMethod, other: Optimizer | FullBatchMethod) -> bool:
    """Whether two optimizers remember the same of each parameter, so that one can go on where the other was."""
    kinds = [(o.state_of or type(o).__name__, o.n_states, o.n_vectors) for o in (one, other)]
    return kinds[0] == kinds[1]
