"""Bindings: what happens to a model's objects reaches groups, and clients change what they may."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth.models import Group as UserGroup
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.models import Session
from django.db import transaction
from testsite.tools import Client

from django_offload.binding import Binding, WebsocketBinding, WebsocketBindingWithMembers
from offload import Group, Message, route, route_class
from offload.consumers import WebsocketDemultiplexer

pytestmark = pytest.mark.usefixtures("db")


class UserBinding(WebsocketBinding):
    model = "auth.User"
    stream = "users"
    fields = ("username", "email", "groups")

    @classmethod
    def group_names(cls, instance: User) -> list[str]:
        return [f"staff-{instance.is_staff}"]

    def has_permission(self, user: Any, action: str, pk: Any) -> bool:
        assert user.is_anonymous
        return action != "delete" or self.kwargs["may"] == "delete"


class Members(WebsocketBindingWithMembers):
    model = UserGroup
    stream = "groups"
    exclude = ("permissions",)
    send_members = ("natural_key", "pk", "user_set.model.__name__")

    @classmethod
    def group_names(cls, instance: UserGroup) -> list[str]:
        return ["groups"]


class PermissionBinding(WebsocketBinding):
    model = Permission
    stream = "permissions"
    fields = ("__all__",)

    @classmethod
    def group_names(cls, instance: Permission) -> list[str]:
        stored = Permission.objects.get(pk=instance.pk)
        return [f"permission-{stored.content_type.app_label}"]


class Streams(WebsocketDemultiplexer):
    consumers = {"users": UserBinding.consumer}


def listener(*groups: str) -> Client:
    client = Client(route("websocket.connect", lambda message: None))
    for name in groups:
        Group(name).add(client.name)
    return client


def payloads(client: Client) -> list[Any]:
    found = [json.loads(message["text"]) for message in client.sent if "text" in message]
    client.sent.clear()
    return [(message["stream"], message["payload"]) for message in found]


def test_changes_of_an_object_reach_the_groups_that_it_is_in() -> None:
    client = listener("staff-False")
    user = User.objects.create(username="ada")
    data = {"username": "ada", "email": "", "groups": []}
    assert payloads(client) == [("users", {"action": "create", "pk": user.pk, "data": data, "model": "auth.user"})]
    user.email = "ada@example.org"
    user.save()
    pk = user.pk
    user.delete()
    found = [payload for _, payload in payloads(client)]
    assert [payload["action"] for payload in found] == ["update", "delete"]
    assert {payload["pk"] for payload in found} == {pk}
    assert found[0]["data"]["email"] == "ada@example.org"


def test_object_that_changes_its_group_is_deleted_in_one_and_created_in_the_other() -> None:
    left, joined = listener("permission-auth"), listener("permission-other")
    permission = Permission.objects.filter(content_type__app_label="auth").first()
    assert permission is not None
    permission.content_type = ContentType.objects.create(app_label="other", model="thing")
    permission.save()
    assert [payload["action"] for _, payload in payloads(left)] == ["delete"]
    assert [payload["action"] for _, payload in payloads(joined)] == ["create"]


def test_members_are_sent_beside_fields() -> None:
    client = listener("groups")
    group = UserGroup.objects.create(name="editors")
    [(stream, payload)] = payloads(client)
    assert (stream, payload["model"]) == ("groups", "auth.group")
    assert payload["data"] == {
        "name": "editors",
        "natural_key": ["editors"],
        "pk": group.pk,
        "user_set__model____name__": "User",
    }


@pytest.fixture
def sender() -> Client:
    return Client(route_class(Streams, path="^/chat/")).connect()


def ask(client: Client, **payload: Any) -> None:
    client.receive(json.dumps({"stream": "users", "payload": payload}))


def test_client_creates_and_changes_the_bindings_fields_alone(sender: Client) -> None:
    group = UserGroup.objects.create(name="editors")
    ask(sender, action="create", data={"username": "eve", "is_superuser": True})
    user = User.objects.get()
    assert (user.username, user.is_superuser) == ("eve", False)
    ask(sender, action="update", pk=user.pk, data={"email": "e@example.org", "is_staff": True, "groups": [group.pk]})
    user = User.objects.get()
    assert (user.username, user.email, user.is_staff, list(user.groups.all())) == (
        "eve",
        "e@example.org",
        False,
        [group],
    )


class AnyField(UserBinding):
    stream = "any"
    fields = "__all__"

    @classmethod
    def group_names(cls, instance: User) -> list[str]:
        return []


class SessionBinding(WebsocketBinding):
    model = Session
    stream = "sessions"
    fields = ("session_key", "session_data", "expire_date")

    @classmethod
    def group_names(cls, instance: Session) -> list[str]:
        return []

    def has_permission(self, user: Any, action: str, pk: Any) -> bool:
        return True


@pytest.mark.parametrize("action", ["create", "update"])
def test_key_among_the_data_reaches_no_other_object(action: str) -> None:
    victim = User.objects.create(username="ada", password="secret")
    own = User.objects.create(username="eve")
    client = Client(route("websocket.receive", AnyField.consumer))
    data = {"id": victim.pk, "username": "eva", "first_name": "Eve"}
    client.receive(json.dumps({"action": action, "pk": own.pk, "data": data}))
    victim.refresh_from_db()
    own.refresh_from_db()
    assert (victim.username, victim.password, victim.first_name) == ("ada", "secret", "")
    assert (User.objects.count(), own.username) == ((2, "eva") if action == "update" else (3, "eve"))


def test_key_that_clients_choose_makes_objects_and_replaces_none(caplog: pytest.LogCaptureFixture) -> None:
    client = Client(route("websocket.receive", SessionBinding.consumer))
    for content in ("first", "second"):
        data = {"session_key": "key", "session_data": content, "expire_date": "2030-01-01T00:00:00Z"}
        client.receive(json.dumps({"action": "create", "data": data}))
        transaction.set_rollback(False)
    assert Session.objects.get(pk="key").session_data == "first"
    assert "IntegrityError" in caplog.text
    data = {"session_key": "other", "session_data": "third"}
    client.receive(json.dumps({"action": "update", "pk": "key", "data": data}))
    assert [session.session_data for session in Session.objects.filter(pk__in=["key", "other"])] == ["third"]


def test_what_is_not_permitted_does_not_happen(caplog: pytest.LogCaptureFixture) -> None:
    user = User.objects.create(username="ada")
    client = Client(route("websocket.receive", UserBinding.consumer, path="^/(?P<may>chat)"))
    client.receive(json.dumps({"action": "delete", "pk": user.pk}))
    assert User.objects.count() == 1
    client = Client(route("websocket.receive", lambda message: UserBinding.consumer(message, may="delete")))
    client.receive(json.dumps({"action": "delete", "pk": user.pk}))
    assert User.objects.count() == 0
    assert not caplog.text
    client.receive(json.dumps({"action": "destroy", "pk": user.pk}))
    assert "a binding has no action 'destroy'; it has create, update and delete" in caplog.text


def test_binding_without_model_or_fields_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Nothing has no model; set it, or model = None for a base$"):

        class Nothing(Binding):
            pass

    with pytest.raises(ValueError, match=r"All has neither fields nor exclude; set one of the two$"):

        class All(Binding):
            model = User


def test_binding_that_names_no_groups_is_refused_when_it_is_declared() -> None:
    with pytest.raises(ValueError, match=r"Mute does not define group_names$"):

        class Mute(WebsocketBinding):
            model, stream, fields = Permission, "mute", ["name"]

    with pytest.raises(ValueError, match=r"Bare does not define encode and group_names and serialize$"):

        class Bare(Binding):
            model, stream, fields = Permission, "bare", ["name"]


def test_binding_that_permits_nothing_is_no_consumer() -> None:
    class Outbound(WebsocketBinding):
        model, stream, fields = Permission, "outbound", ["name"]

        @classmethod
        def group_names(cls, instance: Permission) -> list[str]:
            return []

    with pytest.raises(ValueError, match=r"Outbound does not define has_permission$"):
        Outbound.get_handler()


def test_signals_surround_consumers_and_bindings_send_nothing_for_nobody() -> None:
    from django_offload.signals import consumer_finished, consumer_started

    seen: list[str] = []

    def started(**kwargs: Any) -> None:
        seen.append("started")

    def finished(**kwargs: Any) -> None:
        seen.append("finished")

    def consumer(message: Message) -> None:
        seen.append(message.channel_name)

    consumer_started.connect(started)
    consumer_finished.connect(finished)
    try:
        Client(route("websocket.connect", consumer)).connect()
    finally:
        consumer_started.disconnect(started)
        consumer_finished.disconnect(finished)
    assert seen == ["started", "websocket.connect", "finished"]
