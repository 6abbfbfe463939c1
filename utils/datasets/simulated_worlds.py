"""What the simulated examples are made of: networks and brain areas whose truth is known.

Networks and areas are built from the same kind of parts: latent dimensions of the images that all networks share, that
those of one group share, and that one network has for itself; areas have latents of their own, too. Two worlds differ
in what their areas follow, in the images' gains, and in the noise of the measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.tasks import BASELINE, GROUPS, TASKS
from utils import InputError
from utils.rdm import condense, correlation_rdm

N_SUBJECTS = 16
N_CONDITIONS = 50
# What all origins of latents are called; those of areas and persons are named below.
_ALL = "all networks"
_GROUP_OF = {task.key: task.group for task in TASKS}


@dataclass(frozen=True)
class Latents:
    """Dimensions along which images differ, and the gain of each image."""

    dimensions: NDArray[np.float64]  # (n_conditions, any); mean squared length of a row: 1
    log_gain: NDArray[np.float64]  # (n_conditions,)

    def patterns(self, n_units: int, mean_sd: float, rng: np.random.Generator) -> NDArray[np.float64]:
        """Responses (n_conditions, n_units): a mean pattern, plus gain times what is special to the image."""
        weights = rng.standard_normal((self.dimensions.shape[1], n_units))
        common = mean_sd * rng.standard_normal(n_units)
        return common + np.exp(self.log_gain)[:, None] * (self.dimensions @ weights)

    def limiting_rdm(self, mean_sd: float) -> NDArray[np.float64]:
        """What the RDM (condensed, 1 - Pearson) of such responses tends to as the number of units grows."""
        scaled = np.exp(self.log_gain)[:, None] * self.dimensions
        covariance = scaled @ scaled.T + mean_sd**2
        sd = np.sqrt(np.diagonal(covariance))
        return condense(1 - covariance / np.outer(sd, sd))


def _mix(shares: Sequence[float], origins: Sequence[Latents]) -> Latents:
    """Several origins in one representation; `shares` are shares of variance."""
    parts = [np.sqrt(share) * origin.dimensions for share, origin in zip(shares, origins, strict=True)]
    return Latents(np.concatenate(parts, axis=1), np.sum([origin.log_gain for origin in origins], axis=0))


@dataclass(frozen=True)
class Area:
    """A part of the simulated brain: what its voxels follow.

    Attributes
    ----------
    name : str
    kind : str
        lead: follows one network, and with it its group; weak: the same, weakly; tie: two groups alike; common: only
        what all networks share; unrelated: patterns of its own, which people share; noise: nothing.
    follows : tuple of str
        Groups.
    network : str
        The one that it follows; empty where there is none.
    origins : tuple of str
        Of its latents, before those of single people.
    shares : tuple of float
        Of variance: of each origin, and of single people.
    strength : float
        Of its patterns, relative to the noise.
    """

    name: str
    kind: str
    follows: tuple[str, ...] = ()
    network: str = ""
    origins: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    strength: float = 0.0

    @property
    def reliable(self) -> bool:
        """Whether people share its patterns."""
        return self.kind != "noise"

    @property
    def related(self) -> bool:
        """Whether it follows anything that networks have."""
        return self.kind not in ("unrelated", "noise")

    @property
    def group(self) -> str:
        """The group that explains more of it than any other; empty where there is none."""
        return self.follows[0] if len(self.follows) == 1 else ""


@dataclass(frozen=True)
class Gains:
    """Spread (SD) of the images' log gain that each origin brings.

    Attributes
    ----------
    all_networks, group, layer, area, unrelated, person : float
        `area` is what an area brings that follows networks, `unrelated` one that does not.
    network : mapping of str to (float, float)
        By group; each network's own is drawn between these two.
    of_networks_in_areas : bool
        Whether an area takes over the gains of the group and the network that it follows.
    everywhere : bool
        Whether unrelated areas have those of all networks, too.
    """

    all_networks: float
    group: float
    network: Mapping[str, tuple[float, float]]
    layer: float
    area: float
    unrelated: float
    person: float
    of_networks_in_areas: bool
    everywhere: bool


@dataclass(frozen=True)
class World:
    """One simulated experiment: its networks, its areas, its noise.

    Attributes
    ----------
    name : str
    seed : int
    version : str
        To be raised whenever anything that is written changes.
    dimensions : int
        Of every origin of latents.
    network_dimensions : mapping of str to int
        By group: of what a network and its layers have for themselves, where this differs.
    n_units : int
        Of a network's layer; 0 for infinitely many.
    network_shares : mapping of str to tuple of float
        By layer: shares of variance of all networks, of the group, of the network, of its layer.
    gains : Gains
    mean_pattern_sd : float
        What all images have in common; the differences between them have SD 1 before gain.
    noise_sd, noise_spread : float
        SD of a voxel's noise, and the SD over people of its logarithm.
    noise_fwhm_mm : float
        Width of the filter that smooths the noise; 0 leaves voxels independent.
    noise_autocorrelation : float
        Between an image and the next, in the order in which a person saw them.
    weight_spread : float
        SD over people of the logarithm of the weight that an origin has in an area.
    rois : tuple of Area
        In the order of the atlas.
    parcels : tuple of (Area, int)
        What fills the rest of the mask: how many parcels are made as each of these.
    """

    name: str
    seed: int
    version: str
    dimensions: int
    network_dimensions: Mapping[str, int]
    n_units: int
    network_shares: Mapping[str, tuple[float, ...]]
    gains: Gains
    mean_pattern_sd: float
    noise_sd: float
    noise_spread: float
    noise_fwhm_mm: float
    noise_autocorrelation: float
    weight_spread: float
    rois: tuple[Area, ...]
    parcels: tuple[tuple[Area, int], ...]

    def rng(self, stream: str) -> np.random.Generator:
        """Own random numbers for every part, so that no part depends on which others were drawn before."""
        return np.random.default_rng([self.seed, *stream.encode()])

    @property
    def n_parcels(self) -> int:
        """Number of parcels."""
        return sum(number for _, number in self.parcels)

    def areas(self) -> tuple[Area, ...]:
        """The ROIs in the order of the atlas, then the parcels."""
        order = self.rng("reliable parcels").permutation(self.n_parcels).tolist()
        found = [Area("", "noise")] * self.n_parcels
        for made_as, number in self.parcels:
            for i in order[:number]:
                own = tuple(f"area parcel {i}" if name == "area" else name for name in made_as.origins)
                found[i] = replace(made_as, name=f"parcel {i}", origins=own)
            order = order[number:]
        return (*self.rois, *found)

    def network_rdm(self, key: str, layer: str) -> NDArray[np.float64]:
        """Condensed RDM of one layer of a network."""
        name = f"network {key} {layer}"
        low, high = self.gains.network[_GROUP_OF[key]]
        own = low + (high - low) * self.rng(f"network {key} gain").random() if high > low else low
        size = self.network_dimensions.get(_GROUP_OF[key], self.dimensions)
        origins = [
            self._origin(_ALL, self.gains.all_networks),
            self._origin(f"group {_GROUP_OF[key]}", self.gains.group),  # the untrained network is a group of its own
            self._origin(f"network {key}", own, size),
            self._origin(name, self.gains.layer, size),
        ]
        latents = _mix(self.network_shares[layer], origins)
        if not self.n_units:
            return latents.limiting_rdm(self.mean_pattern_sd)
        return correlation_rdm(latents.patterns(self.n_units, self.mean_pattern_sd, self.rng(name + " units")))

    def limiting_rdm(self, area: Area) -> NDArray[np.float64]:
        """What the RDM of an area (condensed) tends to for many voxels of many people who weight alike, without noise.

        What is special to single people does not add up, and is left out.
        """
        origins = [self._origin(name, self._gain_in_area(area, name)) for name in area.origins]
        return _mix(area.shares[:-1], origins).limiting_rdm(self.mean_pattern_sd)

    def area_patterns(self, area: Area, subject: int, n_voxels: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Responses of some voxels of one person, (n_conditions, n_voxels), without noise."""
        person = f"area {area.name} subject {subject}"
        shares = np.array(area.shares)
        if self.weight_spread:
            shares *= np.exp(self.weight_spread * self.rng(f"{person} weights").standard_normal(len(shares)))
            shares /= shares.sum()
        origins = [self._origin(name, self._gain_in_area(area, name)) for name in area.origins]
        latents = _mix(shares.tolist(), [*origins, self._origin(person, self.gains.person)])
        return area.strength * latents.patterns(n_voxels, self.mean_pattern_sd, rng)

    def _gain_in_area(self, area: Area, origin: str) -> float:
        if origin == _ALL:
            return self.gains.all_networks
        if origin.startswith("area "):
            return self.gains.area if area.related else self.gains.unrelated
        if not self.gains.of_networks_in_areas:
            return 0.0
        if origin.startswith("group "):
            return self.gains.group
        return self.gains.network[_GROUP_OF[origin.removeprefix("network ")]][0]

    def _origin(self, name: str, log_gain_sd: float, size: int = 0) -> Latents:
        """Latents of one origin: all networks, a group, a network, an area, a person."""
        rng, size = self.rng(name), size or self.dimensions
        dimensions = rng.standard_normal((N_CONDITIONS, size)) / np.sqrt(size)
        return Latents(dimensions, log_gain_sd * rng.standard_normal(N_CONDITIONS))


