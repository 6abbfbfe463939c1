import errno
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import load_batch
from PIL import Image
from scipy.spatial.distance import pdist, squareform
from torch import nn

from models.networks import LayerOutputs, load_network
from models.taskonomy import load_encoder, random_encoder
from models.tasks import TASK_LAYERS, Model
from utils import InputError
from utils.activations import main
from utils.datasets.models import read_model_table
from utils.io.data_folder import DataFolder
from utils.io.readers import read_rdms, read_table
from utils.rdm import METRICS, expand, pattern_rdms
from utils.rdms import extraction, network_rdms
from utils.rdms.extraction import Network
from utils.rdms.network_rdms import chunked_rdm, compute_rdms
from utils.rdms.preprocessing import get_preprocessing
from utils.rdms.settings import ExtractionSettings
from utils.rdms.stimuli import list_images

HOME = Path(__file__).resolve().parents[1]
N_IMAGES = 11

TINY = """
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 9, stride=8)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 6)

    def forward(self, x):
        x = torch.tanh(self.norm(self.conv(x)))
        return self.fc(x.mean((-1, -2)))


def network():
    return Tiny()


def not_a_network():
    return 3
"""


class Tiny(nn.Module):
    """Two layers, and a record of the batches it saw; out of memory where they are larger than `room`."""

    def __init__(self, seed=0, room=None, error=MemoryError):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, 4, 9, stride=8)
            self.fc = nn.Linear(4, 6)
        self.guard = Guard(room, error)

    def forward(self, x):
        return self.fc(torch.tanh(self.guard(self.conv(x))).mean((-1, -2)))


class Guard(nn.Module):
    seen: tuple = []

    def __init__(self, room, error):
        super().__init__()
        self.room, self.error = room, error

    def forward(self, x):
        if self.room is not None and len(x) > self.room:
            raise self.error
        Guard.seen.append(len(x))
        return x


@pytest.fixture(autouse=True)
def nothing_seen():
    Guard.seen = []


