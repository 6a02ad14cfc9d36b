"""What answers changes while it is asked: passages of the index come and go, and the model is swapped for another.

In: a running service. Out: the lineages that existed, for whoever judges the answers.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

from drill import Service
from harness import ROOT

_PASSAGE = "drill-passage"


class Changes:
    """Changes a service every `--swap-every` seconds.

    Args:
        of: the service; what it knows of versions is kept up to date.
        args: the options of the drill.
        store: of the changing index; None: it does not change.
    """

    def __init__(self, of: Service, args: argparse.Namespace, store: Path | None) -> None:
        self._of, self._args, self._store = of, args, store
        self.updates = 0
        self.swaps = 0
        self.failed: list[str] = []  # swaps that did not succeed, by what they said

    async def run(self, until: float) -> None:
        """Until then, beginning after one interval."""
        turn = 0
        while time.monotonic() + 2 * self._args.swap_every < until:
            await asyncio.sleep(self._args.swap_every)
            if self._store is not None:
                await asyncio.to_thread(self._change_index, self._store, turn % 2 == 0)
            if self._args.swap_to is not None:
                await self._swap([self._args.swap_to] if turn % 2 == 0 else [])
            turn += 1

    def told(self) -> str:
        """What was done, for the record."""
        updates = f"; {self.updates} changes of the index" if self._store is not None else ""
        swaps = f"; {self.swaps} swaps to {self._args.swap_to} and back" if self._args.swap_to is not None else ""
        return updates + swaps

    def _change_index(self, root: Path, comes: bool) -> None:
        from ragray.retrieval.store import IndexStore
        from ragray.schema import Passage

        store = IndexStore(root)
        passage = Passage(_PASSAGE, "What is a drill?", "An exercise under load.", "en", "drill.jsonl", "faq")
        store.update([passage] if comes else [], [] if comes else [_PASSAGE])
        opened = store.open()
        self._of.known.indexes.append({"index": opened.digest, "index_version": str(store.version)})
        self.updates += 1

    async def _swap(self, overrides: list[str]) -> None:
        """Have the service answer from the run with some overrides, as users do."""
        from ragray.config_loading import load_config
        from ragray.serve.app import served_by

        store = None if self._store is None else str(self._store)
        lineage = dict(served_by(load_config(self._args.config, overrides), store).lineage)
        del lineage["index"]
        if lineage not in self._of.known.releases:
            self._of.known.releases.append(lineage)
        sets = [*overrides, *([] if store is None else [f"serve.index_store={store}"])]
        command = [sys.executable, "-m", "ragray.cli", "serve", "--swap", "--config", self._args.config]
        command += ["--port", str(self._of.port), *(word for one in sets for word in ("--set", one))]
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        swapped = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, "PYTHONPATH": paths},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await swapped.communicate()
        if swapped.returncode:
            self.failed.append(f"a swap failed: {said.decode(errors='replace')[-500:]}")
        else:
            self.swaps += 1
