"""Settings of a server: a YAML file, then `MPLUG_*` variables, then flags; the later wins."""

from __future__ import annotations

import dataclasses
import os
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SERVICES = ("embedding", "index", "search", "caption", "vqa", "rerank", "text", "job", "model")
"""What `services` may name. ModelService and health are served in any case."""
USERS_OF = {
    "retrieval": ("embedding", "search"),
    "rerank": ("rerank", "search"),
    "caption": ("caption", "search"),
    "vqa": ("vqa",),
    "text-generation": ("text",),
    "text-classification": ("text",),
    "fill-mask": ("text",),
}
"""Services that need the model of a task."""
MODEL_SETTINGS = {
    "retrieval": "model",
    "rerank": "rerank_model",
    "caption": "caption_model",
    "vqa": "vqa_model",
    "text-generation": "text_model",
    "text-classification": "classify_model",
    "fill-mask": "fill_mask_model",
}
TEXT_TASKS = ("text-generation", "text-classification", "fill-mask")
"""Tasks that see no pictures."""
IMAGE_SIZE_SETTINGS = {
    "retrieval": "image_size",
    "rerank": "rerank_image_size",
    "caption": "caption_image_size",
    "vqa": "vqa_image_size",
}
"""Of the other tasks."""
MAY_BE_ZERO = ("port", "torch_threads", "token_cache_disk_bytes", *IMAGE_SIZE_SETTINGS.values())
TOKEN_CACHES = ("none", "fp16", "int8")
KEEP_IMAGES = ("none", "original", "thumbnail")
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
ROOT_NAME = re.compile(r"[A-Za-z0-9_-]+")
ENV_PREFIX = "MPLUG_"
OTHER_VARIABLES = frozenset({"MPLUG_ADDRESS", "MPLUG_CACHE", "MPLUG_CONFIG"})
"""Variables of the same prefix that are the clients' and the command line's, not settings of a server."""
OTHER_PREFIXES = ("MPLUG_TRAIN_", "MPLUG_TEST_")