@pytest.fixture(scope="module")
def stimuli(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stimuli")
    rng = np.random.default_rng(3)
    for i in range(1, N_IMAGES + 1):
        Image.fromarray(rng.integers(0, 256, (20 + i, 30, 3)).astype(np.uint8)).save(folder / f"image_{i}.png")
    return list_images(folder)


def tiny(seed=0, preprocessing="visual-prior", key="tiny", **options):
    module = Tiny(seed, **options).eval()
    return Network(Model(key, key, "other", ""), lambda: module, get_preprocessing(preprocessing), f"seed {seed}")


LAYERS = {"conv": "early", "fc": "late"}


def run(out, stimuli, network=None, **options):
    """RDMs by layer name."""
    compute_rdms(stimuli, [network or tiny()], DataFolder(out), ExtractionSettings(LAYERS, **options))
    return {name: np.load(out / "dnn_rdms" / f"tiny_{name}.npy") for name in LAYERS.values()}


# --------------------------------------------------------------------------------------------------------------- RDMs


@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("memory", [2**30, 20_000, 3_000])
def test_rdms_from_parts_equal_those_at_once_and_scipy(rng, metric, center, memory):
    patterns = (rng.standard_normal((13, 301)) + 4).astype(np.float32)
    rdm = chunked_rdm(torch.from_numpy(patterns), metric, center=center, memory=memory)
    wide = patterns.astype(np.float64)
    np.testing.assert_allclose(rdm, expand(pattern_rdms(wide, metric, center=center)), rtol=1e-10, atol=1e-10)
    expected = squareform(pdist(wide - wide.mean(axis=0) * center, metric))
    np.testing.assert_allclose(rdm, expected, rtol=1e-10, atol=1e-10)
    assert np.array_equal(rdm, rdm.T) and not rdm.diagonal().any()


@pytest.mark.parametrize("memory", [2**30, 1_000])
def test_parts_are_as_small_as_memory_asks(rng, memory):
    patterns = rng.standard_normal((40, 500))
    sizes = []

    class Patterns:
        shape = patterns.shape

        def __getitem__(self, part):
            sizes.append(patterns[part].size)
            return torch.from_numpy(patterns[part])

    rdm = chunked_rdm(Patterns(), memory=memory)
    np.testing.assert_allclose(rdm, squareform(pdist(patterns, "correlation")), atol=1e-12)
    assert max(sizes) * 8 <= max(memory, 8 * 2)
    assert (len(sizes) > 2) == (memory == 1_000)


def test_small_differences_beside_large_means_are_kept(rng):
    """Float32 patterns far from 0 and nearly equal: sums of products would lose every digit."""
    patterns = (1000 + rng.standard_normal((6, 20_000)) + rng.standard_normal(20_000) * 30).astype(np.float32)
    expected = pdist(patterns.astype(np.float64), "correlation")
    assert expected.max() < 0.01
    rdm = chunked_rdm(torch.from_numpy(patterns), memory=10**6)
    np.testing.assert_allclose(rdm, squareform(expected), rtol=1e-9, atol=1e-12)


def test_equal_patterns_have_distance_zero(rng):
    patterns = np.repeat(rng.standard_normal((4, 50)), 2, axis=0)
    for metric in METRICS:
        rdm = chunked_rdm(torch.from_numpy(patterns), metric)
        assert abs(rdm[0, 1]) < 1e-7
        assert rdm.min() >= 0


def test_a_further_metric_needs_nothing_but_its_function(rng, monkeypatch):
    monkeypatch.setitem(METRICS, "cityblock", lambda p: (p[..., :, None, :] - p[..., None, :, :]).abs().sum(-1))
    patterns = rng.standard_normal((7, 30))
    rdm = chunked_rdm(torch.from_numpy(patterns), "cityblock", center=True)
    np.testing.assert_allclose(rdm, squareform(pdist(patterns, "cityblock")))


@pytest.mark.parametrize(
    ("metric", "value", "what"),
    [
        ("correlation", 0.0, "the same in all units"),
        ("correlation", 3.3, "the same in all units"),
        ("cosine", 0.0, "all 0"),
        ("correlation", np.nan, "NaN or inf"),
        ("euclidean", np.inf, "NaN or inf"),
    ],
)
def test_patterns_without_a_dissimilarity_are_pointed_out(rng, metric, value, what):
    patterns = rng.standard_normal((9, 40)).astype(np.float32)
    patterns[[2, 5]] = value
    with pytest.raises(ValueError, match=what) as error:
        chunked_rdm(torch.from_numpy(patterns), metric, memory=2_000)
    assert set(error.value.rows) <= {2, 5}


# ------------------------------------------------------------------------------------------------ from images to RDMs


@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize("center", [False, True])
def test_rdms_equal_scipy_on_the_activations(tmp_path, stimuli, metric, center):
    rdms = run(tmp_path, stimuli, metric=metric, center=center, save_activations=True)
    for name, rdm in rdms.items():
        patterns = np.load(tmp_path / "activations" / f"tiny_{name}.npy")
        assert patterns.dtype == np.float32
        assert patterns.shape == ((N_IMAGES, 4, 31, 31) if name == "early" else (N_IMAGES, 6))
        wide = patterns.reshape(N_IMAGES, -1).astype(np.float64)
        expected = squareform(pdist(wide - wide.mean(axis=0) * center, metric))
        np.testing.assert_allclose(rdm, expected, rtol=1e-9, atol=1e-9)
        assert rdm.dtype == np.float64


def test_activations_are_those_of_the_network(tmp_path, stimuli):
    run(tmp_path, stimuli, save_activations=True)
    images = load_batch([path for _, path in stimuli], get_preprocessing("visual-prior"))
    with torch.inference_mode():
        expected = LayerOutputs(Tiny().eval(), list(LAYERS))(images)
    for node, name in LAYERS.items():
        found = np.load(tmp_path / "activations" / f"tiny_{name}.npy")
        np.testing.assert_allclose(found, expected[node].numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 1}, {"batch_size": 4}, {"batch_size": 100}, {"workers": 1}, {"workers": 7}, {"memory": 10_000}],
    ids=str,
)
def test_batches_workers_and_memory_change_nothing_but_rounding(tmp_path, stimuli, options):
    usual, other = run(tmp_path / "a", stimuli), run(tmp_path / "b", stimuli, **options)
    for name in usual:
        np.testing.assert_allclose(other[name], usual[name], atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("memory", [2 * 10**9, 10**7])
def test_the_gpu_changes_nothing_but_rounding(tmp_path, stimuli, memory):
    usual, other = run(tmp_path / "a", stimuli), run(tmp_path / "b", stimuli, device="cuda", memory=memory)
    for name in usual:
        np.testing.assert_allclose(other[name], usual[name], atol=1e-5)


def test_what_does_not_fit_into_memory_goes_to_a_file_that_vanishes(tmp_path, stimuli, monkeypatch):
    places = []
    temporary = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: places.append(dir) or temporary(dir=dir))
    small, large = run(tmp_path / "a", stimuli, memory=10_000), run(tmp_path / "b", stimuli)
    assert places == [tmp_path / "a"] * 2  # both layers, since they do not fit together
    np.testing.assert_allclose(small["early"], large["early"], atol=1e-9)
    files = {str(path.relative_to(tmp_path / "a")) for path in (tmp_path / "a").rglob("*") if path.is_file()}
    rdms = {f"dnn_rdms/tiny_{name}.{suffix}" for name in LAYERS.values() for suffix in ("npy", "json")}
    assert files == rdms | {"conditions.txt", "models.tsv"}


