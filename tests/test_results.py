import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from utils import InputError
from utils.io import output
from utils.io.output import disk_errors, staged, write_arrays, write_table, write_volume, written_whole
from utils.io.provenance import fingerprint


def fill(folder, names, content="new"):
    with staged(folder) as outputs:
        for name in names:
            outputs.path(name).write_text(content)
        return outputs.publish({"figure": "FigX"})


def test_files_appear_together_and_are_listed(tmp_path):
    written = fill(tmp_path / "a" / "FigX", ["results.tsv", "maps/winner.tsv"])
    assert [path.relative_to(tmp_path / "a" / "FigX").as_posix() for path in written] == [
        "maps/winner.tsv",
        "results.tsv",
        "run.json",
    ]
    assert all(path.exists() for path in written)
    assert json.loads(written[-1].read_text())["files"] == ["maps/winner.tsv", "results.tsv"]
    assert [path.name for path in (tmp_path / "a" / "FigX").glob(".*")] == []


def test_a_run_that_fails_changes_nothing(tmp_path):
    fill(tmp_path, ["results.tsv"], "old")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(RuntimeError), staged(tmp_path) as outputs:
        outputs.path("results.tsv").write_text("half")
        raise RuntimeError
    assert (tmp_path / "results.tsv").read_text() == "old"
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_files_that_a_run_no_longer_makes_go_but_those_of_others_stay(tmp_path):
    fill(tmp_path, ["results.tsv", "brain_map.html"])
    (tmp_path / "my_notes.txt").write_text("keep")
    fill(tmp_path, ["results.tsv"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my_notes.txt", "results.tsv", "run.json"]


def test_a_record_cannot_point_outside(tmp_path):
    (tmp_path / "other.txt").write_text("keep")
    folder = tmp_path / "FigX"
    fill(folder, ["results.tsv"])
    for name in ("../other.txt", str(tmp_path / "other.txt")):
        (folder / "run.json").write_text(json.dumps({"files": [name]}))
        fill(folder, ["results.tsv"])
    assert (tmp_path / "other.txt").read_text() == "keep"


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"file/FigX: cannot be written \(.+\); free space, or choose another folder"),
        staged(tmp_path / "file" / "FigX"),
    ):
        pass


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    with (
        pytest.raises(InputError, match=r"FigX: cannot be written \(the disk is full\)"),
        staged(tmp_path / "FigX") as out,
    ):
        out.path("results.tsv").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(InputError, match=r"a.bin: cannot be written \(the disk is full\)"):  # noqa: SIM117
        with written_whole(tmp_path / "a.bin") as file:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_errors_that_are_not_of_the_disk_stay_what_they_are(tmp_path):
    with pytest.raises(ConnectionError), staged(tmp_path / "FigX"):
        raise ConnectionError("reset by peer")
    with (
        pytest.raises(InputError, match=r"the index cannot be written \(Permission denied\)"),
        disk_errors(tmp_path, "the index"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_files_in_place_may_belong_to_a_run(tmp_path):
    fill(tmp_path, ["a.npy", "b.npy"])
    with staged(tmp_path) as outputs:
        outputs.path("c.npy").write_text("new")
        assert outputs.latest("a.npy") == tmp_path / "a.npy"
        assert outputs.latest("c.npy").parent == outputs.staging
        outputs.publish({}, keep=["a.npy"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "c.npy", "run.json"]
    assert json.loads((tmp_path / "run.json").read_text()) == {"files": ["a.npy", "c.npy"]}


def test_table_marks_what_is_missing(tmp_path):
    write_table(tmp_path / "t.tsv", pd.DataFrame({"roi": ["V1v", None], "p": [1 / 3, np.nan], "ok": [True, False]}))
    assert (tmp_path / "t.tsv").read_text() == "roi\tp\tok\nV1v\t0.333333333\tTrue\nn/a\tn/a\tFalse\n"


def test_arrays_need_no_pickle(tmp_path):
    write_arrays(tmp_path / "a.npz", names=["V1v", "hV4"], values=np.eye(2))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert arrays["names"].tolist() == ["V1v", "hV4"]
    with pytest.raises(ValueError, match="'names' is of objects"):
        write_arrays(tmp_path / "a.npz", names=[None, "a"])


def test_volumes_keep_labels_whole_and_positions(tmp_path):
    labels = np.arange(24).reshape(2, 3, 4)
    affine = np.diag([3.0, 3, 3, 1])
    write_volume(tmp_path / "v.nii.gz", labels, affine)
    image = nib.load(tmp_path / "v.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert np.array_equal(image.get_fdata(), labels)
    assert np.array_equal(image.affine, affine)
    write_volume(tmp_path / "v.nii.gz", labels / 7, affine)
    assert nib.load(tmp_path / "v.nii.gz").get_data_dtype() == np.float32


def test_fingerprint_sees_values_shape_and_type():
    x = np.arange(6.0)
    prints = {fingerprint(x), fingerprint(x[::-1]), fingerprint(x.reshape(2, 3)), fingerprint(x.astype(np.float32))}
    assert len(prints) == 4
    assert fingerprint(x) == fingerprint(x.copy())


def test_a_second_run_is_refused_and_leaves_the_first_alone(tmp_path):
    with staged(tmp_path / "results") as first:
        first.path("a.txt").write_text("1")
        refusal = pytest.raises(InputError, match=r"results: another run is writing here; wait until it has ended")
        with refusal, staged(tmp_path / "results"):
            raise AssertionError("two runs write to one folder")
        first.publish({})
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"a.txt", "run.json"}


def test_what_a_killed_run_has_left_goes_with_the_next(tmp_path):
    left = tmp_path / "results" / ".unfinished" / "maps"
    left.mkdir(parents=True)
    (left / "half.nii").write_text("half")
    (left.parent / ".lock").write_text("")
    (left.parent / "results.tsv").write_text("half")
    with staged(tmp_path / "results") as outputs:
        outputs.path("a.txt").write_text("1")
        outputs.publish({})
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"a.txt", "run.json"}


class Killed(BaseException):
    pass


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def publish_run(folder, text, names):
    with staged(folder, at_once=True) as outputs:
        for name in names:
            outputs.path(name).write_text(text)
        outputs.publish({"run": text})


@pytest.fixture
def published(tmp_path):
    """Results of a run, and what a person has put beside them; what they become by the next run."""
    folder = tmp_path / "results"
    publish_run(folder, "old", ["a.txt", "maps/m.nii", "maps/gone.nii", "gone/g.txt"])
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.md").write_text("mine")
    (folder / "maps" / "mine.nii").write_text("mine")
    (folder / "link").symlink_to("a.txt")
    (folder / "nowhere").symlink_to("not/there")
    (folder / "empty").mkdir()
    (folder / ".interim").mkdir()
    (folder / ".interim" / "1.npz").write_text("counts")
    return folder


NEW = ["a.txt", "maps/m.nii", "b/b.txt"]


def check_files(found):
    """Those of the new run, and the person's own."""
    found = {name: text for name, text in found.items() if not name.startswith(".")}
    assert json.loads(found.pop("run.json")) == {"run": "new", "files": sorted(NEW)}
    others = {"notes/mine.md": "mine", "maps/mine.nii": "mine", "link": "new"}
    assert found == dict.fromkeys(NEW, "new") | others


def check_new(folder):
    check_files(files_of(folder))
    assert (folder / "link").is_symlink() and (folder / "nowhere").is_symlink() and (folder / "empty").is_dir()
    assert [path.name for path in folder.parent.iterdir()] == ["results"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_results_take_the_place_of_earlier_ones(published, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(output, "exchange_folders", lambda a, b: False)
    inode = published.stat().st_ino
    publish_run(published, "new", NEW)
    assert (published.stat().st_ino != inode) == can_exchange
    check_new(published)
    assert (published / ".interim").exists() != can_exchange


def test_a_folder_that_is_a_link_stays_one(published, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link").symlink_to(published)
    publish_run(elsewhere / "link", "new", NEW)
    assert (elsewhere / "link").is_symlink()
    shutil.rmtree(elsewhere)
    check_new(published)


def test_a_run_that_is_killed_at_any_step_leaves_one_run(published, tmp_path, monkeypatch):
    """Every call that changes the disk may be the last one, before it or after it."""
    before, kinds = files_of(published), set()
    for when in ("before", "after"):
        for last in range(1, 200):
            work = tmp_path / f"{when}{last}" / "results"
            shutil.copytree(published, work, symlinks=True)
            with monkeypatch.context() as patch:
                left = [last]

                def dying(real, left=left, when=when):
                    def call(*arguments, **options):
                        left[0] -= 1
                        if left[0] < 0 or (left[0] == 0 and when == "before"):
                            raise Killed
                        value = real(*arguments, **options)
                        if left[0] == 0:
                            raise Killed
                        return value

                    return call

                for name in ("link", "mkdir", "rename", "replace", "unlink", "rmdir"):
                    patch.setattr(os, name, dying(getattr(os, name)))
                patch.setattr(output, "exchange_folders", dying(output.exchange_folders))
                # Nothing is cleaned up by a process that was killed.
                patch.setattr(shutil, "rmtree", dying(lambda *_, **__: None))
                try:
                    publish_run(work, "new", NEW)
                    ended = True
                except Killed:
                    ended = False
            now = files_of(work)
            kind = json.loads(now["run.json"])["run"]
            kinds.add(kind)
            if kind == "old":
                assert now == before
            else:
                check_files(now)
            publish_run(work, "new", NEW)
            check_new(work)
            if ended:
                break
    assert ended and kinds == {"old", "new"}


def test_a_second_run_may_wait_for_the_first(tmp_path):
    def write(text):
        with staged(tmp_path / "results", wait=True) as outputs:
            outputs.path("a.txt").write_text(text)
            outputs.publish({})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    assert (tmp_path / "results" / "a.txt").read_text() in set("abcd")
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"a.txt", "run.json"}


def test_a_disk_that_numpy_finds_full_is_told(tmp_path):
    with pytest.raises(InputError, match="the disk is full"), disk_errors(tmp_path, only_full=True):
        raise OSError("3216850 requested and 136160 written")
    with pytest.raises(OSError, match="something else"), disk_errors(tmp_path, only_full=True):
        raise OSError("something else")
