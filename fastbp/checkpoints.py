"""Checkpoint files: all that is needed to resume a training exactly, written completely or not at all.

The format, without pickle: the line `MAGIC`; the version of the format and the lengths of the whole file and of the
header, three little-endian unsigned 64-bit numbers; the header, JSON with `info` and each array's dtype (one of
`DTYPES`) and shape; the arrays one after the other, C order, little-endian; the SHA-256 of everything before it.

The checksum finds damage, but a crafted file can have a right one: nothing in a file is used unchecked.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import arguments
from .files import _clear_unfinished, _time, _write_at_once

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

MAGIC = b"fastbp checkpoint\n"
VERSION = 1
_LENGTHS = struct.Struct("<QQQ")  # version, bytes of the file, bytes of the header
_SUM_BYTES = hashlib.sha256().digest_size
DTYPES = ("|b1", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8")
_NAMES = {np.dtype(dtype).name for dtype in DTYPES}
_MAX_AXES = 32  # NumPy 1.26 has no more
_MAX_BYTES = 1 << 62
_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
_POSITIONS = {"pos": 624, "buffer_pos": 4}  # of generators in their buffers, which NumPy reads there unchecked
_MAX_POOL = 1024  # numbers of a SeedSequence: seeding takes the square of it
_FIELD = re.compile(r"\{\w*(?::(\d*d?))?\}")  # of a path: {epoch} or {epoch:04d}


class CheckpointError(ValueError):
    """A file is damaged, cut short, no checkpoint, or holds what no training writes."""


# ------------------------------------------------------------------ one file


def write(path: str | os.PathLike[str], arrays: Mapping[str, ArrayLike], info: dict[str, Any]) -> None:
    """Write a checkpoint completely or not at all: beside `path`, forced to disk, then renamed.

    Files that killed writers of this path left beside it are deleted if they are older than the file at `path`.

    Parameters
    ----------
    path : str or Path
    arrays : dict of str to array_like
        Of booleans, integers or floats (`DTYPES`), of any shape up to 32 axes.
    info : dict
        What JSON can hold; tuples come back as lists.

    Raises
    ------
    TypeError
        For an array of anything else, or `info` that JSON cannot hold; nothing is written then.
    OSError
        Where the file cannot be written; the file that was at `path` is still there.
    """
    path = Path(os.path.realpath(path))
    plain = {name: _plain(name, array) for name, array in arrays.items()}
    header = {"info": info, "arrays": {name: [array.dtype.str, array.shape] for name, array in plain.items()}}
    try:
        head = json.dumps(header).encode()
    except (TypeError, ValueError) as error:
        raise TypeError(f"info must be what JSON can hold: {error}") from None
    length = len(MAGIC) + _LENGTHS.size + len(head) + sum(array.nbytes for array in plain.values()) + _SUM_BYTES
    parts = [MAGIC, _LENGTHS.pack(VERSION, length, len(head)), head, *map(_bytes, plain.values())]
    checksum = hashlib.sha256()
    for part in parts:
        checksum.update(part)
    _write_at_once(path, *parts, checksum.digest())
    _sync_folder(path.parent)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a checkpoint.

    Returns
    -------
    arrays : dict of str to ndarray
    info : dict

    Raises
    ------
    CheckpointError
        Where the file is damaged, cut short, no checkpoint or not well-formed.  The message names the newest sound
        checkpoint before it in the same folder, if there is one.
    OSError
        Where it cannot be read; FileNotFoundError where there is none.
    """
    try:
        return _load(Path(path))
    except CheckpointError as error:
        older = next(filter(_is_sound, _before(Path(path))), None)
        advice = "" if older is None else f"; the one before it, {os.fspath(older)!r}, is sound"
        raise CheckpointError(f"checkpoint {os.fspath(path)!r} {error}{advice}") from None


def _load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        return _decoded(path.read_bytes())
    except MemoryError:
        raise CheckpointError("takes more memory than there is") from None


