// One message as it is drawn: who, when, what, and how far it has come.
import type { Message } from "./channel";
import { button, h, icon } from "./dom";
import { LONG, markdown, plain } from "./markdown";
import type { Entry } from "./outbox";
import { exactly, moment } from "./time";

/** All that a bubble shows. */
export interface Item {
  readonly message: Message;
  /** Undefined once the conversation has it. */
  readonly entry: Entry | undefined;
  /** By the same author and soon after the one above. */
  readonly continued: boolean;
  /** Whether it is the reader's own. */
  readonly mine: boolean;
}

export interface Actions {
  retry(id: string): void;
  edit(id: string): void;
}

/** Whom a message is by, as far as that is certain. */
export function author({ role, agent }: Message): "agent" | "user" | "claimed" | "system" {
  if (agent) {
    return "agent";
  }
  if (role === "user") {
    return "user";
  }
  return role === "system" ? "system" : "claimed";
}

export class Bubble {
  readonly element: HTMLElement = h("article", { class: "agentstore-message" });
  readonly #time = h("time");
  readonly #body = h("div", { class: "agentstore-body", dir: "auto" });
  readonly #actions: Actions;
  #item: Item | undefined;

  constructor(actions: Actions) {
    this.#actions = actions;
  }

  /** Draws what differs from the last time. */
  update(item: Item): void {
    const last = this.#item;
    this.#item = item;
    if (last?.message.content !== item.message.content) {
      this.#draw(item.message.content);
    }
    if (last === undefined || frameOf(last) !== frameOf(item)) {
      this.#frame(item);
    }
  }

  /** Says anew how long ago it was. */
  tick(now: Date): void {
    const text = moment(new Date(this.#item?.message.timestamp ?? ""), now);
    if (this.#time.textContent !== text) {
      this.#time.textContent = text;
    }
  }

  #draw(content: string): void {
    if (content.length <= LONG) {
      this.#body.replaceChildren(markdown(content));
      return;
    }
    const more = button("agentstore-more", `Show all of it (${Math.round(content.length / 1000)} kB)`, () => {
      this.#body.replaceChildren(plain(content));
    });
    this.#body.replaceChildren(markdown(content.slice(0, LONG)), more);
  }

  #frame(item: Item): void {
    const { message, entry, continued, mine } = item;
    const by = author(message);
    const names = { agent: "Agent", user: mine ? "You" : message.actor, claimed: message.actor, system: "System" };
    const time = new Date(message.timestamp);
    this.#time.dateTime = message.timestamp;
    this.#time.title = exactly(time);
    this.tick(new Date());

    const head = h("header", { class: "agentstore-by" }, h("span", { class: "agentstore-name" }, names[by] || "Unknown"));
    if (by === "claimed") {
      head.append(
        h(
          "span",
          { class: "agentstore-tag", title: `Written as “${message.role}” by ${message.actor}, who is not the agent` },
          icon("warning"),
          "not from the agent",
        ),
      );
    }
    head.append(this.#time);
    this.element.dataset.by = by;
    this.element.toggleAttribute("data-continued", continued);
    this.element.dataset.state = entry?.state ?? "there";
    this.element.replaceChildren(
      ...(by === "agent" ? [h("span", { class: "agentstore-avatar", "aria-hidden": "true" }, icon("agent"))] : []),
      head,
      this.#body,
      ...(entry === undefined ? [] : this.#foot(entry)),
    );
  }

  #foot(entry: Entry): HTMLElement[] {
    switch (entry.state) {
      case "sending":
        return [h("footer", { class: "agentstore-foot" }, "Sending…")];
      case "slow":
        return [
          h(
            "footer",
            { class: "agentstore-foot" },
            h(
              "span",
              {},
              "Still on its way: the kernel may be busy, or the server away. ",
              button("agentstore-link", "Send again", () => { this.#actions.retry(entry.id); }),
            ),
          ),
        ];
      case "failed":
        return [
          h(
            "footer",
            { class: "agentstore-foot agentstore-failed", role: "alert" },
            icon("warning"),
            h(
              "span",
              {},
              entry.reason === "" ? "Not sent. " : `Not sent: ${entry.reason} `,
              button("agentstore-link", "Try again", () => { this.#actions.retry(entry.id); }),
              button("agentstore-link", "Edit", () => { this.#actions.edit(entry.id); }),
            ),
          ),
        ];
      case "sent":
        return [];
    }
  }
}

/** Everything around the text, to compare. */
function frameOf({ message, entry, continued, mine }: Item): string {
  const { role, agent, actor, timestamp } = message;
  return JSON.stringify([role, agent, actor, timestamp, entry?.state, entry?.reason, continued, mine]);
}
