"""The audit's checks of single images, their copies and their labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transferkit.audit.duplicates import check_exact_duplicates, check_near_duplicates
from transferkit.audit.finding import AuditConfig, Finding
from transferkit.audit.groups import check_groups
from transferkit.audit.hashing import content_hashes
from transferkit.audit.image_checks import (
    check_blank,
    check_low_information,
    check_odd_sizes,
    check_outlying,
    check_sizes,
    check_truncated,
    check_unreadable,
)
from transferkit.audit.image_stats import (
    ImageStatistics,
    corner_statistics,
    image_statistics,
)
from transferkit.audit.label_checks import check_label_conflicts, check_shortcuts
from transferkit.audit.near_duplicates import DuplicatePairs, near_duplicate_pairs
from transferkit.data.dataset import ImageData, Splits
from transferkit.workflows.gap import Groups


@dataclass(frozen=True, slots=True, eq=False)
class Copies:
    """Which images are the same.

    Attributes:
        hashes: Split to content hashes (N,).
        near: Edited copies among all images, numbered through the splits, or None.
    """

    hashes: Mapping[str, NDArray[np.bytes_]]
    near: DuplicatePairs | None

    @classmethod
    def of(cls, splits: Splits, *, near: bool) -> Copies:
        """Look for copies in all splits."""
        images = [data.images for data in splits.values()]
        return cls(
            {name: content_hashes(data.images) for name, data in splits.items()},
            near_duplicate_pairs(images) if near else None,
        )


def copy_findings(
    splits: Splits, copies: Copies, groups: Groups, config: AuditConfig
) -> list[Finding]:
    """Check for duplicates, near-duplicates, straddling groups and contradicting labels."""
    names = {split: data.names for split, data in splits.items()}
    pooled_names = [name for data in splits.values() for name in data.names]
    pooled = np.concatenate(list(copies.hashes.values()))
    found = check_exact_duplicates(copies.hashes, names=names, config=config)
    if copies.near is not None:
        of = [split for split, data in splits.items() for _ in range(len(data))]
        found += check_near_duplicates(
            copies.near, split_of=of, names=pooled_names, hashes=pooled, config=config
        )
    if groups is not None:
        found += check_groups(groups, names=names, config=config)
    if labelled := [split for split, data in splits.items() if data.labels is not None]:
        found.append(_conflicts(splits, labelled, copies, config))
    return found


def _conflicts(splits: Splits, labelled: list[str], copies: Copies, config: AuditConfig) -> Finding:
    parts = [splits[name] for name in labelled]
    return check_label_conflicts(
        np.concatenate([copies.hashes[name] for name in labelled]),
        np.concatenate([data.require_labels("Comparing labels") for data in parts]),
        classes=splits.classes,
        names=[name for data in parts for name in data.names],
        splits=labelled,
        near=copies.near if len(labelled) == len(splits) else None,
        config=config,
    )


def image_findings(
    splits: Splits, stats: Mapping[str, ImageStatistics], config: AuditConfig, alpha: float
) -> list[Finding]:
    """Check every image, and look for shortcuts to the labels."""
    skipped = [(file.path, file.reason) for file in splits.skipped]
    total = sum(len(data) for data in splits.values())
    found = [check_unreadable(skipped, total=total, config=config)]
    found += check_sizes(stats, config=config)
    for split, data in splits.items():
        found.append(check_truncated(data.images, names=data.names, split=split, config=config))
        for check in (check_blank, check_low_information, check_odd_sizes, check_outlying):
            found.append(check(stats[split], names=data.names, split=split, config=config))
        if data.labels is not None:
            found += _shortcuts(data, split, stats[split], config, alpha)
    return found


def measured(data: ImageData) -> ImageStatistics:
    """Measure the images of a split, with their original sizes."""
    return image_statistics(data.images, sizes=data.sizes)


def _shortcuts(
    data: ImageData, split: str, stats: ImageStatistics, config: AuditConfig, alpha: float
) -> list[Finding]:
    corners = corner_statistics(data.images)
    both = ImageStatistics(
        np.hstack([stats.values, corners.values]), (*stats.names, *corners.names)
    )
    return check_shortcuts(
        both,
        data.require_labels("Looking for shortcuts"),
        classes=data.classes,
        split=split,
        names=data.names,
        config=config,
        alpha=alpha,
    )
