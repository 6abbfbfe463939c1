"""The command that plans studies."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers import STUDY_CONDITIONS, write_study

from utils import plan
from utils.analysis.planning import Power
from utils.datasets.pilot import read_pilot
from utils.io.readers import read_rdms
from utils.stats.comparison import compared

QUICK = ["--images", "12", "--effect", "0.1", "--repetitions", "3", "-q"]


def run(capsys, *arguments):
    """Output, errors and exit status of the command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["plan", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            plan.command()
    captured = capsys.readouterr()
    return captured.out, captured.err, ended.value.code


def literal_reliability(rdms):
    """ICC(C, k) of whitened RDMs by the sums of squares of a two-way analysis of variance."""
    rdms = compared(rdms, "whitened")
    n_people, n_pairs = rdms.shape
    pairs, people = rdms.mean(axis=0), rdms.mean(axis=1, keepdims=True)
    between = n_people * ((pairs - rdms.mean()) ** 2).sum() / (n_pairs - 1)
    error = ((rdms - pairs - people + rdms.mean()) ** 2).sum() / ((n_pairs - 1) * (n_people - 1))
    return 1 - error / between


def test_a_table_is_printed(capsys):
    out, err, status = run(capsys, "--reliability", "0.4", "--people", "4", *QUICK)
    assert status == 0 and err == ""
    first, header, row = out.splitlines()
    assert first == "12 images, 4 people, reliability of the mean RDM 0.40; 3 simulated studies per cell"
    assert re.findall(r"\w+", header)[:4] == ["effect", "explained", "star", "lead"]
    assert re.fullmatch(r"0\.1 +(\d\.\d\d \[\d\.\d\d, \d\.\d\d\] +){3}\+-\d+\.\d\d", row)
    again, _, _ = run(capsys, "--reliability", "0.4", "--people", "4", *QUICK)
    assert again == out


def test_intervals_of_the_table_are_those_of_wilson():
    text = plan.table([Power(0.05, 20, 0, 40, 40, 0.123)])
    assert text.splitlines()[1].split() == [
        "0.05", "0.50", "[0.35,", "0.65]", "0.00", "[0.00,", "0.09]", "1.00", "[0.91,", "1.00]", "+-0.12",
    ]  # fmt: skip


def test_a_pilot_says_how_many_and_how_reliable(tmp_path, capsys):
    folder = write_study(tmp_path / "pilot", np.random.default_rng(1))
    pilot = read_pilot(folder, "whitened")
    assert (pilot.n_images, pilot.n_people, pilot.places) == (STUDY_CONDITIONS, 4, "ROIs")
    rdms = [read_rdms(folder / "roi_rdms" / name, "subject_rdm", "") for name in ("EVC.npy", "IT .mat")]
    np.testing.assert_allclose(pilot.reliability, [literal_reliability(own) for own in rdms], rtol=1e-9)
    # Half of the ROIs of this study are noise: plan with the other one.
    (folder / "roi_labels.csv").write_text("id,roi\n3,EVC\n")
    expected = 2 * pilot.reliability[0] / (1 + pilot.reliability[0])
    out, err, status = run(capsys, "--pilot", folder, "--people", "8", *QUICK)
    assert status == 0, err
    assert out.splitlines()[0].startswith(f"{folder}: {STUDY_CONDITIONS} images, 4 people; reliability of the mean RDM")
    assert f"12 images, 8 people, reliability of the mean RDM {expected:.2f};" in out


def test_a_pilot_without_rois_has_searchlights(tmp_path):
    folder = write_study(tmp_path / "pilot", np.random.default_rng(2))
    (folder / "roi_rdms").rename(folder / "elsewhere")
    pilot = read_pilot(folder, "whitened")
    people = np.stack([np.load(path) for path in sorted((folder / "searchlight_rdms").glob("sub-*.npy"))])
    assert (pilot.n_people, pilot.places) == (4, "searchlights")
    literal = [literal_reliability(people[:, i].astype(float)) for i in range(people.shape[1])]
    np.testing.assert_allclose(pilot.reliability, literal, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --reliability or --pilot"),
        (["--reliability", "0.3", "--pilot", "."], "give either --reliability or --pilot"),
        (["--reliability", "1.2"], "--reliability is 1.2, expected a value between 0 and 1"),
        (["--reliability", "nan"], "--reliability is nan, expected a value between 0 and 1"),
        (["--reliability", "0.3", "--images", "5"], "--images is 5, expected 8 or more"),
        (["--reliability", "0.3", "--people", "0"], "'0', expected a whole number from 1 on"),
        (["--reliability", "0.3", "--effect", "1.5"], "--effect is 1.5, expected shares from 0 to below 1"),
        (["--reliability", "0.3", "--effect", "0.9"], "choose a smaller --effect"),
        (["--reliability", "0.99", "--people", "2", "--effect", "0.1"], "2 people who differ reach at most"),
        (["--reliability", "0.3", "--alpha", "2"], "--alpha is 2, expected a value between 0 and 1"),
        (["--reliability", "0.3", "--seed", "-1"], "--seed is -1, expected 0 or more"),
        (["--pilot", "nowhere"], "folder nowhere does not exist"),
    ],
)
def test_bad_input_gives_one_line(capsys, arguments, message):
    _, err, status = run(capsys, *arguments, "-q")
    assert status == 2 and message in err
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err


def test_a_pilot_of_one_person_has_no_reliability(tmp_path, capsys):
    folder = write_study(tmp_path / "pilot", np.random.default_rng(3))
    (folder / "roi_labels.csv").write_text("id,roi\n3,EVC\n")
    np.save(folder / "roi_rdms" / "EVC.npy", np.load(folder / "roi_rdms" / "EVC.npy")[:1])
    _, err, status = run(capsys, "--pilot", folder, "-q")
    assert status == 2 and "needs the RDMs of two or more people; give --reliability instead" in err


def test_a_pilot_without_agreement_cannot_be_planned_with(tmp_path, capsys):
    folder = write_study(tmp_path / "pilot", np.random.default_rng(4))
    (folder / "roi_labels.csv").write_text("id,roi\n3,EVC\n")
    first = np.load(folder / "roi_rdms" / "EVC.npy")[0]
    np.save(folder / "roi_rdms" / "EVC.npy", np.stack([first, (2 - first) * (1 - np.eye(len(first)))]))
    _, err, status = run(capsys, "--pilot", folder, "-q")
    assert status == 2 and "people agree no more than by chance" in err and len(err.strip().splitlines()) == 1


def test_the_help_explains_the_columns(capsys):
    out, _, status = run(capsys, "--help")
    assert status == 0
    for word in ("explained", "star", "lead", "explainable variance", "--pilot", "95 % interval"):
        assert word in out