def _decoded(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if not data.startswith(MAGIC):
        raise CheckpointError("is empty" if not data else "is damaged, or not a file that fastbp wrote")
    start = len(MAGIC) + _LENGTHS.size
    if len(data) < start + _SUM_BYTES:
        raise CheckpointError(f"is cut short: {len(data)} bytes")
    version, length, head = _LENGTHS.unpack_from(data, len(MAGIC))
    if len(data) != length:
        word = "cut short" if len(data) < length else "damaged"
        raise CheckpointError(f"is {word}: {len(data)} bytes where there should be {length}")
    content = memoryview(data)[:-_SUM_BYTES]
    if hashlib.sha256(content).digest() != data[-_SUM_BYTES:]:
        raise CheckpointError("is damaged: the checksum does not match")
    if version != VERSION:
        raise CheckpointError(f"has format version {version}; this version of fastbp reads {VERSION}")
    try:
        header = json.loads(data[start : start + head])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"has a header that cannot be read: {error}") from None
    if (
        not isinstance(header, dict)
        or set(header) != {"arrays", "info"}
        or not all(isinstance(part, dict) for part in header.values())
    ):
        raise CheckpointError("has a header that is not an object with the objects arrays and info")
    arrays, at = {}, start + head
    for name, declared in header["arrays"].items():
        dtype, shape, length = _checked_array(name, declared)
        if length > len(content) - at:
            raise CheckpointError(f"is too short for its array {name!r}, {dtype} {shape}")
        array = np.ndarray(shape, dtype, content, at)
        if dtype == "|b1" and array.view(np.uint8).max(initial=0) > 1:
            raise CheckpointError(f"has bytes in its array {name!r} that are no booleans")
        arrays[name] = array.astype(array.dtype.newbyteorder("="))  # a copy: aligned, and one can write into it
        at += length
    if at != len(content):
        raise CheckpointError(f"has {len(content) - at} bytes that belong to no array")
    return arrays, header["info"]


def _checked_array(name: str, declared: Any) -> tuple[str, list[int], int]:
    """Return dtype, shape and number of bytes of an array, as the header of a file has them."""
    dtype, shape = declared if isinstance(declared, list) and len(declared) == 2 else (None, None)
    if (
        dtype not in DTYPES
        or not isinstance(shape, list)
        or len(shape) > _MAX_AXES
        or not all(type(n) is int and n >= 0 for n in shape)
        or np.dtype(dtype).itemsize * math.prod(n or 1 for n in shape) > _MAX_BYTES
    ):
        raise CheckpointError(f"has an array {name!r} of dtype and shape {short(declared)}")
    return dtype, shape, np.dtype(dtype).itemsize * math.prod(shape)


def short(value: Any) -> str:
    """Return a value from a file as text for a message, however long or deep it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # of an integer of thousands of digits
        text = type(value).__name__
    return text if len(text) <= 80 else text[:80] + "..."


def _plain(name: str, array: ArrayLike) -> np.ndarray:
    """Return an array as the file holds it: C order, little-endian."""
    array = np.asarray(array)
    dtype = array.dtype.newbyteorder("<")
    if dtype.str not in DTYPES or array.ndim > _MAX_AXES:
        raise TypeError(
            f"array {name!r} must hold booleans, integers or floats of at most 64 bits in at most "
            f"{_MAX_AXES} axes, got dtype {array.dtype} in {array.ndim}"
        )
    return np.asarray(array, dtype=dtype, order="C")


def _bytes(array):
    return array.reshape(-1).view(np.uint8).data


def _sync_folder(folder: Path) -> None:
    """Force the renaming itself to disk, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_checkpoint(path):
    try:
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _is_sound(path):
    if not _is_checkpoint(path):
        return False
    try:
        _load(path)
    except (OSError, CheckpointError):
        return False
    return True


# ------------------------------------------------------------------ a folder of files


def numbered(pattern: str | os.PathLike[str], number: int) -> Path:
    """Return the path of the checkpoint of this number.

    Parameters
    ----------
    pattern : str or Path
        The file name may hold one field, such as "run-{epoch}.ckpt" or "run-{epoch:04d}.ckpt"; without one the number
        is put before the suffix, "run.ckpt" -> "run-12.ckpt".
    number : int
        Such as that of the epoch or the step.
    """
    folder, before, spec, after = _split(pattern)
    return folder / f"{before}{number:{spec}}{after}"


