"""A training run: all that changes as it trains, with copies of its best and last weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from transferkit._typing import JSON
from transferkit.data.image_data import are_numbers
from transferkit.errors import TrainingError
from transferkit.models.classifier import Classifier, require_classifier
from transferkit.models.device import check_precision, place, training_device
from transferkit.models.freezing import stages, trained_tensors, unfreeze
from transferkit.training.history import EpochRecord, History
from transferkit.training.optimizer import (
    build_optimizer,
    load_moments,
    moments,
    parameters_of,
)
from transferkit.training.options import Options, is_comparable, plain_options
from transferkit.training.train_state import TrainState, Weights


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
            options=plain_options(self.options, self.device),
            trainable=trainable(self.model),
            facts=self.facts,
            weights=_on_cpu(self.model.state_dict() | self.weights.last),
            best=_on_cpu(self.weights.best),
            moments={kind: _on_cpu(named) for kind, named in kinds.items()},
            history=self.history,
        )

    @torch.inference_mode(mode=False)
    def restore(self, state: TrainState) -> None:
        """Go where ``state`` was: weights, freezing, optimizer, best weights and history."""
        _check_same_options(plain_options(self.options, self.device), state.options)
        _check_same_run(self.facts, state.facts)
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
        self.facts = state.facts
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


def _check_same_run(ours: dict[str, JSON], theirs: dict[str, JSON]) -> None:
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise TrainingError(
                f"The training state is of a run with other {name}: {theirs.get(name)!r}, not "
                f"{value!r}."
            )


def _check_same_options(ours: dict[str, JSON], theirs: dict[str, JSON]) -> None:
    for name, value in ours.items():
        saved = theirs.get(name)
        if name not in theirs or saved != value:
            raise TrainingError(
                f"The training state was made with {name}={saved!r}, and this trainer with "
                f"{name}={value!r}. Make the trainer with {name}={saved!r}."
            )
        if not is_comparable(value):
            raise TrainingError(
                f"{name}={value!r} cannot be compared with that of the training state: another "
                f"function or object could have the same name. To resume, train with {name} a "
                "function of a module, or an object whose repr shows its settings."
            )
