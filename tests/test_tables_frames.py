"""Data frames of several libraries, the files that they read, and the encoder that makes a matrix of any of them."""

import datetime
import json
import sys
import warnings
import zipfile

import numpy as np
import pytest

import fastbp
from fastbp import preprocessing
from fastbp.datasets import Column, frames
from fastbp.preprocessing import METADATA_KEY, Preprocessor, TableEncoder, read

pd = pytest.importorskip("pandas")
pytest.importorskip("narwhals")

DATE = ("year", "month", "day", "weekday", "days")
DAYS = [datetime.date(2019, 3, 1), datetime.date(2019, 3, 2), None, datetime.date(2020, 2, 29)]
RAW = {
    "a": [1.5, None, 3.0, 4.5],
    "n": [1, 2, 3, 5],
    "b": [True, False, None, True],
    "c": ["x", "y", None, "x"],
    "when": DAYS,
}
FEATURES = [
    "a", "a missing", "n", "b missing", "b=False", "b=True", "c missing", "c=x", "c=y",
    "when.year", "when.month", "when.day", "when.weekday", "when.days", "when missing",
]  # fmt: skip
MEAN_DATE = np.mean([[2019, 3, 1, 4, 17956], [2019, 3, 2, 5, 17957], [2020, 2, 29, 5, 18321]], axis=0).tolist()
MATRIX = [
    [1.5, 0, 1, 0, 0, 1, 0, 1, 0, 2019, 3, 1, 4, 17956, 0],
    [3.0, 1, 2, 0, 1, 0, 0, 0, 1, 2019, 3, 2, 5, 17957, 0],
    [3.0, 0, 3, 1, 0, 0, 1, 0, 0, *MEAN_DATE, 1],
    [4.5, 0, 5, 0, 0, 1, 0, 1, 0, 2020, 2, 29, 5, 18321, 0],
]


def of_pandas(data):
    return pd.DataFrame(
        {
            "a": pd.array(data["a"], "Float64"),
            "n": data["n"],
            "b": pd.array(data["b"], "boolean"),
            "c": pd.Categorical(data["c"]),
            "when": pd.to_datetime(pd.Series(data["when"])),
        }
    )


def of_objects(data):
    frame = of_pandas(data)
    frame["c"], frame["a"] = pd.Series(data["c"], dtype=object), pd.Series(data["a"], dtype=float)
    return frame


def of_pyarrow(data):
    return pytest.importorskip("pyarrow").table(data)


def of_polars(data):
    return pytest.importorskip("polars").DataFrame(data)


LIBRARIES = [of_pandas, of_objects, of_pyarrow, of_polars]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_frame_becomes_a_matrix(library):
    encoder = TableEncoder(leave_out=False)
    X = encoder.fit_transform(library(RAW))
    assert encoder.feature_names == FEATURES and X.dtype == np.float64
    np.testing.assert_allclose(X, MATRIX)
    assert encoder.columns[3:] == (Column("c", ("", "x", "y")), Column("when", None, DATE, flag=True))
    np.testing.assert_allclose(encoder.fit(library(RAW)).transform(library(RAW)), MATRIX)
    with_nan = encoder.transform(library(RAW), fill=False)
    np.testing.assert_array_equal(np.isnan(with_nan[:, [0, 9]]), np.isin(np.arange(4)[:, None], [1, 2]) & [[1, 0], [1, 0], [0, 1], [0, 0]] == 1)  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("library", LIBRARIES)
def test_new_rows_are_encoded_as_those_of_fit(library):
    encoder = TableEncoder(leave_out=False).fit(of_pandas(RAW))
    new = {name: values[:2] for name, values in RAW.items()}
    new |= {"c": ["z", "y"], "a": [None, 7.0], "more": [1, 2]}
    frame = library(new) if library not in (of_pandas, of_objects) else library(new).assign(more=[1, 2])[::1]
    X = encoder.transform(frame)
    np.testing.assert_allclose(X[:, :9], [[3, 1, 1, 0, 0, 1, 0, 0, 0], [7, 0, 2, 0, 1, 0, 0, 0, 1]])
    assert encoder.remarks == ("X, column 'c': 1 of texts unknown to the model, 'z', are taken as other ones",)


def test_columns_are_found_by_name_and_what_is_wrong_is_said_at_once():
    encoder = TableEncoder(leave_out=False).fit(of_pandas(RAW))
    np.testing.assert_allclose(encoder.transform(of_pandas(RAW)[["when", "c", "b", "n", "a"]]), MATRIX)
    with pytest.raises(ValueError, match="X has no column 'n', 'when'; its 3 columns are a, b, c"):
        encoder.transform(of_pandas(RAW)[["a", "b", "c"]])
    wrong = of_pandas(RAW).assign(n=list("pqrs"), when=["soon", "later", "now", None])
    with pytest.raises(ValueError) as error:
        encoder.transform(wrong)
    assert str(error.value).split("\n") == [
        "X, column 'n': text for a number 'p' in rows 0, 1, 2, 3",
        "X, column 'when': text for a date in rows 0, 1, 2",
    ]
    with pytest.raises(ValueError, match="call fit"):
        TableEncoder().transform(wrong)


