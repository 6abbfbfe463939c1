"""What a run did, in the words of a methods section, with its own numbers filled in.

The wording follows docs/METHODS.md, where every formula and every choice is explained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.tasks import BASELINE
from utils.analysis.rois import N_SUBSETS
from utils.analysis.searchlights import N_SUBSETS_OF_SEARCHLIGHTS
from utils.rdm import n_pairs_of
from utils.stats.refits import N_SUBSETS as N_REFITS

# Under the form in which the text cites them.
REFERENCES = {
    "Allefeld et al., 2016": (
        "Allefeld C, Görgen K, Haynes J-D (2016). Valid population inference for information-based imaging: from the "
        "second-level t-test to prevalence inference. NeuroImage 141:378-392. doi:10.1016/j.neuroimage.2016.07.040"
    ),
    "Benjamini and Hochberg, 1995": (
        "Benjamini Y, Hochberg Y (1995). Controlling the false discovery rate: a practical and powerful approach to "
        "multiple testing. J R Stat Soc B 57:289-300. doi:10.1111/j.2517-6161.1995.tb02031.x"
    ),
    "Dwivedi et al., 2021": (
        "Dwivedi K, Bonner MF, Cichy RM, Roig G (2021). Unveiling functions of the visual cortex using task-specific "
        "deep neural networks. PLOS Comput Biol 17(8):e1009267. doi:10.1371/journal.pcbi.1009267"
    ),
    "Ezekiel, 1930": "Ezekiel M (1930). Methods of Correlation Analysis. Wiley.",
    "Kriegeskorte et al., 2008": (
        "Kriegeskorte N, Mur M, Bandettini P (2008). Representational similarity analysis - connecting the branches of "
        "systems neuroscience. Front Syst Neurosci 2:4. doi:10.3389/neuro.06.004.2008"
    ),
    "Kriegeskorte et al., 2009": (
        "Kriegeskorte N, Simmons WK, Bellgowan PSF, Baker CI (2009). Circular analysis in systems neuroscience: the "
        "dangers of double dipping. Nat Neurosci 12:535-540. doi:10.1038/nn.2303"
    ),
    "Legendre et al., 1994": (
        "Legendre P, Lapointe F-J, Casgrain P (1994). Modeling brain evolution from behavior: a permutational "
        "regression approach. Evolution 48:1487-1499."
    ),
    "Mantel, 1967": (
        "Mantel N (1967). The detection of disease clustering and a generalized regression approach. Cancer Res "
        "27:209-220."
    ),
    "Mood, 1971": (
        "Mood AM (1971). Partitioning variance in multiple regression analyses as a tool for developing learning "
        "models. Am Educ Res J 8:191-202."
    ),
    "Nichols and Holmes, 2002": (
        "Nichols TE, Holmes AP (2002). Nonparametric permutation tests for functional neuroimaging: a primer with "
        "examples. Hum Brain Mapp 15:1-25. doi:10.1002/hbm.1058"
    ),
    "Nili et al., 2014": (
        "Nili H, Wingfield C, Walther A, Su L, Marslen-Wilson W, Kriegeskorte N (2014). A toolbox for representational "
        "similarity analysis. PLOS Comput Biol 10:e1003553. doi:10.1371/journal.pcbi.1003553"
    ),
    "Nimon and Reio, 2011": (
        "Nimon K, Reio TG (2011). Regression commonality analysis: a technique for quantitative theory building. Hum "
        "Resour Dev Rev 10:329-340."
    ),
    "Peres-Neto et al., 2006": (
        "Peres-Neto PR, Legendre P, Dray S, Borcard D (2006). Variation partitioning of species data matrices: "
        "estimation and comparison of fractions. Ecology 87:2614-2625."
    ),
    "Phipson and Smyth, 2010": (
        "Phipson B, Smyth GK (2010). Permutation p-values should never be zero: calculating exact p-values when "
        "permutations are randomly drawn. Stat Appl Genet Mol Biol 9:39. doi:10.2202/1544-6115.1585"
    ),
    "Shao and Wu, 1989": (
        "Shao J, Wu CFJ (1989). A general theory for jackknife variance estimation. Ann Stat 17:1176-1197. "
        "doi:10.1214/aos/1176347263"
    ),
}
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_RANKS = 3


@dataclass(frozen=True)
class Methods:
    """Text for a methods section: paragraphs of plain text, and the references that they cite, in order."""

    paragraphs: list[str]
    references: list[str]


def methods_text(record: Mapping[str, Any]) -> Methods:
    """Two paragraphs on a run: what was compared with what, and how significance was decided.

    Parameters
    ----------
    record : mapping
        Provenance of the run, the content of its `run.json`. Of `record["data"]` it needs `simulated`, `n_conditions`,
        `n_subjects` (a number, or text such as "14-16"), `networks` (number of networks of each group), `layers`
        (their names), and `n_searchlights` and `n_tested`, or `n_rois`.

    Returns
    -------
    Methods

    Raises
    ------
    KeyError
        If the record lacks one of these numbers.
    """
    run = _Run.of(record)
    paragraphs = [" ".join(filter(None, sentences)) for sentences in (_comparison(run), _inference(run))]
    cited = [text for name, text in REFERENCES.items() if any(name in paragraph for paragraph in paragraphs)]
    return Methods(paragraphs, cited)


@dataclass(frozen=True)
class _Run:
    """The facts that decide on the wording."""

    figure: str
    options: Mapping[str, Any]
    data: Mapping[str, Any]
    versions: Mapping[str, str]
    device: str

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> _Run:
        return cls(*(record[name] for name in ("figure", "options", "data", "versions", "device")))

    @property
    def published(self) -> bool:
        return self.options["as_published"]

    @property
    def t_test(self) -> bool:
        return self.options["stats"] == "t-test"

    @property
    def family_wise(self) -> bool:
        return self.options["correction"] == "max"

    @property
    def grouped(self) -> bool:
        return self.figure in ("Fig3a", "Fig3b")

    @property
    def searchlights(self) -> bool:
        return "n_searchlights" in self.data

    @property
    def networks(self) -> dict[str, int]:
        """Networks by group: those that take part."""
        left_out = BASELINE if self.grouped else None
        return {group: n for group, n in self.data["networks"].items() if group != left_out}

    @property
    def n_sets(self) -> int:
        """How many networks, ranks or groups are compared with chance at each place."""
        if self.grouped:
            return len(self.networks)
        n_networks = sum(self.networks.values())
        return min(_RANKS, n_networks) if self.figure == "Fig2" else n_networks

    @property
    def n_pairs_of_sets(self) -> int:
        return 0 if self.figure == "Fig1" else self.n_sets * (self.n_sets - 1) // 2

    @property
    def n_tested(self) -> int:
        return self.data["n_tested" if self.searchlights else "n_rois"]

    @property
    def place(self) -> str:
        return "searchlight" if self.searchlights else "ROI"

    @property
    def model(self) -> str:
        return "group" if self.grouped else "network"

    @property
    def value(self) -> str:
        return "adjusted R²" if self.figure == "Fig1" else "unique variance"

    @property
    def one_subject(self) -> bool:
        return str(self.data["n_subjects"]) == "1"

    @property
    def n_subjects(self) -> str:
        return str(self.data["n_subjects"]).replace("-", "–")

    @property
    def n_permutations(self) -> str:
        return f"{self.options['n_permutations']:,}"

    @property
    def tested_places(self) -> str:
        return f"the {self.n_tested:,} tested searchlights" if self.searchlights else f"the {self.n_tested:,} ROIs"


def _comparison(run: _Run) -> list[str]:
    simulated = "The data come from a simulated experiment, not from measurements."
    return [
        simulated if run.data["simulated"] else "",
        _question(run),
        _rdms(run),
        _regression(run),
        _partition(run),
        _ceiling(run),
        "" if run.searchlights else _error_bars(run),
    ]


def _question(run: _Run) -> str:
    members = _listed([f"{group} {n:,}" for group, n in run.networks.items()])
    if run.grouped:
        sets = f"{_word(run.n_sets)} groups of deep neural networks (number of networks: {members})"
    else:
        sets = f"{sum(run.networks.values()):,} deep neural networks ({members})"
    where = (
        f"{run.data['n_searchlights']:,} searchlights"
        if run.searchlights
        else f"{_plural(run.n_tested, 'region')} of interest (ROIs)"
    )
    question = {
        "Fig1": f"Of {sets} we sought the one that best explains each of {where}",
        "Fig2": f"Of {sets} we sought the {_word(run.n_sets)} that best explain each of {where}, and what each of them "
        "explains alone",
        "Fig3a": f"We asked which of {sets} explains most variance of its own in each of {where}",
        "Fig3b": f"In each of {where} we asked what each of {sets} explains alone",
    }[run.figure]
    return f"{question} (Dwivedi et al., 2021)."


def _rdms(run: _Run) -> str:
    n = run.data["n_conditions"]
    brain = "that of the one subject" if run.one_subject else f"the mean over {run.n_subjects} subjects"
    place = "a searchlight" if run.searchlights else "an ROI"
    layers = _listed(run.data["layers"])
    text = (
        "Networks and brain were compared by representational dissimilarity matrices (RDMs; Kriegeskorte et al., 2008) "
        f"of the same {n:,} conditions, {n_pairs_of(n):,} entries each. The RDM of {place} was {brain}. "
    )
    n_layers = _plural(len(run.data["layers"]), "layer")
    if not run.grouped:
        return f"{text}Every network had RDMs of {n_layers} ({layers})."
    text += f"The RDMs of a group were the means over its networks, for each of {n_layers} ({layers})"
    return text + (f"; networks of the group {BASELINE} were left out." if BASELINE in run.data["networks"] else ".")


def _regression(run: _Run) -> str:
    if run.grouped:
        return ""
    clipped = "; negative values were set to 0" if run.published else ""
    text = (
        f"The RDM of every {run.place} was regressed on the RDMs of each network by ordinary least squares with an "
        "intercept, and the variance explained was adjusted for the number of predictors "
        f"(adjusted R²; Ezekiel, 1930{clipped})."
    )
    if run.figure == "Fig1":
        text += " A searchlight was assigned to the network with the largest adjusted R²."
    return text


def _partition(run: _Run) -> str:
    if run.figure == "Fig1":
        return ""
    if run.figure == "Fig2":
        text = (
            f"Networks were ranked by this value, and the variance of the ROI's RDM was partitioned among the first "
            f"{_word(run.n_sets)}"
        )
        source = "Mood, 1971; Nimon and Reio, 2011; with adjusted values, Peres-Neto et al., 2006"
    else:
        text = (
            f"The RDM of every {run.place} was regressed on the RDMs of all groups by ordinary least squares with an "
            "intercept, and the variance explained was partitioned among the groups"
        )
        source = (
            "Mood, 1971; Nimon and Reio, 2011; with R² adjusted for the number of predictors, Ezekiel, 1930; "
            "Peres-Neto et al., 2006"
        )
    rule = f"the adjusted R² of all {_word(run.n_sets)} together less that of the others"
    return f"{text} ({source}): the unique variance of a {run.model} is {rule}."


def _ceiling(run: _Run) -> str:
    if run.searchlights:
        n = run.data["n_searchlights"]
        return (
            "Searchlights were tested if their lower noise ceiling, the mean Spearman correlation of each subject's "
            f"RDM with the mean of the other subjects' RDMs (Nili et al., 2014), was {run.options['ceiling']:g} or "
            f"more: {run.n_tested:,} of {n:,}."
        )
    if run.figure == "Fig2" and not run.one_subject:
        return (
            f"What the {_word(run.n_sets)} networks explain of single subjects' RDMs (adjusted R²) is shown beside the "
            "noise ceiling, the squared mean Spearman correlation of each subject's RDM with the mean RDM of the other "
            "subjects (lower) or of all subjects (upper; Nili et al., 2014)."
        )
    return ""


def _error_bars(run: _Run) -> str:
    n = run.data["n_conditions"]
    kept = round(run.options["bootstrap_ratio"] * n)
    drawn = f"{N_SUBSETS:,} random subsets of {kept:,} of the {n:,} conditions (seed {run.options['seed']})"
    if run.published:
        return (
            f"Error bars are the standard deviation of the unique variance over {drawn}, as in the published analysis; "
            "since such subsets overlap, it is smaller than the standard error."
        )
    return (
        "Error bars are standard errors of the unique variance by the delete-d jackknife over conditions (Shao and Wu, "
        f"1989): its standard deviation over {drawn} times √({kept:,}/{n - kept:,})."
    )


def _inference(run: _Run) -> list[str]:
    test = _t_test(run) if run.t_test else _permutation_test(run)
    return [*test, _correction(run), _rule(run), _lead(run), _stability(run), _software(run)]


def _permutation_test(run: _Run) -> list[str]:
    how = f"{run.n_permutations} times (seed {run.options['seed']}), in the same way for all {run.place}s"
    if run.options["permute"] == "conditions":
        test = (
            "Significance was decided by permutation tests of the mean RDM, with subjects as a fixed factor (Mantel, "
            "1967; Legendre et al., 1994): the conditions of the networks' RDMs, rows and columns together, were "
            f"permuted {how}."
        )
    else:
        test = (
            "Significance was decided by permutation tests of the mean RDM that exchange the entries of the networks' "
            f"RDMs, {how}. Entries share conditions and so are not exchangeable: where conditions differ in gain, this "
            "test calls many more than the nominal share of unrelated RDMs significant."
        )
    p = (
        f"With k of {run.n_permutations} permutations reaching the observed value, p = (1 + k) / (1 + "
        f"{run.n_permutations}) (Phipson and Smyth, 2010)"
    )
    if run.options.get("tf32") and run.device == "cuda" and run.figure != "Fig2":
        p += "; permutations that rounding to TF32 left open counted as reaching it"
    return [test, f"{p}.", _statistic(run), _differences(run)]


def _statistic(run: _Run) -> str:
    """What of a permutation is compared with the observed value, where one among several was chosen."""
    circular = "(Kriegeskorte et al., 2009)"
    if run.figure == "Fig2":
        if run.published:
            return (
                "Unique variances were tested one-sided; the networks were selected once, on the observed data, for "
                "which this test does not allow."
            )
        return (
            "Unique variances were tested one-sided. In every permutation the networks were ranked anew, and those of "
            f"its own first {_word(run.n_sets)} were taken, so that the test allows for the selection {circular}."
        )
    if run.figure == "Fig3b":
        return "The unique variance of each group was tested one-sided."
    if run.published:
        return (
            f"The {run.value} of each {run.model} was tested one-sided and by itself, as if the best had not been "
            f"chosen from {run.n_sets:,}."
        )
    if run.family_wise:
        return f"The {run.value} of each {run.model} was tested one-sided."
    return (
        f"The largest {run.value} at a searchlight was tested one-sided against the largest of all {run.n_sets:,} "
        f"{run.model}s in each permutation, whichever {run.model} that was, so that the test allows for the choice of "
        f"the best {circular}."
    )


def _differences(run: _Run) -> str:
    if not run.n_pairs_of_sets:
        return ""
    between = "networks of different rank" if run.figure == "Fig2" else "groups"
    if run.published:
        return f"Differences between {between} were tested in the direction observed, with the same permutations."
    text = f"Differences between {between} were tested two-sided, with the same permutations"
    if run.searchlights:
        return f"{text}."
    df = run.data["n_conditions"] - 1
    return (
        f"{text} and, since these test whether both {run.model}s are unrelated to the brain, also against their "
        f"jackknife standard error (t distribution, {df:,} degrees of freedom); the larger p value counts."
    )


def _t_test(run: _Run) -> list[str]:
    over = f"t-tests over {run.n_subjects} subjects"
    fitted = f"the {run.value} of each {run.model}, fitted to every subject's own RDM,"
    pairs = bool(run.n_pairs_of_sets)
    if run.published:
        differences = "; differences were tested two-sided as if they were between independent samples" if pairs else ""
        test = (
            f"Significance was decided by {over}: {fitted} was tested against 0, one-sided{differences}. Adjusted R² "
            "exceeds 0 by chance wherever conditions differ in gain, for which this test does not allow."
        )
    else:
        differences = "; differences were tested by paired t-tests, two-sided" if pairs else ""
        test = (
            f"Significance was decided by {over}: {fitted} less its chance level, the exact mean over all permutations "
            f"of the conditions, was tested against 0, one-sided{differences}."
        )
    selection = ""
    if run.figure == "Fig2":
        selection = (
            "The networks were selected on the mean RDM of the same subjects, for which these tests do not allow."
        )
    elif run.searchlights and not run.published:
        selection = (
            f"The p value of the {run.model} with the largest {run.value} in the mean RDM was multiplied by "
            f"{run.n_sets:,}, the number of {run.model}s it was chosen from (Bonferroni)."
        )
    limit = "Subjects are the random factor of these tests, and images are fixed"
    if not run.published:
        limit += (
            "; a mean above chance says that some subjects show the effect, not that it is typical ("
            "Allefeld et al., 2016)"
        )
    return [test, selection, f"{limit}."]


def _correction(run: _Run) -> str:
    fdr = "the false discovery rate (Benjamini and Hochberg, 1995)"
    sets = "ranks" if run.figure == "Fig2" else f"{run.model}s"
    pairs = bool(run.n_pairs_of_sets)
    n_values, n_differences = run.n_sets * run.n_tested, run.n_pairs_of_sets * run.n_tested
    if run.family_wise:
        text = (
            "p values were corrected family-wise by the maximum statistic (Nichols and Holmes, 2002): every "
            f"{run.value} was compared with the largest over all {run.n_sets:,} {sets} and {run.tested_places} in each "
            "permutation"
        )
        if pairs:
            text += ", every difference with the largest over all pairs and places"
            if not run.searchlights:
                text += f"; p values by the jackknife were multiplied by {n_differences:,} (Bonferroni)"
        return f"{text}."
    if run.published:
        over_pairs = ", those of differences over pairs" if pairs else ""
        text = f"p values were corrected for {fdr} over {sets} within each {run.place}{over_pairs}"
        if not run.searchlights:
            return f"{text}, and not over ROIs."
        return f"{text}, and the corrected values again over {run.tested_places}."
    if run.searchlights:
        best = f"The p value of the best {run.model} of each searchlight"
        best += ", and the largest p value of its differences from the others, were each" if pairs else " was"
        return f"{best} corrected for {fdr} over {run.tested_places}."
    text = f"p values were corrected for {fdr}, those of unique variances over all {n_values:,} of {sets} and ROIs"
    return text + (f", those of differences over all {n_differences:,} of pairs and ROIs." if pairs else ".")


def _rule(run: _Run) -> str:
    level = f"The level of significance after correction was {run.options['alpha']:g}"
    if run.figure == "Fig1":
        return f"{level}."
    if run.figure == "Fig2":
        return f"{level}; on the map, an ROI has the colour of its first network if that was significant."
    exceeds = "the largest corrected p value of its differences from the other groups were significant"
    if not (run.searchlights or run.family_wise or run.published):
        exceeds = "the largest p value of its differences from the other groups, corrected over ROIs, were significant"
    subject = "a searchlight was coloured by" if run.searchlights else "on the map, an ROI has the colour of"
    return f"{level}; {subject} the group with the largest unique variance if this and {exceeds}."


def _lead(run: _Run) -> str:
    if run.figure != "Fig3a":
        return ""
    n = run.data["n_conditions"]
    return (
        "As a stricter criterion, the lead of the strongest group over every other was held against its jackknife "
        f"standard error (Shao and Wu, 1989; {N_SUBSETS_OF_SEARCHLIGHTS:,} random subsets of {round(0.9 * n):,} of the "
        f"{n:,} conditions, t distribution with {n - 1:,} degrees of freedom), corrected for the false discovery rate "
        "(Benjamini and Hochberg, 1995) over tested searchlights."
    )


def _stability(run: _Run) -> str:
    n = run.data["n_conditions"]
    return (
        f"To describe how close the race was, each {run.place}'s regressions were fitted anew to {N_REFITS:,} random "
        f"subsets of {round(0.9 * n):,} of the {n:,} conditions; its stability is the share of subsets in which the "
        f"same {run.model} had the largest {'adjusted R²' if run.figure == 'Fig2' else run.value}."
    )


def _software(run: _Run) -> str:
    names = {"python": "Python", "numpy": "NumPy", "scipy": "SciPy"}
    on_gpu = run.device == "cuda" and not run.t_test
    if on_gpu:
        names["torch"] = "PyTorch"
    packages = [f"{name} {run.versions[key]}" for key, name in names.items() if key in run.versions]
    text = f"The analysis was done with dnn2brain {run.versions['dnn2brain']} ({_listed(packages)})"
    if "dask_workers" in run.data:
        return f"{text}; permutations were counted by {_plural(run.data['dask_workers'], 'Dask worker')}."
    return text + (" on a GPU." if on_gpu else ".")


def _word(n: int) -> str:
    return _WORDS[n] if n < len(_WORDS) else f"{n:,}"


def _plural(n: int, noun: str) -> str:
    return f"{_word(n)} {noun}" + ("" if n == 1 else "s")


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
