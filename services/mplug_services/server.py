"""Build, start and drain a server: the only file that knows every service.

Start: data, port, health NOT_SERVING; then the model in its thread; SERVING service by service as each can answer.
Stop: health NOT_SERVING, new RPCs refused, those under way finished within the grace, then the model's thread, then
the index.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer  # `health.aio`, by the name that type checkers see
from grpc_reflection.v1alpha import reflection

from mplug.images import ImageLimits
from mplug_index.errors import DatabaseLockedError, PictureAccessError, StorageError
from mplug_index.pictures import PictureRoot
from mplug_services import token_cache
from mplug_services.blocking import BlockingPool
from mplug_services.config import ServeConfig
from mplug_services.engine_seam import Engine
from mplug_services.explain_work import EXPLAIN_BUDGET
from mplug_services.image_reader import ImageReader
from mplug_services.interceptor import ErrorInterceptor, RpcCounter
from mplug_services.job_parts import Jobs, jobs_folder, open_jobs
from mplug_services.jobs.store import JobStore
from mplug_services.kept_pictures import KeptPictures
from mplug_services.listen import StartupError, channel_options, listen
from mplug_services.named_models import NamedModels, open_places
from mplug_services.prepare import Preparer
from mplug_services.registration import (
    FULL_NAMES,
    Parts,
    Slots,
    add_services,
    fill_slots,
    make_users,
    selected,
    served,
)
from mplug_services.rerank_work import MAX_BATCH_VISUAL_TOKENS
from mplug_services.scheduler import Scheduler
from mplug_services.storage import Storage
from mplug_services.token_cache import TokenCache, TokenStorage
from mplug_services.work import WorkKind

logger = logging.getLogger(__name__)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
LAME_DUCK_SECONDS = 0.2
"""How long a stopping server answers new RPCs that it is stopping. gRPC itself, once it stops, cancels what it has read
and not yet handed over, and a client could not tell that from a cancellation of its own."""
WATCHER_SECONDS = 0.5
"""How long a stop lets watchers of health leave by themselves."""
MAX_WAITING_INDEX_CALLS = 256
WITHOUT_MODEL = ("index", "job", "model")
"""Services that answer before any model is loaded."""


class Server:
    """A server of the configured services.

    Args:
        config: settings.
        engine: what runs the models; None: a ModelWorker for the configured ones, where a service needs any.
    """

    def __init__(self, config: ServeConfig, *, engine: Engine | None = None) -> None:
        self.config = config
        self.names = served(config)
        """Short names of the services that answer; those without their model only say so."""
        self.address = ""
        """`host:port` that clients connect to; known after `start`."""
        self.storage: Storage | None = None
        """The data, where a service needs it; open after `start`."""
        self._engine = engine if engine is not None or not config.needs_model else _model_worker(config)
        self._health = HealthServicer()
        self._counter = RpcCounter()
        self._draining = asyncio.Event()
        self._closing = contextlib.AsyncExitStack()

    @property
    def full_names(self) -> list[str]:
        """Full names of the services, as `mplug_api.v1.SearchService`."""
        return [FULL_NAMES[name] for name in self.names]

    async def start(self) -> None:
        """Open the data, listen, and begin to load the model; `wait_ready` waits for the latter.

        Raises:
            StartupError: the port is taken, the data directory is in use, or a TLS file cannot be read.
        """
        try:
            await self._start()
        except BaseException:
            await self._closing.aclose()
            raise

    async def _start(self) -> None:
        await self._set_health(NOT_SERVING, selected(self.config))
        pool = BlockingPool(self.config.num_index_workers, MAX_WAITING_INDEX_CALLS)
        self._closing.callback(pool.close)
        if self.config.needs_index:
            self.storage = await pool.run(_open_storage, self.config)
            self._closing.push_async_callback(pool.run, self.storage.close)
        self._parts = await self._make_parts(pool)
        self._grpc = aio.server(
            interceptors=[ErrorInterceptor(self._counter)], options=channel_options(self.config)
        )
        add_services(self._grpc, self._parts)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        if self.config.reflection:
            names = [*self.full_names, health.SERVICE_NAME, reflection.SERVICE_NAME]
            reflection.enable_server_reflection(names, self._grpc)
        self.address = listen(self._grpc, self.config)
        await self._grpc.start()
        self._closing.push_async_callback(self._grpc.stop, 0)
        if self._engine is not None:
            self._engine.start()
        await self._set_health(SERVING, [name for name in WITHOUT_MODEL if name in self.names])

    async def wait_ready(self) -> None:
        """Wait until the model is loaded and warm, and every service answers.

        Raises:
            MplugError: the model could not be loaded; whatever `mplug.load` says.
        """
        if self._engine is not None:
            models = await asyncio.shield(asyncio.wrap_future(self._engine.ready))
            fill_slots(self._parts, models, self._engine)
        if self._parts.jobs is not None:
            self._parts.jobs.manager.start(self._parts.jobs.run)
        await self._set_health(SERVING, [*self.names, ""])

    @property
    def queue_length(self) -> int:
        """Items that wait for the model."""
        return 0 if self._engine is None else len(self._engine.scheduler)

    @property
    def calls_under_way(self) -> int:
        """RPCs of our own services that have not ended."""
        return self._counter.count

    def begin_drain(self) -> None:
        """Let streams take nothing more; the first step of a stop."""
        self._draining.set()

    async def stop(self) -> None:
        """Refuse new RPCs, finish those under way within the grace, close everything. Once."""
        self.begin_drain()
        self._counter.close()
        await self._health.enter_graceful_shutdown()
        if self._parts.jobs is not None:
            await self._parts.jobs.manager.stop()
        await asyncio.sleep(LAME_DUCK_SECONDS)
        stopping = asyncio.create_task(self._grpc.stop(self.config.grace_seconds))
        idle = asyncio.create_task(self._counter.wait_idle())
        await asyncio.wait([stopping, idle], return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        # Nothing of ours is under way; watchers of health would keep the server for the whole grace.
        await asyncio.wait([stopping], timeout=WATCHER_SECONDS)
        await self._grpc.stop(0)
        await stopping
        if self._engine is not None:
            await asyncio.to_thread(self._engine.stop, self.config.grace_seconds)
        await self._closing.aclose()

    async def _make_parts(self, pool: BlockingPool) -> Parts:
        config = self.config
        root = None if config.image_root is None else _open_root(config.image_root)
        limits = ImageLimits(max_bytes=config.max_image_bytes, max_pixels=config.max_image_pixels)
        preparer = Preparer(limits, config.num_prepare_workers)
        self._closing.callback(preparer.close)
        named = self._named_models()
        if config.more_models and config.model_tasks:
            for name, model in (await pool.run(open_places, config.more_places, config.model_tasks)).items():
                named.register(name, model)
        slots = Slots(config)
        tokens = None
        if _reranks(config):
            tokens = await pool.run(_open_token_cache, config)
            self._closing.push_async_callback(pool.run, tokens.close)
        reader = ImageReader(root, pool, config.max_image_bytes)
        kept = None if self.storage is None else self.storage.collections.pictures
        pictures = KeptPictures(kept, reader, pool)
        jobs = await self._open_jobs(pool, named, slots) if "job" in config.services else None
        return Parts(
            config=config,
            slots=slots,
            pool=pool,
            preparer=preparer,
            reader=reader,
            pictures=pictures,
            storage=self.storage,
            named=named,
            jobs=jobs,
            tokens=tokens,
            draining=self._draining,
        )

    def _named_models(self) -> NamedModels:
        config = self.config
        return NamedModels(
            self._engine,
            lambda models, queue: make_users(self._parts, models, queue),
            device=config.device,
            dtype=config.dtype,
            text_dtype=config.text_dtype or None,
            most=config.max_named_models,
        )

    async def _open_jobs(self, pool: BlockingPool, named: NamedModels, slots: Slots) -> Jobs:
        store = await pool.run(_open_job_store, self.config)
        self._closing.callback(store.close)
        return open_jobs(self.config, pool, named, slots.models, self._draining, store)

    async def _set_health(
        self, status: health_pb2.HealthCheckResponse.ServingStatus, names: list[str]
    ) -> None:
        if status == NOT_SERVING:
            names = [*names, ""]
        for name in names:
            await self._health.set(FULL_NAMES.get(name, ""), status)


async def serve(config: ServeConfig, *, ready: Callable[[Server], None] | None = None) -> None:
    """Run a server until SIGTERM or SIGINT.

    Args:
        config: settings.
        ready: called once every service answers.

    Raises:
        ConfigurationError: the server cannot start as it is configured.
        MplugError: the model could not be loaded.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with running_server(config, wait=False) as server:
        waiting = asyncio.create_task(stopped.wait())
        loading = asyncio.create_task(server.wait_ready())
        await asyncio.wait([waiting, loading], return_when=asyncio.FIRST_COMPLETED)
        if not stopped.is_set():
            await loading
            if ready is not None:
                ready(server)
            await waiting
        loading.cancel()


