"""Many networks at once: each member is the network that it would be alone; what is chosen, changed and saved."""

import copy
import json
import os
import pickle
import sys
from inspect import signature

import numpy as np
import pytest
from shared import each_dtype

import fastbp
from fastbp import files, metrics, population

SEVERAL = [[3, 5, 2], [3, 4, 4, 2]]
SUFFIXES = [".npz", ".safetensors"]
HUBER = fastbp.losses.Huber(1.0)  # which is its default


@pytest.fixture
def pop(backend):
    """Two networks of one architecture and three of another, with nothing else at its default."""
    return fastbp.Population(
        SEVERAL,
        [2, 3],
        [["relu", "softmax"], ["tanh", "silu", "softmax"]],
        "cross_entropy",
        init="uniform",
        reduction="sum",
        dtype="float64",
        seed=0,
        backend=backend,
        input_scale=0.25,
    )


@pytest.fixture
def data():
    """Samples, rows of targets within 0 and 1, and labels."""
    rng = np.random.default_rng(1)
    P = rng.random((7, 2))
    return rng.normal(size=(7, 3)), P / P.sum(axis=1, keepdims=True), rng.integers(0, 2, 7)


def bits(pop):
    """Everything that a failing call must leave as it was."""
    kept = pop._kept_validation
    arrays = [*(group.parameters for group in pop.groups), pop.losses, *(() if kept is None else kept)]
    return [array.tobytes() for array in arrays], pop.metadata, pop.history, repr(pop.weights), repr(pop)


def is_same(pop, other):
    return bits(pop) == bits(other) and all(
        ours.config == theirs.config and (ours.members == theirs.members).all()
        for ours, theirs in zip(pop.groups, other.groups, strict=True)
    )


# ------------------------------------------------------------------ how the members start


@each_dtype
def test_members_start_as_networks_do(backend, dtype):
    settings = {"activations": ["tanh", "sigmoid"], "init": "uniform", "dtype": dtype, "backend": backend}
    pop = fastbp.Population([3, 5, 2], 4, seed=7, **settings)
    for seeds in (np.random.SeedSequence(7).spawn(4), [3, None, np.random.SeedSequence(5), 3]):
        pop = fastbp.Population([3, 5, 2], 4, seed=7 if seeds[1] is not None else seeds, **settings)
        assert len(pop) == pop.n_networks == 4 and pop.parameters.dtype == dtype
        for i, seed in enumerate(seeds):
            if seed is not None:
                net = fastbp.Network([3, 5, 2], seed=seed, **settings)
                assert pop[i].parameters.tobytes() == pop.parameters[i].tobytes() == net.parameters.tobytes()
                assert repr(pop[i]) == repr(net)
    assert (pop.parameters[1] != pop.parameters[0]).any() and (pop.parameters[3] == pop.parameters[0]).all()
    assert (fastbp.Population([3, 5, 2], 4, **settings).parameters != pop.parameters).any()


def test_a_seed_sequence_is_not_used_up(backend):
    seed = np.random.SeedSequence(5)
    seed.spawn(2)
    first, second = (fastbp.Population([3, 2], 3, seed=seed, backend=backend) for _ in range(2))
    assert first.parameters.tobytes() == second.parameters.tobytes()
    for i, child in enumerate(seed.spawn(3)):
        net = fastbp.Network([3, 2], seed=child, backend=backend)
        assert first.parameters[i].tobytes() == net.parameters.tobytes()


def test_generators_as_seeds_draw_on(backend):
    pop = fastbp.Population([3, 2], 2, seed=[np.random.default_rng(1)] * 2, backend=backend)
    rng = np.random.default_rng(1)
    for i in range(2):
        net = fastbp.Network([3, 2], seed=rng, backend=backend)
        assert pop.parameters[i].tobytes() == net.parameters.tobytes()


def test_several_architectures(pop, backend):
    assert len(pop) == 5 and [group.members.tolist() for group in pop.groups] == [[0, 1], [2, 3, 4]]
    assert pop.sizes == [(3, 5, 2)] * 2 + [(3, 4, 4, 2)] * 3
    assert pop.activations == [("relu", "softmax")] * 2 + [("tanh", "silu", "softmax")] * 3
    assert [array.shape for array in pop.parameters] == [(2, 32), (3, 46)]
    for i, seed in enumerate(np.random.SeedSequence(0).spawn(5)):
        net = fastbp.Network(
            pop.sizes[i],
            pop.activations[i],
            "cross_entropy",
            init="uniform",
            reduction="sum",
            dtype="float64",
            seed=seed,
            backend=backend,
            input_scale=0.25,
        )
        assert repr(pop[i]) == repr(net) and pop[i].parameters.tobytes() == net.parameters.tobytes()
    assert (pop.loss_name, pop.loss_settings, pop.reduction) == ("cross_entropy", {}, "sum")
    assert (pop.dtype, pop.input_scale, pop.backend) == (np.float64, 0.25, backend)


def test_numbers_and_activations_of_architectures(backend):
    for n_networks, n in [(1, 2), (3, 6), ([3, 3], 6), ((1, 2), 3), (np.array([2, 1]), 3)]:
        pop = fastbp.Population(SEVERAL, n_networks, "tanh", backend=backend)
        assert len(pop) == n and pop.activations == [("tanh",) * (len(sizes) - 1) for sizes in pop.sizes]
    pop = fastbp.Population(SEVERAL, activations=["relu", ["tanh", "silu", "relu"]], backend=backend)
    assert pop.activations == [("relu", "relu"), ("tanh", "silu", "relu")]
    pop = fastbp.Population([[2, 3, 1], [2, 4, 1]], activations=["relu", "tanh"], backend=backend)  # of each layer
    assert pop.activations == [("relu", "tanh")] * 2
    pop = fastbp.Population([[2, 3, 1], [2, 4, 1], [2, 3, 1]], backend=backend)  # two are one architecture
    assert [group.members.tolist() for group in pop.groups] == [[0, 2], [1]] and len(pop.parameters) == 2
    one = fastbp.Population([[2, 3, 1]], 2, backend=backend)
    assert one.sizes == (2, 3, 1) and one.parameters.shape == (2, 13)
    assert fastbp.Population([2, 1], backend=backend).n_networks == 1


@each_dtype
def test_rows_start_on_cache_lines(backend, dtype):
    for sizes in ([1, 1], [3, 5, 2], [7, 1, 1, 9]):
        pop = fastbp.Population(sizes, 3, dtype=dtype, backend=backend, seed=0)
        assert all(row.ctypes.data % 64 == 0 and row.flags.c_contiguous for row in pop.parameters)
        assert pop.parameters.strides[0] % (16 * pop.dtype.itemsize) == 0
        assert all(row.ctypes.data % 64 == 0 for row in pop.subset([2, 0]).parameters)
        assert pop.nbytes == 3 * pop.parameters.strides[0]


@each_dtype
def test_init_scale_is_a_factor_of_the_weights_alone(backend, dtype):
    settings = {"init": "uniform", "seed": 3, "backend": backend}
    plain = fastbp.Population([3, 4, 2], 3, dtype="float64", **settings)
    for scale in (0.3, [1.0, 0.0, 2.5], np.array([3, 4, 5])):
        scaled = fastbp.Population([3, 4, 2], 3, init_scale=scale, dtype=dtype, **settings)
        for i, factor in enumerate(np.broadcast_to(scale, 3)):
            for l in range(2):
                np.testing.assert_array_equal(scaled[i].weights[l], (factor * plain[i].weights[l]).astype(dtype))
                np.testing.assert_array_equal(scaled[i].biases[l], plain[i].biases[l].astype(dtype))
                assert scaled[i].biases[l].all()
    several = fastbp.Population(SEVERAL, 2, init_scale=[1, 2, 3, 4], dtype="float64", **settings)
    for i, net in enumerate(fastbp.Population(SEVERAL, 2, dtype="float64", **settings)):
        np.testing.assert_array_equal(several[i].weights[-1], (i + 1) * net.weights[-1])


# ------------------------------------------------------------------ members


def test_parameters_are_written_in_place(backend):
    pop = fastbp.Population([2, 3, 1], 4, seed=0, backend=backend)
    array = pop.parameters
    pop.parameters[:] = np.arange(52).reshape(4, 13)
    pop.parameters *= 2
    pop.parameters[1:3, -1] = 7
    assert pop.parameters is array and pop[1].biases[1] == 7
    np.testing.assert_array_equal(pop[3].parameters, 2 * np.arange(39, 52))
    np.testing.assert_allclose(pop.predict([1, 2])[2], pop[2].predict([1, 2]), rtol=1e-6)
    with pytest.raises(AttributeError, match=r"pop\.parameters\[:\]"):
        pop.parameters = array.copy()
    with pytest.raises(AttributeError, match="new Population"):
        pop.groups = ()
    with pytest.raises(AttributeError, match=r"group\.parameters\[:\]"):
        pop.groups[0].parameters = array.copy()


def test_a_member_is_a_copy(pop):
    pop.metadata["classes"] = "yes,no"
    before = bits(pop)
    assert [net.sizes for net in pop] == pop.sizes and pop.network(-1).sizes == (3, 4, 4, 2)
    for i in range(-5, 5):
        net = pop[i]
        assert net.parameters.tobytes() == pop.network(i % 5).parameters.tobytes() and net.backend == pop.backend
        assert net.metadata == {"classes": "yes,no"}
        net.parameters[:] = 0
        net.metadata.clear()
    assert bits(pop) == before
    assert len({net.parameters.tobytes() for net in pop}) == 5