def test_arrays_and_lists_of_rows():
    X = [[1, "x", None], [2.5, "y", 3], [None, "x", 4]]
    encoder = TableEncoder().fit(X)
    np.testing.assert_allclose(
        encoder.transform(X), [[1, 0, 1, 0, 3.5, 1], [2.5, 0, 0, 1, 3, 0], [1.75, 1, 1, 0, 4, 0]]
    )
    np.testing.assert_allclose(encoder.transform(np.array(X, object)), encoder.transform(X))
    numbers = np.array([[1.0, np.nan], [3, 4]], np.float32)
    np.testing.assert_allclose(TableEncoder().fit_transform(numbers), [[1, 4, 1], [3, 4, 0]])
    with pytest.raises(ValueError, match=r"X has 2 columns"):
        encoder.transform(numbers)
    for wrong in (np.zeros(3), np.zeros((2, 0)), []):
        with pytest.raises(ValueError, match="X must have rows and columns"):
            TableEncoder().fit(wrong)


def test_columns_that_are_not_features_are_left_out():
    frame = pd.DataFrame({"id": range(20), "name": [f"n{i}" for i in range(20)], "x": [1.0, 2] * 10, "e": [None] * 20})
    encoder = TableEncoder()
    assert encoder.fit_transform(frame).shape == (20, 1)
    assert [column.name for column in encoder.columns if column.is_left_out] == ["id", "name", "e"]
    assert TableEncoder(leave_out=False).fit_transform(frame).shape == (20, 1 + 20 + 1)
    assert TableEncoder(ignore=["x"], features=None).fit(frame).feature_names == ["id"]
    assert TableEncoder(features=["id", "x"], leave_out=False).fit(frame).feature_names == ["id", "x"]


def test_dates_with_a_time_zone_durations_and_infinity():
    frame = pd.DataFrame(
        {
            "at": pd.to_datetime(["2019-03-01 12:00", "2019-03-02 00:00"]).tz_localize("Europe/Berlin"),
            "d": pd.to_timedelta([5, 7], "s"),
            "x": [np.inf, 2.0],
        }
    )
    encoder = TableEncoder(leave_out=False)
    X = encoder.fit_transform(frame)
    np.testing.assert_allclose(X[:, :6], [[2019, 3, 1, 4, 17956, 43200], [2019, 3, 2, 5, 17957, 0]])
    np.testing.assert_allclose(X[:, 6:], [[5, 2, 1], [7, 2, 0]])
    assert "X, column 'x': infinity in row 0, taken as missing" in encoder.remarks


def test_without_narwhals_a_frame_is_refused_in_one_line(monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "narwhals"]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'X is a data frame, which needs narwhals: pip install "fastbp\[tables\]"'):
        TableEncoder().fit(of_pandas(RAW))


# ------------------------------------------------------------------ files


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    n = 30
    frame = pd.DataFrame(
        {"x": rng.standard_normal(n).round(3), "c": rng.choice(["u", "v"], n), "t": rng.choice(["yes", "no"], n)}
    )
    frame.loc[3, "x"] = np.nan
    frame.loc[4, "c"] = None
    return frame


def written(frame, path):
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".feather":
        frame.to_feather(path)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif path.suffix == ".json":
        frame.to_json(path, orient="records")
    else:
        frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".jsonl", ".json"])
def test_files_of_other_kinds_are_read_as_csv_is(tmp_path, frame, suffix):
    if suffix in (".parquet", ".feather"):
        pytest.importorskip("pyarrow")
    expected = read(str(written(frame, tmp_path / "t.csv")))
    data = read(str(written(frame, tmp_path / f"t{suffix}")))
    np.testing.assert_array_equal(data.X, expected.X)
    assert data.columns == expected.columns and data.classes == expected.classes == ("no", "yes")
    np.testing.assert_array_equal(data.y, expected.y)
    preprocessor = Preprocessor.of(data, np.arange(20))
    again = read(str(tmp_path / "t.csv"), preprocessor=preprocessor, n_features=data.X.shape[1])
    np.testing.assert_array_equal(again.X, data.X)
    with pytest.raises(ValueError, match="the option delimiter"):
        read(str(tmp_path / f"t{suffix}"), delimiter=",")


