"""The methods of a model in users' compiled code, as C functions; see `methods`.

Each checks the lengths of its arguments, and returns a code of `methods`: nothing is written where it is an error.
Training and evaluation are those of `training`: a method writes their job, and calls them by address.
"""

import numpy as np
from numba import carray

from .atomics import compare_exchange, flush_subnormals, restore_mxcsr
from .backprop import backward, block_inputs, forward, output_delta, propagate
from .elementwise import inline_activation
from .jit import inline, internal
from .layout import (
    A_AT,
    ACTIVATION,
    CALL_ARGS_AT,
    DATA_AT,
    DELTA_AT,
    DONE_AT,
    FORWARD_AT,
    IN_EPILOGUE,
    N_LAYER_COLUMNS,
    N_OUT,
    PER_CALL,
    POINTERS_AT,
    RATE,
    ROW_STRIDE,
    SGD,
    SKIPPED,
    STORE,
    TASK_AT,
    W_AT,
    WANT_GRADIENT,
    WANT_INPUT_GRADIENT,
    WANT_LOSS,
    WANT_OUTPUT,
    X_FLOAT32,
    X_FLOAT64,
    Y_GRADIENT,
    Y_LABELS,
    Y_NONE,
    Z_AT,
    CallArgs,
    Data,
    EvalArgs,
    Pointers,
    ThreadContext,
    TrainArgs,
)
from .methods import (
    AT,
    BAD_LABEL,
    BAD_TARGETS,
    DONE,
    LENGTH,
    MANY_OUTPUTS,
    NO_LABELS,
    NO_OPTIMIZER,
    NO_SAMPLES,
    NONFINITE_ACCUMULATED,
    NONFINITE_LOSS,
    NONFINITE_PARAMETERS,
    NOT_FINITE,
    SHARED,
    Header,
    Program,
)
from .native import native
from .online import load_some, online
from .simd import (
    address,
    as_float,
    by_dtype,
    call,
    distance,
    fma,
    half,
    lanes,
    load,
    masked_load,
    masked_store,
    narrow,
    offset,
    peek,
    pointer_at,
    pointer_like,
    poke,
    store,
    unpacked,
    widened,
)
from .tables import ELEMENTWISE
from .training import read
from .updates import apply_max_norm, step_factors, update_parameters

# Places in a job, in words.
X_ADDRESS, Y_ADDRESS, Y_KIND, N_SAMPLES = (
    DATA_AT + Data._fields.index(name) for name in ("x_address", "y_address", "y_kind", "n")
)
GRADIENT, ORDER, LOSSES, OUT = (
    CALL_ARGS_AT + CallArgs._fields.index(name) for name in ("gradient", "order", "losses", "out")
)
SYNC_ADDRESS = POINTERS_AT + Pointers._fields.index("sync")
STEP, FIRST_ROW, LAST_ROW = (TASK_AT + PER_CALL.index(name) for name in ("step", "first_row", "last_row"))
BATCH_SIZE, RATE_SCALE = (TASK_AT + TrainArgs._fields.index(name) for name in ("batch_size", "rate_scale"))
WANTS, OUTPUT_SCALE, ADDS = (TASK_AT + EvalArgs._fields.index(name) for name in ("wants", "scale", "adds"))
PROGRAM_SIZE, N_PER_CALL = len(Program._fields), len(PER_CALL)

STEP_AT, BUSY_AT, FAILED_AT, N_ACCUMULATED_AT = (AT[name] for name in ("step", "busy", "failed", "n_accumulated"))
RESULT_AT, FACTORS_LR_AT = AT["result"], AT["factors_lr"]


# ------------------------------------------------------------------------------------------------ entry and exit


@inline
def floats(words):
    """Return a pointer to the same words as float64."""
    return pointer_at(address(words), np.float64)


@inline
def result_of(model, value):
    """Write what a method returns besides the code."""
    poke(floats(model), RESULT_AT, value)


