"""Results as HL7 v2 messages: ``[[destination]] type = "hl7"``."""

from typing import Any

from medd import hookimpl


@hookimpl
def register_destinations() -> list[type[Any]]:
    """ORU^R01 over MLLP."""
    from medd_hl7.destination import Hl7Destination

    return [Hl7Destination]
