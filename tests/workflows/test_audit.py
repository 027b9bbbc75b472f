from __future__ import annotations

import json
import re

import numpy as np
import pytest

import transferkit as tk
from transferkit.audit.finding import AuditConfig, Thresholds
from transferkit.audit.report import AuditError
from transferkit.data.image_data import ImageData
from transferkit.data.splits import SkippedFile, Splits
from transferkit.errors import ConfigError, DataError
from transferkit.models.classifier import create_classifier

SIDE = 32
QUICK = {"seeds": range(3), "near_duplicates": False}


def pixels(images):
    """Stand in for a backbone: the picture at 8 x 8."""
    step = images.shape[1] // 8
    small = images[:, : 8 * step, : 8 * step, 0].reshape(len(images), 8, step, 8, step)
    return small.mean(axis=(2, 4)).reshape(len(images), 64).astype(np.float32)


def phantom(sizes=(400, 200, 200), **options):
    return tk.phantom_splits(sizes=sizes, image_size=SIDE, **options)


def audit(splits, **options):
    return tk.audit_splits(splits, **{"model": pixels, **QUICK, **options})


def noise(count, side=24, seed=0, labelled=True):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, side, side, 1), dtype=np.uint8)
    return ImageData(images, np.arange(count) % 2 if labelled else None, classes=("a", "b"))


def grave(report, *, check=None):
    found = [f for f in report.results if f.severity != "info"]
    return [f for f in found if check is None or f.check == check]


@pytest.fixture(scope="module")
def alike():
    return audit(phantom(shift=0, positive_share=0.5), near_duplicates=True)


def test_splits_from_one_source_pass(alike):
    assert alike.ok
    assert not [f for f in grave(alike) if "shift" in f.check]
    alike.raise_if("error")
    low, high = alike.gap.gap.interval
    assert low < 0 < high


def test_the_report_covers_every_check(alike):
    checks = {finding.check for finding in alike.results}
    assert checks >= {
        "exact_duplicates",
        "near_duplicates",
        "straddling_groups",
        "conflicting_labels",
        "corrupt_images",
        "blank_images",
        "low_information_images",
        "odd_sized_images",
        "outlying_images",
        "image_size_shift",
        "shortcut",
        "label_shift",
        "statistics_shift",
        "embedding_shift",
        "gap",
        "reshuffle",
        "reshuffle_by_group",
        "choice_optimism",
    }
    tested = {(f.splits, f.class_name) for f in alike.results if f.check == "embedding_shift"}
    pairs = [("train", "val"), ("train", "test"), ("val", "test")]
    assert tested == {(p, c) for p in pairs for c in (None, "normal", "pneumonia")}


def test_a_shift_in_one_class_is_placed_there():
    report = audit(phantom(sites={"test": {"normal": tk.PhantomSite(exposure=0.2)}}))
    assert not report.ok
    shifted = {
        (f.splits, f.class_name): f.severity
        for f in report.results
        if f.check == "statistics_shift"
    }
    assert shifted[("train", "test"), "normal"] == "error"
    assert shifted[("train", "test"), "pneumonia"] == "info"
    assert shifted[("train", "val"), None] == "info"
    drivers = [f for f in report.findings if f.check == "shift_drivers"]
    assert {f.splits for f in drivers} == {("train", "test"), ("val", "test")}
    assert all(item.names[0] in report.thumbnails for f in drivers for item in f.evidence)


def test_copies_are_found_with_their_names_and_pictures(tmp_path):
    report = audit(phantom(duplicates={("train", "val"): 7}))
    found = grave(report, check="exact_duplicates")
    assert [(f.splits, f.statistic, f.severity) for f in found] == [(("train", "val"), 7, "error")]
    with pytest.raises(AuditError, match="exact_duplicates"):
        report.raise_if("error")
    page = report.to_html(tmp_path / "a.html").read_text(encoding="utf-8")
    assert found[0].evidence[0].names[0] in page
    assert json.loads(report.to_json())["ok"] is False


def test_shared_patients_are_found_by_the_groups_of_the_data_or_by_a_pattern():
    splits = phantom(shared_patients={("train", "test"): 30}, shift=0)
    found = grave(audit(splits), check="straddling_groups")
    assert [(f.splits, f.effect) for f in found] == [(("train", "test"), pytest.approx(0.15))]
    plain = {
        name: ImageData(
            data.images,
            data.labels,
            classes=data.classes,
            names=[f"{g}_x.png" for g in data.groups],
        )
        for name, data in splits.items()
    }
    again = grave(audit(plain, groups=r"^.*(?=_x)"), check="straddling_groups")
    assert [(f.splits, f.statistic) for f in again] == [(f.splits, f.statistic) for f in found]


