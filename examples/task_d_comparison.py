"""Task D, fixed or fine-tuned: side by side with intervals and paired tests, and the quadrant.

The reports end with "the best is a combination of the two": LP-FT, gradual unfreezing and
interpolating the weights are three ways to combine them.
"""

from __future__ import annotations

import json

import transferkit as tk
from _common import EMBEDDED, draw, parse, save_figures

STRATEGIES = [
    tk.Strategy("linear_probe", name="fixed"),
    tk.Strategy("fine_tune", name="fine-tuned", lr=1e-3, options={"optimizer": "adam"}),
    tk.Strategy("lp_ft", name="LP-FT"),
    tk.Strategy("gradual_unfreeze", name="gradual"),
    tk.Strategy("interpolate", name="interpolated"),
]


def main() -> None:
    setting = parse(
        "Task D: fixed against fine-tuned",
        backbones=(EMBEDDED, "resnet18"),
        quick_backbones=(EMBEDDED,),
    )
    curves, advices = {}, {}
    for backbone in setting.backbones:
        advice = tk.advise(
            setting.splits,
            backbone,
            weights=setting.weights_of(backbone),
            image_size=setting.image_size,
            device=setting.device,
        )
        print(f"{advice}\n")
        advices[backbone] = advice.to_dict()
        curves[f"probe_curve_{backbone.replace('/', '_')}"] = advice.curve
    (setting.out / "advice.json").write_text(json.dumps(advices, indent=1))
    save_figures(
        setting.out, lambda: {name: tk.plots.probe_curve(curve) for name, curve in curves.items()}
    )

    comparison = setting.compare(STRATEGIES)
    print(f"{comparison}\n")
    draw(comparison, setting.out)
    print(f"Best on val: {comparison.best.name}.")
    for backbone in dict.fromkeys(row.backbone for row in comparison.rows):
        rows = [f"{backbone}, {strategy.name}" for strategy in STRATEGIES[:2]]
        if set(rows) <= comparison.scores("test").keys():
            print(f"{backbone}, fixed minus fine-tuned on test: {comparison.paired_test(*rows)}")


if __name__ == "__main__":
    main()
