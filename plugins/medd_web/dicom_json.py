"""The few attributes of STOW-RS's answer as DICOM JSON (PS3.18 Annex F) and as XML (PS3.19 section A.1)."""

import json
from typing import Any
from xml.etree import ElementTree

#: By keyword: tag and VR (PS3.6 section 6).
_ELEMENTS = {
    "ReferencedSOPClassUID": ("00081150", "UI"),
    "ReferencedSOPInstanceUID": ("00081155", "UI"),
    "RetrieveURL": ("00081190", "UR"),
    "FailureReason": ("00081197", "US"),
    "FailedSOPSequence": ("00081198", "SQ"),
    "ReferencedSOPSequence": ("00081199", "SQ"),
    "OtherFailuresSequence": ("0008119A", "SQ"),
}
_NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"


def as_json(dataset: dict[str, Any]) -> bytes:
    """A dataset, keyword → value, list of items, or None for an empty value."""
    return json.dumps(_json(dataset)).encode()


def _json(dataset: dict[str, Any]) -> dict[str, Any]:
    elements: dict[str, Any] = {}
    for keyword, value in dataset.items():
        tag, vr = _ELEMENTS[keyword]
        elements[tag] = {"vr": vr}
        if isinstance(value, list):
            elements[tag]["Value"] = [_json(item) for item in value]
        elif value is not None:
            elements[tag]["Value"] = [value]
    return dict(sorted(elements.items()))


def as_xml(dataset: dict[str, Any]) -> bytes:
    """The same as the Native DICOM Model."""
    root = ElementTree.Element("NativeDicomModel", {"xmlns": _NAMESPACE, "xml:space": "preserve"})
    _add(root, dataset)
    return bytes(ElementTree.tostring(root, "utf-8", xml_declaration=True))


def _add(parent: ElementTree.Element, dataset: dict[str, Any]) -> None:
    for keyword, value in sorted(dataset.items(), key=lambda one: _ELEMENTS[one[0]]):
        tag, vr = _ELEMENTS[keyword]
        element = ElementTree.SubElement(parent, "DicomAttribute", {"tag": tag, "vr": vr, "keyword": keyword})
        if isinstance(value, list):
            for number, item in enumerate(value, 1):
                _add(ElementTree.SubElement(element, "Item", {"number": str(number)}), item)
        elif value is not None:
            ElementTree.SubElement(element, "Value", {"number": "1"}).text = str(value)
