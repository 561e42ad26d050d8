import { afterEach, describe, expect, test, vi } from "vitest";
import { bodies, message, one, press, show, type } from "./model";

afterEach(() => {
  document.body.replaceChildren();
  vi.useRealTimers();
});

describe("writing", () => {
  test("Enter sends, and empties the box", () => {
    const { model, area } = show();
    type(area, "hello");
    expect(press(area, "Enter").defaultPrevented).toBe(true);
    expect(model.sent).toMatchObject([{ type: "send", content: "hello" }]);
    expect(area.value).toBe("");
  });

  test("Shift+Enter begins a new line", () => {
    const { model, area } = show();
    type(area, "hello");
    expect(press(area, "Enter", { shiftKey: true }).defaultPrevented).toBe(false);
    expect(model.sent).toEqual([]);
  });

  test.each([{ isComposing: true }, { keyCode: 229 }])("Enter that chooses a word of an input method does not send: %j", (how) => {
    const { model, area } = show();
    type(area, "にほん");
    expect(press(area, "Enter", how).defaultPrevented).toBe(false);
    expect(model.sent).toEqual([]);
    press(area, "Enter");
    expect(model.sent).toHaveLength(1);
  });

  test("nothing is not sent, nor only spaces", () => {
    const { model, root, area } = show();
    for (const text of ["", "   ", "\n \n"]) {
      type(area, text);
      press(area, "Enter");
      one<HTMLButtonElement>(root, ".agentstore-send").click();
    }
    expect(model.sent).toEqual([]);
  });

  test("empty lines around go, indentation stays", () => {
    const { model, area } = show();
    type(area, "\n\n    code\n  more\n\n");
    press(area, "Enter");
    expect(model.sent[0]?.content).toBe("    code\n  more");
  });

  test("the button sends too, and can be pressed when there is something", () => {
    const { model, root, area } = show();
    const send = one<HTMLButtonElement>(root, ".agentstore-send");
    expect(send.disabled).toBe(true);
    type(area, "hello");
    expect(send.disabled).toBe(false);
    send.click();
    expect(model.sent).toHaveLength(1);
    expect(send.disabled).toBe(true);
  });

  test("Enter does not reach the notebook around", () => {
    const { root, area } = show();
    const heard = vi.fn();
    root.parentElement?.addEventListener("keydown", heard);
    press(area, "Enter");
    press(area, "Enter", { shiftKey: true });
    expect(heard).not.toHaveBeenCalled();
  });

  test("the host gets what it needs: saving, leaving, function keys", () => {
    const { root, area } = show();
    const heard = vi.fn();
    root.parentElement?.addEventListener("keydown", heard);
    press(area, "s", { ctrlKey: true });
    press(area, "Escape");
    press(area, "F1");
    expect(heard).toHaveBeenCalledTimes(3);
    press(area, "z", { ctrlKey: true });
    press(one(root, "[role=log]"), "x");
    press(one(root, ".agentstore-send"), "Enter");
    expect(heard).toHaveBeenCalledTimes(3);
  });

  test("in a closed pane one can write, not send", async () => {
    const { model, area } = show({ status: "closed" });
    type(area, "hello");
    press(area, "Enter");
    expect(model.sent).toEqual([]);
    expect(area.value).toBe("hello");
    await model.update({ status: "connected" });
    press(area, "Enter");
    expect(model.sent).toHaveLength(1);
  });

  test("with the kernel gone one cannot send either, and is told what to do", async () => {
    const { model, root, area } = show();
    await model.die();
    type(area, "hello");
    press(area, "Enter");
    expect(model.sent).toEqual([]);
    expect(one(root, ".agentstore-status").textContent).toBe("Closed");
    expect(area.placeholder).toContain("run the cell again");
  });

  test("what is being written outlives the view, as when a cell is shown again", () => {
    const { area, again } = show();
    type(area, "not yet");
    expect(one<HTMLTextAreaElement>(again(), "textarea").value).toBe("not yet");
  });
});

describe("a sent message", () => {
  test("is shown at once, in every pane, and once only when the conversation has it", async () => {
    const { model, root, area, again } = show();
    const other = again();
    type(area, "hello");
    press(area, "Enter");
    expect(bodies(root)).toEqual(["hello"]);
    expect(bodies(other)).toEqual(["hello"]);
    const shown = one(root, "article");
    expect(shown.textContent).toContain("Sending…");
    expect(shown.textContent).toContain("You");
    const id = model.sent[0]?.id ?? "";
    expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    model.answer({ type: "sent", id });
    expect(shown.textContent).not.toContain("Sending…");
    await model.update({ messages: [message(0, { id, content: "hello" })] });
    expect(bodies(root)).toEqual(["hello"]);
    expect(bodies(other)).toEqual(["hello"]);
    expect(one(root, "article")).toBe(shown);
    expect(shown.querySelector(".agentstore-name")?.textContent).toBe("You");
  });

  test("that fails says why, and can be tried again as the same message", () => {
    const { model, root, area } = show();
    type(area, "hello");
    press(area, "Enter");
    const id = model.sent[0]?.id ?? "";
    model.answer({ type: "failed", id, message: "the store is locked" });
    expect(one(root, ".agentstore-failed").textContent).toContain("Not sent: the store is locked");
    expect(one(root, ".agentstore-failed").getAttribute("role")).toBe("alert");
    one<HTMLButtonElement>(root, ".agentstore-failed button").click();
    expect(model.sent).toEqual([
      { type: "send", id, content: "hello" },
      { type: "send", id, content: "hello" },
    ]);
    expect(root.querySelector(".agentstore-failed")).toBeNull();
  });

  test("that fails can be taken back and changed, before what was being written meanwhile", () => {
    const { model, root, area } = show();
    type(area, "hello");
    press(area, "Enter");
    type(area, "second");
    model.answer({ type: "failed", id: model.sent[0]?.id, message: "" });
    [...root.querySelectorAll<HTMLButtonElement>(".agentstore-failed button")].at(-1)?.click();
    expect(area.value).toBe("hello\nsecond");
    expect(bodies(root)).toEqual([]);
  });

  test("that nobody takes fails at once", () => {
    const { model, root, area } = show();
    model.broken = "the kernel is dead";
    type(area, "hello");
    press(area, "Enter");
    expect(one(root, ".agentstore-failed").textContent).toContain("the kernel is dead");
  });

  test("that nobody answers says so after a while, and can be sent again", () => {
    vi.useFakeTimers();
    const { model, root, area } = show();
    type(area, "hello");
    press(area, "Enter");
    vi.advanceTimersByTime(6_000);
    expect(one(root, ".agentstore-foot").textContent).toContain("Still on its way");
    one<HTMLButtonElement>(root, ".agentstore-foot button").click();
    expect(model.sent.map(({ id }) => id)).toEqual([model.sent[0]?.id, model.sent[0]?.id]);
  });

  test("of which an answer speaks that is not ours is nobody's", () => {
    const { model, root } = show();
    model.answer({ type: "failed", id: "other", message: "x" });
    model.answer({ type: "other" });
    model.answer(null);
    expect(bodies(root)).toEqual([]);
  });

  test("stands after the conversation, in the order of sending", async () => {
    const { model, root, area } = show({ messages: [message(0)] });
    for (const text of ["one", "two"]) {
      type(area, text);
      press(area, "Enter");
    }
    await model.update({ messages: [message(0), message(1)] });
    expect(bodies(root)).toEqual(["message 0", "message 1", "one", "two"]);
  });
});
