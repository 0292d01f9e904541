"""A PACS or a DICOMweb server as the archive: what `medd pull` fetches, scored behind everything that comes in live."""

from medd.backfill.door import State, build_intake
from medd.backfill.run import Run, drain, working
from medd.dicom.peers import known_peers
from medd.errors import SettingsError
from medd.ingest.pull import Pull, open_source
from medd.ingest.pull import State as StudyState
from medd.ingest.query import Query


def run_archive(run: Run, name: str, query: Query) -> None:
    """Fetch studies, each once as `medd pull` does, and score them on this host.

    Args:
        run: The run.
        name: Of the archive.
        query: What to ask for.

    Raises:
        SettingsError: There is no archive of this name, or it would send to our port, as live images come.
        TransientError: The archive, the disk or the database is away; what was fetched stays.
        PeerRefused: The archive gives us nothing.
    """
    peer = known_peers(run.settings).get(name)
    if peer is not None and peer.retrieve == "move":
        raise SettingsError(f'{name}: what comes by C-MOVE is live: a backfill needs retrieve = "get", or DICOMweb')
    intake = build_intake(run.settings, run.database)
    pull = Pull(open_source(run.settings, name, intake, run.database), run.database, query)
    studies = pull.find()
    progress = run.progress
    with working(run.settings):
        try:
            for number, outcome in enumerate(pull.run(studies), 1):
                progress.place = f"study {number} of {len(studies)}"
                progress.counts[State.QUEUED] += outcome.images or 0
                if outcome.state is StudyState.FAILED:
                    progress.counts[State.FAILED] += max(1, outcome.failed or 0)
                    progress.failures.append(f"study {outcome.study.study_instance_uid}: {outcome.error}")
                drain(run, run.window)
        finally:
            intake.close()
        drain(run)
