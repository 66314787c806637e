"""Files: what is saved comes back to the bit; damage gives one clear error and leaves everything as it was."""

import importlib.util
import json
import os
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fastbp
from fastbp import files

DATA = Path(__file__).parent / "data"
SUFFIXES = [".npz", ".safetensors", ".model"]


@pytest.fixture
def net(backend):
    """Build a network with nothing at its default."""
    return fastbp.Network(
        [3, 5, 2],
        ["relu", "softmax"],
        "cross_entropy",
        init="uniform",
        reduction="sum",
        dtype="float64",
        seed=0,
        backend=backend,
        input_scale=0.25,
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(net, suffix, tmp_path):
    path = tmp_path / f"m{suffix}"
    net.metadata["classes"] = "yes,no"
    net.save(path, metadata={"mean": "[1.5, ü]"})
    same = fastbp.load(path, backend=net.backend)
    assert repr(same) == repr(net) and same.metadata == {"classes": "yes,no", "mean": "[1.5, ü]"}
    np.testing.assert_array_equal(same.parameters, net.parameters)
    assert same.parameters.ctypes.data % 64 == 0 and net.metadata == {"classes": "yes,no"}
    same.save(str(path))
    assert os.listdir(tmp_path) == [path.name]  # nothing is left beside it, and no .npz is added


def test_float32_and_values_that_are_no_numbers(backend, tmp_path):
    net = fastbp.Network([2, 2], seed=0, backend=backend)
    net.parameters[:3] = np.nan, np.inf, -0.0
    words = "NaN or infinity in W1 of the network in '.*m'$"
    with pytest.warns(RuntimeWarning, match=words) as warned:
        net.save(tmp_path / "m")
        assert fastbp.load(tmp_path / "m", backend).parameters.tobytes() == net.parameters.tobytes()
    assert [warning.filename for warning in warned] == [__file__] * 2


@pytest.mark.parametrize("suffix", SUFFIXES[:2])
def test_damage_anywhere(net, suffix, tmp_path):
    path = tmp_path / f"m{suffix}"
    net.save(path)
    data = path.read_bytes()
    survived = 0
    for place in range(0, len(data), 3):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            same = fastbp.load(path, net.backend)  # a few bytes mean nothing, such as the dates in a zip file
        except ValueError as error:
            assert path.name in str(error) and "damaged" in str(error)
        else:
            survived += 1
            assert repr(same) == repr(net) and same.parameters.tobytes() == net.parameters.tobytes()
    assert survived < 0.3 * len(data) / 3
    for length in range(0, len(data) - 1, 11):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="damaged"):
            fastbp.load(path, net.backend)


@pytest.mark.parametrize(
    "name, data",
    [
        ("m.npz", b""),
        ("m.npz", b"PK"),
        ("m.txt", b"hello, world\n" * 100),
        ("m.safetensors", b"\xff" * 64),
        ("m.safetensors", (10).to_bytes(8, "little") + b'{"a": 1}  '),
        ("m.json", b"{}"),
        ("m.npz", b"PK\3\4" + bytes(range(256))),
        ("m.bin", b"\x80\4\x95pickle"),
    ],
)
def test_foreign_files(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match="damaged, or not a file that fastbp wrote"):
        fastbp.load(tmp_path / name, "numpy")


def test_foreign_archives(net, tmp_path):
    path = tmp_path / "m.npz"
    np.savez(path, a=np.ones(3))
    with pytest.raises(ValueError, match="damaged, or not"):
        fastbp.load(path)
    np.savez(path, header=np.array([{"pickled": 1}], object))
    with pytest.raises(ValueError, match="damaged, or not"):
        fastbp.load(path)
    np.savez(path, header=np.frombuffer(b'{"format": "other", "version": 1}', np.uint8))
    with pytest.raises(ValueError, match="format 'other'"):
        fastbp.load(path)


def test_a_header_that_lies_is_found(net, tmp_path):
    path = tmp_path / "m.npz"
    net.save(path)
    arrays = dict(np.load(path))
    header = arrays["header"].tobytes().decode()
    for old, new in [
        ("relu", "tanh"),
        ('"sum"', '"mean"'),
        ("[3, 5, 2]", "[3, 2, 5]"),
        ("float64", "float32"),
        ('"version": 1', '"version": 2'),
        ("{}", '{"classes": "x"}'),
        ("cross_entropy", "squared_error"),
    ]:
        assert old in header
        np.savez(path, **{**arrays, "header": np.frombuffer(header.replace(old, new).encode(), np.uint8)})
        with pytest.raises(ValueError, match="damaged"):
            fastbp.load(path, net.backend)
    np.savez(path, **{**arrays, "W1": arrays["W1"] + 1})
    with pytest.raises(ValueError, match="checksum"):
        fastbp.load(path, net.backend)