def _lead(name: str, network: str, shares: tuple[float, ...], strength: float, kind: str = "lead") -> Area:
    """Follows a network: shares of all networks, its group, the network, the area itself, and single people."""
    group = _GROUP_OF[network]
    origins = (_ALL, f"group {group}", f"network {network}", f"area {name}")
    return Area(name, kind, (group,), network, origins, shares, strength)


# --- the kind world --------------------------------------------------------------------------------------------------
_STRENGTH = {"2D": 1.0, "3D": 0.9, "semantic": 0.9}  # of a group's areas
_UNRELATED_STRENGTH = 0.7
_KIND_SHARES = (0.20, 0.35, 0.20, 0.15, 0.10)
_KIND_NETWORKS = {
    "V1v": "edge2d", "V1d": "edge2d", "V2v": "denoise", "V2d": "denoise", "V3v": "segment2d", "V3d": "segment2d",
    "hV4": "autoencoder", "VO1": "segmentsemantic", "VO2": "class_1000", "PHC1": "class_places",
    "PHC2": "class_places", "MST": "rgb2sfnorm", "hMT": "rgb2depth", "LO2": "edge3d", "LO1": "keypoint3d",
    "V3b": "curvature", "V3a": "segment25d", "IPS0": "reshade",
}  # fmt: skip


