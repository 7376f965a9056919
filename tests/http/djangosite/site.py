"""Settings, views and the WSGI application in one module, with Django's default middleware and whitenoise."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseNotModified, JsonResponse
from django.http.response import HttpResponseBase, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

ROOT = Path(os.environ["OFFLOAD_RUNTIME_DIR"]).parent / "django"
STATIC = ROOT / "static"
STATIC.mkdir(parents=True, exist_ok=True)
(STATIC / "style.css").write_bytes(b"body { color: black }\n" * 10_000)
FILE = ROOT / "file"
FILE.write_bytes(bytes(range(256)) * 4096)

settings.configure(
    ALLOWED_HOSTS=["test", "127.0.0.1"],
    DATABASES={},
    DEBUG=False,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    FILE_UPLOAD_TEMP_DIR=str(ROOT),
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "whitenoise.middleware.WhiteNoiseMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY="for tests only",
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    STATIC_ROOT=str(STATIC),
    STATIC_URL="/static/",
    USE_TZ=True,
)
django.setup()


def page(request: HttpRequest) -> HttpResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse(f"visit {request.session['visits']}")


def stream(request: HttpRequest) -> HttpResponseBase:
    def lines() -> Iterator[str]:
        for number in range(1000):
            yield f"line {number}\n"

    return StreamingHttpResponse(lines(), content_type="text/plain")


def file(request: HttpRequest) -> HttpResponseBase:
    return FileResponse(FILE.open("rb"), filename="file", as_attachment=True)


def unchanged(request: HttpRequest) -> HttpResponse:
    return HttpResponseNotModified()


@csrf_exempt
def upload(request: HttpRequest) -> HttpResponse:
    sent = request.FILES["file"]
    digest = hashlib.sha256()
    for piece in sent.chunks():
        digest.update(piece)
    return JsonResponse({"size": sent.size, "digest": digest.hexdigest()})


def fails(request: HttpRequest) -> HttpResponse:
    raise LookupError("in a view")


urlpatterns = [
    path("", page),
    path("stream/", stream),
    path("file/", file),
    path("unchanged/", unchanged),
    path("upload/", upload),
    path("fails/", fails),
]
application = get_wsgi_application()
