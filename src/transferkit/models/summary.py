"""A model at a glance: its stages, their parameters, and which of them learn."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import nn

from transferkit._text import table
from transferkit._typing import JSON
from transferkit.models.classifier import Classifier
from transferkit.models.layout import layout


@dataclass(frozen=True, slots=True)
class StageSummary:
    """One stage of a model.

    Attributes:
        name: Name of the stage.
        parameters: How many numbers its parameters hold.
        trainable: How many of them learn.
    """

    name: str
    parameters: int
    trainable: int

    @property
    def state(self) -> str:
        """``"trainable"``, ``"frozen"`` or ``"partly"``."""
        if self.trainable == self.parameters:
            return "trainable"
        return "partly" if self.trainable else "frozen"


@dataclass(frozen=True, slots=True)
class Summary:
    """The stages of a model, from input to output.

    Attributes:
        name: The backbone's full name, or the class of a plain model.
        stages: One entry a stage; the last is the head.
    """

    name: str
    stages: tuple[StageSummary, ...]

    @property
    def parameters(self) -> int:
        """How many numbers the parameters hold."""
        return sum(stage.parameters for stage in self.stages)

    @property
    def trainable(self) -> int:
        """How many of them learn."""
        return sum(stage.trainable for stage in self.stages)

    def to_dict(self) -> dict[str, JSON]:
        """The summary as plain data."""
        rows: list[JSON] = [{**asdict(stage), "state": stage.state} for stage in self.stages]
        totals: dict[str, JSON] = {"parameters": self.parameters, "trainable": self.trainable}
        return {"name": self.name, **totals, "stages": rows}

    def __str__(self) -> str:
        rows = [(s.name, f"{s.parameters:,}", f"{s.trainable:,}", s.state) for s in self.stages]
        rows.append(("total", f"{self.parameters:,}", f"{self.trainable:,}", ""))
        return f"{self.name}\n" + table(("stage", "parameters", "trainable", "state"), rows)


def summary(model: nn.Module) -> Summary:
    """Tabulate the stages of a model; print the result to read it.

    Args:
        model: A ``Classifier``, or a plain torchvision or timm model.

    Example:
        >>> import transferkit as tk
        >>> model = tk.create_classifier("resnet18", 2, weights=None)
        >>> tk.freeze(model)
        >>> table = tk.summary(model)
        >>> table.trainable, table.parameters
        (1026, 11177538)
        >>> [stage.name for stage in table.stages if stage.state == "frozen"]
        ['conv1', 'layer1', 'layer2', 'layer3', 'layer4']
    """
    parts = layout(model)
    parameters = dict(model.named_parameters())
    name = model.name if isinstance(model, Classifier) else type(model).__name__
    rows = []
    for stage in parts:
        own = [parameters[key] for key in stage.parameters]
        learning = sum(p.numel() for p in own if p.requires_grad)
        rows.append(StageSummary(stage.name, sum(p.numel() for p in own), learning))
    return Summary(name, tuple(rows))
