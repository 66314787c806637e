"""A network in one file, without pickle: NumPy's npz, or safetensors.

Both hold the arrays W1, b1, W2, b2, ... and one JSON header with sizes, activations, loss, reduction, dtype,
metadata and a SHA-256 over all of it.
"""

import hashlib
import io
import json
import os
import secrets
import shutil
from pathlib import Path

import numpy as np

from . import checks
from .losses import LOSSES
from .own import Own

FORMAT, VERSION = "fastbp network", 1


def save(net, path, metadata):
    """Write a network to `path`; see `Network.save`."""
    for item in net._config[1] + net._config[2:3]:
        if isinstance(item, Own):
            raise ValueError(f"{item!r} is one of your own, and a file does not hold its code: save net.parameters by "
                             "yourself, or pickle the network")
    path = Path(os.path.realpath(path))
    header = {
        "format": FORMAT, "version": VERSION, "sizes": net.sizes, "activations": net.activations,
        "loss": net.loss_name, "reduction": net.reduction, "dtype": net.dtype.name, "metadata": metadata,
    }
    if net.scale != 1:
        header["scale"] = net.scale
    if net.loss_settings:
        header["loss_settings"] = net.loss_settings
    header["sha256"] = _checksum(header, net.parameters)
    arrays = {}
    for layer, (W, b) in enumerate(zip(net.weights, net.biases, strict=True), start=1):
        arrays[f"W{layer}"], arrays[f"b{layer}"] = W, b
    encode = _encode_safetensors if path.suffix.lower() == ".safetensors" else _encode_npz
    _write_at_once(path, encode(json.dumps(header), arrays))


def load(path, backend="numba"):
    """Load a network that `Network.save` wrote.

    Parameters
    ----------
    path : str or Path
    backend : "numba" or "numpy"

    Returns
    -------
    Network

    Raises
    ------
    OSError
        Where the file cannot be read; FileNotFoundError where there is none.
    ValueError
        Where the file is damaged or is not such a file.
    ImportError
        For a safetensors file, where the extra ``fastbp[files]`` is not installed.
    """
    from .network import BACKENDS, Network

    checks.name("backend", backend, BACKENDS)
    data = Path(path).read_bytes()
    try:
        header, arrays = (_decode_npz if data[:2] == b"PK" else _decode_safetensors)(data)
        config, parameters = _checked(json.loads(header), arrays)
        metadata = checks.metadata(json.loads(header)["metadata"])
    except ImportError:
        raise
    except Exception as error:  # zipfile, json, numpy and safetensors raise a dozen kinds for damaged bytes
        raise ValueError(f"{os.fspath(path)!r} is damaged, or not a file that fastbp wrote: {error}") from error
    return Network._restore(config, backend, parameters, metadata)


def _checked(header, arrays):
    """Return configuration and flat parameters, or raise for anything that does not fit."""
    if header["format"] != FORMAT or header["version"] != VERSION:
        raise ValueError(f"format {header['format']!r}, version {header['version']!r}; expected {FORMAT!r}, {VERSION}")
    sizes, dtype = checks.sizes(header["sizes"]), checks.dtype(header["dtype"])
    activations = checks.activations(header["activations"], len(sizes) - 1)
    loss = checks.loss(header["loss"], activations[-1])
    if header.get("loss_settings"):
        loss = LOSSES[loss].settings(**header["loss_settings"])
    reduction = checks.name("reduction", header["reduction"], ("mean", "sum"))
    scale = checks.number("scale", header.get("scale", 1.0), above=0)
    flat = []
    for layer, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True), start=1):
        for key, shape in ((f"W{layer}", (n_in, n_out)), (f"b{layer}", (n_out,))):
            array = arrays[key]
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{key} is {array.dtype} {array.shape}, expected {dtype} {shape}")
            flat.append(array.ravel())
    parameters = np.concatenate(flat)
    if header.pop("sha256") != _checksum(header, parameters):
        raise ValueError("the checksum does not match")
    return (sizes, activations, loss, reduction, dtype, scale), parameters


def _checksum(header, parameters):
    little_endian = parameters.astype(parameters.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + little_endian.tobytes()).hexdigest()


def _encode_npz(header, arrays):
    buffer = io.BytesIO()
    np.savez(buffer, header=np.frombuffer(header.encode(), np.uint8), **arrays)
    return buffer.getvalue()


def _decode_npz(data):
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    return arrays.pop("header").tobytes().decode(), arrays


def _encode_safetensors(header, arrays):
    return _safetensors().save(arrays, {"fastbp": header})


def _decode_safetensors(data):
    length = int.from_bytes(data[:8], "little")  # the format: 8 bytes of length, JSON, the tensors
    header = json.loads(data[8 : 8 + length])["__metadata__"]["fastbp"]
    return header, _safetensors().load(data)


def _safetensors():
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError("safetensors files need the package safetensors: pip install 'fastbp[files]' "
                          "(any other suffix than .safetensors writes npz, which needs nothing)") from None
    return safetensors.numpy


def _write_at_once(path, *pieces):
    """Write beside `path`, then rename: whatever happens, `path` is the old file or the new one."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(beside, "xb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, beside)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
