"""The commands train and predict on tables as people have them."""

import csv
import io
import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

import fastbp
from fastbp.cli import app
from fastbp.recipes import TableModel

QUICK = ("--size", "small", "--hidden", 8, "--ensemble", 2, "--epochs", 6)  # options of a recipe
BETTER = (*QUICK[:-1], 40, "--lr", 0.02)


def run(*arguments, exit_code=0, stdin=None):
    """Run the command in this process, in NumPy; return what it printed."""
    arguments = [str(argument) for argument in arguments]
    if arguments[0] in ("train", "predict"):
        arguments += ["--backend", "numpy"]
    result = CliRunner().invoke(app.make_app(), arguments, input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == exit_code, result.output
    return result


@pytest.fixture
def people(tmp_path):
    """Make a table with ids, names, missing cells, dates, text and a class that follows from them."""
    rng = np.random.default_rng(0)
    lines = ["id,name,age,city,joined,member"]
    for i in range(200):
        age, city = rng.integers(18, 80), rng.choice(["Oslo", "Rome", "Lima"])
        year = int(rng.integers(2010, 2024))
        member = "yes" if age > 45 or city == "Oslo" else "no"
        shown = [
            "" if rng.random() < 0.05 else str(value)
            for value in (age, city, f"{year}-{i % 12 + 1:02}-{i % 28 + 1:02}")
        ]
        lines.append(f"{i + 1},person {i},{','.join(shown)},{'' if i in (7, 11) else member}")
    path = tmp_path / "people.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def table(text):
    rows = list(csv.reader(io.StringIO(text)))
    return dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))


@pytest.fixture
def model(people, tmp_path):
    run("train", people, *BETTER, "--out", tmp_path / "m.npz")
    return tmp_path / "m.npz"


def test_a_table_with_missing_cells_dates_and_names_is_trained_on_at_once(people, tmp_path):
    result = run("train", people, *BETTER, "--out", tmp_path / "m.npz")
    block = result.stdout[: result.stdout.index("2 networks ")].replace(str(people), "people.csv").splitlines()
    patterns = [
        r"people.csv: 198 rows, 6 columns; delimited by commas, a header in line 1",
        r"  target 'member' \(the last column; --target names another\): 2 classes: 'no', 'yes'",
        r"  'id'      left out: it numbers the rows",
        r"  'name'    left out: its text differs in nearly every row",
        r"  'age'     numbers; \d+ missing: a flag, and the mean instead",
        r"  'city'    text of 3 values: 'Lima', 'Oslo', 'Rome'; \d+ missing: one more",
        r"  'joined'  date: year, month, day, weekday, days; \d+ missing: a flag, and the mean instead",
        r"people.csv: 2 rows without a target in column 'member' are left out: lines 9, 13",
        r"people.csv: 198 samples of 12 features, 2 classes; 158 to train, 40 held out to test",
    ]
    assert len(block) == len(patterns)
    for line, pattern in zip(block, patterns, strict=True):
        assert re.fullmatch(pattern, line), line
    assert not result.stderr
    accuracy = float(re.search(r"^test accuracy ([\d.]+)%", result.stdout, re.MULTILINE)[1])
    assert accuracy > 80 and len(TableModel.load(tmp_path / "m.npz").preprocessor.mean) == 12


def test_predict_keeps_columns_and_writes_every_probability(people, model):
    result = run("predict", model, people, "--keep", "id,name", "--keep", "member", "--proba")
    columns = table(result.stdout)
    assert list(columns) == ["id", "name", "member", "prediction", "probability no", "probability yes"]
    rows = [line.split(",") for line in people.read_text().splitlines()[1:]]
    for name, j in (("id", 0), ("name", 1), ("member", 5)):
        assert columns[name] == tuple(row[j] for row in rows)
    no, yes = (np.array(columns[f"probability {name}"], float) for name in ("no", "yes"))
    np.testing.assert_allclose(no + yes, 1, atol=1e-5)
    assert columns["prediction"] == tuple(np.where(yes > no, "yes", "no"))
    assert "2 of 200 rows left out of the score: 2 without a target" in result.stderr
    one = table(run("predict", model, people).stdout)
    np.testing.assert_allclose(np.array(one["probability"], float), np.maximum(no, yes), atol=1e-6)


def test_predict_writes_json_lines_and_npz(people, model, tmp_path):
    expected = table(run("predict", model, people, "--keep", "id", "--proba").stdout)
    for suffix in ("csv", "jsonl", "npz"):
        out = tmp_path / f"p.{suffix}"
        result = run("predict", model, people, "--keep", "id", "--proba", "--out", out)
        assert f"200 predictions written to {out}" in result.stderr and not result.stdout
    assert table((tmp_path / "p.csv").read_text()) == expected
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    arrays = dict(np.load(tmp_path / "p.npz"))
    assert list(lines[0]) == list(arrays) == list(expected)
    for name, column in expected.items():
        of_lines = [line[name] for line in lines]
        np.testing.assert_array_equal(arrays[name], of_lines)
        if name in ("id", "prediction"):
            assert tuple(of_lines) == column
        else:
            np.testing.assert_allclose(of_lines, np.array(column, float), rtol=1e-5)


def test_standard_input(people, model, tmp_path):
    text = people.read_text()
    result = run("predict", model, "-", "--keep", "id", stdin=text)
    assert result.stdout == run("predict", model, people, "--keep", "id").stdout
    result = run("train", "-", *QUICK, "--out", tmp_path / "n.npz", stdin=text)
    assert result.stdout.startswith("the standard input: 198 rows, 6 columns")
    assert "the standard input is empty" in run("predict", model, "-", stdin="", exit_code=2).stderr


