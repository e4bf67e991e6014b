"""How Sphinx makes the site (`./dev docs`). The pages are read on their own, too; what only Sphinx needs is done here.

Links that lead out of this folder become words, the stub stands in for the Rust module so that its docstrings are the
reference, and Markdown tables in docstrings become those of reStructuredText.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sphinx.util.nodes import make_refnode

if TYPE_CHECKING:
    from docutils.nodes import Element, TextElement
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

_PACKAGE = Path(__file__).parents[1] / "python" / "pgcdc"


class _StubLoader(SourceFileLoader):
    """Runs a stub as a module. In a stub names may be used before they are defined."""

    def source_to_code(self, data: Any, path: Any, **_: Any) -> Any:  # type: ignore[override]
        return compile(data, path, "exec", flags=annotations.compiler_flag, dont_inherit=True)


class _Stub(MetaPathFinder):
    """Finds the Rust module's stub in the place of the module: it has the docstrings and the types."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        if name != "pgcdc._pgoutput":
            return None
        file = str(_PACKAGE / "_pgoutput.pyi")
        return importlib.util.spec_from_file_location(name, file, loader=_StubLoader(name, file))


sys.dont_write_bytecode = True  # a cache of the stub would lie beside the module
sys.meta_path.insert(0, _Stub())
sys.path.insert(0, str(_PACKAGE.parent))

project = "pgcdc"
author = "the pgcdc developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "pgcdc"
html_copy_source = False
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(pgcdc\..*\.)?_?(Row|Own|Bound|State|Envelope|Declared)"),  # type variables
    # What the event store is made of, and no part of its interface.
    ("py:class", r"(pgcdc\.eventstore\..*\.)?(Codec|Statements|Reactor|AsyncEventStore)"),
    ("py:class", "ConsumerOptions"),  # imported for type checkers only
]
default_role = "code"  # docstrings are written as Markdown is: `so`
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Source", "notes_style")]
myst_heading_anchors = 3


def _links(_app: Sphinx, page: str, source: list[str]) -> None:
    """Files outside this folder are in the repository, not on the site."""
    outside = re.escape("../" * (page.count("/") + 1))
    source[0] = re.sub(rf"\[([^\]]+)\]\({outside}([^)]+)\)", r"\1 (`\2`)", source[0])


def _tables(_app: Sphinx, what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Markdown's tables as list-tables."""
    made: list[str] = []
    if what == "module":  # what a docstring says of its file is for those who change it
        lines[:] = [line for line in lines if not line.startswith("Over 400 lines")]
    lines[:] = [line.replace("\\", "\\\\") for line in lines]
    for number, line in enumerate(lines):
        if not line.startswith("|"):
            made.append(line)
            continue
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not lines[number - 1].startswith("|"):
            made += [".. list-table::", "   :header-rows: 1", ""]
        if set("".join(cells)) != {"-"}:
            made += [f"   {'*' if first else ' '} - {cell}" for cell, first in zip(cells, [True] + [False] * 99)]  # noqa: B905
        if number + 1 == len(lines) or not lines[number + 1].startswith("|"):
            made.append("")
    lines[:] = made


_COLON = "\ue000"


def _hide_colons(_app: Sphinx, what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Sphinx takes what stands before a colon for a type; here it is prose, because the signature has the types."""
    inside = what in ("property", "attribute", "data")
    for number, line in enumerate(lines):
        if re.match(r"\w+:$", line):
            inside = line in ("Returns:", "Yields:")
        elif inside:
            lines[number] = line.replace(": ", f"{_COLON} ")


def _show_colons(_app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    lines[:] = [line.replace(_COLON, ":") for line in lines]


def _short_signature(_app: Sphinx, *about: Any) -> tuple[str, str] | None:
    """Event, and not all that it is."""
    arguments, returns = about[-2:]
    return returns and (arguments, re.sub(r"~pgcdc\.events\.Begin \| .*?\.StreamPrepare", "~pgcdc.Event", returns))


def _reference(
    app: Sphinx, environment: BuildEnvironment, node: pending_xref, content: TextElement
) -> Element | TextElement | None:
    """A class is found by its last name."""
    target = str(node.get("reftarget", ""))
    if node.get("refdomain") != "py":
        return None
    objects = environment.domains.python_domain.objects
    name = target.rsplit(".", 1)[-1]
    for full, entry in objects.items():
        if full.rsplit(".", 1)[-1] == name and entry.objtype != "module":
            return make_refnode(app.builder, str(node["refdoc"]), entry.docname, entry.node_id, content, full)
    return content if _is_elsewhere(target) else None


def _is_elsewhere(target: str) -> bool:
    """Whether a name is one of the standard library's or msgspec's, which are only written; all others must be here."""
    module, _, name = target.rpartition(".")
    usual = ("builtins", "typing", "collections.abc", "datetime", "decimal", "types", "msgspec")
    places = [module] if module else usual
    return not target.startswith("pgcdc") and any(hasattr(importlib.import_module(place), name) for place in places)


def setup(app: Sphinx) -> None:
    """Connects the above."""
    app.connect("source-read", _links)
    app.connect("autodoc-process-docstring", _tables, priority=400)  # before Google's sections are read
    app.connect("autodoc-process-docstring", _hide_colons, priority=400)
    app.connect("autodoc-process-docstring", _show_colons, priority=600)
    app.connect("autodoc-process-signature", _short_signature)
    app.connect("missing-reference", _reference)
