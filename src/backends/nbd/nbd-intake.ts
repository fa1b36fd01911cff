/**
 * Bytes as they come, to a parser that reads as the protocol is written.
 *
 * A parser is a generator. It yields what it wants next, either a number of bytes (it gets them in one piece,
 * valid until it yields again) or a buffer of its own to be filled, and goes on when that has arrived. It
 * runs inside {@link Intake.push}, so what it does on a complete message happens at once and in order of
 * arrival; there is no queue and no promise between the socket and it. It checks a length before it yields
 * it: what is wanted is allocated.
 */
export type Wanted = number | Buffer;

/** A parser; see {@link Wanted}. When it returns, whatever else arrives is ignored. */
export type Parser = Generator<Wanted, void, Buffer>;

const NOTHING = Buffer.alloc(0);

/** Feeds one connection's bytes to its parser. */
export class Intake {
  readonly #parser: Parser;
  /** What is being filled: the parser's own buffer, or one of ours for a piece that came in parts. */
  #target: Buffer | undefined;
  #filled = 0;
  #wanted: Wanted = 0;
  #ended = false;
  #held = false;
  #rest: Buffer = NOTHING;

  /** Starts the parser, which runs up to its first `yield`. Throws what the parser throws. */
  constructor(parser: Parser) {
    this.#parser = parser;
    this.#take(parser.next());
  }

  /**
   * Takes the next bytes; they are not used after the call, unless the intake is held. Throws what the parser
   * throws, and then takes nothing more.
   */
  push(chunk: Buffer): void {
    if (this.#held && !this.#ended) {
      this.#rest = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
      return;
    }
    let at = 0;
    while (at < chunk.length && !this.#ended) {
      if (this.#held) {
        this.#rest = chunk.subarray(at);
        return;
      }
      at = this.#consume(chunk, at);
    }
  }

  /**
   * Where the socket may read to directly, if the parser is filling a buffer of its own and at least
   * `bytesMin` of it are missing. What is read there is announced with {@link Intake.filled}.
   */
  room(bytesMin: number): Buffer | undefined {
    if (this.#ended || typeof this.#wanted === 'number' || this.#wanted.length - this.#filled < bytesMin)
      return undefined;
    return this.#wanted.subarray(this.#filled);
  }

  /** `bytes` bytes were put into {@link Intake.room}. Throws what the parser throws. */
  filled(bytes: number): void {
    if (this.#ended) return;
    this.#filled += bytes;
    if (this.#filled === this.#size) this.#complete(this.#target ?? NOTHING);
  }

  /**
   * From now on bytes are kept, not parsed. The caller stops the socket too: what is kept has no bound of its
   * own.
   */
  hold(): void {
    this.#held = true;
  }

  /** Parses what was kept and goes on. Throws what the parser throws. */
  release(): void {
    this.#held = false;
    const rest = this.#rest;
    this.#rest = NOTHING;
    this.push(rest);
  }

  /** The parser runs no further; may be called from within it. */
  end(): void {
    this.#ended = true;
    this.#rest = NOTHING;
  }

  get #size(): number {
    return typeof this.#wanted === 'number' ? this.#wanted : this.#wanted.length;
  }

  #consume(chunk: Buffer, at: number): number {
    const size = this.#size;
    const end = at + size - this.#filled;
    if (this.#target === undefined && end <= chunk.length) {
      this.#complete(chunk.subarray(at, end));
      return end;
    }
    this.#target ??= Buffer.allocUnsafeSlow(size);
    const copied = chunk.copy(this.#target, this.#filled, at, Math.min(end, chunk.length));
    this.#filled += copied;
    if (this.#filled === size) this.#complete(this.#target);
    return at + copied;
  }

  #complete(bytes: Buffer): void {
    this.#take(this.#next(bytes));
  }

  /** Keeps what the parser wants; what is empty is there already. */
  #take(step: IteratorResult<Wanted, void>): void {
    let current = step;
    for (;;) {
      if (current.done) {
        this.end();
        return;
      }
      this.#wanted = current.value;
      this.#target = typeof current.value === 'number' ? undefined : current.value;
      this.#filled = 0;
      if (this.#size > 0 || this.#ended) return;
      current = this.#next(NOTHING);
    }
  }

  #next(bytes: Buffer): IteratorResult<Wanted, void> {
    try {
      return this.#parser.next(bytes);
    } catch (error) {
      this.end();
      throw error;
    }
  }
}
