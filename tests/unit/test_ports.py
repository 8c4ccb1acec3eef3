"""The port of the ranks' store: free, and none that the system gives to others."""

import socket
from pathlib import Path

import pytest

from jobs import ports


def test_it_is_free_and_not_the_systems_to_give() -> None:
    lowest_given = int(ports.RANGE.read_text().split()[0])
    found = {ports.store_port() for _ in range(50)}
    assert len(found) > 1
    if lowest_given > ports.LOWEST:
        assert all(ports.LOWEST <= port < lowest_given for port in found)
    for port in found:
        socket.create_server(("", port)).close()


def test_a_port_in_use_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(ports, "LOWEST", port)
        monkeypatch.setattr(ports, "RANGE", tmp_path / "range")
        (tmp_path / "range").write_text(f"{port + 1}\t65535\n")  # one port of our own, and it is taken
        assert ports.store_port() != port
    assert ports.store_port() == port


@pytest.mark.parametrize("text", ["1024 65535", "what", None])
def test_where_there_is_none_the_system_chooses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    monkeypatch.setattr(ports, "RANGE", tmp_path / "range")
    if text is not None:
        (tmp_path / "range").write_text(text)
    socket.create_server(("", ports.store_port())).close()
