"""Where the checkpoints of the Taskonomy networks are published, and their download."""

from __future__ import annotations

from pathlib import Path

from models.tasks import Task
from utils.io.download import download
from utils.parallel.resources import Progress

# Source: TASKONOMY_PRETRAINED_WEIGHT_URL_TEMPLATE of the `visualpriors` package, version 0.3.5.
WEIGHTS = "https://github.com/alexsax/visual-prior/raw/networks/assets/pytorch"


def hub_folder() -> Path:
    """Folder in which torch hub keeps checkpoints.

    Returns
    -------
    Path
        ``$TORCH_HOME/hub/checkpoints``, by default in ``~/.cache/torch``. It may not exist yet.
    """
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


def checkpoint_address(task: Task, base: str = WEIGHTS) -> str:
    """Address of the checkpoint of a task.

    Parameters
    ----------
    task : Task
        One that has a checkpoint.
    base : str
        Address of the folder of the checkpoints.

    Returns
    -------
    str
    """
    return f"{base.rstrip('/')}/{task.checkpoint}"


def fetch_checkpoint(task: Task, folder: Path, base: str = WEIGHTS, progress: Progress | None = None) -> Path:
    """Download the checkpoint of a task, unless it is there, and verify it.

    Parameters
    ----------
    task : Task
        One that has a checkpoint.
    folder : Path
    base : str
        Address of the folder of the checkpoints.
    progress : callable, optional
        Called with (bytes done, bytes in total).

    Returns
    -------
    Path

    Raises
    ------
    InputError
        As `download`.
    """
    path = folder / str(task.checkpoint)
    # torch.hub.download_url_to_file waits forever for a stalled server, and does not resume or verify existing files.
    download(checkpoint_address(task, base), path, task.sha256, progress=progress)
    return path
