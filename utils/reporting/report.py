"""Pages about runs: the report of one, beside its files, and the index of all figures in a results folder."""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from utils.io.output import written_whole
from utils.reporting.methods import methods_text

if TYPE_CHECKING:
    import pandas as pd

FIGURES = {
    "Fig1": "Fig 1: which network best explains each place?",
    "Fig2": "Fig 2: the three networks that best explain each region, and what each explains alone",
    "Fig3a": "Fig 3a: which group of networks explains variance of its own at each place?",
    "Fig3b": "Fig 3b: unique and shared variance of the groups in each region",
}
_FILES = {
    "arrays.npz": "all numbers behind the figure, of every network and place (numpy.load, no pickles)",
    "brain_map.html": "the interactive map, in one file",
    "brain_map_nilearn.html": "its first map in nilearn's viewer",
    "figure.png": "the figure, 300 dpi",
    "figure.svg": "the figure, with text as text",
    "report.html": "this page",
    "results.tsv": "the table of this page, tab-separated, n/a where there is no value",
    "run.json": "what was run: command, options, seed, fingerprint of the data, versions, time taken",
}
# Of maps for other programs, by how their names end.
_MAP_FILES = {
    ".nii.gz": "volume",
    ".gii": "surface",
    ".tsv": "names and colours of the labels, as in BIDS",
    "_freesurfer.txt": "names and colours of the labels, for freeview",
    "_fsleyes.lut": "names and colours of the labels, for FSLeyes",
    ".json": "description, as in BIDS",
}
_NO_MAP = (
    "There is no map of the ROIs, because there was no atlas. Give one with --atlas FILE, a NIfTI volume whose labels "
    "are the ids of the ROI table; python -m utils.fetch atlas brings that of the paper (Wang et al. 2015)."
)
_TEMPLATES = Path(__file__).parent


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
        Provenance as for `run.json`, with the numbers that `utils.reporting.methods.methods_text` needs.
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
    """
    methods = methods_text(record)
    columns = _columns(record)
    _fill(
        "report.html",
        path,
        title=html.escape(title),
        banner=f'<p class="banner">{html.escape(banner)}</p>' if banner else "",
        summary=html.escape(" · ".join(_summary(record, table))),
        map=_map((path.parent / "brain_map.html").is_file()),
        legend=_rows((columns[name].heading, columns[name].meaning) for name in map(str, table) if name in columns),
        methods="".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in methods.paragraphs),
        references="".join(f"<li>{_linked(reference)}</li>" for reference in methods.references),
        n_warnings=str(len(warnings)),
        warnings="".join(f'<p class="warning">{html.escape(text)}</p>' for text in warnings) or "<p>None.</p>",
        command=html.escape(shlex.join(record["command"])),
        provenance=_provenance(record),
        files=_files(path),
        # Inside a script element character references mean nothing, but a "<" may end it or start a comment.
        content=json.dumps(_content(table, columns), separators=(",", ":")).replace("<", "\\u003c"),
    )


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
    _fill("index.html", results / "index.html", cards="\n".join(cards))


def _fill(template: str, path: Path, **parts: str) -> None:
    """Write a template of this folder with its {{names}} replaced."""
    text = (_TEMPLATES / template).read_text(encoding="utf-8")
    with written_whole(path) as file:
        file.write(re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], text).encode())


@dataclass(frozen=True)
class _Column:
    """How a column of `results.tsv` is called and explained on the page, and with how many decimals it is shown."""

    heading: str
    meaning: str
    decimals: int = 4


def _columns(record: Mapping[str, Any]) -> dict[str, _Column]:
    """All columns that tables of figures have, in the words of this run."""
    figure, options = record["figure"], record["options"]
    grouped, searchlights = figure in ("Fig3a", "Fig3b"), figure in ("Fig1", "Fig3a")
    model = "group" if grouped else "network"
    alpha = f"{options['alpha']:g}"
    tested = f"the largest {'unique variance' if grouped else 'adjusted R²'}" if searchlights else "the unique variance"
    if options["correction"] == "max":
        corrected = "corrected family-wise by the maximum statistic"
    elif options["as_published"]:
        corrected = "corrected (false discovery rate) as in the published code: within each place" + (
            ", then over places" if searchlights else ""
        )
    else:
        corrected = "corrected for the false discovery rate"
    error = (
        "standard deviation over subsets of the conditions, which is smaller than the standard error"
        if options["as_published"]
        else "standard error (jackknife over conditions)"
    )
    clipped = " Negative values are set to 0." if options["as_published"] and not grouped else ""
    significant = {
        "Fig1": f"q ≤ {alpha}: the searchlight is coloured on the map",
        "Fig3a": f"q ≤ {alpha} and q (exceeds others) ≤ {alpha}: the searchlight is coloured on the map",
    }.get(figure, f"q ≤ {alpha}: the bar has a star")
    explained = "Adjusted R² of the networks of this ROI together, fitted to single subjects' RDMs"
    spearman = "Mean Spearman correlation of a subject's RDM with the mean RDM of"
    return {
        "searchlight": _Column("searchlight", "Number of the searchlight, counted from 0, as in arrays.npz.", 0),
        **{
            axis: _Column(
                f"{axis} (mm)", f"Mean {axis} of the searchlight's voxels, in mm, in the space of the mask.", 1
            )
            for axis in "xyz"
        },
        "tested": _Column(
            "tested",
            f"Whether its RDMs are usable and its lower noise ceiling is {options.get('ceiling', 0):g} or more.",
        ),
        "winner": _Column(
            f"best {model}", f"The {model} with the largest {'unique variance' if grouped else 'adjusted R²'}."
        ),
        "roi": _Column("ROI", "Region of interest."),
        "model": _Column(model, f"The {model}, by its key." if not grouped else "The group of networks."),
        "label": _Column("label", "The network's name in the figure."),
        "group": _Column("group", "Group of the network." if not grouped else "The group of networks."),
        "rank": _Column("rank", f"Rank in the ROI by {'unique variance' if grouped else 'adjusted R²'}, 1 is best.", 0),
        "adjusted_r2": _Column(
            "adjusted R²",
            f"Share of the variance of the mean RDM that the {model} explains, adjusted for the number of predictors."
            + clipped,
        ),
        "unique": _Column(
            "unique variance", f"Adjusted R² of all {model}s compared in this place less that of all but this one."
        ),
        "se": _Column("error", f"Error of the unique variance: {error}."),
        "p": _Column("p", f"p value of {tested}, not corrected for multiple tests."),
        "q": _Column("q", f"p value of {tested}, {corrected}."),
        "p_exceeds_others": _Column(
            "p (exceeds others)", "Largest p value of the differences between this group's unique variance and others'."
        ),
        "q_exceeds_others": _Column("q (exceeds others)", f"The same, {corrected}."),
        "q_lead_in_refits": _Column(
            "q (lead in refits)",
            "Largest p value of the differences against their jackknife standard error, corrected for the false "
            "discovery rate over searchlights: a stricter test of the lead.",
        ),
        "stability": _Column(
            "stability", f"Share of random subsets of 90 % of the conditions in which the same {model} is the best."
        ),
        "significant": _Column("significant", f"{significant}."),
        "total_adjusted_r2": _Column(
            "total adjusted R²", f"Adjusted R² of all {model}s compared in this place together."
        ),
        "explained_r2": _Column("explained R²", f"{explained}, mean over subjects."),
        "explained_se": _Column("error of explained R²", "Its standard error over subjects."),
        "explained_chance": _Column(
            "chance of explained R²", "What unrelated networks would reach: exact mean over permutations of conditions."
        ),
        "ceiling_lower": _Column("lower noise ceiling", f"{spearman} the others; not squared."),
        "ceiling_upper": _Column("upper noise ceiling", f"{spearman} all; not squared."),
        "paper_model": _Column("paper: network", "Network of this rank in the paper."),
        "paper_unique": _Column("paper: unique", "Unique variance in the paper's figure."),
        "paper_unique_below": _Column("paper: unique below", "Upper bound where the paper's figure hides the bar."),
        "paper_significant": _Column("paper: significant", "Whether the paper's figure has a star."),
        "paper_significant_pairs": _Column("paper: differences", "Pairs whose difference is starred in the paper."),
        "paper_total_adjusted_r2": _Column("paper: total", "Total adjusted R² as printed in the paper's figure."),
        "paper_explained_r2": _Column("paper: explained R²", "Explained variance in the paper's figure."),
        "paper_ceiling_lower_r2": _Column("paper: lower ceiling", "Lower noise ceiling in the paper's figure, as R²."),
        "paper_ceiling_upper_r2": _Column("paper: upper ceiling", "Upper noise ceiling in the paper's figure, as R²."),
    }


def _content(table: pd.DataFrame, columns: Mapping[str, _Column]) -> dict[str, Any]:
    """The table for the script of the page, column by column; searchlights with the largest values first."""
    names = [str(name) for name in table]
    shown = [_column_content(table[name], columns.get(name, _Column(name.replace("_", " "), ""))) for name in names]
    first = next((names.index(name) for name in ("unique", "adjusted_r2") if name in table), None)
    sort = {"column": first if "searchlight" in table else None, "direction": -1}
    return {"columns": shown, "faint": (~table["significant"]).astype(int).tolist(), "sort": sort}


def _column_content(values: pd.Series, column: _Column) -> dict[str, Any]:
    import pandas as pd

    content: dict[str, Any] = {"heading": column.heading}
    if pd.api.types.is_bool_dtype(values):
        return {**content, "texts": ["no", "yes"], "values": values.astype(int).tolist()}
    if not pd.api.types.is_numeric_dtype(values):
        codes, texts = pd.factorize(values)
        return {**content, "texts": [str(text) for text in texts], "values": codes.tolist()}
    numbers = [None if pd.isna(value) else _rounded(float(value), column.decimals) for value in values]
    return {**content, "decimals": column.decimals, "values": numbers}


def _rounded(value: float, decimals: int) -> float | int:
    """The number that the page shows: with fixed decimals, or two digits where those would make it 0."""
    if decimals == 0:
        return round(value)
    return round(value, decimals) or float(f"{value:.1e}")


def _summary(record: Mapping[str, Any], table: pd.DataFrame) -> list[str]:
    """The run at a glance."""
    data = record["data"]
    n_significant = int(table["significant"].sum())
    if "n_searchlights" in data:
        found = f"{n_significant:,} of {data['n_tested']:,} tested searchlights significant"
    else:
        found = f"{n_significant:,} of {len(table):,} unique variances significant"
    n_subjects = str(data["n_subjects"]).replace("-", "–")
    sample = f"{data['n_conditions']:,} conditions, {n_subjects} subject{'' if n_subjects == '1' else 's'}"
    return [_date(record), f"{sample}, {sum(data['networks'].values()):,} networks", _test(record), found]


def _date(record: Mapping[str, Any]) -> str:
    return str(record["finished"])[:16].replace("T", " ")


def _test(record: Mapping[str, Any]) -> str:
    options = record["options"]
    if options["stats"] == "t-test":
        return "t-test over subjects"
    return f"{options['n_permutations']:,} permutations of {options['permute']}"


def _map(is_there: bool) -> str:
    if not is_there:
        return f"<p>{html.escape(_NO_MAP)}</p>"
    return (
        '<iframe src="brain_map.html" loading="lazy" title="Interactive map of the brain"></iframe>'
        '<p class="links">Open <a href="brain_map.html">the map alone</a>.</p>'
    )


def _linked(reference: str) -> str:
    """A reference whose doi is a link."""
    return re.sub(r"doi:(\S+)", r'<a href="https://doi.org/\1">doi:\1</a>', html.escape(reference))


def _provenance(record: Mapping[str, Any]) -> str:
    run = {name: record[name] for name in ("finished", "seconds", "device", "system")}
    parts = {"Run": run, "Data": record["data"], "Versions": record["versions"], "Options": record["options"]}
    return "".join(
        f'<div><h3>{heading}</h3><table class="facts">{_rows((name, _text(value)) for name, value in facts.items())}'
        "</table></div>"
        for heading, facts in parts.items()
    )


def _text(value: Any) -> str:
    """A value of run.json in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if value is None:
        return "–"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def _rows(facts: Iterable[tuple[str, str]]) -> str:
    return "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>' for name, value in facts
    )


