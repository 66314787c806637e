"""Awkward tables as people have them, and what each becomes."""

import gzip
import warnings

import numpy as np
import pytest

from fastbp.datasets import Column, read_csv
from fastbp.datasets.form import TableError
from fastbp.datasets.tables import CsvChunks

N = Column  # a column of plain numbers has a name only
DATE, MONTH = ("year", "month", "day", "weekday", "days"), ("year", "month", "days")
FIRST = [2019, 3, 1, 4, 17956]  # March 1, 2019: a Friday


def one_hot(*categories):
    return tuple(categories)


def rows(*lines):
    return "\n".join(lines) + "\n"


# name: text (or bytes), columns without the target, samples, targets (or classes by name)
FILES = {
    "commas": (rows("a,b,t", "1,2,.5", "3,4,1.5"), [N("a"), N("b")], [[1, 2], [3, 4]], [0.5, 1.5]),
    "semicolons and decimal commas": (
        rows("a;b;t", "1,5;2;0,5", "3,5;4;1,5"),
        [N("a"), N("b")],
        [[1.5, 2], [3.5, 4]],
        [0.5, 1.5],
    ),
    "tabs": (rows("a\tb\tt", "1\t2\t.5", "3\t4\t1.5"), [N("a"), N("b")], [[1, 2], [3, 4]], [0.5, 1.5]),
    "pipes": (rows("a|b|t", "1|2|.5", "3|4|1.5"), [N("a"), N("b")], [[1, 2], [3, 4]], [0.5, 1.5]),
    "blanks": (rows("a b t", "1  2   .5", " 3 4 1.5  "), [N("a"), N("b")], [[1, 2], [3, 4]], [0.5, 1.5]),
    "blanks, a tab and quotes": (
        rows('18.0   8   307.0\t"chevrolet malibu"', '15.0   8   350.0\t"buick skylark"', '18.5   8   318.0\t"buick x"')
        * 2,
        [N("0"), N("1"), N("2")],
        [[18, 8, 307], [15, 8, 350], [18.5, 8, 318]] * 2,
        ["chevrolet malibu", "buick skylark", "buick x"] * 2,
    ),
    "commas and blanks": (rows("a, b, t", "1, 2, .5", "3 ,4 , 1.5"), [N("a"), N("b")], [[1, 2], [3, 4]], [0.5, 1.5]),
    "text with blanks": (rows("Jan 1 2000,1.5,7", "Feb 1 2000,2.5,8", "Mar 1 2000,2,9.5"),
        [Column("0", None, DATE, day_first=None), N("1")],
        [[2000, 1, 1, 5, 10957, 1.5], [2000, 2, 1, 1, 10988, 2.5], [2000, 3, 1, 2, 11017, 2]],
        [7, 8, 9.5],
    ),
    "no header": (rows("1,2,.5", "3,4,1.5"), [N("0"), N("1")], [[1, 2], [3, 4]], [0.5, 1.5]),
    "byte order mark": ("\ufeff" + rows("a,t", "1,.5", "3,1.5"), [N("a")], [[1], [3]], [0.5, 1.5]),
    "UTF-16": (rows("ä,t", "1,.5", "3,1.5").encode("utf-16"), [N("ä")], [[1], [3]], [0.5, 1.5]),
    "Windows's code page": (
        rows("größe,t", "1,x", "3,“y”", "2,x", "1,“y”").encode("cp1252"),
        [N("größe")],
        [[1], [3], [2], [1]],
        ["x", "“y”", "x", "“y”"],
    ),
    "gzip": (gzip.compress(rows("a,t", "1,.5", "3,1.5").encode()), [N("a")], [[1], [3]], [0.5, 1.5]),
    "line ends of Windows": ("a,t\r\n1,.5\r\n\r\n3,1.5\r\n", [N("a")], [[1], [3]], [0.5, 1.5]),
    "line ends of old Macs": ("a,t\r1,.5\r3,1.5\r", [N("a")], [[1], [3]], [0.5, 1.5]),
    "no last line end": ("a,t\n1,.5\n3,1.5", [N("a")], [[1], [3]], [0.5, 1.5]),
    "double quotes": (
        rows('"a","t"', '"1","x, ""y"""', '"3","z"', '"2","z"', '"4","x, ""y"""'),
        [N("a")],
        [[1], [3], [2], [4]],
        ['x, "y"', "z", "z", 'x, "y"'],
    ),
    "single quotes": (
        rows("'a','t'", "1,'x, y'", "3,'z'", "2,'z'", "4,'x, y'"),
        [N("a")],
        [[1], [3], [2], [4]],
        ["x, y", "z", "z", "x, y"],
    ),
    "apostrophes": (
        rows("c,t", "don't,1.5", "can't,2.5", "don't,3"),
        [Column("c", ("can't", "don't"))],
        [[0, 1], [1, 0], [0, 1]],
        [1.5, 2.5, 3],
    ),
    "a line within quotes": (
        'c,t\n"x\ny",1.5\nz,2.5\n"x\ny",3\n',
        [Column("c", ("x\ny", "z"))],
        [[1, 0], [0, 1], [1, 0]],
        [1.5, 2.5, 3],
    ),
    "comments": (
        rows("# of 2019", "% more", "a,b,t", "1,2,.5", "# between", "3,4,1.5", "%end"),
        [N("a"), N("b")],
        [[1, 2], [3, 4]],
        [0.5, 1.5],
    ),
    "names in a comment": (rows("# a b t", "1 2 .5", "3 4 1.5"), [N("a"), N("b")], [[1, 2], [3, 4]], [0.5, 1.5]),
    "colors are no comments": (
        rows("#ff0000,1.5", "#00ff00,2.5", "#ff0000,3"),
        [Column("0", ("#00ff00", "#ff0000"))],
        [[0, 1], [1, 0], [0, 1]],
        [1.5, 2.5, 3],
    ),
    "a title": (
        rows("Sales of the year", "", "a,b,t", "1,2,.5", "3,4,1.5"),
        [N("a"), N("b")],
        [[1, 2], [3, 4]],
        [0.5, 1.5],
    ),
    "trailing commas": (
        rows("a,b,t,", "1,2,.5,", "3,4,1.5,"),
        [N("a"), N("b"), Column("t"), Column("3", ())],
        [[1, 2, 0.5], [3, 4, 1.5]],
        None,
    ),
    "trailing commas but for the header": (
        rows("a,b,t", "1,2,.5,", "3,4,1.5,", "5,6,2.5,"),
        [N("a"), N("b"), Column("t"), Column("3", ())],
        [[1, 2, 0.5], [3, 4, 1.5], [5, 6, 2.5]],
        None,
    ),
    "names of rows without a name": (
        rows("x,t", "r1,1,.5", "r2,3,1.5", "r3,5,2.5"),
        [Column("0", ()), N("x")],
        [[1], [3], [5]],
        [0.5, 1.5, 2.5],
    ),
    "empty columns": (
        rows("a,b,c,t", "1,,?,.5", "3,,NA,1.5"),
        [N("a"), Column("b", ()), Column("c", ())],
        [[1], [3]],
        [0.5, 1.5],
    ),
    "the same name twice": (rows("a,a,t", "1,2,.5", "3,4,1.5"), [N("a"), N("a.1")], [[1, 2], [3, 4]], [0.5, 1.5]),
    "missing numbers": (
        rows("a,t", "1,1.5", ",2.5", "?,3", "NA,4.5", "-,5", ".,6", "None,7", "nan,8", "n/a,9", "5,10"),
        [Column("a", flag=True)],
        [[1, 0], *[[3, 1]] * 8, [5, 0]],
        [1.5, 2.5, 3, 4.5, 5, 6, 7, 8, 9, 10],
    ),
    "missing texts": (
        rows("c,t", "x,1.5", ",2.5", "?,3", "y,4.5"),
        [Column("c", ("", "x", "y"))],
        [[0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]],
        [1.5, 2.5, 3, 4.5],
    ),
    "missing targets": (rows("a,t", "1,x", "2,", "3,y", "4,NA", "5,x"), [N("a")], [[1], [3], [5]], ["x", "y", "x"]),
    "classes + and -": (rows("a,t", "1,+", "2,-", "3,+", "4,-"), [N("a")], [[1], [2], [3], [4]], list("+-+-")),
    "a class None": (rows("a,t", "1,None", "2,mild", "3,None"), [N("a")], [[1], [2], [3]], ["None", "mild", "None"]),
    "ISO dates": (
        rows("when,t", "2019-03-01,1.5", "2019-03-02,2.5"),
        [Column("when", None, DATE)],
        [FIRST, [2019, 3, 2, 5, 17957]],
        [1.5, 2.5],
    ),
    "ISO times": (
        rows("when,t", "2019-03-01T06:00:00Z,1.5", "2019-03-02 00:00:01,2.5"),
        [Column("when", None, (*DATE, "seconds"))],
        [[*FIRST, 21600], [2019, 3, 2, 5, 17957, 1]],
        [1.5, 2.5],
    ),
    "months": (
        rows("when,t", "2019-03,1.5", "2019-04,2.5"),
        [Column("when", None, MONTH)],
        [[2019, 3, 17956], [2019, 4, 17987]],
        [1.5, 2.5],
    ),
    "dates of the United States": (
        rows("when,t", "3/1/2019,1.5", "3/2/2019,2.5"),
        [Column("when", None, DATE, day_first=False)],
        [FIRST, [2019, 3, 2, 5, 17957]],
        [1.5, 2.5],
    ),
    "dates with the day first": (
        rows("when,t", "1/3/2019,1.5", "13/3/2019,2.5"),
        [Column("when", None, DATE, day_first=True)],
        [FIRST, [2019, 3, 13, 2, 17968]],
        [1.5, 2.5],
    ),
    "German dates": (
        rows("when;t", "01.03.2019;1,5", "02.03.2019;2,5"),
        [Column("when", None, DATE, day_first=True)],
        [FIRST, [2019, 3, 2, 5, 17957]],
        [1.5, 2.5],
    ),
    "dates in words": (
        rows("when;t", '"Mar 1, 2019";1.5', "2 March 2019;2.5", "Friday, 1 March 2019;3"),
        [Column("when", None, DATE)],
        [FIRST, [2019, 3, 2, 5, 17957], FIRST],
        [1.5, 2.5, 3],
    ),
    "short dates": (
        rows("when,t", "1-Mar-19,1.5", "2-Mar-99,2.5"),
        [Column("when", None, DATE)],
        [FIRST, [1999, 3, 2, 1, 10652]],
        [1.5, 2.5],
    ),
    "numbers that are dates": (
        rows("when,t", "20190301,1.5", "20190302,2.5"),
        [Column("when", None, DATE)],
        [FIRST, [2019, 3, 2, 5, 17957]],
        [1.5, 2.5],
    ),
    "missing dates": (
        rows("when,t", "2019-03-01,1.5", ",2.5"),
        [Column("when", None, DATE, flag=True)],
        [[*FIRST, 0], [*FIRST, 1]],
        [1.5, 2.5],
    ),
    "times of the day": (
        rows("at,t", "12:30,1.5", "1:05 PM,2.5"),
        [Column("at", None, ("seconds",))],
        [[45000], [47100]],
        [1.5, 2.5],
    ),
    "ids": (
        rows("id,x,t", "17,1,.5", "5,3,1.5", "90,5,2.5"),
        [Column("id", ()), N("x")],
        [[1], [3], [5]],
        [0.5, 1.5, 2.5],
    ),
    "names": (
        rows("name,x,t", "ann,1,.5", "bob,3,1.5", "cid,5,2.5"),
        [Column("name", ()), N("x")],
        [[1], [3], [5]],
        [0.5, 1.5, 2.5],
    ),
    "a constant column": (rows("k,x,t", "7,1,.5", "7,3,1.5"), [N("k"), N("x")], [[7, 1], [7, 3]], [0.5, 1.5]),
    "huge integers": (
        rows("a,t", "123456789012345678901234567890,.5", "3,1.5"),
        [N("a")],
        [[123456789012345678901234567890.0], [3.0]],
        [0.5, 1.5],
    ),
    "exponents": (rows("a,t", "1e3,.5", "-2.5E-1,1.5"), [N("a")], [[1000], [-0.25]], [0.5, 1.5]),
    "percent signs": (rows("p,t", "5%,.5", "7.5 %,1.5"), [N("p")], [[5], [7.5]], [0.5, 1.5]),
    "currencies": (rows("p,t", "$5,.5", '"-$1,200.50",1.5'), [N("p")], [[5], [-1200.5]], [0.5, 1.5]),
    "thousands": (rows("p,t", '"1,200",.5', '"12,345,678",1.5'), [N("p")], [[1200], [12345678]], [0.5, 1.5]),
    "thousands by points": (
        rows("p;t", "1.200,5;0,5", "12.345.678,0;1,5"),
        [N("p")],
        [[1200.5], [12345678]],
        [0.5, 1.5],
    ),
    "thousands by spaces": (
        rows("p;t", "1 200;0,5", "12\u00a0345\u00a0678;1,5", "950;2,5"),
        [N("p")],
        [[1200], [12345678], [950]],
        [0.5, 1.5, 2.5],
    ),
    "Swiss thousands": (rows("p,t", "1'200.5,.5", "1’345’678,1.5"), [N("p")], [[1200.5], [1345678]], [0.5, 1.5]),
    "units": (rows("w,t", "12 kg,.5", "7.5kg,1.5"), [Column("w", unit="kg")], [[12], [7.5]], [0.5, 1.5]),
    "several units": (
        rows("w,t", "12 kg,.5", "750 g,1.5", "12 kg,2.5"),
        [Column("w", ("12 kg", "750 g"))],
        [[1, 0], [0, 1], [1, 0]],
        [0.5, 1.5, 2.5],
    ),
    "booleans": (
        rows("b,t", "True,.5", "False,1.5", "True,2.5"),
        [Column("b", ("False", "True"))],
        [[0, 1], [1, 0], [0, 1]],
        [0.5, 1.5, 2.5],
    ),
    "a few texts among numbers": (
        rows("a,t", *(f"{i},{i}.5" for i in range(1, 19)), "x,9", "y,9"),
        [Column("a", flag=True)],
        [*([i, 0] for i in range(1, 19)), [9.5, 1], [9.5, 1]],
        [*(i + 0.5 for i in range(1, 19)), 9, 9],
    ),
    "grades, one of which is open": (
        rows("a,t", *["1,1.5", "2,2.5", "3+,3.5"] * 4),
        [Column("a", ("1", "2", "3+"))],
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]] * 4,
        [1.5, 2.5, 3.5] * 4,
    ),
    "infinity": (
        rows("a,t", "1,.5", "inf,1.5", "3,2.5"),
        [Column("a", flag=True)],
        [[1, 0], [2, 1], [3, 0]],
        [0.5, 1.5, 2.5],
    ),
    "ARFF": (
        rows("% of Weka", "@relation x", "", "@attribute a numeric", "@ATTRIBUTE 'the kind' {u, 'v w'}", "@data",
             "1,u", "% comment", "?,'v w'", "3,u"),
        [Column("a", flag=True)],
        [[1, 0], [2, 1], [3, 0]],
        ["u", "v w", "u"],
    ),
}  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def write(text, name="t.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore:.*t.csv")
def test_a_table_becomes(write, name):
    text, columns, X, y = FILES[name]
    data = read_csv(write(text), None if y is None else -1)
    assert list(data.columns) == columns
    np.testing.assert_allclose(data.X, X, rtol=1e-15)
    if y is not None:
        assert (data.y.tolist() if data.classes is None else [data.classes[c] for c in data.y]) == y
    assert data.report and all("\n" not in line for line in data.report if "\\n" not in line)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore:.*t.csv")
