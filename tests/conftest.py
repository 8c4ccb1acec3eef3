"""One torch thread in the test process, as on each rank: two test runs on two cores do not fight."""

import torch

torch.set_num_threads(1)
