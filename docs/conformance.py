"""The DICOM Conformance Statement, in the structure of PS3.2, from the tables that the program itself works by."""

# ruff: noqa: E501 - prose, as wide as the other documents
from conformance_annexes import CREATED, annexes, media_and_charsets, network, security
from conformance_web import dicomweb
from dicomtext import attribute, attributes, by_number, status, table, uids
from pydicom.datadict import keyword_for_tag
from pydicom.uid import (
    UID,
)
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from medd import DISCLAIMER, __version__
from medd.deliver import commitment as asking
from medd.deliver.pacs import PacsDestination
from medd.dicom import commitment, derived, headers, part10, samples
from medd.dicom.network import MAX_PDU_BYTES
from medd.ingest import listener, negotiation, pdu, places, query, retrieve
from medd.settings import ListenerSettings, PeerSettings
from medd.store import commitments

_LISTENER = ListenerSettings()
_PEER_TIMEOUT_S = PeerSettings.model_fields["timeout_s"].default
_LITTLE_ENDIAN = (part10.EXPLICIT_VR_LITTLE_ENDIAN, part10.IMPLICIT_VR_LITTLE_ENDIAN)


def conformance() -> str:
    """The whole statement."""
    parts = (
        overview,
        introduction,
        application_entities,
        acceptance,
        initiation,
        dicomweb,
        network,
        media_and_charsets,
    )
    return "\n".join(part().strip() + "\n" for part in (*parts, security, annexes))


# -- 1 to 3 --------------------------------------------------------------------------------------------------------


def overview() -> str:
    """PS3.2 section A.1."""
    storage = len(AllStoragePresentationContexts)
    services = [
        ("Verification", "Yes (`medd echo`)", "Yes"),
        (f"Storage of images: {storage} SOP classes", "No", "Yes"),
        (f"Storage of results: {', '.join(UID(uid).name for uid in CREATED.values())}", "Yes", "see above"),
        ("Storage Commitment Push Model", "Yes", "Yes"),
        ("Study Root Query/Retrieve – FIND, GET, MOVE", "Yes (`medd pull`)", "No"),
    ]
    web = [
        ("QIDO-RS: search for studies and series", "Yes", "No"),
        ("WADO-RS: retrieve series", "Yes", "No"),
        ("STOW-RS: store instances", "No", "Yes"),
    ]
    return f"""
# DICOM Conformance Statement

<!-- Made by `make docs` from the code; change that. -->

Product: medd {__version__}. {DISCLAIMER}

The sections are those of PS3.2 Annex A; numbers in parentheses are sections of the Standard.

## 1 Overview (A.1)

medd receives radiographs from modalities and archives, or fetches them, has a model judge what is a frontal chest
radiograph, and sends what the model said into the study that the image is of.

{table(("Network service", "user (SCU)", "provider (SCP)"), services)}
{table(("DICOMweb service", "user agent", "origin server"), web)}
Media services: none. Files of PS3.10 are taken from watched folders and written by `medd export` (section 8), outside of
any application profile of PS3.11.
"""


def introduction() -> str:
    """PS3.2 section A.3."""
    return """
## 2 Introduction (A.3)

**Audience.** Whoever connects medd with modalities, archives and viewers, and knows DICOM.

**Remarks.** Conformance statements that fit each other are necessary, and not enough: try the connection (`medd doctor`,
`medd echo`) before patients depend on it. "Not assessed" never means "normal".

**Terms.** AE application entity, SCU/SCP service class user/provider, SR structured report, GSPS grayscale softcopy
presentation state. Other words are those of PS3.
"""


# -- 4 Networking --------------------------------------------------------------------------------------------------


