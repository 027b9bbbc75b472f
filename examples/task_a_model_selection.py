"""Task A, choose a network: the reports' eight side by side.

Depth, blocks of each stage, parameters, GFLOPs and published accuracy are facts of the network;
images a second and transferability are measured here, on the train split.
"""

from __future__ import annotations

import json
from collections import Counter

import torch
from torch import nn

import transferkit as tk
from _common import EMBEDDED, parse, save_figures, write_table

EIGHT = ("googlenet", "resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d",
         "mobilenet_v2", "vgg16")  # fmt: skip
BLOCKS = ("BasicBlock", "Bottleneck", "Inception", "InvertedResidual")


def depth(model: nn.Module) -> int:
    """Layers with weights on the longest way from input to output (convolutions and linear)."""
    images = torch.rand(1, 3, 64, 64)
    output = model.eval()(images)
    longest: dict[object, int] = {}
    stack = [output.grad_fn]
    while stack:
        node = stack[-1]
        inputs = [before for before, _ in node.next_functions if before is not None]
        waiting = [before for before in inputs if before not in longest]
        if waiting:
            stack += waiting
            continue
        counts = any(word in node.name() for word in ("Convolution", "Addmm"))
        longest[node] = counts + max((longest[before] for before in inputs), default=0)
        stack.pop()
    return longest[output.grad_fn]


def blocks(model: nn.Module) -> str:
    """How many blocks work at each resolution; plain convolutions where there are no blocks."""
    sides: list[int] = []
    modules = [m for m in model.modules() if type(m).__name__ in BLOCKS]
    watched = modules or [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    for module in watched:
        module.register_forward_hook(lambda _m, _i, output: sides.append(output.shape[-1]))
    with torch.inference_mode():
        model.eval()(torch.rand(1, 3, 64, 64))
    return ", ".join(str(count) for count in Counter(sides).values())


def published(name: str) -> str:
    """Top-1 accuracy of each set of weights, in percent."""
    weights = tk.get_backbone_spec(name).weights
    return " / ".join(f"{w.top1:.1f}" for w in weights if w.top1 is not None) or "-"


def facts(name: str) -> list[str]:
    """What is known without training."""
    model = tk.create_classifier(name, 2, weights=None, image_size=64, seed=0)
    spec = tk.get_backbone_spec(name)
    (row,) = tk.backbone_table(spec.name)
    gflops = "-" if row.gflops is None else f"{row.gflops:.2f}"
    return [
        spec.name,
        str(depth(model)),
        blocks(model.backbone),
        f"{spec.num_params / 1e6:.1f} M",
        gflops,
        published(name),
    ]


def main() -> None:
    setting = parse(
        "Task A: which network?",
        backbones=(*EIGHT, EMBEDDED),
        quick_backbones=(*EIGHT, EMBEDDED),
    )
    ranking = tk.rank_backbones(
        setting.backbones,
        setting.splits,
        weights=setting.weights,
        image_size=setting.image_size,
        device=setting.device,
        max_images=100 if setting.quick else 2000,
        repeats=3 if setting.quick else 10,
    )
    print(f"{ranking}\n")
    measured = {row.name: row for row in ranking.rows}
    rows = []
    for name in setting.backbones:
        known = facts(name)
        row = measured[known[0]]
        probe = "-" if row.probe is None else f"{100 * row.probe:.1f} %"
        logme = "-" if row.logme is None else f"{row.logme:.4f}"
        speed = "-" if row.images_per_second is None else f"{row.images_per_second:.0f}"
        rows.append([*known, speed, probe, logme, str(row.images)])
    header = ("network", "depth", "blocks at each resolution", "parameters", "GFLOPs",
              "published top-1", "images/s", "probe", "LogME", "on images")  # fmt: skip
    write_table(setting.out, "task_a", header, rows)
    (setting.out / "ranking.json").write_text(json.dumps(ranking.to_dict(), indent=2))
    save_figures(setting.out, lambda: {"ranking": tk.plots.ranking(ranking)})


if __name__ == "__main__":
    main()
