"""Memory of JAX's on a GPU, for the results of ops outside of jit (bindings/jax.cpp)."""

import functools

import jax


@functools.lru_cache(maxsize=4096)
def _allocator(num_bytes, device_index):
    """A compiled function that returns memory of this size as JAX's allocator gives it, without filling it where JAX can."""
    device = next(device for device in jax.local_devices(backend="cuda") if device.local_hardware_id == device_index)
    empty = jax.lax.empty if hasattr(jax.lax, "empty") else jax.numpy.zeros
    return jax.jit(lambda: empty((num_bytes,), "uint8"), out_shardings=jax.sharding.SingleDeviceSharding(device))


def allocate(num_bytes, device_index):
    """Sizes are rounded up to one of eight per power of two, so that few are compiled."""
    step = max(1 << max(num_bytes.bit_length() - 4, 0), 256)
    return _allocator(max(-(-num_bytes // step) * step, step), device_index)()
