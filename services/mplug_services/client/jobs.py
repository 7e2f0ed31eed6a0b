"""The jobs of a server, for blocking code."""

from collections.abc import Iterator, Sequence

from mplug_services.client import job_flows
from mplug_services.client.connection import Connection
from mplug_services.client.job_types import Job, JobState, TrainRow, TrainText


class Jobs:
    """What a `Client` has as its `jobs`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def train(
        self,
        recipe: str,
        rows: Sequence[TrainRow | TrainText] = (),
        *,
        data: Sequence[str | tuple[str, float]] = (),
        settings: Sequence[str] = (),
        model: str = "",
        request_id: str = "",
    ) -> Job:
        """Has a model trained, on rows that are sent or on data that the server has under its job roots.

        The job is durable when this returns: it goes on whatever becomes of this client or of the server's process.
        `settings` are those of `mplug train --set`, such as "start=mplug-mini" and "epochs=3"; `data` is NAME/PATH,
        or that with a weight; `model` is what requests will call the model, by default a name is made. A
        `request_id` that was used before gives the job that it made.
        """
        upload = job_flows.train(recipe, rows, settings, model, data, request_id)
        return job_flows.created(self._connection.upload(upload))

    def get(self, id: str, *, timeout: float | None = None) -> Job:
        """A job as it stands."""
        return self._connection.run(job_flows.get(id), timeout)

    def list(self, states: Sequence[JobState] = (), *, timeout: float | None = None) -> list[Job]:
        """All jobs, or those of some states, the newest first."""
        return self._connection.run(job_flows.list_all(states), timeout)

    def cancel(self, id: str, *, timeout: float | None = None) -> Job:
        """Ends a job that has not ended."""
        return self._connection.run(job_flows.cancel(id), timeout)

    def watch(self, id: str) -> Iterator[Job]:
        """A job as it is, then again whenever it has changed, until it has ended; goes on where the stream breaks."""
        return map(job_flows.watched, self._connection.watch(job_flows.watch(id)))

    def wait(self, id: str) -> Job:
        """A job once it has ended, whatever its state is then."""
        job = self.get(id)
        for seen in self.watch(id):
            job = seen
        return job