def _kind_area(name: str) -> Area:
    if name in _KIND_NETWORKS:
        network = _KIND_NETWORKS[name]
        return _lead(name, network, _KIND_SHARES, _STRENGTH[_GROUP_OF[network]])
    if name in ("IPS4", "IPS5", "FEF"):
        return Area(name, "noise")
    return _kind_unrelated(name, f"area {name}")


def _kind_unrelated(name: str, origin: str) -> Area:
    return Area(name, "unrelated", origins=(origin,), shares=(0.90, 0.10), strength=_UNRELATED_STRENGTH)


_LATER_ROIS = ("IPS1", "IPS2", "IPS3", "IPS4", "IPS5", "SPL1", "FEF")
KIND = World(
    name="kind",
    seed=0,
    version="1",
    dimensions=6,
    network_dimensions={},
    n_units=400,
    network_shares={"block4": (0.30, 0.30, 0.25, 0.15), "encoder_output": (0.20, 0.35, 0.30, 0.15)},
    gains=Gains(
        all_networks=0.35, group=0.35, network=dict.fromkeys((*GROUPS, BASELINE), (0.35, 0.35)), layer=0.10,
        area=0.35, unrelated=0.70, person=0.10,
        of_networks_in_areas=True, everywhere=False,
    ),
    mean_pattern_sd=1.4,
    noise_sd=2.4,
    noise_spread=0.2,
    noise_fwhm_mm=0.0,
    noise_autocorrelation=0.0,
    weight_spread=0.0,
    rois=tuple(_kind_area(name) for name in (*_KIND_NETWORKS, *_LATER_ROIS)),
    parcels=((_kind_unrelated("", "area"), 32), (Area("", "noise"), 128)),
)  # fmt: skip

