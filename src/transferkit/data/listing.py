"""Images that are listed but not yet read: where each comes from, its split, label and group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from transferkit._typing import Int64Array, UInt8Array
from transferkit._validation import check_sequence, check_text
from transferkit.data.array_conversion import to_channels_last, to_one_array
from transferkit.data.image_decoding import decode, drop_alpha, drop_equal_channels, probe
from transferkit.data.split_names import SplitFolders
from transferkit.data.value_range import DatasetScale
from transferkit.errors import ConfigError, DataError


class Source(Protocol):
    """All images of a dataset, to be read one at a time, by name, on one scale."""

    @property
    def scale(self) -> DatasetScale:
        """The scale, perhaps known only once all images have been read."""

    def read(self, name: str, *, alpha: bool = False) -> UInt8Array:
        """Return one image, (H, W) or (H, W, 3), or with ``alpha``, if it has some, (H, W, 4).

        Without ``alpha`` it is composited on black. A DataError says why a file is damaged.
        """

    def size(self, name: str) -> tuple[int, int] | None:
        """Return an image's height and width, or None if it is damaged."""


@dataclass(frozen=True, slots=True)
class FileSource:
    """Image files below one folder; names are their paths relative to it, with slashes."""

    root: Path
    scale: DatasetScale

    def read(self, name: str, *, alpha: bool = False) -> UInt8Array:
        """Decode one file."""
        pixels = decode(self.root / name, alpha=alpha)
        if pixels.dtype != np.uint8:
            self.scale.see(pixels[None])
        return self.scale.convert(pixels)

    def size(self, name: str) -> tuple[int, int] | None:
        """Read one file's header."""
        return probe(self.root / name)


class Items(Protocol):
    """Images with a length and an index, each alone, in a pair or in a mapping."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, row: int, /) -> object:
        """One image."""


class ItemSource:
    """Images of arrays (n, H, W, C) and of datasets; names are ``"train[17]"``."""

    def __init__(self, scale: DatasetScale) -> None:
        self.scale = scale
        self.items: dict[str, tuple[Items, str | int]] = {}
        self.lock = Lock()  # few datasets can be read by several threads

    def add(self, stem: str, items: Items, key: str | int = 0) -> list[str]:
        """Add a dataset and return the names of its images; ``key`` is the image's in an item."""
        self.items[stem] = items, key
        return [f"{stem}[{row}]" for row in range(len(items))]

    def add_array(self, stem: str, array: NDArray[np.generic], title: str) -> list[str]:
        """Add an array, which may be a memory map; a DataError begins with ``title``."""
        try:
            images = to_channels_last(array)
            if array.dtype != np.uint8 and array.size:
                self.scale.see(images, title)
        except DataError as error:
            raise DataError(f"{title}: {error}") from error
        return self.add(stem, images)

    def take(self, name: str, *, alpha: bool) -> NDArray[np.generic]:
        """Return one image (H, W, C) as the dataset gives it."""
        stem, _, row = name[:-1].rpartition("[")
        items, key = self.items[stem]
        if isinstance(items, np.ndarray):
            image: NDArray[np.generic] = items[int(row)]
            return image
        try:
            with self.lock:
                item = items[int(row)]
        except Exception as error:  # whatever code of the caller's raises
            raise DataError(f"{type(error).__name__}: {error}") from error
        if isinstance(item, tuple | list | Mapping):
            item = cast(Mapping[object, object], item)[key]
        try:
            array = to_one_array(name, item, 4 if alpha else 3)
        except DataError as error:
            raise DataError(str(error).removeprefix(f"Cannot read {name}: ")) from error
        if array.dtype != np.uint8:
            self.scale.see(array[None])
        return array

    def read(self, name: str, *, alpha: bool = False) -> UInt8Array:
        """Take and convert one image."""
        image = self.scale.convert(self.take(name, alpha=alpha))
        return image if alpha else drop_equal_channels(drop_alpha(image))

    def size(self, name: str) -> tuple[int, int] | None:
        """Take one image to see its size."""
        try:
            height, width = self.take(name, alpha=False).shape[:2]
        except DataError:
            return None
        return height, width


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The images of one split: their source, N names, unique in the dataset, labels and groups."""

    source: Source
    names: Sequence[str]
    labels: Int64Array | None
    groups: Sequence[str | None] | None = None

    def take(self, rows: Int64Array) -> Part:
        """Keep some of the images."""
        return replace(
            self,
            names=[self.names[row] for row in rows],
            labels=None if self.labels is None else self.labels[rows],
            groups=None if self.groups is None else [self.groups[row] for row in rows],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """A dataset before it is read: the parts by split, ``"all"`` where there are no splits."""

    parts: Mapping[str, Part]
    classes: tuple[str, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)  # what is no image of it, and why
    notes: tuple[str, ...] = ()  # what was taken for granted, to be shown


@dataclass(frozen=True, slots=True)
class LayoutOptions:
    """How to list images; see ``load_splits``, whose options these are."""

    stack: ExitStack  # removes what archives were unpacked to
    split_folders: SplitFolders | None = None
    class_files: Mapping[str, tuple[str, str]] | None = None
    labels: object = None
    columns: Mapping[str, str] | None = None
    leave_out: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.leave_out is not None:
            check_sequence("leave_out", self.leave_out)
            for pattern in self.leave_out:
                check_text("leave_out", pattern)
        pairs = self.columns if isinstance(self.columns, Mapping) else {"": self.columns}
        if self.columns is not None and not all(isinstance(n, str) for n in pairs.values()):
            raise ConfigError(
                'columns must map roles to columns, such as {"path": "file", "label": "dx"}, got '
                f"{self.columns!r}."
            )

    def refuse(self, what: str, *names: str) -> None:
        """Raise if one of the options is given, since it means nothing for this form of data."""
        for name in names:
            if getattr(self, name) is not None:
                raise ConfigError(f"{name} means nothing for {what}; leave it out.")
