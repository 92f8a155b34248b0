"""Sphinx configuration."""

import pyrogen

project = "pyrogen"
author = "The pyrogen developers"
release = version = pyrogen.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
autodoc_inherit_docstrings = False
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes are described, and are no targets that words of other types could mean
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "pyrogen"
