// pg-boss, drained: a handler that sends one PUT for each job of its batch.
//
// Configuration: {"processes": 1, "work": {…}}, the latter as its `work` takes it, for each process. What is fetched
// beyond what may be in flight waits for a connection, as in graphile-worker's local queue.

import { PgBoss } from "pg-boss";

import { DATABASE_URL, drain } from "./drain.mjs";

const QUEUE = "put";

await drain({
  name: "pg-boss",
  left: "select exists (select from pgboss.job where state < 'completed')",
  done: "select count(*) from pgboss.job where state = 'completed'",

  async prepare() {
    const boss = await start({ supervise: false, schedule: false });
    await boss.createQueue(QUEUE);
    return {
      fill: (events) => boss.insert(QUEUE, events.map((data) => ({ data }))),
      end: () => boss.stop(),
    };
  },

  async work({ put, configuration }) {
    const boss = await start();
    // Each job has an outcome of its own, if that is asked for; else one failure is that of the whole batch.
    const { perJobResults } = configuration.work;
    const outcome = ({ id, data }) =>
      put(data).then(
        () => ({ id, status: "completed" }),
        (error) => ({ id, status: "failed", output: { message: error.message } }),
      );
    const handle = perJobResults
      ? (jobs) => Promise.all(jobs.map(outcome))
      : async (jobs) => void (await Promise.all(jobs.map(({ data }) => put(data))));
    await boss.work(QUEUE, configuration.work, handle);
    return () => boss.stop();
  },
});

async function start(options = {}) {
  const boss = new PgBoss({ connectionString: DATABASE_URL, ...options });
  boss.on("error", (error) => console.error(error.message));
  return boss.start();
}
