"""Settings of the progress example. It has no database: visitors are known by a signed cookie, and how far their tasks
are is in Django's cache, which the server processes and the workers share.

From the environment: SECRET_KEY, ALLOWED_HOSTS (further hosts, by commas), DEBUG=1, HTTPS=1, OFFLOAD_LAYER (the address
of the channel layer; without one it is the IPC layer, which serves one machine), CACHE_URL (redis://... in place of
files here), CELERY_BROKER_URL (then Celery runs the tasks).
"""

import os
from pathlib import Path

from project.secret import secret_key

BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = os.environ.get("DEBUG") == "1"
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", *filter(None, os.environ.get("ALLOWED_HOSTS", "").split(","))]
SECRET_KEY = os.environ.get("SECRET_KEY") or secret_key()

INSTALLED_APPS = ["django.contrib.staticfiles", "django_offload", "primes"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "project.middleware.content_security_policy",
]
ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
    }
]
STATIC_URL = "static/"
DATABASES: dict[str, dict[str, str]] = {}
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
USE_TZ = True
TIME_ZONE = "UTC"
USE_THOUSAND_SEPARATOR = True

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

if url := os.environ.get("CACHE_URL"):
    CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": url}}
else:
    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
            "LOCATION": os.environ.get("STATE_DIR") or BASE_DIR / ".state",
            # Over this, a third of all is thrown away.
            "OPTIONS": {"MAX_ENTRIES": 10_000},
        }
    }

CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL")
CELERY_TASK_IGNORE_RESULT = True

CHANNEL_LAYERS = {
    "default": {
        "URL": os.environ.get("OFFLOAD_LAYER") or "ipc:",
        "ROUTING": "project.routing.channel_routing",
    },
}
