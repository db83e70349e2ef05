"""Certificates by openssl's own judgement, requests that are refused, and files that only their owner can read."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from engine.deployment import certificates
from engine.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    certificates.make_ca(tmp_path, federation="test")
    certificates.make_server_certificate(tmp_path, hosts=["fed.example.org"], into=tmp_path)
    return tmp_path


def openssl(*words: str) -> str:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed here")
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_openssl_accepts_the_server_for_its_own_names_and_no_other(folder: Path) -> None:
    ca, server = str(folder / "ca.crt"), str(folder / "server.crt")
    for name, accepted in (("fed.example.org", True), ("localhost", True), ("other.example.org", False)):
        said = openssl(
            "verify", "-purpose", "sslserver", "-x509_strict", "-verify_hostname", name, "-CAfile", ca, server
        )
        assert said.rstrip().endswith(": OK") == accepted, said
    said = openssl("verify", "-purpose", "sslserver", "-verify_ip", "127.0.0.1", "-CAfile", ca, server)
    assert said.rstrip().endswith(": OK"), said


def test_the_server_s_certificate_signs_nothing_and_the_ca_s_is_for_signing(folder: Path) -> None:
    server = certificates.read_certificate(folder / "server.crt").extensions
    ca = certificates.read_certificate(folder / "ca.crt").extensions
    assert not server.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not server.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert ca.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(ca=True, path_length=0)
    assert ca.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_lifetimes(folder: Path) -> None:
    ca, server = (certificates.validity(folder / name) for name in ("ca.crt", "server.crt"))
    assert (ca.days_left, server.days_left) == (5 * 365 - 1, 396)
    assert 590 < (datetime.now(UTC) - server.begins).total_seconds() < 700, "clocks of hospitals differ"


def test_private_files_are_the_owner_s_alone(folder: Path) -> None:
    certificates.make_site_keys(folder, site="north")
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    private = {"ca.key": 0o600, "server.key": 0o600, "site.key": 0o600}
    assert modes == private | {"ca.crt": 0o644, "server.crt": 0o644, "site.csr": 0o644}


def test_a_request_gives_the_public_key_and_its_fingerprint(tmp_path: Path) -> None:
    told = certificates.make_site_keys(tmp_path, site="north")
    key = certificates.read_request(tmp_path / "site.csr", site="north")
    assert told == certificates.fingerprint(key) == certificates.site_fingerprint(tmp_path)
    assert len(told.replace(" ", "")) == 32
    assert b"PRIVATE" not in (tmp_path / "site.csr").read_bytes()
    assert certificates.make_site_keys(tmp_path, site="north") != told


def request_of(key: ec.EllipticCurvePrivateKey, *, name: str = "north") -> x509.CertificateSigningRequest:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())


def test_requests_that_are_refused(tmp_path: Path) -> None:
    good = request_of(certificates.new_key()).public_bytes(Encoding.DER)
    wrong = {
        "not for 'north'": request_of(certificates.new_key(), name="south").public_bytes(Encoding.PEM),
        "not an ECDSA P-384 key": request_of(ec.generate_private_key(ec.SECP256R1())).public_bytes(Encoding.PEM),
        "cannot be read": b"-----BEGIN CERTIFICATE REQUEST-----\nno\n-----END CERTIFICATE REQUEST-----\n",
        "its signature is wrong": x509.load_der_x509_csr(good[:-3] + bytes([good[-3] ^ 1]) + good[-2:]).public_bytes(
            Encoding.PEM
        ),
    }
    path = tmp_path / "site.csr"
    for words, content in wrong.items():
        path.write_bytes(content)
        with pytest.raises(UserError, match=words) as raised:
            certificates.read_request(path, site="north")
        assert raised.value.code == "deployment.request"
