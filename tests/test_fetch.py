"""Downloads, from a server on the loopback interface; nothing here needs the internet."""

import dataclasses
import errno
import gzip
import hashlib
import io
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath

import nibabel as nib
import numpy as np
import pooch
import pytest
from helpers import run_script
from scipy.io import savemat

from models import checkpoints
from models.tasks import TASKS
from utils import InputError, fetch
from utils.cli import command as cli
from utils.datasets import layout, release
from utils.datasets.rois import PAPER_ROIS
from utils.io import download as downloads
from utils.io.data_folder import RELEASE
from utils.io.roi_tables import read_roi_table
from utils.rdms.atlas import WANG_ROIS

HOME = Path(__file__).resolve().parents[1]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --------------------------------------------------------------------------------------------------------- the server


@dataclasses.dataclass
class Site:
    """What the server has, how it behaves, and what it was asked for."""

    address: str = ""
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    cut_after: int = 0  # bytes after which the connection breaks, in answers to requests for the whole file
    dead: bool = False  # whether it no longer answers other requests once a connection has broken
    ranges: bool = True
    etag: str | None = '"v1"'
    status: dict[str, int] = dataclasses.field(default_factory=dict)
    requests: list[tuple[str, str | None]] = dataclasses.field(default_factory=list)

    def url(self, path: str) -> str:
        return f"{self.address}/{path}"


@pytest.fixture
def site(monkeypatch):
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self, site)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(downloads, "_PAUSE", 0.0)
    yield site
    server.shutdown()
    server.server_close()


def answer(request: BaseHTTPRequestHandler, site: Site) -> None:
    path = request.path.partition("?")[0].lstrip("/")
    key = request.path.lstrip("/") if request.path.lstrip("/") in site.files else path
    wanted = request.headers.get("Range")
    site.requests.append((key, wanted))
    if key in site.status or key not in site.files:
        request.send_error(site.status.get(key, 404))
        return
    if wanted and site.dead:
        request.connection.shutdown(socket.SHUT_RDWR)
        return
    content = site.files[key]
    start = 0
    if wanted and site.ranges and request.headers.get("If-Range", site.etag) == site.etag:
        start = int(wanted.removeprefix("bytes=").partition("-")[0])
    if start and start >= len(content):
        request.send_response(416)
        request.send_header("Content-Range", f"bytes */{len(content)}")
        request.send_header("Content-Length", "0")
        request.end_headers()
        return
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    if site.etag:
        request.send_header("ETag", site.etag)
    request.send_header("Content-Length", str(len(content) - start))
    request.end_headers()
    if site.cut_after and not start:
        request.wfile.write(content[: site.cut_after])
        request.wfile.flush()
        request.connection.shutdown(socket.SHUT_RDWR)
    else:
        request.wfile.write(content[start:])


@pytest.fixture
def closed():
    """An address where nobody listens, and nobody else can meanwhile."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{probe.getsockname()[1]}"


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the command."""
    with pytest.raises(SystemExit) as ended:
        cli.execute(lambda: fetch.main([str(argument) for argument in arguments]), fetch._parser())
    return ended.value.code, *capsys.readouterr()


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------------- one download

CONTENT = np.random.default_rng(0).bytes(3_000_000)


def test_download_verifies_and_does_not_repeat(site, tmp_path):
    site.files["f.bin"] = CONTENT
    path = tmp_path / "deep" / "f.bin"
    steps: list[tuple[int, int]] = []
    assert downloads.download(site.url("f.bin"), path, sha256(CONTENT), progress=lambda *step: steps.append(step))
    assert path.read_bytes() == CONTENT and names(tmp_path) == {"deep/f.bin"}
    assert steps[-1] == (len(CONTENT), len(CONTENT)) and steps == sorted(steps)
    assert not downloads.download(site.url("f.bin"), path, sha256(CONTENT))
    assert len(site.requests) == 1


def test_damaged_file_is_fetched_again(site, tmp_path):
    site.files["f.bin"] = CONTENT
    path = tmp_path / "f.bin"
    path.write_bytes(CONTENT[:-1])
    assert downloads.download(site.url("f.bin"), path, sha256(CONTENT))
    assert path.read_bytes() == CONTENT


def test_wrong_digest_is_not_kept(site, tmp_path):
    site.files["f.bin"] = CONTENT
    message = rf"f\.bin: .*expected {'0' * 64} but got {sha256(CONTENT)}\. .*; run this again$"
    with pytest.raises(InputError, match=message):
        downloads.download(site.url("f.bin"), tmp_path / "f.bin", "0" * 64)
    assert names(tmp_path) == set()


