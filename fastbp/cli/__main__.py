"""Run the command line as ``python -m fastbp.cli``."""

from . import main

main()