def test_a_marker_that_gives_the_label_away_is_a_shortcut():
    sites = {"normal": tk.PhantomSite(marker=0.0), "pneumonia": tk.PhantomSite(marker=1.0)}
    report = audit(phantom(sites={"train": sites, "val": sites}))
    found = grave(report, check="shortcut")
    assert {f.splits for f in found} == {("train",), ("val",)}
    assert all("peak at top right" in f.message for f in found)


def test_another_class_balance_is_label_shift_and_no_shift_within_classes():
    report = audit(phantom(positive_share={"test": 0.8}, shift=0))
    assert {f.splits for f in grave(report, check="label_shift")} == {
        ("train", "test"),
        ("val", "test"),
    }
    within = [f for f in grave(report) if "shift" in f.check and f.class_name is not None]
    assert within == []


@pytest.mark.slow
def test_planted_gaps_come_back_within_two_points():
    """Against 5000 images a split, whose noise is a tenth of a point or two."""
    cases = {
        "prior": {"positive_share": {"train": 0.25, "val": 0.25, "test": 0.75}, "shift": 0},
        "one class": {"sites": {"test": {"normal": tk.PhantomSite(exposure=0.08)}}},
    }
    for options in cases.values():
        small, large = (
            tk.explain_gap(phantom((800, n, n), **options), model=pixels, seeds=[0], samples=300)
            for n in (1500, 5000)
        )
        for name, part in small.parts.items():
            truth = large.parts[name].value
            assert part.value == pytest.approx(truth, abs=0.02)
            assert part.interval[0] - 0.01 < truth < part.interval[1] + 0.01
    assert small.worst_class == "normal"


@pytest.mark.parametrize("lighter", [0, 3])
def test_planted_leaks_are_what_they_add(lighter):
    """The probe learns noise by heart: right on what it has seen, a coin on the rest."""
    train, val = noise(200), noise(200, seed=1)
    leaks = np.minimum(train.images[:100], 255 - lighter) + np.uint8(lighter)
    val = ImageData(np.concatenate([leaks, val.images[100:]]), val.labels)
    splits = {"train": ImageData(train.images, train.labels), "val": val}
    splits["test"] = ImageData(noise(200, seed=2).images, val.labels)
    gap = tk.explain_gap(splits, model=lambda x: x.reshape(len(x), -1) / 255, seeds=[0])
    unseen = gap.val_score - gap.leakage["val"].value
    assert gap.val_score == pytest.approx(0.75, abs=0.06)
    assert unseen == pytest.approx(0.5, abs=0.12)
    assert gap.leakage["val"].interval[0] > 0.1
    assert "test" not in gap.leakage


@pytest.mark.parametrize("brighter", [0, 3])
def test_edited_copies_cost_what_the_same_images_do(brighter):
    """Labels that nothing tells: a quarter of test is known by heart, the same or 3 levels off."""
    images = tk.phantom_splits(sizes=(240, 120, 120), image_size=32, shift=0, seed=0)
    labels = np.random.default_rng(0).permutation(np.arange(240) % 2)
    train = ImageData(images["train"].images, labels)
    copied = np.clip(train.images[:60].astype(int) + brighter, 0, 255).astype(np.uint8)
    test = np.concatenate([copied, images["test"].images[60:]])
    splits = {
        "train": train,
        "val": ImageData(images["val"].images, labels[:120]),
        "test": ImageData(test, labels[:120]),
    }
    gap = tk.explain_gap(splits, model=lambda x: x.reshape(len(x), -1) / 255, seeds=[0])
    assert list(gap.leakage) == ["test"]
    assert gap.leakage["test"].value == pytest.approx(0.25, abs=0.1)
    assert gap.leakage["test"].interval[0] > 0.1


def test_one_resplit_has_no_interval_and_says_so(tmp_path):
    splits = phantom((120, 60, 60), images_per_patient=2)
    report = tk.audit_splits(splits, model=pixels, seeds=[0], near_duplicates=False)
    assert report.gap.group_gain is not None
    page = report.to_html(tmp_path / "audit.html").read_text("utf-8")
    for text in (str(report), report.to_json(), page):
        assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    assert "(one re-split has no interval)" in str(report)
    assert "one re-split</span>" in page
    gap = json.loads(report.to_json())["gap"]
    for name in ("reshuffled", "reshuffled_by_group", "group_gain"):
        assert gap[name]["interval"] is None
    found = {f.check: f for f in report.findings}
    assert found["reshuffle"].interval is found["reshuffle_by_group"].interval is None


