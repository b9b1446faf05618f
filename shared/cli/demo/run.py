"""The demo's steps, in order: start, stream, drain, train, rank, load and probe, show live, verify, stop."""

import asyncio
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shared import topics
from shared.cli.demo import freshness, scrape, taste, training
from shared.cli.demo.dataset import Census, DataSet
from shared.cli.demo.drain import until_drained
from shared.cli.demo.freshness import Load
from shared.cli.demo.live import Complaint, Live, Newcomer, NewItem, figures
from shared.cli.demo.session import Session, started, unless_a_part_fails
from shared.cli.demo.summary import Summary
from shared.cli.screen import Screen
from shared.cli.tables import named, ranking_of, table
from shared.graph import fold
from shared.local import verify
from shared.local.ledger import send_all
from shared.local.verify import Accounts, Archived

SHOWN_USERS = 5
EQUAL_SECONDS = 30.0
GRAPH = "graph_updater"


@dataclass(frozen=True)
class Options:
    """What the command line chose."""

    data: DataSet
    load: Load = field(default_factory=Load)
    keep: Path | None = None  # folder for data and logs; None: a temporary one
    json: Path | None = None


async def run(options: Options, screen: Screen) -> int:
    """The exit code: 0 only if nothing is lost, the states are equal and the live checks hold.

    Raises PartFailed or DemoFailed when the demo cannot go on.
    """
    screen.heading("starting the system: embedded broker and five services, as processes")
    async with started(screen, options.keep) as (session, supervisor):
        demo = Demo(session, options)
        await unless_a_part_fails(supervisor, demo.run())
    demo.summary.problems += session.unclean
    demo.finish()
    if options.json is not None:
        options.json.write_text(json.dumps(demo.summary.as_dict(), indent=2) + "\n")  # at the end
    return 0 if not demo.summary.problems else 1


