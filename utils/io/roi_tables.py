"""Tables of ROI names as atlases bring them."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from utils import InputError
from utils.io.readers import check_unique, readable

# Headings of columns, in lower case, the best first.
_NUMBER_COLUMNS = (
    "id", "index", "roi_id", "roiid", "label_id", "labelid", "region_id", "regionid", "value", "key", "number", "no",
)  # fmt: skip
_NAME_COLUMNS = (
    "roi", "name", "roi_name", "label_name", "labelname", "region_name", "region", "label", "labels", "structure",
    "area",
)  # fmt: skip
_EXPECTED = (
    "expected a table with columns id and roi (or index and name, as in BIDS), lines of a number and a name, a "
    "FreeSurfer colour table or an FSL atlas in XML"
)
_NUMBERED = re.compile(r"(?P<roi>roi[\s_-]*)?0*(?P<number>\d+)(?P<gap>[\s.:)=]+)(?P<rest>\S.*)", re.IGNORECASE)
# Between number and name in ROIfiles_Labeling.txt of Wang et al. 2015: dots, "is", "area".
_FILLER = re.compile(r"(?:[.:=-]+|is|area)\s+", re.IGNORECASE)
_BACKGROUND = re.compile(
    r"\W*|back-?ground|un(known|defined|assigned|classified|label+ed)|outside|none|n/a|medial[ _-]?wall|clear label",
    re.IGNORECASE,
)
_LONGEST_NAME = 150
# The numbers that AAL gives its regions; the name of no region ends in so large a number.
_SMALLEST_CODE = 1000


def read_roi_table(path: Path) -> dict[int, str]:
    """Read the names of ROIs from the table of an atlas.

    - Tables with a heading, separated by commas, semicolons, tabs or blanks: CSV with columns id and roi, or index and
      name as in the dseg.tsv of BIDS; further columns do not matter. Names with commas stand in quotes.
    - The same without a heading, such as the order files of Schaefer et al. 2018 (number, name, colour), the lists of
      AAL (number, name, code; or short name, name, number) and lines of a number and a name of any number of words.
    - ROIfiles_Labeling.txt of Wang et al. 2015, with further words between number and name.
    - Colour tables of FreeSurfer, FSLeyes and Connectome Workbench.
    - XML of FSL, where a label counts from 0 unless the atlas is of type Label: its voxels hold the index + 1; and of
      SPM, where the index is what voxels hold.

    The number 0 is what is outside of all ROIs and is left out, with a warning if it has the name of an ROI.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict of int to str
        Names by number, in the order of the table, without superfluous blanks.

    Raises
    ------
    InputError
        If the file is none of these, a number or name occurs twice, or it is not clear what the name is.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: is not a readable file ({error.strerror}); {_EXPECTED}") from None
    pairs = _from_xml(path, content) if content.lstrip().startswith(b"<") else _from_text(path, _decoded(path, content))
    pairs = [(number, " ".join(name.split())) for number, name in pairs]
    named = [pair for pair in pairs if pair[0]]
    lost = [name for number, name in pairs if not number and not is_background(name)]
    if lost:
        warnings.warn(f"{path}: 0 ({lost[0]}) is what is outside of all ROIs and is left out", stacklevel=2)
    if not named:
        raise InputError(f"{path}: no ROI found; {_EXPECTED}")
    long = next((name for _, name in named if len(name.encode()) > _LONGEST_NAME), None)
    if long:
        raise InputError(f"{path}: '{long[:40]}…' is too long to name files, expected {_LONGEST_NAME} bytes or less")
    for column in zip(*named, strict=True):
        check_unique(path, column, "ids and names must be unique")
    return dict(named)


def is_background(name: str) -> bool:
    """Whether a name is what atlases call the outside of all ROIs: "Unknown", "???", "Medial_wall" and the like."""
    return _BACKGROUND.fullmatch(name) is not None


def _decoded(path: Path, content: bytes) -> str:
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path}: line {line} is not UTF-8 text, expected a text table; save it as UTF-8") from None
    if "\0" in text:
        raise InputError(f"{path}: is no text, expected a text table; save it as UTF-8")
    return text


