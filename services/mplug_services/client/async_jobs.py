"""The jobs of a server, for asyncio code: the same methods as Jobs, awaitable."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from mplug_services.client import job_flows
from mplug_services.client.async_connection import AsyncConnection
from mplug_services.client.job_types import Job, JobState, TrainRow, TrainText


class AsyncJobs:
    """What an `AsyncClient` has as its `jobs`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def train(
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
        return job_flows.created(await self._connection.upload(upload))

    async def get(self, id: str, *, timeout: float | None = None) -> Job:
        """A job as it stands."""
        return await self._connection.run(job_flows.get(id), timeout)

    async def list(self, states: Sequence[JobState] = (), *, timeout: float | None = None) -> list[Job]:
        """All jobs, or those of some states, the newest first."""
        return await self._connection.run(job_flows.list_all(states), timeout)

    async def cancel(self, id: str, *, timeout: float | None = None) -> Job:
        """Ends a job that has not ended."""
        return await self._connection.run(job_flows.cancel(id), timeout)

    async def watch(self, id: str) -> AsyncGenerator[Job, None]:
        """A job as it is, then again whenever it has changed, until it has ended; goes on where the stream breaks."""
        async with aclosing(self._connection.watch(job_flows.watch(id))) as messages:
            async for message in messages:
                yield job_flows.watched(message)

    async def wait(self, id: str) -> Job:
        """A job once it has ended, whatever its state is then."""
        job = await self.get(id)
        async for seen in self.watch(id):
            job = seen
        return job
