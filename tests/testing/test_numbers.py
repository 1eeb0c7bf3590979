"""The audit of numbers tells what a fault explains from what it does not."""

from wsfleet.testing.numbers import Trail, audit


def test_the_end_of_a_cut_connection_is_destroyed() -> None:
    """What was sent last over a connection that was cut may be gone; a hole before something that arrived may not."""
    trails = [Trail("/", [1, 2, 3, 4, 5], destroyed=True), Trail("/", [6, 7])]
    found = audit(trails, [1, 3, 6, 7])
    assert (found.sent, found.arrived) == (7, 4)
    assert (found.destroyed, found.lost) == ((4, 5), (2,))
    assert not found.clean


def test_a_connection_that_was_not_cut_has_to_bring_everything() -> None:
    """Without a fault that destroys, each number that is missing is lost."""
    found = audit([Trail("/", [1, 2, 3])], [1])
    assert (found.destroyed, found.lost, found.clean) == ((), (2, 3), False)
    assert audit([Trail("/", [1, 2, 3])], [1, 2, 3]).clean


def test_what_came_twice_or_from_nowhere_is_told() -> None:
    """Numbers that were seen twice, and such as were never sent."""
    found = audit([Trail("/", [1, 2])], [1, 2, 2, 8])
    assert (found.repeated, found.unknown, found.clean) == ((2,), (8,), False)


def test_nothing_sent_nothing_lost() -> None:
    """The audit of nothing is clean, also where a connection was cut."""
    assert audit([Trail("/", [], destroyed=True)], []).clean
