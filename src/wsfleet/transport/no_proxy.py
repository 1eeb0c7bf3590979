"""Which hosts the environment variable NO_PROXY exempts from the proxy, as curl and Go read it.

There is no standard. Python's urllib ignores networks in CIDR notation and addresses in brackets.
"""

from __future__ import annotations

import ipaddress
import re

__all__ = ["is_exempt"]

_PORT = re.compile(r"(?P<host>\[.*\]|[^:]*)(?::(?P<port>\d+))?")


def is_exempt(host: str, port: int, no_proxy: str) -> bool:
    """Whether `no_proxy` names `host`: as `*`, a name or its domain, an address, a network, each with or without port.

    Entries are separated by commas or white space.
    """
    host = host.lower().strip("[]").rstrip(".")
    return any(_matches(host, port, entry) for entry in re.split(r"[\s,]+", no_proxy.lower()) if entry)


def _matches(host: str, port: int, entry: str) -> bool:
    if entry == "*":
        return True
    found = _PORT.fullmatch(entry)  # None: an IPv6 address or network without brackets
    if found is not None:
        if found["port"] is not None and int(found["port"]) != port:
            return False
        entry = found["host"].strip("[]")
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:  # one of them is a name
        name = entry.removeprefix("*").strip(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))
