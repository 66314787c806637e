"""The memory of a model for users' compiled code: one block with its header, jobs, tables, workspace and states."""

from __future__ import annotations

import numpy as np

from ..kernels.layout import (
    A_AT,
    AFTER_GRADIENT,
    CALL_ARGS_AT,
    DATA_AT,
    DROP_AT,
    FEW_LANES,
    IN_EPILOGUE,
    JOB_SIZE,
    PLAN_AT,
    POINTERS_AT,
    SQUARES_CHUNK,
    TASK_AT,
    THRESHOLD,
    WANT_GRADIENT,
    WANT_INPUT_GRADIENT,
    WANT_LOSS,
    WANT_OUTPUT,
    CallArgs,
    Data,
    EvalArgs,
    Pointers,
    TrainArgs,
    address_of,
    pack,
)
from ..kernels.library import native_function
from ..kernels.methods import AT, PACKED_HEADER, Header, Program
from ..kernels.plan import trainer_for
from ..kernels.tables import TAKE_LABELS
from ..losses import name_of, smoothing_classes
from ..optimizers import N_RUNNING_PRODUCTS
from ..update import aligned_zeros
from . import limits
from .backend import X_KINDS, _Rules
from .workspace import EVALUATE, Workspace

ALIGNMENT = 128
MANY_PARAMETERS = 1 << 14  # from here on blocks are as large as a Trainer's: each of them reads all parameters
SMALL_BLOCK_ROWS = 64
UNLIMITED = 1 << 62
ONLINE = "training.train_online"


