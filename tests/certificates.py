"""Certificates for tests, made with the openssl program."""

import subprocess
from pathlib import Path

from tests.support import require

_SAN = "subjectAltName=DNS:localhost,IP:127.0.0.1\n"


class Authority:
    """A certificate authority in a folder of its own.

    Args:
        folder: Where its files are made.
        name: Of it, and the beginning of its files' names.
        key: What kind of keys it makes, as `openssl req -newkey` takes it.
    """

    def __init__(self, folder: Path, name: str = "ca", key: str = "rsa:2048") -> None:
        [self._openssl] = require("openssl")
        self.folder, self._key = folder, key
        self.certificate, self._own_key = folder / f"{name}.pem", folder / f"{name}.key"
        self._run(
            "req", "-x509", *self._new(self._own_key), "-out", self.certificate, "-days", 30, "-subj", f"/CN={name}"
        )

    def issue(self, name: str, *, days: int = 30, names: str = _SAN) -> tuple[Path, Path]:
        """A certificate that it has signed, and the key; with negative `days` one that has expired."""
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        extensions.write_text(names)
        self._run("req", *self._new(key), "-out", request, "-subj", f"/CN={name}")
        signed = ("-CA", self.certificate, "-CAkey", self._own_key, "-CAcreateserial", "-extfile", extensions)
        self._run("x509", "-req", "-in", request, *signed, "-days", days, "-out", certificate)
        return certificate, key

    def encrypt(self, key: Path) -> Path:
        """The same key under a pass phrase."""
        encrypted = key.with_suffix(".encrypted")
        self._run("pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", encrypted)
        return encrypted

    def _new(self, key: Path) -> tuple[object, ...]:
        curve = ("-pkeyopt", "ec_paramgen_curve:P-256") if self._key == "ec" else ()
        return ("-newkey", self._key, *curve, "-nodes", "-keyout", key)

    def _run(self, *arguments: object) -> None:
        subprocess.run([self._openssl, *map(str, arguments)], check=True, capture_output=True)
