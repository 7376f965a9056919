"""Frameworks that read a request's body each in its way: by CONTENT_LENGTH, to the end, or not without a length.

Each of its applications answers with JSON: ``/raw`` with the body's size and end, ``/form`` with what a form has, and
its file's name and size, ``/json`` with the document.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import bottle
import cherrypy
import django.conf
import falcon
import flask
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, JsonResponse
from django.urls import path
from pyramid.config import Configurator
from pyramid.response import Response

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import cgi


def _raw(body: bytes) -> dict[str, Any]:
    return {"size": len(body), "end": body[-3:].decode()}


def _form(fields: Mapping[str, str], name: str, content: bytes) -> dict[str, Any]:
    return {**fields, name: len(content)}


# Django.

django.conf.settings.configure(
    ROOT_URLCONF=__name__, SECRET_KEY="for a test", ALLOWED_HOSTS=["*"], DATA_UPLOAD_MAX_MEMORY_SIZE=1 << 24
)
django.setup(set_prefix=False)


def django_raw(request: HttpRequest) -> JsonResponse:
    return JsonResponse(_raw(request.body))


def django_form(request: HttpRequest) -> JsonResponse:
    file = request.FILES["file"]
    return JsonResponse(_form(request.POST.dict(), str(file.name), file.read()))


def django_json(request: HttpRequest) -> JsonResponse:
    return JsonResponse(json.loads(request.body))


urlpatterns = [path("raw", django_raw), path("form", django_form), path("json", django_json)]
django_application = WSGIHandler()

# Flask.

flask_application = flask.Flask("frameworks")


@flask_application.post("/raw")
def flask_raw() -> Any:
    return _raw(flask.request.get_data())


@flask_application.post("/form")
def flask_form() -> Any:
    file = flask.request.files["file"]
    return _form(flask.request.form.to_dict(), str(file.filename), file.read())


@flask_application.post("/json")
def flask_json() -> Any:
    return flask.request.get_json()


# Bottle.

bottle_application = bottle.Bottle()


@bottle_application.post("/raw")
def bottle_raw() -> Any:
    return _raw(bottle.request.body.read())


@bottle_application.post("/form")
def bottle_form() -> Any:
    file = bottle.request.files["file"]
    return _form(dict(bottle.request.forms), file.raw_filename, file.file.read())


@bottle_application.post("/json")
def bottle_json() -> Any:
    return bottle.request.json


# Falcon.


class _FalconResource:
    def on_post(self, request: falcon.Request, response: falcon.Response, what: str) -> None:
        if what == "raw":
            response.media = _raw(request.bounded_stream.read())
        elif what == "json":
            response.media = request.get_media()
        else:
            parts = {part.name: (part.filename, part.stream.read()) for part in request.get_media()}
            name, content = parts.pop("file")
            response.media = _form({key: text.decode() for key, (_, text) in parts.items()}, name, content)


falcon_application = falcon.App()
falcon_application.add_route("/{what}", _FalconResource())

# Pyramid.


def pyramid_view(request: Any) -> Response:
    what = request.matchdict["what"]
    if what == "raw":
        told = _raw(request.body)
    elif what == "json":
        told = request.json_body
    else:
        form = dict(request.POST)
        file = form.pop("file")
        told = _form(form, file.filename, file.file.read())
    return Response(json_body=told)


with Configurator() as configurator:
    configurator.add_route("all", "/{what}")
    configurator.add_view(pyramid_view, route_name="all")
    pyramid_application = configurator.make_wsgi_app()

# CherryPy.


class _CherryRoot:
    @cherrypy.expose
    def raw(self) -> bytes:
        return json.dumps(_raw(cherrypy.request.body.read())).encode()

    @cherrypy.expose
    def form(self, file: Any, **fields: str) -> bytes:
        return json.dumps(_form(fields, file.filename, file.file.read())).encode()

    @cherrypy.expose
    @cherrypy.tools.json_in()
    def json(self) -> bytes:
        return json.dumps(cherrypy.request.json).encode()


cherrypy.config.update({"environment": "embedded", "log.screen": False})
cherrypy_application = cherrypy.Application(_CherryRoot(), "")

# What reads as much as CONTENT_LENGTH says, as scripts of CGI do.


def cgi_application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    stream, length = environ["wsgi.input"], int(environ.get("CONTENT_LENGTH") or 0)
    if environ["PATH_INFO"] == "/raw":
        told = _raw(stream.read(length))
    elif environ["PATH_INFO"] == "/json":
        told = json.loads(stream.read(length))
    else:
        form = cgi.FieldStorage(stream, environ=environ)
        fields = {key: form[key].value for key in form if key != "file"}
        told = _form(fields, form["file"].filename, form["file"].file.read())
    data = json.dumps(told).encode()
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(data)))])
    return [data]


def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """The framework that the first part of the path names."""
    _, framework, rest = environ["PATH_INFO"].split("/", 2)
    environ["SCRIPT_NAME"] = "/" + framework if framework not in ("django", "cherrypy") else ""
    environ["PATH_INFO"] = "/" + rest
    chosen: Callable[..., Iterable[bytes]] = getattr(sys.modules[__name__], f"{framework}_application")
    return chosen(environ, start)
