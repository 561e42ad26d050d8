// What anywidget asks of a front end, and nothing else: it ties a model's traits and messages to the pane.
import type { AnyModel, InitializeProps, RenderProps } from "@anywidget/types";
import type { Answer, Channel, Snapshot } from "./chat/channel";
import { Outbox } from "./chat/outbox";
import { pane } from "./chat/pane";

type Traits = Omit<Snapshot, "me"> & { readonly me?: string } & Record<string, unknown>;
type Model = AnyModel<Traits>;

const TRAITS = ["messages", "thinking", "title", "status", "error", "pending", "me"] as const;

/** What Backbone calls listeners on: anywidget makes it the view, which has the real model. */
interface View {
  readonly model?: { readonly comm_live?: boolean };
}

function channelTo(model: Model): Channel {
  // Nobody is at the other end any more once the kernel has restarted.
  let live = true;
  return {
    read: () => ({
      messages: model.get("messages"),
      thinking: model.get("thinking"),
      title: model.get("title"),
      status: live ? model.get("status") : "closed",
      error: model.get("error"),
      pending: model.get("pending"),
      me: model.get("me") ?? "",
    }),
    onChange(listener) {
      // One update from the kernel changes several traits, one after the other.
      let due = false;
      let stopped = false;
      const changed = (): void => {
        if (!due) {
          due = true;
          queueMicrotask(() => {
            due = false;
            if (!stopped) {
              listener();
            }
          });
        }
      };
      const lived = function (this: View | undefined): void {
        live = this?.model?.comm_live === true;
        changed();
      };
      for (const name of TRAITS) {
        model.on(`change:${name}`, changed);
      }
      model.on("comm_live_update", lived);
      return () => {
        stopped = true;
        for (const name of TRAITS) {
          model.off(`change:${name}`, changed);
        }
        model.off("comm_live_update", lived);
      };
    },
    onAnswer(listener) {
      const received = (message: unknown): void => {
        if (isAnswer(message)) {
          listener(message);
        }
      };
      model.on("msg:custom", received);
      return () => { model.off("msg:custom", received); };
    },
    send(id, content) {
      model.send({ type: "send", id, content });
    },
  };
}

function isAnswer(message: unknown): message is Answer {
  const type = (message as { type?: unknown } | null)?.type;
  return type === "sent" || type === "failed";
}

/** Called once for each model; what its panes share lives here: what was sent and what is being written. */
export default () => {
  let outbox: Outbox | undefined;
  return {
    initialize({ model }: InitializeProps<Traits>): () => void {
      const channel = channelTo(model);
      const box = new Outbox((id, content) => { channel.send(id, content); });
      const stop = channel.onAnswer((answer) => { box.answer(answer); });
      outbox = box;
      return () => {
        stop();
        box.close();
      };
    },
    render({ model, el }: RenderProps<Traits>): () => void {
      if (outbox === undefined) {
        throw new Error("initialize comes before render");
      }
      return pane(el, channelTo(model), outbox);
    },
  };
};
