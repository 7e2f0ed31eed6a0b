"""PLUG's encoder: BERT's embeddings and layers, which have their norms in front or behind."""

from __future__ import annotations

from torch import Tensor, nn

from mplug.layers import BertLayer
from mplug.plug.config import PlugConfig
from mplug.prenorm import PreNormLayer
from mplug.text_encoder import TextEmbeddings


class PlugEncoder(nn.Module):
    """Token ids to states.

    With the norms in front there is one more behind the last layer. The reference applies it once in training, where it
    recomputes activations, and twice in inference, which the released decoder was therefore not trained on; so does
    this, in training mode and in evaluation mode.

    Args:
        config: the model's shape.
    """

    def __init__(self, config: PlugConfig) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(config.text)
        kind = PreNormLayer if config.pre_norm else BertLayer
        self.layers = nn.ModuleList(
            kind(config.hidden, config.heads, config.ffn, eps=config.eps, dropout=config.dropout)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.hidden, eps=config.eps) if config.pre_norm else None

    def forward(
        self, ids_BN: Tensor, mask_BN: Tensor, types_BN: Tensor | None = None, *, as_served: bool = False
    ) -> Tensor:
        """Encode a padded batch of texts.

        Args:
            ids_BN: int64 (B, N), padding behind.
            mask_BN: bool (B, N), True = a real token.
            types_BN: int64 (B, N), types of the tokens; None: all are of type 0.
            as_served: in training, too, compute what inference does, so that this is what is learnt.

        Returns:
            (B, N, D); token 0 stands for the text.

        Raises:
            ValueError: the texts are longer than the position embeddings.
        """
        states_BND = self.states(ids_BN, mask_BN, types_BN)[-1]
        if self.norm is not None:
            for _ in range(1 if self.training and not as_served else 2):
                states_BND = self.norm(states_BND)
        return states_BND

    def states(self, ids_BN: Tensor, mask_BN: Tensor, types_BN: Tensor | None = None) -> list[Tensor]:
        """The embeddings, then the states behind each layer, no norm behind the last; arguments as of `forward`."""
        mask_B11N = mask_BN.bool()[:, None, None]
        states = [self.embeddings(ids_BN, types_BN)]
        for layer in self.layers:
            states.append(layer(states[-1], mask_B11N))
        return states
