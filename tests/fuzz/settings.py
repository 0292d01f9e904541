"""Texts of medd.toml and environment variables: read, shown, and all built of them that opens nothing outside."""

import json
import os
import random
import re
from unittest import mock

from medd import plugins, settings
from medd.deliver import kinds
from medd.deliver.build import build_destinations
from medd.errors import MeddError
from medd.ingest.listener import Listener
from medd.ingest.pull import open_source
from medd.settings import Settings as Tree
from medd.store.database import Database
from tests.fuzz.door import Door
from tests.fuzz.mutate import damage, words_of
from tests.fuzz.target import Broken, Outcome, Target, outcome_of
from tests.support import ROOT

_EXAMPLE = (ROOT / "config" / "medd.toml").read_text("utf-8")
#: Every key, as the environment calls it.
_VARIABLES = [
    f"MEDD_{key.upper().replace('.', '__')}" for key in settings.flatten(Tree()) if "[" not in key and key != "home"
]
_VALUES = words_of(
    r"""
    1 0 -1 1e999 nan inf true [] {} null 'x' "x" ["a"] [{"path":"a"}] {"port":1} \xed\xa0\x80 \xff ::1 10.0.0.0/33
    127.0.0.1 MEDD //../x sqlite:///x.db postgresql://u:p@h/d?x=1 mysql://x :// http://[::1 https://h/dicom-web pacs
    """
)
_VALUES += (b"", b"9" * 400, b"[" * 3000)
_WORDS = _VALUES + words_of(
    r"""
    [listener]\n [[inbox]]\n [[destination]]\n [[peer]]\n [[dicomweb]]\n [[pull]]\n [web]\n \0MEDD_INBOX=
    \0MEDD_LISTENER= \0MEDD_ __ \x20=\x20 \"\"\" \'\'\' 1979-05-27T07:32:00Z \\u0000
    """
)
#: What the example says nothing of.
_MORE = """
[[destination]]
type = "pacs"
host = "h"
port = 104
ae_title = "PACS"
send = ["sr"]
[destination.tls]
ca = "ca.pem"

[[destination]]
type = "folder"
path = "out"
formats = ["json", "csv", "dicom"]
[[destination]]
type = "folder"
name = "b"

[[peer]]
name = "a"
host = "h"
ae_title = "A"
retrieve = "move"
[[pull]]
source = "a"
at = "23:59"

[[dicomweb]]
name = "w"
url = "https://h/dicom-web"
[[pull]]
source = "w"
at = "00:00"
days = 3

[listener]
host = "::"
allowed_hosts = ["10.1.2.0/24", "::1"]
allowed_calling_ae = ["A", "B C"]

[web]
login = true
host = "0.0.0.0"
trusted_proxies = ["10.0.0.1"]
allowed_hosts = ["x.example"]

[database]
url = "postgresql://medd:p%40ss@db.example/medd?sslmode=require"
[log]
format = "json"
"""


class Settings(Target):
    """An input is a text of medd.toml, then NAME=VALUE for the environment, each after a NUL."""

    DICTIONARY = _WORDS

    def seeds(self) -> list[bytes]:
        # The example names each key in a comment, with its default.
        every = re.sub(r"(?m)^# ?(?=\[|\w+ = )", "", _EXAMPLE)
        sections = re.split(r"(?m)^(?=\[)", every)
        texts = [_EXAMPLE, every, "", *sections, *_MORE.split("\n\n")]
        return [text.encode() for text in texts] + [f"\0{name}=1".encode() for name in _VARIABLES]

    def open(self) -> None:
        self._door = Door(self.folder)
        self._kinds = plugins.destinations(plugins.load_plugins(builtin=(kinds,)))

    def close(self) -> None:
        self._door.close()

    def change(self, rng: random.Random, data: bytes, other: bytes) -> bytes:
        if rng.random() < 0.6:
            return damage(rng, data, other, _WORDS)
        value = rng.choice(_VALUES)
        if rng.random() < 0.5:
            return data + f"\0{rng.choice(_VARIABLES)}=".encode() + value
        keys = list(re.finditer(rb"(?m)^(\w+ = )(.*)$", data))
        if not keys:
            return data + b"\n" + other
        one = rng.choice(keys)  # another value of one key, as it is or as a string
        return data[: one.start(2)] + (value if rng.random() < 0.5 else b'"' + value + b'"') + data[one.end(2) :]

    def run(self, data: bytes) -> Outcome:
        text, *variables = data.split(b"\0")
        (self.folder / "medd.toml").write_bytes(text)
        environment = {name: value for name, _, value in (one.partition(b"=") for one in variables) if name}
        # Nothing that has a meaning for others than medd, or names another file.
        mine = {os.fsdecode(n): os.fsdecode(v) for n, v in environment.items() if n.startswith(b"MEDD_")}
        with mock.patch.dict(os.environ, {n: v for n, v in mine.items() if n not in settings.NOT_SETTINGS}):
            try:
                loaded = settings.load(self.folder)
                json.dumps(settings.flatten(loaded))
            except MeddError as error:
                return outcome_of(error)
        for build in (self._database, self._destinations, self._listener, self._pulls):
            try:
                build(loaded)
            except MeddError as error:
                return outcome_of(error)
        return Outcome("good", str(len(loaded.model_fields_set)))

    def _database(self, loaded: Tree) -> None:
        Database(loaded.database_url).close()

    def _destinations(self, loaded: Tree) -> None:
        build_destinations(loaded, self._kinds)

    def _listener(self, loaded: Tree) -> None:
        wanted = loaded.listener.model_copy(update={"host": "127.0.0.1", "port": 0})
        Listener(wanted, self._door.intake, home=loaded.home).stop()

    def _pulls(self, loaded: Tree) -> None:
        for pull in loaded.pull:
            open_source(loaded, pull.source, self._door.intake, self._door.database)

    def check(self) -> None:
        if (outcome := self.run(_EXAMPLE.encode())).kind != "good":
            raise Broken(f"the example is refused: {outcome}")


TARGET = Settings
