"""What the views need."""

from __future__ import annotations

from dataclasses import dataclass

from fraudkit.bundle_store import BundleStore
from fraudkit.settings import Settings
from serving.console.peers import Peers


@dataclass(frozen=True, slots=True)
class Console:
    """What the views need.

    Attributes:
        settings: All of them.
        peers: The other parts.
        bundles: Where models are.
    """

    settings: Settings
    peers: Peers
    bundles: BundleStore
