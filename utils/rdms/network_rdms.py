"""RDMs of the layers of networks: run networks on images, and write one RDM per layer."""

from __future__ import annotations

import csv
import hashlib
import inspect
import io
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from utils import InputError
from utils.io.data_folder import DataFolder
from utils.io.output import staged, write_conditions, written_whole
from utils.io.provenance import provenance
from utils.io.readers import read_conditions, read_table
from utils.parallel.resources import Progress, ignore
from utils.rdm import condense, expand, pattern_rdms
from utils.rdms.extraction import FeatureExtractor, Network
from utils.rdms.settings import ExtractionSettings
from utils.rdms.stimuli import Stimulus, few

# Changing it makes every RDM be recomputed.
_VERSION = 2
_CACHE_BYTES = 2**21


# --- from images to RDMs


def compute_rdms(
    stimuli: Sequence[Stimulus],
    networks: Sequence[Network],
    data: DataFolder,
    settings: ExtractionSettings,
    progress: Progress = ignore,
) -> tuple[list[Path], list[Path]]:
    """Run networks on images and write the RDMs of their layers.

    Parameters
    ----------
    stimuli : sequence of (str, Path)
        Name and file of every image, in the order of the RDMs' rows.
    networks : sequence of Network
    data : DataFolder
        Where RDMs, conditions.txt and models.tsv go; made if needed.
    settings : ExtractionSettings
    progress : callable, optional
        Called with (images that went through a network, images in all).

    Returns
    -------
    computed, kept : list of Path
        RDM files, float64 of shape (n_images, n_images), that were computed now and that existed already.

    Raises
    ------
    InputError
        If images cannot be used, the folder belongs to other images or cannot be written to, a network has no such
        layer or cannot process the images, or an RDM is undefined.
    """
    names = [name for name, _ in stimuli]
    if len(names) < 3:
        raise InputError(f"found {len(names)} image(s), but an RDM needs three or more")
    # All images are read before anything is computed: a missing one is better found now than in an hour.
    digest = _digest_of_images(stimuli, settings.workers)
    _prepare_folder(data, names)
    features = FeatureExtractor(stimuli, settings)
    computed: list[Path] = []
    kept: list[Path] = []
    before = 0

    def advance(n: int) -> None:
        progress(before + n, len(networks) * len(names))

    with _tf32(settings.precision == "tf32"):
        for network in networks:
            module = network.load()
            made_from = _made_from(digest, module, network, settings)
            todo = {node: data.dnn_rdm(network.model.key, name) for node, name in settings.layers.items()}
            finished = [
                node for node, path in todo.items() if _is_finished(path, {**made_from, "layer": node}, data, settings)
            ]
            kept += [todo.pop(node) for node in finished]
            if todo or not finished:
                _run_network(features, network, module, todo, data, made_from, advance)
            advance(len(names))
            before += len(names)
            with staged(data.root, wait=True):  # jobs that run side by side add to one table
                _add_to_table(data.models, network)
            computed += todo.values()
    return computed, kept


def _run_network(
    features: FeatureExtractor,
    network: Network,
    module: nn.Module,
    todo: Mapping[str, Path],
    data: DataFolder,
    made_from: Mapping[str, Any],
    advance: Callable[[int], None],
) -> None:
    """Activations of all images, then the RDM of each layer."""
    started, settings = time.time(), features.settings
    names = [name for name, _ in features.stimuli]
    files = {node: data.activations / path.name if settings.save_activations else None for node, path in todo.items()}
    with features.activations(network, module, files, data.root, advance) as activations:
        # Not before there are activations: images that cannot be used leave nothing behind.
        write_conditions(data.conditions, names)
        for node, path in todo.items():
            rdm = _rdm(activations[node].flatten(1), network, node, names, settings)
            record = _record(path, network, node, activations[node], settings, started)
            _write_rdm(path, rdm, {"made_from": {**made_from, "layer": node}, **record})


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Whether a GPU may round the factors of float32 products to 10 bits; torch's default for convolutions is yes."""
    switches: tuple[Any, Any] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = allowed
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def _rdm(
    patterns: Tensor, network: Network, node: str, names: Sequence[str], settings: ExtractionSettings
) -> NDArray[np.float64]:
    """RDM of a layer, or an error that names the images."""
    try:
        return chunked_rdm(
            patterns, settings.metric, center=settings.center, device=settings.device, memory=settings.memory // 4
        )
    except Undefined as error:
        shown = few([names[i] for i in error.rows])
        where = f"{network.model.key}, layer {node}: {error} for {len(error.rows)} of {len(names)} images ({shown})"
        if error.finite:
            raise InputError(
                f"{where}, so their {settings.metric} distance is undefined; check these images, or set `metric` to "
                "euclidean"
            ) from None
        raise InputError(f"{where}; set `precision` to float32, and check weights and preprocessing") from None


