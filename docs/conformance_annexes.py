"""The DICOM Conformance Statement from its network interfaces on (PS3.2 section A.4.3 to the annexes)."""

# ruff: noqa: E501 - prose, as wide as the other documents
from dicomtext import attributes, concept, table
from pydicom.uid import (
    Comprehensive3DSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
)

from medd.dicom import deidentify, derived, modules, report, tls
from medd.settings import ListenerSettings

_LISTENER = ListenerSettings()
#: What medd makes, by the word in the settings.
CREATED = {
    "sr": Comprehensive3DSRStorage,
    "sc": SecondaryCaptureImageStorage,
    "gsps": GrayscaleSoftcopyPresentationStateStorage,
}


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
| {CREATED["sr"].name} | TID 1500 Measurement Report; one measurement group (TID 1501) for each image: finding, certainty, \
threshold, finding site, algorithm, source image; or why it was not assessed. At or above the threshold the finding is the value of \
(121071, DCM, "Finding"); below it there is no such item, and what was looked for is the value of \
{concept(report.TARGET)}, so that nobody lists as found what was not. What it came to is the value of \
{concept(report.RESULT)}, {concept(report.ABOVE)} or {concept(report.BELOW)}. Observer: device. UNVERIFIED, PRELIMINARY |
| {CREATED["sc"].name} | the image with result, "research use only" and, at or above the threshold, the heat map burnt in (Burned In Annotation YES) |
| {CREATED["gsps"].name} | the result as text over the image, with its Modality and VOI LUT; for single-frame grey images |

**Private attributes**: none. **Coded terminology**: DCM, SCT, UCUM, and `{derived.PRIVATE_SCHEME}` for labels without a code,
for the comparison with the threshold and for what was not assessed. A code of more than 16 characters is in Long Code Value.
**Greyscale image consistency** (PS3.14): medd has no display. **Standard extended, specialized or private SOP classes, private
transfer syntaxes**: none.

## 8 Attributes of exported objects (A.8.1)

As received, less what section 6.3 takes away; File Meta Information (PS3.10 section 7.1) is made anew.
"""
