"""Leakage: the same picture, an edited copy of it, or the same patient in two splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from transferkit.audit.audit_data import AuditData
from transferkit.audit.finding import Evidence, Finding, nothing_found
from transferkit.audit.near_duplicates import DuplicatePairs


def exact_duplicates(data: AuditData) -> Iterator[Finding]:
    """Images with identical pixels in two splits; each leaked image counts with its first twin."""
    leaks = False
    for a, b in combinations(data.splits, 2):
        hashes = data.hashes[b].tolist()
        first = {key: row for row, key in reversed(list(enumerate(data.hashes[a].tolist())))}
        twins = [(first[key], row) for row, key in enumerate(hashes) if key in first]
        if twins:
            leaks = True
            names = data.splits[a].names, data.splits[b].names
            yield data.share_of_images(
                "exact_duplicates",
                data.config.exact_leak,
                (a, b),
                [Evidence((names[0][i], names[1][j]), "identical pixels") for i, j in twins],
                total=len(hashes),
                found=f"{len(twins)} of {len(hashes)} images of {b} are pixel-identical to images "
                f"of {a}.",
                advice=f"Remove them from {a} or {b}: a score on {b} counts them as unseen.",
            )
    if not leaks:
        message = "No image is pixel-identical to one of another split."
        yield nothing_found("exact_duplicates", tuple(data.splits), message)


def repeated_images(data: AuditData) -> Iterator[Finding]:
    """Images with the pixels of an earlier image of the same split."""
    for split, hashes in data.hashes.items():
        names = data.splits[split].names
        _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        twin = first[inverse]
        repeats = np.flatnonzero(twin != np.arange(len(hashes)))
        if len(repeats):
            yield data.share_of_images(
                "repeated_images",
                data.config.repeats,
                (split,),
                [
                    Evidence((names[i], names[j]), "identical pixels")
                    for i, j in zip(twin[repeats].tolist(), repeats.tolist(), strict=True)
                ],
                total=len(hashes),
                found=f"{len(repeats)} of {len(hashes)} images of {split} repeat another image of "
                "it.",
                advice="Keep one of each: repeats count double in training and in every score.",
            )


def near_duplicates(data: AuditData) -> Iterator[Finding]:
    """Edited copies between every two splits and within each; identical images are left out."""
    copies = data.copies
    if copies is None:
        return
    split_of = np.repeat(list(data.splits), [len(part) for part in data.splits.values()])
    hashes = np.concatenate(list(data.hashes.values()))
    first, second = copies.first, copies.second
    edited = hashes[first] != hashes[second]
    for a, b in [*combinations(data.splits, 2), *((split, split) for split in data.splits)]:
        pairs = np.flatnonzero((split_of[first] == a) & (split_of[second] == b) & edited)
        if not len(pairs):
            continue
        pairs = pairs[np.argsort(-copies.correlation[pairs])]
        members = np.unique(np.concatenate([first[pairs], second[pairs]]))
        concerned, total = int((split_of[members] == b).sum()), len(data.splits[b])
        others = "other images of it" if a == b else f"images of {a}"
        yield data.share_of_images(
            "near_duplicates",
            data.config.repeats if a == b else data.config.near_leak,
            (a,) if a == b else (a, b),
            [_edited_pair(data.names, copies, pair) for pair in pairs.tolist()],
            concerned=concerned,
            total=total,
            statistic=len(pairs),
            found=f"{concerned} of {total} images of {b} are edited copies of {others}.",
            advice="Look at the pairs, and keep the images of a pair in one split.",
        )
    if not edited.any():
        message = "No image is an edited copy of another."
        yield nothing_found("near_duplicates", tuple(data.splits), message)


def _edited_pair(names: Sequence[str], copies: DuplicatePairs, pair: int) -> Evidence:
    note = f"fine detail correlates by {copies.correlation[pair]:.2f}"
    if copies.flip[pair]:
        note = f"{copies.flip[pair]}, {note}"
    return Evidence((names[copies.first[pair]], names[copies.second[pair]]), note)


def straddling_groups(data: AuditData) -> Iterator[Finding]:
    """Groups (patients, films) that lie in two splits; the effect is the share of the later one."""
    if data.groups is None:
        return
    straddle = False
    for a, b in combinations(data.groups, 2):
        own, names = data.groups[b], data.splits[b].names
        partner = dict(zip(reversed(data.groups[a]), reversed(data.splits[a].names), strict=True))
        rows = [row for row, group in enumerate(own) if group in partner]
        if rows:
            straddle = True
            shared = len({own[row] for row in rows})
            yield data.share_of_images(
                "straddling_groups",
                data.config.group_leak,
                (a, b),
                [Evidence((partner[own[r]], names[r]), f"group {own[r]}") for r in rows],
                total=len(own),
                statistic=shared,
                found=f"{shared} groups lie in both {a} and {b}: {len(rows)} of {len(own)} images "
                f"of {b} belong to them.",
                advice="Split by group, so that no patient is both learned from and judged on.",
            )
    if not straddle:
        total = len({group for groups in data.groups.values() for group in groups})
        message = f"Each of the {total} groups lies in one split."
        yield nothing_found("straddling_groups", tuple(data.groups), message)
