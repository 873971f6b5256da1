"""One token for all users, in a file that is read again when it changes."""

import hashlib
import hmac

from pathlib import Path

from netpolq.errors import BootError
from netpolq.ui.access.refusal import unauthorized

MIN_CHARACTERS = 32
MAX_BYTES = 16384
_MIN_DIFFERENT = 10
"""Different characters in a token. A random token of 32 hexadecimal digits has fewer in one of ten thousand cases."""

_WRONG = "the token is wrong; use the one in the file of --token-file"


class TokenFileError(BootError):
    """The file of the token cannot be used."""


class Token:
    """Compares tokens with that of a file. `path`: of the file. Raises `TokenFileError` if it is unusable at the start.

    Later an unusable file lets no token in, so that a token that has been removed is of no use.
    """

    kind = "token"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] = self._look()
        self._digest: bytes | None = _digest(_read(path))

    async def user(self, token: str) -> str | None:
        """None: a token has no user. Raises `Refusal` for a wrong one."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                self._digest = _digest(_read(self._path))
            except TokenFileError:
                self._digest = None
        if self._digest is None or not hmac.compare_digest(_digest(token), self._digest):
            raise unauthorized(_WRONG)
        return None

    def is_known(self, _token: str) -> bool:
        """Never: a comparison costs nothing, so wrong and right tokens are limited alike."""
        return False

    def _look(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digest(token: str) -> bytes:
    """Digests have one length, so that their comparison does not tell that of the token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _read(path: Path) -> str:
    """The token in a file, without white space around it. Raises `TokenFileError`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise TokenFileError(f"--token-file {path}: {error.strerror}; name a file that can be read") from error
    try:
        token = content.decode("ascii").strip()
    except UnicodeDecodeError:
        token = ""
    if len(content) > MAX_BYTES or not token or not token.isprintable() or " " in token:
        raise TokenFileError(f"--token-file {path}: it must hold one token of printable ASCII characters without spaces")
    if len(token) < MIN_CHARACTERS or len(set(token)) < _MIN_DIFFERENT:
        raise TokenFileError(
            f"--token-file {path}: the token can be guessed; allowed: at least {MIN_CHARACTERS} random characters, "
            "as `openssl rand -hex 32` writes"
        )
    return token
