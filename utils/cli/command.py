"""What all commands share at the shell: one-line errors, warnings, progress bars, devices and workers."""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from utils import InputError, __version__, say_ended
from utils.parallel.resources import Progress
from utils.parallel.threads import available_cores

if TYPE_CHECKING:
    from utils.parallel.dask_workers import Workers


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults where there are any, and keeps the line breaks of the description."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False, []) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Argument parser with one-line errors, defaults in its help, no abbreviations, and `--version`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": Help, "allow_abbrev": False, **settings})
        self.add_argument("--version", action="version", version=f"dnn2brain {__version__}", help="show the version")

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {message} (see --help)", file=sys.stderr)
        sys.exit(2)

    def flags(self) -> dict[str, str]:
        """The flag of every option, by its name as an argument: "min_voxels" is --min-voxels."""
        flags: dict[str, str] = {}
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    flags |= parser.flags()
            if action.option_strings:
                flags[action.dest] = action.option_strings[0]
        return flags


def add_threads_option(group: argparse._ArgumentGroup, *other_spellings: str) -> None:
    """`--threads`: how much of this machine to use."""
    group.add_argument("--threads", *other_spellings, type=positive, metavar="N", default=available_cores(),
                       help="number of CPU cores to use; SLURM or OMP_NUM_THREADS may allow fewer than the machine "
                            "has")  # fmt: skip


def add_dask_option(group: argparse._ArgumentGroup) -> None:
    """`--dask`: which workers to use, see `workers`."""
    group.add_argument("--dask", type=_dask_address, metavar="ADDRESS", default=None,
                       help="compute on Dask workers: local:N starts N processes on this machine, tcp://HOST:PORT is "
                            "a running scheduler, FILE is what `dask scheduler --scheduler-file` wrote; see the "
                            "README, On a cluster")  # fmt: skip


def positive(text: str) -> int:
    """Whole number from 1 on, for parsers."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}', expected a whole number from 1 on")
    return int(text)


def _dask_address(text: str) -> str:
    from utils.parallel.dask_workers import local_workers

    try:
        local_workers(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def size(text: str) -> int:
    """Bytes from a text such as 500MB (10^6 bytes each) or 2GiB (2^30 bytes each), for parsers."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?", text.strip().lower())
    base = 1024 if found and found[3] else 1000
    if not found or (n := int(float(found[1]) * base ** " kmgt".index(found[2] or " "))) < 10**7:
        raise argparse.ArgumentTypeError(f"'{text}', expected a size of at least 10MB, such as 500MB or 2GiB")
    return n


def execute(
    main: Callable[[], None], parser: Parser, on_warning: Callable[[str], None] = lambda line: None
) -> NoReturn:
    """Run a command to its end: bad input gives one line on stderr and status 2, an interruption status 130.

    SIGTERM, which ends a job whose time is up, is an interruption with status 143. Characters that the terminal or log
    file cannot show are replaced. Figures are never shown in windows, whatever backend the environment asks for.

    Where whoever reads the output has closed it, as `head` does, the command ends with status 1 and without a word.

    The library speaks of arguments, as `min_voxels`; here they become flags, --min-voxels.

    Parameters
    ----------
    main : callable
    parser : Parser
        Knows the flags.
    on_warning : callable, optional
        Called with the text of every warning.
    """
    flags = parser.flags()

    def translated(message: object) -> str:
        return re.sub("`([a-z_]+)`", lambda found: flags.get(found[1], found[0]), str(message))

    def show(message: object, *_: object, **__: object) -> None:
        on_warning(translated(message))
        print(f"warning: {translated(message)}", file=sys.stderr, flush=True)

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    os.environ["MPLBACKEND"] = "agg"
    with warnings.catch_warnings(), _ended_by_signals():
        warnings.showwarning = show
        try:
            main()
            sys.stdout.flush()
        except BrokenPipeError:
            # What is left in the buffer would be an error again when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except InputError as error:
            print(f"error: {translated(error)}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            # Where the interrupt came while a package ran a text as code, as dataclasses do, CPython would end by the
            # signal itself, although it was caught here, unless another text has run since.
            exec("")
            sys.exit(say_ended(signal.SIGINT))
    sys.exit(0)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the command in such a way that it cleans up behind itself."""

    def end(number: int, _: object) -> NoReturn:
        sys.exit(say_ended(number))

    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: end}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def warn(message: str) -> None:
    """Warn of something that concerns the whole command."""
    warnings.warn(message, stacklevel=2)


@contextmanager
def progress(title: str, options: argparse.Namespace) -> Iterator[Progress]:
    """Progress bar on stderr, unless --quiet or nobody is at a terminal; yields a function of (done, in all)."""
    from tqdm import tqdm

    # With None, tqdm shows the bar only at a terminal.
    with tqdm(desc=title, disable=True if options.quiet else None, leave=False, dynamic_ncols=True) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance


def choose_device(options: argparse.Namespace) -> str:
    """The device to compute on, "cpu" or "cuda": a GPU if there is one, a CPU where Dask workers compute.

    Raises
    ------
    InputError
        If a GPU is asked for and there is none.
    """
    import torch

    if options.device == "cpu" or vars(options).get("dask"):
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if options.device == "cuda":
        raise InputError("--device cuda: torch finds no CUDA GPU on this machine; use --device cpu or auto")
    return "cpu"


@contextmanager
def workers(options: argparse.Namespace) -> Iterator[Workers | None]:
    """Workers of --dask for the time of a `with` block; None without that option."""
    if options.dask is None:
        yield None
        return
    from utils.parallel.dask_workers import connect, local_workers

    n_local = local_workers(options.dask)
    with connect(options.dask, max(1, options.threads // n_local) if n_local else None) as connected:
        yield connected
