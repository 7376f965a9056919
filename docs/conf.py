"""How Sphinx builds the documentation: ``make docs``."""

import sys
from pathlib import Path

import django
from django.conf import settings

from offload import __version__

sys.path.insert(0, str(Path(__file__).parent))
# Modules of django_offload are imported for their docstrings.
settings.configure(INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django_offload"])
django.setup()

project = "offload"
copyright = "2026, the offload developers"
version = release = __version__
extensions = ["myst_parser", "log_lines", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_use_ivar = True
python_use_unqualified_type_names = True
root_doc = "index"
exclude_patterns = ["*.py"]
html_theme = "alabaster"
html_show_sourcelink = False
html_domain_indices = False
myst_heading_anchors = 3
html_static_path = ["_static"]
html_theme_options = {
    "description": "WebSockets for plain synchronous Python",
    "fixed_sidebar": False,
    "page_width": "1200px",
    "body_max_width": "none",
}
