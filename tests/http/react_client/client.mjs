// The React client as a browser runs it, against the server whose address is the argument. Tells what it saw, line by
// line, and waits for a line on its standard input where the test has something to do.
import { createInterface } from "node:readline";
import { EventSource } from "eventsource";
import { JSDOM } from "jsdom";

const { window } = new JSDOM('<!doctype html><div id="root"></div>', { url: "http://localhost/" });

// What the hooks have seen. `useRuns` reads its page anew after most events, and what it read may be older than what an
// event has told meanwhile: what is to be told by an event alone has to come when nothing is being read.
const seen = new Set();
const fetched = globalThis.fetch;
let reading = 0;
class Watched extends EventSource {
  constructor(url, options) {
    super(url, { ...options, fetch: fetched });
    if (String(url).includes("/runs/subscribe")) {
      this.addEventListener("message", (message) => seen.add(JSON.parse(message.data).type));
    }
  }
}
const watchedFetch = async (...request) => {
  reading += 1;
  try {
    const answer = await fetched(...request);
    return new Response(await answer.text(), answer);
  } finally {
    reading -= 1;
  }
};
const globals = {
  window,
  document: window.document,
  navigator: window.navigator,
  EventSource: Watched,
  fetch: watchedFetch,
};
for (const [name, value] of Object.entries(globals)) {
  Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
}
const React = await import("react");
const { createRoot } = await import("react-dom/client");
const { createDurably } = await import("@coji/durably-react");

const SECONDS = 20;
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const tell = (what, value) => console.log(JSON.stringify([what, value ?? null]));
const told = async (what) => {
  tell(what);
  await lines.next();
};
const until = async (what, isSo) => {
  const end = Date.now() + SECONDS * 1000;
  while (!isSo()) {
    if (Date.now() > end) throw new Error(`never: ${what}; ${JSON.stringify({ reading, seen: [...seen], job, run, list: list.runs })}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  tell(what);
};

const durably = createDurably({ api: process.argv[2] });
let job, run, logs, list, filtered, actions, watched;

function App() {
  const [runId, setRunId] = React.useState(null);
  watched = setRunId;
  job = durably.greet.useJob();
  run = durably.greet.useRun(runId);
  logs = durably.greet.useLogs(runId);
  list = durably.useRuns({ pageSize: 2 });
  filtered = durably.useRuns({ jobName: "fail", status: "failed", labels: { a: "b" } });
  actions = durably.useRunActions();
  return null;
}

createRoot(document.getElementById("root")).render(React.createElement(App));
await until("mounted", () => job && !list.isLoading && !filtered.isLoading);

const { runId } = await job.trigger({ name: "ada", times: 3 });
watched(runId);
await until("leased", () => job.isLeased && run.isLeased);
await until("read", () => seen.has("step:complete") && reading === 0 && list.runs[0]?.currentStepIndex === 1);
await told("let it begin");
await until("progress", () => job.progress?.message === "waiting" && list.runs[0]?.progress?.message === "waiting");
await until("logs", () => job.logs.length >= 1 && logs.logs.length >= 1);
await until("listed as leased", () => list.runs[0]?.id === runId && list.runs[0].status === "leased");
await until("steps counted", () => list.runs[0].currentStepIndex === 1);

await told("restart the server");
await told("open the gate");
await until("completed", () => job.isCompleted && run.isCompleted);
tell("output", [job.output, run.output, job.progress]);
await until("listed as completed", () => list.runs[0]?.id === runId && list.runs[0].status === "completed");

await told("close the gate");
const again = await actions.retrigger(runId);
await until("followed", () => job.currentRunId === again && list.runs[0]?.id === again);
await actions.cancel(again);
await until("cancelled", () => job.isCancelled && list.runs[0]?.status === "cancelled");
await actions.deleteRun(again);
await until("deleted", () => list.runs.every((one) => one.id !== again));
tell("gone", await actions.getRun(again));
tell("steps", (await actions.getSteps(runId)).map((step) => step.name));
await actions.cancel(runId).catch((error) => tell("refused", error.message.replace(runId, "it")));
await job.trigger({ name: 5 }).catch((error) => tell("invalid", error.message));

await told("trigger others");
await until("filtered", () => filtered.runs.length === 1 && filtered.runs[0].error === "it went wrong");
await until("paged", () => list.runs.length === 2 && list.hasMore);
list.nextPage();
await until("second page", () => list.page === 1 && list.runs.some((one) => one.id === runId));
process.exit(0);