class ConfigurationError(ValueError):
    """A setting that is unknown or cannot be; names the setting, its value and the remedy."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a task's model is, and at which size it sees pictures."""

    place: str
    """As for `mplug.load`."""
    image_size: int | None = None
    """Side in pixels; None: the checkpoint's own."""
    dtype: str | None = None
    """As for `mplug.load`; None: as all others'."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """Settings of a server. Every one is also a flag and an `MPLUG_*` variable of its name."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all."""
    port: int = 50051
    """0: any free port."""
    data_dir: Path = Path("mplug-data")
    """Where collections and pictures are kept. One process at a time."""
    services: tuple[str, ...] = SERVICES
    """Which of embedding, index, search, caption, vqa, rerank, text, job and model this process serves; only their
    models are loaded. index alone loads no model and no torch."""
    model: str = "mplug-mini"
    """Of embedding and search: a shipped model, a checkpoint folder, or open_clip:NAME; empty: none. Each task has a
    setting of its own, and naming one model changes no other; tasks of one place share its modules in memory."""
    rerank_model: str = "mplug-mini"
    """A shipped model or a folder of mPLUG, with a fusion encoder and ITM head; empty: no reranking."""
    caption_model: str = "mplug-mini"
    """A shipped model or a folder of mPLUG, with a text decoder, or open_clip:coca_NAME; empty: no captions."""
    vqa_model: str = "mplug-mini"
    """A shipped model or a folder of mPLUG, with a fusion encoder and a text decoder; empty: no answers."""
    text_model: str = "gpt3-poem-mini"
    """Writes from texts: a shipped model, or a folder of GPT-3, PALM or PLUG; empty: nothing does."""
    classify_model: str = ""
    """Judges texts: a folder of StructBERT, plug_mental or PLUG's encoder, for whatever it was made for (labels, pairs,
    labels never seen, spans, known questions); empty: nothing does."""
    fill_mask_model: str = ""
    """Fills [MASK]: a folder of StructBERT; empty: nothing does."""
    more_models: tuple[str, ...] = ("palm-mini",)
    """Further models, which requests name: shipped ones, or NAME=FOLDER each. They are read when they are first asked
    for, and can do whatever they were made for."""
    image_size: int = 0
    """Side in pixels of the pictures that `model` sees; 0: the checkpoint's own. Another makes another index."""
    rerank_image_size: int = 0
    """Likewise of rerank_model."""
    caption_image_size: int = 0
    """Likewise of caption_model."""
    vqa_image_size: int = 0
    """Likewise of vqa_model."""
    device: str = "cpu"
    """cpu, cuda or cuda:1."""
    dtype: str = "float32"
    """float32, bfloat16 or float16."""
    text_dtype: str = ""
    """Of the models that read texts alone: float32, bfloat16, float16, int8 or int4; empty: as `dtype`."""
    image_root: Path | None = None
    """Folder under which pictures may be named by uri; none: only data is accepted."""
    keep_images: str = "original"
    """What an ingest keeps of a picture where its client does not say: none, original or thumbnail."""

    queue_size: int = 1024
    """Most items that wait for the model or are being decoded; more is refused with RESOURCE_EXHAUSTED."""
    max_batch_pixels: int = 32 * 224 * 224
    """Pixels that one forward pass holds: 32 pictures of 224 px, which two cores do in about 0.3 s."""
    max_batch_tokens: int = 2048
    """Tokens, padding included, that one forward pass holds."""
    max_live_tokens: int = 8192
    """Tokens of prompts and texts, at their longest and with padding, that are written together by one model. Further
    texts wait until some have ended."""
    max_sequences: int = 64
    """Most beams, or texts drawn, for one item."""
    max_answers: int = 4096
    """Most answers that a question may be given to choose from; X-PLUG's list has 3128."""
    max_labels: int = 256
    """Most labels, or known questions, that texts may be judged by; each label costs a pass for each text."""
    token_cache: str = "fp16"
    """How the reranker keeps pictures' tokens: none, fp16 or int8."""
    token_cache_memory_bytes: int = 256 * 2**20
    token_cache_disk_bytes: int = 4 * 2**30
    """In data_dir; 0: memory only."""
    num_prepare_workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Threads that decode and tokenize."""
    num_index_workers: int = 4
    """Threads that search and write."""
    torch_threads: int = 0
    """Threads of a forward pass; 0: torch's own choice."""
    grace_seconds: float = 30.0
    """How long a stop waits for RPCs under way."""
    ingest_batch_size: int = 32
    """Pictures that an ingest stream embeds and commits together."""
    ingest_in_flight: int = 128
    """Pictures of one ingest stream that may be under way; then the server stops reading it."""

    jobs_dir: Path | None = None
    """Where jobs, their data and the models that they train are kept; none: jobs in data_dir."""
    job_roots: tuple[str, ...] = ()
    """Folders whose content jobs may name, each as NAME=PATH; none: jobs work on what their clients send."""
    max_running_jobs: int = 1
    """Jobs at a time: each trains in a process of its own, on all cores or the GPU."""
    max_queued_jobs: int = 16
    """Most jobs that wait or are being sent; more is refused with RESOURCE_EXHAUSTED."""
    max_job_bytes: int = 16 * 2**30
    """Data that one job may bring."""
    max_named_models: int = 4
    """Models of jobs and of `more_models` that are in memory; of more, the one longest not asked for leaves it."""

    max_message_bytes: int = 64 * 2**20
    max_image_bytes: int = 20 * 2**20
    max_image_pixels: int = 50_000_000
    max_batch_size: int = 256
    max_text_bytes: int = 256 * 2**10
    max_top_k: int = 1000
    max_page_size: int = 1000
    max_query_parts: int = 16
    max_explained_items: int = 16
    """Most pictures, questions or candidates of one request that are explained: each word costs a pass of its own."""

    reflection: bool = True
    """Whether clients may ask for the list of services and messages."""
    tls_certificate: Path | None = None
    """PEM chain of the server; with `tls_key`, connections are encrypted."""
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    """PEM of the authorities whose clients are let in (mTLS); none: any client."""

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):
            value = getattr(self, setting.name)
            if isinstance(value, int) and not isinstance(value, bool):
                least = 0 if setting.name in MAY_BE_ZERO else 1
                _require(value >= least, setting.name, value, f"it must be at least {least}")
        _require(self.port < 65536, "port", self.port, "ports end at 65535")
        _require(self.grace_seconds >= 0, "grace_seconds", self.grace_seconds, "it must not be negative")
        _require(
            self.keep_images in KEEP_IMAGES,
            "keep_images",
            self.keep_images,
            f"known are {', '.join(KEEP_IMAGES)}",
        )
        _require(
            self.token_cache in TOKEN_CACHES,
            "token_cache",
            self.token_cache,
            f"known are {', '.join(TOKEN_CACHES)}",
        )
        self._check_services()
        self._check_job_roots()
        self._check_more_models()
        for name in ("max_batch_size", "ingest_batch_size"):
            _require(
                getattr(self, name) <= self.queue_size,
                name,
                getattr(self, name),
                f"a batch must fit into queue_size ({self.queue_size})",
            )
        _require(
            (self.tls_certificate is None) == (self.tls_key is None),
            "tls_certificate",
            self.tls_certificate,
            "tls_certificate and tls_key go together",
        )
        _require(
            self.tls_client_ca is None or self.tls_certificate is not None,
            "tls_client_ca",
            self.tls_client_ca,
            "clients can be asked for certificates only where tls_certificate is set",
        )

    def _check_services(self) -> None:
        _require(bool(self.services), "services", "", f"name at least one of {', '.join(SERVICES)}")
        for name in self.services:
            _require(name in SERVICES, "services", name, f"known are {', '.join(SERVICES)}")

    def _check_job_roots(self) -> None:
        names = [root.partition("=")[0] for root in self.job_roots]
        for root, name in zip(self.job_roots, names, strict=True):
            remedy = "write NAME=PATH, with a name of letters, digits, '_' and '-'"
            _require(ROOT_NAME.fullmatch(name) is not None and "=" in root, "job_roots", root, remedy)
            _require(names.count(name) == 1, "job_roots", root, f"there are two roots named {name}")

    def _check_more_models(self) -> None:
        names = [model.partition("=")[0] for model in self.more_models]
        for model, name in zip(self.more_models, names, strict=True):
            remedy = (
                "write NAME=FOLDER or a shipped model's name; a name has letters, digits, '_', '-' and '.'"
            )
            _require(MODEL_NAME.fullmatch(name) is not None, "more_models", model, remedy)
            _require(names.count(name) == 1, "more_models", model, f"there are two models named {name}")

    @property
    def job_folders(self) -> dict[str, Path]:
        """The job roots by name."""
        return {name: Path(path) for name, _, path in (root.partition("=") for root in self.job_roots)}

    @property
    def needs_model(self) -> bool:
        """Whether models are to be run: those that are given, or may be trained or asked for."""
        return bool(self.sources or (self.more_models and self.model_tasks)) or "job" in self.services

    @property
    def model_tasks(self) -> tuple[str, ...]:
        """What the selected services need models for."""
        return tuple(task for task, users in USERS_OF.items() if any(name in self.services for name in users))

    @property
    def more_places(self) -> dict[str, str]:
        """Where the further models are, by name."""
        return {
            name: place or name for name, _, place in (model.partition("=") for model in self.more_models)
        }

    @property
    def sources(self) -> dict[str, ModelSource]:
        """By task, the models that the selected services need, as far as they are given."""
        given = {
            task: ModelSource(getattr(self, setting), self._image_size(task), self._text_dtype(task))
            for task, setting in MODEL_SETTINGS.items()
        }
        return {task: source for task, source in given.items() if source.place and task in self.model_tasks}

    def _image_size(self, task: str) -> int | None:
        setting = IMAGE_SIZE_SETTINGS.get(task)
        return None if setting is None else getattr(self, setting) or None

    def _text_dtype(self, task: str) -> str | None:
        return self.text_dtype or None if task in TEXT_TASKS else None

    @property
    def needs_index(self) -> bool:
        """Whether a service is selected that stores."""
        return "index" in self.services or "search" in self.services

    def describe(self) -> dict[str, str]:
        """Every setting as text, for printing. None is secret: keys are named by path."""
        return {each.name: _text(getattr(self, each.name)) for each in dataclasses.fields(self)}


