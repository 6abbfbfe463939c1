"""How images become the input of a network.

`taskbank` is what the published code of the Taskonomy task bank does to images (Zamir et al. 2018), which differs
between tasks; `visual-prior` is the preprocessing of the PyTorch port of these networks, `imagenet` that of
torchvision's networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import functional as F

from utils import InputError
from utils.rdms.settings import PREPROCESSINGS

_TASKBANK_SIZE = 256
# Tasks whose input the task bank clips to _CLIP; the others get the full range.
_CLIPPED_TASKS = frozenset((
    "autoencoder", "curvature", "denoise", "edge2d", "edge3d", "keypoint2d", "keypoint3d", "reshade", "rgb2depth",
    "rgb2mist", "rgb2sfnorm", "segment25d", "segment2d",
))  # fmt: skip
_CLIP = (0.1, 0.9)
_IMAGENET_MEAN = [0.485, 0.456, 0.406]
_IMAGENET_STD = [0.229, 0.224, 0.225]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a network, in two steps.

    Attributes
    ----------
    name : str
        Recorded with the results.
    stage : str
        Preprocessings with the same stage share the first step.
    prepare : callable
        First step, which is slow: image (H, W, 3) of uint8 -> float32 tensor (3, h, w) on the CPU.
    finish : callable
        Second step, on any device: prepared images (N, 3, h, w) -> network input (N, channels, h, w), float32.
    """

    name: str
    stage: str
    prepare: Callable[[NDArray[np.uint8]], torch.Tensor]
    finish: Callable[[torch.Tensor], torch.Tensor]


def get_preprocessing(
    name: str, *, task: str | None = None, weights: Any = None, timm_network: Any = None
) -> Preprocessing:
    """A preprocessing by name.

    Parameters
    ----------
    name : {"taskbank", "visual-prior", "imagenet"}
    task : str, optional
        Key of the Taskonomy task, on which it depends whether `taskbank` clips the image, blanks its centre or keeps
        only its lightness; without a task it does none of these. `visual-prior` keeps the lightness for colorization.
    weights : torchvision.models.WeightsEnum member, optional
        Weights whose own transforms `imagenet` uses; the default is the usual resizing to 256, cropping to 224 and
        normalization.
    timm_network : nn.Module, optional
        Network of timm whose own transforms for evaluation `imagenet` uses.

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
        lightness = task == "colorization"
        scale = _lightness if lightness else _to_unit_range
        return Preprocessing("visual-prior lightness" if lightness else name, name, _prepare_port, scale)
    if name == "imagenet" and timm_network is not None:
        return _of_timm(timm_network)
    if name == "imagenet" and weights is None:
        normalize = partial(F.normalize, mean=_IMAGENET_MEAN, std=_IMAGENET_STD)
        return Preprocessing(name, name, partial(_prepare_port, crop=224), normalize)
    if name == "imagenet":
        transform, name = weights.transforms(), f"transforms of {weights}"
        return Preprocessing(name, name, lambda image: transform(Image.fromarray(image)), lambda images: images)
    raise InputError(f"unknown preprocessing '{name}'; there are {', '.join(PREPROCESSINGS)}")


def _of_timm(network: Any) -> Preprocessing:
    from timm.data import create_transform, resolve_model_data_config

    config = resolve_model_data_config(network)
    transform: Any = create_transform(**config, is_training=False)
    shown = ", ".join(f"{key} {config[key]}" for key in ("input_size", "interpolation", "crop_pct", "mean", "std"))
    return Preprocessing(
        f"timm ({shown})", f"timm {config}", lambda image: transform(Image.fromarray(image)), lambda images: images
    )


# --- taskbank: published code of the task bank, which relied on scikit-image 0.12.3
def _taskbank(task: str | None) -> Preprocessing:
    name, finish = "taskbank", _to_unit_range
    if task in _CLIPPED_TASKS:
        name, finish = f"taskbank clipped to {_CLIP[0]}-{_CLIP[1]}", _clip
    elif task == "colorization":
        name, finish = "taskbank lightness", _lightness
    elif task == "inpainting_whole":
        name, finish = "taskbank blanked centre", _blank_centre
    return Preprocessing(name, "taskbank", _prepare_taskbank, finish)


def _prepare_taskbank(image: NDArray[np.uint8]) -> torch.Tensor:
    height, width = image.shape[:2]
    half = min(height, width) // 2
    top, left = height // 2 - half, width // 2 - half
    square = image[top : top + 2 * half, left : left + 2 * half]
    resized = square if square.shape[0] == _TASKBANK_SIZE else resize_bilinear(square, _TASKBANK_SIZE)
    return torch.from_numpy((resized / 255).astype(np.float32).transpose(2, 0, 1).copy())


def resize_bilinear(image: NDArray, size: int) -> NDArray[np.float64]:
    """Resize as scikit-image 0.12.3 did by default: bilinear, no anti-aliasing, black beyond the border.

    In an enlarged image, the outermost pixels therefore blend with black. As in scikit-image, values are clipped to the
    range of the input.

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
    return result.clip(image.min(), image.max())


def _to_unit_range(images: torch.Tensor) -> torch.Tensor:
    """[0, 1] to [-1, 1]."""
    return images * 2 - 1


def _clip(images: torch.Tensor) -> torch.Tensor:
    """[-1, 1], clipped as the task bank does before it scales."""
    return _to_unit_range(images.clip(*_CLIP))


def _blank_centre(images: torch.Tensor) -> torch.Tensor:
    """[-1, 1], with 0 in the central quarter, which the network was trained to fill in."""
    images = _to_unit_range(images)
    height, width = images.shape[-2:]
    images[..., height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 0
    return images


def _lightness(images: torch.Tensor) -> torch.Tensor:
    """CIE 1976 L* of sRGB images under D65, scaled from 0..100 to [-1, 1]; one channel.

    Constants are scikit-image's, which the task bank used.
    """
    rgb = images.double()
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    weights = torch.tensor([0.212671, 0.715160, 0.072169], dtype=torch.float64, device=images.device)
    luminance = (linear * weights[:, None, None]).sum(dim=-3, keepdim=True)
    root = torch.where(luminance > 0.008856, luminance ** (1 / 3), 7.787 * luminance + 16 / 116)
    return ((116 * root - 16) / 50 - 1).float()


# --- visual-prior and imagenet: torchvision's operations on Pillow images, which are anti-aliased
def _prepare_port(image: NDArray[np.uint8], crop: int = 256) -> torch.Tensor:
    resized = F.resize(Image.fromarray(image), [256])
    return F.to_tensor(F.center_crop(resized, [crop]))
