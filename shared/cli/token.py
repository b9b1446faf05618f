"""`finestream token`: a new token and its entry in the file of tokens."""

from typing import Annotated

import msgspec
import typer

from shared import tokens
from shared.cli.running import fail

app = typer.Typer(no_args_is_help=True, help="Bearer tokens with scopes: new.")


@app.command(epilog="Example: finestream token new shop --scopes rank,events --rate 200 >> tokens.yaml")
def new(
    name: Annotated[str, typer.Argument(help="whose token it is: in metrics and refusals")],
    scopes: Annotated[str, typer.Option(help="of rank, events, admin; comma-separated")],
    rate: Annotated[float | None, typer.Option(help="requests a second; none: no limit")] = None,
    burst: Annotated[int | None, typer.Option(help="requests at once; none: what comes in a second")] = None,
    max_bytes: Annotated[int | None, typer.Option(help="of one message; none: what the port takes")] = None,
) -> None:
    """Make a token. It is shown once, on stderr; stdout has the entry for the file, which holds no secret."""
    token, sha256 = tokens.new()
    told = {
        "name": name, "sha256": sha256, "scopes": [scope.strip() for scope in scopes.split(",")],
        "requests_per_second": rate, "burst": burst, "max_bytes": max_bytes,
    }  # fmt: skip
    try:
        entry = msgspec.convert(told, tokens.Token)
    except msgspec.ValidationError as error:
        fail(f"this would be no entry: {error}", 2)
    typer.echo(f"the token, shown only now: {token}", err=True)
    typer.echo(tokens.entry(entry), nl=False)
