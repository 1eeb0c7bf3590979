"""Dividing endpoints: each is in exactly one share, and changes only if necessary."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsfleet import Fleet, Message
from wsfleet.runtime.sharding import Shard, divide, parse_shard
from wsfleet.sinks import open as open_sink

names = st.text(min_size=1, max_size=30)


def owners(name: str, count: int, level: str = "shard") -> list[int]:
    return [index for index in range(count) if Shard(index, count, level).holds(name)]


@given(names, st.integers(1, 50))
def test_every_name_is_in_exactly_one_share(name: str, count: int) -> None:
    """For any name and number of shares, one share has it, always the same one."""
    assert len(owners(name, count)) == 1
    assert owners(name, count) == owners(name, count)


@given(names, st.integers(1, 50))
def test_names_only_move_to_an_additional_share(name: str, count: int) -> None:
    """From N to N + 1 shares, a name stays in its share or moves to the new one."""
    assert owners(name, count + 1)[0] in (owners(name, count)[0], count)


def test_shares_are_even_and_few_names_move() -> None:
    """Of 10,000 names, each of 4 shares has about a quarter, and a fifth share takes about a fifth."""
    all_names = [f"feed-{number}" for number in range(10_000)]
    before = {name: owners(name, 4)[0] for name in all_names}
    assert all(2_300 < size < 2_700 for size in Counter(before.values()).values())
    moved = sum(owners(name, 5)[0] != before[name] for name in all_names)
    assert 1_800 < moved < 2_200


def test_a_share_is_divided_evenly_among_workers() -> None:
    """The share of one host of three is divided evenly among its workers, because both draws are independent."""
    mine = [name for name in (f"feed-{number}" for number in range(9_000)) if Shard(1, 3).holds(name)]
    sizes = Counter(owners(name, 3, "worker")[0] for name in mine)
    assert len(sizes) == 3 and all(850 < size < 1_150 for size in sizes.values())


def test_shares_do_not_change_with_a_new_version() -> None:
    """The assignment never changes, so that hosts of different versions agree."""
    assert [owners(f"feed-{number}", 5)[0] for number in range(12)] == [3, 2, 2, 4, 2, 1, 0, 4, 4, 4, 4, 1]


@pytest.mark.parametrize("text", ["", "1", "3/3", "0/0", "-1/3", "1/3/4", "a/3", " 1/3", "1/3\n", "9999999/99999999"])
def test_an_invalid_share_is_rejected(text: str) -> None:
    """An invalid share is rejected, and quoted."""
    with pytest.raises(ValueError, match="shard") as caught:
        parse_shard(text)
    assert repr(text) in str(caught.value)


def test_the_first_share_is_0() -> None:
    """The first share is 0."""
    assert parse_shard("0/3") == Shard(0, 3)
    assert parse_shard("2/3") == Shard(2, 3)
    assert str(Shard(2, 3)) == "2/3"


def declared() -> Fleet:
    fleet = Fleet()

    async def handler(message: Message[str]) -> None: ...

    for number in range(30):
        fleet.connect("ws://h", handler, name=f"feed-{number}")
    for number in range(6):
        fleet.pool("ws://h", 3, handler, name=f"pool-{number}")
    fleet.process("feed-1", name="own")(handler)
    fleet.process(">", name="sink")(open_sink("stdout"))
    return fleet


def test_fleets_are_divided() -> None:
    """Each share has its own endpoints and their processors; pools are not divided, and patterns are in each share."""
    whole, parts = declared(), [declared() for _ in range(3)]
    for index, part in enumerate(parts):
        divide(part, Shard(index, 3))
    found = [name for part in parts for name in part.connections]
    assert sorted(found) == sorted(whole.connections)
    for part in parts:
        own = {"own", "sink"}
        assert set(part.subscriptions) == own | {
            name if name.startswith("feed") else name.rpartition("-")[0] for name in part.connections
        }
        pools = Counter(name.rpartition("-")[0] for name in part.connections if name.startswith("pool"))
        assert set(pools.values()) <= {3}


def test_other_shares_have_no_rows() -> None:
    """A report contains only its share, and no rows of the others."""
    fleet = declared()
    divide(fleet, Shard(0, 3), Shard(1, 2, "worker"))
    stats = fleet.stats()
    assert [row.name for row in stats.endpoints] == list(fleet.connections)
    assert {row.name for row in stats.subscriptions} == set(fleet.subscriptions)
    assert stats.balanced
