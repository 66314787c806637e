"""Q-learning on cart-pole: physics, replay buffer and network in one compiled loop.

    python -m fastbp.examples.cartpole
    python -m fastbp.examples.cartpole --peers --plot returns.png

The task is that of Barto, Sutton and Anderson (1983), with the constants and limits that are usual since: a force of
10 N to the left or right every 0.02 s, a reward of 1 for every step that the pole stands, at most 500 steps.  The
network learns Q, the expected sum of discounted rewards of both forces, by double Q-learning (van Hasselt et al. 2016)
from a replay buffer.
"""

import math
import time
from typing import NamedTuple

import numpy as np
from numba import njit

import fastbp

from .options import axes, parse, show
from .peers import ratios

MAX_STEPS = 500
SOLVED = 475.0  # mean steps of 100 episodes


# --------------------------------------------------------------------------------------------------- the physics


@njit(cache=True)
def reset(state, rng):
    """Start an episode: position, velocity, angle and its velocity, each between -0.05 and 0.05."""
    for i in range(4):
        state[i] = rng.uniform(-0.05, 0.05)


@njit(cache=True)
def advance(state, action):
    """Push to the left (0) or right (1) for 0.02 s, by Euler's rule; return whether the episode ended by a fall."""
    x, v, angle, spin = state[0], state[1], state[2], state[3]
    force = 10.0 if action == 1 else -10.0
    sine, cosine = math.sin(angle), math.cos(angle)
    push = (force + 0.05 * spin * spin * sine) / 1.1
    angular = (9.8 * sine - cosine * push) / (0.5 * (4.0 / 3.0 - 0.1 * cosine * cosine / 1.1))
    linear = push - 0.05 * angular * cosine / 1.1
    state[0], state[1] = x + 0.02 * v, v + 0.02 * linear
    state[2], state[3] = angle + 0.02 * spin, spin + 0.02 * angular
    return abs(state[0]) > 2.4 or abs(state[2]) > 12 * math.pi / 180


# --------------------------------------------------------------------------------------------------- the learning


class Settings(NamedTuple):
    """What Q-learning is told."""

    episodes: int = 600  # at most
    batch_size: int = 32
    buffer_size: int = 20_000
    warm_up: int = 500  # steps before the first update
    discount: float = 0.99
    explore_steps: int = 8_000  # over which the share of random actions falls from 1 to the least
    least_exploration: float = 0.02
    sync_steps: int = 500  # between copies of the network that values the next state
    trial_episodes: int = 20  # with the greedy policy, after every 10 episodes
    enough: float = 495.0  # mean steps of the trial at which training ends


@njit(cache=True)
def play(q, episodes, rng):
    """Return the mean number of steps over episodes of the greedy policy."""
    state, x, values = np.empty(4), np.empty(4, q.parameters.dtype), np.empty(2, q.parameters.dtype)
    total = 0
    for _ in range(episodes):
        reset(state, rng)
        for _ in range(MAX_STEPS):
            total += 1
            x[:] = state
            q.predict(x, values)
            if advance(state, int(values[1] > values[0])):
                break
    return total / episodes


