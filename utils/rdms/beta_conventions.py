"""How the programs that estimate responses name their files: SPM, FSL, AFNI, nilearn and BIDS, GLMsingle.

A folder is searched for their output. Each program also writes maps that are no responses (masks, residual variances,
t and z maps, contrasts between conditions, motion regressors); these are left out by name, and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from utils import InputError
from utils.io import glmsingle
from utils.io.readers import read_mat, readable
from utils.io.spaces import spaces_in_names
from utils.rdms.beta_files import NOT_A_CONDITION, BetaMap, Header, read_header, stem
from utils.rdms.stimuli import few, natural_key
from utils.rdms.vertices import HEMISPHERES, Vertices, split_side

_MAPS = re.compile(r"(\.nii(\.gz)?|\.HEAD|\.gii|\.mg[hz])$")
_SHAPES = re.compile(
    r"(surf|label)\.gii$|\b(sulc|curv|thickness|area|volume|avg_curv|jacobian_white)(\.shape\.gii|\.mg[hz])$"
)
_SPM_BETA = re.compile(r"beta_(\d{4})")
_FSL_COPE = re.compile(r"cope(\d+)")
_SPM_NAME = re.compile(r"Sn\((\d+)\) (.+?)\*bf\((\d+)\)$")
_AFNI_COEFFICIENT = re.compile(r"(.+?)#\d+(_Coef)?$")
# What programs call maps that nobody has named.
_NO_NAME = re.compile(
    r"\W*|\W*((map|column|volume|beta|index|array|frame)\W*)?\d+(\.\d+)?( seconds)?\W*", re.IGNORECASE
)
_ENTITY = re.compile(r"([a-zA-Z]+)-([A-Za-z0-9+.]+)$")
_STATISTIC_CODES = range(2, 25)  # NIfTI intents from NIFTI_FIRST_STATCODE to NIFTI_LAST_STATCODE
# What files are that are no responses, by whole names or by parts of them.
_NOT_BETAS = {
    r"(.*_)?((brain|analysis)[-_]?)?mask": "mask",
    r"resms|rpv|spm[tfx]_\d+|con_\d+|ess_\d+|res_\d+": "SPM's statistics, contrasts and residuals",
    r"varcope\d+|[zt]?f?stat\d+|sigmasquareds|res4d|threshac\d+|tdof_\S+|dof|weights\d*|mean_random_effects_var\d+|"
    r"filtered_func_data|example_func|mean_func|bg_image|thresh_zstat\d+|cluster_mask_\S+|corrections|prefiltered_\S+":
        "FSL's variances, statistics and inputs",
    r".*_stat-(?!effect|beta|estimate)[a-z]+.*": "maps of other statistics than effects",
    r".*_(bold|boldref|sbref|t1w|t2w|dseg|probseg|epi)": "images that are no estimates",
    r"(.*_)?(r2|onoffr2|noisepool|hrfindex(run)?|meanvol|fracvalue|rrbadness)": "GLMsingle's other maps",
    r"(.*_)?(varcope|variance|tstat|zstat|fstat|tmap|zmap|pval|residuals?|errts|rsquared)": "variances and statistics",
}  # fmt: skip


@dataclass
class Found:
    """What a file or folder holds.

    Attributes
    ----------
    maps : list of (Path, BetaMap)
        Each map with the folder that it was found in, for the name of a subject that nothing else names.
    headers : dict of Path to Header
        Of all files with maps.
    kinds : Counter of str
        Number of files in the form of each program.
    left_out : dict of str to list of str
        Names of files and volumes that are no responses, by what they are.
    """

    maps: list[tuple[Path, BetaMap]] = field(default_factory=list)
    headers: dict[Path, Header] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, what: str, name: str) -> None:
        """Count a file or volume that is no response."""
        self.left_out.setdefault(what, []).append(name)

    def notes(self) -> list[str]:
        """Lines for people: in which form files are, and what was left out."""
        kinds = [f"{kind} ({n} files)" for kind, n in self.kinds.items() if kind]
        lines = [f"read as {', '.join(kinds)}"] if kinds else []
        for what, names in self.left_out.items():
            different: list[str] = sorted(set(names), key=natural_key)
            lines.append(f"left out, {what}: {few(different)}")
        return lines


def find_maps(path: Path, found: Found) -> None:
    """Find all maps of a file or folder, in natural order of the names of files.

    Parameters
    ----------
    path : Path
    found : Found
        Added to.

    Raises
    ------
    InputError
        If there is nothing, a file is unreadable, or a file that was named itself is no map of responses.
    """
    if path.is_file():
        reason = _no_beta(path)
        if reason:
            raise InputError(f"{path}: is no map of responses but belongs to {reason}; give maps of betas or effects")
        _add_file(path, path, found)
        return
    before = len(found.maps)
    for owner, files in _folders_with_maps(path):
        for file in files:
            if reason := _no_beta(file):
                found.leave_out(reason, file.name)
            else:
                _add_file(owner, file, found)
    if len(found.maps) == before:
        raise InputError(
            f"{path}: holds no .nii or .nii.gz file of responses; expected 4-D runs, one 3-D file per condition, or a "
            "folder of SPM, FSL, nilearn or GLMsingle"
            + "".join(f" (left out: {few(names)})" for names in found.left_out.values())
        )
    _check_one_space(path, [entry.path for _, entry in found.maps[before:]])


def _folders_with_maps(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Folders with the output of one analysis, and its files; subfolders are searched where a folder has none."""
    if (betas := glmsingle.betas_in(folder)) is not None:
        yield folder, [betas]
        return
    if (folder / "stats").is_dir() and any(_FSL_COPE.fullmatch(stem(path)) for path in (folder / "stats").iterdir()):
        yield folder.parent, _volumes(folder / "stats")
        return
    files = _volumes(folder)
    if any(not _no_beta(file) for file in files):
        yield folder, files
        return
    if files:
        yield folder, files  # to be counted as left out
    for subfolder in sorted(folder.iterdir(), key=lambda path: natural_key(path.name)):
        if subfolder.is_dir() and subfolder.name[0] != ".":
            yield from _folders_with_maps(subfolder)


