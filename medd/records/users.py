"""Who may do what, and what became of it."""

from enum import StrEnum


class UserRole(StrEnum):
    """What a user of the web pages and their interfaces may do. Each may also do what those above it may."""

    #: See studies and results, and say what the truth is.
    READER = "reader"
    #: Bring images, and deal with failed work.
    OPERATOR = "operator"
    #: Promote models, and read the audit trail.
    ADMINISTRATOR = "administrator"


class AuditOutcome(StrEnum):
    """What became of what somebody wanted to do."""

    SUCCESS = "success"
    #: He may not, or did not prove who he is.
    REFUSED = "refused"
    #: He may, and it did not work.
    FAILED = "failed"
