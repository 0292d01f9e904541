"""What a destination is: somewhere that results go."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel
from pydicom import Dataset

from medd.records import StudyReport
from medd.settings import Settings as MeddSettings


@dataclass(frozen=True, slots=True)
class Sent:
    """One thing that a destination has acknowledged."""

    #: SOP Instance UID, or the name that it has there.
    object: str
    sop_class_uid: str = ""
    #: What was answered, in a few words.
    answer: str = ""


class Objects(Protocol):
    """The DICOM objects of a report, made when they are asked for."""

    def make(self, kind: str) -> Sequence[Dataset]:
        """The objects of a kind: "sr", "sc" or "gsps". Empty where the report has nothing for it.

        Raises:
            InputError: An image cannot be read any more.
            TransientError: An image cannot be read now.
        """
        ...

    def patient_name(self) -> str:
        """(0010,0010) Patient's Name, decoded by the images' own character set; "" where no image says it.

        Raises:
            InputError: As `make`.
            TransientError: As `make`.
        """
        ...


class Destination(ABC):
    """One ``[[destination]]``. Several threads may send by it at the same time.

    Args:
        name: What ``[[destination]] name`` says.
        own: The other keys of the table, checked by `Settings`.
        settings: All of medd's settings.
    """

    #: As ``[[destination]] type`` names it; unique among all plugins.
    kind: ClassVar[str]
    #: The other keys of the table; a model that forbids those it does not know.
    Settings: ClassVar[type[BaseModel]]

    def __init__(self, name: str, own: Any, settings: MeddSettings) -> None:
        self.name, self.own, self.settings = name, own, settings

    @abstractmethod
    def send(self, report: StudyReport, objects: Objects, known: Collection[str]) -> Iterator[Sent]:
        """Send what there is of a report, and yield each thing once it is acknowledged.

        What was yielded before an error is kept as sent. A deliverer that dies in between sends the same once more: to
        receive it twice must be as good as once.

        Args:
            report: What is known of the study.
            objects: Its DICOM objects.
            known: What this destination has acknowledged already, by `Sent.object`: not to be sent again.

        Raises:
            TransientError: The destination is away or busy; tried again with backoff.
            PeerRefused: It says no for good; not tried again by itself.
        """
