"""The audit of a dataset: ``transferkit.audit_splits`` and ``transferkit.explain_gap``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits
from torch import nn

from transferkit._format import describe
from transferkit._typing import Float64Array, FloatArray, UInt8Array
from transferkit._validation import check_finite, check_number, check_sequence, check_whole
from transferkit._version import __version__
from transferkit.audit import checks_images, checks_shift, checks_shortcuts, checks_splits
from transferkit.audit.audit_data import AuditData, Check, SplitArrays
from transferkit.audit.finding import AuditConfig
from transferkit.audit.forecast import forecasts
from transferkit.audit.gap import GapReport, gap_findings
from transferkit.audit.label_errors import label_errors
from transferkit.audit.report import AuditReport, report_of
from transferkit.audit.reshuffle import SEEDS
from transferkit.data.array_conversion import to_group_names
from transferkit.data.image_data import ImageData
from transferkit.data.splits import Splits, groups_from_names, require_splits
from transferkit.errors import ConfigError, DataError
from transferkit.models.classifier import (
    Classifier,
    create_classifier,
    describe_model,
    in_eval_mode,
    match_classes,
)
from transferkit.models.device import device_of, plain_context
from transferkit.models.features import extract_features
from transferkit.models.prefix_cache import Cache, Where

DEFAULT_BACKBONE = "transferkit/formula_resnet18"
"""The backbone that comes with the package: nothing is downloaded."""

_BLAS_LIMIT = Lock()

CHECKS: tuple[Check, ...] = (
    checks_splits.few_images,
    checks_splits.missing_labels,
    checks_splits.useless_embedding,
    checks_splits.empty_classes,
    checks_splits.exact_duplicates,
    checks_splits.repeated_images,
    checks_splits.near_duplicates,
    checks_splits.look_alikes,
    checks_splits.straddling_groups,
    checks_splits.conflicting_labels,
    label_errors,
    checks_images.corrupt_files,
    checks_images.broken_and_odd_images,
    checks_images.image_sizes,
    checks_shortcuts.shortcuts,
    checks_shift.label_shift,
    checks_shift.distribution_shift,
)
"""The checks of any splits, in the order in which findings of equal cost are reported."""

FeaturesOf: TypeAlias = Callable[[UInt8Array], FloatArray]
Embedder: TypeAlias = Classifier | str | FeaturesOf | None
GroupsOption: TypeAlias = str | Mapping[str, Sequence[str]] | None


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
            whose gap is explained (of a head that was never trained, only the features are used,
            and the report says so); the name of a backbone; a function of images (N, H, W, C) to
            features (N, D); None takes the embedded backbone, and downloads nothing.
        groups: What must not straddle splits: a regular expression whose match in a file name is
            the group, or a mapping of split to one group per image; None takes the groups of the
            data, if there are.
        alpha: Of the reports on splits from one source, at most this share carries a warning or
            an error that rests on a test.
        config: Severity thresholds.
        near_duplicates: Whether to look for edited copies, the slowest of the checks.
        seeds: Seeds of the reshuffle experiment, one re-split each.
        max_images: Images of a split that the shift tests use; of larger splits, as many are
            drawn at random.
        seed: Seed of everything drawn.
        batch_size: Batch size.
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
    if not isinstance(config, AuditConfig | None):
        raise ConfigError(f"config must be an AuditConfig, got {config!r}.")
    data = replace(
        audit_data(require_splits(splits), model, groups, seed, seeds, batch_size, cache),
        config=config or AuditConfig(),
        near_duplicates=near_duplicates,
        alpha=alpha,
        max_images=max_images,
    )
    with plain_context(), _one_blas_thread():
        findings = [finding for check in CHECKS for finding in check(data)]
        if len(data.labels) < len(data.splits):
            findings += forecasts(data)
        if data.gap is not None:
            findings += gap_findings(data.gap, data.config, alpha)
    count = len({group for own in (data.groups or {}).values() for group in own})
    settings = {
        "transferkit": __version__,
        "embedding": data.embedding,
        "alpha": f"{alpha:g}",
        "groups": f"{count} by '{groups}'" if isinstance(groups, str) else f"{count or 'none'}",
        "seed": str(seed),
    }
    return report_of(data, findings, settings)


def explain_gap(
    splits: Mapping[str, ImageData],
    *,
    model: Embedder = None,
    groups: GroupsOption = None,
    epoch_predictions: ArrayLike | None = None,
    seeds: Sequence[int] = SEEDS,
    samples: int = 200,
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
        model: A trained :class:`~transferkit.Classifier`, whose own scores are explained; or what
            makes features, as for :func:`audit_splits`: a probe (logistic regression) is then
            trained on those of train. The reshuffle experiment always trains probes on the
            features. A backbone that was itself trained on train flatters them: give it by name,
            untrained on these images.
        groups: As for :func:`audit_splits`.
        epoch_predictions: Predicted classes of val after each epoch (E, N), numbered as those of
            the model, to measure what choosing the best epoch adds; without them, choosing the
            best of five regularisation strengths of the probe is measured.
        seeds: Seeds of the reshuffle experiment, one re-split each.
        samples: Bootstrap draws of what choosing the best epoch adds.
        seed: Seed of everything drawn.
        batch_size: Batch size.
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
    check_whole("samples", samples, least=1)
    names = ("train", "val", "test")
    three = Splits(dict(zip(names, require_splits(splits).require(*names), strict=True)))
    for name, part in three.items():
        part.require_labels(f"Explaining the gap (the {name} split)")
    epochs = None if epoch_predictions is None else np.asarray(epoch_predictions)
    if epochs is not None and (epochs.ndim != 2 or epochs.shape[1] != len(three["val"])):
        raise DataError(
            f"epoch_predictions must have shape (epochs, {len(three['val'])}), got {epochs.shape}."
        )
    data = replace(
        audit_data(three, model, groups, seed, seeds, batch_size, cache),
        epoch_predictions=epochs,
        samples=samples,
    )
    with plain_context(), _one_blas_thread():
        report = data.gap
    if report is None:
        raise DataError(
            "The gap is explained by probes that are trained on train, which needs images of two "
            "classes, got one."
        )
    return report


def audit_data(
    splits: Splits,
    model: Embedder = None,
    groups: GroupsOption = None,
    seed: int = 0,
    seeds: Sequence[int] = SEEDS,
    batch_size: int = 64,
    cache: Cache | Where | None = None,
) -> AuditData:
    """Run the images of all splits through ``model`` once, and lay the splits out as arrays."""
    check_whole("seed", seed)
    check_sequence("seeds", seeds)
    for one in seeds:
        check_whole("Each of seeds", one)
    if isinstance(model, Classifier):
        splits = match_classes(model, splits)
    named = _groups(splits, groups)
    features, title = _features(splits, model, batch_size, cache)
    untrained = isinstance(model, Classifier) and not model.head_is_trained
    logits = _logits(model, features) if isinstance(model, Classifier) and not untrained else {}
    every = [name for part in splits.values() for name in part.names]
    unique = len(set(every)) == len(every)
    parts = {
        name: SplitArrays(
            images=part.images,
            names=part.names if unique else [f"{name}/{own}" for own in part.names],
            features=features[name],
            labels=part.labels,
            sizes=part.sizes,
            groups=named.get(name),
            logits=logits.get(name),
        )
        for name, part in splits.items()
    }
    skipped = [(file.path, file.reason) for file in splits.skipped if file.broken]
    return AuditData(parts, splits.classes, title, untrained, skipped, seed=seed, seeds=seeds)


def _groups(splits: Splits, groups: GroupsOption) -> dict[str, Sequence[str]]:
    """One group per image of the splits that have groups; a missing one gets a name of its own."""
    found = _given_groups(splits, groups)
    return {
        name: [f"{name}[{row}], no group" if g is None else g for row, g in enumerate(own)]
        for name, own in found.items()
    }


def _given_groups(splits: Splits, groups: GroupsOption) -> dict[str, Sequence[str | None]]:
    if groups is None:
        return {name: part.groups for name, part in splits.items() if part.groups is not None}
    if isinstance(groups, str):
        every = [name for part in splits.values() for name in part.names]
        pooled = iter(groups_from_names(every, groups))
        return {name: [next(pooled) for _ in part.names] for name, part in splits.items()}
    if not isinstance(groups, Mapping):
        raise ConfigError(
            "groups must be a regular expression or a mapping of split to one group per image, "
            f"got {describe(groups)}."
        )
    for name, part in splits.items():
        came: object = groups.get(name)
        if not isinstance(came, Sequence | np.ndarray) or len(came) != len(part):
            raise DataError(
                f"Expected one group for each of the {len(part)} images of the split {name}, "
                f"got {describe(came)}."
            )
    return {name: to_group_names(groups[name]) for name in splits}


def _features(
    splits: Splits, model: Embedder, batch_size: int, cache: Cache | Where | None
) -> tuple[dict[str, FloatArray], str]:
    """Return the features (N, D) of each split, and where they come from, in words."""
    if isinstance(model, Classifier):
        title = model.name + (", whose head was never trained" * (not model.head_is_trained))
    elif model is None or isinstance(model, str):
        title = model or DEFAULT_BACKBONE
        model = create_classifier(title, max(2, splits.num_classes), seed=0)
    elif not isinstance(model, type | nn.Module) and callable(model):
        title = "a function of yours"
    else:
        raise ConfigError(
            "model must be a Classifier, the name of a backbone, a function of images or None, "
            f"got {describe_model(model)}"
        )
    features = {}
    for name, part in splits.items():
        if isinstance(model, Classifier):
            own = extract_features(model, part, batch_size=batch_size, cache=cache).features
        else:
            own = np.asarray(model(part.images))
        if own.ndim != 2 or len(own) != len(part) or own.dtype.kind not in "biuf":
            raise DataError(
                f"Expected features of {name} as real numbers of shape ({len(part)}, D), got "
                f"{own.dtype} of shape {own.shape}."
            )
        check_finite(own, what=f"Features of {name}", images=part.names)
        features[name] = own
    return features, f"features of {title}"


def _logits(model: Classifier, features: Mapping[str, FloatArray]) -> dict[str, Float64Array]:
    """Run the head on the features (N, D) of each split: (N, K)."""
    classify, device = in_eval_mode(model).classify, device_of(model)
    with plain_context(device), torch.inference_mode():
        logits = {n: classify(torch.from_numpy(own).to(device)) for n, own in features.items()}
    return {name: own.cpu().double().numpy() for name, own in logits.items()}


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Keep NumPy's products on one thread: thousands of small ones wait for each other on more.

    On a busy machine with two threads the audit of 2400 X-rays took ten times the processor time.
    The limit is the whole process's, so that audits in several threads take turns.
    """
    with _BLAS_LIMIT, threadpool_limits(limits=1, user_api="blas"):
        yield
