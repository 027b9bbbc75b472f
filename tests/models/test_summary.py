"""The summary of a model."""

from __future__ import annotations

import json

from torchvision.models import resnet18

import transferkit as tk


def test_totals_and_states(make) -> None:
    model = make("resnet18")
    tk.unfreeze(model, upto="layer4")
    summary = tk.summary(model)
    assert summary.name == "torchvision/resnet18"
    assert summary.parameters == sum(p.numel() for p in model.parameters())
    assert summary.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert [s.state for s in summary.stages] == ["frozen"] * 4 + ["trainable"] * 2
    model.head.bias.requires_grad_(False)
    assert tk.summary(model).stages[-1].state == "partly"


def test_it_reads_as_a_table_and_as_data() -> None:
    summary = tk.summary(resnet18(num_classes=2))
    text = str(summary)
    assert text.splitlines()[0] == "ResNet"
    assert "layer4   8,393,728   8,393,728  trainable" in text
    assert "total" in text
    data = json.loads(json.dumps(summary.to_dict()))
    assert data["stages"][-1] == {
        "name": "fc",
        "parameters": 1026,
        "trainable": 1026,
        "state": "trainable",
    }
