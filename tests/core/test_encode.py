"""The encoding of data that is sent."""

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from wsfleet.core.encode import encode_payload


class Order(msgspec.Struct):
    price: float


@dataclass
class Sides:
    bid: list[float]


@pytest.mark.parametrize(
    ("data", "payload"),
    [
        ("null", "null"),
        (b"\x00", b"\x00"),
        (bytearray(b"\x00"), b"\x00"),
        (memoryview(b"\x00"), b"\x00"),
        ({"a": None, "b": [1.5, "null"]}, '{"a":null,"b":[1.5,"null"]}'),
        ({"x": Decimal("0.10")}, '{"x":"0.10"}'),
        (2**70, "1180591620717411303424"),
        (Order(1.0), '{"price":1.0}'),
        ({"id": 1, "result": msgspec.Raw(b'{"a": null}')}, '{"id":1,"result":{"a": null}}'),
        (None, "null"),
    ],
)
def test_payloads(data: Any, payload: str | bytes) -> None:
    """Text and bytes stay as they are, and other data becomes JSON text."""
    assert encode_payload(data) == payload


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (math.nan, "$ is nan"),
        ({"x": math.inf}, "$.x is inf"),
        ({"a": None, "b": [0.0, (1.0, -math.inf)]}, r"$.b[1][1] is -inf"),
        (Order(math.nan), "$.price is nan"),
        (Sides([math.nan]), "$.bid[0] is nan"),
    ],
)
def test_numbers_that_json_cannot_express(data: Any, place: str) -> None:
    """NaN and infinity are refused with their place, instead of being sent as null."""
    with pytest.raises(ValueError, match="cannot send as JSON") as refused:
        encode_payload(data)
    assert place in str(refused.value)


def test_data_that_json_cannot_express() -> None:
    """An object that JSON cannot express raises TypeError."""
    with pytest.raises(TypeError):
        encode_payload(object())
