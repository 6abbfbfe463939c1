"""The built-in examples: simulated experiments whose truth is known, in the layout that real data have.

What networks and areas are made of stands in `utils.datasets.simulated_worlds`; here it is put into a brain, measured
and written. Voxel responses are simulated as beta maps and go through the same searchlight and ROI code as real ones.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.tasks import TASK_LAYERS, TASKS
from utils import InputError
from utils.datasets.simulated_worlds import KIND, N_CONDITIONS, N_SUBJECTS, Area, World, world_named
from utils.io.data_folder import DataFolder, SearchlightFolder
from utils.io.output import Outputs, staged, write_conditions, write_lines, write_rows, write_vertices, write_volume
from utils.io.readers import open_array
from utils.io.spaces import MNI
from utils.parallel.resources import Progress, ignore
from utils.rdm import expand
from utils.rdms.discs import Discs, surface_discs
from utils.rdms.measure import Responses
from utils.rdms.roi_rdms import roi_colors, roi_rdm
from utils.rdms.searchlight_rdms import ceilings_of
from utils.rdms.searchlights import MIN_VOXELS, Searchlights, block_searchlights, member_rdms, slices, usable_voxels
from utils.rdms.vertices import FSAVERAGE, Vertices, average_meshes

if TYPE_CHECKING:
    import pandas as pd

_MARKER, _README_FILE = "example.json", "README.txt"
# --- where things are, in mm of MNI space ----------------------------------------------------------------------------
_MASK_END_MM = -40.0  # searchlights only behind this plane: occipital, ventral temporal and posterior parietal cortex
_RIBBON_MM = 6.0  # grey matter farther from the cortical surface is cerebellum, midbrain and thalamus: no map shows it
_ROI_RADIUS_MM = 10.0
_TERRITORY_MM = 16.0  # a planted area reaches farther than its label, so that the map shows contiguous patches
# Name, centre left, centre right. Order and numbers (1-25) are those of the atlas of Wang et al. 2015. CENTRES ARE
# APPROXIMATE (+-10 mm), estimated from general anatomical knowledge, not taken from the atlas: good enough to simulate
# an experiment, not for anatomy.
_ROIS: tuple[tuple[str, tuple[int, int, int], tuple[int, int, int]], ...] = (
    ("V1v", (-8, -84, -3), (10, -83, -1)),
    ("V1d", (-9, -93, 3), (12, -91, 6)),
    ("V2v", (-13, -78, -9), (14, -76, -8)),
    ("V2d", (-15, -96, 13), (17, -94, 15)),
    ("V3v", (-19, -77, -11), (21, -75, -10)),
    ("V3d", (-21, -94, 15), (24, -91, 18)),
    ("hV4", (-27, -79, -13), (28, -77, -12)),
    ("VO1", (-27, -70, -11), (28, -68, -11)),
    ("VO2", (-26, -61, -10), (27, -60, -10)),
    ("PHC1", (-26, -53, -9), (28, -52, -9)),
    ("PHC2", (-28, -45, -9), (30, -44, -9)),
    ("MST", (-45, -66, 5), (47, -63, 5)),
    ("hMT", (-44, -74, 4), (46, -71, 4)),
    ("LO2", (-40, -82, 2), (41, -80, 3)),
    ("LO1", (-33, -90, 5), (35, -87, 6)),
    ("V3b", (-29, -88, 17), (32, -84, 18)),
    ("V3a", (-19, -92, 23), (22, -89, 25)),
    ("IPS0", (-25, -80, 32), (27, -78, 34)),
    ("IPS1", (-23, -73, 42), (25, -71, 43)),
    ("IPS2", (-21, -66, 51), (23, -64, 52)),
    ("IPS3", (-23, -59, 58), (25, -57, 58)),
    ("IPS4", (-29, -53, 54), (31, -51, 54)),
    ("IPS5", (-35, -46, 50), (37, -44, 50)),
    ("SPL1", (-9, -60, 58), (10, -58, 58)),
    ("FEF", (-28, -6, 52), (30, -5, 52)),
)
# On the surface: fewer places, as there are more vertices than voxels.
_SURFACE_END_MM, _DISC_MM = -60.0, 10.0
_N_PARCELS = 160  # the rest of the mask in pieces of about 1 cm: many, so that chance likeness to networks averages out
_CEILING_SEARCHLIGHTS = 256  # at a time
_README = """SIMULATED DATA. No brain was scanned and no network was run: made to try things out, with a known truth.

