"""`finestream publish`: one event through the gateway."""

import time
import uuid
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from shared.cli.running import run
from shared.client import ClientSettings, connect
from shared.events import Interaction, Item, Review
from shared.pb.finestream.v1.position_pb2 import Position
from shared.settings import read

app = typer.Typer(no_args_is_help=True, help="Publish one event through the gateway.")
User = Annotated[str, typer.Argument(help="user id")]
ItemId = Annotated[str, typer.Argument(help="item id")]


@app.command(epilog="Example: finestream publish click alice B003VWJ2K8")
def click(user: User, item: ItemId, kind: Annotated[str, typer.Option(help="what happened")] = "click") -> None:
    """A user met an item."""
    _publish(Interaction(event_id=_new_id(), user_id=user, item_id=item, ts=time.time(), kind=kind))


@app.command(epilog="Example: finestream publish review alice B003VWJ2K8 'The battery dies fast.' --rating 2")
def review(
    user: User,
    item: ItemId,
    text: Annotated[str, typer.Argument(help="the user's words")],
    title: Annotated[str, typer.Option()] = "",
    rating: Annotated[float, typer.Option(min=0, max=5, help="stars; 0: none")] = 0.0,
) -> None:
    """A user's words about an item."""
    _publish(
        Review(
            review_id=_new_id(), user_id=user, item_id=item, ts=time.time(), text=text, title=title, rating=rating
        )
    )  # fmt: skip


@app.command(epilog="Example: finestream publish item lamp-7 --title 'Desk lamp' --category Lamps")
def item(
    item: ItemId,
    title: Annotated[str, typer.Option()] = "",
    description: Annotated[str, typer.Option()] = "",
    brand: Annotated[str, typer.Option()] = "",
    category: Annotated[list[str] | None, typer.Option(help="may be given several times")] = None,
    price: Annotated[float | None, typer.Option(min=0, help="in the catalogue's currency")] = None,
    available: Annotated[bool, typer.Option(help="--no-available withdraws the item")] = True,
) -> None:
    """An item of the catalogue, new or changed."""
    _publish(
        Item(
            item_id=item, ts=time.time(), title=title, description=description, brand=brand,
            categories=category or [], available=available, price=msgspec.UNSET if price is None else price,
        )
    )  # fmt: skip


def _publish(event: Interaction | Review | Item) -> None:
    position = run(_send(event))
    Console().print(f"published: {position.topic}, partition {position.partition}, offset {position.offset}")


async def _send(event: Interaction | Review | Item) -> Position:
    async with connect(read(ClientSettings)) as client:
        return await client.publish(event)


def _new_id() -> str:
    return uuid.uuid4().hex
