from collections.abc import Sequence

import pytest
from pydicom import Dataset, uid
from pynetdicom import AE, evt

from medd import settings
from medd.deliver.objects import ReportObjects
from medd.deliver.pacs import PacsDestination
from medd.errors import InputError
from medd.records import Reason
from tests.studies import CODES, film, image, prediction, report
from tests.support import free_port


@pytest.mark.parametrize("broken", ["sc", "sr"])
def test_kind_that_cannot_be_made_holds_no_other_up(tmp_path, broken):
    whole = report(image(tmp_path, film(), prediction()))

    class Objects(ReportObjects):
        def make(self, kind: str) -> Sequence[Dataset]:
            if kind == broken:
                raise InputError(Reason.UNREADABLE, "broken")
            return super().make(kind)

    received: list[str] = []

    def keep(event: evt.Event) -> int:
        received.append(event.request.AffectedSOPClassUID)
        return 0

    archive, port = AE("ARCHIVE"), free_port()
    for sop_class in (uid.Comprehensive3DSRStorage, uid.SecondaryCaptureImageStorage):
        archive.add_supported_context(sop_class)
    archive.add_supported_context(uid.GrayscaleSoftcopyPresentationStateStorage)
    server = archive.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    peer = PacsDestination.Settings(
        name="archive", host="127.0.0.1", port=port, ae_title="ARCHIVE", send=("gsps", "sc", "sr")
    )
    sent = []
    try:
        with pytest.raises(InputError, match="broken"):
            sent.extend(
                PacsDestination("archive", peer, settings.load(tmp_path)).send(whole, Objects(whole, CODES), ())
            )
    finally:
        server.shutdown()
    other = uid.Comprehensive3DSRStorage if broken == "sc" else uid.SecondaryCaptureImageStorage
    assert set(received) == {other, uid.GrayscaleSoftcopyPresentationStateStorage}
    assert received[0] == other or broken == "sr"
    assert {one.sop_class_uid for one in sent} == set(received)
