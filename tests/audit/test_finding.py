from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transferkit.audit.finding import (
    BUDGET,
    AuditConfig,
    Evidence,
    Finding,
    Thresholds,
    by_question,
    order_by_cost,
)
from transferkit.errors import ConfigError

FIELDS = {
    "check",
    "severity",
    "splits",
    "class_name",
    "statistic",
    "p_value",
    "effect",
    "interval",
    "message",
    "evidence",
    "advice",
    "parts",
}


def finding(severity="info", effect=None, interval=None, check="c") -> Finding:
    return Finding(
        check=check, severity=severity, effect=effect, interval=interval, message="something"
    )


def test_the_fields_are_the_contract_and_json_has_no_nan():
    full = Finding(
        check="embedding_shift",
        severity="error",
        splits=("train", "test"),
        class_name="NORMAL",
        statistic=math.nan,
        p_value=0.01,
        effect=0.4,
        interval=(0.3, math.inf),
        message="m",
        evidence=(Evidence(("a.png",), "dark"),),
        advice="a",
    )
    plain = json.loads(json.dumps(full.to_dict(), allow_nan=False))
    assert set(plain) == FIELDS
    assert plain["statistic"] is None
    assert plain["interval"] == [0.3, None]
    assert plain["evidence"] == [{"names": ["a.png"], "note": "dark"}]
    assert "NORMAL" in str(full)


def test_an_unknown_severity_is_refused():
    with pytest.raises(ConfigError, match="severity"):
        finding(severity="fatal")


@pytest.mark.parametrize(
    ("effect", "interval", "p_value", "expected"),
    [
        (0.0, None, None, "info"),
        (0.2, None, None, "warning"),
        (-0.2, None, None, "warning"),
        (0.5, None, None, "error"),
        (0.5, (0.05, 0.9), None, "info"),
        (0.5, (0.2, 0.9), None, "warning"),
        (-0.5, (-0.9, -0.4), None, "error"),
        (0.5, (-0.9, 0.9), None, "info"),
        (0.5, None, 0.06, "info"),
        (0.5, None, 0.05, "error"),
        (0.5, None, math.nan, "info"),
        (math.nan, None, None, "info"),
    ],
)
def test_an_effect_counts_as_far_as_it_is_proven(effect, interval, p_value, expected):
    limits = Thresholds(0.1, 0.3)
    assert limits.severity(effect, interval=interval, p_value=p_value) == expected


def test_zero_means_any():
    assert Thresholds(0.0, 0.0).severity(1e-9) == "error"
    assert Thresholds(0.0, 0.0).severity(0.0) == "info"


def test_thresholds_out_of_order_and_no_evidence_are_refused():
    with pytest.raises(ConfigError, match="warning <= error"):
        Thresholds(0.5, 0.1)
    with pytest.raises(ConfigError, match="evidence"):
        AuditConfig(evidence=0)


@given(st.lists(st.tuples(st.sampled_from(["info", "warning", "error"]), st.floats(0, 1))))
def test_order_puts_the_gravest_first(specs):
    ordered = order_by_cost(finding(severity, effect) for severity, effect in specs)
    keys = [(["info", "warning", "error"].index(f.severity), f.effect) for f in ordered]
    assert keys == sorted(keys, reverse=True)


def test_order_trusts_what_the_interval_proves():
    sure = finding("error", 0.3, (0.25, 0.35), "sure")
    vague = finding("error", 0.9, (0.01, 1.0), "vague")
    assert [f.check for f in order_by_cost([vague, sure])] == ["sure", "vague"]


def test_accuracy_and_images_cost_more_than_distances_of_the_same_severity():
    findings = [
        finding("error", 0.9, check="embedding_shift"),
        finding("error", 0.53, check="gap"),
        finding("error", 0.2, check="exact_duplicates"),
        finding("warning", 1.0, check="gap"),
    ]
    assert [(f.check, f.effect) for f in order_by_cost(findings)] == [
        ("gap", 0.53),
        ("exact_duplicates", 0.2),
        ("embedding_shift", 0.9),
        ("gap", 1.0),
    ]


def test_results_of_one_question_are_one_finding_with_its_parts():
    def shift(check, splits, severity, effect, class_name=None):
        return Finding(
            check=check,
            severity=severity,
            splits=splits,
            class_name=class_name,
            effect=effect,
            message=f"{check} says so.",
            evidence=(Evidence((), f"brightness in {class_name}"),),
        )

    far = [shift("statistics_shift", ("train", "test"), "error", e, f"c{e}") for e in (0.5, 0.8)]
    whole = shift("embedding_shift", ("train", "test"), "error", 0.6)
    calm = shift("embedding_shift", ("train", "val"), "info", 0.1)
    copies = finding("info", 0.0, check="exact_duplicates")
    found, alone = by_question([calm, *far, copies, whole], 9)
    assert alone is copies
    assert (found.check, found.severity, found.splits) == ("shift", "error", ("train", "test"))
    assert (found.class_name, found.effect) == (None, 0.6)
    assert found.message == (
        "embedding_shift says so. 2 more like it: train and test, class c0.8; train and test, "
        "class c0.5."
    )
    assert [part.effect for part in found.parts] == [0.8, 0.6, 0.5, 0.1]
    assert [item.note for item in found.evidence] == ["brightness in None"]
    quiet, _ = by_question([calm, replace(calm, splits=("val", "test")), copies], 9)
    assert quiet.message == "embedding_shift says so. Likewise: val and test."


def test_pictures_of_all_parts_are_shown_the_strongest_of_each_first():
    def copies(split, severity, count):
        names = [Evidence((f"{split}{i}.png",)) for i in range(count)]
        return replace(finding(severity), splits=(split,), evidence=tuple(names))

    parts = [copies("train", "error", 3), copies("val", "warning", 2), copies("test", "info", 2)]
    (found,) = by_question(parts, 4)
    shown = [item.names[0] for item in found.evidence]
    assert shown == ["train0.png", "val0.png", "train1.png", "val1.png"]


def test_the_questions_of_a_report_spend_alpha_once():
    assert sum(BUDGET.values()) == pytest.approx(1)
