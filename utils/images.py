"""Stimulus images: which there are, in which order, and how they become the input of a network.

Three preprocessings are known by name. `taskbank` is what the published code of the Taskonomy task bank does to images
(Zamir et al. 2018): it differs from task to task. `visual-prior` is that of the PyTorch port of these networks,
`imagenet` that of torchvision's. Images are only ever read.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from utils import InputError

if TYPE_CHECKING:
    import torch

Stimulus = tuple[str, Path]

PREPROCESSINGS = ("taskbank", "visual-prior", "imagenet")

# Files of a folder that are taken for images. Some of these cannot be decoded: that is said, rather than leave one out.
_SUFFIXES = frozenset((
    ".apng", ".avif", ".avifs", ".bmp", ".dib", ".exr", ".gif", ".hdr", ".heic", ".heif", ".j2k", ".jfif", ".jp2",
    ".jpe", ".jpeg", ".jpg", ".jxl", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".svg", ".tga", ".tif",
    ".tiff", ".webp",
))  # fmt: skip

_TASKBANK_SIZE = 256
# Tasks whose input the task bank clips; the others see the full range.
_CLIPPED_TASKS = frozenset((
    "autoencoder", "curvature", "denoise", "edge2d", "edge3d", "keypoint2d", "keypoint3d", "reshade", "rgb2depth",
    "rgb2mist", "rgb2sfnorm", "segment25d", "segment2d",
))  # fmt: skip
_CLIP = (0.1, 0.9)

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


# ------------------------------------------------------------------------------------------------------ which images


def list_images(source: Path) -> list[Stimulus]:
    """Images of a folder, or of a text file that lists them.

    Parameters
    ----------
    source : Path
        A folder, whose images are taken in natural order (image_2 before image_10), hidden files and subfolders left
        out; or a text file with one path per line, relative to the file, in the order wanted (empty lines and lines
        that begin with ``#`` are skipped).

    Returns
    -------
    list of (str, Path)
        Name of each stimulus, which is the file name without its suffix, and where it lies.

    Raises
    ------
    InputError
        If there is no image, a listed one is missing, or two have one name.
    """
    if source.is_dir():
        paths = _of_folder(source)
    elif source.is_file():
        paths = _of_list(source)
    else:
        raise InputError(f"{source}: does not exist; expected a folder of images, or a text file that lists images")
    stimuli: dict[str, Path] = {}
    for path in paths:
        if path.stem in stimuli:
            raise InputError(
                f"{source}: two images have the name '{path.stem}': {stimuli[path.stem]} and {path}; rename one of them"
            )
        if not path.stem.isprintable() or path.stem != path.stem.strip():
            raise InputError(
                f"{source}: the image {path.name!r} has blanks at an end of its name or characters that cannot be "
                "printed, but names are kept one per line; rename it"
            )
        stimuli[path.stem] = path
    return list(stimuli.items())


def _of_folder(folder: Path) -> list[Path]:
    try:
        files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from None
    paths = [path for path in files if path.suffix.lower() in _SUFFIXES]
    if not paths:
        raise InputError(
            f"{folder}: no images found (of {len(files)} files); expected files such as image_1.jpg or image_1.png"
        )
    other = sorted(path.name for path in files if path.suffix.lower() not in _SUFFIXES)
    if other:
        shown = ", ".join(other[:3]) + (", ..." if len(other) > 3 else "")
        warnings.warn(f"{folder}: {len(other)} file(s) are no images and are left out: {shown}", stacklevel=3)
    return sorted(paths, key=lambda path: natural_key(path.name))


def _of_list(path: Path) -> list[Path]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError):
        raise InputError(
            f"{path}: is no text file; expected a folder of images, or a text file that lists images"
        ) from None
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        image = path.parent / name
        if not image.is_file():
            raise InputError(
                f"{path}: line {number} names {image}, which does not exist; paths are relative to the list"
            )
        found.append(image)
    if not found:
        raise InputError(f"{path}: lists no images; expected one path per line, relative to the file")
    return found


def natural_key(name: str) -> tuple[Any, ...]:
    """Sort key by which numbers in names count as numbers: image_2 before image_10; letter case does not matter."""
    parts = re.split(r"([0-9]+)", name.casefold())
    # Parts with odd index are numbers, so that text is never compared with a number. The name itself settles ties.
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


# ---------------------------------------------------------------------------------------------------------- decoding


def decode(path: Path) -> NDArray[np.uint8]:
    """Read an image as it is meant to be seen: upright (EXIF), RGB, 8 bits.

    Greyscale becomes three equal channels, palettes become colours, 16 bits are rounded to 8, an alpha channel that is
    opaque everywhere is dropped, CMYK is converted (with the colour profile in the file, if there is one).

    Parameters
    ----------
    path : Path

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)

    Raises
    ------
    InputError
        If the file is broken, truncated, animated, transparent, or of a kind that has no defined look on a screen.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            # Phones write MPO: a JPEG with previews behind it, of which the first is the picture.
            n_frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if n_frames > 1:
                raise InputError(f"{path}: holds {n_frames} frames, expected a still image; save one frame of it")
            image.load()
            kind = image.format
            upright = ImageOps.exif_transpose(image)
        if min(upright.size) < 2:
            raise InputError(f"{path}: is {upright.width} x {upright.height} pixels, expected at least 2 x 2")
        return _to_rgb(upright, kind, path)
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path}: too large to be decoded in the memory there is; save it smaller") from None
    except Exception as error:  # a decoder may raise anything at all on a broken file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: cannot be decoded ({reason}); expected a whole image that Pillow can read") from None


