"""RDMs of the layers of networks."""

from __future__ import annotations

import csv
import hashlib
import inspect
import io
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.io.output import written_whole
from utils.io.provenance import provenance
from utils.io.readers import read_table
from utils.rdm import METRICS
from utils.rdms.extraction import (
    Activations,
    Images,
    Network,
    Runner,
    Settings,
    activations_path,
    digest_of_images,
    open_stores,
    single_precision_products,
)
from utils.rdms.stimuli import Stimulus

if TYPE_CHECKING:
    from torch import nn
from utils.rdm import expand, pattern_rdms

Progress = Callable[[int, int], None]
# Part of the fingerprint: a change of it makes every RDM be computed anew.
_VERSION = 1
_PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def compute_rdms(
    stimuli: Sequence[Stimulus],
    networks: Sequence[Network],
    out: Path,
    settings: Settings,
    progress: Progress | None = None,
) -> tuple[list[Path], list[Path]]:
    """Run networks on images and write the RDMs of their layers.

    Parameters
    ----------
    stimuli : sequence of (str, Path)
        Name and file of every image; their order is that of the RDMs' rows.
    networks : sequence of Network
    out : Path
        Data folder in the generic layout of data/README.md; made if needed.
    settings : Settings
    progress : callable, optional
        Called with (images that went through a network, images in all).

    Returns
    -------
    computed, kept : list of Path
        RDM files, float64 of shape (n_images, n_images), that were computed now and that were there already.

    Raises
    ------
    InputError
        If images cannot be used, `out` is of other images or cannot be written to, a network has no such layer or
        cannot process the images, or an RDM is not defined.
    """
    _check_settings(stimuli, settings)
    # All images are read once before anything is computed: a missing one is better found now than in an hour.
    digest = digest_of_images(stimuli, settings.workers)
    _prepare_folder(out, [name for name, _ in stimuli])
    images = Images(stimuli, settings)
    computed: list[Path] = []
    kept: list[Path] = []
    with single_precision_products(settings.precision == "tf32"):
        for number, network in enumerate(networks):
            module = network.load()
            mark = _fingerprint(digest, module, network, settings)
            paths = {node: _rdm_path(out, network, name) for node, name in settings.layers.items()}
            finished = {node for node, path in paths.items() if _is_finished(path, mark, out, settings)}
            todo = {node: path for node, path in paths.items() if settings.fresh or node not in finished}
            done, total = number * len(stimuli), len(networks) * len(stimuli)
            if todo:

                def advance(n: int, done: int = done, total: int = total) -> None:
                    if progress is not None:
                        progress(done + n, total)

                _run_network(network, module, images, todo, out, settings, advance, mark)
            if progress is not None:
                progress(done + len(stimuli), total)
            _add_to_table(out / "models.tsv", network)
            computed += todo.values()
            kept += [path for node, path in paths.items() if node not in todo]
    return computed, kept


def _check_settings(stimuli: Sequence[Stimulus], settings: Settings) -> None:
    if len(stimuli) < 3:
        raise InputError(f"found {len(stimuli)} image(s), but an RDM needs three or more; give more with --images")
    if settings.device == "cpu" and settings.precision in ("tf32", "float16"):
        raise InputError(f"--precision {settings.precision} needs a GPU; use float32 or bfloat16 on the CPU")
    if settings.metric not in METRICS:
        raise InputError(f"unknown metric '{settings.metric}'; there are {', '.join(METRICS)}")
    doubled = sorted({name for name in settings.layers.values() if list(settings.layers.values()).count(name) > 1})
    if doubled:
        raise InputError(f"--layers: two layers have the name {', '.join(doubled)}; give every layer a name of its own")


