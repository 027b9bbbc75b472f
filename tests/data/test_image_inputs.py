"""Images by path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import transferkit as tk
from transferkit.data.image_decoding import ORIENTATION
from transferkit.data.image_inputs import ImageStream, load_images
from transferkit.errors import ConfigError, DataError


def write(
    path: Path, *shape: int, seed: int = 0
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def test_files_and_folders_come_in_order_as_they_are(tmp_path: Path) -> None:
    first = write(tmp_path / "b.png", 6, 8, seed=1)
    second = write(tmp_path / "folder" / "a.png", 6, 8, seed=2)
    data = load_images([tmp_path / "b.png", tmp_path / "folder"])
    assert data.labels is None
    assert data.names == (str(tmp_path / "b.png"), str(tmp_path / "folder" / "a.png"))
    assert np.array_equal(data.images[..., 0], [first, second])


def test_unequal_sizes_come_to_one_and_grey_joins_colour(tmp_path: Path) -> None:
    grey = write(tmp_path / "a.png", 4, 4)
    write(tmp_path / "b.png", 10, 6, 3)
    data = load_images([tmp_path], image_size=(4, 4))
    assert data.images.shape == (2, 4, 4, 3)
    assert np.array_equal(data.images[0], np.stack([grey] * 3, -1))
    assert data.sizes.tolist() == [[4, 4], [10, 6]]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "nothing").mkdir()
    for path in ("empty.png", "nothing", "absent.png"):
        with pytest.raises(DataError, match=path):
            load_images([tmp_path / path], image_size=(4, 4))


B = "transferkit/formula_resnet18"


@pytest.fixture(scope="module")
def model() -> tk.Classifier:
    return tk.create_classifier(B, 3, image_size=32, seed=0)


def forms(folder: Path) -> dict[str, object]:
    """One colour image in every form."""
    pixels = write(folder / "one.png", 24, 30, 3, seed=3)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    return {
        "batch": pixels[None],
        "array": pixels,
        "floats": pixels.astype(np.float32) / 255,
        "tensor": tensor,
        "float tensor": tensor / 255,
        "pil": Image.fromarray(pixels),
        "path": folder / "one.png",
        "text": str(folder / "one.png"),
        "folder": folder,
        "nested list": pixels.tolist(),
        "list of paths": [folder / "one.png"],
        "list of arrays": [pixels],
        "list of tensors": [tensor],
        "list of pil": [Image.fromarray(pixels)],
        "array of paths": np.array([str(folder / "one.png")]),
        "tuple": (pixels,),
    }


def test_one_image_is_one_image_in_every_form(tmp_path: Path, model: tk.Classifier) -> None:
    found = forms(tmp_path)
    expected = tk.predict(model, found["batch"]).probabilities
    for form, image in found.items():
        got = tk.predict(model, image).probabilities
        assert got.shape == (1, 3), form
        np.testing.assert_allclose(got, expected, atol=1e-6, err_msg=form)


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_one_grey_image(model: tk.Classifier, channels: tuple[int, ...]) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (20, 26), dtype=np.uint8)
    shaped = np.broadcast_to(grey.reshape(20, 26, *(1 for _ in channels)), (20, 26, *channels))
    expected = tk.predict(model, grey[None]).probabilities
    for image in (shaped, torch.from_numpy(grey.copy()), torch.from_numpy(grey.copy())[None]):
        got = tk.predict(model, image).probabilities
        np.testing.assert_allclose(got, expected, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_an_image_alone_and_in_a_list_has_the_same_pixels(data: st.DataObject) -> None:
    shapes = data.draw(
        st.lists(
            st.tuples(st.integers(5, 9), st.integers(5, 9), st.sampled_from([1, 3, 4])),
            min_size=1,
            max_size=6,
        )
    )
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    together: dict[int, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] = {}
    for places, group in ImageStream(images):
        together |= dict(zip(places.tolist(), group.images, strict=True))
    assert sorted(together) == list(range(len(images)))
    cut = data.draw(st.integers(0, len(images)))
    halves = [group for half in (images[:cut], images[cut:]) if half for group in [half]]
    apart = [
        dict(zip(places.tolist(), group.images, strict=True))
        for half in halves
        for part in [ImageStream(half)]
        for places, group in part
    ]
    assert sum(map(len, apart)) == len(images)
    for place, image in enumerate(images):
        ((_, alone),) = ImageStream([image])
        np.testing.assert_array_equal(alone.images[0], together[place])
        ((_, bare),) = ImageStream(Image.fromarray(image.squeeze()))
        shown = bare.images[0]
        np.testing.assert_array_equal(
            np.broadcast_to(shown, together[place].shape), together[place]
        )


def test_a_list_of_unequal_images_is_predicted_in_its_order(
    tmp_path: Path, model: tk.Classifier
) -> None:
    paths = []
    for number, shape in enumerate([(20, 30), (40, 25, 3), (20, 30), (33, 33)]):
        paths.append(tmp_path / f"{number}.png")
        write(paths[-1], *shape, seed=number)
    got = tk.predict(model, paths)
    assert got.names == tuple(map(str, paths))
    for place, path in enumerate(paths):
        one = tk.predict(model, path).probabilities[0]
        np.testing.assert_allclose(got.probabilities[place], one, atol=1e-6)
    some = tk.predict(model, [paths[1], Image.open(paths[0])]).probabilities
    np.testing.assert_allclose(some, got.probabilities[[1, 0]], atol=1e-6)


@pytest.mark.parametrize("count", [2, 5])
def test_several_grey_images_stay_several(model: tk.Classifier, count: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, 20, 26), dtype=np.uint8)
    expected = tk.predict(model, images[..., None]).probabilities
    for same in (images, list(images), list(torch.from_numpy(images)), images.tolist()):
        np.testing.assert_allclose(tk.predict(model, same).probabilities, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((3, 20, 26)), r"\(3, 20, 26\) may be one image \(C, H, W\) or 3 grey images"),
        (np.zeros((4, 20, 26), np.uint8), r"images\[None\].*images\[\.\.\., None\]"),
        (torch.zeros(5, 20, 26), r"\(N, C, H, W\), got \(5, 20, 26\).*images\[:, None\]"),
        (np.zeros((2, 20, 26, 5)), r"got \(2, 20, 26, 5\)"),
        ([np.zeros((5, 20, 26))], r"image\[0\] to have the shape .*got \(5, 20, 26\)"),
        ([np.zeros((20, 26)), None], r"Cannot read image\[1\]: .*got None"),
        ([np.zeros((20, 26)), 3], r"Cannot read image\[1\]: .*got a value of type int"),
        (["a.png", np.zeros((20, 26))], r"no file or folder a\.png"),
        ([np.full((20, 26), np.nan)], "NaN"),
        ([np.full((20, 26), "x")], "numbers"),
    ],
)
def test_what_may_be_read_in_two_ways_or_none_is_refused(
    model: tk.Classifier, images: object, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        tk.predict(model, images)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_network_of_four_channels_sees_the_alpha(tmp_path: Path, mode: str) -> None:
    four = tk.create_classifier("resnet18", 2, weights=None, in_channels=4, image_size=32, seed=0)
    pixels = write(tmp_path / "one.png", 24, 30, len(mode), seed=3)
    image = Image.open(tmp_path / "one.png")
    assert image.mode == mode
    colours = pixels if mode == "RGBA" else pixels[..., [0, 0, 0, 1]]
    expected = tk.predict(four, tk.ImageData(colours[None], channels=4)).probabilities
    for form in (image, [image], tmp_path / "one.png", colours):
        np.testing.assert_allclose(tk.predict(four, form).probabilities, expected, atol=1e-6)


def test_an_image_is_turned_upright_in_every_form(tmp_path: Path) -> None:
    write(tmp_path / "plain.png", 6, 9)
    with Image.open(tmp_path / "plain.png") as image:
        exif = image.getexif()
        exif[ORIENTATION] = 6
        image.save(tmp_path / "turned.png", exif=exif)
    ((_, by_path),) = ImageStream(tmp_path / "turned.png")
    ((_, by_pil),) = ImageStream(Image.open(tmp_path / "turned.png"))
    assert by_path.images.shape == (1, 9, 6, 1)
    assert np.array_equal(by_path.images, by_pil.images)


def test_twelve_bit_files_are_read_on_one_scale(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (2, 8, 8)).astype(np.uint16)
    values[0] //= 8
    for name, own in zip("ab", values, strict=True):
        Image.fromarray(own).save(tmp_path / f"{name}.png")
    expected = np.rint(values * (255 / 4095)).astype(np.uint8)
    with pytest.warns(UserWarning, match="12-bit"):
        data = load_images(tmp_path)
    assert data.bits == 12
    assert np.array_equal(data.images[..., 0], expected)
    alone = load_images(tmp_path / "a.png", bits=12)
    assert np.array_equal(alone.images[..., 0], expected[:1])
    with pytest.warns(UserWarning, match="12-bit"):
        ((_, group),) = ImageStream([tmp_path / "a.png", tmp_path / "b.png"])
    assert np.array_equal(group.images, data.images)


def test_one_size_may_be_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "a.png", 10, 20)
    assert load_images(tmp_path, image_size=8, resize="pad").images.shape == (1, 8, 8, 1)
    with pytest.raises(ConfigError, match="image_size"):
        load_images(tmp_path, image_size=0)
    with pytest.raises(DataError, match="list of paths"):
        load_images([])