def _volumes(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if _MAPS.search(file.name) and file.name[0] != "." and file.is_file()]
    return sorted(files, key=lambda file: natural_key(file.name))


def _no_beta(file: Path) -> str:
    """What a file is that is no map of responses, by its name; empty for others."""
    name = stem(file).lower()
    if _SHAPES.search(file.name):
        return "meshes, labels and shapes of the cortex"
    if re.fullmatch(r"pe\d+", name) and any(_FSL_COPE.fullmatch(stem(other)) for other in file.parent.glob("cope*")):
        return "FSL's parameter estimates beside copes"
    return next((what for pattern, what in _NOT_BETAS.items() if re.fullmatch(pattern, name)), "")


def _add_file(owner: Path, file: Path, found: Found) -> None:
    """Add the maps of a file, named as the program that wrote it does."""
    header = read_header(file)
    if glmsingle.is_output(file):
        found.headers[file] = header
        maps = _glmsingle_maps(file, header.n_volumes)
        found.kinds["GLMsingle"] += 1
    else:
        if header.intent in _STATISTIC_CODES:
            found.leave_out("maps of statistics, by the intent in their headers", file.name)
            return
        found.headers[file] = header
        maps = _named_maps(file, header, found)
    for entry in maps:
        found.maps.append((owner, entry))


def _named_maps(file: Path, header: Header, found: Found) -> list[BetaMap]:
    name, run = stem(file), _run_of(file)
    if header.side:
        _, name = split_side(name)
    if spm := _SPM_BETA.fullmatch(name):
        found.kinds["first-level folders of SPM"] += 1
        return [_spm_map(file, int(spm[1]), header, found)]
    if fsl := _FSL_COPE.fullmatch(name):
        found.kinds["folders of FSL"] += 1
        return [_fsl_map(file, int(fsl[1]), found)]
    if len(header.labels) == header.n_volumes and any(map(_AFNI_COEFFICIENT.fullmatch, header.labels)):
        found.kinds["labelled sub-bricks of AFNI"] += 1
        return _afni_maps(file, header.labels, run or name, found)
    if header.names and not any(map(_NO_NAME.fullmatch, header.names)):
        found.kinds["named maps of GIFTI or CIFTI files"] += 1
        return [BetaMap(file, index, text.strip(), run or name) for index, text in enumerate(header.names)]
    if header.n_volumes > 1:
        found.kinds[""] += 1
        return [BetaMap(file, index, run=run or name) for index in range(header.n_volumes)]
    condition, kind = _condition_of(name)
    found.kinds[kind] += 1
    if _is_difference(header.description):
        found.leave_out("contrasts of several regressors", condition)
        condition = NOT_A_CONDITION
    return [BetaMap(file, 0, condition, run)]


