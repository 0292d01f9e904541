"""What the order of the worklist is worth: `medd simulate`."""

from enum import StrEnum


class Reading(StrEnum):
    """How the time that it takes to read a study is distributed around its mean."""

    #: Skewed to the right, with half the mean as standard deviation.
    LOGNORMAL = "lognormal"
    #: As queueing theory likes it.
    EXPONENTIAL = "exponential"
    #: Always the mean.
    FIXED = "fixed"
