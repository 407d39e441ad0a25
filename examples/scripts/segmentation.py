"""Segmentation with MONAI: a small U-Net, Dice loss, and the Dice metric as its sites measure it.

    fl-aggregator --script examples/scripts/segmentation.py --rounds 10 --quorum 3
    fl-worker --script examples/scripts/segmentation.py --name north -- --site north

Needs the extra `examples`. The images are bright disks in noise; a real script reads its site's own.
"""

import argparse
import zlib

import torch
from monai.losses import DiceLoss
from monai.metrics import DiceMetric
from monai.networks.nets import UNet
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fedmq

SIZE = 32


def disks(num_images: int, *, seed: int) -> TensorDataset:
    random = torch.Generator().manual_seed(seed)
    centre = (SIZE / 4 + SIZE / 2 * torch.rand(num_images, 2, 1, 1, generator=random)).unbind(1)
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    masks = ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < (SIZE / 5) ** 2).float().unsqueeze(1)
    return TensorDataset(masks + 0.7 * torch.randn(masks.shape, generator=random), masks)


def dice(model: nn.Module, data: TensorDataset) -> dict[str, float]:
    images, masks = data.tensors
    metric = DiceMetric()
    metric((model(images).sigmoid() > 0.5).float(), masks)
    return {"dice": metric.aggregate().item(), "num_samples": len(data)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--site", default="anywhere", help="whose data")
    arguments = parser.parse_args()

    train_set, test_set = disks(24, seed=zlib.crc32(arguments.site.encode())), disks(32, seed=0)
    loader = DataLoader(train_set, batch_size=8, shuffle=True)
    model = UNet(spatial_dims=2, in_channels=1, out_channels=1, channels=(8, 16), strides=(2,))
    loss_of = DiceLoss(sigmoid=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    for round in fedmq.rounds(model, evaluate=lambda model: dice(model, test_set)):
        for images, masks in loader:
            loss = loss_of(model(images), masks)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if round.cancelled():
                break
        round.send(num_samples=len(train_set), metrics={"loss": loss.item()})


if __name__ == "__main__":
    main()