@inline
def copy_scaled(source, factor, target, n):
    """Write n numbers times a factor."""
    for i in range(n):
        poke(target, i, peek(source, i) * factor)


@internal
def are_finite(p, n):
    """Whether n numbers are finite."""
    for i in range(n):
        if not np.isfinite(peek(p, i)):
            return False
    return True


@inline
def enter(model, header, like):
    """Begin a method; return an error where a checked model is shared, or has parameters that are not finite."""
    return enter_checked(model, like) if header.is_checked else DONE


@internal
def enter_checked(model, like):
    """Begin a method of a checked model; return the error."""
    header = unpacked(model, Header, ())
    if not compare_exchange(model, BUSY_AT, 0, 1):
        poke(model, FAILED_AT, 1)
        return SHARED
    code = DONE
    if peek(model, FAILED_AT) != 0:
        code = SHARED
    elif not are_finite(pointer_like(header.parameters, like), header.n_parameters):
        code = NONFINITE_PARAMETERS
    if code != DONE:
        leave(model, header)
    return code


@inline
def leave(model, header):
    """End a method that `enter` began."""
    if header.is_checked:
        poke(model, BUSY_AT, 0)


@inline
def check_shape(rows, columns, n_rows, n_columns, place):
    """Return the error of an argument whose shape must be (n_rows, n_columns)."""
    if rows != n_rows or columns != n_columns:
        return LENGTH + place
    return DONE


@inline
def check_finite(header, p, n, place):
    """Return the error of an argument of a checked model that is not finite."""
    if header.is_checked and not are_finite(p, n):
        return NOT_FINITE + place
    return DONE


@internal
def are_targets(header, y, rows):
    """Whether the loss is defined for targets."""
    n = header.n_out
    for r in range(rows):
        total = 0.0
        for j in range(n):
            value = peek(y, r * n + j)
            if value < header.y_least or value > header.y_most or (header.takes_signs and abs(value) != 1):
                return False
            total += value
        if abs(total - 1) > header.sum_tolerance:
            return False
    return True


@internal
def check_samples(model, header, x, rows, columns, y, y_kind, y_rows, y_columns):
    """Return the error of samples and their targets."""
    if columns != header.n_in:
        return LENGTH
    if rows == 0:
        return NO_SAMPLES
    if y_kind == Y_LABELS:
        if not header.takes_labels:
            return NO_LABELS
        if y_rows != rows:
            return LENGTH + 1
        labels = pointer_at(y, np.int64)
        for r in range(rows):
            if np.uint64(peek(labels, r)) >= np.uint64(header.n_out):
                return BAD_LABEL
    elif y_rows != rows or y_columns != header.n_out:
        return LENGTH + 1
    return check_values(model, x, rows, y, y_kind) if header.is_checked else DONE


@internal
def check_values(model, x, rows, y, y_kind):
    """Return the error of samples and targets of a checked model."""
    header = unpacked(model, Header, ())
    if not are_finite(x, rows * header.n_in):
        return NOT_FINITE
    if y_kind != Y_LABELS:
        targets = pointer_like(y, x)
        if not are_finite(targets, rows * header.n_out):
            return NOT_FINITE + 1
        if not are_targets(header, targets, rows):
            return BAD_TARGETS
    return DONE


# ---------------------------------------------------------------------------------------------------- prediction


@inline
def sums_of_vector(x, w, n_in, n_out, j):
    """Return x @ W + b for the columns of one vector from j on, or the last columns: one chain of sums, as in gemm."""
    count = n_out - j
    z, at = load_some(w, n_in * n_out + j, count), j
    for i in range(n_in):
        z = fma(load_some(w, at, count), peek(x, i), z)
        at += n_out
    return widened(z)


