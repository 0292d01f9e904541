"""What strangers' files can do to the process that reads them: it costs one file, and the others go on."""

import contextlib
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from medd.errors import Casualty, InputError, MeddError, TransientError
from medd.imaging.isolated import Isolated
from medd.records import Reason
from tests.support import ROOT, wait_until

WORK = "tests.casualties:work"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The children import what they are to do."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def decoders() -> list[psutil.Process]:
    """Our children that live, without those of other tests, such as a database server."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.status() != "zombie" and "medd.imaging.isolated" in child.cmdline():
                found.append(child)
    return found


@pytest.fixture
def isolated() -> Iterator[Isolated]:
    made = Isolated(WORK, 2, timeout_s=2, memory_mib=1024)
    yield made
    made.close()


def test_results_come_in_the_order_of_the_items(isolated):
    assert isolated.map([("echo", number) for number in range(20)]) == list(range(20))


def test_work_is_done_in_other_processes(isolated):
    assert os.getpid() not in isolated.map([("pid", 0)] * 4)
    assert {one.num_threads() for one in decoders()} == {1}, "one core each, whatever libraries start"


def test_expected_errors_come_back_as_they_are(isolated):
    [error] = isolated.map([("refuse", 7)])
    assert type(error) is InputError
    assert (error.reason, str(error)) == (Reason.BLANK_IMAGE, "no contrast. Received: 7")


def test_unexpected_errors_say_their_kind_and_nothing_of_the_patient(isolated):
    [error] = isolated.map([("stumble", "Doe^Jane")])
    assert type(error) is TransientError
    assert str(error) == "preparation failed: ValueError"


@pytest.mark.parametrize(
    ("what", "value", "said"),
    [
        ("crash", 0, "ended its process (SIGSEGV)"),
        ("exit", 0, "ended its process (exit code 3)"),
        ("hang", 0, "did not finish within 2 s"),
        ("swell", 1 << 30, "needs more memory than a decoder has"),
    ],
)
def test_a_casualty_costs_one_item_and_the_others_go_on(isolated, what, value, said):
    items = [("echo", 1), (what, value), ("echo", 2), ("echo", 3)]
    first, casualty, *others = isolated.map(items)
    assert (first, others) == (1, [2, 3])
    assert isinstance(casualty, Casualty)
    assert str(casualty) == said
    assert isolated.map([("echo", 4)] * 4) == [4] * 4


def test_a_process_that_died_in_between_is_nobodys_fault(isolated):
    victims = [psutil.Process(pid) for pid in set(isolated.map([("pid", 0)] * 8))]
    for victim in victims:
        victim.kill()
    wait_until(lambda: all(victim.status() == "zombie" for victim in victims))
    assert isolated.map([("echo", 5)] * 4) == [5] * 4


def test_a_start_that_fails_is_nobodys_fault_either():
    broken = Isolated("medd.no_such_module:work", 1)
    with pytest.raises(TransientError, match="does not start") as caught:
        broken.map([("echo", 1)])
    assert not isinstance(caught.value, Casualty)
    broken.close()


def test_an_end_with_work_in_hand_starts_nothing_and_blames_nobody():
    one = Isolated(WORK, 1, timeout_s=60)
    with ThreadPoolExecutor(3) as callers:
        work = [callers.submit(one.call, ("hang", 0)) for _ in range(3)]
        wait_until(decoders)
        time.sleep(2)  # until it hangs
        one.close()
        for each in work:
            with pytest.raises(TransientError, match="ends here"):
                each.result(10)
    assert not decoders()


def test_processes_end_with_their_parent(tmp_path: Path):
    script = tmp_path / "parent.py"
    script.write_text(
        f"from medd.imaging.isolated import Isolated\n"
        f"one = Isolated({WORK!r}, 1)\n"
        f"print(one.map([('pid', 0)])[0], flush=True)\n"
        f"import os; os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    child = int(done.stdout)
    wait_until(lambda: not psutil.pid_exists(child))


def test_every_error_of_ours_survives_the_way_between_processes():
    def kinds(kind: type[MeddError]) -> list[type[MeddError]]:
        return [kind, *(inner for direct in kind.__subclasses__() for inner in kinds(direct))]

    for kind in kinds(MeddError):
        error = kind.__new__(kind)  # whatever its constructor takes
        error.args = ("told",)
        vars(error)["reason"] = "unreadable"
        back = pickle.loads(pickle.dumps(error))
        assert (type(back), str(back), vars(back)) == (kind, "told", {"reason": "unreadable"})
