"""Names that say nothing, always the same for the same thing: keyed hashes (HMAC-SHA256) with a key of this home.

Without the key nobody can try out which patient ID gives a pseudonym; with it, a second export names alike.
"""

import contextlib
import hmac
import os
import secrets
from pathlib import Path
from uuid import UUID

from medd.errors import SettingsError

#: In the home folder, readable by its owner alone. Whoever has it can link an export back to the patients.
KEY_FILE = "export.key"
_KEY_BYTES = 32


class Pseudonyms:
    """Gives pseudonyms by one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def _digest(self, kind: str, value: str) -> bytes:
        return hmac.digest(self._key, f"{kind}:{value}".encode("utf-8", "surrogateescape"), "sha256")

    def uid(self, original: str) -> str:
        """Another UID in place of this one, under the root of UUIDs (PS3.5 section B.2)."""
        # Version 8 of RFC 9562 is made for hashes of one's own.
        number = int.from_bytes(self._digest("uid", original)[:16], "big")
        number = number & ~(0xF << 76) | 8 << 76
        return f"2.25.{UUID(int=number & ~(0x3 << 62) | 2 << 62).int}"

    def patient(self, original: str) -> str:
        """A name for a patient; 64 bits, as many as a hospital's patients never fill."""
        return f"P{self._digest('patient', original)[:8].hex()}"

    def image(self, sha256: str) -> str:
        """A name for an image, by the digest of its bytes."""
        return self._digest("image", sha256)[:16].hex()

    @property
    def fingerprint(self) -> str:
        """Tells two keys apart and says nothing about either."""
        return self._digest("key", "")[:8].hex()


def load_pseudonyms(home: Path) -> Pseudonyms:
    """Those of this home; the key is made when it is first asked for.

    Raises:
        SettingsError: The key cannot be read or written, or is none.
    """
    path = home / KEY_FILE
    try:
        if not path.exists():
            _make_key(path)
        key = bytes.fromhex(path.read_text("ascii"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: no usable key. Received: {error}") from error
    if len(key) != _KEY_BYTES:
        raise SettingsError(f"{path}: a key of {_KEY_BYTES} bytes in hex is needed. Received: {len(key)}")
    return Pseudonyms(key)


def _make_key(path: Path) -> None:
    mine = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    with open(os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(f"{secrets.token_hex(_KEY_BYTES)}\n")
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):  # of two exports that begin at once, one makes the key
        path.hardlink_to(mine)
    mine.unlink()
