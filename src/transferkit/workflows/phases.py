"""Runs in several phases: one history, one choice of the epoch, one look at the test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from transferkit.data.dataset import Splits
from transferkit.errors import DataError
from transferkit.training.history import EpochRecord, History


@dataclass(frozen=True, slots=True, eq=False)
class Phase:
    """One finished phase of a run.

    Attributes:
        history: Its figures.
        weights: What the model was left with: a copy, by name.
    """

    history: History
    weights: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module, history: History) -> Phase:
        """Copy what the model has now."""
        state: dict[str, Tensor] = model.state_dict()
        return cls(history, {name: tensor.detach().clone() for name, tensor in state.items()})


def finish(model: nn.Module, phases: Sequence[Phase]) -> History:
    """Leave ``model`` with the weights of the best epoch of all phases; join their histories.

    Raises:
        DataError: There is no phase.
    """
    history = joined([phase.history for phase in phases])
    ends = [sum(len(p.history) for p in phases[: i + 1]) for i in range(len(phases))]
    best = history.best_epoch or len(history)
    chosen = next(phase for phase, end in zip(phases, ends, strict=True) if best <= end)
    model.load_state_dict(chosen.weights)
    return history


def joined(histories: Sequence[History]) -> History:
    """Put one history behind the other: epochs and steps count on.

    Raises:
        DataError: There is none.
    """
    if not histories:
        raise DataError("There is no history to join.")
    records: list[EpochRecord] = []
    for history in histories:
        epoch, step = (records[-1].epoch, records[-1].step) if records else (0, 0)
        records += [
            replace(record, epoch=epoch + record.epoch, step=step + record.step)
            for record in history.records
        ]
    return History(tuple(records), histories[0].monitor)


def without_test(splits: Splits) -> Splits:
    """Train and val only, so that a phase cannot look at the test split."""
    return Splits({name: splits[name] for name in ("train", "val")})
