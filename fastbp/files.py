"""A network, or a population of networks, in one file, without pickle: NumPy's npz, or safetensors.

Both hold the arrays W1, b1, W2, b2, ... and one JSON header with sizes, activations, loss, reduction, dtype,
metadata and the SHA-256 checksum of all of it.  Those of a population are 0.W1, 0.b1, ... of its first architecture,
1.W1, ... of the next one, each with an axis of networks in front; and losses and weights of the networks.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import re
import stat
import warnings
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import arguments, checks
from .backends import Config
from .custom import CustomFunction
from .losses import LOSSES

if TYPE_CHECKING:
    import zipfile

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FORMAT, VERSION = "fastbp network", 1
FIELDS = {"format", "version", "sizes", "activations", "loss", "reduction", "dtype", "metadata", "sha256"}
OPTIONAL_FIELDS = {"scale", "loss_settings"}  # written if they are not the default
POPULATION_FORMAT, POPULATION_VERSION = "fastbp population", 1
POPULATION_FIELDS = FIELDS - {"sizes", "activations"} | {"groups", "n_networks", "is_weighted"}
GROUP_FIELDS = {"sizes", "activations", "members"}
END_BYTES = 22  # of the last record of a zip file
CHUNK_BYTES = 1 << 20  # of an array, read at a time


class SavedPopulation(NamedTuple):
    """A population as it is read from a file."""

    configs: list[Config]  # of each group, as what follows
    members: list[list[int]]
    parameters: list[np.ndarray]  # (n, n_parameters)
    losses: np.ndarray
    weights: np.ndarray | None
    metadata: dict[str, str]


def save(net: Any, path: str | os.PathLike[str], metadata: Mapping[str, str]) -> None:
    """Write a network to `path`; see `Network.save`."""
    _check_no_custom(net._config, "net.parameters by yourself, or pickle the network")
    path = Path(os.path.realpath(path))
    warn_if_nonfinite(net, path, stacklevel=4)
    header = {"format": FORMAT, "version": VERSION, "sizes": net.sizes, "activations": net.activations}
    arrays = {}
    for layer, (W, b) in enumerate(zip(net.weights, net.biases, strict=True), start=1):
        arrays[f"W{layer}"], arrays[f"b{layer}"] = W, b
    _save(path, header, net, metadata, arrays, net.parameters)


def save_population(pop: Any, path: str | os.PathLike[str], metadata: Mapping[str, str]) -> None:
    """Write a population to `path`; see `Population.save`."""
    for group in pop.groups:
        _check_no_custom(group.config, "pop.parameters by yourself, or pickle the population")
    path = Path(os.path.realpath(path))
    warn_if_members_nonfinite(pop, path, stacklevel=4)
    fields = [(group.config.sizes, group.config.activations, group.members.tolist()) for group in pop.groups]
    header = {
        "format": POPULATION_FORMAT,
        "version": POPULATION_VERSION,
        "n_networks": len(pop),
        "groups": [dict(zip(("sizes", "activations", "members"), values, strict=True)) for values in fields],
        "is_weighted": pop.weights is not None,
    }
    arrays = {"losses": np.array(pop.losses)}
    if pop.weights is not None:
        arrays["weights"] = np.array(pop.weights)
    contents = [*(group.parameters for group in pop.groups), *arrays.values()]
    for g, group in enumerate(pop.groups):
        start, n = 0, len(group.members)
        for key, shape in _layer_shapes(group.config):
            stop = start + math.prod(shape)
            arrays[f"{g}.{key}"] = np.ascontiguousarray(group.parameters[:, start:stop]).reshape(n, *shape)
            start = stop
    _save(path, header, pop, metadata, arrays, *contents)


def _check_no_custom(config: Config, instead: str) -> None:
    for item in (*config.activations, config.loss):
        if isinstance(item, CustomFunction):
            raise ValueError(f"{item!r} is custom, and a file does not hold its code: save {instead}")


def _save(
    path: Path,
    header: dict[str, Any],
    saved: Any,
    metadata: Mapping[str, str],
    arrays: dict[str, np.ndarray],
    *contents: np.ndarray,
) -> None:
    """Complete the header by the settings of a network or population, and write it with the arrays.

    `contents` are what the checksum is of.
    """
    header |= {
        "loss": saved.loss_name,
        "reduction": saved.reduction,
        "dtype": saved.dtype.name,
        "metadata": metadata,
    }
    if saved.input_scale != 1:
        header["scale"] = saved.input_scale
    if saved.loss_settings:
        header["loss_settings"] = saved.loss_settings
    header["sha256"] = _checksum(header, *contents)
    encode = _encode_safetensors if path.suffix.lower() == ".safetensors" else _encode_npz
    _write_at_once(path, encode(json.dumps(header), arrays))


def read(path: str | os.PathLike[str]) -> tuple[Config, np.ndarray, dict[str, str]]:
    """Return configuration, flat parameters and metadata of a network from a file; errors as `fastbp.load`."""
    saved = read_any(path)
    if isinstance(saved, SavedPopulation):
        raise ValueError(f"{os.fspath(path)!r} holds a population, not one network: fastbp.load gives it")
    return saved


def read_any(path: str | os.PathLike[str]) -> tuple[Config, np.ndarray, dict[str, str]] | SavedPopulation:
    """Return what a file of `save` or of `save_population` holds; errors as `fastbp.load`."""
    data = Path(path).read_bytes()
    try:
        text, array = (_decode_npz if data[:2] == b"PK" else _decode_safetensors)(data)
        header = json.loads(text)
        if isinstance(header, dict) and header.get("format") == POPULATION_FORMAT:
            return _checked_population(header, array)
        config, parameters = _checked(header, array)
        return config, parameters, checks.metadata(header["metadata"])
    except ImportError:
        raise
    except Exception as error:  # zipfile, json, numpy and safetensors raise a dozen kinds for damaged bytes
        raise ValueError(f"{os.fspath(path)!r} is damaged, or not a file that fastbp wrote: {error}") from error


def warn_if_nonfinite(net: Any, path: str | os.PathLike[str], stacklevel: int = 3) -> None:
    """Warn when a network whose parameters are not all finite is saved to `path` or loaded from it."""
    if checks.is_finite(net.parameters):
        return
    layers = zip(net.weights, net.biases, strict=True)
    bad = [
        f"{letter}{layer}"
        for layer, pair in enumerate(layers, start=1)
        for letter, array in zip("Wb", pair, strict=True)
        if not checks.is_finite(array)
    ]
    warnings.warn(
        f"NaN or infinity in {', '.join(bad)} of the network in {os.fspath(path)!r}",
        RuntimeWarning,
        stacklevel=stacklevel,
    )


def warn_if_members_nonfinite(pop: Any, path: str | os.PathLike[str], stacklevel: int = 3) -> None:
    """Warn when a population whose parameters are not all finite is saved to `path` or loaded from it."""
    bad = sorted(
        member
        for group in pop.groups
        for member, row in zip(group.members.tolist(), group.parameters, strict=True)
        if not checks.is_finite(row)
    )
    if not bad:
        return
    names = ", ".join(map(str, bad[:10])) + ", ..." * (len(bad) > 10)
    warnings.warn(
        f"NaN or infinity in {len(bad)} networks ({names}) of the population in {os.fspath(path)!r}",
        RuntimeWarning,
        stacklevel=stacklevel,
    )


def _checked(header: Any, array: Callable[[str], np.ndarray]) -> tuple[Config, np.ndarray]:
    """Return configuration and flat parameters, or raise for anything that does not fit.

    `array` returns the array of a name; only those of the layers are read.
    """
    if not isinstance(header, dict):
        raise ValueError(f"the header must be a JSON object, got {type(header).__name__}")
    _check_fields(header, FORMAT, VERSION, FIELDS)
    config = _config(header, header)
    flat = [_array(array, key, config.dtype, shape).ravel() for key, shape in _layer_shapes(config)]
    parameters = np.concatenate(flat)
    if header.pop("sha256") != _checksum(header, parameters):
        raise ValueError("the checksum does not match")
    return config, parameters


def _checked_population(header: dict[str, Any], array: Callable[[str], np.ndarray]) -> SavedPopulation:
    """Return a population, or raise for anything that does not fit."""
    _check_fields(header, POPULATION_FORMAT, POPULATION_VERSION, POPULATION_FIELDS)
    configs, members = _groups(header)
    n, is_weighted = header["n_networks"], arguments.flag("is_weighted", header["is_weighted"])
    names = ["losses", "weights"] if is_weighted else ["losses"]
    kept = [_array(array, name, np.dtype(np.float64), (n,)) for name in names]
    parameters = []
    for g, (config, of_group) in enumerate(zip(configs, members, strict=True)):
        n_group = len(of_group)
        flat = [
            _array(array, f"{g}.{key}", config.dtype, (n_group, *shape)).reshape(n_group, -1)
            for key, shape in _layer_shapes(config)
        ]
        parameters.append(np.concatenate(flat, axis=1))
    if header.pop("sha256") != _checksum(header, *parameters, *kept):
        raise ValueError("the checksum does not match")
    weights = kept[1] if is_weighted else None
    if weights is not None and not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ValueError("the weights must be finite, at least 0, and not all 0")
    return SavedPopulation(configs, members, parameters, kept[0], weights, checks.metadata(header["metadata"]))


def _groups(header: dict[str, Any]) -> tuple[list[Config], list[list[int]]]:
    """Return configuration and members of each group of a population."""
    n, groups = arguments.integer("n_networks", header["n_networks"]), header["groups"]
    if not isinstance(groups, list) or not groups:
        raise ValueError(f"groups must be a list, got {groups!r}")
    for group in groups:
        if not isinstance(group, dict) or set(group) != GROUP_FIELDS or not isinstance(group["members"], list):
            raise ValueError(f"a group must have the fields {', '.join(sorted(GROUP_FIELDS))}, got {group!r}")
    members = [[arguments.integer("members", i, at_least=0) for i in group["members"]] for group in groups]
    is_ascending = all(of_group and of_group == sorted(of_group) for of_group in members)
    firsts = [of_group[0] for of_group in members if of_group]
    if (
        not is_ascending
        or firsts != sorted(firsts)
        or sorted(i for of_group in members for i in of_group) != [*range(n)]
    ):
        raise ValueError(f"the members of the groups are not those of {n} networks")
    configs = [_config(header, group) for group in groups]
    for config in configs:
        checks.widths(config.sizes, config.activations, config.loss)
        if (config.sizes[0], config.sizes[-1]) != (configs[0].sizes[0], configs[0].sizes[-1]):
            raise ValueError(f"sizes {config.sizes} and {configs[0].sizes} in one population")
    if len(set(configs)) < len(configs):
        raise ValueError("two groups have one architecture")
    return configs, members


def _check_fields(header: dict[str, Any], format: str, version: int, fields: set[str]) -> None:
    """Check which fields a header has, and that it is of this format."""
    if header.get("format") != format or header.get("version") != version:
        raise ValueError(
            f"format {header.get('format')!r}, version {header.get('version')!r}; expected {format!r}, {version}"
        )
    if not fields <= set(header) <= fields | OPTIONAL_FIELDS:
        raise ValueError(f"the header has the fields {', '.join(sorted(header))}; expected {', '.join(sorted(fields))}")


def _config(header: dict[str, Any], layers: dict[str, Any]) -> Config:
    """Return the configuration of networks; `layers` has their sizes and activations."""
    for field in ("sizes", "activations"):
        if not isinstance(layers[field], list):
            raise ValueError(f"{field} must be a list, got {layers[field]!r}")
    loss = header["loss"]
    if header.get("loss_settings", {}) != {}:
        loss = _loss(arguments.name("loss", loss, LOSSES), header["loss_settings"])
    scale = header.get("scale", 1.0)
    return checks.config(
        Config(layers["sizes"], layers["activations"], loss, header["reduction"], header["dtype"], scale)
    )


def _layer_shapes(config: Config) -> list[tuple[str, tuple[int, ...]]]:
    """Return name and shape of each array of a network, in the order of its parameters."""
    return [
        (f"{letter}{layer}", shape)
        for layer, (n_in, n_out) in enumerate(pairwise(config.sizes), start=1)
        for letter, shape in (("W", (n_in, n_out)), ("b", (n_out,)))
    ]


def _array(array: Callable[[str], np.ndarray], key: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Return the array of a name, of this dtype and shape."""
    values = array(key)
    if values.shape != shape or values.dtype != dtype:
        raise ValueError(f"{key} is {values.dtype} {values.shape}, expected {dtype} {shape}")
    return values


