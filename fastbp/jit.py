"""Networks inside your own compiled loops: models that predict and learn in functions compiled by `numba.njit`.

`model` makes one of a `fastbp.Trainer` or a `fastbp.Network`.  Compiled functions take and return it, keep it in
`numba.typed.List` and in tuples, and call its methods, which are also functions here: ``m.predict(x, out)`` is
``fastbp.jit.predict(m, x, out)``.  In Python the same calls do the same.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast

import numpy as np

from . import arguments, checks
from .attributes import fixed
from .backends import COMPILED, Config
from .kernels import methods
from .kernels.layout import Y_LABELS, Y_ROWS, address_of
from .kernels.library import native_function
from .kernels.methods import METHODS, arguments_of
from .kernels.public import describe
from .losses import row_of
from .network import Network
from .training.trainer import Trainer
from .update import State, Update, aligned_zeros

if TYPE_CHECKING:
    from .optimizers import Optimizer

__all__ = ["Model", "clone", "model", *METHODS]


class ModelConfig(NamedTuple):
    """What a model is made from, besides numbers."""

    network: Config
    backend: str
    update: Update | None
    n_states: int
    raises: bool


_configs: list[ModelConfig] = []  # of this process; the memory of a model holds the place
_places: dict[tuple[Any, ...], int] = {}  # of the configs in the list
_OF_LOOPS = "batch_size", "shuffle", "threads"  # settings of `Trainer.fit` without effect on single steps


def model(source: Trainer | Network, optimizer: Optimizer | None = None, **settings: Any) -> Model:
    """Make a model for compiled functions.

    It works on the parameters of the network: what is learnt is seen by both at once.  All else is its own: it begins
    with a copy of the trainer's settings, optimizer state and number of steps, and later changes of the trainer do not
    reach it.

    Parameters
    ----------
    source : Trainer or Network
    optimizer : one of the update rules, optional
        For a network; without one the model cannot be updated.
    **settings
        For a network with an optimizer: keywords of `Trainer`, but for `batch_size`, `shuffle` and `threads`.

    Returns
    -------
    Model
        Made with the environment variable FASTBP_DEBUG=1, its methods also check that one thread at a time uses it (if
        two did, all later calls raise too); that what they are given, and the parameters, are finite; and that the loss
        is defined for the targets.  For a network with ``backend="numpy"``, a model of NumPy's arithmetic for
        comparison, with the same methods, which compiled functions do not take.

    Raises
    ------
    TypeError
        Where an argument does not fit; methods of the full batch make no single steps, and compiled code cannot call a
        learning rate that is a function of Python.
    """
    if isinstance(source, Trainer):
        if optimizer is not None or settings:
            raise TypeError("optimizer and settings are those of the trainer: give them with a network only")
        trainer = source
    elif not isinstance(source, Network):
        raise TypeError(f"source must be a fastbp.Trainer or a fastbp.Network, got {source!r}")
    elif optimizer is None:
        if settings:
            raise TypeError(f"{next(iter(settings))} is of training: give an optimizer too")
        return _build(source, None, State(0, source.parameters.size, source.dtype), False)
    else:
        for name in _OF_LOOPS:
            if name in settings:
                raise TypeError(f"{name} is of Trainer.fit: a model makes one step of the samples that it is given")
        trainer = Trainer(source, optimizer, **settings)
    if trainer._is_full_batch:
        raise TypeError(f"{type(trainer.optimizer).__name__} makes no single steps: use Trainer.fit")
    if callable(trainer._update().rates):
        raise TypeError("lr is a function of Python, which compiled code cannot call: use one of fastbp.schedules")
    return _build(trainer.net, trainer._update(), trainer.state, trainer.on_nonfinite == "raise")


def _build(net: Network, update: Update | None, state: State, raises: bool) -> Model:
    config = ModelConfig(net._config, net.backend, update, len(state.buffers), raises)
    return _of_config(config, net._backend, net.parameters, state)


def _of_config(config: ModelConfig, backend: Any, parameters: np.ndarray, state: State) -> Model:
    _check_writable(parameters)
    if config.backend != COMPILED:
        return Twin(config, backend, parameters, state)
    from .engine.model import make_memory

    is_checked = os.environ.get("FASTBP_DEBUG", "0") not in ("", "0")
    options = {"raises": config.raises, "is_checked": is_checked, "config": _place_of(config)}
    memory = make_memory(backend, parameters, config.update, _initial_lr(config.update), state, **options)
    return Model._of_arrays(parameters, memory)


def _place_of(config: ModelConfig) -> int:
    """Return the place in the list of an equal config, which is added if there is none."""
    settings = () if config.update is None else tuple(vars(config.update).items())
    place = _places.setdefault((config._replace(update=None), settings), len(_configs))
    if place == len(_configs):
        _configs.append(config)
    return place


def _check_writable(parameters: np.ndarray) -> None:
    if not parameters.flags.writeable:
        raise ValueError("parameters are read-only, but a model writes to them")


def _initial_lr(update: Update | None) -> float:
    """Return the learning rate, or where a schedule is set the factor of it, that a model begins with."""
    if update is None:
        return 1.0
    return update.rate_scale * (cast(tuple, update.rates)[0] if update.schedule == "constant" else 1.0)


def _restore(config: ModelConfig, parameters: np.ndarray, state: State, lr: float, accumulated: tuple) -> Model:
    """Return a model with parameters of its own; the inverse of `Model.__reduce__`."""
    own = Network._restore(config.network, config.backend, parameters, {})
    result = _of_config(config, own._backend, own.parameters, state)
    result.lr = lr
    result._accumulate(*accumulated)
    return result


class Model:
    """A network that compiled functions predict with and train; made by `model`.

    Arrays are C-contiguous and of the network's dtype, samples `x` one sample (n_in,) or rows (n, n_in), and whatever
    goes with them has as many dimensions.  Targets `y` are outputs (n_out,) or (n, n_out); with cross_entropy also
    class labels, an integer for one sample, int64 (n,) for rows; for one output of one sample also a float.  The
    values of targets are not checked: whether they are within [0, 1], say.  Losses are reduced as the network does it.
    Nothing is allocated by a method but `clone`.

    A compiled function takes models as arguments, not as globals or variables of an enclosing function.  One thread at
    a time may use a model; in `numba.prange`, give each a clone.  Numba drops exceptions in loops of `prange` or makes
    SystemErrors of them, those of wrong arguments too: call a method once before such a loop.

    Attributes
    ----------
    parameters : ndarray (n_parameters,)
        Those of the network; may be written to.
    lr : float
        Learning rate; where a schedule is set, a factor of it.  May be set, to a finite number that is at least 0.
    accumulated : ndarray (n_parameters,)
        The accumulated gradient; may be written to.

    Raises
    ------
    TypeError
        By methods, where an argument does not fit; in compiled functions numba.TypingError when they are compiled.
    ValueError
        Where a length does not fit or a label is no class.  Nothing is written then.
    """

    parameters: np.ndarray = fixed("write into it, m.parameters[:] = values")
    memory: np.ndarray = fixed("make another model")  # `kernels.methods.Header` and all else; not to be written to
    _address: int

    def __init__(self, *_: Any, **__: Any) -> None:
        raise TypeError("fastbp.jit.model makes models: jit.model(trainer) or jit.model(net, optimizer)")

    @classmethod
    def _of_arrays(cls, parameters: np.ndarray, memory: np.ndarray) -> Model:
        result = cls.__new__(cls)
        result.parameters, result.memory, result._address = parameters, memory, address_of(memory)
        return result

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse names that mean nothing."""
        if not name.startswith("_") and not hasattr(type(self), name):
            meant = arguments.did_you_mean(name, ("lr", "parameters", "accumulated"))
            raise AttributeError(f"a Model has no attribute {name!r}{meant}")
        super().__setattr__(name, value)

    @property
    def _numba_type_(self) -> Any:
        """Its type in compiled functions, which Numba asks for."""
        return _type_of(self.parameters.dtype)

    @property
    def lr(self) -> float:
        """Learning rate, or a factor of its schedule."""
        return float(self.memory.view(np.float64)[methods.AT["lr"]])

    @lr.setter
    def lr(self, value: float) -> None:
        self.memory.view(np.float64)[methods.AT["lr"]] = arguments.number("lr", value, at_least=0)

    @property
    def accumulated(self) -> np.ndarray:
        """The accumulated gradient."""
        return self._accumulated_array()

    @accumulated.setter
    def accumulated(self, value: np.ndarray) -> None:
        here = self.accumulated
        if not isinstance(value, np.ndarray) or (value.shape, address_of(value)) != (here.shape, address_of(here)):
            raise AttributeError("accumulated of a Model cannot be replaced: write into it, m.accumulated[:] = values")

    @property
    def _writable_parameters(self) -> np.ndarray:
        """The parameters for compiled functions, which ask for them by this name."""
        _check_writable(self.parameters)
        return self.parameters

    def predict(self, x: np.ndarray, out: np.ndarray) -> None:
        """Write the outputs of samples to `out`, which may be x, but must not be a part of it that starts elsewhere."""
        self._call("predict", x, out)

    def predict1(self, x: np.ndarray) -> float:
        """Return the output of one sample; the network must have one output."""
        return self._call("predict1", x)

    def loss(self, x: np.ndarray, y: Any) -> float:
        """Return the loss of samples."""
        return self._call("loss", x, y)

    def train_step(self, x: np.ndarray, y: Any) -> float:
        """Update once on exactly these samples, as `Trainer.step` does; return the loss before the update.

        A loss that is not finite is returned, and nothing is updated; if the trainer has ``on_nonfinite="raise"``, it
        raises a FloatingPointError instead.
        """
        return self._call("train_step", x, y)

    def gradient(self, x: np.ndarray, y: Any, g: np.ndarray) -> float:
        """Write the gradient of the loss to `g`, (n_parameters,); return the loss."""
        return self._call("gradient", x, y, g)

    def backpropagate(self, x: np.ndarray, dout: np.ndarray, dx: np.ndarray | None = None) -> None:
        """Add the gradient of a loss of your own to `accumulated`, and write that by x to `dx`.

        `dout` is the gradient of your loss by the outputs.  It is used as it is, and `apply_accumulated` does not count
        these samples.
        """
        self._call("backpropagate", x, dout, dx)

    def input_gradient(self, x: np.ndarray, y: Any, dx: np.ndarray) -> None:
        """Write the gradient of the loss by x to `dx`."""
        self._call("input_gradient", x, y, dx)

    def jacobian(self, x: np.ndarray, J: np.ndarray) -> None:
        """Write the derivatives of the outputs of one sample to `J`, (n_out, n_in)."""
        self._call("jacobian", x, J)

    def apply_gradient(self, g: np.ndarray) -> None:
        """Update once by the gradient `g`, (n_parameters,), with penalties, clipping and the update rule."""
        self._call("apply_gradient", g)

    def accumulate(self, x: np.ndarray, y: Any) -> float:
        """Add the gradient of the losses to `accumulated`, unless it is not finite; return the loss."""
        return self._call("accumulate", x, y)

    def apply_accumulated(self) -> None:
        """Update once by `accumulated`, and set it to 0.

        Where the network has means of losses, it is divided by the number of samples that `accumulate` had since the
        last update of this kind.
        """
        self._call("apply_accumulated")

    def clone(self) -> Model:
        """Return a copy with parameters of its own.

        Its workspace has room for a block of samples, hundreds of kilobytes for a small network.  Numba gives back no
        memory of a function that raises: a clone that it made and does not return stays.
        """
        memory = aligned_zeros(len(self.memory), np.int64)
        self._run(methods.COPY, [address_of(memory), address_of(self.parameters)], ())
        return Model._of_arrays(_part(memory, self._field("parameters_at"), self.parameters), memory)

    def _field(self, name: str) -> int:
        return int(self.memory[methods.AT[name]])

    def _accumulated_array(self) -> np.ndarray:
        return _part(self.memory, self._field("accumulated_at"), self.parameters)

    def _accumulate(self, gradient: np.ndarray, n_samples: int) -> None:
        self.accumulated[:] = gradient
        self.memory[methods.AT["n_accumulated"]] = n_samples

    def _call(self, name: str, *given: Any) -> Any:
        """Check the arguments of a method, and call its C function."""
        dtype = self.parameters.dtype
        y_kind = methods.check(name, dtype, [_describe(value) for value in given])
        values, keep = [], []
        if name in methods.UPDATES:
            _check_writable(self.parameters)
        if methods.letters_of(name) == "p":
            values.append(address_of(self.parameters))
        for argument, value in zip(arguments_of(name), given, strict=True):
            if value is None:
                values += [0, 0, 0]
                continue
            array = value if isinstance(value, np.ndarray) else _target_of(value, y_kind, dtype)
            keep.append(array)
            shape = array.shape if argument.kind == "g" else (1, *array.shape)[-2:]
            if argument.kind == "y":
                shape = (y_kind, array.size, 1) if y_kind == Y_LABELS else (Y_ROWS, *shape)
            values += [address_of(array), *shape]
        self._run(name, values, given)
        if name in methods.RETURNS_LOSS or name == "predict1":
            return float(self.memory.view(np.float64)[methods.AT["result"]])
        return None

    def _run(self, name: str, values: Sequence[int], given: Sequence[Any]) -> None:
        """Call a C function with the arguments after the model, and raise the exception of its error."""
        code = _c_function(name, self.parameters.dtype, len(values))(self._address, *values)
        if code != methods.DONE:
            self._fail(name, code, given)

    def _fail(self, name: str, code: int, given: Sequence[Any] = ()) -> NoReturn:
        """Raise the exception of an error."""
        kind, text = methods.errors_of(name)[code]
        place = code - methods.LENGTH
        if 0 <= place < len(given):
            value = given[place]
            text += f"; got shape {value.shape}" if isinstance(value, np.ndarray) else f"; got {value!r}"
        raise kind(text)

    def _state(self) -> State:
        """Return a copy of what the update rule remembers."""
        result = State(_configs[self._field("config")].n_states, self.parameters.size, self.parameters.dtype)
        for i, buffer in enumerate(result.buffers):
            buffer[:] = _part(self.memory, self._field("states_at") + i * self._field("state_stride"), buffer)
        start = self._field("running_products_at") // 8
        result.running_products[:] = self.memory.view(np.float64)[start : start + result.running_products.size]
        result.step = self._field("step")
        return result

    def __reduce__(self) -> tuple[Callable[..., Model], tuple[Any, ...]]:
        """Copy and pickle with all numbers; the copy has parameters of its own."""
        accumulated = self.accumulated.copy(), self._field("n_accumulated")
        return _restore, (_configs[self._field("config")], self.parameters.copy(), self._state(), self.lr, accumulated)

    def __repr__(self) -> str:
        """Return sizes and dtype."""
        sizes = "-".join(map(str, _configs[self._field("config")].network.sizes))
        return f"<fastbp.jit.Model {sizes}, {self.parameters.dtype}>"


