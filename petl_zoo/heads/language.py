"""Losses of texts that a decoder writes, and the ranking of answers by them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from petl_zoo.backbones import Plan, States
from petl_zoo.backbones.bert import BertFusion

IGNORED = -100  # cross-entropy's own mark


def text_losses(logits: Tensor, ids: Tensor, padding: Tensor | None, *, smoothing: float = 0.0) -> Tensor:
    """The negative log-likelihood of each text given its first token, summed over its words.

    Args:
        padding: (A, L), True at real tokens.
        smoothing: label smoothing; BLIP's 0.1 is part of its ranking of answers too.

    Shape:
        logits: (A, L, V), at each token those of the next; ids: (A, L); returns (A,).
    """
    targets = ids[:, 1:]
    if padding is not None:
        targets = targets.masked_fill(~padding[:, 1:], IGNORED)
    losses = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), targets.flatten(), label_smoothing=smoothing, reduction="none"
    )
    return losses.unflatten(0, targets.shape).sum(1)


def rank_answers(
    backbone: BertFusion,
    states: States,
    ids: Tensor,
    padding: Tensor,
    k: int,
    plan: Plan,
    *,
    smoothing: float = 0.0,
    first_word_twice: bool = False,
) -> tuple[Tensor, Tensor]:
    """Score the k candidate answers of each question whose first words are the likeliest.

    A score is the answer's log-likelihood, not divided by its length, so that short answers are favoured, as in the
    authors' code.

    Args:
        states: of Q questions, read with their images.
        ids: (A, L), candidates, each beginning with the decoder's start token.
        padding: (A, L), True at real tokens.
        k: candidates that are scored.
        smoothing: label smoothing of the likelihood.
        first_word_twice: add the first word's log-probability once more, as ALBEF's code does.

    Shape:
        returns the candidates' indices (Q, k), likeliest first word first, and their scores (Q, k).
    """
    questions = len(states.tokens)
    start = ids[:1, :1].expand(questions, 1)
    first = backbone.decode(start, None, states, plan)[:, 0].log_softmax(-1)  # (Q, V)
    chance, best = first[:, ids[:, 1]].topk(min(k, len(ids)), dim=1)  # (Q, k)
    chosen, real = ids[best.flatten()], padding[best.flatten()]  # (Q k, L)
    logits = backbone.decode(chosen, real, states, plan)
    scores = -text_losses(logits, chosen, real, smoothing=smoothing).unflatten(0, best.shape)
    return best, scores + chance if first_word_twice else scores

