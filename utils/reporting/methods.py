"""The methods section of a run: `methods.txt.j2`, with the numbers of the run, and the references that it cites."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.tasks import BASELINE
from utils.analysis.rois import N_SUBSETS
from utils.io.templates import render
from utils.rdm import n_pairs_of
from utils.stats.jackknife import Population, degrees_of_freedom
from utils.stats.refits import N_SUBSETS as N_REFITS

# Under the form in which the text cites them.
REFERENCES: dict[str, str] = json.loads(Path(__file__).with_name("references.json").read_text(encoding="utf-8"))
_SHARE_OF_REFITS = 0.9


@dataclass(frozen=True)
class Methods:
    """Text for a methods section: paragraphs of plain text, and the references that they cite, in order."""

    paragraphs: list[str]
    references: list[str]


def methods_text(record: Mapping[str, Any]) -> Methods:
    """Two paragraphs on a run: what was compared with what, and how significance was assessed.

    Parameters
    ----------
    record : mapping
        Provenance of the run, as for `facts`.

    Returns
    -------
    Methods

    Raises
    ------
    KeyError
        If the record lacks a number that the text needs.
    """
    text = render("reporting/methods.txt.j2", **facts(record))
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    cited = [reference for name, reference in REFERENCES.items() if any(name in text for text in paragraphs)]
    return Methods(paragraphs, cited)


def facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the words on a run depend on: those of the methods section, the report and the column descriptions.

    Parameters
    ----------
    record : mapping
        Provenance of the run, the content of its `run.json`. Of `record["data"]` it needs `simulated`, `n_conditions`,
        `n_subjects` (a number, or text such as "14-16"), `networks` (number of networks of each group), `layers`
        (their names), and `n_searchlights` and `n_tested`, or `n_rois` and `n_sets`.

    Returns
    -------
    dict
        Values for the templates, by name. `n_sets` counts what is compared in each location: networks, ranks or groups.

    Raises
    ------
    KeyError
        If the record lacks one of these numbers.
    """
    figure, options, data = record["figure"], record["options"], record["data"]
    grouped, searchlights = figure in ("Fig3a", "Fig3b"), "n_searchlights" in data
    t_test, n_conditions = options["stats"] == "t-test", data["n_conditions"]
    networks = {group: n for group, n in data["networks"].items() if not (grouped and group == BASELINE)}
    n_networks = sum(networks.values())
    n_sets = len(networks) if grouped else data["n_sets"] if figure == "Fig2" else n_networks
    folds = options.get("cross_validate") or 0
    n_refitted = round(_SHARE_OF_REFITS * n_conditions)
    return {
        "figure": figure,
        "options": options,
        "simulated": data["simulated"],
        "published": options["as_published"],
        "family_wise": options["correction"] == "max",
        "t_test": t_test,
        "grouped": grouped,
        "searchlights": searchlights,
        "location": "searchlight" if searchlights else "ROI",
        "n_searchlights": data.get("n_searchlights"),
        "n_tested": data["n_tested" if searchlights else "n_rois"],
        "ceiling": data.get("ceiling", options.get("ceiling")),
        "n_conditions": n_conditions,
        "n_pairs": data.get("n_pairs", n_pairs_of(n_conditions)),
        "n_pairs_left_out": data.get("n_pairs_left_out", 0),
        "n_exchangeable": data.get("n_exchangeable", 1),
        "n_blocks": data.get("n_blocks"),
        **{name: data.get(f"brain_{name}") for name in ("metric", "centered", "noise")},
        "n_nuisance": data.get("n_nuisance"),
        "n_subjects": str(data["n_subjects"]).replace("-", "–"),
        "own_models": data.get("models_by_person", False),
        "one_subject": str(data["n_subjects"]) == "1",
        "model": "group" if grouped else "network",
        "members": ", ".join(f"{group}: {n:,}" for group, n in networks.items()),
        "left_out": BASELINE if len(networks) < len(data["networks"]) else "",
        "n_networks": n_networks,
        "n_sets": n_sets,
        # Among which a winner is chosen.
        "n_compared": n_sets if grouped else n_networks,
        "n_pairs_of_sets": 0 if figure == "Fig1" else n_sets * (n_sets - 1) // 2,
        "layers": data["layers"],
        "value": "adjusted R²" if figure == "Fig1" else "unique variance",
        "fitted": "unique variance" if grouped else "adjusted R²",
        "ranked_by": _ranked_by(grouped, folds),
        "folds": folds,
        "nonnegative": options.get("weights") == "nonnegative",
        **_sampling(options, data),
        "error_bars": {"n_subsets": N_SUBSETS, "n_conditions": round(options.get("bootstrap_ratio", 0) * n_conditions)},
        "refits": {"n_subsets": N_REFITS, "n_conditions": n_refitted},
        **_software(record["versions"], on_gpu=record["device"] == "cuda" and not t_test),
        "n_workers": data.get("dask_workers"),
    }


def _ranked_by(grouped: bool, folds: int) -> str:
    """The value whose largest decides which network or group is shown as the best."""
    if folds:
        return "cross-validated unique variance" if grouped else "cross-validated R²"
    return "unique variance" if grouped else "adjusted R²"


def _sampling(options: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Over what standard errors speak, and how surely."""
    # Text such as "14-16" where ROIs differ; the fewest people count.
    n_subjects = int(str(data["n_subjects"]).split("-")[0])
    over: Population = "images" if n_subjects < 2 else options["generalise"]
    return {
        "sampled_over": over,
        "degrees": f"{degrees_of_freedom(over, data['n_conditions'], n_subjects):,}",
        "confidence": f"{100 * (1 - options['alpha']):g}",
    }


def _software(versions: Mapping[str, str], on_gpu: bool) -> dict[str, Any]:
    names = {"python": "Python", "numpy": "NumPy", "scipy": "SciPy"} | ({"torch": "PyTorch"} if on_gpu else {})
    packages = [f"{name} {versions[key]}" for key, name in names.items() if key in versions]
    return {"version": versions["dnn2brain"], "packages": packages, "on_gpu": on_gpu}
