"""Where the parts of a data set lie, in either layout.

The names of all files stand in `utils.io.data_folder`: `DataFolder` and `SearchlightFolder`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.io.data_folder import RELEASE, DataFolder, SearchlightFolder
from utils.io.readers import read_conditions, read_pairs
from utils.io.spaces import MNI
from utils.rdm import Pairs
from utils.rdms.atlas import brings_names
from utils.rdms.stimuli import few

Kind = Literal["searchlight", "roi"]


@dataclass(frozen=True)
class Sources:
    """Where the parts of a data set lie.

    Attributes
    ----------
    dnn_rdms, fmri_rdms : Path
        Folders of RDMs; for searchlights also the published file itself.
    models : Path or None
        Table of models; None for the built-in Taskonomy networks.
    mask, roi_labels : Path or None
        None where the data set has none and the figure can do without; no mask also where the searchlight RDMs bring
        their geometry and no mask was asked for.
    atlas : tuple of Path
        One file, one per hemisphere, or none.
    conditions, fmri_conditions : Path or None
        Names of the conditions of the model RDMs and of the fMRI RDMs: the same file unless they lie in two folders.
    published : bool
        Whether everything is in the layout of the release.
    simulated : bool
        Whether any part comes from the built-in example.
    pairs : Path or None
        Which pairs of conditions count; None for all. Conditions are in the order of the model RDMs, or of the fMRI
        RDMs where the file lies beside these alone.
    space : str or None
        Space of the volumes: as given, or MNI space for the release and the example; None where the volumes themselves
        have to say it.
    surface : Path or None
        Folder with the meshes that data of vertices are of.
    """

    dnn_rdms: Path
    fmri_rdms: Path
    models: Path | None
    mask: Path | None
    roi_labels: Path | None
    atlas: tuple[Path, ...]
    conditions: Path | None
    fmri_conditions: Path | None
    published: bool
    simulated: bool
    space: str | None = None
    pairs: Path | None = None
    surface: Path | None = None

    def fmri_order(self) -> NDArray[np.int64] | None:
        """What brings the conditions of fMRI RDMs into the order of the model RDMs, by their names.

        Returns
        -------
        ndarray of int64, shape (n_conditions,), or None
            Which condition of the fMRI RDMs stands at each position; None where names are missing or in one order.

        Raises
        ------
        InputError
            If the two are not of the same conditions.
        """
        if self.conditions is None or self.fmri_conditions is None or self.conditions == self.fmri_conditions:
            return None
        wanted, found = read_conditions(self.conditions), read_conditions(self.fmri_conditions)
        if wanted == found:
            return None
        only = [[name for name in one if name not in other] for one, other in ((found, wanted), (wanted, found))]
        if any(only):
            differences = [f"names {few(names)}" * bool(names) for names in only]
            raise InputError(
                f"{self.fmri_conditions}: {differences[0] or 'lacks conditions'}, expected the conditions of "
                f"{self.conditions}{', which ' * bool(differences[1])}{differences[1]}; both must be of the same "
                "conditions"
            )
        warnings.warn(
            f"{self.fmri_conditions}: conditions are in another order than in {self.conditions}; fMRI RDMs are put "
            "into that order, by their names",
            stacklevel=3,
        )
        position = {name: number for number, name in enumerate(found)}
        return np.array([position[name] for name in wanted])


def holds_release(folder: Path) -> bool:
    """Whether the published release lies in a folder."""
    return (folder / RELEASE["dnn_rdms"]).is_dir()


def locate(
    kind: Kind,
    data: Path,
    *,
    dnn_rdms: Path | None = None,
    fmri_rdms: Path | None = None,
    mask: Path | None = None,
    roi_labels: Path | None = None,
    atlas: Sequence[Path] | None = None,
    space: str | None = None,
    pairs: Path | None = None,
) -> Sources:
    """Find the parts of a data set.

    Parameters
    ----------
    kind : {"searchlight", "roi"}
        What the figure needs.
    data : Path
        Data folder in either layout.
    dnn_rdms, fmri_rdms, mask, roi_labels : Path, optional
        Parts that lie elsewhere.
    atlas : sequence of Path, optional
        The same: one file, or one per hemisphere.
    space : str, optional
        Space of the volumes: see `utils.io.spaces`.
    pairs : Path, optional
        Which pairs count, if that does not stand in one of the data folders.

    Returns
    -------
    Sources

    Raises
    ------
    InputError
        One message with everything that is missing.
    """
    given = {"dnn_rdms": [dnn_rdms], "fmri_rdms": [fmri_rdms], "mask": [mask], "roi_labels": [roi_labels]}
    given |= {"atlas": [*(atlas or ())], "pairs": [pairs]}
    missing = [
        f"{path} (given as `{name}`)" for name, paths in given.items() for path in paths if path and not path.exists()
    ]
    if not data.is_dir() and not (dnn_rdms and fmri_rdms):
        raise InputError(f"data folder {data} does not exist: give one in the layout of data/README.md as `data`")
    folder = DataFolder(data)

    def find(part: str, path: Path | None, required: bool) -> Path | None:
        found = path or folder.find(part)
        if found is None and required:
            missing.append(" or ".join(map(str, folder.candidates(part))))
        return found

    dnn = find("dnn_rdms", dnn_rdms, required=True)
    fmri = find("searchlight_rdms" if kind == "searchlight" else "roi_rdms", fmri_rdms, required=True)
    if kind == "searchlight" and not (fmri and SearchlightFolder(fmri).geometry.exists()):
        mask = find("mask", mask, required=fmri is not None)
    # The table of the folder's ROI RDMs need not be that of an atlas that only names regions.
    if kind == "roi" or roi_labels or not (atlas and brings_names(atlas)):
        roi_labels = find("roi_labels", roi_labels, required=kind == "roi")
    in_folder = folder.find_atlas() if roi_labels else []
    if missing:
        raise InputError(
            f"{len(missing)} part(s) of the data are missing: {'; '.join(missing)}; "
            "see data/README.md for the layout and for how to get the published release"
        )
    assert dnn is not None and fmri is not None
    table = folder.find("models") or DataFolder(dnn.parent).find("models")
    released = fmri.name in RELEASE.values() or fmri.parent.name in RELEASE.values()
    simulated = any(DataFolder(part.parent).truth.exists() for part in (dnn, fmri))
    return Sources(
        dnn_rdms=dnn,
        fmri_rdms=fmri,
        models=table,
        mask=mask,
        roi_labels=roi_labels,
        atlas=tuple(atlas or in_folder),
        conditions=_beside(dnn, "conditions") or folder.find("conditions"),
        fmri_conditions=_beside(fmri, "conditions") or folder.find("conditions"),
        published=table is None and fmri.name in RELEASE.values(),
        simulated=simulated,
        space=space or (MNI if released or simulated else None),
        pairs=pairs or folder.find("pairs") or _beside(dnn, "pairs") or _beside(fmri, "pairs"),
        surface=_beside(fmri, "surface"),
    )


def _data_folder_of(rdms: Path) -> Path:
    """The data folder that RDMs lie in, or whose file of RDMs was given itself."""
    return (rdms.parent if rdms.is_file() else rdms).parent


def _beside(rdms: Path, part: str) -> Path | None:
    """A part of that folder, if it has it."""
    return DataFolder(_data_folder_of(rdms)).find(part)


def load_pairs(sources: Sources) -> Pairs | None:
    """Read which pairs of conditions count.

    Parameters
    ----------
    sources : Sources

    Returns
    -------
    Pairs or None
        In the order of the model RDMs; None if nothing says that some do not.

    Raises
    ------
    InputError
        As `utils.io.readers.read_pairs`.
    """
    if sources.pairs is None:
        return None
    pairs, folder = read_pairs(sources.pairs), sources.pairs.parent
    with_brain_only = folder == _data_folder_of(sources.fmri_rdms) != _data_folder_of(sources.dnn_rdms)
    if with_brain_only and (order := sources.fmri_order()) is not None:
        if len(order) != pairs.n_conditions:
            raise InputError(
                f"{sources.pairs}: is of {pairs.n_conditions} conditions, expected {len(order)} as in "
                f"{sources.fmri_conditions}"
            )
        return pairs.reordered(order)
    return pairs


def words_in(text: str, name: str) -> list[tuple[int, int]]:
    """Where a name stands in a text as whole words, which end where letters and digits do.

    Parameters
    ----------
    text, name : str
        Any run of other characters in the one matches any in the other.

    Returns
    -------
    list of (int, int)
        Start and end of each occurrence.
    """
    words = re.findall(r"[^\W_]+", name)
    pattern = r"(?<![^\W_])" + r"[\W_]+".join(map(re.escape, words)) + r"(?![^\W_])"
    return [found.span() for found in re.finditer(pattern, text)] if words else []


def longest_names(text: str, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Names that stand in a text as whole words, but for those that are part of a longer one there.

    Parameters
    ----------
    text : str
    names : sequence of str

    Returns
    -------
    dict of str to (int, int)
        Start and end of the first occurrence of each name.
    """
    places = [(name, start, end) for name in names for start, end in words_in(text, name)]
    own = [
        (name, start, end)
        for name, start, end in places
        if not any(low <= start and end <= high and high - low > end - start for _, low, high in places)
    ]
    return {name: (start, end) for name, start, end in reversed(own)}
