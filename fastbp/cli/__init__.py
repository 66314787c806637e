"""The command ``fastbp``: train on a file, predict with the saved model, verify and trace backpropagation."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; exit with one line of advice if its extra packages are not installed."""
    try:
        from .app import make_app
    except ImportError as error:
        package = (error.name or "typer").split(".")[0]
        if package not in ("typer", "rich"):
            raise
        sys.exit(f'The fastbp command needs {package}: pip install "fastbp[cli]"')
    make_app()()
