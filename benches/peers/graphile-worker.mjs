// graphile-worker, drained: a task that sends one PUT.
//
// Configuration: {"processes": 1, "worker": {…}}, the latter as in its preset, for each process. Both are the
// defaults of the library but for the number of jobs at once, where nothing is said.

import { Logger, makeWorkerUtils, run } from "graphile-worker";

import { DATABASE_URL, drain } from "./drain.mjs";

/** One line per job on standard output is nobody's wish. */
const logger = new Logger(() => (level, message) => {
  if (level === "error" || level === "warning") console.error(message);
});

await drain({
  name: "graphile-worker",
  left: "select exists (select from graphile_worker._private_jobs)",

  async prepare() {
    const utils = await makeWorkerUtils({ connectionString: DATABASE_URL, logger });
    await utils.migrate();
    return {
      fill: (events) => utils.addJobs(events.map((payload) => ({ identifier: "put", payload }))),
      end: () => utils.release(),
    };
  },

  async work({ put, inFlight, configuration }) {
    const runner = await run({
      preset: {
        worker: {
          connectionString: DATABASE_URL,
          concurrentJobs: inFlight,
          maxPoolSize: inFlight + 2,
          logger,
          ...configuration.worker,
        },
      },
      taskList: { put },
      noHandleSignals: true,
    });
    return () => runner.stop();
  },
});
