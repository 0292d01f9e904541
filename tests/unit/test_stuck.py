"""A process whose code never returns leaves, and says in whose code it was."""

import subprocess
import sys

import pytest

from medd import stuck

PROGRAM = """
import logging, time
from medd import stuck
logging.basicConfig(format="%(message)s")
stuck.watch(0.3)
{what}
print("ended by itself")
"""


def run(what: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM.format(what=what)], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "hang",
    [
        "with stuck.bounded('plugin x'): time.sleep(600)",
        "list(stuck.bounded_each((time.sleep(600 * n) for n in (0, 1)), 'plugin x'))",
    ],
)
def test_what_never_returns_ends_its_process(hang):
    done = run(hang)
    assert done.returncode == stuck.EXIT_CODE
    assert done.stderr.strip() == "plugin x: no end after 0.3 s: leaving"
    assert not done.stdout


def test_what_returns_in_time_however_often_and_what_raises_ends_nothing():
    done = run(
        """
for _ in stuck.bounded_each(range(8), 'plugin x'):
    time.sleep(0.1)  # ours, between the items
for _ in range(8):
    with stuck.bounded('plugin x'):
        time.sleep(0.1)
try:
    with stuck.bounded('plugin x'):
        raise RuntimeError
except RuntimeError:
    time.sleep(0.8)
"""
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "ended by itself", "")