def test_cut_connection_is_taken_up_within_a_run(site, tmp_path):
    site.files["f.bin"], site.cut_after = CONTENT, 2_000_000
    downloads.download(site.url("f.bin"), tmp_path / "f.bin", sha256(CONTENT))
    assert (tmp_path / "f.bin").read_bytes() == CONTENT
    first, second = (wanted for _, wanted in site.requests)
    assert first is None and 0 < int(second.removeprefix("bytes=").rstrip("-")) <= 2_000_000


@pytest.mark.parametrize(
    ("known", "etag", "now", "ranges", "resumed"),
    [
        (True, '"v1"', '"v1"', True, True),  # goes on
        (True, None, None, True, True),  # nothing to compare, but the digest will tell
        (True, '"v1"', '"v1"', False, False),  # a server without ranges sends all of it
        (False, '"v1"', '"v1"', True, True),  # the server says that it is the same file
        (False, '"v1"', '"v2"', True, False),  # the file has changed
        (False, None, None, True, False),  # nothing tells whether the piece fits
    ],
)
def test_piece_of_an_earlier_run(site, tmp_path, known, etag, now, ranges, resumed):
    old = CONTENT if etag == now else bytes(len(CONTENT))
    site.files["f.bin"], site.cut_after, site.etag, site.dead = old, 2_000_000, etag, True
    path, digest = tmp_path / "f.bin", sha256(CONTENT) if known else None
    with pytest.raises(InputError, match=rf"cannot be reached.*kept in {path}\.part\); download .* by hand"):
        downloads.download(site.url("f.bin"), path, digest)
    assert not path.exists()
    site.files["f.bin"], site.cut_after, site.etag, site.ranges, site.dead = CONTENT, 0, now, ranges, False
    site.requests.clear()
    done = []
    downloads.download(site.url("f.bin"), path, digest, progress=lambda *step: done.append(step[0]))
    assert path.read_bytes() == CONTENT and names(tmp_path) == {"f.bin"}
    assert (done[0] > 2**20) == resumed
    assert len(site.requests) == 1


def test_interruption_keeps_what_has_arrived(site, tmp_path):
    site.files["f.bin"] = CONTENT

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        downloads.download(site.url("f.bin"), tmp_path / "f.bin", sha256(CONTENT), progress=interrupt)
    assert names(tmp_path) == {"f.bin.part", "f.bin.part.etag"}
    arrived = (tmp_path / "f.bin.part").stat().st_size
    downloads.download(site.url("f.bin"), tmp_path / "f.bin", sha256(CONTENT))
    assert (tmp_path / "f.bin").read_bytes() == CONTENT and site.requests[-1] == ("f.bin", f"bytes={arrived}-")


def test_piece_that_is_complete_or_too_long(site, tmp_path):
    site.files["f.bin"] = CONTENT
    (tmp_path / "f.bin.part").write_bytes(CONTENT)
    downloads.download(site.url("f.bin"), tmp_path / "f.bin", sha256(CONTENT))
    assert (tmp_path / "f.bin").read_bytes() == CONTENT
    (tmp_path / "f.bin").unlink()
    (tmp_path / "f.bin.part").write_bytes(CONTENT + b"more")
    downloads.download(site.url("f.bin"), tmp_path / "f.bin", sha256(CONTENT))
    assert names(tmp_path) == {"f.bin"}


def test_no_network(closed, tmp_path):
    url = f"{closed}/f.bin"
    with pytest.raises(InputError) as caught:
        downloads.download(url, tmp_path / "f.bin", "0" * 64)
    assert str(caught.value) == (
        f"{url}: cannot be reached: Connection refused; "
        f"download {url} by hand, save it as {tmp_path / 'f.bin'} and run this again"
    )
    assert names(tmp_path) == set()


@pytest.mark.parametrize(("status", "text"), [(403, "403 Forbidden"), (404, "404 Not Found"), (503, "503 Service")])
def test_server_refuses(site, tmp_path, status, text):
    site.status["f.bin"] = status
    with pytest.raises(InputError, match=f"the server answers '{text}.*download http://page by hand"):
        downloads.download(site.url("f.bin"), tmp_path / "f.bin", by_hand="http://page")
    assert names(tmp_path) == set()


def test_not_an_address(tmp_path):
    with pytest.raises(InputError, match=r"data\.zip: cannot be reached: .*No scheme supplied"):
        downloads.download("data.zip", tmp_path / "f.bin")


