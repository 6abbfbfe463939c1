"""From beta maps to figures at the shell: searchlight and ROI RDMs, interruptions, and what is refused."""

import argparse
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers import run_script, write_study
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

from utils import InputError, rois, searchlight
from utils.cli import command as cli
from utils.parallel.threads import available_cores
from utils.rdm import condense, expand
from utils.rdms import searchlight_rdms
from utils.rdms.searchlights import Geometry, release_blocks

HOME = Path(__file__).resolve().parents[1]
AFFINE = np.array([[3.0, 0, 0, -12], [0, 3, 0, -90], [0, 0, 3, -6], [0, 0, 0, 1]])
SHAPE = (9, 8, 7)
NAMES = [f"image_{i:02d}" for i in range(8)]


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def write_betas(root: Path, seed: int = 0, n_subjects: int = 3) -> list[Path]:
    """Beta maps with a shared signal, a mask and names."""
    rng = np.random.default_rng(seed)
    signal_ = rng.standard_normal((*SHAPE, len(NAMES)))
    paths = [
        save(root / f"sub-{s:02d}.nii.gz", (signal_ + rng.standard_normal(signal_.shape)).astype(np.float32))
        for s in range(1, n_subjects + 1)
    ]
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:8, 1:7, 1:6] = 1
    save(root / "mask.nii.gz", mask)
    (root / "conditions.txt").write_text("\n".join(NAMES) + "\n")
    return paths


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("study")
    write_betas(root)
    return root


def arguments(root: Path, out: Path, *extra, betas=None, mask: bool = True) -> list[str]:
    found = betas or sorted(root.glob("sub-*.nii.gz"))
    masks = ["--mask", root / "mask.nii.gz"] if mask else []
    given = ["--betas", *found, *masks, "--conditions", root / "conditions.txt", "--out", out, *extra]
    return [str(value) for value in given]


def spheres(root: Path, out: Path, *extra, **options) -> list[str]:
    return arguments(root, out, "--geometry", "spheres", "--radius-mm", 6, "-q", *extra, **options)


def inside(root: Path) -> np.ndarray:
    return nib.load(root / "mask.nii.gz").get_fdata() > 0


def with_models(data: Path) -> Path:
    """Add model RDMs of the same number of conditions to a data folder."""
    scratch = write_study(data.parent / f"{data.name}-models", np.random.default_rng(1), len(NAMES))
    shutil.copytree(scratch / "dnn_rdms", data / "dnn_rdms")
    shutil.copy(scratch / "models.tsv", data)
    return data


# -------------------------------------------------------------------------------------------------------- searchlights


@pytest.fixture(scope="module")
def sphere_data(study, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data") / "spheres"
    searchlight.main(spheres(study, out))
    return out


def test_spheres_of_every_subject(study, sphere_data):
    folder = sphere_data / "searchlight_rdms"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "sub-01.npy", "sub-02.npy", "sub-03.npy", "geometry.npz", "noise_ceiling.npz", "n_voxels", "n_voxels.nii.gz",
        "subjects.tsv", "run.json",
    }  # fmt: skip
    assert (sphere_data / "conditions.txt").read_text().splitlines() == NAMES
    mask = inside(study)
    np.testing.assert_array_equal(nib.load(sphere_data / "mask.nii.gz").get_fdata() > 0, mask)
    geometry = Geometry.load(folder / "geometry.npz")
    voxels = np.argwhere(mask)
    counts = nib.load(folder / "n_voxels.nii.gz").get_fdata()
    for subject in (1, 3):
        betas = nib.load(study / f"sub-{subject:02d}.nii.gz").get_fdata()
        rdms = np.load(folder / f"sub-{subject:02d}.npy")
        assert (rdms.dtype, rdms.shape) == (np.float32, (mask.sum(), 28))
        for rdm, center in zip(rdms, geometry.voxels, strict=True):
            place = np.array(np.unravel_index(center, SHAPE))
            own = voxels[np.linalg.norm(3 * (voxels - place), axis=1) <= 6]
            assert counts[tuple(place)] == len(own)
            np.testing.assert_allclose(rdm, pdist(betas[tuple(own.T)].T, "correlation"), atol=2e-6)


def test_noise_ceilings_equal_scipy(sphere_data):
    folder = sphere_data / "searchlight_rdms"
    rdms = np.stack([np.load(path) for path in sorted(folder.glob("*.npy"))]).astype(np.float64)
    with np.load(folder / "noise_ceiling.npz") as kept:
        for place in (0, 100, -1):
            mean = rdms[:, place].mean(axis=0)
            upper = np.mean([spearmanr(rdm, mean)[0] for rdm in rdms[:, place]])
            lower = np.mean([spearmanr(rdms[i, place], np.delete(rdms[:, place], i, 0).mean(0))[0] for i in range(3)])
            np.testing.assert_allclose([kept["lower"][place], kept["upper"][place]], [lower, upper], atol=1e-10)
        assert kept["names"].tolist() == ["sub-01.npy", "sub-02.npy", "sub-03.npy"]
        own = [blake2b(path.read_bytes(), digest_size=16).hexdigest() for path in sorted(folder.glob("*.npy"))]
        assert kept["digests"].tolist() == own