def application_entities() -> str:
    """PS3.2 sections A.4.1 and A.4.2, what all AEs share."""
    identification = [
        ("Implementation Class UID", f"`{part10.IMPLEMENTATION_CLASS_UID}`"),
        ("Implementation Version Name", f"`{part10.IMPLEMENTATION_VERSION_NAME}`"),
        ("Application Context Name", f"`{pdu.APPLICATION_CONTEXT.decode()}`"),
    ]
    return f"""
## 3 Networking (A.4)

### 3.1 Implementation model (A.4.1)

```
 modality, archive ──C-STORE──▶ RECEIVER ─▶ spool, database ─▶ model ─▶ outbox ─▶ DELIVERER ──C-STORE──▶ archive
                   ◀─N-EVENT-REPORT─┘ ▲                                      └──N-ACTION──▶
 archive ◀──C-FIND, C-GET, C-MOVE── PULLER
```

| AE | what it does |
|---|---|
| RECEIVER | accepts associations: verification, storage of images, storage commitment in both roles |
| DELIVERER | opens associations: storage of results, storage commitment asked of archives and reported to modalities |
| PULLER | opens associations: query and retrieve; verification (`medd echo`, `medd doctor`) |

All three use one AE title, `listener.ae_title` (default `{_LISTENER.ae_title}`); towards a peer another one may be set
(`calling_ae_title`).

**Sequence.** An image is acknowledged when its bytes and its row are safe on disk, before it is judged. A study is
reported when it has been quiet for `study.quiet_s`; an image that comes later makes a new report, which names its
predecessor (0040,A360). Delivery is repeated with growing pauses until the archive acknowledges it.

### 3.2 Common to all application entities (A.4.2)

{table(("", ""), identification)}
- Asynchronous operations window: not negotiated; one operation at a time on an association.
- Maximum PDU length offered: 0 (unlimited) as acceptor, {MAX_PDU_BYTES} as requestor.
  What a peer states is kept to.
- User identity and SOP class extended negotiation: not supported. Role selection: for Storage Commitment (3.3, 3.4) and
  for C-GET (3.5).
"""


