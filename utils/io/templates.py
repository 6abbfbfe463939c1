"""Pages and texts from templates: one Jinja2 environment for the report, the methods section and the brain map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def render(template: str, **values: Any) -> str:
    """Fill a template file.

    Parameters
    ----------
    template : str
        File below `utils/`, such as "reporting/report.html". Values are escaped in files that end in ".html".
    **values
        What the template refers to. Filters beside those of Jinja2: `thousands` (12,345), `in_words` (three),
        `counted("layer")` (three layers) and `listed` (a, b and c).

    Returns
    -------
    str

    Raises
    ------
    jinja2.UndefinedError
        If the template refers to a value that is not given.
    """
    return _environment.get_template(template).render(values)


def render_text(text: str, **values: Any) -> str:
    """Fill a template that is given as plain text; nothing is escaped. Otherwise like `render`."""
    return _environment.from_string(text).render(values)


def in_words(number: int) -> str:
    """A number as it stands in a sentence: small ones in words, others with commas."""
    return _WORDS[number] if number < len(_WORDS) else f"{number:,}"


def _counted(number: int, noun: str) -> str:
    return f"{in_words(number)} {noun}" + ("" if number == 1 else "s")


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1]),
    autoescape=select_autoescape(["html"], default_for_string=False),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters.update(thousands="{:,}".format, in_words=in_words, counted=_counted, listed=_listed)
# Objects keep their order, and large pages no blanks; `tojson` escapes what could end a script element.
_environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