def test_bfloat16_is_near_and_not_the_same(tmp_path, stimuli):
    exact, rough = run(tmp_path / "a", stimuli), run(tmp_path / "b", stimuli, precision="bfloat16")
    difference = np.abs(exact["early"] - rough["early"]).max()
    assert 1e-7 < difference < 0.02


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_batches_shrink_when_memory_runs_out(tmp_path, stimuli, error):
    usual = run(tmp_path / "a", stimuli)
    Guard.seen = []
    with pytest.warns(UserWarning, match=r"tiny: memory is low, continuing with batches of [42]"):
        shrunk = run(tmp_path / "b", stimuli, tiny(room=2, error=error), batch_size=9)
    assert sum(Guard.seen) == N_IMAGES and set(Guard.seen) <= {1, 2}
    np.testing.assert_allclose(shrunk["late"], usual["late"], atol=1e-6)


def test_memory_for_no_image_at_all_ends_in_one_line(tmp_path, stimuli):
    with (
        pytest.warns(UserWarning, match="memory is low"),
        pytest.raises(InputError, match="tiny: the cpu has too little memory for a single image"),
    ):
        run(tmp_path, stimuli, tiny(room=0), batch_size=2)


def test_images_are_decoded_once_for_all_networks(tmp_path, stimuli, monkeypatch):
    decoded = []
    monkeypatch.setattr(extraction, "decode", lambda path, plain=extraction.decode: decoded.append(path) or plain(path))
    networks = [tiny(seed, key=f"net{seed}") for seed in range(3)]
    compute_rdms(stimuli, networks, DataFolder(tmp_path), ExtractionSettings(LAYERS))
    assert sorted(decoded) == sorted(path for _, path in stimuli)


def test_progress_counts_images_of_all_networks(tmp_path, stimuli):
    steps = []
    networks = [tiny(seed, key=f"net{seed}") for seed in range(2)]
    for _ in range(2):
        compute_rdms(
            stimuli, networks, DataFolder(tmp_path), ExtractionSettings(LAYERS), lambda *step: steps.append(step)
        )
    assert {total for _, total in steps} == {2 * N_IMAGES}
    done = [done for done, _ in steps]
    assert done[-2:] == [N_IMAGES, 2 * N_IMAGES]  # the second time, everything is there
    assert done[:-2] == sorted(done[:-2]) and done[-3] == 2 * N_IMAGES and len(set(done)) > 4


# ------------------------------------------------------------------------------------------------------- going on


def test_finished_rdms_are_kept_and_interrupted_ones_made(tmp_path, stimuli):
    first = run(tmp_path, stimuli)
    n_seen = len(Guard.seen)
    (tmp_path / "dnn_rdms" / "tiny_late.npy").unlink()
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("tiny_early.*")}
    second = run(tmp_path, stimuli)
    assert len(Guard.seen) > n_seen
    np.testing.assert_array_equal(first["late"], second["late"])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("tiny_early.*")} == stamps
    n_seen = len(Guard.seen)
    run(tmp_path, stimuli)
    run(tmp_path, stimuli, batch_size=3, workers=1, memory=10**8)
    assert len(Guard.seen) == n_seen
    run(tmp_path, stimuli, fresh=True)
    assert len(Guard.seen) > n_seen


