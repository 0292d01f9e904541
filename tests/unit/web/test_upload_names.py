import pytest

from medd.records import MediaType
from medd.store.annotations import Truth
from medd_web.upload import name_of, origin_of


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('form-data; name="files"; filename="film.dcm"', "film.dcm"),
        ('form-data; name="files"; filename="Müller 1.png"', "Müller 1.png"),
        ('form-data; name="files"; filename="a%22b.dcm"', 'a"b.dcm'),
        ('form-data; name="files"; filename="a\\"b;c.dcm"', 'a"b;c.dcm'),
        (r'form-data; name="files"; filename="C:\films\1.dcm"', r"C:\films\1.dcm"),
        ("form-data; name=files; filename=film.dcm", "film.dcm"),
        ('form-data; name="files"; filename="x"; filename*=UTF-8\'\'f%C3%BCr%20dich.dcm', "für dich.dcm"),
        ('form-data; name="files"; filename=""', ""),
        ('form-data; name="next"', ""),
        ("", ""),
    ],
)
def test_a_files_name_is_read_as_browsers_and_programs_write_it(disposition, name):
    assert name_of(disposition) == name


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("film 1.dcm", "film 1.dcm"),
        ("Müller^Jörg.dcm", "Müller^Jörg.dcm"),
        ("../../etc/passwd", "passwd"),
        (r"C:\films\..\1.dcm", "1.dcm"),
        ("a/", "unnamed"),
        ("100%?#.png", "100%25%3F%23.png"),
        ("a\nb\0c\x1b[31m", "a%0Ab%00c%1B[31m"),
        ("\u202egnp.exe", "%E2%80%AEgnp.exe"),
        ("\ud800.dcm", "%3F.dcm"),
        ("x" * 500 + ".dcm", "x" * 196 + ".dcm"),
    ],
)
def test_a_files_name_is_one_segment_of_its_origin(name, kept):
    assert origin_of("anna", "10.1.2.3", name) == f"upload://anna@10.1.2.3/{kept}"
    origin_of("anna", "::1", name).encode()


@pytest.mark.parametrize(
    ("origin", "name"),
    [
        (origin_of("anna", "10.1.2.3", "person17_bacteria_3.jpeg"), "person17_bacteria_3"),
        (origin_of("anna", "10.1.2.3", ""), "unnamed"),
        ("file:a/b/person1_virus_2.png", "person1_virus_2"),
        ("dicom://CR1@10.1.2.3", ""),
        ("dicomweb://anna@10.1.2.3", ""),
    ],
)
def test_a_files_name_tells_training_of_the_patient(origin, name):
    assert Truth(1, "0" * 64, MediaType.PNG, origin, "", {}, 1).file_name == name
