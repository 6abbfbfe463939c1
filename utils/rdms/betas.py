"""Beta maps: whose they are, of which conditions and runs, and their voxels as an array.

A PATH on the command line is a file or a folder.

- A 4-D NIfTI file holds one volume per condition, in the order of the conditions.
- A folder holds 4-D files, which are runs, or 3-D files, of which each is named after its condition: `face.nii.gz`, or
  with parts that say whose and which run it is, `sub-01_run-2_face.nii.gz`. Parts `sub-…`, `ses-…` and `run-…` are no
  part of the condition's name. Or it holds, in itself or in folders below, what SPM, FSL, AFNI, nilearn or GLMsingle
  wrote: see `utils.rdms.beta_conventions`.
- Files that have the same `sub-…` in their name, or failing that in the name of a folder above, are of one subject. Any
  other PATH is a subject of its own, named after its file or folder.
- A table of conditions (`utils.rdms.condition_table`) names volumes and files whose names say something else.

Maps of one condition, within runs and between them, are averaged.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.io import glmsingle
from utils.io.readers import read_conditions, read_volume
from utils.rdms.beta_conventions import Found, find_maps, pair_hemispheres
from utils.rdms.beta_files import NOT_A_CONDITION, BetaMap, Grid, Header, read_maps, stem
from utils.rdms.condition_table import is_table, name_maps
from utils.rdms.stimuli import few, natural_key
from utils.rdms.vertices import Vertices

_SUBJECT = re.compile(r"(?<![A-Za-z0-9])sub-[A-Za-z0-9]+")


@dataclass(frozen=True)
class Subject:
    """Beta maps of one subject.

    Attributes
    ----------
    name : str
        Begins the names of what is computed from them.
    maps : tuple of BetaMap
        In the order in which they are averaged.
    """

    name: str
    maps: tuple[BetaMap, ...]

    @property
    def files(self) -> list[Path]:
        """All files, in a fixed order."""
        return list(dict.fromkeys(path for entry in self.maps for path in entry.paths))

    @property
    def runs(self) -> list[str]:
        """Names of the runs, in natural order."""
        return sorted({entry.run for entry in self.maps}, key=natural_key)

    def counts(self) -> dict[str, int]:
        """Number of maps of each condition."""
        names = [entry.condition for entry in self.maps]
        return {name: names.count(name) for name in dict.fromkeys(names)}


@dataclass(frozen=True)
class Betas:
    """Beta maps of all subjects: the same conditions on the same grid.

    Attributes
    ----------
    subjects : tuple of Subject
        In natural order of their names; of the `conditions` only.
    conditions : tuple of str
    grid : Grid or Vertices
    dtype : dtype
        What they are read as: float64 where a file holds float64 (or integers of 32 bits and more), else float32.
    notes : tuple of str
        What a user should know about how files were understood, one line each.
    """

    subjects: tuple[Subject, ...]
    conditions: tuple[str, ...]
    grid: Grid | Vertices
    dtype: np.dtype
    notes: tuple[str, ...] = field(default=())

    def load(self, subject: Subject, voxels: NDArray[np.int64]) -> NDArray:
        """Read the responses of one subject, averaged over all maps of each condition.

        A map with one value in all voxels is no response and does not count. Where a run has not measured a voxel, its
        value is the same in all maps of that run: it would shrink the average, so the voxel is NaN.

        Parameters
        ----------
        subject : Subject
        voxels : ndarray of int64, shape (n_voxels,)
            Flat indices (C order) into a volume of the grid.

        Returns
        -------
        ndarray of `dtype`, shape (n_voxels, n_conditions)
            NaN where any map is NaN.

        Raises
        ------
        InputError
            If a file cannot be read to its end, or all maps of a condition have one value in all voxels, but not those
            of other conditions.
        """
        patterns, uncovered = self._average(subject, subject.maps, voxels)
        some = np.zeros(len(voxels), dtype=bool)
        if len(uncovered) > 1:
            some = np.any(list(uncovered.values()), axis=0) & ~np.all(list(uncovered.values()), axis=0)
        if some.any():
            runs = [run for run, constant in uncovered.items() if (constant & some).any()]
            warnings.warn(
                f"subject {subject.name}: {some.sum():,} of {len(voxels):,} voxels have the same value in all "
                f"conditions of {few(runs)}, but not of other runs, and are left out",
                stacklevel=2,
            )
            patterns[some] = np.nan
        return patterns

    def load_runs(self, subject: Subject, voxels: NDArray[np.int64]) -> NDArray:
        """Read the responses of one subject in every run, averaged over the maps of each condition within it.

        Parameters
        ----------
        subject : Subject
        voxels : ndarray of int64, shape (n_voxels,)
            Flat indices (C order) into a volume of the grid.

        Returns
        -------
        ndarray of `dtype`, shape (n_voxels, n_runs, n_conditions)
            In the order of `subject.runs`. NaN where a map is NaN, where a run has no map of a condition, and for
            voxels that have the same value in all conditions of a run.

        Raises
        ------
        InputError
            As `load`.
        """
        runs = []
        for run in subject.runs:
            own = [entry for entry in subject.maps if entry.run == run]
            patterns, uncovered = self._average(subject, own, voxels)
            patterns[uncovered.get(run, np.zeros(len(voxels), dtype=bool))] = np.nan
            runs.append(patterns)
        return np.stack(runs, axis=1)

    def read(self, maps: Sequence[BetaMap], voxels: NDArray[np.int64]) -> Iterator[tuple[BetaMap, NDArray]]:
        """Each map's values at voxels, given by their flat indices in C order; see `read_maps`."""
        # Volumes lie in files with the first axis fastest.
        shape = self.grid.shape
        return read_maps(maps, np.ravel_multi_index(np.unravel_index(voxels, shape), shape, order="F"))

    def _average(
        self, subject: Subject, maps: Sequence[BetaMap], voxels: NDArray[np.int64]
    ) -> tuple[NDArray, dict[str, NDArray[np.bool_]]]:
        """Mean of the maps of each condition, and of each run which voxels do not vary between its maps.

        Runs of a single map are left out of the second. Conditions without a map are NaN.
        """
        column = {name: number for number, name in enumerate(self.conditions)}
        patterns = np.zeros((len(voxels), len(column)), dtype=self.dtype)
        counts = np.zeros(len(column), dtype=self.dtype)
        low: dict[str, NDArray] = {}
        high: dict[str, NDArray] = {}
        blank = []
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is counted and left out later
            for entry, values in self.read(maps, voxels):
                if is_blank(values):
                    blank.append(entry)
                    continue
                patterns[:, column[entry.condition]] += values
                counts[column[entry.condition]] += 1
                low[entry.run] = np.minimum(values, low.get(entry.run, values))
                high[entry.run] = np.maximum(values, high.get(entry.run, values))
            patterns /= np.where(counts > 0, counts, np.nan)
        if blank and len(blank) == len(maps):  # not a matter of single conditions
            patterns[:] = values[:, None]
        elif blank:
            self._answer_blank(subject, blank)
        runs = [entry.run for entry in maps]
        constant = {run: low[run] == high[run] for run in low if runs.count(run) > 1}
        return patterns, constant

    def _answer_blank(self, subject: Subject, blank: Sequence[BetaMap]) -> None:
        """Refuse conditions all of whose maps are blank, and warn of other blank maps."""
        total, names = subject.counts(), [entry.condition for entry in blank]
        unseen = [name for name in dict.fromkeys(names) if names.count(name) == total[name]]
        if unseen:
            first = next(entry for entry in blank if entry.condition == unseen[0])
            raise InputError(
                f"{first.path}: has one value in all voxels for {few(unseen)} of {subject.name}, as if never shown; "
                "expected responses to every condition: leave such conditions out for all subjects (`drop_incomplete`)"
            )
        warnings.warn(
            f"subject {subject.name}: {len(blank)} beta map(s) with one value in all voxels are left out of the "
            f"average ({few(list(dict.fromkeys(names)))})",
            stacklevel=4,
        )

    def on(self, grid: Grid) -> Betas:
        """The same on the grid of their mask, where their own files do not say where voxels lie."""
        return self if self.grid.has_place else replace(self, grid=grid)

    def __str__(self) -> str:
        """What was understood: subjects, runs, conditions and their repeats, so that a wrong grouping shows."""
        names = [subject.name for subject in self.subjects]
        shown = ", ".join(names if len(names) <= 4 else [*names[:2], "…", names[-1]])
        runs = _range([len(subject.runs) for subject in self.subjects])
        line = f"{len(names)} subject(s): {shown}; {len(self.conditions)} conditions, {runs} run(s) each"
        repeats = _range([n for subject in self.subjects for n in subject.counts().values()])
        maps = "" if repeats == runs else f"; {repeats} map(s) of each condition, which are averaged"
        return "\n".join([line + maps, f"conditions: {few(self.conditions)}", *self.notes])

    @property
    def files(self) -> list[Path]:
        """Files of all subjects."""
        return [path for subject in self.subjects for path in subject.files]

    def provenance(self) -> dict[str, Any]:
        """What run.json says of them."""
        return {
            "simulated": False,
            "n_subjects": len(self.subjects),
            "n_conditions": len(self.conditions),
            "grid": str(self.grid),
            "files": {subject.name: [str(path) for path in subject.files] for subject in self.subjects},
            "notes": list(self.notes),
        }


