"""Sphinx configuration.

Pages with a kernel in their front matter are notebooks: their cells are executed, and the pages show what they print
and draw. Executions are cached by the text of the cells; ``make clean`` removes the cache. Tutorials can be downloaded
as notebooks, which are written to ``docs/_generated``.
"""

import re
from pathlib import Path

import pyrogen

project = "pyrogen"
author = "The pyrogen developers"
release = version = pyrogen.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars
nb_render_image_options = {"width": "100%"}
autodoc_inherit_docstrings = False
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes are described, and are no targets that words of other types could mean
exclude_patterns = ["_build", "_generated"]
html_theme = "furo"
html_title = "pyrogen"
html_show_copyright = False


def setup(app):
    app.connect("source-read", offer_notebook)


def offer_notebook(app, page, source):
    """Writes a tutorial as a notebook, and puts a link to it below the title."""
    import nbformat
    from myst_nb.core.read import read_myst_markdown_notebook

    if page.startswith("tutorials/") and source[0].startswith("---\nfile_format: mystnb"):
        notebook = Path(app.srcdir, "_generated", f"{page}.ipynb")
        notebook.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(read_myst_markdown_notebook(source[0], path=page), notebook)
        link = f"{{download}}`Download as a notebook <../_generated/{page}.ipynb>`"
        source[0] = re.sub("^(# .*)$", rf"\1\n\n{link}", source[0], count=1, flags=re.MULTILINE)
