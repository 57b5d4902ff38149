"""The little that the demo asks of an array framework. Everything else is flashinfer's."""

import time

import numpy as np


class NumPy:
    """NumPy alone: float32 by default, since NumPy multiplies 16-bit matrices element by element."""

    device = "cpu"

    def __init__(self, dtype="float32"):
        if dtype == "bfloat16":
            import ml_dtypes

            self.dtype = np.dtype(ml_dtypes.bfloat16)
        else:
            self.dtype = np.dtype(dtype)

    def weight(self, array):
        """A parameter of the model, from a float32 or checkpoint array."""
        return np.ascontiguousarray(array).astype(self.dtype, copy=False)

    def index(self, values):
        return np.asarray(values, dtype=np.int32)

    def array(self, values, dtype):
        return np.asarray(values, dtype=dtype)

    def empty(self, *shape):
        return np.empty(shape, self.dtype)

    def linear(self, x, weight):
        """x @ weight.T, weight as checkpoints store it: [out, in]."""
        if self.dtype.itemsize == 2:
            return (x.astype(np.float32) @ weight.T.astype(np.float32)).astype(self.dtype)
        return x @ weight.T

    def rows(self, table, ids):
        return np.ascontiguousarray(table[ids])

    def to_numpy(self, x):
        return np.asarray(x, dtype=np.float32)

    def clock(self):
        return time.perf_counter()

    def seconds(self, begin, end):
        return end - begin


class Torch:
    def __init__(self, dtype="bfloat16", device="cpu"):
        import torch

        self.torch, self.device = torch, torch.device(device)
        self.dtype = getattr(torch, dtype)
        torch.set_grad_enabled(False)

    def weight(self, array):
        tensor = array if self.torch.is_tensor(array) else self.torch.from_numpy(np.ascontiguousarray(array))
        return tensor.to(self.device, self.dtype).contiguous()

    def index(self, values):
        return self.torch.from_numpy(np.asarray(values, dtype=np.int32)).to(self.device, non_blocking=True)

    def array(self, values, dtype):
        return self.torch.from_numpy(np.asarray(values, dtype=dtype)).to(self.device, non_blocking=True)

    def empty(self, *shape):
        return self.torch.empty(shape, dtype=self.dtype, device=self.device)

    def linear(self, x, weight):
        return self.torch.nn.functional.linear(x, weight)

    def rows(self, table, ids):
        return table[ids]

    def to_numpy(self, x):
        return x.float().cpu().numpy()

    def clock(self):
        """A point in time: on a GPU an event in the stream, so that timing does not stall it."""
        if self.device.type == "cpu":
            return time.perf_counter()
        event = self.torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin, end):
        if self.device.type == "cpu":
            return end - begin
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3
