// Every request to the server goes through here: one place for the CSRF token, errors and sign-in.

import { t } from "./strings.js";

const TIMEOUT_MS = 30_000; // for requests that are answered at once
const LONG_TIMEOUT_MS = 180_000; // for requests that upload files or run the model

/** A refused or failed request. `status` is 0 where no answer came (`error` "offline" or "timeout"). */
export class ApiError extends Error {
  constructor(status, error, message) {
    super(message || error);
    this.name = "ApiError";
    this.status = status;
    this.error = error;
  }

  /** Whether the same request may succeed later. */
  get isTemporary() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

let me = null; // promise of Me: one request for all callers

function fetchMe() {
  me = call("GET", "/api/me");
  me.catch(() => (me = null)); // failures are not cached
  return me;
}

async function csrf() {
  return (await (me ?? fetchMe())).csrf;
}

/** @typedef {{token?: string, signal?: AbortSignal, timeoutMs?: number, keepalive?: boolean}} Options
 * `timeoutMs`: milliseconds until the request is given up. */

/** A request that changes something. If the CSRF token belongs to an earlier session, it is renewed and
 * the request repeated once.
 * @param {string} method
 * @param {string} path
 * @param {unknown} [body] sent as JSON, a file as it is
 * @param {Options} [options] */
async function send(method, path, body, options = {}) {
  const token = await csrf();
  try {
    return await call(method, path, body, { ...options, token });
  } catch (problem) {
    if (problem.error !== "csrf") throw problem;
    const renewed = (await fetchMe()).csrf;
    if (renewed === token) throw problem;
    return call(method, path, body, { ...options, token: renewed });
  }
}

/** @param {string} method
 * @param {string} path
 * @param {unknown} [body]
 * @param {Options} [options]
 * @returns {Promise<any>} the answer's JSON */
async function call(method, path, body, { token, signal, timeoutMs = TIMEOUT_MS, keepalive } = {}) {
  const headers = { Accept: "application/json" };
  /** @type {any} */
  const sent = body === undefined || body instanceof Blob ? body : JSON.stringify(body);
  if (body !== undefined) headers["Content-Type"] = body instanceof Blob ? "application/octet-stream" : "application/json";
  if (token) headers["X-CSRF-Token"] = token;
  let response;
  try {
    response = await fetch(path, {
      method,
      headers,
      body: sent,
      credentials: "same-origin",
      cache: "no-store",
      keepalive: Boolean(keepalive),
      signal: withTimeout(signal, timeoutMs),
    });
    return await answerOf(response);
  } catch (problem) {
    if (problem instanceof ApiError || signal?.aborted) throw problem;
    if (problem.name === "TimeoutError") {
      throw new ApiError(0, "timeout", t("The server did not answer in time."));
    }
    throw new ApiError(0, "offline", t("The server cannot be reached."));
  }
}

function withTimeout(signal, timeoutMs) {
  const timeout = AbortSignal.timeout(timeoutMs);
  if (!signal) return timeout;
  return AbortSignal.any ? AbortSignal.any([signal, timeout]) : signal;
}

async function answerOf(response) {
  const text = await response.text();
  let answer = null;
  try {
    answer = text ? JSON.parse(text) : null;
  } catch {
    // for example a proxy's error page: the status is enough
  }
  if (response.ok) return answer;
  if (response.status === 401) goToSignIn();
  throw new ApiError(
    response.status,
    answer?.error ?? `http_${response.status}`,
    answer?.message ?? t("The server answered {status}.", { status: response.status }),
  );
}

function goToSignIn() {
  me = null;
  if (location.pathname !== "/sign-in") location.assign("/sign-in");
}

const queryOf = (values) => new URLSearchParams(Object.entries(values).map(([name, value]) => [name, String(value)]));
const task = (id) => `/api/tasks/${encodeURIComponent(id)}`;
const action = (name) => `/api/actions/${encodeURIComponent(name)}`;
const person = (id) => `/api/team/people/${encodeURIComponent(id)}`;
const page = (offset, limit, dataset) => new URLSearchParams({ offset, limit, ...(dataset ? { dataset } : {}) });
const long = { timeoutMs: LONG_TIMEOUT_MS };

export const api = {
  me: () => me ?? fetchMe(),
  /** The one request without a CSRF token: nobody is signed in yet. */
  signIn: async (token) => {
    const answer = await call("POST", "/api/sign-in", { token });
    me = Promise.resolve(answer);
    return answer;
  },
  signOut: async () => {
    await send("POST", "/api/sign-out");
    me = null;
  },

  nextTask: (kinds, dataset = null) => send("POST", "/api/tasks/next", { kinds, dataset }, long),
  task: (id) => call("GET", task(id)),
  suggestions: (id, /** @type {Options} */ { signal } = {}) => call("GET", `${task(id)}/suggestions`, undefined, { signal, ...long }),
  heartbeat: (id, leaseId) => send("POST", `${task(id)}/heartbeat`, { lease_id: leaseId }),
  skip: (id, leaseId) => send("POST", `${task(id)}/skip`, { lease_id: leaseId }),
  release: (id, leaseId) => send("POST", `${task(id)}/release`, { lease_id: leaseId }),
  /** `body`: a DraftIn. `keepalive` lets it outlive the page (browsers allow 64 KB then). */
  saveDraft: (id, body, /** @type {Options} */ { keepalive } = {}) => send("PUT", `${task(id)}/draft`, body, { keepalive }),
  predict: (id, body, /** @type {Options} */ { signal } = {}) => send("POST", `${task(id)}/predict`, body, { ...long, signal }),
  submit: (id, body) => send("POST", `${task(id)}/submit`, body, long),
  late: (id, body) => send("POST", `${task(id)}/late`, body, long),
  judge: (id, body) => send("POST", `${task(id)}/judge`, body, long),

  giveBack: (id, leaseId) => send("POST", `${task(id)}/return`, { lease_id: leaseId }, long),
  /** `body`: a CommentIn. */
  comment: (id, body) => send("POST", `${task(id)}/comments`, body),
  comments: (imageId) => call("GET", `/api/images/${encodeURIComponent(imageId)}/comments`),

  /** About `count` regions of like pixels in a part of an image: the bytes that the route describes.
   * @returns {Promise<ArrayBuffer>} */
  regions: async (id, [x0, y0, x1, y1], count, between, { signal }) => {
    const query = queryOf({ x0, y0, x1, y1, count, ...between });
    const response = await fetch(`/api/images/${encodeURIComponent(id)}/regions?${query}`, { credentials: "same-origin", signal });
    return response.ok ? response.arrayBuffer() : answerOf(response);
  },

  guidelines: (dataset = null) => call("GET", dataset === null ? "/api/guidelines" : `/api/guidelines?${queryOf({ dataset })}`),
  previewGuidelines: (dataset, markdown) => send("POST", "/api/guidelines/preview", { dataset, markdown }),
  setGuidelines: (dataset, markdown, version) => send("PUT", "/api/guidelines", { dataset, markdown, expected_version: version }),
  guidelinesHistory: (dataset) => call("GET", `/api/guidelines/history?${queryOf({ dataset })}`),
  /** `file`: a File. */
  addGuidelinePicture: (dataset, file) => send("POST", `/api/guidelines/pictures?${queryOf({ dataset, file_name: file.name })}`, file, long),
  overview: () => call("GET", "/api/overview"),
  /** The fields of the actions have the values that suit the dataset, the first one by default. */
  actions: (dataset = null) =>
    call("GET", dataset === null ? "/api/actions" : `/api/actions?dataset=${encodeURIComponent(dataset)}`),
  planAction: (name, values) => send("POST", `${action(name)}/plan`, { values }),
  startAction: (name, values) => send("POST", action(name), { values }),
  jobs: () => call("GET", "/api/jobs"),
  job: (id) => call("GET", `/api/jobs/${encodeURIComponent(id)}`),
  retryJob: (id) => send("POST", `/api/jobs/${encodeURIComponent(id)}/retry`, {}),
  stopJob: (id) => send("POST", `/api/jobs/${encodeURIComponent(id)}/stop`, {}),

  browseDatasets: () => call("GET", "/api/browse/datasets"),
  /** `what`: masks, images, figures or outlines; `params`: URLSearchParams. */
  browse: (what, params, /** @type {Options} */ { signal } = {}) => call("GET", `/api/browse/${what}?${params}`, undefined, { signal }),
  imageHistory: (id) => call("GET", `/api/browse/images/${encodeURIComponent(id)}`),
  categories: (dataset) => call("GET", `/api/browse/categories?dataset=${encodeURIComponent(dataset)}`),
  /** `command`: review, annotate, reject or label; `chosen`: a ChosenMasks, ChosenImages or LabelledMasks. */
  browseCommand: (command, chosen) => send("POST", `/api/browse/${command}`, chosen, long),
  /** The visitor's own submitted tasks, and the masks of one. */
  finished: (offset, limit, /** @type {Options & {dataset?: string}} */ { signal, dataset } = {}) =>
    call("GET", `/api/browse/finished?${page(offset, limit, dataset)}`, undefined, { signal }),
  finishedTask: (id) => call("GET", `/api/browse/finished/${encodeURIComponent(id)}`),
  reopen: (id) => send("POST", `/api/browse/finished/${encodeURIComponent(id)}/reopen`),
  /** `since`: a Date. */
  work: (since) => call("GET", `/api/work?${new URLSearchParams({ since: since.toISOString() })}`),
  waiting: (dataset, offset, limit) => call("GET", `/api/work/waiting?${page(offset, limit, dataset)}`),
  take: (id) => send("POST", `/api/work/tasks/${encodeURIComponent(id)}/take`, undefined, long),

  team: () => call("GET", "/api/team"),
  audit: () => call("GET", "/api/team/audit"),
  /** `person`: a NewPerson; resolves to an Invitation. */
  invite: (person) => send("POST", "/api/team/people", person),
  inviteAgain: (id) => send("POST", `${person(id)}/invite`),
  setRights: (id, rights) => send("PUT", person(id), rights),
  /** `what`: enable or disable. */
  setState: (id, what) => send("POST", `${person(id)}/${what}`),
  /** `given`: an Assignment. */
  assign: (id, given) => send("POST", `${person(id)}/assign`, given),
  takeBack: (id, dataset) => send("POST", `${person(id)}/take-back`, { dataset }),
  makeToken: (given) => send("POST", "/api/team/tokens", given),
  settings: () => call("GET", "/api/settings"),
  /** `value` null: what the file says. */
  changeSetting: (name, value) => send("PUT", `/api/settings/${encodeURIComponent(name)}`, { value }),
  webhooks: () => call("GET", "/api/webhooks"),
  addWebhook: (given) => send("POST", "/api/webhooks", given, long),
  /** `what`: pause, resume, remove or test. */
  webhook: (id, what) => send("POST", `/api/webhooks/${encodeURIComponent(id)}/${what}`),
  sendAgain: (id) => send("POST", `/api/webhooks/deliveries/${encodeURIComponent(id)}/again`),
  revokeToken: (id) => send("POST", `/api/team/tokens/${encodeURIComponent(id)}/revoke`),

  thumbnailUrl: (id, side) => `/api/browse/images/${encodeURIComponent(id)}/thumbnail?side=${Math.round(side)}`,

  /** Address of a tile of a large image; `path`: level/column/row. */
  tileUrl: (id, path, between = null) => {
    const query = queryOf(between ?? {});
    return `/api/images/${encodeURIComponent(id)}/tiles/${path}${query.size ? `?${query}` : ""}`;
  },

  /** Address of an image's pixels; with `side` the longer side is at most that many pixels, with `between`
   * ({low, high}) these percentiles of the stored values are black and white. */
  imageUrl: (id, side, between = null) => {
    const query = queryOf({ ...(side ? { side: Math.round(side) } : {}), ...between });
    return `/api/images/${encodeURIComponent(id)}/pixels${query.size ? `?${query}` : ""}`;
  },
};

/** Listens to the server's events.
 *
 * `handlers`: any of `queue(counts)`, `job(view)`, `overview()`, and `state(isLive)`, which is called
 * when the connection opens or breaks. Returns a function that stops listening. */
export function events(handlers) {
  let source = null;
  let timer = null;
  let wait = 1_000;
  let closed = false;

  const tell = (name) => (event) => {
    try {
      handlers[name]?.(JSON.parse(event.data || "{}"));
    } catch (problem) {
      console.error("An event could not be handled", problem);
    }
  };

  function connect() {
    source = new EventSource("/api/events");
    for (const name of ["queue", "job", "overview"]) source.addEventListener(name, tell(name));
    source.onopen = () => {
      wait = 1_000;
      handlers.state?.(true);
    };
    source.onerror = () => {
      handlers.state?.(false);
      // the browser reconnects after a lost connection, but not after a refusal
      if (closed || source.readyState !== EventSource.CLOSED) return;
      timer = setTimeout(connect, wait);
      wait = Math.min(wait * 2, 30_000);
    };
  }

  connect();
  return () => {
    closed = true;
    clearTimeout(timer);
    source.close();
  };
}
