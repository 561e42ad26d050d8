// The list of messages: draws the last of them, changes only what changed, and stays where the reader is.
import { type Actions, author, Bubble, type Item } from "./bubble";
import type { Message } from "./channel";
import { button, h, icon } from "./dom";
import type { Entry } from "./outbox";

/** So many messages are drawn at first, and so many more each time the reader asks for earlier ones. */
export const PAGE = 100;
/** While the reader is at the end, the drawn part grows up to here before it is cut back to PAGE. */
const MOST = 2 * PAGE;
/** Messages by one author within this time (ms) stand together. */
const TOGETHER = 5 * 60_000;
/** This near to the end (px) is at the end. */
const NEAR = 40;

export class Log {
  readonly element: HTMLElement;
  readonly #scroller: HTMLElement;
  readonly #list = h("div", { class: "agentstore-list" });
  readonly #earlier: HTMLButtonElement;
  readonly #thinking: HTMLElement;
  readonly #jump: HTMLButtonElement;
  readonly #jumpLabel = h("span");
  readonly #empty: HTMLElement;
  readonly #observer: ResizeObserver | undefined;
  readonly #actions: Actions;
  readonly #bubbles = new Map<string, Bubble>();
  #messages: readonly Message[] = [];
  #entries: readonly Entry[] = [];
  #me = "";
  /** The index of the first message drawn. */
  #first = 0;
  #firstId: string | undefined;
  /** The last message that the reader, being at the end, has had before their eyes. */
  #seen: string | undefined;
  #atEnd = true;
  #top = 0;

