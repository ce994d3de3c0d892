"""Closes all ports of SeaweedFS except S3, which requires keys.

The other ports (master, volumes, filer, administration, and gRPC of each) serve SeaweedFS's own
parts; unprotected they would read, change and delete any object for any client. With this they
use TLS and require a client certificate; the only one is generated at each start.
"""

from __future__ import annotations

import ipaddress
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from storage.local_files import write_private

CERTIFICATE, KEY, SETTINGS = "certificate.pem", "key.pem", "security.toml"
HTTPS_PARTS = ("master", "volume", "filer", "admin")
GRPC_PARTS = (*HTTPS_PARTS, "s3", "worker", "client", "msg_broker", "msg_agent", "mq")
VALID = timedelta(days=3650)


def write_security(folder: Path, host: str) -> None:
    """Write certificate, key and `security.toml` for a SeaweedFS that runs in `folder` and listens
    on `host`."""
    certificate, key = _self_signed(host)
    write_private(folder / CERTIFICATE, certificate.decode())
    write_private(folder / KEY, key.decode())
    certificate_path, key_path = (json.dumps(str(folder / name)) for name in (CERTIFICATE, KEY))
    pair, authority = (
        [f"cert = {certificate_path}", f"key = {key_path}"],
        f"ca = {certificate_path}",
    )
    lines = ["[grpc]", authority]
    for part in GRPC_PARTS:
        lines += [f"[grpc.{part}]", *pair]
    lines += ["[https.client]", "enabled = true", *pair, authority]
    for part in HTTPS_PARTS:
        lines += [f"[https.{part}]", *pair, authority]
    write_private(folder / SETTINGS, "\n".join(lines) + "\n")


def _self_signed(host: str) -> tuple[bytes, bytes]:
    """A self-signed certificate for servers and clients, and its key, both as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dataengine")])
    address = x509.IPAddress(ipaddress.ip_address(host))
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return certificate.public_bytes(pem), key.private_bytes(pem, form, plain)
