"""The real data of the examples, read from examples/data; SOURCES.md there says where each file is from."""

import lzma
from datetime import datetime, timedelta
from pathlib import Path

import torch
from torch import Tensor


def read(name: str) -> str:
    return lzma.decompress((Path(__file__).parent / "data" / f"{name}.xz").read_bytes()).decode()


def speakers(part: str) -> tuple[list[Tensor], Tensor]:
    """Nine men saying "ae": one (frames, 12) tensor an utterance, 7 to 29 frames long, and who speaks, 0 to 8.

    Part "train" has 270 utterances, 30 of each speaker, one speaker after the other; part "test" has 370.
    """
    utterances, who = [], []
    for line in read(f"japanese-vowels-{part}.ts").split("@data\n")[1].splitlines():
        *channels, label = line.split(":")
        utterances.append(torch.tensor([[float(value) for value in channel.split(",")] for channel in channels]).T)
        who.append(int(label) - 1)
    return utterances, torch.tensor(who)


def temperatures(place: str) -> tuple[list[datetime], Tensor]:
    """A year, hour by hour: the hours (standard time), and degrees Fahrenheit, NaN where the file has none.

    "new-york" is the weather of 2013 as it was. "seattle" is the normal year, every hour an average over 30 years.
    """
    rows = [line.split(",") for line in read(f"{place}-temperatures.csv").splitlines()[1:]]
    degrees = {datetime.strptime(hour, "%Y/%m/%d %H:%M"): float(value) for hour, value in rows}
    first = min(degrees).replace(hour=0)
    hours = [first + timedelta(hours=i) for i in range(24 * ((max(degrees) - first).days + 1))]
    return hours, torch.tensor([degrees.get(hour, float("nan")) for hour in hours])
