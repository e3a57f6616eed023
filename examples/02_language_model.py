"""A language model in a few lines: build, train a little, write, carry the state.

python examples/02_language_model.py
"""

import torch

import longshort
from longshort.data import ByteTokenizer, load_corpus

config = longshort.xLSTMConfig(embedding_dim=64, blocks=("mlstm", "slstm"), vocab_size=256)
model = longshort.xLSTMLM(config)
print(model.summary(steps=128))

tokenizer = ByteTokenizer()
tokens = torch.from_numpy(tokenizer.encode(load_corpus().text[:20_000]))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for step in range(30):
    at = torch.randint(len(tokens) - 65, (16,))
    batch = tokens[at[:, None] + torch.arange(65)]
    loss, _ = model.loss(batch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        print(f"step {step}: {loss.item():.2f} nats")

first, state = model(batch[:, :30])  # any cut gives the same answer, the state carried over it
second, state = model(batch[:, 30:], state)
print(longshort.generate(model, tokenizer, "To be", max_tokens=40))
