"""What a listener makes of an A-ASSOCIATE-RQ (PS3.8 section 7.1): refused, or which contexts and roles are accepted."""

from dataclasses import dataclass

from medd.dicom import commitment, part10
from medd.ingest import pdu
from medd.ingest.commitment import CommitmentDesk
from medd.settings import ListenerSettings

#: An A-ASSOCIATE-RQ with 128 contexts of every transfer syntax has some 155 KiB.
MAX_ASSOCIATE_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What a listener accepts.

    Attributes:
        settings: AE titles, limits.
        transfer_syntaxes: By abstract syntax, those that are accepted.
        desk: Answers what concerns storage commitment; None where its abstract syntax is not accepted.
    """

    settings: ListenerSettings
    transfer_syntaxes: dict[str, frozenset[str]]
    desk: CommitmentDesk | None = None


def refusal_of(request: pdu.AssociateRequest, settings: ListenerSettings) -> tuple[tuple[int, int, int], str] | None:
    """Result, source and reason of a rejection (PS3.8 table 9-21) with a sentence for the log; None to accept."""
    if not request.protocol_version & 1:
        return pdu.REJECT_PROTOCOL_VERSION, "unknown protocol version"
    if request.application_context != pdu.APPLICATION_CONTEXT:
        return pdu.REJECT_APPLICATION_CONTEXT, "unknown application context"
    if settings.require_called_ae and request.called_ae.casefold() != settings.ae_title.casefold():
        return pdu.REJECT_CALLED_AE, f"called AE title is not ours. Received: {request.called_ae}"
    allowed = {title.casefold() for title in settings.allowed_calling_ae}
    if allowed and request.calling_ae.casefold() not in allowed:
        return pdu.REJECT_CALLING_AE, f"calling AE title is not allowed. Received: {request.calling_ae}"
    return None


def choose_contexts(
    request: pdu.AssociateRequest, acceptance: Acceptance
) -> tuple[list[tuple[int, int, str]], dict[int, tuple[str, str]]]:
    """What each proposed context is answered (id, result, transfer syntax), and the syntaxes of the accepted, by id."""
    results, accepted = [], {}
    for context in request.contexts:
        supported = acceptance.transfer_syntaxes.get(context.abstract_syntax)
        syntax = next((s for s in context.transfer_syntaxes if supported and s in supported), "")
        if syntax:
            accepted[context.id] = (context.abstract_syntax, syntax)
            results.append((context.id, pdu.ACCEPTED, syntax))
        else:
            why_not = pdu.TRANSFER_SYNTAXES_NOT_SUPPORTED if supported else pdu.ABSTRACT_SYNTAX_NOT_SUPPORTED
            # The syntax of a refused context is not significant, but its item has to be there.
            results.append((context.id, why_not, part10.IMPLICIT_VR_LITTLE_ENDIAN))
    return results, accepted


def choose_roles(request: pdu.AssociateRequest, contexts: dict[int, tuple[str, str]]) -> dict[str, tuple[int, int]]:
    """The proposed roles that are accepted, by abstract syntax (PS3.7 section D.3.3.4).

    A role is accepted by repeating it. A peer that reports to us is SCP though it calls; for everything else the
    default holds, in which whoever calls is SCU.
    """
    accepted = any(abstract == commitment.PUSH_MODEL for abstract, _ in contexts.values())
    return {uid: roles for uid, roles in request.roles.items() if uid == commitment.PUSH_MODEL and accepted}
