// Where a message is written.
import { button, h, icon, uniqueId } from "./dom";

export interface Writer {
  /** Called with text that is worth sending. */
  send(content: string): void;
  /** Called when the text changes, so that it outlives this composer. */
  draft(content: string): void;
}

export class Composer {
  readonly element: HTMLElement;
  readonly #area: HTMLTextAreaElement;
  readonly #send: HTMLButtonElement;
  readonly #writer: Writer;
  #open = true;

  constructor(draft: string, writer: Writer) {
    this.#writer = writer;
    const hint = uniqueId("hint");
    this.#area = h("textarea", {
      class: "agentstore-input",
      rows: "1",
      dir: "auto",
      "aria-label": "Message",
      "aria-describedby": hint,
      enterkeyhint: "send",
      autocomplete: "off",
    });
    this.#area.value = draft;
    this.#send = button("agentstore-send", "Send", () => { this.#submit(); }, icon("send"));
    const keys = h("div", { class: "agentstore-keys", id: hint }, h("kbd", {}, "Enter"), " sends, ", h("kbd", {}, "Shift"), "+", h("kbd", {}, "Enter"), " begins a new line");
    const box = h("div", { class: "agentstore-box" }, this.#area, this.#send);
    this.element = h("div", { class: "agentstore-composer" }, box, keys);

    box.addEventListener("mousedown", (event) => {
      if (event.target === box) {
        event.preventDefault();
        this.focus();
      }
    });
    this.#area.addEventListener("input", () => { this.#changed(); });
    this.#draw();
  }

  /** Puts text in front of what is there, for the writer to go on with. */
  put(content: string): void {
    this.#area.value = this.#area.value === "" ? content : `${content}\n${this.#area.value}`;
    this.#changed();
    this.focus();
    this.#area.setSelectionRange(content.length, content.length);
  }

  /** Takes over a draft that was changed elsewhere. */
  set(content: string): void {
    if (this.#area.value !== content) {
      this.#area.value = content;
      this.#draw();
    }
  }

  /** Whether there is anybody to send to. If not, one can still write. */
  set open(open: boolean) {
    this.#open = open;
    this.#area.placeholder = open ? "Write a message…" : "Closed: run the cell again to go on";
    this.#draw();
  }

  /** A key pressed somewhere in the pane: Enter in the text sends, and with Shift begins a new line. */
  key(event: KeyboardEvent, target: Node): void {
    // While an input method composes, Enter chooses a word. Safari ends the composition first and says 229.
    // eslint-disable-next-line @typescript-eslint/no-deprecated
    const composing = event.isComposing || event.keyCode === 229;
    if (target === this.#area && event.key === "Enter" && !event.shiftKey && !composing) {
      event.preventDefault();
      this.#submit();
    }
  }

  focus(): void {
    this.#area.focus();
  }

  #submit(): void {
    // Spaces in front may be code's indentation; empty lines around are nothing.
    const content = this.#area.value.replace(/^\s*\n/, "").trimEnd();
    if (content === "" || !this.#open) {
      return;
    }
    this.#area.value = "";
    this.#changed();
    this.#writer.send(content);
    this.focus();
  }

  #changed(): void {
    this.#writer.draft(this.#area.value);
    this.#draw();
  }

  #draw(): void {
    this.#send.disabled = !this.#open || this.#area.value.trim() === "";
    // Where CSS cannot (field-sizing), the height follows the text by hand.
    if (typeof CSS === "undefined" || !CSS.supports("field-sizing", "content")) {
      this.#area.style.height = "auto";
      this.#area.style.height = `${this.#area.scrollHeight}px`;
    }
  }
}