@pytest.fixture
def full_disk(monkeypatch):
    """Nothing larger than 100,000 bytes can be written."""
    original = Path.open

    def open_small(path, mode="r", *args, **kwargs):
        file = original(Path(path), mode, *args, **kwargs)
        if "b" in mode and set(mode) & set("wa"):
            room = 100_000
            write = file.write

            class Full(io.BufferedIOBase):
                def write(self, data):
                    nonlocal room
                    room -= len(data)
                    if room < 0:
                        write(data[: max(0, room + len(data))])
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    return write(data)

                def close(self):
                    file.close()

            return Full()
        return file

    monkeypatch.setattr(Path, "open", open_small)
    monkeypatch.setattr(zipfile, "open", open_small, raising=False)  # what it extracts with


def test_full_disk_leaves_nothing(site, tmp_path, full_disk):
    site.files["f.bin"] = CONTENT
    with pytest.raises(
        InputError, match=r"f\.bin: (it )?cannot be written \(the disk is full\); free space, or choose another folder"
    ):
        downloads.download(site.url("f.bin"), tmp_path / "f.bin", sha256(CONTENT))
    assert names(tmp_path) == set()


def test_folder_that_cannot_be_made(site, tmp_path):
    site.files["f.bin"] = CONTENT
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError, match=r"cannot be written \(Not a directory\); free space, or choose another folder"
    ):
        downloads.download(site.url("f.bin"), tmp_path / "file" / "f.bin")


# ------------------------------------------------------------------------------------------------------------ archives


def write_zip(path: Path, files: dict[str, bytes], **links: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
        for name, target in links.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(info, target)
    return path


def test_unpack(tmp_path):
    archive = write_zip(
        tmp_path / "a.zip",
        {"x/": b"", "x/a.txt": b"a", "x/y/b.bin": CONTENT, "c": b"", "x/._a.txt": b"of macOS", "__MACOSX/c": b"too"},
    )
    files = downloads.unpack(archive, tmp_path / "out")
    assert (
        names(tmp_path / "out")
        == {"x/a.txt", "x/y/b.bin", "c"}
        == {str(f.relative_to(tmp_path / "out")) for f in files}
    )
    assert (tmp_path / "out/x/y/b.bin").read_bytes() == CONTENT
    before = (tmp_path / "out/x/y/b.bin").stat().st_ino
    (tmp_path / "out/x/a.txt").write_bytes(b"b")
    downloads.unpack(archive, tmp_path / "out")
    assert (tmp_path / "out/x/a.txt").read_bytes() == b"a"
    assert (tmp_path / "out/x/y/b.bin").stat().st_ino == before  # was not written again


@pytest.mark.parametrize("name", ["../evil", "x/../../evil", "/evil", "..\\evil", "C:\\evil"])
def test_libraries_unpack_members_outside_the_target_without_a_word(tmp_path, name):
    """Why the refusal below is ours: zipfile and pooch keep to the folder, but rename such members silently."""
    archive = write_zip(tmp_path / "a.zip", {name: b"evil"})
    unzip = pooch.Unzip(extract_dir=str(tmp_path / "deep" / "out"))
    unpacked = [Path(path).relative_to(tmp_path / "deep" / "out") for path in unzip(str(archive), "download", None)]
    assert len(unpacked) == 1 and names(tmp_path) == {"a.zip", f"deep/out/{unpacked[0]}"}


@pytest.mark.parametrize("name", ["../evil", "x/../../evil", "/tmp/evil", "..\\evil", "C:\\evil", "c:evil", "\\evil"])
def test_members_outside_the_target_are_refused(tmp_path, name):
    archive = write_zip(tmp_path / "a.zip", {"good": b"good", name: b"evil"})
    with pytest.raises(InputError) as caught:
        downloads.unpack(archive, tmp_path / "deep" / "out")
    assert f"refused, since it contains '{name}', which would land outside" in str(caught.value)
    assert names(tmp_path) == {"a.zip"}


def test_links_become_plain_files(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"good": b"good"}, link="/etc/passwd")
    downloads.unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out/link").is_symlink() and (tmp_path / "out/link").read_text() == "/etc/passwd"


