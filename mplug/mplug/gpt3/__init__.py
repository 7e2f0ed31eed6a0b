"""Chinese GPT-3 as ModelScope publishes it, in six sizes: one decoder for two layouts of weights.

Base and large are read by the reference's `GPT3Model` ("plain" here), 1.3B and larger by `DistributedGPT3`. Dimensions
of tensors are those of `mplug.layers`.

Quirks of the reference that are kept:

1.  The plain model has the exact GELU, the distributed one that by tanh, unless its fusion of bias and GELU is off.
2.  A plain model's feed-forward blocks are 4 times as wide as its stream, whatever the configuration says.
3.  A prompt of the plain models has no [SEP]: the first generated token takes its place. It is cut to 128 tokens.
4.  Text of the distributed models ends at the first generated <sep>, while generation goes on to the end of text.
5.  Beam search is the reference's own, see `mplug.generation.gpt3_beam`.
6.  The plain loss is a mean over all labels, padding included; the distributed one counts some labels alone.

What is not:

1.  In a batch the reference stops when all texts have ended, and those that ended before go on behind their end. Here
    each ends for itself.
2.  The plain model has no cache of keys and values there, and a limit of 128 + 100 tokens, prompt included, because it
    pads prompts to 128. Here it generates `tokens_to_generate`, as the distributed one does.
3.  A prompt with <sep> in it hides everything behind that.
4.  Ids 628 and 198 as line ends are GPT-2's and mean nothing in these vocabularies.
5.  Without `prompts_len` a batch cannot be decoded.
6.  The loss of a batch in which no label counts is 0 in the newest reference, NaN in older ones; here it is 0.
7.  A nucleus leaves out the likeliest tokens' equals, by whichever sorts first; `mplug.generation` keeps them.

The distributed layout's rows by heads are what the reference's own code says. Its GELU by tanh is a convention of
Megatron-LM: `megatron_util`, which the reference takes it from, cannot be had.
"""

from mplug.gpt3.checkpoint import load, save
from mplug.gpt3.config import SIZES, Gpt3Config, Gpt3Sampling
from mplug.gpt3.decoder import Gpt3Decoder, count_parameters
from mplug.gpt3.generator import Gpt3Generator
from mplug.gpt3.losses import masked_loss, mean_loss, token_losses

__all__ = [
    "SIZES",
    "Gpt3Config",
    "Gpt3Decoder",
    "Gpt3Generator",
    "Gpt3Sampling",
    "count_parameters",
    "load",
    "masked_loss",
    "mean_loss",
    "save",
    "token_losses",
]
