"""How large the images are, and how soon each is healthy: read-only, without capabilities, as a foreign user.

They must have been built (`docker build --target …`, see Dockerfile); `--tag` says which. Each part runs on the
host's loopback with nothing but a folder for its state, so it also must be healthy with its peers away.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

USER: Final = 12_345
"""Not the user of the images."""
GUARD: Final = (
    *("--network", "host", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--user", f"{USER}:{USER}", "--tmpfs", "/tmp:mode=1777", "--tmpfs", "/state:mode=1777"),  # noqa: S108
    *("--env", "FRAUD_STATE=/state"),
)
HOST: Final = "127.0.0.1"
SECONDS: Final = 120.0
_BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """A process of an image.

    Attributes:
        name: Of the part.
        image: Target of the Dockerfile.
        command: What runs; `{port}` is where it listens.
        variables: Its environment.
        health: Path that answers 200 once it is healthy.
    """

    name: str
    image: str
    command: tuple[str, ...]
    variables: tuple[str, ...] = ()
    health: str = "/health"


PARTS: Final = (
    Part(
        "predictor",
        "predictor",
        ("-m", "serving.predictor", "--bundle", "/mnt/models", "--http_port", "{port}", "--enable_grpc", "false"),
        health="/v2/health/ready",
    ),
    Part(
        "detector",
        "detector",
        ("-m", "detectors"),
        ("FRAUD__DETECTOR__PORT={port}", "FRAUD__DETECTOR__ENGINE=scipy"),
    ),
    Part("launcher", "pipelines", ("-m", "pipelines.launcher"), ("FRAUD__LAUNCHER__PORT={port}",)),
    Part("controller", "console", ("-m", "serving.rollout"), ("FRAUD__ROLLOUT__PORT={port}",)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tag", default="0.1.0")
    parser.add_argument("--bundle", type=Path, required=True, help="For the predictor.")
    parser.add_argument("--starts", type=int, default=5)
    options = parser.parse_args()
    print("| image | unpacked MB | compressed MB | part | healthy after s (median of starts) |")
    print("|---|---|---|---|---|")
    for part in PARTS:
        image = f"fraud-platform-{part.image}:{options.tag}"
        seconds = []
        for _ in range(options.starts):
            with started(part, image, options.bundle) as (_, after):
                seconds.append(after)
        unpacked, compressed = sizes(image)
        took = f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
        print(
            f"| {part.image} | {unpacked / 1e6:.0f} | {compressed / 1e6:.0f} | {part.name} | {took} |", flush=True
        )


@contextmanager
def started(part: Part, image: str, bundle: Path) -> Iterator[tuple[str, float]]:
    """A part in a container; its URL, and after how many seconds it was healthy."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    name = f"fraud-{part.name}-{port}"
    own = [word.format(port=port) for variable in part.variables for word in ("--env", variable)]
    command = [word.format(port=port) for word in part.command]
    with _readable(bundle) as models:
        run = ["run", "--detach", "--name", name, "--volume", f"{models}:/mnt/models:ro", *GUARD, *own, image]
        begin = time.monotonic()
        docker(*run, "python", *command)
        try:
            url = f"http://{HOST}:{port}"
            yield url, _healthy(f"{url}{part.health}", name) - begin
        finally:
            docker("rm", "--force", "--volumes", name)


@contextmanager
def _readable(bundle: Path) -> Iterator[Path]:
    """A copy of a bundle that everybody may read: the original is its owner's."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(bundle, Path(scratch) / "bundle"))
        for path in (Path(scratch), copy, *copy.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield copy


def sizes(image: str) -> tuple[int, int]:
    """Bytes of an image, unpacked and as a registry holds it (gzip)."""
    unpacked = int(docker("image", "inspect", "--format", "{{.Size}}", image))
    pressed, total = zlib.compressobj(6, wbits=31), 0
    with tempfile.NamedTemporaryFile() as saved:
        docker("save", "--output", saved.name, image)
        while block := saved.read(_BLOCK):
            total += len(pressed.compress(block))
    return unpacked, total + len(pressed.flush())


def docker(*arguments: str) -> str:
    """What docker says.

    Raises:
        RuntimeError: It refuses; with what it says of that.
    """
    said = subprocess.PIPE if arguments[0] != "logs" else subprocess.STDOUT
    done = subprocess.run([_docker(), *arguments], stdout=subprocess.PIPE, stderr=said, text=True)
    if done.returncode:
        raise RuntimeError(f"docker {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def _docker() -> str:
    return shutil.which("docker") or "docker"


def _healthy(url: str, name: str) -> float:
    """When it was [s, monotonic]."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and docker("inspect", "--format", "{{.State.Running}}", name) == "true":
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310
                return time.monotonic()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.02)
    raise RuntimeError(f"{url} is not healthy:\n{docker('logs', '--tail', '30', name)}")


if __name__ == "__main__":
    main()
