"""Runs ModelScope's mPLUG on one picture and text, and writes down every stage.

    python reference_runner.py REQUEST.json FOLDER

The interpreter is that of the environment in which ModelScope lives, which may be old and need not hold this package:
nothing of ours is imported here, and libraries only where their absence can be told. FOLDER receives `report.json` and,
where anything was computed, `stages.npz`; names of stages are those of `stages.py`.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import json
import os
import sys
import tempfile
import types
from typing import Any

# What the module of ModelScope's preprocessors imports for other models than mPLUG: OFA's need fairseq, those of videos
# decord and datasets. Empty packages stand in for them, so that nobody has to install those for this.
STAND_INS = (
    "decord",
    "modelscope.pipelines.base",
    "modelscope.pipelines.cv.cmdssl_video_embedding_pipeline",
    "modelscope.preprocessors.ofa",
    "modelscope.preprocessors.ofa.utils",
    "modelscope.preprocessors.ofa.utils.collate",
    "modelscope.preprocessors.ofa.utils.constant",
)


def main(request_file: str, folder: str) -> None:
    """Do what the request asks for; whatever happens is in the report."""
    with open(request_file, encoding="utf-8") as stream:
        request = json.load(stream)
    report: dict[str, Any] = {"notes": []}
    try:
        libraries = _import_libraries()
    except (Exception, SystemExit) as error:
        # Libraries that do not fit each other fail at import with whatever comes.
        report["cannot import"] = _described(error)
    else:
        report["versions"] = _versions(libraries)
        stages = Stages()
        try:
            _run(request, libraries, stages, report["notes"])
        except ModuleNotFoundError as error:  # some are imported only when they are needed
            report["cannot import"] = _described(error)
        except Exception as error:
            report["stopped"] = _described(error)
        libraries.numpy.savez(os.path.join(folder, "stages.npz"), **stages.arrays)
    with open(os.path.join(folder, "report.json"), "w", encoding="utf-8") as stream:
        json.dump(report, stream)


class Stages:
    """What was computed so far, as arrays, copied: the reference adds to its states in place."""

    def __init__(self) -> None:
        self.arrays: dict[str, Any] = {}

    def keep(self, stage: str, tensor: Any) -> None:
        """Copy a stage, unless it is there: a decoder is called again for every token."""
        if stage not in self.arrays:
            self.arrays[stage] = tensor.detach().cpu().numpy().copy()

    def watch(self, module: Any, read: Any) -> None:
        """Keep what `read` makes of every output of a module, a dict by stage."""

        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            for stage, tensor in read(output).items():
                self.keep(stage, tensor)

        module.register_forward_hook(hook)


class _StandIn(types.ModuleType):
    """An empty package, in which every public name is None."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        # Libraries ask for a module's specification to see whether another one is installed.
        self.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        self.__path__ = []
        self.__all__: list[str] = []

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def _import_libraries() -> Any:
    models = importlib.import_module("modelscope.models.multi_modal.mplug")
    sys.modules.update({name: _StandIn(name) for name in STAND_INS})
    preprocessors = importlib.import_module("modelscope.preprocessors.multi_modal")
    return types.SimpleNamespace(
        numpy=importlib.import_module("numpy"),
        torch=importlib.import_module("torch"),
        MPlug=models.MPlug,
        MPlugPreprocessor=preprocessors.MPlugPreprocessor,
    )


def _versions(libraries: Any) -> dict[str, str]:
    names = ("modelscope", "transformers", "torchvision", "PIL", "numpy", "torch")
    modules = {name: sys.modules.get(name) for name in names}
    versions = {name: str(getattr(module, "__version__", "?")) for name, module in modules.items() if module}
    return dict(versions, python=".".join(str(number) for number in sys.version_info[:3]))


def _run(request: dict[str, Any], libraries: Any, stages: Stages, notes: list[str]) -> None:
    libraries.torch.set_grad_enabled(False)
    given = _preprocessed(request, libraries)
    question = given["question"]
    length = int(question["attention_mask"].sum())
    stages.keep("pixels", given["image"])
    if request["task"] != "image-captioning":  # which reads no text
        stages.keep("text ids", question["input_ids"][0, :length])
    model = libraries.MPlug.from_pretrained(request["folder"], task=request["task"]).float().eval()
    retrieves = request["task"] == "image-text-retrieval"
    if retrieves and not model.large:
        model.visn_fc = model.visn_layer_norm = libraries.torch.nn.Identity()
        notes.append(
            "ModelScope's retrieval fails in a folder without a bridge (visn_fc); it was given an empty one"
        )
    _watch(model, stages, length)
    found = model(given["image"], question, train=False)
    if retrieves:
        stages.keep("matching scores", found)
        _keep_vectors(model, stages, libraries.torch)
    else:
        stages.keep("generated ids", found[0][0][0])


def _preprocessed(request: dict[str, Any], libraries: Any) -> Any:
    preprocessor = libraries.MPlugPreprocessor(request["folder"])
    # Both are read from the folder at first use; after that only the task is, which may be another one here.
    _ = preprocessor.tokenizer, preprocessor.patch_resize_transform
    with tempfile.TemporaryDirectory() as scratch:
        with open(os.path.join(scratch, "configuration.json"), "w", encoding="utf-8") as stream:
            json.dump({"task": request["task"], "framework": "pytorch"}, stream)
        preprocessor.model_dir = scratch
        return preprocessor((request["image"], request["text"]))


def _watch(model: Any, stages: Stages, length: int) -> None:
    stages.watch(model.visual_encoder.visual, lambda output: {"vision tower": output})
    if model.large:
        stages.watch(model.visn_layer_norm, lambda output: {"image tokens": output})
    # Padding is in no stage: nothing of it reaches a real token, and ours has none.
    stages.watch(model.text_encoder, lambda output: {"text states": output[0][:, :length]})
    stages.watch(
        model.fusion_encoder,
        lambda output: {"fused image": output[0], "fused text": output[1][:, :length]},
    )
    if hasattr(model, "itm_head"):
        stages.watch(model.itm_head, lambda output: {"matching logits": output})
    if hasattr(model, "text_decoder"):
        stages.watch(model.text_decoder, lambda output: {"first logits": output.logits[:1, -1]})


def _keep_vectors(model: Any, stages: Stages, torch: Any) -> None:
    # ModelScope computes these in training only.
    image = stages.arrays.get("image tokens", stages.arrays["vision tower"])
    normalize = torch.nn.functional.normalize
    for stage, project, states in (
        ("image vector", model.vision_proj, image),
        ("text vector", model.text_proj, stages.arrays["text states"]),
    ):
        stages.keep(stage, normalize(project(torch.from_numpy(states[:, 0])), dim=-1))
    stages.keep("temperature", model.temp)


def _described(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{error.name} is not installed"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


if __name__ == "__main__":
    # The folder of this file holds our modules; none of them may stand in the way of one over there.
    sys.path.pop(0)
    main(*sys.argv[1:])
