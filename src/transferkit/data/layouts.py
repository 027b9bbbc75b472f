"""What callers give ``load_splits``: each form to the list of its images.

Datasets of torch, torchvision and Hugging Face are known by what they offer, not by their type.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np

from transferkit._format import describe
from transferkit._validation import to_path
from transferkit.data.array_conversion import (
    TensorLike,
    label_texts,
    number_labels,
    to_group_name,
)
from transferkit.data.array_layouts import (
    list_arrays,
    list_class_arrays,
    load_npz,
    map_npy_files,
    split_and_role,
)
from transferkit.data.folder_layout import Tree, common_classes, ignored, list_folder
from transferkit.data.image_data import ImageData
from transferkit.data.listing import FileSource, Items, ItemSource, LayoutOptions, Listing, Part
from transferkit.data.split_names import assign_splits, split_of
from transferkit.data.table_layout import (
    USUAL,
    Frame,
    is_frame,
    label_pattern,
    list_table,
    read_frame,
    read_table,
)
from transferkit.data.value_range import DatasetScale
from transferkit.errors import ConfigError, DataError

DatasetInput: TypeAlias = "str | os.PathLike[str] | Mapping[str, object] | Frame | Items"

TABLES = (".csv", ".tsv", ".txt")
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


def list_images_of(
    data: object, options: LayoutOptions, scale: DatasetScale, whole: str = "all"
) -> Listing:
    """List the images of anything; without splits they are one part of the name ``whole``."""
    if isinstance(data, str | os.PathLike):
        return list_path(to_path("data", data), options, scale, whole)
    if isinstance(data, ImageData | np.ndarray | TensorLike):
        raise DataError(
            "These are images in memory already: put them together with tk.ImageData(images, "
            'labels) and tk.Splits({"train": ..., "test": ...}).'
        )
    if isinstance(data, Mapping):
        return list_mapping(data, options, scale)
    if is_frame(data):
        options.refuse("a data frame", "labels", "class_files", "leave_out")
        return list_table(read_frame(data), "the table", None, options, scale, whole)
    options.refuse("a dataset", "split_folders", "class_files", "labels", "columns", "leave_out")
    return list_dataset(data, whole, scale)


def list_path(path: Path, options: LayoutOptions, scale: DatasetScale, whole: str) -> Listing:
    """List the images of a folder, an archive of one, an ``.npz`` file or a table."""
    if not path.exists():
        raise DataError(f"{path} does not exist. Give a folder of images, a table or an archive.")
    name = path.name.lower()
    if path.is_dir():
        return list_below(path, options, scale, whole)
    if name.endswith(".npz"):
        options.refuse("an .npz file", "class_files", "labels", "columns", "leave_out")
        return list_arrays(path.name, load_npz(path), options.split_folders, scale, whole)
    if name.endswith(TABLES):
        options.refuse("a table", "labels", "class_files")
        tree = Tree(path.parent, options.leave_out)
        return list_table(read_table(path), path.name, tree, options, scale, whole)
    if name.endswith(ARCHIVES):
        place = unpack(path, options.stack)
        try:
            return list_path(place, options, scale, whole)
        except DataError as error:
            raise DataError(str(error).replace(str(place), path.name)) from error
    raise DataError(
        f"{path.name} is neither a folder nor a file of a known kind: .npz, {', '.join(TABLES)}, "
        f"{', '.join(ARCHIVES)}. For other tables give a data frame, for other archives the folder."
    )


def list_below(root: Path, options: LayoutOptions, scale: DatasetScale, whole: str) -> Listing:
    """List the images of a folder: by a table, by arrays, or by its folders."""
    tree = Tree(root, options.leave_out)
    labels = options.labels
    if labels is not None:
        if is_frame(labels):
            return list_table(read_frame(labels), "the table", tree, options, scale, whole)
        if not isinstance(labels, str | os.PathLike):
            raise ConfigError(
                "labels must be the path of a table, a data frame, or a regular expression, got "
                f"{labels!r}."
            )
        for place in (root / labels, Path(labels)):
            if place.is_file():
                return list_table(read_table(place), place.name, tree, options, scale, whole)
        if os.fspath(labels).lower().endswith(TABLES):
            raise DataError(f"There is no table {labels}, neither in {root} nor by itself.")
        columns = label_pattern(tree.images, os.fspath(labels))
        roles = replace(options, columns={"path": "path", "label": "label"})
        return list_table(columns, "the file names", tree, roles, scale, whole)
    options.refuse("images without a table", "columns")
    if options.class_files is not None or (not tree.images and any(root.glob("*.npy"))):
        arrays = map_npy_files(root)
        roles_found = [found[1] for found in map(split_and_role, arrays) if found]
        if options.class_files is None and "images" in roles_found:
            return list_arrays(str(root), arrays, options.split_folders, scale, whole)
        return list_class_arrays(root, arrays, options.class_files, scale)
    return list_folder(tree, options.split_folders, scale, whole)


def list_mapping(
    data: Mapping[object, object], options: LayoutOptions, scale: DatasetScale
) -> Listing:
    """List several forms, one for each split, under the classes of the first."""
    given = {str(name): value for name, value in data.items()}
    splits = assign_splits("The mapping", list(given), options.split_folders)
    if not splits:
        raise DataError(
            f"The mapping names no splits: {', '.join(given) or 'it is empty'}. Name them train, "
            "val and test, or say which are which: split_folders={...}."
        )
    alone = replace(options, split_folders=None)
    parts: dict[str, Part] = {}
    found: dict[str, Listing] = {}
    for split, names in splits.items():
        if len(names) > 1:
            raise DataError(f"The mapping has several parts for {split}: {', '.join(names)}.")
        found[split] = listing = list_images_of(given[names[0]], alone, scale, split)
        if set(listing.parts) != {split}:
            raise DataError(
                f"{names[0]} has splits of its own: {', '.join(listing.parts)}. Give the folder or "
                "file of one split, or load it without a mapping."
            )
    classes = common_classes({s: own.classes for s, own in found.items() if own.classes})
    left_out: dict[str, str] = {}
    for split, listing in found.items():
        part = listing.parts[split]
        order = np.array([classes.index(name) for name in listing.classes], np.int64)
        labels = None if part.labels is None else order[part.labels]
        parts[split] = replace(part, labels=labels)
        left_out |= {f"{split}: {path}": why for path, why in listing.left_out.items()}
    notes = sum((listing.notes for listing in found.values()), ())
    return Listing(with_common_root(parts), classes, left_out, notes)


def with_common_root(parts: Mapping[str, Part]) -> dict[str, Part]:
    """Name files of several folders by their paths below the folder that holds them all."""
    roots = {s: p.source.root for s, p in parts.items() if isinstance(p.source, FileSource)}
    if len(roots) < 2:
        return dict(parts)
    whole = {split: Path(root).absolute() for split, root in roots.items()}
    try:
        common = Path(os.path.commonpath(list(whole.values())))
    except ValueError:  # on several drives
        common = Path()
    renamed = dict(parts)
    for split, root in whole.items():
        part = parts[split]
        above = root.relative_to(common) if common.parts else root
        names = [(above / name).as_posix() for name in part.names]
        source = FileSource(common, part.source.scale)
        renamed[split] = replace(part, source=source, names=names)
    return renamed


def unpack(path: Path, stack: ExitStack) -> Path:
    """Unpack an archive to a folder that ``stack`` removes; return the one folder or file in it."""
    place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="transferkit-")))
    try:
        if path.suffix.lower() == ".zip":
            shutil.unpack_archive(path, place, "zip")
        else:
            shutil.unpack_archive(path, place, filter="data")
    except (OSError, ValueError, EOFError, RuntimeError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{path.name} is no readable archive: {error}.") from error
    stamp = path.stat().st_mtime_ns  # so that the cache of decoded images knows the files again
    for where, _, files in os.walk(place):
        for name in files:
            os.utime(Path(where, name), ns=(stamp, stamp))
    while True:
        inside = [entry for entry in place.iterdir() if not ignored(entry.name)]
        if len(inside) != 1 or split_of(inside[0].name):
            return place
        only = inside[0]
        if only.is_file():
            return only if only.name.lower().endswith(".npz") else place
        more = any(e.is_dir() or e.name.lower().endswith((".npy", *TABLES)) for e in only.iterdir())
        if not more:
            return place  # images of one class
        place = only


def list_dataset(dataset: object, whole: str, scale: DatasetScale) -> Listing:
    """List the images of a dataset as one part; its labels are read at once, its images later."""
    if isinstance(dataset, bytes) or not (
        hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    ):
        inner = " For a DataLoader give its .dataset." if hasattr(dataset, "batch_size") else ""
        raise ConfigError(
            "Expected the path of a folder or file, a table, a dataset with a length and an index, "
            f"or a mapping of splits to these, got {describe(dataset)}.{inner}"
        )
    items = cast(Items, dataset)
    key: str | int = 0
    if hasattr(dataset, "features") and hasattr(dataset, "column_names"):
        key, texts, names = read_features(dataset)
    else:
        texts, names = read_targets(items)
    if texts is not None and "" in texts:
        if set(texts) != {""}:
            raise DataError(f"{texts.count('')} of {len(texts)} images of {whole} have no label.")
        texts = None
    numbers, classes = number_labels(whole, {whole: texts}, names)
    source = ItemSource(scale)
    part = Part(source, source.add(whole, items, key), numbers[whole])
    return Listing({whole: part}, classes)


def read_features(dataset: object) -> tuple[str, list[str] | None, Sequence[str] | None]:
    """Return the image column, the labels and the class names of a Hugging Face Dataset."""
    features = cast(Mapping[str, object], getattr(dataset, "features", None) or {})
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    image = next((name for name, kind in kinds.items() if kind == "Image"), None)
    if image is None:
        raise DataError(f"The dataset has no column of images; it has {kinds}.")
    label = next((name for name, kind in kinds.items() if kind == "ClassLabel"), None)
    usual = {name.lower(): name for name in kinds if name != image}
    label = label or next((usual[name] for name in USUAL["label"] if name in usual), None)
    if label is None:
        return image, None, None
    values = cast(Iterable[object], cast(Mapping[str, object], dataset)[label])
    names = cast("Sequence[str] | None", getattr(features[label], "names", None))
    texts = [to_group_name(value) for value in values]
    if names is not None:  # -1 stands for no label
        texts = [names[int(text)] if text not in ("", "-1") else "" for text in texts]
    return image, texts, names


def read_targets(dataset: Items) -> tuple[list[str] | None, Sequence[str] | None]:
    """Return the labels and the class names of a torch dataset, without its images if it can."""
    if hasattr(dataset, "dataset") and hasattr(dataset, "indices"):  # a Subset
        texts, names = read_targets(dataset.dataset)
        rows = cast(Sequence[int], dataset.indices)
        return None if texts is None else [texts[row] for row in rows], names
    values = getattr(dataset, "targets", None)
    values = getattr(dataset, "labels", None) if values is None else values
    if values is None:
        items = (dataset[row] for row in range(len(dataset)))
        pairs = [item[1] for item in items if isinstance(item, tuple | list) and len(item) > 1]
        values = pairs if len(pairs) == len(dataset) else None
    if values is None:
        return None, None
    texts = label_texts(values)
    names = getattr(dataset, "classes", None)
    if names is None and isinstance(info := getattr(dataset, "info", None), Mapping):
        told = info.get("label")  # as the datasets of MedMNIST have it
        names = [told[key] for key in sorted(told, key=int)] if isinstance(told, Mapping) else None
    if names is None or not set(texts) <= set(map(str, range(len(names)))):
        return texts, None
    named = [str(np.asarray(name)) for name in names]
    return [named[int(text)] for text in texts], named
