"""The report of a run and the index of all: what the text says, what the page holds, what a browser does with it."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import open_browser

from utils import InputError
from utils.analysis import paper
from utils.reporting.methods import REFERENCES, methods_text
from utils.reporting.notes import found
from utils.reporting.report import COLUMNS as DESCRIBED
from utils.reporting.report import FIGURES, write_columns, write_index, write_report

HOME = Path(__file__).resolve().parents[1]
SEARCHLIGHT = ("Fig1", "Fig3a")
ROUTES = {
    "default": {},
    "published": {"as_published": True, "permute": "entries", "comparison": "plain"},
    "entries": {"permute": "entries"},
    "t-test": {"stats": "t-test"},
    "published t-test": {"stats": "t-test", "as_published": True, "permute": "entries", "comparison": "plain"},
    "max": {"correction": "max"},
    "plain": {"comparison": "plain", "generalise": "images"},
    "cross-validated": {"cross_validate": 6},
    "nonnegative": {"weights": "nonnegative"},
    "people": {"condition_effects": "out", "generalise": "people"},
}
CITATION = re.compile(r"[A-Z][\w-]+(?: et al\.| and [A-Z]\w+)?, (?:19|20)\d\d")
EVIL = "</script><!--<script><b class=evil>&amp;\"'"
COLUMNS = {
    "Fig1": "searchlight x y z tested winner group adjusted_r2 plain_adjusted_r2 se share share_low share_high "
    "negative_share weights_sign cv_r2 cv_r2_se cv_ceiling p q p_lead q_lead explained candidates significant "
    "q_group_lead group_significant stability ceiling_lower reliability",
    "Fig2": "roi model label group rank adjusted_r2 unique se share share_low share_high p q significant star "
    "plain_adjusted_r2 plain_unique negative_share weights_sign cv_r2 cv_r2_se cv_unique cv_unique_se cv_total "
    "cv_ceiling stability total_adjusted_r2 total_share total_low total_high plain_total "
    "reliability explained_r2 explained_se explained_chance ceiling_lower ceiling_upper ceiling_r2_lower "
    "ceiling_r2_upper",
    "Fig3a": "searchlight x y z tested winner group unique plain_unique se share share_low share_high p q p_lead "
    "q_lead explained candidates significant stability ceiling_lower reliability total_adjusted_r2 total_share",
}
COLUMNS["Fig3b"] = COLUMNS["Fig2"]
TEXTS = {"winner", "group", "roi", "model", "label", "star", "candidates", "weights_sign"}


def make_record(figure, *, data=None, device="cpu", **options):
    """What run.json says of a run on 44 conditions of 11 participants."""
    places = {"n_searchlights": 2345, "n_tested": 1234} if figure in SEARCHLIGHT else {"n_rois": 13, "n_sets": 3}
    return {
        "figure": figure,
        "command": [f"{figure}.py", "--data", "my study"],
        "options": {
            "stats": "permutation",
            "n_permutations": 7654,
            "permute": "conditions",
            "correction": "fdr",
            "alpha": 0.04,
            "as_published": False,
            "comparison": "whitened",
            "condition_effects": "in",
            "generalise": "both",
            "seed": 31,
            "data": None,
            "bootstrap_ratio": 0.75,
            **({"ceiling": 0.021} if figure in SEARCHLIGHT else {"minimum_effect": 0.02}),
            **options,
        },
        "data": {
            "simulated": False,
            "n_conditions": 44,
            "n_subjects": 11,
            "networks": {"2D": 6, "motion": 5, "semantic": 4, "baseline": 2},
            "layers": ["early", "middle", "late"],
            **places,
            **(data or {}),
        },
        "device": device,
        "versions": {"dnn2brain": "0.1.0", "python": "3.11.7", "numpy": "2.4.6", "scipy": "1.17.1", "torch": "2.9.9"},
        "system": "Linux",
        "finished": "2026-03-04T05:06:07+0000",
        "seconds": 12.3,
    }


def make_table(figure, n=3, seed=0):
    """A table of random numbers with the columns of a figure; the last row has no p value."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({name: rng.random(n) for name in COLUMNS[figure].split()})
    for name in TEXTS & set(table):
        table[name] = [f"{name} {k}" for k in range(n)]
    for name in {"searchlight", "rank"} & set(table):
        table[name] = np.arange(n)
    table["significant"] = np.arange(n) % 2 == 0
    table.loc[n - 1, ["p", "q"]] = np.nan
    for name in {"tested", "explained", "group_significant"} & set(table):
        table[name] = True
    return table


