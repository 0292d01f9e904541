"""Results into a PACS: SR, picture and presentation state by C-STORE, into the study that they belong to."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Literal

from pydantic import ConfigDict
from pydicom import Dataset
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.status import code_to_category

from medd.deliver.destination import Destination, Objects, Sent
from medd.dicom.network import associate
from medd.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from medd.errors import InputError, PeerRefused, TransientError
from medd.records import StudyReport
from medd.settings import AETitle, PeerSettings
from medd.settings import Settings as MeddSettings

#: C-STORE statuses (PS3.4 table B.2-1, PS3.7 Annex C) that may pass: processing failure, resource limitation, and out
#: of resources.
_TRANSIENT = (0x0110, 0x0213, *range(0xA700, 0xA800))
#: The object is there already.
_DUPLICATE = 0x0111


class PacsDestination(Destination):
    """``[[destination]] type = "pacs"``."""

    kind = "pacs"

    class Settings(PeerSettings):
        """A PACS, and what it is sent."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        ae_title: AETitle
        #: "sr": the report; "sc": a picture with the heat map; "gsps": a presentation state with the label.
        send: tuple[Literal["sr", "sc", "gsps"], ...] = ("sr", "sc")
        #: Ask it by storage commitment to take responsibility for what it was sent.
        commitment: bool = False

    def __init__(self, name: str, own: Any, settings: MeddSettings) -> None:
        super().__init__(name, own, settings)
        self._tls = None
        if own.tls is not None:
            from medd.dicom.tls import client_context

            self._tls = client_context(own.tls, settings.home)

    def send(self, report: StudyReport, objects: Objects, known: Collection[str]) -> Iterator[Sent]:
        """Send what the PACS does not have yet, over one association, the report first.

        A kind that cannot be made holds no other up: that it cannot is said when the others are there.
        """
        made, broken = _make(objects, sorted(self.own.send, key=lambda kind: kind != "sr"))
        wanted = [one for one in made if one.SOPInstanceUID not in known]
        if wanted:
            yield from self._store_all(wanted)
        if broken:
            raise broken[0]

    def _store_all(self, wanted: Sequence[Dataset]) -> Iterator[Sent]:
        # Apart, so that a peer cannot choose: written as Explicit VR, names go out byte for byte as they came in.
        syntaxes = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
        classes = dict.fromkeys(one.SOPClassUID for one in wanted)
        contexts = [build_context(sop_class, syntax) for sop_class in classes for syntax in syntaxes]
        refused: list[str] = []
        with associate(self.own, self.settings.listener.ae_title, contexts, tls=self._tls) as association:
            accepted = {context.abstract_syntax for context in association.accepted_contexts}
            for one in wanted:
                if one.SOPClassUID not in accepted:
                    refused.append(f"SOP class {one.SOPClassUID.name}")
                    continue
                # Never its Error Comment, which may name the patient.
                status = self._store(association, one)
                if status in _TRANSIENT:
                    raise TransientError(f"{self.name}: C-STORE answered with {status:#06x}")
                # After a warning it is stored, with something coerced or left out.
                if status == _DUPLICATE or code_to_category(status) in ("Success", "Warning"):
                    yield Sent(one.SOPInstanceUID, one.SOPClassUID, f"{status:#06x}")
                else:
                    refused.append(f"{one.SOPClassUID.name}: {status:#06x}")
        if refused:  # at the end: what it does take, it has
            raise PeerRefused(f"{self.name} refuses {'; '.join(dict.fromkeys(refused))}")

    def _store(self, association: Association, one: Dataset) -> int:
        if not association.is_established:
            raise TransientError(f"{self.name}: the association was lost")
        try:
            answer = association.send_c_store(one)
        except (RuntimeError, ValueError) as error:  # pynetdicom: the association ended, or an object it cannot encode
            if association.is_established:
                raise PeerRefused(f"{self.name}: {one.SOPClassUID.name} cannot be encoded") from error
            raise TransientError(f"{self.name}: the association was lost") from error
        if "Status" not in answer:
            raise TransientError(f"{self.name}: no answer to C-STORE")
        return int(answer.Status)


def _make(objects: Objects, kinds: Iterable[str]) -> tuple[list[Dataset], list[InputError]]:
    made: list[Dataset] = []
    broken: list[InputError] = []
    for kind in kinds:
        try:
            made += objects.make(kind)
        except InputError as error:
            broken.append(error)
    return made, broken
