"""Passwords: what is one, how it is hashed, and that nobody can make us hash for ever."""

import threading
import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from medd.errors import SettingsError, TransientError

#: Characters. Length is what makes a password hard to guess, not kinds of characters (NIST SP 800-63B).
MIN_LENGTH, MAX_LENGTH = 12, 256
#: argon2id, 64 MiB and 3 passes (RFC 9106 section 4, second recommended option).
_HASHER = PasswordHasher()
#: Each takes 64 MiB and a core for a while: more at a time would be a way to stop us.
_AT_ONCE = threading.Semaphore(2)
_PATIENCE_S = 5.0


def hash_password(password: str, name: str) -> str:
    """The hash of a new password of the user `name`.

    Raises:
        SettingsError: It is too short, too long, or the user's name.
    """
    text = _normal(password)
    if not MIN_LENGTH <= len(text) <= MAX_LENGTH:
        raise SettingsError(f"a password has {MIN_LENGTH} to {MAX_LENGTH} characters. Received: {len(text)}")
    if (name.lower() in text.lower() and len(text) - len(name) < MIN_LENGTH) or len(set(text)) < 5:
        raise SettingsError("this password is guessed at once; choose one that is neither your name nor one sign")
    return _HASHER.hash(text)


def rehash(password: str) -> str:
    """The hash, by the parameters of today, of a password that was found right."""
    return _HASHER.hash(_normal(password))


def is_right(password: str, hashed: str | None) -> bool:
    """Whether a password has this hash; without a hash it never is, after the same time.

    Raises:
        TransientError: Too many are being tried at this moment.
    """
    text = _normal(password)[: MAX_LENGTH + 1]
    if not _AT_ONCE.acquire(timeout=_PATIENCE_S):
        raise TransientError("too many log in at this moment; try again soon")
    try:
        return _HASHER.verify(hashed or _nobodys(), text) and hashed is not None
    except (VerifyMismatchError, InvalidHashError):
        return False
    finally:
        _AT_ONCE.release()


def is_outdated(hashed: str) -> bool:
    """Whether a hash was made by parameters of the past, so that it should be made again."""
    return _HASHER.check_needs_rehash(hashed)


_made: list[str] = []


def _nobodys() -> str:
    # Who is not known takes as long as who is: the time must not tell which names there are.
    if not _made:
        _made.append(_HASHER.hash("nobody has this password"))
    return _made[0]


def _normal(password: str) -> str:
    # The same keys give other code points on other systems (NIST SP 800-63B section 3.1.1.2).
    return unicodedata.normalize("NFKC", password)