@pytest.mark.parametrize("library", ["polars", "pandas"])
@pytest.mark.parametrize(("magic", "kind"), [(b"PAR1", "Parquet"), (b"ARROW1\0\0", "Feather")])
def test_a_damaged_file_of_another_kind(tmp_path, monkeypatch, library, magic, kind):
    pytest.importorskip(library)
    pytest.importorskip("pyarrow")
    if library == "pandas":
        monkeypatch.setitem(sys.modules, "polars", None)
    (tmp_path / "t").write_bytes(magic + b"nonsense" * 9)
    with pytest.raises(ValueError, match=f"t is not a readable {kind} file: ."):
        read(str(tmp_path / "t"))


@pytest.mark.parametrize(("magic", "kind"), [(b"PAR1", "a Parquet"), (b"\xd0\xcf\x11\xe0", "an Excel")])
def test_what_to_install_is_said_in_one_line(tmp_path, monkeypatch, magic, kind):
    for library in ("polars", "pandas"):
        monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / "t").write_bytes(magic + bytes(50))
    with pytest.raises(ImportError) as error:
        read(str(tmp_path / "t"))
    assert str(error.value).endswith(f'/t is {kind} file, which needs polars: pip install "fastbp[tables]"')


def write_excel(path, rows):
    """Write the parts of a workbook that a reader needs."""
    kinds = "http://schemas.openxmlformats.org"
    cells = [
        "".join(
            "<c/>"
            if v is None
            else f'<c t="inlineStr"><is><t>{v}</t></is></c>'
            if isinstance(v, str)
            else f"<c><v>{v}</v></c>"
            for v in row
        )
        for row in rows
    ]
    office, package = f"{kinds}/officeDocument/2006/relationships", f"{kinds}/package/2006"
    sheet_type = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{sheet_type}.sheet.main+xml"/>'
        f'<Override PartName="/xl/s.xml" ContentType="{sheet_type}.worksheet+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="r1" Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{kinds}/spreadsheetml/2006/main" xmlns:r="{office}">'
        '<sheets><sheet name="S" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="r1" Type="{office}/worksheet" Target="s.xml"/></Relationships>',
        "xl/s.xml": f'<worksheet xmlns="{kinds}/spreadsheetml/2006/main"><sheetData>'
        + "".join(f"<row>{row}</row>" for row in cells)
        + "</sheetData></worksheet>",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, '<?xml version="1.0" encoding="UTF-8"?>' + text)


def test_excel(tmp_path, frame):
    pytest.importorskip("polars")
    pytest.importorskip("fastexcel")
    rows = frame.astype(object).where(frame.notna(), None).values.tolist()
    write_excel(tmp_path / "t.xlsx", [list(frame.columns), *rows])
    data = read(str(tmp_path / "t.xlsx"))
    expected = read(str(written(frame, tmp_path / "t.csv")))
    np.testing.assert_allclose(data.X, expected.X)
    assert data.columns == expected.columns


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"SQLite format 3\0", "an SQLite database, which is not read: save the table as CSV"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"\x80\x04\x95", "a pickle file"),
        (b"%PDF-1.4", "a PDF file"),
        (b"BZh9", "a bzip2 file"),
    ],
)
def test_files_that_nothing_reads_say_what_they_are(tmp_path, head, words):
    (tmp_path / "t").write_bytes(head + bytes(90))
    with pytest.raises(ValueError, match=f"t is {words}"):
        read(str(tmp_path / "t"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "t": 2}\n{"a": 1, "t"\n', "t.jsonl, line 2: "),
        ('{"a": 1}\n\n[1]\n', r"t.jsonl, line 3: expected an object of names and values, got list"),
        ('{"a": {"b": 1}}\n', r"t.jsonl, line 1, 'a': nested values are not read"),
        ('[{"a": 1}, 5]', "t.jsonl, object 2: expected an object"),
        ('{"a": ' + "[" * 100_000, "t.jsonl, line 1: "),
        ("{}\n", "t.jsonl is empty"),
    ],
)
def test_json_that_is_no_table(tmp_path, text, words):
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(ValueError, match=words):
        read(str(tmp_path / "t.jsonl"))


