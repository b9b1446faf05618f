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
        members, job.within = facts.narrowed(job.query.categories, job.query.prices)
        if members is not None:
            job.rows = members if job.rows is None else job.rows & members
        if job.rows is not None:
            job.rows = job.rows - job.banned
