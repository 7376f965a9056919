"""A Django project that keeps its database in a file, so that its server and a test see the same."""

import os

SECRET_KEY = "for tests only"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", ".example.org"]
USE_TZ = True
ROOT_URLCONF = "sockets_site.urls"
WSGI_APPLICATION = "sockets_site.wsgi.application"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django_offload",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_offload.middleware.WebSocketMiddleware",
]
if os.environ.get("WITHOUT_MIDDLEWARE"):
    MIDDLEWARE.remove("django_offload.middleware.WebSocketMiddleware")
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
CHANNEL_LAYERS = {"default": {"BACKEND": "offload.layers.memory.MemoryLayer", "ROUTING": "sockets_site.urls.routing"}}
LOGGING = {
    "version": 1,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "loggers": {"django.request": {"handlers": ["stderr"]}},
}
