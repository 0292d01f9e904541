"""CSV tables that training, evaluation and corrections read: manifests, splits, readers' words."""

import random
from collections.abc import Callable

import cv2
import numpy as np

from medd.errors import SettingsError
from medd.learn import manifest
from medd.learn.assess import sides_of
from medd.learn.groups import group
from medd.learn.manifest import Sample
from medd.records import InstanceHeader, MediaType
from medd.registry.annotate import read_file
from tests.fuzz.mutate import damage, words_of
from tests.fuzz.target import Broken, Outcome, Target, outcome_of

_IMAGES = [f"{number}.png" for number in range(14)]
_WORDS = words_of(
    r"""
    path label patient split uid reader comment sha256 age train val test , " "" \n \r \r\n \t ; \0 \xef\xbb\xbf
    \xff\xfe \xed\xa0\x80 ../ / . .. 0.png 7.png =1+1 1e999 nan 045Y \xe8\x82\xba
    """
)
_WORDS += (b"a" * 300, b'"' + b"x" * 140_000)


class Manifests(Target):
    DICTIONARY = _WORDS

    def seeds(self) -> list[bytes]:
        cells = [(name, "AB"[n % 2], f"P{n}", ("train", "val", "test")[n // 2 % 3]) for n, name in enumerate(_IMAGES)]
        whole = "\n".join(("path,label,patient,split", *map(",".join, cells)))
        plain = "\n".join(("path,label", *(",".join(row[:2]) for row in cells)))
        more = "\n".join(("path,label,age,sex", *(f"{row[0]},{row[1]},{n}7,F" for n, row in enumerate(cells))))
        split = "\n".join(("sha256,label,patient,split", *(f"{n:016x},A,{n},test" for n in range(8))))
        said = 'uid,label,reader,comment\n1.2.3,A,ann,\n1.2.4,B,bob,"two, or\nthree"\n'
        sound = [text.encode() for text in (whole, plain, more, split, said)]
        return [*sound, whole.encode("utf-8-sig"), whole.encode("utf-16"), whole.replace("\n", "\r\n").encode()]

    def open(self) -> None:
        rng = np.random.default_rng(1)
        for name in _IMAGES:
            (self.folder / name).write_bytes(cv2.imencode(".png", rng.integers(0, 255, (9, 8), np.uint8))[1].tobytes())
        self._table = self.folder / "data.csv"

    def change(self, rng: random.Random, data: bytes, other: bytes) -> bytes:
        if rng.random() < 0.6:
            return damage(rng, data, other, _WORDS)
        rows = [line.split(b",") for line in data.split(b"\n")]  # one cell, or one row
        at = rng.randrange(len(rows))
        if rng.random() < 0.7:
            rows[at][rng.randrange(len(rows[at]))] = rng.choice((*_WORDS, b"", *rng.choice(rows)))
        else:
            rows.insert(rng.randrange(len(rows)), rows[at] * rng.choice((1, 1, 2)))
        return b"\n".join(b",".join(row) for row in rows)

    def run(self, data: bytes) -> Outcome:
        self._table.write_bytes(data)
        (self.folder / "split.csv").write_bytes(data)
        outcomes = [self._try(read) for read in (self._learn, self._split, self._words)]
        return Outcome(" | ".join(one.kind for one in outcomes), " | ".join(one.detail for one in outcomes))

    def _try(self, read: Callable[[], str]) -> Outcome:
        try:
            return Outcome(read())
        except SettingsError as error:
            return outcome_of(error)

    def _learn(self) -> str:
        samples, _ = manifest.read(self._table)
        group(self._table, samples, [InstanceHeader(MediaType.PNG)] * len(samples))
        divided = manifest.divide(samples, 1)
        self._check(divided)
        manifest.write(self.folder / "written.csv", divided)
        manifest.digest(divided)
        return "divided"

    def _check(self, divided: list[Sample]) -> None:
        sides: dict[str, str] = {}
        for one in divided:
            if sides.setdefault(one.patient, one.split) != one.split:
                raise Broken("a patient on two sides")
            if not one.label or not one.split:
                raise Broken(f"an image without a label or a side: {one.label!r}, {one.split!r}")

    def _split(self) -> str:
        sides_of(self.folder)
        return "split"

    def _words(self) -> str:
        read_file(self._table, "reader")
        return "words"

    def check(self) -> None:
        if not (outcome := self.run(self.seeds()[0])).kind.startswith("divided"):
            raise Broken(f"a sound table is refused: {outcome}")


TARGET = Manifests
