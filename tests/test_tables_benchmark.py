"""The benchmark of models of tables, on tiny ones."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")
from threadpoolctl import threadpool_limits

BENCHMARK = Path(__file__).parent.parent / "asv_bench" / "tables.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("tables_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with threadpool_limits(1):  # two tests at once: idle threads of scikit-learn's spin for seconds
        yield module


def test_results_are_finite_and_resumed(benchmark, tmp_path, capsys):
    path, names = tmp_path / "results.jsonl", ["textbook network", "HistGradientBoosting"]
    arguments = ["--tables", "iris", "--contestants", ",".join(names), "--json", str(path)]
    benchmark.main([*arguments, "--splits", "1"])
    results = [json.loads(line) for line in path.read_text().splitlines()]
    assert [of_one["contestant"] for of_one in results] == names
    for of_one in results:
        scores = {key: of_one[key] for key in ("error", "log_loss", "calibration_error", "wall", "cpu")}
        assert all(math.isfinite(score) and score >= 0 for score in scores.values())
        assert of_one["error"] < 0.2 and of_one["log_loss"] < 0.7
    capsys.readouterr()

    results[0]["error"] = 0.75  # a result that is there is not measured again, but shown
    path.write_text("".join(json.dumps(of_one) + "\n" for of_one in results))
    benchmark.main([*arguments, "--splits", "1"])
    assert len(path.read_text().splitlines()) == 2
    assert "| iris | 150 x 4 | 3 classes | 0.750 |" in capsys.readouterr().out
    benchmark.main([*arguments, "--splits", "2"])
    assert [json.loads(line)["split"] for line in path.read_text().splitlines()] == [0, 0, 1, 1]


def test_a_recipe_is_trained_on_a_csv_file(benchmark, tmp_path, capsys):
    rng = np.random.default_rng(0)
    x, city = rng.uniform(-1, 1, 60), rng.choice(["Lima", "Oslo", ""], 60)
    y = x + (city == "Oslo")
    lines = [f"{'' if i % 9 == 0 else x[i]},{city[i]},{y[i]}" for i in range(60)]
    path = tmp_path / "cities.csv"
    path.write_text("\n".join(["x,city,y", *lines]))
    recipe = "small,n_networks=1,hidden=(8,),epochs=60"
    benchmark.main([f"{path}:y", "--tables", "", "--contestants", benchmark.TREES, "--recipe", recipe, "--splits", "1"])
    _, table = capsys.readouterr().out.split("Error (1 - accuracy")
    row = next(line for line in table.splitlines() if line.startswith("| cities.csv | 60 x 5 | numbers |"))
    assert all(0 < float(cell) < 0.9 for cell in row.split("|")[4:6])
    assert benchmark.half_of("a/cities.csv") == benchmark.half_of("cities.csv") in benchmark.HALVES


def test_categories_are_one_column_and_missing_numbers_nan(benchmark, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(
        "size,city,y\n" + "".join(f"{'' if i == 3 else i * i},{'ABC'[i % 3]}x,{i % 2}\n" for i in range(30))
    )
    X, are_categories = benchmark.as_categories(benchmark.load_csv(str(path)))
    assert are_categories.tolist() == [False, True]
    assert np.flatnonzero(np.isnan(X[:, 0])).tolist() == [3] and X[5, 0] == 25
    np.testing.assert_array_equal(X[:, 1], np.arange(30) % 3)


def test_calibration_error(benchmark):
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.3, 0.7]] * 10)
    y = np.array([0] * 8 + [1] * 2 + [1] * 10)  # 0.8 of those of 0.9 are right, and all of 0.7
    assert benchmark.calibration_error(probabilities, y) == pytest.approx((0.1 + 0.3) / 2)


def test_ratios_are_over_splits_that_both_have(benchmark):
    errors = {("a", 0, "x"): 0.09, ("a", 0, "y"): 0.19, ("a", 1, "y"): 0.49, ("b", 0, "x"): 0.1}
    results = [
        {"table": table, "split": split, "contestant": name, "error": error}
        for (table, split, name), error in errors.items()
    ]
    mean, error = benchmark.log_ratio(results, "x", "y", "error")
    assert mean == pytest.approx(np.log(0.10 / 0.20)) and np.isnan(error)
    results.append({"table": "a", "split": 1, "contestant": "x", "error": 0.49})
    mean, error = benchmark.log_ratio(results, "x", "y", "error")
    assert mean == pytest.approx(np.log(0.10 / 0.20) / 2)
    assert error == pytest.approx(np.log(2) / 2)  # half the difference of the two splits
