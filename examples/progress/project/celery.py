"""The same work as a Celery task: ``celery -A project worker``. Only used where CELERY_BROKER_URL is set."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

app = Celery("project")
app.config_from_object("django.conf:settings", namespace="CELERY")


@app.task
def count(**order: object) -> None:
    from primes import tasks  # Django is ready only now

    tasks.run(**order)
