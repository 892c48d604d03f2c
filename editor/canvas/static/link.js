// The line to the server: one message at a time, edits in the order in which they were made.

export class Link {
  /** onAnswer(answer, note, message) is called for every answer, onTrouble(sentence) when the server cannot be reached. */
  constructor({ url, onAnswer, onTrouble, send = postJson }) {
    Object.assign(this, { url, onAnswer, onTrouble, send });
    this.token = null;
    this.seen = null;
    this.queue = [];
    this.isBusy = false;
    this.epoch = 0;
  }

  /** Speak for a visitor. For the same one, look anew; nothing that is on its way is lost. */
  open(token) {
    if (token !== this.token) {
      this.epoch += 1;
      this.queue = [];
    }
    this.token = token;
    this.seen = null;
    this.ask({});
  }

  /** Edits still on their way. */
  get pending() {
    return this.queue.some((entry) => entry.message.gestures) || this.isEditing === true;
  }

  /** Send {gestures, meshes, dry}; `note` comes back with the answer. A dry message or a mere question replaces a waiting one like it. */
  ask(message, note = null) {
    if (message.dry) this.queue = this.queue.filter((entry) => !entry.message.dry);
    this.queue.push({ message, note });
    this.run();
  }

  async run() {
    if (this.isBusy || this.token === null) return;
    const entry = this.queue.shift();
    if (!entry) return;
    const epoch = this.epoch;
    this.isBusy = true;
    this.isEditing = Boolean(entry.message.gestures) && !entry.message.dry;
    try {
      const message = { token: this.token, seen: this.seen, ...entry.message };
      const answer = await this.send(this.url, message);
      if (epoch === this.epoch) {
        if (answer.revision && !entry.message.dry) this.seen = answer.revision;
        this.isEditing = false;
        this.onAnswer(answer, entry.note, message);
      }
    } catch (error) {
      if (epoch === this.epoch) this.onTrouble("The server cannot be reached; check the connection, your last edit may be missing.", error);
    } finally {
      this.isBusy = false;
      this.isEditing = false;
      this.run();
    }
  }
}

export async function postJson(url, message) {
  const answer = await fetch(url, {
    method: "POST",
    credentials: "same-origin",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(message),
  });
  return answer.json();
}
