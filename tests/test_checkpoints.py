"""Checkpoint files: exact, whole or not at all, and the old one named when the new one is damaged."""

import hashlib
import json
import os
import stat
import struct
import subprocess
import sys

import numpy as np
import pytest

from fastbp import checkpoints
from fastbp.checkpoints import CheckpointError, generator_state, latest, numbered, read, rotate, write

ARRAYS = {
    "parameters": np.array([0.0, -0.0, np.nan, np.inf, 5e-324]),
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "empty": np.empty((0, 4), np.float32),
    "scalar": np.array(7),
    "bool": np.array([True, False, True]),
    "bytes": np.arange(5, dtype=np.uint8),
    "big": np.array([2**63], np.uint64),
    "half": np.ones((1, 1, 3), np.float16),
    "foreign": np.arange(4, dtype=">i4"),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "strided": np.arange(10)[::-3],
}
INFO = {
    "epochs": 3,
    "loss": [0.1, 1 / 3, 5e-324],
    "words": "ü",
    "none": None,
    "big": 2**127 + 1,
    "nested": {"a": [True]},
}


def test_round_trip(tmp_path):
    path = tmp_path / "run.ckpt"
    write(str(path), ARRAYS, INFO)
    arrays, info = read(path)
    assert info == INFO and list(arrays) == list(ARRAYS) and os.listdir(tmp_path) == [path.name]
    for name, array in ARRAYS.items():
        same = arrays[name]
        assert (same.shape, same.dtype) == (array.shape, array.dtype.newbyteorder("="))
        assert same.tobytes() == array.astype(same.dtype).tobytes()
        assert same.flags.writeable and same.flags.aligned and same.flags.c_contiguous
    write(path, {}, {})
    assert read(path) == ({}, {})


def test_nan_in_info_comes_back(tmp_path):
    write(tmp_path / "a", {}, {"loss": [np.nan, np.inf]})
    loss = read(tmp_path / "a")[1]["loss"]
    assert np.isnan(loss[0]) and loss[1] == np.inf


@pytest.mark.parametrize(
    "arrays, info, words",
    [
        ({"a": np.array([None])}, {}, "array 'a' must hold booleans, integers or floats"),
        ({"a": np.zeros(2, [("x", int)])}, {}, "array 'a' must hold booleans, integers or floats"),
        ({"a": np.zeros(2, complex)}, {}, "array 'a' must hold booleans, integers or floats"),
        ({"a": np.array(["text"])}, {}, "array 'a' must hold booleans, integers or floats"),
        ({"a": np.zeros(2, "M8[s]")}, {}, "array 'a' must hold booleans, integers or floats"),
        ({"a": np.zeros(2, np.longdouble)}, {}, "array 'a' must hold booleans, integers or floats of at most 64 bits"),
        ({}, {"a": np.float32(1)}, "info must be what JSON can hold"),
        ({}, {"a": object()}, "info must be what JSON can hold"),
    ],
)
def test_what_a_file_cannot_hold(tmp_path, arrays, info, words):
    with pytest.raises(TypeError, match=words):
        write(tmp_path / "a", arrays, info)
    assert os.listdir(tmp_path) == []


def test_every_damaged_byte_is_found(tmp_path):
    path = tmp_path / "run.ckpt"
    write(path, {"a": np.arange(20.0), "b": np.empty(0)}, INFO)
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :])
        with pytest.raises(CheckpointError, match="'.*run.ckpt' (is damaged|is cut short|has format version)"):
            read(path)


def test_every_length_is_refused_but_the_right_one(tmp_path):
    path = tmp_path / "run.ckpt"
    write(path, {"a": np.arange(20.0)}, INFO)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="is empty" if not length else "is damaged, or not|is cut short"):
            read(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(CheckpointError, match="is damaged: .* bytes where there should be"):
        read(path)


def test_a_file_of_a_later_version_says_so(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "VERSION", 2)
        write(tmp_path / "a", {}, {})
    with pytest.raises(CheckpointError, match="has format version 2; this version of fastbp reads 1"):
        read(tmp_path / "a")


def test_errors_of_the_system_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "none" / "a", {}, {})


