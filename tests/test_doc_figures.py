"""Every figure that the documentation quotes is that of a committed result.

A sentence with figures is made here from the result, and must stand on its page; a figure that
remains on a page is a setting that is named below, or an error. Tables are made again from the
results, by the commands that made them.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
from importlib import import_module
from math import log, sqrt
from pathlib import Path

import numpy as np
import pytest

import transferkit as tk
from transferkit.audit.finding import BUDGET

ROOT = Path(__file__).resolve().parents[1]
DOCS, RUNS, BENCHMARKS = ROOT / "docs", ROOT / "docs" / "results", ROOT / "benchmarks"
if not BENCHMARKS.is_dir() or not DOCS.is_dir():
    pytest.skip("documentation and benchmarks are not here", allow_module_level=True)
RESULTS = BENCHMARKS / "results"

UNITS = r"%|points?|times|seconds|CPU seconds|minutes|ms|ns|s|kB|MB|GB|in \d+|of \d+"
NUMBER = r"\d[\d,]*(?:\.\d+)?"
FIGURE = re.compile(
    rf"(?<![\w./-]){NUMBER}(?:(?: to | and |, ){NUMBER})*\s(?:{UNITS})(?!\w)"
    r"|(?<![\w./-])\d*\.\d+(?![\w.])"
)
SETTINGS = {
    "README.md": ["3.11"],
    "audit.md": ["99 %", "80 %", "5 %"],
    "comparing.md": ["5 %"],
    "coverage.md": ["0.1 %", "2 GB"],
    "intervals.md": ["95 %"],
    "loading.md": ["20 GB", "16 MB"],
    "model_card.md": ["0.05", "0.002", "0.5, deviation 0.25", "0.5", "0.25", "50 and 1000 of 128"],
    "results.md": ["4.0", "1.1", "95 %"],
    "speed.md": ["1.1"],
}
"""Figures that are no results: settings, versions, licences, figures of speech."""


def table(name: str) -> dict[str, dict[str, str]]:
    """Rows of a comparison by network and strategy; by strategy where there is one network."""
    with (RUNS / name).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    several = len({row["backbone"] for row in rows}) > 1
    key = "{backbone} {strategy}" if several else "{strategy}"
    return {key.format(**row).removeprefix("torchvision/"): row for row in rows}


def points(value: float) -> str:
    return f"{100 * value:.1f}"


def span(values: list[float], digits: int = 1) -> str:
    return f"{100 * min(values):.{digits}f} to {100 * max(values):.{digits}f}"


def on_test(row: dict[str, str]) -> float:
    return float(row["test_accuracy"])


def on_val(row: dict[str, str]) -> float:
    return float(row["val_accuracy"])


def of_results() -> list[str]:
    b, c = table("task_b_mobilenet_v2.csv"), table("task_c.csv")
    mobile, d, e = table("task_c_mobilenet_v2.csv"), table("task_d.csv"), table("task_e.csv")
    pretrained = [row for name, row in b.items() if name != "from scratch"]
    vals = [on_val(row) for row in pretrained]
    largest = max(float(row["test_deviation"]) for row in table("task_b.csv").values())
    below = [on_val(row) - on_test(row) for row in pretrained]
    above = [on_test(row) - on_test(b["from scratch"]) for row in pretrained]
    dropout = on_test(c["dropout 0.5"]) - on_test(c["baseline, lr 1e-3"])
    with (RUNS / "task_c_time_saved.csv").open(encoding="utf-8", newline="") as file:
        saved = [
            float(row["faster an epoch than all layers"][:-1])
            for row in csv.DictReader(file)
            if not row["network, condition"].endswith("all layers")
        ]
    fixed = [
        on_test(r) - on_test(mobile["all layers"]) for n, r in mobile.items() if n != "all layers"
    ]
    with (RUNS / "task_e_by_class.csv").open(encoding="utf-8", newline="") as file:
        recalls: dict[str, list[float]] = {}
        for row in csv.DictReader(file):
            recalls.setdefault(row["network, strategy"], []).append(float(row["recall"]))
    seeds = [sum(recalls[f"torchvision/squeezenet1_1, fine-tuned, seed {n}"]) / 2 for n in range(3)]
    collapsed, *trained = sorted(seeds)
    lead = {
        pair: on_test(d[pair[0]]) - on_test(d[pair[1]])
        for pair in (
            ("squeezenet1_1 fixed", "squeezenet1_1 fine-tuned"),
            ("squeezenet1_1 LP-FT", "squeezenet1_1 fixed"),
            ("mobilenet_v2 fixed", "mobilenet_v2 fine-tuned"),
        )
    }
    first, second, third = map(points, lead.values())
    ahead = on_val(d["mobilenet_v2 fine-tuned"]) - on_val(d["mobilenet_v2 fixed"])
    looks = sum(len(row["seeds"].split()) for row in d.values())
    error = max(sqrt(on_test(row) * (1 - on_test(row)) / 400) for row in d.values())
    bias = error * sqrt(2 * log(looks))
    advice = json.loads((RUNS / "task_d_advice.json").read_text("utf-8"))
    removed = [100 * advice[n]["evidence"][4]["value"] for n in ("squeezenet1_1", "mobilenet_v2")]
    places = [advice[n]["similarity"] for n in ("squeezenet1_1", "mobilenet_v2")]
    assert places == ["dissimilar", "similar"]
    sd = [
        100 * float(e[name]["test_deviation"]) for name in ("fine-tuned, augmented", "fine-tuned")
    ]
    tuned = table("task_e_mobilenet_v2.csv")
    augmented = on_test(tuned["fine-tuned, augmented"]) - on_test(tuned["fine-tuned"])
    return [
        f"an sd of {100 * largest:.0f} points",
        f"val lies between {span(vals).replace('to', 'and')} %",
        f"and test {span(below, 0)} points below it",
        f"Pretraining is worth {span(above, 0)} points on test",
        f"the fixed extractor gains {points(dropout)} points on test",
        f"{min(saved)} to {max(saved)} times as fast as one of all layers",
        f"by {span(fixed)} points",
        f"SqueezeNet's fixed extractor is {first} points above its fine-tuning",
        f"one seed of three that collapsed to {100 * collapsed:.0f} %",
        f"its LP-FT {second} points above the fixed extractor",
        f"MobileNetV2's fixed extractor is {third} points above its fine-tuning",
        f"fine-tuning is {points(ahead)} points better on val",
        f"two seeds that trained reach {points(max(trained))} and {points(min(trained))} %",
        f"removes {removed[0]:.0f} and {removed[1]:.0f} % of a probe's errors",
        f"{looks} tested models of this table make up to {points(bias)} points of flattery",
        f"(sd {sd[0]:.1f} instead of {sd[1]:.1f})",
        f"by {points(augmented)} points on test",
        *of_the_gap(),
    ]


def of_the_gap() -> list[str]:
    gap = json.loads((RUNS / "task_e_gap.json").read_text("utf-8"))
    normal, pneumonia = gap["classes"]

    def share(value: float, ends: list[float]) -> str:
        return f"{points(value)} % [{points(ends[0])}, {points(ends[1])}]"

    def estimate(part: dict[str, object]) -> str:
        return share(part["value"], part["interval"]).replace(" %", " points")

    assert gap["worst_class"] == "NORMAL"
    assert gap["parts"]["prior shift"]["value"] == gap["parts"]["within PNEUMONIA"]["value"] == 0
    return [
        f"val {share(gap['val_score'], gap['val_interval'])}",
        f"test {share(gap['test_score'], gap['test_interval'])}",
        f"a gap of {estimate(gap['gap'])}. All of it lies within NORMAL",
        f"falls from {points(normal['val_recall'])} to {points(normal['test_recall'])} %",
        f"PNEUMONIA stays at {points(pneumonia['test_recall'])} %; prior shift is 0",
        f"would bring back {estimate(gap['threshold'])}",
        f"test is {share(gap['reshuffled']['score'], gap['reshuffled']['interval'])}",
        f"Val and test in each other's place: {points(gap['swap']['chosen_on_test'])} %",
    ]


def of_the_audit() -> list[str]:
    with (RESULTS / "audit_peers.csv").open(encoding="utf-8", newline="") as file:
        alarms = [
            int(row["detections"]) / int(row["draws"])
            for row in csv.DictReader(file)
            if (row["library"], row["dataset"], row["shift"]) == ("scipy", "relu", "none")
        ]
    assert BUDGET["shortcut"] == BUDGET["image_size_shift"]
    names = ("shift", "gap", "reshuffle", "label_shift", "shortcut")
    shift, gap, reshuffle, classes, files = (f"{100 * BUDGET[name]:.0f} %" for name in names)
    return [
        f"the tests of shift may spend {shift}, the gap {gap}",
        f"the reshuffle experiment {reshuffle}",
        f"class shares {classes}, image sizes and shortcuts {files} each",
        f"label errors {100 * BUDGET['label_errors']:.0f} %",
        f"it rejects in {span(alarms, 0)} % of the draws without shift",
    ]


def of_the_model_card() -> list[str]:
    found: dict[tuple[str, ...], list[dict[str, str]]] = {}
    with (RESULTS / "embedded_backbone.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key = tuple(row[name] for name in ("dataset", "side", "shots", "mode", "network"))
            found.setdefault(key, []).append(row)

    def mean(key: tuple[str, ...], split: str = "test") -> float:
        return float(np.mean([float(row[f"{split}_accuracy"]) for row in found[key]]))

    ratios = [
        mean(key) / mean((*key[:4], "ImageNet squeezenet1_1"))
        for key in found
        if key[3:] == ("probe", "embedded") and key[0] != "digits"
    ]
    few = ("kermany224", "64", "200")
    own, squeeze, mobile = (
        points(mean((*few, "tune", network)))
        for network in ("embedded", "ImageNet squeezenet1_1", "ImageNet mobilenet_v2")
    )
    probe = points(mean((*few, "probe", "embedded")))
    return [
        f"its probes reach {span(ratios)} % of the ImageNet SqueezeNet's",
        f"stays at {100 * mean((*few, 'tune', 'embedded'), 'val'):.0f} % on images like those",
        f"falls to {own} % on the shifted test split",
        f"SqueezeNet ({squeeze} %), MobileNetV2 ({mobile} %) and its own probe ({probe} %)",
    ]


def of_comparing() -> list[str]:
    lines = (RESULTS / "ranking.md").read_text("utf-8").splitlines()[2:]
    rows = [line.strip("| ").split(" | ") for line in lines]
    ten = [row for row in rows if row[2] == "10"]
    equal, better = ([int(row[place].split(" %")[0]) for row in ten] for place in (4, 5))
    return [
        f"over 95 % sure in {min(equal)} to {max(equal)} % of the draws",
        f"10 % would be right), and the better of two in {min(better)} to {max(better)} %",
    ]


MADE = {
    "audit.md": of_the_audit,
    "comparing.md": of_comparing,
    "model_card.md": of_the_model_card,
    "results.md": of_results,
}


def prose(page: Path) -> str:
    """The page without code, tables and what a command puts between its marks; one line."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!-- made by.*?<!-- end of what is made -->", "", text, flags=re.DOTALL)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    return " ".join(re.sub(r"`[^`]*`|\]\([^)]*\)", "", text).split())


