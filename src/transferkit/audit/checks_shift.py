"""Do two splits look alike: in class shares, image statistics, features and outputs?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby
from typing import TypeAlias

import numpy as np
from scipy.special import comb, softmax

from transferkit._format import percent, percent_interval
from transferkit._sampling import group_codes
from transferkit._typing import Float64Array
from transferkit.audit.audit_data import AuditData
from transferkit.audit.domain_classifier import (
    TYPICAL_SHARE,
    domain_classifier_test,
    without_typical,
)
from transferkit.audit.finding import Evidence, Finding
from transferkit.audit.kolmogorov_smirnov import ks_test
from transferkit.audit.label_shift import chi_square_test
from transferkit.audit.mmd import mmd_test
from transferkit.audit.two_sample import SplitPair, TwoSampleResult, family_p_values
from transferkit.metrics.intervals import share_interval

FEWEST = 2
"""Images that a split, or a class in it, must have to be compared."""

ShiftTest: TypeAlias = Callable[..., TwoSampleResult]
TEST_NAMES: dict[str, str] = {
    "ks": "the Kolmogorov-Smirnov test",
    "mmd": "maximum mean discrepancy",
    "domain_classifier": "a domain classifier",
}


def label_shift(data: AuditData) -> Iterator[Finding]:
    """Splits in which the classes are not equally common."""
    pairs = list(combinations(data.labels, 2)) if len(data.classes) > 1 else []
    for a, b in pairs:
        yield _label_shift(data, a, b, comparisons=data.comparisons("label_shift", len(pairs)))


def _label_shift(data: AuditData, a: str, b: str, *, comparisons: float) -> Finding:
    groups = None if data.groups is None else (data.groups[a], data.groups[b])
    # The smallest permutation p-value, times the comparisons, must stay below alpha.
    enough = max(1999, round(2 * comparisons / data.alpha) - 1)
    test = chi_square_test(
        data.labels[a], data.labels[b], groups=groups, permutations=enough, seed=data.seed
    )
    counts = np.array([data.class_counts[split] for split in (a, b)])
    shares_a, shares_b = counts / counts.sum(axis=1, keepdims=True)
    changed = np.argsort(-np.abs(shares_b - shares_a), kind="stable")  # the most first
    most = changed[0]
    p_value = min(1.0, test.p_value * comparisons)
    severity = data.config.label_shift.severity(
        test.effect, interval=test.interval, p_value=p_value, alpha=data.alpha
    )
    verdict = "differ" if p_value <= data.alpha else "do not differ beyond chance"
    return Finding(
        check="label_shift",
        severity=severity,
        splits=(a, b),
        statistic=test.statistic,
        p_value=p_value,
        effect=test.effect,
        interval=test.interval,
        message=f"Class shares {verdict}: {data.classes[most]} makes up "
        f"{percent(float(shares_a[most]))} of {a} and {percent(float(shares_b[most]))} of {b}.",
        evidence=tuple(
            _class_share(data, split, int(k))
            for k in changed[: max(1, data.config.evidence // 2)]
            for split in (a, b)
        ),
        advice=""
        if severity == "info"
        else "Compare recalls or balanced accuracy, or reweight the classes.",
    )


def _class_share(data: AuditData, split: str, k: int) -> Evidence:
    """The share of a class in a split, with its interval."""
    groups = None
    if data.groups is not None:
        groups = group_codes(data.groups[split], len(data.splits[split]))
    member = (data.labels[split] == k).astype(np.float64)
    said = percent_interval(float(member.mean()), share_interval(member, groups))
    return Evidence((), f"{data.classes[k]}: {said} of {split}")


def distribution_shift(data: AuditData) -> Iterator[Finding]:
    """Splits that differ in image statistics, features or outputs, and the images that drive it."""
    level = data.alpha / data.comparisons("shift", 1)
    scopes: list[ScopeShift] = []
    for pair in data.pairs:
        if not testable(pair, level):
            yield _too_few(pair)
            continue
        views = _views(data, pair)
        for check, view, tests in views:
            scopes += shift_tests(
                view,
                check=check,
                classes=data.classes,
                tests=tests,
                level=level,
                confidence=1 - level / (len(data.pairs) * len(views)),
                seed=data.seed,
            )
    found = corrected(scopes, factor=data.comparisons("shift", 1))
    for _, some in groupby(found, lambda scope: (scope.check, scope.pair.splits)):
        yield from _findings(data, list(some))


def _views(data: AuditData, pair: SplitPair) -> list[tuple[str, SplitPair, list[ShiftTest]]]:
    """What a pair is compared by: the check, its columns and its tests."""
    values = {name: np.column_stack([*data.statistics[name].values()]) for name in pair.splits}
    names = tuple(data.statistics[pair.splits[0]])
    views: list[tuple[str, SplitPair, list[ShiftTest]]] = [
        ("statistics_shift", pair.described_by(values, names), [ks_test]),
        ("embedding_shift", pair, [mmd_test, domain_classifier_test]),
    ]
    outputs = {
        name: softmax(logits, axis=1)[:, 1:]  # the first class is one less the others
        for name in pair.splits
        if (logits := data.splits[name].logits) is not None
    }
    if len(outputs) == 2:
        names = tuple(f"p({name})" for name in data.classes[1:])
        views.append(("output_shift", pair.described_by(outputs, names), [ks_test]))
    return views


def _too_few(pair: SplitPair) -> Finding:
    (a, b), (n_a, n_b) = pair.splits, pair.units
    units = "images" if pair.groups is None else "groups"
    return Finding(
        check="shift",
        severity="warning",
        splits=pair.splits,
        message=f"{a} and {b} hold {n_a} and {n_b} {units}, too few to show any shift.",
        advice=f"Gather more {units}; until then nothing says that the splits are alike.",
    )


def testable(pair: SplitPair, level: float) -> bool:
    """Whether a pair has two units at least, and permutations enough for a p-value of ``level``."""
    first, second = pair.units
    if min(pair.n_a, pair.n_b) < FEWEST or (pair.groups is not None and not pair.groups.any()):
        return False
    return bool(comb(first + second, first) * level >= 1)


@dataclass(frozen=True, slots=True, eq=False)
class ScopeShift:
    """The tests of all images of a pair, or of those of one class."""

    check: str
    class_name: str | None  # None for all images
    pair: SplitPair
    tests: list[TwoSampleResult]
    untested: int = 0  # classes that hold too few images

    @property
    def p_value(self) -> float:
        """Smallest p-value."""
        return min(test.p_value for test in self.tests)

    @property
    def effect(self) -> float:
        """Largest effect among the tests, as far as its interval proves it."""
        return max(test.interval[0] for test in self.tests)

    def telling(self, alpha: float) -> TwoSampleResult:
        """Of the tests that reject, that of the largest proven effect; else of the smallest p."""
        rejecting = [test for test in self.tests if test.p_value <= alpha]
        if rejecting:
            return max(rejecting, key=lambda test: test.interval[0])
        return min(self.tests, key=lambda test: test.p_value)


def shift_tests(
    pair: SplitPair,
    *,
    check: str = "shift",
    classes: Sequence[str] = (),
    tests: Sequence[ShiftTest],
    level: float = 0.05,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[ScopeShift]:
    """Test two splits over all images and, if they have labels, within each class.

    P-values are those of each test alone: see :func:`corrected`.
    """
    parts: list[tuple[str | None, SplitPair]] = [(None, pair)]
    if pair.labels is not None:
        within = ((name, pair.take(pair.labels == k)) for k, name in enumerate(classes))
        parts += [(name, part) for name, part in within if testable(part, level)]
    # The smallest p-value, 1 / (1 + B), must stay below the level.
    permutations = max(499, round(4 / level) - 1)
    untested = 0 if pair.labels is None else len(classes) + 1 - len(parts)
    return [
        ScopeShift(
            check,
            name,
            part,
            [
                test(part, permutations=permutations, confidence=confidence, seed=seed)
                for test in tests
            ],
            untested if name is None else 0,
        )
        for name, part in parts
    ]


def corrected(scopes: Sequence[ScopeShift], *, factor: float = 1.0) -> list[ScopeShift]:
    """Correct all p-values for one another, and by Bonferroni for ``factor`` other tests."""
    every = family_p_values([test for scope in scopes for test in scope.tests]) * factor
    remaining = iter(np.minimum(every, 1.0).tolist())
    return [
        replace(scope, tests=[replace(test, p_value=next(remaining)) for test in scope.tests])
        for scope in scopes
    ]


def located(scopes: Sequence[ScopeShift], alpha: float) -> list[str]:
    """The classes in which a shift lies, the most shifted first."""
    # Their proven effect is at least half of the largest: with many images some small shift is
    # found in every class.
    within = [
        (scope.class_name, scope.effect)
        for scope in scopes
        if scope.class_name is not None and scope.p_value <= alpha
    ]
    largest = max((effect for _, effect in within), default=0.0)
    ordered = sorted(within, key=lambda one: -one[1])
    return [name for name, effect in ordered if effect >= largest / 2]


def _findings(data: AuditData, scopes: Sequence[ScopeShift]) -> Iterator[Finding]:
    """One finding for all images of the pair, one for each class, and one on what drives it."""
    classes = located(scopes, data.alpha)
    for scope in scopes:
        yield _scope_finding(data, scope, classes)
    for test in scopes[0].tests:
        if test.typical is not None and scopes[0].p_value <= data.alpha:
            yield _drivers(data, scopes[0].pair, test.typical)


def _scope_finding(data: AuditData, scope: ScopeShift, classes: Sequence[str]) -> Finding:
    test = scope.telling(data.alpha)
    severity = data.config.shift.severity(
        test.effect, interval=test.interval, p_value=test.p_value, alpha=data.alpha
    )
    a, b = scope.pair.splits
    images = "images" if scope.class_name is None else f"{scope.class_name} images"
    if test.p_value > data.alpha:
        message = f"No shift between the {images} of {a} and {b}."
        if scope.pair.groups is not None and sum(scope.pair.units) > scope.pair.groups.max() + 1:
            message += " Groups that lie in both make this test cautious."
    else:
        method = TEST_NAMES[test.test] + (f" ({test.note})" if test.note else "")
        little = ", but by little" if severity == "info" else ""
        message = f"The {images} of {b} differ from those of {a}{little}, says {method}."
        if scope.class_name is None and classes:
            spread = len(classes) == len(data.classes) > 1
            in_class = "in every class" if spread else f"mostly in class {' and '.join(classes)}"
            message += f" The shift lies {in_class}."
    if scope.untested:
        message += f" {scope.untested} of {len(data.classes)} classes hold too few to be tested."
    return Finding(
        check=scope.check,
        severity=severity,
        splits=scope.pair.splits,
        class_name=scope.class_name,
        statistic=test.statistic,
        p_value=test.p_value,
        effect=test.effect,
        interval=test.interval,
        message=message,
        evidence=tuple(_changed_columns(data, scope.tests))[: data.config.evidence],
        advice=""
        if severity == "info"
        else f"Find out how {a} and {b} were collected: a model of one may fail on the other.",
    )


def _changed_columns(data: AuditData, tests: Sequence[TwoSampleResult]) -> Iterator[Evidence]:
    """The columns whose own test rejects, the most distant first."""
    per_column = data.comparisons("shift", 3 * len(data.pairs))
    for columns in filter(None, (test.columns for test in tests)):
        for i in np.argsort(-columns.distances, kind="stable").tolist():
            if columns.adjusted[i] * per_column <= data.alpha:
                rose = "higher" if columns.superiority[i] > 0.5 else "lower"
                note = f"{columns.names[i]} {rose} in the second split, distance"
                yield Evidence((), f"{note} {columns.distances[i]:.2f}")


def _drivers(data: AuditData, pair: SplitPair, typical: Float64Array) -> Finding:
    """The images that a shift of the features rests on, and what is left of it without them."""
    half = max(1, data.config.evidence // 2)
    evidence = [
        Evidence((data.splits[split].names[own[row]],), f"typical of {split}")
        for split, own, scores in (
            (pair.splits[0], pair.rows[: pair.n_a], typical[: pair.n_a]),
            (pair.splits[1], pair.rows[pair.n_a :], typical[pair.n_a :]),
        )
        for row in np.argsort(-scores, kind="stable")[:half].tolist()
    ]
    left = without_typical(pair, seed=data.seed)
    effect, p_value, gone = left or (None, None, None)
    message = "These images are the most typical of either side."
    if gone is not None:
        message = (
            f"Without the {percent(TYPICAL_SHARE, digits=0)} of images most typical of either "
            f"side, {percent(gone, digits=0)} of the shift is gone."
        )
    return Finding(
        check="shift_drivers",
        severity="info",
        splits=pair.splits,
        statistic=effect,
        p_value=p_value,
        effect=gone,
        message=message,
        evidence=tuple(evidence),
        advice="Look at both rows of pictures: what tells them apart is what shifted.",
    )
