"""From a run to its state, and back."""

from __future__ import annotations

from torch import nn

from transferkit.errors import TrainingError
from transferkit.models.freezing import stages, unfreeze
from transferkit.training.keeper import Keeper, Weights
from transferkit.training.optim import build_optimizer, load_moments, moments
from transferkit.training.run import Run
from transferkit.training.state import TrainState


def state_of(run: Run) -> TrainState:
    """Copy all that a resumed run needs, as it was after the last whole epoch."""
    kept = run.keeper
    weights = run.model.state_dict() | ({} if kept is None else kept.last)
    learnt = {} if run.optimizer is None else moments(run.optimizer, run.model)
    return TrainState(
        step=run.step,
        seed=run.options.seed,
        trainable=trainable(run.model),
        weights=_on_cpu(weights),
        best={} if kept is None else _on_cpu(kept.best),
        moments={name: _on_cpu(values) for name, values in learnt.items()},
        history=run.history,
    )


def restore(run: Run, state: TrainState) -> None:
    """Put ``run`` where ``state`` was: weights, freezing, optimizer, kept weights and figures.

    Raises:
        TrainingError: The state is of another model, or was made with another seed or monitor.
    """
    _check_same("seed", run.options.seed, state.seed)
    _check_same("monitor", run.options.monitor, state.history.monitor)
    try:
        run.model.load_state_dict(state.weights)
    except RuntimeError as error:
        raise TrainingError(f"The training state is of another model: {error}") from error
    refreeze(run.model, state.trainable)
    run.model.train()
    run.keeper = Keeper(run.model)
    run.keeper.best = {name: value.to(run.device, copy=True) for name, value in state.best.items()}
    run.optimizer = build_optimizer(run.model, run.options)
    load_moments(run.optimizer, run.model, state.moments)
    run.model.eval()
    run.history, run.step = state.history, state.step


def trainable(model: nn.Module) -> tuple[str, ...]:
    """Names of the trainable parameters."""
    return tuple(name for name, p in model.named_parameters() if p.requires_grad)


def refreeze(model: nn.Module, names: tuple[str, ...]) -> None:
    """Freeze stages until the trainable parameters are ``names``.

    Raises:
        TrainingError: No boundary between stages gives them.
    """
    if trainable(model) == names:
        return
    for stage in stages(model):
        unfreeze(model, upto=stage)
        if trainable(model) == names:
            return
    raise TrainingError(
        "The training state has other trainable parameters than this model can have by "
        "freezing stages. Freeze the same parameters as then, and give the state again."
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
