"""The two parsers of text files, the csv module's and the kernel: the same cells, and numbers rounded rightly."""

import tracemalloc
import warnings

import numpy as np
import pytest
from fastbp.kernels import cache, library
from fastbp.kernels.delimited import DECIMAL, NUMBER, SKIP, TEXT, THREE_DECIMALS, WHOLE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastbp.datasets import reader
from fastbp.datasets.cells import why_ambiguous
from fastbp.datasets.columns import Numbers
from fastbp.datasets.form import TableError, detect
from fastbp.datasets.tables import read_csv


@pytest.fixture
def natively(monkeypatch):
    """Have files of any size read by the kernel, or by the csv module."""

    def choose(is_native):
        monkeypatch.setattr(reader, "WORTH_COMPILING", 0 if is_native else 1 << 60)
        monkeypatch.setattr(cache, "is_compiler_off", lambda: not is_native)

    return choose


@pytest.fixture
def slow_rows(monkeypatch):
    """Return a list that receives the number of rows of each block that the csv module reads."""
    found, parse = [], reader.Reader._parse_rows

    def count(self, lines_before, data):
        block = parse(self, lines_before, data)
        found.append(len(block.lines))
        return block

    monkeypatch.setattr(reader.Reader, "_parse_rows", count)
    return found


def test_the_constants_are_those_of_the_kernel():
    assert (reader.SKIP, reader.NUMBER, reader.TEXT) == (SKIP, NUMBER, TEXT)
    for notations in reader.NOTATIONS.values():
        assert list(notations) == [WHOLE, DECIMAL, THREE_DECIMALS]


def numbers_of(path, texts):
    """Write texts as a column, and return the numbers that the kernel reads."""
    path.write_text("a,b\n" + "".join(f"{text},1\n" for text in texts))
    return read_csv(path, None, leave_out=False).X[:, 0]


def halfway(rng, n):
    """Return decimal texts of at most 19 digits that are halfway, or nearly so, between two numbers of float64."""
    texts = []
    for _ in range(n):
        low = int(rng.integers(1 << 52, 1 << 53))
        k = int(rng.integers(1, 11))
        middle = (2 * low + 1) << (k - 1)  # halfway between two integers of 53 bits times 2**k
        texts += [str(middle + d) for d in (-1, 0, 1) if middle + d < 1 << 63]
        texts.append(f"{low}.5")
    return texts


@pytest.mark.filterwarnings("ignore:.*t.csv")
@pytest.mark.parametrize(
    "kind",
    ["repr", "fixed", "savetxt", "integers", "small", "large", "exponents", "halfway", "halfway decimals", "forms"],
)
def test_every_number_is_the_nearest(tmp_path, natively, kind, slow_rows):
    rng = np.random.default_rng(0)
    natively(True)
    draws, up_to_300 = rng.standard_normal(5000), rng.integers(0, 300, 5000).tolist()
    texts = {
        "repr": lambda: [repr(v) for v in draws.tolist()],
        "fixed": lambda: [f"{v:.{k}f}" for v, k in zip(draws * 1000, rng.integers(0, 17, 5000), strict=True)],
        "savetxt": lambda: [f"{v:.18e}" for v in draws],
        "integers": lambda: [str(v) for v in rng.integers(-(1 << 62), 1 << 62, 5000).tolist()] + [str(2**64), "1" * 30],
        "small": lambda: [repr(v * 10.0**-k) for v, k in zip(draws.tolist(), up_to_300, strict=True)],
        "large": lambda: [repr(v * 10.0**k) for v, k in zip(draws.tolist(), up_to_300, strict=True)],
        "exponents": lambda: [f"{v * v * 1e18:.0f}e{e % 50 - 25}" for v, e in zip(draws, up_to_300, strict=True)],
        "halfway": lambda: halfway(rng, 2000),
        "halfway decimals": lambda: [
            f"{text[:-k]}.{text[-k:]}"
            for text, k in zip(halfway(rng, 2000), rng.integers(1, 15, 8000), strict=False)
            if "." not in text
        ],
        "forms": lambda: "0 -0 +5 007 .5 5. -.5 1E5 1e+5 1e-5 0e0 0.0000000000000000000001".split() * 50,
    }[kind]()  # fmt: skip
    found = numbers_of(tmp_path / "t.csv", texts)
    np.testing.assert_array_equal(found, [float(text) for text in texts])
    assert np.array_equal(np.signbit(found), np.signbit([float(text) for text in texts]))
    assert not slow_rows


@pytest.mark.filterwarnings("ignore:.*t.csv")
@pytest.mark.parametrize(
    "text", ["1e", "1e+", "-", "+", ".", "1.2.3", "--1", "1-", "1x", "0x10", "1_0", "1 2", "e5", "١"]
)
@pytest.mark.parametrize("is_native", [False, True])
def test_what_is_no_number(tmp_path, natively, text, is_native):
    natively(is_native)
    path = tmp_path / "t.csv"
    path.write_text("a,t\n" + "1,5.5\n" * 30 + f"{text},5.5\n")
    data = read_csv(path)
    value = {"1 2": None, "١": 1.0}.get(text)
    assert data.X[-1].tolist() == ([1, 1] if value is None else [1])
    if text not in ("-", ".", "١"):
        assert any(f"text among numbers {text!r} in line 32" in remark for remark in data.remarks)


