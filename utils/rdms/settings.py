"""How activations of networks and their RDMs are computed; without torch, which takes seconds to import."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from utils import InputError
from utils.rdm import METRICS

PREPROCESSINGS = ("taskbank", "visual-prior", "imagenet")
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
CPU_BATCH = 5  # the activations of more images do not fit into the cache, which makes it slower
GPU_BATCH = 64
# Keys of networks and names of layers.
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
WANTED = "letters, digits, dots, dashes and underscores"


@dataclass(frozen=True)
class ExtractionSettings:
    """How activations and RDMs are computed.

    Attributes
    ----------
    layers : mapping of str to str
        Layers by their names in the network, and their names in files.
    device : {"cpu", "cuda"}
    batch_size : int or None
        Images that go through the network at once; None chooses.
    precision : {"float32", "tf32", "bfloat16", "float16"}
        Precision of the network. Activations are stored as float32, RDMs computed in float64.
    metric : str
        One of `utils.rdm.METRICS`.
    center : bool
        Subtract the mean over images from every unit first.
    save_activations : bool
        Keep activations/<key>_<layer>.npy, float32 of shape (n_images, ...).
    memory : int
        Bytes for prepared images and activations; a network whose activations need more uses temporary files.
    workers : int
        Threads that decode images.
    fresh : bool
        Recompute RDMs that exist already.

    Raises
    ------
    InputError
        If the precision or metric is unknown, the device cannot compute in this precision, or names of layers cannot
        be parts of file names or occur twice.
    """

    layers: Mapping[str, str]
    device: str = "cpu"
    batch_size: int | None = None
    precision: str = "float32"
    metric: str = "correlation"
    center: bool = False
    save_activations: bool = False
    memory: int = 2 * 10**9
    workers: int = 2
    fresh: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"`precision` is '{self.precision}', expected one of {', '.join(PRECISIONS)}")
        if self.device == "cpu" and self.precision in ("tf32", "float16"):
            raise InputError(f"`precision` {self.precision} needs a GPU; use float32 or bfloat16 on the CPU")
        if self.metric not in METRICS:
            raise InputError(f"unknown metric '{self.metric}'; there are {', '.join(METRICS)}")
        names = list(self.layers.values())
        for name in names:
            if not FILE_NAME.fullmatch(name):
                raise InputError(f"`layers`: '{name}' cannot be part of a file name; use LAYER=NAME, with {WANTED}")
            if names.count(name) > 1:
                raise InputError(f"`layers`: two layers are named {name}; give each layer its own name")
