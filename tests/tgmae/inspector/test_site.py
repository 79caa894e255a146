"""The site over HTTP: who may ask, what is answered, and that a stranger's words stay words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from schemas.events import EventLog
from schemas.tables import CLIP_INDEX, read_table, video_key
from schemas.workspace import Workspace
from tests.tgmae.inspector.conftest import LOST, TOKEN
from tgmae.inspector.site_guard import Guard

PAGES = ("/", "/runs", "/run/pretrain", "/failures", "/activity")


def first_key(workspace: Workspace) -> str:
    return str(read_table(workspace.clips / "index.parquet", CLIP_INDEX).column("key")[0])


def hostile_key(client: TestClient) -> str:
    (key,) = re.findall(r"/video/([0-9a-f]{16})", client.get("/", params={"q": "熊猫"}).text)
    return str(key)


def test_the_token_of_the_printed_url_becomes_a_cookie(site: Guard) -> None:
    stranger = TestClient(site, base_url="http://127.0.0.1", follow_redirects=False)
    for path in (*PAGES, "/static/inspector.css", "/api/state"):
        assert stranger.get(path).status_code == 403
    assert stranger.get("/", params={"token": TOKEN + "x"}).status_code == 403
    opened = stranger.get("/", params={"token": TOKEN, "q": "bar"})
    assert opened.status_code == 303 and opened.headers["location"] == "/?q=bar"
    cookie = opened.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert stranger.get("/").status_code == 200
    assert (
        stranger.get("http://127.0.0.1//evil.example/", params={"token": TOKEN}).headers["location"].startswith("/evil")
    )


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::1"])
def test_a_strangers_name_for_this_machine_gets_nothing(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 421
    assert client.get("/", headers={"Host": "localhost:9000"}).status_code == 200  # a forwarded port


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(client: TestClient, method: str) -> None:
    answer = client.request(method, "/")
    assert answer.status_code == 405 and answer.headers["allow"] == "GET, HEAD"
    assert client.head("/").status_code == 200


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_whole_and_runs_no_script_but_ours(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200 and answer.text.rstrip().endswith("</html>")
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self'" in policy and "unsafe" not in policy and "default-src 'none'" in policy
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert not re.search(r"<script(?![^>]*src=)|\son[a-z]+=|style=|javascript:|https?://", answer.text)


def test_hostile_words_stay_words(client: TestClient) -> None:
    key = hostile_key(client)
    for path in (f"/video/{key}", "/?q=script", "/failures", f"/video/{video_key(LOST)}"):
        text = client.get(path).text
        assert "<script>document" not in text and "<b>missing" not in text and "<i>rows" not in text
        assert "\u202e" not in text
    text = client.get(f"/video/{key}").text
    assert "&lt;script&gt;document" in text and "熊猫 танцует" in text and "\\u202e" in text


def test_all_videos_and_all_failures_are_shown(client: TestClient, trained: Workspace) -> None:
    ids = read_table(trained.clips / "index.parquet", CLIP_INDEX).column("video_id").to_pylist()
    page = client.get("/").text
    assert "15 videos" in page and all(name in page for name in ids)
    failures = client.get("/failures").text
    assert "2 failures" in failures and "MissingFile" in failures and "97 &lt;i&gt;rows" in failures
    assert f"tgmae guide {trained.root} --guide motion-vectors" in failures
    assert "1 failure" in client.get("/failures", params={"error": "TooTall"}).text


def test_sorted_by_overlap_the_worst_come_first(client: TestClient) -> None:
    page = client.get("/", params={"sort": "iou", "order": "up", "show": "mask"}).text
    values = [float(each) for each in re.findall(r"overlap ([0-9.]+)", page)]
    assert "a fast bar" in page and len(values) == 13 and values == sorted(values)


def test_a_video_comes_in_ranges(client: TestClient, trained: Workspace) -> None:
    path = f"/clip/{first_key(trained)}.mp4"
    whole = client.get(path)
    assert whole.headers["content-type"] == "video/mp4" and whole.content[4:8] == b"ftyp"
    assert whole.headers["accept-ranges"] == "bytes"
    part = client.get(path, headers={"Range": "bytes=4-7"})
    assert part.status_code == 206 and part.content == b"ftyp"
    assert part.headers["content-range"] == f"bytes 4-7/{len(whole.content)}"
    assert client.get(path, headers={"Range": "bytes=-3"}).content == whole.content[-3:]
    assert client.get(path, headers={"Range": "bytes=5-"}).content == whole.content[5:]
    assert client.get(path, headers={"Range": "bytes=99999999-"}).status_code == 416
    for odd in ("bytes=a-b", "lines=1-2", "bytes=1-2,5-6", "bytes=-"):
        assert client.get(path, headers={"Range": odd}).status_code in (200, 416)


@pytest.mark.parametrize(
    "path",
    ["/static/../site.py", "/static/..%2fsite.py", "/static/%2e%2e/site.py", "/clip/..%2f..%2fstage.mp4", "/video/nope",
     "/run/%2e%2e%2fmanifest", "/api/curves/..%2f..", "/poster/../../etc/passwd", "/run/.hidden"],
)  # fmt: skip
def test_no_path_leads_out(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in (404, 422)


def test_pictures_and_maps(client: TestClient, trained: Workspace) -> None:
    key = first_key(trained)
    for show in ("frame", "map", "mask"):
        for guide in ("text-blip2", "motion-vectors", "optical-flow"):
            answer = client.get(f"/poster/{key}", params={"show": show, "guide": guide})
            assert answer.status_code == 200 and answer.content[:2] == b"\xff\xd8"
    found = client.get(f"/api/map/{key}", params={"guide": "text-blip2", "entry": "1"}).json()
    assert found["shape"] == [10, 8, 12] and len(found["best"]) == 10 and sum(found["histogram"]) == 960
    drawn = client.get(f"/api/draw/{key}", params={"guide": "text-blip2", "ratio": "0.75"}).json()
    assert drawn["shape"] == [2, 4, 4] and drawn["hidden"].count("1") == 24 and drawn["why"]
    strip = client.get(f"/strip/{key}", params={"frames": "0,4", "crop": ",".join(map(str, drawn["crop"]))})
    assert strip.status_code == 200 and strip.content[:2] == b"\xff\xd8"
    for crop in ("0,0,9999,9999,0", "-5,0,10,10,0", "a", "0,0,0,0,0"):
        assert client.get(f"/strip/{key}", params={"frames": "0", "crop": crop}).status_code == 422
    assert client.get(f"/strip/{key}", params={"frames": "20", "crop": "0,0,8,8,0"}).status_code == 422
    assert client.get(f"/api/draw/{key}", params={"guide": "../clips"}).status_code == 404
    refused = client.get(f"/api/draw/{key}", params={"guide": "text-blip2", "kind": "optical-flow"})
    assert refused.status_code == 422 and "needs the guide optical-flow" in refused.text


def test_a_run_shows_its_curves_results_and_reconstructions(client: TestClient, trained: Workspace) -> None:
    page = client.get("/run/pretrain").text
    for text in ("Linear probe, top-1", "Who was taken for whom", "Nearest neighbours", "Video to video, R@1"):
        assert text in page
    curves = client.get("/api/curves/pretrain").json()["pretrain"]
    assert set(curves) == {"loss", "lr", "wait", "pace", "norm"}
    errors = set()
    for weights in ("untrained", "model"):
        for statistics in ("neighbours", "true"):
            answer = client.get(f"/reconstruction/pretrain/{first_key(trained)}",
                                params={"weights": weights, "statistics": statistics})  # fmt: skip
            assert answer.status_code == 200 and answer.content[:2] == b"\xff\xd8"
            errors.add((weights, answer.headers["x-error"]))
    assert len(errors) == 2  # the statistics are for the eye, the error is of the prediction
    missing = client.get(f"/reconstruction/pretrain/{first_key(trained)}", params={"weights": "../../etc"})
    assert missing.status_code == 422


def test_a_running_job_is_seen(client: TestClient, trained: Workspace) -> None:
    before = client.get("/api/events").json()["next"]
    EventLog(trained.root, "guide").write("failure", video="<b>", error="Odd", message="why")
    found = client.get("/api/events", params={"after": before}).json()
    assert [event["event"] for event in found["events"]] == ["failure"] and found["next"] > before
    assert not client.get("/api/events", params={"after": found["next"]}).json()["events"]


def test_looking_changes_nothing_in_the_workspace(client: TestClient, trained: Workspace) -> None:
    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in trained.root.rglob("*") if path.is_file()}

    before = state()
    for path in (*PAGES, f"/video/{first_key(trained)}", f"/poster/{first_key(trained)}"):
        assert client.get(path).status_code == 200
    assert state() == before