def acceptance() -> str:
    """The RECEIVER: PS3.2 section A.4.2.x.4, association acceptance policy."""
    supported = listener.supported_transfer_syntaxes()
    limits = [
        ("associations at one time", _LISTENER.max_associations, "`listener.max_associations`"),
        ("from one address", _LISTENER.max_associations_per_host or "no limit", "`listener.max_associations_per_host`"),
        ("connections without an association", places.MAX_UNASSOCIATED, "fixed; the longest waiting goes first"),
        (
            "from connection to association request",
            f"{_LISTENER.association_timeout_s:g} s",
            "`listener.association_timeout_s`",
        ),
        ("without a byte from the peer", f"{_LISTENER.network_timeout_s:g} s", "`listener.network_timeout_s`"),
        ("size of an object", f"{_LISTENER.max_object_mib} MiB", "`listener.max_object_mib`"),
    ]
    rejections = [
        (*pdu.REJECT_PROTOCOL_VERSION, "protocol version not supported"),
        (*pdu.REJECT_APPLICATION_CONTEXT, "application context not supported"),
        (*pdu.REJECT_CALLED_AE, "called AE title not ours, where `listener.require_called_ae` is set"),
        (*pdu.REJECT_CALLING_AE, "calling AE title not among `listener.allowed_calling_ae`, where that is set"),
        (*pdu.REJECT_CONGESTION, "a limit of associations is reached: try again"),
    ]
    every = frozenset[str]().union(*supported.values())
    syntaxes = [
        (name, uid, "yes" if uid.strip("`") in samples.SAMPLES else "no")
        for name, uid in uids(sorted(every, key=by_number))
    ]
    kept = len(every - samples.SAMPLES.keys())
    classes = uids(sorted((uid for uid, has in supported.items() if uid != commitment.PUSH_MODEL), key=by_number))
    answers = [
        (status(pdu.SUCCESS), "Success", "bytes and row are safe on disk, whether or not it is an image for the model"),
        (
            status(pdu.OUT_OF_RESOURCES),
            "Refused: out of resources",
            "disk or database is away or full, or the object is larger than allowed: send it again",
        ),
        (
            status(pdu.DATASET_DOES_NOT_MATCH_SOP_CLASS),
            "Error: dataset does not match SOP class",
            "SOP Class or Instance UID of dataset, command and context differ",
        ),
        (status(pdu.CANNOT_UNDERSTAND), "Error: cannot understand", "the dataset is not readable as DICOM, or cut off"),
        (status(pdu.UNRECOGNIZED_OPERATION), "Unrecognized operation", "another operation than those of this section"),
    ]
    n_action = [
        (status(pdu.SUCCESS), "the request is on record"),
        (status(pdu.PROCESSING_FAILURE), "the database is away, or the spool cannot be read: ask again"),
        (status(pdu.RESOURCE_LIMITATION), "too many transactions of this peer wait, or its PDUs hold no report"),
        (status(pdu.NO_SUCH_OBJECT_INSTANCE), f"not the well-known SOP Instance `{commitment.INSTANCE}`"),
        (status(pdu.INVALID_ARGUMENT_VALUE), "no readable references, or an N-EVENT-REPORT of no transaction of ours"),
        (status(pdu.NO_SUCH_SOP_CLASS), "not the Storage Commitment Push Model"),
        (status(pdu.NO_SUCH_ACTION_TYPE), f"another action than {commitment.REQUEST}, Request Storage Commitment"),
        (status(pdu.NO_SUCH_EVENT_TYPE), "another event than the outcomes 1 and 2"),
    ]
    read = [
        attribute(tag)
        for tag in sorted({*headers._UIDS, *headers._CODES, *headers._TEXTS, *headers._NUMBERS})
        if keyword_for_tag(tag)
    ]
    return f"""
### 3.3 RECEIVER: association acceptance (A.4.2)

{table(("limit", "default", "setting"), limits)}
Peers are told apart by address (`listener.allowed_hosts`) and AE title, compared without case. An A-ASSOCIATE-RQ may have
up to {negotiation.MAX_ASSOCIATE_BYTES >> 10} KiB. Rejections (PS3.8 table 9-21):

{table(("result", "source", "reason", "when"), rejections)}
Of the transfer syntaxes that a context proposes, the first that is accepted is chosen: the sender's order counts.

#### Presentation contexts

Every storage SOP class below, and Verification, in every transfer syntax below. Objects are stored as they come, level 2
(full): no attribute is discarded or coerced.

**Accepted and not decoded** are {kept} of the {len(every)} transfer syntaxes, those with "no" (video, audio, JPIP, JPEG XL, …).
An object in one of them is answered with success, kept, and part of storage commitment like any other; an image in it is
never scored, but recorded as "not assessed". A sender whose images are to be assessed proposes syntaxes with "yes" alone.

{table(("Transfer syntax", "UID", "decoded for the model"), syntaxes)}
{table(("SOP class", "UID"), classes)}
{UID(commitment.PUSH_MODEL).name} (`{commitment.PUSH_MODEL}`), in
{", ".join(UID(uid).name for uid in sorted(supported[commitment.PUSH_MODEL], key=by_number))}; the roles SCU and SCP are both
accepted where a peer proposes them.

#### Storage (PS3.4 Annex B)

{table(("status", "meaning", "when"), answers)}
The reason stands in Error Comment (0000,0902). The same bytes sent again are one instance; the same SOP Instance UID with
other bytes is kept beside it and flagged. What is stored and no image for the model is recorded as "not assessed", with
its reason. Attributes that are used, where they are there:

{table(("attribute", "tag"), read)}
#### Storage commitment as SCP (PS3.4 Annex J)

{table(("status of N-ACTION and N-EVENT-REPORT", "when"), n_action)}
An object is committed when its row and its bytes, verified by their digest, are there; else it fails with
{status(commitment.NO_SUCH_OBJECT_INSTANCE)} (no such object instance) or {status(commitment.CLASS_INSTANCE_CONFLICT)}
(class-instance conflict). The N-EVENT-REPORT goes on an association that DELIVERER opens where a `[[peer]]` has the AE title
of who asked; otherwise on the association of the request, if that is still open. Objects are kept until an operator
deletes them: medd itself never does.
"""


