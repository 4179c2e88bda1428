"""How Sphinx builds the documentation: `make docs`, where every warning is an error."""

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import clarion

project = "clarion"
author = "The clarion authors"
copyright = f"2026, {author}"
release = version = clarion.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "performance-results.md"]  # performance.md includes it
default_role = "literal"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Source", "notes_style"), ("Shape", "notes_style")]
viewcode_line_numbers = True

# Links go within clarion: the documentation builds offline, so it cannot ask where others' names
# are explained, and what is internal is named in annotations without having a page.
nitpick_ignore_regex = [("py:.*", r"(?!clarion\.)[\w.\[\], ]+"), ("py:.*", r"clarion\.\w+\..*")]

html_theme = "furo"
html_title = f"clarion {release}"
html_show_sphinx = False
html_copy_source = False


def link_to_the_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Link an annotation such as ``clarion.callbacks.base.Callback`` to ``clarion.Callback``."""
    target: str = node.get("reftarget", "")
    name = target.rpartition(".")[2]
    if node.get("refdomain") != "py" or name not in clarion.__all__ or target == f"clarion.{name}":
        return None
    python = env.get_domain("py")
    return python.resolve_xref(
        env, node["refdoc"], app.builder, "obj", f"clarion.{name}", node, content
    )


def escape_shapes(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Keep the star of a shape such as (N, *) from starting emphasis."""
    lines[:] = [re.sub(r"(?<=[(, ])\*(?=[,)])", r"\\*", line) for line in lines]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register what this file adds to Sphinx."""
    app.connect("missing-reference", link_to_the_public_name, priority=400)
    app.connect("autodoc-process-docstring", escape_shapes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
