/** A queue whose `shift()` costs the same however long it is (an array's does not). */
export class Fifo<T> {
  #items: (T | undefined)[] = [];
  #head = 0;

  /** How many wait. */
  get length(): number {
    return this.#items.length - this.#head;
  }

  /** The one that is next, without taking it. */
  peek(): T | undefined {
    return this.#items[this.#head];
  }

  push(item: T): void {
    this.#items.push(item);
  }

  /** Takes the one that is next; undefined if there is none. */
  shift(): T | undefined {
    if (this.#head === this.#items.length) return undefined;
    const item = this.#items[this.#head];
    this.#items[this.#head] = undefined;
    this.#head += 1;
    if (this.#head === this.#items.length) {
      this.clear();
    } else if (this.#head >= 1024 && this.#head * 2 >= this.#items.length) {
      this.#items = this.#items.slice(this.#head);
      this.#head = 0;
    }
    return item;
  }

  /** Puts one in front of all others. */
  unshift(item: T): void {
    if (this.#head === 0) {
      this.#items.unshift(item);
    } else {
      this.#head -= 1;
      this.#items[this.#head] = item;
    }
  }

  clear(): void {
    this.#items = [];
    this.#head = 0;
  }
}
