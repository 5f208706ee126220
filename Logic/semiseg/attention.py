"""Self-attention over all places of a feature map: what a transformer sees and a U-Net does not."""

from __future__ import annotations

from torch import Tensor, nn

_CONV: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP over the places of (B, C, *), with residuals.

    Where a place lies it learns from a depthwise convolution (Chu et al., Conditional Positional
    Encodings, 2021), so that inputs of any size fit.
    """

    def __init__(self, channels: int, dims: int, *, head_channels: int = 16) -> None:
        super().__init__()
        self.n_heads = max(1, channels // head_channels)
        self.position = _CONV[dims](channels, channels, 3, padding=1, groups=channels)
        self.norm_attention = nn.LayerNorm(channels)
        self.norm_mlp = nn.LayerNorm(channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *) of the same shape."""
        features = features + self.position(features)
        tokens = features.flatten(2).transpose(1, 2)
        tokens = tokens + self._attend(self.norm_attention(tokens))
        tokens = tokens + self.mlp(self.norm_mlp(tokens))
        out: Tensor = tokens.transpose(1, 2).reshape(features.shape)
        return out

    def _attend(self, tokens: Tensor) -> Tensor:
        batch, n_tokens, channels = tokens.shape
        parts = self.query_key_value(tokens).view(batch, n_tokens, 3, self.n_heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(query, key, value)
        mixed: Tensor = self.out(seen.transpose(1, 2).reshape(batch, n_tokens, channels))
        return mixed