CELLS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(10**20), 10**20).map(str),
    st.sampled_from(
        [
            "",
            "NA",
            "?",
            "-",
            "x",
            "y z",
            "1,5",
            'say "a"',
            "a\nb",
            "a\nb\nc",
            " 5 ",
            "5%",
            "1e999",
            "é",
            "#",
            "'q'",
            "nan",
        ]
    ),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(2, 4).flatmap(lambda n: st.lists(st.lists(CELLS, min_size=n, max_size=n), min_size=2, max_size=12)),
    st.sampled_from([",", ";", "\t", "|"]),
    st.integers(1, 200),
    st.booleans(),
)
@pytest.mark.filterwarnings("ignore")
def test_both_parsers_give_the_same(tmp_path, natively, table, delimiter, block, quotes_all):
    import csv

    path = tmp_path / "t.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter, quoting=csv.QUOTE_ALL if quotes_all else csv.QUOTE_MINIMAL)
        writer.writerows([[f"c{j}" for j in range(len(table[0]))], *table])
    results = []
    for is_native in (False, True):
        natively(is_native)
        for size in (block, 1 << 19):
            reader_of = reader.Reader(detect(path, True, delimiter=delimiter), range(len(table[0])))
            blocks = []
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(reader, "BLOCK_BYTES", size)
                try:
                    reader_of.scan(blocks.append, blocks.clear)
                except TableError as error:
                    results.append(str(error))
                    continue
            columns = []
            for j in range(len(table[0])):
                parts = [each.columns[j] for each in blocks]
                if isinstance(parts[0], Numbers):
                    odd = [(int(each.lines[row]), text) for each in blocks for row, text in each.columns[j].odd]
                    columns.append(([str(v) for part in parts for v in part.values.tolist()], odd))
                else:
                    columns.append([part.texts[code] for part in parts for code in part.codes])
            notations = {j: why_ambiguous(column.notations) for j, column in reader_of.numbers.items()}
            results.append((columns, notations, [int(line) for each in blocks for line in each.lines]))
    for result in results[1:]:
        assert result == results[0]


@pytest.mark.parametrize("is_native", [False, True])
def test_lines_are_counted_rightly(tmp_path, natively, is_native):
    natively(is_native)
    path = tmp_path / "t.csv"
    path.write_text('a,t\n\n1,"x\ny"\n  \n2,z\n\n\n3,"x\ny"\n?,z\n\nx,z\n')
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match="column 'a': missing value in line 11"):
            read_csv(path, missing="error")


@pytest.mark.filterwarnings("ignore:.*t.csv")
@pytest.mark.parametrize(
    ("text", "n_slow"),
    [
        ("a,b,t\n1,x,2\n3,y,4\n", 0),
        ('a,b,t\n1,"x, z",2\n3," y ",4\n', 0),
        ('a,b,t\n1,"x ""z""",2\n3,y,4\n', 2),  # quotes within a cell
        ("a,b,t\n1,x,2\n# comment\n3,y,4\n", 2),
        ("a b t\n1 x 2\n3 y 4\n", 2),
        ("a;b;t\n1,5;x;2\n3,5;y;4\n", 0),
        ("a,b,t\n" + "1,x,2\n" * 20 + "a,b,t\n", 20),  # the header again
        ("a,b,t\r\n1,x,2\r\n\r\n3,y,4\r\n", 0),
    ],
)
def test_the_kernel_reads_what_it_can(tmp_path, natively, slow_rows, text, n_slow):
    natively(True)
    (tmp_path / "t.csv").write_bytes(text.encode())
    assert len(read_csv(tmp_path / "t.csv").X) in (2, 20)
    assert sum(slow_rows) == n_slow


def test_only_large_files_are_worth_a_compilation(tmp_path, monkeypatch):
    path, addresses, announced = tmp_path / "t.csv", [], []
    monkeypatch.setattr(library.NativeFunctionHandle, "is_cached", lambda self, dtype: False)
    address = library.NativeFunctionHandle.address
    monkeypatch.setattr(
        library.NativeFunctionHandle,
        "address",
        lambda self, dtype: (addresses.append(self.name), address(self, dtype))[1],
    )
    monkeypatch.setattr(reader, "before_compiling", [lambda: announced.append(len(addresses))])
    for n in (10, reader.WORTH_COMPILING // 9):
        path.write_text("a,t\n" + "1.5,2.5\n" * n)
        assert len(read_csv(path).X) == n and (addresses, announced) == ([], [])
    path.write_text("a,t\n" + "1.5,2.5\n" * (reader.WORTH_COMPILING // 7))
    assert len(read_csv(path).X) == reader.WORTH_COMPILING // 7
    assert (addresses, announced) == (["delimited.parse"], [0])


@pytest.mark.filterwarnings("ignore:.*t.csv")
@pytest.mark.parametrize("is_native", [False, True])
def test_memory_is_little_more_than_that_of_the_result(tmp_path, natively, is_native):
    rng = np.random.default_rng(0)
    natively(is_native)
    n = 40_000
    with (tmp_path / "t.csv").open("w") as stream:
        stream.write("name,color,x,y,z,t\n")
        for i, row in enumerate(rng.standard_normal((n, 4)).tolist()):
            stream.write(f"somebody {i},{'red' if i % 3 else 'blue'}," + ",".join(f"{v:.5f}" for v in row) + "\n")
    tracemalloc.start()
    data = read_csv(tmp_path / "t.csv")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data.X.shape == (n, 5) and data.columns[0].is_left_out
    assert peak < 4 * data.X.nbytes + 16 * reader.BLOCK_BYTES
