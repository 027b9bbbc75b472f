"""Groups (patients, films, videos) that lie on both sides of a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from transferkit._typing import BoolArray
from transferkit.audit.finding import AuditConfig, Evidence, Finding
from transferkit.errors import DataError
from transferkit.metrics.intervals import wilson_interval


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
