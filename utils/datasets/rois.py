"""ROI RDMs, and the volume in which the ROIs lie."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.datasets.layout import Sources, longest_names
from utils.io.data_folder import DataFolder, roi_of
from utils.io.readers import check_n_conditions, check_n_people, choose, read_rdms
from utils.io.roi_tables import read_roi_table
from utils.rdm import Pairs, pair_permutation
from utils.rdms.atlas import Atlas, Hemisphere, read_atlas
from utils.rdms.surface_labels import SurfaceLabels, is_surface, read_surface_labels
from utils.stats.noise_ceiling import noise_ceiling

# The 15 regions of the paper's figures, in its order.
PAPER_ROIS = (
    "V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4", "VO1", "VO2", "PHC1", "PHC2", "LO2", "LO1", "V3b", "V3a",
)  # fmt: skip


@dataclass(frozen=True)
class RoiRdms:
    """ROI RDMs: per ROI its name, number in the atlas, and subjects' RDMs, float64 of shape (n_subjects, n_pairs)."""

    names: list[str]
    ids: list[int]
    subjects: list[NDArray[np.float64]]

    def mean(self) -> NDArray[np.float64]:
        """Mean RDM over subjects, (n_rois, n_pairs)."""
        return self.fitted(by_person=False)[0]

    def fitted(self, by_person: bool, places: Iterable[int] | None = None) -> NDArray[np.float64]:
        """What models are fitted to, (n_people, n_rois, n_pairs): the mean RDM as that of one person, or everyone's.

        Of all ROIs, or of those whose numbers are given.
        """
        subjects = self.subjects if places is None else [self.subjects[i] for i in places]
        return np.stack(subjects, axis=1) if by_person else np.stack([rdms.mean(axis=0) for rdms in subjects])[None]

    def ceilings(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper noise ceiling (mean Spearman correlation) of each ROI; NaN for a single subject."""
        both = [noise_ceiling(rdms[:, None]) if len(rdms) > 1 else (np.array([np.nan]),) * 2 for rdms in self.subjects]
        return np.concatenate([low for low, _ in both]), np.concatenate([high for _, high in both])


def load_rois(
    sources: Sources,
    n_conditions: int,
    names: Sequence[str] | None = None,
    pairs: Pairs | None = None,
    n_people: int | None = None,
) -> RoiRdms:
    """Read and check the ROI RDMs of all subjects.

    Parameters
    ----------
    sources : Sources
    n_conditions : int
        Number of conditions that the models have.
    names : sequence of str, optional
        ROIs to use, in this order; by default the paper's 15 where the table has them all, otherwise all.
    pairs : Pairs, optional
        The pairs that count, in the order of the model RDMs, if not all.
    n_people : int, optional
        Number of people that have models of their own.

    Returns
    -------
    RoiRdms

    Raises
    ------
    InputError
        For an unknown ROI, a table without its columns, missing files, or files that do not hold RDMs, or not those of
        as many people as there are models for.
    """
    assert sources.roi_labels is not None
    table = list(read_roi_table(sources.roi_labels).items())
    known = [name for _, name in table]
    if names is None:
        names = PAPER_ROIS if set(PAPER_ROIS) <= set(known) else known
    chosen = choose(names, table, known, "ROI")
    files = _roi_files(sources.fmri_rdms, known)
    missing = [name for _, name in chosen if name not in files]
    if missing:
        raise InputError(
            f"{sources.fmri_rdms}: no RDM file for {len(missing)} ROI(s) of {sources.roi_labels.name}: "
            f"{', '.join(missing)}; expected <roi>.mat or <roi>.npy"
        )
    subjects, order = [], sources.fmri_order()
    own, moved = _in_order(pairs, order)
    for _, name in chosen:
        rdms = np.atleast_2d(read_rdms(files[name], "subject_rdm", f"ROI {name}", own))
        if pairs is None:
            check_n_conditions(files[name], rdms.shape[-1], n_conditions)
        check_n_people(files[name], len(rdms), n_people)
        subjects.append(rdms if moved is None else rdms[:, moved])
    return RoiRdms([name for _, name in chosen], [number for number, _ in chosen], subjects)


def _in_order(pairs: Pairs | None, order: NDArray[np.int64] | None) -> tuple[Pairs | None, NDArray[np.int64] | None]:
    """The pairs that count in the order of the fMRI RDMs, and what brings these RDMs into that of the model RDMs."""
    if order is None:
        return pairs, None
    if pairs is None:
        return None, pair_permutation(order)
    own = pairs.reordered(np.argsort(order))
    return own, pairs.permutation(order, own)


def _roi_files(folder: Path, known: Sequence[str]) -> dict[str, Path]:
    """File of each ROI: named like it, or else with its name as whole words anywhere in the file's name."""
    files: dict[str, list[Path]] = {}
    others = []
    for path in sorted(folder.iterdir()):
        if path.suffix in (".mat", ".npy") and not path.name.startswith("."):
            if (name := roi_of(path)) in known:
                files.setdefault(name, []).append(path)
            else:
                others.append(path)
    exact = set(files)
    for path in others:
        names = [name for name in longest_names(path.stem, known) if name not in exact]
        if len(names) > 1:
            raise InputError(
                f"{path}: its name holds the names of {len(names)} ROIs, {' and '.join(sorted(names))}; rename it"
            )
        for name in names:
            files.setdefault(name, []).append(path)
    for paths in files.values():
        if len(paths) > 1:
            raise InputError(f"{folder}: {paths[0].name} and {paths[1].name} are of one ROI; keep one of them")
    return {name: path for name, (path,) in files.items()}


def load_atlas(sources: Sources) -> Atlas | SurfaceLabels | None:
    """Read where the ROIs lie.

    Parameters
    ----------
    sources : Sources

    Returns
    -------
    Atlas, SurfaceLabels or None
        A volume, or labels of vertices. None where the data set has neither.

    Raises
    ------
    InputError
        As `utils.rdms.atlas.read_atlas` and `utils.rdms.surface_labels.read_surface_labels`.
    """
    if not sources.atlas:
        return None
    if is_surface(sources.atlas[0]):
        names = None if sources.roi_labels is None else read_roi_table(sources.roi_labels)
        folder, own = DataFolder(sources.atlas[0].parent), list(sources.atlas)
        # Of data of one hemisphere, the data folder has only the labels of that.
        hemisphere: Hemisphere = "both"
        if own in ([folder.atlas_half("left")], [folder.atlas_half("right")]):
            hemisphere = "left" if own == [folder.atlas_half("left")] else "right"
        return read_surface_labels(own, names, hemisphere)
    atlas = read_atlas(sources.atlas, table=sources.roi_labels)
    return atlas if sources.space is None else replace(atlas, space=sources.space)