def test_subsets(pop, data):
    X, Y, _ = data
    pop.losses[:] = range(5)
    pop.metadata["a"] = "b"
    pop.history, pop.weights = "history", [1, 2, 3, 4, 5]
    pop._kept_validation = pop.predict(X), Y
    mask = [True, False, False, True, True]
    for indices, expected in [([4, 0, 0, -2], [4, 0, 0, 3]), (np.array(mask), [0, 3, 4]), ((1,), [1])]:
        subset = pop.subset(indices)
        assert subset.sizes == [pop.sizes[i] for i in expected] or len(subset.groups) == 1
        assert subset.losses.tolist() == expected and subset.backend == pop.backend
        assert subset.metadata == {"a": "b"} and subset.history is None and subset.weights is None
        for net, i in zip(subset, expected, strict=True):
            assert net.parameters.tobytes() == pop[i].parameters.tobytes() and repr(net) == repr(pop[i])
        np.testing.assert_array_equal(subset._kept_validation[0], pop.predict(X)[expected])
        np.testing.assert_array_equal(subset.predict(X), pop.predict(X)[expected])
        for array in (subset.groups[0].parameters, subset.losses, subset._kept_validation[0]):
            array[:] = -1
        subset.metadata.clear()
        assert pop.losses.tolist() == [*range(5)] and pop.metadata and (pop._kept_validation[0] > 0).all()
        assert not any((net.parameters == -1).any() for net in pop)


@pytest.mark.parametrize(
    "copied",
    [
        lambda pop: pop.copy(),
        lambda pop: pop.with_backend(pop.backend),
        copy.copy,
        copy.deepcopy,
        lambda pop: pickle.loads(pickle.dumps(pop)),
        lambda pop: pickle.loads(pickle.dumps(pop, protocol=2)),
    ],
)
def test_copies_are_independent(pop, data, copied):
    X, Y, _ = data
    pop = pop.subset([4, 0, 3, 1])
    pop.metadata["a"] = "b"
    pop.history, pop.weights = {"loss": [1.0]}, [1, 2, 3, 4]
    pop.losses[:] = range(4)
    pop._kept_validation = pop.predict(X), Y
    same, before = copied(pop), bits(pop)
    assert is_same(same, pop) and type(same) is fastbp.Population
    assert all(row.ctypes.data % 64 == 0 for group in same.groups for row in group.parameters)
    same.mutate(1.0)
    same.losses[:] = -1
    same.weights *= 2
    same.metadata["a"] = "c"
    assert bits(pop) == before
    np.testing.assert_array_equal(pop.predict(X), pop._kept_validation[0])


def test_another_backend(pop, data):
    for name in ("numpy", "numba"):
        other = pop.with_backend(name)
        assert other.backend == name and other[0].backend == name
        assert all((a == b).all() for a, b in zip(other.parameters, pop.parameters, strict=True))
        np.testing.assert_allclose(other.predict(data[0]), pop.predict(data[0]), rtol=1e-12)


def test_of_networks(backend, data):
    nets = [
        fastbp.Network(sizes, activations, seed=i, backend=backend)
        for i, (sizes, activations) in enumerate(
            [([3, 5, 2], "tanh"), ([3, 2], "tanh"), ([3, 5, 2], "relu"), ([3, 5, 2], ["tanh", "tanh"])]
        )
    ]
    pop = fastbp.Population.of(nets)
    assert [group.members.tolist() for group in pop.groups] == [[0, 3], [1], [2]] and pop.backend == backend
    for i, net in enumerate(nets):
        assert repr(pop[i]) == repr(net) and pop[i].parameters.tobytes() == net.parameters.tobytes()
    before = bits(pop)
    nets[0].parameters[:] = 0
    assert bits(pop) == before
    assert is_same(fastbp.Population.of(list(pop)), pop)


def test_a_loss_by_name_is_that_with_its_default(backend, tmp_path):
    nets = [fastbp.Network([3, 2], loss=loss, seed=i, backend=backend) for i, loss in enumerate(["huber", HUBER])]
    pop = fastbp.Population.of(nets)
    assert len(pop.groups) == 1
    pop.replace(0, pop[1])
    assert pop[0].parameters.tobytes() == nets[1].parameters.tobytes()
    nets.append(fastbp.Network([3, 2], loss=fastbp.losses.Huber(1.5), seed=0, backend=backend))
    with pytest.raises(ValueError, match=r"networks\[2\] has loss huber\(threshold=1.5\), but networks\[0\] has huber"):
        fastbp.Population.of(nets)
    with pytest.raises(ValueError, match=r"network must have the architecture of network 1"):
        pop.replace(1, nets[2])


def test_replace(pop, data):
    X, Y, _ = data
    pop.losses[:] = range(5)
    losses = pop.losses
    pop._kept_validation = kept = pop.predict(X), Y
    others = [net.parameters.copy() for net in pop]
    new = pop[2]
    new.parameters[:] = np.arange(46)
    pop.replace(-1, new)
    pop.replace(0, [0.5] * 32)
    assert (pop[4].parameters == np.arange(46)).all() and (pop[0].parameters == 0.5).all()
    for i in (1, 2, 3):
        assert pop[i].parameters.tobytes() == others[i].tobytes()
    np.testing.assert_array_equal(pop.losses, [np.nan, 1, 2, 3, np.nan])
    assert losses.tolist() == [0, 1, 2, 3, 4] and np.isfinite(kept[0]).all()  # which a history may have
    assert np.isnan(pop._kept_validation[0][[0, 4]]).all() and np.isfinite(pop._kept_validation[0][1:4]).all()
    for i in (1, 2, 3):
        pop.replace(i, pop[i])
    assert pop._kept_validation is None and np.isnan(pop.losses).all()


def test_custom_functions(backend, data):
    from numba import njit

    bent = fastbp.Activation(njit(lambda z: 2 * z), njit(lambda z, a: 2.0), name="double")
    cube = fastbp.Loss(njit(lambda a, y: abs(a - y) ** 3), njit(lambda a, y: 3 * (a - y) * abs(a - y)), name="cube")
    pop = fastbp.Population([3, 4, 2], 3, ["tanh", bent], cube, dtype="float64", seed=0, backend=backend)
    X, Y, _ = data
    np.testing.assert_allclose(pop.loss(X, Y), [net.loss(X, Y) for net in pop], rtol=1e-12)
    np.testing.assert_allclose(pop.loss(X, Y), (np.abs(pop.predict(X) - Y) ** 3).sum(axis=2).mean(axis=1), rtol=1e-12)
    pop._kept_validation = pop.predict(X), Y
    chosen = pop.select(1)
    best = int(pop.loss(X, Y).argmin())
    assert chosen.parameters.tobytes() == pop[best].parameters.tobytes()
    with pytest.raises(ValueError, match=r"Activation\('double'\) is custom.*pickle the population"):
        pop.save("nowhere.npz")
    assert not os.path.exists("nowhere.npz")
    text = fastbp.Activation(njit(lambda z: "a"), njit(lambda z, a: 2.0), name="text")
    with pytest.raises(TypeError, match="of activation 'text' must return one real number"):
        fastbp.Population([3, 2], 3, text, backend=backend)


# ------------------------------------------------------------------ outputs and losses


@each_dtype
def test_outputs_are_those_of_each_network(backend, dtype, data):
    X = data[0]
    for sizes in ([3, 5, 2], SEVERAL):
        pop = fastbp.Population(sizes, 3, "tanh", seed=0, dtype=dtype, backend=backend, input_scale=0.5)
        n = len(pop)
        for given in (X, X.astype("float32"), np.arange(21, dtype=np.uint8).reshape(7, 3), X.tolist(), X[::-1], X[:1]):
            A = pop.predict(given)
            assert A.shape == (n, len(given), 2) and A.dtype == dtype
            for i, net in enumerate(pop):
                assert A[i].tobytes() == net.predict(given).tobytes()
        A = pop.predict(X)
        assert pop.predict(X[3]).shape == (n, 2)
        assert pop.predict(X[3]).tobytes() == np.stack([net.predict(X[3]) for net in pop]).tobytes()
        for members in ([2, 0], [-1], np.arange(n) % 2 == 0, range(n)[::-1]):
            np.testing.assert_array_equal(pop.predict(X, members), A[np.asarray(members)])
            np.testing.assert_array_equal(pop.predict(X[1], members), pop.predict(X[1])[np.asarray(members)])


@each_dtype
def test_samples_of_each_network(backend, dtype):
    rng = np.random.default_rng(0)
    for sizes in ([3, 5, 2], SEVERAL):
        pop = fastbp.Population(sizes, 3, "tanh", seed=0, dtype=dtype, backend=backend)
        n = len(pop)
        X, Y = rng.normal(size=(n, 4, 3)), rng.random((n, 4, 2))
        for given in (X, X.astype(dtype), X.tolist(), (9 * X).astype(int), np.asfortranarray(X)):
            A = pop.predict(given)
            for i, net in enumerate(pop):
                assert A[i].tobytes() == net.predict(given[i]).tobytes()
        members = [n - 1, 1]
        np.testing.assert_array_equal(pop.predict(X[members], members), pop.predict(X)[members])
        losses = pop.loss(X, Y)
        np.testing.assert_allclose(losses, [net.loss(X[i], Y[i]) for i, net in enumerate(pop)], rtol=1e-6)
        np.testing.assert_array_equal(pop.loss(X[members], Y[members], members), losses[members])
        np.testing.assert_allclose(pop.mean(X), pop.predict(X).mean(axis=0), rtol=1e-6)


