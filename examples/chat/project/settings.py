"""Settings of the chat. It stores nothing: no database, no sessions.

From the environment: DEMO=1 (the page tells what to try, with commands for this machine's shell), SECRET_KEY,
ALLOWED_HOSTS (further hosts, by commas), DEBUG=1, OFFLOAD_LAYER (the address of the channel layer; without one it is
the IPC layer, which serves one machine).
"""

import os
from pathlib import Path

from project.secret import secret_key

BASE_DIR = Path(__file__).resolve().parent.parent
DEBUG = os.environ.get("DEBUG") == "1"
DEMO = os.environ.get("DEMO") == "1"
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", *filter(None, os.environ.get("ALLOWED_HOSTS", "").split(","))]
SECRET_KEY = os.environ.get("SECRET_KEY") or secret_key()

INSTALLED_APPS = ["django.contrib.staticfiles", "django_offload", "chat"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "project.middleware.content_security_policy",
]
ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.wsgi.application"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
STATIC_URL = "static/"
DATABASES: dict[str, dict[str, str]] = {}
USE_TZ = True
TIME_ZONE = "UTC"

# The routing would be found beside urls.py without being named here.
CHANNEL_LAYERS = {
    "default": {
        "URL": os.environ.get("OFFLOAD_LAYER") or "ipc:",
        "ROUTING": "project.routing.channel_routing",
    },
}