def test_archives_that_cannot_be_read(tmp_path):
    (tmp_path / "text.zip").write_text("<html>")
    with pytest.raises(InputError, match=r"text\.zip: is not a readable zip \(File is not a zip file\); delete it"):
        downloads.unpack(tmp_path / "text.zip", tmp_path / "out")
    archive = write_zip(tmp_path / "a.zip", {"a": b"a", "b": CONTENT})
    content = bytearray(archive.read_bytes())
    content[1_000_000] ^= 1
    archive.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.zip: is not a readable zip \("):
        downloads.unpack(archive, tmp_path / "out")
    with pytest.raises(InputError, match=r"none\.zip: is not a file; give the zip that you downloaded"):
        downloads.unpack(tmp_path / "none.zip", tmp_path / "out")
    assert names(tmp_path / "out") == set() and not list((tmp_path / "out").iterdir())


def test_encrypted_archive(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"a": b"a"})
    content = bytearray(archive.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(mark) + offset] |= 1
    archive.write_bytes(content)
    with pytest.raises(
        InputError, match=r"a\.zip: is not a readable zip \(File .*'a'.* is encrypted, password required"
    ):
        downloads.unpack(archive, tmp_path / "out")


def test_archive_larger_than_the_disk(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "a.zip", {"a": bytes(3_000_000)})
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda path: DiskUsage(free=10**6))
    with pytest.raises(InputError, match=r"a\.zip: needs 0\.0 GB in .*out, which has 0\.0 GB free"):
        downloads.unpack(archive, tmp_path / "out")
    assert names(tmp_path / "out") == set()


@dataclasses.dataclass
class DiskUsage:
    free: int