def latest(place: str | os.PathLike[str]) -> Path | None:
    """Return the path of the newest checkpoint, or None where there is none.

    Parameters
    ----------
    place : str or Path
        A pattern as in `numbered`: the file of the highest number.  Or a folder: the file written last; among files
        whose names differ in the last number alone, it is the number that counts.
    """
    if not os.path.isdir(place):
        members = _members(place)
        return members[-1][1] if members else None
    files = [file for file in Path(place).iterdir() if _is_checkpoint(file)]
    heads = {_pattern_of(file): file for file in sorted(files, key=_last_number)}
    return max(heads.values(), key=_time, default=None)


def last_number(pattern: str | os.PathLike[str]) -> int:
    """Return the highest number of the checkpoints of a pattern as in `numbered`, -1 where there is none."""
    return max((number for number, _ in _members(pattern)), default=-1)


def rotate(pattern: str | os.PathLike[str], keep: int, last: int | None = None) -> list[Path]:
    """Keep the checkpoints of the highest `keep` numbers and delete the others of this pattern.

    Files that killed writers left beside them are deleted too if they are older than all that are kept.

    Parameters
    ----------
    pattern : str or Path
        As in `numbered`.
    keep : int
    last : int, optional
        Those of higher numbers are neither counted nor deleted.

    Returns
    -------
    list of Path
        Those kept, the newest last.
    """
    keep = arguments.integer("keep", keep)
    members = [path for number, path in _members(pattern) if last is None or number <= last]
    kept = members[-keep:]
    for path in members[:-keep]:
        path.unlink(missing_ok=True)
    if kept:
        folder, before, _, after = _split(pattern)
        _clear_unfinished(folder, f"{re.escape(before)}[0-9]+{re.escape(after)}", min(map(_time, kept)))
    return kept


def _split(pattern: str | os.PathLike[str]) -> tuple[Path, str, str, str]:
    """Return folder, name before the number, its format and name after it."""
    path = Path(pattern)
    fields = list(_FIELD.finditer(path.name))
    if not fields and not re.search("[{}]", os.fspath(path)):
        return path.parent, path.stem + "-", "", path.suffix
    if len(fields) != 1 or re.search("[{}]", os.fspath(path.parent) + _FIELD.sub("", path.name)):
        raise ValueError(
            f"pattern {os.fspath(pattern)!r} must have one field, in the file name, such as 'run-{{epoch}}.ckpt'"
        )
    (field,) = fields
    return path.parent, path.name[: field.start()], field[1] or "", path.name[field.end() :]


def _members(pattern: str | os.PathLike[str]) -> list[tuple[int, Path]]:
    """Return numbers and paths of the checkpoints of a pattern, the highest number last."""
    folder, before, _, after = _split(pattern)
    name = re.compile(f"{re.escape(before)}([0-9]+){re.escape(after)}")
    return sorted(
        (int(match[1]), path)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := name.fullmatch(path.name)) and _is_checkpoint(path)
    )


def _before(path: Path) -> Iterator[Path]:
    """Yield the checkpoints that may replace `path`, the newest first.

    Of files whose names differ in the last number alone those of lower numbers; then all others of the same suffix.
    """
    files = [other for other in path.parent.iterdir() if other.name != path.name and other.suffix == path.suffix]
    family = [other for other in files if _pattern_of(other) == _pattern_of(path)]
    yield from sorted(
        (other for other in family if _last_number(other) < _last_number(path)), key=_last_number, reverse=True
    )
    yield from sorted((other for other in files if other not in family), key=_time, reverse=True)


def _pattern_of(path: Path) -> str:
    """Return the name with its last number left out."""
    return re.sub(r"[0-9]+(?=[^0-9]*$)", "{}", path.name)


def _last_number(path: Path) -> int:
    return int((re.findall("[0-9]+", path.name) or ["-1"])[-1])


# ------------------------------------------------------------------ random generators


def generator_state(rng: np.random.Generator) -> dict[str, Any]:
    """Return the state of a random generator as JSON can hold it.

    Parameters
    ----------
    rng : numpy.random.Generator
        Of one of NumPy's own bit generators: PCG64, PCG64DXSM, MT19937, Philox, SFC64.
    """
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, got {rng!r}")
    state = rng.bit_generator.state
    if state["bit_generator"] not in _GENERATORS:
        raise TypeError(f"rng must use one of NumPy's bit generators ({', '.join(_GENERATORS)}), got {rng!r}")
    source = rng.bit_generator.seed_seq
    kept = None
    if isinstance(source, np.random.SeedSequence):  # what `rng.spawn` draws on
        kept = {
            "entropy": source.entropy,
            "spawn_key": source.spawn_key,
            "pool_size": source.pool_size,
            "n_children_spawned": source.n_children_spawned,
        }
    return as_json({"state": state, "seed_sequence": kept})


