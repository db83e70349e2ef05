"""Which tags of a DICOM file tell who the patient is: their names, never what they say. Torch-free.

The tags that PS3.15 table E.1-1 (basic profile) removes or replaces and that people fill in; not every one of its 400.
"""

from __future__ import annotations

import pydicom

from engine.data.dicom_frames import tag

IDENTIFYING = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientBirthTime", "PatientSex", "PatientAge"),
    *("OtherPatientIDs", "OtherPatientIDsSequence", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName"),
    *("PatientAddress", "PatientTelephoneNumbers", "PatientComments", "MilitaryRank", "Occupation", "EthnicGroup"),
    *("MedicalRecordLocator", "IssuerOfPatientID", "AdditionalPatientHistory", "AccessionNumber", "StudyID"),
    *("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "InstitutionName", "InstitutionAddress"),
    *("ReferringPhysicianName", "PerformingPhysicianName", "NameOfPhysiciansReadingStudy", "OperatorsName"),
    *("RequestingPhysician", "PhysiciansOfRecord", "StationName", "DeviceSerialNumber", "ImageComments"),
)


def identifying_tags(tags: pydicom.Dataset) -> tuple[str, ...]:
    """Return the keywords of identifying tags that are filled in; private ones are one, "private tags".

    Names that are burned into the picture are told where the file says so ("BurnedInAnnotation").
    """
    found = [keyword for keyword in IDENTIFYING if tag(tags, keyword) is not None]
    if str(tag(tags, "BurnedInAnnotation") or "") == "YES":
        found.append("BurnedInAnnotation")
    if any(element.tag.is_private for element in tags):
        found.append("private tags")
    return tuple(found)
