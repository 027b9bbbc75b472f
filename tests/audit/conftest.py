"""What the tests of the checks share."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from transferkit.audit.audit_data import AuditData, SplitArrays


@pytest.fixture(scope="session")
def audit_of():
    """Make AuditData of images alone, or of images and other parts of each split."""

    def make(splits, *, classes=("a", "b"), **settings):
        parts = {}
        for split, given in splits.items():
            part = given if isinstance(given, dict) else {"images": given}
            names = [f"{split}/{i}.png" for i in range(len(part["images"]))]
            features = np.zeros((len(names), 1))
            parts[split] = SplitArrays(**{"names": names, "features": features, **part})
        return AuditData(parts, classes, **{"near_duplicates": False, **settings})

    return make


@pytest.fixture(scope="session")
def xrays(shared_path):
    """Draw X-rays, one film a patient: two films of one may really be near-duplicates."""
    files = sorted((shared_path / "data/kermany224/train").rglob("*.jpeg"))

    def draw(count, seed):
        chosen = np.random.default_rng(seed).choice(len(files), count, replace=False)
        return [Image.open(files[i]).convert("L") for i in chosen]

    return draw