@pytest.mark.slow
@pytest.mark.parametrize("geometry", ["spheres", "blocks"])
def test_figure_1_runs_on_what_is_written(study, tmp_path, monkeypatch, sphere_data, geometry):
    data = tmp_path / "data"
    if geometry == "spheres":
        shutil.copytree(sphere_data, data)
    else:
        searchlight.main(arguments(study, data, "-q"))
    before = (data / "searchlight_rdms" / "noise_ceiling.npz").stat().st_mtime_ns
    given = ("--data", with_models(data), "--results", tmp_path, "-np", 99, "--ceiling", -1, "--no-open", "-q")
    assert run_script(monkeypatch, "Fig1", *given) == 0
    assert (tmp_path / "Fig1" / "brain_map.html").exists()
    assert (data / "searchlight_rdms" / "noise_ceiling.npz").stat().st_mtime_ns == before


def test_blocks_equal_scipy(study, tmp_path):
    searchlight.main(arguments(study, tmp_path, "-q"))
    for subject in (1, 2, 3):
        betas = nib.load(study / f"sub-{subject:02d}.nii.gz").get_fdata()
        rdms = np.load(tmp_path / "searchlight_rdms" / f"sub-{subject:02d}.npy")
        for rdm, (i, j, k, di, dj, dk) in zip(rdms, release_blocks(inside(study)), strict=True):
            patterns = betas[i : i + di, j : j + dj, k : k + dk].reshape(-1, len(NAMES))
            np.testing.assert_allclose(rdm, pdist(patterns.T, "correlation"), atol=1e-6)


def test_threads_and_pieces_change_nothing(study, tmp_path, sphere_data, monkeypatch):
    monkeypatch.setattr(searchlight_rdms, "_PIECE_BYTES", 3000)
    monkeypatch.setattr(searchlight_rdms, "_CEILING_BYTES", 3000)
    searchlight.main(spheres(study, tmp_path, "--threads", 3))
    for name in ("sub-01.npy", "sub-02.npy", "sub-03.npy"):
        one, other = (np.load(data / "searchlight_rdms" / name) for data in (tmp_path, sphere_data))
        np.testing.assert_allclose(one, other, atol=1e-6)
    ceilings = [np.load(data / "searchlight_rdms" / "noise_ceiling.npz")["lower"] for data in (tmp_path, sphere_data)]
    np.testing.assert_allclose(*ceilings, atol=1e-3)  # a rank may change where two entries are equal but for rounding


def test_constant_and_missing_voxels_are_counted(study, tmp_path, capsys):
    paths = []
    for subject in (1, 2):
        betas = nib.load(study / f"sub-{subject:02d}.nii.gz").get_fdata(dtype=np.float32)
        if subject == 2:
            betas[1:3, 1:3, 1:3] = 4
            betas[7, 6, 5, 3] = np.nan
        paths.append(save(tmp_path / f"sub-{subject:02d}.nii.gz", betas))
    with pytest.warns(UserWarning, match=r"sub-02: 13 of 202 searchlights hold fewer than 5 usable voxels"):
        searchlight.main(arguments(study, tmp_path / "out", "--geometry", "spheres", "--radius-mm", 3, betas=paths))
    folder = tmp_path / "out" / "searchlight_rdms"
    rows = [line.split("\t") for line in (folder / "subjects.tsv").read_text().splitlines()]
    assert rows[0] == ["subject", "searchlights", "without_rdm", "voxels", "usable", "not_finite", "constant"]
    # The eight corners of the mask have three neighbours; the sphere around each is left out for all subjects.
    assert rows[1:] == [["sub-01", "202", "0", "210", "210", "0", "0"], ["sub-02", "202", "13", "210", "201", "1", "8"]]
    missing = np.isnan(np.load(folder / "sub-02.npy")).all(axis=1)
    assert missing.sum() == 13
    with np.load(folder / "noise_ceiling.npz") as kept:
        np.testing.assert_array_equal(np.isnan(kept["lower"]), missing)
    assert "left out" in capsys.readouterr().out
    least = nib.load(folder / "n_voxels.nii.gz").get_fdata()
    second = nib.load(folder / "n_voxels" / "sub-02.nii.gz").get_fdata()
    np.testing.assert_array_equal(least, second)


# ------------------------------------------------------------------------------------------------------ interruptions


def times(data: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (data / "searchlight_rdms").glob("*.np?")}


def test_only_what_changed_is_computed_again(tmp_path):
    root, out = tmp_path / "study", tmp_path / "out"
    write_betas(root)
    searchlight.main(spheres(root, out))
    first = times(out)
    searchlight.main(spheres(root, out))
    assert {name: t for name, t in times(out).items() if name != "geometry.npz"} == {
        name: t for name, t in first.items() if name != "geometry.npz"
    }
    write_betas(tmp_path / "other", seed=5)
    shutil.copy(tmp_path / "other" / "sub-02.nii.gz", root / "sub-02.nii.gz")
    before = np.load(out / "searchlight_rdms" / "sub-02.npy")
    searchlight.main(spheres(root, out))
    second = times(out)
    assert [second[f"sub-0{i}.npy"] == first[f"sub-0{i}.npy"] for i in (1, 2, 3)] == [True, False, True]
    assert second["noise_ceiling.npz"] != first["noise_ceiling.npz"]
    assert np.abs(np.load(out / "searchlight_rdms" / "sub-02.npy") - before).max() > 0.1
    searchlight.main(spheres(root, out, "--metric", "euclidean"))
    assert all(times(out)[f"sub-0{i}.npy"] != second[f"sub-0{i}.npy"] for i in (1, 2, 3))
    assert not (out / "searchlight_rdms" / ".unfinished").exists()


