"""The Hugging Face Hub: sets are read as from an object store, and published in commits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from synthgen.common.errors import SynthgenError
from synthgen.storage.object_store import ObjectStore
from synthgen.storage.outlet import Outlet

if TYPE_CHECKING:
    from upath import UPath


class Hub(ObjectStore):
    """See ``Store``."""

    def names(self, text: str) -> bool:
        return text.startswith("hf://")

    def holds(self, place: object) -> TypeGuard[UPath]:
        return super().holds(place) and place.protocol == "hf"

    def check_writable(self, directory: UPath) -> None:
        raise SynthgenError(
            f"{directory}: the Hub cannot be written to shard by shard; write to a folder or an object store, then"
            " use synthgen publish"
        )

    def outlet(self, text: str, *, source: Path, public: bool) -> Outlet:
        from synthgen.storage.hub_outlet import hub

        return hub(text, public=public)


HUB = Hub()
