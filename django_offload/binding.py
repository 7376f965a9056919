"""Bindings: what happens to objects of a model, sent to groups, and asked for by clients; the names of Channels 1.1.

Outbound, by Django's signals: creating, changing and deleting an object sends a message to each group that
``group_names`` gives for it. That is asked before and after the change: to a group that is named before alone, the
object is deleted, and to one that is named afterwards alone, created. Both times it gets the object as it is saved, so
that a name which depends on a field needs a look into the database to tell the object's old group. What
``QuerySet.update()`` and other bulk operations change sends no signals, so nobody hears of it.
Messages leave at once, also where the transaction is rolled back later.

Inbound: ``consumer`` takes what a client asks for, behind a `WebsocketDemultiplexer` or on any channel.
"""

from __future__ import annotations

import abc
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from django.apps import apps
from django.core import serializers
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models.signals import post_delete, post_save, pre_delete, pre_save

from django_offload.decorators import channel_session, channel_session_user
from offload.consumers import Group, WebsocketMultiplexer
from offload.consumers.message import Message

__all__ = ["CREATE", "DELETE", "UPDATE", "Binding", "WebsocketBinding", "WebsocketBindingWithMembers"]

CREATE, UPDATE, DELETE = "create", "update", "delete"

_ALL = ["__all__"]
_OUTBOUND = ("encode", "group_names", "serialize")
_INBOUND = ("create", "deserialize", "has_permission", "update")