def test_losses_are_those_of_each_network(pop, data):
    X, P, labels = data
    for Y in (P, labels):
        losses = pop.loss(X, Y)
        assert losses.shape == (5,) and losses.dtype == np.float64
        np.testing.assert_allclose(losses, [net.loss(X, Y) for net in pop], rtol=1e-12)
        np.testing.assert_array_equal(pop.loss(X, Y, [3, 1]), losses[[3, 1]])
        np.testing.assert_allclose(pop.loss(X[2], Y[2]), [net.loss(X[2], Y[2]) for net in pop], rtol=1e-12)
    own = np.stack([X + i for i in range(5)]), np.stack([np.roll(labels, i) for i in range(5)])
    np.testing.assert_allclose(pop.loss(*own), [net.loss(*xy) for net, *xy in zip(pop, *own, strict=True)], rtol=1e-12)
    means = fastbp.Population(SEVERAL, 2, "tanh", fastbp.losses.Huber(0.1), seed=0, backend=pop.backend)
    np.testing.assert_allclose(means.loss(X, P), [net.loss(X, P) for net in means], rtol=1e-6)
    one = fastbp.Population([3, 1], 2, dtype="float64", seed=0, backend=pop.backend)
    np.testing.assert_allclose(one.loss(X, P[:, 0]), [net.loss(X, P[:, :1]) for net in one], rtol=1e-12)


@each_dtype
def test_mean_and_spread(backend, dtype, data, monkeypatch):
    X = data[0]
    for sizes in ([3, 5, 2], SEVERAL):
        pop = fastbp.Population(sizes, 3, "tanh", seed=0, dtype=dtype, backend=backend)
        A = pop.predict(X).astype(np.float64)
        weights = np.arange(1.0, len(pop) + 1)
        for members in (None, [2, 0], np.arange(len(pop)) > 0):
            some = slice(None) if members is None else np.asarray(members)
            pop.weights = None
            np.testing.assert_allclose(pop.mean(X, members), A[some].mean(axis=0).astype(dtype), rtol=1e-6)
            np.testing.assert_allclose(pop.spread(X, members), A[some].std(axis=0).astype(dtype), rtol=1e-6)
            pop.weights = weights
            w = weights[some, None, None] / weights[some].sum()
            mean = (w * A[some]).sum(axis=0)
            np.testing.assert_allclose(pop.mean(X, members), mean, rtol=1e-6)
            np.testing.assert_allclose(pop.spread(X, members), np.sqrt((w * (A[some] - mean) ** 2).sum(0)), rtol=1e-5)
        mean, spread = pop.mean(X), pop.spread(X)
        assert mean.dtype == spread.dtype == dtype and mean.shape == spread.shape == (7, 2)
        with monkeypatch.context() as patch:
            patch.setattr(population, "PREDICTED_BYTES", 3 * len(pop) * 2 * pop.dtype.itemsize)  # 3 samples at a time
            for others in [(pop.mean(X), pop.spread(X)), (pop.mean(X[3]), pop.spread(X[3]))]:
                for ours, theirs in zip(others, (mean, spread), strict=True):
                    theirs = theirs[3] if ours.ndim == 1 else theirs
                    assert ours.shape == theirs.shape
                    np.testing.assert_allclose(ours, theirs, rtol=0 if backend == "numba" else 1e-5)  # BLAS differs


def test_mean_holds_few_outputs_at_a_time(backend, monkeypatch):
    pop = fastbp.Population([3, 2], 4, seed=0, backend=backend)
    asked, outputs = [], population.Population._outputs

    def watched(pop, X, indices):
        asked.append(len(X))
        return outputs(pop, X, indices)

    monkeypatch.setattr(population.Population, "_outputs", watched)
    monkeypatch.setattr(population, "PREDICTED_BYTES", 5 * 4 * 2 * 4)
    pop.mean(np.ones((12, 3)))
    assert asked == [5, 5, 2]


def test_a_spread_of_equal_networks_is_0(backend, data):
    net = fastbp.Network([3, 4, 2], seed=0, backend=backend)
    pop = fastbp.Population.of([net] * 3)
    pop.weights = [0.1, 0.2, 0.3]
    assert not pop.spread(data[0]).any() or pop.spread(data[0]).max() < 1e-8
    pop.weights = None
    assert not pop.spread(data[0]).any()
    assert pop.mean(data[0]).tobytes() == net.predict(data[0]).tobytes()


def test_networks_that_have_diverged_show_in_their_own_outputs_alone(pop, data):
    X, Y, _ = data
    before = pop.predict(X)
    pop.replace(1, pop[1])
    pop.parameters[0][1] = np.nan
    A, losses = pop.predict(X), pop.loss(X, Y)
    assert np.isnan(A[1]).all() and np.isnan(losses[1]) and np.isnan(pop.mean(X)).all()
    others = [0, 2, 3, 4]
    assert A[others].tobytes() == before[others].tobytes() and np.isfinite(losses[others]).all()
    assert np.isfinite(pop.spread(X, others)).all()


# ------------------------------------------------------------------ choosing


def test_best(pop):
    pop.losses[:] = [2.0, np.nan, 0.5, np.inf, 0.5]
    for k, expected in enumerate([[2], [2, 4], [2, 4, 0], [2, 4, 0, 3], [2, 4, 0, 3, 1]], start=1):
        best = pop.best(k)
        assert [net.parameters.tobytes() for net in best] == [pop[i].parameters.tobytes() for i in expected]
        np.testing.assert_array_equal(best.losses, pop.losses[expected])
    assert len(pop.best()) == 1
    with pytest.raises(ValueError, match="k must be at most 5, the number of networks, got 6"):
        pop.best(6)
    pop.losses[:] = np.nan
    with pytest.raises(ValueError, match="best needs the losses of a fit.*call fit first"):
        pop.best()


def greedy(A, k, score):
    """Counts of ensemble selection by trying everything; smaller scores are better, the first of equals wins."""
    bag = []
    for _ in range(k):
        trials = [
            (score(np.mean([A[j].astype(float) for j in [*bag, i]], axis=0)), i)
            for i in range(len(A))
            if np.isfinite(A[i]).all()
        ]
        bag.append(min(trials)[1])
    return np.bincount(bag, minlength=len(A))


def library(backend, n=12, labels=False, dtype="float64"):
    """Build a population of noisy experts, whose outputs are kept, and the targets."""
    rng = np.random.default_rng(3)
    loss = "cross_entropy" if labels else "squared_error"
    pop = fastbp.Population([2, 3], n, "softmax", loss, dtype=dtype, seed=0, backend=backend)
    Y = rng.integers(0, 3, 40)
    P = np.eye(3)[Y] + rng.normal(0, 0.8, (n, 40, 3)) ** 2
    P /= P.sum(axis=2, keepdims=True)
    pop._kept_validation = P.astype(dtype), (Y if labels else np.eye(3)[Y].astype(dtype))
    return pop, *pop._kept_validation


def check_selection(pop, chosen, counts, k):
    assert [net.parameters.tobytes() for net in chosen] == [pop[i].parameters.tobytes() for i in np.flatnonzero(counts)]
    np.testing.assert_array_equal(chosen.weights, counts[counts > 0] / k)


@each_dtype
@pytest.mark.parametrize("k", [1, 2, 7, 30])
def test_select_is_greedy_selection_with_replacement(backend, dtype, k):
    pop, A, Y = library(backend, dtype=dtype)
    pop.losses[:] = range(12)
    counts = greedy(A, k, lambda mean: ((mean - Y) ** 2).sum())
    before = bits(pop)
    chosen = pop.select(k)
    check_selection(pop, chosen, counts, k)
    assert chosen.losses.tolist() == np.flatnonzero(counts).tolist() and bits(pop) == before
    if k == 30:
        assert 1 < len(chosen) < 12 and counts.max() > 1  # with replacement
    X = np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_allclose(
        chosen.mean(X), np.average(pop.predict(X), axis=0, weights=counts), rtol=1e-5 if dtype == np.float32 else 1e-12
    )


def test_select_by_labels_and_metrics(backend):
    pop, A, Y = library(backend, labels=True)
    rows = np.arange(40)

    def accuracy(mean):
        return -(mean.argmax(axis=1) == Y).mean()

    def worst(A, Y):
        return float((1 - A[np.arange(len(A)), Y]).max())

    cases = [
        ({}, lambda mean: -np.log(mean[rows, Y]).sum()),
        ({"metric": "accuracy"}, accuracy),
        ({"metric": metrics.accuracy}, accuracy),
        ({"metric": fastbp.metrics.TopK(2)}, lambda mean: -(np.argsort(mean)[:, 1:] == Y[:, None]).any(axis=1).mean()),
        ({"metric": worst, "mode": "min"}, lambda mean: worst(mean, Y)),
        ({"metric": worst, "mode": "max"}, lambda mean: -worst(mean, Y)),
        ({"metric": "accuracy", "mode": "min"}, lambda mean: -accuracy(mean)),
    ]
    results = []
    for arguments, score in cases:
        counts = greedy(A, 6, score)
        check_selection(pop, pop.select(6, **arguments), counts, 6)
        results.append(counts.tolist())
    assert results[0] != results[1] == results[2] != results[6] and results[4] != results[5]  # the cases differ

    def error_of_mine(A, Y):
        return worst(A, Y)

    check_selection(pop, pop.select(6, error_of_mine), np.array(results[4]), 6)  # its name tells
    rows_of, A, Y = library(backend)
    counts = greedy(A, 5, lambda mean: np.abs(mean - Y).mean())
    check_selection(rows_of, rows_of.select(5, "mae"), counts, 5)
    mine = metrics.Metric("mine", metrics.mae.totals, metrics.mae.value, falls=True)
    check_selection(rows_of, rows_of.select(5, mine), counts, 5)


def test_select_leaves_out_what_is_not_finite(backend):
    pop, A, Y = library(backend)
    first = int(greedy(A, 1, lambda mean: ((mean - Y) ** 2).sum()).argmax())
    A[first, 3, 1] = np.nan
    A[(first + 1) % 12] = np.inf
    counts = greedy(A, 4, lambda mean: ((mean - Y) ** 2).sum())
    assert counts[first] == 0
    check_selection(pop, pop.select(4), counts, 4)

    finite = A[np.isfinite(A).all(axis=(1, 2))]
    limit = np.median(finite[:, 0, 0])

    def of_low(A, Y):
        return float("nan") if A[0, 0] > limit else A[0, 1]

    counts = greedy(A, 1, lambda a: a[0, 1] if a[0, 0] <= limit else 9)
    assert np.isnan([of_low(a, Y) for a in finite]).any()
    check_selection(pop, pop.select(1, of_low, "min"), counts, 1)
    with pytest.raises(ValueError, match="metric is NaN for every choice of 1 networks"):
        pop.select(1, lambda A, Y: float("nan"), "max")
    A[:] = np.nan
    with pytest.raises(ValueError, match="select needs finite validation predictions"):
        pop.select(1)