def test_finished_subjects_are_not_computed_again_after_an_interruption(study, tmp_path, sphere_data, monkeypatch):
    compute, calls = searchlight_rdms.member_rdms, []

    def interrupted(*given, **options):
        calls.append(len(given[1]))
        if len(calls) == 2:  # each subject is one piece
            raise KeyboardInterrupt
        return compute(*given, **options)

    monkeypatch.setattr(searchlight_rdms, "member_rdms", interrupted)
    with pytest.raises(KeyboardInterrupt):
        searchlight.main(spheres(study, tmp_path))
    folder = tmp_path / "searchlight_rdms"
    assert {path.name for path in folder.iterdir()} == {".unfinished"}
    assert {path.name for path in (folder / ".unfinished").iterdir()} >= {"sub-01.npy", "n_voxels", "run.json"}
    assert not list((folder / ".unfinished").glob("*sub-02*"))
    searchlight.main(spheres(study, tmp_path))
    assert len(calls) == 4
    for name in ("sub-01.npy", "sub-02.npy", "sub-03.npy"):
        one, other = (np.load(data / "searchlight_rdms" / name) for data in (tmp_path, sphere_data))
        np.testing.assert_array_equal(one, other)
    assert not (folder / ".unfinished").exists()


@pytest.mark.parametrize("damage", ["other settings", "cut short", "no counts"])
def test_unfinished_subjects_of_other_inputs_are_not_used(study, tmp_path, sphere_data, monkeypatch, damage):
    monkeypatch.setattr(searchlight_rdms, "noise_ceiling", raise_interrupt)
    extra = ["--metric", "cosine"] if damage == "other settings" else []
    with pytest.raises(KeyboardInterrupt):
        searchlight.main(spheres(study, tmp_path, *extra))
    monkeypatch.undo()
    staging = tmp_path / "searchlight_rdms" / ".unfinished"
    if damage == "cut short":
        (staging / "sub-02.npy").write_bytes((staging / "sub-02.npy").read_bytes()[:-8])
    if damage == "no counts":
        (staging / "n_voxels" / "sub-02.nii.gz").unlink()
    compute, calls = searchlight_rdms.member_rdms, []
    monkeypatch.setattr(searchlight_rdms, "member_rdms", lambda *a, **k: calls.append(0) or compute(*a, **k))
    searchlight.main(spheres(study, tmp_path))
    assert len(calls) == (3 if damage == "other settings" else 1)
    for name in ("sub-01.npy", "sub-02.npy", "sub-03.npy", "noise_ceiling.npz"):
        assert (tmp_path / "searchlight_rdms" / name).read_bytes() == (
            sphere_data / "searchlight_rdms" / name
        ).read_bytes()


def raise_interrupt(*_given, **_options):
    raise KeyboardInterrupt


def test_a_killed_process_leaves_earlier_results_alone(study, tmp_path, sphere_data):
    shutil.copytree(sphere_data, tmp_path / "data")
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}
    code = (
        "import sys; from utils import searchlight; from utils.rdms import searchlight_rdms\n"
        "def stuck(*a, **k):\n    print('begun', flush=True); sys.stdin.read()\n"
        "searchlight_rdms.member_rdms = stuck\n"
        f"searchlight.main({spheres(study, tmp_path / 'data', '--metric', 'cosine')!r})"
    )
    # The process waits for its standard input, which only this test could close.
    folder, pipe = Path(__file__).parents[1], subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=folder
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        with pytest.raises(InputError, match="another run is writing here"):
            searchlight.main(spheres(study, tmp_path / "data"))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert {path: path.read_bytes() for path in before} == before
    searchlight.main(spheres(study, tmp_path / "data"))
    assert times(tmp_path / "data")["sub-01.npy"] == times(sphere_data)["sub-01.npy"]
    assert not (tmp_path / "data" / "searchlight_rdms" / ".unfinished").exists()


def test_a_full_disk_leaves_no_partial_file(study, tmp_path, monkeypatch):
    compute, calls = searchlight_rdms.member_rdms, []

    def full(*given, **options):
        calls.append(0)
        if len(calls) > 1:  # the piece of the second subject
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return compute(*given, **options)

    monkeypatch.setattr(searchlight_rdms, "member_rdms", full)
    with pytest.raises(InputError, match=r"sub-02.npy: cannot be written \(the disk is full\); free space, or choose"):
        searchlight.main(spheres(study, tmp_path))
    staging = tmp_path / "searchlight_rdms" / ".unfinished"
    left = {path.relative_to(staging).as_posix() for path in staging.rglob("[!.]*") if path.is_file()}
    assert left == {"sub-01.npy", "n_voxels/sub-01.nii.gz", "run.json"}
    monkeypatch.undo()
    searchlight.main(spheres(study, tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**4))
    with pytest.raises(InputError, match=r"take 0 MB, but only 0 MB are free; make room"):
        searchlight.main(spheres(study, tmp_path, "--center"))


