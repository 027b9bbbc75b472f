"""The figures of the five reports, as they were reported; shares as fractions, times in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Reported:
    """One trained network of one report.

    ``figures`` has the keys of ``measured`` in ``reproduce_reports.py``.
    """

    report: int
    network: str
    strategy: str
    condition: str
    figures: Mapping[str, float]


def _row(
    report: int,
    network: str,
    strategy: str,
    condition: str = "",
    *,
    test: float | None = None,
    train: float | None = None,
    val: float | None = None,
    seconds: float | None = None,
    train_loss: float | None = None,
    val_loss: float | None = None,
    best_val_loss: float | None = None,
    best_epoch: int | None = None,
) -> Reported:
    named = {
        "final train loss": train_loss,
        "best train accuracy": train,
        "final val loss": val_loss,
        "best val accuracy": val,
        "best val loss": best_val_loss,
        "epoch of it": best_epoch,
        "test accuracy": test,
        "seconds": seconds,
    }
    known = {name: value for name, value in named.items() if value is not None}
    return Reported(report, network, strategy, condition, known)


def _full(
    network: str,
    strategy: str,
    condition: str,
    losses: tuple[float, float, float],
    accuracies: tuple[float, float, float],
    best_epoch: int,
    minutes: float | None,
) -> Reported:
    """A row of report 3: train, val and best val loss; train, val and test accuracy."""
    return _row(
        3,
        network,
        strategy,
        condition,
        train_loss=losses[0],
        val_loss=losses[1],
        best_val_loss=losses[2],
        train=accuracies[0],
        val=accuracies[1],
        test=accuracies[2],
        best_epoch=best_epoch,
        seconds=None if minutes is None else 60 * minutes,
    )


REPORTED = (
    _row(1, "googlenet", "fine-tune", train=1.0, val=0.9975, test=0.8075, seconds=240),
    _row(1, "resnet50", "fine-tune", train=1.0, val=0.99, test=0.8175, seconds=600),
    _row(1, "googlenet", "fixed", train=0.9581, val=0.955, test=0.8925, seconds=90),
    _row(1, "resnet50", "fixed", train=0.9675, val=0.9475, test=0.8475, seconds=240),
    _row(2, "resnet50", "fine-tune", "lr 1e-3", test=0.735),
    _row(2, "resnet50", "fine-tune", "lr 5e-4", test=0.8125),
    _row(2, "resnet50", "fine-tune", "dropout 0.5", test=0.8075),
    _row(2, "resnet50", "fixed", "lr 1e-3", test=0.8575),
    _row(2, "resnet50", "fixed", "lr 5e-4", test=0.8575),
    _row(2, "resnet50", "fixed", "dropout 0.5", test=0.85),
    _row(2, "mobilenet_v2", "fine-tune", "lr 1e-3"),
    _row(2, "mobilenet_v2", "fine-tune", "dropout 0.5"),
    _row(2, "mobilenet_v2", "fine-tune", "LR scheduler"),
    _row(2, "mobilenet_v2", "fixed", "lr 1e-3", test=0.785),
    _row(2, "mobilenet_v2", "fixed", "dropout 0.5", test=0.8325),
    _row(2, "mobilenet_v2", "fixed", "LR scheduler", test=0.8225),
    _full("resnext50_32x4d", "from scratch", "", (0.0218, 0.1718, 0.0108),
          (1.0, 0.9963, 0.736), 22, 15),
    _full("resnet101", "from scratch", "", (0.0471, 0.1032, 0.0362),
          (1.0, 0.9819, 0.724), 17, 17),
    _full("resnext50_32x4d", "fine-tune", "V1", (0.00071, 0.0121, 0.0121),
          (1.0, 0.9963, 0.7668), 30, 15),
    _full("resnet101", "fine-tune", "V1", (0.00019, 0.0498, 0.0438),
          (1.0, 0.9840, 0.788), 22, 16),
    _full("resnext50_32x4d", "fine-tune", "V2", (0.00019, 0.0092, 0.0061),
          (1.0, 0.9963, 0.8068), 28, None),
    _full("resnet101", "fine-tune", "V2", (0.00019, 0.0618, 0.0438),
          (1.0, 0.9885, 0.764), 16, None),
    _full("resnext50_32x4d", "fixed", "V1", (0.0899, 0.1066, 0.1066),
          (0.9678, 0.9465, 0.8618), 16, 5),
    _full("resnet101", "fixed", "V1", (0.1031, 0.1183, 0.1154),
          (0.9661, 0.9566, 0.831), 29, 6.5),
    _row(3, "resnet18", "fine-tune", "10 outputs", val=0.998, test=0.765),
    _row(3, "resnet18", "fine-tune", "6 outputs", val=0.9934, test=0.7575),
    _row(3, "resnet18", "fine-tune", "2 outputs", val=0.996, test=0.7725),
    _row(3, "resnet18", "fine-tune", "images plain", test=0.7725, seconds=222),
    _row(3, "resnet18", "fine-tune", "train and val tiled", test=0.7005, seconds=670),
    _row(3, "resnet18", "fine-tune", "train tiled", test=0.805, seconds=581),
    _row(4, "resnet18", "fixed", val=0.95, seconds=64),
    _row(4, "resnet18", "fine-tune", train=1.0, val=0.9925, test=0.7575, seconds=177),
    _row(4, "resnet34", "fixed", val=0.95, seconds=99),
    _row(4, "resnet34", "fine-tune", train=1.0, val=0.99, seconds=281),
    _row(4, "resnet18", "fine-tune", "pooled and split again", val=0.9725, test=0.97),
    _row(5, "resnet18", "fine-tune"),
    _row(5, "resnet18", "fixed"),
    _row(5, "vgg16", "fine-tune"),
    _row(5, "vgg16", "fixed"),
)  # fmt: skip
"""Report 5 gives no figures: it asks for precision, recall and F1 by class, time, and the gap."""
