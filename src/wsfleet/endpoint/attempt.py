"""Calls the `uri` and `headers` functions of an endpoint for one attempt, and checks their results."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from ssl import SSLContext
from typing import Any

from wsfleet.core.attempt import Attempt, takes_attempt
from wsfleet.core.checks import check_headers, check_uri
from wsfleet.core.errors import ConfigError, ConnectFailed
from wsfleet.core.options import Endpoint
from wsfleet.core.redact import redact_text, secrets_of
from wsfleet.transport.base import DialRequest
from wsfleet.transport.cookies import Cookies

__all__ = ["bind_attempt", "resolve_request", "resolve_uri", "secrets_in"]

SUBPROTOCOLS = "Sec-WebSocket-Protocol"
"""The header of the subprotocols. It may hold a token: browsers can set no other header for one."""


async def resolve_uri(endpoint: Endpoint) -> str:
    """Return the URI of an attempt. Raises the error of the function, and ConnectFailed for an invalid result."""
    if isinstance(endpoint.uri, str):
        return endpoint.uri
    try:
        return await _made_uri(endpoint.uri, endpoint.ssl)
    except ConfigError as exc:
        raise _fatal(exc) from exc


async def resolve_request(endpoint: Endpoint, name: str, uri: str, cookies: Cookies | None) -> DialRequest:
    """Return the request of an attempt. Raises the error of the function, and ConnectFailed for an invalid result."""
    headers = endpoint.headers
    try:
        if not isinstance(headers, Mapping):
            headers = {} if headers is None else await _made_headers(headers)
    except ConfigError as exc:
        raise _fatal(exc) from exc
    return DialRequest(
        name=name,
        uri=uri,
        headers=headers,
        subprotocols=endpoint.subprotocols,
        subprotocol_required=endpoint.subprotocol_required,
        compression=endpoint.compression,
        ssl=endpoint.ssl,
        proxy=endpoint.proxy,
        max_size=endpoint.max_size,
        max_fragments=endpoint.max_fragments,
        close_s=endpoint.close_s,
        cookies=cookies,
    )


def secrets_in(request: DialRequest) -> list[str]:
    """Return the secrets in the URI, headers and subprotocols of `request`."""
    return secrets_of(request.uri, {**request.headers, SUBPROTOCOLS: ", ".join(request.subprotocols)})


async def _made_uri(function: Callable[..., Awaitable[str]], ssl: SSLContext | None) -> str:
    uri = await _call(function, "uri")
    fault = check_uri(uri) if isinstance(uri, str) else "is not a str"
    if fault is None and ssl is not None and uri.lower().startswith("ws://"):
        fault = "begins with ws://, but ssl is given"
    if fault:
        raise ConfigError(f"the uri function returned a uri that {fault}")
    return str(uri)


async def _made_headers(function: Callable[..., Awaitable[Mapping[str, str]]]) -> Mapping[str, str]:
    headers = await _call(function, "headers")
    if not isinstance(headers, Mapping):
        raise _bad_headers(f" returned {type(headers).__name__}, not a mapping")
    faults = list(check_headers(headers))
    if faults:
        raise _bad_headers(f": {'; '.join(faults)}")
    return headers


def _fatal(fault: ConfigError) -> ConnectFailed:
    # With a ConfigError as its cause: another attempt would fail in the same way.
    return ConnectFailed("uri", redact_text(str(fault)))


def _bad_headers(fault: str) -> ConnectFailed:
    # Without a ConfigError as its cause: the next attempt calls the function again.
    return ConnectFailed("uri", redact_text(f"the headers function{fault}"))


async def _call(function: Callable[..., Awaitable[Any]], name: str) -> Any:
    made = function()
    if not inspect.isawaitable(made):
        raise ConfigError(f"the {name} function is not an async function")
    return await made


def bind_attempt(endpoint: Endpoint, attempt: Callable[[], Attempt]) -> Endpoint:
    """Return `endpoint` with functions that take no argument: those that take one are called with `attempt()`."""
    uri, headers = endpoint.uri, endpoint.headers
    if not isinstance(uri, str) and takes_attempt(uri):
        endpoint = replace(endpoint, uri=_bound(uri, attempt))
    if callable(headers) and takes_attempt(headers):
        endpoint = replace(endpoint, headers=_bound(headers, attempt))
    return endpoint


def _bound(function: Callable[..., Awaitable[Any]], attempt: Callable[[], Attempt]) -> Callable[[], Any]:
    def call() -> Any:
        return function(attempt())

    call.__name__ = getattr(function, "__name__", call.__name__)  # shown in the repr of an endpoint
    return call
