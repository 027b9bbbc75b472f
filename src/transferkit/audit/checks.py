"""All checks of an audit, in the order in which findings of equal cost are reported."""

from __future__ import annotations

from transferkit.audit import (
    checks_images,
    checks_shift,
    checks_splits,
    forecast,
    gap,
)
from transferkit.audit.audit_data import Check

CHECKS: tuple[Check, ...] = (
    checks_splits.few_images,
    checks_splits.missing_labels,
    checks_splits.untrained_head,
    checks_splits.constant_features,
    checks_splits.empty_classes,
    checks_splits.exact_duplicates,
    checks_splits.repeated_images,
    checks_splits.near_duplicates,
    checks_splits.straddling_groups,
    checks_splits.conflicting_labels,
    checks_images.corrupt_images,
    checks_images.image_sizes,
    checks_images.blank_images,
    checks_images.low_information_images,
    checks_images.odd_sized_images,
    checks_images.outlying_images,
    checks_images.shortcuts,
    checks_shift.label_shift,
    checks_shift.distribution_shift,
    forecast.forecasts,
    gap.gap,
)