def _record(
    path: Path, network: Network, node: str, activations: Tensor, settings: ExtractionSettings, started: float
) -> dict[str, Any]:
    """What a reader needs to know about an RDM."""
    data = {
        "model": network.model.key,
        "layer": node,
        "n_images": len(activations),
        "n_units": activations[0].numel(),
        "preprocessing": network.preprocessing.name,
        "weights": network.weights,
    }
    options = {name: getattr(settings, name) for name in ("precision", "metric", "center")}
    options["batch_size"] = settings.batch_size or "auto"
    return provenance(f"RDM {path.stem}", options, data, settings.device, started)


# --- what is there already


def _digest_of_images(stimuli: Sequence[Stimulus], workers: int) -> str:
    """Digest of the names, bytes and order of all images."""

    def one(stimulus: Stimulus) -> str:
        name, path = stimulus
        try:
            return f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check that it exists") from None

    with ThreadPoolExecutor(workers) as pool:
        return hashlib.sha256("\n".join(pool.map(one, stimuli)).encode()).hexdigest()


def _made_from(images: str, module: nn.Module, network: Network, settings: ExtractionSettings) -> dict[str, Any]:
    """Everything that determines the RDMs of a network, except the layer and rounding."""
    digest = hashlib.sha256(repr(module).encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    for source in sorted(_own_code(module)):
        digest.update(source.encode())
    return {
        "version": _VERSION,
        "images": images,
        "network and weights": digest.hexdigest(),
        "preprocessing": network.preprocessing.name,
        "precision": settings.precision,
        "metric": settings.metric,
        "center": settings.center,
    }


def _own_code(module: nn.Module) -> set[str]:
    """Code of the user's own classes in a network: its weights do not show that this changed."""
    sources = set()
    for kind in {type(part) for part in module.modules()}:
        if kind.__module__.split(".")[0] not in ("torch", "torchvision", "models"):
            with suppress(OSError, TypeError):
                sources.add(inspect.getsource(kind))
    return sources


def _is_finished(path: Path, wanted: Mapping[str, Any], data: DataFolder, settings: ExtractionSettings) -> bool:
    """Whether this RDM exists, unchanged, was computed from the same inputs, and need not be recomputed.

    Warns where an RDM of other inputs will be replaced.
    """
    if settings.fresh or not path.exists():
        return False
    try:
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        before = dict(record["made_from"])
        intact = record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError):
        before, intact = {}, False
    changed = [name for name, value in wanted.items() if before.get(name) != value]
    if changed or not intact:
        what = f"its {' and '.join(changed)} changed" if intact else "it changed or lost its record"
        warnings.warn(f"{path}: {what} since it was computed; it is computed anew", stacklevel=3)
        return False
    return not settings.save_activations or (data.activations / path.name).exists()


# --- the data folder


def _prepare_folder(data: DataFolder, names: Sequence[str]) -> None:
    """Make the folder; refuse it if its conditions are other images."""
    path = data.conditions
    try:
        data.dnn_rdms.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{data.root}: cannot be written to ({error}); choose another folder as `out`") from None
    found = read_conditions(path) if path.exists() else list(names)
    if found != list(names):
        pairs = enumerate(zip(found, names, strict=False), start=1)
        differing = [f"condition {i} is '{old}' there and '{new}' here; " for i, (old, new) in pairs if old != new]
        raise InputError(
            f"{path}: lists {len(found)} conditions that do not match the {len(names)} images and their order; "
            f"{''.join(differing[:1])}"
            "choose another folder as `out`, or list the images in that order in a text file"
        )


def _write_rdm(path: Path, rdm: NDArray[np.float64], record: Mapping[str, Any]) -> None:
    """The RDM, then its record: one without the other counts as unfinished."""
    buffer = io.BytesIO()
    np.save(buffer, rdm)
    with written_whole(path) as file:
        file.write(buffer.getbuffer())
    described = {**record, "sha256": hashlib.sha256(buffer.getbuffer()).hexdigest()}
    with written_whole(path.with_suffix(".json")) as file:
        file.write((json.dumps(described, indent=2) + "\n").encode())


