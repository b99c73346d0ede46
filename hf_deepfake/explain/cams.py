"""Grad-CAM and attention: maps out of a network's inside, in the image's own frame."""

from contextlib import ExitStack

import torch

from hf_deepfake.errors import InputError
from hf_deepfake.explain.layers import Record, name, place, recorded, to_grid
from hf_deepfake.explain.scores import Score


def grad_cam(score: Score, pixels: torch.Tensor, plus_plus: bool = False) -> torch.Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017, equations 1 and 2) or Grad-CAM++ (Chattopadhay et al., WACV 2018).

    `ReLU(Σ_k w_k A_k)` of the feature map `A` that enters the head, and of what enters the last attention layer where the
    head looks at the class token only. Grad-CAM's `w_k` is the sum of the gradient of the score over the map, here not
    divided by its cells, so that maps of different fineness are in the same units. Grad-CAM++ weights the positive part
    of the gradient `g` by `g² / (2 g² + g³ Σ A_k)` (equation 19); what is negative in `A`, which nothing is in the paper's
    networks, is left out of that sum, which could be 0 otherwise.

    The gradient is that of the vote, so that each member's map counts by the share that its log-odds have in it, and the
    members' maps are summed.

    Args:
        score: What is explained.
        pixels: One image, shape `(1, 3, height, width)`.
        plus_plus: Grad-CAM++.

    Returns:
        Shape `(height, width)`, 0 where no model looks.

    Raises:
        InputError: If a model has no feature map that its score depends on.
    """
    seen = _Pass(score, pixels)
    found = torch.zeros(pixels.shape[-2:], device=pixels.device)
    for record, key, share in zip(seen.records, score.keys, seen.shares, strict=True):
        if share:
            found += place(score, key, _member_cam(seen, record, plus_plus), pixels)
    return found


def _member_cam(seen: "_Pass", record: Record, plus_plus: bool) -> torch.Tensor:
    candidates = [record.features, *(part for part in record.attended[-1:] if part.ndim == 3 and len(part) == 1)]
    for values in candidates:
        if values is None:
            continue
        gradient = to_grid(record, seen.gradient([values])[0]).float()
        if gradient.any():
            return _cam(to_grid(record, values.detach()).float(), gradient, plus_plus)
    raise InputError(
        f"{name(record.model)}: no feature map was found that its score depends on; explain it by integrated_gradients "
        "or occlusion."
    )


def _cam(activation: torch.Tensor, gradient: torch.Tensor, plus_plus: bool) -> torch.Tensor:
    shares = torch.ones_like(gradient)
    if plus_plus:
        gradient = gradient.relu()
        below = 2 * gradient**2 + gradient**3 * activation.relu().sum(dim=(1, 2), keepdim=True)
        shares = torch.where(below == 0, 0, gradient**2 / below)
    weights = (shares * gradient).sum(dim=(1, 2), keepdim=True)
    return (weights * activation).sum(dim=0).relu()


def attention(score: Score, pixels: torch.Tensor, weighted: bool = False) -> torch.Tensor:
    """What the head gets of each patch through all attention layers of a transformer.

    With `A_l` a layer's attention of shape `(heads, tokens, tokens)`: attention rollout is the product of the layers'
    `½ I + ½ mean_h A_l` (Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, equation 1), and is the
    same for real and fake. Weighted, it starts at `R = I` and adds `mean_h (∇A_l ⊙ A_l)⁺ R` for each layer, with the
    gradient of the score (Chefer, Gur and Wolf, Generic Attention-Model Explainability, ICCV 2021, equations 5 and 6).

    Both papers read the class token's row. Some heads look at the mean of the patches too or alone, so that rows count
    here by the length of the score's gradient at their token, which is the class token's row where only it is looked at.
    Members of a vote are summed; in rollout, which has no gradient, each counts by its share of the vote's.

    Args:
        score: What is explained.
        pixels: One image, shape `(1, 3, height, width)`.
        weighted: By the gradient.

    Returns:
        Shape `(height, width)`.

    Raises:
        InputError: If a model has no attention between all parts of the image.
    """
    seen = _Pass(score, pixels, attention=True)
    found = torch.zeros(pixels.shape[-2:], device=pixels.device)
    for record, key, share in zip(seen.records, score.keys, seen.shares, strict=True):
        tokens = _tokens(record)
        flow = torch.eye(tokens.shape[1], device=pixels.device)
        for layer, gradient in zip(record.attentions, seen.gradient(record.attentions), strict=True):
            if weighted:
                flow = flow + (gradient[0] * layer[0].detach()).float().relu().mean(dim=0) @ flow
            else:
                flow = flow / 2 + layer[0].detach().float().mean(dim=0) @ flow / 2
        rows = seen.gradient([tokens])[0][0].float().norm(dim=1)
        reached = rows / rows.sum().clamp(min=torch.finfo(rows.dtype).tiny) @ (flow - torch.eye(len(flow)).to(flow))
        grid = to_grid(record, reached[None, :, None].relu())[0]
        found += (1 if weighted else share) * grid.numel() * place(score, key, grid, pixels)
    return found


def _tokens(record: Record) -> torch.Tensor:
    """The tokens that enter the head, where every layer's attention is between all of them."""
    features = record.features
    if record.attentions and features is not None and features.ndim == 3:
        expected = (1, features.shape[1], features.shape[1])
        if all((len(part), *part.shape[2:]) == expected for part in record.attentions):
            return features
    reason = "not between all parts of the image, but within windows or the like" if record.attended else "none"
    raise InputError(
        f"{name(record.model)}: of attention there is {reason}, so that nothing can be followed through the layers; "
        "explain it by grad_cam, integrated_gradients or occlusion."
    )


class _Pass:
    """One pass, from which gradients of the score can be asked.

    Attributes:
        records: What was seen, one a model.
        shares: Size of the gradient of the vote by each model's log-odds.
    """

    def __init__(self, score: Score, pixels: torch.Tensor, attention: bool = False) -> None:
        with ExitStack() as stack:
            self.records = [stack.enter_context(recorded(model, attention)) for model in score.models]
            log_odds = score.log_odds(pixels.detach().requires_grad_())
        self._score = score.vote(log_odds).sum()
        self.shares: list[float] = self.gradient([log_odds])[0][0].abs().tolist()

    def gradient(self, values: list[torch.Tensor]) -> list[torch.Tensor]:
        """Of the score by what was seen; 0 where the score does not depend on it."""
        if not values:
            return []
        found = torch.autograd.grad(self._score, values, retain_graph=True, allow_unused=True, materialize_grads=True)
        return list(found)
