"""Which strategy to try first: the four quadrants, placed by measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch

from transferkit._format import PlainResult, percent, percent_interval, table
from transferkit._sampling import group_codes
from transferkit._typing import Float64Array, Int64Array
from transferkit._validation import check_whole
from transferkit.audit.domain_classifier import domain_classifier_test
from transferkit.audit.two_sample import SplitPair
from transferkit.data.image_data import ImageData, require_images
from transferkit.data.splits import require_splits
from transferkit.models.classifier import create_classifier
from transferkit.selection.probe import ProbeCurve, ProbeScore, probe_curve, probe_score
from transferkit.workflows.compare import Weights
from transferkit.workflows.rank import Sample, features_of
from transferkit.workflows.strategy import Method

Size: TypeAlias = Literal["small", "large"]
Similarity: TypeAlias = Literal["similar", "dissimilar"]

LARGE = 1000
"""Images of the smallest class from which a dataset counts as large."""
STILL_RISING = 0.01
"""Accuracy gained per doubling of the images from which more images would help."""
TRANSFERS = 1 / 3
"""Share of the errors on random features that pretrained ones must remove to count as similar."""
CEILING = 0.99
"""Accuracy at which a probe leaves pretraining nothing to show."""

STRATEGIES: Mapping[tuple[Size, Similarity], tuple[Method, ...]] = {
    ("small", "similar"): ("linear_probe", "lp_ft"),
    ("small", "dissimilar"): ("lp_ft", "gradual_unfreeze"),
    ("large", "similar"): ("lp_ft", "fine_tune"),
    ("large", "dissimilar"): ("fine_tune", "from_scratch"),
}
REASONS: Mapping[tuple[Size, Similarity], str] = {
    ("small", "similar"): "The features fit already, and few images cannot improve them safely: "
    "fine-tuning may distort them and lose on images from elsewhere.",
    ("small", "dissimilar"): "The features do not fit well, but there is little to learn new ones "
    "from: start from the probe, and unfreeze with care.",
    ("large", "similar"): "The features fit, and there are images enough to adapt them: start from "
    "the probe, so that the first steps do not distort them.",
    ("large", "dissimilar"): "There are images enough to learn features of their own: train "
    "everything, and see whether pretraining helps at all.",
}


@dataclass(frozen=True, slots=True)
class Evidence(PlainResult):
    """One measured reason.

    Attributes:
        name: The quantity measured.
        value: The number.
        says: Its meaning, in a sentence.
    """

    name: str
    value: float
    says: str


@dataclass(frozen=True, slots=True, eq=False)
class Advice(PlainResult):
    """Where a task lies in the four quadrants, and which strategy to try.

    Attributes:
        backbone: Full name.
        size: ``"small"`` or ``"large"``: whether there are images enough to train all layers.
        similarity: ``"similar"`` or ``"dissimilar"``: whether the pretrained features fit.
        strategy: The strategy to try first.
        alternatives: Strategies to compare it with.
        evidence: The measurements that place the task.
        reason: Why this strategy in this quadrant.
        curve: Learning curve of the probe, for ``tk.plots.probe_curve``.
    """

    backbone: str
    size: Size
    similarity: Similarity
    strategy: Method
    alternatives: tuple[Method, ...]
    evidence: tuple[Evidence, ...]
    reason: str
    curve: ProbeCurve

    @property
    def quadrant(self) -> str:
        """Such as ``"small and similar"``."""
        return f"{self.size} and {self.similarity}"

    def __str__(self) -> str:
        rows = [[e.name, f"{e.value:.4g}", e.says] for e in self.evidence]
        measured = table(["measured", "value", "which says"], rows, left=3)
        return (
            f"{self.backbone}: the task is {self.quadrant}\n\n{measured}\n\n"
            f"Try {self.strategy} first, against {', '.join(self.alternatives)}. {self.reason}"
        )


def advise(
    splits: Mapping[str, ImageData],
    backbone: str,
    *,
    weights: Weights = "default",
    reference: ImageData | None = None,
    image_size: int | tuple[int, int] | None = None,
    max_images: int = 2000,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Advice:
    """Place a task in the four quadrants (size by similarity) and recommend a strategy.

    Everything is measured on the train split. Size: images of the smallest class, and the gain
    of a linear probe from the last doubling of the images. Similarity: the share of errors that
    pretrained features remove from a probe on the same network with random weights, unless neither
    makes errors enough to tell (both fit the task then: similar); and, where
    there is a ``reference`` of images like those of the pretraining, their distance in features.

    The other arguments and the use of groups are those of :func:`~transferkit.rank_backbones`.

    Raises:
        UnknownNameError: No such backbone.
        WeightsError: The weights cannot be had.
        DataError: No labelled train split, or too few images.
    """
    (train,) = require_splits(splits).require("train")
    check_whole("max_images", max_images, least=1)
    check_whole("seed", seed)
    if reference is not None:
        require_images("The reference", reference)
    sample = Sample.of(train, max_images, seed, purpose="Advice")
    labels, groups = sample.first(len(sample.labels))

    def features(images: ImageData, source: Weights) -> Float64Array:
        model = create_classifier(backbone, 2, weights=source, image_size=image_size, seed=seed)
        return features_of(model, images, batch_size=batch_size, device=device)

    pretrained = features(sample.images, weights)
    random = pretrained if weights is None else features(sample.images, None)
    curve = probe_curve(pretrained, labels, repeats=3, groups=groups, seed=seed)
    size, evidence = _size(int(train.class_counts().min()), curve)
    known = probe_score(pretrained, labels, groups=groups, seed=seed)
    blank = probe_score(random, labels, groups=groups, seed=seed)
    similarity, more = _similarity(known, blank, len(labels))
    if reference is not None:
        away = features(reference, weights)
        more.append(_distance(pretrained, away, groups, reference.groups, seed))
    strategy, *others = STRATEGIES[size, similarity]
    every, reason = (*evidence, *more), REASONS[size, similarity]
    return Advice(backbone, size, similarity, strategy, tuple(others), every, reason, curve)


def _size(fewest: int, curve: ProbeCurve) -> tuple[Size, list[Evidence]]:
    gain = curve.gain_per_doubling
    large = fewest >= LARGE and gain < STILL_RISING
    side = "fewer" if fewest < LARGE else "no fewer"
    rising = "more images would help" if gain >= STILL_RISING else "the probe has enough"
    return "large" if large else "small", [
        Evidence("images of the smallest class", fewest, f"{side} than {LARGE}"),
        Evidence(
            "gain per doubling",
            gain,
            f"the last doubling brought a probe {100 * gain:+.1f} points: {rising}",
        ),
    ]


def _similarity(known: ProbeScore, blank: ProbeScore, n: int) -> tuple[Similarity, list[Evidence]]:
    """Place the task by the probe on pretrained features and the one on random features."""
    removed = (known.accuracy - blank.accuracy) / max(1 - blank.accuracy, 1 / n)
    similar = removed >= TRANSFERS
    says = (
        f"{percent(max(removed, 0.0), digits=0)} of the random features' errors; "
        f"{percent(TRANSFERS, digits=0)} and more is similar"
    )
    if min(known.interval[1], blank.interval[1]) >= CEILING:
        similar, says = True, "no headroom: random features do as well, and both fit the task"
    return "similar" if similar else "dissimilar", [
        Evidence(
            f"probe on {kind} features",
            score.accuracy,
            f"right on {percent_interval(score.accuracy, score.interval)} of unseen images",
        )
        for kind, score in (("pretrained", known), ("random", blank))
    ] + [Evidence("errors removed by pretraining", removed, says)]


def _distance(
    own: Float64Array,
    reference: Float64Array,
    own_groups: Int64Array | None,
    reference_groups: Sequence[str | None] | None,
    seed: int,
) -> Evidence:
    groups = None
    if own_groups is not None or reference_groups is not None:
        codes = group_codes(own_groups, len(own)), group_codes(reference_groups, len(reference))
        groups = codes[0].astype(np.str_), (codes[0].max() + 1 + codes[1]).astype(np.str_)
    pair = SplitPair.of(own, reference, groups=groups)
    auc = domain_classifier_test(pair, seed=seed).statistic
    return Evidence(
        "AUC against the reference",
        auc,
        f"a pair of one image from each is told apart {percent(auc, digits=0)} of the time",
    )