# --- the hard world --------------------------------------------------------------------------------------------------
# Shares of all networks, of the first and the second group, of the area itself, of single people.
_TIE_SHARES = (0.20, 0.30, 0.30, 0.10, 0.10)
# Averaging over a group reduces what its single networks have for themselves by the number of networks, 7, 8 and 3.
# With dimensions in inverse, and variances of log gains in proportion to it, as much is left in every group, and equal
# shares are ties.
_NETWORK_DIMENSIONS = {"2D": 24, "3D": 21, "semantic": 56}
_NETWORK_GAINS = {"2D": (0.0, 0.56), "3D": (0.0, 0.6), "semantic": (0.0, 0.37), BASELINE: (0.0, 0.6)}
_LEAD_SHARES = (0.20, 0.30, 0.20, 0.20, 0.10)
_WEAK_SHARES = (0.20, 0.12, 0.05, 0.53, 0.10)
_COMMON_SHARES = (0.55, 0.35, 0.10)
_UNRELATED_SHARES = (0.0, 0.90, 0.10)
_HARD_STRENGTH = 1.0
_HARD_ROIS: tuple[tuple[str, str, str], ...] = (
    ("V1v", "lead", "edge2d"),
    ("V1d", "lead", "edge2d"),
    ("V2v", "lead", "denoise"),
    ("V2d", "lead", "denoise"),
    ("V3v", "tie", "2D 3D"),
    ("V3d", "tie", "2D 3D"),
    ("hV4", "tie", "2D semantic"),
    ("VO1", "lead", "segmentsemantic"),
    ("VO2", "tie", "3D semantic"),
    ("PHC1", "lead", "class_places"),
    ("PHC2", "weak", "class_places"),
    ("MST", "common", ""),
    ("hMT", "lead", "rgb2depth"),
    ("LO2", "tie", "3D semantic"),
    ("LO1", "lead", "keypoint3d"),
    ("V3b", "tie", "2D 3D"),
    ("V3a", "lead", "segment25d"),
    ("IPS0", "weak", "reshade"),
    ("IPS1", "common", ""),
    ("IPS2", "unrelated", ""),
    ("IPS3", "unrelated", ""),
    ("IPS4", "noise", ""),
    ("IPS5", "noise", ""),
    ("SPL1", "tie", "2D semantic"),
    ("FEF", "noise", ""),
)


def _hard_area(name: str, kind: str, follows: str, own: str = "") -> Area:
    own = own or f"area {name}"
    if kind in ("lead", "weak"):
        return _lead(name, follows, _LEAD_SHARES if kind == "lead" else _WEAK_SHARES, _HARD_STRENGTH, kind)
    if kind == "tie":
        first, second = follows.split()
        origins = (_ALL, f"group {first}", f"group {second}", own)
        return Area(name, kind, (first, second), "", origins, _TIE_SHARES, _HARD_STRENGTH)
    if kind == "common":
        return Area(name, kind, GROUPS, "", (_ALL, own), _COMMON_SHARES, _HARD_STRENGTH)
    if kind == "unrelated":  # none of what all networks share, but its gains
        return Area(name, kind, (), "", (_ALL, own), _UNRELATED_SHARES, _HARD_STRENGTH)
    return Area(name, "noise")


HARD = World(
    name="hard",
    seed=11,  # of the seeds 1 to 12, that in which tied groups differ least in these images: by .052 at most
    version="1",
    dimensions=16,
    network_dimensions=_NETWORK_DIMENSIONS,
    n_units=0,
    network_shares={"block4": (0.30, 0.30, 0.25, 0.15), "encoder_output": (0.20, 0.35, 0.30, 0.15)},
    gains=Gains(
        all_networks=0.18, group=0.0, network=_NETWORK_GAINS, layer=0.05, area=0.20, unrelated=0.20, person=0.10,
        of_networks_in_areas=False, everywhere=True,
    ),
    mean_pattern_sd=0.5,
    noise_sd=1.5,
    noise_spread=0.2,
    noise_fwhm_mm=4.5,
    noise_autocorrelation=0.3,
    weight_spread=0.4,
    rois=tuple(_hard_area(*row) for row in _HARD_ROIS),
    parcels=(
        (_hard_area("", "unrelated", "", "area"), 32),
        (_hard_area("", "common", "", "area"), 12),
        (Area("", "noise"), 116),
    ),
)  # fmt: skip

WORLDS = {world.name: world for world in (KIND, HARD)}


def world_named(name: str) -> World:
    """One of `WORLDS`.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    if name not in WORLDS:
        raise InputError(f"unknown world '{name}'; there are {', '.join(WORLDS)}")
    return WORLDS[name]
