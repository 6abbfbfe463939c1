"""The built-in example: a simulated experiment whose truth is known, in the layout that real data have.

Networks and brain areas are built from the same kind of parts: latent dimensions of the images that all networks
share, that those of one group share, and that one network has for itself. A planted area follows one network; other
areas have latents of their own, reliable over subjects yet unrelated to any network, or nothing but noise. Images
differ in gain, in networks as in the brain, so that RDM entries with an image in common depend on each other. Voxel
responses are simulated as beta maps and go through the same searchlight and ROI code as real ones.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.tasks import TASK_LAYERS, TASKS
from utils import InputError
from utils.io.data_folder import DataFolder, SearchlightFolder
from utils.io.output import Outputs, staged, write_conditions, write_lines, write_rows, write_volume
from utils.io.readers import open_array
from utils.parallel.resources import Progress, ignore
from utils.rdm import correlation_rdm, expand
from utils.rdms.roi_rdms import roi_rdm
from utils.rdms.searchlight_rdms import ceilings_of
from utils.rdms.searchlights import Searchlights, block_searchlights, member_rdms, slices, usable_voxels

if TYPE_CHECKING:
    import pandas as pd

EXAMPLE_VERSION = "1"
N_SUBJECTS = 16
N_CONDITIONS = 50
_MARKER, _README_FILE = "example.json", "README.txt"
_SEED = 0
# --- where things are, in mm of MNI space ----------------------------------------------------------------------------
_MASK_END_MM = -40.0  # searchlights only behind this plane: occipital, ventral temporal and posterior parietal cortex
_RIBBON_MM = 6.0  # grey matter farther from the cortical surface is cerebellum, midbrain and thalamus: no map shows it
_ROI_RADIUS_MM = 10.0
_TERRITORY_MM = 16.0  # a planted area reaches farther than its label, so that the map shows contiguous patches
# Name, network it follows (None: nothing planted), whether it is reliable, centre left, centre right. Order and numbers
# (1-25) are those of the atlas of Wang et al. 2015. CENTRES ARE APPROXIMATE (+-10 mm), estimated from general
# anatomical knowledge, not taken from the atlas: good enough to simulate an experiment, not for anatomy.
_ROIS: tuple[tuple[str, str | None, bool, tuple[int, int, int], tuple[int, int, int]], ...] = (
    ("V1v", "edge2d", True, (-8, -84, -3), (10, -83, -1)),
    ("V1d", "edge2d", True, (-9, -93, 3), (12, -91, 6)),
    ("V2v", "denoise", True, (-13, -78, -9), (14, -76, -8)),
    ("V2d", "denoise", True, (-15, -96, 13), (17, -94, 15)),
    ("V3v", "segment2d", True, (-19, -77, -11), (21, -75, -10)),
    ("V3d", "segment2d", True, (-21, -94, 15), (24, -91, 18)),
    ("hV4", "autoencoder", True, (-27, -79, -13), (28, -77, -12)),
    ("VO1", "segmentsemantic", True, (-27, -70, -11), (28, -68, -11)),
    ("VO2", "class_1000", True, (-26, -61, -10), (27, -60, -10)),
    ("PHC1", "class_places", True, (-26, -53, -9), (28, -52, -9)),
    ("PHC2", "class_places", True, (-28, -45, -9), (30, -44, -9)),
    ("MST", "rgb2sfnorm", True, (-45, -66, 5), (47, -63, 5)),
    ("hMT", "rgb2depth", True, (-44, -74, 4), (46, -71, 4)),
    ("LO2", "edge3d", True, (-40, -82, 2), (41, -80, 3)),
    ("LO1", "keypoint3d", True, (-33, -90, 5), (35, -87, 6)),
    ("V3b", "curvature", True, (-29, -88, 17), (32, -84, 18)),
    ("V3a", "segment25d", True, (-19, -92, 23), (22, -89, 25)),
    ("IPS0", "reshade", True, (-25, -80, 32), (27, -78, 34)),
    ("IPS1", None, True, (-23, -73, 42), (25, -71, 43)),
    ("IPS2", None, True, (-21, -66, 51), (23, -64, 52)),
    ("IPS3", None, True, (-23, -59, 58), (25, -57, 58)),
    ("IPS4", None, False, (-29, -53, 54), (31, -51, 54)),
    ("IPS5", None, False, (-35, -46, 50), (37, -44, 50)),
    ("SPL1", None, True, (-9, -60, 58), (10, -58, 58)),
    ("FEF", None, False, (-28, -6, 52), (30, -5, 52)),
)
_N_PARCELS = 160  # the rest of the mask in pieces of about 1 cm: many, so that chance likeness to networks averages out
_N_RELIABLE_PARCELS = 32
# --- what networks and areas are made of -----------------------------------------------------------------------------
_DIMENSIONS = 6  # of every origin of latents
_N_UNITS = 400  # of a network's layer
# Shares of variance: of all networks, of the group, of the network, of its layer.
_NETWORK_SHARES = {"block4": (0.30, 0.30, 0.25, 0.15), "encoder_output": (0.20, 0.35, 0.30, 0.15)}
# Shares of variance in an area: the first three as above, of the network it follows; its own; one subject's.
_AREA_SHARES = (0.20, 0.35, 0.20, 0.15, 0.10)
_UNRELATED_SHARES = (0.90, 0.10)  # its own; one subject's
# Spread of the images' log gain, for each of: all networks, group, network, area. The four together make the second.
_LOG_GAIN_SD = 0.35
_UNRELATED_LOG_GAIN_SD = 0.70
_INDIVIDUAL_LOG_GAIN_SD = 0.10  # for each of: layer of a network, subject
_MEAN_PATTERN_SD = 1.4  # what all images have in common; the differences between them have SD 1 before gain
_NOISE_SD = 2.4
_LOG_NOISE_SPREAD = 0.2  # between subjects
_STRENGTH = {"2D": 1.0, "3D": 0.9, "semantic": 0.9, "": 0.7}  # of a group's areas; "": of those without a network
_CEILING_SEARCHLIGHTS = 256  # at a time
_GROUP_OF = {task.key: task.group for task in TASKS}
_README = """SIMULATED DATA. No brain was scanned and no network was run: made to try things out, with a known truth.

