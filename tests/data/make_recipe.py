"""Write a model as `fastbp.recipes` made it when one temperature was kept for all networks: run it with commit aab939b.

Later versions read it: one network, its numbers in bins, and a temperature.
"""

from pathlib import Path

import numpy as np

from fastbp.datasets import Column, Dataset
from fastbp.recipes import Recipe, TableModel, train

FOLDER = Path(__file__).parent
X = np.round(np.sin(np.arange(900.0) ** 1.5).reshape(300, 3) * [1, 50, 0.001], 6)
y = (X[:, 0] + np.sin(np.arange(300.0) ** 1.7) > 0).astype(np.int64)

if __name__ == "__main__":
    recipe = Recipe(hidden=(8,), n_networks=1, epochs=30, lr=0.1, n_bins=4)
    data = Dataset(X, y, ("no", "yes"), tuple(Column(name) for name in "abc"), "t", has_names=True)
    model = train(recipe, data, seed=2, backend="numpy")
    assert model.preprocessor.temperature is not None
    model.save(FOLDER / "earlier_recipe.npz")
    np.save(FOLDER / "earlier_recipe_outputs.npy", TableModel.load(FOLDER / "earlier_recipe.npz").outputs(X[:10]))
    print(model.preprocessor.temperature)
