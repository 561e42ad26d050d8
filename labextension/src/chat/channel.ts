// What a pane needs of whoever knows the conversation. A pane runs on anything that gives it a Channel.

/** One message as the store has it. `content` was written by anybody and is trusted by nobody. */
export interface Message {
  readonly id: string;
  readonly role: string;
  readonly content: string;
  /** ISO-8601. */
  readonly timestamp: string;
  /** Who wrote it, as authenticated. */
  readonly actor: string;
  /** Whether the actor is the agent. `role` is a claim, this is not. */
  readonly agent: boolean;
}

export type Status = "connected" | "connecting" | "embedded" | "closed";

/** The conversation as of now. */
export interface Snapshot {
  readonly messages: readonly Message[];
  readonly thinking: boolean;
  readonly title: string;
  readonly status: Status;
  /** What went wrong, in words for the reader; empty if nothing did. */
  readonly error: string;
  /** How many commits wait for the server. */
  readonly pending: number;
  /** The reader's own actor; empty if that is not known. */
  readonly me: string;
}

/** What became of a message that was sent. */
export type Answer =
  | { readonly type: "sent"; readonly id: string }
  | { readonly type: "failed"; readonly id: string; readonly message: string };

export type Unsubscribe = () => void;

export interface Channel {
  read(): Snapshot;
  /** Calls back after each change, once for changes that come together. */
  onChange(listener: () => void): Unsubscribe;
  onAnswer(listener: (answer: Answer) => void): Unsubscribe;
  /** Hands a message over; the same id again is the same message. Throws if there is nobody to take it. */
  send(id: string, content: string): void;
}
