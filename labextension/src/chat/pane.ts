// The chat pane: a title, the messages, a place to write. It draws a Channel and knows nothing of where it runs.
import type { Channel, Snapshot, Status } from "./channel";
import { Composer } from "./composer";
import { button, h, icon } from "./dom";
import { Log } from "./log";
import type { Outbox } from "./outbox";

const STATUS: Record<Status, { label: string; explanation: string }> = {
  connected: { label: "Live", explanation: "Connected to the server" },
  connecting: { label: "Connecting…", explanation: "The server cannot be reached now; messages wait and are sent then" },
  embedded: { label: "In this kernel", explanation: "There is no server: the store lives in this notebook's kernel" },
  closed: { label: "Closed", explanation: "Run the cell again to go on" },
};

/** How often (ms) "5 min ago" is brought up to date. */
const TICK = 30_000;

/** Draws the conversation into an element. Returns what ends it. */
export function pane(root: HTMLElement, channel: Channel, outbox: Outbox): () => void {
  const title = h("span", { class: "agentstore-title" });
  const status = h("span", { class: "agentstore-status", role: "status" });
  const error = h("span");
  const alert = h("div", { class: "agentstore-error", role: "alert" });
  const composer = new Composer(outbox.draft, {
    send(content) {
      outbox.send(content);
    },
    draft(content) {
      outbox.draft = content;
    },
  });
  const log = new Log("Conversation", {
    retry(id) {
      outbox.retry(id);
      composer.focus();
    },
    edit(id) {
      composer.put(outbox.takeBack(id));
    },
  });
  const dismiss = button("agentstore-link", "Dismiss", () => { alert.hidden = true; });
  let shown: string | undefined;

  const draw = (): void => {
    const now: Snapshot = channel.read();
    title.textContent = now.title === "" ? "Conversation" : now.title;
    title.title = now.title;
    root.setAttribute("aria-label", `Chat: ${title.textContent}`);
    drawStatus(status, now);
    composer.open = now.status !== "closed";
    if (shown !== now.error) {
      shown = now.error;
      error.textContent = now.error;
      alert.hidden = now.error === "";
    }
    outbox.confirm(now.messages);
    log.update(now.messages, outbox.entries, now.thinking, now.me || outbox.me);
  };

  root.classList.add("agentstore-chat");
  root.setAttribute("role", "region");
  alert.append(icon("warning"), error, dismiss);
  root.replaceChildren(
    h("div", { class: "agentstore-head" }, title, status),
    log.element,
    alert,
    composer.element,
  );
  draw();
  const stops = [channel.onChange(draw), outbox.onChange(draw), keepKeys(root, composer)];
  const timer = setInterval(() => { log.tick(new Date()); }, TICK);
  return () => {
    clearInterval(timer);
    log.close();
    for (const stop of stops) {
      stop();
    }
  };
}

/**
 * Keeps keys that are pressed in here from the notebook around. JupyterLab listens at the document before anybody else:
 * there x cuts the cell, Shift+Enter runs it, and line breaks and undoing are taken from any text box in a cell. Only
 * the window comes earlier. What has a modifier otherwise, such as saving, is the host's.
 */
function keepKeys(root: HTMLElement, composer: Composer): () => void {
  const take = (event: KeyboardEvent): void => {
    const target = event.composedPath()[0];
    const modified = event.ctrlKey || event.metaKey || event.altKey;
    const taken = modified ? /^(?:enter|[zy])$/i.test(event.key) : !/^(?:Escape|F\d+)$/.test(event.key);
    if (taken && target instanceof Node && root.contains(target)) {
      event.stopPropagation();
      composer.key(event, target);
    }
  };
  window.addEventListener("keydown", take, true);
  return () => { window.removeEventListener("keydown", take, true); };
}

function drawStatus(element: HTMLElement, { status, pending }: Snapshot): void {
  const { label, explanation } = STATUS[status];
  const waiting = pending > 0 && status !== "closed" ? ` · ${pending} to send` : "";
  element.dataset.status = status;
  element.title = explanation;
  if (element.textContent !== label + waiting) {
    element.textContent = label + waiting;
  }
}