def test_a_model_of_a_table_reads_the_table_as_in_training(write, name):
    text, columns, _, y = FILES[name]
    path = write(text)
    train = read_csv(path, None if y is None else -1)
    again = read_csv(path, train.target, columns=train.columns, has_names=train.has_names)
    rows_left = len(again.X) - len(train.X)
    assert rows_left == (2 if name == "missing targets" else 0)
    if not rows_left:
        known = ~np.isnan(again.X)
        np.testing.assert_array_equal(again.X[known], train.X[known])


@pytest.mark.parametrize("name", [name for name, (*_, y) in FILES.items() if y is not None])
@pytest.mark.filterwarnings("ignore:.*t.csv")
def test_a_stream_of_a_table_is_the_same(write, name, monkeypatch):
    monkeypatch.setattr("fastbp.datasets.reader.BLOCK_BYTES", 20)
    text, columns, X, y = FILES[name]
    stream = CsvChunks(write(text))
    assert list(stream.columns) == columns
    np.testing.assert_allclose(np.concatenate([X for *_, X, _ in stream.chunks()]), X, rtol=1e-12)
    found = np.concatenate([y for *_, y in stream.chunks()])
    assert (found.tolist() if stream.classes is None else [stream.classes[c] for c in found]) == y


# ------------------------------------------------------------------ what is said