class _Layout:
    """Where the parts of a block are, in bytes."""

    def __init__(self):
        self.size, self.at = 0, {}

    def take(self, name, n_bytes):
        """Give a part its place."""
        self.at[name] = self.size
        self.size += -(-n_bytes // ALIGNMENT) * ALIGNMENT


def programs_of(rules, plan, lanes):
    """Return how batches are trained: (most samples, name of the kernel, path of the update), fewest samples first."""
    result: list[tuple[int, str, int]] = []
    for rows in sorted({1, FEW_LANES, lanes, plan.rows, UNLIMITED}):
        kernel = trainer_for(plan, rows, lanes, suits_online=rules.suits_online, suits_lanes=rules.suits_lanes)
        path = AFTER_GRADIENT if rows > plan.rows else rules.update_path(rows, plan.n_parameters)
        if result and result[-1][1:] == (kernel, path):
            result.pop()
        result.append((rows, kernel, path))
    return result


def make_block(backend, parameters, update, lr, state, *, raises, is_checked, recipe):
    """Return the block of a model, an int64 array.

    Parameters
    ----------
    backend : fastbp.engine.backend.NumbaBackend
    parameters : ndarray (n_parameters,)
        Those that the model will work with.
    update : fastbp.update.Update or None
        None for a model without optimizer.
    lr : float
        Learning rate; where a schedule is set, a factor of it.
    state : fastbp.update.State
        What the rule remembers; copied.
    raises, is_checked, recipe
        See `kernels.methods.Header`.
    """
    dtype, n_parameters = backend.dtype, backend.n_parameters
    rules = _Rules(update) if update is not None else None
    rows = limits.BLOCK_ROWS if n_parameters >= MANY_PARAMETERS else SMALL_BLOCK_ROWS
    n_states = len(state.buffers)
    workspace = Workspace(backend, rows, 1, n_states, () if rules is None else rules.dropout)
    plan = workspace.plan
    workspace.load_evaluation(WANT_OUTPUT | WANT_LOSS | WANT_GRADIENT | WANT_INPUT_GRADIENT)
    programs = [] if rules is None else programs_of(rules, plan, backend._lanes)
    kernels = []
    for _, kernel, path in programs:  # the last path is AFTER_GRADIENT, which needs the most functions
        workspace.load_training(native_function(kernel), update, path)
        # `model.train_step` contains the training of one sample.
        kernels.append(0 if kernel == ONLINE else workspace.kernel)

    layout, evaluation_layers = _Layout(), plan.layers.copy()
    evaluation_layers[:, THRESHOLD], evaluation_layers[:, DROP_AT] = 0, plan.layers[:, A_AT]
    arrays = {  # what is copied into the block
        "layers": plan.layers,
        "evaluation_layers": evaluation_layers,
        "functions": plan.functions,
        "sync": workspace.sync,
        "order": np.arange(rows, dtype=np.int64),
        "running_products": state.running_products,
    }
    if rules is not None:
        arrays["hyperparameters"] = rules.arrays[0]
        # A constant rate is that of the header alone.
        arrays["rates"] = np.ones(1) if update.schedule == "constant" else np.asarray(update.rates, np.float64)
    layout.take("header", PACKED_HEADER.size)
    layout.take("evaluation", 8 * JOB_SIZE)
    for i in range(len(programs)):
        layout.take(f"training {i}", 8 * JOB_SIZE)
    layout.take("programs", 8 * len(Program._fields) * len(programs))
    for name, array in arrays.items():
        layout.take(name, array.nbytes)
    state_stride = -(-n_parameters * dtype.itemsize // ALIGNMENT) * ALIGNMENT
    layout.take("states", n_states * state_stride)
    layout.take("losses", 8 * rows)
    layout.take("sums", 8 * -(-n_parameters // SQUARES_CHUNK))
    for name in ("gradient", "accumulated", "parameters"):
        layout.take(name, n_parameters * dtype.itemsize)
    n_jobs = 1 + len(programs)
    layout.take("relocations", 8 * (len(Header._fields) + n_jobs * JOB_SIZE))
    arrays["workspace"] = workspace.array
    layout.take("workspace", workspace.array.nbytes)
    block = aligned_zeros(layout.size // 8, np.int64)
    writer = _Writer(block, layout.at, parameters)

    for name, array in arrays.items():
        writer.view(name, array.dtype, array.size)[:] = array.ravel()
    states = writer.view("states", dtype, n_states * state_stride // dtype.itemsize).reshape(
        n_states, state_stride // dtype.itemsize
    )
    states[:, :n_parameters] = state.buffers
    writer.job("evaluation", plan, backend, "evaluation_layers")
    pack(writer.words, writer.at("evaluation") + TASK_AT, EvalArgs(0, 1.0, 1, False))
    for i, (most, _, path) in enumerate(programs):
        job = f"training {i}"
        writer.job(job, plan, backend, "layers")
        writer.training(job, rules, backend, path, n_states, state_stride)
        at = writer.at("programs") + i * len(Program._fields)
        block[at : at + 2] = most, kernels[i]
        writer.address(at + 2, job)
    header = Header(
        lr=lr,
        result=0.0,
        size=block.nbytes,
        n_parameters=n_parameters,
        accumulated_at=layout.at["accumulated"],
        parameters_at=layout.at["parameters"],
        n_copied=layout.at["workspace"] + plan.pack_at * dtype.itemsize,
        recipe=recipe,
        is_checked=is_checked,
        busy=0,
        n_in=backend.sizes[0],
        n_out=backend.sizes[-1],
        n_layers=len(plan.layers),
        rows=rows,
        takes_labels=name_of(backend.loss) in TAKE_LABELS,
        is_mean=backend._is_mean,
        raises=raises,
        input_scale=backend.scale,
        factors_lr=np.nan,
        step=state.step,
        n_accumulated=0,
        evaluate=EVALUATE.address(dtype),
        n_programs=len(programs),
        x_at=plan.x_at,
        lse_at=plan.lse_at,
        states_at=layout.at["states"],
        state_stride=state_stride,
        running_products_at=layout.at["running_products"],
        **dict.fromkeys(("parameters", *_HEADER_ADDRESSES, *_HEADER_COUNTS), 0),
    )
    PACKED_HEADER.pack_into(writer.words, 0, *header)
    for field, part in _HEADER_ADDRESSES.items():
        writer.address(AT[field], part)
    writer.parameter_address(AT["parameters"])
    writer.relocations()
    return block


_HEADER_ADDRESSES = {  # field of the header, and the part whose address it is
    "layers": "evaluation_layers",
    "workspace": "workspace",
    "evaluation": "evaluation",
    "gradient": "gradient",
    "accumulated": "accumulated",
    "order": "order",
    "losses": "losses",
    "programs": "programs",
    "relocations": "relocations",
}
_HEADER_COUNTS = "n_addresses", "n_parameter_addresses", "n_distances"


class _Writer:
    """Writes a block, and keeps which of its words change when it is copied to another address."""

    def __init__(self, block, at, parameters):
        self._block, self._at, self._parameters = block, at, parameters
        self.words = memoryview(block).cast("B")
        self.addresses, self.parameter_addresses, self.distances = [], [], []

    def at(self, part):
        """Return where a part begins, in words."""
        return self._at[part] // 8

    def view(self, part, dtype, size):
        """Return a part as an array."""
        start = self._at[part]
        return self._block.view(np.uint8)[start : start + size * np.dtype(dtype).itemsize].view(dtype)

    def address_of(self, part):
        """Return the memory address of a part."""
        return address_of(self._block) + self._at[part]

    def address(self, place, part):
        """Write the address of a part."""
        self._block[place] = self.address_of(part)
        self.addresses.append(place)

    def parameter_address(self, place):
        """Write the address of the parameters."""
        self._block[place] = address_of(self._parameters)
        self.parameter_addresses.append(place)

    def job(self, part, plan, backend, layers):
        """Write what all calls with a job share."""
        at = self.at(part)
        pack(self.words, at + POINTERS_AT, Pointers(0, len(plan.layers), 0, 0, 0))
        pack(self.words, at + PLAN_AT, plan)
        pack(self.words, at + DATA_AT, Data(0, X_KINDS[backend.dtype], backend.scale, 0, 0, 0, 0))
        call_args = CallArgs(*[0] * len(CallArgs._fields))._replace(n_running_products=N_RUNNING_PRODUCTS)
        pack(self.words, at + CALL_ARGS_AT, call_args)
        for field, name in (("layers", layers), ("functions", "functions"), ("workspace", "workspace"), ("sync",) * 2):
            self.address(at + POINTERS_AT + Pointers._fields.index(field), name)
        for field in ("gradient", "order", "losses", "running_products"):
            self.address(at + CALL_ARGS_AT + CallArgs._fields.index(field), field)
        self.parameter_address(at + CALL_ARGS_AT + CallArgs._fields.index("parameters"))

    def training(self, part, rules, backend, path, n_states, state_stride):
        """Write the TrainArgs of a job."""
        update, itemsize = rules.update, backend.dtype.itemsize
        start = self.at(part) + TASK_AT
        first = (self.address_of("states") - address_of(self._parameters)) // itemsize
        values = {
            **rules.args,
            "last_batch": 1,
            "n_epochs": 1,
            "threads": 1,
            "batch_size": 0,
            "is_mean": backend._is_mean,
            "update_path": path,
            "sums": 0,
            "n_states": n_states,
            "to_first": first,
            "to_second": first + state_stride // itemsize,
            "smoothing_share": 0.0,
        }
        if path == IN_EPILOGUE:
            values["epilogue"] = rules.epilogue
        if update.label_smoothing:
            values["smoothing_share"] = update.label_smoothing / smoothing_classes(backend.loss, backend.sizes[-1])
        pack(self.words, start, TrainArgs(**values))
        for field in ("hyperparameters", "rates", "sums"):
            self.address(start + TrainArgs._fields.index(field), field)
        self.distances += [start + TrainArgs._fields.index(field) for field in ("to_first", "to_second")]

    def relocations(self):
        """Write the lists of the words that change."""
        lists = self.addresses, self.parameter_addresses, self.distances
        places = [place for each in lists for place in each]
        start = self.at("relocations")
        self._block[start : start + len(places)] = places
        for field, each in zip(_HEADER_COUNTS, lists, strict=True):
            self._block[AT[field]] = len(each)
