"""Helpers for arguments that stand for themselves."""

import pickle
from dataclasses import dataclass, fields
from inspect import signature

import pytest

from fastbp import arguments


@arguments.renamed(least="min_step", most="max_step")
@dataclass(frozen=True)
class Steps:
    """Two settings that had other names."""

    min_step: float = 1.0
    max_step: float = 2.0


@pytest.mark.parametrize("old, new", [("least", "min_step"), ("most", "max_step")])
def test_old_name_is_refused_by_an_error_that_names_the_new(old, new):
    with pytest.raises(TypeError, match=f"'{old}'.*'{new}'"):
        Steps(**{old: 1.0})
    with pytest.raises(AttributeError, match=f"'{old}'.*'{new}'"):
        getattr(Steps(), old)
    with pytest.raises(AttributeError):
        setattr(Steps(), old, 1.0)
    assert not hasattr(Steps(), old)


def test_renaming_leaves_a_class_as_it_is():
    assert list(signature(Steps).parameters) == [field.name for field in fields(Steps)] == ["min_step", "max_step"]
    assert Steps(3.0, max_step=4.0) == pickle.loads(pickle.dumps(Steps(3.0, 4.0))) != Steps()


def test_pickles_that_hold_old_names_are_read():
    steps = Steps()
    steps.__setstate__({"least": 3.0, "max_step": 4.0})
    assert steps == Steps(3.0, 4.0)
