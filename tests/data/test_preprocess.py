from __future__ import annotations

import json

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from transferkit.data.preprocess import Preprocess
from transferkit.errors import ConfigError, DataError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def images(channels=3, size=(20, 26)):
    generator = torch.Generator().manual_seed(0)
    shape = (4, channels, *size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(20, 26), (9, 31), (48, 7)])
def test_equal_to_torchvision(interpolation, size):
    ours = Preprocess(image_size=size, mean=MEAN, std=STD, interpolation=interpolation)
    batch = reference.to_dtype(images(), torch.float32, scale=True)
    mode = v2.InterpolationMode(interpolation)
    batch = reference.resize(batch, list(size), interpolation=mode, antialias=True)
    expected = reference.normalize(batch, list(MEAN), list(STD))
    torch.testing.assert_close(ours(images()), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("size", [(20, 26), (11, 13)])
def test_uint8_and_float_agree(size):
    ours = Preprocess(image_size=size, mean=MEAN, std=STD)
    as_float = images().float() / 255
    torch.testing.assert_close(ours(images()), ours(as_float), rtol=0, atol=5e-6)
    torch.testing.assert_close(ours(images()), ours(as_float.double()), rtol=0, atol=5e-6)
    assert ours(as_float.double()).dtype == torch.float32


def test_grey_for_a_colour_network_is_three_equal_channels():
    ours = Preprocess(image_size=(16, 16), mean=MEAN, std=STD)
    grey = images(1)
    torch.testing.assert_close(ours(grey), ours(grey.expand(-1, 3, -1, -1)), rtol=0, atol=1e-6)


def test_colour_for_a_grey_network_is_torchvisions_grey():
    ours = Preprocess(image_size=(20, 26), mean=(0.5,), std=(0.25,), in_channels=1)
    batch = reference.to_dtype(images(), torch.float32, scale=True)
    expected = (reference.rgb_to_grayscale(batch) - 0.5) / 0.25
    torch.testing.assert_close(ours(images()), expected, rtol=0, atol=1e-5)


def test_more_channels():
    ours = Preprocess(image_size=(20, 26), mean=[0.1] * 5, std=[0.2] * 5, in_channels=5)
    assert ours(images(5)).shape == (4, 5, 20, 26)
    assert ours(images(1)).shape == (4, 5, 20, 26)
    with pytest.raises(DataError, match="takes 5 channels, the images have 3"):
        ours(images(3))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (images()[0], "shape"),
        (images(2), "shape"),
        (images().long(), "uint8 images or floats"),
        (images().float(), "before any scaling"),
        (images().float() / 127.5 - 1, "before any scaling"),
        (images().float() / 255 * float("nan"), "before any scaling"),
    ],
)
def test_other_input_is_refused(batch, message):
    with pytest.raises(DataError, match=message):
        Preprocess(image_size=(8, 8), mean=MEAN, std=STD)(batch)


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": (0, 8)},
        {"image_size": (8,)},
        {"in_channels": 0},
        {"mean": (0.5, 0.5)},
        {"std": (0.5, 0.0, 0.5)},
        {"std": (0.5, float("nan"), 0.5)},
        {"interpolation": "nearest"},
    ],
)
def test_other_recipes_are_refused(wrong):
    recipe = {"image_size": (8, 8), "mean": MEAN, "std": STD, **wrong}
    with pytest.raises(ConfigError):
        Preprocess(**recipe)


def test_the_recipe_rebuilds_it_exactly():
    ours = Preprocess(image_size=(9, 8), mean=MEAN, std=STD, interpolation="bicubic")
    again = Preprocess(**json.loads(json.dumps(ours.recipe())))
    assert again.recipe() == ours.recipe()
    assert torch.equal(again(images()), ours(images()))
    assert ours.recipe()["mean"] == list(MEAN)
    assert not ours.state_dict()
    assert "3x9x8" in repr(ours)


def test_a_gpu_gives_the_same_as_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    ours = Preprocess(image_size=(13, 13), mean=MEAN, std=STD)
    here = ours(images())
    torch.testing.assert_close(ours.cuda()(images().cuda()).cpu(), here, rtol=0, atol=1e-5)
