"""The shift check: do two splits look alike, as a whole and within each class?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike

from transferkit._format import percent, percent_interval, plain, table
from transferkit._typing import JSON, BoolArray, FloatArray
from transferkit._validation import (
    check_classes,
    check_labels,
    check_probabilities,
    check_same_length,
    check_share,
)
from transferkit.audit.domain_classifier import DomainClassifierResult, domain_classifier_test
from transferkit.audit.finding import AuditConfig, Evidence, Finding
from transferkit.audit.forecast import AccuracyForecast
from transferkit.audit.kolmogorov_smirnov import FeatureTests, ks_tests
from transferkit.audit.label_shift import LabelShiftResult
from transferkit.audit.label_shift_estimation import PriorEstimate
from transferkit.audit.mmd import energy_test, mmd_test
from transferkit.audit.shift_drivers import Drivers
from transferkit.audit.two_sample import Groups, Pair, TwoSampleResult, check_pair
from transferkit.errors import ConfigError, DataError
from transferkit.metrics.multiple_testing import Correction, adjust

ShiftTest: TypeAlias = Literal["ks", "mmd", "energy", "domain_classifier"]
Outcome: TypeAlias = "TwoSampleResult | FeatureTests | DomainClassifierResult"

FEWEST = 2
"""Rows that a class must have in both samples to be compared."""


@dataclass(frozen=True, slots=True, eq=False)
class ScopeShift:
    """The tests of one scope: all rows, or those of one class.

    Attributes:
        class_name: The class, or None for all rows.
        n_a: Rows of the first sample.
        n_b: Rows of the second.
        tests: One result per test; p-values are not corrected for the other tests and scopes.
        adjusted: Their p-values, corrected over all tests of all scopes.
        features: The tests feature by feature, if asked for.
        classifier: The domain classifier with its scores, if asked for.
        skipped: Why nothing was tested; empty if it was.
    """

    class_name: str | None
    n_a: int
    n_b: int
    tests: tuple[TwoSampleResult, ...] = ()
    adjusted: tuple[float, ...] = ()
    features: FeatureTests | None = None
    classifier: DomainClassifierResult | None = None
    skipped: str = ""

    @property
    def p_value(self) -> float:
        """Smallest corrected p-value; 1 if nothing was tested."""
        return min(self.adjusted, default=1.0)

    @property
    def effect(self) -> float:
        """Largest effect among the tests, as far as its interval proves it."""
        return max((test.interval[0] for test in self.tests), default=0.0)

    def to_dict(self) -> dict[str, JSON]:
        """Return plain values, ready for JSON."""
        each = zip(self.tests, self.adjusted, strict=True)
        return {
            "class_name": self.class_name,
            "n_a": self.n_a,
            "n_b": self.n_b,
            "tests": [{**test.to_dict(), "adjusted_p_value": p} for test, p in each],
            "features": None if self.features is None else self.features.to_dict(),
            "skipped": self.skipped,
        }


@dataclass(frozen=True, slots=True, eq=False)
class ShiftResult:
    """Whether two samples differ, by how much, and in which class.

    Attributes:
        scopes: All rows first, then one scope per class if labels were given.
        alpha: Level of the corrected p-values.
    """

    scopes: tuple[ScopeShift, ...]
    alpha: float

    @property
    def overall(self) -> ScopeShift:
        """The scope of all rows."""
        return self.scopes[0]

    @property
    def shifted(self) -> bool:
        """Whether any test of any scope rejects."""
        return any(scope.p_value <= self.alpha for scope in self.scopes)

    @property
    def located(self) -> tuple[str, ...]:
        """The classes in which the shift lives, the most shifted first.

        Those that reject and whose proven effect is at least half of the largest: with many
        images some small shift is found in every class.
        """
        within = [s for s in self.scopes if s.class_name is not None and s.p_value <= self.alpha]
        ordered = sorted(within, key=lambda scope: -scope.effect)
        return tuple(
            scope.class_name
            for scope in ordered
            if scope.class_name is not None and scope.effect >= ordered[0].effect / 2
        )

    def to_dict(self) -> dict[str, JSON]:
        """Return plain values, ready for JSON."""
        own = {name: plain(getattr(self, name)) for name in ("shifted", "located", "alpha")}
        return {**own, "scopes": [scope.to_dict() for scope in self.scopes]}

    def __str__(self) -> str:
        rows = [row for scope in self.scopes for row in _rows(scope)]
        header = ("class", "test", "rows", "statistic", "effect", "interval", "adjusted p")
        where = f", mostly in class {', '.join(self.located)}" if self.located else ""
        verdict = f"shift{where}" if self.shifted else "no shift found"
        return f"{table(header, rows, left=2)}\n{verdict} (alpha {self.alpha:g})"


def shift_test(
    a: ArrayLike,
    b: ArrayLike,
    *,
    labels: tuple[ArrayLike, ArrayLike] | None = None,
    classes: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    groups: Groups = None,
    tests: Sequence[ShiftTest] = ("ks", "mmd", "domain_classifier"),
    standardise: bool = False,
    alpha: float = 0.05,
    correction: Correction = "holm",
    permutations: int | None = None,
    seed: int = 0,
) -> ShiftResult:
    """Test two samples of features for a shift, over all rows and within each class.

    A difference of class shares alone shows over all rows and in no class; a shift in one class
    shows there and may drown over all rows. All p-values are corrected together. A class that
    one sample lacks, or has one row of, is skipped, and its scope says why.

    Args:
        a: ``(n_a, D)`` features of the first sample.
        b: ``(n_b, D)`` features of the second.
        labels: ``(n_a,)`` and ``(n_b,)`` class indices, to test within classes too.
        classes: K class names.
        names: D feature names.
        groups: Group of each row of ``a``, and of ``b``.
        tests: Which tests to run.
        standardise: Whether to divide features by their pooled standard deviation first, as
            statistics in different units need. Leave embeddings as they are.
        alpha: Level, after correction.
        correction: ``"holm"`` or ``"benjamini_hochberg"``.
        permutations: B per test; by default enough for the correction to be able to reject.
        seed: Seed of everything drawn.

    Raises:
        DataError: Samples of fewer than two rows, of unequal width or not finite; labels, names
            or groups that do not fit.
        ConfigError: An option out of its range.
    """
    check_share("alpha", alpha)
    _check_tests(tests)
    pair = check_pair(a, b, names=names, groups=groups)
    scopes = _scopes(labels, classes, pair.n_a, pair.n_b)
    plan = _Plan(
        replace(pair, pooled=_standardised(pair.pooled)) if standardise else pair,
        tuple(tests),
        permutations or max(199, round(2 * len(tests) * len(scopes) / alpha) - 1),
        1 - alpha,
        seed,
    )
    return _corrected([plan.run(name, rows) for name, rows in scopes], alpha, correction)


def bbsd_test(
    probabilities_a: ArrayLike,
    probabilities_b: ArrayLike,
    *,
    classes: Sequence[str] | None = None,
    groups: Groups = None,
    permutations: int = 999,
    confidence: float = 0.95,
    seed: int = 0,
) -> FeatureTests:
    """Black-box shift detection: Kolmogorov-Smirnov tests of a classifier's softmax outputs.

    One test per class, corrected together; of two classes, whose outputs mirror each other, only
    the last is tested. Source: S. Rabanser, S. Guennemann, Z. Lipton, "Failing loudly", NeurIPS
    2019 (BBSDs).

    Args:
        probabilities_a: ``(n_a, K)`` outputs on the first sample.
        probabilities_b: ``(n_b, K)`` outputs on the second.
        classes: K class names.
        groups: Group of each row, in both samples.
        permutations: B, used with groups only.
        confidence: Coverage of the intervals.
        seed: Seed of the permutations.

    Raises:
        DataError: Not probabilities over the same classes.
    """
    a, b = check_probabilities(probabilities_a), check_probabilities(probabilities_b)
    if a.shape[1] != b.shape[1]:
        raise DataError(f"Outputs need the same classes; {a.shape[1]} and {b.shape[1]} came.")
    kept = slice(1, None) if a.shape[1] == 2 else slice(None)
    names = [f"p({name})" for name in check_classes(classes, a.shape[1])][kept]
    return ks_tests(
        a[:, kept],
        b[:, kept],
        names=names,
        groups=groups,
        permutations=permutations,
        confidence=confidence,
        seed=seed,
    )


def _check_tests(tests: Sequence[ShiftTest]) -> None:
    unknown = set(tests) - set(get_args(ShiftTest))
    if unknown or not tests:
        raise ConfigError(f"tests must be some of {get_args(ShiftTest)}; {tuple(tests)} came.")


def _scopes(
    labels: tuple[ArrayLike, ArrayLike] | None, classes: Sequence[str] | None, n_a: int, n_b: int
) -> list[tuple[str | None, BoolArray]]:
    """Return each scope's class name and its pooled rows."""
    everything: list[tuple[str | None, BoolArray]] = [(None, np.ones(n_a + n_b, dtype=np.bool_))]
    if labels is None:
        return everything
    kinds = None if classes is None else len(classes)
    first, second = (check_labels(part, num_classes=kinds) for part in labels)
    check_same_length(first_sample=np.empty(n_a), its_labels=first)
    check_same_length(second_sample=np.empty(n_b), its_labels=second)
    joined = np.concatenate([first, second])
    named = check_classes(classes, int(joined.max()) + 1 if kinds is None else kinds)
    return everything + [(name, joined == k) for k, name in enumerate(named)]


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """What to run in every scope."""

    pair: Pair
    tests: tuple[ShiftTest, ...]
    permutations: int
    confidence: float
    seed: int

    def run(self, class_name: str | None, rows: BoolArray) -> ScopeShift:
        """Run all tests on the pooled ``rows`` of one scope."""
        first, second = rows & self.pair.member, rows & ~self.pair.member
        n_a, n_b = int(first.sum()), int(second.sum())
        if min(n_a, n_b) < FEWEST:
            said = f"{n_a} and {n_b} rows; at least {FEWEST} in each sample are needed"
            return ScopeShift(class_name, n_a, n_b, skipped=said)
        outcomes = [self._outcome(test, first, second) for test in self.tests]
        return ScopeShift(
            class_name,
            n_a,
            n_b,
            tests=tuple(_summary(outcome) for outcome in outcomes),
            features=next((o for o in outcomes if isinstance(o, FeatureTests)), None),
            classifier=next((o for o in outcomes if isinstance(o, DomainClassifierResult)), None),
        )

    def _outcome(self, test: ShiftTest, first: BoolArray, second: BoolArray) -> Outcome:
        groups = self.pair.groups
        runs: dict[ShiftTest, Callable[..., Outcome]] = {
            "ks": partial(ks_tests, names=self.pair.names),
            "mmd": mmd_test,
            "energy": energy_test,
            "domain_classifier": domain_classifier_test,
        }
        return runs[test](
            self.pair.pooled[first],
            self.pair.pooled[second],
            groups=None if groups is None else (groups[first], groups[second]),
            permutations=self.permutations,
            confidence=self.confidence,
            seed=self.seed,
        )


