"""Searchlight RDMs of all subjects on disk, computed by threads of this process or by Dask workers.

Everything is written to a hidden folder inside `searchlight_rdms`, a file per subject, and moves out of it when all
subjects and the noise ceilings are complete: until then the results of an earlier run stay as they were. Subjects that
are finished, there or from an earlier run, are not computed again while their inputs stay the same.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from utils import InputError
from utils.io.data_folder import RECORD, DataFolder, SearchlightFolder, SurfaceFolder
from utils.io.output import (
    Outputs,
    read_record,
    staged,
    write_ceilings,
    write_conditions,
    write_rows,
    written_whole,
)
from utils.io.provenance import fingerprint
from utils.io.readers import open_array, read_ceilings
from utils.parallel.resources import Progress
from utils.rdm import n_pairs_of
from utils.rdms.beta_files import read_header
from utils.rdms.betas import Betas, Subject, read_mask
from utils.rdms.discs import Discs
from utils.rdms.measure import PEARSON, Measure, Responses
from utils.rdms.searchlights import MIN_VOXELS, Searchlights, member_rdms, slices, usable_voxels
from utils.rdms.stimuli import few
from utils.rdms.vertices import Meshes, keep_meshes
from utils.stats.noise_ceiling import noise_ceiling

if TYPE_CHECKING:
    from utils.parallel.dask_workers import Workers

# Changes when the same inputs would give other numbers.
_VERSION = 1
_PIECE_BYTES = 8 * 2**20  # of RDMs that a thread computes before it writes them
_CEILING_BYTES = 4 * 2**20  # of RDMs that a thread computes noise ceilings of at a time


@dataclass(frozen=True)
class SearchlightJob:
    """What is to be computed.

    Attributes
    ----------
    betas : Betas
    mask : ndarray of bool, shape (X, Y, Z), or None
        Brain mask on their grid, to be kept in the data folder; vertices have none.
    searchlights : Searchlights or Discs
    measure : Measure
        How RDMs are made from responses.
    min_voxels : int
        Searchlights with fewer usable voxels have no RDM: theirs is NaN.
    exact : bool
        Compute in float64 whatever the precision of the beta maps.
    memory : int, optional
        Bytes for the responses of subjects: the next one is read ahead only if two fit.
    meshes : Meshes, optional
        Of vertices, to be kept in the data folder.
    """

    betas: Betas
    mask: NDArray[np.bool_] | None
    searchlights: Searchlights | Discs
    measure: Measure = PEARSON
    min_voxels: int = MIN_VOXELS
    exact: bool = False
    memory: int | None = None
    meshes: Meshes | None = None

    def bytes_of_subject(self) -> int:
        """Memory that the responses of a subject take, at most: maps, and residuals where there are any."""
        values = max(
            (len(subject.runs) if self.measure.cross_validated else 1) * len(self.betas.conditions)
            + sum(read_header(path).n_volumes for path in self.measure.residual_files(subject.name))
            for subject in self.betas.subjects
        )
        return values * len(self.searchlights.voxels) * self.betas.dtype.itemsize

    @property
    def shape(self) -> tuple[int, int]:
        """Searchlights and pairs of conditions."""
        return len(self.searchlights), n_pairs_of(len(self.betas.conditions))

    def pieces(self) -> list[slice]:
        """Searchlights in pieces that bound the memory of a thread."""
        members = 16 * self.searchlights.width
        return slices(len(self.searchlights), _PIECE_BYTES // max(4 * self.shape[1], members))

    def load(self, subject: Subject) -> Responses:
        """Read the responses of a subject that searchlights are made from."""
        return self.measure.load(self.betas, subject, self.searchlights.voxels)

    def rdms(
        self,
        responses: Responses,
        lookup: NDArray[np.int32],
        piece: slice,
        each: Callable[..., Iterator[None]] = map,
    ) -> NDArray[np.float32]:
        """RDMs of some searchlights, (n, n_pairs), from a subject's responses; `each` as for `member_rdms`."""
        return member_rdms(
            responses,
            self.searchlights.members(lookup, piece),
            self.measure,
            min_voxels=self.min_voxels,
            dtype=np.float64 if self.exact else None,
            each=each,
        )


