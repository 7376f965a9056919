"""How Sphinx builds the documentation: ``make docs``."""

from offload import __version__

project = "offload"
copyright = "2026, the offload developers"
version = release = __version__
extensions = ["myst_parser"]
root_doc = "index"
exclude_patterns = ["*.py"]
html_theme = "alabaster"
html_show_sourcelink = False
myst_heading_anchors = 3
html_static_path = ["_static"]
html_theme_options = {
    "description": "WebSockets for plain synchronous Python",
    "fixed_sidebar": False,
    "page_width": "1200px",
    "body_max_width": "none",
}
