"""Sphinx configuration; the build needs no network."""

from __future__ import annotations

import transferkit

project = "transferkit"
author = "The transferkit authors"
copyright = "2026, the transferkit authors"  # noqa: A001 (Sphinx asks for this name)
release = transferkit.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"transferkit {release}"
html_theme_options = {"top_of_page_buttons": []}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autoclass_content = "class"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
