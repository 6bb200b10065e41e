"""Certificates for TLS, made by openssl."""

import subprocess
from pathlib import Path

from tests.deploy.tools import tool


def make_authority(folder: Path, name: str) -> None:
    """Write the key and the self-signed certificate of a certificate authority."""
    _openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
        *("-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.crt")),
    )


def make_certificate(folder: Path, name: str, authority: str) -> None:
    """Write a key and a certificate for 127.0.0.1, signed by an authority of the same folder."""
    request, extension = folder / f"{name}.csr", folder / f"{name}.ext"
    extension.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    ca = folder / authority
    _openssl(
        *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"),
        *("-keyout", str(folder / f"{name}.key"), "-out", str(request)),
    )
    _openssl(
        *("x509", "-req", "-in", str(request), "-days", "2", "-extfile", str(extension)),
        *("-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", "-CAcreateserial"),
        *("-out", str(folder / f"{name}.crt")),
    )


def _openssl(*arguments: str) -> None:
    subprocess.run([tool("openssl"), *arguments], check=True, capture_output=True)