def test_errors_of_the_system_stay_what_they_are(net, tmp_path):
    with pytest.raises(FileNotFoundError):
        fastbp.load(tmp_path / "none.npz")
    with pytest.raises(IsADirectoryError):
        fastbp.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        net.save(tmp_path / "none" / "m.npz")
    with pytest.raises(ValueError, match="backend"):
        fastbp.load(tmp_path / "m.npz", backend="jax")


@pytest.mark.parametrize("metadata", [{"a": 1}, {1: "a"}, "a", ["a"]])
def test_metadata_is_text(net, metadata, tmp_path):
    with pytest.raises(TypeError, match="metadata must be a dict of strings"):
        net.save(tmp_path / "m.npz", metadata)
    assert os.listdir(tmp_path) == []


def test_a_save_that_fails_leaves_the_old_file(net, tmp_path, monkeypatch):
    path = tmp_path / "m.npz"
    net.save(path)
    before = path.read_bytes()
    net.parameters[:] = 1

    def full(*args):
        raise OSError("disk full")

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, full)
            with pytest.raises(OSError, match="disk full"):
                net.save(path)
        assert path.read_bytes() == before and os.listdir(tmp_path) == ["m.npz"]


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_a_save_that_is_killed_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.npz"
    fastbp.Network([2, 2], seed=0, backend="numpy").save(path)
    before = path.read_bytes()
    script = (
        "import os, signal, sys, fastbp\n"
        "os.replace = lambda *args: os.kill(os.getpid(), signal.SIGKILL)\n"
        "fastbp.Network([2, 2], seed=1, backend='numpy').save(sys.argv[1])\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)]).returncode == -9
    assert path.read_bytes() == before
    assert fastbp.load(path, "numpy").sizes == (2, 2)
    assert len(os.listdir(tmp_path)) == 2  # the unfinished one lies beside it
    (tmp_path / ".n.npz.0123abcd.tmp").write_bytes(b"of another file")
    fastbp.load(path, "numpy").save(path)
    assert sorted(os.listdir(tmp_path)) == [".n.npz.0123abcd.tmp", "m.npz"]


def test_a_save_leaves_a_writer_at_work_alone(net, tmp_path, monkeypatch):
    """Another writer of the same path begins and ends while the first waits for the disk."""
    other, fsync, path = net.copy(), os.fsync, tmp_path / "m.npz"
    other.parameters[:] = 1

    def wait(descriptor):
        monkeypatch.setattr(os, "fsync", fsync)
        for name in os.listdir(tmp_path):
            os.utime(tmp_path / name, ns=(0, 0))
        other.save(path)
        assert (fastbp.load(path, net.backend).parameters == 1).all()

    monkeypatch.setattr(os, "fsync", wait)
    net.save(path)
    assert os.listdir(tmp_path) == ["m.npz"]
    assert fastbp.load(path, net.backend).parameters.tobytes() == net.parameters.tobytes()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permissions in a mode, and links for administrators only")
def test_a_link_stays_a_link_and_the_permissions_are_the_usual_ones(net, tmp_path):
    net.save(tmp_path / "m.npz")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "m.npz").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "link.npz").symlink_to(tmp_path / "m.npz")
    net.parameters[:] = 2
    net.save(tmp_path / "link.npz")
    assert (tmp_path / "link.npz").is_symlink()
    assert (fastbp.load(tmp_path / "m.npz", net.backend).parameters == 2).all()
    os.chmod(tmp_path / "m.npz", 0o600)
    net.save(tmp_path / "m.npz")
    assert (tmp_path / "m.npz").stat().st_mode & 0o777 == 0o600


