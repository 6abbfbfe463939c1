"""Spaces: what the millimetres of a volume are coordinates of, as names and headers of files say it.

A space is a text, as in the entity `space-` of BIDS: "MNI152NLin2009cAsym", "T1w". Where a volume has no such name, the
code of its transform (sform, else qform) gives one: `_CODES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils import InputError
from utils.io.readers import readable

MNI, UNKNOWN = "MNI", "unknown"
# Names of the transform codes of NIfTI, those that say most first.
_CODES = {4: MNI, 3: "Talairach", 5: "template", 2: "aligned", 1: "scanner", 0: UNKNOWN}
_MEANING = {
    "Talairach": "the header says Talairach space (code 3)",
    "template": "the header says the space of a template (code 5)",
    "aligned": "the header says no more than that they are aligned with another image (code 2)",
    "scanner": "the header says scanner space (code 1)",
    UNKNOWN: "nothing says what their coordinates are (no transform in a header, or no space in geometry.npz)",
}
_ENTITY = re.compile(r"(?:^|[_/])space-([A-Za-z0-9]+)")
# Templates that lie in MNI space under another name; that of infants has another size.
_ALSO_MNI = ("ICBM152", "ICBM452", "IXI549SPACE")


def is_mni(space: str) -> bool:
    """Whether coordinates are those of MNI space, up to the few millimetres by which its templates differ."""
    name = space.upper()
    return name.startswith((MNI, *_ALSO_MNI)) and not name.startswith("MNIINFANT")


def space_name(text: str) -> str:
    """A space as given by a user, checked.

    Raises
    ------
    InputError
        If it could not be an entity of BIDS.
    """
    name = text.removeprefix("space-")
    if not re.fullmatch("[A-Za-z0-9]+", name):
        raise InputError(f"'{text}' is no name of a space, expected letters and digits such as MNI152NLin2009cAsym")
    return name


def describe(space: str) -> str | None:
    """What a header says, where that is all that is known of a space; None for one with a name."""
    return _MEANING.get(space)


def reference(space: str) -> str:
    """`SpatialReference` of BIDS."""
    if space == MNI:
        return "MNI152 space of the input images; the affine in the header says where the voxels lie"
    if space in _MEANING:
        return f"space of the input images ({space}); the affine in the header says where the voxels lie"
    return space


def read_space(paths: Iterable[Path]) -> str:
    """Space of volumes on one grid.

    Names count more than headers. Programs that write data in MNI space often leave code 1 or 2 in the header, none
    writes 4 into data elsewhere: of several codes, the one that says most holds.

    Parameters
    ----------
    paths : iterable of Path
        NIfTI images; files in other formats only count by their names.

    Returns
    -------
    str

    Raises
    ------
    InputError
        If their names are of different spaces, or a file is not readable.
    """
    paths = list(paths)
    named = spaces_in_names(paths)
    if len(named) > 1:
        (one, first), (other, second) = list(named.items())[:2]
        raise InputError(
            f"{first}: is in space {one}, but {second} in space {other}, as their names say; bring all to one space"
        )
    return next(iter(named), "") or _most_telling(paths)


def spaces_in_names(paths: Iterable[Path]) -> dict[str, Path]:
    """Spaces that names of files say (space-...), each with the first file that says it."""
    named: dict[str, Path] = {}
    for path in paths:
        if found := _ENTITY.findall(path.name):
            named.setdefault(found[-1], path)
    return named


def _most_telling(paths: Iterable[Path]) -> str:
    found = {_space_in_header(path) for path in paths if re.search(r"\.nii(\.gz)?$", path.name)}
    named = sorted(found - {*_CODES.values()})
    return named[0] if named else next((name for name in _CODES.values() if name in found), UNKNOWN)


def _space_in_header(path: Path) -> str:
    """The space that `write_space` put into a header, else the name of its code."""
    import nibabel as nib
    from nibabel.spatialimages import SpatialImage

    with readable(path, "NIfTI image"):
        image: Any = nib.load(path)
    if not isinstance(image, SpatialImage):  # such as CIFTI: no volume
        return UNKNOWN
    header: Any = image.header
    noted = _ENTITY.match(bytes(header["descrip"]).decode("latin-1"))
    code = int(header["sform_code"]) or int(header["qform_code"])
    return noted[1] if noted and _code(noted[1]) == code else _CODES.get(code, UNKNOWN)


def write_space(image: Any, space: str) -> None:
    """Write a space into the header of a NIfTI image: as the code of both transforms, and by name.

    Parameters
    ----------
    image : nibabel.Nifti1Image
    space : str
    """
    import numpy as np

    affine, code = image.affine, _code(space)
    if code == 0 and not np.allclose(image.header.get_base_affine(), affine):
        code = 2  # without a code, a reader would put the voxels elsewhere
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    if space not in _CODES.values():
        image.header["descrip"] = f"space-{space}"


def _code(space: str) -> int:
    """Code of the transform to a space."""
    return 4 if is_mni(space) else next((code for code, name in _CODES.items() if name == space), 2)
