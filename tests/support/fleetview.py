"""Reports of a fleet that does not exist, always the same, as its HTTP interface would return them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from wsfleet.serve.status.schema import Endpoints, Overview, Query, Sample, StatusError

WORST_FIRST = {"FAILED": 0, "BACKOFF": 1, "CONNECTING": 2, "CLOSED": 3, "OPEN": 4}
AT = 1_000_000_000.0  # 2001-09-09 01:46:40 UTC


def endpoint(number: int) -> dict[str, Any]:
    """One of many endpoints, of which some have problems."""
    state = "FAILED" if number % 1250 == 7 else "BACKOFF" if number % 97 == 3 else "OPEN"
    error = {
        "OPEN": None,
        "BACKOFF": "ConnectFailed: tcp: Connection refused",
        "FAILED": "HandshakeRejected: http: the server answered 401",
    }[state]
    return {
        "name": f"feed-{number}",
        "uri": f"wss://feed-{number % 40}.example/v1/stream?token=***",
        "state": state,
        "connects": 1 + number % 5,
        "losses": number % 5,
        "received": 0 if state == "FAILED" else number * 7919 % 2_000_003,
        "received_bytes": number * 991,
        "sent": 1 + number % 5,
        "malformed": 3 if number % 211 == 0 else 0,
        "held": 0,
        "paused_by": ["archive"] if number == 5 else [],
        "paused_s": 12.5 if number == 5 else 0.0,
        "last_error": error,
        "latency_s": None if state == "FAILED" else 0.002 + number * 37 % 90 / 1000,
        "down_since": None if state == "OPEN" else AT - number,
    }


def overview(endpoints: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    states = dict.fromkeys(("CONNECTING", "OPEN", "BACKOFF", "CLOSED", "FAILED"), 0)
    for row in endpoints:
        states[row["state"]] += 1
    totals = {
        "received": sum(row["received"] for row in endpoints),
        "received_bytes": sum(row["received_bytes"] for row in endpoints),
        "sent": sum(row["sent"] for row in endpoints),
        "malformed": sum(row["malformed"] for row in endpoints),
        "dropped": 0,
        "failed": 0,
        "processed": sum(row["received"] for row in endpoints) - 15,
        "pending": 15,
        "connects": sum(row["connects"] for row in endpoints),
        "losses": sum(row["losses"] for row in endpoints),
        "dead": 0,
        "paused": 0,
    }
    return {
        "name": "market",
        "uptime_s": 11_532.0,
        "balanced": True,
        "accelerated": True,
        "loop_lag_s": 0.0012,
        "blocked": None,
        "at": AT,
        "states": states,
        "totals": totals | changes.pop("totals", {}),
        "latency": {"p50": 0.012, "p99": 0.0834},
        "slowest": [
            subscription("candles", "trades.>", 15),
            subscription("archive", ">", 0),
        ],
        "down": worst(endpoints)[:20],
        "down_count": len(worst(endpoints)),
        "workers": None,
        **changes,
    }


def worst(endpoints: list[dict[str, Any]]) -> list[dict[str, Any]]:
    down = [
        {"name": row["name"], "state": row["state"], "since": row["down_since"], "error": row["last_error"]}
        for row in endpoints
        if row["state"] != "OPEN"
    ]
    return sorted(down, key=lambda each: (each["state"] != "FAILED", each["since"]))


def subscription(name: str, pattern: str, pending: int, dropped: int = 0, overflow: str = "pause") -> dict[str, Any]:
    return {
        "name": name,
        "pattern": pattern,
        "offered": 90_000 + pending + dropped,
        "processed": 90_000,
        "failed": 0,
        "dropped": dropped,
        "pending": pending,
        "pending_bytes": 120 * pending,
        "overflow": overflow,
        "pausing_s": 0.0,
    }


def history(last: dict[str, Any], lost: tuple[int, int] = (0, 0)) -> list[dict[str, Any]]:
    """Ten minutes until `last`, in waves; `lost` is the second and the number of losses."""
    totals, samples = last["totals"], []
    received = totals["received"]
    for ago in range(600):
        missing = lost[1] if ago > lost[0] else 0
        samples.append(
            {
                "at": last["at"] - ago,
                "received": received,
                "processed": received - 15,
                "dropped": max(0, totals["dropped"] - 40 * ago),
                "failed": totals["failed"],
                "losses": totals["losses"] - missing,
                "connects": totals["connects"] - missing,
                "open": last["states"]["OPEN"],
                "pending": 15,
                "loop_lag_s": 0.001 + 0.0005 * (ago * ago % 7) + (0.2 if ago == lost[0] and lost[1] else 0),
                "latency_p50": 0.012,
                "latency_p99": 0.0834,
            }
        )
        received -= 11_000 + 90 * (ago * 31 % 40) - (7000 if 200 < ago < 260 else 0)
    return samples[::-1]


class FleetView:
    """A `View` of this fleet, which can be unreachable for a while; `asked` has the requested parts of the table."""

    def __init__(
        self,
        endpoints: list[dict[str, Any]] | None = None,
        sent: list[dict[str, Any]] | None = None,
        lost: tuple[int, int] = (0, 0),
        **changes: Any,
    ) -> None:
        self.place = "http://127.0.0.1:9464"
        self.rows = [endpoint(number) for number in range(1, 13)] if endpoints is None else endpoints
        self.trouble: StatusError | None = None
        self.asked: list[Query] = []
        self.looks = 0
        self.closed = False
        self.shown = overview(self.rows, **changes)
        self.past = history(self.shown, lost)
        self.sent = sent or []
        self.listened = asyncio.Event()

    async def overview(self) -> Overview:
        self._reach()
        self.looks += 1
        return msgspec.convert(self.shown, Overview)

    async def history(self) -> list[Sample]:
        self._reach()
        return msgspec.convert(self.past, list[Sample])

    async def endpoints(self, query: Query) -> Endpoints:
        self._reach()
        self.asked.append(query)
        return msgspec.convert(matching(self.rows, query), Endpoints)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        self._reach()
        for event in self.sent:
            yield event
        self.listened.set()
        await asyncio.Event().wait()

    async def close(self) -> None:
        self.closed = True

    def _reach(self) -> None:
        if self.trouble is not None:
            raise self.trouble


def matching(rows: list[dict[str, Any]], query: Query) -> dict[str, Any]:
    """The answer of /api/endpoints."""
    found = [
        row
        for row in rows
        if query.state in ("", row["state"]) and query.search in f"{row['name']} {row['uri']} {row['last_error']}"
    ]
    found.sort(key=lambda row: row["name"])
    if query.sort == "state":
        found.sort(key=lambda row: WORST_FIRST.get(row["state"], 5), reverse=query.order == "desc")
        return {"total": len(rows), "matched": len(found), **cut(found, query)}
    empty = [row for row in found if row[query.sort] is None]
    known = [row for row in found if row[query.sort] is not None]
    known.sort(key=lambda row: row[query.sort], reverse=query.order == "desc")
    return {"total": len(rows), "matched": len(found), **cut(known + empty, query)}


def cut(rows: list[dict[str, Any]], query: Query) -> dict[str, Any]:
    return {"offset": query.offset, "rows": rows[query.offset : query.offset + query.limit]}