@inline
def dense_row(x, w, n_in, n_out, activation, z, a):
    """Write z = x @ W + b of one sample, and for an inline activation a = f(z); both have room for whole vectors."""
    width = lanes(x)
    b = offset(w, n_in * n_out)
    j = 0
    while j + 4 * width <= n_out:  # four chains of sums: a fused multiply-add is ready after four cycles
        z0, z1, z2, z3 = load(b, j), load(b, j + width), load(b, j + 2 * width), load(b, j + 3 * width)
        at = j
        for i in range(n_in):
            xi = peek(x, i)
            z0 = fma(load(w, at), xi, z0)
            z1 = fma(load(w, at + width), xi, z1)
            z2 = fma(load(w, at + 2 * width), xi, z2)
            z3 = fma(load(w, at + 3 * width), xi, z3)
            at += n_out
        store_row(z0, activation, z, a, j)
        store_row(z1, activation, z, a, j + width)
        store_row(z2, activation, z, a, j + 2 * width)
        store_row(z3, activation, z, a, j + 3 * width)
        j += 4 * width
    while j + 2 * width <= n_out:
        z0, z1 = load(b, j), load(b, j + width)
        at = j
        for i in range(n_in):
            xi = peek(x, i)
            z0 = fma(load(w, at), xi, z0)
            z1 = fma(load(w, at + width), xi, z1)
            at += n_out
        store_row(z0, activation, z, a, j)
        store_row(z1, activation, z, a, j + width)
        j += 2 * width
    while j < n_out:
        if n_out - j > lanes(half(w)):
            store_row(sums_of_vector(x, w, n_in, n_out, j), activation, z, a, j)
        else:
            store_row(sums_of_vector(x, half(w), n_in, n_out, j), activation, z, a, j)
        j += width


@inline
def store_row(sums, activation, z, a, j):
    """Store a vector of z, or for an inline activation of a."""
    if activation < ELEMENTWISE:
        store(a, j, inline_activation(activation, sums))
    else:
        store(z, j, sums)


@inline
def outputs_of_row(header, x):
    """Return where the outputs of one sample are, computed to the bits of `training.evaluate`."""
    p, work = pointer_like(header.parameters, x), pointer_like(header.workspace, x)
    layers = pointer_at(header.layers, np.int64)
    a, n_in = x, header.n_in
    if header.input_scale != 1:
        a, scale = offset(work, header.x_at), as_float(header.input_scale, x)
        for j in range(n_in):
            poke(a, j, peek(x, j) * scale)
    for _ in range(header.n_layers):
        n_out, activation = peek(layers, N_OUT), peek(layers, ACTIVATION)
        w, z, out = offset(p, peek(layers, W_AT)), offset(work, peek(layers, Z_AT)), offset(work, peek(layers, A_AT))
        if n_out == 1 and activation < ELEMENTWISE:
            total = peek(w, n_in)
            for i in range(n_in):
                total = fma(peek(a, i), peek(w, i), total)
            few = narrow(out)
            ones = masked_load(few, 0, 0) + 1.0
            store(few, 0, inline_activation(activation, ones * total))
        else:
            dense_row(a, w, n_in, n_out, activation, z, out)
            if activation >= ELEMENTWISE:
                call(peek(layers, FORWARD_AT), z, out, n_out, n_out, offset(work, header.lse_at), 1)
        a, n_in, layers = out, n_out, offset(layers, N_LAYER_COLUMNS)
    return a


@native("opiipii")
def predict(model, x, rows, columns, out, out_rows, out_columns):
    """Write the outputs of samples."""
    header = unpacked(model, Header, ())
    code = check_shape(rows, columns, rows, header.n_in, 0)
    if code == DONE:
        code = check_shape(out_rows, out_columns, rows, header.n_out, 1)
    if code == DONE:
        code = check_finite(header, x, rows * columns, 0)
    if code == DONE:
        code = enter(model, header, x)
    if code != DONE:
        return code
    if rows == 1:
        control = flush_subnormals()
        copy_row(outputs_of_row(header, x), out, out_columns)
        restore_mxcsr(control)
    elif rows > 1:
        evaluate(header, WANT_OUTPUT, address(x), rows, 0, Y_NONE, 1.0, 0, address(out), False)
    leave(model, header)
    return DONE