def _part(memory: np.ndarray, at: int, like: np.ndarray) -> np.ndarray:
    """Return the part of the memory that starts at a byte, as an array like another one."""
    return memory.view(np.uint8)[at : at + like.nbytes].view(like.dtype)


@functools.cache
def _type_of(dtype: np.dtype) -> Any:
    from numba.core.registry import cpu_target

    from .engine.model_type import ModelType, type_of

    for part in (cpu_target.typing_context, cpu_target.target_context):
        part.refresh()  # else the first function that is compiled would not know the type
    ModelType.from_arrays = Model._of_arrays
    return type_of(dtype)


@functools.cache
def _c_function(name: str, dtype: np.dtype, n_arguments: int) -> Callable[..., int]:
    """Return the C function of a method."""
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_ssize_t] * (1 + n_arguments))
    return kind(native_function(f"model.{name}").address(dtype))


def _describe(value: Any) -> Any:
    """Return what `methods.check` looks at."""
    if isinstance(value, np.ndarray) and not hasattr(value, "mask"):  # which would be left out
        return describe(value)
    if value is None:
        return methods.ABSENT
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return methods.LABEL
    return methods.NUMBER if isinstance(value, float | np.floating) else type(value).__name__


def _target_of(value: float, y_kind: int, dtype: np.dtype) -> np.ndarray:
    """Return the target of one sample that is a number: a label, or the one output."""
    if y_kind == Y_LABELS:
        return np.array([min(max(value, -1), np.iinfo(np.int64).max)], np.int64)
    with np.errstate(over="ignore"):
        return np.array([value], dtype)


