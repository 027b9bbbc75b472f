"""``load_splits``: a folder, an archive or class arrays to ``Splits``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice

import numpy as np

from transferkit._sampling import quotas
from transferkit._typing import Int64Array, UInt8Array
from transferkit._validation import check_number, check_text, check_whole, to_path, to_sides
from transferkit.data.decoded_cache import read_or_map
from transferkit.data.image_data import ImageData, printable, trusted_images
from transferkit.data.image_decoding import Resize
from transferkit.data.layouts import DatasetInput, list_images_of
from transferkit.data.listing import FileSource, LayoutOptions, Listing, Part
from transferkit.data.pixel_reader import (
    CacheChoice,
    Channels,
    DecodedImages,
    OnError,
    ReadOptions,
    StoreOptions,
    unreadable,
)
from transferkit.data.split_names import SplitFolders
from transferkit.data.splits import SkippedFile, Splits, divide, groups_from_names
from transferkit.data.table_layout import Frame
from transferkit.data.value_range import DatasetScale, chunks, report_depth
from transferkit.errors import ConfigError, DataError


def load_splits(
    data: DatasetInput,
    *,
    image_size: int | tuple[int, int] | None = None,
    val_share: float = 0.2,
    seed: int = 0,
    split_folders: SplitFolders | None = None,
    class_files: Mapping[str, tuple[str, str]] | None = None,
    labels: str | os.PathLike[str] | Frame | None = None,
    columns: Mapping[str, str] | None = None,
    leave_out: Sequence[str] | None = None,
    groups: str | None = None,
    bits: int | None = None,
    on_error: OnError = "raise",
    channels: Channels = "auto",
    resize: Resize = "squash",
    workers: int | None = None,
    memory_limit: int = 2 << 30,
    cache: CacheChoice | None = "auto",
    cache_folder: str | os.PathLike[str] | None = None,
    cache_limit: int = 20_000_000_000,
    progress: bool | None = None,
) -> Splits:
    r"""Read a dataset of images into uint8 arrays.

    A folder has ``train``, ``val`` (or ``valid``, ``validation``, ``dev``) and ``test`` folders,
    also by names such as ``training_set``, each with one folder of images per class; or only the
    folders of the classes; or images whose labels stand in a table or in their names. It may be
    packed as zip or tar. Arrays come as an ``.npz`` (``train_images``, ``train_labels``, ..., or
    ``x_train``, ``y_train``, ..., or ``images`` and ``labels``), as ``.npy`` files of these names,
    or as one ``.npy`` per class and split: ``normal.npy``, ``test_normal.npy``. Datasets of torch,
    torchvision and Hugging Face are read image by image. The page "Loading images" of the
    documentation has an example of each.

    Where there is no val split, ``val_share`` of train becomes it, and where there are no splits,
    as much becomes test; stratified by class, with each group in one split. What is left out is
    listed in ``Splits.skipped`` with the reason.

    Args:
        data: The path of a folder, an archive, an ``.npz`` or a table (CSV, TSV); or a data frame
            of pandas, polars or another library; or a dataset with a length and an index; or a
            mapping of splits to any of these: ``{"train": path, "test": path}``.
        image_size: Height and width to store images at. None keeps a size that all share, and
            brings mixed sizes to a square of their median side, 256 at most.
        val_share: Share of train that becomes val; 0 makes no val split.
        seed: Which images become val.
        split_folders: For other names of splits: train, val and test to a folder or several, such
            as ``{"train": ["fold1", "fold2"], "test": "fold3"}``; to the beginning of the key in an
            ``.npz``. Folders not named are left out. ``{}`` takes all folders as classes.
        class_files: For ``.npy`` files: name without ``.npy`` to (split, class).
        labels: What tells the labels of the images of a folder: the path of a table, relative to
            the folder, a data frame, or a regular expression whose match (or its first group) in a
            file name, or else in its folders, is the class, such as ``r"^(cat|dog)"``.
        columns: The columns of a table to read: ``{"path": ..., "label": ..., "split": ...,
            "group": ...}``, of which the last two are optional. By default they are known by their
            content and by usual names, and a warning shows what was read. A path is relative to the
            folder, or the name of a file below it, with or without its suffix. Labels may also be
            one column of 0 and 1 per class. An image without a label belongs to a split without.
        leave_out: Names or patterns of files and folders to leave out, such as ``["masks"]``.
            ``[]`` leaves out none, where folders look like masks of the images beside them.
        groups: Regular expression whose match in a file name, or else in its folders, is the group
            (patient, film) of the image, such as ``r"person\d+"``; a file without a match is a
            group of its own.
        bits: Bit depth of 16-bit images, such as 12 for values in 0..4095. By default the least of
            10, 12, 14 and 16 that holds the largest value of the dataset.
        on_error: ``"raise"`` stops at an unreadable image; ``"skip"`` leaves it out and lists it in
            ``Splits.skipped``.
        channels: 1, 3, or 4 to keep the alpha of transparent images, which else are composited on
            black; ``"auto"`` takes 1 if every image is grey, also if stored as RGB, else 3.
        resize: ``"squash"`` changes the aspect ratio; ``"crop"`` and ``"pad"`` keep it.
        workers: Threads that decode; None takes one per processor, 16 at most.
        memory_limit: Bytes of pixels above which they lie in a memory-mapped file.
        cache: ``"disk"`` keeps the decoded images for later calls, which map them while every file
            has the same name, size and time of change; ``"auto"`` does so where it saves seconds
            (files of more than 32 MB together, or pixels beyond ``memory_limit``); None never.
        cache_folder: Folder of the cache; ``$TRANSFERKIT_CACHE`` or the user's cache folder by
            default. See ``transferkit cache``.
        cache_limit: Bytes that the cache may take; the least recently used data go first.
        progress: Whether to show a progress bar; None shows it on a terminal only.

    Raises:
        DataError: Nothing there, an unknown layout, an empty class, classes that differ between
            splits, an unreadable image, or any other fault of the data.
        ConfigError: An option has a value that cannot work.
        OutputError: No room for the memory-mapped file.

    Warns:
        CacheWarning: The images cannot be kept (disk full, folder not writable); they are decoded
            all the same.
        UserWarning: A bit depth below 16, or the columns of a table, were inferred; a split lacks a
            class; there is one class only, or none.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> import transferkit as tk
        >>> with TemporaryDirectory() as root:
        ...     for number in range(40):
        ...         split, title = ("train", "test")[number % 2], ("cat", "dog")[number // 20]
        ...         Path(root, split, title).mkdir(parents=True, exist_ok=True)
        ...         Image.new("L", (50, 40)).save(Path(root, split, title, f"{number}.png"))
        ...     splits = tk.load_splits(root, val_share=0.2, image_size=32)
        >>> print(splits)
        split  images     size  cat  dog
        -----  ------  -------  ---  ---
        train      16  32x32x1    8    8
        val         4  32x32x1    2    2
        test       20  32x32x1   10   10
    """
    check_number("val_share", val_share, least=0, below=1)
    check_whole("seed", seed)
    size = None if image_size is None else to_sides("image_size", image_size)
    folder = None if cache_folder is None else to_path("cache_folder", cache_folder)
    store = StoreOptions(memory_limit, cache, folder, cache_limit)
    options = ReadOptions(size, resize, bits, channels, on_error, workers, progress, store)
    with ExitStack() as stack:
        layout = LayoutOptions(stack, split_folders, class_files, labels, columns, leave_out)
        listing = list_images_of(data, layout, scale := DatasetScale(bits))
        scale.settle()
        parts = make_missing_splits(with_groups(listing.parts, groups), val_share, seed)
        images = read_or_map(parts, options)
    return report(assemble(images, parts, listing, options), bits, listing.notes)


def with_groups(parts: Mapping[str, Part], pattern: str | None) -> Mapping[str, Part]:
    """Give the images of files the groups that their names tell."""
    if pattern is None:
        return parts
    check_text("groups", pattern)
    if not all(isinstance(part.source, FileSource) for part in parts.values()):
        raise ConfigError("groups reads file names, but these images have none; leave it out here.")
    names = [name for part in parts.values() for name in part.names]
    found = iter(groups_from_names(names, pattern))
    return {s: replace(p, groups=list(islice(found, len(p.names)))) for s, p in parts.items()}


def make_missing_splits(parts: Mapping[str, Part], val_share: float, seed: int) -> dict[str, Part]:
    """Make a val split where there is none, and a test split too where there are no splits."""
    for split, part in parts.items():
        if not part.names:
            raise DataError(f"The {split} split has no images.")
    whole = parts.get("all", parts.get("train"))
    if whole is None or whole.labels is None or "val" in parts:
        return dict(parts)
    shares = {"train": 1 - val_share, "val": val_share}
    if "all" in parts:
        shares = {"train": 1 - 2 * val_share, "val": val_share, "test": val_share}
        if shares["train"] <= 0:
            raise ConfigError(
                "Without split folders val_share goes to val and as much to test, so it must be "
                f"below 0.5, got {val_share}."
            )
    if val_share == 0:
        return {"train": whole, **{s: part for s, part in parts.items() if part is not whole}}
    sizes = quotas(np.array(list(shares.values())), len(whole.names))
    rows = divide(whole.labels, sizes, seed=seed, groups=whole.groups)
    made = {name: whole.take(own) for name, own in zip(shares, rows, strict=True)}
    return {**made, **{name: part for name, part in parts.items() if part is not whole}}


def assemble(
    images: DecodedImages, parts: Mapping[str, Part], listing: Listing, options: ReadOptions
) -> Splits:
    """Make the splits of decoded images."""
    row_of = {name: row for row, name in enumerate(images.names)}
    splits: dict[str, ImageData] = {}
    skipped: list[SkippedFile] = []
    for split, part in parts.items():
        lost = [
            SkippedFile(printable(n), images.skipped[n]) for n in part.names if n in images.skipped
        ]
        if lost and options.on_error == "raise":  # decoded earlier, with on_error="skip"
            raise unreadable(lost[0].path, lost[0].reason)
        skipped += lost
        kept = part.take(np.array([i for i, name in enumerate(part.names) if name in row_of], int))
        if not kept.names:
            raise DataError(
                f"No image of the {split} split can be read: {lost[0].path}: {lost[0].reason}."
            )
        rows = np.array([row_of[name] for name in kept.names])
        splits[split] = trusted_images(
            take_rows(images.pixels, rows, options),
            kept.labels,
            listing.classes,
            map(printable, kept.names),
            images.sizes[rows],
            kept.groups,
            images.bits,
            options.resize,
        )
        if lost and (absent := absent_classes(splits[split])):
            raise DataError(f"No image of the class {absent[0]} in the {split} split can be read.")
    skipped += [
        SkippedFile(printable(p), why, broken=False) for p, why in sorted(listing.left_out.items())
    ]
    return Splits(splits, skipped=skipped)


def report(splits: Splits, bits: int | None, notes: Sequence[str]) -> Splits:
    """Warn of what was inferred, and of classes that a split lacks."""
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=3)
    report_depth(splits.bits, bits, stacklevel=3)
    if splits.num_classes < 2:
        named = f"one class only, {splits.classes[0]}" if splits.classes else "no labels"
        warnings.warn(
            f"These images have {named}, which is enough for an audit. Training needs two classes: "
            "a folder for each, or a table as labels.",
            UserWarning,
            stacklevel=3,
        )
    for split, data in splits.items():
        if absent := absent_classes(data):
            warnings.warn(
                f"The {split} split has no image of the class {', '.join(absent)}; the figures of "
                "that class are undefined there.",
                UserWarning,
                stacklevel=3,
            )
    return splits


def absent_classes(data: ImageData) -> list[str]:
    """Return the classes that labelled images lack."""
    if data.labels is None:
        return []
    return [data.classes[label] for label in np.flatnonzero(data.class_counts() == 0)]


def take_rows(pixels: UInt8Array, rows: Int64Array, options: ReadOptions) -> UInt8Array:
    """Return some rows, without copying where they lie side by side."""
    first, count = int(rows[0]), len(rows)
    if np.array_equal(rows, np.arange(first, first + count)):
        return pixels[first : first + count]
    images = options.store.reserve((count, *pixels.shape[1:]))
    for part in chunks(images):
        images[part] = pixels[rows[part]]
    return images
