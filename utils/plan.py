"""What a planned study can find: the command `python -m utils.plan`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from utils import InputError
from utils.analysis.planning import BESIDE, COMPARISON, Plan, Power, at_other_size, power
from utils.analysis.settings import Settings
from utils.cli import command as cli
from utils.datasets.pilot import read_pilot

_DESCRIPTION = f"""Simulate a planned study many times, and print how often it finds effects of several sizes.

Give the reliability of the mean RDM that you expect, or a pilot study from which it is taken (the median over its
ROIs, or its searchlights) with the numbers of images and people; those that you give take precedence, and the
reliability is then that of as many people as are planned.

Effects are shares of the explainable variance in the default comparison of RDMs. The columns say how often
  explained   of three groups of networks, one of which explains the effect, something is explained (p <= alpha)
  star        a group gets a star that adds the effect to another that explains {BESIDE:g}
  lead        a group is established to lead, which adds the effect, over one that adds a quarter of it
each with the 95 % interval for the number of simulations; and within what distance the last group's share is known
(95 % interval over other images and people). Corrections for many ROIs or searchlights are not in these numbers.
Of the images, networks and noise only what docs/VALIDATION.md describes is simulated: real studies differ."""
_COLUMNS = ("explained", "star", "lead")


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: print the table of power."""
    options = _parser().parse_args(argv)
    _check(options)
    plan = _plan(options)
    settings = Settings(n_permutations=199, comparison=options.comparison, alpha=options.alpha, seed=options.seed)
    print(
        f"{plan.n_images} images, {plan.n_people} people, reliability of the mean RDM {plan.reliability:.2f}; "
        f"{options.repetitions} simulated studies per cell"
    )
    with cli.progress("simulated studies", options) as advance:
        found = power(plan, options.effect, options.repetitions, settings, advance)
    print(table(found))


def table(found: Sequence[Power]) -> str:
    """Power with 95 % Wilson intervals, as text.

    Parameters
    ----------
    found : sequence of Power

    Returns
    -------
    str
    """
    lines = ["effect" + "".join(f"  {name:<18}" for name in _COLUMNS) + "  share known within"]
    for row in found:
        cells = []
        for name in _COLUMNS:
            count = getattr(row, name)
            interval = binomtest(count, row.n).proportion_ci(method="wilson")
            cells.append(f"  {count / row.n:.2f} [{interval.low:.2f}, {interval.high:.2f}]")
        lines.append(f"{row.effect:<6g}" + "".join(f"{cell:<20}" for cell in cells) + f"  +-{row.margin:.2f}")
    return "\n".join(lines)


def _plan(options: argparse.Namespace) -> Plan:
    """The plan that the options describe."""
    if options.pilot is None:
        return Plan(options.images or 50, options.people or 16, options.reliability)
    with cli.progress("pilot study", options) as advance:
        pilot = read_pilot(options.pilot, COMPARISON, advance)
    low, middle, high = (float(value) for value in np.quantile(pilot.reliability, (0.1, 0.5, 0.9)))
    print(
        f"{options.pilot}: {pilot.n_images} images, {pilot.n_people} people; reliability of the mean RDM in "
        f"{len(pilot.reliability)} {pilot.places}: median {middle:.2f}, 10th to 90th percentile {low:.2f} to {high:.2f}"
    )
    if middle <= 0:
        raise InputError(
            f"`pilot`: the median reliability is {middle:.2f}, people agree no more than by chance; choose other "
            "ROIs, or give `reliability` instead"
        )
    n_people = options.people or pilot.n_people
    return Plan(options.images or pilot.n_images, n_people, at_other_size(middle, pilot.n_people, n_people))


def _check(options: argparse.Namespace) -> None:
    parser = _parser()
    if (options.reliability is None) == (options.pilot is None):
        parser.error("give either --reliability or --pilot")
    if not 0 < options.alpha < 1:
        parser.error(f"--alpha is {options.alpha:g}, expected a value between 0 and 1")
    if options.seed < 0:
        parser.error(f"--seed is {options.seed}, expected 0 or more")
    for effect in options.effect:
        if not 0 <= effect < 1:
            parser.error(f"--effect is {effect:g}, expected shares from 0 to below 1")


def _parser() -> cli.Parser:
    parser = cli.Parser(prog="python -m utils.plan", description=_DESCRIPTION)
    study = parser.add_argument_group("study")
    study.add_argument("--images", type=cli.positive, metavar="N",
                       help="number of images (default: the pilot's, or 50)")  # fmt: skip
    study.add_argument("--people", type=cli.positive, metavar="N",
                       help="number of people (default: the pilot's, or 16)")  # fmt: skip
    study.add_argument("--reliability", type=float, metavar="X",
                       help="of the mean RDM of these people: column `reliability` of results.tsv; .2 to .7 in many"
                       )  # fmt: skip
    study.add_argument("--pilot", type=Path, metavar="FOLDER", help="data folder in the layout of data/README.md")
    study.add_argument("--effect", type=float, nargs="+", default=[0.02, 0.05, 0.1, 0.2], metavar="X",
                       help="shares of the explainable variance")  # fmt: skip
    group = parser.add_argument_group("analysis and run")
    group.add_argument("--comparison", choices=("whitened", "plain"), default="whitened",
                       help="how RDMs are compared in the analysis")  # fmt: skip
    group.add_argument("--alpha", type=float, default=0.05, help="significance level")
    group.add_argument("--repetitions", type=cli.positive, default=100, metavar="N", help="simulated studies per cell")
    group.add_argument("--seed", type=int, default=0, help="seed of the simulation")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    return parser


def command() -> None:
    """Run from the command line."""
    cli.execute(main, _parser())


if __name__ == "__main__":
    command()
