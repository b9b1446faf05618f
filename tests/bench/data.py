"""Where the published data sets lie; they are no part of the repository."""

import os
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
VARIABLE: Final = "FINESTREAM_BENCH_DATA"
INSTRUMENTS: Final = "amazon2014_musical_instruments/reviews_Musical_Instruments_5.json.gz"


def instruments() -> Path:
    """The reviews of Musical Instruments (Amazon 5-core, McAuley et al.), whether they are there or not."""
    return Path(os.environ.get(VARIABLE) or ROOT / "../shared/data") / INSTRUMENTS
