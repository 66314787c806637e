"""Module paths of version 0.1: refused by an error that names the new path, but for classes that pickles name."""

import importlib
import pickle
import sys

import pytest

import fastbp
from fastbp.moved import MOVED, PICKLED


@pytest.mark.parametrize("old", sorted(MOVED.keys() - PICKLED.keys()))
def test_an_old_module_is_refused(old):
    name = old.removeprefix("fastbp.")
    for code in (f"import {old}", f"from fastbp import {name}", f"from {old} import anything", f"fastbp.{name}"):
        with pytest.raises((ImportError, AttributeError), match=f"^{old} is now {MOVED[old]}$"):
            exec(code, {"fastbp": fastbp})
    assert old not in sys.modules


@pytest.mark.parametrize("old", sorted(PICKLED))
def test_a_module_that_pickles_name_has_their_classes_alone(old):
    names = PICKLED[old]
    assert {name for name in vars(importlib.import_module(old)) if not name.startswith("__")} == set(names)
    for name in names:
        assert pickle.loads(f"c{old}\n{name}\n.".encode()) is getattr(fastbp, name)
    for code in (f"from {old} import anything", f"import {old}; {old}.anything"):
        with pytest.raises(ImportError, match=f"^{old} is now {MOVED[old]}$"):
            exec(code, {})
    assert not hasattr(importlib.import_module(old), "__path__")


@pytest.mark.parametrize("old", MOVED)
def test_the_new_path_is_there(old):
    importlib.import_module(MOVED[old])


def test_unknown_names_are_still_unknown():
    with pytest.raises(ModuleNotFoundError, match="No module named 'fastbp.nothing'"):
        importlib.import_module("fastbp.nothing")
    with pytest.raises(AttributeError, match="nothing"):
        fastbp.nothing  # noqa: B018
