"""What the documents and the packaging say exists, exists."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest

from utils import activations, rois, searchlight
from utils.cli.options import figure_parser

HOME = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    HOME / name
    for name in ("README.md", "CONTRIBUTING.md", "data/README.md", "docs/METHODS.md", "docs/VALIDATION.md",
                 "docs/PERFORMANCE.md", "docs/REAL_DATA.md")
]  # fmt: skip
COMMANDS = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]


def prose(document: Path) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def requirements(name: str) -> set[str]:
    lines = (HOME / name).read_text(encoding="utf-8").splitlines()
    found = (re.match(r"[\w.-]+", line) for line in lines if not line.startswith(("#", "-")))
    return {re.sub(r"[-_.]+", "-", match[0]).lower() for match in found if match}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document):
    targets = re.findall(r"\]\(([^)#\s]+)", prose(document))
    missing = [target for target in targets if "://" not in target and not (document.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_modules_exist(document):
    named = re.findall(r"`((?:utils|models|tests|figures|docs)/[\w/]+(?:\.\w+|/))`", prose(document))
    generated = {"docs/_build/"}
    assert not [name for name in named if not (HOME / name).exists() and name not in generated]


def test_functions_named_in_the_methods_exist():
    names = re.findall(r"`((?:stats|analysis|datasets|rdms|rdm)\.[\w.]+)`", prose(HOME / "docs" / "METHODS.md"))
    assert len(names) > 20
    for name in names:
        parts = name.split(".")
        depth = 1 if parts[0] == "rdm" else 2
        value = importlib.import_module(".".join(["utils", *parts[:depth]]))
        for part in parts[depth:]:
            assert hasattr(value, part), name
            value = getattr(value, part)


def test_blocks_of_python_in_the_documents_import_what_exists():
    text = "\n".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    imports = set(re.findall(r"^from (utils[\w.]*) import (.+)$", text, flags=re.MULTILINE))
    assert len(imports) > 5
    for module, names in imports:
        assert not [name for name in names.split(", ") if not hasattr(importlib.import_module(module), name)]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_have_an_entry_point(command):
    module, function = COMMANDS[command].split(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_every_requirement_has_a_tested_version():
    needed = set().union(*(requirements(path.name) for path in HOME.glob("requirements*.txt")))
    assert needed - requirements("constraints.txt") == set()


def test_options_in_the_readme_are_known():
    """Among them those of the published scripts."""
    parsers = [
        *(figure_parser("Fig1", kind, "") for kind in ("searchlight", "roi")),
        *(command._parser() for command in (activations, rois, searchlight)),
    ]
    known = " ".join(parser.format_help() for parser in parsers)
    options = re.findall(r"`(--[\w-]+|-np|-stats|-bs_ratio)`", prose(HOME / "README.md"))
    assert len(options) > 10
    assert not [option for option in options if option not in known and option != "--help"]


@pytest.mark.parametrize("name", sorted(path.stem for path in (HOME / "benchmarks").glob("bench_*.py")))
def test_benchmarks_import_what_there_is(name):
    """They are run by hand: that a name is gone from the library must not be noticed only then."""
    importlib.import_module(f"benchmarks.{name}")
