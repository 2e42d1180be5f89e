// Looks at pages in headless Chromium and prints what it saw, as JSON.
//
// node browser.mjs CHROMIUM AXE PROFILE JOBS, a file of [{url, width, dark, shot}]. Of the last it also says how often it
// was loaded again while that was off, and waits until it was once it is on. Speaks the DevTools protocol over
// a pipe, which needs no port; what it evaluates is not bound by the page's own policy.
import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";

const [chromium, axe, profile, input] = process.argv.slice(2);
const jobs = JSON.parse(readFileSync(input, "utf8"));
const browser = spawn(chromium, [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
  "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
  `--user-data-dir=${profile}`, "--remote-debugging-pipe", "about:blank",
], { stdio: ["ignore", "ignore", "inherit", "pipe", "pipe"] });
const ended = new Promise((end) => browser.once("exit", end));

const waiting = new Map();
const heard = [];
let next = 0, rest = "";
browser.stdio[4].setEncoding("utf8").on("data", (text) => {
  const parts = (rest + text).split("\0");
  rest = parts.pop();
  for (const message of parts.map((part) => JSON.parse(part))) {
    if (message.id === undefined) heard.forEach((listen) => listen(message));
    else {
      const { resolve, reject } = waiting.get(message.id);
      message.error ? reject(new Error(JSON.stringify(message.error))) : resolve(message.result);
    }
  }
});
function send(method, params = {}, sessionId) {
  const id = next++;
  browser.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + "\0");
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

const LOOK = `(async () => {
  const checks = { runOnly: { type: "tag", values: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] } };
  const { violations, passes } = await axe.run(document, checks);
  return {
    title: document.title,
    scripts: document.scripts.length,
    // Not innerWidth: a phone zooms out until it holds what is too wide.
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    rules: passes.length,
    violations: violations.map(({ id, help, nodes }) => ({ id, help, nodes: nodes.slice(0, 3).map((n) => n.html + " " + n.failureSummary) })),
  };
})()`;

// The page's own clock, a thousand times as fast.
const HURRY = "const slow = setInterval; window.setInterval = (f, ms) => slow(f, ms / 1000)";

async function look({ url, width, dark, shot }, last) {
  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
  const ask = (method, params) => send(method, params, sessionId);
  const said = [];
  const listen = (message) => {
    if (message.sessionId !== sessionId || message.method !== "Log.entryAdded") return;
    const { level, text } = message.params.entry;
    if (level === "error" || level === "warning") said.push(text);
  };
  heard.push(listen);
  await ask("Page.enable");
  await ask("Log.enable");
  await ask("Emulation.setDeviceMetricsOverride", { width, height: 900, deviceScaleFactor: 1, mobile: width < 600 });
  await ask("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }] });
  let loads = 0, enough = () => {};
  heard.push((message) => {
    if (message.sessionId === sessionId && message.method === "Page.loadEventFired") enough(++loads);
  });
  const loadedTimes = (times) => new Promise((resolve) => { enough = (now) => now >= times && resolve(); enough(loads); });
  if (last) await ask("Page.addScriptToEvaluateOnNewDocument", { source: HURRY });
  const { errorText } = await ask("Page.navigate", { url });
  if (errorText) throw new Error(url + ": " + errorText);
  await loadedTimes(1);
  const evaluate = async (expression) => {
    const { result, exceptionDetails } = await ask("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(JSON.stringify(exceptionDetails));
    return result.value;
  };
  // As a reader sees it first; the checks then look into what is folded as well.
  const { data } = await ask("Page.captureScreenshot", { captureBeyondViewport: true });
  writeFileSync(shot, Buffer.from(data, "base64"));
  await evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true })");
  await evaluate(readFileSync(axe, "utf8") + ";0");
  const seen = await evaluate(LOOK);
  if (last) {
    await evaluate("document.querySelectorAll('details').forEach((d) => { d.open = false })");
    await evaluate("new Promise((done) => slow(done, 300))");
    seen.reloads_off = loads - 1;
    await evaluate("document.getElementById('refresh').click()");
    // It stays on across loads.
    await loadedTimes(3);
  }
  await send("Target.closeTarget", { targetId });
  return { ...seen, said };
}

const seen = [];
for (const job of jobs) seen.push(await look(job, job === jobs.at(-1)));
console.log(JSON.stringify(seen));
await send("Browser.close");
await ended;