@inline
def copy_row(a, out, n):
    """Copy n numbers from where there is room for whole vectors; one that was stored alone is read alone."""
    if n == 1:
        poke(out, 0, peek(a, 0))
        return
    for j in range(0, n, lanes(a)):
        masked_store(out, j, load(a, j), min(lanes(a), n - j))


@native("opii")
def predict1(model, x, rows, columns):
    """Compute the one output of one sample."""
    header = unpacked(model, Header, ())
    if columns != header.n_in:
        return LENGTH
    if header.n_out != 1:
        return MANY_OUTPUTS
    code = check_finite(header, x, columns, 0)
    if code == DONE:
        code = enter(model, header, x)
    if code != DONE:
        return code
    control = flush_subnormals()
    result_of(model, peek(outputs_of_row(header, x), 0))
    restore_mxcsr(control)
    leave(model, header)
    return DONE


# ---------------------------------------------------------------------------------------------------- evaluation


@internal
def evaluate(header, wants, x, rows, y, y_kind, scale, gradient, out, adds):
    """Run `training.evaluate` on samples at address x."""
    job = pointer_at(header.evaluation, np.int64)
    poke(job, X_ADDRESS, x)
    poke(job, Y_ADDRESS, y)
    poke(job, Y_KIND, y_kind)
    poke(job, N_SAMPLES, rows)
    poke(job, GRADIENT, gradient)
    poke(job, OUT, out)
    poke(job, WANTS, wants)
    poke(floats(job), OUTPUT_SCALE, scale)
    poke(job, ADDS, adds)
    call(header.evaluate, job, pointer_at(header.parameters, np.float64), 0)


@internal
def evaluate_losses(header, wants, x, rows, y, y_kind, scale, gradient):
    """Run `training.evaluate` block by block, adding up the gradient; return the sum of the losses in order."""
    size = by_dtype(x, 4, 8)
    y_size = 8 if y_kind == Y_LABELS else size * header.n_out
    losses, total = pointer_at(header.losses, np.float64), 0.0
    for start in range(0, rows, header.rows):
        n = min(header.rows, rows - start)
        x_start = address(x) + start * header.n_in * size
        evaluate(header, wants, x_start, n, y + start * y_size, y_kind, scale, gradient, 0, start > 0)
        for r in range(n):
            total += peek(losses, r)
    return total


@inline
def reduced(header, total, rows):
    """Return the mean of losses, or their sum, as the network has it."""
    return total / rows if header.is_mean else total


@inline
def output_scale(header, rows):
    """Return the factor of the output delta."""
    return 1.0 / rows if header.is_mean else 1.0


@inline
def begin(model, header, x, rows, columns, y, y_kind, y_rows, y_columns):
    """Check samples and targets, and begin a method; return the error."""
    code = check_samples(model, header, x, rows, columns, y, y_kind, y_rows, y_columns)
    return enter(model, header, x) if code == DONE else code


@native("opiiiiii")
def loss(model, x, rows, columns, y, y_kind, y_rows, y_columns):
    """Compute the loss of samples."""
    header = unpacked(model, Header, ())
    code = begin(model, header, x, rows, columns, y, y_kind, y_rows, y_columns)
    if code != DONE:
        return code
    total = evaluate_losses(header, WANT_LOSS, x, rows, y, y_kind, 1.0, 0)
    result_of(model, reduced(header, total, rows))
    leave(model, header)
    return DONE


