"""The conformance statement says what the program does."""

import re

import pytest

from medd.dicom import samples
from medd.ingest import pdu
from medd.ingest.listener import supported_transfer_syntaxes
from tests.support import ROOT


@pytest.fixture(scope="module")
def sections() -> dict[str, str]:
    """The statement's text by number of section."""
    text = (ROOT / "docs" / "conformance.md").read_text()
    parts = re.split(r"^#{2,3} ([0-9.]+) ", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_transfer_syntaxes_that_nobody_decodes_are_counted_and_named(sections):
    accepted = frozenset().union(*supported_transfer_syntaxes().values())
    kept = accepted - samples.SAMPLES.keys()
    assert f"are {len(kept)} of the {len(accepted)} transfer syntaxes" in sections["3.3"]
    told = dict(re.findall(r"\| `([0-9.]+)` \| (yes|no) \|", sections["3.3"]))
    assert told == {uid: "no" if uid in kept else "yes" for uid in accepted}


def test_what_a_c_get_is_answered_with_is_said_apart_from_the_listeners_answers(sections):
    _, table = sections["3.5"].split("| status of C-STORE within a C-GET")
    told = dict(re.findall(r"^\| (0x\w{4}) \| (.*) \|$", table, re.MULTILINE))
    own = (pdu.SUCCESS, pdu.OUT_OF_RESOURCES, pdu.DATASET_DOES_NOT_MATCH_SOP_CLASS)
    # 0x0122 is pynetdicom's, which also has a 0xCxxx of its own.
    assert told.keys() == {f"0x{status:04X}" for status in own} | {"0x0122", "0xCxxx"}
    assert "not the one asked for" in told["0xA900"]
    assert "without Error Comment" in sections["3.5"]
    assert "those of section 3.3" not in sections["3.5"]
