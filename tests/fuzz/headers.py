"""DICOM files with damaged and contradicting headers, by the road of the intake: header, verdict, row."""

import random
from dataclasses import fields

from medd import plugins
from medd.dicom import headers
from medd.errors import InputError, MeddError, TransientError
from medd.records import InstanceHeader, Reason, Verdict, is_storable
from medd.store.tables import instance
from tests.fuzz.craft import file, film
from tests.fuzz.door import Door
from tests.fuzz.elements import WORDS, vary
from tests.fuzz.objects import odd_objects
from tests.fuzz.target import Broken, Outcome, Target, outcome_of

#: PostgreSQL holds columns to their lengths, SQLite does not: column → the longest text.
_LIMITS = {
    column.name: column.type.length
    for column in instance.columns
    if getattr(column.type, "length", None) and column.name in {one.name for one in fields(InstanceHeader)}
}


class Headers(Target):
    DICTIONARY = WORDS

    def seeds(self) -> list[bytes]:
        return [data for _, _, data in odd_objects()]

    def open(self) -> None:
        self._door = Door(self.folder)
        self._file = self.folder / "film.dcm"
        self._sound = file(film())

    def close(self) -> None:
        self._door.close()

    def change(self, rng: random.Random, data: bytes, other: bytes) -> bytes:
        return vary(rng, data, other)

    def run(self, data: bytes) -> Outcome:
        self._file.write_bytes(data)
        try:
            header = headers.inspect_file(self._file)
        except InputError as error:
            outcome, verdict = outcome_of(error), Verdict(Reason.UNREADABLE)
        else:
            verdict = plugins.admit(self._door.manager, header)
            outcome = Outcome(
                str(verdict.reason or "admitted"), f"{header.media_type} {header.transfer_syntax_uid}"[:40]
            )
            self._check_storable(header)
        try:
            receipt = self._door.intake.receive_file(self._file, "file:fuzz")
        except TransientError as error:
            raise Broken(f"the intake fails: {error}") from error
        if receipt.new and receipt.reason != verdict.reason:
            raise Broken(f"the intake says {receipt.reason}, the header alone {verdict.reason}")
        return outcome

    def _check_storable(self, header: InstanceHeader) -> None:
        for name in (one.name for one in fields(header)):
            value = getattr(header, name)
            if isinstance(value, str) and not is_storable(value):
                raise Broken(f"{name} holds what no database takes")
            if name in _LIMITS and name != "patient_age" and len(value) > _LIMITS[name]:
                raise Broken(f"{name} is longer than its column")

    def check(self) -> None:
        self._file.write_bytes(self._sound)
        try:
            receipt = self._door.intake.receive_file(self._file, "file:fuzz")
        except MeddError as error:
            raise Broken(f"a sound film is not taken in any more: {error}") from error
        if receipt.reason is not None:
            raise Broken(f"a sound film is refused: {receipt.reason}")


TARGET = Headers