def test_a_file_that_may_not_grow_is_one_line(study, tmp_path):
    """A real limit of the system, met by a write in the middle of a subject, ends in one line and no signal."""
    pytest.importorskip("resource", reason="Windows has no such limit")
    code = (
        "import resource, signal; from utils import searchlight; from utils.cli import command as cli\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        f"cli.execute(lambda: searchlight.main({spheres(study, tmp_path / 'data')!r}), searchlight._parser())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "sub-01.npy: cannot be written (the disk is full)" in done.stderr


# ------------------------------------------------------------------------------------------------------ what is refused


def ends(module: str, *given) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, given)], cwd=HOME, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr


def test_an_error_is_one_line_and_status_2(study, tmp_path):
    given = arguments(study, tmp_path / "out", "--geometry", "spheres", "--radius-mm", 2)
    status, text = ends("utils.searchlight", *given)
    assert status == 2
    assert text == (
        "error: --radius-mm 2 reaches no neighbour, as voxels are 3 mm apart; give 3 or more (9 is usual)\n"
    )
    status, text = ends("utils.rois", "--betas", "nowhere.nii", "--atlas", "a.nii", "--out", tmp_path / "out")
    assert (status, text.count("\n")) == (2, 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("module", ["utils.searchlight", "utils.rois"])
def test_help_loads_nothing_heavy_and_has_an_example(module):
    heavy = "{'torch', 'distributed', 'numba', 'nibabel', 'nilearn', 'matplotlib', 'pandas'}"
    code = (
        f"import runpy, sys; sys.argv = ['{module}', '--help']\n"
        f"try:\n    runpy.run_module('{module}', run_name='__main__')\n"
        f"finally:\n    assert not {heavy} & {{*sys.modules}}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True, check=True)
    assert f"python -m {module} --betas" in done.stdout
    assert "None" not in done.stdout


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--radius-mm", "6"], "--radius-mm is the radius of spheres"),
        (["--geometry", "spheres"], "needs --radius-mm"),
        (["--geometry", "spheres", "--radius-mm", "nan"], "needs --radius-mm, a positive number"),
        (["--min-voxels", "1"], "--min-voxels is 1, expected 2 or more"),
        (["--threads", "0"], "argument --threads/--n-jobs: '0', expected a whole number from 1 on"),
        (["--dask", "node"], "argument --dask: 'node', expected local:N, tcp://HOST:PORT, or a scheduler file"),
    ],
)
def test_options_that_make_no_sense_are_refused(study, tmp_path, capsys, extra, message):
    with pytest.raises(SystemExit) as ended:
        searchlight.main(arguments(study, tmp_path, *extra))
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_input_that_cannot_be_used_is_refused(study, tmp_path, sphere_data):
    def refused(message, given):
        with pytest.raises(InputError, match=message) as caught:
            searchlight.main(given)
        assert "\n" not in str(caught.value)

    nothing = save(tmp_path / "sub-09.nii.gz", np.full((*SHAPE, 8), np.nan, np.float32))
    refused(
        r"sub-09.nii.gz: none of the 210 voxels .* \(210 NaN or inf", spheres(study, tmp_path / "a", betas=[nothing])
    )
    refused(
        r"holds sub-01.npy, .* which belong to none of the 1 subject\(s\) given",
        spheres(study, sphere_data, betas=[study / "sub-02.nii.gz"]),
    )
    other = save(tmp_path / "mask.nii.gz", np.ones((9, 8, 6), np.uint8))
    refused("mask.nii.gz: is on a grid of 9 x 8 x 6", [*spheres(study, tmp_path / "a"), "--mask", str(other)])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "conditions.txt").write_text("\n".join([*NAMES[1:], "other"]))
    refused("conditions.txt: has other, of which there are no beta maps", spheres(study, tmp_path / "b"))


def test_conditions_take_the_order_of_the_networks(study, tmp_path, sphere_data, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "conditions.txt").write_text("\n".join(reversed(NAMES)))
    given = spheres(study, tmp_path / "data", betas=[study / "sub-02.nii.gz", study / "sub-01.nii.gz"])
    searchlight.main([option for option in given if option != "-q"])
    assert "conditions are put into the order of" in capsys.readouterr().out
    rdms, reversed_ = (np.load(out / "searchlight_rdms" / "sub-02.npy") for out in (sphere_data, tmp_path / "data"))
    np.testing.assert_allclose(reversed_, condense(expand(rdms)[:, ::-1, ::-1]), atol=1e-6)


