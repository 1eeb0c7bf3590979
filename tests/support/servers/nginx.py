"""nginx in front of feeds: it terminates TLS, and forwards the WebSocket without it."""

import os
import signal
import ssl
from pathlib import Path

import trustme

from tests.support.servers.base import HOST, Server, require

CONFIG = """\
daemon off;
worker_processes 1;
{user}
pid {folder}/pid;
error_log stderr notice;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen {host}:{port} ssl;
    server_name localhost;
    ssl_certificate {folder}/chain.pem;
    ssl_certificate_key {folder}/key.pem;
    location / {{
      proxy_pass http://{upstream};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection "upgrade";
      proxy_set_header Host $host;
      proxy_read_timeout 300s;
    }}
  }}
}}
"""


class NginxTls(Server):
    """A TLS proxy for `upstream`, with a certificate for `names` by its own CA."""

    scheme = "wss"

    def __init__(self, folder: Path, upstream: Server, names: tuple[str, ...] = ("localhost", HOST)) -> None:
        super().__init__(folder)
        self._program = require("nginx")
        self._upstream = upstream
        self._names = names
        self.authority = trustme.CA()
        self._write_certificate()

    def _write_certificate(self) -> None:
        certificate = self.authority.issue_cert(*self._names)
        (self.folder / "key.pem").write_bytes(certificate.private_key_pem.bytes())
        chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
        (self.folder / "chain.pem").write_bytes(chain)

    def client_context(self) -> ssl.SSLContext:
        """A client's context that trusts only the test's CA."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.authority.configure_trust(context)
        return context

    def command(self) -> list[str]:
        config = self.folder / "nginx.conf"
        # Started as root, nginx runs its workers as a user without access to pytest's folders.
        user = "user root root;" if os.geteuid() == 0 else ""
        upstream = f"{HOST}:{self._upstream.port}"
        config.write_text(CONFIG.format(folder=self.folder, host=HOST, port=self.port, upstream=upstream, user=user))
        return [self._program, "-p", str(self.folder), "-e", "stderr", "-c", str(config)]

    def reload(self) -> None:
        """New workers accept new connections, with a new certificate; old ones keep theirs until they end."""
        assert self._process is not None
        self._write_certificate()
        self._process.send_signal(signal.SIGHUP)