  constructor(label: string, actions: Actions) {
    this.#actions = actions;
    this.#earlier = button("agentstore-earlier", "Show earlier messages", () => { this.#showEarlier(); });
    this.#thinking = h(
      "div",
      { class: "agentstore-thinking", role: "status" },
      h("span", { class: "agentstore-avatar", "aria-hidden": "true" }, icon("agent")),
      h("span", { class: "agentstore-dots", "aria-hidden": "true" }, h("i"), h("i"), h("i")),
      h("span", { class: "agentstore-thinking-text" }, "Thinking…"),
    );
    this.#empty = h(
      "div",
      { class: "agentstore-empty" },
      icon("chat"),
      h("p", { class: "agentstore-empty-title" }, "What shall we talk about?"),
      h("p", {}, "Write the first message below; the agent answers here."),
      h("p", { class: "agentstore-empty-hint" }, "Each message is also a row: ", h("code", {}, 'store.df("messages")')),
    );
    this.#scroller = h(
      "div",
      { class: "agentstore-log", role: "log", "aria-live": "polite", "aria-label": label, tabindex: "0" },
      this.#earlier,
      this.#empty,
      this.#list,
    );
    this.#jump = button("agentstore-jump", "Go to the end", () => {
      this.toEnd();
      this.#scroller.focus({ preventScroll: true });
    }, icon("down"), this.#jumpLabel);
    this.element = h("div", { class: "agentstore-log-frame" }, this.#scroller, this.#jump);

    this.#scroller.addEventListener("scroll", () => { this.#scrolled(); }, { passive: true });
    if (typeof ResizeObserver !== "undefined") {
      // Also when the notebook takes the cell out of the page and puts it back, which forgets where one was.
      this.#observer = new ResizeObserver(() => { this.#settle(); });
      this.#observer.observe(this.#scroller);
      this.#observer.observe(this.#list);
    }
    this.#drawJump();
  }

  /** Draws the conversation as it is now. */
  update(messages: readonly Message[], entries: readonly Entry[], thinking: boolean, me: string): void {
    const grown = this.#entries.length < entries.length;
    this.#messages = messages;
    this.#entries = entries;
    this.#me = me;
    // What was drawn first may have another index now: a pane is given the last messages only, and they move on.
    if (this.#firstId === undefined) {
      this.#first = Math.max(0, messages.length - PAGE);
    } else if (this.#first > 0) {
      this.#first = Math.max(0, messages.findIndex(({ id }) => id === this.#firstId));
    }
    if (this.#atEnd && messages.length - this.#first > MOST) {
      this.#first = messages.length - PAGE;
    }
    this.#steadily(() => { this.#draw(); });
    this.#empty.hidden = messages.length + entries.length > 0 || thinking;
    if (!thinking) {
      this.#thinking.remove();
    } else if (this.#thinking.parentElement === null) {
      this.#scroller.append(this.#thinking);
    }
    if (grown) {
      this.toEnd();
    } else {
      this.#settle();
    }
  }

  toEnd(): void {
    this.#atEnd = true;
    this.#settle();
  }

  tick(now: Date): void {
    for (const bubble of this.#bubbles.values()) {
      bubble.tick(now);
    }
  }

  close(): void {
    this.#observer?.disconnect();
  }

  #items(): Item[] {
    const items: Item[] = [];
    let above = this.#messages[this.#first - 1];
    const add = (message: Message, entry: Entry | undefined) => {
      const continued =
        above !== undefined &&
        items.length > 0 &&
        author(above) === author(message) &&
        above.actor === message.actor &&
        Math.abs(Date.parse(message.timestamp) - Date.parse(above.timestamp)) < TOGETHER;
      const mine = entry !== undefined || (this.#me !== "" && message.actor === this.#me);
      items.push({ message, entry, continued, mine });
      above = message;
    };
    for (const message of this.#messages.slice(this.#first)) {
      add(message, undefined);
    }
    for (const entry of this.#entries) {
      const { id, content, timestamp } = entry;
      add({ id, content, timestamp, role: "user", actor: this.#me, agent: false }, entry);
    }
    return items;
  }

  #draw(): void {
    const items = this.#items();
    const wanted = new Set(items.map(({ message }) => message.id));
    for (const [id, bubble] of this.#bubbles) {
      if (!wanted.has(id)) {
        bubble.element.remove();
        this.#bubbles.delete(id);
      }
    }
    let next = this.#list.firstElementChild;
    for (const item of items) {
      let bubble = this.#bubbles.get(item.message.id);
      if (bubble === undefined) {
        bubble = new Bubble(this.#actions);
        this.#bubbles.set(item.message.id, bubble);
      }
      bubble.update(item);
      if (bubble.element === next) {
        next = next.nextElementSibling;
      } else {
        this.#list.insertBefore(bubble.element, next);
      }
    }
    this.#firstId = this.#messages[this.#first]?.id;
    this.#earlier.hidden = this.#first === 0;
    this.#earlier.textContent = `Show earlier messages (${this.#first})`;
  }

  #showEarlier(): void {
    this.#atEnd = false;
    this.#first = Math.max(0, this.#first - PAGE);
    // These are not news: say nothing.
    this.#scroller.setAttribute("aria-live", "off");
    this.#steadily(() => { this.#draw(); });
    setTimeout(() => { this.#scroller.setAttribute("aria-live", "polite"); }, 500);
    // The button that had the focus may be gone; the keys shall go on scrolling.
    this.#scroller.focus({ preventScroll: true });
    this.#settle();
  }

  /** Changes what is drawn, and keeps what the reader looks at where it is. */
  #steadily(change: () => void): void {
    if (this.#scroller.clientHeight > 0) {
      this.#top = this.#scroller.scrollTop;
    }
    const top = this.#scroller.getBoundingClientRect().top;
    const read = this.#atEnd
      ? undefined
      : [...this.#list.children].find((child) => child.getBoundingClientRect().bottom > top);
    const before = read?.getBoundingClientRect().top ?? 0;
    change();
    if (read?.isConnected === true) {
      this.#top += read.getBoundingClientRect().top - before;
    }
  }

  #scrolled(): void {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    if (clientHeight === 0) {
      return;
    }
    this.#top = scrollTop;
    this.#atEnd = scrollHeight - scrollTop - clientHeight < NEAR;
    this.#drawJump();
  }

  /** Puts the reader where they were: at the end, or where they had scrolled to. */
  #settle(): void {
    if (this.#scroller.clientHeight > 0) {
      this.#scroller.scrollTop = this.#atEnd ? this.#scroller.scrollHeight : this.#top;
    }
    this.#drawJump();
  }

  #drawJump(): void {
    if (this.#atEnd) {
      this.#seen = this.#messages.at(-1)?.id;
    }
    this.#jump.hidden = this.#atEnd;
    const unread = this.#messages.length - 1 - this.#messages.findLastIndex(({ id }) => id === this.#seen);
    const label = unread === 0 ? "" : unread === 1 ? "1 new message" : `${unread} new messages`;
    if (this.#jumpLabel.textContent !== label) {
      this.#jumpLabel.textContent = label;
    }
    this.#jump.setAttribute("aria-label", label === "" ? "Go to the end" : `${label}: go to the end`);
    this.#jump.title = "Go to the end";
  }
}
