"""python -m tests.bench [NAME...] [--json FILE]"""

import logging
import sys

from shared import logs
from tests.bench.running import main

if __name__ == "__main__":
    logs.configure("bench", "error")
    # It calls it an error that a broker which is just starting does not answer yet; what fails here raises.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("finestream: stopped", file=sys.stderr)
        sys.exit(130)