def test_select_needs_predictions(pop):
    with pytest.raises(ValueError, match="select needs the validation predictions of a fit: call fit with validation"):
        pop.select(3)


# ------------------------------------------------------------------ evolution


@each_dtype
def test_mutation_adds_normal_noise(backend, dtype):
    pop = fastbp.Population([20, 30, 10], 8, seed=0, dtype=dtype, backend=backend)
    before, array = pop.parameters.copy(), pop.parameters
    pop.losses[:] = 1
    pop.mutate(0.5, seed=4)
    noise = (pop.parameters - before).ravel()
    assert pop.parameters is array and np.isnan(pop.losses).all() and noise.all()
    n = noise.size  # 7520
    assert abs(noise.mean()) < 4 * 0.5 / np.sqrt(n) and abs(noise.std() - 0.5) < 4 * 0.5 / np.sqrt(2 * n)
    assert abs((noise**3).mean()) < 4 * 0.125 * np.sqrt(15 / n) and abs((noise**4).mean() / 0.0625 - 3) < 0.5
    expected = before + 0.5 * np.random.default_rng(4).standard_normal(before.shape)
    np.testing.assert_array_equal(pop.parameters, expected.astype(dtype))


def test_mutation_of_a_fraction(backend, data):
    pop = fastbp.Population([20, 30, 10], 8, seed=0, backend=backend)
    start = pop.copy()
    for rate in (0.0, 0.2, 0.9, 1.0):
        pop.groups[0].parameters[:] = start.parameters
        pop.mutate(1.0, rate, seed=5)
        changed = (pop.parameters != start.parameters).mean(axis=1)
        n = changed.size * pop.parameters.shape[1]
        assert abs(changed.mean() - rate) <= 4 * np.sqrt(rate * (1 - rate) / n)
        assert changed.tolist() == [rate] * 8 if rate in (0, 1) else (changed != changed[0]).any()
    pop.groups[0].parameters[:] = start.parameters
    pop.mutate(0.0, seed=5)
    np.testing.assert_array_equal(pop.parameters, start.parameters)


def test_mutation_of_some_members(pop):
    pop.losses[:] = range(5)
    start = pop.copy()
    pop.mutate([0.0, 0.1, 100.0], members=[1, 0, 4], seed=1)
    assert np.isnan(pop.losses[[0, 1, 4]]).all() and pop.losses[2:4].tolist() == [2, 3]
    moved = [np.abs(net.parameters - old.parameters).max() for net, old in zip(pop, start, strict=True)]
    assert moved[1] == moved[2] == moved[3] == 0 and 0.01 < moved[0] < 1 and moved[4] > 50
    again = start.copy()
    again.mutate([0.0, 0.1, 100.0], members=[1, 0, 4], seed=1)
    assert is_same(again, pop)
    again = start.copy()
    again.mutate([0.0, 0.1, 100.0], members=[1, 0, 4], seed=2)
    assert not is_same(again, pop)
    unseeded = start.copy(), start.copy()
    for each in unseeded:
        each.mutate(1.0)
    assert not is_same(*unseeded)
    mask = start.copy()
    mask.mutate([0.1, 0.0, 100.0], members=[True, True, False, False, True], seed=1)
    assert [(net.parameters != old.parameters).any() for net, old in zip(mask, start, strict=True)] == [1, 0, 0, 0, 1]


def test_mutation_in_blocks_draws_the_same(pop, monkeypatch):
    whole, blocks = pop.copy(), pop.copy()
    whole.mutate(1.0, seed=3)
    monkeypatch.setattr(population, "DRAWN_NUMBERS", 64)  # two networks of the first architecture, one of the second
    blocks.mutate(1.0, seed=3)
    assert is_same(whole, blocks) and not is_same(whole, pop)


def test_mutation_draws_the_same_for_both_dtypes(backend):
    low, high = (fastbp.Population([3, 4, 2], 3, seed=0, dtype=dtype, backend=backend) for dtype in ("f4", "f8"))
    for each in (low, high):
        each.mutate(0.1, 0.5, seed=1)
    np.testing.assert_allclose(low.parameters, high.parameters, atol=1e-7)


@each_dtype
def test_crossover(backend, dtype):
    pop = fastbp.Population([20, 30, 10], 6, init="uniform", seed=0, dtype=dtype, backend=backend)
    before = bits(pop)
    parents = np.array([[0, 1], [2, 2], [-1, 0], [3, 4]])
    for rate in (0.0, 0.3, 0.5, 1.0):
        children = pop.crossover(parents, rate, seed=1)
        first, second = pop.parameters[parents[:, 0]], pop.parameters[parents[:, 1]]
        assert children.shape == (4, pop.parameters.shape[1]) and children.dtype == dtype
        is_first, is_second = children == first, children == second
        assert (is_first | is_second).all()
        fraction = is_second[[0, 2, 3]].mean()
        assert abs(fraction - rate) <= 4 * np.sqrt(rate * (1 - rate) / is_second[:3].size)
        if 0 < rate < 1:  # each child and each parameter by itself
            assert (is_second[0] != is_second[2]).any() and (is_second[2] != is_second[3]).any()
    np.testing.assert_array_equal(pop.crossover(parents, 0.0), pop.parameters[[0, 2, 5, 3]])
    np.testing.assert_array_equal(pop.crossover(parents, 1.0), pop.parameters[[1, 2, 0, 4]])
    np.testing.assert_array_equal(pop.crossover(parents, seed=1), pop.crossover(parents, 0.5, seed=1))
    assert (pop.crossover(parents, seed=1) != pop.crossover(parents, seed=2)).any()
    assert bits(pop) == before
    children = pop.crossover(parents)
    children[:] = 0
    assert bits(pop) == before


def test_crossover_within_one_of_several_architectures(pop):
    assert pop.crossover([[0, 1]]).shape == (1, 32)
    children = pop.crossover([[2, 3], [4, 2]], 1.0)
    np.testing.assert_array_equal(children, pop.parameters[1][[1, 0]])
    with pytest.raises(ValueError, match="parents must be of one architecture, got members of 2"):
        pop.crossover([[0, 1], [1, 2]])


def test_evolution_learns_xor(backend, xor):
    """Ask by `loss`, tell by writing parameters: the worst are replaced by mutated children of the best."""
    X, Y = xor
    pop = fastbp.Population([2, 4, 1], 60, ["tanh", "sigmoid"], seed=0, init_scale=2.0, backend=backend)
    rng = np.random.default_rng(0)
    for _ in range(80):
        ranking = np.argsort(pop.loss(X, Y))
        elite, rest = ranking[:12], ranking[12:]
        pop.parameters[rest] = pop.crossover(rng.choice(elite, (len(rest), 2)), seed=rng)
        pop.mutate(0.3, 0.5, members=rest, seed=rng)
    losses = pop.loss(X, Y)
    assert losses.min() < 0.005
    assert (np.rint(pop[int(losses.argmin())].predict(X)) == Y).all()


# ------------------------------------------------------------------ weights


def test_weights(pop):
    assert pop.weights is None
    given = np.array([1.0, 0, 2, 0, 0])
    pop.weights = given
    given[:] = 5
    assert pop.weights.tolist() == [1, 0, 2, 0, 0] and pop.weights.dtype == np.float64
    for wrong, message in [
        ([1, 2], r"weights has shape \(2,\), expected one number, or \(5,\)"),
        ([0] * 5, "weights must not all be 0"),
        ([1, 1, 1, 1, -1], r"weights\[4\] must be at least 0, got -1"),
        ([1, 1, np.nan, 1, 1], r"weights\[2\] must be at least 0, got nan"),
    ]:
        with pytest.raises(ValueError, match=message):
            pop.weights = wrong
    with pytest.raises(TypeError, match="weights must be numbers, got 'equal'"):
        pop.weights = "equal"
    assert pop.weights.tolist() == [1, 0, 2, 0, 0]
    with pytest.raises(ValueError, match="members must not all have weight 0"):
        pop.mean([1, 2, 3], [1, 3])
    pop.weights = None
    assert pop.weights is None


# ------------------------------------------------------------------ how it prints


def test_repr_is_the_call_and_says_the_memory(pop, backend):
    assert repr(pop).endswith("  # 1.66 kB")
    for each in (pop, pop.subset([0, 1]), fastbp.Population([3, 1], 4, loss=fastbp.losses.Huber(2.0), backend=backend)):
        same = eval(repr(each), vars(fastbp) | vars(fastbp.losses))
        assert repr(same) == repr(each) and len(same) == len(each)
    kept = np.zeros((5, 100, 2)), np.zeros((100, 2))
    nbytes = pop.nbytes
    pop._kept_validation = kept
    assert pop.nbytes == nbytes + kept[0].nbytes and repr(pop).endswith("  # 9.66 kB")


# ------------------------------------------------------------------ files


