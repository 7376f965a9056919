import os

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

# A big site has its static files served by nginx or a CDN; for a few small ones this will do.
application = StaticFilesHandler(get_wsgi_application())
