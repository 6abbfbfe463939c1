"""Images -> activations of networks -> representational dissimilarity matrices (RDMs).

All networks see the same images in the same order, which is kept in conditions.txt; RDMs go to DATA/dnn_rdms, networks
to DATA/models.tsv, where the figure scripts find them. Each RDM has a .json beside it that says what it was computed
from. What is there already, from the same images, weights and settings, is not computed again.

  python -m utils.activations --images stimuli --out my_study
        the 18 Taskonomy networks and the untrained one, layers block4 and encoder_output

  python -m utils.activations --images stimuli --out my_study --tasks edge2d class_places random --weights checkpoints
        some of them, with checkpoints that you have

  python -m utils.activations --images stimuli --out my_nets --model resnet18:DEFAULT --group semantic \\
        --layers layer1=early layer4=late
        a network of torchvision; early and late are the layers' names in file names. The scripts compare networks that
        have the same layers, so give those of different networks the same names

  python -m utils.activations --images stimuli --out my_nets --model my_module:my_network --layers conv2=early fc=late
        your own: my_network() in my_module.py returns a torch.nn.Module
"""

from __future__ import annotations

import argparse
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

from models.tasks import TASK_LAYERS, TASKS, Model
from utils import InputError, cli
from utils.blockwise import Undefined, blockwise_rdm
from utils.files import read_table
from utils.forward import (
    CPU_BATCH,
    GPU_BATCH,
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
from utils.images import PREPROCESSINGS, Stimulus, get_preprocessing, list_images
from utils.rdm import METRICS
from utils.results import provenance, written_whole

if TYPE_CHECKING:
    from torch import nn

Progress = Callable[[int, int], None]

# Part of the fingerprint: a change of it makes every RDM be computed anew.
_VERSION = 1
_PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


# ---------------------------------------------------------------------------------------------------------- the whole


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


# -------------------------------------------------------------------------------------------------- the data folder


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


# ------------------------------------------------------------------------------------------------------- command line


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.Parser(
        prog="python -m utils.activations", description=__doc__, formatter_class=cli.Help, allow_abbrev=False
    )
    what = parser.add_argument_group("what")
    what.add_argument("--images", type=Path, required=True, metavar="DIR",
                      help="folder of images, or a text file that lists them (one path per line, relative to it); a "
                           "stimulus is called as its file, without suffix")  # fmt: skip
    what.add_argument("--out", type=Path, required=True, metavar="DATA", help="data folder; made if needed")
    either = what.add_mutually_exclusive_group()
    either.add_argument("--tasks", nargs="+", metavar="TASK", default=argparse.SUPPRESS,
                        help="Taskonomy networks, and random, the untrained one (all)")  # fmt: skip
    either.add_argument("--model", metavar="SPEC", default=argparse.SUPPRESS,
                        help="another network: module:function, or one of torchvision's, untrained (resnet18) or with "
                             "weights (resnet18:DEFAULT)")  # fmt: skip
    what.add_argument("--layers", nargs="+", metavar="LAYER", default=argparse.SUPPRESS,
                      help="layers, or LAYER=NAME with a name for files (for --tasks: block4 "
                           "encoder_output)")  # fmt: skip
    what.add_argument("--preprocessing", choices=PREPROCESSINGS, default=argparse.SUPPRESS,
                      help="how images become input (taskbank, the published one per task, for --tasks; imagenet for "
                           "--model, which means the weights' own transforms where there are weights)")  # fmt: skip
    for name, text in (("key", "name in files"), ("label", "name in figures"), ("group", "group in figures")):
        what.add_argument(f"--{name}", default=argparse.SUPPRESS, help=f"{text} of the network of --model")
    _add_weights_options(parser)
    _add_computing_options(parser)
    options = parser.parse_args(argv)
    for name in ("tasks", "model", "layers", "preprocessing", "key", "label", "group", "weights"):
        options.__dict__.setdefault(name, None)
    if options.model is None and (options.key or options.label or options.group):
        parser.error("--key, --label and --group go with --model; Taskonomy's networks have theirs")
    if options.model is not None and (options.weights or options.unverified_weights):
        parser.error("--weights and --unverified-weights go with --tasks; name weights as in --model resnet18:DEFAULT")
    return options


def _add_weights_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("weights")
    group.add_argument("--weights", type=Path, metavar="DIR", default=argparse.SUPPRESS,
                       help="folder of Taskonomy checkpoints; those that are missing are downloaded into it (without: "
                            "torch hub's cache)")  # fmt: skip
    group.add_argument("--unverified-weights", action="store_true",
                       help="take checkpoints that are not the published ones, such as weights of your own; says so in "
                            "the record")  # fmt: skip
    group.add_argument("--seed", type=_at_least(0), default=0, help="seed of untrained networks")


def _add_computing_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("computing")
    group.add_argument("--metric", choices=tuple(METRICS), default="correlation",
                       help="dissimilarity; correlation is 1 - Pearson")  # fmt: skip
    group.add_argument("--center", action="store_true", help="subtract the mean over images from every unit first")
    group.add_argument("--precision", choices=_PRECISIONS, default="float32",
                       help="of the networks; tf32 and float16 need a GPU. RDMs are computed in float64")  # fmt: skip
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                       help="where to compute; auto takes a GPU if there is one")  # fmt: skip
    group.add_argument("--batch-size", type=_batch_size, default="auto", metavar="N",
                       help=f"images at once; auto is {CPU_BATCH} on the CPU (more do not stay in its cache) and "
                            f"{GPU_BATCH} on a GPU, halved where memory runs out")  # fmt: skip
    group.add_argument("--memory", type=cli.size, default="2GB", metavar="SIZE",
                       help="for images and activations, besides the network; what does not fit goes to a temporary "
                            "file in DATA")  # fmt: skip
    group.add_argument("--workers", type=_at_least(1), default=min(8, cli.available_cores()), metavar="N",
                       help="threads that decode images")  # fmt: skip
    group.add_argument("--save-activations", action="store_true", help="keep activations, in DATA/activations")
    group.add_argument("--fresh", action="store_true", help="compute what is there already, too")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress bar")