class Demo:
    """One run over one session; each step writes what it found into the summary."""

    def __init__(self, session: Session, options: Options) -> None:
        self.summary = Summary(options.data.name)
        self._session = session
        self._screen = session.screen
        self._options = options
        self._census = Census()

    async def run(self) -> None:
        for step in (self._stream, self._train, self._rank, self._probe, self._live, self._verify):
            before = self._screen.seconds
            await step()
            self.summary.seconds[step.__name__.strip("_")] = round(self._screen.seconds - before, 1)

    def finish(self) -> None:
        """The last words."""
        self.summary.seconds["total"] = round(self._screen.seconds, 1)
        for problem in self.summary.problems:
            self._screen.note(f"does not hold: {problem}")
        self._screen.heading("done: everything holds" if not self.summary.problems else "done, but see above")

    # --- the data set -----------------------------------------------------------------------------------

    async def _stream(self) -> None:
        data, screen, session = self._options.data, self._screen, self._session
        screen.heading(f"streaming {data.name}: {data.total} events")
        with screen.progress("sent", data.total) as bar:
            await send_all(session.producer, session.ledger, self._census.passing(data.read()), bar.at)
        await self._drained("reviews answered")
        found, accounts = await self._accounts()
        summary, census = self.summary, self._census
        summary.interactions_in, summary.reviews_in = census.interactions, census.reviews
        summary.items_in = census.sent[topics.ITEMS]
        summary.note_data_set(found, accounts)
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary.dead_letter_reasons.items()) or "none"
        screen.note(
            f"in: {summary.interactions_in} interactions, {summary.reviews_in} reviews, {summary.items_in} items;"
            f" {summary.opinions} reviews read, {summary.opinion_pairs} opinions found; dead letters: {reasons};"
            f" {summary.users} users and {summary.items} items known"
        )

    async def _drained(self, title: str) -> None:
        session = self._session
        await until_drained(session.watch, session.archive_url, session.ledger, self._screen, title)

    async def _accounts(self) -> tuple[Archived, Accounts]:
        session = self._session
        found = await asyncio.to_thread(verify.read, session.archive_url, space=session.watch.space)
        letters = [letter async for letter in session.watch.letters()]
        return found, verify.account(session.ledger, found, letters)

    # --- the model --------------------------------------------------------------------------------------

    async def _train(self) -> None:
        self._screen.heading("training on the archive, and comparing on a split by time")
        trained = await training.train(self._session)
        self.summary.trained = trained
        swap = await training.until_served(self._session, trained.version)
        self._screen.console.print(training.table(trained.report))
        self._screen.note(
            f"published {trained.kind} as {trained.version} after {trained.seconds} s; served {swap} s later"
        )

    async def _rank(self) -> None:
        self._screen.heading("rankings, and why")
        for user in self._census.spread_of_users(SHOWN_USERS):
            ranking = ranking_of(user, await self._session.client.rank(user))
            self.summary.rankings.append(ranking)
            self._screen.console.print(table(ranking, self._census.titles))
        if self._options.data.catalogue is not None:
            await self._taste()

    async def _taste(self) -> None:
        assert self._options.data.catalogue is not None
        learnt = await taste.measure(self._session.client, self._options.data.catalogue)
        self.summary.taste = learnt
        self._screen.note(
            f"taste of {learnt.users} generated users: {learnt.hit_rate:.0%} of their top 10 lie in the category that"
            f" they truly love (popular items: {learnt.popular:.0%}, chance: {learnt.chance:.0%}); in what they"
            f" care about those score {learnt.suits_ranked:+.2f}, the category as a whole {learnt.suits_category:+.2f}"
        )
        if not learnt.holds:
            self.summary.problems.append("the generated users' taste was not learnt")

    # --- freshness --------------------------------------------------------------------------------------

    async def _probe(self) -> None:
        load, session, screen = self._options.load, self._session, self._screen
        screen.heading(f"freshness: probes under a load of {load.rate:g} events/s for {load.seconds:g} s")
        url = session.system.ports.metrics_url(GRAPH)
        before = await scrape.freshness(url)
        items = list(self._census.items)
        with screen.progress("seconds", int(load.seconds)) as bar:
            probes = await freshness.measure(session.client, session.producer, session.ledger, items, load, bar.at)
        after = await scrape.freshness(url)
        await self._drained("reviews answered")
        delays = await asyncio.to_thread(probes.delays, session.archive_url)
        measured: dict[str, Any] = {kind: freshness.figures(found) for kind, found in delays.items()}
        measured |= {"late": probes.late.total(), "load": asdict(load)}
        measured["load"]["reached"] = round(probes.load_sent / probes.load_seconds, 1)
        measured["graph_updater"] = {
            kind: freshness.histogram_figures(histogram.minus(before.get(kind, scrape.Histogram({}))))
            for kind, histogram in after.items()
        }
        self.summary.freshness = measured
        self._say_freshness(measured)

    def _say_freshness(self, measured: dict[str, Any]) -> None:
        for kind in ("interaction", "review"):
            seen, own = measured[kind], measured["graph_updater"].get(kind, {})
            self._screen.note(
                f"{kind} to visible ranking: p50 {seen['p50']} s, p95 {seen['p95']} s ({seen['probes']} probes); the"
                f" service's own histogram: p50 {own.get('p50')} s, p95 {own.get('p95')} s"
            )
        self._screen.note(f"load reached: {measured['load']['reached']} events/s")
        if measured["late"]:
            self.summary.problems.append(f"{measured['late']} probes were not reflected within their deadline")

    # --- live -------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        self._screen.heading("live")
        session, users = self._session, self._census.spread_of_users(SHOWN_USERS)
        live = Live(session.client, session.ledger)
        states = await session.client.users(users[:1])
        clicked = list(dict.fromkeys(slot.item_id for slot in states[users[0]].interactions))[:2]
        self._newcomer(await live.newcomer(clicked))
        self._complaint(await live.complaint(users[len(users) // 2]))
        self._new_item(await live.new_item(self._census.praise[-1], len(self._census.items)))

    def _newcomer(self, shown: Newcomer) -> None:
        self._note("newcomer", shown)
        titles = self._census.titles
        self._screen.note(
            f"a user never seen clicks {' and '.join(named(item, titles) for item in shown.clicked)}:"
            f" rung {shown.before['rung']} -> {shown.after['rung']}, {shown.moved} of the first"
            f" {len(shown.after['items'])} places are other items {shown.seconds} s later"
        )
        self._screen.console.print(table(shown.after, titles))

    def _complaint(self, shown: Complaint) -> None:
        self._note("complaint", shown)
        self._screen.note(
            f"{shown.user} complains about {named(shown.item, self._census.titles)}: “{shown.text}”; read as"
            f" {', '.join(shown.understood) or 'nothing'}; {shown.seconds} s later {len(shown.moves)} items have moved:"
        )
        for move in shown.moves[:5]:
            self._screen.note(
                f"  {named(move['item'], self._census.titles)}: {move['from'] or 'below'} -> {move['to']}"
            )

    def _new_item(self, shown: NewItem) -> None:
        self._note("new_item", shown)
        self._screen.note(
            f"a new item, “{shown.title}”, is ranked {shown.seconds_to_rank} s after it was published and its"
            f" review counts after {shown.seconds_to_review} s: place {shown.place} of {shown.of} for {shown.user}"
        )

    def _note(self, name: str, shown: Newcomer | Complaint | NewItem) -> None:
        self.summary.live[name] = figures(shown)
        if not shown.holds:
            self.summary.problems.append(f"live: {name}")

    # --- the truth --------------------------------------------------------------------------------------

    async def _verify(self) -> None:
        self._screen.heading("verifying: every id sent, and live state = fold of the archive")
        session, summary = self._session, self.summary
        await self._drained("reviews answered")
        found, accounts = await self._accounts()
        users = await verify.differing(found.users, session.client.users, fold.same_user, EQUAL_SECONDS)
        items = await verify.differing(found.items, session.client.items, fold.same_item, EQUAL_SECONDS)
        summary.note_end(accounts, len(found.users) + len(found.items), [*users, *items])
        summary.sent_besides = {
            topic: len(ids) - self._census.sent[topic] for topic, ids in session.ledger.sent.items()
        }
        sent = sum(len(ids) for ids in session.ledger.sent.values())
        self._screen.note(f"lost: {summary.lost} of {sent} ids sent")
        self._screen.note(
            f"live state = fold of the archive: {'yes' if summary.states_equal else 'NO'},"
            f" {len(found.users)} users and {len(found.items)} items compared"
        )
