// Making elements. Text becomes text nodes; nothing here parses HTML.

type Child = Node | string;

/** An element with attributes (false and undefined leave one out) and children. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, string | boolean | undefined> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== undefined) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children);
  return element;
}

/** A button that submits nothing. */
export function button(className: string, label: string, onClick: () => void, ...children: Child[]): HTMLButtonElement {
  const element = h("button", { type: "button", class: className }, ...(children.length > 0 ? children : [label]));
  if (children.length > 0) {
    element.setAttribute("aria-label", label);
    element.title = label;
  }
  element.addEventListener("click", onClick);
  return element;
}

const PATHS = {
  send: "M12 19V5m-6 6 6-6 6 6",
  down: "M12 5v14m-6-6 6 6 6-6",
  copy: "M9 9h10v10H9zM5 15V5h10",
  done: "m5 12 5 5 9-10",
  warning: "M12 4 2.8 20h18.4zM12 10v4.5m0 2.6v.1",
  chat: "M20 12a7.5 7.5 0 0 1-7.5 7.5c-1.3 0-2.5-.3-3.6-.9L4 20l1.4-4.6A7.5 7.5 0 1 1 20 12z",
  agent: "M12 3.5c.7 4.9 3.1 7.5 8 8.5-4.9 1-7.3 3.6-8 8.5-.7-4.9-3.1-7.5-8-8.5 4.9-1 7.3-3.6 8-8.5z",
} as const;

/** A decoration of 24 by 24, drawn in the colour of the text. */
export function icon(name: keyof typeof PATHS): SVGSVGElement {
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "agentstore-icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(namespace, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

let count = 0;

/** An id that no other pane in the page has. */
export function uniqueId(name: string): string {
  count += 1;
  return `agentstore-${name}-${Math.random().toString(36).slice(2, 8)}-${count}`;
}

/** An id for a message (version 4 UUID), also where the page is not served securely. */
export function uuid(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/** Copies text, also where the page is not served securely and has no clipboard of its own. */
export async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const active = document.activeElement;
    const area = h("textarea", { readonly: true, style: "position: fixed; opacity: 0" });
    area.value = text;
    document.body.append(area);
    area.select();
    // Deprecated, and the only way without a secure context.
    // eslint-disable-next-line @typescript-eslint/no-deprecated
    const copied = document.execCommand("copy");
    area.remove();
    if (active instanceof HTMLElement) {
      active.focus();
    }
    return copied;
  }
}