def test_safetensors_missing_says_what_to_install(net, tmp_path, monkeypatch):
    net.save(tmp_path / "m.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for call in (net.save, fastbp.load):
        with pytest.raises(ImportError, match=r"fastbp\[files\]"):
            call(tmp_path / "m.safetensors")


def test_others_can_read_the_arrays(net, tmp_path):
    import safetensors.numpy

    net.save(tmp_path / "m.npz")
    net.save(tmp_path / "m.safetensors")
    for arrays in (dict(np.load(tmp_path / "m.npz")), safetensors.numpy.load_file(tmp_path / "m.safetensors")):
        np.testing.assert_array_equal(arrays["W2"], net.weights[1])
        np.testing.assert_array_equal(arrays["b1"], net.biases[0])


@pytest.mark.parametrize("suffix", SUFFIXES[:2])
def test_files_of_version_0_1(suffix):
    spec = importlib.util.spec_from_file_location("make_files", DATA / "make_files.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    net = fastbp.load(DATA / f"version_0_1{suffix}", "numpy")
    assert repr(net) == repr(made.model()) and net.metadata == {"classes": "ja,nein"}
    assert net.parameters.tobytes() == made.model().parameters.tobytes()


# ------------------------------------------------------------------ crafted files, whose checksums are right


@pytest.fixture
def made():
    """Build a network; the backend has no part in the reading."""
    return fastbp.Network(
        [3, 5, 2],
        ["relu", "softmax"],
        "cross_entropy",
        reduction="sum",
        dtype="float64",
        seed=0,
        backend="numpy",
        input_scale=0.25,
    )


def parts(made):
    """Return header and arrays of a file, by name."""
    header = {
        "format": "fastbp network",
        "version": 1,
        "sizes": list(made.sizes),
        "activations": list(made.activations),
        "loss": made.loss_name,
        "reduction": made.reduction,
        "dtype": made.dtype.name,
        "metadata": {},
        "scale": made.input_scale,
    }
    return header, {
        f"{letter}{l}": array
        for letter, arrays in (("W", made.weights), ("b", made.biases))
        for l, array in enumerate(arrays, start=1)
    }


def craft(path, header, arrays, parameters=None, save=np.savez):
    """Write a model whose checksum is right, whatever else is wrong."""
    if isinstance(header, dict):
        if parameters is None:
            layers = range(1, 1 + len(arrays) // 2)
            parameters = np.concatenate([arrays[f"{c}{l}"].ravel() for l in layers for c in "Wb"])
        header = json.dumps({**header, "sha256": files._checksum(header, parameters)})
    if path.suffix == ".safetensors":
        import safetensors.numpy

        safetensors.numpy.save_file(arrays, path, {"fastbp": header})
    else:
        save(path, header=np.frombuffer(header.encode(), np.uint8), **arrays)
    return path


WRONG = [
    None,
    True,
    1,
    -1,
    0.5,
    float("nan"),
    "x",
    "",
    [],
    [1],
    {},
    {"a": 1},
    [[]],
    [3, 2],
    [None, None],
    ["3", "2"],
    "O",
    [10**9, 10**9],
    [3.0, 5, 2],
    [True, 5, 2],
    [0, 5, 2],
    [3, -5, 2],
    ["relu", 3],
    ["relu"] * 3,
    10**400,
    "<M8[s]",
]
FINE = {"scale": [1, 0.5], "metadata": [{}], "version": [True, 1]}  # by Python's rules True is 1


@pytest.mark.parametrize("suffix", SUFFIXES[:2])
@pytest.mark.parametrize(
    "field",
    [
        "format",
        "version",
        "sizes",
        "activations",
        "loss",
        "reduction",
        "dtype",
        "metadata",
        "scale",
        "loss_settings",
        "more",
    ],
)
def test_every_field_of_a_header_is_checked(made, field, suffix, tmp_path):
    header, arrays = parts(made)
    path = craft(tmp_path / f"m{suffix}", header, arrays)
    assert fastbp.load(path, "numpy").parameters.tobytes() == made.parameters.tobytes()
    for value in WRONG:
        if value in FINE.get(field, []) or field == "loss_settings" and value == {}:
            continue
        craft(path, {**header, field: value}, arrays)
        with pytest.raises(ValueError, match="damaged, or not a file that fastbp wrote"):
            fastbp.load(path, "numpy")
    if field in files.FIELDS:
        craft(path, {key: value for key, value in header.items() if key != field}, arrays)
        with pytest.raises(ValueError, match="damaged, or not a file that fastbp wrote"):
            fastbp.load(path, "numpy")


@pytest.mark.parametrize("header", ["", "[]", "null", "3", '"x"', "[" * 100_000, '{"a":' * 100_000, "9" * 10_000, "\0"])
@pytest.mark.parametrize("suffix", SUFFIXES[:2])
def test_headers_that_are_no_objects(made, header, suffix, tmp_path):
    with pytest.raises(ValueError, match="damaged, or not a file that fastbp wrote"):
        fastbp.load(craft(tmp_path / f"m{suffix}", header, parts(made)[1]), "numpy")


@pytest.mark.parametrize(
    "change",
    [
        lambda W: W.astype(">f8"),
        lambda W: W.astype(np.float32),
        lambda W: W.astype(int),
        lambda W: W.view("M8[s]"),
        lambda W: W.view([("x", "f8")]),
        lambda W: W.view("V8"),
        lambda W: W.T.copy(),
        lambda W: W[None],
        lambda W: W[:2],
        lambda W: W.ravel(),
        lambda W: W[0, 0],
        lambda W: W + 0j,
        lambda W: W.astype(str),
        lambda W: W.astype(object),
        lambda W: np.broadcast_to(W[:1], W.shape)[:, :1],
    ],
)
def test_arrays_that_do_not_fit(made, change, tmp_path):
    header, arrays = parts(made)
    craft(tmp_path / "m.npz", header, {**arrays, "W1": change(arrays["W1"])}, made.parameters)
    with pytest.raises(ValueError, match="damaged, or not a file that fastbp wrote"):
        fastbp.load(tmp_path / "m.npz", "numpy")


def test_arrays_of_another_order_are_read_right(made, tmp_path):
    header, arrays = parts(made)
    craft(tmp_path / "m.npz", header, {key: np.asfortranarray(array) for key, array in arrays.items()})
    assert fastbp.load(tmp_path / "m.npz", "numpy").parameters.tobytes() == made.parameters.tobytes()


def npy(descr="'<f8'", is_fortran="False", shape="(5,)", content=bytes(40)):
    """Return an npy file with a header of any text."""
    text = f"{{'descr': {descr}, 'fortran_order': {is_fortran}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + content


BAD_NPY = [
    npy(content=bytes(39)),
    npy(content=bytes(41)),
    npy(content=bytes(48)),
    npy(shape="(-1, -5)"),
    npy(shape="(0, -5)", content=b""),
    npy(shape="(0, 10**30)", content=b""),
    npy(shape=f"(0, {10**30})", content=b""),
    npy(shape=f"({2**61},)"),
    npy(shape="(5.0,)"),
    npy(shape="5"),
    npy(shape="(5,"),
    npy(shape="(" * 500),
    npy(shape="(5," + " 1," * 70 + ")"),
    npy(descr="'|O'"),
    npy(descr="[('a', '|O')]"),
    npy(descr="'<f7'"),
    npy(descr="3"),
    npy(descr="'|S0'"),
    npy(is_fortran="0"),
    npy(descr="'\\q'"),
    b"",
    b"\x93NUMPY",
    b"\x93NUMPY\3\0" + npy()[8:],
    b"\x93NUMPY\1\0\xff\xff" + npy()[10:],
]


@pytest.mark.parametrize("content", BAD_NPY, ids=range(len(BAD_NPY)))
def test_members_that_are_no_arrays(made, content, tmp_path):
    header, arrays = parts(made)
    del arrays["b1"]
    path = craft(tmp_path / "m.npz", header, arrays, made.parameters)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b1.npy", content)
    with pytest.raises(ValueError, match="damaged, or not a file that fastbp wrote"):
        fastbp.load(path, "numpy")


def peak_of(function, *arguments):
    """Return the value of a call and the most memory that it took."""
    tracemalloc.start()
    try:
        return function(*arguments), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_zip_bomb_is_not_unpacked(made, tmp_path):
    header, arrays = parts(made)
    path = craft(tmp_path / "m.npz", header, arrays)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("more.npy", npy(shape=f"({1 << 23},)", content=bytes(1 << 26)))
    assert path.stat().st_size < 100_000
    same, peak = peak_of(fastbp.load, path, "numpy")
    assert same.parameters.tobytes() == made.parameters.tobytes() and peak < 1 << 21

    size = 1 << 12
    header = {**header, "sizes": [size, size], "activations": ["softmax"]}
    zeros = {"W1": np.zeros((size, size)), "b1": np.zeros(size)}
    craft(path, header, zeros, np.zeros(size * size + size), np.savez_compressed)
    assert path.stat().st_size < 1 << 18

    def load():
        with pytest.raises(ValueError, match="is compressed"):
            fastbp.load(path, "numpy")

    assert peak_of(load)[1] < 1 << 22


@pytest.mark.parametrize("name", ["W1", "header"])
def test_a_name_that_occurs_twice(made, name, tmp_path):
    path = craft(tmp_path / "m.npz", *parts(made))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(name + ".npy", archive.read(name + ".npy"))
    with pytest.raises(ValueError, match="two members have one name"):
        fastbp.load(path, "numpy")


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**9])
def test_a_safetensors_header_longer_than_the_file(made, length, tmp_path):
    made.save(tmp_path / "m.safetensors")
    data = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(length.to_bytes(8, "little") + data[8:])
    with pytest.raises(ValueError, match=f"a header of {length} bytes in a file of {len(data)}"):
        fastbp.load(tmp_path / "m.safetensors")
