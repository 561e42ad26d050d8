/**
 * Two LiveStore clients of one store in this process, and what is measured with them.
 *
 * Commands are lines of JSON on standard input, `{"do", …}`; each is answered by a line on standard output,
 * `{"value"}` or `{"error"}`. A client that ends by itself is an error of the command that runs, or of the next.
 */

import { createInterface } from "node:readline";
import { performance } from "node:perf_hooks";
import { setImmediate as turn, setTimeout as pause } from "node:timers/promises";

import { makeAdapter } from "@livestore/adapter-node";
import { createStorePromise, makeShutdownDeferred } from "@livestore/livestore";
import { makeWsSync } from "@livestore/sync-cf/client";
import { Cause, Deferred, Effect, Exit, Logger, LogLevel, Schema } from "@livestore/utils/effect";
import { WebSocket } from "ws";

import { events, schema, tables } from "./schema.js";

globalThis.WebSocket = WebSocket;
console.log = console.info = console.debug = console.error;

const CONVERSATION = "c0";
const PATIENCE = 60_000;
const WHOLE = 240_000;
const clients = [];
let texts = [];
let number = 0;
let died;
const ended = new Promise((_, reject) => (died = reject));
ended.catch(() => {});
process.on("uncaughtException", (error) => died(error));
process.on("unhandledRejection", (error) => died(error));

async function client(name, { url, authToken, storeId }) {
  const shutdownDeferred = Effect.runSync(makeShutdownDeferred);
  const store = await createStorePromise({
    schema,
    storeId,
    adapter: makeAdapter({
      storage: { type: "in-memory" },
      clientId: name,
      sessionId: `${name}-session`,
      sync: { backend: makeWsSync({ url }) },
    }),
    syncPayloadSchema: Schema.Struct({ authToken: Schema.String }),
    syncPayload: { authToken },
    disableDevtools: true,
    shutdownDeferred,
    logger: Logger.replace(Logger.defaultLogger, Logger.make(() => {})),
    logLevel: LogLevel.None,
  });
  Effect.runCallback(Deferred.await(shutdownDeferred), {
    onExit: (exit) => died(new Error(`a client ended with ${why(exit)}`)),
  });
  return store;
}

/** The innermost cause, in a few words: `SqliteError 19` is a constraint that was violated. */
function why(exit) {
  let cause = Exit.isSuccess(exit) ? exit.value : Cause.squash(exit.cause);
  let said = String(cause?.message ?? cause);
  for (; cause; cause = cause.cause) {
    if (cause._tag !== undefined) said = [cause._tag, cause.code ?? cause.cause?.code ?? cause.reason].join(" ").trim();
  }
  return said;
}

function message() {
  const [role, content] = texts[number % texts.length];
  const id = `m-${String(number++).padStart(9, "0")}`;
  return { id, conversationId: CONVERSATION, role, content, metadata: '{"imported":true}' };
}

const ofConversation = tables.messages.where({ conversationId: CONVERSATION });
const queries = { rows: ofConversation.orderBy("id", "desc").limit(1), sql: ofConversation.count() };

/** Resolves with the moment at which a subscription of that client first shows what `enough` wants to see. */
function visible(store, query, enough) {
  return new Promise((resolve) => {
    const unsubscribe = store.subscribe(query, (value) => {
      if (!enough(value)) return;
      resolve(performance.now());
      // The first call may come before `subscribe` returns.
      queueMicrotask(() => unsubscribe());
    });
  });
}

const count = (store) => store.query(queries.sql);
const reaches = (store, wanted) => visible(store, queries.sql, (found) => found >= wanted);

/** Commits on one client, one at a time; milliseconds until a subscription of the other has shown each. */
async function latencies({ kind, times }) {
  const [one, other] = clients;
  const taken = [];
  let wanted;
  let shown = () => {};
  const unsubscribe = other.subscribe(queries[kind], (value) => {
    if (kind === "rows" ? value[0]?.id === wanted : value === wanted) shown(performance.now());
  });
  for (let i = 0; i < times; i++) {
    await pause(1 + Math.random() * 15);
    const added = message();
    wanted = kind === "rows" ? added.id : count(other) + 1;
    const seen = new Promise((resolve) => (shown = resolve));
    const began = performance.now();
    one.commit(events.messageAdded(added));
    taken.push((await seen) - began);
  }
  unsubscribe();
  return taken;
}

/** Commits of `size` events each; seconds until the other client has all of them. */
async function batches({ total, size }) {
  const [one, other] = clients;
  const all = Array.from({ length: total }, () => events.messageAdded(message()));
  const done = reaches(other, count(other) + total);
  const began = performance.now();
  for (let first = 0; first < total; first += size) {
    one.commit(...all.slice(first, first + size));
    await turn();
  }
  return ((await done) - began) / 1e3;
}

/** Both clients commit at once, one event at a time; seconds until both have all of them, in the same order. */
async function both({ each }) {
  const wanted = count(clients[0]) + 2 * each;
  const began = performance.now();
  const done = clients.map((store) => reaches(store, wanted));
  await Promise.all(
    clients.map(async (store) => {
      for (let i = 0; i < each; i++) {
        store.commit(events.messageAdded(message()));
        await turn();
      }
    }),
  );
  const late = pause(PATIENCE).then(() => {
    throw new Error(`not all there after ${PATIENCE / 1e3} s: ${clients.map(count).join(" and ")} of ${wanted}`);
  });
  const at = Math.max(...(await Promise.race([Promise.all(done), late])));
  const logs = await Promise.all(clients.map((store) => log(store, wanted + 1)));
  return { seconds: (at - began) / 1e3, converged: logs[0] === logs[1] };
}

/** The first events that the server has confirmed. */
async function log(store, length) {
  const found = [];
  for await (const { seqNum, args } of store.events()) {
    found.push([seqNum.global, args.id]);
    if (found.length === length) return JSON.stringify(found);
  }
}

async function open({ url, authToken, storeId, said }) {
  texts = said;
  clients.push(await client("one", { url, authToken, storeId }));
  clients.push(await client("other", { url, authToken, storeId }));
  const conversation = { id: CONVERSATION, userId: "ann", title: "Coffee", personality: "kind", instructions: "Be so" };
  const there = visible(clients[1], tables.conversations.count(), (found) => found === 1);
  clients[0].commit(events.conversationCreated(conversation));
  await there;
}

async function late(name) {
  await pause(WHOLE, undefined, { ref: false });
  throw new Error(`${name} was not done after ${WHOLE / 1e3} s`);
}

const commands = { open, latencies, batches, both };

for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...given } = JSON.parse(line);
  let answer;
  try {
    answer = { value: (await Promise.race([commands[name](given), ended, late(name)])) ?? null };
  } catch (error) {
    answer = { error: String(error?.message ?? error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit();
