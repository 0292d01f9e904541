"""What the audit trail tells of, in our words and in those of DICOM (PS3.15 section A.5)."""

from enum import StrEnum


class Action(StrEnum):
    """What somebody did."""

    SERVER_STARTED = "server_started"
    SERVER_STOPPED = "server_stopped"
    LOGGED_IN = "logged_in"
    LOGGED_OUT = "logged_out"
    #: A list of studies was shown: its filter is the detail.
    STUDIES_LISTED = "studies_listed"
    CASE_SEEN = "case_seen"
    #: Results, or images, left as a file or by an interface.
    EXPORTED = "exported"
    IMAGES_RECEIVED = "images_received"
    #: A reader said what the truth is, or took it back.
    ANNOTATED = "annotated"
    STUDY_READ = "study_read"
    MODEL_CHANGED = "model_changed"
    WORK_RETRIED = "work_retried"
    USER_CHANGED = "user_changed"
    ROLE_CHANGED = "role_changed"
    TOKEN_CHANGED = "token_changed"
    AUDIT_READ = "audit_read"
    #: Something that the user may not do.
    REFUSED = "refused"


#: EventID (CID 400), EventTypeCode (CID 401) where there is one, and EventActionCode: Create, Read, Update, Execute.
CODES: dict[str, tuple[str, str, str]] = {
    Action.SERVER_STARTED: ("110100", "110120", "E"),
    Action.SERVER_STOPPED: ("110100", "110121", "E"),
    Action.LOGGED_IN: ("110114", "110122", "E"),
    Action.LOGGED_OUT: ("110114", "110123", "E"),
    Action.STUDIES_LISTED: ("110112", "", "E"),
    Action.CASE_SEEN: ("110103", "", "R"),
    Action.EXPORTED: ("110106", "", "R"),
    Action.IMAGES_RECEIVED: ("110104", "", "C"),
    Action.ANNOTATED: ("110103", "", "U"),
    Action.STUDY_READ: ("110103", "", "U"),
    Action.MODEL_CHANGED: ("110113", "110131", "E"),
    Action.WORK_RETRIED: ("110113", "110132", "E"),
    Action.USER_CHANGED: ("110113", "110137", "E"),
    Action.ROLE_CHANGED: ("110113", "110136", "E"),
    Action.TOKEN_CHANGED: ("110113", "110137", "E"),
    Action.AUDIT_READ: ("110101", "", "R"),
    Action.REFUSED: ("110113", "110132", "E"),
}

#: Code Meanings of the DCM scheme (PS3.16 annex D).
MEANINGS = {
    "110100": "Application Activity",
    "110101": "Audit Log Used",
    "110103": "DICOM Instances Accessed",
    "110104": "DICOM Instances Transferred",
    "110106": "Export",
    "110112": "Query",
    "110113": "Security Alert",
    "110114": "User Authentication",
    "110120": "Application Start",
    "110121": "Application Stop",
    "110122": "Login",
    "110123": "Logout",
    "110131": "Software Configuration",
    "110132": "Use of Restricted Function",
    "110136": "Security Roles Changed",
    "110137": "User Security Attributes Changed",
    "110150": "Application",
    "110180": "Study Instance UID",
}
