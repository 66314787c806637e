"""Start-up time, each in a new interpreter, with compiled machine code on disk."""

import subprocess
import sys
import textwrap
from importlib.util import find_spec

import fastbp

FIRST_FIT = """
    import fastbp
    X, y = fastbp.datasets.load_digits()
    net = fastbp.Network([64, 30, 10], ["sigmoid", "softmax"], loss="cross_entropy", seed=0)
    fastbp.Trainer(net, fastbp.SGD(0.2, 0.9), batch_size=20, seed=0).fit(X, y, progress=False)
    """


XOR = """
    import numpy as np
    import fastbp
    X, Y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32), np.array([[0], [1], [1], [0]], np.float32)
    net = fastbp.Network([2, 2, 1], seed=0)
    fastbp.Trainer(net, fastbp.SGD(1.0), batch_size=4, seed=0).fit(X, Y, epochs=10_000)
    """
XOR_IN_SKLEARN = """
    from sklearn.neural_network import MLPClassifier
    MLPClassifier((2,), "logistic", solver="sgd", batch_size=4, max_iter=10).fit(
        [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0]
    )
    """
CALLER = """
    import time
    import numpy as np
    from numba import njit
    from fastbp.kernels import affine_forward, sigmoid

    @njit
    def layer(A_prev, W, b, Z):
        affine_forward(A_prev, W, b, Z)
        sigmoid(Z, Z)

    @njit
    def empty(A_prev):
        pass

    A_prev, W, b, Z = np.ones((2, 3)), np.ones((3, 4)), np.ones(4), np.ones((2, 4))
    affine_forward(A_prev, W, b, Z)
    sigmoid(Z, Z)
    empty(A_prev)
    start = time.perf_counter()
    layer(A_prev, W, b, Z)
    print(time.perf_counter() - start)
    """
PEAK = "\nimport resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"


def printed(code, end=""):
    """Return the number that a new process prints."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code) + end], capture_output=True)
    return float(done.stdout.split()[-1])


class Startup:
    """Imports, and the time up to the end of the first epoch."""

    rounds, repeat, number, warmup_time, min_run_count = 1, 3, 1, 0, 1

    def setup_cache(self):
        X, y = fastbp.datasets.load_digits()
        net = fastbp.Network([64, 30, 10], ["sigmoid", "softmax"], loss="cross_entropy", seed=0)
        fastbp.Trainer(net, fastbp.SGD(0.2, 0.9), batch_size=20, seed=0).fit(X, y, progress=False)

    def timeraw_import(self, *_):
        return "import fastbp"

    def timeraw_import_kernels(self, *_):
        return "import fastbp.kernels"

    def timeraw_first_fit(self, *_):
        return FIRST_FIT

    def timeraw_import_numpy(self, *_):
        return "import numpy"

    def timeraw_import_numba(self, *_):
        return "import numba"

    def timeraw_xor(self, *_):
        return XOR


def track_caller_compile_time():
    """Seconds in which Numba compiles a user's function that calls two public kernels."""
    return printed(CALLER)


class PeakMemory:
    """Peak memory of a process that trains XOR, in MB (on Linux)."""

    params, param_names, unit = ["fastbp", "scikit-learn"], ["library"], "MB"

    def setup(self, library):
        if library == "scikit-learn" and find_spec("sklearn") is None:
            raise NotImplementedError("is not installed")

    def track_peak_memory(self, library):
        return printed(XOR if library == "fastbp" else XOR_IN_SKLEARN, PEAK) / 1024


track_caller_compile_time.unit = "s"