@pytest.fixture
def folder(tmp_path):
    """The files of a run without its report."""
    folder = tmp_path / "results" / "Fig1"
    (folder / "maps").mkdir(parents=True)
    (folder / "brain_map.html").write_text("<!DOCTYPE html><link rel=icon href=data:,><title>map</title>a brain")
    (folder / "figure.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30"/>')
    maps = ("space-MNI_desc-best_dseg.nii.gz", "space-MNI_desc-best_dseg_fsleyes.lut",
            "space-MNI_stat-r2_statmap.nii.gz", "hemi-L_space-fsaverage_den-10k_stat-r2_statmap.func.gii")  # fmt: skip
    for name in ("figure.png", "results.tsv", "arrays.npz", *(f"maps/{name}" for name in maps)):
        (folder / name).write_bytes(b"x" * 1500)
    (folder / "maps" / "space-MNI_desc-best_dseg.json").write_text('{"Description": "Best <network>."}')
    (folder / "maps" / "space-MNI_stat-r2_statmap.json").write_text("damaged")
    return folder


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


# ---------------------------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("figure", FIGURES)
def test_text_has_the_numbers_of_the_run(figure, route):
    record = make_record(figure, **ROUTES[route])
    methods = methods_text(record)
    comparison, inference = methods.paragraphs
    numbers = ["44 conditions (946 pairwise", "11 participants", "three layers (early, middle and late)"]
    if figure in SEARCHLIGHT:
        numbers += ["2,345 searchlights", "was at least 0.021 (1,234 of 2,345 searchlights)"]
    else:
        numbers += ["13 regions of interest"]
        subsets = "10,000 random subsets of 33 of the 44 conditions (seed 31)"
        assert (subsets in comparison) == ("published" in route)
    if figure in ("Fig3a", "Fig3b"):
        numbers += ["three groups of deep neural networks (DNNs; networks per group: 2D: 6, motion: 5, semantic: 4)"]
        numbers += ["group baseline were not included"]
    else:
        numbers += ["17 deep neural networks (DNNs; 2D: 6, motion: 5, semantic: 4, baseline: 2)"]
    for number in numbers:
        assert number in comparison
    assert "Corrected p values of 0.04 or less were considered significant" in inference
    assert "dnn2brain 0.1.0 (Python 3.11.7, NumPy 2.4.6 and SciPy 1.17.1)." in inference
    if record["options"]["stats"] == "t-test":
        assert "t-tests across 11 participants" in inference and "7,654" not in inference
    else:
        assert "7,654 times (seed 31)" in inference and "p = (1 + k) / (1 + 7,654)" in inference


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("figure", FIGURES)
def test_text_is_whole_and_cites_what_is_listed(figure, route):
    methods = methods_text(make_record(figure, **ROUTES[route]))
    text = " ".join(methods.paragraphs)
    assert not re.search(r"[{}\[\]<>]|None|nan|True|False|  | [.,;:)]|\.\.|\( ", text)
    assert all(paragraph.endswith(".") for paragraph in methods.paragraphs)
    assert methods.references == [REFERENCES[name] for name in sorted(set(CITATION.findall(text)))]


def test_references_are_those_of_the_documentation():
    def plain(text):
        return re.sub(r"\s+", " ", text.replace("*", ""))

    documented = plain((HOME / "docs" / "METHODS.md").read_text(encoding="utf-8").split("## References")[1])
    for name, reference in REFERENCES.items():
        assert plain(reference.split(" https://doi.org/")[0]) in documented, name
        assert reference.startswith(re.split(r"[ ,]", name)[0]) and name[-4:] in reference


# Of each figure and route: what is particular to it, and what must not be said.
SAID = [
    ("Fig1", "default", "the largest adjusted R² of any of the 17 networks in each permutation", "individually"),
    ("Fig1", "default", "conditions of the network RDMs (rows and columns together)", "not exchangeable"),
    ("Fig1", "default", "for the p value of the best network and, separately, for that of the lead", "within"),
    ("Fig1", "default", "were shrunk by √(2/44)", "Ezekiel"),
    ("Fig1", "default", "t distribution, 10 degrees of freedom) was that of the lead", "in the direction observed"),
    ("Fig1", "plain", "generalise to other images for the same participants", "shrunk"),
    ("Fig1", "plain", "t distribution, 43 degrees of freedom", "10 degrees"),
    ("Fig1", "cross-validated", "assigned to the network with the highest cross-validated R²", "non-negative"),
    ("Fig1", "cross-validated", "if its adjusted R² differed from that of every other network and was not", "Lawson"),
    ("Fig1", "default", "highest adjusted R²", "cross-validated"),
    ("Fig1", "nonnegative", "by non-negative least squares with an intercept (Lawson and Hanson, 1974)", "cross-val"),
    ("Fig2", "cross-validated", "Networks were ranked by cross-validated R²", "Meyer"),
    ("Fig3a", "cross-validated", "into six random folds (seed 31). For every fold and every participant", "of 33"),
    ("Fig3b", "cross-validated", "of the group with the largest cross-validated unique variance", "subsets of 33"),
    ("Fig1", "people", "were removed from all RDMs", "shrunk"),
    ("Fig1", "people", "other participants who see the same images", "delete-one"),
    ("Fig1", "published", "do not account for the selection of the best of 17 networks", "rows and columns"),
    ("Fig1", "published", "negative values were set to 0", "Nichols"),
    ("Fig1", "published", "within each searchlight; the corrected p values were then corrected again over", "ROI"),
    ("Fig1", "entries", "Because entries share conditions, they are not exchangeable", "set to 0"),
    ("Fig1", "entries", "the largest adjusted R² of any of the 17 networks", "individually"),
    ("Fig1", "t-test", "its exact mean over all permutations of the conditions was subtracted", "independent"),
    ("Fig1", "t-test", "multiplied by 17, the number of networks compared (Bonferroni", "Nichols"),
    ("Fig1", "t-test", "share a representation that is unrelated to the networks", "permuted"),
    ("Fig1", "published t-test", "was tested against 0 (one-sided)", "Bonferroni"),
    ("Fig1", "max", "the largest over all 17 networks and the 1,234 tested searchlights in each", "false discovery"),
    ("Fig2", "default", "the largest F of all networks that were not among the others", "selected once"),
    ("Fig2", "default", "by their standard errors (t distribution, 10 degrees of freedom)", "Bonferroni"),
    ("Fig2", "default", "39 combinations of ranks and ROIs for unique variances, over all 39 comb", "within"),
    ("Fig2", "default", "above 2 % of the explainable variance", "random subsets of 33"),
    ("Fig2", "published", "selected once, on the observed data", "the largest F"),
    ("Fig2", "published", "tested in the direction observed", "jackknife"),
    ("Fig2", "published", "over ranks within each ROI and, for differences, over pairs; no correction", "again"),
    ("Fig2", "t-test", "selected on the mean RDM of the same participants", "the largest F"),
    ("Fig2", "published t-test", "as if between independent samples", "standard errors"),
    ("Fig2", "max", "sets of random signs, one per image, of the influences of images", "false discovery"),
    ("Fig2", "default", "largest adjusted R² of all 17 networks, compared with the largest in each", "individually"),
    ("Fig2", "t-test", "multiplied by 3, the number of networks selected", "Nichols"),
    ("Fig3a", "default", "double semi-partialling; Dekker et al., 2007", "individually"),
    ("Fig3a", "default", "for the p value of all groups together", "in the direction observed"),
    ("Fig3a", "default", "1,000 random subsets of 40 of the 44 conditions", "33 of"),
    ("Fig3a", "published", "do not account for the selection of the best of 3 groups", "negative values"),
    ("Fig3a", "t-test", "multiplied by 3, the number of groups", "7,654"),
    ("Fig3a", "max", "in standard deviations of its values under 200 further permutations", "false discovery"),
    ("Fig3b", "default", "a pale colour if only the variance explained was", "individually"),
    ("Fig3b", "published", "as in the published analysis", "standard errors"),
    ("Fig3b", "t-test", "over ROIs for whether anything was explained", "Nichols"),
    ("Fig3b", "max", "the largest over all 3 groups and the 13 ROIs in each permutation", "corrected over ROIs"),
]  # fmt: skip


@pytest.mark.parametrize("figure", FIGURES)
def test_text_speaks_of_no_lead_over_others_where_there_are_none(figure):
    alone = {"networks": {"2D": 1}} | ({"n_sets": 1} if figure not in SEARCHLIGHT else {})
    for route in ("default", "max", "t-test"):
        text = " ".join(methods_text(make_record(figure, data=alone, **ROUTES[route])).paragraphs)
        assert "was said to lead" not in text and "for leads" not in text and "random signs" not in text


@pytest.mark.parametrize(("figure", "route", "said", "unsaid"), SAID)
def test_text_says_what_was_done(figure, route, said, unsaid):
    text = " ".join(methods_text(make_record(figure, **ROUTES[route])).paragraphs)
    assert said in text
    assert unsaid not in text


def test_simulated_data_are_named_first():
    simulated = methods_text(make_record("Fig2", data={"simulated": True})).paragraphs[0]
    assert simulated.split(".")[0] == "These data were simulated and are not measurements"
    assert "simulated" not in " ".join(methods_text(make_record("Fig2")).paragraphs)


def test_text_on_where_it_was_computed():
    def inference(figure="Fig3a", **changes):
        return methods_text(make_record(figure, **changes)).paragraphs[1]

    assert "and PyTorch 2.9.9) on a GPU." in inference(device="cuda")
    assert "GPU" not in inference(device="cuda", stats="t-test")
    assert "; permutations were distributed over four Dask workers." in inference(data={"dask_workers": 4})


def test_text_on_few_subjects_and_networks():
    few = {"n_subjects": "1", "networks": {"2D": 2}, "n_sets": 2, "layers": ["late"]}
    one = methods_text(make_record("Fig2", data=few))
    assert "those of a single participant" in one.paragraphs[0] and "noise ceiling" not in one.paragraphs[0]
    assert "From two deep neural networks" in one.paragraphs[0] and "an RDM from one layer (late)" in one.paragraphs[0]
    assert "all 26 combinations of ranks and ROIs for unique variances, over all 13" in one.paragraphs[1]
    assert "43 degrees of freedom" in one.paragraphs[1] and "explainable variance are" not in one.paragraphs[0]
    several = methods_text(make_record("Fig3b", data={"n_subjects": "14-16"}))
    assert "averaged across 14–16 participants" in several.paragraphs[0]
    group = " ".join(methods_text(make_record("Fig3a", data={"networks": {"2D": 2, "baseline": 1}})).paragraphs)
    assert "one group of deep" in group


def test_text_needs_its_numbers():
    record = make_record("Fig1")
    del record["data"]["networks"]
    with pytest.raises(KeyError, match="networks"):
        methods_text(record)


# ---------------------------------------------------------------------------------------------------------------- page


class Page(HTMLParser):
    """Elements with a class or an address, and the text, of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.classes, self.addresses, self.text = [], [], [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "class":
                self.classes.append(value)
            if name in ("href", "src"):
                self.addresses.append(value)

    def handle_data(self, data):
        self.text += data


def test_page_links_every_file_of_the_run(folder):
    write_report(folder / "report.html", make_record("Fig1"), make_table("Fig1"), title="Fig 1")
    page = Page(folder / "report.html")
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    linked = {address for address in page.addresses if not re.match("#|https://doi.org/|data:,", address)}
    assert linked == files | {"run.json", "../index.html"}
    assert "1.5 kB" in page.text and "volume: Best <network>." in page.text and "for FSLeyes" in page.text
    assert "maps: 6 files" in page.text and "surface" in page.text
    assert {address[1:] for address in page.addresses if address[0] == "#"} == {
        "map", "figure", "table", "methods", "warnings", "provenance", "files",
    }  # fmt: skip
    for text in ("Fig1.py --data 'my study'", "2026-03-04 05:06", "7,654 permutations of conditions", "1.17.1",
                 "2 of 3 tested searchlights in full colour (group 0 1, group 2 1), 1 in a pale one; "
                 "the group is established in 3",
                 "2D 6, motion 5, semantic 4, baseline 2"):  # fmt: skip
        assert text in " ".join(page.text.split())


def test_line_on_what_was_found_is_that_of_the_table():
    searchlights = pd.DataFrame({
        "searchlight": range(6), "tested": [True] * 5 + [False], "group": ["2D", "3D", "2D", "3D", "2D", None],
        "significant": [True, True, True, False, False, False], "explained": [True] * 4 + [False] * 2,
    })  # fmt: skip
    expected = "3 of 5 tested searchlights in full colour (2D 2, 3D 1), 1 in a pale one"
    assert found(searchlights) == expected
    published = searchlights.drop(columns="explained")
    assert found(published) == "3 of 5 tested searchlights significant (2D 2, 3D 1)"
    assert found(published.assign(significant=False)) == "0 of 5 tested searchlights significant"
    rois = pd.DataFrame({"roi": list("aabbcc"), "significant": [True] + [False] * 5})
    assert found(rois) == "1 of 6 unique variances significant"
    rois = rois.assign(total_share=[0.7, 0.7, 0.61, 0.61, 0.6, 0.6], reliability=0.3)
    assert found(rois).endswith("significant; 2 of 3 regions above 60 % of the explainable variance")
    assert found(rois.assign(reliability=np.nan)).endswith("2 of 3 regions above 60 % of the variance")


@pytest.mark.parametrize("figure", FIGURES)
def test_page_explains_every_column(figure, tmp_path):
    table = make_table(figure)
    write_report(tmp_path / "report.html", make_record(figure), table, title="Title")
    legend = (tmp_path / "report.html").read_text(encoding="utf-8").split("<h3>Columns</h3>")[1].split("</table>")[0]
    content = read_content(tmp_path / "report.html")
    explained = re.findall(r'<th scope="row">(.*?)</th><td>(.+?)</td>', legend)
    assert [heading for heading, _ in explained] == [column["heading"] for column in content["columns"]]
    assert len(explained) == len(table.columns) and all(meaning.endswith(".") for _, meaning in explained)


def test_legend_follows_the_options(tmp_path):
    def legend(figure, **options):
        write_report(tmp_path / "report.html", make_record(figure, **options), make_table(figure), title="Title")
        return Page(tmp_path / "report.html").text.split("Columns")[1].split("Methods")[0]

    assert "q ≤ 0.04; the bar is marked with an asterisk" in legend("Fig3b")
    assert "over images and participants" in legend("Fig3b")
    assert "smaller than the standard error" in legend("Fig2", as_published=True)
    assert "within each searchlight, then over searchlights" in legend("Fig1", as_published=True)
    assert "with the maximum statistic" in legend("Fig3a", correction="max")
    assert "Negative values were set to 0" not in legend("Fig1") + legend("Fig3a", as_published=True)
    assert "Negative values were set to 0" in legend("Fig1", as_published=True)


def test_columns_that_the_page_does_not_know_are_shown(tmp_path):
    table = make_table("Fig3b").assign(win_share=[0.5, 0.25, np.nan])
    write_report(tmp_path / "report.html", make_record("Fig3b"), table, title="Title")
    added = read_content(tmp_path / "report.html")["columns"][-1]
    assert added == {"heading": "win share", "decimals": 4, "values": [0.5, 0.25, None]}


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("route", ROUTES)
def test_columns_are_described_as_in_bids(figure, route, tmp_path):
    table = make_table(figure).assign(unknown=1)
    write_columns(tmp_path / "results.json", make_record(figure, **ROUTES[route]), table)
    described = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert list(described) == [name for name in table if name != "unknown"]
    assert all({"LongName", "Description"} <= set(column) <= {"LongName", "Description", "Units"}
               for column in described.values())  # fmt: skip
    assert not re.search(
        r"[{}]|  | \.|None", " ".join(text for column in described.values() for text in column.values())
    )
    assert [name for name, column in described.items() if "Units" in column] == [
        name for name in "xyz" if name in table
    ]


def test_columns_beside_those_of_the_paper_are_described():
    added = set(paper.beside("Fig2", make_table("Fig2")))
    added |= set(paper.beside("Fig3b", make_table("Fig3b")))
    assert {name for name in added if name not in COLUMNS["Fig2"] + COLUMNS["Fig3b"]} == {
        name for name in DESCRIBED if name.startswith("paper_")
    }


def read_content(path):
    found = re.search(r'<script type="application/json" id="content">(.*?)</script>', path.read_text(encoding="utf-8"))
    return json.loads(found[1])


def test_page_without_an_atlas_says_how_to_get_a_map(folder):
    (folder / "brain_map.html").unlink()
    write_report(folder / "report.html", make_record("Fig2"), make_table("Fig2"), title="Fig 2")
    page = Page(folder / "report.html")
    assert "iframe" not in page.tags and "--atlas FILE" in page.text and "utils.fetch atlas" in page.text


def test_page_shows_warnings_and_banner(folder):
    write_report(folder / "report.html", make_record("Fig1"), make_table("Fig1"), title="Fig 1")
    assert "Warnings (0)" in Page(folder / "report.html").text and "banner" not in Page(folder / "report.html").classes
    write_report(folder / "report.html", make_record("Fig1"), make_table("Fig1"), title="Fig 1",
                 warnings=["first", "second"], banner="SIMULATED")  # fmt: skip
    page = Page(folder / "report.html")
    assert page.classes.count("warning") == 2 and page.classes.count("banner") == 1 and "Warnings (2)" in page.text


def write_hostile(folder):
    """A report in which everything that comes from outside is markup."""
    record = make_record("Fig1", data={"layers": [EVIL], "networks": {EVIL: 3}, "dnn_rdms": EVIL}, dnn_rdms=EVIL)
    record["command"].append(EVIL)
    table = make_table("Fig1").assign(winner=EVIL, group=EVIL)
    (folder / "maps" / "a&<b class=evil>#.nii.gz").write_bytes(b"x")
    write_report(folder / "report.html", record, table, title=EVIL, warnings=[EVIL], banner=EVIL)


def test_nothing_from_outside_becomes_markup(folder):
    write_hostile(folder)
    page = Page(folder / "report.html")
    assert "evil" not in page.classes and page.tags.count("script") == 2
    assert page.text.count(EVIL) >= 8
    assert read_content(folder / "report.html")["columns"][5]["texts"] == [EVIL]


def test_page_stays_small_for_a_whole_brain(tmp_path):
    write_report(tmp_path / "report.html", make_record("Fig3a"), make_table("Fig3a", n=10_000), title="Title")
    assert (tmp_path / "report.html").stat().st_size < 2.1e6


# ------------------------------------------------------------------------------------------------------- in a browser


def shown(browser, column):
    """Texts of a column of the table, as they stand there."""
    cells = "[...document.querySelectorAll('#values tbody tr')].map((row) => row.cells[arguments[0]].textContent)"
    return browser.run(f"return {cells}", column)


def test_browser_asks_for_nothing_outside_the_folder(browser, folder):
    write_hostile(folder)
    browser.open(folder / "report.html")
    browser.run("document.querySelector('iframe').scrollIntoView()")
    expected = {(folder / name).as_uri() for name in ("report.html", "figure.svg", "brain_map.html")}
    browser.until(lambda: expected <= set(browser.requests()))
    assert set(browser.requests()) == expected
    assert browser.errors() == []
    assert shown(browser, 5) == [EVIL] * 3 and not browser.find(".evil")
    write_index(folder.parent)
    browser.open(folder.parent / "index.html")
    expected = {(folder.parent / name).as_uri() for name in ("index.html", "Fig1/figure.png")}
    browser.until(lambda: expected <= set(browser.requests()))
    assert set(browser.requests()) == expected
    assert browser.errors() == []


def test_browser_sorts_numbers_as_numbers_and_absent_ones_last(browser, folder):
    from selenium.webdriver.common.keys import Keys

    table = make_table("Fig2", n=5).assign(
        roi=["V2", "V10", "V1", "hV4", "IT"], unique=[0.5, -0.25, 12.0, 2e-7, np.nan], rank=[1, 3, 2, 1, 2]
    )
    write_report(folder / "report.html", make_record("Fig2"), table, title="Fig 2")
    browser.open(folder / "report.html")
    column = list(table).index("unique")
    heads, buttons = browser.find("#values th"), browser.find("#values th button")
    assert {head.get_attribute("aria-sort") for head in heads} == {"none"}
    assert shown(browser, 0) == list(table["roi"])
    buttons[column].click()
    assert shown(browser, column) == ["−0.2500", "2.0e−7", "0.5000", "12.0000", "n/a"]
    assert [head.get_attribute("aria-sort") for head in heads].index("ascending") == column
    buttons[column].send_keys(Keys.ENTER)
    assert shown(browser, column) == ["12.0000", "0.5000", "2.0e−7", "−0.2500", "n/a"]
    assert heads[column].get_attribute("aria-sort") == "descending"
    buttons[0].send_keys(Keys.SPACE)
    assert shown(browser, 0) == ["hV4", "IT", "V1", "V2", "V10"]
    assert [head.get_attribute("aria-sort") for head in heads].count("none") == len(heads) - 1
    assert shown(browser, list(table).index("rank")) == ["1", "2", "2", "1", "3"]
    aligned = browser.run("return getComputedStyle(document.querySelector('#values td.number')).textAlign")
    numbers = [name for name in table if name not in TEXTS | {"significant"}]
    assert aligned == "right" and len(browser.find("#values tbody tr:first-child .number")) == len(numbers)


def test_browser_shows_significant_searchlights_first_and_all_on_demand(browser, folder):
    table = make_table("Fig1", n=230)
    write_report(folder / "report.html", make_record("Fig1"), table, title="Fig 1")
    browser.open(folder / "report.html")
    column = list(table).index("adjusted_r2")
    strongest = table[table["significant"]].sort_values("adjusted_r2", ascending=False)
    assert shown(browser, 0) == [str(k) for k in strongest["searchlight"][:50]]
    output = browser.find("#shown")[0]
    assert output.text == "rows 1–50 of 115 (230 in all)"
    steps = browser.find("#previous, #next")
    assert [step.is_enabled() for step in steps] == [False, True]
    steps[1].click()
    steps[1].click()
    assert shown(browser, 0) == [str(k) for k in strongest["searchlight"][100:]]
    assert output.text == "rows 101–115 of 115 (230 in all)" and not steps[1].is_enabled()
    browser.find("#significant")[0].click()
    everything = table.sort_values("adjusted_r2", ascending=False)
    assert shown(browser, column) == [f"{value:.4f}" for value in everything["adjusted_r2"][:50]]
    assert output.text == "rows 1–50 of 230" and browser.find("#values tr.faint")
    search = browser.find("#filter")[0]
    search.send_keys("WINNER 22")
    assert sorted(shown(browser, 0)) == sorted(["22", *map(str, range(220, 230))])
    search.send_keys("x")
    assert shown(browser, 0) == [] and output.text == "none of 230 rows"


@pytest.mark.parametrize(
    ("metric", "noise", "centered", "expected", "cited"),
    [
        ("correlation", "none", True, "1 minus the Pearson correlation of patterns after subtraction of the mean", ""),
        ("cosine", "none", False, "were cosine distances of patterns.", ""),
        ("crossnobis", "none", False, "cross-validated squared Euclidean distances (Walther et al., 2016)", "Walther"),
        (
            "crossnobis",
            "runs",
            False,
            "from the deviations of responses from the effects of conditions and runs",
            "Ledoit",
        ),
        ("crossnobis", "residuals", False, "from residual time series and shrunk towards a multiple of", "Ledoit"),
        ("cross-validated-correlation", "none", False, "1 minus cross-validated correlations of patterns", "Guggenmos"),
        (None, None, None, "", ""),
    ],
)
def test_the_measure_of_brain_responses_is_named(metric, noise, centered, expected, cited):
    data = {"brain_metric": metric, "brain_noise": noise, "brain_centered": centered} if metric else {}
    found = methods_text(make_record("Fig1", data=data))
    assert expected in found.paragraphs[0]
    assert ("Dissimilarities of brain responses were" in found.paragraphs[0]) == bool(metric)
    assert any(reference.startswith(cited) for reference in found.references)


def test_browser_copies_the_methods_text(browser, folder):
    write_report(folder / "report.html", make_record("Fig1"), make_table("Fig1"), title="Fig 1")
    browser.open(folder / "report.html")
    browser.run("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    browser.find("#copy")[0].click()
    methods = methods_text(make_record("Fig1"))
    copied = browser.run("return window.copied")
    assert all(part in copied for part in methods.paragraphs + methods.references)
    assert browser.find("#copy")[0].text == "Copied"


@pytest.mark.parametrize("width", [1400, 800, 400])
def test_page_does_not_scroll_sideways(browser, folder, width):
    write_report(folder / "report.html", make_record("Fig2"), make_table("Fig2"), title="Fig 2 " + "long " * 30)
    browser.open(folder / "report.html", width=width)
    assert browser.run("return document.documentElement.scrollWidth") == width


# --------------------------------------------------------------------------------------------------------------- index


def test_index_shows_what_is_there(folder):
    results = folder.parent
    write_report(folder / "report.html", make_record("Fig1"), make_table("Fig1"), title="Fig 1")
    (folder / "run.json").write_text(json.dumps(make_record("Fig1", data={"simulated": True})))
    (results / "Fig3b").mkdir()
    (results / "Fig3b" / "run.json").write_text(json.dumps(make_record("Fig3b", stats="t-test")))
    (results / "other").mkdir()
    write_index(results)
    page = Page(results / "index.html")
    assert [title in page.text for title in FIGURES.values()] == [True, False, False, True]
    assert "7,654 permutations of conditions" in page.text and "t-test across participants" in page.text
    assert page.text.count("2026-03-04 05:06") == 2 and page.classes.count("banner") == 1
    assert set(page.addresses) == {"data:,", *(f"Fig1/{name}" for name in (
        "report.html", "brain_map.html", "figure.svg", "figure.png", "results.tsv"))}  # fmt: skip
    assert "other" not in page.text


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", "7", '{"finished": "2026"}', '"text"', "\x00\xff"])
def test_index_survives_a_damaged_record(folder, damage):
    (folder / "run.json").write_bytes(damage.encode("latin-1"))
    write_index(folder.parent)
    page = Page(folder.parent / "index.html")
    assert "run.json is missing or damaged" in page.text and "Fig1/figure.png" in page.addresses


@pytest.mark.parametrize("part", [{"options": []}, {"options": {"stats": "permutation"}}, {"data": None}, {"data": {}}])
def test_index_survives_a_record_without_its_parts(folder, part):
    (folder / "run.json").write_text(json.dumps({**make_record("Fig1"), **part}))
    write_index(folder.parent)
    assert "run.json is missing or damaged" in Page(folder.parent / "index.html").text


def test_index_escapes_what_records_say(folder):
    (folder / "run.json").write_text(json.dumps({**make_record("Fig1", permute=EVIL), "finished": "<b class=evil>"}))
    write_index(folder.parent)
    page = Page(folder.parent / "index.html")
    assert "evil" not in page.classes and EVIL in page.text


def test_index_is_written_whole_or_not_at_all(folder, monkeypatch):
    index = folder.parent / "index.html"
    index.write_text("earlier")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match=r"index.html.*disk is full"):
        write_index(folder.parent)
    assert index.read_text() == "earlier"
    assert {path.name for path in folder.parent.iterdir()} == {"Fig1", "index.html"}
