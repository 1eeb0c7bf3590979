"""Watches a fleet over HTTP: the `View` of a fleet that runs elsewhere."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from wsfleet.serve.status.schema import Endpoints, Overview, Query, Sample, StatusError

__all__ = ["Client", "check_url"]

ANSWER_S = 5.0
QUIET_S = 45.0  # a fleet with nothing to tell says so every 15 seconds
MOST_EVENT = 2**20  # characters

T = TypeVar("T")

Token = Callable[[], str | None]


class _History(msgspec.Struct):
    samples: list[Sample]


def check_url(text: str) -> str:
    """Return the URL of a fleet as it is used, or raise ValueError, which quotes no secret, with what is wrong."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as exc:
        raise ValueError("is no URL: its host or port cannot be read") from exc
    if parts.scheme not in ("http", "https"):
        raise ValueError("must begin with http:// or https://")
    if not host or any(ord(letter) <= 32 or ord(letter) == 127 for letter in url):
        raise ValueError("is no URL of a host")
    if parts.username is not None:
        raise ValueError("has a user or password in it, which others could read; use --token-file")
    if parts.query or parts.fragment:
        raise ValueError("has more than a path after its host; a token goes into a file, for --token-file")
    return url.rstrip("/")


class Client:
    """A fleet's HTTP interface at `url`. `token` is asked for each request, so a renewed one is taken up."""

    def __init__(self, url: str, token: Token = lambda: None) -> None:
        self.place = url
        self._token = token
        # SSL_CERT_FILE, and the system's certificates. No proxy of the environment's stands between us and ourselves.
        self._http = httpx.AsyncClient(
            timeout=ANSWER_S, verify=ssl.create_default_context(), trust_env=not _is_loopback(urlsplit(url).hostname)
        )

    async def overview(self) -> Overview:
        """Return the fleet at a glance."""
        return await self._get("overview", Overview)

    async def history(self) -> list[Sample]:
        """Return the last minutes, oldest first."""
        return (await self._get("history", _History)).samples

    async def endpoints(self, query: Query) -> Endpoints:
        """Return the rows that `query` asks for."""
        return await self._get("endpoints", Endpoints, msgspec.to_builtins(query))

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what happens from now on."""
        timeout = httpx.Timeout(ANSWER_S, read=QUIET_S)
        try:
            async with self._http.stream(
                "GET", self._url("events"), headers=self._headers("text/event-stream"), timeout=timeout
            ) as answer:
                self._check(answer)
                async for event in _events(answer.aiter_text()):
                    yield event
        except httpx.HTTPError as exc:
            raise StatusError("UNREACHABLE", _why(exc)) from exc

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _get(self, what: str, kind: type[T], params: dict[str, str] | None = None) -> T:
        try:
            answer = await self._http.get(self._url(what), params=params, headers=self._headers("application/json"))
        except httpx.HTTPError as exc:
            raise StatusError("UNREACHABLE", _why(exc)) from exc
        self._check(answer)
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise StatusError("NO FLEET", f"what answers there is no wsfleet, or another version: {exc}") from exc

    def _url(self, what: str) -> str:
        return f"{self.place}/api/{what}"

    def _headers(self, accept: str) -> dict[str, str]:
        try:
            token = self._token()
        except (OSError, ValueError) as exc:
            raise StatusError("REFUSED", "the file of the token cannot be read any more") from exc
        return {"Accept": accept} | ({"Authorization": f"Bearer {token}"} if token else {})

    def _check(self, answer: httpx.Response) -> None:
        if answer.status_code in (401, 403):
            sent = "Authorization" in answer.request.headers
            text = "the fleet refuses this token" if sent else "the fleet wants a token: --token-file, or WSFLEET_TOKEN"
            if answer.status_code == 403 and not sent:
                text = "the fleet answers 403: it does not let itself be watched by this name"
            raise StatusError("REFUSED", text)
        if answer.status_code != httpx.codes.OK:
            place = answer.request.url.path
            raise StatusError("NO FLEET", f"what answers there says {answer.status_code} at {place}: is it a wsfleet?")


async def _events(chunks: AsyncIterator[str]) -> AsyncIterator[dict[str, Any]]:
    """Yield server-sent events, whose data is a JSON object, with the event's name as `kind`."""
    rest, kind, data = "", "", ""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split("\n")
        if len(rest) + len(data) > MOST_EVENT:
            raise StatusError("NO FLEET", "an event there has no end")
        for line in lines:
            name, _, value = line.rstrip("\r").partition(":")
            if name == "event":
                kind = value.strip()
            elif name == "data":
                data += value.removeprefix(" ")
            elif not name and not value:  # an empty line ends the event; a comment has a value
                if kind or data:
                    yield _event(kind, data)
                kind, data = "", ""


def _event(kind: str, data: str) -> dict[str, Any]:
    try:
        event = msgspec.json.decode(data or "{}", type=dict[str, Any])
    except msgspec.DecodeError:
        event = {}
    return {**event, "kind": kind}


def _why(error: BaseException) -> str:
    """Say in a person's words why nobody answers: the innermost reason tells most."""
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
        return "cannot ask for this URL"
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return f"its certificate is not to be trusted: {seen.verify_message}"
        if isinstance(seen, ssl.SSLError):
            return "no TLS is spoken there (http:// rather than https://?)"
        if isinstance(seen, OSError) and seen.errno is not None and seen.errno > 0:
            return os.strerror(seen.errno).lower()
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror.lower()  # of the lookup of a name, whose numbers are negative
        seen = seen.__cause__ or seen.__context__
    return str(error) or "the connection was lost"


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
