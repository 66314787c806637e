"""Feed-forward neural networks trained by backpropagation on the CPU.

Everything a user needs is here: `Network` (the function), `Activation` and `Loss` (custom parts of it), `Population`
(many networks), `Trainer` (their training), `SGD`, `Adam` and the other update rules, `schedules` (learning rates),
`callbacks`, `metrics`, `losses`, `stream` (data larger than memory) and `load`.  Importing this package costs little:
Numba is imported with the first network that uses it.
"""

from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import checkpoints, datasets, jit, recipes
    from . import kernels as kernels
    from .engine.threads import get_num_threads, set_num_threads
    from .training.streams import stream

    __version__: str

if not (_Path(__file__).parent / "kernels").is_dir():
    # A checkout, not an installed wheel: kernels/ stands beside fastbp/.  So `import fastbp` works in its folder too.
    __path__.append(str(_Path(__file__).parent.parent))

from . import callbacks, losses, metrics, moved, optimizers, schedules  # noqa: E402
from .activations import Activation  # noqa: E402
from .losses import Loss  # noqa: E402
from .network import Gradients, Network  # noqa: E402
from .optimizers import *  # noqa: E402
from .population import Population, load  # noqa: E402
from .training.history import History  # noqa: E402
from .training.trainer import Trainer  # noqa: E402

_LAZY = {
    "set_num_threads": ".engine.threads",
    "get_num_threads": ".engine.threads",
    "stream": ".training.streams",
}
_SUBMODULES = ("checkpoints", "datasets", "jit", "kernels", "recipes")

__all__ = [
    "Activation",
    "Gradients",
    "History",
    "Loss",
    "Network",
    "Population",
    "Trainer",
    "callbacks",
    "checkpoints",
    "datasets",
    "get_num_threads",
    "jit",
    "load",
    "losses",
    "metrics",
    "recipes",
    "schedules",
    "set_num_threads",
    "stream",
]
__all__ += optimizers.__all__


if not TYPE_CHECKING:  # which would give every unknown name the type Any

    def __getattr__(name):
        if name == "__version__":
            from importlib.metadata import version

            return version("fastbp")
        if name in _SUBMODULES:
            return _import_module(f".{name}", __name__)
        if name in _LAZY:
            return getattr(_import_module(_LAZY[name], __name__), name)
        old = f"{__name__}.{name}"
        raise AttributeError(
            f"{old} is now {moved.MOVED[old]}" if old in moved.MOVED else f"{__name__} has no {name!r}"
        )


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY, *_SUBMODULES, "__version__"])
