"""Makes messages from payloads: decoding and topics, compiled once from the options of an `Endpoint`."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import msgspec.inspect

from wsfleet.core.errors import ConfigError
from wsfleet.core.message import Message
from wsfleet.core.options import Endpoint
from wsfleet.core.topics import Topic, compile_topic, safe_topic
from wsfleet.endpoint.envelopes import payload_size

__all__ = ["CHUNK", "MessageFactory", "compile_decoder", "compile_factory"]

CHUNK = 256
"""Messages published at once if no user code is called for them: well below a millisecond of work."""

Decoder = Callable[[Any], Any]


def _is_type(value: object) -> bool:
    return isinstance(value, type | types.UnionType) or typing.get_origin(value) is not None or value is Any


def _bad_decode(fault: str) -> ConfigError:
    return ConfigError(f"Endpoint: decode {fault}", (("decode", fault),))


def compile_decoder(decode: Any) -> tuple[Decoder | None, bool, bool]:
    """Return the function for `Endpoint.decode`, whether it wants text frames as str, and whether it is user code.

    No function means that the payload is the data. Raises ConfigError for a type that msgspec cannot decode.
    """
    if decode == "text":
        return None, True, False
    if decode == "bytes":
        return None, False, False
    if decode == "json":
        return msgspec.json.Decoder().decode, False, False
    if _is_type(decode):
        try:
            decoder = msgspec.json.Decoder(decode)
            known = not isinstance(msgspec.inspect.type_info(decode), msgspec.inspect.CustomType)
        except (TypeError, NameError) as exc:
            raise ConfigError(f"Endpoint: decode {decode!r}: {exc}", (("decode", str(exc)),)) from exc
        if not known:
            raise _bad_decode(f"{decode!r} is not a type that JSON can fill; give a function that makes one")
        return decoder.decode, False, False
    if not callable(decode):
        raise _bad_decode(f"must be 'text', 'bytes', 'json', a type or a function, not {decode!r}")
    return decode, True, not inspect.isbuiltin(decode)


def _from_function(function: Callable[[Any], str]) -> Topic:
    def topic(data: Any) -> str:
        made = function(data)
        if not isinstance(made, str):
            raise TypeError(f"the topic function returned {type(made).__name__}, not str")
        return safe_topic(made)

    return topic


@dataclass(frozen=True, slots=True)
class MessageFactory:
    """Makes the messages of one endpoint.

    `make_topic` returns the topic of the data, if the endpoint has a template or a function; `topic` is the default.
    """

    name: str
    topic: str
    decode: Decoder | None
    make_topic: Topic | None
    as_text: bool
    chunk: int
    format: str | None = None  # the template of `make_topic`

    def message(self, payload: str | bytes, index: int, session: int, at: float) -> Message[Any]:
        """Return the message of `payload`. Raises the errors of the decoder and of the topic function."""
        return self.of(payload if self.decode is None else self.decode(payload), payload, index, session, at)

    def of(self, data: Any, payload: str | bytes, index: int, session: int, at: float) -> Message[Any]:
        """Return the message of `payload`, decoded as `data`. Raises the errors of the topic function."""
        topic = self.topic
        if self.make_topic is not None:
            made = self.make_topic(data)
            if made is not None and not made.startswith("$"):
                topic = made
        return Message(data, topic, self.name, index, session, at, payload_size(payload))


def compile_factory(endpoint: Endpoint, name: str, topic: str | None = None) -> MessageFactory:
    """Return the factory of `endpoint` under `name`. `topic` is the default topic, if not the name."""
    decode, as_text, user_code = compile_decoder(endpoint.decode)
    default = topic or name
    make_topic: Topic | None = None
    if isinstance(endpoint.topic, str):
        if "{" in endpoint.topic:
            make_topic = compile_topic(endpoint.topic)
        else:
            default = endpoint.topic
    elif endpoint.topic is not None:
        make_topic = _from_function(endpoint.topic)
        user_code = True
    # With user code the batch size is 1: the wire then checks the clock after each call.
    template = endpoint.topic if isinstance(endpoint.topic, str) and make_topic is not None else None
    return MessageFactory(name, default, decode, make_topic, as_text, 1 if user_code else CHUNK, template)
