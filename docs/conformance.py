"""The DICOM Conformance Statement, in the structure of PS3.2, from the tables that the program itself works by."""

# ruff: noqa: E501 - prose, as wide as the other documents
from collections.abc import Iterable, Sequence

from pydicom.datadict import dictionary_description, keyword_for_tag, tag_for_keyword
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
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
from medd.dicom import commitment, deidentify, derived, headers, modules, part10, report, samples, tls
from medd.dicom.network import MAX_PDU_BYTES
from medd.ingest import association, listener, pdu, places, query, retrieve
from medd.settings import DicomWebSettings, ListenerSettings, PeerSettings
from medd.store import commitments

_LISTENER = ListenerSettings()
_PEER_TIMEOUT_S = PeerSettings.model_fields["timeout_s"].default
_CREATED = {
    "sr": Comprehensive3DSRStorage,
    "sc": SecondaryCaptureImageStorage,
    "gsps": GrayscaleSoftcopyPresentationStateStorage,
}
_LITTLE_ENDIAN = (part10.EXPLICIT_VR_LITTLE_ENDIAN, part10.IMPLICIT_VR_LITTLE_ENDIAN)


def by_number(uid: str) -> list[int]:
    """The order of UIDs as people read them."""
    return [int(part) for part in uid.split(".")]


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines) + "\n"


def uids(values: Iterable[str]) -> list[tuple[str, str]]:
    """Names and UIDs."""
    return [(UID(value).name, f"`{value}`") for value in values]


def attribute(tag: int) -> tuple[str, str]:
    """An attribute's name and tag."""
    return dictionary_description(tag), f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def attributes(keywords: Iterable[str]) -> list[tuple[str, str]]:
    """Names and tags of attributes by keyword."""
    tags = (tag_for_keyword(keyword) for keyword in keywords)
    return [attribute(tag) for tag in tags if tag is not None]


def concept(code: tuple[str, str, str]) -> str:
    """A code as the Standard writes it."""
    value, scheme, meaning = code
    return f'({value}, {scheme}, "{meaning}")'


def status(code: int) -> str:
    """A DIMSE status as the Standard writes it."""
    return f"0x{code:04X}"


def conformance() -> str:
    """The whole statement."""
    parts = (overview, introduction, application_entities, acceptance, initiation, network, media_and_charsets)
    return "\n".join(part().strip() + "\n" for part in (*parts, security, annexes))


# -- 1 to 3 --------------------------------------------------------------------------------------------------------


def overview() -> str:
    """PS3.2 section A.1."""
    storage = len(AllStoragePresentationContexts)
    services = [
        ("Verification", "Yes (`medd echo`)", "Yes"),
        (f"Storage of images: {storage} SOP classes", "No", "Yes"),
        (f"Storage of results: {', '.join(UID(uid).name for uid in _CREATED.values())}", "Yes", "see above"),
        ("Storage Commitment Push Model", "Yes", "Yes"),
        ("Study Root Query/Retrieve – FIND, GET, MOVE", "Yes (`medd pull`)", "No"),
    ]
    web = [("QIDO-RS: search for studies and series", "Yes", "No"), ("WADO-RS: retrieve series", "Yes", "No")]
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
up to {association._MAX_ASSOCIATE_BYTES >> 10} KiB. Rejections (PS3.8 table 9-21):

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
        for kind, uid in _CREATED.items()
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

### 3.6 DICOMweb (PS3.18)

QIDO-RS for studies and series, with the keys above; WADO-RS for series, `multipart/related; type="application/dicom";
transfer-syntax=*`. HTTP/1.1 over TLS or in the clear; a bearer token from a file. Time-out {
        DicomWebSettings.model_fields["timeout_s"].default:g} s.
"""


def network() -> str:
    """PS3.2 sections A.4.3 and A.4.4."""
    return f"""
### 3.7 Network interfaces (A.4.3)

TCP/IP, IPv4 and IPv6, as the operating system gives them. The host names of peers are resolved by it.

### 3.8 Configuration (A.4.4)

AE titles, hosts and ports of peers stand in `[[peer]]`, `[[destination]]` and `[[dicomweb]]` of `medd.toml`; every key with
its default in `config/medd.toml`. Our own port is {_LISTENER.port}, bound to {_LISTENER.host} unless `listener.host` says
otherwise.
"""


# -- 5 to 8 --------------------------------------------------------------------------------------------------------


def media_and_charsets() -> str:
    """PS3.2 sections A.5 and A.6."""
    return """
## 4 Media interchange (A.5)

None.

## 5 Character sets (A.6)

