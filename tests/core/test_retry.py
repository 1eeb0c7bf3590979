"""Retry decisions: delays, the restart budget, and fatal errors."""

import ssl
import time
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsfleet.core.errors import ConfigError, ConnectFailed, ConnectionLost, Fatal, FleetError, HandshakeRejected
from wsfleet.core.options import Reconnect
from wsfleet.core.retry import Backoff, RestartBudget, Verdict, classify, is_fatal, may_be_timeout, retry_after_s

seconds = st.floats(0, 1e6)
plans = st.builds(Reconnect, initial_s=seconds, max_s=seconds, factor=st.floats(1, 1e300), jitter=st.floats(0, 1))
fractions = st.floats(0, 1, exclude_max=True)


@given(plans, st.lists(fractions, min_size=1, max_size=30))
def test_every_delay_lies_under_a_bound_that_grows_to_its_maximum(plan, drawn):
    """Each delay is between (1 - jitter) of its bound and its bound; bounds grow by the factor up to max_s."""
    numbers = deque(drawn)
    backoff = Backoff(plan, numbers.popleft)
    bound = min(plan.initial_s, plan.max_s)
    for _ in range(len(drawn)):
        delay = backoff.next()
        assert bound * (1 - plan.jitter) <= delay * (1 + 1e-9)
        assert delay <= bound
        grown = min(bound * plan.factor, plan.max_s)
        assert grown >= bound
        bound = grown


@given(plans, st.integers(0, 10), st.integers(1, 10))
def test_a_stable_connection_resets_the_delays(plan, before, count):
    """After `reset`, the delays are those of a new Backoff."""
    used, fresh = Backoff(plan, lambda: 0.5), Backoff(plan, lambda: 0.5)
    for _ in range(before):
        used.next()
    used.reset()
    assert [used.next() for _ in range(count)] == [fresh.next() for _ in range(count)]


def test_full_jitter_uses_the_whole_range():
    """With the default jitter, delays are spread from zero to the bound."""
    assert Backoff(Reconnect(), lambda: 0.0).next() == 0.5
    assert Backoff(Reconnect(), lambda: 0.75).next() == 0.125
    assert [Backoff(Reconnect(jitter=0.0), lambda: 0.75).next() for _ in range(2)] == [0.5, 0.5]


@given(
    st.one_of(st.none(), st.integers(0, 5)),
    st.floats(0.1, 100),
    st.lists(st.floats(0, 50), max_size=40),
)
def test_the_budget_is_the_naive_count_of_restarts_in_the_window(most, window_s, pauses):
    """A restart is allowed exactly if fewer than `max_restarts` were allowed in the last `window_s` seconds."""
    budget = RestartBudget(most, window_s)
    now, granted = 0.0, []
    for pause in pauses:
        now += pause
        expected = most is None or len([at for at in granted if now - at < window_s]) < most
        assert budget.spend(now) is expected
        if expected:
            granted.append(now)


def test_a_restart_is_forgotten_when_its_window_has_passed():
    """A restart no longer counts exactly `window_s` after it."""
    budget = RestartBudget(1, 60.0)
    assert [budget.spend(now) for now in (0.0, 59.5, 60.0, 119.5, 120.0)] == [True, False, True, False, True]


def caused(error, cause):
    error.__cause__ = cause
    return error


BAD_CERTIFICATE = ssl.SSLCertVerificationError(1, "certificate verify failed")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (HandshakeRejected(401), Verdict(True)),
        (HandshakeRejected(403), Verdict(True)),
        (HandshakeRejected(404), Verdict(True)),
        (HandshakeRejected(410), Verdict(True)),
        (HandshakeRejected(400), Verdict(False)),
        (HandshakeRejected(418, retry_after_s=60.0), Verdict(False, 60.0)),
        (HandshakeRejected(429), Verdict(False)),
        (HandshakeRejected(429, retry_after_s=12.0), Verdict(False, 12.0)),
        (HandshakeRejected(429, retry_after_s=1e9), Verdict(False, 3600.0)),
        (HandshakeRejected(429, retry_after_s=-5.0), Verdict(False)),
        (HandshakeRejected(500), Verdict(False)),
        (HandshakeRejected(503, retry_after_s=5.0), Verdict(False, 5.0)),
        (ConnectFailed("dns"), Verdict(False)),
        (ConnectFailed("tcp"), Verdict(False)),
        (ConnectFailed("proxy"), Verdict(False)),
        (ConnectFailed("tls"), Verdict(False)),
        (ConnectFailed("on_open"), Verdict(False)),
        (ConnectFailed("uri"), Verdict(False)),
        (caused(ConnectFailed("uri"), RuntimeError("the uri function failed")), Verdict(False)),
        (caused(ConnectFailed("uri"), ConfigError("bad uri")), Verdict(True)),
        (caused(ConnectFailed("tls"), BAD_CERTIFICATE), Verdict(True)),
        (caused(ConnectFailed("proxy"), BAD_CERTIFICATE), Verdict(True)),
        (caused(ConnectFailed("tls"), ssl.SSLError(1, "handshake failure")), Verdict(False)),
        (Fatal("no"), Verdict(True)),
        (caused(ConnectFailed("on_open"), Fatal("no")), Verdict(True)),
        *[(ConnectionLost(code), Verdict(False)) for code in (1000, 1001, 1002, 1006, 1008, 1011, 3500, 4001, 4999)],
        (FleetError("anything"), Verdict(False)),
    ],
)
def test_the_table_of_errors(error, expected):
    """By default, errors that a retry cannot change are fatal, and close codes are not."""
    assert classify(error, is_fatal, fresh_credentials=False, rejections=1) == expected


