"""All checks of an audit, in the order in which findings of equal cost are reported."""

from __future__ import annotations

from transferkit.audit.audit_data import Check
from transferkit.audit.checks_copies import (
    exact_duplicates,
    near_duplicates,
    repeated_images,
    straddling_groups,
)
from transferkit.audit.checks_forecast import forecasts
from transferkit.audit.checks_gap import gap
from transferkit.audit.checks_images import (
    blank_images,
    constant_features,
    corrupt_images,
    few_images,
    image_sizes,
    low_information_images,
    odd_sized_images,
    outlying_images,
)
from transferkit.audit.checks_labels import (
    conflicting_labels,
    empty_classes,
    missing_labels,
    shortcuts,
)
from transferkit.audit.checks_shift import distribution_shift, label_shift

CHECKS: tuple[Check, ...] = (
    few_images,
    missing_labels,
    constant_features,
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
