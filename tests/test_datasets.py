"""The bundled data, and the readers of files that the tests write."""

import gzip
import hashlib
import io
import pickle
import re
import tracemalloc
import warnings
import zipfile
from importlib import resources

import numpy as np
import pytest

import fastbp
from fastbp import datasets
from fastbp.datasets import bundled
from fastbp.datasets.arrays import read_idx, read_idx_array, read_npz
from fastbp.datasets.dataset import Column
from fastbp.datasets.tables import read_csv

IDX_CODES = {0x08: "u1", 0x09: "i1", 0x0B: "i2", 0x0C: "i4", 0x0D: "f4", 0x0E: "f8"}


def write_idx(path, array, code):
    """Write `array` in the IDX format, gzipped if the name says so."""
    lengths = b"".join(n.to_bytes(4, "big") for n in array.shape)
    data = bytes([0, 0, code, array.ndim]) + lengths + array.astype(">" + IDX_CODES[code]).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def table(tmp_path):
    """Write text to a CSV file and return its path."""

    def write(text, name="t.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


# ------------------------------------------------------------------ bundled


def test_digits_are_the_uci_digits():
    X, y = bundled.load_digits()
    assert (X.shape, X.dtype, y.shape, y.dtype) == ((1797, 64), np.float32, (1797,), np.int64)
    assert (X.min(), X.max()) == (0, 1)
    levels = (X * 16).astype(np.uint8)
    assert np.array_equal(levels / np.float32(16), X)
    assert hashlib.sha256(levels.tobytes() + y.astype(np.uint8).tobytes()).hexdigest() == DIGITS_SHA256
    assert np.bincount(y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


DIGITS_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


def test_digits_are_small_and_attributed():
    folder = resources.files("fastbp.datasets")
    assert len(folder.joinpath("digits.npz").read_bytes()) < 100_000
    for text in (folder.joinpath("digits.txt").read_text(), bundled.load_digits.__doc__):
        assert all(word in text for word in ("Alpaydin", "Kaynak", "UCI", "Attribution", "licenses/by/4.0"))


def test_xor():
    X, Y = bundled.load_xor()
    assert (X.dtype, Y.dtype, Y.shape) == (np.float32, np.float32, (4, 1))
    assert [(a, b, c) for (a, b), (c,) in zip(X, Y, strict=True)] == [(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)]


def test_a_dataset_is_a_pair_with_attributes():
    data = bundled.load_digits()
    assert data[0] is data.X and data[1] is data.y and len(data) == 2
    again = pickle.loads(pickle.dumps(data))
    assert again.classes == data.classes == tuple("0123456789") and np.array_equal(again.X, data.X)


# ------------------------------------------------------------------ CSV


@pytest.mark.parametrize(
    ("text", "X", "y", "classes"),
    [
        ("a,b,c\n1,2,x\n3,4,y\n", [[1, 2], [3, 4]], [0, 1], ("x", "y")),
        ("1,2,x\n3,4,y\n", [[1, 2], [3, 4]], [0, 1], ("x", "y")),  # no header
        ("a,b\n1,5\n2,7\n3,5\n4,7\n", [[1], [2], [3], [4]], [0, 1, 0, 1], ("5", "7")),  # few integers: classes
        ("1,5\n2,6\n3,7\n4,8\n", [[1], [2], [3], [4]], [5, 6, 7, 8], None),  # many integers: numbers
        ("1,0.5\n2,1\n3,0.5\n4,1\n", [[1], [2], [3], [4]], [0.5, 1, 0.5, 1], None),  # no integers: numbers
        ("a;b;c\n1;2,5;0,5\n3;4,5;1,5\n", [[1, 2.5], [3, 4.5]], [0.5, 1.5], None),  # decimal commas
        ("1,5;2,5\n3,5;4,5\n", [[1.5], [3.5]], [2.5, 4.5], None),
        ("a\tb\n1\t2.5\n3\t3.5\n", [[1], [3]], [2.5, 3.5], None),
        ("a|b\n1|2.5\n3|3.5\n", [[1], [3]], [2.5, 3.5], None),
        ("\ufeffa,b\n1,2.5\n3,3.5\n", [[1], [3]], [2.5, 3.5], None),  # byte order mark
        ("\ufeff1,2.5\n3,3.5\n", [[1], [3]], [2.5, 3.5], None),
        ('"a","b, c"\n"1","x ""q"""\n"2","y\nz"\n', [[1], [2]], [0, 1], ('x "q"', "y\nz")),  # quotes
        ("a,b\r\n1,2.5\r\n\r\n 3 , 4.5 \r\n\r\n", [[1], [3]], [2.5, 4.5], None),  # blank lines and spaces
        ("c,n,t\nred,1,.5\nblue,2,1.5\nred,3,1\n", [[0, 1, 1], [1, 0, 2], [0, 1, 3]], [0.5, 1.5, 1], None),  # one-hot
        ('1, "x, y"\n2, z\n', [[1], [2]], [0, 1], ("x, y", "z")),
        ("p,q\nu,v\nw,z\n", [[1, 0], [0, 1]], [0, 1], ("v", "z")),  # all text, a header
        ("u,v\nw,v\nu,z\n", [[1, 0], [0, 1], [1, 0]], [0, 0, 1], ("v", "z")),  # all text, no header
        ("1e3,-2.5E-1\n+.5,1.\n", [[1000], [0.5]], [-0.25, 1], None),
    ],
)
def test_csv(table, text, X, y, classes):
    data = read_csv(table(text))
    assert data.X.dtype == np.float64 and data.X.tolist() == X
    assert data.y.tolist() == y and data.classes == classes
    assert data.y.dtype == (np.int64 if classes else np.float64)


def test_csv_gzipped(table):
    assert read_csv(table(gzip.compress(b"a,b\n1,2.5\n3,4.5\n"), "t.csv.gz")).y.tolist() == [2.5, 4.5]


@pytest.mark.parametrize("target", ["b", 1, -2, "1"])
def test_csv_target_by_name_or_number(table, target):
    data = read_csv(table("a,b,c\n1,2.5,3\n4,5.5,6\n"), target)
    assert (data.y.tolist(), data.X.tolist(), data.target) == ([2.5, 5.5], [[1, 3], [4, 6]], "b")
    assert data.columns == (Column("a"), Column("c"))


def test_csv_without_target(table):
    data = read_csv(table("a,b\n1,2\n3,4\n"), None)
    assert data.y is None and data.X.tolist() == [[1, 2], [3, 4]]


def test_csv_task_overrides_the_guess(table):
    path = table("1,0\n2,1\n3,0\n4,1\n")
    assert read_csv(path).classes == ("0", "1")
    assert read_csv(path, task="numbers").y.tolist() == [0, 1, 0, 1]
    path = table("1,0.5\n2,1.5\n")
    assert read_csv(path, task="classes").classes == ("0.5", "1.5")


def test_csv_header_overrides_the_guess(table):
    path = table("1,2\n3,4\n5,6\n")
    assert len(read_csv(path).X) == 3
    data = read_csv(path, header=True)
    assert len(data.X) == 2 and data.target == "2"


def test_csv_long_number_table_is_the_same_by_both_parsers(table):
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal((200, 4))
    text = "\n".join(",".join(map(repr, row)) for row in numbers.tolist())
    fast, slow = read_csv(table(text)), read_csv(table(text.replace(",", ";").replace(".", ",")))
    for data in (fast, slow):
        assert np.array_equal(np.column_stack([data.X, data.y]), numbers)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["t.csv", "empty"]),
        ("\n \n", ["t.csv", "empty"]),
        ("a,b\n", ["t.csv", "header", "no rows"]),
        ("a,b\n1,2\n1,2,3\n", ["t.csv", "line 3", "3 fields", "line 1 has 2"]),
        ("1;2;3\n1;2;3\n1;2;3\n1\n", ["t.csv", "line 4", "1 field", "line 1 has 3"]),
        ("1,2,3\n" * 40 + "1,2\n", ["t.csv", "line 41", "2 fields"]),
        ("a,b\n1,inf\n2,3\n", ["column 'b'", "infinity", "line 2"]),
        ("a,b\n" + "".join(f"{i},name{i}\n" for i in range(50)), ["column 'b'", "50 different texts"]),
        ("a\n1\n2\n", ["one column"]),
        ('a,b\n"1,2\n3,4\n', ["t.csv", "line 3"]),
        ('a,b\n1,"x"y\n3,z\n', ["t.csv", "line 2"]),
        ("a,b\n1,2\n3,x\n", ["target column 'b'", "text among numbers 'x' in line 3", "the task classes"]),
        ("a,b\n1,\n2,?\n", ["target column 'b'", "empty"]),
        (b"\xff\xfe\x00", ["t.csv", "UTF-8"]),
        (b"a,b\n1,2\n\x00\x01,3\n", ["t.csv", "no text"]),
        (gzip.compress(b"a,b\n1,2\n" * 1000, mtime=0)[:-9], ["t.csv", "gzip"]),
    ],
)
def test_csv_errors_name_the_place(table, text, words):
    with pytest.raises(ValueError) as error:
        read_csv(table(text))
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_csv_argument_errors(table):
    path = table("a,b\n1,2\n3,x\n5,y\n")
    for target in ("c", 2, -3):
        with pytest.raises(ValueError, match="no column .*a, b"):
            read_csv(path, target)
    with pytest.raises(ValueError, match="task"):
        read_csv(path, task="clases")
    with pytest.raises(ValueError, match="text"):
        read_csv(table("1,x\n2,y\n"), task="numbers")
    with pytest.raises(FileNotFoundError):
        read_csv("nowhere.csv")


