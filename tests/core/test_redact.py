"""Secrets are removed from all output, and other text is kept."""

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsfleet.core.redact import HIDDEN, KEY_LENGTH, redact_headers, redact_text, redact_uri, secrets_of

KEY_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
# Beginning and end are marked, so that a part of the secret is found in other text.
named_secrets = st.text(KEY_LETTERS + "-_.~", min_size=1, max_size=40).map(lambda text: f"q7{text}Z9")
keys = st.one_of(
    st.text("0123456789abcdef", min_size=32, max_size=64),
    st.text(KEY_LETTERS, min_size=KEY_LENGTH, max_size=64),
    st.text(KEY_LETTERS + "-_", min_size=KEY_LENGTH - 4, max_size=60).map(lambda text: f"q7{text}Z9"),
    st.uuids().map(str),
)
secret_names = st.sampled_from(
    """token access_token accessToken X-Amz-Security-Token key apikey apiKey api_key API-KEY key2 listenKey listenkey
    signature X-Amz-Signature sig secret client_secret password passwd pwd auth authToken sessionid jwt ticket
    AWSAccessKeyId credential bearer otp hmac
    """.split()  # noqa: SIM905
)
words = st.sampled_from(["ws", "v2", "btcusdt@trade", "market-data-stream-v2-public", "ethusdt@kline_1m", "a", "1.0"])


@st.composite
def uris_with_a_secret(draw):
    """A URI, and the secret in it."""
    place = draw(st.sampled_from(["userinfo", "user alone", "path", "query", "bare query", "value", "matrix"]))
    secret = draw(keys if place in ("path", "bare query", "value") else named_secrets)
    before = "".join(f"/{word}" for word in draw(st.lists(words, max_size=2)))
    after = "".join(f"/{word}" for word in draw(st.lists(words, max_size=2)))
    name = draw(secret_names)
    uri = {
        "userinfo": f"wss://someone:{secret}@feed.example{before}{after}",
        "user alone": f"wss://{secret}@feed.example:9443{before}",
        "path": f"wss://feed.example{before}/{secret}{after}",
        "query": f"wss://feed.example{before}?streams=btcusdt&{name}={secret}&format=json",
        "bare query": f"wss://feed.example{before}?{secret}",
        "value": f"wss://feed.example{before}?channel={secret}",
        "matrix": f"wss://feed.example{before}/a;{name}={secret}{after}",
    }[place]
    return uri, secret


@given(uris_with_a_secret())
def test_secrets_of_a_uri_are_hidden(case):
    """A secret in any part of a URI is hidden; the host is kept."""
    uri, secret = case
    shown = redact_uri(uri)
    assert secret not in shown
    assert HIDDEN in shown
    assert "feed.example" in shown


@given(
    uris_with_a_secret(),
    st.sampled_from(["", "cannot reach ", "('", "uri=", '{"uri": "', "<"]),
    st.text("xyz .:,)", max_size=20),
)
def test_a_uri_in_a_text_is_redacted(case, before, after):
    """A URI within an error text is redacted like a single URI."""
    uri, secret = case
    assert secret not in redact_text(f"{before}{uri} {after}")


@given(uris_with_a_secret(), st.sampled_from(["the server says: {} is not known", "{}", "bad ({})", "x={}&y", "'{}'"]))
def test_secrets_of_a_uri_are_hidden_in_texts_of_others(case, text):
    """A credential that a server repeats without a name is hidden in its text."""
    uri, secret = case
    assert secret not in redact_text(text.format(secret), secrets_of(uri, {}))


@given(st.text(KEY_LETTERS + "+/=@:% é", min_size=8, max_size=30).map(str.strip).filter(lambda text: len(text) >= 8))
def test_a_quoted_secret_is_known_unquoted_too(secret):
    """A secret that is percent-encoded in the URI is also hidden in decoded form."""
    uri = f"wss://feed.example/?token={quote(secret, safe='')}"
    assert secret not in redact_text(f"the token {secret} has expired", secrets_of(uri, {}))
    assert quote(secret, safe="") not in redact_text(f"GET {uri} failed", secrets_of(uri, {}))


@given(secret_names, named_secrets)
def test_named_secrets_in_texts_and_json_are_hidden(name, secret):
    """Values with secret names are hidden in `name=value`, JSON, nested JSON, a repr, and header lines."""
    for text in (
        f"login failed: {name}={secret}, try again",
        f'{name}="{secret}"',
        json.dumps({name: secret, "symbol": "BTC"}),
        json.dumps({"raw": json.dumps({name: secret})}),
        repr({name: secret}),
        f"sent {name}: {secret}",
        f"retry with ({name}={secret})",
    ):
        assert secret not in redact_text(text), text


@given(
    named_secrets, st.sampled_from(["Authorization", "Cookie", "Proxy-Authorization", "Set-Cookie", "authorization"])
)
def test_credential_headers_are_hidden_to_their_lines_end(secret, name):
    """The whole value of a credential header line is hidden; the next line is kept."""
    shown = redact_text(f"> {name}: Bearer {secret}; theme={secret}, {secret}\r\n> Host: feed.example")
    assert secret not in shown
    assert "> Host: feed.example" in shown


