"""Where each stage keeps its files: the one place that knows the workspace's layout (docs/workspace.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import UserError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class Workspace:
    root: Path

    @property
    def manifest(self) -> Path:
        return self.root / "manifest"

    @property
    def clips(self) -> Path:
        return self.root / "clips"

    def captions(self, name: str) -> Path:
        """Of the set of that name; module:ClassName lies in module.ClassName."""
        return self.root / "captions" / checked_name("caption set", name.replace(":", "."))

    def features(self, name: str) -> Path:
        return self.root / "features" / checked_name("encoder", name)

    def guide(self, name: str) -> Path:
        return self.root / "guides" / checked_name("guide", name)

    def run(self, name: str) -> Path:
        return self.root / "runs" / checked_name("run", name)


def checked_name(what: str, name: str) -> str:
    """A name that becomes a folder: letters, digits and ._+- only, so that it stays where it belongs."""
    if not NAME.fullmatch(name):
        raise UserError(f"{what} name {name!r} is not usable: letters, digits, '.', '_', '+', '-', no leading dot")
    return name


def shard_name(shard: int) -> str:
    return f"{shard:06d}.tar"