def _add_to_table(path: Path, network: Network) -> None:
    """Add the network to models.tsv, whose other rows and columns stay."""
    rows = read_table(path, "\t", ("key", "label", "group")) if path.exists() else []
    model = network.model
    row = next((row for row in rows if row["key"] == model.key), None)
    if row is None:
        rows.append({"key": model.key, "label": model.label, "group": model.group, "color": model.color})
    elif network.overrides:
        row |= {"label": model.label, "group": model.group}
    else:
        return
    text = io.StringIO()
    columns = dict.fromkeys([*(name for row in rows for name in row), "color"])
    writer = csv.DictWriter(text, columns, delimiter="\t", restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with written_whole(path) as file:
        file.write(text.getvalue().encode())


# --- RDMs of many units


class Undefined(ValueError):
    """Patterns, finite or not, for which a dissimilarity is undefined; `rows` are their conditions."""

    def __init__(self, what: str, good: Tensor, finite: bool) -> None:
        super().__init__(what)
        self.rows, self.finite = (~good[:, 0]).nonzero()[:, 0].tolist(), finite


def chunked_rdm(
    patterns: Tensor,
    metric: str = "correlation",
    *,
    center: bool = False,
    device: str = "cpu",
    memory: int = 2**29,
) -> NDArray[np.float64]:
    """RDM of patterns with many units, computed in float64 from some units of all conditions at a time.

    Every metric follows from inner products, which add up over units: correlations from those of patterns around their
    own mean, Euclidean distances from those of patterns around the mean pattern, which loses the fewest digits.

    Parameters
    ----------
    patterns : Tensor of float32 or float64, shape (n_conditions, n_units)
        On any device, or mapped from a file.
    metric : str
        One of `utils.rdm.METRICS`. One that is not derived from products here is computed from all units at once.
    center : bool
        Subtract the mean over conditions from every unit first.
    device : {"cpu", "cuda"}
        Where to compute.
    memory : int
        Bytes for a chunk of units and its intermediate results, besides matrices of the size of the RDM.

    Returns
    -------
    ndarray of float64, shape (n_conditions, n_conditions)

    Raises
    ------
    Undefined
        If a pattern is not finite, or the metric undefined for it (a constant pattern has no correlation).
    """
    n, n_units = patterns.shape
    if metric not in ("correlation", "cosine", "euclidean", "sqeuclidean"):
        return np.asarray(expand(pattern_rdms(patterns.to(device).double(), metric, center=center).cpu().numpy()))
    step = max(1, memory // (4 * 8 * n))
    if device == "cpu":
        # Chunks that stay in the cache, unless adding up (n, n) products then took longer than the products.
        step = min(step, max(_CACHE_BYTES // (8 * n), 4 * n))

    center = center or metric in ("euclidean", "sqeuclidean")

    def chunks() -> Iterator[tuple[Tensor, Tensor]]:
        """Units as they are, and centered if wanted."""
        for start in range(0, n_units, step):
            raw = patterns[:, start : start + step].to(device).double()
            yield raw, raw - raw.mean(dim=0) if center else raw

    means: Any = 0.0
    if metric == "correlation":
        means = sum(chunk.sum(dim=1, keepdim=True) for _, chunk in chunks()) / n_units
    products = torch.zeros(n, n, dtype=torch.float64, device=device)
    sizes = torch.zeros(n, 1, dtype=torch.float64, device=device)
    for raw, chunk in chunks():
        sizes += (raw * raw).sum(dim=1, keepdim=True)
        chunk = chunk - means
        products.addmm_(chunk, chunk.T)
    if not (good := sizes.isfinite()).all():
        raise Undefined("activations are NaN or inf", good, finite=False)
    squares = products.diagonal()[:, None]
    if metric in ("euclidean", "sqeuclidean"):
        distances = (squares + squares.T - 2 * products).clip(0)
        return _square(distances.sqrt() if metric == "euclidean" else distances)
    rounding = np.finfo(np.float64).eps ** 2 * n_units
    if not (good := squares > rounding * sizes).all():
        what = "activations are the same in all units" if metric == "correlation" else "activations are all 0"
        raise Undefined(what, good, finite=True)
    lengths = squares.sqrt()
    return _square((1 - products / lengths / lengths.T).clip(0, 2))


def _square(distances: Tensor) -> NDArray[np.float64]:
    """An RDM that is symmetric with zeros on its diagonal, whatever the rounding."""
    return np.asarray(expand(condense(distances.cpu().numpy())))