@dataclass(frozen=True)
class Written:
    """What a run did.

    Attributes
    ----------
    rows : list of dict
        One per subject: subject, searchlights, without_rdm, voxels, usable, not_finite, constant.
    n_computed : int
        Subjects computed now; the others were there.
    files : list of Path
        All files that there are now.
    places : str
        What searchlights are made of: voxels or vertices.
    """

    rows: list[dict[str, Any]]
    n_computed: int
    files: list[Path]
    places: str = "voxels"

    def __str__(self) -> str:
        """What was computed and what was left out, for people."""
        kept = len(self.rows) - self.n_computed
        first = self.rows[0]
        lines = [f"{first['searchlights']:,} searchlights of {len(self.rows)} subject(s)"]
        lines[0] += f", {kept} of them kept from an earlier run" if kept else ""
        for kind, title in (("not_finite", "NaN or infinite"), ("constant", "the same in all conditions")):
            counts = [row[kind] for row in self.rows]
            if max(counts):
                some = f"{max(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
                lines.append(
                    f"  left out: {some} of {first['voxels']:,} {self.places} per subject, as they are {title}"
                )
        return "\n".join(lines)


def write_searchlight_rdms(
    job: SearchlightJob,
    data: DataFolder,
    record: Callable[[Mapping[str, Any]], dict[str, Any]],
    *,
    threads: int,
    progress: Progress,
    fresh: bool = False,
    workers: Workers | None = None,
) -> Written:
    """Compute the searchlight RDMs of all subjects that are not finished, and put the results in place.

    Parameters
    ----------
    job : SearchlightJob
    data : DataFolder
        RDMs go to its `searchlight_rdms`; mask and names of conditions beside that.
    record : callable
        Makes what run.json holds from a description of the data, as `utils.io.provenance.provenance` does.
    threads : int
    progress : callable
        Called with (steps done, steps in all).
    fresh : bool
        Keep nothing of earlier runs.
    workers : Workers, optional
        Compute the RDMs in place of threads. The files are the same, byte for byte.

    Returns
    -------
    Written

    Raises
    ------
    InputError
        If the folder holds other subjects, is in use, or cannot be written; if the beta maps of a subject cannot be
        read or have no usable voxel; and as `workers.run`.
    """
    folder = SearchlightFolder(data.searchlight_rdms)
    with staged(folder.folder, resume=True) as outputs, _threads(threads) as pool:
        _refuse_others(job, folder, fresh)
        run = _Run(job, folder, outputs, pool, progress, fresh)
        run.compute_subjects(workers)
        run.compute_ceilings()
        rows = run.write_shared()
        described = {**job.betas.provenance(), "space": job.searchlights.geometry.space}
        described["n_searchlights"] = len(job.searchlights)
        described |= {} if workers is None else {"dask_workers": workers.n_workers}
        files = outputs.publish({**record(described), "subjects": run.notes}, keep=run.names())
        files += _write_beside(job, data, outputs)
    _warn_of_missing(rows, job, folder)
    return Written(rows, len(run.todo), files, "vertices" if job.searchlights.geometry.vertices else "voxels")


