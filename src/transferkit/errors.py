"""The error tree. A message says what was expected, what came, and what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

LISTED = 100
"""Up to so many known names are all listed in an error."""


class TransferkitError(Exception):
    """Base of every error that transferkit raises on purpose."""


class ConfigError(TransferkitError, ValueError):
    """An option has a value that cannot work."""


class DataError(TransferkitError, ValueError):
    """The data (a folder, a file, an array) is not what the operation needs."""


class UnknownNameError(TransferkitError, LookupError):
    """A name (a backbone, a stage, a strategy) that nothing goes by."""

    @classmethod
    def among(
        cls, kind: str, name: str, known: Iterable[str], *, hint: str = ""
    ) -> UnknownNameError:
        """Build the error for ``name``, with the nearest of the ``known`` names.

        Args:
            kind: What was looked for, as a noun: ``"backbone"``.
            name: The name that came.
            known: The names that would have worked.
            hint: One more sentence, such as how to list them all.
        """
        names = list(known)
        nearest = get_close_matches(name, names, n=5, cutoff=0.5)
        guess = f"Did you mean {', '.join(map(repr, nearest))}?" if nearest else ""
        listed = f"Known: {', '.join(names)}." if len(names) <= LISTED else ""
        parts = (f"Unknown {kind} {name!r}.", guess, listed, hint)
        return cls(" ".join(filter(None, parts)))


class WeightsError(TransferkitError):
    """Pretrained weights cannot be found, fetched, read or fitted to the network."""


class TrainingError(TransferkitError, RuntimeError):
    """Training cannot start or cannot go on."""


class OutputError(TransferkitError, OSError):
    """A file or folder cannot be written."""


class MissingDependencyError(TransferkitError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""
