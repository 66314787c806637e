#!/usr/bin/env python3
"""How well the same network, trained by the same rule, does in fastbp, scikit-learn and PyTorch.

    pip install scikit-learn torch
    python peers.py                       # ten seeds
    python peers.py --seeds 2 --activation tanh

Every library gets the same split, the same standardized float32 numbers, one hidden layer, no penalty, the same batch
size, number of epochs and settings of the optimizer, and starts from Glorot-uniform weights (scikit-learn draws its
biases too, the others start them at 0).  Only the random numbers differ: the table shows mean and standard deviation
over the seeds, each of which is another split, another start and another order of the samples.
"""

import argparse
import warnings
from typing import NamedTuple

import numpy as np
import torch
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler

import fastbp

MOMENTUM = 0.9


class Task(NamedTuple):
    """A table and how to train on it; n_classes is 0 for regression."""

    load: object  # () -> X, y
    n_classes: int
    hidden: int
    batch_size: int
    epochs: int
    lr: dict  # by name of the optimizer


TASKS = {
    "digits": Task(lambda: datasets.load_digits(return_X_y=True), 10, 50, 32, 50, {"adam": 1e-3, "sgd": 0.02}),
    "diabetes": Task(lambda: datasets.load_diabetes(return_X_y=True), 0, 20, 32, 50, {"adam": 1e-3, "sgd": 2e-3}),
    "friedman1": Task(
        lambda: datasets.make_friedman1(1000, noise=1.0, random_state=0), 0, 50, 32, 100, {"adam": 1e-3, "sgd": 0.01}
    ),
}

# Each trains on X, y and returns a function that predicts: class labels, or (n_samples,) numbers.


def with_fastbp(task, optimizer, activation, X, y, seed):
    output, loss = ("softmax", "cross_entropy") if task.n_classes else ("identity", "squared_error")
    sizes = [X.shape[1], task.hidden, task.n_classes or 1]
    net = fastbp.Network(sizes, [activation, output], loss=loss, init="glorot_uniform", seed=seed)
    lr = task.lr[optimizer]
    rule = fastbp.Adam(lr=lr) if optimizer == "adam" else fastbp.SGD(lr=lr, momentum=MOMENTUM)
    trainer = fastbp.Trainer(net, rule, batch_size=task.batch_size, seed=seed)
    trainer.fit(X, y, epochs=task.epochs, progress=False)
    return lambda X: net.predict(X).argmax(axis=1) if task.n_classes else net.predict(X)[:, 0]


def with_sklearn(task, optimizer, activation, X, y, seed):
    model = (MLPClassifier if task.n_classes else MLPRegressor)(
        hidden_layer_sizes=(task.hidden,),
        activation=activation,
        solver=optimizer,
        alpha=0.0,
        batch_size=task.batch_size,
        learning_rate_init=task.lr[optimizer],
        momentum=MOMENTUM,
        nesterovs_momentum=False,
        max_iter=task.epochs,
        n_iter_no_change=task.epochs + 1,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the epochs are given
        return model.fit(X, y).predict


def with_torch(task, optimizer, activation, X, y, seed):
    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Linear(X.shape[1], task.hidden),
        torch.nn.ReLU() if activation == "relu" else torch.nn.Tanh(),
        torch.nn.Linear(task.hidden, task.n_classes or 1),
    )
    for layer in (net[0], net[2]):
        torch.nn.init.xavier_uniform_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    lr = task.lr[optimizer]
    rule = (
        torch.optim.Adam(net.parameters(), lr=lr)
        if optimizer == "adam"
        else torch.optim.SGD(net.parameters(), lr=lr, momentum=MOMENTUM)
    )
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    for _ in range(task.epochs):
        for rows in torch.randperm(len(X)).split(task.batch_size):
            A = net(X[rows])
            loss = (
                torch.nn.functional.cross_entropy(A, y[rows])
                if task.n_classes
                else 0.5 * torch.nn.functional.mse_loss(A[:, 0], y[rows])
            )
            rule.zero_grad()
            loss.backward()
            rule.step()

    def predict(X):
        with torch.no_grad():
            A = net(torch.from_numpy(X)).numpy()
        return A.argmax(axis=1) if task.n_classes else A[:, 0]

    return predict


PEERS = {"fastbp": with_fastbp, "scikit-learn": with_sklearn, "PyTorch": with_torch}


def scores(task, optimizer, activation, seed):
    """Test accuracy or R2 of each peer, on a quarter of the table."""
    X, y = task.load()
    X, X_test, y, y_test = train_test_split(
        X, y, test_size=0.25, random_state=seed, stratify=y if task.n_classes else None
    )
    scaler = StandardScaler().fit(X)
    X, X_test = (scaler.transform(part).astype(np.float32) for part in (X, X_test))
    if not task.n_classes:
        mean, std = y.mean(), y.std()
        y, y_test = (((part - mean) / std).astype(np.float32) for part in (y, y_test))
    score = accuracy_score if task.n_classes else r2_score
    return [score(y_test, train(task, optimizer, activation, X, y, seed)(X_test)) for train in PEERS.values()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--activation", choices=["relu", "tanh"], default="relu")
    parser.add_argument("--optimizer", choices=["adam", "sgd"], default="adam" if hasattr(fastbp, "Adam") else "sgd")
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma-separated")
    chosen = parser.parse_args()
    rule = "Adam" if chosen.optimizer == "adam" else f"SGD, momentum {MOMENTUM}"
    print(
        f"one hidden layer of {chosen.activation}, {rule}; test score, mean ± standard deviation over "
        f"{chosen.seeds} seeds\n"
    )
    print("| data | network | batch | epochs | lr | score |", *(f" {name} |" for name in PEERS), sep="")
    print("|---|---|---:|---:|---:|---|", *("---:|" for _ in PEERS), sep="")
    for name in chosen.tasks.split(","):
        task = TASKS[name]
        results = np.array([scores(task, chosen.optimizer, chosen.activation, seed) for seed in range(chosen.seeds)])
        n_in = task.load()[0].shape[1]
        cells = [f" {column.mean():.4f} ± {column.std(ddof=min(1, chosen.seeds - 1)):.4f} |" for column in results.T]
        print(
            f"| {name} | {n_in}-{task.hidden}-{task.n_classes or 1} | {task.batch_size} | {task.epochs} | "
            f"{task.lr[chosen.optimizer]:g} | {'accuracy' if task.n_classes else 'R2'} |",
            *cells,
            sep="",
            flush=True,
        )


if __name__ == "__main__":
    main()
