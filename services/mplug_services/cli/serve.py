"""Run a server.

It embeds, searches, reranks, captions and answers, each with the model that its flag names: mplug-mini, which ships
with the package, wherever none is named. --caption-model '' leaves captions out; the line that says that the server
is ready says which model does what. Texts are written and judged by models that are named alone (--text-model,
--classify-model, --fill-mask-model).

Settings are taken from a YAML file (--config), then from environment variables (MPLUG_PORT, MPLUG_DATA_DIR,
…), then from these flags; later ones win. SIGTERM or Ctrl-C lets the requests that were begun finish.
"""

import argparse
import asyncio
import dataclasses
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from mplug_index.errors import IndexStoreError
from mplug_services.cli.common import EXIT_OK, CliError, UsageError
from mplug_services.config import ConfigurationError, ServeConfig, load_config

FLAGS = {
    "host": "the interface to listen on; 0.0.0.0 is all of them",
    "port": "the port; 0 takes a free one",
    "data_dir": "where collections and pictures live; one server owns it",
    "model": "embeds and searches: mplug-mini, a checkpoint folder, or open_clip:NAME[:PRETRAINED]; '': nothing does",
    "device": "cpu, cuda or cuda:0",
    "dtype": "float32, bfloat16 or float16",
    "text_dtype": "likewise of models that read texts alone, which may be int8 or int4, too",
    "services": "which services run, with commas; only their models are loaded, and index alone needs none",
    "image_root": "folder that image URIs are relative to (default: URIs are refused)",
    "keep_images": "what is kept of ingested pictures: none, original or thumbnail",
    "queue_size": "items that may wait for the model",
    "rerank_model": "scores pictures against texts: mplug-mini or a checkpoint folder; '': nothing does",
    "caption_model": "captions: mplug-mini, a checkpoint folder, or open_clip:coca_NAME; '': nothing does",
    "vqa_model": "answers questions: mplug-mini or a checkpoint folder; '': nothing does",
    "text_model": "writes from texts: gpt3-poem-mini, or a folder of GPT-3, PALM or PLUG; '': nothing does",
    "more_models": "further models that requests name, with commas: shipped ones, or NAME=FOLDER each",
    "classify_model": "judges texts: a folder of StructBERT, plug_mental or PLUG's encoder; '': nothing does",
    "fill_mask_model": "fills [MASK]: a folder of StructBERT; '': nothing does",
    "image_size": "side in pixels of the pictures that --model sees; 0: the checkpoint's own",
    "rerank_image_size": "likewise of --rerank-model",
    "caption_image_size": "likewise of --caption-model",
    "vqa_image_size": "likewise of --vqa-model",
    "max_batch_pixels": "pixels in one forward pass",
    "max_batch_tokens": "padded tokens in one forward pass of texts",
    "max_live_tokens": "tokens of prompts and texts, at their longest, that are written together",
    "max_labels": "labels or known questions that texts may be judged by",
    "max_sequences": "most beams, or texts drawn, for one item",
    "max_answers": "answers of a request to choose from",
    "token_cache": "how rerank keeps image tokens: none, fp16 or int8",
    "token_cache_memory_bytes": "memory for image tokens",
    "token_cache_disk_bytes": "disk for image tokens, under data_dir; 0: memory only",
    "num_prepare_workers": "threads that decode pictures and tokenize texts",
    "torch_threads": "torch's threads for a forward pass; 0: its own choice",
    "jobs_dir": "where jobs, their data and the models that they train are kept (default: in data_dir)",
    "job_roots": "folders that jobs may read, with commas: NAME=PATH",
    "max_running_jobs": "jobs that train at a time",
    "max_queued_jobs": "jobs that may wait or be on their way",
    "max_job_bytes": "data that one job may bring",
    "max_named_models": "models of jobs and of --more-models that are kept in memory",
    "grace_seconds": "how long a stopping server lets requests finish",
    "reflection": "whether the server tells what it speaks: true or false",
    "tls_certificate": "PEM file; with --tls-key the server speaks TLS only",
    "tls_key": "PEM file of the certificate's private key",
    "tls_client_ca": "PEM file; clients must show a certificate of this authority",
}
"""Help for the settings of ServeConfig; one that is missing here is a flag all the same."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments: one flag for each setting, so that none can be forgotten."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML file of settings, named as the flags are"
    )
    parser.add_argument("--address", metavar="HOST:PORT", help="--host and --port in one")
    parser.add_argument("--log-level", default="WARNING", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    for field in dataclasses.fields(ServeConfig):
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        shown = "" if default == "" else f" (default: {default})"
        text = (FLAGS.get(field.name, "") + shown).replace("%", "%%")
        parser.add_argument(f"--{field.name.replace('_', '-')}", metavar="VALUE", help=text)


def run(options: argparse.Namespace) -> int:
    """Runs the command until the server is told to stop."""
    config = _config(options)
    needed = ["faiss", "grpc_health", *(["torch"] if config.needs_model else [])]
    if any(find_spec(name) is None for name in needed):
        raise CliError("a server needs the package's server half: pip install 'mplug-serve[server]'")
    logging.basicConfig(level=options.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _serve(config)
    return EXIT_OK


def models_line(config: ServeConfig) -> str:
    """Which model does what, as `retrieval and vqa by mplug-mini, caption by FOLDER, on cpu`."""
    tasks: dict[str, list[str]] = {}
    for task, source in config.sources.items():
        tasks.setdefault(source.place, []).append(task)
    if not tasks:
        return "no model"
    served = [f"{_listed(names)} by {place}" for place, names in tasks.items()]
    return f"{', '.join(served)}, on {config.device}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _serve(config: ServeConfig) -> None:
    from mplug.errors import MplugError
    from mplug_services.server import Server, serve

    def ready(server: Server) -> None:
        # Whoever starts a server waits for this line.
        print(
            f"mplug ready at {server.address} ({models_line(config)}; data in {config.data_dir})", flush=True
        )

    try:
        asyncio.run(serve(config, ready=ready))
    except (ConfigurationError, MplugError, IndexStoreError) as error:
        raise CliError(str(error)) from error
    except OSError as error:
        raise CliError(f"{error.filename or config.data_dir}: {error.strerror}") from error


def _config(options: argparse.Namespace) -> ServeConfig:
    flags = {field.name: getattr(options, field.name) for field in dataclasses.fields(ServeConfig)}
    if options.address is not None:
        host, colon, port = options.address.rpartition(":")
        if not (host and colon and port.isdigit()):
            raise UsageError(f"--address takes HOST:PORT, not {options.address!r}")
        flags |= {"host": host, "port": port}
    try:
        return load_config(flags, file=options.config)
    except ConfigurationError as error:
        raise UsageError(str(error)) from error
