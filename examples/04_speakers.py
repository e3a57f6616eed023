"""Who speaks? Nine men say "ae", 7 to 29 frames long: ragged sequences, padded into one batch with their lengths.

A bidirectional sLSTM and a bidirectional LSTM, beside logistic regression on the mean frame of each third. Whatever is
chosen is chosen on utterances held out of the training set; the test set, spoken on other occasions, is used once.

python examples/04_speakers.py
"""

import torch
from real_data import speakers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

import longshort

utterances, who = speakers("train")
frames = torch.cat(utterances)


def padded(utterances: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(B, T, 12), scaled as the training set's frames, and how many frames of each row there are."""
    x = [(u - frames.mean(0)) / frames.std(0) for u in utterances]
    return pad_sequence(x, batch_first=True), torch.tensor([len(u) for u in utterances])


class Speaker(nn.Module):
    """Reads both ways, averages over the frames that are there, names one of nine."""

    def __init__(self, kind: type, width: int):
        super().__init__()
        self.rnn = kind(12, width, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * width, 9)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        y, _ = self.rnn(x, lengths=lengths)  # each row is read backwards from its own end; beyond it y is 0
        return self.out(y.sum(1) / lengths[:, None])


def train(kind: type, width: int, x: Tensor, lengths: Tensor, who: Tensor, seed: int = 0, epochs: int = 40) -> Speaker:
    torch.manual_seed(seed)
    model = Speaker(kind, width)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=epochs * -(-len(x) // 64))
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            noisy = x[rows] + 0.6 * torch.randn_like(x[rows])  # there are few utterances: make each a little different
            loss = cross_entropy(model(noisy, lengths[rows]), who[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def thirds(utterances: list[Tensor]) -> Tensor:
    """What needs no recurrence: the mean frame of the first, second and last third, and a 1."""
    x, lengths = padded(utterances)
    means = [torch.cat([part.mean(0) for part in u[:n].tensor_split(3)]) for u, n in zip(x, lengths, strict=True)]
    return nn.functional.pad(torch.stack(means), (0, 1), value=1.0)


def logistic(penalty: float, x: Tensor, who: Tensor) -> Tensor:
    weights = torch.zeros(x.shape[1], 9, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(x @ weights, who, reduction="sum") + penalty * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    return weights.detach()


# Each model's one setting is chosen on the last six of everyone's thirty utterances; then it is trained on all thirty.
x, lengths = padded(utterances)
means = thirds(utterances)
kept = torch.arange(len(who)) % 30 < 24


@torch.no_grad()
def held_out_loss(model: Speaker) -> float:
    return cross_entropy(model(x[~kept], lengths[~kept]), who[~kept]).item()


def best_width(kind: type) -> int:
    return min((32, 64), key=lambda width: held_out_loss(train(kind, width, x[kept], lengths[kept], who[kept])))


penalty = min(
    (0.01, 0.1, 1.0), key=lambda p: cross_entropy(means[~kept] @ logistic(p, means[kept], who[kept]), who[~kept]).item()
)
widths = {kind: best_width(kind) for kind in (longshort.LSTM, longshort.sLSTM)}

unheard, truth = speakers("test")


def report(name: str, *tries: Tensor) -> None:
    right = [int((scores.argmax(-1) == truth).sum()) for scores in tries]
    accuracy = sum(right) / len(right) / len(truth)
    print(f"{name:34} {accuracy:.1%} right: {', '.join(map(str, right))} of {len(truth)}")


report(f"logistic regression, penalty {penalty}", thirds(unheard) @ logistic(penalty, means, who))
for kind, width in widths.items():
    models = [train(kind, width, x, lengths, who, seed) for seed in range(3)]
    report(f"bidirectional {kind.__name__}, width {width}", *(model(*padded(unheard)) for model in models))