def test_epoch_predictions_measure_optimism():
    splits = phantom(shift=0)
    labels = splits["val"].labels
    flips = np.random.default_rng(0).random((40, len(labels))) < 0.2
    gap = tk.explain_gap(splits, model=pixels, epoch_predictions=labels ^ flips, seeds=[0])
    assert gap.optimism.value > 0.03
    with pytest.raises(DataError, match="epoch_predictions"):
        tk.explain_gap(splits, model=pixels, epoch_predictions=labels, seeds=[0])


def small_classifier(num_classes=2, **options):
    return create_classifier(
        "squeezenet1_1", num_classes, weights=None, image_size=SIDE, seed=0, **options
    )


def test_a_classifier_is_audited_on_its_own_outputs():
    splits = phantom((60, 40, 40))
    model = small_classifier()
    tk.linear_probe(model, splits, epochs=1, progress=False)
    report = tk.audit_splits(splits, model=model, seeds=[0, 1])
    assert any(f.check == "output_shift" for f in report.results)
    assert report.gap.scored == "the classifier"
    assert report.gap.val_score == pytest.approx(tk.evaluate(model, splits["val"]).accuracy)
    with pytest.raises(DataError, match="3 classes"):
        tk.audit_splits(splits, model=small_classifier(3))


def test_a_head_that_was_never_trained_is_left_out_and_said():
    splits, model = phantom((60, 40, 40)), small_classifier()
    report = tk.audit_splits(splits, model=model, **QUICK)
    assert not [f for f in report.results if f.check == "output_shift"]
    assert [f.severity for f in grave(report, check="embedding")] == ["warning"]
    assert "never trained" in str(report)
    features = {split: tk.extract_features(model, data).features for split, data in splits.items()}
    probed = explain_gap_of(splits, features)
    assert report.gap.val_score == probed.val_score
    gap = tk.explain_gap(splits, model=model, seeds=[0])
    assert (
        gap.scored
        == "a probe on features of torchvision/squeezenet1_1, whose head was never trained"
    )
    assert gap.val_score == probed.val_score


def explain_gap_of(splits, features):
    """Explain the gap of probes on features that are there."""
    rows = iter(features[split] for split in splits)
    return tk.explain_gap(splits, model=lambda images: next(rows), seeds=[0])


def test_the_embedded_backbone_is_the_default():
    report = tk.audit_splits(phantom((40, 20, 20)), seeds=[0, 1], near_duplicates=False)
    assert "transferkit/" in report.settings["embedding"]
    assert not [f for f in report.findings if f.check == "near_duplicates"]


def test_a_split_without_labels_gets_a_forecast():
    splits = dict(phantom((400, 300, 300), shift=0))
    test = splits["test"]
    splits["test"] = ImageData(test.images, classes=test.classes, names=test.names)
    found = {f.check: f for f in audit(splits).findings}
    truth = tk.explain_gap(phantom((400, 300, 300), shift=0), model=pixels, seeds=[0]).test_score
    assert found["accuracy_forecast"].statistic == pytest.approx(truth, abs=0.06)
    assert "label_shift_estimate" in found
    assert found["labels"].splits == ("test",)
    assert "gap" not in found
    with pytest.raises(DataError, match="test split"):
        tk.explain_gap(splits, model=pixels)


def test_splits_of_one_image_and_empty_classes_are_findings():
    found = audit({"train": noise(40), "val": noise(20, seed=1), "test": noise(1, seed=2)})
    checks = {(f.check, f.splits) for f in grave(found)}
    assert {("few_images", ("test",)), ("shift", ("train", "test"))} <= checks
    assert ("empty_class", ("test",)) in checks
    audit({"train": noise(1), "val": noise(1, seed=1), "test": noise(1, seed=2)})


def test_a_class_without_training_images_is_an_error():
    one = ImageData(noise(30).images, np.zeros(30, int), classes=("a", "b"))
    report = audit({"train": one, "val": noise(20, seed=1), "test": noise(20, seed=2)})
    assert [f.class_name for f in grave(report, check="empty_class")] == ["b"]
    assert report.gap is None