@pytest.fixture
def kept(pop):
    """Add what a file holds besides parameters; one architecture has members between those of the other."""
    pop = pop.subset([2, 0, 4, 1])
    pop.metadata["classes"] = "yes,no"
    pop.losses[:] = [1.5, np.nan, -0.0, np.inf]
    pop.weights = [0.25, 0.5, 0.25, 0]
    return pop


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".model"])
def test_round_trip(kept, suffix, tmp_path):
    path = tmp_path / f"m{suffix}"
    kept.save(path, metadata={"mean": "[1.5, ü]"})
    same = fastbp.load(path, kept.backend)
    assert type(same) is fastbp.Population and same.metadata == {"classes": "yes,no", "mean": "[1.5, ü]"}
    assert kept.metadata == {"classes": "yes,no"}
    del same.metadata["mean"]
    assert is_same(same, kept) and same.losses.tobytes() == kept.losses.tobytes()
    assert all(row.ctypes.data % 64 == 0 for group in same.groups for row in group.parameters)
    same.save(str(path))
    assert os.listdir(tmp_path) == [path.name]
    assert is_same(fastbp.load(path, kept.backend), kept)


@each_dtype
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip_of_defaults(backend, dtype, suffix, tmp_path):
    for settings in ({}, {"loss": fastbp.losses.Huber(0.5)}, {"loss": "hinge", "input_scale": 2.0}):
        pop = fastbp.Population([3, 2], 3, seed=0, dtype=dtype, backend=backend, **settings)
        pop.save(tmp_path / f"m{suffix}")
        same = fastbp.load(tmp_path / f"m{suffix}", backend)
        assert is_same(same, pop) and same.weights is None and np.isnan(same.losses).all()
        assert same.loss_settings == pop.loss_settings
    same = fastbp.load(tmp_path / f"m{suffix}", "numpy")
    assert same.backend == "numpy" and fastbp.load(tmp_path / f"m{suffix}").backend == "numba"


def test_a_file_says_what_it_holds(kept, tmp_path):
    from fastbp import network

    kept[0].save(tmp_path / "one.npz")
    net = fastbp.load(tmp_path / "one.npz", kept.backend)
    assert type(net) is fastbp.Network and repr(net) == repr(kept[0])
    assert net.parameters.tobytes() == kept[0].parameters.tobytes() and net.metadata == kept.metadata
    kept.save(tmp_path / "many.npz")
    with pytest.raises(ValueError, match=r"many.npz' holds a population, not one network: fastbp.load gives it"):
        network.load(tmp_path / "many.npz", kept.backend)


def test_others_can_read_the_arrays(kept, tmp_path):
    import safetensors.numpy

    kept.save(tmp_path / "m.npz")
    kept.save(tmp_path / "m.safetensors")
    for arrays in (dict(np.load(tmp_path / "m.npz")), safetensors.numpy.load_file(tmp_path / "m.safetensors")):
        for g, group in enumerate(kept.groups):
            for row, i in enumerate(group.members):
                for l, (W, b) in enumerate(zip(kept[i].weights, kept[i].biases, strict=True), start=1):
                    np.testing.assert_array_equal(arrays[f"{g}.W{l}"][row], W)
                    np.testing.assert_array_equal(arrays[f"{g}.b{l}"][row], b)
        np.testing.assert_array_equal(arrays["losses"], kept.losses)
        np.testing.assert_array_equal(arrays["weights"], kept.weights)


def test_files_of_values_that_are_no_numbers(backend, tmp_path):
    pop = fastbp.Population([3, 2], 14, seed=0, backend=backend)
    pop.parameters[3, 1] = np.nan
    pop.parameters[7, -1] = -np.inf
    with pytest.warns(
        RuntimeWarning, match=r"NaN or infinity in 2 networks \(3, 7\) of the population in '.*m'$"
    ) as warned:
        pop.save(tmp_path / "m")
        assert is_same(fastbp.load(tmp_path / "m", backend), pop)
    assert [warning.filename for warning in warned] == [__file__] * 2
    pop.parameters[:, 0] = np.nan
    with pytest.warns(RuntimeWarning, match=r"in 14 networks \(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\.\)"):
        pop.save(tmp_path / "m")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damage_anywhere(kept, suffix, tmp_path):
    path = tmp_path / f"m{suffix}"
    kept.save(path)
    data = path.read_bytes()
    survived = 0
    for place in range(0, len(data), 5):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            same = fastbp.load(path, kept.backend)  # a few bytes mean nothing, such as the dates in a zip file
        except ValueError as error:
            assert path.name in str(error) and "damaged" in str(error)
        else:
            survived += 1
            assert is_same(same, kept)
    assert survived < 0.3 * len(data) / 5
    for length in range(0, len(data) - 1, 53):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="damaged"):
            fastbp.load(path, kept.backend)


def parts(pop):
    """Return header and arrays of a file, by name."""
    header = {
        "format": "fastbp population",
        "version": 1,
        "n_networks": len(pop),
        "groups": [
            {
                "sizes": list(group.config.sizes),
                "activations": list(group.config.activations),
                "members": group.members.tolist(),
            }
            for group in pop.groups
        ],
        "is_weighted": True,
        "loss": pop.loss_name,
        "reduction": pop.reduction,
        "dtype": pop.dtype.name,
        "metadata": dict(pop.metadata),
        "scale": pop.input_scale,
    }
    arrays = {"losses": pop.losses, "weights": pop.weights}
    for g, group in enumerate(pop.groups):
        nets = [pop[i] for i in group.members]
        for l in range(1, len(group.config.sizes)):
            arrays[f"{g}.W{l}"] = np.stack([net.weights[l - 1] for net in nets])
            arrays[f"{g}.b{l}"] = np.stack([net.biases[l - 1] for net in nets])
    return header, arrays


def craft(path, pop, header, arrays, contents=None):
    """Write a population whose checksum is right, whatever else is wrong."""
    if contents is None:
        contents = [*(group.parameters for group in pop.groups), arrays["losses"]]
        contents += [arrays["weights"]] if "weights" in arrays else []
    header = json.dumps({**header, "sha256": files._checksum(header, *contents)})
    if path.suffix == ".safetensors":
        import safetensors.numpy

        safetensors.numpy.save_file(arrays, path, {"fastbp": header})
    else:
        np.savez(path, header=np.frombuffer(header.encode(), np.uint8), **arrays)
    return path


WRONG = [
    None,
    True,
    0,
    1,
    -1,
    0.5,
    float("nan"),
    "x",
    "",
    [],
    [1],
    {},
    {"a": 1},
    [[]],
    [{}],
    [None, None],
    "O",
    10**400,
]
FINE = {"scale": [1, 0.5], "metadata": [{}], "version": [True, 1], "is_weighted": [True]}  # True is 1
FIELDS = [*files.POPULATION_FIELDS - {"sha256"}, "scale", "loss_settings", "more", "sizes", "activations"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("field", sorted(FIELDS))
def test_every_field_of_a_header_is_checked(kept, field, suffix, tmp_path):
    header, arrays = parts(kept)
    path = craft(tmp_path / f"m{suffix}", kept, header, arrays)
    assert is_same(fastbp.load(path, kept.backend), kept)
    for value in WRONG:
        if value in FINE.get(field, []) or field == "loss_settings" and value == {}:
            continue
        craft(path, kept, {**header, field: value}, arrays)
        with pytest.raises(ValueError, match="damaged, or not a file that fastbp wrote"):
            fastbp.load(path, "numpy")
    if field in files.POPULATION_FIELDS:
        craft(path, kept, {key: value for key, value in header.items() if key != field}, arrays)
        with pytest.raises(ValueError, match="damaged, or not a file that fastbp wrote"):
            fastbp.load(path, "numpy")


def changed(groups, g, **fields):
    return [{**group, **(fields if i == g else {})} for i, group in enumerate(groups)]


SWAPPED = {"groups": lambda groups: groups[::-1]}
LIES = [
    ({"n_networks": lambda n: n + 1}, "not those of 5 networks"),
    ({"n_networks": lambda n: n - 1}, "not those of 3 networks"),
    ({"n_networks": float}, "n_networks must be an integer"),
    (SWAPPED, "not those of 4 networks"),
    ({"groups": lambda groups: groups[:1]}, "not those of 4"),
    ({"groups": lambda groups: changed(groups, 0, members=[2, 0])}, "not those of 4"),
    ({"groups": lambda groups: changed(groups, 1, members=[3, 1])}, "not those of 4"),
    ({"groups": lambda groups: changed(groups, 0, members=[0, 0, 2])}, "not those of 4"),
    ({"groups": lambda groups: changed(groups, 0, members=[0, 1])}, "not those of 4"),
    ({"groups": lambda groups: changed(groups, 0, members=[0.0, 2])}, "members must be an integer"),
    ({"groups": lambda groups: changed(groups, 0, members=[0, "2"])}, "members must be an integer"),
    ({"groups": lambda groups: changed(groups, 0, members=[False, 2])}, "members must be an integer"),
    ({"groups": lambda groups: changed(groups, 0, members=[-4, 2])}, "members must be at least 0"),
    ({"groups": lambda groups: changed(groups, 0, members=[])}, "not those of 4"),
    ({"groups": lambda groups: changed(groups, 0, members={})}, "a group must have the fields"),
    ({"groups": lambda groups: changed(groups, 0, more=1)}, "a group must have the fields"),
    ({"groups": lambda groups: changed(groups, 0, sizes=[3, 4, 2])}, "activations must be one name or 2"),
    ({"groups": lambda groups: changed(groups, 0, sizes=[3, 4, 5, 2])}, "0.W2 is float64"),
    ({"groups": lambda groups: changed(groups, 0, sizes=[3, 4, 4, 3])}, "in one population"),
    ({"groups": lambda groups: changed(groups, 0, sizes=[2, 4, 4, 2])}, "in one population"),
    ({"groups": lambda groups: changed(groups, 0, sizes="342")}, "sizes must be a list"),
    ({"groups": lambda groups: changed(groups, 0, sizes=[10**9] * 4)}, "one population"),
    ({"groups": lambda groups: changed(groups, 0, activations=["relu", "relu", "tanh"])}, "takes probabilities"),
    ({"groups": lambda groups: [{**groups[0], "members": [i]} for i in range(4)]}, "two groups have one architecture"),
    ({"loss": lambda loss: "no"}, "loss 'no' is unknown"),
    ({"dtype": lambda dtype: "float32"}, "expected float32"),
]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("changes, message", LIES, ids=range(len(LIES)))
def test_a_header_that_lies_is_found(kept, changes, message, suffix, tmp_path):
    header, arrays = parts(kept)
    lie = {**header, **{field: change(header[field]) for field, change in changes.items()}}
    path = craft(tmp_path / f"m{suffix}", kept, lie, arrays)
    with pytest.raises(ValueError, match=f"damaged, or not a file that fastbp wrote: .*{message}"):
        fastbp.load(path, "numpy")


def test_a_softmax_of_one_neuron_in_a_file_is_found(tmp_path):
    pop = fastbp.Population([3, 1], 2, "sigmoid", seed=0, backend="numpy")
    pop.weights = [1, 1]
    header, arrays = parts(pop)
    header["groups"][0]["activations"] = ["softmax"]
    with pytest.raises(ValueError, match="damaged.*'softmax' over one neuron"):
        fastbp.load(craft(tmp_path / "m.npz", pop, header, arrays), "numpy")


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("0.W1", lambda W: W[:1], r"0.W1 is float64 \(1, 3, 4\), expected float64 \(2, 3, 4\)"),
        ("0.W1", lambda W: W.reshape(2, 4, 3), "expected float64"),
        ("1.b2", lambda b: b.astype(np.float32), "expected float64"),
        ("1.b2", lambda b: b.ravel(), "expected float64"),
        ("1.b2", lambda b: b + 1, "the checksum does not match"),
        ("1.W1", lambda W: W[::-1], "the checksum does not match"),
        ("1.W1", None, "1.W1"),
        ("losses", lambda losses: losses[:3], r"losses is float64 \(3,\), expected float64 \(4,\)"),
        ("losses", lambda losses: losses.astype(np.float32), "expected float64"),
        ("losses", lambda losses: losses + 1, "the checksum does not match"),
        ("losses", None, "losses"),
        ("weights", lambda weights: weights[None], "expected float64"),
        ("weights", lambda weights: weights + 1, "the checksum does not match"),
        ("weights", None, "weights"),
    ],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_arrays_that_do_not_fit(kept, name, change, message, suffix, tmp_path):
    header, arrays = parts(kept)
    contents = [*(group.parameters for group in kept.groups), kept.losses, kept.weights]
    wrong = {key: array for key, array in arrays.items() if key != name}
    if change is not None:
        wrong[name] = np.ascontiguousarray(change(arrays[name]))
    with pytest.raises(ValueError, match=f"damaged, or not a file that fastbp wrote: .*{message}"):
        fastbp.load(craft(tmp_path / f"m{suffix}", kept, header, wrong, contents), "numpy")