def _loss(name: str, settings: Any) -> Any:
    """Return a loss with the parameter that the file holds."""
    kind = LOSSES[name].settings
    if kind is None or not isinstance(settings, dict):
        raise ValueError(f"loss {name!r} with the settings {settings!r}")
    return kind(**settings)


def _checksum(header: dict[str, Any], *contents: np.ndarray) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for content in contents:
        little_endian = content.dtype.newbyteorder("<")
        for row in np.atleast_2d(content):  # of a population they lie apart
            digest.update(np.ascontiguousarray(row, little_endian).data)
    return digest.hexdigest()


def _encode_npz(header: str, arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, header=np.frombuffer(header.encode(), np.uint8), **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _decode_npz(data: bytes) -> tuple[str, Callable[[str], np.ndarray]]:
    import zipfile

    archive = zipfile.ZipFile(io.BytesIO(data))
    check_members(archive)

    def array(name: str) -> np.ndarray:
        member = archive.getinfo(name + ".npy")
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise ValueError(f"{member.filename} is compressed")  # few bytes may be gigabytes; fastbp does not compress
        return read_member(archive, member)

    return array("header").tobytes().decode(), array


def check_members(archive: zipfile.ZipFile) -> None:
    """Check that a zip file has as many members as it says, each under one name that no other has."""
    members = archive.infolist()
    file = archive.fp
    assert file is not None
    file.seek(-END_BYTES - len(archive.comment), os.SEEK_END)
    n = int.from_bytes(file.read(END_BYTES)[10:12], "little")  # zipfile ignores it
    if n not in (len(members), 0xFFFF):
        raise ValueError(f"{len(members)} members where there should be {n}")
    if len({member.filename for member in members}) < len(members):
        raise ValueError("two members have one name")
    for member in members:
        archive.open(member).close()  # compares its name in the directory with that in its header


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Read an array of an npz file, the whole member: otherwise zipfile does not compare its checksum.

    Parameters
    ----------
    archive : ZipFile
    member : ZipInfo

    Raises
    ------
    ValueError
        If it is no array of plain values, or its length is not that of its header.
    Exception
        From zipfile and its decompressors for damaged bytes, and from NumPy for a damaged header.
    """
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{member.filename} has the npy version {version}")
        read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        shape, is_fortran, dtype = read_header(stream)
        length = dtype.itemsize * math.prod(shape)
        if dtype.hasobject or min(shape, default=0) < 0 or member.file_size != stream.tell() + length:
            raise ValueError(f"{member.filename} of {member.file_size} bytes cannot be an array {dtype} {shape}")
        array = np.empty(shape, dtype, "F" if is_fortran else "C")
        content = memoryview(array.reshape(-1, order="A").view(np.uint8))  # type: ignore[arg-type]
        start = 0
        while chunk := stream.read(CHUNK_BYTES):
            content[start : start + len(chunk)] = chunk
            start += len(chunk)
    if start < length:
        raise ValueError(f"{member.filename} is cut short")
    return array


def _encode_safetensors(header: str, arrays: dict[str, np.ndarray]) -> bytes:
    return _safetensors().save(arrays, {"fastbp": header})


def _decode_safetensors(data: bytes) -> tuple[str, Callable[[str], np.ndarray]]:
    length = int.from_bytes(data[:8], "little")  # the format: length in 8 bytes, JSON, tensors
    if length > len(data) - 8:
        raise ValueError(f"a header of {length} bytes in a file of {len(data)}")
    header = json.loads(data[8 : 8 + length])["__metadata__"]["fastbp"]
    return header, _safetensors().load(data).__getitem__


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(
            "safetensors files need the package safetensors: pip install 'fastbp[files]' "
            "(any other suffix than .safetensors writes npz, which needs no package)"
        ) from None
    return safetensors.numpy


def _write_at_once(path: Path, *chunks: Any) -> None:
    """Write beside `path`, then rename: whatever happens, `path` is the old file or the new one.

    Unfinished files of writers of this path that were killed are deleted.
    """
    beside = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        with open(beside, "xb") as file:
            if fcntl is not None:
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)  # held until the file has its name, or the process ends
            _clear_unfinished(path.parent, re.escape(path.name), _time(beside))
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
            if path.exists():
                beside.chmod(stat.S_IMODE(path.stat().st_mode))
            if fcntl is None:
                file.close()  # Windows renames no open file
            os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _clear_unfinished(folder: Path, name: str, older_than: int) -> None:
    """Delete unfinished files of killed writers whose names match `name`, none of them newer than `older_than`."""
    unfinished = re.compile(rf"\.{name}\.[0-9a-f]{{8}}\.tmp")
    for path in folder.iterdir():
        if unfinished.fullmatch(path.name) and _time(path) <= older_than and not _is_being_written(path):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_being_written(path: Path) -> bool:
    """Whether an active writer holds the lock; Windows deletes no open file anyway."""
    if fcntl is None:
        return False
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # deleted meanwhile
        return -1
