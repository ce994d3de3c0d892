// Failed jobs that nobody has been told about in this browser: the dashboard shows them until they are
// dismissed, the bar on top of all pages how many there are.

const A_DAY_MS = 86_400_000;
const SEEN = "dataengine.failuresSeen"; // when the notice was last dismissed

const endOf = (job) => Date.parse(job.finished_at ?? job.started_at);

/** The failed ones of the jobs that are not dismissed; before the first time, those of the last day. */
export function unseenFailures(jobs) {
  const seen = Number(localStorage.getItem(SEEN) ?? Date.now() - A_DAY_MS);
  return jobs.filter((job) => job.state === "failed" && endOf(job) > seen);
}

export function dismissFailures(failed) {
  localStorage.setItem(SEEN, String(Math.max(...failed.map(endOf))));
}
