"""dnn2brain: which tasks explain the visual cortex? The library behind the four figure scripts and the commands."""

import atexit
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

__version__ = "0.1.0"
ENDED: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class InputError(ValueError):
    """Something that the user handed in cannot be used.

    The message is one line that names what was found and where, what was expected, and what to do.
    The command line prints it to stderr and exits with status 2.
    """


def say_ended(number: int) -> int:
    """Say in one line that a signal has ended the command, and return the status to end with, 128 and its number."""
    advice = "run the same command again, which goes on from what is kept"
    print(f"\n{ENDED[number]}: earlier results are unchanged; {advice}", file=sys.stderr, flush=True)
    return 128 + number


def _end_in_one_line() -> None:
    """Let signals end a command in one line while it loads its packages, which takes seconds.

    Then nothing is written yet, and nothing to be cleaned up. `utils.cli.command.execute` takes over from there. In any
    other program that imports this package, signals stay as they are.
    """
    main = Path(getattr(sys.modules["__main__"], "__file__", None) or "/")
    ours = main.resolve().parent == Path(__file__).resolve().parents[1] or main.name.startswith("dnn2brain-")
    if sys.argv[:1] == ["-m"] or ours:
        for number in ENDED:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, lambda number, _: os._exit(say_ended(number)))


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


_end_in_one_line()
_keep_compiled_code()
