"""Pages about runs: the report of one, beside its files, and the index of all figures in a results folder."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from utils.io.output import written_whole
from utils.io.templates import render, render_text
from utils.reporting.methods import facts, methods_text
from utils.reporting.notes import found

FIGURES = {
    "Fig1": "Fig 1: which network best explains each searchlight?",
    "Fig2": "Fig 2: the networks that best explain each ROI, and the unique variance of each",
    "Fig3a": "Fig 3a: which group of networks uniquely explains the most variance in each searchlight?",
    "Fig3b": "Fig 3b: unique and shared variance of the groups of networks in each ROI",
}
_HERE = Path(__file__).parent
# Columns of the result tables, as templates of a BIDS data dictionary.
COLUMNS: dict[str, dict[str, str]] = json.loads((_HERE / "columns.json").read_text(encoding="utf-8"))
# Descriptions of files by how their names end; the first that fits counts.
_FILES: dict[str, str] = json.loads((_HERE / "files.json").read_text(encoding="utf-8"))
_LINKS = {"report.html": "Report", "brain_map.html": "Map", "figure.svg": "Figure", "results.tsv": "Table"}


def write_report(
    path: Path,
    record: Mapping[str, Any],
    table: pd.DataFrame,
    *,
    title: str,
    warnings: Sequence[str] = (),
    banner: str | None = None,
) -> None:
    """Write the page on a run: map, figure, table, methods text, warnings, provenance and files.

    The page refers to the files of the run by relative paths, so it is written last, into the folder that holds them:
    all that lie there are linked, and `run.json`, which is written after it.

    Parameters
    ----------
    path : Path
        The page to write, beside the files of the run.
    record : mapping
        Provenance as for `run.json`, with the numbers that `utils.reporting.methods.facts` needs.
    table : DataFrame
        What `results.tsv` holds. A column `significant`, of bool, says which rows stand out.
    title : str
    warnings : sequence of str
        What the run warned of.
    banner : str, optional
        Line across the top of the page, such as that the data are simulated.

    Raises
    ------
    KeyError
        If the record lacks a number that the methods text needs.
    InputError
        If the page cannot be written.
    """
    columns = describe_columns(record, table)
    page = render(
        "reporting/report.html",
        **facts(record),
        title=title,
        banner=banner,
        date=_date(record),
        test=_test(record),
        found=found(table),
        has_map=(path.parent / "brain_map.html").is_file(),
        legend=[(_heading(column), column["Description"]) for column in columns.values()],
        methods=methods_text(record),
        warnings=warnings,
        command=shlex.join(record["command"]),
        provenance=_provenance(record),
        folders=_folders(path),
        content=_content(table, columns),
    )
    _write(path, page)


def write_columns(path: Path, record: Mapping[str, Any], table: pd.DataFrame) -> None:
    """Write `results.json`, which describes the columns of `results.tsv` as BIDS data dictionaries do.

    Parameters
    ----------
    path : Path
        The file to write.
    record, table
        As for `describe_columns`.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    _write(path, json.dumps(describe_columns(record, table), indent=2, ensure_ascii=False) + "\n")


