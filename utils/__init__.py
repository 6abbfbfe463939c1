"""dnn2brain: which tasks explain the visual cortex? The library behind the four figure scripts and the commands."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

__version__ = "0.1.0"


class InputError(ValueError):
    """Something that the user handed in cannot be used.

    The message is one line that names what was found and where, what was expected, and what to do.
    The command line prints it to stderr and exits with status 2.
    """


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _keep_compiled_code() -> None:
    """Give numba a place for compiled code where it finds none: it refuses to be used then.

    In a read-only installation without a home folder, code is compiled anew by every process. A fixed name in the
    folder of temporary files would let other users of the machine put code there.
    """
    beside, home = Path(__file__).parent / "stats" / "__pycache__", Path("~/.cache").expanduser()
    users = Path(os.environ.get("XDG_CACHE_HOME") or home)
    if "NUMBA_CACHE_DIR" not in os.environ and not _can_write(beside) and not _can_write(users / "numba"):
        os.environ["NUMBA_CACHE_DIR"] = folder = tempfile.mkdtemp(prefix="dnn2brain-numba-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


_keep_compiled_code()
