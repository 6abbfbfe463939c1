"""Images -> activations of networks -> representational dissimilarity matrices (RDMs).

All networks see the same images in the same order, which is stored in conditions.txt. RDMs are written to
DATA/dnn_rdms and networks are listed in DATA/models.tsv, where the figure scripts find them. A .json file beside each
RDM records what it was computed from; RDMs of the same images, weights and settings are not recomputed.

  python -m utils.activations --images stimuli --out my_study
        the 18 Taskonomy networks and the untrained one, layers block4 and encoder_output

  python -m utils.activations --images stimuli --out my_study --tasks edge2d class_places random --weights checkpoints
        some of these networks, with checkpoints from a local folder

  python -m utils.activations --images stimuli --out my_nets --model resnet18:DEFAULT --group semantic \\
        --layers layer1=early layer4=late
        a torchvision network. The figure scripts compare networks layer by layer, so give corresponding layers of
        different networks the same name, here early and late

  python -m utils.activations --model timm:vit_base_patch16_224:DEFAULT --list-layers
        the layers of a network of timm (pip install timm), with the shapes of their outputs

  python -m utils.activations --images stimuli --out my_nets --model my_module:my_network --layers conv2=early fc=late
        your own network: my_network() in my_module.py returns a torch.nn.Module, perhaps from another package
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from models.tasks import TASK_LAYERS
from utils import InputError
from utils.cli import command as cli
from utils.parallel.threads import available_cores
from utils.rdm import METRICS
from utils.rdms.settings import CPU_BATCH, GPU_BATCH, PRECISIONS, PREPROCESSINGS, ExtractionSettings

_SETTINGS = ("batch_size", "precision", "metric", "center", "save_activations", "memory", "workers", "fresh")


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: RDMs of networks into a data folder."""
    started = time.time()
    options = _options(argv)
    layers = dict(options.layers)
    if len(layers) < len(options.layers):
        raise InputError("`layers`: a layer is given twice; give every layer once")
    settings = ExtractionSettings(
        layers, cli.choose_device(options), **{name: getattr(options, name) for name in _SETTINGS}
    )
    # Importing torch takes seconds, which --help and mistyped options should not.
    from utils.io.data_folder import DataFolder
    from utils.rdms import extraction, network_rdms, stimuli

    if options.model:
        given = ("key", "label", "group", "preprocessing", "seed")
        networks = [extraction.custom_network(options.model, **{name: getattr(options, name) for name in given})]
    else:
        networks = extraction.taskonomy_networks(
            options.tasks, options.weights, not options.unverified_weights, options.preprocessing, options.seed
        )
    if options.list_layers:
        print(_table_of_layers(extraction.layers_of(networks[0])))
        return
    images, data = stimuli.list_images(options.images), DataFolder(options.out)
    with cli.progress(f"{len(images)} images, {len(networks)} network(s)", options) as advance:
        computed, kept = network_rdms.compute_rdms(images, networks, data, settings, advance)
    if options.unverified_weights:
        cli.warn("weights were not verified, so these may not be RDMs of the Taskonomy networks")
    print(f"{len(computed) + len(kept)} RDMs of {len(images)} images in {data.dnn_rdms}: {len(computed)} computed in "
          f"{time.time() - started:.1f} s, {len(kept)} existed already")  # fmt: skip


def _table_of_layers(rows: Sequence[tuple[str, str, str]]) -> str:
    """Layers as text in columns."""
    titled = [("layer", "class", "output for one image"), *rows]
    widths = [max(len(row[i]) for row in titled) for i in range(2)]
    return "\n".join(f"{name:{widths[0]}}  {kind:{widths[1]}}  {shape}" for name, kind, shape in titled)


