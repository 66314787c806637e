"""Loops of the full-batch methods, which see all samples before each step: L-BFGS and Levenberg-Marquardt.

Both minimize E = loss of the network by its reduction + l2 / 2 * sum W**2.  Their vectors are float64; losses,
gradients and Jacobians are computed in the dtype of the network.  One iteration is one epoch of the `Trainer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import checks, interrupts
from ..backends import kernels_of
from ..network import Network
from ..optimizers import LBFGS, LevenbergMarquardt, minimize
from ..reference.backprop import layer_views

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

CHUNK_BYTES = 1 << 26  # rows of the Jacobian held together, in float64
MIN_DAMPING = 1e-15
MIN_SCALE = 1e-12  # of the largest element of D, which is 0 for parameters that no output depends on
DECREASE, FLATTER = 1e-4, 0.9  # c1 and c2 of the Wolfe conditions
GROWTH, SHRINK = 4.0, 0.1  # a step grows by at most GROWTH and keeps SHRINK of its interval from either end
FIRST_FALL = 0.1  # fraction of the loss: a first step must change it, however large the targets are
FLAT_ITERATIONS = 3
CURVATURE = 1e-10  # cosine of the angle between a step and its gradient difference


@minimize.register
def _lbfgs(method: LBFGS, net, X, Y, epochs, after, update, weights, running_products, vectors) -> str | None:
    objective = Objective(net, X, Y, weights, update)
    pairs = _Pairs(running_products, vectors)
    x = objective.x
    total, gradient = objective(x)
    if not (np.isfinite(total) and checks.is_finite(gradient)):
        return "nonfinite"
    pairs.begin(total)
    ftol = max(method.ftol, objective.eps)
    try:
        for _ in range(epochs):
            direction, found = pairs.direction(gradient, total), None
            is_flat = pairs.are_flat(ftol) or -(gradient @ direction) <= method.gtol**2 * abs(total)
            if not is_flat:
                found = _line_search(objective, x, total, gradient, direction, method.max_line_search)
            if found is None:
                found = _last_search(objective, x, total, gradient, max(ftol, method.gtol**2), method.max_line_search)
                if found is None:
                    return "converged" if is_flat else "stalled"
                pairs.clear()
            x_new, total, loss, gradient_new = found
            with interrupts.deferred():
                pairs.add(x_new - x, gradient_new - gradient, total)
                x, gradient = x_new, gradient_new
                objective.set_parameters(x)  # the line search may have tried another point last
            if after(loss):
                return None
        return None
    finally:
        objective.set_parameters(x)


class _Pairs:
    """The last steps s and gradient differences y, kept in a `State` from one call to the next.

    running_products[0] is 1 + the number of pairs, running_products[1] is 1 + the index of the next one,
    running_products[2] the last loss with the penalty, and `falls` the fractions by which the last iterations
    lowered it.
    """

    def __init__(self, running_products, vectors):
        self.running_products, self.max_pairs = running_products, len(vectors) // 2
        self.s, self.y = vectors[: self.max_pairs], vectors[self.max_pairs :]
        self.falls = running_products[3 : 3 + FLAT_ITERATIONS]
        if not (
            running_products[0] in range(1, self.max_pairs + 2) and running_products[1] in range(1, self.max_pairs + 1)
        ):  # of a crafted file
            self.clear()

    def __len__(self) -> int:
        return int(self.running_products[0]) - 1

    def clear(self):
        """Forget them."""
        self.running_products[:2] = 1

    def begin(self, total):
        """Go on from this loss; where it is not the last one, data or parameters were changed: nothing is flat yet."""
        if total != self.running_products[2]:
            self.running_products[2], self.falls[:] = total, 1

    def add(self, s, y, total):
        """Record the loss after a step, and replace the oldest pair if the curvature along it is positive."""
        before, self.running_products[2] = self.running_products[2], total
        self.falls[:] = *self.falls[1:], (before - total) / max(abs(before), abs(total))
        if not s @ y > CURVATURE * np.sqrt((s @ s) * (y @ y)):
            return
        i = int(self.running_products[1]) - 1
        self.s[i], self.y[i] = s, y
        self.running_products[0] = min(len(self) + 1, self.max_pairs) + 1
        self.running_products[1] = (i + 1) % self.max_pairs + 1

    def are_flat(self, ftol):
        """Whether the last iterations hardly lowered the loss; one alone may be the first of a long valley."""
        return (self.falls <= ftol).all()

    def direction(self, gradient, total):
        """Return -H gradient, H being the approximation of the inverse Hessian."""
        newest_first = [(int(self.running_products[1]) - 2 - i) % self.max_pairs for i in range(len(self))]
        d, factors = -gradient, []
        for i in newest_first:
            factors.append(self.s[i] @ d / (self.s[i] @ self.y[i]))
            d -= factors[-1] * self.y[i]
        for i in newest_first[:1]:
            d *= self.s[i] @ self.y[i] / (self.y[i] @ self.y[i])
        for i, factor in zip(reversed(newest_first), reversed(factors), strict=True):
            d += (factor - self.y[i] @ d / (self.s[i] @ self.y[i])) * self.s[i]
        if len(self) and gradient @ d < 0:
            return d
        self.clear()  # not a direction of descent, by rounding
        return _first_step(gradient, total)


def _first_step(gradient, total, part=slice(None)):
    """Return the step along the gradient, or a part of it, whose slope predicts a loss lower by `FIRST_FALL` of it."""
    step, g = np.zeros_like(gradient), gradient[part]
    if g.any():
        largest = np.abs(g).max()
        step[part] = -g * (FIRST_FALL * abs(total) / largest / ((g / largest) @ (g / largest)) / largest)
    return step


def _last_search(objective, x, total, gradient, ftol, max_steps):
    """Search along the gradient, then along that of each layer alone, which others may outweigh.

    Returns
    -------
    As `_line_search`: the first that lowers the loss by more than the fraction `ftol` of it, or None.
    """
    for part in objective.parts:
        found = _line_search(objective, x, total, gradient, _first_step(gradient, total, part), max_steps)
        if found is not None and total - found[1] > ftol * abs(total):
            return found
    return None


def _line_search(objective, x, total, gradient, direction, max_steps):
    """Find a step along the direction that satisfies the strong Wolfe conditions, or at least lowers the loss.

    Nocedal and Wright, algorithms 3.5 and 3.6, in one loop: `low` is the best step so far, and once there is a `high`,
    a minimum lies between the two.

    Returns
    -------
    (x, total, loss, gradient) or None
        There; None where none of `max_steps` steps lowers the loss.
    """
    slope, rounding = gradient @ direction, objective.eps * abs(total)
    step, low, high, found = 1.0, (0.0, total, slope), None, None
    for _ in range(max_steps if slope < 0 else 0):
        with np.errstate(all="ignore"):
            tried = objective.rounded(x + step * direction)
            here, gradient_here = objective(tried)
            slope_here = gradient_here @ direction
        is_finite = np.isfinite(here) and checks.is_finite(gradient_here)
        if not is_finite or here > min(total + DECREASE * step * slope, low[1]) + rounding:
            high = step, here if is_finite else np.inf, slope_here
        else:  # a first step may be too short for the loss to show it: the slope tells which way to go
            if here < (total if found is None else found[1]):
                found = tried, here, objective.loss, gradient_here
            if found is not None and abs(slope_here) <= -FLATTER * slope:
                return found
            if slope_here * (1.0 if high is None else high[0] - low[0]) >= 0:
                high = low
            low, before = (step, here, slope_here), low
        if high is None:
            step = min(max(_cubic_minimum(before, low), 2 * step), GROWTH * step)
        else:
            width = high[0] - low[0]
            fraction = (_cubic_minimum(low, high) - low[0]) / width if np.isfinite(high[1]) else SHRINK
            step = low[0] + min(max(fraction, SHRINK), 1 - SHRINK) * width
    return found


def _cubic_minimum(one, other):
    """Return where the cubic through two points (x, value, slope) has its minimum, or infinity without one."""
    (a, f, d), (b, g, e) = one, other
    with np.errstate(all="ignore"):
        c = d + e - 3 * (f - g) / (a - b)
        root = np.sqrt(c * c - d * e) * np.sign(b - a)
        x = b - (b - a) * (e + root - c) / (e - d + 2 * root)
    return x if np.isfinite(x) else np.inf


@minimize.register
def _levenberg_marquardt(
    method: LevenbergMarquardt, net, X, Y, epochs, after, update, weights, running_products, vectors
) -> str | None:
    """running_products[0] is the damping over the first one, and vectors[0] is D."""
    (scale,) = vectors
    objective = Objective(net, X, Y, weights, update)
    accepted, eps = objective.x, objective.eps
    total = objective.value(accepted)
    if not np.isfinite(total):
        return "nonfinite"
    try:
        for _ in range(epochs):
            gradient, H = objective.normal_equations(accepted)
            diagonal = H.diagonal().copy()
            if not (
                checks.is_finite(diagonal) and checks.is_finite(gradient)
            ):  # D, the largest so far, would stay there
                return "stalled"
            np.maximum(scale, diagonal, out=scale)
            lengths = np.sqrt(2 * total) * np.sqrt(diagonal)  # of the residuals times those of the columns of J
            if (np.abs(gradient) <= method.gtol * lengths).all():
                return "converged"
            is_stationary = (np.abs(gradient) <= np.sqrt(eps) * lengths).all()
            D, is_first = np.maximum(scale, MIN_SCALE * scale.max()), True
            while True:
                damping = method.damping * running_products[0]
                np.fill_diagonal(H, diagonal + damping * D)
                step = _solution(H, -gradient)
                if is_first and is_stationary and 0 <= -0.5 * (gradient @ step) <= eps * total:
                    return "converged"
                with np.errstate(all="ignore"):
                    tried = objective.rounded(accepted + step)
                lower = objective.value(tried)
                if lower < total:
                    break
                if damping * method.factor > method.max_damping:
                    running_products[0] = 1.0
                    return "stalled"
                running_products[0] *= method.factor
                is_first = False
            accepted, total = tried, lower
            running_products[0] = max(running_products[0] / method.factor, MIN_DAMPING / method.damping)
            if after(objective.loss):
                return None
        return None
    finally:
        objective.set_parameters(accepted)


class Objective:
    """The loss of a network over all samples as a function of its parameters x, float64 (n_parameters,).

    Attributes
    ----------
    loss, total : float
        Of the last evaluation, without and with the penalty.
    """

    def __init__(self, net, X, Y, weights=None, update=None):
        self.net, self.X, self.Y, self.weights, self.eps = net, X, Y, weights, float(np.finfo(net.dtype).eps)
        self.scale = 1 / len(X) if net.reduction == "mean" else 1.0
        self.decay = np.zeros(net.parameters.size)  # l2 of the weights, 0 of the biases
        for W in layer_views(self.decay, net.sizes)[0]:
            W[...] = 0.0 if update is None else update.l2
        self.loss = self.total = np.nan
        ends = np.cumsum([0, *((n_in + 1) * n_out for n_in, n_out in net.shapes)])
        self.parts = [slice(None), *map(slice, ends[:-1], ends[1:])]  # all parameters, and those of each layer

    @property
    def x(self):
        """The parameters of the network."""
        return self.net.parameters.astype(np.float64)

    def rounded(self, x):
        """Return x rounded to the dtype of the network, in which losses and gradients are computed."""
        return x.astype(self.net.dtype).astype(np.float64)

    def set_parameters(self, x):
        """Write x into the network."""
        with np.errstate(all="ignore"):
            self.net.parameters[:] = x

    def value(self, x):
        """Loss with the penalty."""
        self.set_parameters(x)
        losses = self.net._backend.losses(self.net.parameters, self.X, self.Y)
        return self._sum(x, losses if self.weights is None else losses * self.weights)

    def __call__(self, x):
        """Loss with the penalty, and its gradient."""
        self.set_parameters(x)
        losses, gradient = self.net._backend.gradient(self.net.parameters, self.X, self.Y, self.weights)
        with np.errstate(all="ignore"):
            return self._sum(x, losses), gradient.astype(np.float64) + self.decay * x

    def normal_equations(self, x):
        """Gradient, and J^T J of the residuals, times 1/n for the mean, with the penalty in both.

        Returns
        -------
        gradient : ndarray (n_parameters,)
        H : ndarray (n_parameters, n_parameters)
            The Gauss-Newton approximation of the Hessian.
        """
        self.set_parameters(x)
        n_outputs, n_parameters = self.net.sizes[-1], x.size
        gradient, H = self.decay * x, np.diag(self.decay)
        n_rows = max(1, CHUNK_BYTES // (8 * n_outputs * n_parameters))
        for rows in (slice(start, start + n_rows) for start in range(0, len(self.X), n_rows)):
            J, A = _jacobian(self.net, self.X[rows])
            J = J.reshape(-1, n_parameters).astype(np.float64)
            r = (A.astype(np.float64) - self.Y[rows]).T.ravel()
            if self.weights is not None:
                roots = np.tile(np.sqrt(self.weights[rows].astype(np.float64)), n_outputs)
                J, r = J * roots[:, None], r * roots
            with np.errstate(all="ignore"):
                gradient += self.scale * (J.T @ r)
                H += self.scale * (J.T @ J)
        return gradient, H

    def _sum(self, x, losses):
        with np.errstate(all="ignore"):  # divergence shows in the loss
            self.loss = float(self.scale * losses.sum())
            self.total = self.loss + 0.5 * float(self.decay @ (x * x))
        return self.total


def jacobian(net: Network, X: ArrayLike) -> np.ndarray:
    """Differentiate the outputs of a network with respect to its parameters, by backpropagation.

    Parameters
    ----------
    net : Network
    X : array_like (n_samples, n_in)

    Returns
    -------
    ndarray (n_out, n_samples, n_parameters)
        ``jacobian(net, X)[k, i]`` is d A[i, k] / d parameters, in the order of ``net.parameters``.
    """
    return _jacobian(net, checks.samples(X, net.sizes[0], net.dtype))[0]


def _jacobian(net, X):
    """Return the Jacobian and the outputs A (n_samples, n_out)."""
    layer_jacobian = kernels_of(net.backend).layer_jacobian
    J = np.empty((net.sizes[-1], len(X), net.parameters.size), net.dtype)
    for k, rows_of_J in enumerate(J):
        dA = np.zeros((len(X), net.sizes[-1]), net.dtype)
        dA[:, k] = 1
        record, first = net._backend.record(net.parameters, X, dA=dA), 0
        for A_prev, delta, W in zip(record.A, record.delta, net.weights, strict=False):
            layer_jacobian(A_prev, delta, first, rows_of_J)
            first += W.size + W.shape[1]
    return J, record.A[-1]


def _solution(H, g):
    """Solve H step = g; NaN, which no loss falls by, where H is singular."""
    try:
        return np.linalg.solve(H, g)
    except np.linalg.LinAlgError:
        return np.full_like(g, np.nan)
