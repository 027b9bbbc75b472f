"""Optional dependencies: imported where they are used, named clearly where they are absent."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from transferkit.errors import MissingDependencyError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import ``module``, or say which extra brings it.

    Args:
        module: Dotted name of the module, such as ``"matplotlib.figure"``.
        extra: The extra of transferkit that installs it.
        purpose: What it is needed for, as a noun: ``"Plots"``.

    Raises:
        MissingDependencyError: The module is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingDependencyError(
            f"{purpose} need {package}, which is not installed. "
            f"Install it with: pip install 'transferkit[{extra}]'"
        ) from error
