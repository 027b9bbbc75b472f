"""Augmented views, folding and compilation: faster, and the same training."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import v2

from transferkit.data.augment import Augment, draws_per_image
from transferkit.data.disk_cache import CacheWarning
from transferkit.errors import ConfigError, TrainingError
from transferkit.models.freezing import freeze, stages, unfreeze
from transferkit.models.frozen_prefix import Cut
from transferkit.models.prefix_cache import Cache
from transferkit.training.batches import augmenter
from transferkit.training.trainer import Trainer

OPTIONS = {"lr": 0.02, "batch_size": 8, "progress": False, "device": "cpu"}
MIRROR = Augment(flip=True, rotation=20, crop=0.8, brightness=0.2, contrast=0.2)


def trained(model, train, val, *, epochs=4, **options):
    history = Trainer(model, **OPTIONS | options).fit(train, val, epochs=epochs)
    return model, [record.train_loss for record in history.records]


def close(a: torch.nn.Module, b: torch.nn.Module, tolerance: float = 1e-5) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.allclose(x, y, rtol=0, atol=tolerance) for x, y in pairs)


@pytest.fixture
def frozen(small):
    def build(*, upto: str | int = -1, seed: int = 0):
        model = small(seed=seed)
        unfreeze(model, upto=upto)
        return model

    return build


@pytest.mark.parametrize("upto", [-1, 1])
@pytest.mark.parametrize("augment", [None, MIRROR])
def test_folding_changes_nothing_but_rounding(frozen, train, val, monkeypatch, upto, augment):
    options = {"augment": augment, "cache": None, "optimizer": "sgd"}
    folded, losses = trained(frozen(upto=upto), train, val, **options)
    folds = []
    monkeypatch.setattr(Cut, "folded", lambda cut, _example: folds.append(1) or cut)
    plain, others = trained(frozen(upto=upto), train, val, **options)
    assert folds
    assert losses == pytest.approx(others, abs=1e-5)
    assert close(folded, plain)


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_each_view_is_encoded_once(frozen, train, val, tmp_path, where, views):
    seen: list[int] = []
    model = frozen()
    model.preprocess.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    cache = Cache(where=where, folder=tmp_path, views=views)
    trained(model, train, val, epochs=7, augment=MIRROR, cache=cache)
    assert 0 <= sum(seen) - (views * len(train) + len(val)) < 10
    if where == "disk":
        assert len(cache.store().entries()) == views + 1
        seen.clear()
        trained(model, train, val, epochs=7, augment=MIRROR, cache=cache)
        assert sum(seen) < 10


def test_the_epochs_take_turns_on_the_views(frozen, train):
    """With a rate of nearly zero the loss of an epoch depends on its images alone."""
    _, losses = trained(
        frozen(), train, None, epochs=6, lr=1e-12, augment=MIRROR, cache=Cache(views=2)
    )
    assert losses[0] == pytest.approx(losses[2], abs=1e-6)
    assert losses[1] == pytest.approx(losses[5], abs=1e-6)
    assert losses[0] != pytest.approx(losses[1], abs=1e-4)


def test_a_view_is_the_augmented_images_through_the_model(frozen, train):
    """A function that inverts: the view must be what the model makes of inverted images."""

    def invert(images: Tensor) -> Tensor:
        return 255 - images

    inverted = type(train)(255 - train.images, train.labels, classes=train.classes)
    seen, _ = trained(frozen(), train, None, augment=invert, cache=Cache(views=1))
    want, _ = trained(frozen(), inverted, None)
    assert close(seen, want)


def test_views_follow_from_the_seed(frozen, train, val):
    cache = Cache(views=2)
    first, _ = trained(frozen(), train, val, augment=MIRROR, cache=cache)
    second, _ = trained(frozen(), train, val, augment=MIRROR, cache=cache)
    other, _ = trained(frozen(), train, val, augment=MIRROR, cache=cache, seed=1)
    assert close(first, second, 0.0)
    assert not close(first, other)


def test_without_views_augmentation_is_drawn_anew(frozen, train):
    _, losses = trained(frozen(), train, None, lr=1e-12, augment=MIRROR)
    assert len({round(loss, 6) for loss in losses}) == 4


def test_a_function_cannot_be_found_again_on_disk(frozen, train, val, tmp_path):
    def same(images: Tensor) -> Tensor:
        return images

    cache = Cache(where="disk", folder=tmp_path, views=2)
    with pytest.raises(ConfigError, match="Augment"):
        trained(frozen(), train, val, augment=same, cache=cache)
    with pytest.warns(CacheWarning, match="every epoch"):
        trained(frozen(), train, val, augment=same, cache=Cache(memory=1, folder=tmp_path, views=2))
    assert list(tmp_path.rglob("*.npy")) == []
    with pytest.raises(ConfigError, match="views"):
        Cache(views=-1)


def test_views_of_a_cut_inside_the_backbone(frozen, train, val):
    model = frozen(upto=1)
    assert stages(model)[1] != "head"
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained(model, train, val, augment=MIRROR, cache=Cache(views=2))
    changed = [name for name, t in model.state_dict().items() if not torch.equal(t, before[name])]
    assert changed
    assert not any(name.startswith("backbone.stem") for name in changed)


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
def test_compiled_is_the_same_training(small, train, val, whole):
    """Two batch sizes, train and eval mode, frozen or not."""
    pytest.importorskip("torch._inductor")
    models = []
    for compiled in (False, True):
        model = small()
        if not whole:
            freeze(model)
        part = train.subset(np.arange(44))
        models.append(
            trained(model, part, val, epochs=2, compiled=compiled, cache=None, optimizer="sgd")[0]
        )
    assert close(*models, 1e-4)


def flip_once(images):
    return images.flip(-1) if torch.rand(()) < 0.5 else images


def flip_each(images):
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(-1), images)


FLIPS = {
    "v2": v2.RandomHorizontalFlip(0.5),
    "compose": v2.Compose([v2.RandomHorizontalFlip(0.5)]),
    "v1": transforms.RandomHorizontalFlip(0.5),
    "sequential": torch.nn.Sequential(v2.RandomHorizontalFlip(0.5)),
    "partial": partial(v2.RandomHorizontalFlip(0.5)),
    "bound method": v2.RandomHorizontalFlip(0.5).forward,
    "lambda": lambda images: v2.RandomHorizontalFlip(0.5)(images),
    "own, once": flip_once,
    "own, each": flip_each,
}


@pytest.mark.parametrize("flip", FLIPS.values(), ids=FLIPS)
def test_random_numbers_are_drawn_anew_for_each_image(train, flip):
    images = train.batch(np.arange(len(train)))
    torch.manual_seed(0)
    changed = augmenter(flip)(images)
    flipped = [torch.equal(a, b.flip(-1)) for a, b in zip(changed, images, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(changed, images, strict=True)]
    assert all(a or b for a, b in zip(flipped, kept, strict=True))
    assert 10 < sum(flipped) < 40


def test_only_what_draws_for_each_image_is_given_whole_batches():
    images = torch.zeros((3, 3, 12, 10), dtype=torch.uint8)

    def noisy(change):  # grain differs from image to image whatever the change does
        return lambda batch: change(batch) + torch.randn(batch.shape)

    assert draws_per_image(flip_each, images)
    assert draws_per_image(noisy(flip_each), images)
    assert draws_per_image(noisy(lambda batch: batch), images)
    assert not draws_per_image(noisy(flip_once), images)
    assert not draws_per_image(lambda batch: batch, images)
    before = torch.get_rng_state()
    draws_per_image(flip_once, images)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_transform_that_makes_images_of_several_sizes(frozen, train):
    crop = v2.Lambda(lambda image: image[:, : 8 + int(torch.randint(0, 8, ()))])
    with pytest.raises(TrainingError, match="augment must return a tensor of 8 images"):
        trained(frozen(), train, None, augment=crop)
