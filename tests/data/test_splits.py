from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transferkit._sampling import quotas
from transferkit.data.image_data import ImageData
from transferkit.data.splits import Splits, divide, groups_from_names, pool, resplit
from transferkit.errors import DataError


def make(count, *, start=0, groups=None, classes=2, size=4):
    images = np.arange(start, start + count, dtype=np.uint8)[:, None, None].repeat(size, 1)
    names = [f"a/p{(start + i) // 4}_{i}.png" for i in range(count)]
    labels = np.arange(count) % classes
    return ImageData(images.repeat(size, 2), labels, channels=1, names=names, groups=groups)


def identities(data):
    return data.images[:, 0, 0, 0].tolist()


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(0, 100))
def test_quotas_add_up_and_are_near(weights, total):
    shares = quotas(np.array(weights, float), total)
    assert shares.sum() == total
    assert (abs(shares - np.array(weights) / sum(weights) * total) < 1).all()


@given(
    st.lists(st.integers(0, 3), min_size=10, max_size=80),
    st.integers(1, 4),
    st.integers(0, 5),
)
def test_parts_are_a_partition_of_the_sizes_and_shares_asked_for(labels, parts, seed):
    labels = np.array(labels)
    sizes = quotas(np.arange(1, parts + 1, dtype=float), len(labels))
    rows = divide(labels, sizes, seed=seed)
    assert [len(part) for part in rows] == list(sizes)
    assert sorted(np.concatenate(rows)) == list(range(len(labels)))
    for part in rows:
        for k in np.unique(labels):
            expected = (labels == k).mean() * len(part)
            assert abs((labels[part] == k).sum() - expected) < parts + 1


@given(st.integers(0, 20))
def test_groups_are_never_torn_and_sizes_are_near(seed):
    rng = np.random.default_rng(seed)
    groups = [f"g{i}" for i in rng.integers(0, 120, 400)]
    kind = {group: int(rng.integers(2)) for group in groups}
    labels = np.array([kind[group] for group in groups])
    sizes = [240, 80, 80]
    rows = divide(labels, sizes, seed=seed, groups=groups)
    homes = [{groups[i] for i in part} for part in rows]
    assert not homes[0] & homes[1] | homes[0] & homes[2] | homes[1] & homes[2]
    assert sorted(np.concatenate(rows)) == list(range(400))
    for part, size in zip(rows, sizes, strict=True):
        assert abs(len(part) - size) <= 8
        assert abs(labels[part].mean() - labels.mean()) < 0.08


def test_a_division_depends_on_the_seed_only():
    labels = np.arange(60) % 3
    for groups in (None, [f"g{i // 2}" for i in range(60)]):
        first, again, other = (divide(labels, [40, 20], seed=s, groups=groups) for s in (0, 0, 1))
        assert [part.tolist() for part in first] == [part.tolist() for part in again]
        assert [part.tolist() for part in first] != [part.tolist() for part in other]


def test_every_row_is_as_likely_in_every_part():
    labels = np.arange(20) % 2
    for groups in (None, [f"g{i}" for i in range(20)]):
        hits = np.zeros(20)
        for seed in range(400):
            hits[divide(labels, [10, 10], seed=seed, groups=groups)[1]] += 1
        assert abs(hits / 400 - 0.5).max() < 0.12


def test_too_few_to_split():
    with pytest.raises(DataError, match="Too few images"):
        divide(np.array([0, 1]), [2, 0], seed=0)
    with pytest.raises(DataError, match="Too few groups"):
        divide(np.array([0, 1, 0]), [2, 1], seed=0, groups=["a", "a", "a"])


def three(**fields):
    return Splits(
        {"train": make(60, **fields), "val": make(20, start=60), "test": make(24, start=80)}
    )


def test_resplit_keeps_sizes_and_images():
    fresh = resplit(three(), seed=0)
    assert {name: len(data) for name, data in fresh.items()} == {"train": 60, "val": 20, "test": 24}
    assert sorted(i for data in fresh.values() for i in identities(data)) == list(range(104))
    assert fresh["test"].class_counts().tolist() == [12, 12]
    assert identities(fresh["test"]) != identities(resplit(three(), seed=1)["test"])
    assert identities(fresh["test"]) == identities(resplit(three(), seed=0)["test"])


@pytest.mark.parametrize(
    "groups", [r"p\d+", [f"p{i // 4}" for i in range(104)]], ids=["pattern", "sequence"]
)
def test_resplit_by_group(groups):
    fresh = resplit(three(), seed=0, groups=groups)
    homes = [{i // 4 for i in identities(data)} for data in fresh.values()]
    assert sum(map(len, homes)) == len(set.union(*homes)) == 26


def test_resplit_by_the_datas_own_groups():
    splits = Splits({n: make(20, groups=[f"{i % 5}" for i in range(20)]) for n in ("train", "val")})
    fresh = resplit(splits, seed=0, groups=True)
    assert not set(fresh["train"].groups or ()) & set(fresh["val"].groups or ())
    assert set(resplit(splits, seed=0)["train"].groups or ()) & set(splits["val"].groups or ())
    with pytest.raises(DataError, match="groups=True"):
        resplit(three(), seed=0, groups=True)


def test_what_cannot_be_pooled():
    odd = Splits({"train": make(4), "test": make(4, size=5)})
    with pytest.raises(DataError, match="sizes differ"):
        resplit(odd, seed=0)
    bare = Splits({"train": make(4), "test": ImageData(np.zeros((3, 4, 4, 1), np.uint8))})
    with pytest.raises(DataError, match="needs labels"):
        pool(bare)
    with pytest.raises(DataError, match="104 images but 3 groups"):
        resplit(three(), seed=0, groups=["a", "b", "c"])


def test_groups_from_names():
    names = ["x/person1/person12_a.png", "person12_b.png", "other.png"]
    assert groups_from_names(names, r"person\d+") == ["person12", "person12", "other.png"]