@pytest.mark.parametrize(
    "changed",
    [
        {"network": lambda: tiny(seed=1)},
        {"network": lambda: tiny(preprocessing="imagenet")},
        {"metric": "euclidean"},
        {"center": True},
        {"precision": "bfloat16"},
        {"save_activations": True},
    ],
    ids=str,
)
def test_other_inputs_are_computed_anew(tmp_path, stimuli, changed):
    run(tmp_path, stimuli)
    n_seen = len(Guard.seen)
    changed = dict(changed)
    make = changed.pop("network", tiny)
    run(tmp_path, stimuli, make(), **changed)
    assert len(Guard.seen) > n_seen


def test_a_changed_image_or_rdm_is_noticed(tmp_path, stimuli):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, path in stimuli:
        (folder / f"{name}.png").write_bytes(path.read_bytes())
    own, out = list_images(folder), tmp_path / "out"
    first = run(out, own)
    Image.fromarray(np.arange(30 * 40 * 3).reshape(30, 40, 3).astype(np.uint8)).save(folder / "image_3.png")
    second = run(out, own)
    assert (first["early"] != second["early"])[2].sum() == N_IMAGES - 1
    np.save(out / "dnn_rdms" / "tiny_early.npy", first["early"])
    np.testing.assert_array_equal(run(out, own)["early"], second["early"])


def test_changed_code_of_a_network_is_noticed(tmp_path, stimuli, monkeypatch):
    monkeypatch.setattr(network_rdms, "_own_code", lambda module: {"return x"})
    run(tmp_path, stimuli)
    n_seen = len(Guard.seen)
    monkeypatch.setattr(network_rdms, "_own_code", lambda module: {"return -x"})
    run(tmp_path, stimuli)
    assert len(Guard.seen) > n_seen


def test_own_code_is_that_of_the_users_classes():
    code = network_rdms._own_code(Tiny())
    assert len(code) == 2 and any("class Guard" in text for text in code)
    assert network_rdms._own_code(random_encoder()) == set()


# ---------------------------------------------------------------------------------------------------- the data folder


def test_records_say_what_an_rdm_is(tmp_path, stimuli):
    run(tmp_path, stimuli, center=True)
    record = json.loads((tmp_path / "dnn_rdms" / "tiny_early.json").read_text())
    assert record["data"] == {
        "model": "tiny",
        "layer": "conv",
        "n_images": N_IMAGES,
        "n_units": 4 * 31 * 31,
        "preprocessing": "visual-prior",
        "weights": "seed 0",
    }
    assert record["options"]["center"] is True
    assert {"made_from", "sha256", "versions", "device", "finished"} <= set(record)
    assert record["made_from"]["layer"] == "conv"
    assert (tmp_path / "conditions.txt").read_text().split() == [name for name, _ in stimuli]


def test_models_are_added_and_rows_kept(tmp_path, stimuli):
    path = tmp_path / "models.tsv"
    path.write_text("key\tlabel\tgroup\tnote\nold\tOld net\tmine\tkeep\ntiny\tMy label\tmine\t\n")
    run(tmp_path, stimuli)
    run(tmp_path, stimuli)
    compute_rdms(stimuli, [tiny(key="next")], DataFolder(tmp_path), ExtractionSettings(LAYERS))
    assert path.read_text().splitlines() == [
        "key\tlabel\tgroup\tnote\tcolor",
        "old\tOld net\tmine\tkeep\t",
        "tiny\tMy label\tmine\t\t",
        "next\tnext\tother\t\t",
    ]
    changed = Network(Model("tiny", "New", "new", ""), tiny().load, tiny().preprocessing, "", overrides=True)
    run(tmp_path, stimuli, changed)
    assert [(model.key, model.label, model.group) for model in read_model_table(path)] == [
        ("old", "Old net", "mine"),
        ("tiny", "New", "new"),
        ("next", "next", "other"),
    ]


