"""Programs to read and to start from: networks that learn inside compiled loops.

    python -m fastbp.examples.cartpole      Q-learning: physics, replay buffer and network in one function
    python -m fastbp.examples.neural_ode    a law of friction learnt through a Runge-Kutta integrator
    python -m fastbp.examples.drift         one sample at a time, from a stream that drifts

Each prints a small table; ``--peers`` runs the same loop with PyTorch and JAX, ``--plot FILE`` draws a picture.
"""
