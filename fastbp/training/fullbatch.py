"""Methods that look at all samples before each step: L-BFGS and Levenberg-Marquardt.

Both minimise E = loss of the network by its reduction + l2 / 2 * sum W**2.  Their vectors are float64; losses,
gradients and Jacobians are computed in the dtype of the network.  One iteration is one epoch of the `Trainer`.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .. import arguments, checks, interrupts
from ..backends import kernels_of
from ..reference.backprop import layer_views
from ..update import N_RUNNING_PRODUCTS

BLOCK_BYTES = 1 << 26  # rows of the Jacobian held together, in float64
MAX_PARAMETERS = 10_000  # of Levenberg-Marquardt: a matrix of their square takes 0.8 GB, and two or three are held
MIN_DAMPING = 1e-15
SMALLEST_SCALE = 1e-12  # of the largest element of D: parameters that no output depends on have 0
DECREASE, FLATTER = 1e-4, 0.9  # c1 and c2 of the Wolfe conditions
GROWTH, SHRINK = 4.0, 0.1  # of a step: at most this much longer; nearer to an end of its interval than this, never
FIRST_FALL = 0.1  # share of the loss; the first step must show in it, however large the targets are
FLAT_ITERATIONS = 3
CURVATURE = 1e-10  # cosine of the angle between a step and its gradient difference
UNSUPPORTED = ("l1", "clip_value", "clip_norm", "max_norm", "dropout", "label_smoothing", "input_noise")


@dataclass(frozen=True)
class LBFGS:
    """Quasi-Newton steps from the last few gradients of all samples (L-BFGS).

    Nocedal and Wright, "Numerical optimization" (2006): the two-loop recursion, algorithm 7.4, with the scaling of
    equation 7.20, and a line search for the strong Wolfe conditions, algorithms 3.5 and 3.6.  The pairs of steps and
    gradient differences are kept in the trainer's state: training goes on with them in the next call of `fit`, and from
    a checkpoint, to the same bits.  A loss recorded is that after the iteration.

    Parameters
    ----------
    history : int
        Pairs of steps and gradient differences that approximate the Hessian.
    max_line_search : int
        Most evaluations along one direction.
    gtol : float
        Converged where the next step, at the slope of the loss along it, would lower the loss by no more than the share
        gtol**2 of it.
    ftol : float
        Converged where each of the last three iterations lowered the loss by no more than this share of it, or than its
        rounding.

    Raises
    ------
    ValueError, TypeError
        Where a setting is out of its range or not a number.

    Notes
    -----
    The loss in `gtol` and `ftol` is that with the penalty; neither depends on its unit.  Before training ends as
    converged or stalled, a step along the gradient is tried, and one along that of each layer alone, whose units may
    differ: training goes on if one of them lowers the loss by more than these shares.  Targets of size 1 are learned in
    far fewer iterations than targets of size 1000.
    """

    history: int = 10
    max_line_search: int = 20
    gtol: float = 1e-5
    ftol: float = 2.2e-9

    n_states: ClassVar[int] = 0

    def __post_init__(self):
        """Validate."""
        arguments.integer("history", self.history)
        arguments.integer("max_line_search", self.max_line_search)
        arguments.number("gtol", self.gtol, at_least=0)
        arguments.number("ftol", self.ftol, at_least=0)

    @property
    def n_vectors(self):
        """Float64 numbers kept of each parameter: the steps, then the gradient differences."""
        return 2 * self.history

    def check(self, net, update):
        """Refuse settings of an `Update` that it does not know."""
        _check(self, update)

    def minimize(self, net, X, Y, epochs, after, *, update=None, weights=None, running_products=None, vectors=None):
        """Iterate, leaving the last iterate in `net.parameters` whatever ends it, Ctrl-C too.

        Parameters
        ----------
        net : Network
        X, Y : ndarray
            Validated samples and targets.
        epochs : int
            Most iterations.
        after : function (float) -> bool
            Called after each iteration with the loss, without the penalty; the network holds the iterate.  True ends.
        update : Update, optional
            Of its settings `l2`; others that are not 0 are refused.
        weights : ndarray (n_samples,), optional
            Sample weights: E = 1/n sum of w_i E_i, or without 1/n for reduction="sum".
        memory, vectors : float64 ndarrays (N_RUNNING_PRODUCTS,) and (n_vectors, n_parameters), optional
            `State.running_products` and `State.vectors`, in and out: the pairs, how many there are, and where the next one goes.

        Returns
        -------
        str or None
            "converged"; "stalled", where no step found lowers the loss, as where float32 has no more digits;
            "nonfinite", where the first loss is not finite; None, where `epochs` or `after` ended it.
        """
        self.check(net, update)
        objective = Objective(net, X, Y, weights, update)
        pairs = _Pairs(*_kept(self, net, running_products, vectors))
        x = objective.x
        total, gradient = objective(x)
        if not (np.isfinite(total) and checks.is_finite(gradient)):
            return "nonfinite"
        pairs.begin(total)
        share = max(self.ftol, objective.eps)
        try:
            for _ in range(epochs):
                direction = pairs.direction(gradient, total)
                is_flat = pairs.are_flat(share) or -(gradient @ direction) <= self.gtol**2 * abs(total)
                found = None
                if not is_flat:
                    found = _line_search(objective, x, total, gradient, direction, self.max_line_search)
                if found is None:  # once more along the gradient, and along that of each layer: others may drown it
                    for part in objective.parts:
                        direction = _first_step(gradient, total, part)
                        found = _line_search(objective, x, total, gradient, direction, self.max_line_search)
                        if found is not None and total - found[1] > max(share, self.gtol**2) * abs(total):
                            pairs.clear()
                            break
                    else:
                        return "converged" if is_flat else "stalled"
                x_new, total, loss, gradient_new = found
                with interrupts.deferred():
                    pairs.add(x_new - x, gradient_new - gradient, total)
                    x, gradient = x_new, gradient_new
                    objective.place(x)  # the line search may have looked elsewhere last
                if after(loss):
                    return None
            return None
        finally:
            objective.place(x)


class _Pairs:
    """The last steps s and gradient differences y, in memory that outlives a call.

    memory[0] and memory[1] are 1 + how many pairs there are, and 1 + where the next one goes.  memory[2] is the loss
    that they led to, with the penalty, and `falls` by what shares of it the last iterations lowered it.
    """

    def __init__(self, running_products, vectors):
        self.running_products, self.most = running_products, len(vectors) // 2
        self.s, self.y = vectors[: self.most], vectors[self.most :]
        self.falls = running_products[3 : 3 + FLAT_ITERATIONS]
        if not (
            running_products[0] in range(1, self.most + 2) and running_products[1] in range(1, self.most + 1)
        ):  # of a crafted file
            self.clear()

    def __len__(self):
        return int(self.running_products[0]) - 1

    def clear(self):
        """Forget them."""
        self.running_products[:2] = 1

    def begin(self, total):
        """Go on from this loss; where it is another one than then, data or parameters were changed."""
        if total != self.running_products[2]:
            self.running_products[2], self.falls[:] = total, 1

    def add(self, s, y, total):
        """Note a step: its loss, and the pair instead of the oldest one, if the curvature along it is above 0."""
        before, self.running_products[2] = self.running_products[2], total
        self.falls[:] = *self.falls[1:], (before - total) / max(abs(before), abs(total))
        if not s @ y > CURVATURE * np.sqrt((s @ s) * (y @ y)):
            return
        place = int(self.running_products[1]) - 1
        self.s[place], self.y[place] = s, y
        self.running_products[0] = min(len(self) + 1, self.most) + 1
        self.running_products[1] = (place + 1) % self.most + 1

    def are_flat(self, share):
        """Whether the last iterations hardly lowered the loss; one alone may be the first of a long valley."""
        return (self.falls <= share).all()

    def direction(self, gradient, total):
        """Return -H gradient, H being the approximation of the inverse Hessian."""
        newest_first = [(int(self.running_products[1]) - 2 - i) % self.most for i in range(len(self))]
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
        self.clear()  # no direction of descent: rounding has spoilt them
        return _first_step(gradient, total)


def _first_step(gradient, total, part=slice(None)):
    """Return the step along the gradient, or a part of it, that at its slope lowers the loss by `FIRST_FALL` of it."""
    step, g = np.zeros_like(gradient), gradient[part]
    if g.any():
        largest = np.abs(g).max()
        step[part] = -g * (FIRST_FALL * abs(total) / largest / ((g / largest) @ (g / largest)) / largest)
    return step


def _line_search(objective, x, total, gradient, direction, most):
    """Find a step along the direction that satisfies the strong Wolfe conditions, or at least lowers the loss.

    Nocedal and Wright, algorithms 3.5 and 3.6, in one loop: `low` is the best step so far, and once there is a `high`,
    a minimum lies between the two.

    Returns
    -------
    (x, total, loss, gradient) or None
        What is found there; None where no step of the `most` tried lowers the loss.
    """
    slope, rounding = gradient @ direction, objective.eps * abs(total)
    step, low, high, found = 1.0, (0.0, total, slope), None, None
    for _ in range(most if slope < 0 else 0):
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
            share = (_cubic_minimum(low, high) - low[0]) / width if np.isfinite(high[1]) else SHRINK
            step = low[0] + min(max(share, SHRINK), 1 - SHRINK) * width
    return found


def _cubic_minimum(one, other):
    """Return where the cubic through two (place, value, slope) is least, or infinity where it has no minimum."""
    (a, f, d), (b, g, e) = one, other
    with np.errstate(all="ignore"):
        c = d + e - 3 * (f - g) / (a - b)
        root = np.sqrt(c * c - d * e) * np.sign(b - a)
        place = b - (b - a) * (e + root - c) / (e - d + 2 * root)
    return place if np.isfinite(place) else np.inf


@dataclass(frozen=True)
class LevenbergMarquardt:
    """Damped Gauss-Newton steps for squared_error and small networks.

    Each iteration solves (J^T J + damping D) step = -J^T r, J being the Jacobian of the residuals r = A - Y by
    backpropagation, both sides divided by the number of samples where the reduction is the mean, and D the diagonal of
    J^T J, of which each element is the largest so far: no unit of inputs or targets matters.  A step that lowers the
    loss is taken and the damping divided by `factor`; otherwise the damping is multiplied by it and the step computed
    anew (Marquardt 1963; More, "The Levenberg-Marquardt algorithm: implementation and theory", 1978; Hagan and Menhaj,
    "Training feedforward networks with the Marquardt algorithm", 1994).  A loss recorded is that after the iteration.

    Parameters
    ----------
    damping : float
        The first.
    factor : float
    max_damping : float
        No step lowers the loss: training ends, "stalled".
    gtol : float
        Converged where the cosine of the angle between the residuals and every column of the Jacobian is at most this,
        or, where the step could lower the loss by no more than its rounding, at most the root of the rounding.

    Raises
    ------
    ValueError, TypeError
        Where a setting is out of its range or not a number.

    Notes
    -----
    J is summed up over blocks of samples, so the memory is that of two or three float64 matrices of n_parameters
    squared; networks of more than `MAX_PARAMETERS` are refused.  J^T J and its solution are NumPy's, whose last bits
    may depend on the processor and the threads of its BLAS.
    """

    damping: float = 1e-3
    factor: float = 10.0
    max_damping: float = 1e10
    gtol: float = 1e-10

    n_states: ClassVar[int] = 0
    n_vectors: ClassVar[int] = 1

    def __post_init__(self):
        """Validate."""
        arguments.number("damping", self.damping, above=0)
        arguments.number("factor", self.factor, above=1)
        arguments.number("max_damping", self.max_damping, above=self.damping)
        arguments.number("gtol", self.gtol, at_least=0)

    def check(self, net, update):
        """Refuse settings of an `Update`, and networks, that it does not know."""
        _check(self, update)
        n_parameters = net.parameters.size
        if net.loss_name != "squared_error":
            raise ValueError(
                f"LevenbergMarquardt minimises sums of squares: the loss of the network must be "
                f"'squared_error', got {net.loss_name!r}"
            )
        if n_parameters > MAX_PARAMETERS:
            raise ValueError(
                f"LevenbergMarquardt solves for all parameters at once and takes at most "
                f"{MAX_PARAMETERS:,}, but the network has {n_parameters:,}; LBFGS takes any number"
            )

    def minimize(self, net, X, Y, epochs, after, *, update=None, weights=None, running_products=None, vectors=None):
        """Iterate; as `LBFGS.minimize`.

        The damping over the first one is kept in memory[0], and D in vectors[0], for later calls.
        """
        self.check(net, update)
        running_products, (scale,) = _kept(self, net, running_products, vectors)
        objective = Objective(net, X, Y, weights, update)
        accepted, eps = objective.x, objective.eps
        total = objective.value(accepted)
        if not np.isfinite(total):
            return "nonfinite"
        try:
            for _ in range(epochs):
                gradient, H = objective.normal_equations(accepted)
                diagonal = H.diagonal().copy()
                if not (checks.is_finite(diagonal) and checks.is_finite(gradient)):  # D would keep it for ever
                    return "stalled"
                np.maximum(scale, diagonal, out=scale)
                lengths = np.sqrt(2 * total) * np.sqrt(diagonal)  # of the residuals times those of the columns of J
                if (np.abs(gradient) <= self.gtol * lengths).all():
                    return "converged"
                is_stationary = (np.abs(gradient) <= np.sqrt(eps) * lengths).all()
                D, is_first = np.maximum(scale, SMALLEST_SCALE * scale.max()), True
                while True:
                    damping = self.damping * running_products[0]
                    np.fill_diagonal(H, diagonal + damping * D)
                    step = _solution(H, -gradient)
                    if is_first and is_stationary and 0 <= -0.5 * (gradient @ step) <= eps * total:
                        return "converged"
                    with np.errstate(all="ignore"):
                        tried = objective.rounded(accepted + step)
                    lower = objective.value(tried)
                    if lower < total:
                        break
                    if damping * self.factor > self.max_damping:
                        running_products[0] = 1.0
                        return "stalled"
                    running_products[0] *= self.factor
                    is_first = False
                accepted, total = tried, lower
                running_products[0] = max(running_products[0] / self.factor, MIN_DAMPING / self.damping)
                if after(objective.loss):
                    return None
            return None
        finally:
            objective.place(accepted)


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
        """Return x as the network holds it: what is computed there is of this point, and later calls go on from it."""
        return x.astype(self.net.dtype).astype(np.float64)

    def place(self, x):
        """Write x into the network."""
        with np.errstate(all="ignore"):
            self.net.parameters[:] = x

    def value(self, x):
        """Loss with the penalty."""
        self.place(x)
        losses = self.net._backend.losses(self.net.parameters, self.X, self.Y)
        return self._sum(x, losses if self.weights is None else losses * self.weights)

    def __call__(self, x):
        """Loss with the penalty, and its gradient."""
        self.place(x)
        losses, gradient = self.net._backend.gradient(self.net.parameters, self.X, self.Y, self.weights)
        with np.errstate(all="ignore"):
            return self._sum(x, losses), gradient.astype(np.float64) + self.decay * x

    def normal_equations(self, x):
        """Gradient, and J^T J of the residuals, times 1/n for the mean, with the penalty's share of both.

        Returns
        -------
        gradient : ndarray (n_parameters,)
        H : ndarray (n_parameters, n_parameters)
            The Gauss-Newton approximation of the Hessian.
        """
        self.place(x)
        n_outputs, n_parameters = self.net.sizes[-1], x.size
        gradient, H = self.decay * x, np.diag(self.decay)
        for rows in _blocks(len(self.X), max(1, BLOCK_BYTES // (8 * n_outputs * n_parameters))):
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
        with np.errstate(all="ignore"):  # a step that went too far is told by its loss
            self.loss = float(self.scale * losses.sum())
            self.total = self.loss + 0.5 * float(self.decay @ (x * x))
        return self.total


def jacobian(net, X):
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


def _check(method, update):
    """Refuse what a method of the full batch does not know."""
    for name in UNSUPPORTED if update is not None else ():
        if np.any(getattr(update, name)):
            raise ValueError(
                f"{name} must be 0 with {type(method).__name__}, which minimises one smooth function, "
                f"the loss with the penalty of l2, got {getattr(update, name)!r}"
            )


def _kept(method, net, running_products, vectors):
    """Return what a method keeps from call to call; new where there is none."""
    if vectors is None or len(vectors) != method.n_vectors:  # as of a trainer of version 0.1
        return np.ones(N_RUNNING_PRODUCTS), np.zeros((method.n_vectors, net.parameters.size))
    return running_products, vectors


def _blocks(n, rows):
    return [slice(start, start + rows) for start in range(0, n, rows)]


def _solution(H, g):
    """Solve H step = g; NaN, which no loss falls by, where H is singular."""
    try:
        return np.linalg.solve(H, g)
    except np.linalg.LinAlgError:
        return np.full_like(g, np.nan)
