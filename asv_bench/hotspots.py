"""Where the time of training goes: a profile by function, beside the least time that the arithmetic takes.

    python hotspots.py 64-30-10 --batch 10
    python hotspots.py 784-128-10 --batch 64 --threads 2 --optimizer adam

Needs Linux's `perf`.  What is compiled into another function counts as that one: a whole training kernel also reads
samples, computes inline activations and waits at barriers.
"""

import argparse
import collections
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from benchmarks.training import Peak, flops_of_sample
from fastbp.kernels import library
from fastbp.kernels.microkernel import tile_lanes
from numba import float32

import fastbp


def functions_of(code):
    """Yield name, place in its section, and size of each function of an ELF object."""
    (sections_at,), (entry_size, n_sections) = struct.unpack_from("<Q", code, 40), struct.unpack_from("<HH", code, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", code, sections_at + i * entry_size) for i in range(n_sections)]
    for _, kind, _, _, at, size, names, *_ in sections:
        if kind == 2:  # SHT_SYMTAB
            for symbol in range(at, at + size, 24):
                name_at, info, _, _, value, length = struct.unpack_from("<IBBHQQ", code, symbol)
                if info & 15 == 2:  # STT_FUNC
                    start = sections[names][4] + name_at
                    yield code[start : code.index(0, start)].decode(), value, length


def plain_name(name):
    """Return the function in a symbol of Numba, such as _ZN6fastbp7kernels5dense10pack_sliceB3v11..., or the symbol."""
    if not name.startswith("_ZN"):
        return name
    at, part = 3, name
    while (digits := re.match(r"\d+", name[at:])) is not None:
        start = at + digits.end()
        at = start + int(digits[0])
        part = name[start:at]
    return part


def write_perf_map(training):
    """Give `perf` the names and addresses of the functions that a training loads."""
    load, lines = library.load_code, []

    def load_and_note(code, symbol):
        address = load(code, symbol)
        functions = list(functions_of(code))
        start = address - next(value for name, value, _ in functions if name == symbol)
        for name, value, size in functions:
            within = "" if name == symbol else f":{plain_name(name)}"
            lines.append(f"{start + value:x} {size:x} {symbol}{within}\n")
        return address

    library.load_code = load_and_note
    training()
    Path(f"/tmp/perf-{os.getpid()}.map").write_text("".join(lines))


def train(options):
    """Train for about `options.seconds`; print the seconds of a sample, and the peak rate measured in between."""
    sizes = sizes_of(options)
    rng, n = np.random.default_rng(0), 64 * options.batch
    X, Y = rng.random((n, sizes[0]), dtype=np.float32), rng.random((n, sizes[-1]), dtype=np.float32)
    net = fastbp.Network(sizes, activations=options.activation, seed=0)
    optimizer = {"sgd": fastbp.SGD(0.01), "momentum": fastbp.SGD(0.01, momentum=0.9), "adam": fastbp.Adam()}
    trainer = fastbp.Trainer(net, optimizer[options.optimizer], options.batch, seed=0, threads=options.threads)
    write_perf_map(lambda: trainer.fit(X, Y, progress=False))
    peak, epochs, rounds, end = Peak(options.threads), 1, [], time.monotonic() + options.seconds
    while time.monotonic() < end:
        start = time.perf_counter()
        trainer.fit(X, Y, epochs=epochs, progress=False)
        spent = time.perf_counter() - start
        rounds.append((spent / (epochs * n), peak.measure()))
        epochs = max(1, round(epochs * 0.02 / spent))
    print(*np.median(rounds[len(rounds) // 4 :], axis=0))


def sizes_of(options):
    """Return the layer sizes as integers."""
    return [int(size) for size in options.sizes.split("-")]


def main():
    """Run one training under `perf` in a process of its own, and print its profile."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sizes", help="layer sizes, such as 64-30-10")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--optimizer", choices=["sgd", "momentum", "adam"], default="sgd")
    parser.add_argument("--activation", default="sigmoid")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--event", default="cycles", help="cpu-clock where there are no hardware counters")
    parser.add_argument("--within", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.within:
        return train(options)
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/perf.data"
        record = ["perf", "record", "-q", "-e", options.event, "-F", "5000", "-o", data]
        child = subprocess.run([*record, sys.executable, *sys.argv, "--within"], stdout=subprocess.PIPE, text=True)
        if child.returncode:
            return child.returncode
        script = ["perf", "script", "-i", data, "-F", "ip,sym"]
        lines = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    measured, rate = map(float, child.stdout.split())
    sizes, lanes = sizes_of(options), tile_lanes(float32)
    whole = [sizes[0], *(-(-size // lanes) * lanes for size in sizes[1:])]  # columns are computed in whole registers
    for what, columns in (("arithmetic", sizes), ("the same in whole registers", whole)):
        least = flops_of_sample(columns) / rate
        print(f"{1e9 * least:8.1f} ns, {least / measured:.2f}  {what}, at the microkernel's peak rate")
    print(f"{1e9 * measured:8.1f} ns a sample on {options.threads} thread(s), of which")
    symbols = (line.split(None, 1)[1].strip() for line in lines if " fastbp_" in line)
    counts = collections.Counter(symbol.removeprefix("fastbp_") for symbol in symbols)
    for symbol, count in counts.most_common(12):
        share = count / counts.total()
        print(f"{1e9 * share * measured:8.1f} ns, {share:.2f}  {symbol}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
