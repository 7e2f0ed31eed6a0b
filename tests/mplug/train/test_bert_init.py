"""mPLUG's text side from a BERT folder: which layer goes where, by the numbers and by what they compute."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from experiment_cases import setup, text_batch
from finetuning_runs import save_start, write_rows
from golden.mplug_cases import small_vocab, some_text, tiny, tiny_whole_config
from mplug.config import TextEncoderConfig
from mplug.errors import MplugError
from mplug.text_encoder import TextEncoder
from mplug.train.bert_init import (
    read_bert,
    start_decoder,
    start_fusion_encoder,
    start_text_encoder,
)
from mplug.train.config import override
from mplug.train.experiments.models import WholeModel
from mplug.train.experiments.pretraining import PretrainingExperiment
from mplug.train.experiments.pretraining_on_rows import pretraining
from mplug.train.experiments.recipes import PretrainConfig, pretrain
from mplug.train.experiments.settings import PretrainingObjective

LAYERS, WIDTH, INNER, PIECES, POSITIONS = 6, 48, 64, 120, 40
LINEAR = {
    "attention.self.query": (WIDTH, WIDTH),
    "attention.self.key": (WIDTH, WIDTH),
    "attention.self.value": (WIDTH, WIDTH),
    "attention.output.dense": (WIDTH, WIDTH),
    "intermediate.dense": (INNER, WIDTH),
    "output.dense": (WIDTH, INNER),
}
NORMS = ("attention.output.LayerNorm", "output.LayerNorm")
VOCAB = small_vocab(130)
BERT_VOCAB = [*VOCAB[:104], *reversed(VOCAB[104:120])]
"""Fewer pieces than the model has, and some of them in other rows."""


def bert_tensors() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw) / 5

    tensors = {
        "embeddings.word_embeddings.weight": random(PIECES, WIDTH),
        "embeddings.position_embeddings.weight": random(POSITIONS, WIDTH),
        "embeddings.token_type_embeddings.weight": random(2, WIDTH),
    }
    linear = {f"encoder.layer.{n}.{name}": shape for n in range(LAYERS) for name, shape in LINEAR.items()}
    linear["cls.predictions.transform.dense"] = (WIDTH, WIDTH)
    norms = [f"encoder.layer.{n}.{name}" for n in range(LAYERS) for name in NORMS]
    norms += ["embeddings.LayerNorm", "cls.predictions.transform.LayerNorm"]
    for name, shape in linear.items():
        tensors |= {f"{name}.weight": random(*shape), f"{name}.bias": random(shape[0])}
    for name in norms:
        tensors |= {f"{name}.weight": 1 + random(WIDTH), f"{name}.bias": random(WIDTH)}
    return {**tensors, "cls.predictions.bias": random(PIECES)}


def plain_bert(ids: Tensor, mask: Tensor) -> Tensor:
    """BERT as its paper has it, from tensors by their published names."""
    tensors = bert_tensors()

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (WIDTH,), tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-12)

    rows = torch.tensor([[BERT_VOCAB.index(VOCAB[int(each)]) for each in text] for text in ids])
    x = tensors["embeddings.word_embeddings.weight"][rows]
    x = x + tensors["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = norm("embeddings.LayerNorm", x + tensors["embeddings.token_type_embeddings.weight"][0])
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        q, k, v = (
            linear(f"{layer}.attention.self.{part}", x).view(*x.shape[:2], 4, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        scores = q @ k.transpose(-1, -2) / (WIDTH // 4) ** 0.5 + (~mask)[:, None, None] * -10000.0
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = norm(f"{layer}.attention.output.LayerNorm", x + linear(f"{layer}.attention.output.dense", mixed))
        inner = F.gelu(linear(f"{layer}.intermediate.dense", x))
        x = norm(f"{layer}.output.LayerNorm", x + linear(f"{layer}.output.dense", inner))
    return x


def write(folder: Path, tensors: dict[str, Tensor]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in BERT_VOCAB), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("bert"), bert_tensors())


def started(folder: Path, seed: int = 0) -> WholeModel:
    model, bert = tiny(WholeModel, seed=seed), read_bert(folder)
    start_text_encoder(model.text_encoder, bert, VOCAB)
    start_fusion_encoder(model.fusion_encoder, bert)
    start_decoder(model.text_decoder, bert, VOCAB)
    return model


def test_first_layers_to_the_encoder_last_to_fusion_and_first_to_the_decoder(folder: Path) -> None:
    model, stored = started(folder), bert_tensors()
    query = [stored[f"encoder.layer.{n}.attention.self.query.weight"] for n in range(LAYERS)]
    expand = [stored[f"encoder.layer.{n}.intermediate.dense.weight"] for n in range(LAYERS)]
    for stack, first in ((model.text_encoder, 0), (model.fusion_encoder, 2), (model.text_decoder, 0)):
        for number, layer in enumerate(stack.layers.children()):
            assert torch.equal(layer.get_parameter("attention.query.weight"), query[first + number])
            assert torch.equal(layer.get_parameter("feed_forward.expand.weight"), expand[first + number])


def test_the_text_encoder_computes_what_bert_does(folder: Path) -> None:
    config = TextEncoderConfig(
        vocab_size=130, hidden=WIDTH, layers=LAYERS, heads=4, ffn=INNER, positions=POSITIONS
    )
    encoder = TextEncoder(config)
    start_text_encoder(encoder, read_bert(folder), VOCAB)
    ids, mask = some_text()
    with torch.no_grad():
        ours = encoder.eval()(ids, mask)
    torch.testing.assert_close(ours[mask], plain_bert(ids, mask)[mask], rtol=1e-4, atol=1e-5)


def test_rows_are_found_by_their_pieces(folder: Path) -> None:
    model, stored = started(folder), bert_tensors()
    words, bias = stored["embeddings.word_embeddings.weight"], stored["cls.predictions.bias"]
    for table in (model.text_encoder.embeddings.word.weight, model.text_decoder.embeddings.word.weight):
        for row in (5, 101, 104, 119):
            assert torch.equal(table[row], words[BERT_VOCAB.index(VOCAB[row])])
        assert (table[125] - words.mean(0)).abs().max() < 5 * words.std()
    assert model.text_decoder.head.bias[104] == bias[BERT_VOCAB.index(VOCAB[104])]
    assert model.text_decoder.head.bias[125] == 0


def test_the_head_of_masked_words_starts_from_berts(folder: Path) -> None:
    found = PretrainingExperiment(
        tiny(WholeModel), PretrainingObjective(), setup(text_batch), bert=read_bert(folder)
    )
    head = found.model.get_submodule("heads.mlm")
    stored = bert_tensors()
    assert torch.equal(head.get_parameter("dense.weight"), stored["cls.predictions.transform.dense.weight"])
    assert torch.equal(head.get_parameter("bias")[:104], stored["cls.predictions.bias"][:104])


def test_cross_attention_starts_from_berts_own_distribution(folder: Path) -> None:
    cross = started(folder).text_decoder.layers.get_submodule("0.cross_attention")
    assert cross.get_parameter("key.weight").std().item() == pytest.approx(0.02, rel=0.1)
    assert not cross.get_parameter("key.bias").any()


def test_other_ways_of_saving_a_bert_are_read(folder: Path, tmp_path: Path) -> None:
    old = {
        f"bert.{name}" if not name.startswith("cls.") else name: each for name, each in bert_tensors().items()
    }
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): each
        for name, each in old.items()
    }
    other = write(tmp_path / "old", old)
    (other / "model.safetensors").unlink()
    torch.save(old, other / "pytorch_model.bin")
    ours, theirs = started(folder).text_encoder.state_dict(), started(other).text_encoder.state_dict()
    assert all(torch.equal(ours[name][:100], theirs[name][:100]) for name in ours)


def test_a_bert_without_a_head_leaves_ours(tmp_path: Path) -> None:
    plain = {name: each for name, each in bert_tensors().items() if not name.startswith("cls.")}
    bert = read_bert(write(tmp_path / "plain", plain))
    model = tiny(WholeModel)
    before = model.text_decoder.head.dense.weight.clone()
    start_decoder(model.text_decoder, bert, VOCAB)
    assert torch.equal(model.text_decoder.head.dense.weight, before)


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MplugError, match="is no BERT folder"):
        read_bert(tmp_path)
    with pytest.raises(MplugError, match="holds no BERT"):
        read_bert(write(tmp_path / "empty", {"some.weight": torch.zeros(2)}))
    config = tiny_whole_config()
    deep = dataclasses.replace(config.text_encoder, layers=LAYERS + 1)
    with pytest.raises(MplugError, match="text_encoder is 48 wide and has 7 layers"):
        start_text_encoder(TextEncoder(deep), read_bert(folder), VOCAB)


def test_the_recipe_starts_the_text_side_and_the_head_of_masked_words_from_a_folder(
    folder: Path, tmp_path: Path
) -> None:
    start = save_start(tmp_path / "start")
    (tmp_path / "rows").mkdir()
    values = [f"shape={start}", f"bert={folder}", "batch_size=6", "image_size=32", "max_text_tokens=12"]
    config: PretrainConfig = override(pretrain(), [*values, "objective.contrast.queue_size=12"])
    experiment = pretraining(config, write_rows(tmp_path / "rows"))
    assert list(experiment.trained.tokenizer.vocab) == BERT_VOCAB
    tensors, found = bert_tensors(), experiment.model.state_dict()
    for ours, theirs in {
        "online.text_encoder.layers.0.attention.query.weight": "encoder.layer.0.attention.self.query.weight",
        "online.fusion_encoder.layers.3.attention.query.weight": "encoder.layer.5.attention.self.query.weight",
        "online.text_decoder.layers.1.attention.query.weight": "encoder.layer.1.attention.self.query.weight",
        "heads.mlm.dense.weight": "cls.predictions.transform.dense.weight",
    }.items():
        assert torch.equal(found[ours], tensors[theirs]), ours
