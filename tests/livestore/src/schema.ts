/**
 * The agent's events and tables, as an app that talks to it declares them: the four events of the protocol, and the
 * tables that the app reads.
 *
 * Events carry no time but `updatedAt`, so the database's own clock fills in when a row came about on this device.
 */

import { Events, makeSchema, Schema, SessionIdSymbol, State } from "@livestore/livestore";

const now = { sql: "(CAST(unixepoch('subsec') * 1000 AS INTEGER))" };

export const tables = {
  conversations: State.SQLite.table({
    name: "conversations",
    columns: {
      id: State.SQLite.text({ primaryKey: true }),
      userId: State.SQLite.text(),
      title: State.SQLite.text({ default: "" }),
      createdAt: State.SQLite.integer({ schema: Schema.DateFromNumber, default: now }),
      updatedAt: State.SQLite.integer({ schema: Schema.DateFromNumber, default: now }),
      personality: State.SQLite.text({ default: "helpful and friendly" }),
      instructions: State.SQLite.text({ default: "Be helpful and accurate" }),
      status: State.SQLite.text({ default: "active" }),
    },
  }),
  messages: State.SQLite.table({
    name: "messages",
    columns: {
      id: State.SQLite.text({ primaryKey: true }),
      conversationId: State.SQLite.text(),
      role: State.SQLite.text(),
      content: State.SQLite.text(),
      timestamp: State.SQLite.integer({ schema: Schema.DateFromNumber, default: now }),
      metadata: State.SQLite.text({ nullable: true }),
    },
  }),
  conversationMemory: State.SQLite.table({
    name: "conversationMemory",
    columns: {
      id: State.SQLite.text({ primaryKey: true }),
      conversationId: State.SQLite.text(),
      fact: State.SQLite.text(),
      createdAt: State.SQLite.integer({ schema: Schema.DateFromNumber, default: now }),
    },
  }),
  agentState: State.SQLite.clientDocument({
    name: "agentState",
    schema: Schema.Struct({
      isThinking: Schema.Boolean,
      currentTask: Schema.NullOr(Schema.String),
      lastActivity: Schema.String,
      totalMessages: Schema.Number,
      activeConversations: Schema.Number,
    }),
    default: {
      id: SessionIdSymbol,
      value: {
        isThinking: false,
        currentTask: null,
        lastActivity: "",
        totalMessages: 0,
        activeConversations: 0,
      },
    },
  }),
};

const role = Schema.Literal("user", "assistant", "system");
const status = Schema.Literal("active", "paused", "archived");

export const events = {
  conversationCreated: Events.synced({
    name: "v1.ConversationCreated",
    schema: Schema.Struct({
      id: Schema.String,
      userId: Schema.String,
      title: Schema.String,
      personality: Schema.String,
      instructions: Schema.String,
    }),
  }),
  messageAdded: Events.synced({
    name: "v1.MessageAdded",
    schema: Schema.Struct({
      id: Schema.String,
      conversationId: Schema.String,
      role,
      content: Schema.String,
      metadata: Schema.NullOr(Schema.String),
    }),
  }),
  memoryAdded: Events.synced({
    name: "v1.MemoryAdded",
    schema: Schema.Struct({ id: Schema.String, conversationId: Schema.String, fact: Schema.String }),
  }),
  conversationUpdated: Events.synced({
    name: "v1.ConversationUpdated",
    schema: Schema.Struct({ id: Schema.String, updatedAt: Schema.String, status: Schema.optional(status) }),
  }),
  /** The app's own; the server's schema does not know it. */
  pinged: Events.synced({ name: "v1.Pinged", schema: Schema.Void }),
  agentStateSet: tables.agentState.set,
};

// As on the server, the first of two rows with one id stays. LiveStore 0.4.0 needs it, too: while it rebases, its
// session now and then inserts a row again that it has not taken back.
const materializers = State.SQLite.materializers(events, {
  "v1.ConversationCreated": (conversation) => tables.conversations.insert(conversation).onConflict("id", "ignore"),
  "v1.MessageAdded": (message) => tables.messages.insert(message).onConflict("id", "ignore"),
  "v1.MemoryAdded": (memory) => tables.conversationMemory.insert(memory).onConflict("id", "ignore"),
  "v1.ConversationUpdated": ({ id, updatedAt, status }) =>
    tables.conversations.update({ updatedAt: new Date(updatedAt), ...(status && { status }) }).where({ id }),
  "v1.Pinged": () => [],
});

export const schema = makeSchema({ events, state: State.SQLite.makeState({ tables, materializers }) });

export const SyncPayload = Schema.Struct({ authToken: Schema.String });
