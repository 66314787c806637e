"""Old module paths of version 0.1: an import fails with an error that names the new path.

Pickles of version 0.1 name classes in two of these modules.  Such a module can be imported, has these classes alone,
and fails for any other name.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "fastbp.fullbatch": "fastbp.training.fullbatch",
    "fastbp.own": "fastbp.custom",
    "fastbp.recipe": "fastbp.preprocessing",
    "fastbp.streams": "fastbp.training.streams",
    "fastbp.trainer": "fastbp.training.trainer",
}
PICKLED = {"fastbp.fullbatch": ("LBFGS", "LevenbergMarquardt"), "fastbp.trainer": ("History", "Trainer")}


class Finder:
    """The last of `sys.meta_path`: it is asked for modules that nobody else finds."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Refuse an old path, or return the spec of a module for pickles."""
        if name in PICKLED:
            return ModuleSpec(name, self)  # type: ignore[arg-type]
        if name in MOVED:
            raise refusal(name)
        return None

    def create_module(self, spec: ModuleSpec) -> None:
        """Let Python make the module."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill in the classes that pickles name."""
        name = module.__name__

        def refuse(attribute: str) -> Any:
            if attribute.startswith("__"):  # which Python looks for in any module
                raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
            raise refusal(name)

        package = sys.modules["fastbp"]
        vars(module).update({class_name: getattr(package, class_name) for class_name in PICKLED[name]})
        vars(module)["__getattr__"] = refuse


def refusal(name: str) -> ImportError:
    """Return the error for an old path."""
    return ImportError(f"{name} is now {MOVED[name]}", name=name)


sys.meta_path.append(Finder())  # not of the classes of importlib.abc, whose import takes longer than all of this
