"""Source: what is ranked: the request's candidates that have a row, or the whole catalogue."""

from services.ranking.facts import Facts
from services.ranking.job import Job


def find(jobs: list[Job], facts: Facts) -> None:
    for job in jobs:
        if job.query.candidates:
            rows = (facts.row_of.get(item_id) for item_id in job.query.candidates)
            job.rows = {row for row in rows if row is not None}
