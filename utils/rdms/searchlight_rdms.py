"""Searchlight RDMs of all subjects on disk: computed in parallel, within a memory budget, resumed after interruptions.

Threads of this process compute them, or workers of a cluster, whose results are written here as they arrive.

Everything is written to a hidden folder `.unfinished` inside `searchlight_rdms`, one file per subject, a stretch of
searchlights at a time. What is complete moves out of it when all subjects and the noise ceiling are: until then the
results of an earlier run stay as they were. A run that is started again keeps every subject, and every stretch of the
subject it was at, whose inputs are still the same.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.io.output import write_volume
from utils.io.provenance import fingerprint
from utils.io.readers import open_array
from utils.parallel.dask_workers import Cluster, worker_threads
from utils.rdm import n_pairs_of
from utils.rdms.betas import CONDITIONS_FILE, Betas, Subject, read_mask
from utils.rdms.searchlights import Searchlights, member_rdms, usable_voxels
from utils.stats.noise_ceiling import noise_ceiling

FOLDER = "searchlight_rdms"
RECORD = "run.json"
CEILING = "noise_ceiling.npz"
COUNTS = "n_voxels"
# Changes when the same inputs would give other numbers.
_VERSION = 1
_STRETCH_BYTES = 8 * 2**20  # of RDMs that a thread computes before it writes them
_THREAD_BYTES = 4 * _STRETCH_BYTES  # those, their voxels, and what is gathered from these
_BASE_BYTES = 250 * 2**20  # Python and its packages, masks, and volumes on their way from a file
_CLUSTER_COPIES = 3  # of a subject's beta maps: one here, two in a scheduler that lets go of one and takes the next
_CEILING_COPIES = 8  # arrays of the size of the RDMs that a noise ceiling takes
_CEILING_BYTES = 4 * 2**20
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """What is to be computed, and with which means.

    Attributes
    ----------
    betas : Betas
    searchlights : Searchlights
    settings : dict
        All that the RDMs depend on beside the voxels: metric, center, min_voxels, and what is to be recorded.
    exact : bool
        Compute in float64 whatever the precision of the beta maps.
    mask : ndarray of bool, shape (X, Y, Z)
        Brain mask, to be kept in the data folder.
    data : Path
        Data folder.
    threads : int
    memory : int
        Bytes that this process should stay under.
    """

    betas: Betas
    searchlights: Searchlights
    settings: dict[str, Any]
    exact: bool
    mask: NDArray[np.bool_]
    data: Path
    threads: int
    memory: int

    @property
    def folder(self) -> Path:
        """Where the RDMs go."""
        return self.data / FOLDER

    @property
    def shape(self) -> tuple[int, int]:
        """Searchlights and pairs of conditions."""
        return len(self.searchlights), n_pairs_of(len(self.betas.conditions))

    @property
    def stretch(self) -> int:
        """Searchlights that a thread computes at a time."""
        members = 16 * len(self.searchlights.steps)
        return max(1, _STRETCH_BYTES // max(4 * self.shape[1], members))

    @property
    def betas_bytes(self) -> int:
        """Beta maps of one subject in memory."""
        return len(self.searchlights.voxels) * len(self.betas.conditions) * self.betas.dtype.itemsize


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes
    ----------
    folder : Path
        Where the RDMs are.
    rows : list of dict
        One per subject: subject, searchlights, without_rdm, voxels, usable, not_finite, constant.
    n_computed : int
        Subjects computed now; the others were there.
    files : list of Path
        All files that there are now.
    """

    folder: Path
    rows: list[dict[str, Any]]
    n_computed: int
    files: list[Path]


