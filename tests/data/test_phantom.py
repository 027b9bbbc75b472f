from __future__ import annotations

import re
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from transferkit.data.phantom import phantom_splits
from transferkit.data.phantom_imaging import AWAY, HOME, PhantomSite
from transferkit.errors import ConfigError

SMALL = {"sizes": (60, 30, 30), "image_size": 32}


def coarse(data):
    """16 x 16 means, the features of a simple probe."""
    n, side = data.images.shape[:2]
    cells = data.images.reshape(n, 16, side // 16, 16, side // 16).astype(np.float32)
    return cells.mean((2, 4)).reshape(n, -1) / 255


def scores(splits):
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=500))
    probe.fit(coarse(splits["train"]), splits["train"].labels)
    return {name: probe.score(coarse(data), data.labels) for name, data in splits.items()}


@pytest.fixture(scope="module")
def shifted():
    return phantom_splits(sizes=(1600, 800, 800), seed=1)


def test_2000_images_take_a_few_seconds():
    start = time.process_time()
    phantom_splits(sizes=(1600, 200, 200))
    assert time.process_time() - start < 10


def test_what_comes_out(shifted):
    assert list(shifted) == ["train", "val", "test"]
    assert shifted.classes == ("normal", "pneumonia")
    data = shifted["train"]
    assert data.images.shape == (1600, 64, 64, 1)
    assert data.class_counts().tolist() == [800, 800]
    assert data.groups is not None
    assert len(set(data.groups)) == 1600
    assert re.fullmatch(r"train/(normal|pneumonia)/train-00003_00003\.png", data.names[3])
    assert data.groups[3] in data.names[3]
    assert 20 < data.images.std() < 90
    assert len({image.tobytes() for d in shifted.values() for image in d.images}) == 3200


def test_the_disease_can_be_learned_and_the_other_site_costs(shifted):
    got = scores(shifted)
    assert 0.88 < got["val"] < 0.98
    assert 0.06 < got["val"] - got["test"] < 0.25


def test_without_shift_test_is_like_val():
    got = scores(phantom_splits(sizes=(1600, 800, 800), seed=1, shift=0))
    assert got["val"] > 0.88
    assert abs(got["val"] - got["test"]) < 0.04


def test_without_opacities_there_is_nothing_to_learn():
    got = scores(phantom_splits(sizes=(400, 800, 400), seed=1, opacity=0))
    assert got["val"] < 0.65


def test_stronger_opacities_are_easier():
    weak, strong = (
        scores(phantom_splits(sizes=(800, 800, 1), seed=0, opacity=opacity))["val"]
        for opacity in (0.4, 1.6)
    )
    assert strong > weak + 0.05


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([16, 33, 64]))
def test_the_seed_decides(seed, size):
    options = {"sizes": (6, 4, 4), "image_size": size}
    first, again, other = (phantom_splits(**options, seed=s) for s in (seed, seed, seed + 1))
    for name in first:
        assert first[name].fingerprint() == again[name].fingerprint()
        assert not np.array_equal(first[name].images, other[name].images)


def test_a_split_does_not_depend_on_the_sizes_of_others():
    one = phantom_splits(sizes=(60, 30, 30), image_size=32)
    two = phantom_splits(sizes={"test": 30, "train": 10}, image_size=32)
    assert one["test"].fingerprint() == two["test"].fingerprint()
    assert one["test"].names == two["test"].names


def test_the_callers_random_state_is_left_alone():
    np.random.seed(3)  # noqa: NPY002 the global state is what this test is about
    before = np.random.get_state()[1].tolist()  # noqa: NPY002 as above
    phantom_splits(**SMALL)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002 as above


def test_prior_shift():
    splits = phantom_splits(**SMALL, positive_share={"test": 0.8, "val": 0.1})
    counts = {name: data.class_counts().tolist() for name, data in splits.items()}
    assert counts == {"train": [30, 30], "val": [27, 3], "test": [6, 24]}


def test_exposure_of_one_class_in_one_split():
    def means(**options):
        data = phantom_splits(sizes=(4, 4, 200), shift=0, image_size=32, **options)["test"]
        labels = data.require_labels("x")
        return [data.images[labels == k].mean() for k in (0, 1)]

    plain = means()
    moved = means(sites={"test": {"normal": PhantomSite(exposure=0.15)}})
    assert moved[0] - plain[0] > 25
    assert moved[1] == plain[1]


