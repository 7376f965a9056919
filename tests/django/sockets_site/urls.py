from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from django_offload.decorators import accept_websocket, require_websocket
from offload import route


def undecorated(request: Any) -> HttpResponse:
    if request.websocket is None:
        return HttpResponse("a page")
    for message in request.websocket:
        request.websocket.send(message)
    return HttpResponse("dropped")


@accept_websocket
def both(request: Any, name: str) -> HttpResponse | None:
    if request.websocket is None:
        return HttpResponse(f"a page for {name}")
    request.websocket.send(f"{name} at {request.path}?{request.GET.urlencode()} as {request.session.get('who')}")
    return None


@require_websocket
def only(request: Any) -> None:
    while True:
        request.websocket.send(request.websocket.receive())


@accept_websocket
def choosy(request: Any) -> HttpResponse | None:
    if "please" not in request.GET:
        return HttpResponseForbidden("say please")
    request.websocket.send("welcome")
    return None


@require_websocket
def silent(request: Any) -> None:
    pass


@require_websocket
def broken(request: Any) -> None:
    request.websocket.send("so far")
    raise RuntimeError("a mistake in the view")


@method_decorator(require_websocket, name="dispatch")
class Class(View):
    def get(self, request: HttpRequest, number: int) -> None:
        request.websocket.send(str(number + 1))  # type: ignore[attr-defined]


def log_in(request: HttpRequest) -> HttpResponse:
    request.session["who"] = "ada"
    return HttpResponse("logged in")


def consumer(message: Any) -> None:
    message.reply_channel.send({"text": "from a consumer"})


urlpatterns = [
    path("undecorated/", undecorated),
    path("both/<name>/", both),
    path("only/", only),
    path("choosy/", choosy),
    path("silent/", silent),
    path("broken/", broken),
    path("class/<int:number>/", Class.as_view()),
    path("log-in/", log_in),
]
routing = [route("websocket.connect", consumer, path=r"^/routed/$")]
