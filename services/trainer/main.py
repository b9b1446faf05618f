"""The trainer: read the archive, train, compare, publish a bundle. A job: it ends, with 0 when it has published."""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console

from services.trainer import pipeline, report
from services.trainer.settings import TrainerSettings
from shared import archive, bundle, logs, settings, space, topics
from shared.graph.checks import Checks
from shared.jobs import end
from shared.models import log_store
from shared.models.dataset import Logged
from shared.service import WrongSetting, space_of

TOPICS = (topics.INTERACTIONS, topics.OPINIONS, topics.ITEMS, topics.ITEM_SEMANTICS, topics.ERASURES)

log = logs.get(__name__)


def main() -> None:
    """Exit codes: 0 published; 1 nothing could be learnt or the archive cannot be read; 2 a wrong setting."""
    if sys.argv[1:]:
        end(f"the trainer takes no arguments ({' '.join(sys.argv[1:])}); its settings are FINESTREAM_TRAINER_*", 2)
    chosen = settings.read(TrainerSettings)
    logs.configure("trainer", chosen.log_level)
    log.info("settings", **settings.masked(chosen))
    try:
        run(chosen, space_of(chosen.space))
    except WrongSetting as error:
        end(str(error), 2)
    except pipeline.NothingToLearn as error:
        end(str(error), 1)
    except (archive.BadArchive, OSError) as error:
        end(f"the archive or the bundles' store cannot be used: {error}", 1)


def run(chosen: TrainerSettings, defined: space.Space) -> str:
    """One training from archive to published bundle; answers the version, empty in a process that helped."""
    started = time.monotonic()
    # Not torch's default: where cores are shared, as in `finestream demo`, threads that wait for each other made the
    # same job six times slower than one.
    torch.set_num_threads(chosen.threads)
    reflected = archive.offsets(
        chosen.archive.url, space=defined.name
    )  # before reading: what is read reflects at least these
    with tempfile.TemporaryDirectory(prefix="finestream-log-") as spool:  # gone with the job, users' data and all
        checks = Checks(defined)
        found = (event for event, _ in archive.events_of(chosen.archive.url, TOPICS, space=defined.name))
        events = (event for event in found if checks.problem(event) is None)
        read = log_store.write(Path(spool), events, defined.name)
        log.info("log read", interactions=read.interactions, users=read.user_count, items=read.item_count)
        outcome = pipeline.train(read, defined, chosen)
        meta = meta_of(outcome, read, reflected)
    if chosen.rank:  # the first process publishes for all
        return ""
    outcome.report["seconds"] = round(time.monotonic() - started, 1)
    version = publish(outcome, meta, chosen)
    Console().print(report.table(outcome.report))
    log.info(
        "published", version=version, kind=outcome.report["published"], seconds=outcome.report["seconds"],
        ndcg_at_10=outcome.report["model"]["ndcg@10"],
    )  # fmt: skip
    return version


def meta_of(outcome: pipeline.Outcome, read: Logged, reflected: dict[str, dict[int, int]]) -> bundle.Meta:
    """What the bundle says of itself."""
    return bundle.Meta(
        kind=outcome.model.kind,
        space=outcome.model.space,
        data_from=read.times[0],
        data_timestamp=read.newest,
        metrics=outcome.report,
        offsets=reflected,
    )


def publish(outcome: pipeline.Outcome, meta: bundle.Meta, chosen: TrainerSettings) -> str:
    """Model, item table and report, as one bundle."""
    with tempfile.TemporaryDirectory(prefix="finestream-bundle-") as temporary:
        folder = Path(temporary)
        outcome.model.save(folder)
        outcome.table.save(folder)
        (folder / "report.json").write_text(json.dumps(outcome.report, indent=2) + "\n")
        (folder / "report.md").write_text(report.markdown(outcome.report))
        return bundle.publish(chosen.bundles.url, folder, meta, chosen.keep, current=chosen.current)


if __name__ == "__main__":
    main()
