"""What every test runs under: eight CPU devices, strict shapes, no network."""

import ipaddress
import os
import socket

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis  # noqa: E402  after the environment that the libraries read
import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)  # a small pod on every laptop
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

# The same examples every time, and no deadline: the machine may be busy.
hypothesis.settings.register_profile("t5sft", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("t5sft")

_connect = socket.socket.connect


def _connect_nearby(self: socket.socket, address):
    """Refuses every address but this machine's: a test that needs the network is not a test."""
    if self.family in (socket.AF_INET, socket.AF_INET6):
        host = address[0]
        try:
            is_near = ipaddress.ip_address(host.partition("%")[0]).is_loopback
        except ValueError:
            is_near = host in ("localhost", "")
        if not is_near:
            raise OSError(f"connection to {address} refused: tests run without a network")
    return _connect(self, address)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", _connect_nearby)


@pytest.fixture
def strict_dtypes():
    with jax.numpy_dtype_promotion("strict"):  # not global: optax.adamw fails under it
        yield
