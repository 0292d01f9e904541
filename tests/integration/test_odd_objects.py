"""Odd objects, through the door and the decoder: what becomes of each, exactly."""

from pathlib import Path

import pytest

from medd.classify.prepare import Order
from medd.errors import InputError
from medd.imaging.isolated import Isolated
from medd.imaging.preprocess import PreprocessSpec
from medd.ingest.pieces import Arrival
from medd.records import MediaType, Reason
from tests.fuzz.craft import REFUSED, SCORED
from tests.fuzz.door import Door
from tests.fuzz.objects import odd_objects

SPEC = PreprocessSpec(size=32)


def outcome(door: Door, decoders: Isolated, data: bytes, file: Path) -> str:
    """What a sender is told, and the worker makes of it."""
    file.write_bytes(data)
    try:
        receipt = Arrival(door.intake, 1 << 30).receive([data], "dicom://ODD@127.0.0.1")
    except InputError:
        assert door.intake.receive_file(file, "file:odd.dcm").reason == Reason.UNREADABLE
        return REFUSED
    assert not door.intake.receive_file(file, "file:odd.dcm").new
    if receipt.reason:
        return str(receipt.reason)
    path = door.spool.path(receipt.sha256, MediaType.DICOM)
    result = decoders.call(Order(path, receipt.sha256, MediaType.DICOM, "", (SPEC,)))
    if isinstance(result, InputError):
        return str(result.reason)
    assert [one.pixels.shape for one in result] == [SPEC.input_shape]
    return SCORED


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # it warns of what is odd on purpose
def test_every_odd_object_is_scored_not_assessed_or_refused_as_it_says(tmp_path):
    door, decoders = Door(tmp_path), Isolated("medd.classify.prepare:prepare_file", 1, 30, 1024)
    wrong = {}
    try:
        for name, expected, data in odd_objects():
            found = outcome(door, decoders, data, tmp_path / "odd.dcm")
            if found != expected:
                wrong[name] = found
    finally:
        decoders.close()
        door.close()
    assert not wrong
