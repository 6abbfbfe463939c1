"""Simulated worlds: the RDMs of networks and of the brain, made from patterns whose relations are known.

Claims are validated in such worlds (`benchmarks/validation`), and studies are planned (`utils.plan`).

Images have a few latent features. Every network (a set of layers) has features of its own and, if asked, some that all
networks share; each layer adds a few. A place of the brain follows the features of networks with given shares of its
variance, and features of nobody else for the rest. Patterns are random mixtures of features, multiplied per image by a
gain, and become RDMs by 1 - Pearson correlation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.rdm import correlation_rdm

# Log gains beyond this are cut.
_LARGEST_LOG_GAIN = 3.0


@dataclass(frozen=True)
class World:
    """What is drawn anew in every run.

    Attributes
    ----------
    kinds : tuple of tuple of float
        Per kind of place, the share of its variance that follows each network.
    copies, cluster : int
        Places of each kind; how many neighbours share the features that follow no network, and gains.
    n_images, n_people, n_features, units, voxels : int
    layers : tuple of int
        Number of layers of each network.
    common : float
        Share of the networks' features that all of them have in common.
    follow_common : bool
        Places follow the whole of a network's features, those in common included; otherwise what is its own.
    layer_share : float
        Share of a layer that only this layer has.
    network_gain : float or tuple of float
        SD of each network's log gains of images.
    brain_gain : tuple of float
        SD of a place's log gains; clusters take these values in turn.
    shared_gain : float
        SD of log gains that all networks and all places share.
    noise, people_differ : float
        SD of independent noise of each voxel, in units of the signal; SD of the log of how much a person's place
        follows each network.
    noise_by_image : float
        SD of the log of the noise's SD over images.
    heavy : bool
        Features and gains are heavy-tailed (t distributions of 2.5 and 3 degrees of freedom).
    demean : bool
        Every voxel's mean over images is removed from the brain.
    categories, category_share : int, float
        All networks and the brain know the same partition of the images; share of the variance between categories.
    """

    kinds: tuple[tuple[float, ...], ...] = ((0.0, 0.0, 0.0),)
    copies: int = 1
    cluster: int = 1
    n_images: int = 50
    n_people: int = 1
    n_features: int = 6
    units: int = 200
    voxels: int = 100
    layers: tuple[int, ...] = (2, 2, 2)
    common: float = 0.0
    follow_common: bool = False
    layer_share: float = 0.15
    network_gain: float | tuple[float, ...] = 0.0
    brain_gain: tuple[float, ...] = (0.0,)
    shared_gain: float = 0.0
    noise: float = 0.3
    people_differ: float = 0.0
    noise_by_image: float = 0.0
    heavy: bool = False
    demean: bool = False
    categories: int = 0
    category_share: float = 0.0


@dataclass(frozen=True)
class Study:
    """RDMs of one run.

    Attributes
    ----------
    models : list of ndarray, each (n_layers, n_pairs)
    people : ndarray, shape (n_people, n_places, n_pairs)
    kind : ndarray of int, shape (n_places,)
    """

    models: list[NDArray[np.float64]]
    people: NDArray[np.float64]
    kind: NDArray[np.int64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """RDMs averaged over people, (n_places, n_pairs)."""
        return np.asarray(self.people.mean(axis=0))


class _Images:
    """Draws what belongs to the images of one run."""

    def __init__(self, rng: np.random.Generator, world: World) -> None:
        self.rng, self.world = rng, world
        self.category = np.arange(world.n_images) % max(1, world.categories)

    def features(self) -> NDArray[np.float64]:
        """Features of nobody else yet, (n_images, n_features), with a sum of squares of about 1 per image."""
        shape = self.world.n_images, self.world.n_features
        drawn = self.rng.standard_t(2.5, shape) / np.sqrt(5) if self.world.heavy else self.rng.standard_normal(shape)
        drawn /= np.sqrt(shape[1])
        if not self.world.categories:
            return drawn
        between = self.rng.standard_normal((self.world.categories, shape[1]))[self.category] / np.sqrt(shape[1])
        share = self.world.category_share
        return np.sqrt(share) * between + np.sqrt(1 - share) * drawn

    def log_gain(self) -> NDArray[np.float64]:
        n = self.world.n_images
        return self.rng.standard_t(3, n) if self.world.heavy else self.rng.standard_normal(n)

    def patterns(
        self, parts: list[tuple[float, NDArray[np.float64]]], log_gain: NDArray[np.float64], n: int
    ) -> NDArray[np.float64]:
        """Random mixtures, (n_images, n), of features with shares of the variance, times a gain, around a mean."""
        features = np.hstack([np.sqrt(share) * values for share, values in parts if share > 0])
        signal = features @ self.rng.standard_normal((features.shape[1], n))
        gain = np.exp(np.clip(log_gain, -_LARGEST_LOG_GAIN, _LARGEST_LOG_GAIN))
        return gain[:, None] * signal + self.rng.standard_normal(n)


def simulate(rng: np.random.Generator, world: World) -> Study:
    """Draw images, networks, people and their RDMs.

    Parameters
    ----------
    rng : numpy.random.Generator
    world : World

    Returns
    -------
    Study
    """
    images, n_networks = _Images(rng, world), len(world.layers)
    shared, shared_gain = images.features(), world.shared_gain * images.log_gain()
    own = [images.features() for _ in range(n_networks)]
    spread = np.broadcast_to(world.network_gain, n_networks)
    models = []
    for k, n_layers in enumerate(world.layers):
        log_gain, rest = shared_gain + spread[k] * images.log_gain(), 1 - world.layer_share
        layers = [
            images.patterns(
                [(world.layer_share, images.features()), (rest * world.common, shared),
                 (rest * (1 - world.common), own[k])], log_gain, world.units,
            )
            for _ in range(n_layers)
        ]  # fmt: skip
        models.append(correlation_rdm(np.stack(layers)))
    people, kind = [], []
    for k, shares in enumerate(world.kinds):
        for copy in range(world.copies):
            if copy % world.cluster == 0:
                others = images.features()
                gain = world.brain_gain[copy // world.cluster % len(world.brain_gain)]
                log_gain = shared_gain + gain * images.log_gain()
            people.append(_place(images, np.array(shares), own, shared, others, log_gain))
            kind.append(k)
    return Study(models, np.stack(people, axis=1), np.array(kind))


def _place(
    images: _Images,
    shares: NDArray[np.float64],
    own: list[NDArray[np.float64]],
    shared: NDArray[np.float64],
    others: NDArray[np.float64],
    log_gain: NDArray[np.float64],
) -> NDArray[np.float64]:
    """RDMs of all people at one place, (n_people, n_pairs)."""
    world, rng, rest = images.world, images.rng, 1 - shares.sum()
    of_common = world.common if world.follow_common else 0.0
    noise = world.noise * np.exp(world.noise_by_image * rng.standard_normal((world.n_images, 1)))
    rdms = []
    for _ in range(world.n_people):
        follows = shares * np.exp(world.people_differ * rng.standard_normal(len(shares)))
        parts = [(share * (1 - of_common), values) for share, values in zip(follows, own, strict=False)]
        parts += [(follows.sum() * of_common, shared), (rest, others)]
        patterns = images.patterns(parts, log_gain, world.voxels)
        patterns += noise * rng.standard_normal(patterns.shape)
        rdms.append(correlation_rdm(patterns - patterns.mean(axis=0) if world.demean else patterns))
    return np.stack(rdms)