@pytest.mark.parametrize(("memory", "ahead"), [(None, True), (30_000, True), (10_000, False), (6_000, None)])
def test_memory_decides_whether_subjects_are_read_ahead(study, tmp_path, sphere_data, monkeypatch, memory, ahead):
    """210 voxels of 8 conditions in float32 are 6,720 bytes."""
    waiting = []
    compute = searchlight_rdms.SearchlightJob.load
    monkeypatch.setattr(
        searchlight_rdms.SearchlightJob, "load", lambda job, s: waiting.append(s.name) or compute(job, s)
    )
    real = searchlight_rdms._Run._compute_subject

    def observed(run, subject, responses, workers):
        seen.append(len(waiting) > len(seen) + 1)
        return real(run, subject, responses, workers)

    seen: list[bool] = []
    monkeypatch.setattr(searchlight_rdms._Run, "_compute_subject", observed)
    monkeypatch.setattr(cli, "size", int)
    given = spheres(study, tmp_path / "data", *(["--memory", str(memory)] if memory else []), "--threads", "1")
    if ahead is None:
        with pytest.raises(
            InputError, match=r"the responses of a subject take 0.00672 MB, more than the `memory` of 0.006 MB"
        ):
            searchlight.main(given)
        return
    searchlight.main(given)
    assert len(waiting) == 3
    assert ahead or not any(seen)
    for name in ("sub-01", "sub-03"):
        found, expected = (out / "searchlight_rdms" / f"{name}.npy" for out in (tmp_path / "data", sphere_data))
        assert found.read_bytes() == expected.read_bytes()


def test_a_dry_run_only_tells_what_it_understood(study, tmp_path, capsys):
    searchlight.main([*spheres(study, tmp_path / "data"), "--dry-run", "-q"])
    assert capsys.readouterr().out.startswith("3 subject(s): sub-01, sub-02, sub-03; 8 conditions, 1 run(s) each\n")
    assert not (tmp_path / "data").exists()


def test_fresh_removes_what_an_earlier_call_wrote(study, tmp_path, sphere_data):
    out = tmp_path / "data"
    shutil.copytree(sphere_data, out)
    with pytest.warns(UserWarning, match="one subject has no noise ceiling"):
        searchlight.main(spheres(study, out, "--fresh", betas=[study / "sub-02.nii.gz"]))
    names = {path.name for path in (out / "searchlight_rdms").rglob("*") if path.is_file()}
    assert names == {"sub-02.npy", "sub-02.nii.gz", "geometry.npz", "n_voxels.nii.gz", "subjects.tsv", "run.json"}
    np.save(out / "searchlight_rdms" / "mine.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"holds mine.npy, .* or remove these files"):
        searchlight.main(spheres(study, out, "--fresh"))
    assert (out / "searchlight_rdms" / "mine.npy").exists()


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("2GB", 2e9), ("500MB", 5e8), ("1.5g", 1.5e9), ("20000 kB", 2e7), ("64 MiB", 2**26), ("2gib", 2**31), ("3e7", 0),
     ("9MB", 0), ("1.2.3GB", 0), ("GB", 0)],
)  # fmt: skip
def test_sizes_are_powers_of_1000_unless_they_say_that_they_are_of_1024(text, n_bytes):
    if n_bytes:
        assert cli.size(text) == n_bytes
    else:
        with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}', expected a size of at least 10MB"):
            cli.size(text)


@pytest.mark.parametrize("name", ["SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"])
def test_cores_that_were_granted(monkeypatch, name):
    for variable in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"):
        monkeypatch.delenv(variable, raising=False)
    every = available_cores()
    assert every == len(os.sched_getaffinity(0))
    for text, cores in (("1", 1), ("512", every), ("0", every), ("2,2", every)):
        monkeypatch.setenv(name, text)
        assert available_cores() == cores


# ---------------------------------------------------------------------------------------------------------------- ROIs


def write_atlas(root: Path) -> list[str]:
    """Three ROIs, of which one has no voxel."""
    labels = np.zeros(SHAPE, np.int16)
    labels[1:4, 1:4, 1:4], labels[5:8, 1:4, 2:6] = 3, 7
    save(root / "atlas.nii.gz", labels)
    (root / "labels.csv").write_text("id,roi\n3,EVC\n5,none\n7,IT\n")
    return ["--atlas", str(root / "atlas.nii.gz"), "--labels", str(root / "labels.csv"), "-q"]


@pytest.mark.slow
def test_rois_of_every_subject(study, tmp_path, monkeypatch):
    atlas = write_atlas(tmp_path)
    with pytest.warns(UserWarning, match=r"ROI none \(label 5\) has no voxel on the grid of the beta maps: left out"):
        rois.main([*arguments(study, tmp_path / "data", mask=False), *atlas])
    data = tmp_path / "data"
    assert (data / "roi_labels.csv").read_text() == "id,roi\n3,EVC\n7,IT\n"
    labels = nib.load(data / "atlas.nii.gz").get_fdata()
    for number, name, n_voxels in ((3, "EVC", 27), (7, "IT", 36)):
        rdms = np.load(data / "roi_rdms" / f"{name}.npy")
        assert (rdms.dtype, rdms.shape) == (np.float32, (3, 8, 8))
        assert (labels == number).sum() == n_voxels
        for subject, rdm in enumerate(rdms, start=1):
            betas = nib.load(study / f"sub-{subject:02d}.nii.gz").get_fdata()
            expected = squareform(pdist(betas[labels == number].T, "correlation"))
            np.testing.assert_allclose(rdm, expected, atol=2e-7)
    rows = [line.split("\t") for line in (data / "roi_rdms" / "roi_voxels.tsv").read_text().splitlines()]
    assert rows[:2] == [["roi", "subject", "voxels", "usable"], ["EVC", "sub-01", "27", "27"]]
    assert json.loads((data / "roi_rdms" / "run.json").read_text())["options"]["hemisphere"] == "both"
    given = ("--data", with_models(data), "--results", tmp_path, "-np", 99, "--no-open", "-q")
    assert run_script(monkeypatch, "Fig3b", *given) == 0
    assert (tmp_path / "Fig3b" / "brain_map.html").exists()


