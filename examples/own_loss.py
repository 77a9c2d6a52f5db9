"""Without Lightning: the penalty in a loss of your own, a mask on a trained model, a mask for good."""

import timm
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from examples.data import mnist_digits
from pan_callbacks import PaddingBiasPenalty, mask_permanently, masked, scan

images, labels = (values[::4] for values in mnist_digits())  # 1,250 real digits, no download
images = torch.nn.functional.interpolate(images[:, None], 64)
model = timm.create_model("test_resnet", in_chans=1, num_classes=10)
penalty = PaddingBiasPenalty(model, every_n_steps=4, beside_task=True)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

for batch, target in DataLoader(TensorDataset(images, labels), batch_size=50, shuffle=True):
    loss = cross_entropy(model(batch), target) + 0.1 * penalty()  # of the forward just before
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
penalty.detach()

model.eval()
batches = images[:256].split(64)
report = scan(model, batches)
print(report.summary())

with masked(model, report, mode="neutral"):
    print("under the mask:", scan(model, batches).count)

blinded = mask_permanently(model, report)
torch.save(blinded.state_dict(), "blinded.pt")
print("for good:      ", scan(blinded, batches).count)
