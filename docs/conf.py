"""The documentation as a site: `python -m sphinx -W -b html -c docs . site` in the repository.

Sources are the pages as they stand in the repository, so that their links hold in both; the
reference is of the docstrings. Nothing on a page comes from another server.
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import cae_jax

project, author, version = "cae_jax", "the authors of cae_jax", cae_jax.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    *("docs/*.md", "docs/*.rst", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *("benchmarks/README.md", "experiments/results/*/*.md"),
]
exclude_patterns = [".*", "build", "dist", "runs", "site"]
html_theme, html_title, html_show_copyright = "furo", "cae_jax", False
html_copy_source, html_show_sphinx = False, False
myst_heading_anchors = 4
default_role = "code"  # of docstrings: `name`
autodoc_typehints, autodoc_member_order = "description", "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False}
