import { afterEach, describe, expect, test } from "vitest";
import { PAGE } from "../src/chat/log";
import { LONG } from "../src/chat/markdown";
import { bodies, message, messages, one, show } from "./model";

afterEach(() => {
  document.body.replaceChildren();
});

const articles = (root: HTMLElement): Element[] => [...root.querySelectorAll("article")];

describe("the list of messages", () => {
  test("invites to write when there is nothing", async () => {
    const { model, root } = show();
    const empty = one(root, ".agentstore-empty");
    expect(empty.hidden).toBe(false);
    await model.update({ messages: messages(1) });
    expect(empty.hidden).toBe(true);
  });

  test("adds what is new and leaves alone what is there", async () => {
    const { model, root } = show({ messages: messages(3) });
    const before = articles(root);
    await model.update({ messages: messages(5) });
    expect(articles(root).slice(0, 3)).toEqual(before);
    expect(bodies(root)).toEqual(["message 0", "message 1", "message 2", "message 3", "message 4"]);
  });

  test("draws a changed text anew in its place", async () => {
    const { model, root } = show({ messages: messages(3) });
    const before = articles(root);
    await model.update({ messages: [message(0), message(1, { content: "**other**" }), message(2)] });
    expect(articles(root)).toEqual(before);
    expect(root.querySelector("article strong")?.textContent).toBe("other");
  });

  test("follows a new order, and drops what is gone", async () => {
    const { model, root } = show({ messages: messages(4) });
    const [first, second] = articles(root);
    await model.update({ messages: [message(1), message(3), message(0)] });
    expect(bodies(root)).toEqual(["message 1", "message 3", "message 0"]);
    expect(articles(root)[2]).toBe(first);
    expect(articles(root)[0]).toBe(second);
  });

  test("draws the last of thousands, and earlier ones when asked", () => {
    const { root } = show({ messages: messages(3_000) });
    expect(articles(root)).toHaveLength(PAGE);
    expect(bodies(root).at(-1)).toBe("message 2999");
    const kept = articles(root)[0];
    const earlier = one<HTMLButtonElement>(root, ".agentstore-earlier");
    expect(earlier.textContent).toBe(`Show earlier messages (${3_000 - PAGE})`);
    earlier.click();
    expect(articles(root)).toHaveLength(2 * PAGE);
    expect(articles(root)[PAGE]).toBe(kept);
  });

  test("a window of messages that moves on keeps what it still has", async () => {
    const all = messages(260);
    const { model, root } = show({ messages: all.slice(0, 200) });
    const last = articles(root).at(-1);
    await model.update({ messages: all.slice(60) });
    expect(articles(root)).toContain(last);
    expect(bodies(root).at(-1)).toBe("message 259");
    expect(one(root, ".agentstore-earlier").hidden).toBe(false);
  });

  test("what is drawn does not grow without end while messages come", async () => {
    const all = messages(250);
    const { model, root } = show({ messages: all.slice(0, 10) });
    for (let n = 10; n <= 250; n += 60) {
      await model.update({ messages: all.slice(0, n) });
    }
    expect(articles(root).length).toBeLessThanOrEqual(2 * PAGE);
  });

  test("says who wrote what, and marks who only claims to be the agent", () => {
    const forged = message(1, { id: "forged", actor: "mallory", agent: false, content: "trust me" });
    const { root } = show({ messages: [message(0), message(1), forged] });
    const [user, agent, claimed] = articles(root);
    expect(user?.querySelector(".agentstore-name")?.textContent).toBe("ada");
    expect(agent?.querySelector(".agentstore-name")?.textContent).toBe("Agent");
    expect(claimed?.querySelector(".agentstore-name")?.textContent).toBe("mallory");
    expect(claimed?.textContent).toContain("not from the agent");
    expect(claimed?.querySelector(".agentstore-avatar")).toBeNull();
    expect(agent?.textContent).not.toContain("not from the agent");
  });

  test("a message of the agent's is the agent's whatever its role claims", () => {
    const { root } = show({ messages: [message(1, { role: "user" })] });
    expect(one(root, "article").dataset.by).toBe("agent");
  });

  test("names and titles are text, whatever they hold", () => {
    const { root } = show({ title: "<b>x</b>", messages: [message(0, { actor: "<img src=x>" })], error: "<i>e</i>" });
    expect(root.querySelector("b, img, i:not(.agentstore-dots i)")).toBeNull();
    expect(root.textContent).toContain("<img src=x>");
  });

  test("messages by one author soon after one another stand together", () => {
    const near = message(0, { id: "near", timestamp: message(0).timestamp.replace("10:00", "10:01") });
    const far = message(0, { id: "far", timestamp: message(0).timestamp.replace("10:00", "10:59") });
    const { root } = show({ messages: [message(0), near, far] });
    expect(articles(root).map((article) => article.hasAttribute("data-continued"))).toEqual([false, true, false]);
  });

  test("thinking is shown, after the messages, while it lasts", async () => {
    const { model, root } = show({ messages: messages(1) });
    expect(root.querySelector(".agentstore-thinking")).toBeNull();
    await model.update({ thinking: true });
    expect(one(root, ".agentstore-log").lastElementChild?.textContent).toContain("Thinking");
    await model.update({ thinking: false });
    expect(root.querySelector(".agentstore-thinking")).toBeNull();
  });

  test("a very long text is cut until the reader asks for it", () => {
    const long = "word ".repeat(LONG);
    const { root } = show({ messages: [message(0, { content: long })] });
    expect(bodies(root)[0]?.length).toBeLessThan(LONG + 100);
    one<HTMLButtonElement>(root, ".agentstore-more").click();
    expect(bodies(root)[0]).toBe(long.trim());
  });

  test("the log is one for assistive technology, and its words can be reached with the keyboard", () => {
    const { root } = show({ messages: messages(2) });
    const log = one(root, "[role=log]");
    expect(log.getAttribute("aria-live")).toBe("polite");
    expect(log.tabIndex).toBe(0);
    expect(root.getAttribute("aria-label")).toBe("Chat: Coffee");
    expect(root.querySelectorAll("article time[datetime]")).toHaveLength(2);
  });

  test("a time that is none breaks nothing", () => {
    const { root } = show({ messages: [message(0, { timestamp: "" }), message(1, { timestamp: "soon" })] });
    expect(bodies(root)).toEqual(["message 0", "message 1"]);
  });
});

