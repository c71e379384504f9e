"""Downloads: by https alone, also where a server sends on; the archive is the published one, or the first download's."""

import hashlib
import re
import shutil
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from dropfold.data_scripts.work import archive
from dropfold.data_scripts.work.errors import ArchiveError


@pytest.fixture
def serve(tmp_path_factory, monkeypatch):
    """`serve(answer)` is the address of an https server whose certificate is trusted; `answer` is bytes, or where to go."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    folder, servers = tmp_path_factory.mktemp("certificate"), []
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout key.pem"
    )
    more = " -out cert.pem -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    subprocess.run((command + more).split(), cwd=folder, check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "cert.pem"))

    def start(answer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = answer if isinstance(answer, bytes) else b""
                self.send_response(200 if isinstance(answer, bytes) else 302)
                self.send_header("Content-Length", str(len(body)))
                if not isinstance(answer, bytes):
                    self.send_header("Location", answer)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"https://127.0.0.1:{server.server_port}/a.zip"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/a.zip", "ftp://host/a.zip", "file:///etc/hostname", "data:,x"]
)
def test_https_alone_is_fetched(url, tmp_path):
    with pytest.raises(
        ArchiveError, match=rf"{re.escape(url)} was asked for; data are fetched by https alone"
    ):
        archive.download(url, tmp_path / "a.zip")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["http://127.0.0.1:9/a.zip", "ftp://host/a.zip", "file:///etc/hostname"])
def test_no_server_leads_away_from_https(target, serve, tmp_path):
    with pytest.raises(
        ArchiveError, match=rf"sends on to {re.escape(target)}; data are fetched by https alone"
    ):
        archive.download(serve(target), tmp_path / "a.zip")
    assert not list(tmp_path.iterdir())


def test_a_server_may_send_on_to_https(serve, tmp_path):
    archive.download(serve(serve(b"content")), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == b"content"


def test_a_later_download_is_compared_with_the_first(serve, tmp_path, capsys):
    path = archive.download_or_reuse(None, serve(b"first"), tmp_path, None)
    digest = hashlib.sha256(b"first").hexdigest()
    assert (tmp_path / "a.zip.sha256").read_text() == f"{digest}  a.zip\n"
    assert f"SHA-256 {digest}; nobody publishes one" in capsys.readouterr().out
    path.unlink()
    archive.download_or_reuse(None, serve(b"first"), tmp_path, None)
    assert "as at the first download" in capsys.readouterr().out
    path.unlink()
    with pytest.raises(ArchiveError, match=rf"the first download had {digest} .*a\.zip\.sha256"):
        archive.download_or_reuse(None, serve(b"other"), tmp_path, None)
    other = hashlib.sha256(b"other").hexdigest()
    archive.download_or_reuse(None, serve(b"other"), tmp_path, other)  # the given one counts more


def test_a_published_checksum_is_compared(serve, tmp_path, monkeypatch, capsys):
    url = serve(b"first")
    monkeypatch.setitem(archive.PUBLISHED, url, f"md5:{hashlib.md5(b'other').hexdigest()}")
    with pytest.raises(ArchiveError, match=r"has MD5 .* published is .*--sha256"):
        archive.download_or_reuse(None, url, tmp_path, None)
    monkeypatch.setitem(archive.PUBLISHED, url, f"md5:{hashlib.md5(b'first').hexdigest()}")
    archive.download_or_reuse(None, url, tmp_path, None)
    assert "the published one" in capsys.readouterr().out
    assert not (tmp_path / "a.zip.sha256").exists()