def load_config(
    flags: Mapping[str, object] | None = None,
    *,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> ServeConfig:
    """Settings from all three sources.

    Args:
        flags: settings given on the command line; None values count as not given.
        file: a YAML mapping of settings.
        environment: variables; None: the process's own.

    Raises:
        ConfigurationError: an unknown setting, or a value that cannot be.
    """
    given = _from_file(file) if file is not None else {}
    given |= _from_environment(os.environ if environment is None else environment)
    given |= {name: value for name, value in (flags or {}).items() if value is not None}
    hints = typing.get_type_hints(ServeConfig)
    unknown = sorted(set(given) - set(hints))
    if unknown:
        raise ConfigurationError(f"unknown settings: {', '.join(unknown)}; known are {', '.join(hints)}")
    # Any: each value has been made what its setting's type hint says.
    settings: dict[str, Any] = {name: _convert(name, value, hints[name]) for name, value in given.items()}
    return ServeConfig(**settings)


def _from_file(file: Path) -> dict[str, object]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"the configuration file {file} cannot be read: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"the configuration file {file} must be a mapping of settings, as `port: 50051`"
        )
    # `caption_model:` with nothing behind it is empty, as the variable and the flag can be.
    return {str(name).replace("-", "_"): "" if value is None else value for name, value in content.items()}


