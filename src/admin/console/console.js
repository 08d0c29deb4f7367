// The operator's console. In this order: foreign text, elements, words, the API, sign-in, refreshing, charts, the
// dialog, the views, the router.
//
// Whatever shops or FlexPortal wrote reaches the page through `foreign`, `visible` or `jsonView` and nothing else; all
// three make text nodes or attribute values, never markup. Addresses are made of our own words and encoded parts.

const API = "/api/v1";
const TOKEN_KEY = "flexportal-sync.admin-token";
const REFRESH_MS = 5_000;
const LATE_MS = 12_000; // two refreshes missed: say so
const REQUEST_TIMEOUT_MS = 20_000;
const PAGE_SIZE = 50;
const MOST_STEPS = 100; // of a story, attempts or warnings shown at once
const MOST_CARDS = 50; // of targets, sources or groups
const MOST_JSON_CHARS = 48_000; // shown at once; more on demand
const MOST_REASON_CHARS = 500; // what the service takes
const MOST_OUTCOMES = 100;

const find = (id) => document.getElementById(id);

// ---------------------------------------------------------------------------------------------------------------------
// Foreign text
// ---------------------------------------------------------------------------------------------------------------------

// Controls (C0, C1), format characters (bidi controls, zero width, tags), line and paragraph separators, lone
// surrogates, blank letters, and stacks of combining marks that would climb over their neighbours.
const UNSEEN =
  /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\u034F\u115F\u1160\u17B4\u17B5\u2800\u3164\uFFA0\u{E0100}-\u{E01EF}]|(?<=\p{M}{4})\p{M}+/gu;

function nameOfUnseen(found) {
  if (/^\p{M}/u.test(found) && !/^[\u034F\u17B4\u17B5\u{E0100}-\u{E01EF}]/u.test(found))
    return `‹+${[...found].length} marks›`;
  return `‹U+${found.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}›`;
}

/** The same text with everything invisible spelled out: for attributes, titles and options, which hold plain text only. */
function visible(text, { keepLines = false } = {}) {
  return String(text).replace(UNSEEN, (found) =>
    keepLines && (found === "\n" || found === "\t") ? found : nameOfUnseen(found),
  );
}

/** Text nodes, with a marked element for each invisible character. */
function visibleNodes(text, { keepLines = false } = {}) {
  const whole = String(text);
  const nodes = [];
  let from = 0;
  for (const match of whole.matchAll(UNSEEN)) {
    if (keepLines && (match[0] === "\n" || match[0] === "\t")) continue;
    if (match.index > from) nodes.push(whole.slice(from, match.index));
    nodes.push(h("span", { class: "mark" }, nameOfUnseen(match[0])));
    from = match.index + match[0].length;
  }
  nodes.push(whole.slice(from));
  return nodes;
}

/** Somebody else's words, set apart so that they cannot reorder ours; `coded`: what stands in backticks is code. */
function foreign(text, { mono = false, coded = false, keepLines = false, most = 5_000 } = {}) {
  if (text === null || text === undefined) return null;
  const whole = String(text);
  const shown = whole.length > most ? whole.slice(0, most) : whole;
  const parts = coded ? shown.split(CODE) : [shown];
  const nodes = parts.flatMap((part, at) => {
    const those = visibleNodes(part, { keepLines });
    return at % 2 ? [h("code", {}, those)] : those;
  });
  if (shown !== whole) nodes.push(` … (${count(whole.length - most)} more characters)`);
  return h("bdi", { class: mono ? "foreign mono" : "foreign" }, nodes);
}

const CODE = /`([^`\n]+)`/;

/** A sentence of the service, which sets names of fields and the like in backticks. */
const sentence = (text, options = {}) => foreign(text, { coded: true, ...options });

/** The same where no element can be, such as in an option. */
const uncoded = (text) => String(text).replace(new RegExp(CODE, "g"), "$1");

const JSON_TOKEN = /\s+|("(?:[^"\\]|\\[^])*"?)|([{}[\],:])|([^\s"{}[\],:]+)/g;

/** JSON set out in lines. It works on the text, so that numbers, key order and repeated keys stay as they came, and
 *  an answer that was cut off in the middle is still set out as far as it goes. */
function jsonNodes(text) {
  const tokens = [...text.matchAll(JSON_TOKEN)].filter((match) => match[1] ?? match[2] ?? match[3]);
  const nodes = [];
  let depth = 0;
  const newLine = () => nodes.push(`\n${"  ".repeat(Math.min(depth, 24))}`);
  tokens.forEach((token, at) => {
    const [all, string, punctuation] = token;
    const following = tokens[at + 1]?.[2];
    if (string !== undefined) {
      nodes.push(h("bdi", { class: following === ":" ? "key" : "string" }, visibleNodes(all)));
    } else if (punctuation === undefined) {
      nodes.push(h("bdi", { class: "atom" }, visibleNodes(all)));
    } else {
      const closes = all === "}" || all === "]";
      const opens = all === "{" || all === "[";
      const before = tokens[at - 1]?.[2];
      if (closes) {
        depth = Math.max(0, depth - 1);
        if (before !== "{" && before !== "[") newLine();
      }
      nodes.push(h("span", { class: "punct" }, all === ":" ? ": " : all));
      if (opens) {
        depth += 1;
        if (following !== "}" && following !== "]") newLine();
      }
      if (all === ",") newLine();
    }
  });
  return nodes;
}

/** A body: set out if it looks like JSON, else as it is. `value` may be text or anything parsed. */
function jsonView(value, { label, parsed = false } = {}) {
  if (value === null || value === undefined) return h("p", { class: "muted small" }, "None.");
  const text = parsed ? JSON.stringify(value) : String(value);
  if (text.trim() === "") return h("p", { class: "muted small" }, "An empty body.");
  const looksLikeJson = parsed || /^\s*[{[]/.test(text);
  const fill = (most) => {
    const part = text.slice(0, most);
    return looksLikeJson ? jsonNodes(part) : visibleNodes(part, { keepLines: true });
  };
  const pre = h(
    "pre",
    {
      class: looksLikeJson ? "json" : "raw",
      tabindex: "0",
      role: "region",
      "aria-label": label ?? "Body",
      "data-key": `body:${label}`,
    },
    fill(MOST_JSON_CHARS),
  );
  if (text.length <= MOST_JSON_CHARS) return pre;
  const more = h(
    "button",
    {
      type: "button",
      class: "quiet",
      onclick: () => {
        pre.replaceChildren(...fill(2_000_000).flat());
        more.remove();
      },
    },
    `Show all ${count(text.length)} characters`,
  );
  return h("div", {}, pre, more);
}

// ---------------------------------------------------------------------------------------------------------------------
// Elements
// ---------------------------------------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** An element; strings among the children become text nodes. */
function h(tag, attributes = {}, ...children) {
  return build(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return build(document.createElementNS(SVG, tag), attributes, children);
}

const badge = (word, tone = "", extra = {}) => h("span", { class: `badge ${tone}`, ...extra }, word);
const link = (address, attributes, ...children) => h("a", { href: address, ...attributes }, ...children);
const empty = (title, text) => h("p", { class: "empty", "data-testid": "empty" }, h("strong", {}, title), text);
const spaced = (...parts) =>
  parts
    .flat()
    .filter(Boolean)
    .flatMap((part, at) => (at ? [" · ", part] : [part]));

function facts(pairs) {
  return h(
    "dl",
    { class: "facts" },
    pairs
      .filter(([, value]) => value !== null && value !== undefined && value !== false)
      .map(([term, value]) => [h("dt", {}, term), h("dd", {}, value)]),
  );
}

const drawn = new WeakMap();

/** Draws a part of the page anew if what it shows has changed, and puts focus, open details and scrolling back. */
function show(slot, data, draw) {
  const signature = JSON.stringify(data) ?? "";
  if (drawn.get(slot) === signature) return;
  drawn.set(slot, signature);
  const keyed = (root) => root.querySelectorAll("[data-key]");
  const focused = slot.contains(document.activeElement) ? document.activeElement.getAttribute("data-key") : null;
  const before = new Map(
    [...keyed(slot)].map((part) => [
      part.getAttribute("data-key"),
      { open: part.open, top: part.scrollTop, left: part.scrollLeft },
    ]),
  );
  slot.replaceChildren(...[draw(data)].flat(Infinity).filter(Boolean));
  for (const part of keyed(slot)) {
    const key = part.getAttribute("data-key");
    const old = before.get(key);
    if (old) {
      if (old.open !== undefined && part.localName === "details") part.open = old.open;
      part.scrollTop = old.top;
      part.scrollLeft = old.left;
    }
    if (focused !== null && key === focused) part.focus({ preventScroll: true });
  }
}

/** Tells those who hear the page instead of seeing it. */
function announce(text) {
  const announcer = find("announcer");
  if (announcer.textContent !== text) announcer.textContent = text;
}

// ---------------------------------------------------------------------------------------------------------------------
// Words: numbers, times, statuses
// ---------------------------------------------------------------------------------------------------------------------

const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
// Times are shown in UTC, as the service writes them in its sentences; the page's bar says so.
const clockTime = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium", timeZone: "UTC" });
const clockMinute = new Intl.DateTimeFormat("en-GB", { timeStyle: "short", timeZone: "UTC" });
const localTime = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "long" });

/** A number of ours, though it may have come as one that floats cannot hold. */
const number = (value) => Number(JSON.isRawJSON?.(value) ? value.rawJSON : (value ?? 0));
const isNumber = (value) => value !== null && value !== undefined && Number.isFinite(number(value));
const count = (value) => numbers.format(number(value));
const counted = (value, one, many = `${one}s`) => `${count(value)} ${number(value) === 1 ? one : many}`;
const isOne = (value) => number(value) === 1;

// The service's clock, as far as its answers tell; ages are taken by it, so that a wrong clock here does not mislead.
let clockLead = 0;
const serviceNow = () => Date.now() + clockLead;

function duration(seconds) {
  const s = Math.max(0, number(seconds));
  if (s < 1) return "less than a second";
  if (s < 90) return counted(Math.round(s), "second");
  if (s < 90 * 60) return counted(Math.round(s / 60), "minute");
  if (s < 36 * 3600) return counted(Math.round(s / 360) / 10, "hour");
  return counted(Math.round(s / 8640) / 10, "day");
}

const about = (seconds) => (number(seconds) < 1 ? duration(seconds) : `about ${duration(seconds)}`);

function shortDuration(milliseconds) {
  const ms = number(milliseconds);
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 90_000) return `${numbers.format(Math.round(ms / 100) / 10)} s`;
  return duration(ms / 1000);
}

function relative(instant) {
  const seconds = (instant - serviceNow()) / 1000;
  if (Math.abs(seconds) < 2) return "now";
  return seconds < 0 ? `${duration(-seconds)} ago` : `in ${duration(seconds)}`;
}

/** In UTC; the day is left out if it is today. */
function utcTime(date) {
  const [day, time] = date.toISOString().split("T");
  const [today] = new Date(serviceNow()).toISOString().split("T");
  return day === today ? time.slice(0, 8) : `${day} ${time.slice(0, 8)}`;
}

/** A time in UTC, with the time as it is here in the title; `style`: at, ago, or both. */
function when(text, style = "at") {
  if (text === null || text === undefined) return null;
  const date = new Date(text);
  if (Number.isNaN(date.getTime())) return foreign(text);
  const utc = date.toISOString();
  const here = `${localTime.format(date)} here`;
  const time = h(
    "time",
    {
      datetime: utc,
      title: style === "ago" ? `${utcTime(date)} UTC, ${here}` : here,
      "data-ago": style === "ago" ? "" : null,
    },
    style === "ago" ? relative(date.getTime()) : utcTime(date),
  );
  return style === "both" ? [time, h("span", { class: "muted small" }, " · ", when(text, "ago"))] : time;
}

function keepAgesFresh() {
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const text = relative(new Date(time.dateTime).getTime());
    if (time.textContent !== text) time.textContent = text;
  }
}

const STATUSES = {
  pending: { tone: "info", words: "waits for its turn, or for its next attempt" },
  in_flight: { tone: "info", words: "a worker has its customer right now" },
  synced: { tone: "good", words: "FlexPortal acknowledged it" },
  superseded: { tone: "plain", words: "a newer event spoke for all of it" },
  unchanged: { tone: "plain", words: "there was nothing new to send" },
  unmatched: { tone: "warn", words: "FlexPortal does not know the customer, or has several with this e-mail" },
  failed: { tone: "bad", words: "needs a person" },
  discarded: { tone: "plain", words: "was closed by a person" },
  held: { tone: "warn", words: "came from another shop than the source’s, and waits for a person" },
};
const CUSTOMER_STATES = {
  in_sync: ["in sync", "good"],
  waiting: ["waiting", "info"],
  unmatched: ["unmatched", "warn"],
  failed: ["failed", "bad"],
  discarded: ["discarded", "warn"],
  held: ["held", "warn"],
};
const HOLDS = {
  rate_limited: "FlexPortal asked to wait (429)",
  refused: "FlexPortal refuses the credentials (401, 403)",
  failing: "FlexPortal fails (circuit breaker)",
  clock_step: "Postgres’ clock was set forward",
};
/** These end by themselves. */
const isShortHold = (hold) => hold.reason === "rate_limited" || hold.reason === "clock_step";
const OPERATIONS = { update_customer: "Update of the customer", find_by_email: "Look-up by e-mail" };
const FOUND_BY = {
  event: "the event names FlexPortal’s id",
  link: "the link made before",
  same_id: "the shop’s id is FlexPortal’s",
  lookup_needed: "not known yet: it would be looked up by e-mail first",
  unknown: "not known",
};
const INTERVENTIONS = {
  retry: "Set back to be tried again",
  discard: "Discarded",
  erase: "Personal data erased",
  export: "Data exported",
  accept_shop: "A shop accepted",
  ignore_shop: "A shop ignored",
};
// Settled may be well or not: only its words say so.
const STEP_TONES = {
  received: "",
  duplicate: "",
  superseded: "",
  waiting: "info",
  tried: "info",
  settled: "done",
  intervention: "warn",
};

function statusBadge(status, extra = {}) {
  const known = Object.hasOwn(STATUSES, status) ? STATUSES[status] : null;
  return badge(known ? status.replace("_", " ") : foreign(status), known?.tone ?? "plain", {
    title: known?.words,
    ...extra,
  });
}

function stateBadge(state, extra = {}) {
  const [word, tone] = Object.hasOwn(CUSTOMER_STATES, state) ? CUSTOMER_STATES[state] : [foreign(state), "plain"];
  return badge(word, tone, extra);
}

function codeBadge({ httpStatus, errorCode }) {
  const parts = [
    httpStatus ? `HTTP ${number(httpStatus)}` : null,
    errorCode ? foreign(errorCode, { mono: true, most: 80 }) : null,
  ];
  return parts.some(Boolean) ? h("span", { class: "badge plain clip" }, spaced(parts)) : null;
}

// ---------------------------------------------------------------------------------------------------------------------
// Addresses within the page
// ---------------------------------------------------------------------------------------------------------------------

function query(parameters) {
  const set = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return set.length ? `?${new URLSearchParams(set.map(([name, value]) => [name, String(value)]))}` : "";
}

const toFailures = (filter = {}) => `#/failures${query(filter)}`;
const toEvents = (filter = {}) => `#/events${query(filter)}`;
const toEvent = (id) => `#/events/${encodePart(id)}`;
const toCustomers = (filter = {}) => `#/customers${query(filter)}`;
const toCustomer = (source, id) => `#/customers/${encodePart(source)}/${encodePart(id)}`;

