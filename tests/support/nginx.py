"""A real Nginx in front of an API that knows nothing of limits, with the configuration of the how-to, to the letter."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
from pathlib import Path

from tests.support.processes import Reaper, ServerProcess, accepts_connections, free_port
from tests.support.service import Service
from tests.support.services import find_nginx

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "put-nginx-in-front.md"
API = """
server {
    listen 127.0.0.1:%d;
    default_type text/plain;
    location / { return 200 'the API'; }
    location /missing { return 404 'nothing'; }
    location /broken { return 500 'an error'; }
    location /private { return 401 'the API has callers of its own'; }
}
"""


class Nginx(ServerProcess):
    """Nginx and, in the same process, the API behind it; ``results`` is the log for ``apishield report-log``."""

    def __init__(self, reaper: Reaper, directory: Path, service: Service, service_key: str) -> None:
        self.results = directory / "apishield.log"
        api_port, self.port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        found = re.search(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
        assert found is not None
        configuration = (
            found.group(1)
            .replace("127.0.0.1:8000", f"127.0.0.1:{service.port}")
            .replace("127.0.0.1:9000", f"127.0.0.1:{api_port}")
            .replace("listen 8080", f"listen 127.0.0.1:{self.port}")
            .replace("sk_live_...", service_key)
            .replace("/var/log/nginx/apishield.log", str(self.results))
        )
        temporary = "\n".join(
            f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (directory / "nginx.conf").write_text(
            # The workers open the log anew by themselves, in a directory that is only ours.
            f"user {pwd.getpwuid(os.geteuid()).pw_name}; daemon off; pid {directory}/pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; {temporary}\n{configuration}\n{API % api_port} }}\n"
        )
        command = [str(find_nginx()), "-p", str(directory), "-c", str(directory / "nginx.conf")]
        super().__init__(reaper, command, self._ready, directory=directory)

    def rotate(self) -> None:
        """Renames the log and makes Nginx open it anew, as logrotate does."""
        self.results.rename(self._next_name())
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR1)

    def copy_and_empty(self) -> None:
        """Does what logrotate's ``copytruncate`` does."""
        shutil.copyfile(self.results, self._next_name())
        os.truncate(self.results, 0)

    def _next_name(self) -> Path:
        return self.results.with_name(f"apishield.log.{len(list(self.results.parent.glob('*.log.*'))) + 1}")

    def _ready(self) -> bool:
        return accepts_connections(self.port)