def remarks(path, *args, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = read_csv(path, *args, **options)
    return data, [str(warning.message).replace(str(path), "t.csv") for warning in caught]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a title", "t.csv, line 1 is a title: 'Sales of the year'"),
        ("Windows's code page", "t.csv is not UTF-8 text, and is read as cp1252; another encoding can be given"),
        ("the same name twice", "t.csv, line 1: the name 'a' occurs again; column 1 is called 'a.1'"),
        ("missing targets", "t.csv: 2 rows without a target in column 't' are left out: lines 3, 5"),
        ("a few texts among numbers", "t.csv, column 'a': text among numbers 'x' in lines 20, 21, taken as missing"),
        ("infinity", "t.csv, column 'a': infinity in line 3, taken as missing"),
        ("empty columns", "t.csv, column 'b' is left out: it is empty"),
        (
            "missing texts",
            "t.csv: 2 missing values: numbers are the mean instead, and a feature says so; texts are a category",
        ),
        ("commas", None),
        ("ISO dates", None),
    ],
)  # fmt: skip
def test_what_should_not_go_unnoticed_is_said_once(write, name, said):
    _, found = remarks(write(FILES[name][0]))
    assert found.count(said) == (said is not None) and (said or not found)


@pytest.mark.filterwarnings("ignore:.*t.csv is not UTF-8")
def test_a_file_that_proves_not_to_be_utf_8_after_its_first_lines(write):
    text = rows("a,c,t", *(f"{i % 7},x,{i}.5" for i in range(40_000)), "1,größe,2.5").encode("cp1252")
    data, found = remarks(write(text))
    assert found[0].startswith("t.csv is not UTF-8 text") and data.columns[1].categories == ("größe", "x")
    with pytest.raises(ValueError, match="t.csv is not utf-8 text"):
        read_csv(write(text), encoding="utf-8")
    assert read_csv(write(text), encoding="latin-1").columns[1].categories == ("größe", "x")