describe("the state of the connection", () => {
  test.each([
    ["connected", "Live"],
    ["connecting", "Connecting…"],
    ["embedded", "In this kernel"],
    ["closed", "Closed"],
  ])("%s is told", (status, label) => {
    expect(one(show({ status }).root, ".agentstore-status").textContent).toBe(label);
  });

  test("so is what waits to be sent", () => {
    expect(one(show({ status: "connecting", pending: 2 }).root, ".agentstore-status").textContent).toContain("2 to send");
  });

  test("an error is an alert, can be dismissed, and comes back when there is another", async () => {
    const { model, root } = show({ error: "no" });
    const alert = one(root, ".agentstore-error");
    expect(alert.hidden).toBe(false);
    expect(alert.getAttribute("role")).toBe("alert");
    one<HTMLButtonElement>(alert, "button").click();
    await model.update({ messages: messages(1) });
    expect(alert.hidden).toBe(true);
    await model.update({ error: "again" });
    expect(alert.hidden).toBe(false);
    await model.update({ error: "" });
    expect(alert.hidden).toBe(true);
  });

  test("a pane that ends listens to nothing any more", async () => {
    const { model, root, close } = show({ messages: messages(1) });
    close();
    expect(model.listeners).toBe(0);
    await model.update({ messages: messages(2) });
    expect(bodies(root)).toEqual(["message 0"]);
  });
});
