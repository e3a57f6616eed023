"""How well a model predicts held-out text: bits per character and perplexity. Every token counts, the first too."""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from longshort.data import Tokenizer, Tokens
from longshort.model import xLSTMLM


class Evaluation(NamedTuple):
    """What a text costs under a model."""

    bits_per_character: float
    perplexity: float
    """e to the mean loss of a token."""
    tokens: int
    characters: int


@torch.no_grad()
def evaluate(
    model: xLSTMLM, text: Tokens, tokenizer: Tokenizer, *, limit: int | None = None, lanes: int = 16, piece: int = 512
) -> Evaluation:
    """Score `text`: the state is carried through it, so every token has its past.

    The text is read in `lanes` contiguous parts side by side, each from an empty state and the one token before it;
    the very first token costs log2(vocabulary). Documents are kept apart by resets. With a `limit`, only about so
    many tokens are scored, the first of every part.
    """
    if len(text) < 1:
        raise ValueError("nothing to evaluate: the held-out text is empty")
    borders = np.linspace(0, len(text), min(lanes, len(text)) + 1).astype(int)
    ends = borders[1:] if limit is None else np.minimum(borders[1:], borders[:-1] + max(1, limit // lanes))
    begins, count = np.maximum(borders[:-1] - 1, 0), int((ends - borders[:-1]).sum())
    device, was_training = model.embedding.weight.device, model.training
    nats, state = math.log(model.config.vocab_size), None
    model.eval()
    for at in range(0, int((ends - begins).max()) - 1, piece):
        index = begins[:, None] + at + np.arange(piece + 1)
        left = torch.from_numpy((ends - begins - at - 1).clip(0, piece)).to(device)
        tokens = torch.from_numpy(np.asarray(text.ids[np.minimum(index, len(text) - 1)], np.int64)).to(device)
        starts = np.isin(index[:, :-1], text.starts)
        reset = torch.from_numpy(starts).to(device) if starts.any() else None
        logits, state = model(tokens[:, :-1], state, lengths=left, reset=reset)
        losses = F.cross_entropy(logits.float().transpose(1, 2), tokens[:, 1:], reduction="none")
        nats += losses.double()[torch.arange(piece, device=device) < left[:, None]].sum().item()
    model.train(was_training)
    # Of a part, its share of the characters: cut anywhere, a character of several tokens would count for more.
    characters = round(len(tokenizer.decode(text.ids)) * count / len(text))
    return Evaluation(nats / math.log(2) / characters, math.exp(nats / count), count, characters)
