"""What one film costs in each stage: measured on a machine, kept in a file."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medd.errors import SettingsError


class Costs(BaseModel):
    """The costs of films of one size and transfer syntax with one model, on one machine that did nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: The processor and its operating system, in words.
    machine: str
    #: Cores it was measured on: `worker.threads`, or as many as the process may use.
    cores: int = Field(ge=1)
    #: ISO 8601, UTC.
    measured_at: str
    #: The model: "name/version".
    model: str
    #: Side of the square film, pixels.
    size: int = Field(ge=1)
    #: As `medd load` calls it.
    transfer_syntax: str
    #: Of a film in the spool, bytes.
    film_bytes: float = Field(gt=0)
    #: Of a film's rows in the database, bytes.
    row_bytes: float = Field(ge=0)

    #: From the first byte of one film to its answer, when nothing else comes in, seconds.
    receive_one_s: float = Field(gt=0)
    #: Films a second that the receiver takes from several senders.
    receive_rate: float = Field(gt=0)
    #: Of the receiver for a film, seconds of one core.
    receive_cpu_s: float = Field(ge=0)
    #: Verify, decode and preprocess one film alone, seconds.
    decode_one_s: float = Field(gt=0)
    #: The same on all cores at once, seconds of one core for a film.
    decode_s: float = Field(gt=0)
    #: Variance over squared mean of `decode_one_s`.
    decode_scv: float = Field(ge=0)
    #: The network on one film alone, on all cores, seconds.
    predict_one_s: float = Field(gt=0)
    #: The network on a full batch, seconds of one core for a film.
    predict_s: float = Field(gt=0)
    #: Claim and commit of one film alone, seconds.
    commit_one_s: float = Field(gt=0)
    #: Claim and commit in a full batch, seconds for a film.
    commit_s: float = Field(gt=0)
    #: A row of a film that comes in, seconds, each in a transaction of its own.
    insert_s: float = Field(gt=0)
    #: Images of a full batch: `worker.batch_size`.
    batch_size: int = Field(ge=1)
    #: Between two looks at an empty queue, seconds: `worker.poll_s`.
    poll_s: float = Field(ge=0)


def read(path: Path) -> Costs:
    """What `write` wrote.

    Raises:
        SettingsError: There is no such file, or it holds something else.
    """
    try:
        return Costs.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(map(str, wrong["loc"]))
        raise SettingsError(f"{path}: no costs as `medd plan --measure` writes them: {place} {wrong['msg']}") from error


def write(costs: Costs, path: Path) -> None:
    """Keep costs in a file of JSON.

    Raises:
        SettingsError: It cannot be written.
    """
    try:
        path.write_text(costs.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
