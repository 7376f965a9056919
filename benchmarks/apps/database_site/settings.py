"""No more than the consumer needs."""

from benchmarks.apps.database import databases

SECRET_KEY = "for a benchmark"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "benchmarks.apps.database_site.urls"
INSTALLED_APPS = ["django_offload"]
DATABASES = databases()
USE_TZ = True
