import hashlib
import itertools
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from helpers import load_batch
from PIL import Image, ImageCms

from models.tasks import TASKS
from utils import InputError
from utils.rdms.preprocessing import get_preprocessing, resize_bilinear
from utils.rdms.stimuli import decode, list_images, natural_key

CLIPPED = [
    "autoencoder", "curvature", "denoise", "edge2d", "edge3d", "keypoint2d", "keypoint3d", "reshade", "rgb2depth",
    "rgb2mist", "rgb2sfnorm", "segment25d", "segment2d",
]  # fmt: skip


@pytest.fixture
def picture(rng) -> np.ndarray:
    """A smooth picture, which survives JPEG, with black, white and saturated colours."""
    y, x = np.mgrid[:60, :80] / 80
    waves = np.stack([np.sin(9 * x + 2), np.cos(7 * y), np.sin(5 * (x + y))], axis=-1)
    picture = (127.5 + 140 * waves).clip(0, 255).astype(np.uint8)
    picture[:4, :4], picture[-4:, -4:] = 0, 255
    return picture


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


# ------------------------------------------------------------------------------------------------------ which images


def test_a_folder_is_listed_in_natural_order(tmp_path, picture):
    for name in ("image_10.png", "image_2.png", "Image_1.PNG", "b.jpg", ".hidden.png"):
        save(tmp_path / name, picture)
    (tmp_path / "more").mkdir()
    assert [name for name, _ in list_images(tmp_path)] == ["b", "Image_1", "image_2", "image_10"]


def test_natural_order_counts_numbers_and_settles_ties():
    names = ["a10", "a9b", "a9", "A9", "10", "9", "a09", "a"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "A9", "a09", "a9", "a9b", "a10"]


def test_a_list_keeps_its_order(tmp_path, picture):
    (tmp_path / "set").mkdir()
    for name in ("b.png", "a b.png"):
        save(tmp_path / "set" / name, picture)
    (tmp_path / "list.txt").write_text("﻿# shown in this order\nset/b.png\n\nset/a b.png\n", encoding="utf-8")
    assert list_images(tmp_path / "list.txt") == [
        ("b", tmp_path / "set" / "b.png"),
        ("a b", tmp_path / "set" / "a b.png"),
    ]


def test_other_files_are_left_out_aloud(tmp_path, picture):
    save(tmp_path / "a.png", picture)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.warns(UserWarning, match=r"skipped 1 file\(s\) that are not images: notes.txt"):
        assert len(list_images(tmp_path)) == 1


