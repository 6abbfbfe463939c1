"""HTML pages, from the templates beside this module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_page(path: str | Path, template: str, **content: Any) -> None:
    """Fill a template and write the page, in UTF-8; text is escaped, except what the template marks as safe.

    Parameters
    ----------
    path : path-like
        The file to write.
    template : str
        Name of a file in `utils/plotting`.
    **content
        What the template names.
    """
    Path(path).write_text(_TEMPLATES.get_template(template).render(content), encoding="utf-8")