@native("opiiiiiipi")
def gradient(model, x, rows, columns, y, y_kind, y_rows, y_columns, g, n):
    """Compute the loss of samples, and write its gradient."""
    header = unpacked(model, Header, ())
    code = check_samples(model, header, x, rows, columns, y, y_kind, y_rows, y_columns)
    if code == DONE:
        code = check_shape(1, n, 1, header.n_parameters, 2)
    if code == DONE:
        code = enter(model, header, x)
    if code != DONE:
        return code
    wants, scale = WANT_LOSS | WANT_GRADIENT, output_scale(header, rows)
    total = evaluate_losses(header, wants, x, rows, y, y_kind, scale, address(g))
    result_of(model, reduced(header, total, rows))
    leave(model, header)
    return DONE


@inline
def scale_inputs(header, dx, n):
    """Multiply n input gradients by the factor of the inputs, of which the jobs know nothing."""
    if header.input_scale != 1:
        scale = as_float(header.input_scale, dx)
        for i in range(n):
            poke(dx, i, peek(dx, i) * scale)


@native("opiiiiiipii")
def input_gradient(model, x, rows, columns, y, y_kind, y_rows, y_columns, dx, dx_rows, dx_columns):
    """Write the gradient of the loss with respect to the samples."""
    header = unpacked(model, Header, ())
    code = check_samples(model, header, x, rows, columns, y, y_kind, y_rows, y_columns)
    if code == DONE:
        code = check_shape(dx_rows, dx_columns, rows, columns, 2)
    if code == DONE:
        code = enter(model, header, x)
    if code != DONE:
        return code
    scale = output_scale(header, rows)
    evaluate(header, WANT_INPUT_GRADIENT, address(x), rows, y, y_kind, scale, 0, address(dx), False)
    scale_inputs(header, dx, rows * columns)
    leave(model, header)
    return DONE


@native("opiipiipii")
def backpropagate(model, x, rows, columns, dout, dout_rows, dout_columns, dx, dx_rows, dx_columns):
    """Add the gradient of a user's loss to the accumulated one; dx, if it is not null, receives that of the samples."""
    header = unpacked(model, Header, ())
    wants = WANT_GRADIENT
    code = check_shape(rows, columns, rows, header.n_in, 0)
    if code == DONE:
        code = check_shape(dout_rows, dout_columns, rows, header.n_out, 1)
    if code == DONE and address(dx) != 0:
        wants |= WANT_INPUT_GRADIENT
        code = check_shape(dx_rows, dx_columns, rows, columns, 2)
    if code == DONE:
        code = check_finite(header, x, rows * columns, 0)
    if code == DONE:
        code = check_finite(header, dout, rows * dout_columns, 1)
    if code == DONE:
        code = enter(model, header, x)
    if code != DONE:
        return code
    evaluate(header, wants, address(x), rows, address(dout), Y_GRADIENT, 1.0, header.accumulated, address(dx), True)
    if address(dx) != 0:
        scale_inputs(header, dx, rows * columns)
    leave(model, header)
    return DONE


@native("opiipii")
def jacobian(model, x, rows, columns, out, out_rows, out_columns):
    """Write the derivatives of the outputs of one sample: one output in each row of a block."""
    header = unpacked(model, Header, ())
    code = check_shape(rows, columns, 1, header.n_in, 0)
    if code == DONE:
        code = check_shape(out_rows, out_columns, header.n_out, columns, 1)
    if code == DONE:
        code = check_finite(header, x, columns, 0)
    if code == DONE:
        code = enter(model, header, x)
    if code != DONE:
        return code
    control = flush_subnormals()
    job = pointer_at(header.evaluation, np.int64)
    _, pointers, plan, _ = read(job)
    context = context_of(header, pointers, plan, 0, 0, 0, 0, STORE, 0, x)
    work, scale = context.work, as_float(header.input_scale, x)
    first_layer, last_layer = plan.layers[0], plan.layers[plan.layers.shape[0] - 1]
    inputs, y, y_row = block_inputs(plan, context), offset(work, plan.y_at), last_layer[ROW_STRIDE]
    for start in range(0, out_rows, plan.rows):
        n = min(plan.rows, out_rows - start)
        for r in range(n):
            for j in range(columns):
                poke(inputs, r * plan.x_row_stride + j, peek(x, j) * scale)
            for j in range(y_row):
                poke(y, r * y_row + j, 1 if j == start + r else 0)
        forward(plan, context, inputs, plan.x_row_stride, n, 0, 0)
        output_delta(plan, work, Y_GRADIENT, as_float(1, work), 0, n)
        backward(plan, context, n, 0, 0)
        propagate(
            plan,
            offset(work, first_layer[DELTA_AT]),
            first_layer[ROW_STRIDE],
            context.parameters,
            columns,
            first_layer[N_OUT],
            0,
            columns,
            offset(out, start * columns),
            columns,
            n,
            context.pack,
        )
    scale_inputs(header, out, out_rows * columns)
    restore_mxcsr(control)
    leave(model, header)
    return DONE


