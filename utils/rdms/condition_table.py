"""Tables that say which condition, run and subject each beta map is of.

A table is a tab-separated file with a column `condition` and any of these:

- `file`: the end of a path, such as `beta_0001.nii` (in every subject's folder) or `sub-01/run-1.nii.gz`;
- `index`: volume of a 4-D file, counted from 0. Rows of a file without it are its volumes, in order;
- `run` and `subject`: what the rows are of; a subject is named as in file names, with or without `sub-`.

A condition `n/a` leaves a map out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from utils import InputError
from utils.io.readers import read_table, readable
from utils.rdms.beta_files import NOT_A_CONDITION, BetaMap
from utils.rdms.stimuli import few


def is_table(path: Path) -> bool:
    """Whether a file of conditions is a table, not a list of names: by its first line.

    Raises
    ------
    InputError
        If the file is unreadable.
    """
    with readable(path, "text file (UTF-8)"), path.open(encoding="utf-8-sig") as file:
        columns = [name.strip() for name in file.readline().split("\t")]
    return "condition" in columns and (len(columns) > 1 or path.suffix.lower() == ".tsv")


def name_maps(path: Path, found: Mapping[str, Sequence[BetaMap]]) -> tuple[dict[str, list[BetaMap]], list[str], str]:
    """Give beta maps the conditions and runs of a table.

    Parameters
    ----------
    path : Path
        See the top of this module.
    found : mapping of str to sequence of BetaMap
        Maps of every subject.

    Returns
    -------
    maps : dict of str to list of BetaMap
        Those that the table names, without those of no condition.
    conditions : list of str
        In the order of the table.
    line : str
        How many maps are left out; empty if none are.

    Raises
    ------
    InputError
        If the table is unreadable, or a row has no map or a map no row.
    """
    rows = read_table(path, "\t", ("condition",))
    used = [False] * len(rows)
    named: dict[str, list[BetaMap]] = {}
    left_out = 0
    for subject, maps in found.items():
        named[subject] = []
        for file in dict.fromkeys(entry.path for entry in maps):
            own = [number for number, row in enumerate(rows) if _is_of(row, subject, file)]
            by_index: dict[int, int] = {}
            for position, number in enumerate(own):
                index = _index_of(path, number, rows[number].get("index") or str(position))
                if index in by_index:
                    raise InputError(
                        f"{path}: lines {by_index[index] + 2} and {number + 2} are of the same volume ({index} of "
                        f"{file}), expected one line for each; add columns `index`, `file` or `subject`"
                    )
                by_index[index] = number
            volumes = [entry for entry in maps if entry.path == file]
            missing = [e.index for e in volumes if e.index not in by_index and e.condition != NOT_A_CONDITION]
            if missing:
                raise InputError(
                    f"{file}: volume(s) {few(missing)} of {len(volumes)} (counted from 0) have no line in {path}, "
                    f"expected one for each; name a condition, or {NOT_A_CONDITION} to leave a volume out"
                )
            excess = [index for index in by_index if index >= len(volumes)]
            if excess:
                raise InputError(
                    f"{path}: line {by_index[excess[0]] + 2} is of volume {excess[0]} of {file}, which has "
                    f"{len(volumes)}, counted from 0"
                )
            for entry in (entry for entry in volumes if entry.index in by_index):
                row = rows[by_index[entry.index]]
                used[by_index[entry.index]] = True
                if row["condition"] == NOT_A_CONDITION:
                    left_out += 1
                else:
                    named[subject].append(replace(entry, condition=row["condition"], run=row.get("run") or entry.run))
        if not named[subject]:
            raise InputError(f"{path}: names no condition of subject {subject}; add its files")
    idle = next((number for number, is_used in enumerate(used) if not is_used), None)
    if idle is not None:
        what = ", ".join(f"{key} {value}" for key, value in rows[idle].items() if value)
        raise InputError(
            f"{path}: line {idle + 2} ({what}) is of no beta map given; check file and subject, or remove it"
        )
    conditions = [row["condition"] for row in rows if row["condition"] != NOT_A_CONDITION]
    line = f"{left_out} map(s) are left out ({NOT_A_CONDITION} in {path.name})" if left_out else ""
    return named, list(dict.fromkeys(conditions)), line


def _is_of(row: Mapping[str, str], subject: str, file: Path) -> bool:
    whose, name = row.get("subject", ""), row.get("file", "")
    if whose and whose.removeprefix("sub-") != subject.removeprefix("sub-"):
        return False
    parts = Path(name).parts
    return not name or file.parts[-len(parts) :] == parts


def _index_of(path: Path, number: int, text: str) -> int:
    if not text.isdecimal():
        raise InputError(f"{path}: line {number + 2} has index '{text}', expected a whole number from 0 on")
    return int(text)
