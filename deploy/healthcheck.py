"""Checks the health of a fleet in the same container: `healthcheck.py [/healthz | /readyz]`; exits with 0 or 1.

The fleet's file needs an `[http]` section. `WSFLEET_PORT` is its port if that is not 9464, and
`WSFLEET_TOKEN_FILE` the file of its token if it has one.
"""

import os
import sys
import urllib.error
import urllib.request
from pathlib import Path


def main() -> int:
    """Print the body of the answer if the fleet is not healthy."""
    path = sys.argv[1] if len(sys.argv) > 1 else "/healthz"
    request = urllib.request.Request(f"http://127.0.0.1:{os.environ.get('WSFLEET_PORT', '9464')}{path}")
    token = os.environ.get("WSFLEET_TOKEN_FILE")
    if token:
        request.add_header("Authorization", f"Bearer {Path(token).read_text().strip()}")
    # Directly, without the proxy that the environment may set for the feeds.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=4):
            return 0
    except urllib.error.HTTPError as exc:
        print(f"{path}: {exc.code} {exc.read(2000).decode(errors='replace')}")
    except OSError as exc:
        print(f"{path}: {exc}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