@pytest.mark.parametrize(
    ("site", "measure"),
    [
        (PhantomSite(exposure=0.1), lambda x: x.mean()),
        (PhantomSite(contrast=1.3), lambda x: x.std((1, 2)).mean()),
        (PhantomSite(noise=0.08), lambda x: abs(np.diff(x, 2, axis=2)).mean()),
        (PhantomSite(field_of_view=0.8), lambda x: -(x[:, :, :3] < 60).mean()),
        (PhantomSite(marker=1.0), lambda x: x[:, 2:5, 56:61].max((1, 2)).mean()),
        (PhantomSite(blur=0.0, noise=0.0), lambda x: -abs(np.diff(x, 2, axis=2)).mean()),
    ],
    ids=["exposure", "contrast", "noise", "field_of_view", "marker", "noiseless"],
)
def test_what_a_site_changes(site, measure):
    splits = phantom_splits(sizes={"a": 40, "b": 40}, sites={"b": site})
    home, away = (measure(data.images[..., 0].astype(float)) for data in splits.values())
    assert away > home


def test_a_marker_as_a_shortcut():
    sites = {"train": {"pneumonia": PhantomSite(marker=1.0), "normal": PhantomSite(marker=0.0)}}
    data = phantom_splits(sizes=(100, 1, 1), sites=sites)["train"]
    marked = (data.images[:, 3:8, 56:59, 0] == 242).all((1, 2))
    np.testing.assert_array_equal(marked, data.labels == 1)


def test_patients_with_several_pictures_keep_their_class():
    data = phantom_splits(**SMALL, images_per_patient=3)["train"]
    labels = data.require_labels("x")
    assert data.groups is not None
    assert len(set(data.groups)) == 20
    for group in set(data.groups):
        rows = [i for i, other in enumerate(data.groups) if other == group]
        assert len(rows) == 3
        assert len(set(labels[rows])) == 1


def test_shared_patients_straddle_and_look_alike():
    splits = phantom_splits(**SMALL, shared_patients={("train", "test"): 10}, shift=0)
    train, test = splits["train"], splits["test"]
    shared = set(train.groups or ()) & set(test.groups or ())
    assert len(shared) == 10
    assert test.class_counts().tolist() == [15, 15]
    assert not {i.tobytes() for i in train.images} & {i.tobytes() for i in test.images}
    near, far = [], []
    for row, group in enumerate(test.groups or ()):
        gaps = abs(train.images.astype(int) - test.images[row]).mean((1, 2, 3))
        if group in shared:
            near.append(gaps[(train.groups or ()).index(group)])
            far.append(np.median(gaps))
    assert np.mean(near) < 0.85 * np.mean(far)


def test_duplicates_are_exact_and_as_many_as_asked():
    splits = phantom_splits(**SMALL, duplicates={("train", "val"): 8, ("val", "test"): 3})
    train, val, test = splits.require("train", "val", "test")
    prints = [{image.tobytes() for image in data.images} for data in (train, val, test)]
    assert [len(p) for p in prints] == [60, 30, 30]
    assert len(prints[0] & prints[1]) == 8
    assert len(prints[1] & prints[2]) == 3
    assert not prints[0] & prints[2]
    where = {image.tobytes(): row for row, image in enumerate(train.images)}
    pairs = [(where[i.tobytes()], r) for r, i in enumerate(val.images) if i.tobytes() in where]
    assert all(train.labels[a] == val.labels[b] for a, b in pairs)
    assert all(train.groups[a] == val.groups[b] for a, b in pairs)


def test_label_noise_is_exact():
    clean, noisy = (phantom_splits(**SMALL, label_noise=share) for share in (0, {"train": 0.1}))
    assert (clean["train"].labels != noisy["train"].labels).sum() == 6
    np.testing.assert_array_equal(clean["test"].labels, noisy["test"].labels)
    np.testing.assert_array_equal(clean["train"].images, noisy["train"].images)


def test_sites_can_be_mixed():
    assert HOME.toward(AWAY, 0) == HOME
    middle = HOME.toward(AWAY, 0.5)
    assert middle.exposure == pytest.approx((HOME.exposure + AWAY.exposure) / 2)
    assert HOME.toward(AWAY, 5).marker == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"sizes": (3, 3)},
        {"sizes": {}},
        {"sizes": (0, 3, 3)},
        {"image_size": 8},
        {"positive_share": 1.5},
        {"positive_share": {"holdout": 0.5}},
        {"label_noise": -0.1},
        {"sites": {"holdout": HOME}},
        {"sites": {"test": {"covid": HOME}}},
        {"opacity": -1},
        {"opacity_size": 0},
        {"images_per_patient": 0},
        {"shared_patients": {("train", "holdout"): 3}},
        {"shared_patients": {("train", "train"): 3}},
        {"duplicates": {("train", "test"): 31}},
        {"duplicates": {("test", "train"): 40}},
        {"duplicates": {("train", "test"): -1}},
        {"seed": -1},
    ],
)
def test_options_that_cannot_be(wrong):
    with pytest.raises(ConfigError):
        phantom_splits(**{**SMALL, **wrong})


@pytest.mark.parametrize(
    "wrong", [{"noise": -1}, {"blur": -1}, {"marker": 2}, {"contrast": 0}, {"field_of_view": 0}]
)
def test_sites_that_cannot_be(wrong):
    with pytest.raises(ConfigError):
        PhantomSite(**wrong)