@pytest.mark.parametrize("name", [*(path.name for path in sorted(DOCS.glob("*.md"))), "README.md"])
def test_figures_in_prose_are_those_of_the_results(name: str) -> None:
    text = prose(ROOT / name if name == "README.md" else DOCS / name)
    for sentence in MADE[name]() if name in MADE else ():
        assert sentence in text
        text = text.replace(sentence, "")
    left = {match.group() for match in FIGURE.finditer(text)}
    assert left <= set(SETTINGS.get(name, ()))


def test_facts_of_the_model_card_are_those_of_the_network() -> None:
    card = (DOCS / "model_card.md").read_text("utf-8")
    spec = tk.get_backbone_spec("transferkit/formula_resnet18")
    (file,) = (ROOT / "src" / "transferkit" / "backbones").glob("formula_resnet18.safetensors")
    size = f"{file.stat().st_size / 1e6:.1f} MB"
    assert f"| Size | {spec.num_params:,} parameters; {size} as float16" in card
    assert f"| Features | {spec.feature_dim}: " in card
    families = re.findall(r"^\| [a-z ]+ \| (\d+) \|", card, flags=re.MULTILINE)
    assert f"{sum(map(int, families))} classes of 96 grey images" in card


@pytest.mark.slow
def test_the_gap_on_the_page_is_the_one_found_now(shared_path: Path) -> None:
    splits = tk.load_splits(shared_path / "data" / "kermany224", image_size=64)
    found = tk.explain_gap(splits, seeds=range(10)).to_dict()
    kept = json.loads((RUNS / "task_e_gap.json").read_text("utf-8"))
    for name in ("val_score", "test_score"):
        assert found[name] == pytest.approx(kept[name], abs=0.005)
    for name in ("gap", "threshold"):
        assert found[name]["value"] == pytest.approx(kept[name]["value"], abs=0.01)
        assert found[name]["interval"] == pytest.approx(kept[name]["interval"], abs=0.01)


