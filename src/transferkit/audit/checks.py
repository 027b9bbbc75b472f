"""All checks of an audit, in the order in which findings of equal cost are reported."""

from __future__ import annotations

from transferkit.audit.audit_data import Check
from transferkit.audit.checks_forecast import forecasts
from transferkit.audit.checks_gap import gap
from transferkit.audit.checks_images import (
    blank_images,
    corrupt_images,
    image_sizes,
    low_information_images,
    odd_sized_images,
    outlying_images,
    shortcuts,
)
from transferkit.audit.checks_shift import distribution_shift, label_shift
from transferkit.audit.checks_splits import (
    conflicting_labels,
    empty_classes,
    exact_duplicates,
    few_images,
    missing_labels,
    near_duplicates,
    repeated_images,
    straddling_groups,
    unfit_embedding,
)

CHECKS: tuple[Check, ...] = (
    few_images,
    missing_labels,
    unfit_embedding,
    empty_classes,
    exact_duplicates,
    repeated_images,
    near_duplicates,
    straddling_groups,
    conflicting_labels,
    corrupt_images,
    image_sizes,
    blank_images,
    low_information_images,
    odd_sized_images,
    outlying_images,
    shortcuts,
    label_shift,
    distribution_shift,
    forecasts,
    gap,
)
