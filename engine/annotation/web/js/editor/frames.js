// Draws at most once per frame of the screen, and remembers how long that took.

const KEPT = 1_000;

export class Frames {
  times = []; // milliseconds of drawing
  intervals = []; // milliseconds from one drawn frame to the next, where they follow each other
  #frame = 0;
  #last = 0;

  constructor(draw) {
    this.draw = draw;
  }

  request() {
    this.#frame ||= requestAnimationFrame((now) => {
      this.#frame = 0;
      const start = performance.now();
      this.draw();
      keep(this.times, performance.now() - start);
      if (now - this.#last < 250) keep(this.intervals, now - this.#last);
      this.#last = now;
    });
  }

  close() {
    cancelAnimationFrame(this.#frame);
  }
}

function keep(values, value) {
  values.push(value);
  if (values.length > KEPT) values.shift();
}
