"""A small problem with plain gradients: a quadratic of many curvatures, and waves on it."""

import numpy as np

START = np.array([-2.0, -0.7, -0.01, 0.0, 0.3, 1.1, 3.0])
CURVATURE = np.array([5.0, 0.1, 1.0, 2.0, 0.01, 3.0, 0.5])


def gradient(p):
    """Gradient of sum(curvature / 2 * (p - 1/2)**2 - cos(2 p))."""
    return CURVATURE * (p - 0.5) + 2 * np.sin(2 * p)