def test_full_disk_while_unpacking(tmp_path, full_disk):
    with zipfile.ZipFile(str(tmp_path / "a.zip"), "w") as file:
        file.writestr("small", b"a")
        file.writestr("large", CONTENT)
    with pytest.raises(InputError, match="the disk is full"):
        downloads.unpack(tmp_path / "a.zip", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


# ------------------------------------------------------------------------------------------------------ published RDMs


def release_files(rng: np.random.Generator) -> dict[str, bytes]:
    """Small files in the layout of the release."""
    mat = io.BytesIO()
    savemat(mat, {"rdm": rng.random((4, 4))})
    return {
        "RDM_taskonomy_bonner50/edge2d_encoder_block4.mat": mat.getvalue(),
        "kastner_ROIs_RDMs_pearson/V1v.mat": rng.bytes(50),
        "ROIfiles_Labeling.txt": b"id,roi\n1,V1v\n",
        "sl_rad=1__max_blk_edge=2/all_sub_slrdms.npy": rng.bytes(500_000),
        "mask.nii": rng.bytes(100),
    }


def publish(site: Site, files: dict[str, bytes], page_size: int = 2, **hashes: str | None) -> None:
    """Serve files as OSF does: a listing in pages, a folder behind a link of its own, downloads elsewhere."""

    def listing(address: str, folder: str) -> None:
        here = [name for name in files if name.startswith(folder)]
        items, folders = [], set()
        for name in here:
            inner = name.removeprefix(folder)
            if "/" in inner:
                folders.add(inner.partition("/")[0])
                continue
            site.files[f"download/{name}"] = files[name]
            items.append({
                "attributes": {
                    "kind": "file", "name": inner, "materialized_path": f"/{name}", "size": len(files[name]),
                    "extra": {"hashes": {"sha256": hashes.get("all", sha256(files[name])), "md5": "0"}},
                },
                "links": {"download": site.url(f"download/{name}")},
            })  # fmt: skip
        for number, name in enumerate(sorted(folders)):
            inside = f"{address}{number}/"
            links = {"related": {"href": site.url(inside)}}
            items.append({"attributes": {"kind": "folder", "name": name}, "relationships": {"files": {"links": links}}})
            listing(inside, f"{folder}{name}/")
        pages = [items[i : i + page_size] for i in range(0, len(items), page_size)] or [[]]
        for number, page in enumerate(pages):
            following = site.url(f"{address}?page={number + 2}") if number + 1 < len(pages) else None
            key = address if number == 0 else f"{address}?page={number + 1}"
            site.files[key] = json.dumps({"data": page, "links": {"next": following}}).encode()

    listing("v2/nodes/dj7v2/files/osfstorage/", "")


def test_release_from_a_listing(site, tmp_path, rng, capsys):
    files = release_files(rng)
    publish(site, {f"data/{name}": content for name, content in files.items()} | {"notes.txt": b"not needed"})
    out = tmp_path / "data"
    status, printed, errors = run(capsys, "data", "--out", out, "--from", site.url("v2"), "-q")
    assert (status, errors) == (0, "")
    assert "5 file(s) of the release: 5 downloaded, 0 already there" in printed
    assert f"Fig 1 and Fig 3a: all data are in {out}" in printed and "Fig 2 and Fig 3b: all data" in printed
    assert names(out) == set(files) and all((out / name).read_bytes() == files[name] for name in files)
    assert any("page=2" in path for path, _ in site.requests)
    site.requests.clear()
    (out / "mask.nii").write_bytes(b"damaged")
    status, printed, _ = run(capsys, "data", "--out", out, "--from", site.url("v2"), "-q")
    assert "1 downloaded, 4 already there" in printed
    assert [path for path, _ in site.requests if path.startswith("download")] == ["download/data/mask.nii"]


def test_parts_of_the_release_are_those_that_the_scripts_read(tmp_path):
    """The names by which files are recognised are those of the layout in utils/datasets/layout.py."""
    for name in RELEASE.values():
        (tmp_path / name).touch() if "." in name else (tmp_path / name).mkdir()
    for kind in ("roi", "searchlight"):
        assert layout.locate(kind, tmp_path).published


def test_zip_within_the_project(site, tmp_path, rng, capsys):
    files = release_files(rng)
    archive = write_zip(
        tmp_path / "data.zip",
        {f"data/{k}": v for k, v in files.items()} | {"__MACOSX/data/RDM_taskonomy_bonner50/._x.mat": b"", "x": b""},
    )
    publish(site, {"data.zip": archive.read_bytes()})
    out = tmp_path / "out"
    assert run(capsys, "data", "--out", out, "--from", site.url("v2"), "-q")[0] == 0
    assert names(out) == set(files) | {"data.zip"}


def test_incomplete_release(site, tmp_path, rng, capsys):
    publish(site, {k: v for k, v in release_files(rng).items() if "kastner" not in k})
    status, printed, errors = run(capsys, "data", "--out", tmp_path / "d", "--from", site.url("v2"), "-q")
    assert status == 0 and "Fig 1 and Fig 3a: all data" in printed and "Fig 2" not in printed
    assert errors.startswith("warning: Fig 2 and Fig 3b: 1 part(s) of the data are missing: ")
    assert "kastner_ROIs_RDMs_pearson" in errors


def test_wrong_digest_in_the_release(site, tmp_path, rng, capsys):
    publish(site, release_files(rng), all="0" * 64)
    status, _, errors = run(capsys, "data", "--out", tmp_path / "d", "--from", site.url("v2"), "-q")
    assert status == 2 and errors.count("\n") == 1 and f"expected {'0' * 64}" in errors
    assert names(tmp_path) == set()


def test_files_without_a_digest_are_named(site, tmp_path, rng, capsys):
    publish(site, release_files(rng), all=None)
    status, _, errors = run(capsys, "data", "--out", tmp_path / "d", "--from", site.url("v2"), "-q")
    assert status == 0 and "OSF states no SHA-256 for 5 file(s), which were not verified" in errors


def test_listing_that_names_files_outside(site, tmp_path, capsys):
    publish(site, {"mask.nii": b"a"})
    key = "v2/nodes/dj7v2/files/osfstorage/"
    site.files[key] = site.files[key].replace(b'"/mask.nii"', b'"/../../mask.nii"')
    status, _, errors = run(capsys, "data", "--out", tmp_path / "d", "--from", site.url("v2"), "-q")
    assert status == 2 and "refused, since it contains '../../mask.nii', which would land outside" in errors
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("page", "match"),
    [
        (b"<html>", "the answer is not JSON"),
        (b"[]", "is not a listing of OSF files"),
        (b'{"data": [{}], "links": {"next": null}}', "is not a listing of OSF files"),
        (
            b'{"data": [], "links": {"next": null}}',
            "project dj7v2 contains nothing, expected RDM_taskonomy_bonner50 or",
        ),
        (b'{"data": [], "links": {"next": "?page[size]=100"}}', "leads back to itself"),
    ],
)
def test_other_listings(site, tmp_path, page, match):
    site.files["v2/nodes/dj7v2/files/osfstorage/"] = page
    with pytest.raises(InputError, match=match):
        release.fetch_release(tmp_path, site.url("v2"))


def test_no_network_for_the_release(closed, tmp_path, capsys):
    status, printed, errors = run(capsys, "data", "--out", tmp_path / "d", "--from", closed, "-q")
    assert status == 2 and printed == "" and errors.count("\n") == 1
    assert "refused; download https://osf.io/dj7v2/ by hand and give the zip as --archive" in errors
    assert names(tmp_path) == set()


