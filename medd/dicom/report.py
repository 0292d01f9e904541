"""The report of a study: Comprehensive 3D SR by TID 1500, as IHE AI Results (RAD TF AIR) asks.

One measurement group (TID 1501) for each image: what was found there or, below the threshold, what was looked for, and
how certain it is; or why the image was not assessed. An SR refers to images and holds no pixels.
"""

from collections.abc import Mapping
from typing import Any

from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from medd import DISCLAIMER, __version__
from medd.dicom.derived import PRIVATE_SCHEME, begin, derive_uid, dicom_date, dicom_time, finish, plain
from medd.dicom.findings import Code, doubts, finding_of, lines_of, private_code
from medd.dicom.source import lenient, local_time
from medd.records import ImageResult, Prediction, Status, StudyReport

_LUNG = ("39607008", "SCT", "Lung")
_PLAIN_CHEST = ("399208008", "SCT", "Plain chest X-ray")
_PERCENT = ("%", "UCUM", "Percent")
#: PS3.16 Annex D.
_CERTAINTY = ("111012", "DCM", "Certainty of Finding")
_THRESHOLD = ("122411", "DCM", "Threshold Value")
_ARTIFICIAL_INTELLIGENCE = ("123110", "DCM", "Artificial Intelligence")
_COMMENT = ("121106", "DCM", "Comment")
#: Ours: (0008,0103) of the sequence (0008,0110) tells whose they are.
TARGET = private_code("TARGET_FINDING", "Target finding")
_LABEL = private_code("LABEL", "Label of the model")
_SUM = private_code("SUM", "Summed probability of all findings of the model")
RESULT = private_code("RESULT", "Comparison with the threshold")
ABOVE = private_code("AT_OR_ABOVE", "At or above threshold")
BELOW = private_code("BELOW", "Below threshold")
_ASSESSMENT = private_code("ASSESSMENT", "Assessment")
_NOT_ASSESSED = private_code("NOT_ASSESSED", "Not assessed")
_REASON = private_code("REASON", "Reason")


def structured_report(report: StudyReport, sources: Mapping[int, Dataset], codes: Mapping[str, Code]) -> Dataset:
    """Make the SR of a report (PS3.3 section A.35.13).

    Args:
        report: What is known of the study.
        sources: Instance id → header of the image, where it could be read; one at least. The patient and the study are
            those of the first.
        codes: Label → code.

    Returns:
        Unverified and preliminary; complete unless work on an image failed or is still to be done.
    """
    source = next(iter(sources.values()))
    with lenient():
        made = begin("sr", Comprehensive3DSRStorage, report.sop_instance_uid, source, report.created_at)
        at = local_time(report.created_at, source)
        made.ContentDate, made.ContentTime = dicom_date(at), dicom_time(at)
        made.InstanceNumber = report.number
        open_ones = any(image.status in (Status.FAILED, Status.PENDING) for image in report.images)
        made.CompletionFlag = "PARTIAL" if open_ones else "COMPLETE"
        made.PreliminaryFlag, made.VerificationFlag = "PRELIMINARY", "UNVERIFIED"
        made.PerformedProcedureCodeSequence = []
        made.ReferencedPerformedProcedureStepSequence = []
        made.CodingSchemeIdentificationSequence = [_coding_scheme()]
        if evidence := _evidence(report):
            made.CurrentRequestedProcedureEvidenceSequence = [evidence]
        if report.predecessor:
            made.PredecessorDocumentsSequence = [
                _study_item(report, {str(made.SeriesInstanceUID): {report.predecessor: str(Comprehensive3DSRStorage)}})
            ]
        made.update(_content(report, codes))
        return finish(made, source)


def _coding_scheme() -> Dataset:
    item = Dataset()
    item.CodingSchemeDesignator, item.CodingSchemeName = PRIVATE_SCHEME, "Labels and states of medd"
    item.CodingSchemeResponsibleOrganization = "medd"
    return item


def _evidence(report: StudyReport) -> Dataset | None:
    """Every image the report speaks of, by series (PS3.3 table C.17-2); two of one UID are one.

    None where there is none to refer to: the sequence is of type 1C, and its series of type 1.
    """
    series: dict[str, dict[str, str]] = {}
    for image in report.images:
        if _is_referable(image):
            series.setdefault(image.series_instance_uid, {})[image.sop_instance_uid] = image.sop_class_uid
    return _study_item(report, series) if series else None


def _study_item(report: StudyReport, series: Mapping[str, Mapping[str, str]]) -> Dataset:
    """Series → instance → SOP class, as the Hierarchical SOP Instance Reference Macro has it (PS3.3 table C.17-3)."""
    study = Dataset()
    study.StudyInstanceUID = report.study_instance_uid
    study.ReferencedSeriesSequence = []
    for series_uid, instances in series.items():
        one = Dataset()
        one.SeriesInstanceUID, one.ReferencedSOPSequence = series_uid, []
        for sop_instance_uid, sop_class_uid in instances.items():
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
            one.ReferencedSOPSequence.append(item)
        study.ReferencedSeriesSequence.append(one)
    return study


