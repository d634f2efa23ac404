// Drafts: on the server a second after a change, and in this browser until the server has them. Saving also renews
// the lease, so it goes on while somebody is at work, changed or not.

import { call } from "../web/palate.js";

const DELAY_MS = 1000;
const RETRY_MS = [2000, 5000, 15_000, 30_000];

export class Saver {
  // read: the form as it is now; tell(state, text): for the page; local: nothing goes to the server (an edit is sent whole)
  constructor({ task, read, tell, isActive, local }) {
    Object.assign(this, { task, read, tell, isActive, local });
    this.key = `palate-${local ? "edit" : "draft"}-${task.id}`;
    this.savedAt = task.draft_at;
    this.dirty = this.stopped = false;
    this.failures = 0;
    this.touched = Date.now();
    const beat = Math.min(60_000, (task.lease_seconds * 1000) / 3);
    setInterval(() => this.isActive() && Date.now() - this.touched >= beat && this.save(), Math.min(beat, 10_000));
    document.addEventListener("visibilitychange", () => document.hidden && this.leave());
    addEventListener("pagehide", () => this.leave());
  }

  // the newest of what the server and this browser have
  restore() {
    const server = this.local ? this.task.said : this.task.draft;
    const kept = this.kept();
    if (!kept) return server;
    const isNewer = this.local || kept.base === this.task.draft_at || kept.at > (this.task.draft_at ?? 0) * 1000;
    if (!isNewer) return server;
    this.dirty = true;
    this.later(DELAY_MS);
    return kept.draft;
  }

  changed() {
    if (this.stopped) return;
    this.dirty = true;
    this.keep();
    if (this.local) this.tell("kept", "Kept in this browser until you send it");
    else this.later(this.failures ? this.wait() : DELAY_MS);
  }

  async save(more = {}) {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.stopped || this.local || this.saving) return;
    this.saving = true;
    this.dirty = false;
    this.touched = Date.now();
    try {
      const { saved_at } = await call("PUT", `/api/tasks/${this.task.id}/draft`, this.read(), more);
      this.savedAt = saved_at;
      this.failures = 0;
      if (!this.dirty) this.forget();
      if (!this.stopped) this.tell("saved", "Saved");
    } catch (failure) {
      this.failed(failure);
    } finally {
      this.saving = false;
      if (this.dirty && this.timer === undefined) this.later(this.wait());
    }
  }

  failed(failure) {
    if (this.stopped) return;
    if (failure.status === 404 || failure.status === 409) {
      this.stop();
      this.tell("bad", `${failure.message}. Reload the page.`);
      return;
    }
    this.dirty = true;
    this.keep();
    this.failures += 1;
    this.tell("bad", `Not saved yet, but kept in this browser. ${failure.message}`);
  }

  // the page is hidden or left: this may be the last chance
  leave() {
    if (this.dirty && !this.stopped) this.save({ keepalive: true });
  }

  async flush() {
    if (this.dirty) await this.save();
  }

  stop() {
    this.stopped = true;
    clearTimeout(this.timer);
  }

  resume() {
    this.stopped = false;
    this.changed();
  }

  wait() {
    return this.failures ? RETRY_MS[Math.min(this.failures, RETRY_MS.length) - 1] : DELAY_MS;
  }

  later(milliseconds) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.save(), milliseconds);
  }

  keep() {
    try {
      localStorage.setItem(this.key, JSON.stringify({ draft: this.read(), at: Date.now(), base: this.savedAt }));
    } catch {
      // no room or not allowed: the server's copy is the only one
    }
  }

  kept() {
    try {
      return JSON.parse(localStorage.getItem(this.key));
    } catch {
      return null;
    }
  }

  forget() {
    try {
      localStorage.removeItem(this.key);
    } catch {
      // nothing was kept
    }
  }
}
