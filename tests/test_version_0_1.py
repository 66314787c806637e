"""Files and pickles that version 0.1 wrote are read, and training goes on from them to the same end."""

import csv
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastbp

DATA = Path(__file__).parent / "data"


@pytest.fixture
def kept():
    """What version 0.1 pickled: tests/data/make_pickles.py."""
    return pickle.loads((DATA / "version_0_1.pickle").read_bytes())


@pytest.fixture(scope="module")
def problem():
    """Samples and targets of tests/data/make_pickles.py."""
    X = np.sin(np.arange(360.0) ** 1.5).reshape(60, 6)
    return X, X[:, :2] * X[:, 2:4] + 0.3 * X[:, 4:]


@pytest.mark.parametrize("name", ["momentum", "nadam", "rprop", "one cycle", "lbfgs", "levenberg"])
def test_a_pickled_trainer_goes_on(kept, problem, name):
    trainer, end = kept["trainers"][name], np.load(DATA / "version_0_1_pickle_end.npz")
    assert trainer.epochs == 4
    trainer.fit(*problem, 5)
    # another NumPy or BLAS may round the sums in another way
    np.testing.assert_allclose(trainer.net.parameters, end[name], rtol=1e-9, atol=1e-12)
    assert len(trainer.history["loss"]) == 9


def test_pickled_settings_have_their_new_names(kept):
    optimizers = {name: trainer.optimizer for name, trainer in kept["trainers"].items()}
    assert repr(eval(repr(optimizers["rprop"]), vars(fastbp))) == repr(optimizers["rprop"])
    assert (optimizers["rprop"].min_step, optimizers["rprop"].max_step) == (1e-5, 2.0)
    assert optimizers["nadam"].lr.min_lr == 1e-4 and optimizers["one cycle"].lr.pct_start == 0.25
    for optimizer in optimizers.values():
        assert pickle.loads(pickle.dumps(optimizer)) == optimizer


def test_other_pickled_objects(kept):
    assert len(kept["history"].loss) == 3 and kept["history"].first_epoch == 5
    assert kept["net"].predict(np.zeros((2, 3))).shape == (2, 2)
    assert kept["callbacks"][0].patience == 3 and kept["callbacks"][1].factor == 0.3


def test_a_model_of_a_table_predicts(tmp_path):
    out = tmp_path / "predictions.csv"
    table = DATA / "version_0_1_table"
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import fastbp.cli; fastbp.cli.main()",
            "predict",
            f"{table}.npz",
            f"{table}.csv",
            "--backend",
            "numpy",
            "--out",
            str(out),
        ],
        check=True,
        capture_output=True,
    )
    found, expected = (
        list(csv.reader(path.read_text().splitlines())) for path in (out, DATA / "version_0_1_table_predictions.csv")
    )
    assert found[0] == expected[0] and [row[0] for row in found] == [row[0] for row in expected]
    np.testing.assert_allclose(
        [list(map(float, row[1:])) for row in found[1:]], [list(map(float, row[1:])) for row in expected[1:]], rtol=1e-5
    )
