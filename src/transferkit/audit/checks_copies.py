"""Leakage by duplicates: the same picture, or an edited copy of it, in two splits or in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from transferkit._typing import BoolArray, Int64Array
from transferkit.audit.finding import AuditConfig, Evidence, Finding
from transferkit.audit.near_duplicates import DuplicatePairs
from transferkit.errors import DataError
from transferkit.metrics.intervals import wilson_interval

Names = Mapping[str, Sequence[str]]


def check_exact_duplicates(
    hashes: Mapping[str, NDArray[np.bytes_]],
    *,
    names: Names,
    config: AuditConfig | None = None,
) -> list[Finding]:
    """Find images whose decoded pixels are identical, across splits and within each.

    Args:
        hashes: Split to the content hashes of its images, see
            :func:`~transferkit.audit.audit_data.content_hashes`.
        names: Split to the file names of its images.
        config: Thresholds ``exact_leak`` and ``repeats``.

    Returns:
        ``exact_duplicates`` for every two splits that share images, or one without complaint;
        ``repeated_images`` for every split that repeats its own. Their statistic is the number
        of pairs, each leaked or repeated image with its first twin; their effect is the share of
        images concerned, across splits that of the later split.
    """
    config = config or AuditConfig()
    across = [
        _across(hashes, names, a, b, config)
        for a, b in combinations(hashes, 2)
        if len(np.intersect1d(hashes[a], hashes[b]))
    ]
    within = [_within(hashes[split], names[split], split, config) for split in hashes]
    return [*(across or [_none_across(tuple(hashes))]), *filter(None, within)]


def check_near_duplicates(
    pairs: DuplicatePairs,
    *,
    split_of: Sequence[str],
    names: Sequence[str],
    hashes: NDArray[np.bytes_] | None = None,
    config: AuditConfig | None = None,
) -> list[Finding]:
    """Turn pairs of near-duplicates among pooled images into findings.

    Args:
        pairs: From :func:`~transferkit.audit.near_duplicates.near_duplicate_pairs`.
        split_of: Split of each pooled image (N,), in the order of the splits.
        names: File name of each pooled image (N,).
        hashes: Content hashes of the pooled images (N,), to leave out identical pairs, which
            have a check of their own.
        config: Thresholds ``near_leak`` and ``repeats``.

    Returns:
        ``near_duplicates`` for every two splits, and every split, with such pairs, or one
        without complaint.
    """
    config = config or AuditConfig()
    if not len(split_of) == len(names):
        raise DataError(f"got {len(split_of)} splits and {len(names)} names for the same images")
    splits = np.array(split_of, dtype=np.str_)
    keep = np.ones(len(pairs), bool)
    if hashes is not None:
        keep = hashes[pairs.first] != hashes[pairs.second]
    where = list(zip(splits[pairs.first].tolist(), splits[pairs.second].tolist(), strict=True))
    order = list(dict.fromkeys(split_of))
    findings = []
    for a, b in [*combinations(order, 2), *((s, s) for s in order)]:
        chosen = np.array([set(w) == {a, b} for w in where], bool) & keep
        if chosen.any():
            rows = np.flatnonzero(chosen)
            findings.append(_near(pairs, rows, (a, b), splits, names, config))
    return findings or [_no_near(tuple(order))]


def leaked_rows(judged: NDArray[np.bytes_], others: Sequence[NDArray[np.bytes_]]) -> BoolArray:
    """Mark the images (N,) whose content hash also occurs among the ``others``."""
    pool = np.concatenate(others) if others else np.zeros(0, judged.dtype)
    return np.isin(judged, pool)


def _across(
    hashes: Mapping[str, NDArray[np.bytes_]], names: Names, a: str, b: str, config: AuditConfig
) -> Finding:
    leaked = leaked_rows(hashes[b], [hashes[a]])
    first = {key: i for i, key in reversed(list(enumerate(hashes[a].tolist())))}
    rows = np.flatnonzero(leaked)
    effect = len(rows) / len(leaked)
    evidence = tuple(
        Evidence((names[a][first[hashes[b][row].item()]], names[b][row]), "identical pixels")
        for row in rows[: config.evidence]
    )
    return Finding(
        check="exact_duplicates",
        severity=config.exact_leak.severity(effect),
        splits=(a, b),
        statistic=len(rows),
        effect=effect,
        interval=wilson_interval(len(rows), len(leaked)),
        message=f"{len(rows)} of {len(leaked)} images of {b} are pixel-identical to images of {a}.",
        evidence=evidence,
        advice=f"Remove them from {a} or {b}: a score on {b} counts them as unseen.",
    )


def _none_across(splits: tuple[str, ...]) -> Finding:
    return Finding(
        check="exact_duplicates",
        severity="info",
        splits=splits,
        statistic=0,
        effect=0.0,
        message="No image is pixel-identical to one of another split.",
    )


def _within(
    hashes: NDArray[np.bytes_], names: Sequence[str], split: str, config: AuditConfig
) -> Finding | None:
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    repeats = np.flatnonzero(first[inverse] != np.arange(len(hashes)))
    if not len(repeats):
        return None
    effect = len(repeats) / len(hashes)
    evidence = tuple(
        Evidence((names[first[inverse[row]]], names[row]), "identical pixels")
        for row in repeats[: config.evidence]
    )
    return Finding(
        check="repeated_images",
        severity=config.repeats.severity(effect),
        splits=(split,),
        statistic=len(repeats),
        effect=effect,
        interval=wilson_interval(len(repeats), len(hashes)),
        message=f"{len(repeats)} of {len(hashes)} images of {split} repeat another image of it.",
        evidence=evidence,
        advice="Keep one of each: repeats count double in training and in every score.",
    )


def _near(
    pairs: DuplicatePairs,
    rows: Int64Array,
    where: tuple[str, str],
    splits: NDArray[np.str_],
    names: Sequence[str],
    config: AuditConfig,
) -> Finding:
    a, b = where
    rows = rows[np.argsort(-pairs.agreement[rows])]
    members = np.unique(np.concatenate([pairs.first[rows], pairs.second[rows]]))
    concerned, total = int((splits[members] == b).sum()), int((splits == b).sum())
    effect = concerned / total
    limits = config.repeats if a == b else config.near_leak
    evidence = tuple(_pair_evidence(pairs, row, names) for row in rows[: config.evidence])
    other = "other images of it" if a == b else f"images of {a}"
    return Finding(
        check="near_duplicates",
        severity=limits.severity(effect),
        splits=(a,) if a == b else where,
        statistic=len(rows),
        effect=effect,
        interval=wilson_interval(concerned, total),
        message=f"{concerned} of {total} images of {b} are edited copies of {other}.",
        evidence=evidence,
        advice="Look at the pairs, and keep the images of a pair in one split.",
    )


def _pair_evidence(pairs: DuplicatePairs, row: int, names: Sequence[str]) -> Evidence:
    note = f"fine detail agrees by {pairs.agreement[row]:.2f}"
    if pairs.edit[row]:
        note = f"{pairs.edit[row]}, {note}"
    return Evidence((names[pairs.first[row]], names[pairs.second[row]]), note)


def _no_near(splits: tuple[str, ...]) -> Finding:
    return Finding(
        check="near_duplicates",
        severity="info",
        splits=splits,
        statistic=0,
        effect=0.0,
        message="No image is an edited copy of another.",
    )


def straddling_rows(judged: Sequence[str], other: Sequence[str]) -> BoolArray:
    """Mark the images (N,) of one split whose group also occurs in another."""
    return np.isin(np.array(judged, np.str_), np.array(other, np.str_))


def check_groups(
    groups: Mapping[str, Sequence[str]],
    *,
    names: Mapping[str, Sequence[str]],
    config: AuditConfig | None = None,
) -> list[Finding]:
    """Find groups that lie in two splits.

    Args:
        groups: Split to the group of each of its images.
        names: Split to the file names of its images.
        config: Threshold ``group_leak``.

    Returns:
        ``straddling_groups`` for every two splits that share groups, or one without complaint.
        The statistic is the number of groups; the effect is the share of the later split.

    Raises:
        DataError: Not one group per image.
    """
    config = config or AuditConfig()
    for split, values in groups.items():
        if len(values) != len(names[split]):
            raise DataError(
                f"expected one group per image of {split} ({len(names[split])}), got {len(values)}"
            )
    found = [_straddling(groups, names, a, b, config) for a, b in combinations(groups, 2)]
    total = len({group for values in groups.values() for group in values})
    fine = Finding(
        check="straddling_groups",
        severity="info",
        splits=tuple(groups),
        statistic=0,
        effect=0.0,
        message=f"Each of the {total} groups lies in one split.",
    )
    return [finding for finding in found if finding is not None] or [fine]


def _straddling(
    groups: Mapping[str, Sequence[str]],
    names: Mapping[str, Sequence[str]],
    a: str,
    b: str,
    config: AuditConfig,
) -> Finding | None:
    rows: list[int] = np.flatnonzero(straddling_rows(groups[b], groups[a])).tolist()
    if not rows:
        return None
    shared = sorted({groups[b][row] for row in rows})
    effect = len(rows) / len(groups[b])
    partner = dict(zip(reversed(groups[a]), reversed(names[a]), strict=True))
    evidence = tuple(
        Evidence((partner[groups[b][row]], names[b][row]), f"group {groups[b][row]}")
        for row in rows[: config.evidence]
    )
    return Finding(
        check="straddling_groups",
        severity=config.group_leak.severity(effect),
        splits=(a, b),
        statistic=len(shared),
        effect=effect,
        interval=wilson_interval(len(rows), len(groups[b])),
        message=f"{len(shared)} groups lie in both {a} and {b}: {len(rows)} of {len(groups[b])} "
        f"images of {b} belong to them.",
        evidence=evidence,
        advice="Split by group, so that no patient is both learned from and judged on.",
    )
