import { expect, test } from "vitest";
import { exactly, moment } from "../src/chat/time";

const now = new Date(2026, 10, 24, 14, 5, 30);

test.each([
  [new Date(2026, 10, 24, 14, 5, 10), "now"],
  [new Date(2026, 10, 24, 14, 5, 50), "now"],
  [new Date(2026, 10, 24, 14, 0, 0), "5 min ago"],
  [new Date(2026, 10, 24, 9, 3), "09:03"],
  [new Date(2026, 10, 23, 23, 59), "yesterday 23:59"],
  [new Date(2026, 2, 12, 8, 0), "12 Mar 08:00"],
  [new Date(2025, 2, 12, 8, 0), "12 Mar 2025 08:00"],
  [new Date(NaN), ""],
])("%s is %s", (time, text) => {
  expect(moment(time, now, "en-GB")).toBe(text);
});

test("a moment can be had in full", () => {
  expect(exactly(now, "en-GB")).toMatch(/^Tuesday,? 24 November 2026.* 14:05:30$/);
  expect(exactly(new Date(NaN))).toBe("");
});