def _run_network(
    network: Network,
    module: nn.Module,
    images: Images,
    todo: Mapping[str, Path],
    out: Path,
    settings: Settings,
    advance: Callable[[int], None],
    mark: str,
) -> None:
    """Activations of all images, then the RDM of each layer."""
    started = time.time()
    runner = Runner(network, module, list(todo), settings)
    names = [name for name, _ in images.stimuli]
    with ExitStack() as stack:
        stores: dict[str, Activations] = {}
        for outputs in runner.over(images.batches(network.preprocessing, runner.batch_size)):
            if not stores:
                stores = open_stores(stack, outputs, len(names), todo, out, settings)
            for node, output in outputs.items():
                stores[node].append(output)
            advance(next(iter(stores.values())).n_stored)
        del runner, module
        for store in stores.values():
            store.finish()
        _name_conditions(out, names)
        for node, path in todo.items():
            store = stores[node]
            try:
                rdm = blockwise_rdm(
                    store.read, store.shape, settings.metric, center=settings.center, memory=settings.memory // 4
                )
            except Undefined as error:
                raise InputError(_explain(error, names, network, node, settings)) from None
            _write_rdm(path, rdm, _record(path, network, node, names, store, settings, mark, started))


def _explain(error: Undefined, names: Sequence[str], network: Network, node: str, settings: Settings) -> str:
    shown = ", ".join(names[i] for i in error.rows[:3]) + (", ..." if len(error.rows) > 3 else "")
    where = f"{network.model.key}, layer {node}: {error.what} for {len(error.rows)} of {len(names)} images ({shown})"
    if error.finite:
        return f"{where}, so their {settings.metric} is not defined; look at these images, or use --metric euclidean"
    return f"{where}; use --precision float32, and check weights and preprocessing"


def _prepare_folder(out: Path, names: Sequence[str]) -> None:
    """Make the folder; it has no conditions yet, or they are these images, or it is refused."""
    path = out / "conditions.txt"
    try:
        (out / "dnn_rdms").mkdir(parents=True, exist_ok=True)
        found = path.read_text(encoding="utf-8").splitlines() if path.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{out}: cannot be written to ({error}); choose another folder with --out") from None
    if found is None:
        return
    found = [name.strip() for name in found if name.strip()]
    if found != list(names):
        places = [i for i, pair in enumerate(zip(found, names, strict=False)) if pair[0] != pair[1]]
        detail = (
            f"condition {places[0] + 1} is '{found[places[0]]}' there and '{names[places[0]]}' here; " if places else ""
        )
        raise InputError(
            f"{path}: names {len(found)} conditions, which are not the {len(names)} images in their order; {detail}"
            "choose another folder with --out, or give the images in that order in a text file"
        )


def _name_conditions(out: Path, names: Sequence[str]) -> None:
    """Write conditions.txt, once there is something to go with it: images that cannot be used leave nothing behind."""
    path = out / "conditions.txt"
    if not path.exists():
        with written_whole(path) as file:
            file.write("".join(f"{name}\n" for name in names).encode())


def _rdm_path(out: Path, network: Network, layer: str) -> Path:
    return out / "dnn_rdms" / f"{network.model.key}_{layer}.npy"


def _write_rdm(path: Path, rdm: NDArray[np.float64], record: Mapping[str, Any]) -> None:
    """The RDM, then its record: one without the other counts as unfinished."""
    buffer = io.BytesIO()
    np.save(buffer, rdm)
    with written_whole(path) as file:
        file.write(buffer.getbuffer())
    described = {**record, "sha256": hashlib.sha256(buffer.getbuffer()).hexdigest()}
    with written_whole(path.with_suffix(".json")) as file:
        file.write((json.dumps(described, indent=2) + "\n").encode())


def _is_finished(path: Path, mark: str, out: Path, settings: Settings) -> bool:
    """Whether this RDM is there, unchanged, and from the same inputs."""
    try:
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        same = record["fingerprint"] == mark and record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return same and (not settings.save_activations or activations_path(path, out).exists())


def _record(
    path: Path,
    network: Network,
    node: str,
    names: Sequence[str],
    store: Activations,
    settings: Settings,
    mark: str,
    started: float,
) -> dict[str, Any]:
    """What a reader needs to know about an RDM."""
    data = {
        "model": network.model.key,
        "layer": node,
        "n_images": len(names),
        "n_units": store.shape[1],
        "preprocessing": network.preprocessing.name,
        "weights": network.weights,
    }
    options = {
        "precision": settings.precision,
        "metric": settings.metric,
        "center": settings.center,
        "batch_size": settings.batch_size or "auto",
    }
    record = provenance(f"RDM {path.stem}", options, data, settings.device, started)
    return {"fingerprint": mark, **record}