def describe_columns(record: Mapping[str, Any], table: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Describe the columns of a table of results for this run, whose options decide on the wording.

    Parameters
    ----------
    record : mapping
        Provenance of the run, as for `utils.reporting.methods.facts`.
    table : DataFrame
        What `results.tsv` holds.

    Returns
    -------
    dict of str to dict
        By column, in the order of the table: `LongName`, `Description` and, where there are any, `Units`. Columns that
        `columns.json` does not list are left out.
    """
    values = facts(record)
    return {
        name: {key: render_text(text, **values) for key, text in COLUMNS[name].items()}
        for name in map(str, table)
        if name in COLUMNS
    }


def write_index(results: Path) -> None:
    """Write `index.html` of a results folder, with a card for every figure that has a folder there.

    Parameters
    ----------
    results : Path
        The folder that holds `Fig1`, `Fig2`, ... as far as they were made.

    Raises
    ------
    InputError
        If the page cannot be written; an earlier one is then left as it is.
    """
    cards = [_card(results / figure, title) for figure, title in FIGURES.items() if (results / figure).is_dir()]
    _write(results / "index.html", render("reporting/index.html", cards=cards))


def _write(path: Path, text: str) -> None:
    with written_whole(path) as file:
        file.write(text.encode())


def _card(folder: Path, title: str) -> dict[str, Any]:
    """What the index shows of a figure, as far as its files are there and readable."""
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        details = f"{_date(record)} · {_test(record)}"
        simulated = bool(record["data"]["simulated"])
    except (OSError, ValueError, KeyError, TypeError):
        details, simulated = "run.json is missing or damaged; please run this figure again", False
    files = {file.name for file in folder.iterdir()}
    links = {name: text for name, text in _LINKS.items() if name in files}
    page = next((name for name in ("report.html", "figure.svg") if name in files), "figure.png")
    shown = {"folder": folder.name, "title": title, "details": details, "simulated": simulated}
    return {**shown, "links": links, "thumbnail": page if "figure.png" in files else None}


def _date(record: Mapping[str, Any]) -> str:
    return str(record["finished"])[:16].replace("T", " ")


def _test(record: Mapping[str, Any]) -> str:
    options = record["options"]
    if options["stats"] == "t-test":
        return "t-test across participants"
    within = " within blocks" if options.get("blocks") and options["permute"] == "conditions" else ""
    return f"{options['n_permutations']:,} permutations of {options['permute']}{within}"


def _heading(column: Mapping[str, str]) -> str:
    return column["LongName"] + (f" ({column['Units']})" if "Units" in column else "")


def _content(table: pd.DataFrame, columns: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """The table for the script of the page, column by column; searchlights with the largest values first."""
    names = [str(name) for name in table]
    shown = [_column(table[name], columns.get(name, {"LongName": name.replace("_", " ")})) for name in names]
    first = next((names.index(name) for name in ("unique", "adjusted_r2") if name in table), None)
    sort = {"column": first if "searchlight" in table else None, "direction": -1}
    return {"columns": shown, "faint": (~table["significant"]).astype(int).tolist(), "sort": sort}


def _column(values: pd.Series, column: Mapping[str, str]) -> dict[str, Any]:
    """A column for the script: numbers as they are shown, or texts as positions among those that occur."""
    heading = _heading(column)
    if pd.api.types.is_bool_dtype(values):
        return {"heading": heading, "texts": ["no", "yes"], "values": values.astype(int).tolist()}
    if not pd.api.types.is_numeric_dtype(values):
        codes, texts = pd.factorize(values)
        return {"heading": heading, "texts": [str(text) for text in texts], "values": codes.tolist()}
    decimals = 0 if pd.api.types.is_integer_dtype(values) else 1 if column.get("Units") == "mm" else 4
    numbers = [None if pd.isna(value) else _rounded(float(value), decimals) for value in values]
    return {"heading": heading, "decimals": decimals, "values": numbers}


def _rounded(value: float, decimals: int) -> float | int:
    """The number that the page shows: with fixed decimals, or two digits where those would make it 0."""
    if decimals == 0:
        return round(value)
    return round(value, decimals) or float(f"{value:.1e}")


def _provenance(record: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    run = {name: record[name] for name in ("finished", "seconds", "device", "system")}
    parts = {"Run": run, "Data": record["data"], "Versions": record["versions"], "Options": record["options"]}
    return {heading: {name: _text(value) for name, value in part.items()} for heading, part in parts.items()}


def _text(value: Any) -> str:
    """A value of run.json in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if value is None:
        return "–"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def _folders(page: Path) -> dict[str, list[dict[str, Any]]]:
    """All files of the run by folder: those beside the page, under "", and those in each folder there."""
    here = page.parent
    found = {file.relative_to(here).as_posix(): file.stat().st_size for file in here.rglob("*") if file.is_file()}
    # The page, and the record, which is written after it, have no size yet.
    sizes: dict[str, int | None] = {"run.json": None, **found, page.name: None}
    folders: dict[str, list[dict[str, Any]]] = {"": []}
    for name in sorted(sizes):
        folder = name.split("/")[0] if "/" in name else ""
        folders.setdefault(folder, []).append({"name": name, "size": sizes[name], "what": _what(here, name)})
    return folders


def _what(folder: Path, name: str) -> str:
    """One line on a file of a run; maps have it in the JSON file beside them."""
    kind = next((text for ending, text in _FILES.items() if name.endswith(ending)), "")
    if kind not in ("volume", "surface"):
        return kind
    stem = name.split(".")[0]
    try:
        described = str(json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))["Description"])
    except (OSError, ValueError, KeyError, TypeError):
        return kind
    return f"{kind}: {described}"
