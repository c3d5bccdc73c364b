"""What `local.ports` promises: consecutive ports, and a taken one named with its holder."""

import os
import socket

import pytest

from local.ports import LOOPBACK, PortBlock, accepts_connections, find_free_port, require_free_port
from shared.errors import ConfigurationError


def test_the_ports_of_a_stack_follow_one_another() -> None:
    block = PortBlock.find({"ESCLUSA_LOCAL_PORT_BASE": "46000"})

    assert (block.aws, block.postgres, block.crm) == (46000, 46001, 46002)


def test_the_default_block_is_used_if_none_is_named() -> None:
    assert PortBlock.find({}) == PortBlock.find({"ESCLUSA_LOCAL_PORT_BASE": ""}) == PortBlock(45660)


@pytest.mark.parametrize(
    "text", ["0", "1023", "65534", "99999", "-1", "4566x", "٤٥٦٦٠", "1e4", " 46000", "46000.0"]
)
def test_a_base_that_is_no_usable_port_is_refused_by_name(text: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"ESCLUSA_LOCAL_PORT_BASE: expected a number from 1024 to 65533"
    ):
        PortBlock.find({"ESCLUSA_LOCAL_PORT_BASE": text})


def test_a_taken_port_is_refused_with_its_purpose_its_holder_and_the_cure() -> None:
    with socket.create_server((LOOPBACK, 0)) as holder:
        port = holder.getsockname()[1]

        with pytest.raises(ConfigurationError) as refusal:
            require_free_port(port, purpose="PostgreSQL")

    message = str(refusal.value)
    assert f"port {port} on 127.0.0.1, wanted for PostgreSQL" in message
    assert f"(pid {os.getpid()})" in message
    assert "ESCLUSA_LOCAL_PORT_BASE" in message


def test_a_port_is_free_again_when_its_holder_has_gone() -> None:
    with socket.create_server((LOOPBACK, 0)) as holder:
        port = holder.getsockname()[1]
        with socket.create_connection((LOOPBACK, port)):
            assert accepts_connections(port)
            holder.accept()[0].close()

    require_free_port(port, purpose="PostgreSQL")
    assert not accepts_connections(port)


def test_a_free_port_can_be_listened_on() -> None:
    port = find_free_port()

    with socket.create_server((LOOPBACK, port)):
        assert accepts_connections(port)
