"""The HTTP client of `wsfleet top`: a `View` of a fleet in another process."""

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
QUIET_S = 45.0  # three times the server's keep-alive interval of 15 seconds
MAX_EVENT = 2**20  # characters

T = TypeVar("T")

Token = Callable[[], str | None]


class _History(msgspec.Struct):
    samples: list[Sample]


def check_url(text: str) -> str:
    """Return the normalized URL of a fleet. Raises ValueError, whose text contains no secret."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as exc:
        raise ValueError("has a host or port that is not valid") from exc
    if parts.scheme not in ("http", "https"):
        raise ValueError("must begin with http:// or https://")
    if not host or any(ord(letter) <= 32 or ord(letter) == 127 for letter in url):
        raise ValueError("has no valid host")
    if parts.username is not None:
        raise ValueError("must not contain a user or password, which other users could read; use --token-file")
    if parts.query or parts.fragment:
        raise ValueError("must not have a query or fragment; for a token, use --token-file")
    return url.rstrip("/")


class Client:
    """A client of a fleet's HTTP interface at `url`. `token` is called for each request, so the token may change."""

    def __init__(self, url: str, token: Token = lambda: None) -> None:
        self.place = url
        self._token = token
        # Uses SSL_CERT_FILE or the system's certificates. The environment's proxy must not be used for loopback.
        self._http = httpx.AsyncClient(
            timeout=ANSWER_S, verify=ssl.create_default_context(), trust_env=not _is_loopback(urlsplit(url).hostname)
        )

    async def overview(self) -> Overview:
        """Return the summary of the fleet."""
        return await self._get("overview", Overview)

    async def history(self) -> list[Sample]:
        """Return the samples of the last minutes, oldest first."""
        return (await self._get("history", _History)).samples

    async def endpoints(self, query: Query) -> Endpoints:
        """Return the rows that `query` asks for."""
        return await self._get("endpoints", Endpoints, msgspec.to_builtins(query))

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield events from now on."""
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

    async def _get(self, path: str, kind: type[T], params: dict[str, str] | None = None) -> T:
        try:
            answer = await self._http.get(self._url(path), params=params, headers=self._headers("application/json"))
        except httpx.HTTPError as exc:
            raise StatusError("UNREACHABLE", _why(exc)) from exc
        self._check(answer)
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise StatusError("NO FLEET", f"the server is not wsfleet, or another version of it: {exc}") from exc

    def _url(self, path: str) -> str:
        return f"{self.place}/api/{path}"

    def _headers(self, accept: str) -> dict[str, str]:
        try:
            token = self._token()
        except (OSError, ValueError) as exc:
            raise StatusError("REFUSED", "the token file can no longer be read") from exc
        return {"Accept": accept} | ({"Authorization": f"Bearer {token}"} if token else {})

    def _check(self, answer: httpx.Response) -> None:
        if answer.status_code in (401, 403):
            sent = "Authorization" in answer.request.headers
            text = "the token is not valid" if sent else "the fleet requires a token: --token-file, or WSFLEET_TOKEN"
            if answer.status_code == 403 and not sent:
                text = "the fleet answered 403: it does not accept this host name"
            raise StatusError("REFUSED", text)
        if answer.status_code != httpx.codes.OK:
            place = answer.request.url.path
            raise StatusError("NO FLEET", f"the server answered {answer.status_code} at {place}; is it wsfleet?")


async def _events(chunks: AsyncIterator[str]) -> AsyncIterator[dict[str, Any]]:
    """Parse server-sent events. Yield the JSON object of each, with the event's name as `kind`."""
    rest, kind, data = "", "", ""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split("\n")
        if len(rest) + len(data) > MAX_EVENT:
            raise StatusError("NO FLEET", "the server sent an event that is too long")
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
    """Return a short reason why a request failed, from the innermost known exception."""
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
        return "the URL is not supported"
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return f"cannot verify the certificate: {seen.verify_message}"
        if isinstance(seen, ssl.SSLError):
            return "the server does not use TLS (http:// instead of https://?)"
        if isinstance(seen, OSError) and seen.errno is not None and seen.errno > 0:
            return os.strerror(seen.errno).lower()
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror.lower()  # gaierror, whose errno is negative
        seen = seen.__cause__ or seen.__context__
    return str(error) or "the connection was lost"


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