@pytest.mark.parametrize("weights", [[np.nan, 1, 1, 1], [-1.0, 1, 1, 1], [0.0] * 4, [np.inf, 1, 1, 1]])
def test_weights_of_a_file_are_checked(kept, weights, tmp_path):
    header, arrays = parts(kept)
    craft(tmp_path / "m.npz", kept, header, {**arrays, "weights": np.array(weights)})
    with pytest.raises(ValueError, match="the weights must be finite, at least 0, and not all 0"):
        fastbp.load(tmp_path / "m.npz", "numpy")


def test_errors_of_files(kept, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        fastbp.load(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError):
        kept.save(tmp_path / "none" / "m.npz")
    with pytest.raises(ValueError, match="backend"):
        fastbp.load(tmp_path / "m.npz", backend="jax")
    with pytest.raises(TypeError, match="metadata must be a dict of strings"):
        kept.save(tmp_path / "m.npz", {"a": 1})
    kept.metadata["a"] = 1
    with pytest.raises(TypeError, match="metadata must be a dict of strings"):
        kept.save(tmp_path / "m.npz")
    assert os.listdir(tmp_path) == []
    del kept.metadata["a"]
    kept.save(tmp_path / "m.safetensors")
    before = (tmp_path / "m.safetensors").read_bytes()

    def full(*args):
        raise OSError("disk full")

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, full)
            with pytest.raises(OSError, match="disk full"):
                kept.subset([0]).save(tmp_path / "m.safetensors")
        assert (tmp_path / "m.safetensors").read_bytes() == before and os.listdir(tmp_path) == ["m.safetensors"]
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for call in (kept.save, fastbp.load):
        with pytest.raises(ImportError, match=r"fastbp\[files\]"):
            call(tmp_path / "m.safetensors")


# ------------------------------------------------------------------ wrong arguments


def net_of(*arguments, **settings):
    return fastbp.Network(*arguments, **{"seed": 0, "backend": "numpy", **settings})


BAD_POPULATIONS = [
    (dict(sizes=[3]), "sizes must be the inputs, the layers and the outputs"),
    (dict(sizes=3), "sizes must be the inputs, the layers and the outputs.*got 3"),
    (dict(sizes="32"), "sizes must be the inputs, the layers and the outputs.*got '32'"),
    (dict(sizes=[3, 0]), r"sizes\[1\] must be at least 1, got 0"),
    (dict(sizes=[[3, 2], [3, 0, 2]]), r"architecture 1: sizes\[1\] must be at least 1, got 0"),
    (dict(sizes=[[3, 2], 3]), "architecture 1: sizes must be the inputs.*got 3"),
    (dict(sizes=[[3, 2], [4, 2]]), r"sizes\[1\] has inputs 4, but sizes\[0\] has 3: they must be the same"),
    (dict(sizes=[[3, 2], [3, 5, 4]]), r"sizes\[1\] has outputs 4, but sizes\[0\] has 2: they must be the same"),
    (dict(n_networks=0), "n_networks must be at least 1, got 0"),
    (dict(n_networks=2.0), "n_networks must be an integer, got 2.0"),
    (dict(n_networks=True), "n_networks must be an integer, got True"),
    (dict(n_networks=[1, 2]), r"n_networks must be one number or 1 \(one per architecture\), got \[1, 2\]"),
    (dict(sizes=SEVERAL, n_networks=[3]), r"n_networks must be one number or 2 \(one per architecture\), got \[3\]"),
    (dict(sizes=SEVERAL, n_networks=[3, 0]), r"n_networks\[1\] must be at least 1, got 0"),
    (dict(activations="rleu"), "activations 'rleu' is unknown; did you mean 'relu'"),
    (dict(activations=["tanh"] * 3), "activations must be one name or 2"),
    (dict(sizes=SEVERAL, activations=["tanh"] * 2), "architecture 1: activations must be one name or 3"),
    (dict(sizes=SEVERAL, activations=[["tanh"] * 2]), "activations must be those of all.*one item for each of the 2"),
    (dict(sizes=[3, 1], activations="softmax"), "softmax' over one neuron"),
    (dict(loss="mse"), "loss 'mse' is unknown; did you mean 'squared_error'"),
    (dict(loss="cross_entropy", activations="tanh"), "takes probabilities"),
    (dict(init="xavier"), "init 'xavier' is unknown; did you mean 'glorot_uniform'"),
    (dict(init=[(np.zeros((3, 2)), np.zeros(2))]), r"init must hold .*\(W, b\) for each of the 2 layers, got 1"),
    (dict(reduction="average"), "reduction 'average' is unknown"),
    (dict(dtype="float16"), "dtype must be 'float32' or 'float64', got 'float16'"),
    (dict(backend="jax"), "backend 'jax' is unknown"),
    (dict(input_scale=0), "input_scale must be above"),
    (dict(seed=-1), "seed must be None, an int >= 0, a SeedSequence or a sequence of 3 seeds, got -1"),
    (dict(seed=1.5), "seed must be None, an int >= 0, a SeedSequence or a sequence of 3 seeds, got 1.5"),
    (dict(seed="one"), "seed must be None, an int >= 0, a SeedSequence or a sequence of 3 seeds, got 'one'"),
    (
        dict(seed=np.random.default_rng(0)),
        "seed must be None, an int >= 0, a SeedSequence or a sequence.*got Generator",
    ),
    (dict(seed=[1, 2]), r"seed must be one, or 3 \(one for each network\), got 2"),
    (dict(seed=[1, 2, -3]), r"seed\[2\] must be None, an int >= 0, a SeedSequence or a Generator, got -3"),
    (dict(init_scale=-1), "init_scale must be at least 0, got -1"),
    (dict(init_scale=[1, 2, np.inf]), r"init_scale\[2\] must be at least 0, got inf"),
    (dict(init_scale=[1, 2]), r"init_scale has shape \(2,\), expected one number, or \(3,\)"),
    (dict(init_scale="1"), "init_scale must be numbers, got '1'"),
    (dict(init_scale=[1, None, 1]), r"init_scale must be numbers, got \[1, None, 1\]"),
    (dict(init_scale=1e300), r"init_scale\[0\] times the first weights\[0, 0\] is .*every value must be finite"),
]


