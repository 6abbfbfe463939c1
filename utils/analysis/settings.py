"""Everything that changes the numbers of a figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # `--help` shall not wait for what these import
    from utils.stats.comparison import Comparison
    from utils.stats.jackknife import Population


@dataclass(frozen=True)
class Settings:
    """The statistical choices of an analysis; docs/METHODS.md explains each.

    Attributes
    ----------
    stats : {"permutation", "t-test"}
        What is above chance: by a permutation test on the RDM averaged over subjects, or by a t-test over subjects.
    comparison : {"whitened", "plain", "without_condition_effects"}
        How much the effects of single conditions count when RDMs are compared.
    n_permutations : int
    permute : {"conditions", "blocks", "entries"}
        What a permutation exchanges.
    blocks : tuple of int
        Block of each condition; if given, conditions are exchanged within blocks, or blocks as wholes.
    correction : {"fdr", "max", "within_location"}
        For multiple tests: false discovery rate over all of them, family-wise by the maximum statistic, or false
        discovery rate among the tests of each searchlight or ROI (and, for searchlights, then over searchlights).
    cross_validate : int
        Folds of the conditions for predictions of new subjects and new conditions, which then rank; 0 for none.
    weights : {"free", "nonnegative"}
        Whether weights of layers may be negative (single networks of searchlights only).
    alpha : float
        Level of significance, after correction; intervals have the level 1 - alpha.
    generalise : {"both", "images", "people"}
        Over what error bars, intervals and leads speak: other images, other people, or both.
    minimum_effect : float
        Share of the explainable variance that the interval of a bar has to exceed for a filled star.
    seed : int
        Of permutations and of subsets of the conditions.
    ceiling : float or None
        Lower noise ceiling, a mean Spearman correlation, from which on a searchlight is tested; None to test all.
    as_published : bool
        Otherwise as in the published code: adjusted R2 with negative values of single networks set to 0, networks
        selected once, differences by permutation in the direction observed, t-tests against 0 and between independent
        samples, error bars without scale (docs/METHODS.md, section 14).
    bootstrap_ratio : float
        Share of the conditions in each subset for the published error bars.
    """

    stats: Literal["permutation", "t-test"] = "permutation"
    comparison: Comparison = "whitened"
    n_permutations: int = 10_000
    permute: Literal["conditions", "blocks", "entries"] = "conditions"
    blocks: tuple[int, ...] = ()
    correction: Literal["fdr", "max", "within_location"] = "fdr"
    cross_validate: int = 0
    weights: Literal["free", "nonnegative"] = "free"
    alpha: float = 0.05
    generalise: Population = "both"
    minimum_effect: float = 0.01
    seed: int = 0
    ceiling: float | None = 0.033
    as_published: bool = False
    bootstrap_ratio: float = 0.9

    @classmethod
    def published(cls, **others: Any) -> Settings:
        """The choices of the published code (docs/METHODS.md, section 14), except for `others`."""
        choices: dict[str, Any] = {
            "as_published": True,
            "comparison": "plain",
            "permute": "entries",
            "correction": "within_location",
        }
        return cls(**choices | others)
