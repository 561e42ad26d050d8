// When something was said, in few words.

const MINUTE = 60_000;

/** A moment as seen from another: "now", "5 min ago", "14:05", "yesterday 14:05", "12 Mar 14:05". Empty if unknown. */
export function moment(time: Date, now: Date, locale?: string): string {
  const age = now.getTime() - time.getTime();
  if (Number.isNaN(age)) {
    return "";
  }
  if (Math.abs(age) < MINUTE) {
    return "now";
  }
  if (age > 0 && age < 60 * MINUTE) {
    return `${Math.floor(age / MINUTE)} min ago`;
  }
  const clock = time.toLocaleTimeString(locale, { hour: "2-digit", minute: "2-digit" });
  if (time.toDateString() === now.toDateString()) {
    return clock;
  }
  const yesterday = new Date(now);
  yesterday.setDate(now.getDate() - 1);
  if (time.toDateString() === yesterday.toDateString()) {
    return `yesterday ${clock}`;
  }
  const sameYear = time.getFullYear() === now.getFullYear();
  const day = time.toLocaleDateString(locale, { day: "numeric", month: "short", ...(sameYear ? {} : { year: "numeric" }) });
  return `${day} ${clock}`;
}

/** The moment in full, for whoever asks for it. */
export function exactly(time: Date, locale?: string): string {
  return Number.isNaN(time.getTime()) ? "" : time.toLocaleString(locale, { dateStyle: "full", timeStyle: "medium" });
}
