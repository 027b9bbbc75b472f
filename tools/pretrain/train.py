"""Pretrain a backbone on the rendered cache: supervised, deterministic, resumable.

    PYTHONPATH=tools python -m pretrain.train --images runs/pretrain/images --out runs/pretrain/run

Every step draws its batch, its side and its views from the seed and the step's number alone, so a
run that was stopped goes on as if it never was. ``--out`` receives ``checkpoint.pt`` (atomic),
``log.csv`` and ``weights.pt`` (the running average of the weights, as a state dict).
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pretrain.augment import augment
from transferkit.backbones.embedded import pretraining_network

MEAN, STD = 0.5, 0.25


@dataclass(frozen=True)
class Options:
    """What a run depends on."""

    steps: int
    batch: int
    lr: float
    weight_decay: float
    smoothing: float
    sides: tuple[int, ...]
    late_sides: tuple[int, ...]
    average: float
    precision: str
    seed: int


def build(options: Options, classes: int) -> nn.Module:
    """Build the network with random weights and a classifier of ``classes`` outputs."""
    torch.manual_seed(options.seed)
    return pretraining_network(num_classes=classes, in_channels=1)


def optimizer_of(model: nn.Module, options: Options) -> torch.optim.AdamW:
    """AdamW without weight decay on norms and biases."""
    flat = [p for p in model.parameters() if p.ndim < 2]
    deep = [p for p in model.parameters() if p.ndim >= 2]
    groups = [{"params": deep}, {"params": flat, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.lr, weight_decay=options.weight_decay)


def decaying(step: int, options: Options) -> bool:
    """Whether a step is in the last quarter, where the rate falls and the images grow."""
    return step >= 0.75 * options.steps


def rate(step: int, options: Options) -> float:
    """Learning rate: linear warm-up over 300 steps, level, linear to zero in the last quarter.

    Until the last quarter nothing depends on ``options.steps``: a longer run only goes on.
    """
    if decaying(step, options):
        return options.lr * (options.steps - step) / (0.25 * options.steps)
    return options.lr * min(1.0, (step + 1) / 300)


class Run:
    """One pretraining run: network, running average, optimizer and the number of the next step."""

    def __init__(self, cache: NDArray[np.uint8], options: Options, device: str):
        self.cache, self.options, self.device = cache, options, device
        self.model = build(options, len(cache)).to(device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.model).eval()
        self.optimizer = optimizer_of(self.model, options)
        self.step = 0

    def batch(self) -> tuple[Tensor, Tensor]:
        """Draw the views (B, 1, S, S) and labels (B,) of the current step."""
        options = self.options
        rng = np.random.default_rng([options.seed, self.step])
        late = decaying(self.step, options)
        picked = rng.integers(len(self.cache), size=options.batch)
        image = rng.integers(self.cache.shape[1], size=options.batch)
        side = int(rng.choice(options.late_sides if late else options.sides))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        pixels = torch.from_numpy(self.cache[picked, image])[:, None].to(self.device)
        views = augment(pixels, side, generator)
        views = (views - MEAN) / STD
        label = torch.from_numpy(picked).to(self.device)
        return views.contiguous(memory_format=torch.channels_last), label

    def advance(self) -> tuple[float, float]:
        """Take one optimizer step; return the loss and the accuracy of the batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.step, self.options)
        views, labels = self.batch()
        self.model.train()
        kind = "cuda" if self.device.startswith("cuda") else "cpu"
        half = self.options.precision == "bfloat16"
        with torch.autocast(kind, torch.bfloat16, enabled=half):
            logits = self.model(views)
        logits = logits.float()
        loss = functional.cross_entropy(logits, labels, label_smoothing=self.options.smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        self.update_average()
        self.step += 1
        return float(loss), float((logits.argmax(1) == labels).float().mean())

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the running average of weights and buffers towards the network."""
        decay = min(self.options.average, (1 + self.step) / (10 + self.step))
        ours, theirs = self.average.state_dict(), self.model.state_dict()
        for name, value in ours.items():
            if value.is_floating_point():
                value.lerp_(theirs[name], 1 - decay)
            else:
                value.copy_(theirs[name])

    def save(self, folder: Path) -> None:
        """Write checkpoint and weights, each by rename."""
        state: dict[str, Any] = {"step": self.step, "model": self.model.state_dict()}
        state |= {"average": self.average.state_dict(), "optimizer": self.optimizer.state_dict()}
        for name, value in (("checkpoint.pt", state), ("weights.pt", self.average.state_dict())):
            torch.save(value, folder / f"{name}.part")
            (folder / f"{name}.part").replace(folder / name)

    def load(self, folder: Path) -> None:
        """Go on from the checkpoint in ``folder``, if there is one."""
        if not (folder / "checkpoint.pt").exists():
            return
        state = torch.load(folder / "checkpoint.pt", map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def train(run: Run, out: Path, *, log_every: int, save_minutes: float, stop_at: int | None) -> None:
    """Run to the end, logging means over ``log_every`` steps and saving now and then."""
    run.load(out)
    log = out / "log.csv"
    keep_lines(log, run.step)
    saved = started = time.monotonic()
    scores: list[tuple[float, float]] = []
    last = min(run.options.steps, stop_at or run.options.steps)
    while run.step < last:
        scores.append(run.advance())
        if run.step % log_every == 0 or run.step == last:
            seen, lr = run.step * run.options.batch, rate(run.step - 1, run.options)
            loss, accuracy = np.mean(scores, axis=0)
            seconds = time.monotonic() - started
            with log.open("a") as file:
                file.write(f"{run.step},{seen},{lr:.3g},{loss:.4f},{accuracy:.4f},{seconds:.0f}\n")
            scores, started = [], time.monotonic()
        if time.monotonic() - saved > 60 * save_minutes:
            run.save(out)
            saved = time.monotonic()
    run.save(out)


def keep_lines(log: Path, step: int) -> None:
    """Start the log, or drop the lines that came after the checkpoint."""
    lines = log.read_text().splitlines()[1:] if log.exists() else []
    kept = [line for line in lines if int(line.partition(",")[0]) <= step]
    log.write_text("\n".join(["step,images,lr,loss,accuracy,seconds", *kept]) + "\n")


def main() -> None:
    """Parse the command line and pretrain."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=14000)
    parser.add_argument("--stop-at", type=int)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--smoothing", type=float, default=0.05)
    parser.add_argument("--sides", type=int, nargs="+", default=[28, 32, 40, 48, 64])
    parser.add_argument("--late-sides", type=int, nargs="+", default=[32, 48, 64, 96])
    parser.add_argument("--average", type=float, default=0.999)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--log-every", type=int, default=250)
    parser.add_argument("--save-minutes", type=float, default=5.0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = Options.__dataclass_fields__
    given = {n: tuple(v) if isinstance(v := getattr(args, n), list) else v for n in names}
    options = Options(**given)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "options.json").write_text(json.dumps(given, indent=2) + "\n")
    cache = np.load(args.images / "images.npy", mmap_mode="r")
    run = Run(cache, options, args.device)
    every, minutes = args.log_every, args.save_minutes
    train(run, args.out, log_every=every, save_minutes=minutes, stop_at=args.stop_at)


if __name__ == "__main__":
    main()
