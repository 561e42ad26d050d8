// Messages on their way: shown at once, kept until the conversation has them, never lost when that fails.
import type { Answer, Message } from "./channel";
import { uuid } from "./dom";

export interface Entry {
  readonly id: string;
  readonly content: string;
  readonly timestamp: string;
  readonly state: "sending" | "slow" | "sent" | "failed";
  /** Why it failed. */
  readonly reason: string;
}

/** After this long without an answer (ms) the reader is told that something is slow; a cell that runs is one cause. */
const SLOW = 5_000;

/** One for each conversation, however many panes show it. */
export class Outbox {
  /** What is in the composer and not sent yet. */
  draft = "";
  /** The actor that messages sent from here turned out to have; empty before the first. */
  me = "";
  #entries = new Map<string, Entry>();
  readonly #listeners = new Set<() => void>();
  readonly #timers = new Map<string, ReturnType<typeof setTimeout>>();
  readonly #post: (id: string, content: string) => void;

  constructor(post: (id: string, content: string) => void) {
    this.#post = post;
  }

  /** In the order in which they were sent. */
  get entries(): Entry[] {
    return [...this.#entries.values()];
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  send(content: string): string {
    const id = uuid();
    this.#hand({ id, content, timestamp: new Date().toISOString(), state: "sending", reason: "" });
    return id;
  }

  /** Sends it once more under its id, so that it cannot be there twice. */
  retry(id: string): void {
    const entry = this.#entries.get(id);
    if (entry !== undefined && (entry.state === "failed" || entry.state === "slow")) {
      this.#hand({ ...entry, state: "sending", reason: "" });
    }
  }

  /** Takes back one that failed and gives its text. */
  takeBack(id: string): string {
    const entry = this.#entries.get(id);
    if (entry?.state !== "failed") {
      return "";
    }
    this.#forget(id);
    this.#changed();
    return entry.content;
  }

  answer(answer: Answer): void {
    const entry = this.#entries.get(answer.id);
    if (entry === undefined) {
      return;
    }
    if (answer.type === "sent") {
      this.#put({ ...entry, state: "sent", reason: "" });
    } else {
      this.#put({ ...entry, state: "failed", reason: answer.message });
    }
    this.#changed();
  }

  /** Lets go of those that the conversation has. */
  confirm(messages: readonly Message[]): void {
    if (this.#entries.size === 0) {
      return;
    }
    let some = false;
    for (const { id, actor } of messages) {
      if (this.#forget(id)) {
        this.me = actor;
        some = true;
      }
    }
    if (some) {
      this.#changed();
    }
  }

  close(): void {
    for (const timer of this.#timers.values()) {
      clearTimeout(timer);
    }
    this.#timers.clear();
    this.#listeners.clear();
  }

  #hand(entry: Entry): void {
    this.#put(entry);
    this.#timers.set(
      entry.id,
      setTimeout(() => {
        this.#put({ ...entry, state: "slow" });
        this.#changed();
      }, SLOW),
    );
    try {
      this.#post(entry.id, entry.content);
    } catch (error) {
      this.#put({ ...entry, state: "failed", reason: error instanceof Error ? error.message : String(error) });
    }
    this.#changed();
  }

  #put(entry: Entry): void {
    clearTimeout(this.#timers.get(entry.id));
    this.#timers.delete(entry.id);
    this.#entries.set(entry.id, entry);
  }

  #forget(id: string): boolean {
    clearTimeout(this.#timers.get(id));
    this.#timers.delete(id);
    return this.#entries.delete(id);
  }

  #changed(): void {
    for (const listener of this.#listeners) {
      listener();
    }
  }
}
