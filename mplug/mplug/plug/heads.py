"""What PLUG was pretrained with beside its decoder: masked words, and how two sentences stand to each other."""

from __future__ import annotations

from torch import Tensor, nn

from mplug.plug.config import PlugConfig
from mplug.text_decoder import DecoderHead


class PretrainingHeads(nn.Module):
    """StructBERT's two heads on the encoder's states; the output matrix of the first is the word embeddings.

    Args:
        config: the model's shape.
    """

    def __init__(self, config: PlugConfig) -> None:
        super().__init__()
        self.words = DecoderHead(config.text)
        self.relation = nn.Linear(config.hidden, 3)
        # The reference has one, too, and takes the state of [CLS] as it is; kept so that a checkpoint stays whole.
        self.pooler = nn.Linear(config.hidden, config.hidden)

    def forward(self, states_BND: Tensor, word_VD: Tensor) -> tuple[Tensor, Tensor]:
        """Judge states, with the word embeddings (V, D) of the encoder that made them.

        Returns:
            Logits of what each token was, (B, N, V), and of the second sentence's relation to the first, (B, 3).
        """
        return self.words(states_BND, word_VD), self.relation(states_BND[:, 0])
