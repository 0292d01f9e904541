"""What the documents that are made by the program are written with."""

from collections.abc import Iterable, Sequence

from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.uid import UID


def by_number(uid: str) -> list[int]:
    """The order of UIDs as people read them."""
    return [int(part) for part in uid.split(".")]


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines) + "\n"


def uids(values: Iterable[str]) -> list[tuple[str, str]]:
    """Names and UIDs."""
    return [(UID(value).name, f"`{value}`") for value in values]


def attribute(tag: int) -> tuple[str, str]:
    """An attribute's name and tag."""
    return dictionary_description(tag), f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def attributes(keywords: Iterable[str]) -> list[tuple[str, str]]:
    """Names and tags of attributes by keyword."""
    tags = (tag_for_keyword(keyword) for keyword in keywords)
    return [attribute(tag) for tag in tags if tag is not None]


def concept(code: tuple[str, str, str]) -> str:
    """A code as the Standard writes it."""
    value, scheme, meaning = code
    return f'({value}, {scheme}, "{meaning}")'


def status(code: int) -> str:
    """A DIMSE status as the Standard writes it."""
    return f"0x{code:04X}"
