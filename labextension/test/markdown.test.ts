import { afterEach, describe, expect, test, vi } from "vitest";
import { markdown, sanitize } from "../src/chat/markdown";
import hostile from "./hostile.json";

function draw(fragment: DocumentFragment): HTMLElement {
  const element = document.createElement("div");
  element.append(fragment);
  document.body.append(element);
  return element;
}

/* eslint-disable no-restricted-properties -- here HTML is only read. */
const html = (text: string): string => draw(markdown(text)).innerHTML.trim();

afterEach(() => {
  document.body.replaceChildren();
});

const TAGS =
  /^(a|b|blockquote|br|code|del|details|em|h[1-6]|hr|i|img|ins|kbd|li|mark|ol|p|pre|s|small|strong|sub|summary|sup|table|tbody|td|th|thead|tr|u|ul)$/;
const LINK = /^(https?:|mailto:)/;
const PICTURE = /^data:image\/(avif|gif|jpeg|png|webp);base64,[a-zA-Z0-9+/]+=*$/;

/** What is wrong with what came through, besides the parts that markdown() itself adds. */
function faults(root: HTMLElement): string[] {
  const found: string[] = [];
  for (const element of root.querySelectorAll("*")) {
    if (element.matches(".agentstore-code, .agentstore-table, .agentstore-plain, .agentstore-code-bar, .agentstore-code-bar *")) {
      continue;
    }
    if (element.namespaceURI !== "http://www.w3.org/1999/xhtml" || !TAGS.test(element.localName)) {
      found.push(element.outerHTML);
    }
    for (const { name, value } of element.attributes) {
      const allowed =
        {
          href: LINK.test(value),
          src: PICTURE.test(value),
          target: value === "_blank",
          rel: value === "noopener noreferrer nofollow",
          title: value === element.getAttribute("href"),
          align: true,
          alt: true,
          start: true,
          "data-language": true,
        }[name] ?? false;
      if (!allowed) {
        found.push(`${element.localName} ${name}=${value}`);
      }
    }
  }
  return found;
}

describe("hostile text", () => {
  test.each(hostile)("as Markdown does nothing: %j", (text) => {
    expect(faults(draw(markdown(text)))).toEqual([]);
  });

  test.each(hostile)("as HTML does nothing: %j", (text) => {
    expect(faults(draw(sanitize(text)))).toEqual([]);
  });

  test("is shown as it was typed", () => {
    expect(draw(markdown("a <script>alert(1)</script> b")).textContent).toBe("a <script>alert(1)</script> b\n");
    expect(draw(markdown("vector<int> and List<String>")).textContent).toBe("vector<int> and List<String>\n");
    expect(draw(markdown('<img src=x onerror="f()">')).textContent).toBe('<img src=x onerror="f()">\n');
  });

  test.each([
    ["quotes", ">".repeat(20_000)],
    ["lists", "- ".repeat(10_000)],
    ["stars", "*a ".repeat(6_000)],
    ["brackets", "[".repeat(20_000)],
    ["links", "[a](".repeat(5_000)],
    ["backticks", Array.from({ length: 190 }, (_, i) => "`".repeat(i)).join("a")],
    ["tags", "<b>".repeat(6_000)],
    ["entities", "&".repeat(20_000)],
    ["table", `|${"a|".repeat(4_000)}\n|${"-|".repeat(4_000)}\n`],
    ["pipes", "|".repeat(20_000)],
    ["underscores", "_a__".repeat(5_000)],
    ["definitions", Array.from({ length: 1_500 }, (_, i) => `[${i}]: x`).join("\n")],
    ["nested links", `${"![".repeat(6_000)}${"](x)".repeat(2_000)}`],
    ["comment", `<!--${"-".repeat(19_000)}`],
  ])("that is meant to take long does not: %s", (_, text) => {
    const begin = performance.now();
    draw(markdown(text));
    expect(performance.now() - begin).toBeLessThan(5_000);
  });
});

