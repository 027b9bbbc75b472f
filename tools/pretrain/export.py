"""Write a run's averaged weights as the file that the package carries.

    PYTHONPATH=tools python -m pretrain.export runs/pretrain/run --out FILE.safetensors

The classifier is left out, the grey first layer is spread over three equal channels, and
everything is rounded to float16.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from transferkit.backbones.embedded import create_network

CHANNELS = 3


def packaged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn the state dict of a grey network with a classifier into the packaged tensors."""
    shapes = {name: value.shape for name, value in create_network().state_dict().items()}
    kept = {}
    for name, value in state.items():
        if name not in shapes or not value.is_floating_point():
            continue
        if value.shape != shapes[name]:
            value = value.expand(shapes[name]) / CHANNELS
        kept[name] = value.half().contiguous()
        if not torch.isfinite(kept[name]).all():
            raise OverflowError(f"{name} does not fit float16")
    return kept


def main() -> None:
    """Parse the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    state = torch.load(args.run / "weights.pt", map_location="cpu", weights_only=True)
    options = json.loads((args.run / "options.json").read_text())
    metadata = {
        "license": "Apache-2.0",
        "steps": str(options["steps"]),
        "seed": str(options["seed"]),
    }
    save_file(packaged(state), args.out, metadata={"format": "pt"} | metadata)
    print(args.out, args.out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
