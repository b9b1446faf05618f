"""Bundle hot swap: follow current.json; fetch, verify, load, encode, rehearse, swap. A bundle that fails is refused.

The served generation stays until the next one has proved itself, and a refused version is tried again only after
a while, or as soon as current.json names another.
"""

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from services.ranking import metrics
from services.ranking.catalogue import Catalogue
from services.ranking.generation import Release
from services.ranking.inference import Inference
from shared import bundle, logs
from shared.errors import DeadlineExceeded, Overloaded, Unavailable
from shared.models import contract
from shared.service import Heartbeat

log = logs.get(__name__)
KEPT: Final = 3


class Swapper:
    def __init__(
        self,
        url: str,
        cache: Path,
        catalogue: Catalogue,
        inference: Inference,
        *,
        space: str,
        retry_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._cache = cache
        self._catalogue = catalogue
        self._inference = inference
        self._space = space
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._refused: tuple[str, float] = ("", 0.0)  # version, not again before

    async def run(self, poll_seconds: float, heart: Heartbeat | None = None) -> None:
        """Look for ever."""
        while True:
            await self.look()
            if heart:
                heart.beat()
            await asyncio.sleep(poll_seconds)

    async def look(self) -> bool:
        """Put the current bundle into service if it is another one; True where it was. Never raises for a bad one."""
        try:
            current = await asyncio.to_thread(bundle.current, self._url)
        except Exception:
            # A torn or foreign current.json, or a store that does not answer: what is served stays.
            metrics.SWAP_FAILURES.inc()
            log.exception("current.json cannot be read", url=self._url)
            return False
        if (
            current is None
            or current.version == self._catalogue.current.release.version
            or self._too_soon(current.version)
        ):
            return False
        return await self._try(current)

    async def _try(self, current: bundle.Current) -> bool:
        started = time.perf_counter()
        try:
            await self._serve(current)
        except (Unavailable, DeadlineExceeded, Overloaded) as error:
            # Not the bundle's fault where a part we need is silent, so it is tried again at the next look.
            metrics.SWAP_FAILURES.inc()
            log.warning("the bundle cannot be put into service yet", version=current.version, error=str(error))
            return False
        except Exception:
            self._refuse(current.version)
            log.exception("the bundle was refused; the old one stays", version=current.version)
            return False
        metrics.SWAPS.inc()
        metrics.SWAP_SECONDS.observe(time.perf_counter() - started)
        await asyncio.to_thread(_prune, self._cache)
        log.info("the bundle is in service", version=current.version, seconds=time.perf_counter() - started)
        return True

    async def _serve(self, current: bundle.Current) -> None:
        fetched = await asyncio.to_thread(bundle.fetch, self._url, current.version, self._cache)
        if fetched.meta.space not in ("", self._space):  # "": it reads no vectors
            raise bundle.BadBundle(f"bundle {current.version} is of space {fetched.meta.space!r}, not {self._space!r}")
        async with self._inference.between():
            model = await self._inference.run(contract.load, fetched.folder, self._inference.device)
        await self._catalogue.build(Release(current.version, model, current.data_timestamp))
        _show(self._catalogue.current.release)

    def _too_soon(self, version: str) -> bool:
        refused, again = self._refused
        return version == refused and self._clock() < again

    def _refuse(self, version: str) -> None:
        metrics.SWAP_FAILURES.inc()
        self._refused = (version, self._clock() + self._retry_seconds)


def _prune(cache: Path) -> None:
    """Keep the newest few fetched bundles: a rollback then needs no download."""
    folders = sorted((path for path in cache.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for path in folders[:-KEPT]:
        shutil.rmtree(path, ignore_errors=True)


def _show(release: Release) -> None:
    metrics.MODEL.clear()
    metrics.MODEL.labels(release.version, release.kind).set(1)
    metrics.MODEL_AGE.set_function(lambda: max(0.0, time.time() - release.data_timestamp))