class Binding:
    """Base of bindings. Define ``group_names``, ``serialize`` and ``encode``; for inbound also ``deserialize``,
    ``has_permission``, ``create`` and ``update``.

    Attributes:
        model: the model, or its "app.Model"; ``model = None`` in a class's own body makes it abstract.
        stream: the stream of its messages.
        fields: names of the fields that are sent, and taken from clients; ``["__all__"]`` for all.
        exclude: or, names of those that are not.
        channel_session_user, channel_session: the decorator of the consumer.
        signal_kwargs: what the signal came with, while a message is made.
    """

    model: ClassVar[Any] = None
    stream: ClassVar[str | None] = None
    fields: ClassVar[Sequence[str] | str | None] = None
    exclude: ClassVar[Sequence[str] | None] = None
    channel_session_user: ClassVar[bool] = True
    channel_session: ClassVar[bool] = False
    model_label: ClassVar[str] = ""

    signal_kwargs: Mapping[str, Any] | None = None
    instance: Any = None
    message: Message
    kwargs: dict[str, Any]
    user: Any
    action: str
    pk: Any
    data: Any

    _declared: ClassVar[list[type[Binding]]] = []

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.model is None:
            if "model" not in vars(cls):
                raise ValueError(f"the binding {cls.__qualname__} has no model; set it, or model = None for a base")
            return
        if cls.fields is None and cls.exclude is None:
            raise ValueError(f"the binding {cls.__qualname__} has neither fields nor exclude; set one of the two")
        cls._check(_OUTBOUND)
        if apps.models_ready:
            cls.register()
        else:
            Binding._declared.append(cls)

    @classmethod
    def _check(cls, names: Iterable[str]) -> None:
        missing = [name for name in names if getattr(getattr(cls, name), "__isabstractmethod__", False)]
        if missing:
            raise ValueError(f"the binding {cls.__qualname__} does not define {' and '.join(missing)}")

    @classmethod
    def register_all(cls) -> None:
        """Register what was declared before Django knew all models."""
        while Binding._declared:
            Binding._declared.pop(0).register()

    @classmethod
    def register(cls) -> None:
        """Listen to the signals of the model."""
        for model in cls.get_registered_models():
            # Not weakly: a class that only a function knew would fall silent some time later.
            pre_save.connect(cls.pre_save_receiver, sender=model, weak=False)
            post_save.connect(cls.post_save_receiver, sender=model, weak=False)
            pre_delete.connect(cls.pre_delete_receiver, sender=model, weak=False)
            post_delete.connect(cls.post_delete_receiver, sender=model, weak=False)

    @classmethod
    def get_registered_models(cls) -> list[type[models.Model]]:
        """The model, found if it was named."""
        if isinstance(cls.model, str):
            cls.model = apps.get_model(cls.model)
        cls.model_label = cls.model._meta.label_lower
        return [cls.model]

    # Outbound

    @classmethod
    def pre_save_receiver(cls, instance: Any, **kwargs: Any) -> None:
        """Receives `pre_save`."""
        cls.pre_change_receiver(instance, CREATE if instance._state.adding else UPDATE)

    @classmethod
    def post_save_receiver(cls, instance: Any, created: bool, **kwargs: Any) -> None:
        """Receives `post_save`."""
        cls.post_change_receiver(instance, CREATE if created else UPDATE, **kwargs)

    @classmethod
    def pre_delete_receiver(cls, instance: Any, **kwargs: Any) -> None:
        """Receives `pre_delete`."""
        cls.pre_change_receiver(instance, DELETE)

    @classmethod
    def post_delete_receiver(cls, instance: Any, **kwargs: Any) -> None:
        """Receives `post_delete`."""
        cls.post_change_receiver(instance, DELETE, **kwargs)

    @classmethod
    def pre_change_receiver(cls, instance: Any, action: str) -> None:
        """Keep the object's groups as they are before the change."""
        names = set() if action == CREATE else set(cls.group_names(instance))
        vars(instance).setdefault("_binding_group_names", {})[cls] = names

    @classmethod
    def post_change_receiver(cls, instance: Any, action: str, **kwargs: Any) -> None:
        """Tell the groups that the object has left, has been in, and has come to."""
        before: set[str] = instance._binding_group_names[cls]
        after = set() if action == DELETE else set(cls.group_names(instance))
        binding = cls()
        binding.instance = instance
        binding.send_messages(instance, before - after, DELETE, **kwargs)
        binding.send_messages(instance, before & after, UPDATE, **kwargs)
        binding.send_messages(instance, after - before, CREATE, **kwargs)

    def send_messages(self, instance: Any, group_names: Iterable[str], action: str, **kwargs: Any) -> None:
        """Serialize once, and send to each group; an empty payload is not sent.

        Args:
            instance: the object.
            group_names: may be empty.
            action: `CREATE`, `UPDATE` or `DELETE`.
            kwargs: of the signal.

        Raises:
            ValueError: the binding has no stream.
        """
        if not group_names:
            return
        self.signal_kwargs = kwargs
        payload = self.serialize(instance, action)
        if payload == {}:
            return
        if self.stream is None:
            raise ValueError(f"the binding {type(self).__qualname__} has no stream; set it")
        message = self.encode(self.stream, payload)
        for name in group_names:
            Group(name).send(message)

    @classmethod
    @abc.abstractmethod
    def encode(cls, stream: str, payload: Any) -> dict[str, Any]:
        """The content of the message that brings a payload to a stream."""

    @classmethod
    @abc.abstractmethod
    def group_names(cls, instance: Any) -> Iterable[str]:
        """The groups that hear of this object."""

    @abc.abstractmethod
    def serialize(self, instance: Any, action: str) -> Any:
        """The payload of the message about this object."""

    # Inbound

    @classmethod
    def consumer(cls, message: Message, **kwargs: Any) -> None:
        """The consumer: decode the message, and do what it asks for if that is permitted."""
        cls.get_handler()(message, **kwargs)

    @classmethod
    def get_handler(cls) -> Callable[..., None]:
        """`trigger_inbound`, decorated.

        Raises:
            ValueError: a method that inbound needs is not defined.
        """
        cls._check(_INBOUND)
        if cls.channel_session_user:
            return channel_session_user(cls.trigger_inbound)
        return channel_session(cls.trigger_inbound) if cls.channel_session else cls.trigger_inbound

    @classmethod
    def trigger_inbound(cls, message: Message, **kwargs: Any) -> None:
        """Decode a message and do what it asks for."""
        from django.contrib.auth.models import AnonymousUser  # imports models, which projects need not have

        binding = cls()
        binding.message = message
        binding.kwargs = kwargs
        binding.action, binding.pk, binding.data = binding.deserialize(message)
        binding.user = getattr(message, "user", None) or AnonymousUser()
        binding.run_action(binding.action, binding.pk, binding.data)

    @abc.abstractmethod
    def deserialize(self, message: Message) -> tuple[str, Any, Any]:
        """The action, the primary key (None to create), and the data (None to delete) of a message."""

    @abc.abstractmethod
    def has_permission(self, user: Any, action: str, pk: Any) -> bool:
        """Whether this user, who may be an ``AnonymousUser``, may do this to this object."""

    def run_action(self, action: str, pk: Any, data: Any) -> None:
        """Create, update or delete, if that is permitted.

        Raises:
            ValueError: there is no such action.
        """
        if not self.has_permission(self.user, action, pk):
            return
        if action == CREATE:
            self.create(data)
        elif action == UPDATE:
            self.update(pk, data)
        elif action == DELETE:
            self.delete(pk)
        else:
            raise ValueError(f"a binding has no action {action!r}; it has {CREATE}, {UPDATE} and {DELETE}")

    @abc.abstractmethod
    def create(self, data: Any) -> None:
        """Make an object of a message's data."""

    @abc.abstractmethod
    def update(self, pk: Any, data: Any) -> None:
        """Change an object by a message's data."""

    def delete(self, pk: Any) -> None:
        """Delete an object; none of this key is no error."""
        self.model.objects.filter(pk=pk).delete()


