"""Which works are measured, on how many images, by whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from speed.envs import PACKAGES
from speed.task import BATCH_SIZE, WORKS, Task

IMAGES = {128: 320, 256: 96}
"""Training images of the works of one epoch."""

LONG_IMAGES = {128: 256, 256: 64}
"""Training images of the works of thirty epochs."""

ROUNDS = {1: 5, 30: 2}
GROWING_IMAGES = (250, 1000, 5000, 20000)
GROWING_PIXELS = (64, 96, 128, 192, 256)
GROWTH_ROUNDS = 2
STEPS_OF_OVERHEAD = 300
PEER_WORKS = ("fine-tune all", "fixed features")
PEER_CASE = ("resnet18", 128)


@dataclass(frozen=True, slots=True)
class Case:
    """One task and the sides that take turns at it."""

    task: Task
    sides: tuple[str, ...]
    rounds: int

    @property
    def key(self) -> tuple[str, str, int, int, int]:
        """As a row's ``case``."""
        task = self.task
        return task.work, task.backbone, task.pixels, task.images, task.epochs


def cases(
    *,
    works: Sequence[str],
    backbones: Sequence[str],
    pixels: Sequence[int],
    sides: Sequence[str],
    rounds: int | None,
    images: int | None,
    epochs: int | None,
    threads: int,
    widely: bool,
) -> Iterator[Case]:
    """Every case, the shortest work first; peers only where they are asked for.

    Args:
        works: Names of works.
        backbones: Names of torchvision networks.
        pixels: Sides of the images.
        sides: Who may take part.
        rounds: Rounds of every work; None takes what suits its length.
        images: Training images; None takes what suits work and pixels.
        epochs: Epochs of a round; None takes the work's own.
        threads: Threads of every side.
        widely: Let the peers do all works on all networks and sizes.
    """
    for work in sorted(works, key=lambda name: WORKS[name].epochs):
        for backbone in backbones:
            for side in pixels:
                long = WORKS[work].epochs
                usual = (IMAGES if long == 1 else LONG_IMAGES).get(side, 64)
                task = Task(work, backbone, side, images or usual, epochs or long, threads)
                peers = widely or (work in PEER_WORKS and (backbone, side) == PEER_CASE)
                chosen = tuple(s for s in sides if peers or s not in PACKAGES)
                chosen = tuple(s for s in chosen if s != "peak" or long == 1)
                yield Case(task, chosen, rounds or ROUNDS[long])


def growth(threads: int, rounds: int | None = None) -> Iterator[Case]:
    """Ours alone, with its cache on disk: more images at 64 pixels, more pixels of 500 images."""
    points = [("fixed features", 64, images) for images in GROWING_IMAGES]
    points += [("fixed features", pixels, 500) for pixels in GROWING_PIXELS]
    points += [("last stage", pixels, 500) for pixels in GROWING_PIXELS]
    for work, pixels, images in points:
        name = f"growth, {work}"
        task = Task(name, "resnet18", pixels, images, WORKS[name].epochs, threads)
        yield Case(task, ("growth",), rounds or GROWTH_ROUNDS)


def overhead(threads: int, rounds: int | None = None) -> Case:
    """``Trainer.fit`` against the barest loop, where the network costs next to nothing."""
    task = Task("overhead", "tiny", 8, BATCH_SIZE * STEPS_OF_OVERHEAD, 1, threads)
    return Case(task, ("overhead",), rounds or ROUNDS[1])