/** encodeURIComponent, but for lone surrogates, which it refuses. */
function encodePart(text) {
  return encodeURIComponent(String(text).toWellFormed?.() ?? String(text).replace(/\p{Cs}/gu, "\uFFFD"));
}

// ---------------------------------------------------------------------------------------------------------------------
// The API
// ---------------------------------------------------------------------------------------------------------------------

class ApiError extends Error {
  /** kind: unauthorized, missing, refused, away or unreadable. */
  constructor(kind, message, status = null) {
    super(message);
    this.kind = kind;
    this.status = status;
  }
}

// Numbers that floats cannot hold stay as they are written, where the browser can do it.
function keepNumbersExact(_key, value, context) {
  if (typeof value !== "number" || !context?.source || !JSON.rawJSON) return value;
  const plain =
    context.source.includes(".") && !/e/i.test(context.source) ? context.source.replace(/\.?0+$/, "") : context.source;
  return plain === String(value) ? value : JSON.rawJSON(context.source);
}

async function api(path, { body, signal, token = sessionStorage.getItem(TOKEN_KEY) } = {}) {
  const limit = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
  const asked = Date.now();
  let response;
  let text;
  try {
    response = await fetch(API + path, {
      method: body === undefined ? "GET" : "POST",
      headers: {
        Authorization: `Bearer ${token}`,
        Accept: "application/json",
        "X-Client": "console",
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
      },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      referrerPolicy: "no-referrer",
    });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(
      "away",
      limit.aborted ? `it did not answer within ${REQUEST_TIMEOUT_MS / 1000} s` : "it cannot be reached",
    );
  }
  let answer = null;
  try {
    answer = JSON.parse(text, keepNumbersExact);
  } catch {
    if (response.ok) throw new ApiError("unreadable", "its answer cannot be read", response.status);
  }
  if (response.ok) {
    const at = Date.parse(answer?.at ?? "");
    if (!Number.isNaN(at)) clockLead = at - (asked + Date.now()) / 2;
    return answer;
  }
  const reason = answer?.detail ?? answer?.title ?? `HTTP ${response.status}`;
  if (response.status === 401) throw new ApiError("unauthorized", reason, 401);
  if (response.status === 404) throw new ApiError("missing", reason, 404);
  if (response.status === 429 || response.status >= 500)
    throw new ApiError("away", `it answers ${response.status}: ${reason}`, response.status);
  throw new ApiError("refused", reason, response.status);
}

// ---------------------------------------------------------------------------------------------------------------------
// Signing in and out
// ---------------------------------------------------------------------------------------------------------------------

const isSignedIn = () => sessionStorage.getItem(TOKEN_KEY) !== null;

function askToSignIn(message = "") {
  endView();
  const dialog = find("confirm-dialog");
  if (dialog.open) dialog.close();
  sessionStorage.removeItem(TOKEN_KEY);
  find("main").replaceChildren();
  find("main").hidden = true;
  find("bar").hidden = true;
  find("sign-in").hidden = false;
  find("sign-in-message").textContent = visible(message);
  document.title = "Sign in · flexportal-sync";
  find("token").value = "";
  find("token").focus();
}

async function signIn(event) {
  event.preventDefault();
  const field = find("token");
  const message = find("sign-in-message");
  const token = field.value.trim();
  const button = event.submitter ?? find("sign-in-form").querySelector("button");
  if (!/^[\x21-\x7e]+$/.test(token)) {
    message.textContent = "A token holds visible ASCII characters only: this is not one.";
    return;
  }
  button.disabled = true;
  message.textContent = "";
  try {
    await api("/status", { token });
    enter(token);
  } catch (error) {
    // The database may be away just when the console is needed: who it is was settled before.
    if (error.kind === "away" && error.status === 503) enter(token);
    else if (error.kind === "unauthorized") message.textContent = "This token is not accepted.";
    else if (error.kind === "missing")
      message.textContent = "There is no admin API here: the service runs without ADMIN_TOKEN.";
    else message.textContent = `The service does not do it: ${visible(error.message)}.`;
    field.focus();
  } finally {
    button.disabled = false;
  }
}

function enter(token) {
  sessionStorage.setItem(TOKEN_KEY, token);
  find("token").value = "";
  find("sign-in").hidden = true;
  find("bar").hidden = false;
  find("main").hidden = false;
  openView({ focus: true });
}

// ---------------------------------------------------------------------------------------------------------------------
// Refreshing, and saying when that does not work
// ---------------------------------------------------------------------------------------------------------------------

const freshness = { watched: false, lastGood: null, troubleSince: null, trouble: null };

function noteAnswer() {
  freshness.lastGood = Date.now();
  freshness.trouble = null;
  freshness.troubleSince = null;
  tellFreshness();
}

function noteTrouble(error) {
  freshness.trouble = error.message;
  freshness.troubleSince ??= Date.now();
  tellFreshness();
}

function tellFreshness() {
  const pulse = find("pulse");
  const banner = find("away");
  pulse.hidden = !freshness.watched || (freshness.lastGood === null && freshness.trouble === null);
  banner.hidden = !freshness.watched || freshness.trouble === null;
  if (!freshness.watched) return;
  const age = freshness.lastGood === null ? null : Date.now() - freshness.lastGood;
  const isLate = age !== null && age > LATE_MS;
  pulse.className = `pulse${freshness.trouble ? " away" : isLate ? " late" : ""}`;
  const words = freshness.trouble ? "Away" : isLate ? `Stale: ${duration(age / 1000)} old` : "Live";
  if (pulse.textContent !== words) pulse.textContent = words;
  if (freshness.trouble) {
    const since = clockTime.format(freshness.troubleSince);
    const shown = freshness.lastGood === null ? "" : ` What you see is of ${clockTime.format(freshness.lastGood)}.`;
    const text = `The service is away since ${since}: ${visible(freshness.trouble)}.${shown} It is asked again every ${REFRESH_MS / 1000} s.`;
    if (banner.textContent !== text) banner.textContent = text;
  }
}