def pair_hemispheres(maps: Sequence[tuple[Path, BetaMap]], found: Found) -> list[tuple[Path, BetaMap]]:
    """Put the two files of each map of vertices together; other maps stay as they are.

    Parameters
    ----------
    maps : sequence of (Path, BetaMap)
        With the folder or file that each is of.
    found : Found
        Headers of left hemispheres become those of both, and those of right ones go.

    Returns
    -------
    list of (Path, BetaMap)

    Raises
    ------
    InputError
        If the two hemispheres are not of the same maps, or only some maps have both.
    """
    whole: list[tuple[Path, BetaMap]] = []
    halves: dict[tuple[Path, int], dict[str, tuple[Path, BetaMap]]] = {}
    for owner, entry in maps:
        side = found.headers[entry.path].side
        if not side:
            whole.append((owner, entry))
            continue
        path = entry.path.with_name(split_side(entry.path.name)[1])
        halves.setdefault((path, entry.index), {})[side] = (owner, entry)
    sides = {side for own in halves.values() for side in own}
    for (path, index), own in halves.items():
        if len(own) < len(sides):
            ((side, (_, entry)),) = own.items()
            lacking = "left" if side == "right" else "right"
            raise InputError(
                f"{entry.path}: there is no map {index} of the {lacking} hemisphere with it, as of other maps; "
                "give both hemispheres, with the same names but for lh and rh, and the same maps, or one alone"
            )
        (owner, first), *others = (own[side] for side in HEMISPHERES if side in own)
        for _, other in others:
            if (first.condition, first.run) != (other.condition, other.run):
                raise InputError(
                    f"{other.path}: map {index} is of {other.condition or 'no condition'}, expected "
                    f"{first.condition or 'no condition'} as in {first.path.name}; both hemispheres must be of the "
                    "same conditions"
                )
            first = replace(first, right=other.path)
        whole.append((owner if owner.is_dir() else path, first))
    for path, partner in dict.fromkeys((entry.path, entry.right) for _, entry in whole):
        if partner is not None:
            left, right = found.headers[path].grid, found.headers.pop(partner).grid
            assert isinstance(left, Vertices) and isinstance(right, Vertices)
            found.headers[path] = replace(found.headers[path], grid=Vertices(left.left, right.right))
    return whole


def _run_of(file: Path) -> str:
    """Session and run in a file's name, or in that of its folder."""
    for part in (split_side(stem(file))[1], file.parent.name):
        found = [word for word in part.split("_") if re.fullmatch(r"(ses|run)-[A-Za-z0-9]+", word)]
        if any(word.startswith("run-") for word in found):
            return "_".join(found)
    return ""


def _condition_of(name: str) -> tuple[str, str]:
    """Condition in the name of a 3-D file, and the form of the name."""
    words = name.split("_")
    entities = {found[1]: found[2] for word in words if (found := _ENTITY.fullmatch(word))}
    named = next((entities[key] for key in ("contrast", "condition", "cond", "trialtype") if key in entities), "")
    if named:
        return named, "BIDS names (contrast-…, stat-effect)" if "stat" in entities else "BIDS names"
    none = ("sub", "ses", "run", "task", "space", "res", "den", "stat")
    return "_".join(w for w in words if not ((found := _ENTITY.fullmatch(w)) and found[1] in none)), ""


def _is_difference(description: str) -> bool:
    """Whether nilearn's description of an effect has a contrast of several regressors."""
    found = re.search(r"effect_size of contrast \[?array\(\[([^\]]*)", description)
    weights = re.findall(r"-?\d+\.?\d*(?=[,\s]|$)", found[1]) if found else []
    return sum(float(weight) != 0 for weight in weights) > 1


def _check_one_space(path: Path, files: Sequence[Path]) -> None:
    spaces = sorted(f"space-{name}" for name in spaces_in_names(files))
    if len(spaces) > 1:
        raise InputError(
            f"{path}: holds maps in {len(spaces)} spaces ({', '.join(spaces)}), expected one; give the files of one "
            "space, such as those that match *space-MNI*"
        )


# ----------------------------------------------------------------------------------------------------------------- SPM


