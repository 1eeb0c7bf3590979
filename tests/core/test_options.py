"""Declarations are checked on creation, and shown without secrets."""

import ssl

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from websockets.datastructures import Headers
from websockets.exceptions import InvalidProxy
from websockets.proxy import parse_proxy
from websockets.uri import parse_uri

from wsfleet.core.checks import make_name
from wsfleet.core.errors import ConfigError, FleetError
from wsfleet.core.options import (
    Buffer,
    Endpoint,
    Limits,
    Liveness,
    Overflow,
    Reconnect,
    Retry,
    check_headers,
    check_name,
    check_uri,
)
from wsfleet.core.topics import check_pattern, check_topic

URI = "wss://feed.example/ws"
uri_pieces = st.sampled_from(
    """ws:// wss:// WSS:// http:// : / // @ # ? & = [ ] [::1] feed.example user pass 80 0 99999 ü . .. -a %40 % %ff x
    \ud800""".split()  # noqa: SIM905
)
uri_like = st.one_of(st.text(max_size=30), st.lists(uri_pieces, max_size=8).map("".join))


def faults_of(function, *args, **options):
    """Return the invalid fields of a declaration, in order."""
    try:
        function(*args, **options)
    except ConfigError as exc:
        return [name for name, _ in exc.faults]
    return []


@given(st.one_of(uri_like, uri_like.map("ws://".__add__), uri_like.map("wss://feed.example".__add__)))
def test_a_uri_that_passes_can_be_dialled(uri):
    """websockets accepts each URI that `check_uri` accepts, and it can be encoded as ASCII."""
    if check_uri(uri) is not None:
        return
    where = parse_uri(uri)
    where.host.encode("ascii")
    where.resource_name.encode("ascii")


@given(st.one_of(uri_like, uri_like.map("http://".__add__), uri_like.map("socks5://proxy.example".__add__)))
def test_a_proxy_that_passes_can_be_dialled(url):
    """websockets accepts each proxy URL that `check_proxy` accepts."""
    if faults_of(Endpoint, URI, proxy=url):
        return
    try:
        parse_proxy(url)
    except InvalidProxy as exc:
        pytest.fail(str(exc))


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "feed.example/ws",
        "localhost:8080",
        "http://feed.example/ws",
        "ws://",
        "ws:///path",
        "ws://feed.example:0/",
        "ws://feed.example:99999/",
        "ws://feed.example:port/",
        "ws://feed.example/#part",
        "ws://feed.example/#",
        "ws://user@feed.example/",
        "ws://[::1/",
        "ws://.feed.example/",
        f"ws://{'a' * 64}.example/",
        "ws://feed.example/a b",
        "ws://feed.example/a\r\nX: y",
        "ws://feed.example/\x00",
        "ws://feed.example/\ud800",
    ],
)
def test_a_bad_uri_is_refused_where_it_is_declared(uri):
    """An invalid URI is rejected in the declaration, not in the first attempt."""
    assert faults_of(Endpoint, uri) == ["uri"]


@pytest.mark.parametrize(
    "uri",
    [
        "ws://h",
        "WSS://h/",
        "ws://u:p@h:1/x?y=z",
        "ws://u:@h",
        "ws://[::1]:80",
        "ws://bücher.example/ü?ü",
        "ws://my_host./",
    ],
)
def test_a_good_uri_is_taken(uri):
    """Ports, users, IPv6 addresses and international names are accepted."""
    assert faults_of(Endpoint, uri) == []


