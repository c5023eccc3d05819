"""Certificates for tests, made on the spot."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


def write_certificate(directory: Path, name: str = "server") -> tuple[Path, Path]:
    """A certificate for localhost that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _built("localhost", key, "localhost", key, timedelta(days=1), is_authority=True)
    return _written(directory, name, certificate, key)


class Authority:
    """An authority that issues certificates for servers."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory = directory
        self._name = f"the test's {name}"
        self._key = ec.generate_private_key(ec.SECP256R1())
        certificate = _built(
            self._name, self._key, self._name, self._key, timedelta(days=1), is_authority=True
        )
        self.path, _ = _written(directory, name, certificate, self._key)

    def issue(self, host: str = "localhost", good_for: timedelta = timedelta(days=90)) -> tuple[Path, Path]:
        """A certificate for a host and its key; one that is good for less than nothing has run out."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _built(host, key, self._name, self._key, good_for, is_authority=False)
        return _written(self._directory, f"{host}-{good_for.days}", certificate, key)


def _built(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    good_for: timedelta,
    *,
    is_authority: bool,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + min(good_for, timedelta()) - timedelta(hours=1))
        .not_valid_after(now + good_for)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    )
    if " " not in subject:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(subject)]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _written(
    directory: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> tuple[Path, Path]:
    cert_path, key_path = directory / f"{name}.pem", directory / f"{name}.key"
    cert_path.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return cert_path, key_path
