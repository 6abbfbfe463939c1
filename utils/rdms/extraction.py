"""Images through a network, batch by batch, and the activations that come out: kept, spilled to disk, read in parts."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from models.tasks import Model
from utils import InputError
from utils.io.output import disk_errors, written_whole
from utils.rdms.preprocessing import Preprocessing
from utils.rdms.stimuli import Stimulus, decode

if TYPE_CHECKING:
    import torch
    from torch import nn

CPU_BATCH = 5  # activations of more images at once do not stay in the cache: slower, not faster
GPU_BATCH = 64


@dataclass(frozen=True)
class Network:
    """A network to be run.

    Attributes
    ----------
    model : Model
        Its row of models.tsv. An empty colour leaves the choice to the reader.
    load : callable
        Returns the network, in eval mode, on the CPU.
    preprocessing : Preprocessing
    weights : str
        Where the weights come from, for the record.
    overrides : bool
        Whether label and group replace those of an existing row of models.tsv.
    """

    model: Model
    load: Callable[[], nn.Module]
    preprocessing: Preprocessing
    weights: str
    overrides: bool = False


@dataclass(frozen=True)
class Settings:
    """How activations and RDMs are computed.

    Attributes
    ----------
    layers : mapping of str to str
        Layers by their names in the network, and their names in files.
    device : str
        "cpu" or "cuda".
    batch_size : int or None
        Images that go through the network at once; None chooses.
    precision : {"float32", "tf32", "bfloat16", "float16"}
        Of the network. Activations are kept in float32, RDMs computed in float64.
    metric : str
        One of `utils.rdm.METRICS`.
    center : bool
        Subtract the mean over images from every unit first.
    save_activations : bool
        Keep activations/<key>_<layer>.npy, float32 of shape (n_images, ...).
    memory : int
        Bytes for prepared images and activations; what does not fit goes to a temporary file.
    workers : int
        Threads that decode images.
    fresh : bool
        Compute what is there already.
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


def digest_of_images(stimuli: Sequence[Stimulus], workers: int) -> str:
    """Digest of the bytes and the order of all images, and of their names."""

    def one(stimulus: Stimulus) -> str:
        name, path = stimulus
        try:
            return f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check that it is there") from None

    with ThreadPoolExecutor(workers) as pool:
        return hashlib.sha256("\n".join(pool.map(one, stimuli)).encode()).hexdigest()


class Images:
    """Prepared images in batches, decoded ahead of their use, and kept for the next network while memory lasts."""

    def __init__(self, stimuli: Sequence[Stimulus], settings: Settings) -> None:
        self.stimuli = stimuli
        self._settings = settings
        self._memory = settings.memory // 4
        self._stage = ""
        self._kept: dict[int, torch.Tensor] = {}

    def _get(self, i: int, preprocessing: Preprocessing) -> torch.Tensor:
        image = self._kept.get(i)
        if image is None:
            image = preprocessing.prepare(decode(self.stimuli[i][1]))
            if (len(self._kept) + 1) * image.nbytes <= self._memory:
                self._kept[i] = image
        return image

    def batches(self, preprocessing: Preprocessing, size: int) -> Iterator[torch.Tensor]:
        """Batches of prepared images (size or fewer, 3, h, w), on the CPU, in pinned memory for a GPU."""
        if preprocessing.stage != self._stage:
            self._stage = preprocessing.stage
            self._kept.clear()
        with ThreadPoolExecutor(self._settings.workers) as decoders, ThreadPoolExecutor(1) as collector:
            batches = self._collected(preprocessing, size, decoders)
            # The collector makes the next batch while the caller is busy with this one.
            following = collector.submit(next, batches, None)
            while (batch := following.result()) is not None:
                following = collector.submit(next, batches, None)
                yield batch

    def _collected(self, preprocessing: Preprocessing, size: int, pool: ThreadPoolExecutor) -> Iterator[torch.Tensor]:
        import torch

        n = len(self.stimuli)
        ahead = 2 * max(size, self._settings.workers)
        waiting: deque[Any] = deque()
        submitted, pinned = 0, self._settings.device != "cpu"
        for start in range(0, n, size):
            while submitted < min(n, start + size + ahead):
                waiting.append(pool.submit(self._get, submitted, preprocessing))
                submitted += 1
            images = [waiting.popleft().result() for _ in range(min(size, n - start))]
            batch = torch.empty((len(images), *images[0].shape), dtype=images[0].dtype, pin_memory=pinned)
            yield torch.stack(images, out=batch)