def test_networks_that_are_computed_side_by_side_all_reach_the_table(tmp_path, stimuli, monkeypatch):
    run(tmp_path, stimuli)

    def slowly(*arguments):
        rows = read_table(*arguments)
        time.sleep(0.3)  # in which others would read the same rows if they could
        return rows

    monkeypatch.setattr(network_rdms, "read_table", slowly)
    keys = [f"net_{number}" for number in range(6)]

    def compute(key: str) -> None:
        compute_rdms(stimuli, [tiny(key=key)], DataFolder(tmp_path), ExtractionSettings(LAYERS))

    with ThreadPoolExecutor(len(keys)) as pool:
        list(pool.map(compute, keys))
    assert {model.key for model in read_model_table(tmp_path / "models.tsv")} == {"tiny", *keys}
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_images_that_cannot_be_used_leave_no_conditions_behind(tmp_path, stimuli):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"broken\.png"):
        main(
            [
                "--images",
                str(_list_of(tmp_path, [*(path for _, path in stimuli), broken])),
                "--out",
                str(tmp_path / "out"),
                "--tasks",
                "random",
                "-q",
            ]
        )
    assert not (tmp_path / "out" / "conditions.txt").exists()


def _list_of(folder, paths):
    text = folder / "images.txt"
    text.write_text("\n".join(str(path) for path in paths))
    return text


def test_conditions_of_other_images_are_refused(tmp_path, stimuli):
    run(tmp_path, stimuli)
    names = [name for name, _ in stimuli]
    with pytest.raises(InputError, match=r"conditions\.txt: lists 11 conditions that do not match the 9 images"):
        run(tmp_path, stimuli[:9])
    with pytest.raises(InputError, match="condition 1 is 'image_1' there and 'image_11' here"):
        run(tmp_path, stimuli[::-1])
    (tmp_path / "conditions.txt").write_text("\r\n".join(names) + "\r\n\n")
    run(tmp_path, stimuli)


def test_an_out_folder_that_cannot_be_written_is_refused(tmp_path, stimuli):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file: cannot be written to .*choose another folder as `out`"):
        run(tmp_path / "file", stimuli)


