"""Model RDMs, and the table of models."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.tasks import BASELINE, TASK_LAYERS, TASKS, Model, group_names
from utils import InputError
from utils.datasets.layout import Sources, load_pairs, longest_names, words_in
from utils.io.readers import check_n_conditions, check_unique, choose, read_conditions, read_rdms, read_table
from utils.rdm import Pairs, n_conditions_of

# Variance partitioning has a part for every subset of the groups.
MOST_GROUPS = 10


@dataclass(frozen=True)
class ModelRdms:
    """Model RDMs: `rdms` is float64 of shape (n_models, n_layers, n_pairs), in the order of `models` and `layers`.

    Where any model differs between people, it is (n_models, n_layers, n_people, n_pairs), and models that do not have
    the same RDM for everyone. `table` holds all networks that `models` were chosen from: their colours depend on it.
    `nuisance`, (n_nuisance, n_pairs) or None, are RDMs of no interest, beside which the models are looked at. `pairs`
    are those that count, which all RDMs are restricted to, or None for all.
    """

    models: list[Model]
    layers: list[str]
    rdms: NDArray[np.float64]
    table: Sequence[Model] = ()
    nuisance: NDArray[np.float64] | None = None
    pairs: Pairs | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", self.table or self.models)

    @property
    def n_conditions(self) -> int:
        """Number of conditions."""
        return n_conditions_of(self.rdms.shape[-1]) if self.pairs is None else self.pairs.n_conditions

    @property
    def by_person(self) -> bool:
        """Whether models differ between people, so that each person's RDMs are regressed on that person's models."""
        return self.rdms.ndim == 4

    @property
    def n_people(self) -> int | None:
        """For how many people there are models; None where they are the same for everyone."""
        return self.rdms.shape[2] if self.by_person else None

    def of_people(self) -> list[ModelRdms]:
        """The models of each person; these alone where they are the same for everyone."""
        if not self.by_person:
            return [self]
        return [replace(self, rdms=rdms) for rdms in np.moveaxis(self.rdms, 2, 0)]

    def grouped(self) -> ModelRdms:
        """Groups of models instead of models: the mean RDM of each group, per layer, without the baseline.

        Raises
        ------
        InputError
            If fewer than two groups are left, or more than ten.
        """
        groups = [group for group in group_names(self.models) if group != BASELINE]
        if len(groups) < 2:
            raise InputError(
                f"the models form {len(groups)} group(s) besides the baseline, but variance can only be partitioned "
                "among two or more: give more groups in the `group` column of models.tsv"
            )
        if len(groups) > MOST_GROUPS:
            found, most = (f"{n} groups ({2**n - 1:,} parts of the variance)" for n in (len(groups), MOST_GROUPS))
            raise InputError(
                f"the models form {found} besides the baseline, expected at most {most}: give fewer in the `group` "
                "column of models.tsv, or choose models with --models"
            )
        members = [[i for i, model in enumerate(self.models) if model.group == group] for group in groups]
        return ModelRdms(
            models=[Model(group, group, group) for group in groups],
            layers=self.layers,
            rdms=np.stack([self.rdms[rows].mean(axis=0) for rows in members]),
            table=self.table,
            nuisance=self.nuisance,
            pairs=self.pairs,
        )


def load_models(
    sources: Sources,
    layers: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    nuisance: Sequence[Path] = (),
) -> ModelRdms:
    """Read and check the model RDMs.

    Parameters
    ----------
    sources : Sources
    layers : sequence of str, optional
        Layers to use, in this order; by default all that the files have.
    keys : sequence of str, optional
        Models to use; by default all of the table.
    nuisance : sequence of Path
        Files of nuisance RDMs, each of which holds one RDM or a stack.

    Returns
    -------
    ModelRdms

    Raises
    ------
    InputError
        For an unknown model, a missing or doubled layer, a file that does not hold RDMs, or files with the RDMs of
        different numbers of people.
    """
    known: list[Model] = list(TASKS) if sources.models is None else read_model_table(sources.models)
    table = [model.key for model in known]
    models = known if keys is None else choose(keys, known, table, "model")
    known_layers = list(layers) if layers else (list(TASK_LAYERS) if sources.models is None else None)
    files = _layer_files(sources.dnn_rdms, table, known_layers)
    chosen = {model.key for model in models}
    layers = known_layers or sorted({layer for key, layer in files if key in chosen}, key=_layer_position)
    _check_layer_files(files, [model.key for model in models], layers, sources.dnn_rdms)
    pairs = load_pairs(sources)
    rdms: list[NDArray[np.float64]] = []
    stacks: dict[Path, int] = {}  # files with an RDM for every person, and how many
    size = None
    for model in models:
        for layer in layers:
            path = files[model.key, layer][0]
            rdm = read_rdms(path, "rdm", f"model {model.key}, layer {layer}", pairs)
            size = size or rdm.shape[-1]
            if rdm.shape[-1] != size:
                raise InputError(
                    f"{path}: found {n_conditions_of(rdm.shape[-1])} conditions, expected {n_conditions_of(size)} as "
                    f"in {files[models[0].key, layers[0]][0].name}: all RDMs must be of the same conditions"
                )
            if rdm.ndim == 2:
                stacks[path] = len(rdm)
                first = next(iter(stacks))
                if len(rdm) != stacks[first]:
                    raise InputError(
                        f"{path}: found RDMs of {len(rdm)} people, expected {stacks[first]} as in {first.name}: one "
                        "for every person in the order of the brain RDMs, or a single (n, n) matrix for everyone"
                    )
            rdms.append(rdm)
    if stacks:
        n_people = next(iter(stacks.values()))
        rdms = [np.broadcast_to(rdm, (n_people, rdm.shape[-1])) for rdm in rdms]
    stacked = np.stack(rdms).reshape(len(models), len(layers), *rdms[0].shape)
    nuisances = _load_nuisance(nuisance, stacked.shape[-1], pairs)
    loaded = ModelRdms(models, layers, stacked, known, nuisances, None if pairs is None or pairs.kept.all() else pairs)
    if sources.conditions is not None:
        n_names = len(read_conditions(sources.conditions))
        if n_names != loaded.n_conditions:
            raise InputError(
                f"{sources.conditions}: names {n_names} conditions, but the model RDMs have {loaded.n_conditions}; "
                "both must be of the same conditions in the same order"
            )
    return loaded


def _load_nuisance(paths: Sequence[Path], n_pairs: int, pairs: Pairs | None) -> NDArray[np.float64] | None:
    """RDMs of no interest, (n_nuisance, n_pairs), from files in the forms of model RDMs; None without any."""
    found = []
    for path in paths:
        rdms = np.atleast_2d(read_rdms(path, "rdm", "nuisance", pairs))
        if pairs is None:
            check_n_conditions(path, rdms.shape[-1], n_conditions_of(n_pairs))
        constant = np.ptp(rdms, axis=1) == 0
        if constant.any():
            raise InputError(f"{path}: found a nuisance RDM with one value only, expected different dissimilarities")
        found.append(rdms)
    return np.concatenate(found) if found else None


def read_model_table(path: Path) -> list[Model]:
    """Read `models.tsv`: tab-separated columns key, label, group and optionally color.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of Model
        In the order of the table; `color` is empty where the table gives none.

    Raises
    ------
    InputError
        If columns are missing, a key occurs twice, a value is empty, or a colour is not ``#rrggbb``.
    """
    rows = read_table(path, "\t", ("key", "label", "group"))
    check_unique(path, [row["key"] for row in rows], "give every model one row")
    models = [Model(row["key"], row["label"], row["group"], row.get("color") or "") for row in rows]
    for model in models:
        if model.color and not re.fullmatch("#[0-9a-fA-F]{6}", model.color):
            raise InputError(
                f"{path}: model {model.key} has color '{model.color}', expected a hexadecimal one such as #0077BB"
            )
    return models


def _layer_position(layer: str) -> tuple[int, str]:
    return (TASK_LAYERS.index(layer) if layer in TASK_LAYERS else len(TASK_LAYERS), layer)


def _layer_files(folder: Path, table: Sequence[str], layers: list[str] | None) -> dict[tuple[str, str], list[Path]]:
    """Files of each (model, layer), named by whole words: ``class_places_...`` is never taken for ``class``.

    Where the layers are known, a name ends with one of them, and the key stands anywhere before it, as in
    ``taskonomy_class_places_feedforward_encoder_block4``. Otherwise the layer is all that follows the key.

    Raises
    ------
    InputError
        If a name holds the keys of two models.
    """
    files: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".mat", ".npy") or path.name.startswith("."):
            continue
        stem, layer = path.stem.strip(), ""
        if layers is not None:
            ends = {name: start for name in layers for start, end in words_in(stem, name) if end == len(stem)}
            layer = max(ends, key=len, default="")
            stem = stem[: ends[layer]] if layer else ""
        owner = _only_owner(path, stem, table, rest_needed=layers is None)
        if owner is None:
            continue
        key, end = owner
        files.setdefault((key, layer or stem[end:].lstrip(" _.-")), []).append(path)
    return files


def _only_owner(path: Path, stem: str, table: Sequence[str], *, rest_needed: bool) -> tuple[str, int] | None:
    """Model that a file is of, and where its key ends in the name; None if there is none."""
    owners = longest_names(stem, table)
    if rest_needed:
        owners = {key: place for key, place in owners.items() if stem[place[1] :].strip(" _.-")}
        # Behind a key at the start stands a layer, whatever it is called.
        owners = {key: place for key, place in owners.items() if place[0] == 0} or owners
    if len(owners) > 1:
        raise InputError(
            f"{path}: its name holds the keys of {len(owners)} models, {' and '.join(sorted(owners))}, expected one; "
            "rename it <model>_<layer>, or take one of them out of the table"
        )
    return next(((key, end) for key, (_, end) in owners.items()), None)


def _check_layer_files(
    files: dict[tuple[str, str], list[Path]], keys: Sequence[str], layers: Sequence[str], folder: Path
) -> None:
    if not layers:
        raise InputError(
            f"{folder}: no RDM file of any model found; expected <model>_<layer>.npy or .mat for {', '.join(keys)}"
        )
    missing = [f"{key} {layer}" for key in keys for layer in layers if (key, layer) not in files]
    if missing:
        raise InputError(
            f"{folder}: no RDM file for {len(missing)} of {len(keys) * len(layers)} (model, layer): "
            f"{', '.join(missing)}; expected <model>_<layer>.npy or .mat with layers {', '.join(layers)}; "
            "a layer that only some models have can be left out by `layers`, a model by `models`"
        )
    doubled = {pair: found for pair, found in files.items() if len(found) > 1 and pair[0] in keys and pair[1] in layers}
    if doubled:
        listing = "; ".join(
            f"{key} {layer}: {', '.join(path.name for path in found)}" for (key, layer), found in doubled.items()
        )
        raise InputError(f"{folder}: more than one RDM file for the same model and layer ({listing}); keep one of them")