COLUMNS = ("best_train_accuracy", "final_val_loss", "best_val_accuracy")


def cells(row: dict[str, str]) -> list[str]:
    """The row of a table on the page of results, from its strategy on."""
    train, loss, val = (float(row[name]) for name in COLUMNS)
    test, low, high, sd = (
        float(row[f"test_{part}"]) for part in ("accuracy", "low", "high", "deviation")
    )
    shown = (
        f"{points(test)} % [{points(low)}, {points(high)}]",
        points(sd),
        f"{int(row['trained']):,}",
    )
    return [row["strategy"], f"{points(train)} %", f"{loss:.3f}", f"{points(val)} %", *shown]


def test_tables_of_results_are_those_of_the_files() -> None:
    page = (DOCS / "results.md").read_text("utf-8")
    shown = [line for line in page.splitlines() if line.startswith("|") and " % [" in line]
    rows = [line.strip("| ").split(" | ")[-7:] for line in shown]  # task D has a first column more
    files = [path.name for path in RUNS.glob("task_*.csv") if "final_val_loss" in path.read_text()]
    made = [cells(row) for name in files for row in table(name).values()]
    assert sorted(rows) == sorted(made)


def test_answers_on_the_audit_page_are_in_the_files_that_they_name() -> None:
    section = (DOCS / "audit.md").read_text("utf-8").split("### Copies and costs")[1]
    rows = [line.split("|")[1:4] for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 6
    file = ""
    for _, answer, source in rows:
        file = re.findall(r"`(\w+\.md)`", source)[0] if ".md`" in source else file
        known = (RESULTS / file).read_text("utf-8").replace(",", "")
        for number in re.findall(NUMBER, answer.replace(" 000", "000")):
            assert re.search(rf"(?<![\d.]){number.replace(',', '')}(?![\d.]\d)", known), (
                file,
                number,
            )


def made_again(name: str, copy: Path) -> None:
    """Make anew what stands between the marks of a page, from the results."""
    if name == "audit.md":
        import_module("audit_tables").write_tables(copy, copy.parent)
    elif name == "intervals.md":
        import_module("interval_coverage").write_tables(copy)
    elif name == "speed.md":
        page = import_module("speed.page")
        page.write_page(RESULTS / "speed.csv", copy, copy.parent / "speed.svg")
    else:
        summary, weights = import_module("coverage_summary"), import_module("weights_paths")
        summary.write_summary(DOCS / "data" / "coverage.csv", copy)
        summary.put(copy, weights.START, weights.summary())


@pytest.mark.parametrize("name", ["audit.md", "coverage.md", "intervals.md", "speed.md"])
def test_what_commands_put_on_a_page_is_what_they_would_put_now(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    copy = Path(shutil.copy(DOCS / name, tmp_path))
    made_again(name, copy)
    assert copy.read_text("utf-8") == (DOCS / name).read_text("utf-8")
    for table_file in tmp_path.glob("audit_*.md"):
        assert table_file.read_text("utf-8") == (RESULTS / table_file.name).read_text("utf-8")
