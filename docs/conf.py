"""Settings of Sphinx: `make docs` builds this site from the pages in Markdown and the docstrings."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils import __version__ as release  # noqa: E402

project = "dnn2brain"
author = "the dnn2brain authors"
copyright = f"2026, {author}"
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

html_theme = "furo"
html_title = f"dnn2brain {release}"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0077BB", "color-brand-content": "#0077BB"},
    "dark_css_variables": {"color-brand-primary": "#6FB7E3", "color-brand-content": "#6FB7E3"},
}
html_static_path = ["_static"]
html_css_files = ["wide_tables.css"]

# Markdown as GitHub reads it.
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3

# A page per module, with what it defines itself; the tree follows the folders.
autosummary_generate = True
autodoc_typehints = "none"
default_role = "py:obj"  # `name` in a docstring links to what is called so, if there is one
suppress_warnings = ["ref.python"]  # several modules may have a function of the same name
highlight_language = "none"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

# Pages that are files elsewhere in the repository, where GitHub shows them: their text, with links that hold here.
ELSEWHERE = {
    "readme": "README.md",
    "data": "data/README.md",
    "contributing": "CONTRIBUTING.md",
    "changelog": "CHANGELOG.md",
}
LINKS = {ROOT / path: f"{page}.md" for page, path in ELSEWHERE.items()}


def read_page(app, docname, source):
    """Take the text of pages from where they are, and turn GitHub's ways of writing into those of MyST."""
    path = ROOT / ELSEWHERE.get(docname, f"docs/{docname}.md")
    if path.suffix != ".md" or not path.exists():
        return
    app.env.note_dependency(str(path), docname=docname)
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"^\[!\[.*img\.shields\.io.*\n", "", text, flags=re.MULTILINE)  # badges
    text = re.sub(r"\$`(.+?)`\$", r"$\1$", text)  # GitHub's inline formulas
    source[0] = re.sub(r"(?<=\]\()([^)#\s]+)", lambda found: _link(found[1], path.parent), text)


def _link(target, folder):
    """Where a link of a page leads on the site; to files that are no pages, by their path in the repository."""
    file = (folder / target).resolve()
    if "://" in target or not file.exists():
        return target
    if file in LINKS:
        return LINKS[file]
    if file.parent == ROOT / "docs":
        return file.name
    return "/".join(("..", *file.relative_to(ROOT).parts))


def skip_foreign(app, what, name, obj, skip, options):
    """Leave out what a module imports from elsewhere, also where Sphinx cannot tell, as with `threading.Lock`."""
    module = getattr(obj, "__module__", None) or "utils"
    return True if callable(obj) and module.split(".")[0] not in ("utils", "models") else None


def show_commands(app, what, name, obj, options, lines):
    """Indented paragraphs of a module's docstring are command lines: show them as they are written."""
    if what != "module" or not obj.__doc__:
        return
    lines[:] = [*obj.__doc__.rstrip().splitlines(), ""]  # Sphinx has taken the indentation away
    for i in range(len(lines) - 1, 0, -1):
        if lines[i].startswith("  ") and not lines[i - 1] and not _inside(lines[:i]):
            lines[i:i] = ["::", ""]


def _inside(before):
    """Whether the last paragraph is indented too, so that a block goes on."""
    last = next((line for line in reversed(before) if line), "")
    return last.startswith("  ") or last.endswith("::")


def setup(app):
    app.connect("source-read", read_page)
    app.connect("autodoc-skip-member", skip_foreign)
    app.connect("autodoc-process-docstring", show_commands, priority=100)
