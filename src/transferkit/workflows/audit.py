"""The audit of a dataset: ``transferkit.audit_splits`` and ``transferkit.explain_gap``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import combinations

from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from transferkit._options import check_number, check_sequence, check_whole
from transferkit._version import __version__
from transferkit.audit.finding import AuditConfig, Finding
from transferkit.audit.gap import GapReport
from transferkit.audit.gap_findings import gap_findings
from transferkit.audit.image_stats import ImageStatistics
from transferkit.audit.report import AuditReport
from transferkit.audit.reshuffle import SEEDS
from transferkit.audit.summary import SplitSummary
from transferkit.audit.thumbnails import thumbnail
from transferkit.data.dataset import ImageData, Splits, require_splits
from transferkit.errors import ConfigError
from transferkit.models.caching import Cache, Where
from transferkit.workflows.audit_images import (
    Copies,
    copy_findings,
    image_findings,
    measured,
)
from transferkit.workflows.audit_shift import (
    compressed,
    forecasts,
    label_shifts,
    shift_between,
    split_findings,
)
from transferkit.workflows.embedding import Embedder, Embedding, embed
from transferkit.workflows.gap import (
    NAMES,
    Groups,
    GroupsOption,
    gap_of,
    labelled_three,
    leaked_from_train,
    resolve_groups,
)


def audit_splits(
    splits: Mapping[str, ImageData],
    *,
    model: Embedder = None,
    groups: GroupsOption = None,
    alpha: float = 0.05,
    config: AuditConfig | None = None,
    near_duplicates: bool = True,
    seeds: Sequence[int] = SEEDS,
    max_images: int = 2000,
    seed: int = 0,
    batch_size: int = 64,
    cache: Cache | Where | None = None,
) -> AuditReport:
    """Audit a dataset: leaks, shift, labels, images, and the gap between val and test.

    Args:
        splits: Split to images; any names. With labelled train, val and test the gap is explained
            too; splits without labels get a forecast instead.
        model: A trained :class:`~transferkit.Classifier`, whose outputs are tested for shift and
            whose gap is explained; the name of a backbone; a function of images (N, H, W, C) to
            features (N, D); None takes the embedded backbone, and downloads nothing.
        groups: What must not straddle splits: a regular expression whose match in a file name is
            the group, or a mapping of split to one group per image; None takes the groups of the
            data, if there are.
        alpha: Chance of a false alarm among all shift tests together.
        config: Severity thresholds.
        near_duplicates: Whether to look for edited copies, the slowest of the checks.
        seeds: Seeds of the reshuffle experiment.
        max_images: Images of a split that the shift tests use; of larger splits, as many are
            drawn at random.
        seed: Seed of everything drawn.
        batch_size: Images a batch, when features are computed.
        cache: Where to keep the features for later calls; by default nowhere.

    Raises:
        DataError: No split or an empty one, a model of other classes, features with NaN.
        ConfigError: An option cannot work.

    Example:
        >>> import transferkit as tk
        >>> leak = {("train", "test"): 4}
        >>> splits = tk.phantom_splits(sizes=(60, 30, 30), image_size=32, duplicates=leak, seed=0)
        >>> report = tk.audit_splits(splits, near_duplicates=False)
        >>> report.ok
        False
        >>> [f.message for f in report.findings if f.check == "exact_duplicates"]
        ['4 of 30 images of test are pixel-identical to images of train.']
    """
    check_number("alpha", alpha, above=0, below=1)
    check_whole("max_images", max_images, least=2)
    check_seeds(seed, seeds)
    if not isinstance(config, AuditConfig | None):
        raise ConfigError(f"config must be an AuditConfig, got {config!r}.")
    config = config or AuditConfig()
    whole = with_unique_names(splits)
    named = resolve_groups(whole, groups)
    embedding = embed(whole, model, batch_size=batch_size, cache=cache)
    with one_blas_thread():
        copies = Copies.of(whole, near=near_duplicates)
        stats = {name: measured(data) for name, data in whole.items()}
        gap = _gap(whole, embedding, named, seeds, seed)
        findings = [
            *split_findings(whole, embedding),
            *copy_findings(whole, copies, named, config),
            *image_findings(whole, stats, config, alpha),
            *_shifts(whole, stats, embedding, named, alpha, config, max_images, seed),
            *forecasts(whole, embedding, named, config, seed),
            *(gap_findings(gap, config=config) if gap is not None else []),
        ]
    return AuditReport(
        findings=tuple(findings),
        splits=tuple(_summary(name, data) for name, data in whole.items()),
        gap=gap,
        settings={
            "transferkit": __version__,
            "embedding": embedding.title,
            "alpha": f"{alpha:g}",
            "groups": _groups_in_words(groups, named),
            "seed": str(seed),
        },
        thumbnails=_thumbnails(whole, findings),
    )


def explain_gap(
    splits: Mapping[str, ImageData],
    *,
    model: Embedder = None,
    groups: GroupsOption = None,
    epoch_predictions: ArrayLike | None = None,
    seeds: Sequence[int] = SEEDS,
    samples: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
    cache: Cache | Where | None = None,
) -> GapReport:
    """Explain the gap between the accuracy on val and on test.

    Prior shift and the within-class shift of each class add up to the gap exactly. Beside them:
    what a moved threshold would bring back, what leaked images and the choice of the best epoch
    add to val, the noise of the samples, the reshuffle experiment (at random and by group) and
    the swap of val and test.

    Args:
        splits: Labelled train, val and test.
        model: A trained :class:`~transferkit.Classifier`, whose own scores are explained; the
            name of a backbone, or a function of images to features, on which a probe (logistic
            regression) is trained on train; None takes the embedded backbone. The reshuffle
            experiment always trains probes on the features. A backbone that was itself trained
            on train flatters them: give it by name, untrained on these images.
        groups: What must not straddle splits: a regular expression whose match in a file name is
            the group, or a mapping of split to one group per image; None takes the groups of the
            data, if there are.
        epoch_predictions: Predicted classes of val after each epoch (E, N), to measure what
            choosing the best epoch adds; without them, choosing the best of five regularisation
            strengths of the probe is measured.
        seeds: Seeds of the reshuffle experiment, one re-split each.
        samples: Bootstrap draws.
        seed: Seed of the bootstrap.
        batch_size: Images a batch, when features are computed.
        cache: Where to keep the features for later calls; by default nowhere.

    Raises:
        DataError: A split or its labels are missing, or arrays do not fit.
        ConfigError: An option cannot work.

    Example:
        >>> import transferkit as tk
        >>> splits = tk.phantom_splits(sizes=(120, 60, 60), image_size=32, seed=0)
        >>> report = tk.explain_gap(splits, seeds=range(2), samples=100)
        >>> list(report.parts)
        ['prior shift', 'within normal', 'within pneumonia']
        >>> total = sum(part.value for part in report.parts.values())
        >>> abs(total - (report.val_score - report.test_score)) < 1e-9
        True
    """
    check_seeds(seed, seeds)
    check_whole("samples", samples, least=1)
    three = labelled_three(splits)
    named = resolve_groups(three, groups)
    embedding = embed(three, model, batch_size=batch_size, cache=cache)
    with one_blas_thread():
        return gap_of(
            three,
            embedding,
            groups=named,
            leaked=leaked_from_train(three, named),
            epoch_predictions=epoch_predictions,
            seeds=seeds,
            samples=samples,
            seed=seed,
        )


def check_seeds(seed: object, seeds: Sequence[object]) -> None:
    """See that seeds are whole numbers.

    Raises:
        ConfigError: They are not.
    """
    check_whole("seed", seed)
    check_sequence("seeds", seeds)
    for one in seeds:
        check_whole("Each of seeds", one)


def one_blas_thread() -> AbstractContextManager[object]:
    """Keep NumPy's products on one thread: thousands of small ones wait for each other on more.

    On a busy machine with two threads the audit of 2400 X-rays took ten times the processor time.
    """
    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits


def with_unique_names(splits: Mapping[str, ImageData]) -> Splits:
    """Return the splits; where they share file names, with the split put before each."""
    whole = require_splits(splits)
    every = [name for data in whole.values() for name in data.names]
    if len(set(every)) == len(every):
        return whole
    renamed = {
        split: ImageData(
            data.images,
            data.labels,
            classes=data.classes,
            names=[f"{split}/{name}" for name in data.names],
            sizes=data.sizes,
            groups=data.groups,
        )
        for split, data in whole.items()
    }
    return Splits(renamed, skipped=whole.skipped)


def _gap(
    splits: Splits, embedding: Embedding, groups: Groups, seeds: Sequence[int], seed: int
) -> GapReport | None:
    """Explain the gap where train, val and test have labels, and train has two classes."""
    if any(name not in splits or splits[name].labels is None for name in NAMES):
        return None
    if (splits["train"].class_counts() > 0).sum() < 2:
        return None
    three = labelled_three(splits)
    leaked = leaked_from_train(three, groups)
    return gap_of(three, embedding, groups=groups, leaked=leaked, seeds=seeds, seed=seed)


def _shifts(
    splits: Splits,
    stats: Mapping[str, ImageStatistics],
    embedding: Embedding,
    groups: Groups,
    alpha: float,
    config: AuditConfig,
    max_images: int,
    seed: int,
) -> list[Finding]:
    pairs = list(combinations(splits, 2))
    strongest = replace(embedding, features=compressed(embedding.features))
    found = label_shifts(splits, pairs, groups, alpha, config, seed)
    for pair in pairs:
        found += shift_between(
            splits,
            stats,
            strongest,
            pair,
            groups=groups,
            comparisons=len(pairs),
            alpha=alpha,
            config=config,
            max_images=max_images,
            seed=seed,
        )
    return found


def _summary(name: str, data: ImageData) -> SplitSummary:
    counts = (
        {} if data.labels is None else dict(zip(data.classes, data.class_counts(), strict=True))
    )
    height, width, channels = data.images.shape[1:]
    return SplitSummary(
        name,
        len(data),
        (height, width, channels),
        {label: int(count) for label, count in counts.items()},
    )


def _groups_in_words(option: GroupsOption, groups: Groups) -> str:
    if groups is None:
        return "none"
    count = len({group for values in groups.values() for group in values})
    return f"{count} by '{option}'" if isinstance(option, str) else f"{count} given"


def _thumbnails(splits: Splits, findings: Sequence[Finding]) -> dict[str, bytes]:
    """Shrink the images that findings name."""
    wanted = {name for f in findings for item in f.evidence for name in item.names}
    return {
        name: thumbnail(data.images[row])
        for data in splits.values()
        for row, name in enumerate(data.names)
        if name in wanted
    }