def check_number(
    name: str, value: Any, is_integer: bool = False, at_least: float = -math.inf, below: float = math.inf
) -> Any:
    """Return a number of a file, which may be NaN or infinite where there are no bounds; else CheckpointError."""
    is_number = type(value) is int if is_integer else isinstance(value, int | float) and not isinstance(value, bool)
    is_bounded = at_least > -math.inf or below < math.inf
    if not is_number or is_bounded and not at_least <= value < below:
        bounds = f" from {at_least:g} to {below:g}" if is_bounded else ""
        raise CheckpointError(
            f"{name} must be {'an integer' if is_integer else 'a number'}{bounds}, got {short(value)}"
        )
    return value


def restore_generator(state: Any) -> np.random.Generator:
    """Return a generator that continues exactly from a state of `generator_state`.

    Raises
    ------
    ValueError
        For what `generator_state` does not return.
    """
    if not isinstance(state, dict) or set(state) != {"state", "seed_sequence"} or not isinstance(state["state"], dict):
        raise ValueError("a generator must have a state and a seed_sequence")
    kept, name = state["seed_sequence"], state["state"].get("bit_generator")
    if name not in _GENERATORS:
        raise ValueError(f"bit generator {short(name)} is unknown (known: {', '.join(_GENERATORS)})")
    if not _is_like(state["state"], as_json(getattr(np.random, name)(0).state)):
        raise ValueError(f"the state of {name} has not the values that it needs")
    try:
        seed = 0 if kept is None else np.random.SeedSequence(**_seed_sequence(kept))
        bit_generator = getattr(np.random, name)(seed)
        bit_generator.state = from_json(state["state"])
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"the state of {name} cannot be restored: {error}") from None
    if as_json(bit_generator.state) != state["state"]:
        raise ValueError(f"the state of {name} has numbers that are too large")
    return np.random.Generator(bit_generator)


def _is_like(value, example, key=None):
    """Whether a value of JSON has the keys, lengths and types of an example of integers."""
    if isinstance(example, dict):
        return (
            isinstance(value, dict)
            and set(value) == set(example)
            and all(_is_like(value[key], item, key) for key, item in example.items())
        )
    if isinstance(example, list):
        return isinstance(value, list) and len(value) == len(example) and all(map(_is_like, value, example))
    if isinstance(example, str):
        return value == example
    return type(value) is int and 0 <= value <= _POSITIONS.get(key, value)


def _seed_sequence(kept):
    """Return the arguments of a SeedSequence; NumPy checks what is not checked here."""
    if not isinstance(kept, dict) or set(kept) != {"entropy", "spawn_key", "pool_size", "n_children_spawned"}:
        raise ValueError("the seed sequence has not the values that it needs")
    arguments.integer("pool_size", kept["pool_size"])
    arguments.integer("n_children_spawned", kept["n_children_spawned"], at_least=0)
    if kept["pool_size"] > _MAX_POOL or kept["n_children_spawned"] > _MAX_BYTES:
        raise ValueError("the seed sequence has numbers that are too large")
    if not isinstance(kept["spawn_key"], list):
        raise ValueError("the spawn_key of the seed sequence must be a list")
    for i, number in enumerate(kept["spawn_key"]):
        arguments.integer(f"spawn_key[{i}]", number, at_least=0)
    return from_json(kept)


