// States of jobs, rounds, runs, models and releases, in words for people.

import { t } from "../shared/strings.js";

const TEXTS = {
  building: t("building"),
  candidate: t("candidate"),
  collected: t("collected"),
  current: t("current"),
  done: t("done"),
  failed: t("failed"),
  finished: t("finished"),
  opened: t("opened"),
  planned: t("planned"),
  retired: t("retired"),
  running: t("running"),
  stopped: t("stopped"),
  trained: t("trained"),
};

export const stateText = (state) => TEXTS[state] ?? state;
