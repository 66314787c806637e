"""How the engine finds out whether threads pay: trials cover every batch once, and change no bit."""

import numpy as np
import pytest
from shared import record_launches

import fastbp
from fastbp.engine import autotune, limits, threads
from fastbp.engine.backend import NumbaBackend
from fastbp.update import State, Update


@pytest.mark.parametrize(
    "n_epochs, first, last", [(1, 0, 1000), (1, 37, 500), (1, 0, 10), (2, 0, 50), (9, 0, 7), (40, 0, 3), (40, 0, 1)]
)
@pytest.mark.parametrize("calls", [1, 2, limits.CALLS_BETWEEN_TRIALS])
def test_parts_cover_every_batch_once_and_in_order(n_epochs, first, last, calls):
    autotuner = autotune.Autotuner(2, limits.TRIAL_WORK // 5)
    for _ in range(calls - 1):
        autotuner.split(n_epochs, first, last)
    autotuner.seconds[1] = 1.0
    steps = [
        (epoch, batch)
        for _, epochs, start, stop in autotuner.split(n_epochs, first, last)
        for epoch in range(epochs.start, epochs.stop)
        for batch in range(start, stop)
    ]
    assert steps == [(epoch, batch) for epoch in range(n_epochs) for batch in range(first, last)]


def test_trials_come_while_nothing_is_known_and_then_seldom():
    autotuner = autotune.Autotuner(3, limits.TRIAL_WORK)
    numbers = [[number for number, *_ in autotuner.split(1, 0, 100)] for _ in range(2)]
    assert numbers == [[1, 3] * limits.TRIALS + [None]] * 2
    autotuner.record(1, 1.0, True)
    trials = [len(autotuner.split(1, 0, 100)) > 1 for _ in range(2 * limits.CALLS_BETWEEN_TRIALS)]
    assert sum(trials) == 2


def test_calls_too_short_for_a_trial_have_none():
    work = limits.MIN_TRIAL_WORK // 10
    assert len(autotune.Autotuner(2, work).split(1, 0, 79)) == 1
    assert len(autotune.Autotuner(2, work).split(1, 0, 80)) == 5
    assert len(autotune.Autotuner(2, work).split(16, 0, 1)) == 1
    assert len(autotune.Autotuner(2, work).split(16, 0, 5)) == 5


def test_evaluations_try_both_in_turn_now_and_then():
    autotuner = autotune.Autotuner(3, 1)
    for seconds_of_three in (0.5, 2.0, 0.5):
        turns = []
        for _ in range(limits.SHORT_CALLS_BETWEEN_TRIALS):
            threads, is_trial = autotuner.choose()
            autotuner.record(threads, {1: 1.0, 3: seconds_of_three}[threads], is_trial)
            turns.append((threads, is_trial))
        n = 2 * limits.TRIALS
        assert turns[:n] == [(3, True), (1, True)] * limits.TRIALS
        assert set(turns[n:]) == {(3 if seconds_of_three < 1 else 1, False)}


def test_the_faster_number_of_threads_is_best():
    assert autotune.Autotuner(4, 4 * limits.LARGE_WORK).best == 4
    autotuner = autotune.Autotuner(4, 4 * limits.LARGE_WORK - 1)
    assert autotuner.best == 1
    autotuner.seconds.update({1: 2.0, 4: 3.0})
    assert autotuner.best == 1
    autotuner.seconds[4] = 1.0
    assert autotuner.best == 4


def test_a_slow_moment_does_not_decide_but_lasting_slowness_does():
    autotuner = autotune.Autotuner(2, 1)
    autotuner.record(2, 5.0, False)  # nothing to compare it with
    for number, seconds in [(1, 1.0), (2, 5.0), (1, 1.1), (2, 0.6)]:
        autotuner.record(number, seconds, True)
    assert autotuner.best == 2 and autotuner.seconds == {1: 1.0, 2: 0.6}
    autotuner.record(2, 1.2, False)
    assert autotuner.best == 2
    for _ in range(2):
        autotuner.record(2, 1.8, False)
    assert autotuner.best == 1
    autotuner._calls = limits.CALLS_BETWEEN_TRIALS - 1
    autotuner.split(1, 0, 10**9)
    for number, seconds in [(1, 1.0), (2, 0.6)]:
        autotuner.record(number, seconds, True)
    assert autotuner.best == 2


@pytest.mark.parametrize("batch_size, n_epochs", [(3, 1), (40, 1), (40, 12)])
def test_trials_change_no_bit(monkeypatch, batch_size, n_epochs):
    rng = np.random.default_rng(0)
    X, Y = rng.random((240, 20), np.float32), rng.random((240, 4), np.float32)
    words = rng.integers(0, 2**32, (n_epochs, 240), np.uint32)
    start = rng.standard_normal(20 * 150 + 150 + 151 * 4).astype(np.float32) * 0.1
    results = []
    for trials in (False, True):
        monkeypatch.setattr(limits, "MIN_ROWS_PER_THREAD", 1)
        monkeypatch.setattr(limits, "MIN_WORK_PER_THREAD", 1 if trials else 10**15)
        monkeypatch.setattr(limits, "TRIAL_WORK", 1)
        monkeypatch.setattr(limits, "MIN_TRIAL_WORK", 1)
        monkeypatch.setattr(limits, "CALLS_BETWEEN_TRIALS", 1)
        numba = NumbaBackend((20, 150, 4), ("tanh", "sigmoid"), "squared_error", "mean", np.float32)
        parameters, losses, order = start.copy(), np.zeros(n_epochs), np.arange(240)
        n_batches = -(-240 // batch_size)
        train = numba.training(
            parameters,
            State(0, parameters.size, np.float32),
            batch_size=batch_size,
            order=order,
            update=Update(),
            threads=2,
        )
        done = train(X, Y, None, words, 0, n_batches, losses)
        assert done == n_epochs * n_batches
        assert bool(numba._autotuners) == trials
        if trials and n_batches * n_epochs >= 4 * limits.TRIALS:
            (autotuner,) = numba._autotuners.values()
            assert len(autotuner.seconds) == 2 and all(seconds > 0 for seconds in autotuner.seconds.values())
        results.append((parameters.tobytes(), losses.tobytes(), order.tobytes()))
    assert results[0] == results[1]


def test_a_limit_of_threads_holds_for_a_trainer_that_has_trained_before(monkeypatch):
    X, Y = np.ones((512, 64), np.float32), np.ones((512, 32), np.float32)
    trainer = fastbp.Trainer(fastbp.Network([64, 256, 32], seed=0), fastbp.SGD(0.1), batch_size=128, seed=0)
    monkeypatch.setattr(limits, "CERTAIN_WORK", 0)
    seen = record_launches(monkeypatch)
    before = threads._threads
    try:
        for limit in (2, 1, 3):
            fastbp.set_num_threads(limit)
            seen.clear()
            trainer.fit(X, Y)
            assert set(seen) == {limit}
    finally:
        threads._threads = before
