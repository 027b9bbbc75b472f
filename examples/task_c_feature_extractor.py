"""Task C, the network as a fixed feature extractor: Task B's conditions, frozen; the time saved.

A frozen network is the same for every epoch, so its features are computed once: that is where the
time goes that fine-tuning takes.
"""

from __future__ import annotations

import transferkit as tk
from _common import EMBEDDED, conditions, draw, parse, versions, write_table

ADAM: tk.TrainOptions = {"optimizer": "adam"}
BASELINE = tk.Strategy("linear_probe", name="baseline, lr 1e-3", lr=1e-3, options=ADAM)
FINE_TUNE = tk.Strategy("fine_tune", name="all layers", lr=1e-3, options=ADAM)


def main() -> None:
    setting = parse(
        "Task C: the fixed feature extractor",
        backbones=(EMBEDDED, "resnet18"),
        quick_backbones=(EMBEDDED,),
    )
    comparison = setting.compare([*conditions(BASELINE), FINE_TUNE])
    print(f"{comparison}\n")
    draw(comparison, setting.out)

    full = {row.backbone: row for row in comparison.rows if row.strategy == FINE_TUNE.name}
    rows = []
    for row in comparison.rows:
        whole = full[row.backbone]
        if row is whole or row.seconds is None or whole.seconds is None:
            continue
        # a second an epoch, as the two may run for other numbers of epochs
        ratio = (whole.seconds / epochs_of(comparison, whole.name)) / (
            row.seconds / epochs_of(comparison, row.name)
        )
        rows.append([row.name, f"{row.seconds:.1f} s", f"{ratio:.1f}x", f"{row.trained:,}"])
    header = ("network, condition", "time", "faster an epoch than all layers", "trained")
    write_table(setting.out, "time_saved", header, rows)
    pairs = versions(setting.backbones) if setting.weights == "default" else []
    if pairs:
        print(setting.compare([BASELINE], backbones=pairs))


def epochs_of(comparison: tk.Comparison, row: str) -> int:
    return len(comparison.histories()[row])


if __name__ == "__main__":
    main()
