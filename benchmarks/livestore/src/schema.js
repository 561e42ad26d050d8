/** The agent's conversations and messages, as an app declares them. */

import { Events, makeSchema, Schema, State } from "@livestore/livestore";

const now = { sql: "(CAST(unixepoch('subsec') * 1000 AS INTEGER))" };
const text = () => State.SQLite.text();

export const tables = {
  conversations: State.SQLite.table({
    name: "conversations",
    columns: {
      id: State.SQLite.text({ primaryKey: true }),
      userId: text(),
      title: text(),
      personality: text(),
      instructions: text(),
    },
  }),
  messages: State.SQLite.table({
    name: "messages",
    columns: {
      id: State.SQLite.text({ primaryKey: true }),
      conversationId: text(),
      role: text(),
      content: text(),
      timestamp: State.SQLite.integer({ schema: Schema.DateFromNumber, default: now }),
      metadata: State.SQLite.text({ nullable: true }),
    },
    indexes: [{ name: "byConversation", columns: ["conversationId"] }],
  }),
};

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
      role: Schema.Literal("user", "assistant", "system"),
      content: Schema.String,
      metadata: Schema.NullOr(Schema.String),
    }),
  }),
};

const materializers = State.SQLite.materializers(events, {
  "v1.ConversationCreated": (conversation) => tables.conversations.insert(conversation),
  "v1.MessageAdded": (message) => tables.messages.insert(message),
});

export const schema = makeSchema({ events, state: State.SQLite.makeState({ tables, materializers }) });
