import { MigrationError } from '../../errors.ts';

const NEWLINE = 0x0a;

/**
 * Splits a byte stream into lines and parses each as JSON. Empty lines are skipped. Bytes are joined once a
 * line, however many chunks it came in, and the limit holds before anything is joined.
 */
export class JsonLines {
  readonly #lineBytesMax: number;
  readonly #onValue: (value: unknown) => void;
  #parts: Buffer[] = [];
  #bytes = 0;

  /** `onValue` gets each line's value, in order, during `push`. */
  constructor(lineBytesMax: number, onValue: (value: unknown) => void) {
    this.#lineBytesMax = lineBytesMax;
    this.#onValue = onValue;
  }

  /**
   * Takes the next bytes. Throws `protocol` at a line that is too long or not JSON, and what `onValue`
   * throws; after that the stream is not to be used any more.
   */
  push(chunk: Buffer): void {
    let start = 0;
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, start)) {
      this.#add(chunk.subarray(start, end));
      start = end + 1;
      this.#line();
    }
    if (start < chunk.length) this.#add(chunk.subarray(start));
  }

  #add(part: Buffer): void {
    this.#bytes += part.length;
    if (this.#bytes > this.#lineBytesMax) {
      throw new MigrationError('protocol', `a line of more than ${this.#lineBytesMax} bytes`);
    }
    this.#parts.push(part);
  }

  #line(): void {
    const [first] = this.#parts;
    const bytes =
      this.#parts.length === 1 && first !== undefined ? first : Buffer.concat(this.#parts, this.#bytes);
    this.#parts = [];
    this.#bytes = 0;
    const text = bytes.toString('utf8').trim();
    if (text === '') return;
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (error) {
      throw new MigrationError('protocol', `a line that is not JSON: ${text.slice(0, 80)}`, { cause: error });
    }
    this.#onValue(value);
  }
}
