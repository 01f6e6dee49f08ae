"""How Sphinx builds the documentation: pages in Markdown, the reference from the docstrings. Needs no network."""

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
autodoc_typehints_format = "short"
autodoc_member_order = "groupwise"
autodoc_class_signature = "separated"
napoleon_google_docstring = False
napoleon_use_ivar = True  # attributes are described once, by their class
napoleon_use_rtype = False

html_theme = "alabaster"
html_theme_options = {"description": "An optimising compiler for dask task graphs", "page_width": "70em"}