@contextmanager
def _threads(n: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that share the cores, in whose way those of BLAS would be; after an error, what waits is given up."""
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _refuse_others(job: SearchlightJob, folder: SearchlightFolder, fresh: bool) -> None:
    """Every .npy file in the folder counts as a subject: none may be there that is not of this run."""
    own = {subject.name for subject in job.betas.subjects}
    others = [path.name for path in folder.all_rdms() if path.stem not in own]
    if fresh:
        others = [name for name in others if name not in read_record(folder.folder / RECORD)["files"]]
    if others:
        raise InputError(
            f"{folder.folder}: holds {few(others)}, which belong to none of the {len(own)} subject(s) given; "
            "give all subjects in one call, or another `out`, or remove "
            + ("these files" if fresh else "what an earlier call wrote with `fresh`")
        )


class _Run:
    """The steps of `write_searchlight_rdms`, and what they share.

    `notes` has the fingerprint of the inputs and the row of the table for each subject that is finished.
    """

    def __init__(
        self,
        job: SearchlightJob,
        folder: SearchlightFolder,
        outputs: Outputs,
        pool: ThreadPoolExecutor,
        progress: Progress,
        fresh: bool,
    ) -> None:
        self.job, self.folder, self.outputs, self.pool = job, folder, outputs, pool
        self.prints = _fingerprints(job, pool)
        in_place, staged = ({} if fresh else self._finished(place) for place in (outputs.folder, outputs.staging))
        self.notes: dict[str, dict[str, Any]] = {**in_place, **staged}
        for path in outputs.staging.rglob("[!.]*"):
            if path.is_file() and path.relative_to(outputs.staging).as_posix() not in self._names(*staged):
                path.unlink()
        self.todo = [subject for subject in job.betas.subjects if subject.name not in self.notes]
        self.total, self.done = len(job.searchlights) * (len(self.todo) + (len(job.betas.subjects) > 1)), 0
        self.progress = progress

    def _finished(self, place: Path) -> dict[str, dict[str, Any]]:
        """Notes on the subjects whose RDMs in a folder are whole and of the same inputs."""
        notes = read_record(place / RECORD).get("subjects", {})
        same = [name for name, digest in self.prints.items() if notes.get(name, {}).get("fingerprint") == digest]
        return {name: notes[name] for name in same if self._is_whole(*(place / file for file in self._names(name)))}

    def _is_whole(self, rdms: Path, *counts: Path) -> bool:
        try:
            return all(path.is_file() for path in counts) and open_array(rdms).shape == self.job.shape
        except InputError:
            return False

    def _names(self, *subjects: str) -> list[str]:
        """Files of subjects, relative to the folder: for each its RDMs and its numbers of voxels."""
        counts = self.job.searchlights.geometry.map_files
        paths = [path for name in subjects for path in (self.folder.rdms(name), *counts(self.folder.n_voxels_of(name)))]
        return [path.relative_to(self.folder.folder).as_posix() for path in paths]

    def names(self) -> list[str]:
        """Files of all subjects, and noise ceilings if there are any."""
        return self._names(*self.notes) + [self.folder.noise_ceiling.name] * (len(self.notes) > 1)

    def _advance(self, steps: int) -> None:
        self.done += steps
        self.progress(self.done, self.total)

    def compute_subjects(self, workers: Workers | None) -> None:
        """Compute the subjects that are missing, one after the other, reading the next one meanwhile."""
        needed = 4 * self.job.shape[0] * self.job.shape[1] * len(self.todo)
        free = shutil.disk_usage(self.outputs.staging).free
        if needed > free:
            raise InputError(
                f"{self.folder.folder}: the RDMs of {len(self.todo)} subject(s) take {needed / 1e6:,.0f} MB, but only "
                f"{free / 1e6:,.0f} MB are free; make room, or choose another `out`"
            )
        ahead = self._read_ahead()
        upcoming = [self.pool.submit(self.job.load, subject) for subject in self.todo[:1]]
        for number, subject in enumerate(self.todo):
            responses = upcoming.pop().result()
            following = self.todo[number + 1 :][:1]
            if ahead:
                upcoming += [self.pool.submit(self.job.load, after) for after in following]
            row = self._compute_subject(subject, responses, workers)
            del responses
            if not ahead:
                upcoming += [self.pool.submit(self.job.load, after) for after in following]
            self.notes[subject.name] = {"fingerprint": self.prints[subject.name], "row": row}
            text = json.dumps({"subjects": self.notes, "files": []})
            self.outputs.path(RECORD).write_text(text, encoding="utf-8")

    def _read_ahead(self) -> bool:
        """Whether there is memory for the responses of two subjects, so that the next one can be read meanwhile."""
        job, needed = self.job, self.job.bytes_of_subject()
        if job.memory is None:
            return True
        if needed > job.memory:
            raise InputError(
                f"{job.betas.subjects[0].files[0]}: the responses of a subject take {needed / 1e6:,.4g} MB, more than "
                f"the `memory` of {job.memory / 1e6:,.4g} MB; allow more, or give a smaller mask"
            )
        return 2 * needed <= job.memory

    def _compute_subject(self, subject: Subject, responses: Responses, workers: Workers | None) -> dict[str, Any]:
        """Write the RDMs of a subject, and the numbers of voxels; returns the row of the table."""
        job, values = self.job, responses.values
        usable = usable_voxels(values.T)
        finite = np.isfinite(values.min(axis=1)) & np.isfinite(values.max(axis=1))
        if not usable.any():
            raise InputError(
                f"{subject.files[0]}: none of the {len(usable)} voxels that searchlights read in {subject.name} is "
                f"usable ({(~finite).sum()} NaN or inf, the others the same in all conditions); check the beta maps"
            )
        lookup, pieces, lock = job.searchlights.lookup(usable), job.pieces(), Lock()
        rdms_name = self._names(subject.name)[0]
        with written_whole(self.outputs.path(rdms_name)) as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": job.shape}
            np.lib.format.write_array_header_1_0(file, header)
            start = file.tell()

            def keep(number: int, rdms: NDArray[np.float32]) -> None:
                # Written, not mapped: a full disk is an error then, where a map would end the process.
                with lock:
                    file.seek(start + 4 * job.shape[1] * pieces[number].start)
                    file.write(rdms.astype("<f4", copy=False).data)
                    self._advance(len(rdms))

            if workers is None:
                compute = partial(job.rdms, responses, lookup)
                list(self.pool.map(lambda number: keep(number, compute(pieces[number])), range(len(pieces))))
            else:
                workers.run(rdms_on_worker, (job, responses, lookup), [(piece,) for piece in pieces], keep)
        counts = job.searchlights.counts(usable)
        geometry = job.searchlights.geometry
        name = self.folder.n_voxels_of(subject.name).relative_to(self.folder.folder).as_posix()
        geometry.write_map(self.outputs.path(name), geometry.to_volume(counts.astype(np.float32)))
        return {
            "subject": subject.name,
            "searchlights": len(counts),
            "without_rdm": int((counts < job.min_voxels).sum()),
            "voxels": len(usable),
            "usable": int(usable.sum()),
            "not_finite": int((~finite).sum()),
            "constant": int((finite & ~usable).sum()),
        }

    def compute_ceilings(self) -> None:
        """Noise ceiling of every searchlight, unless there is one of these very files.

        Never by workers: they need not see the files, which have more bytes than there is work.
        """
        names = sorted(self._names(subject.name)[0] for subject in self.job.betas.subjects)
        paths = [self.outputs.latest(name) for name in names]
        in_place = all(path.parent == self.folder.folder for path in paths)
        if len(paths) < 2 or (in_place and read_ceilings(self.folder.noise_ceiling, paths) is not None):
            return
        parts = slices(self.job.shape[0], _CEILING_BYTES // (8 * len(paths) * self.job.shape[1]))
        bounds = []
        for part in self.pool.map(partial(ceilings_of, paths), parts):
            bounds.append(part)
            self._advance(part.shape[1])
        write_ceilings(self.outputs.path(self.folder.noise_ceiling.name), paths, *np.concatenate(bounds, axis=1))

    def write_shared(self) -> list[dict[str, Any]]:
        """What is of all subjects: geometry, smallest number of voxels, table; returns its rows."""
        subjects = [subject.name for subject in self.job.betas.subjects]
        rows = [self.notes[subject]["row"] for subject in subjects]
        geometry = self.job.searchlights.geometry
        counts = (geometry.read_map([*map(self.outputs.latest, self._names(name)[1:])]) for name in subjects)
        geometry.save(self.outputs.path(self.folder.geometry.name))
        geometry.write_map(self.outputs.path(self.folder.n_voxels.name), reduce(np.minimum, counts))
        write_rows(self.outputs.path(self.folder.subjects_table.name), rows)
        return rows


def _fingerprints(job: SearchlightJob, pool: ThreadPoolExecutor) -> dict[str, str]:
    """Digest of all that the RDMs of each subject depend on."""
    shared = fingerprint(*job.searchlights.identity())
    noise = job.measure.noise if isinstance(job.measure.noise, str) else "residuals"
    measure = {"metric": job.measure.metric, "center": job.measure.center, "noise": noise}
    settings = {**measure, "min_voxels": job.min_voxels}
    text = json.dumps([_VERSION, shared, settings, job.exact, job.betas.conditions], sort_keys=True)
    digests = pool.map(partial(_digest_files, job), job.betas.subjects)
    return {
        subject.name: hashlib.blake2b((text + digest).encode(), digest_size=16).hexdigest()
        for subject, digest in zip(job.betas.subjects, digests, strict=True)
    }


def _digest_files(job: SearchlightJob, subject: Subject) -> str:
    """Digest of the content of a subject's files, and of what their volumes are of."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(str([(entry.index, entry.condition, entry.run) for entry in subject.maps]).encode())
    for path in (*subject.files, *job.measure.residual_files(subject.name)):
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); copy or make it again") from None
        digest.update(content.encode())
    return digest.hexdigest()


