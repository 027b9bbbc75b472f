"""The names of splits: which folder, or key of an archive, is train, val or test."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NoReturn, TypeAlias

from transferkit.errors import ConfigError, DataError

SplitFolders: TypeAlias = Mapping[str, str | Sequence[str]]

SPLITS = ("train", "val", "test")

WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""Words that name a split."""

FILLERS = frozenset({"", "data", "folder", "image", "images", "img", "imgs", "seg", "split"})
"""Words that may stand beside: ``seg_train``, ``test_images``, ``training_set``."""

NUMBERED = re.compile(r"(fold|part|split|subset|train|test|val)[\W_]*\d+")
"""Names of parts that are not classes."""


def split_of(name: str) -> str | None:
    """Return the split that a name says, alone or with filler words; None for all others."""
    words = [word.removesuffix("set") for word in re.split(r"[\W_]+", name.lower())]
    found = [WORDS[word] for word in words if word in WORDS]
    return found[0] if len(found) == 1 and set(words) <= WORDS.keys() | FILLERS else None


def search_path(finder: re.Pattern[str], path: str) -> re.Match[str] | None:
    """Return the match in a file name, else in a folder above it, inner ones first, or in all."""
    return next(filter(None, map(finder.search, [*reversed(path.split("/")), path])), None)


def assign_splits(
    place: str,
    names: Sequence[str],
    split_folders: SplitFolders | None,
    *,
    empty: Collection[str] = (),
    or_classes: bool = False,
) -> dict[str, list[str]]:
    """Return the names that make each split, in the order train, val, test.

    Where some do and others do not, and these are not ``empty``, the caller has to say what they
    are; ``or_classes`` if all may be classes.
    """
    if split_folders is not None:
        return check_split_folders(place, names, split_folders)
    found: dict[str, list[str]] = {}
    for name in names:
        if split := split_of(name):
            found.setdefault(split, []).append(name)
    for split, several in found.items():
        if len(several) > 1:
            raise DataError(
                f"{place} has two folders for {split}: {' and '.join(several)}. Name the one, or "
                f"both: {example({**found, split: several})}."
            )
    splits = {split: found[split] for split in SPLITS if split in found}
    left = [name for name in names if split_of(name) is None and name not in empty]
    if splits and left:
        refuse_left_over(place, splits, left, or_classes=or_classes)
    return splits


def check_split_folders(place: str, names: Sequence[str], option: object) -> dict[str, list[str]]:
    """Return the option ``split_folders`` with a list of names for each split."""
    lists = option.values() if isinstance(option, Mapping) else [None]
    usual = all(own and isinstance(own, str | list | tuple) for own in lists)
    if not isinstance(option, Mapping) or not usual or not set(option) <= set(SPLITS):
        raise ConfigError(
            'split_folders must map train, val and test to names, such as {"train": "fold1", '
            f'"test": "fold2"}}, got {option!r}.'
        )
    found = {
        split: [option[split]] if isinstance(option[split], str) else list(option[split])
        for split in SPLITS
        if split in option
    }
    every = [name for several in found.values() for name in several]
    for name in every:
        if name not in names:
            raise DataError(f"{place} has no {name!r}; there are: {', '.join(names)}.")
    if len(set(every)) < len(every):
        raise ConfigError(f"split_folders names a folder twice: {option!r}.")
    return found


def refuse_left_over(
    place: str, found: Mapping[str, list[str]], left: Sequence[str], *, or_classes: bool
) -> NoReturn:
    """Raise since names that hold images belong to no split, and show the calls that work."""
    reading = ", ".join(f"{split} is {names[0]}" for split, names in found.items())
    suggested = {split: list(names) for split, names in found.items()}
    suggested.setdefault("test" if "test" not in suggested else "train", []).extend(left)
    raise DataError(
        f"{place} holds images that belong to no split: {', '.join(left)} (read: {reading}). Say "
        f"which splits there are: {example(found)} leaves them out, {example(suggested)} takes them"
        f"{', and split_folders={} takes all folders as classes' if or_classes else ''}."
    )


def check_classes_are_none(place: str, inside: Mapping[str, Sequence[str]]) -> None:
    """Raise if folders taken for classes all hold the same folders, as splits or folds would."""
    names, shared = list(inside), set(next(iter(inside.values())))
    if len(names) < 2:
        return
    if shared and all(shared == set(found) for found in inside.values()):
        reason = f"all of them hold the same folders, {', '.join(sorted(shared))}"
    elif all(NUMBERED.fullmatch(name.lower()) for name in names):
        reason = "their names are those of parts"
    else:
        return
    suggested = {"train": names[:-1], "test": names[-1:]}
    raise DataError(
        f"{place} has the folders {', '.join(names)}, which would be classes, but {reason}. "
        f"If they are splits, say which: {example(suggested)}. "
        "If they are classes, pass split_folders={}."
    )


def example(found: Mapping[str, Sequence[str]]) -> str:
    """Write the option ``split_folders`` as it would be passed."""
    short = {split: list(names) if len(names) > 1 else names[0] for split, names in found.items()}
    return f"split_folders={short!r}"
