"""Streams: every row once, in an order that the seed decides, in bounded memory, from every kind of source."""

import gzip
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import fastbp
from fastbp.datasets.dataset import Column
from fastbp.datasets.tables import read_csv
from fastbp.training import streams
from fastbp.training.streams import StreamError

N, N_IN = 1000, 3


@pytest.fixture(scope="module")
def net():
    return fastbp.Network([N_IN, 5], "softmax", "cross_entropy", backend="numpy", seed=0)


@pytest.fixture
def data():
    """Samples that tell their number, and its remainder by 5 as the label."""
    i = np.arange(N)
    return np.stack([i, 2 * i, -i], 1).astype(np.float32), i % 5


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(streams, "CHUNK_BYTES", 17 * 4 * N_IN)


def write_idx(path, array, code):
    lengths = b"".join(n.to_bytes(4, "big") for n in array.shape)
    content = bytes([0, 0, code, array.ndim]) + lengths + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def chunks_of(X, Y, lengths):
    start = 0
    while start < len(X):
        length = next(lengths)
        yield X[start : start + length], Y[start : start + length]
        start += length


def cycled(*lengths):
    while True:
        yield from lengths


def one_pass(stream, net, seed=0, shuffle=True, batch_size=8):
    """Copies of the buffers of one epoch."""
    return [(X.copy(), Y.copy()) for X, Y in stream.buffers(net, np.random.default_rng(seed), shuffle, batch_size)]


def rows_of(buffers):
    return np.concatenate([X[:, 0] for X, _ in buffers]).astype(int)


SOURCES = [
    "arrays",
    "memmaps",
    "npy",
    "fortran",
    "idx",
    "idx.gz",
    "idx and array",
    "csv",
    "csv.gz",
    "function",
    "list",
    "iterable",
    "generator",
    "lists of lists",
    "shape and slices",
]


def source(kind, data, folder):
    X, Y = data
    if kind == "arrays":
        return fastbp.stream(X.tolist(), Y, buffer_rows=100)
    if kind in ("memmaps", "npy", "fortran"):
        np.save(folder / "X.npy", np.asfortranarray(X) if kind == "fortran" else X)
        np.save(folder / "Y.npy", Y.astype(np.int32))
        paths = folder / "X.npy", str(folder / "Y.npy")
        given = [np.load(path, mmap_mode="c") for path in paths] if kind == "memmaps" else paths
        return fastbp.stream(*given, buffer_rows=100)
    if kind.startswith("idx"):
        end = ".gz" if kind == "idx.gz" else ""
        path = write_idx(folder / f"train-images-idx3-ubyte{end}", X.astype(">f4")[:, :, None], 0x0D)
        labels = write_idx(folder / f"train-labels-idx1-ubyte{end}", Y.astype(np.uint8), 0x08)
        if kind == "idx and array":
            labels.unlink()
            return fastbp.stream(path, Y, buffer_rows=100)
        return fastbp.stream(path, buffer_rows=100)
    if kind.startswith("csv"):
        text = "a,b,c,label\n" + "".join(f"{a},{b},{c},{y}\n" for (a, b, c), y in zip(X, Y, strict=True))
        path = folder / f"t.{kind}"
        path.write_bytes(gzip.compress(text.encode()) if kind == "csv.gz" else text.encode())
        return fastbp.stream(path, buffer_rows=100)
    if kind == "shape and slices":

        class Sliced:
            def __init__(self, array):
                self.array, self.shape, self.dtype = array, array.shape, array.dtype

            def __getitem__(self, rows):
                assert isinstance(rows, slice)
                return self.array[rows]

        return fastbp.stream(Sliced(X), Sliced(Y), buffer_rows=100)

    class Chunks:
        def __iter__(self):
            return chunks_of(X, Y, cycled(1, 250, 0, 7))

    made = {
        "function": lambda: chunks_of(X, Y, cycled(3, 64, 0)),
        "list": list(chunks_of(X, Y, cycled(130))),
        "iterable": Chunks(),
        "generator": chunks_of(X, Y, cycled(99, 101)),
        "lists of lists": [[X[:5].astype(int).tolist(), Y[:5].tolist()], [X[5:] + 0.0, Y[5:].astype(np.uint8)]],
    }
    return fastbp.stream(made[kind], buffer_rows=100)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("settings", [{}, {"class_weight": {1: 2.0}}])