@pytest.mark.parametrize("status", [401, 403])
def test_fresh_credentials_get_one_more_attempt(status):
    """If the URI or headers are computed for each attempt, the first 401 or 403 is not fatal, the second is."""
    error = HandshakeRejected(status)
    assert not classify(error, is_fatal, fresh_credentials=True, rejections=1).fatal
    assert classify(error, is_fatal, fresh_credentials=True, rejections=2).fatal
    assert classify(HandshakeRejected(404), is_fatal, fresh_credentials=True, rejections=1).fatal


def test_the_users_function_decides_and_is_asked_once():
    """`fatal` is called once for each error and decides; Fatal is always fatal."""
    asked = []

    def fatal(error):
        asked.append(error)
        return isinstance(error, ConnectionLost)

    lost, rejected = ConnectionLost(4001), HandshakeRejected(429, retry_after_s=3.0)
    assert classify(lost, fatal, fresh_credentials=False, rejections=0) == Verdict(True)
    assert classify(rejected, fatal, fresh_credentials=False, rejections=0) == Verdict(False, 3.0)
    assert classify(rejected, lambda _: True, fresh_credentials=False, rejections=0) == Verdict(True)
    assert asked == [lost, rejected]
    assert classify(Fatal(), lambda _: False, fresh_credentials=False, rejections=0).fatal


def lost_in_on_open(code):
    error = ConnectFailed("on_open", "connection lost")
    error.__cause__ = ConnectionLost(code)
    return error


def test_a_fatal_function_may_leave_the_decision_to_the_default():
    """None from `fatal` means the default rule, true and false mean what they say."""
    missing, busy = HandshakeRejected(404), HandshakeRejected(503)
    for answer, fatal in ((None, (True, False)), (True, (True, True)), (False, (False, False))):
        verdicts = [
            classify(error, lambda _, answer=answer: answer, fresh_credentials=False, rejections=0)
            for error in (missing, busy)
        ]
        assert tuple(verdict.fatal for verdict in verdicts) == fatal


@pytest.mark.parametrize("made", [ConnectionLost, lost_in_on_open])
@pytest.mark.parametrize("fatal", [is_fatal, lambda _: None, lambda _: False])
def test_fatal_codes_are_fatal_beside_the_default(made, fatal):
    """A close code in `fatal_codes` is fatal, also during on_open, and all other errors are decided as without it."""

    def verdict(error):
        return classify(error, fatal, fatal_codes=(4004,), fresh_credentials=False, rejections=0).fatal

    assert verdict(made(4004))
    assert not verdict(made(4009))
    assert verdict(HandshakeRejected(401)) == (fatal(HandshakeRejected(401)) is not False)


def test_407_of_a_proxy_is_fatal_and_its_other_statuses_are_not():
    """A wrong password for the proxy is not repeated; 404 and 503 of the proxy may be temporary."""
    verdicts = {status: is_fatal(ConnectFailed("proxy", "refused", status=status)) for status in (401, 404, 407, 503)}
    assert verdicts == {401: False, 404: False, 407: True, 503: False}


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        (None, None),
        ("120", 120.0),
        (" 5 ", 5.0),
        ("0", 0.0),
        ("99999999999999999999", 9999999999.0),
        ("Thu, 01 Jan 1970 00:16:40 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:33:20 GMT", 1000.0),
        ("Thu, 01 Jan 1970 01:33:20 +0100", 1000.0),
        ("Thu, 01 Jan 1970 00:33:20", 1000.0),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("", None),
        ("1 Jan 99999999999 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_a_number_of_seconds_or_a_date(value, wait_s):
    """Both forms of Retry-After are parsed (RFC 9110, section 10.2.3); other values are ignored."""
    assert retry_after_s(value, 1000.0) == wait_s


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the system has no tzset")
def test_a_date_without_a_zone_is_utc(monkeypatch):
    """A date without a time zone is UTC, regardless of the local time zone."""
    monkeypatch.setenv("TZ", "XYZ-5")
    time.tzset()
    try:
        assert retry_after_s("Thu, 01 Jan 1970 00:33:20", 1000.0) == 1000.0
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("code", [1006, 1008, 1011, 1013, 3000, 3001, 4999])
def test_close_codes_after_a_timeout(code):
    """Close codes that a peer may use after a timeout; 3000 is the first application code."""
    assert may_be_timeout(code)


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1007, 1009, 1010, 1012, 1014, 2999])
def test_close_codes_for_other_reasons(code):
    """Other close codes do not indicate a timeout."""
    assert not may_be_timeout(code)


date_parts = st.sampled_from(
    """Mon Tue, Jan 01 99 2026 99999999999 -5 +0000 GMT -9999 12:00:00 :: 25:61:61 0 ( \x00 é Z""".split()  # noqa: SIM905
)


@given(st.one_of(st.lists(date_parts, max_size=9).map(" ".join), st.text(max_size=30)))
def test_no_retry_after_raises(value):
    """Arbitrary values give None or a delay that is not negative."""
    wait_s = retry_after_s(value, 1e9)
    assert wait_s is None or wait_s >= 0
