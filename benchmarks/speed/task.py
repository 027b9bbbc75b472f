"""What is to be done: the same words for the harness and for every side."""

from __future__ import annotations

from dataclasses import dataclass

BATCH_SIZE = 32
LEARNING_RATE = 1e-3
CLASSES = 2


@dataclass(frozen=True, slots=True)
class Work:
    """A kind of work.

    Attributes:
        trained: What learns: everything, the last stage and the head, or the head.
        epochs: Epochs of one round, with a pass over val after each.
        augmented: Whether training images are flipped and cropped at random.
    """

    trained: str
    epochs: int
    augmented: bool = False


WORKS = {
    "fine-tune all": Work("all", 1),
    "fixed features": Work("head", 30),
    "fixed, augmented": Work("head", 1, augmented=True),
    "last stage": Work("last stage", 30),
    "growth, fixed features": Work("head", 30),
    "growth, last stage": Work("last stage", 1),
    "overhead": Work("all", 1),
}
COMPARED = ("fine-tune all", "fixed features", "fixed, augmented", "last stage")
"""The works of the table against the loop; the others are ours alone."""

LAST_STAGE = {
    "resnet18": ("layer4", "fc"),
    "mobilenet_v2": ("features.17", "features.18", "classifier"),
}
HEADS = {"resnet18": "fc", "mobilenet_v2": "classifier"}


@dataclass(frozen=True, slots=True)
class Task:
    """One work on one network and one set of images."""

    work: str
    backbone: str
    pixels: int
    images: int
    epochs: int
    threads: int = 2

    @property
    def trained(self) -> str:
        """What learns."""
        return WORKS[self.work].trained

    @property
    def augmented(self) -> bool:
        """Whether training images are changed at random."""
        return WORKS[self.work].augmented

    @property
    def held_out(self) -> int:
        """Images of val."""
        return self.images // 4
