"""The same quantities by other packages: rsatoolbox, mne-rsa, statsmodels and scikit-learn."""

from __future__ import annotations

import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.validation.grid import INTERVAL_WORLDS
from utils.datasets.worlds import World, simulate
from utils.rdm import condense, expand, n_conditions_of
from utils.stats.comparison import compared
from utils.stats.exceedances import Permutations
from utils.stats.jackknife import Jackknife
from utils.stats.permutation import conditional_test
from utils.stats.regression import orthonormal_basis, own_adjusted_r2, own_r2, project, standardise
from utils.stats.stepwise import stepwise_test

SEED, N_BOOTSTRAP, N_RSATOOLBOX = 7, 2000, 1000
WORLDS = ("images dominate", "8 people vary", "noise dominates")


def run_agreement(folder: Path) -> None:
    """Compare, unless that is done already, and keep the result in the folder."""
    path = folder / "agreement.json"
    if path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    bootstraps = {}
    for name in WORLDS:
        bootstraps[name] = _bootstraps(INTERVAL_WORLDS[name])
        print(f"agreement: {name}", flush=True)
    path.write_text(json.dumps({"bootstraps": bootstraps, "regressions": _regressions()}, indent=1))


def _bootstraps(world: World) -> dict[str, float]:
    """Standard errors over images and people, of one study, by bootstrap and in closed form."""
    study = simulate(np.random.default_rng(SEED), world)
    people, first = study.people[:, 0], [layers[0] for layers in study.models[:2]]
    started = time.perf_counter()
    by_rsatoolbox = _rsatoolbox(first, people)
    found = {f"{name}, rsatoolbox": value for name, value in by_rsatoolbox.items()}
    found["rsatoolbox, s"] = time.perf_counter() - started
    found |= {f"{name}, bootstrap": value for name, value in _own_bootstrap(first, people).items()}
    basis = orthonormal_basis(first)
    jackknife = Jackknife(basis, own_r2(basis), "plain", by_chance=False)
    contrasts = np.array([[1.0, 0.0], [1.0, -1.0]])
    jackknife(study.mean, study.people, contrasts)  # compiled by now
    started = time.perf_counter()
    errors = jackknife(study.mean, study.people, contrasts).components.standard_error("both")[:, 0]
    found["closed form, s"] = time.perf_counter() - started
    return found | {"R2, closed form": float(errors[0]), "R2 difference, closed form": float(errors[1])}


def _rsatoolbox(models: list[NDArray[np.float64]], people: NDArray[np.float64]) -> dict[str, float]:
    """Of the mean correlation of a model with people's RDMs, and of the difference of two models."""
    import rsatoolbox

    fixed = [rsatoolbox.model.ModelFixed(str(k), rdm) for k, rdm in enumerate(models)]
    np.random.seed(SEED)  # noqa: NPY002 - which rsatoolbox draws from
    with contextlib.redirect_stderr(io.StringIO()):
        result = rsatoolbox.inference.eval_dual_bootstrap(
            fixed, rsatoolbox.rdm.RDMs(people), method="corr", N=N_RSATOOLBOX
        )
    return {
        "correlation": float(np.sqrt(result.model_var[0])),
        "correlation difference": float(np.sqrt(result.diff_var[0])),
    }


def _own_bootstrap(models: list[NDArray[np.float64]], people: NDArray[np.float64]) -> dict[str, float]:
    """The same bootstrap, written anew: of the mean correlation, and of the R2 of the mean RDM.

    People and images are drawn with replacement, both, people alone or images alone; pairs of an image with itself are
    left out.
    """
    rng = np.random.default_rng(SEED)
    n_people, n = len(people), n_conditions_of(people.shape[1])
    square_models, square_people = expand(np.stack(models)), expand(people)
    everyone, every_image = np.arange(n_people), np.arange(n)
    drawn: dict[str, list[list[float]]] = {"correlation": [], "R2": []}
    for _ in range(N_BOOTSTRAP):
        chosen, images = rng.integers(0, n_people, n_people), np.sort(rng.integers(0, n, n))
        for who, which in ((chosen, images), (chosen, every_image), (everyone, images)):
            different = condense(which[:, None] != which[None])
            x, y = (condense(square[:, which][:, :, which])[:, different] for square in (square_models, square_people))
            units = standardise(x)
            drawn["correlation"].append((units @ standardise(y[who]).T).mean(axis=1).tolist())
            drawn["R2"].append(np.square(units @ standardise(y[who].mean(axis=0))).tolist())
    found = {}
    for name, values in drawn.items():
        table = np.array(values).reshape(N_BOOTSTRAP, 3, 2)
        for label, statistic in ((name, table[..., 0]), (f"{name} difference", table[..., 0] - table[..., 1])):
            found[label] = _corrected(statistic.var(axis=0, ddof=1), n_people, n)
    return found