def _files(page: Path) -> str:
    """Links to all files of the run: those beside the page, and those in each folder there."""
    here = {file.name for file in page.parent.iterdir() if file.is_file()} | {page.name, "run.json"}
    parts = [_file_table(page, sorted(here))]
    for folder in sorted(folder for folder in page.parent.iterdir() if folder.is_dir()):
        inside = sorted(str(file.relative_to(page.parent)) for file in folder.rglob("*") if file.is_file())
        summary = f"<summary>{html.escape(folder.name)}: {len(inside):,} files for other programs</summary>"
        parts.append(f"<details>{summary}{_file_table(page, inside)}</details>")
    return "".join(parts)


def _file_table(page: Path, names: Iterable[str]) -> str:
    rows = []
    for name in names:
        file = page.parent / name
        # This page and run.json, which is written after it, have no size yet.
        size = _size(file.stat().st_size) if file.is_file() and file != page else ""
        rows.append(
            f'<tr><th scope="row"><a href="{html.escape(quote(name))}">{html.escape(name)}</a></th>'
            f'<td class="size">{size}</td><td>{html.escape(_what(page.parent, name))}</td></tr>'
        )
    return f'<table class="facts">{"".join(rows)}</table>'


def _what(folder: Path, name: str) -> str:
    """One line on a file of a run; maps have it in the JSON file beside them."""
    kind = next((text for ending, text in _MAP_FILES.items() if name.endswith(ending)), "")
    if "/" not in name or kind not in ("volume", "surface"):
        return _FILES.get(name, kind)
    stem = name.removesuffix(".nii.gz").removesuffix(".gii").removesuffix(".label").removesuffix(".func")
    try:
        described = str(json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))["Description"])
    except (OSError, ValueError, KeyError, TypeError):
        return kind
    return f"{kind}: {described}"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e6 else f"{max(1, round(n_bytes / 1e3)):,} kB"


