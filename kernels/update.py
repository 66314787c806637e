"""One update of some parameters as the engine makes it: penalties, clipping of elements, the rule; and its factors.

These are leaves (`jit.NativeFunction`), called by address from the training loops; see `block.FUNCTION_TABLE`.
"""

from .jit import internal
from .optimizers import FACTORS, clip_block, penalize_block, squares_block, step_factors, update_block
from .schedules import rate_at
from .simd import as_float, poke

RATE = FACTORS  # place of the learning rate among the factors of a step, after the rule's own
N_FACTORS = 16


@internal
def advance(rule, hyperparameters, schedule, rates, scale, step, running_products, factors):
    """Write what the update of this step needs to `factors`, its learning rate at RATE too."""
    lr = rate_at(schedule, rates, step) * scale
    step_factors(rule, hyperparameters, lr, running_products, factors)
    poke(factors, RATE, as_float(lr, factors))


@internal
def penalize(gradient, parameters, n, l1, l2, limit):
    """Add the gradient of the penalties, then hold each element within the limit if it is not 0."""
    if l1 != 0 or l2 != 0:
        penalize_block(gradient, parameters, l1, l2, n)
    if limit > 0:
        clip_block(gradient, limit, n)


@internal
def update(rule, factors, gradient, parameters, first, second, n, l1, l2, limit):
    """Update n parameters by their gradient after `penalize`, which overwrites it."""
    penalize(gradient, parameters, n, l1, l2, limit)
    update_block(rule, factors, gradient, parameters, first, second, n)


@internal
def sum_of_squares(gradient, n, out):
    """out[0] = sum of the squares of n elements."""
    poke(out, 0, squares_block(gradient, n))
