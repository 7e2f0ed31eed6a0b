"""What a server with a JobService is made of, beside the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mplug_services.blocking import BlockingPool
from mplug_services.config import ConfigurationError, ServeConfig
from mplug_services.jobs.manager import JobLimits, JobManager
from mplug_services.jobs.recipes import FindModel
from mplug_services.jobs.roots import JobRoots
from mplug_services.jobs.store import JobStore
from mplug_services.jobs.train_run import TrainRun
from mplug_services.named_models import NamedModels
from mplug_services.served_model import ServedModel


@dataclass(frozen=True, slots=True, eq=False)
class Jobs:
    """The jobs of a server."""

    store: JobStore
    manager: JobManager
    roots: JobRoots
    find_model: FindModel
    run: TrainRun


def open_jobs(
    config: ServeConfig,
    pool: BlockingPool,
    named: NamedModels,
    own: Mapping[str, ServedModel],
    draining: asyncio.Event,
    store: JobStore,
) -> Jobs:
    """Put the parts together; nothing runs yet.

    Args:
        config: settings.
        pool: where blocking calls run.
        named: takes what jobs train.
        own: by task, the server's own models, once they are loaded.
        draining: set when the server is about to stop.
        store: of the folder that `jobs_folder` names.

    Raises:
        ConfigurationError: a job root is no folder.
    """
    try:
        roots = JobRoots(config.job_folders)
    except ValueError as error:
        raise ConfigurationError(f"job_roots: {error}") from error
    find_model = _model_finder(config, named, own)
    limits = JobLimits(config.max_running_jobs, config.max_queued_jobs)
    manager = JobManager(store, pool, named, limits, draining)
    run = TrainRun(store, pool, roots, named, find_model, manager.changed)
    return Jobs(store, manager, roots, find_model, run)


def jobs_folder(config: ServeConfig) -> Path:
    """Where the jobs are."""
    return (config.jobs_dir or config.data_dir / "jobs").absolute()


def _model_finder(config: ServeConfig, named: NamedModels, own: Mapping[str, ServedModel]) -> FindModel:
    def find(name: str) -> str | None:
        """Where a model is: one that requests name, one that the server was started with, one that ships."""
        folder = named.find(name)
        if folder is not None:
            return str(folder)
        for task, source in config.sources.items():
            if name in (source.place, Path(source.place).name) and "/" not in name:
                return source.place
            if task in own and own[task].name == name:
                return source.place
        from mplug.loading import shipped_models  # imports torch, and is asked in a thread

        return name if name in shipped_models() else None

    return find
