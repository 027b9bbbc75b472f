"""The checks of one backbone, in order, and the row that comes of them.

The first checks run on networks without memory, at the image size of the default weights. The
freeze contract and the cut run for real, on random weights and small images.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import torch

from coverage_real import check_contract, check_cut, modes_differ, stir
from coverage_shapes import (
    BATCH,
    CLASSES,
    check_channels,
    check_freezing,
    check_stages,
    check_width,
    had_classifier,
    meta_classifier,
    observe,
    random_images,
    require,
    small_size,
)
from transferkit.backbones import skeleton as sizes
from transferkit.backbones.stages import count_parameters
from transferkit.errors import ConfigError
from transferkit.models.classifier import Classifier, create_classifier

Row = dict[str, str]

CHECKS = ("build", "width", "staged", "channels_1", "channels_4", "freezing", "contract", "cut")
FIELDS = (
    *("name", "classifier", "params", "image_size", "feature_dim", "stages"),
    *CHECKS,
    *("checked_at", "boundaries", "modes_differ", "seconds", "reason"),
)
PASS, REFUSED, FAIL = "pass", "refused", "fail"
CONSTRUCTION, SKIPPED = "by construction", "not run"


@dataclass(frozen=True, slots=True)
class Limits:
    """What the checks that run for real may take.

    Attributes:
        gigabytes: Memory of the weights, four bytes a parameter; those of larger backbones are
            never made, and what they do is checked by construction.
        thorough: The same, for every check; of larger backbones only one boundary inside is
            cut, and one step trained.
    """

    gigabytes: float = 2.0
    thorough: float = 0.06

    def allow(self, params: int) -> bool:
        """Whether a network of so many parameters may be built for real."""
        return params * 4 <= self.gigabytes * 1e9

    def are_small(self, params: int) -> bool:
        """Whether a network of so many parameters is checked in every way."""
        return params * 4 <= self.thorough * 1e9


def check_backbone(name: str, limits: Limits, before: Row | None = None) -> Row:
    """Check one backbone.

    Args:
        name: Full name.
        limits: What the checks that run for real may take.
        before: Its row so far, to be completed by the checks that run for real.

    Returns:
        One row, its keys ``FIELDS``.
    """
    torch.set_num_threads(1)
    return _Examination(name, limits, before).row()


class _Examination:
    """The checks of one backbone, in order; a failed one does not stop those after it."""

    def __init__(self, name: str, limits: Limits, before: Row | None) -> None:
        self.name = name
        self.limits = limits
        self.start = time.process_time()
        empty = dict.fromkeys(FIELDS, "") | {"name": name} | dict.fromkeys(CHECKS, SKIPPED)
        self.facts = before or empty
        self.reasons = [self.facts["reason"]] if self.facts["reason"] else []

    def row(self) -> Row:
        """Run what is to be run."""
        spent = float(self.facts["seconds"] or 0)
        with patch.object(sizes, "_working_near", lambda *_: []):  # no advice on sizes: quicker
            if self.facts["build"] != PASS:
                self.attempt("build", self.by_construction)
            if self.facts["build"] == PASS and self.limits.allow(int(self.facts["params"])):
                self.attempt("contract", self.for_real)
        self.facts["seconds"] = f"{spent + time.process_time() - self.start:.1f}"
        self.facts["reason"] = "; ".join(self.reasons)
        return self.facts

    def attempt(self, check: str, function: Callable[[], None]) -> None:
        """Run a check and note how it came out."""
        try:
            function()
        except Exception as error:
            refused = isinstance(error, ConfigError) and check.startswith("channels")
            self.facts[check] = REFUSED if refused else FAIL
            text = " ".join(f"{check}: {error or type(error).__name__}".split())
            self.reasons.append(text[:400])
        else:
            self.facts[check] = PASS

    def by_construction(self) -> None:
        """What shapes and flags show, on networks without memory."""
        model = meta_classifier(self.name)
        size = model.preprocess.image_size
        self.facts["classifier"] = "published" if had_classifier(model) else "none"
        self.facts["params"] = str(count_parameters(model.backbone))
        self.facts["image_size"] = f"{size[0]}x{size[1]}"
        self.facts["feature_dim"] = str(model.feature_dim)
        self.facts["stages"] = str(len(model.stages) - 1)
        seen = observe(model)
        require(seen.logits == (BATCH, CLASSES), f"logits {seen.logits}")
        self.attempt("width", lambda: check_width(model, seen))
        self.attempt("staged", lambda: check_stages(model, seen))
        for channels in (1, 4):
            check = partial(check_channels, self.name, channels, size)
            self.attempt(f"channels_{channels}", check)
        self.attempt("freezing", lambda: check_freezing(model))
        if self.facts["freezing"] == PASS:
            self.facts["contract"] = CONSTRUCTION

    def for_real(self) -> None:
        """What a network with weights does."""
        params = int(self.facts["params"])
        own = tuple(map(int, self.facts["image_size"].split("x")))
        size = small_size(self.name, own)
        self.facts["checked_at"] = f"{size[0]}x{size[1]}"
        model = create_classifier(self.name, CLASSES, weights=None, image_size=size, seed=0)
        stir(model)
        images = random_images(model, seed=1)
        self.facts["modes_differ"] = "yes" if modes_differ(model, images) else "no"
        self.attempt("cut", lambda: self.cuts(model, thorough=self.limits.are_small(params)))
        check_contract(model, images, thorough=self.limits.are_small(params))

    def cuts(self, model: Classifier, *, thorough: bool) -> None:
        """Cut after the first stage, in the middle, before the last and at the head."""
        last = len(model.stages) - 1
        wanted = sorted({1, (last + 1) // 2, last - 1, last} if thorough else {last // 2, last})
        for boundary in wanted:
            check_cut(model, boundary)
        self.facts["boundaries"] = str(len(wanted))