def _from_environment(environment: Mapping[str, str]) -> dict[str, object]:
    return {
        name.removeprefix(ENV_PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(ENV_PREFIX) and name not in OTHER_VARIABLES and not name.startswith(OTHER_PREFIXES)
    }


# Any: a type hint may be a class, a union or a generic alias; only the kinds of ServeConfig occur.
def _convert(name: str, value: Any, hint: Any) -> Any:
    if typing.get_origin(hint) is types.UnionType:
        if value in (None, ""):
            return None
        (hint,) = (each for each in typing.get_args(hint) if each is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        names = (value.split(",") if value else []) if isinstance(value, str) else value
        _require(isinstance(names, list | tuple), name, value, "give a list, or names with commas between")
        return tuple(str(each).strip() for each in names)
    if hint is bool:
        return _to_bool(name, value)
    if isinstance(value, bool):
        raise ConfigurationError(f"{name} is {value!r}; it must be a {hint.__name__}")
    if hint is int and isinstance(value, float) and not value.is_integer():
        raise ConfigurationError(f"{name} is {value!r}; it must be a whole number")
    try:
        return hint(value)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name} is {value!r}; it must be a {hint.__name__}") from error


def _to_bool(name: str, value: object) -> bool:
    words = {
        "true": True,
        "yes": True,
        "on": True,
        "1": True,
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }
    word = str(value).strip().lower()
    _require(word in words, name, value, "write true or false")
    return words[word]


def _require(holds: bool, name: str, value: object, remedy: str) -> None:
    if not holds:
        raise ConfigurationError(f"{name} is {value!r}; {remedy}")


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return "" if value is None else str(value)
