"""Stimulus images: which there are and in which order, and how image files are decoded."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from utils import InputError
from utils.io.readers import one_line

Stimulus = tuple[str, Path]
# Files of a folder that count as images. Pillow's own list has PDFs, films and HDF5 files, but no HEIC or JPEG XL:
# these must not be skipped, since an image that cannot be decoded has to end in an error.
_SUFFIXES = frozenset((
    ".apng", ".avif", ".avifs", ".bmp", ".dib", ".exr", ".gif", ".hdr", ".heic", ".heif", ".j2k", ".jfif", ".jp2",
    ".jpe", ".jpeg", ".jpg", ".jxl", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".svg", ".tga", ".tif",
    ".tiff", ".webp",
))  # fmt: skip


def list_images(source: Path) -> list[Stimulus]:
    """Images of a folder, or of a text file that lists them.

    Parameters
    ----------
    source : Path
        A folder, whose images are listed in natural order (image_2 before image_10), without hidden files and
        subfolders; or a text file with one path per line, relative to the file, in the order to use (empty lines and
        lines that begin with ``#`` are skipped).

    Returns
    -------
    list of (str, Path)
        Name of each stimulus, which is its file name without the suffix, and its path.

    Raises
    ------
    InputError
        If there is no image, a listed one is missing, or two have the same name.
    """
    if source.is_dir():
        paths = _of_folder(source)
    elif source.is_file():
        paths = _of_list(source)
    else:
        raise InputError(f"{source}: does not exist; expected a folder of images or a text file that lists images")
    stimuli: dict[str, Path] = {}
    for path in paths:
        if path.stem in stimuli:
            raise InputError(
                f"{source}: two images are named '{path.stem}': {stimuli[path.stem]} and {path}; rename one of them"
            )
        if not path.stem.isprintable() or path.stem != path.stem.strip():
            raise InputError(
                f"{source}: the name of image {path.name!r} starts or ends with a blank or contains unprintable "
                "characters, which conditions.txt cannot store; rename it"
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
            f"{folder}: no images among its {len(files)} files; expected files such as image_1.jpg or image_1.png"
        )
    other = sorted(path.name for path in files if path.suffix.lower() not in _SUFFIXES)
    if other:
        warnings.warn(f"{folder}: skipped {len(other)} file(s) that are not images: {few(other)}", stacklevel=3)
    return sorted(paths, key=lambda path: natural_key(path.name))


def _of_list(path: Path) -> list[Path]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError):
        raise InputError(f"{path}: is not a text file; expected a folder or a text file that lists images") from None
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
    """Sort key for natural order: numbers in names count as numbers, letter case does not matter.

    Parameters
    ----------
    name : str

    Returns
    -------
    tuple
        Comparable with the keys of other names: image_2 comes before image_10.
    """
    parts = re.split(r"([0-9]+)", name.casefold())
    # Parts with odd indices are numbers, so text is never compared with a number. The name itself breaks ties.
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


def few(names: Sequence[object]) -> str:
    """The first names of a list, for messages, and how many more there are."""
    return ", ".join(map(str, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def decode(path: Path) -> NDArray[np.uint8]:
    """Read an image as it is meant to be seen: upright (EXIF), RGB, 8 bits.

    Greyscale images get three equal channels, palettes become colours, 16 bits are rounded to 8, an alpha channel that
    is opaque everywhere is dropped, and CMYK is converted (with the colour profile of the file, if it has one).

    Parameters
    ----------
    path : Path

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)

    Raises
    ------
    InputError
        If the file is broken, truncated, animated, transparent, or of a type whose colours on a screen are undefined.
    """
    try:
        with Image.open(path) as image:
            # Phones write MPO: a JPEG followed by previews, so the first frame is the image.
            n_frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if n_frames > 1:
                raise InputError(f"{path}: has {n_frames} frames, expected a still image; save one of them")
            image.load()
            kind = image.format
            upright = ImageOps.exif_transpose(image)
        if min(upright.size) < 2:
            raise InputError(f"{path}: is {upright.width} x {upright.height} pixels, expected at least 2 x 2")
        return _to_rgb(upright, kind, path)
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path}: too large to be decoded in the available memory; reduce its size") from None
    except Exception as error:  # a decoder may raise anything on a broken file
        raise InputError(
            f"{path}: cannot be decoded ({one_line(error)}); expected an intact image that Pillow can read"
        ) from None


def _to_rgb(image: Any, kind: str | None, path: Path) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        # Pillow's own conversion would clip values at 255 instead of scaling them.
        grey = np.asarray(image).astype(np.int64)
        return np.repeat(((grey + 128) // 257).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode in ("I", "F", "LAB"):
        raise InputError(f"{path}: is of type {image.mode}, which has no defined colours; save it as 8-bit RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 255:
            raise InputError(
                f"{path}: has transparent pixels, whose colour depends on the background; "
                "save it on the background that participants saw"
            )
    if image.mode == "CMYK" and image.info.get("icc_profile"):
        profile = io.BytesIO(image.info["icc_profile"])
        # With an unusable profile, Pillow's own formula below.
        with contextlib.suppress(ImageCms.PyCMSError):
            image = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return np.array(image.convert("RGB"))