TRAINED_ON = "color,n,t\nred,1,yes\nblue,2,no\nred,3,yes\n"


@pytest.mark.parametrize(
    ("text", "X", "y"),
    [
        (TRAINED_ON, [[0, 1, 1], [1, 0, 2], [0, 1, 3]], ["yes", "no", "yes"]),
        ("n,color\n5,blue\n6,blue\n", [[1, 0, 5], [1, 0, 6]], None),  # another order, no target
        ("blue,5\nred,6\n", [[1, 0, 5], [0, 1, 6]], None),  # no names
        ("id,n,color,t\n7,5,blue,?\n8,6,red,\n", [[1, 0, 5], [0, 1, 6]], None),  # more columns, unknown targets
        ("n,color,t\n5,blue,?\n6,red,yes\n7,red,oak\n", [[1, 0, 5], [0, 1, 6], [0, 1, 7]], ["", "yes", "oak"]),
    ],
)
def test_csv_columns_of_a_model(table, text, X, y):
    columns = read_csv(table(TRAINED_ON)).columns
    data = read_csv(table(text), "t", columns=columns)
    assert data.X.tolist() == X
    assert (None if data.y is None else [data.classes[c] for c in data.y]) == y


@pytest.mark.parametrize(
    ("text", "y"),
    [
        ("9,1,2.5\n8,3,4.5\n", [9, 8]),
        ("1,2.5\n3,4.5\n", None),
        ("t,a,b\n9,1,2.5\n8,3,4.5\n", [9, 8]),
        ("a,b\n1,2.5\n3,4.5\n", None),
    ],
)
def test_csv_columns_of_a_model_without_names(table, text, y):
    model = read_csv(table("7,1,2.5\n6,3,4.5\n5,3,4.5\n"), 0)
    data = read_csv(table(text), model.target, task="numbers", columns=model.columns)
    assert data.X.tolist() == [[1, 2.5], [3, 4.5]] and (data.y is None if y is None else data.y.tolist() == y)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n,t\n5,yes\n6,no\n", ["no column 'color'"]),
        ("farbe,zahl\nred,5\nblue,6\n", ["no column 'color', 'n'"]),
        ("1,2,3,4\n", ["4 columns", "2 features", "color, n"]),
        ("n,color\nx,red\ny,red\n", ["'n'", "text for a number"]),
    ],
)
def test_csv_columns_of_a_model_that_do_not_fit(table, text, words):
    columns = read_csv(table(TRAINED_ON)).columns
    with pytest.raises(ValueError) as error:
        read_csv(table(text), "t", columns=columns)
    assert all(word in str(error.value) for word in words), error.value