def test_release_from_a_zip(site, tmp_path, rng, capsys):
    files = release_files(rng)
    archive = write_zip(tmp_path / "mine.zip", {f"data/{k}": v for k, v in files.items()})
    assert run(capsys, "data", "--out", tmp_path / "a", "--archive", archive, "-q")[0] == 0
    assert names(tmp_path / "a") == set(files)
    site.files["data.zip"] = archive.read_bytes()
    status, printed, _ = run(capsys, "data", "--out", tmp_path / "b", "--url", site.url("data.zip?dl=1"), "-q")
    assert status == 0 and names(tmp_path / "b") == set(files) | {"data.zip", "data.zip.sha256"}
    assert "not verified, as its publisher states no digest" in printed
    status, _, errors = run(capsys, "data", "--out", tmp_path / "c", "--archive", tmp_path / "no.zip", "-q")
    assert status == 2 and "no.zip: is not a file; give the zip that you downloaded" in errors


def test_zip_of_something_else(tmp_path, capsys):
    archive = write_zip(tmp_path / "mine.zip", {"a.txt": b""})
    status, _, errors = run(capsys, "data", "--out", tmp_path / "a", "--archive", archive, "-q")
    assert status == 2 and "contains none of the expected files; is it the right zip?" in errors


# --------------------------------------------------------------------------------------------------------------- atlas


SHAPE = (6, 5, 4)
MNI = np.array([[-2.0, 0, 0, 5], [0, 2, 0, -90], [0, 0, 2, -10], [0, 0, 0, 1]])


def hemispheres(seed: int = 0) -> dict[str, np.ndarray]:
    """Labels of both: those of the left where x < 0; 25 in both, 3 and 4 in one voxel."""
    labels = np.random.default_rng(seed).integers(0, 26, SHAPE).astype(np.int16)
    left = np.where((np.arange(6) >= 3)[:, None, None], labels, 0)
    right = labels - left
    left[0, 0, :2] = right[0, 0, 0] = 25
    left[0, 1, 0], right[0, 1, 0], right[0, 0, 1] = 3, 4, 0
    return {"lh": left, "rh": right}


def atlas_zip(path: Path, seed: int = 0) -> bytes:
    top = "ProbAtlas_v4"
    files = {f"{top}/ROIfiles_Labeling.txt": b"roi 1 = V1v"}
    for side, labels in hemispheres(seed).items():
        files[f"{top}/subj_vol_all/maxprob_vol_{side}.nii.gz"] = gzip.compress(nib.Nifti1Image(labels, MNI).to_bytes())
    return write_zip(path, files).read_bytes()


def merged(seed: int = 0) -> np.ndarray:
    left, right = hemispheres(seed).values()
    together = np.maximum(left, right)
    together[0, 1, 0] = 0
    return together


def test_atlas(site, tmp_path, capsys):
    site.files["atlas.zip"] = content = atlas_zip(tmp_path / "atlas.zip")
    out = tmp_path / "data"
    arguments = ("atlas", "--out", out, "--url", site.url("atlas.zip"), "-q")
    status, printed, errors = run(capsys, *arguments)
    assert status == 0
    assert (
        errors.splitlines() == [errors.strip()] and "1 voxel(s) have different labels in the two hemispheres" in errors
    )
    assert f"SHA-256 {sha256(content)} (not verified, as its publisher states no digest)" in printed
    assert str(out / "ProbAtlas_v4/subj_vol_all/maxprob_vol_rh.nii.gz") in printed
    assert f"{out / 'atlas.nii.gz'} and {out / 'roi_labels.csv'}: both hemispheres together" in printed
    assert (out / "ProbAtlas_v4.zip.sha256").read_text() == f"{sha256(content)}  ProbAtlas_v4.zip\n"
    assert not (out / "ROIfiles_Labeling.txt").exists()  # the release has a file of that name
    image = nib.load(out / "atlas.nii.gz")
    np.testing.assert_array_equal(image.get_fdata(), merged())
    np.testing.assert_array_equal(image.affine, MNI)
    assert image.get_data_dtype() == np.int16
    assert read_roi_table(out / "roi_labels.csv") == dict(enumerate(WANG_ROIS, start=1))
    status, printed, _ = run(capsys, *arguments)
    assert status == 0 and "the same as when it was first downloaded" in printed and len(site.requests) == 1
    # Another file under the same address is not taken without a word.
    (out / "ProbAtlas_v4.zip").unlink()
    site.files["atlas.zip"] = atlas_zip(tmp_path / "atlas.zip", 1)
    status, _, errors = run(capsys, *arguments)
    assert status == 2 and f"expected {sha256(content)}" in errors
    assert f"to accept another version, delete {out / 'ProbAtlas_v4.zip.sha256'}" in errors