def _parser() -> cli.Parser:
    # fmt: off
    parser = cli.Parser(prog="python -m utils.activations", description=__doc__)
    group = parser.add_argument_group("images and networks")
    either, add = group.add_mutually_exclusive_group(), group.add_argument
    add("--images", type=Path, metavar="DIR",
        help="folder of images, or a text file that lists them (one path per line, relative to that file); stimuli are "
             "named after their files, without suffix")
    add("--out", type=Path, metavar="DATA", help="data folder, created if needed")
    either.add_argument("--tasks", nargs="+", metavar="TASK",
                        help="Taskonomy networks, and random, the untrained one (default: all)")
    either.add_argument("--model", metavar="SPEC", help="another network: module:function, or one of torchvision, "
                        "untrained (resnet18) or with weights (resnet18:DEFAULT), or of timm (timm:resnet18, "
                        "timm:resnet18.a1_in1k)")
    add("--list-layers", action="store_true",
        help="print the layers of the network of --model, or of the first of --tasks, and stop; each is a module "
             "of the network, and output is what the network itself returns")
    add("--layers", nargs="+", metavar="LAYER", type=_layer,
        help="layers, or LAYER=NAME to set the name in files (default with --tasks: block4 encoder_output)")
    add("--preprocessing", choices=PREPROCESSINGS,
        help="how images become network input (default: with --tasks taskbank, as published for each task; with "
             "--model imagenet, using the transforms that belong to the weights or to the network of timm)")
    for name, text in (("key", "name in files"), ("label", "name in figures"), ("group", "group in figures")):
        add(f"--{name}", help=f"{text} of the network given by --model")
    add("--weights", type=Path, metavar="DIR",
        help="folder of Taskonomy checkpoints; missing ones are downloaded into it (default: torch hub's cache)")
    add("--unverified-weights", action="store_true",
        help="accept checkpoints other than the published ones, such as your own; this is recorded")
    add("--seed", type=int, default=0, help="seed of untrained networks")
    add = parser.add_argument_group("computation").add_argument
    add("--metric", choices=tuple(METRICS), default="correlation", help="dissimilarity; correlation is 1 - Pearson")
    add("--center", action="store_true", help="first subtract each unit's mean over images")
    add("--precision", choices=PRECISIONS, default="float32",
        help="of the networks; tf32 and float16 need a GPU. RDMs are computed in float64")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto uses a GPU if there is one")
    add("--batch-size", type=_batch_size, default="auto", metavar="N",
        help=f"images per batch; auto is {CPU_BATCH} on a CPU (activations of more images do not fit into its cache) "
             f"and {GPU_BATCH} on a GPU, halved when memory runs out")
    add("--memory", type=cli.size, default="2GB", metavar="SIZE",
        help="memory for images and activations, besides the network; activations that do not fit are kept in "
             "temporary files in DATA")
    add("--workers", type=cli.positive, default=min(8, available_cores()), metavar="N",
        help="threads that decode images")
    add("--save-activations", action="store_true", help="save activations in DATA/activations")
    add("--fresh", action="store_true", help="recompute RDMs that exist already")
    add("-q", "--quiet", action="store_true", help="no progress bar")
    # fmt: on
    return parser


def _batch_size(text: str) -> int | None:
    return None if text == "auto" else cli.positive(text)


def _layer(text: str) -> tuple[str, str]:
    node, _, name = text.partition("=")
    return node, name or node


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options, those that depend on others settled."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.model is None and (options.key or options.label or options.group):
        parser.error("--key, --label and --group require --model; the Taskonomy networks have their own")
    if options.model is not None and (options.weights or options.unverified_weights):
        parser.error("--weights and --unverified-weights require --tasks; give weights as in --model resnet18:DEFAULT")
    if not options.list_layers and (options.images is None or options.out is None):
        parser.error("the following arguments are required: --images, --out")
    options.layers = options.layers or ([] if options.model else [(layer, layer) for layer in TASK_LAYERS])
    return options


def command() -> None:
    """Run from the command line."""
    cli.execute(main, _parser())


if __name__ == "__main__":
    command()
