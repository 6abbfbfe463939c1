"""Networks, and the activations of their layers for images."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import list_models

from models.networks import (
    TIMM,
    LayerOutputs,
    describe_layers,
    load_network,
    timm_pretrained,
    torchvision_weights,
)
from models.taskonomy import load_encoder, optimise
from models.tasks import TASKS, Model
from utils import InputError
from utils.io.output import disk_errors, written_whole
from utils.rdms.preprocessing import Preprocessing, get_preprocessing
from utils.rdms.settings import CPU_BATCH, FILE_NAME, GPU_BATCH, WANTED, ExtractionSettings
from utils.rdms.stimuli import Stimulus, decode


@dataclass(frozen=True)
class Network:
    """A network to run.

    Attributes
    ----------
    model : Model
        Its row of models.tsv. With an empty colour, the figures choose one.
    load : callable
        Returns the network, in eval mode, on the CPU.
    preprocessing : Preprocessing
    weights : str
        Source of the weights, for the record.
    overrides : bool
        Whether label and group replace those of an existing row of models.tsv.
    """

    model: Model
    load: Callable[[], nn.Module]
    preprocessing: Preprocessing
    weights: str
    overrides: bool = False


def taskonomy_networks(
    tasks: Sequence[str] | None = None,
    weights: Path | None = None,
    verify: bool = True,
    preprocessing: str | None = None,
    seed: int = 0,
) -> list[Network]:
    """Networks of the paper, whose checkpoints are read when they are loaded.

    Parameters
    ----------
    tasks : sequence of str, optional
        Keys of `models.tasks.TASKS`; by default all.
    weights, verify, seed
        `folder`, `verify` and `seed` of `models.taskonomy.load_encoder`.
    preprocessing : str, optional
        By default "taskbank".

    Returns
    -------
    list of Network

    Raises
    ------
    InputError
        If a task or the preprocessing is unknown.
    """
    known = {task.key: task for task in TASKS}
    if unknown := [key for key in tasks or () if key not in known]:
        raise InputError(f"unknown task(s) {', '.join(unknown)}; there are {', '.join(known)}")
    networks = []
    for key in dict.fromkeys(tasks or known):
        source = known[key].checkpoint or f"untrained, seed {seed}"
        if known[key].checkpoint and not verify:
            source = f"UNVERIFIED {weights or ''}".strip()
        load = partial(load_encoder, key, weights, seed=seed, verify=verify)
        networks.append(Network(known[key], load, get_preprocessing(preprocessing or "taskbank", task=key), source))
    return networks


def custom_network(
    model: str,
    key: str | None = None,
    label: str | None = None,
    group: str | None = None,
    preprocessing: str | None = None,
    seed: int = 0,
) -> Network:
    """A network of torchvision's, of timm's or of one's own, loaded at once.

    Parameters
    ----------
    model : str
        `spec` of `models.networks.load_network`.
    key, label, group : str, optional
        Name in files, name in figures and group in figures. By default the name of the model with its weights or seed,
        or of the function; then `key`, and "other". A label or group replaces that of an existing row of models.tsv.
    preprocessing : str, optional
        By default "imagenet": the transforms of torchvision's weights, or those that timm has for the network, if it
        has such weights or is of timm.
    seed : int
        Of untrained networks.

    Returns
    -------
    Network

    Raises
    ------
    InputError
        If there is no such network or preprocessing, or names contain characters that tables or files cannot hold.
    """
    module = load_network(model, seed)
    name, _, rest = model.partition(":")
    weights, source, own = None, model, rest
    untrained = f"untrained, seed {seed}"
    if name == TIMM:
        own, pretrained = timm_pretrained(rest)
        source = f"timm {own}" if pretrained else untrained
    elif name in list_models():
        weights = torchvision_weights(name, rest)
        own, source = (f"{name}_{weights.name}", str(weights)) if weights else (name, untrained)
    # A trained and an untrained network never have one name.
    key = key or own + (f"_untrained-seed{seed}" if source == untrained else "")
    if not FILE_NAME.fullmatch(key):
        raise InputError(f"'{key}' cannot be part of a file name; set `key` to {WANTED}")
    overrides = bool(label or group)
    label, group = (label or key).strip(), (group or "other").strip()
    if not (label + group).isprintable():
        raise InputError("`label` and `group` must not contain tabs or line breaks")
    own_steps = module if name == TIMM and preprocessing is None else None
    steps = get_preprocessing(preprocessing or "imagenet", weights=weights, timm_network=own_steps)
    return Network(Model(key, label, group, ""), lambda: module, steps, source, overrides)


def layers_of(network: Network) -> list[tuple[str, str, str]]:
    """Name, class and shape of the output of each layer that a network uses, in the order in which they are computed.

    Raises
    ------
    InputError
        If the network cannot process images of the size that its preprocessing makes.
    """
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    images = network.preprocessing.finish(network.preprocessing.prepare(noise)[None])
    try:
        return describe_layers(network.load(), images)
    except Exception as error:
        raise InputError(_cannot_process(network.model.key, images.shape[1:], error)) from error


def _cannot_process(key: str, shape: Sequence[int], error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"{key}: cannot process images of shape {tuple(shape)} ({reason}); choose another `preprocessing`, or check "
        "the network"
    )


class FeatureExtractor:
    """Runs networks on images, and keeps decoded images for the next network.

    Attributes
    ----------
    stimuli : sequence of (str, Path)
        Name and file of every image.
    settings : ExtractionSettings
        A quarter of its `memory` holds decoded images, half of it activations (on a GPU: half of the GPU's free
        memory). Images that do not fit are decoded again for every network; where the activations of a network do not
        fit, they are written to temporary files.
    """

    def __init__(self, stimuli: Sequence[Stimulus], settings: ExtractionSettings) -> None:
        self.stimuli, self.settings = stimuli, settings
        self._stage = ""  # of the preprocessing that the kept images are the first step of
        self._kept: dict[int, Tensor] = {}

    @contextmanager
    def activations(
        self,
        network: Network,
        module: nn.Module,
        files: Mapping[str, Path | None],
        scratch: Path,
        advance: Callable[[int], None],
    ) -> Iterator[dict[str, Tensor]]:
        """Activations of layers for all images, for the time of a `with` block.

        Parameters
        ----------
        network : Network
        module : nn.Module
            The loaded network.
        files : mapping of str to Path or None
            Layers by their names in the network, and where to save their activations: float32 of shape (n_images, ...)
            in numpy's format, in place when the block has ended without an error.
        scratch : Path
            Folder for temporary files.
        advance : callable
            Called with the number of images done.

        Yields
        ------
        dict of str to Tensor
            By layer, float32 (n_images, ...), on the device or mapped from a file.

        Raises
        ------
        InputError
            If the network has no such layer or cannot process the images, an image cannot be decoded, memory does not
            suffice for a single image, or a file cannot be written.
        """
        running = _RunningNetwork(network, module, list(files), self.settings)
        kept: dict[str, Tensor] = {}
        written: dict[str, IO[bytes]] = {}
        n_done = 0
        with ExitStack() as stack:
            for outputs in running.over(self._batches(network.preprocessing, running.batch_size)):
                if n_done == 0:
                    shapes = {layer: (len(self.stimuli), *output.shape[1:]) for layer, output in outputs.items()}
                    written = self._open_files(stack, shapes, files, scratch)
                    kept = {layer: torch.empty(shapes[layer], device=self.settings.device)
                            for layer in shapes if layer not in written}  # fmt: skip
                n = len(next(iter(outputs.values())))
                for layer, output in outputs.items():
                    if layer in written:
                        written[layer].write(output.cpu().contiguous().numpy().data)
                    else:
                        kept[layer][n_done : n_done + n] = output
                n_done += n
                advance(n_done)
            del running, outputs  # what follows needs the memory
            yield kept | {layer: _mapped(file, shapes[layer]) for layer, file in written.items()}

    def _open_files(
        self, stack: ExitStack, shapes: Mapping[str, tuple[int, ...]], files: Mapping[str, Path | None], scratch: Path
    ) -> dict[str, IO[bytes]]:
        """Files for activations that are to be saved or do not fit into memory, to be closed with the stack."""
        room = self.settings.memory if self.settings.device == "cpu" else torch.cuda.mem_get_info()[0]
        fits = 4 * sum(math.prod(shape) for shape in shapes.values()) <= room // 2
        opened: dict[str, IO[bytes]] = {}
        for layer, path in files.items():
            if path is not None:
                opened[layer] = stack.enter_context(written_whole(path))
                header = {"descr": "<f4", "fortran_order": False, "shape": shapes[layer]}
                np.lib.format.write_array_header_1_0(opened[layer], header)
            elif not fits:
                stack.enter_context(disk_errors(scratch, "a temporary file of activations"))
                opened[layer] = stack.enter_context(tempfile.TemporaryFile(dir=scratch))  # noqa: SIM115
        return opened

    def _batches(self, preprocessing: Preprocessing, size: int) -> Iterator[Tensor]:
        """Prepared images (size or fewer, 3, h, w) in float32, on the CPU; in pinned memory for a GPU."""
        # Threads decode the next batch while one is in use. Not a DataLoader, whose processes would need shared memory
        # and pickled preprocessings, would decode again for every network, and would wrap the error of a broken image
        # in a traceback. Decoding releases the interpreter lock.
        if preprocessing.stage != self._stage:
            self._stage, self._kept = preprocessing.stage, {}
        n, load = len(self.stimuli), partial(self._load, preprocessing)
        with ThreadPoolExecutor(self.settings.workers) as pool:
            following = pool.map(load, range(min(size, n)))
            for start in range(size, n + size, size):
                images = list(following)
                following = pool.map(load, range(start, min(start + size, n)))
                batch = torch.empty(len(images), *images[0].shape, pin_memory=self.settings.device != "cpu")
                yield torch.stack(images, out=batch)

    def _load(self, preprocessing: Preprocessing, i: int) -> Tensor:
        image = self._kept.get(i)
        if image is None:
            image = preprocessing.prepare(decode(self.stimuli[i][1]))
            if (len(self._kept) + 1) * image.nbytes <= self.settings.memory // 4:
                self._kept[i] = image
        return image


def _mapped(file: IO[bytes], shape: tuple[int, ...]) -> Tensor:
    """The float32 array at the end of a file; mapped to be read only, as writing to a full disk that way is fatal."""
    file.flush()
    return torch.from_numpy(np.memmap(file, np.float32, "c", file.tell() - 4 * math.prod(shape), shape))


class _RunningNetwork:
    """A network on its device, which gets smaller batches from the moment that memory runs out."""

    def __init__(
        self, network: Network, module: nn.Module, layers: Sequence[str], settings: ExtractionSettings
    ) -> None:
        self.batch_size = settings.batch_size or (CPU_BATCH if settings.device == "cpu" else GPU_BATCH)
        self._key = network.model.key
        self._finish = network.preprocessing.finish
        self._device = torch.device(settings.device)
        half = settings.precision in ("bfloat16", "float16")
        self._dtype = getattr(torch, settings.precision) if half else torch.float32
        # Tensor cores want channels last; without them, in true float32, GPUs are faster with channels first.
        fast_last = settings.device == "cpu" or settings.precision != "float32"
        self._format = torch.channels_last if fast_last else torch.contiguous_format
        extracted: Any = LayerOutputs(optimise(module, layers), layers)
        self._module = extracted.to(self._device, self._dtype).to(memory_format=self._format)

    def over(self, batches: Iterator[Tensor]) -> Iterator[dict[str, Tensor]]:
        """Activations by layer, each (n, ...) in float32 on the device, for batches of images or parts of them."""
        for waiting in batches:
            while len(waiting):
                outputs = self._attempt(waiting[: self.batch_size])
                if outputs is None:
                    self._shrink()
                    continue
                waiting = waiting[self.batch_size :]
                yield outputs

    @torch.inference_mode()
    def _attempt(self, images: Tensor) -> dict[str, Tensor] | None:
        """Activations, or None if memory does not suffice."""
        try:
            inputs = self._finish(images.to(self._device, non_blocking=True)).to(self._dtype)
            outputs = self._module(inputs.contiguous(memory_format=self._format) if inputs.ndim == 4 else inputs)
            for layer, output in outputs.items():
                self._require_patterns(layer, output, len(images))
            return {layer: output.float() for layer, output in outputs.items()}
        except InputError:
            raise
        except Exception as error:  # the network's own code can fail in any way
            if _is_lack_of_memory(error):
                return None
            raise InputError(_cannot_process(self._key, images.shape[1:], error)) from error

    def _require_patterns(self, layer: str, output: Any, n: int) -> None:
        if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != n:
            found = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise InputError(
                f"{self._key}, layer {layer}: returns {found} for {n} images, expected a tensor with one pattern of "
                "activations per image; choose another layer"
            )

    def _shrink(self) -> None:
        if self.batch_size == 1:
            raise InputError(
                f"{self._key}: the {self._device.type} has too little memory for a single image; "
                "free some, or set `device` to cpu"
            )
        self.batch_size //= 2
        warnings.warn(f"{self._key}: memory is low, continuing with batches of {self.batch_size}", stacklevel=2)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _is_lack_of_memory(error: BaseException) -> bool:
    # What torch's allocator for the CPU raises is a plain RuntimeError.
    texts = ("can't allocate memory", "not enough memory", "bad allocation")
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or any(text in str(error) for text in texts)