def rdms_on_worker(
    job: SearchlightJob, responses: Responses, lookup: NDArray[np.int32], piece: slice
) -> NDArray[np.float32]:
    """`SearchlightJob.rdms` with all threads of a Dask worker, which computes one piece at a time."""
    from utils.parallel.dask_workers import worker_threads

    # Rounding depends on which searchlights are computed together, so that threads do not get parts of a piece.
    with _threads(worker_threads()) as pool:
        return job.rdms(responses, lookup, piece, pool.map)


def ceilings_of(paths: Sequence[Path], part: slice) -> NDArray[np.float64]:
    """Lower and upper noise ceilings of some of the searchlights, (2, n), from the files of all subjects."""
    # Mapped anew every time: pages that were read do not pile up in this process's memory.
    return np.stack(noise_ceiling(np.stack([open_array(path)[part] for path in paths])))


def _write_beside(job: SearchlightJob, data: DataFolder, outputs: Outputs) -> list[Path]:
    """Mask or meshes, and names of conditions, which belong to the whole data folder; what is the same stays."""
    write_conditions(data.conditions, job.betas.conditions)
    if job.mask is None:
        kept = [] if job.meshes is None else keep_meshes(SurfaceFolder(data.surface), *job.meshes)
        return [*kept, data.conditions]
    try:
        mask, grid = read_mask(data.mask)
        same = grid.equals(job.betas.grid) and np.array_equal(mask, job.mask)
    except InputError:
        same = False
    if not same:
        staged = outputs.path(data.mask.name)
        job.searchlights.geometry.write_map(staged, job.mask.astype(np.int16))
        staged.replace(data.mask)
    return [data.mask, data.conditions]


def _warn_of_missing(rows: Sequence[Mapping[str, Any]], job: SearchlightJob, folder: SearchlightFolder) -> None:
    worst = max(rows, key=lambda row: row["without_rdm"])
    if worst["without_rdm"]:
        warnings.warn(
            f"subject {worst['subject']}: {worst['without_rdm']:,} of {worst['searchlights']:,} searchlights hold "
            f"fewer than {job.min_voxels} usable voxels and have no RDM; the figures leave out those that any subject "
            f"lacks (see {folder.subjects_table})",
            stacklevel=3,
        )
    if len(rows) == 1:
        warnings.warn(
            "one subject has no noise ceiling: Fig 1 and Fig 3a test all searchlights, and say nothing of other people",
            stacklevel=3,
        )
