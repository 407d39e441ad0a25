"""Text: a character-level language model of sites that write about different things.

The text is what Python itself brings, the topics of its `help()`: every site has other topics, and the aggregator
measures on topics that no site has. The loss is in nats a character: 4.6 is a guess among all of them.

fl-simulate --task examples/text.py:task --workers 4 --rounds 10 --lr 1 --batch-size 16

Loss 2.25 after round 10, and the next character is the likeliest one in 43 of 100 cases; one site alone: 3.01, and 36;
all data in one place, which overfits: 2.64, and 42. Fifteen seconds with these comparisons.
"""

import zlib
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from learning import Site, Split, Supervised

CHARACTERS = "".join(map(chr, range(32, 127))) + "\n"
LENGTH = 48
TEST_SHARE = 10
"""One topic of so many is for testing only."""
NUM_CHARACTERS = 24_000
"""Of all sites together, and no more for testing."""


class NextCharacter(nn.Module):
    """Characters (batch, LENGTH) as numbers in, scores (batch, len(CHARACTERS), LENGTH) of those that follow out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(CHARACTERS), 32)
        self.memory = nn.GRU(32, 64, batch_first=True)
        self.scores = nn.Linear(64, len(CHARACTERS))

    def forward(self, characters: Tensor) -> Tensor:
        remembered, _ = self.memory(self.embedding(characters))
        return self.scores(remembered).transpose(1, 2)


def text_of(site: Site) -> str:
    """The topics of this site, as much of them as is its share; of the aggregator's, those for testing."""
    names = sorted(topics)
    testing = names[::TEST_SHARE]
    if site.is_aggregator:
        return "".join(topics[name] for name in testing)[:NUM_CHARACTERS]
    training = [name for name in names if name not in testing]
    num_sites = site.num_sites or 8
    index = zlib.crc32((site.name or "").encode()) % num_sites if site.index is None else site.index
    return "".join(topics[name] for name in training[index::num_sites])[: NUM_CHARACTERS // num_sites]


def data(site: Site) -> Split:
    numbers = {character: number for number, character in enumerate(CHARACTERS)}
    encoded = torch.tensor([numbers.get(character, 0) for character in text_of(site)])
    num_windows = (len(encoded) - 1) // LENGTH
    inputs = encoded[: num_windows * LENGTH].view(num_windows, LENGTH)
    targets = encoded[1 : num_windows * LENGTH + 1].view(num_windows, LENGTH)
    return Split(test=(inputs, targets)) if site.is_aggregator else Split(train=(inputs, targets))


task = Supervised(model=NextCharacter, data=data, loss=cross_entropy)
