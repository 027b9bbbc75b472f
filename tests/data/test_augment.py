from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode, functional

from transferkit.data.augment import Augment, affine, luminance_mean
from transferkit.errors import ConfigError, DataError

NOTHING = {"flip": False, "rotation": 0.0, "crop": 1.0, "brightness": 0.0, "contrast": 0.0}


def images(channels=3, size=(24, 32), count=8):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((count, channels, 5, 6), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")
    return (255 * smooth).to(torch.uint8)


def augment(batch, seed=0, **options):
    return Augment(**{**NOTHING, **options})(batch, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 3])
def test_no_strength_is_the_identity(channels):
    assert torch.equal(augment(images(channels)), images(channels))


def test_a_vanishing_strength_is_nearly_the_identity():
    out = augment(images(), rotation=1e-4, crop=1 - 1e-6, brightness=1e-4, contrast=1e-4)
    assert (out.int() - images().int()).abs().max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_type_shape_and_determinism(channels):
    batch = images(channels)
    first = Augment()(batch, torch.Generator().manual_seed(3))
    assert first.dtype == torch.uint8
    assert first.shape == batch.shape
    assert torch.equal(first, Augment()(batch, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, Augment()(batch, torch.Generator().manual_seed(4)))
    state = torch.get_rng_state()
    Augment()(batch, torch.Generator().manual_seed(3))
    assert torch.equal(state, torch.get_rng_state())


def test_each_image_is_flipped_or_not():
    batch = images(count=64)
    out = augment(batch, flip=True)
    flipped = (out == batch.flip(-1)).flatten(1).all(1)
    kept = (out == batch).flatten(1).all(1)
    assert torch.equal(flipped, ~kept)
    assert 16 < int(flipped.sum()) < 48


def test_a_turn_is_torchvisions_turn():
    batch = images(size=(33, 41))
    angle = 12.0
    theta = affine(
        torch.full((8,), angle).deg2rad(),
        torch.ones(8),
        torch.zeros(8, dtype=torch.bool),
        torch.zeros(8),
        torch.zeros(8),
        41 / 33,
    )
    grid = torch.nn.functional.affine_grid(theta, list(batch.shape), align_corners=False)
    ours = torch.nn.functional.grid_sample(batch.float(), grid, align_corners=False)
    theirs = functional.rotate(batch.float(), angle, interpolation=InterpolationMode.BILINEAR)
    inside = slice(8, -8)
    assert (ours - theirs)[..., inside, inside].abs().max() < 0.5


def test_a_crop_shows_a_part_of_the_picture_enlarged():
    ramp = torch.arange(64).repeat(16, 1, 64, 1).to(torch.uint8) * 3
    out = augment(ramp, crop=0.5).float()
    width = (out[..., -1] - out[..., 0]).mean((1, 2)) / 3
    assert float(width.min()) > 31
    assert float(width.max()) < 64
    assert float(width.max() - width.min()) > 10
    assert (out.diff(dim=-1) >= 0).all()


def test_a_flip_under_a_turn_stays_a_mirror_image():
    """A mark in the upper left quarter may change sides, but never falls out or goes down."""
    batch = torch.zeros((64, 1, 40, 40), dtype=torch.uint8)
    batch[:, :, 8:14, 8:14] = 255
    out = augment(batch, flip=True, rotation=10, crop=0.9).float()
    rows = torch.arange(40.0).view(1, 1, 40, 1)
    columns = torch.arange(40.0).view(1, 1, 1, 40)
    mass = out.sum((1, 2, 3))
    down, across = (out * rows).sum((1, 2, 3)) / mass, (out * columns).sum((1, 2, 3)) / mass
    assert (mass > 0.5 * 36 * 255).all()
    assert (down < 18).all()
    assert ((across < 18) | (across > 22)).all()
    assert (across < 18).any()
    assert (across > 22).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_brightness_and_contrast_are_torchvisions(channels):
    batch = images(channels, count=1)
    ours = Augment(**{**NOTHING, "brightness": 0.5, "contrast": 0.5})
    draws = torch.tensor([[0.9, 0.2]])
    got = ours.expose(batch, draws) / 255
    expected = functional.adjust_brightness(batch / 255, 1 + 0.5 * 0.8)
    expected = functional.adjust_contrast(expected, 1 - 0.5 * 0.6)
    torch.testing.assert_close(got.clamp(0, 1), expected, rtol=0, atol=1e-5)
    assert luminance_mean(batch.float()).shape == (1, 1, 1, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rotation": -1},
        {"rotation": 400},
        {"crop": 0},
        {"crop": 1.1},
        {"brightness": -0.1},
        {"contrast": 2},
    ],
)
def test_strengths_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError):
        Augment(**wrong)


@pytest.mark.parametrize(
    "batch", [torch.zeros(2, 3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8)]
)
def test_other_batches_are_refused(batch):
    with pytest.raises(DataError, match="uint8 images"):
        Augment()(batch, torch.Generator())
