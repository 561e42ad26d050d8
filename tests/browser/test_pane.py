"""The chat pane in a real JupyterLab with a real kernel, used as a person does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.lab import Lab, Notebook

HOSTILE = Path(__file__).parents[2] / "labextension" / "test" / "hostile.json"


def cells(store: str) -> list[str]:
    return [
        f"import jupyter_agentstore as agentstore\nstore = agentstore.connect('{store}')",
        "chat = store.conversation('c1', title='Coffee')",
        "chat",
    ]


def opened(lab: Lab, page: Page, name: str) -> Notebook:
    """A notebook with a pane on a store of this name."""
    lab.post(f"events?storeId={name}", created())
    notebook = lab.open(page, lab.write(name, [*cells(name), "len(store.df('messages'))"]))
    notebook.run()
    expect(notebook.pane.element).to_be_visible(timeout=30_000)
    return notebook


def created() -> dict[str, Any]:
    fields = {"id": "c1", "userId": "ada", "title": "Coffee", "personality": "", "instructions": ""}
    return {"events": [{"name": "v1.ConversationCreated", "args": fields}]}


def said(*texts: str, role: str = "user") -> dict[str, Any]:
    return {
        "events": [
            {
                "name": "v1.MessageAdded",
                "args": {
                    "id": f"{role}-{n}",
                    "conversationId": "c1",
                    "role": role,
                    "content": text,
                    "metadata": json.dumps({"imported": True}),
                },
            }
            for n, text in enumerate(texts)
        ]
    }


def test_one_talks_to_the_agent_with_the_keyboard_and_finds_the_conversation_again(
    lab: Lab, page: Page
) -> None:
    notebook = opened(lab, page, "talk")
    pane = notebook.pane
    expect(pane.status).to_have_text("Live")
    expect(pane.element).to_contain_text("Write the first message")
    pane.say("A mocha, please")
    expect(pane.of("user")).to_contain_text("A mocha, please")
    expect(pane.of("agent").first).to_be_visible(timeout=20_000)
    expect(pane.composer).to_be_focused()
    page.keyboard.type("first line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    expect(pane.composer).to_have_value("first line\nsecond line")
    page.keyboard.press("Enter")
    expect(pane.of("agent")).to_have_count(2, timeout=20_000)
    expect(notebook.cells).to_have_count(4)  # Shift+Enter ran no cell, and made none
    expect(notebook.cells.nth(2).locator(".jp-InputPrompt").first).to_have_text("[3]:")

    page.keyboard.press("Control+s")
    expect(page.locator(".jp-mod-dirty")).to_have_count(0)
    page.reload()
    notebook.ready()
    expect(notebook.pane.of("agent")).to_have_count(2, timeout=30_000)
    notebook.pane.say("And a croissant")
    expect(notebook.pane.of("agent")).to_have_count(3, timeout=20_000)


def test_what_others_write_comes_in_live_and_the_reader_stays_where_they_are(lab: Lab, page: Page) -> None:
    lab.post("events?storeId=live", created())
    lab.post("events?storeId=live", said(*[f"message {n} " + "word " * 40 for n in range(30)]))
    notebook = lab.open(page, lab.write("live", cells("live")))
    notebook.run()
    pane = notebook.pane
    expect(pane.bodies.last).to_contain_text("message 29", timeout=30_000)
    expect(pane.bodies.last).to_be_in_viewport()
    pane.log.evaluate("log => { log.scrollTop = 100; }")
    top = pane.element.get_by_role("button", name="Go to the end")
    expect(top).to_be_visible()
    lab.post("events?storeId=live", said("one more", role="system"))
    button = pane.element.get_by_role("button", name="1 new message: go to the end")
    expect(button).to_be_visible()
    assert pane.log.evaluate("log => log.scrollTop") == 100
    button.press("Enter")
    expect(button).to_be_hidden()
    expect(pane.bodies.last).to_have_text("one more")
    expect(pane.bodies.last).to_be_in_viewport()


def test_one_key_commands_of_the_notebook_spare_whoever_reads_in_the_pane(lab: Lab, page: Page) -> None:
    notebook = opened(lab, page, "keys")
    notebook.pane.log.focus()
    for key in ("x", "d", "d", "a", "b"):
        page.keyboard.press(key)
    notebook.pane.composer.focus()
    page.keyboard.type("xddab")
    expect(notebook.pane.composer).to_have_value("xddab")
    page.keyboard.press("Tab")
    expect(notebook.pane.element.get_by_role("button", name="Send")).to_be_focused()
    page.keyboard.press("x")
    page.keyboard.press("Enter")
    expect(notebook.pane.of("user")).to_contain_text("xddab")
    expect(notebook.cells).to_have_count(4)
    expect(notebook.pane.element).to_be_visible()


def test_a_pane_whose_kernel_has_gone_says_so_and_lives_again_when_its_cells_run(
    lab: Lab, page: Page
) -> None:
    notebook = opened(lab, page, "restart")
    pane = notebook.pane
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.locator(".lm-Menu-itemLabel", has_text="Restart Kernel…").first.click()
    page.locator(".jp-Dialog .jp-mod-accept").click()
    expect(pane.status).to_have_text("Closed", timeout=30_000)
    expect(pane.composer).to_have_attribute("placeholder", re.compile("run the cell again"))
    notebook.ready()
    notebook.run()
    expect(pane.status).to_have_text("Live", timeout=30_000)
    pane.say("Here again")
    expect(pane.of("agent")).to_be_visible(timeout=20_000)


def test_hostile_text_runs_nothing_and_loads_nothing(lab: Lab, page: Page) -> None:
    hostile = json.loads(HOSTILE.read_text())
    lab.post("events?storeId=hostile", created())
    lab.post("events?storeId=hostile", said(*[text.replace("\0", "") for text in hostile]))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: asked.append(dialog.message))
    page.add_init_script("window.pwned = () => { window.ran = true; };")
    notebook = lab.open(page, lab.write("hostile", cells("hostile")))
    title = page.title()
    notebook.run()
    pane = notebook.pane
    expect(pane.bodies.last).to_be_visible(timeout=30_000)
    earlier = pane.element.get_by_role("button", name=re.compile("Show earlier"))
    earlier.click()
    expect(pane.messages).to_have_count(len(hostile))
    # Whatever waits for the pointer or the focus gets both.
    pane.bodies.evaluate_all(
        """bodies => {
            for (const body of bodies) {
                for (const element of body.querySelectorAll("*")) {
                    element.dispatchEvent(new MouseEvent("mouseover", {bubbles: true}));
                    element.dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
                    element.focus?.();
                    if (element.localName === "summary") element.click();
                }
            }
        }"""
    )
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    assert page.evaluate("window.ran") is None
    assert not [
        url
        for url in asked
        if "evil.example" in url or not url.startswith((lab.server.url, "data:", "blob:"))
    ]
    assert page.title() == title
    forbidden = (
        "script, iframe, object, embed, style, link, meta, base, form, input, svg, math, video, [style], [id]"
    )
    assert (
        pane.bodies.locator(forbidden)
        .filter(visible=None)
        .evaluate_all("found => found.filter(e => !e.closest('.agentstore-code-bar')).map(e => e.outerHTML)")
        == []
    )


def test_what_a_cell_itself_shows_of_hostile_text_runs_nothing_and_loads_nothing(
    lab: Lab, page: Page
) -> None:
    hostile = [text.replace("\0", "") for text in json.loads(HOSTILE.read_text())]
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: asked.append(dialog.message))
    page.add_init_script("window.pwned = () => { window.ran = true; };")
    show = "from IPython.display import display\nfor shown in {}: display(shown)"
    notebook = lab.open(
        page,
        lab.write(
            "outputs",
            [
                *cells("outputs")[:2],
                f"hostile = {hostile!r}\n"
                "events = agentstore.events\n"
                "added = lambda text, role: events.MessageAdded(conversationId='c1', role=role, content=text)\n"
                "chat.pause()\n"
                "receipt = store.commit(*(added(text, 'user') for text in hostile if text.strip()))",
                show.format("chat.last(500)"),
                "chat.resume()\nchat.send('<img src=x onerror=pwned()>').reply()",
                "store.conversation(title='<img src=x onerror=pwned()>')\nstore.conversations",
                "store.sql('select * from messages')",
                "store.df('messages')",
                "store",
            ],
        ),
    )
    title = page.title()
    notebook.run()
    outputs = page.locator(".jp-OutputArea-output")
    expect(outputs.filter(has_text="outputs, connected at")).to_be_visible(timeout=30_000)
    expect(notebook.cells.nth(4)).to_contain_text("<img src=x onerror=pwned()>")
    expect(notebook.cells.nth(3).locator("span", has_text="<script>pwned()</script>").first).to_be_visible()
    outputs.locator("*").evaluate_all(
        """found => {
            for (const element of found) {
                element.dispatchEvent(new MouseEvent("mouseover", {bubbles: true}));
                element.dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
                element.focus?.();
            }
        }"""
    )
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    assert page.evaluate("window.ran") is None
    assert outputs.locator("img, script, iframe, object, embed, svg, video, audio, form, input").count() == 0
    assert not [
        url
        for url in asked
        if "evil.example" in url or not url.startswith((lab.server.url, "data:", "blob:"))
    ]
    assert page.title() == title


def test_text_can_be_read_in_every_theme(lab: Lab, page: Page, tmp_path: Path) -> None:
    notebook = opened(lab, page, "themes")
    pane = notebook.pane
    pane.say("Say `hello` to [all](https://example.org)")
    expect(pane.of("agent")).to_be_visible(timeout=20_000)
    page.keyboard.press("Control+s")
    expect(page.locator(".jp-mod-dirty")).to_have_count(0)
    for theme in ("JupyterLab Light", "JupyterLab Dark", "JupyterLab Dark High Contrast"):
        lab.set("apputils-extension:themes", {"theme": theme})
        page.reload()
        expect(pane.of("agent")).to_be_visible(timeout=30_000)
        expect(page.locator("body")).to_have_attribute("data-jp-theme-name", theme)
        worst = pane.element.evaluate(CONTRAST)
        picture = tmp_path / f"{theme}.png"
        pane.element.screenshot(path=picture)
        assert picture.stat().st_size > 5_000
        assert not [found for found in worst if found["ratio"] < 4.5], theme


CONTRAST = """pane => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
    const rgb = colour => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = ([r, g, b]) => {
        const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        const [x, y, z] = [r, g, b].map(v => linear(v / 255));
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const behind = element => {
        const layers = [];
        for (let e = element; e !== null; e = e.parentElement) layers.push(rgb(getComputedStyle(e).backgroundColor));
        return layers.reverse().reduce((under, [r, g, b, a]) =>
            [r, g, b].map((v, i) => v * a / 255 + under[i] * (1 - a / 255)), [255, 255, 255]);
    };
    return [...pane.querySelectorAll("*")]
        .filter(e => e.checkVisibility() && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
        .map(e => {
            const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
            return {text: e.textContent, ratio: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)};
        });
}"""
