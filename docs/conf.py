"""The documentation site: `make docs`."""

from importlib import metadata

project = "Mho"
copyright = "the authors of Mho"  # the name that Sphinx wants
release = version = metadata.version("mho")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.doctest",
]
myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 4
exclude_patterns = ["_build", "_templates", "results"]

templates_path = ["_templates"]
autosummary_generate = True
autodoc_typehints = "none"  # signatures have them
autodoc_member_order = "bysource"
add_module_names = False
default_role = "code"  # docstrings have single backticks round code
napoleon_google_docstring = True
napoleon_use_ivar = True  # attributes of a class in a list, not once more as members

html_theme = "furo"
html_title = f"Mho {release}"
html_theme_options = {"source_repository": "", "navigation_with_keys": True}
html_show_copyright = False
