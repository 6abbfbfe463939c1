"""How fast are activations extracted, against the plain forward pass and against what the machine can do?

  python benchmarks/bench_activations.py [--images 50] [--repeats 3]

On the CPU: images/s of the Taskonomy encoder as it is, with all images in one batch; of the optimised one (channels
last, batch norm folded in, small batches); and of the whole way from image files to RDMs on disk, weights at hand. They
take turns, so that other load on the machine hits all of them alike; medians are shown, and the share of the fastest
float32 matrix product measured in the same minute. On a GPU: the forward pass with images already in its memory, and
the share of that rate which is left from files to RDMs, over several networks that see the same images.
"""

from __future__ import annotations

import argparse
import functools
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.networks import LayerOutputs
from models.taskonomy import optimise, random_encoder
from models.tasks import TASK_LAYERS, TASKS
from utils.io.data_folder import DataFolder
from utils.rdms.extraction import Network
from utils.rdms.network_rdms import compute_rdms
from utils.rdms.preprocessing import get_preprocessing
from utils.rdms.settings import CPU_BATCH, GPU_BATCH, ExtractionSettings
from utils.rdms.stimuli import decode, list_images

RANDOM = next(task for task in TASKS if task.key == "random")
CPU_TARGET, GPU_TARGET = 1.8, 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50, help="images on the CPU (50)")
    parser.add_argument("--gpu-images", type=int, default=1024, help="images on the GPU (1024)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, of which the median is shown (3)")
    options = parser.parse_args()
    print(f"{time.strftime('%Y-%m-%d')}, {_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
          f"medians of {options.repeats} rounds")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        _on_cpu(Path(folder), options.images, options.repeats)
        if torch.cuda.is_available():
            _on_gpu(Path(folder), options.gpu_images, options.repeats)
        else:
            print("GPU: not measured, there is none here")


def _on_cpu(folder: Path, n: int, repeats: int) -> None:
    stimuli = _write_images(folder / "cpu", n)
    images = _load_batch(stimuli)
    encoder = random_encoder()
    plain = LayerOutputs(encoder, TASK_LAYERS)
    fast = LayerOutputs(optimise(encoder, TASK_LAYERS), TASK_LAYERS)
    small = [part.contiguous(memory_format=torch.channels_last) for part in images.split(CPU_BATCH)]
    ways: dict[str, Callable[[], Any]] = {
        f"plain forward, batch of {n}": lambda: plain(images),
        f"optimised forward, batches of {CPU_BATCH}": lambda: [fast(part) for part in small],
        "files to RDMs on disk": lambda: _extract(stimuli, folder, "cpu", 1),
    }
    with torch.inference_mode():
        for way in ways.values():
            way()  # the first time, memory is allocated and kernels are chosen
        rates: dict[str, list[float]] = {name: [] for name in ways}
        peaks = []
        for _ in range(repeats):
            for name, way in ways.items():
                rates[name].append(n / _seconds(way))
            peaks.append(_peak("cpu"))
    work = _operations(encoder)
    # The best round: other load on the machine can only make a product look slower than it is.
    peak = max(peaks)
    print(f"CPU: {work / 1e9:.1f} GFLOP per image; fastest float32 matrix product {peak / 1e9:.0f} GFLOP/s")
    reference = next(iter(ways))
    for name, values in rates.items():
        ratio = statistics.median(value / base for value, base in zip(values, rates[reference], strict=True))
        rate = statistics.median(values)
        print(f"  {name:36s} {rate:6.1f} images/s  {ratio:5.2f} x plain  {rate * work / peak:4.0%} of that product")
    print(f"  aim: {CPU_TARGET} x plain")


