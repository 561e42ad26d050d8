// What anywidget asks of a front end, and nothing else: it ties a model's traits and messages to the pane.
import type { RenderProps } from "@anywidget/types";

function render({ el }: RenderProps): void {
  el.classList.add("agentstore-chat");
}

export default { render };
