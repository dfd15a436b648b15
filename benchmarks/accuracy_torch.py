"""Trains PyTorch Metric Learning on what `accuracy.py` has written.

It runs in an environment of its own, and imports nothing of this project. The
network is the ResNet50 of Keras: the first 1x1 convolution of a block has the
stride, convolutions have biases, and epsilon is 1.001e-5.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from pytorch_metric_learning import losses, miners
from torch import nn

BLOCKS = (3, 4, 6, 3)
MEANS = (103.939, 116.779, 123.68)


class Block(nn.Module):
    """A bottleneck block of the first version of ResNet, as in Keras."""

    def __init__(self, inputs: int, filters: int, stride: int, first: bool):
        super().__init__()
        self.shortcut = (
            nn.Sequential(
                nn.Conv2d(inputs, 4 * filters, 1, stride), norm(4 * filters)
            )
            if first
            else nn.Identity()
        )
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, filters, 1, stride),
            norm(filters),
            nn.ReLU(),
            nn.Conv2d(filters, filters, 3, padding=1),
            norm(filters),
            nn.ReLU(),
            nn.Conv2d(filters, 4 * filters, 1),
            norm(4 * filters),
        )

    def forward(self, x):
        return torch.relu(self.shortcut(x) + self.layers(x))


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1.001e-5)


class Encoder(nn.Module):
    """ResNet50, the sum of average and maximum, a linear head, length 1."""

    def __init__(self, dim: int):
        super().__init__()
        self.stem = nn.Sequential(
            nn.ZeroPad2d(3),
            nn.Conv2d(3, 64, 7, 2),
            norm(64),
            nn.ReLU(),
            # Keras pads with zeros, which a maximum after ReLU does not see.
            nn.MaxPool2d(3, 2, padding=1),
        )
        blocks, inputs = [], 64
        for stage, count in enumerate(BLOCKS):
            filters = 64 * 2**stage
            for block in range(count):
                stride = 2 if stage and not block else 1
                blocks.append(Block(inputs, filters, stride, not block))
                inputs = 4 * filters
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, dim)

    def forward(self, pixels):
        """Embeds `[batch, height, width, 3]` RGB pixels in [0, 1]."""
        x = 255 * pixels.flip(-1) - torch.tensor(MEANS)
        x = self.blocks(self.stem(x.permute(0, 3, 1, 2)))
        pooled = x.mean((2, 3)) + x.amax((2, 3))
        return nn.functional.normalize(self.head(pooled))

    def train(self, mode: bool = True):
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()  # The pretrained statistics stay.
        return self


def load(path: Path) -> Encoder:
    """Builds the encoder with the weights of Keras."""
    with np.load(path) as arrays:
        weights = dict(arrays)
    kernel, bias = _head(weights)
    encoder = Encoder(kernel.shape[1])
    _set_convolution(encoder.stem[1], weights, "conv1_conv")
    _set_norm(encoder.stem[2], weights, "conv1_bn")
    blocks = iter(encoder.blocks)
    for stage, count in enumerate(BLOCKS, 2):
        for number in range(1, count + 1):
            block, name = next(blocks), f"conv{stage}_block{number}"
            if number == 1:
                _set_convolution(block.shortcut[0], weights, f"{name}_0_conv")
                _set_norm(block.shortcut[1], weights, f"{name}_0_bn")
            for index in range(3):
                convolution, batch_norm = block.layers[3 * index :][:2]
                layer = f"{name}_{index + 1}"
                _set_convolution(convolution, weights, f"{layer}_conv")
                _set_norm(batch_norm, weights, f"{layer}_bn")
    encoder.head.weight.data = torch.tensor(kernel.T)
    encoder.head.bias.data = torch.tensor(bias)
    return encoder


def _head(weights):
    """Returns kernel and bias of the only layer that is not the backbone's."""
    names = [
        name.split("/")[0]
        for name in weights
        if name.endswith("/kernel") and not name.startswith("conv")
    ]
    if len(names) != 1:
        raise ValueError(f"There must be one head. Received: {names}")
    kernel = weights[f"{names[0]}/kernel"]
    return kernel, weights.get(
        f"{names[0]}/bias", np.zeros(kernel.shape[1], np.float32)
    )


def _set_convolution(layer, weights, name):
    kernel = weights[f"{name}/kernel"].transpose(3, 2, 0, 1)
    layer.weight.data = torch.tensor(np.ascontiguousarray(kernel))
    layer.bias.data = torch.tensor(weights[f"{name}/bias"])


def _set_norm(layer, weights, name):
    layer.weight.data = torch.tensor(weights[f"{name}/gamma"])
    layer.bias.data = torch.tensor(weights[f"{name}/beta"])
    layer.running_mean.data = torch.tensor(weights[f"{name}/moving_mean"])
    layer.running_var.data = torch.tensor(weights[f"{name}/moving_variance"])


def embed(encoder: Encoder, pixels: np.ndarray, batch: int = 64) -> np.ndarray:
    encoder.eval()
    with torch.no_grad():
        return np.concatenate(
            [
                encoder(torch.tensor(pixels[start : start + batch])).numpy()
                for start in range(0, len(pixels), batch)
            ]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--steps", type=int, required=True)
    args = parser.parse_args()
    encoder = load(args.folder / "weights.npz")
    test = np.load(args.folder / "test.npy")
    expected = np.load(args.folder / "expected.npy")
    found = embed(encoder, test[: len(expected)])
    difference = float(np.abs(found - expected).max())
    print(f"embeddings agree with Keras within {difference:.1e}")
    if difference > 1e-4:
        raise ValueError("The network is not that of Keras.")
    batches = np.load(args.folder / "batches.npy", mmap_mode="r")
    labels = np.load(args.folder / "labels.npy")
    loss, miner = losses.MultiSimilarityLoss(), miners.MultiSimilarityMiner()
    optimizer = torch.optim.Adam(encoder.parameters(), args.rate)
    encoder.train()
    for step in range(args.steps):
        embeddings = encoder(torch.tensor(np.array(batches[step])))
        products = torch.tensor(labels[step])
        value = loss(embeddings, products, miner(embeddings, products))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    np.savez(
        args.output,
        test=embed(encoder, test),
        validation=embed(encoder, np.load(args.folder / "validation.npy")),
    )


if __name__ == "__main__":
    main()
