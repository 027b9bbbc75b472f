"""Checks of the splits: missing images and labels, copies, groups in two splits."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from transferkit._typing import BoolArray, Int64Array
from transferkit.audit.audit_data import AuditData
from transferkit.audit.finding import Evidence, Finding, nothing_found
from transferkit.audit.near_duplicates import DuplicatePairs


def few_images(data: AuditData) -> Iterator[Finding]:
    """Splits with fewer images than features, in which only large shifts show."""
    for split, part in data.splits.items():
        count, width = part.features.shape
        if count < width:
            yield Finding(
                check="few_images",
                severity="warning" if count < 10 else "info",
                splits=(split,),
                statistic=count,
                message=f"{split} has {count} image(s), fewer than the {width} features: only "
                "large shifts can be told from chance.",
                advice=f"Add images to {split}." if count < 10 else "",
            )


def missing_labels(data: AuditData) -> Iterator[Finding]:
    """Splits without labels: several checks cannot run there."""
    missing = tuple(split for split in data.splits if split not in data.labels)
    if missing:
        yield Finding(
            check="labels",
            severity="warning" if not data.labels else "info",
            splits=missing,
            statistic=len(missing),
            message=f"No labels in {', '.join(missing)}: there, nothing is compared within "
            "classes and no score is measured.",
        )


def useless_embedding(data: AuditData) -> Iterator[Finding]:
    """A classifier whose outputs mean nothing yet, and features in which no shift can show."""
    problems = {}
    if data.untrained_head:
        problems["Audit with a trained classifier, or name the backbone."] = (
            "The head of the model was never trained: its outputs are left out, and a probe on its "
            "features stands in for them."
        )
    if all(np.ptp(part.features, axis=0).max() == 0 for part in data.splits.values()):
        problems["Audit with another model."] = (
            "Every feature is constant within each split: the embedding sees no difference "
            "between images."
        )
    for advice, message in problems.items():
        yield Finding(
            check="embedding",
            severity="warning",
            splits=tuple(data.splits),
            message=message,
            advice=advice,
        )


def empty_classes(data: AuditData) -> Iterator[Finding]:
    """Classes without an image in a labelled split."""
    for split, counts in data.class_counts.items():
        for name, count in zip(data.classes, counts, strict=True):
            if count:
                continue
            yield Finding(
                check="empty_class",
                severity="error" if split == "train" else "warning",
                splits=(split,),
                class_name=name,
                statistic=0,
                message=f"{split} has no image of class {name}.",
                advice=f"Split again, stratified by class, or leave {name} out everywhere.",
            )


def exact_duplicates(data: AuditData) -> Iterator[Finding]:
    """Images with identical pixels in two splits."""
    leaks = False
    for a, b, twins in _shared({name: own.tolist() for name, own in data.hashes.items()}):
        leaks = True
        names, others, total = data.splits[a].names, data.splits[b].names, len(data.splits[b])
        yield data.share_of_images(
            "exact_duplicates",
            data.config.exact_leak,
            (a, b),
            [Evidence((names[i], others[j]), "identical pixels") for i, j in twins],
            f"{len(twins)} of {total} images of {b} are pixel-identical to images of {a}.",
            f"Remove them from {a} or {b}: a score on {b} counts them as unseen.",
        )
    if not leaks:
        message = "No image is pixel-identical to one of another split."
        yield nothing_found("exact_duplicates", tuple(data.splits), message)


def straddling_groups(data: AuditData) -> Iterator[Finding]:
    """Groups (patients, films) that lie in two splits."""
    if data.groups is None:
        return
    straddle = False
    for a, b, twins in _shared(data.groups):
        straddle = True
        names, others, own = data.splits[a].names, data.splits[b].names, data.groups[b]
        count = len({own[row] for _, row in twins})
        yield data.share_of_images(
            "straddling_groups",
            data.config.group_leak,
            (a, b),
            [Evidence((names[i], others[j]), f"group {own[j]}") for i, j in twins],
            f"{count} groups lie in both {a} and {b}: {len(twins)} of {len(own)} images of "
            f"{b} belong to them.",
            "Split by group, so that no patient is in the images of both.",
            statistic=count,
        )
    if not straddle:
        total = len({group for groups in data.groups.values() for group in groups})
        message = f"Each of the {total} groups lies in one split."
        yield nothing_found("straddling_groups", tuple(data.groups), message)


def _shared(
    keys: Mapping[str, Sequence[Hashable]],
) -> Iterator[tuple[str, str, list[tuple[int, int]]]]:
    """Every two splits that share keys: each such row of the later one, and its first twin."""
    for a, b in combinations(keys, 2):
        first = {key: row for row, key in reversed(list(enumerate(keys[a])))}
        twins = [(first[key], row) for row, key in enumerate(keys[b]) if key in first]
        if twins:
            yield a, b, twins


def repeated_images(data: AuditData) -> Iterator[Finding]:
    """Images with the pixels of an earlier image of the same split."""
    for split, hashes in data.hashes.items():
        names = data.splits[split].names
        twin = _first_twins(hashes)
        repeats = np.flatnonzero(twin != np.arange(len(hashes))).tolist()
        if repeats:
            yield data.share_of_images(
                "repeated_images",
                data.config.repeats,
                (split,),
                [Evidence((names[twin[row]], names[row]), "identical pixels") for row in repeats],
                f"{len(repeats)} of {len(hashes)} images of {split} repeat another image of it.",
                "Keep one of each: repeats count double in training and in every score.",
            )


def _first_twins(hashes: NDArray[np.bytes_]) -> Int64Array:
    """Row of the first image with the same pixels (N,)."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    return first[inverse]


