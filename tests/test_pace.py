"""How the engine finds out whether threads pay: trials cover every batch once, and change no bit."""

import numpy as np
import pytest

import fastbp
from fastbp import engine
from fastbp.update import State, Update


@pytest.mark.parametrize(
    "n_epochs, first, last", [(1, 0, 1000), (1, 37, 500), (1, 0, 10), (2, 0, 50), (9, 0, 7), (40, 0, 3), (40, 0, 1)]
)
@pytest.mark.parametrize("calls", [1, 2, engine.CALLS_BETWEEN_TRIALS])
def test_pieces_cover_every_batch_once_and_in_order(n_epochs, first, last, calls):
    pace = engine._Pace(2, engine.TRIAL_WORK // 5)
    for _ in range(calls - 1):
        pace.pieces(slice(0, n_epochs), first, last)
    pace.seconds[1] = 1.0
    steps = [
        (epoch, batch)
        for _, epochs, start, stop in pace.pieces(slice(0, n_epochs), first, last)
        for epoch in range(epochs.start, epochs.stop)
        for batch in range(start, stop)
    ]
    assert steps == [(epoch, batch) for epoch in range(n_epochs) for batch in range(first, last)]


def test_trials_come_while_nothing_is_known_and_then_seldom():
    pace = engine._Pace(3, engine.TRIAL_WORK)
    numbers = [[number for number, *_ in pace.pieces(slice(0, 1), 0, 100)] for _ in range(2)]
    assert numbers == [[1, 3] * engine.TRIALS + [None]] * 2
    pace.note(1, 1.0, True)
    trials = [len(pace.pieces(slice(0, 1), 0, 100)) > 1 for _ in range(2 * engine.CALLS_BETWEEN_TRIALS)]
    assert sum(trials) == 2


def test_calls_too_short_for_a_trial_have_none():
    work = engine.LEAST_TRIAL_WORK // 10
    assert len(engine._Pace(2, work).pieces(slice(0, 1), 0, 79)) == 1
    assert len(engine._Pace(2, work).pieces(slice(0, 1), 0, 80)) == 5
    assert len(engine._Pace(2, work).pieces(slice(0, 16), 0, 1)) == 1
    assert len(engine._Pace(2, work).pieces(slice(0, 16), 0, 5)) == 5


def test_evaluations_try_both_in_turn_now_and_then():
    pace = engine._Pace(3, 1)
    for seconds_of_three in (0.5, 2.0, 0.5):
        turns = []
        for _ in range(engine.EVALUATIONS_BETWEEN_TRIALS):
            threads, is_trial = pace.turn()
            pace.note(threads, {1: 1.0, 3: seconds_of_three}[threads], is_trial)
            turns.append((threads, is_trial))
        n = 2 * engine.TRIALS
        assert turns[:n] == [(3, True), (1, True)] * engine.TRIALS
        assert set(turns[n:]) == {(3 if seconds_of_three < 1 else 1, False)}


def test_the_faster_number_of_threads_is_best():
    assert engine._Pace(4, 4 * engine.LARGE_WORK).best == 4
    pace = engine._Pace(4, 4 * engine.LARGE_WORK - 1)
    assert pace.best == 1
    pace.seconds.update({1: 2.0, 4: 3.0})
    assert pace.best == 1
    pace.seconds[4] = 1.0
    assert pace.best == 4


def test_a_slow_moment_does_not_decide_but_lasting_slowness_does():
    pace = engine._Pace(2, 1)
    pace.note(2, 5.0, False)  # nothing to compare it with
    for number, seconds in [(1, 1.0), (2, 5.0), (1, 1.1), (2, 0.6)]:
        pace.note(number, seconds, True)
    assert pace.best == 2 and pace.seconds == {1: 1.0, 2: 0.6}
    pace.note(2, 1.2, False)
    assert pace.best == 2
    for _ in range(2):
        pace.note(2, 1.8, False)
    assert pace.best == 1
    pace._calls = engine.CALLS_BETWEEN_TRIALS - 1
    pace.pieces(slice(0, 1), 0, 10**9)
    for number, seconds in [(1, 1.0), (2, 0.6)]:
        pace.note(number, seconds, True)
    assert pace.best == 2


@pytest.mark.parametrize("batch_size, n_epochs", [(3, 1), (40, 1), (40, 12)])
def test_trials_change_no_bit(monkeypatch, batch_size, n_epochs):
    rng = np.random.default_rng(0)
    X, Y = rng.random((240, 20), np.float32), rng.random((240, 4), np.float32)
    words = rng.integers(0, 2**32, (n_epochs, 240), np.uint32)
    start = rng.standard_normal(20 * 150 + 150 + 151 * 4).astype(np.float32) * 0.1
    results = []
    for trials in (False, True):
        monkeypatch.setattr(engine, "MIN_ROWS_PER_THREAD", 1)
        monkeypatch.setattr(engine, "MIN_WORK_PER_THREAD", 1 if trials else 10**15)
        monkeypatch.setattr(engine, "TRIAL_WORK", 1)
        monkeypatch.setattr(engine, "LEAST_TRIAL_WORK", 1)
        monkeypatch.setattr(engine, "CALLS_BETWEEN_TRIALS", 1)
        backend = engine.NumbaBackend((20, 150, 4), ("tanh", "sigmoid"), "squared_error", "mean", np.float32)
        parameters, losses, order = start.copy(), np.zeros(n_epochs), np.arange(240)
        n_batches = -(-240 // batch_size)
        train = backend.training(
            parameters,
            State(0, parameters.size, np.float32),
            batch_size=batch_size,
            order=order,
            update=Update(),
            threads=2,
        )
        done = train(X, Y, None, words, 0, n_batches, losses)
        assert done == n_epochs * n_batches
        assert bool(backend._paces) == trials
        if trials and n_batches * n_epochs >= 4 * engine.TRIALS:
            (pace,) = backend._paces.values()
            assert len(pace.seconds) == 2 and all(seconds > 0 for seconds in pace.seconds.values())
        results.append((parameters.tobytes(), losses.tobytes(), order.tobytes()))
    assert results[0] == results[1]


def test_a_limit_of_threads_holds_for_a_trainer_that_has_trained_before(monkeypatch):
    X, Y = np.ones((512, 64), np.float32), np.ones((512, 32), np.float32)
    trainer = fastbp.Trainer(fastbp.Network([64, 256, 32], seed=0), fastbp.SGD(0.1), batch_size=128, seed=0)
    monkeypatch.setattr(engine, "CERTAIN_WORK", 0)
    work, seen = engine.NumbaBackend._work, []

    def spy(self, prepare, key, threads, *rest, **options):
        seen.append(threads)
        return work(self, prepare, key, threads, *rest, **options)

    monkeypatch.setattr(engine.NumbaBackend, "_work", spy)
    before = engine._threads
    try:
        for limit in (2, 1, 3):
            fastbp.set_num_threads(limit)
            seen.clear()
            trainer.fit(X, Y)
            assert set(seen) == {limit}
    finally:
        engine._threads = before
