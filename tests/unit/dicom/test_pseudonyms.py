import stat

import pytest
from pydicom.uid import UID

from medd.dicom.pseudonyms import KEY_FILE, Pseudonyms, load_pseudonyms
from medd.errors import SettingsError

KEY = b"k" * 32


def test_the_same_gives_the_same_and_another_key_gives_another():
    one, same, other = Pseudonyms(KEY), Pseudonyms(KEY), Pseudonyms(b"o" * 32)
    for kind in ("uid", "patient", "image"):
        name = getattr(one, kind)("1.2.3")
        assert getattr(same, kind)("1.2.3") == name
        assert name not in {getattr(other, kind)("1.2.3"), getattr(one, kind)("1.2.4"), "1.2.3"}
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_a_uid_is_one_of_the_root_of_uuids():
    from uuid import UUID

    for number in range(200):
        uid = UID(Pseudonyms(KEY).uid(f"1.2.{number}"))
        assert uid.is_valid
        assert uid.startswith("2.25.")
        assert UUID(int=int(uid.removeprefix("2.25."))).version == 8


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path):
    first = load_pseudonyms(tmp_path)
    assert load_pseudonyms(tmp_path).patient("7") == first.patient("7")
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "zz", "abcd"])
def test_a_damaged_key_is_refused_rather_than_replaced(tmp_path, text):
    (tmp_path / KEY_FILE).write_text(text)
    with pytest.raises(SettingsError, match=KEY_FILE):
        load_pseudonyms(tmp_path)
    assert (tmp_path / KEY_FILE).read_text() == text
