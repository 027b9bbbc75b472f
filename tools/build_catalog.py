"""Measure every backbone without memory and write the table that listing reads.

    python tools/build_catalog.py            # every backbone without a row, some ten minutes

Multiply-adds of torchvision's networks are those that torchvision publishes; the others' are
counted on the meta device, as one operation each, which gives the same figures.
"""

from __future__ import annotations

import csv
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import timm
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from transferkit.backbones.catalog import build_network, get_backbone_spec, list_backbones
from transferkit.backbones.skeleton import skeleton
from transferkit.backbones.spec import BackboneSpec

OUT = Path(__file__).parents[1] / "src" / "transferkit" / "backbones" / "catalog.csv"
FIELDS = ("name", "num_params", "feature_dim", "gflops", "input_size", "stages")


def count_gflops(spec: BackboneSpec) -> float:
    """Thousand million multiply-adds for one image of the default input."""
    source, _, name = spec.name.partition("/")
    if source == "torchvision":
        return float(models.get_model_weights(name).DEFAULT.meta["_ops"])
    if source == "timm":
        module = skeleton(lambda: timm.create_model(name, pretrained_cfg=spec.default_weights))
    else:
        module = skeleton(lambda: build_network(spec.name, weights=None).module)
    module.requires_grad_(False)  # the counter's hooks look for gradients
    with FlopCounterMode(display=False) as counter:
        module(torch.empty(1, *spec.input_size, device="meta"))
    return float(counter.get_total_flops()) / 2e9  # two operations a multiply-add


def measure(name: str) -> dict[str, str]:
    """One row of the table."""
    torch.set_num_threads(1)
    spec = get_backbone_spec(name)
    return {
        "name": spec.name,
        "num_params": str(spec.num_params),
        "feature_dim": str(spec.feature_dim),
        "gflops": f"{count_gflops(spec):.3f}",
        "input_size": "x".join(map(str, spec.input_size)),
        "stages": str(len(spec.stages)),
    }


def main(workers: int) -> None:
    """Measure what has no row yet, each row written as it comes."""
    versions = (
        f"# torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"timm {timm.__version__}\n"
    )
    names = list_backbones()
    lines = OUT.read_text("utf-8").splitlines(keepends=True) if OUT.exists() else []
    if not lines or lines[0] != versions:
        lines = [versions, ",".join(FIELDS) + "\n"]
        OUT.write_text("".join(lines), "utf-8")
    done = {line.partition(",")[0] for line in lines[2:]}
    with OUT.open("a", encoding="utf-8", newline="") as file, ProcessPoolExecutor(workers) as pool:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        for row in pool.map(measure, [name for name in names if name not in done], chunksize=4):
            writer.writerow(row)
            file.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