class WebsocketBinding(Binding):
    """A binding whose messages are JSON for a stream of a multiplexed WebSocket. Define ``group_names``, and for
    inbound ``has_permission``.

    Attributes:
        strict_ordering, slight_ordering: accepted; messages of a connection always run in order.
    """

    model: ClassVar[Any] = None
    strict_ordering: ClassVar[bool] = False
    slight_ordering: ClassVar[bool] = False

    @classmethod
    def encode(cls, stream: str, payload: Any) -> dict[str, Any]:
        """See `WebsocketMultiplexer.encode`."""
        return WebsocketMultiplexer.encode(stream, payload)

    def serialize(self, instance: Any, action: str) -> Any:
        """The action, the key and the model of the object, and its data."""
        return {
            "action": action,
            "pk": instance.pk,
            "data": self.serialize_data(instance),
            "model": self.model_label,
        }

    def serialize_data(self, instance: Any) -> dict[str, Any]:
        """The object's fields as values of JSON."""
        names = [field.name for field in instance._meta.get_fields() if self._has(field.name)]
        data: dict[str, Any] = json.loads(serializers.serialize("json", [instance], fields=names))[0]["fields"]
        return data

    @classmethod
    def trigger_inbound(cls, message: Message, **kwargs: Any) -> None:
        """As `Binding.trigger_inbound`, for received messages alone: a demultiplexer hands on the others, too."""
        if message.channel_name == "websocket.receive":
            super().trigger_inbound(message, **kwargs)

    def deserialize(self, message: Message) -> tuple[str, Any, Any]:
        """Of the JSON text ``{"action": ..., "pk": ..., "data": {...}}``."""
        body = json.loads(message["text"])
        return body["action"], body.get("pk"), body.get("data")

    def create(self, data: Any) -> None:
        """Make an object of the data's fields that the binding has.

        Raises:
            IntegrityError: an object of this key is there, in models whose key clients choose.
        """
        hydrated = self._hydrated(None, data)
        # Inserted in any case: a key that the client chose would have it overwrite the object of that key.
        hydrated.object.save(force_insert=True)
        self._set_related(hydrated.object, hydrated)

    def update(self, pk: Any, data: Any) -> None:
        """Change the data's fields that the binding has, but for the key: that would change another object."""
        instance = self.model.objects.get(pk=pk)
        hydrated = self._hydrated(pk, data)
        for name in filter(self._has, data):
            field = self.model._meta.get_field(name)
            if name not in hydrated.m2m_data and not field.primary_key:
                setattr(instance, field.attname, getattr(hydrated.object, field.attname))
        instance.save()
        self._set_related(instance, hydrated)

    @staticmethod
    def _set_related(instance: Any, hydrated: Any) -> None:
        for name, related in hydrated.m2m_data.items():
            getattr(instance, name).set(related)

    def _has(self, name: str) -> bool:
        if self.fields is not None:
            return name in self.fields or list(self.fields) == _ALL or self.fields == _ALL[0]
        return name not in (self.exclude or ())

    def _hydrated(self, pk: Any, data: Mapping[str, Any]) -> Any:
        """Django's deserialized object, of nothing but the binding's fields: a client may send any."""
        made = self.model._meta.auto_field  # by the database alone
        own = () if made is None else (made.name,)
        fields = {name: value for name, value in data.items() if self._has(name) and name not in own}
        return next(iter(serializers.deserialize("python", [{"pk": pk, "model": self.model_label, "fields": fields}])))


class WebsocketBindingWithMembers(WebsocketBinding):
    """A `WebsocketBinding` that also sends attributes, properties, and results of methods.

    Attributes:
        send_members: their names, with dots for those of members; in the data, ``__`` stands for a dot.
        encoder: makes values of JSON of them.
    """

    model: ClassVar[Any] = None
    send_members: ClassVar[Sequence[str]] = ()
    encoder: ClassVar[json.JSONEncoder] = DjangoJSONEncoder()

    def serialize_data(self, instance: Any) -> dict[str, Any]:
        """The object's fields, and the members."""
        data = super().serialize_data(instance)
        members = {}
        for path in self.send_members:
            member = instance
            for name in path.split("."):
                member = getattr(member, name)
            members[path.replace(".", "__")] = member() if callable(member) else member
        data.update(json.loads(self.encoder.encode(members)))
        return data