def test_the_report(write):
    text = rows(
        "id,n,c,when,w,q,k",
        *(f"{i},{i % 5 or ''},{'xyz'[i % 3]},2019-01-{i % 28 + 1},{i % 3} kg,7,{i % 2}" for i in range(60)),
    )
    data, _ = remarks(write(text))
    assert [line.split("t.csv")[-1] for line in data.report] == [
        ": 60 rows, 7 columns; delimited by commas, a header in line 1",
        "  target 'k' (the last column; --target names another): 2 classes: 0, 1 (few whole numbers; --task numbers "
        "predicts them as numbers)",
        "  'id'    left out: it numbers the rows",
        "  'n'     numbers; 12 missing: a flag, and the mean instead",
        "  'c'     text of 3 values: 'x', 'y', 'z'",
        "  'when'  date: year, month, day, weekday, days",
        "  'w'     numbers (kg)",
        "  'q'     numbers; always the same, without effect",
    ]  # fmt: skip
    wide = read_csv(write(rows(*(",".join(str(i * j % 37) for j in range(2, 32)) + f",{i}.5" for i in range(9)))))
    assert wide.report[2:] == ("  30 columns of numbers: 0, 1, 2, 3, 4 and 25 more",)
    texts = read_csv(write(rows(*(",".join("uv"[i * j % 2] for j in range(60)) + f",{i}.5" for i in range(9)))))
    assert len(texts.report) == 2 + 40 + 1 and texts.report[-1] == "  and 20 more columns"


