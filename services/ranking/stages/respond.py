"""Respond: the answer as it travels."""

from itertools import zip_longest

from services.ranking.generation import Generation
from services.ranking.job import Job
from shared.pb.finestream.v1 import ranking_pb2


def respond(jobs: list[Job], generation: Generation) -> None:
    item_ids = generation.facts.item_ids
    for job in jobs:
        items = [
            ranking_pb2.RankedItem(item_id=item_ids[pick.row], score=pick.score, explanation=explanation)
            for pick, explanation in zip_longest(job.picks, job.explanations)
        ]
        job.response = ranking_pb2.RankResponse(
            items=items,
            rung=job.rung,
            rung_reason=job.reason,
            model_version=generation.release.version,
            watermark=job.watermark,
            request_id=job.request_id,
        )


def tell_timings(jobs: list[Job], took: dict[str, float]) -> None:
    """Put the stages' seconds into the answers of those who ask for them; `took` are those of the whole batch."""
    for job in jobs:
        if job.query.timings and job.response is not None:
            job.response.timings.extend(
                ranking_pb2.StageTiming(stage=stage, seconds=seconds) for stage, seconds in (job.seconds | took).items()
            )