# ------------------------------------------------------------------------------------------------------ training


@inline
def context_of(header, pointers, plan, running_products, hyperparameters, rates, sums, epilogue, key, like):
    """Return what a thread works with that is alone with a job; the memory addresses are of numbers of the update."""
    work = pointer_like(pointers.workspace, like)
    return ThreadContext(
        pointer_like(header.parameters, like),
        work,
        pointer_like(header.gradient, like),
        offset(work, plan.factors_at),
        offset(work, plan.pack_at),
        pointer_at(running_products, np.float64),
        pointer_at(hyperparameters, np.float64),
        pointer_at(rates, np.float64),
        pointer_at(sums, np.float64),
        pointer_at(pointers.sync, np.int64),
        0,
        1,
        False,
        epilogue,
        key,
        0,
    )


@inline
def training_context(header, call_args, pointers, plan, args, like):
    """Return the context of a training job."""
    products, hyperparameters, rates, sums = call_args.running_products, args.hyperparameters, args.rates, args.sums
    return context_of(header, pointers, plan, products, hyperparameters, rates, sums, args.epilogue, args.key, like)


@native("opiiiiii")
def train_step(model, x, rows, columns, y, y_kind, y_rows, y_columns):
    """Update once by the gradient of the loss of samples, which is returned; nothing is updated if it is not finite."""
    header = unpacked(model, Header, ())
    if header.n_programs == 0:
        return NO_OPTIMIZER
    code = begin(model, header, x, rows, columns, y, y_kind, y_rows, y_columns)
    if code != DONE:
        return code
    program = pointer_at(header.programs, np.int64)
    while peek(program, 0) < rows:
        program = offset(program, PROGRAM_SIZE)
    kernel, job = peek(program, 1), pointer_at(peek(program, 2), np.int64)
    if kernel == 0:
        total = train_row(model, header, job, x, y, y_kind)
        result_of(model, total)
        leave(model, header)
        return NONFINITE_LOSS if header.raises and not np.isfinite(total) else DONE
    losses = pointer_at(header.losses, np.float64)
    poke(job, X_ADDRESS, address(x))
    poke(job, Y_ADDRESS, y)
    poke(job, Y_KIND, y_kind)
    poke(job, N_SAMPLES, rows)
    poke(job, BATCH_SIZE, rows)
    poke(job, STEP, header.step)
    poke(floats(job), RATE_SCALE, header.lr)
    poke(losses, 0, 0.0)
    done = train_rows(header, job, kernel, x, y, y_kind, rows)
    poke(model, STEP_AT, header.step + done)
    poke(floats(model), FACTORS_LR_AT, header.lr)
    total = nan_if_skipped(pointer_at(peek(job, SYNC_ADDRESS), np.int64), peek(losses, 0))
    result_of(model, reduced(header, total, rows))
    leave(model, header)
    return NONFINITE_LOSS if header.raises and not np.isfinite(total) else DONE