def test_rois_inside_a_mask(study, tmp_path):
    atlas = write_atlas(tmp_path)
    mask = np.zeros(SHAPE, np.uint8)
    mask[:3] = 1
    save(tmp_path / "mask.nii.gz", mask)
    with pytest.warns(UserWarning) as caught:
        rois.main([*arguments(study, tmp_path / "data", mask=False), *atlas, "--mask", str(tmp_path / "mask.nii.gz")])
    assert any("ROI IT (label 7) has no voxel inside the mask" in str(w.message) for w in caught)
    rows = (tmp_path / "data" / "roi_rdms" / "roi_voxels.tsv").read_text().splitlines()
    assert rows[1:] == [f"EVC\tsub-0{s}\t18\t18" for s in (1, 2, 3)]


def test_an_roi_that_a_subject_lacks_is_left_out(study, tmp_path):
    atlas = write_atlas(tmp_path)
    betas = nib.load(study / "sub-01.nii.gz").get_fdata(dtype=np.float32)
    betas[5:8] = 0
    paths = [save(tmp_path / "sub-01.nii.gz", betas), study / "sub-02.nii.gz"]
    with pytest.warns(UserWarning) as caught:
        rois.main([*arguments(study, tmp_path / "data", mask=False, betas=paths), *atlas])
    texts = [str(warning.message) for warning in caught]
    assert any(
        "ROI IT (label 7): 0 of its 36 voxel(s) are usable" in t and "sub-01: the ROI is left out" in t for t in texts
    )
    assert [path.stem for path in (tmp_path / "data" / "roi_rdms").glob("*.npy")] == ["EVC"]
    betas[:] = 0
    save(tmp_path / "sub-01.nii.gz", betas)
    with (
        pytest.warns(UserWarning),
        pytest.raises(InputError, match=r"none of its 3 ROI\(s\) has an RDM in every subject"),
    ):
        rois.main([*arguments(study, tmp_path / "other", mask=False, betas=paths), *atlas])
    assert not (tmp_path / "other").exists()


def test_few_voxels_are_worth_a_warning_and_old_rois_go(study, tmp_path):
    atlas = write_atlas(tmp_path)
    with pytest.warns(UserWarning):
        rois.main([*arguments(study, tmp_path / "data", mask=False), *atlas])
    labels = np.zeros(SHAPE, np.int16)
    labels[1, 1, 1:5] = 3
    save(tmp_path / "atlas.nii.gz", labels)
    with pytest.warns(UserWarning, match=r"fewer than 10 usable voxels in ROI\(s\) EVC \(fewest: 4 in EVC of sub-01\)"):
        rois.main([*arguments(study, tmp_path / "data", mask=False), *atlas])
    assert [path.stem for path in (tmp_path / "data" / "roi_rdms").glob("*.npy")] == ["EVC"]