class Runner:
    """Runs a network on batches of prepared images; on lack of memory, on smaller ones from then on."""

    def __init__(self, network: Network, module: nn.Module, layers: Sequence[str], settings: Settings) -> None:
        import torch

        from models.taskonomy import extractor, optimise

        self.batch_size = settings.batch_size or (CPU_BATCH if settings.device == "cpu" else GPU_BATCH)
        self._key = network.model.key
        self._finish = network.preprocessing.finish
        self._device = torch.device(settings.device)
        half = settings.precision in ("bfloat16", "float16")
        self._dtype = getattr(torch, settings.precision) if half else torch.float32
        # Tensor cores want channels last; without them, in true float32, GPUs are faster with channels first.
        fast_last = settings.device == "cpu" or settings.precision != "float32"
        self._format = torch.channels_last if fast_last else torch.contiguous_format
        extracted: Any = extractor(optimise(module, layers), layers)
        self._module = extracted.to(self._device, self._dtype).to(memory_format=self._format)
        self._copies = torch.cuda.Stream() if self._device.type == "cuda" else None

    def over(self, batches: Iterator[torch.Tensor]) -> Iterator[dict[str, Any]]:
        """Outputs of layers, each (n, ...) in float32, for the batches in turn or parts of them."""
        for batch in batches:
            start = 0
            while start < len(batch):
                outputs = self._attempt(batch[start : start + self.batch_size])
                if outputs is None:
                    self._shrink()
                    continue
                yield outputs
                start += len(next(iter(outputs.values())))

    def _attempt(self, images: torch.Tensor) -> dict[str, Any] | None:
        """Outputs, or None if memory does not suffice."""
        import torch

        try:
            with torch.inference_mode():
                return self._forward(images)
        except InputError:
            raise
        except (MemoryError, RuntimeError) as error:
            if _is_lack_of_memory(error):
                return None
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(
                f"{self._key}: cannot process images of shape {tuple(images.shape[1:])} ({reason}); "
                "choose another --preprocessing, or check the network"
            ) from error

    def _forward(self, images: torch.Tensor) -> dict[str, Any]:
        import torch

        if self._copies is None:
            moved = images
        else:
            # On a stream of its own, the copy runs while the batch before is still being computed.
            with torch.cuda.stream(self._copies):
                moved = images.to(self._device, non_blocking=True)
            current = torch.cuda.current_stream()
            current.wait_stream(self._copies)
            moved.record_stream(current)
        inputs = self._finish(moved).to(self._dtype)
        outputs = self._module(inputs.contiguous(memory_format=self._format) if inputs.ndim == 4 else inputs)
        for node, output in outputs.items():
            if not isinstance(output, torch.Tensor) or output.ndim < 2 or len(output) != len(images):
                found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
                raise InputError(
                    f"{self._key}, layer {node}: gives {found} for {len(images)} images, expected one pattern of "
                    "activations per image; choose another layer"
                )
        return {node: output.float() for node, output in outputs.items()}

    def _shrink(self) -> None:
        import torch

        if self.batch_size == 1:
            raise InputError(
                f"{self._key}: memory of the {self._device.type} does not suffice for a single image; "
                "free some, or use --device cpu"
            )
        self.batch_size = max(1, self.batch_size // 2)
        warnings.warn(f"{self._key}: memory is short, going on with batches of {self.batch_size}", stacklevel=2)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _is_lack_of_memory(error: BaseException) -> bool:
    import torch

    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    # What torch's allocator for the CPU raises is a plain RuntimeError.
    return any(text in str(error) for text in ("can't allocate memory", "not enough memory", "bad allocation"))


@contextmanager
def single_precision_products(tf32: bool) -> Iterator[None]:
    """Whether a GPU may round the factors of float32 products to 10 bits; torch's default for convolutions is yes."""
    import torch

    switches: tuple[Any, Any] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = tf32
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


class Activations:
    """Activations of one layer: on the device or in memory where there is room, else in a file.

    Attributes
    ----------
    shape : (int, int)
        Images, units.
    n_stored : int
        Images stored so far.
    """

    def __init__(self, shape: tuple[int, int], device: str, in_memory: bool, file: BinaryIO | None) -> None:
        import torch

        self.shape = shape
        self.n_stored = 0
        self._device = device
        self._tensor = torch.empty(shape, dtype=torch.float32, device=device) if in_memory else None
        self._file = file
        self._offset = 0 if file is None else file.tell()
        self._mapped: NDArray[np.float32] | None = None
        self._arriving: tuple[Any, Any] | None = None

    def append(self, output: torch.Tensor) -> None:
        """Store activations (n, ...) of the next images."""
        patterns = output.flatten(1)
        if self._tensor is not None:
            self._tensor[self.n_stored : self.n_stored + len(patterns)] = patterns
        self.n_stored += len(patterns)
        if self._file is None:
            return
        if patterns.device.type == "cpu":
            self._file.write(patterns.contiguous().numpy().data)
            return
        # What came before is written while the GPU is busy with what comes now.
        arriving = _copy_to_host(patterns)
        self._write_arrived()
        self._arriving = arriving

    def _write_arrived(self) -> None:
        if self._arriving is not None and self._file is not None:
            host, event = self._arriving
            event.synchronize()
            self._file.write(host.numpy().data)
        self._arriving = None

    def finish(self) -> None:
        """Everything is stored: from now on it is read."""
        self._write_arrived()
        if self._file is not None and self._tensor is None:
            self._file.flush()
            self._mapped = np.memmap(self._file, np.float32, "r", self._offset, self.shape)

    def read(self, rows: NDArray[np.int64], columns: slice) -> torch.Tensor:
        """Activations of some images and units, in float64, on the device."""
        import torch

        if self._tensor is not None:
            # A view where all rows are wanted: only the part that is converted is copied.
            part = self._tensor[:, columns]
            everything = len(rows) == self.shape[0]
            return (part if everything else part[torch.from_numpy(rows).to(part.device)]).double()
        if self._mapped is None:
            raise RuntimeError("activations are read before all of them are stored: call finish() first")
        return torch.from_numpy(self._mapped[rows, columns]).to(self._device).double()


def _copy_to_host(patterns: torch.Tensor) -> tuple[Any, Any]:
    """An asynchronous copy into pinned memory, and the event that ends it."""
    import torch

    stream = torch.cuda.Stream()
    host = torch.empty(patterns.shape, dtype=patterns.dtype, pin_memory=True)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        host.copy_(patterns, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
    patterns.record_stream(stream)
    return host, event


def activations_path(rdm: Path, out: Path) -> Path:
    return out / "activations" / rdm.name


def open_stores(
    stack: ExitStack, outputs: Mapping[str, Any], n: int, todo: Mapping[str, Path], out: Path, settings: Settings
) -> dict[str, Activations]:
    """A store for each layer, the smallest layers in memory first; files are removed when the stack is left."""
    import torch

    room = settings.memory // 2 if settings.device == "cpu" else torch.cuda.mem_get_info()[0] // 2
    stores = {}
    for node in sorted(outputs, key=lambda node: outputs[node].numel()):
        shape = (n, outputs[node][0].numel())
        in_memory = 4 * n * shape[1] <= room
        room -= 4 * n * shape[1] * in_memory
        file: Any = None
        if settings.save_activations:
            file = stack.enter_context(written_whole(activations_path(todo[node], out)))
            header = {"descr": "<f4", "fortran_order": False, "shape": (n, *outputs[node].shape[1:])}
            np.lib.format.write_array_header_1_0(file, header)
        elif not in_memory:
            # Written as a file and mapped for reading only: on a full disk, writing through a map kills the process.
            stack.enter_context(disk_errors(out, "a temporary file of activations"))
            file = stack.enter_context(tempfile.TemporaryFile(dir=out))  # noqa: SIM115
        stores[node] = Activations(shape, settings.device, in_memory, file)
    return stores
