"""What a pilot study says of a planned one: how many images and people there were, and how reliable their mean RDMs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.datasets.layout import load_pairs, locate
from utils.datasets.models import load_models
from utils.datasets.rois import load_rois
from utils.datasets.searchlights import load_searchlights
from utils.io.data_folder import DataFolder
from utils.parallel.resources import Progress, ignore
from utils.stats.comparison import Comparison
from utils.stats.noise_ceiling import reliability


@dataclass(frozen=True)
class Pilot:
    """A measured study.

    Attributes
    ----------
    n_images, n_people : int
    places : str
        What the reliabilities are of: "ROIs" or "searchlights".
    reliability : ndarray of float64, shape (n_places,)
        Of the mean RDM of each place.
    """

    n_images: int
    n_people: int
    places: str
    reliability: NDArray[np.float64]


def read_pilot(folder: Path, comparison: Comparison, progress: Progress = ignore) -> Pilot:
    """Read a data folder, in either layout: its ROIs, or its searchlights where it has no ROIs.

    Parameters
    ----------
    folder : Path
    comparison : {"whitened", "plain", "without_condition_effects"}
        In which RDMs are reliable.
    progress : callable, optional
        Called with (searchlights done, searchlights in all).

    Returns
    -------
    Pilot

    Raises
    ------
    InputError
        If something is missing or unreadable, or the RDMs are those of a single person.
    """
    if not folder.is_dir():
        raise InputError(f"`pilot`: folder {folder} does not exist; give a data folder in the layout of data/README.md")
    has_rois = DataFolder(folder).find("roi_rdms") is not None
    sources = locate("roi" if has_rois else "searchlight", folder)
    if (pairs := load_pairs(sources)) is not None and not pairs.kept.all():
        raise InputError(
            f"{sources.pairs}: a study of which pairs are left out cannot be a pilot; give `reliability` instead"
        )
    models = load_models(sources)
    if models.by_person:
        raise InputError(
            f"{sources.dnn_rdms}: a study whose model RDMs differ between people cannot be a pilot, since models are "
            "simulated that are the same for everyone; give `reliability` instead"
        )
    n_images = models.n_conditions
    if has_rois:
        people = load_rois(sources, n_images).subjects
        n_people = min(len(rdms) for rdms in people)
        values = np.concatenate([reliability(rdms[:n_people, None], comparison) for rdms in people])
    else:
        brain = load_searchlights(sources, n_images, progress)
        n_people = brain.n_subjects
        parts = [reliability(rdms[:, brain.usable[block]], comparison) for block, rdms in brain.blocks()]
        values = np.concatenate(parts)
    values = values[np.isfinite(values)]
    if not values.size:
        raise InputError(
            f"{sources.fmri_rdms}: the reliability of a mean RDM needs the RDMs of two or more people; "
            "give `reliability` instead of a pilot"
        )
    return Pilot(n_images, n_people, "ROIs" if has_rois else "searchlights", values)
