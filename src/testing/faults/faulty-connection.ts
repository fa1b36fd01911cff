import { MigrationError } from '../../errors.ts';
import type { Chunks } from '../../interfaces/content.ts';
import type { Connection } from '../../interfaces/transport.ts';
import { chunksLength, sliceChunks } from '../../util/chunks.ts';
import { deferred } from '../../util/promises.ts';
import { flipByte } from './fault-plan.ts';
import type { ConnectionFault } from './faulty-transport.ts';

/** What becomes of some bytes: those that pass, and what happens behind them. */
interface Passage {
  readonly chunks: Chunks;
  readonly end: 'drop' | 'stall' | undefined;
}

/** A connection to which what a plan says happens. */
export class FaultyConnection implements Connection {
  readonly #inner: Connection;
  readonly #sent: Way;
  readonly #received: Way;
  /** Rejects with why nothing more comes, once the connection was closed or aborted here. */
  readonly #left = deferred<never>();
  readonly #aborted = deferred<void>();
  #closing = false;
  #stalled = false;

  constructor(inner: Connection, faults: readonly ConnectionFault[]) {
    this.#inner = inner;
    this.#sent = new Way(faults.filter(({ way }) => way === 'sent'));
    this.#received = new Way(faults.filter(({ way }) => way === 'received'));
  }

  get label(): string {
    return this.#inner.label;
  }

  async send(chunks: Chunks): Promise<void> {
    if (this.#stalled) return this.#left.promise;
    const { chunks: passing, end } = this.#sent.pass(chunks);
    const sending = this.#inner.send(passing);
    if (end === undefined) return sending;
    sending.catch(() => {});
    if (end === 'drop') throw this.#drop();
    this.#stalled = true;
    return this.#left.promise;
  }

  receive(): AsyncIterable<Uint8Array> {
    const incoming = this.#inner.receive();
    return this.#received.empty ? incoming : this.#receive(incoming);
  }

  close(): Promise<void> {
    this.#closing = true;
    this.#left.reject(lost('it was closed here'));
    // What was accepted never arrives, so there is no end to wait for but an abort.
    return this.#stalled ? this.#aborted.promise : this.#inner.close();
  }

  abort(reason?: unknown): void {
    this.#left.reject(lost('it was aborted here', reason));
    this.#inner.abort(reason);
    this.#aborted.resolve();
  }

  async *#receive(incoming: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
    for await (const chunk of incoming) {
      const { chunks, end } = this.#received.pass([chunk]);
      yield* chunks;
      if (end === 'drop') throw this.#drop();
      if (end === 'stall') await this.#left.promise.catch((error: unknown) => this.#endOf(error));
      if (end === 'stall') return;
    }
  }

  /** One that was closed here ends, one that was aborted here is lost. */
  #endOf(error: unknown): void {
    if (!this.#closing) throw error;
  }

  #drop(): MigrationError {
    const error = lost('a planned fault broke it');
    this.abort(error);
    return error;
  }
}

/** The bytes of one way, counted. */
class Way {
  readonly #faults: readonly ConnectionFault[];
  #passed = 0;

  constructor(faults: readonly ConnectionFault[]) {
    this.#faults = faults;
  }

  get empty(): boolean {
    return this.#faults.length === 0;
  }

  pass(chunks: Chunks): Passage {
    if (this.empty) return { chunks, end: undefined };
    const begin = this.#passed;
    const length = chunksLength(chunks);
    this.#passed += length;
    const here = this.#faults.filter(({ atByte }) => atByte >= begin && atByte < begin + length);
    let passing = chunks;
    for (const { do: what, atByte } of here) if (what === 'flip') passing = flipByte(passing, atByte - begin);
    const [first] = here.filter((fault) => fault.do !== 'flip').sort((a, b) => a.atByte - b.atByte);
    if (first === undefined) return { chunks: passing, end: undefined };
    const end = first.do === 'drop' ? 'drop' : 'stall';
    return { chunks: sliceChunks(passing, 0, first.atByte - begin), end };
  }
}

function lost(why: string, cause?: unknown): MigrationError {
  return new MigrationError('connection-lost', why, { cause });
}
