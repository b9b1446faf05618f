"""Stands in for the extractor's job: copies the reviews' bytes, and ends as it is told."""

import argparse
import os
import re
import signal
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--reviews", type=Path)
    parser.add_argument("--items", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--space")
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    (given.out / "half").touch()
    told = given.reviews.read_text()
    if counted := re.search(r"count in (\S+)", told):
        with Path(counted[1]).open("a") as file:
            file.write("ran\n")
    if waited := re.search(r"wait for (\S+)", told):
        deadline = time.monotonic() + 30
        while not Path(waited[1]).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    end = os.environ.get("EXTRACTION_JOB_END")
    if end == "fail":
        raise SystemExit(3)
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    (given.out / "half").unlink()
    (given.out / "whole").write_text(told)
    (given.out / "by").write_text(os.environ["FINESTREAM_EXTRACTOR_PROVIDER"])


if __name__ == "__main__":
    main()
