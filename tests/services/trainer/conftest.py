"""One thread: with more, tests that share cores with others spend their time waiting for each other."""

import torch

torch.set_num_threads(1)
