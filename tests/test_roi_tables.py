"""Names of ROIs from the tables that atlases come with."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from utils import InputError
from utils.io.output import write_roi_table
from utils.io.roi_tables import read_roi_table

AREAS = {1: "V1v", 2: "V1d", 12: "MST"}
TABLES = {
    "CSV": ("id,roi\n1,V1v\n2, V1d\n12,MST \n", AREAS),
    "CSV without a heading": ("1,V1v\n2,V1d\n12,MST\n", AREAS),
    "CSV with the background": ("id,roi\n0,Background\n1,V1v\n2,V1d\n12,MST\n", AREAS),
    "CSV of a spreadsheet": ("id;roi\r\n1.0;V1v\r\n2.0;V1d\r\n12.0;MST\r\n;\r\n", AREAS),
    "CSV with quotes": ('id,roi\n1,"Gyrus, anterior"\n2,"Gyrus, b"\n', {1: "Gyrus, anterior", 2: "Gyrus, b"}),
    "CSV of index and label": ("index,label\n1,V1v\n2,V1d\n12,MST\n", AREAS),
    "CSV of label and name": ("label,name\n1,V1v\n2,V1d\n12,MST\n", AREAS),
    "CSV of numbers that are names": ("id,roi\n1,17\n2,18\n", {1: "17", 2: "18"}),
    "BIDS": ("index\tname\tcolor\tmapping\n1\tV1v\t#781283\t9\n2\tV1d\t#4682b4\t8\n12\tMST\t#000000\t7\n", AREAS),
    "tabs and a third column": ("id\troi\tnetwork\n1\tV1v\tearly\n2\tLO1\tlate\n", {1: "V1v", 2: "LO1"}),
    "FreeSurfer": (
        "#No. Label Name: R G B A\n0 Unknown 0 0 0 0\n1 V1v 120 18 134 0\n\n2  V1d   70 130 180 9 5\n12 MST 1 2 3 4\n",
        AREAS,
    ),
    "Schaefer": ("1\tLH_Vis_1\t120\t18\t131\t0\n2\tLH_Vis_2\t120\t18\t132\t0\n", {1: "LH_Vis_1", 2: "LH_Vis_2"}),
    "AAL for MRIcron": ("1 Precentral_L 2001\n2 Precentral_R 2002\n", {1: "Precentral_L", 2: "Precentral_R"}),
    "AAL 3": ("1 Precentral_L 1\n2 Precentral_R 2\n", {1: "Precentral_L", 2: "Precentral_R"}),
    "AAL for SPM5": ("FAG\tPrecentral_L\t2001\nINL\tInsula\t2002\n", {2001: "Precentral_L", 2002: "Insula"}),
    "lines": ("1 V1v\n2 V1d\n12 MST\n", AREAS),
    "lines of two words": ("1 Frontal Pole\n2 Insular Cortex\n", {1: "Frontal Pole", 2: "Insular Cortex"}),
    "lines with commas": ("1 Gyrus, anterior part\n2 Gyrus, b\n", {1: "Gyrus, anterior part", 2: "Gyrus, b"}),
    "lines that end in numbers": ("1 Area 44\n2 Area 45\n", {1: "Area 44", 2: "Area 45"}),
    "lines with a heading": ("id roi\n1 V1v\n2 Frontal Pole\n", {1: "V1v", 2: "Frontal Pole"}),
    "a name that begins with a number": ("1 3rd ventricle\n2 V1d\n", {1: "3rd ventricle", 2: "V1d"}),
    "Wang": ("% ROI labels\nROI file labels\n\n01 ....... is V1v\n02 ....... is V1d\n12 ....... is MST\n", AREAS),
    "Wang with tabs": ("roi1\t:\tarea\tV1v\nroi2\t:\tarea\tV1d\nroi12\t:\tarea\tMST\n", AREAS),
    "Wang with signs": ("roi 1 = V1v\nroi 2 = V1d\nroi 12 = MST\n", AREAS),
    "FSLeyes": ("1 0.47 0.07 0.52 V1v\n2 0.1 0.2 0.3 V1d\n12 1.0 0.0 0.0 MST\n", AREAS),
    "ITK-SNAP": ('0 0 0 0 0 0 0 "Clear Label"\n1 255 0 0 1 1 1 "V1 v"\n2 0 255 0 1 1 1 "V1d"\n', {1: "V1 v", 2: "V1d"}),
    "Workbench": ("V1v\n1 120 18 134 255\nV1 d\n2 70 130 180 255\n", {1: "V1v", 2: "V1 d"}),
    "FSL": (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<atlas version="1.0"><header><type>Probabalistic</type></header>'
        '<data>\n<label index="0" x="48" y="94" z="35">Frontal Pole</label>\n<label index="1">Gyrus, anterior</label>'
        "</data></atlas>", {1: "Frontal Pole", 2: "Gyrus, anterior"},
    ),
    "FSL of labels": (
        '<atlas><header><type>Label</type></header><data><label index="0">Unclassified</label>'
        '<label index="1">Fornix</label></data></atlas>', {1: "Fornix"},
    ),
    "SPM": (
        "<atlas><data><label><index>2001</index><name>Precentral_L</name></label></data></atlas>",
        {2001: "Precentral_L"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("title", TABLES)
def test_tables_of_atlases(tmp_path, title, recwarn):
    text, names = TABLES[title]
    (tmp_path / "labels.txt").write_text(text, newline="")
    assert read_roi_table(tmp_path / "labels.txt") == names
    assert not recwarn.list


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(tmp_path, encoding):
    (tmp_path / "labels.csv").write_text("id,roi\n1,Größe\n", encoding=encoding)
    assert read_roi_table(tmp_path / "labels.csv") == {1: "Größe"}


def test_freesurfers_own_table():
    """The copy that MNE brings, against a literal reading of its columns."""
    found = importlib.util.find_spec("mne")
    if found is None or found.origin is None:
        pytest.skip("mne is not installed")
    path = Path(found.origin).parent / "data" / "FreeSurferColorLUT.txt"
    rows = [line.split() for line in path.read_text().splitlines() if re.match(r"\s*\d", line)]
    names = read_roi_table(path)
    assert names == {int(row[0]): row[1] for row in rows if row[0] != "0"}
    assert len(names) > 1000 and names[14175] == "wm_rh_S_temporal_transverse"


def test_what_is_written_is_read(tmp_path, rng):
    names = {3: 'Gyrus, "inner" part', 1: "V1/V2", 14: "a;b", 7: "#1"}
    write_roi_table(tmp_path / "roi_labels.csv", names)
    assert read_roi_table(tmp_path / "roi_labels.csv") == names
    assert list(read_roi_table(tmp_path / "roi_labels.csv")) == [3, 1, 14, 7]
    many = {int(number): f"area {number}" for number in np.unique(rng.integers(1, 30_000, 200))}
    write_roi_table(tmp_path / "roi_labels.csv", many)
    assert read_roi_table(tmp_path / "roi_labels.csv") == many


def test_a_table_that_counts_from_zero_is_told(tmp_path):
    (tmp_path / "labels.csv").write_text("id,roi\n0,V1v\n1,V1d\n")
    with pytest.warns(UserWarning, match=r"labels.csv: 0 \(V1v\) is what is outside of all ROIs and is left out"):
        assert read_roi_table(tmp_path / "labels.csv") == {1: "V1d"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nothing here\n", "no ROI found; expected a table with columns id and roi"),
        (b"", "no ROI found"),
        (b"1 V1v\n1 V1d\n", r"1 occur\(s\) more than once; ids and names must be unique"),
        (b"1 V1v\n2 V1v\n", r"V1v occur\(s\) more than once"),
        (b"id,color\n1,red\n", r"no column roi \(found id, color\); expected a table with columns id and roi"),
        (b"x,color\n1,red\n", r"no column id \(found x, color\)"),
        (b"id,roi\nx,V1v\n", r"line 2 \(ROI V1v\) has id 'x', expected a whole number from 1 on"),
        (b"id,roi\n-1,V1v\n", "has id '-1'"),
        (b"id,roi\n1.5,V1v\n", "has id '1.5'"),
        (b"id,roi\n1,V1v\n2,\n", "line 3 has no name; expected one for id 2"),
        (b"index\tname\n1\tn/a\n", "line 2 has no name"),
        (b"id,roi\n1,Gyrus, anterior\n2,V1\n", "line 2 has more columns .* expected names with commas in quotes"),
        (b"1,Gyrus, anterior\n2,Sulcus, posterior\n", "line 1 has more columns than it should"),
        (b"1 V1v 350\n2 V1d 200\n", "every line ends in a number, as 'V1v 350', which may be a part of the name"),
        (b"1 V1v\n2 V1d\nand so on\n", "line 3 does not begin with a number; expected"),
        ("id,roi\n1,Größe\n".encode("latin-1"), "line 2 is not UTF-8 text, expected a text table; save it as UTF-8"),
        (b"id,roi\n1,V\x001\n", "is no text"),
        (b"<atlas>", "is not a readable table in XML"),
        (b"<atlas><data><label index='x'>V1</label></data></atlas>", "label 'V1' has index 'x', expected a whole"),
        (b"1 " + b"x" * 400, "is too long to name files"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used_are_refused(tmp_path, content, message):
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_roi_table(tmp_path / "labels.txt")
    assert str(caught.value).startswith(str(tmp_path / "labels.txt")) and "\n" not in str(caught.value)


def test_a_table_that_is_a_folder(tmp_path):
    with pytest.raises(InputError, match="is not a readable file"):
        read_roi_table(tmp_path)