# ------------------------------------------------------------------ npz


@pytest.mark.parametrize("names", [("X", "y"), ("x_train", "y_train"), ("data", "target")])
def test_npz(tmp_path, names):
    path = tmp_path / "d.npz"
    X = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    np.savez(path, **dict(zip(names, (X, [3, 7, 3, 7]), strict=True)))
    data = read_npz(path)
    assert data.X.dtype == np.uint8 and data.X.tolist() == X.reshape(4, 6).tolist()
    assert data.y.tolist() == [0, 1, 0, 1] and data.classes == ("3", "7") and data.pixels


@pytest.mark.parametrize(
    ("y", "expected", "classes"),
    [
        (["b", "a", "b", "a"], [1, 0, 1, 0], ("a", "b")),
        ([[0.0, 1], [1, 0], [1, 0], [0, 1]], [1, 0, 0, 1], ("0", "1")),  # one-hot
        ([[0.5], [1], [2], [3]], [0.5, 1, 2, 3], None),
        ([[0.5, 1], [1, 0], [1, 0], [0, 1]], [[0.5, 1], [1, 0], [1, 0], [0, 1]], None),
        ([True, False, True, True], [1, 0, 1, 1], ("False", "True")),
    ],
)
def test_npz_targets(tmp_path, y, expected, classes):
    np.savez_compressed(tmp_path / "d.npz", X=np.ones((4, 2)), y=y)
    data = read_npz(tmp_path / "d.npz")
    assert data.y.tolist() == expected and data.classes == classes


def test_npz_without_targets(tmp_path):
    np.savez(tmp_path / "d.npz", X=np.ones((4, 2)))
    assert read_npz(tmp_path / "d.npz").y is None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"A": np.ones(3)}, ["X and y", "A"]),
        ({"X": np.ones(3), "y": np.ones(3)}, ["(n_samples, n_in)", "(3,)"]),
        ({"X": np.ones((0, 3)), "y": np.ones(0)}, ["(0, 3)"]),
        ({"X": np.ones((3, 2)), "y": np.ones(4)}, ["3 samples", "(4,)"]),
        ({"X": np.array([["a", "b"]]), "y": np.ones(1)}, ["numbers"]),
        ({"X": np.array([[1.0, 2], [np.nan, 1]]), "y": np.ones(2)}, ["NaN", "sample 1"]),
        ({"X": np.ones((3, 2)), "y": np.array([1, "a", None], object)}, ["not a readable npz"]),
        ({"X": np.ones((2, 2)), "y": np.array([1j, 2])}, ["complex"]),
    ],
)
def test_npz_errors(tmp_path, arrays, words):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(ValueError) as error:
        read_npz(tmp_path / "d.npz")
    assert all(word in str(error.value) for word in ["d.npz", *words]), error.value


def test_npz_damaged(tmp_path):
    path = tmp_path / "d.npz"
    np.savez_compressed(path, X=np.random.default_rng(0).random((50, 2)), y=np.arange(50))
    good = path.read_bytes()
    for bad in (b"", b"hello", good[: len(good) // 2], good[:100] + bytes(50) + good[150:]):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match="npz"):
            read_npz(path)
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "none.npz")


# ------------------------------------------------------------------ IDX


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("code", IDX_CODES)
def test_idx_dtypes(tmp_path, code, suffix):
    array = np.array([[1, 2, 3], [4, 5, 100]]) * (1 if code < 0x0B else 1.5 if code > 0x0C else 300)
    array = -array if code != 0x08 else array
    path = tmp_path / f"array-idx2{suffix}"
    write_idx(path, array, code)
    result = read_idx_array(path)
    assert result.dtype == np.dtype(IDX_CODES[code]) and result.dtype.isnative
    assert result.flags.writeable and result.tolist() == array.tolist()


@pytest.mark.parametrize("suffixes", [("", ""), (".gz", ".gz"), ("", ".gz"), (".gz", "")])
def test_idx_pair_and_labels_found_beside(tmp_path, suffixes):
    images, labels = (
        tmp_path / f"train-{kind}-ubyte{suffix}"
        for kind, suffix in zip(("images-idx3", "labels-idx1"), suffixes, strict=True)
    )
    pixels = np.arange(5 * 2 * 3).reshape(5, 2, 3)
    write_idx(images, pixels, 0x08)
    assert read_idx(images).y is None
    write_idx(labels, np.array([2, 0, 1, 2, 2]), 0x08)
    for data in (read_idx(images), read_idx(images, labels)):
        assert data.X.dtype == np.uint8 and data.X.tolist() == pixels.reshape(5, 6).tolist()
        assert data.y.dtype == np.int64 and data.y.tolist() == [2, 0, 1, 2, 2] and data.classes == ("0", "1", "2")


def test_idx_errors(tmp_path):
    path, labels = tmp_path / "i", tmp_path / "l"
    write_idx(path, np.ones((3, 2)), 0x08)
    good = path.read_bytes()
    for bad in (
        b"",
        good[:3],
        good[:9],
        good[:-1],
        good + b"\0",
        b"\0\0\x0a" + good[3:],
        b"\1" + good[1:],
        gzip.compress(good, mtime=0)[:-4],
        b"\x1f\x8bnonsense",
    ):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match="/i"):
            read_idx_array(path)
    path.write_bytes(good)
    for wrong, code in ((np.ones(4), 0x08), (np.ones((3, 1)), 0x08), (np.ones(3), 0x0D), (-np.ones(3), 0x09)):
        write_idx(labels, wrong, code)
        with pytest.raises(ValueError, match="/l: expected 3 labels"):
            read_idx(path, labels)


