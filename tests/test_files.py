"""Files: what is saved comes back to the bit; damage gives one clear error and leaves everything as it was."""

import os
import subprocess
import sys

import numpy as np
import pytest

import fastbp

SUFFIXES = [".npz", ".safetensors", ".model"]


@pytest.fixture
def net(backend):
    """Build a network with nothing at its default."""
    return fastbp.Network([3, 5, 2], ["relu", "softmax"], "cross_entropy", init="uniform", reduction="sum",
                          dtype="float64", seed=0, backend=backend, scale=0.25)


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
    net.save(tmp_path / "m")
    assert fastbp.load(tmp_path / "m", backend).parameters.tobytes() == net.parameters.tobytes()


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


@pytest.mark.parametrize("name, data", [
    ("m.npz", b""), ("m.npz", b"PK"), ("m.txt", b"hello, world\n" * 100), ("m.safetensors", b"\xff" * 64),
    ("m.safetensors", (10).to_bytes(8, "little") + b'{"a": 1}  '), ("m.json", b"{}"),
    ("m.npz", b"PK\3\4" + bytes(range(256))), ("m.bin", b"\x80\4\x95pickle"),
])
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
    for old, new in [("relu", "tanh"), ('"sum"', '"mean"'), ("[3, 5, 2]", "[3, 2, 5]"), ("float64", "float32"),
                     ('"version": 1', '"version": 2'), ("{}", '{"classes": "x"}'), ("cross_entropy", "squared_error")]:
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