def test_atlas_has_the_ids_of_the_releases_table(tmp_path, capsys):
    """Whatever they are: names say which area is which, and they have blanks in the release."""
    ids = {name: 100 - number for number, name in enumerate(WANG_ROIS) if name != "FEF"}
    rows = [f"{number},{name}{' ' * (name in ('hV4', 'V3a'))}" for name, number in ids.items()]
    table = tmp_path / "ROIfiles_Labeling.txt"
    table.write_text("\n".join(["id,roi", *rows]))
    atlas_zip(tmp_path / "a.zip")
    status, printed, errors = run(capsys, "atlas", "--out", tmp_path, "--archive", tmp_path / "a.zip", "-q")
    assert status == 0 and "does not have FEF, which are left out of the atlas" in errors
    assert f"{tmp_path / 'atlas.nii.gz'}: both hemispheres together" in printed
    assert not (tmp_path / "roi_labels.csv").exists()
    expected = np.zeros(SHAPE)
    for number, name in enumerate(WANG_ROIS, start=1):
        expected[merged() == number] = ids.get(name, 0)
    np.testing.assert_array_equal(nib.load(tmp_path / "atlas.nii.gz").get_fdata(), expected)
    table.write_text("id,roi\n1,EVC\n")
    status, _, errors = run(capsys, "atlas", "--out", tmp_path, "--archive", tmp_path / "a.zip", "-q")
    assert status == 2 and "ROIfiles_Labeling.txt: has none of the areas of Wang et al. 2015 (V1v, V1d, " in errors


@pytest.mark.slow
def test_the_release_gets_its_brain_maps(published_sample, tmp_path, monkeypatch, capsys):
    """Fig 2 and Fig 3b of the release's files have none; with the atlas, they have."""
    data = tmp_path / "data"
    shutil.copytree(published_sample, data)
    atlas_zip(tmp_path / "a.zip")
    assert run(capsys, "atlas", "--out", data, "--archive", tmp_path / "a.zip", "-q")[0] == 0
    table = read_roi_table(data / "ROIfiles_Labeling.txt")
    for figure in ("Fig2", "Fig3b"):
        arguments = ["--data", data, "--results", tmp_path / "results", "-np", 9]
        assert run_script(monkeypatch, figure, *arguments) == 0
        assert (tmp_path / "results" / figure / "brain_map.html").is_file()
        labels = next((tmp_path / "results" / figure / "maps").glob("space-MNI_desc-*_dseg.nii.gz"))
        shown = np.asarray(nib.load(labels).dataobj) > 0
        np.testing.assert_array_equal(shown, np.isin(merged(), [k for k, name in table.items() if name in PAPER_ROIS]))


def test_another_atlas_in_the_folder_is_left_alone(tmp_path, capsys):
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.int16), MNI), tmp_path / "atlas.nii.gz")
    before = (tmp_path / "atlas.nii.gz").read_bytes()
    atlas_zip(tmp_path / "a.zip")
    status, printed, errors = run(capsys, "atlas", "--out", tmp_path, "--archive", tmp_path / "a.zip", "-q")
    assert status == 0 and "atlas.nii.gz: is there already with other labels and was left as it is; delete it" in errors
    assert (tmp_path / "atlas.nii.gz").read_bytes() == before
    assert not (tmp_path / "roi_labels.csv").exists() and "together" not in printed


def test_atlas_whose_volumes_are_damaged(tmp_path, capsys):
    top = "ProbAtlas_v4/subj_vol_all"
    archive = write_zip(tmp_path / "a.zip", {f"{top}/maxprob_vol_{side}.nii.gz": b"lh" for side in ("lh", "rh")})
    status, _, errors = run(capsys, "atlas", "--out", tmp_path / "d", "--archive", archive, "-q")
    assert status == 2 and "maxprob_vol_lh.nii.gz: is not a readable NIfTI image" in errors
    assert not (tmp_path / "d" / "atlas.nii.gz").exists()


def test_atlas_that_was_put_there_by_hand(closed, tmp_path, capsys):
    url = f"{closed}/atlas.zip"
    status, _, errors = run(capsys, "atlas", "--out", tmp_path, "--url", url, "-q")
    place = tmp_path / "ProbAtlas_v4.zip"
    assert status == 2 and f"download {release.ATLAS_PAGE} by hand, save it as {place} and run this again" in errors
    assert names(tmp_path) == set()
    content = atlas_zip(place)
    status, printed, _ = run(capsys, "atlas", "--out", tmp_path, "--url", url, "-q")
    assert status == 0 and f"SHA-256 {sha256(content)}" in printed and "not verified" in printed