def _card(folder: Path, title: str) -> str:
    """What the index shows of a figure, as far as its files are there and readable."""
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        details = f"{_date(record)} · {_test(record)}"
        simulated = bool(record["data"]["simulated"])
    except (OSError, ValueError, KeyError, TypeError):
        details, simulated = "run.json is missing or damaged: run the figure again", False
    links = {"report.html": "Report", "brain_map.html": "Map", "figure.svg": "Figure", "results.tsv": "Table"}
    shown = [f'<a href="{folder.name}/{name}">{text}</a>' for name, text in links.items() if (folder / name).is_file()]
    thumbnail = ""
    if (folder / "figure.png").is_file():
        picture = f'<img src="{folder.name}/figure.png" alt="" loading="lazy">'
        page = next((name for name in ("report.html", "figure.svg") if (folder / name).is_file()), "figure.png")
        thumbnail = f'<a class="thumbnail" href="{folder.name}/{page}" aria-label="{html.escape(title)}">{picture}</a>'
    banner = '<p class="banner">Simulated example, not measured data</p>' if simulated else ""
    return (
        f"<article>{thumbnail}{banner}<h2>{html.escape(title)}</h2>"
        f'<p class="details">{html.escape(details)}</p><p class="links">{"".join(shown)}</p></article>'
    )