def as_json(value: Any) -> Any:
    """Return a value as JSON can hold it: arrays as dicts of their dtype and values."""
    if isinstance(value, dict):
        if set(value) == {"dtype", "values"}:
            raise TypeError("a dict of dtype and values alone would be taken for an array")
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.name, "values": value.tolist()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def from_json(value: Any) -> Any:
    """Return what `as_json` was given, tuples as lists."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"dtype", "values"}:
        return _array_from_json(**value)
    return {key: from_json(item) for key, item in value.items()}


def _array_from_json(dtype, values):
    """Return an array; ValueError for values that are not those of an array of this dtype, as `as_json` has them."""
    try:
        if dtype in _NAMES:
            array = np.array(values, dtype)
            if json.dumps(array.tolist()) == json.dumps(values):
                return array
    except (ValueError, TypeError, OverflowError):
        pass
    raise ValueError(f"an array of dtype {short(dtype)} cannot have the values {short(values)}")


# ------------------------------------------------------------------ a trainer


def check_training(info: dict[str, Any]) -> None:
    """Check the fields of a checkpoint of a `Trainer` besides its configuration; ValueError."""
    for name, below in (("step", 1 << 62), ("epochs", 1 << 62), ("skipped", 1 << 62), ("key", 1 << 64)):
        check_number(name, info.get(name), is_integer=True, at_least=0, below=below)
    check_number("lr_scale", info.get("lr_scale"), at_least=0, below=sys.float_info.max)
    history = info.get("history")
    if not isinstance(history, dict) or not all(isinstance(values, list) for values in history.values()):
        raise CheckpointError(f"history must be an object of lists, got {short(history)}")
    if len({*map(len, history.values())}) > 1 or (history and "loss" not in history):
        raise CheckpointError("history must have a loss, and all its lists must be of one length")
    for name, values in history.items():
        for value in values:
            check_number(f"history {name!r}", value)


def check_arrays(arrays: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Check that the arrays of a checkpoint have the names, shapes and dtypes of those of a `Trainer`; ValueError."""
    if set(arrays) != set(expected):
        raise CheckpointError(f"its arrays must be {', '.join(expected)}, found {short(list(arrays))}")
    for name, array in expected.items():
        found = arrays[name]
        if found.shape != array.shape or found.dtype != array.dtype:
            raise CheckpointError(
                f"array {name!r} must be {array.dtype} {array.shape}, found {found.dtype} {found.shape}"
            )


def split_states(states: list[tuple[str, dict]]) -> tuple[list[tuple[str, Any]], dict[str, np.ndarray]]:
    """Return the states of callbacks as JSON can hold them, and their arrays by the names that a checkpoint gives them.

    Parameters
    ----------
    states : list of (str, dict)
        Names of the classes and what ``state_dict`` returned.
    """
    arrays: dict[str, np.ndarray] = {}
    rests = []
    for i, (name, state) in enumerate(states):
        arrays_of_state = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
        arrays |= {f"callback {i} {key}": value for key, value in arrays_of_state.items()}
        try:
            rest = as_json({key: value for key, value in state.items() if key not in arrays_of_state})
            json.dumps(rest)
        except TypeError as error:
            raise TypeError(f"state_dict of {name} must hold arrays and what JSON can hold: {error}") from None
        rests.append((name, rest))
    return rests, arrays


def resumed_fit(fit: Any, arrays: dict[str, np.ndarray]) -> dict[str, Any] | None:
    """Return the state of the call of `fit` that a checkpoint was written in, or None; ValueError.

    The arrays of its callbacks are moved there from `arrays`.
    """
    if fit is None:
        return None
    if not isinstance(fit, dict) or set(fit) != {"callbacks", "plateau", "stopped"}:
        raise CheckpointError(f"fit must have callbacks, plateau and stopped, got {short(fit)}")
    plateau, stopped, states = fit["plateau"], fit["stopped"], fit["callbacks"]
    if not isinstance(plateau, list) or len(plateau) != 2:
        raise CheckpointError(f"plateau must be a loss and a count, got {short(plateau)}")
    check_number("best loss", plateau[0])
    check_number("plateau", plateau[1], is_integer=True, at_least=0, below=1 << 62)
    if not isinstance(stopped, str | None):
        raise CheckpointError(f"stopped must be a text or null, got {short(stopped)}")
    return {**fit, "callbacks": callback_states(states, arrays)}


def callback_states(states: Any, arrays: dict[str, np.ndarray]) -> list[tuple[str, Any]]:
    """Return names and states of callbacks from what `split_states` made of them, moving their arrays; ValueError."""
    if not isinstance(states, list) or not all(
        isinstance(pair, list) and list(map(type, pair)) == [str, dict] for pair in states
    ):
        raise CheckpointError(f"callbacks must be pairs of a name and an object, got {short(states)}")
    callbacks = []
    for i, (name, state) in enumerate(states):
        start = f"callback {i} "
        keys = [key for key in arrays if key.startswith(start)]
        arrays_of_state = {key[len(start) :]: arrays.pop(key) for key in keys}
        state = from_json(state)
        if not isinstance(state, dict):
            raise CheckpointError(f"the state of {short(name)} must be an object")
        callbacks.append((name, state | arrays_of_state))
    return callbacks


