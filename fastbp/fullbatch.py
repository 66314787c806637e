"""Methods that look at all samples before each step: L-BFGS and Levenberg-Marquardt.

Both minimise E = loss of the network by its reduction + l2 / 2 * sum W**2.  Their vectors are float64; losses,
gradients and Jacobians are computed in the dtype of the network.  One iteration is one epoch of the `Trainer`.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import ClassVar

import numpy as np

from . import checks
from .network import BACKENDS
from .reference import layer_views
from .update import MEMORY

BLOCK_BYTES = 1 << 26  # rows of the Jacobian held together, in float64
MOST_PARAMETERS = 10_000  # of Levenberg-Marquardt: a matrix of their square takes 0.8 GB, and two or three are held
LEAST_DAMPING = 1e-15
REFUSED = ("l1", "clip_value", "clip_norm", "max_norm", "dropout", "label_smoothing", "input_noise")


@dataclass(frozen=True)
class LBFGS:
    """Quasi-Newton steps from the last few gradients of all samples (L-BFGS), by `scipy.optimize.minimize`.

    Byrd, Lu, Nocedal and Zhu, "A limited memory algorithm for bound constrained optimization" (1995), with no
    bounds.  Every call of `fit` begins with an empty history; a loss recorded is that after the iteration.

    Parameters
    ----------
    history : int
        Pairs of steps and gradient differences that approximate the Hessian.
    max_line_search : int
        Most evaluations along one direction.
    gtol : float
        Converged where no element of the gradient is larger.
    ftol : float
        Converged where an iteration lowers the loss by less than this share of max(|loss|, 1).

    Raises
    ------
    ImportError
        Without SciPy: pip install 'fastbp[scipy]'.
    ValueError, TypeError
        Where a setting is out of its range or not a number.
    """

    history: int = 10
    max_line_search: int = 20
    gtol: float = 1e-5
    ftol: float = 2.2e-9

    n_states: ClassVar[int] = 0

    def __post_init__(self):
        """Validate."""
        checks.integer("history", self.history)
        checks.integer("max_line_search", self.max_line_search)
        checks.number("gtol", self.gtol, at_least=0)
        checks.number("ftol", self.ftol, at_least=0)
        if find_spec("scipy") is None:
            raise ImportError("LBFGS needs the package scipy: pip install 'fastbp[scipy]'")

    def check(self, net, update):
        """Refuse settings of an `Update` that it does not know."""
        _check(self, update)

    def minimise(self, net, X, Y, epochs, after, *, update=None, weights=None, memory=None):
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
        memory : float64 ndarray (MEMORY,), optional
            `State.memory`; not used.

        Returns
        -------
        str or None
            "converged"; "stalled", where no step lowers the loss, as happens where float32 has no more digits;
            "nonfinite", where the first loss is not finite; None, where `epochs` or `after` ended it.
        """
        from scipy.optimize import minimize

        self.check(net, update)
        objective = Objective(net, X, Y, weights, update)
        accepted = net.parameters.astype(np.float64)
        if not np.isfinite(objective(accepted)[0]):
            return "nonfinite"
        worst = 2 * abs(objective.total) + 1  # what the line search, which must interpolate, is told instead of inf

        def finite(x):
            total, gradient = objective(x)
            is_finite = np.isfinite(total) and checks.is_finite(gradient)
            return (total, gradient) if is_finite else (worst, np.zeros_like(gradient))

        def iterated(intermediate_result):  # SciPy looks at the name of the argument
            nonlocal accepted
            accepted = np.array(intermediate_result.x)
            if after(objective.loss):  # of the iterate: the line search ends with evaluating it
                raise StopIteration

        options = {"maxcor": self.history, "maxls": self.max_line_search, "gtol": self.gtol, "ftol": self.ftol,
                   "maxiter": epochs, "maxfun": np.iinfo(np.int32).max}
        try:
            result = minimize(finite, accepted, method="L-BFGS-B", jac=True, callback=iterated, options=options)
        finally:
            objective.place(accepted)
        return {0: "converged", 2: "stalled"}.get(result.status)