def test_page_instead_of_an_atlas(site, tmp_path, capsys):
    site.files["atlas.zip"] = b"<html>log in</html>"
    status, _, errors = run(capsys, "atlas", "--out", tmp_path, "--url", site.url("atlas.zip"), "-q")
    assert status == 2 and "is not a zip; download https://napl.scholar.princeton.edu/resources by hand" in errors
    assert names(tmp_path) == set()


def test_zip_without_the_volumes(tmp_path, capsys):
    archive = write_zip(tmp_path / "a.zip", {"readme.txt": b""})
    status, _, errors = run(capsys, "atlas", "--out", tmp_path / "d", "--archive", archive, "-q")
    assert status == 0 and "is it the right zip?" in errors
    assert names(tmp_path / "d") == {"ProbAtlas_v4/readme.txt"}


# --------------------------------------------------------------------------------------------------------- checkpoints


def test_weights(site, tmp_path, monkeypatch, capsys):
    task = next(task for task in TASKS if task.key == "rgb2sfnorm")
    content = b"weights"
    fake = dataclasses.replace(task, sha256=sha256(content), checkpoint=f"normal_encoder-{sha256(content)}.pth")
    monkeypatch.setattr(fetch, "TASKS", (fake, TASKS[-1]))
    site.files[f"w/{fake.checkpoint}"] = content
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    status, printed, errors = run(capsys, "weights", "--from", site.url("w/"), "-q")
    path = tmp_path / "hub" / "checkpoints" / fake.checkpoint
    assert (status, errors) == (0, "") and path.read_bytes() == content
    assert printed == f"rgb2sfnorm: {path} (SHA-256 verified)\n"
    site.files[f"w/{fake.checkpoint}"] = b"other"
    status, _, errors = run(capsys, "weights", "rgb2sfnorm", "--out", tmp_path / "w", "--from", site.url("w"), "-q")
    assert status == 2 and f"expected {sha256(content)}" in errors and not names(tmp_path / "w")


def test_weights_of_unknown_tasks(capsys):
    status, _, errors = run(capsys, "weights", "edges", "random")
    assert status == 2 and errors.startswith("error: no checkpoint is known for edges, random; there are autoencoder, ")


def test_missing_checkpoint_is_downloaded(site, tmp_path, monkeypatch):
    from models.taskonomy import find_checkpoint

    task = dataclasses.replace(TASKS[0], sha256=sha256(b"w"), checkpoint=f"autoencoding_encoder-{sha256(b'w')}.pth")
    site.files[f"{task.checkpoint}"] = b"w"
    monkeypatch.setattr(checkpoints, "checkpoint_address", lambda task, base="": site.url(task.checkpoint))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert find_checkpoint(task) == tmp_path / "torch" / "hub" / "checkpoints" / task.checkpoint
    (tmp_path / "mine").mkdir()
    (tmp_path / "torch" / "hub" / "checkpoints" / task.checkpoint).unlink()
    assert find_checkpoint(task, tmp_path / "mine") == tmp_path / "mine" / task.checkpoint


def test_address_is_that_of_the_package_which_published_the_weights():
    published = pytest.importorskip("visualpriors.taskonomy_network").TASKONOMY_PRETRAINED_URLS
    for task in TASKS[:-1]:
        prefix = task.checkpoint.partition("-")[0]
        assert checkpoints.checkpoint_address(task) == published[prefix]


# -------------------------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize("arguments", [["--help"], ["data", "--help"], ["atlas", "--help"], ["weights", "--help"]])
def test_help(arguments):
    done = subprocess.run([sys.executable, "-m", "utils.fetch", *arguments], cwd=HOME, capture_output=True, text=True)
    assert done.returncode == 0 and "python -m utils.fetch" in done.stdout and done.stderr == ""


def test_progress_counts_all_files(site, tmp_path, rng):
    files = release_files(rng)
    publish(site, files)
    steps: list[tuple[int, int]] = []
    release.fetch_release(tmp_path, site.url("v2"), lambda *step: steps.append(step))
    total = sum(map(len, files.values()))
    assert steps[-1] == (total, total) and [done for done, _ in steps] == sorted(done for done, _ in steps)


def test_release_path():
    path = PurePosixPath
    assert release.release_path(path("a/b/mask.nii")) == path("mask.nii")
    assert release.release_path(path("x/RDM_taskonomy_bonner50/a.mat")) == path("RDM_taskonomy_bonner50/a.mat")
    assert release.release_path(path("notes.txt")) is None
