"""Sphinx's configuration of the site; ``docs/build_site.py`` gathers the sources and calls Sphinx."""

project = "minivar"
author = "the minivar authors"
copyright = author
language = "en"

extensions = ["myst_nb", "sphinx.ext.mathjax"]
exclude_patterns = ["docs/vendor", "_static"]
html_static_path = []
html_extra_path = []

# The committed outputs are shown; nothing is run.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 4
suppress_warnings = ["mystnb.unknown_mime_type"]

# From the site itself (docs/build_site.py), not from elsewhere.
mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {"options": {"enableMenu": False}}

html_theme = "furo"
html_favicon = "live/favicon.svg"
pygments_style = "friendly"
pygments_dark_style = "github-dark"
html_title = "minivar"
html_short_title = "minivar"
html_show_sphinx = False
html_copy_source = False
html_css_files = ["live/live.css", "live/site.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072b2", "color-brand-content": "#0072b2"},
    "dark_css_variables": {"color-brand-primary": "#56b4e9", "color-brand-content": "#56b4e9"},
}


def setup(app):
    """The static files lie beside the gathered sources, not beside this file."""
    app.connect("config-inited", lambda app, config: config.html_static_path.append(f"{app.srcdir}/_static"))
    return {"parallel_read_safe": True}