def _summary(outcome: Outcome) -> TwoSampleResult:
    if isinstance(outcome, FeatureTests):
        return outcome.summary()
    return outcome.test if isinstance(outcome, DomainClassifierResult) else outcome


def _corrected(scopes: Sequence[ScopeShift], alpha: float, correction: Correction) -> ShiftResult:
    """Adjust the p-values of all tests of all scopes together."""
    adjusted = adjust([test.p_value for scope in scopes for test in scope.tests], correction)
    remaining = iter(adjusted.tolist())
    done = [
        replace(scope, adjusted=tuple(next(remaining) for _ in scope.tests)) for scope in scopes
    ]
    return ShiftResult(tuple(done), alpha)


def _standardised(pooled: FloatArray) -> FloatArray:
    spread = pooled.std(axis=0, dtype=np.float64)
    scaled: FloatArray = pooled / np.where(spread > 0, spread, 1.0)
    return scaled


def _rows(scope: ScopeShift) -> list[list[str]]:
    name = "(all)" if scope.class_name is None else scope.class_name
    if scope.skipped:
        return [[name, "skipped", f"{scope.n_a} / {scope.n_b}", "", "", "", ""]]
    return [
        [
            name,
            test.test,
            f"{scope.n_a} / {scope.n_b}",
            f"{test.statistic:.4g}",
            f"{test.effect:.3f}",
            f"[{test.interval[0]:.3f}, {test.interval[1]:.3f}]",
            f"{p_value:.2g}",
        ]
        for test, p_value in zip(scope.tests, scope.adjusted, strict=True)
    ]


