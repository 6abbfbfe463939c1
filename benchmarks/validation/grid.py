"""Which claims are put to the test in which worlds: the cells of the tables in docs/VALIDATION.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.validation import claims
from benchmarks.validation.claims import Outcomes
from utils.analysis.settings import Settings
from utils.datasets.worlds import Study, World

ALL_ROUTES = ("default", "plain", "published", "published, conditions")
VALID_ROUTES = ("default", "plain")


@dataclass(frozen=True)
class Cell:
    """One world and one claim.

    Attributes
    ----------
    table, name : str
        Where it appears, and what the row is called.
    world : World
    claim : callable
    routes : tuple of str
    runs : int
    """

    table: str
    name: str
    world: World
    claim: Callable[[Study, Settings], Outcomes]
    routes: tuple[str, ...]
    runs: int


def one_place(*shares: float, **others: Any) -> World:
    """A world with one place, which follows networks with these shares of its variance."""
    return replace(World(kinds=(shares,)), **others)


GAIN: dict[str, Any] = {"network_gain": 0.35, "brain_gain": (0.35,)}
NOISY_PEOPLE: dict[str, Any] = {"n_people": 16, "voxels": 60, "noise": 2.0}
NOTHING = (0.0, 0.0, 0.0)


def _rows(
    table: str,
    claim: Callable[[Study, Settings], Outcomes],
    routes: tuple[str, ...],
    runs: int,
    worlds: dict[str, World],
) -> list[Cell]:
    return [Cell(table, name, world, claim, routes, runs) for name, world in worlds.items()]


def levels() -> list[Cell]:
    """Claims that are wrong in these worlds, except for the last few rows, whose names say so."""
    explained = {
        "nothing related": one_place(*NOTHING),
        "gains of their own, SD .8": one_place(*NOTHING, network_gain=0.8, brain_gain=(0.8,)),
        "heavy tails": one_place(*NOTHING, heavy=True, **GAIN),
        "networks alike (.6 common), 16 noisy people": one_place(*NOTHING, common=0.6, **NOISY_PEOPLE, **GAIN),
        "networks with 1, 2 and 8 layers, brain demeaned": one_place(
            *NOTHING, layers=(1, 2, 8), demean=True, network_gain=(0.0, 0.35, 0.8)
        ),
    }
    gains = {
        f"SD {spread:g}": one_place(*NOTHING, shared_gain=spread, network_gain=0.2, brain_gain=(0.2,))
        for spread in (0.2, 0.35, 0.5)
    }
    beside = {
        "ordinary": one_place(0.9, 0, 0),
        "gain .35": one_place(0.9, 0, 0, **GAIN),
        "brain demeaned, networks' gain .8": one_place(0.9, 0, 0, network_gain=0.8, demean=True),
        "16 noisy people, gain .35": one_place(0.9, 0, 0, **NOISY_PEOPLE, **GAIN),
        "heavy tails": one_place(0.9, 0, 0, heavy=True, **GAIN),
        "two strong groups, noise of images differs": one_place(0.45, 0, 0.45, noise=1.0, noise_by_image=0.7, **GAIN),
        "groups of 8, 2 and 4 layers, 30 images": one_place(0.8, 0, 0, layers=(8, 2, 4), n_images=30, **GAIN),
        "errors in variables: half of the features in common": one_place(0.9, 0, 0, common=0.5, follow_common=True),
        "ten categories known to all, unrelated otherwise": one_place(
            *NOTHING, categories=10, category_share=0.5, **GAIN
        ),
    }
    networks: dict[str, Any] = {"layers": (2,) * 19, "units": 150, "noise": 0.5, **GAIN}
    best = {
        "none of 19 real": one_place(0, **networks),
        "1 of 19 real (.5)": one_place(0.5, **networks),
        "1 of 19 real (.8)": one_place(0.8, **networks),
        "2 of 19 real (.4, .4)": one_place(0.4, 0.4, **networks),
    }
    return [
        *_rows("explained", claims.explained, ALL_ROUTES, 1000, explained),
        *_rows("gains", claims.explained, ("default", "without condition effects", "plain"), 600, gains),
        *_rows("beside", claims.stars, ALL_ROUTES, 500, beside),
        *_rows("ranks", claims.ranks, ALL_ROUTES, 300, best),
    ]


def leads() -> list[Cell]:
    """Ties, where a lead is wrong; and maps with unrelated places, ties and leads."""
    fine: dict[str, Any] = {"voxels": 3000}
    routes = ("default", "default, images", "plain", "published", "published, conditions")
    ties = {
        "nothing explains": one_place(*NOTHING, **fine),
        ".2 .2 0": one_place(0.2, 0.2, 0, **fine),
        ".45 .45 0": one_place(0.45, 0.45, 0, **fine),
        ".3 .3 .3": one_place(0.3, 0.3, 0.3, **fine),
        ".45 .45 0, gain .5": one_place(0.45, 0.45, 0, network_gain=0.5, brain_gain=(0.5,), **fine),
        ".45 .45 0, common .5": one_place(0.45, 0.45, 0, common=0.5, follow_common=True, **fine),
        ".45 .45 0, heavy tails": one_place(0.45, 0.45, 0, heavy=True, **GAIN, **fine),
        ".4 .4 0, 16 noisy people": one_place(0.4, 0.4, 0, n_people=16, voxels=200, noise=2.0, **GAIN),
        ".4 .4 0, 8 people who differ": one_place(0.4, 0.4, 0, n_people=8, people_differ=1.0, noise=1.0, **GAIN),
        ".4 .4 0, 8 people who differ by SD .5": one_place(
            0.4, 0.4, 0, n_people=8, people_differ=0.5, noise=1.0, **GAIN
        ),
        ".4 .4 0, 20 people who differ": one_place(0.4, 0.4, 0, n_people=20, people_differ=1.0, noise=1.0, **GAIN),
    }
    place = World(copies=40, cluster=8, voxels=64, noise=0.5, common=0.3, follow_common=True, **GAIN)
    maps = {
        "base": replace(place, kinds=(NOTHING, (0.4, 0.4, 0.0), (0.6, 0.1, 0.1))),
        "weak": replace(place, kinds=(NOTHING, (0.2, 0.2, 0.0), (0.4, 0.0, 0.0))),
    }
    return [
        *_rows("ties", claims.lead, routes, 500, ties),
        *_rows("maps", claims.lead_map, ALL_ROUTES, 100, maps),
    ]


INTERVAL_WORLDS = {
    "images dominate": one_place(0.5, 0.3, 0, n_people=16, noise=0.5, people_differ=0.1, **GAIN),
    "8 people vary": one_place(0.4, 0.3, 0, n_people=8, noise=1.0, people_differ=1.0, **GAIN),
    "noise dominates": one_place(0.5, 0.3, 0, n_people=16, noise=4.0, voxels=40, people_differ=0.3, **GAIN),
    "20 images": one_place(0.5, 0.3, 0, n_images=20, n_people=20, noise=2.0, people_differ=0.5, **GAIN),
}


def sizes() -> list[Cell]:
    """Intervals, contests of networks of unequal size, and t-tests over people."""
    contests = {
        "8 unrelated layers against 2": one_place(0, 0, layers=(8, 2)),
        "the same, gain .35": one_place(0, 0, layers=(8, 2), **GAIN),
        "the same, gain .8": one_place(0, 0, layers=(8, 2), network_gain=0.8, brain_gain=(0.8,)),
    }
    people = {
        "people share an unrelated representation": one_place(*NOTHING, n_people=6, noise=1.0, **GAIN),
        "the same, gain .8": one_place(*NOTHING, n_people=6, noise=1.0, network_gain=0.8, brain_gain=(0.8,)),
    }
    filled = {
        "errors in variables (.9 0 0, half in common)": one_place(
            0.9, 0, 0, common=0.5, follow_common=True, n_people=8, noise=1.0
        ),
        "nothing (.9 0 0)": one_place(0.9, 0, 0, n_people=8, noise=1.0, **GAIN),
        "something (.5 .2 0)": one_place(0.5, 0.2, 0, n_people=8, noise=1.0, **GAIN),
    }
    return [
        *_rows("filled", claims.filled_stars, VALID_ROUTES, 300, filled),
        *_rows("coverage", claims.intervals, VALID_ROUTES, 600, INTERVAL_WORLDS),
        *_rows("contest", claims.contest, ("default", "plain", "published"), 1000, contests),
        *_rows("people", claims.over_people, ("default", "plain", "published"), 400, people),
    ]


def powers() -> list[Cell]:
    """Claims that are right in these worlds."""
    beside = {
        "star: .05 beside .8": one_place(0.8, 0.05, 0),
        "star: .08 beside .5": one_place(0.5, 0.08, 0),
        "star: .15 beside .5, gain .5": one_place(0.5, 0.15, 0, network_gain=0.5, brain_gain=(0.5,)),
        "star: .12 beside .4, 16 noisy people, gain .35": one_place(0.4, 0.12, 0, **NOISY_PEOPLE, **GAIN),
    }
    one = {"explained: .1 by one network, gain .35": one_place(0.1, layers=(2,), noise=0.5, **GAIN)}
    lead = {
        "lead: .5 .1 .1, gain .5": one_place(0.5, 0.1, 0.1, network_gain=0.5, brain_gain=(0.5,)),
        "lead: .4 0 0, 16 noisy people, gain .35": one_place(0.4, 0, 0, **NOISY_PEOPLE, **GAIN),
    }
    networks: dict[str, Any] = {"layers": (2,) * 19, "units": 150, "noise": 0.5, **GAIN}
    best = {"three best: .3 .3 .3 of 19": one_place(0.3, 0.3, 0.3, **networks)}
    grid = World(
        kinds=(NOTHING, (0.15, 0.0, 0.0)), copies=48, cluster=4, voxels=64, noise=0.7,
        network_gain=(0.2, 0.5, 1.0), brain_gain=(0.0, 1.0),
    )  # fmt: skip
    maps = {
        f"maximum, 48 of 96 places follow {share:g}": replace(grid, kinds=(NOTHING, (share, 0.0, 0.0)))
        for share in (0.15, 0.3)
    }
    return [
        *_rows("power", claims.explained, ALL_ROUTES, 400, one),
        *_rows("power", claims.stars, ALL_ROUTES, 400, beside),
        *_rows("power", claims.lead, VALID_ROUTES, 400, lead),
        *_rows("power", claims.ranks, VALID_ROUTES, 200, best),
        *_rows("power", claims.maximum, VALID_ROUTES, 100, maps),
    ]


# What is varied in the power curves: axis, values, and the world for a value. The others stay at .1, 50, 8 and 2.
BASE_CURVE = {"effect": 0.1, "images": 50, "people": 8, "noise": 2.0}
CURVE_VALUES: dict[str, tuple[float, ...]] = {
    "effect": (0.02, 0.05, 0.1, 0.2, 0.4),
    "images": (12, 20, 30, 50, 80),
    "people": (2, 4, 8, 16),
    "noise": (0.5, 1.0, 2.0, 4.0, 6.0),
}


def curve_world(kind: tuple[float, ...], images: float, people: float, noise: float) -> World:
    """A place of this kind in people who differ somewhat."""
    return one_place(
        *kind, n_images=int(images), n_people=int(people), noise=noise, voxels=60, people_differ=0.3, **GAIN
    )


def curves() -> list[Cell]:
    """Power against effect, images, people and noise, one at a time.

    A star is looked for where group 2 adds `effect` to .4 that group 1 explains, a lead where group 1 explains `effect`
    more than group 2, which explains .2.
    """
    cells = []
    for axis, values in CURVE_VALUES.items():
        for value in values:
            others = BASE_CURVE | {axis: value}
            effect, name = others.pop("effect"), f"{axis} {value:g}"
            star, ahead = (curve_world(kind, **others) for kind in ((0.4, effect, 0.0), (0.2 + effect, 0.2, 0.0)))
            cells.append(Cell("curve star", name, star, claims.stars, VALID_ROUTES, 200))
            cells.append(Cell("curve lead", name, ahead, claims.lead, VALID_ROUTES, 200))
    return cells


def recovery() -> list[Cell]:
    """Shares of the explainable variance where one network's own features are all that the brain follows."""
    cells = []
    for noise in (0.5, 2.0, 4.0):
        for share in (0.1, 0.3, 0.5, 0.7, 0.9):
            world = one_place(share, 0, 0, n_people=212, noise=noise, voxels=60, layer_share=0.0, units=2000, **GAIN)
            cells.append(
                Cell("recovery", f"share {share:g} noise {noise:g}", world, claims.recovered_share, VALID_ROUTES, 40)
            )
    return cells


def all_cells() -> list[Cell]:
    """Everything, what the tables need first."""
    return [*levels(), *leads(), *sizes(), *powers(), *recovery(), *curves()]
