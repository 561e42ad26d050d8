/**
 * A LiveStore app without a face: it is told what to do by lines of JSON on standard input, and says what came of it
 * by lines of JSON on standard output.
 *
 * A command `{"id", "do", …}` is answered by `{"id", "value"}` or `{"id", "error"}`. What happens by itself comes
 * as `{"event", …}`: `network` when the server is reached or lost, `socket` when a connection fails, `log` for
 * LiveStore's own warnings, `shutdown` when the store has ended.
 */

import { createInterface } from "node:readline";

import { makeAdapter } from "@livestore/adapter-node";
import { createStorePromise, type LiveStoreEvent, makeShutdownDeferred, type Store } from "@livestore/livestore";
import { makeWsSync } from "@livestore/sync-cf/client";
import { Cause, Deferred, Effect, Exit, Fiber, Logger, LogLevel, Stream } from "@livestore/utils/effect";
import { WebSocket } from "ws";

import { schema, SyncPayload, tables } from "./schema.ts";

type App = Store<typeof schema>;
type Table = "conversations" | "messages" | "conversationMemory";
type Row = Readonly<Record<string, unknown>>;

interface Opening {
  url: string;
  storeId: string;
  authToken: string;
  clientId: string;
  sessionId: string;
  /** Where the app keeps its data; without it, in memory. */
  directory?: string;
  onBackendIdMismatch?: "reset" | "shutdown";
}

type Command =
  | ({ do: "open" } & Opening)
  | { do: "commit"; events: LiveStoreEvent.Input.ForSchema<typeof schema>[] }
  | { do: "rows"; table: Table; where: Row }
  | { do: "wait"; table: Table; where: Row; count: number }
  | { do: "log"; count: number }
  | { do: "close" };

/** Node 20 has no WebSocket of its own; this one also says why a connection failed. */
class LoudWebSocket extends WebSocket {
  constructor(url: string | URL) {
    super(url);
    this.on("error", (error) => {
      say({ event: "socket", error: error.message });
    });
  }
}

function say(line: Readonly<Record<string, unknown>>): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

const logger = Logger.replace(
  Logger.defaultLogger,
  Logger.make(({ logLevel, message, cause }) => {
    say({ event: "log", level: logLevel.label, message: [message].flat().map(String), cause: Cause.pretty(cause) });
  }),
);

let store: App | undefined;
let network: Fiber.RuntimeFiber<void> | undefined;

function opened(): App {
  if (store === undefined) throw new Error("No store is open.");
  return store;
}

async function open(options: Opening): Promise<void> {
  if (store !== undefined) throw new Error("A store is open already.");
  const ended = Effect.runSync(makeShutdownDeferred);
  const { directory } = options;
  store = await createStorePromise({
    schema,
    storeId: options.storeId,
    adapter: makeAdapter({
      storage: directory === undefined ? { type: "in-memory" } : { type: "fs", baseDirectory: directory },
      clientId: options.clientId,
      sessionId: options.sessionId,
      sync: {
        backend: makeWsSync({ url: options.url }),
        // The default is to go on as if offline, without a word.
        onSyncError: "shutdown",
        ...(options.onBackendIdMismatch && { onBackendIdMismatch: options.onBackendIdMismatch }),
      },
    }),
    syncPayloadSchema: SyncPayload,
    syncPayload: { authToken: options.authToken },
    disableDevtools: true,
    shutdownDeferred: ended,
    logger,
    logLevel: LogLevel.Info,
  });
  network = Effect.runFork(
    store.networkStatus.changes.pipe(
      Stream.map((status) => status.isConnected),
      Stream.changes,
      Stream.runForEach((connected) => Effect.sync(() => { say({ event: "network", connected }); })),
    ),
  );
  Effect.runCallback(Deferred.await(ended), { onExit: (exit) => { shutDown(exit); } });
}

function shutDown(exit: Exit.Exit<unknown, unknown>): void {
  const why = Exit.isSuccess(exit) ? exit.value : Cause.squash(exit.cause);
  store = undefined;
  if (network !== undefined) Effect.runFork(Fiber.interrupt(network));
  say({ event: "shutdown", failed: Exit.isFailure(exit), cause: why });
}

function query(table: Table, where: Row) {
  // One shape for three tables: the compiler cannot tell which columns a command may name.
  return (tables[table] as typeof tables.messages).where(where as { id?: string }).orderBy("id", "asc");
}

/** The rows, once there are as many. */
function wait(table: Table, where: Row, count: number): Promise<readonly Row[]> {
  return new Promise((resolve) => {
    const found = (rows: readonly Row[]) => {
      if (rows.length < count) return;
      resolve(rows);
      // The first call may come before `subscribe` returns.
      queueMicrotask(() => { unsubscribe(); });
    };
    const unsubscribe = opened().subscribe(query(table, where), found);
  });
}

/** The first events that the server has confirmed. */
async function log(count: number): Promise<unknown[]> {
  const events: unknown[] = [];
  if (count > 0) {
    for await (const event of opened().events()) {
      const { name, args, seqNum, clientId, sessionId } = event as LiveStoreEvent.Client.Decoded;
      events.push({ name, args, seqNum: seqNum.global, clientId, sessionId });
      if (events.length === count) break;
    }
  }
  return events;
}

async function carryOut(command: Command): Promise<unknown> {
  switch (command.do) {
    case "open":
      return open(command);
    case "commit":
      opened().commit(...command.events);
      return null;
    case "rows":
      return opened().query(query(command.table, command.where));
    case "wait":
      return wait(command.table, command.where, command.count);
    case "log":
      return log(command.count);
    case "close":
      return opened().shutdownPromise();
  }
}

async function obey(line: string): Promise<void> {
  const { id, ...command } = JSON.parse(line) as { id: number } & Command;
  try {
    say({ id, value: (await carryOut(command as Command)) ?? null });
  } catch (error) {
    say({ id, error: String(error) });
  }
}

globalThis.WebSocket = LoudWebSocket as unknown as typeof globalThis.WebSocket;
console.log = console.info = console.debug = console.error;
const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => void obey(line));
lines.on("close", () => process.exit());
say({ event: "ready" });