{subjects} subjects, {conditions} images, {networks} networks of {layers} layers. Made by `python -m utils.example`
(version {version}), which gives the same every time. The folder is laid out as real data would be.

WHERE
Searchlights: 3-mm grey matter of the MNI152 template behind y = {mask_end:.0f} mm, within {ribbon:.0f} mm of the
fsaverage5 surface. ROIs: {rois} areas on both sides named after Wang et al. 2015, grey matter within
{roi_radius:.0f} mm of a centre and nearer to it than to others. THE CENTRES ARE APPROXIMATE (+-10 mm; general
anatomical knowledge, not the atlas). FEF lies outside the searchlight mask.

NETWORKS
A unit responds with what all images have in common, plus the image's gain times its latents. Latents and log gains add
up from those of all networks, of the group (2D, 3D, semantic), of the network and of the layer; `random` has no group
beside itself.

BRAIN
Beta maps are made in the same way, with voxel weights of their own for every subject and with noise; the code that
serves real data turns them into RDMs (1 - Pearson). These areas follow a network, and have latents of their own too:
{planted}
They reach {territory:.0f} mm from their centre, and a voxel beyond grey matter. Nothing else follows a network.
Latents and gains of their own, alike in all subjects: {reliable}, and {reliable_parcels} of {parcels} parcels.
Noise only: {noise}, the other parcels, and all voxels farther from grey matter.

TRUTH.TSV: one row per searchlight and per ROI
kind         searchlight, roi
place        index of the searchlight, name of the ROI
group        the group that most of its planted voxels follow; empty where nothing is planted
model        the network that most of those follow
share        how many of the voxels that its RDM is made from (4 x 4 x 4 in a searchlight) follow `group`
model_share  how many of them follow `model`
status       planted: more than half follow `group`, and none another group
             none: not a single voxel follows a network
             mixed: anything else
signal       reliable: some voxel holds a pattern that subjects share; noise: none does
"""


@dataclass(frozen=True)
class _Latents:
    """Dimensions along which images differ, and the gain of each image."""

    dimensions: NDArray[np.float64]  # (n_conditions, any); mean squared length of a row: 1
    log_gain: NDArray[np.float64]  # (n_conditions,)

    def patterns(self, n_units: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Responses (n_conditions, n_units): a mean pattern, plus gain times what is special to the image."""
        weights = rng.standard_normal((self.dimensions.shape[1], n_units))
        common = _MEAN_PATTERN_SD * rng.standard_normal(n_units)
        return common + np.exp(self.log_gain)[:, None] * (self.dimensions @ weights)


