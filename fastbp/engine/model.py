"""The memory of a model for users' compiled code: one array with its header, jobs, tables, workspace and states."""

from __future__ import annotations

import numpy as np

from .. import checks
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
from ..kernels.methods import ALIGNMENT, AT, PACKED_HEADER, Header, Program
from ..kernels.plan import trainer_for
from ..losses import row_of, smoothing_classes
from ..optimizers import N_RUNNING_PRODUCTS
from ..update import aligned_zeros
from . import limits
from .backend import X_KINDS, _Rules
from .workspace import EVALUATE, Workspace

MANY_PARAMETERS = 1 << 14  # from here on blocks are as large as a Trainer's: each of them reads all parameters
SMALL_BLOCK_ROWS = 64
UNLIMITED = 1 << 62
ONLINE = "training.train_online"


class _Layout:
    """Where the parts of the memory are, in bytes."""

    def __init__(self):
        self.size, self.at = 0, {}

    def take(self, name, n_bytes):
        """Give a part its place."""
        self.at[name] = self.size
        self.size += _padded(n_bytes)


def _padded(n):
    """Return n rounded up to a multiple of the alignment."""
    return -(-n // ALIGNMENT) * ALIGNMENT


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


def make_memory(backend, parameters, update, lr, state, *, raises, is_checked, config):
    """Return the memory of a model, an int64 array.

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
    raises, is_checked, config
        See `kernels.methods.Header`.
    """
    workspace, rules, programs = _load(backend, update, state)
    plan, arrays = workspace.plan, _arrays(workspace, rules, state)
    layout = _layout_of(backend, plan.rows, len(programs), arrays)
    memory = aligned_zeros(layout.size // 8, np.int64)
    writer = _Writer(memory, layout.at, parameters)
    for name, array in arrays.items():
        writer.view(name, array.dtype, array.size)[:] = array.ravel()
    writer.job("evaluation", plan, backend, "evaluation_layers")
    pack(writer.words, writer.at("evaluation") + TASK_AT, EvalArgs(wants=0, scale=1.0, threads=1, adds=False))
    for i, (most, kernel, path) in enumerate(programs):
        job = f"training {i}"
        writer.job(job, plan, backend, "layers")
        writer.training(job, rules, backend, path, arrays["states"])
        at = writer.at("programs") + i * len(Program._fields)
        memory[at : at + 2] = most, kernel
        writer.address(at + 2, job)
    header = Header(
        lr=lr,
        result=0.0,
        size=memory.nbytes,
        n_parameters=backend.n_parameters,
        accumulated_at=layout.at["accumulated"],
        parameters_at=layout.at["parameters"],
        n_copied=layout.at["workspace"] + plan.pack_at * backend.dtype.itemsize,
        config=config,
        is_checked=is_checked,
        busy=0,
        failed=0,
        n_in=backend.sizes[0],
        n_out=backend.sizes[-1],
        n_layers=len(plan.layers),
        rows=plan.rows,
        **_target_fields(backend),
        is_mean=backend._is_mean,
        raises=raises,
        input_scale=backend.scale,
        factors_lr=np.nan,
        step=state.step,
        n_accumulated=0,
        evaluate=EVALUATE.address(backend.dtype),
        n_programs=len(programs),
        x_at=plan.x_at,
        lse_at=plan.lse_at,
        states_at=layout.at["states"],
        state_stride=arrays["states"].strides[0],
        running_products_at=layout.at["running_products"],
        **dict.fromkeys(("parameters", *_HEADER_ADDRESSES, *_HEADER_COUNTS), 0),
    )
    writer.header(header)
    writer.relocations()
    return memory


def _target_fields(backend):
    """Return the fields of the header that say which targets the loss takes, as `checks.targets` has it."""
    row = row_of(backend.loss)
    least, most = (-1.0, 1.0) if row.takes_signs else checks.target_bounds(backend.loss, backend.dtype)
    tolerance = checks.SUM_TOLERANCE if row.takes_labels else np.inf
    return {
        "takes_labels": row.takes_labels,
        "takes_signs": row.takes_signs,
        "y_least": least,
        "y_most": most,
        "sum_tolerance": tolerance,
    }


def _load(backend, update, state):
    """Return a workspace with the addresses of all native functions, the rules, and (rows, kernel, path) of programs.

    The kernel is an address; 0 for one sample, whose training `model.train_step` contains.
    """
    rules = _Rules(update) if update is not None else None
    rows = limits.BLOCK_ROWS if backend.n_parameters >= MANY_PARAMETERS else SMALL_BLOCK_ROWS
    workspace = Workspace(backend, rows, 1, len(state.buffers), () if rules is None else rules.dropout)
    workspace.load_evaluation(WANT_OUTPUT | WANT_LOSS | WANT_GRADIENT | WANT_INPUT_GRADIENT)
    programs = []
    for most, kernel, path in [] if rules is None else programs_of(rules, workspace.plan, backend._lanes):
        workspace.load_training(native_function(kernel), update, path)  # the last path needs the most functions
        programs.append((most, 0 if kernel == ONLINE else workspace.kernel, path))
    return workspace, rules, programs


def _arrays(workspace, rules, state):
    """Return the arrays that are copied into the memory, by name; the last is the workspace."""
    layers = workspace.plan.layers
    evaluation_layers = layers.copy()  # without dropout
    evaluation_layers[:, THRESHOLD], evaluation_layers[:, DROP_AT] = 0, layers[:, A_AT]
    n_states, n_parameters = state.buffers.shape
    states = np.zeros((n_states, _padded(n_parameters)), state.buffers.dtype)
    states[:, :n_parameters] = state.buffers
    arrays = {
        "layers": layers,
        "evaluation_layers": evaluation_layers,
        "functions": workspace.plan.functions,
        "sync": workspace.sync,
        "order": np.arange(workspace.plan.rows, dtype=np.int64),
        "running_products": state.running_products,
        "states": states,
    }
    if rules is not None:
        is_constant = rules.update.schedule == "constant"  # then the header has the rate
        arrays["hyperparameters"] = rules.arrays[0]
        arrays["rates"] = np.ones(1) if is_constant else rules.arrays[1]
    return {**arrays, "workspace": workspace.array}


def _layout_of(backend, rows, n_programs, arrays):
    """Return where the parts of the memory are; the last one is the workspace."""
    layout, n_parameters = _Layout(), backend.n_parameters
    layout.take("header", PACKED_HEADER.size)
    layout.take("evaluation", 8 * JOB_SIZE)
    for i in range(n_programs):
        layout.take(f"training {i}", 8 * JOB_SIZE)
    layout.take("programs", 8 * len(Program._fields) * n_programs)
    layout.take("relocations", 8 * (len(Header._fields) + (1 + n_programs) * JOB_SIZE))  # at most
    layout.take("losses", 8 * rows)
    layout.take("sums", 8 * -(-n_parameters // SQUARES_CHUNK))
    for name in ("gradient", "accumulated", "parameters"):
        layout.take(name, n_parameters * backend.dtype.itemsize)
    for name, array in arrays.items():
        layout.take(name, array.nbytes)
    return layout


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
    """Writes the memory of a model, and keeps which of its words change when it is copied to another address."""

    def __init__(self, memory, at, parameters):
        self._memory, self._at, self._parameters = memory, at, parameters
        self.words = memoryview(memory).cast("B")
        self.addresses, self.parameter_addresses, self.distances = [], [], []

    def at(self, part):
        """Return where a part begins, in words."""
        return self._at[part] // 8

    def view(self, part, dtype, size):
        """Return a part as an array."""
        start = self._at[part]
        return self._memory.view(np.uint8)[start : start + size * np.dtype(dtype).itemsize].view(dtype)

    def address_of(self, part):
        """Return the memory address of a part."""
        return address_of(self._memory) + self._at[part]

    def address(self, place, part):
        """Write the address of a part."""
        self._memory[place] = self.address_of(part)
        self.addresses.append(place)

    def parameter_address(self, place):
        """Write the address of the parameters."""
        self._memory[place] = address_of(self._parameters)
        self.parameter_addresses.append(place)

    def header(self, header):
        """Write the header."""
        PACKED_HEADER.pack_into(self.words, 0, *header)
        for field, part in _HEADER_ADDRESSES.items():
            self.address(AT[field], part)
        self.parameter_address(AT["parameters"])

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

    def training(self, part, rules, backend, path, states):
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
            "n_states": len(states),
            "to_first": first,
            "to_second": first + states.shape[1],
            "to_scales": first + 2 * states.shape[1] if len(states) > 2 else 0,
            "smoothing_share": 0.0,
        }
        if path == IN_EPILOGUE:
            values["epilogue"] = rules.epilogue
        if update.label_smoothing:
            values["smoothing_share"] = update.label_smoothing / smoothing_classes(backend.loss, backend.sizes[-1])
        pack(self.words, start, TrainArgs(**values))
        for field in ("hyperparameters", "rates", "sums"):
            self.address(start + TrainArgs._fields.index(field), field)
        distances = "to_first", "to_second", *["to_scales"] * (len(states) > 2)
        self.distances += [start + TrainArgs._fields.index(field) for field in distances]

    def relocations(self):
        """Write the lists of the words that change."""
        lists = self.addresses, self.parameter_addresses, self.distances
        places = [place for each in lists for place in each]
        start = self.at("relocations")
        self._memory[start : start + len(places)] = places
        for field, each in zip(_HEADER_COUNTS, lists, strict=True):
            self._memory[AT[field]] = len(each)