def _on_gpu(folder: Path, n: int, repeats: int) -> None:
    stimuli = _write_images(folder / "gpu", n)
    n_networks = 3
    images = _load_batch(stimuli[:GPU_BATCH]).cuda()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    fast = LayerOutputs(optimise(random_encoder(), TASK_LAYERS), TASK_LAYERS).cuda()
    fast = fast.to(memory_format=torch.contiguous_format)
    n_batches = -(-n // GPU_BATCH)

    def bare() -> None:
        for _ in range(n_batches):
            fast(images)
        torch.cuda.synchronize()

    bare_rates, whole_rates, peaks = [], [], []
    with torch.inference_mode():
        bare()
        for _ in range(repeats):
            bare_rates.append(n_batches * GPU_BATCH / _seconds(bare))
            whole_rates.append(n_networks * n / _seconds(lambda: _extract(stimuli, folder, "cuda", n_networks)))
            peaks.append(_peak("cuda"))
    share = statistics.median(whole / bare for whole, bare in zip(whole_rates, bare_rates, strict=True))
    rate, work = statistics.median(bare_rates), _operations(random_encoder())
    print(f"GPU: {torch.cuda.get_device_name()}, float32 without TF32, batches of {GPU_BATCH}")
    print(f"  forward, images in its memory: {rate:8.1f} images/s, {rate * work / max(peaks):.0%} of the "
          "fastest matrix product")  # fmt: skip
    print(f"  files to RDMs, {n_networks} networks:     {statistics.median(whole_rates):8.1f} images/s, {share:.0%} of "
          f"the forward pass (aim: {GPU_TARGET:.0%})")  # fmt: skip


def _load_batch(stimuli: list[Any]) -> torch.Tensor:
    preprocessing = get_preprocessing("taskbank")
    return preprocessing.finish(torch.stack([preprocessing.prepare(decode(path)) for _, path in stimuli]))


def _extract(stimuli: list[Any], folder: Path, device: str, n_networks: int) -> None:
    networks = [
        Network(RANDOM, lambda seed=seed: _encoder(seed), get_preprocessing("taskbank"), "untrained")
        for seed in range(n_networks)
    ]
    settings = ExtractionSettings(
        {layer: layer for layer in TASK_LAYERS}, device=device, fresh=True, memory=8 * 10**9, workers=8
    )
    compute_rdms(stimuli, networks, DataFolder(folder / f"out-{device}"), settings)


@functools.cache
def _encoder(seed: int) -> torch.nn.Module:
    return random_encoder(seed=seed)


def _write_images(folder: Path, n: int) -> list[Any]:
    """JPEGs of the size that such stimuli usually have."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (25, 25, 3)).astype(np.uint8))
        coarse.resize((400, 400), Image.Resampling.BICUBIC).save(folder / f"image_{i}.jpg", quality=90)
    return list_images(folder)


def _seconds(way: Callable[[], Any]) -> float:
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


def _peak(device: str) -> float:
    """Floating-point operations per second of the fastest float32 matrix product.

    The same product is given to each library that torch computes with, plainly and as a convolution of 1 x 1: on a CPU
    these are two libraries, and which of them knows the processor's widest instructions depends on its maker.
    """
    n = 2048 if device == "cpu" else 8192
    a, b = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
    side = 32 if device == "cpu" else 64
    pixels = torch.randn(n // side**2, n, side, side, device=device).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(n, n, 1, 1, device=device).contiguous(memory_format=torch.channels_last)

    def finished(product: Callable[[], Any]) -> None:
        product()
        if device != "cpu":
            torch.cuda.synchronize()

    products = (lambda: a @ b, lambda: torch.nn.functional.conv2d(pixels, kernel))
    for product in products:
        finished(product)
    return 2 * n**3 / min(_seconds(lambda p=product: finished(p)) for product in products for _ in range(8))


def _operations(encoder: torch.nn.Module) -> float:
    """Floating-point operations of the convolutions for one image."""
    total = 0

    def count(module: Any, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += 2 * output.numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.inference_mode():
        encoder(torch.zeros(1, 3, 256, 256))
    for hook in hooks:
        hook.remove()
    return float(total)


def _processor() -> str:
    """Name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
