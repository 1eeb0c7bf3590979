"""Certificates that must not be trusted: the endpoint is FAILED with the reason, and no request is sent."""

import datetime
import ssl

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.faults.kit import Numbered, suffering, until
from wsfleet import State
from wsfleet.core.errors import ConnectFailed, EndpointFailed

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def self_signed() -> trustme.LeafCert:
    """A self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), NOW - DAY, NOW + DAY)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return trustme.LeafCert(private, pem, [])


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("expired", "certificate has expired"),
        ("not yet valid", "certificate is not yet valid"),
        ("self-signed", "self-signed certificate"),
        ("wrong name", "certificate is not valid for 'localhost'"),
        ("unknown authority", "unable to get local issuer certificate"),
    ],
)
async def test_a_certificate_that_cannot_be_trusted(authority: trustme.CA, fault: str, reason: str) -> None:
    """One attempt, no request, FAILED with the reason; after the certificate is renewed, restart() reconnects."""
    bad = {
        "expired": lambda: authority.issue_cert("localhost", not_before=NOW - 9 * DAY, not_after=NOW - DAY),
        "not yet valid": lambda: authority.issue_cert("localhost", not_before=NOW + DAY, not_after=NOW + 9 * DAY),
        "self-signed": self_signed,
        "wrong name": lambda: authority.issue_cert("other.test"),
        "unknown authority": lambda: trustme.CA().issue_cert("localhost"),
    }[fault]()
    theirs, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    bad.configure_cert(theirs)
    authority.configure_trust(ours)
    async with Numbered(ssl=theirs) as server:
        async with suffering(f"wss://localhost:{server.port}", ssl=ours) as case:
            error = await case.fails()
            await until(lambda: case.sick.state is State.FAILED, "the endpoint is FAILED")
            with pytest.raises(EndpointFailed):
                await case.sick.wait_open()
            assert isinstance(error, ConnectFailed)
            assert error.stage == "tls"
            assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
            assert reason in case.shown
            assert [(change.state, change.attempt) for change in case.changes] == [(State.FAILED, 1)]
            assert server.requests == []

            authority.issue_cert("localhost").configure_cert(theirs)
            case.sick.restart()
            await case.comes_back()
        assert case.sick.stats().losses == 0
        case.destroyed(server.handed)
