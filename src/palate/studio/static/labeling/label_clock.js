// Time at work: seconds in which the page was seen and its reader did something in the last minute.

const IDLE_MS = 60_000;
const SIGNS = ["keydown", "pointerdown", "pointermove", "wheel", "scroll", "input", "touchmove"];

export class Clock {
  constructor(seconds, element) {
    this.seconds = seconds;
    this.element = element;
    this.lastSign = this.lastTick = performance.now();
    for (const sign of SIGNS) document.addEventListener(sign, () => (this.lastSign = performance.now()), { passive: true, capture: true });
    setInterval(() => this.tick(), 1000);
    this.show();
  }

  isActive() {
    return !document.hidden && performance.now() - this.lastSign < IDLE_MS;
  }

  tick() {
    const now = performance.now();
    if (this.isActive()) this.seconds += Math.min(now - this.lastTick, 2000) / 1000; // a sleeping computer is no work
    this.lastTick = now;
    this.show();
  }

  // to a tenth, as it is sent
  read() {
    this.tick();
    return Math.min(Math.round(this.seconds * 10) / 10, 86400);
  }

  show() {
    const whole = Math.floor(this.seconds);
    this.element.textContent = `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
  }
}
