"""A law of friction learnt inside a Runge-Kutta integrator, fitted through the solver by its discrete adjoint.

    python -m fastbp.examples.neural_ode
    python -m fastbp.examples.neural_ode --peers --plot friction.png

A pendulum is observed: angle' = spin, spin' = -sin(angle) + friction(angle, spin).  The friction is not known: a
network stands for it (Rackauckas et al. 2020, universal differential equations).  Each update integrates a piece of a
trajectory by the classical Runge-Kutta rule, and goes back through the same steps, stage by stage, from the squared
errors of the states to the gradient of the network's parameters.
"""

import math
import time

import numpy as np
from numba import njit

import fastbp

from .options import axes, parse, show
from .peers import ratios

STEP = 0.1  # seconds of one Runge-Kutta step


@njit(cache=True)
def true_friction(angle, spin):
    """Return the friction that is to be found: of the air, and of a brake at the lowest point."""
    return -0.15 * spin * abs(spin) - 0.5 * spin * math.exp(-2.0 * angle * angle)


@njit(cache=True)
def integrate(m, states, stages):
    """Integrate from states[0] on, with the network's friction, keeping the inputs of all stages.

    Parameters
    ----------
    m : fastbp.jit model of 2 inputs, angle and spin, and 1 output
    states : (n_steps + 1, 2)
    stages : (n_steps, 4, 2), overwritten
    """
    slopes, friction = np.empty((4, 2), states.dtype), np.empty(1, states.dtype)
    for t in range(len(stages)):
        for s in range(4):
            u, h = stages[t, s], STEP if s == 3 else STEP / 2
            for i in range(2):
                u[i] = states[t, i] if s == 0 else states[t, i] + h * slopes[s - 1, i]
            m.predict(u, friction)
            slopes[s, 0], slopes[s, 1] = u[1], friction[0] - math.sin(u[0])
        for i in range(2):
            increment = slopes[0, i] + 2 * slopes[1, i] + 2 * slopes[2, i] + slopes[3, i]
            states[t + 1, i] = states[t, i] + STEP / 6 * increment


@njit(cache=True)
def back_through(m, states, observed, stages):
    """Return half the squared error of the states, and accumulate its gradient: the adjoint of `integrate`.

    The adjoint is d loss / d state; through each stage it goes by the derivative of the slope, in reverse order.
    """
    adjoint, d_slope, d_stage = np.zeros(2), np.zeros(2), np.zeros(2)
    d_friction, d_inputs = np.empty(1, states.dtype), np.empty(2, states.dtype)
    loss = 0.0
    for t in range(len(stages) - 1, -1, -1):
        for i in range(2):
            error = states[t + 1, i] - observed[t + 1, i]
            loss += 0.5 * error * error
            adjoint[i] += error
        d_next = adjoint.copy()
        for s in range(3, -1, -1):
            u, share = stages[t, s], STEP / 6 if s == 0 or s == 3 else STEP / 3
            h = 0.0 if s == 3 else (STEP if s == 2 else STEP / 2)  # by which the next stage took this slope
            for i in range(2):
                d_slope[i] = share * d_next[i] + h * d_stage[i]
            d_friction[0] = d_slope[1]
            m.backpropagate(u, d_friction, d_inputs)
            d_stage[0] = d_inputs[0] - d_slope[1] * math.cos(u[0])
            d_stage[1] = d_inputs[1] + d_slope[0]
            for i in range(2):
                adjoint[i] += d_stage[i]
    return loss


@njit(cache=True)
def fit(m, trajectories, n_steps, updates, rng, losses):
    """Fit the network to pieces of `n_steps` of the trajectories (n, n_times, 2), one piece an update."""
    states, stages = np.empty((n_steps + 1, 2), trajectories.dtype), np.empty((n_steps, 4, 2), trajectories.dtype)
    for k in range(updates):
        which, start = rng.integers(0, len(trajectories)), rng.integers(0, trajectories.shape[1] - n_steps)
        observed = trajectories[which, start : start + n_steps + 1]
        states[0] = observed[0]
        integrate(m, states, stages)
        losses[k] = back_through(m, states, observed, stages)
        m.apply_accumulated()


@njit(cache=True)
def observe(n, n_times, rng):
    """Return n trajectories (n, n_times, 2) of the true pendulum from random states on, at intervals of STEP."""
    trajectories, n_within = np.empty((n, n_times, 2)), 20
    h = STEP / n_within
    for k in range(n):
        angle, spin = rng.uniform(-3.0, 3.0), rng.uniform(-3.0, 3.0)
        for t in range(n_times):
            trajectories[k, t, 0], trajectories[k, t, 1] = angle, spin
            for _ in range(n_within):  # the midpoint rule, in steps so short that its error does not matter
                middle_angle = angle + h / 2 * spin
                middle_spin = spin + h / 2 * (true_friction(angle, spin) - math.sin(angle))
                angle += h * middle_spin
                spin += h * (true_friction(middle_angle, middle_spin) - math.sin(middle_angle))
    return trajectories