{subjects} subjects, {conditions} images, {networks} networks of {layers} layers. Made by `{command}`
(version {version}), which gives the same every time. The folder is laid out as real data would be.

WHERE{where}

NETWORKS
A unit responds with what all images have in common, plus the image's gain times its latents. Latents and log gains add
up from those of all networks, of the group (2D, 3D, semantic), of the network and of the layer; `random` has no group
beside itself.

BRAIN
Beta maps are made in the same way, with voxel weights of their own for every subject and with noise; the code that
serves real data turns them into RDMs (1 - Pearson). These areas follow a network, and have latents of their own too:
{planted}
They reach {reach}. Nothing else follows a network.
Latents and gains of their own, alike in all subjects: {reliable}, and {reliable_parcels} of {parcels} parcels.
Noise only: {noise}, the other parcels, and all {elsewhere}.

TRUTH.TSV: one row per searchlight and per ROI
kind         searchlight, roi
place        index of the searchlight, name of the ROI
group        the group that most of its planted {units} follow; empty where nothing is planted
model        the network that most of those follow
share        how many of the {units} that its RDM is made from ({members} in a searchlight) follow `group`
model_share  how many of them follow `model`
status       planted: more than half follow `group`, and none another group
             none: not a single {unit} follows a network
             mixed: anything else
signal       reliable: some {unit} holds a pattern that subjects share; noise: none does
"""
# What the kind example says of places in a volume and on the surface, to be filled in as the text above.
_IN_VOLUME = {
    "command": "python -m utils.example",
    "where": """
Searchlights: 3-mm grey matter of the MNI152 template behind y = {mask_end:.0f} mm, within {ribbon:.0f} mm of the
fsaverage5 surface. ROIs: {rois} areas on both sides named after Wang et al. 2015, grey matter within
{roi_radius:.0f} mm of a centre and nearer to it than to others. THE CENTRES ARE APPROXIMATE (+-10 mm; general
anatomical knowledge, not the atlas). FEF lies outside the searchlight mask.""",
    "reach": "{territory:.0f} mm from their centre, and a voxel beyond grey matter",
    "elsewhere": "voxels farther from grey matter",
    "unit": "voxel",
    "units": "voxels",
    "members": "4 x 4 x 4",
}
_ON_SURFACE = {
    "command": "python -m utils.example --surface",
    "where": """
Searchlights: discs of {disc:.0f} mm along the cortex around all vertices of fsaverage5 behind y = {surface_end:.0f} mm.
ROIs: {rois} areas on both sides named after Wang et al. 2015, vertices within {roi_radius:.0f} mm of a centre and
nearer to it than to others. THE CENTRES ARE APPROXIMATE (+-10 mm; general anatomical knowledge, not the atlas). Areas
of the parietal and temporal lobe lie partly or wholly outside of the searchlights.""",
    "reach": "{territory:.0f} mm from their centre",
    "elsewhere": "other vertices",
    "unit": "vertex",
    "units": "vertices",
    "members": "a disc of {disc:.0f} mm",
}
_TYPES = ("lead", "weak", "tie", "common", "unrelated", "noise")  # of places in the hard world; borders are "mixed"
_HARD_README = """SIMULATED DATA. No brain was scanned and no network was run: made to try things out, with known truth.