class FullDisk(io.FileIO):
    """A file that exists, and cannot grow."""

    def write(self, _):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_nothing_half_written(tmp_path, stimuli, monkeypatch):
    earlier = run(tmp_path, stimuli)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", lambda dir: FullDisk(os.devnull, "w"))
        with pytest.raises(InputError, match=r"a temporary file of activations cannot be written .the disk is full"):
            run(tmp_path, stimuli, metric="cosine", memory=10_000)
    opened = Path.open

    def full(path, *args, **kwargs):
        return FullDisk(path, "w") if path.name.endswith(".unfinished") else opened(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(InputError, match=r"tiny_early\.npy: cannot be written .the disk is full.; free space"):
            run(tmp_path, stimuli, metric="cosine")
        with pytest.raises(InputError, match=r"activations/tiny_\w+\.npy: cannot be written .the disk is full"):
            run(tmp_path, stimuli, metric="cosine", save_activations=True)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before == after
    np.testing.assert_array_equal(run(tmp_path, stimuli)["early"], earlier["early"])


# ---------------------------------------------------------------------------------------------------------- bad input


def test_bad_settings_are_refused(tmp_path, stimuli):
    with pytest.raises(InputError, match=r"found 2 image\(s\), but an RDM needs three or more"):
        run(tmp_path, stimuli[:2])
    for precision in ("tf32", "float16"):
        with pytest.raises(InputError, match=f"`precision` {precision} needs a GPU"):
            run(tmp_path, stimuli, precision=precision)
    with pytest.raises(InputError, match="`precision` is 'int8', expected one of float32, tf32"):
        run(tmp_path, stimuli, precision="int8")
    with pytest.raises(InputError, match="unknown metric 'manhattan'"):
        run(tmp_path, stimuli, metric="manhattan")
    with pytest.raises(InputError, match="two layers are named early"):
        compute_rdms(stimuli, [tiny()], DataFolder(tmp_path), ExtractionSettings({"conv": "early", "fc": "early"}))


def test_a_broken_image_ends_in_one_line(tmp_path, stimuli):
    (tmp_path / "broken.png").write_bytes(stimuli[0][1].read_bytes()[:60])
    with pytest.raises(InputError, match=r"broken\.png: cannot be decoded"):
        run(tmp_path / "out", [*stimuli, ("broken", tmp_path / "broken.png")])
    assert not list((tmp_path / "out" / "dnn_rdms").iterdir())


def test_an_image_that_vanished_ends_in_one_line(tmp_path, stimuli):
    with pytest.raises(InputError, match=r"gone\.png: cannot be read"):
        run(tmp_path, [*stimuli, ("gone", tmp_path / "gone.png")])


def test_networks_that_cannot_take_the_images_are_named(tmp_path, stimuli):
    grey = Network(tiny().model, tiny().load, get_preprocessing("taskbank", task="colorization"), "")
    with pytest.raises(InputError, match=r"tiny: cannot process images of shape .3, 256, 256.*choose another `prep"):
        run(tmp_path, stimuli, grey)


def test_layers_without_a_pattern_per_image_are_refused(tmp_path, stimuli):
    class Flat(nn.Module):
        def forward(self, x):
            return x.mean((1, 2, 3))

    network = Network(Model("flat", "", "", ""), lambda: Flat().eval(), get_preprocessing("imagenet"), "")
    with pytest.raises(
        InputError, match=r"flat, layer output: returns \(5,\) for 5 images, expected a tensor with one"
    ):
        compute_rdms(stimuli, [network], DataFolder(tmp_path), ExtractionSettings({"output": "late"}))


def test_dead_layers_are_named_with_the_images(tmp_path, stimuli):
    network = tiny()
    nn.init.zeros_(network.load().fc.weight)
    nn.init.zeros_(network.load().fc.bias)
    with pytest.raises(InputError, match=r"tiny, layer fc: activations are the same in all units for 11 of 11 images"):
        run(tmp_path, stimuli, network)
    nn.init.constant_(network.load().conv.weight, float("nan"))
    with pytest.raises(
        InputError, match=r"tiny, layer conv: activations are NaN or inf for 11 .*set `precision` to float32"
    ):
        run(tmp_path, stimuli, network)


# ------------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def tiny_module(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(TINY)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_networks"
    sys.modules.pop("own_networks", None)


def call(stimuli, out, *arguments):
    main(["--images", str(stimuli[0][1].parent), "--out", str(out), "--device", "cpu", "-q", *map(str, arguments)])


@pytest.mark.slow
def test_taskonomy_networks_by_command(tmp_path, stimuli, capsys):
    """One with three channels and the untrained one; four images."""
    weights, out = tmp_path / "weights", tmp_path / "out"
    weights.mkdir()
    torch.save({"state_dict": random_encoder(1, seed=5).state_dict()}, weights / "colorization_encoder-own.pth")
    names = [path.name for _, path in stimuli[:4]]
    listing = stimuli[0][1].parent / "some.txt"
    listing.write_text("\n".join(names))
    arguments = ["--images", listing, "--out", out, "--tasks", "colorization", "random", "--weights", weights]
    arguments += ["--unverified-weights", "--device", "cpu", "-q"]
    try:
        with pytest.warns(UserWarning, match="weights were not verified"):
            main([str(argument) for argument in arguments])
        first = capsys.readouterr()
        with pytest.warns(UserWarning, match="weights were not verified"):
            main([str(argument) for argument in arguments])
        second = capsys.readouterr()
    finally:
        listing.unlink()
    assert "4 RDMs of 4 images" in first.out and "4 computed" in first.out
    assert "0 computed" in second.out and "4 existed already" in second.out
    assert [model.key for model in read_model_table(out / "models.tsv")] == ["colorization", "random"]
    for task in ("colorization", "random"):
        images = load_batch([path for _, path in stimuli[:4]], get_preprocessing("taskbank", task=task))
        encoder = load_encoder(task, weights, verify=False)
        with torch.inference_mode():
            outputs = LayerOutputs(encoder, TASK_LAYERS)(images)
        for layer, output in outputs.items():
            rdm = read_rdms(out / "dnn_rdms" / f"{task}_{layer}.npy", "rdm", task)
            expected = pdist(output.flatten(1).double().numpy(), "correlation")
            np.testing.assert_allclose(rdm, expected, atol=1e-6)
    record = json.loads((out / "dnn_rdms" / "colorization_block4.json").read_text())
    assert record["data"]["weights"].startswith("UNVERIFIED")
    assert record["data"]["preprocessing"] == "taskbank lightness"


def test_a_network_of_ones_own_by_command(tmp_path, stimuli, tiny_module):
    out = tmp_path / "out"
    call(stimuli, out, "--model", f"{tiny_module}:network", "--layers", "conv=early", "fc=late", "--group", "semantic")
    call(stimuli, out, "--model", f"{tiny_module}:network", "--layers", "conv=early", "fc=late", "--key", "twin",
         "--label", "A twin", "--seed", 1, "--preprocessing", "taskbank", "--center", "--metric", "cosine")  # fmt: skip
    assert (out / "models.tsv").read_text().splitlines()[1:] == [
        "network\tnetwork\tsemantic\t",
        "twin\tA twin\tother\t",
    ]
    files = sorted(path.name for path in (out / "dnn_rdms").glob("*.npy"))
    assert files == ["network_early.npy", "network_late.npy", "twin_early.npy", "twin_late.npy"]


def test_layers_by_command(tmp_path, capsys, tiny_module):
    main(["--model", f"{tiny_module}:network", "--list-layers", "--device", "cpu", "-q", "--preprocessing", "imagenet"])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["layer", "class", "output", "for", "one", "image"],
        ["conv", "Conv2d", "4", "x", "27", "x", "27"],
        ["norm", "BatchNorm2d", "4", "x", "27", "x", "27"],
        ["fc", "Linear", "6"],
        ["output", "Tiny", "6"],
    ]