def test_a_full_disk_leaves_rois_as_they_were(study, tmp_path, monkeypatch):
    atlas = write_atlas(tmp_path)
    with pytest.warns(UserWarning):
        rois.main([*arguments(study, tmp_path / "data", mask=False), *atlas])
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}

    def full(*_given, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("utils.rdms.roi_rdms.write_volume", full)
    with pytest.warns(UserWarning), pytest.raises(InputError, match=r"cannot be written \(the disk is full\)"):
        rois.main([*arguments(study, tmp_path / "data", mask=False), *atlas])
    assert {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()} == before


# --------------------------------------------------------------------------------------------------------- twelve runs


def literal_rdm(patterns: np.ndarray) -> list[float]:
    """1 - Pearson of every pair of rows, one after the other."""
    rdm = []
    for i in range(len(patterns)):
        for j in range(i + 1, len(patterns)):
            a, b = patterns[i] - patterns[i].mean(), patterns[j] - patterns[j].mean()
            rdm.append(1 - (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    return rdm


def run_arguments(runs: Path, out: Path, *extra) -> list[str]:
    return arguments(runs, out, "-q", *extra, betas=sorted(runs.glob("run-*.nii.gz")))


@pytest.mark.parametrize("geometry", ["blocks", "spheres"])
def test_searchlights_equal_a_literal_loop(runs, tmp_path, geometry):
    extra = [] if geometry == "blocks" else ["--geometry", "spheres", "--radius-mm", 45]
    searchlight.main(run_arguments(runs, tmp_path, *extra))
    folder = tmp_path / "searchlight_rdms"
    centers = Geometry.load(folder / "geometry.npz").voxels
    mask = inside(runs)
    voxels = np.argwhere(mask)
    for run in (1, 12):
        betas = nib.load(runs / f"run-{run:02d}_betas.nii.gz").get_fdata()
        rdms = np.load(folder / f"run-{run:02d}_betas.npy")
        if geometry == "blocks":
            sets = [betas[i : i + a, j : j + b, k : k + c].reshape(-1, 8) for i, j, k, a, b, c in release_blocks(mask)]
        else:
            places = np.stack(np.unravel_index(centers, mask.shape), axis=1)
            near = [voxels[np.linalg.norm(25 * (voxels - place), axis=1) <= 45] for place in places]
            sets = [betas[tuple(own.T)] for own in near]
        assert len(rdms) == len(sets) > 20
        for rdm, own in zip(rdms, sets, strict=True):
            np.testing.assert_allclose(rdm, literal_rdm(own.T), atol=1e-6)


def test_roi_equals_a_literal_loop(runs, tmp_path):
    mask = nib.load(runs / "mask.nii.gz")
    labels = np.where((mask.get_fdata() > 0) & (np.arange(10) < 5)[None, :, None], 1, 0).astype(np.int16)
    save(tmp_path / "atlas.nii.gz", labels, mask.affine)
    (tmp_path / "labels.csv").write_text("id,roi\n1,posterior\n")
    atlas = ["--atlas", tmp_path / "atlas.nii.gz", "--labels", tmp_path / "labels.csv"]
    rois.main(run_arguments(runs, tmp_path / "data", *atlas))
    rdms = np.load(tmp_path / "data" / "roi_rdms" / "posterior.npy")
    assert rdms.shape == (12, 8, 8)
    for run in (1, 7, 12):
        betas = nib.load(runs / f"run-{run:02d}_betas.nii.gz").get_fdata()
        np.testing.assert_allclose(squareform(rdms[run - 1]), literal_rdm(betas[labels > 0].T), atol=2e-7)


def test_a_reader_that_has_enough_ends_the_command_without_a_word():
    code = (
        "from utils.cli import command as cli\n"
        "def main():\n"
        "    for number in range(100_000):\n"
        "        print('line', number)\n"
        "cli.execute(main, cli.Parser())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    ) as process:
        assert process.stdout.readline() == "line 0\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=300) == 1


# ----------------------------------------------------------------------------------------------------- cross-validated


@pytest.fixture(scope="module")
def in_runs(tmp_path_factory) -> Path:
    """Beta maps of three subjects in three or four runs, and residuals of two files each."""
    root, rng = tmp_path_factory.mktemp("in_runs"), np.random.default_rng(8)
    for subject, n_runs in (("sub-01", 3), ("sub-02", 4), ("sub-03", 3)):
        signal = rng.standard_normal((*SHAPE, 8))
        for run in range(1, n_runs + 1):
            noise = 2 * rng.standard_normal((*SHAPE, 8)) + rng.standard_normal((*SHAPE, 1))
            save(root / subject / f"run-{run}.nii.gz", (signal + noise).astype(np.float32))
        for part in (1, 2):
            residuals = rng.standard_normal((*SHAPE, 40)) * rng.uniform(0.5, 2, (*SHAPE, 1))
            save(root / "residuals" / f"{subject}_part-{part}.nii.gz", residuals.astype(np.float32))
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:-1, 1:-1, 1:-1] = 1
    save(root / "mask.nii.gz", mask)
    (root / "conditions.txt").write_text("\n".join(NAMES) + "\n")
    return root


def of_runs(root: Path, out: Path, *extra) -> list[str]:
    subjects = [root / name for name in ("sub-01", "sub-02", "sub-03")]
    return arguments(root, out, "--geometry", "spheres", "--radius-mm", 6, "-q", *extra, betas=subjects)


@pytest.mark.parametrize("noise", ["none", "runs", "residuals"])
def test_crossnobis_of_spheres_as_rsatoolbox(in_runs, tmp_path, noise):
    from rsatoolbox.data import Dataset
    from rsatoolbox.data.noise import prec_from_residuals
    from rsatoolbox.rdm import calc_rdm

    files = sorted((in_runs / "residuals").iterdir())
    searchlight.main(
        of_runs(in_runs, tmp_path, "--metric", "crossnobis", "--noise", *(files if noise == "residuals" else [noise]))
    )
    found = np.load(tmp_path / "searchlight_rdms" / "sub-02.npy")
    assert (found < 0).any()
    geometry = Geometry.load(tmp_path / "searchlight_rdms" / "geometry.npz")
    runs = [nib.load(in_runs / "sub-02" / f"run-{r}.nii.gz").get_fdata() for r in range(1, 5)]
    series = [nib.load(path).get_fdata() for path in files if path.name.startswith("sub-02")]
    for place in (0, 40, len(geometry) - 1):
        near = np.linalg.norm((np.argwhere(inside(in_runs)) - np.argwhere(geometry.to_volume(
            np.arange(len(geometry)) == place))[0]) * 3, axis=1) <= 6  # fmt: skip
        own = tuple(np.argwhere(inside(in_runs))[near].T)
        patterns = np.stack([run[own].T for run in runs])  # (4, 8, n_voxels)
        if noise == "residuals":
            rows = np.concatenate([(part[own] - part[own].mean(axis=1, keepdims=True)).T for part in series])
            precision = prec_from_residuals(rows, dof=len(rows) - 2, method="shrinkage_eye")
        elif noise == "runs":
            rows = patterns - patterns.mean(axis=0) - patterns.mean(axis=1, keepdims=True) + patterns.mean(axis=(0, 1))
            precision = prec_from_residuals(rows.reshape(32, -1), dof=21, method="shrinkage_eye")
        run, condition = np.indices((4, 8)).reshape(2, -1)
        data = Dataset(patterns.reshape(32, -1), obs_descriptors={"run": run, "condition": condition})
        theirs = calc_rdm(data, method="crossnobis", descriptor="condition", cv_descriptor="run",
                          noise=None if noise == "none" else precision)  # fmt: skip
        np.testing.assert_allclose(found[place], theirs.dissimilarities[0], atol=2e-5 * np.abs(found).max())


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["crossnobis", "cross-validated-correlation"])
def test_negative_distances_reach_the_figures(in_runs, tmp_path, monkeypatch, metric):
    labels = np.zeros(SHAPE, np.int16)
    labels[1:4, 1:4, 1:4], labels[4:7, 1:4, 1:4] = 1, 2
    save(tmp_path / "atlas.nii.gz", labels)
    (tmp_path / "labels.csv").write_text("id,roi\n1,EVC\n2,IT\n")
    data = tmp_path / "data"
    searchlight.main(of_runs(in_runs, data, "--metric", metric))
    subjects = [in_runs / name for name in ("sub-01", "sub-02", "sub-03")]
    atlas = ["--atlas", str(tmp_path / "atlas.nii.gz"), "--labels", str(tmp_path / "labels.csv"), "-q"]
    rois.main([*arguments(in_runs, data, "--metric", metric, betas=subjects, mask=False), *atlas])
    with_models(data)
    rdms = np.load(data / "roi_rdms" / "EVC.npy")
    assert (condense(rdms) < 0).any() == (metric == "crossnobis")
    for figure in ("Fig1", "Fig3b"):
        assert run_script(monkeypatch, figure, "--data", data, "--results", tmp_path, "-np", 99) == 0


def test_what_cross_validation_needs(in_runs, study, tmp_path):
    def refused(message, given):
        with pytest.raises(InputError, match=message) as caught:
            searchlight.main(given)
        assert "\n" not in str(caught.value)

    one = spheres(study, tmp_path / "a", "--metric", "crossnobis")
    refused(r"sub-01.nii.gz: subject sub-01 has one run, expected two or more for cross-validated distances", one)
    refused(r"`noise` is for the metric crossnobis, but the metric is correlation",
            of_runs(in_runs, tmp_path / "a", "--noise", "runs"))  # fmt: skip
    refused(r"nowhere.nii: no such file; expected residuals",
            of_runs(in_runs, tmp_path / "a", "--metric", "crossnobis", "--noise", "nowhere.nii"))  # fmt: skip
    part = in_runs / "residuals" / "sub-01_part-1.nii.gz"
    refused(r"`noise` has no residuals of sub-02, sub-03",
            of_runs(in_runs, tmp_path / "a", "--metric", "crossnobis", "--noise", part))  # fmt: skip
    other = save(tmp_path / "sub-09.nii.gz", np.zeros((*SHAPE, 5), np.float32))
    refused(r"sub-09.nii.gz: is of no subject of the beta maps \(sub-01, sub-02, sub-03\)",
            of_runs(in_runs, tmp_path / "a", "--metric", "crossnobis", "--noise", other))  # fmt: skip
    flat = save(tmp_path / "sub-01.nii.gz", np.zeros(SHAPE, np.float32))
    refused(r"sub-01.nii.gz: holds 1 volume\(s\) on a grid of .*, expected a time series of residuals",
            of_runs(in_runs, tmp_path / "a", "--metric", "crossnobis", "--noise", flat))  # fmt: skip
    refused(r"`center` does not change crossnobis distances",
            of_runs(in_runs, tmp_path / "a", "--metric", "crossnobis", "--center"))  # fmt: skip
    rows = ["file\tindex\tcondition\trun", *(f"run-{r}.nii.gz\t{i}\t{name}\t{r}" for r in (1, 2, 3, 4)
                                           for i, name in enumerate(NAMES))]  # fmt: skip
    table = tmp_path / "table.tsv"
    table.write_text("\n".join(rows).replace(f"run-2.nii.gz\t7\t{NAMES[7]}", "run-2.nii.gz\t7\tn/a").replace(
        f"run-3.nii.gz\t7\t{NAMES[7]}", "run-3.nii.gz\t7\tn/a"))  # fmt: skip
    given = of_runs(in_runs, tmp_path / "a", "--metric", "crossnobis")
    given[given.index("--conditions") + 1] = str(table)
    refused(rf"sub-01 has fewer than two runs with both {NAMES[0]} and {NAMES[7]} \(7 such pair\(s\)\)", given)
    assert not (tmp_path / "a").exists()