{subjects} subjects, {conditions} images, {networks} networks of {layers} layers. Made by
`python -m utils.example --world hard` (version {version}), which gives the same every time. The folder is laid out as
real data would be, and places are those of the kind example: searchlights in 3-mm grey matter of the MNI152 template
behind y = {mask_end:.0f} mm, within {ribbon:.0f} mm of the fsaverage5 surface; {rois} areas on both sides named after
Wang et al. 2015, grey matter within {roi_radius:.0f} mm of a centre. THE CENTRES ARE APPROXIMATE (+-10 mm). FEF lies
outside the searchlight mask.

WHAT IS HARDER THAN IN THE KIND EXAMPLE
Some areas follow two groups alike, some nothing but what all networks share, some a group weakly. The images' gains
tell no group: all networks, and all areas, related or not, have a part in common, and the rest is each one's own. Noise
is smooth in space (FWHM {world.noise_fwhm_mm:.0f} mm) and autocorrelated ({world.noise_autocorrelation}) from image to
image, in the order in which each person saw them, another for every person. People give what an area follows weights
of their own. THE IMAGES HAVE NO CATEGORIES, no order and no runs.

NETWORKS
A unit responds with what all images have in common, plus the image's gain times its latents. Latents add up from those
of all networks, of the group (2D, 3D, semantic), of the network and of the layer; `random` has no group beside itself.

BRAIN
Beta maps are made in the same way, with voxel weights of their own for every subject and with noise; the code that
serves real data turns them into RDMs (1 - Pearson). These areas follow a network, and have latents of their own too:
{planted}
These follow two groups alike, and no single network:
{ties}
Only what all networks share: {common}, and {common_parcels} of {parcels} parcels.
Patterns of their own, alike in all subjects, with the gains that all networks share: {reliable}, and
{reliable_parcels} parcels.
Noise only: {noise}, the other parcels, and all voxels farther from grey matter.
ROIs reach {territory:.0f} mm from their centre, and a voxel beyond grey matter.

WHAT EQUAL MEANS
Groups of 7, 8 and 3 networks are averaged into RDMs. What single networks have for themselves is scaled to the size of
the group, so that groups measure what they share equally well. Ties are equal over draws of images and networks: in 100
draws, the unique variances of two tied groups differed by .009 or less on average (standard error .006; SD .055). In
the images of this example they differ by .052 or less. What is true is that neither leads on average.

An area that follows only what all networks share is explained by every group; each then explains a little for itself
(unique variance about .02), since RDMs of few networks measure it imperfectly.

TRUTH.TSV: one row per searchlight and per ROI
kind         searchlight, roi
place        index of the searchlight, name of the ROI
type         lead: follows one network and its group; weak: the same, weakly; tie: two groups alike; common: what all
             networks share; unrelated: none of that, but patterns that people share; noise: none of these;
             mixed: at a border: voxels follow different things, or no more than half follow any
follows      the groups that most of its voxels that follow anything follow: one, or two as in "2D = 3D", or all
model        the network that most of those follow; empty where no single network is followed
group        the group that leads; empty where none does
share        how many of the voxels that its RDM is made from (4 x 4 x 4 in a searchlight) are as `follows` says
             (unrelated: how many hold unrelated patterns)