/** Runs `task` now and every five seconds while the page is visible, until `signal` ends it. Returns what runs it at once. */
function repeat(signal, task) {
  let timer;
  let isRunning = false;
  let isWanted = false; // once more: what is under way may have been asked too early
  const run = async () => {
    clearTimeout(timer);
    if (signal.aborted || document.hidden) return;
    isWanted = isRunning;
    if (isRunning) return;
    isRunning = true;
    let end;
    try {
      end = await task();
    } finally {
      isRunning = false;
    }
    if (signal.aborted || document.hidden) return;
    if (isWanted) await run();
    else if (end !== "done") timer = setTimeout(run, REFRESH_MS);
  };
  document.addEventListener("visibilitychange", run, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  return run;
}

// ---------------------------------------------------------------------------------------------------------------------
// Charts
// ---------------------------------------------------------------------------------------------------------------------

const CHART = { height: 152, left: 34, right: 6, top: 8, bottom: 20 };

/** The least round number that everything fits below, and that halves evenly. */
function roundTop(most) {
  for (let power = 1; ; power *= 10) {
    for (const step of [2, 4, 6, 8, 10]) if (step * power >= most) return step * power;
  }
}

function legendSign(line) {
  return svg(
    "svg",
    { width: 12, height: 10, "aria-hidden": "true", focusable: "false" },
    line.kind === "trace"
      ? svg("path", { class: "trace", d: "M0 6h12" })
      : svg("rect", { class: line.className, width: 10, height: 10, rx: 2 }),
  );
}

/** One small chart of minutes: bars, an overlay of bars, a line. `lines`: {name, word, kind, className}. */
function drawChart(box, legend, minutes, lines, summary) {
  const width = Math.max(240, Math.floor(box.clientWidth || 480));
  const inner = { width: width - CHART.left - CHART.right, height: CHART.height - CHART.top - CHART.bottom };
  const slot = inner.width / Math.max(1, minutes.length);
  const value = (minute, line) => Math.max(0, number(minute[line.name]));
  const top = roundTop(Math.max(2, ...minutes.flatMap((minute) => lines.map((line) => value(minute, line)))));
  const x = (at) => CHART.left + at * slot;
  const y = (n) => CHART.top + inner.height * (1 - n / top);
  const hour = (minute) => clockMinute.format(new Date(minute.at));

  const axes = [0, top / 2, top].flatMap((n) => [
    svg("line", { class: n ? "grid" : "base", x1: CHART.left, x2: width - CHART.right, y1: y(n), y2: y(n) }),
    svg("text", { x: CHART.left - 6, y: y(n) + 4, "text-anchor": "end" }, count(n)),
  ]);
  const every = width < 420 ? 20 : 10;
  const ticks = minutes.flatMap((minute, at) => {
    const fromEnd = minutes.length - 1 - at;
    if (fromEnd % every || (fromEnd === 0 && every > 10 && minutes.length < every)) return [];
    const anchor = x(at) + slot / 2 > width - 24 ? "end" : "middle";
    return [
      svg(
        "text",
        { x: anchor === "end" ? width - CHART.right : x(at) + slot / 2, y: CHART.height - 4, "text-anchor": anchor },
        hour(minute),
      ),
    ];
  });
  const marks = lines.map((line) => {
    if (line.kind === "trace") {
      const points = minutes.map(
        (minute, at) => `${at ? "L" : "M"}${(x(at) + slot / 2).toFixed(1)} ${y(value(minute, line)).toFixed(1)}`,
      );
      return svg("path", { class: "trace", d: points.join("") });
    }
    return minutes.map((minute, at) => {
      const n = value(minute, line);
      const running = at === minutes.length - 1 && line.className === "bar-main" ? " running" : "";
      const barTop = Math.min(y(n), y(0) - 1.5); // one of a thousand is still seen
      return (
        n > 0 &&
        svg("rect", {
          class: line.className + running,
          x: (x(at) + slot * 0.12).toFixed(1),
          width: (slot * 0.76).toFixed(1),
          y: barTop.toFixed(1),
          height: (y(0) - barTop).toFixed(1),
        })
      );
    });
  });
  const cursor = svg("rect", {
    class: "cursor",
    y: CHART.top,
    height: inner.height,
    width: slot.toFixed(1),
    visibility: "hidden",
  });
  const picture = svg(
    "svg",
    { class: "chart", viewBox: `0 0 ${width} ${CHART.height}`, role: "img", "aria-label": summary },
    axes,
    ticks,
    marks,
    cursor,
  );

  const tell = (minute) =>
    legend.replaceChildren(
      ...lines.map((line) =>
        h("span", {}, legendSign(line), minute ? `${line.word}: ${count(value(minute, line))}` : line.word),
      ),
      h("span", {}, minute ? `at ${hour(minute)}` : ""),
    );
  const point = (event) => {
    const at = Math.floor((event.clientX - picture.getBoundingClientRect().left - CHART.left) / slot);
    const minute = minutes[at];
    cursor.setAttribute("visibility", minute ? "visible" : "hidden");
    if (minute) cursor.setAttribute("x", x(at).toFixed(1));
    tell(minute);
    box.pointed = minute ? event : null;
  };
  picture.addEventListener("pointermove", point);
  picture.addEventListener("pointerdown", point);
  picture.addEventListener("pointerleave", () => {
    box.pointed = null;
    cursor.setAttribute("visibility", "hidden");
    tell(null);
  });
  box.replaceChildren(picture);
  if (box.pointed)
    point(box.pointed); // a refresh does not take away what is being read
  else tell(null);
}

/** A chart with its title, figures, summary and table of values; returns its element and what feeds it. */
function chart({ id, title, lines, summarise, headline }, signal) {
  const box = h("div", { class: "chart-box" });
  const legend = h("p", { class: "legend", "aria-hidden": "true" });
  const figures = h("p", { class: "figures" });
  const summary = h("p", { class: "muted small", "data-testid": `${id}-summary` });
  const values = h("div");
  const element = h(
    "figure",
    { class: "panel", "data-testid": id },
    h(
      "figcaption",
      { class: "panel-head" },
      h("h2", {}, title),
      h("span", { class: "muted small" }, "per minute, last hour"),
    ),
    figures,
    box,
    legend,
    summary,
    values,
  );
  let minutes = null;
  let last = "";
  const draw = () => minutes && drawChart(box, legend, minutes, lines, summary.textContent);
  const observer = new ResizeObserver(draw);
  observer.observe(box);
  signal.addEventListener("abort", () => observer.disconnect());
  const feed = (newMinutes, status) => {
    show(figures, headline(status), (parts) => parts.map(([n, words]) => h("span", {}, h("b", {}, count(n)), ` ${words}`)));
    const signature = JSON.stringify(newMinutes);
    if (signature === last) return;
    last = signature;
    minutes = newMinutes;
    summary.textContent = summarise(minutes);
    draw();
    show(values, minutes, () =>
      h(
        "details",
        { "data-key": `${id}:values` },
        h("summary", {}, "Values"),
        h(
          "div",
          {
            class: "scroller",
            tabindex: "0",
            role: "region",
            "aria-label": `${title}: values`,
            "data-key": `${id}:scroll`,
          },
          h(
            "table",
            {},
            h(
              "thead",
              {},
              h(
                "tr",
                {},
                h("th", { scope: "col" }, "Minute"),
                lines.map((line) => h("th", { scope: "col", class: "number" }, line.word)),
              ),
            ),
            h(
              "tbody",
              {},
              minutes.toReversed().map((minute) =>
                h(
                  "tr",
                  {},
                  h("td", {}, when(minute.at)),
                  lines.map((line) => h("td", { class: "number" }, count(minute[line.name]))),
                ),
              ),
            ),
          ),
        ),
      ),
    );
  };
  return { element, feed };
}

function summariseMinutes(minutes, name, verb) {
  const total = minutes.reduce((sum, minute) => sum + number(minute[name]), 0);
  if (total === 0) return `Nothing was ${verb} in the last hour.`;
  const most = minutes.reduce((best, minute) => (number(minute[name]) > number(best[name]) ? minute : best));
  const quiet = minutes.filter((minute) => number(minute[name]) === 0).length;
  return `${count(total)} ${verb} in ${counted(minutes.length, "minute")}; the most, ${count(most[name])}, at ${clockMinute.format(new Date(most.at))}; ${quiet ? `none in ${counted(quiet, "minute")}` : "some in every minute"}.`;
}

// ---------------------------------------------------------------------------------------------------------------------
// Retry and discard: first counted, then asked, then done, then told
// ---------------------------------------------------------------------------------------------------------------------

const ACTIONS = {
  retry: {
    title: "Retry",
    tone: "primary",
    path: "/failures/retry",
    would: "would be tried again.",
    done: "to be sent again",
    promise:
      "They go out after live changes and due retries. What is newer at FlexPortal is not replaced by what is older.",
  },
  discard: {
    title: "Discard",
    tone: "danger primary",
    path: "/failures/discard",
    would: "would be discarded.",
    done: "discarded",
    promise:
      "They are closed: what they say is not sent. They stay on record with your reason, and can still be retried one by one.",
  },
};

let leaveQuestion = null; // while one stands

/** `scope`: what the API is told (`events`, or `all` with a filter); `words`: the same for people. */
function act(name, scope, words, afterwards) {
  const action = ACTIONS[name];
  const dialog = find("confirm-dialog");
  const opener = document.activeElement?.getAttribute("data-key");
  const visit = current;
  const controller = new AbortController();
  let isActing = false;
  let hasActed = false;
  let hasLeft = false;

  const stage = (...content) =>
    dialog.replaceChildren(
      h("div", { class: "stage" }, h("h2", { id: "confirm-title" }, `${action.title}: `, words), content),
    );
  const close = () => dialog.close();
  // Going elsewhere takes the question back; what is being done is told to its end.
  leaveQuestion = () => {
    hasLeft = isActing;
    if (!isActing) close();
  };
  const closing = (word = "Close") =>
    h(
      "div",
      { class: "actions" },
      h("button", { type: "button", autofocus: true, onclick: close, "data-testid": "confirm-close" }, word),
    );
  const failed = (error) => {
    if (error.kind === "unauthorized") return askToSignIn("Signed out: the token is not accepted any longer.");
    if (controller.signal.aborted) return undefined;
    const unsure = hasActed && error.kind !== "refused" && error.kind !== "missing";
    stage(
      h(
        "p",
        { class: "note bad", role: "alert", "data-testid": "confirm-problem" },
        unsure
          ? [
              "The service did not say that it is done: ",
              foreign(error.message),
              ". It may have been done all the same; look before you try again.",
            ]
          : ["It was not done: ", foreign(error.message), "."],
      ),
      closing(),
    );
    return undefined;
  };

  async function countFirst() {
    stage(h("p", { class: "muted", role: "status" }, "Counting, without changing anything …"), closing("Cancel"));
    try {
      const reason = name === "discard" ? { reason: "not given yet: this is the dry run" } : {};
      ask(await api(action.path, { body: { ...scope, ...reason, dryRun: true }, signal: controller.signal }));
    } catch (error) {
      failed(error);
    }
  }

  function ask(counts) {
    const matched = number(counts.matched);
    if (matched === 0) {
      stage(
        h(
          "p",
          { "data-testid": "confirm-count", "data-count": "0" },
          "Nothing matches: it was settled, retried or discarded meanwhile.",
        ),
        closing(),
      );
      hasActed = true; // what is shown behind the dialog is old
      return;
    }
    const possible = isNumber(counts.possible) ? Math.min(number(counts.possible), matched) : matched;
    if (possible === 0) hasActed = true; // the same
    // If all are named, exactly these are acted on, and none that fails while the question stands.
    const named = (counts.results ?? []).map((result) => result.eventId);
    const isNamed = scope.all && named.length === matched;
    const exact = isNamed ? { events: named } : scope.all ? { ...scope, failedBefore: counts.at } : scope;
    const reason = h("textarea", {
      id: "reason",
      required: true,
      maxlength: String(MOST_REASON_CHARS),
      "data-testid": "confirm-reason",
      autofocus: possible > 0,
    });
    const button = h(
      "button",
      { type: "submit", class: action.tone, "data-testid": "confirm", autofocus: name !== "discard" && possible > 0 },
      `${action.title} ${count(possible)}`,
    );
    const isReady = () => possible > 0 && (name !== "discard" || reason.value.trim() !== "");
    const ready = () => {
      button.disabled = !isReady();
    };
    ready();
    reason.addEventListener("input", ready);
    const submit = (event) => {
      event.preventDefault();
      if (!isReady()) return;
      carryOut(exact, matched, name === "discard" ? { reason: reason.value.trim() } : {});
    };
    stage(
      h(
        "form",
        { onsubmit: submit },
        h(
          "p",
          { class: "big", "data-testid": "confirm-count", "data-count": String(possible) },
          h("b", {}, possible === 0 ? "None" : count(possible)),
          possible < matched && ` of ${count(matched)}`,
          isOne(matched) ? " event " : " events ",
          action.would,
        ),
        name === "retry" &&
          possible > 0 &&
          h(
            "p",
            { "data-testid": "confirm-time" },
            isNumber(counts.takesSeconds)
              ? `At the quota that takes ${about(counts.takesSeconds)}.`
              : "How long it takes is not known: there is no limit, or none that was told.",
          ),
        h("p", { class: "muted small" }, action.promise),
        tellOutcomes(counts.results, "What each would meet"),
        name === "discard" &&
          possible > 0 &&
          h("div", { class: "field" }, h("label", { for: "reason" }, "Reason (required)"), reason),
        h(
          "div",
          { class: "actions" },
          h(
            "button",
            { type: "button", onclick: close, "data-testid": "confirm-cancel", autofocus: possible === 0 },
            "Cancel",
          ),
          button,
        ),
      ),
    );
    focusWithin(dialog);
  }

  async function carryOut(exact, matched, reason) {
    isActing = true;
    hasActed = true;
    const whole = { changed: 0, results: [] };
    try {
      // One request takes on so many that it is answered in time; the next takes those that remain.
      for (let remaining = matched; remaining > 0; ) {
        stage(h("p", { class: "muted", role: "status" }, `${count(whole.changed)} of ${count(matched)} …`));
        const part = await api(action.path, { body: { ...exact, ...reason, dryRun: false } });
        whole.changed += number(part.changed);
        whole.takesSeconds ??= part.takesSeconds;
        whole.results = whole.results.concat(part.results ?? []).slice(0, MOST_OUTCOMES);
        remaining = number(part.changed) > 0 ? number(part.remaining) : 0;
      }
      tell(whole, matched);
    } catch (error) {
      failed(error);
    } finally {
      isActing = false;
      refreshFailureCount();
      focusWithin(dialog);
    }
  }

  function tell(result, matched) {
    const changed = number(result.changed);
    const text = `${count(changed)} of ${count(Math.max(matched, changed))} ${action.done}.`;
    stage(
      h("p", { class: "big", role: "status", "data-testid": "confirm-result", "data-count": String(changed) }, text),
      name === "retry" &&
        changed > 0 &&
        isNumber(result.takesSeconds) &&
        h("p", {}, `The last of them goes out in ${about(result.takesSeconds)}.`),
      tellOutcomes(result.results, "What became of each"),
      closing(),
    );
    announce(text);
  }

  dialog.oncancel = (event) => {
    if (isActing) event.preventDefault();
  };
  dialog.onclose = () => {
    leaveQuestion = null;
    if (!isActing) controller.abort();
    dialog.replaceChildren();
    if (current !== visit) {
      if (hasLeft && current) openView({ keepScroll: true }); // it may show what was before
      return;
    }
    if (hasActed) afterwards();
    if (opener) document.querySelector(`[data-key="${CSS.escape(opener)}"]`)?.focus();
  };
  dialog.showModal();
  countFirst();
}

const focusWithin = (dialog) => (dialog.querySelector("[autofocus]") ?? dialog.querySelector("button"))?.focus();

/** Outcomes counted, since a hundred equal lines tell no more than one. */
function tellOutcomes(results, title) {
  if (!results?.length) return null;
  const byOutcome = new Map();
  for (const result of results) byOutcome.set(result.outcome, [...(byOutcome.get(result.outcome) ?? []), result]);
  const lines = [...byOutcome]
    .slice(0, 12)
    .map(([outcome, these]) =>
      h(
        "li",
        {},
        `${count(these.length)} × `,
        sentence(outcome, { most: 300 }),
        these.length === 1 && [
          " (",
          link(toEvent(these[0].eventId), { onclick: () => find("confirm-dialog").close() }, "event"),
          ")",
        ],
      ),
    );
  return h(
    "div",
    { class: "small", "data-testid": "outcomes" },
    h(
      "p",
      { class: "muted" },
      results.length >= 100 ? `${title}, of the first ${count(results.length)}:` : `${title}:`,
    ),
    h("ul", {}, lines),
  );
}

/** The two buttons; `key` tells them from others on the page. */
function actionButtons({
  key,
  scope,
  words,
  afterwards,
  retry = true,
  discard = true,
  ids = ["retry", "discard"],
  labels = ["Retry", "Discard"],
}) {
  return [
    retry &&
      h(
        "button",
        {
          type: "button",
          "data-key": `retry:${key}`,
          "data-testid": ids[0],
          onclick: () => act("retry", scope, words(), afterwards),
        },
        labels[0],
      ),
    discard &&
      h(
        "button",
        {
          type: "button",
          class: "danger",
          "data-key": `discard:${key}`,
          "data-testid": ids[1],
          onclick: () => act("discard", scope, words(), afterwards),
        },
        labels[1],
      ),
  ];
}

// ---------------------------------------------------------------------------------------------------------------------
// View: overview
// ---------------------------------------------------------------------------------------------------------------------

function overview(main, { signal }) {
  const slot = (attributes) => h("section", { class: "panel", ...attributes });
  const parts = {
    verdict: slot({ "data-testid": "verdict" }),
    backlog: slot({ "data-testid": "backlog" }),
    failures: slot({ "data-testid": "failures" }),
    targets: slot({ "data-testid": "targets" }),
    sources: slot({ "data-testid": "sources" }),
    requests: slot({ "data-testid": "data-requests", hidden: true }),
    notices: slot({ hidden: true }),
  };
  const intake = chart(
    {
      id: "chart-intake",
      title: "Intake",
      lines: [{ name: "received", word: "received", kind: "bars", className: "bar-main" }],
      summarise: (minutes) => summariseMinutes(minutes, "received", "received"),
      headline: ({ intake: told }) => [
        [told.lastHour, "deliveries"],
        [told.lastMinute, "in the last minute"],
      ],
    },
    signal,
  );
  const sync = chart(
    {
      id: "chart-sync",
      title: "Sync",
      lines: [
        { name: "settled", word: "settled", kind: "bars", className: "bar-main" },
        { name: "failed", word: "failed", kind: "bars", className: "bar-bad" },
        { name: "requests", word: "requests", kind: "trace", className: "trace" },
      ],
      summarise: (minutes) => {
        const failed = minutes.reduce((sum, minute) => sum + number(minute.failed), 0);
        return `${summariseMinutes(minutes, "settled", "settled")} ${failed ? `${count(failed)} failed.` : "None failed."}`;
      },
      headline: ({ sync: told }) => [
        [told.settledLastHour, "changes settled"],
        [told.requestsLastHour, "requests"],
        [told.requestsLastMinute, "in the last minute"],
      ],
    },
    signal,
  );

  const content = h(
    "div",
    { class: "cards", "data-testid": "overview", hidden: true },
    parts.verdict,
    h("div", { class: "pair" }, intake.element, sync.element),
    h("div", { class: "pair" }, h("div", { class: "column" }, parts.backlog, parts.requests), parts.targets),
    parts.failures,
    parts.notices,
    parts.sources,
  );
  const waiting = h("p", { class: "muted" }, "Loading …");
  main.append(h("h1", { tabindex: "-1", class: "unseen" }, "Overview"), waiting, content);

  const again = () => run();
  const run = repeat(signal, async () => {
    try {
      const [status, timeline] = await Promise.all([
        api("/status", { signal }),
        api("/timeline?minutes=60", { signal }),
      ]);
      noteAnswer();
      waiting.remove();
      content.hidden = false;
      tellFailureCount(status);
      parts.verdict.hidden = false;
      show(parts.verdict, verdictOf(status), drawVerdict);
      parts.verdict.className = `panel verdict ${verdictOf(status).tone}`;
      show(parts.backlog, [status.backlog, status.targets.length], () => drawBacklog(status));
      show(parts.targets, status.targets, drawTargets);
      show(parts.sources, status.sources, drawSources);
      show(parts.failures, status.failures, () => drawFailureGroups(status.failures, again));
      parts.requests.hidden = !number(status.dataRequests);
      show(parts.requests, status.dataRequests, drawDataRequests);
      parts.notices.hidden = status.notices.length === 0;
      show(parts.notices, status.notices, drawNotices);
      intake.feed(timeline.minutes, status);
      sync.feed(timeline.minutes, status);
    } catch (error) {
      if (signal.aborted) return;
      if (error.kind === "unauthorized") return askToSignIn("Signed out: the token is not accepted any longer.");
      if (!(error instanceof ApiError)) console.error(error);
      // Nobody knows now whether all is well; and a fault of this page must not look like good news either.
      parts.verdict.hidden = true;
      noteTrouble(
        error instanceof ApiError ? error : new Error("its answer cannot be shown; the browser’s log says why"),
      );
      if (content.hidden) waiting.textContent = "Nothing to show yet: the service does not answer.";
    }
  });
  freshness.watched = true;
  return run();
}

let countedAt = 0; // by the service's clock: answers may overtake each other

function tellFailureCount({ at, failures }) {
  if (Date.parse(at) < countedAt) return;
  countedAt = Date.parse(at) || 0;
  const mark = find("failure-count");
  mark.hidden = !number(failures.events);
  mark.textContent = count(failures.events);
  mark.setAttribute("aria-label", `: ${counted(failures.events, "event")} failed`);
}

/** The number in the bar, after it was changed from here; the pages that know it tell it themselves. */
async function refreshFailureCount() {
  if (!isSignedIn()) return;
  try {
    tellFailureCount(await api("/status"));
  } catch {
    // The number stays as it was; what is wrong is told where it matters.
  }
}

/** What an operator wants to know first: is anything for me to do? */
function verdictOf(status) {
  const held = status.targets.filter((target) => target.hold);
  const silent = status.sources.filter((source) => source.silence);
  const points = [
    ...held
      .slice(0, 5)
      .map(({ name, hold }) => ({ tone: isShortHold(hold) ? "warn" : "bad", kind: "hold", name })),
    number(status.failures.events) > 0 && {
      tone: "bad",
      kind: "failed",
      events: status.failures.events,
      customers: status.failures.customers,
    },
    ...silent.slice(0, 5).map(({ name }) => ({ tone: "warn", kind: "silent", name })),
    ...status.held.slice(0, 5).map((held) => ({ tone: "bad", kind: "held", ...held })),
    number(status.dataRequests) > 0 && { tone: "warn", kind: "privacy", requests: status.dataRequests },
    number(status.unmatched) > 0 && { tone: "good", kind: "unmatched", events: status.unmatched },
  ].filter(Boolean);
  const tone = ["bad", "warn"].find((one) => points.some((point) => point.tone === one)) ?? "good";
  return { tone, points, waits: number(status.backlog.customers) };
}

function drawVerdict({ tone, points, waits }) {
  const good = points.length ? "Nothing failed" : "All is well";
  const title = { good, warn: "Worth a look", bad: "Needs a person" }[tone];
  const line = (point) =>
    ({
      hold: () => ["FlexPortal ", foreign(point.name), " is paused; its changes wait, none is lost."],
      failed: () => [
        link(toFailures(), {}, `${counted(point.events, "change")} of ${counted(point.customers, "customer")}`),
        " failed and will not be tried again by ",
        isOne(point.events) ? "itself." : "themselves.",
      ],
      silent: () => ["Source ", foreign(point.name), " is more silent than it used to be."],
      held: () => [
        link(toEvents({ status: "held", source: point.source }), { "data-testid": "held" }, counted(point.webhooks, "webhook")),
        " of ",
        foreign(point.shop),
        isOne(point.webhooks) ? " is held: " : " are held: ",
        sentence(point.explanation),
      ],
      unmatched: () => [
        link(toEvents({ status: "unmatched" }), { "data-testid": "unmatched" }, counted(point.events, "change")),
        isOne(point.events) ? " waits" : " wait",
        " unmatched: FlexPortal does not know the customer (yet), or has several with the e-mail. It is asked again by itself.",
      ],
      privacy: () => [
        `${counted(point.requests, "privacy request")} ${isOne(point.requests) ? "waits" : "wait"} for an answer.`,
      ],
    })[point.kind]();
  announce(`${title}.`);
  return [
    h("h2", {}, title),
    points.length
      ? h(
          "ul",
          {},
          points.map((point) => h("li", {}, line(point))),
        )
      : h(
          "p",
          { class: "muted" },
          waits
            ? "Nothing failed, nothing is paused; what waits goes out by itself."
            : "Everything that came has been dealt with.",
        ),
  ];
}

function drawBacklog({ backlog }) {
  const head = h("h2", {}, "Backlog");
  if (!number(backlog.customers)) return [head, empty("Nothing waits.", "Every change that came has been dealt with.")];
  const later = number(backlog.customers) - number(backlog.due) - number(backlog.inFlight);
  const end = !isNumber(backlog.clearsInSeconds)
    ? "When that is done is not known: a target has no limit, or its limit was not told."
    : number(backlog.clearsInSeconds) < 1
      ? "What is due is done at once."
      : [
          "At the quota, what is due is done in about ",
          h("strong", {}, duration(backlog.clearsInSeconds)),
          ", at ",
          when(new Date(serviceNow() + number(backlog.clearsInSeconds) * 1000).toISOString()),
          ".",
        ];
  return [
    head,
    h(
      "p",
      { class: "figures" },
      h(
        "span",
        {},
        h("b", {}, count(backlog.customers)),
        isOne(backlog.customers) ? " customer waits" : " customers wait",
      ),
      h("span", {}, h("b", {}, count(backlog.due)), " due now"),
      h("span", {}, h("b", {}, count(backlog.inFlight)), " under way"),
    ),
    h("p", { "data-testid": "backlog-end" }, end),
    backlog.oldestReceivedAt &&
      h(
        "p",
        { class: "muted small" },
        "The oldest change came ",
        when(backlog.oldestReceivedAt, "ago"),
        ", at ",
        when(backlog.oldestReceivedAt),
        ".",
      ),
    later > 0 &&
      h(
        "p",
        { class: "muted small" },
        `${counted(later, "customer")} ${isOne(later) ? "waits" : "wait"} for a later attempt, or until FlexPortal knows them.`,
      ),
    h("p", { class: "small" }, link(toEvents({ status: "pending" }), {}, "Events that wait")),
  ];
}

function gauge(part) {
  const filled = Math.max(0, Math.min(1, part)) * 100;
  return svg(
    "svg",
    { class: "gauge", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false" },
    svg("rect", { class: "track", width: 100, height: 8, rx: 1 }),
    svg("rect", { class: part >= 0.9 ? "fill high" : "fill", width: filled, height: 8, rx: 1 }),
  );
}

function drawTargets(targets) {
  const head = h("h2", {}, "FlexPortal: quota and pauses");
  if (!targets.length)
    return [head, empty("No target is known yet.", "One appears once the worker runs with FlexPortal’s credentials.")];
  return [
    head,
    h(
      "div",
      { class: "cards" },
      targets.slice(0, MOST_CARDS).map((target) => {
        const limit = number(target.rateLimitPerMinute);
        const quota =
          limit > 0
            ? `${count(target.usedLastMinute)} of ${counted(limit, "request")} used in the last minute${isNumber(target.availableNow) ? `, ${count(target.availableNow)} free now` : ""}`
            : `${counted(target.usedLastMinute, "request")} in the last minute; no limit is set`;
        const waits = number(target.customers)
          ? [
              `${counted(target.customers, "customer")} ${isOne(target.customers) ? "waits" : "wait"}, ${count(target.due)} due`,
              isNumber(target.clearsInSeconds) &&
                (number(target.clearsInSeconds) < 1 ? "done at once" : `done in about ${duration(target.clearsInSeconds)}`),
              target.oldestReceivedAt && h("span", {}, "oldest ", when(target.oldestReceivedAt, "ago")),
            ]
          : ["nothing waits"];
        return h(
          "article",
          { class: "card", "data-testid": `target-${visible(target.name)}` },
          h(
            "div",
            { class: "card-head" },
            h("h3", {}, foreign(target.name)),
            h(
              "span",
              { class: "end" },
              target.hold
                ? badge("paused", isShortHold(target.hold) ? "warn" : "bad")
                : badge("open", "good"),
            ),
          ),
          h("p", { class: "small" }, quota),
          limit > 0 && gauge(number(target.usedLastMinute) / limit),
          h("p", { class: "muted small" }, spaced(waits)),
          target.hold &&
            h(
              "p",
              { class: `note small ${isShortHold(target.hold) ? "warn" : "bad"}`, "data-testid": "hold" },
              h(
                "strong",
                {},
                Object.hasOwn(HOLDS, target.hold.reason) ? HOLDS[target.hold.reason] : foreign(target.hold.reason),
              ),
              ", until ",
              when(target.hold.until),
              " (",
              when(target.hold.until, "ago"),
              "). ",
              sentence(target.hold.explanation),
            ),
        );
      }),
      more(targets),
    ),
  ];
}

const more = (list, most = MOST_CARDS) =>
  list.length > most && h("p", { class: "muted small" }, `… and ${count(list.length - most)} more.`);

function drawSources(sources) {
  const head = h("h2", {}, "Sources");
  if (!sources.length)
    return [
      head,
      empty(
        "No source is configured.",
        "Set a webhook secret, such as SHOPIFY_WEBHOOK_SECRET, and subscribe the shop’s customer webhooks.",
      ),
    ];
  return [
    head,
    h(
      "div",
      { class: "pair" },
      sources
        .slice(0, MOST_CARDS)
        .map((source) =>
          h(
            "article",
            { class: "card", "data-testid": `source-${visible(source.name)}` },
            h(
              "div",
              { class: "card-head" },
              h("h3", {}, link(toEvents({ source: source.name }), {}, foreign(source.name))),
              h("span", { class: "muted small" }, foreign(source.kind), " → ", foreign(source.target)),
              h(
                "span",
                { class: "end" },
                source.silence
                  ? badge("silent", "warn")
                  : source.lastReceivedAt
                    ? badge("receiving", "good")
                    : badge("never heard", "plain"),
              ),
            ),
            h(
              "p",
              { class: "small" },
              source.lastReceivedAt
                ? [
                    "Last delivery ",
                    when(source.lastReceivedAt, "ago"),
                    ", at ",
                    when(source.lastReceivedAt),
                    `; ${count(source.lastHour)} in the last hour.`,
                  ]
                : "Nothing has come yet: subscribe the shop’s webhooks to this service, or send a sample with “flexportal-sync send”.",
            ),
            source.silence &&
              h(
                "p",
                { class: "note warn small", "data-testid": "silence" },
                sentence(source.silence.explanation),
                " Silent since ",
                when(source.silence.since, "both"),
                ".",
              ),
          ),
        ),
    ),
    more(sources),
  ];
}

function drawNotices(notices) {
  return [
    h("h2", {}, "Worth knowing"),
    h(
      "ul",
      { "data-testid": "notices" },
      notices.map((notice) =>
        h(
          "li",
          {},
          h("strong", {}, foreign(notice.subject)),
          ": ",
          sentence(notice.detail),
          " ",
          h("span", { class: "muted small" }, `${counted(notice.count, "time")}, last `, when(notice.lastAt, "ago")),
        ),
      ),
    ),
  ];
}

function drawDataRequests(requests) {
  return [
    h("h2", {}, `${counted(requests, "data request")} ${isOne(requests) ? "waits" : "wait"} for a person`),
    h(
      "p",
      {},
      "Somebody asked a shop what is held of them. ",
      h("code", {}, "flexportal-sync export"),
      " prints it; once that is answered, close the request on its event’s page.",
    ),
    h(
      "p",
      {},
      link(
        toEvents({ status: "pending", privacy: "only" }),
        { "data-testid": "show-data-requests" },
        "Look for them among what is pending",
      ),
    ),
  ];
}

function drawFailureGroups(failures, again) {
  const groups = failures.groups ?? [];
  const head = h(
    "div",
    { class: "panel-head" },
    h("h2", {}, "Failures by cause"),
    number(failures.events) > 0 &&
      link(
        toFailures(),
        { class: "small", "data-testid": "all-failures" },
        `All ${counted(failures.events, "failure")}`,
      ),
  );
  if (!number(failures.events))
    return [
      head,
      empty(
        "Nothing failed.",
        "What FlexPortal refuses, or what could not be delivered after all attempts, would be counted here by its cause.",
      ),
    ];
  const rest = number(failures.events) - groups.reduce((sum, group) => sum + number(group.events), 0);
  return [
    head,
    h(
      "div",
      { class: "cards" },
      groups.slice(0, MOST_CARDS).map((group) => drawFailureGroup(group, again)),
    ),
    rest > 0 &&
      h(
        "p",
        { class: "muted small" },
        `${counted(rest, "more event")} with other causes: `,
        link(toFailures(), {}, "all failures"),
        ".",
      ),
  ];
}

const filterOfGroup = (group) => ({ source: group.source, code: group.errorCode ?? undefined, cause: group.cause });

function drawFailureGroup(group, again) {
  const filter = filterOfGroup(group);
  const words = () => [
    "what failed at ",
    foreign(group.source),
    " with “",
    sentence(group.cause, { most: 200 }),
    "”",
  ];
  return h(
    "article",
    { class: "card group", "data-testid": "failure-group" },
    h(
      "div",
      {},
      h(
        "p",
        { class: "group-cause clamp" },
        link(toFailures(filter), { "data-testid": "failure-group-link" }, sentence(group.cause, { most: 400 })),
      ),
      h(
        "p",
        { class: "meta" },
        h("span", {}, `${counted(group.events, "event")} of ${counted(group.customers, "customer")}`),
        h("span", {}, foreign(group.source)),
        codeBadge(group),
        h("span", {}, "last ", when(group.lastFailedAt, "ago")),
        h("span", {}, "since ", when(group.firstFailedAt)),
        group.exampleEventId && link(toEvent(group.exampleEventId), {}, "example"),
      ),
    ),
    h(
      "div",
      { class: "actions" },
      actionButtons({ key: JSON.stringify(filter), scope: { all: true, ...filter }, words, afterwards: again }),
    ),
  );
}

// ---------------------------------------------------------------------------------------------------------------------
// Lists: filters and pages
// ---------------------------------------------------------------------------------------------------------------------

function selectField(label, name, value, options) {
  const known = options.some(([option]) => option === value);
  const all = known || !value ? options : [...options, [value, value]];
  const shorten = (text) => (text.length > 70 ? `${text.slice(0, 69)}…` : text);
  return h(
    "div",
    { class: "field" },
    h("label", { for: `filter-${name}` }, label),
    h(
      "select",
      { id: `filter-${name}`, "data-name": name, "data-testid": `filter-${name}` },
      all.map(([option, words]) =>
        h("option", { value: option, selected: option === (value ?? "") }, shorten(visible(uncoded(words)))),
      ),
    ),
  );
}

function textField(label, name, value, attributes = {}) {
  return h(
    "div",
    { class: "field" },
    h("label", { for: `filter-${name}` }, label),
    h("input", {
      id: `filter-${name}`,
      "data-name": name,
      "data-testid": `filter-${name}`,
      type: "text",
      value: value ?? "",
      autocomplete: "off",
      spellcheck: "false",
      autocapitalize: "off",
      ...attributes,
    }),
  );
}

const fieldsOf = (form) => [...form.querySelectorAll("[data-name]")];
const typedIn = (form) => JSON.stringify(fieldsOf(form).map((field) => field.value.trim()));

/** A form whose fields become the address, so that a filter can be sent to somebody, and back leads back. */
function filterForm(toAddress, hasFilter, ...fields) {
  const submit = (event) => {
    event.preventDefault();
    const chosen = {};
    for (const field of fieldsOf(event.currentTarget)) chosen[field.getAttribute("data-name")] = field.value.trim();
    goTo(toAddress(chosen));
  };
  return h(
    "form",
    { class: "panel filters", onsubmit: submit, role: "search" },
    fields,
    h(
      "div",
      { class: "actions" },
      h("button", { type: "submit", class: "primary", "data-testid": "filter-apply" }, "Filter"),
      hasFilter && link(toAddress({}), { "data-testid": "filter-clear" }, "Clear"),
    ),
  );
}

const SINCE = [
  ["", "any time"],
  ["1h", "last hour"],
  ["6h", "last 6 hours"],
  ["1d", "last day"],
  ["7d", "last 7 days"],
  ["30d", "last 30 days"],
];

function pager(toAddress, filter, next) {
  if (!filter.cursor && !next) return null;
  return h(
    "nav",
    { class: "pager", "aria-label": "Pages" },
    filter.cursor &&
      link(toAddress({ ...filter, cursor: "" }), { class: "button", "data-testid": "first-page" }, "« Newest"),
    next
      ? link(toAddress({ ...filter, cursor: next }), { class: "button", "data-testid": "next-page" }, "Older ›")
      : h("span", { class: "muted small" }, "The end."),
  );
}

/** The sources there are, for filters; a filter without them still works. */
async function knownSources(signal) {
  try {
    const status = await api("/status", { signal });
    tellFailureCount(status);
    return status.sources.slice(0, 200).map(({ name }) => name);
  } catch (error) {
    if (error.kind === "unauthorized" || signal.aborted) throw error;
    return [];
  }
}

const asOptions = (all, names) => [["", all], ...[...new Set(names)].map((name) => [name, name])];

// ---------------------------------------------------------------------------------------------------------------------
// View: failures
// ---------------------------------------------------------------------------------------------------------------------

async function failuresList(main, { signal, parameters, reload }) {
  const filter = pick(parameters, ["source", "code", "cause", "customer", "newerThan", "cursor"]);
  const narrowing = { ...filter, cursor: undefined };
  const [page, groups, sources] = await Promise.all([
    api(`/failures${query({ ...filter, limit: PAGE_SIZE })}`, { signal }),
    api("/failures/groups", { signal }),
    knownSources(signal),
  ]);
  const all = groups.items.slice(0, 500);
  const hasFilter = Object.values(narrowing).some(Boolean);
  const scope = { all: true, ...Object.fromEntries(Object.entries(narrowing).filter(([, value]) => value)) };
  const words = () =>
    hasFilter
      ? [
          "everything that failed and matches the filter (",
          Object.entries(narrowing)
            .filter(([, value]) => value)
            .map(([name, value], at) => [
              at ? ", " : "",
              `${name === "newerThan" ? "within" : name}: `,
              (name === "cause" ? sentence : foreign)(value, { most: 200 }),
            ]),
          ")",
        ]
      : "everything that failed";
  const items = page.items.slice(0, PAGE_SIZE * 4);
  const form = filterForm(
    toFailures,
    hasFilter,
    selectField(
      "Source",
      "source",
      filter.source,
      asOptions("all", [...sources, ...all.map((group) => group.source)]),
    ),
    selectField("Code", "code", filter.code, asOptions("all", all.map((group) => group.errorCode).filter(Boolean))),
    selectField(
      "Cause",
      "cause",
      filter.cause,
      asOptions(
        "all",
        all.map((group) => group.cause),
      ),
    ),
    textField("Shop’s customer id", "customer", filter.customer),
    selectField("Failed in the", "newerThan", filter.newerThan, SINCE),
  );
  const buttons = actionButtons({
    key: "matching",
    scope,
    words,
    afterwards: reload,
    ids: ["retry-matching", "discard-matching"],
    labels: hasFilter ? ["Retry all that match", "Discard all that match"] : ["Retry all", "Discard all"],
  });
  const hint = h(
    "p",
    { class: "note warn small", role: "status", "data-testid": "filter-differs", hidden: true },
    "The filter above was changed and is not applied yet: press “Filter” first. What is shown, and would be acted on, is of the filter before.",
  );
  // The buttons act on what is shown: not while the form says something else.
  const applied = typedIn(form);
  const compare = () => {
    const differs = typedIn(form) !== applied;
    hint.hidden = !differs;
    for (const button of buttons) button.disabled = differs;
  };
  form.addEventListener("input", compare);
  form.addEventListener("change", compare);

  main.append(
    h(
      "header",
      {},
      h("h1", { tabindex: "-1" }, "Failures"),
      h(
        "p",
        { class: "muted" },
        "What needs a person: each stands here until it is mended in the shop, retried or discarded.",
      ),
    ),
    form,
    h(
      "section",
      { class: "panel", "aria-label": "Failed events", "data-testid": "failure-list" },
      items.length
        ? [
            h(
              "div",
              { class: "panel-head" },
              h("h2", {}, shownWords(items, filter, page.next)),
              h("div", { class: "actions" }, buttons),
            ),
            hint,
            h("ol", { class: "rows" }, items.map(failureRow)),
            pager(toFailures, filter, page.next),
          ]
        : hasFilter || filter.cursor
          ? [
              empty("Nothing failed that matches.", "It may have been mended, retried or discarded meanwhile."),
              h("p", {}, link(toFailures(), {}, "All failures")),
            ]
          : empty(
              "Nothing failed.",
              "When FlexPortal refuses a change, or does not take it after all attempts, it stands here with the reason and the next step.",
            ),
    ),
  );
  announce(items.length ? `${counted(items.length, "failure")} shown.` : "No failures.");
}

function shownWords(items, filter, next) {
  return `${count(items.length)}${next ? "" : filter.cursor ? ", the last" : ""} shown, newest first`;
}

function failureRow(failure) {
  const { cause, error } = failure;
  const isRepeated = error?.startsWith(cause);
  return h(
    "li",
    {},
    link(
      toEvent(failure.eventId),
      { class: "row row-failure", "data-testid": "failure", "data-key": `failure:${failure.eventId}` },
      h(
        "span",
        { class: "strong clamp" },
        sentence(isRepeated ? error : cause, { most: 400 }),
        error && !isRepeated && h("span", { class: "reason" }, " · ", sentence(error, { most: 400 })),
      ),
      h("span", { class: "end" }, when(failure.failedAt, "ago")),
      h(
        "span",
        { class: "meta whole" },
        h("span", {}, foreign(failure.source)),
        h("span", {}, foreign(failure.topic, { most: 80 })),
        h("span", {}, whoIs(failure)),
        codeBadge(failure),
        h("span", {}, counted(failure.attempts, "attempt")),
        failure.warnings?.length > 0 && h("span", {}, counted(failure.warnings.length, "warning")),
      ),
    ),
  );
}

function whoIs({ email, shopCustomerId }) {
  const parts = [
    email && foreign(email, { most: 120 }),
    shopCustomerId && foreign(shopCustomerId, { mono: true, most: 80 }),
  ].filter(Boolean);
  return parts.length ? spaced(parts) : h("span", { class: "muted" }, "no customer named");
}

const pick = (parameters, names) => Object.fromEntries(names.map((name) => [name, parameters.get(name) ?? ""]));

// ---------------------------------------------------------------------------------------------------------------------
// View: events
// ---------------------------------------------------------------------------------------------------------------------

const isPrivacyRequest = (event) => /(?:^|[/.])(?:data_request|redact)$/.test(event.topic ?? "");

async function eventsList(main, { signal, parameters }) {
  const filter = pick(parameters, ["source", "status", "customer", "email", "code", "newerThan", "cursor"]);
  // The API has no filter for these: a page of what is pending is looked through instead.
  const onlyPrivacy = parameters.get("privacy") === "only";
  const [page, sources] = await Promise.all([
    api(`/events${query({ ...filter, limit: PAGE_SIZE })}`, { signal }),
    knownSources(signal),
  ]);
  const items = page.items.filter((event) => !onlyPrivacy || isPrivacyRequest(event)).slice(0, PAGE_SIZE * 4);
  const hasFilter = onlyPrivacy || Object.entries(filter).some(([name, value]) => name !== "cursor" && value);
  const toPage = onlyPrivacy ? (next) => toEvents({ ...next, privacy: "only" }) : toEvents;

  main.append(
    h(
      "header",
      {},
      h("h1", { tabindex: "-1" }, onlyPrivacy ? "Data requests that wait" : "Events"),
      h(
        "p",
        { class: "muted" },
        onlyPrivacy
          ? `Among ${counted(page.items.length, "pending event")} looked through.`
          : "What shops told, each with what became of it.",
      ),
    ),
    filterForm(
      toEvents,
      hasFilter,
      selectField("Source", "source", filter.source, asOptions("all", sources)),
      selectField("Status", "status", filter.status, [
        ["", "all"],
        ...Object.keys(STATUSES).map((status) => [status, status.replace("_", " ")]),
      ]),
      textField("Shop’s customer id", "customer", filter.customer),
      textField("E-mail", "email", filter.email, { inputmode: "email" }),
      textField("Error code", "code", filter.code),
      selectField("Came in the", "newerThan", filter.newerThan, SINCE),
    ),
    h(
      "section",
      { class: "panel", "aria-label": "Events", "data-testid": "event-list" },
      items.length
        ? [h("h2", {}, shownWords(items, filter, page.next)), h("ol", { class: "rows" }, items.map(eventRow))]
        : onlyPrivacy && page.next
          ? empty("None on this page.", "Older events may hold some.")
          : hasFilter || filter.cursor
            ? [
                empty("No event matches.", "Ids and codes are matched whole; e-mails whatever their letter case."),
                h("p", {}, link(toEvents(), {}, "All events")),
              ]
            : empty(
                "No shop has told anything yet.",
                "Events appear as soon as a signed webhook was accepted. “flexportal-sync send” sends a sample.",
              ),
      pager(toPage, filter, page.next),
    ),
  );
  announce(items.length ? `${counted(items.length, "event")} shown.` : "No events.");
}

function eventRow(event) {
  return h(
    "li",
    {},
    link(
      toEvent(event.eventId),
      { class: "row row-event", "data-testid": "event", "data-key": `event:${event.eventId}` },
      h("span", {}, statusBadge(event.status)),
      h("span", { class: "who strong clamp" }, whoIs(event)),
      h("span", { class: "what clamp" }, foreign(event.topic, { most: 120 })),
      h("span", { class: "where clamp one" }, foreign(event.source)),
      h("span", { class: "end" }, when(event.receivedAt, "ago")),
      event.error && h("span", { class: "reason clamp one" }, sentence(event.error, { most: 300 })),
    ),
  );
}

// ---------------------------------------------------------------------------------------------------------------------
// View: one event
// ---------------------------------------------------------------------------------------------------------------------

const RETRYABLE = ["failed", "unmatched", "discarded"];
const DISCARDABLE = ["failed", "unmatched"];
const isMoving = (event) => ["pending", "in_flight"].includes(event.status) && !isPrivacyRequest(event);

function eventPage(main, { signal, parts: [, id], fail }) {
  const path = `/events/${encodePart(id)}`;
  const slots = {
    head: h("header", {}),
    became: h("section", { class: "panel", "data-testid": "event-outcome" }),
    preview: h("section", { class: "panel", hidden: true, "data-testid": "preview-result", "aria-live": "polite" }),
    times: h("section", { class: "panel" }),
    attempts: h("section", { class: "panel", "data-testid": "attempts" }),
    payload: h("section", { class: "panel", "data-testid": "payload" }),
    people: h("section", { class: "panel", "data-testid": "interventions" }),
  };
  const attach = () =>
    main.append(
      slots.head,
      h("div", { class: "pair" }, slots.became, slots.times),
      slots.preview,
      slots.attempts,
      h("div", { class: "pair" }, slots.payload, slots.people),
    );
  const preview = () => showPreview(slots.preview, id, signal);
  let isShown = false;
  const run = repeat(signal, async () => {
    try {
      const event = await api(path, { signal });
      noteAnswer();
      if (!isShown) attach();
      isShown = true;
      freshness.watched = isMoving(event);
      tellFreshness();
      show(slots.head, [event.eventId, event.source, event.topic], () => eventHead(event));
      show(
        slots.became,
        [event.status, event.explanation, event.whatToDo, event.warnings, event.supersededBy, event.error],
        () => eventOutcome(event, run, preview),
      );
      show(
        slots.times,
        [
          event.receivedAt,
          event.occurredAt,
          event.nextAttemptAt,
          event.finishedAt,
          event.attempts,
          event.flexportalCustomerId,
        ],
        () => eventTimes(event),
      );
      show(
        slots.attempts,
        [event.requests, event.requestsUnder, event.flexportalCustomerId, event.error],
        () => eventAttempts(event),
      );
      show(slots.payload, event.payload, () => [
        h("h2", {}, "Payload, as the shop sent it"),
        jsonView(event.payload, { label: "Payload", parsed: true }),
      ]);
      show(slots.people, event.interventions, () => eventInterventions(event));
      return isMoving(event) ? undefined : "done";
    } catch (error) {
      if (signal.aborted) return "done";
      if (isShown && error.kind === "away") {
        freshness.watched = true;
        noteTrouble(error);
        return undefined;
      }
      fail(error);
      return "done";
    }
  });
  return run();
}

function eventHead(event) {
  document.title = `Event ${visible(event.eventId)} · flexportal-sync`;
  return [
    h("h1", { tabindex: "-1" }, foreign(event.topic, { most: 200 })),
    h("p", { class: "muted" }, "Event ", foreign(event.eventId, { mono: true }), " from ", foreign(event.source)),
  ];
}

function eventOutcome(event, again, preview) {
  const isPrivacy = isPrivacyRequest(event);
  const canDiscard = DISCARDABLE.includes(event.status) || (isPrivacy && event.status === "pending");
  return [
    h(
      "div",
      { class: "panel-head" },
      h("h2", {}, "What became of it"),
      statusBadge(event.status, { "data-testid": "event-status" }),
    ),
    h("p", { class: "lead", "data-testid": "explanation" }, sentence(withoutError(event))),
    (event.error || event.httpStatus || event.errorCode) && h("p", { class: "small" }, codeBadge(event)),
    event.error &&
      !isExplained(event) &&
      h(
        "p",
        { class: "note bad small tall", tabindex: "0", "data-key": "error", "data-testid": "error" },
        sentence(event.error, { keepLines: true, most: 10_000 }),
      ),
    event.whatToDo &&
      h(
        "p",
        { class: "note", "data-testid": "what-to-do" },
        h("strong", {}, "Next step: "),
        sentence(event.whatToDo, { keepLines: true }),
      ),
    event.supersededBy &&
      h(
        "p",
        {},
        "It was superseded by ",
        link(
          toEvent(event.supersededBy),
          { "data-testid": "superseded-by" },
          foreign(event.supersededBy, { mono: true }),
        ),
        ".",
      ),
    h(
      "div",
      { class: "actions" },
      actionButtons({
        key: "event",
        scope: { events: [event.eventId] },
        words: () => "this event",
        afterwards: again,
        retry: RETRYABLE.includes(event.status) && !isPrivacy,
        discard: canDiscard,
        labels: ["Retry", isPrivacy ? "Close as answered" : "Discard"],
      }),
      !isPrivacy &&
        h(
          "button",
          { type: "button", "data-key": "preview", "data-testid": "preview", onclick: preview },
          "Preview what would be sent",
        ),
    ),
    warningList(event.warnings),
  ];
}

/** What the explanation begins with need not be said again. */
const isExplained = ({ explanation, error }) => explanation === error || explanation.startsWith(`${error}; `);

/** The explanation up to the error, which is shown for itself. */
function withoutError({ explanation, error }) {
  return error && explanation.endsWith(`: ${error}`) ? explanation.slice(0, -error.length) : explanation;
}

function warningList(warnings) {
  if (!warnings?.length) return null;
  return [
    h("h3", {}, counted(warnings.length, "warning")),
    h(
      "ul",
      { class: "notes small", tabindex: "0", role: "list", "data-key": "warnings", "data-testid": "warnings" },
      warnings.slice(0, MOST_STEPS).map((warning) => h("li", {}, sentence(warning, { most: 600 }))),
    ),
    more(warnings, MOST_STEPS),
  ];
}

function eventTimes(event) {
  return [
    h("h2", {}, "Who and when"),
    facts([
      [
        "Customer",
        event.shopCustomerId
          ? link(toCustomer(event.source, event.shopCustomerId), { "data-testid": "customer-link" }, whoIs(event))
          : whoIs(event),
      ],
      [
        "In FlexPortal",
        event.flexportalCustomerId ? foreign(event.flexportalCustomerId, { mono: true }) : "not found yet",
      ],
      ["Happened", when(event.occurredAt, "both")],
      ["Received", when(event.receivedAt, "both")],
      ["Next attempt", event.nextAttemptAt && when(event.nextAttemptAt, "both")],
      ["Finished", event.finishedAt && when(event.finishedAt, "both")],
      ["Attempts", count(event.attempts)],
      ["Delivery", foreign(event.deliveryId, { mono: true, most: 300 })],
    ]),
  ];
}

function eventAttempts(event) {
  const head = h("h2", {}, "Attempts");
  const elsewhere =
    event.requestsUnder &&
    event.requestsUnder !== event.eventId &&
    h(
      "p",
      { class: "muted small" },
      "It went out together with ",
      link(
        toEvent(event.requestsUnder),
        { "data-testid": "requests-under" },
        foreign(event.requestsUnder, { mono: true }),
      ),
      ", under which these requests stand.",
    );
  if (!event.requests.length)
    return [
      head,
      elsewhere,
      empty("FlexPortal was asked nothing for it.", "Every request, look-ups included, stands here with its answer."),
    ];
  const list = h("ol", { class: "line" });
  const draw = (from) =>
    list.replaceChildren(
      ...event.requests
        .slice(from)
        .map((request, at) =>
          attempt(request, {
            event,
            earlier: event.requests[from + at - 1],
            isLast: from + at === event.requests.length - 1,
          }),
        ),
    );
  const from = Math.max(0, event.requests.length - MOST_STEPS);
  draw(from);
  const before =
    from > 0 &&
    h(
      "button",
      {
        type: "button",
        onclick: () => {
          draw(0);
          before.remove();
        },
      },
      `Show the ${count(from)} before`,
    );
  return [head, elsewhere, before, list];
}

/** What was asked, as far as it is known: ids and addresses are not kept with the request. */
function requestLine({ operation }, { flexportalCustomerId }) {
  if (operation === "find_by_email") return "GET /v1/customers?email=…";
  if (operation !== "update_customer") return null;
  return ["PUT /v1/customers/", flexportalCustomerId ? foreign(encodePart(flexportalCustomerId)) : "{id}"];
}

function attempt(request, { event, earlier, isLast }) {
  const saidBefore = isLast ? event.error : null;
  const line = requestLine(request, event);
  const status = number(request.httpStatus);
  const tone = status >= 200 && status < 300 && !request.errorCode ? "good" : status === 429 ? "warn" : "bad";
  const gap = earlier
    ? Date.parse(request.startedAt) - Date.parse(earlier.startedAt) - number(earlier.durationMs)
    : null;
  return h(
    "li",
    { class: tone, "data-testid": "attempt" },
    h(
      "div",
      { class: "line-head" },
      h(
        "strong",
        {},
        Object.hasOwn(OPERATIONS, request.operation) ? OPERATIONS[request.operation] : foreign(request.operation),
      ),
      h("span", { class: "muted" }, `attempt ${count(request.attempt)}`),
      when(request.startedAt),
      h("span", { class: "muted" }, `took ${shortDuration(request.durationMs)}`),
      status || request.errorCode ? codeBadge(request) : badge("no answer", "warn"),
      gap !== null && gap > 0 && h("span", { class: "gap" }, `${shortDuration(gap)} after the one before`),
    ),
    request.error &&
      request.error !== saidBefore &&
      h("p", { class: "small clamp" }, sentence(request.error, { most: 600 })),
    h(
      "details",
      { open: isLast, "data-key": `attempt:${request.startedAt}:${request.attempt}:${request.operation}` },
      h("summary", {}, "Request and answer"),
      h(
        "div",
        { class: "sides" },
        h(
          "div",
          { class: "side" },
          h("h3", {}, "Request"),
          line && h("p", { class: "request-line" }, h("code", { "data-testid": "request-line" }, line)),
          request.requestBody === null || request.requestBody === undefined
            ? h(
                "p",
                { class: "muted small" },
                request.operation === "find_by_email" ? "A look-up has no body." : "None.",
              )
            : jsonView(request.requestBody, { label: "Request", parsed: true }),
        ),
        h(
          "div",
          { class: "side" },
          h("h3", {}, "Answer"),
          request.responseBody === null || request.responseBody === undefined
            ? h("p", { class: "muted small" }, status ? "No body." : "No answer came.")
            : jsonView(request.responseBody, { label: "Answer" }),
          String(request.responseBody ?? "").length >= 4000 &&
            h("p", { class: "muted small" }, "Answers are kept up to 4 KiB; the rest was cut off."),
        ),
      ),
    ),
  );
}

function eventInterventions(event) {
  const head = h("h2", {}, "What people did");
  if (!event.interventions.length)
    return [head, empty("Nobody has stepped in.", "Retries and discards leave a trace here.")];
  return [
    head,
    h(
      "ol",
      { class: "line" },
      event.interventions
        .slice(-MOST_STEPS)
        .map((step) =>
          h(
            "li",
            { class: "warn" },
            h(
              "div",
              { class: "line-head" },
              h(
                "strong",
                {},
                Object.hasOwn(INTERVENTIONS, step.action) ? INTERVENTIONS[step.action] : foreign(step.action),
              ),
              when(step.at),
              h("span", { class: "muted small" }, when(step.at, "ago")),
            ),
            step.reason && h("p", {}, "“", foreign(step.reason, { most: 600 }), "”"),
            h("p", { class: "muted small" }, sentence(step.outcome, { most: 400 })),
          ),
        ),
    ),
  ];
}

async function showPreview(slot, id, signal) {
  slot.hidden = false;
  slot.replaceChildren(
    h("h2", {}, "What would be sent now"),
    h("p", { class: "muted" }, "Working it out, without asking FlexPortal …"),
  );
  try {
    const preview = await api("/preview", { body: { eventId: id }, signal });
    slot.replaceChildren(
      ...[
        drawPreview(preview, () => {
          slot.hidden = true;
          document.querySelector('[data-key="preview"]')?.focus();
        }),
      ]
        .flat(Infinity)
        .filter(Boolean),
    );
    slot.scrollIntoView?.({ block: "nearest" });
  } catch (error) {
    if (signal.aborted) return;
    if (error.kind === "unauthorized") askToSignIn("Signed out: the token is not accepted any longer.");
    else
      slot.replaceChildren(
        h("h2", {}, "What would be sent now"),
        h("p", { class: "problem" }, "It cannot be told: ", foreign(error.message), "."),
      );
  }
}

function drawPreview(preview, hide) {
  const differences = preview.differences ?? [];
  const shown = (value) =>
    value === null || value === undefined
      ? h("span", { class: "muted" }, "nothing")
      : typeof value === "string"
        ? foreign(value, { most: 400 })
        : h("pre", { class: "json bare" }, jsonNodes(JSON.stringify(value).slice(0, 2_000)));
  const cell = (label, ...content) => h("td", { role: "cell", "data-label": label }, h("div", {}, content));
  return [
    h(
      "div",
      { class: "panel-head" },
      h("h2", {}, "What would be sent now"),
      h("button", { type: "button", class: "quiet", onclick: hide }, "Hide"),
    ),
    h("p", { class: "lead", "data-testid": "preview-outcome" }, sentence(preview.outcome)),
    facts([
      [
        "FlexPortal customer",
        spaced(
          preview.flexportalCustomerId && foreign(preview.flexportalCustomerId, { mono: true }),
          Object.hasOwn(FOUND_BY, preview.foundBy) ? FOUND_BY[preview.foundBy] : foreign(preview.foundBy),
        ),
      ],
      ["Last sent", preview.lastSentAt ? when(preview.lastSentAt, "both") : "never, as far as is known"],
    ]),
    warningList(preview.warnings),
    // The roles are said since narrow pages set the table out as cards.
    differences.length > 0 &&
      h(
        "table",
        { class: "differences", role: "table", "aria-label": "Differences", "data-testid": "differences" },
        h(
          "thead",
          { role: "rowgroup" },
          h(
            "tr",
            { role: "row" },
            ["Field", "Last sent", "Now"].map((word) => h("th", { scope: "col", role: "columnheader" }, word)),
          ),
        ),
        h(
          "tbody",
          { role: "rowgroup" },
          differences
            .slice(0, 200)
            .map(({ field, before, after }) =>
              h(
                "tr",
                { role: "row" },
                cell("Field", foreign(field, { mono: true, most: 120 })),
                cell("Last sent", shown(before)),
                cell("Now", shown(after)),
              ),
            ),
        ),
      ),
    more(differences, 200),
    preview.request
      ? [
          h("p", {}, h("code", {}, foreign(preview.request.method), " ", foreign(preview.request.path))),
          jsonView(preview.request.body, { label: "Body that would be sent", parsed: true }),
        ]
      : h("p", { class: "muted" }, "No request would be made."),
  ];
}

// ---------------------------------------------------------------------------------------------------------------------
// View: customers
// ---------------------------------------------------------------------------------------------------------------------

async function customersList(main, { signal, parameters }) {
  const filter = pick(parameters, ["find", "source", "state", "cursor"]);
  const sources = await knownSources(signal);
  const form = filterForm(
    toCustomers,
    Object.values(filter).some(Boolean),
    textField("Shop’s customer id, or e-mail", "find", filter.find, {
      "data-testid": "customer-search",
      type: "search",
    }),
    selectField("Source", "source", filter.source, asOptions("all", sources)),
    selectField("State", "state", filter.state, [
      ["", "all"],
      ...Object.entries(CUSTOMER_STATES).map(([state, [word]]) => [state, word]),
    ]),
  );
  form.firstElementChild.classList.add("wide");
  const { items, next } = filter.find
    ? await findCustomers(filter, signal)
    : await api(
        `/customers${query({ source: filter.source, state: filter.state, cursor: filter.cursor, limit: PAGE_SIZE })}`,
        { signal },
      );
  const shown = items.slice(0, PAGE_SIZE * 4);
  main.append(
    h(
      "header",
      {},
      h("h1", { tabindex: "-1" }, "Customers"),
      h("p", { class: "muted" }, "Find one, and read its story."),
    ),
    form,
    h(
      "section",
      { class: "panel", "aria-label": "Customers", "data-testid": "customer-list" },
      shown.length
        ? [
            h(
              "h2",
              {},
              filter.find
                ? [counted(shown.length, "customer"), " found for “", foreign(filter.find, { most: 120 }), "”"]
                : `${counted(shown.length, "customer")} shown`,
            ),
            h("ol", { class: "rows" }, shown.map(customerRow)),
          ]
        : filter.find
          ? empty(
              "No such customer.",
              "Ids are matched whole, as the shop has them; e-mails whatever their letter case, also those a customer had before.",
            )
          : Object.values(filter).some(Boolean)
            ? empty("No customer matches.", "Try another source or state.")
            : empty("No customer is known yet.", "Each appears with the first event a shop tells about it."),
      pager(toCustomers, filter, next),
    ),
  );
  announce(filter.find ? `${counted(shown.length, "customer")} found.` : `${counted(shown.length, "customer")} shown.`);
}

/** Ids may look like e-mails, so both are tried. */
async function findCustomers({ find: sought, source, state, cursor }, signal) {
  const ask = (by) => api(`/customers${query({ ...by, source, state, cursor, limit: PAGE_SIZE })}`, { signal });
  if (!sought.includes("@")) return ask({ customer: sought });
  const page = await ask({ email: sought });
  // Some shops have e-mail addresses for ids.
  return page.items.length > 0 ? page : ask({ customer: sought });
}

function customerRow(customer) {
  return h(
    "li",
    {},
    link(
      toCustomer(customer.source, customer.shopCustomerId),
      { class: "row row-customer", "data-testid": "customer" },
      h("span", {}, stateBadge(customer.state)),
      h("span", { class: "who strong clamp" }, foreign(customer.shopCustomerId, { mono: true, most: 160 })),
      h("span", { class: "where" }, foreign(customer.source)),
      h(
        "span",
        { class: "what clamp one" },
        customer.flexportalCustomerId
          ? foreign(customer.flexportalCustomerId, { mono: true, most: 80 })
          : "not found in FlexPortal yet",
      ),
      h(
        "span",
        { class: "end" },
        counted(customer.events, "event"),
        number(customer.failedEvents) > 0 && `, ${count(customer.failedEvents)} failed`,
        customer.lastReceivedAt && [" · ", when(customer.lastReceivedAt, "ago")],
      ),
    ),
  );
}

// ---------------------------------------------------------------------------------------------------------------------
// View: one customer
// ---------------------------------------------------------------------------------------------------------------------

async function customerPage(main, { signal, parts: [, source, id], reload }) {
  const customer = await api(`/customers/${encodePart(source)}/${encodePart(id)}`, { signal });
  // Browsers fold the path "/.." away, encoded or not: a customer with the id ".." cannot be asked for.
  if (customer?.shopCustomerId === undefined) throw new ApiError("missing", "this id cannot be part of an address");
  const failed = number(customer.failedEvents);
  const filter = { source: customer.source, customer: customer.shopCustomerId };
  const words = () => [
    "what failed of customer ",
    foreign(customer.shopCustomerId, { mono: true }),
    " of ",
    foreign(customer.source),
  ];
  document.title = `Customer ${visible(customer.shopCustomerId).slice(0, 60)} · flexportal-sync`;
  main.append(
    h(
      "header",
      {},
      h("h1", { tabindex: "-1" }, "Customer ", foreign(customer.shopCustomerId, { mono: true })),
      h("p", { class: "muted" }, "of ", foreign(customer.source)),
    ),
    h(
      "section",
      { class: "panel", "data-testid": "customer-facts" },
      h(
        "div",
        { class: "panel-head" },
        h("h2", {}, "Where it stands"),
        stateBadge(customer.state, { "data-testid": "customer-state" }),
      ),
      facts([
        [
          "In FlexPortal",
          customer.flexportalCustomerId
            ? [
                foreign(customer.flexportalCustomerId, { mono: true }),
                customer.linkOrigin && h("span", { class: "muted" }, " · known by ", foreign(customer.linkOrigin)),
              ]
            : "not found yet: FlexPortal has a customer once there is a first order",
        ],
        ["Last synced", customer.lastSyncedAt ? when(customer.lastSyncedAt, "both") : "never"],
        ["FlexPortal has it as of", customer.lastOccurredAt && when(customer.lastOccurredAt, "both")],
        ["Last event came", customer.lastReceivedAt && when(customer.lastReceivedAt, "both")],
        ["Next attempt", customer.nextAttemptAt && when(customer.nextAttemptAt, "both")],
        [
          "Events",
          [
            link(toEvents(filter), { "data-testid": "customer-events" }, counted(customer.events, "event")),
            failed > 0 && [", ", link(toFailures(filter), {}, `${count(failed)} failed`)],
          ],
        ],
      ]),
      failed > 0 &&
        h(
          "div",
          { class: "actions" },
          actionButtons({
            key: "customer",
            scope: { all: true, ...filter },
            words,
            afterwards: reload,
            labels: ["Retry what failed", "Discard what failed"],
          }),
        ),
    ),
    h(
      "section",
      { class: "panel", "data-testid": "story" },
      h("h2", {}, "Its story"),
      customer.hasOlderEvents &&
        h(
          "p",
          { class: "muted small", "data-testid": "older-events" },
          "Its newest events are told here. ",
          link(toEvents(filter), {}, "All of them"),
        ),
      story(customer.story ?? []),
    ),
  );
}

function story(steps) {
  if (!steps.length) return empty("Nothing is on record.", "Its deliveries may be past their retention.");
  const list = h("ol", { class: "line story" });
  const draw = (from) =>
    list.replaceChildren(
      ...steps
        .slice(from)
        .map((step) =>
          h(
            "li",
            { class: Object.hasOwn(STEP_TONES, step.step) ? STEP_TONES[step.step] : "", "data-testid": "story-step" },
            h(
              "div",
              { class: "line-head" },
              when(step.at),
              h("span", { class: "muted small" }, foreign(step.step)),
              h("span", { class: "told" }, sentence(step.text, { most: 1_000 })),
              step.eventId && link(toEvent(step.eventId), { class: "small" }, "event"),
            ),
          ),
        ),
    );
  const from = Math.max(0, steps.length - MOST_STEPS);
  draw(from);
  const before =
    from > 0 &&
    h(
      "button",
      {
        type: "button",
        "data-testid": "story-before",
        onclick: () => {
          draw(0);
          before.remove();
        },
      },
      `Show the ${count(from)} steps before`,
    );
  return [before, list];
}

// ---------------------------------------------------------------------------------------------------------------------
// Router
// ---------------------------------------------------------------------------------------------------------------------

const VIEWS = [
  { tab: "overview", title: "Overview", matches: (parts) => parts.length === 0, open: overview },
  {
    tab: "failures",
    title: "Failures",
    matches: ([first, ...rest]) => first === "failures" && !rest.length,
    open: failuresList,
  },
  {
    tab: "events",
    title: "Events",
    matches: ([first, ...rest]) => first === "events" && !rest.length,
    open: eventsList,
  },
  {
    tab: "events",
    title: "Event",
    matches: ([first, ...rest]) => first === "events" && rest.length === 1,
    open: eventPage,
  },
  {
    tab: "customers",
    title: "Customers",
    matches: ([first, ...rest]) => first === "customers" && !rest.length,
    open: customersList,
  },
  {
    tab: "customers",
    title: "Customer",
    matches: ([first, ...rest]) => first === "customers" && rest.length === 2,
    open: customerPage,
  },
];

let current = null;
const scrolled = new Map(); // how far each address was read, for the way back
let isNewVisit = true; // by a link or a form, not by back and forward

function parseHash() {
  const [path, search = ""] = splitOnce(location.hash.replace(/^#\/?/, ""), "?");
  try {
    return { parts: path.split("/").filter(Boolean).map(decodeURIComponent), parameters: new URLSearchParams(search) };
  } catch {
    return { parts: ["?"], parameters: new URLSearchParams() }; // not encoded as it should be: no view
  }
}

function splitOnce(text, separator) {
  const at = text.indexOf(separator);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

function goTo(address) {
  isNewVisit = true;
  if (location.hash === address || (location.hash === "" && address === "#/")) openView({ focus: true });
  else location.hash = address;
}

function endView() {
  current?.controller.abort();
  current = null;
  Object.assign(freshness, { watched: false, lastGood: null, trouble: null, troubleSince: null });
  tellFreshness();
}

async function openView({ focus = false, keepScroll = false } = {}) {
  if (!isSignedIn()) return askToSignIn();
  endView();
  const { parts, parameters } = parseHash();
  const view = VIEWS.find(({ matches }) => matches(parts));
  const controller = new AbortController();
  const visit = { controller, hash: location.hash };
  current = visit;
  for (const tab of document.querySelectorAll("[data-view]")) {
    if (tab.dataset.view === view?.tab) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  document.title = `${view?.title ?? "Not found"} · flexportal-sync`;
  const main = find("main");
  const goal = keepScroll ? scrollY : isNewVisit ? 0 : (scrolled.get(location.hash) ?? 0);
  isNewVisit = false;
  // Drawn aside first: what was there stays until the new is ready, unless that takes long.
  const fresh = h("div");
  const loading = setTimeout(() => main.replaceChildren(h("p", { class: "muted" }, "Loading …")), 250);
  controller.signal.addEventListener("abort", () => clearTimeout(loading));
  const place = () => {
    clearTimeout(loading);
    if (current !== visit) return;
    main.replaceChildren(...fresh.childNodes);
    scrollTo(0, goal);
    if (focus) (main.querySelector("h1") ?? main).focus({ preventScroll: true });
  };
  const fail = (error) => {
    clearTimeout(loading);
    if (current !== visit) return;
    if (error.kind === "unauthorized") askToSignIn("Signed out: the token is not accepted any longer.");
    else main.replaceChildren(problemPanel(error, view));
  };
  if (!view) {
    fresh.append(
      h(
        "div",
        { class: "panel", "data-testid": "not-found" },
        h("h1", { tabindex: "-1" }, "No such page"),
        h("p", {}, link("#/", {}, "To the overview")),
      ),
    );
    return place();
  }
  const context = {
    signal: controller.signal,
    parts,
    parameters,
    fail,
    reload: () => {
      if (current === visit) openView({ keepScroll: true });
    },
  };
  // The overview draws itself as answers come; charts have to be in the page to know their width.
  if (view.open === overview) {
    place();
    main.replaceChildren();
    const opened = view.open(main, context);
    if (focus) main.querySelector("h1").focus({ preventScroll: true });
    await opened;
    if (current === visit && goal) scrollTo(0, goal);
    return undefined;
  }
  try {
    await view.open(fresh, context);
    if (fresh.childNodes.length) place();
  } catch (error) {
    if (!controller.signal.aborted) fail(error);
    if (!(error instanceof ApiError) && !controller.signal.aborted) throw error;
  }
  return undefined;
}

function problemPanel(error, view) {
  const title =
    error.kind === "missing"
      ? `${view?.title ?? "Page"} not found`
      : error.kind === "refused"
        ? "The service refuses this"
        : error instanceof ApiError
          ? "The service is away"
          : "A fault of this page";
  const text =
    error.kind === "missing"
      ? ["Nothing is on record under this address: ", foreign(error.message), "."]
      : [foreign(error.message), "."];
  return h(
    "div",
    { class: "panel", role: "alert", "data-testid": "problem" },
    h("h1", { tabindex: "-1" }, title),
    h("p", {}, text),
    h(
      "div",
      { class: "actions" },
      h(
        "button",
        { type: "button", class: "primary", "data-testid": "try-again", onclick: () => openView({ focus: true }) },
        "Try again",
      ),
      link("#/", {}, "To the overview"),
    ),
  );
}

// ---------------------------------------------------------------------------------------------------------------------
// Start
// ---------------------------------------------------------------------------------------------------------------------

history.scrollRestoration = "manual";
find("sign-in-form").addEventListener("submit", signIn);
find("sign-out").addEventListener("click", () => askToSignIn("You are signed out."));
find("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash is the router's
  find("main").focus();
});
document.addEventListener("click", (event) => {
  const address = event.target.closest?.("a[href^='#/']")?.getAttribute("href");
  if (!address || event.defaultPrevented || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  goTo(address);
});
addEventListener(
  "scroll",
  () => {
    if (current && current.hash === location.hash) scrolled.set(current.hash, scrollY);
  },
  { passive: true },
);
addEventListener("hashchange", () => {
  leaveQuestion?.();
  openView({ focus: true });
});
setInterval(() => {
  if (document.hidden) return;
  keepAgesFresh();
  tellFreshness();
}, 1_000);

if (isSignedIn()) {
  find("bar").hidden = false;
  openView();
} else {
  askToSignIn();
}