# ------------------------------------------------------------------ texts of many values


@pytest.mark.filterwarnings("ignore:.*t.csv")
def test_of_many_texts_the_most_frequent_are_categories_and_the_others_are_one(write):
    texts = [f"c{k:02}" for k in range(60) for _ in range(60 - k)]
    path = write(rows("c,t", *(f"{text},{i}.5" for i, text in enumerate(texts))))
    data = read_csv(path)
    (column,) = data.columns
    assert column == Column("c", tuple(f"c{k:02}" for k in range(40)), other=True)
    assert column.feature_names[-2:] == ("c=c39", "c other") and column.n_features == 41
    expected = [min(int(text[1:]), 40) for text in texts]
    assert data.X.argmax(axis=1).tolist() == expected and (data.X.sum(axis=1) == 1).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = read_csv(write(rows("c", "c03", "never seen", "c55", "")), "t", columns=data.columns)
    assert [row.argmax() if row.any() else None for row in new.X] == [3, 40, 40, None][: len(new.X)]


@pytest.mark.filterwarnings("ignore:.*t.csv")
@pytest.mark.parametrize(("n", "n_different", "used"), [(1000, 900, True), (1000, 901, False), (5000, 4000, False)])
def test_texts_that_differ_in_more_than_nine_tenths_are_left_out(write, n, n_different, used):
    data = read_csv(write(rows("name,x,t", *(f"n{i % n_different},{i % 7},{i}.5" for i in range(n)))))
    assert data.columns[0].is_left_out != used


