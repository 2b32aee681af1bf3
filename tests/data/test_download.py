"""Downloads from a server on this machine; nothing else is reached."""

import functools
import http.server
import sys
import threading
from dataclasses import replace

import pytest

from invertible.data.cifar import read_cifar
from invertible.data.mnist import read_mnist
from invertible.data.places import Where
from invertible.errors import DataError, MissingDependencyError
from tests.data.examples import (
    cifar_archive,
    cifar_files,
    mnist_files,
    published,
    small_layout,
    with_checksum,
    write_mnist,
)

pytest.importorskip("pooch")


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path.startswith("/broken/"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half")
            return
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "server"
    folder.mkdir()
    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        serving.folder, serving.asked = folder, []
        serving.url = f"http://127.0.0.1:{serving.server_port}"
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def test_mnist_is_fetched_once(server, cache):
    content = mnist_files()
    small = published(content)
    write_mnist(server.folder, content, compress=True)
    found = read_mnist(small, Where(mirror=server.url))
    assert len(found.train) == 20
    assert sorted(path.name for path in (cache / "mnist").iterdir()) == sorted(f"{name}.gz" for name in content)
    assert len(server.asked) == 4
    read_mnist(small, Where(mirror=server.url))
    read_mnist(small, Where(download=False))
    assert len(server.asked) == 4


def test_only_what_is_missing_is_fetched(server, cache):
    content = mnist_files()
    write_mnist(server.folder, content, compress=True)
    write_mnist(cache / "mnist", dict(list(content.items())[:3]))
    read_mnist(published(content), Where(mirror=f"{server.url}/"))
    assert server.asked == ["/t10k-labels-idx1-ubyte.gz"]


def test_cifar_is_fetched(server, cache):
    layout = small_layout()
    archive = cifar_archive(layout, cifar_files(layout))
    (server.folder / layout.archive).write_bytes(archive)
    found = read_cifar(with_checksum(layout, archive), Where(mirror=server.url))
    assert len(found.train) == 20
    assert [path.name for path in (cache / "cifar10").iterdir()] == [layout.archive]


def refuse(server, cache, small, where, *messages):
    """No file is left, and the message says what was tried and what to do."""
    with pytest.raises(DataError) as caught:
        read_mnist(small, where)
    message = str(caught.value)
    for expected in (
        *messages,
        "mnist: expected to download train-images-idx3-ubyte.gz, got nothing from",
        f"into {cache / 'mnist'}",
    ):
        assert expected in message
    assert "\n" not in message
    assert not (cache / "mnist").exists() or not list((cache / "mnist").iterdir())


def test_a_wrong_checksum(server, cache):
    small = published(mnist_files())
    write_mnist(server.folder, mnist_files(), compress=True)
    refuse(server, cache, small, Where(mirror=server.url), "(expected MD5", ": it is damaged or was changed)")


def test_no_such_file(server, cache):
    refuse(
        server,
        cache,
        published(mnist_files()),
        Where(mirror=server.url),
        f"{server.url}/train-images-idx3-ubyte.gz (status 404)",
    )


def test_half_a_file(server, cache):
    refuse(server, cache, published(mnist_files()), Where(mirror=f"{server.url}/broken"), "(connection broken off)")


def test_no_network(server, cache):
    mirrors = ("http://127.0.0.1:9/one", "http://127.0.0.1:9/two")
    small = replace(published(mnist_files(), "fashion-mnist"), mirrors=mirrors)
    with pytest.raises(DataError) as caught:
        read_mnist(small, Where())
    message = str(caught.value)
    for mirror in mirrors:
        assert f"{mirror}/train-images-idx3-ubyte.gz (no connection)" in message
    assert "apt install dataset-fashion-mnist" in message


def test_a_url_that_is_none(server, cache):
    refuse(server, cache, published(mnist_files()), Where(mirror="nowhere"), "nowhere/train-images-idx3-ubyte.gz (")


def test_the_next_mirror_is_tried(server, cache):
    content = mnist_files()
    write_mnist(server.folder / "good", content, compress=True)
    write_mnist(server.folder / "bad", mnist_files(), compress=True)
    mirrors = tuple(f"{server.url}/{name}" for name in ("none", "broken", "bad", "good"))
    found = read_mnist(replace(published(content), mirrors=mirrors), Where())
    assert len(found.train) == 20


def test_an_interrupted_download_leaves_nothing(server, cache, monkeypatch):
    content = mnist_files()
    write_mnist(server.folder, content, compress=True)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("invertible.data.mnist.check_md5", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read_mnist(published(content), Where(mirror=server.url))
    assert list((cache / "mnist").iterdir()) == []


def test_a_cache_that_cannot_be_written(server, cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(DataError, match="expected a folder to write downloads to, got .*XDG_CACHE_HOME"):
        read_mnist(published(mnist_files()), Where(mirror=server.url))


@pytest.mark.parametrize("module", ["pooch", "tqdm"])
def test_a_missing_package_is_named(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        MissingDependencyError, match=rf"{module} is not installed: run pip install 'invertible\[data\]'"
    ):
        read_mnist(published(mnist_files()), Where())