def initiation() -> str:
    """DELIVERER and PULLER: PS3.2 section A.4.2.x.3, association initiation policy."""
    sent = [
        (UID(uid).name, f"`{uid}`", derived._SERIES[kind][0], derived._SERIES[kind][1], f"`{kind}`")
        for kind, uid in CREATED.items()
    ]
    asked = [
        StudyRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelGet,
        StudyRootQueryRetrieveInformationModelMove,
        Verification,
    ]
    answers = [
        (status(pdu.SUCCESS), "bytes and row are safe on disk"),
        (status(pdu.OUT_OF_RESOURCES), "disk or database is away or full, or the object is larger than allowed"),
        (
            status(pdu.DATASET_DOES_NOT_MATCH_SOP_CLASS),
            "SOP Class or Instance UID of dataset and command differ, or the study or series is not the one asked for",
        ),
        ("0xCxxx", "the dataset is not readable as DICOM or cannot be stored as it is, or a failure nobody foresaw"),
        ("0x0122", "SOP class not supported: no context with the role SCP was accepted for it"),
    ]
    by_default = ", ".join(f"`{kind}`" for kind in PacsDestination.Settings.model_fields["send"].default)
    return f"""
### 3.4 DELIVERER: association initiation (A.4.2)

One association for each study and destination, opened when the study is due, with a context for each SOP class that is
to be sent, in {" or ".join(UID(uid).name for uid in _LITTLE_ENDIAN)}. Time-out towards a peer: {_PEER_TIMEOUT_S:g} s
(`timeout_s`).

{table(("SOP class", "UID", "modality", "series number", "`send`"), sent)}
By default {by_default} are sent. Statuses of C-STORE:

| status | what medd does |
|---|---|
| 0x0000, a warning (0xBxxx, 0x0001, 0x0107, 0x0116) | the object is delivered |
| 0x0111 | duplicate SOP instance: it is there already, delivered |
| 0x0110, 0x0213, 0xA7xx, no answer, association lost, rejected as transient or for congestion | tried again, with growing pauses |
| others, SOP class refused, association rejected as permanent | given up at once and listed (`medd queue list`) |

**Storage commitment as SCU** (`commitment = true` at a destination): N-ACTION after a delivery; the answer is awaited for
{asking.WAIT_S:g} s on the same association, and for {
        commitments.ANSWER_S / 3600:g} h on any that the archive opens to RECEIVER.
**As SCP** towards modalities, DELIVERER proposes the role SCP and sends N-EVENT-REPORT.

### 3.5 PULLER: association initiation (A.4.2)

On demand (`medd pull`, `medd echo`, `medd doctor`) and on a schedule (`[[pull]]`).

{table(("SOP class", "UID"), uids(str(uid) for uid in asked))}
- C-FIND at the levels STUDY and SERIES, hierarchical, no relational queries. Keys:

{table(("level STUDY", "tag"), attributes(query.STUDY_KEYS))}
{table(("level SERIES", "tag"), attributes(query.SERIES_KEYS))}
- C-GET or C-MOVE (`retrieve`) at the level SERIES. C-MOVE names RECEIVER as destination.
- For C-GET the role SCP is proposed for the storage SOP classes below, each in every transfer syntax that is decoded, in
  contexts of their own, so that an archive need not convert. Its objects are not answered as by RECEIVER
  (3.3), but by one of the statuses below, without Error Comment (0000,0902).

{table(("SOP class", "UID"), uids(retrieve.STORAGE_CLASSES))}
{table(("status of C-STORE within a C-GET", "when"), answers)}
- C-CANCEL is not sent.
"""
