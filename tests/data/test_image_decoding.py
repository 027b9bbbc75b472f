from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin, features

import transferkit as tk
from transferkit.data.image_decoding import ORIENTATION, decode, fit, luminance, probe
from transferkit.data.listing import FileSource
from transferkit.data.value_range import DatasetScale
from transferkit.errors import DataError

rng = np.random.default_rng(0)
GREY = rng.integers(0, 256, (6, 9), dtype=np.uint8)
COLOUR = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def save(path, image, **options):
    image.save(path, **options)
    return path


def read(path):
    """The pixels of a dataset of this one file."""
    source = FileSource(path.parent, DatasetScale(None))
    source.read(path.name)
    source.scale.settle()
    return source.read(path.name)


def test_eight_bit_grey_and_colour(tmp_path):
    np.testing.assert_array_equal(decode(save(tmp_path / "a.png", Image.fromarray(GREY))), GREY)
    np.testing.assert_array_equal(decode(save(tmp_path / "b.bmp", Image.fromarray(COLOUR))), COLOUR)


def test_grey_stored_as_colour_is_grey(tmp_path):
    stored = Image.fromarray(np.repeat(GREY[..., None], 3, 2))
    np.testing.assert_array_equal(decode(save(tmp_path / "a.png", stored)), GREY)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits(tmp_path, suffix):
    values = rng.integers(0, 65536, (6, 9), dtype=np.uint16)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(values))
    np.testing.assert_array_equal(read(path), np.rint(values / 257).astype(np.uint8))


def test_wide_integers(tmp_path):
    values = rng.integers(0, 65536, (6, 9), dtype=np.int32)
    path = save(tmp_path / "a.tiff", Image.fromarray(values))
    np.testing.assert_array_equal(read(path), np.rint(values / 257).astype(np.uint8))
    path = save(tmp_path / "b.tiff", Image.fromarray(values * 1000))
    with pytest.raises(DataError, match="Expected 16-bit values"):
        read(path)


def test_floats(tmp_path):
    values = rng.random((6, 9), dtype=np.float32)
    path = save(tmp_path / "a.tiff", Image.fromarray(values))
    np.testing.assert_array_equal(read(path), np.rint(values * np.float32(255)).astype(np.uint8))
    path = save(tmp_path / "b.tiff", Image.fromarray(GREY.astype(np.float32)))
    np.testing.assert_array_equal(read(path), GREY)
    values[2, 3] = np.nan
    with pytest.raises(DataError, match="NaN or infinite"):
        read(save(tmp_path / "c.tiff", Image.fromarray(values)))


def test_black_and_white(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(GREY > 127))
    np.testing.assert_array_equal(decode(path), np.where(GREY > 127, 255, 0))


def test_transparency_shows_black(tmp_path):
    alpha = rng.integers(0, 256, (6, 9, 1), dtype=np.uint8)
    path = save(tmp_path / "a.png", Image.fromarray(np.concatenate([COLOUR, alpha], 2)))
    expected = np.rint(COLOUR / 255.0 * alpha)
    np.testing.assert_array_equal(decode(path), expected)
    opaque = np.full_like(alpha, 255)
    path = save(tmp_path / "b.png", Image.fromarray(np.concatenate([COLOUR, opaque], 2)))
    np.testing.assert_array_equal(decode(path), COLOUR)
    path = save(tmp_path / "c.png", Image.fromarray(np.stack([GREY, opaque[..., 0]], 2)))
    np.testing.assert_array_equal(decode(path), GREY)


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palettes(tmp_path, suffix):
    palette = [0, 0, 0, 255, 0, 0, 0, 255, 0, 10, 20, 30]
    numbers = rng.integers(0, 4, (6, 9), dtype=np.uint8)
    image = Image.frombytes("P", (9, 6), numbers.tobytes())
    image.putpalette(palette)
    expected = np.array(palette, np.uint8).reshape(4, 3)[numbers]
    np.testing.assert_array_equal(decode(save(tmp_path / f"a.{suffix}", image)), expected)
    path = save(tmp_path / f"b.{suffix}", image, transparency=1)
    np.testing.assert_array_equal(decode(path), np.where(numbers[..., None] == 1, 0, expected))


def test_a_palette_with_graded_transparency(tmp_path):
    image = Image.frombytes("P", (2, 1), bytes([0, 1]))
    image.putpalette([200, 100, 50, 10, 20, 30])
    path = save(tmp_path / "a.png", image, transparency=bytes([51, 255]))
    assert decode(path)[0].tolist() == [[40, 20, 10], [10, 20, 30]]


def test_one_transparent_colour(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(GREY), transparency=int(GREY[0, 0]))
    np.testing.assert_array_equal(decode(path), np.where(GREY[0, 0] == GREY, 0, GREY))