_TESTS = {
    "ks": "the Kolmogorov-Smirnov test",
    "mmd": "maximum mean discrepancy",
    "energy": "energy distance",
    "domain_classifier": "a domain classifier",
}


def shift_findings(
    result: ShiftResult,
    *,
    check: str,
    splits: tuple[str, str],
    comparisons: int = 1,
    alpha: float = 0.05,
    config: AuditConfig | None = None,
) -> list[Finding]:
    """Turn a shift test into findings, one for all images and one for each class.

    Each finding carries the test that proves the most: of those that reject, the one with the
    largest proven effect; if none does, the one with the smallest p-value.

    Args:
        result: The test of one pair of splits, at level ``alpha / comparisons``.
        check: Name of the findings, such as ``"embedding_shift"``.
        splits: The two splits.
        comparisons: How many such tests the audit makes; p-values are multiplied by it.
        alpha: Level over all of them.
        config: Threshold ``shift``.
    """
    config = config or AuditConfig()
    return [
        _skipped(scope, check, splits)
        if scope.skipped
        else _of_scope(scope, result.located, check, splits, comparisons, alpha, config)
        for scope in result.scopes
    ]


def _skipped(scope: ScopeShift, check: str, splits: tuple[str, str]) -> Finding:
    return Finding(
        check=check,
        severity="info",
        splits=splits,
        class_name=scope.class_name,
        message=f"Not tested: {scope.skipped}.",
    )


