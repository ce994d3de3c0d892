// What the server sends by name, as people read it. A value that is not here is shown as its own words.

import { t } from "./strings.js";

/** @type {Map<string, string>} */
const NAMES = new Map(
  Object.entries({
    // stages, and kinds of runs
    assisted_manual: t("Assisted manual"),
    semi_automatic: t("Semi automatic"),
    fully_automatic: t("Fully automatic"),
    ground_truth: t("Ground truth"),
    words: t("Words"),
    retrain: t("Retrain"),
    release: t("Release"),
    ingest: t("Ingest"),
    gold: t("Gold"),
    program: t("Program"),
    train_verifier: t("Train verifier"),
    train_detector: t("Train detector"),
    train_suggester: t("Train suggester"),
    train_clip: t("Train clip"),
    train_coca: t("Train coca"),
    vectors: t("Vectors"),
    captions: t("Captions"),
    judge: t("Judge"),
    calibrate_judge: t("Calibrate judge"),
    // sources of masks
    annotator: t("Annotator"),
    prefill: t("Prefill"),
    automatic: t("Automatic"),
    imported: t("Imported"),
    // splits of a dataset
    train: t("Train"),
    held_out: t("Held out"),
    // kinds of tasks
    annotate: t("Annotate"),
    complete: t("Complete"),
    review: t("Review"),
    // verdicts
    accept: t("Accept"),
    reject: t("Reject"),
    fix: t("Fix"),
    accepted: t("Accepted"),
    rejected: t("Rejected"),
    fixed: t("Fixed"),
    // states of models, rounds, runs and tasks
    candidate: t("Candidate"),
    current: t("Current"),
    retired: t("Retired"),
    planned: t("Planned"),
    opened: t("Opened"),
    collected: t("Collected"),
    trained: t("Trained"),
    done: t("Done"),
    running: t("Running"),
    finished: t("Finished"),
    failed: t("Failed"),
    stopped: t("Stopped"),
    open: t("Open"),
    leased: t("Leased"),
    submitted: t("Submitted"),
    skipped: t("Skipped"),
    // events of a mask's making
    click: t("Click"),
    remove: t("Remove"),
    move: t("Move"),
    scribble: t("Scribble"),
    box: t("Box"),
    brush: t("Brush"),
    erase: t("Erase"),
    outline: t("Outline"),
    regions: t("Regions"),
    fill_holes: t("Fill holes"),
    remove_specks: t("Remove specks"),
    smooth: t("Smooth"),
    cut_out: t("Cut out"),
    split: t("Split"),
    merge: t("Merge"),
    paste: t("Paste"),
    undo: t("Undo"),
    redo: t("Redo"),
    // fields of filters and actions
    stage: t("Stage"),
    round: t("Round"),
    source: t("Source"),
    verdict: t("Verdict"),
    model: t("Model"),
    label: t("Label"),
    suggested: t("Suggested"),
    dataset: t("Dataset"),
    name: t("Name"),
    rounds: t("Rounds"),
    images_per_round: t("Images per round"),
    choice: t("Choice"),
    new: t("New"),
    // entries of the log
    sign_in: t("Sign in"),
    sign_in_refused: t("Sign in refused"),
    annotator_added: t("Annotator added"),
    annotator_changed: t("Annotator changed"),
    annotator_enabled: t("Annotator enabled"),
    annotator_invited: t("Annotator invited"),
    annotator_removed: t("Annotator removed"),
    assigned: t("Assigned"),
    taken_back: t("Taken back"),
    token_made: t("Token made"),
    token_revoked: t("Token revoked"),
    webhook_added: t("Webhook added"),
    webhook_paused: t("Webhook paused"),
    webhook_resumed: t("Webhook resumed"),
    webhook_removed: t("Webhook removed"),
    webhook_tested: t("Webhook tested"),
    webhook_repeated: t("Webhook repeated"),
    browse_review: t("Browse review"),
    browse_annotate: t("Browse annotate"),
    browse_reject: t("Browse reject"),
    browse_label: t("Browse label"),
    action: t("Action"),
    retry: t("Retry"),
    stop: t("Stop"),
    submit: t("Submit"),
    late: t("Late"),
    reopen: t("Reopen"),
    comment: t("Comment"),
    guidelines: t("Guidelines"),
    setting: t("Setting"),
    erased: t("Erased"),
    backup: t("Backup"),
    sweep: t("Sweep"),
  }),
);

/** Roles of people, as within a line. */
export const ROLES = { annotator: t("annotator"), reviewer: t("reviewer"), admin: t("admin") };

/** "assisted_manual" -> "Assisted manual", in the reader's language where the value is known. */
export function words(name) {
  return NAMES.get(String(name)) ?? asWords(name);
}

/** The values that have a text. */
export const known = () => [...NAMES.keys()];

/** "ground_truth" -> "Ground truth". */
export function asWords(name) {
  const text = String(name).replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** A role within a line: "reviewer". */
export function roleName(role) {
  return ROLES[role] ?? role;
}
