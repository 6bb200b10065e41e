// The live page: it shows the list of jobs, or one job, as the part of the address after # says.
//
//   #/?state=failed&name=render    the list, with its filters
//   #/jobs/UUID                    one job

import { jobUuid, RequestError } from "../client.js";
import { byId, decoded } from "./dom.js";
import { JobView } from "./job_view.js";
import { ListView } from "./list_view.js";
import { Session } from "./session.js";

/** @typedef {{ root: HTMLElement, start(): void, stop(): void, onKey?(key: string): boolean }} View */

const main = byId("view", HTMLElement);
const problem = byId("problem", HTMLElement);
const connection = byId("connection", HTMLElement);
const search = byId("search-id", HTMLInputElement);
const help = byId("help", HTMLDialogElement);

/** @type {View | null} */
let view = null;
let lastList = "#/";
let hasNavigated = false;
/** The address of the job that was shown last: the list goes on from there. */
let lastJob = "";

const session = new Session(show);

/** Show the view that the address names. */
function show() {
  view?.stop();
  report(null);
  const path = location.hash.slice(1) || "/";
  const [, id] = /^\/jobs\/([^/?]+)$/.exec(path) ?? [];
  if (id === undefined) {
    document.title = "Jobs";
    lastList = `#${path}`;
    view = new ListView(session.client, new URLSearchParams(path.split("?")[1] ?? ""), report, lastJob);
    lastJob = "";
  } else {
    document.title = "Job";
    lastJob = `#/jobs/${id}`;
    view = new JobView(session.client, decoded(id), report);
  }
  main.replaceChildren(view.root);
  view.start();
  if (hasNavigated) main.focus({ preventScroll: true });
  hasNavigated = true;
}

/**
 * Say what is wrong, or that all is well.
 * @param {unknown} error null if all is well, undefined while connecting
 */
function report(error) {
  const text = error ? explanation(error) : "";
  if (problem.textContent !== text) problem.textContent = text;
  problem.hidden = text === "";
  const isRefused = error instanceof RequestError && error.status === 401;
  connection.textContent = error === undefined ? "connecting" : error === null || isRefused ? "" : "not connected";
}

/** @param {unknown} error */
function explanation(error) {
  if (!(error instanceof RequestError)) {
    return navigator.onLine
      ? "The service can't be reached. What you see may be out of date; the page tries again."
      : "You are offline. What you see may be out of date; the page goes on when you are online again.";
  }
  if (error.status === 401) {
    session.ask(session.hasKey ? "The service does not know this key, or the token has expired." : "The service requires an API key.");
    return "";
  }
  if (error.status === 403) return `${error.message} Log in with an API key, or search for a job by its id.`;
  if (error.status === 429) return "The service limits how often it may be asked. The page tries again by itself.";
  if (error.status === 503) return "The service can't reach Redis at the moment. The page tries again by itself.";
  return error.message;
}

byId("search", HTMLFormElement).addEventListener("submit", async (event) => {
  event.preventDefault();
  const id = search.value.trim();
  if (!id) return;
  try {
    await jobUuid(id); // or say why it can't be computed
    location.hash = `#/jobs/${encodeURIComponent(id)}`;
    search.value = "";
    main.focus();
  } catch (error) {
    report(error);
  }
});
byId("help-button", HTMLElement).addEventListener("click", () => help.showModal());
addEventListener("hashchange", show);
addEventListener("offline", () => report(new Error("offline")));
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const isTyping = event.target instanceof HTMLInputElement;
  if (event.key === "Escape" && isTyping) main.focus();
  else if (event.key === "Escape" && location.hash.startsWith("#/jobs/")) location.hash = lastList;
  else if (isTyping) return;
  else if (event.key === "/") search.focus();
  else if (event.key === "?") help.showModal();
  else if (!view?.onKey?.(event.key)) return;
  event.preventDefault();
});

show();
