"""Filter: what the request excludes, its categories and bounds of the price, what the user has seen or was shown on
earlier pages.

Select leaves out what is withdrawn.
"""

from services.ranking.facts import Facts
from services.ranking.job import Job


def narrow(jobs: list[Job], facts: Facts) -> None:
    """Fill in `banned` and `within`; where only few rows are ranked, take the banned ones out of `rows`."""
    for job in jobs:
        excluded = (facts.row_of.get(item_id) for item_id in (*job.query.excludes, *job.query.shown))
        job.banned = {row for row in excluded if row is not None}
        if not job.query.include_seen:
            job.banned.update(job.history)
        job.within = facts.costing(*job.query.prices) if job.query.prices else None
        if job.query.categories:
            _categorise(job, facts)
        if job.rows is not None:
            job.rows = job.rows - job.banned


def _categorise(job: Job, facts: Facts) -> None:
    mask = facts.mask_in(job.query.categories)
    if mask is not None:
        job.within = mask if job.within is None else mask & job.within
    else:
        members = facts.rows_in(job.query.categories)
        job.rows = members if job.rows is None else job.rows & members