def compute(
    job: Job,
    record: Callable[[], dict[str, Any]],
    progress: Progress,
    *,
    fresh: bool = False,
    cluster: Cluster | None = None,
) -> Outcome:
    """Compute whatever is missing, and put the results in place.

    Parameters
    ----------
    job : Job
    record : callable
        Gives what is to be kept in run.json, beside what is added here.
    progress : callable
        Called with (steps done, steps in all).
    fresh : bool
        Keep nothing of earlier runs.
    cluster : Cluster, optional
        Workers that compute the RDMs. The files are the same, byte for byte.

    Returns
    -------
    Outcome

    Raises
    ------
    InputError
        If the memory is too little, the folder holds other subjects, is in use, or cannot be written, or the beta maps
        of a subject cannot be read or have no usable voxel; and as `Cluster.run`.
    """
    threads, prefetch = _plan(job, cluster)
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        with _only_run(job.folder / ".unfinished") as staging, _single_threaded_blas():
            _refuse_others(job, fresh)
            if fresh:
                _empty(staging)
            with ThreadPoolExecutor(threads) as pool:
                earlier = _recorded(job.folder)
                run = _Run(job, staging, pool, cluster, progress, {**earlier, "subjects": {}} if fresh else earlier)
                run.subjects(prefetch)
                run.ceilings(threads)
            outcome = run.publish(record())
        shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        _remove_unfinished(job)
        raise InputError(
            f"{job.folder}: cannot be written ({error.strerror or error}); what was unfinished has been removed and "
            "finished subjects are kept: make room and run it again, or choose another --out"
        ) from error
    return outcome


