"""Settings of the chat. It stores nothing: no database, no sessions.

From the environment: DEMO=1 (the page tells what to try, with commands for this machine's shell), SECRET_KEY,
ALLOWED_HOSTS (further hosts, by commas), DEBUG=1, HTTPS=1, OFFLOAD_LAYER (the address of the channel layer; without
one it is the IPC layer, which serves one machine).
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
    "django.middleware.csrf.CsrfViewMiddleware",
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

# Behind TLS, HTTPS=1 has browsers use nothing else. Without it this is a demonstration over plain HTTP, where these
# checks would ask for what keeps it from being looked at.
HTTPS = os.environ.get("HTTPS") == "1"
if HTTPS:
    SECURE_SSL_REDIRECT = True
    SECURE_HSTS_SECONDS = 31_536_000
    SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = True
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
else:
    SILENCED_SYSTEM_CHECKS = ["security.W004", "security.W008", "security.W011", "security.W016"]

# The routing would be found beside urls.py without being named here.
CHANNEL_LAYERS = {
    "default": {
        "URL": os.environ.get("OFFLOAD_LAYER") or "ipc:",
        "ROUTING": "project.routing.channel_routing",
    },
}
