"""PLUG: StructBERT's encoder, made large, and a decoder that shares its embeddings; published with 27 billion weights.

Dimensions are those of `mplug.layers`, where N is here the tokens of a source. The reference is ModelScope's
`models/nlp/plug`, 1.40. Its attention comes from Megatron, whose package cannot be had; what is compared with was run
with attention re-stated from AliceMind's sources. PLUG of 2 trillion parameters was a mixture of experts and was never
published: nothing here is about it.

Kept of it:
    * the norm behind the encoder's last pre-norm layer is applied twice in inference, once in training (`encoder`);
    * the embeddings have a norm of their own, even before layers with norms in front;
    * the decoder reads the encoder's embeddings, type 0, and its logits have no bias;
    * the pooler in a file is not read: the state of [CLS] is what heads see;
    * fine-tuning's loss counts tokens by what is read, so [PAD] is learnt once behind a shorter text (`model`);
    * generation by windows (`sliding`), and the beam search of its evaluation, which is mPLUG's
      (`mplug.generation.beam`).

Not kept:
    * queries and keys are each divided by the fourth root of a head's width, for float16's sake; torch's attention
      scales by itself, to the same numbers;
    * there is no cache of keys and values; here there always is one;
    * texts are generated one at a time; here in batches, and each as if it were alone;
    * merging ranks end to end corrupts matrices of queries, keys and values; here each is merged by itself (`names`);
    * a source longer than a window's 512 tokens ends with an error; here it loses its beginning, as was meant.
"""

from mplug.plug.checkpoint import count_parameters, load, load_classifier, rank_state, save
from mplug.plug.classifier import PlugClassifier
from mplug.plug.config import SIZES, PlugConfig, PlugSampling
from mplug.plug.decoder import PlugDecoder
from mplug.plug.encoder import PlugEncoder
from mplug.plug.generator import PlugGenerator
from mplug.plug.heads import PretrainingHeads
from mplug.plug.model import PlugModel
from mplug.plug.sliding import stream_windows
from mplug.plug.windows import write_windows

__all__ = [
    "SIZES",
    "PlugClassifier",
    "PlugConfig",
    "PlugDecoder",
    "PlugEncoder",
    "PlugGenerator",
    "PlugModel",
    "PlugSampling",
    "PretrainingHeads",
    "count_parameters",
    "load",
    "load_classifier",
    "rank_state",
    "save",
    "stream_windows",
    "write_windows",
]
