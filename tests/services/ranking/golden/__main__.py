"""Write the golden files anew: look at the difference before it is committed."""

import asyncio
import json

from tests.services.ranking.conftest import opened
from tests.services.ranking.golden import ANSWERS, MODEL, make_model
from tests.services.ranking.test_golden import answered

if __name__ == "__main__":
    if not MODEL.exists():
        make_model()

    async def write() -> None:
        async with opened() as world:
            ANSWERS.write_text(json.dumps(await answered(world), indent=2, sort_keys=True) + "\n")

    asyncio.run(write())
