"""When and where results go, and in which order they are read."""

from datetime import timedelta

from pydantic import BaseModel, ConfigDict, Field

from medd.settings.base import Section


class StudySettings(Section):
    """``[study]``: when a study is complete enough to be reported."""

    #: Seconds without another result before a study is reported.
    quiet_s: float = Field(default=10, ge=0, le=3600)
    #: Seconds after its first result when it is reported whatever still comes.
    max_wait_s: float = Field(default=60, ge=0, le=3600)


class DestinationSettings(BaseModel):
    """``[[destination]]``: where results go. What else it takes, the destination's type says."""

    model_config = ConfigDict(extra="allow", frozen=True)

    #: "pacs", "folder", or what a plugin brings.
    type: str = Field(min_length=1, max_length=64)
    #: Unique; by default the type.
    name: str = Field(default="", max_length=64)

    @property
    def label(self) -> str:
        """How it is called: its name, or its type where it has none."""
        return self.name or self.type


class DeliverSettings(Section):
    """``[deliver]``: how results are sent."""

    #: Studies sent at one time to each destination.
    threads: int = Field(default=2, ge=1)
    #: Seconds after which the work of a deliverer that fell silent goes to another.
    lease_s: float = Field(default=60, gt=1, le=300)
    #: Seconds between looks at an empty outbox.
    poll_s: float = Field(default=0.5, gt=0, le=86_400)
    #: Hours for which a destination that is away is tried before a delivery is dead.
    give_up_after_h: float = Field(default=72, gt=0)


class WorklistSettings(Section):
    """``[worklist]``: in which order studies are read."""

    #: Minutes after which a study that nobody has read goes before all that wait less, whatever its score; 0 sets no
    #: cap, as it should be where nobody marks studies as read.
    max_wait_min: float = Field(default=240, ge=0, le=5_256_000)

    @property
    def max_wait(self) -> timedelta | None:
        """`max_wait_min` as the worklist takes it."""
        return timedelta(minutes=self.max_wait_min) if self.max_wait_min else None
