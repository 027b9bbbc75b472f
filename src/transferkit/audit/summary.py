"""What an audited split holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from transferkit._typing import JSON


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """What a split holds.

    Attributes:
        name: Name of the split.
        images: How many images it holds.
        shape: Height, width and channels as the audit saw them.
        class_counts: Class name to number of images; empty where unlabelled.
    """

    name: str
    images: int
    shape: tuple[int, int, int]
    class_counts: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, JSON]:
        """Return the summary as JSON-ready values."""
        return {
            "name": self.name,
            "images": self.images,
            "shape": list(self.shape),
            "class_counts": dict(self.class_counts),
        }
