"""The state of a training run between two epochs, in a file, and the newest ones in a folder."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from transferkit._files import replacing
from transferkit._typing import JSON
from transferkit._validation import to_path
from transferkit.errors import OutputError, TrainingError
from transferkit.training.history import EpochRecord, History

Weights: TypeAlias = dict[str, Tensor]
Moments: TypeAlias = dict[str, dict[str, Tensor]]
"""The optimizer's state: by kind, such as ``exp_avg``, and by the parameter's name."""

FORMAT = 4
_METADATA = "transferkit training state"
_PLAIN = ("step", "images", "classes", "options", "trainable", "facts")


@dataclass(frozen=True, slots=True, eq=False)
class TrainState:
    """A training run between two epochs. All tensors are copies, on the CPU.

    The order of the samples and all random numbers follow from the seed and the epoch, and the
    learning rate from ``step``, so neither a sampler nor a schedule has anything else to store.

    Attributes:
        step: Optimizer steps taken.
        images: Number of training images, which the schedule depends on; None before the first
            epoch.
        classes: Names of the classes, in the order of the logits.
        options: The options that the numbers of the run depend on, as plain data.
        trainable: Names of the trainable parameters.
        facts: What else the run depends on, where ``checkpoint`` is used: its length, hashes of the
            data, the backbone and the stages that were frozen at its start.
        weights: All weights and buffers of the model, after the last whole epoch.
        best: Weights of the best epoch, as far as training changes them; empty without val.
        moments: State of the optimizer, by its kind (such as exp_avg) and the parameter's name.
        history: The figures of the epochs so far.
    """

    step: int
    images: int | None
    classes: tuple[str, ...]
    options: dict[str, JSON]
    trainable: tuple[str, ...]
    facts: dict[str, JSON]
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
            ConfigError: ``path`` is not a path.
        """
        path = to_path("path", path)
        facts = {name: getattr(self, name) for name in _PLAIN}
        facts |= {"format": FORMAT, **asdict(self.history)}
        parts = {"weights": self.weights, "best": self.best, **self.moments}
        tensors = {
            f"{part}/{name}": t for part, named in parts.items() for name, t in named.items()
        }
        try:
            with replacing(path) as temporary:
                save_file(tensors, temporary, metadata={_METADATA: json.dumps(facts)})
        except SafetensorError as error:
            raise OutputError(f"Cannot write the training state to {path}: {error}.") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TrainState:
        """Read a state that :meth:`save` wrote.

        Raises:
            TrainingError: The file is not there, or does not hold a training state.
            ConfigError: ``path`` is not a path.
        """
        path = to_path("path", path)
        if not path.is_file():
            raise TrainingError(f"There is no training state at {path}.")
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})[_METADATA])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no dict
            if facts["format"] != FORMAT:
                raise TrainingError(
                    f"{path} is of format {facts['format']}; this version reads {FORMAT}."
                )
            return cls._of(facts, tensors)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise TrainingError(f"{path} does not hold a training state: {error!r}.") from error

    @classmethod
    def _of(cls, facts: dict[str, Any], tensors: Weights) -> TrainState:
        """The state of what a file holds."""
        records = tuple(EpochRecord(**record) for record in facts["records"])
        parts: dict[str, Weights] = {"weights": {}, "best": {}}
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            parts.setdefault(part, {})[name] = tensor
        return cls(
            step=facts["step"],
            images=facts["images"],
            classes=tuple(facts["classes"]),
            options=facts["options"],
            trainable=tuple(facts["trainable"]),
            facts=facts["facts"],
            weights=parts.pop("weights"),
            best=parts.pop("best"),
            moments=parts,
            history=History(records, facts["monitor"], facts["probe_epochs"]),
        )


KEPT = 2
"""States of a folder that are kept: the newest may be damaged by the disk."""


def save_newest(state: TrainState, folder: Path) -> None:
    """Write the state of an epoch into ``folder``, and remove all but the newest."""
    state.save(folder / f"epoch-{state.epoch:06}.safetensors")
    for old in _files(folder)[KEPT:]:
        old.unlink(missing_ok=True)


def states_in(folder: Path) -> Iterator[tuple[Path, TrainState]]:
    """The states in ``folder``, the newest first; a damaged one is named in a warning."""
    for path in _files(folder):
        try:
            state = TrainState.load(path)
        except TrainingError as error:
            warnings.warn(f"{error} The run goes on from the state before it.", stacklevel=5)
        else:
            yield path, state


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*.safetensors"), reverse=True)
