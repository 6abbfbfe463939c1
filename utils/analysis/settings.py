"""Everything that changes the numbers of a figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Settings:
    """The statistical choices of an analysis; docs/METHODS.md explains each.

    Attributes
    ----------
    stats : {"permutation", "t-test"}
        Permutation test on the RDM averaged over subjects, or t-test over subjects.
    n_permutations : int
    permute : {"conditions", "entries"}
        What a permutation exchanges.
    correction : {"fdr", "max", "within_location"}
        For multiple tests: false discovery rate over all of them, family-wise by the maximum statistic, or false
        discovery rate among the tests of each searchlight or ROI (and, for searchlights, then over searchlights).
    alpha : float
        Level of significance, after correction.
    seed : int
        Of permutations and of subsets of the conditions.
    ceiling : float
        Lower noise ceiling, a mean Spearman correlation, from which on a searchlight is tested.
    bootstrap_ratio : float
        Share of the conditions in each subset for the standard errors of ROIs.
    two_sided : bool
        Test differences in both directions, not only in the direction observed.
    jackknife_differences : bool
        In ROIs, two models also have to differ by the jackknife standard error of their difference.
    reselect : bool
        Choose the best models of a ROI anew in every permutation.
    chance_level : bool
        Test subjects' values against their exact chance level, not against 0.
    paired : bool
        Compare models by a paired t-test.
    scaled_errors : bool
        Scale the spread over subsets to a standard error.
    clip_negative : bool
        Set a model's negative adjusted R2 to 0.
    """

    stats: Literal["permutation", "t-test"] = "permutation"
    n_permutations: int = 10_000
    permute: Literal["conditions", "entries"] = "conditions"
    correction: Literal["fdr", "max", "within_location"] = "fdr"
    alpha: float = 0.05
    seed: int = 0
    ceiling: float = 0.033
    bootstrap_ratio: float = 0.9
    two_sided: bool = True
    jackknife_differences: bool = True
    reselect: bool = True
    chance_level: bool = True
    paired: bool = True
    scaled_errors: bool = True
    clip_negative: bool = False

    @classmethod
    def published(cls, **others: Any) -> Settings:
        """The choices of the published code (docs/METHODS.md, section 14), except for `others`."""
        choices: dict[str, Any] = {
            "permute": "entries",
            "correction": "within_location",
            "two_sided": False,
            "jackknife_differences": False,
            "reselect": False,
            "chance_level": False,
            "paired": False,
            "scaled_errors": False,
            "clip_negative": True,
        }
        return cls(**choices | others)
