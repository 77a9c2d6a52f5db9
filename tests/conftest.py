"""What all tests share: one thread, so that a run on a shared machine repeats."""

import torch

torch.set_num_threads(1)