def _plan(job: Job, cluster: Cluster | None) -> tuple[int, bool]:
    """Number of threads that the memory allows, and whether the next subject may be read meanwhile."""
    subject = job.betas_bytes * (1 if cluster is None else _CLUSTER_COPIES)
    least = _BASE_BYTES + subject + _THREAD_BYTES
    if job.memory < least:
        raise InputError(
            f"--memory {job.memory / 1e9:.2f}GB is too little: the beta maps of one subject take "
            f"{job.betas_bytes / 1e6:.0f} MB, and all in all {least / 1e9:.2f}GB are needed; give that or more"
        )
    threads = min(job.threads, 1 + int((job.memory - least) // _THREAD_BYTES))
    left = job.memory - least - (threads - 1) * _THREAD_BYTES
    return threads, left > job.betas_bytes


@contextmanager
def _only_run(staging: Path) -> Iterator[Path]:
    """The staging folder, for one process at a time; the system gives the lock back however the process ends."""
    staging.mkdir(exist_ok=True)
    with (staging / "lock").open("w") as lock:
        with suppress(ImportError):  # there is none on Windows, where two runs at a time are not noticed
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{staging.parent}: another run is writing here; wait until it has ended, or choose another --out"
                ) from None
        yield staging


@contextmanager
def _single_threaded_blas() -> Iterator[None]:
    """Threads of this module share the cores already; BLAS threads on top would be in their way."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != "lock":
            path.unlink()


def _remove_unfinished(job: Job) -> None:
    """Leave only finished subjects in the staging folder, so that a full disk is as it was before."""
    staging = job.folder / ".unfinished"
    finished = {path.stem for path in staging.glob("*.npy")}
    for path in staging.iterdir() if staging.is_dir() else ():
        subject = re.sub(r"(\.npy|\.json|\.nii\.gz)$", "", path.name)
        if path.name != "lock" and subject not in finished:
            path.unlink(missing_ok=True)


def _recorded(folder: Path) -> dict[str, Any]:
    """What an earlier run in this folder recorded; empty where there was none."""
    try:
        content = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    known = isinstance(content, dict) and isinstance(content.get("subjects"), dict)
    return content if known and isinstance(content.get("files"), list) else {}


def _refuse_others(job: Job, fresh: bool) -> None:
    """Every .npy file in the folder counts as a subject: none may be there that is not of this run."""
    own = {f"{subject.name}.npy" for subject in job.betas.subjects}
    others = sorted(path.name for path in job.folder.glob("*.npy") if path.name not in own)
    if fresh:
        others = [name for name in others if name not in _recorded(job.folder).get("files", [])]
    if others:
        raise InputError(
            f"{job.folder}: holds {', '.join(others[:3])}{' and more' if len(others) > 3 else ''}, of none of the "
            f"{len(own)} subject(s) given; give all subjects in one call, or another --out, or remove "
            + ("these files" if fresh else "what an earlier call wrote with --fresh")
        )


class _Run:
    """The steps of `compute`, and what they share."""

    def __init__(
        self,
        job: Job,
        staging: Path,
        pool: ThreadPoolExecutor,
        cluster: Cluster | None,
        progress: Progress,
        earlier: dict,
    ) -> None:
        self.job, self.staging, self.pool, self.cluster, self.earlier = job, staging, pool, cluster, earlier
        self.prints = self._fingerprints()
        self.todo = [subject for subject in job.betas.subjects if not self._row_of(subject)]
        self._remove_stale()
        n_steps = len(job.searchlights)
        self.total, self.done = n_steps * (len(self.todo) + (len(job.betas.subjects) > 1)), 0
        self.progress = progress

    def _advance(self, steps: int) -> None:
        self.done += steps
        self.progress(self.done, self.total)

    def _fingerprints(self) -> dict[str, str]:
        """Digest of all that the RDMs of each subject depend on."""
        job = self.job
        geometry = job.searchlights.geometry
        shared = fingerprint(geometry.affine, geometry.voxels, job.searchlights.voxels, job.searchlights.steps)
        text = json.dumps([_VERSION, shared, job.settings, job.exact, job.betas.conditions], sort_keys=True)
        digests = list(self.pool.map(_digest_files, job.betas.subjects))
        return {
            subject.name: hashlib.blake2b((text + digest).encode(), digest_size=16).hexdigest()
            for subject, digest in zip(job.betas.subjects, digests, strict=True)
        }

    def _row_of(self, subject: Subject) -> dict[str, Any]:
        """What was noted about a subject whose RDMs are complete and of the same inputs; empty if they are not."""
        path = self.location(subject)
        if path.parent == self.staging:
            note = _read_json(self.staging / f"{subject.name}.json")
        else:
            note = self.earlier.get("subjects", {}).get(subject.name, {})
        complete = (
            path.is_file()
            and open_array(path).shape == self.job.shape
            and (path.parent if path.parent == self.staging else path.parent / COUNTS)
            .joinpath(f"{subject.name}.nii.gz")
            .is_file()
        )
        return note["row"] if complete and note.get("fingerprint") == self.prints[subject.name] else {}

    def location(self, subject: Subject, suffix: str = ".npy") -> Path:
        """Where a finished file of a subject lies now."""
        staged = self.staging / f"{subject.name}{suffix}"
        place = self.job.folder if suffix == ".npy" else self.job.folder / COUNTS
        return staged if staged.exists() else place / staged.name

    def _remove_stale(self) -> None:
        """Remove from the staging folder what belongs to no subject that is done or to do."""
        kept = {"lock"}
        for subject in self.job.betas.subjects:
            if subject in self.todo:
                kept |= {f"{subject.name}.npy.part", f"{subject.name}.npy.done"}
            elif self.location(subject).parent == self.staging:
                kept |= {subject.name + suffix for suffix in (".npy", ".json", ".nii.gz")}
        for path in self.staging.iterdir():
            if path.name not in kept:
                path.unlink()

    def subjects(self, prefetch: bool) -> None:
        """Compute the subjects that are missing, one after the other, reading the next one meanwhile."""
        needed = 4 * self.job.shape[0] * self.job.shape[1] * len(self.todo)
        free = shutil.disk_usage(self.staging).free + sum(f.stat().st_blocks * 512 for f in self.staging.glob("*.part"))
        if needed > free:
            raise InputError(
                f"{self.job.folder}: the RDMs of {len(self.todo)} subject(s) take {needed / 1e6:,.0f} MB, but only "
                f"{free / 1e6:,.0f} MB are free; make room, or choose another --out"
            )
        upcoming: Future | None = None
        for number, subject in enumerate(self.todo):
            patterns = (upcoming or self.pool.submit(self._load, subject)).result()
            upcoming = None
            if prefetch and number + 1 < len(self.todo):
                upcoming = self.pool.submit(self._load, self.todo[number + 1])
            self._subject(subject, patterns)
            del patterns

    def _load(self, subject: Subject) -> NDArray:
        return self.job.betas.load(subject, self.job.searchlights.voxels)

    def _subject(self, subject: Subject, patterns: NDArray) -> None:
        job = self.job
        usable = usable_voxels(patterns.T)
        finite = np.isfinite(patterns.min(axis=1)) & np.isfinite(patterns.max(axis=1))
        if not usable.any():
            raise InputError(
                f"{subject.files[0]}: none of the {len(usable)} voxels that searchlights read in {subject.name} is "
                f"usable ({(~finite).sum()} NaN or inf, the others the same in all conditions); check the beta maps"
            )
        lookup = job.searchlights.lookup(usable)
        part = _PartialRdms(self.staging / f"{subject.name}.npy", job.shape, self.prints[subject.name])
        try:
            missing = part.open().missing(job.stretch)
            self._advance(job.shape[0] - sum(places.stop - places.start for places in missing))
            if self.cluster is None:
                _await([self.pool.submit(_stretch, job, patterns, lookup, s, part) for s in missing], self._advance)
            else:
                self._on_cluster(self.cluster, patterns, lookup, missing, part)
            counts = job.searchlights.counts(usable)
            volume = job.searchlights.geometry.to_volume(counts.astype(np.float32))
            write_volume(self.staging / f"{subject.name}.nii.gz", volume, job.betas.grid.affine)
            row = {
                "subject": subject.name,
                "searchlights": len(counts),
                "without_rdm": int((counts < job.settings["min_voxels"]).sum()),
                "voxels": len(usable),
                "usable": int(usable.sum()),
                "not_finite": int((~finite).sum()),
                "constant": int((finite & ~usable).sum()),
            }
            note = {"fingerprint": self.prints[subject.name], "row": row}
            (self.staging / f"{subject.name}.json").write_text(json.dumps(note))
            part.finish()
        except OSError:
            part.discard()
            raise

    def _on_cluster(
        self, cluster: Cluster, patterns: NDArray, lookup: NDArray[np.int32], missing: list[slice], part: _PartialRdms
    ) -> None:
        def keep(number: int, rdms: NDArray[np.float32]) -> None:
            part.write(missing[number].start, rdms)
            self._advance(len(rdms))

        cluster.run(_rdms_on_worker, (self.job, patterns, lookup), [(places,) for places in missing], keep)

    def ceilings(self, threads: int) -> None:
        """Noise ceiling of every searchlight, unless there is one of these very files.

        Never on a cluster: they are made from files that workers need not see, and from more bytes than work.
        """
        job = self.job
        paths = sorted((self.location(subject) for subject in job.betas.subjects), key=lambda path: path.name)
        if len(paths) < 2 or (not self.todo and self._ceilings_kept(paths)):
            return
        each = min(_CEILING_BYTES, (job.memory - _BASE_BYTES) // (threads * _CEILING_COPIES))
        step = max(1, each // (8 * len(paths) * job.shape[1]))
        bounds = np.full((2, job.shape[0]), np.nan)
        parts = [slice(start, min(start + step, job.shape[0])) for start in range(0, job.shape[0], step)]
        _await([self.pool.submit(_ceiling, paths, part, bounds) for part in parts], self._advance)
        with (self.staging / CEILING).open("wb") as file:
            arrays: dict[str, Any] = {"lower": bounds[0], "upper": bounds[1], **_files_of(paths)}
            np.savez(file, **arrays)

    def _ceilings_kept(self, paths: Sequence[Path]) -> bool:
        kept = self.job.folder / CEILING
        if any(path.parent == self.staging for path in paths) or not kept.exists():
            return False
        arrays = open_array(kept)
        same = all(
            name in arrays.files and np.array_equal(arrays[name], value) for name, value in _files_of(paths).items()
        )
        return same and kept.stat().st_mtime >= max(path.stat().st_mtime for path in paths)

    def publish(self, record: dict[str, Any]) -> Outcome:
        """Move everything into place.

        Files that will be replaced are removed before the record says that they are there: if this is interrupted, the
        next run takes the new ones from the staging folder.
        """
        job, folder = self.job, self.job.folder
        rows = [self._row_of(subject) for subject in job.betas.subjects]
        moves = self._moves()
        self._write_shared(rows)
        names = [str(path.relative_to(folder)) for path in moves.values()]
        subjects = {row["subject"]: {"fingerprint": self.prints[row["subject"]], "row": row} for row in rows}
        for name in {*self.earlier.get("files", [])} - {*names, RECORD}:
            if isinstance(name, str) and ".." not in Path(name).parts and not Path(name).is_absolute():
                (folder / name).unlink(missing_ok=True)
        for staged, target in moves.items():
            if staged.exists():
                target.unlink(missing_ok=True)
        text = json.dumps({**record, "subjects": subjects, "files": sorted([*names, RECORD])}, indent=2) + "\n"
        (self.staging / RECORD).write_text(text)
        (self.staging / RECORD).replace(folder / RECORD)
        (folder / COUNTS).mkdir(exist_ok=True)
        beside = self._write_beside()
        for staged, target in {**moves, **beside}.items():
            if staged.exists():
                staged.replace(target)
        return Outcome(folder, rows, len(self.todo), [*moves.values(), folder / RECORD, *beside.values()])

    def _write_beside(self) -> dict[Path, Path]:
        """Mask and names of conditions, which belong to the whole data folder; what is there and the same stays."""
        job = self.job
        names = {name: (self.staging / name, job.data / name) for name in ("mask.nii.gz", CONDITIONS_FILE)}
        staged, target = names["mask.nii.gz"]
        if not _holds_mask(target, job):
            write_volume(staged, job.mask.astype(np.int16), job.betas.grid.affine)
        staged, target = names[CONDITIONS_FILE]
        if not target.exists():
            staged.write_text("\n".join([*job.betas.conditions, ""]), encoding="utf-8")
        return dict(names.values())

    def _moves(self) -> dict[Path, Path]:
        """Where files belong, in the order in which they are moved: the noise ceiling must be the youngest."""
        folder, staging = self.job.folder, self.staging
        names = [subject.name for subject in self.job.betas.subjects]
        moves = {staging / f"{name}.npy": folder / f"{name}.npy" for name in names}
        moves |= {staging / f"{name}.nii.gz": folder / COUNTS / f"{name}.nii.gz" for name in names}
        shared = ["geometry.npz", f"{COUNTS}.nii.gz", "subjects.tsv", *([CEILING] if len(names) > 1 else [])]
        return moves | {staging / name: folder / name for name in shared}

    def _write_shared(self, rows: Sequence[dict[str, Any]]) -> None:
        """What is of all subjects: geometry, smallest number of voxels, table."""
        import nibabel as nib

        geometry = self.job.searchlights.geometry
        geometry.save(self.staging / "geometry.npz")
        least: NDArray | None = None
        for subject in self.job.betas.subjects:
            image: Any = nib.load(self.location(subject, ".nii.gz"))
            volume = np.asarray(image.dataobj, dtype=np.float32)
            least = volume if least is None else np.minimum(least, volume)
        assert least is not None
        write_volume(self.staging / f"{COUNTS}.nii.gz", least, geometry.affine)
        lines = ["\t".join(rows[0]), *("\t".join(str(value) for value in row.values()) for row in rows)]
        (self.staging / "subjects.tsv").write_text("\n".join(lines) + "\n")


def _holds_mask(path: Path, job: Job) -> bool:
    try:
        mask, grid = read_mask(path)
    except InputError:
        return False
    return grid.equals(job.betas.grid) and np.array_equal(mask, job.mask)


def _await(tasks: Sequence[Future], advance: Callable[[int], None]) -> None:
    """Wait for tasks; once one fails, or the user interrupts, those not begun never begin."""
    try:
        for task in as_completed(tasks):
            advance(task.result())
    except BaseException:
        for task in tasks:
            task.cancel()
        wait(tasks)
        raise


def _rdms(job: Job, patterns: NDArray, lookup: NDArray[np.int32], places: slice) -> NDArray[np.float32]:
    """RDMs (n, n_pairs) of some of the searchlights of a subject, which do not depend on what else is computed."""
    return member_rdms(
        patterns,
        job.searchlights.members(lookup, places),
        job.settings["metric"],
        center=job.settings["center"],
        min_voxels=job.settings["min_voxels"],
        dtype=np.float64 if job.exact else None,
    )


def _stretch(job: Job, patterns: NDArray, lookup: NDArray[np.int32], places: slice, part: _PartialRdms) -> int:
    """Compute and write some of the searchlights of a subject; returns how many."""
    rdms = _rdms(job, patterns, lookup, places)
    part.write(places.start, rdms)
    return len(rdms)


def _rdms_on_worker(job: Job, patterns: NDArray, lookup: NDArray[np.int32], places: slice) -> NDArray[np.float32]:
    """As `_rdms`, with all threads of a worker."""
    threads = worker_threads()
    step = -(-(places.stop - places.start) // threads)
    parts = [slice(start, min(start + step, places.stop)) for start in range(places.start, places.stop, step)]
    with _single_threaded_blas(), ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(partial(_rdms, job, patterns, lookup), parts)))


def _ceiling(paths: Sequence[Path], places: slice, bounds: NDArray[np.float64]) -> int:
    """Noise ceilings of some of the searchlights; NaN where an RDM of a subject holds NaN."""
    # Mapped anew every time: pages that were read do not pile up in this process's memory.
    rdms = np.stack([open_array(path)[places] for path in paths])
    finite = np.isfinite(rdms).all(axis=(0, 2))
    if finite.any():
        bounds[:, np.arange(places.start, places.stop)[finite]] = noise_ceiling(rdms[:, finite])
    return len(finite)


def _files_of(paths: Sequence[Path]) -> dict[str, NDArray]:
    """Names and sizes of the files that noise ceilings are of, by which a reader tells whether they still fit."""
    sizes = np.array([path.stat().st_size for path in paths], dtype=np.int64)
    return {"names": np.array([path.name for path in paths]), "sizes": sizes}


def _digest_files(subject: Subject) -> str:
    """Digest of the content of a subject's files, and of the condition that each is of."""
    digest = hashlib.blake2b(digest_size=16)
    of = {path: name for name, paths in subject.maps.items() for path in paths}
    for path in subject.files:
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); copy or make it again") from None
        digest.update(f"{of.get(path, '')}:{content};".encode())
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


