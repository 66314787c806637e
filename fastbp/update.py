"""What one training step does besides backpropagation, as both backends are told it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import arguments, checks
from .attributes import Checked, fixed
from .kernels.layout import address_of
from .kernels.tables import RULES
from .optimizers import N_RUNNING_PRODUCTS

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


class Setting(Checked):
    """An attribute of a Trainer that its `Update` depends on."""

    def __set__(self, trainer: Any, value: Any) -> None:
        """Check and keep the value; the next step makes a new `Update`."""
        super().__set__(trainer, value)
        trainer._last_update = None


def setting(
    default: Any,
    check: Callable[[Any, str, Any], Any],
    *,
    off: Any = None,
    kernels: Sequence[str] = (),
    full_batch: bool = False,
) -> Any:
    """Return the field of a setting that backends are told in an `Update`.

    Parameters
    ----------
    default
        What the constructor of a `Trainer` takes.
    check : function (trainer, name, value) -> value
        Returns what backends are told, or raises.
    off
        What `check` makes of the default; None: the same.
    kernels : sequence of str
        Which kernels besides that for blocks of samples know it: "online" (`kernels/online.py`), "lanes"
        (`kernels/lanes.py`) and "interleaved" (`kernels/population.py`); a training with it is left to the others.
    full_batch : bool
        Whether methods of the full batch support it; otherwise they refuse what is not 0.
    """
    metadata = {"attribute": Setting(check), "off": default if off is None else off}
    return field(default=default, metadata={**metadata, "kernels": kernels, "full_batch": full_batch})


def at_least_0(trainer: Any, name: str, value: Any) -> float:
    """Check a number that must be at least 0."""
    return arguments.number(name, value, at_least=0)


def _limit(trainer: Any, name: str, value: Any) -> float:
    return arguments.limit(name, value)


def _dropout(trainer: Any, name: str, value: Any) -> tuple[float, ...]:
    return checks.dropout(value, len(trainer.net.shapes))


def _label_smoothing(trainer: Any, name: str, value: Any) -> float:
    return checks.label_smoothing(value, trainer.net.loss_name)


@dataclass
class UpdateSettings:
    """The settings of a `Trainer` that backends are told: the only list of them.

    They are keywords and attributes of `Trainer`, fields of `Update`, and part of the configuration that a checkpoint
    must have in common with the trainer that loads it.

    Parameters
    ----------
    l1, l2 : float
        Penalties l1 * sum |W| + l2 / 2 * sum W**2 (biases have none), of which only the gradients are added, once for
        each update and before clipping; the loss is without them.
    dropout : float or sequence of float
        Fraction of the outputs of a layer that is dropped at random in training, in [0, 1); one number for every layer
        but the last, or one for each of these.  The others are divided by 1 - dropout (inverted dropout).
    clip_norm, clip_value : float or None
        Largest Euclidean norm of the whole gradient, largest absolute value of each of its elements; values are
        clipped first.
    max_norm : float or None
        Largest Euclidean norm of the weights into each neuron; larger ones are scaled down after the update.
    label_smoothing : float
        Fraction of the targets that is spread evenly over the classes, in [0, 1); for classification losses.  With
        binary_cross_entropy these are yes and no, for each output.
    input_noise : float
        Standard deviation of the normal noise added to the inputs in training.
    """

    l1: float = setting(0.0, at_least_0, kernels=("online", "lanes", "interleaved"))
    l2: float = setting(0.0, at_least_0, kernels=("online", "lanes", "interleaved"), full_batch=True)
    dropout: float | Sequence[float] = setting(0.0, _dropout, off=(), kernels=("online", "interleaved"))
    clip_norm: float | None = setting(None, _limit, off=0.0, kernels=("online", "lanes"))
    clip_value: float | None = setting(None, _limit, off=0.0, kernels=("online", "lanes", "interleaved"))
    max_norm: float | None = setting(None, _limit, off=0.0, kernels=("online",))
    label_smoothing: float = setting(0.0, _label_smoothing, kernels=("online", "interleaved"))
    input_noise: float = setting(0.0, at_least_0, kernels=("online",))


@dataclass(kw_only=True)
class Update(UpdateSettings):
    """All settings of the steps of a training, as backends take them; not to be changed once it is made.

    Limits of 0, and no dropout at all, are off.

    Parameters
    ----------
    rule, hyperparameters : str, tuple of float
        Name of the update rule (`kernels.optimizers.RULES`) and its settings, in the order it documents.
    schedule, rates : str, tuple of float
        Kind of the learning-rate schedule (`kernels.schedules.KINDS`) and its settings; of the kind "table" a function
        of the step, which backends call for the steps that they do.
    key : int
        Seed of dropout and noise, an unsigned 64-bit number.
    skips : bool
        Leave out a step whose loss is not finite instead of ending there.
    rate_scale : float
        Factor of the learning rate.
    weighted_mean : bool
        Minimize, in each batch, (sum of w E + l2 / 2 * sum W**2) / (sum of w), where w are the weights of its samples,
        or 1, and E their losses.  The loss recorded of a batch is this times the number of its samples: the penalty is
        part of it.  For networks whose reduction is the mean.
    loss_scale, max_loss : float
        With `weighted_mean`, a factor of the losses that are recorded, not of their gradients, and an upper limit of
        each of them before that.
    l1, l2, dropout, ...
        As in `UpdateSettings`.
    """

    rule: str = "sgd"
    hyperparameters: tuple[float, ...] = ()
    schedule: str = "constant"
    rates: tuple[float, ...] | Callable[[int], float] = (0.1,)
    key: int = 0
    skips: bool = False
    rate_scale: float = 1.0
    weighted_mean: bool = False
    loss_scale: float = 1.0
    max_loss: float = float("inf")

    def __post_init__(self) -> None:
        """Take what the defaults of a `Trainer` mean for a backend."""
        for row in fields(UpdateSettings):
            if getattr(self, row.name) == row.default:
                setattr(self, row.name, row.metadata["off"])

    def suits(self, kernel: str) -> bool:
        """Whether a kernel, "online", "lanes" or "interleaved", knows all settings that are on."""
        if self.weighted_mean and kernel != "interleaved" or RULES[self.rule].scales_inputs:
            return False
        unknown = [getattr(self, row.name) for row in fields(UpdateSettings) if kernel not in row.metadata["kernels"]]
        return not any(any(value) if isinstance(value, Sequence) else value for value in unknown)


def settings_of(trainer: UpdateSettings) -> dict[str, Any]:
    """Return the settings that backends are told, by name."""
    return {row.name: getattr(trainer, row.name) for row in fields(UpdateSettings)}


_NO_STEPS = (0,)


@arguments.renamed(memory="running_products")
class State:
    """What an update rule remembers, and how many steps were made.

    Attributes
    ----------
    buffers : ndarray (n_states, n_parameters)
        Such as velocities, or first and second moments; each starts on a cache line.
    running_products : float64 ndarray (N_RUNNING_PRODUCTS,)
        Products that the rule carries from step to step, all 1 at the start.
    vectors : float64 ndarray (n_vectors, n_parameters)
        What a method of the full batch remembers of each parameter, such as the pairs of L-BFGS; 0 at the start.
    step : int
        Steps done so far, skipped ones too: index into the schedule, and into the random numbers of dropout and noise.
    skipped : int
        How many of them were left out because their loss was not finite.
    """

    buffers: np.ndarray = fixed("write into it, state.buffers[:] = values")
    running_products: np.ndarray = fixed("write into it, state.running_products[:] = values")
    vectors: np.ndarray = fixed("write into it, state.vectors[:] = values")

    def __init__(self, n_states: int, n_parameters: int, dtype: DTypeLike, n_vectors: int = 0) -> None:
        self.buffers = aligned_rows((n_states, n_parameters), dtype)
        self.running_products = np.ones(N_RUNNING_PRODUCTS)
        self.vectors = np.zeros((n_vectors, n_parameters))
        self.step = self.skipped = 0

    @property
    def step(self) -> int:
        """Steps done so far."""
        before, done = self._count
        return before + done[0]

    @step.setter
    def step(self, value: int) -> None:
        self._count: tuple[int, Sequence[int]] = value, _NO_STEPS

    def follow(self, step: int, done: Sequence[int]) -> None:
        """Let `step` be `step` + done[0], which a native call writes, until it is set.

        So parameters and step count change together, wherever in Python Ctrl-C is heard.
        """
        self._count = step, done

    def __getstate__(self) -> dict[str, Any]:
        """Leave the words of native calls behind."""
        kept = {name: value for name, value in vars(self).items() if name != "_count"}
        if not self.vectors.any():  # as long as its method did not run: a column of zeros, which is broadcast again
            kept["vectors"] = self.vectors[:, :1]
        return {**kept, "step": self.step}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        """Copy unpickled arrays into new memory: kernels write to it, and a mapped file may be read-only."""
        buffers, vectors = kept["buffers"], kept.get("vectors", ())  # early files of version 0.1 have no vectors
        products = kept["running_products"] if "running_products" in kept else kept["memory"]  # version 0.1
        vars(self).clear()
        self.__init__(len(buffers), buffers.shape[1], buffers.dtype, len(vectors))  # type: ignore[misc]
        self.buffers[:], self.running_products[:] = buffers, products
        if len(vectors):
            self.vectors[:] = vectors
        self.step, self.skipped = kept["step"], kept["skipped"]


class PopulationData(NamedTuple):
    """Samples, targets and weights of many networks; each array is shared or has one more axis in front, of networks.

    Attributes
    ----------
    X : ndarray (n_samples, n_in)
        float32, float64 or uint8.
    Y : ndarray (n_samples, n_out) of the dtype of the networks, or int64 labels (n_samples,)
    weights : ndarray (n_samples,) or None
        Of the dtype of the networks.
    """

    X: np.ndarray
    Y: np.ndarray
    weights: np.ndarray | None = None


class PopulationState:
    """What the update rules of many networks of one architecture remember, and how many steps each has made.

    Parameters
    ----------
    n_states : sequence of int, one for each network
        How many buffers its rule uses, which are the first ones.
    n_parameters : int
        Of one network.
    dtype : float32 or float64

    Attributes
    ----------
    buffers : ndarray (max(n_states), n_networks, n_parameters)
        Each row starts on a cache line.
    running_products : float64 ndarray (n_networks, N_RUNNING_PRODUCTS)
    step, skipped : int64 ndarray (n_networks,)
        As in `State`.
    n_states : int64 ndarray (n_networks,)
    """

    def __init__(self, n_states: Sequence[int], n_parameters: int, dtype: DTypeLike) -> None:
        n_networks = len(n_states)
        self.n_states = np.array(n_states, np.int64)
        self.buffers = aligned_rows((int(self.n_states.max(initial=0)), n_networks, n_parameters), dtype)
        self.running_products = np.ones((n_networks, N_RUNNING_PRODUCTS))
        self.step, self.skipped = np.zeros((2, n_networks), np.int64)

    def member(self, i: int) -> State:
        """Return the state of one network: the same memory, but for the counts of steps."""
        state = State.__new__(State)
        buffers = self.buffers[: self.n_states[i], i]
        vectors = np.zeros((0, buffers.shape[-1]))
        vars(state).update(buffers=buffers, running_products=self.running_products[i], vectors=vectors)
        state.step, state.skipped = self.step.item(i), self.skipped.item(i)
        return state

    def repeated(self, k: int) -> PopulationState:
        """Return the state of a population with k copies of each network, one after the other."""
        other = PopulationState(np.repeat(self.n_states, k).tolist(), self.buffers.shape[-1], self.buffers.dtype)
        for name in ("running_products", "step", "skipped"):
            getattr(other, name)[:] = np.repeat(getattr(self, name), k, axis=0)
        other.buffers[:] = np.repeat(self.buffers, k, axis=1)
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the padding."""
        return {**vars(self), "buffers": np.ascontiguousarray(self.buffers)}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        """Copy unpickled arrays into new memory: kernels write to it, and a mapped file may be read-only."""
        buffers = kept["buffers"]
        self.__init__(kept["n_states"], buffers.shape[-1], buffers.dtype)  # type: ignore[misc]
        for name, array in kept.items():
            vars(self)[name][...] = array


def aligned_rows(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return zeros whose rows, along the last axis, each start on a cache line: they are 16 elements or more apart."""
    stride = -(-shape[-1] // 16) * 16
    return aligned_zeros(math.prod(shape[:-1]) * stride, dtype).reshape(*shape[:-1], stride)[..., : shape[-1]]


def aligned_zeros(size: int, dtype: DTypeLike) -> np.ndarray:
    """Return zeros that start on a boundary of cache lines and of vectors of any processor."""
    dtype = np.dtype(dtype)
    buffer = np.zeros(size * dtype.itemsize + 128, np.uint8)
    start = -address_of(buffer) % 128
    return buffer[start : start + size * dtype.itemsize].view(dtype)