@dataclass(frozen=True)
class LevenbergMarquardt:
    """Damped Gauss-Newton steps for squared_error and small networks.

    Each iteration solves (J^T J + damping I) step = -J^T r, J being the Jacobian of the residuals r = A - Y by
    backpropagation, both sides divided by the number of samples where the reduction is the mean.  A step that lowers
    the loss is taken and the damping divided by `factor`; otherwise the damping is multiplied by it and the step
    computed anew (Marquardt 1963; Hagan and Menhaj, "Training feedforward networks with the Marquardt algorithm",
    1994).  A loss recorded is that after the iteration.

    Parameters
    ----------
    damping : float
        The first.
    factor : float
    max_damping : float
        No step lowers the loss: training ends.
    gtol : float
        Converged where no element of the gradient is larger, or where a step could lower the loss by no more than its
        rounding.

    Raises
    ------
    ValueError, TypeError
        Where a setting is out of its range or not a number.

    Notes
    -----
    J is summed up over blocks of samples, so the memory is that of two or three float64 matrices of n_parameters
    squared; networks of more than `MOST_PARAMETERS` are refused.  J^T J and its solution are NumPy's, whose last bits
    may depend on the processor and the threads of its BLAS.
    """

    damping: float = 1e-3
    factor: float = 10.0
    max_damping: float = 1e10
    gtol: float = 1e-10

    n_states: ClassVar[int] = 0

    def __post_init__(self):
        """Validate."""
        checks.number("damping", self.damping, above=0)
        checks.number("factor", self.factor, above=1)
        checks.number("max_damping", self.max_damping, above=self.damping)
        checks.number("gtol", self.gtol, at_least=0)

    def check(self, net, update):
        """Refuse settings of an `Update`, and networks, that it does not know."""
        _check(self, update)
        n_parameters = net.parameters.size
        if net.loss_name != "squared_error":
            raise ValueError(f"LevenbergMarquardt minimises sums of squares: the loss of the network must be "
                             f"'squared_error', got {net.loss_name!r}")
        if n_parameters > MOST_PARAMETERS:
            raise ValueError(f"LevenbergMarquardt solves for all parameters at once and takes at most "
                             f"{MOST_PARAMETERS:,}, but the network has {n_parameters:,}; LBFGS takes any number")

    def minimise(self, net, X, Y, epochs, after, *, update=None, weights=None, memory=None):
        """Iterate; as `LBFGS.minimise`.  The damping over the first one is kept in memory[0], for later calls."""
        self.check(net, update)
        memory = np.ones(MEMORY) if memory is None else memory
        objective = Objective(net, X, Y, weights, update)
        accepted, eps = net.parameters.astype(np.float64), np.finfo(net.dtype).eps
        total = objective.value(accepted)
        if not np.isfinite(total):
            return "nonfinite"
        try:
            for _ in range(epochs):
                gradient, H = objective.normal_equations(accepted)
                if np.abs(gradient).max() <= self.gtol:
                    return "converged"
                diagonal, is_first = H.diagonal().copy(), True
                while True:
                    damping = self.damping * memory[0]
                    np.fill_diagonal(H, diagonal + damping)
                    step = _solution(H, -gradient)
                    if is_first and 0 <= -0.5 * (gradient @ step) <= eps * total:
                        return "converged"
                    with np.errstate(all="ignore"):  # as the network holds it: later calls go on from there
                        tried = (accepted + step).astype(net.dtype).astype(np.float64)
                    lower = objective.value(tried)
                    if lower < total:
                        break
                    if damping * self.factor > self.max_damping:
                        memory[0] = 1.0
                        return "stalled"
                    memory[0] *= self.factor
                    is_first = False
                accepted, total = tried, lower
                memory[0] = max(memory[0] / self.factor, LEAST_DAMPING / self.damping)
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
        self.net, self.X, self.Y, self.weights = net, X, Y, weights
        self.scale = 1 / len(X) if net.reduction == "mean" else 1.0
        self.decay = np.zeros(net.parameters.size)  # l2 of the weights, 0 of the biases
        for W in layer_views(self.decay, net.sizes)[0]:
            W[...] = 0.0 if update is None else update.l2
        self.loss = self.total = np.nan

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
    layer_jacobian = import_module(BACKENDS[net.backend][2], __package__).layer_jacobian
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
    for name in REFUSED if update is not None else ():
        if np.any(getattr(update, name)):
            raise ValueError(f"{name} must be 0 with {type(method).__name__}, which minimises one smooth function, "
                             f"the loss with the penalty of l2, got {getattr(update, name)!r}")


def _blocks(n, rows):
    return [slice(start, start + rows) for start in range(0, n, rows)]


def _solution(H, g):
    """Solve H step = g; NaN, which no loss falls by, where H is singular."""
    try:
        return np.linalg.solve(H, g)
    except np.linalg.LinAlgError:
        return np.full_like(g, np.nan)