# ------------------------------------------------------------------ the trainer of a population


def check_population(info: dict[str, Any], arrays: dict[str, np.ndarray], n: int) -> dict[str, np.ndarray]:
    """Check the fields of a checkpoint of a `PopulationTrainer` of n networks besides its configuration; ValueError.

    Returns
    -------
    dict of ndarray
        The series of its history, which are moved there from `arrays`.
    """
    check_number("epochs", info.get("epochs"), is_integer=True, at_least=0, below=1 << 62)
    scales = info.get("lr_scale")
    if not isinstance(scales, list) or len(scales) not in (1, n):
        raise CheckpointError(f"lr_scale must be a list of 1 or {n} numbers, got {short(scales)}")
    for scale in scales:
        check_number("lr_scale", scale, at_least=0, below=sys.float_info.max)
    order, streams = info.get("order"), info.get("rng")
    if order not in (None, "shared", "own") or not isinstance(streams, list) or (order is None) != (streams == []):
        raise CheckpointError(f"order and rng must be 'shared' or 'own' and a list, got {short(order)}")
    history = {name: arrays.pop(name) for name in list(arrays) if name.startswith("history ")}
    history = {name.removeprefix("history "): values for name, values in history.items()}
    if len({values.shape for values in history.values()}) > 1 or history and "loss" not in history:
        raise CheckpointError("history must have a loss, and all its series must be of one length")
    for name, values in history.items():
        if values.ndim != 2 or values.shape[1] != n or values.dtype != np.float64:
            raise CheckpointError(
                f"history {name!r} must be float64 (n_epochs, {n}), got {values.dtype} {values.shape}"
            )
    return history


def check_population_arrays(arrays: Mapping[str, np.ndarray], n_streams: int) -> None:
    """Check the values of arrays of a checkpoint of a `PopulationTrainer`, whose shapes are right; ValueError."""
    for name, array in arrays.items():
        if name.startswith(("step ", "skipped ")) and array.size and (array.min() < 0 or array.max() >= 1 << 62):
            raise CheckpointError(f"array {name!r} must hold numbers of steps, got {array.min()} to {array.max()}")
    of = arrays.get("stream_of")
    if of is not None and (of.min() < 0 or of.max() >= n_streams):
        raise CheckpointError(f"array 'stream_of' must hold 0 to {n_streams - 1}, got {of.min()} to {of.max()}")


def resumed_population_fit(fit: Any, arrays: dict[str, np.ndarray], n: int) -> dict[str, Any] | None:
    """Return the state of the call of `fit` that a checkpoint was written in, or None; ValueError.

    Its arrays and those of its callbacks are moved there from `arrays`.
    """
    if fit is None:
        return None
    if not isinstance(fit, dict) or set(fit) != {"callbacks", "epochs", "stopped", "ended"}:
        raise CheckpointError(f"fit must have callbacks, epochs, stopped and ended, got {short(fit)}")
    check_number("epochs of fit", fit["epochs"], is_integer=True, at_least=0, below=1 << 62)
    if not isinstance(fit["ended"], str | None):
        raise CheckpointError(f"ended must be a text or null, got {short(fit['ended'])}")
    stopped = fit["stopped"]
    if not isinstance(stopped, list) or len(stopped) != n or not all(isinstance(item, str | None) for item in stopped):
        raise CheckpointError(f"stopped must be {n} texts or nulls, got {short(stopped)}")
    moved = {name: arrays.pop(f"fit {name}") for name in ("best", "best_epoch", "last") if f"fit {name}" in arrays}
    shapes = {name: (array.dtype.name, array.shape) for name, array in moved.items()}
    if shapes != {"best": ("float64", (n,)), "best_epoch": ("int64", (n,)), "last": ("float64", (n,))}:
        raise CheckpointError(f"fit must have the arrays best, best_epoch and last, found {short(shapes)}")
    return {**fit, **moved, "callbacks": callback_states(fit["callbacks"], arrays)}