def _is_referable(image: ImageResult) -> bool:
    return bool(image.sop_class_uid and image.sop_instance_uid and image.series_instance_uid)


# -- content -------------------------------------------------------------------------------------------------------


def _concept(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(code[0], code[1], code[2])


def _text(name: Code, value: str) -> Any:
    from highdicom.sr import RelationshipTypeValues, TextContentItem

    return TextContentItem(_concept(name), plain(value), RelationshipTypeValues.CONTAINS)


def _content(report: StudyReport, codes: Mapping[str, Code]) -> Dataset:
    """The root container, TID 1500."""
    from highdicom import sr

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=derive_uid("device", "medd", __version__), name="medd", manufacturer_name="medd", model_name="medd"
    )
    observer = sr.ObserverContext(_concept(("121007", "DCM", "Device")), device)
    groups = []
    for number, image in enumerate(report.images, 1):
        if image.status is Status.SCORED and image.prediction is not None:
            groups.append(_scored(number, image, image.prediction, codes))
        else:
            groups.append(_not_assessed(number, image))
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=_concept(_PLAIN_CHEST),
        imaging_measurements=groups,
    )
    root: Dataset = content[0]
    root.ContentSequence.append(_text(_COMMENT, DISCLAIMER))
    return root


def _scored(number: int, image: ImageResult, prediction: Prediction, codes: Mapping[str, Code]) -> Any:
    from highdicom import sr

    finding = finding_of(prediction, codes)
    name, _, version = prediction.model.partition("/")
    parameters = [f"threshold={prediction.threshold:g}", f"preprocess={prediction.preprocess_digest}"]
    if prediction.flags:
        parameters.append(f"flags={','.join(prediction.flags)}")
    measurements = [_percent(_CERTAINTY, finding.probability), _percent(_THRESHOLD, prediction.threshold)]
    if finding.one_of_many:  # then the threshold is for the sum, and the finding is only its largest part
        measurements.insert(1, _percent(_SUM, prediction.probability))
    # (121071, DCM, "Finding") says that it is there, to all who do not know our codes: below the threshold it does not.
    evaluations = [] if prediction.positive else [sr.QualitativeEvaluation(_concept(TARGET), _concept(finding.code))]
    comparison = ABOVE if prediction.positive else BELOW
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(number, image, prediction.model),
        finding_type=_concept(finding.code) if prediction.positive else None,
        finding_sites=[sr.FindingSite(_concept(_LUNG))],
        algorithm_id=sr.AlgorithmIdentification(
            name=plain(name),
            version=plain(version) or "unknown",
            parameters=[plain(one) for one in parameters],
            family=_concept(_ARTIFICIAL_INTELLIGENCE),
        ),
        measurements=measurements,
        qualitative_evaluations=[*evaluations, sr.QualitativeEvaluation(_concept(RESULT), _concept(comparison))],
        source_images=_source_image(image),
    )
    group[0].ContentSequence.append(_text(_LABEL, finding.label))
    group[0].ContentSequence.append(_text(_COMMENT, ". ".join(lines_of(prediction, finding))))
    for doubt in doubts(prediction):
        group[0].ContentSequence.append(_text(_COMMENT, doubt))
    return group


def _percent(name: Code, share: float) -> Any:
    from highdicom import sr

    # Four decimals keep apart what is just below a threshold and the threshold.
    return sr.Measurement(name=_concept(name), value=round(share * 100, 4), unit=_concept(_PERCENT))


def _not_assessed(number: int, image: ImageResult) -> Any:
    from highdicom import sr

    reason = str(image.reason or image.status)
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(number, image, "not assessed"),
        qualitative_evaluations=[
            sr.QualitativeEvaluation(_concept(_ASSESSMENT), _concept(_NOT_ASSESSED)),
            sr.QualitativeEvaluation(_concept(_REASON), _concept(private_code(reason, reason.replace("_", " ")))),
        ],
        source_images=_source_image(image),
    )
    detail = f": {image.detail}" if image.detail else ""
    told = f"Not assessed ({reason.replace('_', ' ')}){detail}. Nothing is said of what this image shows."
    group[0].ContentSequence.append(_text(_COMMENT, told))
    return group


def _tracking(number: int, image: ImageResult, model: str) -> Any:
    from highdicom import sr

    return sr.TrackingIdentifier(
        uid=derive_uid("tracking", image.sop_instance_uid, image.sha256, model), identifier=f"Image {number}"
    )


def _source_image(image: ImageResult) -> Any:
    from highdicom import sr

    if not _is_referable(image):
        return None
    return [sr.SourceImageForMeasurementGroup(image.sop_class_uid, image.sop_instance_uid)]
