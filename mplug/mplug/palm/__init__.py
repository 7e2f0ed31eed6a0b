"""PALM 2.0 (after Bi et al. 2020): an encoder reads a source, a decoder writes a text about it.

The encoder is post-norm BERT or RoBERTa, `mplug.text_encoder.TextEncoder`; the decoder has its norms in front.
Dimensions are those of `mplug.layers`, where N is here the tokens of a source. The reference is ModelScope's
`models/nlp/palm_v2`, 1.40; its beam search is mPLUG's with other constants, `mplug.generation.beam`.

Kept of it:
    * the decoder attends to every token of the source that is not padding by its id, whatever the encoder's mask says;
    * a [PAD] that a text goes on from attends to all before it alike (`decoder`);
    * the smoothed loss is a sum over tokens (`losses`);
    * names in a file lose `model.` or `palm.` in front, and a file may hold a dictionary of one of these names;
    * of the encoder, a source begins at position 0, or with RoBERTa at the one behind the number of padding.

Not kept:
    * `block_trigram` blocks nothing there, since it changes scores after the best have been taken, and can end with an
      IndexError; ours is `GenerationConfig.no_repeat_ngram_size=3`, off unless asked for;
    * `beam_size` and `alpha` of a call are ignored there, and all other settings of a call stay for the next one; here
      a call has its own;
    * `sample_topk` draws the next token of every beam and ranks what was drawn; here `sample` draws whole texts;
    * in training, feed-forward blocks of the decoder have a dropout more there, behind the GELU;
    * `share_emb` and `max_pos` above 512, with which the reference cannot be built, are refused;
    * causal masks and positions that a file holds are computed, BERT's pooler is not read: no output depends on it.
"""

from mplug.palm.checkpoint import count_parameters, load, save, state_dict
from mplug.palm.config import SIZES, PalmConfig, PalmDecoderConfig
from mplug.palm.decoder import PalmDecoder
from mplug.palm.generator import PalmGenerator
from mplug.palm.losses import plain_loss, smoothed_loss
from mplug.palm.model import PalmModel

__all__ = [
    "SIZES",
    "PalmConfig",
    "PalmDecoder",
    "PalmDecoderConfig",
    "PalmGenerator",
    "PalmModel",
    "count_parameters",
    "load",
    "plain_loss",
    "save",
    "smoothed_loss",
    "state_dict",
]
