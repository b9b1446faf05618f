"""Respond: the answer as it travels."""

from itertools import zip_longest
from typing import Any

from services.ranking import pages
from services.ranking.generation import Generation
from services.ranking.job import Job, Pick
from shared.pb.finestream.v1 import ranking_pb2


def respond(jobs: list[Job], generation: Generation) -> None:
    item_ids = generation.facts.item_ids
    for job in jobs:
        job.item_ids = [item_ids[pick.row] for pick in job.picks]
        # Not a message each, which would be copied into the answer: that takes twice the time.
        items: list[dict[str, Any]] = [
            {"item_id": item_id, "score": pick.score, "explanation": explanation}
            for item_id, pick, explanation in zip_longest(job.item_ids, job.picks, job.explanations)
        ]
        if job.policy or job.pinned:
            for item, pick in zip(items, job.picks, strict=True):
                _tell_place(item, pick, job)
        job.response = ranking_pb2.RankResponse(
            items=items,
            rung=job.rung,
            rung_reason=job.reason or job.detour,
            model_version=generation.release.version,
            watermark=job.watermark,
            request_id=job.request_id,
            policy=job.policy,
            variant=job.variant,
            next_page_token=_next_page(job),
        )


def _tell_place(item: dict[str, Any], pick: Pick, job: Job) -> None:
    item["placement"] = pick.placement
    if job.policy:
        item["propensity"] = pick.propensity


def _next_page(job: Job) -> str:
    if not job.query.paged or len(job.picks) < job.query.k:
        return ""
    return pages.token(job.query.user_id, [*job.query.shown, *job.item_ids])


def tell_timings(jobs: list[Job], took: dict[str, float]) -> None:
    """Put the stages' seconds into the answers of those who ask for them; `took` are those of the whole batch."""
    for job in jobs:
        if job.query.timings and job.response is not None:
            job.response.timings.extend(
                ranking_pb2.StageTiming(stage=stage, seconds=seconds) for stage, seconds in (job.seconds | took).items()
            )