def test_json_objects_that_lack_names(tmp_path):
    lines = [{"x": 1, "t": 0.5}, {"t": 1.5, "y": "u"}, {"x": 3, "t": 2.5, "y": "u"}, {"x": 2, "y": "u"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = read(str(tmp_path / "t.jsonl"), target="t")
    np.testing.assert_array_equal(data.X, [[1, 0, 1, 0], [np.nan, 1, 0, 1], [3, 0, 0, 1]])
    assert data.remarks[0].endswith("1 row without a target in column 't' is left out: line 4")


# ------------------------------------------------------------------ the preprocessor


def test_missing_numbers_become_the_mean_of_the_training_rows(tmp_path):
    (tmp_path / "t.csv").write_text("a,t\n1,.5\n3,1\n,2.5\n1000,3\n")
    data = read(str(tmp_path / "t.csv"))
    np.testing.assert_array_equal(data.X, [[1, 0], [3, 0], [np.nan, 1], [1000, 0]])
    preprocessor = Preprocessor.of(data, np.array([0, 1, 2]))
    assert preprocessor.mean[0] == 2 and preprocessor.scale[0] == 1  # without the last row
    np.testing.assert_allclose(preprocessor.inputs(data.X, np.dtype("f4"))[:, 0], [-1, 1, 0, 998])
    only_missing = Preprocessor.of(data, np.array([2]))
    np.testing.assert_allclose(only_missing.inputs(data.X, np.dtype("f8"))[:, 0], 0, atol=1e-30)


def test_every_kind_of_column_survives_the_model_file(tmp_path):
    columns = (
        Column("a"),
        Column("b", flag=True),
        Column("c", ("", "x")),
        Column("d", ("x", "y"), other=True),
        Column("e", None, DATE, flag=True, day_first=True),
        Column("f", unit="kg"),
        Column("g", ()),
    )
    n = sum(column.n_features for column in columns)
    assert n == 1 + 2 + 2 + 3 + 6 + 1 + 0 == sum(len(column.feature_names) for column in columns)
    made = Preprocessor([0.0] * n, [1.0] * n, ("u", "v"), columns=columns, target="t", has_names=True)
    net = fastbp.Network([n, 2], "softmax", loss="cross_entropy", seed=0, backend="numpy")
    net.save(tmp_path / "m.npz", metadata=made.metadata())
    again = Preprocessor.from_metadata(fastbp.load(tmp_path / "m.npz").metadata, sizes=net.sizes)
    assert again.columns == columns
    fields = json.loads(made.metadata()[METADATA_KEY])["columns"]
    assert fields[0] == ["a", None] and fields[2] == ["c", ["", "x"]]  # as in earlier versions
    assert fields[4] == ["e", None, {"parts": list(DATE), "flag": True, "day_first": True}]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (["a", None, {"flag": 1}], "columns[0].flag must be true or false, got 1"),
        (["a", None, {"other": True}], "columns[0].other must be false for a number"),
        (["a", None, {"parts": ["hour"]}], "columns[0].parts must be some of year"),
        (["a", None, {"parts": ["day", "day"]}], "columns[0].parts must be some of year"),
        (["a", None, {"parts": "day"}], "columns[0].parts must be some of year"),
        (["a", None, {"unit": 5}], "columns[0].unit must be text"),
        (["a", None, {"day_first": "yes"}], "columns[0].day_first must be true, false or null"),
        (["a", ["x", "y"], {"flag": True}], "columns[0] must be text, a number or a date"),
        (["a", None, {"Flag": True}], "columns[0] must be a list of a name, its categories"),
        (["a", None, {}, 1], "columns[0] must be a list of a name, its categories"),
        (["a", None, None], "columns[0] must be a list of a name, its categories"),
    ],
)
def test_damaged_columns_are_refused(column, words):
    fields = {"mean": [0.0], "scale": [1.0], "classes": ["u", "v"], "target_mean": [0.0], "target_scale": [1.0]}
    fields |= {"columns": [column], "target": "t", "has_names": True}
    with pytest.raises(ValueError) as error:
        Preprocessor.from_metadata({METADATA_KEY: json.dumps(fields)})
    assert words in str(error.value)


def test_nothing_of_this_is_imported_before_it_is_needed():
    import subprocess

    code = "import sys; import fastbp.preprocessing as p; p.read('digits'); print(*{'narwhals', 'pandas', 'polars', 'llvmlite.ir', 'numba'} & {*sys.modules})"  # noqa: E501
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
    assert frames.INSTALL == 'pip install "fastbp[tables]"' and preprocessing.STDIN == "-"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not frames.is_frame([[1]]) and frames.is_frame(of_pandas(RAW))


def test_truth_values_for_models_of_earlier_versions():
    """These took them as numbers, or kept their text in the case of the file."""
    pandas = pytest.importorskip("pandas")
    columns = (Column("number"), Column("text", ("false", "true")))
    for true, false in (("True", "False"), ("true", "FALSE"), (True, False)):
        frame = pandas.DataFrame({"number": [true, false, true], "text": [false, true, true]})
        X = preprocessing.encoded(frame, columns, True).X
        np.testing.assert_array_equal(X, [[1, 1, 0], [0, 0, 1], [1, 0, 1]])
