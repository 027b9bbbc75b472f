from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transferkit.audit.finding import (
    AuditConfig,
    Evidence,
    Finding,
    Thresholds,
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
