"""A training run: all that changes as it trains, its best and last weights, its saved state."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from transferkit._files import replacing
from transferkit._typing import JSON
from transferkit._validation import to_path
from transferkit.data.image_data import are_numbers
from transferkit.errors import OutputError, TrainingError
from transferkit.models.classifier import Classifier, require_classifier
from transferkit.models.device import check_precision, place, training_device
from transferkit.models.freezing import stages, trained_tensors, unfreeze
from transferkit.training.history import EpochRecord, History
from transferkit.training.optimizer import (
    Moments,
    build_optimizer,
    load_moments,
    moments,
    parameters_of,
)
from transferkit.training.options import Options, is_comparable, plain_options

Weights: TypeAlias = dict[str, Tensor]


class KeptWeights:
    """Copies of what training changes: trainable parameters, and buffers of modules that train.

    Frozen weights cannot change, so they are not copied. ``last`` are the weights after the last
    whole epoch (before the first: those the run starts from), ``best`` those of the best epoch
    (empty while there is none). Between two epochs the model shows one of them.
    """

    def __init__(self) -> None:
        self.last: Weights = {}
        self.best: Weights = {}
        self._live: Weights = {}
        self._shown: Weights = {}

    def note_changes(self, model: nn.Module, also: Iterable[str] = ()) -> None:
        """Copy what has been unfrozen, or written to by the user, since the last epoch."""
        present = model.state_dict(keep_vars=True)
        for name in dict.fromkeys([*self._live, *trained_tensors(model), *also]):
            tensor, shown = present.get(name), self._shown.get(name)
            if tensor is None or (
                shown is not None and (tensor.shape, tensor.dtype) != (shown.shape, shown.dtype)
            ):
                raise TrainingError(
                    f"{name} has another shape or dtype than in the epochs before. Make a new "
                    "Trainer for a model whose modules or dtype have changed."
                )
            self._live[name] = tensor
            if shown is None or not torch.equal(tensor, shown):
                self.last[name] = tensor.detach().clone()
                if self.best:  # what was frozen until now was the same in the best epoch
                    self.best.setdefault(name, self.last[name])

    def keep(self, *, best: bool) -> None:
        """Copy the weights at the end of an epoch, which is the best so far or not."""
        self.last = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        if best:
            self.best = dict(self.last)

    def show(self, weights: Weights) -> None:
        """Write ``weights`` into the model, where they differ from its own."""
        with torch.no_grad():
            for name, value in weights.items():
                if not torch.equal(self._live[name], value):
                    self._live[name].copy_(value)
        self._shown = weights


FORMAT = 4
_METADATA = "transferkit training state"
_PLAIN = ("step", "images", "classes", "options", "trainable")


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
        options: What the numbers of the run depend on, as plain data: its options, and where
            ``checkpoint`` is used also its length, hashes of the data, the backbone and the stages
            that were frozen at its start.
        trainable: Names of the trainable parameters.
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


class Run:
    """A training run: the model and everything else that changes as it trains."""

    @torch.inference_mode(mode=False)
    def __init__(self, model: Classifier, options: Options) -> None:
        """Place the model on the device of the run."""
        self.model = require_classifier(model)
        self.options = options
        self.device = place(model, training_device(options.device, model))
        check_precision(options.precision, self.device, model)
        self.history = History(monitor=options.monitor)
        self.step = 0
        self.images: int | None = None
        self.facts: dict[str, JSON] = {}
        self.optimizer: Optimizer | None = None
        self.weights = KeptWeights()
        self._within_epoch = False

    @property
    def epochs_done(self) -> int:
        """Whole epochs so far."""
        return len(self.history.records)

    def begin_epoch(self) -> Optimizer:
        """Put the model into train mode with its last weights; return the optimizer for it."""
        place(self.model, self.device)
        if any(p.is_inference() for p in self.model.parameters()):
            raise TrainingError(
                "The model was made inside torch.inference_mode(), so torch cannot train it. Make "
                "it outside."
            )
        self.model.train()
        self.weights.note_changes(self.model)
        self.weights.show(self.weights.last)
        self._within_epoch = True
        if self.optimizer is None:
            self.optimizer = build_optimizer(self.model, self.options)
        elif set(parameters_of(self.optimizer)) != {
            p for p in self.model.parameters() if p.requires_grad
        }:
            known = moments(self.optimizer, self.model)
            self.optimizer = build_optimizer(self.model, self.options)
            load_moments(self.optimizer, self.model, known)
        self.optimizer.zero_grad(set_to_none=True)
        return self.optimizer

    def end_epoch(self, record: EpochRecord, *, images: int) -> None:
        """Add the figures of the epoch to the history, copy its weights, and show the best."""
        self.history = History((*self.history.records, record), self.history.monitor)
        self.images = images
        self.weights.keep(best=self.history.best_epoch == record.epoch)
        self._show_best()

    def abandon_epoch(self, *, failed: bool) -> None:
        """Go back to the last whole epoch: its weights where the run ``failed``, else the best.

        The optimizer was stopped within an epoch; it belongs to none and is dropped.
        """
        self.optimizer = None
        self.step = self.history.records[-1].step if self.history.records else 0
        self._show_best()
        if failed:
            self.weights.show(self.weights.last)

    def _show_best(self) -> None:
        self._within_epoch = False
        self.model.eval()
        best = self.weights.best if self.options.restore_best else {}
        self.weights.show(best or self.weights.last)

    @torch.inference_mode(mode=False)
    def state(self) -> TrainState:
        """Copy all that a resumed run needs, as it was after the last whole epoch."""
        if not self._within_epoch:
            self.weights.note_changes(self.model)
        kinds = {} if self.optimizer is None else moments(self.optimizer, self.model)
        return TrainState(
            step=self.step,
            images=self.images,
            classes=self.model.classes,
            options=self.facts | plain_options(self.options, self.device),
            trainable=trainable(self.model),
            weights=_on_cpu(self.model.state_dict() | self.weights.last),
            best=_on_cpu(self.weights.best),
            moments={kind: _on_cpu(named) for kind, named in kinds.items()},
            history=self.history,
        )

    @torch.inference_mode(mode=False)
    def restore(self, state: TrainState) -> None:
        """Go where ``state`` was: weights, freezing, optimizer, best weights and history."""
        ours = self.facts | plain_options(self.options, self.device)
        _check_same_options(ours, state.options)
        unnamed = are_numbers(self.model.classes) and len(state.classes) == self.model.num_classes
        if not unnamed and self.model.classes != state.classes:
            raise TrainingError(
                f"The training state is of a model with the classes {state.classes}, and this "
                f"model has {self.model.classes}. Create the model with "
                f"classes={list(state.classes)}."
            )
        try:
            self.model.load_state_dict(state.weights)
        except RuntimeError as error:
            raise TrainingError(f"The training state is of another model: {error}") from error
        self.model.classes = state.classes
        refreeze(self.model, state.trainable)
        self.model.train()
        self.optimizer = build_optimizer(self.model, self.options)
        load_moments(self.optimizer, self.model, state.moments)
        self.weights = KeptWeights()
        self.weights.note_changes(self.model, also=state.best)
        if state.best:
            saved = {name: t.to(self.device, copy=True) for name, t in state.best.items()}
            self.weights.best = self.weights.last | saved
        self.history, self.step, self.images = state.history, state.step, state.images
        self.facts = {name: v for name, v in state.options.items() if name not in ours} | self.facts
        self._show_best()


def trainable(model: nn.Module) -> tuple[str, ...]:
    """Names of the trainable parameters."""
    return tuple(name for name, p in model.named_parameters() if p.requires_grad)


def refreeze(model: nn.Module, names: tuple[str, ...]) -> None:
    """Freeze stages until the trainable parameters are ``names``."""
    if trainable(model) == names:
        return
    for stage in stages(model):
        unfreeze(model, upto=stage)
        if trainable(model) == names:
            return
    raise TrainingError(
        "The training state has other trainable parameters than this model can have by "
        "freezing stages. Freeze the same parameters as then, and resume again."
    )


def _on_cpu(tensors: Weights) -> Weights:
    return {n: t.detach().to("cpu", copy=True).contiguous() for n, t in tensors.items()}


def _check_same_options(ours: dict[str, JSON], theirs: dict[str, JSON]) -> None:
    for name, value in ours.items():
        saved = theirs.get(name)
        if name not in theirs or saved != value:
            raise TrainingError(
                f"The training state was made with {name}={saved!r}, and this run has "
                f"{name}={value!r}. Only a run with {name}={saved!r} can go on from it."
            )
        if not is_comparable(value):
            raise TrainingError(
                f"{name}={value!r} cannot be compared with that of the training state: another "
                f"function or object could have the same name. To resume, train with {name} a "
                "function of a module, or an object whose repr shows its settings."
            )