def test_features_that_cannot_be_used_are_named():
    splits = {"train": noise(30), "val": noise(20, seed=1), "test": noise(20, seed=2)}

    def broken(images):
        features = pixels(images)
        features[3, 5] = np.nan
        return features

    with pytest.raises(DataError, match=r"train.*image\[3\].*column 5"):
        audit(splits, model=broken)
    with pytest.raises(DataError, match=r"\(30, D\)"):
        audit(splits, model=lambda images: np.zeros((2, 2)))
    constant = audit(splits, model=lambda images: np.ones((len(images), 4), np.float32))
    assert grave(constant, check="embedding")
    with pytest.raises(ConfigError, match="model"):
        audit(splits, model=3)


def test_splits_of_other_sizes_are_an_error():
    splits = {"train": noise(30), "val": noise(20, seed=1), "test": noise(20, side=32, seed=2)}
    report = audit(splits)
    assert {f.splits for f in grave(report, check="image_size_shift")} == {
        ("train", "test"),
        ("val", "test"),
    }


def test_groups_that_do_not_fit_are_refused_and_one_group_is_said():
    splits = {"train": noise(30), "val": noise(20, seed=1), "test": noise(20, seed=2)}
    with pytest.raises(DataError, match="split val"):
        audit(splits, groups={"train": ["a"] * 30})
    with pytest.raises(ConfigError, match="regular expression"):
        audit(splits, groups=3)
    one = audit(splits, groups={name: ["g"] * len(data) for name, data in splits.items()})
    assert grave(one, check="shift")
    assert one.gap.reshuffled_by_group is None


def test_names_with_markup_and_files_left_out_reach_the_page_escaped(tmp_path):
    evil = "<script>alert(1)</script>.png"
    images = np.repeat(noise(10).images[:1], 10, axis=0)
    first = ImageData(images, np.arange(10) % 2, names=[f"{i}{evil}" for i in range(10)])
    splits = Splits({"train": first}, skipped=[SkippedFile(evil, "<b>broken</b>")])
    page = audit(splits).to_html(tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>broken" not in page
    assert "&lt;b&gt;broken" in page


def test_thresholds_decide_the_gate():
    splits = phantom(duplicates={("train", "val"): 1}, shift=0)
    lenient = AuditConfig(exact_leak=Thresholds(0.1, 0.2))
    assert not audit(splits).ok
    assert audit(splits, config=lenient).ok
    with pytest.raises(ConfigError, match="alpha"):
        audit(splits, alpha=1.5)


def test_equal_names_in_two_splits_are_told_apart():
    report = audit({"train": noise(20), "test": noise(20)})
    (found,) = grave(report, check="exact_duplicates")
    assert found.evidence[0].names == ("train/image[0]", "test/image[0]")
    assert set(found.evidence[0].names) <= set(report.thumbnails)


def test_an_audit_repeats_itself():
    splits = phantom((80, 40, 40))
    assert audit(splits).to_json() == audit(splits).to_json()


@pytest.mark.slow
def test_pneumoniamnist_is_what_it_is_known_to_be(shared_path):
    splits = tk.load_splits(shared_path / "data/pneumoniamnist.npz")
    report = tk.audit_splits(splits, model=lambda x: x[:, ::2, ::2, 0].reshape(len(x), -1), **QUICK)
    (copies,) = [f for f in report.findings if f.check == "exact_duplicates"]
    assert (copies.splits, copies.statistic) == (("train", "val"), 8)
    shifts = {(f.splits, f.class_name): f for f in report.results if f.check == "embedding_shift"}
    assert all(f.severity == "info" for (pair, _), f in shifts.items() if pair == ("train", "val"))
    normal, ill = (shifts[("train", "test"), name] for name in splits.classes)
    assert normal.severity == "error"
    assert normal.effect > ill.effect + 0.1
    assert report.gap.worst_class == splits.classes[0]


@pytest.mark.parametrize("channels", [2, 4])
def test_images_of_other_channels_than_grey_and_colour_are_audited(channels, tmp_path):
    rng = np.random.default_rng(0)

    def split(count):
        images = rng.integers(0, 256, (count, 24, 24, channels), dtype=np.uint8)
        return ImageData(images, np.arange(count) % 2, classes=("a", "b"), channels=channels)

    splits = {"train": split(30), "test": split(20)}
    splits["test"].images[3] = splits["train"].images[7]
    report = audit(splits, near_duplicates=True)
    assert [f.statistic for f in grave(report, check="exact_duplicates")] == [1]
    assert "data:image/" in report.to_html(tmp_path / "a.html").read_text(encoding="utf-8")
