"""The xLSTM stack and its language model: embedding, blocks, norm, head; sizes, costs. Knows no files or tokenizers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from longshort.blocks import Block, MixerState, small_init
from longshort.config import xLSTMConfig
from longshort.functional import check_lengths, check_reset
from longshort.ops.norm import LayerNorm, RMSNorm, soft_cap
from longshort.shapes import Bool, Float, Int

State = tuple[MixerState, ...]


class xLSTM(nn.Module):
    """A stack of residual blocks and a final norm: vectors in, vectors out, state in, state out.

    Args:
        config: the stack's shape; `config.kinds` names each block's mixer.

    Shapes: x (B, T, D), a state or None -> (B, T, D), the state: a tuple with one `MixerState` a block.

    >>> stack = xLSTM(xLSTMConfig(embedding_dim=16, blocks=("mlstm", "slstm", "lstm", "rnn"), round_up_to=16))
    >>> y, state = stack(torch.zeros(2, 7, 16))
    >>> y.shape, len(state)
    (torch.Size([2, 7, 16]), 4)
    """

    def __init__(self, config: xLSTMConfig):
        super().__init__()
        self.config = config
        self.blocks = cast("Sequence[Block]", nn.ModuleList(Block(config, i) for i in range(len(config.kinds))))
        norm = RMSNorm if config.block == "7b" else LayerNorm
        self.norm = norm(config.embedding_dim, config.setting("norm_eps"))
        self.checkpointing = False
        """Recompute each block in the backward pass instead of keeping what it computed: less memory, more time."""
        if not self.norm.weight.is_meta:
            self.init_weights()

    def init_weights(self) -> "xLSTM":
        """Fill every weight as the paper (or the 7B model) starts it. Call it after `to_empty`."""
        for block in self.blocks:
            block.init_weights()
        nn.init.ones_(self.norm.weight)
        return self

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: State | None = None,
        *,
        lengths: Int[Tensor, "B"] | None = None,
        reset: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], State]:
        if x.dim() != 3 or x.shape[-1] != self.config.embedding_dim:
            raise ValueError(f"x must be (B, T, D) with D = {self.config.embedding_dim}, got {tuple(x.shape)}")
        if state is not None and len(state) != len(self.blocks):
            raise ValueError(f"the state is of {len(state)} blocks, the stack has {len(self.blocks)}")
        lengths = check_lengths(lengths, x.shape[0], x.shape[1], x.device)
        reset = check_reset(reset, x.shape[:2], "(B, T)")
        states = []
        for block, before in zip(self.blocks, state or [None] * len(self.blocks), strict=True):
            if self.checkpointing and torch.is_grad_enabled():
                x, after = checkpoint(block, x, before, lengths=lengths, reset=reset, use_reentrant=False)
            else:
                x, after = block(x, before, lengths=lengths, reset=reset)
            states.append(after)
        return self.norm(x), tuple(states)

    def flops(self, steps: int) -> int:
        """Multiplications and additions of one forward pass over one sequence of `steps` steps."""
        return sum(block.flops(steps) for block in self.blocks)


class Loss(NamedTuple):
    """What `xLSTMLM.loss` returns: the mean loss in nats per scored token, and the state after the last input."""

    loss: Float[Tensor, ""]
    state: State


class xLSTMLM(nn.Module):
    """An xLSTM language model: tokens in, logits of the next token out, state in, state out.

    Shapes: tokens (B, T) int, a state or None -> logits (B, T, vocab_size), state.

    >>> model = xLSTMLM(xLSTMConfig.preset("tiny"))
    >>> logits, state = model(torch.tensor([[72, 105]]))
    >>> logits.shape
    torch.Size([1, 2, 256])
    """

    def __init__(self, config: xLSTMConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_dim)
        self.stack = xLSTM(config)
        self.head = nn.Linear(config.embedding_dim, config.vocab_size, bias=False)
        if config.tie_weights:
            self.head.weight = self.embedding.weight
        if not self.embedding.weight.is_meta:
            self._init_ends()

    def init_weights(self) -> "xLSTMLM":
        """Fill every weight as the paper (or the 7B model) starts it. Call it after `to_empty`."""
        self.stack.init_weights()
        self._init_ends()
        return self

    def _init_ends(self) -> None:
        small_init(self.embedding.weight, self.config.embedding_dim)
        if not self.config.tie_weights:
            small_init(self.head.weight, self.config.embedding_dim)

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        state: State | None = None,
        *,
        lengths: Int[Tensor, "B"] | None = None,
        reset: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T vocab"], State]:
        h, state = self.hidden(tokens, state, lengths=lengths, reset=reset)
        return self.logits(h), state

    def hidden(self, tokens, state=None, *, lengths=None, reset=None) -> tuple[Float[Tensor, "B T D"], State]:
        """The vectors that the head reads: `forward` without the head."""
        check_tokens(tokens)
        return self.stack(self.embedding(tokens), state, lengths=lengths, reset=reset)

    def logits(self, h: Float[Tensor, "... D"]) -> Float[Tensor, "... vocab"]:
        """The head: a score for every token of the vocabulary."""
        return soft_cap(self.head(h), self.config.setting("output_logit_soft_cap") or None)

    def loss(
        self,
        tokens: Int[Tensor, "B T"],
        state: State | None = None,
        *,
        lengths: Int[Tensor, "B"] | None = None,
        reset: Bool[Tensor, "B T"] | None = None,
    ) -> Loss:
        """Mean cross-entropy, in nats, of every token but the first given those before it.

        `tokens`, `lengths` and `reset` cover T tokens; the model reads the first T - 1 and is scored on the last
        T - 1. A token past its row's length, or one where `reset` begins a new document, is not scored; where none
        is, the loss is 0.
        """
        check_tokens(tokens)
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        scored = torch.ones_like(targets, dtype=torch.bool)
        reset = check_reset(reset, tokens.shape[:2], "(B, T)")
        lengths = check_lengths(lengths, tokens.shape[0], tokens.shape[1], tokens.device)
        if lengths is not None:
            scored &= torch.arange(1, tokens.shape[1], device=tokens.device) < lengths[:, None]
            lengths = (lengths - 1).clamp(min=0)
        if reset is not None:
            scored &= ~reset[:, 1:]
            reset = reset[:, :-1]
        logits, last = self(inputs, state, lengths=lengths, reset=reset)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, 1)
        targets = targets.masked_fill(~scored, -100).long().flatten()
        total = F.cross_entropy(wide, targets, ignore_index=-100, reduction="sum")
        return Loss(total / scored.sum().clamp(min=1), last)

    def num_parameters(self) -> int:
        """How many weights there are; shared ones count once."""
        return sum(p.numel() for p in self.parameters())

    def flops(self, steps: int) -> int:
        """Multiplications and additions of one forward pass over one sequence of `steps` tokens, head included."""
        return self.stack.flops(steps) + 2 * steps * self.head.weight.numel()

    def summary(self, steps: int = 1024) -> str:
        """A table: what each part weighs, and what `steps` tokens cost."""
        rows = [("embedding", self.embedding.weight.numel(), 0)]
        for i, block in enumerate(self.stack.blocks):
            rows.append((f"block {i}: {block.kind}", sum(p.numel() for p in block.parameters()), block.flops(steps)))
        rows.append(("norm", self.stack.norm.weight.numel(), 0))
        head = 0 if self.config.tie_weights else self.head.weight.numel()
        rows.append(("head" + " (tied)" * self.config.tie_weights, head, 2 * steps * self.head.weight.numel()))
        rows.append(("total", self.num_parameters(), self.flops(steps)))
        lines = [f"{'part':<20} {'weights':>15} {f'FLOPs, {steps} tokens':>22}"]
        return "\n".join(lines + [f"{name:<20} {weights:>15,} {flops:>22,}" for name, weights, flops in rows])

    def save(self, folder) -> None:
        """Write config.json and model.safetensors into `folder`; `longshort.load(folder)` reads them back."""
        from longshort.checkpoints import save  # the one import that goes up: people look for a method

        save(self, folder)


def check_tokens(tokens: Tensor) -> None:
    if tokens.dim() != 2 or tokens.is_floating_point():
        raise ValueError(f"tokens must be whole numbers (B, T), got {tuple(tokens.shape)} of {tokens.dtype}")


def detach(state: State) -> State:
    """The state without its history: what truncated back-propagation through time carries on."""
    return map_state(Tensor.detach, state)


def map_state(f: Callable[[Tensor], Any], state: Any) -> Any:
    """`f` of every tensor in a state, the nesting kept."""
    if isinstance(state, Tensor):
        return f(state)
    if state is None:
        return None
    parts = [map_state(f, part) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