def _rng(stream: str) -> np.random.Generator:
    """Own random numbers for every part, so that no part depends on which others were drawn before."""
    return np.random.default_rng([_SEED, *stream.encode()])


def _origin(name: str, log_gain_sd: float = _LOG_GAIN_SD) -> _Latents:
    """Latents of one origin: all networks, a group, a network, an area, a person."""
    rng = _rng(name)
    dimensions = rng.standard_normal((N_CONDITIONS, _DIMENSIONS)) / np.sqrt(_DIMENSIONS)
    return _Latents(dimensions, log_gain_sd * rng.standard_normal(N_CONDITIONS))


def _mix(shares: Sequence[float], origins: Sequence[_Latents]) -> _Latents:
    """Several origins in one representation; `shares` are shares of variance."""
    parts = [np.sqrt(share) * origin.dimensions for share, origin in zip(shares, origins, strict=True)]
    return _Latents(np.concatenate(parts, axis=1), np.sum([origin.log_gain for origin in origins], axis=0))


# --- networks --------------------------------------------------------------------------------------------------------
def _network_origins(key: str) -> list[_Latents]:
    """What all networks, the group and the network itself bring; the untrained network is a group of its own."""
    group = _GROUP_OF[key]
    return [_origin("all networks"), _origin(f"group {group}"), _origin(f"network {key}")]


def _network_rdm(key: str, layer: str) -> NDArray[np.float64]:
    """RDM of one layer of a simulated network, (n_conditions, n_conditions)."""
    name = f"network {key} {layer}"
    origins = [*_network_origins(key), _origin(name, _INDIVIDUAL_LOG_GAIN_SD)]
    return expand(correlation_rdm(_mix(_NETWORK_SHARES[layer], origins).patterns(_N_UNITS, _rng(name + " units"))))


# --- anatomy ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Area:
    """A part of the simulated brain: what its voxels follow."""

    name: str
    network: str  # empty where nothing is planted
    reliable: bool  # whether people share its patterns

    @property
    def group(self) -> str:
        return _GROUP_OF.get(self.network, "")

    def latents(self, subject: int) -> _Latents:
        own = _origin(f"area {self.name}", _LOG_GAIN_SD if self.network else _UNRELATED_LOG_GAIN_SD)
        person = _origin(f"area {self.name} subject {subject}", _INDIVIDUAL_LOG_GAIN_SD)
        if self.network:
            return _mix(_AREA_SHARES, [*_network_origins(self.network), own, person])
        return _mix(_UNRELATED_SHARES, [own, person])


@dataclass(frozen=True)
class _Brain:
    """Where everything is. Volumes share one grid."""

    mask: NDArray[np.bool_]
    atlas: NDArray[np.int16]  # 1-25 as in the table of ROIs
    areas: tuple[_Area, ...]
    area_of: NDArray[np.int16]  # index into `areas`, -1 where there is nothing but noise
    searchlights: Searchlights  # the release's blocks

    def simulated_voxels(self) -> NDArray[np.int64]:
        """Flat indices of the voxels that any searchlight or ROI reads."""
        return np.union1d(self.searchlights.voxels, np.flatnonzero(self.atlas))

    def members(self, usable: NDArray[np.bool_]) -> NDArray[np.int32]:
        """Rows of `searchlights.voxels` that each searchlight holds, -1 for none; `usable` tells which may be held."""
        return self.searchlights.members(self.searchlights.lookup(usable), slice(0, len(self.searchlights)))


