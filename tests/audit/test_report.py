from __future__ import annotations

import html
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from transferkit.audit.finding import Evidence, Finding
from transferkit.audit.gap import waterfall
from transferkit.audit.gap_parts import ScoredSplit, explain_scores
from transferkit.audit.image_statistics import thumbnail
from transferkit.audit.report import (
    AuditError,
    AuditReport,
    SplitSummary,
    bar_ends,
    data_uri,
    numbers,
)
from transferkit.errors import ConfigError, OutputError, TransferkitError

EVIL = '<script>alert("x")</script>&\'.png'


def gap():
    labels = np.arange(80) % 2
    test = np.eye(2)[np.where(np.arange(80) % 8 == 0, 1 - labels, labels)]
    return explain_scores(
        ScoredSplit(labels, np.eye(2)[labels]),
        ScoredSplit(labels, test),
        classes=[EVIL, "b"],
    )


def report(**changes):
    findings = (
        Finding(check="fine", severity="info", message="all is well", p_value=0.2, effect=0.1),
        Finding(
            check="exact_duplicates",
            severity="error",
            splits=("train", EVIL),
            class_name=EVIL,
            statistic=8,
            p_value=1e-5,
            effect=0.5,
            interval=(0.4, 0.6),
            message=f"found {EVIL}",
            evidence=(Evidence((EVIL, "b.png"), EVIL), Evidence((), f"note {EVIL}")),
            advice=f"remove {EVIL}",
        ),
        Finding(check="minor", severity="warning", message="hm", effect=float("nan")),
        Finding(
            check="shift_drivers",
            severity="info",
            splits=("train", "test"),
            message="these",
            evidence=(Evidence(("b.png",), "typical of train"),),
        ),
    )
    fields = {
        "findings": findings,
        "splits": (SplitSummary("train", 10, (8, 8, 1), {EVIL: 4, "b": 6}),),
        "gap": gap(),
        "settings": {"seed": "0", "groups": EVIL},
        "thumbnails": {EVIL: thumbnail(np.zeros((8, 8, 1), np.uint8))},
    }
    return AuditReport(**{**fields, **changes})


def test_findings_are_ordered_and_gate():
    whole = report()
    assert [f.severity for f in whole.findings] == ["error", "warning", "info", "info"]
    assert not whole.ok
    with pytest.raises(AuditError, match="exact_duplicates") as caught:
        whole.raise_if("error")
    assert [f.check for f in caught.value.findings] == ["exact_duplicates"]
    assert isinstance(caught.value, TransferkitError)
    with pytest.raises(AuditError, match="2 finding"):
        whole.raise_if("warning")
    with pytest.raises(ConfigError, match="severity"):
        whole.raise_if("fatal")


def test_warnings_alone_are_ok_and_pass_the_gate_for_errors():
    mild = report(findings=(Finding(check="c", severity="warning", message="m"),))
    assert mild.ok
    mild.raise_if("error")
    empty = AuditReport(findings=())
    assert empty.ok
    assert "passed" in str(empty)


def test_json_has_ok_and_findings_and_is_strict(tmp_path):
    path = tmp_path / "audit.json"
    text = report().to_json(path)
    plain = json.loads(path.read_text(encoding="utf-8"))
    assert plain == json.loads(text)
    assert plain["ok"] is False
    assert plain["findings"][0]["statistic"] == 8
    assert plain["findings"][1]["effect"] is None
    assert plain["gap"]["parts"]["prior shift"]["value"] == pytest.approx(0)


def test_a_report_that_cannot_be_written_says_where(tmp_path):
    with pytest.raises(OutputError, match="missing"):
        report().to_json(tmp_path / "missing" / "a.json")
    with pytest.raises(OutputError, match="missing"):
        report().to_html(tmp_path / "missing" / "a.html")


def test_the_terminal_shows_what_matters():
    text = str(report())
    assert text.startswith("Audit failed: 1 error, 1 warning, ")
    assert "-> remove" in text
    assert "The gap from val to test" in text
    assert max(map(len, text.splitlines())) <= 120