def test_trained_and_untrained_networks_have_names_of_their_own(monkeypatch):
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *a, **k: load_network("resnet18").state_dict()
    )
    names = {
        spec: (extraction.custom_network(spec, seed=2).model.key, extraction.custom_network(spec, seed=2).weights)
        for spec in ("resnet18", "resnet18:DEFAULT", "resnet18:IMAGENET1K_V1")
    }
    assert names == {
        "resnet18": ("resnet18_untrained-seed2", "untrained, seed 2"),
        "resnet18:DEFAULT": ("resnet18_IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"),
        "resnet18:IMAGENET1K_V1": ("resnet18_IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"),
    }


def test_networks_of_timm_have_their_own_names_and_transforms():
    timm = pytest.importorskip("timm")
    network = extraction.custom_network("timm:vit_tiny_patch16_224", seed=1)
    assert network.model.key == "vit_tiny_patch16_224_untrained-seed1"
    config = timm.data.resolve_model_data_config(network.load())
    image = np.random.default_rng(1).integers(0, 256, (300, 280, 3)).astype(np.uint8)
    expected = timm.data.create_transform(**config, is_training=False)(Image.fromarray(image))
    found = network.preprocessing.finish(network.preprocessing.prepare(image)[None])[0]
    torch.testing.assert_close(found, expected)
    assert network.preprocessing.name.startswith("timm (input_size (3, 224, 224), interpolation bicubic, crop_pct 0.9")


def test_a_layer_chosen_anew_under_the_same_name_is_computed_anew(tmp_path, stimuli):
    def compute(layer):
        compute_rdms(stimuli, [tiny()], DataFolder(tmp_path), ExtractionSettings({layer: "early"}))
        return np.load(tmp_path / "dnn_rdms" / "tiny_early.npy")

    first = compute("conv")
    with pytest.warns(UserWarning, match=r"tiny_early.npy: its layer changed since it was computed; it is"):
        second = compute("fc")
    assert not np.array_equal(first, second)
    assert not np.array_equal(run(tmp_path / "other", stimuli)["late"], first)
    np.testing.assert_array_equal(run(tmp_path / "other", stimuli)["late"], second)


@pytest.mark.parametrize(("encoding", "good"), [("utf-8-sig", True), ("latin-1", False)])
def test_conditions_in_other_encodings(tmp_path, stimuli, encoding, good):
    named = [(f"café {i}", path) for i, (_, path) in enumerate(stimuli)]
    (tmp_path / "conditions.txt").write_bytes("\r\n".join(name for name, _ in named).encode(encoding))
    if good:
        run(tmp_path, named)
    else:
        with pytest.raises(InputError, match=r"conditions.txt: is not a readable text file"):
            run(tmp_path, named)


