"""Does the audit find planted label errors, and which labels does it doubt where none is wrong?

    python benchmarks/audit_labels.py           # digits and phantoms, flips of 0, 1, 5 and 10 %
    python benchmarks/audit_labels.py DATA      # and a folder of splits such as kermany224
    python benchmarks/audit_labels.py --quick   # digits only

Phantoms (and DATA) are described by the backbone in the box. A flipped label is any other class's.
Precision and recall are those of confident learning, over all classes and in the class where each
is lowest; the share of wrong labels is that of the audit, with its 95 % interval, and p is that of
at most 1 % being wrong. Writes benchmarks/results/audit_labels.md. Without flips, the labels that
DATA is given with may be wrong themselves.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

import transferkit as tk
from transferkit._format import table
from transferkit.audit.label_errors import (
    confident_errors,
    noise_rate,
    out_of_fold_probabilities,
)
from transferkit.data.splits import Splits
from transferkit.workflows.audit import audit_data

RESULTS = Path(__file__).parent / "results"
TITLES = ("data", "images", "flipped", "doubted", "precision (worst class)")
TITLES += ("recall (worst class)", "wrong labels, %", "p")


def embedded(splits: Splits) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features and labels of all splits together."""
    parts = audit_data(splits).splits.values()
    labels = [part.labels for part in parts if part.labels is not None]
    return np.concatenate([part.features for part in parts]), np.concatenate(labels)


def shares(hit: NDArray[np.bool_], of: NDArray[np.bool_], classes: NDArray[np.int64]) -> str:
    """Share of ``of`` that is hit, over all, and in the class where it is lowest."""
    if not of.any():
        return "-"
    each = [hit[of & (classes == k)].mean() for k in np.unique(classes[of])]
    return f"{100 * hit[of].mean():.0f} % ({100 * min(each):.0f} %)"


def row(title: str, features: NDArray, labels: NDArray[np.int64], rate: float) -> list[str]:
    """Flip a share of the labels, and look for them."""
    rng, count = np.random.default_rng(0), len(labels)
    classes = int(labels.max()) + 1
    flipped = rng.random(count) < rate
    given = np.where(flipped, (labels + rng.integers(1, classes, count)) % classes, labels)
    alone = np.arange(count)
    probabilities = out_of_fold_probabilities(features, given, classes, alone, seed=0)
    doubted, _ = confident_errors(probabilities, given)
    wrong = noise_rate(probabilities, given, alone)
    low, high = (100 * bound for bound in wrong.interval)
    return [
        title,
        str(count),
        f"{100 * rate:.0f} %",
        str(doubted.sum()),
        shares(flipped, doubted, given),
        shares(doubted, flipped, given),
        f"{100 * wrong.value:.1f} [{low:.1f}, {high:.1f}]",
        f"{wrong.p_value:.1g}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", nargs="?", help="a folder of splits")
    parser.add_argument("--quick", action="store_true", help="digits only")
    options = parser.parse_args()
    sets = {"digits": load_digits(return_X_y=True)}
    if not options.quick:
        phantoms = tk.phantom_splits(sizes=(1200, 300, 300), image_size=64, shift=0, seed=3)
        sets["phantoms"] = embedded(phantoms)
    if options.data:
        sets[Path(options.data).stem] = embedded(tk.load_splits(options.data, image_size=64))
    rows = [row(title, *sets[title], rate) for title in sets for rate in (0, 0.01, 0.05, 0.1)]
    words = [f".../{Path(word).name}" if "/" in word else word for word in sys.argv[1:]]
    command = " ".join(["python benchmarks/audit_labels.py", *words])
    text = f"    {command}\n\n```text\n{table(TITLES, rows)}\n```\n"
    if not options.quick:
        RESULTS.joinpath("audit_labels.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
