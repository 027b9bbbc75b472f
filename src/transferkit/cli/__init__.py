"""The command line: parse, call a workflow, print."""

from transferkit.cli.app import main

__all__ = ["main"]
