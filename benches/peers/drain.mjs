// A peer's drain: fill, fork the processes that work, and time them.
//
//   DATABASE_URL=… TARGET=http://… EVENTS=<file, one JSON body a line> node <peer>.mjs '<configuration as JSON>'
//
// Of the configuration, `processes` (1) and `fetch` (false: Node's own instead of undici's faster `request`) are the
// same for all peers.
//
// Prints one line of JSON: {"peer", "version", "configuration", "jobs", "seconds", "puts"}. The time runs from the
// first PUT until the last job is seen to be done in the peer's own tables, as it does for the service.

import { fork } from "node:child_process";
import { createReadStream, readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

import pg from "pg";
import { Pool } from "undici";

/** Requests in flight, of all processes together. */
export const IN_FLIGHT = 64;
/** Jobs handed to a peer's bulk API at once. */
const FILLED_AT_ONCE = 1000;
/** How often a process that works tells how far it is, in milliseconds. */
const TOLD_EVERY_MS = 5;
/** Whoever does nothing for so long never will. */
const PATIENCE_MS = 30_000;

export const { DATABASE_URL, TARGET } = process.env;

/**
 * Runs a peer: in the process that was started it prepares, fills, and measures; in those that this one forks it works.
 *
 * @param peer.name of its package
 * @param peer.prepare makes the schema, and gives `{ fill(events), end() }`
 * @param peer.work starts to work with `{ put, inFlight, configuration }`, and gives what stops it again
 * @param peer.left SQL: is there a job that is not done
 * @param peer.done SQL, where a done job leaves a row: how many are there
 */
export async function drain(peer) {
  const configuration = JSON.parse(process.argv[2] ?? "{}");
  if (process.send) {
    await work(peer, configuration);
  } else {
    console.log(JSON.stringify(await measure(peer, configuration)));
  }
}

async function measure(peer, configuration) {
  const database = new pg.Client({ connectionString: DATABASE_URL });
  await database.connect();
  const jobs = await fill(peer);
  // What a table that was filled over days would have been through by itself.
  await database.query("vacuum analyze");

  const processes = Array.from({ length: configuration.processes ?? 1 }, () =>
    fork(process.argv[1], [process.argv[2] ?? "{}"]),
  );
  let failed = null;
  const told = processes.map(() => ({ puts: 0, first: Infinity }));
  processes.forEach((child, place) => {
    child.on("message", (message) => (told[place] = message));
    child.on("exit", (code) => code !== 0 && (failed = new Error(`a process ended with ${code}`)));
  });
  const puts = () => told.reduce((sum, { puts }) => sum + puts, 0);

  let moved = { at: now(), puts: 0 };
  const isPatient = () => {
    if (failed) throw failed;
    if (puts() > moved.puts) moved = { at: now(), puts: puts() };
    if (now() - moved.at > PATIENCE_MS) throw new Error(`nothing moves any more after ${moved.puts} PUTs`);
  };
  // The tables are left alone while there is work.
  for (; puts() < jobs; isPatient()) await sleep(TOLD_EVERY_MS);
  const isLeft = async () => (await database.query(`select (${peer.left}) as is_left`)).rows[0].is_left;
  for (; await isLeft(); isPatient()) await sleep(TOLD_EVERY_MS);
  const seconds = (now() - Math.min(...told.map(({ first }) => first))) / 1000;

  await Promise.all(
    processes.map((child) => {
      const exited = new Promise((resolve) => child.once("exit", resolve));
      child.send("stop");
      return exited;
    }),
  );
  if (failed) throw failed;
  if (await isLeft()) throw new Error("jobs came back");
  if (peer.done) {
    const done = Number((await database.query(peer.done)).rows[0].count);
    if (done !== jobs) throw new Error(`${done} of ${jobs} are done`);
  }
  await database.end();
  const { version } = JSON.parse(readFileSync(new URL(`node_modules/${peer.name}/package.json`, import.meta.url)));
  return { peer: peer.name, version, configuration, jobs, seconds, puts: puts() };
}

/** Fills the peer's table, and says with how many jobs. */
async function fill(peer) {
  const filling = await peer.prepare();
  let jobs = 0;
  let events = [];
  const flush = async () => {
    if (events.length > 0) await filling.fill(events);
    jobs += events.length;
    events = [];
  };
  for await (const line of createInterface({ input: createReadStream(process.env.EVENTS) })) {
    events.push(JSON.parse(line));
    if (events.length === FILLED_AT_ONCE) await flush();
  }
  await flush();
  await filling.end();
  return jobs;
}

async function work(peer, configuration) {
  const inFlight = IN_FLIGHT / (configuration.processes ?? 1);
  const told = { puts: 0, first: Infinity };
  const flexportal = new Pool(TARGET, { connections: inFlight, pipelining: 1 });
  const request = configuration.fetch ? fetched : (path, options) => requested(flexportal, path, options);
  const put = async (event) => {
    if (told.first === Infinity) told.first = now();
    await update(request, event);
    told.puts += 1;
  };
  let last = 0;
  const telling = setInterval(() => {
    if (told.puts > last) process.send(told);
    last = told.puts;
  }, TOLD_EVERY_MS);
  const stop = await peer.work({ put, inFlight, configuration });
  // Whoever started it is gone.
  const exit = () => process.exit(1);
  process.once("disconnect", exit);
  process.once("message", async () => {
    await stop();
    clearInterval(telling);
    await flexportal.close();
    process.off("disconnect", exit);
    process.send(told, () => process.disconnect());
  });
}

/** The service's request: FlexPortal `PUT /v1/customers/{customerId}`. */
async function update(request, { type, timestamp, data }) {
  const { flexportalCustomerId, firstName, lastName, phone } = data;
  const { status, answer } = await request(`/v1/customers/${encodeURIComponent(flexportalCustomerId)}`, {
    method: "PUT",
    headers: {
      authorization: "Bearer key",
      "tenant-id": "tenant",
      "content-type": "application/json",
      "idempotency-key": `${type} ${data.customerId} ${timestamp}`,
    },
    body: JSON.stringify({ customerId: flexportalCustomerId, firstName, lastName, phone }),
  });
  if (status !== 200 || !answer.success) throw new Error(`FlexPortal answered ${status}`);
}

async function requested(flexportal, path, options) {
  const { statusCode, body } = await flexportal.request({ path, ...options });
  return { status: statusCode, answer: await body.json() };
}

async function fetched(path, options) {
  const response = await fetch(TARGET + path, options);
  return { status: response.status, answer: await response.json() };
}

/** Milliseconds since 1970, finely, the same for all processes. */
function now() {
  return performance.timeOrigin + performance.now();
}
