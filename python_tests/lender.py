"""A producer of DLPack tensors on any device, which counts its loans: stands in for CuPy and others on a machine without a GPU.

Needs no array library. Its memory is the host's, whatever device it claims.
"""

import ctypes


class Loan(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
        ("flags", ctypes.c_uint64),
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_index", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class Lender:
    """A contiguous float32 tensor. `streams` are those that its consumers named, `returned` the loans that came back."""

    def __init__(self, *shape, device=(1, 0), version=1, flags=0, byte_offset=0, name=b"dltensor_versioned"):
        self.device, self.streams, self.returned, self.name = device, [], 0, name

        def deleter(_):
            self.returned += 1

        count = 1
        for size in shape:
            count *= size
        self.memory = (ctypes.c_float * (count + byte_offset // 4))()
        self.address = ctypes.addressof(self.memory) + byte_offset
        self.shape = (ctypes.c_int64 * len(shape))(*shape)
        self.deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(deleter)
        data = ctypes.addressof(self.memory)
        self.loan = Loan(version, 0, None, self.deleter, flags, data, *device, len(shape), 2, 32, 1, self.shape, None, byte_offset)

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, *, stream=None, max_version=None):
        self.streams.append(stream)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(self.loan), self.name, None)
