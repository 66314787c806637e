"""Start-up time, each in a new interpreter, with compiled machine code on disk."""

import fastbp

FIRST_FIT = """
    import fastbp
    X, y = fastbp.datasets.load_digits()
    net = fastbp.Network([64, 30, 10], ["sigmoid", "softmax"], loss="cross_entropy", seed=0)
    fastbp.Trainer(net, fastbp.SGD(0.2, 0.9), batch_size=20, seed=0).fit(X, y, progress=False)
    """


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