@given(
    st.dictionaries(
        st.one_of(st.sampled_from(["X-A", "Authorization", "x!", "Host", "x-é", "a b", "", "A:"]), st.text(max_size=3)),
        st.one_of(
            st.sampled_from(["v", "\t ok", "é"]),
            st.sampled_from(["a\r\nX: y", "\x00", "–"]),
            st.text("ab\n", max_size=4),
        ),
        max_size=2,
    )
)
def test_headers_that_pass_are_sent_as_given_and_forge_nothing(headers):
    """websockets accepts headers that `check_headers` accepts, and writes exactly one line for each."""
    if list(check_headers(headers)):
        headers = {}
    sent = Headers(headers).serialize()
    lines = sent.removesuffix(b"\r\n\r\n").split(b"\r\n") if headers else []
    assert [line.decode("iso-8859-1") for line in lines] == [f"{name}: {value}" for name, value in headers.items()]


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "upgrade",
        "Connection",
        "Sec-WebSocket-Key",
        "sec-websocket-protocol",
        "Content-Length",
        "Transfer-Encoding",
    ],
)
def test_the_handshakes_own_headers_are_refused(name):
    """Headers of the handshake itself are rejected."""
    assert faults_of(Endpoint, URI, headers={name: "x"}) == ["headers"]


PLANTED = "s3kr1t"


@pytest.mark.parametrize(
    "options",
    [
        {"uri": f"ws://user:{PLANTED}:x@feed.example:port/"},
        {"uri": f"ws://user:pass/{PLANTED}@feed.example/"},
        {"uri": f"ws://user:{PLANTED}\uff03x@feed.example/"},
        {"uri": f"ws://feed.example/?token={PLANTED}#x"},
        {"uri": f"http://feed.example/?token={PLANTED}"},
        {"uri": f"ws://{PLANTED}@feed.example/"},
        {"uri": URI, "headers": {"Authorization": f"Bearer {PLANTED}\r\n"}},
        {"uri": URI, "headers": {"Authorization": f"Bearer {PLANTED}–"}},
        {"uri": URI, "headers": {f"Authorization: Bearer {PLANTED}": ""}},
        {"uri": URI, "headers": {f"X-Api {PLANTED}": "x"}},
        {"uri": URI, "liveness": {"heartbeat": PLANTED}},
        {"uri": URI, "reconnect": PLANTED},
        {"uri": URI, "proxy": f"http://user:pass/{PLANTED}@proxy.example"},
        {"uri": URI, "proxy": f"ftp://user:{PLANTED}@proxy.example"},
        {"uri": URI, "proxy": f"http://user:{PLANTED}@proxy.example/path"},
        {"uri": URI, "proxy": f"http://{PLANTED}@proxy.example"},
    ],
)
def test_a_refusal_quotes_no_secret(options):
    """The error for an invalid URI, header or proxy names the fault without quoting a credential."""
    with pytest.raises(ConfigError) as caught:
        Endpoint(**options)
    assert PLANTED not in str(caught.value)
    assert PLANTED not in repr(caught.value.faults)


def test_the_repr_shows_what_was_declared_without_secrets():
    """The repr of an endpoint shows the differences from the defaults, with userinfo, tokens and credentials hidden."""
    shown = repr(
        Endpoint(
            f"wss://user:{PLANTED}@feed.example/ws?token={PLANTED}&streams=btcusdt",
            name="feed",
            headers={"Authorization": f"Bearer {PLANTED}", "X-Plan": "basic"},
            subprotocols=["graphql-ws", f"insecure-api-key.{PLANTED}"],
            proxy=f"http://user:{PLANTED}@proxy.example:3128",
            liveness=Liveness(heartbeat=f'{{"op":"ping","token":"{PLANTED}"}}', heartbeat_s=5),
            max_size=10,
        )
    )
    assert PLANTED not in shown
    for part in (
        "feed.example/ws",
        "streams=btcusdt",
        "'X-Plan': 'basic'",
        "proxy.example:3128",
        "max_size=10",
        "name='feed'",
        "'graphql-ws'",
    ):
        assert part in shown
    assert repr(Endpoint(URI)) == f"Endpoint({URI!r})"


