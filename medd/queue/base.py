"""The states of a job, and when a failed one is tried again.

::

    pending ──claim──▶ running ──finish──▶ done
       ▲                  │
       ├──retry, lost─────┤
       │                  └──bury, tried too often──▶ dead
       └───────────────────`medd queue retry`──────────┘

A claim holds for the time of a lease, which a heartbeat extends. Whoever finishes, retries or buries a job shows the
token of its claim: once the job was lost and claimed by another, the token is stale and nothing happens.
"""

from enum import StrEnum


class JobState(StrEnum):
    """Where a job stands; the database holds it by a CHECK."""

    #: Waits, at the latest until `available_at`.
    PENDING = "pending"
    #: Claimed; the row stays visible and comes back by itself when the lease runs out.
    RUNNING = "running"
    #: Its result was committed in the same transaction.
    DONE = "done"
    #: Given up; `medd queue retry` brings it back.
    DEAD = "dead"


#: The work of scoring one instance.
CLASSIFY = "classify"
#: The work of sending a study's results to one destination; its rows are those of the outbox.
DELIVER = "deliver"

#: Of history that is scored again: everything that comes in live has 0 and goes first.
RESCORE_PRIORITY = 1000

FIRST_BACKOFF_S = 1.0
MAX_BACKOFF_S = 300.0


def backoff_s(attempts: int) -> float:
    """Seconds to wait after the given number of failed tries: 1, 2, 4, … at most 300."""
    return min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** (attempts - 1))