@inline
def train_row(model, header, job, x, y, y_kind):
    """Train one sample by `online.online`, without the call and the job of a kernel; return its loss."""
    control = flush_subnormals()
    poke(floats(job), RATE_SCALE, header.lr)
    call_args, pointers, plan, _ = read(job)
    # The numbers of the call are constants: with them the loop over samples is none, and less is computed before it.
    per_call = 0, 1, 1, header.step, False, 1, 0, 0, False
    args = TrainArgs(*(per_call + unpacked(offset(job, TASK_AT), TrainArgs, ())[N_PER_CALL:]))
    data = Data(address(x), by_dtype(x, X_FLOAT32, X_FLOAT64), header.input_scale, y, y_kind, 0, 1)
    context = training_context(header, call_args, pointers, plan, args, x)
    if not args.advances and header.factors_lr != header.lr:
        step_factors(plan, args, context, header.step)
        poke(floats(model), FACTORS_LR_AT, header.lr)
    lr = peek(context.factors, RATE)
    momentum = as_float(peek(context.hyperparameters, 0) if args.epilogue > SGD else 0.0, x)
    to_velocity = args.to_first
    if args.update_path != IN_EPILOGUE:
        to_velocity = distance(context.parameters, context.gradient)
    order, loss = carray(pointer_at(header.order, np.int64), (1,)), offset(floats(model), RESULT_AT)
    poke(loss, 0, 0.0)
    done = online(plan, args, data, context, order, 0, 1, header.step, loss, lr, momentum, to_velocity)
    restore_mxcsr(control)
    poke(model, STEP_AT, header.step + done)
    return nan_if_skipped(context.sync, peek(loss, 0))


@inline
def nan_if_skipped(sync, loss):
    """Return the loss of a step, NaN where it was left out because it was not finite."""
    if peek(sync, SKIPPED) != 0:
        poke(sync, SKIPPED, 0)
        return np.nan
    return loss


@inline
def train_rows(header, job, kernel, x, y, y_kind, rows):
    """Train the batch of a job, block by block if it has more rows than one; return the steps done: 1 or 0."""
    parameters = pointer_like(header.parameters, x)
    if rows <= header.rows:
        call(kernel, job, parameters, 0)
        return peek(job, DONE_AT)
    size, done, first = by_dtype(x, 4, 8), 0, 0
    y_size = 8 if y_kind == Y_LABELS else size * header.n_out
    losses = pointer_at(header.losses, np.float64)
    while done == 0 and first < rows and np.isfinite(peek(losses, 0)):
        # row r of the batch is in place r of the order, which begins `first` places earlier, and so do the samples
        poke(job, X_ADDRESS, address(x) + first * header.n_in * size)
        poke(job, Y_ADDRESS, y + first * y_size)
        poke(job, ORDER, header.order - 8 * first)
        poke(job, FIRST_ROW, first)
        poke(job, LAST_ROW, first + header.rows)
        call(kernel, job, parameters, 0)
        done = peek(job, DONE_AT)
        first += header.rows
    poke(job, ORDER, header.order)
    poke(job, FIRST_ROW, 0)
    poke(job, LAST_ROW, 0)
    return done


@internal
def update_by_gradient(model, header, like):
    """Update once by the gradient at `header.gradient`, which is overwritten."""
    program = pointer_at(header.programs + 8 * PROGRAM_SIZE * (header.n_programs - 1), np.int64)
    job = pointer_at(peek(program, 2), np.int64)
    poke(floats(job), RATE_SCALE, header.lr)
    control = flush_subnormals()
    call_args, pointers, plan, _ = read(job)
    args = unpacked(offset(job, TASK_AT), TrainArgs, ())
    context = training_context(header, call_args, pointers, plan, args, like)
    step_factors(plan, args, context, header.step)
    update_parameters(plan, args, context, args.l2)
    if args.max_norm > 0:
        apply_max_norm(plan, args, context)
    restore_mxcsr(control)
    poke(model, STEP_AT, header.step + 1)
    poke(floats(model), FACTORS_LR_AT, header.lr)


