"""The tools for assistants: what they answer, and over the protocol where its extra is there."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from tests.page_browser import PageServer, page_server

__all__ = ["page_server"]


@pytest.fixture
def ask(photo_library: Path) -> Any:
    from ui.library import Library
    from ui.mcp_tools import PhotoTools
    from ui.page_settings import PageSettings

    settings = PageSettings()
    tools = PhotoTools(Library(photo_library, settings), settings)
    return lambda name, **arguments: json.loads(getattr(tools, name)(**arguments))


def test_photos_are_found_and_told_of(ask: Any) -> None:
    newest = ask("search_photos", query="", limit=2)["photos"]
    assert [photo["name"] for photo in newest] == ["tower.jpg", "lion.jpg"]
    assert ask("search_photos", query="", since="2020")["photos"] == newest[:1]
    assert ask("search_photos", query="", where="name ~ lion")["photos"] == newest[1:]
    tower = newest[0]["id"]
    similar = ask("similar_photos", image_id=tower, limit=3)["photos"]
    assert len(similar) == 3
    assert tower not in [photo["id"] for photo in similar]
    assert ask("photo_details", image_id=tower)["camera"] == "Camera Two"
    found = ask("search_photos", query="a wild cat", without="a drawing")
    assert found["photos"] or found["closest"]


def test_photos_are_counted_by_label(ask: Any) -> None:
    found = ask("classify_photos", labels="a lion, a tower")
    assert found["photos"] == 6
    counts = [one["photos"] for one in found["labels"]]
    assert sum(counts) + found["none_of_these"] == 6
    assert {one["label"] for one in found["labels"]} == {"a lion", "a tower"}


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("search_photos", {"query": "x" * 3000}, "letters"),
        ("search_photos", {"query": 7}, "expected text"),
        ("search_photos", {"query": "a", "limit": 61}, "limit"),
        ("search_photos", {"query": "a", "since": "soon"}, "since"),
        ("search_photos", {"query": "a", "where": "("}, "filter"),
        ("similar_photos", {"image_id": 99}, "no such image"),
        ("similar_photos", {"image_id": "../x"}, "image_id"),
        ("photo_details", {"image_id": -1}, "image_id"),
        ("classify_photos", {"labels": ""}, "label"),
    ],
)
def test_arguments_are_checked(ask: Any, name: str, arguments: dict[str, Any], said: str) -> None:
    answer = ask(name, **arguments)
    assert set(answer) == {"error"}
    assert said in answer["error"]


@pytest.mark.skipif(importlib.util.find_spec("mcp") is not None, reason="the extra is there")
def test_without_the_extra_the_command_says_what_to_install(
    cli_here: Cli, mini_index: Path
) -> None:
    done = cli_here("ui", mini_index, "--mcp", "--no-browser")
    assert done.returncode == 2
    assert b"pip install 'clipsearch[mcp]'" in done.stderr


@pytest.mark.slow
def test_an_assistant_is_answered(page_server: PageServer, photo_library: Path) -> None:
    pytest.importorskip("mcp", reason="needs the extra mcp")
    import anyio
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    address = page_server(photo_library, mcp=True)
    told: list[Any] = []

    async def talk() -> None:
        async with (
            streamablehttp_client(f"{address}gradio_api/mcp/") as (reads, writes, _),
            ClientSession(reads, writes) as client,
        ):
            await client.initialize()
            told.append(await client.list_tools())
            told.append(await client.call_tool("search_photos", {"query": "", "limit": 1}))
            told.append(await client.call_tool("similar_photos", {"image_id": 99}))

    anyio.run(talk)
    tools, found, refused = told
    names = {"search_photos", "similar_photos", "classify_photos", "photo_details"}
    assert {tool.name for tool in tools.tools} == names
    assert all(tool.description and "Args" not in tool.description for tool in tools.tools)
    assert json.loads(found.content[0].text)["photos"][0]["name"] == "tower.jpg"
    assert json.loads(refused.content[0].text) == {"error": "There is no such image in the index."}


@pytest.mark.slow
def test_without_the_wish_no_tool_is_offered(page_server: PageServer, photo_library: Path) -> None:
    import httpx

    address = page_server(photo_library)
    answer = httpx.post(
        f"{address}gradio_api/mcp/", json={"jsonrpc": "2.0", "method": "tools/list"}
    )
    assert answer.status_code == 404
