"""What feeds.toml names: functions of a message, and one that logs in."""

import hmac
import os
import time
from typing import Any

from wsfleet import Fatal, Message, Session, StateChange


async def log_in(session: Session) -> None:
    """Log in and subscribe, and wait for both answers."""
    now = str(int(time.time()))
    signature = hmac.new(os.environ["FEED_SECRET"].encode(), now.encode(), "sha256").hexdigest()
    await session.send({"op": "login", "time": now, "signature": signature})
    answer = await session.recv(lambda message: message.data.get("op") == "login")
    if not answer.data["ok"]:
        raise Fatal("the server does not accept the secret")
    await session.send({"op": "subscribe", "symbols": ["AMBER"]})
    await session.recv(lambda message: message.data.get("op") == "subscribe")


async def on_amber(message: Message[dict[str, Any]]) -> None:
    print(f"{message.topic:14} {message.index:5}  {message.data['price']}", flush=True)


async def on_state(message: Message[StateChange]) -> None:
    print(f"{message.data.endpoint} is {message.data.state}", flush=True)
