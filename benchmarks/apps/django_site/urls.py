"""The same answer from a synchronous and an asynchronous view."""

from django.http import HttpRequest, HttpResponse
from django.urls import path

from benchmarks.apps.hello import BODY


def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse(BODY, content_type="text/plain")


async def async_hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse(BODY, content_type="text/plain")


urlpatterns = [path("", hello), path("async", async_hello)]
