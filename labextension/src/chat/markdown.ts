// From a message's text to elements. This is the only place where HTML is parsed; a message may do nothing but be read:
// it runs nothing, loads nothing, styles nothing outside itself, names nothing, and leads elsewhere only on a click.
import DOMPurify from "dompurify";
import { Marked } from "marked";
import { button, copy, h, icon } from "./dom";

/** Longer texts are drawn up to here (characters) until the reader asks for the rest. */
export const LONG = 20_000;

/** HTML that people and models write into Markdown, passed on without its attributes. All else is shown as it was typed. */
const INLINE = ["b", "br", "del", "details", "em", "i", "ins", "kbd", "mark", "s", "small", "strong", "sub", "summary", "sup", "u"];
const BLOCK = ["a", "blockquote", "code", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "img", "li", "ol", "p", "pre", "ul"];
const TABLE = ["table", "tbody", "td", "th", "thead", "tr"];
const PASSED = new RegExp(`&lt;(/?(?:${INLINE.join("|")}))\\s*/?&gt;`, "gi");

const IMAGE = /^data:image\/(?:avif|gif|jpeg|png|webp);base64,[a-z0-9+/]+=*$/i;
const SCHEMES = new Set(["http:", "https:", "mailto:"]);

const ENTITIES: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

function escape(text: string): string {
  return text.replace(/[&<>"']/g, (character) => ENTITIES[character] ?? "");
}

/** The address if a link may lead there, in the form in which a browser would show it; otherwise nothing. */
function address(href: string): string | undefined {
  try {
    const url = new URL(href);
    return SCHEMES.has(url.protocol) ? url.href : undefined;
  } catch {
    return undefined;
  }
}

/** How many tags in one text are passed on: thousands, each within the last, take seconds to lay out. */
const MOST_TAGS = 500;
let tags = 0;

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html({ text, block }) {
      const passed = escape(text).replace(PASSED, (typed, tag: string) => (tags++ < MOST_TAGS ? `<${tag}>` : typed));
      // A block that is nothing but passed tags, such as <details>, holds what follows; others are text.
      return !block || !passed.includes("&lt;") ? passed : `<p>${passed.trim().replace(/\n/g, "<br>")}</p>\n`;
    },
    code({ text, lang }) {
      const language = (lang ?? "").trim().split(/\s/)[0] ?? "";
      return `<pre><code data-language="${escape(language)}">${escape(text)}</code></pre>\n`;
    },
    checkbox({ checked }) {
      return checked ? "☑ " : "☐ ";
    },
    image({ href, text }) {
      if (IMAGE.test(href)) {
        return `<img src="${escape(href)}" alt="${escape(text)}">`;
      }
      // Loading it would tell its server who reads; as a link it waits for a click.
      return `<a href="${escape(href)}">${escape(text || href)}</a>`;
    },
  },
});

const purifier = DOMPurify();

purifier.addHook("uponSanitizeAttribute", (_node, data) => {
  if (data.attrName === "src" && !IMAGE.test(data.attrValue)) {
    data.keepAttr = false;
  } else if (data.attrName === "href") {
    const href = address(data.attrValue);
    data.keepAttr = href !== undefined;
    data.attrValue = href ?? "";
  }
});

/** HTML without anything that could do harm. Text stays where its element may not. */
export function sanitize(html: string): DocumentFragment {
  // Its type does not say so, but for a frameset there is nothing.
  const fragment = (purifier.sanitize(html, {
    ALLOWED_TAGS: ["#text", ...INLINE, ...BLOCK, ...TABLE],
    ALLOWED_ATTR: ["align", "alt", "data-language", "href", "src", "start"],
    ALLOW_ARIA_ATTR: false,
    ALLOW_DATA_ATTR: false,
    ALLOWED_NAMESPACES: ["http://www.w3.org/1999/xhtml"],
    RETURN_DOM_FRAGMENT: true,
  }) as DocumentFragment | null) ?? document.createDocumentFragment();
  for (const link of fragment.querySelectorAll("a")) {
    const href = link.getAttribute("href");
    if (href === null) {
      link.replaceWith(...link.childNodes);
    } else {
      link.target = "_blank";
      link.rel = "noopener noreferrer nofollow";
      // Whatever the link calls itself, this is where it leads.
      link.title = href;
    }
  }
  for (const image of fragment.querySelectorAll("img")) {
    if (!image.hasAttribute("src")) {
      image.replaceWith(image.alt);
    }
  }
  return fragment;
}

/** A message's Markdown as elements. Whatever cannot be drawn as Markdown is drawn as text. */
export function markdown(text: string): DocumentFragment {
  let fragment: DocumentFragment;
  try {
    tags = 0;
    fragment = sanitize(marked.parse(text, { async: false }));
  } catch {
    return plain(text);
  }
  for (const block of fragment.querySelectorAll("pre")) {
    frame(block);
  }
  for (const table of fragment.querySelectorAll("table")) {
    const scroller = h("div", { class: "agentstore-table" });
    table.replaceWith(scroller);
    scroller.append(table);
  }
  return fragment;
}

/** A message's text as it was typed. */
export function plain(text: string): DocumentFragment {
  const fragment = document.createDocumentFragment();
  fragment.append(h("div", { class: "agentstore-plain" }, text));
  return fragment;
}

/** Gives a code block its language and a button that copies it. */
function frame(block: HTMLPreElement): void {
  const code = block.querySelector("code");
  const language = code?.dataset.language ?? "";
  code?.removeAttribute("data-language");
  const label = h("span", {}, "Copy");
  const copier = button(
    "agentstore-copy",
    "Copy code",
    () => {
      void copy(block.textContent.replace(/\n$/, "")).then((copied) => {
        label.textContent = copied ? "Copied" : "Not copied";
        setTimeout(() => {
          label.textContent = "Copy";
        }, 2_000);
      });
    },
    icon("copy"),
    label,
  );
  const framed = h("div", { class: "agentstore-code" });
  block.replaceWith(framed);
  framed.append(h("div", { class: "agentstore-code-bar" }, h("span", {}, language), copier), block);
}