def test_no_part_of_a_declaration_shows_a_secret():
    """A heartbeat is not in the repr, and a URI given as a host name is not in the error."""
    assert PLANTED not in repr(Liveness(heartbeat=f"login {PLANTED}", heartbeat_s=5))
    for hosts in ({f"ws://u:{PLANTED}@h": 1}, {f"ws://u:{PLANTED}@h": Limits(hosts={"a": Limits()})}):
        with pytest.raises(ConfigError) as caught:
            Limits(hosts=hosts)
        assert PLANTED not in repr(caught.value)


async def some_uri():
    return URI


@pytest.mark.parametrize(
    ("make", "options", "faulty"),
    [
        (Endpoint, {"uri": 5}, ["uri"]),
        (Endpoint, {"uri": some_uri}, ["uri"]),
        (Endpoint, {"uri": some_uri, "name": "feed"}, []),
        (Endpoint, {"uri": URI, "name": "a.b"}, ["name"]),
        (Endpoint, {"uri": URI, "headers": 5}, ["headers"]),
        (Endpoint, {"uri": URI, "headers": {"a b": "c", "X": 5}}, ["headers", "headers"]),
        (Endpoint, {"uri": URI, "subprotocols": "chat"}, ["subprotocols"]),
        (Endpoint, {"uri": URI, "subprotocols": 5}, ["subprotocols"]),
        (Endpoint, {"uri": URI, "subprotocols": ["a", "a"]}, ["subprotocols"]),
        (Endpoint, {"uri": URI, "subprotocols": ["a b"]}, ["subprotocols"]),
        (Endpoint, {"uri": URI, "subprotocols": ["v1.chat", "v2.chat"]}, []),
        (Endpoint, {"uri": URI, "compression": "gzip"}, ["compression"]),
        (Endpoint, {"uri": "ws://feed.example", "ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}, ["ssl"]),
        (Endpoint, {"uri": URI, "ssl": True}, ["ssl"]),
        (Endpoint, {"uri": URI, "proxy": True}, ["proxy"]),
        (Endpoint, {"uri": URI, "proxy": False}, []),
        (Endpoint, {"uri": URI, "proxy": "proxy.example:3128"}, ["proxy"]),
        (Endpoint, {"uri": URI, "proxy": "socks5h://u:p@proxy.example:1080"}, []),
        (Endpoint, {"uri": URI, "open_s": 0, "close_s": float("nan")}, ["open_s", "close_s"]),
        (Endpoint, {"uri": URI, "open_s": 10**400}, ["open_s"]),
        (Endpoint, {"uri": URI, "max_size": 0, "keep_last": -1}, ["max_size", "keep_last"]),
        (Endpoint, {"uri": URI, "max_size": True}, ["max_size"]),
        (Endpoint, {"uri": URI, "max_fragments": 0}, ["max_fragments"]),
        (Endpoint, {"uri": URI, "max_fragments": 2.5}, ["max_fragments"]),
        (Endpoint, {"uri": URI, "max_fragments": 1}, []),
        (Endpoint, {"uri": URI, "on_open": 5}, ["on_open"]),
        (Endpoint, {"uri": URI, "decode": "xml"}, ["decode"]),
        (Endpoint, {"uri": URI, "decode": None}, ["decode"]),
        (Endpoint, {"uri": URI, "decode": some_uri}, ["decode"]),
        (Endpoint, {"uri": URI, "topic": "{symbol}"}, ["topic"]),
        (Endpoint, {"uri": URI, "topic": "{symbol}", "decode": "json"}, []),
        (Endpoint, {"uri": URI, "topic": "{symbol!r}", "decode": "json"}, ["topic"]),
        (Endpoint, {"uri": URI, "topic": "$mine"}, ["topic"]),
        (Endpoint, {"uri": URI, "topic": 5}, ["topic"]),
        (Endpoint, {"uri": URI, "sends_per_s": 0}, ["sends_per_s"]),
        (
            Endpoint,
            {"uri": URI, "reconnect": 5, "liveness": None, "required": 1},
            ["reconnect", "liveness", "required"],
        ),
        (Reconnect, {"initial_s": -1, "max_s": float("inf"), "factor": 0.5}, ["initial_s", "max_s", "factor"]),
        (Reconnect, {"jitter": 1.1, "stable_s": "1", "max_restarts": -1}, ["jitter", "stable_s", "max_restarts"]),
        (Reconnect, {"window_s": 0, "fatal": True}, ["window_s", "fatal"]),
        (Reconnect, {"fatal_codes": (1000, 4999)}, []),
        (Reconnect, {"fatal_codes": 4004}, ["fatal_codes"]),
        (Reconnect, {"fatal_codes": (999,)}, ["fatal_codes"]),
        (Reconnect, {"fatal_codes": ("4004",)}, ["fatal_codes"]),
        (Reconnect, {"initial_s": 0, "max_restarts": 0, "jitter": 0}, []),
        (Liveness, {"ping_s": 0, "pong_s": -1, "stale_s": True}, ["ping_s", "pong_s", "stale_s"]),
        (Liveness, {"ping_s": None, "pong_s": None}, []),
        (Liveness, {"heartbeat": "ping"}, ["heartbeat"]),
        (Liveness, {"heartbeat_s": 5}, ["heartbeat"]),
        (Liveness, {"heartbeat": 5, "heartbeat_s": 5}, ["heartbeat"]),
        (Buffer, {"messages": 0, "bytes": 1.5, "overflow": "pause"}, ["messages", "bytes", "overflow"]),
        (Buffer, {"key": len}, ["key"]),
        (Buffer, {"key": len, "overflow": Overflow.LATEST}, []),
        (Buffer, {"key": 5, "overflow": Overflow.LATEST}, ["key"]),
        (Retry, {"attempts": 0, "initial_s": -1, "max_s": None}, ["attempts", "initial_s", "max_s"]),
        (Limits, {"handshakes": 0, "connects_per_s": 0, "hosts": 5}, ["handshakes", "connects_per_s", "hosts"]),
        (Limits, {"hosts": {"a": 5}}, ["hosts"]),
        (Limits, {"hosts": {"a": Limits(hosts={"b": Limits()})}}, ["hosts"]),
        (Limits, {"hosts": {"a": Limits(handshakes=1)}}, []),
    ],
)
def test_every_fault_of_a_declaration_is_found_at_once(make, options, faulty):
    """One ConfigError, which is a ValueError and a FleetError, lists all invalid fields."""
    assert faults_of(make, **options) == faulty
    if faulty:
        with pytest.raises(ConfigError) as caught:
            make(**options)
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, FleetError)
        assert all(f"{make.__name__}: {name} " in str(caught.value) for name in faulty)


@given(st.text(max_size=10))
def test_a_name_can_stand_in_a_topic_and_in_a_pattern(name):
    """A valid name is one token of a topic, so `$state.<name>` is a valid pattern."""
    assume(check_name(name) is None)
    assert check_topic(f"state.{name}") is None
    assert check_topic(name) is None
    assert check_pattern(f"$state.{name}") is None
    assert "." not in name


@given(st.text(st.sampled_from("a$.*> \n\x1b\x85\x9b\ud800<&"), max_size=6))
def test_a_default_name_is_a_valid_name(text):
    """The name made from any host, function or sink is valid."""
    assert check_name(make_name(text)) is None


def test_control_characters_in_a_name_are_named():
    """The error says that a name must not have control characters, and shows them escaped."""
    with pytest.raises(ConfigError, match=r"control characters.*, not 'a\\x1bb'$"):
        Endpoint("ws://feed.test", name="a\x1bb")


@pytest.mark.parametrize("name", ["", "a.b", "a*", ">", "a b", "$a", "a\n", "\x85", "\x9b", "\ud800", None, 5])
def test_names_that_are_no_single_token_are_refused(name):
    """Names that would change the structure of a topic, or cannot be printed, are rejected."""
    assert check_name(name) is not None
