"""Certificates and keys of a federation: one authority, a server, a key for each party."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

DAYS = 30


def certificates(folder: Path, host: str) -> None:
    """Write ca.pem, server.pem and server.key: an authority that signs for a server at ``host``.

    The authority's key is written nowhere: it signs this one certificate.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def begun(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name("graphsec federation"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=DAYS))
        )

    root, server = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    above = (
        begun(name("graphsec federation"), root.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(root.public_key()), critical=False)
        .sign(root, hashes.SHA384())
    )
    address = x509.IPAddress(ipaddress.ip_address(host))
    below = (
        begun(name(host), server.public_key())
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), critical=False
        )
        .sign(root, hashes.SHA384())
    )
    from cryptography.hazmat.primitives.serialization import Encoding

    (folder / "ca.pem").write_bytes(above.public_bytes(Encoding.PEM))
    (folder / "server.pem").write_bytes(below.public_bytes(Encoding.PEM))
    _write(folder / "server.key", server, "PKCS8")


def party_key(path: Path) -> bytes:
    """Write a party's private key (OpenSSH, P-384); its public key, as Flower registers it."""
    from cryptography.hazmat.primitives.asymmetric import ec

    from graphsec.federated.flower import inner

    private = ec.generate_private_key(ec.SECP384R1())
    _write(path, private, "OpenSSH")
    return inner.public_bytes(private.public_key())


def secret(path: Path, content: bytes) -> None:
    """Write what only its owner may read."""
    path.touch(0o600)
    path.chmod(0o600)
    path.write_bytes(content)


def _write(path: Path, key: object, form: str) -> None:
    from cryptography.hazmat.primitives import serialization as s

    content: bytes = key.private_bytes(  # type: ignore[attr-defined]
        s.Encoding.PEM, getattr(s.PrivateFormat, form), s.NoEncryption()
    )
    secret(path, content)
