"""The audit distinguishes numbers that a fault explains from lost ones."""

from wsfleet.testing.numbers import Trail, audit


def test_the_end_of_a_cut_connection_is_destroyed() -> None:
    """The last numbers of a cut connection are destroyed; a gap before a received number is a loss."""
    trails = [Trail("/", [1, 2, 3, 4, 5], destroyed=True), Trail("/", [6, 7])]
    found = audit(trails, [1, 3, 6, 7])
    assert (found.sent, found.arrived) == (7, 4)
    assert (found.destroyed, found.lost) == ((4, 5), (2,))
    assert not found.clean


def test_missing_numbers_are_lost_on_an_uncut_connection() -> None:
    """On a connection without a destroying fault, each missing number is lost."""
    found = audit([Trail("/", [1, 2, 3])], [1])
    assert (found.destroyed, found.lost, found.clean) == ((), (2, 3), False)
    assert audit([Trail("/", [1, 2, 3])], [1, 2, 3]).clean


def test_repeated_and_unknown_numbers_are_reported() -> None:
    """Repeated and unknown numbers are reported."""
    found = audit([Trail("/", [1, 2])], [1, 2, 2, 8])
    assert (found.repeated, found.unknown, found.clean) == ((2,), (8,), False)


def test_nothing_sent_nothing_lost() -> None:
    """An audit without numbers is clean, also for a cut connection."""
    assert audit([Trail("/", [], destroyed=True)], []).clean