def _at_least(least: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}', expected a whole number from {least} on")
        return int(text)

    return whole


def _batch_size(text: str) -> int | None:
    return None if text == "auto" else _at_least(1)(text)


def _layers(given: Sequence[str]) -> dict[str, str]:
    """Layers by node, with their names in files."""
    layers = {}
    for text in given:
        node, _, name = text.partition("=")
        if not node or not _KEY.fullmatch(name or node):
            raise InputError(
                f"--layers {text}: expected LAYER or LAYER=NAME, with letters, digits, dots, dashes and underscores"
            )
        if node in layers:
            raise InputError(f"--layers: {node} stands there twice; name every layer once")
        layers[node] = name or node
    return layers


def _taskonomy_networks(options: argparse.Namespace) -> list[Network]:
    from models.taskonomy import load_encoder

    tasks = {task.key: task for task in TASKS}
    unknown = [key for key in options.tasks or () if key not in tasks]
    if unknown:
        raise InputError(f"unknown task(s) {', '.join(unknown)}; there are {', '.join(tasks)}")

    def network(key: str) -> Network:
        def load() -> nn.Module:
            return load_encoder(key, options.weights, seed=options.seed, verify=not options.unverified_weights)

        if tasks[key].checkpoint is None:
            weights = f"untrained, seed {options.seed}"
        else:
            weights = (
                f"UNVERIFIED {options.weights or ''}".strip()
                if options.unverified_weights
                else str(tasks[key].checkpoint)
            )
        return Network(tasks[key], load, get_preprocessing(options.preprocessing or "taskbank", task=key), weights)

    return [network(key) for key in dict.fromkeys(options.tasks or tasks)]


def _other_network(options: argparse.Namespace) -> Network:
    from models.taskonomy import load_network

    name, _, rest = options.model.partition(":")
    module = load_network(options.model, options.seed)
    weights = _torchvision_weights(name, rest)
    key = options.key or (rest if rest and weights is None else name)
    if not _KEY.fullmatch(key):
        raise InputError(f"'{key}' cannot be part of a file name; give the network a --key of letters, digits, dots, "
                         "dashes and underscores")  # fmt: skip
    label, group = options.label or key, options.group or "other"
    if any(not text.strip().isprintable() for text in (label, group)):
        raise InputError("--label and --group: expected text without tabs and line breaks")
    preprocessing = get_preprocessing(options.preprocessing or "imagenet", weights=weights)
    return Network(
        Model(key, label.strip(), group.strip(), ""), lambda: module, preprocessing, options.model,
        overrides=bool(options.label or options.group),
    )  # fmt: skip


def _torchvision_weights(name: str, weights: str) -> Any:
    """Member of the enumeration of weights, or None where the network has none of torchvision's."""
    from torchvision.models import get_model_weights, list_models

    if not weights or name not in list_models():
        return None
    chosen: Any = get_model_weights(name)
    return chosen[weights]


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of this module."""
    started = time.time()
    options = _parse(argv)
    stimuli = list_images(options.images)
    if options.model is None:
        networks = _taskonomy_networks(options)
        layers = _layers(options.layers or TASK_LAYERS)
    else:
        networks = [_other_network(options)]
        layers = _layers(_require_layers(options, networks[0]))
    settings = Settings(
        layers=layers,
        device=cli.choose_device(options),
        **{name: getattr(options, name) for name in ("batch_size", "precision", "metric", "center",
           "save_activations", "memory", "workers", "fresh")},
    )  # fmt: skip
    title = f"{len(stimuli)} images, {len(networks)} network(s)"
    with cli.progress(title, options) as advance:
        computed, kept = compute_rdms(stimuli, networks, options.out, settings, advance)
    if options.unverified_weights:
        cli.warn("weights were not verified: nothing says that these RDMs are of Taskonomy's networks")
    print(
        f"{len(computed) + len(kept)} RDMs of {len(stimuli)} images in {options.out / 'dnn_rdms'}: {len(computed)} "
        f"computed in {time.time() - started:.1f} s, {len(kept)} there already"
    )


def _require_layers(options: argparse.Namespace, network: Network) -> Sequence[str]:
    from models.taskonomy import extractor

    if options.layers:
        return list(options.layers)
    try:
        extractor(network.load(), ["(none given)"])
    except InputError as error:
        raise InputError(f"--layers is missing: {error}") from None
    raise InputError("--layers is missing: name one or more layers of the network")


if __name__ == "__main__":
    cli.execute(main)
