"""Leave an estimator as it was before where a call fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def rolled_back(estimator: Any) -> Iterator[None]:
    """Restore an estimator, its network and its trainer where the body raises an exception.

    Attributes that are replaced, lists that grow, and arrays and objects that training writes to.
    """
    before = dict(vars(estimator))
    lengths = [(value, len(value)) for value in before.values() if isinstance(value, list)]
    objects = [before[name] for name in ("trainer_", "_optimizer") if name in before]
    arrays = [before["network_"].parameters] if "network_" in before else []
    if "trainer_" in before:
        state = before["trainer_"].state
        objects.append(state)
        arrays += [state.buffers, state.running_products]
    attributes, copies = [dict(vars(item)) for item in objects], [array.copy() for array in arrays]
    random_state = before.get("_random_state")
    draws = None if random_state is None else random_state.get_state()
    try:
        yield
    except BaseException:
        # scikit-learn tears its callbacks down after this
        callbacks = {name: value for name, value in vars(estimator).items() if "callback" in name}
        vars(estimator).clear()
        vars(estimator).update({**before, **callbacks})
        for grown, n in lengths:
            del grown[n:]
        for item, values in zip(objects, attributes, strict=True):
            vars(item).clear()
            vars(item).update(values)
        for array, copy in zip(arrays, copies, strict=True):
            array[...] = copy
        if random_state is not None:
            random_state.set_state(draws)
        raise