class Page(HTMLParser):
    """Collects tags, and checks that they nest."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.sources = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [v for k, v in attrs if k in ("src", "href", "srcset", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def page(tmp_path):
    return report().to_html(tmp_path / "audit.html").read_text(encoding="utf-8")


def test_the_page_is_well_formed_self_contained_and_without_scripts(page):
    parsed = Page()
    parsed.feed(page)
    assert parsed.open == []
    assert "script" not in parsed.tags
    assert all(source.startswith("data:image/") for source in parsed.sources)
    assert not re.search(r"https?://|@import|url\(", page)


def test_names_with_markup_do_no_harm(page):
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 8


def test_the_page_shows_figures_pictures_and_passed_checks(page):
    assert 'class="waterfall"' in page
    assert 'class="interval"' in page
    assert 'class="shares"' in page
    assert "<h3>Exact duplicates</h3>" in page
    assert page.count("data:image/png;base64,") == 1
    assert "all is well" in page
    assert "adjusted p &lt; 0.001" in page
    assert "typical of train" in page
    assert "prefers-color-scheme: dark" in page


def test_an_empty_report_is_a_page(tmp_path):
    page = AuditReport(findings=()).to_html(tmp_path / "a.html").read_text()
    assert "Passed" in page


def test_names_that_are_no_unicode_can_be_written(tmp_path):
    odd = report(findings=(Finding(check="c", severity="info", message="\udcff.png"),))
    assert "\\udcff" in odd.to_html(tmp_path / "a.html").read_text(encoding="utf-8")


def test_text_and_page_count_and_show_the_same(page):
    text = str(report())
    counts = "1 error, 1 warning, 1 check without complaint"
    assert counts in text
    assert counts in page
    assert "<summary>1 check</summary>" in page
    assert "e.g. b.png (typical of train)" in text
    for number in ("effect 0.500 [0.400, 0.600]", "adjusted p < 0.001"):
        assert number in text
        assert number in html.unescape(page)


def test_a_gap_that_may_be_chance_is_placed_nowhere(tmp_path):
    labels = np.arange(80) % 2
    same = ScoredSplit(labels, np.eye(2)[labels])
    none = report(gap=explain_scores(same, same, classes=["a", "b"]))
    page = none.to_html(tmp_path / "a.html").read_text(encoding="utf-8")
    for shown in (str(none), page):
        assert "no gap beyond the noise" in shown
        assert "in class a" not in shown


@pytest.mark.parametrize(
    ("effect", "interval", "expected"),
    [
        (None, None, None),
        (float("nan"), None, None),
        (0.3, None, (0.3, 0.3, 0.3)),
        (-0.4, (-2.0, 3.0), (0.0, 0.4, 1.0)),
    ],
)
def test_bars_of_odd_effects_stay_on_their_rail(effect, interval, expected):
    found = Finding(check="c", severity="info", message="m", effect=effect, interval=interval)
    assert bar_ends(found) == expected


def test_classes_without_images_have_no_share(tmp_path):
    splits = (SplitSummary("train", 3, (8, 8, 1), {"<b>": 3, "c": 0}),)
    page = AuditReport((), splits).to_html(tmp_path / "a.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;: 3 (100.0 %)" in page
    empty = (SplitSummary("train", 1, (8, 8, 1), {"a": 0}),)
    AuditReport((), empty).to_html(tmp_path / "b.html")


def test_a_waterfall_of_many_classes_sums_up_the_small_ones():
    labels = np.arange(400) % 20
    right = np.eye(20)[labels]
    wrong = np.eye(20)[np.where(labels == 3, 4, labels)]
    many = explain_scores(
        ScoredSplit(labels, right),
        ScoredSplit(labels, wrong),
        classes=[f"c{i}" for i in range(20)],
    )
    assert len(str(many).splitlines()) < 45
    assert "and 14 others" in str(many)
    titles = [bar.title for bar in waterfall(many)["bars"]]
    assert "within c3" in titles
    assert "14 other parts" in titles
    assert len(titles) < 14


def test_a_score_of_zero_can_be_drawn():
    labels = np.zeros(4, int)
    none = ScoredSplit(labels, np.tile([0.0, 1.0], (4, 1)))
    drawn = waterfall(explain_scores(none, none, classes=["a", "b"]))
    assert all(0 <= drawn["x"](value) <= 1 for bar in drawn["bars"] for value in bar.span)


def test_thumbnails_are_small_pictures():
    colour = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    assert max(Image.open(io.BytesIO(thumbnail(colour))).size) == 128
    small = thumbnail(colour[:28, :28])
    assert data_uri(small).startswith("data:image/png;base64,")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(small))), colour[:28, :28])


def test_words():
    assert numbers(Finding(check="c", severity="info", message="m")) == []
    found = Finding(check="c", severity="info", message="m", p_value=0.0301)
    assert numbers(found) == ["adjusted p 0.030"]


def test_three_sentences_say_what_matters_what_it_costs_and_what_to_do(page):
    whole = report()
    assert whole.summary == (
        f"What matters most: found {EVIL} Accuracy is 100.0 % on val and 87.5 % on test: the gap "
        f"lies mostly in class {EVIL}. Do this first: remove {EVIL}"
    )
    assert " ".join(str(whole).split()).startswith(
        f"Audit failed: 1 error, 1 warning, 1 check without complaint. {whole.summary}"
    )
    assert whole.summary in html.unescape(page)
    assert whole.to_dict()["summary"] == whole.summary
    beside = report(gap=None)
    assert "Beside it there is: minor." in beside.summary
    assert AuditReport(()).summary.startswith("Nothing speaks against these splits")


def test_a_report_is_short_at_the_prompt_and_a_table_in_a_notebook():
    whole = report()
    assert repr(whole) == (
        "AuditReport(failed: 1 error, 1 warning, 1 check without complaint; images: train 10)"
    )
    shown = whole._repr_html_()
    assert shown.count("<tr>") == 1 + len(whole.findings)
    assert EVIL not in shown
    assert len(shown) < 5000


def test_parts_are_counted_in_the_text_and_listed_on_the_page(tmp_path):
    part = Finding(check="empty_class", severity="warning", splits=("val",), message="no image")
    parts = tuple(replace(part, class_name=f"c{i}") for i in range(200))
    many = report(findings=(replace(part, parts=parts),))
    assert len(many.results) == 200
    text = str(many)
    assert "empty_class, val, class c1" in text
    assert "and 196 more" in text
    assert len(text.split("The gap")[0].splitlines()) < 20
    page = many.to_html(tmp_path / "a.html").read_text()
    assert "200 results" in page
    assert "and 176 more, of less weight" in page


def test_a_forecast_stands_in_text_and_page(tmp_path):
    said = "Expected accuracy on test, which has no labels: 90.0 % [85.0, 95.0]."
    found = Finding(check="accuracy_forecast", severity="info", splits=("test",), message=said)
    told = report(findings=(found,), gap=None)
    assert said in told.summary
    assert str(told).count(said) == 1  # in one line there; wrapped in the summary
    assert said in told.to_html(tmp_path / "a.html").read_text()


def test_many_classes_do_not_widen_the_table_of_the_splits():
    counts = {f"c{i}": i for i in range(200)}
    text = str(AuditReport((), (SplitSummary("train", 19900, (8, 8, 1), counts),)))
    assert "0 to 199" in text
    assert max(map(len, text.splitlines())) <= 96


def test_the_rate_of_false_alarms_is_said(tmp_path):
    told = report(settings={"alpha": "0.05"})
    said = "Of reports on splits from one source, at most 5 % warn of what a test found."
    assert said in str(told)
    assert said in told.to_html(tmp_path / "a.html").read_text()


def test_a_few_odd_images_are_shown_though_they_are_no_fault(tmp_path):
    said = "2 images of train are unlike the others."
    odd = Finding(check="outlying_images", severity="info", message=said, advice="look")
    told = report(findings=(odd,))
    assert f"INFO     outlying_images\n  {said}\n  -> look" in str(told)
    assert "0 checks without complaint" in str(told)
    assert said in told.to_html(tmp_path / "a.html").read_text()
