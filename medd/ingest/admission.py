"""The built-in gate: which objects a frontal-chest model may judge, told from the header alone.

What the header does not say is not held against an image: many rooms leave Body Part or View Position empty.
"""

from medd import hookimpl
from medd.records import InstanceHeader, MediaType, Reason, Verdict

ACCEPT = Verdict()

#: Storage SOP classes of documents about images (PS3.4 Annex B): SR, presentation states, key objects.
_REPORTS = ("1.2.840.10008.5.1.4.1.1.88.", "1.2.840.10008.5.1.4.1.1.11.")
_RADIOGRAPHY = frozenset({"CR", "DX", "RG"})
_CHEST = ("CHEST", "THORAX", "LUNG", "RIB", "TORSO")
#: Body Part Examined of whole-body terms that contain the chest (PS3.16 Annex L).
_CONTAINS_CHEST = frozenset({"", "WHOLEBODY", "UNKNOWN", "OTHER"})
#: View Position (PS3.3 section C.8.7.1.1.3 and PS3.16 CID 4010 as rooms abbreviate them).
_NOT_FRONTAL = frozenset(
    ("LL", "RL", "LAT", "LATERAL", "LLD", "RLD", "LLO", "RLO", "RAO", "LAO", "RPO", "LPO", "ML", "LM"),
)
#: A lateral view's rows run from back to front or front to back (PS3.3 section C.7.6.1.1.1).
_SAGITTAL = ("A", "P")


@hookimpl(trylast=True)
def admit_instance(header: InstanceHeader) -> Verdict:
    """Refuse by name what is certainly no frontal chest radiograph; accept the rest."""
    if header.media_type != MediaType.DICOM:
        return ACCEPT
    if header.sop_class_uid.startswith(_REPORTS) or header.modality in ("SR", "PR", "KO"):
        return Verdict(Reason.REPORT_OBJECT)
    if not header.has_pixel_data or not header.rows or not header.columns:
        return Verdict(Reason.NOT_AN_IMAGE)
    if header.modality not in _RADIOGRAPHY:
        return Verdict(Reason.NOT_A_RADIOGRAPH, f"modality {header.modality or 'missing'}")
    if header.number_of_frames is not None and header.number_of_frames > 1:
        return Verdict(Reason.MULTI_FRAME, f"{header.number_of_frames} frames")
    if header.image_type[:2] == ("DERIVED", "SECONDARY"):
        return Verdict(Reason.DERIVED_IMAGE)
    part = header.body_part_examined.replace(" ", "").replace("_", "")
    if part not in _CONTAINS_CHEST and not part.startswith(_CHEST):
        return Verdict(Reason.NOT_CHEST, f"body part {header.body_part_examined}")
    if header.view_position in _NOT_FRONTAL or header.patient_orientation.startswith(_SAGITTAL):
        return Verdict(Reason.LATERAL_VIEW, f"view {header.view_position or header.patient_orientation}")
    return ACCEPT
