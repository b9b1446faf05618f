"""Bundle hot swap: follow current.json; fetch, verify, load, encode, rehearse, swap. A bundle that fails is refused.

The served generation stays until the next one has proved itself, and a refused version is tried again only after
a while, or as soon as current.json names another. The bundles that the experiment wants come beside the current one
in the same way; while one of them is missing, its users have the current one.
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Set
from math import inf
from pathlib import Path
from typing import Final

from services.ranking import metrics
from services.ranking.catalogue import Catalogue
from services.ranking.experiments import NO_EXPERIMENT, Experiment
from services.ranking.generation import Release
from services.ranking.inference import Inference
from services.ranking.memory import Memory, TooLarge
from shared import bundle, logs
from shared.errors import DeadlineExceeded, Overloaded, Unavailable
from shared.models import contract
from shared.service import Heartbeat

log = logs.get(__name__)
KEPT: Final = 3
REFUSED: Final = "the bundle was refused; the old one stays"
REFUSED_BESIDE: Final = "the bundle was refused; users of its variant have the current one"


class Swapper:
    def __init__(
        self,
        url: str,
        cache: Path,
        catalogue: Catalogue,
        inference: Inference,
        memory: Memory,
        *,
        space: str,
        retry_seconds: float,
        experiment: Callable[[], Experiment] = lambda: NO_EXPERIMENT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._cache = cache
        self._catalogue = catalogue
        self._inference = inference
        self._memory = memory
        self._space = space
        self._retry_seconds = retry_seconds
        self._experiment = experiment
        self._followed = NO_EXPERIMENT
        self._clock = clock
        self._refused: dict[str, float] = {}  # version -> not again before

    async def run(self, poll_seconds: float, heart: Heartbeat | None = None) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await self.look_beside(heart)
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
        return await self._try(current.version, current=True)

    async def look_beside(self, heart: Heartbeat | None = None) -> None:
        """Put into service what the experiment wants beside the current bundle, and let go of the rest. Never raises
        for a bad one."""
        experiment = self._experiment()
        if experiment is not self._followed:
            await self._follow(experiment)
        for version in sorted(experiment.bundles):
            if heart:
                heart.beat()  # each may take minutes
            if self._catalogue.of(version) is None and not self._too_soon(version):
                await self._try(version, current=False)
        for variant in experiment.variants:
            metrics.VARIANT_READY.labels(variant.name).set(self._catalogue.of(variant.bundle) is not None)

    async def _follow(self, experiment: Experiment) -> None:
        self._followed = experiment
        metrics.VARIANT_READY.clear()
        await self._catalogue.want(experiment.bundles)
        shares = {variant.name: variant.share for variant in experiment.variants}
        log.info("the experiment has changed", name=experiment.name, shares=shares)

    async def _try(self, version: str, *, current: bool) -> bool:
        started = time.perf_counter()
        try:
            await self._serve(version, current)
        except (Unavailable, DeadlineExceeded, Overloaded) as error:
            # Not the bundle's fault where a part we need is silent, so it is tried again at the next look.
            metrics.SWAP_FAILURES.inc()
            log.warning("the bundle cannot be put into service yet", version=version, error=str(error))
            return False
        except (bundle.BadBundle, TooLarge) as error:
            self._refuse(version)
            metrics.BUNDLES_TOO_LARGE.inc(isinstance(error, TooLarge))
            log.error(REFUSED if current else REFUSED_BESIDE, version=version, error=str(error))
            return False
        except Exception:
            self._refuse(version)
            log.exception(REFUSED if current else REFUSED_BESIDE, version=version)
            return False
        metrics.SWAPS.inc()
        metrics.SWAP_SECONDS.observe(time.perf_counter() - started)
        _show(self._catalogue.current.release)
        await asyncio.to_thread(_prune, self._cache, self._experiment().bundles)
        log.info("the bundle is in service", version=version, seconds=time.perf_counter() - started)
        return True

    async def _serve(self, version: str, current: bool) -> None:
        if current and await self._catalogue.promote(version):
            return
        fetched = await asyncio.to_thread(bundle.fetch, self._url, version, self._cache)
        if fetched.meta.space not in ("", self._space):  # "": it reads no vectors
            raise bundle.BadBundle(f"bundle {version} is of space {fetched.meta.space!r}, not {self._space!r}")
        self._memory.afford_model(fetched.folder)
        async with self._inference.between():
            model = await self._inference.run(contract.load, fetched.folder, self._inference.device)
        await self._catalogue.build(Release(version, model, fetched.meta.data_timestamp), current=current)

    def _too_soon(self, version: str) -> bool:
        return self._clock() < self._refused.get(version, -inf)

    def _refuse(self, version: str) -> None:
        metrics.SWAP_FAILURES.inc()
        self._refused[version] = self._clock() + self._retry_seconds


def _prune(cache: Path, wanted: Set[str]) -> None:
    """Keep the newest few fetched bundles beside those wanted: a rollback then needs no download."""
    others = (path for path in cache.iterdir() if path.is_dir() and path.name not in wanted)
    folders = sorted(others, key=lambda path: path.stat().st_mtime)
    for path in folders[:-KEPT]:
        shutil.rmtree(path, ignore_errors=True)


def _show(release: Release) -> None:
    metrics.MODEL.clear()
    metrics.MODEL.labels(release.version, release.kind).set(1)
    metrics.MODEL_AGE.set_function(lambda: max(0.0, time.time() - release.data_timestamp))