describe("Markdown", () => {
  test("keeps line breaks, emphasis, lists and headings", () => {
    expect(html("one\ntwo **three**")).toBe("<p>one<br>two <strong>three</strong></p>");
    expect(html("# A\n\n3. x\n4. y")).toBe('<h1>A</h1>\n<ol start="3">\n<li>x</li>\n<li>y</li>\n</ol>');
    expect(html("- x\n- y\n\n> z")).toBe("<ul>\n<li>x</li>\n<li>y</li>\n</ul>\n<blockquote>\n<p>z</p>\n</blockquote>");
    expect(html("## A\n### B\n#### C\n##### D\n###### E\n***\n~~F~~ _G_")).toMatch(
      /^<h2>A<.*\n<h3>B<.*\n<h4>C<.*\n<h5>D<.*\n<h6>E<.*\n<hr>\n<p><del>F<\/del> <em>G<\/em><\/p>$/,
    );
    expect(html("- [x] done\n- [ ] open")).toContain("☑");
  });

  test("keeps plain HTML that says how text is meant", () => {
    expect(html("H<sub>2</sub>O<br>x")).toBe("<p>H<sub>2</sub>O<br>x</p>");
    expect(draw(markdown("<details><summary>more</summary>\n\n**x**\n\n</details>")).querySelector("details strong")).not.toBeNull();
  });

  test("links lead out in a new tab, say where, and take no opener along", () => {
    const link = draw(markdown("[bank](https://EVIL.example/a?b=1&c=2)")).querySelector("a");
    expect(link?.href).toBe("https://evil.example/a?b=1&c=2");
    expect(link?.title).toBe(link?.href);
    expect(link?.target).toBe("_blank");
    expect(link?.rel).toBe("noopener noreferrer nofollow");
  });

  test("a name that only looks like another is shown as what it is", () => {
    expect(draw(markdown("[x](https://аpple.com)")).querySelector("a")?.title).toBe("https://xn--pple-43d.com/");
  });

  test("a link that may not lead anywhere is text", () => {
    expect(html("[here](javascript:alert(1)) and [there](/lab)")).toBe("<p>here and there</p>");
  });

  test("pictures are shown only when they are in the text itself, and are links otherwise", () => {
    expect(draw(markdown("![dot](data:image/png;base64,iVBORw0KGgo=)")).querySelector("img")?.alt).toBe("dot");
    const outside = draw(markdown("![dot](https://example.org/a.png)"));
    expect(outside.querySelector("img")).toBeNull();
    expect(outside.querySelector("a")?.href).toBe("https://example.org/a.png");
    expect(html("![dot](x.png)")).toBe("<p>dot</p>");
  });

  test("code keeps its characters, names its language and can be copied", async () => {
    const written: string[] = [];
    vi.stubGlobal("navigator", { clipboard: { writeText: (text: string) => Promise.resolve(written.push(text)) } });
    const element = draw(markdown("```python extra\nif a < b:\n    print('&amp;')\n```"));
    expect(element.querySelector(".agentstore-code-bar")?.textContent).toContain("python");
    element.querySelector("button")?.click();
    await vi.waitFor(() => { expect(element.querySelector("button")?.textContent).toBe("Copied"); });
    expect(written).toEqual(["if a < b:\n    print('&amp;')"]);
    vi.unstubAllGlobals();
  });

  test("a table keeps its alignment and can be wider than the pane", () => {
    const element = draw(markdown("| a | b |\n| - | -: |\n| 1 | 2 |"));
    expect(element.querySelector(".agentstore-table > table td[align=right]")?.textContent).toBe("2");
  });

  test("a text that cannot be parsed is shown as it is", () => {
    expect(draw(markdown("")).textContent).toBe("");
    expect(draw(markdown("\ud800 lone")).textContent).toContain("lone");
  });
});
