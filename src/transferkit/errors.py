"""The error tree. A message says what was expected, what came, and what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

LISTED = 100
"""Up to so many known names are all listed in an error, where none is near."""

_LISTED_TOO = 30  # where some are near
_NEAREST = 5


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

        Names that begin with ``name`` come first; upper and lower case are the same.

        Args:
            kind: What was looked for, as a noun: ``"backbone"``.
            name: The name that came.
            known: The names that would have worked.
            hint: One more sentence, such as how to list them all.
        """
        names = list(known)
        nearest = _nearest(name, names)
        guess = f"Did you mean {', '.join(map(repr, nearest))}?" if nearest else ""
        limit = _LISTED_TOO if nearest else LISTED
        listed = f"Known: {', '.join(names)}." if len(names) <= limit else ""
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


def _nearest(name: str, known: Iterable[str]) -> list[str]:
    """The names that begin with ``name``, then those that resemble it."""
    wanted = name.casefold()
    folded = {one.casefold(): one for one in known}
    longer = [one for one in folded if wanted and one.startswith(wanted)]
    found = get_close_matches(wanted, longer, n=_NEAREST, cutoff=0.0)
    found += get_close_matches(wanted, folded, n=_NEAREST, cutoff=0.5)
    return [folded[one] for one in dict.fromkeys(found)][:_NEAREST]
