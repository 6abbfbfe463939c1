"""The 18 Taskonomy tasks and the untrained network: names, groups, checkpoints.

Order is that of the published code's task list. Sources: Zamir et al. 2018 (tasks), Dwivedi et al. 2021 (groups, names
in the figures), the `visualpriors` package (checkpoint names, whose suffix is the SHA-256 of the file).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BASELINE = "baseline"
# The groups of the paper, in its order; the untrained network is in none of them.
GROUPS = ("2D", "3D", "semantic")


@dataclass(frozen=True)
class Model:
    """One network of an analysis, or one group of networks.

    Attributes
    ----------
    key : str
        Name used in file names and on the command line.
    label : str
        Name shown to readers.
    group : str
        Group of the network: "2D", "3D", "semantic", "baseline" or a user's own.
    color : str
        Colour that the user chose, ``#rrggbb``; "" leaves the choice to `utils.plotting.colors`.
    """

    key: str
    label: str
    group: str
    color: str = ""


@dataclass(frozen=True, kw_only=True)
class Task(Model):
    """A Taskonomy network with its published checkpoint.

    Attributes
    ----------
    plot_order : int
        Position in the paper's legends.
    checkpoint : str or None
        File name of the encoder weights, ``<name>_encoder-<sha256>.pth``; None for the untrained network.
    sha256 : str or None
        Digest of that file.
    input_channels : int
        3, or 1 for colorization, which sees lightness only.
    """

    plot_order: int
    checkpoint: str | None
    sha256: str | None
    input_channels: int


# key, label, group, position in the legends, checkpoint name, SHA-256
_TABLE = (
    ("autoencoder", "autoencoding", "2D", 0, "autoencoding",
     "e35146c09253720e97c0a7f8ee4e896ac931f5faa1449df003d81e6089ac6307"),
    ("class_1000", "object class", "semantic", 15, "class_object",
     "4a4e42dad58066039a0d2f9d128bb32e93a7e4aa52edb2d2a07bcdd1a6536c18"),
    ("class_places", "scene class", "semantic", 16, "class_scene",
     "ad85764467cddafd98211313ceddebb98adf2a6bee2cedfe0b922a37ae65eaf8"),
    ("colorization", "colorization", "2D", 1, "colorization",
     "5ed817acdd28d13e443d98ad15ebe1c3059a3252396a2dff6a2090f6f86616a5"),
    ("curvature", "curvature", "3D", 14, "curvature",
     "3767cf5d06d9c6bca859631eb5a3c368d66abeb15542171b94188ffbe47d7571"),
    ("denoise", "denoising", "2D", 2, "denoising",
     "b64cab95af4a2c565066a7e8effaf37d6586c3b9389b47fff9376478d849db38"),
    ("edge2d", "2D edges", "2D", 3, "edge_texture",
     "be2d686a6a4dfebe968d16146a17176eba37e29f736d5cd9a714317c93718810"),
    ("edge3d", "3D edges", "3D", 7, "edge_occlusion",
     "5ac3f3e918131f61e01fe95e49f462ae2fc56aa463f8d353ca84cd4e248b9c08"),
    ("inpainting_whole", "inpainting", "2D", 4, "inpainting",
     "bf96fbaaea9268a820a19a1d13dbf6af31798f8983c6d9203c00fab2d236a142"),
    ("keypoint2d", "2D keypoints", "2D", 5, "keypoints2d",
     "6b77695acff4c84091c484a7b128a1e28a7e9c36243eda278598f582cf667fe0"),
    ("keypoint3d", "3D keypoints", "3D", 8, "keypoints3d",
     "7e3f1ec97b82ae30030b7ea4fec2dc606b71497d8c0335d05f0be3dc909d000d"),
    ("reshade", "reshading", "3D", 10, "reshading",
     "de456246e171dc8407fb2951539aa60d75925ae0f1dbb43f110b7768398b36a6"),
    ("rgb2depth", "z-depth", "3D", 11, "depth_zbuffer",
     "cc343a8ed622fd7ee3ce54398be8682bbbbfb5d11fa80e8d03a56a5ae4e11b09"),
    ("rgb2mist", "distance", "3D", 12, "depth_euclidean",
     "88f18d41313de7dbc88314a7f0feec3023047303d94d73eb8622dc40334ef149"),
    ("rgb2sfnorm", "normals", "3D", 13, "normal",
     "f5e2c7737e4948e3b2a822f584892c342eaabbe66661576ba50db7cdd40561c5"),
    ("segment25d", "2.5d segment", "3D", 9, "segment_unsup25d",
     "7d12d2500c18c003ffc23943214f5dfd74932f0e3d03dde2c3a81ebc406e31a0"),
    ("segment2d", "2D segment", "2D", 6, "segment_unsup2d",
     "b679053a920e8bcabf0cd454606098ae85341e054080f2be29473971d4265964"),
    ("segmentsemantic", "semantic segm", "semantic", 17, "segment_semantic",
     "bb3007244520fc89cd111e099744a22b1e5c98cd83ed3f116fbff6376d220127"),
    ("random", "random", BASELINE, 18, None, None),
)  # fmt: skip

TASKS: tuple[Task, ...] = tuple(
    Task(
        key=key,
        label=label,
        group=group,
        plot_order=order,
        checkpoint=None if sha256 is None else f"{name}_encoder-{sha256}.pth",
        sha256=sha256,
        input_channels=1 if key == "colorization" else 3,
    )
    for key, label, group, order, name, sha256 in _TABLE
)

TASK_LAYERS = ("block4", "encoder_output")


def legend_order(models: Sequence[Model]) -> list[int]:
    """Order in which models appear in legends: the paper's for its own tasks, else by group, then as given.

    Parameters
    ----------
    models : sequence of Model
        Models of an analysis.

    Returns
    -------
    list of int
        Indices into `models`.
    """
    groups = group_names(models)
    published = {task.key: task.plot_order for task in TASKS}
    return sorted(
        range(len(models)), key=lambda i: (groups.index(models[i].group), published.get(models[i].key, len(TASKS)), i)
    )


def group_names(models: Sequence[Model]) -> list[str]:
    """Groups of some models, in the order of legends.

    Parameters
    ----------
    models : sequence of Model

    Returns
    -------
    list of str
        The paper's groups in its order, then others as they appear, the baseline last.
    """
    found = list(dict.fromkeys(model.group for model in models))
    known = [group for group in GROUPS if group in found]
    other = [group for group in found if group not in (*GROUPS, BASELINE)]
    return known + other + [BASELINE] * (BASELINE in found)