@given(
    st.sampled_from(
        """Authorization Cookie Proxy-Authorization X-Api-Key X-MBX-APIKEY X-Auth-Token X-Sig X-Otp x-pin X-Pwd X-Hmac
        X-Code X-Ticket X-Cred X-Bearer PRIVATE-JWT
        """.split()  # noqa: SIM905
    ),
    named_secrets,
    keys,
)
def test_credential_headers_never_show_their_value(name, secret, key):
    """Values of credential headers are hidden completely; in other headers, only values that look like keys."""
    shown = redact_headers([(name, f"Bearer {secret}"), ("X-Client", key), ("User-Agent", "feeds/1.0 (example)")])
    assert shown[name] == HIDDEN
    assert key not in shown["X-Client"]
    assert shown["User-Agent"] == "feeds/1.0 (example)"
    for text in (f"cannot use {secret}", f"a={secret}"):
        assert secret not in redact_text(text, secrets_of("ws://feed.example", {name: f"Bearer {secret}"}))


@pytest.mark.parametrize(
    "uri",
    [
        "wss://stream.example.com:9443/ws/btcusdt@trade",
        "wss://stream.example.com/stream?streams=btcusdt@trade/ethusdt@kline_1m/solusdt@depth20",
        "wss://feed.example/market-data-stream-v2-public/perpetual_futures_usd",
        "wss://feed.example/?encoding=json&country_code=de&signal=5&design=x&symbols=BTC-USDT,ETH-USDT",
        "wss://eu.market.data.provider.example.company:443/ws",
        "ws://[::1]:8080/a@b",
        "ws://127.0.0.1:8080",
        "ws://localhost/a/b/c/d/?x=1&y=2#here",
        "wss://feed.example/?streams=btcusdt&timeout=10&keepalive=true&author=me",
    ],
)
def test_texts_without_secrets_stay_readable(uri):
    """Hosts, words in the path, and channels and settings in the query are kept."""
    assert redact_uri(uri) == uri
    assert redact_text(f"cannot reach {uri} now") == f"cannot reach {uri} now"
    assert secrets_of(uri, {"User-Agent": "feeds/1.0"}) == []


@pytest.mark.parametrize(
    "text",
    [
        "KeyError: 'symbol'",
        "TokenError: 12",
        "invalid token: unexpected end",
        "token expired",
        "Bearer authentication required",
        "basic functionality is missing",
        "[Errno 111] Connect call failed ('127.0.0.1', 9443)",
        "received 1008 (policy violation) too slow; then sent 1008 (policy violation) too slow",
        "close code: 4001",
        "Malformed(endpoint='a', index=1, session=3)",
        "Buffer(messages=1000, key=None)",
        "the server answered 429, retry after 12 s",
        "0x9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "feed: open (ws://feed.example/a?token=***)",  # as the log writes it, which is looked through once more
        "the last one (it was ws://feed.example/a_(b)?token=***), and others",
    ],
)
def test_ordinary_texts_stay_as_they_are(text):
    """Common error texts are not taken for credentials."""
    assert redact_text(text) == text


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("wss://u:p@h.example/x", "wss://***@h.example/x"),
        ("wss://u:p%40w@h.example/x@y", "wss://***@h.example/x@y"),
        ("wss://u:pa/ss@h.example/x", "wss://***@h.example/x"),
        ("wss://h.example?token=a&x=1", "wss://h.example?token=***&x=1"),
        ("wss://h.example/?%74oken=a", "wss://h.example/?%74oken=***"),
        ("wss://h.example/?a=1;token=b", "wss://h.example/?a=1;token=***"),
        ("wss://h.example/?code=77", "wss://h.example/?code=***"),
        ("wss://h.example/a#token=b", "wss://h.example/a#token=***"),
        ("wss://h.example/bot123456:ABC-DEF1234ghIkl/getMe", "wss://h.example/***/getMe"),
        ("localhost:8080/ws?listenKey=a", "localhost:8080/ws?listenKey=***"),
        ("u:p@h.example", "***@h.example"),
        ("", ""),
    ],
)
def test_exactly_the_secret_is_hidden(uri, shown):
    """Exactly the secret is hidden."""
    assert redact_uri(uri) == shown


@given(st.text(max_size=200), st.lists(st.text(max_size=10), max_size=3))
def test_any_text_can_be_redacted(text, secrets):
    """Redaction of arbitrary text never raises, and is idempotent."""
    redact_text(text, secrets)
    redact_headers([("X-Any", text), ("Cookie", text)])
    secrets_of(text, {"X-Any": text})
    assert redact_uri(redact_uri(text)) == redact_uri(text)


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "A-",
        "a=",
        "a:",
        "'",
        '"a":"\\',
        "\\",
        '\\"',
        "token ",
        '"token": ',
        "wss://",
        ")",
        "ws://a@",
        "bearer ",
        "a;",
        " ",
        "%",
    ],
)
@pytest.mark.timeout(60)  # not a benchmark: quadratic time would take minutes instead of a second
def test_redaction_takes_linear_time(piece):
    """The patterns match in linear time."""
    redact_text(f"wss://{piece * 100_000}")
    redact_text(piece * 100_000)
    # Behind a name that makes it doubtful, and with an end that makes it no word after all.
    redact_text(f"token: {piece * 100_000}!")
    redact_uri(f"wss://feed.example/{piece * 100_000}9a9")


def test_a_short_number_is_no_secret_of_other_texts() -> None:
    """A short number in a query is hidden in the URI; it does not hide a close code, a status or a port elsewhere."""
    uri = "wss://feed.example/?code=1011&pin=4000"
    assert redact_uri(uri) == "wss://feed.example/?code=***&pin=***"
    assert redact_text("connection lost: 1011 and 4000", secrets_of(uri, {})) == "connection lost: 1011 and 4000"
    assert "12345678" not in redact_text("got 12345678", secrets_of("wss://feed.example/?code=12345678", {}))