def _spm_map(file: Path, number: int, header: Header, found: Found) -> BetaMap:
    """A beta image of SPM, named by SPM.mat or else by its header."""
    names = _spm_names(file.parent)
    if names and number > len(names):
        raise InputError(
            f"{file}: is regressor {number}, but {file.parent / 'SPM.mat'} has {len(names)}; expected the betas of one "
            "model: estimate it again, or give a table of `conditions`"
        )
    text = names[number - 1] if names else header.description.partition(" - ")[2].strip()
    named = _SPM_NAME.fullmatch(text)
    if named and named[3] == "1" and not re.search(r"x\S+\^\d+$", named[2]):
        return BetaMap(file, 0, named[2], f"run-{named[1]}")
    if text:
        found.leave_out("SPM's regressors of no condition (movement, derivatives, modulators, constants)", text)
        return BetaMap(file, 0, NOT_A_CONDITION)
    return BetaMap(file)


@lru_cache(maxsize=64)
def _spm_names(folder: Path) -> tuple[str, ...]:
    """Names of all regressors; empty where there is no SPM.mat."""
    path = folder / "SPM.mat"
    return tuple(read_mat(path, ["SPM.xX.name"])) if path.is_file() else ()


# ----------------------------------------------------------------------------------------------------------------- FSL


def _fsl_map(file: Path, number: int, found: Found) -> BetaMap:
    """A contrast of parameter estimates of FSL, named by design.con of its folder, or design.lev of a group's."""
    feat = file.parent.parent if file.parent.name == "stats" else file.parent
    run = _run_of(file) or next((p.name for p in (feat, *feat.parents) if re.search(r"run-?\d+", p.name)), feat.name)
    run = (re.search(r"run-?\d+", run) or [run])[0]
    if feat.parent.suffix == ".gfeat" and (feat / "design.lev").is_file():
        with readable(feat / "design.lev", "text file"):
            return BetaMap(file, 0, (feat / "design.lev").read_text(encoding="utf-8").strip(), feat.parent.stem)
    contrasts = _fsl_contrasts(feat)
    if not contrasts:
        return BetaMap(file, 0, "", run)
    if number not in contrasts:
        raise InputError(
            f"{file}: is contrast {number}, but {feat / 'design.con'} has {len(contrasts)}; give a table of "
            "`conditions`"
        )
    name, n_weights = contrasts[number]
    if n_weights > 1:
        found.leave_out("contrasts of several regressors", name)
        name = NOT_A_CONDITION
    return BetaMap(file, 0, name, run)


@lru_cache(maxsize=64)
def _fsl_contrasts(feat: Path) -> dict[int, tuple[str, int]]:
    """Name of each contrast, and how many regressors it has weights of; empty where there is no design.con."""
    path = feat / "design.con"
    if not path.is_file():
        return {}
    with readable(path, "text file"):
        text = path.read_text(encoding="utf-8")
        names = {int(n): name.strip() for n, name in re.findall(r"^/ContrastName(\d+)[ \t]+(.*)$", text, re.MULTILINE)}
        rows = [line.split() for line in text.partition("/Matrix")[2].splitlines() if line.strip()]
        weights = [sum(float(value) != 0 for value in row) for row in rows]
    return {n: (names[n], weights[n - 1] if n <= len(weights) else 1) for n in names}


# ---------------------------------------------------------------------------------------------------------------- AFNI


def _afni_maps(file: Path, labels: Sequence[str], run: str, found: Found) -> list[BetaMap]:
    maps = []
    for index, label in enumerate(labels):
        named = _AFNI_COEFFICIENT.fullmatch(label)
        if not named:
            found.leave_out("AFNI's statistics", label)
        maps.append(BetaMap(file, index, named[1] if named else NOT_A_CONDITION, run))
    return maps


# ----------------------------------------------------------------------------------------------------------- GLMsingle


def _glmsingle_maps(file: Path, n_trials: int) -> list[BetaMap]:
    """Trials, each with the number of its condition in the design, if there is one; a table can stand in for it."""
    order, per_run = glmsingle.read_design(file.parent)
    if order is None:
        return [BetaMap(file, i) for i in range(n_trials)]
    if len(order) != n_trials:
        raise InputError(
            f"{file}: holds {n_trials} trials, but the design beside it {len(order)}; give the two of one analysis"
        )
    runs = np.repeat(np.arange(1, len(per_run) + 1), per_run) if sum(per_run) == n_trials else np.ones(n_trials, int)
    return [BetaMap(file, i, str(order[i]), f"run-{runs[i]}") for i in range(n_trials)]