def _of_scope(
    scope: ScopeShift,
    located: Sequence[str],
    check: str,
    splits: tuple[str, str],
    comparisons: int,
    alpha: float,
    config: AuditConfig,
) -> Finding:
    test, p_value = _telling(scope, comparisons, alpha)
    severity = config.shift.severity(
        test.effect, interval=test.interval, p_value=p_value, alpha=alpha
    )
    a, b = splits
    who = "images" if scope.class_name is None else f"{scope.class_name} images"
    what = _TESTS[test.test] + (f" ({test.note})" if test.note else "")
    if p_value > alpha:
        message = f"No shift between the {who} of {a} and {b}."
    else:
        little = ", but by little" if severity == "info" else ""
        message = f"The {who} of {b} differ from those of {a}{little}, says {what}."
        if scope.class_name is None and located:
            message += f" The shift lives mostly in class {', '.join(located)}."
    return Finding(
        check=check,
        severity=severity,
        splits=splits,
        class_name=scope.class_name,
        statistic=test.statistic,
        p_value=p_value,
        effect=test.effect,
        interval=test.interval,
        message=message,
        evidence=_features(scope.features, comparisons, alpha, config),
        advice=_advice(splits) if severity != "info" else "",
    )


def _telling(scope: ScopeShift, comparisons: int, alpha: float) -> tuple[TwoSampleResult, float]:
    corrected = [min(1.0, p * comparisons) for p in scope.adjusted]
    rejecting = [i for i, p in enumerate(corrected) if p <= alpha]
    if rejecting:
        best = max(rejecting, key=lambda i: scope.tests[i].interval[0])
    else:
        best = min(range(len(corrected)), key=corrected.__getitem__)
    return scope.tests[best], corrected[best]


def _features(
    features: FeatureTests | None, comparisons: int, alpha: float, config: AuditConfig
) -> tuple[Evidence, ...]:
    """Name the statistics that differ, if they have names."""
    if features is None or features.names[0].startswith("feature["):
        return ()
    order = sorted(range(len(features.names)), key=lambda i: -features.distances[i])
    shown = [i for i in order if features.adjusted[i] * comparisons <= alpha]
    return tuple(
        Evidence(
            (),
            f"{features.names[i]} {'higher' if features.superiority[i] > 0.5 else 'lower'} in the "
            f"second split, distance {features.distances[i]:.2f}",
        )
        for i in shown[: config.evidence]
    )


def _advice(splits: tuple[str, str]) -> str:
    a, b = splits
    return (
        f"Find out how {b} was collected; until then a score on {a} says little about {b}, "
        "and the other way round."
    )