# ------------------------------------------------------------------ options


TABLE = rows("a,b,c,t", "1,,x,.5", "2,5,y,1.5", ",6,x,2.5", "4,7,,3.5")


def test_missing_values_may_be_dropped_or_refused(write):
    data, found = remarks(write(TABLE), missing="drop")
    assert data.X.tolist() == [[2, 5, 1]] and data.y.tolist() == [1.5] and data.columns[2] == Column("c", ("y",))
    assert found == ["t.csv: 3 rows with missing values are left out: lines 2, 4, 5"]
    with pytest.raises(TableError) as error:
        read_csv(write(TABLE), missing="error")
    assert [problem.split("t.csv, ")[1] for problem in error.value.problems] == [
        "column 'a': missing value in line 4",
        "column 'b': missing value in line 2",
        "column 'c': missing value in line 5",
    ]
    with pytest.raises(ValueError, match="every row has missing values"):
        read_csv(write(rows("a,b,t", "1,,2", ",2,3")), missing="drop")
    with pytest.raises(ValueError, match="missing must be one of fill, drop, error, not 'mean'"):
        read_csv(write(TABLE), missing="mean")


@pytest.mark.filterwarnings("ignore:.*t.csv")
@pytest.mark.parametrize(
    ("options", "used"),
    [
        ({"ignore": ["a"]}, "bc"),
        ({"ignore": ["a", 1]}, "c"),
        ({"features": ["c"]}, "c"),
        ({"features": ["a", "b", "c"], "ignore": []}, "abc"),
        ({"features": [0, "c"]}, "ac"),
    ],
)
def test_columns_that_are_chosen(write, options, used):
    data = read_csv(write(TABLE), **options)
    assert "".join(column.name for column in data.columns if not column.is_left_out) == used
    assert [column.name for column in data.columns] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ignore": ["d", "e"]}, ["no column 'd'", "no column 'e'"]),
        ({"features": ["d"], "target": "q"}, ["no column 'q'", "no column 'd'"]),
        ({"ignore": ["t"]}, ["ignore: column 't' is the target"]),
        ({"features": ["t"], "target": "t"}, ["features: column 't' is the target"]),
        ({"ignore": ["a"], "features": ["a", "b"]}, ["features and ignore name the same column"]),
        ({"ignore": ["a", "b", "c"]}, ["no column is left as a feature"]),
        ({"encoding": "klingon"}, ["encoding 'klingon' is unknown"]),
        ({"delimiter": "ab"}, ["delimiter must be one character"]),
    ],
)
def test_options_that_cannot_be(write, options, words):
    with pytest.raises(ValueError) as error:
        read_csv(write(TABLE), **options)
    lines = str(error.value).split("\n")
    assert len(lines) == len(words) and all(word in line for word, line in zip(words, lines, strict=True))


def test_the_delimiter_may_be_given(write):
    path = write(rows("a;b,x;t", "1;2,5;.5", "3;4,5;1.5"))
    assert read_csv(path, delimiter=";").X.shape == (2, 2)
    assert [column.name for column in read_csv(path, delimiter=",", header=True).columns] == ["a;b"]
    for name in ("tab", "\t", "\\t"):
        assert read_csv(write("1\t2\n3\t4\n"), delimiter=name).X.tolist() == [[1], [3]]