def _simulated_brain() -> _Brain:
    """Mask, atlas and areas on the 3-mm grid of nilearn's bundled template; needs no network."""
    from scipy.ndimage import binary_dilation

    ribbon, affine, position = _grey_ribbon()
    mask = ribbon & (position[..., 1] < _MASK_END_MM)
    centers = np.array([side for *_, left, right in _ROIS for side in (left, right)], dtype=np.float64)
    distance, nearest = _nearest(position, centers)
    roi = (nearest // 2).astype(np.int16)
    atlas = np.where(ribbon & (distance <= _ROI_RADIUS_MM), roi + 1, 0).astype(np.int16)
    # The BOLD signal reaches a voxel beyond grey matter; so do the areas. What searchlights see farther out is noise.
    signal = binary_dilation(mask | (atlas > 0))
    area_of = np.where(signal & (distance <= _TERRITORY_MM), roi, -1).astype(np.int16)
    rest = signal & (area_of < 0)
    seeds = _spread_out(position[mask & (area_of < 0)], _N_PARCELS)
    area_of[rest] = len(_ROIS) + _nearest(position[rest], seeds)[1]
    return _Brain(mask, atlas, _areas(), area_of, block_searchlights(mask, affine))


def _grey_ribbon() -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """Grey matter near the cortical surface, its affine, and the position of every voxel in mm, shape (X, Y, Z, 3)."""
    from nilearn.datasets import fetch_surf_fsaverage, load_mni152_gm_mask
    from nilearn.surface import load_surf_mesh

    image = load_mni152_gm_mask(resolution=3)
    grey = np.asarray(image.dataobj) > 0
    affine = np.asarray(image.affine, dtype=np.float64)
    indices = np.moveaxis(np.indices(grey.shape), 0, -1)
    position = indices @ affine[:3, :3].T + affine[:3, 3]
    meshes = fetch_surf_fsaverage("fsaverage5")
    pial, white = (
        np.concatenate([load_surf_mesh(meshes[f"{kind}_{side}"]).coordinates for side in ("left", "right")])
        for kind in ("pial", "white")
    )
    distance, _ = _nearest(position, (pial + white) / 2)
    return grey & (distance <= _RIBBON_MM), affine, position


def _nearest(position: NDArray[np.float64], points: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """Distance to, and index of, the nearest of `points` for every position."""
    from scipy.spatial import cKDTree

    distance, index = cKDTree(points).query(position.reshape(-1, 3))
    return distance.reshape(position.shape[:-1]), index.reshape(position.shape[:-1])


def _spread_out(position: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """`n` of the positions, evenly spread: each the farthest from those before it."""
    chosen = [0]
    distance = np.full(len(position), np.inf)
    while len(chosen) < n:
        distance = np.minimum(distance, np.linalg.norm(position - position[chosen[-1]], axis=1))
        chosen.append(int(distance.argmax()))
    return position[chosen]


def _areas() -> tuple[_Area, ...]:
    """The ROIs in the order of their table, then the parcels."""
    reliable = set(_rng("reliable parcels").permutation(_N_PARCELS)[:_N_RELIABLE_PARCELS].tolist())
    parcels = [_Area(f"parcel {i}", "", i in reliable) for i in range(_N_PARCELS)]
    return (*(_Area(name, network or "", reliable) for name, network, reliable, *_ in _ROIS), *parcels)


# --- subjects --------------------------------------------------------------------------------------------------------
def _beta_maps(brain: _Brain, simulated: NDArray[np.int64], subject: int) -> NDArray[np.float32]:
    """Responses of one subject, (n_conditions, X, Y, Z); 0 where no searchlight and no ROI reads."""
    rng = _rng(f"subject {subject}")
    noise_sd = _NOISE_SD * np.exp(_LOG_NOISE_SPREAD * rng.standard_normal())
    betas = np.zeros((N_CONDITIONS, brain.mask.size), dtype=np.float32)
    betas[:, simulated] = noise_sd * rng.standard_normal((N_CONDITIONS, len(simulated)), dtype=np.float32)
    area_of = brain.area_of.reshape(-1)[simulated]
    for number, area in enumerate(brain.areas):
        voxels = simulated[area_of == number]
        if area.reliable:
            betas[:, voxels] += _STRENGTH[area.group] * area.latents(subject).patterns(len(voxels), rng)
    return betas.reshape(N_CONDITIONS, *brain.mask.shape)


# --- truth -----------------------------------------------------------------------------------------------------------
def _truth(brain: _Brain) -> list[dict[str, object]]:
    """What is planted in every searchlight and ROI; columns as in README.txt."""
    areas = brain.area_of.reshape(-1)[brain.searchlights.voxels]
    members = brain.members(np.ones(len(areas), dtype=bool))
    places = [("searchlight", str(number), areas[own[own >= 0]]) for number, own in enumerate(members)]
    for number, (name, *_) in enumerate(_ROIS, start=1):
        places.append(("roi", name, brain.area_of[brain.atlas == number]))
    return [{"kind": kind, "place": place, **_row(brain, own)} for kind, place, own in places]


def _row(brain: _Brain, areas: NDArray[np.int16]) -> dict[str, object]:
    """Truth of one searchlight or ROI from the area of each of its voxels, -1 for noise."""
    found = [brain.areas[number] for number in np.sort(areas[areas >= 0])]
    by_network = Counter(area.network for area in found if area.network)
    by_group = Counter(area.group for area in found if area.network)
    signal = "reliable" if any(area.reliable for area in found) else "noise"
    if not by_group:
        return {"model": "", "group": "", "share": 0.0, "model_share": 0.0, "status": "none", "signal": signal}
    group = max(by_group, key=by_group.__getitem__)
    model = max((key for key in by_network if _GROUP_OF[key] == group), key=by_network.__getitem__)
    share, model_share = by_group[group] / len(areas), by_network[model] / len(areas)
    status = "planted" if share > 0.5 and len(by_group) == 1 else "mixed"
    return {
        "model": model, "group": group, "share": round(share, 4), "model_share": round(model_share, 4),
        "status": status, "signal": signal,
    }  # fmt: skip


def read_truth(folder: str | Path) -> pd.DataFrame:
    """What is planted where in the example.

    Parameters
    ----------
    folder : str or Path
        As returned by `ensure_example`.

    Returns
    -------
    pandas.DataFrame
        One row per searchlight, in their order, then one per ROI. Columns: kind (searchlight, roi), place (index or
        name, str), model and group (that most of the planted voxels follow; empty where there are none), share and
        model_share (of all voxels, how many follow that group and that model), status (planted: more than half follow
        the group and none follows another; none: not a single voxel follows any network; else mixed), signal (reliable
        where any voxel holds a pattern that subjects share, else noise).

    Raises
    ------
    InputError
        If the folder has no truth.tsv.
    """
    import pandas as pd

    path = DataFolder(Path(folder)).truth
    if not path.is_file():
        raise InputError(f"{path}: no such file; only the simulated example has one, see `python -m utils.example`")
    return pd.read_csv(path, sep="\t", dtype={"place": str}, keep_default_na=False)


# --- on disk ---------------------------------------------------------------------------------------------------------
def ensure_example(folder: str | Path, progress: Progress = ignore) -> Path:
    """Make the example, unless it is there complete and in this version.

    Until all of it is written nobody sees any of it, and processes that make it at the same time do not disturb each
    other: they write the same files.

    Parameters
    ----------
    folder : str or Path, optional
        Where it belongs.
    progress : callable, optional
        Called with (steps done, steps in all).

    Returns
    -------
    Path
        `folder`.

    Raises
    ------
    InputError
        If `folder` holds something else, or cannot be written.
    """
    folder = Path(folder)
    if _is_complete(folder):
        return folder
    _refuse_foreign(folder)
    with staged(folder, _MARKER, "the example (300 MB)") as outputs:
        _write(outputs, progress=progress)
        if not _is_complete(folder):  # another process was faster
            outputs.publish(_record(outputs))
    return folder


def _record(outputs: Outputs) -> dict[str, object]:
    paths = sorted(path for path in outputs.staging.rglob("*") if path.is_file())
    sizes = {path.relative_to(outputs.staging).as_posix(): path.stat().st_size for path in paths}
    return {"version": EXAMPLE_VERSION, "simulated": True, "sizes": sizes}


def _is_complete(folder: Path) -> bool:
    """Whether all files are there, of the right size, in this version."""
    try:
        marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        if marker["version"] != EXAMPLE_VERSION:
            return False
        return all((folder / name).stat().st_size == size for name, size in marker["sizes"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _refuse_foreign(folder: Path) -> None:
    """Never replace a folder that is not an example: it may hold somebody's data."""
    # Hidden are files that another process is about to move here.
    if not folder.exists() or (folder.is_dir() and not any(folder.glob("[!.]*"))):
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file; expected a folder for the example; choose another name")
    readme = folder / _README_FILE
    if not (folder / _MARKER).exists() and not (readme.is_file() and readme.read_bytes().startswith(b"SIMULATED")):
        raise InputError(
            f"{folder}: holds files that are not the simulated example; choose another folder, or empty this one"
        )


def _write(outputs: Outputs, n_subjects: int = N_SUBJECTS, progress: Progress = ignore) -> None:
    """Write the whole experiment."""
    steps = n_subjects + 2
    progress(0, steps)
    data = DataFolder(outputs.staging)
    # The first file to move into place: by it, other processes know the folder even before it is complete.
    write_lines(data.root / _README_FILE, _readme().splitlines())
    brain = _simulated_brain()
    for folder in (data.dnn_rdms, data.roi_rdms, data.searchlight_rdms):
        folder.mkdir()
    _write_tables(data, brain)
    for task in TASKS:
        for layer in TASK_LAYERS:
            np.save(data.dnn_rdm(task.key, layer), _network_rdm(task.key, layer))
    progress(1, steps)
    for done in _write_subjects(data, brain, n_subjects):
        progress(1 + done, steps)
    _write_ceiling(SearchlightFolder(data.searchlight_rdms))
    progress(steps, steps)


def _write_tables(data: DataFolder, brain: _Brain) -> None:
    """Names, mask, atlas, geometry, truth."""
    models = [f"{task.key}\t{task.label}\t{task.group}\t{task.color}" for task in TASKS]
    write_lines(data.models, ["key\tlabel\tgroup\tcolor", *models])
    write_lines(data.roi_labels, ["id,roi", *(f"{number},{name}" for number, (name, *_) in enumerate(_ROIS, start=1))])
    write_conditions(data.conditions, [f"simulated image {number:02d}" for number in range(1, N_CONDITIONS + 1)])
    write_rows(data.truth, _truth(brain))
    geometry = brain.searchlights.geometry
    write_volume(data.mask, brain.mask.astype(np.uint8), geometry.affine)
    write_volume(data.atlas, brain.atlas, geometry.affine)
    geometry.save(SearchlightFolder(data.searchlight_rdms).geometry)


def _readme() -> str:
    """Explanation for the reader of the folder, with the numbers and lists of this version."""
    areas = _areas()[: len(_ROIS)]
    return _README.format(
        subjects=N_SUBJECTS,
        conditions=N_CONDITIONS,
        networks=len(TASKS),
        layers=len(TASK_LAYERS),
        version=EXAMPLE_VERSION,
        mask_end=_MASK_END_MM,
        ribbon=_RIBBON_MM,
        rois=len(areas),
        roi_radius=_ROI_RADIUS_MM,
        territory=_TERRITORY_MM,
        parcels=_N_PARCELS,
        reliable_parcels=_N_RELIABLE_PARCELS,
        planted="\n".join(f"  {area.name:5} {area.network} ({area.group})" for area in areas if area.network),
        reliable=", ".join(area.name for area in areas if area.reliable and not area.network),
        noise=", ".join(area.name for area in areas if not area.reliable),
    )


def _write_subjects(data: DataFolder, brain: _Brain, n_subjects: int) -> Iterator[int]:
    """Searchlight RDMs of one subject after the other, then the ROIs' of all; yields the number of subjects done."""
    simulated = brain.simulated_voxels()
    folder = SearchlightFolder(data.searchlight_rdms)
    in_rois: dict[str, list[NDArray]] = {name: [] for name, *_ in _ROIS}
    for subject in range(1, n_subjects + 1):
        betas = _beta_maps(brain, simulated, subject)
        flat = betas.reshape(N_CONDITIONS, -1)[:, brain.searchlights.voxels]
        rdms = member_rdms(np.ascontiguousarray(flat.T), brain.members(usable_voxels(flat)), dtype=np.float64)
        np.save(folder.rdms(f"sub-{subject:02d}"), rdms)
        for number, (name, stack) in enumerate(in_rois.items(), start=1):
            stack.append(roi_rdm(betas[:, brain.atlas == number], f"ROI {name}"))
        yield subject
    for name, stack in in_rois.items():
        np.save(data.roi_rdm(name), expand(np.stack(stack)).astype(np.float32))


def _write_ceiling(folder: SearchlightFolder) -> None:
    """Noise ceiling of the searchlights, read back a part at a time to bound the memory."""
    paths = folder.all_rdms()
    parts = slices(len(open_array(paths[0])), _CEILING_SEARCHLIGHTS)
    lower, upper = np.concatenate([ceilings_of(paths, part) for part in parts], axis=1)
    np.savez(folder.noise_ceiling, lower=lower, upper=upper)
