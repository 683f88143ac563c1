"""Collections on the embedded Qdrant engine, in terms of the stock client's own REST models.

One folder holds everything: `state.json` (which collections and aliases there are: the one truth, replaced atomically)
and one shard folder for each collection. The engine's optimizer is never run: it blocks for seconds, and without it a
search scans the shard, which is fast enough for what one machine holds.

What does not belong here: HTTP (`qdrant.py`) and the translation of single requests (`qdrant_wire.py`).
"""

import shutil
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import qdrant_edge as edge
from pydantic import BaseModel, Field
from qdrant_client.http import models as rest

from vision_assets.devstack import qdrant_wire as wire


class CollectionMissing(Exception):
    """There is no collection or alias of that name."""


class CollectionExists(Exception):
    """The name is taken by a collection or an alias."""


class _CollectionState(BaseModel):
    folder: str
    config: rest.CreateCollection
    indexes: dict[str, rest.CreateFieldIndex] = Field(default_factory=dict)


class _State(BaseModel):
    collections: dict[str, _CollectionState] = Field(default_factory=dict)
    aliases: dict[str, str] = Field(default_factory=dict)


class Collections:
    """All collections of one folder. Safe to call from several threads; one process owns the folder."""

    def __init__(self, folder: Path) -> None:
        """Open what is there and drop the shard folders that no collection owns.

        Args:
            folder: Made if absent.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._file = folder / "state.json"
        self._lock = threading.RLock()
        self._state = _State.model_validate_json(self._file.read_bytes()) if self._file.exists() else _State()
        self._dirty: set[str] = set()
        owned = {collection.folder for collection in self._state.collections.values()}
        for orphan in folder.glob("shard-*"):
            if orphan.name not in owned:
                shutil.rmtree(orphan)
        self._shards = {
            name: edge.EdgeShard.load(str(folder / collection.folder))
            for name, collection in self._state.collections.items()
        }

    def _save(self) -> None:
        draft = self._file.with_suffix(".draft")
        draft.write_text(self._state.model_dump_json(exclude_none=True))
        draft.replace(self._file)

    def _name(self, name: str) -> str:
        real = self._state.aliases.get(name, name)
        if real not in self._state.collections:
            raise CollectionMissing(name)
        return real

    def shard(self, name: str) -> Any:
        """Give the engine's shard behind a collection or alias.

        Raises:
            CollectionMissing: Neither a collection nor an alias.
        """
        with self._lock:
            return self._shards[self._name(name)]

    def update(self, name: str, operation: Any) -> None:
        """Apply one operation of the engine; it is in the write-ahead log when this returns."""
        with self._lock:
            real = self._name(name)
            self._dirty.add(real)
            shard = self._shards[real]
        shard.update(operation)

    def exists(self, name: str) -> bool:
        """Tell whether there is a collection or an alias of that name."""
        with self._lock:
            return self._state.aliases.get(name, name) in self._state.collections

    def names(self) -> list[str]:
        """List the collections, without aliases."""
        with self._lock:
            return sorted(self._state.collections)

    def create(self, name: str, config: rest.CreateCollection) -> None:
        """Make an empty collection. A crash on the way leaves nothing but a folder that the next start removes.

        Raises:
            CollectionExists: The name is taken.
        """
        with self._lock:
            if self.exists(name):
                raise CollectionExists(name)
            parameters = wire.edge_config(config)
            folder = f"shard-{uuid4().hex}"
            (self._folder / folder).mkdir()
            shard = edge.EdgeShard.create(str(self._folder / folder), parameters)
            shard.flush()
            self._shards[name] = shard
            self._state.collections[name] = _CollectionState(folder=folder, config=config)
            self._save()

    def delete(self, name: str) -> bool:
        """Remove a collection and its aliases; tell whether there was one."""
        with self._lock:
            collection = self._state.collections.pop(name, None)
            if collection is None:
                return False
            self._state.aliases = {alias: real for alias, real in self._state.aliases.items() if real != name}
            self._save()
            self._dirty.discard(name)
            self._shards.pop(name).close()
            shutil.rmtree(self._folder / collection.folder)
            return True

    def aliases(self, name: str | None = None) -> list[rest.AliasDescription]:
        """List the aliases, of one collection or of all."""
        with self._lock:
            real = None if name is None else self._name(name)
            return [
                rest.AliasDescription(alias_name=alias, collection_name=target)
                for alias, target in sorted(self._state.aliases.items())
                if real in (None, target)
            ]

    def change_aliases(self, actions: list[rest.AliasOperations]) -> None:
        """Apply all actions at once or none, so that an alias never points to nothing between two of them.

        Raises:
            CollectionMissing: A target that does not exist, or an alias to rename that does not.
            CollectionExists: An alias with the name of a collection.
        """
        with self._lock:
            aliases = dict(self._state.aliases)
            for action in actions:
                match action:
                    case rest.CreateAliasOperation(create_alias=create):
                        if create.collection_name not in self._state.collections:
                            raise CollectionMissing(create.collection_name)
                        if create.alias_name in self._state.collections:
                            raise CollectionExists(create.alias_name)
                        aliases[create.alias_name] = create.collection_name
                    case rest.DeleteAliasOperation(delete_alias=delete):
                        aliases.pop(delete.alias_name, None)
                    case rest.RenameAliasOperation(rename_alias=rename):
                        if rename.old_alias_name not in aliases:
                            raise CollectionMissing(rename.old_alias_name)
                        aliases[rename.new_alias_name] = aliases.pop(rename.old_alias_name)
            self._state.aliases = aliases
            self._save()

    def create_index(self, name: str, request: rest.CreateFieldIndex) -> None:
        """Index a payload field."""
        with self._lock:
            self.update(name, wire.create_index(request))
            self._state.collections[self._name(name)].indexes[request.field_name] = request
            self._save()

    def delete_index(self, name: str, field: str) -> None:
        """Drop a payload field's index."""
        with self._lock:
            self.update(name, edge.UpdateOperation.delete_field_index(field))
            self._state.collections[self._name(name)].indexes.pop(field, None)
            self._save()

    def info(self, name: str) -> rest.CollectionInfo:
        """Describe a collection as the server would; the counts are the engine's and exact."""
        with self._lock:
            collection = self._state.collections[self._name(name)]
            shard = self._shards[self._name(name)]
        return wire.collection_info(collection.config, collection.indexes, shard.info())

    def flush(self) -> None:
        """Write changed shards to disk, so that a restart has little of the write-ahead log to replay."""
        with self._lock:  # held while flushing, so that no delete closes the shard meanwhile
            while self._dirty:
                self._shards[self._dirty.pop()].flush()

    def close(self) -> None:
        """Flush and close everything."""
        with self._lock:
            for shard in self._shards.values():
                shard.flush()
                shard.close()
            self._shards.clear()
