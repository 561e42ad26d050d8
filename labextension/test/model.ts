// A model as anywidget hands it over, for tests.
import type { AnyModel } from "@anywidget/types";
import type { Message } from "../src/chat/channel";
import widget from "../src/widget";

export interface Sent {
  readonly type: string;
  readonly id: string;
  readonly content: string;
}

export class Model {
  readonly sent: Sent[] = [];
  broken = "";
  readonly #state: Record<string, unknown>;
  readonly #listeners = new Map<string, Set<(...values: unknown[]) => void>>();

  constructor(state: Record<string, unknown> = {}) {
    this.#state = { messages: [], thinking: false, title: "Coffee", status: "connected", error: "", pending: 0, ...state };
  }

  get(name: string): unknown {
    return this.#state[name];
  }

  /** As one update from the kernel. */
  async update(state: Record<string, unknown>): Promise<void> {
    Object.assign(this.#state, state);
    for (const name of Object.keys(state)) {
      this.#call(`change:${name}`);
    }
    await Promise.resolve();
  }

  /** As after a restart of the kernel. */
  async die(): Promise<void> {
    this.#call("comm_live_update");
    await Promise.resolve();
  }

  answer(message: unknown): void {
    this.#call("msg:custom", message);
  }

  on(name: string, listener: (...values: unknown[]) => void): void {
    this.#listeners.set(name, (this.#listeners.get(name) ?? new Set()).add(listener));
  }

  off(name: string, listener: (...values: unknown[]) => void): void {
    this.#listeners.get(name)?.delete(listener);
  }

  send(content: Sent): void {
    if (this.broken !== "") {
      throw new Error(this.broken);
    }
    this.sent.push(content);
  }

  get listeners(): number {
    return [...this.#listeners.values()].reduce((sum, set) => sum + set.size, 0);
  }

  #call(name: string, ...values: unknown[]): void {
    for (const listener of this.#listeners.get(name) ?? []) {
      listener(...values);
    }
  }
}

export interface Shown {
  readonly model: Model;
  readonly root: HTMLElement;
  readonly area: HTMLTextAreaElement;
  readonly again: () => HTMLElement;
  readonly close: () => void;
}

/** A pane on a model, in the page. */
export function show(state: Record<string, unknown> = {}): Shown {
  const model = new Model(state);
  const any = model as unknown as AnyModel<never>;
  const definition = widget();
  const stop = definition.initialize({ model: any } as never);
  const stops: (() => void)[] = [stop];
  const again = (): HTMLElement => {
    const el = document.createElement("div");
    document.body.append(el);
    stops.unshift(definition.render({ model: any, el } as never));
    return el;
  };
  const root = again();
  return {
    model,
    root,
    area: one(root, "textarea"),
    again,
    close: () => {
      for (const end of stops) {
        end();
      }
    },
  };
}

// eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters -- as querySelector does
export function one<E extends HTMLElement>(root: HTMLElement, selector: string): E {
  const found = root.querySelector<E>(selector);
  if (found === null) {
    throw new Error(`there is no ${selector}`);
  }
  return found;
}

export const bodies = (root: HTMLElement): string[] =>
  [...root.querySelectorAll(".agentstore-body")].map((body) => body.textContent.trim());

export function press(area: HTMLElement, key: string, more: KeyboardEventInit & { keyCode?: number } = {}): KeyboardEvent {
  const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more });
  area.dispatchEvent(event);
  return event;
}

export function type(area: HTMLTextAreaElement, text: string): void {
  area.value = text;
  area.dispatchEvent(new Event("input", { bubbles: true }));
}

export function message(n: number, more: Partial<Message> = {}): Message {
  return {
    id: `m${n}`,
    role: n % 2 === 0 ? "user" : "assistant",
    content: `message ${n}`,
    timestamp: new Date(Date.UTC(2026, 0, 1, 10, n)).toISOString(),
    actor: n % 2 === 0 ? "ada" : "agent:simulated",
    agent: n % 2 !== 0,
    ...more,
  };
}

export const messages = (count: number): Message[] => Array.from({ length: count }, (_, n) => message(n));

