"""S4: a lost connection comes back by itself, logged in and subscribed again, with a token that is fresh.

    echo secret-token > token.txt
    FEED_SECRET="open sesame" python examples/reconnecting_login.py ws://127.0.0.1:8765/private \\
        --token-file token.txt --symbols AMBER,IVORY

Ctrl-C or SIGTERM ends it, after what has come in is processed.
"""

import argparse
import asyncio
import hmac
import os
import sys
import time
from pathlib import Path
from typing import Any

from wsfleet import EndpointFailed, Fatal, Fleet, Gap, Message, Reconnect, Session, State, StateChange


def make_fleet(uri: str, token_file: Path, secret: bytes, symbols: list[str]) -> Fleet:
    fleet = Fleet()

    async def headers() -> dict[str, str]:
        """Called for every attempt, so a token that was renewed meanwhile is used at once."""
        token = await asyncio.to_thread(token_file.read_text)
        return {"Authorization": f"Bearer {token.strip()}"}

    async def on_open(session: Session) -> None:
        """Log in, subscribe, and wait for both answers; runs on every connect, before the first message."""
        now = str(int(time.time()))
        signature = hmac.new(secret, now.encode(), "sha256").hexdigest()
        await session.send({"op": "login", "time": now, "signature": signature})
        answer = await session.recv(lambda message: message.data.get("op") == "login")
        if not answer.data["ok"]:
            raise Fatal("the server does not accept the secret")  # trying again would lock the account
        await session.send({"op": "subscribe", "symbols": symbols})
        await session.recv(lambda message: message.data.get("op") == "subscribe")

    @fleet.process("prices.*")
    async def show(message: Message[dict[str, Any]]) -> None:
        print(f"{message.topic}  {message.data['price']}", flush=True)

    @fleet.process("$state.*")
    async def tell(message: Message[StateChange]) -> None:
        change = message.data
        why = f": {change.error}" if change.error else ""
        when = f"; again in {change.delay_s:.1f} s" if change.state is State.BACKOFF else ""
        print(f"{change.endpoint} {change.previous} -> {change.state}{why}{when}", flush=True)

    @fleet.process("$gap.*")
    async def catch_up(message: Message[Gap]) -> None:
        gap = message.data
        since = message.received_at - gap.last_message_at if gap.last_message_at else gap.down_s
        print(f"{since:.1f} s are missing: the moment to ask for a snapshot", flush=True)

    fleet.connect(
        uri,
        name="private",
        headers=headers,
        on_open=on_open,
        decode="json",
        topic="prices.{symbol}",
        reconnect=Reconnect(max_s=10.0),
        required=True,
    )
    return fleet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("uri")
    parser.add_argument("--token-file", type=Path, required=True, help="read for every attempt")
    parser.add_argument("--symbols", default="AMBER", help="separated by commas (default: AMBER)")
    args = parser.parse_args()
    secret = os.environ.get("FEED_SECRET") or parser.error("set FEED_SECRET in the environment")
    try:
        make_fleet(args.uri, args.token_file, secret.encode(), args.symbols.split(",")).run()
    except EndpointFailed as error:
        sys.exit(str(error))