@contextlib.asynccontextmanager
async def running_server(
    config: ServeConfig, *, engine: Engine | None = None, wait: bool = True
) -> AsyncIterator[Server]:
    """A server for the time of a block; started, ready (unless `wait` is false), and stopped after it.

    Errors are those of `Server.start` and `Server.wait_ready`.
    """
    server = Server(config, engine=engine)
    await server.start()
    try:
        if wait:
            await server.wait_ready()
        yield server
    finally:
        await server.stop()


def _model_worker(config: ServeConfig) -> Engine:
    # Imported here: a server of the index alone needs no torch.
    from mplug_services.engine import ModelWorker
    from mplug_services.runners.models import model_loader

    load = model_loader(config.sources, config.device, config.dtype)
    return ModelWorker(load, make_scheduler(config), num_threads=config.torch_threads, device=config.device)


def make_scheduler(config: ServeConfig) -> Scheduler:
    """The queue that a configuration asks for."""
    budgets = {
        WorkKind.IMAGE: config.max_batch_pixels,
        WorkKind.TEXT: config.max_batch_tokens,
        WorkKind.CAPTION: config.max_batch_pixels,
        WorkKind.ANSWER: config.max_batch_pixels,
        WorkKind.ENCODE: config.max_batch_pixels,
        WorkKind.RERANK: MAX_BATCH_VISUAL_TOKENS,
        WorkKind.EXPLAIN: EXPLAIN_BUDGET,
        WorkKind.GENERATE: config.max_live_tokens,
        WorkKind.JUDGE: config.max_batch_tokens,
    }
    return Scheduler(config.queue_size, budgets)


