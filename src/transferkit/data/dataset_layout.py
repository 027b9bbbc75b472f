"""Datasets of torch, torchvision and Hugging Face, known by what they offer, not by their type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import numpy as np

from transferkit._format import describe
from transferkit.data.array_conversion import label_texts, number_labels, to_group_name
from transferkit.data.listing import Items, ItemSource, Listing, Part
from transferkit.data.table_layout import USUAL
from transferkit.data.value_range import DatasetScale
from transferkit.errors import ConfigError, DataError


def list_dataset(dataset: object, whole: str, scale: DatasetScale) -> Listing:
    """List the images of a dataset as one part; its labels are read at once, its images later."""
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
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
