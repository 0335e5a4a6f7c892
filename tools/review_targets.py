"""Listen to a sample of training targets, and accept or reject them.

    python tools/review_targets.py serve runs/mini            # writes the page, serves it on http://127.0.0.1:8765/, writes verdicts back
    python tools/review_targets.py build runs/mini            # only writes runs/mini/targets/review/index.html
    python tools/review_targets.py merge runs/mini review.jsonl  # adds verdicts that were downloaded from the page

The sample is even over domains, prompt kinds and filters and holds rejected answers too. Verdicts lie in RUN_DIR/targets/review.jsonl; the next
examples/generate_targets.py of the run obeys them without asking anything anew: rejected rows leave the targets, accepted ones stay although a filter objected.

Exit code: 0; 1 for a problem that the message names.
"""

import argparse
import functools
import json
import sys
from collections.abc import Iterable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from nemo_desta.generation.review import FILE, add_verdict, read_verdicts, review_items, write_page
from nemo_desta.jsonl import text_lines

MAX_BODY = 10_000  # bytes of a verdict
LOCAL = "127.0.0.1"


class Handler(SimpleHTTPRequestHandler):
    """The page's folder, and POST /verdicts."""

    def __init__(self, *args: Any, verdicts: Path, known: frozenset[str], **kwargs: Any) -> None:
        self.verdicts, self.known = verdicts, known
        super().__init__(*args, **kwargs)

    def log_message(self, format: str, *args: Any) -> None:
        """No line for every clip played."""

    def do_POST(self) -> None:
        """Write one verdict. JSON only: a page of another site cannot send that without being asked first, and is not answered."""
        try:
            body = self.rfile.read(min(int(self.headers.get("Content-Length", "0")), 100 * MAX_BODY))  # read before any refusal, else it looks like a crash
            if self.path != "/verdicts" or self.headers.get_content_type() != "application/json":
                raise ValueError("only JSON to /verdicts")
            if not 0 < len(body) <= MAX_BODY:
                raise ValueError(f"{len(body)} bytes")
            entry = json.loads(body)
            if entry["row_id"] not in self.known:
                raise ValueError(f"row {entry['row_id']!r} is not on this page")
            add_verdict(self.verdicts, entry["row_id"], entry["verdict"], str(entry.get("note", "")))
        except (ValueError, KeyError, TypeError) as error:
            self._reply(400, str(error))
        except OSError as error:
            self._reply(507, f"cannot write {self.verdicts}: {error.strerror}")
        else:
            self._reply(204, "")

    def _reply(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def build(run_dir: Path, count: int, seed: int) -> Path:
    """Write the page of a run."""
    targets = run_dir / "targets"
    items = review_items(targets, run_dir / "corpus" / "cuts_train.jsonl.gz", count, seed)
    return write_page(items, targets / "review", f"Targets of {run_dir.name}", read_verdicts(targets / FILE))


def make_server(run_dir: Path, port: int) -> ThreadingHTTPServer:
    """A server of the written page, for this machine only."""
    folder = run_dir / "targets" / "review"
    known = frozenset(json.loads((folder / "items.json").read_text(encoding="utf-8")))
    handler = functools.partial(Handler, directory=str(folder), verdicts=run_dir / "targets" / FILE, known=known)
    return ThreadingHTTPServer((LOCAL, port), handler)


def merge(run_dir: Path, downloaded: Path) -> int:
    """Add downloaded verdicts; how many.

    Raises:
        ValueError: the file holds none.
    """
    entries = [json.loads(line) for line in text_lines(downloaded)]
    if not entries:
        raise ValueError(f"{downloaded} holds no verdicts")
    for entry in entries:
        add_verdict(run_dir / "targets" / FILE, str(entry["row_id"]), str(entry["verdict"]), str(entry.get("note", "")))
    return len(entries)


def main(arguments: Iterable[str] | None = None) -> int:
    """Command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["serve", "build", "merge"])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("verdicts", type=Path, nargs="?", help="for merge: the downloaded file")
    parser.add_argument("--count", type=int, default=100, help="rows on the page (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another one gives another sample (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8765, help="for serve (default: %(default)s)")
    options = parser.parse_args(None if arguments is None else list(arguments))
    try:
        if options.command == "merge":
            if options.verdicts is None:
                raise ValueError("merge needs the downloaded file: merge RUN_DIR review.jsonl")
            print(f"{merge(options.run_dir, options.verdicts)} verdicts added")
            return 0
        page = build(options.run_dir, options.count, options.seed)
        print(page)
        if options.command == "serve":
            with make_server(options.run_dir, options.port) as server:
                print(f"http://{LOCAL}:{server.server_address[1]}/  (Ctrl-C ends; every verdict is written at once)")
                server.serve_forever()
    except (OSError, ValueError, KeyError) as error:
        print(f"review_targets: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
