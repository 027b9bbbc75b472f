"""Cost and false alarms of all shift tests of an audit together, and what straddling groups do.

    python benchmarks/audit_families.py cost          # over splits and classes
    python benchmarks/audit_families.py null          # audits without a shift, of three kinds
    python benchmarks/audit_families.py straddling    # with a shift, by share of straddling groups

The images are noise whose brightness, the features and the labels may be common to a group.
``--draws`` says how many audits stand behind a rate. An audit alarms where any adjusted p-value is
at most 5 %; tests of shift and of class shares are handed a part of that, their ``BUDGET``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np

from transferkit._format import table
from transferkit.audit.audit_data import AuditData, SplitArrays
from transferkit.audit.checks_shift import distribution_shift, label_shift
from transferkit.audit.label_shift import chi_square_test
from transferkit.audit.mmd import mmd_test
from transferkit.audit.two_sample import SplitPair

ALPHA = 0.05


def audit_data(
    kind: str, sizes: list[int], *, classes: int = 2, width: int = 8, seed: int = 0
) -> AuditData:
    """Splits of one source: of independent images, of whole groups, or cut through groups."""
    rng, total = np.random.default_rng(seed), sum(sizes)
    code = np.arange(total)
    if kind != "independent":
        code = np.repeat(np.arange(total), rng.integers(1, 6, total))[:total]
    features = rng.normal(size=(total, width))[code] + 0.5 * rng.normal(size=(total, width))
    labels = rng.integers(classes, size=total)[code]
    level = 100 + 30 * rng.normal(size=total)[code]
    images = level[:, None, None, None] + 20 * rng.normal(size=(total, 8, 8, 1))
    images = np.clip(images, 0, 255).astype(np.uint8)
    order = rng.permutation(total) if kind == "straddling" else np.arange(total)
    ends = np.cumsum(sizes)[:-1]
    if kind == "groups":
        ends = np.searchsorted(code, code[ends])
    parts = {}
    for i, rows in enumerate(np.split(order, ends)):
        parts[f"s{i}"] = SplitArrays(
            images[rows],
            [f"{row}.png" for row in rows],
            features[rows],
            labels=labels[rows],
            groups=None if kind == "independent" else code[rows].astype(str).tolist(),
        )
    return AuditData(parts, [f"c{k}" for k in range(classes)], seed=seed)


def cost() -> Iterator[tuple[str, ...]]:
    yield "splits x images", "classes", "CPU seconds, shift", "CPU seconds, class shares"
    cases = [([200] * n, 2) for n in (3, 6, 9)] + [([1400, 300, 300], k) for k in (2, 20, 200)]
    for sizes, classes in cases:
        data = audit_data("groups", sizes, classes=classes, width=64)
        seconds = [time.process_time()]
        for check in (distribution_shift, label_shift):
            list(check(data))
            seconds.append(time.process_time())
        said = [f"{value:.1f}" for value in np.diff(seconds)]
        yield f"{len(sizes)}, {sum(sizes)} in all", str(classes), *said


def null(draws: int) -> Iterator[tuple[str, ...]]:
    yield "images", "audits", "alarms of shift", "alarms of class shares"
    for kind in ("independent", "groups", "straddling"):
        alarms = np.zeros(2, np.int64)
        for seed in range(draws):
            data = audit_data(kind, [120, 60, 60], seed=seed)
            for i, check in enumerate((distribution_shift, label_shift)):
                found = [f.p_value for f in check(data) if f.check != "shift_drivers"]
                alarms[i] += any(p is not None and p <= ALPHA for p in found)
        yield kind, str(draws), *map(str, alarms)


def straddling(draws: int) -> Iterator[tuple[str, ...]]:
    yield "groups in both splits", "shift", "features (mmd)", "class shares"
    for share in (0.0, 0.3, 1.0):
        for shift in (0.0, 0.4):
            found = np.zeros(2, np.int64)
            for seed in range(draws):
                rng = np.random.default_rng(seed)
                code = np.repeat(np.arange(100), rng.integers(1, 9, 100))
                both = (rng.random(100) < share)[code]
                first = np.where(both, rng.random(len(code)) < 0.6, (rng.random(100) < 0.6)[code])
                # The second split is moved, and its groups are more often of class 1.
                rows = rng.normal(size=(100, 4))[code] + 0.5 * rng.normal(size=(len(code), 4))
                rows[~first] += shift
                rare = rng.random(100)[code]
                labels = (rare < np.where(first | both, 0.5, 0.5 + shift / 2)).astype(np.int64)
                groups = code[first], code[~first]
                pair = SplitPair.of(rows[first], rows[~first], groups=groups)
                found[0] += mmd_test(pair, seed=seed).p_value <= ALPHA
                shares = chi_square_test(labels[first], labels[~first], groups=groups, seed=seed)
                found[1] += shares.p_value <= ALPHA
            yield f"{share:.0%}", f"{shift}", *(f"{n} of {draws}" for n in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("question", choices=("cost", "null", "straddling"))
    parser.add_argument("--draws", type=int, default=200)
    options = parser.parse_args()
    questions = {"null": null, "straddling": straddling}
    rows = cost() if options.question == "cost" else questions[options.question](options.draws)
    header, *body = rows
    print(table(header, body))


if __name__ == "__main__":
    main()