def test_the_sound_one_before_is_named(tmp_path):
    for epoch in (2, 9, 10, 11):  # 10 comes after 9, though not in the alphabet
        write(tmp_path / f"run-{epoch}.ckpt", {}, {"epochs": epoch})
    write(tmp_path / "run-12.txt", {}, {})
    (tmp_path / "run-11.ckpt").write_bytes(b"fastbp")
    with pytest.raises(CheckpointError, match="; the one before it, '.*run-10.ckpt', is sound"):
        read(tmp_path / "run-11.ckpt")
    (tmp_path / "run-10.ckpt").write_bytes((tmp_path / "run-10.ckpt").read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="; the one before it, '.*run-9.ckpt', is sound"):
        read(tmp_path / "run-11.ckpt")
    (tmp_path / "run-2.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="run-2.ckpt' is empty$"):  # run-9 is not before it
        read(tmp_path / "run-2.ckpt")


def test_the_sound_one_before_a_file_without_number(tmp_path):
    for time, name in enumerate(["a.ckpt", "b.ckpt", "last.ckpt"]):
        write(tmp_path / name, {}, {})
        os.utime(tmp_path / name, ns=(time, time))
    (tmp_path / "last.ckpt").write_bytes(b"?")
    with pytest.raises(CheckpointError, match="; the one before it, '.*b.ckpt', is sound"):
        read(tmp_path / "last.ckpt")


# ------------------------------------------------------------------ whole or not at all


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot force a folder to disk")
def test_the_disk_has_it_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(stat.S_ISDIR(os.fstat(fd).st_mode)), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    write(tmp_path / "a", {}, {})
    assert done == [False, "replace", True]  # the file, the name, the folder


def test_what_a_killed_writer_left_is_cleared(tmp_path):
    write(tmp_path / "a", {}, {})
    for age, name in [(0, ".a.0123abcd.tmp"), (0, ".aa.0123abcd.tmp"), (2**62, ".a.89abcdef.tmp")]:
        (tmp_path / name).write_text("unfinished")
        os.utime(tmp_path / name, ns=(age, age))
    write(tmp_path / "a", {}, {})
    assert sorted(os.listdir(tmp_path)) == [".a.89abcdef.tmp", ".aa.0123abcd.tmp", "a"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    def full(*args):
        raise OSError("disk full")

    write(tmp_path / "a", {}, {"epochs": 1})
    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, full)
            with pytest.raises(OSError, match="disk full"):
                write(tmp_path / "a", {}, {"epochs": 2})
        assert read(tmp_path / "a")[1] == {"epochs": 1} and os.listdir(tmp_path) == ["a"]


KILLED = """
import os, random, signal, sys, time
import numpy as np
from fastbp.checkpoints import latest, read, rotate, write

folder, pattern, random = sys.argv[1], sys.argv[1] + "/run-{epoch}.ckpt", random.Random(0)
array, epoch, last = np.zeros(1 << 16), 0, 0

def save(epoch):
    array[:] = epoch
    write(pattern.format(epoch=epoch), {"a": array}, {"epochs": epoch})
    write(folder + "/last.ckpt", {"a": array}, {"epochs": epoch})
    rotate(pattern, 2)

start = time.perf_counter()
save(0)
seconds = time.perf_counter() - start
for kill in range(40):
    writer = os.fork()
    while not writer:
        epoch += 1
        save(epoch)
    time.sleep(random.uniform(0, 4 * seconds))
    os.kill(writer, signal.SIGKILL)
    assert os.waitpid(writer, 0)[1] == signal.SIGKILL  # it did not end by itself
    arrays, info = read(latest(pattern))
    assert info["epochs"] >= epoch and (arrays["a"] == info["epochs"]).all()
    epoch, before = info["epochs"], last
    arrays, info = read(folder + "/last.ckpt")
    last = info["epochs"]
    assert before <= last <= epoch and (arrays["a"] == last).all()
for end in (1, 2, 3):
    save(epoch + end)
names = sorted(os.listdir(folder))
assert names == sorted(["last.ckpt", f"run-{epoch + 2}.ckpt", f"run-{epoch + 3}.ckpt"]), names
print(epoch)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_writer_killed_at_any_moment_leaves_a_readable_latest(tmp_path):
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 0


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_a_writer_killed_before_the_renaming_leaves_the_old_file(tmp_path):
    write(tmp_path / "a", {}, {"epochs": 1})
    script = (
        "import os, signal, sys\nfrom fastbp.checkpoints import write\n"
        "os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)\nwrite(sys.argv[1], {}, {})\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path / "a")]).returncode == -9
    assert read(tmp_path / "a")[1] == {"epochs": 1} and len(os.listdir(tmp_path)) == 2


# ------------------------------------------------------------------ a folder of files


def names(paths):
    return [path.name for path in paths]


def test_numbered():
    assert numbered("runs/run-{epoch}.ckpt", 12).as_posix() == "runs/run-12.ckpt"
    assert numbered("run-{epoch:04d}.ckpt", 12).name == "run-0012.ckpt"
    assert numbered("runs.d/run.ckpt", 12).as_posix() == "runs.d/run-12.ckpt"
    for pattern in ("{epoch}/run.ckpt", "{epoch}-{loss}.ckpt", "run-{epoch:x}.ckpt", "run-{.ckpt"):
        with pytest.raises(ValueError, match="must have one field"):
            numbered(pattern, 1)


@pytest.mark.parametrize("name", ["run-{epoch}.ckpt", "run-{epoch:02d}.ckpt", "run.ckpt"])
def test_rotation(tmp_path, name):
    pattern = tmp_path / name
    assert latest(pattern) is None and latest(tmp_path) is None and rotate(pattern, 3) == []
    for epoch in range(1, 13):
        write(numbered(pattern, epoch), {}, {"epochs": epoch})
        kept = rotate(pattern, 3)
        assert [read(path)[1]["epochs"] for path in kept] == list(range(max(1, epoch - 2), epoch + 1))
        assert latest(pattern) == latest(tmp_path) == kept[-1] == numbered(pattern, epoch)
    assert sorted(os.listdir(tmp_path)) == sorted(names(kept))


def test_rotation_touches_nothing_else(tmp_path):
    others = ["run-x.ckpt", "run-3.ckpt.bak", "other-3.ckpt", "run-0.ckpt", ".run-1.ckpt.0123abcd.tmp.txt"]
    for name in others:
        (tmp_path / name).write_text("of somebody else")
    for epoch in (1, 2):
        write(tmp_path / f"run-{epoch}.ckpt", {}, {})
    for age, name in [(0, ".run-1.ckpt.0123abcd.tmp"), (2**62, ".run-3.ckpt.0123abcd.tmp")]:
        (tmp_path / name).write_text("unfinished")
        os.utime(tmp_path / name, ns=(age, age))
    assert names(rotate(tmp_path / "run-{epoch}.ckpt", 1)) == ["run-2.ckpt"]
    assert set(os.listdir(tmp_path)) == {*others, "run-2.ckpt", ".run-3.ckpt.0123abcd.tmp"}
    with pytest.raises(ValueError, match="keep must be at least 1"):
        rotate(tmp_path / "run-{epoch}.ckpt", 0)


def test_latest_of_a_folder_goes_by_number_then_by_time(tmp_path):
    for time, name in enumerate(["b-10.ckpt", "b-9.ckpt", "a-30.ckpt", "a-20.ckpt"]):
        write(tmp_path / name, {}, {})
        os.utime(tmp_path / name, ns=(time, time))
    (tmp_path / "c-99.ckpt").write_text("of somebody else")
    (tmp_path / "folder.ckpt").mkdir()
    assert latest(str(tmp_path)).name == "a-30.ckpt"
    os.utime(tmp_path / "b-10.ckpt", ns=(9, 9))
    assert latest(tmp_path).name == "b-10.ckpt"


# ------------------------------------------------------------------ random generators


def draws(rng):
    return [
        rng.integers(0, 2**32, 3, dtype=np.uint32).tolist(),
        rng.random(5).tolist(),
        rng.permutation(7).tolist(),
        rng.standard_normal(3, dtype=np.float32).tolist(),
        rng.bytes(3),
    ]


@pytest.mark.parametrize("name", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
@pytest.mark.parametrize(
    "seed", [0, 2**200, [1, 2, 3], np.array([5, 6], np.uint32), np.random.SeedSequence(4, pool_size=8)]
)
def test_generators_go_on_identically(name, seed):
    rng = np.random.Generator(getattr(np.random, name)(seed))
    rng.spawn(2)
    rng.integers(0, 2**16, 5, dtype=np.uint16)  # leaves half a word behind
    rng.random(1000)
    same = checkpoints.restore_generator(json.loads(json.dumps(generator_state(rng))))
    assert type(same.bit_generator) is type(rng.bit_generator)
    assert draws(same) == draws(rng)
    for child, same_child in zip(rng.spawn(2), same.spawn(2), strict=True):
        assert draws(child) == draws(same_child)


def test_half_a_word_is_kept():
    for n in range(1, 8):
        rng = np.random.Generator(np.random.Philox(0))
        rng.integers(0, 2**32, n, dtype=np.uint32)
        same = checkpoints.restore_generator(generator_state(rng))
        assert draws(same) == draws(rng)


def test_generators_that_cannot_be_kept():
    for rng in (np.random.RandomState(0), np.random.PCG64(0), 0):
        with pytest.raises(TypeError, match="rng must be a numpy.random.Generator"):
            generator_state(rng)
    with pytest.raises(ValueError, match="bit generator 'os' is unknown"):
        checkpoints.restore_generator({"state": {"bit_generator": "os"}, "seed_sequence": None})


WRONG = [
    None,
    True,
    -1,
    0.5,
    float("nan"),
    "x",
    [],
    [1],
    {},
    {"a": 1},
    2**200,
    10**5000,
    [[]],
    {"dtype": "O", "values": [1]},
    {"dtype": "uint32", "values": [1, 2]},
    {"dtype": "M8[s]", "values": [1]},
    {"dtype": [["a", "O"]], "values": [1]},
    {"dtype": "V100000000000", "values": []},
]


def places(value, path=()):
    """Return where all values within nested objects and lists are; of a long list the first and the last."""
    items = (
        value.items()
        if isinstance(value, dict)
        else [(i, value[i]) for i in {0, len(value) - 1}]
        if isinstance(value, list) and value
        else []
    )
    return [path] + [place for key, item in items for place in places(item, (*path, key))]


def changed(value, path, new):
    """Return a copy of nested objects and lists with another value at a place; `places` itself leaves it out."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    if copy[path[0]] is places:
        del copy[path[0]]
    return copy


@pytest.mark.parametrize("name", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_states_of_generators_are_checked(name):
    """What NumPy would take as it is reads beyond its buffers (MT19937's pos, Philox' buffer_pos)."""
    rng = np.random.Generator(getattr(np.random, name)(np.random.SeedSequence([1, 2], spawn_key=(3,))))
    state = json.loads(json.dumps(generator_state(rng)))
    if name in ("MT19937", "Philox"):
        key = "pos" if name == "MT19937" else "buffer_pos"
        path = ("state", "state", key) if name == "MT19937" else ("state", key)
        for place in (-1, 5 if name == "Philox" else 625, 2**31 - 1):
            with pytest.raises(ValueError, match=f"the state of {name} has not the values that it needs"):
                checkpoints.restore_generator(changed(state, path, place))
    accepted = 0
    for path in places(state):
        for wrong in [*WRONG, places]:
            if wrong is places and (not path or isinstance(path[-1], int)):
                continue
            try:
                restored = checkpoints.restore_generator(changed(state, path, wrong))
            except ValueError:
                continue
            accepted += 1  # another seed is as good as this one
            assert path[:1] == ("seed_sequence",) and draws(restored) == draws(rng_of(name, state))
    assert accepted < 40


def rng_of(name, state):
    """Return a generator in this state, by NumPy alone."""
    rng = np.random.Generator(getattr(np.random, name)())
    rng.bit_generator.state = checkpoints.from_json(state["state"])
    return rng


# ------------------------------------------------------------------ crafted files, whose checksums are right


def craft(path, header, content=b"", head=None):
    """Write a file of which nothing but the header and the content may be wrong."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(checkpoints.MAGIC) + 24 + len(header) + len(content) + 32
    data = checkpoints.MAGIC + struct.pack("<QQQ", 1, length, len(header) if head is None else head) + header + content
    path.write_bytes(data + hashlib.sha256(data).digest())
    return path


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"null",
        b"3",
        b"{}",
        b'{"info": {}}',
        b'{"info": [], "arrays": {}}',
        b'{"info": {}, "arrays": []}',
        b'{"info": {}, "arrays": {}, "more": {}}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        b'{"info": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b'}, "arrays": {}}',
    ],
    ids=range(14),
)
def test_headers_that_are_none(tmp_path, header):
    with pytest.raises(CheckpointError, match="checkpoint '.*c' has a header that"):
        read(craft(tmp_path / "c", header))


@pytest.mark.parametrize(
    "declared",
    [
        None,
        3,
        "<f8",
        [],
        ["<f8"],
        ["<f8", [2], 1],
        {"<f8": [2]},
        [["<f8"], [2]],
        [3, [2]],
        [None, [2]],
        *(
            [dtype, [2]]
            for dtype in [
                "O",
                "|O",
                "|O8",
                "f8",
                ">f8",
                "=f8",
                "float64",
                "<f16",
                "<c16",
                "<M8[s]",
                "<m8[s]",
                "|V8",
                "|S8",
                "<U2",
                "<f8,<f8",
                "|b2",
                "",
                [["a", "<f8"]],
                {"names": ["a"], "formats": ["O"]},
            ]
        ),
        *(
            ["<f8", shape]
            for shape in [
                None,
                2,
                "2",
                {"2": 2},
                [2.0],
                [True, 2],
                [-2],
                [-1, -2],
                [None],
                ["2"],
                [[2]],
                [2**62],
                [0, 2**62],
                [2**40, 2**40, 0],
                [10**400],
                [1] * 33,
            ]
        ),
    ],
    ids=str,
)
def test_dtypes_and_shapes_of_arrays(tmp_path, declared):
    with pytest.raises(CheckpointError, match="checkpoint '.*c' has an array 'a' of dtype and shape "):
        read(craft(tmp_path / "c", {"info": {}, "arrays": {"a": declared}}, bytes(16)))


@pytest.mark.parametrize(
    "arrays, content, words",
    [
        ({"a": ["<f8", [3]]}, bytes(16), "is too short for its array 'a'"),
        ({"a": ["<f8", [2**40, 2**16]]}, bytes(16), "is too short for its array 'a'"),
        ({"a": ["<f8", [1]], "b": ["<f8", [2]]}, bytes(16), "is too short for its array 'b'"),
        ({"a": ["<f8", [1]]}, bytes(16), "has 8 bytes that belong to no array"),
        ({}, bytes(1), "has 1 bytes that belong to no array"),
        ({"a": ["|b1", [2]]}, b"\1\2", "has bytes in its array 'a' that are no booleans"),
    ],
)
def test_content_that_does_not_fit_the_header(tmp_path, arrays, content, words):
    with pytest.raises(CheckpointError, match=words):
        read(craft(tmp_path / "c", {"info": {}, "arrays": arrays}, content))


@pytest.mark.parametrize("head", [0, 1, 10**6, 2**63, 2**64 - 1])
def test_lengths_of_the_header(tmp_path, head):
    with pytest.raises(CheckpointError, match="has a header that cannot be read"):
        read(craft(tmp_path / "c", {"info": {}, "arrays": {}}, bytes(8), head))