def test_columns_and_categories_named_by_numbers(table):
    """The columns of a model decide where the file itself is ambiguous."""
    columns = read_csv(table("y,2019,2020\n" + "\n".join(f"{i},{i * i},{-i}" for i in range(20))), "y").columns
    X = read_csv(table("2019,2020\n1,2\n3,4\n"), "y", columns=columns).X
    assert X.tolist() == [[1, 2], [3, 4]]
    assert read_csv(table("1,2\n3,4\n"), "y", columns=columns).X.tolist() == [[1, 2], [3, 4]]
    columns = read_csv(table("c,t\n1,0\nA,1\nB,0\nA,1\n"), "t").columns
    assert columns[0].categories == ("1", "A", "B")
    for text, expected in [("c\n1\n", [[1, 0, 0]]), ("c\nA\n1\n", [[0, 1, 0], [1, 0, 0]])]:
        assert read_csv(table(text), "t", columns=columns).X.tolist() == expected


def test_rows_of_empty_cells_are_missing_values(table):
    with pytest.raises(ValueError) as error:
        read_csv(table("a,b,c\n1,2,3\n,,\n4,5,6\n"), missing="error")
    assert [line.split("t.csv, ")[1] for line in str(error.value).split("\n")] == [
        "target column 'c': missing value in line 3",
        "column 'a': missing value in line 3",
        "column 'b': missing value in line 3",
    ]
    assert len(read_csv(table("a,b,c\n1,2,3\n\n  \n4,5,6\n\n")).X) == 2


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_targets_that_are_not_finite_are_named(tmp_path, bad):
    np.savez(tmp_path / "d.npz", X=np.ones((8, 2)), y=np.array([1, bad] * 4))
    with pytest.raises(ValueError, match=rf"d.npz, targets: every value must be finite, found {bad}"):
        read_npz(tmp_path / "d.npz")