def test_a_torchvision_network_by_command(tmp_path, stimuli):
    call(stimuli, tmp_path, "--model", "squeezenet1_1", "--layers", "features.3", "--memory", "50MB")
    record = json.loads((tmp_path / "dnn_rdms" / "squeezenet1_1_untrained-seed0_features.3.json").read_text())
    assert record["data"]["preprocessing"] == "imagenet"
    assert read_rdms(tmp_path / "dnn_rdms" / "squeezenet1_1_untrained-seed0_features.3.npy", "rdm", "").size == 55


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "edge2d", "jigsaw"], r"unknown task\(s\) jigsaw; there are autoencoder, .*, random"),
        (["--tasks", "random", "--layers", "block5"], "has no layer 'block5'.*there are block4, encoder_output"),
        (["--tasks", "random", "--layers", "block4=a", "encoder_output=a"], "two layers are named a"),
        (["--tasks", "random", "--layers", "block4", "block4"], "a layer is given twice"),
        (["--tasks", "random", "--layers", "block4=a/b"], "'a/b' cannot be part of a file name; use LAYER=NAME"),
        (["--tasks", "edge2d", "--weights", "{empty}/nowhere"], "nowhere: is not a folder"),
        (["--model", "resnet19", "--layers", "fc"], "torchvision has no model 'resnet19'"),
        (["--model", "own_networks:network"], "`layers` is missing; choose from .*conv"),
        (["--model", "own_networks:network", "--layers", "conv9"], "has no layer 'conv9'"),
        (["--model", "own_networks:not_a_network", "--layers", "fc"], "returned int, expected a torch.nn.Module"),
        (["--model", "own_networks:network", "--layers", "fc", "--key", "a b"], "'a b' cannot be part of a file name"),
        (["--model", "own_networks:network", "--layers", "fc", "--label", "a\tb"], "must not contain tabs"),
        (["--model", "resnet18:MINE", "--layers", "fc"], "no weights 'MINE'; there are"),
    ],
)
def test_bad_options_are_refused(tmp_path, stimuli, tiny_module, arguments, message):
    with pytest.raises(InputError, match=message) as error:
        call(stimuli, tmp_path / "out", *[argument.format(empty=tmp_path) for argument in arguments])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "expected a whole number from 1 on"),
        (["--memory", "lots"], "'lots', expected a size of at least 10MB"),
        (["--memory", "3"], "expected a size"),
        (["--precision", "int8"], "invalid choice"),
        (["--group", "2D"], "require --model"),
        (["--model", "resnet18", "--unverified-weights"], "require --tasks"),
        (["--model", "resnet18", "--tasks", "random"], "not allowed with"),
    ],
)
def test_bad_values_are_refused(tmp_path, stimuli, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        call(stimuli, tmp_path / "out", *arguments)
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]


def test_a_missing_checkpoint_and_a_wrong_one(tmp_path, stimuli, monkeypatch):
    from models.tasks import TASKS

    task = next(task for task in TASKS if task.key == "edge2d")
    (tmp_path / task.checkpoint).write_bytes(b"something else")
    with pytest.raises(InputError, match=r"edge_texture_encoder-.*: has SHA-256 .*expected be2d686a"):
        call(stimuli, tmp_path / "out", "--tasks", "edge2d", "--weights", tmp_path)


@pytest.mark.slow
def test_the_shell_gets_one_line_and_status_2(tmp_path):
    command = [sys.executable, "-m", "utils.activations", "--images", str(tmp_path), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "no images among its" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_rdms_of_photographs_go_into_the_figures(tmp_path, fifteen_subjects):
    """Networks of one's own on 78 images, then Fig 3b with the RDMs of fifteen brains."""
    listed = list_images(fifteen_subjects / "stimuli")
    networks = []
    for seed, group in enumerate(("2D", "semantic", "2D")):
        network = tiny(seed)
        networks.append(Network(Model(f"net{seed}", f"Net {seed}", group, ""), network.load, network.preprocessing, ""))
    compute_rdms(listed, networks, DataFolder(tmp_path / "own"), ExtractionSettings(LAYERS))
    command = [sys.executable, str(HOME / "Fig3b_groupeddnns_ROIs.py"), "--dnn-rdms", str(tmp_path / "own/dnn_rdms")]
    command += [
        "--fmri-rdms",
        str(fifteen_subjects / "roi_rdms"),
        "--roi-labels",
        str(fifteen_subjects / "roi_labels.csv"),
    ]
    command += ["--results", str(tmp_path / "results"), "--n-permutations", "99", "--no-open", "-q"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "results" / "Fig3b" / "results.tsv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2