def test_what_the_model_does_not_know_is_said_and_not_refused(model, tmp_path):
    new = tmp_path / "new.csv"
    new.write_text("age,joined,city\n50,2020-01-02,Paris\nold,2020-01-02,Rome\n30,soon,Oslo\n31,2020-01-02,Lima\n")
    result = run("predict", model, new)
    assert len(result.stdout.splitlines()) == 5
    assert sorted(line.replace(str(new), "new.csv") for line in result.stderr.splitlines()) == [
        "no score: new.csv has no targets in a column 'member'",
        "warning: new.csv, column 'age': text among numbers 'old' in line 3, taken as missing",
        "warning: new.csv, column 'city': 1 of texts unknown to the model, 'Paris', are taken as other ones",
        "warning: new.csv, column 'joined': no date in line 4, taken as missing",
    ]


def test_the_options_of_reading(people, tmp_path):
    def features(*options):
        run("train", people, "--simple", "--epochs", 1, "--out", tmp_path / "m.npz", *options)
        return fastbp.load(tmp_path / "m.npz").sizes[0]

    assert features("--ignore", "joined,city") == 2
    assert features("--ignore", "joined", "--ignore", "city") == 2
    assert features("--features", "city") == 4
    assert features("--missing", "drop") == 1 + 3 + 5
    text = people.read_text()
    people.write_bytes(text.replace("Oslo", "Tromsø").replace(",", "^").encode("latin-1"))
    assert features("--delimiter", "^", "--encoding", "latin-1", "--features", "city") == 4
    line = run("train", people, "--missing", "mean", exit_code=2).stderr
    assert line == "error: missing must be one of fill, drop, error, not 'mean'\n"


def test_an_integer_target_is_said_to_be_classes(tmp_path):
    (tmp_path / "wine.csv").write_text("x,quality\n" + "".join(f"{i}.5,{i % 7 + 3}\n" for i in range(70)))
    said = "7 classes: 3, 4, 5, 6, 7 and 2 more (few whole numbers; --task numbers predicts them as numbers)\n"
    assert said in run("train", tmp_path / "wine.csv", "--simple", "--epochs", 1).stdout
    as_asked = run("train", tmp_path / "wine.csv", "--simple", "--epochs", 1, "--task", "numbers").stdout
    assert "numbers from 3 to 9 (as asked)\n" in as_asked
    (tmp_path / "ages.csv").write_text("x,age\n" + "".join(f"{i}.5,{i % 35}\n" for i in range(70)))
    said = "numbers from 0 to 34 (many whole numbers; --task classes makes each a class)\n"
    assert said in run("train", tmp_path / "ages.csv", "--simple", "--epochs", 1).stdout
    (tmp_path / "sold.csv").write_text("x,sold\n" + "".join(f"{i}.5,{i}\n" for i in range(101)))
    assert "numbers from 0 to 100\n" in run("train", tmp_path / "sold.csv", "--simple", "--epochs", 1).stdout
    assert "35 classes: 0, 1, 2, 3, 4 and 30 more (as asked)\n" in (
        run("train", tmp_path / "ages.csv", "--simple", "--epochs", 1, "--task", "classes").stdout
    )


# ------------------------------------------------------------------ bad input


def test_all_problems_of_a_file_are_one_line_each_and_nothing_is_written(people, model, tmp_path):
    before = model.read_bytes()
    people.write_text("p;q;t\n1,200;$5;1\n950;€6;1,5\n7;5;x\n8;6;2\n")
    lines = run("train", people, "--out", model, exit_code=2).stderr.splitlines()
    assert len(lines) == 3 and all(line.startswith(f"error: {people}, ") for line in lines)
    assert model.read_bytes() == before
    people.write_text("a,b\n1,2,3\n1,2\n1\n4,5\n6,7\n")
    out = tmp_path / "p.csv"
    lines = run("predict", model, people, "--out", out, exit_code=2).stderr.splitlines()
    assert len(lines) >= 1 and all(line.startswith("error: ") for line in lines) and not out.exists()
    lines = run("train", people, exit_code=2).stderr.splitlines()
    assert [line.split("people.csv, ")[1] for line in lines] == [
        "line 2: 3 fields; line 1 has 2",
        "line 4: 1 field; line 1 has 2",
    ]


def test_missing_values_may_be_refused(people):
    lines = run("train", people, "--missing", "error", exit_code=2).stderr.splitlines()
    assert [re.search(r"column '(\w+)': missing value in lines \d+, ", line)[1] for line in lines] == [
        "member",
        "age",
        "city",
        "joined",
    ]


def test_the_traceback_is_shown_if_asked_for(people):
    with pytest.raises(ValueError, match="no column 'nothing'"):
        run("--debug", "train", people, "--target", "nothing")
    error = run("train", people, "--target", "nothing", exit_code=2).stderr
    assert error.startswith("error: ") and "Traceback" not in error and error.count("\n") == 1


def test_probabilities_need_classes(people, tmp_path):
    run("train", people, "--target", "age", *QUICK, "--out", tmp_path / "m.npz")
    line = run("predict", tmp_path / "m.npz", people, "--proba", exit_code=2).stderr
    assert line == f"error: --proba is for models of classes, and {tmp_path}/m.npz predicts numbers\n"
    assert "no column 'key'" in run("predict", tmp_path / "m.npz", people, "--keep", "key", exit_code=2).stderr


def test_options_of_text_files_are_refused_for_others(tmp_path):
    np.savez(tmp_path / "d.npz", X=np.eye(3), y=[0, 1, 1])
    for option, value in (("--encoding", "utf-8"), ("--delimiter", ","), ("--ignore", "a"), ("--missing", "drop")):
        line = run("train", tmp_path / "d.npz", option, value, exit_code=2).stderr
        assert f"error: the option {option[2:]} (" in line and "does not apply to the npz file" in line
