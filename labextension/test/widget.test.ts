import { expect, test } from "vitest";
import widget from "../src/widget";

test("the module has what anywidget calls", () => {
  expect(widget().render).toBeTypeOf("function");
});