def _corrected(variances: NDArray[np.float64], n_people: int, n: int) -> float:
    """Standard error from the variances of the three bootstraps (Schütt et al. 2023, eLife 12:e82566)."""
    both, of_people, of_images = variances
    of_people, of_images, interaction = (
        of_people * n_people / (n_people - 1),
        of_images * n / (n - 1),
        (both - of_people - of_images) * n * n_people / (n - 1) / (n_people - 1),
    )
    variance = max(of_people + of_images - interaction, of_people, of_images)
    return float(np.sqrt(min(variance, both)))


def _regressions() -> dict[str, float]:
    """Largest differences of regression results, over 20 studies."""
    import mne_rsa
    import statsmodels.api as sm
    from rsatoolbox.util.matrix import get_v
    from sklearn.linear_model import LinearRegression

    largest: dict[str, float] = {}

    def compare(name: str, ours: Any, theirs: Any) -> None:
        largest[name] = max(largest.get(name, 0.0), float(np.max(np.abs(np.asarray(ours) / np.asarray(theirs) - 1))))

    world = World(kinds=((0.4, 0.2, 0.1),), n_images=30, network_gain=0.35, brain_gain=(0.35,), noise=1.0)
    inverse = np.linalg.inv(get_v(30, None).toarray())
    for run in range(20):
        study = simulate(np.random.default_rng([SEED, run]), world)
        y, x, first = study.mean[0], np.concatenate(study.models).T, study.models[0].T
        plain = orthonormal_basis(study.models)
        fits = {"first": sm.OLS(y, sm.add_constant(first)).fit(), "all": sm.OLS(y, sm.add_constant(x)).fit()}
        ours = project(plain, study.mean)
        compare("R2, scikit-learn", np.square(ours).sum(), LinearRegression().fit(x, y).score(x, y))
        compare("R2, statsmodels", own_r2(plain)(ours)[0, 0], fits["first"].rsquared)
        compare("adjusted R2, statsmodels", own_adjusted_r2(plain)(ours)[0, 0], fits["first"].rsquared_adj)
        step = stepwise_test(plain, np.array([[0], [1], [2]]), study.mean, Permutations(9))
        less = sm.OLS(y, sm.add_constant(x[:, 2:])).fit()
        compare("F of one network beside two, statsmodels", step.f[0, 0], fits["all"].compare_f_test(less)[0])
        weights = np.asarray(mne_rsa.rsa(y, list(x.T), metric="regression"))
        fitted = (x - x.mean(axis=0)) @ weights
        compare("R2, mne-rsa", np.square(ours).sum(), fitted @ fitted / (y.var() * y.size))
        # Of one layer of each network: what it adds, as a share of what the other two leave.
        firsts = [layers[:1] for layers in study.models]
        single = orthonormal_basis(firsts)
        added = conditional_test(single, study.mean, Permutations(9)).observed[:, 0]
        partial = added / (1 - np.square(project(single, study.mean)).sum() + added)
        theirs = mne_rsa.rsa(y, [layer for (layer,) in firsts], metric="partial")
        compare("partial R2 of one network beside two, mne-rsa", partial, np.square(theirs))
        white = orthonormal_basis([compared(layers, "whitened") for layers in study.models])
        r2 = np.square(project(white, compared(study.mean, "whitened"))).sum()
        compare("whitened R2, generalised least squares with the V of rsatoolbox", r2, _gls_r2(inverse, x, y))
    return largest


def _gls_r2(inverse: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """1 - residual / total of generalised least squares with an intercept, by its normal equations."""

    def residual(design: NDArray[np.float64]) -> float:
        beta = np.linalg.solve(design.T @ inverse @ design, design.T @ inverse @ y)
        left = y - design @ beta
        return float(left @ inverse @ left)

    ones = np.ones((len(y), 1))
    return 1 - residual(np.hstack([ones, x])) / residual(ones)
