"""Ports that nobody has, for a platform of a test's own."""

from __future__ import annotations

import socket


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ports_of_parts() -> dict[str, str]:
    """Settings that keep the parts of a platform off the usual ports, with the addresses that commands ask at."""
    detector, launcher, controller, console = (free_port() for _ in range(4))
    return {
        "FRAUD__DETECTOR__PORT": str(detector),
        "FRAUD__DETECTOR__URL": f"http://127.0.0.1:{detector}",
        "FRAUD__LAUNCHER__PORT": str(launcher),
        "FRAUD__LAUNCHER__URL": f"http://127.0.0.1:{launcher}",
        "FRAUD__ROLLOUT__PORT": str(controller),
        "FRAUD__CONSOLE__PORT": str(console),
    }