def near_duplicates(data: AuditData) -> Iterator[Finding]:
    """Edited copies between every two splits and within each; identical images are left out."""
    if data.copies is None:
        return
    copies, split_of, edited = data.copies, data.split_of, _edited(data, data.copies)
    first, second, edited = copies.first, copies.second, edited & copies.certain
    for a, b in [*combinations(data.splits, 2), *((split, split) for split in data.splits)]:
        pairs = np.flatnonzero((split_of[first] == a) & (split_of[second] == b) & edited)
        if not len(pairs):
            continue
        members = np.unique(np.concatenate([first[pairs], second[pairs]]))
        concerned, total = int((split_of[members] == b).sum()), len(data.splits[b])
        others = "other images of it" if a == b else f"images of {a}"
        yield data.share_of_images(
            "near_duplicates",
            data.config.repeats if a == b else data.config.near_leak,
            (a,) if a == b else (a, b),
            _best_pairs(data, copies, pairs),
            f"{concerned} of {total} images of {b} are edited copies of {others}.",
            "Look at the pairs, and keep "
            + ("one image of each." if a == b else "the images of a pair in one split."),
            concerned=concerned,
            statistic=len(pairs),
        )
    if not edited.any():
        message = "No image is an edited copy of another."
        yield nothing_found("near_duplicates", tuple(data.splits), message)


def look_alikes(data: AuditData) -> Iterator[Finding]:
    """Images that may be copies, but are no more alike than different images of the data may be."""
    if data.copies is None:
        return
    pairs = np.flatnonzero(_edited(data, data.copies) & ~data.copies.certain)
    if len(pairs):
        yield Finding(
            check="look_alikes",
            severity="info",
            splits=tuple(data.splits),
            statistic=len(pairs),
            message=f"{len(pairs)} pairs of images look alike, but no more than different images "
            "of these data may: nothing tells whether there are copies among them.",
            evidence=tuple(_best_pairs(data, data.copies, pairs)[: data.config.evidence]),
        )


def _edited(data: AuditData, copies: DuplicatePairs) -> BoolArray:
    """Which pairs (P,) are not identical."""
    hashes = np.concatenate(list(data.hashes.values()))
    edited: BoolArray = hashes[copies.first] != hashes[copies.second]
    return edited


def _best_pairs(data: AuditData, copies: DuplicatePairs, pairs: Int64Array) -> list[Evidence]:
    """Evidence of some pairs (B,), the most alike first."""
    evidence = []
    for pair in pairs[np.argsort(-copies.correlation[pairs])].tolist():
        note = (
            f"fine detail correlates by {copies.correlation[pair]:.2f}, that of different images "
        )
        note = f"{note}by less than {copies.limit:.2f}"
        names = data.names[copies.first[pair]], data.names[copies.second[pair]]
        evidence.append(Evidence(names, ", ".join(filter(None, (copies.change[pair], note)))))
    return evidence


def conflicting_labels(data: AuditData) -> Iterator[Finding]:
    """The same picture under two labels, within a split or across splits."""
    if not data.labels:
        return
    labels = np.concatenate(list(data.labels.values()))
    names = [name for split in data.labels for name in data.splits[split].names]
    twin = _first_twins(np.concatenate([data.hashes[split] for split in data.labels]))
    odd = np.flatnonzero(labels != labels[twin])
    pairs = list(zip(twin[odd].tolist(), odd.tolist(), strict=True))
    if data.copies is not None and len(data.labels) == len(data.splits):
        certain = data.copies.certain
        first, second = data.copies.first[certain], data.copies.second[certain]
        edited = zip(first.tolist(), second.tolist(), strict=True)
        pairs += [(i, j) for i, j in edited if labels[i] != labels[j]]
    pairs = list(dict.fromkeys(pairs))
    concerned = len({row for pair in pairs for row in pair})
    titles = [data.classes[label] for label in labels]
    yield data.share_of_images(
        "conflicting_labels",
        data.config.label_conflict,
        tuple(data.labels),
        [Evidence((names[i], names[j]), f"labels {titles[i]} and {titles[j]}") for i, j in pairs],
        f"{concerned or 'No'} images show the same picture under different labels.",
        "Have these labels checked: at most one of each pair is right.",
        concerned=concerned,
        total=len(labels),
    )