def _to_rgb(image: Any, kind: str | None, path: Path) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        # Pillow's own conversion would cut values off at 255 instead of scaling them.
        grey = np.asarray(image).astype(np.int64)
        return np.repeat(((grey + 128) // 257).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode in ("I", "F", "LAB"):
        raise InputError(
            f"{path}: is of type {image.mode}, whose look on a screen is not defined; save it as 8-bit RGB"
        )
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 255:
            raise InputError(
                f"{path}: has transparent pixels, which look as whatever lies behind them; "
                "put it on the background that people saw"
            )
    if image.mode == "CMYK":
        image = _from_cmyk(image)
    return np.array(image.convert("RGB"))


def _from_cmyk(image: Any) -> Any:
    import io

    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if not profile:
        return image
    try:
        return ImageCms.profileToProfile(image, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB")
    except ImageCms.PyCMSError:
        return image  # an unusable profile: Pillow's own formula instead


# ------------------------------------------------------------------------------------------------------ preprocessing


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a network, in two steps.

    Attributes
    ----------
    name : str
        What is recorded beside results.
    stage : str
        Preprocessings of the same stage have the first step in common.
    prepare : callable
        First step, the slow one, which networks share: image (H, W, 3) of uint8 -> float32 tensor (3, h, w).
    finish : callable
        Second step, on whatever device: prepared images (N, 3, h, w) -> network input (N, channels, h, w), float32.
    """

    name: str
    stage: str
    prepare: Callable[[NDArray[np.uint8]], torch.Tensor]
    finish: Callable[[torch.Tensor], torch.Tensor]


def get_preprocessing(name: str, *, task: str | None = None, weights: Any = None) -> Preprocessing:
    """A preprocessing by name.

    Parameters
    ----------
    name : {"taskbank", "visual-prior", "imagenet"}
    task : str, optional
        Key of the Taskonomy task. `taskbank` clips, blanks or greys the image depending on it; without a task it does
        none of these. `visual-prior` is the same for all tasks, but the lightness for colorization.
    weights : torchvision.models.WeightsEnum member, optional
        Weights whose own transforms `imagenet` uses; without them, the usual 256, 224, mean and standard deviation.

    Returns
    -------
    Preprocessing

    Raises
    ------
    InputError
        If no preprocessing has that name.
    """
    if name == "taskbank":
        return _taskbank(task)
    if name == "visual-prior":
        scale = _lightness if task == "colorization" else _to_unit_range
        return Preprocessing(f"visual-prior{' lightness' * (task == 'colorization')}", name, _prepare_port, scale)
    if name == "imagenet":
        if weights is None:
            return Preprocessing(name, name, _prepare_imagenet, _normalize_imagenet)
        return Preprocessing(f"transforms of {weights}", f"transforms of {weights}", _transform_of(weights), _as_it_is)
    raise InputError(f"unknown preprocessing '{name}'; there are {', '.join(PREPROCESSINGS)}")


def load_batch(paths: Sequence[Path], preprocessing: Preprocessing) -> torch.Tensor:
    """Images as the input of a network.

    Parameters
    ----------
    paths : sequence of Path
    preprocessing : Preprocessing

    Returns
    -------
    torch.Tensor of float32, shape (n_images, channels, height, width)
    """
    import torch

    return preprocessing.finish(torch.stack([preprocessing.prepare(decode(path)) for path in paths]))


# --- taskbank: published code of the task bank, which relied on scikit-image 0.12.3


def _taskbank(task: str | None) -> Preprocessing:
    if task in _CLIPPED_TASKS:
        low, high = _CLIP
        return Preprocessing(
            f"taskbank clipped to {low}-{high}", "taskbank", _prepare_taskbank,
            lambda images: _to_unit_range(images.clip(low, high)),
        )  # fmt: skip
    if task == "colorization":
        return Preprocessing("taskbank lightness", "taskbank", _prepare_taskbank, _lightness)
    if task == "inpainting_whole":
        return Preprocessing("taskbank blanked centre", "taskbank", _prepare_taskbank, _blank_centre)
    return Preprocessing("taskbank", "taskbank", _prepare_taskbank, _to_unit_range)


def _prepare_taskbank(image: NDArray[np.uint8]) -> torch.Tensor:
    import torch

    height, width = image.shape[:2]
    half = min(height, width) // 2
    top, left = height // 2 - half, width // 2 - half
    square = image[top : top + 2 * half, left : left + 2 * half]
    resized = square if square.shape[0] == _TASKBANK_SIZE else resize_bilinear(square, _TASKBANK_SIZE)
    return torch.from_numpy((resized / 255).astype(np.float32).transpose(2, 0, 1).copy())


def resize_bilinear(image: NDArray, size: int) -> NDArray[np.float64]:
    """Resize as scikit-image 0.12.3 did by default: bilinear, no anti-aliasing, black beyond the border.

    The border matters where an image is enlarged: its outermost pixels then mix with black. As in scikit-image, values
    are clipped to the range of the input.

    Parameters
    ----------
    image : ndarray of any real type, shape (height, width, channels)
    size : int
        Height and width of the result.

    Returns
    -------
    ndarray of float64, shape (size, size, channels)
    """

    def samples(n: int) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        position = (np.arange(size) + 0.5) * n / size - 0.5
        low = np.floor(position).astype(int)
        share = position - low
        weight_low, weight_high = (1 - share) * (low >= 0), share * (low + 1 < n)
        return low.clip(0), (low + 1).clip(max=n - 1), weight_low[:, None], weight_high[:, None]

    low, high, weight_low, weight_high = samples(image.shape[0])
    rows = image[low] * weight_low[..., None] + image[high] * weight_high[..., None]
    low, high, weight_low, weight_high = samples(image.shape[1])
    result = rows[:, low] * weight_low + rows[:, high] * weight_high
    clipped: NDArray[np.float64] = result.clip(image.min(), image.max())
    return clipped


def _to_unit_range(images: torch.Tensor) -> torch.Tensor:
    """[0, 1] to [-1, 1]."""
    return images * 2 - 1


def _blank_centre(images: torch.Tensor) -> torch.Tensor:
    """[-1, 1], and 0 in the central quarter, which the network had to fill in."""
    images = _to_unit_range(images)
    height, width = images.shape[-2:]
    images[..., height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 0
    return images


def _lightness(images: torch.Tensor) -> torch.Tensor:
    """CIE 1976 L* of sRGB images under D65, scaled from 0..100 to [-1, 1]; one channel.

    Constants are scikit-image's, which the task bank used.
    """
    import torch

    rgb = images.double()
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    weights = torch.tensor([0.212671, 0.715160, 0.072169], dtype=torch.float64, device=images.device)
    luminance = (linear * weights[:, None, None]).sum(dim=-3, keepdim=True)
    root = torch.where(luminance > 0.008856, luminance ** (1 / 3), 7.787 * luminance + 16 / 116)
    return ((116 * root - 16) / 50 - 1).float()


# --- visual-prior and imagenet: torchvision's operations on Pillow images, which are anti-aliased


def _prepare_port(image: NDArray[np.uint8]) -> torch.Tensor:
    return _resize_and_crop(image, 256, 256)


def _prepare_imagenet(image: NDArray[np.uint8]) -> torch.Tensor:
    return _resize_and_crop(image, 256, 224)


def _resize_and_crop(image: NDArray[np.uint8], shorter_side: int, crop: int) -> torch.Tensor:
    from PIL import Image
    from torchvision.transforms import functional as F

    resized = F.resize(Image.fromarray(image), [shorter_side])
    tensor: torch.Tensor = F.to_tensor(F.center_crop(resized, [crop]))
    return tensor


def _normalize_imagenet(images: torch.Tensor) -> torch.Tensor:
    from torchvision.transforms import functional as F

    normalized: torch.Tensor = F.normalize(images, list(_IMAGENET_MEAN), list(_IMAGENET_STD))
    return normalized


def _transform_of(weights: Any) -> Callable[[NDArray[np.uint8]], torch.Tensor]:
    transform = weights.transforms()

    def prepare(image: NDArray[np.uint8]) -> torch.Tensor:
        from PIL import Image

        tensor: torch.Tensor = transform(Image.fromarray(image))
        return tensor

    return prepare


def _as_it_is(images: torch.Tensor) -> torch.Tensor:
    return images
