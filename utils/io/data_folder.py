"""Names of everything in a data folder, in both layouts (data/README.md).

`datasets.layout` finds things by these names, and `rdms`, which lies below it, writes files under them; so the names
themselves stand here, below both.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

# The published release. Its parts are recognised by these names, whatever folder they come in.
RELEASE = {
    "dnn_rdms": "RDM_taskonomy_bonner50",
    "roi_rdms": "kastner_ROIs_RDMs_pearson",
    "roi_labels": "ROIfiles_Labeling.txt",
    "searchlight_rdms": "sl_rad=1__max_blk_edge=2",
    "mask": "mask.nii",
}
RECORD = "run.json"
_CHECKOUT = Path(__file__).resolve().parents[2]


def default_data() -> Path:
    """Where data are kept unless another folder is named: data/ of the repository, or of the user if it is installed.

    Returns
    -------
    Path
        The example is its subfolder `example`.
    """
    if (_CHECKOUT / "data" / "README.md").is_file():
        return _CHECKOUT / "data"
    from pooch import os_cache

    return Path(os_cache("dnn2brain"))


class DataFolder:
    """Every path of a data folder.

    Attributes are the paths of the generic layout, which the commands write; `find` looks in both layouts.

    Parameters
    ----------
    root : Path
        The data folder, which need not exist.

    Attributes
    ----------
    dnn_rdms, roi_rdms, searchlight_rdms, activations : Path
        Folders; what is in `searchlight_rdms` is named by `SearchlightFolder`.
    models, conditions, roi_labels : Path
        Tables of models and ROIs, and the names of the conditions, one per line.
    pairs : Path
        Which pairs of conditions count.
    mask, atlas : Path
        Volumes; labels of vertices are named by `atlas_half`.
    surface : Path
        Folder of the meshes that data of vertices are of: see `SurfaceFolder`.
    truth : Path
        What is planted where; only the simulated example has it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dnn_rdms = root / "dnn_rdms"
        self.roi_rdms = root / "roi_rdms"
        self.searchlight_rdms = root / "searchlight_rdms"
        self.activations = root / "activations"
        self.models = root / "models.tsv"
        self.conditions = root / "conditions.txt"
        self.roi_labels = root / "roi_labels.csv"
        self.pairs = root / "pairs.npy"
        self.mask = root / "mask.nii.gz"
        self.atlas = root / "atlas.nii.gz"
        self.surface = root / "surface"
        self.truth = root / "truth.tsv"

    def dnn_rdm(self, model: str, layer: str) -> Path:
        """RDM of a layer of a network, (n, n); its record lies beside it, ending in .json."""
        return self.dnn_rdms / f"{model}_{layer}.npy"

    def roi_rdm(self, name: str) -> Path:
        """RDMs of an ROI, (n_subjects, n, n); `roi_of` gives the name back."""
        return self.roi_rdms / f"{_file_name(name)}.npy"

    def atlas_half(self, side: str) -> Path:
        """ROI labels of the vertices of one hemisphere, "left" or "right"."""
        return self.root / f"atlas_hemi-{side[0].upper()}.label.gii"

    def candidates(self, part: str) -> list[Path]:
        """Where a part (the name of an attribute) may lie, in order of preference: the release goes first."""
        generic: Path = getattr(self, part)
        released = [self.root / RELEASE[part]] if part in RELEASE else []
        uncompressed = [self.root / "atlas.nii"] if part == "atlas" else []
        return [*released, generic, *uncompressed]

    def find_atlas(self) -> list[Path]:
        """Files of the ROI atlas: labels of the vertices of each hemisphere, or a volume; none if there is none."""
        halves = [path for side in ("left", "right") if (path := self.atlas_half(side)).exists()]
        volume = self.find("atlas")
        return halves or ([volume] if volume else [])

    def find(self, part: str) -> Path | None:
        """The first of the `candidates` that exists."""
        return next((path for path in self.candidates(part) if path.exists()), None)


# What no file name may hold, on one system or another.
_UNSAFE = re.compile(r'[%/\\:*?"<>|\x00-\x1f]|^[.~-]|[. ]$')


def _file_name(name: str) -> str:
    """A name as that of a file: what no file name may hold is spelled as in addresses, V1/V2 as V1%2FV2."""
    return _UNSAFE.sub(lambda found: "".join(f"%{ord(character):02X}" for character in found[0]), name)


def roi_of(path: Path) -> str:
    """The ROI whose RDMs a file holds, by the file's name; blanks around it do not count, as in "hV4 .mat"."""
    return unquote(path.stem).strip()


class SurfaceFolder:
    """Meshes of data of vertices.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mesh(self, side: str) -> Path:
        """The mesh of one hemisphere, "left" or "right", along which distances are measured."""
        return self.folder / f"hemi-{side[0].upper()}_mesh.surf.gii"

    def inflated(self, side: str) -> Path:
        """The same vertices in a shape to draw, if there is one."""
        return self.folder / f"hemi-{side[0].upper()}_inflated.surf.gii"


class SearchlightFolder:
    """Every path of a folder of searchlight RDMs.

    Parameters
    ----------
    folder : Path
        The folder, or the file of the release in it.

    Attributes
    ----------
    geometry, noise_ceiling : Path
        Archives: the voxels that each searchlight stands for; lower and upper noise ceiling of each.
    released_rdms, released_ceiling : Path
        RDMs of all subjects and noise ceilings as the release has them.
    n_voxels, subjects_table : Path
        Smallest number of voxels of each searchlight, as a volume, and what was left out of each subject.
    """

    def __init__(self, folder: Path) -> None:
        self.released_rdms = folder if folder.is_file() else folder / "all_sub_slrdms.npy"
        self.folder = self.released_rdms.parent
        self.released_ceiling = self.folder / "noise_ceiling.pkl"
        self.noise_ceiling = self.folder / "noise_ceiling.npz"
        self.geometry = self.folder / "geometry.npz"
        self.n_voxels = self.folder / "n_voxels.nii.gz"
        self.subjects_table = self.folder / "subjects.tsv"

    def rdms(self, subject: str) -> Path:
        """Condensed RDMs of a subject, (n_searchlights, n_pairs)."""
        return self.folder / f"{subject}.npy"

    def n_voxels_of(self, subject: str) -> Path:
        """Number of voxels of each searchlight of a subject, as a volume."""
        return self.folder / "n_voxels" / f"{subject}.nii.gz"

    def all_rdms(self) -> list[Path]:
        """Files of all subjects that there are, in the order of their names."""
        return sorted(self.folder.glob("*.npy"))
