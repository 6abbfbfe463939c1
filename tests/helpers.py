"""What several test modules share: small data sets, literal regressions, and scripts run in place."""

import importlib
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from utils.rdm import n_pairs_of

HOME = Path(__file__).resolve().parents[1]
N_CONDITIONS = 12
N_PAIRS = n_pairs_of(N_CONDITIONS)
REMOTE = re.compile(r"<[a-z]+\s[^>]*(?:src|href)\s*=\s*[\"']?\s*(?:https?:)?//", re.I)  # a tag that asks for more
SCRIPTS = {
    "Fig1": "Fig1_individualdnns_searchlight",
    "Fig2": "Fig2_individualdnns_top3_ROIs",
    "Fig3a": "Fig3a_groupeddnns_searchlight",
    "Fig3b": "Fig3b_groupeddnns_ROIs",
}


def run_script(monkeypatch, figure, *arguments):
    """Run a figure script in this process; returns its exit status."""
    script = importlib.import_module(SCRIPTS[figure])
    monkeypatch.setattr(sys, "argv", [f"{SCRIPTS[figure]}.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        script.main()
    return ended.value.code


def gain_rdms(rng: np.random.Generator, n_rdms: int, n_conditions: int = 20, spread: float = 0.8) -> np.ndarray:
    """Condensed 1 - Pearson RDMs of unrelated random patterns whose conditions differ in gain."""
    from utils.rdm import correlation_rdm

    shape = (n_rdms, n_conditions, 30)
    gain = np.exp(spread * rng.standard_normal((n_rdms, n_conditions, 1)))
    return correlation_rdm(rng.standard_normal((n_rdms, 1, 30)) + gain * rng.standard_normal(shape))


STUDY_CONDITIONS = 8


def related_rdms(rng: np.random.Generator, n_conditions: int) -> tuple[np.ndarray, np.ndarray]:
    """Models (3, 2, n_pairs), and the RDMs of five subjects at three places, the last related to no model."""
    models = gain_rdms(rng, 6, n_conditions).reshape(3, 2, -1)
    subjects = gain_rdms(rng, 15, n_conditions, spread=0.3).reshape(5, 3, -1) + gain_rdms(rng, 3, n_conditions)
    subjects[:, 0] += 0.5 * models[1, 0]
    subjects[:, 1] += 0.2 * models[0, 1] + 0.1 * models[2, 0]
    return models, subjects


def write_study(root: Path, rng: np.random.Generator, n_conditions: int = STUDY_CONDITIONS, space: str = "MNI") -> Path:
    """A small data set in the generic layout: three models, two layers, two ROIs, four subjects, some searchlights.

    The first ROI and half of the searchlights follow the model `net`.
    """
    from scipy.io import savemat

    from utils.io.output import write_volume
    from utils.rdm import expand, n_pairs_of
    from utils.rdms.searchlights import block_geometry

    n_pairs = n_pairs_of(n_conditions)
    for name in ("dnn_rdms", "roi_rdms", "searchlight_rdms"):
        (root / name).mkdir(parents=True)
    rows = ["key\tlabel\tgroup", "edges\tEdges\t2D", "edges_fine\tFine edges\t2D", "net\tNet\tsemantic"]
    (root / "models.tsv").write_text("\n".join(rows) + "\n")
    for key in ("edges", "edges_fine", "net"):
        for layer in ("early", "late"):
            np.save(root / "dnn_rdms" / f"{key}_{layer}.npy", expand(rng.random(n_pairs) + 0.1))
    net = np.load(root / "dnn_rdms" / "net_late.npy")
    (root / "roi_labels.csv").write_text("id,roi\n3,EVC\n7,IT \n")
    noise = expand(rng.random((2, 4, n_pairs)))
    np.save(root / "roi_rdms" / "EVC.npy", (net + noise[0]).astype(np.float32))
    savemat(root / "roi_rdms" / "IT .mat", {"subject_rdm": noise[1] + 0.1})
    mask = np.zeros((8, 7, 6), dtype=bool)
    mask[2:6, 2:5, 1:5] = True
    affine = np.array([[3.0, 0, 0, -12], [0, 3, 0, -90], [0, 0, 3, -6], [0, 0, 0, 1]])
    write_volume(root / "mask.nii.gz", mask.astype(np.uint8), affine, space=space)
    geometry = block_geometry(mask, affine, space)
    geometry.save(root / "searchlight_rdms" / "geometry.npz")
    follows = np.arange(len(geometry)) % 2
    signal = follows[:, None] * net[np.triu_indices(n_conditions, k=1)]
    for subject in range(1, 5):
        rdms = (signal + rng.random((len(geometry), n_pairs))).astype(np.float32)
        np.save(root / "searchlight_rdms" / f"sub-{subject:02d}.npy", rdms)
    atlas = np.zeros(mask.shape, dtype=np.int16)
    atlas[3:5, 3:5, 2:4], atlas[5:7, 3:5, 2:4] = 3, 7
    write_volume(root / "atlas.nii.gz", atlas, affine, space=space)
    return root


def lstsq_adjusted(sets, response):
    """Adjusted R2 by numpy's least squares, with an intercept."""
    x = np.column_stack([np.ones(len(response)), *(predictor for s in sets for predictor in s)])
    residual = response - x @ np.linalg.lstsq(x, response, rcond=None)[0]
    r2 = 1 - (residual @ residual) / np.square(response - response.mean()).sum()
    return 1 - (1 - r2) * (len(response) - 1) / (len(response) - x.shape[1])


def lstsq_unique(sets, response):
    total = lstsq_adjusted(sets, response)
    return [total - lstsq_adjusted([s for j, s in enumerate(sets) if j != i], response) for i in range(len(sets))]


def load_batch(paths, preprocessing):
    """Images as the input of a network."""
    import torch

    from utils.rdms.stimuli import decode

    return preprocessing.finish(torch.stack([preprocessing.prepare(decode(path)) for path in paths]))


def wait_for(folder: Path, names: str, n: int = 1, seconds: float = 300) -> None:
    """Until there are `n` such files, a handshake; the deadline only ends what would otherwise wait for ever."""
    deadline = time.monotonic() + seconds
    while len([*folder.glob(names)]) < n:
        assert time.monotonic() < deadline, f"{folder}: no {n} files {names}"
        time.sleep(0.01)
