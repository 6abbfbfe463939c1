"""How RDMs are made from the responses of a subject: the metric, and the noise that distances are in units of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from utils import InputError
from utils.rdm import METRICS, pattern_rdms
from utils.rdms.beta_files import BetaMap, read_header
from utils.rdms.betas import Betas, Subject, subject_token
from utils.rdms.cross_validated import CROSS_VALIDATED, cross_validated_rdms, deviations, noise_normalised_rdms, prepare
from utils.rdms.stimuli import few

ALL_METRICS = (*METRICS, *CROSS_VALIDATED)


@dataclass(frozen=True)
class Measure:
    """How RDMs are made from responses.

    Attributes
    ----------
    metric : str
        One of `ALL_METRICS`.
    center : bool
        Subtract the mean over conditions from every voxel first; for correlations and cosines.
    noise : {"none", "runs"} or dict of str to tuple of Path
        What crossnobis distances are in units of: nothing, the deviations of runs from each other, or residuals of each
        subject, in 4-D files.
    """

    metric: str = "correlation"
    center: bool = False
    noise: str | Mapping[str, tuple[Path, ...]] = "none"

    @property
    def cross_validated(self) -> bool:
        """Whether runs are needed one by one."""
        return self.metric in CROSS_VALIDATED

    def residual_files(self, subject: str) -> tuple[Path, ...]:
        """Files of residuals of a subject."""
        return () if isinstance(self.noise, str) else self.noise[subject]

    def load(self, betas: Betas, subject: Subject, voxels: NDArray[np.int64]) -> Responses:
        """Read what RDMs of a subject are made from.

        Raises
        ------
        InputError
            As `Betas.load`; and if residuals cannot be read or are of another grid.
        """
        if not self.cross_validated:
            return Responses(betas.load(subject, voxels))
        runs = betas.load_runs(subject, voxels)
        values, present = prepare(runs, self.metric)
        if self.noise == "none":
            return Responses(values, present)
        noise = (
            deviations(runs)
            if self.noise == "runs"
            else _read_residuals(betas, self.residual_files(subject.name), voxels)
        )
        return Responses(values, present, *noise)

    def rdms(self, responses: Responses) -> NDArray:
        """RDMs of a stack of locations.

        Parameters
        ----------
        responses : Responses
            With an axis of locations before that of voxels.

        Returns
        -------
        ndarray, shape (n, n_pairs)
        """
        if not self.cross_validated:
            return np.asarray(pattern_rdms(responses.patterns.swapaxes(1, 2), self.metric, center=self.center))
        return cross_validated_rdms(
            responses.patterns, responses.present, self.metric, responses.residuals, responses.dof
        )

    def overlapping_rdms(self, responses: Responses, members: NDArray[np.integer]) -> NDArray:
        """RDMs, in units of noise, of locations that share voxels.

        Parameters
        ----------
        responses : Responses
            With residuals, of all voxels of the locations.
        members : ndarray of int, shape (n, any)
            Those of each location; -1 is none.

        Returns
        -------
        ndarray, shape (n, n_pairs)
        """
        noise = responses.residuals
        assert noise is not None  # for mypy
        return noise_normalised_rdms(responses.patterns, responses.present, noise, responses.dof, members)


PEARSON = Measure()


@dataclass(frozen=True)
class Responses:
    """What RDMs of a subject are made from.

    Attributes
    ----------
    patterns : ndarray, shape (n_voxels, n_conditions) or (n_voxels, n_runs, n_conditions)
        The latter as from `utils.rdms.cross_validated.prepare`.
    present : ndarray of bool, shape (n_runs, n_conditions)
        Where there are responses, of runs.
    residuals : ndarray, shape (n_voxels, n_residuals), or None
        Noise of the voxels, centred.
    dof : float
        Degrees of freedom of the residuals.
    """

    patterns: NDArray
    present: NDArray[np.bool_] = field(default_factory=lambda: np.ones((0, 0), dtype=bool))
    residuals: NDArray | None = None
    dof: float = 0

    def __getitem__(self, voxels: NDArray) -> Responses:
        """Of some voxels; any number of axes may take the place of that of voxels."""
        residuals = None if self.residuals is None else self.residuals[voxels]
        return Responses(self.patterns[voxels], self.present, residuals, self.dof)

    def astype(self, dtype: DTypeLike) -> Responses:
        """In another precision."""
        residuals = None if self.residuals is None else self.residuals.astype(dtype, copy=False)
        return Responses(self.patterns.astype(dtype, copy=False), self.present, residuals, self.dof)

    @property
    def values(self) -> NDArray:
        """All responses there are, (n_voxels, n_responses)."""
        flat = self.patterns if self.patterns.ndim == 2 else self.patterns[:, self.present]
        if self.residuals is None or np.isfinite(self.residuals).all():
            return flat
        return np.where(np.isfinite(self.residuals).all(axis=1)[:, None], flat, np.nan)

    @property
    def size_of_voxel(self) -> int:
        """Values of each voxel."""
        return int(np.prod(self.patterns.shape[1:])) + (0 if self.residuals is None else self.residuals.shape[1])


def find_measure(metric: str, center: bool, noise: Sequence[str] | None, betas: Betas) -> Measure:
    """Check that RDMs can be made in this way, and find the residuals of every subject.

    Parameters
    ----------
    metric : str
        One of `ALL_METRICS`.
    center : bool
    noise : sequence of str, optional
        "none", "runs" (by default, for crossnobis), or names of files with residuals, each with the subject in its name
        or in that of a folder above.
    betas : Betas

    Returns
    -------
    Measure

    Raises
    ------
    InputError
        If there is noise for another metric than crossnobis, a subject has too few runs or no residuals, or residuals
        are of no subject.
    """
    if noise is not None and metric != "crossnobis":
        raise InputError(f"`noise` is for the metric crossnobis, but the metric is {metric}; leave it out")
    if metric not in CROSS_VALIDATED:
        return Measure(metric, center)
    if center and metric == "crossnobis":
        raise InputError("`center` does not change crossnobis distances, which are of differences; leave it out")
    if center:
        raise InputError("`center` is not for cross-validated correlations; subtract the mean of each run beforehand")
    for subject in betas.subjects:
        _check_runs(subject, betas.conditions)
    if metric != "crossnobis":
        return Measure(metric)
    words = list(noise or ["runs"])
    if words in (["none"], ["runs"]):
        return Measure(metric, noise=words[0])
    paths = [Path(word) for word in words]
    names = [subject.name for subject in betas.subjects]
    of: dict[str, tuple[Path, ...]] = dict.fromkeys(names, ())
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected residuals (4-D NIfTI), or `noise` runs or none")
        name = names[0] if len(names) == 1 else subject_token(path)
        if name not in of:
            raise InputError(
                f"{path}: is of no subject of the beta maps ({few(names)}); expected residuals with one of them in the "
                "name, such as sub-01"
            )
        header = read_header(path)
        if not header.grid.equals(betas.grid) or header.n_volumes < 2:
            raise InputError(
                f"{path}: holds {header.n_volumes} volume(s) on a grid of {header.grid}, expected a time series of "
                f"residuals on that of the beta maps, {betas.grid}"
            )
        of[name] += (path,)
    lacking = [name for name, files in of.items() if not files]
    if lacking:
        raise InputError(f"`noise` has no residuals of {few(lacking)}, expected some of every subject; add their files")
    return Measure(metric, noise=of)


def _check_runs(subject: Subject, conditions: Sequence[str]) -> None:
    """Make sure that each pair of conditions is in two runs or more."""
    if len(subject.runs) < 2:
        raise InputError(
            f"{subject.files[0]}: subject {subject.name} has one run, expected two or more for cross-validated "
            "distances; give its runs as files of their own, or a column run in a table of `conditions`, or take "
            "another `metric`"
        )
    there = {(entry.run, entry.condition) for entry in subject.maps}
    present = np.array([[(run, name) in there for name in conditions] for run in subject.runs], dtype=int)
    rows, columns = np.nonzero(np.triu(present.T @ present < 2, k=1))
    if len(rows):
        first, second = conditions[rows[0]], conditions[columns[0]]
        raise InputError(
            f"{subject.files[0]}: subject {subject.name} has fewer than two runs with both {first} and {second} "
            f"({len(rows)} such pair(s)), which cross-validated distances need; leave conditions out, or take another "
            "`metric`"
        )


def _read_residuals(betas: Betas, files: Sequence[Path], voxels: NDArray[np.int64]) -> tuple[NDArray, int]:
    """Residuals (n_voxels, n_residuals) without the mean of each file, and their degrees of freedom."""
    parts = []
    for path in files:
        maps = [BetaMap(path, index) for index in range(read_header(path).n_volumes)]
        series = np.stack([values for _, values in betas.read(maps, voxels)], axis=1).astype(betas.dtype, copy=False)
        parts.append(series - series.mean(axis=1, keepdims=True))
    residuals = np.concatenate(parts, axis=1)
    return residuals, residuals.shape[1] - len(files)
