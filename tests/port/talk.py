"""A Channels 1 project as talks of its time showed it: a broadcast beside urls.py, and a command that speaks to one."""

from __future__ import annotations

from pathlib import Path

FILES = {
    "manage.py": """\
import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site1.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
""",
    "site1/__init__.py": "",
    "site1/settings.py": """\
SECRET_KEY = "for tests only"
DEBUG = True
USE_TZ = True
ROOT_URLCONF = "site1.urls"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "channels",
    "site1",
]
SESSION_ENGINE = "django.contrib.sessions.backends.file"
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "site1.sqlite3"}}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "asgi_ipc.IPCChannelLayer",
        "ROUTING": "site1.routing.channel_routing",
    },
}
""",
    "site1/urls.py": "urlpatterns = []\n",
    "site1/wsgi.py": """\
import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site1.settings")
application = get_wsgi_application()
""",
    "site1/routing.py": """\
from channels.routing import route
from site1.consumers import ws_connect, ws_disconnect, ws_message

channel_routing = [
    route("websocket.connect", ws_connect),
    route("websocket.receive", ws_message),
    route("websocket.disconnect", ws_disconnect),
]
""",
    "site1/consumers.py": """\
from channels import Group
from channels.auth import channel_session_user, channel_session_user_from_http


@channel_session_user_from_http
def ws_connect(message):
    message.reply_channel.send({"accept": True})
    print("connected:", message.user, message.reply_channel)
    Group("broadcast").add(message.reply_channel)


@channel_session_user
def ws_message(message):
    print("said by:", message.user)
    Group("broadcast").send({"text": "[%s] %s" % (message.user, message.content["text"])})


@channel_session_user
def ws_disconnect(message):
    Group("broadcast").discard(message.reply_channel)
    Group("broadcast").send({"text": "%s has left" % message.user})
""",
    "site1/management/__init__.py": "",
    "site1/management/commands/__init__.py": "",
    "site1/management/commands/say.py": """\
from channels import Channel
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("channel")
        parser.add_argument("text")

    def handle(self, *args, **options):
        Channel(options["channel"]).send({"text": options["text"]})
""",
}


def write(directory: Path) -> None:
    """Write the project into a directory."""
    for name, text in FILES.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
