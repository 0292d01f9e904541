"""The receiver: every way by which images come in, started and stopped together."""

from dataclasses import dataclass

from medd.ingest.intake import Intake
from medd.ingest.listener import Listener
from medd.ingest.schedule import ScheduledPulls
from medd.ingest.watch import Inbox
from medd.store.retention import Rounds


@dataclass(frozen=True, slots=True)
class Receiver:
    """What takes images in."""

    intake: Intake
    listener: Listener
    inboxes: tuple[Inbox, ...]
    #: What is fetched on a schedule.
    pulls: ScheduledPulls
    #: What is done with is deleted.
    retention: Rounds
    #: "AE@host:port", for the ready line.
    address: str

    def start(self) -> None:
        """Take images from now on."""
        self.listener.start()
        for inbox in self.inboxes:
            inbox.start()
        self.pulls.start()
        self.retention.start()

    def is_alive(self) -> bool:
        """Whether images are still taken in by every way."""
        return self.listener.is_alive() and all(inbox.is_alive() for inbox in self.inboxes)

    def stop(self) -> None:
        """Finish what is coming in and stop."""
        self.retention.stop()
        self.pulls.stop()
        self.listener.stop()
        for inbox in self.inboxes:
            inbox.stop()
        self.intake.close()