@native("opi")
def apply_gradient(model, g, n):
    """Update once by a gradient."""
    header = unpacked(model, Header, ())
    if header.n_programs == 0:
        return NO_OPTIMIZER
    if n != header.n_parameters:
        return LENGTH
    code = check_finite(header, g, n, 0)
    if code == DONE:
        code = enter(model, header, g)
    if code != DONE:
        return code
    copy_scaled(g, as_float(1, g), pointer_like(header.gradient, g), n)
    update_by_gradient(model, header, g)
    leave(model, header)
    return DONE


@native("opiiiiii")
def accumulate(model, x, rows, columns, y, y_kind, y_rows, y_columns):
    """Add the gradient of the sum of the losses of samples to the accumulated one, unless it is not finite."""
    header = unpacked(model, Header, ())
    code = begin(model, header, x, rows, columns, y, y_kind, y_rows, y_columns)
    if code != DONE:
        return code
    total = evaluate_losses(header, WANT_LOSS | WANT_GRADIENT, x, rows, y, y_kind, 1.0, header.gradient)
    if np.isfinite(total):
        accumulated, gradient = pointer_like(header.accumulated, x), pointer_like(header.gradient, x)
        for i in range(header.n_parameters):
            poke(accumulated, i, peek(accumulated, i) + peek(gradient, i))
        poke(model, N_ACCUMULATED_AT, header.n_accumulated + rows)
    result_of(model, reduced(header, total, rows))
    leave(model, header)
    return DONE


@native("op")
def apply_accumulated(model, parameters):
    """Update once by the accumulated gradient, reduced over the samples that `accumulate` had; it is zero then."""
    header = unpacked(model, Header, ())
    if header.n_programs == 0:
        return NO_OPTIMIZER
    accumulated = pointer_like(header.accumulated, parameters)
    if header.is_checked and not are_finite(accumulated, header.n_parameters):
        return NONFINITE_ACCUMULATED
    code = enter(model, header, parameters)
    if code != DONE:
        return code
    factor = 1.0
    if header.is_mean and header.n_accumulated > 0:
        factor = 1.0 / header.n_accumulated
    n, gradient = header.n_parameters, pointer_like(header.gradient, parameters)
    copy_scaled(accumulated, as_float(factor, parameters), gradient, n)
    for i in range(n):
        poke(accumulated, i, 0)
    poke(model, N_ACCUMULATED_AT, 0)
    update_by_gradient(model, header, parameters)
    leave(model, header)
    return DONE


@native("oop")
def copy(source, target, parameters):
    """Copy a model, `parameters` being those of the source, to memory of the same size, with parameters of its own."""
    header = unpacked(source, Header, ())
    code = enter(source, header, parameters)
    if code != DONE:
        return code
    copy_scaled(source, 1, target, header.n_copied // 8)
    moved = address(target) - address(source)
    own = address(target) + header.parameters_at
    to_states = (header.parameters + moved - own) // by_dtype(parameters, 4, 8)
    place = pointer_at(header.relocations, np.int64)
    for _ in range(header.n_addresses):
        poke(target, peek(place, 0), peek(target, peek(place, 0)) + moved)
        place = offset(place, 1)
    for _ in range(header.n_parameter_addresses):
        poke(target, peek(place, 0), own)
        place = offset(place, 1)
    for _ in range(header.n_distances):
        poke(target, peek(place, 0), peek(target, peek(place, 0)) + to_states)
        place = offset(place, 1)
    copy_scaled(parameters, as_float(1, parameters), pointer_like(own, parameters), header.n_parameters)
    poke(target, BUSY_AT, 0)
    poke(target, FAILED_AT, 0)
    poke(floats(target), FACTORS_LR_AT, np.nan)
    leave(source, header)
    return DONE