@njit(cache=True)
def error_of_friction(m, n):
    """Return the root mean square of the network's errors, and of the true friction, on a grid of n x n states."""
    u, friction = np.empty(2), np.empty(1)
    error = size = 0.0
    for i in range(n):
        for j in range(n):
            u[0], u[1] = -2.0 + 4.0 * i / (n - 1), -2.0 + 4.0 * j / (n - 1)
            m.predict(u, friction)
            true = true_friction(u[0], u[1])
            error += (friction[0] - true) ** 2
            size += true**2
    return math.sqrt(error) / n, math.sqrt(size) / n


def gradient_of(net, observed):
    """Return the gradient of the loss of one piece of a trajectory, by the adjoint: what a step of SGD subtracts."""
    m = fastbp.jit.model(net.copy(), fastbp.SGD(1.0))
    before = m.parameters.copy()
    fit(m, observed[np.newaxis], len(observed) - 1, 1, np.random.default_rng(0), np.empty(1))
    return before - m.parameters


def difference_from_central(net, observed, directions, h=1e-6):
    """Return the largest difference of the adjoint from central differences along random directions, relative."""
    gradient, n_steps = gradient_of(net, observed), len(observed) - 1
    states, stages = np.empty_like(observed), np.empty((n_steps, 4, 2))
    m = fastbp.jit.model(net.copy())
    parameters, worst = m.parameters.copy(), 0.0
    for direction in directions:
        losses = []
        for sign in (1, -1):
            m.parameters[:] = parameters + sign * h * direction
            states[0] = observed[0]
            integrate(m, states, stages)
            losses.append(0.5 * np.sum((states[1:] - observed[1:]) ** 2))
        by_differences = (losses[0] - losses[1]) / (2 * h)
        worst = max(
            worst, abs(by_differences - gradient @ direction) / (np.linalg.norm(gradient) * np.linalg.norm(direction))
        )
    return worst


N_UPDATES = 10_000
OPTIMIZER = fastbp.Adam(fastbp.schedules.Cosine(1e-2, period=N_UPDATES))


def network(seed):
    """Return the network for the friction before it learns; the loss of a piece is a sum."""
    return fastbp.Network(
        [2, 16, 16, 1], activations=["tanh", "tanh", "identity"], reduction="sum", dtype="float64", seed=seed
    )


def main(arguments=None):
    """Fit the friction; return the error of the network's friction, relative to its size."""
    options = parse(__doc__, arguments)
    updates, n_steps = 200 if options.short else N_UPDATES, 10
    rng = np.random.default_rng(options.seed)
    trajectories = observe(100, 31, rng)
    m, losses = fastbp.jit.model(network(options.seed), OPTIMIZER), np.empty(updates)
    fit(m.clone(), trajectories, n_steps, 1, rng, losses)  # compiles
    start = time.perf_counter()
    fit(m, trajectories, n_steps, updates, rng, losses)
    seconds = time.perf_counter() - start
    error, size = error_of_friction(m, 41)
    directions = np.random.default_rng(0).standard_normal((5, m.parameters.size))
    difference = difference_from_central(network(options.seed), trajectories[0, : n_steps + 1], directions)
    show(
        [
            ("updates, each back through 10 steps of 4 stages", f"{updates:,}"),
            ("seconds", f"{seconds:.2f}, {1e6 * seconds / updates:.1f} us an update"),
            ("error of the friction, root mean square", f"{error:.4f}, of {size:.4f}"),
            ("gradient against central differences", f"{difference:.1e}"),
        ]
    )
    if options.plot:
        ax, save = axes(options.plot)
        spins, friction = np.linspace(-2, 2, 101), np.empty(1)
        for angle in (0.0, 1.0):
            learnt = []
            for spin in spins:
                m.predict(np.array([angle, spin]), friction)
                learnt.append(friction[0])
            (line,) = ax.plot(spins, learnt, label=f"learnt, angle {angle:g}")
            true = [true_friction(angle, spin) for spin in spins]
            ax.plot(spins, true, "--", color=line.get_color(), label="true")
        ax.set(xlabel="spin", ylabel="friction", title="Friction learnt through a Runge-Kutta integrator")
        ax.legend()
        save()
    if options.peers:
        states, stages = np.empty((n_steps + 1, 2)), np.empty((n_steps, 4, 2))

        def run(model):  # as `fit`, as plain Python, for one piece
            states[0] = trajectories[0, 0]
            integrate.py_func(model, states, stages)
            back_through.py_func(model, states, trajectories[0], stages)
            model.apply_accumulated()
            return 1

        own = fastbp.jit.model(network(options.seed), OPTIMIZER)

        def run_compiled():
            fit(own, trajectories, n_steps, 100, rng, losses)
            return 100

        ratios(network(options.seed), fastbp.Adam(1e-2), run_compiled, run)
    return error / size


if __name__ == "__main__":
    main()