def _open_token_cache(config: ServeConfig) -> TokenCache:
    return TokenCache(
        TokenStorage(config.token_cache),
        memory_bytes=config.token_cache_memory_bytes,
        folder=config.data_dir / token_cache.FOLDER,
        disk_bytes=config.token_cache_disk_bytes,
    )


def _open_storage(config: ServeConfig) -> Storage:
    try:
        return Storage(config.data_dir)
    except DatabaseLockedError as error:
        raise StartupError(
            f"data_dir {str(config.data_dir)!r} is in use by another process; stop that one or choose another"
        ) from error
    except (StorageError, OSError) as error:
        raise StartupError(f"data_dir {str(config.data_dir)!r} cannot be opened: {error}") from error


def _open_job_store(config: ServeConfig) -> JobStore:
    folder = jobs_folder(config)
    try:
        return JobStore(folder)
    except DatabaseLockedError as error:
        raise StartupError(
            f"jobs_dir {str(folder)!r} is in use by another process; stop that one or choose another"
        ) from error
    except OSError as error:
        raise StartupError(f"jobs_dir {str(folder)!r} cannot be opened: {error}") from error


def _reranks(config: ServeConfig) -> bool:
    """Whether there may be a reranker: the server's own, or one that requests name."""
    may_be_named = "rerank" in config.model_tasks and ("job" in config.services or bool(config.more_models))
    return "rerank" in config.sources or may_be_named


def _open_root(path: Path) -> PictureRoot:
    try:
        return PictureRoot(path)
    except PictureAccessError as error:
        raise StartupError(f"image_root {str(path)!r}: {error}") from error