def test_every_source_trains(kind, settings, data, tmp_path, backend, small_blocks):
    """In the order of the source, as the arrays themselves do."""
    X, Y = data[0] / 1000, data[1]
    epochs, results = 1 if kind == "generator" else 2, []
    for given in ((source(kind, (X, Y), tmp_path),), (X, Y)):
        if kind == "lists of lists":  # their first rows are whole numbers
            X[:5] = X[:5].astype(int)
        net = fastbp.Network([N_IN, 5], "softmax", "cross_entropy", backend=backend, seed=0)
        trainer = fastbp.Trainer(net, fastbp.SGD(0.1), batch_size=8, shuffle=False)
        history = trainer.fit(*given, epochs=epochs, **settings)
        results.append((net.parameters.tobytes(), len(history), trainer.state.step))
    assert results[0] == results[1] and results[0][1] == epochs


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.filterwarnings("ignore:.* counts the rows")
def test_every_row_once(kind, shuffle, net, data, tmp_path, small_blocks):
    stream = source(kind, data, tmp_path)
    buffers = one_pass(stream, net, shuffle=shuffle)
    assert [len(X) for X, _ in buffers] == [96] * 10 + [40]  # whole batches of 8, but for the last
    for X, Y in buffers:
        assert X.dtype == np.float32 and Y.dtype == np.int64 and len(X) == len(Y) and X.flags.c_contiguous
        np.testing.assert_array_equal(X, data[0][X[:, 0].astype(int)])
        np.testing.assert_array_equal(Y, data[1][X[:, 0].astype(int)])
    rows = rows_of(buffers)
    np.testing.assert_array_equal(np.sort(rows), np.arange(N))
    assert (rows.tolist() == list(range(N))) != shuffle
    assert stream.n_samples in (N, None) and (stream.n_samples is None) == isinstance(stream._source, streams._Chunks)
    assert repr(stream).startswith("Stream(1000 samples from " if stream.n_samples else "Stream(an unknown number")


@pytest.mark.parametrize("kind", ["npy", "idx.gz", "csv", "function"])
@pytest.mark.filterwarnings("ignore:.* counts the rows")
def test_the_seed_decides_the_order(kind, net, data, tmp_path, small_blocks):
    stream = source(kind, data, tmp_path)
    rng = np.random.default_rng(5)
    epochs = []
    for _ in range(3):
        state = rng.bit_generator.state
        epochs.append(rows_of([(X.copy(), Y) for X, Y in stream.buffers(net, rng, True, 8)]))
    assert not np.array_equal(epochs[1], epochs[2])
    rng.bit_generator.state = state  # as from a checkpoint before the last epoch
    again = source(kind, data, tmp_path)
    np.testing.assert_array_equal(rows_of(one_pass(again, net, rng)), epochs[2])
    assert not np.array_equal(rows_of(one_pass(again, net, 6)), epochs[2])


def test_what_is_drawn_does_not_depend_on_the_source_nor_on_an_early_end(net, data):
    states = []
    for rows, ends in ((N, False), (10, False), (N, True)):
        rng = np.random.default_rng(0)
        for _ in fastbp.stream(data[0][:rows], data[1][:rows], buffer_rows=16).buffers(net, rng, True, 8):
            if ends:
                break
        states.append(rng.bit_generator.state)
    assert states[0] == states[1] == states[2] != np.random.default_rng(0).bit_generator.state
    rng = np.random.default_rng(0)
    one_pass(fastbp.stream(*data), net, rng, shuffle=False)
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


def test_a_buffer_of_an_array_mixes_blocks_of_all_places(net, data, small_blocks):
    for X, _ in one_pass(fastbp.stream(*data, buffer_rows=200), net)[:-1]:
        assert np.ptp(X[:, 0]) > N / 2
    buffers = one_pass(fastbp.stream(lambda: chunks_of(*data, cycled(17)), buffer_rows=200), net)
    for i, (X, _) in enumerate(buffers):  # chunks come in their order; only rows within a buffer are mixed
        assert sorted(X[:, 0]) == list(range(200 * i, 200 * (i + 1))) != X[:, 0].tolist()