def _from_xml(path: Path, content: bytes) -> list[tuple[int, str]]:
    with readable(path, "table in XML"):
        root = ElementTree.fromstring(content)
    # In an atlas of FSL's type Label, indices are values of voxels; else they count maps of a 4-D file, from 0.
    first = 0 if root.findtext("header/type", "").strip().lower() == "label" else 1
    pairs = []
    for label in root.iter("label"):
        own, name = label.findtext("index"), label.findtext("name") or label.text or ""
        index = own if own is not None else label.get("value", label.get("index", ""))
        number = _whole(index)
        if number is None or not name.strip():
            raise InputError(f"{path}: label '{name.strip()}' has index '{index}', expected a whole number and a name")
        pairs.append((number + (first if own is None and "value" not in label.attrib else 0), name))
    return pairs


def _from_text(path: Path, text: str) -> list[tuple[int, str]]:
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    lines = [(number, line) for number, line in lines if line.lstrip()[0] not in "#%"]
    if not lines:
        return []
    for delimiter in "\t,;":
        rows = [_Row(path, number, line, delimiter) for number, line in lines]
        columns = _columns(rows)
        if columns is not None:
            return [row.pair(*columns) for row in rows[1:] if any(row.cells)]
        without = _without_heading(rows)
        if without is not None:
            return without
    headings = lines[0][1].split()
    rows = [_Row(path, number, line, None, len(headings)) for number, line in lines]
    columns = _columns(rows) if set(_NUMBER_COLUMNS) & {*headings} else None  # a title may have words for names in it
    if columns is not None:
        return [row.pair(*columns) for row in rows[1:]]
    _refuse_unknown_headings(path, lines)
    return _workbench_list([line for _, line in lines]) or _numbered_lines(path, lines)


class _Row:
    """Cells of a line, and where it stands."""

    def __init__(self, path: Path, number: int, line: str, delimiter: str | None, n_cells: int = 0) -> None:
        self.path, self.number = path, number
        if delimiter is None:
            self.cells = line.split(None, n_cells - 1)
        else:
            self.cells = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]
        # "Gyrus, anterior" without quotes becomes two cells, of which the second begins with a blank.
        raw = line.split(delimiter)[1:] if delimiter in (",", ";") and '"' not in line else []
        blanks = [cell[:1] == " " for cell in raw]
        self.cut = next((i for i, blank in enumerate(blanks) if i and blank and not blanks[0]), None)

    def pair(self, number_column: int, name_column: int, n_columns: int = 0) -> tuple[int, str]:
        """Number and name; columns beyond `n_columns` (0: any number) are refused."""
        found = len(self.cells)
        if self.cut is not None or 0 < n_columns < found:
            raise InputError(
                f"{self.path}: line {self.number} has more columns than it should; expected names with commas in quotes"
            )
        index, name = (self.cells[k] if k < found else "" for k in (number_column, name_column))
        number = _whole(index)
        if number is None:
            raise InputError(
                f"{self.path}: line {self.number} (ROI {name}) has id '{index}', expected a whole number from 1 on"
            )
        if name.lower() in ("", "n/a") and number:
            raise InputError(f"{self.path}: line {self.number} has no name; expected one for id {number}")
        return number, name


def _columns(rows: Sequence[_Row]) -> tuple[int, int, int] | None:
    """Where numbers and names stand, and how many columns there are, by the headings; None if they do not say it."""
    headings = [re.sub(r"^#\s*|[.:]+$", "", cell).strip().lower() for cell in rows[0].cells]
    if len(headings) < 2:
        return None
    numbers = [headings.index(name) for name in _NUMBER_COLUMNS if name in headings]
    names = [headings.index(name) for name in _NAME_COLUMNS if name in headings]
    if not numbers:  # "label" and "region" are called numbers as well as names
        full = [row for row in rows[1:] if len(row.cells) == len(headings)]
        numbers = [k for k in names if full and all(_whole(row.cells[k]) is not None for row in full)]
        names = [k for k in names if k not in numbers]
    return (numbers[0], names[0], len(headings)) if numbers and names else None


def _without_heading(rows: Sequence[_Row]) -> list[tuple[int, str]] | None:
    """Pairs of a table whose first or last column holds whole numbers; None if there is no such column."""
    shortest = min(len(row.cells) for row in rows)
    if shortest < 2:
        return None
    if all(_whole(row.cells[0]) is not None for row in rows):
        text = [k for k in range(1, shortest) if not all(_is_number(row.cells[k]) for row in rows)]
        if text or shortest == 2:
            return [row.pair(0, text[0] if text else 1) for row in rows]
    elif all(_whole(row.cells[-1]) is not None for row in rows) and len({len(row.cells) for row in rows}) == 1:
        return [row.pair(shortest - 1, shortest - 2) for row in rows]
    return None


