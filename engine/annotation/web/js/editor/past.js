// Undo and redo steps as JSON: kept with the copy of a draft in this browser, so that they survive a
// reload. Masks and works that steps have in common are written once.

import { workFromJson, workToJson } from "./work.js";

const MOST_CHARACTERS = 100_000; // of run lengths
const MOST_ENTRIES = 10_000; // masks named in all steps together

/** `before` and `after`: states, the nearest first. `present`: the finished works of the draft itself.
 * Steps beyond the size limit are left out. */
export function pastToJson({ before, after }, present) {
  const table = new Table(present);
  const written = (states) => {
    const steps = [];
    for (const state of states) {
      const step = table.step(state);
      if (table.isFull) break;
      steps.push(step);
    }
    return steps;
  };
  return { before: written(before), after: written(after), works: table.works, masks: table.masks };
}

/** Restores the states. `present`: the works that the draft was read into. */
export function pastFromJson(json, present, size) {
  const named = (place) => (place === null ? null : json.masks[place]);
  const works = json.works.map((work) => workFromJson(withMasks(work, named), size));
  const at = (place) => (place < present.length ? present[place] : works[place - present.length]);
  const read = ({ masks, current, rejected, labels = {} }) => ({ masks: masks.map(at), current: current === null ? null : at(current), rejected, labels });
  return { before: json.before.map(read), after: json.after.map(read) };
}

/** Ids of all works in states. */
export function idsIn(states) {
  return new Set(states.flatMap(({ masks, current }) => [...masks, current]).map((work) => work?.id).filter(Boolean));
}

class Table {
  #present;
  #works = new Map();
  #masks = new Map();
  #characters = 0;
  #entries = 0;
  works = [];

  constructor(present) {
    this.#present = new Map(present.map((work, place) => [work, place]));
  }

  get masks() {
    return [...this.#masks.keys()];
  }

  get isFull() {
    return this.#characters > MOST_CHARACTERS || this.#entries > MOST_ENTRIES;
  }

  step({ masks, current, rejected, labels }) {
    this.#entries += masks.length;
    // the draft lacks the other suggestions of a finished work: as a work in progress it is written in full
    return {
      masks: this.#entries > MOST_ENTRIES ? [] : masks.map((work) => this.#present.get(work) ?? this.#work(work)),
      current: current && this.#work(current),
      rejected,
      labels,
    };
  }

  #work(work) {
    if (!this.#works.has(work)) {
      this.#works.set(work, this.#present.size + this.works.length);
      this.works.push(withMasks(workToJson(work, false), (counts) => this.#mask(counts)));
    }
    return this.#works.get(work);
  }

  #mask(counts) {
    if (counts === null) return null;
    if (!this.#masks.has(counts)) {
      this.#characters += counts.length;
      this.#masks.set(counts, this.#masks.size);
    }
    return this.#masks.get(counts);
  }
}

/** A work's JSON with its masks replaced. */
function withMasks(json, change) {
  const next = { ...json };
  for (const name of ["base", "added", "erased"]) if (name in json) next[name] = change(json[name]);
  if (json.answer) next.answer = { ...json.answer, masks: json.answer.masks.map(change) };
  return next;
}
