"""How Sphinx builds the documentation: pages in Markdown, the reference from the docstrings. Needs no network."""

import re
from pathlib import Path

import graphopt

project = "graphopt"
author = "graphopt developers"
copyright = f"2026, {author}"
release = version = graphopt.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_heading_anchors = 3  # links to headings of other pages

default_role = "any"  # `name` in a docstring is a link where such a name is documented
suppress_warnings = ["ref.any"]  # and plain text where it is not: parameters, dask's names
autodoc_typehints = "none"  # signatures stay readable; the docstrings say what things are
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = "alabaster"
html_theme_options = {"description": "An optimising compiler for dask task graphs", "page_width": "70em"}

# The reference is written out by hand, in the order a reader wants; nothing public may be missing from it.
_api = (Path(__file__).parent / "api.md").read_text()
_documented = set(re.findall(r"^\.\. (?:auto\w+:: |currentmodule:: graphopt\.)(\w+)", _api, re.MULTILINE))
if _missing := set(graphopt.__all__) - _documented:
    raise RuntimeError(f"docs/api.md does not mention {', '.join(sorted(_missing))}")
