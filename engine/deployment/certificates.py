"""Keys and certificates of a federation: its CA, the server's certificate, and each site's key pair.

All keys are ECDSA P-384. A private key is made where it is used and is readable by its owner alone.
"""

from __future__ import annotations

import ipaddress
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from engine.errors import UserError

CA_DAYS = 5 * 365
"""How long a federation's CA is valid (ours)."""
SERVER_DAYS = 397
"""How long a server's certificate is valid: the longest that programs take from public CAs."""
CLOCK_MARGIN = timedelta(minutes=10)
"""Certificates begin so much before now: clocks of hospitals differ (ours)."""
WARN_DAYS = 30
"""``status`` warns so long before an end (ours)."""
_HASH = hashes.SHA384()
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Validity:
    """When a certificate begins and ends (UTC)."""

    begins: datetime
    ends: datetime

    @property
    def days_left(self) -> int:
        """Whole days until the end; negative where it is over."""
        return (self.ends - datetime.now(UTC)).days


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a new private key."""
    return ec.generate_private_key(ec.SECP384R1())


def make_ca(folder: Path, *, federation: str) -> None:
    """Write ``ca.key`` and ``ca.crt``, which signs the server's certificate and nothing else."""
    key = new_key()
    name = _name(f"{federation} CA")
    certificate = (
        _unsigned(name, name, key.public_key(), days=CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, _HASH)
    )
    write_private(folder / "ca.key", _private_pem(key))
    write_public(folder / "ca.crt", certificate.public_bytes(Encoding.PEM))


def make_server_certificate(folder: Path, *, hosts: Sequence[str], into: Path) -> None:
    """Write ``server.key`` and ``server.crt`` for ``hosts`` and for this machine itself, signed by the folder's CA."""
    ca_key = _read_key(folder / "ca.key")
    ca = read_certificate(folder / "ca.crt")
    key = new_key()
    names = list(dict.fromkeys([*hosts, *_LOOPBACK]))
    certificate = (
        _unsigned(_name(hosts[0]), ca.subject, key.public_key(), days=SERVER_DAYS, no_later=ca.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName([_host(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, _HASH)
    )
    write_private(into / "server.key", _private_pem(key))
    write_public(into / "server.crt", certificate.public_bytes(Encoding.PEM))


def make_site_keys(folder: Path, *, site: str) -> str:
    """Write a site's ``site.key`` and its signing request ``site.csr``; return the key's fingerprint.

    The request holds the public key and the site's name, signed with the private key, which stays where it is.
    """
    key = new_key()
    request = x509.CertificateSigningRequestBuilder().subject_name(_name(site)).sign(key, _HASH)
    write_private(folder / "site.key", _private_pem(key))
    write_public(folder / "site.csr", request.public_bytes(Encoding.PEM))
    return fingerprint(public_pem(request.public_key()))


def read_request(path: Path, *, site: str) -> bytes:
    """Return the public key (PEM) of a site's signing request.

    Raises ``UserError`` ``deployment.request`` where it is damaged, of another kind of key, or made for another name.
    """
    try:
        request = x509.load_pem_x509_csr(path.read_bytes())
        valid = request.is_signature_valid
    except (OSError, ValueError, InvalidSignature):
        raise _bad_request(path, "it cannot be read as one") from None
    key = request.public_key()
    if not valid:
        raise _bad_request(path, "its signature is wrong: it was changed on the way")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _bad_request(path, "its key is not an ECDSA P-384 key")
    names = [str(part.value) for part in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [site]:
        raise _bad_request(path, f"it was made for '{', '.join(names)}', not for '{site}'")
    return public_pem(key)


def public_pem(key: object) -> bytes:
    """Return a public key as PEM, as Flower compares it."""
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key_pem: bytes) -> str:
    """Return 32 characters to compare over the phone: the first half of a public key's SHA-256, in groups of four."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key_pem.strip())
    text = digest.finalize().hex()[:32]
    return " ".join(text[start : start + 4] for start in range(0, 32, 4))


def site_fingerprint(folder: Path) -> str:
    """Return the fingerprint of a site's own key."""
    return fingerprint(public_pem(_read_key(folder / "site.key").public_key()))


def read_certificate(path: Path) -> x509.Certificate:
    """Return a certificate; ``UserError`` ``deployment.file`` where it is missing or damaged."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _bad_file(path, error) from error


def validity(path: Path) -> Validity:
    """Return when a certificate begins and ends."""
    certificate = read_certificate(path)
    return Validity(certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def hosts_of(path: Path) -> tuple[str, ...]:
    """Return the names and addresses that a server's certificate is for."""
    names = read_certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(str(name.value) for name in names)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, never readable by others for a moment."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
        file.write(content)


def write_public(path: Path, content: bytes) -> None:
    """Write a file that everybody may read."""
    path.write_bytes(content)
    path.chmod(0o644)


def _unsigned(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    *,
    days: int,
    no_later: datetime | None = None,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    ends = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_MARGIN)
        .not_valid_after(ends if no_later is None else min(ends, no_later))
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _bad_file(path, error) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _bad_file(path, ValueError("a key of another kind"))
    return key


def _bad_request(path: Path, problem: str) -> UserError:
    return UserError(
        "deployment.request",
        what=f"{path} is not a signing request of this site: {problem}.",
        why="Only the site itself can make it, beside its own key.",
        fix="Ask the site for the file site.csr that `site keys` has written.",
    )


def _bad_file(path: Path, error: Exception) -> UserError:
    told = getattr(error, "strerror", None) or "it is damaged"
    folder = shlex.quote(str(path.parent))
    mends = {
        "site.key": f"Restore it from a backup; or make new keys with `python -m engine site keys --new {folder}`, and "
        "send site.csr to the coordinator.",
        "server.key": "Restore it from a backup, or make a new one with `federation renew`.",
        "ca.crt": "Restore it from a copy: the server's own folder has one (server/ca.crt), and each site's; a site "
        "can ask the coordinator for it.",
    }
    mends["server.crt"] = mends["server.key"]
    return UserError(
        "deployment.file",
        what=f"{path} cannot be read: {told}.",
        why="Keys and certificates prove who a site and a server are.",
        fix=mends.get(path.name, "Restore it from a backup."),
    )