class _PartialRdms:
    """A .npy file of RDMs that fills a stretch at a time and knows, after an interruption, which ones it holds.

    Written with plain writes rather than through a memory map: those report a full disk as an error, where a map would
    end the process, and their pages do not count as its memory. Beside the file lies a log: the fingerprint, then
    first and last searchlight and checksum of every stretch that was written.
    """

    def __init__(self, path: Path, shape: tuple[int, int], fingerprint: str) -> None:
        self.target = path
        self.path, self.log = path.with_name(path.name + ".part"), path.with_name(path.name + ".done")
        self.shape, self.fingerprint = shape, fingerprint
        self.row_bytes = 4 * shape[1]
        self.done: list[slice] = []
        self._lock = Lock()
        self._file: BinaryIO | None = None

    def open(self) -> _PartialRdms:
        """Take up what there is, or begin anew."""
        self.done = self._resume()
        if not self.done:
            self._start()
        self._offset = self.path.stat().st_size - self.shape[0] * self.row_bytes
        self._file = self.path.open("r+b")
        return self

    def _start(self) -> None:
        with self.path.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + self.shape[0] * self.row_bytes)
        self.log.write_text(self.fingerprint + "\n")

    def _resume(self) -> list[slice]:
        """Stretches of an earlier run that are still what its log says."""
        try:
            lines = self.log.read_text().splitlines()
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return []
        if lines[:1] != [self.fingerprint] or array.shape != self.shape or array.dtype != np.float32:
            return []
        done = []
        for line in lines[1:]:
            numbers = line.split()
            if len(numbers) == 3 and all(number.isdigit() for number in numbers):  # the last line may be cut short
                places = slice(int(numbers[0]), int(numbers[1]))
                content = np.array(open_array(self.path)[places])  # mapped anew, so that read pages do not pile up
                if zlib.crc32(content.data) == int(numbers[2]):
                    done.append(places)
        return done

    def missing(self, step: int) -> list[slice]:
        """Searchlights that are not there yet, in stretches of at most `step`."""
        absent = np.ones(self.shape[0] + 2, dtype=bool)
        absent[[0, -1]] = False
        for places in self.done:
            absent[places.start + 1 : places.stop + 1] = False
        edges = np.flatnonzero(np.diff(absent.astype(np.int8))).reshape(-1, 2)
        return [
            slice(start, min(start + step, int(stop)))
            for first, stop in edges
            for start in range(int(first), int(stop), step)
        ]

    def write(self, start: int, rdms: NDArray[np.float32]) -> None:
        """Put RDMs (n, n_pairs) in their place, from searchlight `start` on."""
        data = rdms.astype("<f4", copy=False).data
        assert self._file is not None
        with self._lock:
            self._file.seek(self._offset + start * self.row_bytes)
            self._file.write(data)
            self._file.flush()
            with self.log.open("a") as log:
                log.write(f"{start} {start + len(rdms)} {zlib.crc32(data)}\n")

    def finish(self) -> None:
        """All are there: take the final name."""
        if self._file is not None:
            self._file.close()
        self.path.replace(self.target)
        self.log.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove what there is."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        self.path.unlink(missing_ok=True)
        self.log.unlink(missing_ok=True)