def _refuse_unknown_headings(path: Path, lines: Sequence[tuple[int, str]]) -> None:
    """A table with a heading that names no columns that are known is not read as lines of words."""
    if _NUMBERED.fullmatch(lines[0][1].strip()):
        return
    for delimiter in ",\t;":
        if all(delimiter in line for _, line in lines) and len(lines) > 1:
            cells = [cell.strip() for cell in lines[0][1].split(delimiter)]
            found = {name for name in cells if name.lower() in (*_NUMBER_COLUMNS, *_NAME_COLUMNS)}
            if found or (_whole(cells[0]) is None and _whole(lines[1][1].split(delimiter)[0]) is not None):
                wanted = "roi" if found & {*_NUMBER_COLUMNS} else "id"
                raise InputError(f"{path}: no column {wanted} (found {', '.join(cells)}); {_EXPECTED}")


def _workbench_list(lines: Sequence[str]) -> list[tuple[int, str]]:
    """Pairs of a list of Connectome Workbench: a line with the name, a line with number and colour."""
    numbers = [re.fullmatch(r"\s*(\d+)(?:\s+\d+){4}\s*", line) for line in lines[1::2]]
    if len(lines) % 2 or not all(numbers):
        return []
    return [(int(match[1]), name) for match, name in zip(numbers, lines[::2], strict=True) if match]


def _numbered_lines(path: Path, lines: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Pairs of lines of a number and a name, perhaps with colours or codes; titles may come before them."""
    matches = [(number, _NUMBERED.fullmatch(line.strip())) for number, line in lines]
    while matches and matches[0][1] is None:
        del matches[0]
    pairs: list[tuple[int, list[str]]] = []
    for line_number, match in matches:
        if match is None:
            raise InputError(f"{path}: line {line_number} does not begin with a number; {_EXPECTED}")
        rest, is_filled = match["rest"], match["roi"] or ".." in match["gap"]
        while is_filled and (filler := _FILLER.match(rest)):
            rest = rest[filler.end() :]
        quoted = re.search(r"[\"']([^\"']+)[\"']\s*$", rest)  # ITK-SNAP: colours, and the name in quotes
        pairs.append((int(match["number"]), [quoted[1]] if quoted else rest.strip("'\",; ").split()))
    return _without_numbers(path, pairs)


def _without_numbers(path: Path, pairs: Sequence[tuple[int, list[str]]]) -> list[tuple[int, str]]:
    """Leave out colours and codes before or behind the words of a name."""
    if not pairs:
        return []
    before = min(_n_leading_numbers(words) for _, words in pairs)
    behind = min(_n_leading_numbers(words[::-1]) for _, words in pairs)
    if before >= 3:  # FSLeyes: red, green, blue, name
        return [(number, " ".join(words[before:])) for number, words in pairs]
    if behind >= 3:  # FreeSurfer: name, red, green, blue, opacity, and perhaps more, in some of the lines
        return [(number, " ".join(words[: len(words) - _n_leading_numbers(words[::-1])])) for number, words in pairs]
    if behind:
        codes = [_whole(words[-1]) for _, words in pairs]
        is_code = all(code is not None and code >= _SMALLEST_CODE for code in codes)
        if behind == 1 and (is_code or codes == [number for number, _ in pairs]):
            return [(number, " ".join(words[:-1])) for number, words in pairs]
        if len({tuple(words[:-behind]) for _, words in pairs}) == len(pairs):
            raise InputError(
                f"{path}: every line ends in a number, as '{' '.join(pairs[0][1])}', which may be a part of the name "
                f"or not; {_EXPECTED}"
            )
    return [(number, " ".join(words)) for number, words in pairs]


def _n_leading_numbers(words: Sequence[str]) -> int:
    """How many numbers come before the first other word; 0 if there is no other one."""
    return next((i for i, word in enumerate(words) if not _is_number(word)), 0)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", text, re.IGNORECASE) is not None


def _whole(text: str) -> int | None:
    """A whole number from 0 on, also as spreadsheets write it (3.0); None for anything else."""
    match = re.fullmatch(r"(\d+)(?:\.0*)?", text.strip())
    return int(match[1]) if match else None
