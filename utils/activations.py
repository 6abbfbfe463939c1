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
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.tasks import TASK_LAYERS, TASKS, Model
from utils import InputError, cli
from utils.rdm import METRICS
from utils.rdms.extraction import (
    CPU_BATCH,
    GPU_BATCH,
    Network,
    Settings,
)
from utils.rdms.preprocessing import PREPROCESSINGS, get_preprocessing
from utils.rdms.stimuli import list_images

if TYPE_CHECKING:
    from torch import nn
from utils.rdms.network_rdms import _KEY, _PRECISIONS, compute_rdms


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
