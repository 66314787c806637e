"""What the examples have in common: their options, tables and plots."""

import argparse
import sys


def parse(description, arguments):
    """Return the options of an example.

    Parameters
    ----------
    description : str
        The docstring of its module.
    arguments : list of str, or None
        None stands for those of the command line.
    """
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="a few steps only, to see that all works")
    parser.add_argument("--peers", action="store_true", help="run the same loop with PyTorch and JAX too")
    parser.add_argument("--plot", metavar="FILE", help="draw a picture (needs matplotlib)")
    return parser.parse_args(arguments)


def show(rows):
    """Print a table of (what, value)."""
    width = max(len(what) for what, _ in rows)
    for what, value in rows:
        print(f"{what:{width}}  {value}")


def axes(path):
    """Return matplotlib's axes for a plot, and the function that saves it; exit with a message where it is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        sys.exit("--plot needs matplotlib: pip install matplotlib")
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot(), lambda: figure.savefig(path, dpi=120)
