"""Weight interpolation: between a probe and the model that was fine-tuned from it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from transferkit._format import percent_interval, plain_fields, table
from transferkit._typing import JSON
from transferkit._validation import check_number
from transferkit.data.image_data import ImageData
from transferkit.errors import ConfigError
from transferkit.metrics.evaluation import Evaluation
from transferkit.models.classifier import Classifier, match_classes, require_classifier
from transferkit.models.device import place, plain_context
from transferkit.training.evaluate import evaluation_of, warn_if_untrained
from transferkit.training.trainer import labelled_splits
from transferkit.workflows.result import evaluation_on_test

ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
STATISTICS_IMAGES = 1024
"""Maximum number of training images that batch-norm statistics are estimated on."""


@dataclass(frozen=True, slots=True, eq=False)
class Interpolation:
    """A model between two models.

    Attributes:
        classifier: The model at ``alpha``, in eval mode.
        alpha: Weight of the second model, in [0, 1], chosen on val.
        alphas: The weights that were tried.
        val_scores: Evaluation of each of them on val.
        val: Evaluation of the chosen one on val; slightly optimistic, as it was chosen there.
        test: Evaluation of the chosen one on test; None where there is no test split.
    """

    classifier: Classifier
    alpha: float
    alphas: tuple[float, ...]
    val_scores: tuple[Evaluation, ...]
    val: Evaluation
    test: Evaluation | None

    def to_dict(self) -> dict[str, JSON]:
        """The weights and scores as plain data."""
        facts = plain_fields(self, without=("classifier", "val_scores"))
        return facts | {"val_accuracies": [scores.accuracy for scores in self.val_scores]}

    def __str__(self) -> str:
        rows = [
            [
                f"{alpha:.2f}",
                percent_interval(scores.accuracy, scores.accuracy_interval),
                f"{scores.log_loss:.4f}",
                "chosen" if alpha == self.alpha else "",
            ]
            for alpha, scores in zip(self.alphas, self.val_scores, strict=True)
        ]
        text = table(["alpha", "val accuracy", "log loss", ""], rows, left=0)
        if self.test is None:
            return text
        test = percent_interval(self.test.accuracy, self.test.accuracy_interval)
        return f"{text}\n\nat alpha {self.alpha:.2f}: test accuracy {test}"


def interpolate(
    first: Classifier,
    second: Classifier,
    splits: Mapping[str, ImageData],
    *,
    alphas: Sequence[float] = ALPHAS,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> Interpolation:
    """Take the weights ``(1 - alpha) * first + alpha * second``, with alpha chosen on val.

    Between a probe and the model fine-tuned from it the loss has no barrier, and a model between
    them is often more accurate on shifted data than either (M. Wortsman et al., "Robust
    fine-tuning of zero-shot models", CVPR 2022, arXiv:2109.01903). Running statistics of batch
    norm cannot be interpolated: where they differ they are estimated again on training images.

    Args:
        first: The model at alpha 0, such as a linear probe; left as it is.
        second: The model at alpha 1, fine-tuned from the first; left as it is.
        splits: ``"train"`` and ``"val"``, and ``"test"`` if there is one.
        alphas: Weights of the second model to try, in [0, 1]. Of equal val accuracies, the lower
            log loss wins.
        batch_size: Batch size.
        device: Where to compute; by default where ``second`` is.

    Raises:
        ConfigError: No alpha, one outside [0, 1], or two models of different architecture.
        DataError: A split is absent, empty or unlabelled.
    """
    tried = _check_alphas(alphas)
    first, second = require_classifier(first), require_classifier(second)
    parts = match_classes(second, labelled_splits(splits))
    with plain_context():
        merged = copy.deepcopy(second)
    where = place(merged, device)
    ends = (_state(first, where), _state(second, where))
    _check_pair(first, second)
    for name, model in (("first", first), ("second", second)):
        warn_if_untrained(model, f"the {name} model")
    norms = _changed_norms(merged, *ends)

    def move_to(alpha: float) -> None:
        merged.load_state_dict(_between(*ends, alpha))
        if norms and 0 < alpha < 1:
            estimate_statistics(merged, norms, parts["train"], batch_size=batch_size)

    scores = []
    for alpha in tried:
        move_to(alpha)
        scores.append(evaluation_of(merged, parts["val"], batch_size=batch_size))
    best = min(range(len(tried)), key=lambda i: (-scores[i].accuracy, scores[i].log_loss))
    move_to(tried[best])
    return Interpolation(
        classifier=merged.eval(),
        alpha=tried[best],
        alphas=tried,
        val_scores=tuple(scores),
        val=scores[best],
        test=evaluation_on_test(merged, parts, batch_size=batch_size),
    )


def estimate_statistics(
    model: Classifier, norms: Sequence[_BatchNorm], data: ImageData, *, batch_size: int
) -> None:
    """Set the running mean and variance of ``norms`` to their averages over images of ``data``."""
    count = min(len(data), STATISTICS_IMAGES)
    rows = np.linspace(0, len(data) - 1, count).round().astype(np.int64)
    rows = np.random.default_rng(0).permutation(rows)  # mixes the classes in every batch
    before = [(norm.momentum, copy.deepcopy(norm.state_dict())) for norm in norms]
    model.eval()
    with torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum, norm.training = None, True  # None averages all batches equally
        for batch in np.array_split(rows, max(1, count // batch_size)):
            model.features(data.batch(batch).to(place(model, None)))
    for norm, (momentum, state) in zip(norms, before, strict=True):
        norm.momentum = momentum
        if norm.num_batches_tracked == 0:  # it was not called: auxiliary heads run in training only
            norm.load_state_dict(state)


def _check_alphas(alphas: object) -> tuple[float, ...]:
    values = [] if isinstance(alphas, str) or not isinstance(alphas, Iterable) else list(alphas)
    if not values:
        raise ConfigError(f"alphas must be one or more numbers in [0, 1], got {alphas!r}.")
    for alpha in values:
        check_number("Each of alphas", alpha, least=0, most=1)
    return tuple(dict.fromkeys(map(float, values)))


def _state(model: nn.Module, device: torch.device) -> dict[str, Tensor]:
    state: dict[str, Tensor] = model.state_dict()
    return {name: tensor.detach().to(device, copy=True) for name, tensor in state.items()}


def _check_pair(first: Classifier, second: Classifier) -> None:
    """Refuse models of different architecture, or with their classes in different order."""
    a, b = ({n: t.shape for n, t in model.state_dict().items()} for model in (first, second))
    differ = [name for name in a.keys() | b.keys() if a.get(name) != b.get(name)]
    if differ:
        raise ConfigError(
            "Only two models of one architecture can be interpolated; these differ in "
            f"{len(differ)} tensors, such as {min(differ)!r}."
        )
    if first.classes != second.classes and set(first.classes) == set(second.classes):
        raise ConfigError(
            f"The classes of the models are in different order, {first.classes} and "
            f"{second.classes}: their heads cannot be interpolated."
        )


def _between(a: Mapping[str, Tensor], b: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """The interpolated tensors; integers (batch counters) are those of ``b``."""
    if alpha in (0.0, 1.0):
        return dict(a if alpha == 0 else b)
    return {
        name: torch.lerp(a[name], b[name], alpha) if b[name].is_floating_point() else b[name]
        for name in b
    }


def _changed_norms(
    model: Classifier, a: Mapping[str, Tensor], b: Mapping[str, Tensor]
) -> list[_BatchNorm]:
    """The batch norms with running statistics that differ between the two models."""
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and module.track_running_stats
        and any(not torch.equal(a[key], b[key]) for key in a if key.startswith(f"{name}."))
    ]
