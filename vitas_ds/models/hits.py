"""Count correctly classified images."""
# B images, C classes

from __future__ import annotations

from torch import Tensor


def top_hits(logits: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """Return whether each of the most likely classes is the label.

    An image whose logits are not all finite has no hit: the order of NaN is arbitrary, and could match its label.

    Args:
        logits: Outputs of a network [B, C].
        labels: Classes [B].
        k: Number of classes, the most likely first; at most C are returned.

    Returns:
        bool [B, min(k, C)].
    """
    found = logits.topk(min(k, logits.shape[1])).indices == labels[:, None]
    return found & logits.isfinite().all(1, keepdim=True)
