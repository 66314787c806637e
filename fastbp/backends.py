"""The table of backends, and the one place where a name becomes a backend or its kernels."""

from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from . import arguments


class Row(NamedTuple):
    """Where a backend is found; modules are imported when they are first used."""

    module: str  # of the class that runs a network
    class_name: str
    kernels: str  # module of the kernels of one layer, one loss, ...


COMPILED, REFERENCE = "numba", "numpy"
BACKENDS = {
    COMPILED: Row(".engine.backend", "NumbaBackend", ".kernels"),
    REFERENCE: Row(".reference.training", "NumpyBackend", ".reference"),
}


class Config(NamedTuple):
    """What defines the function of a network besides its parameters: the arguments of a backend, in their order."""

    sizes: tuple[int, ...]
    activations: tuple[Any, ...]  # names, or objects of `fastbp.Activation`
    loss: Any  # a name, or an object of `fastbp.losses`
    reduction: str
    dtype: np.dtype
    input_scale: float


def check_backend(name: str) -> str:
    """Check the name of a backend."""
    return arguments.name("backend", name, BACKENDS)


def make_backend(name: str, config: Config) -> Any:
    """Build the backend of this name; Numba is imported only when it is the one."""
    row = BACKENDS[name]
    return getattr(import_module(row.module, __package__), row.class_name)(*config)


def make_population_backend(name: str, config: Config) -> Any:
    """Build the backend of many networks of one architecture."""
    folder = "reference" if name == "numpy" else "engine"
    module = import_module(f".{folder}.population", __package__)
    return module.PopulationBackend(make_backend(name, config))


def kernels_of(name: str) -> ModuleType:
    """Return the module that holds the kernels of this backend by name."""
    return import_module(BACKENDS[name].kernels, __package__)