def is_blank(values: NDArray) -> bool:
    """Whether all of two or more voxels have the same value, or none that is finite."""
    if len(values) < 2:
        return False
    first = values[0]
    return bool((values == first).all()) or not np.isfinite(values).any()


def _named(names: set[str]) -> str:
    ordered: list[str] = sorted(names, key=natural_key)
    return few(ordered)


def _range(numbers: Sequence[int]) -> str:
    return f"{min(numbers)}" if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"


def find_betas(
    paths: Sequence[Path], conditions: Path | None = None, kept: Path | None = None, *, drop_incomplete: bool = False
) -> Betas:
    """Sort files into subjects, runs and conditions, and check everything that their headers tell.

    Parameters
    ----------
    paths : sequence of Path
        See the top of this module.
    conditions : Path, optional
        Text file with the names of the conditions in the order of volumes, one per line; or a table, see
        `utils.rdms.condition_table`.
    kept : Path, optional
        Such a list of the data folder that the RDMs are for, which need not exist. Conditions are put into its order;
        it names volumes that nothing else names.
    drop_incomplete : bool
        Leave conditions that any subject lacks, or of which a subject has blank maps only, out for all subjects.

    Returns
    -------
    Betas

    Raises
    ------
    InputError
        If a file is missing or unreadable; maps have no condition, conditions are missing or not those of `kept`; files
        are on different grids; or subjects cannot be told apart.
    """
    files = Found()
    found = _by_subject(paths, files)
    headers = files.headers
    kept = kept if kept is not None and kept.is_file() else None
    notes = files.notes()
    listed: list[str] | None = None
    if conditions is not None and is_table(conditions):
        found, listed, line = name_maps(conditions, found)
        notes += [line] if line else []
    elif (source := conditions or kept) is not None:
        listed = read_conditions(source)
        found = {name: _named_by_position(maps, listed, headers, source) for name, maps in found.items()}
    _check_named(found)
    found = {name: [e for e in maps if e.condition != NOT_A_CONDITION] for name, maps in found.items()}
    first = next((path for path, header in headers.items() if header.grid.has_place), next(iter(headers)))
    for path, header in headers.items():
        if not header.grid.equals(headers[first].grid):
            raise InputError(
                f"{path}: is on a grid of {header.grid}, expected {headers[first].grid} as in {first}; "
                "bring all beta maps to one grid first"
            )
    grid = headers[first].grid
    if isinstance(grid, Vertices):
        alone = f"; there are no maps of the {'right' if grid.left else 'left'} hemisphere" * (len(grid.sides) == 1)
        notes.append(f"{grid}{alone}")
    subjects = [Subject(name, tuple(maps)) for name, maps in found.items()]
    names, dropped = _complete(subjects, listed, conditions or kept, drop_incomplete)
    notes += [f"left out for all, as not every subject has them: {few(dropped)}"] if dropped else []
    if kept is not None:
        names, line = _in_kept_order(names, kept, paths[0])
        notes += [line] if line else []
    left = set(names)
    subjects = [replace(s, maps=tuple(entry for entry in s.maps if entry.condition in left)) for s in subjects]
    notes += _unequal(subjects, names)
    exact = any(np.result_type(header.dtype, np.float32) != np.float32 for header in headers.values())
    dtype = np.dtype(np.float64 if exact else np.float32)
    return Betas(tuple(subjects), tuple(names), grid, dtype, tuple(notes))