def test_an_image_of_an_unknown_format_is_not_left_out(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0" * 50)
    [(_, path)] = list_images(tmp_path)
    with pytest.raises(InputError, match=r"a\.heic: cannot be decoded"):
        decode(path)


def test_bad_sources_are_refused(tmp_path, picture):
    with pytest.raises(InputError, match="does not exist"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no images among its 0 files"):
        list_images(tmp_path)
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(InputError, match="lists no images"):
        list_images(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("\nmissing.png")
    with pytest.raises(InputError, match=r"line 2 names .*missing\.png, which does not exist"):
        list_images(tmp_path / "list.txt")
    with pytest.raises(InputError, match="is not a text file"):
        list_images(save(tmp_path / "a.png", picture))


def test_two_images_with_one_name_are_both_named(tmp_path, picture):
    for name in ("a.png", "a.jpg", "b.png"):
        save(tmp_path / name, picture)
    with pytest.raises(InputError, match=r"two images are named 'a': .*a\.jpg and .*a\.png"):
        list_images(tmp_path)


def test_names_that_conditions_txt_cannot_keep_are_refused(tmp_path, picture):
    save(tmp_path / "a\nb.png", picture)
    with pytest.raises(InputError, match=r"'a\\nb.png' starts or ends with a blank or contains unprintable"):
        list_images(tmp_path)


# ---------------------------------------------------------------------------------------------------------- decoding


def write_png16(path, array):
    """A PNG of 16 bits per channel, which Pillow cannot write in colour."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, 2 if array.ndim == 3 else 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "ppm", "gif"])
def test_plain_images_are_read_as_they_are(tmp_path, picture, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    if suffix == "gif":  # 256 colours
        picture = picture // 64 * 64
    decoded = decode(save(tmp_path / f"a.{suffix}", picture, **options))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, picture)


def test_greyscale_and_black_and_white_get_three_channels(tmp_path, picture):
    grey = decode(save(tmp_path / "grey.png", picture[..., 0]))
    np.testing.assert_array_equal(grey, np.repeat(picture[..., :1], 3, axis=-1))
    bits = decode(save(tmp_path / "bits.png", picture[..., 0] > 100))
    np.testing.assert_array_equal(bits[..., 1], 255 * (picture[..., 0] > 100))


def test_a_palette_becomes_colours(tmp_path, picture):
    few = picture // 128 * 128
    Image.fromarray(few).quantize(64).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
    np.testing.assert_array_equal(decode(tmp_path / "a.png"), few)


@pytest.mark.parametrize("kind", ["grey png", "colour png", "grey tif"])
def test_sixteen_bits_are_scaled_not_cut_off(tmp_path, rng, kind):
    deep = rng.integers(0, 2**16, (6, 8, 3)).astype(np.uint16)
    deep = deep if kind == "colour png" else np.repeat(deep[..., :1], 3, axis=-1)
    if kind == "colour png":
        path = write_png16(tmp_path / "a.png", deep)
    elif kind == "grey png":
        path = write_png16(tmp_path / "a.png", deep[..., 0])
    else:
        path = save(tmp_path / "a.tif", deep[..., 0])
    # Pillow reads the upper byte of colours, which is up to 1 off.
    assert np.abs(decode(path) - deep / 257).max() <= (1 if kind == "colour png" else 0.5)


def test_opaque_alpha_is_dropped(tmp_path, picture):
    opaque = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    np.testing.assert_array_equal(decode(save(tmp_path / "a.png", opaque)), picture)
    grey = np.dstack([picture[..., 0], opaque[..., 3]])
    np.testing.assert_array_equal(decode(save(tmp_path / "b.png", grey))[..., 2], picture[..., 0])


def test_transparent_pixels_are_refused(tmp_path, picture):
    alpha = np.full(picture.shape[:2], 255, np.uint8)
    alpha[3, 5] = 254
    with pytest.raises(InputError, match=r"a\.png: has transparent pixels.*background that participants saw"):
        decode(save(tmp_path / "a.png", np.dstack([picture, alpha])))
    with pytest.raises(InputError, match=r"b\.png: has transparent pixels"):
        decode(save(tmp_path / "b.png", picture[..., 0] // 64, transparency=1))
    Image.fromarray(picture).quantize(16).save(tmp_path / "c.png", transparency=0)
    with pytest.raises(InputError, match=r"c\.png: has transparent pixels"):
        decode(tmp_path / "c.png")


def test_cmyk_is_converted(tmp_path, picture):
    Image.fromarray(picture).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert np.abs(decode(tmp_path / "a.jpg").astype(int) - picture).mean() < 3
    # A colour profile that cannot be used is as good as none.
    broken = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(picture).convert("CMYK").save(tmp_path / "b.jpg", quality=100, icc_profile=broken)
    np.testing.assert_array_equal(decode(tmp_path / "b.jpg"), decode(tmp_path / "a.jpg"))


def grey_inks():
    """A colour profile of a printer whose four inks are grey: each one halves the lightness."""
    clut = [value for inks in itertools.product((0, 1), repeat=4) for value in (255 >> sum(inks), 128, 128)]
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    curve = bytes(range(256))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + 4 * curve + bytes(clut) + 3 * curve
    white = struct.pack(">3i", *(round(65536 * x) for x in (0.9642, 1, 0.8249)))
    header = struct.pack(">I4xI4s4s4s12x4s28x", 144 + len(lut), 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp") + white
    return header.ljust(128, b"\0") + struct.pack(">I4sII", 1, b"A2B0", 144, len(lut)) + lut


@pytest.mark.parametrize("suffix", ["tif", "jpg"])
def test_the_colour_profile_of_a_cmyk_image_decides(tmp_path, suffix):
    """Without it, Pillow would show full cyan as (0, 255, 255)."""
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    cyan.save(tmp_path / f"a.{suffix}", icc_profile=grey_inks())
    decoded = decode(tmp_path / f"a.{suffix}")
    assert np.abs(decoded.astype(int) - 119).max() <= 3  # L* = 50 in sRGB
    cyan.save(tmp_path / f"b.{suffix}")
    assert np.abs(decode(tmp_path / f"b.{suffix}")[0, 0].astype(int) - [0, 255, 255]).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(tmp_path, picture, orientation):
    turned = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, 1),
        7: picture[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(picture, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", np.ascontiguousarray(turned), exif=exif)
    np.testing.assert_array_equal(decode(path), picture)


@pytest.mark.parametrize(("suffix", "options"), [("gif", {}), ("png", {}), ("webp", {}), ("tif", {})])
def test_animated_images_are_refused(tmp_path, picture, suffix, options):
    frames = [Image.fromarray(np.roll(picture, 9 * k, axis=0)) for k in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    with pytest.raises(InputError, match=rf"a\.{suffix}: has 3 frames, expected a still image"):
        decode(tmp_path / f"a.{suffix}")


def test_the_picture_of_a_phone_is_its_first_frame(tmp_path, picture):
    preview = Image.fromarray(picture[::2, ::2].copy())
    Image.fromarray(picture).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview], quality=95)
    assert decode(tmp_path / "a.jpg").shape == picture.shape


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "tif", "webp"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9])
def test_truncated_images_are_refused(tmp_path, rng, suffix, share):
    noise = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    whole = save(tmp_path / f"whole.{suffix}", noise).read_bytes()
    path = tmp_path / f"part.{suffix}"
    path.write_bytes(whole[: int(share * len(whole))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(
            InputError, match=rf"part\.{suffix}: cannot be decoded \(.+\); expected an intact image"
        ) as error:
            decode(path)
    assert "\n" not in str(error.value)


def test_what_is_no_image_is_refused(tmp_path, picture, rng):
    (tmp_path / "a.jpg").write_text("not found")
    with pytest.raises(InputError, match=r"a\.jpg: cannot be decoded"):
        decode(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"b\.png: cannot be decoded"):
        decode(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"c\.tif: is of type F, which has no defined colours"):
        decode(save(tmp_path / "c.tif", rng.random((9, 9)).astype(np.float32)))
    with pytest.raises(InputError, match=r"d\.png: is 1 x 60 pixels, expected at least 2 x 2"):
        decode(save(tmp_path / "d.png", np.ascontiguousarray(picture[:, :1])))


def test_images_that_are_too_large_are_refused(tmp_path, picture, monkeypatch):
    path = save(tmp_path / "a.png", picture)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"a\.png: cannot be decoded \(Image size .* exceeds limit"):
        decode(path)


def test_images_are_never_written_to(tmp_path, picture):
    path = save(tmp_path / "a.png", picture)
    before = hashlib.sha256(path.read_bytes()).digest(), path.stat().st_mtime_ns
    for task in ("edge2d", "colorization", "inpainting_whole"):
        load_batch([path], get_preprocessing("taskbank", task=task))
    assert (hashlib.sha256(path.read_bytes()).digest(), path.stat().st_mtime_ns) == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


# ------------------------------------------------------------------------------------------------------ preprocessing


def taskbank_by_scikit_image(picture, task):
    """The task bank's steps, with scikit-image. Its version 0.12.3 filled with black beyond the border."""
    from skimage.color import rgb2lab
    from skimage.transform import resize
    from skimage.util import img_as_float

    height, width, _ = picture.shape
    half = min(height, width) // 2
    image = img_as_float(picture)[height // 2 - half : height // 2 + half, width // 2 - half : width // 2 + half]
    if image.shape[0] != 256:
        image = resize(image, (256, 256), order=1, mode="constant", cval=0, anti_aliasing=False, preserve_range=True)
    if task == "colorization":
        return (rgb2lab(image)[..., :1] / 100).astype(np.float32).transpose(2, 0, 1) * 2 - 1
    if task in CLIPPED:
        image = np.clip(image, 0.1, 0.9)
    scaled = image.astype(np.float32) * 2 - 1
    if task == "inpainting_whole":
        scaled[64:192, 64:192] = 0
    return scaled.transpose(2, 0, 1)


@pytest.mark.parametrize("task", [task.key for task in TASKS])
def test_taskbank_equals_its_steps_in_scikit_image(tmp_path, picture, task):
    path = save(tmp_path / "a.png", picture)
    batch = load_batch([path], get_preprocessing("taskbank", task=task))
    channels = next(t.input_channels for t in TASKS if t.key == task)
    assert batch.shape == (1, channels, 256, 256)
    assert batch.dtype == torch.float32
    np.testing.assert_allclose(batch[0].numpy(), taskbank_by_scikit_image(picture, task), atol=2e-6, rtol=0)


@pytest.mark.parametrize("shape", [(400, 399), (256, 300), (257, 256), (255, 900), (3, 2), (513, 514), (1000, 700)])
def test_taskbank_of_any_size(tmp_path, rng, shape):
    picture = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    path = save(tmp_path / "a.png", picture)
    for task in ("class_1000", "edge2d"):
        batch = load_batch([path], get_preprocessing("taskbank", task=task))
        np.testing.assert_allclose(batch[0].numpy(), taskbank_by_scikit_image(picture, task), atol=2e-6, rtol=0)


@pytest.mark.parametrize("size", [2, 50, 200, 256, 300, 777])
def test_resize_equals_scikit_image(rng, size):
    from skimage.transform import resize

    image = 0.2 + 0.6 * rng.random((size, size, 3))  # no black inside: the clipping at the border is seen
    expected = resize(image, (256, 256), order=1, mode="constant", cval=0, anti_aliasing=False)
    np.testing.assert_allclose(resize_bilinear(image, 256), expected, atol=1e-12)
    if size >= 256:  # reduced, the border plays no part
        np.testing.assert_allclose(resize_bilinear(image, 256), resize(image, (256, 256), order=1, anti_aliasing=False))


def test_ranges_are_those_of_the_task_bank(tmp_path):
    path = save(tmp_path / "a.png", np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 256, 1).repeat(3, 2))

    def ends(task):
        batch = load_batch([path], get_preprocessing("taskbank", task=task))
        return [round(float(value), 5) for value in (batch.min(), batch.max())]

    for task in TASKS:
        assert ends(task.key) == ([-0.8, 0.8] if task.key in CLIPPED else [-1, 1])
    blanked = load_batch([path], get_preprocessing("taskbank", task="inpainting_whole"))[0, 0]
    assert (blanked[64:192, 64:192] == 0).all()
    assert (blanked[:64] != 0).all() and (blanked[:, 192:] != 0).all()


@pytest.mark.parametrize("shape", [(300, 500), (500, 300), (100, 90), (256, 256)])
def test_visual_prior_and_imagenet_equal_their_steps_in_pillow(tmp_path, rng, shape):
    picture = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    path = save(tmp_path / "a.png", picture)

    def cropped(crop):
        scale = 256 / min(shape)
        size = [256 if side == min(shape) else int(side * scale) for side in shape]
        resized = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR))
        top, left = (round((side - crop) / 2) for side in size)
        return resized[top : top + crop, left : left + crop].transpose(2, 0, 1) / 255

    port = load_batch([path], get_preprocessing("visual-prior", task="edge2d"))
    np.testing.assert_allclose(port[0].numpy(), cropped(256) * 2 - 1, atol=1e-6)
    imagenet = load_batch([path], get_preprocessing("imagenet"))
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    np.testing.assert_allclose(imagenet[0].numpy(), (cropped(224) - mean) / std, atol=1e-5)


def test_visual_prior_gives_lightness_to_colorization(tmp_path, picture):
    from skimage.color import rgb2lab

    path = save(tmp_path / "a.png", picture)
    colour = load_batch([path], get_preprocessing("visual-prior"))
    lightness = load_batch([path], get_preprocessing("visual-prior", task="colorization"))
    expected = rgb2lab((colour[0].numpy().transpose(1, 2, 0) + 1) / 2)[..., 0] / 50 - 1
    np.testing.assert_allclose(lightness[0, 0].numpy(), expected, atol=2e-6)


def test_weights_bring_their_own_transforms(tmp_path, picture):
    from torchvision.models import EfficientNet_B1_Weights

    weights = EfficientNet_B1_Weights.IMAGENET1K_V2
    preprocessing = get_preprocessing("imagenet", weights=weights)
    batch = load_batch([save(tmp_path / "a.png", picture)], preprocessing)
    assert torch.equal(batch[0], weights.transforms()(Image.fromarray(picture)))
    assert batch.shape[-1] == 240
    assert "EfficientNet_B1_Weights.IMAGENET1K_V2" in preprocessing.name


def test_tasks_share_what_is_slow_and_not_more():
    stages = {get_preprocessing("taskbank", task=task.key).stage for task in TASKS}
    names = {get_preprocessing("taskbank", task=task.key).name for task in TASKS}
    assert len(stages) == 1
    assert len(names) == 4


def test_unknown_preprocessing_is_refused():
    with pytest.raises(InputError, match="unknown preprocessing 'caffe'; there are taskbank, visual-prior, imagenet"):
        get_preprocessing("caffe")
