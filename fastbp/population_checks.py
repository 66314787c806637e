"""Checks of what a population is made of: architectures, numbers of networks, seeds, and numbers for each network."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from . import arguments, checks, losses
from .backends import Config
from .custom import CustomFunction


def n_parameters(config: Config) -> int:
    """Return the number of parameters of a network."""
    return sum((n_in + 1) * n_out for n_in, n_out in pairwise(config.sizes))


def row_length(config: Config) -> int:
    """Return the length of a row of `aligned_rows`."""
    return -(-n_parameters(config) // 16) * 16


def numbers(argument: str, value: Any) -> np.ndarray:
    """Check for an array of real numbers."""
    checks.unmasked(argument, value)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise TypeError(f"{argument} must be numbers, got {value!r}") from error
    if array.dtype.kind not in "buif" and array.size:
        raise TypeError(f"{argument} must be numbers, got {value!r}")
    return array


def for_each(argument: str, value: Any, n: int) -> np.ndarray:
    """Check a number at least 0, or one for each of n networks; return float64 (n,)."""
    array = numbers(argument, value)
    if array.shape not in ((), (n,)):
        raise ValueError(f"{argument} has shape {array.shape}, expected one number, or ({n},): one for each network")
    for i, item in enumerate(np.atleast_1d(array).tolist()):
        arguments.number(f"{argument}[{i}]" if array.ndim else argument, item, at_least=0)
    return np.broadcast_to(array.astype(np.float64), (n,)).copy()


def is_sequence(value: Any) -> bool:
    """Whether a value has a length, and is no text."""
    return not isinstance(value, str) and hasattr(value, "__len__")


def architectures(sizes: Any, activations: Any) -> list[tuple[Any, Any]]:
    """Return sizes and activations of each architecture."""
    several = is_sequence(sizes) and any(map(is_sequence, sizes))
    if not several:
        return [(sizes, activations)]
    if not (is_sequence(activations) and any(map(is_sequence, activations))):
        activations = [activations] * len(sizes)
    if len(activations) != len(sizes):
        raise ValueError(
            f"activations must be those of all architectures, or one item for each of the {len(sizes)}, "
            f"got {activations!r}"
        )
    return list(zip(sizes, activations, strict=True))


def checked(config: Config, prefix: str) -> Config:
    """Check an architecture; messages begin with `prefix`."""
    try:
        config = checks.config(config)
        checks.widths(config.sizes, config.activations, config.loss)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{prefix}{error}") from None
    return config


def check_same(config: Config, first: Config, name: str, first_name: str) -> None:
    """Check that two networks may be members of one population."""
    for what, value, expected in [
        ("inputs", config.sizes[0], first.sizes[0]),
        ("outputs", config.sizes[-1], first.sizes[-1]),
        *zip(Config._fields[2:], plain(config)[2:], plain(first)[2:], strict=True),
    ]:
        if value != expected:
            value, expected = (getattr(each, what, number) for each, number in ((config, value), (first, expected)))
            raise ValueError(f"{name} has {what} {value}, but {first_name} has {expected}: they must be the same")


def plain(config: Config) -> Config:
    """Return a configuration with the loss as name and parameter: "huber" is Huber(1.0)."""
    loss = config.loss
    if isinstance(loss, CustomFunction):
        return config
    return config._replace(loss=(losses.name_of(loss), tuple(losses.settings_of(loss).values())))


def counts(value: Any, n_architectures: int) -> list[int]:
    """Check the number of networks of each architecture."""
    if not is_sequence(value):
        return [arguments.integer("n_networks", value)] * n_architectures
    if len(value) != n_architectures:
        raise ValueError(f"n_networks must be one number or {n_architectures} (one per architecture), got {value!r}")
    return [arguments.integer(f"n_networks[{j}]", count) for j, count in enumerate(value)]


def seeds(seed: Any, n: int) -> list[Any]:
    """Return a seed for each of n networks."""
    if isinstance(seed, np.random.SeedSequence):  # a copy: spawning would change what it gives next
        seed = np.random.SeedSequence(
            seed.entropy,
            spawn_key=seed.spawn_key,
            pool_size=seed.pool_size,
            n_children_spawned=seed.n_children_spawned,
        )
        return seed.spawn(n)
    if is_sequence(seed):
        if len(seed) != n:
            raise ValueError(f"seed must be one, or {n} (one for each network), got {len(seed)}")
        return [arguments.generator(f"seed[{i}]", item) for i, item in enumerate(seed)]
    if seed is not None:
        try:
            seed = arguments.integer("seed", seed, at_least=0)
        except (TypeError, ValueError) as error:
            expected = f"None, an int >= 0, a SeedSequence or a sequence of {n} seeds"
            raise type(error)(f"seed must be {expected}, got {seed!r}") from None
    return np.random.SeedSequence(seed).spawn(n)


def words(config: Config) -> str:
    """Return how messages name an architecture."""
    return f"{list(config.sizes)} {list(map(str, config.activations))} ({config.loss}, {config.dtype})"
