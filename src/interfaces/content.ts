import type { Chunks } from '../util/chunks.ts';

export type { Chunks };

/**
 * What a range holds: its bytes, or `'zero'` when it reads as zeros from end to end. Zeros travel as a range, never as
 * bytes.
 */
export type Content = Chunks | 'zero';

/** A byte range, `offset` and `length` in bytes, both safe integers (8 PiB at most). */
export interface ByteRange {
  /** Where it begins, in bytes. */
  readonly offset: number;
  /** How long it is, in bytes. */
  readonly length: number;
}

/** The usual last argument: cancellation. An aborted call rejects and leaves nothing open. */
export interface CallOptions {
  /** Ends the call when it is aborted. Default: nothing does. */
  readonly signal?: AbortSignal | undefined;
}
