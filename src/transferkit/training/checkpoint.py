"""The state of a training run, as one value: all that a resumed run needs."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from transferkit._files import replacing
from transferkit.errors import OutputError, TrainingError
from transferkit.models.prefix_cache import changing
from transferkit.training.history import EpochRecord, History
from transferkit.training.optimizer import Moments

Weights: TypeAlias = dict[str, Tensor]


class Keeper:
    """Copies of what training changes: trainable parameters, and buffers of modules that train.

    Frozen weights cannot change, so they are not copied.

    Attributes:
        last: The weights after the last whole epoch (before the first: those it started from).
        best: The weights of the best epoch; empty while there is none.
    """

    def __init__(self, model: nn.Module) -> None:
        """Look at ``model``, which must be in train mode, and copy what it starts from."""
        self._live: Weights = changing(model)
        self.last: Weights = _copy(self._live)
        self.best: Weights = {}

    def follow(self, model: nn.Module) -> None:
        """Take in what has been unfrozen since; it has not changed since the best epoch."""
        fresh = {k: v for k, v in changing(model).items() if k not in self._live}
        copies = _copy(fresh)
        self._live |= fresh
        self.last |= copies
        if self.best:
            self.best |= copies

    def keep(self, *, best: bool) -> None:
        """Copy the weights at the end of an epoch; they are also the best so far if ``best``."""
        self.last = _copy(self._live)
        if best:
            self.best = dict(self.last)

    def put_back(self, weights: Weights) -> None:
        """Write ``weights`` into the model."""
        with torch.no_grad():
            for name, value in weights.items():
                self._live[name].copy_(value)


def _copy(weights: Weights) -> Weights:
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


FORMAT = 1
_ENTRY = "transferkit training state"


@dataclass(frozen=True, slots=True, eq=False)
class TrainState:
    """A training run between two epochs. All tensors are copies, on the CPU.

    The order of the samples and all random numbers follow from ``seed`` and the epoch, and the
    learning rate from ``step``, so neither a sampler nor a schedule has anything else to store.

    Attributes:
        step: Optimizer steps taken.
        seed: The seed of the run.
        trainable: Names of the trainable parameters.
        weights: All weights and buffers of the model, after the last whole epoch.
        best: Of the best epoch, the weights that training changes; empty without val.
        moments: What the optimizer has learnt, by parameter name.
        history: The figures of the epochs so far.
    """

    step: int
    seed: int
    trainable: tuple[str, ...]
    weights: Weights
    best: Weights
    moments: Moments
    history: History

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return len(self.history)

    @property
    def best_epoch(self) -> int | None:
        """The best epoch on val so far."""
        return self.history.best_epoch

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to one ``.safetensors`` file, which appears whole or not at all.

        Raises:
            OutputError: The file cannot be written.
        """
        facts = {
            "format": FORMAT,
            "step": self.step,
            "seed": self.seed,
            "trainable": self.trainable,
            "monitor": self.history.monitor,
            "records": [asdict(record) for record in self.history.records],
        }
        parts = {"weights": self.weights, "best": self.best, **_by_kind(self.moments)}
        tensors = {
            f"{part}/{name}": t for part, named in parts.items() for name, t in named.items()
        }
        try:
            with replacing(path) as draft:
                save_file(tensors, draft, metadata={_ENTRY: json.dumps(facts)})
        except SafetensorError as error:
            raise OutputError(f"Cannot write the training state to {path}: {error}.") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TrainState:
        """Read a state that :meth:`save` wrote.

        Raises:
            TrainingError: The file is not there, or does not hold a training state.
        """
        if not Path(path).is_file():
            raise TrainingError(f"There is no training state at {path}.")
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})[_ENTRY])
                parts = _by_part({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - no dict
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise TrainingError(f"{path} does not hold a training state: {error!r}.") from error
        if facts.get("format") != FORMAT:
            raise TrainingError(
                f"{path} is of format {facts.get('format')}; this version reads {FORMAT}."
            )
        records = tuple(EpochRecord(**record) for record in facts["records"])
        return cls(
            step=facts["step"],
            seed=facts["seed"],
            trainable=tuple(facts["trainable"]),
            weights=parts.pop("weights", {}),
            best=parts.pop("best", {}),
            moments=_by_name(parts),
            history=History(records, facts["monitor"]),
        )


def _by_part(tensors: Weights) -> dict[str, Weights]:
    """``{"weights/a.b": t}`` as ``{"weights": {"a.b": t}}``."""
    parts: dict[str, Weights] = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        parts.setdefault(part, {})[name] = tensor
    return parts


def _by_kind(moments: Moments) -> dict[str, Weights]:
    """Moments by parameter, as moments by kind: ``{"a.b": {"exp_avg": t}}`` turned around."""
    kinds: dict[str, Weights] = {}
    for name, learnt in moments.items():
        for kind, tensor in learnt.items():
            kinds.setdefault(kind, {})[name] = tensor
    return kinds


def _by_name(kinds: dict[str, Weights]) -> Moments:
    """The reverse of :func:`_by_kind`."""
    moments: Moments = {}
    for kind, named in kinds.items():
        for name, tensor in named.items():
            moments.setdefault(name, {})[kind] = tensor
    return moments
