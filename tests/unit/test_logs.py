import json
import logging
import re
from collections.abc import Callable, Iterator

import pytest

from medd import logs


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    switches = (logging.logThreads, logging.logProcesses, logging.logMultiprocessing)
    chatty = [logging.getLogger(name) for name in ("pynetdicom", "pydicom", "alembic", "watchdog", "fsevents")]
    levels = [logger.level for logger in chatty]
    yield
    root.handlers[:], root.level = before[0], before[1]
    root.setLevel(before[1])
    logging.logThreads, logging.logProcesses, logging.logMultiprocessing = switches
    for logger, level in zip(chatty, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Gives what was written to stderr."""
    return lambda: capsys.readouterr().err


def test_line_has_time_level_source_sentence_and_fields(written):
    logs.configure("INFO", "text")
    logging.getLogger("medd.worker").info("scored %d", 3, extra={"event": "instance.scored", "job": 7, "model": "a/1"})
    line = written()
    stamp, rest = line.split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp)
    assert rest == "INFO medd.worker: scored 3 [event=instance.scored job=7 model=a/1]\n"


def test_line_without_fields_has_no_brackets(written):
    logs.configure("INFO", "text")
    logging.getLogger("medd").info("started")
    assert written().endswith(" INFO medd: started\n")


def test_nothing_from_outside_can_make_a_second_line_or_colour_the_terminal(written):
    logs.configure("INFO", "text")
    hostile = "a\nINFO medd: all is well\r\x1b[31m\u202e\0"
    logging.getLogger("medd").warning("file %s is odd", hostile, extra={"event": "x", "peer": hostile})
    [line] = written().splitlines()
    assert "\x1b" not in line
    assert "a\\nINFO" in line


def test_long_text_from_outside_is_cut():
    assert len(logs.printable("x" * 10000)) <= 301
    assert logs.printable("Grüße 王") == "Grüße 王"
    assert logs.printable("\ud800") == "\\ud800"


def test_json_is_one_object_per_line(written):
    logs.configure("INFO", "json")
    log = logging.getLogger("medd.intake")
    log.info("two\nlines", extra={"event": "instance.received", "instance": 4})
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed")
    first, second = (json.loads(line) for line in written().splitlines())
    assert {name: first[name] for name in ("level", "logger", "message", "event", "instance")} == {
        "level": "INFO",
        "logger": "medd.intake",
        "message": "two\nlines",
        "event": "instance.received",
        "instance": 4,
    }
    assert first["time"].endswith("Z")
    assert "ValueError: broken" in second["traceback"]


def test_traceback_follows_its_line(written):
    logs.configure("INFO", "text")
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("medd").exception("a bug")
    lines = written().splitlines()
    assert lines[0].endswith("ERROR medd: a bug")
    assert lines[-1] == "ValueError: broken"


def test_fields_that_are_not_ours_are_not_shown(written):
    logs.configure("INFO", "text")
    logging.getLogger("medd").info("received", extra={"event": "x", "patient_id": "P1"})
    assert "P1" not in written()


def test_level_is_kept(written):
    logs.configure("WARNING", "text")
    logging.getLogger("medd").info("quiet")
    logging.getLogger("medd").warning("loud")
    assert written().count("\n") == 1


@pytest.mark.parametrize("name", ["pynetdicom", "pydicom", "alembic", "watchdog"])
def test_libraries_that_name_peers_and_data_are_kept_quiet(written, name):
    logs.configure("DEBUG", "text")
    logging.getLogger(f"{name}.somewhere").info("patient Doe^John")
    logging.getLogger(f"{name}.somewhere").warning("patient Doe^John")
    assert written() == ""


def test_configuring_twice_writes_each_line_once(written):
    logs.configure("INFO", "text")
    logs.configure("INFO", "text")
    logging.getLogger("medd").info("once")
    assert written().count("once") == 1