def _fingerprint(images: str, module: nn.Module, network: Network, settings: Settings) -> str:
    """Digest of everything that the RDMs of a network depend on, but rounding."""
    import torch

    digest = hashlib.sha256(repr(module).encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    for source in sorted(_own_code(module)):
        digest.update(source.encode())
    parts = [_VERSION, images, digest.hexdigest(), network.preprocessing.name]
    parts += [settings.precision, settings.metric, settings.center]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _own_code(module: nn.Module) -> set[str]:
    """Code of the classes that a network of the user's is made of: its weights do not show a change in there."""
    own = {type(part) for part in module.modules()}
    sources = set()
    for kind in own:
        if kind.__module__.split(".")[0] in ("torch", "torchvision", "models"):
            continue
        try:
            sources.add(inspect.getsource(kind))
        except (OSError, TypeError):
            continue
    return sources


def _add_to_table(path: Path, network: Network) -> None:
    """Give the network a row in models.tsv; what else stands there stays."""
    rows = read_table(path, "\t", ("key", "label", "group")) if path.exists() else []
    model = network.model
    new = {"key": model.key, "label": model.label, "group": model.group, "color": model.color}
    position = next((i for i, row in enumerate(rows) if row["key"] == model.key), None)
    if position is None:
        rows.append(new)
    elif network.overrides:
        rows[position] |= {"label": model.label, "group": model.group}
    else:
        return
    columns = list(dict.fromkeys([name for row in rows for name in row] + ["color"]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, delimiter="\t", restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with written_whole(path) as file:
        file.write(text.getvalue().encode())


# (rows, columns) -> activations (n_rows, n_columns) in float64, on the device that RDMs are computed on.
Reader = Callable[[NDArray[np.int64], slice], Any]
_CACHE_BYTES = 2**21


class Undefined(ValueError):
    """Patterns between which a dissimilarity is not defined.

    Attributes
    ----------
    what : str
    rows : list of int
        The images.
    finite : bool
        Whether the patterns are finite.
    """

    def __init__(self, what: str, rows: Sequence[int], finite: bool) -> None:
        super().__init__(what)
        self.what, self.rows, self.finite = what, list(rows), finite


def blockwise_rdm(
    read: Reader, shape: tuple[int, int], metric: str = "correlation", *, center: bool = False, memory: int = 2**29
) -> NDArray[np.float64]:
    """RDM of patterns that are read in parts, in float64, whatever precision they are kept in.

    Squared Euclidean distances add up over units. So do, therefore, the other metrics: the correlation distance is half
    the squared Euclidean distance between patterns with mean 0 and length 1, the cosine distance that between patterns
    of length 1. Parts are some units of all conditions, or of two blocks of conditions where these are many.

    Parameters
    ----------
    read : callable
        (array of conditions, slice of units) -> patterns of these, (n_rows, n_columns), a float64 tensor.
    shape : (int, int)
        Conditions, units.
    metric : str
        One of `utils.rdm.METRICS`. One that this function does not know how to build from parts is computed at once.
    center : bool
        Subtract the mean over conditions from every unit first.
    memory : int
        Bytes for what is computed with at a time; the RDM itself comes on top.

    Returns
    -------
    ndarray of float64, shape (n_conditions, n_conditions)

    Raises
    ------
    ValueError
        If a pattern is not finite, or the metric not defined for it (a constant pattern has no correlation).
    """
    n, n_units = shape
    if metric not in ("correlation", "cosine", "euclidean", "sqeuclidean"):
        whole = pattern_rdms(read(np.arange(n), slice(0, n_units)), metric, center=center)
        return np.asarray(expand(whole.cpu().numpy()))
    # Distances within m conditions take about six (m, m) arrays, and as many of (m, columns).
    n_blocks = 1
    while n_blocks < n and 6 * 8 * _pair_size(n, n_blocks) ** 2 > memory // 2:
        n_blocks += 1
    m = _pair_size(n, n_blocks)
    step = max(1, min(n_units, memory // (2 * 6 * 8 * m)))
    if read(np.arange(1), slice(0, 1)).device.type == "cpu":
        # Parts that stay in the cache, but not so small that summing up (m, m) arrays takes the time.
        step = min(step, max(_CACHE_BYTES // (8 * m), 4 * m))
    columns = [slice(start, min(start + step, n_units)) for start in range(0, n_units, step)]
    blocks = np.array_split(np.arange(n), n_blocks)
    average = [_mean_over_conditions(read, blocks, n, part) if center else 0.0 for part in columns]
    shift, scale = _standardisation(read, blocks, columns, average, n_units, metric)
    rdm = np.zeros((n, n))
    for i, first in enumerate(blocks):
        for second in blocks[i + 1 :] or ([first] if n_blocks == 1 else []):
            rows = np.union1d(first, second)
            squares: Any = 0.0
            for part, mean in zip(columns, average, strict=True):
                patterns = (read(rows, part) - mean - shift[rows]) * scale[rows]
                squares = squares + pattern_rdms(patterns, "sqeuclidean")
            distances = _from_squares(squares, metric).cpu().numpy()
            rdm[np.ix_(rows, rows)] = expand(distances)
    return rdm


def _pair_size(n: int, n_blocks: int) -> int:
    """Conditions in the two largest of `n_blocks` blocks."""
    return n if n_blocks == 1 else min(n, 2 * -(-n // n_blocks))


def _mean_over_conditions(read: Reader, blocks: Sequence[NDArray], n: int, part: slice) -> Any:
    total: Any = 0.0
    for rows in blocks:
        total = total + read(rows, part).sum(dim=0)
    return total / n


def _standardisation(
    read: Reader,
    blocks: Sequence[NDArray],
    columns: Sequence[slice],
    average: Sequence[Any],
    n_units: int,
    metric: str,
) -> tuple[Any, Any]:
    """What to subtract from each pattern, and what to multiply it with then; each (n_conditions, 1)."""
    import torch

    shifts, scales = [], []
    for rows in blocks:
        total: Any = 0.0
        squares: Any = 0.0
        size: Any = 0.0
        # Around a value of the pattern itself, sums lose no digits to a large mean, and constants give exactly 0.
        origin = read(rows, slice(0, 1)) - (average[0] if isinstance(average[0], float) else average[0][:1])
        if metric != "correlation":
            origin = torch.zeros_like(origin)
        for part, mean in zip(columns, average, strict=True):
            raw = read(rows, part)
            patterns = raw - mean - origin
            total = total + patterns.sum(dim=1, keepdim=True)
            squares = squares + torch.linalg.vector_norm(patterns, dim=1, keepdim=True) ** 2
            size = size + torch.linalg.vector_norm(raw, dim=1, keepdim=True) ** 2
        _require(torch.isfinite(size), rows, "activations are NaN or inf", finite=False)
        if metric == "correlation":
            squares = (squares - total**2 / n_units).clip(0)
            shifts.append(origin + total / n_units)
        else:
            shifts.append(origin)
        if metric in ("correlation", "cosine"):
            rounding = np.finfo(np.float64).eps ** 2 * n_units
            what = "activations are the same in all units" if metric == "correlation" else "activations are all 0"
            _require(squares > rounding * size, rows, what, finite=True)
            scales.append(squares**-0.5)
        else:
            scales.append(torch.ones_like(squares))
    return torch.cat(shifts), torch.cat(scales)


def _require(fine: Any, rows: NDArray, what: str, finite: bool) -> None:
    bad = rows[~fine[:, 0].cpu().numpy()]
    if bad.size:
        raise Undefined(what, bad.tolist(), finite)


def _from_squares(squares: Any, metric: str) -> Any:
    if metric == "sqeuclidean":
        return squares
    return squares**0.5 if metric == "euclidean" else (squares / 2).clip(0, 2)
