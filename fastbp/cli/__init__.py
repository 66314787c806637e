"""The command ``fastbp``: train, predict, verify, trace."""

from .app import main

__all__ = ["main"]