@pytest.mark.parametrize("arguments, message", BAD_POPULATIONS, ids=range(len(BAD_POPULATIONS)))
def test_wrong_arguments_of_a_population(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fastbp.Population(**{"sizes": [3, 5, 2], "n_networks": 3, "seed": 0, "backend": "numpy", **arguments})


def test_more_memory_than_there_is_is_refused():
    for sizes, n in [([1000, 1000, 10], 10**7), ([[1000, 1000, 10], [1000, 10]], 2 * 10**7)]:
        message = rf"needs .* of memory \(40.\d TB for the parameters of {n} networks\).*take fewer or smaller ones"
        with pytest.raises(MemoryError, match=message):
            fastbp.Population(sizes, 10**7, backend="numpy")


BAD_NETWORKS = [
    ([], r"networks must be a sequence of one or more fastbp.Network, got \[\]"),
    (net_of([3, 2]), "networks must be a sequence of one or more fastbp.Network, got Network"),
    ([net_of([3, 2]), 3], "networks must be a sequence of one or more fastbp.Network"),
    ([net_of([3, 2]), net_of([4, 2])], r"networks\[1\] has inputs 4, but networks\[0\] has 3"),
    ([net_of([3, 2]), net_of([3, 4])], r"networks\[1\] has outputs 4, but networks\[0\] has 2"),
    ([net_of([3, 2]), net_of([3, 2], loss="huber")], r"networks\[1\] has loss huber, but networks\[0\] has squared"),
    ([net_of([3, 2]), net_of([3, 2], reduction="sum")], r"networks\[1\] has reduction sum"),
    ([net_of([3, 2]), net_of([3, 2], dtype="float64")], r"networks\[1\] has dtype float64"),
    ([net_of([3, 2]), net_of([3, 2], input_scale=0.5)], r"networks\[1\] has input_scale 0.5"),
]


@pytest.mark.parametrize("networks, message", BAD_NETWORKS, ids=range(len(BAD_NETWORKS)))
def test_networks_that_are_no_population(networks, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fastbp.Population.of(networks)


X = np.ones((7, 3))
BAD_CALLS = [
    ("network", (5,), "i must be -5 to 4, got 5"),
    ("network", (-6,), "i must be -5 to 4, got -6"),
    ("network", (1.0,), "i must be an integer, got 1.0"),
    ("__getitem__", (5,), "i must be -5 to 4, got 5"),
    ("__getitem__", (slice(2),), "i must be an integer, got slice"),
    ("subset", ([],), "indices is empty: at least one network must be named"),
    ("subset", ([5],), r"indices\[0\] is 5: networks are -5 to 4"),
    ("subset", ([0, -6],), r"indices\[1\] is -6: networks are -5 to 4"),
    ("subset", ([0.0, 1.0],), "indices must be integers or a mask, got dtype float64"),
    ("subset", (1,), r"indices must be 1-D, got shape \(\)"),
    ("subset", ([[0, 1]],), r"indices must be 1-D, got shape \(1, 2\)"),
    ("subset", ([True, False],), r"indices is a mask of shape \(2,\), expected \(5,\)"),
    ("subset", ([False] * 5,), "indices is empty"),
    ("subset", ("all",), "indices must be numbers, got 'all'"),
    ("subset", ([0, None],), "indices must be numbers"),
    ("subset", ([[0], [1, 2]],), "indices must be numbers"),
    ("predict", (np.ones((7, 2)),), "X has 2 columns .*, but the network takes 3"),
    ("predict", ([1, 2],), "X is 1-D, which is one sample of 3 numbers, but holds 2"),
    ("predict", (np.where(np.arange(21).reshape(7, 3) == 4, np.nan, 0),), r"X\[1, 1\] is nan"),
    ("predict", ("x",), "X must hold real numbers"),
    ("predict", ([[1, 2, 3], [1]],), "X must be a rectangular array of numbers"),
    ("predict", (np.ones((4, 7, 3)),), "X is 3-D, samples of each network, and has 4 of these, expected 5"),
    ("predict", (np.ones((5, 7, 2)),), r"X\[0\] has 2 columns"),
    ("predict", (np.ones((5, 0, 3)),), r"X\[0\] is empty"),
    ("predict", (np.where(np.arange(105).reshape(5, 7, 3) == 50, np.inf, 0),), r"X\[2\]\[2, 2\] is inf"),
    ("predict", (np.ones((5, 7, 3)), [1, 2]), "X is 3-D, samples of each network, and has 5 of these, expected 2"),
    ("predict", (np.ones((1, 1, 7, 3)),), "X must be 2-D"),
    ("predict", (X, [1, 1]), "members names network 1 more than once"),
    ("predict", (X, [1, -4]), "members names network 1 more than once"),
    ("predict", (X, [7]), r"members\[0\] is 7: networks are -5 to 4"),
    ("mean", (X, []), "members is empty"),
    ("spread", (np.ones((7, 2)),), "X has 2 columns"),
    ("loss", (X, np.ones(6, int)), "Y has 6 rows .*, but X has 7"),
    ("loss", (X, np.full(7, 2)), "Y holds the label 2"),
    ("loss", (X, np.full((7, 2), np.nan)), r"Y\[0, 0\] is nan"),
    ("loss", (np.ones((5, 7, 3)), np.ones(7, int)), "Y must hold the targets of each of 5 networks"),
    ("loss", (np.ones((5, 7, 3)), 3), "Y must hold the targets of each of 5 networks"),
    ("loss", (np.ones((5, 7, 3)), np.ones((5, 6), int)), r"Y\[0\] has 6 rows .*, but X has 7"),
    ("loss", (np.ones((2, 7, 3)), [np.ones(7, int), np.full((7, 2), 0.5)], [0, 1]), "Y must hold labels, or rows"),
    ("best", (0,), "k must be at least 1, got 0"),
    ("best", (1.5,), "k must be an integer, got 1.5"),
    ("best", (6,), "k must be at most 5, the number of networks, got 6"),
    ("select", (0,), "k must be at least 1, got 0"),
    ("select", (2, "acuracy"), "metrics 'acuracy' is unknown; did you mean 'accuracy'"),
    ("select", (2, ["accuracy"]), r"metric must be None, a name or a function \(A, Y\) -> float, got \['accuracy'\]"),
    ("select", (2, lambda A, Y: 1.0), "whether a better '<lambda>' is smaller or larger is not known.*pass mode="),
    ("select", (2, "accuracy", "least"), "mode 'least' is unknown"),
    ("select", (2, None, "min"), "mode must be None, as the loss is to be least, got 'min'"),
    ("select", (2, "top_3"), "metric top_3 is 1 for any network with up to 3 outputs"),
    ("select", (2, "mae"), "metrics of errors .* need rows of targets, got labels"),
    ("select", (2, lambda A, Y: "x", "min"), "must return a number, got 'x'"),
    ("replace", (5, np.zeros(46)), "i must be -5 to 4, got 5"),
    ("replace", (0, np.zeros(46)), r"network must be a Network or parameters of shape \(32,\), got shape \(46,\)"),
    ("replace", (0, "zeros"), "network must be numbers, got 'zeros'"),
    ("replace", (0, np.full(32, np.nan)), r"network\[0\] is nan"),
    ("replace", (0, net_of([3, 5, 2])), r"must have the architecture of network 0, \[3, 5, 2\] .*got \[3, 5, 2\]"),
    ("mutate", (-1,), "scale must be at least 0, got -1"),
    ("mutate", ([1, 2],), r"scale has shape \(2,\), expected one number, or \(5,\)"),
    ("mutate", ([1, 2], 1.0, [0, 1, 2]), r"scale has shape \(2,\), expected one number, or \(3,\)"),
    ("mutate", ("big",), "scale must be numbers, got 'big'"),
    ("mutate", (1, 1.5), "rate must be at least 0 and at most 1, got 1.5"),
    ("mutate", (1, "all"), "rate must be a number, got 'all'"),
    ("mutate", (1, 1, [3, 3]), "members names network 3 more than once"),
    ("mutate", (1, 1, None, -1), "seed must be None, an int >= 0, a SeedSequence or a Generator, got -1"),
    ("crossover", ([0, 1],), r"parents must be pairs, \(n, 2\), got shape \(2,\)"),
    ("crossover", ([],), "parents must be pairs"),
    ("crossover", (np.zeros((0, 2), int),), "parents must be pairs"),
    ("crossover", ([[0, 1, 1]],), r"parents must be pairs, \(n, 2\), got shape \(1, 3\)"),
    ("crossover", ([[0.0, 1.0]],), "parents must be integers, got dtype float64"),
    ("crossover", ([[True, False]],), "parents must be integers, got dtype bool"),
    ("crossover", ([[0, 1], [0, 5]],), r"parents\[1, 1\] is 5: networks are -5 to 4"),
    ("crossover", ([[0, 1], [1, 2]],), "parents must be of one architecture, got members of 2"),
    ("crossover", ([[0, 1]], -0.1), "rate must be at least 0 and at most 1, got -0.1"),
    ("crossover", ([[0, 1]], 0.5, "x"), "seed must be None, an int >= 0"),
    ("with_backend", ("jax",), "backend 'jax' is unknown"),
]


@pytest.mark.parametrize("method, arguments, message", BAD_CALLS, ids=range(len(BAD_CALLS)))
def test_wrong_arguments_change_nothing(pop, data, method, arguments, message):
    pop.losses[:] = range(5)
    pop.weights = range(1, 6)
    pop._kept_validation = pop.predict(data[0]), data[2]
    before = bits(pop)
    with pytest.raises((ValueError, TypeError, IndexError), match=message):
        getattr(pop, method)(*arguments)
    assert bits(pop) == before


def test_masked_values_are_refused(pop):
    masked = np.ma.array([0, 1], mask=[False, True])
    with pytest.raises(ValueError, match=r"indices\[1\] is masked"):
        pop.subset(masked)
    with pytest.raises(ValueError, match=r"X\[1\]\[0, 0\] is masked"):
        pop.predict(np.ma.array(np.ones((5, 7, 3)), mask=np.arange(105).reshape(5, 7, 3) == 21))


# ------------------------------------------------------------------ fit


def samples(loss="squared_error"):
    """Return samples and targets of a small problem."""
    rng = np.random.default_rng(5)
    inputs = rng.normal(size=(40, 3))
    product = inputs[:, :1] * inputs[:, 1:2]
    return inputs, (product[:, 0] > 0).astype(int) if loss == "cross_entropy" else product


@pytest.mark.parametrize("sizes", [[3, 4, 1], [[3, 4, 1], [3, 2, 3, 1]]])
def test_fit_trains_each_as_a_trainer_does(backend, sizes):
    inputs, Y = samples()
    pop = fastbp.Population(sizes, 2, "tanh", seed=0, dtype="float64", backend=backend)
    alone, n = list(pop), len(pop)
    lr = [0.1, 0.2, 0.05, 0.15][:n]
    l2 = np.array([0, 0.1, 0.01, 0.2])[:n]
    validation = inputs[30:], Y[30:]
    history = pop.fit(
        inputs[:30], Y[:30], 3, 8, fastbp.SGD(lr=lr, momentum=0.9), validation_data=validation, seed=4, l2=l2
    )
    assert pop.history is history and history.loss.shape == (3, n) and not history.nonfinite.any()
    for i, net in enumerate(alone):
        trainer = fastbp.Trainer(net, fastbp.SGD(lr=lr[i], momentum=0.9), batch_size=8, seed=4, l2=float(l2[i]))
        theirs = trainer.fit(inputs[:30], Y[:30], epochs=3, validation_data=validation)
        assert pop[i].parameters.tobytes() == net.parameters.tobytes()
        np.testing.assert_allclose(pop.losses[i], theirs.validation_loss[-1], rtol=1e-12)
    np.testing.assert_array_equal(pop.best().losses, [pop.losses.min()])
    for same in (pickle.loads(pickle.dumps(pop)), copy.deepcopy(pop), pop.copy()):
        assert same.history.loss.tobytes() == history.loss.tobytes() and same.losses.tobytes() == pop.losses.tobytes()
        assert same.select(3).weights.tolist() == pop.select(3).weights.tolist()


FIT_ARGUMENTS = [
    dict(epochs=2),
    dict(batch_size=[5, 7, 40]),
    dict(batch_size=None),
    dict(optimizer=fastbp.RMSprop(lr=0.01)),
    dict(optimizer=[fastbp.SGD(lr=0.1), fastbp.Adam(lr=0.1), fastbp.SGD(lr=0.2)]),
    dict(folds=4),
    dict(epochs=4, halving=2),
    dict(metrics=["mae"]),
    dict(validation_rows=[range(9), range(8), range(7)], epochs=5, patience=1, min_delta=0.5),
    dict(validation_rows=[range(9), range(8), range(7)], epochs=5, patience=1, min_delta=0.5, restore_best=False),
    dict(order="own"),
    dict(seed=[1, 2, 3]),
    dict(train_rows=[range(20), range(10), [3, 3, 4]]),
    dict(sample_weight=np.linspace(0, 1, 40)),
    dict(shuffle=False, threads=1),
    dict(dropout=0.5, l1=[0.1, 0.2, 0.3]),
    dict(clip_norm=0.1, clip_value=0.1, max_norm=0.5, input_noise=0.1),
    dict(validation_data=samples(), keep_predictions=False),
    dict(validation_data=samples()),
]


@pytest.mark.parametrize("arguments", FIT_ARGUMENTS, ids=range(len(FIT_ARGUMENTS)))
def test_fit_is_short_for_a_trainer(arguments):
    inputs, Y = samples()
    made = [fastbp.Population([3, 4, 1], 3, "tanh", seed=0, backend="numpy") for _ in range(3)]
    first, second, plain = made
    arguments = {"epochs": 1, "batch_size": 16, "seed": 0, "optimizer": fastbp.Adam(), **arguments}
    of_trainer = ("optimizer", "batch_size", "seed", "shuffle", "threads", "dropout", "l1", "clip_norm", "clip_value")
    of_trainer += ("max_norm", "input_noise")
    settings = {name: value for name, value in arguments.items() if name in of_trainer}
    trainer = fastbp.Trainer(second, **settings)
    history = trainer.fit(inputs, Y, **{name: value for name, value in arguments.items() if name not in settings})
    result = first.fit(inputs, Y, **arguments)
    assert first.parameters.tobytes() == second.parameters.tobytes()
    assert first.losses.tobytes() == second.losses.tobytes() and result.loss.tobytes() == history.loss.tobytes()
    assert sorted(result.recorded) == sorted(history.recorded) and result.stopped == history.stopped
    assert (first._kept_validation is None) == (second._kept_validation is None)
    has_predictions = "folds" in arguments or "validation_data" in arguments and "keep_predictions" not in arguments
    assert (first._kept_validation is not None) == has_predictions


def test_fit_passes_every_argument_on(monkeypatch):
    trainer_class, passed = population.PopulationTrainer, {}

    class Recorder:
        def __init__(self, *arguments, **named):
            passed.update(signature(trainer_class).bind(*arguments, **named).arguments)

        def fit(self, *arguments, **named):
            passed.update(signature(trainer_class.fit).bind(self, *arguments, **named).arguments)

    monkeypatch.setattr(population, "PopulationTrainer", Recorder)
    names = {*signature(trainer_class.fit).parameters, "optimizer", "batch_size", "seed", "l1"}
    names -= {"self", "_stacklevel"}
    given = {name: object() for name in names}
    pop = fastbp.Population([3, 4, 1], 3, backend="numpy")
    pop.fit(**given)
    passed.update(passed.pop("settings"))
    assert passed.pop("pop") is pop and passed.pop("self") and passed.pop("_stacklevel") == 1 and passed == given


def test_fit_by_default_is_adam_with_batches_of_32():
    inputs, Y = samples()
    first, second = (fastbp.Population([3, 4, 1], 3, "tanh", seed=0, backend="numpy") for _ in range(2))
    first.fit(inputs, Y, seed=1)
    fastbp.Trainer(second, fastbp.Adam(), batch_size=32, seed=1).fit(inputs, Y, epochs=1)
    assert first.parameters.tobytes() == second.parameters.tobytes()


def test_callbacks_and_progress_of_fit():
    seen = []

    class Watch(fastbp.callbacks.Callback):
        def on_epoch_end(self, trainer, history):
            seen.append(trainer.pop)
            trainer.stop_training = len(seen) == 2

    pop = fastbp.Population([3, 4, 1], 3, "tanh", seed=0, backend="numpy")
    pop.fit(*samples(), epochs=5, callbacks=[Watch()], progress=False)
    assert seen == [pop, pop] and pop.history.epochs_done.tolist() == [2, 2, 2]


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_select_after_fit(backend, loss):
    inputs, Y = samples(loss)
    sizes = [[3, 4, 2 if loss == "cross_entropy" else 1], [3, 2, 2 if loss == "cross_entropy" else 1]]
    output = "softmax" if loss == "cross_entropy" else "identity"
    pop = fastbp.Population(sizes, 4, ["tanh", output], loss, seed=0, dtype="float64", backend=backend)
    pop.fit(inputs[:25], Y[:25], 20, optimizer=fastbp.Adam(lr=0.02), validation_data=(inputs[25:], Y[25:]), seed=1)
    A, kept_Y = pop._kept_validation
    np.testing.assert_allclose(A, pop.predict(inputs[25:]), rtol=1e-12)
    np.testing.assert_array_equal(kept_Y, Y[25:])
    np.testing.assert_allclose(pop.losses, pop.loss(inputs[25:], Y[25:]), rtol=1e-12)

    def score(mean):
        if loss == "cross_entropy":
            return -np.log(mean[np.arange(15), Y[25:]]).sum()
        return ((mean - Y[25:]) ** 2).sum()

    counts = greedy(A, 6, score)
    chosen = pop.select(6)
    check_selection(pop, chosen, counts, 6)
    of_mean = score(chosen.mean(inputs[25:]))
    assert of_mean <= min(map(score, A)) + 1e-12
    pop.fit(inputs, Y, seed=2)
    assert pop._kept_validation is None
    with pytest.raises(ValueError, match="select needs the validation predictions"):
        pop.select(2)


def test_select_after_cross_validation(backend):
    inputs, Y = samples()
    pop = fastbp.Population([3, 4, 1], 5, "tanh", seed=0, dtype="float64", backend=backend)
    start = pop.copy()
    history = pop.fit(inputs, Y, 10, optimizer=fastbp.Adam(lr=0.02), folds=4, seed=1)
    assert pop.parameters.tobytes() == start.parameters.tobytes() and np.isfinite(history.out_of_fold).all()
    counts = greedy(history.out_of_fold, 4, lambda mean: ((mean - Y) ** 2).sum())
    check_selection(pop, pop.select(4), counts, 4)


def test_warnings_of_fit_name_the_line_of_its_caller(backend):
    inputs, Y = samples()
    pop = fastbp.Population([3, 4, 1], 3, ["tanh", "identity"], seed=0, backend=backend)
    with pytest.warns(RuntimeWarning, match="finite") as warned:
        pop.fit(inputs, Y, 200, 4, fastbp.SGD(lr=[0.01, 1e6, 0.01]), seed=0)
    assert [warning.filename for warning in warned] == [__file__]
    assert np.isfinite(pop.parameters).all() and pop.history.nonfinite.tolist() == [False, True, False]


def test_a_fit_that_is_refused_changes_nothing(pop, data):
    pop.losses[:] = range(5)
    before = bits(pop)
    X, P, labels = data
    for arguments, message in [
        (dict(epochs=0), "epochs"),
        (dict(batch_size=0), "batch_size must be at least 1, got 0"),
        (dict(optimizer="adam"), "optimizer must be one such as"),
        (dict(l2=-1), "l2 must be at least 0, got -1"),
        (dict(l2=[1, 2]), "l2 must be one value, or one for each of the 5 networks"),
        (dict(tol=1e-3), "unexpected keyword argument 'tol'"),
        (dict(dropuot=0.5), "unexpected keyword argument 'dropuot'; did you mean 'dropout'"),
        (dict(seed="x"), "seed"),
        (dict(metrics=["acuracy"]), "did you mean 'accuracy'"),
        (dict(validation_data=X), "validation_data must be a pair"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            pop.fit(X, labels, **arguments)
        assert bits(pop) == before
    with pytest.raises(ValueError, match="Y has 6 rows"):
        pop.fit(X, labels[:6])
    assert bits(pop) == before