@njit(cache=True)
def learn(q, settings, rng, returns):
    """Learn until the greedy policy is good enough; return episodes, steps and updates.

    Parameters
    ----------
    q : fastbp.jit model of 4 inputs and 2 outputs
    settings : Settings
    rng : numpy.random.Generator
        For the episodes, the exploration and the choice of samples.
    returns : float64 (settings.episodes,)
        Receives the number of steps of each episode.
    """
    dtype = q.parameters.dtype
    old = q.clone()  # the network that values the next state
    size, n = settings.buffer_size, settings.batch_size
    states, following = np.empty((size, 4), dtype), np.empty((size, 4), dtype)
    actions, fell = np.empty(size, np.int64), np.empty(size, np.bool_)
    X, Y = np.empty((n, 4), dtype), np.empty((n, 2), dtype)
    X_next, Q_next, Q_old, chosen = (
        np.empty((n, 4), dtype),
        np.empty((n, 2), dtype),
        np.empty((n, 2), dtype),
        np.empty(n, np.int64),
    )
    state, x, values = np.empty(4), np.empty(4, dtype), np.empty(2, dtype)
    steps = updates = 0
    for episode in range(settings.episodes):
        reset(state, rng)
        for t in range(MAX_STEPS):
            x[:] = state
            exploration = max(settings.least_exploration, 1 - steps / settings.explore_steps)
            if rng.random() < exploration:
                action = rng.integers(0, 2)
            else:
                q.predict(x, values)
                action = int(values[1] > values[0])
            at = steps % size
            states[at], actions[at] = x, action
            fell[at] = advance(state, action)
            following[at] = state
            steps += 1
            returns[episode] = t + 1
            if steps >= settings.warm_up:
                n_stored = min(steps, size)
                for r in range(n):
                    chosen[r] = rng.integers(0, n_stored)
                    X[r], X_next[r] = states[chosen[r]], following[chosen[r]]
                q.predict(X, Y)  # the other action keeps its value
                q.predict(X_next, Q_next)
                old.predict(X_next, Q_old)
                for r in range(n):
                    k = chosen[r]
                    best = int(Q_next[r, 1] > Q_next[r, 0])
                    Y[r, actions[k]] = 1.0 if fell[k] else 1.0 + settings.discount * Q_old[r, best]
                q.train_step(X, Y)
                updates += 1
                if updates % settings.sync_steps == 0:
                    old.parameters[:] = q.parameters
            if fell[at]:
                break
        if episode % 10 == 9 and play(q, settings.trial_episodes, rng) >= settings.enough:
            return episode + 1, steps, updates
    return settings.episodes, steps, updates


OPTIMIZER = fastbp.Adam(1e-3)


def network(seed):
    """Return the network for Q before it learns."""
    return fastbp.Network([4, 64, 2], activations=["relu", "identity"], init="he_normal", seed=seed)


def main(arguments=None):
    """Learn, and play 100 episodes by the greedy policy; return their mean number of steps."""
    options = parse(__doc__, arguments)
    settings = Settings(episodes=12 if options.short else Settings().episodes)
    q, returns = fastbp.jit.model(network(options.seed), OPTIMIZER), np.zeros(settings.episodes)
    learn(q.clone(), settings._replace(episodes=10), np.random.default_rng(0), returns)  # compiles
    rng = np.random.default_rng(options.seed)
    start = time.perf_counter()
    episodes, steps, updates = learn(q, settings, rng, returns)
    seconds = time.perf_counter() - start
    mean = play(q, 100, rng)
    show(
        [
            ("episodes, steps, updates", f"{episodes}, {steps:,}, {updates:,}"),
            ("seconds", f"{seconds:.2f}, {1e6 * seconds / steps:.1f} us a step"),
            ("mean steps of the greedy policy", f"{mean:.1f} of {MAX_STEPS}, over 100 new episodes"),
        ]
    )
    if options.plot:
        ax, save = axes(options.plot)
        ax.plot(returns[:episodes], ".")
        ax.set(xlabel="episode", ylabel="steps that the pole stands", title="Q-learning on cart-pole")
        save()
    if options.peers:
        few = settings._replace(episodes=9, warm_up=settings.batch_size)

        def run(model):  # the loop as plain Python; the physics stays compiled
            return learn.py_func(model, few, np.random.default_rng(0), np.zeros(few.episodes))[1]

        own = fastbp.jit.model(network(options.seed), OPTIMIZER)
        ratios(
            network(options.seed), OPTIMIZER, lambda: learn(own.clone(), few, np.random.default_rng(0), returns)[1], run
        )
    return mean


if __name__ == "__main__":
    main()
