"""A training run: what changes as it trains, its best and last weights, and its saved state."""

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
from torch.optim import Optimizer

from transferkit._files import replacing
from transferkit.errors import OutputError, TrainingError
from transferkit.models.classifier import Classifier, require_classifier
from transferkit.models.device import place, training_device
from transferkit.models.freezing import stages, trained_tensors, unfreeze
from transferkit.training.history import EpochRecord, History
from transferkit.training.optimizer import (
    Moments,
    build_optimizer,
    held_by,
    load_moments,
    moments,
)
from transferkit.training.options import Options

Weights: TypeAlias = dict[str, Tensor]


class KeptWeights:
    """Copies of what training changes: trainable parameters, and buffers of modules that train.

    Frozen weights cannot change, so they are not copied. ``last`` are the weights after the last
    whole epoch (before the first: those the run started from), ``best`` those of the best epoch
    (empty while there is none).
    """

    def __init__(self, model: nn.Module) -> None:
        """Copy the weights that the run starts from; ``model`` must be in train mode."""
        self._live: Weights = trained_tensors(model)
        self.last: Weights = _copy(self._live)
        self.best: Weights = {}

    def add_unfrozen(self, model: nn.Module) -> None:
        """Copy what has been unfrozen since; it has not changed since the best epoch."""
        fresh = {k: v for k, v in trained_tensors(model).items() if k not in self._live}
        copies = _copy(fresh)
        self._live |= fresh
        self.last |= copies
        if self.best:
            self.best |= copies

    def keep(self, *, best: bool) -> None:
        """Copy the weights at the end of an epoch, which is the best so far or not."""
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
_METADATA = "transferkit training state"


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
        best: Weights of the best epoch, as far as training changes them; empty without val.
        moments: State of the optimizer (such as exp_avg), by parameter name.
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
        tensors = {f"weights/{name}": tensor for name, tensor in self.weights.items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        for name, kinds in self.moments.items():
            tensors |= {f"{kind}/{name}": tensor for kind, tensor in kinds.items()}
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
        """
        if not Path(path).is_file():
            raise TrainingError(f"There is no training state at {path}.")
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})[_METADATA])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no dict
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise TrainingError(f"{path} does not hold a training state: {error!r}.") from error
        if facts.get("format") != FORMAT:
            raise TrainingError(
                f"{path} is of format {facts.get('format')}; this version reads {FORMAT}."
            )
        records = tuple(EpochRecord(**record) for record in facts["records"])
        weights: Weights = {}
        best: Weights = {}
        moments: Moments = {}
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            if kind in ("weights", "best"):
                (weights if kind == "weights" else best)[name] = tensor
            else:
                moments.setdefault(name, {})[kind] = tensor
        return cls(
            step=facts["step"],
            seed=facts["seed"],
            trainable=tuple(facts["trainable"]),
            weights=weights,
            best=best,
            moments=moments,
            history=History(records, facts["monitor"]),
        )


class Run:
    """A training run: the model and everything else that changes as it trains.

    It stands between two epochs, except from :meth:`begin_epoch` to :meth:`end_epoch`.
    """

    def __init__(self, model: Classifier, options: Options) -> None:
        """Place the model on the device of the run."""
        self.model = require_classifier(model)
        self.options = options
        self.device = place(model, training_device(options.device, model))
        self.history = History(monitor=options.monitor)
        self.step = 0
        self.optimizer: Optimizer | None = None
        self.weights: KeptWeights | None = None
        self._ended = False

    def begin_epoch(self) -> Optimizer:
        """Put the model into train mode, with the weights of the last whole epoch.

        Returns:
            The optimizer, which holds exactly the parameters that are trainable now.
        """
        self.model.train()
        if self.weights is None:
            self.weights = KeptWeights(self.model)
        self.weights.add_unfrozen(self.model)
        if self._ended:
            self.weights.put_back(self.weights.last)
            self._ended = False
        held = self.optimizer
        if held is None or held_by(held) != {p for p in self.model.parameters() if p.requires_grad}:
            self.optimizer = build_optimizer(self.model, self.options)
            if held is not None:
                load_moments(self.optimizer, self.model, moments(held, self.model))
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        return self.optimizer

    def end_epoch(self, record: EpochRecord) -> None:
        """Add the figures of the epoch to the history, and copy its weights."""
        assert self.weights is not None  # begin_epoch made them
        self.history = History((*self.history.records, record), self.history.monitor)
        self.weights.keep(best=self.history.best_epoch == record.epoch)

    def end(self, *, failed: bool, within_epoch: bool) -> None:
        """Leave the model in eval mode, with the weights that it should have.

        These are the best epoch's, where there is one and ``restore_best`` says so; else, and
        where the run ``failed``, the last whole epoch's. An optimizer that was stopped within an
        epoch belongs to no epoch and is dropped.
        """
        self.model.eval()
        if within_epoch:
            self.optimizer = None
            self.step = self.history.records[-1].step if self.history.records else 0
        if self.weights is not None:
            best = self.weights.best if self.options.restore_best and not failed else {}
            self.weights.put_back(best or self.weights.last)
            self._ended = True

    def state(self) -> TrainState:
        """Copy all that a resumed run needs, as it was after the last whole epoch."""
        last, best = (self.weights.last, self.weights.best) if self.weights else ({}, {})
        kept = {} if self.optimizer is None else moments(self.optimizer, self.model)
        return TrainState(
            step=self.step,
            seed=self.options.seed,
            trainable=trainable(self.model),
            weights=_on_cpu(self.model.state_dict() | last),
            best=_on_cpu(best),
            moments={name: _on_cpu(values) for name, values in kept.items()},
            history=self.history,
        )

    def restore(self, state: TrainState) -> None:
        """Go where ``state`` was: weights, freezing, optimizer, best weights and history.

        Raises:
            TrainingError: The state is of another model, or was made with another seed or monitor.
        """
        _check_same("seed", self.options.seed, state.seed)
        _check_same("monitor", self.options.monitor, state.history.monitor)
        try:
            self.model.load_state_dict(state.weights)
        except RuntimeError as error:
            raise TrainingError(f"The training state is of another model: {error}") from error
        refreeze(self.model, state.trainable)
        self.model.train()
        self.weights = KeptWeights(self.model)
        self.weights.best = {k: v.to(self.device, copy=True) for k, v in state.best.items()}
        self.optimizer = build_optimizer(self.model, self.options)
        load_moments(self.optimizer, self.model, state.moments)
        self.model.eval()
        self.history, self.step = state.history, state.step


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
    copies = {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}
    return {name: value.contiguous() for name, value in copies.items()}


def _check_same(option: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise TrainingError(
            f"The training state was made with {option}={theirs!r} and this trainer with "
            f"{option}={ours!r}; make the trainer with {option}={theirs!r}."
        )