def test_all_orders_are_drawn_alike(net):
    X, Y = np.arange(3 * N_IN).reshape(3, N_IN), np.zeros(3, int)
    rng, stream, counts = np.random.default_rng(0), fastbp.stream(X, Y), {}
    for _ in range(600):
        order = tuple(rows_of(one_pass(stream, net, rng)).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6 and min(counts.values()) > 70


@pytest.mark.parametrize(
    "batch_size, buffer_rows, lengths",
    [
        (7, 20, [14] * 71 + [6]),
        (30, 20, [30] * 33 + [10]),
        (1, 1, [1] * 1000),
        (1000, 5, [1000]),
        (3, None, [1000]),
        (500, 1000, [1000]),
        (2000, 1, [1000]),
    ],
)
def test_buffers_are_whole_batches(batch_size, buffer_rows, lengths, net, data):
    for shuffle in (False, True):
        stream = fastbp.stream(*data, buffer_rows=buffer_rows)
        buffers = one_pass(stream, net, shuffle=shuffle, batch_size=batch_size)
        assert [len(X) for X, _ in buffers] == lengths
        assert sorted(rows_of(buffers)) == list(range(N))


def test_a_buffer_takes_32_MB(net):
    n_in = 1000
    X = np.lib.stride_tricks.as_strided(np.zeros(n_in, np.float32), (20_000, n_in), (0, 4))
    wide = fastbp.Network([n_in, 1], backend="numpy", seed=0)
    (A, B, C) = [X.nbytes for X, _ in fastbp.stream(X, np.zeros(len(X))).buffers(wide, None, False, 10)]
    assert A == B > C and 31e6 < A < 34e6


@pytest.mark.parametrize(
    "dtype, kept",
    [
        (np.uint8, np.uint8),
        (np.float64, np.float32),
        (np.int64, np.float32),
        (np.float32, np.float32),
        (bool, np.float32),
        (">f8", np.float32),
    ],
)
def test_dtypes(dtype, kept, net):
    X = (np.arange(30).reshape(10, 3) % 7).astype(dtype)
    ((same, Y),) = one_pass(fastbp.stream(X, np.eye(5)[np.arange(10) % 5]), net, shuffle=False)
    assert same.dtype == kept and Y.dtype == np.float32 and Y.shape == (10, 5)
    np.testing.assert_array_equal(same, X)


def test_uint8_chunks_after_floats_are_taken_and_the_other_way_round_refused(net):
    chunks = [(np.ones((2, 3)) / 2, [0, 1]), (np.full((2, 3), 3, np.uint8), [0, 1])]
    ((X, _),) = one_pass(fastbp.stream(chunks), net, shuffle=False)
    np.testing.assert_array_equal(X[:, 0], [0.5, 0.5, 3, 3])
    with pytest.raises(ValueError, match="chunk 2: X is float64 and Y 1-D, but the chunks before .* uint8 and 1-D"):
        one_pass(fastbp.stream(chunks[::-1]), net)
    chunks[1] = (np.ones((2, 3)), np.eye(5)[:2])
    with pytest.raises(ValueError, match="chunk 2: X is float64 and Y 2-D, but the chunks before .* float32 and 1-D"):
        one_pass(fastbp.stream(chunks), net)


@pytest.mark.parametrize("backend", ["numpy"])
def test_training_by_buffers_is_training_on_the_array(backend, data, small_blocks):
    X, y = data[0] / N, data[1]

    def trainer():
        net = fastbp.Network([N_IN, 8, 5], ["tanh", "softmax"], "cross_entropy", backend=backend, seed=0)
        return fastbp.Trainer(net, fastbp.SGD(lr=0.1, momentum=0.9), batch_size=7, shuffle=False)

    whole, by_buffers = trainer(), trainer()
    whole.fit(X, y)
    for X_buffer, Y_buffer in fastbp.stream(X, y, buffer_rows=50).buffers(by_buffers.net, None, False, 7):
        by_buffers.partial_fit(X_buffer, Y_buffer)
    assert by_buffers.net.parameters.tobytes() == whole.net.parameters.tobytes()


# ------------------------------------------------------------------ CSV


@pytest.mark.parametrize(
    "text, options",
    [
        ("a,b,c\n1,2,x\n3,4,y\n5,6,x\n", {}),
        ("a,b,c\n1,2,x\n3,4,y\n5,6,x\n", {"target": "a"}),
        ("c,n,t\nred,1,.5\nblue,2,1.5\nred,3,1\ngreen,4,7\n", {}),
        ("1;2,5;0,5\n3;4,5;1,5\n", {}),
        ('"a","b, c"\n"1","x ""q"""\n\n"2","y\nz"\n', {}),
        ("1,5\n2,6\n3,7\n4,8\n", {}),
        ("1,0\n2,1\n3,0\n4,1\n", {"task": "numbers"}),
        ("\ufeff1,0.5\n  \n2,1.5\n", {"task": "classes"}),
        ("a,b\n\n1,-1\n2,1\n\n3,-1\n4,1\n", {}),
        ("a,b\n" + "".join(f"{i},{i % 30}\n" for i in range(90)), {"target": 1}),
        ("1,2\n3,4\n5,6\n", {"header": True, "target": "1"}),
        ("id,name,x,y\n" + "".join(f"{7 * i % 50},n{i},{i % 3},{i % 4}\n" for i in range(50)), {}),
        (",x,z,y\n" + "".join(f"{i},{i % 3},{i % 5},{i % 4}\n" for i in range(50)), {}),
        ("name,x,y\na,1,2\nb,3,4\n,5,6\nd,7,8\n", {"task": "numbers"}),
        ("p;q;y\n1,250;$5;1,5\n2,5;$6;2,5\n2;-$7;1,250\n", {}),
        ('p,q,y\n"1,200",5%,1.5\n950,6%,2\n7,7.5%,3\n', {}),
        ("country,2019,2020\nPeru,60.5,59\nChile,67,68\nPeru,60,59.5\n", {}),
        ("a,b,c\n1,x,2\n,y,4\n5,,?\nz,y,7\n9,x,8\n", {}),
        ("a,b\n" + "".join(f"x{i * i % 61},{i}.5\n" for i in range(90)), {}),
        ("when,kg,t\n2019-01-02,5 kg,1\n,6 kg,2\n2019-03-04,,1\n", {}),
    ],
)
@pytest.mark.parametrize("n_bytes", [1, 30, 1 << 19])
@pytest.mark.filterwarnings("ignore:.*t.csv")
def test_csv_is_as_read_csv_reads_it(text, options, n_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr("fastbp.datasets.reader.BLOCK_BYTES", n_bytes)
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    whole, stream = read_csv(path, **options), fastbp.stream(path, **options)
    assert (stream.classes, stream.columns, stream.n_samples) == (whole.classes, whole.columns, len(whole.X))
    chunks = list(stream._source.chunks(None))
    assert len(chunks) == {1: len(whole.X), 1 << 19: 1}.get(n_bytes, len(chunks))
    X, y = np.concatenate([X for _, X, _ in chunks]), np.concatenate([y for *_, y in chunks])
    np.testing.assert_array_equal(X, whole.X)
    np.testing.assert_array_equal(y, whole.y)
    assert (X.dtype, y.dtype) == (whole.X.dtype, whole.y.dtype)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "is empty"),
        ("a,b\n", "a header, but no rows"),
        ("1\n2\n", "one column only"),
        ("a,b\n1,2\n3,4\n5,6,7\n", "line 4: 3 fields; line 1 has 2"),
        ("a,b\n1,2\n3,4\n5,x\n", "target column 'b': text among numbers 'x' in line 4"),
        ("a,b\n" + "".join(f"1,x{i}\n" for i in range(40)), "target column 'b': 40 different texts in 40 rows"),
        ("a,b\n1,2\n3,inf\n", "infinity in line 3"),
        ("a,b\n1,\n3,?\n", "target column 'b': it is empty"),
        ("a,b\n,1\n?,2\n", "no column is left as a feature"),
        ("a\tb\n950\t2\n1,200\t3\n", "column 'a': a comma before three digits"),
        ("a,b\n5%,2\n6%,3\n0.05,3\n", "column 'a': numbers of several units"),
    ],
)
def test_what_is_wrong_in_a_csv_file_is_found_at_once(text, words, tmp_path, monkeypatch):
    monkeypatch.setattr("fastbp.datasets.reader.BLOCK_BYTES", 1)
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        fastbp.stream(tmp_path / "t.csv")
    assert "t.csv" in str(error.value)