def test_cmyk(tmp_path):
    cmyk = np.zeros((16, 16, 4), np.uint8)
    cmyk[:, :8] = [0, 255, 255, 0]
    cmyk[:, 8:] = [255, 255, 0, 0]
    for name, options in (("a.jpeg", {"quality": 100}), ("b.tiff", {})):
        got = decode(save(tmp_path / name, Image.fromarray(cmyk, "CMYK"), **options)).astype(int)
        assert abs(got[8, 3] - [255, 0, 0]).max() < 6
        assert abs(got[8, 12] - [0, 0, 255]).max() < 6


def test_lab_and_ycbcr(tmp_path):
    flat = Image.new("RGB", (16, 16), (180, 90, 40))
    lab = ImageCms.applyTransform(
        flat,
        ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
        ),
    )
    assert lab is not None
    for name, image in (("a.tiff", lab), ("b.jpeg", flat.convert("YCbCr"))):
        got = decode(save(tmp_path / name, image))
        assert abs(got[8, 8].astype(int) - [180, 90, 40]).max() < 8


TURNS = [
    lambda x: x,
    np.fliplr,
    lambda x: np.rot90(x, 2),
    np.flipud,
    lambda x: np.swapaxes(x, 0, 1),
    lambda x: np.rot90(x, -1),
    lambda x: np.rot90(np.swapaxes(x, 0, 1), 2),
    lambda x: np.rot90(x, 1),
]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "webp", None, "tiff_lzw"])
def test_the_camera_may_have_been_turned(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    for image in (GREY, COLOUR, (GREY.astype(np.uint16) * 257), GREY / np.float32(255)):
        path = tmp_path / f"a.{kind if kind in ('png', 'webp') else 'tif'}"
        if path.suffix == ".tif":
            tags = TiffImagePlugin.ImageFileDirectory_v2()
            tags[ORIENTATION] = orientation
            save(path, Image.fromarray(image), compression=kind, tiffinfo=tags)
        elif image.dtype != np.uint8 and (kind == "webp" or image.dtype == np.float32):
            continue
        else:
            more = {"lossless": True} if kind == "webp" else {}
            save(path, Image.fromarray(image), exif=exif.tobytes(), **more)
        expected = TURNS[orientation - 1](COLOUR if image is COLOUR else GREY)
        np.testing.assert_array_equal(read(path), expected)
        assert probe(path) == expected.shape[:2]


def chunk(kind, content):
    length, checked = struct.pack(">I", len(content)), kind + content
    return length + checked + struct.pack(">I", zlib.crc32(checked))


@pytest.mark.parametrize("junk", [b"junk", b"Exif\0\0junk", b"MM\0*\0\0\0\x08\xff\xff"])
def test_a_good_file_with_junk_for_exif_data_is_good(tmp_path, junk):
    plain = save(tmp_path / "a.png", Image.fromarray(GREY)).read_bytes()
    place = plain.index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(plain[:place] + chunk(b"eXIf", junk) + plain[place:])
    save(tmp_path / "b.webp", Image.fromarray(COLOUR), lossless=True, exif=junk)
    images = tk.load_splits(tmp_path, labels="^.", val_share=0).values()
    pixels = {name: data.images[row] for data in images for row, name in enumerate(data.names)}
    np.testing.assert_array_equal(pixels["a.png"], np.repeat(GREY[..., None], 3, 2))
    np.testing.assert_array_equal(pixels["b.webp"], COLOUR)


def tiff(image, photometric, order):
    """An uncompressed TIFF of (H, W), written by the book (TIFF 6.0, sections 2 and 3)."""
    (height, width), data = image.shape, image.astype(image.dtype.newbyteorder(order)).tobytes()
    kind, bits = (3 if image.dtype.kind == "f" else 1), image.dtype.itemsize * 8
    short = {258: bits, 259: 1, 262: photometric, 277: 1, 339: kind}
    long = {256: width, 257: height, 273: 8, 278: height, 279: len(data)}
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, 3 if tag in short else 4, 1)
        + struct.pack(f"{order}HH" if tag in short else f"{order}I", value, *([0] * (tag in short)))
        for tag, value in sorted({**short, **long}.items())
    )
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(data))
    return head + data + struct.pack(f"{order}H", 10) + entries + struct.pack(f"{order}I", 0)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("white", [255, 65535, 1.0])
def test_a_tiff_in_which_zero_is_white(tmp_path, order, white):
    values = {255: GREY, 65535: GREY.astype(np.uint16) * 257, 1.0: GREY / np.float32(255)}[white]
    for photometric in (0, 1):
        path = tmp_path / "a.tif"
        path.write_bytes(tiff(values, photometric, order))
        if (order, white, photometric) == (">", 65535, 0):
            with pytest.raises(DataError, match="cannot identify"):  # by Pillow
                decode(path)
            continue
        np.testing.assert_array_equal(read(path), GREY if photometric else 255 - GREY)