model_share  how many of them follow `model`
signal       reliable: some voxel holds a pattern that subjects share; noise: none does
"""


# --- anatomy ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Brain:
    """Where everything is. Volumes share one grid; on the surface, arrays are of vertices, (n_vertices,)."""

    mask: NDArray[np.bool_]
    atlas: NDArray[np.int16]  # 1-25 as in the table of ROIs
    areas: tuple[Area, ...]
    area_of: NDArray[np.int16]  # index into `areas`, -1 where there is nothing but noise
    searchlights: Searchlights | Discs  # the release's blocks, or discs

    def simulated_voxels(self) -> NDArray[np.int64]:
        """Flat indices of the voxels that any searchlight or ROI reads."""
        return np.union1d(self.searchlights.voxels, np.flatnonzero(self.atlas))

    def members(self, usable: NDArray[np.bool_]) -> NDArray[np.int32]:
        """Rows of `searchlights.voxels` that each searchlight holds, -1 for none; `usable` tells which may be held."""
        return self.searchlights.members(self.searchlights.lookup(usable), slice(0, len(self.searchlights)))


def _simulated_brain(world: World = KIND) -> _Brain:
    """Mask, atlas and areas on the 3-mm grid of nilearn's bundled template; needs no network."""
    from scipy.ndimage import binary_dilation

    ribbon, affine, position = _grey_ribbon()
    mask = ribbon & (position[..., 1] < _MASK_END_MM)
    centers = np.array([side for _, left, right in _ROIS for side in (left, right)], dtype=np.float64)
    distance, nearest = _nearest(position, centers)
    roi = (nearest // 2).astype(np.int16)
    atlas = np.where(ribbon & (distance <= _ROI_RADIUS_MM), roi + 1, 0).astype(np.int16)
    # The BOLD signal reaches a voxel beyond grey matter; so do the areas. What searchlights see farther out is noise.
    signal = binary_dilation(mask | (atlas > 0))
    area_of = np.where(signal & (distance <= _TERRITORY_MM), roi, -1).astype(np.int16)
    rest = signal & (area_of < 0)
    seeds = _spread_out(position[mask & (area_of < 0)], _N_PARCELS)
    area_of[rest] = len(_ROIS) + _nearest(position[rest], seeds)[1]
    return _Brain(mask, atlas, world.areas(), area_of, block_searchlights(mask, affine, MNI))


def _simulated_surface(world: World = KIND) -> _Brain:
    """The same on the vertices of fsaverage5."""
    n = FSAVERAGE["fsaverage5"]
    vertices = Vertices(n, n)
    meshes = average_meshes(vertices)
    position = vertices.join({side: mesh.points for side, mesh in meshes.items()})
    mask = position[:, 1] < _SURFACE_END_MM
    centers = np.array([side for _, left, right in _ROIS for side in (left, right)], dtype=np.float64)
    distance, nearest = _nearest(position, centers)
    roi = (nearest // 2).astype(np.int16)
    atlas = np.where(distance <= _ROI_RADIUS_MM, roi + 1, 0).astype(np.int16)
    signal = mask | (atlas > 0)
    area_of = np.where(signal & (distance <= _TERRITORY_MM), roi, -1).astype(np.int16)
    rest = signal & (area_of < 0)
    seeds = _spread_out(position[mask & (area_of < 0)], world.n_parcels)
    area_of[rest] = len(_ROIS) + _nearest(position[rest], seeds)[1]
    discs = surface_discs(vertices, meshes, _DISC_MM, mask, MIN_VOXELS, vertices.brain)
    return _Brain(mask, atlas, world.areas(), area_of, discs)


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


# --- subjects --------------------------------------------------------------------------------------------------------
def _beta_maps(brain: _Brain, simulated: NDArray[np.int64], subject: int, world: World = KIND) -> NDArray[np.float32]:
    """Responses of one subject, (n_conditions, X, Y, Z); 0 where no searchlight and no ROI reads."""
    rng = world.rng(f"subject {subject}")
    noise_sd = world.noise_sd * np.exp(world.noise_spread * rng.standard_normal())
    betas = np.zeros((N_CONDITIONS, brain.mask.size), dtype=np.float32)
    if world.noise_fwhm_mm:
        affine = brain.searchlights.geometry.affine
        assert affine is not None  # only the kind example is of vertices
        voxel_mm = float(np.abs(affine[0, 0]))
        noise = _smooth_noise(world, np.stack(np.unravel_index(simulated, brain.mask.shape)), voxel_mm, rng)
    else:
        noise = rng.standard_normal((N_CONDITIONS, len(simulated)), dtype=np.float32)
    betas[:, simulated] = noise_sd * noise
    area_of = brain.area_of.reshape(-1)[simulated]
    for number, area in enumerate(brain.areas):
        voxels = simulated[area_of == number]
        if area.reliable:
            betas[:, voxels] += world.area_patterns(area, subject, len(voxels), rng)
    return betas.reshape(N_CONDITIONS, *brain.mask.shape)


def _smooth_noise(
    world: World, position: NDArray[np.int64], voxel_mm: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Noise of SD 1, (n_conditions, n_voxels), smooth in space and autocorrelated over images; voxels at `position`."""
    from scipy.ndimage import gaussian_filter

    sigma = world.noise_fwhm_mm / np.sqrt(8 * np.log(2)) / voxel_mm
    position = position - position.min(axis=1, keepdims=True)
    box = tuple((position.max(axis=1) + 1).tolist())
    field = rng.standard_normal((N_CONDITIONS, *box), dtype=np.float32)
    r = world.noise_autocorrelation
    for earlier, image in pairwise(field):  # an autoregressive process of first order
        image *= np.sqrt(1 - r**2)
        image += r * earlier
    # With "wrap" the filter gives every voxel the same variance.
    impulse = np.zeros(box)
    impulse[0, 0, 0] = 1
    field = gaussian_filter(field, (0, sigma, sigma, sigma), mode="wrap")
    field /= np.linalg.norm(gaussian_filter(impulse, sigma, mode="wrap"))
    noise = np.empty((N_CONDITIONS, position.shape[1]), dtype=np.float32)
    noise[rng.permutation(N_CONDITIONS)] = field[:, *position]  # every person sees the images in another order
    return noise


# --- truth -----------------------------------------------------------------------------------------------------------
def _truth(brain: _Brain, world: World = KIND) -> list[dict[str, object]]:
    """What is planted in every searchlight and ROI; columns as in README.txt."""
    areas = brain.area_of.reshape(-1)[brain.searchlights.voxels]
    members = brain.members(np.ones(len(areas), dtype=bool))
    places = [("searchlight", str(number), areas[own[own >= 0]]) for number, own in enumerate(members)]
    for number, (name, *_) in enumerate(_ROIS, start=1):
        places.append(("roi", name, brain.area_of[brain.atlas == number]))
    row = _row if world is KIND else _detailed_row
    return [{"kind": kind, "place": place, **row(brain, own)} for kind, place, own in places]


def _row(brain: _Brain, areas: NDArray[np.int16]) -> dict[str, object]:
    """Truth of one searchlight or ROI from the area of each of its voxels, -1 for noise."""
    found = [brain.areas[number] for number in np.sort(areas[areas >= 0])]
    by_network = Counter(area.network for area in found if area.network)
    by_group = Counter(area.group for area in found if area.network)
    signal = "reliable" if any(area.reliable for area in found) else "noise"
    if not by_group:
        return {"model": "", "group": "", "share": 0.0, "model_share": 0.0, "status": "none", "signal": signal}
    group = max(by_group, key=by_group.__getitem__)
    model = max((area.network for area in found if area.group == group), key=by_network.__getitem__)
    share, model_share = by_group[group] / len(areas), by_network[model] / len(areas)
    status = "planted" if share > 0.5 and len(by_group) == 1 else "mixed"
    return {
        "model": model, "group": group, "share": round(share, 4), "model_share": round(model_share, 4),
        "status": status, "signal": signal,
    }  # fmt: skip


def _detailed_row(brain: _Brain, areas: NDArray[np.int16]) -> dict[str, object]:
    """As `_row`, of a world whose areas are of more kinds."""
    found = [brain.areas[number] for number in np.sort(areas[areas >= 0])]
    followed = Counter((area.kind, area.follows) for area in found if area.related)
    if not followed:
        kind, follows = ("unrelated" if any(area.reliable for area in found) else "noise"), ()
        counted = [area for area in found if area.kind == kind == "unrelated"]
    else:
        kind, follows = max(followed, key=followed.__getitem__)
        counted = [area for area in found if (area.kind, area.follows) == (kind, follows)]
    networks = Counter(area.network for area in counted if area.network)
    model = max(networks, key=networks.__getitem__) if networks else ""
    share, model_share = len(counted) / len(areas), networks[model] / len(areas)
    if followed and (len(followed) > 1 or share <= 0.5):
        kind = "mixed"
    return {
        "type": kind, "follows": "all" if kind == "common" else " = ".join(follows), "model": model,
        "group": follows[0] if len(follows) == 1 else "",
        "share": round(share, 4), "model_share": round(model_share, 4),
        "signal": "reliable" if any(area.reliable for area in found) else "noise",
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
        One row per searchlight, in their order, then one per ROI; columns as the README.txt of the folder says. Both
        worlds have kind (searchlight, roi), place (index or name, str), model and group (that most of the planted
        voxels follow; empty where there are none), share and model_share, signal (reliable where any voxel holds a
        pattern that subjects share, else noise). The kind one has status (planted, mixed, none), the hard one type
        (lead, weak, tie, common, unrelated, noise, mixed) and follows.

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


def score(table: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """How results compare with what was planted.

    Parameters
    ----------
    table : DataFrame
        results.tsv of Fig 1, Fig 3a or Fig 3b. Where Fig 1 tells whether the group of the best network is established,
        that counts.
    truth : DataFrame
        As `read_truth` gives it, of either world.

    Returns
    -------
    DataFrame
        One row per type of place (lead, weak, tie, common, unrelated, noise), without those at borders. For
        searchlights: how many are `tested`, and the proportions of these that are in full colour of the group that
        leads (`right`) or of any other (`wrong`; all, where no group leads), `pale` and `grey`. For ROIs: how many
        `bars` are of groups that the ROI follows, and of others, and how many of both are `filled` and `hollow`.

    Raises
    ------
    InputError
        If the table is of another figure, or has places that the truth lacks.
    """
    import pandas as pd

    kind = "searchlight" if "searchlight" in table else "roi"
    needed = {"searchlight": ("tested", "group", "significant", "explained"), "roi": ("roi", "model", "star")}[kind]
    if missing := [name for name in needed if name not in table]:
        raise InputError(
            f"the table of results has no column {', '.join(missing)}; give that of Fig 1, 3a or 3b (not as published)"
        )
    planted = truth[truth["kind"] == kind].set_index("place")
    places = table[kind].astype(str)
    if not places.isin(planted.index).all():
        raise InputError("the table of results has places that the truth lacks; give both of one example")
    planted = planted.loc[places.to_list()].reset_index(drop=True)
    kinds = planted["type"] if "type" in planted else _types(planted)
    if kind == "roi":
        follows = planted["follows"] if "follows" in planted else planted["group"]
        followed = [
            model in text.split(" = ") or text == "all" for text, model in zip(follows, table["model"], strict=True)
        ]
        columns: dict[str, NDArray[np.bool_]] = {}
        for name, which in (("followed", np.array(followed)), ("other", ~np.array(followed))):
            columns[f"bars_{name}"] = which
            for star in ("filled", "hollow"):
                columns[f"{star}_{name}"] = which & (table["star"] == star).to_numpy()
        return pd.DataFrame(columns).groupby(kinds.to_numpy()).sum().reindex(_TYPES, fill_value=0)
    full = table["group_significant" if "group_significant" in table else "significant"].to_numpy(dtype=bool)
    explained = table["explained"].to_numpy(dtype=bool)
    leads = (planted["group"] != "").to_numpy() & (planted["group"].to_numpy() == table["group"].to_numpy())
    states = {"right": full & leads, "wrong": full & ~leads, "pale": explained & ~full, "grey": ~explained}
    tested = table["tested"].to_numpy(dtype=bool)
    found = pd.DataFrame(states)[tested].groupby(kinds.to_numpy()[tested])
    return found.mean().assign(tested=found.size()).reindex(_TYPES).fillna({"tested": 0})[["tested", *states]]


def _types(planted: pd.DataFrame) -> pd.Series:
    """The kind world's truth in the terms of the hard one."""
    kinds = planted["status"].replace({"planted": "lead"})
    nothing = kinds == "none"
    return kinds.mask(nothing, planted["signal"].replace({"reliable": "unrelated"}))


# --- on disk ---------------------------------------------------------------------------------------------------------
def ensure_example(
    folder: str | Path, progress: Progress = ignore, world: str = KIND.name, *, surface: bool = False
) -> Path:
    """Make the example, unless it is there complete and in this version.

    Until all of it is written nobody sees any of it. Of processes that start at the same time one makes it, and the
    others wait for it.

    Parameters
    ----------
    folder : str or Path, optional
        Where it belongs.
    progress : callable, optional
        Called with (steps done, steps in all).
    world : {"kind", "hard"}, optional
        Which of the two examples.
    surface : bool
        On the vertices of fsaverage5 rather than in a volume; of the kind example only.

    Returns
    -------
    Path
        `folder`.

    Raises
    ------
    InputError
        If `folder` holds something else, or cannot be written; if there is no such world.
    """
    folder, made = Path(folder), world_named(world)
    if surface and made is not KIND:
        raise InputError(f"`world` {world} has smooth noise in a volume, and no version on the surface; leave one out")
    if _is_complete(folder, made, surface):
        return folder
    _refuse_foreign(folder)
    with staged(folder, _MARKER, "the example (300 MB)", wait=True, at_once=True) as outputs:
        if not _is_complete(folder, made, surface):  # another process was faster
            _write(outputs, world=made, progress=progress, surface=surface)
            outputs.publish(_record(outputs, made, surface))
    return folder


def _record(outputs: Outputs, world: World, surface: bool) -> dict[str, object]:
    paths = sorted(path for path in outputs.staging.rglob("[!.]*") if path.is_file())
    sizes = {path.relative_to(outputs.staging).as_posix(): path.stat().st_size for path in paths}
    named = {**({} if world is KIND else {"world": world.name}), **({"surface": True} if surface else {})}
    return {"version": world.version, **named, "simulated": True, "sizes": sizes}


def _is_complete(folder: Path, world: World, surface: bool) -> bool:
    """Whether all files of this example are there, of the right size, in this version."""
    try:
        marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        found = (marker["version"], marker.get("world", KIND.name), marker.get("surface", False))
        if found != (world.version, world.name, surface):
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


def _write(
    outputs: Outputs,
    n_subjects: int = N_SUBJECTS,
    world: World = KIND,
    progress: Progress = ignore,
    surface: bool = False,
) -> None:
    """Write the whole experiment."""
    steps = n_subjects + 2
    progress(0, steps)
    data = DataFolder(outputs.staging)
    # The first file to move into place: by it, other processes know the folder even before it is complete.
    write_lines(data.root / _README_FILE, _readme(world, _ON_SURFACE if surface else _IN_VOLUME).splitlines())
    brain = (_simulated_surface if surface else _simulated_brain)(world)
    for folder in (data.dnn_rdms, data.roi_rdms, data.searchlight_rdms):
        folder.mkdir()
    _write_tables(data, brain, world)
    for task in TASKS:
        for layer in TASK_LAYERS:
            np.save(data.dnn_rdm(task.key, layer), expand(world.network_rdm(task.key, layer)))
    progress(1, steps)
    for done in _write_subjects(data, brain, n_subjects, world):
        progress(1 + done, steps)
    _write_ceiling(SearchlightFolder(data.searchlight_rdms))
    progress(steps, steps)


def _write_tables(data: DataFolder, brain: _Brain, world: World) -> None:
    """Names, mask, atlas, geometry, truth."""
    models = [f"{task.key}\t{task.label}\t{task.group}\t{task.color}" for task in TASKS]
    write_lines(data.models, ["key\tlabel\tgroup\tcolor", *models])
    write_lines(data.roi_labels, ["id,roi", *(f"{number},{name}" for number, (name, *_) in enumerate(_ROIS, start=1))])
    write_conditions(data.conditions, [f"simulated image {number:02d}" for number in range(1, N_CONDITIONS + 1)])
    write_rows(data.truth, _truth(brain, world))
    geometry = brain.searchlights.geometry
    if geometry.vertices is None:
        write_volume(data.mask, brain.mask.astype(np.uint8), geometry.affine, space=geometry.space)
        write_volume(data.atlas, brain.atlas, geometry.affine, space=geometry.space)
    else:
        names = {number: name for number, (name, *_) in enumerate(_ROIS, start=1)}
        for side, half in geometry.vertices.split(brain.atlas).items():
            write_vertices(data.atlas_half(side), half, side, "ROIs", roi_colors(names))
    geometry.save(SearchlightFolder(data.searchlight_rdms).geometry)


def _readme(world: World, places: Mapping[str, str] = _IN_VOLUME) -> str:
    """Explanation for the reader of the folder, with the numbers and lists of this version."""
    kinds = {kind: [area for area in world.rois if area.kind == kind] for kind in _TYPES}
    planted = [*kinds["lead"], *kinds["weak"]]
    parcels = Counter(made_as.kind for made_as, number in world.parcels for _ in range(number))
    template = _README if world is KIND else _HARD_README
    for name, text in places.items():
        template = template.replace(f"{{{name}}}", text)
    return template.format(
        world=world,
        subjects=N_SUBJECTS,
        conditions=N_CONDITIONS,
        networks=len(TASKS),
        layers=len(TASK_LAYERS),
        version=world.version,
        mask_end=_MASK_END_MM,
        ribbon=_RIBBON_MM,
        rois=len(world.rois),
        roi_radius=_ROI_RADIUS_MM,
        territory=_TERRITORY_MM,
        disc=_DISC_MM,
        surface_end=_SURFACE_END_MM,
        parcels=world.n_parcels,
        reliable_parcels=parcels["unrelated"],
        common_parcels=parcels["common"],
        planted="\n".join(
            f"  {area.name:5} {area.network} ({area.group}){', weakly' * (area.kind == 'weak')}" for area in planted
        ),
        ties="\n".join(f"  {area.name:5} {' = '.join(area.follows)}" for area in kinds["tie"]),
        common=", ".join(area.name for area in kinds["common"]),
        reliable=", ".join(area.name for area in kinds["unrelated"]),
        noise=", ".join(area.name for area in kinds["noise"]),
    )


def _write_subjects(data: DataFolder, brain: _Brain, n_subjects: int, world: World) -> Iterator[int]:
    """Searchlight RDMs of one subject after the other, then the ROIs' of all; yields the number of subjects done."""
    simulated = brain.simulated_voxels()
    folder = SearchlightFolder(data.searchlight_rdms)
    in_rois: dict[str, list[NDArray]] = {name: [] for name, *_ in _ROIS}
    for subject in range(1, n_subjects + 1):
        betas = _beta_maps(brain, simulated, subject, world)
        flat = betas.reshape(N_CONDITIONS, -1)[:, brain.searchlights.voxels]
        responses = Responses(np.ascontiguousarray(flat.T))
        rdms = member_rdms(responses, brain.members(usable_voxels(flat)), dtype=np.float64)
        np.save(folder.rdms(f"sub-{subject:02d}"), rdms)
        for number, (name, stack) in enumerate(in_rois.items(), start=1):
            stack.append(roi_rdm(Responses(betas[:, brain.atlas == number].T), f"ROI {name}"))
        yield subject
    for name, stack in in_rois.items():
        np.save(data.roi_rdm(name), expand(np.stack(stack)).astype(np.float32))


def _write_ceiling(folder: SearchlightFolder) -> None:
    """Noise ceiling of the searchlights, read back a part at a time to bound the memory."""
    paths = folder.all_rdms()
    parts = slices(len(open_array(paths[0])), _CEILING_SEARCHLIGHTS)
    lower, upper = np.concatenate([ceilings_of(paths, part) for part in parts], axis=1)
    np.savez(folder.noise_ceiling, lower=lower, upper=upper)
