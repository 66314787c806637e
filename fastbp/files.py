"""A network in one file, without pickle: NumPy's npz, or safetensors.

Both hold the arrays W1, b1, W2, b2, ... and one JSON header with sizes, activations, loss, reduction, dtype,
metadata and the SHA-256 checksum of all of it.
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
from typing import TYPE_CHECKING, Any

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
END_BYTES = 22  # of the last record of a zip file
CHUNK_BYTES = 1 << 20  # of an array, read at a time


def save(net: Any, path: str | os.PathLike[str], metadata: Mapping[str, str]) -> None:
    """Write a network to `path`; see `Network.save`."""
    for item in (*net._config.activations, net._config.loss):
        if isinstance(item, CustomFunction):
            raise ValueError(
                f"{item!r} is custom, and a file does not hold its code: save net.parameters by yourself, or pickle "
                "the network"
            )
    path = Path(os.path.realpath(path))
    warn_if_nonfinite(net, path, stacklevel=4)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "sizes": net.sizes,
        "activations": net.activations,
        "loss": net.loss_name,
        "reduction": net.reduction,
        "dtype": net.dtype.name,
        "metadata": metadata,
    }
    if net.input_scale != 1:
        header["scale"] = net.input_scale
    if net.loss_settings:
        header["loss_settings"] = net.loss_settings
    header["sha256"] = _checksum(header, net.parameters)
    arrays = {}
    for layer, (W, b) in enumerate(zip(net.weights, net.biases, strict=True), start=1):
        arrays[f"W{layer}"], arrays[f"b{layer}"] = W, b
    encode = _encode_safetensors if path.suffix.lower() == ".safetensors" else _encode_npz
    _write_at_once(path, encode(json.dumps(header), arrays))


def read(path: str | os.PathLike[str]) -> tuple[Config, np.ndarray, dict[str, str]]:
    """Return configuration, flat parameters and metadata from a file of `save`; errors as `fastbp.load`."""
    data = Path(path).read_bytes()
    try:
        text, array = (_decode_npz if data[:2] == b"PK" else _decode_safetensors)(data)
        header = json.loads(text)
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


def _checked(header: Any, array: Callable[[str], np.ndarray]) -> tuple[Config, np.ndarray]:
    """Return configuration and flat parameters, or raise for anything that does not fit.

    `array` returns the array of a name; only those of the layers are read.
    """
    if not isinstance(header, dict):
        raise ValueError(f"the header must be a JSON object, got {type(header).__name__}")
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise ValueError(
            f"format {header.get('format')!r}, version {header.get('version')!r}; expected {FORMAT!r}, {VERSION}"
        )
    if not FIELDS <= set(header) <= FIELDS | OPTIONAL_FIELDS:
        raise ValueError(f"the header has the fields {', '.join(sorted(header))}; expected {', '.join(sorted(FIELDS))}")
    for field in ("sizes", "activations"):
        if not isinstance(header[field], list):
            raise ValueError(f"{field} must be a list, got {header[field]!r}")
    loss = header["loss"]
    if header.get("loss_settings", {}) != {}:
        loss = _loss(arguments.name("loss", loss, LOSSES), header["loss_settings"])
    scale = header.get("scale", 1.0)
    config = checks.config(
        Config(header["sizes"], header["activations"], loss, header["reduction"], header["dtype"], scale)
    )
    flat = []
    for layer, (n_in, n_out) in enumerate(pairwise(config.sizes), start=1):
        for key, shape in ((f"W{layer}", (n_in, n_out)), (f"b{layer}", (n_out,))):
            values = array(key)
            if values.shape != shape or values.dtype != config.dtype:
                raise ValueError(f"{key} is {values.dtype} {values.shape}, expected {config.dtype} {shape}")
            flat.append(values.ravel())
    parameters = np.concatenate(flat)
    if header.pop("sha256") != _checksum(header, parameters):
        raise ValueError("the checksum does not match")
    return config, parameters


def _loss(name: str, settings: Any) -> Any:
    """Return a loss with the parameter that the file holds."""
    kind = LOSSES[name].settings
    if kind is None or not isinstance(settings, dict):
        raise ValueError(f"loss {name!r} with the settings {settings!r}")
    return kind(**settings)


def _checksum(header: dict[str, Any], parameters: np.ndarray) -> str:
    little_endian = parameters.astype(parameters.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + little_endian.tobytes()).hexdigest()


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