class Twin(Model):
    """A model of the NumPy backend, for comparison: the same methods, in plain Python, with checks of targets."""

    def __init__(self, config: ModelConfig, backend: Any, parameters: np.ndarray, state: State) -> None:
        self.parameters, self._config, self._backend = parameters, config, backend
        self._own = State(config.n_states, parameters.size, parameters.dtype)
        self._own.buffers[:], self._own.running_products[:] = state.buffers, state.running_products
        self._own.step, self._lr = state.step, _initial_lr(config.update)
        self._gradient, self._n_accumulated = np.zeros_like(parameters), 0

    @property
    def _numba_type_(self) -> Any:
        raise TypeError(
            "a model of the NumPy backend is for calls from Python: use backend='numba' in compiled functions"
        )

    @property
    def lr(self) -> float:
        """Learning rate, or a factor of its schedule."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = arguments.number("lr", value, at_least=0)

    def clone(self) -> Twin:
        """Return a copy with parameters of its own."""
        return copy.deepcopy(self)

    def _accumulated_array(self) -> np.ndarray:
        return self._gradient

    def _accumulate(self, gradient: np.ndarray, n_samples: int) -> None:
        self.accumulated[:], self._n_accumulated = gradient, n_samples

    def _state(self) -> State:
        return self._own

    def __reduce__(self) -> tuple[Callable[..., Model], tuple[Any, ...]]:
        accumulated = self._gradient.copy(), self._n_accumulated
        return _restore, (self._config, self.parameters.copy(), copy.copy(self._own), self.lr, accumulated)

    def __repr__(self) -> str:
        sizes = "-".join(map(str, self._config.network.sizes))
        return f"<fastbp.jit.Model {sizes}, {self.parameters.dtype}, numpy>"

    def _call(self, name: str, *given: Any) -> Any:
        """Check the arguments of a method, and run its twin."""
        y_kind = methods.check(name, self.parameters.dtype, [_describe(value) for value in given])
        self._check_lengths(name, y_kind, given)
        if name in methods.UPDATES:
            _check_writable(self.parameters)
            if self._config.update is None:
                self._fail(name, methods.NO_OPTIMIZER)
        arrays = []
        for argument, value in zip(arguments_of(name), given, strict=True):
            if argument.kind == "y":
                array = value if isinstance(value, np.ndarray) else _target_of(value, y_kind, self.parameters.dtype)
                array = array if y_kind == Y_LABELS else np.atleast_2d(array)
                if np.isfinite(array).all():
                    config = self._config.network
                    checks.targets(array, len(array), config.sizes[-1], config.loss, config.dtype, argument="y")
                arrays.append(array)
            else:
                arrays.append(value if value is None or argument.kind == "g" else np.atleast_2d(value))
        return getattr(self, f"_run_{name}")(*arrays)

    def _check_lengths(self, name: str, y_kind: int, given: Sequence[Any]) -> None:
        sizes, n_parameters = self._config.network.sizes, self.parameters.size
        rows = 1
        for place, (argument, value) in enumerate(zip(arguments_of(name), given, strict=True)):
            kind, shape = argument.kind, np.shape(value)
            if kind in "xv":
                rows = shape[0] if len(shape) == 2 else 1
            expected: dict[str, tuple[int, ...]] = {
                "x": (rows, sizes[0]),
                "v": (1, sizes[0]),
                "o": (rows, sizes[-1]),
                "y": (rows, sizes[-1]),
                "i": (rows, sizes[0]),
                "j": (sizes[-1], sizes[0]),
                "g": (1, n_parameters),
            }
            if kind == "y" and rows == 0:
                self._fail(name, methods.NO_SAMPLES)
            if kind == "y" and y_kind == Y_LABELS:
                if not row_of(self._config.network.loss).takes_labels:
                    self._fail(name, methods.NO_LABELS)
                if np.size(value) != rows:
                    self._fail(name, methods.LENGTH + place, given)
                if np.any((np.asarray(value) < 0) | (np.asarray(value) >= sizes[-1])):
                    self._fail(name, methods.BAD_LABEL)
            elif value is not None and (1, 1, *shape)[-2:] != expected[kind]:
                self._fail(name, methods.LENGTH + place, given)
        if name == "predict1" and sizes[-1] != 1:
            self._fail(name, methods.MANY_OUTPUTS)

    def _reduced(self, losses: np.ndarray) -> float:
        with np.errstate(over="ignore"):
            return float(losses.sum()) / (len(losses) if self._config.network.reduction == "mean" else 1)

    def _run_predict(self, X: np.ndarray, out: np.ndarray) -> None:
        out[:] = self._backend.record(self.parameters, X).A[-1]

    def _run_predict1(self, X: np.ndarray) -> float:
        return float(self._backend.record(self.parameters, X).A[-1][0, 0])

    def _run_loss(self, X: np.ndarray, Y: np.ndarray) -> float:
        return self._reduced(self._backend.losses(self.parameters, X, Y))

    def _run_train_step(self, X: np.ndarray, Y: np.ndarray) -> float:
        n, losses, skipped = len(X), np.zeros(1), self._own.skipped
        train = self._backend.training(
            self.parameters, self._own, batch_size=n, order=np.arange(n, dtype=np.int64), update=self._update()
        )
        done = train(X, Y, None, None, 0, 1, losses)
        total = np.nan if self._own.skipped > skipped else losses.item()
        if not done and self._config.raises:
            self._fail("train_step", methods.NONFINITE_LOSS)
        return total / (n if self._config.network.reduction == "mean" else 1)

    def _update(self) -> Update:
        update = self._config.update
        assert update is not None
        rates = (1.0,) if update.schedule == "constant" else update.rates
        return replace(update, rates=rates, rate_scale=self.lr)

    def _run_gradient(self, X: np.ndarray, Y: np.ndarray, g: np.ndarray) -> float:
        loss, g[:] = self._gradient_of(X, Y)
        return loss

    def _gradient_of(self, X: np.ndarray, Y: np.ndarray) -> tuple[float, np.ndarray]:
        losses, gradient = self._backend.gradient(self.parameters, X, Y)
        return self._reduced(losses), gradient

    def _run_input_gradient(self, X: np.ndarray, Y: np.ndarray, dx: np.ndarray) -> None:
        dx[:] = self._backend.input_gradient(self.parameters, X, Y)

    def _run_backpropagate(self, X: np.ndarray, dout: np.ndarray, dx: np.ndarray | None) -> None:
        done = self._backend.record(self.parameters, X, dA=dout)
        self._gradient += done.gradient
        if dx is not None:
            dx[:] = done.dX

    def _run_jacobian(self, X: np.ndarray, J: np.ndarray) -> None:
        n = len(J)
        J[:] = self._backend.record(self.parameters, np.repeat(X, n, axis=0), dA=np.eye(n, dtype=X.dtype)).dX

    def _run_apply_gradient(self, g: np.ndarray) -> None:
        self._backend._update(self.parameters, self._own, self._update(), g.copy())
        self._own.step += 1

    def _run_accumulate(self, X: np.ndarray, Y: np.ndarray) -> float:
        loss, gradient = self._gradient_of(X, Y)
        if np.isfinite(loss):
            self._gradient += gradient * (len(X) if self._config.network.reduction == "mean" else 1)
            self._n_accumulated += len(X)
        return loss

    def _run_apply_accumulated(self) -> None:
        is_mean = self._config.network.reduction == "mean" and self._n_accumulated
        self._run_apply_gradient(self._gradient / (self._n_accumulated if is_mean else 1))
        self._accumulate(np.zeros_like(self._gradient), 0)


class Method:
    """A method of models as a function: of the model, then what the method takes."""

    def __init__(self, name: str) -> None:
        self.__name__ = self.__qualname__ = name
        self.__module__ = __name__
        self.__doc__ = getattr(Model, name).__doc__

    @property
    def _numba_type_(self) -> Any:
        """Its type in compiled functions, which Numba asks for."""
        from .engine.model_type import function_type  # which imports Numba

        return function_type(self.__name__)

    def __call__(self, m: Model, *arguments: Any, **named: Any) -> Any:
        """Call the method."""
        if not isinstance(m, Model):
            raise TypeError(f"{self.__name__}: m must be a model of fastbp.jit, got {m!r}")
        return getattr(m, self.__name__)(*arguments, **named)

    def __reduce__(self) -> str:
        """Pickle by name."""
        return self.__name__

    def __repr__(self) -> str:
        """Return the name."""
        return f"<function fastbp.jit.{self.__name__}>"


predict, predict1, loss, train_step = map(Method, ("predict", "predict1", "loss", "train_step"))
gradient, backpropagate, input_gradient, jacobian = map(
    Method, ("gradient", "backpropagate", "input_gradient", "jacobian")
)
apply_gradient, accumulate, apply_accumulated, clone = map(
    Method, ("apply_gradient", "accumulate", "apply_accumulated", "clone")
)
