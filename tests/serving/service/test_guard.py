"""Whom the server answers: the token, the Host header, pages of other servers."""

import asyncio

import fake_service
import pytest
from fake_service import client, png

from cae_jax.serving.service import server
from cae_jax.types import DataError, UsageError

TOKEN = "0123456789abcdef"
JSON = {"Content-Type": "application/json"}


def ask(app, *requests):
    """The answers to (method, path, keywords of httpx)."""

    async def all_of_them():
        async with client(app) as asked:
            return [await asked.request(how, path, **more) for how, path, more in requests]

    return asyncio.run(all_of_them())


@pytest.fixture(scope="module")
def closed():
    with fake_service.service(token=TOKEN) as app:
        yield app


@pytest.fixture(scope="module")
def local():
    with fake_service.service(hosts=server.hosts("127.0.0.1", "")) as app:
        yield app


def test_everything_but_health_needs_the_token(closed):
    post = {"content": png(51), "headers": {"Content-Type": "image/png"}}
    for method, path, more in (
        *(("GET", path, {}) for path in ("/metrics", "/docs", "/openapi.json", "/v2", "/nowhere")),
        ("POST", "/predict", post),
        ("POST", "/v2/models/fake/infer", {}),
    ):
        without, wrong, right = ask(
            closed,
            (method, path, more),
            (method, path, {**more, "headers": {"Authorization": f"Bearer {TOKEN}x"}}),
            (
                method,
                path,
                {
                    **more,
                    "headers": {**more.get("headers", {}), "Authorization": f"bearer {TOKEN}"},
                },
            ),
        )
        assert (without.status_code, wrong.status_code) == (401, 401)
        assert without.json() == {"error": "a token is needed: Authorization: Bearer TOKEN"}
        assert right.status_code not in (401, 403)
    open_ones = [("GET", path, {}) for path in ("/health", "/ready", "/", "/page/static/x.js")]
    assert [each.status_code for each in ask(closed, *open_ones)] == [200, 200, 404, 404]


def test_a_browser_logs_in_once(closed):
    async def browser():
        async with client(closed) as asked:
            form = await asked.get("/docs", headers={"Accept": "text/html"})
            wrong = await asked.post("/login", data={"token": "wrong"})
            inside = await asked.post("/login", data={"token": TOKEN})
            metrics = await asked.get("/metrics")
        return form, wrong, inside, metrics

    form, wrong, inside, metrics = asyncio.run(browser())
    assert form.status_code == 401
    assert '<form method="post" action="/login">' in form.text
    assert (wrong.status_code, wrong.json()) == (401, {"error": "this is not the token"})
    assert inside.status_code == 303
    for word in ("HttpOnly", "SameSite=strict"):
        assert word in inside.headers["set-cookie"]
    assert metrics.status_code == 200


def test_only_its_own_names_are_served_on_loopback(local):
    hosts = ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000")
    others = ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "[::1", "")
    answers = ask(local, *(("GET", "/v2", {"headers": {"Host": h}}) for h in hosts + others))
    assert [each.status_code for each in answers] == [200] * len(hosts) + [403] * len(others)


def test_a_page_of_another_server_sends_nothing(local):
    def post(origin):
        headers = {"Content-Type": "image/png", "Host": "localhost:8000", "Origin": origin}
        return ("POST", "/predict", {"content": png(51), "headers": headers})

    others = ("http://evil.example", "null", "http://localhost:9000", "http://[", "")
    answers = ask(local, *map(post, ("http://localhost:8000", *others)))
    assert [each.status_code for each in answers] == [200] + [403] * len(others)


def test_headers_that_are_given_twice(local):
    twice = [("Content-Type", "image/png"), ("Content-Type", "text/html")]
    (answer,) = ask(local, ("POST", "/predict", {"content": png(9), "headers": twice}))
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "more than one header content-type"},
    )


def test_other_paths_and_methods_are_refused_in_json(local):
    answers = ask(
        local,
        ("GET", "/nowhere/../x", {}),
        ("GET", "/predict", {}),
        ("BREW", "/predict", {}),
        ("DELETE", "/v2/models/fake/infer", {}),
        ("POST", "/predict?map=maybe", {}),
        ("POST", "/predict?mask=1", {}),
    )
    assert [each.status_code for each in answers] == [404, 405, 405, 405, 422, 400]
    assert all(list(each.json()) == ["error"] for each in answers)
    assert answers[4].json()["error"].startswith("query.map: ")


def test_other_bodies_are_small(local):
    """Also those that a route reads by itself, or not at all."""
    read = []

    async def chunks():
        for _ in range(1000):
            read.append(1000)
            yield b"x" * 1000

    @local.post("/echo")
    async def echo(said: dict[str, str]) -> dict[str, str]:
        return said

    (answer,) = ask(local, ("POST", "/echo", {"content": chunks(), "headers": JSON}))
    assert answer.status_code in (400, 413)
    assert list(answer.json()) == ["error"]
    assert sum(read) < 70_000


def test_what_the_documentation_loads(local):
    (answer,) = ask(local, ("GET", "/docs", {}))
    assert "POST /predict" in answer.text
    assert "src=" not in answer.text
    assert "//cdn" not in answer.text


def test_an_address_for_others_needs_a_token():
    assert server.hosts("0.0.0.0", TOKEN) == frozenset()
    assert server.hosts("127.0.0.1", TOKEN) == frozenset()  # a proxy's name, for one
    assert {"localhost", "127.0.0.1", "::1"} < server.hosts("127.0.0.2", "")
    for host in ("0.0.0.0", "::", "192.168.1.5", "factory.example"):
        with pytest.raises(UsageError, match=f"--host={host}: .* --token_file=FILE is needed"):
            server.hosts(host, "")


def test_the_token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(f" {TOKEN}\n")
    assert server.token(str(path)) == TOKEN
    for bad in ("short", "two words that are long", "ümlaut" * 9, ""):
        path.write_text(bad)
        with pytest.raises(UsageError, match="--token_file="):
            server.token(str(path))
    with pytest.raises(UsageError, match="cannot be read"):
        server.token(str(tmp_path / "missing"))


def test_names_of_models(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert server.folders([a, f"two={b}"]) == {"a": tmp_path / "a", "two": tmp_path / "b"}
    with pytest.raises(UsageError, match="there is a model 'a' already"):
        server.folders([a, f"a={b}"])
    with pytest.raises(UsageError, match="is no name for a model"):
        server.folders([f"a/b={b}"])
    with pytest.raises(DataError, match="no such folder"):
        server.folders([str(tmp_path / "c")])
    with pytest.raises(UsageError, match="--model is needed"):
        server.folders([])
