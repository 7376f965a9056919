import json
import os
import shlex
import sys
from urllib.parse import urlencode

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.text import slugify
from django.views.decorators.http import require_safe

LONGEST_NAME = 40


@require_safe
def door(request: HttpRequest) -> HttpResponse:
    """The form that asks for a name and a room, and the way from it into the room."""
    name = request.GET.get("name", "").strip()[:LONGEST_NAME]
    if "room" in request.GET:
        room = slugify(request.GET["room"])[:50] or "lobby"
        query = f"?{urlencode({'name': name})}" if name else ""
        return redirect(reverse("room", args=[room]) + query)
    return render(request, "chat/door.html", {"longest_name": LONGEST_NAME})


@require_safe
def room(request: HttpRequest, room: str) -> HttpResponse:
    """One room. Its WebSocket has the same path as the page."""
    context = {"room": room, "longest_name": LONGEST_NAME, "command": shell_command(room) if settings.DEMO else ""}
    return render(request, "chat/room.html", context)


def shell_command(room: str) -> str:
    """What to type in a shell of this machine, in any directory, to write to a room."""
    content = json.dumps({"text": "hello from the shell"})
    words = [sys.executable, "manage.py", "group_send", f"chat-{room}", content]
    layer = os.environ.get("OFFLOAD_LAYER")
    return (
        shlex.join(["cd", str(settings.BASE_DIR)])
        + " && "
        + shlex.join(["env", f"OFFLOAD_LAYER={layer}", *words] if layer else words)
    )