def driver_finding(
    drivers: Drivers,
    *,
    splits: tuple[str, str],
    names: tuple[Sequence[str], Sequence[str]],
    config: AuditConfig | None = None,
) -> Finding:
    """Name the images that a shift rests on, and what is left of it without their like."""
    config = config or AuditConfig()
    half = max(1, config.evidence // 2)
    evidence = [
        Evidence((own[row],), f"typical of {split}")
        for split, own, rows in zip(splits, names, (drivers.rows_a, drivers.rows_b), strict=True)
        for row in rows[:half].tolist()
    ]
    explained = drivers.explained
    if explained is None:
        message = "These images are the most typical of either side."
    else:
        message = (
            f"Without the {percent(drivers.share, digits=0)} of images most typical of either "
            f"side, {percent(explained, digits=0)} of the shift is gone."
        )
    return Finding(
        check="shift_drivers",
        severity="info",
        splits=splits,
        statistic=drivers.effect_without,
        p_value=drivers.p_value_without,
        effect=explained,
        message=message,
        evidence=tuple(evidence),
        advice="Look at both rows of pictures: what tells them apart is what shifted.",
    )


def label_shift_finding(
    result: LabelShiftResult,
    *,
    splits: tuple[str, str],
    comparisons: int = 1,
    alpha: float = 0.05,
    config: AuditConfig | None = None,
) -> Finding:
    """Turn a comparison of class shares into a finding."""
    config = config or AuditConfig()
    test, (a, b) = result.test, splits
    p_value = min(1.0, test.p_value * comparisons)
    severity = config.label_shift.severity(
        test.effect, interval=test.interval, p_value=p_value, alpha=alpha
    )
    name = result.most_changed
    at = result.classes.index(name)
    shares = (
        f"{name} makes up {percent(float(result.shares_a[at]))} of {a} and "
        f"{percent(float(result.shares_b[at]))} of {b}"
    )
    return Finding(
        check="label_shift",
        severity=severity,
        splits=splits,
        statistic=test.statistic,
        p_value=p_value,
        effect=test.effect,
        interval=test.interval,
        message=f"Class shares differ: {shares}."
        if p_value <= alpha
        else f"Class shares agree: {shares}.",
        evidence=tuple(
            Evidence(
                (), f"{c}: {percent_interval(float(s), (float(i[0]), float(i[1])))} of {split}"
            )
            for split, all_shares, ends in (
                (a, result.shares_a, result.intervals_a),
                (b, result.shares_b, result.intervals_b),
            )
            for c, s, i in zip(result.classes, all_shares, ends, strict=True)
        )[: config.evidence],
        advice="Compare recalls or balanced accuracy, or reweight the classes."
        if severity != "info"
        else "",
    )


def forecast_findings(
    forecast: AccuracyForecast,
    priors: PriorEstimate,
    *,
    splits: tuple[str, str],
    classes: Sequence[str],
    config: AuditConfig | None = None,
) -> list[Finding]:
    """Say what to expect on a split without labels: its accuracy and its class shares."""
    config = config or AuditConfig()
    a, b = splits
    reasons = tuple(
        Evidence((), f"{one.method}: {one.reason}") for one in forecast.forecasts if one.reason
    )
    if forecast.accuracy is None or forecast.interval is None:
        message = f"No forecast of the accuracy on {b}: the shift from {a} voids its assumptions."
    else:
        said = percent_interval(forecast.accuracy, forecast.interval)
        message = f"Expected accuracy on {b}, which has no labels: {said}."
    shares = ", ".join(
        f"{c} {percent_interval(float(s), (float(i[0]), float(i[1])))}"
        for c, s, i in zip(classes, priors.shares, priors.intervals, strict=True)
    )
    return [
        Finding(
            check="accuracy_forecast",
            severity="warning" if forecast.abstained else "info",
            splits=splits,
            statistic=forecast.accuracy,
            effect=None
            if forecast.accuracy is None
            else abs(forecast.source_accuracy - forecast.accuracy),
            message=message,
            evidence=reasons[: config.evidence],
            advice=f"Label some images of {b} and measure." if forecast.abstained else "",
        ),
        Finding(
            check="label_shift_estimate",
            severity="info",
            splits=splits,
            message=f"Estimated class shares of {b} ({priors.method}): {shares}.",
        ),
    ]
