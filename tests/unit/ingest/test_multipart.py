import pytest
from hypothesis import given
from hypothesis import strategies as st

from medd.ingest.multipart import BadMultipart, boundary_of, parameters_of, read_parts


def split(body: bytes, size: int) -> list[bytes]:
    return [body[place : place + size] for place in range(0, len(body), size)]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_part_has_the_fields_of_its_header(size):
    body = (
        b"--XX  \r\nContent-Type: application/dicom;\r\n\ttransfer-syntax=1.2\r\nX-Name: f\xc3\xbcr\r\nno field"
        b"\r\n\r\none\r\n--XX\r\n\r\ntwo\r\n--XX--"
    )
    found = [(part.headers, b"".join(part)) for part in read_parts(split(body, size), b"XX")]
    assert found == [
        ({"content-type": "application/dicom; transfer-syntax=1.2", "x-name": "für", "no field": ""}, b"one"),
        ({}, b"two"),
    ]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_delimiter_that_only_begins_as_ours_is_content(size):
    inner = b"--XXX\r\n\r\ninner\r\n--XXX--\r\n--XX-\r\n--XXyz"
    body = b"--XX\r\n\r\n" + inner + b"\r\n--XX--\r\n"
    assert [b"".join(part) for part in read_parts(split(body, size), b"XX")] == [inner]


@pytest.mark.parametrize(
    "header", [b"A: b\r\n" * 101, b"A: " + b"x" * 70_000 + b"\r\n", b"A: b\r\n" * 20_000], ids=["many", "long", "both"]
)
def test_a_header_that_is_too_large_is_refused(header):
    with pytest.raises(BadMultipart):
        list(read_parts(split(b"--XX\r\n" + header + b"\r\nx\r\n--XX--", 5000), b"XX"))


def test_parameters_are_read_with_and_without_quotes_and_in_the_way_of_rfc_2231():
    kind, parameters = parameters_of('Multipart/Related; TYPE="application/dicom"; boundary="a;b"; start=x')
    assert (kind, parameters) == ("multipart/related", {"type": "application/dicom", "boundary": "a;b", "start": "x"})
    assert boundary_of("multipart/related; boundary*0=ab; boundary*1=cd") == b"abcd"
    assert boundary_of("text/plain; boundary=a") == b""


@given(st.text(st.characters(max_codepoint=255)) | st.text(st.sampled_from("multipart/;= boundary*0'%\"\\\r\n\t,")))
def test_no_header_brings_an_error_out(value):
    parameters_of(value)
    boundary_of(value)
    boundary_of(f"multipart/related; {value}")