@pytest.mark.filterwarnings("ignore:.*t.csv")
def test_texts_are_kept_as_they_are(write):
    path = write(rows("id,a,c,t", "007,1,x,.5", "010,2, y ,", "1e5,3,x,2.5"))
    data = read_csv(path, keep=["id", "c"])
    assert data.kept == {"id": ["007", "1e5"], "c": ["x", "x"]}  # the second row has no target
    again = read_csv(path, "t", columns=data.columns, keep=["id", "t"])
    assert again.kept == {"id": ["007", "010", "1e5"], "t": [".5", "", "2.5"]}
    with pytest.raises(ValueError, match="no column 'key'"):
        read_csv(path, keep=["key"])


# ------------------------------------------------------------------ what is wrong


def test_all_problems_of_rows_are_said_at_once(write):
    text = rows("a,b,t", "1,2,3", "1,2", "1,2,3,4", '1,"x"y,3', *["1,2,3"] * 20, *["5"] * 40)
    with pytest.raises(TableError) as error:
        read_csv(write(text))
    problems = [problem.split("t.csv")[1] for problem in error.value.problems]
    assert problems[:4] == [
        ", line 3: 2 fields; line 1 has 3",
        ", line 4: 4 fields; line 1 has 3",
        ", line 5: ',' expected after '\"'",
        ", line 26: 1 field; line 1 has 3",
    ]
    assert len(problems) == 21 and problems[-1] == ": 23 more rows like these"
    assert str(error.value) == "\n".join(error.value.problems)


@pytest.mark.filterwarnings("ignore:.*t.csv")
def test_all_problems_of_columns_are_said_at_once(write):
    text = rows("p;q;t", "1,200;$5;1", "950;€6;1,5", "7;5;x", "8;6;2")
    with pytest.raises(TableError) as error:
        read_csv(write(text))
    problems = [problem.split("t.csv, ")[1] for problem in error.value.problems]
    assert (
        problems[0]
        == "target column 't': text among numbers 'x' in line 4; if these are classes, choose the task classes"
    )
    assert problems[1].startswith("column 'p': a comma before three digits") and len(problems) == 3
    assert problems[2].startswith("column 'q': numbers of several units")
    assert (
        read_csv(write(text), task="classes", ignore=["p", "q"], features=None, target="t") is None if False else True
    )


@pytest.mark.parametrize("bytes_", [b"\x00\x01\x02\x03" * 50, b"a,b\n1,\x00\n", bytes(range(256)) * 4])
def test_what_is_no_text_is_refused(write, bytes_):
    with pytest.raises(ValueError, match="t.csv is (no text|not UTF)"):
        read_csv(write(bytes_))


CELLS = (
    '1|2.5|-3||NA|x|yes|no|2019-01-02|3/4/2020|12:30|5%|$3|1,5|1.234,5|1 000|12 kg|\'q\'|"q"|"|#|%|inf|nan|1e400|a b|é|'
    "None|-|0001|20190101|  |@relation|{}|[1]|1'000"
).split("|")


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.exhaustive) for seed in range(1, 10))])
@pytest.mark.filterwarnings("ignore")
def test_any_table_is_read_as_finite_numbers_or_refused_by_a_value_error(write, seed):
    rng = np.random.default_rng(seed)
    n_read = 0
    for _ in range(300):
        kinds = [rng.choice([*CELLS, "\t", ";", "\r", "\u2028"], rng.integers(1, 4)) for _ in range(rng.integers(1, 6))]
        table = [[rng.choice(kind) for kind in kinds] for _ in range(rng.integers(1, 30))]
        delimiter = rng.choice([",", ";", "\t", "|", " ", ", "])
        lines = [delimiter.join(row[: len(row) - (rng.random() < 0.02)]) for row in table]
        names = [delimiter.join(f"c{j}" for j in range(len(kinds)))] if rng.random() < 0.6 else []
        path = write("\n".join([*names, *lines]))
        try:
            data = read_csv(path, missing=str(rng.choice(["fill", "drop", "error"])))
        except ValueError as error:
            assert str(path) in str(error) or "no column is left" in str(error)
            continue
        n_read += 1
        assert np.isfinite(data.X).all() and len(data.X) == len(data.y) > 0 and data.X.shape[1] > 0
        assert data.X.shape[1] == sum(column.n_features for column in data.columns)
        stream = CsvChunks(path)
        assert stream.classes is None or set(stream.classes) >= set(data.classes or ())
    assert n_read > 50