Every Specific Character Set (0008,0005) of PS3.3 section C.12.1.1.2 is read, with and without code extensions (ISO 2022);
an unknown one is read as ISO_IR 100. Objects that medd makes carry the patient and study attributes byte for byte and the
Specific Character Set of the image they are made of; what medd adds is ASCII. The database and DICOM JSON are Unicode.
"""


def security() -> str:
    """PS3.2 section A.7."""
    from medd.dicom.deidentify import basic_profile

    return f"""
## 6 Security (A.7)

### 6.1 Security profiles

| profile | support |
|---|---|
| BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile (PS3.15 section B.12) | RECEIVER, where `listener.tls` \
names a certificate; towards peers with a table `tls` |
| Basic Application Level Confidentiality Profile (PS3.15 section E.2) | `medd export`, as de-identifier |

TLS 1.2 or newer. Cipher suites of TLS 1.2: {", ".join(f"`{name}`" for name in tls.CIPHER_SUITES)}; of TLS 1.3 those of the
library. Where a CA is set, RECEIVER requires a certificate of every peer. Towards a peer, its certificate and host name
are always verified.

### 6.2 Association level security

Calling AE titles, called AE title and addresses can each be restricted; see section 3.3.

### 6.3 De-identification

`medd export` removes, empties or replaces by table E.1-1 (edition {deidentify.TABLE.removeprefix("dicomfields_")},
{len(basic_profile())} attributes and the repeating groups), in every sequence that stays. No option of the profile is
applied; no encrypted attributes are made.

- UIDs are replaced by keyed hashes under `2.25.`: the same for the same, in references as well. Kept are those that PS3.6
  registers, and UIDs of classes, coding schemes and context groups.
- Patient's Name and Patient ID are a pseudonym by a keyed hash.
- Beyond the table go: private attributes, attributes unknown to the Standard or in a VR that it does not have for them, whole
  overlays (60xx) and curves (50xx); of what the table does not list any date, time, age, person's name, AE title, URL and free
  text (LT, ST, UT, UC), any other text, sequence or bytes outside the groups 0008, 0018, 0020, 0028, 0050, 0054, 2050 and
  5200, and all of group 0010.
- Of pixel data go: what stands in unused bits (overlays of old devices) or behind the last pixel, offset tables, comments and
  application data in JPEG, JPEG-LS and JPEG 2000 frames, and what stands behind a frame. RLE frames are encoded anew, JPEG
  frames are not: those with something in unused bits are refused, as are frames in other encapsulated syntaxes.
- Set are Patient Identity Removed (0012,0062) YES, De-identification Method (0012,0063), De-identification Method Code
  Sequence (0012,0064) {deidentify.PROFILE[0]}, and Longitudinal Temporal Information Modified (0028,0303) REMOVED.
- Pixel data are **not** examined. Objects with Burned In Annotation (0028,0301) YES are left out, and Secondary Captures
  that do not say NO, unless asked for.
"""


def annexes() -> str:
    """PS3.2 section A.8."""
    copied = [(*row, "empty if not there" if keyword in modules.REQUIRED else "if there")
              for keyword in modules.COPIED for row in attributes([keyword])]  # fmt: skip
    return f"""
## 7 Created objects (A.8.1)

All are in the study of their image, in a series of their own for each kind, with UIDs under `2.25.` derived from what they
say: the same result is the same object, another result another one. Made from the image are, as they were sent:

{table(("attribute", "tag", ""), copied)}
Their own times are in the zone of (0008,0201) Timezone Offset From UTC where the image has it, otherwise in UTC. Body Part
Examined is CHEST. Images without Study Instance UID get no objects.

| object | content |
|---|---|
| {_CREATED["sr"].name} | TID 1500 Measurement Report; one measurement group (TID 1501) for each image: finding, certainty, \
threshold, finding site, algorithm, source image; or why it was not assessed. At or above the threshold the finding is the value of \
(121071, DCM, "Finding"); below it there is no such item, and what was looked for is the value of \
{concept(report.TARGET)}, so that nobody lists as found what was not. What it came to is the value of \
{concept(report.RESULT)}, {concept(report.ABOVE)} or {concept(report.BELOW)}. Observer: device. UNVERIFIED, PRELIMINARY |
| {_CREATED["sc"].name} | the image with result, "research use only" and, at or above the threshold, the heat map burnt in (Burned In Annotation YES) |
| {_CREATED["gsps"].name} | the result as text over the image, with its Modality and VOI LUT; for single-frame grey images |

**Private attributes**: none. **Coded terminology**: DCM, SCT, UCUM, and `{derived.PRIVATE_SCHEME}` for labels without a code,
for the comparison with the threshold and for what was not assessed. A code of more than 16 characters is in Long Code Value.
**Greyscale image consistency** (PS3.14): medd has no display. **Standard extended, specialized or private SOP classes, private
transfer syntaxes**: none.

## 8 Attributes of exported objects (A.8.1)

As received, less what section 6.3 takes away; File Meta Information (PS3.10 section 7.1) is made anew.
"""
