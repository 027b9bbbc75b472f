"""How fast this machine convolves at best, and how much there is to compute in a work.

The peak is that of one 3x3 convolution of 128 channels on 32 maps of 32 x 32 pixels, which is the
kind that a ResNet spends its time on: the better of the two memory formats, the best of many calls.
"""

from __future__ import annotations

import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from speed.material import network
from speed.serve import Round, serve
from speed.task import Task

CALLS = 40


def gigaflops_per_second() -> float:
    """The peak, in 1e9 multiplications and additions a second."""
    conv = nn.Conv2d(128, 128, 3, padding=1, bias=False)
    flops = 2 * 9 * 128 * 128 * 32 * 32 * 32
    best = float("inf")
    with torch.inference_mode():
        for form in (torch.contiguous_format, torch.channels_last):
            maps = torch.randn(32, 128, 32, 32).to(memory_format=form)
            conv = conv.to(memory_format=form)
            for _ in range(CALLS):
                started = time.perf_counter()
                conv(maps)
                best = min(best, time.perf_counter() - started)
    return flops / best / 1e9


def gigaflops(task: Task) -> float:
    """What the loop computes in one round: steps on train, passes over val."""
    model, images = network(task), torch.zeros(2, 3, task.pixels, task.pixels)
    with FlopCounterMode(display=False) as stepped:
        model(images).sum().backward()
    with FlopCounterMode(display=False) as passed, torch.no_grad():
        model(images)
    step, once = stepped.get_total_flops() / 2, passed.get_total_flops() / 2
    return float(task.epochs * (task.images * step + task.held_out * once) / 1e9)


def prepare(task: Task) -> Round:
    def run() -> dict[str, float]:
        return {"peak GFLOP/s": gigaflops_per_second(), "work GFLOP": gigaflops(task)}

    return run


if __name__ == "__main__":
    serve(prepare)