def test_a_large_image_is_no_bomb(tmp_path, monkeypatch):
    for number in range(2):
        save(tmp_path / f"{number}.png", Image.fromarray(GREY))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", GREY.size - 1)
    assert len(tk.load_images(tmp_path)) == 2
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", GREY.size // 3)
    with pytest.raises(DataError, match=r"decompression bomb.* raise PIL\.Image\.MAX_IMAGE_PIXELS"):
        tk.load_images(tmp_path)


def test_webp(tmp_path):
    if not features.check("webp"):
        pytest.skip("this Pillow was built without WebP")
    path = save(tmp_path / "a.webp", Image.fromarray(COLOUR), lossless=True)
    np.testing.assert_array_equal(decode(path), COLOUR)


def test_of_several_frames_the_first(tmp_path):
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    path = save(tmp_path / "a.tiff", frames[0], save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(path), GREY)


@pytest.mark.parametrize("suffix", ["png", "jpeg", "tiff", "gif", "bmp"])
def test_damaged_files_say_what_is_wrong(tmp_path, suffix):
    big = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path = save(tmp_path / f"a.{suffix}", big)
    whole = path.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(DataError, match="the file is empty"):
        decode(path)
    assert probe(path) is None
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"\w"):
        decode(path)
    path.write_bytes(b"no image at all")
    with pytest.raises(DataError, match="cannot identify"):
        decode(path)


def test_luminance():
    expected = (COLOUR @ np.array([299, 587, 114]) / 1000).astype(int)
    assert abs(luminance(COLOUR).astype(int) - expected).max() <= 1
    assert luminance(GREY) is GREY


@pytest.mark.parametrize("how", ["squash", "crop", "pad"])
@pytest.mark.parametrize("image", [GREY, COLOUR])
def test_every_way_to_fit_gives_the_size(how, image):
    assert fit(image, (12, 5), how).shape == (12, 5, *image.shape[2:])
    assert fit(image, (6, 9), how) is image


def test_crop_and_pad_keep_the_aspect_ratio():
    image = np.zeros((20, 40), np.uint8)
    image[:, 10:30] = 200
    assert (fit(image, (10, 10), "crop")[:, 1:-1] == 200).all()
    padded = fit(image, (40, 40), "pad")
    assert (padded[:10] == 0).all()
    assert (padded[10:30, 11:29] == 200).all()
    assert (fit(image, (20, 20), "squash")[:, 6:14] == 200).all()


def test_sixteen_bit_colour_as_the_png_standard_writes_it(tmp_path):
    """Pillow keeps the high byte, which is within 1 of the value divided by 257."""
    values = rng.integers(0, 65536, (6, 9, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 9, 6, 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert abs(decode(path) - values / 257).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LA", "RGBA", "PA"])
def test_pil_images_of_any_mode_hold_what_pillow_shows(mode):
    colours = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8))
    image = colours.convert(mode.removesuffix("A")).convert(mode)
    data = tk.ImageData([image, image])
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(np.broadcast_to(data.images, (2, 6, 7, 3))[1], expected)
    np.testing.assert_array_equal(
        tk.ImageData([image], channels=4).images[0], np.asarray(image.convert("RGBA"))
    )


def test_pil_images_of_several_kinds_in_one_list():
    grey, colour = Image.new("L", (5, 4), 7), Image.new("P", (5, 4))
    colour.putpalette([9, 8, 7])
    data = tk.ImageData([grey, colour])
    assert data.images[:, 0, 0].tolist() == [[7, 7, 7], [9, 8, 7]]
    with pytest.raises(tk.DataError, match=r"one size and bit depth, got .*5x4 uint8.*image_size"):
        tk.ImageData([grey, Image.new("L", (4, 5))])
    with pytest.raises(tk.DataError, match="PIL images only"):
        tk.ImageData([grey, np.zeros((4, 5))])


def test_four_channels_of_files_keep_the_alpha(tmp_path):
    rgba = rng.integers(0, 256, (2, 6, 7, 4), dtype=np.uint8)
    for number, title in enumerate("ab"):
        (tmp_path / title).mkdir()
        Image.fromarray(rgba[number]).save(tmp_path / title / "x.png")
    Image.fromarray(rgba[0, ..., 0]).save(tmp_path / "b" / "y.png")
    grey = np.concatenate([np.repeat(rgba[0, ..., :1], 3, 2), np.full((6, 7, 1), 255)], axis=2)
    for images in (
        tk.load_images(tmp_path, channels=4).images,
        tk.load_splits(tmp_path, channels=4, val_share=0)["train"].images,
    ):
        np.testing.assert_array_equal(images, [*rgba, grey])
    assert tk.load_images(tmp_path).images.shape[3] == 3