def _by_subject(paths: Sequence[Path], files: Found) -> dict[str, list[BetaMap]]:
    """Maps of every subject, both in natural order; fills `files`."""
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give one 4-D NIfTI file or one folder per subject")
    repeated = sorted({str(path) for path in paths if list(paths).count(path) > 1})
    if repeated:
        raise InputError(f"`betas`: {', '.join(repeated)} is given more than once; give every file or folder once")
    # Whose maps are by their own names, else by the one folder, of those below the PATH, that they were found in.
    owners: list[tuple[Path, BetaMap]] = []
    for path in paths:
        before = len(files.maps)
        find_maps(path, files)
        folders = {owner for owner, _ in files.maps[before:]}
        owners += [(path if len(folders) == 1 else owner, entry) for owner, entry in files.maps[before:]]
    owners = pair_hemispheres(owners, files)
    own = _own_names(list(dict.fromkeys(owner for owner, entry in owners if not subject_token(entry.path))))
    if len(own) > 1 and all(re.fullmatch(r"run[-_]?\d+([-_].*)?", name) for name in own.values()):
        warnings.warn(
            f"`betas`: {few(list(own.values()))} are taken for {len(own)} subjects, as no name says sub-…; if they "
            "are runs of one subject, put them into one folder, such as sub-01",
            stacklevel=3,
        )
    grouped: dict[str, list[BetaMap]] = {}
    for owner, entry in owners:
        grouped.setdefault(subject_token(entry.path) or own[owner], []).append(entry)
    return {name: grouped[name] for name in sorted(grouped, key=natural_key)}


