"""The input of every check: the splits as plain arrays, and values that several checks share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from transferkit._sampling import shared_groups
from transferkit._typing import BoolArray, Float64Array, FloatArray, Int64Array, UInt8Array
from transferkit.audit.finding import BUDGET, AuditConfig, Evidence, Finding, Thresholds
from transferkit.audit.gap import GapReport
from transferkit.audit.gap_parts import (
    ScoredSplit,
    choice_optimism,
    explain_scores,
)
from transferkit.audit.image_statistics import image_statistics
from transferkit.audit.near_duplicates import DuplicatePairs, near_duplicate_pairs
from transferkit.audit.reshuffle import SEEDS, reshuffle, right_by_strength, swap
from transferkit.audit.two_sample import SplitPair
from transferkit.metrics.intervals import wilson_interval
from transferkit.metrics.logistic_regression import fit_probe

Check: TypeAlias = "Callable[[AuditData], Iterator[Finding]]"

COMPONENTS = 64
"""Principal components of the features that the shift tests compare."""


@dataclass(frozen=True, slots=True, eq=False)
class SplitArrays:
    """One split as arrays."""

    images: UInt8Array  # (N, H, W, C)
    names: Sequence[str]  # N file names, no two alike in the whole audit
    features: FloatArray  # (N, D)
    labels: Int64Array | None = None  # (N,)
    sizes: Int64Array | None = None  # original height and width (N, 2); None: those of the images
    groups: Sequence[str] | None = None  # N patients, films
    logits: Float64Array | None = None  # the classifier's own (N, K); None without a classifier

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class AuditData:
    """The splits of an audit, its settings, and values that several checks share, computed once.

    The settings are those of ``audit_splits`` and ``explain_gap``.
    """

    splits: Mapping[str, SplitArrays]
    classes: Sequence[str]
    embedding: str = "features"  # where the features come from, in words
    untrained_head: bool = False  # whether from a classifier whose head was never trained
    skipped: Sequence[tuple[str, str]] = ()  # path and reason of files that cannot be decoded
    config: AuditConfig = field(default_factory=AuditConfig)
    near_duplicates: bool = True
    alpha: float = 0.05
    max_images: int = 2000
    seed: int = 0
    seeds: Sequence[int] = SEEDS
    samples: int = 200
    epoch_predictions: Int64Array | None = None  # of val (E, N)

    @cached_property
    def labels(self) -> dict[str, Int64Array]:
        """Labels (N,) of the splits that have them."""
        return {n: part.labels for n, part in self.splits.items() if part.labels is not None}

    @cached_property
    def class_counts(self) -> dict[str, Int64Array]:
        """Images of each class (K,) in the splits that have labels."""
        count = len(self.classes)
        return {name: np.bincount(labels, minlength=count) for name, labels in self.labels.items()}

    @cached_property
    def groups(self) -> dict[str, Sequence[str]] | None:
        """Groups of every split, or None unless all have them."""
        found = {n: part.groups for n, part in self.splits.items() if part.groups is not None}
        return found if len(found) == len(self.splits) else None

    @cached_property
    def names(self) -> list[str]:
        """File names of all images, numbered through the splits."""
        return [name for part in self.splits.values() for name in part.names]

    @cached_property
    def split_of(self) -> NDArray[np.str_]:
        """Split of each of all images, numbered through the splits."""
        return np.repeat(list(self.splits), [len(part) for part in self.splits.values()])

    @cached_property
    def statistics(self) -> dict[str, dict[str, Float64Array]]:
        """Brightness, contrast, size and the like of every image."""
        return {n: image_statistics(p.images, sizes=p.sizes) for n, p in self.splits.items()}

    @cached_property
    def hashes(self) -> dict[str, NDArray[np.bytes_]]:
        """Hash of the pixels of every image."""
        return {name: content_hashes(part.images) for name, part in self.splits.items()}

    @cached_property
    def copies(self) -> DuplicatePairs | None:
        """Edited copies among all images, numbered through the splits; None if not looked for."""
        if not self.near_duplicates:
            return None
        return near_duplicate_pairs([part.images for part in self.splits.values()])

    @cached_property
    def pairs(self) -> tuple[SplitPair, ...]:
        """Every two splits side by side, described by the main components of their features."""
        components = main_components({n: part.features for n, part in self.splits.items()})
        return tuple(self._pair(a, b, components) for a, b in combinations(self.splits, 2))

    def _pair(self, a: str, b: str, values: Mapping[str, FloatArray]) -> SplitPair:
        rows = self._drawn_rows(a, self.seed), self._drawn_rows(b, self.seed + 1)
        labels = groups = None
        if a in self.labels and b in self.labels:
            labels = self.labels[a][rows[0]], self.labels[b][rows[1]]
        if self.groups is not None:
            first, second = (np.array(self.groups[name], np.str_) for name in (a, b))
            groups = first[rows[0]], second[rows[1]]
        parts = values[a][rows[0]], values[b][rows[1]]
        return SplitPair.of(*parts, splits=(a, b), rows=rows, labels=labels, groups=groups)

    def _drawn_rows(self, split: str, seed: int) -> Int64Array:
        rows = np.arange(len(self.splits[split]))
        if len(rows) <= self.max_images:
            return rows
        return np.sort(np.random.default_rng(seed).choice(rows, self.max_images, replace=False))

    @cached_property
    def scores(self) -> dict[str, Float64Array] | None:
        """The classifier's logits (N, K) of every split, or those of a probe fitted on train.

        None without a classifier and without two classes in train.
        """
        logits = {n: part.logits for n, part in self.splits.items() if part.logits is not None}
        if len(logits) == len(self.splits):
            return logits
        if "train" not in self.labels or (self.class_counts["train"] > 0).sum() < 2:
            return None
        count = len(self.classes)
        probe = fit_probe(self.splits["train"].features, self.labels["train"], num_classes=count)
        return {name: probe.scores(part.features) for name, part in self.splits.items()}

    @cached_property
    def gap(self) -> GapReport | None:
        """The explained gap from val to test; None unless train, val and test have labels."""
        three = ("train", "val", "test")
        if any(name not in self.labels for name in three):
            return None
        if self.scores is None or (self.class_counts["train"] > 0).sum() < 2:
            return None  # the reshuffle experiment fits probes on train
        labels = {name: self.labels[name] for name in three}
        features = {name: self.splits[name].features for name in three}
        count, groups = len(self.classes), self.groups
        codes = {n: shared_groups(own, len(own)) for n, own in (groups or {}).items()}
        val, test = (
            ScoredSplit(labels[n], self.scores[n], codes.get(n), self.leaked(n)) for n in three[1:]
        )
        report = explain_scores(val, test, classes=self.classes, seed=self.seed)
        experiment = reshuffle(features, labels, groups=groups, num_classes=count, seeds=self.seeds)
        by_strength = right_by_strength(features, labels, count)
        right = by_strength["val"]
        if self.epoch_predictions is not None:
            right = self.epoch_predictions == labels["val"]
        by_classifier = self.splits["train"].logits is not None
        return replace(
            report,
            scored="the classifier" if by_classifier else f"a probe on {self.embedding}",
            optimism=choice_optimism(
                right, groups=val.groups, samples=self.samples, seed=self.seed
            ),
            reshuffled=experiment.reshuffled,
            reshuffled_by_group=experiment.reshuffled_by_group,
            group_gain=experiment.group_gain,
            experiment=experiment,
            swap=swap(by_strength),
        )

    def comparisons(self, question: str, tests: int = 1) -> float:
        """The factor that corrects a p-value for the ``tests`` of a question and for all others."""
        return tests / BUDGET[question]

    def share_of_images(
        self,
        check: str,
        limits: Thresholds,
        splits: tuple[str, ...],
        evidence: Sequence[Evidence],
        message: str,
        advice: str,
        *,
        concerned: int | None = None,
        total: int | None = None,
        statistic: int | None = None,
    ) -> Finding:
        """Make a finding whose effect is the share of the images concerned.

        By default, one image per piece of evidence, of all images of the last of the ``splits``;
        the statistic is their number.
        """
        count = len(evidence) if concerned is None else concerned
        total = len(self.splits[splits[-1]]) if total is None else total
        interval = wilson_interval(count, total)
        return Finding(
            check=check,
            severity=limits.severity(count / total, interval=interval),
            splits=splits,
            statistic=count if statistic is None else statistic,
            effect=count / total,
            interval=interval,
            message=message,
            evidence=tuple(evidence[: self.config.evidence]),
            advice=advice if count else "",
        )

    def leaked(self, split: str) -> BoolArray:
        """Mark the images (N,) that train has too: identical, as a certain copy, or by group."""
        leaked = np.isin(self.hashes[split], self.hashes["train"])
        if self.groups is not None:
            own, train = (np.array(self.groups[name], np.str_) for name in (split, "train"))
            leaked |= np.isin(own, train)
        if self.copies is not None:
            pairs = np.stack([self.copies.first, self.copies.second])[:, self.copies.certain]
            for a, b in (pairs, pairs[::-1]):
                across = (self.split_of[a] == split) & (self.split_of[b] == "train")
                leaked |= np.isin(np.flatnonzero(self.split_of == split), a[across])
        return leaked


def main_components(features: Mapping[str, FloatArray]) -> dict[str, Float64Array]:
    """Turn the features (N, D) of all splits onto their 64 strongest common components.

    The components do not know which split an image is from, so tests on them keep their level.
    """
    pooled = np.concatenate(list(features.values())).astype(np.float64)
    pooled -= pooled.mean(axis=0)
    spread, axes = np.linalg.eigh(pooled.T @ pooled)
    kept = axes[:, np.argsort(-spread)[: min(COMPONENTS, len(pooled))]]
    ends = np.cumsum([len(part) for part in features.values()])[:-1]
    return dict(zip(features, np.split(pooled @ kept, ends), strict=True))


def content_hashes(images: UInt8Array) -> NDArray[np.bytes_]:
    """Hash the pixels and the shape of every image (N, H, W, C), read one at a time: (N,).

    BLAKE2b of 16 bytes: two different images of a billion collide with probability 1e-21.
    """
    shape = repr(images.shape[1:]).encode()
    digests = [
        hashlib.blake2b(shape + np.ascontiguousarray(image).tobytes(), digest_size=16).hexdigest()
        for image in images
    ]
    return np.array(digests, "S32")