def test_labels_too_large_to_be_classes(tmp_path):
    image, label = tmp_path / "images-idx3", tmp_path / "labels-idx1"
    image.write_bytes(b"\0\0\x08\x02" + (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"\1\2")
    label.write_bytes(b"\0\0\x0c\x01" + (2).to_bytes(4, "big") + (2**31 - 1).to_bytes(4, "big") * 2)
    with pytest.raises(ValueError, match="the label 2147483647 is too large"):
        read_idx(image, label)


# ------------------------------------------------------------------ tables for a trained model


NAMELESS = "1,10,a\n2,20,a\n8,80,b\n9,90,b\n1,10,a\n9,90,b\n"
NAMED = "x,z,y\n" + NAMELESS
TEXTS = "red,s\nblue,m\nred,m\nblue,s\nred,s\n"
COUNTED = "1,10,a\n2,30,a\n3,80,b\n4,60,b\n"  # a counter, one feature, the target
NUMBERED = "0,1,2,3\n" + "5,5,6,.5\n7,6,6,.5\n"


def read_as(table, trained, text, header=None):
    """Read a file for a model that was trained on another file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = read_csv(table(trained))
        return read_csv(table(text), model.target, columns=model.columns, has_names=model.has_names, header=header)


@pytest.mark.parametrize(
    ("trained", "text", "X", "y"),
    [
        (NAMELESS, "1,10,a\n9,90,b\n", [[1, 10], [9, 90]], "ab"),
        (NAMELESS, "1;10;a\n9,5;90;b\n", [[1, 10], [9.5, 90]], "ab"),  # another delimiter
        (NAMELESS, "1,10\n9,90\n", [[1, 10], [9, 90]], None),
        (NAMELESS, "1,10,a\n9,90,\n", [[1, 10], [9, 90]], ["a", ""]),  # the first row is not a header
        (NAMELESS, "1,10,\n9,90,\n", [[1, 10], [9, 90]], None),
        (NAMELESS, "u,v,w\n1,10,a\n9,90,b\n", [[1, 10], [9, 90]], "ab"),  # names that the model does not have
        (NAMELESS, "u,v\n1,10\n", [[1, 10]], None),
        (NAMED, "y,z,x\na,10,1\nb,90,9\n", [[1, 10], [9, 90]], "ab"),  # another order
        (NAMED, "z,x\n10,1\n", [[1, 10]], None),
        (NAMED, "k,z,x,l\n7,10,1,u\n8,20,2,u\n", [[1, 10], [2, 20]], None),  # more columns
        (NAMED, "1,10\n9,90\n", [[1, 10], [9, 90]], None),
        (NAMED, "\ufeffz\tx\n10\t1\n", [[1, 10]], None),
        (TEXTS, "red,s\nblue,m\n", [[0, 1], [1, 0]], "sm"),
        (TEXTS, "red\nblue\n", [[0, 1], [1, 0]], None),
        ("c,k\n" + TEXTS, "red\nblue\n", [[0, 1], [1, 0]], None),
        ("c,k\n" + TEXTS, "k,c\ns,red\nm,blue\n", [[0, 1], [1, 0]], "sm"),
        (COUNTED, "7,10,a\n9,60,b\n", [[10], [60]], "ab"),
        (COUNTED, "10\n60\n", [[10], [60]], None),
        (COUNTED, "7,10,\n9,60,\n", [[10], [60]], None),
        ("id,x,y\n" + COUNTED, "x,y\n10,a\n60,b\n", [[10], [60]], "ab"),
        ("id,x,y\n" + COUNTED, "y,x,id\na,10,u\nb,60,\n", [[10], [60]], "ab"),
        ("id,x,y\n" + COUNTED, "10\n60\n", [[10], [60]], None),
        (NUMBERED, NUMBERED, [[5, 5, 6], [7, 6, 6]], [0.5, 0.5]),
        (NUMBERED, "2,0,1\n6,5,5\n", [[5, 5, 6]], None),
        ("country,2019,2020\nPeru,5,1.5\nChile,6,2.5\nPeru,6,2\n", "2019,country\n7,Peru\n", [[0, 1, 7]], None),
    ],
)
def test_a_table_for_a_model_is_read_like_its_training_data(table, trained, text, X, y):
    data = read_as(table, trained, text)
    found = data.y if data.y is None or data.classes is None else [data.classes[c] for c in data.y]
    assert data.X.tolist() == X and (y is None) == (found is None) and list(found if y else "") == list(y or "")


@pytest.mark.parametrize(
    ("trained", "text", "words"),
    [
        (NAMELESS, "501,1,10,a\n502,9,90,b\n", ["4 columns", "3 columns with the target, or 2 features: 0, 1"]),
        (NAMELESS, "k,u,v,w\n501,1,10,a\n502,9,90,b\n", ["4 columns", "3 columns with the target"]),
        (NAMELESS, "1\n9\n", ["1 columns", "3 columns with the target"]),
        (NAMED, "z,y\n10,a\n90,b\n", ["no column 'x'", "z, y"]),
        (NAMED, "u,v\n10,1\n90,2\n", ["no column 'x', 'z'"]),
        (NAMED, "1,10,a\n9,90,b\n", ["3 columns without the names of the model", "2 features: x, z"]),
        (COUNTED, "7,10\n9,60\n", ["2 columns", "column '0'", "add an empty column"]),
        ("id,x,y\n" + COUNTED, "7,10\n9,60\n", ["2 columns", "column 'id'", "add names"]),
        ("id,x,y\n" + COUNTED, "id,y\n7,a\n", ["no column 'x'"]),
        ("country,2019,2020\nPeru,5,1.5\nChile,6,2.5\nPeru,6,2\n", "country,2018\nPeru,7\n", ["no column '2019'"]),
    ],
)
def test_a_table_unlike_the_training_data_is_refused(table, trained, text, words):
    with pytest.raises(ValueError) as error:
        read_as(table, trained, text)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("trained", "text", "X", "words"),
    [
        (NAMELESS, "u,10,a\n9,90,b\n8,70,b\n", [[np.nan, 10], [9, 90], [8, 70]], "'u' in line 1"),  # no header
        ("1.5,a\n2,b\n1,a\n4,b\n", "u,a\n2,b\n3,a\n", [[np.nan], [2], [3]], "'u' in line 1"),  # "a" occurs again
        (TEXTS, "green,s\nblue,m\n", [[0, 0], [1, 0]], "unknown to the model, 'green'"),
        (TEXTS, "c,k\nred,s\nblue,m\n", [[0, 0], [0, 1], [1, 0]], "unknown to the model, 'c'"),
        (NAMED, "x,z\n,10\n9,20\n", [[np.nan, 10], [9, 20]], "column 'x': 1 missing"),
        (NAMED, "x,z\ninf,10\n9,20\n", [[np.nan, 10], [9, 20]], "infinity in line 2"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*left out")
def test_what_a_model_does_not_know_in_a_table_is_other_or_missing(table, trained, text, X, words):
    model = read_csv(table(trained))
    with pytest.warns(UserWarning, match=words) as caught:
        data = read_csv(table(text), model.target, columns=model.columns, has_names=model.has_names)
    assert len(caught) == 1
    np.testing.assert_array_equal(data.X, X)


def test_columns_named_by_numbers_leave_open_whether_there_is_a_header(table):
    model = read_csv(table(NAMELESS))
    assert model.has_names is False and read_csv(table(NAMED)).has_names
    for target in (model.target, -1):
        assert read_csv(table("1,10,a\n9,90,\n"), target, columns=model.columns).X.tolist() == [[1, 10], [9, 90]]
        with pytest.raises(ValueError, match="4 columns"):
            read_csv(table("501,1,10,a\n502,9,90,b\n"), target, columns=model.columns)
    with pytest.raises(ValueError, match="at least one feature"):
        read_csv(table(NAMED), columns=[])
    assert read_as(table, NAMED, "9,90\n1,10\n", header=False).X.tolist() == [[9, 90], [1, 10]]


def test_a_number_that_names_no_column_of_the_model_is_no_target(table):
    """The target "2020" of the model is not column number 0 of another file, nor is "1" the second one."""
    data = read_as(table, "a,b,1\n5,2,.5\n7,3,1.5\n", "a,k,b\n5,9,2\n7,8,3\n")
    assert data.X.tolist() == [[5, 2], [7, 3]] and data.y is None


# ------------------------------------------------------------------ headers


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("country,2019,2020\nPeru,60.5,59\nChile,67,68\n", ("country", "2019")),
        ("country,2019\nPeru,60\nChile,67\nPeru,60\nChile,67\n", ("country",)),
        ("2019,2020,2021\n1,2.5,3.5\n5,6,7.5\n", ("2019", "2020")),
        ("2020,2010,2000\n1,2.5,3.5\n5,6,7.5\n", ("2020", "2010")),
        ("country,2019,2020,kind\nPeru,60,59,u\nChile,67,68,v\n", ("country", "2019", "2020")),
        ("country,2019,2020\nPeru,60,low\nChile,67,high\n", ("country", "2019")),
        ("2019,2020\nlow,high\nlow,low\nlow,high\n", ("2019",)),
        ("label,0,1,2,3\nu,5,5,6,7\nv,5,6,6,7\nu,5,5,6,7\n", ("label", "0", "1", "2")),
        ("1,2,3,4,5\n5,5,6,7,.5\n5,6,6,7,1.5\n", ("1", "2", "3", "4")),
        (",0,1,2,3\n5,5,5,6,.5\n5,5,6,6,1.5\n", ("Unnamed: 0", "0", "1", "2")),  # written by pandas
        ("5%,50%,95%\n1,2,3.5\n4,5,6.5\n", ("5%", "50%")),
    ],
)
@pytest.mark.filterwarnings("ignore:.*t.csv, column")
def test_numbers_as_names(table, text, names):
    data = read_csv(table(text))
    assert data.has_names and tuple(column.name for column in data.columns) == names
    assert len(data.X) == text.count("\n") - 1


@pytest.mark.parametrize(
    "text",
    [
        "film,2001,2003\nbook,1999,2004\nplay,1998,2000\n",  # years below, too
        "Peru,2019,7.5\nChile,67,68\nPeru,60,59\n",
        "Peru,2019,2020\nChile,67,68\nPeru,60,59\n",  # a cell of it occurs again
        "2019,2019,2020\n1,2.5,3.5\n5,6,7.5\n",
        "1,2,3\n5,6,8\n7,8,1\n",
        "0,1,2,3\n4,5,6,7\n8,9,10,11\n",
        "2,3,4,5\n5,5,6,7\n5,6,6,7\n",
        "$5,5%\n$6,6%\n",
    ],
)
@pytest.mark.filterwarnings("ignore:.*t.csv, column")
def test_numbers_that_are_no_names(table, text):
    assert read_csv(table(text), task="numbers").has_names is False


def test_a_repeated_header_is_left_out(table):
    for text, line in (("c,k\n" + TEXTS * 5 + "c,k\n" + TEXTS, 27), ("a,b\n" + "1,2.5\n" * 30 + "a,b\n1,2.5\n", 32)):
        with pytest.warns(UserWarning, match=f"line {line} repeats the header, and is left out"):
            assert len(read_csv(table(text)).X) == text.count("\n") - 2


# ------------------------------------------------------------------ columns that are not features


def columns_and_warnings(path, *args, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = read_csv(path, *args, **options)
    used = [column.name for column in data.columns if column.categories != ()]
    assert data.X.shape[1] == sum(len(column.categories or "1") for column in data.columns if column.name in used)
    assert all(str(path) in str(warning.message) and warning.filename == __file__ for warning in caught)
    return used, [re.search("column '(.*?)'(.{19})", str(warning.message)).groups() for warning in caught]


OUT, COUNTS, DIFFERS = " is left out: it nu", " counts the rows: i", " is left out: its t"


@pytest.mark.parametrize(
    ("names", "column", "used", "warned"),
    [
        ("id,x,y", [1, 2, 3, 4], ["x"], [("id", OUT)]),
        ("ID,x,y", [0, 1, 2, 3], ["x"], [("ID", OUT)]),
        ("Index,x,y", [17, 5, 90, 8], ["x"], [("Index", OUT)]),  # in any order
        (",x,y", [0, 1, 2, 3], ["x"], [("0", OUT)]),
        (",x,y", [7, 3, 0, 2], ["x"], [("0", OUT)]),
        ("Unnamed: 0,x,y", [0, 1, 2, 3], ["x"], [("Unnamed: 0", OUT)]),
        ("No.,x,y", [11, 12, 13, 14], ["x"], [("No.", OUT)]),
        ("#,x,y", [1, 2, 3, 4], ["x"], [("#", OUT)]),
        ("", [1, 2, 3, 4], ["1"], [("0", OUT)]),
        ("", [0, 1, 2, 3], ["1"], [("0", OUT)]),
        ("", [5, 6, 7, 8], ["0", "1"], [("0", COUNTS)]),
        ("", [1, 2, 3, 5], ["0", "1"], []),
        ("k,x,y", [1, 2, 3, 4], ["k", "x"], [("k", COUNTS)]),
        ("year,x,y", [2001, 2002, 2003, 2004], ["year", "x"], [("year", COUNTS)]),
        ("NO,x,y", [11, 25, 3, 8], ["NO", "x"], []),  # nitric oxide
        ("id,x,y", [1, 1, 2, 2], ["id", "x"], []),  # of a group
        ("id,x,y", [0.5, 1.5, 2.5, 3.5], ["id", "x"], [("id", COUNTS)]),
        ("id,x,y", ["n1", "n2", "n3", "n4"], ["x"], [("id", DIFFERS)]),
        ("1,x,y", [0, 1, 2, 3], ["1", "x"], [("1", COUNTS)]),
    ],
)
@pytest.mark.parametrize("targets", ["1212", "abab"])  # a table read by NumPy, and as text
def test_a_column_that_numbers_the_rows_is_left_out(table, names, column, used, warned, targets):
    rows = [f"{value},{x},{y}" for value, x, y in zip(column, (5, 3, 4, 3), targets, strict=True)]
    assert columns_and_warnings(table("\n".join([names, *rows]).lstrip("\n"))) == (used, warned)


def test_a_column_that_numbers_the_rows_is_kept_as_the_only_feature_or_target(table):
    rows = "1,5.5\n2,6.5\n3,1.5\n4,2.5\n"
    assert columns_and_warnings(table("id,y\n" + rows)) == (["id"], [])  # the only feature
    assert columns_and_warnings(table("id,x\n" + rows), "id") == (["x"], [])  # the target
    assert columns_and_warnings(table(",id,y\n0,1,.5\n1,2,1.5\n2,3,3\n3,4,1\n")) == (
        ["0", "id"],
        [("0", COUNTS), ("id", COUNTS)],
    )
    assert columns_and_warnings(table("id,x,y\n1,7,5.5\n2,8,6.5\n"), leave_out=False) == (["id", "x"], [])


@pytest.mark.parametrize(
    ("n", "n_different", "is_left_out"),
    [(3, 3, True), (10, 9, False), (10, 10, True), (32, 29, True), (40, 32, False), (2000, 2000, True)],
)
def test_text_that_differs_in_nearly_every_row_is_left_out(table, n, n_different, is_left_out):
    path = table("name,x,y\n" + "".join(f"n{i % n_different},{i % 2},{i % 3}.5\n" for i in range(n)))
    used, warned = columns_and_warnings(path)
    assert used == ["x"] if is_left_out else ["name", "x"]
    assert warned == [("name", DIFFERS)] * is_left_out


def test_text_that_is_left_out_may_be_missing_and_is_kept_if_there_is_no_other_feature(table):
    assert columns_and_warnings(table("name,x,y\nann,5,1.5\n,4,3.5\ncid,5,4.5\n")) == (["x"], [("name", DIFFERS)])
    used, warned = columns_and_warnings(table("name,y\n" + "".join(f"n{i},{i % 2}.5\n" for i in range(9))))
    assert used == ["name"] and warned == [("name", ": its text differs ")]
    with pytest.raises(ValueError, match="column 'x': missing value in line 3"):
        read_csv(table("name,x,y\nann,5,1.5\nbob,,3.5\ncid,5,4.5\n"), missing="error")


# ------------------------------------------------------------------ numbers with signs and separators


@pytest.mark.parametrize(
    ("text", "X"),
    [
        ("p,q,y\n$10.5,5%,1.5\n$12.5,9%,3.5\n$13,8 %,4.5\n", [[10.5, 5], [12.5, 9], [13, 8]]),
        ("p,q,y\n-$1,5 €,1.5\n$-2,-6€,3.5\n+£ 3,7,4.5\n".replace("£", "$"), [[-1, 5], [-2, -6], [3, 7]]),
        ('p,q,y\n"1,200",1,.5\n950,2,1.5\n"-1,234,567.5",2,3\n', [[1200, 1], [950, 2], [-1234567.5, 2]]),
        ('p,q,y\n"$1,200",1,.5\n$950,2,1.5\n', [[1200, 1], [950, 2]]),
        ("p;q;y\n1.234,50 €;1;2,5\n5,25 €;2;3,5\n", [[1234.5, 1], [5.25, 2]]),
        ("p;q;y\n1.234.567,5;1;2,5\n5,25;2;3,5\n", [[1234567.5, 1], [5.25, 2]]),
        ("p;q;y\n1,250;1;2,5\n2,5;2;3,5\n7;2;3,5\n", [[1.25, 1], [2.5, 2], [7, 2]]),  # some comma is clearly decimal
        ("p;q;y\n1,250;1;2,5\n2,125;2;3,5\n", [[1.25, 1], [2.125, 2]]),  # all numbers have three decimals
        ("p;q;y\n0,250;1;2,5\n2;2;3,5\n", [[0.25, 1], [2, 2]]),
        ("p\tq\ty\n1.250\t1\t2.5\n2\t2\t3\n", [[1.25, 1], [2, 2]]),
    ],
)
def test_numbers_with_signs_and_separators(table, text, X):
    data = read_csv(table(text), task="numbers")
    assert data.X.tolist() == X and all(column.categories is None for column in data.columns)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("p\ty\n1,200\t2\n950\t3\n12,500\t2\n", "column 'p': a comma before three digits may be a decimal comma"),
        ("p;y\n1,200;2\n950.5;3\n", "column 'p': a comma before three digits may be"),
        ("p;y\n1.234,5;2\n2.500;3\n", "column 'p': points separate thousands in some numbers, and may be decimal"),
        ("p,y\n5%,2.5\n0.05,3\n", "column 'p': numbers of several units: none, %"),
        ("p,y\n$5,2.5\n€5,3\n", "column 'p': numbers of several units: \\$, €"),
        ("p,y\n1,$5\n2,5%\n", "column 'y': numbers of several units"),
    ],
)
def test_ambiguous_numbers_are_refused(table, text, words):
    with pytest.raises(ValueError, match=words):
        read_csv(table(text), task="numbers")


@pytest.mark.parametrize("marker", ["", "NaN", "#N/A", "<NA>", "Null", "n/a", "-", ".", "None", "?", "NA"])
def test_missing_values_of_texts_are_a_category_of_their_own(table, marker):
    text = f"c,x,y\nred,1,2.5\n{marker},2,3\nred,2,3.5\nblue,2,3\nblue,2,1\n"
    with pytest.warns(UserWarning, match="t.csv: 1 missing value: "):
        data = read_csv(table(text))
    assert data.columns[0] == Column("c", ("", "blue", "red"))
    assert data.X[:, :3].argmax(axis=1).tolist() == [2, 0, 2, 1, 1] and (data.X[:, :3].sum(axis=1) == 1).all()
    with pytest.raises(ValueError, match="column 'c': missing value in line 3"):
        read_csv(table(text), missing="error")


# ------------------------------------------------------------------ damaged and crafted files


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_bit_of_an_npz_file(tmp_path, save, step):
    """A flipped bit is found, or has no effect, as in a date."""
    path = tmp_path / "d.npz"
    X, y = np.arange(4, dtype=np.float32).reshape(2, 2), np.array([0.5, 2])
    save(path, X=X, y=y)
    good, survived = path.read_bytes(), 0
    for bit in range(0, 8 * len(good), step):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        try:
            data = read_npz(path)
        except ValueError as error:
            assert "d.npz" in str(error)
        else:
            survived += 1
            assert data.X.dtype == X.dtype and data.X.tolist() == X.tolist() and data.y.tolist() == y.tolist()
    assert survived < 0.5 * 8 * len(good) / step


def test_npz_reads_no_more_than_it_needs(tmp_path):
    path = tmp_path / "d.npz"
    np.savez_compressed(path, X=np.ones((4, 2)), y=np.arange(4.0), x_train=np.zeros(1 << 22), more=np.zeros(1 << 22))
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    data = read_npz(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data.y.tolist() == [0, 1, 2, 3] and data.X.flags.writeable and peak < 1 << 21


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + bytes(8),
        lambda data: data[:-8],
        lambda data: data.replace(b"(4, 2)", b"(2, 4)").replace(b"(2, 4)", b"(2, 2)"),
        lambda data: data.replace(b"(4, 2)", b"(-4,-2)"),
        lambda data: b"\0" + data,
    ],
)
def test_npz_members_of_a_wrong_length(tmp_path, change):
    """With correct checksums."""
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        for name, array in {"X": np.ones((4, 2)), "y": np.arange(4.0)}.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(name + ".npy", change(buffer.getvalue()) if name == "X" else buffer.getvalue())
    with pytest.raises(ValueError, match="d.npz is not a readable npz file"):
        read_npz(tmp_path / "d.npz")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f8", ">f8", ">i4", "|b1", "<f2"])
def test_npz_orders(tmp_path, dtype, order):
    X = np.array([[1, 0, 1], [0, 0, 1]], dtype)
    np.savez(tmp_path / "d.npz", X=np.asarray(X, order=order))
    assert read_npz(tmp_path / "d.npz").X.tolist() == X.tolist()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"\1", "too large"),  # more axes than NumPy has
        (b"\0\0\x0e\x03" + b"\xff" * 12, "too large"),
        (b"\0\0\x0e\x04" + bytes(4) + b"\xff" * 12, "too large"),  # of no elements, but NumPy has no such shape
        (b"\0\0\x0e\x02" + b"\x0f\xff\xff\xff" * 2 + b"abc", "takes"),  # 576 petabytes
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_impossible_idx_shapes(tmp_path, data, words, pack):
    path = tmp_path / "i"
    path.write_bytes(pack(data))
    for read in (read_idx, read_idx_array, lambda path: list(datasets.arrays.map_idx(path).read_in_chunks(2))):
        with pytest.raises(ValueError, match=f"/i: .*{words}"):
            read(path)


def test_idx_reads_no_more_than_its_header_says(tmp_path):
    path = tmp_path / "i"
    path.write_bytes(gzip.compress(b"\0\0\x08\x02" + b"\0\0\0\2" * 2 + bytes(1 << 26)))
    tracemalloc.start()
    with pytest.raises(ValueError, match="takes 16 bytes, but the file has 17"):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22


def samples(tmp_path):
    """Return readers, each with an undamaged file."""
    X, y = np.random.default_rng(0).random((20, 3)), np.arange(20) % 2
    net = fastbp.Network([3, 2], "softmax", "cross_entropy", seed=0, backend="numpy", dtype="float64")
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1, momentum=0.9), seed=0)
    trainer.fit(X, y)
    text = "a,b,c\n" + "\n".join(f"{a},{b},{'xy'[c]}" for (a, b, _), c in zip(X, y, strict=True))
    np.savez(tmp_path / "stored.npz", X=X, y=y)
    np.savez_compressed(tmp_path / "packed.npz", X=X, y=y)
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    for suffix in ("", ".gz"):
        write_idx(tmp_path / f"idx{suffix}", X, 0x0E)
        write_idx(tmp_path / f"y-idx{suffix}", y, 0x08)
    (tmp_path / "t.csv").write_text(text)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    net.save(tmp_path / "m.npz")
    net.save(tmp_path / "m.safetensors")
    trainer.save_checkpoint(tmp_path / "c.ckpt")

    def streamed(path):
        stream = fastbp.stream(path, tmp_path / ("y.npy" if path.suffix == ".npy" else f"y-idx{path.suffix}"))
        fastbp.Trainer(net.copy(), fastbp.SGD(0.1)).fit(stream)

    return [
        ("stored.npz", read_npz),
        ("packed.npz", read_npz),
        ("idx", read_idx_array),
        ("idx.gz", read_idx_array),
        ("X.npy", streamed),
        ("idx", streamed),
        ("idx.gz", streamed),
        ("t.csv", read_csv),
        ("t.csv.gz", read_csv),
        ("m.npz", fastbp.load),
        ("m.safetensors", fastbp.load),
        ("c.ckpt", trainer.load_checkpoint),
    ]


def damaged(data, rng):
    """Return a file with some bytes changed, removed or inserted, or truncated."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        place, kind, n = rng.integers(len(data) + 1), rng.integers(5), rng.integers(1, 9)
        if kind == 0:
            del data[place:]
        elif kind == 1:
            del data[place : place + n]
        elif kind == 2:
            data[place:place] = rng.bytes(n)
        elif kind == 3:
            data[place : place + n] = bytes([rng.choice([0, 0x20, 0x28, 0x7F, 0xFF])]) * n
        elif place < len(data):
            data[place] = rng.integers(256)
    return bytes(data)


@pytest.mark.filterwarnings("ignore:.*t.csv")
@pytest.mark.parametrize("n", [30, pytest.param(250, marks=pytest.mark.exhaustive)])
def test_damaged_files_raise_value_errors_only(tmp_path, n):
    rng = np.random.default_rng(0)
    for name, read in samples(tmp_path):
        path = tmp_path / name
        good, refused = path.read_bytes(), 0
        for _ in range(n):
            path.write_bytes(damaged(good, rng))
            try:
                read(path)
            except ValueError as error:
                refused += 1
                assert name in str(error) or "rows 0 to 19" in str(error)  # of a stream, for NaN
        path.write_bytes(good)
        assert refused > (0.6 * n if "csv" not in name or "gz" in name else 0)  # other text may be a table, too
        read(path)


@pytest.mark.parametrize(("place", "value"), [(6, 1), (6, 64), (6, 32), (8, 99), (8, 12), (8, 14)])
def test_zip_files_of_another_kind(tmp_path, place, value):
    """Encrypted, patched, or of an unknown compression, in both headers of the zip file."""
    np.savez(tmp_path / "d.npz", X=np.ones((4, 2)), y=np.arange(4.0))
    data = bytearray((tmp_path / "d.npz").read_bytes())
    for start, offset in ((data.index(b"PK\3\4"), place), (data.index(b"PK\1\2"), place + 2)):
        data[start + offset] |= value
    (tmp_path / "d.npz").write_bytes(data)
    with pytest.raises(ValueError, match="d.npz is not a readable npz file: ."):
        read_npz(tmp_path / "d.npz")