def test_what_is_left_out_of_a_csv_file_is_said(tmp_path):
    (tmp_path / "t.csv").write_text("id,x,y\n1,5,a\n2,3,a\n3,4,b\n4,6,b\n")
    with pytest.warns(UserWarning, match="t.csv, column 'id' is left out: it numbers the rows") as caught:
        stream = fastbp.stream(tmp_path / "t.csv")
    assert [warning.filename for warning in caught] == [__file__]
    assert stream.columns == (Column("id", ()), Column("x"))


def test_csv_lines_are_named(net, tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c,d\n" + "1,2,3,0\n" * 5 + "1,2,1e300,0\n")
    with pytest.raises(ValueError, match=r"t.csv, lines 2 to 7: X\[5, 2\] is 1e\+300: every value must be finite"):
        one_pass(fastbp.stream(tmp_path / "t.csv", task="classes"), net)


# ------------------------------------------------------------------ memory

MEASURED = """
import sys
import numpy as np
import fastbp

def resident(kind):
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(kind)) / 1024  # MB

kind, folder = sys.argv[1:]
in_place = kind == "npy, in place"
n, n_in = 100_000, 500
net = fastbp.Network([n_in, 2], backend="numpy", seed=0)
if kind.startswith("npy"):
    X = np.lib.format.open_memmap(folder + "/X.npy", "w+", np.float32, (n, n_in))  # 200 MB with holes
    del X
    np.save(folder + "/Y.npy", np.zeros((n, 2), np.float32))
    stream = fastbp.stream(folder + "/X.npy", folder + "/Y.npy")
elif kind == "idx":
    with open(folder + "/a-images-idx3-ubyte", "wb") as file:
        file.write(bytes([0, 0, 0x0D, 3]) + b"".join(k.to_bytes(4, "big") for k in (n, n_in // 10, 10)))
        file.truncate(16 + n * n_in * 4)
    stream = fastbp.stream(folder + "/a-images-idx3-ubyte", np.zeros((n, 2), np.float32))
else:
    stream = fastbp.stream(lambda: ((np.zeros((3_000, n_in)), np.zeros((3_000, 2))) for _ in range(34)))
for shuffle in (True, False):
    before, most, rows = {key: resident(key) for key in ("Anonymous", "Rss")}, {}, 0
    buffers = stream.buffers(net, np.random.default_rng(0), shuffle, 100, as_order=in_place, in_place=in_place)
    for X, _, *order in buffers:
        rows += len(order[0] if in_place else X)
        for key in before:
            most[key] = max(most.get(key, 0), resident(key) - before[key])
    del X, _
    assert rows == n or kind == "chunks"
    print(most["Anonymous"], most["Rss"])
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs /proc")
@pytest.mark.parametrize("kind", ["npy", "npy, in place", "idx", "chunks"])
def test_memory_is_bounded(kind, tmp_path):
    run = subprocess.run([sys.executable, "-c", MEASURED, kind, str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for line, buffers in zip(run.stdout.splitlines(), (3, 2), strict=True):
        anonymous, resident = map(float, line.split())
        if kind == "npy, in place":
            assert anonymous < 10 and 32 < resident < 32 * 3 + 40, line  # the pages of buffers in use
            continue
        assert 32 < anonymous < 32 * buffers + 25, line  # the buffers, and one or two chunks of up to 12 MB
        assert resident < 32 * buffers + 40, line  # and few pages of the map


def test_only_two_buffers_are_handed_out_by_turns(net, data):
    for shuffle in (False, True):
        stream = fastbp.stream(*data, buffer_rows=16)
        places = [X.ctypes.data for X, _ in stream.buffers(net, np.random.default_rng(0), shuffle, 8)]
        assert len(places) == 63 and len(set(places)) == 2 and places[::2] == places[:1] * 32


def test_the_buffer_in_use_is_left_alone(net, data):
    stream = fastbp.stream(*data, buffer_rows=50)
    for X, Y in stream.buffers(net, np.random.default_rng(0), True, 10):
        before = X.copy(), Y.copy()
        time.sleep(0.002)  # the thread fills the other one meanwhile
        np.testing.assert_array_equal(X, before[0])
        np.testing.assert_array_equal(Y, before[1])


def test_sources_are_only_read(net, data, tmp_path):
    np.save(tmp_path / "X.npy", data[0])
    X = np.load(tmp_path / "X.npy", mmap_mode="c")
    X[3] = 7.0  # lives in the pages of the map alone
    ((same, _),) = one_pass(fastbp.stream(X, data[1]), net, shuffle=False)
    assert (same[3] == 7).all() and (X[3] == 7).all()
    X = np.load(tmp_path / "X.npy", mmap_mode="r+")
    X[3] = 8.0
    one_pass(fastbp.stream(X, data[1]), net)
    assert (X[3] == 8).all() and (np.load(tmp_path / "X.npy")[3] == 8).all()


# ------------------------------------------------------------------ threads


def thread_names():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fastbp-stream")]


def test_one_thread_one_buffer_ahead_and_none_after_it(net, data):
    asked = []

    def chunks():
        for _ in range(10):
            asked.append(threading.current_thread().name)
            yield data[0][:8], data[1][:8]

    stream = fastbp.stream(chunks, buffer_rows=8)
    buffers = stream.buffers(net, np.random.default_rng(0), True, 8)
    assert asked == [] and thread_names() == []
    next(buffers)
    deadline = time.monotonic() + 10
    while len(asked) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert len(asked) == 3  # the one in use, the next one, and what tells that the next one is not the last
    assert len(thread_names()) == 1 and set(asked) == set(thread_names())
    assert len(list(buffers)) == 9 and thread_names() == []


@pytest.mark.parametrize("end", ["close", "break", "error", "drop"])
def test_an_early_end_leaves_no_thread(end, net, data):
    state = []

    def chunks():
        try:
            while True:
                yield data
        finally:
            state.append("closed")

    buffers = fastbp.stream(chunks, buffer_rows=16).buffers(net, np.random.default_rng(0), True, 8)
    next(buffers)
    if end == "close":
        buffers.close()
    elif end == "break":
        for _ in buffers:
            break
        del buffers
    elif end == "error":
        with pytest.raises(KeyboardInterrupt):
            buffers.throw(KeyboardInterrupt)
    else:
        del buffers
    assert thread_names() == [] and (state == ["closed"] or end == "error")


def test_a_slow_source_is_left_after_its_chunk_not_after_its_buffer(net, data):
    asked = []

    def chunks():
        for i in range(1000):
            asked.append(i)
            if i > 8:
                time.sleep(0.01)
            yield data[0][:8], data[1][:8]

    buffers = fastbp.stream(chunks, buffer_rows=64).buffers(net, np.random.default_rng(0), True, 8)
    next(buffers)
    buffers.close()
    assert len(asked) < 14


# ------------------------------------------------------------------ what goes wrong


def test_a_generator_gives_one_epoch(net, data):
    stream = fastbp.stream(chunks_of(*data, cycled(100)))
    assert stream.n_epochs == 1
    with pytest.raises(ValueError, match="gives one epoch, not 2: pass a function"):
        stream.check_epochs(2)
    stream.check_epochs(1)
    one_pass(stream, net)
    for call in (lambda: stream.check_epochs(1), lambda: one_pass(stream, net)):
        with pytest.raises(ValueError, match="a stream of an iterator is used up: pass a function that returns"):
            call()
    for source in (lambda: chunks_of(*data, cycled(100)), [data]):
        stream = fastbp.stream(source)
        assert stream.n_epochs is None
        stream.check_epochs(100)
        assert len(one_pass(stream, net)) == len(one_pass(stream, net)) == 1


def test_an_error_of_the_source_names_the_chunk(net, data):
    def chunks():
        yield data
        yield data
        raise OSError("no carrier")

    with pytest.raises(StreamError, match="chunk 3 of the stream failed: OSError: no carrier") as error:
        one_pass(fastbp.stream(chunks, buffer_rows=16), net)
    assert isinstance(error.value.__cause__, OSError) and thread_names() == []
    with pytest.raises(StreamError, match="chunk 1 .* must return an iterable of chunks .*, got 3"):
        one_pass(fastbp.stream(lambda: 3), net)


@pytest.mark.parametrize(
    "chunk, kind, words",
    [
        ((np.ones((2, 4)), [0, 1]), ValueError, "chunk 2: X has 4 columns"),
        ((np.ones(3), [0]), ValueError, "chunk 2: X must be 2-D"),
        ((np.full((2, 3), np.nan), [0, 1]), ValueError, r"chunk 2: X\[0, 0\] is nan"),
        ((np.ones((2, 3)), [0, 5]), ValueError, "chunk 2: Y holds the label 5"),
        ((np.ones((2, 3)), [0]), ValueError, "chunk 2: Y has 1 rows"),
        ((np.ones((2, 3)), [0.5, 1]), TypeError, "chunk 2: Y is 1-D"),
        (np.ones((2, 3)), TypeError, r"chunk 2 must be a pair \(X, Y\), got ndarray"),
        ((np.ones((2, 3)), [0, 1], [1, 1]), TypeError, r"chunk 2 must be a pair \(X, Y\), got tuple of 3"),
    ],
)
def test_a_chunk_that_does_not_fit_is_named(chunk, kind, words, net, data):
    with pytest.raises(kind, match=words):
        one_pass(fastbp.stream([data, chunk]), net)
    assert thread_names() == []


def test_rows_of_an_array_are_named(net, data, small_blocks):
    data[0][700, 1] = np.inf
    with pytest.raises(ValueError, match=r"rows 697 to 713: X\[3, 1\] is inf"):
        one_pass(fastbp.stream(*data), net)


def test_nothing_is_an_error(net):
    for source in ([], iter([]), lambda: iter([(np.empty((0, 3)), [])])):
        with pytest.raises(ValueError, match="the stream gave no samples"):
            one_pass(fastbp.stream(source), net)


def test_bad_arguments(data, tmp_path):
    X, Y = data
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "none.npy", X[:0])
    np.savez(tmp_path / "t.npz", X=X)
    (tmp_path / "t.csv").write_text("a,b\n1,2.5\n2,3.5\n")
    whole = (tmp_path / "X.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-100])
    write_idx(tmp_path / "a-idx3", np.zeros((4, 2, 2), np.uint8), 0x08)
    (tmp_path / "cut-idx3").write_bytes((tmp_path / "a-idx3").read_bytes()[:-1])
    for bad, kind, words in [
        ((X,), TypeError, "Y is missing"),
        ((tmp_path / "X.npy",), TypeError, "Y is missing"),
        ((tmp_path / "a-idx3",), TypeError, "Y is missing"),
        ((X, Y[:-1]), ValueError, r"as many rows each, got shapes \(1000, 3\) and \(999,\)"),
        ((X, 3), ValueError, "as many rows each"),
        ((tmp_path / "t.csv", Y), ValueError, "name their column by `target`, and leave out Y"),
        ((X, tmp_path / "t.csv"), ValueError, "Y: .*t.csv is neither a .npy nor an IDX file"),
        ((tmp_path / "t.npz", Y), ValueError, "is a zip file, such as .npz"),
        ((tmp_path / "cut.npy", Y), ValueError, "X: .*cut.npy cannot be mapped"),
        ((tmp_path / "none.npy", Y), ValueError, "X: .*none.npy cannot be mapped|as many rows"),
        ((tmp_path / "cut-idx3", Y[:4]), ValueError, "takes 32 bytes, but the file has 31"),
        ((tmp_path / "no.npy", Y), FileNotFoundError, "no.npy"),
        ((3,), TypeError, "X must be an array, a path, an iterable of chunks"),
        (({"X": X},), TypeError, "X must be an array, a path, an iterable of chunks"),
    ]:
        with pytest.raises(kind, match=words):
            fastbp.stream(*bad)
    with pytest.raises(ValueError, match="buffer_rows must be at least 1"):
        fastbp.stream(X, Y, buffer_rows=0)


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda data: gzip.compress(gzip.decompress(data)[:-1]), "takes 96 bytes, but the file has 95"),
        (lambda data: gzip.compress(gzip.decompress(data) + b"x"), "takes 96 bytes, but the file has 97"),
        (lambda data: data[:-10], "damaged gzip data"),
    ],
)
def test_damaged_idx_gz(damage, words, tmp_path):
    path = write_idx(tmp_path / "a-idx3.gz", np.arange(80, dtype=np.uint8).reshape(20, 2, 2), 0x08)
    path.write_bytes(damage(path.read_bytes()))
    net = fastbp.Network([4, 2], "softmax", "cross_entropy", backend="numpy", seed=0)
    with pytest.raises(ValueError, match=words):
        one_pass(fastbp.stream(path, np.zeros(20, int)), net)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_order_instead_of_moved_rows(shuffle, in_place, small_blocks):
    """Whole batches, of 17 rows to a block: buffers that are places in the arrays hold the rows that copies hold."""
    X, y = np.arange(300, dtype=np.float32).reshape(100, 3), np.arange(100) % 5
    net = fastbp.Network([3, 5], "softmax", "cross_entropy", seed=0)
    stream = fastbp.stream(X, y, buffer_rows=40)
    moved = [(A.copy(), b.copy()) for A, b in stream.buffers(net, np.random.default_rng(1), shuffle, 8)]
    ordered = [
        (A[rows], b[rows], np.shares_memory(A, X))
        for A, b, rows in stream.buffers(net, np.random.default_rng(1), shuffle, 8, as_order=True, in_place=in_place)
    ]
    assert [len(A) for A, _ in moved] == [40, 40, 20] and len(ordered) == 3
    for one, (*other, is_shared) in zip(moved, ordered, strict=True):
        assert is_shared == in_place
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def memory_map(tmp_path, X):
    np.save(tmp_path / "X.npy", X)
    return np.load(tmp_path / "X.npy", mmap_mode="r")


@pytest.mark.parametrize(
    "as_given, is_in_place",
    [
        (lambda X, y, path: (X, y), True),
        (lambda X, y, path: (memory_map(path, X), y), True),
        (lambda X, y, path: (X, y.astype(np.uint8)), True),
        (lambda X, y, path: (np.asfortranarray(X), y), False),
        (lambda X, y, path: (X.astype(">f4"), y), False),
        (lambda X, y, path: (np.hstack([X, X])[:, :3], y), False),
        (lambda X, y, path: (X, np.repeat(y, 2)[::2]), True),
        (lambda X, y, path: (memory_map(path, X.astype(float)), y), True),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"class_weight": {0: 2.0, 3: 0.5}}])
def test_training_where_the_samples_lie(settings, as_given, is_in_place, data, backend, small_blocks, tmp_path):
    """The same bits, whether the kernels read the arrays themselves or copies of their rows."""
    X, y = data
    X = X / 100
    results, given = [], as_given(X, y, tmp_path)
    for source in (given, (np.asfortranarray(given[0]), y)):
        net = fastbp.Network([N_IN, 6, 5], ["tanh", "softmax"], "cross_entropy", backend=backend, seed=0)
        trainer = fastbp.Trainer(net, fastbp.SGD(0.1, momentum=0.5), batch_size=8, seed=0)
        stream = fastbp.stream(*source, buffer_rows=40)
        assert (stream._source.in_place(net) is not None) == (is_in_place if not results else False)
        history = trainer.fit(stream, epochs=2, **settings)
        results.append((net.parameters.tobytes(), history.loss))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "form",
    [
        lambda Y: Y.astype(np.float32),
        lambda Y: Y,
        lambda Y: Y.astype(int),
        lambda Y: Y > 0,
        lambda Y: Y[:, None],
        lambda Y: np.repeat(Y.astype(np.float32)[:, None], 2, 1)[:, ::2],
        lambda Y: Y.astype(">f4"),
    ],
)
@pytest.mark.parametrize("small", [True, False])
def test_targets_of_any_form_are_what_fit_takes_them_for(form, small, data, backend, monkeypatch):
    """One output: numbers in a row are no labels.  Targets too large to be converted at once come in pieces."""
    X, Y = data[0] / 1000, form(np.round(3 * np.sin(np.arange(N))))
    if not small:
        monkeypatch.setattr(streams, "BUFFER_BYTES", N)
    results = []
    for arguments in ((fastbp.stream(X, Y),), (X, Y)):
        net = fastbp.Network([N_IN, 6, 1], ["tanh", "identity"], backend=backend, seed=0)
        fastbp.Trainer(net, fastbp.SGD(0.1), batch_size=8, shuffle=False).fit(*arguments, epochs=2)
        results.append(net.parameters.tobytes())
    assert results[0] == results[1]


def test_targets_that_do_not_fit_are_named_where_the_samples_lie(data, small_blocks):
    X, y = data
    for net, Y, message in [
        (fastbp.Network([N_IN, 5], "softmax", "cross_entropy"), y.astype(float), "rows 0 to 16: Y is 1-D, so it holds"),
        (fastbp.Network([N_IN, 5]), y, "rows 0 to 16: Y is 1-D, but the network has 5 outputs"),
        (fastbp.Network([N_IN, 1]), np.where(y == 2, 1e300, 0.0), r"rows 0 to 16: Y\[2, 0\] is 1e\+300"),
        (fastbp.Network([N_IN, 1]), y.astype(str), "rows 0 to 1: Y must hold real numbers"),
    ]:
        before = net.parameters.copy()
        with pytest.raises((ValueError, TypeError), match=message):
            fastbp.Trainer(net, fastbp.SGD(0.1), shuffle=False).fit(fastbp.stream(X, Y))
        assert (net.parameters == before).all()


def test_a_bad_row_is_named_where_the_samples_lie(data, small_blocks):
    X, y = data[0].copy(), data[1]
    X[40, 1] = np.nan
    net = fastbp.Network([N_IN, 5], "softmax", "cross_entropy", seed=0)
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1), shuffle=False)
    with pytest.raises(ValueError, match=r"rows 34 to 50: X\[6, 1\] is nan"):
        trainer.fit(fastbp.stream(X, y))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_an_epoch_of_which_every_step_is_skipped_has_no_loss(backend, reduction):
    X, Y = np.ones((40, 2)), np.full((40, 1), 1e300)
    net = fastbp.Network([2, 1], "identity", backend=backend, dtype="float64", reduction=reduction)
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1), batch_size=8, on_nonfinite="skip")
    history = trainer.fit(fastbp.stream(X, Y, buffer_rows=16), epochs=2)
    assert np.isnan(history.loss).all() and len(history) == 2 and history.skipped == 10


@pytest.mark.parametrize("event", ["on_train_begin", "on_epoch_begin"])
def test_training_that_ends_before_the_first_buffer(event, data, backend):
    net = fastbp.Network([N_IN, 5], "softmax", "cross_entropy", backend=backend, seed=0)
    before = net.parameters.tobytes()
    callback = type("Ends", (), {event: lambda *_: True})()
    history = fastbp.Trainer(net, fastbp.SGD(0.1)).fit(fastbp.stream(*data), epochs=3, callbacks=[callback])
    assert history.stopped == "Ends" and len(history) == 0 and net.parameters.tobytes() == before


def test_a_stream_of_no_rows(backend):
    net = fastbp.Network([N_IN, 2], backend=backend)
    for X in (np.empty((0, N_IN), np.float32), np.empty((0, N_IN), int)):
        with pytest.raises(ValueError, match="the stream gave no samples"):
            fastbp.Trainer(net, fastbp.SGD(0.1)).fit(fastbp.stream(X, np.empty((0, 2), np.float32)))


def test_rows_of_something_without_a_dtype(data, net):
    class Table:
        def __init__(self, array):
            self.array, self.shape = array, array.shape

        def __getitem__(self, rows):
            return self.array[rows]

    X, y = data
    rows = rows_of(one_pass(fastbp.stream(Table(X), Table(y)), net, shuffle=False))
    np.testing.assert_array_equal(rows, np.arange(N))


def test_classes_of_signs_of_which_a_buffer_holds_one(backend):
    X, Y = np.linspace(-1, 1, 120).reshape(60, 2), np.where(np.arange(60) < 32, 1.0, -1.0)
    results = []
    for arguments in (
        (fastbp.stream(lambda: ((X[i : i + 8], Y[i : i + 8]) for i in range(0, 60, 8)), buffer_rows=8),),
        (X, Y),
    ):
        net = fastbp.Network([2, 1], "tanh", "hinge", backend=backend, seed=0)
        trainer = fastbp.Trainer(net, fastbp.SGD(0.1), batch_size=4, shuffle=False)
        trainer.fit(*arguments, class_weight={-1: 2.0, 1: 0.5})
        results.append(net.parameters.tobytes())
    assert results[0] == results[1]


@pytest.mark.parametrize("source", ["arrays", "stream"])
@pytest.mark.parametrize("bad", [0, 9])
def test_the_loss_of_an_epoch_is_that_of_the_batches_not_skipped(source, bad, backend):
    """Batches of 8 and of 2 samples; one of them is skipped."""
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(10, 4)), rng.normal(size=(10, 2))
    X[bad] = 1e200
    net = fastbp.Network([4, 5, 2], "identity", dtype="float64", seed=1, backend=backend)
    trainer = fastbp.Trainer(net, fastbp.SGD(1e-300), batch_size=8, shuffle=False, on_nonfinite="skip")
    arguments = (X, Y) if source == "arrays" else (fastbp.stream(X, Y),)
    history = trainer.fit(*arguments, epochs=2)
    others = slice(8, 10) if bad == 0 else slice(0, 8)
    assert history.loss == pytest.approx([net.loss(X[others], Y[others])] * 2, rel=1e-12) and history.skipped == 2
