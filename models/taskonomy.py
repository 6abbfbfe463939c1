"""The Taskonomy encoder and its verified checkpoints.

The architecture is the ResNet-50 of the Taskonomy task bank (Zamir et al. 2018), in the form in which the
`visualpriors` package published its weights for PyTorch (Sax et al. 2018). It departs from the usual ResNet-50: the
last unit of a stage carries the stride, only the first two stages are strided, so features stay at 16 x 16, and a
convolution compresses them to 8 channels. Unlike in `visualpriors`, no group norm follows: the original has none.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
import re
import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.checkpoints import fetch_checkpoint, hub_folder
from models.tasks import TASKS, Task
from utils import InputError

_MAX_NAMED = 6


# ------------------------------------------------------------------------------------------------------ architecture


class Bottleneck(nn.Module):
    """Residual unit: 1 x 1, 3 x 3 and 1 x 1 convolution; the 3 x 3 one carries the stride.

    Parameters
    ----------
    n_in, n_inner : int
        Channels of the input and of the inner convolutions; the output has 4 `n_inner`.
    stride : {1, 2}
    """

    def __init__(self, n_in: int, n_inner: int, stride: int = 1) -> None:
        super().__init__()
        n_out = 4 * n_inner
        self.conv1 = nn.Conv2d(n_in, n_inner, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_inner)
        self.conv2 = nn.Conv2d(n_inner, n_inner, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_inner)
        self.conv3 = nn.Conv2d(n_inner, n_out, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(n_out)
        # In-place activations would overwrite the outputs of the batch norms, which a user may request as layers.
        self.relu = nn.ReLU(inplace=False)
        self.downsample: nn.Module | None = None
        if n_in != n_out:
            self.downsample = nn.Sequential(nn.Conv2d(n_in, n_out, kernel_size=1, bias=False), nn.BatchNorm2d(n_out))
        elif stride != 1:
            self.downsample = nn.MaxPool2d(kernel_size=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, n_in, H, W) -> (N, 4 n_inner, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + shortcut)


def _stage(n_in: int, n_inner: int, n_units: int, stride: int = 1) -> nn.Sequential:
    """Units of one stage; the last one carries the stride, as in the task bank (TensorFlow's resnet_v1)."""
    inner = [Bottleneck(4 * n_inner, n_inner) for _ in range(n_units - 2)]
    return nn.Sequential(Bottleneck(n_in, n_inner), *inner, Bottleneck(4 * n_inner, n_inner, stride))


class TaskonomyEncoder(nn.Module):
    """Encoder shared by all Taskonomy networks.

    Modules are named as in the published checkpoints. The layers of the paper are the outputs of `layer4`
    (`block4`, 2048 x 16 x 16) and `relu1` (`encoder_output`, 8 x 16 x 16) for images of 256 x 256 pixels.

    Parameters
    ----------
    in_channels : int
        3, or 1 for colorization.
    """

    # Names of the paper's layers, as in the task bank.
    aliases: ClassVar = {"block4": "layer4", "encoder_output": "relu1"}

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=False)
        # Ceiling instead of padding on both sides: TensorFlow's "SAME" pads an even size at its end only.
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=0, ceil_mode=True)
        self.layer1 = _stage(64, 64, 3, stride=2)
        self.layer2 = _stage(256, 128, 4, stride=2)
        self.layer3 = _stage(512, 256, 6)
        self.layer4 = _stage(1024, 512, 3)
        self.compress1 = nn.Conv2d(2048, 8, kernel_size=3, padding=1, bias=False)
        self.compress_bn = nn.BatchNorm2d(8)
        self.relu1 = nn.ReLU(inplace=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features of images.

        Parameters
        ----------
        x : Tensor of float32, shape (N, in_channels, 256, 256)
            Pixels in [-1, 1].

        Returns
        -------
        Tensor, shape (N, 8, 16, 16)
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.relu1(self.compress_bn(self.compress1(x)))


def random_encoder(in_channels: int = 3, seed: int = 0) -> TaskonomyEncoder:
    """Untrained encoder, in eval mode.

    The paper does not report how its untrained network was initialised. Here, the weights of convolutions are drawn
    from a normal distribution with mean 0 and variance 2 / fan-in (He et al. 2015, eq. 10), and batch norms are
    identities.

    Parameters
    ----------
    in_channels : int
    seed : int
        Seed of a separate generator: the global random state is neither read nor changed.

    Returns
    -------
    TaskonomyEncoder
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):  # the usual initialisation would take time and draw from the global random state
        encoder = TaskonomyEncoder(in_channels)
    encoder.to_empty(device="cpu").eval().requires_grad_(False)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return encoder


# ------------------------------------------------------------------------------------------------------- checkpoints


def load_encoder(task: str, folder: Path | None = None, *, seed: int = 0, verify: bool = True) -> TaskonomyEncoder:
    """The trained encoder of a task.

    Its checkpoint is searched for in `folder`, then in torch hub's cache, and otherwise downloaded. Its SHA-256 is
    compared with the published one before anything in it is interpreted.

    Parameters
    ----------
    task : str
        Key of `models.tasks.TASKS`. "random" is the untrained encoder and needs no file.
    folder : Path, optional
        Folder of checkpoints, to which missing ones are downloaded; torch hub's cache by default.
    seed : int
        Seed of the untrained encoder.
    verify : bool
        False accepts any file called ``<name>_encoder-*.pth`` whatever its digest: weights of one's own (another
        training, a conversion) in the published format. The results are then not known to be those of Taskonomy,
        which the caller must tell the user. Pickled code is refused, and names and shapes are checked, all the same.

    Returns
    -------
    TaskonomyEncoder
        On the CPU, float32, in eval mode, without gradients.

    Raises
    ------
    InputError
        If the task is unknown, or its checkpoint is missing, is not the published one or does not fit the encoder.
    """
    chosen = _task(task)
    if chosen.checkpoint is None:
        return random_encoder(chosen.input_channels, seed)
    path = find_checkpoint(chosen, folder, verify=verify)
    state = read_checkpoint(path, chosen.sha256 if verify else None)
    with torch.device("meta"):
        encoder = TaskonomyEncoder(chosen.input_channels)
    try:
        # Without the metadata that a state dict may have, torch takes it for one of before version 0.4.1, in which
        # batch norms did not count batches, and sets missing counters to 0. They have no effect on features.
        encoder.load_state_dict(dict(state), assign=True)
    except RuntimeError as error:  # lists all names and shapes that differ, one per line
        reason = textwrap.shorten(str(error), 400, placeholder=" ...")
        raise InputError(
            f"{path}: does not fit the encoder of task '{task}', which has {chosen.input_channels} input channel(s): "
            f"{reason}"
        ) from None
    broken = [key for key, value in state.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise InputError(f"{path}: contains NaN or inf in {_some(broken)}; expected finite weights")
    return encoder.eval().requires_grad_(False).float()


def _task(key: str) -> Task:
    for task in TASKS:
        if task.key == key:
            return task
    raise InputError(f"unknown task '{key}'; there are {', '.join(task.key for task in TASKS)}")


def find_checkpoint(task: Task, folder: Path | None = None, *, verify: bool = True) -> Path:
    """Path of the checkpoint of a task, after it was downloaded if it was missing.

    Parameters
    ----------
    task : Task
    folder, verify
        As in `load_encoder`.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If it is missing and cannot be downloaded, or `folder` has one of the same name with another digest.
    """
    if task.checkpoint is None:
        raise InputError(f"task '{task.key}' is the untrained network, which has no checkpoint")
    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; give the one that contains {task.checkpoint}")
    folders = [hub_folder()] if folder is None else [folder, hub_folder()]
    published = [path for place in folders if (path := place / task.checkpoint).is_file()]
    pattern = f"{task.checkpoint.partition('-')[0]}-*.pth"
    similar = [path for place in folders for path in sorted(place.glob(pattern))]
    if published or (similar and not verify):
        return (published or similar)[0]
    if similar and similar[0].parent == folder:
        raise InputError(
            f"{similar[0]}: is not the published checkpoint of task '{task.key}', whose name is {task.checkpoint}; "
            "put that file there, or ask for unverified weights"
        )
    return fetch_checkpoint(task, folders[0])


def read_checkpoint(path: Path, sha256: str | None) -> dict[str, Tensor]:
    """Read the `state_dict` of a checkpoint, without running any code that the file brings.

    Parameters
    ----------
    path : Path
    sha256 : str or None
        Expected digest of the file, compared before anything in it is interpreted; None skips the comparison.

    Returns
    -------
    dict of str to Tensor
        On the CPU.

    Raises
    ------
    InputError
        If the digest is another one, or the file contains anything but tensors and plain containers of them.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest() if sha256 else None
            if found != sha256:
                raise InputError(
                    f"{path}: has SHA-256 {found}, so it is damaged or another file; expected {sha256}; "
                    "delete it and download it again with `python -m utils.fetch weights`"
                )
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # a damaged file can fail anywhere in torch's reader
        asked = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        problem = f"refused, since it asks for '{asked[1]}'" if asked else "is not a readable checkpoint"
        raise InputError(f"{path}: {problem}; expected tensors that torch.save wrote, and no code to run") from None
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        found = f"keys {_some(map(str, content))}" if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{path}: found {found}, expected a dictionary with tensors under 'state_dict'")
    return state


def _some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    everything = list(names)
    rest = len(everything) - _MAX_NAMED
    return ", ".join(everything[:_MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def optimise(model: nn.Module, layers: Sequence[str] = ()) -> nn.Module:
    """A faster copy of a network, with the same features up to rounding.

    Weights are stored in the channels-last memory format, in which convolutions are faster. In a `TaskonomyEncoder`,
    each batch norm, a constant scale and shift per channel in eval mode, is folded into the preceding convolution.

    Parameters
    ----------
    model : nn.Module
    layers : sequence of str
        Layers that will be extracted. Convolutions among them are left alone, since folding would change their output.

    Returns
    -------
    nn.Module
        Of the same class, in eval mode, without gradients; layers keep their names.
    """
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    model = copy.deepcopy(model).eval().requires_grad_(False)
    if isinstance(model, TaskonomyEncoder):
        # Every batch norm is declared right after the convolution that precedes it.
        for (name, module), (following, norm) in pairwise(list(model.named_modules())):
            if isinstance(module, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and name not in layers:
                parent = model.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], fuse_conv_bn_eval(module, norm).requires_grad_(False))
                setattr(parent, following.rpartition(".")[2], nn.Identity())
    return model.to(memory_format=torch.channels_last)
