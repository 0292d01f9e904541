"""What several sections are made of."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


def _ae_title(title: str) -> str:
    # PS3.5 section 6.2, VR AE: at most 16 characters of the default repertoire, no backslash or control character.
    title = title.strip()
    if not 1 <= len(title) <= 16 or "\\" in title or not title.isascii() or not title.isprintable():
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return title


AETitle = Annotated[str, AfterValidator(_ae_title)]


class Section(BaseModel):
    """A table of ``medd.toml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TlsSettings(Section):
    """A table ``tls``: TLS 1.2 or newer (PS3.15 section B.12, BCP 195). Relative paths lie in the home folder."""

    #: Our certificate chain, PEM. A listener needs one; towards a peer only where the peer asks for it.
    certificate: str = ""
    #: Its private key, PEM, without a pass phrase; empty where it stands in the same file.
    key: str = ""
    #: Certificates that we trust, PEM. On a listener, peers must then show one that these have signed (mutual TLS);
    #: towards a peer, the system's are trusted where none is named.
    ca: str = ""