def subject_token(path: Path) -> str:
    """`sub-…` in the name of a file, or failing that of a folder above; empty if there is none."""
    for part in (path.name, *reversed(path.parent.parts)):
        found = _SUBJECT.findall(part)
        if found:
            return str(found[-1])
    return ""


def _own_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Names of subjects whose paths do not tell: of their files or folders, else of the folders above."""
    names: list[str] = []
    for name_of in (stem, lambda path: path.absolute().parent.name):
        names = [name_of(path) for path in paths]
        if len(set(names)) == len(names) and all(names):
            return dict(zip(paths, names, strict=True))
    raise InputError(
        f"`betas`: cannot tell subjects apart, as files are named alike ({', '.join(sorted(set(names)))}); "
        "put the subject into the names of files or folders, such as sub-01"
    )


def _named_by_position(
    maps: Sequence[BetaMap], names: Sequence[str], headers: dict[Path, Header], source: Path
) -> list[BetaMap]:
    """Give the volumes of 4-D files the names of a list, in its order."""
    designs = [entry for entry in maps if glmsingle.is_output(entry.path) and entry.condition]
    n_designed = max((int(entry.condition) for entry in designs), default=0)
    if n_designed > len(names):
        raise InputError(
            f"{source}: names {len(names)} conditions, but the design of {designs[0].path} has {n_designed}; expected "
            "one name for each, in its order"
        )
    for path in dict.fromkeys(entry.path for entry in maps if not entry.condition):
        if headers[path].n_volumes != len(names):
            raise InputError(
                f"{path}: holds {headers[path].n_volumes} volumes, expected {len(names)}, one for each condition of "
                f"{source}"
            )

    def name(entry: BetaMap) -> str:
        if not entry.condition:
            return names[entry.index]
        return names[int(entry.condition) - 1] if glmsingle.is_output(entry.path) else entry.condition

    return [replace(entry, condition=name(entry)) for entry in maps]


def _check_named(found: dict[str, list[BetaMap]]) -> None:
    """Make sure that each map has a condition."""
    unnamed = next((entry for maps in found.values() for entry in maps if not entry.condition), None)
    if unnamed is None:
        return
    if glmsingle.is_output(unnamed.path):
        raise InputError(
            f"{unnamed.path.parent}: GLMsingle's betas are here without its design, which says what each trial showed; "
            "expected DESIGNINFO.npy or DESIGNINFO.mat beside them, or a table of `conditions`"
        )
    single = not any(entry.path == unnamed.path and entry.index for maps in found.values() for entry in maps)
    if single:
        raise InputError(
            f"{unnamed.path}: is a single volume, and its name says no condition; expected a 4-D file with one volume "
            "per condition, 3-D files named like face_run-01.nii.gz, or a table of `conditions`"
        )
    raise InputError(
        f"{unnamed.path}: a 4-D file does not say which volume is which condition; "
        "give a file with their names in order, one per line, or a table, as `conditions`"
    )


def _complete(
    subjects: Sequence[Subject], listed: Sequence[str] | None, source: Path | None, drop: bool
) -> tuple[list[str], list[str]]:
    """Conditions that every subject has, in the order of the list or else in natural order, and those left out."""
    everything = {entry.condition for subject in subjects for entry in subject.maps}
    if listed is not None and everything - set(listed):
        subject = next(s for s in subjects if set(s.counts()) - set(listed))
        raise InputError(
            f"subject {subject.name} ({subject.files[0].parent}): has beta maps of "
            f"{_named(set(subject.counts()).difference(listed))}, expected the {len(listed)} conditions of {source}"
        )
    names = list(listed) if listed is not None else sorted(everything, key=natural_key)
    lacking: dict[str, list[str]] = {}
    for subject in subjects:
        seen = set(subject.counts()) - (set(_blank_conditions(subject)) if drop else set())
        missing = [name for name in names if name not in seen]
        if missing:
            lacking[subject.name] = missing
    dropped = [name for name in names if any(name in missing for missing in lacking.values())]
    if dropped and not drop:
        who = "; ".join(f"{name} has no beta map of {few(missing)}" for name, missing in list(lacking.items())[:3])
        more = f"; and {len(lacking) - 3} more subjects" if len(lacking) > 3 else ""
        raise InputError(
            f"{subjects[0].files[0].parent}: {who}{more}; expected every condition at least once in every subject: "
            "check the names, or leave such conditions out for all subjects (`drop_incomplete`)"
        )
    left = [name for name in names if name not in dropped]
    if len(left) < 2:
        raise InputError(
            f"{subjects[0].files[0]}: {len(left)} condition(s) that every subject has ({few(left) or 'none'}), "
            "expected two or more: 3-D files named after them, or a 4-D file"
        )
    return left, dropped


def _blank_conditions(subject: Subject) -> list[str]:
    """Conditions whose maps all have one value throughout, unless all maps do."""
    blank = [entry.condition for entry, values in read_maps(subject.maps, slice(None)) if is_blank(values)]
    return (
        [name for name, n in subject.counts().items() if blank.count(name) == n]
        if len(blank) < len(subject.maps)
        else []
    )


def _in_kept_order(names: Sequence[str], kept: Path, source: Path) -> tuple[list[str], str]:
    """Conditions in the order of the data folder, and a line that says so where it is another."""
    order = read_conditions(kept)
    only_kept, only_here = set(order) - set(names), set(names) - set(order)
    if only_kept or only_here:
        parts = [f"has {_named(only_kept)}, of which there are no beta maps"] * bool(only_kept)
        parts += [f"lacks {_named(only_here)}, of which there are beta maps"] * bool(only_here)
        raise InputError(
            f"{kept}: {' and '.join(parts)} ({source}); RDMs in one data folder must be of the same conditions: "
            "name them alike (`conditions`), or give another folder as `out`"
        )
    line = "" if list(names) == order else f"conditions are put into the order of {kept}, by their names"
    return order, line


def _unequal(subjects: Sequence[Subject], names: Sequence[str]) -> list[str]:
    """A line on conditions that runs lack, if they do."""
    gaps = {
        subject.name: len(subject.runs) * len(names) - len({(entry.run, entry.condition) for entry in subject.maps})
        for subject in subjects
    }
    gaps = {name: gap for name, gap in gaps.items() if gap}
    if not gaps:
        return []
    named = few([f"{name} ({gap})" for name, gap in gaps.items()])
    return [
        f"runs without some conditions: {named} (subject, and how many conditions are missing in all its runs together)"
    ]


def read_mask(path: Path, betas: Betas | None = None) -> tuple[NDArray[np.bool_], Grid]:
    """Read a brain mask, inside where values are greater than zero.

    Parameters
    ----------
    path : Path
    betas : Betas, optional
        Beta maps on whose grid it has to be.

    Returns
    -------
    inside : ndarray of bool, shape (X, Y, Z)
    grid : Grid

    Raises
    ------
    InputError
        If the file is unreadable, no voxel is inside, or the grid is another.
    """
    data, affine = read_volume(path)
    inside = np.nan_to_num(data) > 0
    if not inside.any():
        raise InputError(f"{path}: not a single voxel is inside (greater than 0); give the brain mask of the beta maps")
    grid = Grid(inside.shape, affine)
    if betas is not None and not grid.equals(betas.grid):
        raise InputError(
            f"{path}: is on a grid of {grid}, but the beta maps ({betas.subjects[0].name}) are on one of "
            f"{betas.grid}; resample it to theirs (nearest neighbour)"
        )
    return inside, grid
