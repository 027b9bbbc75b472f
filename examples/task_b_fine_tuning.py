"""Task B, fine-tune all layers: the conditions that the reports tried, one change at a time."""

from __future__ import annotations

import transferkit as tk
from _common import EMBEDDED, conditions, draw, parse, versions

ADAM: tk.TrainOptions = {"optimizer": "adam"}
BASELINE = tk.Strategy("fine_tune", name="baseline, lr 1e-3", lr=1e-3, options=ADAM)
SCRATCH = tk.Strategy("from_scratch", name="from scratch", lr=1e-3, options=ADAM)


def main() -> None:
    setting = parse(
        "Task B: fine-tuning all layers",
        backbones=(EMBEDDED, "resnet18"),
        quick_backbones=(EMBEDDED,),
    )
    comparison = setting.compare([*conditions(BASELINE), SCRATCH])
    print(f"{comparison}\n")
    draw(comparison, setting.out)
    pairs = versions(setting.backbones) if setting.weights == "default" else []
    if pairs:  # weights V1 against V2, where the library publishes both
        print(setting.compare([BASELINE], backbones=pairs))


if __name__ == "__main__":
    main()
