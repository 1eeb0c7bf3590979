"""The cookies of one endpoint, by the rules of `http.cookiejar`."""

from __future__ import annotations

from email.message import Message
from http.client import HTTPResponse
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import cast
from urllib.request import Request

from websockets.uri import WebSocketURI

from wsfleet.core.headers import Headers

__all__ = ["Cookies"]

MOST = 50
"""Maximum number of cookies of an endpoint, as RFC 6265, section 6.1, proposes for a domain. More replace the first."""


class _Answer:
    """The part of an HTTP response that `CookieJar` reads."""

    def __init__(self, headers: Headers) -> None:
        self._headers = Message()
        for value in headers.get_all("Set-Cookie"):
            self._headers["Set-Cookie"] = value

    def info(self) -> Message:
        return self._headers


class Cookies:
    """Keeps the cookies that servers set, and returns those for a URI.

    A WebSocket URI has the cookies of the http or https URI with the same host and path. The wall clock decides whether
    a cookie has expired.
    """

    def __init__(self) -> None:
        # Without this, a cookie without a Domain attribute would be sent to subdomains too.
        self._jar = CookieJar(DefaultCookiePolicy(strict_ns_domain=DefaultCookiePolicy.DomainStrictNonDomain))

    def header(self, where: WebSocketURI) -> str:
        """Return the value of the Cookie header for a request to `where`; empty if there is none."""
        request = _request(where)
        self._jar.add_cookie_header(request)
        return request.get_header("Cookie") or ""

    def store(self, where: WebSocketURI, headers: Headers) -> None:
        """Keep the cookies of a response from `where`."""
        # http.cookiejar asks for a response of http.client, but uses only info().
        self._jar.extract_cookies(cast(HTTPResponse, _Answer(headers)), _request(where))
        for cookie in list(self._jar)[:-MOST]:
            self._jar.clear(cookie.domain, cookie.path, cookie.name)


def _request(where: WebSocketURI) -> Request:
    host = f"[{where.host}]" if ":" in where.host else where.host
    return Request(f"{'https' if where.secure else 'http'}://{host}:{where.port}{where.path}")  # noqa: S310 - not opened
